//! The store: where connections live. It holds bytes that were sealed before they came here.
//!
//! May know: `domain`'s names and times, and its own engine. Cannot open a record and never needs to.
//!
//! Invariants:
//! 1. A commit happens exactly when the stored revision equals the expected one and nobody else holds the lease, in one
//!    atomic step (I5).
//! 2. What was acknowledged is durable as far as the engine's own promise goes (SEMANTICS.md).
//! 3. A pending record is taken at most once, whoever asks, from wherever (I10).
//! 4. A lost or refused store is an error, never "not found"; so is one that is not the one that was there before.
//! 5. What was sealed anew is never replaced by what it was before, by a commit that is repeated either.
//!
//! The one hard problem: an answer that did not come. Every operation here is safe to repeat.

pub mod embedded;
pub mod keyspace;
pub mod observed;
mod port;
#[cfg(any(test, feature = "testkit"))]
pub mod properties;
pub mod record;
pub mod redis;
pub(crate) mod rules;
#[cfg(test)]
pub(crate) mod suite;
#[cfg(any(test, feature = "testkit"))]
pub mod testing;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::port::{Leases, Pending, Records, Reseal, Schedule, Store};
use crate::domain::connection::SignIn;
use crate::domain::id::{ConnectionKey, ConnectionName};
use crate::domain::time::Timestamp;

/// Which state of a record this is. The nonce is random, so that a number handed out twice (a failover that
/// dropped the last write, a connection deleted and made again) is still another revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Revision {
    /// Which of the connection's sign-ins it descends from.
    pub sign_in: SignIn,
    /// Counts up with every commit.
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

/// What a connection's record begins with: all that it takes to show it. Its tokens and its grant are not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredProfile {
    /// Which state this is.
    pub revision: Revision,
    /// As [`StoredConnection::profile`].
    pub profile: Vec<u8>,
}

impl From<StoredConnection> for StoredProfile {
    fn from(stored: StoredConnection) -> Self {
        StoredProfile { revision: stored.revision, profile: stored.profile }
    }
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// It is stored.
    Done,
    /// The stored revision was another one (or there was none, or one where none was expected): nothing changed.
    Conflict,
    /// Somebody else holds the connection's lease: nothing changed, and once they are done it may be tried again.
    Fenced,
}

/// The random value that names one holding of a lease. A commit carries it, so that a holder whose lease has passed to
/// somebody else loses; a counter would not do, since a failover can hand the same number out twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseNonce(pub [u8; 16]);

impl std::fmt::Debug for LeaseNonce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LeaseNonce({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

/// What a lease is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeaseOf<'a> {
    /// The right to refresh one connection.
    Connection(&'a ConnectionKey),
    /// The right to work off one shard of what is due ([`Schedule::due`]).
    Sweep(u8),
    /// The right to seal records anew, for all of them.
    Rewrap,
}

/// The answer to an attempt at a lease. (The third one, that the store cannot be reached, is the error.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// Ours, until its time to live has passed since it was asked for.
    Mine {
        /// An earlier holder began to use a grant of this sign-in, and nobody ever learnt how that ended.
        unsettled: bool,
    },
    /// Someone else's, for so long at the most.
    Theirs {
        /// What is left of it.
        left: Duration,
    },
}

/// On whose word a commit is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// The holder of the connection's lease, with what the authority granted: refused with [`Committed::Fenced`] while
    /// somebody else holds it. When it is stored, the lease is given back and what its holder began is settled.
    Lease(LeaseNonce),
    /// The same with what leaves the grant that is there: the authority's verdict, or an answer without a new refresh token.
    /// What somebody else began with it since stays in doubt.
    Verdict(LeaseNonce),
    /// A user's sign-in. It needs no lease, for it uses no grant: it brings one, and nothing that was begun with the one
    /// before matters any more. Only whoever holds the lease now may be about to use the new one.
    SignIn,
    /// An operator's act, which leaves the grant and whatever is under way as they are.
    Operator,
    /// Whoever stores again what the store had and has lost: refused with [`Committed::Fenced`] while anybody holds the
    /// lease.
    Again {
        /// What is there is another grant than what is put over it.
        replaces_grant: bool,
    },
}

impl Writer {
    /// Whose lease it is made under.
    pub fn lease(self) -> Option<LeaseNonce> {
        match self {
            Writer::Lease(nonce) | Writer::Verdict(nonce) => Some(nonce),
            Writer::SignIn | Writer::Operator | Writer::Again { .. } => None,
        }
    }

    /// Whether it must not happen while somebody else holds the lease.
    pub fn is_fenced(self) -> bool {
        match self {
            Writer::Lease(_) | Writer::Verdict(_) | Writer::Again { .. } => true,
            Writer::SignIn | Writer::Operator => false,
        }
    }

