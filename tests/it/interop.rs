//! Tests with software from elsewhere. MSAL for Python and for Node are clients of the emulator, so that it
//! behaves like Entra for Entra's own libraries. oidc-provider is an authority that rotates refresh tokens
//! and ends a grant whose refresh token is used twice.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use entra_emulator::{App, Emulator, User};
use http::Method;
use serde_json::{Value, json};

use crate::http_client::{Browser, request};
use crate::launcher::{Launcher, command, installed, repository};
use crate::world::{CLIENT_ID, CLIENT_SECRET, PATIENCE, Plan, World, text};

/// Where `make tools` puts the npm packages, which is where Node has to be run.
pub(crate) fn node_folder() -> PathBuf {
    installed("node/node_modules", "tools").parent().expect("it has one").to_owned()
}

/// A certificate and its key in `folder`, made with openssl: `cert.pem`, `key.pem`, and `both.pem`.
fn make_certificate(folder: &Path, key: &[&str]) {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-days", "2", "-nodes", "-subj", "/CN=tokenward", "-newkey"])
        .args(key)
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(folder)
        .output()
        .expect("openssl is missing: run `make tools`");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("written");
    crate::world::write_secret(&folder.join("both.pem"), &(read("cert.pem") + &read("key.pem")));
}

const RSA: &[&str] = &["rsa:2048"];
const P256: &[&str] = &["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];

// === MSAL ===

/// Runs one of MSAL's scripts against an emulator of its own, over https, and returns the steps it proved. The
/// cache that MSAL keeps meanwhile is read as docs/from-msal.md reads it.
async fn msal(program: PathBuf, script: &str, working_folder: PathBuf) -> Vec<String> {
    let entra = Emulator::builder()
        .https(true)
        .app(App::new(CLIENT_ID).secret(CLIENT_SECRET).redirect_uri("http://localhost/callback"))
        .user(User::work("alice@contoso.example"))
        .start()
        .await
        .expect("the emulator starts");
    let folder = tempfile::tempdir().expect("a temp dir");
    make_certificate(folder.path(), RSA);
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, entra.ca_pem().expect("it serves TLS")).expect("write");

    let mut command = command(&program);
    command
        .arg(repository().join("tests/interop/msal").join(script))
        .current_dir(working_folder)
        .env("EMU_BASE_URL", entra.base_url())
        .env("EMU_CA_FILE", &ca)
        .env("NODE_EXTRA_CA_CERTS", &ca)
        .env("EMU_CLIENT_ID", CLIENT_ID)
        .env("EMU_CLIENT_SECRET", CLIENT_SECRET)
        .env("EMU_CERT_FILE", folder.path().join("cert.pem"))
        .env("EMU_KEY_FILE", folder.path().join("key.pem"))
        .env("EMU_TENANT", "contoso.example")
        .env("EMU_REDIRECT_URI", "http://localhost/callback")
        .env("EMU_CACHE_FILE", folder.path().join("cache-1.json"))
        .stdin(Stdio::null());
    let run = tokio::task::spawn_blocking(move || command.output());
    let output = tokio::time::timeout(PATIENCE, run).await.expect("it ends").expect("joined");
    let output = output.unwrap_or_else(|error| {
        panic!("{} cannot be run ({error}): run `make tools`", program.display());
    });
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {}\n{printed}\n{complaint}", output.status);
    crate::guides::users_of_msals_caches_are_listed(folder.path());
    printed.lines().filter_map(|line| line.strip_prefix("ok: ")).map(str::to_owned).collect()
}

/// What both of MSAL's scripts prove, in this order.
const MSAL_STEPS: [&str; 9] = [
    "signed alice@contoso.example in at common with a code and PKCE",
    "signed alice@contoso.example in at organizations with a code and PKCE",
    "signed alice@contoso.example in at contoso.example with a code and PKCE",
    "the token came from the cache",
    "refreshed silently",
    "Graph says alice@contoso.example",
    "client credentials with the secret",
    "client credentials with the certificate",
    "a code redeemed with the certificate",
];

#[tokio::test]
async fn msal_for_python_takes_the_emulator_for_entra() {
    let steps = msal(installed("venv/bin/python", "tools"), "auth_code.py", repository().to_owned()).await;
    assert_eq!(steps, MSAL_STEPS);
}

