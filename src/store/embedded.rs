//! The store of one process: a redb file on local disk.
//!
//! **Writes** go through one thread. It drains its queue, applies everything in one transaction (each
//! operation judged for itself, in the order of arrival, seeing those before it), commits durably once, and
//! answers all. So a disk that syncs 500 times a second still takes thousands of commits. If the commit
//! fails, every operation gets [`StoreError::Unavailable`] ([`StoreError::Full`] where the disk has no room):
//! nobody knows what reached the disk, and every operation may be repeated. After an I/O error redb refuses
//! to go on until its file is reopened. So the thread reopens it, at once and again with later operations
//! until that works: a full disk heals without a restart.
//!
//! **Reads** see the last commit and never wait for a writer. They run on the blocking pool. In a debug build
//! a read took 6 µs in place and 64 µs by way of the pool (33 µs and at worst 0.4 ms in place beside 9,000
//! commits a second), all from redb's cache. But a read that misses the cache waits for the disk, and must
//! not stop a worker that serves others. The difference does not matter: no connection is read on the hot
//! path ([`Store::is_shared`] is false, so a cached connection is never stale).
//!
//! **One process.** redb locks the file; a second process is refused at start. A command may read a file that
//! no process has open ([`EmbeddedStore::read_only`]); a start waits for that.
//!
//! **Files.** `tokenward.redb`, mode 0600, in a directory that only its owner may enter. It is made under
//! another name and linked into place once it holds its meta row, so a file without one was never finished or
//! is damaged, and is refused: an empty store must never pass for a lost one.

mod batch;
mod file;
mod leases;
mod notices;
mod pending;
mod reader;
mod records;
mod reseal;
mod room;
mod schedule;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::RwLock;
use redb::{Database, ReadTransaction, ReadableDatabase};
use tokio::sync::mpsc;

use self::batch::{Batch, Failed};
pub use self::file::{FILE_NAME, StoreIdentity, look};
use self::file::{OPENING, OpenDatabase};
use self::room::Room;
pub use self::room::is_enough_room;
use self::writer::{CLOSED, Job, QUEUE, Thread};
use super::rules::Leases;
use super::{Change, Store, StoreError};
use crate::domain::random::Random;
use crate::domain::time::Clock;

/// How long an operation waits for room in a full queue before it is refused. No healthy disk needs as long.
const QUEUE_WAIT: Duration = Duration::from_secs(5);

/// How to open an embedded store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedConfig {
    /// The directory of the file; made when missing.
    pub directory: PathBuf,
    /// How much of the file is kept in memory. 32 MiB hold some four thousand connections.
    pub cache_bytes: usize,
}

impl EmbeddedConfig {
    /// A store in this directory, with the usual cache.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        EmbeddedConfig { directory: directory.into(), cache_bytes: 32 * 1024 * 1024 }
    }
}

/// A store in one file, for one process. Dropping it writes out what was queued and closes the file.
pub struct EmbeddedStore {
    database: Opened,
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    writer: Option<JoinHandle<()>>,
    clock: Arc<dyn Clock>,
    identity: StoreIdentity,
    room: Room,
}

/// The file, as it was opened.
#[derive(Clone)]
enum Opened {
    /// For its writer; `None` while it is being reopened.
    Whole(Arc<RwLock<Option<Database>>>),
    /// To be read alone.
    Reading(Arc<Database>),
}

impl EmbeddedStore {
    /// Opens a store that is there to read it, and changes nothing. Every write is refused. While it is open
    /// no other process can open it to write. Blocks on the disk.
    ///
    /// # Errors
    /// There is none, or another process has it open.
    pub fn read_only(config: &EmbeddedConfig, clock: Arc<dyn Clock>) -> Result<EmbeddedStore, StoreError> {
        let (database, identity) = reader::open(config)?;
        let room = Room::on_the_disk_of(config.directory.clone());
        let database = Opened::Reading(Arc::new(database));
        Ok(EmbeddedStore { database, jobs: None, writer: None, clock, identity, room })
    }

    /// Opens the store, and makes it when there is none. Blocks on the disk: call it while starting.
    pub fn open(
        config: &EmbeddedConfig,
        clock: Arc<dyn Clock>,
        random: &dyn Random,
    ) -> Result<EmbeddedStore, StoreError> {
        let open = file::prepare(config, &*clock, random)?;
        let path = config.directory.join(FILE_NAME);
        Self::start(open, path, clock, Room::on_the_disk_of(config.directory.clone()))
    }

    fn start(
        open: OpenDatabase,
        path: PathBuf,
        clock: Arc<dyn Clock>,
        room: Room,
    ) -> Result<EmbeddedStore, StoreError> {
        let (database, identity) = open()?;
        let database = Arc::new(RwLock::new(Some(database)));
        let (jobs, queue) = mpsc::channel(QUEUE);
        let thread = Thread {
            queue,
            database: Arc::clone(&database),
            open,
            path,
            identity,
            clock: Arc::clone(&clock),
            leases: Leases::default(),
            pause: None,
        };
        let writer = std::thread::Builder::new()
            .name("tokenward-store".into())
            .spawn(move || thread.run())
            .map_err(|error| StoreError::unavailable(OPENING, error))?;
        let (jobs, writer) = (Some(jobs), Some(writer));
        let database = Opened::Whole(database);
        Ok(EmbeddedStore { database, jobs, writer, clock, identity, room })
    }

    /// What the file says about itself.
    pub fn identity(&self) -> StoreIdentity {
        self.identity
    }

    /// Has the writer do this, and waits until it is on disk.
    async fn write<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&mut Batch<'_>) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, StoreError> {
        let jobs = self.jobs.as_ref().ok_or_else(|| StoreError::unavailable(doing, CLOSED))?;
        let room = tokio::select! {
            biased;
            room = jobs.reserve() => room,
            () = self.clock.sleep(QUEUE_WAIT) => {
                return Err(StoreError::unavailable(doing,
                    "the disk does not keep up with what is to be written"));
            }
        };
        let (job, answered) = writer::job(doing, work);
        room.map_err(|_| StoreError::unavailable(doing, CLOSED))?.send(job);
        answered.await.unwrap_or_else(|_| Err(StoreError::unavailable(doing, CLOSED)))
    }

    /// Reads the last commit, on the blocking pool.
    async fn read<T: Send + 'static>(
        &self,
        doing: &'static str,
        look: impl FnOnce(ReadTransaction) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, StoreError> {
        let opened = self.database.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let begun = match &opened {
                Opened::Reading(database) => database.begin_read(),
                // Locked only for the beginning, so that a reopening writer does not wait for a long list.
                Opened::Whole(database) => match &*database.read() {
                    Some(database) => database.begin_read(),
                    None => return Err(StoreError::unavailable(doing, CLOSED)),
                },
            };
            begun.map_err(Failed::from).and_then(look).map_err(|failed| failed.into_error(doing))
        });
        looking.await.unwrap_or_else(|_| Err(StoreError::unavailable(doing, "reading the file panicked")))
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(writer) = self.writer.take() {
            // The thread ends once the queue is empty: one transaction away. A panic in it was answered as an
            // error.
            let _ended = writer.join();
        }
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    fn is_shared(&self) -> bool {
        false
    }

    fn id(&self) -> Option<String> {
        Some(hex::encode(self.identity.id))
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.write("asking the store whether it serves", |_| Ok(())).await
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
