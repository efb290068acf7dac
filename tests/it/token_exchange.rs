//! The OAuth token endpoint from outside: its clients, whose token a subject stands for, and what unmodified
//! OAuth libraries get and show.

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use entra_emulator::{RevokeKind, User};
use http::Method;
use serde_json::{Value, json};
use tokenward::callers::key_file;
use tokenward::domain::id::CallerName;
use tokenward::domain::time::Clock;
use tokenward::system::{SystemClock, SystemRandom};

use crate::attacks_rights::reconfigure;
use crate::doors::Asked;
use crate::http_client::{Answer, request, request_unix};
use crate::launcher::{command, installed, repository};
use crate::world::{ALICE, BOB, CLIENT_ID, PATIENCE, Plan, READER, SYNC, World, text, write_secret};

pub(crate) const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
pub(crate) const CONNECTION: &str = "urn:tokenward:params:oauth:token-type:connection";
const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
pub(crate) const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

pub(crate) fn basic(name: &str, key: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{key}")))
}

pub(crate) fn form(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// The form of an exchange, with more parameters.
pub(crate) fn exchange(subject: &str, kind: &str, more: &[(&str, &str)]) -> String {
    let pairs = [("grant_type", EXCHANGE), ("subject_token", subject), ("subject_token_type", kind)];
    form(&pairs.into_iter().chain(more.iter().copied()).collect::<Vec<_>>())
}

async fn post(world: &World, headers: &[(&str, &str)], body: String) -> Answer {
    let url = format!("{}/oauth2/token", world.daemon.local);
    let answer = request(Method::POST, &url, headers, body).await.expect("an answer");
    assert_eq!(answer.headers["cache-control"], "no-store", "{}", answer.text());
    assert_eq!(answer.headers["pragma"], "no-cache", "{}", answer.text());
    assert_eq!(answer.headers["content-type"], "application/json", "{}", answer.text());
    answer
}

/// Asks as [`SYNC`] with Basic authentication.
async fn ask(world: &World, body: String) -> Answer {
    let client = basic(SYNC, &world.key);
    post(world, &[("authorization", client.as_str()), FORM], body).await
}

/// The request for a connection's token, by the caller that the key names.
pub(crate) fn asked(key: &str, subject: &str, more: &[(&str, &str)]) -> Asked {
    let name = key.split('_').nth(1).unwrap_or_default();
    Asked {
        method: Method::POST,
        target: "/oauth2/token".to_owned(),
        headers: vec![("authorization", basic(name, key)), (FORM.0, FORM.1.to_owned())],
        body: exchange(subject, CONNECTION, more),
    }
}

/// Asks as [`READER`] for a connection that no rule of its covers.
pub(crate) async fn of_nobody_s(world: &World) -> Answer {
    let client = basic(READER, &world.reader_key);
    let headers = [("authorization", client.as_str()), FORM];
    post(world, &headers, exchange("nobody-s:nobody-s", CONNECTION, &[])).await
}

/// The form of every refusal.
pub(crate) fn refusal(answer: &Answer) -> (u16, String, String) {
    let body = answer.json();
    assert!(text(&body, "error_description").contains("; "), "no way out: {body}");
    (answer.status.as_u16(), text(&body, "error").to_owned(), text(&body, "code").to_owned())
}

pub(crate) fn is(status: u16, error: &str, code: &str) -> (u16, String, String) {
    (status, error.to_owned(), code.to_owned())
}

#[tokio::test]
async fn a_client_gets_a_connection_s_token_by_each_method() {
    let uid = rustix::process::geteuid().as_raw();
    let socket_caller = format!(
        "[callers.of-socket]\nauthenticate = [{{ unix_user = {uid} }}]\n[[callers.of-socket.allow]]\n\
         app = \"outlook\"\nconnections = [\"team-b/*\"]\nscopes = [\"Mail.Read\"]\n"
    );
    let world = Plan::default().sections(&socket_caller).start().await;
    world.connect("team-b/alice", ALICE).await;
    let token = world.access_token("team-b/alice").await;
    let subject = exchange("outlook:team-b/alice", CONNECTION, &[]);
    let in_form =
        |name: &str, key: &str| format!("{subject}&{}", form(&[("client_id", name), ("client_secret", key)]));

    let encoded =
        format!("Basic {}", STANDARD.encode(format!("mail%2Dsync:{}", world.key.replace('_', "%5F"))));
    let reader = basic(READER, &world.reader_key);
    let mut answers = vec![
        ask(&world, subject.clone()).await,
        post(&world, &[("authorization", encoded.as_str()), FORM], subject.clone()).await,
        post(&world, &[FORM], in_form(SYNC, &world.key)).await,
        post(&world, &[("authorization", reader.as_str()), FORM], subject.clone()).await,
        post(&world, &[FORM], in_form(READER, &world.reader_key)).await,
    ];
    let socket = world.folder.path().join("local.sock");
    for more in ["", "&client_id=of-socket"] {
        let body = format!("{subject}{more}");
        answers.push(
            request_unix(&socket, Method::POST, "/oauth2/token", &[FORM], body).await.expect("an answer"),
        );
    }
    for answer in &answers {
        assert_eq!(answer.status, 200, "{}\n{}", answer.text(), world.daemon.log());
        let body = answer.json();
        let mut members: Vec<&String> = body.as_object().expect("an object").keys().collect();
        members.sort_unstable();
        assert_eq!(members, ["access_token", "expires_in", "issued_token_type", "scope", "token_type"]);
        assert_eq!(
            (text(&body, "access_token"), text(&body, "issued_token_type")),
            (token.as_str(), ACCESS_TOKEN)
        );
        assert_eq!(text(&body, "token_type"), "Bearer");
        assert!(body["expires_in"].as_u64().is_some_and(|seconds| seconds > 300), "{body}");
        assert!(text(&body, "scope").contains("Mail.Read"), "{body}");
    }
    let graph = world.graph(&token).await;
    assert_eq!(graph.status, 200);
    let metrics = world.metrics().await;
    for (caller, times) in [(SYNC, 3), (READER, 2), ("of-socket", 2)] {
        let line = format!(r#"app="outlook",caller="{caller}",dialect="oauth2",outcome="ok"}} {times}"#);
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn a_client_that_is_not_known_or_known_twice_gets_nothing() {
    let world = Plan::default().start().await;
    world.connect("team-b/alice", ALICE).await;
    let subject = exchange("outlook:team-b/alice", CONNECTION, &[]);
    let (good, bearer) = (basic(SYNC, &world.key), format!("Bearer {}", world.key));
    let wrong_key = world.key.replace(SYNC, READER);
    let with = |pairs: &[(&str, &str)]| format!("{subject}&{}", form(pairs));
    let unknown = is(401, "invalid_client", "caller_unauthenticated");
    let refused = [
        (vec![], subject.clone()),
        (vec![("authorization", basic(READER, &world.key))], subject.clone()),
        (vec![("authorization", basic("", &world.key))], subject.clone()),
        (vec![("authorization", basic(SYNC, ""))], subject.clone()),
        (vec![("authorization", basic(SYNC, &wrong_key))], subject.clone()),
        (vec![("authorization", basic(SYNC, "canary"))], subject.clone()),
        // A bearer's place is the native API.
        (vec![("authorization", bearer.clone())], subject.clone()),
        (vec![("authorization", good.clone()), ("authorization", good.clone())], subject.clone()),
        (vec![("x-identity-header", world.key.clone())], subject.clone()),
        (vec![], with(&[("client_id", READER), ("client_secret", &world.key)])),
        (vec![], with(&[("client_secret", &world.key)])),
        (vec![], with(&[("client_id", SYNC)])),
        (vec![], with(&[("client_id", SYNC), ("client_secret", &world.key), ("client_assertion", "a.b.c")])),
        (vec![], with(&[("client_id", SYNC), ("client_secret", &world.key), ("client_id", SYNC)])),
        (
            vec![("authorization", basic(SYNC, "canary"))],
            with(&[("client_id", SYNC), ("client_secret", &world.key)]),
        ),
    ];
    let mut bodies = Vec::new();
    for (headers, body) in refused {
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).chain([FORM]).collect();
        let answer = post(&world, &headers, body.clone()).await;
        assert_eq!(refusal(&answer), unknown, "{body}");
        assert_eq!(answer.headers["www-authenticate"], "Basic realm=\"tokenward\", charset=\"UTF-8\"");
        let mut body = answer.json();
        body["request_id"] = Value::Null;
        bodies.push(body);
    }
    assert!(bodies.windows(2).all(|pair| pair[0] == pair[1]), "all alike: {bodies:?}");

    // Who is known is told what is wrong.
    for (body, parameter) in [
        (with(&[("client_id", SYNC), ("client_secret", &world.key)]), "client_secret"),
        (with(&[("client_secret", "")]), "client_secret"),
        (with(&[("client_assertion", "a.b.c")]), "client_assertion"),
        (with(&[("client_id", READER)]), "client_id"),
    ] {
        let answer = ask(&world, body.clone()).await;
        assert_eq!(refusal(&answer), is(400, "invalid_request", "invalid_request"), "{body}");
        assert_eq!(text(&answer.json(), "parameter"), parameter, "{body}");
    }
}

#[tokio::test]
async fn every_refusal_has_the_form_of_rfc_6749() {
    let world = Plan::default().start().await;
    world.connect("team-b/alice", ALICE).await;
    let subject = |more: &[(&str, &str)]| exchange("outlook:team-b/alice", CONNECTION, more);
    let of = |name: &str| exchange(name, CONNECTION, &[]);
    let invalid = |error: &str| is(400, error, "invalid_request");
    let graph = "https://graph.microsoft.com";
    for (body, expected) in [
        (String::new(), invalid("invalid_request")),
        ("grant_type=password".to_owned(), invalid("unsupported_grant_type")),
        (form(&[("grant_type", EXCHANGE)]), invalid("invalid_request")),
        (subject(&[("scope", "Mail.Read"), ("scope", "Mail.Read")]), invalid("invalid_request")),
        (subject(&[("scope", "\"")]), invalid("invalid_scope")),
        (subject(&[("scope", "Mail.Send")]), is(400, "invalid_scope", "scope_not_granted")),
        (
            subject(&[("resource", graph), ("resource", "https://outlook.office.com")]),
            invalid("invalid_target"),
        ),
        (subject(&[("resource", "graph")]), invalid("invalid_target")),
        (subject(&[("resource", "https://other.example")]), is(400, "invalid_target", "scope_not_granted")),
        (subject(&[("audience", "other")]), invalid("invalid_target")),
        (subject(&[("min_ttl", "soon")]), invalid("invalid_request")),
        (subject(&[("min_ttl", "1")]), invalid("invalid_request")),
        (subject(&[("actor_token", "x"), ("actor_token_type", ACCESS_TOKEN)]), invalid("invalid_request")),
        (of("outlook:nobody"), is(400, "invalid_request", "connection_not_found")),
        (of("other:nobody"), is(400, "invalid_request", "app_not_found")),
        (of("nobody"), invalid("invalid_request")),
        (format!("{}&x={}", subject(&[]), "y".repeat(65 * 1024)), invalid("invalid_request")),
        (format!("{}{}", subject(&[]), "&a=1".repeat(64)), invalid("invalid_request")),
        (subject(&[("scope", "Mail.Read User.Read"), ("resource", graph)]), is(200, "", "")),
        (subject(&[("audience", "outlook"), ("resource", ""), ("nonsense", "1")]), is(200, "", "")),
    ] {
        let answer = ask(&world, body.clone()).await;
        match expected {
            (200, ..) => assert_eq!(answer.status, 200, "{body:.200}: {}", answer.text()),
            refused => assert_eq!(refusal(&answer), refused, "{body:.200}: {}", answer.text()),
        }
    }
    // A caller whose rules give less: the missing and the forbidden look the same.
    let reader = basic(READER, &world.reader_key);
    let as_reader = |body: String| {
        let (world, reader) = (&world, reader.as_str());
        async move { post(world, &[("authorization", reader), FORM], body).await }
    };
    world.connect("team-a/bob", BOB).await;
    let mut alike = Vec::new();
    for name in ["outlook:team-a/bob", "outlook:team-a/nobody"] {
        let answer = as_reader(of(name)).await;
        assert_eq!(refusal(&answer), is(400, "invalid_request", "connection_not_found"));
        let mut body = answer.json();
        body["request_id"] = Value::Null;
        alike.push(body);
    }
    assert_eq!(alike[0], alike[1]);
    let forbidden = as_reader(subject(&[("scope", "Calendars.Read")])).await;
    assert_eq!(refusal(&forbidden), is(400, "invalid_scope", "caller_forbidden"));
    let forbidden = as_reader(subject(&[("resource", "https://other.example")])).await;
    assert_eq!(refusal(&forbidden), is(400, "invalid_target", "caller_forbidden"));

    // Other ways to get it wrong, at this path and beside it.
    let client = basic(SYNC, &world.key);
    let known = [("authorization", client.as_str()), FORM];
    for (method, target, headers, expected) in [
        (Method::POST, "/oauth2/token?scope=Mail.Read", &known[..], invalid("invalid_request")),
        (Method::POST, "/oauth2/token?client_secret=x", &known[..], invalid("invalid_request")),
        (Method::POST, "/oauth2/token?subject_token=x", &known[..], invalid("invalid_request")),
        (Method::POST, "/oauth2/token", &known[..1], invalid("invalid_request")),
        (Method::GET, "/oauth2/token", &known[..], is(405, "invalid_request", "method_not_allowed")),
        (Method::POST, "/oauth2/tokens", &known[..], is(404, "invalid_request", "not_found")),
        (Method::POST, "/oauth2/token/", &known[..], is(404, "invalid_request", "not_found")),
    ] {
        let url = format!("{}{target}", world.daemon.local);
        let answer = request(method.clone(), &url, headers, subject(&[])).await.expect("an answer");
        assert_eq!(refusal(&answer), expected, "{method} {target}");
        assert_eq!(answer.headers.contains_key("allow"), answer.status == 405);
    }
}

#[tokio::test]
async fn a_user_s_token_stands_for_the_user_s_connection() {
    let world = Plan::default().start().await;
    world.connect("team-b/alice", ALICE).await;
    world.connect("team-a/bob", BOB).await;
    let alice = world.access_token("team-b/alice").await;
    let of = |user: &str, patch: Value| world.entra.user_token(user, CLIENT_ID, &patch).expect("a token");
    let access = |patch: Value| {
        let mut all = json!({ "scp": "access_as_user", "azp": "22222222-3333-4444-5555-666666666666" });
        all.as_object_mut().expect("an object").extend(patch.as_object().cloned().expect("an object"));
        of(ALICE, all)
    };
    let jwt = "urn:ietf:params:oauth:token-type:jwt";
    let id_token = of(ALICE, json!({}));
    let named = [("audience", "outlook:team-b/alice")];
    for (subject, kind, more) in [
        (id_token.clone(), ID_TOKEN, &[][..]),
        (id_token.clone(), jwt, &[("audience", "outlook")][..]),
        (id_token.clone(), ID_TOKEN, &named[..]),
        (access(json!({})), ACCESS_TOKEN, &[][..]),
        (access(json!({ "aud": format!("api://{CLIENT_ID}") })), jwt, &named[..]),
        (of(ALICE, json!({ "may_act": { "sub": SYNC } })), ID_TOKEN, &[][..]),
        (of(ALICE, json!({ "act": { "sub": "gateway", "act": { "sub": "portal" } } })), ID_TOKEN, &[][..]),
    ] {
        let answer = ask(&world, exchange(&subject, kind, more)).await;
        assert_eq!(answer.status, 200, "{kind} {more:?}: {}\n{}", answer.text(), world.daemon.log());
        assert_eq!(text(&answer.json(), "access_token"), alice, "{kind} {more:?}");
    }
    // Neither another's connection nor what no sign-in believes.
    let graph = world.access_token("team-b/alice").await;
    let invalid = |error: &str| is(400, error, "invalid_request");
    for (what, subject, kind, more, expected) in [
        (
            "another's",
            id_token.clone(),
            ID_TOKEN,
            &[("audience", "outlook:team-a/bob")][..],
            invalid("invalid_request"),
        ),
        (
            "nobody's",
            id_token.clone(),
            ID_TOKEN,
            &[("audience", "outlook:nobody")][..],
            is(400, "invalid_request", "connection_not_found"),
        ),
        (
            "another app",
            id_token.clone(),
            ID_TOKEN,
            &[("audience", "other")][..],
            is(400, "invalid_request", "app_not_found"),
        ),
        ("expired", of(ALICE, json!({ "exp": 1 })), ID_TOKEN, &[][..], invalid("invalid_request")),
        (
            "for another app",
            of(ALICE, json!({ "aud": "another" })),
            ID_TOKEN,
            &[][..],
            invalid("invalid_request"),
        ),
        ("an id_token as access token", id_token.clone(), ACCESS_TOKEN, &[][..], invalid("invalid_request")),
        ("an access token as id_token", access(json!({})), ID_TOKEN, &[][..], invalid("invalid_request")),
        (
            "an app's own",
            access(json!({ "idtyp": "app" })),
            ACCESS_TOKEN,
            &[][..],
            invalid("invalid_request"),
        ),
        ("Graph's", graph.clone(), ACCESS_TOKEN, &[][..], invalid("invalid_request")),
        ("no JWT", "canary".to_owned(), ID_TOKEN, &[][..], invalid("invalid_request")),
        ("changed", format!("{id_token}x"), ID_TOKEN, &[][..], invalid("invalid_request")),
        (
            "another may act",
            of(ALICE, json!({ "may_act": { "sub": READER } })),
            ID_TOKEN,
            &[][..],
            invalid("invalid_request"),
        ),
        (
            "another issuer's caller may act",
            of(ALICE, json!({ "may_act": { "sub": SYNC, "iss": "https://other.example" } })),
            ID_TOKEN,
            &[][..],
            invalid("invalid_request"),
        ),
        ("an odd act", of(ALICE, json!({ "act": "gateway" })), ID_TOKEN, &[][..], invalid("invalid_request")),
    ] {
        let answer = ask(&world, exchange(&subject, kind, more)).await;
        assert_eq!(refusal(&answer), expected, "{what}: {}", answer.text());
        assert!(!answer.text().contains("canary") && !answer.text().contains(&id_token), "{what}");
    }
    // What the rules do not cover is not found, and is not told from what is not there.
    let reader = basic(READER, &world.reader_key);
    let as_reader = [("authorization", reader.as_str()), FORM];
    for (user, expected) in [(ALICE, 200), (BOB, 400)] {
        let answer = post(&world, &as_reader, exchange(&of(user, json!({})), ID_TOKEN, &[])).await;
        assert_eq!(answer.status, expected, "{user}: {}", answer.text());
    }
    // Two connections of one account: the caller says which.
    world.connect("team-b/alice-too", ALICE).await;
    let answer = ask(&world, exchange(&id_token, ID_TOKEN, &[])).await;
    assert_eq!(refusal(&answer), invalid("invalid_target"), "{}", answer.text());
    assert_eq!(ask(&world, exchange(&id_token, ID_TOKEN, &named)).await.status, 200);

    // The audit says on whose word, and who acted.
    let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).expect("an audit file");
    let records: Vec<Value> = audit.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let has = |detail: Value| {
        records.iter().any(|record| record["action"] == "token" && record["detail"] == detail)
    };
    assert!(has(json!({ "subject_token": "id_token" })), "{audit}");
    assert!(has(json!({ "subject_token": "access_token" })), "{audit}");
    assert!(has(json!({ "subject_token": "id_token", "actors": "gateway, portal" })), "{audit}");
    let refused =
        records.iter().filter(|record| record["action"] == "refused" && record["caller"] == SYNC).count();
    assert!(refused >= 10, "{audit}");
    assert!(!audit.contains(&id_token[..60]), "a user's token is in the audit");
    assert!(!world.daemon.log().contains(&id_token[..60]), "a user's token is in the log");
}

#[tokio::test]
async fn a_connection_that_gets_another_account_is_not_served_for_the_first() {
    let world = Plan::default().start().await;
    world.connect("shared", ALICE).await;
    let token = world.entra.user_token(ALICE, CLIENT_ID, &json!({})).expect("a token");
    let named = [("audience", "outlook:shared")];
    assert_eq!(ask(&world, exchange(&token, ID_TOKEN, &named)).await.status, 200);
    let deleted = world.api(Method::DELETE, "/v1/apps/outlook/connections/shared", Value::Null).await;
    assert_eq!(deleted.status, 204);
    world.connect("shared", BOB).await;
    let answer = ask(&world, exchange(&token, ID_TOKEN, &named)).await;
    assert_eq!(refusal(&answer), is(400, "invalid_request", "invalid_request"), "{}", answer.text());
    assert_eq!(text(&answer.json(), "parameter"), "subject_token");
}

#[tokio::test]
async fn a_pause_and_a_delete_hold_at_this_door_too() {
    let world = Plan::default().start().await;
    world.connect("user-1", ALICE).await;
    let id_token = world.entra.user_token(ALICE, CLIENT_ID, &json!({})).expect("a token");
    let bodies = [exchange("outlook:user-1", CONNECTION, &[]), exchange(&id_token, ID_TOKEN, &[])];
    for (paused, expected) in [(true, 400), (false, 200)] {
        pause(&world, "user-1", paused).await;
        for body in &bodies {
            let answer = ask(&world, body.clone()).await;
            assert_eq!(answer.status, expected, "{}", answer.text());
            if paused {
                assert_eq!(refusal(&answer), is(400, "invalid_grant", "connection_paused"));
            }
        }
    }
    let deleted = world.api(Method::DELETE, "/v1/apps/outlook/connections/user-1", Value::Null).await;
    assert_eq!(deleted.status, 204);
    for body in &bodies {
        let answer = ask(&world, body.clone()).await;
        assert_eq!(refusal(&answer), is(400, "invalid_request", "connection_not_found"));
    }
}

/// An operator pauses a connection, or ends the pause.
async fn pause(world: &World, connection: &str, paused: bool) {
    let admin = world.folder.path().join("admin.sock");
    let path = format!("/admin/v1/apps/outlook/connections/{connection}");
    let body = json!({ "paused": paused }).to_string();
    let answer =
        request_unix(&admin, Method::PATCH, &path, &[("content-type", "application/json")], body).await;
    assert_eq!(answer.expect("an answer").status, 200);
}

#[tokio::test]
async fn the_metadata_leads_to_the_endpoint() {
    let world = Plan::default().start().await;
    let path = "/.well-known/oauth-authorization-server";
    let url = format!("{}{path}", world.daemon.local);
    let answer = request(Method::GET, &url, &[], "").await.expect("an answer");
    assert_eq!(answer.status, 200, "to anybody: {}", answer.text());
    assert_eq!(text(&answer.json(), "issuer"), world.daemon.local);
    let mut python = command(installed("venv/bin/python", "tools"));
    python.arg(repository().join("tests/interop/token-exchange/metadata.py")).arg(&world.daemon.local);
    let run = tokio::task::spawn_blocking(move || python.output());
    let output =
        tokio::time::timeout(PATIENCE, run).await.expect("it ends").expect("joined").expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let endpoint = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert_eq!(endpoint, format!("{}/oauth2/token", world.daemon.local));
    let other = request(Method::GET, &format!("{}{path}/x", world.daemon.local), &[], "").await;
    assert_eq!(other.expect("an answer").status, 401, "only this path is anybody's");
}

// === Authlib and requests ===

/// Has Authlib and requests ask. Returns what each case brought.
pub(crate) async fn ask_as_libraries(cases: Vec<Value>) -> Vec<Value> {
    let mut python = command(installed("venv/bin/python", "tools"));
    python.arg(repository().join("tests/interop/token-exchange/client.py"));
    python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let run = tokio::task::spawn_blocking(move || {
        let mut child = python.spawn().expect("python is missing: run `make tools`");
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(json!(cases).to_string().as_bytes()).expect("it reads");
        drop(stdin);
        child.wait_with_output().expect("it ends")
    });
    let output = tokio::time::timeout(PATIENCE, run).await.expect("it ends").expect("joined");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn case(world: &World, (library, method): (&str, &str), (name, key): (&str, &str), more: Value) -> Value {
    let mut form = json!({
        "grant_type": EXCHANGE, "subject_token": "outlook:user-1", "subject_token_type": CONNECTION,
    });
    form.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
    json!({
        "library": library, "method": method, "client_id": name, "client_secret": key,
        "url": format!("{}/oauth2/token", world.daemon.local), "form": form,
    })
}

const LIBRARIES: [&str; 2] = ["authlib", "requests"];
const METHODS: [&str; 2] = ["client_secret_basic", "client_secret_post"];

#[tokio::test]
async fn authlib_and_requests_get_tokens() {
    let world = Plan::default().start().await;
    world.connect("user-1", ALICE).await;
    let token = world.access_token("user-1").await;
    let id_token = world.entra.user_token(ALICE, CLIENT_ID, &json!({})).expect("a token");
    let subjects = [
        json!({}),
        json!({ "scope": "Mail.Read", "audience": "outlook" }),
        json!({ "subject_token": id_token, "subject_token_type": ID_TOKEN }),
    ];
    let client = (SYNC, world.key.as_str());
    let ways = LIBRARIES.iter().flat_map(|library| METHODS.map(|method| (*library, method)));
    let cases: Vec<Value> = ways
        .flat_map(|way| subjects.iter().map(move |subject| (way, subject)))
        .map(|(way, subject)| case(&world, way, client, subject.clone()))
        .collect();
    let count = cases.len();
    let answers = ask_as_libraries(cases).await;
    assert_eq!((answers.len(), count), (count, 12));
    for answer in answers {
        assert_eq!(answer["token"]["access_token"], token, "{answer}");
        assert_eq!(answer["token"]["issued_token_type"], ACCESS_TOKEN, "{answer}");
    }
}

/// The blocks of code in a page, in this language.
pub(crate) fn blocks(page: &str, language: &str) -> Vec<String> {
    let page = std::fs::read_to_string(repository().join(page)).expect("the page");
    let begin = format!("```{language}\n");
    page.split(&begin).skip(1).map(|rest| rest.split("```").next().expect("an end").to_owned()).collect()
}

#[tokio::test]
async fn the_code_of_the_guide_and_of_the_readme_works() {
    let home = "home_tenant = \"22222222-0000-4000-8000-00000000000b\"";
    let world = Plan::default().app_lines(home).start().await;
    world.connect("user-4711", ALICE).await;
    let token = world.access_token("user-4711").await;
    let folder = tempfile::tempdir().expect("a temp dir");
    std::fs::write(folder.path().join("mail-sync.key"), format!("{}\n", world.key)).expect("write");
    let python = || command(installed("venv/bin/python", "tools"));
    for block in blocks("docs/token-exchange.md", "py") {
        let mut run = python();
        run.arg("-c").arg(block).current_dir(folder.path());
        let output = tokio::task::spawn_blocking(move || run.output()).await.expect("joined");
        let output = output.expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let keys = std::fs::read_to_string(folder.path().join("mail-sync.jwks")).expect("it was written");
    write_secret(&world.folder.path().join("mail-sync.jwks"), &keys);
    let (way, and) =
        ("{ api_keys = \"mail-sync.keys\" }", "{ client_assertion = { jwks_file = \"mail-sync.jwks\" } }");
    reconfigure(&world, way, &format!("{way}, {and}")).await;
    let rule = "[[callers.mail-sync.allow]]\napp = \"outlook\"\napp_only = [\"home\"]\n[listen.public]";
    reconfigure(&world, "[listen.public]", rule).await;
    let own = world.api(Method::GET, "/v1/apps/outlook/token", Value::Null).await.json();
    let own = text(&own, "access_token").to_owned();
    let local = |block: &str| block.replace("http://127.0.0.1:7070", &world.daemon.local);
    let of_guide = blocks("docs/token-exchange.md", "python");
    let of_readme = blocks("README.md", "python").into_iter().filter(|block| block.contains("/oauth2/token"));
    let scripts = of_guide.into_iter().chain(of_readme).map(|block| {
        let mut run = python();
        run.arg("-c").arg(local(&block) + "\nprint(token['access_token'])\n");
        run
    });
    let shell = blocks("docs/token-exchange.md", "sh").into_iter().map(|block| {
        let mut run = command("sh");
        run.arg("-c").arg(local(&block)).env("key", &world.key);
        run
    });
    let (mut runs, mut owns) = (0, 0);
    for mut run in scripts.chain(shell) {
        run.current_dir(folder.path());
        let run = tokio::task::spawn_blocking(move || run.output());
        let output =
            tokio::time::timeout(PATIENCE, run).await.expect("it ends").expect("joined").expect("it runs");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let is_own = printed.contains(&own);
        assert!(printed.contains(&token) || is_own, "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
        owns += usize::from(is_own);
        runs += 1;
    }
    assert_eq!((runs, owns), (5, 1));
}

/// A caller of a low rate, with a key of its own: its section, its file of keys, and the key.
fn eager() -> (String, String, String) {
    let folder = tempfile::tempdir().expect("a temp dir");
    let file = folder.path().join("eager.keys");
    let (name, now) = (CallerName::parse("eager").expect("a name"), SystemClock::new().now());
    let day = Duration::from_secs(86_400);
    let (key, _) = key_file::add(&file, &name, &SystemRandom::new(), now, day).expect("a key");
    let section = "[callers.eager]\nrate_limit = 1\nauthenticate = [{ api_keys = \"eager.keys\" }]\n\
         [[callers.eager.allow]]\napp = \"outlook\"\nconnections = [\"user-1\"]\nscopes = [\"Mail.Read\"]\n";
    (section.to_owned(), std::fs::read_to_string(&file).expect("written"), key.expose().to_owned())
}

/// What a client's user sees, word for word as the guide has it.
#[tokio::test]
async fn what_authlib_and_requests_show_is_in_the_guide() {
    let (section, keys, eager_key) = eager();
    let world = Plan::default().sections(&section).file("eager.keys", &keys).start().await;
    world.connect("user-1", ALICE).await;
    for (name, kind) in [("revoked", RevokeKind::GrantRevoked), ("blocked", RevokeKind::ConditionalAccess)] {
        let user = format!("{name}@contoso.example");
        world.entra.add_user(User::work(&user));
        world.connect(name, &user).await;
        world.entra.revoke_user(&user, kind).expect("a user");
    }
    world.connect("paused", ALICE).await;
    pause(&world, "paused", true).await;
    world.outlive_tokens();
    let _fresh = world.access_token("user-1").await;
    // It stays over its rate, however long the libraries take to start.
    let client = basic("eager", &eager_key);
    let ask = || exchange("outlook:user-1", CONNECTION, &[]);
    for _ in 0..4 {
        post(&world, &[("authorization", &client), FORM], ask()).await;
    }
    let flood = async {
        loop {
            post(&world, &[("authorization", &client), FORM], ask()).await;
        }
    };
    let (sync, way) = ((SYNC, world.key.as_str()), ("authlib", "client_secret_basic"));
    let of = |connection: &str| json!({ "subject_token": format!("outlook:{connection}") });
    let cases = vec![
        case(&world, way, ("eager", &eager_key), json!({})),
        case(&world, way, (SYNC, "twk_wrong"), json!({})),
        case(&world, way, sync, of("revoked")),
        case(&world, way, sync, of("blocked")),
        case(&world, way, sync, of("paused")),
        case(&world, way, sync, of("nobody")),
        case(&world, way, sync, json!({ "scope": "Mail.Send" })),
        case(&world, ("requests", "client_secret_basic"), sync, of("revoked")),
    ];
    let guide = std::fs::read_to_string(repository().join("docs/token-exchange.md")).expect("the page");
    let guide = guide.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut missing = Vec::new();
    let answers = tokio::select! {
        answers = ask_as_libraries(cases) => answers,
        () = flood => unreachable!("it does not end"),
    };
    for answer in answers {
        let shown = text(&answer, "shown").replace(&world.daemon.local, "http://127.0.0.1:7070");
        // How long to wait differs from run to run; it is in a header that Authlib does not show.
        if !guide.contains(&format!("`{shown}`")) {
            missing.push(shown);
        }
    }
    assert!(missing.is_empty(), "docs/token-exchange.md lacks:\n{}", missing.join("\n"));
}
