//! The one suite every store passes, and what its tests are run with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;

use super::{
    Committed, Counted, Deadline, Deleted, Floor, Full, LeaseAnswer, LeaseNonce, LeaseOf, MAX_PAGE, Most,
    RecordOf, Revision, SEALED_HEAD, SWEEP_SHARDS, Store, StoreError, StoredConnection, StoredProfile,
    Writer, keyspace,
};
use crate::domain::connection::SignIn;
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
use crate::domain::notice::{Notice, NoticeKind, Outlook, Turn};
use crate::domain::random::Random;
use crate::domain::task::{BoxFuture, Tasks};
use crate::domain::time::{Clock, Timestamp};

/// Real time: stores are tested against real disks and servers.
pub(crate) struct RealClock(Instant);

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
impl RealClock {
    pub(crate) fn shared() -> Arc<dyn Clock> {
        Arc::new(RealClock(Instant::now()))
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the clock")]
impl Clock for RealClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        Timestamp::from_unix_millis(i64::try_from(since.as_millis()).expect("before the year 292 million"))
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// Tasks on the test's own runtime.
pub(crate) struct RealTasks;

impl Tasks for RealTasks {
    #[expect(clippy::disallowed_methods, reason = "this is the port")]
    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }
}

/// Different with every call in this process, so that no two stores of a test take the same "random" name.
pub(crate) struct CountingRandom;

impl CountingRandom {
    pub(crate) fn new() -> Self {
        CountingRandom
    }
}

impl Random for CountingRandom {
    fn fill(&self, buffer: &mut [u8]) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        for chunk in buffer.chunks_mut(8) {
            let number = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            chunk.copy_from_slice(&number.to_be_bytes()[..chunk.len()]);
        }
    }
}

pub(crate) fn key(app: &str, connection: &str) -> ConnectionKey {
    ConnectionKey { app: app_name(app), connection: name(connection) }
}

pub(crate) fn app_name(text: &str) -> AppName {
    AppName::parse(text).expect("a valid app name")
}

/// A store keeps and lists names from before some were ruled out, too.
pub(crate) fn name(text: &str) -> ConnectionName {
    ConnectionName::stored(text).expect("a valid connection name")
}

/// The sign-in of what [`connection`] gives.
pub(crate) const FIRST: SignIn = SignIn { number: 1, nonce: [1; 8] };

pub(crate) fn connection(generation: u64, nonce: u128) -> StoredConnection {
    StoredConnection {
        revision: Revision { sign_in: FIRST, generation, nonce: nonce.to_be_bytes() },
        profile: format!("profile {generation}").into_bytes(),
        tokens: vec![0, 0xff, b'\r', b'\n'],
        grant: nonce.to_le_bytes().repeat(10),
        notice: None,
    }
}

/// Everything a store promises. `store` is empty.
pub(crate) async fn run(store: Arc<dyn Store>) {
    store.ping().await.expect("serves");
    commits(&*store).await;
    recreation(&*store).await;
    leases(&*store).await;
    fences(&*store).await;
    deletes(&*store).await;
    schedule(&*store).await;
    one_of_many_commits(&store).await;
    pending(&*store).await;
    one_of_many_takers(&store).await;
    names(&*store).await;
    profiles(&*store).await;
    pages(&*store).await;
    oversize(&*store).await;
    reseals(&*store).await;
    pending_reseals(&*store).await;
    everything(&*store).await;
    told(&*store).await;
}

/// What a store that counts promises beside that. (That of the simulated world, which has no sessions, does
/// not count.)
pub(crate) async fn run_counts(store: Arc<dyn Store>) {
    counts(&*store).await;
    groups_count(&*store).await;
    one_too_many(&store).await;
}

const LONG: Duration = Duration::from_secs(30);
const MINE: LeaseAnswer = LeaseAnswer::Mine { unsettled: false, stored: None };
const UNSETTLED: LeaseAnswer = LeaseAnswer::Mine { unsettled: true, stored: None };

/// Tries to take a lease. The revision in the answer must be the stored one, and is left out of what this
/// returns.
async fn take_lease(store: &dyn Store, of: LeaseOf<'_>, by: u8, ttl: Duration) -> LeaseAnswer {
    match store.take_lease(of, nonce(by), ttl).await.expect("serves") {
        LeaseAnswer::Mine { unsettled, stored } => {
            let expected = match of {
                LeaseOf::Connection(key) => store.revision(key).await.expect("serves"),
                LeaseOf::Sweep(_) | LeaseOf::Rewrap | LeaseOf::Notices => None,
            };
            assert_eq!(stored, expected);
            LeaseAnswer::Mine { unsettled, stored: None }
        }
        theirs @ LeaseAnswer::Theirs { .. } => theirs,
    }
}

fn nonce(byte: u8) -> LeaseNonce {
    LeaseNonce([byte; 16])
}

/// One holder at a time, whose lease ends by itself or by being given back; and whoever comes next is told
/// when nobody knows what became of the one before.
async fn leases(store: &dyn Store) {
    let key = key("leases", "user-1");
    for of in [LeaseOf::Rewrap, LeaseOf::Connection(&key), LeaseOf::Sweep(3)] {
        let take = async |byte, ttl| take_lease(store, of, byte, ttl).await;
        let theirs = async |byte| match take(byte, LONG).await {
            LeaseAnswer::Theirs { left } => assert!(left <= LONG && left > LONG / 2, "{left:?}"),
            mine @ LeaseAnswer::Mine { .. } => panic!("{mine:?}"),
        };
        assert_eq!(take(1, LONG).await, MINE);
        assert_eq!(take(1, LONG).await, MINE, "repeated");
        theirs(2).await;
        assert!(!store.extend_lease(of, nonce(2), LONG).await.expect("serves"));
        store.release_lease(of, nonce(2), true).await.expect("serves");
        theirs(2).await;
        assert!(store.extend_lease(of, nonce(1), LONG).await.expect("serves"));
        store.release_lease(of, nonce(1), true).await.expect("serves");
        assert!(!store.extend_lease(of, nonce(1), LONG).await.expect("serves"), "given back");

        // Given back without a word on how it ended, and again.
        assert_eq!(take(2, LONG).await, MINE);
        store.release_lease(of, nonce(2), false).await.expect("serves");
        assert_eq!(take(3, LONG).await, UNSETTLED);
        assert_eq!(take(3, LONG).await, UNSETTLED, "repeated");
        store.release_lease(of, nonce(3), true).await.expect("serves");
        assert_eq!(take(4, LONG).await, UNSETTLED, "whoever came between did not settle it");
        store.release_lease(of, nonce(4), true).await.expect("serves");
        if matches!(of, LeaseOf::Sweep(_) | LeaseOf::Rewrap) {
            continue; // nothing but a commit or a delete settles, and these have neither
        }
        let first = connection(1, 1);
        assert_eq!(store.commit(&key, None, &first, Writer::SignIn).await.expect("serves"), Committed::Done);
        assert!(delete(store, &key).await, "and what was begun goes with it");

        // One whose holder died.
        assert_eq!(take(4, Duration::from_millis(60)).await, MINE);
        tokio::time::sleep(Duration::from_millis(90)).await;
        assert!(!store.extend_lease(of, nonce(4), LONG).await.expect("serves"), "it has ended");
        assert_eq!(take(5, LONG).await, UNSETTLED);
        store.release_lease(of, nonce(4), true).await.expect("serves");
        theirs(6).await;
        store.release_lease(of, nonce(5), false).await.expect("serves");
    }
}

