use parking_lot::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::suite::{
    self, CountingRandom, FIRST, RealClock, RealTasks, app_name, connection, deadline, delete, key, put,
    signed_in,
};
use super::super::testing::{RedisServer, free_port};
use super::*;
use crate::store::{
    Change, Committed, Deleted, LeaseNonce, LeaseOf, Leases as _, Pending as _, Records as _, Writer,
    keyspace,
};
use std::time::Duration;
use zeroize::Zeroizing;

pub(super) fn store_with(config: RedisConfig) -> RedisStore {
    RedisStore::new(config, RealClock::shared(), Arc::new(CountingRandom::new()), Arc::new(RealTasks))
        .expect("a usable configuration")
}

fn store(server: &RedisServer) -> RedisStore {
    store_with(RedisConfig::new("127.0.0.1", server.port()))
}

pub(super) fn password(text: &str) -> PasswordSource {
    let text = text.to_owned();
    Arc::new(move || Ok(Zeroizing::new(text.clone())))
}

/// Waits until the store serves again, as a readiness probe would.
pub(super) async fn healed(store: &RedisStore) {
    for _ in 0..1800 {
        if store.ping().await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("still not there: {:?}", store.ping().await);
}

/// Waits until a replica follows.
pub(super) async fn replicated(server: &RedisServer) {
    for _ in 0..1800 {
        if server.cli(&["INFO", "replication"]).contains("state=online") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no replica: {}", server.cli(&["INFO", "replication"]));
}

pub(super) fn unavailable<T>(answer: Result<T, StoreError>) -> String {
    match answer {
        Err(StoreError::Unavailable { cause, .. }) => cause,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it should not have worked"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_suite() {
    let server = RedisServer::start();
    let store = Arc::new(store(&server));
    suite::run(Arc::clone(&store) as Arc<dyn Store>).await;
    suite::run_counts(Arc::clone(&store) as Arc<dyn Store>).await;
    let names = server.cli(&["CLIENT", "LIST"]);
    assert_eq!(names.matches("name=tokenward").count(), 1, "one connection for everyone: {names}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_suite_as_a_user_who_may_do_only_what_is_listed() {
    let server = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    let replicaof = format!("127.0.0.1 {}", server.port());
    let _replica = RedisServer::start_with(&["--replicaof", &replicaof]);
    let mut rules = vec![
        "ACL",
        "SETUSER",
        "tokenward",
        "on",
        ">secret",
        "resetchannels",
        "&tokenward:*",
        "~tokenward:*",
        "-@all",
    ];
    let commands: Vec<String> = REDIS_COMMANDS.iter().map(|command| format!("+{command}")).collect();
    rules.extend(commands.iter().map(String::as_str));
    assert_eq!(server.cli(&rules), "OK");
    let mut config = RedisConfig::new("localhost", server.port());
    config.username = Some("tokenward".into());
    config.password = Some(password("secret"));
    config.database = 1;
    config.wait_replicas = 1;
    // A busy machine may take its time here.
    config.wait_timeout = Duration::from_secs(3);
    config.response_timeout = Duration::from_secs(4);
    config.operation_timeout = Duration::from_secs(5);
    replicated(&server).await;
    let store = Arc::new(store_with(config));
    assert_eq!(store.next_change().await, Change::Missed, "a subscription begins with what it missed");
    suite::run(Arc::clone(&store) as Arc<dyn Store>).await;
    suite::run_counts(store).await;
    assert_eq!(server.cli(&["ACL", "LOG"]), "", "nothing was refused");

    // And each of them is needed, but those that a test of this kind does not need.
    let dump = server.cli(&["INFO", "commandstats"]);
    for command in REDIS_COMMANDS {
        assert!(dump.contains(&format!("cmdstat_{command}:")), "{command} is listed and never used: {dump}");
    }
}

/// A Redis that lost everything, or is another one, says nothing that is believed; once adopted by one, it is
/// by all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_store_in_its_place_is_not_believed_until_it_is_adopted() {
    let server = RedisServer::start();
    let folder = tempfile::tempdir().expect("a directory");
    let remembering = |file: &str| {
        let mut config = RedisConfig::new("127.0.0.1", server.port());
        config.identity_file = Some(folder.path().join(file));
        store_with(config)
    };
    let (one, other) = (remembering("one"), remembering("other"));
    let (user, first) = (key("app", "user:1"), connection(1, 1));
    one.commit(&user, None, &first, Writer::SignIn).await.expect("serves");
    assert_eq!(other.load(&user).await.expect("serves").as_ref(), Some(&first));
    server.cli(&["FLUSHALL"]);
    for store in [&one, &other, &remembering("one")] {
        let causes = [
            unavailable(store.load(&user).await),
            unavailable(store.revision(&user).await),
            unavailable(store.delete(&user, FIRST, true, None).await),
            unavailable(store.commit(&user, None, &first, Writer::SignIn).await),
            unavailable(store.list(&user.app, "", None, 10).await),
            unavailable(store.pending("x").await),
            unavailable(store.take_pending("x").await),
            unavailable(store.ping().await),
        ];
        assert!(causes[0].contains("tokenward store adopt"), "{causes:?}");
    }
    // A new process that remembers nothing takes what is there, and that is another store to the others
    // still.
    store(&server).ping().await.expect("serves");
    // (At once: a pause after what failed would be an answer without a look.)
    let Way::One(link) = &other.link else { panic!("it is one server") };
    link.retry();
    let cause = unavailable(other.load(&user).await);
    assert!(cause.contains("tokenward store adopt"), "{cause}");
    one.adopt().await.expect("serves");
    healed(&one).await;
    healed(&other).await;
    for store in [&one, &other, &remembering("other")] {
        assert_eq!(store.load(&user).await.expect("serves"), None);
    }
    assert!(!delete(&one, &user).await, "its absence is believed now");
}

/// What one process does is told to the others, and not to itself; a subscription that broke says that it
/// missed things.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_is_told_to_the_others() {
    let mut server = RedisServer::start();
    let (one, other) = (store(&server), store(&server));
    assert_eq!(other.next_change().await, Change::Missed);
    assert_eq!(one.next_change().await, Change::Missed);
    let user = key("app", "user:1");
    let told = Change::Connection(user.clone());
    let (first, nonce) = (connection(1, 1), LeaseNonce([1; 16]));
    let of = LeaseOf::Connection(&user);
    one.commit(&user, None, &first, Writer::SignIn).await.expect("serves");
    assert_eq!(other.next_change().await, told, "committed");
    one.take_lease(of, nonce, Duration::from_secs(9)).await.expect("serves");
    one.release_lease(of, nonce, true).await.expect("serves");
    assert_eq!(other.next_change().await, told, "given back");
    assert!(delete(&one, &user).await);
    assert_eq!(other.next_change().await, told, "deleted");
    other.commit(&key("app", "another"), None, &first, Writer::SignIn).await.expect("serves");
    assert_eq!(one.next_change().await, Change::Connection(key("app", "another")), "its own are skipped");
    server.restart();
    assert_eq!(other.next_change().await, Change::Missed);
    delete(&one, &key("app", "another")).await;
    assert_eq!(other.next_change().await, Change::Connection(key("app", "another")));
}

#[tokio::test]
async fn passes_the_suite_over_tls_with_an_own_authority_and_a_client_certificate() {
    let server = RedisServer::start_tls();
    let read = |name: &str| std::fs::read(server.file(name)).expect("was made");
    let identity =
        TlsIdentity { certificate_pem: read("client.crt"), key_pem: Zeroizing::new(read("client.key")) };
    let tls = RedisTls { ca_pem: Some(read("ca.crt")), identity: Some(identity) };
    let configure = |host: &str, tls: &RedisTls| {
        let mut config = RedisConfig::new(host, server.port());
        let tls = tls.clone();
        config.tls = Some(Arc::new(move || Ok(tls.clone())));
        config
    };
    suite::run(Arc::new(store_with(configure("localhost", &tls)))).await;
    store_with(configure("127.0.0.1", &tls)).ping().await.expect("the address is in the certificate too");

    let anonymous = RedisTls { identity: None, ..tls.clone() };
    unavailable(store_with(configure("localhost", &anonymous)).ping().await);
    let distrustful = RedisTls { ca_pem: None, ..tls.clone() };
    let prepared = RedisStore::new(
        configure("localhost", &distrustful),
        RealClock::shared(),
        Arc::new(CountingRandom::new()),
        Arc::new(RealTasks),
    );
    match prepared {
        Ok(store) => {
            let cause = unavailable(store.ping().await);
            assert!(cause.contains("TLS") && cause.contains("certificate"), "{cause}");
        }
        Err(error) => assert!(error.to_string().contains("authority to trust"), "{error}"), // a bare machine
    }
    let broken = RedisTls { ca_pem: Some(b"nothing".to_vec()), ..tls };
    let config = configure("localhost", &broken);
    let refused =
        RedisStore::new(config, RealClock::shared(), Arc::new(CountingRandom::new()), Arc::new(RealTasks));
    assert!(unavailable(refused).contains("the CA file holds no certificate"));
}

#[tokio::test]
async fn a_wrong_password_is_named_and_a_right_one_is_taken_without_a_restart() {
    let server = RedisServer::start();
    assert_eq!(server.cli(&["ACL", "SETUSER", "default", ">right"]), "OK");
    assert_eq!(server.cli(&["-a", "right", "ACL", "SETUSER", "default", "resetpass", ">right"]), "OK");
    let cause = unavailable(store(&server).ping().await);
    assert!(cause.contains("asks for a password"), "{cause}");

    let current = Arc::new(Mutex::new("wrong"));
    let source = Arc::clone(&current);
    let mut config = RedisConfig::new("127.0.0.1", server.port());
    config.password = Some(Arc::new(move || Ok(Zeroizing::new((*source.lock()).to_owned()))));
    let store = store_with(config);
    let cause = unavailable(store.ping().await);
    assert!(cause.contains("refused the password of user `default`"), "{cause}");
    assert!(!cause.contains("wrong\""), "{cause}");
    *current.lock() = "right";
    healed(&store).await;

    // A rotation: the new secret counts with the next connection, which a reload may ask for.
    *current.lock() = "next";
    assert_eq!(server.cli(&["-a", "right", "ACL", "SETUSER", "default", "<right", ">next"]), "OK");
    store.ping().await.expect("what is connected stays so");
    store.reconnect();
    store.ping().await.expect("the new secret");
    // What does not work any more harms nobody who knows another that does.
    *current.lock() = "right";
    store.reconnect();
    store.ping().await.expect("the one that was accepted before");
    assert_eq!(server.cli(&["-a", "next", "ACL", "SETUSER", "default", "<next", ">last"]), "OK");
    store.reconnect();
    unavailable(store.ping().await);
}

#[tokio::test]
async fn a_user_who_may_not_is_told_so_and_a_conflict_of_types_is_damage() {
    let server = RedisServer::start();
    let rules =
        ["ACL", "SETUSER", "poor", "on", ">x", "~tokenward:*", "-@all", "+role", "+client|setname", "+get"];
    assert_eq!(server.cli(&rules), "OK");
    let mut config = RedisConfig::new("127.0.0.1", server.port());
    config.username = Some("poor".into());
    config.password = Some(password("x"));
    store(&server).ping().await.expect("the store has its name");
    let poor = store_with(config);
    assert_eq!(poor.load(&key("app", "user")).await.expect("may read"), None);
    let cause = unavailable(poor.take_pending("id-not-for-logs").await);
    assert!(
        cause.contains("user `poor` lacks a right")
            && cause.contains("`+getdel`")
            && !cause.contains("id-not-for-logs"),
        "{cause}"
    );

    let store = store(&server);
    server.cli(&["LPUSH", "tokenward:{app:user}", "x"]);
    assert!(matches!(store.load(&key("app", "user")).await, Err(StoreError::Corrupt { .. })));
    server.cli(&["SET", "tokenward:{app:other}", "xx"]);
    let commit = store.commit(&key("app", "other"), None, &connection(1, 1), Writer::SignIn).await;
    assert!(matches!(commit, Err(StoreError::Corrupt { .. })), "never overwritten");
    assert_eq!(server.cli(&["GET", "tokenward:{app:other}"]), "xx");
}

#[tokio::test]
async fn a_restart_of_redis_is_an_error_at_once_and_heals_by_itself() {
    let mut server = RedisServer::start();
    let store = store(&server);
    let stored = connection(1, 1);
    let user = key("app", "user");
    assert_eq!(store.commit(&user, None, &stored, Writer::SignIn).await.expect("serves"), Committed::Done);
    put(&store, "session", b"x", Duration::from_secs(60)).await.expect("serves");

    server.stop();
    let clock = RealClock::shared();
    let mut quickest = Duration::MAX;
    for _ in 0..20 {
        let start = clock.monotonic();
        unavailable(store.load(&user).await);
        unavailable(store.take_pending("session").await);
        unavailable(store.commit(&user, Some(stored.revision), &connection(2, 2), Writer::SignIn).await);
        unavailable(store.list(&user.app, "", None, 10).await);
        quickest = quickest.min(clock.monotonic() - start);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A busy machine is slow now and then; whoever waited would be slow each time.
    assert!(quickest < Duration::from_secs(1), "nobody waits for what is down: {quickest:?}");
    server.restart();
    healed(&store).await;
    assert_eq!(store.load(&user).await.expect("serves"), Some(stored.clone()));
    assert_eq!(store.take_pending("session").await.expect("serves").as_deref(), Some(&b"x"[..]));
    // The scripts went with the old process.
    let next = connection(2, 2);
    assert_eq!(
        store.commit(&user, Some(stored.revision), &next, Writer::SignIn).await.expect("serves"),
        Committed::Done
    );
}

#[tokio::test]
async fn a_connection_that_is_cut_is_not_even_noticed() {
    let server = RedisServer::start();
    let store = store(&server);
    let mut before = connection(1, 1);
    let user = key("app", "user");
    assert_eq!(store.commit(&user, None, &before, Writer::SignIn).await.expect("serves"), Committed::Done);
    for round in 2..8 {
        server.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        let next = connection(round, u128::from(round));
        let committed =
            store.commit(&user, Some(before.revision), &next, Writer::SignIn).await.expect("tried again");
        assert_eq!(committed, Committed::Done);
        before = next;
    }
}

/// Answers after so many connections have died under it, and says how often it was tried. For a Cluster too.
pub(super) async fn after_deaths(store: &RedisStore, deaths: usize) -> (bool, usize) {
    let tries = Arc::new(AtomicUsize::new(0));
    let record = keyspace::redis_pending("nobody");
    let answered = store.run("testing", keyspace::slot(&record), |mut commands| {
        let (tries, record) = (Arc::clone(&tries), record.clone());
        async move {
            if tries.fetch_add(1, Ordering::SeqCst) < deaths {
                return Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe).into());
            }
            ::redis::cmd("GET").arg(record).query_async::<Option<String>>(&mut commands).await
        }
    });
    let answered = answered.await;
    assert!(
        answered.as_ref().map_or(true, |(_, lost)| *lost == (deaths > 0)),
        "whether an answer was lost is said"
    );
    (answered.is_ok(), tries.load(Ordering::SeqCst))
}

/// As with `ACL LOAD`, which ends every connection until Redis 7.2, twice in the rotation of a password.
#[tokio::test]
async fn an_operation_survives_two_connections_that_die_under_it() {
    let server = RedisServer::start();
    let store = store(&server);
    for (deaths, expected) in [(0, (true, 1)), (1, (true, 2)), (2, (true, 3)), (3, (false, 3))] {
        assert_eq!(after_deaths(&store, deaths).await, expected, "{deaths}");
    }
}

/// Stands between a store and its server, and ends a connection, whole until then, when something about
/// `word` is asked over it: as often as the counter says. The other one counts how often it was asked.
async fn cutting_proxy(server: u16, word: &'static str) -> (u16, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("bound").port();
    let (cuts, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (cutting, counted) = (Arc::clone(&cuts), Arc::clone(&asked));
    let accepts = async move {
        while let Ok((client, _)) = listener.accept().await {
            let (cutting, counted) = (Arc::clone(&cutting), Arc::clone(&counted));
            let serve = async move {
                let upstream = tokio::net::TcpStream::connect(("127.0.0.1", server)).await.expect("serves");
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = upstream.into_split();
                let asks = async {
                    let mut buffer = vec![0; 65536];
                    loop {
                        let read = from_client.read(&mut buffer).await.unwrap_or(0);
                        if buffer[..read].windows(word.len()).any(|seen| seen == word.as_bytes()) {
                            counted.fetch_add(1, Ordering::SeqCst);
                            let spent = |left: usize| left.checked_sub(1);
                            if cutting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, spent).is_ok() {
                                return;
                            }
                        }
                        if read == 0 || to_server.write_all(&buffer[..read]).await.is_err() {
                            return;
                        }
                    }
                };
                tokio::select! {
                    () = asks => {}
                    _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
                }
            };
            RealTasks.spawn("connection", Box::pin(serve));
        }
    };
    RealTasks.spawn("proxy", Box::pin(accepts));
    (port, cuts, asked)
}

/// The same from outside: connections that are made, and end when something is asked.
#[tokio::test]
async fn an_operation_survives_connections_that_are_cut_twice_in_a_row() {
    let server = RedisServer::start();
    let (port, cuts, asked) = cutting_proxy(server.port(), "{app:user}").await;
    let store = store_with(RedisConfig::new("127.0.0.1", port));
    let user = key("app", "user");
    let first = connection(1, 1);
    assert_eq!(store.commit(&user, None, &first, Writer::SignIn).await.expect("serves"), Committed::Done);
    for (cut, answered, tries) in [(0, true, 1), (1, true, 2), (2, true, 3), (3, false, 3)] {
        cuts.store(cut, Ordering::SeqCst);
        asked.store(0, Ordering::SeqCst);
        let loaded = store.load(&user).await;
        assert_eq!(loaded.is_ok(), answered, "{cut}: {loaded:?}");
        assert_eq!((asked.load(Ordering::SeqCst), cuts.load(Ordering::SeqCst)), (tries, 0), "{cut}");
    }
}

#[tokio::test]
async fn a_server_that_is_silent_costs_a_second_and_then_nothing() {
    let server = RedisServer::start();
    let store = store(&server);
    store.ping().await.expect("serves");
    server.pause();
    let clock = RealClock::shared();
    let mut took = Vec::new();
    for _ in 0..40 {
        let start = clock.monotonic();
        unavailable(store.load(&key("app", "user")).await);
        took.push(clock.monotonic() - start);
    }
    // Two find out, and whom a busy machine delays; the others are told.
    took.sort_unstable();
    assert!(took[30] < Duration::from_millis(300), "{took:?}");
    server.resume();
    healed(&store).await;
}

#[tokio::test]
async fn an_unreachable_server_is_tried_by_one_at_a_time() {
    // Takes connections and never says a word.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("bound").port();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    RealTasks.spawn(
        "silence",
        Box::pin(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                held.push(stream);
            }
        }),
    );
    let store = Arc::new(store_with(RedisConfig::new("127.0.0.1", port)));
    let (sender, mut answers) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..50 {
        let (store, sender) = (Arc::clone(&store), sender.clone());
        RealTasks.spawn(
            "ping",
            Box::pin(async move {
                sender.send(store.ping().await).expect("is waited for");
            }),
        );
    }
    drop(sender);
    while let Some(answer) = answers.recv().await {
        unavailable(answer);
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 1, "one attempt for all");
}

