//! The port: what the core asks of a store, in six parts.
//!
//! Every operation may be repeated after its answer was lost, and then gives the first answer again. (The one
//! exception is [`Pending::take_pending`]: a repeated take that finds nothing is an error if the first one
//! may have taken the record.)

use std::time::Duration;

use async_trait::async_trait;

use super::{
    Change, Committed, ConnectionPage, Counted, Deadline, Deleted, Due, Floor, Gathered, LeaseAnswer,
    LeaseNonce, LeaseOf, Most, NoticePage, Revision, SealedPage, StoreError, StoredConnection, StoredProfile,
    Writer,
};
use crate::domain::connection::SignIn;
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
use crate::domain::notice::Notice;
use crate::domain::time::Timestamp;

/// A whole store: the six parts, and what concerns all of them.
#[async_trait]
pub trait Store: Records + Leases + Schedule + Pending + Notices + Reseal {
    /// True if other processes may change what is stored, so that a copy in memory has to be compared with
    /// it.
    fn is_shared(&self) -> bool;

    /// Which store this is: random, given when it was made, in hexadecimal digits. A copy and a restored
    /// backup have the same. `None` while this process does not know, because the store never answered it.
    fn id(&self) -> Option<String>;

    /// Answers once the store can serve.
    async fn ping(&self) -> Result<(), StoreError>;

    /// True if there is room for records that can be refused (sessions, authorize requests). If not, the room
    /// that is left is kept for connections. The answer is a few seconds old and costs nothing.
    fn has_room(&self) -> bool;

    /// Accepts the present store in the place of the one from before, by an operator's word. Does nothing if
    /// a store cannot be exchanged.
    async fn adopt(&self) -> Result<(), StoreError>;

    /// Waits for the next change by another process; for ever if the store has none ([`Store::is_shared`]).
    /// There may be one listener. It may stop waiting and begin again without losing a change, and is told
    /// when changes were lost ([`Change::Missed`]).
    async fn next_change(&self) -> Change;
}

/// Connections: loaded, committed, listed and deleted.
#[async_trait]
pub trait Records: Send + Sync {
    /// Loads a connection.
    async fn load(&self, key: &ConnectionKey) -> Result<Option<StoredConnection>, StoreError>;

    /// Loads the revision of a connection alone: cheaper than [`Records::load`], for checking a cached one.
    async fn revision(&self, key: &ConnectionKey) -> Result<Option<Revision>, StoreError>;

    /// Stores a connection in one step, if its stored revision is `expected` and nobody but `writer` holds
    /// its lease. `expected: None` creates: there must be no record yet, and the new sign-in's number must
    /// not be below the [`Records::floor`]. A repeated commit says [`Committed::Done`] if the stored revision
    /// is already the new one. The connection's notice, if it has one, is written in the same step.
    async fn commit(
        &self,
        key: &ConnectionKey,
        expected: Option<Revision>,
        connection: &StoredConnection,
        writer: Writer,
    ) -> Result<Committed, StoreError>;

    /// The floor that deletes left for this name, as long as it is kept ([`super::FLOOR_KEPT`]). To be asked
    /// before the user signs in.
    async fn floor(&self, key: &ConnectionKey) -> Result<Floor, StoreError>;

    /// Destroys a connection, whatever its revision, if it descends from the sign-in that is `meant`: a
    /// delete that comes late or twice destroys nothing else. Afterwards the [`Records::floor`] is above the
    /// number of `meant` and above every generation of the destroyed connection, so a sign-in that was to be
    /// stored before the delete is refused. With `cuts_off`, a sign-in that had only begun is refused too.
    ///
    /// A lease stays with its holder, and so does its intent. The holder may be about to load the connection
    /// of a new sign-in, and nobody else may do so meanwhile.
    ///
    /// If there was a connection, `notice` is written in the same step.
    async fn delete(
        &self,
        key: &ConnectionKey,
        meant: SignIn,
        cuts_off: bool,
        notice: Option<&Notice>,
    ) -> Result<Deleted, StoreError>;

    /// The profiles of these connections, in their order; `None` for each that does not exist.
    async fn profiles(&self, keys: &[ConnectionKey]) -> Result<Vec<Option<StoredProfile>>, StoreError>;

    /// The connections of one app whose names begin with `prefix`, ordered by the bytes of the name, after
    /// `after`.
    async fn list(
        &self,
        app: &AppName,
        prefix: &str,
        after: Option<&ConnectionName>,
        limit: usize,
    ) -> Result<ConnectionPage, StoreError>;
}

/// Leases: the right to refresh a connection, or to do another job of [`LeaseOf`].
#[async_trait]
pub trait Leases: Send + Sync {
    /// Tries to take a lease for `ttl`. The answer has the stored revision of the same step, so its holder
    /// need not ask whether the connection has changed. A repeated attempt with the same nonce is told
    /// the same of earlier intents, as long as the connection is still of the same sign-in.
    async fn take_lease(
        &self,
        of: LeaseOf<'_>,
        nonce: LeaseNonce,
        ttl: Duration,
    ) -> Result<LeaseAnswer, StoreError>;

    /// Prolongs a lease to `ttl` from now. False, and nothing changed, if it is not ours any more.
    async fn extend_lease(
        &self,
        of: LeaseOf<'_>,
        nonce: LeaseNonce,
        ttl: Duration,
    ) -> Result<bool, StoreError>;

