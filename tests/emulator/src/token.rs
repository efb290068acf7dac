//! The token endpoint.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use serde_json::{Map, Value};

use crate::directory::{Account, Audience, PERSONAL_TENANT, TenantPath};
use crate::errors::AadError;
use crate::faults::{Fault, merge};
use crate::issue::Delegation;
use crate::ledger::Notes;
use crate::message::{Answer, Request};
use crate::random::digests::sha256;
use crate::scope::{GRAPH, Scopes};
use crate::settings::Mode;
use crate::state::State;

/// Life of an authorization code.
const CODE_LIFE: Duration = Duration::from_secs(10 * 60);

/// A refresh token dies when it lies unused for so long.
const REFRESH_IDLE_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

/// Claims that the user must satisfy when a second factor is required.
const MFA_CLAIMS: &str =
    r#"{"access_token":{"capolids":{"essential":true,"values":["5a4a3c2b-0d6e-4f1a-9b8c-7d6e5f4a3b2c"]}}}"#;

impl State {
    /// Answers a request to the token endpoint.
    pub(crate) fn token(&mut self, request: &Request, tenant: &str, faults: &[Fault]) -> Answer {
        let mut notes = Notes::default();
        let outcome = self.token_outcome(request, tenant, faults, &mut notes);
        let mut answer = match outcome {
            Ok(mut body) => {
                for fault in faults {
                    if let Fault::TokenResponsePatch(patch) = fault {
                        merge(&mut body, patch);
                    }
                }
                Answer::json(200, Value::Object(body))
            }
            Err(error) => {
                let answer = Answer::failure(&error, &request.ids, self.clock.now(), &self.base);
                notes.aadsts = Some(error.code);
                notes.error = Some(error.error);
                answer
            }
        };
        answer.notes = notes;
        answer
    }

    /// Returns the user of a token request, as far as its code or refresh token tells.
    pub(crate) fn token_user(&self, request: &Request) -> Option<String> {
        let code =
            request.form.get("code").and_then(|text| self.codes.get(text)).map(|code| code.upn.clone());
        code.or_else(|| {
            let text = request.form.get("refresh_token")?;
            self.refresh_tokens.get(text).map(|token| token.upn.clone())
        })
    }

    fn token_outcome(
        &mut self,
        request: &Request,
        tenant: &str,
        faults: &[Fault],
        notes: &mut Notes,
    ) -> Result<Map<String, Value>, AadError> {
        if request.method != Method::POST {
            let message =
                format!("The endpoint only accepts POST requests. Received a {} request.", request.method);
            return Err(AadError::because(900561, message));
        }
        if !request.is_form() {
            return Err(missing("grant_type"));
        }
        if let Some(name) = request.form.repeated() {
            return Err(AadError::because(
                9002313,
                format!("The parameter '{name}' is present more than once."),
            ));
        }
        let path = self.known_tenant(tenant)?;
        let grant_type = request.form.get("grant_type").ok_or_else(|| missing("grant_type"))?;
        if !matches!(grant_type, "authorization_code" | "refresh_token" | "client_credentials") {
            return Err(AadError::because(
                70003,
                format!("The app requested an unsupported grant type '{grant_type}'."),
            ));
        }
        let client_id = self.authenticate(request, &path, notes)?;
        self.check_audience(&client_id, &path)?;
        match grant_type {
            "authorization_code" => self.redeem(request, client_id, &path, faults, notes),
            "refresh_token" => self.refresh(request, client_id, &path, faults, notes),
            _ => self.app_only(request, &client_id, &path, notes),
        }
    }

