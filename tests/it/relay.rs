//! The relay from outside: what a rule has relayed and nothing else, bodies of any length, the fields that pass,
//! and what becomes of a resource's refusals.

use std::time::Duration;

use bytes::Bytes;
use entra_emulator::{ChallengeStyle, Endpoint};
use http::{Method, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::http_client::{Answer, request};
use crate::resource::{Reply, Resource, Seen};
use crate::world::{ALICE, Plan, World, text};

/// What READER may have relayed for `user-*`.
pub(crate) const RULES: &str = r#"["GET graph:/v1.0/me/messages*", "HEAD graph:/v1.0/me/messages*",
    "POST graph:/v1.0/me/sendMail", "PUT graph:/v1.0/upload/*", "GET graph:/v1.0/files/*", "DELETE graph:/v1.0/me/messages/*",
    "POST graph:/v1.0/$batch",
    "PATCH graph:/v1.0/me/messages/*"]"#;

/// A world whose READER relays to a base.
pub(crate) fn plan(base: &str, rules: &str) -> Plan {
    plan_with(base, "", rules)
}

/// The same with more lines of the app's `relay`.
pub(crate) fn plan_with(base: &str, lines: &str, rules: &str) -> Plan {
    let relay = format!("[apps.outlook.relay]\nbases = {{ graph = \"{base}\" }}\n{lines}");
    let caller = "[[callers.mail-reader.allow]]\napp = \"outlook\"\nconnections = [\"user-*\"]\nscopes = []";
    Plan::default().sections(&relay).sections(&format!("{caller}\nrelay = {rules}"))
}

/// A world with the emulator's Graph, and ALICE's account.
async fn world() -> World {
    let world = plan("{graph}", RULES).start().await;
    world.connect("user-1", ALICE).await;
    world
}

/// A world with a resource that answers so.
pub(crate) async fn with_resource(
    answers: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
) -> (World, Resource) {
    let resource = Resource::start(answers).await;
    let world = plan(&resource.url, RULES).start().await;
    world.connect("user-1", ALICE).await;
    (world, resource)
}

pub(crate) fn url(world: &World, target: &str) -> String {
    format!("{}/v1/apps/outlook/connections/user-1/relay/graph{target}", world.daemon.local)
}

async fn relay(world: &World, method: Method, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let bearer = format!("Bearer {}", world.reader_key);
    let mut all = vec![("authorization", bearer.as_str())];
    all.extend_from_slice(headers);
    request(method, &url(world, target), &all, body.to_vec())
        .await
        .unwrap_or_else(|error| panic!("{target}: {error}\n{}", world.daemon.log()))
}

async fn get(world: &World, target: &str) -> Answer {
    relay(world, Method::GET, target, &[], b"").await
}

fn code(answer: &Answer) -> String {
    text(&answer.json(), "code").to_owned()
}

pub(crate) fn audit(world: &World) -> Vec<Value> {
    let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).expect("an audit file");
    audit.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[tokio::test]
async fn a_rule_has_a_request_relayed_and_nothing_else() {
    let world = world().await;
    let answer = get(&world, "/v1.0/me/messages").await;
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), world.daemon.log());
    assert_eq!(answer.json()["value"][0]["subject"], "Welcome to the mailbox");
    let last = world.entra.ledger().pop().expect("a request");
    assert_eq!((last.endpoint, last.user.as_deref()), (Endpoint::Graph, Some(ALICE)));
    assert_eq!(last.path, "/graph/v1.0/me/messages");

    // Its record says what, and names no message and no user.
    let records = audit(&world);
    let record = records.iter().rfind(|record| record["action"] == "relayed").expect("a record");
    assert_eq!(record["outcome"], "ok");
    assert_eq!(
        record["detail"],
        json!({ "method": "GET", "base": "graph", "path": "/v1.0/me/messages", "status": "200" })
    );
    assert_eq!((&record["caller"], &record["connection"]), (&json!("mail-reader"), &json!("user-1")));
    assert_eq!((&record["door"], record["token_sha256"].is_string()), (&json!("relay"), true));
    get(&world, "/v1.0/me/messages/AAMkAGI2=?$select=subject").await;
    let records = audit(&world);
    let record = records.iter().rfind(|record| record["action"] == "relayed").expect("a record");
    assert_eq!(
        record["detail"],
        json!({ "method": "GET", "base": "graph", "path": "/v1.0/me/messages/{id}", "status": "404" })
    );
    let metrics = world.metrics().await;
    for line in [
        "tokenward_relay_requests_total{app=\"outlook\",outcome=\"ok\"} 1",
        "tokenward_relay_requests_total{app=\"outlook\",outcome=\"not_found\"} 1",
        "tokenward_relay_requests_total{app=\"outlook\",outcome=\"relay_failed\"} 0",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }

    // What no rule covers is refused before anything is sent; the answer says what it was.
    let before = world.entra.ledger_count(Endpoint::Graph, None);
    let refused = get(&world, "/v1.0/me/contacts").await;
    assert_eq!((refused.status, code(&refused).as_str()), (StatusCode::FORBIDDEN, "caller_forbidden"));
    assert!(refused.text().contains("GET graph:/v1.0/me/contacts"), "{}", refused.text());
    let refused = relay(&world, Method::POST, "/v1.0/me/messages", &[], b"{}").await;
    assert_eq!(code(&refused), "caller_forbidden");
    // A caller that only relays gets no token, and knows nothing of other connections.
    let token = format!("{}/v1/apps/outlook/connections/user-1/token", world.daemon.local);
    let bearer = format!("Bearer {}", world.reader_key);
    let refused = request(Method::GET, &token, &[("authorization", &bearer)], "").await.expect("an answer");
    assert_eq!(code(&refused), "caller_forbidden");
    let other = url(&world, "/v1.0/me/messages").replace("user-1", "team-a%2F1");
    let refused = request(Method::GET, &other, &[("authorization", &bearer)], "").await.expect("an answer");
    assert_eq!(code(&refused), "connection_not_found");
    // Below what a connection has there is nothing.
    for path in ["token", "token/watch", "explain", "msi/token"] {
        let below = url(&world, "/v1.0/me/messages").replace("user-1/relay", &format!("user-1/{path}/relay"));
        let refused = request(Method::GET, &below, &[("authorization", &bearer)], "").await;
        assert_eq!(code(&refused.expect("an answer")), "not_found", "{path}");
    }
    // Another caller's rules are not this one's, and nobody is nobody.
    let all = format!("Bearer {}", world.key);
    let refused =
        request(Method::GET, &url(&world, "/v1.0/me/messages"), &[("authorization", &all)], "").await;
    assert_eq!(code(&refused.expect("an answer")), "caller_forbidden");
    let refused = request(Method::GET, &url(&world, "/v1.0/me/messages"), &[], "").await.expect("an answer");
    assert_eq!(code(&refused), "caller_unauthenticated");
    let refused = relay(&world, Method::OPTIONS, "/v1.0/me/messages", &[], b"").await;
    assert_eq!(refused.status, 405);
    assert_eq!(world.entra.ledger_count(Endpoint::Graph, None), before);
}

