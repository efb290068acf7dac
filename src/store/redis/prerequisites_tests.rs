//! What Redis must be, seen at real servers: rights, scripts, memory.

use parking_lot::Mutex;

use super::super::suite::{FIRST, connection, deadline, key};
use super::super::testing::RedisServer;
use super::failure::Verdict;
use super::failure::code_of;
use super::failure::describe;
use super::tests::{healed, password, replicated, store_with, unavailable};
use super::*;
use crate::domain::time::Timestamp;
use crate::store::observed::Risk;
use crate::store::{
    Committed, LeaseAnswer, LeaseNonce, LeaseOf, Leases as _, Pending as _, Records as _, Reseal as _,
    Schedule as _, Writer,
};
use std::time::Duration;

/// The rights that the shipped ACL file gives the daemon's user.
fn shipped_rights() -> Vec<String> {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/compose/redis.acl");
    let text = std::fs::read_to_string(file).expect("the file is shipped");
    let line = text.lines().find_map(|line| line.strip_prefix("user tokenward on #@PASSWORD_SHA256@ "));
    let words = line.expect("the daemon's user").split_ascii_whitespace();
    words
        .filter(|word| !matches!(*word, "resetkeys" | "resetchannels" | "-@all"))
        .map(str::to_owned)
        .collect()
}

/// Makes the user one with these rights and no others.
fn grant(server: &RedisServer, rights: &[&str]) {
    let mut rules = vec!["ACL", "SETUSER", "tokenward", "reset", "on", ">secret", "resetchannels"];
    rules.extend(rights);
    assert_eq!(server.cli(&rules), "OK");
}

fn as_user(server: &RedisServer) -> RedisConfig {
    let mut config = RedisConfig::new("127.0.0.1", server.port());
    config.username = Some("tokenward".into());
    config.password = Some(password("secret"));
    config
}

/// Everything that a store can be asked, and each way through it; what went wrong, in words.
async fn everything(store: &RedisStore) -> String {
    let (user, other) = (key("app", "user:1"), key("app", "user:2"));
    let (nonce, stranger) = (LeaseNonce([1; 16]), LeaseNonce([2; 16]));
    let (long, now) = (Duration::from_secs(30), Timestamp::from_unix_seconds(1));
    let mut wrong = String::new();
    let mut note = |error: Option<StoreError>| {
        if let Some(error) = error {
            wrong += &format!("{error}\n");
        }
    };
    let (first, second) = (connection(1, 1), connection(2, 2));
    note(store.ping().await.err());
    note(store.floor(&user).await.err());
    note(store.commit(&user, None, &first, Writer::SignIn).await.err());
    note(store.commit(&other, None, &first, Writer::SignIn).await.err());
    note(store.load(&user).await.err());
    note(store.revision(&user).await.err());
    note(store.take_lease(LeaseOf::Connection(&user), nonce, long).await.err());
    note(store.take_lease(LeaseOf::Connection(&user), stranger, long).await.err());
    note(store.extend_lease(LeaseOf::Connection(&user), nonce, long).await.err());
    note(store.commit(&user, Some(first.revision), &second, Writer::Lease(nonce)).await.err());
    note(store.release_lease(LeaseOf::Connection(&user), nonce, true).await.err());
    note(store.schedule(&user, Some(now)).await.err());
    note(store.mark_used(&user, now).await.err());
    for shard in 0..crate::store::SWEEP_SHARDS {
        note(store.due(shard, now, 10).await.err());
    }
    note(store.schedule(&user, None).await.err());
    note(store.list(&user.app, "", None, 10).await.err());
    note(store.put_pending("a", b"x", deadline(long)).await.err());
    note(store.pending("a").await.err());
    note(store.swap_pending("a", Some(b"x"), b"y", deadline(long)).await.err());
    note(store.take_pending("a").await.err());
    note(store.sealed(None, 10).await.err());
    note(store.delete(&user, FIRST, true, None).await.err());
    note(store.delete(&other, FIRST, true, None).await.err());
    let _missed = tokio::time::timeout(Duration::from_millis(300), store.next_change()).await;
    wrong
}

