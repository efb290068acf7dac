//! The port of the simulated store.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::Listener;
use super::client::SimStore;
use super::data::{LeaseKey, Op, Reply};
use crate::domain::connection::SignIn;
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
use crate::domain::notice::Notice;
use crate::domain::time::Timestamp;
use crate::store::{
    Change, Committed, ConnectionPage, Counted, Deadline, Deleted, Due, Floor, Gathered, LeaseAnswer,
    LeaseNonce, LeaseOf, Leases, MAX_PAGE, Most, NoticePage, Notices, Pending, Records, Reseal, Revision,
    Schedule, SealedPage, Store, StoreError, StoredConnection, StoredProfile, Writer, record,
};

/// The reply of the kind that belongs to the operation; another one cannot come.
macro_rules! expect_reply {
    ($reply:expr, $kind:ident) => {
        match $reply {
            Reply::$kind(value) => value,
            _ => unreachable!("every operation has its own kind of reply"),
        }
    };
}

#[async_trait]
impl Store for SimStore {
    fn is_shared(&self) -> bool {
        true
    }

    fn id(&self) -> Option<String> {
        None
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.ask("asking the store whether it serves", Op::Ping).await.map(|_| ())
    }

    fn has_room(&self) -> bool {
        true
    }

    async fn adopt(&self) -> Result<(), StoreError> {
        self.ping().await
    }

    async fn next_change(&self) -> Change {
        loop {
            let word = {
                let mut state = self.server.state();
                let listener = state.listeners.entry(self.pid).or_insert_with(|| Listener {
                    replica: self.replica,
                    told: VecDeque::from([Change::Missed]),
                    word: Arc::default(),
                });
                match listener.told.pop_front() {
                    Some(change) => return change,
                    None => listener.word.clone(),
                }
            };
            word.notified().await;
        }
    }
}

#[async_trait]
impl Records for SimStore {
    async fn load(&self, key: &ConnectionKey) -> Result<Option<StoredConnection>, StoreError> {
        let reply = self.ask("loading a connection", Op::Load(key.clone())).await?;
        Ok(expect_reply!(reply, Connection))
    }

    async fn revision(&self, key: &ConnectionKey) -> Result<Option<Revision>, StoreError> {
        let reply = self.ask("looking a revision up", Op::Load(key.clone())).await?;
        Ok(expect_reply!(reply, Connection).map(|stored| stored.revision))
    }

    async fn commit(
        &self,
        key: &ConnectionKey,
        expected: Option<Revision>,
        connection: &StoredConnection,
        writer: Writer,
    ) -> Result<Committed, StoreError> {
        const DOING: &str = "committing a connection";
        record::encode(DOING, connection)?;
        let op = Op::Commit { key: key.clone(), expected, connection: connection.clone(), writer };
        Ok(expect_reply!(self.ask(DOING, op).await?, Committed))
    }

    async fn floor(&self, key: &ConnectionKey) -> Result<Floor, StoreError> {
        const DOING: &str = "asking what was deleted of a connection";
        Ok(expect_reply!(self.ask(DOING, Op::Floor(key.clone())).await?, Floor))
    }

    async fn delete(
        &self,
        key: &ConnectionKey,
        meant: SignIn,
        cuts_off: bool,
        notice: Option<&Notice>,
    ) -> Result<Deleted, StoreError> {
        let op = Op::Delete(key.clone(), meant, cuts_off, notice.cloned());
        Ok(expect_reply!(self.ask("deleting a connection", op).await?, Deleted))
    }

    async fn profiles(&self, keys: &[ConnectionKey]) -> Result<Vec<Option<StoredProfile>>, StoreError> {
        let op = Op::Profiles(keys.to_vec());
        Ok(expect_reply!(self.ask("reading profiles", op).await?, Profiles))
    }

    async fn list(
        &self,
        app: &AppName,
        prefix: &str,
        after: Option<&ConnectionName>,
        limit: usize,
    ) -> Result<ConnectionPage, StoreError> {
        let op = Op::List { app: app.clone(), prefix: prefix.to_owned(), after: after.cloned(), limit };
        Ok(expect_reply!(self.ask("listing connections", op).await?, Page))
    }
}

#[async_trait]
impl Leases for SimStore {
    async fn take_lease(
        &self,
        of: LeaseOf<'_>,
        nonce: LeaseNonce,
        ttl: Duration,
    ) -> Result<LeaseAnswer, StoreError> {
        let op = Op::Take { of: LeaseKey::of(of), nonce, ttl };
        Ok(expect_reply!(self.ask("taking a lease", op).await?, Lease))
    }

    async fn extend_lease(
        &self,
        of: LeaseOf<'_>,
        nonce: LeaseNonce,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        let op = Op::Extend { of: LeaseKey::of(of), nonce, ttl };
        Ok(expect_reply!(self.ask("prolonging a lease", op).await?, Yes))
    }

