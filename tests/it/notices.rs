//! Events: streams of them and webhooks, from outside.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use entra_emulator::{Endpoint, Fault, FaultRule};
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};
use tokenward::callers::key_file;
use tokenward::domain::id::CallerName;
use tokenward::domain::time::Clock as _;
use tokenward::store::keyspace;
use tokenward::system::{SystemClock, SystemRandom};
use tokio::net::TcpStream;

use crate::attacks_rights::{BOBS_TENANT, TEAM_A, harness, operate, pause, with_harness};
use crate::http_client::Browser;
use crate::resource::{Reply, Resource, Seen};
use crate::watch::{Event, Stream, open_over};
use crate::world::{ALICE, BOB, Kept, PERSONAL, Plan, Process, World, text, write_secret};

pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

async fn try_events(
    daemon: &Process,
    key: &str,
    query: &str,
    last: Option<&str>,
) -> Result<Stream, (StatusCode, HeaderMap, Value)> {
    let address = daemon.local.strip_prefix("http://").expect("an address");
    let bearer = format!("Bearer {key}");
    let mut headers = vec![("authorization", bearer.as_str())];
    headers.extend(last.map(|id| ("last-event-id", id)));
    let connection = TcpStream::connect(address).await.expect("connected");
    open_over(connection, &format!("/v1/events{query}"), &headers).await
}

pub(crate) async fn events(daemon: &Process, key: &str, query: &str) -> Stream {
    try_events(daemon, key, query, None).await.expect("a stream")
}

/// Type and subject of an event; its time is one.
pub(crate) fn said(event: &Event) -> (String, String) {
    assert_eq!(event.name, text(&event.data, "type"), "{event:?}");
    assert!(text(&event.data, "timestamp").ends_with('Z'), "{event:?}");
    assert_eq!(event.id.len(), 32, "{event:?}");
    let data = &event.data["data"];
    assert_eq!(data["app"], "outlook");
    let subject = data["connection"].as_str().or(data["tenant"].as_str()).unwrap_or_default();
    (event.name.clone(), subject.to_owned())
}

pub(crate) fn is(kind: &str, connection: &str) -> (String, String) {
    (format!("connection.{kind}"), connection.to_owned())
}

/// The authority refuses refreshes from now on.
pub(crate) fn refuse(world: &World, aadsts: u32) {
    world.entra.faults().inject(FaultRule::new(Endpoint::Token, Fault::aadsts(aadsts)));
}

pub(crate) async fn delete(world: &World, connection: &str) {
    let path = format!("/v1/apps/outlook/connections/{connection}");
    let deleted = world.api(Method::DELETE, &path, Value::Null).await;
    assert_eq!(deleted.status, 204, "{}", deleted.text());
}

/// Lives a connection's whole life, and returns what is told of it.
async fn live(world: &World, connection: &str) -> Vec<(String, String)> {
    world.connect(connection, ALICE).await;
    world.outlive_tokens();
    // A verdict that an administrator mends, and one that a user would.
    refuse(world, 50105);
    assert_eq!(world.token(connection).await.status, 409);
    // Nothing is told twice.
    assert_eq!(world.token(connection).await.status, 409);
    world.entra.faults().clear();
    world.pass(Duration::from_secs(90));
    world.until_served(connection).await;
    // Signed in again, by the account that it has.
    world.entra.sign_in_as(ALICE);
    let session = world.start_session(json!({ "app": "outlook", "connection": connection })).await;
    world.sign_in(&mut Browser::default(), text(&session, "connect_url")).await;
    assert_eq!(world.session(text(&session, "id")).await["state"], "connected");
    // Pauses are the operator's.
    assert_eq!(pause(world, connection, true).await.status, 200);
    assert_eq!(pause(world, connection, false).await.status, 200);
    world.until_served(connection).await;
    delete(world, connection).await;
    ["connected", "blocked", "recovered", "connected", "deleted"].map(|kind| is(kind, connection)).into()
}

