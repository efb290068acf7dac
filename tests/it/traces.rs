//! Traces over OTLP, and exemplars: what a collector and a scraper get, and that no request waits for either.

pub(crate) mod collector;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::Duration;

use entra_emulator::{Endpoint, Fault, FaultRule};
use http::Method;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use self::collector::{CLIENT, Collector, INTERNAL, Mood, SERVER, attributes};
use crate::canaries::Searcher;
use crate::http_client::{Answer, request};
use crate::launcher::{command, installed, repository};
use crate::world::{ALICE, BOB, CLIENT_SECRET, Plan, Process, SYNC, World, free_port, write_secret};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const OTHER: &str = "1bf7651916cd43dd8448eb211c80319d";
const PARENT: &str = "b7ad6b7169203331";
const ROUTE: &str = "/v1/apps/{app}/connections/{connection}/token";

/// Asks for a token as a part of a trace.
async fn token_in(world: &World, trace: &str, is_sampled: bool, name: &str) -> Answer {
    let traceparent = format!("00-{trace}-{PARENT}-0{}", u8::from(is_sampled));
    let bearer = format!("Bearer {}", world.key);
    let headers = [
        ("authorization", bearer.as_str()),
        ("traceparent", &traceparent),
        ("tracestate", "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"),
    ];
    let url = format!("{}/v1/apps/outlook/connections/{name}/token", world.daemon.local);
    request(Method::GET, &url, &headers, "").await.expect("an answer")
}

fn id(span: &Span) -> String {
    hex::encode(&span.span_id)
}

fn parent(span: &Span) -> String {
    hex::encode(&span.parent_span_id)
}

/// The one span of this name.
fn one<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let mut found = spans.iter().filter(|span| span.name == name);
    let names = || spans.iter().map(|span| span.name.as_str()).collect::<Vec<_>>();
    let first = found.next().unwrap_or_else(|| panic!("no {name} in {:?}", names()));
    assert!(found.next().is_none(), "several {name} in {:?}", names());
    first
}

fn figure(page: &str, series: &str) -> u64 {
    let line = page.lines().find(|line| line.rsplit_once(' ').is_some_and(|(name, _)| name == series));
    let line = line.unwrap_or_else(|| panic!("no {series} in\n{page}"));
    line.rsplit_once(' ').expect("a figure").1.parse().expect("a number")
}

async fn dropped(world: &World, reason: &str) -> u64 {
    let series = format!("tokenward_spans_dropped_total{{reason=\"{reason}\"}}");
    figure(&world.metrics().await, &series)
}

