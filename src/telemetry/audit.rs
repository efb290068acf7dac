//! The audit stream: who got a token for which connection and scope, who connected, every administrative act.
//! One JSON object a line, apart from the log.
//!
//! # The record
//! Keys are stable; absent values are absent keys; new keys may come.
//!
//! | key | meaning |
//! |---|---|
//! | `at` | when, RFC 3339 UTC with milliseconds |
//! | `seq` | counts up from 1 in each life of the process; a gap is what the disk did not take |
//! | `action` | see [`Action`] |
//! | `outcome` | `ok`, or the stable code of the error |
//! | `reason` | the reason that goes with a code |
//! | `caller` | the caller's or administrator's name |
//! | `authenticated_by` | `unix_user`, `spiffe`, `api_key`, …; for a key its id, never the key |
//! | `peer`, `peer_address`, `peer_uid` | `unix` or `tcp`, and where from |
//! | `app`, `connection`, `tenant`, `object` | which connection and, by Entra's ids, whose; never a username |
//! | `scopes`, `expires_in` | what was handed out, and for how many seconds it lives |
//! | `session` | the connect session: the first 16 hex digits of its id's SHA-256, for the id is a link |
//! | `detail` | what an administrative act was about, such as `{"credential": "2026-11"}`; of a sum, how many `peers` it came from and those from which `most` came |
//! | `suppressed` | this record stands for so many of the same kind since the last such record, which are not told one by one; without `peer` and `request_id` |
//! | `request_id` | the request, as in the log and in the caller's response |
//! | `chain` | SHA-256 over the line before's `chain` and this line without it: a removed, added or changed line shows |
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

use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};
use tokio::sync::{Notify, SetOnce};

use crate::domain::id::{AppName, CallerName, ConnectionName};
use crate::domain::task::BoxFuture;
use crate::domain::time::{Clock, Timestamp};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::session_mark::SessionMark;

/// Why a record is lost that nobody could wait for any longer.
const TOO_SLOW: &str = "the sink does not keep up";

/// The longest that a request waits for its record.
pub const PATIENCE: Duration = Duration::from_millis(250);
/// Records that may wait to be written, and so the most that are written at once: more than requests are under way at a
/// time. Beyond it requests wait for room.
const QUEUE: usize = 4096;
/// Records of strangers that may wait to be written.
const STRANGERS: usize = 256;
/// Records of strangers that are written at once, and so the most that another record waits for: some 5 kB, which a sink of 400 kB/s
/// takes in 12 ms.
const CHUNK: usize = 16;
/// How long a stop waits for a sink that does not take what is left.
const FLUSH: Duration = Duration::from_secs(2);

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A token was handed out.
    Token,
    /// A caller was not known, or not allowed what it asked.
    Refused,
    /// A connect session was made.
    ConnectStarted,
    /// A browser came back with an account.
    Connected,
    /// The session's starter confirmed the account.
    Confirmed,
    /// A connect session failed.
    ConnectFailed,
    /// A connection, a list of them or a session was to be read, and was refused.
    Read,
    /// A grant was renewed.
    Refreshed,
    /// A connection's status changed.
    StatusChanged,
    /// A connection was deleted.
    Deleted,
    /// A connection was paused.
    Paused,
    /// A paused connection was resumed.
    Resumed,
    /// An admin consent session was made or ended.
    AdminConsent,
    /// Any other administrative act; `detail` says which.
    Admin,
    /// Configuration or secrets were read again.
    Reloaded,
    /// The daemon started.
    Started,
    /// The daemon stopped.
    Stopped,
}

/// One record. Begin with [`AuditEvent::new`] and fill in what is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditEvent {
    /// When.
    #[serde(serialize_with = "rfc3339_millis")]
    pub at: Timestamp,
    /// What was done.
    pub action: Action,
    /// `ok`, or the stable code of the error.
    pub outcome: &'static str,
    /// The reason that goes with the code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// Who asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<CallerName>,
    /// How it proved who it is; for an API key with the key's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authenticated_by: Option<String>,
    /// Where it came from: `unix` or `tcp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<&'static str>,
    /// The address of a TCP peer, without its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_address: Option<String>,
    /// The user of a Unix peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_uid: Option<u32>,
    /// The app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
    /// The connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<ConnectionName>,
    /// The account's tenant id (`tid`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The account's object id (`oid`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// The scopes handed out or asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Seconds that the token handed out still lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
    /// The connect session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionMark>,
    /// What an administrative act was about. Names and ids only.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub detail: BTreeMap<&'static str, String>,
    /// So many of the same kind are told by this record alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suppressed: Option<u64>,
    /// The request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

