//! The audit stream: who got a token for which connection and scope, who connected, every administrative act.
//! One JSON object a line, apart from the log.
//!
//! Invariants:
//! 1. No token, code, secret or username is ever in a record; the types have no place for one.
//! 2. No answer leaves before the operating system has its record: a process that is killed then takes none along. (A
//!    machine that loses its power may: nothing is synced.)
//! 3. A request waits for that at most [`PATIENCE`]. Then its record counts as lost, once, and is logged; it is still
//!    written if the sink comes to it.
//! 4. What has its place in the queue is written, in order, also when the process stops in order.
//! 5. Records of strangers (those with no right, or who did not show it) have a lane of their own, with its own room. They take no
//!    place from the others, no write of others waits for more than `CHUNK` of them, and nobody waits for theirs; what has no
//!    room is said to whoever came with it, who counts it and has it in a sum.
//!
//! The hard problem: a write for each record would be most of a hand-out's cost, and a write by the request itself could
//! stop a thread that serves all the others. So one thread writes all that waits with one write, and then wakes those
//! whose records these were, and nobody else: the more requests, the more of them share a write. A request that has put
//! its record down lets all others that are ready do so before it wakes the thread, for waking is dearer than writing.

mod chain;
mod queue;
mod record;
mod sink;
#[cfg(test)]
mod tests;
mod writer;

use std::time::Duration;

use parking_lot::Mutex;

use crate::domain::task::BoxFuture;

pub use chain::{Flaw, Verified, verify};
pub use record::{Action, AuditEvent};
pub use sink::{AuditError, AuditSink};
pub use writer::AuditWriter;

/// The longest that a request waits for its record.
pub const PATIENCE: Duration = Duration::from_millis(250);

/// Whether a record is in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "whoever must not act unaudited has to look"]
pub enum Recorded {
    /// The operating system has it.
    Written,
    /// It was not written, or not yet; counted and logged.
    Lost,
}

/// Where records go.
pub trait Audit: Send + Sync {
    /// Takes one record, at once: it is written also when what this returns is dropped. Completes when it is written, or
    /// after [`PATIENCE`] at the latest.
    fn record(&self, event: AuditEvent) -> BoxFuture<'_, Recorded>;

    /// Takes a record of a stranger's, if its lane has room, and waits for nothing. Whoever is told that there was none has it
    /// counted in the next sum.
    fn note(&self, event: AuditEvent) -> Noted;
}

/// Whether a stranger's record has its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "one that has no place is to be counted"]
pub enum Noted {
    /// It will be written.
    Taken,
    /// It will not.
    NoRoom,
}

/// Keeps records in memory, for tests.
#[derive(Debug, Default)]
pub struct AuditMemory(Mutex<Vec<AuditEvent>>);

impl AuditMemory {
    /// Empty.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was recorded so far.
    pub fn events(&self) -> Vec<AuditEvent> {
        self.0.lock().clone()
    }
}

impl Audit for AuditMemory {
    fn record(&self, event: AuditEvent) -> BoxFuture<'_, Recorded> {
        self.0.lock().push(event);
        Box::pin(std::future::ready(Recorded::Written))
    }

    fn note(&self, event: AuditEvent) -> Noted {
        self.0.lock().push(event);
        Noted::Taken
    }
}
