//! A store that reports to an observer: how often, how long and how well each operation ran.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::{
    Change, Committed, ConnectionPage, Counted, Deadline, Deleted, Due, Floor, Gathered, LeaseAnswer,
    LeaseNonce, LeaseOf, Leases, Most, NoticePage, Notices, Pending, Records, Reseal, Revision, Schedule,
    SealedPage, Store, StoreError, StoredConnection, StoredProfile, Writer,
};
use crate::domain::connection::SignIn;
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
use crate::domain::notice::Notice;
use crate::domain::time::{Clock, Timestamp};
use crate::span::{self, Value};

/// Every word by which an observer is told of an operation.
pub const OPERATIONS: [&str; 29] = [
    "ping",
    "adopt",
    "load",
    "revision",
    "commit",
    "take_lease",
    "extend_lease",
    "release_lease",
    "schedule",
    "due",
    "mark_used",
    "floor",
    "delete",
    "profiles",
    "list",
    "put_pending",
    "pending",
    "take_pending",
    "swap_pending",
    "count_in",
    "count_out",
    "counted",
    "swap_telling",
    "gather",
    "notices",
    "place_of",
    "sealed",
    "reseal",
    "reseal_pending",
];

/// A property of a running store that puts records at risk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Risk {
    /// It evicts records when it is full.
    Eviction,
    /// It keeps its data in memory alone.
    Persistence,
    /// A failover would find no replica.
    Replicas,
    /// It is nearly full. The remaining room is kept for connections.
    Full,
    /// Its settings cannot be read.
    Unknown,
}

impl Risk {
    /// Each of them.
    pub const ALL: [Risk; 5] = [Risk::Eviction, Risk::Persistence, Risk::Replicas, Risk::Full, Risk::Unknown];

    /// The word for metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Risk::Eviction => "eviction",
            Risk::Persistence => "persistence",
            Risk::Replicas => "replicas",
            Risk::Full => "full",
            Risk::Unknown => "unknown",
        }
    }
}

const DISK_NEARLY_FULL: &str = "the disk of the embedded store is nearly full: new connect sessions are \
                                refused, and what is left is for connections. Make room on it";

/// Is told of every operation of a store.
pub trait StoreObserver: Send + Sync {
    /// One operation ended. `operation` is the method's name; a conflict or a "not found" is no error. An
    /// operation whose caller went away is not reported: nobody waited for its end.
    fn operation(&self, operation: &'static str, elapsed: Duration, error: bool);

    /// The outer form of a stored record cannot be read.
    fn corrupt(&self, error: &StoreError);

    /// The content of a secret's file (`secret` says which) is refused or cannot be used, while the content
    /// from before stays in use; or it is in use from now on. Reported when that changes.
    fn login(&self, secret: &'static str, is_refused: bool, since: Timestamp);

    /// A risk exists, in words that say what to do; or, with `None`, it is gone. Reported when that changes.
    fn risk(&self, risk: Risk, what: Option<&str>);
}

/// Any store, with an observer of its operations.
pub struct Observed<S> {
    store: S,
    observer: Arc<dyn StoreObserver>,
    clock: Arc<dyn Clock>,
    /// Whether the observer was told that there is no room, for a store that does not say it itself.
    said_full: AtomicBool,
}

impl<S: Store> Observed<S> {
    /// Puts `observer` before `store`.
    pub fn new(store: S, observer: Arc<dyn StoreObserver>, clock: Arc<dyn Clock>) -> Self {
        Observed { store, observer, clock, said_full: AtomicBool::new(false) }
    }

    /// The store behind.
    pub fn inner(&self) -> &S {
        &self.store
    }

    async fn watch<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        debug_assert!(OPERATIONS.contains(&operation), "{operation} is not in the list of operations");
        let start = self.clock.monotonic();
        let answer = match span::begin_operation("store", operation) {
            None => work.await,
            Some(span) => {
                let answer = Box::pin(span::within(Some(&span), work)).await;
                if answer.is_err() {
                    span.fail(Value::Word("store"));
                }
                answer
            }
        };
        let elapsed = self.clock.monotonic().saturating_sub(start);
        self.observer.operation(operation, elapsed, answer.is_err());
        if let Err(error @ StoreError::Corrupt { .. }) = &answer {
            self.observer.corrupt(error);
        }
        answer
    }
}

#[async_trait]
impl<S: Store> Store for Observed<S> {
    fn is_shared(&self) -> bool {
        self.store.is_shared()
    }

