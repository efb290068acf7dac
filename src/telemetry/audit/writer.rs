//! Writing all that waits with one write, and the wait for it.
//!
//! A request that waits for its record writes it, with all others that wait, if the sink is quick and the
//! only one: no thread is woken for it. A thread of the sink's own writes everything else: into a sink that
//! may keep a writer waiting, and records whose request has gone, strangers' and checkpoints.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::chain::{append, beginning, last_chain};
use super::checkpoint::{Checkpoint, EVERY, Signing, SigningKey, Statement, WITHIN};
use super::queue::{Batch, Put, Queue, Reader, Record, WakesWriter};
use super::record::rfc3339_of;
use super::sink::{AuditError, AuditSink, Failed, Sink};
use super::{Action, Audit, AuditEvent, HandOutRecord, Noted, PATIENCE, Recorded};
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
/// A write that took this long was not quick …
const SLOW: Duration = Duration::from_millis(5);
/// … and then the sink's own thread writes for this long.
const SLOW_FOR: Duration = Duration::from_secs(10);
/// How often the sink's thread looks whether a request is writing for long.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Most writes that one request does in a row: others' records may come while it writes.
const MOST_WRITES: usize = 8;

/// Writes records to one sink.
pub struct AuditWriter {
    queue: Arc<Queue>,
    /// Says that its thread has ended; waited for once.
    ended: Mutex<Option<std::sync::mpsc::Receiver<()>>>,
    signing: Arc<Signing>,
    clock: Arc<dyn Clock>,
    state: Arc<SinkState>,
    /// Locked by the request or thread that writes.
    pen: Arc<Mutex<Stream>>,
    /// Whether requests may write: the sink is quick, and another thread serves while one writes.
    helped: bool,
}

/// What is known of a sink.
struct SinkState {
    /// As the configuration spells it.
    name: String,
    metrics: AuditSinkMetrics,
    /// True after a request waited in vain, until the sink takes records again.
    is_stuck: AtomicBool,
    /// When its last checkpoint was, in milliseconds of the monotonic clock.
    signed_at: AtomicU64,
    /// Until when its own thread writes alone, likewise.
    slow_until: AtomicU64,
}

impl fmt::Debug for AuditWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuditWriter")
    }
}

impl AuditWriter {
    /// Opens the sink and starts the thread. Of several sinks none is written by requests: each could stop
    /// another thread of the runtime.
    pub fn open(
        sink: &AuditSink,
        is_only: bool,
        signing: Arc<Signing>,
        clock: Arc<dyn Clock>,
        metrics: AuditSinkMetrics,
    ) -> Result<Self, AuditError> {
        Ok(Self::start((sink.open()?, is_only), sink.to_string(), QUEUE, signing, clock, metrics))
    }

    pub(super) fn start(
        (sink, is_only): (Box<dyn Sink>, bool),
        name: String,
        room: usize,
        signing: Arc<Signing>,
        clock: Arc<dyn Clock>,
        metrics: AuditSinkMetrics,
    ) -> Self {
        let queue = Arc::new(Queue::new(room));
        let signed_at = AtomicU64::new(millis(clock.monotonic()));
        let (is_stuck, slow_until) = (AtomicBool::new(false), AtomicU64::new(0));
        let state = Arc::new(SinkState { name, metrics, is_stuck, signed_at, slow_until });
        let runtime = runtime_of_several_threads().filter(|_| is_only && sink.is_quick());
        let helped = runtime.is_some();
        let pen = Arc::new(Mutex::new(Stream::new(sink, &state, &signing, &clock)));
        let (done, ended) = std::sync::mpsc::channel();
        let (reader, of_thread) = (Reader(Arc::clone(&queue)), Arc::clone(&pen));
        let thread = std::thread::Builder::new().name("audit".to_owned());
        let spawned = thread.spawn(move || {
            let is_hanging = || {
                nudge(runtime.as_ref());
                reader.0.stir();
            };
            let look = || {
                if of_thread.is_locked() {
                    is_hanging();
                }
            };
            let take_pen = || loop {
                match of_thread.try_lock_for(LOOK_EVERY) {
                    Some(pen) => return pen,
                    None => is_hanging(),
                }
            };
            while reader.wait(runtime.as_ref().map(|_| (LOOK_EVERY, look))) {
                reader.0.writes_by_thread(true);
                let mut pen = take_pen();
                // (Those who wait for it until now had a watch.)
                reader.0.stir();
                pen.write_waiting(&reader.0);
                drop(pen);
                reader.0.writes_by_thread(false);
            }
            take_pen().sign_the_rest();
            // The receiver may be gone.
            let _ = done.send(());
        });
        if let Err(error) = spawned {
            // The queue has no reader, so every record will be counted as lost.
            tracing::error!(%error, "the audit thread could not be started");
        }
        AuditWriter { queue, ended: Mutex::new(Some(ended)), signing, clock, state, pen, helped }
    }

