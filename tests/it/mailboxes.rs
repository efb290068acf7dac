//! Mailboxes that are never asked for more than they take: turns over callers and replicas, waits and refusals.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Response};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokenward::callers::key_file;
use tokenward::domain::id::CallerName;
use tokenward::domain::time::Clock as _;
use tokenward::system::{SystemClock, SystemRandom};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::attacks_rights::pause;
use crate::http_client::{Answer, request};
use crate::relay::{audit, plan_with};
use crate::world::{ALICE, BOB, Kept, Plan, Process, World, text};

/// A Graph whose requests take as long as it is told, and that knows how many are at each mailbox.
#[derive(Clone, Default)]
struct Graph(Arc<GraphState>);

#[derive(Default)]
struct GraphState {
    url: Mutex<String>,
    /// Requests under way, and the most there ever were, by mailbox.
    at: Mutex<BTreeMap<String, (usize, usize)>>,
    seen: AtomicUsize,
    /// How long a request takes; `None` for as long as it is held.
    takes: Mutex<Option<Duration>>,
    /// A permit for each request that may end.
    ends: Mutex<Option<Arc<Semaphore>>>,
    /// `Retry-After` of the next answer, which is then a 429.
    throttles: Mutex<Option<u64>>,
    /// Status and body of the next answer.
    next: Mutex<Option<(u16, String)>>,
}

/// A request under way.
struct Under(Graph, String);

impl Drop for Under {
    fn drop(&mut self) {
        self.0.0.at.lock().get_mut(&self.1).expect("it came").0 -= 1;
    }
}

impl Graph {
    async fn start() -> Self {
        let graph = Graph::default();
        *graph.0.ends.lock() = Some(Arc::new(Semaphore::new(0)));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        *graph.0.url.lock() = format!("http://{}", listener.local_addr().expect("an address"));
        let served = graph.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let graph = served.clone();
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let graph = graph.clone();
                    async move { Ok::<_, Infallible>(graph.answer(request.uri().path()).await) }
                });
                let io = TokioIo::new(stream);
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
            }
        });
        graph
    }

    async fn answer(&self, path: &str) -> Response<Full<Bytes>> {
        let mailbox = path.split('/').nth(3).unwrap_or_default().to_owned();
        {
            let mut at = self.0.at.lock();
            let (now, most) = at.entry(mailbox.clone()).or_default();
            *now += 1;
            *most = (*most).max(*now);
        }
        let _under = Under(self.clone(), mailbox);
        self.0.seen.fetch_add(1, Ordering::Relaxed);
        let takes = *self.0.takes.lock();
        match takes {
            Some(takes) => tokio::time::sleep(takes).await,
            None => {
                let ends = self.0.ends.lock().clone().expect("it was made");
                ends.acquire().await.expect("it is open").forget();
            }
        }
        let throttles = self.0.throttles.lock().take();
        let mut response = Response::new(Full::from("{\"value\":[]}"));
        response.headers_mut().insert("content-type", "application/json".parse().expect("a value"));
        let next = self.0.next.lock().take();
        if let Some((status, body)) = next {
            *response.status_mut() = http::StatusCode::from_u16(status).expect("a status");
            *response.body_mut() = Full::from(body);
        }
        if let Some(after) = throttles {
            *response.status_mut() = http::StatusCode::TOO_MANY_REQUESTS;
            response.headers_mut().insert("retry-after", after.into());
        }
        response
    }

    fn url(&self) -> String {
        self.0.url.lock().clone()
    }

    fn seen(&self) -> usize {
        self.0.seen.load(Ordering::Relaxed)
    }

    /// How many requests are at a mailbox now.
    fn at(&self, mailbox: &str) -> usize {
        self.0.at.lock().get(mailbox).map_or(0, |(now, _)| *now)
    }

    fn most(&self) -> usize {
        self.0.at.lock().values().map(|(_, most)| *most).max().unwrap_or(0)
    }

    fn lets_end(&self, many: usize) {
        self.0.ends.lock().as_ref().expect("it was made").add_permits(many);
    }
}

