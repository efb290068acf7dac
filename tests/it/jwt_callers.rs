//! Callers that come with a JWT of an issuer, such as a Kubernetes service account's token.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::client_assertions::JWT_BEARER;
use crate::http_client::{Answer, request, request_unix};
use crate::setup::config_text::EVERYTHING;
use crate::token_exchange::{FORM, form};
use crate::tokens::{OTHER_RSA, P256, RSA, jwt, jwt_by_the_other, p256_jwk, rsa_jwk};
use crate::world::{ALICE, CLIENT_ID, Plan, World, text};

const SUBJECT: &str = "system:serviceaccount:mail:sync";
/// The path of the token of the connection that the worlds here have.
const TOKEN: &str = "/v1/apps/outlook/connections/user-1/token";

/// An issuer that speaks as much OpenID as a Kubernetes API server does.
struct Issuer {
    origin: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    keys: Mutex<Value>,
    /// The token that requests must bring.
    demanded: Mutex<Option<String>>,
    is_down: AtomicBool,
    /// Requests for the keys.
    fetches: AtomicUsize,
}

impl Issuer {
    fn start(keys: Value) -> Issuer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let origin = format!("http://{}", listener.local_addr().expect("an address"));
        let shared = Arc::new(Shared { keys: Mutex::new(keys), ..Shared::default() });
        let (served, issuer) = (Arc::clone(&shared), origin.clone());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut head = Vec::new();
                let mut piece = [0; 2048];
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read(&mut piece) {
                        Ok(0) | Err(_) => break,
                        Ok(read) => head.extend_from_slice(&piece[..read]),
                    }
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let (status, body) = served.answer(&issuer, &head);
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\n\
                     content-length: {}\r\n\r\n{body}",
                    body.len()
                );
            }
        });
        Issuer { origin, shared }
    }

    fn publish(&self, keys: Value) {
        *self.shared.keys.lock() = keys;
    }

    fn demand(&self, token: &str) {
        *self.shared.demanded.lock() = Some(token.to_owned());
    }

    fn be_down(&self, is_down: bool) {
        self.shared.is_down.store(is_down, Ordering::SeqCst);
    }

    fn fetches(&self) -> usize {
        self.shared.fetches.load(Ordering::SeqCst)
    }

    /// A section of the configuration, with further lines.
    fn section(&self, lines: &str) -> String {
        format!("[issuers.kubernetes]\nissuer = \"{}\"\naudience = \"tokenward\"\n{lines}\n", self.origin)
    }
}