#[tokio::test]
async fn a_hand_out_that_leads_to_a_refresh_is_one_trace_from_the_caller_to_the_authority() {
    let collector = Collector::start().await;
    let world = Plan::default()
        .sections(&collector.section("sample_ratio = 0\nservice_name = \"mail-tokens\""))
        .start()
        .await;
    world.connect("one", ALICE).await;
    world.outlive_tokens();
    let answer = token_in(&world, TRACE, true, "one").await;
    assert_eq!(
        (answer.status.as_u16(), &answer.headers["tokenward-source"]),
        (200, &"authority".parse().expect("a value"))
    );
    assert_eq!(answer.headers["x-request-id"], TRACE);
    let is_refresh = |span: &Span| span.name == "refresh";
    collector.until("the refresh", |spans| spans.iter().any(is_refresh)).await;
    let spans = collector.until_trace(TRACE).await;

    // With a ratio of 0 there is nothing but what the caller samples.
    assert!(collector.spans().iter().all(|span| hex::encode(&span.trace_id) == TRACE));
    for span in &spans {
        assert_eq!(span.trace_state, "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7", "{}", span.name);
        assert!(0 < span.start_time_unix_nano && span.start_time_unix_nano <= span.end_time_unix_nano);
        assert!(span.events.is_empty() && span.links.is_empty());
    }
    let served = one(&spans, &format!("GET {ROUTE}"));
    let scheme = [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("http.route", ROUTE),
        ("network.protocol.version", "1.1"),
        ("network.transport", "tcp"),
        ("tokenward.app", "outlook"),
        ("tokenward.caller", SYNC),
        ("tokenward.dialect", "native"),
        ("tokenward.listener", "local"),
        ("tokenward.outcome", "ok"),
        ("url.scheme", "http"),
    ];
    let owned = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    assert_eq!((served.kind, parent(served).as_str()), (SERVER, PARENT));
    assert_eq!(attributes(&served.attributes), owned(&scheme));
    let waits = one(&spans, "wait for a refresh");
    assert_eq!((waits.kind, parent(waits)), (INTERNAL, id(served)));
    let refresh = one(&spans, "refresh");
    assert_eq!((refresh.kind, parent(refresh)), (INTERNAL, id(waits)));
    let outcome = owned(&[("tokenward.app", "outlook"), ("tokenward.outcome", "ok")]);
    assert_eq!(attributes(&refresh.attributes), outcome);
    let call = one(&spans, "POST");
    let called = attributes(&call.attributes);
    assert_eq!((call.kind, parent(call)), (CLIENT, id(refresh)));
    assert_eq!(called["tokenward.authority.endpoint"], "token");
    assert_eq!(
        (called["http.response.status_code"].as_str(), called["tokenward.outcome"].as_str()),
        ("200", "ok")
    );
    assert_eq!(called["server.address"], "127.0.0.1");
    assert!(called["url.full"].ends_with("/token"), "{called:?}");
    for name in ["store take_lease", "store commit"] {
        assert_eq!(parent(one(&spans, name)), id(refresh), "{name}");
    }

    let resource = collector.posted(|posted| {
        let first = &posted[0];
        assert_eq!(
            (first.path.as_str(), &first.headers["content-type"]),
            ("/v1/traces", &"application/x-protobuf".parse().expect("a value"))
        );
        let resource = first.message.resource_spans[0].resource.clone().expect("a resource");
        attributes(&resource.attributes)
    });
    assert_eq!(
        resource.keys().collect::<Vec<_>>(),
        ["host.name", "service.instance.id", "service.name", "service.version"]
    );
    assert_eq!(
        (resource["service.name"].as_str(), resource["service.version"].as_str()),
        ("mail-tokens", env!("CARGO_PKG_VERSION"))
    );

    // Microsoft is not told of the trace.
    let calls = world.entra.ledger();
    assert!(calls.iter().any(|call| call.grant_type.as_deref() == Some("refresh_token")));
    assert!(
        calls.iter().all(|call| !call.header_keys.iter().any(|key| key.starts_with("trace"))),
        "{calls:?}"
    );
    // Log lines of the trace have its ids.
    let log = world.daemon.log();
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let known: BTreeSet<String> = spans.iter().map(id).collect();
    let traced: Vec<&Value> = lines.iter().filter(|line| line["span"]["trace_id"] == TRACE).collect();
    assert!(traced.iter().any(|line| line["message"] == "the authority answered"), "{log}");
    assert!(traced.iter().all(|line| known.contains(line["span"]["span_id"].as_str().unwrap_or_default())));
}

#[tokio::test]
async fn requests_that_wait_for_another_s_refresh_are_linked_to_it() {
    let collector = Collector::start().await;
    let world = Plan::default().sections(&collector.section("sample_ratio = 0")).start().await;
    world.connect("one", ALICE).await;
    world.outlive_tokens();
    world.entra.clear_ledger();
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::HoldAnswer));
    let (first, second, ()) = tokio::join!(
        token_in(&world, TRACE, true, "one"),
        async {
            world.until_called("refresh_token", 1).await;
            token_in(&world, OTHER, true, "one").await
        },
        async {
            world.until_called("refresh_token", 1).await;
            // Both wait: the second has missed the cache.
            let missed = "tokenward_token_cache_lookups_total{result=\"miss\"} 2";
            world.until("two wait", async || world.metrics().await.contains(missed)).await;
            world.entra.faults().release();
        },
    );
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (200, 200));
    assert_eq!(world.token_calls("refresh_token"), 1);
    collector.until("the refresh", |spans| spans.iter().any(|span| span.name == "refresh")).await;
    let (mine, others) = (collector.until_trace(TRACE).await, collector.until_trace(OTHER).await);
    let refresh = one(&mine, "refresh");
    assert!(one(&mine, "wait for a refresh").links.is_empty(), "it is its own");
    let waits = one(&others, "wait for a refresh");
    assert!(others.iter().all(|span| span.name != "refresh" && span.name != "POST"));
    let [link] = &waits.links[..] else { panic!("one link: {:?}", waits.links) };
    assert_eq!((hex::encode(&link.trace_id), hex::encode(&link.span_id)), (TRACE.to_owned(), id(refresh)));
}

