use std::sync::OnceLock;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use zeroize::Zeroizing;

use super::*;
use crate::domain::id::AppName;
use crate::domain::notice::{KEPT as NOTICE_KEPT, NoticeKind};
use crate::keyring::{Keyring, SealingKey};
use crate::notices::{Endpoint, Secrets, Target, Wants};
use crate::outbound::{Leads, Outbound, Roots, Settings};
use crate::store::embedded::{EmbeddedConfig, EmbeddedStore};
use crate::store::{Deadline, Pending as _};
use crate::system::TokioTasks;
use crate::testkit::SeededRandom;
use crate::testkit::hand_clock::HandClock;

const FIRST: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const NEXT: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NAME: &str = "product";

/// What was counted as undelivered.
#[derive(Default)]
struct Counts(AtomicU64);

impl DeliveryObserver for Counts {
    fn delivered(&self, _: &str, _: Outcome) {}
    fn undelivered(&self, _: &str, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
    fn backlog(&self, _: &str, _: Option<Backlog>) {}
}

/// Deliveries over a store of their own, with a clock that a test moves.
struct Scene {
    clock: HandClock,
    store: Arc<EmbeddedStore>,
    repository: Arc<Repository>,
    deliveries: Arc<Deliveries>,
    counts: Arc<Counts>,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let clock = HandClock::at(Duration::from_secs(1000));
        let (config, random) =
            (EmbeddedConfig::new(folder.path().join("store")), Arc::new(SeededRandom::new(1)));
        let store = EmbeddedStore::open(&config, Arc::new(clock.clone()), random.as_ref()).expect("opens");
        let born = Timestamp::from_unix_seconds(1);
        let key = SealingKey::new("k1".to_owned(), born, Some(born), Zeroizing::new([7; 32]));
        let keyring = Arc::new(Keyring::new(vec![key], "test").expect("a ring"));
        let store = Arc::new(store);
        let repository = Arc::new(Repository::new(store.clone(), keyring, random));
        let counts = Arc::new(Counts::default());
        let ports = Ports {
            repository: repository.clone(),
            clock: Arc::new(clock.clone()),
            tasks: Arc::new(TokioTasks::new()),
            observer: counts.clone(),
            stop: CancellationToken::new(),
        };
        let feed = Arc::new(Feed::new(repository.clone()));
        let deliveries = Arc::new(Deliveries::new(ports, LeaseNonce([1; 16]), feed));
        Scene { clock, store, repository, deliveries, counts, _folder: folder }
    }

    fn webhook(&self, url: &str, secret: &str) -> Arc<Webhook> {
        self.webhook_of(None, url, secret)
    }

    /// One that wants events of these apps.
    fn webhook_of(&self, apps: Option<&str>, url: &str, secret: &str) -> Arc<Webhook> {
        let settings = Settings {
            host: "127.0.0.1".to_owned(),
            leads: Leads::OwnNetworkToo,
            roots: Roots::System,
            outbound: Arc::new(Outbound::default()),
        };
        let endpoint =
            Endpoint::new(url.to_owned(), settings, Arc::new(self.clock.clone())).expect("allowed");
        let secrets = Secrets::parse(secret.as_bytes()).expect("a secret");
        let since = self.clock.now();
        let apps = apps.map(|app| [AppName::parse(app).expect("a name")].into());
        let wants = Wants { apps, kinds: None };
        Arc::new(Webhook::new(NAME.to_owned(), Some(Target { endpoint, secrets }), wants, since))
    }

    /// Writes a notice that was made so long ago.
    async fn tell(&self, app: &str, age: Duration) {
        let (app, now) = (AppName::parse(app).expect("a name"), self.clock.now());
        let notice = Notice::of_app(&app, NoticeKind::AppRecovered, None, app.as_str(), now.minus(age));
        let (filed, day) = (FiledUnder::app(&app), Duration::from_secs(86_400));
        let (change, notices) = ((None, &1), [notice]);
        let told = self.repository.swap_telling(Kind::AppOutlook, &filed, change, &notices, now, day).await;
        assert!(told.expect("serves"));
    }

    /// Works as the holder of the lease, with the webhooks in force.
    async fn work(&self) {
        self.clock.pass(LEASE_AGAIN);
        assert!(self.deliveries.holds_lease().await.expect("serves"));
        let last = self.repository.notices(0, 1).await.expect("serves").last;
        self.deliveries.work(NAME, last).await.expect("serves");
    }

    fn counted(&self) -> u64 {
        self.counts.0.load(Ordering::Relaxed)
    }
}

/// What a receiver got: for each request its signature and its body.
type Got = Arc<Mutex<Vec<(String, String)>>>;

/// A receiver that does something before it answers 204.
async fn receiver(before: impl Fn() + Send + Sync + 'static) -> (String, Got) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/in", listener.local_addr().expect("an address"));
    let got = Got::default();
    let seen = Arc::clone(&got);
    let receive = async move {
        while let Ok((stream, _)) = listener.accept().await {
            let one = read(stream, &before).await;
            seen.lock().push(one);
        }
    };
    TokioTasks::new().spawn("a receiver", Box::pin(receive));
    (url, got)
}

async fn read(mut stream: TcpStream, before: impl Fn()) -> (String, String) {
    let mut text = String::new();
    loop {
        let mut bytes = [0; 4096];
        let read = stream.read(&mut bytes).await.expect("it sends");
        text.push_str(std::str::from_utf8(&bytes[..read]).expect("text"));
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && body.ends_with("}}")
        {
            let field = head.lines().find_map(|line| line.strip_prefix("webhook-signature: "));
            before();
            let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
            stream.write_all(answer).await.expect("it reads");
            return (field.expect("it is signed").to_owned(), body.to_owned());
        }
        assert!(read > 0, "{text}");
    }
}

