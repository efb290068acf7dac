//! Attacks on the connect flow, made from outside with browsers, raw sockets and a hostile authority. No code
//! may be sent, nothing may be stored, and the rightful browser must not be locked out.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use entra_emulator::{App, CallbackPatch, Endpoint, Fault, FaultRule};
use http::Method;
use serde_json::{Map, Value, json};
use tokenward::domain::time::{Clock, Timestamp};
use tokenward::keyring::files;
use tokenward::keyring::seal::Place;
use tokenward::system::{SystemClock, SystemRandom};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::attacks_rights::operate;
use crate::http_client::{Answer, Browser, request};
use crate::world::{
    ALICE, BOB, CLIENT_ID, CLIENT_SECRET, Kept, PATIENCE, Plan, World, attribute, hidden_fields, text,
};

pub(crate) const RETURN_URL: &str = "https://app.contoso.example/settings/outlook";

// === steps of the flow, one at a time ===

/// A session for a connection, with what else is asked for.
pub(crate) async fn session(world: &World, connection: &str, more: Value) -> Value {
    let mut body = json!({ "app": "outlook", "connection": connection });
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    world.start_session(body).await
}

/// Presses the button: the authority's URL.
pub(crate) async fn press(browser: &mut Browser, session: &Value) -> String {
    let answer = browser.post(text(session, "connect_url"), "").await.expect("the button");
    assert_eq!(answer.status, 303, "{}", answer.text());
    answer.location()
}

/// Signs in: the callback's URL, not opened yet.
pub(crate) async fn sign_in(browser: &mut Browser, authorize_url: &str) -> String {
    let answer = browser.get(authorize_url).await.expect("the authority");
    assert!(answer.status.is_redirection(), "{}", answer.text());
    answer.location()
}

/// Presses and signs in.
pub(crate) async fn up_to_callback(browser: &mut Browser, session: &Value) -> String {
    let url = press(browser, session).await;
    sign_in(browser, &url).await
}

pub(crate) async fn state_of(world: &World, session: &Value) -> Value {
    world.session(text(session, "id")).await
}

pub(crate) async fn confirm(world: &World, session: &Value, body: Value) -> Answer {
    confirm_as(world, &world.key, session, body).await
}

async fn confirm_as(world: &World, key: &str, session: &Value, body: Value) -> Answer {
    let path = format!("/v1/connect-sessions/{}/confirm", text(session, "id"));
    world.api_as(key, Method::POST, &path, body).await
}

pub(crate) fn account_of(state: &Value) -> Value {
    json!({ "account": { "tid": state["account"]["tid"], "oid": state["account"]["oid"] } })
}

pub(crate) fn redemptions(world: &World) -> usize {
    world.token_calls("authorization_code")
}

/// The parameters of a URL.
fn parameters(url: &str) -> Vec<(String, String)> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

pub(crate) fn parameter(url: &str, name: &str) -> String {
    let found = parameters(url).into_iter().find(|(known, _)| known == name);
    found.unwrap_or_else(|| panic!("no {name} in {url}")).1
}

/// The URL with other parameters.
fn with(url: &str, change: impl FnOnce(&mut Vec<(String, String)>)) -> String {
    let mut all = parameters(url);
    change(&mut all);
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(all).finish();
    format!("{}?{query}", url.split('?').next().unwrap_or_default())
}

pub(crate) fn set(url: &str, name: &str, value: &str) -> String {
    with(url, |all| {
        all.retain(|(known, _)| known != name);
        all.push((name.to_owned(), value.to_owned()));
    })
}

fn without(url: &str, name: &str) -> String {
    with(url, |all| all.retain(|(known, _)| known != name))
}

fn again(url: &str, name: &str, value: &str) -> String {
    with(url, |all| all.push((name.to_owned(), value.to_owned())))
}

/// Opens a URL that must be refused, and by a page.
pub(crate) async fn refused(world: &World, browser: &mut Browser, url: &str, why: &str) -> Answer {
    let before = redemptions(world);
    let answer = browser.get(url).await.expect("an answer");
    assert!(answer.status.is_client_error(), "{why}: {} {}", answer.status, answer.text());
    assert_eq!(redemptions(world), before, "{why}: the code was sent");
    assert_headers(&answer, why);
    answer
}

/// Adds a second app with its own path, at the same authority.
async fn add_app(world: &mut World) {
    let port = world.public_port;
    let redirect = |app: &str| format!("http://localhost:{port}/callback/{app}");
    let app = App::new(CLIENT_ID).secret(CLIENT_SECRET);
    world
        .entra
        .add_app(app.redirect_uri(redirect("outlook")).redirect_uri(redirect("other")))
        .expect("an app");
    let authority = world.entra.authority("common");
    let path = world.folder.path().join("tokenward.toml");
    let mut config = std::fs::read_to_string(&path).expect("read");
    config.push_str(&format!(
        r#"
[apps.other]
client_id = "{CLIENT_ID}"
authority = "{authority}"
scopes = ["offline_access", "openid", "profile", "Mail.Read"]
tenants = ["*"]
[[apps.other.credentials]]
id = "first"
kind = "secret"
file = "client-secret"
[[callers.mail-sync.allow]]
app = "other"
connections = ["*"]
bulk = true
scopes = ["*"]
connect = true
"#
    ));
    std::fs::write(&path, config).expect("write");
    world.stop_and_restart().await;
}