    /// Whether it puts another grant in the place of the one that is there, so that no doubt about that one matters.
    pub fn replaces_grant(self) -> bool {
        match self {
            Writer::Lease(_) | Writer::SignIn => true,
            Writer::Verdict(_) | Writer::Operator => false,
            Writer::Again { replaces_grant } => replaces_grant,
        }
    }
}

/// A connection whose time to be looked at has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Which.
    pub key: ConnectionKey,
    /// Since when.
    pub due_at: Timestamp,
    /// When it was last noted that somebody used it ([`Schedule::mark_used`]).
    pub used_at: Option<Timestamp>,
}

/// What is due is kept in this many shards, so that replicas can share the work.
pub const SWEEP_SHARDS: u8 = 16;

/// What another process did to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// This connection was committed or deleted, or its lease was given back.
    Connection(ConnectionKey),
    /// Changes may have been missed: anything may be another than it was.
    Missed,
}

/// When a pending record expires. A store with its own clock is told the instant, Redis the time that is left: the two
/// always agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    at: Timestamp,
    ttl: Duration,
}

impl Deadline {
    /// So long after `now`.
    pub fn after(now: Timestamp, ttl: Duration) -> Self {
        Deadline { at: now.plus(ttl), ttl }
    }

    /// The instant.
    pub fn at(self) -> Timestamp {
        self.at
    }

    /// The time to live, from when the deadline was set.
    pub fn ttl(self) -> Duration {
        self.ttl
    }
}

/// A page of connections, ordered by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectionPage {
    /// The connections of this page.
    pub connections: Vec<(ConnectionName, StoredProfile)>,
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

/// For how long it is remembered that a name's connection was deleted. A sign-in that is still on its way after that, to be
/// stored where nothing is, would be.
pub const FLOOR_KEPT: Duration = Duration::from_secs(24 * 3600);

/// What deletes leave of a connection's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// The least number of a sign-in that the connection may be made with: above everything that was deleted.
    pub number: u64,
    /// Rises with every delete that has the last word on what had begun before it.
    pub cut: u64,
}

/// That of a name of which nothing is remembered.
pub const LOWEST_FLOOR: Floor = Floor { number: 1, cut: 0 };

/// What became of a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// It was there, and is no more.
    Gone,
    /// There was none.
    Absent,
    /// There is one of another sign-in than was meant: nothing changed.
    Another,
}

/// Whether one more was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// It counts.
    In,
    /// There are as many as there may be: nothing changed.
    Full {
        /// Of which there are as many.
        which: Full,
        /// When the first of them ends, unless it is counted out before.
        until: Timestamp,
    },
}

/// Of what there are as many as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Of the owner's entries.
    Owner,
    /// Of those of the group.
    Group,
}

/// How many entries may count at once.
#[derive(Debug, Clone, Copy)]
pub struct Most<'a> {
    /// Of the owner's: at least 1, at most [`MOST_COUNTED`].
    pub of_owner: usize,
    /// Of those that belong together, if these have a limit of their own.
    pub of_group: Option<Group<'a>>,
}

/// Entries of one owner that belong together, because they begin alike.
#[derive(Debug, Clone, Copy)]
pub struct Group<'a> {
    /// What each of them begins with.
    pub prefix: &'a str,
    /// How many may count at once, at least 1. A count looks at each entry of the owner for it.
    pub most: usize,
}

impl<'a> Most<'a> {
    /// So many of the owner's.
    pub fn of_owner(most: usize) -> Self {
        Most { of_owner: most, of_group: None }
    }

    /// And so many of those that begin with `prefix`.
    #[must_use]
    pub fn and_of_group(self, prefix: &'a str, most: usize) -> Self {
        Most { of_group: Some(Group { prefix, most }), ..self }
    }
}

/// The most entries that one owner may have: a count looks at each of them.
pub const MOST_COUNTED: usize = 10_000;

/// Which stored record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordOf {
    /// A connection's.
    Connection(ConnectionKey),
    /// A pending one, by its id.
    Pending(String),
}

/// How much of a sealed value is enough to see which sealing key it names.
pub const SEALED_HEAD: usize = 67;

/// A stored record, and how it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedRecord {
    /// Which.
    pub of: RecordOf,
    /// The first [`SEALED_HEAD`] sealed bytes, or all of them: those of a connection's profile, for all its fields are sealed
    /// by one key. Empty when the record cannot be read.
    pub head: Vec<u8>,
}

/// A page of everything that is stored, in no order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SealedPage {
    /// What was found. A page may be empty and not the last; a record may come twice.
    pub records: Vec<SealedRecord>,
    /// Where to go on; none on the last page.
    pub next: Option<String>,
}

/// The most connections one page of [`Records::list`] holds, whatever was asked: a page is held in memory whole.
pub const MAX_PAGE: usize = 1000;
