//! The permits of callbacks that bring a code: one for a state, however many callbacks of it are looked at at one time.
//!
//! Of all of them one sends its code, and only that one is to cost its caller anything: who repeats a callback must not use up
//! what the other sign-ins of the caller need. Callbacks that come later find the state answered and take nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::refresh::CallPermit;
use crate::repository::FiledUnder;

type ByState = BTreeMap<String, Weak<CallPermit>>;

/// The permits in use, by state.
#[derive(Default)]
pub(super) struct SignInPermits {
    by_state: Arc<Mutex<ByState>>,
}

/// One of those who share the permit of a state.
pub(super) struct SignInPermit {
    state: String,
    by_state: Arc<Mutex<ByState>>,
    /// None only while it is dropped.
    permit: Option<Arc<CallPermit>>,
}

impl SignInPermits {
    /// The permit of a state: that of whoever has it already, else what `take` gives.
    pub(super) fn of_state<E>(
        &self,
        state: &FiledUnder,
        take: impl FnOnce() -> Result<CallPermit, E>,
    ) -> Result<SignInPermit, E> {
        let mut by_state = lock(&self.by_state);
        let state = state.name().to_owned();
        let permit = match by_state.get(&state).and_then(Weak::upgrade) {
            Some(permit) => permit,
            None => {
                let permit = Arc::new(take()?);
                by_state.insert(state.clone(), Arc::downgrade(&permit));
                permit
            }
        };
        Ok(SignInPermit { state, by_state: self.by_state.clone(), permit: Some(permit) })
    }
}

impl SignInPermit {
    /// The code is sent.
    pub(super) fn spend(&self) {
        if let Some(permit) = &self.permit {
            permit.spend();
        }
    }
}

impl Drop for SignInPermit {
    fn drop(&mut self) {
        // Under the lock, so that nobody takes another one between the last one's end and its being forgotten.
        let mut by_state = lock(&self.by_state);
        self.permit = None;
        if by_state.get(&self.state).is_some_and(|permit| permit.strong_count() == 0) {
            by_state.remove(&self.state);
        }
    }
}

fn lock(by_state: &Mutex<ByState>) -> MutexGuard<'_, ByState> {
    by_state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI32, Ordering};

    use super::*;
    use crate::repository::SecretHash;

    #[test]
    fn callbacks_of_one_state_share_a_permit_and_only_a_call_costs_one() {
        let drawn: Arc<AtomicI32> = Arc::default();
        let permits = SignInPermits::default();
        let state = |text: &str| FiledUnder::hash(&SecretHash::of(text));
        let one = |of: &str| {
            let back = drawn.clone();
            let taken = permits.of_state(&state(of), || {
                drawn.fetch_add(1, Ordering::AcqRel);
                Ok::<_, ()>(CallPermit::for_test(move || _ = back.fetch_sub(1, Ordering::AcqRel)))
            });
            taken.expect("a permit")
        };
        let count = || drawn.load(Ordering::Acquire);
        let repeated: Vec<SignInPermit> = (0..100).map(|_| one("a")).collect();
        let other = one("b");
        assert_eq!(count(), 2);
        drop(repeated);
        assert_eq!(count(), 1, "none of them made a call");
        other.spend();
        drop(other);
        assert_eq!(count(), 1, "this one did");
        assert!(lock(&permits.by_state).is_empty());
    }
}
