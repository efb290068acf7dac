//! Attacks on the local API by its callers and by strangers (B1-B5, B9-B11): credentials in the wrong place,
//! names of others, keys that are almost right, requests that can be read in two ways.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use entra_emulator::{ChallengeStyle, Endpoint, Fault, FaultRule};
use http::Method;
use serde_json::{Value, json};
use tokenward::callers::key_file;
use tokenward::domain::id::CallerName;
use tokenward::domain::time::Clock;
use tokenward::system::{SystemClock, SystemRandom};

use crate::http_client::{Answer, Browser, request, request_unix};
use crate::token_exchange;
use crate::world::{ALICE, BOB, PATIENCE, Plan, READER, SYNC, World, text};

const CONNECTION: &str = "/v1/apps/outlook/connections/team-b%2Falice";

fn uid() -> u32 {
    rustix::process::getuid().as_raw()
}

pub(crate) fn sha256(token: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn anonymous(world: &World, method: Method, path: &str) -> Answer {
    request(method, &format!("{}{path}", world.daemon.local), &[], "").await.expect("an answer")
}

/// A problem without what differs from request to request.
fn body(answer: &Answer) -> Value {
    let mut problem = answer.json();
    problem.as_object_mut().expect("an object").remove("request_id");
    problem
}

fn is_never_cached(what: &str, answer: &Answer) {
    assert_eq!(answer.headers["cache-control"], "no-store", "{what} {}", answer.status);
    // (A token's own answer has a tag, by which a caller may ask whether it has changed.)
    assert!(answer.status == 200 || !answer.headers.contains_key("etag"), "{what} {}", answer.status);
    for header in ["last-modified", "content-encoding", "server", "set-cookie", "x-powered-by"] {
        assert!(answer.headers.get(header).is_none(), "{what} {} {header}", answer.status);
    }
}

#[tokio::test]
async fn a_credential_in_a_url_is_refused_and_never_used() {
    let world = Plan::default().start().await;
    world.connect("team-b/alice", ALICE).await;
    let key = &world.key;
    let escaped = key.replace('_', "%5F");
    let paths = [
        format!("{CONNECTION}/token?access_token={key}"),
        format!("{CONNECTION}/token?ACCESS_TOKEN=x"),
        format!("{CONNECTION}/token?access%5Ftoken=x"),
        format!("{CONNECTION}/token?api_key=x"),
        format!("{CONNECTION}/token?Authorization=Bearer%20x"),
        format!("{CONNECTION}/token?scope=Mail.Read&key={key}"),
        format!("{CONNECTION}/token?{key}"),
        format!("{CONNECTION}/token?x={escaped}"),
        format!("{CONNECTION}/token?x=%74wk_{}", &key[4..]),
        format!("/v1/apps/outlook/connections/{key}/token"),
        format!("/v1/apps/outlook/connections/{escaped}/token"),
        format!("/v1/connect-sessions/{key}"),
        format!("/{key}"),
        format!("/openapi.json?access_token={key}"),
    ];
    for path in paths {
        for bearer in [None, Some(format!("Bearer {key}"))] {
            let headers: Vec<(&str, &str)> =
                bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
            let url = format!("{}{path}", world.daemon.local);
            let answer = request(Method::GET, &url, &headers, "").await.expect("an answer");
            assert_eq!(answer.status, 400, "{path}: {}", answer.text());
            assert_eq!(answer.json()["code"], "invalid_request");
            assert!(!answer.text().contains(&key[4..]), "the key comes back: {}", answer.text());
            is_never_cached(&path, &answer);
        }
    }
    let log = world.daemon.log();
    let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).expect("the audit");
    assert!(!log.contains(&key[10..]) && !audit.contains(&key[10..]), "the key was written down");
}

#[tokio::test]
async fn no_answer_may_be_cached() {
    let world = Plan::default().start().await;
    world.connect("team-b/alice", ALICE).await;
    let mut statuses = BTreeSet::new();
    let mut paths: Vec<String> = ["", "/token", "/explain", "/nothing/here"]
        .iter()
        .map(|tail| format!("{CONNECTION}{tail}"))
        .collect();
    paths.extend(
        [
            "/openapi.json",
            "/v1/apps/outlook/connections",
            "/v1/apps/nothing/connections",
            "/v1/connect-sessions",
            "/v1/connect-sessions/none",
            "/v1/connect-sessions/none/confirm",
            "/v1/admin-consent-sessions",
            "/v1/admin-consent-sessions/none",
            "/v1/apps/outlook/connections/nobody/token?min_ttl=1",
            "/nowhere",
            "/",
        ]
        .map(str::to_owned),
    );
    for path in &paths {
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::HEAD, Method::OPTIONS] {
            for key in [Some(&world.key), Some(&world.reader_key), None] {
                let bearer = key.map(|key| format!("Bearer {key}"));
                let headers: Vec<(&str, &str)> =
                    bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
                for sent in ["", "{}", "{"] {
                    let url = format!("{}{path}", world.daemon.local);
                    let answer = request(method.clone(), &url, &headers, sent).await.expect("an answer");
                    is_never_cached(&format!("{method} {path}"), &answer);
                    if answer.status.is_client_error() && method != Method::HEAD {
                        assert_eq!(answer.headers["content-type"], "application/problem+json", "{path}");
                    }
                    statuses.insert(answer.status.as_u16());
                }
            }
        }
    }
    let forbidden = world.api_as(&world.reader_key, Method::DELETE, CONNECTION, Value::Null).await;
    is_never_cached("DELETE", &forbidden);
    statuses.insert(forbidden.status.as_u16());
    let deleted = world.api(Method::DELETE, CONNECTION, Value::Null).await;
    is_never_cached("DELETE", &deleted);
    statuses.insert(deleted.status.as_u16());
    for path in ["/", "/connect/none", "/callback/outlook", "/nothing"] {
        let answer = request(Method::GET, &format!("{}{path}", world.daemon.public), &[], "").await;
        is_never_cached(path, &answer.expect("an answer"));
    }
    for status in [200, 204, 400, 401, 403, 404, 405] {
        assert!(statuses.contains(&status), "{status} was not seen: {statuses:?}");
    }
}

