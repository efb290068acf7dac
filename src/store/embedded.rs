//! The store of one process: a redb file on local disk.
//!
//! **Writes** go through one thread. It drains its queue, applies everything in one transaction (each operation judged
//! for itself, in the order of arrival, seeing those before it), commits durably once, and answers all: so a disk that
//! syncs 500 times a second still takes thousands of commits. When the commit fails, everyone is told
//! [`StoreError::Unavailable`]: what reached the disk is not known, and every operation is safe to repeat. redb refuses
//! to go on after an I/O error until its file is opened anew, so that is what the thread does then, at once and again
//! with later operations until it works; a disk that was full heals without a restart.
//!
//! **Reads** see the last commit and never wait for a writer. They run on the blocking pool. In a debug build a read
//! took 6 µs in place and 64 µs by way of the pool (33 µs and at worst 0.4 ms in place beside 9,000 commits a second),
//! all from redb's cache; but one that misses the cache waits for the disk, and must not hold up a worker that serves
//! others meanwhile. The difference does not matter: no connection is read on the hot path ([`Store::is_shared`] is
//! false, so what the process holds in memory is never stale).
//!
//! **One process.** redb locks the file; a second process is refused at start.
//!
//! **Files.** `tokenward.redb`, mode 0600, in a directory that only its owner may enter. It is made under another name
//! and linked into place once it holds its meta row, so a file without one was never finished or is damaged, and is
//! refused: an empty store must never pass for a lost one.

mod counts;
mod room;

use parking_lot::RwLock;
use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use redb::backends::FileBackend;
use redb::{
    Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend,
    TableDefinition, WriteTransaction,
};
use tokio::sync::{mpsc, oneshot};

use self::counts::COUNTED;
use self::room::Room;
use super::{
    Change, Committed, ConnectionPage, Counted, Deleted, Due, FLOOR_KEPT, Floor, Full, LOWEST_FLOOR,
    LeaseAnswer, LeaseNonce, LeaseOf, MAX_PAGE, MOST_COUNTED, Most, RecordOf, Records, Reseal, Revision,
    SEALED_HEAD, Schedule, SealedPage, SealedRecord, Store, StoreError, StoredConnection, StoredProfile,
    Writer as By, keyspace, record,
};
use crate::domain::connection::SignIn;
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
use crate::domain::random::{Random, random_bytes};
use crate::domain::time::{Clock, Timestamp};

/// The file's name within its directory.
pub const FILE_NAME: &str = "tokenward.redb";

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const CONNECTIONS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("connections");
/// Value: when it expires, then the sealed bytes.
const PENDING: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("pending");
/// Key: when it expires, in order, then the id.
const EXPIRY: TableDefinition<'_, &[u8], ()> = TableDefinition::new("pending_expiry");

/// What a lease's holder began with it and is not known to have ended: its nonce, the sign-in whose grant it is about, and 1
/// behind them when the one before was not settled either. The leases themselves are this process's alone, and end with it.
const BEGUN: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("begun");
/// Key: shard, instant in order, connection.
const DUE: TableDefinition<'_, &[u8], ()> = TableDefinition::new("due");
/// When each connection is due, and when it was used (0: not known).
const SCHEDULE: TableDefinition<'_, &str, (i64, i64)> = TableDefinition::new("schedule");

/// What deletes left of a connection: the two numbers of its floor, and until when they are remembered.
const FLOORS: TableDefinition<'_, &str, (u64, u64, i64)> = TableDefinition::new("floors");
/// Key: until when, in order, then the connection.
const FLOOR_EXPIRY: TableDefinition<'_, &[u8], ()> = TableDefinition::new("floor_expiry");

const META_ROW: &str = "store";
/// The layout of the tables; a file with another one is refused.
const LAYOUT: u8 = 1;
const META_LENGTH: usize = 1 + 16 + 8;

/// How many operations may wait for the writer. Each holds at most a few KiB.
const QUEUE: usize = 1024;
/// The most operations in one transaction: bounds how long the first one waits for the last.
const BATCH: usize = 256;
/// How many expired records one transaction takes away, so that a purge never delays a commit noticeably.
const PURGE: usize = 64;
/// How long an operation waits for room in a full queue before it is refused: longer than any healthy disk needs.
const QUEUE_WAIT: Duration = Duration::from_secs(5);
/// How long after the file could not be opened anew the next attempt is made: each one reads the whole file.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// How to open an embedded store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedConfig {
    /// The directory of the file; made when missing.
    pub directory: PathBuf,
    /// How much of the file is kept in memory. 64 MiB hold some ten thousand connections.
    pub cache_bytes: usize,
}

impl EmbeddedConfig {
    /// A store in this directory, with the usual cache.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        EmbeddedConfig { directory: directory.into(), cache_bytes: 64 * 1024 * 1024 }
    }
}

/// What a file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreIdentity {
    /// Random, given when the file was made; a copy has the same.
    pub id: [u8; 16],
    /// When the file was made.
    pub created: Timestamp,
}

/// A store in one file, for one process. Dropping it writes out what was queued and closes the file.
pub struct EmbeddedStore {
    database: Arc<RwLock<Option<Database>>>,
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    clock: Arc<dyn Clock>,
    identity: StoreIdentity,
    room: Room,
}

impl EmbeddedStore {
    /// Opens the store, and makes it when there is none. Blocks on the disk: call it while starting.
    pub fn open(
        config: &EmbeddedConfig,
        clock: Arc<dyn Clock>,
        random: &dyn Random,
    ) -> Result<EmbeddedStore, StoreError> {
        prepare_directory(&config.directory)?;
        let path = config.directory.join(FILE_NAME);
        if !exists(&path)? {
            create(&path, &clock, random)?;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(|error| at(&path, error))?;
        let cache = config.cache_bytes;
        let mut store = Self::start(Box::new(move || open_file(&path, cache)), clock)?;
        store.room = Room::on_the_disk_of(config.directory.clone());
        Ok(store)
    }

    fn start(open: OpenDatabase, clock: Arc<dyn Clock>) -> Result<EmbeddedStore, StoreError> {
        let (database, identity) = open()?;
        let database = Arc::new(RwLock::new(Some(database)));
        let (sender, queue) = mpsc::channel(QUEUE);
        let writer = Writer {
            queue,
            database: Arc::clone(&database),
            open,
            identity,
            clock: Arc::clone(&clock),
            leases: Leases::default(),
            pause: None,
        };
        let writer = std::thread::Builder::new()
            .name("tokenward-store".into())
            .spawn(move || writer.run())
            .map_err(|error| StoreError::unavailable(OPENING, error))?;
        Ok(EmbeddedStore {
            database,
            jobs: Some(sender),
            writer: Some(writer),
            clock,
            identity,
            room: Room::default(),
        })
    }

    /// What the file says of itself.
    pub fn identity(&self) -> StoreIdentity {
        self.identity
    }

    async fn write(&self, doing: &'static str, work: Work) -> Result<Answer, StoreError> {
        let jobs = self.jobs.as_ref().ok_or_else(|| StoreError::unavailable(doing, CLOSED))?;
        let (answer, answered) = oneshot::channel();
        let room = tokio::select! {
            biased;
            room = jobs.reserve() => room,
            () = self.clock.sleep(QUEUE_WAIT) => {
                return Err(StoreError::unavailable(doing, "the disk does not keep up with what is to be written"));
            }
        };
        room.map_err(|_| StoreError::unavailable(doing, CLOSED))?.send(Job { doing, work, answer });
        answered.await.unwrap_or_else(|_| Err(StoreError::unavailable(doing, CLOSED)))
    }

    async fn read<T: Send + 'static>(
        &self,
        doing: &'static str,
        look: impl FnOnce(ReadTransaction) -> Result<Result<T, StoreError>, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let database = Arc::clone(&self.database);
        let looking = tokio::task::spawn_blocking(move || {
            // The lock is held only to begin: a reopening writer does not wait for a long list.
            let begun = match &*database.read() {
                Some(database) => database.begin_read(),
                None => return Err(StoreError::unavailable(doing, CLOSED)),
            };
            begun.map_err(redb::Error::from).and_then(look).map_err(|error| failed(doing, &error))?
        });
        looking.await.unwrap_or_else(|_| Err(StoreError::unavailable(doing, "reading the file panicked")))
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(writer) = self.writer.take() {
            // It ends once the queue is empty: one transaction away. A panic in it was answered as an error already.
            let _ended = writer.join();
        }
    }
}

