use std::sync::atomic::{AtomicBool, Ordering};

use super::super::suite::{self, FIRST, RealClock, RealTasks, app_name, connection, delete, key, put};
use super::super::testing::{RedisCluster, RedisServer, free_port};
use super::tests::{after_deaths, healed, password, store_with, unavailable};
use super::*;
use crate::domain::id::ConnectionKey;
use crate::domain::id::ConnectionName;
use crate::domain::notice::Outlook;
use crate::store::{
    Change, Committed, LeaseAnswer, LeaseNonce, LeaseOf, Leases as _, Notices as _, Pending as _,
    Records as _, StoredConnection, Writer, keyspace,
};
use std::time::Duration;
use zeroize::Zeroizing;

/// Longer than a failover of [`RedisCluster`] takes on a busy machine.
const FAILOVER: Duration = Duration::from_secs(90);

fn config(cluster: &RedisCluster) -> RedisConfig {
    let nodes = cluster.nodes.iter().take(3).map(|node| ("127.0.0.1".to_owned(), node.port()));
    RedisConfig::cluster(nodes.collect())
}

/// For a busy machine.
fn patient(mut config: RedisConfig) -> RedisConfig {
    config.connect_timeout = Duration::from_secs(3);
    config.response_timeout = Duration::from_secs(4);
    config.operation_timeout = Duration::from_secs(8);
    config.wait_timeout = Duration::from_secs(3);
    config
}

