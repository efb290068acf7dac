//! The stream that pushes each new token (`…/token/watch`), from outside.

use std::time::Duration;

use bytes::Bytes;
use entra_emulator::{Endpoint, Fault, FaultRule};
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokenward::domain::digest::sha256_hex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::attacks_rights::{TEAM_A, harness, operate, pause, with_harness};
use crate::http_client::{Answer, request};
use crate::world::{ALICE, BOB, Kept, PATIENCE, Plan, Process, World, alone, text};

/// An event as a client gets it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) data: Value,
}

impl Event {
    pub(crate) fn token(&self) -> &str {
        assert_eq!(self.name, "token", "{self:?}");
        text(&self.data, "access_token")
    }

    /// The code of an error.
    pub(crate) fn code(&self) -> &str {
        assert_eq!((self.name.as_str(), self.id.as_str()), ("error", ""), "{self:?}");
        assert!(!self.data.to_string().contains("access_token"), "{self:?}");
        text(&self.data, "code")
    }
}

/// An open stream.
pub(crate) struct Stream {
    pub(crate) headers: HeaderMap,
    body: hyper::body::Incoming,
    received: String,
    /// Signs of life since the last event.
    pub(crate) alive: usize,
    pub(crate) retry: Option<u64>,
    connection: tokio::task::JoinHandle<Result<(), hyper::Error>>,
}