#[tokio::test]
async fn a_demoted_master_is_left_and_found_again_when_it_is_promoted() {
    let server = RedisServer::start();
    let store = store(&server);
    let first = connection(1, 1);
    let user = key("app", "user");
    assert_eq!(store.commit(&user, None, &first, Writer::SignIn).await.expect("serves"), Committed::Done);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(server.cli(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]), "OK");
    let next = connection(2, 2);
    let cause = unavailable(store.commit(&user, Some(first.revision), &next, Writer::SignIn).await);
    assert!(cause.contains("replica"), "{cause}");
    unavailable(store.load(&user).await); // a replica may show the past
    unavailable(store.ping().await);
    assert_eq!(server.cli(&["REPLICAOF", "NO", "ONE"]), "OK");
    healed(&store).await;
    assert_eq!(
        store.commit(&user, Some(first.revision), &next, Writer::SignIn).await.expect("serves"),
        Committed::Done
    );
}

#[tokio::test]
async fn a_quiet_demotion_is_noticed_by_a_probe() {
    let server = RedisServer::start();
    let store = store(&server);
    store.ping().await.expect("serves");
    assert_eq!(server.cli(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]), "OK");
    let cause = unavailable(store.ping().await);
    assert!(cause.contains("it is a replica"), "{cause}");
    assert_eq!(server.cli(&["REPLICAOF", "NO", "ONE"]), "OK");
    healed(&store).await;
}