/// Does something until it works, as those do who come again.
async fn again<T>(mut attempt: impl AsyncFnMut() -> Result<T, StoreError>) -> T {
    let clock = RealClock::shared();
    let until = clock.monotonic() + FAILOVER;
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => assert!(clock.monotonic() < until, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn numbered(generation: u64) -> StoredConnection {
    connection(generation, generation.into())
}

/// Commits until it works, and that it was there already counts as much.
async fn commit(
    store: &RedisStore,
    key: &ConnectionKey,
    expected: Option<&StoredConnection>,
    next: &StoredConnection,
) {
    let expected = expected.map(|record| record.revision);
    let committed = again(async || store.commit(key, expected, next, Writer::Operator).await).await;
    assert_eq!(committed, Committed::Done, "{key}");
}

/// A connection whose record is at this node.
fn key_at(cluster: &RedisCluster, node: usize) -> ConnectionKey {
    named_at(cluster, "user", node)
}

fn named_at(cluster: &RedisCluster, name: &str, node: usize) -> ConnectionKey {
    (0..)
        .map(|number| key("app", &format!("{name}-{number}")))
        .find(|key| cluster.owner(keyspace::connection_slot(key)) == Some(node))
        .expect("every node has slots")
}

/// On one Cluster, for it takes seconds to make: the suite, the suite as a user with `WAIT`, moved slots,
/// changes that are told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_suite_and_follows_what_is_moved() {
    let cluster = RedisCluster::start(3, 1);
    let store = Arc::new(store_with(patient(config(&cluster))));
    suite::run(Arc::clone(&store) as Arc<dyn Store>).await;
    suite::run_counts(Arc::clone(&store) as Arc<dyn Store>).await;
    for node in &cluster.nodes[..3] {
        let names = node.cli(&["CLIENT", "LIST"]);
        assert_eq!(names.matches("name=tokenward").count(), 1, "one connection for everyone: {names}");
        assert_eq!(node.cli(&["FLUSHALL"]), "OK");
    }
    for node in &cluster.nodes[3..] {
        let names = node.cli(&["CLIENT", "LIST"]);
        assert_eq!(names.matches("name=tokenward").count(), 0, "nobody reads from a replica: {names}");
    }
    drop(store);

    // As a user who may do only what is listed, and every write waits for a replica.
    let mut rules = vec!["ACL", "SETUSER", "tokenward", "on", ">secret", "resetchannels"];
    rules.extend(["&tokenward:*", "~tokenward:*", "-@all"]);
    let commands: Vec<String> =
        REDIS_COMMANDS.iter().chain(REDIS_CLUSTER_COMMANDS).map(|command| format!("+{command}")).collect();
    rules.extend(commands.iter().map(String::as_str));
    for node in &cluster.nodes {
        assert_eq!(node.cli(&rules), "OK");
        assert_eq!(node.cli(&["CONFIG", "RESETSTAT"]), "OK");
    }
    let mut limited = patient(config(&cluster));
    limited.username = Some("tokenward".into());
    limited.password = Some(password("secret"));
    limited.wait_replicas = 1;
    let store = Arc::new(store_with(limited.clone()));
    suite::run(Arc::clone(&store) as Arc<dyn Store>).await;

    // One of its nodes, taken for a single server.
    let named = cluster.owner(keyspace::slot(keyspace::REDIS_IDENTITY)).expect("they agree");
    let single = patient(RedisConfig::new("127.0.0.1", cluster.nodes[(named + 1) % 3].port()));
    let cause = unavailable(store_with(single).ping().await);
    assert!(cause.contains("begin `store.url` with `redis+cluster://`"), "{cause}");

    for (deaths, expected) in [(2, (true, 3)), (3, (false, 3))] {
        assert_eq!(after_deaths(&store, deaths).await, expected, "{deaths}");
    }
    moved(&cluster, &store).await;
    resharded(&cluster, &store).await;
    told(&cluster, &limited).await;

    for node in &cluster.nodes {
        assert_eq!(node.cli(&["ACL", "LOG"]), "", "nothing was refused");
    }
    let dump: String = cluster.nodes.iter().map(|node| node.cli(&["INFO", "commandstats"])).collect();
    for command in REDIS_CLUSTER_COMMANDS {
        assert!(dump.contains(&format!("cmdstat_{command}:")), "{command} is listed and never used: {dump}");
    }
}

/// One slot, step by step.
async fn moved(cluster: &RedisCluster, store: &RedisStore) {
    let user = key_at(cluster, 0);
    let slot = keyspace::connection_slot(&user).to_string();
    let (first, second) = (connection(1, 1), connection(2, 2));
    commit(store, &user, None, &first).await;
    commit(store, &named_at(cluster, "beside", 0), None, &first).await;
    let listed = async |store: &RedisStore| {
        store.list(&user.app, "", None, 10).await.expect("is here or there").connections.len()
    };
    let stale = store_with(patient(config(cluster)));
    assert_eq!(listed(&stale).await, 2);
    let (from, to) = (&cluster.nodes[0], &cluster.nodes[1]);
    assert_eq!(to.cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &cluster.id(0)]), "OK");
    assert_eq!(from.cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &cluster.id(1)]), "OK");
    assert_eq!(store.load(&user).await.expect("is where it was"), Some(first.clone()));

    let port = to.port().to_string();
    let keys = from.cli(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]);
    assert!(keys.lines().count() >= 2, "the record and the store's name: {keys}");
    for key in keys.lines() {
        assert_eq!(from.cli(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]), "OK");
        // One is here and the other there: neither is missed.
        assert_eq!(store.load(&user).await.expect("is here or there"), Some(first.clone()));
        assert_eq!(store.pending(&user.to_string()).await.expect("is believed"), None);
        assert_eq!((listed(store).await, listed(&stale).await), (2, 2));
    }
    // Its keys are not all there: that one has to wait, and nothing is lost by it.
    let mut hasty = config(cluster);
    hasty.operation_timeout = Duration::from_millis(600);
    let hasty = store_with(hasty);
    again(async || hasty.ping().await).await;
    unavailable(hasty.commit(&user, Some(first.revision), &second, Writer::Operator).await);
    let slowly = store.commit(&user, Some(first.revision), &second, Writer::Operator);
    let finish = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        for node in [to, from] {
            assert_eq!(node.cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &cluster.id(1)]), "OK");
        }
    };
    let (committed, ()) = tokio::join!(slowly, finish);
    assert_eq!(committed.expect("waits for it"), Committed::Done);
    assert_eq!(listed(&stale).await, 2);
    for store in [store, &hasty] {
        let loaded = again(async || store.load(&user).await).await;
        assert_eq!(loaded, Some(second.clone()));
    }
    assert!(delete(store, &user).await);
    assert_eq!(store.load(&user).await.expect("is believed"), None);
    cluster.settle();
}