/// What a commit makes of leases, and leases of a commit.
async fn fences(store: &dyn Store) {
    let key = key("fences", "user-1");
    let of = LeaseOf::Connection(&key);
    let states: Vec<StoredConnection> = (1..12).map(|number| connection(number, number.into())).collect();
    let commit = async |from: usize, writer| {
        let expected = from.checked_sub(1).map(|before| states[before].revision);
        store.commit(&key, expected, &states[from], writer).await.expect("serves")
    };
    let take = async |byte| take_lease(store, of, byte, LONG).await;
    assert_eq!(commit(0, Writer::SignIn).await, Committed::Done);

    // The holder's commit gives the lease back and settles what it began.
    assert_eq!(take(1).await, MINE);
    assert_eq!(commit(1, Writer::Lease(nonce(2))).await, Committed::Fenced);
    assert_eq!(commit(1, Writer::Lease(nonce(1))).await, Committed::Done);
    assert_eq!(commit(1, Writer::Lease(nonce(1))).await, Committed::Done, "repeated");
    assert_eq!(take(2).await, MINE);

    // Whoever lost the lease loses, and its repeated commit is known all the same when it had been stored.
    assert_eq!(commit(1, Writer::Lease(nonce(1))).await, Committed::Done, "it is what is stored");
    assert_eq!(commit(2, Writer::Lease(nonce(1))).await, Committed::Fenced);
    store.release_lease(of, nonce(2), false).await.expect("serves");
    // Nobody holds it now: the late one's answer is the newest that there is.
    assert_eq!(commit(2, Writer::Lease(nonce(1))).await, Committed::Done);
    assert_eq!(take(3).await, MINE, "the commit settled it");

    // An operator is not held up, and changes nothing of what is under way.
    store.release_lease(of, nonce(3), false).await.expect("serves");
    assert_eq!(take(4).await, UNSETTLED);
    assert_eq!(commit(3, Writer::Operator).await, Committed::Done);
    assert!(store.extend_lease(of, nonce(4), LONG).await.expect("serves"));
    assert_eq!(commit(3, Writer::Lease(nonce(4))).await, Committed::Done, "it is what is stored");
    store.release_lease(of, nonce(4), false).await.expect("serves");
    assert_eq!(take(5).await, UNSETTLED);

    // A sign-in brings another grant: what was begun with the one before does not matter, once nobody holds
    // the lease who may be about to use the new one.
    assert_eq!(commit(4, Writer::SignIn).await, Committed::Done);
    assert_eq!(commit(4, Writer::Lease(nonce(6))).await, Committed::Done, "it is what is stored");
    assert_eq!(commit(5, Writer::Lease(nonce(6))).await, Committed::Fenced);
    store.release_lease(of, nonce(5), false).await.expect("serves");
    assert_eq!(take(6).await, UNSETTLED);
    store.release_lease(of, nonce(6), false).await.expect("serves");
    assert_eq!(commit(5, Writer::SignIn).await, Committed::Done);
    assert_eq!(take(7).await, MINE);

    // A verdict leaves the grant that is there: it settles what was begun under its own lease, and nothing of
    // somebody else's.
    assert_eq!(commit(6, Writer::Verdict(nonce(6))).await, Committed::Fenced);
    store.release_lease(of, nonce(7), false).await.expect("serves");
    assert_eq!(commit(6, Writer::Verdict(nonce(6))).await, Committed::Done, "nobody holds it");
    assert_eq!(take(8).await, UNSETTLED);
    assert_eq!(commit(7, Writer::Verdict(nonce(8))).await, Committed::Done);
    assert_eq!(take(9).await, MINE);

    // What was lost and is stored again gives way to whoever holds the lease, and settles what was about
    // another grant.
    let (again, other) = (Writer::Again { replaces_grant: false }, Writer::Again { replaces_grant: true });
    assert_eq!(commit(8, again).await, Committed::Fenced);
    assert_eq!(commit(8, other).await, Committed::Fenced);
    store.release_lease(of, nonce(9), false).await.expect("serves");
    assert_eq!(commit(8, again).await, Committed::Done);
    assert_eq!(take(10).await, UNSETTLED);
    store.release_lease(of, nonce(10), false).await.expect("serves");
    assert_eq!(commit(9, other).await, Committed::Done);
    assert_eq!(take(11).await, MINE);

    // A delete leaves the lease to whoever holds it, with what they began, and nothing that they bring.
    assert!(delete(store, &key).await);
    assert_eq!(commit(10, Writer::Lease(nonce(11))).await, Committed::Conflict);
    assert!(store.extend_lease(of, nonce(11), LONG).await.expect("serves"));
    let anew = signed_in(12, 12);
    assert_eq!(store.commit(&key, None, &anew, Writer::SignIn).await.expect("serves"), Committed::Done);
    // Doubt is about the grants of one sign-in, whoever asks.
    store.release_lease(of, nonce(11), false).await.expect("serves");
    assert_eq!(take(12).await, MINE);
    store.release_lease(of, nonce(12), false).await.expect("serves");
    assert_eq!(take(13).await, UNSETTLED);
    store.release_lease(of, nonce(13), true).await.expect("serves");
}