/// How long a request waits for its turn, where it is to wait in vain.
const SHORT: Duration = Duration::from_secs(2);
/// And where it is not to wait at all.
const LONG: Duration = Duration::from_secs(40);

const RULES: &str = "[\"GET graph:/v1.0/users/*\", \"GET graph:/v1.0/me/*\", \"POST graph:/v1.0/$batch\"]";

async fn world(graph: &Graph, kept: Kept, lines: &str, caller_wait: Duration) -> World {
    let plan = plan_with(&graph.url(), lines, RULES)
        .sections(&format!("[limits]\ncaller_wait = \"{}s\"\n", caller_wait.as_secs()));
    let world = Plan { kept, ..plan }.start().await;
    world.connect("user-1", ALICE).await;
    world
}

async fn ask(daemon: &Process, key: &str, path: &str) -> Answer {
    let url = format!("{}/v1/apps/outlook/connections/user-1/relay/graph{path}", daemon.local);
    let bearer = format!("Bearer {key}");
    request(Method::GET, &url, &[("authorization", bearer.as_str())], "").await.expect("an answer")
}

fn retry_after(answer: &Answer) -> Option<&str> {
    answer.headers.get("retry-after").and_then(|value| value.to_str().ok())
}

/// Asks in a task of its own.
fn asks(world: &World, path: &str) -> tokio::task::JoinHandle<Answer> {
    asks_as(world, &world.reader_key, path)
}

/// The same as another caller.
fn asks_as(world: &World, key: &str, path: &str) -> tokio::task::JoinHandle<Answer> {
    let url = format!("{}/v1/apps/outlook/connections/user-1/relay/graph{path}", world.daemon.local);
    let bearer = format!("Bearer {key}");
    tokio::spawn(async move {
        request(Method::GET, &url, &[("authorization", bearer.as_str())], "").await.expect("an answer")
    })
}

/// Waits until so many wait for their turn.
async fn until_waiting(world: &World, many: usize) {
    let waiting = format!("\ntokenward_relay_turns_waiting {many}\n");
    world.until(&format!("{many} wait"), async || world.metrics().await.contains(&waiting)).await;
}

async fn the_fifth_waits(kept: Kept) {
    let graph = Graph::start().await;
    let world = world(&graph, kept, "", LONG).await;
    let path = "/v1.0/users/info@contoso.com/messages";
    let four: Vec<_> = (0..4).map(|_| asks(&world, path)).collect();
    world.until("four are under way", async || graph.at("info@contoso.com") == 4).await;
    let fifth = asks(&world, "/v1.0/users/INFO@contoso.com/events");
    until_waiting(&world, 1).await;
    // Another mailbox is another line.
    let other = asks(&world, "/v1.0/me/messages");
    world.until("the other mailbox is asked", async || graph.at("messages") == 1).await;
    assert_eq!(graph.seen(), 5, "the fifth waits");
    graph.lets_end(1);
    world.until("the fifth has its turn", async || graph.seen() == 6).await;
    graph.lets_end(5);
    for answer in four.into_iter().chain([fifth, other]) {
        assert_eq!(answer.await.expect("no panic").status, 200);
    }
    assert_eq!(graph.most(), 4);
}

#[tokio::test]
async fn the_fifth_request_waits_for_one_of_four_to_end_embedded() {
    the_fifth_waits(Kept::Embedded).await;
}

#[tokio::test]
async fn the_fifth_request_waits_for_one_of_four_to_end_redis() {
    the_fifth_waits(Kept::Redis).await;
}