    fn id(&self) -> Option<String> {
        self.store.id()
    }

    async fn ping(&self) -> Result<(), StoreError> {
        // A shared store reports its own risks, server by server.
        let is_full = !self.store.is_shared() && !self.store.has_room();
        if self.said_full.swap(is_full, Ordering::Relaxed) != is_full {
            let what = is_full.then_some(DISK_NEARLY_FULL);
            match what {
                Some(what) => tracing::warn!(risk = Risk::Full.as_str(), "{what}"),
                None => tracing::info!(risk = Risk::Full.as_str(), "there is room on the store's disk again"),
            }
            self.observer.risk(Risk::Full, what);
        }
        self.watch("ping", self.store.ping()).await
    }

    fn has_room(&self) -> bool {
        self.store.has_room()
    }

    async fn adopt(&self) -> Result<(), StoreError> {
        self.watch("adopt", self.store.adopt()).await
    }

    /// Not reported: waiting is no operation.
    async fn next_change(&self) -> Change {
        self.store.next_change().await
    }
}

#[async_trait]
impl<S: Store> Records for Observed<S> {
    async fn load(&self, key: &ConnectionKey) -> Result<Option<StoredConnection>, StoreError> {
        self.watch("load", self.store.load(key)).await
    }

    async fn revision(&self, key: &ConnectionKey) -> Result<Option<Revision>, StoreError> {
        self.watch("revision", self.store.revision(key)).await
    }

    async fn commit(
        &self,
        key: &ConnectionKey,
        expected: Option<Revision>,
        connection: &StoredConnection,
        writer: Writer,
    ) -> Result<Committed, StoreError> {
        self.watch("commit", self.store.commit(key, expected, connection, writer)).await
    }

    async fn floor(&self, key: &ConnectionKey) -> Result<Floor, StoreError> {
        self.watch("floor", self.store.floor(key)).await
    }

    async fn delete(
        &self,
        key: &ConnectionKey,
        meant: SignIn,
        cuts_off: bool,
        notice: Option<&Notice>,
    ) -> Result<Deleted, StoreError> {
        self.watch("delete", self.store.delete(key, meant, cuts_off, notice)).await
    }

    async fn profiles(&self, keys: &[ConnectionKey]) -> Result<Vec<Option<StoredProfile>>, StoreError> {
        self.watch("profiles", self.store.profiles(keys)).await
    }

    async fn list(
        &self,
        app: &AppName,
        prefix: &str,
        after: Option<&ConnectionName>,
        limit: usize,
    ) -> Result<ConnectionPage, StoreError> {
        self.watch("list", self.store.list(app, prefix, after, limit)).await
    }
}

#[async_trait]
impl<S: Store> Leases for Observed<S> {
    async fn take_lease(
        &self,
        of: LeaseOf<'_>,
        nonce: LeaseNonce,
        ttl: Duration,
    ) -> Result<LeaseAnswer, StoreError> {
        self.watch("take_lease", self.store.take_lease(of, nonce, ttl)).await
    }

    async fn extend_lease(
        &self,
        of: LeaseOf<'_>,
        nonce: LeaseNonce,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        self.watch("extend_lease", self.store.extend_lease(of, nonce, ttl)).await
    }

    async fn release_lease(
        &self,
        of: LeaseOf<'_>,
        nonce: LeaseNonce,
        settled: bool,
    ) -> Result<(), StoreError> {
        self.watch("release_lease", self.store.release_lease(of, nonce, settled)).await
    }
}

#[async_trait]
impl<S: Store> Schedule for Observed<S> {
    async fn schedule(&self, key: &ConnectionKey, due_at: Option<Timestamp>) -> Result<(), StoreError> {
        self.watch("schedule", self.store.schedule(key, due_at)).await
    }

    async fn due(&self, shard: u8, until: Timestamp, limit: usize) -> Result<Vec<Due>, StoreError> {
        self.watch("due", self.store.due(shard, until, limit)).await
    }

    async fn mark_used(&self, key: &ConnectionKey, at: Timestamp) -> Result<(), StoreError> {
        self.watch("mark_used", self.store.mark_used(key, at)).await
    }
}

#[async_trait]
impl<S: Store> Pending for Observed<S> {
    async fn put_pending(&self, id: &str, sealed: &[u8], deadline: Deadline) -> Result<(), StoreError> {
        self.watch("put_pending", self.store.put_pending(id, sealed, deadline)).await
    }