/// Sends bytes as they are to the public listener and reads to the end.
async fn raw(world: &World, head: &str) -> String {
    let address = world.daemon.public.trim_start_matches("http://").to_owned();
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connected");
    stream.write_all(head.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// What every answer of the public listener has (C8).
pub(crate) fn assert_headers(answer: &Answer, what: &str) {
    let header = |name: &str| {
        let value = answer.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_else(|| panic!("{what}: no {name}"))
    };
    assert_ne!(answer.status, 307, "{what}");
    assert_ne!(answer.status, 302, "{what}");
    assert_eq!(header("cache-control"), "no-store", "{what}");
    assert_eq!(header("referrer-policy"), "no-referrer", "{what}");
    assert_eq!(header("x-content-type-options"), "nosniff", "{what}");
    assert_eq!(header("content-type"), "text/html; charset=utf-8", "{what}");
    let policy = header("content-security-policy");
    assert!(policy.split(';').any(|rule| rule.trim() == "default-src 'none'"), "{what}: {policy}");
    assert!(policy.split(';').any(|rule| rule.trim() == "frame-ancestors 'none'"), "{what}: {policy}");
    assert!(!policy.contains("unsafe"), "{what}: {policy}");
    let mut page = answer.text().to_ascii_lowercase();
    // The one script there is: it copies an administrator's link, and the policy allows it by its hash.
    if let Some(hash) = policy.split("script-src ").nth(1) {
        let script = answer
            .text()
            .split("<script>")
            .nth(1)
            .and_then(|rest| rest.split("</script>").next())
            .map(str::to_owned);
        let script = script.unwrap_or_else(|| panic!("{what}: no script"));
        let digest = base64::engine::general_purpose::STANDARD.encode(digest(&SHA256, script.as_bytes()));
        assert_eq!(hash, format!("'sha256-{digest}'"), "{what}");
        assert!(answer.text().contains("data-done"), "{what}");
        page = page.replacen(&format!("<script>{}</script>", script.to_ascii_lowercase()), "", 1);
    }
    // Escaped text is no tag.
    for tag in page.split('<').skip(1).map(|rest| rest.split('>').next().unwrap_or_default()) {
        let name = tag.trim_start_matches('/').split(|c: char| !c.is_ascii_alphanumeric()).next();
        assert!(
            !matches!(name, Some("script" | "img" | "iframe" | "base" | "link" | "object" | "svg")),
            "{what}: <{tag}>"
        );
        for forbidden in ["javascript:", " src=", " on", " style="] {
            assert!(!tag.contains(forbidden), "{what}: <{tag}>");
        }
    }
    assert!(!page.contains("@import") && !page.contains("url("), "{what}: {page}");
}

// === C1: PKCE ===

#[tokio::test]
async fn every_flow_has_its_own_s256_challenge_and_the_token_request_its_verifier() {
    let world = Plan::default().start().await;
    let mut challenges = std::collections::BTreeSet::new();
    for number in 0..8 {
        let session = session(&world, &format!("user-{number}"), Value::Null).await;
        let mut browser = Browser::default();
        // The button twice: that is two flows.
        for _ in 0..2 {
            let url = press(&mut browser, &session).await;
            assert_eq!(parameter(&url, "code_challenge_method"), "S256");
            assert_eq!(parameter(&url, "response_type"), "code");
            let challenge = parameter(&url, "code_challenge");
            assert_eq!(URL_SAFE_NO_PAD.decode(&challenge).map(|raw| raw.len()), Ok(32), "{challenge}");
            assert_eq!(challenge.len(), 43);
            assert!(challenges.insert(challenge), "a challenge was used twice");
        }
        let last = press(&mut browser, &session).await;
        let url = sign_in(&mut browser, &last).await;
        browser.get(&url).await.expect("a page");
        let presented = world.entra.presented_secrets();
        let (_, verifier) =
            presented.iter().rfind(|(name, _)| *name == "code_verifier").expect("a verifier was sent");
        assert_eq!(verifier.len(), 43);
        let fits = URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()));
        assert_eq!(fits, parameter(&last, "code_challenge"));
    }
    for entry in world.entra.ledger() {
        match entry.endpoint {
            Endpoint::Authorize => assert!(entry.query_keys.iter().any(|key| key == "code_challenge")),
            Endpoint::Token if entry.grant_type.as_deref() == Some("authorization_code") => {
                assert!(entry.form_keys.iter().any(|key| key == "code_verifier"));
                assert!(entry.query_keys.is_empty(), "{entry:?}");
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn an_authority_that_refuses_pkce_is_never_tried_without_it() {
    let mut world = Plan::default().start().await;
    // At the authorize endpoint: the challenge's method, then its size.
    for code in [501_491, 50_147] {
        world.entra.clear_ledger();
        world.entra.faults().inject(FaultRule::new(Endpoint::Authorize, Fault::aadsts(code)).once());
        let session = session(&world, "alice", Value::Null).await;
        let mut browser = Browser::default();
        let url = up_to_callback(&mut browser, &session).await;
        browser.get(&url).await.expect("a page");
        assert_eq!(state_of(&world, &session).await["state"], "failed");
        assert_eq!(world.entra.ledger_count(Endpoint::Authorize, None), 1);
        assert_eq!(world.entra.ledger_count(Endpoint::Token, None), 0);
    }
    // At the token endpoint: the verifier.
    world.entra.clear_ledger();
    for code in [50_148, 501_481] {
        world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::aadsts(code)).once());
        let session = session(&world, "alice", Value::Null).await;
        let mut browser = Browser::default();
        let url = up_to_callback(&mut browser, &session).await;
        browser.get(&url).await.expect("a page");
        assert_eq!(state_of(&world, &session).await["state"], "failed");
    }
    let sent: Vec<_> =
        world.entra.ledger().into_iter().filter(|entry| entry.endpoint == Endpoint::Token).collect();
    assert_eq!(sent.len(), 2, "once for each flow");
    assert!(sent.iter().all(|entry| entry.form_keys.iter().any(|key| key == "code_verifier")), "{sent:?}");
    // Metadata that knows nothing of S256, or denies it.
    for methods in [Value::Null, json!([]), json!(["plain"])] {
        world.entra.faults().clear();
        let patch = Map::from_iter([("code_challenge_methods_supported".to_owned(), methods.clone())]);
        world.entra.faults().inject(FaultRule::new(Endpoint::Discovery, Fault::DiscoveryPatch(patch)));
        world.kill_and_restart().await;
        let session = session(&world, "alice", Value::Null).await;
        let pressed = Browser::default().post(text(&session, "connect_url"), "").await.expect("the button");
        if pressed.status == 303 {
            assert_eq!(parameter(&pressed.location(), "code_challenge_method"), "S256", "{methods}");
        } else {
            assert_eq!(pressed.status, 503, "{methods}");
        }
    }
}

// === C2: state ===

#[tokio::test]
async fn a_state_that_is_not_this_browsers_own_and_whole_sends_no_code() {
    for kept in [Kept::Embedded, Kept::Redis] {
        let world = Plan::default().kept(kept).start().await;
        let (hers, his) =
            (session(&world, "alice", Value::Null).await, session(&world, "bob", Value::Null).await);
        let (mut one, mut other) = (Browser::default(), Browser::default());
        let good = up_to_callback(&mut one, &hers).await;
        world.entra.sign_in_as(BOB);
        let others = up_to_callback(&mut other, &his).await;
        let state = parameter(&good, "state");
        assert!(URL_SAFE_NO_PAD.decode(&state).is_ok_and(|raw| raw.len() >= 16), "{state}");

        let flipped: String = {
            let mut bytes = state.clone().into_bytes();
            bytes[0] ^= 1;
            String::from_utf8(bytes).expect("ASCII")
        };
        let strange = parameter(&others, "state");
        let attacks = [
            ("flipped", set(&good, "state", &flipped)),
            ("truncated", set(&good, "state", &state[..state.len() - 1])),
            ("longer", set(&good, "state", &format!("{state}A"))),
            ("another case", set(&good, "state", &state.to_ascii_uppercase())),
            ("absent", without(&good, "state")),
            ("empty", set(&good, "state", "")),
            ("twice the same", again(&good, "state", &state)),
            ("twice, wrong last", again(&good, "state", "x")),
            ("huge", set(&good, "state", &"s".repeat(4000))),
            ("another session's", set(&good, "state", &strange)),
            (
                "an array",
                with(&good, |all| {
                    all.iter_mut()
                        .filter(|(name, _)| name == "state")
                        .for_each(|(name, _)| name.push_str("[]"))
                }),
            ),
        ];
        for (why, url) in &attacks {
            refused(&world, &mut one, url, why).await;
        }
        // Swapped between two browsers, both ways, and a browser with no cookie at all.
        refused(&world, &mut one, &others, "swapped").await;
        refused(&world, &mut other, &good, "swapped back").await;
        refused(&world, &mut Browser::default(), &good, "no cookie").await;
        assert_eq!(redemptions(&world), 0);
        for session in [&hers, &his] {
            assert_eq!(state_of(&world, session).await["state"], "pending");
        }
        // The rightful browsers finish after all that.
        for (browser, url) in [(&mut one, &good), (&mut other, &others)] {
            let page = browser.get(url).await.expect("a page");
            assert_eq!(page.status, 200, "{}", page.text());
        }
        assert_eq!(state_of(&world, &hers).await["account"]["username"], ALICE);
        assert_eq!(state_of(&world, &his).await["account"]["username"], BOB);
        assert_eq!(redemptions(&world), 2);
        // A state of a flow that is over cannot carry another code, nor the same one again.
        for url in [&good, &set(&good, "code", &parameter(&others, "code"))] {
            assert!(one.get(url).await.expect("a page").text().contains("One more step"));
        }
        assert_eq!(redemptions(&world), 2);
        refused(&world, &mut other, &good, "replay").await;
    }
}

#[tokio::test]
async fn a_state_dies_of_age_before_its_session_does() {
    let world = Plan::default().sections("[limits]\nstate_ttl = \"1m\"").start().await;
    let session = session(&world, "alice", Value::Null).await;
    let mut browser = Browser::default();
    let old = up_to_callback(&mut browser, &session).await;
    world.pass(Duration::from_secs(61));
    refused(&world, &mut browser, &old, "expired").await;
    // The link still works: another press, another state.
    let url = up_to_callback(&mut browser, &session).await;
    browser.get(&url).await.expect("a page");
    assert_eq!(state_of(&world, &session).await["state"], "awaiting_confirmation");
}

#[tokio::test]
async fn sessions_and_waiting_grants_expire_by_themselves() {
    let expire = async |kept| {
        let plan = Plan::default().kept(kept);
        let limits = "[limits]\nconnect_session_ttl = \"1m\"\nconfirmation_ttl = \"1m\"";
        let world = plan.sections(limits).start().await;
        let untouched = session(&world, "untouched", Value::Null).await;
        let begun = session(&world, "begun", Value::Null).await;
        let waiting = session(&world, "waiting", Value::Null).await;
        let mut browser = Browser::default();
        let late = up_to_callback(&mut browser, &begun).await;
        let url = up_to_callback(&mut browser, &waiting).await;
        browser.get(&url).await.expect("a page");
        let account = account_of(&state_of(&world, &waiting).await);
        world.pass(Duration::from_secs(61));
        world.pass_in_redis(Duration::from_secs(61));
        for session in [&untouched, &begun, &waiting] {
            assert_eq!(state_of(&world, session).await["state"], "expired");
            let link = text(session, "connect_url");
            assert_eq!(browser.get(link).await.expect("a page").status, 410);
            assert_eq!(browser.post(link, "").await.expect("a page").status, 410);
        }
        refused(&world, &mut browser, &late, "the session is over").await;
        assert_eq!(confirm(&world, &waiting, account).await.status, 409);
        for name in ["untouched", "begun", "waiting"] {
            assert_eq!(world.token(name).await.status, 404);
        }
    };
    tokio::join!(expire(Kept::Embedded), expire(Kept::Redis));
}

// === C3: whose account is it ===

#[tokio::test]
async fn a_second_browser_cannot_press_the_button_of_a_begun_session() {
    let world = Plan::default().start().await;
    let session = session(&world, "alice", Value::Null).await;
    let mut first = Browser::default();
    let url = up_to_callback(&mut first, &session).await;
    for _ in 0..3 {
        let pressed = Browser::default().post(text(&session, "connect_url"), "").await.expect("an answer");
        assert_eq!(pressed.status, 409, "{}", pressed.text());
        assert!(pressed.headers.get("set-cookie").is_none() && pressed.headers.get("location").is_none());
        assert_headers(&pressed, "another browser");
    }
    assert_eq!(world.entra.ledger_count(Endpoint::Token, None), 0);
    first.get(&url).await.expect("a page");
    assert_eq!(state_of(&world, &session).await["state"], "awaiting_confirmation");
}

#[tokio::test]
async fn many_browsers_that_press_at_once_are_one() {
    for kept in [Kept::Embedded, Kept::Redis] {
        let world = Plan::default().kept(kept).start().await;
        let session = session(&world, "alice", Value::Null).await;
        let presses: Vec<_> = (0..30)
            .map(|_| {
                let url = text(&session, "connect_url").to_owned();
                tokio::spawn(
                    async move { Browser::default().post(&url, "").await.expect("an answer").status },
                )
            })
            .collect();
        let mut won = 0;
        for press in presses {
            let status = press.await.expect("joined");
            assert!(status == 303 || status == 409, "{status}");
            won += usize::from(status == 303);
        }
        assert_eq!(won, 1, "{kept:?}");
    }
}

#[tokio::test]
async fn another_account_than_the_pinned_one_leaves_nothing_behind() {
    for kept in [Kept::Embedded, Kept::Redis] {
        let world = Plan::default().kept(kept).start().await;
        world.connect("model", ALICE).await;
        let pin = world.show("model").await["account"].clone();
        let pin = json!({ "account": { "tid": pin["tid"], "oid": pin["oid"] }, "return_url": RETURN_URL });
        // A new connection with a pin, and the renewal of one that has its account.
        for (name, more) in [("fresh", pin), ("model", json!({ "return_url": RETURN_URL }))] {
            let keys = sign_in_keys(&world);
            let session = session(&world, name, more).await;
            let mut browser = Browser::default();
            let url = press(&mut browser, &session).await;
            let url = sign_in(&mut browser, &set(&url, "login_hint", BOB)).await;
            let back = browser.get(&url).await.expect("the way back");
            assert_eq!(back.status, 303, "{}", back.text());
            assert!(back.location().ends_with("&error=account_mismatch"), "{}", back.location());
            let state = state_of(&world, &session).await;
            assert_eq!((text(&state, "state"), text(&state, "reason")), ("failed", "account_mismatch"));
            assert!(state.get("account").is_none(), "{state}");
            assert_eq!(confirm(&world, &session, json!({ "code": "x" })).await.status, 409);
            // Only the session itself, and that its callback came.
            let more: Vec<_> = sign_in_keys(&world).difference(&keys).cloned().collect();
            let is_one = |of: &str| {
                let begins = format!("tokenward:pending:{{{of}:");
                more.iter().filter(|key| key.starts_with(&begins)).count() == 1
            };
            let is_so = more.len() == 2 && is_one("session") && is_one("state");
            assert!(if kept == Kept::Redis { is_so } else { more.is_empty() }, "{more:?}");
        }
        assert_eq!(world.token("fresh").await.status, 404);
        assert_eq!(world.show("model").await["account"]["username"], ALICE);
        let token = world.access_token("model").await;
        assert_eq!(text(&world.graph(&token).await.json(), "userPrincipalName"), ALICE);
    }
}

/// The keys in which the shared store has something of a sign-in: all but leases, due times, token hosts,
/// gathered events of earlier changes and what a replica says of itself, which come and go at times of their
/// own.
fn sign_in_keys(world: &World) -> BTreeSet<String> {
    const OF_REPLICAS: [&str; 12] = [
        "notices:{notices}",
        "notice-last:{notices}",
        "notice-places:{notices}",
        "counted:{",
        "due:{",
        "used:{",
        "lease:{",
        "intent:{",
        "pending:{replicas:",
        "pending:{counts:",
        "pending:{credential-choices:",
        "pending:{token-hosts:",
    ];
    let keys = world.redis.as_ref().map_or_else(String::new, |redis| redis.cli(&["KEYS", "tokenward:*"]));
    let is_one = |key: &&str| {
        !OF_REPLICAS.iter().any(|begins| key.strip_prefix("tokenward:").unwrap_or(key).starts_with(begins))
    };
    keys.lines().filter(is_one).map(ToOwned::to_owned).collect()
}

#[tokio::test]
async fn a_link_made_for_one_and_opened_by_another_hands_out_nothing_before_it_is_confirmed() {
    let world = Plan::default().start().await;
    // The product makes the link for Alice; Bob is tricked into opening it.
    let captured = session(&world, "team-b/alice", json!({ "login_hint": ALICE })).await;
    let mut bobs = Browser::default();
    let url = press(&mut bobs, &captured).await;
    let url = sign_in(&mut bobs, &set(&url, "login_hint", BOB)).await;
    let page = bobs.get(&url).await.expect("a page");
    assert!(page.text().contains(BOB), "{}", page.text());
    let state = state_of(&world, &captured).await;
    assert_eq!(state["state"], "awaiting_confirmation");
    assert_eq!(state["account"]["username"], BOB);
    assert_eq!(world.token("team-b/alice").await.status, 404);
    let listed = world.api(Method::GET, "/v1/apps/outlook/connections", Value::Null).await.json();
    assert_eq!(listed["connections"], json!([]));
    // Nobody but the caller that made it sees it or confirms it.
    let id = text(&captured, "id");
    let seen = world
        .api_as(&world.reader_key, Method::GET, &format!("/v1/connect-sessions/{id}"), Value::Null)
        .await;
    assert_eq!((seen.status.as_u16(), text(&seen.json(), "code")), (404, "session_not_found"));
    let taken = confirm_as(&world, &world.reader_key, &captured, account_of(&state)).await;
    assert_eq!((taken.status.as_u16(), text(&taken.json(), "code")), (404, "session_not_found"));
    // The product knows that it was Alice: refused, and still nothing.
    let alice = {
        world.connect("alice-elsewhere", ALICE).await;
        account_of(&world.show("alice-elsewhere").await)
    };
    let wrong = confirm(&world, &captured, alice).await;
    assert_eq!((wrong.status.as_u16(), text(&wrong.json(), "code")), (409, "confirmation_rejected"));
    assert_eq!(world.token("team-b/alice").await.status, 404);
}

#[tokio::test]
async fn five_wrong_confirmations_end_the_session_and_its_grant() {
    for kept in [Kept::Embedded, Kept::Redis] {
        let world = Plan::default().kept(kept).start().await;
        for return_url in [None, Some(RETURN_URL)] {
            let more = return_url.map_or(Value::Null, |url| json!({ "return_url": url }));
            let session = session(&world, "alice", more).await;
            let mut browser = Browser::default();
            let url = up_to_callback(&mut browser, &session).await;
            let answer = browser.get(&url).await.expect("the way back");
            let state = state_of(&world, &session).await;
            let right = match return_url {
                Some(_) => json!({ "code": parameter(&answer.location(), "code") }),
                None => account_of(&state),
            };
            let wrong = match return_url {
                Some(_) => json!({ "code": "A".repeat(43) }),
                None => {
                    let oid = "00000000-0000-4000-8000-000000000000";
                    json!({ "account": { "tid": state["account"]["tid"], "oid": oid } })
                }
            };
            let mut last = String::new();
            for _ in 0..5 {
                let refused = confirm(&world, &session, wrong.clone()).await;
                assert_eq!(refused.status, 409);
                last = refused.headers["x-request-id"].to_str().expect("text").to_owned();
            }
            let over = state_of(&world, &session).await;
            assert_eq!((text(&over, "state"), text(&over, "reason")), ("failed", "access_denied"));
            // An operator finds it by the request that ended it.
            let path = format!("/admin/v1/sessions?reference={last}");
            let found = operate(&world, Method::GET, &path, Value::Null).await.json();
            let [found] = found["sessions"].as_array().expect("a list").as_slice() else {
                panic!("{found}");
            };
            assert_eq!((text(found, "connection"), text(found, "request_id")), ("alice", last.as_str()));
            assert_eq!(confirm(&world, &session, right).await.status, 409);
            assert_eq!(world.token("alice").await.status, 404);
        }
    }
}

/// Whoever deletes a connection means the sign-ins that wait for it too: one that is confirmed afterwards,
/// for the first time or once more, does not bring it back.
#[tokio::test]
async fn a_sign_in_from_before_a_delete_is_not_confirmed_after_it() {
    for kept in [Kept::Embedded, Kept::Redis] {
        let world = Plan::default().kept(kept).start().await;
        for is_there in [false, true] {
            let waiting = session(&world, "alice", Value::Null).await;
            let mut browser = Browser::default();
            let url = up_to_callback(&mut browser, &waiting).await;
            browser.get(&url).await.expect("the way back");
            let account = account_of(&state_of(&world, &waiting).await);
            if is_there {
                world.connect("alice", ALICE).await;
            }
            let path = "/v1/apps/outlook/connections/alice";
            let deleted = world.api(Method::DELETE, path, Value::Null).await;
            assert_eq!(deleted.status.as_u16(), if is_there { 204 } else { 404 });
            for _ in 0..2 {
                let refused = confirm(&world, &waiting, account.clone()).await;
                assert_eq!(
                    (refused.status.as_u16(), text(&refused.json(), "code")),
                    (409, "confirmation_rejected")
                );
                assert!(text(&refused.json(), "detail").contains("was deleted"), "{}", refused.text());
            }
            assert_eq!(world.token("alice").await.status, 404);
        }
        // A sign-in from after it stands.
        world.connect("alice", ALICE).await;
        assert_eq!(world.token("alice").await.status, 200);
    }
}

/// A confirmation whose commit is in doubt, and that is repeated after the user has signed in once more, does
/// not put its older grant over the newer one.
#[tokio::test]
async fn a_confirmation_in_doubt_does_not_replace_a_later_sign_in() {
    let world = Plan::default().kept(Kept::Redis).start().await;
    let redis = world.redis.as_ref().expect("redis");
    let earlier = session(&world, "alice", Value::Null).await;
    let mut browser = Browser::default();
    let url = up_to_callback(&mut browser, &earlier).await;
    browser.get(&url).await.expect("the way back");
    let account = account_of(&state_of(&world, &earlier).await);
    // Redis takes what is plainly written, and no commit.
    redis.cli(&["ACL", "SETUSER", "default", "-eval", "-evalsha"]);
    assert_eq!(confirm(&world, &earlier, account.clone()).await.status, 503);
    redis.cli(&["ACL", "SETUSER", "default", "+eval", "+evalsha"]);
    world.connect("alice", ALICE).await;
    let token = world.access_token("alice").await;
    let refused = confirm(&world, &earlier, account).await;
    assert_eq!((refused.status.as_u16(), text(&refused.json(), "code")), (409, "confirmation_rejected"));
    assert_eq!(world.access_token("alice").await, token);
}

#[tokio::test]
async fn with_a_return_url_only_the_code_the_browser_brought_confirms() {
    let world = Plan::default().start().await;
    let session = session(&world, "alice", json!({ "return_url": RETURN_URL })).await;
    let mut browser = Browser::default();
    let url = up_to_callback(&mut browser, &session).await;
    let back = browser.get(&url).await.expect("the way back");
    assert_eq!(back.status, 303);
    let code = parameter(&back.location(), "code");
    let state = state_of(&world, &session).await;
    assert!(!state.to_string().contains(&code), "the code is for the browser alone");
    let named = confirm(&world, &session, account_of(&state)).await;
    assert_eq!((named.status.as_u16(), text(&named.json(), "code")), (409, "confirmation_rejected"));
    for body in [json!({}), json!({ "code": "" }), json!({ "code": null }), json!({ "code": ["x"] })] {
        let odd = confirm(&world, &session, body.clone()).await;
        assert!(odd.status.is_client_error(), "{body}: {}", odd.text());
    }
    let both = json!({ "code": "wrong", "account": account_of(&state)["account"] });
    assert!(confirm(&world, &session, both).await.status.is_client_error());
    assert_eq!(world.token("alice").await.status, 404);
    assert_eq!(confirm(&world, &session, json!({ "code": code })).await.status, 200);
    assert_eq!(world.token("alice").await.status, 200);
}

#[tokio::test]
async fn of_two_accounts_that_came_back_at_once_the_confirmed_one_is_kept() {
    for kept in [Kept::Embedded, Kept::Redis] {
        let world = Plan::default().kept(kept).start().await;
        let session = session(&world, "alice", Value::Null).await;
        let mut browser = Browser::default();
        // Two tabs of one browser, each signed in as somebody else.
        let (one, two) = (press(&mut browser, &session).await, press(&mut browser, &session).await);
        let one = sign_in(&mut browser, &set(&one, "login_hint", ALICE)).await;
        let two = sign_in(&mut browser, &set(&two, "login_hint", BOB)).await;
        // Both codes are under way before either is answered; hers is let go first, his, held twice, after
        // it.
        for user in [ALICE, BOB, BOB] {
            world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::HoldAnswer).user(user));
        }
        let (mut first, mut second) = (browser.clone(), browser);
        let hers = async {
            let answer = first.get(&one).await;
            world.entra.faults().release();
            answer
        };
        let both_wait = async {
            world.until_called("authorization_code", 2).await;
            world.entra.faults().release();
        };
        let (first, second, ()) = tokio::join!(hers, second.get(&two), both_wait);
        assert_eq!(
            (first.expect("a page").status.as_u16(), second.expect("a page").status.as_u16()),
            (200, 200)
        );
        let state = state_of(&world, &session).await;
        assert_eq!(state["account"]["username"], ALICE);
        assert_eq!(confirm(&world, &session, account_of(&state)).await.status, 200);
        let token = world.access_token("alice").await;
        assert_eq!(text(&world.graph(&token).await.json(), "userPrincipalName"), ALICE, "{kept:?}");
        assert_eq!(world.show("alice").await["account"]["username"], ALICE);
    }
}