#[tokio::test]
async fn who_may_not_know_cannot_tell_what_is_there_from_what_is_not() {
    let world = Plan::default().start().await;
    world.connect("team-a/alice", ALICE).await;
    world.connect("team-b/bob", BOB).await;
    let session = world.start_session(json!({ "app": "outlook", "connection": "team-a/x" })).await;
    let session = text(&session, "id");
    let connection = |name: &str| format!("/v1/apps/outlook/connections/{name}");
    let reader = async |method: Method, path: String, body: Value| {
        world.api_as(&world.reader_key, method, &path, body).await
    };
    // What is there and forbidden, beside what is not there.
    for (tail, query) in
        [("", ""), ("/token", ""), ("/token", "?scope=Mail.Read"), ("/token", "?connect=1"), ("/explain", "")]
    {
        let there = reader(Method::GET, connection("team-a%2Falice") + tail + query, Value::Null).await;
        let not = reader(Method::GET, connection("team-a%2Fnobody") + tail + query, Value::Null).await;
        assert_eq!(there.status, 404, "{tail}{query}: {}", there.text());
        assert_eq!(body(&there), body(&not), "{tail}{query}");
        assert_eq!(there.json()["code"], "connection_not_found");
    }
    for (method, tail, sent) in [
        (Method::DELETE, "", Value::Null),
        (Method::POST, "/token", json!({ "rejected": "0".repeat(64) })),
        (Method::POST, "/token", json!({ "scope": "Mail.Send" })),
    ] {
        let there = reader(method.clone(), connection("team-a%2Falice") + tail, sent.clone()).await;
        let not = reader(method.clone(), connection("team-a%2Fnobody") + tail, sent).await;
        assert_eq!((there.status.as_u16(), body(&there)), (404, body(&not)), "{method} {tail}");
    }
    // Connect sessions reveal neither.
    let start = |name: &str| json!({ "app": "outlook", "connection": name });
    let there = reader(Method::POST, "/v1/connect-sessions".into(), start("team-a/alice")).await;
    let not = reader(Method::POST, "/v1/connect-sessions".into(), start("team-a/nobody")).await;
    assert_eq!((there.status.as_u16(), body(&there)), (404, body(&not)));
    // Within its own prefix it may know, and still not connect.
    let there = reader(Method::POST, "/v1/connect-sessions".into(), start("team-b/bob")).await;
    let not = reader(Method::POST, "/v1/connect-sessions".into(), start("team-b/nobody")).await;
    assert_eq!((there.status.as_u16(), body(&there)), (403, body(&not)));
    let there = reader(Method::DELETE, connection("team-b%2Fbob"), Value::Null).await;
    let not = reader(Method::DELETE, connection("team-b%2Fnobody"), Value::Null).await;
    assert_eq!((there.status.as_u16(), body(&there)), (403, body(&not)));
    // Another caller's session is none.
    let account = json!({ "account": { "tid": "t", "oid": "o" } });
    for (method, tail, sent) in [
        (Method::GET, "", Value::Null),
        (Method::POST, "/confirm", account),
        (Method::POST, "/confirm", json!({ "code": "x" })),
    ] {
        let there =
            reader(method.clone(), format!("/v1/connect-sessions/{session}{tail}"), sent.clone()).await;
        let not = reader(method, format!("/v1/connect-sessions/nobody{tail}"), sent).await;
        assert_eq!((there.status.as_u16(), body(&there)), (404, body(&not)), "{tail}");
        assert_eq!(there.json()["code"], "session_not_found");
    }
    // Nor is an app that no rule names.
    let there = reader(Method::GET, "/v1/apps/nothing/connections".into(), Value::Null).await;
    assert_eq!((there.status.as_u16(), there.json()["code"].clone()), (404, json!("app_not_found")));
    // A list, whatever its filters, shows its own prefix only.
    for query in ["", "?status=active", "?tenant=34e60b8e-a5b5-43c9-a67e-a85b7dd8768b"] {
        let page =
            reader(Method::GET, format!("/v1/apps/outlook/connections{query}"), Value::Null).await.json();
        for shown in page["connections"].as_array().expect("a page") {
            assert!(text(shown, "connection").starts_with("team-b/"), "{shown}");
        }
    }
    // Nor can a place in the list be made up ("team-a").
    let made_up =
        reader(Method::GET, "/v1/apps/outlook/connections?cursor=dGVhbS1h".into(), Value::Null).await;
    assert_eq!((made_up.status.as_u16(), made_up.json()["parameter"].clone()), (400, json!("cursor")));
    assert_eq!(world.token("team-a/alice").await.status, 200, "nothing happened to it");
    assert_eq!(world.token("team-b/bob").await.status, 200);
}

#[tokio::test]
async fn nothing_is_allowed_that_no_rule_allows() {
    let sections = format!(
        "[callers.idle]\nauthenticate = [{{ unix_user = {} }}]\n[callers.narrow]\nauthenticate = [{{ \
         api_keys = \"narrow.keys\" }}]\n[[callers.narrow.allow]]\napp = \"outlook\"\nconnections = \
         [\"team-b/alice\"]\n\
         scopes = [\"Calendars.Read\"]\nconnect = true\n",
        uid()
    );
    let world = Plan::default().sections(&sections).start().await;
    let narrow = new_key(world.folder.path(), "narrow", Duration::from_secs(3600));
    until_known(&world, &narrow).await;
    for name in ["team-b/alice", "team-b/alice2", "team-a/alice", "team-b"] {
        world.connect(name, ALICE).await;
    }
    let reader = world.reader_key.clone();
    let token = |name: &str, query: &str| format!("/v1/apps/outlook/connections/{name}/token{query}");
    let table: Vec<(&str, Method, String, u16)> = vec![
        (&reader, Method::GET, token("team-b%2Falice", ""), 200),
        (&reader, Method::GET, token("team-b/alice", ""), 200),
        (&reader, Method::GET, token("team-b%2Falice", "?scope=Mail.Read"), 200),
        (&reader, Method::GET, token("team-b%2Falice", "?scope=mail.read"), 200),
        (&reader, Method::GET, token("team-b%2Falice", "?scope=Calendars.Read"), 403),
        (&reader, Method::GET, token("team-b%2Falice", "?scope=Mail.Read%20Calendars.Read"), 403),
        (&reader, Method::GET, token("team-b%2Falice", "?scope=Mail.ReadWrite"), 403),
        (&reader, Method::GET, token("team-b%2Falice", "?scope=.default"), 403),
        (&reader, Method::GET, token("team-b%2Falice", "?scope=*"), 403),
        (&reader, Method::GET, token("team-b", ""), 404),
        (&reader, Method::GET, token("Team-B%2Falice", ""), 404),
        (&reader, Method::GET, token("team-b%252Falice", ""), 400),
        (&reader, Method::GET, token("team-b%2F..%2Fteam-a%2Falice", ""), 400),
        (&reader, Method::GET, token("team-a%2Falice", ""), 404),
        (&reader, Method::DELETE, CONNECTION.to_owned(), 403),
        (&reader, Method::POST, "/v1/admin-consent-sessions".to_owned(), 400),
        (&narrow, Method::GET, token("team-b%2Falice", ""), 200),
        (&narrow, Method::GET, token("team-b%2Falice", "?scope=Mail.Read"), 403),
        (&narrow, Method::GET, token("team-b%2Falice2", ""), 404),
        (&narrow, Method::DELETE, "/v1/apps/outlook/connections/team-b%2Falice2".to_owned(), 404),
        (&narrow, Method::DELETE, "/v1/apps/outlook/connections/team-b".to_owned(), 404),
    ];
    for (key, method, path, status) in table {
        let answer = world.api_as(key, method.clone(), &path, Value::Null).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
    }
    // A caller that reads only starts no consent of an administrator either.
    let consent = json!({ "app": "outlook", "tenant": "contoso.example" });
    let answer = world.api_as(&reader, Method::POST, "/v1/admin-consent-sessions", consent.clone()).await;
    assert!(matches!(answer.status.as_u16(), 403 | 404), "{}", answer.text());
    let started = world.api(Method::POST, "/v1/admin-consent-sessions", consent).await;
    assert_eq!(started.status, 201, "{}", started.text());
    let path = format!("/v1/admin-consent-sessions/{}", text(&started.json(), "id"));
    for key in [&reader, &narrow] {
        assert_eq!(world.api_as(key, Method::GET, &path, Value::Null).await.status, 404);
    }
    // A caller without a rule is known, and has nothing.
    let socket = world.folder.path().join("local.sock");
    for path in [CONNECTION, "/v1/apps/outlook/connections", &token("team-b%2Falice", "")] {
        let answer = request_unix(&socket, Method::GET, path, &[], "").await.expect("an answer");
        assert_eq!((answer.status.as_u16(), body(&answer)["code"].clone()), (404, json!("app_not_found")));
    }
}

fn new_key(folder: &Path, name: &str, life: Duration) -> String {
    let caller = CallerName::parse(name).expect("a name");
    let path = folder.join(format!("{name}.keys"));
    let now = SystemClock::new().now();
    let (key, _) = key_file::add(&path, &caller, &SystemRandom::new(), now, life).expect("a key");
    key.expose().to_owned()
}