/// Sends a request as it stands.
async fn raw(world: &World, request: &str) -> String {
    let address = world.daemon.local.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("the daemon");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("read");
    String::from_utf8_lossy(&answer).into_owned()
}

/// The table of docs/relay.md, from outside: a caller that may read messages wants contacts.
#[tokio::test]
async fn who_may_read_messages_cannot_read_contacts() {
    let (world, resource) = with_resource(|_| Reply::json(200, "{}")).await;
    resource.take();
    let key = &world.reader_key;
    let here = "/v1/apps/outlook/connections/user-1/relay/graph";
    for target in [
        "/v1.0/me/contacts",
        "/v1.0/me/messages/../contacts",
        "/v1.0/me/messages/%2e%2e/contacts",
        "/v1.0/me/messages/..%2fcontacts",
        "/v1.0/me/messages/..%5ccontacts",
        "/v1.0/me/messages/%252e%252e/contacts",
        "/v1.0/me/messages/..;/contacts",
        "/v1.0/me/messages//contacts",
        "/v1.0/me/messages('..')/contacts",
        "/v1.0/me/messages%00/contacts",
        "/v1.0/me/messages/%EF%BC%8E%EF%BC%8E/contacts",
        "/v1.0/me/messages\\..\\contacts",
        "/v1.0/me/messages#/../contacts",
        "/v1.0/me/messages?$expand=*",
        "/v1.0/me/messages?%24expand=microsoft.graph.eventMessage/event",
        "/v1.0/me?expand=contacts",
        "/v1.0/me/messages?$apply=join(contacts)",
        "/v1.0/me/messages?$filter=$root/me/contacts/any()",
        "/v1.0/me/messages?$id=contacts('1')",
        "/v1.0/$crossjoin(me/messages,me/contacts)",
        "/v1.0/me/messages/$query",
        "/v1.0/users('alice')/contacts",
        "/beta/me/contacts",
        "/../graph/v1.0/me/contacts",
        "@evil.example/v1.0/me/contacts",
        "/v1.0/me/messages/../../../../../../connections/user-1/relay/graph/v1.0/me/contacts",
    ] {
        let answer = raw(
            &world,
            &format!(
                "GET {here}{target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"
            ),
        )
        .await;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(["400", "403", "404"].contains(&status), "{target}: {answer}");
    }
    // As a method by another name, for another host, and as two requests in one.
    for (head, body) in [
        ("X-HTTP-Method-Override: DELETE", ""),
        ("X-HTTP-Method: PATCH", ""),
        ("X-Original-URL: /v1.0/me/contacts", ""),
        ("X-Rewrite-Url: /v1.0/me/contacts", ""),
        ("X-Forwarded-Host: evil.example", ""),
        ("X-Forwarded-Prefix: /v1.0/me/contacts", ""),
        (
            "Content-Length: 4\r\nTransfer-Encoding: chunked",
            "0\r\n\r\nGET /v1.0/me/contacts HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        ("Connection: x-a\r\nX-A: 1", ""),
    ] {
        raw(
            &world,
            &format!(
                "GET {here}/v1.0/me/messages HTTP/1.1\r\nHost: evil.example\r\nAuthorization: Bearer {key}\r\n{head}\r\n\
                 Connection: close\r\n\r\n{body}"
            ),
        )
        .await;
    }
    let host = resource.url.trim_start_matches("http://");
    for seen in resource.take() {
        assert_eq!(
            (seen.method.as_str(), seen.target.as_str(), seen.length),
            ("GET", "/v1.0/me/messages", 0)
        );
        assert_eq!(seen.header("host"), Some(host), "{seen:?}");
        let names: Vec<&str> = seen.headers.keys().map(http::HeaderName::as_str).collect();
        assert!(
            names.iter().all(|name| ["host", "authorization", "accept-encoding"].contains(name)),
            "{names:?}"
        );
        assert!(!seen.header("authorization").unwrap_or_default().contains("twk_"), "the caller's own key");
    }
}

#[tokio::test]
async fn fields_pass_but_those_of_the_caller_and_of_connections() {
    let (world, resource) = with_resource(|_| {
        let headers = [
            ("content-type", "text/plain"),
            ("set-cookie", "a=b"),
            ("request-id", "77"),
            ("preference-applied", "x"),
            ("location", "https://elsewhere.example/x"),
            ("etag", "\"1\""),
            ("cache-control", "private"),
        ];
        let headers = headers.map(|(name, value)| (name, value.to_owned()));
        Reply::Whole(302, headers.to_vec(), "moved".into())
    })
    .await;
    let sent = [
        ("prefer", "outlook.body-content-type=\"text\""),
        ("cookie", "session=1"),
        ("x-identity-header", "secret"),
        ("x-vault-token", "secret"),
        ("forwarded", "for=1"),
        ("accept-encoding", "gzip"),
        ("if-none-match", "\"0\""),
        ("range", "bytes=0-1"),
        ("user-agent", "an sdk"),
    ];
    let target = "/v1.0/me/messages?%24top=2&$filter=subject%20eq+'a%26b'";
    let answer = relay(&world, Method::GET, target, &sent, b"").await;
    // A redirect is handed on, and not followed.
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (302, "moved"));
    let header = |name: &str| answer.headers.get(name).map(|value| value.to_str().expect("text").to_owned());
    assert_eq!(header("location").as_deref(), Some("https://elsewhere.example/x"));
    assert_eq!(header("etag").as_deref(), Some("\"1\""));
    assert_eq!(header("cache-control").as_deref(), Some("private"));
    assert_eq!(header("content-length").as_deref(), Some("5"));
    assert_eq!((header("set-cookie"), header("server")), (None, None));
    let seen = resource.take();
    let [seen] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!(seen.target, "/v1.0/me/messages?$top=2&$filter=subject%20eq%20'a%26b'");
    for (name, expected) in [
        ("prefer", Some("outlook.body-content-type=\"text\"")),
        ("if-none-match", Some("\"0\"")),
        ("range", Some("bytes=0-1")),
        ("user-agent", Some("an sdk")),
        ("accept-encoding", Some("identity")),
        ("cookie", None),
        ("x-identity-header", None),
        ("x-vault-token", None),
        ("forwarded", None),
    ] {
        assert_eq!(seen.header(name), expected, "{name}");
    }
    let token = world.access_token("user-1").await;
    assert_eq!(seen.header("authorization"), Some(format!("Bearer {token}").as_str()));

    // HEAD has the length of what a GET would have, and no body.
    resource.answer_with(|_| Reply::Whole(200, vec![], "12345".into()));
    let answer = relay(&world, Method::HEAD, "/v1.0/me/messages", &[], b"").await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0));
    assert_eq!(answer.headers.get("content-length").map(|value| value.as_bytes()), Some(&b"5"[..]));
    resource.answer_with(|_| Reply::Whole(204, vec![], Bytes::new()));
    let answer = relay(&world, Method::DELETE, "/v1.0/me/messages/1", &[], b"").await;
    assert_eq!(answer.status, 204);
    assert_eq!(resource.take().last().map(|seen| seen.method.clone()).as_deref(), Some("DELETE"));
}

