//! The thread that writes all that waits with one write, and the wait for it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::chain::{append, beginning, last_chain};
use super::queue::{Batch, Put, Queue, Reader, WakesWriter};
use super::sink::{AuditError, AuditSink, Failed, Sink};
use super::{Audit, AuditEvent, Noted, PATIENCE, Recorded};
use crate::domain::task::BoxFuture;
use crate::domain::time::Clock;
use crate::telemetry::metrics::AuditSinkMetrics;

/// Cause of a lost record that nobody could wait for any longer.
const TOO_SLOW: &str = "the sink does not keep up";
/// Most records that wait to be written, and so the most in one write: more than there are requests under
/// way. When it is full, requests wait for room.
const QUEUE: usize = 4096;
/// How long a stop waits for a sink that does not take the rest.
const FLUSH: Duration = Duration::from_secs(2);

/// Writes records to one sink, from a thread of its own.
pub struct AuditWriter {
    queue: Arc<Queue>,
    ended: Mutex<std::sync::mpsc::Receiver<()>>,
    clock: Arc<dyn Clock>,
    state: Arc<SinkState>,
}

/// What is known of a sink.
struct SinkState {
    /// As the configuration spells it.
    name: String,
    metrics: AuditSinkMetrics,
    /// True after a request waited in vain, until the sink takes records again.
    is_stuck: AtomicBool,
}

impl fmt::Debug for AuditWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuditWriter")
    }
}

impl AuditWriter {
    /// Opens the sink and starts the thread.
    pub fn open(
        sink: &AuditSink,
        clock: Arc<dyn Clock>,
        metrics: AuditSinkMetrics,
    ) -> Result<Self, AuditError> {
        Ok(Self::start(sink.open()?, sink.to_string(), QUEUE, clock, metrics))
    }

    pub(super) fn start(
        sink: Box<dyn Sink>,
        name: String,
        room: usize,
        clock: Arc<dyn Clock>,
        metrics: AuditSinkMetrics,
    ) -> Self {
        let queue = Arc::new(Queue::new(room));
        let state = Arc::new(SinkState { name, metrics, is_stuck: AtomicBool::new(false) });
        let (done, ended) = std::sync::mpsc::channel();
        let (reader, seen) = (Reader(Arc::clone(&queue)), Arc::clone(&state));
        let thread = std::thread::Builder::new().name("audit".to_owned());
        let spawned = thread.spawn(move || {
            write_all(&reader, sink, &seen);
            // The receiver may be gone.
            let _ = done.send(());
        });
        if let Err(error) = spawned {
            // The queue has no reader, so every record will be counted as lost.
            tracing::error!(%error, "the audit thread could not be started");
        }
        AuditWriter { queue, ended: Mutex::new(ended), clock, state }
    }

    /// Returns true after a request waited in vain, until the sink takes records again.
    pub(super) fn is_stuck(&self) -> bool {
        self.state.is_stuck.load(Ordering::Relaxed)
    }

    /// Waits until the batch is written, or patience ends.
    async fn written(&self, batch: Arc<Batch>, patience: BoxFuture<'_, ()>) -> Recorded {
        let in_time = tokio::select! {
            biased;
            outcome = batch.written.wait() => Some(*outcome),
            () = patience => None,
        };
        in_time.or_else(|| batch.give_up()).unwrap_or_else(|| self.too_slow())
    }

    fn too_slow(&self) -> Recorded {
        self.state.is_stuck.store(true, Ordering::Relaxed);
        self.state.metrics.failing(true);
        self.lost(TOO_SLOW)
    }

    fn lost(&self, why: &'static str) -> Recorded {
        self.state.metrics.lost(1);
        tracing::error!(why, sink = self.state.name, "an audit record was lost");
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
        self.writer.too_slow()
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
fn write_all(queue: &Reader, mut sink: Box<dyn Sink>, state: &SinkState) {
    let chain = sink.last_chain().unwrap_or_else(beginning);
    let mut stream = Stream { sink, chain, seq: 0, lines: Vec::new(), failing: false, state };
    let (mut events, mut strangers) = (Vec::new(), Vec::new());
    while let Some(batch) = queue.take(&mut events, &mut strangers) {
        if !events.is_empty() {
            let records = events.len() as u64;
            let outcome = stream.write(&mut events);
            batch.finish(outcome, records, |lost| state.metrics.lost(lost));
        }
        if !strangers.is_empty() {
            let records = strangers.len() as u64;
            if stream.write(&mut strangers) == Recorded::Lost {
                state.metrics.lost(records);
            }
        }
    }
}

/// The lines of one process's life.
struct Stream<'a> {
    sink: Box<dyn Sink>,
    /// Chain value of the last written line.
    chain: String,
    seq: u64,
    lines: Vec<u8>,
    failing: bool,
    state: &'a SinkState,
}

impl Stream<'_> {
    /// Writes these records with one write, and empties the list.
    fn write(&mut self, events: &mut Vec<AuditEvent>) -> Recorded {
        let records = events.len();
        let mut chain = self.chain.clone();
        self.lines.clear();
        for event in events.drain(..) {
            self.seq += 1;
            append(&mut self.lines, self.seq, &event, &mut chain);
        }
        let SinkState { name, metrics, is_stuck } = self.state;
        match self.sink.write(&self.lines) {
            Ok(()) => {
                self.chain = chain;
                metrics.written(records as u64);
                if is_stuck.swap(false, Ordering::Relaxed) | std::mem::take(&mut self.failing) {
                    metrics.failing(false);
                    tracing::info!(sink = name, "the audit log can be written again");
                }
                Recorded::Written
            }
            Err(Failed { kept, error }) => {
                // The next line follows from the last one that is there. (Those count as lost all the same:
                // this is rare, and nobody may rely on them.)
                self.chain =
                    last_chain(&self.lines[..kept]).unwrap_or_else(|| std::mem::take(&mut self.chain));
                if !std::mem::replace(&mut self.failing, true) {
                    metrics.failing(true);
                    tracing::error!(
                        %error, sink = name, records,
                        "audit records were lost; trying on with the next ones"
                    );
                }
                Recorded::Lost
            }
        }
    }
}