/// A key's last part, which anyone can compute: CRC-32 in base62.
fn with_checksum(body: &str) -> String {
    let mut crc = u32::MAX;
    for byte in body.bytes() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    let digits = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut left = !crc;
    let mut sum = [b'0'; 6];
    for digit in sum.iter_mut().rev() {
        *digit = digits[(left % 62) as usize];
        left /= 62;
    }
    format!("{body}_{}", String::from_utf8_lossy(&sum))
}

#[tokio::test]
async fn a_key_that_is_almost_right_is_wrong() {
    let sections = format!(
        "[callers.local]\nauthenticate = [{{ unix_user = {} }}]\n[[callers.local.allow]]\napp = \"outlook\"\n\
         connections = [\"team-b/*\"]\nscopes = [\"Mail.Read\"]\n",
        uid()
    );
    let world = Plan::default().sections(&sections).start().await;
    world.connect("team-b/alice", ALICE).await;
    let path = format!("{CONNECTION}/token");
    let key = world.key.clone();
    let (body_of_key, _) = key.rsplit_once('_').expect("a checksum");
    let random = body_of_key.rsplit_once('_').expect("a random part").1;
    assert_eq!(with_checksum(body_of_key), key, "the checksum is as documented");
    let mut flipped = body_of_key.to_owned();
    let last = if flipped.pop() == Some('A') { 'B' } else { 'A' };
    flipped.push(last);
    let life = Duration::from_secs(3600);
    let expired = new_key(world.folder.path(), READER, life);
    until_known(&world, &expired).await;
    world.pass(life);
    let mut wrong = vec![
        String::new(),
        "twk_".to_owned(),
        body_of_key.to_owned(),
        format!("{body_of_key}_000000"),
        key[..key.len() - 1].to_owned(),
        format!("{key}0"),
        format!("{key} x"),
        key.to_uppercase(),
        key.replacen("twk", "TWK", 1),
        flipped.clone() + &key[key.len() - 7..],
        with_checksum(&flipped),
        with_checksum(&format!("twk_{READER}_{random}")),
        with_checksum(&format!("twk_nobody_{random}")),
        with_checksum(&format!("twk_{SYNC}_{}", "0".repeat(43))),
        expired.clone(),
        "x".repeat(8000),
    ];
    // What the file holds is no key.
    let file = std::fs::read_to_string(world.folder.path().join(format!("{SYNC}.keys"))).expect("keys");
    assert!(!file.contains(random) && !file.contains("twk_"), "{file}");
    wrong.extend(file.split_ascii_whitespace().filter(|word| word.len() > 20).map(str::to_owned));
    let socket = world.folder.path().join("local.sock");
    let mut bodies = BTreeSet::new();
    for key in &wrong {
        let answer = world.api_as(key, Method::GET, &path, Value::Null).await;
        assert_eq!(answer.status, 401, "{key}: {}", answer.text());
        assert!(answer.headers["www-authenticate"].to_str().expect("text").starts_with("Bearer"));
        bodies.insert(body(&answer).to_string());
        // The peer would have been let in: the explicit credential decides alone.
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str())];
        let answer = request_unix(&socket, Method::GET, &path, &headers, "").await.expect("an answer");
        assert_eq!(answer.status, 401, "{key}");
    }
    for (name, value) in [
        ("authorization", format!("Basic {key}")),
        ("authorization", key.clone()),
        ("authorization", format!("Bearer\t{key}")),
        ("authorization", String::new()),
        ("x-identity-header", key.clone()),
        ("x-vault-token", key.clone()),
        ("x-forwarded-user", SYNC.to_owned()),
        ("cookie", format!("authorization=Bearer {key}")),
        ("proxy-authorization", format!("Bearer {key}")),
    ] {
        let url = format!("{}{path}", world.daemon.local);
        let answer = request(Method::GET, &url, &[(name, value.as_str())], "").await.expect("an answer");
        assert_eq!(answer.status, 401, "{name}: {value}");
        // (A client of managed identity at another path is refused in its own form.)
        if name != "x-identity-header" {
            bodies.insert(body(&answer).to_string());
        }
    }
    let two = format!("Bearer {key}");
    let url = format!("{}{path}", world.daemon.local);
    let headers = [("authorization", two.as_str()), ("authorization", two.as_str())];
    assert_eq!(request(Method::GET, &url, &headers, "").await.expect("an answer").status, 401);
    assert_eq!(bodies.len(), 1, "they differ: {bodies:?}");

    // The peer alone, and the right key, both work.
    let peer = request_unix(&socket, Method::GET, &path, &[], "").await.expect("an answer");
    assert_eq!(peer.status, 200, "{}", peer.text());
    assert_eq!(world.token("team-b/alice").await.status, 200);

    // Retired: the line is gone, and with it the key, when the file has been looked at.
    let path_of_keys = world.folder.path().join(format!("{SYNC}.keys"));
    let kept: String =
        file.lines().filter(|line| line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    std::fs::write(&path_of_keys, kept).expect("write");
    world.until("the key is retired", async || world.token("team-b/alice").await.status == 401).await;
    let reader = world.api_as(&world.reader_key, Method::GET, &path, Value::Null).await;
    assert_eq!(reader.status, 200, "others' keys are not touched");
}

/// Key files are looked at once a second.
async fn until_known(world: &World, key: &str) {
    let asks = async || world.api_as(key, Method::GET, "/v1/apps/outlook/connections", Value::Null).await;
    world.until("the key is known", async || asks().await.status != 401).await;
}

#[tokio::test]
async fn a_401_says_how_and_nothing_else() {
    let world = Plan::default().start().await;
    let answer = anonymous(&world, Method::GET, CONNECTION).await;
    assert_eq!(answer.status, 401);
    let challenge = answer.headers["www-authenticate"].to_str().expect("text").to_owned();
    assert!(challenge.starts_with("Bearer") && !challenge.contains("error"), "{challenge}");
    assert_eq!(answer.json()["code"], "caller_unauthenticated");
}