#[tokio::test]
async fn who_waits_too_long_is_told_and_nothing_is_sent() {
    let graph = Graph::start().await;
    let world = world(&graph, Kept::Embedded, "mailbox_concurrency = 1\n", SHORT).await;
    let path = "/v1.0/users/a/messages";
    let first = asks(&world, path);
    world.until("one is under way", async || graph.at("a") == 1).await;
    let begun = Instant::now();
    let second = ask(&world.daemon, &world.reader_key, path).await;
    assert_eq!((second.status.as_u16(), text(&second.json(), "code")), (429, "mailbox_busy"));
    assert_eq!(retry_after(&second), Some("1"));
    assert!(begun.elapsed() >= SHORT, "it waited: {:?}", begun.elapsed());
    // Its turn comes when nobody waits for it any more, and it is not sent then either.
    until_waiting(&world, 0).await;
    graph.lets_end(2);
    assert_eq!(first.await.expect("no panic").status, 200);
    assert_eq!(ask(&world.daemon, &world.reader_key, path).await.status, 200);
    assert_eq!(graph.seen(), 2, "the first and the last");
    let in_vain = "tokenward_relay_turns_total{app=\"outlook\",outcome=\"mailbox_busy\"} 1";
    assert!(world.metrics().await.contains(in_vain));
}

#[tokio::test]
async fn who_goes_away_while_it_waits_holds_up_nobody() {
    let graph = Graph::start().await;
    let world = world(&graph, Kept::Embedded, "mailbox_concurrency = 1\n", LONG).await;
    let path = "/v1.0/users/a/messages";
    let first = asks(&world, path);
    world.until("one is under way", async || graph.at("a") == 1).await;
    let gone = asks(&world, path);
    until_waiting(&world, 1).await;
    let third = asks(&world, path);
    until_waiting(&world, 2).await;
    gone.abort();
    until_waiting(&world, 1).await;
    graph.lets_end(2);
    assert_eq!(first.await.expect("no panic").status, 200);
    assert_eq!(third.await.expect("no panic").status, 200);
    assert_eq!(graph.seen(), 2, "nothing was sent for who went away");
}

#[tokio::test]
async fn a_batch_takes_a_place_for_each_of_its_requests() {
    let graph = Graph::start().await;
    let others = callers(1);
    let plan = plan_with(&graph.url(), "", RULES).sections(&others.sections);
    let world = plan.sections("[limits]\ncaller_wait = \"40s\"\n").start().await;
    world.connect("user-1", ALICE).await;
    let path = "/v1.0/users/a/messages";
    let two: Vec<_> = (0..2).map(|_| asks_as(&world, &others.keys[0], path)).collect();
    world.until("two are under way", async || graph.at("a") == 2).await;
    let requests: Vec<_> = (0..3)
        .map(|id| serde_json::json!({ "id": id.to_string(), "method": "GET", "url": "/users/a/events" }))
        .collect();
    let url = format!("{}/v1/apps/outlook/connections/user-1/relay/graph/v1.0/$batch", world.daemon.local);
    let (bearer, body) =
        (format!("Bearer {}", world.reader_key), serde_json::json!({ "requests": requests }));
    let batch = tokio::spawn(async move {
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        request(Method::POST, &url, &headers, body.to_string()).await.expect("an answer")
    });
    // Three places are not free, and two are: nobody overtakes it.
    until_waiting(&world, 1).await;
    let later = asks_as(&world, &others.keys[0], path);
    until_waiting(&world, 2).await;
    assert_eq!(graph.seen(), 2);
    graph.lets_end(1);
    // One place of its three was still missing, and the later one has none beside it.
    world.until("the batch is under way", async || graph.seen() == 3).await;
    until_waiting(&world, 1).await;
    assert_eq!(graph.seen(), 3, "all four places are taken");
    graph.lets_end(3);
    for answer in two.into_iter().chain([batch, later]) {
        assert_eq!(answer.await.expect("no panic").status, 200);
    }
}

/// Sends a batch of GETs of the events of these users.
async fn batch(world: &World, users: &[&str]) -> Answer {
    let requests = users.iter().enumerate().map(|(id, user)| {
        let url = format!("/users/{user}/events");
        serde_json::json!({ "id": format!("id-{id}"), "method": "GET", "url": url })
    });
    let body = serde_json::json!({ "requests": requests.collect::<Vec<_>>() });
    let path = "/v1/apps/outlook/connections/user-1/relay/graph/v1.0/$batch";
    world.api_as(&world.reader_key, Method::POST, path, body).await
}