/// A delete means the sign-ins up to one, and no later one; what was begun before it comes too late.
async fn deletes(store: &dyn Store) {
    let key = key("deletes", "user-1");
    let commit = async |expected: Option<&StoredConnection>, next: &StoredConnection| {
        let expected = expected.map(|connection| connection.revision);
        store.commit(&key, expected, next, Writer::SignIn).await.expect("serves")
    };
    let floor = async || {
        let Floor { number, cut } = store.floor(&key).await.expect("serves");
        (number, cut)
    };
    let delete = async |number, cuts_off| {
        let meant = SignIn { number, nonce: [1; 8] };
        store.delete(&key, meant, cuts_off, None).await.expect("serves")
    };
    assert_eq!(floor().await, (1, 0));
    let (first, renewed) = (connection(1, 1), connection(2, 2));
    assert_eq!(commit(None, &first).await, Committed::Done);
    assert_eq!(commit(Some(&first), &renewed).await, Committed::Done);
    assert_eq!(floor().await, (1, 0));
    assert_eq!(delete(1, true).await, Deleted::Gone, "however often it was renewed");
    assert_eq!(store.load(&key).await.expect("serves"), None);
    assert_eq!(floor().await, (3, 3));
    // The first sign-in once more, which was on its way all the time; and another one from before the delete.
    assert_eq!(commit(None, &first).await, Committed::Conflict);
    assert_eq!(commit(None, &signed_in(2, 9)).await, Committed::Conflict);
    let second = signed_in(3, 3);
    assert_eq!(commit(None, &second).await, Committed::Done);
    // The delete once more; and one of another sign-in with that number, which the store has lost.
    assert_eq!(delete(1, true).await, Deleted::Another);
    let namesake = SignIn { number: 3, nonce: [2; 8] };
    assert_eq!(store.delete(&key, namesake, true, None).await.expect("serves"), Deleted::Another);
    assert_eq!(store.load(&key).await.expect("serves").as_ref(), Some(&second));
    assert_eq!(floor().await, (3, 3));
    // One that is nobody's word on what has begun.
    assert_eq!(delete(3, false).await, Deleted::Gone);
    assert_eq!(floor().await, (4, 3));
    assert_eq!(delete(3, false).await, Deleted::Absent);
    assert_eq!(floor().await, (4, 3), "repeated");
    // One of what is not there means what is on its way there.
    assert_eq!(delete(4, true).await, Deleted::Absent);
    assert_eq!(floor().await, (5, 5));
    assert_eq!(commit(None, &signed_in(4, 4)).await, Committed::Conflict);
    assert_eq!(commit(None, &signed_in(6, 4)).await, Committed::Done, "a floor is the least");
}

/// Deletes what [`connection`] gives; false when there was none.
pub(crate) async fn delete(store: &dyn Store, key: &ConnectionKey) -> bool {
    store.delete(key, FIRST, true, None).await.expect("serves") == Deleted::Gone
}

/// What a sign-in of this number brings.
pub(crate) fn signed_in(sign_in: u64, nonce: u128) -> StoredConnection {
    let mut connection = connection(sign_in, nonce);
    connection.revision.sign_in = SignIn { number: sign_in, nonce: [1; 8] };
    connection
}

async fn schedule(store: &dyn Store) {
    let keys: Vec<ConnectionKey> = (0..40).map(|number| key("schedule", &format!("user-{number}"))).collect();
    let at = Timestamp::from_unix_millis;
    let due = async |until: i64, limit| {
        let mut all = Vec::new();
        for shard in 0..SWEEP_SHARDS {
            let some = store.due(shard, at(until), limit).await.expect("serves");
            assert!(some.iter().all(|due| keyspace::shard(&due.key) == shard));
            assert!(some.is_sorted_by_key(|due| due.due_at));
            all.extend(some);
        }
        all.sort_by_key(|due| due.due_at);
        all
    };
    for (number, key) in (1_800_000_000_000..).zip(&keys) {
        store.schedule(key, Some(at(number))).await.expect("serves");
    }
    let names = |found: &[super::Due]| found.iter().map(|due| due.key.clone()).collect::<Vec<_>>();
    assert_eq!(names(&due(1_800_000_000_009, 100).await), keys[..10]);
    assert!(due(1_799_999_999_999, 100).await.is_empty());
    assert!(due(1_800_000_000_039, 1).await.len() <= usize::from(SWEEP_SHARDS));
    // Moved, used, taken out.
    store.mark_used(&keys[0], at(7)).await.expect("serves");
    store.mark_used(&keys[0], at(5)).await.expect("serves");
    store.schedule(&keys[0], Some(at(1_800_000_000_500))).await.expect("serves");
    store.schedule(&keys[1], None).await.expect("serves");
    let later = due(1_800_000_000_500, 100).await;
    assert_eq!(names(&later[..38]), keys[2..]);
    assert_eq!((later[38].due_at, later[38].used_at), (at(1_800_000_000_500), Some(at(7))));
    assert_eq!((later.len(), later[0].used_at), (39, None));
    // A delete takes a connection out.
    let of_it = connection(1, 1);
    let made = store.commit(&keys[2], None, &of_it, Writer::SignIn).await.expect("serves");
    assert_eq!(made, Committed::Done);
    assert!(delete(store, &keys[2]).await);
    assert_eq!(due(1_800_000_000_500, 100).await.len(), 38);
    for key in &keys {
        store.schedule(key, None).await.expect("serves");
    }
}