    async fn pending(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.watch("pending", self.store.pending(id)).await
    }

    async fn take_pending(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.watch("take_pending", self.store.take_pending(id)).await
    }

    async fn swap_pending(
        &self,
        id: &str,
        expected: Option<&[u8]>,
        sealed: &[u8],
        deadline: Deadline,
    ) -> Result<bool, StoreError> {
        self.watch("swap_pending", self.store.swap_pending(id, expected, sealed, deadline)).await
    }

    async fn count_in(
        &self,
        owner: &str,
        entry: &str,
        until: Timestamp,
        most: Most<'_>,
    ) -> Result<Counted, StoreError> {
        self.watch("count_in", self.store.count_in(owner, entry, until, most)).await
    }

    async fn count_out(&self, owner: &str, entry: &str) -> Result<(), StoreError> {
        self.watch("count_out", self.store.count_out(owner, entry)).await
    }

    async fn counted(&self, owner: &str) -> Result<Vec<String>, StoreError> {
        self.watch("counted", self.store.counted(owner)).await
    }
}

#[async_trait]
impl<S: Store> Notices for Observed<S> {
    async fn swap_telling(
        &self,
        id: &str,
        expected: Option<&[u8]>,
        sealed: &[u8],
        deadline: Deadline,
        notices: &[Notice],
    ) -> Result<bool, StoreError> {
        self.watch("swap_telling", self.store.swap_telling(id, expected, sealed, deadline, notices)).await
    }

    async fn gather(&self, nonce: LeaseNonce) -> Result<Gathered, StoreError> {
        self.watch("gather", self.store.gather(nonce)).await
    }

    async fn notices(&self, after: u64, limit: usize) -> Result<NoticePage, StoreError> {
        self.watch("notices", self.store.notices(after, limit)).await
    }

    async fn place_of(&self, id: &str) -> Result<Option<u64>, StoreError> {
        self.watch("place_of", self.store.place_of(id)).await
    }
}

#[async_trait]
impl<S: Store> Reseal for Observed<S> {
    async fn sealed(&self, after: Option<&str>, limit: usize) -> Result<SealedPage, StoreError> {
        self.watch("sealed", self.store.sealed(after, limit)).await
    }

    async fn reseal(
        &self,
        key: &ConnectionKey,
        before: &StoredConnection,
        after: &StoredConnection,
    ) -> Result<bool, StoreError> {
        self.watch("reseal", self.store.reseal(key, before, after)).await
    }

    async fn reseal_pending(&self, id: &str, before: &[u8], after: &[u8]) -> Result<bool, StoreError> {
        self.watch("reseal_pending", self.store.reseal_pending(id, before, after)).await
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::super::embedded::{EmbeddedConfig, EmbeddedStore};
    use super::super::suite::{CountingRandom, RealClock, connection, key};
    use super::*;

    #[derive(Default)]
    struct Seen(Mutex<Vec<(&'static str, bool)>>);

    impl StoreObserver for Seen {
        fn corrupt(&self, _: &StoreError) {}

        fn risk(&self, _: Risk, _: Option<&str>) {}

        fn operation(&self, operation: &'static str, _elapsed: Duration, error: bool) {
            self.0.lock().push((operation, error));
        }

        fn login(&self, _secret: &'static str, _is_refused: bool, _since: Timestamp) {}
    }

    #[tokio::test]
    async fn every_operation_is_reported_and_only_failures_are_errors() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let config = EmbeddedConfig::new(directory.path().join("store"));
        let store = EmbeddedStore::open(&config, RealClock::shared(), &CountingRandom::new()).expect("opens");
        let seen = Arc::new(Seen::default());
        let store = Observed::new(store, Arc::clone(&seen) as Arc<dyn StoreObserver>, RealClock::shared());
        let key = key("app", "user");
        assert_eq!(store.load(&key).await.expect("serves"), None);
        let mut stored = connection(1, 1);
        let conflict =
            store.commit(&key, Some(stored.revision), &stored, Writer::SignIn).await.expect("serves");
        assert_eq!(conflict, Committed::Conflict);
        stored.grant = vec![0; super::super::record::MAX_FIELD + 1];
        assert!(store.commit(&key, None, &stored, Writer::SignIn).await.is_err());
        let seen = seen.0.lock();
        assert_eq!(*seen, [("load", false), ("commit", false), ("commit", true)]);
        assert!(!store.is_shared());
    }
}