#[tokio::test]
async fn wrong_confirmations_at_once_get_no_more_tries_than_one_by_one() {
    for kept in [Kept::Embedded, Kept::Redis] {
        let world = Plan::default().kept(kept).start().await;
        let session = session(&world, "alice", json!({ "return_url": RETURN_URL })).await;
        let mut browser = Browser::default();
        let url = up_to_callback(&mut browser, &session).await;
        let back = browser.get(&url).await.expect("the way back");
        let right = json!({ "code": parameter(&back.location(), "code") });
        let path = format!("{}/v1/connect-sessions/{}/confirm", world.daemon.local, text(&session, "id"));
        let bearer = format!("Bearer {}", world.key);
        let guesses: Vec<_> = (0..40)
            .map(|number| {
                let (path, bearer) = (path.clone(), bearer.clone());
                tokio::spawn(async move {
                    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
                    let body = json!({ "code": format!("guess-{number}-{}", "A".repeat(34)) }).to_string();
                    request(Method::POST, &path, &headers, body).await.expect("an answer").status
                })
            })
            .collect();
        for guess in guesses {
            let status = guess.await.expect("joined");
            assert!(status == 409 || status == 503, "{status}");
        }
        assert_eq!(state_of(&world, &session).await["state"], "failed", "{kept:?}");
        assert_eq!(confirm(&world, &session, right).await.status, 409);
        assert_eq!(world.token("alice").await.status, 404);
    }
}

