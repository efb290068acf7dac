//! The store: where connections live. It holds bytes that were sealed before they came here.
//!
//! May know: `domain`'s names and times, and its own engine. Cannot open a record and never needs to.
//!
//! Invariants:
//! 1. A commit happens exactly when the stored revision equals the expected one, in one atomic step (I5).
//! 2. What was acknowledged is durable as far as the engine's own promise goes (SEMANTICS.md).
//! 3. A pending record is taken at most once, whoever asks, from wherever (I10).
//! 4. A lost or refused store is an error, never "not found".
//!
//! The one hard problem: an answer that did not come. Every operation here is safe to repeat.

pub mod embedded;
pub mod keyspace;
pub mod observed;
pub mod record;
pub mod redis;
#[cfg(test)]
mod suite;
#[cfg(any(test, feature = "testkit"))]
pub mod testing;

use std::time::Duration;

use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
use crate::domain::task::BoxFuture;
use crate::domain::time::Timestamp;

/// Which state of a record this is. The nonce is random, so that a number handed out twice (a failover that
/// dropped the last write, a connection deleted and made again) is still another revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Revision {
    /// Counts up by one with every commit.
    pub generation: u64,
    /// Random, new with every commit.
    pub nonce: [u8; 16],
}

/// A connection as it is stored: sealed fields, and what the store needs to find it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredConnection {
    /// Which state this is.
    pub revision: Revision,
    /// Everything but secrets (account, scopes, status), sealed.
    pub profile: Vec<u8>,
    /// Access tokens, sealed.
    pub tokens: Vec<u8>,
    /// Refresh tokens, sealed.
    pub grant: Vec<u8>,
}

/// What became of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// It is stored.
    Done,
    /// The stored revision was another one (or there was none, or one where none was expected): nothing changed.
    Conflict,
}

/// A page of connections, ordered by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectionPage {
    /// The connections of this page.
    pub connections: Vec<(ConnectionName, StoredConnection)>,
    /// The name to continue after; none on the last page.
    pub next: Option<ConnectionName>,
}

/// What went wrong with the store. Whose fault: the operator's or the network's, never a caller's.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It could not be reached, timed out or is not able to serve now; it will heal by itself or by its operator.
    #[error("the store could not be reached while {doing}: {cause}")]
    Unavailable {
        /// What we were doing.
        doing: &'static str,
        /// Why, without any stored byte.
        cause: String,
    },
    /// What is stored cannot be read: another format, or damage.
    #[error("a stored record cannot be read while {doing}: {cause}")]
    Corrupt {
        /// What we were doing.
        doing: &'static str,
        /// Why, without any stored byte.
        cause: String,
    },
}

impl StoreError {
    pub(crate) fn unavailable(doing: &'static str, cause: impl std::fmt::Display) -> Self {
        StoreError::Unavailable { doing, cause: cause.to_string() }
    }

    pub(crate) fn corrupt(doing: &'static str, cause: impl std::fmt::Display) -> Self {
        StoreError::Corrupt { doing, cause: cause.to_string() }
    }
}

/// The most connections one page of [`Store::list`] holds, whatever was asked: a page is held in memory whole.
pub const MAX_PAGE: usize = 1000;

/// Where connections and pending sessions live.
pub trait Store: Send + Sync {
    /// Whether other processes may change what is stored, so that what is held in memory must be checked again.
    fn is_shared(&self) -> bool;

    /// Answers once the store can serve.
    fn ping(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Looks a connection up.
    fn load<'a>(
        &'a self,
        key: &'a ConnectionKey,
    ) -> BoxFuture<'a, Result<Option<StoredConnection>, StoreError>>;

    /// Looks only a connection's revision up: cheaper than [`Store::load`], for checking what is held in memory.
    fn revision<'a>(&'a self, key: &'a ConnectionKey) -> BoxFuture<'a, Result<Option<Revision>, StoreError>>;

    /// Stores a connection if its stored revision is `expected` (`None`: if there is none). Repeating a commit whose
    /// answer was lost says [`Committed::Done`] when the stored revision is already the new one.
    fn commit<'a>(
        &'a self,
        key: &'a ConnectionKey,
        expected: Option<Revision>,
        connection: &'a StoredConnection,
    ) -> BoxFuture<'a, Result<Committed, StoreError>>;

    /// Destroys a connection, whatever its revision. False when there was none.
    fn delete<'a>(&'a self, key: &'a ConnectionKey) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// The connections of one app whose names begin with `prefix`, ordered by name (bytes), after `after`.
    fn list<'a>(
        &'a self,
        app: &'a AppName,
        prefix: &'a str,
        after: Option<&'a ConnectionName>,
        limit: usize,
    ) -> BoxFuture<'a, Result<ConnectionPage, StoreError>>;

    /// Keeps a pending record (a connect session, a state) until `expires_at`, replacing any of that id.
    fn put_pending<'a>(
        &'a self,
        id: &'a str,
        sealed: &'a [u8],
        expires_at: Timestamp,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Looks a pending record up; an expired one is not there.
    fn pending<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, StoreError>>;

    /// Takes a pending record away: of many who ask, one gets it.
    fn take_pending<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, StoreError>>;

    /// Replaces a pending record if it still is `expected`, byte for byte. False, and nothing changed, otherwise.
    /// A record that already is `sealed` counts as replaced, so that repeating a swap whose answer was lost says true:
    /// what is sealed twice never has the same bytes, so nobody else's swap can be mistaken for ours.
    fn swap_pending<'a>(
        &'a self,
        id: &'a str,
        expected: &'a [u8],
        sealed: &'a [u8],
        expires_at: Timestamp,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool, StoreError>>;
}