    /// Gives a lease back; does nothing if it is not ours any more. `settled: false` says that what we began
    /// with it may have had an effect that nobody knows: the next holder is told ([`LeaseAnswer::Mine`]).
    /// What was unsettled when the lease was taken stays so; only a commit settles that.
    async fn release_lease(
        &self,
        of: LeaseOf<'_>,
        nonce: LeaseNonce,
        settled: bool,
    ) -> Result<(), StoreError>;
}

/// The schedule: when each connection is due. It is a hint beside the records and in no step with them, so
/// the sweep reads the connection itself.
#[async_trait]
pub trait Schedule: Send + Sync {
    /// Sets when a connection is due next; `None` takes it out of the schedule.
    async fn schedule(&self, key: &ConnectionKey, due_at: Option<Timestamp>) -> Result<(), StoreError>;

    /// Connections of one shard (0 to [`super::SWEEP_SHARDS`]) that are due at `until`, longest due first.
    async fn due(&self, shard: u8, until: Timestamp, limit: usize) -> Result<Vec<Due>, StoreError>;

    /// Notes that a connection was used; an instant before the noted one changes nothing.
    async fn mark_used(&self, key: &ConnectionKey, at: Timestamp) -> Result<(), StoreError>;
}

/// Pending records (connect sessions, states and the like), which end by themselves, and how many of them
/// each owner has.
#[async_trait]
pub trait Pending: Send + Sync {
    /// Keeps a pending record until its deadline, replacing any of that id.
    async fn put_pending(&self, id: &str, sealed: &[u8], deadline: Deadline) -> Result<(), StoreError>;

    /// Reads a pending record. An expired one does not exist.
    async fn pending(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Takes a pending record and removes it. Of many concurrent takers, one gets it.
    async fn take_pending(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Replaces a pending record if it is still `expected`, byte for byte; `None` creates: there must be no
    /// record yet. False, and nothing changed, otherwise. A record that already is `sealed` counts as
    /// replaced, so a repeated swap says true: two seals never have the same bytes, so this cannot be another
    /// one's swap.
    async fn swap_pending(
        &self,
        id: &str,
        expected: Option<&[u8]>,
        sealed: &[u8],
        deadline: Deadline,
    ) -> Result<bool, StoreError>;

    /// Counts an entry among those of its owner until `until`, in one step, unless `most` others count
    /// already: of the owner, or of the entry's group. An entry that counts already counts once, until the
    /// new instant. Entries that ended are forgotten when the next one is counted.
    async fn count_in(
        &self,
        owner: &str,
        entry: &str,
        until: Timestamp,
        most: Most<'_>,
    ) -> Result<Counted, StoreError>;

    /// Stops counting an entry. Does nothing if it did not count.
    async fn count_out(&self, owner: &str, entry: &str) -> Result<(), StoreError>;

    /// The entries that count for an owner, in no order.
    async fn counted(&self, owner: &str) -> Result<Vec<String>, StoreError>;
}

/// Notices: written with the change that they tell of, then put into one order and read.
#[async_trait]
pub trait Notices: Send + Sync {
    /// Replaces a pending record as [`Pending::swap_pending`] does. If it writes, `notices` are written in
    /// the same step.
    async fn swap_telling(
        &self,
        id: &str,
        expected: Option<&[u8]>,
        sealed: &[u8],
        deadline: Deadline,
        notices: &[Notice],
    ) -> Result<bool, StoreError>;

    /// Puts notices into the one order that changes have left beside their records, some at a time, and
    /// forgets those of the past that are over or too many. Does nothing for who has not
    /// [`LeaseOf::Notices`] by this nonce. A notice that has a place already gets no other.
    async fn gather(&self, nonce: LeaseNonce) -> Result<Gathered, StoreError>;

    /// The notices behind a place, in order.
    async fn notices(&self, after: u64, limit: usize) -> Result<NoticePage, StoreError>;

    /// The place of a notice, if it has one and is still kept.
    async fn place_of(&self, id: &str) -> Result<Option<u64>, StoreError>;
}

/// Resealing: finding every record, and replacing its bytes by the same record sealed by another key.
#[async_trait]
pub trait Reseal: Send + Sync {
    /// A page of every record, whether or not an index has it; `after` is where the page before ended. A
    /// record that exists from the first page to the last is on one of them. If the store cannot promise
    /// that, because it failed over in between, that is an error, and the walk begins anew.
    async fn sealed(&self, after: Option<&str>, limit: usize) -> Result<SealedPage, StoreError>;

    /// Replaces a connection by its resealed bytes if the stored bytes are still `before`. So neither a newer
    /// state nor another process' resealed bytes are overwritten. Returns false and changes nothing
    /// otherwise, or if `before` and `after` are of different revisions. The revision, the lease, the intent
    /// and the schedule stay as they are, and no message is sent.
    async fn reseal(
        &self,
        key: &ConnectionKey,
        before: &StoredConnection,
        after: &StoredConnection,
    ) -> Result<bool, StoreError>;

    /// The same for a pending record. Its expiry stays.
    async fn reseal_pending(&self, id: &str, before: &[u8], after: &[u8]) -> Result<bool, StoreError>;
}