#[tokio::test]
async fn a_repeated_confirmation_brings_no_deleted_connection_back() {
    for kept in [Kept::Embedded, Kept::Redis] {
        let world = Plan::default().kept(kept).start().await;
        let session = session(&world, "alice", json!({ "return_url": RETURN_URL })).await;
        let mut browser = Browser::default();
        let url = up_to_callback(&mut browser, &session).await;
        let back = browser.get(&url).await.expect("the way back");
        let right = json!({ "code": parameter(&back.location(), "code") });
        assert_eq!(confirm(&world, &session, right.clone()).await.status, 200);
        assert_eq!(confirm(&world, &session, right.clone()).await.status, 200, "said twice is said once");
        let path = "/v1/apps/outlook/connections/alice";
        assert_eq!(world.api(Method::DELETE, path, Value::Null).await.status, 204);
        confirm(&world, &session, right).await;
        let replayed = browser.get(&url).await.expect("a page").text();
        assert!(replayed.contains("Your account was connected"), "{replayed}");
        assert_eq!((world.token("alice").await.status.as_u16(), redemptions(&world)), (404, 1), "{kept:?}");
    }
}

#[tokio::test]
async fn an_older_session_does_not_move_a_connection_to_another_account() {
    for kept in [Kept::Embedded, Kept::Redis] {
        let world = Plan::default().kept(kept).start().await;
        // Both links were made before there was a connection, so neither is pinned.
        let (hers, his) =
            (session(&world, "shared", Value::Null).await, session(&world, "shared", Value::Null).await);
        for (session, user, status) in [(&hers, ALICE, 200), (&his, BOB, 409)] {
            world.entra.sign_in_as(user);
            let mut browser = Browser::default();
            let url = up_to_callback(&mut browser, session).await;
            browser.get(&url).await.expect("a page");
            let state = state_of(&world, session).await;
            assert_eq!(state["account"]["username"], user);
            assert_eq!(confirm(&world, session, account_of(&state)).await.status, status);
        }
        assert_eq!(world.show("shared").await["account"]["username"], ALICE);
        let token = world.access_token("shared").await;
        assert_eq!(text(&world.graph(&token).await.json(), "userPrincipalName"), ALICE);
    }
}

