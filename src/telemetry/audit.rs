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
//! | `session` | the connect session |
//! | `detail` | what an administrative act was about, such as `{"credential": "2026-11"}` |
//! | `request_id` | the request, as in the log and in the caller's response |
//! | `chain` | SHA-256 over the line before's `chain` and this line without it: a removed, added or changed line shows |
//!
//! Invariants:
//! 1. No token, code, secret or username is ever in a record; the types have no place for one.
//! 2. A request waits for the stream at most [`PATIENCE`]. What then finds no place is lost, counted and logged.
//! 3. What was taken is written, in order, also when the process stops in order.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Serialize, Serializer};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::domain::id::{AppName, CallerName, ConnectionName, SessionId};
use crate::domain::task::BoxFuture;
use crate::domain::time::{Clock, Timestamp};
use crate::telemetry::metrics::Metrics;

/// The longest that a request waits for room in the stream.
pub const PATIENCE: Duration = Duration::from_millis(250);
/// Records that may wait to be written: about 2 s of a busy day.
const QUEUE: usize = 4096;
/// Records written at once.
const BATCH: usize = 256;
/// How long a stop waits for a sink that does not take what is left.
const FLUSH: Duration = Duration::from_secs(2);

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
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
    /// The connect session. Its id opens nothing any more once it has been used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// What an administrative act was about. Names and ids only.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub detail: BTreeMap<&'static str, String>,
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

/// Whether a record has its place in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "whoever must not act unaudited has to look"]
pub enum Recorded {
    /// It will be written.
    Taken,
    /// It is lost; counted and logged.
    Lost,
}

/// Where records go.
pub trait Audit: Send + Sync {
    /// Takes one record. Completes at once, or after [`PATIENCE`] at the latest.
    fn record(&self, event: AuditEvent) -> BoxFuture<'_, Recorded>;
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
    queue: Option<mpsc::Sender<AuditEvent>>,
    written: Mutex<std::sync::mpsc::Receiver<()>>,
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

    fn start(sink: Box<dyn Sink>, queue: usize, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        let (sender, receiver) = mpsc::channel(queue);
        let (done, written) = std::sync::mpsc::channel();
        let counted = Arc::clone(&metrics);
        let thread = std::thread::Builder::new().name("audit".to_owned());
        let spawned = thread.spawn(move || {
            write_all(receiver, sink, &counted);
            // Nobody may be waiting any more.
            let _ = done.send(());
        });
        if let Err(error) = spawned {
            // The queue's other end is gone, so every record will be counted as lost.
            tracing::error!(%error, "the audit thread could not be started");
        }
        AuditWriter { queue: Some(sender), written: Mutex::new(written), clock, metrics }
    }

    fn lost(&self, why: &'static str) -> Recorded {
        self.metrics.audit_lost(1);
        tracing::error!(why, "an audit record was lost");
        Recorded::Lost
    }
}

impl Audit for AuditWriter {
    fn record(&self, event: AuditEvent) -> BoxFuture<'_, Recorded> {
        let Some(queue) = &self.queue else {
            return Box::pin(std::future::ready(self.lost("the stream is closed")));
        };
        match queue.try_send(event) {
            Ok(()) => Box::pin(std::future::ready(Recorded::Taken)),
            Err(TrySendError::Closed(_)) => Box::pin(std::future::ready(self.lost("its writer has ended"))),
            Err(TrySendError::Full(event)) => Box::pin(async move {
                tokio::select! {
                    sent = queue.send(event) => match sent {
                        Ok(()) => Recorded::Taken,
                        Err(_) => self.lost("its writer has ended"),
                    },
                    () = self.clock.sleep(PATIENCE) => self.lost("the sink does not keep up"),
                }
            }),
        }
    }
}

impl Drop for AuditWriter {
    /// Waits until everything taken is written, but not for ever for a sink that is stuck.
    fn drop(&mut self) {
        self.queue = None;
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = written.recv_timeout(FLUSH) {
            tracing::error!("the audit log does not take its last records");
        }
    }
}

/// The writer's thread: all that waits at once, then again.
fn write_all(mut queue: mpsc::Receiver<AuditEvent>, mut sink: Box<dyn Sink>, metrics: &Metrics) {
    let mut chain = sink.last_chain().unwrap_or_else(|| "0".repeat(64));
    let mut seq = 0_u64;
    let mut events = Vec::with_capacity(BATCH);
    let mut failing = false;
    while queue.blocking_recv_many(&mut events, BATCH) > 0 {
        let records = events.len() as u64;
        let (mut lines, mut next) = (Vec::with_capacity(events.len() * 512), chain.clone());
        for event in events.drain(..) {
            seq += 1;
            append(&mut lines, seq, &event, &mut next);
        }
        match sink.write(&lines) {
            Ok(()) => {
                chain = next;
                if std::mem::take(&mut failing) {
                    tracing::info!("the audit log can be written again");
                }
            }
            Err(error) => {
                metrics.audit_lost(records);
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, records, "audit records were lost; trying on with the next ones");
                }
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Audit for AuditMemory {
    fn record(&self, event: AuditEvent) -> BoxFuture<'_, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        Box::pin(std::future::ready(Recorded::Taken))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::listener::{Origin, RequestId};
    use crate::system::SystemClock;

    fn event(connection: &str) -> AuditEvent {
        let mut event = AuditEvent::new(Timestamp::from_unix_millis(1_795_392_083_250), Action::Token, "ok");
        event.connection = ConnectionName::parse(connection).ok();
        event
    }

    fn parts() -> (Arc<dyn Clock>, Arc<Metrics>) {
        (Arc::new(SystemClock::new()), Arc::new(Metrics::new("test")))
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
        event.session = SessionId::parse("s").ok();
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
                "expires_in": 3000, "session": "s", "detail": {"credential": "2026-11"}, "request_id": id.as_str(),
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
                assert_eq!(writer.record(event(&format!("user-{life}-{each}"))).await, Recorded::Taken);
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
        let _ = writer.record(event("user-1")).await;
        let lines_of = |path: &Path| std::fs::read_to_string(path).unwrap_or_default().lines().count();
        while lines_of(&path) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
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

    /// Blocks until told otherwise.
    struct Stuck(std::sync::mpsc::Receiver<()>);

    impl Sink for Stuck {
        fn write(&mut self, _: &[u8]) -> io::Result<()> {
            let _ = self.0.recv();
            Ok(())
        }
    }

    struct Full;

    impl Sink for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    #[tokio::test]
    async fn a_stuck_sink_costs_a_request_its_patience_and_no_more() {
        let (clock, metrics) = parts();
        let (release, stuck) = std::sync::mpsc::channel();
        let writer = AuditWriter::start(Box::new(Stuck(stuck)), 2, Arc::clone(&clock), Arc::clone(&metrics));
        let began = clock.monotonic();
        let mut answers = Vec::new();
        while answers.last() != Some(&Recorded::Lost) {
            answers.push(writer.record(event("user-1")).await);
            assert!(answers.len() < 10, "it takes more than it can hold");
        }
        let took = clock.monotonic() - began;
        assert!(took >= PATIENCE && took < PATIENCE * 4, "{took:?}");
        assert_eq!(lost(&metrics), "1");
        drop(release);
    }

    #[tokio::test]
    async fn a_full_disk_is_counted() {
        let (clock, metrics) = parts();
        let writer = AuditWriter::start(Box::new(Full), 8, clock, Arc::clone(&metrics));
        let _ = writer.record(event("user-1")).await;
        let _ = writer.record(event("user-2")).await;
        drop(writer);
        assert_eq!(lost(&metrics), "2");
    }
}