const OPENING: &str = "opening the embedded store";
const CLOSED: &str = "the file is not open";

/// The profile of a whole record.
fn profile(doing: &'static str, record: &[u8]) -> Result<StoredProfile, StoreError> {
    match record::profile(doing, record, usize::MAX)? {
        record::Beginning::Whole(profile) => Ok(profile),
        record::Beginning::Cut(_) => Err(StoreError::corrupt(doing, "it ends within a field")),
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    fn is_shared(&self) -> bool {
        false
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.write("asking the store whether it serves", Work::Ping).await?;
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.room.look(self.clock.monotonic())
    }

    /// The file carries its own name, and another one is refused at the start.
    async fn adopt(&self) -> Result<(), StoreError> {
        self.ping().await
    }

    async fn next_change(&self) -> Change {
        std::future::pending().await
    }
}

#[async_trait]
impl Records for EmbeddedStore {
    async fn load(&self, key: &ConnectionKey) -> Result<Option<StoredConnection>, StoreError> {
        const DOING: &str = "loading a connection";
        let key = keyspace::embedded_record(key);
        self.read(DOING, move |transaction| {
            let found = transaction.open_table(CONNECTIONS)?.get(key.as_str())?;
            Ok(found.map(|found| record::decode(DOING, found.value())).transpose())
        })
        .await
    }

    async fn revision(&self, key: &ConnectionKey) -> Result<Option<Revision>, StoreError> {
        const DOING: &str = "looking a revision up";
        let key = keyspace::embedded_record(key);
        self.read(DOING, move |transaction| {
            let found = transaction.open_table(CONNECTIONS)?.get(key.as_str())?;
            Ok(found.map(|found| record::decode_revision(DOING, found.value())).transpose())
        })
        .await
    }

    async fn commit(
        &self,
        key: &ConnectionKey,
        expected: Option<Revision>,
        connection: &StoredConnection,
        writer: By,
    ) -> Result<Committed, StoreError> {
        const DOING: &str = "committing a connection";
        let record = record::encode(DOING, connection)?;
        let work = Work::Commit {
            key: keyspace::embedded_record(key),
            expected,
            revision: connection.revision,
            record,
            writer,
        };
        match self.write(DOING, work).await? {
            Answer::Committed(committed) => Ok(committed),
            Answer::Happened(_)
            | Answer::Taken(_)
            | Answer::Lease(_)
            | Answer::Deleted(_)
            | Answer::Counted(_) => Ok(Committed::Conflict),
        }
    }

    async fn floor(&self, key: &ConnectionKey) -> Result<Floor, StoreError> {
        let key = keyspace::embedded_record(key);
        self.read("asking what was deleted of a connection", move |transaction| {
            let row = transaction.open_table(FLOORS)?.get(key.as_str())?.map(|row| row.value());
            Ok(Ok(row.map_or(LOWEST_FLOOR, |(number, cut, _)| Floor { number, cut })))
        })
        .await
    }

    async fn delete(
        &self,
        key: &ConnectionKey,
        meant: SignIn,
        cuts_off: bool,
    ) -> Result<Deleted, StoreError> {
        let work = Work::Delete { key: keyspace::embedded_record(key), meant, cuts_off };
        match self.write("deleting a connection", work).await? {
            Answer::Deleted(deleted) => Ok(deleted),
            Answer::Happened(_)
            | Answer::Taken(_)
            | Answer::Committed(_)
            | Answer::Lease(_)
            | Answer::Counted(_) => Ok(Deleted::Absent),
        }
    }

    async fn profiles(&self, keys: &[ConnectionKey]) -> Result<Vec<Option<StoredProfile>>, StoreError> {
        const DOING: &str = "reading profiles";
        let keys: Vec<String> = keys.iter().map(keyspace::embedded_record).collect();
        self.read(DOING, move |transaction| {
            let table = transaction.open_table(CONNECTIONS)?;
            let mut profiles = Vec::with_capacity(keys.len());
            for key in keys {
                let found = table.get(key.as_str())?;
                match found.map(|found| profile(DOING, found.value())).transpose() {
                    Ok(profile) => profiles.push(profile),
                    Err(error) => return Ok(Err(error)),
                }
            }
            Ok(Ok(profiles))
        })
        .await
    }

    async fn list(
        &self,
        app: &AppName,
        prefix: &str,
        after: Option<&ConnectionName>,
        limit: usize,
    ) -> Result<ConnectionPage, StoreError> {
        const DOING: &str = "listing connections";
        let (start, past) = keyspace::embedded_start(app, prefix, after);
        let (app, prefix, limit) = (app.clone(), prefix.to_owned(), limit.min(MAX_PAGE));
        self.read(DOING, move |transaction| {
            let table = transaction.open_table(CONNECTIONS)?;
            let mut page = ConnectionPage::default();
            for row in table.range(start.as_str()..)? {
                let (key, value) = row?;
                if past && key.value() == start {
                    continue;
                }
                let Some(name) = keyspace::embedded_name(key.value(), &app, &prefix) else { break };
                if page.connections.len() == limit {
                    page.next = page.connections.last().map(|(name, _)| name.clone());
                    break;
                }
                let read = ConnectionName::stored(name)
                    .map_err(|invalid| StoreError::corrupt(DOING, invalid))
                    .and_then(|name| Ok((name, profile(DOING, value.value())?)));
                match read {
                    Ok(connection) => page.connections.push(connection),
                    Err(error) => return Ok(Err(error)),
                }
            }
            Ok(Ok(page))
        })
        .await
    }
}

#[async_trait]
impl super::Leases for EmbeddedStore {
    async fn take_lease(
        &self,
        of: LeaseOf<'_>,
        nonce: LeaseNonce,
        ttl: Duration,
    ) -> Result<LeaseAnswer, StoreError> {
        let work = Work::TakeLease { of: lease_key(of), nonce, ttl };
        match self.write("taking a lease", work).await? {
            Answer::Lease(answer) => Ok(answer),
            Answer::Happened(_)
            | Answer::Taken(_)
            | Answer::Committed(_)
            | Answer::Deleted(_)
            | Answer::Counted(_) => Ok(LeaseAnswer::Theirs { left: Duration::ZERO }),
        }
    }

    async fn extend_lease(
        &self,
        of: LeaseOf<'_>,
        nonce: LeaseNonce,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        let work = Work::ExtendLease { of: lease_key(of), nonce, ttl };
        Ok(self.write("prolonging a lease", work).await?.happened())
    }

    async fn release_lease(
        &self,
        of: LeaseOf<'_>,
        nonce: LeaseNonce,
        settled: bool,
    ) -> Result<(), StoreError> {
        let work = Work::ReleaseLease { of: lease_key(of), nonce, settled };
        self.write("giving a lease back", work).await?;
        Ok(())
    }
}

#[async_trait]
impl Schedule for EmbeddedStore {
    async fn schedule(&self, key: &ConnectionKey, due_at: Option<Timestamp>) -> Result<(), StoreError> {
        let work = Work::Schedule { key: key.clone(), due_at };
        self.write("scheduling a connection", work).await?;
        Ok(())
    }

    async fn due(&self, shard: u8, until: Timestamp, limit: usize) -> Result<Vec<Due>, StoreError> {
        const DOING: &str = "asking what is due";
        let limit = limit.min(MAX_PAGE);
        self.read(DOING, move |transaction| {
            let table = transaction.open_table(DUE)?;
            let schedule = transaction.open_table(SCHEDULE)?;
            let start = [shard];
            let end = due_key(shard, until.plus(Duration::from_millis(1)), "");
            let mut found = Vec::new();
            for row in table.range::<&[u8]>(&start[..]..end.as_slice())?.take(limit) {
                let row = row?.0;
                let name = row.value().get(9..).and_then(|name| std::str::from_utf8(name).ok());
                let Some(key) = name.and_then(keyspace::parse_key) else {
                    tracing::error!(shard, "the schedule holds what is no connection; it is passed over");
                    continue;
                };
                let Some(times) = schedule.get(key.to_string().as_str())?.map(|row| row.value()) else {
                    continue;
                };
                found.push(Due {
                    key,
                    due_at: Timestamp::from_unix_millis(times.0),
                    used_at: (times.1 != 0).then(|| Timestamp::from_unix_millis(times.1)),
                });
            }
            Ok(Ok(found))
        })
        .await
    }

    async fn mark_used(&self, key: &ConnectionKey, at: Timestamp) -> Result<(), StoreError> {
        let work = Work::MarkUsed { key: key.clone(), at };
        self.write("noting that a connection is used", work).await?;
        Ok(())
    }
}

#[async_trait]
impl super::Pending for EmbeddedStore {
    async fn put_pending(
        &self,
        id: &str,
        sealed: &[u8],
        expires_at: Timestamp,
        _ttl: Duration,
    ) -> Result<(), StoreError> {
        let work = Work::PutPending { id: id.to_owned(), sealed: sealed.to_owned(), expires_at };
        self.write("keeping a pending record", work).await?;
        Ok(())
    }

    async fn pending(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        const DOING: &str = "looking a pending record up";
        let (id, now) = (id.to_owned(), self.clock.now());
        self.read(DOING, move |transaction| {
            let found = transaction.open_table(PENDING)?.get(id.as_str())?;
            let Some(found) = found else { return Ok(Ok(None)) };
            Ok(Pending::read(DOING, found.value()).map(|pending| pending.alive(now).map(<[u8]>::to_vec)))
        })
        .await
    }

    async fn take_pending(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let work = Work::TakePending { id: id.to_owned() };
        match self.write("taking a pending record", work).await? {
            Answer::Taken(sealed) => Ok(Some(sealed)),
            Answer::Happened(_)
            | Answer::Committed(_)
            | Answer::Lease(_)
            | Answer::Deleted(_)
            | Answer::Counted(_) => Ok(None),
        }
    }

    async fn swap_pending(
        &self,
        id: &str,
        expected: Option<&[u8]>,
        sealed: &[u8],
        expires_at: Timestamp,
        _ttl: Duration,
    ) -> Result<bool, StoreError> {
        let work = Work::SwapPending {
            id: id.to_owned(),
            expected: expected.map(<[u8]>::to_vec),
            sealed: sealed.to_owned(),
            expires_at,
        };
        Ok(self.write("replacing a pending record", work).await?.happened())
    }

    async fn count_in(
        &self,
        owner: &str,
        entry: &str,
        until: Timestamp,
        most: Most<'_>,
    ) -> Result<Counted, StoreError> {
        let (owner, entry) = (keyspace::embedded_counted(owner), entry.to_owned());
        let of_group = most.of_group.map(|group| (group.prefix.to_owned(), group.most));
        let most = counts::Most { of_owner: most.of_owner.min(MOST_COUNTED), of_group };
        let work = Work::CountIn { owner, entry, until, most };
        match self.write("counting what is open", work).await? {
            Answer::Counted(counted) => Ok(counted),
            Answer::Happened(_)
            | Answer::Taken(_)
            | Answer::Committed(_)
            | Answer::Lease(_)
            | Answer::Deleted(_) => Ok(Counted::Full { which: Full::Owner, until: self.clock.now() }),
        }
    }

    async fn count_out(&self, owner: &str, entry: &str) -> Result<(), StoreError> {
        let row = format!("{}{entry}", keyspace::embedded_counted(owner));
        self.write("counting what is closed", Work::CountOut { row }).await?;
        Ok(())
    }

    async fn counted(&self, owner: &str) -> Result<Vec<String>, StoreError> {
        let (owner, now) = (keyspace::embedded_counted(owner), self.clock.now());
        self.read("looking up what is open", move |transaction| {
            counts::counted(&transaction, &owner, now).map(Ok)
        })
        .await
    }
}

#[async_trait]
impl Reseal for EmbeddedStore {
    /// The connections, then the pending records, each in the order of its table.
    async fn sealed(&self, after: Option<&str>, limit: usize) -> Result<SealedPage, StoreError> {
        const DOING: &str = "walking over every record";
        let (after, now) = (after.map(str::to_owned), self.clock.now());
        let limit = limit.clamp(1, MAX_PAGE);
        self.read(DOING, move |transaction| {
            let pending = after.as_deref().and_then(|after| after.strip_prefix(PENDING_CURSOR));
            let connection = after.as_deref().and_then(|after| after.strip_prefix(CONNECTION_CURSOR));
            let mut page = SealedPage::default();
            let beyond = |last: Option<&str>| match last {
                Some(last) => (Bound::Excluded(last.to_owned()), Bound::Unbounded),
                None => (Bound::Unbounded, Bound::Unbounded),
            };
            if pending.is_none() {
                let range = beyond(connection);
                let range = (range.0.as_ref().map(String::as_str), range.1);
                for row in transaction.open_table(CONNECTIONS)?.range::<&str>(range)?.take(limit) {
                    let (name, value) = row?;
                    let Some(key) = keyspace::parse_key(name.value()) else {
                        tracing::error!("the store holds what is no connection; it is passed over");
                        continue;
                    };
                    let head = record::head(DOING, value.value(), SEALED_HEAD);
                    let head = head.map(<[u8]>::to_vec).unwrap_or_default();
                    page.records.push(SealedRecord { of: RecordOf::Connection(key), head });
                    page.next = Some(format!("{CONNECTION_CURSOR}{}", name.value()));
                }
                if page.records.is_empty() {
                    page.next = Some(PENDING_CURSOR.to_owned());
                }
                return Ok(Ok(page));
            }
            let range = beyond(pending.filter(|last| !last.is_empty()));
            let range = (range.0.as_ref().map(String::as_str), range.1);
            for row in transaction.open_table(PENDING)?.range::<&str>(range)?.take(limit) {
                let (id, value) = row?;
                let id = id.value().to_owned();
                page.next = Some(format!("{PENDING_CURSOR}{id}"));
                let head = match Pending::read(DOING, value.value()) {
                    Ok(row) => match row.alive(now) {
                        Some(sealed) => sealed[..sealed.len().min(SEALED_HEAD)].to_vec(),
                        None => continue,
                    },
                    Err(_) => Vec::new(),
                };
                page.records.push(SealedRecord { of: RecordOf::Pending(id), head });
            }
            Ok(Ok(page))
        })
        .await
    }

    async fn reseal(
        &self,
        key: &ConnectionKey,
        before: &StoredConnection,
        after: &StoredConnection,
    ) -> Result<bool, StoreError> {
        const DOING: &str = "sealing a connection anew";
        if before.revision != after.revision {
            return Ok(false);
        }
        let work = Work::Reseal {
            key: keyspace::embedded_record(key),
            before: record::encode(DOING, before)?,
            after: record::encode(DOING, after)?,
        };
        Ok(self.write(DOING, work).await?.happened())
    }

    async fn reseal_pending(&self, id: &str, before: &[u8], after: &[u8]) -> Result<bool, StoreError> {
        let (before, after) = (before.to_owned(), after.to_owned());
        let work = Work::ResealPending { id: id.to_owned(), before, after };
        Ok(self.write("sealing a pending record anew", work).await?.happened())
    }
}

/// Where a walk over every record goes on: past this connection …
const CONNECTION_CURSOR: &str = "connection ";
/// … or past this pending record; at the first one when there is none behind it.
const PENDING_CURSOR: &str = "pending ";

/// One operation on its way to the writer.
struct Job {
    doing: &'static str,
    work: Work,
    answer: oneshot::Sender<Result<Answer, StoreError>>,
}

enum Work {
    Ping,
    Commit { key: String, expected: Option<Revision>, revision: Revision, record: Vec<u8>, writer: By },
    TakeLease { of: String, nonce: LeaseNonce, ttl: Duration },
    ExtendLease { of: String, nonce: LeaseNonce, ttl: Duration },
    ReleaseLease { of: String, nonce: LeaseNonce, settled: bool },
    Schedule { key: ConnectionKey, due_at: Option<Timestamp> },
    MarkUsed { key: ConnectionKey, at: Timestamp },
    Delete { key: String, meant: SignIn, cuts_off: bool },
    PutPending { id: String, sealed: Vec<u8>, expires_at: Timestamp },
    TakePending { id: String },
    SwapPending { id: String, expected: Option<Vec<u8>>, sealed: Vec<u8>, expires_at: Timestamp },
    CountIn { owner: String, entry: String, until: Timestamp, most: counts::Most },
    CountOut { row: String },
    Reseal { key: String, before: Vec<u8>, after: Vec<u8> },
    ResealPending { id: String, before: Vec<u8>, after: Vec<u8> },
}

enum Answer {
    Happened(bool),
    Taken(Vec<u8>),
    Committed(Committed),
    Lease(LeaseAnswer),
    Deleted(Deleted),
    Counted(Counted),
}

impl Answer {
    fn happened(&self) -> bool {
        matches!(self, Answer::Happened(true) | Answer::Taken(_))
    }
}

/// The leases of this process: who holds what, and until when by monotonic time.
#[derive(Default)]
struct Leases(HashMap<String, (LeaseNonce, Duration)>);

impl Leases {
    fn holder(&self, of: &str, now: Duration) -> Option<(LeaseNonce, Duration)> {
        self.0.get(of).filter(|(_, until)| *until > now).copied()
    }

    fn is(&self, of: &str, nonce: LeaseNonce, now: Duration) -> bool {
        self.holder(of, now).is_some_and(|(holder, _)| holder == nonce)
    }
}

/// A lease's name; no connection's has no colon.
fn lease_key(of: LeaseOf<'_>) -> String {
    match of {
        LeaseOf::Connection(key) => keyspace::embedded_record(key),
        LeaseOf::Sweep(shard) => format!("sweep-{shard}"),
        LeaseOf::Rewrap => "rewrap".to_owned(),
    }
}

type OpenDatabase = Box<dyn Fn() -> Result<(Database, StoreIdentity), StoreError> + Send>;

/// The one thread that writes.
struct Writer {
    queue: mpsc::Receiver<Job>,
    database: Arc<RwLock<Option<Database>>>,
    open: OpenDatabase,
    identity: StoreIdentity,
    clock: Arc<dyn Clock>,
    leases: Leases,
    /// Why the file could not be opened anew, and when to try again.
    pause: Option<(StoreError, Duration)>,
}

impl Writer {
    fn run(mut self) {
        while let Some(first) = self.queue.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < BATCH {
                let Ok(next) = self.queue.try_recv() else { break };
                batch.push(next);
            }
            self.serve(batch);
        }
        self.close();
    }

    fn serve(&mut self, batch: Vec<Job>) {
        if let Err(error) = self.ensure_open() {
            refuse(batch, &error);
            return;
        }
        let now = Now { wall: self.clock.now(), monotonic: self.clock.monotonic() };
        let applied = {
            let database = self.database.read();
            let leases = &mut self.leases;
            // redb panics where it finds its own file inconsistent; that must not leave callers without an answer.
            catch_unwind(AssertUnwindSafe(|| match &*database {
                Some(database) => apply(database, &batch, now, leases).map_err(|error| error.to_string()),
                None => Err(CLOSED.to_owned()),
            }))
            .unwrap_or_else(|_| Err("writing the file panicked".to_owned()))
        };
        match applied {
            Ok(answers) => {
                for (job, answer) in batch.into_iter().zip(answers) {
                    let _gone = job.answer.send(answer);
                }
            }
            Err(cause) => {
                tracing::error!(cause, "the store's file could not be written; it is opened anew");
                // Opened anew before anyone is told, so that whoever tries again finds it ready.
                self.close();
                let reopened = self.ensure_open();
                refuse(batch, &StoreError::unavailable("", cause));
                if let Err(error) = reopened {
                    tracing::error!(%error, "the store's file could not be opened; the next operation tries again");
                }
            }
        }
    }

    fn ensure_open(&mut self) -> Result<(), StoreError> {
        if self.database.read().is_some() {
            return Ok(());
        }
        if let Some((error, until)) = &self.pause
            && self.clock.monotonic() < *until
        {
            return Err(error.clone());
        }
        self.pause = None;
        match self.reopen() {
            Ok(database) => {
                *self.database.write() = Some(database);
                Ok(())
            }
            Err(error) => {
                self.pause = Some((error.clone(), self.clock.monotonic().saturating_add(REOPEN_PAUSE)));
                Err(error)
            }
        }
    }

    fn reopen(&self) -> Result<Database, StoreError> {
        // It may panic for the same reasons as a write.
        let (database, identity) = catch_unwind(AssertUnwindSafe(|| (self.open)()))
            .unwrap_or_else(|_| Err(StoreError::unavailable(OPENING, "opening the file panicked")))?;
        if identity != self.identity {
            let cause = "the file was replaced by another store's; restart to use it";
            return Err(StoreError::unavailable(OPENING, cause));
        }
        Ok(database)
    }

    fn close(&mut self) {
        let database = self.database.write().take();
        if let Some(Err(error)) = database.map(Database::close) {
            tracing::warn!(%error, "the store's file did not close cleanly; it is checked when opened next");
        }
    }
}