/// Asks for a stream over a connection.
pub(crate) async fn open_over(
    connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<Stream, (StatusCode, HeaderMap, Value)> {
    let io = TokioIo::new(connection);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("HTTP");
    let connection = tokio::spawn(connection);
    let mut request = http::Request::get(path).header(header::HOST, "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new()).expect("a request");
    let response =
        timeout(PATIENCE, sender.send_request(request)).await.expect("in time").expect("an answer");
    let (head, body) = response.into_parts();
    if head.status != 200 {
        let body = body.collect().await.expect("a body").to_bytes();
        return Err((head.status, head.headers, serde_json::from_slice(&body).expect("JSON")));
    }
    Ok(Stream { headers: head.headers, body, received: String::new(), alive: 0, retry: None, connection })
}

fn path(connection: &str) -> String {
    format!("/v1/apps/outlook/connections/{}/token/watch", connection.replace('/', "%2F"))
}

/// Asks a daemon for a stream.
async fn try_open(
    daemon: &Process,
    key: &str,
    target: &str,
    last: Option<&str>,
) -> Result<Stream, (StatusCode, HeaderMap, Value)> {
    let address = daemon.local.strip_prefix("http://").expect("an address");
    let bearer = format!("Bearer {key}");
    let mut headers = vec![("authorization", bearer.as_str())];
    headers.extend(last.map(|id| ("last-event-id", id)));
    open_over(TcpStream::connect(address).await.expect("connected"), target, &headers).await
}

/// The first event of a stream as a whole answer, or the answer in its place.
pub(crate) async fn first(daemon: &Process, key: &str, target: &str) -> Answer {
    match try_open(daemon, key, target, None).await {
        Ok(mut stream) => {
            let body = stream.event().await.data.to_string().into();
            Answer { status: StatusCode::OK, headers: stream.headers.clone(), body }
        }
        Err((status, headers, problem)) => Answer { status, headers, body: problem.to_string().into() },
    }
}

pub(crate) async fn open(daemon: &Process, key: &str, connection: &str) -> Stream {
    try_open(daemon, key, &path(connection), None).await.expect("a stream")
}

impl Stream {
    /// The next event; `None` at a clean end. Signs of life are no events, however many come.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        timeout(PATIENCE, self.read()).await.expect("an event, or the end, in time")
    }

    async fn read(&mut self) -> Option<Event> {
        loop {
            if let Some((block, rest)) = self.received.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.received = rest;
                let mut event = Event { name: String::new(), id: "none".to_owned(), data: Value::Null };
                for line in block.lines() {
                    match line.split_once(':').expect("a field or a comment") {
                        ("", _) => self.alive += 1,
                        ("retry", value) => self.retry = value.trim().parse().ok(),
                        ("event", value) => value.trim().clone_into(&mut event.name),
                        ("id", value) => value.trim().clone_into(&mut event.id),
                        ("data", value) => event.data = serde_json::from_str(value).expect("JSON"),
                        other => panic!("{other:?}"),
                    }
                }
                if event.name.is_empty() {
                    assert_eq!(event.data, Value::Null);
                } else {
                    return Some(event);
                }
                continue;
            }
            let frame = timeout(PATIENCE, self.body.frame()).await;
            let frame = frame.unwrap_or_else(|_| panic!("nothing came after {:?}", self.received));
            let Some(frame) = frame else {
                assert!(self.received.lines().all(|line| line == ":"), "cut: {}", self.received);
                return None;
            };
            let data = frame.expect("the stream does not break").into_data().expect("no trailers");
            self.received.push_str(std::str::from_utf8(&data).expect("text"));
        }
    }

    pub(crate) async fn event(&mut self) -> Event {
        self.next().await.expect("the stream goes on")
    }

    /// Waits for a sign of life, and that no event comes before it.
    async fn sign_of_life(&mut self) {
        let before = self.alive;
        while self.alive == before {
            let frame = timeout(PATIENCE, self.body.frame()).await.expect("in time").expect("it goes on");
            let data = frame.expect("no error").into_data().expect("no trailers");
            assert_eq!(std::str::from_utf8(&data), Ok(":\n"));
            self.alive += 1;
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Has the token renewed as a resource's refusal would.
pub(crate) async fn renew(world: &World, connection: &str) -> String {
    let before = world.access_token(connection).await;
    let body = json!({ "rejected": sha256_hex(before.as_bytes()) });
    let path = format!("/v1/apps/outlook/connections/{}/token", connection.replace('/', "%2F"));
    let answer = world.api(Method::POST, &path, body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    text(&answer.json(), "access_token").to_owned()
}

pub(crate) fn records(world: &World, is_so: impl Fn(&Value) -> bool) -> Vec<Value> {
    let audit = std::fs::read_to_string(world.folder.path().join("audit.jsonl")).expect("the audit");
    let lines = audit.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["door"] == "watch" && is_so(line)).collect()
}

fn hand_outs(world: &World) -> Vec<String> {
    let handed_out = records(world, |line| line["action"] == "token");
    handed_out.iter().map(|line| text(line, "token_sha256").to_owned()).collect()
}

async fn shows(world: &World, series: &str) -> bool {
    world.metrics().await.lines().any(|line| line == format!("tokenward_{series}"))
}

#[tokio::test]
async fn a_stream_begins_with_the_present_token_and_pushes_each_new_one() {
    let world = Plan::default().start().await;
    world.connect("alice", ALICE).await;
    let mut stream = open(&world.daemon, &world.key, "alice").await;
    assert_eq!(stream.headers["content-type"], "text/event-stream");
    assert_eq!(stream.headers["cache-control"], "no-store");
    assert_eq!(stream.headers["x-accel-buffering"], "no");
    let first = stream.event().await;
    assert!(stream.retry.is_some_and(|retry| (1000..5000).contains(&retry)), "{:?}", stream.retry);
    let answer = world.token("alice").await;
    let without_life = |mut token: Value| {
        token["expires_in"].take();
        token
    };
    assert_eq!(without_life(first.data.clone()), without_life(answer.json()));
    assert_eq!(answer.headers["etag"], format!("W/\"{}\"", first.id));
    assert!(shows(&world, "token_streams 1").await);

    let mut pushed = vec![first.token().to_owned()];
    for _ in 0..2 {
        let renewed = renew(&world, "alice").await;
        let event = stream.event().await;
        assert_eq!(event.token(), renewed);
        assert_ne!(event.id, first.id);
        pushed.push(renewed);
    }

    // Whoever comes back is told only what is new.
    let last = first.id.clone();
    let mut behind =
        try_open(&world.daemon, &world.key, &path("alice"), Some(&last)).await.expect("a stream");
    let second = behind.event().await;
    assert_eq!(second.token(), pushed[2]);
    let target = path("alice");
    let mut known = try_open(&world.daemon, &world.key, &target, Some(&second.id)).await.expect("a stream");
    let renewed = renew(&world, "alice").await;
    for stream in [&mut stream, &mut behind, &mut known] {
        assert_eq!(stream.event().await.token(), renewed);
    }

    // Each push is one hand-out, written before it left.
    let digests =
        |tokens: &[&String]| tokens.iter().map(|token| sha256_hex(token.as_bytes())).collect::<Vec<_>>();
    let [one, two, three, four] = [&pushed[0], &pushed[1], &pushed[2], &renewed];
    assert_eq!(hand_outs(&world), digests(&[one, two, three, three, four, four, four]));
    let ok = "token_requests_total{app=\"outlook\",caller=\"mail-sync\",dialect=\"watch\",outcome=\"ok\"} 7";
    assert!(shows(&world, ok).await);
    drop((stream, behind, known));
    world.until("the streams are over", async || shows(&world, "token_streams 0").await).await;
}

/// Nothing else asks, and no sweep runs.
#[tokio::test]
async fn a_watcher_alone_has_its_token_renewed_in_time() {
    let world = Plan::default().token_life(Duration::from_secs(8)).start().await;
    world.connect("alice", ALICE).await;
    let mut stream = open(&world.daemon, &world.key, "alice").await;
    let mut seen = vec![stream.event().await.token().to_owned()];
    for _ in 0..2 {
        let token = stream.event().await.token().to_owned();
        assert!(!seen.contains(&token));
        seen.push(token);
    }
    assert!(world.token_calls("refresh_token") >= 2);
}

/// On another replica than the one that the act comes to.
#[tokio::test]
async fn what_takes_the_right_away_ends_a_stream_and_what_passes_does_not() {
    let plan = Plan::default().kept(Kept::Redis);
    let (world, harness_key) = with_harness(plan, TEAM_A).await;
    for name in ["team-a/1", "team-a/2", "team-a/3", "team-a/4"] {
        world.connect(name, ALICE).await;
    }
    world.connect("team-a/5", BOB).await;
    world.prepare_replica("second");
    let folder = world.folder.path().join("second");
    std::os::unix::fs::symlink("../harness.keys", folder.join("harness.keys")).expect("a link");
    let other = Process::start(&folder).await;
    let streaming = async |key: &str, name: &str| {
        let mut stream = open(&other, key, name).await;
        let first = stream.event().await;
        assert_eq!(first.name, "token");
        (stream, first)
    };

    // A pause passes: the token comes again.
    let (mut stream, first) = streaming(&harness_key, "team-a/1").await;
    assert_eq!(pause(&world, "team-a/1", true).await.status, 200);
    assert_eq!(stream.event().await.code(), "connection_paused");
    assert_eq!(pause(&world, "team-a/1", false).await.status, 200);
    assert_eq!(stream.event().await.token(), first.token());

    // A delete does not.
    let (mut stream, _) = streaming(&harness_key, "team-a/2").await;
    let deleted = world.api(Method::DELETE, "/v1/apps/outlook/connections/team-a%2F2", Value::Null).await;
    assert_eq!(deleted.status, 204);
    assert_eq!(stream.event().await.code(), "connection_not_found");
    assert_eq!(stream.next().await, None);
    let (status, _, problem) =
        try_open(&other, &harness_key, &path("team-a/2"), None).await.err().expect("no stream");
    assert_eq!((status.as_u16(), text(&problem, "code")), (404, "connection_not_found"));

    // Nor does a revocation.
    let (mut stream, _) = streaming(&harness_key, "team-a/5").await;
    let meant = json!({ "app": "outlook", "tenant": "22222222-0000-4000-8000-00000000000b" });
    assert_eq!(operate(&world, Method::POST, "/admin/v1/revocations", meant).await.status, 200);
    assert_eq!(stream.event().await.code(), "connection_not_found");
    assert_eq!(stream.next().await, None);

    // Nor a rule that is gone, here and for this caller alone.
    let (mut stream, _) = streaming(&harness_key, "team-a/3").await;
    let (mut others, first) = streaming(&world.key, "team-a/3").await;
    let config = folder.join("tokenward.toml");
    let text_of = std::fs::read_to_string(&config).expect("the configuration");
    let fewer = harness(&TEAM_A.replace("scopes = [\"*\"]", "scopes = [\"Mail.Send\"]"));
    assert!(text_of.contains(&harness(TEAM_A)), "{text_of}");
    std::fs::write(&config, text_of.replace(&harness(TEAM_A), &fewer)).expect("written");
    assert_eq!(stream.event().await.code(), "scope_not_granted");
    std::fs::write(&config, text_of.replace("[\"team-a/*\"]", "[\"team-a/4\"]")).expect("written");
    assert_eq!(stream.event().await.code(), "connection_not_found");
    assert_eq!(stream.next().await, None);

    // Nor a key that is retired.
    let (mut stream, _) = streaming(&harness_key, "team-a/4").await;
    std::fs::write(world.folder.path().join("harness.keys"), "# retired\n").expect("the key file");
    assert_eq!(stream.event().await.code(), "caller_unauthenticated");
    assert_eq!(stream.next().await, None);
    let renewed = renew(&world, "team-a/3").await;
    assert_ne!(first.token(), renewed);
    assert_eq!(others.event().await.token(), renewed);

    // Each was told once, and recorded once.
    let audit = std::fs::read_to_string(folder.join("audit.jsonl")).expect("the audit");
    let refused: Vec<Value> = audit
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["action"] == "refused" && line["door"] == "watch")
        .collect();
    // (The first stream is still open, and was told of the rules, too.)
    assert_eq!(text(&refused[0], "outcome"), "connection_paused");
    let others = refused.iter().filter(|line| line["connection"] != "team-a/1");
    let codes: Vec<&str> = others.map(|line| text(line, "outcome")).collect();
    let expected = [
        "connection_not_found",
        "connection_not_found", // the stream that was refused
        "connection_not_found",
        "scope_not_granted",
        "connection_not_found",
        "caller_unauthenticated",
    ];
    assert_eq!(codes, expected, "{refused:?}");
}

#[tokio::test]
async fn a_stream_outlasts_an_authority_and_a_store_that_are_away() {
    let mut world = Plan::default().kept(Kept::Redis).start().await;
    world.connect("alice", ALICE).await;
    let mut stream = open(&world.daemon, &world.key, "alice").await;
    let first = stream.event().await.token().to_owned();
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::status(503)));
    // A living token is served, whatever the authority does.
    stream.sign_of_life().await;
    world.outlive_tokens();
    let event = stream.event().await;
    assert_eq!(event.code(), "authority_unavailable", "{event:?}");
    world.entra.faults().clear();
    let second = stream.event().await.token().to_owned();
    assert_ne!(first, second);

    world.redis.as_mut().expect("Redis").stop();
    stream.sign_of_life().await;
    let target = path("alice");
    let mut newcomer = try_open(&world.daemon, &world.key, &target, None).await.expect("from memory");
    assert_eq!(newcomer.event().await.token(), second);
}