/// A Redis reads its append-only file as the default user, who is off in the shipped file and must have every
/// right all the same: without them a restart loses what a script wrote.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_committed_is_there_after_a_restart_with_the_shipped_default_user() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/compose/redis.acl");
    let text = std::fs::read_to_string(file).expect("the file is shipped");
    let default = text.lines().find_map(|line| line.strip_prefix("user default off resetpass "));
    // (On, so that this test may ask as that user.)
    let users = format!(
        "user default on nopass {}\nuser tokenward on >secret {}\n",
        default.expect("the default user"),
        shipped_rights().join(" ")
    );
    let mut server = RedisServer::start_configured(&users, &["--appendfsync", "always"]);
    let (user, first, second) = (key("app", "user:1"), connection(1, 1), connection(2, 2));
    let store = store_with(as_user(&server));
    assert_eq!(store.commit(&user, None, &first, Writer::SignIn).await.expect("serves"), Committed::Done);
    let nonce = LeaseNonce([1; 16]);
    store.take_lease(LeaseOf::Connection(&user), nonce, Duration::from_secs(30)).await.expect("serves");
    let committed = store.commit(&user, Some(first.revision), &second, Writer::Lease(nonce)).await;
    assert_eq!(committed.expect("serves"), Committed::Done);
    server.restart();
    healed(&store).await;
    let found = store.load(&user).await.expect("serves").expect("it is there");
    assert_eq!(found.revision, second.revision);
}

/// What Redis says that it refused: the command, key or channel.
fn refused_by(server: &RedisServer) -> Vec<String> {
    let log = server.cli(&["ACL", "LOG"]);
    let lines: Vec<&str> = log.lines().collect();
    lines.windows(2).filter(|pair| pair[0] == "object").map(|pair| pair[1].to_owned()).collect()
}

/// The ACL file that is shipped is enough, and each right in it is needed by something that names it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_acl_is_enough_and_the_smallest() {
    let server = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    let replicaof = format!("127.0.0.1 {}", server.port());
    let _replica = RedisServer::start_with(&["--replicaof", &replicaof]);
    replicated(&server).await;
    let rights = shipped_rights();
    let mut listed: Vec<String> = REDIS_COMMANDS.iter().map(|command| format!("+{command}")).collect();
    listed.extend(["~tokenward:*".to_owned(), "&tokenward:*".to_owned()]);
    let sorted = |mut list: Vec<String>| {
        list.sort();
        list
    };
    assert_eq!(sorted(rights.clone()), sorted(listed), "the file and REDIS_COMMANDS");

    for without in std::iter::once(None).chain(rights.iter().map(Some)) {
        server.cli(&["FLUSHALL"]);
        server.cli(&["SCRIPT", "FLUSH"]);
        server.cli(&["ACL", "LOG", "RESET"]);
        let left: Vec<&str> =
            rights.iter().filter(|right| Some(*right) != without).map(String::as_str).collect();
        grant(&server, &left);
        let told = Arc::new(Told::default());
        let mut config = as_user(&server);
        config.database = 1;
        config.wait_replicas = 1;
        // A busy machine may take its time here.
        config.wait_timeout = Duration::from_secs(3);
        config.response_timeout = Duration::from_secs(4);
        config.operation_timeout = Duration::from_secs(5);
        config.observer = Some(told.clone());
        let store = store_with(config);
        let wrong = everything(&store).await;
        let refused = refused_by(&server);
        let Some(without) = without else {
            assert_eq!((wrong.as_str(), refused.len()), ("", 0), "{refused:?}");
            continue;
        };
        let kind = if without.starts_with('+') { "" } else { "tokenward:" };
        let object = if kind.is_empty() { without.trim_start_matches('+') } else { kind };
        let is_named = refused
            .iter()
            .any(|refused| refused == object || (!kind.is_empty() && refused.starts_with(kind)));
        assert!(is_named, "{without}: {refused:?}\n{wrong}");
        match without.as_str() {
            // What is not told is looked for: nothing fails.
            "+publish" | "+subscribe" | "&tokenward:*" => assert_eq!(wrong, "", "{without}"),
            "+info" => {
                assert_eq!(wrong, "");
                let why = told.of(Risk::Unknown).expect("it is not known");
                assert!(why.contains("give it `+info`"), "{why}");
            }
            "~tokenward:*" => assert!(wrong.contains("deploy/compose/redis.acl"), "{wrong}"),
            // (What is only tidied up fails in silence, and is refused by name in Redis' log.)
            _ if wrong.is_empty() => {
                assert!(matches!(without.as_str(), "+exists" | "+zrem" | "+zadd" | "+scan"), "{without}")
            }
            _ => assert!(
                wrong.contains("as deploy/compose/redis.acl does")
                    || wrong.contains("`ACL LOG` names the one"),
                "{without}: {wrong}"
            ),
        }
    }
}