/// A client whose body and answer are streams.
async fn stream(
    world: &World,
    method: Method,
    target: &str,
    headers: &[(&str, &str)],
    parts: mpsc::Receiver<Bytes>,
) -> (http::Response<hyper::body::Incoming>, tokio::task::JoinHandle<()>) {
    let address = world.daemon.local.trim_start_matches("http://");
    let io = TokioIo::new(TcpStream::connect(address).await.expect("the daemon"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("HTTP");
    let task = tokio::spawn(async move {
        let _ = connection.await;
    });
    let parts = futures_util::stream::unfold(parts, async |mut parts| {
        let part = parts.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(Frame::data(part)), parts))
    });
    let here = url(world, target);
    let path = here.strip_prefix(&world.daemon.local).expect("a path").to_owned();
    let mut request = http::Request::builder().method(method).uri(path).header("host", address);
    request = request.header("authorization", format!("Bearer {}", world.reader_key));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(StreamBody::new(parts)).expect("a request");
    let answer = tokio::time::timeout(crate::world::PATIENCE, sender.send_request(request)).await;
    (answer.expect("in time").expect("an answer"), task)
}

#[tokio::test]
async fn a_body_of_any_length_passes_sized_and_chunked() {
    let (world, resource) =
        with_resource(|seen| Reply::json(201, &json!({ "length": seen.length }).to_string())).await;
    const PART: usize = 64 * 1024;
    const PARTS: usize = 1024;
    for is_sized in [true, false] {
        resource.take();
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            for at in 0..PARTS {
                let part = vec![u8::try_from(at % 251).expect("small"); PART];
                if sender.send(part.into()).await.is_err() {
                    return;
                }
            }
        });
        let length = (PART * PARTS).to_string();
        let mut headers = vec![("content-range", "bytes 0-67108863/67108864"), ("expect", "100-continue")];
        if is_sized {
            headers.push(("content-length", length.as_str()));
        }
        let (answer, _task) = stream(&world, Method::PUT, "/v1.0/upload/1", &headers, receiver).await;
        assert_eq!(answer.status(), 201);
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        assert_eq!(String::from_utf8_lossy(&body), format!("{{\"length\":{length}}}"));
        let seen = resource.take();
        let [seen] = &seen[..] else { panic!("{}", seen.len()) };
        assert_eq!((seen.length, seen.is_whole), (PART as u64 * PARTS as u64, true));
        assert_eq!(seen.header("content-length"), is_sized.then_some(length.as_str()));
        assert_eq!(seen.header("content-range"), Some("bytes 0-67108863/67108864"));
        assert_eq!(seen.header("expect"), None);
    }
}