impl AuditEvent {
    /// A record of this action that says nothing else yet.
    pub fn new(at: Timestamp, action: Action, outcome: &'static str) -> Self {
        AuditEvent {
            at,
            action,
            outcome,
            reason: None,
            caller: None,
            authenticated_by: None,
            peer: None,
            peer_address: None,
            peer_uid: None,
            app: None,
            connection: None,
            tenant: None,
            object: None,
            scopes: Vec::new(),
            expires_in: None,
            session: None,
            detail: BTreeMap::new(),
            suppressed: None,
            request_id: None,
        }
    }
}

fn rfc3339_millis<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    let text = at.rfc3339();
    let millis = at.unix_millis().rem_euclid(1000);
    let whole = text.strip_suffix('Z').unwrap_or(&text);
    serializer.collect_str(&format_args!("{whole}.{millis:03}Z"))
}

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

/// Where an [`AuditWriter`] writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditSink {
    /// Appended to this file (0600). A file that was moved away is made anew, so it can be rotated.
    File(PathBuf),
    /// Standard output.
    Stdout,
    /// Standard error, between the log's lines.
    Stderr,
}

/// Why an audit stream cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the audit log {}", .path.display())]
pub struct AuditError {
    /// Its path.
    path: PathBuf,
    /// What failed.
    #[source]
    source: io::Error,
}

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
    /// Opens the sink and begins.
    pub fn open(sink: &AuditSink, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Result<Self, AuditError> {
        let sink: Box<dyn Sink> = match sink {
            AuditSink::Stdout => Box::new(Stdout),
            AuditSink::Stderr => Box::new(Stderr),
            AuditSink::File(path) => {
                let failed = |source| AuditError { path: path.clone(), source };
                Box::new(AppendedFile::open(path).map_err(failed)?)
            }
        };
        Ok(Self::start(sink, QUEUE, clock, metrics))
    }

    fn start(sink: Box<dyn Sink>, room: usize, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        let queue = Arc::new(Queue::new(room));
        let (done, ended) = std::sync::mpsc::channel();
        let (reader, counted) = (Reader(Arc::clone(&queue)), Arc::clone(&metrics));
        let thread = std::thread::Builder::new().name("audit".to_owned());
        let spawned = thread.spawn(move || {
            write_all(&reader, sink, &counted);
            // Nobody may be waiting any more.
            let _ = done.send(());
        });
        if let Err(error) = spawned {
            // The queue's other end is gone, so every record will be counted as lost.
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
                    // Whoever else is ready comes into the same batch: one wake and one write for all of them.
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

/// A record for which there was no room. One whose request is hung up has its last chance then, and is counted where it has none.
struct Waiting<'a> {
    writer: &'a AuditWriter,
    event: Option<Box<AuditEvent>>,
}

impl Waiting<'_> {
    /// Counts the record, once.
    fn give_up(mut self) -> Recorded {
        drop(self.event.take());
        self.writer.lost(TOO_SLOW)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(event) = self.event.take() else { return };
        match self.writer.queue.put(*event) {
            // (Where it is not written, the batch counts it: nobody gave it up.)
            Put::Into(_) => self.writer.queue.wake_writer(),
            Put::NoRoom(_) | Put::Closed => {
                let _ = self.writer.lost(TOO_SLOW);
            }
        }
    }
}

impl Drop for AuditWriter {
    /// Waits until everything taken is written, but not for ever for a sink that is stuck.
    fn drop(&mut self) {
        self.queue.close();
        let ended = self.ended.lock();
        if let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = ended.recv_timeout(FLUSH) {
            tracing::error!("the audit log does not take its last records");
        }
    }
}

/// Records that are written with one write, and those who wait for that.
#[derive(Default)]
struct Batch {
    written: SetOnce<Recorded>,
    /// How many of its records were counted as lost by those who waited. Locked where it is decided who counts.
    given_up: Mutex<u64>,
}

impl Batch {
    /// Says what became of it. Of records that are lost those are counted first that nobody has counted yet: who is told can rely on it.
    fn finish(&self, outcome: Recorded, records: u64, count: impl FnOnce(u64)) {
        let given_up = self.given_up.lock();
        if outcome == Recorded::Lost {
            count(records - *given_up);
        }
        // The writer alone finishes a batch, and does so once.
        let _ = self.written.set(outcome);
    }

    /// One who waited does so no longer, and counts the record; unless the outcome came just now.
    fn give_up(&self) -> Option<Recorded> {
        let mut given_up = self.given_up.lock();
        let outcome = self.written.get().copied();
        *given_up += u64::from(outcome.is_none());
        outcome
    }
}

/// What became of a record that was to be put into the queue.
enum Put {
    /// It is in this batch, the next one.
    Into(Arc<Batch>),
    NoRoom(Box<AuditEvent>),
    Closed,
}

/// Between those who record and the thread that writes.
struct Queue {
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
    fn new(room: usize) -> Self {
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

    fn put(&self, event: AuditEvent) -> Put {
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

    fn note(&self, event: AuditEvent) -> Noted {
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
    fn wake_writer(&self) {
        let mut next = self.lock();
        let wake =
            !(next.events.is_empty() && next.strangers.is_empty()) && std::mem::take(&mut next.writer_sleeps);
        drop(next);
        if wake {
            self.came.notify_one();
        }
    }

    /// Takes the event once there is room for it. `None` once the queue is closed.
    async fn put_when_there_is_room(&self, event: &mut Option<Box<AuditEvent>>) -> Option<Arc<Batch>> {
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
    fn close(&self) {
        self.lock().closed = true;
        self.came.notify_one();
        self.taken.notify_waiters();
    }
}

/// Wakes the writer when it is dropped: also when a request is hung up between its record and that.
struct WakesWriter<'a>(&'a Queue);

impl Drop for WakesWriter<'_> {
    fn drop(&mut self) {
        self.0.wake_writer();
    }
}

/// The writer's end of a queue. When it is gone, nobody waits for it in vain.
struct Reader(Arc<Queue>);

impl Reader {
    /// Waits for records and takes all there are, into the empty `events`, and some of strangers, into the empty `strangers`. `None`
    /// when the queue is closed and empty.
    fn take(&self, events: &mut Vec<AuditEvent>, strangers: &mut Vec<AuditEvent>) -> Option<Arc<Batch>> {
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

/// The writer's thread: all that waits at once, then some of what strangers left, then again.
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
    /// The last line's, of those that were written.
    chain: String,
    seq: u64,
    lines: Vec<u8>,
    failing: bool,
}

impl Stream {
    /// Writes these records with one write, and leaves none behind.
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

#[derive(Serialize)]
struct Line<'a> {
    seq: u64,
    #[serde(flatten)]
    event: &'a AuditEvent,
}

fn append(lines: &mut Vec<u8>, seq: u64, event: &AuditEvent, chain: &mut String) {
    let text = serde_json::to_string(&Line { seq, event })
        .expect("a record is strings, numbers and a map of strings");
    *chain = link(chain, &text);
    let open = text.strip_suffix('}').expect("a record is an object");
    lines.extend_from_slice(open.as_bytes());
    lines.extend_from_slice(b",\"chain\":\"");
    lines.extend_from_slice(chain.as_bytes());
    lines.extend_from_slice(b"\"}\n");
}

/// The chain after `line`, which is a record without its `chain`.
fn link(before: &str, line: &str) -> String {
    use aws_lc_rs::digest::{Context, SHA256};
    let mut context = Context::new(&SHA256);
    context.update(before.as_bytes());
    context.update(line.as_bytes());
    let digest = context.finish();
    digest.as_ref().iter().fold(String::with_capacity(64), |mut hex, byte| {
        for nibble in [byte >> 4, byte & 15] {
            hex.push(char::from_digit(u32::from(nibble), 16).expect("a nibble is a digit"));
        }
        hex
    })
}

const CHAIN_KEY: &str = ",\"chain\":\"";
/// Of a line: the key, 64 digits, `"}`.
const CHAIN_TAIL: usize = CHAIN_KEY.len() + 64 + 2;

/// A line as (record without its chain, chain).
fn split_chain(line: &str) -> Option<(String, &str)> {
    let at = line.len().checked_sub(CHAIN_TAIL)?;
    let (record, tail) = line.split_at_checked(at)?;
    let chain = tail.strip_prefix(CHAIN_KEY)?.strip_suffix("\"}")?;
    chain.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| (format!("{record}}}"), chain))
}

/// What is wrong with an audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// This line does not follow from the one before it: changed, added, or something before it removed.
    Broken {
        /// The line's number, from 1.
        line: u64,
    },
    /// This line is no whole record: a write that was cut off, or tampering.
    Unreadable {
        /// The line's number, from 1.
        line: u64,
    },
    /// Records before this line were taken and could not be written.
    Gap {
        /// The line's number, from 1.
        line: u64,
        /// How many records are missing.
        missing: u64,
    },
}

/// What a check of an audit log found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Lines read.
    pub lines: u64,
    /// What is wrong, in order.
    pub flaws: Vec<Flaw>,
    /// The last line's chain, to be kept elsewhere: a log cut off at its end cannot show it by itself.
    pub last_chain: Option<String>,
}

/// Checks an audit log's chain from its first line on. The first line's own predecessor (the end of the file
/// before it, when logs are rotated) is taken from `before`; without one the first line is believed.
pub fn verify(log: impl Read, before: Option<&str>) -> io::Result<Verified> {
    let mut found = Verified::default();
    let mut previous = before.map(str::to_owned);
    let mut last_seq: Option<u64> = None;
    for text in BufReader::new(log).split(b'\n') {
        let text = text?;
        found.lines += 1;
        let line = found.lines;
        let record = std::str::from_utf8(&text).ok().and_then(split_chain).and_then(|(record, chain)| {
            let seq = serde_json::from_str::<serde_json::Value>(&record).ok()?.get("seq")?.as_u64()?;
            Some((record, chain, seq))
        });
        let Some((record, chain, seq)) = record else {
            found.flaws.push(Flaw::Unreadable { line });
            continue;
        };
        if previous.as_ref().is_some_and(|previous| link(previous, &record) != chain) {
            found.flaws.push(Flaw::Broken { line });
        }
        // A number 1 is a new start of the process.
        if let Some(last) = last_seq
            && seq > last + 1
        {
            found.flaws.push(Flaw::Gap { line, missing: seq - last - 1 });
        }
        previous = Some(chain.to_owned());
        last_seq = Some(seq);
    }
    found.last_chain = previous.filter(|_| found.lines > 0);
    Ok(found)
}

trait Sink: Send {
    /// Writes whole lines, or fails; what was written in part must not spoil what comes later.
    fn write(&mut self, lines: &[u8]) -> io::Result<()>;

    /// The chain of the last line written before this process's life.
    fn last_chain(&mut self) -> Option<String> {
        None
    }
}

struct Stdout;

impl Sink for Stdout {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(lines)?;
        stdout.flush()
    }
}

