//! Who waits for news of a session, in this process: long polls, and callbacks that repeat another one.
//!
//! A session that changed wakes those who wait for it and nobody else: what one link or caller does costs nothing for each of
//! the others that wait. (What another replica changed is found by looking now and then.)

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::domain::id::SessionId;
use crate::repository::FiledUnder;

type BySession = BTreeMap<String, watch::Sender<()>>;

/// Those who wait, by session.
#[derive(Default)]
pub(super) struct SessionWaits {
    by_session: Arc<Mutex<BySession>>,
}

/// Somebody who waits for a session, from when this was made.
pub(super) struct Waiting {
    session: String,
    by_session: Arc<Mutex<BySession>>,
    /// None only while it is dropped.
    changed: Option<watch::Receiver<()>>,
}

impl SessionWaits {
    /// Begins to wait: what changes from now on is not missed.
    pub(super) fn begin(&self, session: &SessionId) -> Waiting {
        let session = FiledUnder::session(session).name().to_owned();
        let mut by_session = lock(&self.by_session);
        let sender = by_session.entry(session.clone()).or_insert_with(|| watch::Sender::new(()));
        let changed = Some(sender.subscribe());
        Waiting { session, by_session: self.by_session.clone(), changed }
    }

    /// A session changed.
    pub(super) fn wake(&self, session: &SessionId) {
        if let Some(sender) = lock(&self.by_session).get(FiledUnder::session(session).name()) {
            sender.send_replace(());
        }
    }

    /// Everybody is to look again.
    pub(super) fn wake_all(&self) {
        for sender in lock(&self.by_session).values() {
            sender.send_replace(());
        }
    }
}

impl Waiting {
    /// Completes when the session changed since this was last asked, or since it began.
    pub(super) async fn changed(&mut self) {
        if let Some(changed) = &mut self.changed {
            // (The sender is there for as long as this waits.)
            let _ = changed.changed().await;
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Under the lock, so that nobody begins to wait between the last one's end and the session's being forgotten.
        let mut by_session = lock(&self.by_session);
        self.changed = None;
        if by_session.get(&self.session).is_some_and(|sender| sender.receiver_count() == 0) {
            by_session.remove(&self.session);
        }
    }
}

fn lock(by_session: &Mutex<BySession>) -> MutexGuard<'_, BySession> {
    by_session.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
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
        // (Before anybody polls, too.)
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
        assert!(lock(&waits.by_session).is_empty(), "nobody waits any more");
        let mut late = waits.begin(&id(1));
        let late = pin!(late.changed());
        assert!(late.poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
}
