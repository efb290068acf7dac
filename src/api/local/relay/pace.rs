//! How slow a caller may be at a mailbox for which other callers wait.
//!
//! A caller that sends its body slowly, or takes its answer slowly, keeps its places meanwhile. Nobody minds,
//! unless others wait for them. Then it has [`FREE`], and a second for each [`A_SECOND`] bytes that passed;
//! the time in which it waited for the resource does not count.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::domain::task::BoxFuture;
use crate::domain::time::Clock;

/// How long a caller may keep its resource waiting in any case.
pub(super) const FREE: Duration = Duration::from_secs(30);
/// How long until it is asked again whether others wait, once the time is over.
const AGAIN: Duration = Duration::from_secs(1);
/// Shortest wait for the end of a caller's time.
const LEAST: Duration = Duration::from_millis(1);
/// How many bytes buy another second.
pub(super) const A_SECOND: u64 = 64 * 1024;

/// The pace of one caller's exchange.
pub(super) struct Pace {
    clock: Arc<dyn Clock>,
    /// Whether others wait for what the exchange holds.
    is_wanted: Box<dyn Fn() -> bool + Send + Sync>,
    spent: Mutex<Spent>,
}

/// What a caller has while it takes its time, for which others may wait.
pub(super) struct Lent<T> {
    what: Arc<Mutex<Option<(T, Duration)>>>,
    /// Its end ends the watch.
    _watched: oneshot::Sender<()>,
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
            spent.left().is_none()
        };
        is_over && (self.is_wanted)()
    }

    /// Completes when the caller, which is waited for since then, is too slow for those who wait.
    pub(super) fn is_over(self: &Arc<Self>, since: Duration) -> BoxFuture<'static, ()> {
        let pace = Arc::clone(self);
        Box::pin(async move {
            while !pace.is_over_now(since) {
                pace.clock.sleep(pace.left(since).unwrap_or(AGAIN)).await;
            }
        })
    }

    /// Whether the caller, which is waited for since then, is too slow for those who wait.
    fn is_over_now(&self, since: Duration) -> bool {
        self.left(since).is_none() && (self.is_wanted)()
    }

    /// How much time the caller has left, of which what has passed since then is not counted yet.
    fn left(&self, since: Duration) -> Option<Duration> {
        let waited = self.now().saturating_sub(since);
        self.spent.lock().left().and_then(|left| left.checked_sub(waited)).map(|left| left.max(LEAST))
    }
}

impl Spent {
    fn left(&self) -> Option<Duration> {
        (FREE + Duration::from_secs(self.bytes / A_SECOND)).checked_sub(self.time)
    }
}

impl<T: Send + 'static> Lent<T> {
    /// Begins with nothing lent, and returns what watches over it. What is lent is dropped when the caller is
    /// too slow.
    pub(super) fn new(pace: Arc<Pace>) -> (Self, BoxFuture<'static, ()>) {
        let (_watched, mut ends) = oneshot::channel();
        let what = Arc::new(Mutex::new(None));
        let watched = Arc::downgrade(&what);
        let watch = async move {
            while let Some(wait) = watched.upgrade().and_then(|lent| still_lent(&pace, &lent)) {
                // (It may be over no sooner than that, whatever is lent meanwhile.)
                tokio::select! {
                    () = pace.clock.sleep(wait) => {}
                    _ = &mut ends => return,
                }
            }
        };
        (Lent { what, _watched }, Box::pin(watch))
    }

    /// Lends this, from now on.
    pub(super) fn lend(&self, what: T, now: Duration) {
        *self.what.lock() = Some((what, now));
    }

    /// Takes it back, unless that is too late.
    pub(super) fn take_back(&self) -> Option<T> {
        self.what.lock().take().map(|(what, _)| what)
    }
}

/// Drops what is lent if the caller is too slow, or returns when to look again.
fn still_lent<T>(pace: &Pace, lent: &Mutex<Option<(T, Duration)>>) -> Option<Duration> {
    let mut lent = lent.lock();
    let since = lent.as_ref().map(|(_, since)| *since);
    if since.is_some_and(|since| pace.is_over_now(since)) {
        let over = lent.take();
        drop(lent);
        drop(over);
        return None;
    }
    Some(pace.left(since.unwrap_or_else(|| pace.now())).unwrap_or(AGAIN))
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