async fn commits(store: &dyn Store) {
    let key = key("commits", "user-1");
    let (first, second, third) = (connection(1, 11), connection(2, 22), connection(2, 33));
    assert_eq!(store.load(&key).await.expect("serves"), None);
    assert_eq!(store.revision(&key).await.expect("serves"), None);

    let update = store.commit(&key, Some(first.revision), &second, Writer::SignIn).await.expect("serves");
    assert_eq!(update, Committed::Conflict, "nothing is there to update");
    assert_eq!(store.load(&key).await.expect("serves"), None);

    assert_eq!(store.commit(&key, None, &first, Writer::SignIn).await.expect("serves"), Committed::Done);
    assert_eq!(store.load(&key).await.expect("serves").as_ref(), Some(&first));
    assert_eq!(store.revision(&key).await.expect("serves"), Some(first.revision));
    assert_eq!(
        store.commit(&key, None, &first, Writer::SignIn).await.expect("serves"),
        Committed::Done,
        "repeated"
    );
    assert_eq!(
        store.commit(&key, None, &second, Writer::SignIn).await.expect("serves"),
        Committed::Conflict,
        "exists"
    );

    let expected = Some(first.revision);
    assert_eq!(store.commit(&key, expected, &second, Writer::SignIn).await.expect("serves"), Committed::Done);
    assert_eq!(
        store.commit(&key, expected, &second, Writer::SignIn).await.expect("serves"),
        Committed::Done,
        "repeated"
    );
    assert_eq!(
        store.commit(&key, expected, &third, Writer::SignIn).await.expect("serves"),
        Committed::Conflict,
        "too late"
    );
    let wrong = Some(Revision { sign_in: FIRST, generation: 2, nonce: [0; 16] });
    assert_eq!(
        store.commit(&key, wrong, &third, Writer::SignIn).await.expect("serves"),
        Committed::Conflict,
        "other nonce"
    );
    let wrong = Some(Revision { sign_in: FIRST, generation: 3, nonce: second.revision.nonce });
    assert_eq!(
        store.commit(&key, wrong, &third, Writer::SignIn).await.expect("serves"),
        Committed::Conflict,
        "other number"
    );
    assert_eq!(store.load(&key).await.expect("serves").as_ref(), Some(&second));

    // Numbers that a double cannot tell apart.
    let (large, larger) = (connection(u64::MAX - 1, 1), connection(u64::MAX, 1));
    assert_eq!(
        store.commit(&key, Some(second.revision), &large, Writer::SignIn).await.expect("serves"),
        Committed::Done
    );
    let taken_for = Some(larger.revision);
    assert_eq!(
        store.commit(&key, taken_for, &third, Writer::SignIn).await.expect("serves"),
        Committed::Conflict
    );
    assert_eq!(
        store.commit(&key, Some(large.revision), &larger, Writer::SignIn).await.expect("serves"),
        Committed::Done
    );
    assert_eq!(store.revision(&key).await.expect("serves"), Some(larger.revision));
}

async fn recreation(store: &dyn Store) {
    let key = key("recreation", "user-1");
    let (before, after) = (connection(1, 1), signed_in(3, 2));
    assert_eq!(store.commit(&key, None, &before, Writer::SignIn).await.expect("serves"), Committed::Done);
    assert!(delete(store, &key).await);
    assert!(!delete(store, &key).await);
    assert_eq!(store.load(&key).await.expect("serves"), None);
    assert_eq!(store.commit(&key, None, &after, Writer::SignIn).await.expect("serves"), Committed::Done);
    // A refresh that began before the delete has the generation right, and must not come through.
    let late =
        store.commit(&key, Some(before.revision), &connection(2, 3), Writer::SignIn).await.expect("serves");
    assert_eq!(late, Committed::Conflict);
    let listed = store.list(&key.app, "", None, 10).await.expect("serves");
    assert_eq!(listed.connections, [(key.connection.clone(), after.into())]);
}

async fn one_of_many_commits(store: &Arc<dyn Store>) {
    let first = connection(1, 1);
    let done = store.commit(&key("race", "user-1"), None, &first, Writer::SignIn).await.expect("serves");
    assert_eq!(done, Committed::Done);
    let (sender, mut results) = tokio::sync::mpsc::unbounded_channel();
    for number in 0..200 {
        let (store, sender, expected) = (Arc::clone(store), sender.clone(), first.revision);
        RealTasks.spawn(
            "commit",
            Box::pin(async move {
                let next = connection(2, 1000 + number);
                let key = key("race", "user-1");
                let committed =
                    store.commit(&key, Some(expected), &next, Writer::SignIn).await.expect("serves");
                sender.send((next, committed)).expect("is waited for");
            }),
        );
    }
    drop(sender);
    let mut done = Vec::new();
    while let Some((next, committed)) = results.recv().await {
        if committed == Committed::Done {
            done.push(next);
        }
    }
    assert_eq!(done.len(), 1, "exactly one of many");
    assert_eq!(store.load(&key("race", "user-1")).await.expect("serves"), done.pop());
}

const MINUTE: Duration = Duration::from_secs(60);

pub(crate) async fn put(store: &dyn Store, id: &str, sealed: &[u8], ttl: Duration) -> Result<(), StoreError> {
    store.put_pending(id, sealed, deadline(ttl)).await
}

/// So long from now.
pub(crate) fn deadline(ttl: Duration) -> Deadline {
    Deadline::after(RealClock::shared().now(), ttl)
}

async fn swap(store: &dyn Store, id: &str, expected: &[u8], sealed: &[u8], ttl: Duration) -> bool {
    store.swap_pending(id, Some(expected), sealed, deadline(ttl)).await.expect("serves")
}

async fn make(store: &dyn Store, id: &str, sealed: &[u8], ttl: Duration) -> bool {
    store.swap_pending(id, None, sealed, deadline(ttl)).await.expect("serves")
}

async fn pending(store: &dyn Store) {
    assert_eq!(store.pending("session").await.expect("serves"), None);
    assert_eq!(store.take_pending("session").await.expect("serves"), None);
    assert!(!swap(store, "session", b"a", b"x", MINUTE).await);
    assert!(make(store, "made", b"one", MINUTE).await);
    assert!(make(store, "made", b"one", MINUTE).await, "repeated");
    assert!(!make(store, "made", b"two", MINUTE).await, "somebody else made it");
    assert_eq!(store.take_pending("made").await.expect("serves").as_deref(), Some(&b"one"[..]));
    put(store, "session", b"one\0\xff", MINUTE).await.expect("serves");
    assert_eq!(store.pending("session").await.expect("serves").as_deref(), Some(&b"one\0\xff"[..]));
    put(store, "session", b"two", MINUTE).await.expect("serves");
    assert!(!swap(store, "session", b"one\0\xff", b"x", MINUTE).await, "it is another one now");
    assert!(swap(store, "session", b"two", b"three", MINUTE).await);
    assert!(swap(store, "session", b"two", b"three", MINUTE).await, "repeated");
    assert!(!swap(store, "session", b"two", b"four", MINUTE).await);
    assert_eq!(store.take_pending("session").await.expect("serves").as_deref(), Some(&b"three"[..]));
    assert_eq!(store.take_pending("session").await.expect("serves"), None);
    assert!(!swap(store, "session", b"three", b"x", MINUTE).await, "taken is gone");

    let short = Duration::from_millis(60);
    put(store, "short", b"a", short).await.expect("serves");
    put(store, "shortened", b"a", MINUTE).await.expect("serves");
    put(store, "renewed", b"a", short).await.expect("serves");
    assert!(swap(store, "shortened", b"a", b"b", short).await);
    assert!(swap(store, "renewed", b"a", b"b", MINUTE).await);
    put(store, "over", b"a", Duration::ZERO).await.expect("serves");
    tokio::time::sleep(short * 2).await;
    for gone in ["short", "shortened", "over"] {
        assert_eq!(store.pending(gone).await.expect("serves"), None, "{gone}");
        assert!(!swap(store, gone, b"a", b"c", MINUTE).await, "{gone}");
        assert!(!swap(store, gone, b"b", b"b", MINUTE).await, "{gone}");
        assert_eq!(store.take_pending(gone).await.expect("serves"), None, "{gone}");
        assert!(make(store, gone, b"d", MINUTE).await, "{gone}");
    }
    assert_eq!(store.pending("renewed").await.expect("serves").as_deref(), Some(&b"b"[..]));
}