async fn a_connections_life_is_told(kept: Kept) {
    let world = Plan::default().kept(kept).start().await;
    let mut stream = events(&world.daemon, &world.key, "").await;
    let expected = live(&world, "alice").await;
    let mut told = Vec::new();
    for _ in 0..expected.len() {
        told.push(stream.event().await);
    }
    assert_eq!(told.iter().map(said).collect::<Vec<_>>(), expected);
    assert!(stream.retry.is_some());
    assert_eq!(stream.headers["content-type"], "text/event-stream");
    let all: Vec<Value> = told.iter().map(|event| event.data.clone()).collect();
    assert!(!json!(all).to_string().contains("token"), "{all:?}");

    // Whoever comes back goes on behind the last event, by either way.
    for from in 0..told.len() {
        let id = &told[from].id;
        let by_query = try_events(&world.daemon, &world.key, &format!("?after={id}"), None).await;
        let by_header = try_events(&world.daemon, &world.key, "", Some(id)).await;
        for again in [by_query, by_header] {
            let mut again = again.expect("a stream");
            for expected in &told[from + 1..] {
                assert_eq!(&again.event().await, expected);
            }
        }
    }
    // What is not kept is gone, and says what to do.
    for unknown in ["0123456789abcdef0123456789abcdef", "x"] {
        let (status, _, problem) = try_events(&world.daemon, &world.key, &format!("?after={unknown}"), None)
            .await
            .err()
            .expect("410");
        assert_eq!((status.as_u16(), text(&problem, "code")), (410, "events_gone"));
    }
    // A new stream begins now.
    let mut now = events(&world.daemon, &world.key, "").await;
    world.connect("bob", BOB).await;
    assert_eq!(said(&now.event().await), is("connected", "bob"));
    assert_eq!(said(&stream.event().await), is("connected", "bob"));
}

#[tokio::test]
async fn a_connections_life_is_told_embedded() {
    a_connections_life_is_told(Kept::Embedded).await;
}

#[tokio::test]
async fn a_connections_life_is_told_redis() {
    a_connections_life_is_told(Kept::Redis).await;
}

#[tokio::test]
async fn a_caller_hears_of_what_it_may_see_alone() {
    let (world, key) = with_harness(Plan::default(), TEAM_A).await;
    let mut ours = events(&world.daemon, &key, "").await;
    let mut all = events(&world.daemon, &world.key, "").await;
    for connection in ["team-b/1", "team-a/1", "team-b/2", "team-a/2"] {
        world.connect(connection, ALICE).await;
        assert_eq!(said(&all.event().await), is("connected", connection));
    }
    assert_eq!(said(&ours.event().await), is("connected", "team-a/1"));
    assert_eq!(said(&ours.event().await), is("connected", "team-a/2"));
    // The rules of the moment count.
    crate::attacks_rights::reconfigure(&world, "team-a/*", "team-b/*").await;
    world.connect("team-a/3", ALICE).await;
    world.connect("team-b/3", ALICE).await;
    assert_eq!(said(&ours.event().await), is("connected", "team-b/3"));
    // Nobody is nobody.
    let (status, _, problem) = try_events(&world.daemon, "nobody", "", None).await.err().expect("401");
    assert_eq!((status.as_u16(), text(&problem, "code")), (401, "caller_unauthenticated"));
}

/// A rule for a tenant covers the events of its accounts' connections, to their end.
#[tokio::test]
async fn a_rule_for_a_tenant_has_its_connections_heard() {
    let rules = format!("connections = [\"tenant:{BOBS_TENANT}\"]\nscopes = [\"*\"]");
    let (world, key) = with_harness(Plan::default(), &rules).await;
    let mut ours = events(&world.daemon, &key, "").await;
    for (connection, user) in [("alice", ALICE), ("bob", BOB), ("carol", PERSONAL)] {
        world.connect(connection, user).await;
        delete(&world, connection).await;
    }
    world.connect("bob-again", BOB).await;
    for expected in [is("connected", "bob"), is("deleted", "bob"), is("connected", "bob-again")] {
        assert_eq!(said(&ours.event().await), expected);
    }
}

