//! The queue between those who record and the thread that writes, with a lane of its own for strangers.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::Notify;

use super::{AuditEvent, HandOutRecord, Noted, Recorded};

/// Most records of strangers that wait to be written.
pub(super) const STRANGERS: usize = 256;
/// Most records of strangers in one write, and so the most that another record waits for: some 5 kB, which a
/// sink of 400 kB/s takes in 12 ms.
pub(super) const CHUNK: usize = 16;

/// A record that waits to be written.
#[derive(Debug, Clone)]
pub(super) enum Record {
    Event(Box<AuditEvent>),
    HandOut(HandOutRecord),
}

impl Record {
    /// Appends the members of its JSON, without the braces.
    pub(super) fn push_members(&self, out: &mut Vec<u8>) {
        match self {
            Record::Event(event) => event.push_members(out),
            Record::HandOut(record) => record.push_members(out),
        }
    }
}

impl From<AuditEvent> for Record {
    fn from(event: AuditEvent) -> Self {
        Record::Event(Box::new(event))
    }
}

/// Records in one write, and the requests that wait for them.
#[derive(Default)]
pub(super) struct Batch {
    written: OnceLock<Recorded>,
    /// Wakes those who wait: it is written, or somebody asks them to look ([`Batch::stir`]).
    news: Notify,
    /// Number of its records that waiting requests counted as lost. Locked while it is decided who counts.
    given_up: Mutex<u64>,
}

impl Batch {
    /// Reports the outcome. Lost records that nobody has counted yet are counted first, so that the report
    /// can be relied on.
    pub(super) fn finish(&self, outcome: Recorded, records: u64, count: impl FnOnce(u64)) {
        let given_up = self.given_up.lock();
        if outcome == Recorded::Lost {
            count(records - *given_up);
        }
        // Only the writer finishes a batch, and only once.
        let _ = self.written.set(outcome);
        self.news.notify_waiters();
    }

    /// What became of it, if that is known.
    pub(super) fn outcome(&self) -> Option<Recorded> {
        self.written.get().copied()
    }

    /// Waits for the outcome; `None` if those who wait are asked to look before, or nobody is there who would
    /// ask them.
    pub(super) async fn outcome_or_stir(&self, is_unwatched: impl Fn() -> bool) -> Option<Recorded> {
        // Registered before the looks, so that nothing in between is missed.
        let news = self.news.notified();
        if let Some(outcome) = self.outcome() {
            return Some(outcome);
        }
        if is_unwatched() {
            return None;
        }
        news.await;
        self.outcome()
    }

    /// Waits for the outcome.
    pub(super) async fn wait(&self) -> Recorded {
        loop {
            if let Some(outcome) = self.outcome_or_stir(|| false).await {
                return outcome;
            }
        }
    }

    /// Has the requests that wait check how long they have waited.
    fn stir(&self) {
        self.news.notify_waiters();
    }

    /// Ends one wait and returns `Lost` if the record must be counted, unless the outcome has just come.
    pub(super) fn give_up(&self) -> Option<Recorded> {
        let mut given_up = self.given_up.lock();
        let outcome = self.outcome();
        *given_up += u64::from(outcome.is_none());
        outcome
    }
}

/// Outcome of putting a record into the queue.
pub(super) enum Put {
    /// It is in this batch, the next one.
    Into(Arc<Batch>),
    NoRoom(Record),
    Closed,
}

/// The queue between requests and the writing thread.
pub(super) struct Queue {
    room: usize,
    next: Mutex<Next>,
    /// Signals a record to a sleeping writer.
    came: Condvar,
    /// Signals that the writer has taken everything.
    taken: Notify,
    /// True while the sink's thread writes, which otherwise watches those who do.
    by_thread: AtomicBool,
}

/// The batch that is written next.
struct Next {
    records: Vec<Record>,
    batch: Arc<Batch>,
    /// The batch before, which may be being written.
    before: Arc<Batch>,
    /// The lane of strangers. Nobody waits for these.
    strangers: VecDeque<Record>,
    /// Whether a checkpoint is due.
    checkpoint: bool,
    /// True while the writer sleeps. A working writer checks again by itself, and a sleeping one is woken
    /// once.
    writer_sleeps: bool,
    closed: bool,
}

impl Next {
    fn has_something(&self) -> bool {
        !self.records.is_empty() || !self.strangers.is_empty() || self.checkpoint
    }
}