// === C4: mix-up ===

#[tokio::test]
async fn a_wrong_issuer_in_the_callback_keeps_the_code_at_home() {
    let mut world = Plan::default().start().await;
    world.connect("model", ALICE).await;
    let tid = text(&world.show("model").await["account"], "tid").to_owned();
    let base = world.entra.base_url();
    let right = format!("{base}/{tid}/v2.0");
    let wrong = [
        "https://login.evil.example/v2.0".to_owned(),
        format!("{right}/"),
        right.to_ascii_uppercase(),
        right.replace("http://", "https://"),
        format!("{base}/{{tenantid}}/v2.0"),
        format!("{base}/common/v2.0"),
        format!("{base}@evil.example/{tid}/v2.0"),
        format!(" {right}"),
    ];
    for iss in wrong {
        let session = session(&world, "victim", Value::Null).await;
        let mut browser = Browser::default();
        world.entra.faults().inject(
            FaultRule::new(Endpoint::Authorize, Fault::CallbackPatch(CallbackPatch::Iss(iss.clone()))).once(),
        );
        let url = up_to_callback(&mut browser, &session).await;
        assert_eq!(parameter(&url, "iss"), iss);
        refused(&world, &mut browser, &url, &iss).await;
        refused(&world, &mut browser, &again(&url, "iss", &right), "twice").await;
        // The right one, in the same flow, is taken.
        let page = browser.get(&set(&url, "iss", &right)).await.expect("a page");
        assert_eq!(page.status, 200, "{}", page.text());
        assert_eq!(state_of(&world, &session).await["state"], "awaiting_confirmation");
    }
    // An authority that says it always sends `iss` must have sent it.
    let patch = Map::from_iter([("authorization_response_iss_parameter_supported".to_owned(), json!(true))]);
    world.entra.faults().inject(FaultRule::new(Endpoint::Discovery, Fault::DiscoveryPatch(patch)));
    world.kill_and_restart().await;
    let session = session(&world, "victim", Value::Null).await;
    let mut browser = Browser::default();
    let url = up_to_callback(&mut browser, &session).await;
    refused(&world, &mut browser, &url, "no iss").await;
    refused(&world, &mut browser, &set(&url, "iss", ""), "an empty iss").await;
    let page = browser.get(&set(&url, "iss", &right)).await.expect("a page");
    assert_eq!(page.status, 200, "{}", page.text());
}

// === C5: one context's code on another's path ===

#[tokio::test]
async fn a_code_on_another_apps_path_is_refused() {
    let mut world = Plan::default().start().await;
    add_app(&mut world).await;
    let hers = session(&world, "alice", Value::Null).await;
    let others = session(&world, "alice", json!({ "app": "other" })).await;
    let mut browser = Browser::default();
    let outlook = up_to_callback(&mut browser, &hers).await;
    let other = up_to_callback(&mut browser, &others).await;
    assert!(outlook.contains("/callback/outlook?") && other.contains("/callback/other?"));
    let moved = [
        outlook.replace("/callback/outlook", "/callback/other"),
        other.replace("/callback/other", "/callback/outlook"),
        outlook.replace("/callback/outlook", "/callback/none"),
        outlook.replace("/callback/outlook", "/callback/OUTLOOK"),
        outlook.replace("/callback/outlook", "/callback/outlook%2f..%2fother"),
        outlook.replace("/callback/outlook", "/callback"),
    ];
    for url in moved {
        refused(&world, &mut browser, &url, &url).await;
    }
    // A code of one in the other's flow: the authority's own check ends it, with PKCE and redirect URI.
    let mixed = set(&other, "code", &parameter(&outlook, "code"));
    browser.get(&mixed).await.expect("a page");
    assert_eq!(state_of(&world, &others).await["state"], "failed");
    assert_eq!(state_of(&world, &hers).await["state"], "pending");
}

// === C6: the callback's parameters ===

