//! Looks at files that may be on a mount which hangs. One look is under way at a time, however often it is asked for, so that no threads
//! pile up; and whoever asks waits for a while only.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::domain::time::Clock;

/// One kind of look.
#[derive(Default)]
pub(super) struct Looking {
    under_way: Mutex<UnderWay>,
}

#[derive(Default)]
struct UnderWay {
    look: Option<JoinHandle<()>>,
    /// Whether somebody has waited for it in vain.
    hangs: bool,
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
    /// Has a look done on a thread that serves nobody, or waits for the one that is under way.
    pub(super) async fn look(
        &self,
        clock: &dyn Clock,
        limit: Duration,
        look: impl FnOnce() + Send + 'static,
    ) -> Looked {
        let mut under_way = self.under_way.lock().await;
        if under_way.look.as_ref().is_some_and(JoinHandle::is_finished) {
            *under_way = UnderWay::default();
        }
        let UnderWay { look: running, hangs } = &mut *under_way;
        let running = running.get_or_insert_with(|| tokio::task::spawn_blocking(look));
        tokio::select! {
            biased;
            // (It does not panic; what was known before would stay so.)
            _done = running => {}
            () = clock.sleep(limit) => {
                return if std::mem::replace(hangs, true) { Looked::Hangs } else { Looked::HangsNow };
            }
        }
        *under_way = UnderWay::default();
        Looked::Done
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
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
            assert_eq!(looking.look(&clock, Duration::ZERO, count(&begun)).await, Looked::Hangs);
        }
        drop(release);
        // The one that hung is waited for, or another one is made where it has ended: either way it is done.
        assert_eq!(looking.look(&clock, long, count(&begun)).await, Looked::Done);
        assert_eq!(looking.look(&clock, long, count(&begun)).await, Looked::Done);
        assert!((3..=4).contains(&begun.load(Ordering::SeqCst)), "{begun:?}");
    }
}