#[tokio::test]
async fn no_path_opens_without_a_credential() {
    let world = Plan::default().start().await;
    world.connect("team-b/alice", ALICE).await;
    let token = "/v1/apps/outlook/connections/team-b%2Falice/token";
    let mut paths: Vec<String> = [
        "/v1/apps/outlook/connections/a/token",
        "/v1/apps/outlook/connections/a/explain",
        "/v1/apps/outlook/connections/a",
        "/v1/apps/outlook/connections",
        "/v1/connect-sessions",
        "/v1/connect-sessions/a",
        "/v1/connect-sessions/a/confirm",
        "/v1/admin-consent-sessions",
        "/v1/admin-consent-sessions/a",
        "/oauth2/token",
        "/msi/token",
        "/admin/v1/apps",
        "/metrics",
        "/livez",
        "/readyz",
        "/debug/pprof",
        "/connect/a",
        "/callback/outlook",
        "/.well-known/openid-configuration",
        "/.well-known",
        "/",
        token,
    ]
    .map(str::to_owned)
    .to_vec();
    for variant in [
        "{}/",
        "{}//",
        "/{}",
        "/.{}",
        "/openapi.json/..{}",
        "/openapi.json/%2e%2e{}",
        "/openapi.json%2f..{}",
        "/openapi.json;{}",
        "{};/openapi.json",
        "{};x=/openapi.json",
        "{}%23/openapi.json",
        "{}%3f/openapi.json",
        "{}?/openapi.json",
        "{}?x=/openapi.json",
        "{}%00/openapi.json",
        "{}%20",
        "{}.",
        "{}%2e",
        "{}.json",
        "{}/openapi.json",
        "{}/../openapi.json",
    ] {
        paths.push(variant.replace("{}", token));
    }
    paths.push(token.to_uppercase());
    paths.push(token.replace("/v1/", "/V1/"));
    paths.push(token.replace("/v1/", "//v1/"));
    paths.push(token.replace("/v1/", "/v1/./"));
    for variant in ["/OPENAPI.json", "/openapi.json/", "/openapi.json.", "/openapi%2ejson", "//openapi.json"]
    {
        paths.push(variant.to_owned());
    }
    let host = world.daemon.local.trim_start_matches("http://").to_owned();
    for path in &paths {
        for method in ["GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH", "TRACE", "BREW"] {
            let headers =
                "X-Original-URL: /openapi.json\r\nX-Forwarded-For: 127.0.0.1\r\nUser-Agent: kube-probe/1.0";
            let sent = format!(
                "{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\nContent-Length: 0\r\nConnection: \
                 close\r\n\r\n"
            );
            let (status, answer) = raw(&host, sent.as_bytes());
            assert_eq!(status, 401, "{method} {path}: {answer}");
            assert!(!answer.contains("X-Original-URL"), "an echo: {answer}");
        }
    }
    // A fragment never reaches a server: whoever sends one gets no answer worth having.
    let sent = format!("GET {token}#/openapi.json HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    assert_eq!(raw(&host, sent.as_bytes()).0, 400);
    assert_eq!(anonymous(&world, Method::GET, "/openapi.json").await.status, 200, "the only public path");
}

#[tokio::test]
async fn a_path_takes_its_own_methods_and_no_others() {
    let world = Plan::default().start().await;
    let connection = "/v1/apps/outlook/connections/a";
    for (path, allowed) in [
        (format!("{connection}/token"), "GET, POST"),
        (format!("{connection}/token/watch"), "GET"),
        (connection.to_owned(), "GET, DELETE"),
        (format!("{connection}/explain"), "GET"),
        ("/v1/apps/outlook/connections".to_owned(), "GET"),
        ("/v1/connect-sessions".to_owned(), "POST"),
        ("/v1/connect-sessions/a".to_owned(), "GET"),
        ("/v1/connect-sessions/a/confirm".to_owned(), "POST"),
        ("/v1/admin-consent-sessions".to_owned(), "POST"),
        ("/v1/admin-consent-sessions/a".to_owned(), "GET"),
        ("/openapi.json".to_owned(), "GET"),
    ] {
        for method in ["GET", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "HEAD", "CONNECTX"] {
            if allowed.split(", ").any(|one| one == method) {
                continue;
            }
            let method: Method = method.parse().expect("a method");
            let answer = world.api(method.clone(), &path, Value::Null).await;
            assert_eq!(answer.status, 405, "{method} {path}: {}", answer.text());
            assert_eq!(answer.headers["allow"], allowed, "{method} {path}");
        }
    }
    // What belongs to other listeners is not here, even for a caller that is known.
    for path in ["/metrics", "/livez", "/readyz", "/admin/v1/apps", "/connect/a", "/callback/outlook", "/"] {
        assert_eq!(world.api(Method::GET, path, Value::Null).await.status, 404, "{path}");
    }
    // Nor is the API on theirs.
    let bearer = format!("Bearer {}", world.key);
    for base in [&world.daemon.ops, &world.daemon.public] {
        for path in [CONNECTION, "/v1/apps/outlook/connections", "/admin/v1/apps", "/openapi.json"] {
            let answer =
                request(Method::GET, &format!("{base}{path}"), &[("authorization", &bearer)], "").await;
            assert_eq!(answer.expect("an answer").status, 404, "{base}{path}");
        }
    }
    let metrics = request(Method::GET, &format!("{}/metrics", world.daemon.public), &[], "").await;
    assert_eq!(metrics.expect("an answer").status, 404);
}

/// Sends bytes and reads all there is: the status, zero when the connection was closed without one.
fn raw(address: &str, bytes: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // It may close before all is written.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or_default();
    (status, text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_can_be_read_in_two_ways_is_read_in_none() {
    let world = Plan::default().start().await;
    world.connect("team-b/alice", ALICE).await;
    let key = world.key.clone();
    let attacks: Vec<(&str, String)> = vec![
        (
            "both lengths",
            "POST {p} HTTP/1.1\r\nHost: h\r\n{a}Content-Length: 4\r\nTransfer-Encoding: \
            chunked\r\n\r\n0\r\n\r\n{s}"
                .into(),
        ),
        (
            "both, other order",
            "POST {p} HTTP/1.1\r\nHost: h\r\n{a}Transfer-Encoding: \
            chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n{s}"
                .into(),
        ),
        (
            "two lengths",
            "POST {p} HTTP/1.1\r\nHost: h\r\n{a}Content-Length: 0\r\nContent-Length: \
            60\r\n\r\n{s}"
                .into(),
        ),
        (
            "the same length twice",
            "POST {p} HTTP/1.1\r\nHost: h\r\n{a}Content-Length: 0\r\nContent-Length: \
            0\r\n\r\n{s}"
                .into(),
        ),
        ("a list of lengths", "POST {p} HTTP/1.1\r\nHost: h\r\n{a}Content-Length: 0, 0\r\n\r\n{s}".into()),
        ("a signed length", "POST {p} HTTP/1.1\r\nHost: h\r\n{a}Content-Length: +0\r\n\r\n{s}".into()),
        ("a negative length", "POST {p} HTTP/1.1\r\nHost: h\r\n{a}Content-Length: -1\r\n\r\n{s}".into()),
        ("a length in hex", "POST {p} HTTP/1.1\r\nHost: h\r\n{a}Content-Length: 0x0\r\n\r\n{s}".into()),
        (
            "an endless length",
            "POST {p} HTTP/1.1\r\nHost: h\r\n{a}Content-Length: \
            99999999999999999999\r\n\r\n{s}"
                .into(),
        ),
        (
            "a space before the colon",
            "POST {p} HTTP/1.1\r\nHost: h\r\n{a}Content-Length : \
            0\r\n\r\n{s}"
                .into(),
        ),
        (
            "two encodings",
            "POST {p} HTTP/1.1\r\nHost: h\r\n{a}Transfer-Encoding: \
            chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{s}"
                .into(),
        ),
        (
            "an encoding list",
            "POST {p} HTTP/1.1\r\nHost: h\r\n{a}Transfer-Encoding: gzip, \
            chunked\r\n\r\n0\r\n\r\n{s}"
                .into(),
        ),
        ("identity", "POST {p} HTTP/1.1\r\nHost: h\r\n{a}Transfer-Encoding: identity\r\n\r\n{s}".into()),
        (
            "a broken encoding",
            "POST {p} HTTP/1.1\r\nHost: h\r\n{a}Transfer-Encoding: \
            xchunked\r\n\r\n0\r\n\r\n{s}"
                .into(),
        ),
        (
            "a quoted encoding",
            "POST {p} HTTP/1.1\r\nHost: h\r\n{a}Transfer-Encoding: \
            \"chunked\"\r\n\r\n0\r\n\r\n{s}"
                .into(),
        ),
        (
            "chunked in 1.0",
            "POST {p} HTTP/1.0\r\nHost: h\r\n{a}Transfer-Encoding: \
            chunked\r\n\r\n0\r\n\r\n{s}"
                .into(),
        ),
        ("a folded header", "GET {p} HTTP/1.1\r\nHost: h\r\n{a}X-A: one\r\n two\r\n\r\n{s}".into()),
        ("a folded first header", "GET {p} HTTP/1.1\r\n Host: h\r\n{a}\r\n{s}".into()),
        ("bare LF", "GET {p} HTTP/1.1\nHost: h\n\n{s}".into()),
        ("bare LF in a header", "GET {p} HTTP/1.1\r\nHost: h\r\nX-A: a\nX-B: b\r\n{a}\r\n{s}".into()),
        ("bare CR in a header", "GET {p} HTTP/1.1\r\nHost: h\r\nX-A: a\rX-B: b\r\n{a}\r\n{s}".into()),
        ("NUL in a header", "GET {p} HTTP/1.1\r\nHost: h\r\nX-A: a\0b\r\n{a}\r\n{s}".into()),
        ("no colon", "GET {p} HTTP/1.1\r\nHost: h\r\nX-A\r\n{a}\r\n{s}".into()),
        ("no name", "GET {p} HTTP/1.1\r\nHost: h\r\n: a\r\n{a}\r\n{s}".into()),
        ("no Host", "GET {p} HTTP/1.1\r\n{a}\r\n{s}".into()),
        ("two Hosts", "GET {p} HTTP/1.1\r\nHost: h\r\nHost: h\r\n{a}\r\n{s}".into()),
        ("a Host list", "GET {p} HTTP/1.1\r\nHost: h, evil\r\n{a}\r\n{s}".into()),
        ("a Host with a path", "GET {p} HTTP/1.1\r\nHost: h/x\r\n{a}\r\n{s}".into()),
        ("a Host with a user", "GET {p} HTTP/1.1\r\nHost: u@h\r\n{a}\r\n{s}".into()),
        ("absolute form", "GET http://evil.example{p} HTTP/1.1\r\nHost: h\r\n{a}\r\n{s}".into()),
        ("authority form", "CONNECT evil.example:443 HTTP/1.1\r\nHost: h\r\n{a}\r\n{s}".into()),
        ("asterisk form", "OPTIONS * HTTP/1.1\r\nHost: h\r\n{a}\r\n{s}".into()),
        ("a fragment", "GET {p}#x HTTP/1.1\r\nHost: h\r\n{a}\r\n{s}".into()),
        ("a backslash", "GET {p}\\x HTTP/1.1\r\nHost: h\r\n{a}\r\n{s}".into()),
        ("a space in the target", "GET {p} x HTTP/1.1\r\nHost: h\r\n{a}\r\n{s}".into()),
        ("a tab in the line", "GET\t{p}\tHTTP/1.1\r\nHost: h\r\n{a}\r\n{s}".into()),
        ("two spaces", "GET  {p} HTTP/1.1\r\nHost: h\r\n{a}\r\n{s}".into()),
        ("no version", "GET {p}\r\nHost: h\r\n{a}\r\n{s}".into()),
        ("version 1.2", "GET {p} HTTP/1.2\r\nHost: h\r\n{a}\r\n{s}".into()),
        ("version 2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into()),
        ("a lower-case version", "GET {p} http/1.1\r\nHost: h\r\n{a}\r\n{s}".into()),
        ("a method of symbols", "G<T {p} HTTP/1.1\r\nHost: h\r\n{a}\r\n{s}".into()),
        ("TLS", "\u{16}\u{3}\u{1}\0\u{5}\u{1}".into()),
        (
            "a bad chunk size",
            "POST {p} HTTP/1.1\r\nHost: h\r\n{a}Transfer-Encoding: \
            chunked\r\n\r\nz\r\n\r\n{s}"
                .into(),
        ),
        (
            "a chunk size with a prefix",
            "POST {p} HTTP/1.1\r\nHost: h\r\n{a}Transfer-Encoding: \
            chunked\r\n\r\n0x0\r\n\r\n{s}"
                .into(),
        ),
        (
            "a negative chunk size",
            "POST {p} HTTP/1.1\r\nHost: h\r\n{a}Transfer-Encoding: \
            chunked\r\n\r\n-1\r\n\r\n{s}"
                .into(),
        ),
        (
            "an overflowing chunk size",
            "POST {p} HTTP/1.1\r\nHost: h\r\n{a}Transfer-Encoding: \
            chunked\r\n\r\nffffffffffffffff0\r\n\r\n{s}"
                .into(),
        ),
        (
            "LF after a chunk size",
            "POST {p} HTTP/1.1\r\nHost: h\r\n{a}Transfer-Encoding: \
            chunked\r\n\r\n0\n\r\n{s}"
                .into(),
        ),
        (
            "LF in a chunk extension",
            "POST {p} HTTP/1.1\r\nHost: h\r\n{a}Transfer-Encoding: \
            chunked\r\n\r\n0;a\nb\r\n\r\n{s}"
                .into(),
        ),
        (
            "a chunk without its end",
            "POST {p} HTTP/1.1\r\nHost: h\r\n{a}Transfer-Encoding: \
            chunked\r\n\r\n2\r\n{}xx0\r\n\r\n{s}"
                .into(),
        ),
        (
            "a folded trailer",
            "POST {p} HTTP/1.1\r\nHost: h\r\n{a}Transfer-Encoding: chunked\r\n\r\n0\r\nA: \
            b\r\n c\r\n\r\n{s}"
                .into(),
        ),
    ];
    assert!(attacks.len() >= 50, "{}", attacks.len());
    let public = world.daemon.public.trim_start_matches("http://").to_owned();
    let local = world.daemon.local.trim_start_matches("http://").to_owned();
    let mut threads = Vec::new();
    for (name, attack) in attacks {
        // Each door with its own credential.
        let bearer = format!("Authorization: Bearer {key}\r\n");
        let identity = format!("X-IDENTITY-HEADER: {key}\r\n");
        let client = token_exchange::asked(&key, "", &[]).headers;
        let client: String = client.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        for (address, path, credential) in [
            (&local, format!("{CONNECTION}/token"), &bearer),
            (&local, "/msi/token?resource=Mail.Read&client_id=outlook:team-b/alice".to_owned(), &identity),
            (&local, format!("{CONNECTION}/msi/token?resource=Mail.Read"), &identity),
            (&local, "/oauth2/token".to_owned(), &client),
            (&local, "/v1/outlook/creds/team-b/alice".to_owned(), &bearer),
            (&local, "/v1/apps/outlook/token".to_owned(), &bearer),
            (&public, "/".to_owned(), &bearer),
        ] {
            // Behind each stands a whole request that must never be answered.
            let smuggled =
                format!("DELETE {CONNECTION} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n\r\n");
            let sent = attack.replace("{p}", &path).replace("{a}", credential).replace("{s}", &smuggled);
            let address = address.clone();
            threads.push(std::thread::spawn(move || {
                let (status, answer) = raw(&address, sent.as_bytes());
                (name, address, path, status, answer)
            }));
        }
    }
    for thread in threads {
        let (name, address, path, status, answer) = thread.join().expect("joined");
        // The public site answers without a look at a body it has no use for.
        let refused =
            matches!(status, 0 | 400 | 405 | 431 | 501 | 505) || (status == 404 && address == public);
        assert!(refused, "{name} at {address}{path}: {answer}");
        let answers = answer.matches("HTTP/1.").count();
        assert!(answers <= 1, "{name} at {address}{path} was answered {answers} times: {answer}");
        assert!(!answer.contains("access_token"), "{name}: {answer}");
    }
    assert_eq!(world.token("team-b/alice").await.status, 200, "nothing was smuggled");
}

/// Reads one answer with a length, and returns its head and its body.
fn answer_of(stream: &mut TcpStream) -> (String, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("text").to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let mut body = vec![0; length.parse().expect("a number")];
    stream.read_exact(&mut body).expect("a body");
    (head, String::from_utf8(body).expect("text"))
}

/// Who is refused before its body was read is told that the connection ends, unless it goes on: otherwise its client
/// would send the next request into an end (RFC 9112 section 9.6).
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_leaves_a_body_says_that_the_connection_ends() {
    let world = Plan::default().start().await;
    let local = world.daemon.local.trim_start_matches("http://").to_owned();
    let key = world.key.clone();
    let path = "/v1/apps/outlook/connections/nobody-s/relay/graph/v1.0/me/sendMail";
    let head = |key: &str, framing: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n{framing}\r\n\r\n")
    };
    for size in [100, 1000, 20_000, 70_000, 200_000] {
        for key in [&key, "twk_wrong"] {
            for is_sized in [true, false] {
                let body = vec![b'x'; size];
                let (framing, sent) = match is_sized {
                    true => (format!("Content-Length: {size}"), body),
                    false => {
                        let chunk = [format!("{size:x}\r\n").as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
                        ("Transfer-Encoding: chunked".to_owned(), chunk)
                    }
                };
                let mut stream = TcpStream::connect(&local).expect("connected");
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                let all = [head(key, &framing).as_bytes(), &sent].concat();
                // (It may close before all is written.)
                let _ = stream.write_all(&all);
                let (told, _) = answer_of(&mut stream);
                let ends = told.contains("connection: close");
                let row = format!("{size} bytes, sized {is_sized}: {told}");
                assert!(ends || (is_sized && size < 8000), "{row}");
                if !ends {
                    stream.write_all(head(key, "Content-Length: 0").as_bytes()).expect("it goes on");
                    assert!(answer_of(&mut stream).0.starts_with("http/1.1 4"), "{row}");
                }
            }
        }
    }
}

/// Every answer has the form of the API, also where no request could be read.
#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_head_is_answered_in_words() {
    let world = Plan::default().start().await;
    let local = world.daemon.local.trim_start_matches("http://").to_owned();
    for head in [
        "GET http://h/v1/apps HTTP/1.1\r\nHost: h\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /v1/apps HTTP/1.1\r\n\r\n",
        "GET /v1/apps HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n",
        "GET /v1/apps HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        "GET /v1/apps HTTP/1.1\nHost: h\n\n",
    ] {
        let (status, answer) = raw(&local, head.as_bytes());
        let lower = answer.to_ascii_lowercase();
        assert_eq!(status, 400, "{head}: {answer}");
        assert!(lower.contains("cache-control: no-store") && lower.contains("x-request-id: "), "{answer}");
        let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
        let body: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{head}: {answer}"));
        assert_eq!(body["code"], "invalid_request", "{head}: {body}");
    }
    // Behind another request it ends the connection after that one's answer.
    let two = "GET /v1/apps HTTP/1.1\r\nHost: h\r\n\r\nGET http://h/ HTTP/1.1\r\nHost: h\r\n\r\n";
    let (status, answer) = raw(&local, two.as_bytes());
    assert!(status == 401 && answer.matches("HTTP/1.1 ").count() <= 2, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_or_too_slow_is_cut() {
    let world = Plan::default().start().await;
    world.connect("team-b/alice", ALICE).await;
    let local = world.daemon.local.trim_start_matches("http://").to_owned();
    let key = world.key.clone();
    let head = |more: &str| {
        format!("GET {CONNECTION}/token HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n{more}\r\n")
    };
    let long = "x".repeat(40_000);
    for sent in [
        head(&format!("X-Long: {long}\r\n")),
        head(&"X-Many: 1\r\n".repeat(500)),
        format!("GET /{long} HTTP/1.1\r\nHost: h\r\n\r\n"),
        long.repeat(10),
    ] {
        let (status, answer) = raw(&local, sent.as_bytes());
        assert!(matches!(status, 0 | 400 | 414 | 431), "{status} {}", &answer[..answer.len().min(200)]);
    }
    // The refusal has the form of the path's door: some clients take any other body for a token.
    for (path, member) in [
        ("/msi/token", "correlationId"),
        (&*format!("{CONNECTION}/msi/token"), "correlationId"),
        ("/oauth2/token", "error_description"),
        ("/v1/outlook/creds/a", "errors"),
        (&*format!("{CONNECTION}/token"), "code"),
    ] {
        let headers = format!("Host: h\r\nX-Long: {}\r\n", &long[..17_000]);
        let (status, answer) = raw(&local, format!("GET {path}?a=b HTTP/1.1\r\n{headers}\r\n").as_bytes());
        assert_eq!(status, 431, "{path}: {answer}");
        let body: Value =
            serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap_or_default()).expect("JSON");
        assert!(!body[member].is_null(), "{path}: {body}");
    }
    for size in [65 * 1024, 1 << 20] {
        let body = format!("{{\"scope\":\"{}\"}}", "a".repeat(size));
        let sent = format!(
            "POST {CONNECTION}/token HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\nContent-Length: \
             {}\r\n\r\n{body}",
            body.len()
        );
        let (status, _) = raw(&local, sent.as_bytes());
        assert!(matches!(status, 0 | 400 | 413), "{size}: {status}");

        // In the form of its door.
        let subject = format!("outlook:{}", "a".repeat(size));
        let asked = token_exchange::asked(&key, &subject, &[]);
        let headers: Vec<(&str, &str)> =
            asked.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let url = format!("{}{}", world.daemon.local, asked.target);
        let answer = request(asked.method, &url, &headers, asked.body).await.expect("an answer");
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["error"]),
            (400, &json!("invalid_request")),
            "{size}"
        );
    }

    // Slow: a head a byte at a time, a body that never comes. Each is cut, and nobody else waits for it.
    let slow: Vec<_> = [
        format!("GET {CONNECTION}/token HTTP/1.1\r\nHost: h\r\nX-"),
        format!(
            "POST {CONNECTION}/token HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\nContent-Length: \
             50\r\n\r\n{{"
        ),
    ]
    .into_iter()
    .map(|sent| {
        let address = local.clone();
        std::thread::spawn(move || {
            let mut stream = TcpStream::connect(address).expect("connected");
            stream.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
            stream.write_all(sent.as_bytes()).expect("sent");
            let begun = Instant::now();
            let mut answer = Vec::new();
            let mut buffer = [0; 4096];
            while begun.elapsed() < PATIENCE {
                match stream.read(&mut buffer) {
                    Ok(0) => return (true, String::from_utf8_lossy(&answer).into_owned()),
                    Ok(read) => answer.extend_from_slice(&buffer[..read]),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        if stream.write_all(b"a").is_err() {
                            return (true, String::from_utf8_lossy(&answer).into_owned());
                        }
                    }
                    Err(_) => return (true, String::from_utf8_lossy(&answer).into_owned()),
                }
            }
            (false, String::from_utf8_lossy(&answer).into_owned())
        })
    })
    .collect();
    assert_eq!(world.token("team-b/alice").await.status, 200);
    for thread in slow {
        let (cut, answer) = thread.join().expect("joined");
        assert!(cut, "a slow client was not cut: {answer}");
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert_eq!(world.token("team-b/alice").await.status, 200);
}

#[tokio::test]
async fn a_caller_beyond_its_rate_waits_alone() {
    let sections = format!(
        "[callers.eager]\nrate_limit = 5\nauthenticate = [{{ unix_user = {} }}]\n[[callers.eager.allow]]\n\
         app = \"outlook\"\nconnections = [\"team-b/*\"]\nscopes = [\"Mail.Read\"]\n",
        uid()
    );
    let world = Plan::default().sections(&sections).start().await;
    world.connect("team-b/alice", ALICE).await;
    let socket = world.folder.path().join("local.sock");
    let path = format!("{CONNECTION}/token");
    let mut served = 0;
    let mut refused = 0;
    for number in 0..60 {
        // Neither another name nor another way in gets around it.
        let path = match number % 3 {
            0 => path.clone(),
            1 => "/v1/apps/outlook/connections/team-b/alice/token?scope=Mail.Read".to_owned(),
            _ => format!("/v1/apps/outlook/connections/team-b%2Fnobody-{number}/token"),
        };
        let answer = request_unix(&socket, Method::GET, &path, &[], "").await.expect("an answer");
        match answer.status.as_u16() {
            429 => {
                refused += 1;
                assert_eq!(answer.json()["code"], "rate_limited");
                let after: u64 =
                    answer.headers["retry-after"].to_str().expect("text").parse().expect("seconds");
                assert!((1..=60).contains(&after));
                is_never_cached("429", &answer);
            }
            200 | 404 => served += 1,
            other => panic!("{other}: {}", answer.text()),
        }
        assert_eq!(world.token("team-b/alice").await.status, 200, "others are not limited");
    }
    assert!((10..=30).contains(&served) && refused >= 30, "{served} served, {refused} refused");
}

#[tokio::test]
async fn what_is_not_understood_is_refused_by_name() {
    let world = Plan::default().start().await;
    world.connect("team-b/alice", ALICE).await;
    let long = "x".repeat(9 * 1024);
    let big_claims = json!({ "claims": { "access_token": { "nbf": long } } });
    for (query, parameter) in [
        ("?min_ttl=59", "min_ttl"),
        ("?min_ttl=0", "min_ttl"),
        ("?min_ttl=-1", "min_ttl"),
        ("?min_ttl=86401", "min_ttl"),
        ("?min_ttl=99999999999999999999", "min_ttl"),
        ("?min_ttl=300.5", "min_ttl"),
        ("?min_ttl=five", "min_ttl"),
        ("?scope=Mail.Read%00", "scope"),
        ("?scope=%22Mail.Read%22", "scope"),
        ("?scope=Mail%5CRead", "scope"),
        ("?scope=Mail.Read%0d%0aX", "scope"),
        ("?scope=M%C3%A4il", "scope"),
        ("?scope=Mail.Read&scope=Mail.Read", "scope"),
        ("?resource=a&resource=b", "resource"),
        ("?min_ttl=300&min_ttl=600", "min_ttl"),
        ("?connect=1&connect=1", "connect"),
        ("?min_ttl=300&min%5Fttl=600", "min_ttl"),
    ] {
        let answer = world.token_with("team-b/alice", query).await;
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
        assert_eq!(answer.json()["parameter"], parameter, "{query}");
    }
    let hash = "a".repeat(64);
    for (sent, parameter) in [
        (json!({ "min_ttl": 59 }), "min_ttl"),
        (json!({ "min_ttl": 86_401 }), "min_ttl"),
        (json!({ "min_ttl": "300" }), "body"),
        (json!({ "min_ttl": -1 }), "body"),
        (json!({ "scope": "a\"b" }), "scope"),
        (json!({ "scope": ["Mail.Read"] }), "body"),
        (json!({ "rejected": "x" }), "rejected"),
        (json!({ "rejected": hash.to_uppercase() }), "rejected"),
        (json!({ "rejected": format!("{hash}a") }), "rejected"),
        (json!({ "rejected": world.key.clone() }), "rejected"),
        (json!({ "unknown": 1 }), "body"),
        (json!({ "Scope": "Mail.Read" }), "body"),
        (json!({ "claims": [] }), "claims"),
        (json!({ "claims": 1 }), "claims"),
        (json!({ "claims": "x" }), "claims"),
        (json!({ "claims": "[]" }), "claims"),
        (json!({ "claims": "W10=" }), "claims"),
        (json!({ "claims": "\"text\"" }), "claims"),
        (big_claims, "claims"),
        (json!([]), "body"),
        (json!("text"), "body"),
    ] {
        let answer = world.api(Method::POST, &format!("{CONNECTION}/token"), sent.clone()).await;
        assert_eq!(answer.status, 400, "{sent}: {}", answer.text());
        assert_eq!(answer.json()["parameter"], parameter, "{sent}");
        assert!(!answer.text().contains(&world.key), "it is quoted");
    }
    let bearer = format!("Bearer {}", world.key);
    let headers = [("authorization", bearer.as_str())];
    let url = format!("{}{CONNECTION}/token", world.daemon.local);
    for sent in ["{", "{}{}", "{\"scope\":\"a\",\"scope\":\"b\"}", "\u{feff}{}", "scope=Mail.Read"] {
        let answer = request(Method::POST, &url, &headers, sent.to_owned()).await.expect("an answer");
        assert_eq!(
            (answer.status.as_u16(), answer.json()["parameter"].clone()),
            (400, json!("body")),
            "{sent}"
        );
    }
    for sent in [
        json!({ "app": "outlook" }),
        json!({ "app": "outlook", "connection": "a", "redirect_uri": "https://evil.example" }),
        json!({ "app": "outlook", "connection": "a b" }),
        json!({ "app": "outlook", "connection": "" }),
        json!({ "app": "outlook", "connection": "a/../b\u{0}" }),
        json!({ "app": "outlook", "connection": "x".repeat(257) }),
        json!({ "app": "outlook", "connection": "a", "return_url": "https://evil.example/" }),
        json!({
            "app": "outlook", "connection": "a",
            "return_url": "https://app.contoso.example/settings/outlook/..",
        }),
        json!({ "app": "outlook", "connection": "a", "prompt": "yes" }),
        json!({ "app": "outlook", "connection": "a", "account": { "tid": "x" } }),
        json!({ "app": "outlook", "connection": "a", "account": ["t", "o", null, null, null] }),
        json!(["outlook", "a", null, null, false, null, null, null, null]),
        json!({ "app": "outlook", "connection": "a", "scopes": "a\"b" }),
        json!({ "app": "outlook", "connection": "a", "change_account": "true" }),
    ] {
        let answer = world.api(Method::POST, "/v1/connect-sessions", sent.clone()).await;
        assert_eq!(answer.status, 400, "{sent}: {}", answer.text());
        assert!(answer.json()["parameter"].is_string(), "{sent}: {}", answer.text());
    }
    assert_eq!(world.show("team-b/alice").await["status"], "active");
    let after = world.api(Method::POST, &format!("{CONNECTION}/token"), json!({})).await;
    assert_eq!(after.status, 200, "no mistake of a caller troubles the connection: {}", after.text());
    assert_eq!(world.token_calls("refresh_token"), 0);
}

#[tokio::test]
async fn many_reporters_of_one_token_make_one_refresh() {
    let world = Arc::new(Plan::default().start().await);
    world.connect("team-b/alice", ALICE).await;
    let before = world.access_token("team-b/alice").await;
    world.entra.clear_ledger();
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::Delay(Duration::from_millis(300))));
    let reporters: Vec<_> = (0..50)
        .map(|_| {
            let (world, rejected) = (world.clone(), sha256(&before));
            tokio::spawn(async move {
                world.api(Method::POST, &format!("{CONNECTION}/token"), json!({ "rejected": rejected })).await
            })
        })
        .collect();
    let mut tokens = BTreeSet::new();
    for reporter in reporters {
        let answer = reporter.await.expect("joined");
        assert_eq!(answer.status, 200, "{}", answer.text());
        tokens.insert(text(&answer.json(), "access_token").to_owned());
    }
    assert_eq!(tokens.len(), 1);
    assert!(!tokens.contains(&before));
    assert_eq!(world.token_calls("refresh_token"), 1);
    // Reporting it again, or one that is unknown, is no refresh: what is held is another token.
    for rejected in [sha256(&before), "0".repeat(64)] {
        let sent = json!({ "rejected": rejected });
        let answer = world.api(Method::POST, &format!("{CONNECTION}/token"), sent).await;
        assert!(tokens.contains(text(&answer.json(), "access_token")));
    }
    assert_eq!(world.token_calls("refresh_token"), 1);
}