/// Many slots, while they are written to and read from.
async fn resharded(cluster: &RedisCluster, store: &RedisStore) {
    let users: Vec<ConnectionKey> =
        (0..60).map(|number| key("resharded", &format!("user-{number:02}"))).collect();
    for user in &users {
        commit(store, user, None, &connection(1, 1)).await;
    }
    let done = AtomicBool::new(false);
    let work = async {
        let mut round = 1;
        while !done.load(Ordering::SeqCst) || round < 4 {
            for user in &users {
                let (before, next) = (numbered(round), numbered(round + 1));
                commit(store, user, Some(&before), &next).await;
                assert_eq!(again(async || store.load(user).await).await, Some(next));
                let absent = key("resharded", &format!("{}-not", user.connection));
                assert_eq!(again(async || store.load(&absent).await).await, None);
            }
            let page = again(async || store.list(&app_name("resharded"), "", None, 100).await).await;
            assert_eq!(page.connections.len(), users.len());
            round += 1;
        }
        round
    };
    let any = format!("127.0.0.1:{}", cluster.nodes[0].port());
    let (from, to) = (cluster.id(0), cluster.id(2));
    let reshard = async {
        let output = tokio::task::spawn_blocking(move || {
            let mut reshard = std::process::Command::new("redis-cli");
            reshard.args(["--cluster", "reshard", &any, "--cluster-from", &from, "--cluster-to", &to]);
            reshard
                .args(["--cluster-slots", "200", "--cluster-yes"])
                .output()
                .expect("redis-cli is installed")
        });
        let output = output.await.expect("is not stopped");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        done.store(true, Ordering::SeqCst);
    };
    let (round, ()) = tokio::join!(work, reshard);
    cluster.settle();
    again(async || store.ping().await).await;
    let page = store.list(&app_name("resharded"), "", None, 100).await.expect("serves");
    let names: Vec<&ConnectionName> = page.connections.iter().map(|(name, _)| name).collect();
    assert_eq!(names, users.iter().map(|user| &user.connection).collect::<Vec<_>>());
    assert!(page.connections.iter().all(|(_, found)| found.revision.generation == round));
}

/// What one process does anywhere is told to the others; whoever's node is gone listens to another, and says
/// that things were missed.
async fn told(cluster: &RedisCluster, config: &RedisConfig) {
    let of_own_word = |word: u64| {
        let random = Arc::new(crate::testkit::SeededRandom::new(word));
        RedisStore::new(config.clone(), RealClock::shared(), random, Arc::new(RealTasks)).expect("usable")
    };
    let (one, other) = (of_own_word(1), of_own_word(2));
    one.ping().await.expect("serves");
    assert_eq!(other.next_change().await, Change::Missed, "a subscription begins with what it missed");
    for round in 0..3 {
        for node in 0..3 {
            let user = named_at(cluster, &format!("round-{round}"), node);
            commit(&one, &user, None, &connection(1, 1)).await;
            hears(&other, &Change::Connection(user.clone())).await;
            assert!(delete(&one, &user).await);
            hears(&other, &Change::Connection(user)).await;
        }
        for node in &cluster.nodes {
            node.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        }
        hears(&other, &Change::Missed).await;
    }
}

