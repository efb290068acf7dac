//! Waits for changes of a session in this process: long polls, and callbacks that repeat another one.
//!
//! A changed session wakes only its own waiters, so that what one link or caller does costs the others
//! nothing. (Changes by other replicas are found by polling.)

use tokio::sync::watch;

use super::in_use::{InUse, Use};
use crate::domain::id::SessionId;
use crate::repository::FiledUnder;

/// The waiters, by session.
#[derive(Default)]
pub(super) struct SessionWaits(InUse<String, watch::Sender<()>>);

/// A wait for a session, from its creation on.
pub(super) struct Waiting {
    changed: watch::Receiver<()>,
    _of_session: Use<String, watch::Sender<()>>,
}

impl SessionWaits {
    /// Begins a wait: later changes are not missed.
    pub(super) fn begin(&self, session: &SessionId) -> Waiting {
        let session = FiledUnder::session(session).name().to_owned();
        let of_session = self.0.share(session, || watch::Sender::new(()));
        Waiting { changed: of_session.with(watch::Sender::subscribe), _of_session: of_session }
    }

    /// Wakes the waiters of a changed session.
    pub(super) fn wake(&self, session: &SessionId) {
        self.0.with(FiledUnder::session(session).name(), |sender| sender.send_replace(()));
    }

    /// Wakes all waiters.
    pub(super) fn wake_all(&self) {
        self.0.for_each(|sender| sender.send_replace(()));
    }
}

impl Waiting {
    /// Completes when the session has changed since the last call, or since the wait began.
    pub(super) async fn changed(&mut self) {
        // (The sender exists for as long as this waits.)
        let _ = self.changed.changed().await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake, Waker};

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::AcqRel);
        }
    }

    #[test]
    fn a_session_that_changed_wakes_those_who_wait_for_it_and_nobody_else() {
        let waits = SessionWaits::default();
        let id = |number: usize| SessionId::parse(&format!("{number:043}")).expect("an id");
        let woken: Vec<Arc<Count>> = (0..50).map(|_| Arc::new(Count(AtomicUsize::new(0)))).collect();
        let mut waiting: Vec<Waiting> = (0..50).map(|number| waits.begin(&id(number / 2))).collect();
        // (Also before anybody polls.)
        waits.wake(&id(24));
        let mut all: Vec<_> = waiting.iter_mut().map(|one| Box::pin(one.changed())).collect();
        let mut polled = |number: usize| {
            let waker = Waker::from(woken[number].clone());
            all[number].as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
        };
        for number in 0..50 {
            assert_eq!(polled(number), number / 2 == 24, "{number}");
        }
        waits.wake(&id(3));
        for (number, woken) in woken.iter().enumerate().take(48) {
            let is_its = number / 2 == 3;
            assert_eq!(woken.0.load(Ordering::Acquire), usize::from(is_its), "{number}");
            assert_eq!(polled(number), is_its, "{number}");
        }
        waits.wake_all();
        assert!((0..48).filter(|number| number / 2 != 3).all(&mut polled));
        drop(all);
        drop(waiting);
        assert!(waits.0.is_empty(), "nobody waits any more");
        let mut late = waits.begin(&id(1));
        let late = pin!(late.changed());
        assert!(late.poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
}