#[tokio::test]
async fn an_answer_comes_as_it_is_made_and_breaks_off_where_it_does() {
    let (sender, receiver) = mpsc::channel(1);
    let receiver = parking_lot::Mutex::new(Some(receiver));
    let (world, resource) = with_resource(move |_| match receiver.lock().take() {
        Some(parts) => Reply::Stream(200, vec![("content-type", "text/event-stream".to_owned())], parts),
        None => Reply::json(200, "{}"),
    })
    .await;
    let (_open, nothing) = mpsc::channel(1);
    drop(_open);
    let (answer, task) = stream(&world, Method::GET, "/v1.0/files/1", &[], nothing).await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut body = answer.into_body();
    // Each part is there before the next is made.
    for part in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        sender.send(Ok(Bytes::from(part))).await.expect("it is read");
        let got = tokio::time::timeout(crate::world::PATIENCE, body.frame()).await.expect("in time");
        let got = got.expect("a part").expect("whole").into_data().expect("data");
        assert_eq!(got, part);
    }
    // What breaks off does not look whole.
    sender.send(Err(std::io::Error::other("broken"))).await.expect("it is read");
    let end = tokio::time::timeout(crate::world::PATIENCE, body.frame()).await.expect("in time");
    assert!(end.expect("no end").is_err());
    task.abort();
    assert_eq!(resource.take().len(), 1);
}

#[tokio::test]
async fn who_goes_away_is_gone_at_the_other_side() {
    let (sender, receiver) = mpsc::channel(1);
    let receiver = parking_lot::Mutex::new(Some(receiver));
    let (world, resource) = with_resource(move |seen| match receiver.lock().take() {
        _ if seen.method == "PUT" => Reply::Silence,
        Some(parts) => Reply::Stream(200, vec![], parts),
        None => Reply::Silence,
    })
    .await;
    // In the middle of an answer.
    let (open, nothing) = mpsc::channel(1);
    drop(open);
    let (answer, task) = stream(&world, Method::GET, "/v1.0/files/1", &[], nothing).await;
    sender.send(Ok(Bytes::from("a part"))).await.expect("it is read");
    let mut body = answer.into_body();
    let part = body.frame().await.expect("a part").expect("whole");
    assert_eq!(part.into_data().expect("data"), "a part");
    drop(body);
    task.abort();
    resource.until("the answer is given up", |resource| resource.dropped() == 1).await;

    // While the resource thinks, and in the middle of an upload.
    let address = world.daemon.local.trim_start_matches("http://").to_owned();
    let ask = async |line: &str, rest: &str| {
        let mut socket = TcpStream::connect(&address).await.expect("the daemon");
        let head =
            format!("{line} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n{rest}", world.reader_key);
        socket.write_all(head.as_bytes()).await.expect("written");
        socket
    };
    let here = "/v1/apps/outlook/connections/user-1/relay/graph";
    let socket = ask(&format!("GET {here}/v1.0/files/2"), "\r\n").await;
    resource.until("it has come", |resource| resource.seen() == 2).await;
    drop(socket);
    resource.until("the request is given up", |resource| resource.dropped() == 2).await;
    let half = format!("Content-Length: 100000\r\n\r\n{}", "x".repeat(50_000));
    let socket = ask(&format!("PUT {here}/v1.0/upload/1"), &half).await;
    resource.until("half of it has come", |resource| resource.received() == 50_000).await;
    drop(socket);
    resource.until("the upload is given up", |resource| resource.broken() == 1).await;
    let is_gone = |record: &&Value| record["reason"] == "caller_gone";
    world.until("their ends are recorded", async || audit(&world).iter().filter(is_gone).count() == 2).await;
}

#[tokio::test]
async fn a_401_is_answered_by_one_renewal_and_one_repetition() {
    let world = world().await;
    let renewals = || world.token_calls("refresh_token");
    let before = renewals();
    // A token that the resource does not take any more.
    world.entra.expire_access_tokens();
    let answer = get(&world, "/v1.0/me/messages").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(renewals(), before + 1);
    // A claims challenge, in each spelling.
    for style in
        [ChallengeStyle::Camel, ChallengeStyle::Snake, ChallengeStyle::Joined, ChallengeStyle::Unquoted]
    {
        let before = renewals();
        world.entra.challenge_graph(Some(ALICE), 1, style);
        let answer = get(&world, "/v1.0/me/messages").await;
        assert_eq!(answer.status, 200, "{style:?}: {}", answer.text());
        assert_eq!(renewals(), before + 1, "{style:?}");
        let last = world.entra.ledger();
        let renewal = last.iter().rfind(|entry| entry.endpoint == Endpoint::Token).expect("a renewal");
        assert!(renewal.claims_sent, "{style:?}");
        world.pass(Duration::from_secs(120));
    }
    // Twice refused is refused: one repetition, and the resource's own words.
    let graph = world.entra.ledger_count(Endpoint::Graph, None);
    world.entra.challenge_graph(Some(ALICE), 2, ChallengeStyle::Camel);
    let answer = get(&world, "/v1.0/me/messages").await;
    assert_eq!(answer.status, 401);
    assert_eq!(answer.json()["error"]["code"], "InvalidAuthenticationToken");
    assert_eq!(world.entra.ledger_count(Endpoint::Graph, None), graph + 2);
}

#[tokio::test]
async fn a_body_is_sent_once_more_as_long_as_it_is_kept() {
    let (world, resource) = with_resource(|_| Reply::json(401, "{}")).await;
    for (length, times) in [(0, 2), (10, 2), (64 * 1024, 2), (64 * 1024 + 1, 1)] {
        world.pass(Duration::from_secs(600));
        resource.take();
        let body: Vec<u8> = (0..length).map(|at: usize| u8::try_from(at % 251).expect("small")).collect();
        let answer = relay(&world, Method::POST, "/v1.0/me/sendMail", &[], &body).await;
        assert_eq!(answer.status, 401, "{length}: {}", answer.text());
        let seen = resource.take();
        assert_eq!(seen.len(), times, "{length}");
        let mut tokens: Vec<&str> = seen.iter().filter_map(|seen| seen.header("authorization")).collect();
        tokens.dedup();
        assert_eq!(tokens.len(), times, "{length}: another token each time");
        for seen in &seen {
            assert!(seen.is_whole && seen.body == body, "{length}");
        }
    }
}

