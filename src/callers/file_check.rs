//! Checks of files on a mount that may hang. Only one check runs at a time, however often it is requested, so
//! that threads do not pile up. It runs on a thread that serves no requests. Requests wait for it for a
//! limited time, and not at all once one of them has waited in vain.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::domain::time::Clock;
use crate::flight::Flight;

/// One kind of check.
#[derive(Default)]
pub(super) struct FileCheck {
    under_way: Mutex<Option<UnderWay>>,
}

#[derive(Clone)]
struct UnderWay {
    check: Flight<()>,
    /// True if a request has waited for it in vain.
    hangs: Arc<AtomicBool>,
}

/// Outcome of a wait for a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checked {
    /// The check is done, and what is known is up to date.
    Done,
    /// The check still runs, and an earlier request has waited in vain.
    Hangs,
    /// The check still runs, and this request is the first to wait in vain.
    HangsNow,
}

impl FileCheck {
    /// Starts a check, or joins the running one, and waits for it.
    pub(super) async fn run(
        &self,
        clock: &dyn Clock,
        limit: Duration,
        check: impl FnOnce() + Send + 'static,
    ) -> Checked {
        let UnderWay { check, hangs } = self.join(check);
        if hangs.load(Ordering::Relaxed) {
            return Checked::Hangs;
        }
        tokio::select! {
            biased;
            _ended = check.landed() => Checked::Done,
            () = clock.sleep(limit) => match hangs.swap(true, Ordering::Relaxed) {
                true => Checked::Hangs,
                false => Checked::HangsNow,
            },
        }
    }

    fn join(&self, check: impl FnOnce() + Send + 'static) -> UnderWay {
        let mut under_way = self.under_way.lock();
        if let Some(running) = under_way.as_ref().filter(|running| running.check.is_under_way()) {
            return running.clone();
        }
        let (flight, landing) = Flight::new();
        tokio::task::spawn_blocking(move || {
            check();
            landing.land(());
        });
        under_way.insert(UnderWay { check: flight, hangs: Arc::default() }).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc::channel;

    use super::*;
    use crate::system::SystemClock;

    #[tokio::test]
    async fn a_look_that_hangs_holds_up_nobody_for_long_and_is_made_once() {
        let (check, clock, begun) = (FileCheck::default(), SystemClock::new(), Arc::new(AtomicUsize::new(0)));
        let count = |begun: &Arc<AtomicUsize>| {
            let begun = begun.clone();
            move || {
                begun.fetch_add(1, Ordering::SeqCst);
            }
        };
        let long = Duration::from_secs(60);
        assert_eq!(check.run(&clock, long, count(&begun)).await, Checked::Done);
        let (release, hold) = channel::<()>();
        let counted = count(&begun);
        let hangs = move || {
            counted();
            let _released = hold.recv();
        };
        assert_eq!(check.run(&clock, Duration::ZERO, hangs).await, Checked::HangsNow);
        for _ in 0..100 {
            // They return at once, however long their patience.
            assert_eq!(check.run(&clock, long, count(&begun)).await, Checked::Hangs);
        }
        assert!(begun.load(Ordering::SeqCst) <= 2, "{begun:?}");
        drop(release);
        // Once the hanging check ends, a new one starts.
        while check.run(&clock, long, count(&begun)).await != Checked::Done {
            tokio::task::yield_now().await;
        }
        assert_eq!(check.run(&clock, long, count(&begun)).await, Checked::Done);
        assert_eq!(begun.load(Ordering::SeqCst), 4);
    }
}