#[tokio::test]
async fn a_failed_report_is_its_reporters_and_nobody_elses() {
    let world = Plan::default().start().await;
    world.connect("team-b/alice", ALICE).await;
    let before = world.access_token("team-b/alice").await;
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::status(503)));
    let path = format!("{CONNECTION}/token");
    for _ in 0..5 {
        let answer = world.api(Method::POST, &path, json!({ "rejected": sha256(&before) })).await;
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(!answer.text().contains(&before));
        assert!(answer.headers.contains_key("retry-after"));
        assert_eq!(world.access_token("team-b/alice").await, before);
        let reader = world.api_as(&world.reader_key, Method::GET, &path, Value::Null).await;
        assert_eq!(reader.json()["access_token"], json!(before));
    }
    assert_eq!(world.show("team-b/alice").await["status"], "active");
}

#[tokio::test]
async fn a_claims_challenge_reaches_the_authority_and_is_answered() {
    for style in [ChallengeStyle::Camel, ChallengeStyle::Unquoted] {
        let world = Plan::default().app_lines("continuous_access_evaluation = true").start().await;
        world.connect("team-b/alice", ALICE).await;
        let before = world.access_token("team-b/alice").await;
        assert_eq!(world.graph(&before).await.status, 200);
        world.entra.challenge_graph(None, 1, style);
        let challenged = world.graph(&before).await;
        assert_eq!(challenged.status, 401);
        let header = challenged.headers["www-authenticate"].to_str().expect("text");
        let claims =
            header.split("claims=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("claims");
        world.entra.clear_ledger();
        let sent = json!({ "rejected": sha256(&before), "claims": claims });
        let answer = world.api(Method::POST, &format!("{CONNECTION}/token"), sent.clone()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let after = text(&answer.json(), "access_token").to_owned();
        assert_ne!(after, before);
        let calls: Vec<_> =
            world.entra.ledger().into_iter().filter(|entry| entry.endpoint == Endpoint::Token).collect();
        assert!(calls.len() == 1 && calls[0].claims_sent, "{calls:?}");
        assert_eq!(world.graph(&after).await.status, 200);
        // A second report of the same is answered from what is held.
        let again = world.api(Method::POST, &format!("{CONNECTION}/token"), sent).await;
        assert_eq!(text(&again.json(), "access_token"), after);
        assert_eq!(world.token_calls("refresh_token"), 1);
    }
}

/// A session's browser half gives away nothing without its own cookie; its API half nothing without its
/// caller.
#[tokio::test]
async fn another_callers_session_cannot_be_confirmed() {
    let world = Plan::default().start().await;
    world.entra.sign_in_as(ALICE);
    let session = world.start_session(json!({ "app": "outlook", "connection": "team-b/alice" })).await;
    world.sign_in(&mut Browser::default(), text(&session, "connect_url")).await;
    let id = text(&session, "id");
    let state = world.session(id).await;
    assert_eq!(state["state"], "awaiting_confirmation");
    let account = json!({ "account": { "tid": state["account"]["tid"], "oid": state["account"]["oid"] } });
    let path = format!("/v1/connect-sessions/{id}/confirm");
    for key in [world.reader_key.as_str(), "x", ""] {
        let answer = world.api_as(key, Method::POST, &path, account.clone()).await;
        assert!(matches!(answer.status.as_u16(), 401 | 404), "{}", answer.text());
    }
    assert_eq!(world.token("team-b/alice").await.status, 404);
    assert_eq!(world.api(Method::POST, &path, account).await.status, 200);
    assert_eq!(world.token("team-b/alice").await.status, 200);
}

#[tokio::test]
async fn the_admin_listener_takes_no_callers_key_and_gives_no_token() {
    let world = Plan::default().start().await;
    world.connect("team-b/alice", ALICE).await;
    let socket = world.folder.path().join("admin.sock");
    let admin = async |path: &str, headers: &[(&str, &str)]| {
        request_unix(&socket, Method::GET, path, headers, "").await.expect("an answer")
    };
    let connection = "/admin/v1/apps/outlook/connections/team-b%2Falice";
    assert_eq!(admin(connection, &[]).await.status, 200, "the daemon's own user is an operator");
    let bearer = format!("Bearer {}", world.key);
    for path in ["/admin/v1/apps", connection] {
        let answer = admin(path, &[("authorization", &bearer)]).await;
        assert_eq!(answer.status, 401, "an explicit credential decides alone: {}", answer.text());
        is_never_cached(path, &answer);
        let in_url = admin(&format!("{path}?access_token={}", world.key), &[]).await;
        assert_eq!(in_url.status, 400, "{}", in_url.text());
    }
    let token = world.access_token("team-b/alice").await;
    for path in [format!("{connection}/token"), format!("{CONNECTION}/token"), "/v1/connect-sessions".into()]
    {
        let answer = admin(&path, &[]).await;
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
    }
    for path in [connection.to_owned(), format!("{connection}/explain")] {
        assert!(!admin(&path, &[]).await.text().contains(&token));
    }
}

/// A rule for a tenant says nothing of names in other tenants.
#[tokio::test]
async fn a_rule_for_a_tenant_tells_nothing_of_other_tenants() {
    let bobs = "22222222-0000-4000-8000-00000000000b";
    let sections = format!(
        "[callers.fabrikam]\nauthenticate = [{{ unix_user = {} }}]\n[[callers.fabrikam.allow]]\napp = \
         \"outlook\"\n\
         connections = [\"tenant:{bobs}\"]\nscopes = [\"Mail.Read\"]\nconnect = true\n",
        uid()
    );
    let world = Plan::default().sections(&sections).start().await;
    world.connect("alice", ALICE).await;
    world.connect("bob", BOB).await;
    let socket = world.folder.path().join("local.sock");
    let call = async |method: Method, path: &str, sent: Value| {
        let sent = if sent.is_null() { String::new() } else { sent.to_string() };
        request_unix(&socket, method, path, &[], sent).await.expect("an answer")
    };
    let connection = |name: &str, tail: &str| format!("/v1/apps/outlook/connections/{name}{tail}");
    assert_eq!(call(Method::GET, &connection("bob", "/token"), Value::Null).await.status, 200);
    for (method, tail) in [
        (Method::GET, ""),
        (Method::GET, "/explain"),
        (Method::GET, "/token"),
        (Method::GET, "/token?scope=Mail.Send"),
        (Method::GET, "/token?resource=https://evil.example"),
        (Method::GET, "/token?connect=1"),
        (Method::DELETE, ""),
    ] {
        let there = call(method.clone(), &connection("alice", tail), Value::Null).await;
        let not = call(method.clone(), &connection("nobody", tail), Value::Null).await;
        assert_eq!((there.status.as_u16(), body(&there)), (404, body(&not)), "{method} {tail}");
    }
    let start = |name: &str| json!({ "app": "outlook", "connection": name });
    let there = call(Method::POST, "/v1/connect-sessions", start("alice")).await;
    let not = call(Method::POST, "/v1/connect-sessions", start("nobody")).await;
    assert_eq!((there.status.as_u16(), body(&there)), (404, body(&not)));
    let page = call(Method::GET, "/v1/apps/outlook/connections", Value::Null).await.json();
    let names: Vec<_> =
        page["connections"].as_array().expect("a page").iter().map(|one| text(one, "connection")).collect();
    assert_eq!(names, ["bob"]);
    assert_eq!(world.token("alice").await.status, 200);
}

#[tokio::test]
async fn five_wrong_confirmations_end_a_session() {
    let world = Plan::default().start().await;
    world.entra.sign_in_as(ALICE);
    let session = world.start_session(json!({ "app": "outlook", "connection": "alice" })).await;
    world.sign_in(&mut Browser::default(), text(&session, "connect_url")).await;
    let id = text(&session, "id");
    let state = world.session(id).await;
    let path = format!("/v1/connect-sessions/{id}/confirm");
    for number in 0..5 {
        let wrong = json!({ "code": format!("guess-{number}") });
        let answer = world.api(Method::POST, &path, wrong).await;
        assert_eq!(
            (answer.status.as_u16(), body(&answer)["code"].clone()),
            (409, json!("confirmation_rejected"))
        );
    }
    let right = json!({ "account": { "tid": state["account"]["tid"], "oid": state["account"]["oid"] } });
    assert_eq!(world.api(Method::POST, &path, right).await.status, 409);
    assert_eq!(world.session(id).await["state"], "failed");
    assert_eq!(world.token("alice").await.status, 404);
}