#[tokio::test]
async fn a_stop_ends_streams_at_once_and_a_caller_has_so_many() {
    let limits = "[limits]\nstreams_per_caller = 2\ndrain = \"10m\"\n";
    let mut world = Plan::default().sections(limits).start().await;
    world.connect("alice", ALICE).await;
    world.connect("team-b/bob", BOB).await;
    let target = path("alice");
    let (mut one, mut two) =
        (open(&world.daemon, &world.key, "alice").await, open(&world.daemon, &world.key, "alice").await);
    let (status, headers, problem) =
        try_open(&world.daemon, &world.key, &target, None).await.err().expect("one too many");
    assert_eq!((status.as_u16(), text(&problem, "code")), (429, "rate_limited"), "{problem}");
    assert_eq!(headers["retry-after"], "10");
    assert_eq!(records(&world, |line| line["action"] == "refused").len(), 1);
    // Another caller has its own.
    open(&world.daemon, &world.reader_key, "team-b/bob").await.event().await.token();
    one.event().await;
    drop(one);
    world.until("its place is free", async || shows(&world, "token_streams 1").await).await;
    let mut three = open(&world.daemon, &world.key, "alice").await;
    two.event().await;
    three.event().await;
    // `drain` is longer than this test waits.
    assert_eq!(world.daemon.terminate(), Some(0), "{}", world.daemon.log());
    assert_eq!((two.next().await, three.next().await), (None, None));
}

