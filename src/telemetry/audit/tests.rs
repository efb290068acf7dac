//! Tests of the audit stream.
use std::io;
use std::net::Ipv6Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::queue::{CHUNK, STRANGERS};
use super::sink::{Failed, Sink};
use super::writer::LOOK_EVERY;
use super::*;
use crate::domain::id::{AppName, CallerName, ConnectionName, SessionId};
use crate::domain::time::{Clock, Timestamp};
use crate::listener::{Origin, RequestId};
use crate::system::SystemClock;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::session_mark::SessionMark;
use tokio::sync::Notify;

fn event(connection: &str) -> AuditEvent {
    let mut event = AuditEvent::new(Timestamp::from_unix_millis(1_795_392_083_250), Action::Token, "ok");
    event.connection = ConnectionName::parse(connection).ok();
    event
}

/// A clock whose patience ends on demand, so that a slow machine loses nothing.
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
        assert!([PATIENCE, PATIENCE - LOOK_EVERY].contains(&duration), "{duration:?}");
        Box::pin(Arc::clone(&self.0).notified_owned())
    }
}

fn parts() -> (Arc<Patient>, Arc<Metrics>) {
    (Arc::default(), Arc::new(Metrics::new("test")))
}

/// Opens a writer to a file, the only sink.
fn to_file(path: &Path) -> AuditWriter {
    let (clock, metrics) = parts();
    AuditWriter::open(
        &AuditSink::File(path.to_owned()),
        true,
        Arc::default(),
        clock,
        metrics.audit_sink("file", true),
    )
    .expect("open")
}

/// Checks that a log is whole from the first line of its chain on, and returns the number of its lines.
fn whole(log: &str) -> u64 {
    let found = verify(log.as_bytes()).expect("read");
    assert_eq!((&found.flaws[..], &found.torn[..]), (&[][..], &[][..]));
    assert!(found.first.is_some_and(|first| first.begins_a_chain()));
    found.lines
}

fn lost(metrics: &Metrics) -> String {
    let text = metrics.encode(Timestamp::from_unix_seconds(0));
    text.lines().find_map(|line| line.strip_prefix("tokenward_audit_lost_total ")).expect("there").to_owned()
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
    event.scopes = Arc::new(vec!["Mail.Read".to_owned()]);
    event.expires_in = Some(3000);
    event.tenant = Some("t".to_owned());
    event.object = Some("o".to_owned());
    event.session = SessionId::parse("abc").ok().as_ref().map(SessionMark::of);
    event.detail.insert("credential", "2026-11".to_owned());
    event.reason = Some("grant_revoked");
    let id = RequestId::new(&crate::system::SystemRandom::new());
    let unix = event.clone().from_request(Origin::Unix { uid: 7, gid: 8, pid: None }, &id);
    assert_eq!(
        serde_json::to_value(&unix).expect("JSON"),
        serde_json::json!({
            "at": "2026-11-23T00:01:23.250Z", "action": "token", "outcome": "ok", "reason": "grant_revoked",
            "caller": "mail-sync", "peer": "unix", "peer_uid": 7,
            "app": "outlook", "connection": "user-1", "tenant": "t", "object": "o", "scopes": ["Mail.Read"],
            "expires_in": 3000, "session": "ba7816bf8f01cfea", "detail": {"credential": "2026-11"},
            "request_id": id.as_str(),
        })
    );
    let mut tcp = event.from_request(Origin::Tcp("[::ffff:10.0.0.1]:5".parse().expect("an address")), &id);
    assert_eq!((tcp.peer, tcp.peer_address), (Some("tcp"), Some([10, 0, 0, 1].into())));

    // What is written is what serde would write.
    tcp.scopes = Arc::new(vec!["a".to_owned(), "\"b\"".to_owned()]);
    (tcp.method, tcp.door) = (Some("jwt"), Some("msi"));
    (tcp.token_sha256, tcp.uti) = (Some("00ff".into()), Some("u\\ti\n".into()));
    (tcp.suppressed, tcp.tenant) = (Some(u64::MAX), Some("ä".to_owned()));
    let bare = AuditEvent::new(Timestamp::from_unix_millis(-1), Action::ConnectFailed, "x");
    let of_v6 = AuditEvent { peer_address: "2001:db8::1".parse().ok(), ..bare.clone() };
    for event in [&tcp, &unix, &bare, &of_v6] {
        let mut written = Vec::new();
        event.push_members(&mut written);
        let written = String::from_utf8(written).expect("text");
        assert_eq!(format!("{{{written}}}"), serde_json::to_string(event).expect("JSON"));
    }
    // So is what is written of a hand-out, most of which was written before.
    let scopes = Arc::new(vec!["Mail.Read".to_owned()]);
    let words = TokenWords { scopes: scopes.clone(), sha256: "00ff".into(), uti: Some("\"".into()) };
    let mut event = AuditEvent { scopes, ..bare.clone() }.token(&words, Duration::ZERO);
    (event.caller, event.method, event.door) = (CallerName::parse("a").ok(), Some("jwt"), Some("msi"));
    let text = Arc::new(HandOutText::of(&event));
    for source in
        [Source::Unix { uid: 7 }, Source::Tcp([10, 0, 0, 1].into()), Source::Tcp(Ipv6Addr::LOCALHOST.into())]
    {
        let (text, at) = (Arc::clone(&text), Timestamp::from_unix_millis(1_795_392_083_007));
        let record = HandOutRecord { at, text, source, expires_in: 3599, request_id: id.shared() };
        let event = AuditEvent { at, expires_in: Some(3599), ..event.clone() }.from(source, &id.shared());
        let mut written = Vec::new();
        record.push_members(&mut written);
        let written = String::from_utf8(written).expect("text");
        assert_eq!(format!("{{{written}}}"), serde_json::to_string(&event).expect("JSON"));
    }
    for action in [
        Action::Token,
        Action::Refused,
        Action::ConnectStarted,
        Action::Connected,
        Action::Confirmed,
        Action::ConnectFailed,
        Action::Read,
        Action::Deleted,
        Action::AdminConsent,
        Action::Admin,
        Action::Reloaded,
        Action::Started,
        Action::Stopped,
        Action::Checkpoint,
    ] {
        assert_eq!(format!("\"{}\"", action.as_str()), serde_json::to_string(&action).expect("JSON"));
    }
}