/// What is done again because its answer was late is told again, and that may come late too; nothing else may
/// come before it.
async fn hears(store: &RedisStore, expected: &Change) {
    let heard = async {
        loop {
            match store.next_change().await {
                change if change == *expected => return,
                Change::Connection(_) => {}
                Change::Missed => panic!("missed something, and not {expected:?}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), heard).await.expect("is told");
}

/// The death of a primary takes nothing away that a replica had to have, and it heals without anybody's
/// doing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_dies_or_falls_silent_is_followed_by_its_replica() {
    let mut cluster = RedisCluster::start(3, 1);
    let mut waiting = config(&cluster);
    waiting.wait_replicas = 1;
    let store = Arc::new(store_with(waiting));
    again(async || store.ping().await).await;
    let random = Arc::new(crate::testkit::SeededRandom::new(7));
    let hears = RedisStore::new(config(&cluster), RealClock::shared(), random, Arc::new(RealTasks));
    let hears = hears.expect("usable");
    assert_eq!(hears.next_change().await, Change::Missed);
    let users: Vec<ConnectionKey> = (0..3).map(|node| key_at(&cluster, node)).collect();
    for user in &users {
        commit(&store, user, None, &connection(1, 1)).await;
    }

    let mut generation = 1;
    for kill in [true, false] {
        let slot = keyspace::connection_slot(&users[0]);
        let victim = cluster.owner(slot).expect("they agree");
        // Killed, or frozen, while it is written to.
        let last = generation + 20;
        while generation < last {
            for user in &users {
                commit(&store, user, Some(&numbered(generation)), &numbered(generation + 1)).await;
            }
            generation += 1;
        }
        if kill {
            cluster.nodes[victim].stop();
        } else {
            cluster.nodes[victim].pause();
        }
        unavailable(
            store
                .commit(
                    &users[0],
                    Some(numbered(generation).revision),
                    &numbered(generation + 1),
                    Writer::Operator,
                )
                .await,
        );
        // Who waits for no replica writes on as soon as there is another primary, and finds what was
        // acknowledged.
        let found = again(async || hears.load(&users[0]).await).await.expect("it was acknowledged");
        assert!([generation, generation + 1].contains(&found.revision.generation), "{found:?}");
        commit(&hears, &users[0], Some(&found), &numbered(generation + 2)).await;
        assert_ne!(cluster.owner(slot), Some(victim));

        // The old one comes back as a replica, and nobody reads from it.
        if kill {
            cluster.nodes[victim].restart();
        } else {
            cluster.nodes[victim].resume();
        }
        cluster.settle();
        healed(&store).await;
        assert_ne!(cluster.owner(slot), Some(victim));
        generation += 2;
        let found = again(async || store.load(&users[0]).await).await.expect("it was acknowledged");
        assert_eq!(found, numbered(generation));
        for user in &users[1..] {
            let found = again(async || store.load(user).await).await.expect("it was acknowledged");
            assert_eq!(found, numbered(generation - 2));
            commit(&store, user, Some(&found), &numbered(generation)).await;
        }
        // And whoever listened to the one that is gone hears of what is done.
        let mut round = 0;
        loop {
            round += 1;
            assert!(round < 200, "nobody hears of it");
            for user in &users {
                commit(&store, user, Some(&numbered(generation)), &numbered(generation + 1)).await;
            }
            generation += 1;
            let heard = tokio::time::timeout(Duration::from_millis(200), hears.next_change()).await;
            if heard == Ok(Change::Connection(users[2].clone())) {
                break;
            }
        }
    }
    let page = again(async || store.list(&app_name("app"), "", None, 10).await).await;
    assert_eq!(page.connections.len(), 3);
}

/// Nobody said where the notice is, and the walk over all slots passes those of a dead node.
#[tokio::test]
async fn a_dead_node_holds_up_no_notices_of_the_others() {
    let mut cluster = RedisCluster::start_with(3, 0, &["--cluster-require-full-coverage", "no"]);
    let store = store_with(patient(config(&cluster)));
    again(async || store.ping().await).await;
    let keys = keyspace::redis_notices();
    let owner_of = |key: &str| cluster.owner(keyspace::slot(key)).expect("they agree");
    let (order, named) = (owner_of(&keys.last), owner_of(keyspace::REDIS_IDENTITY));
    let dead = [0, 1].into_iter().find(|node| ![order, named].contains(node)).expect("one has neither");
    let user = key_at(&cluster, 2);
    let told = suite::telling(&user, connection(1, 1), Outlook::User, RealClock::shared().now());
    commit(&store, &user, None, &told).await;
    cluster.nodes[order].cli(&["DEL", &keys.slots]);
    let holder = LeaseNonce([7; 16]);
    let lease = store.take_lease(LeaseOf::Notices, holder, Duration::from_secs(600)).await.expect("serves");
    assert!(matches!(lease, LeaseAnswer::Mine { .. }), "{lease:?}");
    cluster.nodes[dead].stop();
    let mut rounds = 0;
    while again(async || store.notices(0, 1).await).await.notices.is_empty() {
        let _is_down = store.gather(holder).await;
        rounds += 1;
        assert!(rounds < 600, "the walk takes 256 rounds over all slots");
    }
}

/// A node that lost everything says nothing that is believed, whoever asks; the others go on; once adopted by
/// one, the store is by all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_empty_is_noticed_wherever_its_slots_are() {
    let mut cluster = RedisCluster::start_with(3, 0, &["--cluster-require-full-coverage", "no"]);
    let folder = tempfile::tempdir().expect("a directory");
    let configured = config(&cluster);
    let remembering = |file: &str| {
        let mut config = patient(configured.clone());
        config.identity_file = Some(folder.path().join(file));
        store_with(config)
    };
    let (one, other) = (remembering("one"), remembering("other"));
    let users: Vec<ConnectionKey> = (0..3).map(|node| key_at(&cluster, node)).collect();
    let first = connection(1, 1);
    for user in &users {
        commit(&one, user, None, &first).await;
        assert_eq!(other.load(user).await.expect("serves").as_ref(), Some(&first));
    }
    let (lost, kept) = (&users[1], &users[2]);
    let refuses = async |store: &RedisStore| {
        let causes = [
            unavailable(store.load(lost).await),
            unavailable(store.revision(lost).await),
            unavailable(store.delete(lost, FIRST, true, None).await),
            unavailable(store.commit(lost, None, &first, Writer::SignIn).await),
            unavailable(store.list(&lost.app, "", None, 10).await),
            unavailable(store.ping().await),
        ];
        assert!(causes[0].contains("tokenward store adopt"), "{causes:?}");
    };
    // What is elsewhere is there, and what is not there either is believed.
    let goes_on = async |store: &RedisStore| {
        assert_eq!(again(async || store.load(kept).await).await.as_ref(), Some(&first));
        let absent = (0..)
            .map(|number| key("app", &format!("nobody-{number}")))
            .find(|key| cluster_slot_is_near(key, kept))
            .expect("there is one");
        assert_eq!(store.load(&absent).await.expect("is believed"), None);
    };
    cluster.nodes[1].stop();
    std::fs::remove_dir_all(cluster.nodes[1].file("appendonlydir")).expect("is there");
    cluster.nodes[1].restart();
    cluster.settle();
    assert_eq!(cluster.nodes[1].cli(&["DBSIZE"]), "0", "or this shows nothing");
    again(async || one.load(kept).await).await;
    again(async || other.load(kept).await).await;
    for store in [&one, &other, &store_with(patient(configured.clone()))] {
        refuses(store).await;
        goes_on(store).await;
    }
    // Slots of it are given to another node, as `redis-cli --cluster fix` does with those of a node that is
    // gone: that one has never lost anything, and does not know these.
    let slot = keyspace::connection_slot(lost).to_string();
    assert_eq!(cluster.nodes[1].cli(&["FLUSHALL"]), "OK", "of what was asked in vain");
    for node in [2, 1, 0] {
        assert_eq!(cluster.nodes[node].cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &cluster.id(2)]), "OK");
    }
    cluster.settle();
    again(async || match one.load(lost).await {
        Err(StoreError::Unavailable { cause, .. }) if cause.contains("store adopt") => Ok(()),
        other => Err(StoreError::unavailable("waiting for the slot to be moved", format!("{other:?}"))),
    })
    .await;
    goes_on(&one).await;

    one.adopt().await.expect("serves");
    for store in [&one, &other, &store_with(patient(configured.clone()))] {
        again(async || store.ping().await).await;
        assert_eq!(store.load(lost).await.expect("is believed now"), None);
        assert_eq!(store.load(kept).await.expect("serves").as_ref(), Some(&first));
    }
    // What was asked of it in vain was a delete too.
    let mut anew = first.clone();
    anew.revision.sign_in.number = other.floor(lost).await.expect("serves").number;
    commit(&other, lost, None, &anew).await;

    // All of it is lost, and somebody who remembers nothing makes it a new store: that is another one to the
    // others, until it is adopted.
    for node in &cluster.nodes {
        assert_eq!(node.cli(&["FLUSHALL"]), "OK");
    }
    unavailable(one.ping().await);
    let mut elsewhere = patient(config(&cluster));
    elsewhere.client_name = "elsewhere".to_owned();
    let random = Arc::new(crate::testkit::SeededRandom::new(7));
    let elsewhere =
        RedisStore::new(elsewhere, RealClock::shared(), random, Arc::new(RealTasks)).expect("usable");
    elsewhere.ping().await.expect("takes what is there");
    assert!(unavailable(one.load(lost).await).contains("store adopt"));
    assert!(unavailable(other.load(lost).await).contains("store adopt"));
    one.adopt().await.expect("serves");
    let late = remembering("other");
    for store in [&one, &other, &elsewhere, &late] {
        assert_eq!(again(async || store.load(lost).await).await, None);
        store.ping().await.expect("serves");
    }

    // The node is lost that has the store's first name, and somebody who remembers nothing does not take the
    // rest for new.
    let named = cluster.owner(keyspace::slot(keyspace::REDIS_IDENTITY)).expect("they agree");
    assert_eq!(cluster.nodes[named].cli(&["FLUSHALL"]), "OK");
    let fresh = store_with(patient(config(&cluster)));
    assert!(unavailable(fresh.ping().await).contains("store adopt"));
    fresh.adopt().await.expect("serves");
    for store in [&one, &other, &elsewhere, &fresh] {
        store.ping().await.expect("it is the same name");
    }

    // Brought here from a single Redis: that has one name, and the replicas remember it.
    let name = std::fs::read_to_string(folder.path().join("one")).expect("is remembered");
    for node in &cluster.nodes {
        assert_eq!(node.cli(&["FLUSHALL"]), "OK");
    }
    let named = &cluster.nodes[cluster.owner(keyspace::slot(keyspace::REDIS_IDENTITY)).expect("they agree")];
    assert_eq!(named.cli(&["SET", keyspace::REDIS_IDENTITY, &name]), "OK");
    let brought = remembering("one");
    again(async || brought.ping().await).await;
    assert_eq!(brought.load(lost).await.expect("is believed"), None);
    again(async || fresh.ping().await).await;
}