#[tokio::test]
async fn msal_for_node_takes_the_emulator_for_entra() {
    let mut steps = msal(PathBuf::from("node"), "auth_code.mjs", node_folder()).await;
    steps.retain(|step| step != "the certificate is registered");
    assert_eq!(steps, MSAL_STEPS);
}

// === oidc-provider ===

/// `tests/interop/oidc-provider/server.mjs`.
struct OidcProvider {
    issuer: String,
    _launcher: Launcher,
}

impl OidcProvider {
    fn start(client_auth_methods: &str) -> OidcProvider {
        let mut node = command("node");
        node.arg(repository().join("tests/interop/oidc-provider/server.mjs"))
            .current_dir(node_folder())
            .env("CLIENT_AUTH_METHODS", client_auth_methods)
            .env("TOKEN_LIFE", LIFE.as_secs().to_string());
        let launcher = Launcher::start("oidc-provider", node);
        OidcProvider { issuer: launcher.issuer.clone(), _launcher: launcher }
    }

    async fn knob(&self, method: Method, name: &str, body: Value) -> Value {
        let url = format!("{}/_test/{name}", self.issuer);
        let answer = request(method, &url, &[], body.to_string()).await.expect("the provider answers");
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        answer.json()
    }

    async fn set(&self, name: &str, body: Value) -> Value {
        self.knob(Method::POST, name, body).await
    }

    /// Lets so much time pass, there and here, that every access token is over.
    async fn outlive_tokens(&self, world: &World) {
        self.set("clock", json!({ "seconds": LIFE.as_secs() })).await;
        world.pass(LIFE);
    }

    /// What happened there since it started.
    async fn events(&self) -> Vec<Value> {
        let mut answer = self.knob(Method::GET, "events", Value::Null).await;
        serde_json::from_value(answer["events"].take()).expect("a list")
    }

    /// Refresh grants that were given.
    async fn refreshes(&self) -> Vec<Value> {
        let mut events = self.events().await;
        events.retain(|event| event["event"] == "grant.success" && event["grant_type"] == "refresh_token");
        events
    }

    /// No refresh token was ever used twice, and nothing else went wrong either.
    async fn assert_untroubled(&self) {
        let troubles: Vec<Value> = self
            .events()
            .await
            .into_iter()
            .filter(|event| !text(event, "event").ends_with(".success"))
            .collect();
        assert!(troubles.is_empty(), "{troubles:#?}");
    }

    /// Whose access token this is, if it lives: the provider itself says so.
    async fn user_of(&self, access_token: &str) -> Option<String> {
        let url = format!("{}/oauth2/me", self.issuer);
        let bearer = format!("Bearer {access_token}");
        let answer = request(Method::GET, &url, &[("authorization", &bearer)], "").await.expect("answers");
        (answer.status == 200).then(|| text(&answer.json(), "sub").to_owned())
    }
}

/// How the app proves itself there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Proof {
    Basic,
    Post,
    /// `private_key_jwt` with a key of this kind and the algorithm that the client is registered with.
    Certificate(&'static [&'static str], &'static str),
}

impl Proof {
    fn method(self) -> &'static str {
        match self {
            Proof::Basic => "client_secret_basic",
            Proof::Post => "client_secret_post",
            Proof::Certificate(..) => "private_key_jwt",
        }
    }
}

/// What differs between the worlds with oidc-provider.
struct Setup {
    proof: Proof,
    form_post: bool,
    /// Whether the configuration says `provider = "openid"` or leaves it to be found out.
    told_provider: bool,
    /// Whether the configuration says how a secret travels.
    told_method: bool,
    /// What the provider offers.
    offered: &'static str,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            proof: Proof::Basic,
            form_post: false,
            told_provider: true,
            told_method: false,
            offered: "client_secret_basic,client_secret_post,private_key_jwt",
        }
    }
}

/// Life of an access token there.
const LIFE: Duration = Duration::from_secs(3600);