/// What the observer was told.
#[derive(Default)]
struct Told(Mutex<std::collections::BTreeMap<Risk, Option<String>>>);

impl Told {
    fn of(&self, risk: Risk) -> Option<String> {
        self.0.lock().get(&risk).cloned().flatten()
    }
}

impl StoreObserver for Told {
    fn corrupt(&self, _: &StoreError) {}

    fn operation(&self, _: &'static str, _: Duration, _: bool) {}

    fn login(&self, _: &'static str, _: bool, _: Timestamp) {}

    fn risk(&self, risk: Risk, what: Option<&str>) {
        self.0.lock().insert(risk, what.map(str::to_owned));
    }
}

/// A right that is taken away while everything runs, and a command that there is not: the store does not
/// serve, says which it is, and heals by itself; what it holds is read meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_may_not_run_are_named_and_nothing_breaks() {
    let server = RedisServer::start();
    let rights = shipped_rights();
    let all: Vec<&str> = rights.iter().map(String::as_str).collect();
    let without = |right: &str| all.iter().copied().filter(|other| *other != right).collect::<Vec<_>>();
    grant(&server, &all);
    let store = store_with(as_user(&server));
    let (user, first) = (key("app", "user"), connection(1, 1));
    store.commit(&user, None, &first, Writer::SignIn).await.expect("serves");
    grant(&server, &without("+evalsha"));
    healing(&store, "give it `+evalsha`").await;
    let cause =
        unavailable(store.commit(&user, Some(first.revision), &connection(2, 2), Writer::SignIn).await);
    assert!(cause.contains("give it `+evalsha`"), "{cause}");
    assert_eq!(store.load(&user).await.expect("it is read").as_ref(), Some(&first));
    grant(&server, &all);
    healed(&store).await;

    let renamed = RedisServer::start_with(&["--rename-command", "EVALSHA", ""]);
    let store = store_with(RedisConfig::new("127.0.0.1", renamed.port()));
    let mut sealed = vec![0xff; 60];
    sealed[0] = b'\n';
    for _ in 0..2 {
        for cause in [
            unavailable(store.ping().await),
            unavailable(store.commit(&user, None, &first, Writer::SignIn).await),
            unavailable(store.swap_pending("a", None, &sealed, deadline(Duration::from_secs(9))).await),
        ] {
            assert!(cause.contains("EVALSHA") && cause.contains("rename-command"), "{cause}");
        }
    }
}

/// Waits until the probe says this.
async fn healing(store: &RedisStore, word: &str) {
    for _ in 0..100 {
        if matches!(store.ping().await, Err(StoreError::Unavailable { cause, .. }) if cause.contains(word)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not {word}: {:?}", store.ping().await);
}

/// A Redis that is set to evict is said, and that it is not any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_evicts_is_said() {
    let evicts =
        ["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru", "--rename-command", "CONFIG", ""];
    let server = RedisServer::start_with(&evicts);
    let told = Arc::new(Told::default());
    let mut config = RedisConfig::new("127.0.0.1", server.port());
    config.observer = Some(told.clone());
    store_with(config).ping().await.expect("it serves all the same");
    let what = told.of(Risk::Eviction).expect("it is said");
    assert!(what.contains("maxmemory-policy allkeys-lru") && what.contains("noeviction"), "{what}");
    assert_eq!(told.of(Risk::Unknown), None, "CONFIG is not missed");
}

/// What a command in a script was answered counts, however the Redis wraps it: the lines are as they come
/// over the wire.
#[test]
fn an_error_within_a_script_is_that_error() {
    const WRAPPED: &str = "ERR Error running script (call to f_3e1f0a): @user_script:12: @user_script: 12: ";
    for (line, code, verdict) in [
        ("OOM command not allowed when used memory > 'maxmemory'.", "OOM", Verdict::Fine),
        (
            "OOM command not allowed when used memory > 'maxmemory'. script: 3e1f, on @user_script:12.",
            "OOM",
            Verdict::Fine,
        ),
        (&format!("{WRAPPED}-OOM command not allowed when used memory > 'maxmemory'."), "OOM", Verdict::Fine),
        (
            &format!("{WRAPPED}-READONLY You can't write against a read only replica."),
            "READONLY",
            Verdict::Elsewhere,
        ),
        (
            &format!("{WRAPPED}-WRONGTYPE Operation against a key holding the wrong kind of value"),
            "WRONGTYPE",
            Verdict::Fine,
        ),
        (
            &format!("{WRAPPED}-NOREPLICAS Not enough good replicas to write."),
            "NOREPLICAS",
            Verdict::TooFewReplicas,
        ),
        // No command's answer.
        (&format!("{WRAPPED}attempt to index a nil value - or less"), "ERR", Verdict::Fine),
        ("ERR unknown command 'evalsha'", "ERR", Verdict::Fine),
    ] {
        let read = ::redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).expect("an answer");
        let error = read.extract_error().expect_err("an error");
        assert_eq!(code_of(&error).map(|(code, _)| code), Some(code), "{line}");
        assert_eq!(Verdict::of(&error), verdict, "{line}");
        assert_eq!(describe(&error, "user").contains("out of memory"), code == "OOM", "{line}");
    }
}

/// A Redis that is full takes what was rotated under a lease, and no lease for another refresh.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_takes_what_was_rotated_under_a_lease_and_nothing_new() {
    let server = RedisServer::start();
    let store = store_with(RedisConfig::new("127.0.0.1", server.port()));
    let (user, other) = (key("app", "user"), key("app", "other"));
    let (nonce, long) = (LeaseNonce([1; 16]), Duration::from_secs(30));
    let (first, second) = (connection(1, 1), connection(2, 2));
    for one in [&user, &other] {
        store.commit(one, None, &first, Writer::SignIn).await.expect("serves");
    }
    store.take_lease(LeaseOf::Connection(&user), nonce, long).await.expect("serves");
    assert_eq!(server.cli(&["CONFIG", "SET", "maxmemory", "1"]), "OK");

    let commit = || store.commit(&user, Some(first.revision), &second, Writer::Lease(nonce));
    assert_eq!(commit().await.expect("it is taken"), Committed::Done);
    assert_eq!(commit().await.expect("a repeated one too"), Committed::Done);
    assert_eq!(store.load(&user).await.expect("it is read").as_ref(), Some(&second));
    let cause = unavailable(store.take_lease(LeaseOf::Connection(&other), nonce, long).await);
    assert!(cause.contains("out of memory"), "{cause}");
    let cause = unavailable(store.put_pending("a", b"x", deadline(long)).await);
    assert!(cause.contains("out of memory"), "{cause}");

    assert_eq!(server.cli(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
    let taken = store.take_lease(LeaseOf::Connection(&user), LeaseNonce([3; 16]), long).await;
    assert_eq!(
        taken.expect("serves"),
        LeaseAnswer::Mine { unsettled: false, stored: Some(second.revision) },
        "it was given back and settled"
    );
}