#[tokio::test]
async fn what_a_caller_does_not_sample_is_not_traced_whatever_the_ratio() {
    let collector = Collector::start().await;
    let world = Plan::default().sections(&collector.section("sample_ratio = 1")).start().await;
    world.connect("one", ALICE).await;
    world.outlive_tokens();
    assert_eq!(token_in(&world, OTHER, false, "one").await.status, 200);
    assert_eq!(world.token_calls("refresh_token"), 1);
    assert_eq!(token_in(&world, TRACE, true, "one").await.status, 200);
    collector.until_trace(TRACE).await;
    let names: Vec<String> = collector.spans().into_iter().map(|span| span.name).collect();
    assert!(!names.iter().any(|name| name == "refresh"), "{names:?}");
    assert!(collector.trace(OTHER).is_empty());
    assert!(!world.daemon.log().lines().any(|line| line.contains("\"span\"") && line.contains(OTHER)));
}

/// The ratio is applied once to each request, also to those that are answered beside hyper and those that
/// are looked at there and then left to it.
#[tokio::test]
async fn the_ratio_counts_once_for_a_request_on_whichever_way_it_is_answered() {
    const ASKED: usize = 400;
    let collector = Collector::start().await;
    let world = Plan::default().sections(&collector.section("sample_ratio = 0.5")).start().await;
    world.connect("one", ALICE).await;
    let mut stream =
        TcpStream::connect(world.daemon.local.trim_start_matches("http://")).await.expect("open");
    let mut ids: [BTreeSet<String>; 2] = Default::default();
    for number in 0..ASKED * 2 {
        // A name that nobody has is refused by the routes, after it was looked at beside them.
        let name = ["one", "nobody"][number % 2];
        let head = format!(
            "GET /v1/apps/outlook/connections/{name}/token HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\r\n",
            world.key
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        let answer = read_answer(&mut stream).await;
        let id = answer.lines().find_map(|line| line.strip_prefix("x-request-id: ")).expect("an id");
        ids[number % 2].insert(id.trim().to_owned());
    }
    let dropped_none = async || dropped(&world, "queue_full").await == 0;
    assert!(dropped_none().await);
    // Those that came last are delivered last.
    let mut last = String::new();
    for _ in 0..64 {
        last = token_in(&world, TRACE, true, "one").await.headers["x-request-id"]
            .to_str()
            .expect("text")
            .to_owned();
    }
    collector
        .until("the last", |spans| {
            spans.iter().filter(|span| hex::encode(&span.trace_id) == last && span.kind == SERVER).count()
                == 64
        })
        .await;
    let spans = collector.spans();
    let traced: BTreeSet<String> =
        spans.iter().filter(|span| span.kind == SERVER).map(|span| hex::encode(&span.trace_id)).collect();
    for (asked, name) in ids.iter().zip(["one", "nobody"]) {
        let count = asked.intersection(&traced).count();
        // (Beyond that by chance: one run in 10^11.)
        assert!((130..=270).contains(&count), "{count} of {ASKED} for {name}");
    }
}

async fn read_answer(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    let head = String::from_utf8(head).expect("text");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let mut body = vec![0; length.trim().parse().expect("a number")];
    stream.read_exact(&mut body).await.expect("a body");
    head
}

#[tokio::test]
async fn no_secret_and_no_name_of_a_user_or_of_a_connection_reaches_the_collector() {
    let collector = Collector::start().await;
    let world = Plan::default().sections(&collector.section("sample_ratio = 1")).start().await;
    let name = "canary-connection-of-alice";
    world.connect(name, ALICE).await;
    world.outlive_tokens();
    let token = world.access_token(name).await;
    world.connect("of-bob", BOB).await;
    // Secrets in every place of a request, at every listener.
    let bearer = format!("Bearer {}", world.key);
    for path in [
        format!("/v1/apps/outlook/connections/{name}/token?access_token={token}"),
        format!("/v1/apps/{}/connections/{name}/token", world.key),
        format!("/v1/apps/outlook/connections/{token}/token?scope={}", world.key),
        format!("/v1/connect-sessions/{token}"),
        format!("/{token}"),
    ] {
        world.api(Method::GET, &path, Value::Null).await;
        for base in [&world.daemon.local, &world.daemon.public] {
            let headers = [("authorization", bearer.as_str()), ("user-agent", &token), ("referer", &token)];
            let _ = request(
                Method::from_bytes(b"CANARYMETHOD").expect("a method"),
                &format!("{base}{path}"),
                &headers,
                "",
            )
            .await;
        }
    }
    for path in ["/connect/", "/callback/outlook?code="] {
        let _ = request(Method::GET, &format!("{}{path}{token}", world.daemon.public), &[], "").await;
    }
    let answer = token_in(&world, TRACE, true, name).await;
    assert_eq!(answer.status, 200);
    collector.until_trace(TRACE).await;
    let names: BTreeSet<String> = collector.spans().into_iter().map(|span| span.name).collect();
    for expected in [
        &format!("GET {ROUTE}"),
        "POST /v1/connect-sessions",
        "POST /v1/connect-sessions/{id}/confirm",
        "GET /connect/{session}",
        "POST /connect/{session}",
        "GET /callback/{app}",
        "refresh",
        "POST",
        "_OTHER",
    ] {
        assert!(names.contains(expected), "no {expected} in {names:?}");
    }
    let mut searcher = Searcher::default();
    for (kind, secret) in world.entra.issued_secrets() {
        searcher.add(kind, secret.as_bytes());
    }
    for (what, secret) in [
        ("API key", world.key.as_str()),
        ("client secret", CLIENT_SECRET),
        ("user", ALICE),
        ("user", BOB),
        ("connection", name),
    ] {
        searcher.add(what, secret.as_bytes());
    }
    let bodies = collector.posted(|posted| posted.iter().map(|one| one.body.clone()).collect::<Vec<_>>());
    for body in &bodies {
        searcher.must_be_absent("a message to the collector", body);
    }
    // A stranger's words are in none either.
    let all = bodies.concat();
    let has = |word: &[u8]| all.windows(word.len()).any(|window| window == word);
    assert!(has(b"outlook") && !has(b"CANARYMETHOD"));
    // A session is a secret: nothing of a path but its route is told.
    let connect =
        collector.spans().into_iter().find(|span| span.name == "GET /connect/{session}").expect("one");
    let told = attributes(&connect.attributes);
    assert!(
        told.keys().all(|key| !["url.path", "url.query", "url.full"].contains(&key.as_str())),
        "{told:?}"
    );
}

/// Browsers are strangers: they choose neither whether they are traced nor where.
#[tokio::test]
async fn a_browser_s_traceparent_is_not_continued() {
    let collector = Collector::start().await;
    let world = Plan::default().sections(&collector.section("sample_ratio = 0")).start().await;
    let traceparent = format!("00-{OTHER}-{PARENT}-01");
    let ask = async || {
        let headers = [("traceparent", traceparent.as_str()), ("tracestate", "a=canary")];
        request(Method::GET, &format!("{}/", world.daemon.public), &headers, "").await.expect("an answer")
    };
    assert_eq!(ask().await.headers["x-request-id"], OTHER);
    // (The admin and the local API believe their callers; /metrics is never traced.)
    assert_eq!(token_in(&world, TRACE, true, "nobody").await.status, 404);
    collector.until_trace(TRACE).await;
    assert!(collector.trace(OTHER).is_empty());

    let config = world.folder.path().join("tokenward.toml");
    let text =
        std::fs::read_to_string(&config).expect("read").replace("sample_ratio = 0", "sample_ratio = 1");
    std::fs::write(&config, text).expect("written");
    let reloaded = "tokenward_config_reloads_total{outcome=\"ok\"} 1";
    world.until("the reload", async || world.metrics().await.contains(reloaded)).await;
    ask().await;
    let spans = collector.until("a page", |spans| spans.iter().any(|span| span.name == "GET /")).await;
    let page = one(&spans, "GET /");
    assert!(hex::encode(&page.trace_id) != OTHER && page.parent_span_id.is_empty());
    assert_eq!(page.trace_state, "");
    assert_eq!(attributes(&page.attributes)["tokenward.request_id"], OTHER);
}

#[tokio::test]
async fn a_collector_that_is_down_slow_or_full_costs_spans_and_nothing_else() {
    let collector = Collector::start().await;
    let mut world = Plan::default().sections(&collector.section("sample_ratio = 1")).start().await;
    world.connect("one", ALICE).await;
    // It does not answer: the queue fills up, and requests go on as before.
    collector.is(Mood::Silent);
    let floods = (0..8).map(|_| async {
        for _ in 0..500 {
            assert_eq!(world.token("one").await.status, 200);
        }
    });
    futures_util::future::join_all(floods).await;
    let full = async || dropped(&world, "queue_full").await > 0;
    assert!(full().await, "{}", world.metrics().await);
    // It has no room, then it has: the batch is not lost.
    collector.is(Mood::Status(503));
    let waits = |status| collector.posted(|posted| posted.iter().any(|one| one.mood == Mood::Status(status)));
    world.until("it is tried", async || waits(503)).await;
    collector.is(Mood::Takes);
    collector.until("spans after all", |spans| spans.len() > 1000).await;
    assert_eq!(dropped(&world, "refused").await, 0);
    world.daemon.until_logged("the collector takes spans again").await;
    // Spans go in their order: with this one, all that waited has come.
    assert_eq!(token_in(&world, TRACE, true, "one").await.status, 200);
    collector.until_trace(TRACE).await;
    // It refuses some, or all: those are not sent again.
    collector.is(Mood::Rejects(1));
    assert_eq!(world.token("one").await.status, 200);
    world.until("one is refused", async || dropped(&world, "refused").await == 1).await;
    collector.is(Mood::Status(400));
    assert_eq!(world.token("one").await.status, 200);
    world.until("a batch is refused", async || dropped(&world, "refused").await > 1).await;
    assert!(figure(&world.metrics().await, "tokenward_spans_exported_total") > 1000);
    // A stop does not wait until it answers, nor to the end of the time that a stop may take: that would be
    // told as work that was not finished.
    collector.is(Mood::Silent);
    assert_eq!(world.token("one").await.status, 200);
    let begun = std::time::Instant::now();
    assert_eq!(world.daemon.terminate(), Some(0), "{}", world.daemon.log());
    eprintln!("stopped after {:?}", begun.elapsed());
    world.daemon.until_logged("the last spans are lost").await;
}

// (The end of the daemon is waited for by a thread that does nothing else.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_sends_the_last_spans() {
    let collector = Collector::start().await;
    let mut world = Plan::default().sections(&collector.section("sample_ratio = 0")).start().await;
    assert_eq!(token_in(&world, TRACE, true, "nobody").await.status, 404);
    assert_eq!(world.daemon.terminate(), Some(0));
    let spans = collector.trace(TRACE);
    let served = attributes(&one(&spans, &format!("GET {ROUTE}")).attributes);
    assert_eq!(served["tokenward.code"], "connection_not_found");
    assert!(!served.contains_key("error.type"), "a caller's mistake is no error of the server");
}