    fn redeem(
        &mut self,
        request: &Request,
        client_id: String,
        path: &TenantPath,
        faults: &[Fault],
        notes: &mut Notes,
    ) -> Result<Map<String, Value>, AadError> {
        let text = request.form.get("code").ok_or_else(|| missing("code"))?;
        let redirect_uri = request.form.get("redirect_uri").ok_or_else(|| missing("redirect_uri"))?;
        let cae = understands_challenges(request.form.get("claims"))?;
        let code = self.codes.get(text).cloned().ok_or_else(|| {
            AadError {
                suberror: None,
                ..AadError::because(9002313, "Invalid request. Request is malformed or invalid.")
            }
            .with_error("invalid_grant")
        })?;
        notes.user = Some(code.upn.clone());
        if code.client_id != client_id {
            return Err(AadError::because(
                70000,
                "The provided value for the 'code' parameter is not valid: the code was issued to another \
                 application.",
            ));
        }
        if code.path != *path {
            return Err(AadError::new(700005));
        }
        if code.used {
            return Err(AadError::new(54005));
        }
        if code.issued_at.plus(CODE_LIFE) <= self.clock.now() {
            return Err(AadError::because(
                70008,
                "The provided authorization code or refresh token has expired due to inactivity. Send a new \
                 interactive authorization request for this user and resource.",
            ));
        }
        if code.spa && request.header("origin").is_none() {
            return Err(AadError::new(9002327));
        }
        if code.redirect_uri != redirect_uri {
            return Err(AadError::because(
                500112,
                format!(
                    "The reply address '{redirect_uri}' does not match the reply address '{}' provided when \
                     requesting Authorization code.",
                    code.redirect_uri
                ),
            ));
        }
        check_verifier(code.challenge.as_ref(), request.form.get("code_verifier"))?;
        let account = self.usable_account(&code.upn)?;
        let (asked, resource) = asked_for(request.form.get("scope"), &code.scopes)?;
        let granted = self.granted_or_refused(&client_id, &account, &asked, &resource)?;

        if let Some(code) = self.codes.get_mut(text) {
            code.used = true;
        }
        let offline = code.scopes.identity("offline_access") || asked.identity("offline_access");
        let family = self.next_serial();
        notes.family = Some(family);
        let mut asked_identity = asked;
        // `openid` of the sign-in counts even if the redemption names only the resource's scopes.
        asked_identity.add(&code.scopes.iter().filter(|scope| scope.is_identity()).cloned().collect());
        let due = Delegation {
            client_id,
            user: account.user.clone(),
            family,
            generation: 0,
            resource,
            asked: asked_identity,
            granted,
            refresh_scopes: offline.then(|| code.scopes.clone()),
            nonce: code.nonce.clone(),
            cae: cae || code.cae,
            client_info: request.form.get("client_info") == Some("1"),
        };
        Ok(self.issue(&due, faults, notes))
    }

    fn refresh(
        &mut self,
        request: &Request,
        client_id: String,
        path: &TenantPath,
        faults: &[Fault],
        notes: &mut Notes,
    ) -> Result<Map<String, Value>, AadError> {
        let text = request.form.get("refresh_token").ok_or_else(|| missing("refresh_token"))?;
        let cae = understands_challenges(request.form.get("claims"))?;
        let token = self
            .refresh_tokens
            .get(text)
            .cloned()
            .ok_or_else(|| AadError::new(9002313).with_error("invalid_grant"))?;
        notes.user = Some(token.upn.clone());
        notes.refresh_presented = Some(token.serial);
        if token.client_id != client_id {
            return Err(AadError::because(
                70000,
                "The provided value for the 'refresh_token' parameter is not valid: it was issued to \
                 another application.",
            ));
        }
        let account = self.usable_account(&token.upn)?;
        if !path.admits(&account.user.tenant) {
            return Err(AadError::new(50020).with_error("invalid_grant"));
        }
        if self.dead_families.contains(&token.family) {
            return Err(dead(&account, 50173));
        }
        if token.used && self.settings.mode == Mode::Strict {
            self.dead_families.insert(token.family);
            return Err(dead(&account, 50173));
        }
        if let Some((last, code)) = account.dead_tokens
            && token.serial <= last
        {
            return Err(dead(&account, code));
        }
        if token.issued_at.plus(REFRESH_IDLE_LIFE) <= self.clock.now() {
            return Err(dead(&account, 700082));
        }
        let (asked, resource) = asked_for(request.form.get("scope"), &token.scopes)?;
        let granted = self.granted_or_refused(&client_id, &account, &asked, &resource)?;

        if let Some(token) = self.refresh_tokens.get_mut(text) {
            token.used = true;
        }
        let due = Delegation {
            client_id,
            user: account.user.clone(),
            family: token.family,
            generation: token.generation + 1,
            resource,
            asked,
            granted,
            refresh_scopes: Some(token.scopes.clone()),
            nonce: None,
            cae,
            client_info: request.form.get("client_info") == Some("1"),
        };
        Ok(self.issue(&due, faults, notes))
    }

