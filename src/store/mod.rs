//! The store keeps connections. It holds bytes that were sealed before they came here. [`Store`] is what the
//! core asks of it.
//!
//! May know: `domain`'s names and times, and its own engine. Cannot open a record and never needs to.
//!
//! Invariants:
//! 1. A commit happens exactly when the stored revision equals the expected one and nobody else holds the
//!    lease, in one atomic step (I5).
//! 2. What was acknowledged is durable as far as the engine's own promise goes (SEMANTICS.md).
//! 3. A pending record is taken at most once, by any caller of any process (I10).
//! 4. A store that is lost, refuses, or is not the one that was there before, is an error, never "not found".
//! 5. A resealed record is never replaced by the bytes from before, not by a repeated commit either.
//! 6. A notice is written in the step that makes its change, or not at all. Notices of one connection, and of
//!    one pending record, keep their order.
//!
//! The one hard problem: an answer that did not come. So every operation is safe to repeat.

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
pub(crate) mod telling;
#[cfg(any(test, feature = "testkit"))]
pub mod testing;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::port::{Leases, Notices, Pending, Records, Reseal, Schedule, Store};
pub use self::telling::{Gathered, MOST_NOTICES, NoticePage};
use crate::domain::connection::SignIn;
use crate::domain::id::{ConnectionKey, ConnectionName};
use crate::domain::notice::Notice;
use crate::domain::time::Timestamp;

/// Identifies one state of a record. The nonce is random, so two states with the same generation still
/// differ. (A failover that loses the last write can hand out a generation twice, and so can a connection
/// that is deleted and made again.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Revision {
    /// The sign-in that the state descends from.
    pub sign_in: SignIn,
    /// Rises with every commit.
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
    /// What this state tells, written in the step that stores it. A state that was loaded has none.
    pub notice: Option<Box<Notice>>,
}

/// The beginning of a connection's record: enough to show the connection, without reading its tokens or its
/// grant.
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

/// The answer to a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// It is stored.
    Done,
    /// The stored revision is not the expected one, or the connection was to be created and is there, or is
    /// below its floor: nothing changed.
    Conflict,
    /// Another replica holds the connection's lease: nothing changed. The commit may be tried again once that
    /// lease is over.
    Fenced,
}

/// The random value that identifies one holding of a lease. A commit carries it and is refused if another
/// nonce holds the lease by then. (A failover can hand out the same number twice, so a counter would not do.)
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseNonce(pub [u8; 16]);

impl std::fmt::Debug for LeaseNonce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LeaseNonce({}…)", hex::encode(&self.0[..2]))
    }
}

/// What a lease is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeaseOf<'a> {
    /// The right to refresh one connection.
    Connection(&'a ConnectionKey),
    /// The right to work off one shard of what is due ([`Schedule::due`]).
    Sweep(u8),
    /// The right to seal records anew, for all of them.
    Rewrap,
    /// The right to order notices and deliver them to webhooks.
    Notices,
}

/// The answer to an attempt to take a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// It is ours. Its time to live counts from before the store was asked.
    Mine {
        /// An earlier intent about a grant of this sign-in is unsettled.
        unsettled: bool,
        /// For a connection: the revision that was stored when the lease was taken, in the same step; `None`
        /// if there was no record that can be read.
        stored: Option<Revision>,
    },
    /// Another replica holds it.
    Theirs {
        /// The time until that lease ends at the latest.
        left: Duration,
    },
}

/// Who makes a commit, and so which rules it is under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// The holder of the connection's lease, with a new grant from the authority. Refused with
    /// [`Committed::Fenced`] while another replica holds the lease. Once it is stored, the lease is given
    /// back and its intent is settled.
    Lease(LeaseNonce),
    /// The holder of the lease, with a change that leaves the grant as it is: a verdict of the authority, or
    /// an answer without a new refresh token. It does not settle other holders' intents. (The simulation's
    /// stories print this name, so renaming it changes their hashes.)
    Verdict(LeaseNonce),
    /// A user's sign-in. It brings a new grant and uses none, so it needs no lease. It settles the intent
    /// about the old grant, unless another replica holds the lease: that one may be about to use the new
    /// grant.
    SignIn,
    /// An operator's act. It leaves the grant, the lease and the intent as they are.
    Operator,
    /// A record that is stored again after a failover lost it. Refused with [`Committed::Fenced`] while any
    /// replica holds the lease.
    Again {
        /// True if the stored record has another grant.
        replaces_grant: bool,
    },
}

impl Writer {
    /// The lease of the commit.
    pub fn lease(self) -> Option<LeaseNonce> {
        match self {
            Writer::Lease(nonce) | Writer::Verdict(nonce) => Some(nonce),
            Writer::SignIn | Writer::Operator | Writer::Again { .. } => None,
        }
    }

    /// True if the commit is refused while another replica holds the lease.
    pub fn is_fenced(self) -> bool {
        match self {
            Writer::Lease(_) | Writer::Verdict(_) | Writer::Again { .. } => true,
            Writer::SignIn | Writer::Operator => false,
        }
    }

