//! Looks at files that may be on a mount which hangs. One look is under way at a time, however often it is asked for, so that no threads
//! pile up; it is done on a thread that serves nobody; and whoever asks waits for a while only, or not at all where somebody has
//! waited in vain before.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::domain::time::Clock;

/// One kind of look.
#[derive(Default)]
pub(super) struct Looking {
    under_way: Mutex<Option<UnderWay>>,
}

#[derive(Clone)]
struct UnderWay {
    /// Its sender is gone when the look has ended.
    ended: watch::Receiver<()>,
    /// Whether somebody has waited for it in vain.
    hangs: Arc<AtomicBool>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Looked {
    /// It has been done; what is known is what is there.
    Done,
    /// It is still under way, as it was when somebody asked before.
    Hangs,
    /// The same, for the first time.
    HangsNow,
}

impl Looking {
    /// Has a look done, or waits for the one that is under way.
    pub(super) async fn look(
        &self,
        clock: &dyn Clock,
        limit: Duration,
        look: impl FnOnce() + Send + 'static,
    ) -> Looked {
        let UnderWay { mut ended, hangs } = self.join(look);
        if hangs.load(Ordering::Relaxed) {
            return Looked::Hangs;
        }
        tokio::select! {
            biased;
            _gone = ended.changed() => Looked::Done,
            () = clock.sleep(limit) => match hangs.swap(true, Ordering::Relaxed) {
                true => Looked::Hangs,
                false => Looked::HangsNow,
            },
        }
    }

    fn join(&self, look: impl FnOnce() + Send + 'static) -> UnderWay {
        let mut under_way = self.under_way.lock();
        match &*under_way {
            Some(running) if running.ended.has_changed().is_ok() => running.clone(),
            _ => {
                let (ends, ended) = watch::channel(());
                tokio::task::spawn_blocking(move || {
                    let _ends = ends;
                    look();
                });
                under_way.insert(UnderWay { ended, hangs: Arc::default() }).clone()
            }
        }
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
        let (looking, clock, begun) = (Looking::default(), SystemClock::new(), Arc::new(AtomicUsize::new(0)));
        let count = |begun: &Arc<AtomicUsize>| {
            let begun = begun.clone();
            move || {
                begun.fetch_add(1, Ordering::SeqCst);
            }
        };
        let long = Duration::from_secs(60);
        assert_eq!(looking.look(&clock, long, count(&begun)).await, Looked::Done);
        let (release, hold) = channel::<()>();
        let counted = count(&begun);
        let hangs = move || {
            counted();
            let _released = hold.recv();
        };
        assert_eq!(looking.look(&clock, Duration::ZERO, hangs).await, Looked::HangsNow);
        for _ in 0..100 {
            // However long they would wait.
            assert_eq!(looking.look(&clock, long, count(&begun)).await, Looked::Hangs);
        }
        assert!(begun.load(Ordering::SeqCst) <= 2, "{begun:?}");
        drop(release);
        // Once the one that hung has ended, another one is made.
        while looking.look(&clock, long, count(&begun)).await != Looked::Done {
            tokio::task::yield_now().await;
        }
        assert_eq!(looking.look(&clock, long, count(&begun)).await, Looked::Done);
        assert_eq!(begun.load(Ordering::SeqCst), 4);
    }
}