    fn app_only(
        &mut self,
        request: &Request,
        client_id: &str,
        path: &TenantPath,
        notes: &mut Notes,
    ) -> Result<Map<String, Value>, AadError> {
        if self.directory.apps.get(client_id).is_some_and(|app| app.app.public) {
            return Err(AadError::new(7000218));
        }
        let TenantPath::Tenant(tenant) = path else {
            return Err(AadError::new(50059));
        };
        let is_there = self.directory.tenant_mut(tenant).consents.contains_key(client_id);
        if self.settings.app_only_needs_consent && !is_there {
            let message = format!(
                "The client application {client_id} is missing service principal in the tenant {tenant}."
            );
            return Err(AadError::because(7000229, message).with_error("unauthorized_client"));
        }
        let text = request.form.get("scope").ok_or_else(|| missing("scope"))?;
        let scopes = Scopes::parse(text).map_err(|bad| bad_scope(&bad))?;
        let mut named = scopes.iter();
        match (named.next(), named.next()) {
            (Some(scope), None) if scope.is_default() => {
                let resource = scope.resource.clone();
                Ok(self.issue_app_only(client_id, tenant, &resource, notes))
            }
            (Some(_), Some(_)) if scopes.resources().len() > 1 => Err(AadError::new(28000)),
            _ => Err(AadError::because(
                1002012,
                format!(
                    "The provided value for scope {text} is not valid. Client credential flows must have a \
                     scope value with /.default suffixed to the resource identifier (application ID URI)."
                ),
            )),
        }
    }

    /// Parses the tenant segment of a path.
    pub(crate) fn known_tenant(&self, segment: &str) -> Result<TenantPath, AadError> {
        self.directory.tenant_path(segment).map_err(|code| match code {
            90002 => AadError::because(
                90002,
                format!(
                    "Tenant '{segment}' not found. Check to make sure you have the correct tenant ID \
                    and are signing into the correct cloud."
                ),
            ),
            other => AadError::because(
                other,
                format!(
                    "Specified tenant identifier '{segment}' is neither a valid DNS name, nor a valid \
                    external domain."
                ),
            ),
        })
    }

    /// Checks whether the app may be used at this tenant path at all.
    pub(crate) fn check_audience(&self, client_id: &str, path: &TenantPath) -> Result<(), AadError> {
        let Some(app) = self.directory.apps.get(client_id) else { return Err(AadError::new(700016)) };
        match (&app.app.audience, path) {
            (Audience::Work | Audience::SingleTenant(_), TenantPath::Consumers) => {
                Err(AadError::new(9002332))
            }
            (Audience::Personal, TenantPath::Organizations | TenantPath::Tenant(_)) => {
                Err(AadError::new(9002331))
            }
            (Audience::SingleTenant(_), TenantPath::Common | TenantPath::Organizations) => {
                Err(AadError::because(
                    50194,
                    format!(
                        "Application '{client_id}' is not configured as a multi-tenant application. Usage \
                         of the /common endpoint is not supported for such apps created after '10/15/2018'. \
                         Use a tenant-specific endpoint or configure the application to be multi-tenant."
                    ),
                ))
            }
            (Audience::SingleTenant(home), TenantPath::Tenant(id)) if !home.eq_ignore_ascii_case(id) => {
                Err(AadError::new(700016))
            }
            _ => Ok(()),
        }
    }

    /// Returns the account, unless it is blocked.
    fn usable_account(&self, upn: &str) -> Result<Account, AadError> {
        let account = self.directory.account(upn).cloned().ok_or_else(|| AadError::new(50034))?;
        match account.block {
            Some(block) => Err(AadError::new(block.code)),
            None => Ok(account),
        }
    }