/// Tells everyone that it did not work out.
fn refuse(batch: Vec<Job>, error: &StoreError) {
    for job in batch {
        let cause = match error {
            StoreError::Unavailable { cause, .. } | StoreError::Corrupt { cause, .. } => cause.clone(),
        };
        let _gone = job.answer.send(Err(StoreError::Unavailable { doing: job.doing, cause }));
    }
}

/// Applies a batch in one transaction. An error is the file's, and then nothing of the batch counts.
fn apply(
    database: &Database,
    batch: &[Job],
    now: Now,
    leases: &mut Leases,
) -> Result<Vec<Result<Answer, StoreError>>, redb::Error> {
    // Durability::Immediate is the default: `commit` returns once the file is synced.
    let transaction = database.begin_write()?;
    let mut changed = false;
    let mut answers = Vec::with_capacity(batch.len());
    for job in batch {
        answers.push(apply_one(&transaction, job, now, leases, &mut changed)?);
    }
    if changed {
        purge(&transaction, now.wall)?;
        transaction.commit()?;
    } else {
        transaction.abort()?;
    }
    Ok(answers)
}

/// One moment, by both clocks.
#[derive(Clone, Copy)]
struct Now {
    wall: Timestamp,
    monotonic: Duration,
}

fn apply_one(
    transaction: &WriteTransaction,
    job: &Job,
    now: Now,
    leases: &mut Leases,
    changed: &mut bool,
) -> Result<Result<Answer, StoreError>, redb::Error> {
    let happened = match &job.work {
        Work::Ping => true,
        Work::TakeLease { of, nonce, ttl } => {
            if let Some((_, until)) = leases.holder(of, now.monotonic).filter(|(holder, _)| holder != nonce) {
                let left = until.saturating_sub(now.monotonic);
                return Ok(Ok(Answer::Lease(LeaseAnswer::Theirs { left })));
            }
            let mut begun = transaction.open_table(BEGUN)?;
            let before = begun.get(of.as_str())?.map(|row| row.value().to_vec());
            let record =
                transaction.open_table(CONNECTIONS)?.get(of.as_str())?.map(|row| row.value().to_vec());
            let revision = record.and_then(|record| record::decode_revision(job.doing, &record).ok());
            let about = record::sign_in_bytes(&revision.map(|revision| revision.sign_in).unwrap_or_default());
            let unsettled = match before.filter(|before| before.get(16..32) == Some(&about[..])) {
                Some(before) if before.starts_with(&nonce.0) => before.ends_with(&[1]),
                Some(_) => true,
                None => false,
            };
            let mut row = nonce.0.to_vec();
            row.extend_from_slice(&about);
            row.push(u8::from(unsettled));
            begun.insert(of.as_str(), row.as_slice())?;
            leases.0.insert(of.clone(), (*nonce, now.monotonic.saturating_add(*ttl)));
            *changed = true;
            return Ok(Ok(Answer::Lease(LeaseAnswer::Mine { unsettled })));
        }
        Work::ExtendLease { of, nonce, ttl } => {
            let ours = leases.is(of, *nonce, now.monotonic);
            if ours {
                leases.0.insert(of.clone(), (*nonce, now.monotonic.saturating_add(*ttl)));
            }
            ours
        }
        Work::ReleaseLease { of, nonce, settled } => {
            let ours = leases.is(of, *nonce, now.monotonic);
            if ours {
                leases.0.remove(of);
            }
            let mut begun = transaction.open_table(BEGUN)?;
            // What one before us began is not settled by that.
            let ours_alone = |row: &[u8]| row.starts_with(&nonce.0) && row.ends_with(&[0]);
            if *settled && begun.get(of.as_str())?.is_some_and(|row| ours_alone(row.value())) {
                begun.remove(of.as_str())?;
                *changed = true;
            }
            ours
        }
        Work::Schedule { key, due_at } => {
            *changed |= schedule(transaction, key, *due_at)?;
            true
        }
        Work::MarkUsed { key, at } => {
            let mut table = transaction.open_table(SCHEDULE)?;
            let name = key.to_string();
            let before = table.get(name.as_str())?.map(|row| row.value());
            if let Some((due, used)) = before
                && used < at.unix_millis()
            {
                table.insert(name.as_str(), (due, at.unix_millis()))?;
                *changed = true;
            }
            true
        }
        Work::Commit { key, expected, revision, record, writer } => {
            let mut table = transaction.open_table(CONNECTIONS)?;
            let stored = table.get(key.as_str())?.map(|row| record::decode_revision(job.doing, row.value()));
            let stored = match stored.transpose() {
                Ok(stored) => stored,
                Err(error) => return Ok(Err(error)),
            };
            let holder = leases.holder(key, now.monotonic).map(|(nonce, _)| nonce);
            let committed = match writer {
                _ if stored.as_ref() == Some(revision) => Committed::Done, // this very commit, whose answer was lost
                _ if writer.is_fenced() && holder.is_some() && holder != writer.lease() => Committed::Fenced,
                _ if stored != *expected => Committed::Conflict,
                _ if stored.is_none() && revision.sign_in.number < floor(transaction, key)?.number => {
                    Committed::Conflict
                }
                _ => {
                    table.insert(key.as_str(), record.as_slice())?;
                    let ours = writer.lease().filter(|_| holder == writer.lease());
                    if ours.is_some() {
                        leases.0.remove(key);
                    }
                    let is_held = holder.is_some() && ours.is_none();
                    settle(transaction, key, *writer, is_held)?;
                    *changed = true;
                    Committed::Done
                }
            };
            return Ok(Ok(Answer::Committed(committed)));
        }
        Work::Delete { key, meant, cuts_off } => {
            let mut table = transaction.open_table(CONNECTIONS)?;
            let mut floor = floor(transaction, key)?;
            floor.number = floor.number.max(meant.number.saturating_add(1));
            // What cannot be read has no sign-in, and goes whatever is meant.
            let stored =
                table.get(key.as_str())?.map(|row| record::decode_revision(job.doing, row.value()).ok());
            if let Some(stored) = stored {
                if stored.is_some_and(|revision| revision.sign_in != *meant) {
                    return Ok(Ok(Answer::Deleted(Deleted::Another)));
                }
                table.remove(key.as_str())?;
                let after = stored.map_or(0, |revision| revision.generation.saturating_add(1));
                floor.number = floor.number.max(after);
                if leases.holder(key, now.monotonic).is_none() {
                    transaction.open_table(BEGUN)?.remove(key.as_str())?;
                }
                if let Some(key) = keyspace::parse_key(key) {
                    schedule(transaction, &key, None)?;
                }
            }
            if *cuts_off {
                floor.cut = floor.number;
            }
            raise_floor(transaction, key, floor, now.wall)?;
            *changed = true;
            return Ok(Ok(Answer::Deleted(if stored.is_some() { Deleted::Gone } else { Deleted::Absent })));
        }
        Work::PutPending { id, sealed, expires_at } => {
            put_pending(transaction, id, sealed, *expires_at)?;
            *changed = true;
            true
        }
        Work::TakePending { id } => match live_pending(transaction, job.doing, id, now.wall)? {
            Ok(Some(sealed)) => {
                remove_pending(transaction, id)?;
                *changed = true;
                return Ok(Ok(Answer::Taken(sealed)));
            }
            Ok(None) => false,
            Err(error) => return Ok(Err(error)),
        },
        Work::SwapPending { id, expected, sealed, expires_at } => {
            match live_pending(transaction, job.doing, id, now.wall)? {
                Ok(Some(stored)) if stored == *sealed => true, // this very swap, whose answer was lost
                Ok(stored) if stored == *expected => {
                    put_pending(transaction, id, sealed, *expires_at)?;
                    *changed = true;
                    true
                }
                Ok(_) => false,
                Err(error) => return Ok(Err(error)),
            }
        }
        Work::CountIn { owner, entry, until, most } => {
            return Ok(Ok(Answer::Counted(counts::count_in(
                transaction,
                owner,
                entry,
                *until,
                most,
                now.wall,
                changed,
            )?)));
        }
        Work::CountOut { row } => {
            let counted = transaction.open_table(COUNTED)?.remove(row.as_str())?.is_some();
            *changed |= counted;
            counted
        }
        Work::Reseal { key, before, after } => {
            let mut table = transaction.open_table(CONNECTIONS)?;
            let stored = table.get(key.as_str())?.map(|row| row.value().to_vec());
            match stored {
                Some(stored) if stored == *after => true, // this very one, whose answer was lost
                Some(stored) if stored == *before => {
                    table.insert(key.as_str(), after.as_slice())?;
                    *changed = true;
                    true
                }
                _ => false,
            }
        }
        Work::ResealPending { id, before, after } => {
            let mut table = transaction.open_table(PENDING)?;
            let row = table.get(id.as_str())?.map(|row| row.value().to_vec());
            let stored = row.as_deref().map(|row| Pending::read(job.doing, row)).transpose();
            let stored = match stored {
                Ok(stored) => stored.filter(|stored| stored.alive(now.wall).is_some()),
                Err(error) => return Ok(Err(error)),
            };
            match stored {
                Some(stored) if stored.sealed == after.as_slice() => true,
                Some(stored) if stored.sealed == before.as_slice() => {
                    let row = pending_row(stored.expires_at, after);
                    table.insert(id.as_str(), row.as_slice())?;
                    *changed = true;
                    true
                }
                _ => false,
            }
        }
    };
    Ok(Ok(Answer::Happened(happened)))
}