/// Places come without gaps, so the number of events is that of places.
#[tokio::test]
async fn the_last_hundred_thousand_events_are_kept_for_three_days_redis() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, caller) = (folder.path().join("keys"), CallerName::parse("harness").expect("a name"));
    let (now, week) = (SystemClock::new().now(), Duration::from_secs(7 * 86_400));
    let (key, _) = key_file::add(&path, &caller, &SystemRandom::new(), now, week).expect("a key");
    let hashes = std::fs::read_to_string(&path).expect("the key file");
    let plan = Plan::default().kept(Kept::Redis).file("harness.keys", &hashes).sections(&harness(TEAM_A));
    let world = plan.start().await;
    let key = key.expose();
    let mut stream = events(&world.daemon, key, "").await;
    world.connect("team-a/1", ALICE).await;
    let first = stream.event().await.id;
    let behind = async |id: &str| match try_events(&world.daemon, key, &format!("?after={id}"), None).await {
        Ok(_) => "a stream".to_owned(),
        Err((_, _, problem)) => text(&problem, "code").to_owned(),
    };
    assert_eq!(behind(&first).await, "a stream");
    let last = tokenward::store::keyspace::redis_notices().last;
    let redis = world.redis.as_ref().expect("a Redis");
    assert_eq!(redis.cli(&["SET", &last, "99999"]), "OK");
    world.connect("team-a/2", ALICE).await;
    let second = stream.event().await.id;
    assert_eq!(behind(&first).await, "a stream", "there are a hundred thousand");
    world.connect("team-a/3", ALICE).await;
    stream.event().await;
    world.until("the first is forgotten", async || behind(&first).await == "events_gone").await;
    // (So many streams were begun that some more may not be for a moment.)
    world.until("the second is kept", async || behind(&second).await == "a stream").await;
    world.pass(Duration::from_secs(3 * 86_400 - 600));
    assert_eq!(behind(&second).await, "a stream");
    world.pass(Duration::from_secs(2 * 3600));
    world.until("it is over", async || behind(&second).await == "events_gone").await;
}

/// A failover may lose events that streams have told, and give their places to others.
#[tokio::test]
async fn a_stream_that_told_what_the_store_lost_ends_and_its_client_learns_of_it() {
    const LOSE: &str = "local place = redis.call('GET', KEYS[3]) \
        local bytes = redis.call('ZRANGE', KEYS[1], -1, -1)[1] \
        local id = redis.call('ZRANGE', KEYS[2], -1, -1)[1] \
        redis.call('ZREM', KEYS[1], bytes) redis.call('ZREM', KEYS[2], id) \
        redis.call('ZADD', KEYS[1], place, (string.gsub(bytes, id, ARGV[1]))) \
        redis.call('ZADD', KEYS[2], place, ARGV[1]) return 'OK'";
    let world = Plan::default().kept(Kept::Redis).start().await;
    let mut stream = events(&world.daemon, &world.key, "").await;
    world.connect("one", ALICE).await;
    let one = stream.event().await.id;
    world.connect("two", ALICE).await;
    let two = stream.event().await.id;
    let keys = tokenward::store::keyspace::redis_notices();
    let other = "0123456789abcdef0123456789abcdef";
    let redis = world.redis.as_ref().expect("a Redis");
    let lost = redis.cli(&["EVAL", LOSE, "3", &keys.by_place, &keys.places, &keys.last, other]);
    assert_eq!(lost, "OK");
    world.connect("three", ALICE).await;
    assert_eq!(stream.next().await, None, "it goes on behind what it did not tell");
    let (status, _, problem) =
        try_events(&world.daemon, &world.key, "", Some(&two)).await.err().expect("it is lost");
    assert_eq!((status.as_u16(), text(&problem, "code")), (410, "events_gone"));
    let mut again = try_events(&world.daemon, &world.key, "", Some(&one)).await.expect("it is kept");
    assert_eq!(again.event().await.id, other);
    assert_eq!(said(&again.event().await), is("connected", "three"));
}

// === webhooks ===

/// A webhook's section for a receiver on this machine.
pub(crate) fn section(url: &str, lines: &str) -> String {
    format!(
        "[webhooks.product]\nurl = \"{url}/in\"\nsecret_file = \"webhook.secret\"\nallow_private = true\n{lines}"
    )
}

pub(crate) fn plan(url: &str, lines: &str) -> Plan {
    Plan::default().file("webhook.secret", SECRET).sections(&section(url, lines))
}

/// What a receiver took, in order: type and subject. One that came twice is counted once.
pub(crate) fn taken(receiver: &Resource) -> Vec<(String, String)> {
    let mut ids = Vec::new();
    let mut taken = Vec::new();
    for seen in receiver.all() {
        let id = seen.header("webhook-id").expect("an id").to_owned();
        if !ids.contains(&id) {
            let event: Value = serde_json::from_slice(&seen.body).expect("JSON");
            let data = &event["data"];
            let subject = data["connection"].as_str().or(data["tenant"].as_str()).unwrap_or_default();
            taken.push((text(&event, "type").to_owned(), subject.to_owned()));
            ids.push(id);
        }
    }
    taken
}

