//! The one thread that writes. It drains its queue, applies everything in one transaction, and answers when
//! that is on disk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use redb::Database;
use tokio::sync::{mpsc, oneshot};

use super::batch::{Batch, Failed};
use super::file::{self, OPENING, OpenDatabase, StoreIdentity, is_of_a_full_disk};
use crate::domain::time::Clock;
use crate::store::StoreError;
use crate::store::rules::Leases;

/// How many operations may wait for the writer. Each holds at most a few KiB.
pub(super) const QUEUE: usize = 1024;
/// The most operations in one transaction. It bounds how long the first one waits for the last.
const BATCH: usize = 256;
/// The pause after the file could not be reopened. An attempt may read the whole file.
pub(super) const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// What is done for all operations of a batch.
const WRITING: &str = "writing the store's file";
pub(super) const CLOSED: &str = "the file is not open";

/// One operation in the queue, whatever the type of its answer.
pub(super) trait Job: Send {
    /// Does the work within a batch and keeps the answer. An error is the file's, and no operation of the
    /// batch counts.
    fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), redb::Error>;

    /// Sends the answer, now that the batch is on disk.
    fn answer(self: Box<Self>);

    /// Sends the error.
    fn refuse(self: Box<Self>, why: &StoreError);
}

type Work<T> = Box<dyn FnOnce(&mut Batch<'_>) -> Result<T, Failed> + Send>;

struct Asked<T> {
    doing: &'static str,
    /// The work, until it is applied.
    work: Option<Work<T>>,
    /// The answer, once the work is applied.
    answer: Option<Result<T, StoreError>>,
    asker: oneshot::Sender<Result<T, StoreError>>,
}

/// A job, and the receiver of its answer.
pub(super) fn job<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce(&mut Batch<'_>) -> Result<T, Failed> + Send + 'static,
) -> (Box<dyn Job>, oneshot::Receiver<Result<T, StoreError>>) {
    let (asker, answered) = oneshot::channel();
    (Box::new(Asked { doing, work: Some(Box::new(work)), answer: None, asker }), answered)
}

impl<T: Send> Job for Asked<T> {
    fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), redb::Error> {
        let Some(work) = self.work.take() else { return Ok(()) };
        self.answer = Some(match work(batch) {
            Ok(answer) => Ok(answer),
            Err(Failed::Record(error)) => Err(error),
            Err(Failed::File(error)) => return Err(error),
        });
        Ok(())
    }

    fn answer(self: Box<Self>) {
        if let Some(answer) = self.answer {
            let _gone = self.asker.send(answer);
        }
    }

    fn refuse(self: Box<Self>, why: &StoreError) {
        let doing = self.doing;
        let _gone = self.asker.send(Err(match why.clone() {
            StoreError::Full { cause, .. } => StoreError::Full { doing, cause },
            StoreError::Unavailable { cause, .. } | StoreError::Corrupt { cause, .. } => {
                StoreError::Unavailable { doing, cause }
            }
        }));
    }
}

/// The state of the thread.
pub(super) struct Thread {
    pub(super) queue: mpsc::Receiver<Box<dyn Job>>,
    /// For the readers too; `None` while the file is not open.
    pub(super) database: Arc<RwLock<Option<Database>>>,
    pub(super) open: OpenDatabase,
    /// The file.
    pub(super) path: PathBuf,
    pub(super) identity: StoreIdentity,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) leases: Leases<String>,
    /// Why the file could not be reopened, and when to try again.
    pub(super) pause: Option<(StoreError, Duration)>,
}

impl Thread {
    /// Serves until the queue is closed and empty, then closes the file.
    pub(super) fn run(mut self) {
        while let Some(first) = self.queue.blocking_recv() {
            let mut jobs = vec![first];
            while jobs.len() < BATCH {
                let Ok(next) = self.queue.try_recv() else { break };
                jobs.push(next);
            }
            self.serve(jobs);
        }
        self.close();
    }

    fn serve(&mut self, mut jobs: Vec<Box<dyn Job>>) {
        if let Err(error) = self.ensure_open() {
            return refuse(jobs, &error);
        }
        let Err(error) = self.apply(&mut jobs) else {
            return jobs.into_iter().for_each(Job::answer);
        };
        tracing::error!(%error, "the store's file could not be written; it is opened anew");
        // Reopened before anyone gets an error, so that a repeated operation finds the file open.
        self.close();
        let reopened = self.ensure_open();
        refuse(jobs, &error);
        if let Err(error) = reopened {
            tracing::error!(%error, "the store's file could not be opened; the next operation tries again");
        }
    }

    /// Applies all of them in one transaction, and syncs it. After an error no operation of it counts.
    fn apply(&mut self, jobs: &mut [Box<dyn Job>]) -> Result<(), StoreError> {
        let database = self.database.read();
        let database = database.as_ref().ok_or_else(|| StoreError::unavailable(WRITING, CLOSED))?;
        let (leases, clock) = (&mut self.leases, &*self.clock);
        let is_large = std::fs::metadata(&self.path).is_ok_and(|file| file::is_large(file.len()));
        // redb panics if it finds its own file inconsistent. The callers must get an answer all the same.
        let applied = catch_unwind(AssertUnwindSafe(|| {
            // Durability::Immediate is the default: `commit` returns once the file is synced.
            let mut transaction = database.begin_write()?;
            // Without it, a large file would be read whole at the start after a crash. It costs a second
            // sync.
            transaction.set_quick_repair(is_large);
            let mut batch = Batch::new(&transaction, leases, clock);
            for job in jobs {
                job.apply(&mut batch)?;
            }
            match batch.end()? {
                true => transaction.commit()?,
                false => transaction.abort()?,
            }
            Ok::<(), redb::Error>(())
        }));
        let applied = applied.map_err(|_| StoreError::unavailable(WRITING, "writing the file panicked"))?;
        applied.map_err(|error| match &error {
            redb::Error::Io(io) if is_of_a_full_disk(io) => {
                StoreError::Full { doing: WRITING, cause: error.to_string() }
            }
            _ => StoreError::unavailable(WRITING, error),
        })
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

fn refuse(jobs: Vec<Box<dyn Job>>, why: &StoreError) {
    for job in jobs {
        job.refuse(why);
    }
}