/// Settles what was begun with a connection, as far as a commit does: what was begun under its own lease, and what was begun with
/// a grant that it replaces, unless somebody holds the lease and may be about to use the new one.
fn settle(transaction: &WriteTransaction, key: &str, writer: By, is_held: bool) -> Result<(), redb::Error> {
    let mut begun = transaction.open_table(BEGUN)?;
    let ours = match (begun.get(key)?, writer.lease()) {
        (Some(row), Some(nonce)) => row.value().starts_with(&nonce.0),
        _ => false,
    };
    if ours || (writer.replaces_grant() && !is_held) {
        begun.remove(key)?;
    }
    Ok(())
}

fn floor(transaction: &WriteTransaction, key: &str) -> Result<Floor, redb::Error> {
    let row = transaction.open_table(FLOORS)?.get(key)?.map(|row| row.value());
    Ok(row.map_or(LOWEST_FLOOR, |(number, cut, _)| Floor { number, cut }))
}

/// Remembers what a delete leaves, for its time.
fn raise_floor(
    transaction: &WriteTransaction,
    key: &str,
    floor: Floor,
    now: Timestamp,
) -> Result<(), redb::Error> {
    let until = now.plus(FLOOR_KEPT);
    let before = transaction
        .open_table(FLOORS)?
        .insert(key, (floor.number, floor.cut, until.unix_millis()))?
        .map(|row| row.value());
    let mut expiry = transaction.open_table(FLOOR_EXPIRY)?;
    if let Some((_, _, until)) = before {
        expiry.remove(expiry_key(Timestamp::from_unix_millis(until), key).as_slice())?;
    }
    expiry.insert(expiry_key(until, key).as_slice(), ())?;
    Ok(())
}