#[tokio::test]
async fn without_replicas_writes_are_refused_and_reads_go_on() {
    let server = RedisServer::start();
    let store = store(&server);
    let user = key("app", "user");
    assert_eq!(
        store.commit(&user, None, &connection(1, 1), Writer::SignIn).await.expect("serves"),
        Committed::Done
    );
    assert_eq!(server.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]), "OK");
    for _ in 0..3 {
        let cause = unavailable(
            store.commit(&user, Some(connection(1, 1).revision), &connection(2, 2), Writer::SignIn).await,
        );
        assert!(cause.contains("too few replicas"), "{cause}");
        assert!(store.load(&user).await.expect("reads").is_some());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(server.cli(&["CONFIG", "SET", "min-replicas-to-write", "0"]), "OK");
    let committed =
        store.commit(&user, Some(connection(1, 1).revision), &connection(2, 2), Writer::SignIn).await;
    assert_eq!(committed.expect("serves"), Committed::Done);
}

#[tokio::test]
async fn what_the_index_names_in_vain_is_skipped_and_taken_out() {
    let server = RedisServer::start();
    let store = store(&server);
    for number in 0..5 {
        let user = key("app", &format!("user-{number}"));
        assert_eq!(
            store.commit(&user, None, &connection(1, 1), Writer::SignIn).await.expect("serves"),
            Committed::Done
        );
    }
    // What processes leave behind that died between one step and the next.
    for stale in ["a", "user-1x", "user-3x", "z"] {
        server.cli(&["ZADD", "tokenward:index:{app}", "0", stale]);
    }
    server.cli(&["DEL", "tokenward:{app:user-2}"]);
    let page = store.list(&app_name("app"), "", None, 2).await.expect("serves");
    let names: Vec<_> = page.connections.iter().map(|(name, _)| name.as_str().to_owned()).collect();
    assert_eq!(names, ["user-0", "user-1"]);
    let page = store.list(&app_name("app"), "", page.next.as_ref(), 2).await.expect("serves");
    let names: Vec<_> = page.connections.iter().map(|(name, _)| name.as_str().to_owned()).collect();
    assert_eq!((names, page.next), (vec!["user-3".to_owned(), "user-4".to_owned()], None));
    let left = server.cli(&["ZRANGE", "tokenward:index:{app}", "0", "-1"]);
    assert_eq!(left, "user-0\nuser-1\nuser-3\nuser-4");

    // A name that went missing comes back with the next commit.
    server.cli(&["ZREM", "tokenward:index:{app}", "user-4"]);
    let user = key("app", "user-4");
    let committed =
        store.commit(&user, Some(connection(1, 1).revision), &connection(2, 2), Writer::SignIn).await;
    assert_eq!(committed.expect("serves"), Committed::Done);
    let page = store.list(&app_name("app"), "user-4", None, 2).await.expect("serves");
    assert_eq!(page.connections.len(), 1);
}

