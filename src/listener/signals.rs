//! Signals for which a connection waits all its life, such as a stop. A connection is polled several times
//! for each request, and each time it would ask all of them. So they wake it by a waker of their own, and are
//! asked only after that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use futures_util::task::AtomicWaker;

/// Whether a signal may have come.
pub(super) struct Signals {
    bell: Arc<Bell>,
    /// Wakes by the bell.
    waker: Waker,
}

struct Bell {
    has_rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl Signals {
    /// Nobody has waited for them yet, so they are to be asked.
    pub(super) fn new() -> Self {
        let bell = Arc::new(Bell { has_rung: AtomicBool::new(true), task: AtomicWaker::new() });
        Signals { waker: Waker::from(Arc::clone(&bell)), bell }
    }

    /// Returns true if they are to be asked, with [`Signals::waker`].
    pub(super) fn have_come(&self, cx: &mut Context<'_>) -> bool {
        // A ring uses the registration up, perhaps one that is made while it rings. So each poll makes one,
        // before it looks.
        self.bell.task.register(cx.waker());
        self.bell.has_rung.load(Ordering::Acquire) && self.bell.has_rung.swap(false, Ordering::AcqRel)
    }

    /// The waker for those that are asked.
    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Counts(AtomicUsize);

    impl Wake for Counts {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn they_are_asked_at_first_and_after_each_wake() {
        let (one, other) = (Arc::new(Counts::default()), Arc::new(Counts::default()));
        let [one_waker, other_waker] = [&one, &other].map(|counts| Waker::from(Arc::clone(counts)));
        let signals = Signals::new();
        assert!(signals.have_come(&mut Context::from_waker(&one_waker)));
        assert!(!signals.have_come(&mut Context::from_waker(&one_waker)));
        signals.waker().wake_by_ref();
        assert_eq!(one.0.load(Ordering::SeqCst), 1);
        // The task may have another waker by then.
        assert!(signals.have_come(&mut Context::from_waker(&other_waker)));
        assert!(!signals.have_come(&mut Context::from_waker(&other_waker)));
        signals.waker().wake_by_ref();
        assert_eq!((one.0.load(Ordering::SeqCst), other.0.load(Ordering::SeqCst)), (1, 1));
        assert!(signals.have_come(&mut Context::from_waker(&other_waker)));
        assert!(!signals.have_come(&mut Context::from_waker(&other_waker)));
        signals.waker().wake_by_ref();
        signals.waker().wake_by_ref();
        assert_eq!(other.0.load(Ordering::SeqCst), 2, "one wake is enough");
        assert!(signals.have_come(&mut Context::from_waker(&other_waker)));
    }
}