/// Whether two connections are likely at one node: their slots follow one another closely.
fn cluster_slot_is_near(one: &ConnectionKey, other: &ConnectionKey) -> bool {
    keyspace::connection_slot(one).abs_diff(keyspace::connection_slot(other)) < 3
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_with_a_password_over_tls_that_does_not_know_its_own_address() {
    let node = RedisServer::start_tls_with(&[
        "--cluster-enabled",
        "yes",
        "--tls-cluster",
        "yes",
        "--requirepass",
        "secret",
    ]);
    let cli = |arguments: &[&str]| node.cli(&[&["-a", "secret"], arguments].concat());
    assert_eq!(cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]), "OK");
    let read = |name: &str| std::fs::read(node.file(name)).expect("was made");
    let identity =
        TlsIdentity { certificate_pem: read("client.crt"), key_pem: Zeroizing::new(read("client.key")) };
    let tls = RedisTls { ca_pem: Some(read("ca.crt")), identity: Some(identity) };
    let with = |secret: &str| {
        let mut config = patient(RedisConfig::cluster(vec![("localhost".to_owned(), node.port())]));
        let tls = tls.clone();
        config.tls = Some(Arc::new(move || Ok(tls.clone())));
        config.password = Some(password(secret));
        store_with(config)
    };
    let store = with("secret");
    again(async || store.ping().await).await;
    put(&store, "session", b"x", Duration::from_secs(60)).await.expect("serves");
    assert_eq!(store.take_pending("session").await.expect("serves").as_deref(), Some(&b"x"[..]));
    let cause = unavailable(with("wrong").ping().await);
    assert!(cause.contains("refused the password of user `default`"), "{cause}");
}