impl Queue {
    pub(super) fn new(room: usize) -> Self {
        let next = Next {
            records: Vec::new(),
            batch: Arc::default(),
            before: Arc::default(),
            strangers: VecDeque::new(),
            checkpoint: false,
            writer_sleeps: false,
            closed: false,
        };
        Queue {
            room,
            next: Mutex::new(next),
            came: Condvar::new(),
            taken: Notify::new(),
            by_thread: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Next> {
        self.next.lock()
    }

    pub(super) fn put(&self, record: Record) -> Put {
        let mut next = self.lock();
        if next.closed {
            return Put::Closed;
        }
        if next.records.len() >= self.room {
            return Put::NoRoom(record);
        }
        next.records.push(record);
        Put::Into(Arc::clone(&next.batch))
    }

    pub(super) fn note(&self, event: AuditEvent) -> Noted {
        let mut next = self.lock();
        if next.closed || next.strangers.len() >= STRANGERS {
            return Noted::NoRoom;
        }
        next.strangers.push_back(event.into());
        drop(next);
        self.wake_writer();
        Noted::Taken
    }

    /// Has the writer sign what there is.
    pub(super) fn ask_for_checkpoint(&self) {
        self.lock().checkpoint = true;
        self.wake_writer();
    }

    /// Wakes the writer. It follows every put, sooner or later.
    pub(super) fn wake_writer(&self) {
        let mut next = self.lock();
        let wake = next.has_something() && std::mem::take(&mut next.writer_sleeps);
        drop(next);
        if wake {
            self.came.notify_one();
        }
    }

    /// Puts the record once there is room for it. `None` once the queue is closed.
    pub(super) async fn put_when_there_is_room(&self, record: &mut Option<Record>) -> Option<Arc<Batch>> {
        loop {
            // Registered before the check, so that no signal in between is missed.
            let taken = self.taken.notified();
            match self.put(record.take()?) {
                Put::Into(batch) => return Some(batch),
                Put::Closed => return None,
                Put::NoRoom(back) => *record = Some(back),
            }
            taken.await;
        }
    }

    /// Takes all records into the empty `records`, and some of strangers into the empty `strangers`; true
    /// with it if a checkpoint is due. `None` if there is nothing.
    pub(super) fn take(
        &self,
        records: &mut Vec<Record>,
        strangers: &mut Vec<Record>,
    ) -> Option<(Arc<Batch>, bool)> {
        let mut next = self.lock();
        if !next.has_something() {
            return None;
        }
        std::mem::swap(records, &mut next.records);
        let some = next.strangers.len().min(CHUNK);
        strangers.extend(next.strangers.drain(..some));
        let batch = std::mem::take(&mut next.batch);
        next.before = Arc::clone(&batch);
        let taken = (batch, std::mem::take(&mut next.checkpoint));
        drop(next);
        self.taken.notify_waiters();
        Some(taken)
    }

    /// Returns true if records wait for which somebody waits.
    pub(super) fn is_awaited(&self) -> bool {
        !self.lock().records.is_empty()
    }

    /// The sink's thread begins to write, or ends. While it writes, nobody has others look.
    pub(super) fn writes_by_thread(&self, is_so: bool) {
        self.by_thread.store(is_so, Ordering::SeqCst);
    }

    /// Returns true while the sink's thread writes.
    pub(super) fn is_by_thread(&self) -> bool {
        self.by_thread.load(Ordering::SeqCst)
    }

    /// Has the requests that wait for a record check how long they have waited.
    pub(super) fn stir(&self) {
        let next = self.lock();
        let batches = [Arc::clone(&next.before), Arc::clone(&next.batch)];
        drop(next);
        batches.iter().for_each(|batch| batch.stir());
    }

    /// Takes no more records; the writer writes those in the queue.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.came.notify_one();
        self.taken.notify_waiters();
    }
}

/// Wakes the writer when dropped: also if a request is hung up between its record and the wake.
pub(super) struct WakesWriter<'a>(Option<&'a Queue>);

impl<'a> WakesWriter<'a> {
    pub(super) fn of(queue: &'a Queue) -> Self {
        WakesWriter(Some(queue))
    }

    /// The record is written without it.
    pub(super) fn not_needed(mut self) {
        self.0 = None;
    }
}

impl Drop for WakesWriter<'_> {
    fn drop(&mut self) {
        if let Some(queue) = self.0 {
            queue.wake_writer();
        }
    }
}

/// The writer's end of a queue. When it is gone, nobody waits for it in vain.
pub(super) struct Reader(pub(super) Arc<Queue>);

impl Reader {
    /// Waits until something is to be written, and meanwhile does `look` each time this much has passed.
    /// False if the queue is closed and empty.
    pub(super) fn wait(&self, look: Option<(Duration, impl Fn())>) -> bool {
        let mut next = self.0.lock();
        while !next.has_something() {
            if next.closed {
                return false;
            }
            next.writer_sleeps = true;
            match &look {
                None => self.0.came.wait(&mut next),
                Some((every, look)) => {
                    if self.0.came.wait_for(&mut next, *every).timed_out() {
                        MutexGuard::unlocked(&mut next, look);
                    }
                }
            }
        }
        next.writer_sleeps = false;
        true
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.close();
    }
}
