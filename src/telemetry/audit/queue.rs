//! The queue between those who record and the thread that writes, with a lane of its own for strangers.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::{Notify, SetOnce};

use super::{AuditEvent, Noted, Recorded};

/// Records of strangers that may wait to be written.
pub(super) const STRANGERS: usize = 256;
/// Records of strangers that are written at once, and so the most that another record waits for: some 5 kB, which a sink of 400 kB/s
/// takes in 12 ms.
pub(super) const CHUNK: usize = 16;

/// Records that are written with one write, and those who wait for that.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) written: SetOnce<Recorded>,
    /// How many of its records were counted as lost by those who waited. Locked where it is decided who counts.
    given_up: Mutex<u64>,
}

impl Batch {
    /// Says what became of it. Of records that are lost those are counted first that nobody has counted yet: who is told can rely on it.
    pub(super) fn finish(&self, outcome: Recorded, records: u64, count: impl FnOnce(u64)) {
        let given_up = self.given_up.lock();
        if outcome == Recorded::Lost {
            count(records - *given_up);
        }
        // The writer alone finishes a batch, and does so once.
        let _ = self.written.set(outcome);
    }

    /// One who waited does so no longer, and counts the record; unless the outcome came just now.
    pub(super) fn give_up(&self) -> Option<Recorded> {
        let mut given_up = self.given_up.lock();
        let outcome = self.written.get().copied();
        *given_up += u64::from(outcome.is_none());
        outcome
    }
}

/// What became of a record that was to be put into the queue.
pub(super) enum Put {
    /// It is in this batch, the next one.
    Into(Arc<Batch>),
    NoRoom(Box<AuditEvent>),
    Closed,
}

/// Between those who record and the thread that writes.
pub(super) struct Queue {
    room: usize,
    next: Mutex<Next>,
    /// Something came for a writer that sleeps.
    came: Condvar,
    /// The writer has taken everything.
    taken: Notify,
}

/// The batch that will be written next.
struct Next {
    events: Vec<AuditEvent>,
    batch: Arc<Batch>,
    /// In the lane of strangers. Nobody waits for these.
    strangers: VecDeque<AuditEvent>,
    /// A writer that is at work looks again by itself, and one is woken once.
    writer_sleeps: bool,
    closed: bool,
}

impl Queue {
    pub(super) fn new(room: usize) -> Self {
        let next = Next {
            events: Vec::new(),
            batch: Arc::default(),
            strangers: VecDeque::new(),
            writer_sleeps: false,
            closed: false,
        };
        Queue { room, next: Mutex::new(next), came: Condvar::new(), taken: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Next> {
        self.next.lock()
    }

    pub(super) fn put(&self, event: AuditEvent) -> Put {
        let mut next = self.lock();
        if next.closed {
            return Put::Closed;
        }
        if next.events.len() >= self.room {
            return Put::NoRoom(Box::new(event));
        }
        next.events.push(event);
        Put::Into(Arc::clone(&next.batch))
    }

    pub(super) fn note(&self, event: AuditEvent) -> Noted {
        let mut next = self.lock();
        if next.closed || next.strangers.len() >= STRANGERS {
            return Noted::NoRoom;
        }
        next.strangers.push_back(event);
        drop(next);
        self.wake_writer();
        Noted::Taken
    }

    /// Follows every put, sooner or later.
    pub(super) fn wake_writer(&self) {
        let mut next = self.lock();
        let wake =
            !(next.events.is_empty() && next.strangers.is_empty()) && std::mem::take(&mut next.writer_sleeps);
        drop(next);
        if wake {
            self.came.notify_one();
        }
    }

    /// Takes the event once there is room for it. `None` once the queue is closed.
    pub(super) async fn put_when_there_is_room(
        &self,
        event: &mut Option<Box<AuditEvent>>,
    ) -> Option<Arc<Batch>> {
        loop {
            // Before the look: what is taken between the two is not missed.
            let taken = self.taken.notified();
            match self.put(*event.take()?) {
                Put::Into(batch) => return Some(batch),
                Put::Closed => return None,
                Put::NoRoom(back) => *event = Some(back),
            }
            taken.await;
        }
    }

    /// Takes no more; what is in it stays for the writer.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.came.notify_one();
        self.taken.notify_waiters();
    }
}

/// Wakes the writer when it is dropped: also when a request is hung up between its record and that.
pub(super) struct WakesWriter<'a>(pub(super) &'a Queue);

impl Drop for WakesWriter<'_> {
    fn drop(&mut self) {
        self.0.wake_writer();
    }
}

/// The writer's end of a queue. When it is gone, nobody waits for it in vain.
pub(super) struct Reader(pub(super) Arc<Queue>);

impl Reader {
    /// Waits for records and takes all there are, into the empty `events`, and some of strangers, into the empty `strangers`. `None`
    /// when the queue is closed and empty.
    pub(super) fn take(
        &self,
        events: &mut Vec<AuditEvent>,
        strangers: &mut Vec<AuditEvent>,
    ) -> Option<Arc<Batch>> {
        let mut next = self.0.lock();
        while next.events.is_empty() && next.strangers.is_empty() {
            if next.closed {
                return None;
            }
            next.writer_sleeps = true;
            self.0.came.wait(&mut next);
        }
        next.writer_sleeps = false;
        std::mem::swap(events, &mut next.events);
        let some = next.strangers.len().min(CHUNK);
        strangers.extend(next.strangers.drain(..some));
        let batch = std::mem::take(&mut next.batch);
        drop(next);
        self.0.taken.notify_waiters();
        Some(batch)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.close();
    }
}