impl Setup {
    /// How the app has to prove itself in this world: as told, else in the header unless only the form is
    /// offered.
    fn expected_method(&self) -> &'static str {
        match self.proof {
            Proof::Certificate(..) => self.proof.method(),
            _ if self.told_method => self.proof.method(),
            _ if self.offered.contains("client_secret_basic") => "client_secret_basic",
            _ => "client_secret_post",
        }
    }

    async fn start(self) -> (OidcProvider, World) {
        let provider = OidcProvider::start(self.offered);
        let keys = tempfile::tempdir().expect("a temp dir");
        let mut plan = Plan {
            form_post: self.form_post,
            scopes: r#"["openid", "offline_access", "mail"]"#,
            tenants: "",
            authority: Some(provider.issuer.clone()),
            ..Plan::default()
        };
        let mut client = json!({
            "client_id": CLIENT_ID,
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "scope": "openid offline_access mail",
        });
        if let Proof::Certificate(kind, algorithm) = self.proof {
            make_certificate(keys.path(), kind);
            let file = keys.path().join("both.pem");
            plan.credentials = Some(format!(
                "[[apps.outlook.credentials]]\nid = \"first\"\nkind = \"certificate\"\nfile = \"{}\"\n",
                file.display()
            ));
            client["certificate"] =
                std::fs::read_to_string(keys.path().join("cert.pem")).expect("read").into();
            client["token_endpoint_auth_signing_alg"] = algorithm.into();
        } else {
            client["client_secret"] = CLIENT_SECRET.into();
        }
        client["token_endpoint_auth_method"] = self.proof.method().into();
        if self.told_provider {
            plan = plan.app_lines("provider = \"openid\"");
        }
        if self.told_method {
            plan = plan.app_lines(&format!("token_endpoint_auth_method = \"{}\"", self.proof.method()));
        }
        let world = plan.start().await;
        client["redirect_uris"] = json!([format!("{}/callback/outlook", world.base_url())]);
        provider.set("clients", client).await;
        (provider, world)
    }
}

/// Connects an account from nothing, by naming the account that came back.
async fn connect(provider: &OidcProvider, world: &World, connection: &str, user: &str) {
    provider.set("sign-in-as", json!({ "account": user })).await;
    let session = world.start_session(json!({ "app": "outlook", "connection": connection })).await;
    let (_, page) = world.sign_in(&mut Browser::default(), text(&session, "connect_url")).await;
    let id = text(&session, "id");
    let state = world.session(id).await;
    assert_eq!(state["state"], "awaiting_confirmation", "{state}\n{}\n{}", page.text(), world.daemon.log());
    assert_eq!(state["account"], json!({ "iss": provider.issuer, "sub": user }));
    let path = format!("/v1/connect-sessions/{id}/confirm");
    let other = json!({ "account": { "iss": provider.issuer, "sub": "somebody else" } });
    assert_eq!(world.api(Method::POST, &path, other).await.status, 409);
    let named = json!({ "account": { "iss": provider.issuer, "sub": user } });
    let confirmed = world.api(Method::POST, &path, named).await;
    assert_eq!(confirmed.status, 200, "{}", confirmed.text());
    assert_eq!(confirmed.json()["state"], "connected");
}

/// Renews a connection: its own account needs no confirmation.
async fn reconnect(world: &World, connection: &str) {
    let session = world.start_session(json!({ "app": "outlook", "connection": connection })).await;
    let (_, page) = world.sign_in(&mut Browser::default(), text(&session, "connect_url")).await;
    let state = world.session(text(&session, "id")).await;
    assert_eq!(state["state"], "connected", "{state}\n{}\n{}", page.text(), world.daemon.log());
}

/// Each refresh used the token that the one before it gave, and there were at least so many: on a slow
/// machine a token of three seconds may be due once more than the test asks.
fn assert_rotations(refreshes: &[Value], at_least: usize) {
    let rotations: Vec<usize> = refreshes
        .iter()
        .map(|event| event["rotations"].as_u64().and_then(|count| count.try_into().ok()).expect("a number"))
        .collect();
    assert!(rotations.len() >= at_least, "{refreshes:?}");
    assert_eq!(rotations, (1..=rotations.len()).collect::<Vec<_>>(), "{refreshes:?}");
}