pub(crate) fn ok() -> Reply {
    Reply::Whole(204, Vec::new(), Bytes::new())
}

/// The signature that a secret gives a request.
pub(crate) fn signature(secret: &str, seen: &Seen) -> String {
    let secrets = tokenward::notices::Secrets::parse(secret.as_bytes()).expect("a secret");
    let seconds = seen.header("webhook-timestamp").expect("a time").parse().expect("a number");
    let body = std::str::from_utf8(&seen.body).expect("text");
    secrets.sign(seen.header("webhook-id").expect("an id"), seconds, body)
}

async fn a_webhook_gets_each_event(kept: Kept) {
    let receiver = Resource::start(|_| ok()).await;
    let world = plan(&receiver.url, "").kept(kept).start().await;
    let expected = live(&world, "alice").await;
    world.until("each event is delivered", async || taken(&receiver).len() == expected.len()).await;
    assert_eq!(taken(&receiver), expected);
    let seen = receiver.all();
    assert_eq!(seen.len(), expected.len(), "each once");
    for one in &seen {
        assert_eq!((one.method.as_str(), one.target.as_str()), ("POST", "/in"));
        assert_eq!(one.header("content-type"), Some("application/json"));
        assert_eq!(one.header("webhook-signature"), Some(signature(SECRET, one).as_str()));
        assert!(one.header("user-agent").expect("one").starts_with("tokenward/"));
        assert!(!one.headers.contains_key("authorization"));
    }
    // Streams and webhooks have the same ids.
    let after = format!("?after={}", seen[0].header("webhook-id").expect("an id"));
    let second = events(&world.daemon, &world.key, &after).await.event().await;
    assert_eq!(Some(second.id.as_str()), seen[1].header("webhook-id"));
    assert_eq!(deliveries(&world, "delivered").await, Some(expected.len()));
}

/// How many requests to the webhook ended so.
pub(crate) async fn deliveries(world: &World, outcome: &str) -> Option<usize> {
    let start = format!("tokenward_webhook_deliveries_total{{outcome=\"{outcome}\",webhook=\"product\"}} ");
    world.metrics().await.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok())
}

#[tokio::test]
async fn a_webhook_gets_each_event_embedded() {
    a_webhook_gets_each_event(Kept::Embedded).await;
}

#[tokio::test]
async fn a_webhook_gets_each_event_redis() {
    a_webhook_gets_each_event(Kept::Redis).await;
}

#[tokio::test]
async fn an_endpoint_that_was_down_for_an_hour_gets_all_of_it_and_nobody_waits_for_it() {
    let receiver = Resource::start(|_| Reply::json(503, "{}")).await;
    let mut world = plan(&receiver.url, "").start().await;
    world.connect("first", ALICE).await;
    world.until("it is tried", async || deliveries(&world, "failed").await >= Some(1)).await;
    // It hangs: a request is under way for fifteen seconds, and all else goes on beside it.
    receiver.answer_with(|_| Reply::Silence);
    let before = receiver.all().len();
    world.pass(Duration::from_secs(10));
    world.until("it is tried again", async || receiver.all().len() > before).await;
    for connection in ["second", "third"] {
        world.connect(connection, ALICE).await;
        assert_eq!(world.token(connection).await.status, 200);
    }
    assert_eq!(deliveries(&world, "delivered").await, Some(0));
    world.until("it is given up", async || deliveries(&world, "unreachable").await >= Some(1)).await;
    // It fails, and the daemon dies.
    receiver.answer_with(|_| Reply::json(500, "{}"));
    world.kill_and_restart().await;
    world.pass(Duration::from_secs(3600));
    receiver.answer_with(|_| ok());
    world.pass(Duration::from_secs(400));
    let expected = ["first", "second", "third"].map(|name| is("connected", name));
    world.until("all are delivered", async || taken(&receiver).len() == expected.len()).await;
    assert_eq!(taken(&receiver), expected);
    world.until("it is counted", async || deliveries(&world, "delivered").await >= Some(3)).await;
}

/// What waits for the webhook, as the metrics have it.
pub(crate) async fn backlog(world: &World, name: &str) -> f64 {
    let start = format!("tokenward_webhook_backlog_{name}{{webhook=\"product\"}} ");
    let metrics = world.metrics().await;
    metrics.lines().find_map(|line| line.strip_prefix(&start)?.parse::<f64>().ok()).expect("a series")
}