#[tokio::test]
async fn everything_taken_is_in_the_file_when_the_writer_is_dropped_and_the_chain_goes_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("audit.log");
    for life in 0..2 {
        let writer = to_file(&path);
        for each in 0..1000 {
            assert_eq!(writer.record(event(&format!("user-{life}-{each}"))).await, Recorded::Written);
        }
        drop(writer);
    }
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    let log = std::fs::read_to_string(&path).expect("text");
    assert_eq!(whole(&log), 2000);
}

#[tokio::test]
async fn a_rotated_file_is_made_anew_and_a_torn_line_stays_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("audit.log");
    std::fs::write(&path, "{\"seq\":9,\"at\":").expect("written");
    let writer = to_file(&path);
    assert_eq!(writer.record(event("user-1")).await, Recorded::Written);
    let text = std::fs::read_to_string(&path).expect("text");
    assert!(text.starts_with("{\"seq\":9,\"at\":\n{\"seq\":1,"), "{text}");
    std::fs::rename(&path, directory.path().join("audit.log.1")).expect("rotated");
    let _ = writer.record(event("user-2")).await;
    drop(writer);
    let text = std::fs::read_to_string(&path).expect("a new file");
    assert!(text.contains("user-2") && !text.contains("user-1"), "{text}");
    let moved = std::fs::read(directory.path().join("audit.log.1")).expect("there");
    let files = [verify(text.as_bytes()), verify(&moved[..])].map(|file| file.expect("read"));
    assert_eq!((&files[1].torn[..], &files[1].flaws[..]), (&[1][..], &[][..]));
    assert_eq!(
        join(&files, None),
        Joined { order: vec![1, 0], flaws: vec![], ..Joined::default() },
        "the chain goes on"
    );
}

#[tokio::test]
async fn a_file_that_is_moved_while_no_process_writes_has_the_chain_for_the_next_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("audit.log");
    let moved = ["audit.log-20261123.gz", "audit.log.1"].map(|name| directory.path().join(name));
    for (life, moved) in moved.iter().enumerate() {
        let writer = to_file(&path);
        assert_eq!(writer.record(event(&format!("user-{life}"))).await, Recorded::Written);
        drop(writer);
        std::fs::rename(&path, moved).expect("moved");
        if life == 0 {
            let lines = std::fs::read(moved).expect("read");
            let file = std::fs::File::create(moved).expect("made");
            let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::default());
            io::Write::write_all(&mut packed, &lines).and_then(|()| packed.try_finish()).expect("packed");
        }
        // Names that are no moved files of this one.
        std::fs::write(directory.path().join("audit.log.d"), "").expect("written");
        std::fs::write(directory.path().join("audit.logs"), "{}").expect("written");
    }
    let writer = to_file(&path);
    assert_eq!(writer.record(event("user-2")).await, Recorded::Written);
    drop(writer);
    let read = |path: &Path| verify(unpacked(path, std::fs::File::open(path).expect("there"))).expect("read");
    let files = [&path, &moved[1], &moved[0]].map(|path| read(path));
    assert_eq!(join(&files, None), Joined { order: vec![2, 1, 0], flaws: vec![], ..Joined::default() });
}

