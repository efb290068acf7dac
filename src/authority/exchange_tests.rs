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

mod odd_answers;
mod other_hosts;

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
        self.refresh_in(TENANT_A, claims).await
    }

    /// Refreshes for a user of this tenant.
    async fn refresh_of(&self, tenant: &str) -> Result<TokenAnswer, AuthorityFailure> {
        tokens_of(self.refresh_in(tenant, None).await)
    }

    async fn refresh_in(&self, tenant: &str, claims: Option<&str>) -> Result<Refreshed, AuthorityFailure> {
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
            RefreshRequest { refresh_token: &refresh_token, scopes: &scopes, account: &account, claims };
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

// Successes.

fn only(tenant: &str) -> Tenants {
    let mut listed = Listed::default();
    listed.add(tenant).expect("a tenant's id");
    Tenants::Listed(listed)
}

#[tokio::test]
async fn an_authorize_url_carries_everything_and_pkce_even_unadvertised() {
    let world = World::entra();
    let answer = world.authorize(|_| {}).await.expect("a URL");
    let query = query(&answer.url);
    assert!(answer.url.starts_with(&format!("{}/common/oauth2/v2.0/authorize?", world.server.origin())));
    assert_eq!(answer.issuer, format!("{}/{{tenantid}}/v2.0", world.server.origin()));
    assert!(!answer.iss_required);
    for (name, value) in [
        ("client_id", CLIENT_ID),
        ("response_type", "code"),
        ("response_mode", "query"),
        ("redirect_uri", "https://tokens.contoso.com/callback/outlook"),
        ("state", "the-state"),
        ("nonce", NONCE),
        ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"), // RFC 7636 appendix B
        ("code_challenge_method", "S256"),
        ("login_hint", "alice@contoso.com"),
        ("domain_hint", "contoso.com"),
        ("scope", "Mail.Read https://outlook.office.com/SMTP.Send offline_access openid profile"),
    ] {
        assert!(has(&query, name, value), "{name}: {}", answer.url);
    }
    assert!(!query.iter().any(|(name, _)| name == "claims" || name == "prompt" || name == "client_secret"));
}

#[tokio::test]
async fn another_providers_authorize_url_has_none_of_entras_ways() {
    let world = World::openid();
    let answer = world.authorize(|_| {}).await.expect("a URL");
    let query = query(&answer.url);
    assert!(answer.iss_required);
    assert_eq!(answer.issuer, world.server.origin());
    assert!(has(&query, "tenant", "x"), "the endpoint's own query stays");
    assert!(has(&query, "scope", "Mail.Read https://outlook.office.com/SMTP.Send openid"), "{}", answer.url);
    assert!(!query.iter().any(|(name, _)| name == "domain_hint" || name == "response_mode"));
    assert!(!world.authority.may_replay_refresh_tokens());
}

#[tokio::test]
async fn prompts_and_hints_that_authorities_refuse_are_not_sent() {
    let world = World::entra();
    let url =
        world.authorize(|request| request.prompt = Some("select_account".into())).await.expect("a URL").url;
    assert!(url.contains("prompt=select_account") && !url.contains("login_hint"));
    let failure = failed(world.authorize(|request| request.prompt = Some("login&x=y".into())).await);
    assert_eq!(failure.disposition, Disposition::CallerFault);
    let failure = failed(world.authorize(|request| request.claims = Some("[1]".into())).await);
    assert_eq!(failure.disposition, Disposition::CallerFault);
}

#[tokio::test]
async fn a_code_becomes_tokens_and_an_account() {
    let world = World::entra();
    let answer = world.redeem().await.expect("tokens");
    assert_eq!(answer.access_token.expose(), "AT-1");
    assert_eq!(answer.refresh_token.as_ref().map(RefreshToken::expose), Some("RT-2"));
    assert_eq!(answer.requested_at, Timestamp::from_unix_seconds(NOW));
    assert_eq!(answer.scopes, ["Mail.Read", "User.Read"]);
    let account = answer.account.expect("an account");
    assert_eq!((account.tid.as_deref(), account.oid.as_deref()), (Some(TENANT_A), Some(USER)));

    let requests = world.token_requests();
    let [request] = requests.as_slice() else { panic!("{} token requests", requests.len()) };
    assert_eq!(
        request.path, "/common/oauth2/v2.0/token",
        "the tenant path of the authorize request, no query"
    );
    for (name, value) in [
        ("grant_type", "authorization_code"),
        ("code", "M.C0_de/+=&"),
        ("redirect_uri", "https://tokens.contoso.com/callback/outlook?x=1&y=2"),
        ("code_verifier", "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
        ("client_id", CLIENT_ID),
        ("client_secret", "s3cr3t&=+ ü"),
        ("scope", "Mail.Read offline_access openid profile"),
    ] {
        assert_eq!(request.field(name), Some(value), "{name}");
    }
    assert_eq!(request.header("authorization"), None, "never both ways at once");
    assert_eq!(request.header("origin"), None, "Entra refuses a confidential client with an Origin");
    assert_eq!(request.header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(request.header("client-request-id").map(str::len), Some(36));
    assert_eq!(world.ledger.lines(), ["discovery ok", "keys ok", "token ok", "accepted one"]);
}

#[tokio::test]
async fn a_refresh_always_sends_its_scope_and_keeps_the_account() {
    let world = World::entra();
    let answer = world.refresh().await.expect("tokens");
    assert_eq!(answer.account.and_then(|account| account.oid).as_deref(), Some(USER));
    let request = &world.token_requests()[0];
    assert_eq!(request.field("grant_type"), Some("refresh_token"));
    assert_eq!(request.field("refresh_token"), Some("RT-1"));
    assert_eq!(request.field("scope"), Some("Mail.Read offline_access openid"));
    assert_eq!(request.field("claims"), None);
    assert!(world.authority.may_replay_refresh_tokens());
}

#[tokio::test]
async fn an_answer_may_leave_out_scope_id_token_and_refresh_token() {
    let world = World::entra();
    world.answer_tokens(|_, _| {
        Reply::json(200, &json!({ "token_type": "bearer", "access_token": "EwB+/=", "expires_in": "60" }))
    });
    let answer = world.refresh().await.expect("tokens");
    assert_eq!(answer.scopes, ["Mail.Read", "offline_access", "openid"], "what was asked");
    assert!(answer.refresh_token.is_none() && answer.account.is_none());
    let failure = failed(world.redeem().await);
    assert_eq!(failure.disposition, Disposition::Restart, "a redemption without id_token is worth nothing");
    assert!(failure.cause.ends_with("by the rule missing"), "{failure}");
}

#[tokio::test]
async fn continuous_access_evaluation_is_declared_on_every_call() {
    let world = World::with("/common/v2.0", entra_script(), vec![secret("one", "s")], |config| {
        config.continuous_access_evaluation = true;
    });
    let declared = r#"{"access_token":{"xms_cc":{"values":["cp1"]}}}"#;
    let url = world.authorize(|_| {}).await.expect("a URL").url;
    assert!(has(&query(&url), "claims", declared), "{url}");
    world.redeem().await.expect("tokens");
    world
        .refresh_with(Some(r#"{"access_token":{"nbf":{"essential":true,"value":"1"}},"id_token":{}}"#))
        .await
        .expect("tokens");
    let requests = world.token_requests();
    assert_eq!(requests[0].field("claims"), Some(declared));
    let merged: Value = serde_json::from_str(requests[1].field("claims").expect("claims")).expect("JSON");
    let expected = json!({
        "access_token": { "nbf": { "essential": true, "value": "1" }, "xms_cc": { "values": ["cp1"] } },
        "id_token": {},
    });
    assert_eq!(merged, expected);
}

#[tokio::test]
async fn a_claims_challenge_is_passed_on_and_must_be_an_object() {
    let world = World::entra();
    world.refresh_with(Some(r#"{"access_token":{"acrs":{"value":"c1"}}}"#)).await.expect("tokens");
    assert_eq!(
        world.token_requests()[0].field("claims"),
        Some(r#"{"access_token":{"acrs":{"value":"c1"}}}"#)
    );
    let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(9000));
    for bad in ["", "x", "[]", r#"{"a":1,"a":2}"#, r#"{"a":1} {}"#, &long] {
        assert_eq!(
            failed(world.refresh_with(Some(bad)).await).disposition,
            Disposition::CallerFault,
            "{bad:.20}"
        );
    }
    assert_eq!(world.token_requests().len(), 1, "nothing else was sent");
}

#[tokio::test]
async fn an_administrators_page_is_entras_alone() {
    let world = World::entra();
    let naming = world.authority.scope_naming();
    let mut request = AdminConsentRequest {
        tenant: None,
        scopes: naming.scopes("Mail.Read openid https://outlook.office.com/SMTP.Send").expect("scopes"),
        redirect_uri: "https://tokens.contoso.com/callback/outlook".into(),
        state: "the-state".into(),
    };
    let url = world.authority.admin_consent_url(&request).await.expect("a URL").expect("Entra's");
    assert!(url.starts_with(&format!("{}/organizations/v2.0/adminconsent?", world.server.origin())), "{url}");
    let expected = "https://graph.microsoft.com/Mail.Read https://outlook.office.com/SMTP.Send openid";
    assert!(has(&query(&url), "scope", expected), "{url}");
    assert!(has(&query(&url), "state", "the-state"));
    request.tenant = Some("contoso.com".into());
    let url = world.authority.admin_consent_url(&request).await.expect("a URL").expect("Entra's");
    assert!(url.contains("/contoso.com/v2.0/adminconsent?"));
    request.tenant = Some("../evil".into());
    assert_eq!(
        failed(world.authority.admin_consent_url(&request).await).disposition,
        Disposition::CallerFault
    );
    request.tenant = None;
    assert_eq!(World::openid().authority.admin_consent_url(&request).await.expect("no failure"), None);
}

// Failures of the exchange.

#[tokio::test]
async fn a_refusal_leaves_with_its_codes_and_without_its_words() {
    let world = World::entra();
    world.answer_tokens(|_, _| {
        let mut body = json!({
            "error": "invalid_grant", "suberror": "basic_action", "error_codes": [50076],
            "error_description": "AADSTS50076: secret text", "trace_id": "t-1", "correlation_id": "c-1",
        });
        body["claims"] = r#"{"access_token":{"capolids":{"essential":true}}}"#.into();
        Reply::json(400, &body)
    });
    let failure = failed(world.refresh().await);
    assert_eq!(
        failure.disposition,
        Disposition::Reauthorize(ReauthReason::InteractionRequired, GrantFate::Keep)
    );
    assert_eq!(failure.claims.as_deref(), Some(r#"{"access_token":{"capolids":{"essential":true}}}"#));
    assert_eq!(failure.answer.status, Some(400));
    assert_eq!(failure.answer.error_codes, [50076]);
    assert_eq!(
        (failure.answer.trace_id.as_deref(), failure.answer.correlation_id.as_deref()),
        (Some("t-1"), Some("c-1"))
    );
    assert!(!format!("{failure:?}").contains("secret text"));
    assert!(world.ledger.has("token reauthorize"));
}

#[tokio::test]
async fn a_refused_code_ends_the_attempt_and_judges_no_grant() {
    let world = World::entra();
    for (error, code, disposition) in [
        ("invalid_grant", 54005, Disposition::Restart),
        ("invalid_grant", 70008, Disposition::Restart),
        ("invalid_grant", 0, Disposition::Restart),
        ("access_denied", 90094, Disposition::Blocked(BlockReason::AdminConsentRequired)),
    ] {
        world.answer_tokens(move |_, _| refused(400, error, code));
        assert_eq!(failed(world.redeem().await).disposition, disposition, "{code}");
    }
}

#[tokio::test]
async fn an_app_that_is_absent_is_the_tenants_or_the_operators() {
    let absent = |_: &str, _: &Seen| refused(400, "unauthorized_client", 700016);
    let world = World::entra();
    world.answer_tokens(absent);
    assert_eq!(failed(world.refresh().await).disposition, Disposition::Blocked(BlockReason::AppNotInTenant));
    let world = World::with("/common/v2.0", entra_script(), vec![secret("one", "s")], |config| {
        config.tenants = only(TENANT_A);
    });
    world.answer_tokens(absent);
    assert_eq!(failed(world.refresh().await).disposition, Disposition::Misconfigured);
}

#[tokio::test]
async fn what_is_no_token_answer_is_trouble_and_never_a_verdict() {
    let html = || vec![("content-type", "text/html".to_owned())];
    let json_type = || vec![("content-type", "application/json".to_owned())];
    type Make = Box<dyn Fn() -> Reply + Send + Sync>;
    let unknown = Disposition::OutcomeUnknown;
    let rows: Vec<(&str, Make, Disposition)> = vec![
        (
            "an outage's page",
            Box::new(move || Reply::Answer { status: 503, headers: html(), body: "<html>".into() }),
            LATER,
        ),
        (
            "a success page",
            Box::new(move || Reply::Answer { status: 200, headers: html(), body: "<html>".into() }),
            unknown,
        ),
        (
            "throttled",
            Box::new(|| Reply::Answer {
                status: 429,
                headers: vec![("retry-after", "60".into())],
                body: String::new(),
            }),
            Disposition::RetryAfter(Some(Duration::from_secs(60))),
        ),
        (
            "a redirect",
            Box::new(|| Reply::Answer {
                status: 302,
                headers: vec![("location", "http://127.0.0.1:1/".into())],
                body: String::new(),
            }),
            LATER,
        ),
        (
            "a redirect that keeps the method",
            Box::new(|| Reply::Answer {
                status: 307,
                headers: vec![("location", "http://127.0.0.1:1/".into())],
                body: String::new(),
            }),
            LATER,
        ),
        (
            "an error and a success",
            Box::new(|| {
                Reply::json(
                    200,
                    &json!({ "error": "invalid_grant", "access_token": "x", "token_type": "Bearer" }),
                )
            }),
            unknown,
        ),
        (
            "a huge success",
            Box::new(move || Reply::Answer { status: 200, headers: json_type(), body: " ".repeat(300_000) }),
            unknown,
        ),
        (
            "a huge refusal",
            Box::new(move || Reply::Answer { status: 400, headers: json_type(), body: " ".repeat(300_000) }),
            LATER,
        ),
        (
            "a huge success without its length",
            Box::new(|| {
                Reply::Raw(
                    [
                        &b"HTTP/1.1 200 X\r\nconnection: close\r\ncontent-type: application/json\r\n\r\n"[..],
                        &[b' '; 300_000],
                    ]
                    .concat(),
                )
            }),
            unknown,
        ),
        (
            "a truncated success",
            Box::new(|| {
                Reply::Raw(
                    b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{\"tok"
                        .to_vec(),
                )
            }),
            unknown,
        ),
        ("a connection closed", Box::new(|| Reply::Close), unknown),
        ("bytes that are no HTTP", Box::new(|| Reply::Raw(b"SSH-2.0-OpenSSH\r\n\r\n".to_vec())), unknown),
        ("half a head", Box::new(|| Reply::Raw(b"HTTP/1.1 200 X\r\ncont".to_vec())), unknown),
        (
            "a head without end",
            Box::new(|| Reply::Raw([&b"HTTP/1.1 200 X\r\nx: "[..], &[b'x'; 100_000]].concat())),
            unknown,
        ),
    ];
    let world = World::entra();
    world.redeem().await.expect("documents are here");
    for (name, make, disposition) in rows {
        let before = world.token_requests().len();
        world.answer_tokens(move |_, _| make());
        let failure = failed(world.refresh().await);
        assert_eq!(failure.disposition, disposition, "{name}: {failure}");
        assert_eq!(world.token_requests().len(), before + 1, "{name}: sent once");
    }
}

#[tokio::test]
async fn silence_is_an_unknown_outcome_within_the_deadline() {
    let world = World::with("/common/v2.0", entra_script(), vec![secret("one", "s")], |config| {
        config.timeout = Duration::from_millis(300);
    });
    world.redeem().await.expect("documents are here");
    for make in [|| Reply::Hang, || Reply::Drip] {
        world.answer_tokens(move |_, _| make());
        let failure = failed(world.refresh().await);
        assert_eq!(failure.disposition, Disposition::OutcomeUnknown, "{failure}");
        assert!(world.ledger.has("token outcome_unknown"));
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_was_sent_nothing() {
    let world = World::entra();
    world.redeem().await.expect("documents are here");
    // A port that was free a moment ago.
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    world.script(|script| {
        script.document = Box::new(move |origin| {
            let mut document = entra_document(origin);
            document["token_endpoint"] = format!("http://127.0.0.1:{port}/token").into();
            Reply::json(200, &document)
        });
    });
    let mut config = AuthorityConfig::new(format!("{}/common/v2.0", world.server.origin()), CLIENT_ID);
    config.endpoint_hosts = Some(vec![format!("127.0.0.1:{port}")]);
    let parts = AuthorityParts {
        token_hosts: AppHosts::default(),
        clock: world.clock.clone(),
        random: Arc::new(CountingRandom::default()),
        observer: world.ledger.clone(),
    };
    let authority = OpenIdAuthority::new(config, vec![secret("one", "s")], parts).expect("a config");
    let scopes = authority.scope_naming().scopes("Mail.Read").expect("scopes");
    let failure = failed(authority.client_credentials(&scopes, None).await);
    assert_eq!(failure.disposition, LATER, "{failure}");
}

#[tokio::test]
async fn a_pooled_connection_that_died_costs_nothing() {
    let world = World::entra();
    world.redeem().await.expect("documents are here");
    // The connection closes after each answer, which the head does not announce.
    world.answer_tokens(|origin, _| {
        let body = tokens(&entra_claims(origin)).to_string();
        let head = format!(
            "HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        Reply::Raw(format!("{head}{body}").into_bytes())
    });
    for _ in 0..5 {
        world.refresh().await.expect("tokens");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn where_an_unknown_outcome_may_cost_a_grant_no_connection_is_used_twice() {
    let world = World::openid();
    world.redeem().await.expect("tokens");
    assert_eq!(world.server.connections(), 3, "document, keys, token");
    let world = World::entra();
    world.redeem().await.expect("tokens");
    assert_eq!(world.server.connections(), 1);
}

// Credentials.

fn by_secret(good: &'static str) -> impl Fn(&str, &Seen) -> Reply + Send + 'static {
    move |origin, seen| match seen.field("client_secret") {
        Some(secret) if secret == good => Reply::json(200, &tokens(&entra_claims(origin))),
        _ => refused(401, "invalid_client", 7000222),
    }
}

#[tokio::test]
async fn a_rejected_credential_gives_way_to_the_next_within_the_call() {
    let credentials = vec![secret("new", "n"), secret("old", "o")];
    let world = World::with("/common/v2.0", entra_script(), credentials, |_| {});
    world.answer_tokens(by_secret("o"));
    world.refresh().await.expect("tokens, by the old secret");
    assert!(world.ledger.has("rejected new [7000222]") && world.ledger.has("accepted old"));
    assert_eq!(world.token_requests().len(), 2);
    // The credential that worked is remembered.
    world.refresh().await.expect("tokens");
    assert_eq!(world.token_requests().len(), 3);
    // It is forgotten when it no longer works.
    world.answer_tokens(by_secret("n"));
    world.refresh().await.expect("tokens, by the new secret");
    assert_eq!(world.in_use().as_deref(), Some("new"));
    // If none works, the operator is alarmed and no verdict is passed.
    world.answer_tokens(by_secret("neither"));
    let failure = failed(world.refresh().await);
    assert_eq!(failure.disposition, Disposition::NextCredential);
    assert_eq!(failure.answer.error_codes, [7000222]);
}

#[tokio::test]
async fn any_other_refusal_is_not_asked_twice() {
    let credentials = vec![secret("new", "n"), secret("old", "o")];
    let world = World::with("/common/v2.0", entra_script(), credentials, |_| {});
    world.answer_tokens(|_, _| refused(400, "invalid_grant", 700082));
    let failure = failed(world.refresh().await);
    assert_eq!(failure.disposition, Disposition::Reauthorize(ReauthReason::GrantExpired, GrantFate::Dead));
    assert_eq!(world.token_requests().len(), 1);
}

#[tokio::test]
async fn credentials_are_replaced_live_and_keep_their_proof() {
    let home = |config: &mut AuthorityConfig| config.home_tenant = Some(TENANT_B.to_owned());
    let world = World::with("/common/v2.0", entra_script(), vec![secret("old", "o")], home);
    world.answer_tokens(by_secret("o"));
    world.refresh().await.expect("tokens");
    world.replace(vec![secret("new", "n"), secret("old", "o")]);
    world.refresh().await.expect("tokens");
    assert_eq!(world.token_requests().len(), 2, "the proven one is still first");
    let failure = failed(world.authority.prove_credential("new").await.expect("it is there"));
    assert_eq!(failure.disposition, Disposition::NextCredential);
    let request = world.token_requests().pop().expect("a request");
    assert_eq!(request.path, format!("/{TENANT_B}/oauth2/v2.0/token"), "in the app's own tenant");
    assert_eq!(request.field("grant_type"), Some("client_credentials"));
    assert_eq!(request.field("scope"), Some("https://graph.microsoft.com/.default"));
    assert!(world.authority.prove_credential("other").await.is_none());
    let naming = world.authority.scope_naming();
    let scopes = naming.scopes("https://graph.microsoft.com/.default").expect("scopes");
    let failure = failed(world.authority.client_credentials(&scopes, Some("a/../b")).await);
    assert_eq!(failure.disposition, Disposition::CallerFault);
}

#[tokio::test]
async fn a_new_credential_is_proven_by_a_call_of_its_own_before_users_depend_on_it() {
    let home = |config: &mut AuthorityConfig| config.home_tenant = Some(TENANT_B.to_owned());
    let world = World::with("/common/v2.0", entra_script(), vec![secret("old", "o")], home);
    world.answer_tokens(by_secret("o"));
    world.refresh().await.expect("tokens");
    world.replace(vec![secret("new", "n"), secret("old", "o")]);
    // The authority does not know it yet, which is found out without any user's request.
    assert!(!world.authority.prove_credentials().await);
    assert_eq!(world.in_use().as_deref(), Some("old"));
    // Its replicas learn of it one by one, so one acceptance after a rejection is not believed.
    let replica = Arc::new(AtomicUsize::new(0));
    let asked = replica.clone();
    world.answer_tokens(move |origin, seen| {
        let is_new = seen.field("client_secret") == Some("n");
        let knows = asked.fetch_add(usize::from(is_new), Ordering::SeqCst).is_multiple_of(2);
        match is_new && !knows {
            true => refused(401, "invalid_client", 7000215),
            false => Reply::json(200, &tokens(&entra_claims(origin))),
        }
    });
    for _ in 0..6 {
        world.clock.advance(2);
        world.authority.prove_credentials().await;
        assert_eq!(world.in_use().as_deref(), Some("old"));
    }
    assert!(replica.load(Ordering::SeqCst) >= 6, "it was asked about all the while");
    world.answer_tokens(|origin, _| Reply::json(200, &tokens(&entra_claims(origin))));
    for _ in 0..3 {
        world.clock.advance(2);
        world.authority.prove_credentials().await;
    }
    assert_eq!(world.in_use().as_deref(), Some("new"));
    let before = world.token_requests().len();
    world.refresh().await.expect("tokens");
    let requests = world.token_requests();
    assert_eq!(requests.len(), before + 1);
    assert_eq!(requests[before].field("client_secret"), Some("n"));
}

#[tokio::test]
async fn where_the_app_may_ask_for_nothing_itself_a_user_s_request_that_can_fall_back_is_the_proof() {
    let world = World::with("/common/v2.0", entra_script(), vec![secret("old", "o")], |_| {});
    world.answer_tokens(by_secret("o"));
    world.refresh().await.expect("tokens");
    world.replace(vec![secret("old", "o"), secret("new", "n")]);
    assert!(!world.authority.prove_credentials().await, "its own tenant is not known");
    let before = world.token_requests().len();
    world.refresh().await.expect("tokens, by the old one");
    let requests = world.token_requests();
    let secrets: Vec<_> = requests[before..].iter().map(|seen| seen.field("client_secret")).collect();
    assert_eq!(secrets, [Some("n"), Some("o")], "one request tries it, and falls back");
    world.refresh().await.expect("tokens");
    assert_eq!(world.token_requests().len(), before + 3, "the next one does not");
}

#[tokio::test]
async fn an_app_without_credentials_sends_nothing() {
    let world = World::with("/common/v2.0", entra_script(), Vec::new(), |_| {});
    assert_eq!(failed(world.refresh().await).disposition, Disposition::NextCredential);
    assert!(world.token_requests().is_empty());
}

#[tokio::test]
async fn basic_encodes_both_halves_first_and_leaves_the_form_alone() {
    let world = World::openid();
    world.redeem().await.expect("tokens");
    let request = &world.token_requests()[0];
    let header = request.header("authorization").expect("a header").strip_prefix("Basic ").expect("Basic");
    let pair = STANDARD.decode(header).expect("base64");
    assert_eq!(String::from_utf8(pair).expect("text"), format!("{CLIENT_ID}:a%3Ab+c"));
    assert_eq!((request.field("client_secret"), request.field("client_id")), (None, None));
}

#[tokio::test]
async fn a_configured_way_to_send_the_secret_wins() {
    let world = World::with("/common/v2.0", entra_script(), vec![secret("one", "s")], |config| {
        config.token_endpoint_auth_method = Some(SecretMethod::Basic);
    });
    world.refresh().await.expect("tokens");
    let request = &world.token_requests()[0];
    assert!(request.header("authorization").is_some() && request.field("client_secret").is_none());
}

#[tokio::test]
async fn a_certificate_signs_anew_for_every_request() {
    let pem = include_bytes!("../../tests/data/authority/keys/app-rsa.pem");
    let certificate = ClientCredential::certificate("cert", pem).expect("a pair");
    let world = World::with("/common/v2.0", entra_script(), vec![certificate], |_| {});
    world.refresh().await.expect("tokens");
    world.refresh().await.expect("tokens");
    let mut ids = Vec::new();
    for request in world.token_requests() {
        let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        assert_eq!(request.field("client_assertion_type"), Some(kind));
        assert_eq!((request.field("client_id"), request.field("client_secret")), (Some(CLIENT_ID), None));
        let assertion = request.field("client_assertion").expect("an assertion");
        let parts: Vec<&str> = assertion.split('.').collect();
        let read = |part: &str| -> Value {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON")
        };
        let (header, claims) = (read(parts[0]), read(parts[1]));
        let expected = json!({
            "alg": "PS256", "typ": "JWT", "x5t#S256": "P_ApQ5NmSVorkkySoSBNwdJBLd0d0Yh3gijG_kwe9n8",
        });
        assert_eq!(header, expected);
        assert_eq!((&claims["iss"], &claims["sub"]), (&json!(CLIENT_ID), &json!(CLIENT_ID)));
        assert_eq!(claims["aud"], format!("{}/common/oauth2/v2.0/token", world.server.origin()));
        assert_eq!((&claims["iat"], &claims["exp"]), (&json!(NOW), &json!(NOW + 300)));
        // An independent implementation accepts the signature with the certificate's key.
        let certificate = rustls_certificate(pem);
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).expect("a certificate");
        let key = jsonwebtoken::DecodingKey::from_rsa_der(&parsed.public_key().subject_public_key.data);
        let message = assertion.rsplit_once('.').expect("three parts").0;
        let fits =
            jsonwebtoken::crypto::verify(parts[2], message.as_bytes(), &key, jsonwebtoken::Algorithm::PS256);
        assert!(fits.expect("a signature"));
        ids.push(claims["jti"].as_str().expect("an id").to_owned());
    }
    assert!(ids[0] != ids[1] && ids[0].len() == 22, "{ids:?}");
}

#[tokio::test]
async fn an_assertion_is_for_whom_the_configuration_says_and_for_one_alone() {
    let pem = include_bytes!("../../tests/data/authority/keys/app-rsa.pem");
    let url = "https://login.example/as".to_owned();
    for audience in
        [AssertionAudience::TokenEndpoint, AssertionAudience::Issuer, AssertionAudience::Url(url.clone())]
    {
        let script = Script {
            document: Box::new(|origin| Reply::json(200, &openid_document(origin))),
            ..entra_script()
        };
        let certificate = ClientCredential::certificate("cert", pem).expect("a pair");
        let chosen = audience.clone();
        let world =
            World::with("", script, vec![certificate], move |config| config.assertion_audience = chosen);
        // (Without an id_token of its own provider the answer is useless; only the request matters.)
        let _answered = world.refresh_as("alice").await;
        let request = &world.token_requests()[0];
        let claims =
            request.field("client_assertion").and_then(|jwt| jwt.split('.').nth(1)).expect("an assertion");
        let claims: Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).expect("base64")).expect("JSON");
        let origin = world.server.origin();
        let expected = match audience {
            AssertionAudience::TokenEndpoint => format!("{origin}/token"),
            AssertionAudience::Issuer => origin,
            AssertionAudience::Url(url) => url,
        };
        assert_eq!(claims["aud"], json!(expected));
    }
}

fn rustls_certificate(pem: &[u8]) -> rustls::pki_types::CertificateDer<'static> {
    rustls::pki_types::pem::PemObject::from_pem_slice(pem).expect("a certificate")
}

#[test]
fn a_pair_that_does_not_match_is_refused_at_load() {
    let load =
        |pem: &[u8]| ClientCredential::certificate("x", pem).map(|credential| credential.expires_at()).err();
    assert_eq!(load(include_bytes!("../../tests/data/authority/keys/app-rsa.pem")), None);
    assert_eq!(load(include_bytes!("../../tests/data/authority/keys/app-p256.pem")), None);
    let mismatch = include_bytes!("../../tests/data/authority/keys/app-mismatch.pem");
    assert_eq!(load(mismatch), Some(CertificateFault::NoMatch));
    let short = include_bytes!("../../tests/data/authority/keys/app-short.pem");
    assert_eq!(load(short), Some(CertificateFault::KeyKind));
    assert_eq!(
        load(include_bytes!("../../tests/data/authority/keys/tls-ca.pem")),
        Some(CertificateFault::NoKey)
    );
    assert_eq!(load(b""), Some(CertificateFault::NoKey));
    let pem = std::str::from_utf8(mismatch).expect("text");
    let key_only = &pem[pem.find("-----BEGIN PRIVATE").expect("a key")..];
    assert_eq!(load(key_only.as_bytes()), Some(CertificateFault::NoCertificate));
}

#[tokio::test]
async fn an_elliptic_key_is_for_others_than_entra() {
    let pem = include_bytes!("../../tests/data/authority/keys/app-p256.pem");
    let world = World::with(
        "/common/v2.0",
        entra_script(),
        vec![ClientCredential::certificate("ec", pem).expect("a pair")],
        |_| {},
    );
    let failure = failed(world.refresh().await);
    assert_eq!(failure.disposition, Disposition::NextCredential);
    assert!(world.ledger.has("unusable ec") && world.token_requests().is_empty());

    let world = World::openid();
    world.replace(vec![ClientCredential::certificate("ec", pem).expect("a pair")]);
    world.redeem().await.expect("tokens");
    let requests = world.token_requests();
    let header =
        requests[0].field("client_assertion").and_then(|text| text.split('.').next()).expect("a header");
    let header: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).expect("base64")).expect("JSON");
    assert_eq!(header["alg"], "ES256");
}

/// An assertion that tests renew.
struct Renewed(Mutex<Result<String, String>>);

impl AssertionSource for Renewed {
    fn read(&self) -> crate::domain::task::BoxFuture<'_, Result<Zeroizing<String>, String>> {
        let read = self.0.lock().clone().map(Zeroizing::new);
        Box::pin(std::future::ready(read))
    }
}

#[tokio::test]
async fn a_federated_assertion_is_read_for_every_request_and_never_sent_stale() {
    let assertion =
        |exp: i64| format!("{}.{}.sig", b64(r#"{"alg":"RS256"}"#), b64(json!({ "exp": exp }).to_string()));
    let source = Arc::new(Renewed(Mutex::new(Ok(assertion(NOW + 100)))));
    let credentials = vec![ClientCredential::federated("k8s", source.clone())];
    let world = World::with("/common/v2.0", entra_script(), credentials, |_| {});
    world.refresh().await.expect("tokens");
    *source.0.lock() = Ok(assertion(NOW + 200));
    world.refresh().await.expect("tokens");
    let sent: Vec<_> = world
        .token_requests()
        .iter()
        .filter_map(|seen| seen.field("client_assertion").map(str::to_owned))
        .collect();
    assert_eq!(sent, [assertion(NOW + 100), assertion(NOW + 200)]);
    for bad in
        [Ok(assertion(NOW)), Ok("no JWT".into()), Ok(format!("a.{}.c", b64("{}"))), Err("missing".into())]
    {
        *source.0.lock() = bad;
        assert_eq!(failed(world.refresh().await).disposition, Disposition::NextCredential);
    }
    assert_eq!(world.token_requests().len(), 2, "nothing stale was sent");
}

#[tokio::test]
async fn an_assertion_file_is_read_anew_and_its_absence_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("token");
    let file = AssertionFile::new(&path, SecretReader::new(None).guard());
    assert!(file.read().await.is_err());
    std::fs::write(&path, "a.b.c\n").expect("writes");
    assert_eq!(file.read().await.expect("an assertion").as_str(), "a.b.c");
    std::fs::write(&path, "d.e.f").expect("writes");
    assert_eq!(file.read().await.expect("an assertion").as_str(), "d.e.f");
    std::fs::write(&path, "x".repeat(40_000)).expect("writes");
    assert!(file.read().await.is_err());
}

// Identity.

#[tokio::test]
async fn an_id_token_that_is_not_believed_spoils_the_redemption() {
    let world = World::entra();
    world.answer_tokens(|origin, _| {
        let mut claims = entra_claims(origin);
        claims["nonce"] = "another".into();
        Reply::json(200, &tokens(&claims))
    });
    let failure = failed(world.redeem().await);
    assert_eq!(failure.disposition, Disposition::Restart);
    assert!(failure.cause.ends_with("by the rule nonce"), "{failure}");
    assert!(failure.answer.correlation_id.is_some(), "the ids of the answer: {:?}", failure.answer);
}

#[tokio::test]
async fn a_tenant_that_is_not_allowed_is_told_apart() {
    let world = World::with("/common/v2.0", entra_script(), vec![secret("one", "s")], |config| {
        config.tenants = only(TENANT_B);
    });
    let Err(RedeemFailure::TenantNotAllowed(failure)) = world.try_to_redeem().await else {
        panic!("the tenant is not allowed")
    };
    assert!(failure.cause.ends_with("by the rule tenant_not_allowed"), "{failure}");
    assert_eq!(failure.answer.error, None, "the authority said nothing wrong");
}

#[tokio::test]
async fn another_accounts_answer_to_a_refresh_is_used_by_nobody() {
    let world = World::entra();
    world.answer_tokens(|origin, _| {
        let mut claims = entra_claims(origin);
        claims["oid"] = "dddddddd-0000-4000-8000-00000000000d".into();
        Reply::json(200, &tokens(&claims))
    });
    let failure = failed(world.refresh().await);
    // It was a 200: the refresh token may be used up.
    assert_eq!(failure.disposition, Disposition::OutcomeUnknown);
    assert!(failure.cause.contains("another account's tokens"), "{failure}");
}

#[tokio::test]
async fn a_code_goes_to_the_authority_that_gave_it() {
    let mut world = World::entra();
    world.issuer = "https://login.microsoftonline.com/{tenantid}/v2.0".into();
    assert_eq!(failed(world.redeem().await).disposition, Disposition::Restart);
    assert!(world.token_requests().is_empty());
}

#[tokio::test]
async fn a_refresh_survives_a_clock_that_is_wrong_and_a_key_nobody_has() {
    let world = World::entra();
    let reissue = |kid: &'static str, claim: &'static str, value: Value| {
        world.answer_tokens(move |origin, _| {
            let mut claims = entra_claims(origin);
            claims[claim] = value.clone();
            Reply::json(200, &tokens_under(kid, &claims))
        });
    };
    for (kid, claim, value) in
        [("k9", "nonce", json!("x")), ("k1", "iat", json!(NOW + 999)), ("k1", "exp", json!(NOW - 999))]
    {
        reissue(kid, claim, value);
        let answer = world.refresh().await.expect("the tokens are kept");
        assert!(answer.account.is_none() && answer.refresh_token.is_some(), "{kid} {claim}");
    }
    // But this lack admits neither another account, nor a forged signature, nor a token for another client.
    for (kid, claim, value) in [
        ("k9", "oid", json!("dddddddd-0000-4000-8000-00000000000d")),
        ("k9", "aud", json!("x")),
        ("k9", "iss", json!("https://evil.example")),
    ] {
        reissue(kid, claim, value);
        assert_eq!(failed(world.refresh().await).disposition, Disposition::OutcomeUnknown, "{kid} {claim}");
    }
    world.script(|script| {
        script.keys =
            Box::new(|_| Reply::json(200, &json!({ "keys": [rsa_jwk("k1", &super::testing::OTHER_RSA)] })));
    });
    world.authority.renew_documents().await.expect("another key under the same name");
    reissue("k1", "nonce", json!("x"));
    let failure = failed(world.refresh().await);
    assert_eq!(failure.disposition, LATER);
    assert!(failure.cause.contains("by the rule id_token signature"), "{failure}");
}

#[tokio::test]
async fn a_refresh_survives_keys_that_cannot_be_had() {
    let world = World::entra();
    world.script(|script| {
        script.keys = Box::new(|_| Reply::Answer { status: 500, headers: vec![], body: String::new() })
    });
    let answer = world.refresh().await.expect("the tokens are not thrown away");
    assert!(answer.account.is_none(), "but no identity is taken from what was not verified");
    // A redemption must know the account, and finds out before it uses the code up.
    let before = world.token_requests().len();
    world.clock.advance(2);
    assert_eq!(failed(world.redeem().await).disposition, LATER);
    assert_eq!(world.token_requests().len(), before);
    // The lack of keys does not admit another account either.
    world.answer_tokens(|origin, _| {
        let mut claims = entra_claims(origin);
        claims["oid"] = "dddddddd-0000-4000-8000-00000000000d".into();
        Reply::json(200, &tokens(&claims))
    });
    world.clock.advance(2);
    let failure = failed(world.refresh().await);
    assert_eq!(failure.disposition, Disposition::OutcomeUnknown);
    assert!(failure.cause.contains("another account's tokens"), "{failure}");
}

#[tokio::test]
async fn keys_roll_over_without_a_storm() {
    let world = World::entra();
    world.redeem().await.expect("an account");
    assert_eq!(world.server.count("keys"), 1);
    // A new key, at once and without overlap.
    world.script(|script| {
        script.keys = Box::new(|_| Reply::json(200, &json!({ "keys": [rsa_jwk("k2", &RSA)] })));
        script.token = Box::new(|origin, _| Reply::json(200, &tokens_under("k2", &entra_claims(origin))));
    });
    world.redeem().await.expect("an account");
    assert_eq!(world.server.count("keys"), 2);
    // Unknown keys do not cause repeated fetches.
    world.answer_tokens(|origin, _| Reply::json(200, &tokens_under("k9", &entra_claims(origin))));
    for _ in 0..10 {
        assert_eq!(failed(world.redeem().await).disposition, Disposition::Restart);
    }
    assert_eq!(world.server.count("keys"), 2);
    world.clock.advance(301);
    let failure = failed(world.redeem().await);
    assert_eq!(failure.disposition, Disposition::Restart);
    assert_eq!(world.server.count("keys"), 3);
    assert!(failure.cause.ends_with("by the rule unknown_key"), "{failure}");
}

#[tokio::test]
async fn the_last_good_documents_outlive_an_outage() {
    let world = World::entra();
    world.redeem().await.expect("an account");
    world.script(|script| {
        script.document = Box::new(|_| Reply::Answer { status: 503, headers: vec![], body: String::new() });
        script.keys = Box::new(|_| Reply::json(200, &json!({ "keys": [] })));
    });
    world.clock.advance(3000);
    world.refresh().await.expect("tokens");
    assert_eq!(
        (world.server.count("openid-configuration"), world.server.count("keys")),
        (1, 1),
        "young enough"
    );
    world.clock.advance(700);
    world.answer_tokens(|origin, _| {
        let mut claims = entra_claims(origin);
        (claims["iat"], claims["nbf"], claims["exp"]) =
            (json!(NOW + 3000), json!(NOW + 3000), json!(NOW + 9999));
        Reply::json(200, &tokens(&claims))
    });
    for _ in 0..5 {
        world.redeem().await.expect("an account, by the last good documents");
    }
    assert_eq!(
        (world.server.count("openid-configuration"), world.server.count("keys")),
        (2, 2),
        "one try each"
    );
    assert!(world.ledger.has("last_good discovery") && world.ledger.has("last_good keys"));
    // On an operator's word they are fetched at once; a failure loses nothing.
    assert_eq!(world.authority.renew_documents().await.expect_err("it is down").disposition, LATER);
    assert_eq!(world.server.count("openid-configuration"), 3);
    world.redeem().await.expect("an account, by the last good documents");
}

/// After an operator's word, a key that the authority has removed is no longer believed.
#[tokio::test]
async fn a_key_that_the_authority_took_away_is_dropped_at_an_operator_s_word() {
    let world = World::entra();
    assert!(world.authority.renew_documents().await.is_ok(), "nothing is here yet");
    assert_eq!(world.server.connections(), 0, "and nobody needs it");
    world.redeem().await.expect("an account");
    world.script(|script| {
        script.keys =
            Box::new(|_| Reply::json(200, &json!({ "keys": [rsa_jwk("k2", &super::testing::OTHER_RSA)] })));
    });
    world.redeem().await.expect("believed as long as nobody asks");
    world.authority.renew_documents().await.expect("fetched");
    let failure = failed(world.redeem().await);
    assert!(
        failure.cause.ends_with("by the rule unknown_key"),
        "signed with the key that was taken away: {failure}"
    );
}

#[tokio::test]
async fn a_herd_fetches_the_documents_once_and_shares_a_failure() {
    let world = World::entra();
    let mut herd = Vec::new();
    for _ in 0..50 {
        herd.push(world.authorize(|_| {}));
    }
    for answer in join_all(herd).await {
        answer.expect("a URL");
    }
    assert_eq!(world.server.count("openid-configuration"), 1);

    let world = World::entra();
    world.script(|script| {
        script.document = Box::new(|_| Reply::Answer { status: 500, headers: vec![], body: String::new() })
    });
    let mut herd = Vec::new();
    for _ in 0..50 {
        herd.push(world.authorize(|_| {}));
    }
    for answer in join_all(herd).await {
        assert_eq!(failed(answer).disposition, LATER);
    }
    assert_eq!(world.server.count("openid-configuration"), 1);
    // The next one tries again.
    world.clock.advance(2);
    world.script(|script| script.document = entra_script().document);
    world.authorize(|_| {}).await.expect("a URL");
}

async fn join_all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, slot) in futures.iter_mut().zip(&mut done) {
            if slot.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *slot = Some(value);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

// Discovery.

/// A change to a good document, and what its refusal must say.
type Evil = (&'static str, fn(&str, &mut Value), &'static str);

async fn judged(world: World, name: &str, change: fn(&str, &mut Value), says: &str, good: fn(&str) -> Value) {
    world.script(|script| {
        script.document = Box::new(move |origin| {
            let mut document = good(origin);
            change(origin, &mut document);
            Reply::json(200, &document)
        });
    });
    let failure = failed(world.authorize(|_| {}).await);
    assert_eq!(failure.disposition, LATER, "{name}");
    assert!(failure.cause.contains(says), "{name}: {}", failure.cause);
    assert_eq!(world.server.seen().len(), 1, "{name}: nothing it named was called");
}

#[tokio::test]
async fn evil_metadata_is_refused_and_nothing_it_names_is_called() {
    let rows: Vec<Evil> = vec![
        ("another issuer", |_, d| d["issuer"] = "https://evil.example/{tenantid}/v2.0".into(), "issuer"),
        (
            "the real Entra's issuer on another host",
            |_, d| d["issuer"] = "https://login.microsoftonline.com/{tenantid}/v2.0".into(),
            "issuer",
        ),
        (
            "one tenant's issuer on common",
            |o, d| d["issuer"] = format!("{o}/{TENANT_A}/v2.0").into(),
            "issuer",
        ),
        ("a template in the host", |_, d| d["issuer"] = "http://{tenantid}/v2.0".into(), "issuer"),
        (
            "an issuer with more behind it",
            |o, d| d["issuer"] = format!("{o}/{{tenantid}}/v2.0/x").into(),
            "issuer",
        ),
        (
            "an issuer that begins alike",
            |o, d| d["issuer"] = format!("{o}0/{{tenantid}}/v2.0").into(),
            "issuer",
        ),
        (
            "an issuer with a line break",
            |o, d| d["issuer"] = format!("{o}/{{tenantid}}/v2.0\r\nx").into(),
            "issuer",
        ),
        ("an issuer that is a list", |_, d| d["issuer"] = json!(["x"]), "issuer"),
        (
            "no issuer",
            |_, d| {
                d.as_object_mut().expect("an object").remove("issuer");
            },
            "issuer",
        ),
        ("no token endpoint", |_, d| d["token_endpoint"] = Value::Null, "token_endpoint"),
        (
            "a token endpoint elsewhere",
            |_, d| d["token_endpoint"] = "https://evil.example/token".into(),
            "evil.example",
        ),
        (
            "a token endpoint in the clear",
            |_, d| d["token_endpoint"] = "http://evil.example/token".into(),
            "token_endpoint",
        ),
        (
            "a token endpoint at the clouds' metadata",
            |_, d| d["token_endpoint"] = "http://169.254.169.254/token".into(),
            "token_endpoint",
        ),
        (
            "a token endpoint with credentials",
            |_, d| d["token_endpoint"] = "https://a:b@evil.example/".into(),
            "token_endpoint",
        ),
        (
            "a token endpoint on another local port",
            |_, d| d["token_endpoint"] = "http://127.0.0.1:6379/token".into(),
            "127.0.0.1",
        ),
        ("keys elsewhere", |_, d| d["jwks_uri"] = "https://evil.example/keys".into(), "evil.example"),
        ("keys in a file", |_, d| d["jwks_uri"] = "file:///etc/passwd".into(), "jwks_uri"),
        (
            "keys at the clouds' metadata",
            |_, d| d["jwks_uri"] = "https://169.254.169.254/keys".into(),
            "169.254.169.254",
        ),
        (
            "an authorize page elsewhere",
            |_, d| d["authorization_endpoint"] = "https://evil.example/".into(),
            "evil.example",
        ),
        (
            "an authorize page that is a script",
            |_, d| d["authorization_endpoint"] = "javascript:alert(1)".into(),
            "authorization_endpoint",
        ),
        (
            "an authorize page with a fragment",
            |o, d| d["authorization_endpoint"] = format!("{o}/a#b").into(),
            "authorization_endpoint",
        ),
        ("a document that is not Entra's", |o, d| *d = openid_document(o), "provider"),
        (
            "methods that are no list",
            |_, d| d["token_endpoint_auth_methods_supported"] = json!("x"),
            "token_endpoint_auth_methods_supported",
        ),
    ];
    for (name, change, says) in rows {
        judged(World::entra(), name, change, says, entra_document).await;
    }
    let rows: Vec<Evil> = vec![
        ("an issuer with a slash more", |o, d| d["issuer"] = format!("{o}/").into(), "to the letter"),
        ("another issuer", |_, d| d["issuer"] = "https://evil.example".into(), "to the letter"),
        ("Entra's document", |o, d| *d = entra_document(o), "provider"),
        (
            "a token endpoint at the clouds' metadata",
            |_, d| d["token_endpoint"] = "http://169.254.169.254/t".into(),
            "token_endpoint",
        ),
        (
            "a token endpoint on another local port",
            |_, d| d["token_endpoint"] = "http://localhost:6379/".into(),
            "localhost",
        ),
        ("the same over https", |_, d| d["token_endpoint"] = "https://localhost/".into(), "localhost"),
        ("keys at a private address", |_, d| d["jwks_uri"] = "https://10.0.0.1/".into(), "10.0.0.1"),
        ("keys at a mapped address", |_, d| d["jwks_uri"] = "https://[::ffff:a9fe:a9fe]/".into(), "a9fe"),
    ];
    for (name, change, says) in rows {
        judged(World::openid(), name, change, says, openid_document).await;
    }
}

#[tokio::test]
async fn documents_that_are_none_are_refused() {
    let headers = || vec![("content-type", "application/json".to_owned())];
    type Make = Box<dyn Fn() -> Reply + Send + Sync>;
    let rows: Vec<(&str, Make)> = vec![
        (
            "a redirect",
            Box::new(|| Reply::Answer {
                status: 302,
                headers: vec![("location", "http://127.0.0.1:1/x".into())],
                body: String::new(),
            }),
        ),
        (
            "too large",
            Box::new(move || Reply::Answer { status: 200, headers: headers(), body: " ".repeat(300_000) }),
        ),
        (
            "too large without its length",
            Box::new(|| {
                Reply::Raw([&b"HTTP/1.1 200 X\r\nconnection: close\r\n\r\n"[..], &[b' '; 300_000]].concat())
            }),
        ),
        (
            "an outage's page",
            Box::new(|| Reply::Answer { status: 200, headers: vec![], body: "<html>".into() }),
        ),
        ("nothing", Box::new(|| Reply::Answer { status: 204, headers: vec![], body: String::new() })),
        (
            "an issuer twice",
            Box::new(move || Reply::Answer {
                status: 200,
                headers: headers(),
                body: r#"{"issuer":"a","issuer":"b"}"#.into(),
            }),
        ),
        ("a connection closed", Box::new(|| Reply::Close)),
    ];
    for (name, make) in rows {
        let world = World::entra();
        world.script(|script| script.document = Box::new(move |_| make()));
        let failure = failed(world.authorize(|_| {}).await);
        assert_eq!(failure.disposition, LATER, "{name}: {failure}");
        assert!(!world.server.seen().iter().any(|seen| seen.path == "/x"), "{name}");
    }
}

#[tokio::test]
async fn a_document_whose_connection_breaks_is_read_once_more() {
    let world = World::entra();
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(false));
    world.script(|script| {
        script.document = Box::new(move |origin| {
            let first = !broken.swap(true, std::sync::atomic::Ordering::SeqCst);
            if first { Reply::Close } else { Reply::json(200, &entra_document(origin)) }
        });
    });
    world.authorize(|_| {}).await.expect("a URL");
}

#[tokio::test]
async fn a_flood_of_keys_is_refused() {
    let world = World::entra();
    world.script(|script| {
        script.keys = Box::new(|_| Reply::json(200, &json!({ "keys": vec![rsa_jwk("k1", &RSA); 101] })));
    });
    let failure = failed(world.redeem().await);
    assert!(failure.cause.contains("100 keys"), "{failure}");
    assert!(world.token_requests().is_empty());
}

#[tokio::test]
async fn each_kind_of_tenant_path_has_its_own_issuer() {
    use crate::domain::account::PERSONAL_TENANT;
    // path, issuer's tenant, whether it fits
    let rows = [
        ("organizations", "{tenantid}", true),
        ("organizations", TENANT_A, false),
        ("consumers", PERSONAL_TENANT, true),
        ("consumers", "{tenantid}", false),
        ("consumers", TENANT_A, false),
        (TENANT_A, TENANT_A, true),
        (TENANT_A, TENANT_B, false),
        (TENANT_A, "{tenantid}", false),
        ("contoso.com", TENANT_B, true),
        ("contoso.com", "{tenantid}", false),
        ("contoso.com", "contoso.com", false),
    ];
    for (path, issuer_tenant, fits) in rows {
        let script = Script {
            document: Box::new(move |origin| {
                let mut document = entra_document(origin);
                document["issuer"] = format!("{origin}/{issuer_tenant}/v2.0").into();
                Reply::json(200, &document)
            }),
            ..entra_script()
        };
        let world = World::with(&format!("/{path}/v2.0"), script, vec![secret("one", "s")], |_| {});
        assert_eq!(world.authorize(|_| {}).await.is_ok(), fits, "{path} {issuer_tenant}");
    }
}

// Configuration and TLS.

#[test]
fn configurations_that_cannot_work_are_refused() {
    let make = |change: fn(&mut AuthorityConfig)| {
        let mut config = AuthorityConfig::new("https://login.microsoftonline.com/common/v2.0", CLIENT_ID);
        change(&mut config);
        let parts = AuthorityParts {
            token_hosts: AppHosts::default(),
            clock: ManualClock::new(),
            random: Arc::new(CountingRandom::default()),
            observer: Arc::new(Unobserved),
        };
        OpenIdAuthority::new(config, vec![secret("one", "s")], parts).map(|made| made.provider())
    };
    assert_eq!(make(|_| {}).expect("good"), Provider::Entra);
    assert_eq!(
        make(|config| config.authority = "https://accounts.google.com".into()).expect("good"),
        Provider::OpenId
    );
    let refused = |change| make(change).expect_err("refused").to_string();
    assert!(refused(|config| config.authority = "http://login.example/common/v2.0".into()).contains("https"));
    assert!(refused(|config| config.authority = "login.example".into()).contains("URL"));
    assert!(
        refused(|config| config.authority = "https://login.microsoftonline.com/common".into())
            .contains("/common/v2.0")
    );
    assert!(refused(|config| config.authority = "https://x.example/?y".into()).contains("query"));
    assert_eq!(refused(|config| config.client_id = String::new()), "is empty");
    assert!(refused(|config| config.client_id = "a\nb".into()).contains(r#"holds "\n""#));
    assert!(refused(|config| config.roots = Roots::Only("no PEM".into())).contains("CA"));
}

#[test]
fn each_clouds_bare_scopes_are_its_own_graphs() {
    for (host, graph) in [
        ("login.microsoftonline.com", "https://graph.microsoft.com"),
        ("login.microsoftonline.us", "https://graph.microsoft.us"),
        ("login.partner.microsoftonline.cn", "https://microsoftgraph.chinacloudapi.cn"),
        ("emulator.example", "https://graph.microsoft.com"),
    ] {
        let parts = AuthorityParts {
            token_hosts: AppHosts::default(),
            clock: ManualClock::new(),
            random: Arc::new(CountingRandom::default()),
            observer: Arc::new(Unobserved),
        };
        let config = AuthorityConfig::new(format!("https://{host}/common/v2.0"), CLIENT_ID);
        let authority = OpenIdAuthority::new(config, Vec::new(), parts).expect("good");
        assert_eq!(*authority.scope_naming(), ScopeNaming::Entra { graph: graph.into() }, "{host}");
    }
}

#[test]
fn a_graph_that_no_host_tells_can_be_named() {
    let make = |graph: &str| {
        let mut config = AuthorityConfig::new("https://login.microsoftonline.us/common/v2.0", CLIENT_ID);
        config.graph = Some(graph.into());
        let parts = AuthorityParts {
            token_hosts: AppHosts::default(),
            clock: ManualClock::new(),
            random: Arc::new(CountingRandom::default()),
            observer: Arc::new(Unobserved),
        };
        let made = OpenIdAuthority::new(config, Vec::new(), parts);
        made.map(|authority| authority.scope_naming().clone()).map_err(|error| error.to_string())
    };
    let dod = ScopeNaming::Entra { graph: "https://dod-graph.microsoft.us".into() };
    assert_eq!(make("https://dod-graph.microsoft.us/"), Ok(dod));
    assert!(make("dod-graph.microsoft.us").is_err() && make("http://graph.example").is_err());
}

#[tokio::test]
async fn tls_is_checked_against_the_roots_that_were_given() {
    let server = Server::start_tls(|seen| {
        let origin = format!("https://{}", seen.header("host").expect("a host"));
        match seen.path.as_str() {
            path if path.ends_with("keys") => Reply::json(200, &json!({ "keys": [rsa_jwk("k1", &RSA)] })),
            _ => Reply::json(200, &entra_document(&origin)),
        }
    });
    let ca = include_str!("../../tests/data/authority/keys/tls-ca.pem");
    let probe = async |host: &str, roots: Roots| {
        let authority = format!("https://{host}:{}/common/v2.0", server.address.port());
        let mut config = AuthorityConfig::new(authority, CLIENT_ID);
        config.roots = roots;
        let parts = AuthorityParts {
            token_hosts: AppHosts::default(),
            clock: ManualClock::new(),
            random: Arc::new(CountingRandom::default()),
            observer: Arc::new(Unobserved),
        };
        let authority = OpenIdAuthority::new(config, Vec::new(), parts).expect("good");
        authority.probe().await
    };
    probe("localhost", Roots::Only(ca.into())).await.expect("a private CA's server");
    probe("127.0.0.1", Roots::Only(ca.into())).await.expect("by its address");
    // The app's own self-signed certificate is a root that signed nothing here.
    let other = include_str!("../../tests/data/authority/keys/app-rsa.pem");
    let failure = failed(probe("localhost", Roots::Only(other.into())).await);
    assert_eq!(failure.disposition, LATER);
    assert!(failure.cause.contains("certificate"), "{failure}");
}

#[tokio::test]
async fn no_secret_is_in_any_failure() {
    let world = World::entra();
    world.redeem().await.expect("documents are here");
    for make in [
        || refused(401, "invalid_client", 7000215),
        || refused(400, "invalid_grant", 700082),
        || Reply::Close,
        || Reply::json(200, &json!({ "token_type": "x", "access_token": "AT-SECRET" })),
        || Reply::json(200, &json!({ "error": "RT-1", "access_token": "AT-SECRET" })),
    ] {
        world.answer_tokens(move |_, _| make());
        for failure in [failed(world.refresh().await), failed(world.redeem().await)] {
            let text = format!("{failure} {failure:?}");
            for secret in ["s3cr3t", "RT-1", "M.C0_de", "dBjftJeZ", "AT-SECRET", "secret text"] {
                assert!(!text.contains(secret), "{secret}: {text}");
            }
        }
    }
}

#[tokio::test]
async fn nothing_is_asked_of_another_provider_that_it_does_not_offer() {
    let world = World::openid();
    assert!(!world.authority.prove_credentials().await);
    assert_eq!(world.server.connections(), 0, "nobody needed it yet");
    world.redeem().await.expect("tokens");
    let before = world.token_requests().len();
    world.replace(vec![secret("one", "a:b c"), secret("new", "n")]);
    assert!(!world.authority.prove_credentials().await);
    assert_eq!(world.token_requests().len(), before, "its document lists no client_credentials");
    assert_eq!(world.in_use().as_deref(), Some("one"));
}

/// Keycloak's answer to a wrong secret.
#[tokio::test]
async fn a_trial_that_is_refused_in_other_words_falls_back_within_the_request() {
    let world = World::with("/common/v2.0", entra_script(), vec![secret("old", "o")], |_| {});
    world.answer_tokens(|origin, seen| match seen.field("client_secret") {
        Some("o") => Reply::json(200, &tokens(&entra_claims(origin))),
        _ => Reply::json(401, &json!({ "error": "unauthorized_client" })),
    });
    world.refresh().await.expect("tokens");
    world.replace(vec![secret("old", "o"), secret("new", "n")]);
    assert!(!world.authority.prove_credentials().await, "its own tenant is not known");
    world.refresh().await.expect("tokens, by the old one");
    assert_eq!(world.in_use().as_deref(), Some("old"));
}

/// Whatever a provider answers to a wrong secret: the user's request is served, and the new secret does not
/// stay `new`.
#[tokio::test]
async fn a_trial_falls_back_whatever_it_is_refused_with_and_then_counts_as_rejected() {
    let empty = |status| move || Reply::Answer { status, headers: Vec::new(), body: String::new() };
    let says = |status, error: &'static str| move || Reply::json(status, &json!({ "error": error }));
    let page = || {
        let headers = vec![("content-type", "text/html".to_owned())];
        Reply::Answer { status: 403, headers, body: "<html>".to_owned() }
    };
    type Make = Box<dyn Fn() -> Reply + Send>;
    let rows: Vec<(&str, Make)> = vec![
        ("an empty 400", Box::new(empty(400))),
        ("an empty 401", Box::new(empty(401))),
        ("a page", Box::new(page)),
        ("invalid_client", Box::new(says(401, "invalid_client"))),
        ("invalid_request", Box::new(says(400, "invalid_request"))),
        ("unauthorized_client", Box::new(says(403, "unauthorized_client"))),
        ("access_denied", Box::new(says(400, "access_denied"))),
        ("an unknown error", Box::new(says(400, "a_word_of_tomorrow"))),
        ("a user's", Box::new(says(400, "invalid_grant"))),
        ("a failure of its own", Box::new(empty(500))),
    ];
    for (case, refusal) in rows {
        let world = World::openid();
        world.redeem().await.expect("tokens");
        let wanted = world.token_requests()[0].header("authorization").expect("a secret").to_owned();
        world.answer_tokens(move |_, seen| match seen.header("authorization") {
            Some(sent) if sent == wanted => {
                Reply::json(200, &json!({ "token_type": "Bearer", "access_token": "AT", "expires_in": 3600 }))
            }
            _ => refusal(),
        });
        world.replace(vec![secret("one", "a:b c"), secret("new", "wrong")]);
        assert!(!world.authority.prove_credentials().await, "its document offers no token of the app's own");
        let before = world.token_requests().len();
        world.refresh_as("alice").await.unwrap_or_else(|failure| panic!("{case}: {failure}"));
        assert_eq!(world.token_requests().len(), before + 2, "{case}: the new one is tried, and gives way");
        assert_eq!(world.in_use().as_deref(), Some("one"), "{case}");
        assert!(world.ledger.has("rejected new []"), "{case}: {:?}", world.ledger.lines());
        // It is tried again ever more rarely: once in the next minute's eight requests after its first
        // quarter of an hour.
        world.clock.advance(1000);
        world.refresh_as("alice").await.expect("tokens");
        let before = world.token_requests().len();
        for _ in 0..8 {
            world.clock.advance(6);
            world.refresh_as("alice").await.expect("tokens");
        }
        assert_eq!(world.token_requests().len(), before + 8, "{case}");
    }
}

/// It is the only credential, and nothing says that it is the cause.
#[tokio::test]
async fn a_credential_that_has_never_worked_does_not_stay_new_in_silence() {
    let world = World::openid();
    world.answer_tokens(|_, _| Reply::Answer { status: 400, headers: Vec::new(), body: String::new() });
    for account in ["a", "b", "a", "b", "a"] {
        assert_eq!(failed(world.refresh_as(account).await).disposition, Disposition::Unclear);
    }
    assert!(!world.ledger.has("suspected one"), "two users' grants may have ended");
    for account in ["c", "d", "e"] {
        failed(world.refresh_as(account).await);
    }
    let told = world.ledger.lines().iter().filter(|line| *line == "suspected one").count();
    assert_eq!(told, 1);
}

/// A provider where the app is registered for one method of sending its secret, with a document that lists
/// these.
fn registered_for(
    method: SecretMethod,
    listed: Option<&'static [&'static str]>,
    refusal: fn() -> Reply,
) -> World {
    let world = World::openid();
    world.script(|script| {
        script.document = Box::new(move |origin| {
            let mut document = openid_document(origin);
            if let Some(listed) = listed {
                document["token_endpoint_auth_methods_supported"] = json!(listed);
            }
            Reply::json(200, &document)
        });
        let good = std::mem::replace(&mut script.token, Box::new(|_, _| Reply::Close));
        script.token = Box::new(move |origin, seen| {
            let is_basic = seen.header("authorization").is_some();
            let secret = if is_basic { Some("a:b c") } else { seen.field("client_secret") };
            match is_basic == (method == SecretMethod::Basic) && secret == Some("a:b c") {
                true => good(origin, seen),
                false => refusal(),
            }
        });
    });
    world
}

const BOTH: &[&str] = &["client_secret_post", "client_secret_basic"];

fn sent(world: &World) -> Vec<&'static str> {
    let way = |seen: &Seen| if seen.header("authorization").is_some() { "basic" } else { "post" };
    world.token_requests().iter().map(way).collect()
}

#[tokio::test]
async fn a_secret_goes_into_the_header_unless_the_document_rules_that_out() {
    let refused = || Reply::json(401, &json!({ "error": "invalid_client" }));
    let rows: [(Option<&'static [&'static str]>, SecretMethod); 5] = [
        (None, SecretMethod::Basic),
        (Some(BOTH), SecretMethod::Basic),
        (Some(&["client_secret_basic", "private_key_jwt"]), SecretMethod::Basic),
        (Some(&["client_secret_post"]), SecretMethod::Post),
        (Some(&["private_key_jwt"]), SecretMethod::Basic),
    ];
    for (listed, method) in rows {
        let world = registered_for(method, listed, refused);
        world.redeem().await.expect("tokens");
        assert_eq!(sent(&world).len(), 1, "{listed:?}");
    }
    // A proof at Entra, whose document lists both.
    let world = World::entra();
    world.redeem().await.expect("tokens");
    assert_eq!(sent(&world), ["post"]);
}

#[tokio::test]
async fn a_way_that_was_guessed_wrong_gives_way_within_the_request_and_what_works_is_remembered() {
    let refusals: [fn() -> Reply; 5] = [
        || Reply::json(401, &json!({ "error": "invalid_client" })),
        || Reply::json(400, &json!({ "error": "unauthorized_client" })),
        || Reply::json(403, &json!({ "error": "unauthorized_client" })),
        || Reply::json(400, &json!({ "error": "invalid_request" })),
        || Reply::Answer { status: 400, headers: Vec::new(), body: String::new() },
    ];
    for refusal in refusals {
        let world = registered_for(SecretMethod::Post, Some(BOTH), refusal);
        world.redeem().await.expect("tokens, by the other way");
        assert_eq!(sent(&world), ["basic", "post"]);
        assert!(world.ledger.has("sent as client_secret_post"));
        world.refresh_as("alice").await.expect("tokens");
        world.replace(vec![secret("one", "a:b c"), secret("new", "a:b c")]);
        world.refresh_as("alice").await.expect("tokens");
        assert_eq!(sent(&world)[2..], ["post", "post"], "remembered, and by a reload too");
    }
}

/// One more call when it is first refused, and then once in a while; the failure names the setting.
#[tokio::test]
async fn a_secret_that_is_wrong_either_way_does_not_double_the_calls() {
    let world = World::openid();
    world.answer_tokens(|_, _| Reply::json(401, &json!({ "error": "invalid_client" })));
    let failure = failed(world.refresh_as("alice").await);
    assert_eq!(failure.disposition, Disposition::NextCredential);
    assert!(failure.cause.contains("token_endpoint_auth_method"), "{}", failure.cause);
    assert_eq!(sent(&world), ["basic", "post"]);
    for _ in 0..9 {
        world.clock.advance(30);
        failed(world.refresh_as("alice").await);
    }
    assert_eq!(sent(&world).len(), 2 + 9);
    world.clock.advance(30);
    failed(world.refresh_as("alice").await);
    assert_eq!(sent(&world).len(), 2 + 9 + 2);
}

#[tokio::test]
async fn a_way_that_the_operator_set_decides_alone() {
    let script =
        Script { document: Box::new(|origin| Reply::json(200, &openid_document(origin))), ..entra_script() };
    let world = World::with("", script, vec![secret("one", "s")], |config| {
        config.token_endpoint_auth_method = Some(SecretMethod::Post);
    });
    world.answer_tokens(|_, _| Reply::json(401, &json!({ "error": "invalid_client" })));
    let failure = failed(world.refresh_as("alice").await);
    assert_eq!(sent(&world), ["post"]);
    assert!(failure.cause.contains("as token_endpoint_auth_method says"), "{}", failure.cause);
}

/// If the other method passes client authentication, its answer about the grant counts.
#[tokio::test]
async fn a_verdict_that_the_other_way_brings_counts() {
    let world = World::openid();
    world.answer_tokens(|_, seen| match seen.header("authorization") {
        Some(_) => Reply::json(401, &json!({ "error": "invalid_client" })),
        None => Reply::json(400, &json!({ "error": "invalid_grant" })),
    });
    let failure = failed(world.refresh_as("alice").await);
    assert!(failure.disposition.is_verdict(), "{failure}");
    assert!(
        !world.ledger.lines().iter().any(|line| line.starts_with("rejected")),
        "{:?}",
        world.ledger.lines()
    );
}

/// A refused code or grant is not sent twice if no untried credential is involved.
#[tokio::test]
async fn a_code_that_is_refused_as_such_is_sent_once() {
    let world = World::with("/common/v2.0", entra_script(), vec![secret("a", "1"), secret("b", "2")], |_| {});
    world.answer_tokens(|_, _| refused(400, "invalid_grant", 54005));
    assert_eq!(failed(world.redeem().await).disposition, Disposition::Restart);
    assert_eq!(world.token_requests().len(), 1);
}

/// `invalid_client` that may come from one tenant's state: its callers are told, and the credential keeps its
/// state until a second tenant gets the same.
#[tokio::test]
async fn one_tenants_word_does_not_reject_a_credential() {
    let world = World::entra();
    world.refresh().await.expect("tokens");
    world.answer_tokens(|_, _| refused(401, "invalid_client", 999_999));
    for _ in 0..3 {
        assert_eq!(failed(world.refresh_of(TENANT_A).await).disposition, Disposition::NextCredential);
    }
    assert!(!world.ledger.has("rejected one [999999]"));
    world.answer_tokens(|origin, _| Reply::json(200, &tokens(&entra_claims(origin))));
    world.refresh().await.expect("tokens");
    world.answer_tokens(|_, _| refused(401, "invalid_client", 999_999));
    assert_eq!(failed(world.refresh_of(TENANT_B).await).disposition, Disposition::NextCredential);
    assert!(!world.ledger.has("rejected one [999999]"), "it was taken in between");
    assert_eq!(failed(world.refresh_of(TENANT_A).await).disposition, Disposition::NextCredential);
    assert!(world.ledger.has("rejected one [999999]"));
}

#[tokio::test]
async fn keycloak_s_words_for_a_rejected_secret_have_the_next_one_tried_at_once() {
    let world = World::openid();
    world.redeem().await.expect("tokens");
    world.answer_tokens(|_, _| Reply::json(401, &json!({ "error": "unauthorized_client" })));
    let failure = failed(world.refresh_as("alice").await);
    assert_eq!(failure.disposition, Disposition::NextCredential);
    assert!(world.ledger.has("rejected one []"), "it is no longer trusted");
}

#[tokio::test]
async fn another_authority_of_the_same_address_holds_what_was_fetched_already() {
    let world = World::entra();
    world.redeem().await.expect("tokens");
    let another = |change: &dyn Fn(&mut AuthorityConfig)| {
        let mut config = AuthorityConfig::new(format!("{}/common/v2.0", world.server.origin()), CLIENT_ID);
        change(&mut config);
        let (random, observer) = (Arc::new(CountingRandom::default()), world.ledger.clone());
        let parts =
            AuthorityParts { token_hosts: AppHosts::default(), clock: world.clock.clone(), random, observer };
        let authority = OpenIdAuthority::new(config, Vec::new(), parts).expect("a config");
        authority.succeed(Some(&world.authority), vec![secret("one", "s3cr3t&=+ ü")]);
        authority
    };
    let fetched = || (world.server.count("openid-configuration"), world.server.count("keys"));
    assert_eq!(fetched(), (1, 1));
    another(&|config| config.timeout = Duration::from_secs(3)).probe().await.expect("both are held");
    assert_eq!(fetched(), (1, 1), "nothing is fetched again");
    let _checked = another(&|config| config.endpoint_hosts = Some(vec![])).probe().await;
    assert_eq!(fetched().0, 2, "what may be in the document is another thing now");
}

/// A file on a mount that hangs.
struct Hangs;

impl AssertionSource for Hangs {
    fn read(&self) -> crate::domain::task::BoxFuture<'_, Result<Zeroizing<String>, String>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn an_assertion_that_cannot_be_read_in_time_holds_nobody_up_for_ever() {
    let credentials = vec![ClientCredential::federated("pod", Arc::new(Hangs))];
    let world = World::with("/common/v2.0", entra_script(), credentials, |config| {
        config.timeout = Duration::from_millis(300);
    });
    let failure = failed(world.refresh().await);
    assert_eq!(failure.disposition, Disposition::NextCredential);
    assert!(failure.cause.contains("in time"), "{}", failure.cause);
}
