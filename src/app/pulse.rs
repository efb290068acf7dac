//! The store's pulse: whether it answers, for readiness, metrics, `status` and the log.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::in_force::InForce;
use super::jobs::{Ended, Work};
use super::process::{Ports, Process};
use super::silence::Silence;
use crate::domain::time::{Clock, Timestamp};
use crate::lifecycle::{Latch, Readiness};
use crate::store::Store;
use crate::telemetry::metrics::Metrics;

/// How often the store is pinged …
pub(super) const PING: Duration = Duration::from_secs(2);
/// … and how often before it has answered for the first time.
const FIRST_PING: Duration = Duration::from_millis(200);

/// When the store last answered.
pub(super) struct Seen(Mutex<SeenState>);

struct SeenState {
    answered_at: Timestamp,
    is_lost: bool,
}

impl Seen {
    /// Starts now.
    pub(super) fn from(now: Timestamp) -> Self {
        Seen(Mutex::new(SeenState { answered_at: now, is_lost: false }))
    }

    /// Since when the store does not answer. `None` while it answers.
    pub(super) fn lost(&self) -> Option<Timestamp> {
        let state = self.0.lock();
        state.is_lost.then_some(state.answered_at)
    }

    /// Notes whether it answers now.
    fn looked(&self, answers: bool, now: Timestamp) {
        let mut state = self.0.lock();
        state.is_lost = !answers;
        if answers {
            state.answered_at = now;
        }
    }
}

/// Pings the store.
pub(super) struct Pulse {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    seen: Arc<Seen>,
    /// Monotonic time of its last answer, in milliseconds; `i64::MIN` before the first.
    answered_at: Arc<AtomicI64>,
    silence: Silence,
    /// Released with the first answer.
    latch: Option<Latch>,
}

impl Pulse {
    /// The daemon is ready from the store's first answer, and not ready once the last one is older than a
    /// lost store may be bridged.
    pub(super) fn new(
        process: &Process,
        store: Arc<dyn Store>,
        latch: Latch,
        seen: Arc<Seen>,
        in_force: Arc<InForce>,
    ) -> Self {
        let Process { ports: Ports { clock, .. }, metrics, readiness, .. } = process.clone();
        let answered_at = Arc::new(AtomicI64::new(i64::MIN));
        let (last, now) = (answered_at.clone(), clock.clone());
        readiness.condition("store", move || {
            let last = last.load(Ordering::Relaxed);
            let lost_for = millis(now.as_ref()).saturating_sub(last);
            let lost_after = in_force.config().store.serve_cached_for;
            last == i64::MIN || u128::try_from(lost_for).unwrap_or(0) <= lost_after.as_millis()
        });
        let (silence, latch) = (Silence::default(), Some(latch));
        Pulse { store, clock, metrics, readiness, seen, answered_at, silence, latch }
    }
}

impl Work for Pulse {
    async fn run(&mut self) -> Ended {
        let answered = self.store.ping().await;
        self.metrics.store_reachable(answered.is_ok());
        self.seen.looked(answered.is_ok(), self.clock.now());
        match answered {
            Ok(()) => {
                self.readiness.note("store", None);
                if let Some(failures) = self.silence.answered() {
                    tracing::info!(failures, "the store answers again");
                }
                self.answered_at.store(millis(self.clock.as_ref()), Ordering::Relaxed);
                if let Some(latch) = self.latch.take() {
                    latch.release();
                }
                Ok(())
            }
            Err(error) => {
                let cause = error.to_string();
                self.readiness.note("store", Some(&cause));
                if let Some(failures) = self.silence.failed(&cause, self.clock.monotonic()) {
                    tracing::warn!(error = cause, failures, "the store does not answer");
                }
                Err(cause)
            }
        }
    }

    fn pause(&self) -> Option<Duration> {
        self.latch.is_some().then_some(FIRST_PING)
    }
}

fn millis(clock: &dyn Clock) -> i64 {
    i64::try_from(clock.monotonic().as_millis()).unwrap_or(i64::MAX)
}