#[tokio::test]
async fn a_callbacks_parameters_are_read_in_one_way_only() {
    let world = Plan::default().start().await;
    let session = session(&world, "alice", Value::Null).await;
    let mut browser = Browser::default();
    let good = up_to_callback(&mut browser, &session).await;
    let code = parameter(&good, "code");
    let attacks = [
        ("code twice", again(&good, "code", &code)),
        ("code twice, one empty", again(&good, "code", "")),
        ("code and error", again(&good, "error", "access_denied")),
        ("unknown twice", again(&again(&good, "x", "1"), "x", "2")),
        ("no code", without(&good, "code")),
        ("empty code", set(&good, "code", "")),
        ("nothing", good.split('?').next().unwrap_or_default().to_owned()),
        ("code of 4 KiB and one", set(&good, "code", &"c".repeat(4097))),
        ("code with a control character", set(&good, "code", "a\u{1}b")),
        ("code with a line end", set(&good, "code", "a\r\nb")),
        ("code that is not ASCII", set(&good, "code", "código")),
        ("code that is not UTF-8", format!("{}&code=a%FFb", without(&good, "code"))),
        ("escaped name", format!("{good}&%63ode=x")),
        ("a broken relay", good.split('?').next().unwrap_or_default().to_owned() + "?relay="),
    ];
    for (why, url) in &attacks {
        refused(&world, &mut browser, url, why).await;
    }
    for body in [&b"{}"[..], b"\xff\xfe", b"state=&code="] {
        let url = good.split('?').next().unwrap_or_default();
        for kind in
            ["application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
        {
            let body = Bytes::from(body.to_vec());
            let answer =
                browser.send(Method::POST, url, body, &[("content-type", kind)]).await.expect("an answer");
            assert!(answer.status.is_client_error(), "{kind}: {}", answer.status);
        }
    }
    assert_eq!(redemptions(&world), 0);
    // Unknown ones are ignored and empty ones absent: the flow goes on.
    let odd = again(&again(&good, "error", ""), "iss", "");
    let page = browser.get(&again(&odd, "unknown", "<x>")).await.expect("a page");
    assert_eq!(page.status, 200, "{}", page.text());
    assert_eq!(redemptions(&world), 1);
}

#[tokio::test]
async fn a_code_of_4_kib_reaches_the_authority_byte_by_byte() {
    let world = Plan::default().start().await;
    let printable: String = (b' '..=b'~').map(char::from).collect();
    let long: String = printable.chars().cycle().take(4096).collect();
    for (number, code) in ["a+b%20c&d=e#f".to_owned(), long].into_iter().enumerate() {
        let session = session(&world, &format!("user-{number}"), Value::Null).await;
        let mut browser = Browser::default();
        let url = up_to_callback(&mut browser, &session).await;
        browser.get(&set(&url, "code", &code)).await.expect("a page");
        let presented = world.entra.presented_secrets();
        let (_, sent) = presented.iter().rfind(|(name, _)| *name == "code").expect("it was sent");
        assert_eq!(*sent, code);
        assert_eq!(state_of(&world, &session).await["state"], "failed");
    }
}

// === C7: forged hosts ===

#[tokio::test]
async fn a_forged_host_changes_no_url() {
    let world = Plan::default().start().await;
    let forged = "X-Forwarded-Host: evil.example\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 444\r\n\
                  X-Forwarded-Prefix: /evil\r\nX-Original-URL: /evil\r\nX-Host: evil.example\r\n\
                  Forwarded: host=evil.example;proto=https\r\n";
    let right = format!("{}/callback/outlook", world.base_url());
    for host in ["evil.example", "localhost:1", "localhost@evil.example", "evil.example/x"] {
        let session = session(&world, "alice", Value::Null).await;
        let path = text(&session, "connect_url").trim_start_matches(&world.base_url()).to_owned();
        let page =
            raw(&world, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{forged}Connection: close\r\n\r\n"))
                .await;
        assert!(!page.contains("evil"), "{host}: {page}");
        let pressed = raw(
            &world,
            &format!(
                "POST {path} HTTP/1.1\r\nHost: {host}\r\n{forged}Content-Length: 0\r\nConnection: \
                close\r\n\r\n"
            ),
        )
        .await;
        assert!(!pressed.contains("evil"), "{host}: {pressed}");
        let location = pressed.lines().find_map(|line| line.strip_prefix("location: "));
        match location {
            Some(url) => {
                assert!(url.starts_with(&world.entra.base_url()), "{url}");
                assert_eq!(parameter(url, "redirect_uri"), right);
            }
            None => assert!(pressed.starts_with("HTTP/1.1 400"), "{host}: {pressed}"),
        }
    }
    // In absolute form too, and at the relay of a form.
    let session = session(&world, "alice", Value::Null).await;
    let path = text(&session, "connect_url").trim_start_matches(&world.base_url()).to_owned();
    let pressed = raw(
        &world,
        &format!(
            "POST http://evil.example{path} HTTP/1.1\r\nHost: evil.example\r\nContent-Length: \
            0\r\nConnection: close\r\n\r\n"
        ),
    )
    .await;
    assert!(!pressed.contains("evil"), "{pressed}");
    let form = "code=c&state=s";
    let relayed = raw(
        &world,
        &format!(
            "POST /callback/outlook HTTP/1.1\r\nHost: evil.example\r\n{forged}Content-Type: \
             application/x-www-form-urlencoded\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{form}",
            form.len()
        ),
    )
    .await;
    let location = relayed.lines().find_map(|line| line.strip_prefix("location: ")).expect("a relay");
    assert!(location.starts_with(&format!("{right}?relay=")), "{location}");
}

// === C8: headers and return URLs ===

#[tokio::test]
async fn every_page_has_the_strict_headers_and_every_redirect_is_a_303_without_secrets() {
    let world = Plan::default().start().await;
    let base = world.base_url();
    let mut browser = Browser::default();
    let plain = session(&world, "alice", Value::Null).await;
    let link = text(&plain, "connect_url").to_owned();
    for (what, url, status) in [
        ("launch", format!("{base}/"), 200),
        ("invitation", link.clone(), 200),
        ("nothing", format!("{base}/nothing"), 404),
        ("no session", format!("{base}/connect/none"), 404),
        ("not an id", format!("{base}/connect/%3Cscript%3E"), 404),
        ("no app", format!("{base}/callback/%3Cscript%3E?code=c&state=s"), 404),
        ("callback without anything", format!("{base}/callback/outlook"), 400),
        ("unknown state", format!("{base}/callback/outlook?code=c&state=s"), 400),
        ("forged admin consent", format!("{base}/callback/outlook?admin_consent=True&state=s"), 200),
    ] {
        let answer = browser.get(&url).await.expect("an answer");
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        assert_headers(&answer, what);
    }
    for method in [Method::PUT, Method::DELETE, Method::PATCH] {
        let answer = browser.send(method.clone(), &link, Bytes::new(), &[]).await.expect("an answer");
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!(answer.headers["allow"], "GET, HEAD, OPTIONS, POST");
        assert_headers(&answer, method.as_str());
    }
    let elsewhere = [("origin", "https://evil.example")];
    let answer = browser.send(Method::POST, &link, Bytes::new(), &elsewhere).await.expect("an answer");
    assert_eq!(answer.status, 403);
    assert_headers(&answer, "cross-site");

    // The way through, without a return URL and with one.
    for (name, more, status) in
        [("alice", Value::Null, 200), ("bob", json!({ "return_url": RETURN_URL }), 303)]
    {
        let session = session(&world, name, more).await;
        let pressed = browser.post(text(&session, "connect_url"), "").await.expect("the button");
        assert_eq!(pressed.status, 303);
        assert_headers(&pressed, "button");
        let cookie = pressed.headers["set-cookie"].to_str().expect("text");
        assert!(cookie.contains("; HttpOnly") && cookie.contains("; SameSite=Lax"), "{cookie}");
        let url = sign_in(&mut browser, &pressed.location()).await;
        let back = browser.get(&url).await.expect("the way back");
        assert_eq!(back.status, status, "{}", back.text());
        assert_headers(&back, "result");
        let everything = format!("{:?} {}", back.headers, back.text());
        for secret in ["code", "state"] {
            assert!(!everything.contains(&parameter(&url, secret)), "{secret} in {everything}");
        }
        if status == 303 {
            let location = back.location();
            assert!(location.starts_with(&format!("{RETURN_URL}?session=")), "{location}");
            let names: Vec<_> = parameters(&location).into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, ["session", "code"]);
        }
        let used = browser.get(text(&session, "connect_url")).await.expect("a page");
        assert_eq!(used.status, 200);
        assert_headers(&used, "used");
        let elsewhere = Browser::default().get(text(&session, "connect_url")).await.expect("a page");
        assert_eq!(elsewhere.status, 410);
        assert_headers(&elsewhere, "used in another browser");
    }
}

#[tokio::test]
async fn a_return_url_is_one_of_the_configured_ones_byte_by_byte() {
    let world = Plan::default().start().await;
    let host = "https://app.contoso.example";
    let wrong = [
        "//evil.example".to_owned(),
        "https:evil.example".to_owned(),
        "\\\\evil.example".to_owned(),
        "/\\evil.example".to_owned(),
        "/settings/outlook".to_owned(),
        "javascript:alert(1)".to_owned(),
        "data:text/html,x".to_owned(),
        String::new(),
        format!("{RETURN_URL}/"),
        format!("{RETURN_URL}?"),
        format!("{RETURN_URL}#"),
        format!("{RETURN_URL}?next=//evil.example"),
        format!("{RETURN_URL}#@evil.example"),
        format!("{RETURN_URL}/../../evil"),
        format!("{RETURN_URL}\r\nSet-Cookie: a=b"),
        format!("{RETURN_URL}\n"),
        format!("{RETURN_URL} "),
        format!(" {RETURN_URL}"),
        format!("{RETURN_URL}\u{0}"),
        format!("{RETURN_URL}%0d%0a"),
        RETURN_URL.to_ascii_uppercase(),
        RETURN_URL.replace("app.", "APP."),
        RETURN_URL.replace("/settings", "/Settings"),
        RETURN_URL.replace("https", "http"),
        RETURN_URL.replace("contoso", "cоntoso"),
        RETURN_URL.replace("contoso", "xn--cntoso-5nf"),
        RETURN_URL.replace(".example", ".example."),
        RETURN_URL.replace("/settings", ":443/settings"),
        RETURN_URL.replace("https://", "https://evil@"),
        format!("{host}@evil.example/settings/outlook"),
        format!("{host}.evil.example/settings/outlook"),
        RETURN_URL.replace("/settings", "\\settings"),
        RETURN_URL.replace('o', "%6f"),
    ];
    for url in wrong {
        let body = json!({ "app": "outlook", "connection": "alice", "return_url": url });
        let answer = world.api(Method::POST, "/v1/connect-sessions", body).await;
        assert_eq!(answer.status, 400, "{url:?}");
        let problem = answer.json();
        assert_eq!((text(&problem, "code"), text(&problem, "parameter")), ("invalid_request", "return_url"));
    }
}

// === C9: hostile text ===

const HOSTILE: [&str; 5] = [
    "zqmark<script>alert(1)</script>",
    "zqmark\"><img src=x onerror=alert(1)>",
    "zqmark\r\nSet-Cookie: evil=1\r\n\r\n<h1>",
    "zqmark\u{1b}[31mred\u{1b}]0;title\u{7}",
    "zqmark{{7*7}}'; DROP\u{202e}\u{0}",
];

#[tokio::test]
async fn hostile_text_is_neither_shown_nor_logged() {
    let world = Plan::default().start().await;
    let base = world.base_url();
    let escape = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let mut answers = Vec::new();
    for hostile in HOSTILE {
        let text_of = escape(hostile);
        let path = text_of.replace('+', "%20");
        for url in [
            format!(
                "{base}/callback/outlook?error={text_of}&error_description={text_of}\
                 &error_uri={text_of}&state={text_of}"
            ),
            format!("{base}/callback/outlook?code={text_of}&state=s&iss={text_of}&{text_of}={text_of}"),
            format!("{base}/callback/outlook?admin_consent={text_of}&tenant={text_of}&state={text_of}"),
            format!("{base}/callback/outlook?relay={text_of}"),
            format!("{base}/callback/{path}?error=x&state=s"),
            format!("{base}/connect/{path}"),
            format!("{base}/{path}?{text_of}"),
        ] {
            let mut browser = Browser::default();
            answers.push((url.clone(), browser.get(&url).await.expect("an answer")));
            answers.push((
                url.clone(),
                browser.post(&url, &format!("state={text_of}&error={text_of}")).await.expect("an answer"),
            ));
        }
        // In a flow that is the browser's own, with and without a return URL.
        for more in [Value::Null, json!({ "return_url": RETURN_URL })] {
            let session = session(&world, "alice", more).await;
            let patch = CallbackPatch::Error {
                error: hostile.to_owned(),
                description: Some(hostile.to_owned()),
                subcode: Some(hostile.to_owned()),
            };
            world
                .entra
                .faults()
                .inject(FaultRule::new(Endpoint::Authorize, Fault::CallbackPatch(patch)).once());
            let mut browser = Browser::default();
            let url = up_to_callback(&mut browser, &session).await;
            let url = again(&url, "error_uri", hostile);
            answers.push((url.clone(), browser.get(&url).await.expect("an answer")));
            let state = state_of(&world, &session).await;
            assert_eq!((text(&state, "state"), text(&state, "reason")), ("failed", "authority_error"));
        }
    }
    for (url, answer) in &answers {
        let everything = format!("{:?}\n{}", answer.headers, answer.text());
        // The relay of a form carries it sealed; anything else has no place for it.
        assert!(!everything.contains("zqmark"), "{url}: {everything}");
        assert!(answer.headers.get("set-cookie").is_none(), "{url}");
        if answer.headers.contains_key("content-security-policy") {
            assert_headers(answer, url);
        }
    }
    let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).expect("an audit file");
    for (name, kept) in [("log", world.daemon.log()), ("audit", audit), ("metrics", world.metrics().await)] {
        assert!(
            !kept.contains("zqmark"),
            "{name}: {}",
            kept.lines().find(|line| line.contains("zqmark")).unwrap_or_default()
        );
        assert!(!kept.contains(['\u{1b}', '\u{7}', '\r', '\u{202e}']), "{name}");
    }
}