async fn counts(store: &dyn Store) {
    let later = RealClock::shared().now().plus(MINUTE);
    let count_in = async |owner: &'static str, entry: &'static str, until| {
        store.count_in(owner, entry, until, Most::of_owner(2)).await.expect("serves")
    };
    let full = |until| Counted::Full { which: Full::Owner, until };
    let counted = async |owner: &'static str| {
        let mut counted = store.counted(owner).await.expect("serves");
        counted.sort();
        counted
    };
    assert_eq!(counted("a").await, [""; 0]);
    store.count_out("a", "one").await.expect("nothing to count out is fine");
    assert_eq!(count_in("a", "one", later).await, Counted::In);
    assert_eq!(count_in("a", "one", later).await, Counted::In, "repeated");
    assert_eq!(count_in("a", "two", later.plus(MINUTE)).await, Counted::In);
    assert_eq!(count_in("a", "three", later).await, full(later));
    assert_eq!(
        count_in("a", "two", later.plus(MINUTE)).await,
        Counted::In,
        "one that counts may be repeated"
    );
    assert_eq!(counted("a").await, ["one", "two"]);
    for other in ["b", "a/b", "", "aa"] {
        assert_eq!(count_in(other, "three", later).await, Counted::In, "{other}");
        assert_eq!(counted(other).await, ["three"], "{other}");
    }
    store.count_out("a", "one").await.expect("serves");
    assert_eq!(count_in("a", "three", later).await, Counted::In, "there is room again");
    assert_eq!(counted("a").await, ["three", "two"]);

    // Long enough for four steps on a busy machine.
    let soon = RealClock::shared().now().plus(Duration::from_secs(3));
    assert_eq!(count_in("short", "one", soon).await, Counted::In);
    assert_eq!(count_in("short", "prolonged", soon).await, Counted::In);
    assert_eq!(count_in("short", "prolonged", later).await, Counted::In);
    assert_eq!(count_in("short", "three", later).await, full(soon));
    tokio::time::sleep(soon.since(RealClock::shared().now())).await;
    while counted("short").await != ["prolonged"] {
        assert!(RealClock::shared().now() < later, "what has ended does not count");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(count_in("short", "three", later).await, Counted::In);
    assert_eq!(count_in("short", "four", later).await, full(later));
}

/// Those that belong together have a limit of their own within that of their owner, and one step looks at
/// both.
async fn groups_count(store: &dyn Store) {
    let later = RealClock::shared().now().plus(MINUTE);
    let count_in = async |entry: &'static str, group: &'static str, until| {
        let most = Most::of_owner(4).and_of_group(group, 2);
        store.count_in("groups", entry, until, most).await.expect("serves")
    };
    let full = |which, until| Counted::Full { which, until };
    assert_eq!(count_in("a 1", "a ", later.plus(MINUTE)).await, Counted::In);
    assert_eq!(count_in("a 2", "a ", later).await, Counted::In);
    assert_eq!(count_in("a 3", "a ", later).await, full(Full::Group, later), "the first of the group");
    assert_eq!(count_in("a 1", "a ", later.plus(MINUTE)).await, Counted::In, "repeated");
    // Others that begin almost alike are another group.
    assert_eq!(count_in("aa 1", "aa ", later).await, Counted::In);
    assert_eq!(count_in("b 1", "b ", later.plus(MINUTE)).await, Counted::In);
    for (entry, group) in [("b 2", "b "), ("c 1", "c "), ("a 3", "a ")] {
        assert_eq!(count_in(entry, group, later).await, full(Full::Owner, later), "{entry}");
    }
    assert_eq!(count_in("b 1", "b ", later).await, Counted::In, "repeated, though there are as many");
    store.count_out("groups", "aa 1").await.expect("serves");
    assert_eq!(count_in("a 3", "a ", later).await, full(Full::Group, later));
    store.count_out("groups", "a 2").await.expect("serves");
    assert_eq!(count_in("a 3", "a ", later).await, Counted::In, "there is room again");
}

/// How many of fifty that come at once count.
async fn counted_at_once(store: &Arc<dyn Store>, owner: &'static str, of_group: Option<usize>) -> usize {
    let until = RealClock::shared().now().plus(MINUTE);
    let (sender, mut results) = tokio::sync::mpsc::unbounded_channel();
    for number in 0..50 {
        let (store, sender) = (Arc::clone(store), sender.clone());
        RealTasks.spawn(
            "count",
            Box::pin(async move {
                let most = Most::of_owner(10);
                let most = of_group.map_or(most, |of_group| most.and_of_group("race ", of_group));
                let entry = format!("race {number}");
                let counted = store.count_in(owner, &entry, until, most).await.expect("serves");
                sender.send(counted).expect("is waited for");
            }),
        );
    }
    drop(sender);
    let mut count = 0;
    while let Some(result) = results.recv().await {
        count += usize::from(result == Counted::In);
    }
    count
}

async fn one_too_many(store: &Arc<dyn Store>) {
    for (owner, of_group, most) in [("race", None, 10), ("group", Some(7), 7), ("both", Some(20), 10)] {
        assert_eq!(counted_at_once(store, owner, of_group).await, most, "{owner}");
        let counted = store.counted(owner).await.expect("serves");
        assert_eq!(counted.len(), most, "{owner}");
        // What is given back at once with what asks for it is had again, once.
        for entry in &counted[..3] {
            store.count_out(owner, entry).await.expect("serves");
        }
        counted_at_once(store, owner, of_group).await;
        assert_eq!(store.counted(owner).await.expect("serves").len(), most, "{owner}");
    }
}