/// Puts a connection where it is due, or takes it out of the schedule. False when it was not in it, and is not.
fn schedule(
    transaction: &WriteTransaction,
    key: &ConnectionKey,
    due_at: Option<Timestamp>,
) -> Result<bool, redb::Error> {
    let (name, shard) = (key.to_string(), keyspace::shard(key));
    let mut table = transaction.open_table(SCHEDULE)?;
    let before = table.remove(name.as_str())?.map(|row| row.value());
    let mut due = transaction.open_table(DUE)?;
    if let Some((at, _)) = before {
        due.remove(due_key(shard, Timestamp::from_unix_millis(at), &name).as_slice())?;
    }
    if let Some(at) = due_at {
        table.insert(name.as_str(), (at.unix_millis(), before.map_or(0, |(_, used)| used)))?;
        due.insert(due_key(shard, at, &name).as_slice(), ())?;
    }
    Ok(before.is_some() || due_at.is_some())
}

/// The key under which what is due is found, in order of time within its shard.
fn due_key(shard: u8, at: Timestamp, name: &str) -> Vec<u8> {
    let mut key = vec![shard];
    key.extend_from_slice(&expiry_key(at, name));
    key
}

/// A pending record as it is stored: when it expires, then the sealed bytes.
struct Pending<'r> {
    expires_at: Timestamp,
    sealed: &'r [u8],
}