#[tokio::test]
async fn a_throttle_is_handed_on_and_a_resource_that_is_away_is_told() {
    let world = world().await;
    world.entra.throttle_graph(None, 1, 17);
    let answer = get(&world, "/v1.0/me/messages").await;
    assert_eq!((answer.status.as_u16(), answer.headers["retry-after"].as_bytes()), (429, &b"17"[..]));
    assert_eq!(answer.json()["error"]["code"], "TooManyRequests");
    drop(world);

    let nobody = format!("http://127.0.0.1:{}", crate::world::free_port());
    let world = plan(&nobody, RULES).start().await;
    world.connect("user-1", ALICE).await;
    let answer = get(&world, "/v1.0/me/messages").await;
    assert_eq!((answer.status.as_u16(), code(&answer).as_str()), (502, "relay_failed"));
    let record = audit(&world).into_iter().rfind(|record| record["action"] == "relayed").expect("a record");
    assert_eq!(record["outcome"], "relay_failed");
    // Whose user must act is told so in our words.
    let (world, _resource) = with_resource(|_| Reply::json(401, "{}")).await;
    world.entra.revoke_user(ALICE, entra_emulator::RevokeKind::GrantRevoked).expect("a user");
    let answer = get(&world, "/v1.0/me/messages").await;
    assert_eq!((answer.status.as_u16(), code(&answer).as_str()), (409, "reauthorization_required"));
}

#[tokio::test]
async fn links_lead_back_through_the_relay_and_nothing_else_changes() {
    let world = world().await;
    world.entra.set_messages(ALICE, 1000);
    let here = url(&world, "");
    let bearer = format!("Bearer {}", world.reader_key);
    let before = world.entra.ledger_count(Endpoint::Graph, None);
    // A page iterator that follows what it is given.
    let (mut next, mut seen) = (Some(url(&world, "/v1.0/me/messages?$top=90")), Vec::new());
    while let Some(page) = next {
        assert!(page.starts_with(&here), "{page}");
        let answer = request(Method::GET, &page, &[("authorization", &bearer)], "").await.expect("a page");
        assert_eq!(answer.status, 200, "{}", answer.text());
        let json = answer.json();
        assert!(text(&json, "@odata.context").starts_with(&here), "{json}");
        seen.extend(json["value"].as_array().expect("messages").iter().map(|one| one["id"].to_string()));
        next = json["@odata.nextLink"].as_str().map(str::to_owned);
    }
    seen.dedup();
    assert_eq!(seen.len(), 1000);
    assert_eq!(world.entra.ledger_count(Endpoint::Graph, None), before + 12);
}

#[tokio::test]
async fn a_round_of_delta_and_the_next_stay_within_the_relay() {
    const DELTA: &str = "/v1.0/me/mailFolders/inbox/messages/delta";
    let world = plan("{graph}", &format!("[\"GET graph:{DELTA}\"]")).start().await;
    world.connect("user-1", ALICE).await;
    world.entra.set_messages(ALICE, 25);
    let (here, bearer) = (url(&world, ""), format!("Bearer {}", world.reader_key));
    let round = async |first: String| {
        let (mut next, mut seen) = (first, 0);
        loop {
            assert!(next.starts_with(&here), "{next}");
            let page = request(Method::GET, &next, &[("authorization", &bearer)], "").await.expect("a page");
            assert_eq!(page.status, 200, "{}", page.text());
            let page = page.json();
            seen += page["value"].as_array().expect("messages").len();
            if let Some(link) = page["@odata.deltaLink"].as_str() {
                return (link.to_owned(), seen);
            }
            next = text(&page, "@odata.nextLink").to_owned();
        }
    };
    let (link, seen) = round(url(&world, DELTA)).await;
    assert_eq!(seen, 25);
    world.entra.set_messages(ALICE, 27);
    assert_eq!(round(link).await.1, 2);
}

#[tokio::test]
async fn only_links_of_json_are_turned_however_they_are_cut() {
    let (world, resource) = with_resource(|_| Reply::json(200, "{}")).await;
    let (base, here) = (resource.url.clone(), url(&world, ""));
    let json = [
        r#"{"@odata.nextLink":"BASE/v1.0/x?a=\u0026b","uploadUrl":"https://elsewhere.example/u","#,
        r#""subject":"BASE/v1.0/x","body":{"content":"\"@odata.nextLink\":\"BASE/v1.0/x\""}}"#,
    ]
    .concat()
    .replace("BASE", &base);
    let expected = json.replacen(&format!("{base}/v1.0/x?a=\\u0026b"), &format!("{here}/v1.0/x?a=&b"), 1);
    for (kind, is_turned) in [
        ("application/json", true),
        ("Application/JSON; odata.metadata=minimal; charset=utf-8", true),
        ("application/problem+json", true),
        ("text/plain", false),
        ("application/jsonx", false),
    ] {
        let answered = json.clone();
        resource.answer_with(move |_| {
            let headers = vec![("content-type", kind.to_owned()), ("x-a", "1".to_owned())];
            Reply::Whole(200, headers, answered.clone().into())
        });
        let answer = get(&world, "/v1.0/files/1").await;
        assert_eq!(answer.text(), if is_turned { expected.clone() } else { json.clone() }, "{kind}");
        let length = answer.headers.get("content-length").and_then(|length| length.to_str().ok());
        assert_eq!(length, Some(answer.text().len().to_string().as_str()), "{kind}");
        assert_eq!(answer.headers["content-type"], kind);
    }
    // A compressed answer, which nobody has asked for, and a part of one pass as they are.
    for (status, field) in [(200, ("content-encoding", "gzip")), (206, ("content-range", "bytes 0-1/2"))] {
        let answered = json.clone();
        resource.answer_with(move |_| {
            let headers =
                vec![("content-type", "application/json".to_owned()), (field.0, field.1.to_owned())];
            Reply::Whole(status, headers, answered.clone().into())
        });
        assert_eq!(get(&world, "/v1.0/files/1").await.text(), json);
    }
    // A request's body is its caller's, whatever stands in it.
    let linked = format!("{{\"@odata.id\":\"{here}/v1.0/x\",\"uploadUrl\":\"{base}/v1.0/x\"}}");
    resource.take();
    relay(
        &world,
        Method::POST,
        "/v1.0/me/sendMail",
        &[("content-type", "application/json")],
        linked.as_bytes(),
    )
    .await;
    assert_eq!(resource.take()[0].body, linked);
    // A redirect to the base leads through the relay, too.
    let target = format!("{base}/v1.0/files/2");
    resource.answer_with(move |_| Reply::Whole(302, vec![("location", target.clone())], Bytes::new()));
    assert_eq!(get(&world, "/v1.0/files/1").await.location(), format!("{here}/v1.0/files/2"));
    // So does one that is relative to the host; one that is relative to the path does by itself.
    let host = base.trim_start_matches("http:").to_owned();
    for (said, leads) in [
        ("/v1.0/files/2?x=1".to_owned(), format!("{here}/v1.0/files/2?x=1")),
        (format!("{host}/v1.0/files/2"), format!("{here}/v1.0/files/2")),
        ("2".to_owned(), "2".to_owned()),
        ("//elsewhere.example/x".to_owned(), "http://elsewhere.example/x".to_owned()),
    ] {
        resource.answer_with(move |_| Reply::Whole(302, vec![("location", said.clone())], Bytes::new()));
        assert_eq!(get(&world, "/v1.0/files/1").await.location(), leads);
    }
    // In pieces of any size, as they come.
    for size in [1, 7, 100] {
        let (sender, receiver) = mpsc::channel(1);
        let (receiver, answered) = (parking_lot::Mutex::new(Some(receiver)), json.clone());
        tokio::spawn(async move {
            for piece in answered.as_bytes().chunks(size) {
                let _ = sender.send(Ok(Bytes::copy_from_slice(piece))).await;
            }
        });
        resource.answer_with(move |_| {
            let headers = vec![("content-type", "application/json".to_owned())];
            Reply::Stream(200, headers, receiver.lock().take().expect("one request"))
        });
        assert_eq!(get(&world, "/v1.0/files/1").await.text(), expected, "pieces of {size}");
    }
}

