//! Webhooks that come, go and change while the daemon runs, and the certificates that they trust.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Method;
use serde_json::Value;
use tokenward::store::keyspace;

use crate::attacks_rights::{operate, reconfigure};
use crate::notices::{SECRET, backlog, deliveries, is, ok, plan, section, signature, taken};
use crate::pki::{Authority, Leaf, http2_server};
use crate::resource::{Reply, Resource, Seen};
use crate::status::err;
use crate::world::{ALICE, Kept, Plan, World, write_secret};

async fn reload(world: &World) -> Value {
    operate(world, Method::POST, "/admin/v1/reload", Value::Null).await.json()
}

fn write(world: &World, file: &str, content: &str) {
    write_secret(&world.folder.path().join(file), content);
}

async fn has(world: &World, receiver: &Resource, connections: &[&str]) {
    let expected: Vec<_> = connections.iter().map(|connection| is("connected", connection)).collect();
    world.until("it is delivered", async || taken(receiver).len() >= expected.len()).await;
    assert_eq!(taken(receiver), expected);
}

#[tokio::test]
async fn a_webhook_that_is_new_begins_when_it_comes_into_the_configuration() {
    let receiver = Resource::start(|_| ok()).await;
    let world = Plan::default().file("webhook.secret", SECRET).start().await;
    world.connect("before", ALICE).await;
    let begin = "[listen.public]";
    reconfigure(&world, begin, &format!("{}{begin}", section(&receiver.url, ""))).await;
    world.until("it has begun", async || deliveries(&world, "delivered").await == Some(0)).await;
    world.connect("after", ALICE).await;
    has(&world, &receiver, &["after"]).await;
}

/// One that is left out is where it was when it comes back, with what came in between.
#[tokio::test]
async fn a_webhook_that_was_left_out_goes_on_where_it_was() {
    let receiver = Resource::start(|_| ok()).await;
    let world = plan(&receiver.url, "").start().await;
    world.connect("one", ALICE).await;
    has(&world, &receiver, &["one"]).await;
    let (section, nothing) = (section(&receiver.url, ""), "# left out\n");
    reconfigure(&world, &section, nothing).await;
    world.connect("two", ALICE).await;
    reconfigure(&world, nothing, &section).await;
    has(&world, &receiver, &["one", "two"]).await;
}

/// A reload with a wrong file leaves a webhook as it was, unless it leads elsewhere now: nothing is sent there with
/// what is not meant for it.
#[tokio::test]
async fn a_file_that_is_wrong_leaves_a_webhook_as_it_was_unless_it_leads_elsewhere() {
    let (receiver, elsewhere) = (Resource::start(|_| ok()).await, Resource::start(|_| ok()).await);
    let world = plan(&receiver.url, "").start().await;
    world.connect("one", ALICE).await;
    has(&world, &receiver, &["one"]).await;
    write(&world, "webhook.secret", "no secret");
    assert_eq!(reload(&world).await["outcome"], "ok");
    world.daemon.until_logged("a reload leaves it as it was").await;
    world.connect("two", ALICE).await;
    has(&world, &receiver, &["one", "two"]).await;
    let second = &receiver.all()[1];
    assert_eq!(second.header("webhook-signature"), Some(signature(SECRET, second).as_str()));

    reconfigure(&world, &receiver.url, &elsewhere.url).await;
    world.connect("three", ALICE).await;
    write(&world, "webhook.secret", SECRET);
    assert_eq!(reload(&world).await["outcome"], "ok");
    has(&world, &elsewhere, &["three"]).await;
    has(&world, &receiver, &["one", "two"]).await;
}

/// A reload's answer says what is not in force, and why, and so does the command.
#[tokio::test]
async fn a_reload_does_not_call_in_force_what_it_left_as_it_was() {
    let receiver = Resource::start(|_| ok()).await;
    let world = plan(&receiver.url, "").start().await;
    let file = world.folder.path().join("tokenward.toml");
    let right = std::fs::read_to_string(&file).expect("the configuration");
    let with = |more: &str| right.replace("[webhooks.product]\n", &format!("[webhooks.product]\n{more}\n"));
    let quiet = world.asked(&["reload"]);
    assert!(err(&quiet).contains("Read again; no setting differs."), "{}", err(&quiet));
    assert!(!err(&quiet).contains("webhooks.product"), "{}", err(&quiet));

    std::fs::write(&file, with("ca_file = \"missing.pem\"")).expect("written");
    let kept = world.asked(&["reload"]);
    assert_eq!(kept.status.code(), Some(0), "{}", err(&kept));
    for words in ["warning: ", "webhooks.product.ca_file", "Read again; no"] {
        assert!(err(&kept).contains(words), "{words}: {}", err(&kept));
    }
    assert!(!err(&kept).contains("In force"), "{}", err(&kept));
    let answer = reload(&world).await;
    assert!(answer["warnings"][0].is_string(), "{answer}");
    let status = operate(&world, Method::GET, "/admin/v1/status", Value::Null).await.json();
    assert_eq!(status["last_reload"]["warnings"], answer["warnings"], "{status}");

    std::fs::write(&file, &right).expect("written");
    assert_eq!(reload(&world).await["outcome"], "ok");
    write(&world, "webhook.secret", "no secret");
    let wrong = world.asked(&["reload"]);
    for words in ["warning: ", "webhooks.product.secret_file", "but where a warning says otherwise"] {
        assert!(err(&wrong).contains(words), "{words}: {}", err(&wrong));
    }
}