#[tokio::test]
async fn the_collector_s_secret_is_replaced_while_the_daemon_runs() {
    let collector = Collector::start().await;
    let section = collector.section("sample_ratio = 0\nheaders_file = \"collector-headers\"");
    let first = "# for the collector\nAuthorization: Bearer canary-old-collector-secret\nX-Scope-OrgID: 7\n";
    let world = Plan::default().sections(&section).file("collector-headers", first).start().await;
    assert_eq!(token_in(&world, TRACE, true, "nobody").await.status, 404);
    collector.until_trace(TRACE).await;
    let secrets = || {
        collector.posted(|posted| {
            posted
                .iter()
                .map(|one| one.headers["authorization"].to_str().expect("text").to_owned())
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(secrets(), ["Bearer canary-old-collector-secret"]);
    collector.posted(|posted| assert_eq!(posted[0].headers["x-scope-orgid"], "7"));
    // A file that is wrong holds no reload up, and traces go on as before; the next one is taken up.
    let file = world.folder.path().join("collector-headers");
    let until_reloaded = async |times: u32| {
        let reloaded = format!("tokenward_config_reloads_total{{outcome=\"ok\"}} {times}\n");
        world.until("the reload", async || world.metrics().await.contains(&reloaded)).await;
    };
    for (times, (wrong, trace)) in [
        ("canary-without-a-name", "2cf7651916cd43dd8448eb211c80319e"),
        ("User-Agent: canary\n", "3df7651916cd43dd8448eb211c80319f"),
    ]
    .into_iter()
    .enumerate()
    {
        write_secret(&file, wrong);
        until_reloaded(u32::try_from(times).expect("small") + 1).await;
        assert!(world.daemon.log().contains("a reload leaves them as they were"));
        assert_eq!(token_in(&world, trace, true, "nobody").await.status, 404);
        collector.until_trace(trace).await;
        assert_eq!(secrets().last().map(String::as_str), Some("Bearer canary-old-collector-secret"));
    }
    write_secret(&file, "Authorization: Bearer canary-new-collector-secret\n");
    until_reloaded(3).await;
    assert_eq!(token_in(&world, OTHER, true, "nobody").await.status, 404);
    collector.until_trace(OTHER).await;
    assert_eq!(secrets().last().map(String::as_str), Some("Bearer canary-new-collector-secret"));
    let said = format!("{}{}", world.daemon.log(), world.metrics().await);
    assert!(!said.contains("canary"), "{said}");
}

/// What is optional stops no start: it is told, and mended while the daemon runs.
#[tokio::test]
async fn a_start_without_the_collector_s_files_serves_and_says_so() {
    let collector = Collector::start().await;
    for (key, file) in [("headers_file", "collector-headers"), ("ca_file", "collector-ca.pem")] {
        let section = collector.section(&format!("sample_ratio = 1\n{key} = \"{file}\""));
        let world = Plan::default().sections(&section).start().await;
        let told = |text: &str| {
            let [named, until_then] = [format!("traces.{key}"), "no traces are sent until".to_owned()];
            text.lines().any(|line| line.contains(&named) && line.contains(&until_then))
        };
        assert!(told(&world.daemon.log()), "{}", world.daemon.log());
        let checked = world.asked(&["check"]);
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(checked.status.success() && told(&said), "{said}");
        world.connect("one", ALICE).await;
        assert_eq!(token_in(&world, TRACE, true, "one").await.status, 200);
        assert_eq!(figure(&world.metrics().await, "tokenward_spans_exported_total"), 0);
        if key == "headers_file" {
            write_secret(&world.folder.path().join(file), "Authorization: Bearer canary\n");
            let reloaded = "tokenward_config_reloads_total{outcome=\"ok\"} 1";
            world.until("the reload", async || world.metrics().await.contains(reloaded)).await;
            assert_eq!(token_in(&world, OTHER, true, "one").await.status, 200);
            collector.until_trace(OTHER).await;
        }
        assert!(collector.trace(TRACE).is_empty(), "from before it was mended");
    }
}

/// The configuration is all that counts: not what OpenTelemetry's own programs read.
#[tokio::test]
async fn nothing_is_read_from_the_variables_of_opentelemetry() {
    let (collector, other) = (Collector::start().await, Collector::start().await);
    let mut world = Plan::default().sections(&collector.section("sample_ratio = 0")).start().await;
    world.connect("one", ALICE).await;
    assert_eq!(token_in(&world, TRACE, true, "one").await.status, 200);
    let plain = collector.until_trace(TRACE).await;
    assert_eq!(world.daemon.terminate(), Some(0), "{}", world.daemon.log());
    let variables = format!(
        "OTEL_SDK_DISABLED=true\nOTEL_SERVICE_NAME=another\nOTEL_TRACES_SAMPLER=always_on\n\
         OTEL_TRACES_EXPORTER=none\nOTEL_PROPAGATORS=none\nOTEL_RESOURCE_ATTRIBUTES=canary=otel\n\
         OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT=1\nOTEL_ATTRIBUTE_COUNT_LIMIT=1\n\
         OTEL_SPAN_LINK_COUNT_LIMIT=0\nOTEL_BSP_MAX_QUEUE_SIZE=1\nOTEL_BSP_SCHEDULE_DELAY=600000\n\
         OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:{port}\n\
         OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://127.0.0.1:{port}/v1/traces\n\
         OTEL_EXPORTER_OTLP_HEADERS=x-canary=otel\nOTEL_EXPORTER_OTLP_COMPRESSION=gzip\n",
        port = other.port
    );
    std::fs::write(world.folder.path().join("environment"), variables).expect("written");
    world.daemon = Process::start(world.folder.path()).await;
    // (A request that nobody samples comes first, so that its spans would be there.)
    assert_eq!(world.token("one").await.status, 200);
    assert_eq!(token_in(&world, OTHER, true, "one").await.status, 200);
    let spans = collector.until_trace(OTHER).await;
    let server = |spans: &[Span]| {
        let span = one(spans, &format!("GET {ROUTE}")).clone();
        (span.kind, span.trace_state, attributes(&span.attributes))
    };
    assert_eq!(server(&spans), server(&plain));
    assert!(
        collector
            .spans()
            .iter()
            .all(|span| { [TRACE, OTHER].contains(&hex::encode(&span.trace_id).as_str()) })
    );
    collector.posted(|posted| {
        let resources = posted.iter().flat_map(|one| &one.message.resource_spans);
        for resource in resources.filter_map(|of| of.resource.as_ref()) {
            let named = attributes(&resource.attributes);
            assert_eq!(named["service.name"], "tokenward");
            assert!(!named.contains_key("canary"), "{named:?}");
        }
        assert!(posted.iter().all(|one| one.headers.get("x-canary").is_none()));
        assert!(posted.iter().all(|one| one.headers.get("content-encoding").is_none()));
    });
    other.posted(|posted| assert!(posted.is_empty()));
}

#[tokio::test]
async fn renewals_that_nobody_asked_for_are_traces_of_their_own() {
    let (collector, life) = (Collector::start().await, Duration::from_secs(3600));
    let mut plan = Plan::default().token_life(life).sections(&collector.section("sample_ratio = 1"));
    plan.files.push(("sweep", String::new()));
    let world = plan.start().await;
    world.connect("used", ALICE).await;
    world.access_token("used").await;
    world.entra.clear_ledger();
    world.pass(life - Duration::from_secs(300));
    world.until_called("refresh_token", 1).await;
    let spans = collector.until("the refresh", |spans| spans.iter().any(|span| span.name == "refresh")).await;
    let refresh = one(&spans, "refresh");
    assert!(refresh.parent_span_id.is_empty(), "nobody asked");
    let own: Vec<Span> = spans.iter().filter(|span| span.trace_id == refresh.trace_id).cloned().collect();
    assert_eq!(parent(one(&own, "POST")), id(refresh));
    assert!(own.iter().all(|span| span.kind != SERVER));
}

/// Prometheus itself, and the reader of its Python client.
#[tokio::test]
async fn exemplars_lead_from_a_histogram_to_a_trace() {
    let collector = Collector::start().await;
    let world = Plan::default().sections(&collector.section("sample_ratio = 0")).start().await;
    world.connect("one", ALICE).await;
    world.outlive_tokens();
    let metrics = async |accept: &str| {
        let url = format!("{}/metrics", world.daemon.ops);
        request(Method::GET, &url, &[("accept", accept)], "").await.expect("metrics")
    };
    let openmetrics = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    let before = metrics(openmetrics).await.text();
    assert!(!before.contains(" # {"), "no trace was sampled");
    // A request that is not sampled leaves none; then one that is.
    assert_eq!(token_in(&world, OTHER, false, "nobody").await.status, 404);
    assert_eq!(token_in(&world, TRACE, true, "one").await.status, 200);
    let answer = metrics(openmetrics).await;
    assert_eq!(answer.headers["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let page = answer.text();
    assert!(page.ends_with("# EOF\n") && !page.contains(OTHER));
    for family in [
        "tokenward_token_request_duration_seconds",
        "tokenward_refresh_duration_seconds",
        "tokenward_authority_request_duration_seconds",
        "tokenward_store_operation_duration_seconds",
    ] {
        let exemplar = format!(" # {{trace_id=\"{TRACE}\"}} ");
        let is_one =
            |line: &&str| line.starts_with(&format!("{family}_bucket{{")) && line.contains(&exemplar);
        assert!(page.lines().any(|line| is_one(&line)), "{family} in\n{page}");
    }
    let classic = metrics("text/plain").await;
    assert_eq!(classic.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert!(!classic.text().contains(TRACE) && !classic.text().contains("# EOF"));

    let read = read_by("openmetrics", page.as_bytes());
    assert!(read["families"].as_u64().expect("a number") > 30, "{read}");
    let exemplars = read["exemplars"].as_array().expect("a list");
    assert!(exemplars.len() >= 4 && exemplars.iter().all(|one| one["trace_id"] == TRACE), "{read}");
    assert_eq!(read["counters"]["tokenward_token_requests"], 2.0, "{read}");

    // Prometheus scrapes both forms, and keeps the exemplar.
    let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
    let target = world.daemon.ops.trim_start_matches("http://");
    let config = format!(
        "global: {{ scrape_interval: 200ms }}\nscrape_configs: [{{ job_name: tokenward, static_configs: \
         [{{ targets: [\"{target}\"] }}] }}]\n"
    );
    std::fs::write(folder.path().join("prometheus.yml"), config).expect("written");
    let _prometheus = Killed(
        command("prometheus")
            .arg(format!("--config.file={}", folder.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--enable-feature=exemplar-storage")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus is installed by `make tools`"),
    );
    let query = format!(
        "http://127.0.0.1:{port}/api/v1/query_exemplars?query=tokenward_token_request_duration_seconds_bucket\
         &start=2000000&end=99000000000"
    );
    world
        .until("the exemplar in Prometheus", async || {
            let answer = request(Method::GET, &query, &[], "").await;
            answer.is_ok_and(|answer| answer.text().contains(&format!("\"trace_id\":\"{TRACE}\"")))
        })
        .await;
}

/// What the collector gets, read by OpenTelemetry's own definitions for Python.
#[tokio::test]
async fn the_messages_are_what_opentelemetry_s_own_definitions_read() {
    let collector = Collector::start().await;
    let world = Plan::default().sections(&collector.section("sample_ratio = 0")).start().await;
    assert_eq!(token_in(&world, TRACE, true, "nobody").await.status, 404);
    collector.until_trace(TRACE).await;
    let body = collector.posted(|posted| posted[0].body.clone());
    let read = read_by("otlp", &body);
    assert_eq!(read["unknown"], 0, "{read}");
    assert_eq!(read["scopes"], serde_json::json!([["tokenward", env!("CARGO_PKG_VERSION")]]));
    let spans = read["spans"].as_array().expect("a list");
    let served = spans.iter().find(|span| span["kind"] == "SPAN_KIND_SERVER").expect("a server's span");
    assert_eq!((served["trace_id"].as_str(), served["parent"].as_str()), (Some(TRACE), Some(PARENT)));
    assert_eq!(served["name"], format!("GET {ROUTE}"));
}

/// What `tests/interop/telemetry/read.py` makes of bytes.
fn read_by(format: &str, bytes: &[u8]) -> Value {
    let mut reader = command(installed("telemetry/bin/python", "tools"))
        .arg(repository().join("tests/interop/telemetry/read.py"))
        .arg(format)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python starts");
    std::io::Write::write_all(&mut reader.stdin.take().expect("piped"), bytes).expect("written");
    let read = reader.wait_with_output().expect("it ends");
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    serde_json::from_slice(&read.stdout).expect("JSON")
}

/// A process that ends with the test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