#[tokio::test]
async fn creates_and_deletes_of_one_name_leave_an_index_that_agrees() {
    let server = RedisServer::start();
    let stores = [Arc::new(store(&server)), Arc::new(store(&server)), Arc::new(store(&server))];
    let (sender, mut done) = tokio::sync::mpsc::unbounded_channel();
    for (number, store) in stores.iter().enumerate() {
        let (store, sender) = (Arc::clone(store), sender.clone());
        RealTasks.spawn(
            "churn",
            Box::pin(async move {
                for round in 0..300u64 {
                    let user = key("app", &format!("user-{}", round % 3));
                    if number == 0 {
                        store
                            .delete(&user, signed_in(round, 0).revision.sign_in, true, None)
                            .await
                            .expect("serves");
                    } else {
                        let nonce = u128::from(round) << 8 | number as u128;
                        // Whoever is ahead of the deletes makes it, whoever is behind does not.
                        let made = signed_in(round + 1, nonce);
                        store.commit(&user, None, &made, Writer::SignIn).await.expect("serves");
                    }
                }
                sender.send(()).expect("is waited for");
            }),
        );
    }
    drop(sender);
    while done.recv().await.is_some() {}
    let listed = stores[0].list(&app_name("app"), "", None, 10).await.expect("serves");
    let mut there = 0;
    for number in 0..3 {
        there += usize::from(
            stores[0].load(&key("app", &format!("user-{number}"))).await.expect("serves").is_some(),
        );
    }
    assert_eq!(listed.connections.len(), there);
}