async fn one_of_many_takers(store: &Arc<dyn Store>) {
    put(&**store, "state", b"once", MINUTE).await.expect("serves");
    let (sender, mut results) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..100 {
        let (store, sender) = (Arc::clone(store), sender.clone());
        RealTasks.spawn(
            "take",
            Box::pin(async move {
                let taken = store.take_pending("state").await.expect("serves");
                sender.send(taken).expect("is waited for");
            }),
        );
    }
    drop(sender);
    let mut taken = Vec::new();
    while let Some(result) = results.recv().await {
        taken.extend(result);
    }
    assert_eq!(taken, [b"once".to_vec()], "exactly one of many");
}

async fn listed(
    store: &dyn Store,
    app: &str,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Vec<String> {
    let after = after.map(name);
    let page = store.list(&app_name(app), prefix, after.as_ref(), limit).await.expect("serves");
    page.connections.iter().map(|(name, _)| name.to_string()).collect()
}

async fn names(store: &dyn Store) {
    let sorted = ["-", ".", "/", "0:1", "A/b", "a", "a/b", "a/b/c", "a:b", "a@b", "ab", "b", "z_z"];
    for (number, name) in sorted.iter().rev().enumerate() {
        let stored = connection(1, u128::try_from(number).expect("small"));
        for app in ["names", "names-2", "name"] {
            assert_eq!(
                store.commit(&key(app, name), None, &stored, Writer::SignIn).await.expect("serves"),
                Committed::Done
            );
        }
    }
    assert_eq!(listed(store, "names", "", None, 100).await, sorted);
    assert_eq!(listed(store, "names", "a", None, 100).await, ["a", "a/b", "a/b/c", "a:b", "a@b", "ab"]);
    assert_eq!(listed(store, "names", "a/", None, 100).await, ["a/b", "a/b/c"]);
    assert_eq!(listed(store, "names", "a/", Some("a/b"), 100).await, ["a/b/c"]);
    assert_eq!(listed(store, "names", "a/", Some("0"), 100).await, ["a/b", "a/b/c"], "after comes before");
    assert!(listed(store, "names", "a/", Some("ab"), 100).await.is_empty(), "after lies behind");
    assert!(listed(store, "names", "zz", None, 100).await.is_empty());
    assert!(listed(store, "names", "ü", None, 100).await.is_empty());
    assert!(listed(store, "other", "", None, 100).await.is_empty());
    assert!(listed(store, "names", "", None, 0).await.is_empty());
    assert!(delete(store, &key("names", "a/b")).await);
    assert_eq!(listed(store, "names", "a/", None, 100).await, ["a/b/c"]);
    assert_eq!(listed(store, "names-2", "a/", None, 100).await, ["a/b", "a/b/c"]);
}

/// Profiles are had without tokens and grants, however long they are, and of those asked for alone.
async fn profiles(store: &dyn Store) {
    let stored = |nonce: u128, length: usize| {
        let mut stored = connection(1, nonce);
        stored.profile = vec![b'p'; length];
        stored.grant = vec![b'g'; 50_000];
        stored
    };
    let lengths = [0, 10, 4095, 4096, 4097, 20_000];
    let names: Vec<String> = lengths.iter().map(|length| format!("user-{length:05}")).collect();
    let mut expected = Vec::new();
    for (number, (name, length)) in names.iter().zip(lengths).enumerate() {
        let stored = stored(number as u128, length);
        let key = key("profiles", name);
        assert_eq!(store.commit(&key, None, &stored, Writer::SignIn).await.expect("serves"), Committed::Done);
        expected.push((key.connection, StoredProfile::from(stored)));
    }
    let listed = store.list(&app_name("profiles"), "", None, 10).await.expect("serves");
    assert_eq!(listed.connections, expected);
    let asked = ["user-20000", "nobody", "user-00010", "user-0", "user-20000"];
    let keys: Vec<ConnectionKey> = asked.iter().map(|name| key("profiles", name)).collect();
    let of = |at: usize| Some(expected[at].1.clone());
    assert_eq!(store.profiles(&keys).await.expect("serves"), [of(5), None, of(1), None, of(5)]);
    assert_eq!(store.profiles(&[]).await.expect("serves"), []);
    let many: Vec<ConnectionKey> = (0..250).map(|number| keys[number % keys.len()].clone()).collect();
    let found = store.profiles(&many).await.expect("serves");
    assert_eq!((found.len(), found.iter().flatten().count()), (250, 150));
    assert_eq!((&found[247], &found[249]), (&of(1), &of(5)));
}

async fn pages(store: &dyn Store) {
    const COUNT: usize = 1000;
    let (names, stored): (Vec<_>, Vec<_>) = (0..COUNT)
        .map(|n| (key("pages", &format!("team-{}/user-{n:04}", n % 2)), connection(1, n as u128)))
        .unzip();
    let commits =
        names.iter().zip(&stored).map(|(key, stored)| store.commit(key, None, stored, Writer::SignIn));
    for commit in join_all(commits).await {
        assert_eq!(commit.expect("serves"), Committed::Done);
    }
    for (prefix, expected, limit) in [("", COUNT, 64), ("team-1/", COUNT / 2, 100), ("", COUNT, COUNT)] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = store.list(&app_name("pages"), prefix, after.as_ref(), limit).await.expect("serves");
            assert!(page.connections.len() <= limit);
            if page.next.is_some() {
                assert_eq!(page.next.as_ref(), page.connections.last().map(|(name, _)| name));
            }
            seen.extend(page.connections);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), expected);
        assert!(seen.is_sorted_by(|a, b| a.0.as_str().as_bytes() < b.0.as_str().as_bytes()));
        assert!(seen.iter().all(|(name, _)| name.as_str().starts_with(prefix)));
    }
    let all = store.list(&app_name("pages"), "", None, usize::MAX).await.expect("serves");
    assert_eq!((all.connections.len(), all.next), (MAX_PAGE.min(COUNT), None));
}

/// The same, as another sealing key would have it.
fn sealed_anew(connection: &StoredConnection) -> StoredConnection {
    let anew = |field: &[u8]| [field, b" anew"].concat();
    StoredConnection {
        revision: connection.revision,
        profile: anew(&connection.profile),
        tokens: anew(&connection.tokens),
        grant: anew(&connection.grant),
        notice: None,
    }
}