    /// Writes what waits, unless somebody does just now: then that one writes this batch too.
    fn help(&self) {
        for _ in 0..MOST_WRITES {
            let Some(mut pen) = self.pen.try_lock() else { return };
            let begun = self.clock.monotonic();
            pen.write_waiting(&self.queue);
            drop(pen);
            let now = self.clock.monotonic();
            if now.saturating_sub(begun) >= SLOW {
                self.state.slow_until.store(millis(now + SLOW_FOR), Ordering::Relaxed);
                break;
            }
            // Looked at after the pen was given back: whoever found it taken has queued its record before.
            if !self.queue.is_awaited() {
                return;
            }
        }
        self.queue.wake_writer();
    }

    fn is_helped(&self) -> bool {
        let slow_until = self.state.slow_until.load(Ordering::Relaxed);
        self.helped && !self.is_stuck() && (slow_until == 0 || slow_until <= millis(self.clock.monotonic()))
    }

    /// Returns true after a request waited in vain, until the sink takes records again.
    pub(super) fn is_stuck(&self) -> bool {
        self.state.is_stuck.load(Ordering::Relaxed)
    }

    /// Waits until the batch is written, or patience ends.
    async fn written(&self, batch: Arc<Batch>, patience: BoxFuture<'_, ()>) -> Recorded {
        let in_time = tokio::select! {
            biased;
            outcome = batch.wait() => Some(outcome),
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

/// A record that was taken.
enum Taken<'a> {
    /// It is in a batch, and the writer is woken if nobody waits for it.
    Queued(Arc<Batch>, WakesWriter<'a>),
    /// There was no room for it.
    Waits(Waiting<'a>),
    /// It is lost.
    Lost(Recorded),
}

impl AuditWriter {
    /// Takes a record.
    fn take(&self, record: Record) -> Taken<'_> {
        match self.queue.put(record) {
            Put::Into(batch) => Taken::Queued(batch, WakesWriter::of(&self.queue)),
            Put::NoRoom(record) => Taken::Waits(Waiting { writer: self, record: Some(record) }),
            Put::Closed => Taken::Lost(self.lost("its writer has ended")),
        }
    }

    /// Takes a record, at once, and waits until it is written, or patience ends.
    pub(super) fn take_and_wait(&self, record: Record) -> BoxFuture<'_, Recorded> {
        Box::pin(self.outcome(self.take(record)))
    }

    async fn outcome(&self, taken: Taken<'_>) -> Recorded {
        match taken {
            Taken::Queued(batch, wakes) => {
                // Other ready requests join the same batch: one write for all of them.
                behind_the_ready().await;
                if let Some(outcome) = batch.outcome() {
                    wakes.not_needed();
                    return outcome;
                }
                let mut patience = PATIENCE;
                if self.is_helped() {
                    self.help();
                    if let Some(outcome) = batch.outcome_or_stir(|| self.queue.is_by_thread()).await {
                        wakes.not_needed();
                        return outcome;
                    }
                    // (The sink's thread says so after this time at most.)
                    patience -= LOOK_EVERY;
                }
                drop(wakes);
                self.written(batch, self.clock.sleep(patience)).await
            }
            Taken::Waits(mut waiting) => {
                let mut patience = self.clock.sleep(PATIENCE);
                let put = tokio::select! {
                    put = self.queue.put_when_there_is_room(&mut waiting.record) => put,
                    () = &mut patience => None,
                };
                match put {
                    Some(batch) => {
                        self.queue.wake_writer();
                        self.written(batch, patience).await
                    }
                    None => waiting.give_up(),
                }
            }
            Taken::Lost(outcome) => outcome,
        }
    }
}

impl Audit for AuditWriter {
    fn record(&self, event: AuditEvent) -> BoxFuture<'_, Recorded> {
        self.take_and_wait(event.into())
    }

    fn record_hand_out(self: Arc<Self>, record: HandOutRecord) -> BoxFuture<'static, Recorded> {
        Box::pin(async move { self.outcome(self.take(Record::HandOut(record))).await })
    }