#[tokio::test]
async fn a_closed_store_refuses_and_lets_its_connection_go() {
    let server = RedisServer::start();
    let store = store(&server);
    store.ping().await.expect("serves");
    store.close();
    assert!(unavailable(store.ping().await).contains("closed"));
    for _ in 0..100 {
        if !server.cli(&["CLIENT", "LIST"]).contains("name=tokenward") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the connection is still there");
}

/// Stands between a store and its server, and can lose an answer: what was asked is done, and nobody hears of
/// it.
async fn lossy_proxy(server: u16) -> (u16, Arc<AtomicUsize>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("bound").port();
    let lose = Arc::new(AtomicUsize::new(0));
    let losing = Arc::clone(&lose);
    RealTasks.spawn(
        "proxy",
        Box::pin(async move {
            while let Ok((client, _)) = listener.accept().await {
                let losing = Arc::clone(&losing);
                let serve = async move {
                    let upstream =
                        tokio::net::TcpStream::connect(("127.0.0.1", server)).await.expect("serves");
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_server, mut to_server) = upstream.into_split();
                    let asks = tokio::io::copy(&mut from_client, &mut to_server);
                    let answers = async {
                        let mut buffer = vec![0; 65536];
                        loop {
                            let read = from_server.read(&mut buffer).await.unwrap_or(0);
                            let spent = |left: usize| left.checked_sub(1);
                            let lost = losing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, spent).is_ok();
                            if read == 0 || lost || to_client.write_all(&buffer[..read]).await.is_err() {
                                return;
                            }
                        }
                    };
                    tokio::select! {
                        _ = asks => {}
                        () = answers => {}
                    }
                };
                RealTasks.spawn("connection", Box::pin(serve));
            }
        }),
    );
    (port, lose)
}