/// Streams of one connection: each new token is one call, and a push to each.
#[tokio::test]
async fn a_thousand_streams_take_little_memory_and_one_renewal_reaches_all() {
    const STREAMS: usize = 1000;
    let _alone = alone().await;
    let limits = format!("[limits]\nstreams_per_caller = {STREAMS}\n");
    let world = Plan::default().sections(&limits).start().await;
    world.connect("alice", ALICE).await;
    world.access_token("alice").await;
    let resident = || {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", world.daemon.pid())).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a figure");
        line.trim().split(' ').next().and_then(|kib| kib.parse::<usize>().ok()).expect("KiB") * 1024
    };
    let before = resident();
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(open(&world.daemon, &world.key, "alice").await);
    }
    for stream in &mut streams {
        stream.event().await;
    }
    let grown = resident().saturating_sub(before);
    eprintln!("{STREAMS} streams: {} bytes each", grown / STREAMS);
    assert!(grown <= STREAMS * tokenward::listener::PER_CONNECTION, "{grown}");
    assert!(shows(&world, &format!("token_streams {STREAMS}")).await);
    let calls = world.token_calls("refresh_token");
    let renewed = renew(&world, "alice").await;
    for stream in &mut streams {
        assert_eq!(stream.event().await.token(), renewed);
    }
    assert_eq!(world.token_calls("refresh_token"), calls + 1);
    assert_eq!(hand_outs(&world).len(), 2 * STREAMS);
    drop(streams);
    world.until("all are over", async || shows(&world, "token_streams 0").await).await;
}