/// RFC 9110 section 8.6, both ways.
#[tokio::test]
async fn an_empty_body_has_its_length_and_what_has_no_body_has_none() {
    let (world, resource) = with_resource(|_| Reply::Whole(204, vec![], Bytes::new())).await;
    resource.take();
    let long = [("content-length", "0")];
    for (method, fields) in [(Method::POST, &long[..]), (Method::POST, &[]), (Method::GET, &[])] {
        let expected = (method == Method::POST).then_some("0");
        let path = if method == Method::POST { "/v1.0/me/sendMail" } else { "/v1.0/files/1" };
        let answer = relay(&world, method, path, fields, b"").await;
        assert_eq!((answer.status, answer.headers.get("content-length")), (StatusCode::NO_CONTENT, None));
        let seen = resource.take().remove(0);
        assert_eq!((seen.header("content-length"), seen.header("transfer-encoding")), (expected, None));
    }
    let answer = relay(&world, Method::HEAD, "/v1.0/me/messages", &[], b"").await;
    assert_eq!((answer.status, answer.headers.get("content-length")), (StatusCode::NO_CONTENT, None));
}

/// A client that takes the connection's end for the answer's end sees no end where there is none.
#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_whole_over_http_1_0() {
    let answers = |_: &Seen| {
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            let _ = sender.send(Ok(Bytes::from_static(&[7; 20_000]))).await;
            let _ = sender.send(Err(std::io::ErrorKind::BrokenPipe.into())).await;
        });
        Reply::Stream(200, vec![], receiver)
    };
    let (world, _resource) = with_resource(answers).await;
    let address = world.daemon.local.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("the daemon");
    let path = "/v1/apps/outlook/connections/user-1/relay/graph/v1.0/files/1";
    let head = format!("GET {path} HTTP/1.0\r\nAuthorization: Bearer {}\r\n\r\n", world.reader_key);
    stream.write_all(head.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.0 200"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(ended.expect_err("it does not end").kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn each_request_of_a_batch_is_judged_by_itself() {
    let world = world().await;
    world.entra.set_messages(ALICE, 30);
    let here = url(&world, "");
    let before = world.entra.ledger_count(Endpoint::Graph, None);
    let batch = json!({ "requests": [
        { "id": "1", "method": "GET", "url": "/me/messages?$top=5" },
        { "id": "2", "method": "GET", "url": "/me/contacts" },
        { "id": "3", "method": "GET", "url": "/me/messages/AAMkAGI0001=", "dependsOn": ["2"] },
        { "id": "4", "method": "GET", "url": format!("{here}/v1.0/me/messages('AAMkAGI0002=')") },
        { "id": "5", "method": "GET", "url": "/me/messages/%2e%2e/contacts" },
        { "id": "6", "method": "POST", "url": "/$batch", "body": {} },
    ]});
    let answer = relay(
        &world,
        Method::POST,
        "/v1.0/$batch",
        &[("content-type", "application/json")],
        batch.to_string().as_bytes(),
    )
    .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let responses = answer.json()["responses"].as_array().expect("answers").clone();
    let of = |id: &str| {
        responses.iter().find(|one| one["id"] == id).unwrap_or_else(|| panic!("{id}: {responses:?}"))
    };
    let statuses = ["1", "2", "3", "4", "5", "6"].map(|id| of(id)["status"].as_u64().expect("a status"));
    assert_eq!(statuses, [200, 403, 424, 200, 400, 400]);
    assert_eq!(responses.len(), 6);
    assert_eq!(of("4")["body"]["subject"], "Minutes of Tuesday's meeting");
    assert!(text(&of("1")["body"], "@odata.nextLink").starts_with(&here), "{responses:?}");
    assert!(of("2")["body"]["error"]["message"].to_string().contains("/v1.0/me/contacts"), "{responses:?}");
    // One request was sent, and its record says what was in it.
    assert_eq!(world.entra.ledger_count(Endpoint::Graph, None), before + 1);
    let record = audit(&world).into_iter().rfind(|record| record["action"] == "relayed").expect("a record");
    assert_eq!(record["detail"]["requests"], "GET /v1.0/me/messages, GET /v1.0/me/messages/{id}");
    assert_eq!(
        (&record["detail"]["path"], &record["detail"]["refused"]),
        (&json!("/v1.0/$batch"), &json!("4"))
    );
    let refused = "403 GET /v1.0/me/contacts, 424 GET /v1.0/me/messages/{id}, 400, 400";
    assert_eq!(record["detail"]["refused_requests"], refused);

    // Where all are refused, none is sent.
    let batch = json!({ "requests": [{ "id": "1", "method": "GET", "url": "/me/contacts" }] });
    let answer = relay(&world, Method::POST, "/v1.0/$batch", &[], batch.to_string().as_bytes()).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["responses"][0]["status"]), (200, &json!(403)));
    assert_eq!(world.entra.ledger_count(Endpoint::Graph, None), before + 1);
    let refusal = || audit(&world).into_iter().rfind(|record| record["action"] == "refused");
    let record = refusal().expect("a record");
    assert_eq!(
        (&record["outcome"], &record["detail"]["refused_requests"]),
        (&json!("caller_forbidden"), &json!("403 GET /v1.0/me/contacts"))
    );
    // What nobody could allow is no matter of rules.
    let batch = json!({ "requests": [{ "id": "1", "method": "GET", "url": "/me/../contacts" }] });
    let answer = relay(&world, Method::POST, "/v1.0/$batch", &[], batch.to_string().as_bytes()).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["responses"][0]["status"]), (200, &json!(400)));
    assert_eq!(refusal().expect("a record")["outcome"], "invalid_request");
    // What is no batch is refused as a whole, as is one of another form.
    for (kind, body) in [
        ("application/json", r#"{"requests":[]}"#),
        (
            "application/json",
            r#"{"requests":[{"id":"1","method":"GET","url":"/me/messages","url":"/me/contacts"}]}"#,
        ),
        ("application/json", "no JSON"),
        ("multipart/mixed; boundary=x", "--x"),
    ] {
        let answer =
            relay(&world, Method::POST, "/v1.0/$batch", &[("content-type", kind)], body.as_bytes()).await;
        assert_eq!(
            (answer.status.as_u16(), code(&answer).as_str()),
            (400, "invalid_request"),
            "{kind} {body}"
        );
    }
    // So is one that is coded, or a part of one: nobody could say what is in it.
    let batch = json!({ "requests": [{ "id": "1", "method": "GET", "url": "/me/messages" }] });
    for (name, value) in
        [("content-encoding", "gzip"), ("content-encoding", "identity, br"), ("content-range", "bytes 0-1/2")]
    {
        let body = batch.to_string();
        let answer = relay(&world, Method::POST, "/v1.0/$batch", &[(name, value)], body.as_bytes()).await;
        assert_eq!(answer.status, 400, "{name}: {value}");
    }
    assert_eq!(world.entra.ledger_count(Endpoint::Graph, None), before + 1);
    // A challenge of the whole is answered as for any request.
    world.entra.challenge_graph(Some(ALICE), 1, ChallengeStyle::Camel);
    let batch = json!({ "requests": [{ "id": "1", "method": "GET", "url": "/me/messages" }] });
    let answer = relay(&world, Method::POST, "/v1.0/$batch", &[], batch.to_string().as_bytes()).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["responses"][0]["status"]), (200, &json!(200)));
}