#[tokio::test]
async fn a_hostile_user_name_is_escaped_wherever_it_is_shown() {
    let world = Plan::default().start().await;
    for hostile in HOSTILE {
        let patch = Map::from_iter([
            ("preferred_username".to_owned(), json!(hostile)),
            ("name".to_owned(), json!(hostile)),
        ]);
        world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::IdTokenPatch(patch)).once());
        let session = session(&world, "alice", json!({ "change_account": true })).await;
        let mut browser = Browser::default();
        let url = up_to_callback(&mut browser, &session).await;
        let page = browser.get(&url).await.expect("a page");
        assert_headers(&page, hostile);
        let state = state_of(&world, &session).await;
        if state["state"] == "awaiting_confirmation" {
            assert_eq!(confirm(&world, &session, account_of(&state)).await.status, 200);
            world.access_token("alice").await;
        }
        let invitation = Browser::default();
        let again = world.start_session(json!({ "app": "outlook", "connection": "alice" })).await;
        let invited = invitation.clone().get(text(&again, "connect_url")).await.expect("a page");
        assert_headers(&invited, hostile);
        // The hint goes to the authority in a URL: it stays one parameter.
        let pressed = invitation.clone().post(text(&again, "connect_url"), "").await.expect("the button");
        assert_eq!(pressed.status, 303, "{hostile:?}: {}", pressed.text());
        assert_eq!(
            parameters(&pressed.location()).iter().filter(|(name, _)| name == "login_hint").count(),
            1
        );
    }
    let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).expect("an audit file");
    for kept in [world.daemon.log(), audit] {
        assert!(!kept.contains(['\u{1b}', '\u{7}', '\r']) && !kept.contains("\nSet-Cookie"));
    }
}

// === C10: one code, one call ===

async fn one_of_a_hundred(kept: Kept) {
    let world = Plan::default().kept(kept).start().await;
    let session = session(&world, "alice", Value::Null).await;
    let mut browser = Browser::default();
    let url = up_to_callback(&mut browser, &session).await;
    world
        .entra
        .faults()
        .inject(FaultRule::new(Endpoint::Token, Fault::DelayAnswer(Duration::from_millis(300))));
    let cookie = browser.cookie(&url);
    let callbacks: Vec<_> = (0..100)
        .map(|_| {
            let (url, cookie) = (url.clone(), cookie.clone());
            tokio::spawn(async move {
                let answer = request(Method::GET, &url, &[("cookie", &cookie)], "").await;
                answer.map_or(0, |answer| answer.status.as_u16())
            })
        })
        .collect();
    // All of them are of the browser that signed in: each ends where the one did that sent the code.
    for callback in callbacks {
        assert_eq!(callback.await.expect("joined"), 303);
    }
    assert!(browser.get(&url).await.expect("a page").text().contains("One more step"));
    assert_eq!(redemptions(&world), 1);
    assert_eq!(state_of(&world, &session).await["state"], "awaiting_confirmation");
    // Nor does it cost the caller more than that one.
    let metrics = world.metrics().await;
    for taken in ["\"begun\"} 1", "\"put_off\"} 0"] {
        let taken = format!("tokenward_upstream_budget_total{{cause=\"sign_in\",result={taken}");
        assert!(metrics.contains(&taken), "{taken}: {metrics}");
    }
}

#[tokio::test]
async fn a_hundred_callbacks_with_one_code_make_one_call_embedded() {
    one_of_a_hundred(Kept::Embedded).await;
}

#[tokio::test]
async fn a_hundred_callbacks_with_one_code_make_one_call_redis() {
    one_of_a_hundred(Kept::Redis).await;
}

#[tokio::test]
async fn a_code_whose_answer_was_lost_is_not_sent_again() {
    let world = Plan::default().start().await;
    for fault in
        [Fault::DropBeforeProcessing, Fault::DropAfterProcessing, Fault::CutAnswer, Fault::status(500)]
    {
        world.entra.clear_ledger();
        world.entra.faults().clear();
        world.entra.faults().inject(FaultRule::new(Endpoint::Token, fault.clone()).once());
        let session = session(&world, "alice", Value::Null).await;
        let mut browser = Browser::default();
        let url = up_to_callback(&mut browser, &session).await;
        let first = browser.get(&url).await.expect("a page");
        let again = browser.get(&url).await.expect("a page");
        // But for the last line, which names the request.
        let said = |page: &Answer| page.text().split("For whoever helps you").next().map(str::to_owned);
        assert_eq!((again.status, said(&again)), (first.status, said(&first)), "{fault:?}");
        assert_eq!(redemptions(&world), 1, "{fault:?}");
        assert_eq!(state_of(&world, &session).await["state"], "failed", "{fault:?}");
    }
}

// === C11: scopes ===

#[tokio::test]
async fn fewer_scopes_than_asked_for_make_a_partial_connection_and_no_weaker_token() {
    let world = Plan::default().start().await;
    let patch = Map::from_iter([("scope".to_owned(), json!("openid profile User.Read Mail.Read"))]);
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::TokenResponsePatch(patch)));
    world.connect("team-b/alice", ALICE).await;
    let shown = world.show("team-b/alice").await;
    let has = |list: &str, scope: &str| shown[list].to_string().to_ascii_lowercase().contains(scope);
    assert!(has("scopes_requested", "calendars.read") && !has("scopes_granted", "calendars.read"), "{shown}");
    let needing = world.token_with("team-b/alice", "?scope=Calendars.Read").await;
    let problem = needing.json();
    assert_eq!((needing.status.as_u16(), text(&problem, "code")), (409, "scope_not_granted"));
    assert!(problem.to_string().contains("Calendars.Read"), "{problem}");
    let both = world.token_with("team-b/alice", "?scope=Mail.Read%20Calendars.Read").await;
    assert_eq!((both.status.as_u16(), text(&both.json(), "code")), (409, "scope_not_granted"));
    assert!(!both.text().contains("access_token"));
    assert_eq!(world.token_with("team-b/alice", "?scope=Mail.Read").await.status, 200);
}

