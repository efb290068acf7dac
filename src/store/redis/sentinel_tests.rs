use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::suite::{FIRST, RealTasks, connection, key};
use super::super::testing::{RedisServer, RedisTopology, free_port};
use super::tests::{healed, password, replicated, store_with, unavailable};
use super::*;
use crate::store::{Committed, Records as _, StoredConnection, Writer, keyspace};
use std::time::Duration;
use zeroize::Zeroizing;

/// Longer than a failover of [`RedisTopology`] takes on a busy machine.
const FAILOVER: Duration = Duration::from_secs(90);

fn sentinels(topology: &RedisTopology) -> Sentinels {
    let addresses = topology.sentinels.iter().map(|sentinel| ("127.0.0.1".to_owned(), sentinel.port()));
    Sentinels::new(addresses.collect(), RedisTopology::PRIMARY)
}

fn store(topology: &RedisTopology) -> RedisStore {
    store_with(RedisConfig::through(sentinels(topology)))
}

/// Commits until it works, as those do who keep what they could not store.
async fn commit(
    store: &RedisStore,
    name: &str,
    expected: Option<&StoredConnection>,
    next: &StoredConnection,
) {
    let until = store.link.clock().monotonic() + FAILOVER;
    loop {
        let expected = expected.map(|record| record.revision);
        match store.commit(&key("app", name), expected, next, Writer::Operator).await {
            Ok(committed) => return assert_eq!(committed, Committed::Done, "{name}"),
            Err(error) => assert!(store.link.clock().monotonic() < until, "{name}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn loaded(store: &RedisStore, name: &str) -> Option<StoredConnection> {
    store.load(&key("app", name)).await.expect("serves")
}

/// Whether a server has a connection of ours.
fn is_used(server: &RedisServer) -> bool {
    server.cli(&["CLIENT", "LIST"]).contains("name=tokenward")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_is_found_and_found_again_after_it_died_and_the_old_one_is_not_used() {
    let mut topology = RedisTopology::start(2, 3);
    let mut config = RedisConfig::through(sentinels(&topology));
    config.wait_replicas = 1;
    let store = store_with(config);
    let (first, second) = (connection(1, 1), connection(2, 2));
    commit(&store, "user", None, &first).await;
    assert!(is_used(&topology.nodes[0]));
    assert_eq!(store.load(&key("app", "user")).await.expect("serves").as_ref(), Some(&first));

    topology.nodes[0].stop();
    unavailable(store.ping().await);
    commit(&store, "user", Some(&first), &second).await; // so the first was there
    let primary = topology.primary();
    assert_ne!(primary, 0);
    assert!(is_used(&topology.nodes[primary]));

    // Back from the dead it calls itself a master until a sentinel has told it otherwise.
    topology.nodes[0].restart();
    assert!(topology.nodes[0].cli(&["ROLE"]).starts_with("master"), "or this shows nothing");
    for round in 3..8 {
        store.reconnect();
        healed(&store).await;
        assert!(!is_used(&topology.nodes[0]), "round {round}");
        assert_eq!(loaded(&store, "user").await.as_ref(), Some(&second));
    }
    topology.settle();
    assert_eq!(topology.primary(), primary);
    assert!(topology.nodes[0].cli(&["ROLE"]).starts_with("slave"));
    store.ping().await.expect("serves");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_and_one_of_a_frozen_primary_are_followed() {
    let topology = RedisTopology::start(2, 3);
    let store = store(&topology);
    let (first, second, third) = (connection(1, 1), connection(2, 2), connection(3, 3));
    commit(&store, "user", None, &first).await;
    let primary = topology.failover();
    // Until it is told, the old one goes on, and what it takes is lost: the sentinels know first.
    healed(&store).await;
    commit(&store, "user", Some(&first), &second).await;
    assert!(is_used(&topology.nodes[primary]));
    topology.settle();

    topology.nodes[primary].pause();
    commit(&store, "user", Some(&second), &third).await;
    let next = topology.failed_over(primary);
    assert!(is_used(&topology.nodes[next]));
    topology.nodes[primary].resume();
    healed(&store).await;
    assert_eq!(loaded(&store, "user").await, Some(third));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_that_is_down_costs_nothing_and_all_of_them_only_the_next_connection() {
    let mut topology = RedisTopology::start(1, 3);
    topology.sentinels[0].stop();
    let store = store(&topology);
    let clock = store.link.clock();
    let (first, second) = (connection(1, 1), connection(2, 2));
    commit(&store, "user", None, &first).await;
    topology.sentinels[1].pause();
    let mut quickest = Duration::MAX;
    for _ in 0..5 {
        store.reconnect();
        let start = clock.monotonic();
        store.ping().await.expect("the third one knows");
        quickest = quickest.min(clock.monotonic() - start);
    }
    // A busy machine is slow now and then; whoever waited for the silent one would be slow each time.
    assert!(quickest < Duration::from_millis(1000), "{quickest:?}");
    topology.sentinels[1].resume();
    for sentinel in &mut topology.sentinels {
        sentinel.stop();
    }
    for _ in 0..3 {
        store.ping().await.expect("what is connected stays so");
    }
    commit(&store, "user", Some(&first), &second).await;
    store.reconnect();
    let cause = unavailable(store.ping().await);
    assert!(cause.contains("no sentinel names the primary `primary`"), "{cause}");
    topology.sentinels[2].restart();
    healed(&store).await;
    assert_eq!(loaded(&store, "user").await, Some(second));
}

#[tokio::test]
async fn without_replicas_a_write_is_not_acknowledged_and_repeating_it_heals() {
    let server = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    let replicaof = format!("127.0.0.1 {}", server.port());
    let mut replica = RedisServer::start_with(&["--replicaof", &replicaof]);
    replicated(&server).await;
    let mut config = RedisConfig::new("127.0.0.1", server.port());
    config.wait_replicas = 1;
    let store = store_with(config);
    let clock = store.link.clock();
    let (first, second) = (connection(1, 1), connection(2, 2));
    let user = key("app", "user");
    commit(&store, "user", None, &first).await;

    // A replica that is there, and has not got it.
    replica.pause();
    let mut quickest = Duration::MAX;
    for _ in 0..3 {
        let start = clock.monotonic();
        let cause = unavailable(store.commit(&user, Some(first.revision), &second, Writer::Operator).await);
        assert!(cause.contains("written but not on 1 replicas yet"), "{cause}");
        quickest = quickest.min(clock.monotonic() - start);
        // It is there, and reading it is nobody's business but ours.
        assert_eq!(store.load(&user).await.expect("serves"), Some(second.clone()));
        store.reconnect(); // a repetition writes nothing, and has to wait over a new connection too
    }
    assert!(quickest < Duration::from_millis(600), "{quickest:?}");
    replica.resume();
    commit(&store, "user", Some(&first), &second).await;

    // No replica at all.
    replica.stop();
    unavailable(store.delete(&user, FIRST, true, None).await);
    unavailable(store.delete(&user, FIRST, true, None).await);
    replica.restart();
    let until = clock.monotonic() + FAILOVER;
    while let Err(error) = store.delete(&user, FIRST, true, None).await {
        assert!(clock.monotonic() < until, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(replica.cli(&["EXISTS", "tokenward:{app:user}"]), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_wait_for_a_missing_replica_do_not_hold_up_those_who_read() {
    let server = RedisServer::start();
    let mut config = RedisConfig::new("127.0.0.1", server.port());
    config.wait_replicas = 1;
    config.wait_timeout = Duration::from_secs(4);
    config.response_timeout = Duration::from_secs(10);
    config.operation_timeout = Duration::from_secs(20);
    let store = Arc::new(store_with(config));
    store.ping().await.expect("serves");
    let (sender, mut answers) = tokio::sync::mpsc::unbounded_channel();
    for number in 0..50 {
        let (store, sender) = (Arc::clone(&store), sender.clone());
        RealTasks.spawn(
            "commit",
            Box::pin(async move {
                let user = key("app", &format!("user-{number}"));
                let committed = store.commit(&user, None, &connection(1, 1), Writer::Operator).await;
                sender.send(committed).expect("is waited for");
            }),
        );
    }
    drop(sender);
    while !server.cli(&["INFO", "commandstats"]).contains("cmdstat_wait") {
        tokio::task::yield_now().await; // until the first of them waits
    }
    for _ in 0..5 {
        store.load(&key("app", "user-0")).await.expect("serves");
    }
    assert!(answers.is_empty(), "whoever reads is answered while the others still wait");
    while let Some(answer) = answers.recv().await {
        let cause = unavailable(answer);
        assert!(cause.contains("not on 1 replicas"), "{cause}");
    }
}

#[tokio::test]
async fn sentinels_with_a_password_and_over_tls() {
    let server = RedisServer::start_tls();
    let certificates = server.file("").display().to_string();
    let port = server.port();
    let sentinel = RedisServer::start_sentinel(&format!(
        "tls-replication yes\ntls-cert-file {certificates}/server.crt\n\
         tls-key-file {certificates}/server.key\n\
         tls-ca-cert-file {certificates}/ca.crt\nsentinel monitor primary 127.0.0.1 {port} 1\n\
         user tokenward on >secret -@all +sentinel|get-master-addr-by-name +sentinel|master\n\
         tls-port {tls}\n",
        tls = free_port(),
    ));
    let configuration = std::fs::read_to_string(sentinel.file("redis.conf")).expect("was written");
    let tls_port = configuration
        .lines()
        .find_map(|line| line.strip_prefix("tls-port "))
        .and_then(|port| port.trim_matches('"').parse().ok())
        .expect("was written");
    let read = |name: &str| std::fs::read(server.file(name)).expect("was made");
    let identity =
        TlsIdentity { certificate_pem: read("client.crt"), key_pem: Zeroizing::new(read("client.key")) };
    let tls = RedisTls { ca_pem: Some(read("ca.crt")), identity: Some(identity) };
    let configure = |username: Option<&str>, secret: Option<&str>| {
        let mut sentinels = Sentinels::new(vec![("localhost".to_owned(), tls_port)], "primary");
        sentinels.answer_timeout = Duration::from_secs(2);
        sentinels.username = username.map(str::to_owned);
        sentinels.password = secret.map(password);
        let mut config = RedisConfig::through(sentinels);
        let tls = tls.clone();
        config.tls = Some(Arc::new(move || Ok(tls.clone())));
        config.operation_timeout = Duration::from_secs(5);
        config.connect_timeout = Duration::from_secs(2);
        store_with(config)
    };
    let store = configure(Some("tokenward"), Some("secret"));
    store.ping().await.expect("serves");
    store.ping().await.expect("and follows");
    let cause = unavailable(configure(Some("tokenward"), Some("wrong")).ping().await);
    assert!(cause.contains("refused the password of its user `tokenward`"), "{cause}");
}

/// A sentinel that says what it is told to.
#[derive(Clone)]
struct FakeSentinel {
    port: u16,
    /// The primary's port and the failover's number; nothing: it takes connections and is silent.
    says: Arc<Mutex<Option<(u16, u64)>>>,
    /// Others answer before it does.
    is_slow: Arc<AtomicBool>,
}

impl FakeSentinel {
    async fn start(port: u16, epoch: u64) -> Self {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let fake = FakeSentinel {
            port: listener.local_addr().expect("bound").port(),
            says: Arc::new(Mutex::new(Some((port, epoch)))),
            is_slow: Arc::default(),
        };
        let (says, is_slow) = (Arc::clone(&fake.says), Arc::clone(&fake.is_slow));
        let serve = async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (says, is_slow) = (Arc::clone(&says), Arc::clone(&is_slow));
                let converse = async move {
                    let mut asked = String::new();
                    let mut buffer = [0; 1024];
                    loop {
                        let read = client.read(&mut buffer).await.unwrap_or(0);
                        if read == 0 {
                            return;
                        }
                        asked.push_str(std::str::from_utf8(&buffer[..read]).expect("plain"));
                        if is_slow.load(Ordering::SeqCst) {
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                        let Some((port, epoch)) = *says.lock() else { continue };
                        // Both questions end with the name.
                        while let Some((question, rest)) = asked.split_once("$7\r\nprimary\r\n") {
                            let answer = if question.contains("GET-MASTER-ADDR-BY-NAME") {
                                let port = port.to_string();
                                format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.len())
                            } else {
                                let epoch = epoch.to_string();
                                format!("*2\r\n$12\r\nconfig-epoch\r\n${}\r\n{epoch}\r\n", epoch.len())
                            };
                            asked = rest.to_owned();
                            if client.write_all(answer.as_bytes()).await.is_err() {
                                return;
                            }
                        }
                    }
                };
                RealTasks.spawn("conversation", Box::pin(converse));
            }
        };
        RealTasks.spawn("fake sentinel", Box::pin(serve));
        fake
    }

    fn say(&self, said: Option<(u16, u64)>) {
        *self.says.lock() = said;
    }
}

fn told_by(fakes: &[FakeSentinel]) -> RedisStore {
    let addresses = fakes.iter().map(|fake| ("127.0.0.1".to_owned(), fake.port)).collect();
    store_with(RedisConfig::through(Sentinels::new(addresses, "primary")))
}

#[tokio::test]
async fn a_primary_that_was_cut_off_and_still_calls_itself_one_is_left() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let (old_port, new_port) = (old.port(), new.port());
    let mut fakes = Vec::new();
    for _ in 0..3 {
        fakes.push(FakeSentinel::start(old_port, 1).await);
    }
    let store = told_by(&fakes);
    store.ping().await.expect("serves");
    assert!(is_used(&old));
    // A replica of the old one has its name too.
    let name = old.cli(&["GET", keyspace::REDIS_IDENTITY]);
    assert_eq!(new.cli(&["SET", keyspace::REDIS_IDENTITY, &name]), "OK");

    // One that was not cut off together with it is enough, for it knows of a later failover.
    fakes[1].say(None);
    fakes[2].say(Some((new_port, 2)));
    store.ping().await.expect("the other one serves");
    assert!(is_used(&new));
    for _ in 0..200 {
        if !is_used(&old) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!is_used(&old));
    // And then those who know less lead nobody back, connected or not, be they the most and the first to
    // answer.
    fakes[1].say(Some((old_port, 1)));
    fakes[2].is_slow.store(true, Ordering::SeqCst);
    store.ping().await.expect("serves");
    assert!(is_used(&new) && !is_used(&old));
    store.reconnect();
    store.ping().await.expect("serves");
    assert!(!is_used(&old));
    fakes[1].say(None);
    fakes[2].say(None);
    store.ping().await.expect("serves");
    assert!(is_used(&new) && !is_used(&old));
    store.reconnect();
    let cause = unavailable(store.ping().await);
    assert!(cause.contains("know less than was known before"), "{cause}");
    // Unless most of them agree, and nobody knows better: then somebody has set them up anew.
    fakes[1].say(Some((old_port, 1)));
    healed(&store).await;
    assert!(is_used(&old));
}

#[tokio::test]
async fn of_what_the_sentinels_name_the_role_decides() {
    let primary = RedisServer::start();
    let replicaof = format!("127.0.0.1 {}", primary.port());
    let replica = RedisServer::start_with(&["--replicaof", &replicaof]);
    let mut fakes = Vec::new();
    for port in [free_port(), replica.port(), primary.port()] {
        fakes.push(FakeSentinel::start(port, 0).await);
    }
    let store = told_by(&fakes);
    store.ping().await.expect("the third is right");
    assert!(is_used(&primary));
    store.ping().await.expect("who is named as often as others stays");
    fakes[2].say(None);
    store.ping().await.expect("two who disagree change nothing");
}
