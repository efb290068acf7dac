//! Whole exchanges with a scripted authority: what is sent, what is believed, and what each failure becomes.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::testing::{
    CLIENT_ID, CountingRandom, Ledger, ManualClock, NOW, RSA, Reply, Seen, Server, TENANT_A, TENANT_B, USER,
    b64, jwt, rsa_jwk,
};
use super::*;
use crate::domain::account::Account;
use crate::domain::secret::ClientSecret;
use crate::domain::tenants::{Listed, Tenants};
use crate::domain::time::Clock as _;
use crate::domain::verdict::{BlockReason, Disposition, GrantFate, ReauthReason};
use crate::secret_file::SecretReader;

mod answers;
mod assertions;
mod configuration;
mod credentials;
mod documents;
mod failures;
mod hostile_documents;
mod identity;
mod odd_answers;
mod other_hosts;
mod proof;
mod secret_method;
mod urls;

const NONCE: &str = "the-nonce";
const LATER: Disposition = Disposition::RetryAfter(None);

/// Made for each request, from the server's origin.
type Document = Box<dyn Fn(&str) -> Reply + Send>;

/// Made for each request, from the server's origin and the request.
type Token = Box<dyn Fn(&str, &Seen) -> Reply + Send>;

/// The scripted authority's answers; each test changes what it needs.
struct Script {
    document: Document,
    keys: Document,
    token: Token,
}

/// Requests a token of the app itself for the Graph.
async fn app_token(
    authority: &OpenIdAuthority,
    tenant: Option<&str>,
) -> Result<TokenAnswer, AuthorityFailure> {
    let graph = AppResource::parse(authority.scope_naming(), "https://graph.microsoft.com");
    authority.app_token(AppTokenRequest { tenant, resource: graph.as_ref() }).await
}

struct World {
    server: Server,
    script: Arc<Mutex<Script>>,
    clock: Arc<ManualClock>,
    ledger: Arc<Ledger>,
    config: AuthorityConfig,
    parts: AuthorityParts,
    authority: OpenIdAuthority,
    /// The issuer stored with a redemption's state.
    issuer: String,
}