struct Stderr;

impl Sink for Stderr {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        io::stderr().lock().write_all(lines)
    }
}

struct AppendedFile {
    path: PathBuf,
    file: File,
    identity: (u64, u64),
    /// The last write stopped somewhere within a line.
    torn: bool,
}

impl AppendedFile {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0))
            .open(path)?;
        let metadata = file.metadata()?;
        let mut torn = false;
        if metadata.len() > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            torn = last != *b"\n";
        }
        Ok(AppendedFile { path: path.to_owned(), file, identity: (metadata.dev(), metadata.ino()), torn })
    }
}

impl Sink for AppendedFile {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let same = std::fs::metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if !same {
            *self = Self::open(&self.path)?;
        }
        let before = self.file.metadata()?.len();
        let newline: &[u8] = if self.torn { b"\n" } else { b"" };
        let written = self.file.write_all(newline).and_then(|()| self.file.write_all(lines));
        self.torn = match &written {
            Ok(()) => false,
            // All or nothing: what was written in part would break the chain for what comes next.
            Err(_) => self.file.set_len(before).is_err() || self.torn,
        };
        written
    }

    fn last_chain(&mut self) -> Option<String> {
        // A record is far shorter than this.
        const TAIL: u64 = 64 * 1024;
        let length = self.file.metadata().ok()?.len();
        self.file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
        let mut tail = Vec::new();
        Read::by_ref(&mut self.file).take(TAIL).read_to_end(&mut tail).ok()?;
        let tail = String::from_utf8_lossy(&tail);
        tail.lines().rev().find_map(|line| split_chain(line).map(|(_, chain)| chain.to_owned()))
    }
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::domain::id::SessionId;
    use crate::listener::{Origin, RequestId};
    use crate::system::SystemClock;

    fn event(connection: &str) -> AuditEvent {
        let mut event = AuditEvent::new(Timestamp::from_unix_millis(1_795_392_083_250), Action::Token, "ok");
        event.connection = ConnectionName::parse(connection).ok();
        event
    }

    /// A clock whose patience ends when it is told to, so that a slow machine loses nothing.
    #[derive(Default)]
    struct Patient(Arc<Notify>);

    impl Clock for Patient {
        fn now(&self) -> Timestamp {
            Timestamp::from_unix_seconds(0)
        }

        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }

        fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
            assert_eq!(duration, PATIENCE);
            Box::pin(Arc::clone(&self.0).notified_owned())
        }
    }

    fn parts() -> (Arc<Patient>, Arc<Metrics>) {
        (Arc::default(), Arc::new(Metrics::new("test")))
    }

    fn lost(metrics: &Metrics) -> String {
        let text = metrics.encode(Timestamp::from_unix_seconds(0));
        text.lines()
            .find_map(|line| line.strip_prefix("tokenward_audit_lost_total "))
            .expect("there")
            .to_owned()
    }

    #[test]
    fn the_record_s_keys_are_a_contract() {
        let mut event = event("user-1");
        assert_eq!(
            serde_json::to_string(&event).expect("JSON"),
            r#"{"at":"2026-11-23T00:01:23.250Z","action":"token","outcome":"ok","connection":"user-1"}"#
        );
        event.app = AppName::parse("outlook").ok();
        event.caller = CallerName::parse("mail-sync").ok();
        event.scopes = vec!["Mail.Read".to_owned()];
        event.expires_in = Some(3000);
        event.tenant = Some("t".to_owned());
        event.object = Some("o".to_owned());
        event.authenticated_by = Some("api_key k1".to_owned());
        event.session = SessionId::parse("abc").ok().as_ref().map(SessionMark::of);
        event.detail.insert("credential", "2026-11".to_owned());
        event.reason = Some("grant_revoked");
        let id = RequestId::new(&crate::system::SystemRandom::new());
        let unix = event.clone().from_request(Origin::Unix { uid: 7, gid: 8, pid: None }, &id);
        assert_eq!(
            serde_json::to_value(&unix).expect("JSON"),
            serde_json::json!({
                "at": "2026-11-23T00:01:23.250Z", "action": "token", "outcome": "ok", "reason": "grant_revoked",
                "caller": "mail-sync", "authenticated_by": "api_key k1", "peer": "unix", "peer_uid": 7,
                "app": "outlook", "connection": "user-1", "tenant": "t", "object": "o", "scopes": ["Mail.Read"],
                "expires_in": 3000, "session": "ba7816bf8f01cfea", "detail": {"credential": "2026-11"}, "request_id": id.as_str(),
            })
        );
        let tcp = event.from_request(Origin::Tcp("[::ffff:10.0.0.1]:5".parse().expect("an address")), &id);
        assert_eq!((tcp.peer, tcp.peer_address.as_deref()), (Some("tcp"), Some("10.0.0.1")));
    }

    #[tokio::test]
    async fn everything_taken_is_in_the_file_when_the_writer_is_dropped_and_the_chain_goes_on() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("audit.log");
        for life in 0..2 {
            let (clock, metrics) = parts();
            let writer = AuditWriter::open(&AuditSink::File(path.clone()), clock, metrics).expect("open");
            for each in 0..1000 {
                assert_eq!(writer.record(event(&format!("user-{life}-{each}"))).await, Recorded::Written);
            }
            drop(writer);
        }
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let log = std::fs::read_to_string(&path).expect("text");
        let found = verify(log.as_bytes(), Some(&"0".repeat(64))).expect("read");
        assert_eq!((found.lines, &found.flaws[..]), (2000, &[][..]));

        // Removed, changed, swapped, added: each shows.
        let lines: Vec<&str> = log.lines().collect();
        let flaws = |lines: &[&str]| verify(lines.join("\n").as_bytes(), None).expect("read").flaws;
        let mut removed = lines.clone();
        removed.remove(500);
        assert!(flaws(&removed).contains(&Flaw::Broken { line: 501 }));
        let changed = lines[500].replace("user-0-500", "user-0-501");
        let mut altered = lines.clone();
        altered[500] = &changed;
        assert_eq!(flaws(&altered), [Flaw::Broken { line: 501 }]);
        let mut swapped = lines.clone();
        swapped.swap(500, 501);
        assert!(flaws(&swapped).contains(&Flaw::Broken { line: 501 }));
        let mut added = lines.clone();
        added.insert(500, "{}");
        assert_eq!(flaws(&added), [Flaw::Unreadable { line: 501 }]);
    }

    #[tokio::test]
    async fn a_rotated_file_is_made_anew_and_a_torn_line_stays_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("audit.log");
        std::fs::write(&path, "{\"torn\":").expect("written");
        let (clock, metrics) = parts();
        let writer = AuditWriter::open(&AuditSink::File(path.clone()), clock, metrics).expect("open");
        assert_eq!(writer.record(event("user-1")).await, Recorded::Written);
        let text = std::fs::read_to_string(&path).expect("text");
        assert!(text.starts_with("{\"torn\":\n{\"seq\":1,"), "{text}");
        std::fs::rename(&path, directory.path().join("audit.log.1")).expect("rotated");
        let _ = writer.record(event("user-2")).await;
        drop(writer);
        let text = std::fs::read_to_string(&path).expect("a new file");
        assert!(text.contains("user-2") && !text.contains("user-1"), "{text}");
        let before =
            verify(File::open(directory.path().join("audit.log.1")).expect("there"), None).expect("read");
        let after = verify(text.as_bytes(), before.last_chain.as_deref()).expect("read");
        assert_eq!(after.flaws, [], "the chain goes on in the new file");
    }

    /// Writes one batch each time it is told to, and tells of it: the sizes of the batches. Fails where it is told so.
    struct Told {
        go_on: std::sync::mpsc::Receiver<io::Result<()>>,
        begun: tokio::sync::mpsc::UnboundedSender<usize>,
    }

    impl Sink for Told {
        fn write(&mut self, lines: &[u8]) -> io::Result<()> {
            let _ = self.begun.send(lines.iter().filter(|byte| **byte == b'\n').count());
            // Whoever no longer tells anything lets it run.
            self.go_on.recv().unwrap_or(Ok(()))
        }
    }

    struct Teller {
        writer: AuditWriter,
        metrics: Arc<Metrics>,
        patience: Arc<Notify>,
        go_on: std::sync::mpsc::Sender<io::Result<()>>,
        begun: tokio::sync::mpsc::UnboundedReceiver<usize>,
    }

    fn told(room: usize) -> Teller {
        let (clock, metrics) = parts();
        let patience = Arc::clone(&clock.0);
        let (go_on, told) = std::sync::mpsc::channel();
        let (began, begun) = tokio::sync::mpsc::unbounded_channel();
        let sink = Box::new(Told { go_on: told, begun: began });
        let writer = AuditWriter::start(sink, room, clock, Arc::clone(&metrics));
        Teller { writer, metrics, patience, go_on, begun }
    }

    /// A record that somebody waits for.
    fn record<'a>(writer: &'a AuditWriter, connection: &str) -> BoxFuture<'a, Recorded> {
        let mut recording = writer.record(event(connection));
        assert!(!is_ready(&mut recording), "nobody has told the sink to write it");
        recording
    }

    fn full_disk() -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }

    /// As far as it gets by itself: it lets others go first once.
    fn is_ready(recording: &mut BoxFuture<'_, Recorded>) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        (0..2).any(|_| recording.as_mut().poll(&mut context).is_ready())
    }

    #[tokio::test]
    async fn an_answer_waits_for_its_own_batch_and_for_no_other() {
        let mut told = told(8);
        let mut first = record(&told.writer, "user-1");
        assert_eq!(told.begun.recv().await, Some(1));
        let mut rest: Vec<_> = (2..6).map(|each| record(&told.writer, &format!("user-{each}"))).collect();
        assert!(!is_ready(&mut first) && !rest.iter_mut().any(is_ready), "nothing is written yet");
        told.go_on.send(Ok(())).expect("told");
        assert_eq!(first.await, Recorded::Written);
        assert_eq!(told.begun.recv().await, Some(4), "all that waited share one write");
        assert!(!rest.iter_mut().any(is_ready), "the first batch is not theirs");
        told.go_on.send(Ok(())).expect("told");
        for one in rest {
            assert_eq!(one.await, Recorded::Written);
        }
        assert_eq!(lost(&told.metrics), "0");
    }

    #[tokio::test]
    async fn a_request_that_is_hung_up_leaves_its_record() {
        let mut told = told(8);
        drop(told.writer.record(event("user-1")));
        assert_eq!(told.begun.recv().await, Some(1));
        told.go_on.send(Ok(())).expect("told");
        let mut second = told.writer.record(event("user-2"));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(second.as_mut().poll(&mut context).is_pending());
        drop(second);
        assert_eq!(told.begun.recv().await, Some(1));
        drop(told.go_on);
    }

    #[tokio::test]
    async fn a_stuck_sink_costs_a_request_its_patience_and_no_more() {
        let mut told = told(2);
        // The first is being written, two wait, and there is no room for the fourth.
        let first = record(&told.writer, "user-1");
        assert_eq!(told.begun.recv().await, Some(1));
        let rest = [2, 3, 4].map(|each| record(&told.writer, &format!("user-{each}")));
        let mut all: Vec<_> = std::iter::once(first).chain(rest).collect();
        assert!(!all.iter_mut().any(is_ready));
        told.patience.notify_waiters();
        for one in all {
            assert_eq!(one.await, Recorded::Lost);
        }
        assert_eq!(lost(&told.metrics), "4");

        // It goes on: what has its place is written, and what comes has room again.
        told.go_on.send(Ok(())).expect("told");
        assert_eq!(told.begun.recv().await, Some(2));
        told.go_on.send(Ok(())).expect("told");
        let later = record(&told.writer, "user-5");
        assert_eq!(told.begun.recv().await, Some(1));
        told.go_on.send(Ok(())).expect("told");
        assert_eq!(later.await, Recorded::Written);
        assert_eq!(lost(&told.metrics), "4");
    }

    #[tokio::test]
    async fn who_finds_no_room_waits_for_it() {
        let mut told = told(1);
        let first = record(&told.writer, "user-1");
        assert_eq!(told.begun.recv().await, Some(1));
        let second = record(&told.writer, "user-2");
        let mut third = record(&told.writer, "user-3");
        assert!(!is_ready(&mut third));
        drop(told.go_on);
        assert_eq!([first.await, second.await, third.await], [Recorded::Written; 3]);
        assert_eq!(lost(&told.metrics), "0");
    }

    #[tokio::test]
    async fn who_finds_no_room_and_goes_leaves_its_record_or_has_it_counted() {
        let mut told = told(1);
        let first = record(&told.writer, "user-1");
        assert_eq!(told.begun.recv().await, Some(1));
        let second = record(&told.writer, "user-2");
        // One goes while it waits, one before it has begun to: there is no room for either, still.
        drop(record(&told.writer, "user-3"));
        drop(told.writer.record(event("user-4")));
        assert_eq!(lost(&told.metrics), "2");
        // This one goes when there is room again.
        let third = record(&told.writer, "user-5");
        told.go_on.send(Ok(())).expect("told");
        assert_eq!(told.begun.recv().await, Some(1));
        drop(third);
        drop(told.go_on);
        assert_eq!([first.await, second.await], [Recorded::Written; 2]);
        assert_eq!(told.begun.recv().await, Some(1), "it left its record");
        assert_eq!(lost(&told.metrics), "2");
    }

    #[tokio::test]
    async fn strangers_take_no_room_and_others_wait_for_no_more_than_a_chunk_of_theirs() {
        let mut told = told(2);
        let first = record(&told.writer, "user-1");
        assert_eq!(told.begun.recv().await, Some(1));
        let noted = (0..1000).filter(|_| told.writer.note(event("stranger")) == Noted::Taken).count();
        assert_eq!(noted, STRANGERS, "the rest is said to have no room");
        let second = record(&told.writer, "user-2");
        told.go_on.send(Ok(())).expect("told");
        assert_eq!(first.await, Recorded::Written);
        assert_eq!(told.begun.recv().await, Some(1), "before those of strangers, though these came first");
        told.go_on.send(Ok(())).expect("told");
        assert_eq!(second.await, Recorded::Written, "and answered before those are written");
        assert_eq!(told.begun.recv().await, Some(CHUNK));
        let third = record(&told.writer, "user-3");
        told.go_on.send(Ok(())).expect("told");
        assert_eq!(told.begun.recv().await, Some(1), "its turn comes after one chunk");
        told.go_on.send(Ok(())).expect("told");
        assert_eq!(third.await, Recorded::Written);
        // All that was taken is written, also at the end.
        drop(told.go_on);
        drop(told.writer);
        let mut left = 0;
        while let Some(written) = told.begun.recv().await {
            assert!(written <= CHUNK);
            left += written;
        }
        assert_eq!(left, STRANGERS - CHUNK);
        assert_eq!(lost(&told.metrics), "0");
    }

    #[tokio::test]
    async fn the_chain_and_the_numbers_go_through_both_lanes() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("audit.log");
        let (clock, metrics) = parts();
        let writer = AuditWriter::open(&AuditSink::File(path.clone()), clock, metrics).expect("open");
        for each in 0..100 {
            assert_eq!(writer.note(event("stranger")), Noted::Taken);
            let mut sum = event("sum");
            sum.suppressed = Some(each + 1);
            assert_eq!(writer.record(sum).await, Recorded::Written);
        }
        drop(writer);
        let log = std::fs::read_to_string(&path).expect("text");
        let found = verify(log.as_bytes(), Some(&"0".repeat(64))).expect("read");
        assert_eq!((found.lines, &found.flaws[..]), (200, &[][..]));
        assert!(log.contains(r#""suppressed":100"#), "{log}");
    }

    #[tokio::test]
    async fn a_full_disk_is_counted_once_and_its_requests_are_told() {
        let mut told = told(8);
        let first = record(&told.writer, "user-1");
        assert_eq!(told.begun.recv().await, Some(1));
        let second = record(&told.writer, "user-2");
        told.patience.notify_waiters();
        assert_eq!([first.await, second.await], [Recorded::Lost; 2]);
        // Nobody waits for this one: its request was hung up.
        drop(told.writer.record(event("user-3")));
        assert_eq!(lost(&told.metrics), "2");
        told.go_on.send(full_disk()).expect("told");
        assert_eq!(told.begun.recv().await, Some(2));
        told.go_on.send(full_disk()).expect("told");
        let waits = record(&told.writer, "user-4");
        assert_eq!(told.begun.recv().await, Some(1));
        assert_eq!(lost(&told.metrics), "3", "the first two had been counted");
        told.go_on.send(full_disk()).expect("told");
        assert_eq!(waits.await, Recorded::Lost, "it needs no patience to know");
        assert_eq!(lost(&told.metrics), "4");
    }

    #[tokio::test]
    async fn what_was_recorded_is_written_in_order_by_whoever_waits_or_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("audit.log");
        let (clock, metrics) = parts();
        let writer = AuditWriter::open(&AuditSink::File(path.clone()), clock, metrics).expect("open");
        for each in 0..300 {
            let recording = writer.record(event(&format!("user-{each}")));
            if each % 3 == 0 {
                assert_eq!(recording.await, Recorded::Written);
                let text = std::fs::read_to_string(&path).expect("text");
                assert_eq!(text.lines().count(), each + 1, "written before it is said, and all before it");
            }
        }
        drop(writer);
        let log = std::fs::read_to_string(&path).expect("text");
        assert!(log.lines().enumerate().all(|(each, line)| line.contains(&format!("\"user-{each}\""))));
        assert_eq!(verify(log.as_bytes(), Some(&"0".repeat(64))).expect("read").flaws, []);
    }

    #[tokio::test]
    async fn a_writer_that_is_gone_takes_nothing_and_keeps_nobody() {
        struct Panics;
        impl Sink for Panics {
            fn write(&mut self, _: &[u8]) -> io::Result<()> {
                panic!("as it was meant");
            }
        }
        let (clock, metrics) = (Arc::new(SystemClock::new()), parts().1);
        let writer = AuditWriter::start(Box::new(Panics), 8, clock, Arc::clone(&metrics));
        assert_eq!(writer.record(event("user-1")).await, Recorded::Lost);
        assert_eq!(writer.record(event("user-2")).await, Recorded::Lost);
        assert_eq!(lost(&metrics), "2");
        drop(writer);
    }
}