/// What is sealed anew is the same to everybody else: a refresh under way commits, and what is newer stays.
async fn reseals(store: &dyn Store) {
    let key = key("reseals", "user-1");
    let of = LeaseOf::Connection(&key);
    let (first, second, third) = (connection(1, 1), connection(2, 2), connection(3, 3));
    let anew = sealed_anew(&first);
    let reseal = async |before: &StoredConnection, after: &StoredConnection| {
        store.reseal(&key, before, after).await.expect("serves")
    };
    let load = async || store.load(&key).await.expect("serves");
    assert!(!reseal(&first, &anew).await, "there is nothing");
    assert_eq!(load().await, None);
    assert_eq!(store.commit(&key, None, &first, Writer::SignIn).await.expect("serves"), Committed::Done);
    let due = Timestamp::from_unix_millis(1_800_000_000_000);
    store.schedule(&key, Some(due)).await.expect("serves");
    assert_eq!(take_lease(store, of, 1, LONG).await, MINE);

    assert!(!reseal(&first, &second).await, "another revision is no seal");
    assert!(reseal(&first, &anew).await);
    assert!(reseal(&first, &anew).await, "repeated");
    assert_eq!(load().await.as_ref(), Some(&anew));
    assert_eq!(store.revision(&key).await.expect("serves"), Some(first.revision));
    // Somebody slow, who read what was there before: what he brings is of an older key.
    assert!(!reseal(&first, &sealed_anew(&anew)).await);
    assert_eq!(load().await.as_ref(), Some(&anew));
    // A commit whose answer was lost comes once more, as it was sealed then.
    assert_eq!(store.commit(&key, None, &first, Writer::SignIn).await.expect("serves"), Committed::Done);
    assert_eq!(load().await.as_ref(), Some(&anew), "what was sealed anew stays");

    // The refresh under way notices nothing: neither its lease nor its commit.
    let due = store.due(keyspace::shard(&key), due, MAX_PAGE).await.expect("serves");
    assert!(due.iter().any(|due| due.key == key));
    assert!(store.extend_lease(of, nonce(1), LONG).await.expect("serves"));
    let committed = store.commit(&key, Some(first.revision), &second, Writer::Lease(nonce(1))).await;
    assert_eq!(committed.expect("serves"), Committed::Done);
    assert!(!reseal(&anew, &sealed_anew(&anew)).await, "a newer state is not overwritten");
    assert_eq!(load().await.as_ref(), Some(&second));

    // What was begun stays in doubt.
    assert_eq!(take_lease(store, of, 2, LONG).await, MINE);
    store.release_lease(of, nonce(2), false).await.expect("serves");
    let anew = sealed_anew(&second);
    assert!(reseal(&second, &anew).await);
    assert_eq!(take_lease(store, of, 3, LONG).await, UNSETTLED);
    store.release_lease(of, nonce(3), true).await.expect("serves");

    // A delete has the last word.
    assert!(delete(store, &key).await);
    assert!(!reseal(&anew, &sealed_anew(&anew)).await);
    assert_eq!(load().await, None);
    let late = store.commit(&key, Some(second.revision), &third, Writer::Operator).await.expect("serves");
    assert_eq!(late, Committed::Conflict);
}

async fn pending_reseals(store: &dyn Store) {
    let reseal = async |id: &str, before: &[u8], after: &[u8]| {
        store.reseal_pending(id, before, after).await.expect("serves")
    };
    let there = async |id: &str| store.pending(id).await.expect("serves");
    assert!(!reseal("resealed", b"a", b"b").await, "there is nothing");
    assert_eq!(there("resealed").await, None);
    let (short, long) = (Duration::from_millis(400), MINUTE);
    put(store, "resealed", b"a", short).await.expect("serves");
    put(store, "resealed-long", b"a", long).await.expect("serves");
    for id in ["resealed", "resealed-long"] {
        assert!(!reseal(id, b"x", b"b").await);
        assert!(reseal(id, b"a", b"b").await);
        assert!(reseal(id, b"a", b"b").await, "repeated");
        assert!(!reseal(id, b"a", b"c").await, "too late");
        assert_eq!(there(id).await.as_deref(), Some(&b"b"[..]), "{id}");
    }
    assert!(swap(store, "resealed-long", b"b", b"d", MINUTE).await);
    tokio::time::sleep(short * 2).await;
    assert_eq!(there("resealed").await, None, "it expires when it did");
    assert!(!reseal("resealed", b"b", b"e").await);
    assert_eq!(there("resealed").await, None);
    assert_eq!(there("resealed-long").await.as_deref(), Some(&b"d"[..]));
}

async fn walk(store: &dyn Store, limit: usize) -> Result<BTreeMap<RecordOf, Vec<u8>>, StoreError> {
    let (mut found, mut after) = (BTreeMap::new(), None::<String>);
    loop {
        let page = store.sealed(after.as_deref(), limit).await?;
        found.extend(page.records.into_iter().map(|record| (record.of, record.head)));
        after = page.next;
        if after.is_none() {
            return Ok(found);
        }
    }
}

/// A walk shows all that there is, with how it begins, however small its pages are.
async fn everything(store: &dyn Store) {
    let keys: Vec<ConnectionKey> =
        (0..30).map(|number| key(&format!("all-{}", number % 3), &format!("user-{number}"))).collect();
    let stored = StoredConnection { profile: (0..200).collect(), ..connection(1, 1) };
    for key in &keys {
        store.commit(key, None, &stored, Writer::SignIn).await.expect("serves");
    }
    for number in 0..20 {
        put(store, &format!("all:{number}"), &[number; 100], MINUTE).await.expect("serves");
    }
    put(store, "all:tiny", b"x", MINUTE).await.expect("serves");
    put(store, "all:over", b"x", Duration::ZERO).await.expect("serves");
    assert!(delete(store, &keys[0]).await);
    tokio::time::sleep(Duration::from_millis(20)).await;
    for limit in [50, MAX_PAGE, usize::MAX] {
        // One that is cut through by a new connection begins anew, as its users do.
        let mut found = walk(store, limit).await;
        for _ in 0..5 {
            if found.is_err() {
                found = walk(store, limit).await;
            }
        }
        let found = found.expect("serves");
        for key in &keys[1..] {
            let head = found.get(&RecordOf::Connection(key.clone())).expect("is there");
            assert_eq!(head[..], stored.profile[..SEALED_HEAD], "{key}");
        }
        assert!(!found.contains_key(&RecordOf::Connection(keys[0].clone())), "deleted");
        let pending = |id: &str| found.get(&RecordOf::Pending(id.to_owned()));
        for number in 0..20 {
            assert_eq!(pending(&format!("all:{number}")), Some(&vec![number; SEALED_HEAD]));
        }
        assert_eq!(pending("all:tiny").map(Vec::as_slice), Some(&b"x"[..]));
        assert_eq!(pending("all:over"), None, "expired");
    }
}