#[tokio::test]
async fn what_waits_grows_older_while_a_receiver_that_is_gone_is_left_alone() {
    let receiver = Resource::start(|_| Reply::json(410, "{}")).await;
    let world = plan(&receiver.url, "").start().await;
    world.connect("one", ALICE).await;
    world.until("it is tried", async || deliveries(&world, "refused").await == Some(1)).await;
    world.pass(Duration::from_secs(1200));
    world.until("it is older", async || backlog(&world, "age_seconds").await >= 1200.0).await;
    assert_eq!(backlog(&world, "events").await, 1.0);
    assert_eq!(receiver.all().len(), 1, "it is asked again once an hour");
}

#[tokio::test]
async fn a_replaced_secret_signs_beside_the_one_in_its_place() {
    const NEXT: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let receiver = Resource::start(|_| ok()).await;
    let world = plan(&receiver.url, "").start().await;
    world.connect("one", ALICE).await;
    world.until("it is delivered", async || taken(&receiver).len() == 1).await;
    assert_eq!(
        receiver.all()[0].header("webhook-signature"),
        Some(signature(SECRET, &receiver.all()[0]).as_str())
    );
    let reloaded = async || operate(&world, Method::POST, "/admin/v1/reload", Value::Null).await.json();
    std::fs::write(world.folder.path().join("webhook.secret"), NEXT).expect("written");
    assert_eq!(reloaded().await["outcome"], "ok");
    world.connect("two", ALICE).await;
    world.until("it is delivered", async || taken(&receiver).len() == 2).await;
    let second = &receiver.all()[1];
    let both = format!("{} {}", signature(NEXT, second), signature(SECRET, second));
    assert_eq!(second.header("webhook-signature"), Some(both.as_str()));
    // A day later it is over. (So is the caller's key: an operator makes the change.)
    world.pass(Duration::from_secs(25 * 3600));
    let path = "/admin/v1/apps/outlook/connections/two";
    assert_eq!(operate(&world, Method::DELETE, path, Value::Null).await.status, 204);
    world.until("it is delivered", async || taken(&receiver).len() == 3).await;
    let third = &receiver.all()[2];
    assert_eq!(third.header("webhook-signature"), Some(signature(NEXT, third).as_str()));
    // With what is no secret it stays as it was, in words that do not repeat it.
    let state = async || {
        operate(&world, Method::GET, "/admin/v1/status", Value::Null).await.json()["webhooks"][0].clone()
    };
    std::fs::write(world.folder.path().join("webhook.secret"), "canary").expect("written");
    let said = reloaded().await;
    assert_eq!(said["outcome"], "ok", "{said}");
    assert_eq!(text(&state().await, "state"), "takes", "a reload leaves it as it was");
    world.daemon.until_logged("webhooks.product.secret_file").await;
    assert!(!said.to_string().contains("canary") && !world.daemon.log().contains("canary"));
    let path = "/admin/v1/apps/outlook/connections/one";
    assert_eq!(operate(&world, Method::DELETE, path, Value::Null).await.status, 204);
    std::fs::write(world.folder.path().join("webhook.secret"), NEXT).expect("written");
    assert_eq!(reloaded().await["outcome"], "ok");
    world.until("it is delivered", async || taken(&receiver).len() == 4).await;
    assert_eq!(text(&state().await, "state"), "takes");
    assert!(!world.daemon.log().contains("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"));
}

#[tokio::test]
async fn a_webhook_gets_the_apps_and_types_that_it_names() {
    let receiver = Resource::start(|_| ok()).await;
    let lines = "apps = [\"outlook\"]\nevents = [\"connection.deleted\"]\n";
    let world = plan(&receiver.url, lines).start().await;
    for connection in ["one", "two"] {
        world.connect(connection, ALICE).await;
        delete(&world, connection).await;
    }
    world.until("they are delivered", async || taken(&receiver).len() == 2).await;
    assert_eq!(taken(&receiver), [is("deleted", "one"), is("deleted", "two")]);
}