    fn tick(&self) {
        // (Whoever should have watched may have died.)
        self.queue.stir();
        let signed_at = Duration::from_millis(self.state.signed_at.load(Ordering::Relaxed));
        let is_due = self.clock.monotonic().saturating_sub(signed_at) >= WITHIN;
        if is_due && self.signing.key().is_some() {
            self.queue.ask_for_checkpoint();
        }
    }

    fn end(&self) {
        self.queue.close();
        let Some(ended) = self.ended.lock().take() else { return };
        if let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = ended.recv_timeout(FLUSH) {
            tracing::error!("the audit log does not take its last records");
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
    record: Option<Record>,
}

impl Waiting<'_> {
    /// Counts the record as lost, once.
    fn give_up(mut self) -> Recorded {
        drop(self.record.take());
        self.writer.too_slow()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(record) = self.record.take() else { return };
        match self.writer.queue.put(record) {
            // (If it is not written, the batch counts it, since nobody gave it up.)
            Put::Into(_) => self.writer.queue.wake_writer(),
            Put::NoRoom(_) | Put::Closed => {
                let _ = self.writer.lost(TOO_SLOW);
            }
        }
    }
}

impl Drop for AuditWriter {
    fn drop(&mut self) {
        self.end();
    }
}

/// Lets the tasks that are ready now go first. (tokio's `yield_now` asks the sockets, too: one more call of
/// the system each time.)
async fn behind_the_ready() {
    let mut was_behind = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut was_behind, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The runtime, if its other threads go on while one of them writes.
fn runtime_of_several_threads() -> Option<Handle> {
    Handle::try_current().ok().filter(|runtime| runtime.metrics().num_workers() > 1)
}

/// Has another thread of the runtime look after sockets and timers. One of them alone waits for these; when
/// that one hangs in a write, the others may be asleep.
fn nudge(runtime: Option<&Handle>) {
    if let Some(runtime) = runtime {
        drop(runtime.spawn(async {}));
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The lines of one process's life.
struct Stream {
    sink: Box<dyn Sink>,
    /// Chain value of the last written line.
    chain: String,
    seq: u64,
    /// Records of this process since its last checkpoint.
    unsigned: u64,
    /// Kept for their room.
    lines: Vec<u8>,
    records: Vec<Record>,
    strangers: Vec<Record>,
    failing: bool,
    state: Arc<SinkState>,
    signing: Arc<Signing>,
    clock: Arc<dyn Clock>,
}

/// Lines that are to be written, and what is known after them.
struct Drafted {
    chain: String,
    unsigned: u64,
    checkpoints: u64,
}

impl Stream {
    fn new(
        mut sink: Box<dyn Sink>,
        state: &Arc<SinkState>,
        signing: &Arc<Signing>,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let chain = sink.last_chain().unwrap_or_else(beginning);
        Stream {
            sink,
            chain,
            seq: 0,
            unsigned: 0,
            lines: Vec::new(),
            records: Vec::new(),
            strangers: Vec::new(),
            failing: false,
            state: Arc::clone(state),
            signing: Arc::clone(signing),
            clock: Arc::clone(clock),
        }
    }

    /// Writes all records that wait, then some of strangers.
    fn write_waiting(&mut self, queue: &Queue) {
        let (mut records, mut strangers) =
            (std::mem::take(&mut self.records), std::mem::take(&mut self.strangers));
        if let Some((batch, is_due)) = queue.take(&mut records, &mut strangers) {
            if !records.is_empty() {
                let count = records.len() as u64;
                let outcome = self.write(&mut records, false);
                batch.finish(outcome, count, |lost| self.state.metrics.lost(lost));
            }
            if !strangers.is_empty() {
                let count = strangers.len() as u64;
                if self.write(&mut strangers, false) == Recorded::Lost {
                    self.state.metrics.lost(count);
                }
            }
            if is_due {
                let _ = self.write(&mut records, true);
            }
        }
        (self.records, self.strangers) = (records, strangers);
    }

    /// Signs what is unsigned, at the end.
    fn sign_the_rest(&mut self) {
        if self.unsigned > 0 {
            let _ = self.write(&mut Vec::new(), true);
        }
    }

    /// Writes these records with one write, and empties the list; with `sign` there is a checkpoint behind
    /// them. There is one before them where they begin another file, and one after so many.
    fn write(&mut self, records: &mut Vec<Record>, sign: bool) -> Recorded {
        let (count, key) = (records.len(), self.signing.key());
        let mut drafted = Drafted { chain: self.chain.clone(), unsigned: self.unsigned, checkpoints: 0 };
        self.lines.clear();
        if let Some(key) = &key
            && drafted.unsigned > 0
            && self.sink.is_moved()
        {
            self.checkpoint(key, &mut drafted);
        }
        for record in records.drain(..) {
            self.seq += 1;
            append(&mut self.lines, self.seq, &record, &mut drafted.chain);
            drafted.unsigned += 1;
            if let Some(key) = &key
                && drafted.unsigned >= EVERY
            {
                self.checkpoint(key, &mut drafted);
            }
        }
        if let Some(key) = &key
            && sign
        {
            self.checkpoint(key, &mut drafted);
        }
        if self.lines.is_empty() {
            return Recorded::Written;
        }
        self.send(count, drafted, key.is_some())
    }

    /// Appends a checkpoint.
    fn checkpoint(&mut self, key: &SigningKey, drafted: &mut Drafted) {
        self.seq += 1;
        let mut event = AuditEvent::new(self.clock.now(), Action::Checkpoint, "ok");
        let (records, every, within) = (drafted.unsigned, EVERY, WITHIN.as_secs());
        let at = rfc3339_of(event.at);
        let (before, id) = (drafted.chain.as_str(), key.id());
        let signature =
            key.sign(&Statement { before, seq: self.seq, at: &at, key: id, records, every, within });
        event.checkpoint = Some(Checkpoint { key: id.to_owned(), records, every, within, signature });
        append(&mut self.lines, self.seq, &event.into(), &mut drafted.chain);
        (drafted.unsigned, drafted.checkpoints) = (0, drafted.checkpoints + 1);
    }

    /// Hands the lines to the sink.
    fn send(&mut self, records: usize, drafted: Drafted, signs: bool) -> Recorded {
        let SinkState { name, metrics, is_stuck, signed_at, .. } = &*self.state;
        let outcome = match self.sink.write(&self.lines) {
            Ok(()) => {
                (self.chain, self.unsigned) = (drafted.chain, drafted.unsigned);
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
                let kept = &self.lines[..kept];
                self.chain = last_chain(kept).unwrap_or_else(|| std::mem::take(&mut self.chain));
                self.unsigned = unsigned_after(self.unsigned, kept);
                if records == 0 && kept.is_empty() {
                    // Nothing of anybody's is missing.
                    self.seq -= drafted.checkpoints;
                }
                if !std::mem::replace(&mut self.failing, true) {
                    metrics.failing(true);
                    tracing::error!(
                        %error, sink = name, records,
                        "audit records were lost; trying on with the next ones"
                    );
                }
                Recorded::Lost
            }
        };
        if drafted.checkpoints > 0 {
            let is_written = outcome == Recorded::Written;
            metrics.checkpoints(drafted.checkpoints, is_written);
            if is_written {
                signed_at.store(millis(self.clock.monotonic()), Ordering::Relaxed);
            }
        }
        if signs {
            metrics.unsigned(self.unsigned);
        }
        outcome
    }
}

/// How many records are unsigned after these lines.
fn unsigned_after(before: u64, lines: &[u8]) -> u64 {
    const CHECKPOINT: &[u8] = b",\"action\":\"checkpoint\",";
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    // (A quotation mark within a value is escaped.)
    let is_checkpoint = |line: &[u8]| line.windows(CHECKPOINT.len()).any(|part| part == CHECKPOINT);
    lines.fold(before, |unsigned, line| if is_checkpoint(line) { 0 } else { unsigned + 1 })
}