    async fn release_lease(
        &self,
        of: LeaseOf<'_>,
        nonce: LeaseNonce,
        settled: bool,
    ) -> Result<(), StoreError> {
        let op = Op::Release { of: LeaseKey::of(of), nonce, settled };
        self.ask("giving a lease back", op).await.map(|_| ())
    }
}

#[async_trait]
impl Schedule for SimStore {
    async fn schedule(&self, key: &ConnectionKey, due_at: Option<Timestamp>) -> Result<(), StoreError> {
        self.ask("scheduling a connection", Op::Schedule(key.clone(), due_at)).await.map(|_| ())
    }

    async fn due(&self, shard: u8, until: Timestamp, limit: usize) -> Result<Vec<Due>, StoreError> {
        Ok(expect_reply!(self.ask("asking what is due", Op::Due { shard, until, limit }).await?, Due))
    }

    async fn mark_used(&self, key: &ConnectionKey, at: Timestamp) -> Result<(), StoreError> {
        self.ask("noting a use", Op::MarkUsed(key.clone(), at)).await.map(|_| ())
    }
}

#[async_trait]
impl Pending for SimStore {
    async fn put_pending(&self, id: &str, sealed: &[u8], deadline: Deadline) -> Result<(), StoreError> {
        let op = Op::PutPending { id: id.to_owned(), sealed: sealed.to_vec(), ttl: deadline.ttl() };
        self.ask("keeping a pending record", op).await.map(|_| ())
    }

    async fn pending(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let op = Op::Pending(id.to_owned());
        Ok(expect_reply!(self.ask("looking a pending record up", op).await?, Bytes))
    }

    async fn take_pending(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let op = Op::TakePending(id.to_owned());
        Ok(expect_reply!(self.ask("taking a pending record", op).await?, Bytes))
    }

    async fn swap_pending(
        &self,
        id: &str,
        expected: Option<&[u8]>,
        sealed: &[u8],
        deadline: Deadline,
    ) -> Result<bool, StoreError> {
        let op = Op::SwapPending {
            id: id.to_owned(),
            expected: expected.map(<[u8]>::to_vec),
            sealed: sealed.to_vec(),
            ttl: deadline.ttl(),
            notices: Vec::new(),
        };
        Ok(expect_reply!(self.ask("replacing a pending record", op).await?, Yes))
    }

    /// The simulated world has no sessions, so nothing is counted.
    async fn count_in(
        &self,
        _owner: &str,
        _entry: &str,
        _until: Timestamp,
        _most: Most<'_>,
    ) -> Result<Counted, StoreError> {
        Ok(Counted::In)
    }

    async fn count_out(&self, _owner: &str, _entry: &str) -> Result<(), StoreError> {
        Ok(())
    }

    async fn counted(&self, _owner: &str) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Notices for SimStore {
    async fn swap_telling(
        &self,
        id: &str,
        expected: Option<&[u8]>,
        sealed: &[u8],
        deadline: Deadline,
        notices: &[Notice],
    ) -> Result<bool, StoreError> {
        let op = Op::SwapPending {
            id: id.to_owned(),
            expected: expected.map(<[u8]>::to_vec),
            sealed: sealed.to_vec(),
            ttl: deadline.ttl(),
            notices: notices.to_vec(),
        };
        Ok(expect_reply!(self.ask("replacing a pending record", op).await?, Yes))
    }

    /// A notice has its place at once.
    async fn gather(&self, _nonce: LeaseNonce) -> Result<Gathered, StoreError> {
        Ok(Gathered::default())
    }

    async fn notices(&self, after: u64, limit: usize) -> Result<NoticePage, StoreError> {
        Ok(expect_reply!(self.ask("reading notices", Op::Notices { after, limit }).await?, Notices))
    }

    async fn place_of(&self, id: &str) -> Result<Option<u64>, StoreError> {
        Ok(expect_reply!(self.ask("looking up a notice", Op::PlaceOf(id.to_owned())).await?, Place))
    }
}

#[async_trait]
impl Reseal for SimStore {
    async fn sealed(&self, after: Option<&str>, limit: usize) -> Result<SealedPage, StoreError> {
        let after = after.and_then(|after| after.parse().ok());
        let op = Op::Sealed { after, limit: limit.clamp(1, MAX_PAGE) };
        Ok(expect_reply!(self.ask("walking over every record", op).await?, Sealed))
    }

    async fn reseal(
        &self,
        key: &ConnectionKey,
        before: &StoredConnection,
        after: &StoredConnection,
    ) -> Result<bool, StoreError> {
        if before.revision != after.revision {
            return Ok(false);
        }
        let op = Op::Reseal { key: key.clone(), before: before.clone(), after: after.clone() };
        Ok(expect_reply!(self.ask("sealing a connection anew", op).await?, Yes))
    }

    async fn reseal_pending(&self, id: &str, before: &[u8], after: &[u8]) -> Result<bool, StoreError> {
        let op = Op::ResealPending { id: id.to_owned(), before: before.to_vec(), after: after.to_vec() };
        Ok(expect_reply!(self.ask("sealing a pending record anew", op).await?, Yes))
    }
}