#[tokio::test]
async fn the_chain_goes_on_from_the_lines_that_a_failed_write_left() {
    /// Keeps one line of each write but the last.
    #[derive(Clone, Default)]
    struct KeepsOne(Arc<Mutex<Vec<u8>>>);
    impl Sink for KeepsOne {
        fn write(&mut self, lines: &[u8]) -> Result<(), Failed> {
            let text = std::str::from_utf8(lines).expect("text");
            if text.contains("last") {
                self.0.lock().extend_from_slice(lines);
                return Ok(());
            }
            let first = text.find('\n').expect("a line") + 1;
            self.0.lock().extend_from_slice(&lines[..first]);
            Err(Failed { kept: first, error: io::ErrorKind::StorageFull.into() })
        }
    }
    let kept = KeepsOne::default();
    let counts = parts().1.audit_sink("keeps one", true);
    let clock = Arc::new(SystemClock::new());
    let writer = AuditWriter::start(
        (Box::new(kept.clone()), true),
        "keeps one".to_owned(),
        8,
        Arc::default(),
        clock,
        counts,
    );
    for _ in 0..3 {
        let all = [1, 2, 3].map(|each| writer.record(event(&format!("user-{each}"))));
        for one in all {
            assert_eq!(one.await, Recorded::Lost);
        }
    }
    assert_eq!(writer.record(event("last")).await, Recorded::Written);
    let found = verify(&kept.0.lock()[..]).expect("read");
    assert!(found.flaws.iter().all(|flaw| matches!(flaw.what, What::Lost { .. })), "{:?}", found.flaws);
    assert!(found.lines > 3, "{found:?}");
}

/// Writes one batch whenever it is told to, and reports the sizes of the batches. It fails on demand.
struct Told {
    go_on: std::sync::mpsc::Receiver<io::Result<()>>,
    begun: tokio::sync::mpsc::UnboundedSender<usize>,
}

impl Sink for Told {
    fn write(&mut self, lines: &[u8]) -> Result<(), Failed> {
        let _ = self.begun.send(lines.iter().filter(|byte| **byte == b'\n').count());
        // Without further orders it runs freely.
        Ok(self.go_on.recv().unwrap_or(Ok(()))?)
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
    let writer = AuditWriter::start(
        (sink, true),
        "told".to_owned(),
        room,
        Arc::default(),
        clock,
        metrics.audit_sink("told", true),
    );
    Teller { writer, metrics, patience, go_on, begun }
}

/// Makes a record that a request waits for.
fn record<'a>(writer: &'a AuditWriter, connection: &str) -> BoxFuture<'a, Recorded> {
    let mut recording = writer.record(event(connection));
    assert!(!is_ready(&mut recording), "nobody has told the sink to write it");
    recording
}

fn full_disk() -> io::Result<()> {
    Err(io::ErrorKind::StorageFull.into())
}

/// Polls as far as it gets: it lets others go first once.
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

    // It continues: queued records are written, and new ones have room again.
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
    // One request ends while it waits, and one before it began to wait: there is still room for neither.
    drop(record(&told.writer, "user-3"));
    drop(told.writer.record(event("user-4")));
    assert_eq!(lost(&told.metrics), "2");
    // This one enters when there is room again.
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
    // All taken records are written, also at the end.
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
    let writer = to_file(&path);
    for each in 0..100 {
        assert_eq!(writer.note(event("stranger")), Noted::Taken);
        let mut sum = event("sum");
        sum.suppressed = Some(each + 1);
        assert_eq!(writer.record(sum).await, Recorded::Written);
    }
    drop(writer);
    let log = std::fs::read_to_string(&path).expect("text");
    assert_eq!(whole(&log), 200);
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
    let writer = to_file(&path);
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
    whole(&log);
}

#[tokio::test]
async fn a_writer_that_is_gone_takes_nothing_and_keeps_nobody() {
    struct Panics;
    impl Sink for Panics {
        fn write(&mut self, _: &[u8]) -> Result<(), Failed> {
            panic!("as it was meant");
        }
    }
    let (clock, metrics) = (Arc::new(SystemClock::new()), parts().1);
    let counts = metrics.audit_sink("panics", true);
    let writer =
        AuditWriter::start((Box::new(Panics), true), "panics".to_owned(), 8, Arc::default(), clock, counts);
    assert_eq!(writer.record(event("user-1")).await, Recorded::Lost);
    assert_eq!(writer.record(event("user-2")).await, Recorded::Lost);
    assert_eq!(lost(&metrics), "2");
    drop(writer);
}

