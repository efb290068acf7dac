//! Names, channels and values in the store show nothing usable as a credential to readers of the store (or of
//! its backup, `MONITOR`, `SCAN`).

use parking_lot::Mutex;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};
use tokenward::keyring::files;
use tokenward::keyring::seal::Place;
use tokenward::system::SystemRandom;

use crate::canaries::Searcher;
use crate::http_client::Browser;
use crate::redis_server::RedisServer;
use crate::world::{ALICE, Kept, Plan, World, text};

/// Everything that a Redis is told, as `MONITOR` shows it: keys, channels and values, those within scripts
/// too.
pub(crate) struct Monitor {
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Monitor {
    pub(crate) fn of(redis: &RedisServer) -> Monitor {
        let mut socket = TcpStream::connect(("127.0.0.1", redis.port())).expect("Redis listens");
        socket.write_all(b"MONITOR\r\n").expect("written");
        let mut lines = BufReader::new(socket);
        let mut answer = String::new();
        lines.read_line(&mut answer).expect("an answer");
        assert_eq!(answer, "+OK\r\n");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = seen.clone();
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                kept.lock().append(&mut line);
            }
        });
        Monitor { seen }
    }

    /// All that was said until now: what it is asked last is seen last.
    pub(crate) async fn until_now(&self, world: &World) -> Vec<u8> {
        let last = format!("the-end-{}", self.seen.lock().len());
        world.redis.as_ref().expect("a Redis").cli(&["ECHO", &last]);
        let is_there = || {
            let seen = self.seen.lock();
            seen.windows(last.len()).any(|window| window == last.as_bytes())
        };
        world.until("MONITOR has shown everything", async || is_there()).await;
        self.seen.lock().clone()
    }
}

fn parameter(url: &str, wanted: &str) -> String {
    let query = url.split_once('?').expect("a query").1;
    let mut parameters = form_urlencoded::parse(query.as_bytes());
    let found = parameters.find(|(name, _)| name == wanted);
    found.unwrap_or_else(|| panic!("{wanted} is in {url}")).1.into_owned()
}

/// Nobody gets in with the name that a session is filed under: neither at its page nor at its button.
async fn names_open_nothing(world: &World) {
    let redis = world.redis.as_ref().expect("a Redis");
    let names = redis.cli(&["--scan", "--pattern", "*:pending:*"]);
    let mut tried = 0;
    for name in names.lines().filter(|name| name.contains("session:") || name.contains("consent:")) {
        let filed_under = name.trim_end_matches('}').rsplit(':').next().expect("a last part");
        let link = format!("{}/connect/{filed_under}", world.base_url());
        let mut browser = Browser::default();
        assert_eq!(browser.get(&link).await.expect("a page").status, 404, "{name}");
        assert_eq!(browser.post(&link, "").await.expect("a page").status, 404, "{name}");
        for api in ["connect-sessions", "admin-consent-sessions"] {
            let path = format!("/v1/{api}/{filed_under}");
            assert_eq!(world.api(Method::GET, &path, Value::Null).await.status, 404, "{api}: {name}");
        }
        tried += 1;
    }
    assert!(tried >= 2, "{names}");
}

