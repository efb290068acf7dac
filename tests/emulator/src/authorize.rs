//! The authorize endpoint, from the app's request to the choice of the user, and logout.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;

use crate::callback::{Callback, same_redirect, with_parameters};
use crate::directory::{Account, Audience, Registration, TenantPath};
use crate::errors::AadError;
use crate::issue::{Delegation, client_info};
use crate::ledger::Endpoint;
use crate::message::{Answer, Params, Request};
use crate::pages;
use crate::random::{self, digests::sha256};
use crate::scope::{GRAPH, Scopes};
use crate::settings::AdminApproval;
use crate::state::{Code, State};
use crate::token::{bad_scope, understands_challenges};

/// The cookie that carries a browser session in interactive mode.
const SESSION_COOKIE: &str = "ESTSAUTH";

/// An authorize request that has passed every check that needs no user.
#[derive(Debug)]
struct Checked {
    callback: Callback,
    path: TenantPath,
    scopes: Scopes,
    challenge: Option<(String, bool)>,
    code: bool,
    id_token: bool,
    cae: bool,
    prompt: Option<String>,
    login_hint: Option<String>,
    nonce: Option<String>,
    client_info: bool,
}

impl State {
    /// Answers `/{tenant}/oauth2/v2.0/authorize`.
    pub(crate) fn authorize(&mut self, request: &Request, tenant: &str) -> Answer {
        // Pages post back to the URL they came from, so the request itself is always in the query, unless an
        // app posts it.
        let steps = request.form.get("emu_step").is_some() || request.form.get("emu_user").is_some();
        let posted = request.method == Method::POST && !steps;
        let params = if posted { &request.form } else { &request.query };
        let (path, callback) = match self.callback_of(params, tenant, Endpoint::Authorize) {
            Ok(found) => found,
            Err(error) => return self.error_page(&error, request),
        };
        if let Some(answer) = self.late_failure(request, &path, &callback) {
            return answer;
        }
        match self.check_request(params, path, callback.clone()) {
            Ok(checked) => self.sign_in(request, params, &checked),
            Err(error) => self.callback_failure(request, &callback, None, &error, None),
        }
    }

    fn check_request(
        &self,
        params: &Params,
        path: TenantPath,
        callback: Callback,
    ) -> Result<Checked, AadError> {
        self.check_audience(&callback.client_id, &path)?;
        if let Some(name) = params.repeated() {
            return Err(AadError::because(
                9002313,
                format!("The parameter '{name}' is present more than once."),
            ));
        }
        let app = &self.directory.apps[&callback.client_id];
        let missing = |name: &str| {
            AadError::because(
                900144,
                format!("The request body must contain the following parameter: '{name}'."),
            )
        };
        let response_type = params.get("response_type").ok_or_else(|| missing("response_type"))?;
        let kinds: Vec<_> = response_type.split_whitespace().collect();
        let (code, id_token) = (kinds.contains(&"code"), kinds.contains(&"id_token"));
        if kinds.iter().any(|kind| !matches!(*kind, "code" | "id_token")) || kinds.is_empty() {
            return Err(AadError::because(
                70005,
                format!("The response type '{response_type}' is not supported."),
            ));
        }
        if id_token && !app.app.id_token_from_authorize {
            return Err(AadError::because(
                700054,
                "The response_type 'id_token' is not enabled for the application.",
            ));
        }
        match params.get("response_mode") {
            None | Some("query" | "fragment" | "form_post") => {}
            Some(other) => {
                return Err(AadError::because(
                    70007,
                    format!("'{other}' is not a supported value of 'response_mode'."),
                ));
            }
        }
        if id_token && params.get("response_mode") == Some("query") {
            return Err(AadError::because(
                70007,
                "'query' is not a supported value of 'response_mode' when requesting a token.",
            ));
        }
        let nonce = params.get("nonce").map(str::to_owned);
        if id_token && nonce.is_none() {
            return Err(missing("nonce"));
        }
        let text = params.get("scope").ok_or_else(|| missing("scope"))?;
        let scopes = Scopes::parse(text).map_err(|bad| bad_scope(&bad))?;
        if scopes.mixes_default() {
            return Err(AadError::because(
                70011,
                "The provided value for the input parameter 'scope' is not valid. .default scope can't be \
                 combined with resource-specific scopes.",
            ));
        }
        let prompt = params.get("prompt").map(str::to_owned);
        if let Some(other) = prompt.as_deref()
            && !matches!(other, "login" | "none" | "consent" | "select_account")
        {
            return Err(AadError::because(90023, format!("Unsupported 'prompt' value '{other}'.")));
        }
        Ok(Checked {
            path,
            challenge: challenge(params)?,
            code,
            id_token,
            cae: understands_challenges(params.get("claims"))?,
            prompt,
            login_hint: params.get("login_hint").map(str::to_owned),
            nonce,
            client_info: params.get("client_info") == Some("1"),
            scopes,
            callback,
        })
    }