#[tokio::test]
async fn what_is_no_cluster_or_is_one_and_is_taken_for_another_is_said() {
    let server = RedisServer::start();
    let cause = unavailable(
        store_with(RedisConfig::cluster(vec![("127.0.0.1".to_owned(), server.port())])).ping().await,
    );
    assert!(cause.contains("it is no node of a Cluster: begin `store.url` with `redis://`"), "{cause}");
    let nobody = free_port();
    let cause =
        unavailable(store_with(RedisConfig::cluster(vec![("127.0.0.1".to_owned(), nobody)])).ping().await);
    assert!(cause.contains("no node of the Cluster answers: 127.0.0.1"), "{cause}");

    let node = RedisServer::start_with(&["--cluster-enabled", "yes"]);
    let cluster = store_with(RedisConfig::cluster(vec![("127.0.0.1".to_owned(), node.port())]));
    assert!(unavailable(cluster.ping().await).contains("no node of the Cluster has any slot yet"));
    // All but the one of the store's name: what a single server would be asked first.
    let slot = keyspace::slot(keyspace::REDIS_IDENTITY);
    let (before, after) = ((slot - 1).to_string(), (slot + 1).to_string());
    assert_eq!(node.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", &before, &after, "16383"]), "OK");
    let cause = again(async || match store_with(RedisConfig::new("127.0.0.1", node.port())).ping().await {
        Err(StoreError::Unavailable { cause, .. }) => Ok(cause),
        _ => Err(StoreError::unavailable("waiting", "it serves")),
    })
    .await;
    assert!(cause.contains("the Cluster does not serve"), "{cause}");
}