#[tokio::test]
async fn a_throttle_within_a_batch_holds_that_mailbox_alone() {
    let graph = Graph::start().await;
    *graph.0.takes.lock() = Some(Duration::ZERO);
    let world = world(&graph, Kept::Embedded, "", LONG).await;
    let responses = serde_json::json!({ "responses": [
        { "id": "id-1", "status": 429, "headers": { "Retry-After": "60" }, "body": { "error": {} } },
        { "id": "id-0", "status": 200, "headers": { "Retry-After": "60" }, "body": {} },
        { "id": "other", "status": 429, "headers": { "Retry-After": "60" }, "body": {} },
    ]});
    *graph.0.next.lock() = Some((200, responses.to_string()));
    let answer = batch(&world, &["a", "b", "c"]).await;
    assert_eq!((answer.status.as_u16(), answer.json()), (200, responses));
    let one = async |path: &str| ask(&world.daemon, &world.reader_key, path).await;
    let held = one("/v1.0/users/b/messages").await;
    assert_eq!((held.status.as_u16(), text(&held.json(), "code")), (429, "mailbox_busy"), "{}", held.text());
    for user in ["a", "c"] {
        assert_eq!(one(&format!("/v1.0/users/{user}/messages")).await.status, 200, "{user}");
    }
    // A throttle of the whole is one of all of its mailboxes.
    *graph.0.throttles.lock() = Some(60);
    assert_eq!(batch(&world, &["d", "e"]).await.status, 429);
    for user in ["d", "e"] {
        let held = one(&format!("/v1.0/users/{user}/messages")).await;
        assert_eq!((held.status.as_u16(), text(&held.json(), "code")), (429, "mailbox_busy"), "{user}");
    }
}

#[tokio::test]
async fn who_was_paused_while_it_waited_is_not_served() {
    let graph = Graph::start().await;
    let world = world(&graph, Kept::Embedded, "mailbox_concurrency = 1\n", LONG).await;
    let path = "/v1.0/users/a/messages";
    let first = asks(&world, path);
    world.until("one is under way", async || graph.at("a") == 1).await;
    let second = asks(&world, path);
    until_waiting(&world, 1).await;
    // (A token is asked for again after half a second.)
    world.pass(Duration::from_secs(1));
    assert_eq!(pause(&world, "user-1", true).await.status, 200);
    graph.lets_end(2);
    assert_eq!(first.await.expect("no panic").status, 200);
    let second = second.await.expect("no panic");
    assert_eq!((second.status.as_u16(), text(&second.json(), "code")), (409, "connection_paused"));
    assert_eq!(graph.seen(), 1);
}

#[tokio::test]
async fn what_one_account_was_refused_is_not_repeated_with_another_one_s_token() {
    let graph = Graph::start().await;
    let world = world(&graph, Kept::Embedded, "", LONG).await;
    *graph.0.next.lock() = Some((401, "{}".to_owned()));
    let asked = asks(&world, "/v1.0/me/messages");
    world.until("it is under way", async || graph.at("messages") == 1).await;
    // Meanwhile the name is given to somebody else.
    let path = "/v1/apps/outlook/connections/user-1";
    let deleted = world.api(Method::DELETE, path, serde_json::Value::Null).await;
    assert!(deleted.status.is_success(), "{}", deleted.text());
    world.connect("user-1", BOB).await;
    graph.lets_end(2);
    assert_eq!(asked.await.expect("no panic").status, 401);
    assert_eq!(graph.seen(), 1);
}