#[tokio::test]
async fn an_answer_that_was_lost_is_asked_for_again_and_never_made_up() {
    let server = RedisServer::start();
    let (port, lose) = lossy_proxy(server.port()).await;
    let store = store_with(RedisConfig::new("127.0.0.1", port));
    let user = key("app", "user");
    let (first, second, third) = (connection(1, 1), connection(2, 2), connection(2, 3));
    assert_eq!(store.commit(&user, None, &first, Writer::SignIn).await.expect("serves"), Committed::Done);
    assert_eq!(
        store.commit(&user, Some(first.revision), &first, Writer::SignIn).await.expect("serves"),
        Committed::Done
    );

    lose.store(1, Ordering::SeqCst);
    let committed =
        store.commit(&user, Some(first.revision), &second, Writer::SignIn).await.expect("asked again");
    assert_eq!(committed, Committed::Done);
    assert_eq!(lose.load(Ordering::SeqCst), 0, "one was lost");
    lose.store(1, Ordering::SeqCst);
    let committed =
        store.commit(&user, Some(first.revision), &third, Writer::SignIn).await.expect("asked again");
    assert_eq!(committed, Committed::Conflict);
    assert_eq!(store.load(&user).await.expect("serves"), Some(second));

    // And the connection that is made for asking again dies while it is made.
    lose.store(2, Ordering::SeqCst);
    assert!(store.load(&user).await.expect("asked again").is_some());
    assert_eq!(lose.load(Ordering::SeqCst), 0, "two were lost");

    put(&store, "session", b"a", Duration::from_secs(60)).await.expect("serves");
    let later = deadline(Duration::from_secs(60));
    lose.store(1, Ordering::SeqCst);
    let swapped = store.swap_pending("session", Some(b"a"), b"b", later).await;
    assert!(swapped.expect("asked again"));
    assert_eq!(lose.load(Ordering::SeqCst), 0, "one was lost");
    lose.store(1, Ordering::SeqCst);
    unavailable(store.take_pending("session").await); // taken, but by whom?
    assert_eq!(store.take_pending("session").await.expect("serves"), None);
    lose.store(1, Ordering::SeqCst);
    assert_eq!(store.delete(&user, FIRST, true, None).await.expect("asked again"), Deleted::Gone);
    let left = server.cli(&["KEYS", "*"]);
    let mut left: Vec<&str> = left.split_whitespace().collect();
    left.sort_unstable();
    assert_eq!(left, ["tokenward:floor:{app:user}", "tokenward:identity"]);
}