#[tokio::test]
async fn what_is_given_up_is_counted_when_that_is_stored_however_the_run_ends() {
    let scene = Scene::new();
    scene.tell("over", NOTICE_KEPT + Duration::from_secs(60)).await;
    scene.tell("fresh", Duration::from_secs(60)).await;
    // While it is delivered to, the lease passes to another replica.
    let clock = scene.clock.clone();
    let (url, _) = receiver(move || clock.pass(LEASE * 2)).await;
    scene.deliveries.replace(vec![scene.webhook(&url, FIRST)]);
    // It has begun long ago.
    let (filed, now, day) = (FiledUnder::webhook(NAME), scene.clock.now(), Duration::from_secs(86_400));
    let begun = Progress::default();
    scene.repository.put_pending(Kind::Webhook, &filed, &begun, now, day).await.expect("serves");
    scene.work().await;
    assert_eq!(scene.counted(), 1);
    scene.work().await;
    assert_eq!(scene.counted(), 1, "once");
}

/// What was set aside for an endpoint is of the webhook as it was then.
#[tokio::test]
async fn what_is_aside_and_not_wanted_any_more_is_dropped_and_not_sent() {
    let scene = Scene::new();
    scene.deliveries.replace(vec![scene.webhook("http://127.0.0.1:1/", FIRST)]);
    scene.work().await; // it begins here
    scene.tell("one", Duration::ZERO).await;
    scene.tell("two", Duration::ZERO).await;
    // (Port 1 takes nothing.)
    for _ in 0..12 {
        scene.clock.pass(Duration::from_secs(301));
        scene.work().await;
    }
    let filed = FiledUnder::webhook(NAME);
    let aside = async || {
        let read = scene.repository.pending::<Progress>(Kind::Webhook, &filed).await;
        read.expect("serves").expect("it is there").value.aside()
    };
    assert!(aside().await > 0);
    let (url, got) = receiver(|| ()).await;
    scene.deliveries.replace(vec![scene.webhook_of(Some("two"), &url, FIRST)]);
    for _ in 0..3 {
        scene.clock.pass(Duration::from_secs(301));
        scene.work().await;
    }
    assert!(got.lock().iter().all(|(_, body)| body.contains("\"two\"")), "{:?}", got.lock());
    assert_eq!(got.lock().len(), 1);
    assert_eq!((aside().await, scene.counted()), (0, 0));
}

#[tokio::test]
async fn a_record_that_cannot_be_read_has_all_that_is_kept_delivered_again() {
    let scene = Scene::new();
    scene.tell("before", Duration::from_secs(60)).await;
    let (filed, now, day) = (FiledUnder::webhook(NAME), scene.clock.now(), Duration::from_secs(86_400));
    let (url, got) = receiver(|| ()).await;
    scene.deliveries.replace(vec![scene.webhook(&url, FIRST)]);
    // What opens is a newer version's, and that one goes on from it.
    let newer = serde_json::json!("no progress of this version");
    scene.repository.put_pending(Kind::Webhook, &filed, &newer, now, day).await.expect("serves");
    scene.deliveries.work(NAME, 1).await.expect_err("it is not this version's");
    let kept = scene.repository.pending::<serde_json::Value>(Kind::Webhook, &filed).await;
    assert_eq!((kept.expect("serves").expect("it is there").value, got.lock().len()), (newer, 0));
    // What does not open is nobody's.
    let until = Deadline::after(now, day);
    scene.store.put_pending("webhook:product", b"rubbish", until).await.expect("serves");
    scene.work().await;
    scene.work().await;
    let bodies: Vec<String> = got.lock().iter().map(|(_, body)| body.clone()).collect();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    let read = scene.repository.pending::<Progress>(Kind::Webhook, &filed).await;
    assert_eq!(read.expect("it is a record again").expect("it is there").value.through, 1);
}

#[tokio::test]
async fn a_reload_reaches_what_is_under_way() {
    for is_removed in [false, true] {
        let scene = Scene::new();
        scene.deliveries.replace(vec![scene.webhook("http://127.0.0.1:1/", FIRST)]);
        scene.work().await; // it begins here
        scene.tell("one", Duration::ZERO).await;
        scene.tell("two", Duration::ZERO).await;
        let (second, at_second) = receiver(|| ()).await;
        let then = if is_removed { Vec::new() } else { vec![scene.webhook(&second, NEXT)] };
        let deliveries = Arc::clone(&scene.deliveries);
        let once = OnceLock::new();
        let (first, at_first) = receiver(move || {
            once.get_or_init(|| deliveries.replace(then.clone()));
        })
        .await;
        scene.deliveries.replace(vec![scene.webhook(&first, FIRST)]);
        scene.work().await;
        assert_eq!(at_first.lock().len(), 1, "removed: {is_removed}");
        let signed: Vec<String> = at_second.lock().iter().map(|(signature, _)| signature.clone()).collect();
        assert_eq!(signed.len(), usize::from(!is_removed));
        assert!(signed.iter().all(|one| one.split(' ').count() == 2), "both sign: {signed:?}");
        // What the removed one was not told waits for its return.
        scene.deliveries.replace(vec![scene.webhook(&second, NEXT)]);
        scene.work().await;
        assert_eq!(at_second.lock().len(), 1, "removed: {is_removed}");
    }
}
