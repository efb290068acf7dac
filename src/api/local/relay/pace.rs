//! How slow a caller may be at a mailbox for which other callers wait.
//!
//! A caller that sends its body slowly, or takes its answer slowly, keeps its places meanwhile. Nobody minds,
//! unless others wait for them. Then it has [`FREE`], and a second for each [`A_SECOND`] bytes that passed;
//! the time in which it waited for the resource does not count.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::domain::time::Clock;

/// How long a caller may keep its resource waiting in any case.
pub(super) const FREE: Duration = Duration::from_secs(30);
/// How many bytes buy another second.
pub(super) const A_SECOND: u64 = 64 * 1024;

/// The pace of one caller's exchange.
pub(super) struct Pace {
    clock: Arc<dyn Clock>,
    /// Whether others wait for what the exchange holds.
    is_wanted: Box<dyn Fn() -> bool + Send + Sync>,
    spent: Mutex<Spent>,
}

#[derive(Default)]
struct Spent {
    /// How long the caller was waited for.
    time: Duration,
    /// Bytes of both bodies.
    bytes: u64,
}

impl Pace {
    /// Begins an exchange.
    pub(super) fn new(clock: Arc<dyn Clock>, is_wanted: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Pace { clock, is_wanted: Box::new(is_wanted), spent: Mutex::default() }
    }

    /// Returns the time now (monotonic), from which a wait for the caller is counted.
    pub(super) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// Counts bytes that passed.
    pub(super) fn passed(&self, bytes: usize) {
        let mut spent = self.spent.lock();
        spent.bytes = spent.bytes.saturating_add(bytes as u64);
    }

    /// Counts bytes that passed, for which the caller was waited for since then. True if it is too slow for
    /// those who wait.
    pub(super) fn is_too_slow(&self, since: Option<Duration>, bytes: usize) -> bool {
        self.passed(bytes);
        let is_over = {
            let mut spent = self.spent.lock();
            let waited = since.map_or(Duration::ZERO, |since| self.now().saturating_sub(since));
            spent.time = spent.time.saturating_add(waited);
            spent.time > FREE + Duration::from_secs(spent.bytes / A_SECOND)
        };
        is_over && (self.is_wanted)()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::testkit::hand_clock::HandClock;

    #[test]
    fn a_slow_caller_has_its_time_and_more_for_what_passed() {
        let (clock, wanted) = (HandClock::at(Duration::ZERO), Arc::new(AtomicBool::new(true)));
        let pace = {
            let wanted = Arc::clone(&wanted);
            Pace::new(Arc::new(clock.clone()), move || wanted.load(Ordering::Relaxed))
        };
        let waits = |time: Duration, bytes: usize| {
            let since = pace.now();
            clock.pass(time);
            pace.is_too_slow(Some(since), bytes)
        };
        assert!(!waits(FREE, 0));
        // A mebibyte buys sixteen seconds.
        assert!(!waits(Duration::ZERO, 1024 * 1024));
        assert!(!waits(Duration::from_secs(16), 0));
        // (Nobody waits for the caller while the resource thinks.)
        clock.pass(Duration::from_secs(3600));
        assert!(!pace.is_too_slow(None, 0));
        wanted.store(false, Ordering::Relaxed);
        assert!(!waits(Duration::from_secs(1), 0), "nobody else wants the places");
        wanted.store(true, Ordering::Relaxed);
        assert!(pace.is_too_slow(None, 0));
    }
}