/// A clock that is set by hand.
#[derive(Default)]
struct Hand(std::sync::atomic::AtomicU64);

impl Hand {
    fn pass(&self, time: Duration) {
        self.0.fetch_add(time.as_secs(), std::sync::atomic::Ordering::SeqCst);
    }
}

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_seconds(0).plus(self.monotonic())
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.load(std::sync::atomic::Ordering::SeqCst))
    }

    fn sleep(&self, _duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn a_log_is_signed_after_so_many_records_after_a_time_in_the_next_file_and_at_the_end() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, moved) = (directory.path().join("audit.log"), directory.path().join("audit.log.1"));
    let (clock, metrics, signing) = (Arc::new(Hand::default()), parts().1, Arc::new(Signing::default()));
    metrics.rename(|names| names.audit_sinks = ["file".to_owned()].into());
    let counts = metrics.audit_sink("file", true);
    let sink = AuditSink::File(path.clone());
    let writer = AuditWriter::open(&sink, true, signing.clone(), clock.clone(), counts).expect("open");
    let record = async |count| {
        for _ in 0..count {
            assert_eq!(writer.record(event("a")).await, Recorded::Written);
        }
    };
    let checkpoints = |path: &Path| {
        let log = std::fs::read_to_string(path).expect("text");
        let is_one = |(_, line): &(usize, &str)| line.contains("\"action\":\"checkpoint\"");
        log.lines().enumerate().filter(is_one).map(|(line, _)| line + 1).collect::<Vec<_>>()
    };
    let until = async |count: usize| {
        while checkpoints(&path).len() < count {
            tokio::task::yield_now().await;
        }
    };
    record(2).await;
    writer.tick();
    let (first, _) = SigningKey::make().expect("a key");
    let (second, _) = SigningKey::make().expect("a key");
    let keys = [&first, &second].map(|key| VerifyingKey::read(key.public_pem().as_bytes()).expect("a key"));
    signing.replace(Some(first));
    record(2_100).await;
    assert_eq!(checkpoints(&path), [1_001, 2_002], "without a key there was none; what was before counts");
    // A time, also without a record.
    writer.tick();
    clock.pass(WITHIN);
    writer.tick();
    until(3).await;
    writer.tick();
    clock.pass(WITHIN);
    writer.tick();
    until(4).await;
    assert_eq!(checkpoints(&path), [1_001, 2_002, 2_105, 2_106]);
    // The next file begins with the signature of what was left. A key is replaced.
    record(3).await;
    signing.replace(Some(second));
    std::fs::rename(&path, &moved).expect("moved");
    record(1).await;
    assert_eq!(checkpoints(&path), [1]);
    drop(writer);
    assert_eq!(checkpoints(&path), [1, 3]);
    let shown = metrics.encode(Timestamp::from_unix_seconds(0));
    for series in ["checkpoints_total{sink=\"file\"} 6", "unsigned_records{sink=\"file\"} 0"] {
        assert!(shown.contains(&format!("tokenward_audit_{series}\n")), "{shown}");
    }
    let files = [&path, &moved]
        .map(|path| verify_signed(std::fs::File::open(path).expect("there"), &keys).expect("read"));
    let joined = join_signed(&files, None, &keys);
    assert_eq!(joined.flaws, []);
    assert_eq!(files.iter().flat_map(|file| file.flaws.clone()).collect::<Vec<_>>(), []);
    assert_eq!((joined.signed.checkpoints, joined.signed.unsigned), (6, 0));
    let joined = join_signed(&files, None, &keys[..1]);
    assert_eq!(joined.flaws.len(), 1, "the file's first signature is checked, too: {:?}", joined.flaws);
}

/// A sink in memory that says which threads wrote, and waits where it is told to.
#[derive(Clone, Default)]
struct Quick {
    writers: Arc<Mutex<Vec<String>>>,
    hangs: Arc<AtomicBool>,
}