/// The answers of what was refused are never lost where the rest of a batch succeeded.
#[tokio::test]
async fn refusals_of_a_batch_are_in_its_answer_or_there_is_none() {
    let (world, resource) = with_resource(|_| Reply::json(200, "{}")).await;
    let ask = async |url: &str| {
        let batch = json!({ "requests": [
            { "id": "1", "method": "GET", "url": "/me/messages" }, { "id": "2", "method": "GET", "url": url },
        ]});
        let (bearer, body) = (format!("Bearer {}", world.reader_key), batch.to_string());
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        request(Method::POST, &self::url(&world, "/v1.0/$batch"), &headers, body).await
    };
    let json = ("content-type", "application/json");
    let good = r#"{"responses":[{"id":"1","status":200,"body":{}}]}"#;
    // (A short answer is read before its head leaves.)
    let long = json!({ "value": "x".repeat(9000) }).to_string();
    for (status, headers, body, with_refusal) in [
        (200, vec![json], good, Some(200)),
        // It cannot be read, or has no place for them.
        (200, vec![json, ("content-encoding", "gzip")], good, Some(502)),
        (206, vec![json, ("content-range", "bytes 0-1/9")], good, Some(502)),
        (200, vec![("content-type", "text/html")], good, Some(502)),
        (200, vec![], good, Some(502)),
        (200, vec![json], "", Some(502)),
        (204, vec![], "", Some(502)),
        (200, vec![json], r#"{"value":[]}"#, Some(502)),
        (200, vec![json], &long, None),
        // The whole failed, and says so itself.
        (503, vec![("content-type", "text/plain")], "away", Some(503)),
        (400, vec![json], r#"{"error":{}}"#, Some(400)),
    ] {
        let (fields, answered) = (headers.clone(), body.to_owned());
        resource.answer_with(move |_| {
            let fields = fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
            Reply::Whole(status, fields, answered.clone().into())
        });
        let plain = ask("/me/messages/2").await.expect("an answer");
        assert_eq!((plain.status.as_u16(), plain.text().as_str()), (status, body), "{headers:?}");
        match (ask("/me/contacts").await, with_refusal) {
            (Ok(answer), Some(expected)) => {
                assert_eq!(answer.status, expected, "{status} {headers:?} {body}: {}", answer.text());
                let has_both = answer.text().contains("caller_forbidden");
                assert_eq!(has_both, expected == 200, "{}", answer.text());
            }
            // (It breaks off.)
            (Err(_), None) => {}
            (answer, _) => panic!("{status} {headers:?} {body}: {:?}", answer.map(|answer| answer.text())),
        }
    }
}

#[tokio::test]
async fn an_answer_of_a_batch_has_one_list_of_answers() {
    let (world, resource) = with_resource(|_| Reply::json(200, "{}")).await;
    let ask = async |url: &str| {
        let batch = json!({ "requests": [
            { "id": "1", "method": "GET", "url": "/me/messages" }, { "id": "2", "method": "GET", "url": url },
        ]});
        let (bearer, body) = (format!("Bearer {}", world.reader_key), batch.to_string());
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        request(Method::POST, &self::url(&world, "/v1.0/$batch"), &headers, body).await
    };
    let item = r#"{"id":"1","status":200,"body":{"responses":[],"x":"responses"}}"#;
    let once = format!(r#"{{"responses":[{item}]}}"#);
    let twice = format!(r#"{{"responses":[],"responses":[{item}]}}"#);
    let otherwise = format!(r#"{{"responses":[{item}],"\u0072esponses":[]}}"#);
    let long = format!(r#"{{"responses":[{item}],"x":"{}","responses":[]}}"#, "x".repeat(9000));
    for (body, expected) in [(once, Some(200)), (twice, Some(502)), (otherwise, Some(502)), (long, None)] {
        let answered = body.clone();
        resource.answer_with(move |_| Reply::json(200, &answered));
        for asked in ["/me/messages/2", "/me/contacts"] {
            match (ask(asked).await, expected) {
                (Ok(answer), Some(expected)) => {
                    assert_eq!(answer.status, expected, "{body}: {}", answer.text());
                    assert!(expected == 200 || answer.text().contains("relay_failed"), "{}", answer.text());
                }
                // (It breaks off.)
                (Err(_), None) => {}
                (answer, _) => panic!("{body}: {:?}", answer.map(|answer| answer.text())),
            }
        }
    }
}

#[tokio::test]
async fn a_batch_counts_as_its_requests() {
    let world = world().await;
    let limited = "[callers.mail-reader]\nrate_limit = 1\n";
    crate::attacks_rights::reconfigure(&world, "[callers.mail-reader]\n", limited).await;
    let requests: Vec<Value> = (0..20)
        .map(|id: u32| json!({ "id": id.to_string(), "method": "GET", "url": "/me/messages?$top=1" }))
        .collect();
    let batch = json!({ "requests": requests }).to_string();
    let answer = relay(&world, Method::POST, "/v1.0/$batch", &[], batch.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let next = get(&world, "/v1.0/me/messages").await;
    assert_eq!((next.status.as_u16(), code(&next).as_str()), (429, "rate_limited"));
    // Twenty were asked for and two were there: the next one is due after nineteen more.
    let after: u64 = next.headers["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((1..=19).contains(&after), "{after}");
}

#[tokio::test]
async fn a_relayed_answer_comes_to_its_end_though_the_daemon_stops() {
    let (sender, receiver) = mpsc::channel(1);
    let receiver = parking_lot::Mutex::new(Some(receiver));
    let (world, _resource) = with_resource(move |_| {
        let parts = receiver.lock().take().expect("one request");
        Reply::Stream(200, vec![], parts)
    })
    .await;
    let (open, nothing) = mpsc::channel(1);
    drop(open);
    let (answer, task) = stream(&world, Method::GET, "/v1.0/files/1", &[], nothing).await;
    sender.send(Ok(Bytes::from("before"))).await.expect("it is read");
    let mut body = answer.into_body();
    let part = body.frame().await.expect("a part").expect("whole");
    assert_eq!(part.into_data().expect("data"), "before");
    world.daemon.signal(rustix::process::Signal::TERM);
    world.daemon.until_logged("finishing what is in flight").await;
    sender.send(Ok(Bytes::from("after"))).await.expect("it is read");
    drop(sender);
    let rest = body.collect().await.expect("to its end").to_bytes();
    assert_eq!(rest, "after");
    task.abort();
}

/// A resource with a certificate of a private authority, and HTTP/2.
#[tokio::test]
async fn a_resource_of_a_private_authority_is_asked_over_http_2() {
    let authority = crate::pki::Authority::root("a private authority", 48);
    let leaf = crate::pki::Leaf::new().dns("localhost").for_servers();
    let identity = authority.issue(leaf);
    let length = 3 * 1024 * 1024;
    let resource = Resource::start_with(Some(crate::pki::http2_server(&identity)), move |_| {
        Reply::Whole(200, vec![], vec![7; length].into())
    })
    .await;
    let plan = plan_with(&resource.url, "ca = \"private.pem\"", RULES).file("private.pem", &authority.pem());
    let world = plan.start().await;
    world.connect("user-1", ALICE).await;
    let body: Vec<u8> = vec![9; 3 * 1024 * 1024];
    let answer = relay(&world, Method::PUT, "/v1.0/upload/1", &[], &body).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, length), "{}", world.daemon.log());
    let seen = resource.take();
    let [seen] = &seen[..] else { panic!("{}", seen.len()) };
    assert_eq!((seen.version, seen.length), (http::Version::HTTP_2, body.len() as u64));
    drop(world);
    // Whose authority is not trusted gets nothing.
    let world = plan_with(&resource.url, "", RULES).start().await;
    world.connect("user-1", ALICE).await;
    let answer = get(&world, "/v1.0/files/1").await;
    assert_eq!((answer.status.as_u16(), code(&answer).as_str()), (502, "relay_failed"));
    assert_eq!(resource.take().len(), 0);
}
