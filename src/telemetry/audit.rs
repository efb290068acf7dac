//! The audit stream: who got a token for which connection and scope, who connected, and every administrative
//! act. It has one JSON object in each line, apart from the log. It may have several sinks; each gets every
//! record, and has a writer, numbers and a chain of its own.
//!
//! Invariants:
//! 1. No record ever has a token, code, secret or username; the types have no field for one.
//! 2. No answer is sent before the operating system has its record, so that killing the process loses none.
//!    (A power failure may: nothing is synced.)
//! 3. A request waits at most [`PATIENCE`] for its record. Then the record is counted as lost, once, and
//!    logged. It is still written if the sink recovers. (One request may wait longer: the one that is writing
//!    into a file when its disk begins to hang.)
//! 4. Queued records are written in order, also when the process stops in order.
//! 5. A sink that is stuck delays only the requests that wait while it gets stuck, as long as another one
//!    takes their records.
//! 6. Records of strangers (requests without a proven right) have a lane of their own, with its own room.
//!    They take no place from others, no other record's write waits for more than `CHUNK` of them, and nobody
//!    waits for theirs. If the lane is full, the sender learns it and counts the event for a summary.
//!
//! 7. With a signing key, every line is followed by a signed checkpoint: after `checkpoint::EVERY` records
//!    of the process, after [`WITHIN`], at its orderly end, or at the beginning of the next file.
//!
//! The hard problem: a write for each record would be most of a hand-out's cost, waking a thread costs more
//! than writing, and a write by the request itself could block a thread that serves all others. So a request
//! that has queued its record lets all other ready ones do so. Then the first of them writes what all of them
//! have queued, if that is quick: into a file that is the only sink, while no write was slow lately, and with
//! another thread to serve meanwhile. The others find their records written. Otherwise a thread of the sink's
//! own does it, and wakes only the requests whose records these were.

mod chain;
mod checkpoint;
mod hand_out;
mod queue;
mod record;
mod sink;
mod sinks;
mod source;
#[cfg(feature = "testkit")]
pub mod steps;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use crate::domain::task::BoxFuture;

pub use checkpoint::{BadKey, Signing, SigningKey, VerifyingKey, WITHIN};
pub use hand_out::{HandOutRecord, HandOutText};
pub use record::{Action, AuditEvent, TokenWords};
pub use sink::{AuditError, AuditSink, JOURNALD, SYSLOG};
pub use sinks::AuditSinks;
pub use source::Source;
pub use verify::{
    AllSigned, First, Flaw, Joined, Last, Verified, What, join, join_signed, unpacked, verify, verify_signed,
};
pub use writer::AuditWriter;

/// Returns true for the text of a chain.
pub fn is_chain(text: &str) -> bool {
    chain::is_chain(text)
}

/// Longest wait of a request for its record.
pub const PATIENCE: Duration = Duration::from_millis(250);

/// Whether a record was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "an act that must be audited fails if its record was not written"]
pub enum Recorded {
    /// The operating system has it, of one sink at least.
    Written,
    /// It was not written, or not yet; it is counted and logged.
    Lost,
}

/// Destination of records.
pub trait Audit: Send + Sync {
    /// Takes one record, at once: it is written even if the returned future is dropped. The future completes
    /// when it is written, or after [`PATIENCE`] at the latest.
    fn record(&self, event: AuditEvent) -> BoxFuture<'_, Recorded>;

    /// Takes the record of a hand-out, when the returned future is first polled. Otherwise as
    /// [`Audit::record`].
    fn record_hand_out(self: Arc<Self>, record: HandOutRecord) -> BoxFuture<'static, Recorded>;

    /// Has what is due at this time done: a signature under the records so far.
    fn tick(&self) {}

    /// Writes what was taken, has it signed, and takes no more. It blocks until that is done, for two seconds
    /// at most.
    fn end(&self);

    /// Takes a record of a stranger's event, if its lane has room, and waits for nothing. If there is no
    /// room, the caller counts it for the next summary.
    fn note(&self, event: AuditEvent) -> Noted;
}

/// Whether a stranger's record was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "one that has no place is to be counted"]
pub enum Noted {
    /// It will be written.
    Taken,
    /// It will not be written.
    NoRoom,
}