    fn sign_in(&mut self, request: &Request, params: &Params, checked: &Checked) -> Answer {
        let step = request.form.get("emu_step");
        let callback = &checked.callback;
        if step == Some("cancel") {
            let error = AadError::because(65004, "User declined to consent to access the app.")
                .with_error("access_denied");
            return self.callback_failure(request, callback, None, &error, Some("cancel"));
        }
        let silent = checked.prompt.as_deref() == Some("none");
        let account = if self.settings.automatic {
            self.automatic_user(checked.login_hint.as_deref(), &checked.path)
                .filter(|_| !silent || self.settings.signed_in)
                .cloned()
        } else {
            self.chosen_user(request, checked)
        };
        let Some(account) = account else {
            if silent || self.settings.automatic {
                return self.callback_failure(request, callback, None, &AadError::new(50058), None);
            }
            return self.account_page(request, params, checked);
        };
        let mut answer = self.admit(request, params, checked, &account, step);
        answer.notes.user = Some(account.user.upn.clone());
        if !self.settings.automatic && request.form.get("emu_user").is_some() {
            let session = random::text::<24>();
            self.sessions.insert(session.clone(), account.user.upn);
            answer = answer
                .header("set-cookie", format!("{SESSION_COOKIE}={session}; path=/; HttpOnly; SameSite=Lax"));
        }
        answer
    }

    /// Returns the account that the browser chose, now or earlier.
    fn chosen_user(&self, request: &Request, checked: &Checked) -> Option<Account> {
        if let Some(upn) = request.form.get("emu_user") {
            return self.directory.account(upn).cloned();
        }
        if matches!(checked.prompt.as_deref(), Some("login" | "select_account")) {
            return None;
        }
        let upn = self.sessions.get(request.cookie(SESSION_COOKIE)?)?;
        let hinted_other = checked.login_hint.as_ref().is_some_and(|hint| !hint.eq_ignore_ascii_case(upn));
        self.directory.account(upn).filter(|_| !hinted_other).cloned()
    }

    fn account_page(&self, request: &Request, params: &Params, checked: &Checked) -> Answer {
        let fits = |account: &&Account| match &checked.login_hint {
            Some(hint) if self.directory.account(hint).is_some() => {
                account.user.upn.eq_ignore_ascii_case(hint)
            }
            _ => true,
        };
        let users: Vec<_> =
            self.directory.accounts().iter().filter(fits).map(|account| account.user.upn.clone()).collect();
        Answer::html(200, pages::choose_account(&back_to(request, params), &users))
    }

