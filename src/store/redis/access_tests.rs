//! Passwords and files of TLS that are replaced while everything serves.

use parking_lot::Mutex;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::super::suite::{RealClock, RealTasks, connection, key};
use super::super::testing::{RedisCluster, RedisServer};
use super::tests::{healed, store_with};
use super::*;
use crate::domain::time::Timestamp;
use crate::secret_file::SecretReader;
use crate::store::observed::Risk;
use crate::store::{Change, Committed, Records as _, Writer};
use std::time::Duration;
use zeroize::Zeroizing;

/// A directory with the files of somebody who is on call.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Files(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Whole or not at all, as by `mv`.
    fn swap(&self, name: &str, content: &str) {
        let unfinished = self.path("unfinished");
        write(&unfinished, content);
        fs::rename(unfinished, self.path(name)).expect("is ours");
    }

    fn source(&self, name: &str) -> PasswordSource {
        let (path, reader) = (self.path(name), SecretReader::new(None));
        Arc::new(move || reader.read_text(&path).map_err(|error| error.to_string()))
    }
}

/// In place, as by an editor.
fn write(path: &Path, content: &str) {
    fs::write(path, content).expect("is ours");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("is ours");
}

/// What the observer was told.
#[derive(Default)]
struct Told(Mutex<Vec<(&'static str, bool)>>);

impl StoreObserver for Told {
    fn corrupt(&self, _: &StoreError) {}

    fn risk(&self, _: Risk, _: Option<&str>) {}

    fn operation(&self, _operation: &'static str, _elapsed: Duration, _error: bool) {}

    fn login(&self, secret: &'static str, is_refused: bool, _since: Timestamp) {
        self.0.lock().push((secret, is_refused));
    }
}

const IN_USE: bool = false;
const REFUSED: bool = true;

impl Told {
    fn all(&self) -> Vec<bool> {
        self.0.lock().iter().map(|(_, is_refused)| *is_refused).collect()
    }

    /// Waits until exactly this was said.
    async fn is(&self, expected: &[bool]) {
        eventually(&format!("{expected:?}"), || self.all().len() >= expected.len()).await;
        assert_eq!(self.all(), expected);
    }
}

async fn eventually(what: &str, mut is_there: impl FnMut() -> bool) {
    for _ in 0..800 {
        if is_there() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("waited in vain for {what}");
}

/// Operations that never end, and what came of them.
struct Load {
    failures: Arc<Mutex<Vec<String>>>,
    done: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    ended: tokio::sync::mpsc::UnboundedReceiver<()>,
}

impl Load {
    /// One store commits and loads, and the other one has to hear of each commit.
    fn start(store: &Arc<RedisStore>, listener: &Arc<RedisStore>) -> Self {
        let (ending, ended) = tokio::sync::mpsc::unbounded_channel();
        let load = Load { failures: Arc::default(), done: Arc::default(), stop: Arc::default(), ended };
        let heard: Arc<Mutex<Vec<Change>>> = Arc::default();
        let (hearing, listener) = (Arc::clone(&heard), Arc::clone(listener));
        let listen = async move {
            loop {
                let change = listener.next_change().await;
                hearing.lock().push(change);
            }
        };
        RealTasks.spawn("listen", Box::pin(listen));
        for worker in 0..4 {
            let (store, heard, ending) = (Arc::clone(store), Arc::clone(&heard), ending.clone());
            let (failures, done, stop) =
                (Arc::clone(&load.failures), Arc::clone(&load.done), Arc::clone(&load.stop));
            let work = async move {
                let fail = |what: String| failures.lock().push(what);
                let user = key("app", &format!("worker-{worker}"));
                let mut expected = None;
                let mut generation = 0;
                while !stop.load(Ordering::SeqCst) {
                    generation += 1;
                    let next = connection(generation, generation.into());
                    let from = heard.lock().len();
                    match store.commit(&user, expected, &next, Writer::SignIn).await {
                        Ok(Committed::Done) => expected = Some(next.revision),
                        other => return fail(format!("commit {generation}: {other:?}")),
                    }
                    match store.load(&user).await {
                        Ok(Some(found)) if found == next => {}
                        other => return fail(format!("load {generation}: {other:?}")),
                    }
                    let told = Change::Connection(user.clone());
                    let is_heard = || {
                        let heard = heard.lock();
                        heard[from..].iter().any(|change| *change == told || *change == Change::Missed)
                    };
                    let mut looks = 0;
                    while !is_heard() {
                        looks += 1;
                        if looks > 2000 {
                            return fail(format!("nobody heard of commit {generation}"));
                        }
                        pause().await;
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                }
                drop(ending);
            };
            RealTasks.spawn("work", Box::pin(work));
        }
        load
    }

    /// Waits for so many more to be done by all together.
    async fn goes_on(&self, rounds: usize) {
        let until = self.done.load(Ordering::SeqCst) + rounds;
        let failures = || self.failures.lock().clone();
        eventually("operations", || self.done.load(Ordering::SeqCst) >= until || !failures().is_empty())
            .await;
        assert_eq!(failures(), Vec::<String>::new());
    }

    async fn stop(mut self) {
        self.goes_on(40).await;
        self.stop.store(true, Ordering::SeqCst);
        while self.ended.recv().await.is_some() {}
        assert_eq!(*self.failures.lock(), Vec::<String>::new());
    }
}

async fn pause() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

/// What is ours of the connections to a server: their numbers.
fn connections(server: &RedisServer, kind: &str) -> Vec<String> {
    let list = server.cli(&["CLIENT", "LIST", "TYPE", kind]);
    let ours = list.lines().filter(|line| line.contains("user=tokenward"));
    ours.filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect()
}

/// Everyone has to connect anew, and goes on.
async fn cut(server: &RedisServer, load: &Load) {
    for _ in 0..3 {
        for kind in ["normal", "pubsub"] {
            server.cli(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]);
        }
        load.goes_on(40).await;
    }
}

fn set_user(server: &RedisServer, rules: &[&str]) {
    let mut all = vec!["ACL", "SETUSER", "tokenward"];
    all.extend(rules);
    assert_eq!(server.cli(&all), "OK");
}

fn make_user(server: &RedisServer, password: &str) {
    let mut rules =
        vec!["on".to_owned(), format!(">{password}"), "&tokenward:*".to_owned(), "~tokenward:*".to_owned()];
    rules.extend(REDIS_COMMANDS.iter().chain(REDIS_CLUSTER_COMMANDS).map(|command| format!("+{command}")));
    set_user(server, &rules.iter().map(String::as_str).collect::<Vec<_>>());
}

/// A store that goes by a password file, and another one that hears of what it does.
fn stores(config: &RedisConfig, files: &Files) -> (Arc<RedisStore>, Arc<RedisStore>, Arc<Told>) {
    let told = Arc::new(Told::default());
    let mut config = config.clone();
    config.username = Some("tokenward".into());
    config.password = Some(files.source("password"));
    // A busy machine may take its time here.
    config.response_timeout = Duration::from_secs(4);
    config.connect_timeout = Duration::from_secs(4);
    config.operation_timeout = Duration::from_secs(8);
    let of_own_word = |config: RedisConfig, word| {
        let random = Arc::new(crate::testkit::SeededRandom::new(word));
        Arc::new(RedisStore::new(config, RealClock::shared(), random, Arc::new(RealTasks)).expect("usable"))
    };
    let listener = of_own_word(config.clone(), 1);
    config.observer = Some(Arc::clone(&told) as Arc<dyn StoreObserver>);
    (of_own_word(config, 2), listener, told)
}

fn alone(server: &RedisServer, files: &Files) -> (Arc<RedisStore>, Arc<RedisStore>, Arc<Told>) {
    stores(&RedisConfig::new("127.0.0.1", server.port()), files)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_replaced_without_one_failed_operation() {
    let (server, files) = (RedisServer::start(), Files::new());
    make_user(&server, "one");
    files.swap("password", "one");
    let (store, listener, told) = alone(&server, &files);
    let load = Load::start(&store, &listener);
    told.is(&[IN_USE]).await;
    let (commands, subscribed) = (connections(&server, "normal"), connections(&server, "pubsub"));
    assert_eq!((commands.len(), subscribed.len()), (2, 1));

    set_user(&server, &[">two"]);
    files.swap("password", "two");
    told.is(&[IN_USE, IN_USE]).await;
    assert_eq!(connections(&server, "normal"), commands, "authenticated anew and not made anew");
    // A subscription takes no AUTH: there is another one, and only then the old one goes.
    eventually("another subscription", || {
        let now = connections(&server, "pubsub");
        now.len() == 1 && now != subscribed
    })
    .await;
    set_user(&server, &["<one"]);
    cut(&server, &load).await;
    assert_ne!(connections(&server, "normal"), commands, "or nothing was cut");
    load.stop().await;
    assert_eq!(server.cli(&["ACL", "LOG"]), "", "nothing was refused");
    assert_eq!(told.all(), [IN_USE, IN_USE]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_may_be_written_before_redis_is_told() {
    let (server, files) = (RedisServer::start(), Files::new());
    make_user(&server, "one");
    files.swap("password", "one\n");
    let (store, listener, told) = alone(&server, &files);
    let load = Load::start(&store, &listener);
    told.is(&[IN_USE]).await;
    files.swap("password", "two\n");
    told.is(&[IN_USE, REFUSED]).await;
    // Who connects now needs what was accepted before.
    cut(&server, &load).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(told.all(), [IN_USE, REFUSED], "said once");
    set_user(&server, &[">two"]);
    told.is(&[IN_USE, REFUSED, IN_USE]).await;
    set_user(&server, &["<one"]);
    cut(&server, &load).await;
    load.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_used_is_as_if_it_had_not_been_written_and_the_right_one_counts_at_once() {
    let (server, files) = (RedisServer::start(), Files::new());
    make_user(&server, "one");
    set_user(&server, &[">three", ">four"]);
    // As Kubernetes does it: `password` → `..data/password`, and `..data` → the directory of one version.
    let version = |name: &str, content: &str| {
        fs::create_dir(files.path(name)).expect("is ours");
        write(&files.path(name).join("password"), content);
        symlink(name, files.path("..new")).expect("is ours");
        fs::rename(files.path("..new"), files.path("..data")).expect("is ours");
    };
    version("..1", "one");
    symlink("..data/password", files.path("password")).expect("is ours");
    let (store, listener, told) = alone(&server, &files);
    let load = Load::start(&store, &listener);
    let mut expected = vec![IN_USE];
    told.is(&expected).await;

    version("..2", "two is wrong");
    expected.push(REFUSED);
    told.is(&expected).await;
    cut(&server, &load).await;
    // Whatever is waited for because of the wrong one, the right one is not held up by it.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let clock = RealClock::shared();
    let start = clock.monotonic();
    version("..3", "three");
    expected.push(IN_USE);
    told.is(&expected).await;
    let took = clock.monotonic() - start;
    // The file is looked at each second; a busy machine takes longer.
    assert!(took < Duration::from_secs(10), "{took:?}");

    // Now a file of its own: empty, gone, and half written.
    fs::remove_file(files.path("password")).expect("is ours");
    write(&files.path("password"), "");
    expected.push(REFUSED);
    told.is(&expected).await;
    cut(&server, &load).await;
    fs::remove_file(files.path("password")).expect("is ours");
    cut(&server, &load).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(told.all(), expected, "said once");
    write(&files.path("password"), "fo");
    expected.push(REFUSED);
    told.is(&expected).await;
    write(&files.path("password"), "four");
    expected.push(IN_USE);
    told.is(&expected).await;
    set_user(&server, &["<one", "<three"]);
    cut(&server, &load).await;

    // Taken back to what is in use: nobody has to be asked.
    write(&files.path("password"), "five");
    expected.push(REFUSED);
    told.is(&expected).await;
    write(&files.path("password"), "four");
    expected.push(IN_USE);
    told.is(&expected).await;
    load.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nodes_of_a_cluster_may_be_told_one_after_the_other() {
    let (cluster, files) = (RedisCluster::start(3, 0), Files::new());
    for node in &cluster.nodes {
        make_user(node, "one");
    }
    files.swap("password", "one");
    let nodes = cluster.nodes.iter().map(|node| ("127.0.0.1".to_owned(), node.port())).collect();
    let (store, listener, told) = stores(&RedisConfig::cluster(nodes), &files);
    healed(&store).await; // every slot gets its name first
    let load = Load::start(&store, &listener);
    told.is(&[IN_USE]).await;
    set_user(&cluster.nodes[0], &[">two"]);
    files.swap("password", "two");
    told.is(&[IN_USE, REFUSED]).await;
    for node in &cluster.nodes {
        cut(node, &load).await;
    }
    set_user(&cluster.nodes[1], &[">two"]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(told.all(), [IN_USE, REFUSED], "one node is left");
    set_user(&cluster.nodes[2], &[">two"]);
    told.is(&[IN_USE, REFUSED, IN_USE]).await;
    for node in &cluster.nodes {
        set_user(node, &["<one"]);
        cut(node, &load).await;
    }
    load.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sentinels_password_is_replaced_too() {
    let (server, files) = (RedisServer::start(), Files::new());
    let sentinel = RedisServer::start_sentinel(&format!(
        "sentinel monitor primary 127.0.0.1 {} 1\n\
         user tokenward on >one -@all +sentinel|get-master-addr-by-name +sentinel|master",
        server.port()
    ));
    files.swap("sentinel", "one");
    let mut sentinels = Sentinels::new(vec![("127.0.0.1".to_owned(), sentinel.port())], "primary");
    sentinels.username = Some("tokenward".into());
    sentinels.password = Some(files.source("sentinel"));
    let told = Arc::new(Told::default());
    let mut config = RedisConfig::through(sentinels);
    config.observer = Some(Arc::clone(&told) as Arc<dyn StoreObserver>);
    let store = store_with(config);
    let serves = async || {
        store.reconnect();
        store.ping().await.expect("the sentinel says where");
    };
    serves().await;
    told.is(&[IN_USE]).await;
    files.swap("sentinel", "two");
    for _ in 0..5 {
        serves().await;
    }
    told.is(&[IN_USE, REFUSED]).await;
    set_user(&sentinel, &[">two"]);
    let mut rounds = 0;
    while told.all().len() < 3 {
        rounds += 1;
        assert!(rounds < 100, "{:?}", told.all());
        serves().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    set_user(&sentinel, &["<one"]);
    serves().await;
    assert_eq!(told.all(), [IN_USE, REFUSED, IN_USE]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_files_of_tls_are_replaced_and_what_does_not_fit_is_left_alone() {
    let (server, foreign, files) = (RedisServer::start_tls(), RedisServer::start_tls(), Files::new());
    make_user(&server, "one");
    files.swap("password", "one");
    for name in ["ca.crt", "client.crt", "client.key"] {
        fs::copy(server.file(name), files.path(name)).expect("was made");
    }
    let read = |path: PathBuf| fs::read(path).map_err(|error| error.to_string());
    let of = [files.path("ca.crt"), files.path("client.crt"), files.path("client.key")];
    let mut config = RedisConfig::new("localhost", server.port());
    config.tls = Some(Arc::new(move || {
        let [ca, certificate, key] = of.clone();
        let identity =
            TlsIdentity { certificate_pem: read(certificate)?, key_pem: Zeroizing::new(read(key)?) };
        Ok(RedisTls { ca_pem: Some(read(ca)?), identity: Some(identity) })
    }));
    let (store, listener, told) = stores(&config, &files);
    let load = Load::start(&store, &listener);
    let told_of_tls = || {
        let told = told.0.lock();
        told.iter().filter(|(secret, _)| *secret == "tls").map(|(_, said)| *said).collect::<Vec<_>>()
    };
    let is = async |expected: &[bool]| {
        eventually(&format!("{expected:?}"), || told_of_tls().len() >= expected.len()).await;
        assert_eq!(told_of_tls(), expected);
    };
    is(&[IN_USE]).await;
    let first = connections(&server, "normal");
    assert_eq!(first.len(), 2);

    // The certificate before its key.
    server.issue("next");
    fs::copy(server.file("next.crt"), files.path("client.crt")).expect("was made");
    is(&[IN_USE, REFUSED]).await;
    assert_eq!(connections(&server, "normal"), first);
    cut(&server, &load).await;
    let first = connections(&server, "normal");
    fs::copy(server.file("next.key"), files.path("client.key")).expect("was made");
    is(&[IN_USE, REFUSED, IN_USE]).await;
    eventually("other connections", || {
        let now = connections(&server, "normal");
        now.len() == 2 && !now.iter().any(|one| first.contains(one))
    })
    .await;

    // An authority that is one, and not this server's.
    let second = connections(&server, "normal");
    fs::copy(foreign.file("ca.crt"), files.path("ca.crt")).expect("was made");
    is(&[IN_USE, REFUSED, IN_USE, REFUSED]).await;
    assert_eq!(connections(&server, "normal"), second);
    cut(&server, &load).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    fs::copy(server.file("ca.crt"), files.path("ca.crt")).expect("was made");
    is(&[IN_USE, REFUSED, IN_USE, REFUSED, IN_USE]).await;
    cut(&server, &load).await;

    // A certificate that is one, and that this server does not take: it says so only after the handshake.
    foreign.issue("other");
    for (from, to) in [("other.crt", "client.crt"), ("other.key", "client.key")] {
        fs::copy(foreign.file(from), files.path(to)).expect("was made");
    }
    eventually("a refusal", || told_of_tls().last() == Some(&REFUSED)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    cut(&server, &load).await;
    assert_eq!(told_of_tls().last(), Some(&REFUSED));
    load.stop().await;
}