impl<'r> Pending<'r> {
    fn read(doing: &'static str, row: &'r [u8]) -> Result<Pending<'r>, StoreError> {
        let (expires_at, sealed) = row
            .split_first_chunk()
            .ok_or_else(|| StoreError::corrupt(doing, "a pending record is shorter than its expiry"))?;
        Ok(Pending { expires_at: Timestamp::from_unix_millis(i64::from_be_bytes(*expires_at)), sealed })
    }

    fn alive(&self, now: Timestamp) -> Option<&'r [u8]> {
        (now < self.expires_at).then_some(self.sealed)
    }
}

fn pending_row(expires_at: Timestamp, sealed: &[u8]) -> Vec<u8> {
    let mut row = expires_at.unix_millis().to_be_bytes().to_vec();
    row.extend_from_slice(sealed);
    row
}

/// The key under which an expiry is found in order of time: the sign is turned, so that bytes sort as numbers do.
fn expiry_key(expires_at: Timestamp, id: &str) -> Vec<u8> {
    let mut key = (expires_at.unix_millis() ^ i64::MIN).to_be_bytes().to_vec();
    key.extend_from_slice(id.as_bytes());
    key
}

fn live_pending(
    transaction: &WriteTransaction,
    doing: &'static str,
    id: &str,
    now: Timestamp,
) -> Result<Result<Option<Vec<u8>>, StoreError>, redb::Error> {
    let table = transaction.open_table(PENDING)?;
    let Some(row) = table.get(id)? else { return Ok(Ok(None)) };
    Ok(Pending::read(doing, row.value()).map(|pending| pending.alive(now).map(<[u8]>::to_vec)))
}

fn put_pending(
    transaction: &WriteTransaction,
    id: &str,
    sealed: &[u8],
    expires_at: Timestamp,
) -> Result<(), redb::Error> {
    remove_pending(transaction, id)?;
    transaction.open_table(PENDING)?.insert(id, pending_row(expires_at, sealed).as_slice())?;
    transaction.open_table(EXPIRY)?.insert(expiry_key(expires_at, id).as_slice(), ())?;
    Ok(())
}

fn remove_pending(transaction: &WriteTransaction, id: &str) -> Result<(), redb::Error> {
    let mut pending = transaction.open_table(PENDING)?;
    let removed = pending.remove(id)?;
    if let Some(Ok(removed)) = removed.as_ref().map(|row| Pending::read("", row.value())) {
        transaction.open_table(EXPIRY)?.remove(expiry_key(removed.expires_at, id).as_slice())?;
    }
    Ok(())
}

/// Takes the longest expired records away. It rides on commits that happen anyway: an expired record is invisible, and
/// where nothing is written none are made either.
fn purge(transaction: &WriteTransaction, now: Timestamp) -> Result<(), redb::Error> {
    let mut expiry = transaction.open_table(EXPIRY)?;
    let end = expiry_key(now.plus(Duration::from_millis(1)), "");
    let mut expired = Vec::new();
    for row in expiry.range::<&[u8]>(..end.as_slice())?.take(PURGE) {
        expired.push(row?.0.value().to_vec());
    }
    let mut pending = transaction.open_table(PENDING)?;
    for key in expired {
        expiry.remove(key.as_slice())?;
        if let Some(id) = key.get(8..).and_then(|id| std::str::from_utf8(id).ok()) {
            pending.remove(id)?;
        }
    }
    let mut expiry = transaction.open_table(FLOOR_EXPIRY)?;
    let mut expired = Vec::new();
    for row in expiry.range::<&[u8]>(..end.as_slice())?.take(PURGE) {
        expired.push(row?.0.value().to_vec());
    }
    let mut floors = transaction.open_table(FLOORS)?;
    for key in expired {
        expiry.remove(key.as_slice())?;
        if let Some(connection) = key.get(8..).and_then(|name| std::str::from_utf8(name).ok()) {
            floors.remove(connection)?;
        }
    }
    Ok(())
}

fn failed(doing: &'static str, error: &redb::Error) -> StoreError {
    match error {
        redb::Error::Corrupted(_) => StoreError::corrupt(doing, error),
        _ => StoreError::unavailable(doing, error),
    }
}

fn at(path: &Path, error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable { doing: OPENING, cause: format!("{}: {error}", path.display()) }
}

fn exists(path: &Path) -> Result<bool, StoreError> {
    path.try_exists().map_err(|error| at(path, error))
}

/// Makes the directory, or checks that nobody else may enter the one there is. Its mode is not changed: the path could
/// be a mistake, and somebody else's.
fn prepare_directory(directory: &Path) -> Result<(), StoreError> {
    if !exists(directory)? {
        if let Some(parent) = directory.parent() {
            fs::create_dir_all(parent).map_err(|error| at(parent, error))?;
        }
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(at(directory, error)),
            _ => {}
        }
    }
    look(directory)
}

/// What is known to be wrong with a store's directory before it is opened. Makes nothing, and does not look who has it.
///
/// # Errors
/// It is no directory, others may enter it, or it cannot be looked at.
pub fn look(directory: &Path) -> Result<(), StoreError> {
    let metadata = match fs::metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        looked => looked.map_err(|error| at(directory, error))?,
    };
    if !metadata.is_dir() {
        return Err(at(directory, "is not a directory"));
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(at(
            directory,
            format_args!(
                "others may enter it (mode {mode:03o}); run `chmod 700` on it, or name a directory within it that \
                 does not exist yet"
            ),
        ));
    }
    Ok(())
}

/// Makes a new file with its meta row, and only then gives it its name.
fn create(path: &Path, clock: &Arc<dyn Clock>, random: &dyn Random) -> Result<(), StoreError> {
    let unfinished = path.with_extension(format!("redb.new-{}", std::process::id()));
    let made = (|| {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)
            .map_err(|error| at(&unfinished, error))?;
        let backend = FileBackend::new(file).map_err(|error| opening(&unfinished, error))?;
        initialize(&unfinished, backend, clock.now(), random_bytes(random))?;
        match fs::hard_link(&unfinished, path) {
            // Another process was faster; whether it still runs is seen when its file is opened.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(at(path, error)),
            _ => Ok(()),
        }
    })();
    let _left_behind = fs::remove_file(&unfinished);
    made?;
    let directory = path.parent().unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| at(directory, error))
}