impl Sink for Quick {
    fn write(&mut self, _lines: &[u8]) -> Result<(), Failed> {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        self.writers.lock().push(name);
        while self.hangs.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn is_quick(&self) -> bool {
        true
    }
}

/// A writer to it. Its clock stands still, so that no write is slow on a busy machine.
fn to_quick(quick: &Quick, is_only: bool, clock: &Arc<Patient>) -> Arc<AuditWriter> {
    let counts = Metrics::new("test").audit_sink("quick", true);
    let (sink, clock) = ((Box::new(quick.clone()) as _, is_only), clock.clone());
    Arc::new(AuditWriter::start(sink, "quick".to_owned(), 64, Arc::default(), clock, counts))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quick_sink_is_written_by_those_who_wait_and_by_its_thread_for_those_who_have_gone() {
    let quick = Quick::default();
    let writer = to_quick(&quick, true, &Arc::default());
    for each in 0..20 {
        let writer = writer.clone();
        let one = async move { writer.record(event(&format!("user-{each}"))).await };
        #[expect(clippy::disallowed_methods, reason = "on a worker, as a request is")]
        let recorded = tokio::spawn(one).await.expect("no panic");
        assert_eq!(recorded, Recorded::Written);
    }
    // (Where the sink's thread happens to look just then, it writes.)
    let by_thread = quick.writers.lock().iter().filter(|name| *name == "audit").count();
    assert!(by_thread < 10, "{:?}", quick.writers.lock());
    drop(writer.record(event("gone")));
    let written = || quick.writers.lock().iter().filter(|name| *name == "audit").count();
    while written() == by_thread {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_several_sinks_is_written_by_its_thread_alone() {
    let quick = Quick::default();
    let writer = to_quick(&quick, false, &Arc::default());
    assert_eq!(writer.record(event("user-1")).await, Recorded::Written);
    assert_eq!(*quick.writers.lock(), ["audit"]);
}

/// The thread that hangs may be the only one that waited for sockets and timers.
#[test]
fn while_a_request_hangs_in_a_write_another_thread_of_the_runtime_is_woken() {
    // (On a busy machine the sink's own thread may be first, and then it is no request that hangs.)
    let is_shown = (0..20).any(|_| a_request_hangs_and_others_are_woken());
    assert!(is_shown, "no request came to write");
}

/// Returns false if it was the sink's own thread that wrote.
fn a_request_hangs_and_others_are_woken() -> bool {
    let woken = Arc::new(AtomicUsize::new(0));
    let counter = woken.clone();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).on_thread_unpark(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let runtime = runtime.build().expect("a runtime");
    let quick = Quick::default();
    quick.hangs.store(true, Ordering::Relaxed);
    let writer = runtime.block_on(async { to_quick(&quick, true, &Arc::default()) });
    let recorded = runtime.spawn(async move { writer.record(event("user-1")).await });
    while quick.writers.lock().is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let is_by_request = quick.writers.lock()[0] != "audit";
    // Nothing else wakes it: there is no timer, no socket and no other task. (The first few may be late.)
    let (mut looks, before) = (0, woken.load(Ordering::Relaxed));
    let is_woken = || woken.load(Ordering::Relaxed) >= before + 8;
    while is_by_request && !is_woken() && looks < 30_000 {
        looks += 1;
        std::thread::sleep(Duration::from_millis(1));
    }
    quick.hangs.store(false, Ordering::Relaxed);
    assert!(!is_by_request || is_woken(), "nobody is woken");
    assert_eq!(runtime.block_on(recorded).expect("no panic"), Recorded::Written);
    is_by_request
}

#[tokio::test]
async fn on_a_single_thread_nobody_waits_within_a_write() {
    let quick = Quick::default();
    let writer = to_quick(&quick, true, &Arc::default());
    assert_eq!(writer.record(event("user-1")).await, Recorded::Written);
    assert_eq!(*quick.writers.lock(), ["audit"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quick_sink_that_hangs_keeps_one_waiting_and_the_others_lose_their_patience() {
    let (quick, clock) = (Quick::default(), Arc::new(Patient::default()));
    let writer = to_quick(&quick, true, &clock);
    quick.hangs.store(true, Ordering::Relaxed);
    let recorded = |name: &'static str| {
        let writer = writer.clone();
        #[expect(clippy::disallowed_methods, reason = "on a worker, as a request is")]
        tokio::spawn(async move { writer.record(event(name)).await })
    };
    let first = recorded("first");
    while quick.writers.lock().is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let second = recorded("second");
    while !second.is_finished() {
        clock.0.notify_waiters();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(second.await.expect("no panic"), Recorded::Lost);
    assert!(writer.is_stuck(), "so nobody writes any more but the sink's thread");
    quick.hangs.store(false, Ordering::Relaxed);
    // (Where the sink's thread happened to look just then, it writes, and the first has patience, too.)
    let is_by_thread = quick.writers.lock()[0] == "audit";
    let expected = if is_by_thread { Recorded::Lost } else { Recorded::Written };
    assert_eq!(first.await.expect("no panic"), expected);
}