/// The name is public, and what it leads to is not: nothing reaches it, and no redirect is followed.
#[tokio::test]
async fn a_webhook_reaches_no_address_that_is_not_allowed() {
    let inside = Resource::start(|_| ok()).await;
    let port = inside.url.rsplit_once(':').expect("a port").1;
    let section =
        |url: &str| format!("[webhooks.product]\nurl = \"{url}\"\nsecret_file = \"webhook.secret\"\n");
    let plan = Plan::default().file("webhook.secret", SECRET);
    let world = plan.sections(&section(&format!("https://localhost:{port}/in"))).start().await;
    world.connect("one", ALICE).await;
    world.until("it is tried", async || deliveries(&world, "unreachable").await >= Some(1)).await;
    world.daemon.until_logged("private, local or reserved").await;
    assert!(inside.all().is_empty());

    let inside_too = inside.clone();
    let location = format!("{}/elsewhere", inside.url);
    let outside =
        Resource::start(move |_| Reply::Whole(307, vec![("location", location.clone())], Bytes::new()));
    let outside = outside.await;
    let world = self::plan(&outside.url, "").start().await;
    world.connect("one", ALICE).await;
    world.until("it is tried", async || deliveries(&world, "refused").await >= Some(1)).await;
    assert!(inside_too.all().is_empty(), "no redirect is followed");
    assert!(!outside.all().is_empty());
}

/// Two replicas deliver each event once, and a replica that dies is succeeded.
#[tokio::test]
async fn one_replica_delivers_and_another_takes_over() {
    let receiver = Resource::start(|_| ok()).await;
    let mut world = plan(&receiver.url, "").kept(Kept::Redis).start().await;
    world.connect("one", ALICE).await;
    world.until("it is delivered", async || taken(&receiver).len() == 1).await;
    world.prepare_replica("other");
    let folder = world.folder.path().join("other");
    write_secret(&folder.join("webhook.secret"), SECRET);
    let other = Process::start(&folder).await;
    world.connect("two", ALICE).await;
    world.until("it is delivered", async || taken(&receiver).len() == 2).await;
    let mut stream = events(&other, &world.key, "").await;
    world.connect("three", ALICE).await;
    assert_eq!(said(&stream.event().await), is("connected", "three"));
    world.daemon.kill();
    world.until("the other delivers", async || taken(&receiver).len() == 3).await;
    let mut times = BTreeMap::new();
    for seen in receiver.all() {
        *times.entry(seen.header("webhook-id").expect("an id").to_owned()).or_insert(0) += 1;
    }
    assert_eq!(times.len(), 3);
    assert!(times.values().filter(|times| **times > 1).count() <= 1, "{times:?}");
}

/// A kill between a change and its delivery loses neither.
#[tokio::test]
async fn a_kill_right_after_a_change_loses_no_event() {
    let receiver = Resource::start(|_| ok()).await;
    let mut world = plan(&receiver.url, "").start().await;
    world.connect("first", ALICE).await;
    world.until("the webhook has begun", async || !taken(&receiver).is_empty()).await;
    let mut expected = vec![is("connected", "first")];
    for round in 0..4 {
        let connection = format!("user-{round}");
        world.connect(&connection, ALICE).await;
        expected.push(is("connected", &connection));
        delete(&world, &connection).await;
        expected.push(is("deleted", &connection));
        world.kill_and_restart().await;
    }
    world.until("all are delivered", async || taken(&receiver).len() == expected.len()).await;
    assert_eq!(taken(&receiver), expected);
}

/// An event is never worth a grant: where it cannot be written, the change is made without it.
#[tokio::test]
async fn what_cannot_be_told_is_done_all_the_same() {
    let mut world = Plan::default().kept(Kept::Redis).start().await;
    world.connect("one", ALICE).await;
    let redis = world.redis.as_ref().expect("Redis");
    let (outbox, count) = keyspace::redis_outbox(0);
    assert_eq!(redis.cli(&["SET", &count, "no number"]), "OK");
    redis.cli(&["DEL", &outbox]);
    assert_eq!(redis.cli(&["SET", &outbox, "of another type"]), "OK");
    world.connect("two", ALICE).await;
    world.outlive_tokens();
    for name in ["one", "two"] {
        assert_eq!(world.token(name).await.status, 200, "{name}: its renewal was kept");
    }
    assert_eq!(
        operate(&world, Method::DELETE, "/admin/v1/apps/outlook/connections/one", Value::Null).await.status,
        204
    );
    let lost = "tokenward_record_damage_total{kind=\"unreadable\"} ";
    let metrics = world.metrics().await;
    let count = metrics.lines().find_map(|line| line.strip_prefix(lost)?.trim().parse::<f64>().ok());
    assert!(count >= Some(2.0), "{count:?}: the connection and its end had events");
    world.kill_and_restart().await;
    assert_eq!(world.token("one").await.status, 404);
    assert_eq!(world.token("two").await.status, 200);
}