fn initialize(
    path: &Path,
    backend: impl StorageBackend,
    now: Timestamp,
    id: [u8; 16],
) -> Result<(), StoreError> {
    let database = Builder::new().create_with_backend(backend).map_err(|error| opening(path, error))?;
    let mut row = vec![LAYOUT];
    row.extend_from_slice(&id);
    row.extend_from_slice(&now.unix_millis().to_be_bytes());
    (|| {
        let transaction = database.begin_write()?;
        transaction.open_table(META)?.insert(META_ROW, row.as_slice())?;
        transaction.open_table(CONNECTIONS)?;
        transaction.open_table(PENDING)?;
        transaction.open_table(EXPIRY)?;
        transaction.commit()?;
        Ok(())
    })()
    .map_err(|error: redb::Error| at(path, error))?;
    database.close().map_err(|error| opening(path, error))
}

/// Opens a file that must be there and whole. Every page's checksum is verified: an open that trusts a damaged file
/// may panic later. That reads the whole file, some hundred MiB a second at least.
fn open_file(path: &Path, cache: usize) -> Result<(Database, StoreIdentity), StoreError> {
    let length = fs::metadata(path).map_err(|error| at(path, error))?.len();
    if length == 0 {
        // redb would make a new store of it.
        return Err(damaged(path, "is empty"));
    }
    let database = Builder::new()
        .set_cache_size(cache)
        .set_check_integrity_on_open(true)
        .open(path)
        .map_err(|error| opening(path, error))?;
    let identity = read_identity(path, &database)?;
    add_tables(&database).map_err(|error| at(path, error))?;
    Ok((database, identity))
}

/// Tables that came with later versions: an older file has none of them, and is none the worse for it.
fn add_tables(database: &Database) -> Result<(), redb::Error> {
    let there = match database.begin_read()?.open_table(COUNTED) {
        Err(redb::TableError::TableDoesNotExist(_)) => false,
        table => table.map(|_| true)?,
    };
    if !there {
        let transaction = database.begin_write()?;
        transaction.open_table(BEGUN)?;
        transaction.open_table(DUE)?;
        transaction.open_table(SCHEDULE)?;
        transaction.open_table(FLOORS)?;
        transaction.open_table(FLOOR_EXPIRY)?;
        transaction.open_table(COUNTED)?;
        transaction.commit()?;
    }
    Ok(())
}

fn read_identity(path: &Path, database: &Database) -> Result<StoreIdentity, StoreError> {
    let row = (|| {
        let table = match database.begin_read()?.open_table(META) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            table => table?,
        };
        Ok(table.get(META_ROW)?.map(|row| row.value().to_vec()))
    })()
    .map_err(|error: redb::Error| at(path, error))?;
    let Some(row) = row else { return Err(damaged(path, "has lost its meta row")) };
    let row: [u8; META_LENGTH] = row.try_into().map_err(|_| damaged(path, "has a damaged meta row"))?;
    if row[0] != LAYOUT {
        let cause = format!("has layout {} and this version knows only {LAYOUT}", row[0]);
        return Err(StoreError::Corrupt { doing: OPENING, cause: format!("{} {cause}", path.display()) });
    }
    let (mut id, mut created) = ([0; 16], [0; 8]);
    id.copy_from_slice(&row[1..17]);
    created.copy_from_slice(&row[17..]);
    Ok(StoreIdentity { id, created: Timestamp::from_unix_millis(i64::from_be_bytes(created)) })
}

fn damaged(path: &Path, what: &str) -> StoreError {
    let cause = format!(
        "{} {what}: it is not used as if it were new; put a backup in its place, or move it away to begin anew",
        path.display()
    );
    StoreError::Corrupt { doing: OPENING, cause }
}