async fn main_job(setup: Setup) {
    let (method, form_post) = (setup.expected_method(), setup.form_post);
    let (provider, world) = setup.start().await;

    connect(&provider, &world, "user-1", "alice").await;
    let first = world.token("user-1").await;
    assert_eq!(first.status, 200, "{}", first.text());
    let first = first.json();
    assert_eq!(first["account"], json!({ "iss": provider.issuer, "sub": "alice" }));
    let scopes: Vec<&str> = text(&first, "scope").split(' ').collect();
    assert!(scopes.contains(&"mail"), "{scopes:?}");
    let mut before = text(&first, "access_token").to_owned();
    assert_eq!(provider.user_of(&before).await.as_deref(), Some("alice"));

    // Three refreshes, each with the refresh token that the one before it gave.
    for round in 1..=3 {
        provider.outlive_tokens(&world).await;
        let now = world.access_token("user-1").await;
        assert_ne!(now, before, "round {round}");
        assert_eq!(provider.user_of(&now).await.as_deref(), Some("alice"));
        before = now;
    }
    let refreshes = provider.refreshes().await;
    assert_rotations(&refreshes, 3);
    assert!(refreshes.iter().all(|event| event["client_auth"] == method), "{refreshes:?}");

    // Reconnect in place.
    let shown = world.show("user-1").await;
    assert_eq!(shown["status"], "active");
    reconnect(&world, "user-1").await;
    assert_eq!(world.show("user-1").await["created_at"], shown["created_at"]);
    assert_ne!(world.access_token("user-1").await, before);
    provider.outlive_tokens(&world).await;
    let renewed = world.access_token("user-1").await;
    assert_eq!(provider.user_of(&renewed).await.as_deref(), Some("alice"));
    assert_rotations(&provider.refreshes().await[refreshes.len()..], 1);

    // Another user is another account, and cannot slip into this connection.
    connect(&provider, &world, "user-2", "bob").await;
    assert_eq!(provider.user_of(&world.access_token("user-2").await).await.as_deref(), Some("bob"));
    let session = world.start_session(json!({ "app": "outlook", "connection": "user-1" })).await;
    world.sign_in(&mut Browser::default(), text(&session, "connect_url")).await;
    let state = world.session(text(&session, "id")).await;
    assert_eq!((text(&state, "state"), text(&state, "reason")), ("failed", "account_mismatch"));
    assert_eq!(world.show("user-1").await["account"]["sub"], "alice");

    let path = "/v1/apps/outlook/connections/user-1";
    assert_eq!(world.api(Method::DELETE, path, Value::Null).await.status, 204);
    assert_eq!(world.token("user-1").await.status, 404);
    assert_eq!(world.token("user-2").await.status, 200);

    let wanted = if form_post { "form_post" } else { "query" };
    let events = provider.events().await;
    let authorized = events.iter().filter(|event| event["event"] == "authorization.success");
    // The default need not be said (RFC 6749 section 3.1.1).
    assert!(authorized.clone().all(|event| event["response_mode"].as_str().unwrap_or("query") == wanted));
    assert!(authorized.clone().all(|event| event["prompt"] == "consent"), "{events:#?}");
    provider.assert_untroubled().await;
}

#[tokio::test]
async fn oidc_provider_with_a_secret_in_the_header() {
    main_job(Setup { told_method: true, ..Setup::default() }).await;
}

/// Provider and method are found out from the discovery document.
#[tokio::test]
async fn oidc_provider_with_nothing_told_at_all() {
    main_job(Setup { told_provider: false, form_post: true, ..Setup::default() }).await;
}

#[tokio::test]
async fn oidc_provider_with_a_secret_in_the_form() {
    main_job(Setup { proof: Proof::Post, told_method: true, form_post: true, ..Setup::default() }).await;
}

#[tokio::test]
async fn oidc_provider_that_takes_secrets_in_the_form_only() {
    let offered = "client_secret_post,private_key_jwt";
    main_job(Setup { proof: Proof::Post, offered, ..Setup::default() }).await;
}

#[tokio::test]
async fn oidc_provider_that_takes_secrets_in_the_header_only() {
    main_job(Setup { told_provider: false, offered: "client_secret_basic", ..Setup::default() }).await;
}

#[tokio::test]
async fn oidc_provider_with_a_certificate() {
    main_job(Setup { proof: Proof::Certificate(RSA, "PS256"), ..Setup::default() }).await;
}

#[tokio::test]
async fn oidc_provider_with_a_certificate_on_p256() {
    main_job(Setup { proof: Proof::Certificate(P256, "ES256"), form_post: true, ..Setup::default() }).await;
}

/// Two refreshes with one refresh token would kill the grant there. 200 requests at once make one.
#[tokio::test]
async fn a_crowd_makes_one_refresh_at_oidc_provider() {
    let (provider, world) = Setup::default().start().await;
    connect(&provider, &world, "crowd", "alice").await;
    let world = Arc::new(world);
    provider.outlive_tokens(&world).await;
    provider.set("token-delay", json!({ "milliseconds": 500 })).await;
    let requests: Vec<_> = (0..200)
        .map(|_| {
            let world = world.clone();
            tokio::spawn(async move { world.access_token("crowd").await })
        })
        .collect();
    let mut tokens = std::collections::BTreeSet::new();
    for request in requests {
        tokens.insert(request.await.expect("a token"));
    }
    assert_eq!(tokens.len(), 1);
    let token = tokens.pop_first().expect("one");
    assert_eq!(provider.user_of(&token).await.as_deref(), Some("alice"));
    assert_eq!(provider.refreshes().await.len(), 1);
    provider.assert_untroubled().await;
}

