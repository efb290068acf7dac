//! How fast grants are tried: at most a rate, slower after the authority or the daemon asked to wait, and
//! faster again as long as it goes well. Pure.

use std::time::Duration;

/// The slowest, in grants a second.
const SLOWEST: f64 = 0.1;
/// How much faster it becomes with each grant that is done.
const FASTER: f64 = 1.02;

/// When the next grant may be tried, in monotonic time.
pub(super) struct Pace {
    /// Grants a second, at most.
    most: f64,
    /// Grants a second, now.
    now: f64,
    next: Duration,
}

impl Pace {
    /// At most so many a second.
    pub(super) fn new(most: f64) -> Self {
        Pace { most, now: most, next: Duration::ZERO }
    }

    /// Returns how long the next grant must still wait.
    pub(super) fn wait(&self, now: Duration) -> Duration {
        self.next.saturating_sub(now)
    }

    /// A grant is tried.
    pub(super) fn tried(&mut self, now: Duration) {
        let gap = Duration::from_secs_f64(1.0 / self.now);
        self.next = self.next.max(now.saturating_sub(gap)) + gap;
    }

    /// One is done.
    pub(super) fn done(&mut self) {
        self.now = (self.now * FASTER).min(self.most);
    }

    /// Somebody asked to wait for so long.
    pub(super) fn slow_down(&mut self, now: Duration, wait: Duration) {
        let until = now.saturating_add(wait);
        // (Those that were under way together ask for the same thing.)
        if until > self.next.saturating_add(Duration::from_millis(500)) {
            self.now = (self.now / 2.0).max(SLOWEST.min(self.most));
        }
        self.next = self.next.max(until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn grants_are_tried_at_a_rate_that_halves_when_somebody_asks_and_comes_back() {
        let mut pace = Pace::new(10.0);
        let mut now = SECOND;
        for _ in 0..100 {
            now += pace.wait(now);
            pace.tried(now);
        }
        assert!((Duration::from_millis(10_700)..Duration::from_millis(11_000)).contains(&now), "{now:?}");
        for _ in 0..8 {
            pace.slow_down(now, Duration::from_secs(7));
        }
        assert_eq!(pace.wait(now), Duration::from_secs(7));
        now += pace.wait(now);
        pace.tried(now);
        assert_eq!(pace.wait(now), Duration::from_millis(200), "half, once for all who were told");
        (0..100).for_each(|_| pace.done());
        pace.tried(now);
        assert!(pace.wait(now) <= Duration::from_millis(300));
        // It never stops, and a low rate stays what it is.
        (0..50).for_each(|turn| pace.slow_down(SECOND * 100 * turn, SECOND));
        assert!(pace.now >= SLOWEST);
        let mut slow = Pace::new(0.05);
        slow.slow_down(now, SECOND);
        assert!((slow.now - 0.05).abs() < f64::EPSILON);
    }
}