    /// True if the commit replaces the stored grant, so that an intent about that grant no longer matters.
    pub fn replaces_grant(self) -> bool {
        match self {
            Writer::Lease(_) | Writer::SignIn => true,
            Writer::Verdict(_) | Writer::Operator => false,
            Writer::Again { replaces_grant } => replaces_grant,
        }
    }
}

/// A due connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The connection.
    pub key: ConnectionKey,
    /// When it became due.
    pub due_at: Timestamp,
    /// Its last noted use ([`Schedule::mark_used`]).
    pub used_at: Option<Timestamp>,
}

/// The number of shards of the schedule: replicas share the work by shard.
pub const SWEEP_SHARDS: u8 = 16;

/// A change that another process made to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// This connection was committed or deleted, or its lease was given back.
    Connection(ConnectionKey),
    /// Messages may have been lost: any connection may have changed.
    Missed,
}

/// When a pending record expires. The embedded store needs the instant, Redis the time to live: here they
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
    /// The name after which the next page begins; `None` on the last page.
    pub next: Option<ConnectionName>,
}

/// What went wrong with the store. Whose fault: the operator's or the network's, never a caller's.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store could not be reached, timed out or cannot serve now. It heals by itself or by its operator.
    #[error("the store could not be used while {doing}: {cause}")]
    Unavailable {
        /// What we were doing.
        doing: &'static str,
        /// Why, without any stored byte.
        cause: String,
    },
    /// The store's own disk has no room for what was to be written. Nobody knows what reached it.
    #[error("the disk of the store is full while {doing}: {cause}")]
    Full {
        /// What we were doing.
        doing: &'static str,
        /// Why, without any stored byte.
        cause: String,
    },
    /// A stored record cannot be read: it has another format, or is damaged.
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

/// How long the floor of a deleted connection is kept. A sign-in that began before the delete and is to be
/// stored later than this would be stored.
pub const FLOOR_KEPT: Duration = Duration::from_secs(24 * 3600);

/// The mark that deletes leave on a connection's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// A new connection of this name needs a sign-in with at least this number: it is above everything
    /// deleted.
    pub number: u64,
    /// Rises with every delete that also refuses the sign-ins that had only begun.
    pub cut: u64,
}

/// The floor of a name on which no delete left a mark.
pub const LOWEST_FLOOR: Floor = Floor { number: 1, cut: 0 };

/// The answer to a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// The connection was there and is gone.
    Gone,
    /// There was no connection.
    Absent,
    /// The connection descends from another sign-in than was meant: nothing changed.
    Another,
}

/// The answer to a count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// The entry counts.
    In,
    /// The limit is reached: nothing changed.
    Full {
        /// The limit that is reached.
        which: Full,
        /// When the first of the counted entries ends, unless it is counted out before.
        until: Timestamp,
    },
}

/// A limit on counted entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// On all entries of the owner.
    Owner,
    /// On those of the group.
    Group,
}

/// Limits on the entries that count at once.
#[derive(Debug, Clone, Copy)]
pub struct Most<'a> {
    /// On those of the owner: at least 1, at most [`MOST_COUNTED`].
    pub of_owner: usize,
    /// On those of a group, if the group has a limit of its own.
    pub of_group: Option<Group<'a>>,
}

/// Entries of one owner that begin alike.
#[derive(Debug, Clone, Copy)]
pub struct Group<'a> {
    /// The common beginning.
    pub prefix: &'a str,
    /// The limit, at least 1. For it a count reads each entry of the owner.
    pub most: usize,
}

impl<'a> Most<'a> {
    /// A limit on the entries of the owner.
    pub fn of_owner(most: usize) -> Self {
        Most { of_owner: most, of_group: None }
    }

    /// The same with a limit on the entries that begin with `prefix`.
    #[must_use]
    pub fn and_of_group(self, prefix: &'a str, most: usize) -> Self {
        Most { of_group: Some(Group { prefix, most }), ..self }
    }
}

/// The most entries that one owner may have: a count reads each of them.
pub const MOST_COUNTED: usize = 10_000;

/// Identifies a stored record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordOf {
    /// A connection's.
    Connection(ConnectionKey),
    /// A pending record's, by its id.
    Pending(String),
}

/// The length of the beginning of a sealed value that names its sealing key.
pub const SEALED_HEAD: usize = 67;

/// A stored record, and the beginning of its sealed bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedRecord {
    /// The record.
    pub of: RecordOf,
    /// The first [`SEALED_HEAD`] sealed bytes at most; of a connection, those of its profile (one key seals
    /// all its fields). Empty if the record cannot be read.
    pub head: Vec<u8>,
}

/// A page of all records, in no order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SealedPage {
    /// The records. A page may be empty and not the last, and a record may come twice.
    pub records: Vec<SealedRecord>,
    /// Where the next page begins; `None` on the last page.
    pub next: Option<String>,
}

/// The most connections on one page of [`Records::list`], whatever limit was asked for: a whole page is held
/// in memory.
pub const MAX_PAGE: usize = 1000;