/// Connects to `return_url` and confirms: what each step carried that lets its bearer in.
async fn connect(world: &World, connection: &str, secrets: &mut Vec<(&'static str, String)>) {
    world.entra.sign_in_as(ALICE);
    let session = world
        .start_session(json!({
            "app": "outlook", "connection": connection, "login_hint": ALICE,
            "return_url": "https://app.contoso.example/settings/outlook"
        }))
        .await;
    let (id, link) = (text(&session, "id"), text(&session, "connect_url"));
    secrets.push(("a connect session's id", id.to_owned()));
    let mut browser = Browser::default();
    assert_eq!(browser.get(link).await.expect("a page").status, 200);
    let authorize = browser.post(link, "").await.expect("the button").location();
    for name in ["state", "nonce"] {
        secrets.push((name, parameter(&authorize, name)));
    }
    secrets.push(("cookie", browser.cookie(link).split_once('=').expect("a cookie").1.to_owned()));
    let callback = browser.get(&authorize).await.expect("the authority").location();
    secrets.push(("the authority's code", parameter(&callback, "code")));
    let back = browser.get(&callback).await.expect("the way back").location();
    let code = parameter(&back, "code");
    secrets.push(("a one-time code", code.clone()));
    let path = format!("/v1/connect-sessions/{id}/confirm");
    let wrong = world.api(Method::POST, &path, json!({ "code": "A".repeat(43) })).await;
    assert_eq!(wrong.status, 409, "{}", wrong.text());
    let confirmed = world.api(Method::POST, &path, json!({ "code": code })).await;
    assert_eq!(confirmed.status, 200, "{}", confirmed.text());
}

#[tokio::test]
async fn nothing_that_lets_its_bearer_in_is_in_a_name_a_channel_or_an_unsealed_value() {
    let world = Plan::default().kept(Kept::Redis).start().await;
    let redis = world.redis.as_ref().expect("a Redis");
    let monitor = Monitor::of(redis);
    let mut secrets = Vec::new();
    connect(&world, "team-a/alice", &mut secrets).await;
    let held = world.access_token("team-a/alice").await;

    // A link that nobody has opened, one of an administrator, and its redirect, which counts once.
    let body = json!({ "app": "outlook", "connection": "team-a/unused" });
    secrets.push(("an unused session's id", text(&world.start_session(body).await, "id").to_owned()));
    let asked = json!({ "app": "outlook" });
    let consent = world.api(Method::POST, "/v1/admin-consent-sessions", asked).await.json();
    let id = text(&consent, "id").to_owned();
    let state = parameter(text(&consent, "admin_consent_url"), "state");
    let tenant = "11111111-0000-4000-8000-00000000000a";
    let redirect = format!("?admin_consent=True&tenant={tenant}&state={state}");
    for _ in 0..2 {
        let url = format!("{}/callback/outlook{redirect}", world.base_url());
        assert_eq!(Browser::default().get(&url).await.expect("a page").status, 200);
    }
    let path = format!("/v1/admin-consent-sessions/{id}");
    assert_eq!(world.api(Method::GET, &path, Value::Null).await.status, 200);
    names_open_nothing(&world).await;
    secrets.push(("an admin consent session's id", id));
    secrets.push(("an admin consent's state", state));

    // And a refresh, whose tokens are other ones.
    world.outlive_tokens();
    assert_ne!(world.access_token("team-a/alice").await, held);
    let mut searcher = Searcher::default();
    for (what, secret) in &secrets {
        searcher.add(what, secret.as_bytes());
    }
    for (what, secret) in world.entra.issued_secrets() {
        searcher.add(what, secret.rsplit('.').next().unwrap_or(&secret).as_bytes());
    }
    for (what, secret) in world.entra.presented_secrets() {
        searcher.add(what, secret.as_bytes());
    }
    for key in [&world.key, &world.reader_key] {
        searcher.add("API key", key.as_bytes());
    }

    // Each was there to be seen: sessions of both kinds, states and a grant that waited were stored by these
    // commands.
    let seen = monitor.until_now(&world).await;
    let shown = String::from_utf8_lossy(&seen);
    for kind in ["session", "state", "consent", "redeemed", "confirming"] {
        assert!(shown.contains(&format!("tokenward:pending:{{{kind}:")), "{kind}");
    }
    assert!(shown.contains("\"PUBLISH\"") && shown.contains("tokenward:changes"), "changes were told");
    searcher.must_be_absent("what MONITOR shows", &seen);
    for key in redis.cli(&["--scan"]).lines() {
        searcher.must_be_absent("a key's name", key.as_bytes());
    }
}

/// The store's place of a session's record, and how it is sealed there.
fn of_session(name: &str) -> (String, Place<'_>) {
    let place = Place { schema: "session", owner: (name, ""), field: "pending", generation: 0 };
    (format!("tokenward:pending:{{session:{name}}}"), place)
}

/// Has a session's record be where a build before 0.3 would have put it: under the id itself.
fn file_as_before(world: &World, id: &str) {
    let keyring = files::open(&world.folder.path().join("keyring")).expect("the keyring");
    let client = redis::Client::open(world.redis.as_ref().expect("a Redis").url()).expect("a URL");
    let mut redis = client.get_connection().expect("connects");
    let hash = sha2(id);
    let ((now, place_now), (before, place_before)) = (of_session(&hash), of_session(id));
    let sealed: Vec<u8> = redis::cmd("GETDEL").arg(now).query(&mut redis).expect("is there");
    let session = keyring.open(&place_now, &sealed).expect("opens");
    let sealed = keyring.seal(&place_before, &session, &SystemRandom::new());
    redis::cmd("SET").arg(before).arg(sealed).arg("EX").arg(7200).exec(&mut redis).expect("stored");
}

fn sha2(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_link_that_a_build_before_made_works_to_its_end() {
    let world = Plan::default().kept(Kept::Redis).start().await;
    world.entra.sign_in_as(ALICE);
    let session = world.start_session(json!({ "app": "outlook", "connection": "team-a/alice" })).await;
    let id = text(&session, "id");
    file_as_before(&world, id);
    assert_eq!(world.session(id).await["state"], "pending");
    let mut browser = Browser::default();
    world.sign_in(&mut browser, text(&session, "connect_url")).await;
    let state = world.session(id).await;
    assert_eq!(state["state"], "awaiting_confirmation", "{state}");
    let account = json!({ "account": { "tid": state["account"]["tid"], "oid": state["account"]["oid"] } });
    let confirmed = world.api(Method::POST, &format!("/v1/connect-sessions/{id}/confirm"), account).await;
    assert_eq!(confirmed.status, 200, "{}", confirmed.text());
    assert_eq!(world.session(id).await["state"], "connected");
    // One record, where it was: a replica of that build still finds it.
    let keys =
        world.redis.as_ref().expect("a Redis").cli(&["--scan", "--pattern", "tokenward:pending:{session:*"]);
    assert_eq!(keys, of_session(id).0);
}