fn opening(path: &Path, error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => at(
            path,
            "is in use by another process. An embedded store serves one process: stop the other one (`fuser` names \
             it), give this one a directory of its own, or use `kind = \"redis\"` for several replicas",
        ),
        DatabaseError::Storage(redb::StorageError::Corrupted(cause)) => {
            damaged(path, &format!("is damaged ({cause})"))
        }
        DatabaseError::Storage(redb::StorageError::Io(error))
            if error.kind() == io::ErrorKind::InvalidData =>
        {
            damaged(path, &format!("is not a store ({error})"))
        }
        other => at(path, other),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::process::{Child, Command, Stdio};
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::Pending as _;
    use super::super::suite::{self, CountingRandom, RealClock, connection, key};
    use super::*;
    use crate::domain::task::BoxFuture;

    fn open(directory: &Path) -> Result<EmbeddedStore, StoreError> {
        EmbeddedStore::open(&EmbeddedConfig::new(directory), RealClock::shared(), &CountingRandom::new())
    }

    fn scratch() -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).expect("ours");
        directory
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("exists").permissions().mode() & 0o777
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn passes_the_suite() {
        let directory = scratch();
        let store: Arc<dyn Store> = Arc::new(open(directory.path()).expect("opens"));
        suite::run(Arc::clone(&store)).await;
        suite::run_counts(store).await;
    }

    #[tokio::test]
    async fn everything_is_there_after_a_restart() {
        let directory = scratch();
        let inner = directory.path().join("a/b");
        let store = open(&inner).expect("opens");
        let identity = store.identity();
        let stored = connection(1, 1);
        let done = store.commit(&key("app", "user"), None, &stored, By::SignIn).await.expect("serves");
        assert_eq!(done, Committed::Done);
        suite::put(&store, "session", b"kept", Duration::from_secs(60)).await.expect("serves");
        drop(store);
        assert_eq!((mode(&inner), mode(&inner.join(FILE_NAME))), (0o700, 0o600));
        let entries = fs::read_dir(&inner).expect("is there").count();
        assert_eq!(entries, 1, "nothing is left of its making");

        let store = open(&inner).expect("opens again");
        assert_eq!(store.identity(), identity);
        assert_eq!(store.load(&key("app", "user")).await.expect("serves"), Some(stored));
        assert_eq!(store.pending("session").await.expect("serves").as_deref(), Some(&b"kept"[..]));
    }

    #[test]
    fn a_directory_that_others_may_enter_is_refused_and_left_as_it_is() {
        let directory = scratch();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("ours");
        let text = open(directory.path()).err().expect("refused").to_string();
        assert!(text.contains("chmod 700") && text.contains("mode 755"), "{text}");
        assert_eq!(mode(directory.path()), 0o755);
    }

    #[test]
    fn a_file_that_is_not_a_whole_store_is_refused() {
        let directory = scratch();
        let path = directory.path().join(FILE_NAME);
        let refused = |what: &str| {
            let error = open(directory.path()).err().expect("refused");
            assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
            assert!(error.to_string().contains(what), "{error}");
        };
        fs::write(&path, b"").expect("writes");
        refused("is empty");
        fs::write(&path, vec![b'x'; 8192]).expect("writes");
        refused("is not a store");
        fs::remove_file(&path).expect("ours");
        Database::create(&path).expect("a store of somebody else").close().expect("closes");
        refused("lost its meta row");
        fs::remove_file(&path).expect("ours");
        drop(open(directory.path()).expect("makes one"));
        assert!(open(directory.path()).is_ok());
    }

    #[test]
    fn a_damaged_page_is_found_at_start() {
        let directory = scratch();
        let path = directory.path().join(FILE_NAME);
        drop(open(directory.path()).expect("makes one"));
        let mut bytes = fs::read(&path).expect("is there");
        let needle = META_ROW.as_bytes();
        let mut hit = false;
        for at in 0..bytes.len() - needle.len() {
            if &bytes[at..at + needle.len()] == needle {
                bytes[at + needle.len()] ^= 0x40;
                hit = true;
            }
        }
        assert!(hit);
        fs::write(&path, &bytes).expect("writes");
        let error = open(directory.path()).err().expect("refused");
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    }

    #[tokio::test]
    async fn expired_records_are_taken_away_by_later_writes() {
        let directory = scratch();
        let store = open(directory.path()).expect("opens");
        for number in 0..100 {
            suite::put(&store, &format!("s{number}"), b"x", Duration::from_millis(1)).await.expect("serves");
        }
        suite::put(&store, "lives", b"x", Duration::from_secs(60)).await.expect("serves");
        tokio::time::sleep(Duration::from_millis(20)).await;
        for generation in 0..4 {
            let key = key("app", &format!("user-{generation}"));
            store.commit(&key, None, &connection(1, 1), By::SignIn).await.expect("serves");
        }
        let database = store.database.read();
        let transaction = database.as_ref().expect("open").begin_read().expect("reads");
        use redb::ReadableTableMetadata;
        assert_eq!(transaction.open_table(PENDING).expect("there").len().expect("counts"), 1);
        assert_eq!(transaction.open_table(EXPIRY).expect("there").len().expect("counts"), 1);
    }

    /// A disk that can be told to fail.
    #[derive(Debug)]
    struct Failing {
        file: FileBackend,
        broken: Arc<AtomicBool>,
    }

    impl Failing {
        fn check(&self) -> io::Result<()> {
            if self.broken.load(Ordering::SeqCst) { Err(io::Error::other("disk full")) } else { Ok(()) }
        }
    }

    impl StorageBackend for Failing {
        fn len(&self) -> io::Result<u64> {
            self.file.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.file.read(offset, out)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.check()?;
            self.file.set_len(len)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.check()?;
            self.file.sync_data()
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.check()?;
            self.file.write(offset, data)
        }
    }

    #[tokio::test]
    async fn a_failed_commit_tells_everyone_and_heals_once_the_disk_does() {
        let directory = scratch();
        drop(open(directory.path()).expect("makes one"));
        let path = directory.path().join(FILE_NAME);
        let broken = Arc::new(AtomicBool::new(false));
        let switch = Arc::clone(&broken);
        let open = Box::new(move || {
            let file =
                OpenOptions::new().read(true).write(true).open(&path).map_err(|error| at(&path, error))?;
            let file = FileBackend::new(file).map_err(|error| opening(&path, error))?;
            let backend = Failing { file, broken: Arc::clone(&switch) };
            let database =
                Builder::new().create_with_backend(backend).map_err(|error| opening(&path, error))?;
            let identity = read_identity(&path, &database)?;
            Ok((database, identity))
        });
        let store = Arc::new(EmbeddedStore::start(open, RealClock::shared()).expect("opens"));
        let (first, second) = (connection(1, 1), connection(2, 2));
        let key = key("app", "user");
        assert_eq!(store.commit(&key, None, &first, By::SignIn).await.expect("serves"), Committed::Done);

        broken.store(true, Ordering::SeqCst);
        let error = store
            .commit(&key, Some(first.revision), &second, By::SignIn)
            .await
            .expect_err("the disk is full");
        assert!(
            matches!(&error, StoreError::Unavailable { doing: "committing a connection", .. }),
            "{error}"
        );
        let (commit, taken) = tokio::join!(
            store.commit(&key, Some(first.revision), &second, By::SignIn),
            store.take_pending("x")
        );
        assert!(commit.is_err() && taken.is_err(), "lost is an error, never not found");
        assert!(store.ping().await.is_err());

        broken.store(false, Ordering::SeqCst);
        let clock = RealClock::shared();
        let start = clock.monotonic();
        while store.ping().await.is_err() {
            assert!(clock.monotonic() - start < REOPEN_PAUSE * 2, "it heals by itself");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let repeated = store.commit(&key, Some(first.revision), &second, By::SignIn).await.expect("serves");
        assert_eq!(repeated, Committed::Done, "whether or not the failed one reached the disk");
        assert_eq!(store.load(&key).await.expect("serves"), Some(second));
    }

    /// Where the child of a test is told its directory.
    const CHILD: &str = "TOKENWARD_TEST_EMBEDDED_CHILD";

    /// Not a test of its own: what the two tests below run in another process.
    #[tokio::test]
    async fn child_writes_until_it_is_killed() {
        let Some(directory) = std::env::var_os(CHILD) else { return };
        let say = |text: &str| writeln!(io::stdout(), "child: {text}").expect("the parent reads");
        let store = match open(Path::new(&directory)) {
            Ok(store) => Arc::new(store),
            Err(error) => return say(&format!("refused {error}")),
        };
        say("opened");
        let mut writers = Vec::new();
        for user in 0..8u32 {
            let store = Arc::clone(&store);
            let store = Arc::clone(&store);
            writers.push(async move {
                let key = key("app", &format!("user-{user}"));
                let mut before = store.load(&key).await.expect("serves").map(|stored| stored.revision);
                for generation in before.map_or(1, |before| before.generation + 1).. {
                    let next = connection(generation, u128::from(generation));
                    let committed = store.commit(&key, before, &next, By::SignIn).await.expect("serves");
                    assert_eq!(committed, Committed::Done);
                    say(&format!("acknowledged {user} {generation}"));
                    before = Some(next.revision);
                }
            });
        }
        let mut writers: Vec<BoxFuture<'_, ()>> =
            writers.into_iter().map(|writer| Box::pin(writer) as BoxFuture<'_, ()>).collect();
        std::future::poll_fn(|context| {
            for writer in &mut writers {
                let _goes_on = writer.as_mut().poll(context);
            }
            std::task::Poll::<()>::Pending
        })
        .await;
    }

    fn child(directory: &Path) -> Child {
        Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "store::embedded::tests::child_writes_until_it_is_killed", "--nocapture"])
            .env(CHILD, directory)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts")
    }

    /// What the child said, a line at a time.
    fn said(child: &mut Child) -> impl Iterator<Item = String> + use<> {
        let output: Box<dyn Read> = Box::new(child.stdout.take().expect("piped"));
        let lines = BufReader::new(output).lines().map_while(Result::ok);
        lines.filter_map(|line| Some(line.split_once("child: ")?.1.to_owned()))
    }

    #[tokio::test]
    async fn no_acknowledged_commit_is_lost_when_the_process_is_killed() {
        let directory = scratch();
        let mut acknowledged = [0u64; 8];
        for round in 0..5usize {
            let mut child = child(directory.path());
            let mut lines = said(&mut child);
            assert_eq!(lines.next().as_deref(), Some("opened"));
            let mut seen = 0;
            for line in lines {
                let mut words = line.split(' ').skip(1).map(|word| word.parse::<u64>().expect("a number"));
                let (user, generation) = (words.next().expect("a user"), words.next().expect("a generation"));
                let user = usize::try_from(user).expect("small");
                assert_eq!(generation, acknowledged[user] + 1, "each continues where it was");
                acknowledged[user] = generation;
                seen += 1;
                if seen == 40 + round * 7 {
                    // What it goes on to acknowledge until it dies is still read: the pipe ends with it.
                    child.kill().expect("ours");
                }
            }
            child.wait().expect("ours");
            let store = open(directory.path()).expect("opens after a crash");
            for (user, generation) in acknowledged.iter_mut().enumerate() {
                let stored = store.load(&key("app", &format!("user-{user}"))).await.expect("serves");
                let stored = stored.map_or(0, |stored| stored.revision.generation);
                assert!(stored >= *generation, "user {user}: {stored} stored, {generation} acknowledged");
                *generation = stored; // one that was stored and not acknowledged any more may be there
            }
        }
    }

    #[test]
    fn a_second_process_is_refused_with_what_to_do() {
        let directory = scratch();
        let store = open(directory.path()).expect("opens");
        let mut second = child(directory.path());
        let answer = said(&mut second).next().expect("says something");
        second.wait().expect("ours");
        let path = directory.path().join(FILE_NAME);
        assert!(answer.starts_with("refused "), "{answer}");
        assert!(answer.contains(&path.display().to_string()), "{answer}");
        assert!(answer.contains("in use by another process") && answer.contains("redis"), "{answer}");
        drop(store);
        let mut third = child(directory.path());
        let answer = said(&mut third).next();
        third.kill().expect("ours");
        third.wait().expect("ours");
        assert_eq!(answer.as_deref(), Some("opened"));
    }
}
