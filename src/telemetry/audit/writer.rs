//! The thread that writes all that waits with one write, and the wait for it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::chain::append;
use super::queue::{Batch, Put, Queue, Reader, WakesWriter};
use super::sink::{AuditError, AuditSink, Sink};
use super::{Audit, AuditEvent, Noted, PATIENCE, Recorded};
use crate::domain::task::BoxFuture;
use crate::domain::time::Clock;
use crate::telemetry::metrics::Metrics;

/// Cause of a lost record that nobody could wait for any longer.
const TOO_SLOW: &str = "the sink does not keep up";
/// Most records that wait to be written, and so the most in one write: more than there are requests under
/// way. When it is full, requests wait for room.
const QUEUE: usize = 4096;
/// How long a stop waits for a sink that does not take the rest.
const FLUSH: Duration = Duration::from_secs(2);

/// Writes records from a thread of its own.
pub struct AuditWriter {
    queue: Arc<Queue>,
    ended: Mutex<std::sync::mpsc::Receiver<()>>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for AuditWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuditWriter")
    }
}

impl AuditWriter {
    /// Opens the sink and starts the thread.
    pub fn open(sink: &AuditSink, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Result<Self, AuditError> {
        Ok(Self::start(sink.open()?, QUEUE, clock, metrics))
    }

    pub(super) fn start(
        sink: Box<dyn Sink>,
        room: usize,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let queue = Arc::new(Queue::new(room));
        let (done, ended) = std::sync::mpsc::channel();
        let (reader, counted) = (Reader(Arc::clone(&queue)), Arc::clone(&metrics));
        let thread = std::thread::Builder::new().name("audit".to_owned());
        let spawned = thread.spawn(move || {
            write_all(&reader, sink, &counted);
            // The receiver may be gone.
            let _ = done.send(());
        });
        if let Err(error) = spawned {
            // The queue has no reader, so every record will be counted as lost.
            tracing::error!(%error, "the audit thread could not be started");
        }
        AuditWriter { queue, ended: Mutex::new(ended), clock, metrics }
    }

    /// Waits until the batch is written, or patience ends.
    async fn written(&self, batch: Arc<Batch>, patience: BoxFuture<'_, ()>) -> Recorded {
        let in_time = tokio::select! {
            biased;
            outcome = batch.written.wait() => Some(*outcome),
            () = patience => None,
        };
        in_time.or_else(|| batch.give_up()).unwrap_or_else(|| self.lost(TOO_SLOW))
    }

    fn lost(&self, why: &'static str) -> Recorded {
        self.metrics.audit_lost(1);
        tracing::error!(why, "an audit record was lost");
        Recorded::Lost
    }
}

impl Audit for AuditWriter {
    fn record(&self, event: AuditEvent) -> BoxFuture<'_, Recorded> {
        match self.queue.put(event) {
            Put::Into(batch) => {
                let wakes = WakesWriter(&self.queue);
                Box::pin(async move {
                    // Other ready requests join the same batch: one wake and one write for all of them.
                    tokio::task::yield_now().await;
                    drop(wakes);
                    self.written(batch, self.clock.sleep(PATIENCE)).await
                })
            }
            Put::Closed => Box::pin(std::future::ready(self.lost("its writer has ended"))),
            Put::NoRoom(event) => {
                let mut waiting = Waiting { writer: self, event: Some(event) };
                Box::pin(async move {
                    let mut patience = self.clock.sleep(PATIENCE);
                    let put = tokio::select! {
                        put = self.queue.put_when_there_is_room(&mut waiting.event) => put,
                        () = &mut patience => None,
                    };
                    match put {
                        Some(batch) => {
                            self.queue.wake_writer();
                            self.written(batch, patience).await
                        }
                        None => waiting.give_up(),
                    }
                })
            }
        }
    }

    fn note(&self, event: AuditEvent) -> Noted {
        self.queue.note(event)
    }
}

/// A record for which there was no room. If its request is hung up, it gets one last chance, and is counted
/// as lost otherwise.
struct Waiting<'a> {
    writer: &'a AuditWriter,
    event: Option<Box<AuditEvent>>,
}

impl Waiting<'_> {
    /// Counts the record as lost, once.
    fn give_up(mut self) -> Recorded {
        drop(self.event.take());
        self.writer.lost(TOO_SLOW)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(event) = self.event.take() else { return };
        match self.writer.queue.put(*event) {
            // (If it is not written, the batch counts it, since nobody gave it up.)
            Put::Into(_) => self.writer.queue.wake_writer(),
            Put::NoRoom(_) | Put::Closed => {
                let _ = self.writer.lost(TOO_SLOW);
            }
        }
    }
}

impl Drop for AuditWriter {
    /// Waits until everything taken is written, but not for ever if the sink is stuck.
    fn drop(&mut self) {
        self.queue.close();
        let ended = self.ended.lock();
        if let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = ended.recv_timeout(FLUSH) {
            tracing::error!("the audit log does not take its last records");
        }
    }
}

/// The writer's thread: it writes all waiting records at once, then some of strangers, and repeats.
fn write_all(queue: &Reader, mut sink: Box<dyn Sink>, metrics: &Metrics) {
    let chain = sink.last_chain().unwrap_or_else(|| "0".repeat(64));
    let mut stream = Stream { sink, chain, seq: 0, lines: Vec::new(), failing: false };
    let (mut events, mut strangers) = (Vec::new(), Vec::new());
    while let Some(batch) = queue.take(&mut events, &mut strangers) {
        if !events.is_empty() {
            let records = events.len() as u64;
            let outcome = stream.write(&mut events);
            batch.finish(outcome, records, |lost| metrics.audit_lost(lost));
        }
        if !strangers.is_empty() {
            let records = strangers.len() as u64;
            if stream.write(&mut strangers) == Recorded::Lost {
                metrics.audit_lost(records);
            }
        }
    }
}

/// The lines of one process's life.
struct Stream {
    sink: Box<dyn Sink>,
    /// Chain value of the last written line.
    chain: String,
    seq: u64,
    lines: Vec<u8>,
    failing: bool,
}

impl Stream {
    /// Writes these records with one write, and empties the list.
    fn write(&mut self, events: &mut Vec<AuditEvent>) -> Recorded {
        let records = events.len();
        let mut chain = self.chain.clone();
        self.lines.clear();
        for event in events.drain(..) {
            self.seq += 1;
            append(&mut self.lines, self.seq, &event, &mut chain);
        }
        match self.sink.write(&self.lines) {
            Ok(()) => {
                self.chain = chain;
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the audit log can be written again");
                }
                Recorded::Written
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, records, "audit records were lost; trying on with the next ones");
                }
                Recorded::Lost
            }
        }
    }
}
