use std::io;
use std::task::{Context, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::*;
use crate::domain::time::Timestamp;
use crate::telemetry::audit::sink::{Failed, Sink};
use crate::telemetry::audit::{Action, PATIENCE};

/// A clock whose patience ends on demand.
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

/// A clock on which nobody's patience ends.
struct Never;

impl Clock for Never {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_seconds(0)
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

/// Takes everything.
#[derive(Clone, Default)]
struct Takes(Arc<Mutex<Vec<u8>>>);

impl Sink for Takes {
    fn write(&mut self, lines: &[u8]) -> Result<(), Failed> {
        self.0.lock().extend_from_slice(lines);
        Ok(())
    }
}

impl Takes {
    fn count(&self) -> usize {
        self.0.lock().iter().filter(|byte| **byte == b'\n').count()
    }
}

/// Takes what comes once it is let go.
struct Stuck(std::sync::mpsc::Receiver<()>, Takes);

impl Sink for Stuck {
    fn write(&mut self, lines: &[u8]) -> Result<(), Failed> {
        let _ = self.0.recv();
        self.1.write(lines)
    }
}

struct Full;

impl Sink for Full {
    fn write(&mut self, _: &[u8]) -> Result<(), Failed> {
        Err(io::Error::from(io::ErrorKind::StorageFull).into())
    }
}

struct Scene {
    sinks: AuditSinks,
    metrics: Arc<Metrics>,
    patience: Arc<Notify>,
}

/// Only the patience with the first sink can end.
fn scene(sinks: Vec<(&str, Box<dyn Sink>)>) -> Scene {
    let (clock, metrics) = (Arc::new(Patient::default()), Arc::new(Metrics::new("test")));
    let patience = Arc::clone(&clock.0);
    metrics.rename(|names| names.audit_sinks = sinks.iter().map(|(name, _)| (*name).to_owned()).collect());
    let mut clocks = std::iter::once(clock as Arc<dyn Clock>);
    let start = |(name, sink): (&str, Box<dyn Sink>)| {
        let clock = clocks.next().unwrap_or_else(|| Arc::new(Never));
        let counts = metrics.audit_sink(name, false);
        AuditWriter::start((sink, false), name.to_owned(), 8, Arc::default(), clock, counts)
    };
    let writers = sinks.into_iter().map(start).collect();
    Scene { sinks: AuditSinks::of(writers, Arc::clone(&metrics)), metrics, patience }
}

fn event() -> AuditEvent {
    AuditEvent::new(Timestamp::from_unix_seconds(0), Action::Token, "ok")
}

impl Scene {
    fn value(&self, series: &str) -> String {
        let text = self.metrics.encode(Timestamp::from_unix_seconds(0));
        let found = text.lines().find_map(|line| line.strip_prefix(&format!("tokenward_{series} ")));
        found.unwrap_or_else(|| panic!("{series} in {text}")).to_owned()
    }
}

/// Polls as far as it gets.
fn is_ready(recording: &mut BoxFuture<'_, Recorded>) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    (0..4).any(|_| recording.as_mut().poll(&mut context).is_ready())
}

async fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn every_sink_gets_every_record() {
    let (one, other) = (Takes::default(), Takes::default());
    let scene = scene(vec![("one", Box::new(one.clone())), ("other", Box::new(other.clone()))]);
    for each in 1..=20 {
        assert_eq!(scene.sinks.record(event()).await, Recorded::Written);
        assert_eq!((one.count(), other.count()), (each, each), "before it is answered");
    }
    assert_eq!(scene.sinks.note(event()), Noted::Taken);
    until(|| one.count() == 21 && other.count() == 21).await;
    assert_eq!(*one.0.lock(), *other.0.lock());
    until(|| scene.value("audit_records_total{sink=\"other\"}") == "21").await;
    assert_eq!(scene.value("audit_lost_total"), "0");
}

#[tokio::test]
async fn a_stuck_sink_delays_only_who_waits_while_it_gets_stuck() {
    let (go, stuck) = std::sync::mpsc::channel();
    let (late, sound) = (Takes::default(), Takes::default());
    let stuck = Stuck(stuck, late.clone());
    let scene = scene(vec![("stuck", Box::new(stuck)), ("sound", Box::new(sound.clone()))]);
    let mut first = scene.sinks.record(event());
    let is_done = &mut first;
    until(|| !is_ready(is_done) && sound.count() == 1).await;
    assert!(!is_ready(&mut first), "the other sink has its time, too");
    scene.patience.notify_waiters();
    assert_eq!(first.await, Recorded::Written, "one sink has it");

    // Nobody's patience ends from here on. The queue has room for eight; the rest is lost there.
    for _ in 0..20 {
        assert_eq!(scene.sinks.record(event()).await, Recorded::Written);
    }
    assert_eq!((sound.count(), scene.value("audit_lost_total").as_str()), (21, "0"));
    assert_eq!(scene.value("audit_sink_failing{sink=\"stuck\"}"), "1");
    assert_eq!(scene.value("audit_sink_failing{sink=\"sound\"}"), "0");

    drop(go);
    until(|| late.count() > 1 && scene.value("audit_sink_failing{sink=\"stuck\"}") == "0").await;
    assert_eq!(scene.sinks.record(event()).await, Recorded::Written);
    until(|| {
        late.count()
            + scene.value("audit_records_lost_total{sink=\"stuck\"}").parse::<usize>().expect("a number")
            >= 22
    })
    .await;
}

#[tokio::test]
async fn a_full_sink_stops_no_other_and_two_full_ones_lose_the_record() {
    let sound = Takes::default();
    let half = scene(vec![("full", Box::new(Full)), ("sound", Box::new(sound.clone()))]);
    for each in 1..=3 {
        assert_eq!(half.sinks.record(event()).await, Recorded::Written);
        assert_eq!(sound.count(), each);
    }
    assert_eq!(half.value("audit_lost_total"), "0");
    assert_eq!(half.value("audit_records_lost_total{sink=\"full\"}"), "3");
    assert_eq!(half.value("audit_sink_failing{sink=\"full\"}"), "1");

    let full = scene(vec![("full", Box::new(Full)), ("too", Box::new(Full))]);
    assert_eq!(full.sinks.record(event()).await, Recorded::Lost, "and it needs no patience to know");
    assert_eq!(full.value("audit_lost_total"), "1");
}