async fn oversize(store: &dyn Store) {
    let mut large = connection(1, 1);
    large.tokens = vec![0; super::record::MAX_FIELD + 1];
    let key = key("oversize", "user-1");
    assert!(store.commit(&key, None, &large, Writer::SignIn).await.is_err());
    large.tokens.pop();
    assert_eq!(store.commit(&key, None, &large, Writer::SignIn).await.expect("serves"), Committed::Done);
    assert_eq!(store.load(&key).await.expect("serves"), Some(large));
}

/// A state with the notice of its change.
pub(crate) fn telling(
    key: &ConnectionKey,
    stored: StoredConnection,
    after: Outlook,
    now: Timestamp,
) -> StoredConnection {
    let turn =
        Turn::After { before: if after == Outlook::Good { Outlook::User } else { Outlook::Good }, at: now };
    let notice = turn.notice(key, Some("tenant"), after, &stored.revision.nonce);
    StoredConnection { notice: notice.map(Box::new), ..stored }
}

/// Gathers until nothing is left, as the holder of the lease does.
pub(crate) async fn gather(store: &dyn Store, holder: LeaseNonce) {
    let taken = store.take_lease(LeaseOf::Notices, holder, LONG).await.expect("serves");
    assert!(matches!(taken, LeaseAnswer::Mine { .. }), "{taken:?}");
    // In a Cluster a hint may have gone with a test before.
    while store.gather(holder).await.expect("serves").more {}
}

/// A notice is there exactly if its change is, once, in the order of the changes; and only for the holder of
/// the lease notices get places.
async fn told(store: &dyn Store) {
    let (key, now) = (key("told", "user-1"), RealClock::shared().now());
    let begin = store.notices(0, 1).await.expect("serves").last;
    let (holder, other) = (nonce(70), nonce(71));
    let ids = async || {
        let page = store.notices(begin, 100).await.expect("serves");
        let places: Vec<u64> = page.notices.iter().map(|(place, _)| *place).collect();
        let expected: Vec<u64> = (begin + 1..).take(places.len()).collect();
        assert_eq!(places, expected, "without gaps");
        assert_eq!(page.last, begin + places.len() as u64);
        page.notices.into_iter().map(|(_, notice)| notice.id).collect::<Vec<String>>()
    };
    let id = |stored: &StoredConnection| stored.notice.as_ref().expect("it tells something").id.clone();
    let first = telling(&key, connection(1, 701), Outlook::User, now);
    let second = telling(&key, connection(2, 702), Outlook::Good, now);
    let third = connection(3, 703);
    let commit = async |expected: Option<&StoredConnection>, next: &StoredConnection| {
        let expected = expected.map(|connection| connection.revision);
        store.commit(&key, expected, next, Writer::SignIn).await.expect("serves")
    };
    assert_eq!(commit(Some(&third), &first).await, Committed::Conflict);
    assert_eq!(commit(None, &first).await, Committed::Done);
    assert_eq!(commit(None, &first).await, Committed::Done, "repeated");
    assert_eq!(commit(Some(&first), &second).await, Committed::Done);
    assert_eq!(commit(Some(&second), &third).await, Committed::Done, "tells nothing");
    // What was told before a failover is told again with the same id.
    let again = StoredConnection { notice: second.notice.clone(), ..connection(4, 704) };
    assert_eq!(commit(Some(&third), &again).await, Committed::Done);
    gather(store, holder).await;
    assert_eq!(ids().await, [id(&first), id(&second)]);
    assert_eq!(store.place_of(&id(&second)).await.expect("serves"), Some(begin + 2));
    assert_eq!(store.place_of("0").await.expect("serves"), None);
    let loaded = store.load(&key).await.expect("serves").expect("it is there");
    assert_eq!(loaded.notice, None, "only the change tells");
    // Whoever has not the lease moves nothing, and loses nothing.
    let deleted = Notice::deleted(&key, &FIRST, None, now);
    let another = SignIn { number: 9, nonce: [9; 8] };
    let delete = async |meant| store.delete(&key, meant, false, Some(&deleted)).await.expect("serves");
    assert_eq!(delete(another).await, Deleted::Another);
    assert_eq!(delete(FIRST).await, Deleted::Gone);
    assert_eq!(delete(FIRST).await, Deleted::Absent, "repeated");
    store.gather(other).await.expect("serves");
    gather(store, holder).await;
    gather(store, holder).await;
    assert_eq!(ids().await, [id(&first), id(&second), deleted.id.clone()]);
    // Beside a pending record.
    let app = app_name("told");
    let of_app = |turn| Notice::of_app(&app, NoticeKind::CredentialRejected, None, turn, now);
    let deadline = Deadline::after(now, LONG);
    let swap = async |expected: Option<&[u8]>, sealed: &[u8], notices: &[Notice]| {
        store.swap_telling("told", expected, sealed, deadline, notices).await.expect("serves")
    };
    assert!(!swap(Some(b"0"), b"1", &[of_app("0")]).await);
    assert!(swap(None, b"1", &[of_app("1")]).await);
    assert!(swap(None, b"1", &[of_app("1")]).await, "repeated");
    assert!(swap(Some(b"1"), b"2", &[]).await, "it tells nothing");
    assert!(swap(Some(b"2"), b"3", &[of_app("2"), of_app("3")]).await);
    gather(store, holder).await;
    assert_eq!(ids().await[3..], [of_app("1").id, of_app("2").id, of_app("3").id]);
    assert!(store.notices(begin + 6, 100).await.expect("serves").notices.is_empty());
    let page = store.notices(begin + 1, 2).await.expect("serves").notices;
    assert_eq!(page.iter().map(|(place, _)| place - begin).collect::<Vec<_>>(), [2, 3]);
    store.release_lease(LeaseOf::Notices, holder, true).await.expect("serves");
}
