//! The URLs to which a browser is sent. Pure.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use form_urlencoded::Serializer;

use super::config::ResponseMode;
use super::failure::ours;
use super::registration::Registration;
use crate::authority::clouds::{Provider, TenantPath, is_tenant_name};
use crate::authority::discovery::Metadata;
use crate::authority::{AdminConsentRequest, AuthorizeRequest, AuthorizeUrl};
use crate::domain::scope::ScopeNaming;
use crate::domain::verdict::{AuthorityFailure, Disposition};

/// An authorize request that can be sent.
pub(super) struct Authorize<'a> {
    request: &'a AuthorizeRequest,
    claims: Option<String>,
}

impl<'a> Authorize<'a> {
    /// What is being made, for failures.
    pub(super) const DOING: &'static str = "making an authorize URL";

    /// Checks the request.
    pub(super) fn new(app: &Registration, request: &'a AuthorizeRequest) -> Result<Self, AuthorityFailure> {
        let doing = Self::DOING;
        let claims = app.claims(doing, request.claims.as_deref(), app.is_cae(true))?;
        if let Some(prompt) = &request.prompt
            && !prompt.split(' ').all(|word| ["login", "none", "consent", "select_account"].contains(&word))
        {
            let cause = "prompt is not of the words login, none, consent and select_account".to_owned();
            return Err(ours(doing, Disposition::CallerFault, cause));
        }
        Ok(Authorize { request, claims })
    }

    /// Returns its URL at the authority that the discovery document describes.
    pub(super) fn url(self, app: &Registration, metadata: &Metadata) -> AuthorizeUrl {
        self.url_answered(app.config.response_mode, app, metadata)
    }

    /// The same, for an answer that comes in this way.
    pub(super) fn url_answered(
        self,
        mode: ResponseMode,
        app: &Registration,
        metadata: &Metadata,
    ) -> AuthorizeUrl {
        let Authorize { request, claims } = self;
        let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, request.verifier.expose().as_bytes()));
        let mut query = Serializer::new(String::new());
        query
            .append_pair("client_id", &app.config.client_id)
            .append_pair("response_type", "code")
            .append_pair("redirect_uri", &request.redirect_uri)
            .append_pair("scope", &app.with_sign_in(&request.scopes).wire())
            .append_pair("state", &request.state)
            .append_pair("nonce", &request.nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        match mode {
            ResponseMode::FormPost => query.append_pair("response_mode", "form_post"),
            // Sent to Entra, whose default depends on other parameters; every other provider's default is the
            // query.
            ResponseMode::Query if app.provider() == Provider::Entra => {
                query.append_pair("response_mode", "query")
            }
            ResponseMode::Query => &mut query,
        };
        if let Some(prompt) = &request.prompt {
            query.append_pair("prompt", prompt);
        }
        // Entra refuses a hint together with an account selection.
        let choosing =
            request.prompt.as_deref() == Some("select_account") && app.provider() == Provider::Entra;
        if let Some(hint) = request.login_hint.as_deref().filter(|_| !choosing) {
            query.append_pair("login_hint", hint);
        }
        if let Some(hint) = request.domain_hint.as_deref().filter(|_| app.provider() == Provider::Entra) {
            query.append_pair("domain_hint", hint);
        }
        if let Some(claims) = claims {
            query.append_pair("claims", &claims);
        }
        AuthorizeUrl {
            url: metadata.authorization_endpoint.with_query(&query.finish()),
            issuer: metadata.issuer.clone(),
            iss_required: metadata.iss_in_response,
        }
    }
}

/// Returns the URL at which an administrator approves the app; `None` if the authority has no such page.
pub(super) fn admin_consent_url(
    app: &Registration,
    request: &AdminConsentRequest,
) -> Result<Option<String>, AuthorityFailure> {
    let doing = "making an admin consent URL";
    let ScopeNaming::Entra { graph } = &app.naming else { return Ok(None) };
    // The app's own tenant if the authority names one; the page does not accept `common`.
    let own = app.expected.tenant.as_ref().filter(|tenant| tenant.is_one_tenant()).map(TenantPath::as_str);
    let tenant = request.tenant.as_deref().or(own).unwrap_or("organizations");
    if !is_tenant_name(tenant) {
        let cause = "the tenant is neither an id nor a domain".to_owned();
        return Err(ours(doing, Disposition::CallerFault, cause));
    }
    // In full, since this page does not complete a bare name; the sign-in's own scopes have no longer
    // form.
    let full = |wire: &str| if wire.contains("://") { wire.to_owned() } else { format!("{graph}/{wire}") };
    let scopes: Vec<String> = request
        .scopes
        .iter()
        .map(|scope| if scope.is_openid() { scope.wire().to_owned() } else { full(scope.wire()) })
        .collect();
    let query = Serializer::new(String::new())
        .append_pair("client_id", &app.config.client_id)
        .append_pair("scope", &scopes.join(" "))
        .append_pair("redirect_uri", &request.redirect_uri)
        .append_pair("state", &request.state)
        .finish();
    let origin = app.expected.authority.origin();
    Ok(Some(format!("{origin}/{tenant}/v2.0/adminconsent?{query}")))
}