/// A receiver of a private authority is reached with `ca_file`, and one of another is not.
#[tokio::test]
async fn a_receiver_s_certificate_is_that_of_ca_file_s_authority_or_nothing_is_sent() {
    let (right, wrong) = (Authority::root("the receiver's", 48), Authority::root("somebody else's", 48));
    let identity = right.issue(Leaf::new().dns("localhost").for_servers());
    let receiver = Resource::start_with(Some(http2_server(&identity)), |_| ok()).await;
    let plan = plan(&receiver.url, "ca_file = \"hooks.pem\"\n").file("hooks.pem", &wrong.pem());
    let world = plan.start().await;
    world.connect("one", ALICE).await;
    world.until("it is tried", async || deliveries(&world, "unreachable").await >= Some(1)).await;
    world.daemon.until_logged("UnknownIssuer").await;
    assert!(receiver.all().is_empty(), "{:?}", receiver.all().len());

    write(&world, "hooks.pem", &right.pem());
    assert_eq!(reload(&world).await["outcome"], "ok");
    has(&world, &receiver, &["one"]).await;
}

/// What waits for a webhook whose files are wrong grows older where everybody sees it, and goes when they are right.
#[tokio::test]
async fn what_waits_for_a_webhook_with_a_wrong_file_is_seen() {
    let receiver = Resource::start(|_| ok()).await;
    let mut world = plan(&receiver.url, "").start().await;
    world.connect("one", ALICE).await;
    has(&world, &receiver, &["one"]).await;
    write(&world, "webhook.secret", "no secret");
    world.kill_and_restart().await;
    world.connect("two", ALICE).await;
    world.pass(Duration::from_secs(1200));
    world.until("it is older", async || backlog(&world, "age_seconds").await >= 1200.0).await;
    let status = operate(&world, Method::GET, "/admin/v1/status", Value::Null).await.json();
    let webhook = &status["webhooks"][0];
    assert_eq!(webhook["state"], "left_out", "{status}");
    assert!(webhook["oldest_waiting_at"].is_string(), "{status}");
    write(&world, "webhook.secret", SECRET);
    assert_eq!(reload(&world).await["outcome"], "ok");
    has(&world, &receiver, &["one", "two"]).await;
}

/// Whoever has mended a receiver does not wait for the next time: an hour after 410.
#[tokio::test]
async fn a_reload_has_each_webhook_tried_at_once() {
    let is_mended = Arc::new(AtomicBool::new(false));
    let answers = Arc::clone(&is_mended);
    let answer = move |_: &Seen| if answers.load(Ordering::SeqCst) { ok() } else { Reply::json(410, "{}") };
    let receiver = Resource::start(answer).await;
    let world = plan(&receiver.url, "").start().await;
    world.connect("one", ALICE).await;
    world.until("it is tried", async || deliveries(&world, "refused").await == Some(1)).await;
    is_mended.store(true, Ordering::SeqCst);
    assert_eq!(reload(&world).await["outcome"], "ok");
    world.until("it is delivered", async || deliveries(&world, "delivered").await == Some(1)).await;
}

/// How far a webhook is cannot be read, nor the first event: all others are delivered again, and what is new.
#[tokio::test]
async fn what_cannot_be_read_silences_no_webhook() {
    const FIRST: &str = "redis.call('ZREMRANGEBYSCORE', KEYS[1], 1, 1) \
        redis.call('ZADD', KEYS[1], 1, 'rubbish') return 'OK'";
    let receiver = Resource::start(|_| ok()).await;
    let world = plan(&receiver.url, "").kept(Kept::Redis).start().await;
    for connection in ["one", "two"] {
        world.connect(connection, ALICE).await;
    }
    has(&world, &receiver, &["one", "two"]).await;
    let redis = world.redis.as_ref().expect("a Redis");
    let events = keyspace::redis_notices().by_place;
    let place = keyspace::redis_pending("webhook:product");
    assert_eq!(redis.cli(&["EVAL", FIRST, "1", &events]), "OK");
    assert_eq!(redis.cli(&["SET", &place, "rubbish", "EX", "9999999"]), "OK");
    world.connect("three", ALICE).await;
    has(&world, &receiver, &["one", "two", "three"]).await;
    assert_eq!(receiver.all().len(), 4, "the second came again");
    world.connect("four", ALICE).await;
    has(&world, &receiver, &["one", "two", "three", "four"]).await;
    assert_eq!(receiver.all().len(), 5, "the place is known again");
}