#[tokio::test]
async fn more_scopes_than_a_callers_rule_lists_are_not_its_to_ask_for() {
    let world = Plan::default().start().await;
    let wide = "openid profile User.Read Mail.Read Calendars.Read Mail.Send Files.ReadWrite.All";
    let patch = Map::from_iter([("scope".to_owned(), json!(wide))]);
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::TokenResponsePatch(patch)));
    world.connect("team-b/alice", ALICE).await;
    world.connect("team-a/alice", ALICE).await;
    let ask = async |connection: &str, scope: &str| {
        let path = format!("/v1/apps/outlook/connections/{connection}/token?scope={scope}");
        world.api_as(&world.reader_key, Method::GET, &path, Value::Null).await
    };
    for scope in [
        "Calendars.Read",
        "Mail.Send",
        "Mail.Read%20Calendars.Read",
        "https://graph.microsoft.com/.default",
        "https%3A%2F%2Fgraph.microsoft.com%2FCALENDARS.READ",
    ] {
        let answer = ask("team-b%2Falice", scope).await;
        assert_eq!(
            (answer.status.as_u16(), text(&answer.json(), "code")),
            (403, "caller_forbidden"),
            "{scope}"
        );
        assert!(!answer.text().contains("access_token"));
    }
    assert_eq!(ask("team-b%2Falice", "mail.read").await.status, 200);
    // A connection that is none of its business looks like one that is not there.
    let (theirs, none) = (ask("team-a%2Falice", "Mail.Read").await, ask("team-a%2Fnone", "Mail.Read").await);
    assert_eq!((theirs.status.as_u16(), none.status.as_u16()), (404, 404));
    let plain = |answer: &Answer| {
        let mut problem = answer.json();
        problem["request_id"] = Value::Null;
        problem.to_string().replace("team-a/alice", "X").replace("team-a/none", "X")
    };
    assert_eq!(plain(&theirs), plain(&none));
    // Nor may it connect anything.
    let body = json!({ "app": "outlook", "connection": "team-b/mine" });
    let started = world.api_as(&world.reader_key, Method::POST, "/v1/connect-sessions", body).await;
    assert!(matches!(started.status.as_u16(), 403 | 404), "{}", started.text());
}

// === I10: links and forms ===

#[tokio::test]
async fn a_mail_scanner_does_not_use_a_link_up_and_another_site_cannot_press_its_button() {
    let world = Plan::default().start().await;
    let session = session(&world, "alice", Value::Null).await;
    let link = text(&session, "connect_url").to_owned();
    for _ in 0..20 {
        for method in [Method::GET, Method::HEAD] {
            let answer = request(method.clone(), &link, &[], "").await.expect("an answer");
            // The cookie that comes with the page binds nothing until a button is pressed with it.
            assert_eq!(answer.status, 200);
            assert_eq!(answer.body.is_empty(), method == Method::HEAD);
        }
    }
    let crossing: [&[(&str, &str)]; 8] = [
        &[("origin", "https://evil.example")],
        &[("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "null"), ("sec-fetch-site", "cross-site")],
        &[("origin", "http://localhost:1")],
        &[("origin", "http://localhost.evil.example")],
        &[("sec-fetch-site", "Same-Origin, cross-site")],
    ];
    for headers in crossing {
        let answer = request(Method::POST, &link, headers, "").await.expect("an answer");
        assert_eq!(answer.status, 403, "{headers:?}");
        assert!(answer.headers.get("set-cookie").is_none() && answer.headers.get("location").is_none());
    }
    assert_eq!(world.entra.ledger_count(Endpoint::Authorize, None), 0);
    let mut browser = Browser::default();
    let own = [("origin", "null"), ("sec-fetch-site", "same-origin")];
    let pressed = browser.send(Method::POST, &link, Bytes::new(), &own).await.expect("the button");
    assert_eq!(pressed.status, 303);
    // Nor does it once it was pressed.
    request(Method::GET, &link, &[], "").await.expect("an answer");
    let url = sign_in(&mut browser, &pressed.location()).await;
    assert_eq!(browser.get(&url).await.expect("a page").status, 200);
    assert_eq!(state_of(&world, &session).await["state"], "awaiting_confirmation");
}

/// A form as the authority's page would post it: where to, and what.
pub(crate) async fn up_to_form(browser: &mut Browser, session: &Value) -> (String, String) {
    let url = press(browser, session).await;
    let page = browser.get(&url).await.expect("the authority's page").text();
    (attribute(&page, "action"), hidden_fields(&page))
}

#[tokio::test]
async fn a_cross_site_form_is_relayed_and_finished_only_with_the_cookie() {
    let mut world = Plan::default().form_post().start().await;
    add_app(&mut world).await;
    let session = session(&world, "alice", Value::Null).await;
    let mut browser = Browser::default();
    let (action, form) = up_to_form(&mut browser, &session).await;
    // Cross-site: the browser leaves its cookie at home.
    let relayed = Browser::default().post(&action, &form).await.expect("the relay");
    assert_eq!(relayed.status, 303);
    assert_headers(&relayed, "relay");
    assert_eq!(redemptions(&world), 0);
    let url = relayed.location();
    assert!(url.starts_with(&format!("{}/callback/outlook?relay=", world.base_url())), "{url}");
    for (_, secret) in
        parameters(&format!("?{form}")).iter().filter(|(name, _)| name == "code" || name == "state")
    {
        assert!(!url.contains(secret.as_str()) && !relayed.text().contains(secret.as_str()));
    }

    refused(&world, &mut Browser::default(), &url, "without the cookie").await;
    let other = up_to_form(&mut Browser::default(), &self::session(&world, "bob", Value::Null).await).await;
    assert_eq!(other.0, action);
    let sealed = parameter(&url, "relay");
    let at = |part: &str| format!("{action}?relay={part}");
    let mut bytes = URL_SAFE_NO_PAD.decode(&sealed).expect("base64");
    for index in [0, 1, 2, 5, 20, 50, bytes.len() - 40, bytes.len() - 1] {
        bytes[index] ^= 1;
        refused(&world, &mut browser, &at(&URL_SAFE_NO_PAD.encode(&bytes)), "flipped").await;
        bytes[index] ^= 1;
    }
    for length in [0, 1, 10, 50, bytes.len() - 1] {
        refused(&world, &mut browser, &at(&URL_SAFE_NO_PAD.encode(&bytes[..length])), "truncated").await;
    }
    refused(&world, &mut browser, &at(&format!("{sealed}AAAA")), "longer").await;
    refused(&world, &mut browser, &format!("{url}&{form}"), "and more").await;
    refused(&world, &mut browser, &url.replace("/callback/outlook", "/callback/other"), "another app's")
        .await;

    // Sealed by the right key, but of another age or for another place.
    let keyring = files::open(&world.folder.path().join("keyring")).expect("the keyring");
    let now = SystemClock::new().now();
    let seal = |app: &str, field: &'static str, at: Timestamp| {
        let mut relayed = at.unix_millis().to_be_bytes().to_vec();
        relayed.extend_from_slice(form.as_bytes());
        let place = Place { schema: "relay", owner: (app, ""), field, generation: 0 };
        URL_SAFE_NO_PAD.encode(keyring.seal(&place, &relayed, &SystemRandom::new()))
    };
    let old = Timestamp::from_unix_millis(now.unix_millis() - 61_000);
    let future = Timestamp::from_unix_millis(now.unix_millis() + 3_600_000);
    refused(&world, &mut browser, &at(&seal("outlook", "form", old)), "expired").await;
    refused(&world, &mut browser, &at(&seal("outlook", "form", future)), "from the future").await;
    refused(&world, &mut browser, &at(&seal("other", "form", now)), "another app's").await;
    refused(&world, &mut browser, &at(&seal("outlook", "code", now)), "another field").await;

    let page = browser.get(&url).await.expect("a page");
    assert_eq!(page.status, 200, "{}", page.text());
    assert_eq!(redemptions(&world), 1);
    let again = browser.get(&url).await.expect("a page");
    assert_eq!((again.status, again.text()), (page.status, page.text()));
    // However late: it is the browser's own, and sends nothing.
    let late = browser.get(&at(&seal("outlook", "form", old))).await.expect("a page");
    assert_eq!((late.status, late.text()), (page.status, page.text()));
    refused(&world, &mut Browser::default(), &url, "replayed without the cookie").await;
    assert_eq!(redemptions(&world), 1);
    assert_eq!(state_of(&world, &session).await["state"], "awaiting_confirmation");
}