fn entra_document(origin: &str) -> Value {
    json!({
        "issuer": format!("{origin}/{{tenantid}}/v2.0"),
        "authorization_endpoint": format!("{origin}/common/oauth2/v2.0/authorize"),
        "token_endpoint": format!("{origin}/common/oauth2/v2.0/token"),
        "jwks_uri": format!("{origin}/common/discovery/v2.0/keys"),
        "token_endpoint_auth_methods_supported":
            ["client_secret_post", "private_key_jwt", "client_secret_basic"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "tenant_region_scope": null,
        "cloud_instance_name": "microsoftonline.com",
        "msgraph_host": "graph.microsoft.com",
    })
}

fn openid_document(origin: &str) -> Value {
    json!({
        "issuer": origin,
        "authorization_endpoint": format!("{origin}/authorize?tenant=x"),
        "token_endpoint": format!("{origin}/token"),
        "jwks_uri": format!("{origin}/keys"),
        "authorization_response_iss_parameter_supported": true,
    })
}

fn entra_claims(origin: &str) -> Value {
    json!({
        "iss": format!("{origin}/{TENANT_A}/v2.0"), "aud": CLIENT_ID, "sub": "s", "ver": "2.0",
        "tid": TENANT_A,
        "oid": USER, "iat": NOW, "nbf": NOW, "exp": NOW + 3600, "nonce": NONCE,
        "preferred_username": "alice@contoso.com",
    })
}

fn tokens(claims: &Value) -> Value {
    tokens_under("k1", claims)
}

fn tokens_under(kid: &str, claims: &Value) -> Value {
    json!({
        "token_type": "Bearer", "access_token": "AT-1", "refresh_token": "RT-2", "expires_in": 3600,
        "scope": "Mail.Read User.Read", "id_token": jwt(&json!({ "alg": "RS256", "kid": kid }), claims),
    })
}

fn refused(status: u16, error: &str, code: u32) -> Reply {
    Reply::json(
        status,
        &json!({ "error": error, "error_codes": [code], "error_description": "AADSTS: secret text" }),
    )
}

fn entra_script() -> Script {
    Script {
        document: Box::new(|origin| Reply::json(200, &entra_document(origin))),
        keys: Box::new(|_| Reply::json(200, &json!({ "keys": [rsa_jwk("k1", &RSA)] }))),
        token: Box::new(|origin, _| Reply::json(200, &tokens(&entra_claims(origin)))),
    }
}

fn secret(id: &str, value: &str) -> ClientCredential {
    ClientCredential::secret(id, ClientSecret::new(value))
}

impl World {
    fn entra() -> Self {
        World::with("/common/v2.0", entra_script(), vec![secret("one", "s3cr3t&=+ ü")], |_| {})
    }

    fn openid() -> Self {
        let script = Script {
            document: Box::new(|origin| Reply::json(200, &openid_document(origin))),
            token: Box::new(|origin, _| {
                let claims = json!({
                    "iss": origin, "aud": CLIENT_ID, "sub": "alice", "iat": NOW, "exp": NOW + 60,
                    "nonce": NONCE,
                });
                Reply::json(200, &tokens(&claims))
            }),
            ..entra_script()
        };
        World::with("", script, vec![secret("one", "a:b c")], |_| {})
    }

    fn with(
        path: &str,
        script: Script,
        credentials: Vec<ClientCredential>,
        change: impl FnOnce(&mut AuthorityConfig),
    ) -> Self {
        let script = Arc::new(Mutex::new(script));
        let shared = Arc::clone(&script);
        let server = Server::start(move |seen| {
            let origin = format!("http://{}", seen.header("host").expect("a host"));
            let script = shared.lock();
            match seen.path.as_str() {
                path if path.ends_with("openid-configuration") => (script.document)(&origin),
                path if path.ends_with("keys") => (script.keys)(&origin),
                _ => (script.token)(&origin, seen),
            }
        });
        let (clock, ledger) = (ManualClock::new(), Arc::new(Ledger::default()));
        let mut config = AuthorityConfig::new(format!("{}{path}", server.origin()), CLIENT_ID);
        config.timeout = Duration::from_secs(5);
        change(&mut config);
        let parts = AuthorityParts {
            token_hosts: AppHosts::default(),
            clock: clock.clone(),
            random: Arc::new(CountingRandom::default()),
            observer: ledger.clone(),
        };
        let authority = OpenIdAuthority::new(config.clone(), credentials, parts.clone()).expect("a config");
        let tenant = if path.is_empty() { "" } else { "/{tenantid}/v2.0" };
        let issuer = format!("{}{tenant}", server.origin());
        World { server, script, clock, ledger, config, parts, authority, issuer }
    }

    /// Replaces the credentials, as a reload does.
    fn replace(&self, credentials: Vec<ClientCredential>) {
        self.authority.succeed(Some(&self.authority), credentials);
    }

    fn in_use(&self) -> Option<String> {
        let first = self.authority.credentials().in_use(self.clock.now())?;
        Some(first.label().to_owned())
    }

    fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock());
    }

    fn answer_tokens(&self, reply: impl Fn(&str, &Seen) -> Reply + Send + 'static) {
        self.script(|script| script.token = Box::new(reply));
    }

    async fn redeem(&self) -> Result<TokenAnswer, AuthorityFailure> {
        self.try_to_redeem().await.map_err(|refused| match refused {
            RedeemFailure::Authority(failure) => failure,
            RedeemFailure::TenantNotAllowed(failure) => panic!("a tenant that is not allowed: {failure}"),
        })
    }

    async fn try_to_redeem(&self) -> Result<TokenAnswer, RedeemFailure> {
        let scopes = self.authority.scope_naming().scopes("Mail.Read").expect("scopes");
        let request = RedeemRequest {
            code: &AuthorizationCode::new("M.C0_de/+=&"),
            verifier: &CodeVerifier::new("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
            redirect_uri: "https://tokens.contoso.com/callback/outlook?x=1&y=2",
            nonce: NONCE,
            sent_to_issuer: &self.issuer,
            scopes: &scopes,
        };
        self.authority.redeem(request).await
    }

    async fn refresh(&self) -> Result<TokenAnswer, AuthorityFailure> {
        self.refresh_with(None).await
    }

    async fn refresh_with(&self, claims: Option<&str>) -> Result<TokenAnswer, AuthorityFailure> {
        tokens_of(self.refreshed(claims).await)
    }

    async fn refreshed(&self, claims: Option<&str>) -> Result<Refreshed, AuthorityFailure> {
        self.refresh_in(TENANT_A, claims, true).await
    }

    /// Refreshes for a user of this tenant.
    async fn refresh_of(&self, tenant: &str) -> Result<TokenAnswer, AuthorityFailure> {
        tokens_of(self.refresh_in(tenant, None, true).await)
    }

    async fn refresh_in(
        &self,
        tenant: &str,
        claims: Option<&str>,
        cae: bool,
    ) -> Result<Refreshed, AuthorityFailure> {
        let scopes = self.authority.scope_naming().scopes("Mail.Read offline_access openid").expect("scopes");
        let account = Account {
            iss: format!("{}/{tenant}/v2.0", self.server.origin()),
            sub: "s".into(),
            tid: Some(tenant.into()),
            oid: Some(USER.into()),
            username: None,
        };
        let refresh_token = RefreshToken::new("RT-1");
        let request =
            RefreshRequest { refresh_token: &refresh_token, scopes: &scopes, account: &account, claims, cae };
        self.authority.refresh(request).await
    }

    /// Refreshes at a provider without tenants, for this `sub`.
    async fn refresh_as(&self, sub: &str) -> Result<TokenAnswer, AuthorityFailure> {
        let scopes = self.authority.scope_naming().scopes("Mail.Read openid").expect("scopes");
        let (iss, sub) = (self.server.origin(), sub.to_owned());
        let account = Account { iss, sub, tid: None, oid: None, username: None };
        let refresh_token = RefreshToken::new("RT-1");
        let request = RefreshRequest {
            refresh_token: &refresh_token,
            scopes: &scopes,
            account: &account,
            claims: None,
            cae: true,
        };
        tokens_of(self.authority.refresh(request).await)
    }

    async fn authorize(
        &self,
        change: impl FnOnce(&mut AuthorizeRequest),
    ) -> Result<AuthorizeUrl, AuthorityFailure> {
        let mut request = AuthorizeRequest {
            redirect_uri: "https://tokens.contoso.com/callback/outlook".into(),
            scopes: self
                .authority
                .scope_naming()
                .scopes("Mail.Read https://outlook.office.com/SMTP.Send")
                .expect("scopes"),
            state: "the-state".into(),
            nonce: NONCE.into(),
            verifier: CodeVerifier::new("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
            login_hint: Some("alice@contoso.com".into()),
            domain_hint: Some("contoso.com".into()),
            prompt: None,
            claims: None,
        };
        change(&mut request);
        self.authority.authorize_url(&request).await
    }

    fn token_requests(&self) -> Vec<Seen> {
        self.server.seen().into_iter().filter(|seen| seen.method == "POST").collect()
    }
}

#[expect(clippy::disallowed_methods, reason = "what we made ourselves")]
fn query(url: &str) -> Vec<(String, String)> {
    let query = url.split_once('?').expect("a query").1;
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

fn has(query: &[(String, String)], name: &str, value: &str) -> bool {
    query.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).eq([value])
}

/// Returns the tokens; a refused answer counts as a failure.
fn tokens_of(refreshed: Result<Refreshed, AuthorityFailure>) -> Result<TokenAnswer, AuthorityFailure> {
    match refreshed? {
        Refreshed::Tokens(answer) => Ok(*answer),
        Refreshed::Refused(refused) => Err(refused.failure),
    }
}

fn failed<T>(result: Result<T, AuthorityFailure>) -> AuthorityFailure {
    result.err().expect("a failure")
}

fn only(tenant: &str) -> Tenants {
    let mut listed = Listed::default();
    listed.add(tenant).expect("a tenant's id");
    Tenants::Listed(listed)
}

// Credentials.

fn by_secret(good: &'static str) -> impl Fn(&str, &Seen) -> Reply + Send + 'static {
    move |origin, seen| match seen.field("client_secret") {
        Some(secret) if secret == good => Reply::json(200, &tokens(&entra_claims(origin))),
        _ => refused(401, "invalid_client", 7000222),
    }
}