    fn granted_or_refused(
        &self,
        client_id: &str,
        account: &Account,
        asked: &Scopes,
        resource: &str,
    ) -> Result<Scopes, AadError> {
        let granted = self.directory.granted(client_id, account);
        let nothing_granted =
            granted.of_resource(resource).is_empty() && asked.resources().iter().any(|one| one == resource);
        if !nothing_granted && self.directory.unconsented(client_id, account, asked).is_empty() {
            return Ok(granted);
        }
        Err(if account.is_personal() {
            AadError::because(
                70000,
                "The user could not be authenticated or the grant is expired: one or more scopes requested \
                 are unauthorized or expired. The user must first sign in and if needed grant the client \
                 application access to the requested scope.",
            )
        } else {
            AadError::because(
                65001,
                format!(
                    "The user or administrator has not consented to use the application with ID \
                     '{client_id}'. Send an interactive authorization request for this user and resource."
                ),
            )
        })
    }
}

/// Returns the error for a dead refresh token: personal accounts have only one number.
fn dead(account: &Account, code: u32) -> AadError {
    match code {
        50173 | 700082 if account.user.tenant == PERSONAL_TENANT => AadError::new(70000),
        50076 => AadError::new(code).with_claims(MFA_CLAIMS),
        _ => AadError::new(code),
    }
}

/// Returns the requested scopes and their one resource, given the scopes of the sign-in.
fn asked_for(scope: Option<&str>, original: &Scopes) -> Result<(Scopes, String), AadError> {
    let asked = match scope {
        Some(text) => Scopes::parse(text).map_err(|bad| bad_scope(&bad))?,
        None => original.clone(),
    };
    if asked.mixes_default() {
        return Err(AadError::because(
            70011,
            "The provided value for the input parameter 'scope' is not valid. .default scope can't be \
             combined with resource-specific scopes.",
        ));
    }
    match asked.resources().as_slice() {
        // Identity scopes alone: the access token is Graph's, for the user's profile.
        [] => Ok((asked, GRAPH.to_owned())),
        [one] => Ok((asked.clone(), one.clone())),
        several => Err(AadError::because(
            28000,
            format!(
                "Provided value for the input parameter scope is not valid because it contains more than \
                 one resource. Scope {} is not valid.",
                several.join(" ")
            ),
        )),
    }
}

/// Whether a `claims` parameter declares the capability `cp1`.
pub(crate) fn understands_challenges(claims: Option<&str>) -> Result<bool, AadError> {
    let Some(text) = claims else { return Ok(false) };
    let malformed = || AadError::because(9002313, "The 'claims' parameter is not valid JSON.");
    let claims: Value = serde_json::from_str(text).map_err(|_| malformed())?;
    if !claims.is_object() {
        return Err(malformed());
    }
    let values = claims["access_token"]["xms_cc"]["values"].as_array().cloned().unwrap_or_default();
    Ok(values.iter().any(|value| value.as_str().is_some_and(|value| value.eq_ignore_ascii_case("cp1"))))
}

fn check_verifier(challenge: Option<&(String, bool)>, verifier: Option<&str>) -> Result<(), AadError> {
    match (challenge, verifier) {
        (None, None) => Ok(()),
        // An unannounced verifier is the sign of a PKCE downgrade.
        (None, Some(_)) => Err(AadError::new(50148)),
        (Some(_), None) => Err(AadError::new(501481)),
        (Some((challenge, hashed)), Some(verifier)) => {
            let made = if *hashed {
                URL_SAFE_NO_PAD.encode(sha256(verifier.as_bytes()))
            } else {
                verifier.to_owned()
            };
            if made == *challenge { Ok(()) } else { Err(AadError::new(501481)) }
        }
    }
}

fn missing(name: &str) -> AadError {
    AadError::because(900144, format!("The request body must contain the following parameter: '{name}'."))
}

pub(crate) fn bad_scope(bad: &str) -> AadError {
    AadError::because(
        70011,
        format!(
            "The provided value for the input parameter 'scope' is not valid. The scope '{bad}' does not \
             exist."
        ),
    )
}