/// What `GET …/token` refuses, a stream refuses in the same words before it begins.
#[tokio::test]
async fn a_stream_that_does_not_begin_is_an_answer_like_any_other() {
    let world = Plan::default().start().await;
    world.connect("team-b/a", ALICE).await;
    let rows = [
        ("/v1/apps/outlook/connections/nobody/token", &world.key),
        ("/v1/apps/nothing/connections/nobody/token", &world.key),
        ("/v1/apps/outlook/connections/other/token", &world.reader_key),
        ("/v1/apps/outlook/connections/team-b%2Fa/token?scope=Calendars.Read", &world.reader_key),
        ("/v1/apps/outlook/connections/team-b%2Fa/token?scope=Mail.Send", &world.key),
        ("/v1/apps/outlook/connections/team-b%2Fa/token?min_ttl=5", &world.key),
        ("/v1/apps/outlook/connections/team-b%2Fa/token?min_ttl=x", &world.key),
        ("/v1/apps/outlook/connections/team-b%2Fa/token?access_token=x", &world.key),
        ("/v1/apps/outlook/connections/team-b%2Fa/token", &format!("{}x", world.key)),
    ];
    for (target, key) in rows {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str())];
        let url = format!("{}{target}", world.daemon.local);
        let plain = request(Method::GET, &url, &headers, "").await.expect("an answer");
        let watch = target.replace("/token", "/token/watch");
        let (status, headers, mut problem) =
            try_open(&world.daemon, key, &watch, None).await.err().expect("no stream");
        let mut expected = plain.json();
        expected["request_id"].take();
        problem["request_id"].take();
        assert_eq!((status, &problem), (plain.status, &expected), "{target}");
        assert_eq!(headers.get("www-authenticate"), plain.headers.get("www-authenticate"), "{target}");
    }
    // A connection may have such a name; then its slashes are escaped.
    world.connect("team/token/watch", ALICE).await;
    assert_eq!(world.token("team/token/watch").await.status, 200);
    let not_allowed = world.api(Method::POST, "/v1/apps/outlook/connections/a/token/watch", json!({})).await;
    assert_eq!(
        (not_allowed.status.as_u16(), &not_allowed.headers["allow"]),
        (405, &"GET".parse().expect("text"))
    );
}