    /// Admits a known user, or returns the error.
    fn admit(
        &mut self,
        request: &Request,
        params: &Params,
        checked: &Checked,
        account: &Account,
        step: Option<&str>,
    ) -> Answer {
        let callback = &checked.callback;
        let refuse = |state: &mut Self, error: AadError| {
            state.callback_failure(request, callback, Some(&account.user.upn), &error, None)
        };
        if let Some(block) = account.block {
            let error = AadError::new(block.code).for_redirect();
            return if error.stays_on_page() {
                self.error_page(&error, request)
            } else {
                refuse(self, error)
            };
        }
        let app = self.directory.apps[&callback.client_id].clone();
        if let Err(error) = fitting_account(&app, &checked.path, account) {
            return refuse(self, error);
        }
        let wanted = app.app.expand_default(&checked.scopes);
        let missing = self.directory.unconsented(&callback.client_id, account, &wanted);
        let silent = checked.prompt.as_deref() == Some("none");
        if silent && !missing.is_empty() {
            return refuse(self, AadError::new(65001).with_error("consent_required"));
        }
        if !missing.is_empty() && !self.directory.may_consent(account, self.settings.consent_policy, &missing)
        {
            return self.need_admin(request, callback, account, &missing);
        }
        let ask =
            (!missing.is_empty() || checked.prompt.as_deref() == Some("consent")) && !self.settings.automatic;
        match step {
            Some("decline") => return refuse(self, AadError::new(65004)),
            Some("accept") => {}
            _ if ask => {
                let action = back_to(request, params);
                let page =
                    pages::consent(&action, &account.user.upn, &callback.client_id, &wanted.full(), false);
                return Answer::html(200, page);
            }
            _ => {}
        }
        // Seen after the user has signed in and consented.
        if checked.code && checked.challenge.is_none() && is_spa(&app, &callback.redirect_uri) {
            return refuse(self, AadError::new(9002325));
        }
        if let Some(account) = self.directory.account_mut(&account.user.upn) {
            account.consents.entry(callback.client_id.clone()).or_default().add(&wanted);
        }
        self.finish(request, checked, account, &wanted)
    }

    fn need_admin(
        &mut self,
        request: &Request,
        callback: &Callback,
        account: &Account,
        missing: &Scopes,
    ) -> Answer {
        let error = AadError::because(
            90094,
            format!(
                "Admin consent is required for the permissions requested by this application '{}'.",
                callback.client_id
            ),
        );
        match self.settings.admin_approval {
            AdminApproval::Redirect => {
                self.callback_failure(request, callback, Some(&account.user.upn), &error, None)
            }
            AdminApproval::Page => {
                let description = error.description(&request.ids, self.clock.now());
                Answer::html(200, pages::admin_approval(&callback.client_id, &missing.full(), &description))
                    .failed(&error)
            }
        }
    }

    fn finish(&mut self, request: &Request, checked: &Checked, account: &Account, wanted: &Scopes) -> Answer {
        let callback = &checked.callback;
        let mut parameters = Vec::new();
        let mut put = |name: &str, value: String| parameters.push((name.to_owned(), value));
        let now = self.clock.now();
        if checked.code {
            let text = if account.is_personal() {
                format!("M.C540_BAY.2.U.{}", random::guid())
            } else {
                format!("1.A{}", random::text::<400>())
            };
            let code = Code {
                client_id: callback.client_id.clone(),
                upn: account.user.upn.clone(),
                redirect_uri: callback.redirect_uri.clone(),
                path: checked.path.clone(),
                challenge: checked.challenge.clone(),
                scopes: wanted.clone(),
                nonce: checked.nonce.clone(),
                cae: checked.cae,
                spa: is_spa(&self.directory.apps[&callback.client_id], &callback.redirect_uri),
                issued_at: now,
                used: false,
            };
            self.codes.insert(text.clone(), code);
            put("code", text);
        }
        if checked.client_info {
            put("client_info", client_info(&account.user));
        }
        if checked.id_token {
            let due = Delegation {
                client_id: callback.client_id.clone(),
                user: account.user.clone(),
                family: self.next_serial(),
                generation: 0,
                resource: GRAPH.to_owned(),
                asked: wanted.clone(),
                granted: wanted.clone(),
                refresh_scopes: None,
                nonce: checked.nonce.clone(),
                cae: checked.cae,
                client_info: false,
            };
            let id_token = self.id_token(&due, &[], now);
            put("id_token", id_token);
        }
        if let Some(state) = &callback.state {
            put("state", state.clone());
        }
        put("session_state", random::guid());
        let mut answer = self.call_back(request, callback, Some(&account.user.upn), parameters);
        answer.notes.scopes_granted = wanted.full();
        answer
    }

