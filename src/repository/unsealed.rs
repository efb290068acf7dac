//! The store's unsealed data: leases, the schedule, floors, counts and notices. Nothing here is opened, so
//! nothing here can be damaged: the only error is the store's own.

use std::time::Duration;

use super::Repository;
use crate::domain::connection::SignIn;
use crate::domain::id::ConnectionKey;
use crate::domain::notice::Notice;
use crate::domain::time::Timestamp;
use crate::store::{
    Change, Counted, Deleted, Due, Floor, Gathered, LeaseAnswer, LeaseNonce, LeaseOf, Most, NoticePage,
    Revision, StoreError,
};

impl Repository {
    /// True if other processes may change what is stored ([`crate::store::Store::is_shared`]).
    pub fn is_shared(&self) -> bool {
        self.store.is_shared()
    }

    /// Which store it is ([`crate::store::Store::id`]).
    pub fn store_id(&self) -> Option<String> {
        self.store.id()
    }

    /// True if the store has room for records that can be refused.
    pub fn has_room(&self) -> bool {
        self.store.has_room()
    }

    /// Accepts the present contents as the store, on an operator's word ([`crate::store::Store::adopt`]).
    pub async fn adopt_store(&self) -> Result<(), StoreError> {
        self.store.adopt().await
    }

    /// Waits for the next change that another process made ([`crate::store::Store::next_change`]).
    pub async fn next_change(&self) -> Change {
        self.store.next_change().await
    }

    /// The revision of a connection, for checking a cached one.
    pub async fn revision(&self, key: &ConnectionKey) -> Result<Option<Revision>, StoreError> {
        self.store.revision(key).await
    }

    /// The floor that deletes left for this name ([`crate::store::Records::floor`]).
    pub async fn floor(&self, key: &ConnectionKey) -> Result<Floor, StoreError> {
        self.store.floor(key).await
    }

    /// Destroys the connection of this very sign-in. A sign-in that has only begun may be stored afterwards,
    /// unlike with [`Repository::delete`]. `tenant` is that of its account.
    pub async fn delete_sign_in(
        &self,
        key: &ConnectionKey,
        meant: SignIn,
        tenant: Option<&str>,
        now: Timestamp,
    ) -> Result<Deleted, StoreError> {
        let notice = Notice::deleted(key, &meant, tenant, now);
        self.store.delete(key, meant, false, Some(&notice)).await
    }

    /// Puts notices into their one order ([`crate::store::Notices::gather`]).
    pub async fn gather_notices(&self, nonce: LeaseNonce) -> Result<Gathered, StoreError> {
        self.store.gather(nonce).await
    }

    /// The notices behind a place, in order.
    pub async fn notices(&self, after: u64, limit: usize) -> Result<NoticePage, StoreError> {
        self.store.notices(after, limit).await
    }

    /// The place of a notice, if it is still kept.
    pub async fn place_of_notice(&self, id: &str) -> Result<Option<u64>, StoreError> {
        self.store.place_of(id).await
    }

    /// Tries to take a lease ([`crate::store::Leases::take_lease`]).
    pub async fn take_lease(
        &self,
        of: LeaseOf<'_>,
        nonce: LeaseNonce,
        ttl: Duration,
    ) -> Result<LeaseAnswer, StoreError> {
        self.store.take_lease(of, nonce, ttl).await
    }

    /// Prolongs a lease; false if it is not ours any more.
    pub async fn extend_lease(
        &self,
        of: LeaseOf<'_>,
        nonce: LeaseNonce,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        self.store.extend_lease(of, nonce, ttl).await
    }

    /// Gives a lease back; `settled` as in [`crate::store::Leases::release_lease`].
    pub async fn release_lease(
        &self,
        of: LeaseOf<'_>,
        nonce: LeaseNonce,
        settled: bool,
    ) -> Result<(), StoreError> {
        self.store.release_lease(of, nonce, settled).await
    }

    /// Sets when a connection is due next; `None` takes it out of the schedule.
    pub async fn schedule(&self, key: &ConnectionKey, due_at: Option<Timestamp>) -> Result<(), StoreError> {
        self.store.schedule(key, due_at).await
    }

    /// Connections of one shard that are due, longest due first.
    pub async fn due(&self, shard: u8, until: Timestamp, limit: usize) -> Result<Vec<Due>, StoreError> {
        self.store.due(shard, until, limit).await
    }

    /// Notes that a connection was used.
    pub async fn mark_used(&self, key: &ConnectionKey, at: Timestamp) -> Result<(), StoreError> {
        self.store.mark_used(key, at).await
    }

    /// Counts an entry among those of its owner ([`crate::store::Pending::count_in`]).
    pub async fn count_in(
        &self,
        owner: &str,
        entry: &str,
        until: Timestamp,
        most: Most<'_>,
    ) -> Result<Counted, StoreError> {
        self.store.count_in(owner, entry, until, most).await
    }

    /// The entries that count for an owner, in no order.
    pub async fn counted(&self, owner: &str) -> Result<Vec<String>, StoreError> {
        self.store.counted(owner).await
    }

    /// Stops counting an entry.
    pub async fn count_out(&self, owner: &str, entry: &str) -> Result<(), StoreError> {
        self.store.count_out(owner, entry).await
    }
}