impl Shared {
    fn answer(&self, issuer: &str, head: &str) -> (u16, String) {
        let path = head.split(' ').nth(1).unwrap_or_default();
        if path == "/openid/v1/jwks" {
            self.fetches.fetch_add(1, Ordering::SeqCst);
        }
        if self.is_down.load(Ordering::SeqCst) {
            return (500, "{}".to_owned());
        }
        let demanded = self.demanded.lock().clone();
        if demanded
            .is_some_and(|token| !head.to_lowercase().contains(&format!("authorization: bearer {token}")))
        {
            return (401, "{}".to_owned());
        }
        match path {
            // As a Kubernetes API server answers.
            "/.well-known/openid-configuration" => (
                200,
                json!({
                    "issuer": issuer, "jwks_uri": format!("{issuer}/openid/v1/jwks"),
                    "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
                    "id_token_signing_alg_values_supported": ["RS256", "ES256", "PS256"],
                })
                .to_string(),
            ),
            "/openid/v1/jwks" => (200, self.keys.lock().to_string()),
            _ => (404, "{}".to_owned()),
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// The claims of a projected service-account token, as a kubelet writes them into a volume.
fn claims(issuer: &Issuer) -> Value {
    claims_at(issuer, Duration::ZERO)
}

/// The same, issued later.
fn claims_at(issuer: &Issuer, ahead: Duration) -> Value {
    let now = now() + ahead.as_secs();
    json!({
        "aud": ["tokenward"], "exp": now + 3600, "iat": now, "nbf": now, "iss": issuer.origin,
        "jti": "3f1c1f6a-8f0b-4b64-9d0c-0f6a7a5d9c11", "sub": SUBJECT,
        "kubernetes.io": {
            "namespace": "mail",
            "node": { "name": "node-1", "uid": "0d7a4f1e-0000-4000-8000-000000000001" },
            "pod": { "name": "sync-5d8", "uid": "0d7a4f1e-0000-4000-8000-000000000002" },
            "serviceaccount": { "name": "sync", "uid": "0d7a4f1e-0000-4000-8000-000000000003" },
        },
    })
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

fn without(mut claims: Value, name: &str) -> Value {
    claims.as_object_mut().expect("an object").remove(name);
    claims
}

fn rs256(claims: &Value) -> String {
    jwt(&json!({ "alg": "RS256", "kid": "k1" }), claims)
}

fn keys() -> Value {
    json!({ "keys": [rsa_jwk("k1", &RSA), p256_jwk("k2", &P256)] })
}

/// A caller by these tokens that may do everything.
fn pod(matching: &str) -> String {
    format!(
        "[callers.pod]\nauthenticate = [{{ jwt = {{ issuer = \"kubernetes\", {matching} }} }}]\n\
         [[callers.pod.allow]]\napp = \"outlook\"\n{EVERYTHING}\n"
    )
}

/// A daemon with a connection, and a caller by JWT.
async fn world(issuer: &Issuer, sections: &str) -> World {
    let world = Plan::default().sections(&format!("{}{sections}", issuer.section(""))).start().await;
    world.connect("user-1", ALICE).await;
    world
}

async fn ask(world: &World, token: &str) -> Answer {
    world.api_as(token, Method::GET, TOKEN, Value::Null).await
}

/// Looks at the connection, for which no token has to be renewed.
async fn see(world: &World, token: &str) -> Answer {
    world.api_as(token, Method::GET, "/v1/apps/outlook/connections/user-1", Value::Null).await
}

/// The audit's words for refusals without a caller so far.
fn reasons(world: &World) -> Vec<String> {
    let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).unwrap_or_default();
    let records = audit.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    records.filter_map(|record| record["reason"].as_str().map(str::to_owned)).collect()
}

/// A stranger's 401, the same for every reason.
fn refused(answer: &Answer) -> Value {
    assert_eq!(answer.status, 401, "{}", answer.text());
    let challenge = answer.headers.get("www-authenticate").expect("a challenge");
    assert_eq!(challenge, "Bearer realm=\"tokenward\", error=\"invalid_token\"");
    let mut problem = answer.json();
    assert_eq!(problem["code"], "caller_unauthenticated");
    problem.as_object_mut().expect("an object").remove("request_id");
    problem
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projected_token_of_a_service_account_is_a_caller() {
    let issuer = Issuer::start(keys());
    let world = world(&issuer, &pod(&format!("subject = \"{SUBJECT}\""))).await;
    let header = |alg: &str, kid: &str| json!({ "alg": alg, "kid": kid });
    for header in [header("RS256", "k1"), header("PS256", "k1"), header("ES256", "k2")] {
        let answer = ask(&world, &jwt(&header, &claims(&issuer))).await;
        assert_eq!(answer.status, 200, "{header}: {}\n{}", answer.text(), world.daemon.log());
        text(&answer.json(), "access_token");
    }
    // A media type in full is the same (RFC 7515 section 4.1.9).
    for kind in ["JWT", "jwt", "application/jwt", "Application/JWT"] {
        let header = json!({ "alg": "RS256", "kid": "k1", "typ": kind });
        assert_eq!(ask(&world, &jwt(&header, &claims(&issuer))).await.status, 200, "{kind}");
    }
    let answer = ask(&world, &rs256(&with(claims(&issuer), "aud", json!("tokenward")))).await;
    assert_eq!(answer.status, 200, "one audience as text: {}", answer.text());
    let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).expect("the audit");
    assert!(audit.contains("\"pod\""), "the caller is the actor");
}

/// Tokens that break a rule, with the audit's word for it.
fn bad_tokens(issuer: &Issuer, ahead: Duration) -> Vec<(&'static str, String)> {
    let good = || claims_at(issuer, ahead);
    let by = |header: Value| jwt(&header, &good());
    let now = now() + ahead.as_secs();
    vec![
        ("jwt_audience", rs256(&with(good(), "aud", json!("other")))),
        ("jwt_audience", rs256(&with(good(), "aud", json!(["tokenward.contoso.example"])))),
        ("jwt_claim_type", rs256(&with(good(), "aud", json!(7)))),
        ("jwt_claim_type", rs256(&with(good(), "aud", json!(["tokenward", 7])))),
        ("jwt_claim_missing", rs256(&without(good(), "aud"))),
        ("jwt_own_app", rs256(&with(good(), "aud", json!(["tokenward", CLIENT_ID])))),
        ("jwt_own_app", rs256(&with(good(), "aud", json!(["tokenward", format!("API://{CLIENT_ID}/")])))),
        ("jwt_own_app", rs256(&with(good(), "aud", json!(["tokenward", "https://graph.microsoft.com"])))),
        ("jwt_expired", rs256(&with(with(good(), "iat", json!(now - 3600)), "exp", json!(now - 120)))),
        ("jwt_not_yet_valid", rs256(&with(good(), "nbf", json!(now + 300)))),
        ("jwt_issued_in_future", rs256(&with(without(good(), "nbf"), "iat", json!(now + 300)))),
        // A second more than an hour, and what Kubernetes makes of tokens for its own API server.
        ("jwt_life", rs256(&with(good(), "exp", json!(now + 7200)))),
        ("jwt_life", rs256(&with(good(), "exp", json!(now + 365 * 86_400)))),
        ("jwt_claim_missing", rs256(&without(good(), "exp"))),
        ("jwt_claim_missing", rs256(&without(good(), "iat"))),
        ("jwt_claim_type", rs256(&with(good(), "exp", json!("2030-01-01")))),
        ("jwt_claim_type", rs256(&with(good(), "nbf", json!("1")))),
        ("jwt_issuer", rs256(&with(good(), "iss", json!(format!("{}/", issuer.origin))))),
        ("jwt_unknown_key", by(json!({ "alg": "RS256", "kid": "k9" }))),
        ("jwt_no_key_id", by(json!({ "alg": "RS256" }))),
        ("jwt_signature", jwt_by_the_other(&json!({ "alg": "RS256", "kid": "k1" }), &good())),
        (
            "jwt_signature",
            jwt_by_the_other(
                &json!({ "alg": "RS256", "kid": "k1", "jwk": rsa_jwk("k1", &OTHER_RSA) }),
                &good(),
            ),
        ),
        ("jwt_signature", by(json!({ "alg": "RS256", "kid": "k2" }))),
        ("jwt_algorithm", by(json!({ "alg": "none", "kid": "k1" }))),
        ("jwt_algorithm", by(json!({ "alg": "HS256", "kid": "k1" }))),
        ("jwt_algorithm", by(json!({ "alg": "RS384", "kid": "k1" }))),
        ("jwt_critical", by(json!({ "alg": "RS256", "kid": "k1", "crit": ["b64"], "b64": false }))),
        ("jwt_wrong_type", by(json!({ "alg": "RS256", "kid": "k1", "typ": "client-authentication+jwt" }))),
        ("jwt_encrypted", "a.b.c.d.e".to_owned()),
        ("jwt_malformed", "a.b.c".to_owned()),
        (
            "jwt_malformed",
            format!("{}.", rs256(&good()).rsplit_once('.').expect("dots").0.replace('.', "!.")),
        ),
        ("jwt_too_long", rs256(&with(good(), "groups", json!("g".repeat(9000))))),
        ("jwt_no_caller", rs256(&with(good(), "sub", json!("system:serviceaccount:mail:sync2")))),
        ("jwt_no_caller", rs256(&with(good(), "sub", json!("SYSTEM:serviceaccount:mail:sync")))),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_token_that_breaks_a_rule_is_the_same_401_and_only_the_audit_has_the_rule() {
    let issuer = Issuer::start(keys());
    let world = world(&issuer, &pod(&format!("subject = \"{SUBJECT}\""))).await;
    let mut ahead = Duration::ZERO;
    let mut first = None;
    for at in 0..bad_tokens(&issuer, ahead).len() {
        // Of a crowd of strangers only the first few are told one by one.
        if at % 8 == 7 {
            let pause = Duration::from_secs(300);
            world.pass(pause);
            ahead += pause;
        }
        let (word, token) = bad_tokens(&issuer, ahead).swap_remove(at);
        let before = reasons(&world).len();
        let problem = refused(&ask(&world, &token).await);
        assert_eq!(first.get_or_insert_with(|| problem.clone()), &problem, "{word} looks like the others");
        world.until(&format!("row {at} is in the audit"), async || reasons(&world).len() > before).await;
        assert_eq!(reasons(&world).last().map(String::as_str), Some(word), "row {at}");
        assert!(!world.daemon.log().contains(token.as_str()), "{word}: no token in the log");
    }
    let answer = ask(&world, &rs256(&claims_at(&issuer, ahead))).await;
    assert_eq!(answer.status, 200, "{}", world.daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolled_key_counts_at_once_and_a_storm_of_unknown_keys_is_one_fetch() {
    let issuer = Issuer::start(keys());
    let world = world(&issuer, &pod(&format!("subject = \"{SUBJECT}\""))).await;
    let (old, new) = (rs256(&claims(&issuer)), |kid: &str| {
        jwt_by_the_other(&json!({ "alg": "RS256", "kid": kid }), &claims(&issuer))
    });
    assert_eq!(ask(&world, &old).await.status, 200);
    assert_eq!(issuer.fetches(), 1, "at the start");

    // With an overlap: the first token by the new key has it fetched.
    issuer.publish(json!({ "keys": [rsa_jwk("k1", &RSA), rsa_jwk("k3", &OTHER_RSA)] }));
    assert_eq!(ask(&world, &new("k3")).await.status, 200, "{}", world.daemon.log());
    assert_eq!(ask(&world, &old).await.status, 200);
    assert_eq!(issuer.fetches(), 2);

    // Anybody can name keys that do not exist.
    let storm = async || {
        let tokens: Vec<String> = (0..100).map(|at| new(&format!("stranger-{at}"))).collect();
        for answer in futures_util::future::join_all(tokens.iter().map(|token| ask(&world, token))).await {
            refused(&answer);
        }
    };
    storm().await;
    assert_eq!(issuer.fetches(), 2, "not twice in five minutes");
    world.pass(Duration::from_secs(5 * 60));
    storm().await;
    storm().await;
    // One for the storm, and one because the keys are old.
    assert!(issuer.fetches() <= 4, "{}", issuer.fetches());
    assert_eq!(ask(&world, &old).await.status, 200);

    // Without an overlap.
    world.pass(Duration::from_secs(5 * 60));
    issuer.publish(json!({ "keys": [p256_jwk("k4", &P256)] }));
    let newest = jwt(&json!({ "alg": "ES256", "kid": "k4" }), &claims(&issuer));
    assert_eq!(ask(&world, &newest).await.status, 200, "{}", world.daemon.log());
    refused(&ask(&world, &old).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_away_for_a_day_is_not_missed_and_a_withdrawn_key_ends_within_five_minutes() {
    let issuer = Issuer::start(keys());
    let world = world(&issuer, &pod(&format!("subject = \"{SUBJECT}\""))).await;
    assert_eq!(see(&world, &rs256(&claims(&issuer))).await.status, 200);
    issuer.be_down(true);
    let mut ahead = Duration::ZERO;
    for hours in [1, 23] {
        let time = Duration::from_secs(hours * 3600);
        let in_vain = || world.daemon.log().matches("those from before stay in use").count();
        let before = in_vain();
        world.pass(time);
        ahead += time;
        world.until("the keys are asked for in vain", async || in_vain() > before).await;
        let answer = see(&world, &rs256(&claims_at(&issuer, ahead))).await;
        assert_eq!(answer.status, 200, "after {hours} h: {}\n{}", answer.text(), world.daemon.log());
    }
    let unknown = jwt(&json!({ "alg": "RS256", "kid": "k9" }), &claims_at(&issuer, ahead));
    refused(&see(&world, &unknown).await);
    let metrics = world.metrics().await;
    assert!(metrics.contains("tokenward_issuer_keys_fetches_total{issuer=\"kubernetes\",outcome=\"ok\"} 1"));
    let failed = "tokenward_issuer_keys_fetches_total{issuer=\"kubernetes\",outcome=\"failed\"} 0";
    assert!(!metrics.contains(failed), "{metrics}");
    assert!(metrics.contains("tokenward_issuer_keys_last_success_timestamp_seconds{issuer=\"kubernetes\"}"));

    // It is back, and says that a key must not be believed any more.
    issuer.publish(json!({ "keys": [p256_jwk("k2", &P256)] }));
    issuer.be_down(false);
    let five_minutes = Duration::from_secs(5 * 60);
    world.pass(five_minutes);
    ahead += five_minutes;
    let withdrawn = rs256(&claims_at(&issuer, ahead));
    world.until("the key is refused", async || see(&world, &withdrawn).await.status == 401).await;
    let other = jwt(&json!({ "alg": "ES256", "kid": "k2" }), &claims_at(&issuer, ahead));
    assert_eq!(see(&world, &other).await.status, 200);
    // Even the last one, whether there is none after it or only one of a kind that is not used here.
    let for_encryption = with(rsa_jwk("k5", &RSA), "use", json!("enc"));
    issuer.publish(json!({ "keys": [for_encryption] }));
    world.pass(five_minutes);
    world.until("the last key is refused", async || see(&world, &other).await.status == 401).await;
    issuer.publish(json!({ "keys": [p256_jwk("k2", &P256)] }));
    world.pass(five_minutes);
    ahead += five_minutes * 2;
    let other = jwt(&json!({ "alg": "ES256", "kid": "k2" }), &claims_at(&issuer, ahead));
    world.until("it is published again", async || see(&world, &other).await.status == 200).await;
    issuer.publish(json!({ "keys": [] }));
    world.pass(five_minutes);
    world.until("the last key is refused", async || see(&world, &other).await.status == 401).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_failed_at_the_first_token_of_a_new_key_is_made_again_soon() {
    let issuer = Issuer::start(keys());
    let world = world(&issuer, &pod(&format!("subject = \"{SUBJECT}\""))).await;
    let half_a_minute = Duration::from_secs(31);
    let new = jwt_by_the_other(&json!({ "alg": "RS256", "kid": "k3" }), &claims_at(&issuer, half_a_minute));
    issuer.publish(json!({ "keys": [rsa_jwk("k1", &RSA), rsa_jwk("k3", &OTHER_RSA)] }));
    issuer.be_down(true);
    refused(&see(&world, &new).await);
    issuer.be_down(false);
    refused(&see(&world, &new).await);
    let in_vain = world.daemon.log().matches("those from before stay in use").count();
    assert_eq!((in_vain, issuer.fetches()), (1, 1), "it is not asked at once again");
    world.pass(half_a_minute);
    world.until("the new key counts", async || see(&world, &new).await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_in_a_file_and_the_issuer_itself_are_replaced_under_load() {
    let section = "[issuers.kubernetes]\nissuer = \"https://kubernetes.default.svc.cluster.local\"\n\
                   audience = \"tokenward\"\njwks_file = \"jwks.json\"\n";
    let both = json!({ "keys": [rsa_jwk("k1", &RSA), rsa_jwk("k3", &OTHER_RSA)] }).to_string();
    let world = Plan::default()
        .file("jwks.json", &keys().to_string())
        .sections(&format!("{section}{}", pod("claims = { \"kubernetes.io\" = { namespace = \"mail\" } }")))
        .start()
        .await;
    world.connect("user-1", ALICE).await;
    let shared = Arc::<Shared>::default();
    let issuer = Issuer { origin: "https://kubernetes.default.svc.cluster.local".to_owned(), shared };
    let of = |kid: &str| json!({ "alg": "RS256", "kid": kid });
    let (old, new) = (jwt(&of("k1"), &claims(&issuer)), jwt_by_the_other(&of("k3"), &claims(&issuer)));
    let replace = |name: &str, content: &str| {
        let path = world.folder.path().join(name);
        let beside = path.with_extension("next");
        crate::world::write_secret(&beside, content);
        std::fs::rename(&beside, &path).expect("renamed");
    };
    refused(&ask(&world, &new).await);

    let (is_over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let load = async || {
        while !is_over.load(Ordering::SeqCst) {
            let answer = ask(&world, &old).await;
            assert_eq!(answer.status, 200, "{}\n{}", answer.text(), world.daemon.log());
            served.fetch_add(1, Ordering::SeqCst);
        }
    };
    let changes = async {
        replace("jwks.json", &both);
        world.until("the new key counts", async || ask(&world, &new).await.status == 200).await;
        replace("jwks.json", "{ \"keys\": \"none\" }");
        world.daemon.until_logged("is no JWK set").await;
        replace("jwks.json", &both);
        // The issuer's own settings.
        let path = world.folder.path().join("tokenward.toml");
        let config = std::fs::read_to_string(&path).expect("the configuration");
        let begun = world.daemon.log().matches("are in force").count();
        replace("tokenward.toml", &config.replace("jwks_file", "max_ttl = \"2h\"\njwks_file"));
        world.until("the reload", async || world.daemon.log().matches("are in force").count() > begun).await;
        let long = with(claims(&issuer), "exp", json!(now() + 7000));
        world
            .until("two hours are allowed", async || ask(&world, &jwt(&of("k1"), &long)).await.status == 200)
            .await;
        is_over.store(true, Ordering::SeqCst);
    };
    tokio::join!(load(), load(), load(), load(), changes);
    assert!(served.load(Ordering::SeqCst) > 0, "requests were served during the changes");

    replace("jwks.json", &json!({ "keys": [rsa_jwk("k3", &OTHER_RSA)] }).to_string());
    world.until("the old key is refused", async || ask(&world, &old).await.status == 401).await;
    assert_eq!(ask(&world, &new).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_on_a_unix_socket_decides_alone() {
    let issuer = Issuer::start(keys());
    let uid = rustix::process::getuid().as_raw();
    let here = format!(
        "[callers.here]\nauthenticate = [{{ unix_user = {uid} }}]\n[[callers.here.allow]]\napp = \"outlook\"\n\
         {EVERYTHING}\n"
    );
    let world = world(&issuer, &format!("{}{here}", pod(&format!("subject = \"{SUBJECT}\"")))).await;
    let socket = world.folder.path().join("local.sock");
    let ask = async |token: Option<&str>| {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<(&str, &str)> =
            bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
        request_unix(&socket, Method::GET, TOKEN, &headers, "").await.expect("an answer")
    };
    assert_eq!(ask(None).await.status, 200, "the peer");
    let good = rs256(&claims(&issuer));
    assert_eq!(ask(Some(&good)).await.status, 200, "the token");
    refused(&ask(Some(&jwt_by_the_other(&json!({ "alg": "RS256", "kid": "k1" }), &claims(&issuer)))).await);
    refused(&ask(Some(&rs256(&with(claims(&issuer), "sub", json!("somebody"))))).await);
    let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).expect("the audit");
    let records = audit.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let tokens = records.filter(|record| record["action"] == "token");
    let actors: Vec<String> =
        tokens.map(|record| record["caller"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(actors, ["here", "pod"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_demands_a_token_is_given_the_newest() {
    let issuer = Issuer::start(keys());
    issuer.demand("first");
    let sections = format!(
        "{}{}",
        issuer.section("token_file = \"own-token\""),
        pod("claims = { \"kubernetes.io\" = { serviceaccount = { name = \"sync\" } } }")
    );
    let world = Plan::default().file("own-token", "first\n").sections(&sections).start().await;
    world.connect("user-1", ALICE).await;
    assert_eq!(ask(&world, &rs256(&claims(&issuer))).await.status, 200, "{}", world.daemon.log());
    // A kubelet replaces the token before it ends.
    issuer.demand("second");
    crate::world::write_secret(&world.folder.path().join("own-token"), "second\n");
    issuer.publish(json!({ "keys": [rsa_jwk("k3", &OTHER_RSA)] }));
    let new = jwt_by_the_other(&json!({ "alg": "RS256", "kid": "k3" }), &claims(&issuer));
    assert_eq!(ask(&world, &new).await.status, 200, "{}", world.daemon.log());
    assert!(!world.daemon.log().contains("second\n"), "no token in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_starts_while_the_issuer_is_away_asks_its_callers_to_wait() {
    let issuer = Issuer::start(keys());
    issuer.be_down(true);
    let world = world(&issuer, &pod(&format!("subject = \"{SUBJECT}\""))).await;
    let token = rs256(&claims(&issuer));
    let bearer = format!("Bearer {token}");
    let local = |path: &str| format!("{}{path}", world.daemon.local);
    let headers = [("authorization", bearer.as_str())];
    let get = async |path: &str| request(Method::GET, &local(path), &headers, "").await.expect("an answer");
    let form = form(&[
        ("grant_type", "client_credentials"),
        ("client_assertion_type", JWT_BEARER),
        ("client_assertion", &token),
    ]);
    let exchange = request(Method::POST, &local("/oauth2/token"), &[FORM], form).await.expect("an answer");
    for (answer, member, code) in [
        (get(TOKEN).await, "code", "issuer_unavailable"),
        (get("/v1/apps/outlook/connections").await, "code", "issuer_unavailable"),
        (exchange, "error", "temporarily_unavailable"),
    ] {
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert_eq!(answer.headers["retry-after"], "5", "{}", answer.text());
        assert_eq!(text(&answer.json(), member), code, "{}", answer.text());
        assert!(!answer.headers.contains_key("www-authenticate"), "{}", answer.text());
    }
    let vault = get("/v1/outlook/creds/user-1").await;
    let words = vault.json()["errors"][0].as_str().unwrap_or_default().to_owned();
    assert!(vault.status == 503 && words.starts_with("issuer_unavailable: "), "{}", vault.text());
    // Nobody else's token is asked to wait.
    refused(&ask(&world, &rs256(&with(claims(&issuer), "iss", json!("https://other.example")))).await);
    issuer.be_down(false);
    world.until("it is back", async || ask(&world, &token).await.status == 200).await;
}

/// As clusters are that were set up alike: they call themselves the same, and have other keys.
#[tokio::test(flavor = "multi_thread")]
async fn of_several_issuers_of_one_name_the_one_that_signed_decides() {
    let name = "https://kubernetes.default.svc.cluster.local";
    let cluster = |cluster: &str| {
        format!(
            "[issuers.{cluster}]\nissuer = \"{name}\"\naudience = \"tokenward\"\njwks_file = \"{cluster}.jwks\"\n\
             [callers.of-{cluster}]\nauthenticate = [{{ jwt = {{ issuer = \"{cluster}\", subject = \"{SUBJECT}\" }} \
             }}]\n[[callers.of-{cluster}.allow]]\napp = \"outlook\"\n{EVERYTHING}\n"
        )
    };
    let third = cluster("c").replace(SUBJECT, "somebody-else");
    let set = |key: Value| json!({ "keys": [key] }).to_string();
    let world = Plan::default()
        .file("a.jwks", &set(rsa_jwk("k1", &RSA)))
        .file("b.jwks", &set(rsa_jwk("k1", &OTHER_RSA)))
        .file("c.jwks", &set(p256_jwk("k2", &P256)))
        .sections(&format!("{}{}{third}", cluster("a"), cluster("b")))
        .start()
        .await;
    world.connect("user-1", ALICE).await;
    let shared = Arc::<Shared>::default();
    let issuer = Issuer { origin: name.to_owned(), shared };
    let header = json!({ "alg": "RS256", "kid": "k1" });
    assert_eq!(ask(&world, &jwt(&header, &claims(&issuer))).await.status, 200, "{}", world.daemon.log());
    assert_eq!(ask(&world, &jwt_by_the_other(&header, &claims(&issuer))).await.status, 200);
    // The third cluster's account of that name is nobody here.
    refused(&ask(&world, &jwt(&json!({ "alg": "ES256", "kid": "k2" }), &claims(&issuer))).await);
    let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).expect("the audit");
    let records = audit.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let tokens = records.filter(|record| record["action"] == "token");
    let actors: Vec<String> = tokens.map(|record| text(&record, "caller").to_owned()).collect();
    assert_eq!(actors, ["of-a", "of-b"]);
}