#[tokio::test]
async fn who_leaves_is_recorded_while_it_waits_and_its_places_are_kept_for_a_while_afterwards() {
    let graph = Graph::start().await;
    let world = world(&graph, Kept::Embedded, "mailbox_concurrency = 1\n", LONG).await;
    let path = "/v1.0/users/a/messages";
    let first = asks(&world, path);
    world.until("one is under way", async || graph.at("a") == 1).await;
    let gone = asks(&world, path);
    until_waiting(&world, 1).await;
    gone.abort();
    let is_recorded = |record: &serde_json::Value| {
        record["action"] == "refused"
            && record["outcome"] == "mailbox_busy"
            && record["reason"] == "caller_gone"
    };
    world.until("it is recorded", async || audit(&world).iter().any(is_recorded)).await;
    // The resource may be at work on what was given up: the next one waits a little longer.
    first.abort();
    world.until("it is given up", async || graph.at("a") == 0).await;
    let next = asks(&world, path);
    until_waiting(&world, 1).await;
    assert_eq!(graph.seen(), 1);
    world.until("the next is under way", async || graph.at("a") == 1).await;
    graph.lets_end(2);
    assert_eq!(next.await.expect("no panic").status, 200);
    let metrics = world.metrics().await;
    for line in [
        "tokenward_relay_turns_total{app=\"outlook\",outcome=\"begun\"} 2",
        "tokenward_relay_turns_total{app=\"outlook\",outcome=\"caller_gone\"} 1",
        "tokenward_relay_turns_total{app=\"outlook\",outcome=\"mailbox_busy\"} 0",
        "tokenward_relay_turns_total{app=\"outlook\",outcome=\"taken_back\"} 0",
        "tokenward_relay_turn_wait_seconds_count{app=\"outlook\"} 3",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

async fn a_throttle_holds_the_mailbox(kept: Kept) {
    let graph = Graph::start().await;
    *graph.0.takes.lock() = Some(Duration::ZERO);
    let world = world(&graph, kept, "", LONG).await;
    let path = "/v1.0/users/a/messages";
    let one = async |path: &str| ask(&world.daemon, &world.reader_key, path).await;
    *graph.0.throttles.lock() = Some(60);
    let throttled = one(path).await;
    assert_eq!((throttled.status.as_u16(), retry_after(&throttled)), (429, Some("60")));
    assert_eq!(throttled.json()["value"], serde_json::json!([]), "the resource's own answer");
    // The next one is told at once, and is not sent; on another replica too.
    let begun = Instant::now();
    let held = one(path).await;
    assert_eq!((held.status.as_u16(), text(&held.json(), "code")), (429, "mailbox_busy"), "{}", held.text());
    assert!(begun.elapsed() < LONG, "told at once: {:?}", begun.elapsed());
    let after: u64 = retry_after(&held).expect("a time").parse().expect("seconds");
    assert!((1..=60).contains(&after), "{after}");
    if kept == Kept::Redis {
        let other = world.replica("other").await;
        let held = ask(&other, &world.reader_key, path).await;
        assert_eq!((held.status.as_u16(), text(&held.json(), "code")), (429, "mailbox_busy"));
    }
    assert_eq!(one("/v1.0/users/b/messages").await.status, 200, "another mailbox");
    // A short one is waited for.
    *graph.0.throttles.lock() = Some(1);
    assert_eq!(one("/v1.0/users/c/messages").await.status, 429);
    assert_eq!(one("/v1.0/users/c/messages").await.status, 200);
    assert_eq!(graph.seen(), 4);
}

#[tokio::test]
async fn a_throttled_mailbox_is_left_alone_embedded() {
    a_throttle_holds_the_mailbox(Kept::Embedded).await;
}

#[tokio::test]
async fn a_throttled_mailbox_is_left_alone_redis() {
    a_throttle_holds_the_mailbox(Kept::Redis).await;
}

/// Many callers.
struct Callers {
    _folder: TempDir,
    sections: String,
    keys: Vec<String>,
}

fn callers(many: usize) -> Callers {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut sections, mut keys) = (String::new(), Vec::new());
    for number in 0..many {
        let name = format!("service-{number}");
        let file = folder.path().join(format!("{name}.keys"));
        let (caller, day) = (CallerName::parse(&name).expect("a name"), Duration::from_secs(86_400));
        let now = SystemClock::new().now();
        let (key, _) = key_file::add(&file, &caller, &SystemRandom::new(), now, day).expect("a key");
        keys.push(key.expose().to_owned());
        sections.push_str(&format!(
            "[callers.{name}]\nauthenticate = [{{ api_keys = \"{}\" }}]\n[[callers.{name}.allow]]\napp = \
             \"outlook\"\nconnections = [\"user-1\"]\nscopes = []\nrelay = {RULES}\n",
            file.display()
        ));
    }
    Callers { _folder: folder, sections, keys }
}

/// So many callers on so many mailboxes over three replicas, of which `kills` are killed one after the other,
/// until each mailbox has had `turns` turns.
async fn shared(many: usize, mailboxes: usize, kills: usize, turns: usize) {
    let graph = Graph::start().await;
    *graph.0.takes.lock() = Some(Duration::from_millis(20));
    let callers = callers(many);
    let plan = plan_with(&graph.url(), "", RULES).sections(&callers.sections);
    let mut world = Plan { kept: Kept::Redis, ..plan }.start().await;
    world.connect("user-1", ALICE).await;
    let mut replicas = Vec::new();
    for name in ["a", "b", "c"] {
        replicas.push(world.replica(name).await);
    }
    world.daemon.kill();
    let addresses = Arc::new(Mutex::new(replicas.iter().map(|one| one.local.clone()).collect::<Vec<_>>()));
    let is_over = Arc::new(AtomicBool::new(false));
    let done: Arc<Vec<AtomicUsize>> = Arc::new((0..many).map(|_| AtomicUsize::new(0)).collect());
    let mut tasks = Vec::new();
    for (number, key) in callers.keys.iter().enumerate() {
        for lane in 0..2 {
            let (addresses, is_over, done) =
                (Arc::clone(&addresses), Arc::clone(&is_over), Arc::clone(&done));
            let (bearer, mailbox) = (format!("Bearer {key}"), number % mailboxes);
            tasks.push(tokio::spawn(async move {
                let mut turn = number + lane;
                while !is_over.load(Ordering::Relaxed) {
                    turn += 1;
                    let address = addresses.lock()[turn % 3].clone();
                    let url = format!(
                        "{address}/v1/apps/outlook/connections/user-1/relay/graph/v1.0/users/box-{mailbox}/messages"
                    );
                    let headers = [("authorization", bearer.as_str())];
                    // (A replica that is killed answers nothing. The next one does.)
                    let Ok(answer) = request(Method::GET, &url, &headers, "").await else {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    };
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    done[number].fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
    }
    let counts = || done.iter().map(|one| one.load(Ordering::Relaxed)).collect::<Vec<_>>();
    for kill in 0..kills {
        let until = turns * mailboxes * (kill + 1) / (kills + 1);
        world.until("turns are had", async || counts().iter().sum::<usize>() >= until).await;
        let at = kill % 3;
        replicas[at].kill();
        let new = world.replica(&format!("again-{kill}")).await;
        addresses.lock()[at] = new.local.clone();
        replicas[at] = new;
    }
    world.until("all turns are had", async || counts().iter().sum::<usize>() >= turns * mailboxes).await;
    is_over.store(true, Ordering::Relaxed);
    let counts = counts();
    for task in tasks {
        task.await.expect("every answer was good");
    }
    assert_eq!(graph.most(), 4, "at once, at one mailbox");
    for mailbox in 0..mailboxes {
        let of = counts.iter().skip(mailbox).step_by(mailboxes);
        let (least, most) = (of.clone().min().expect("some"), of.clone().max().expect("some"));
        assert!(least * 5 >= most * 4, "mailbox {mailbox}: {:?}", of.collect::<Vec<_>>());
    }
    eprintln!("{many} callers, {mailboxes} mailboxes, {kills} kills: {counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_take_turns_over_three_replicas_of_which_one_is_killed() {
    shared(8, 2, 1, 300).await;
}

/// `make mailboxes`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute"]
async fn thirty_two_callers_take_turns_at_eight_mailboxes() {
    shared(32, 8, 6, 1500).await;
}