    /// Returns the user of an authorize request: the one chosen on a page, the hinted one, or the automatic
    /// one.
    pub(crate) fn authorize_user(&self, request: &Request, path: &TenantPath) -> Option<String> {
        let named =
            request.form.get("emu_user").or_else(|| request.query.get("login_hint")).map(str::to_owned);
        let automatic = || self.automatic_user(None, path).map(|account| account.user.upn.clone());
        named.or_else(|| self.settings.automatic.then(automatic).flatten())
    }
}

/// Returns true for a redirect URI of the platform *Single-page application*.
fn is_spa(app: &Registration, redirect_uri: &str) -> bool {
    app.app.spa_redirect_uris.iter().any(|known| same_redirect(known, redirect_uri))
}

/// Checks whether this kind of account may use this app at this path.
fn fitting_account(app: &Registration, path: &TenantPath, account: &Account) -> Result<(), AadError> {
    let user = &account.user;
    let audience_fits = match &app.app.audience {
        Audience::WorkAndPersonal => true,
        Audience::Work => !account.is_personal(),
        Audience::Personal => account.is_personal(),
        Audience::SingleTenant(home) => home.eq_ignore_ascii_case(&user.tenant),
    };
    if audience_fits && path.admits(&user.tenant) {
        return Ok(());
    }
    Err(AadError::because(
        50020,
        format!(
            "User account '{}' from identity provider does not exist in tenant '{}' and cannot access the \
             application '{}' in that tenant.",
            user.upn,
            path.canonical(),
            app.app.client_id
        ),
    ))
}

/// Reads the PKCE parameters. Without a method the challenge is plain.
fn challenge(params: &Params) -> Result<Option<(String, bool)>, AadError> {
    let Some(challenge) = params.get("code_challenge") else { return Ok(None) };
    let hashed = match params.get("code_challenge_method") {
        None | Some("plain") => false,
        Some("S256") => true,
        Some(_) => {
            return Err(AadError::because(501491, "Invalid method of Code_Challenge_method parameter."));
        }
    };
    let digest_like =
        !hashed || URL_SAFE_NO_PAD.decode(challenge).is_ok_and(|raw| raw.len() == sha256(b"").len());
    if !(43..=128).contains(&challenge.len()) || !digest_like {
        return Err(AadError::because(50147, "Invalid size of Code_Challenge parameter."));
    }
    Ok(Some((challenge.to_owned(), hashed)))
}

/// Returns the URL that a page posts its choice to: the authorize request itself.
fn back_to(request: &Request, params: &Params) -> String {
    if request.raw_query.is_empty() {
        let encoded = form_urlencoded::Serializer::new(String::new()).extend_pairs(params.pairs()).finish();
        format!("{}?{encoded}", request.path)
    } else {
        format!("{}?{}", request.path, request.raw_query)
    }
}

impl State {
    /// Answers `/{tenant}/oauth2/v2.0/logout`: it ends the browser session, never a grant.
    pub(crate) fn logout(&mut self, request: &Request) -> Answer {
        let params = if request.method == Method::POST { &request.form } else { &request.query };
        let known = |uri: &str| {
            self.directory
                .apps
                .values()
                .any(|app| app.app.redirect_uris.iter().any(|known| same_redirect(known, uri)))
        };
        let answer = match params.get("post_logout_redirect_uri").filter(|uri| known(uri)) {
            Some(uri) => {
                let state: Vec<_> = params
                    .get("state")
                    .map(|state| ("state".to_owned(), state.to_owned()))
                    .into_iter()
                    .collect();
                Answer::redirect(if state.is_empty() {
                    uri.to_owned()
                } else {
                    with_parameters(uri, '?', &state)
                })
            }
            None => Answer::html(200, pages::signed_out()),
        };
        answer.header("set-cookie", format!("{SESSION_COOKIE}=; path=/; Max-Age=0"))
    }
}