/// The provider drops the grant: the next refresh says so in every place, nothing else suffers, and a
/// reconnect heals.
#[tokio::test]
async fn a_grant_revoked_at_oidc_provider_needs_its_user_and_a_reconnect_heals() {
    let (provider, world) = Setup::default().start().await;
    connect(&provider, &world, "user-1", "alice").await;
    let served = world.access_token("user-1").await;
    let created_at = world.show("user-1").await["created_at"].clone();
    let revoked = provider.set("revoke-grants", json!({})).await;
    assert!(revoked["revoked"].as_u64() >= Some(1), "{revoked}");

    // A token that has life left is still served.
    assert_eq!(world.access_token("user-1").await, served);
    provider.outlive_tokens(&world).await;
    let refused = world.token("user-1").await;
    assert_eq!(refused.status, 409, "{}", refused.text());
    let problem = refused.json();
    assert_eq!(problem["code"], "reauthorization_required");
    assert_eq!(problem["reason"], "interaction_required");
    assert_eq!(problem["error"], "invalid_grant");
    assert!(text(&problem, "hint").contains("connect"), "{problem}");
    assert_eq!(world.show("user-1").await["status"], "needs_reauthorization");

    let path = "/v1/apps/outlook/connections/user-1/explain";
    let explained = world.api(Method::GET, path, Value::Null).await.json();
    let last = explained["attempts"].as_array().and_then(|attempts| attempts.last()).expect("an attempt");
    assert_eq!((text(last, "error"), &last["status"]), ("invalid_grant", &json!(400)), "{explained}");
    assert!(text(&explained, "advice").contains("sign in again"), "{explained}");

    // Asking again asks the provider nothing: its word stands.
    let asked = provider.events().await.len();
    for _ in 0..5 {
        assert_eq!(world.token("user-1").await.status, 409);
    }
    assert_eq!(provider.events().await.len(), asked);

    reconnect(&world, "user-1").await;
    let shown = world.show("user-1").await;
    assert_eq!((&shown["status"], &shown["created_at"]), (&json!("active"), &created_at));
    provider.outlive_tokens(&world).await;
    let healed = world.access_token("user-1").await;
    assert_eq!(provider.user_of(&healed).await.as_deref(), Some("alice"));
}

/// An answer lost after the rotation: nobody can know the new refresh token, so the user has to come. It is
/// said in every place, the used token is not sent again and again, and a reconnect heals.
#[tokio::test]
async fn an_answer_lost_at_oidc_provider_is_said_and_a_reconnect_heals() {
    let (provider, world) = Setup::default().start().await;
    connect(&provider, &world, "user-1", "alice").await;
    provider.outlive_tokens(&world).await;
    provider.set("lose-answer", json!({})).await;
    let begun = std::time::Instant::now();
    let refused = loop {
        let answer = world.token("user-1").await;
        match answer.status.as_u16() {
            409 => break answer,
            503 if begun.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(100)).await,
            _ => panic!("{} {}\n{}", answer.status, answer.text(), world.daemon.log()),
        }
    };
    assert_eq!(refused.json()["code"], "reauthorization_required");
    let path = "/v1/apps/outlook/connections/user-1/explain";
    let explained = world.api(Method::GET, path, Value::Null).await.json();
    assert_eq!(explained["status"], "needs_reauthorization");
    let outcomes: Vec<&str> = explained["attempts"]
        .as_array()
        .expect("attempts")
        .iter()
        .map(|attempt| text(attempt, "outcome"))
        .collect();
    assert!(outcomes.contains(&"outcome_unknown"), "{explained}");
    let events = provider.events().await;
    let used_again = events.iter().filter(|event| event["event"] == "grant.error").count();
    assert!(used_again <= 1, "{events:#?}");

    reconnect(&world, "user-1").await;
    provider.outlive_tokens(&world).await;
    let healed = world.access_token("user-1").await;
    assert_eq!(provider.user_of(&healed).await.as_deref(), Some("alice"));
}
