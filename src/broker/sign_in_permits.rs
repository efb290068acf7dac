//! The permits of callbacks that bring a code: one for a state, however many callbacks of it are looked at at one time.
//!
//! Of all of them one sends its code, and only that one is to cost its caller anything: who repeats a callback must not use up
//! what the other sign-ins of the caller need. Callbacks that come later find the state answered and take nothing.
//!
//! So many are under way for one caller at one time: an authority that hangs holds no more tasks and connections than that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::domain::id::CallerName;
use crate::refresh::CallPermit;
use crate::repository::FiledUnder;

/// States of one caller whose codes are under way at one time: more than come in a moment, and than an authority that answers
/// within seconds lets pile up.
const MOST_UNDER_WAY: usize = 256;

/// That some have to come again is said once in this time: whoever repeats a callback must not write the log.
const SAID_AGAIN: Duration = Duration::from_secs(10);

/// The permits in use.
#[derive(Default)]
pub(super) struct SignInPermits {
    book: Arc<Mutex<Book>>,
}

#[derive(Default)]
struct Book {
    by_state: BTreeMap<String, Weak<CallPermit>>,
    /// How many of these each caller has.
    of_callers: BTreeMap<Option<CallerName>, usize>,
    /// Monotonic time at which the log was last told that some have to come again.
    said_at: Option<Duration>,
}

/// One of those who share the permit of a state.
pub(super) struct SignInPermit {
    state: String,
    caller: Option<CallerName>,
    book: Arc<Mutex<Book>>,
    /// None only while it is dropped.
    permit: Option<Arc<CallPermit>>,
}

impl SignInPermits {
    /// The permit of a state: that of whoever has it already, else what `take` gives. None where the caller that started the
    /// sign-in has too many under way, or where `take` gives none.
    pub(super) fn of_state(
        &self,
        state: &FiledUnder,
        caller: Option<&CallerName>,
        take: impl FnOnce() -> Option<CallPermit>,
    ) -> Option<SignInPermit> {
        let (state, caller) = (state.name().to_owned(), caller.cloned());
        let mut book = lock(&self.book);
        let permit = match book.by_state.get(&state).and_then(Weak::upgrade) {
            Some(permit) => permit,
            None => {
                if book.of_callers.get(&caller).is_some_and(|count| *count >= MOST_UNDER_WAY) {
                    return None;
                }
                let permit = Arc::new(take()?);
                book.by_state.insert(state.clone(), Arc::downgrade(&permit));
                *book.of_callers.entry(caller.clone()).or_default() += 1;
                permit
            }
        };
        Some(SignInPermit { state, caller, book: self.book.clone(), permit: Some(permit) })
    }

    /// Whether it is to be said at `now` (monotonic) that one has to come again.
    pub(super) fn is_to_be_said(&self, now: Duration) -> bool {
        let mut book = lock(&self.book);
        let is_said = book.said_at.is_some_and(|at| now.saturating_sub(at) < SAID_AGAIN);
        if !is_said {
            book.said_at = Some(now);
        }
        !is_said
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
        let mut book = lock(&self.book);
        self.permit = None;
        if book.by_state.get(&self.state).is_some_and(|permit| permit.strong_count() == 0) {
            book.by_state.remove(&self.state);
            let left = book.of_callers.get(&self.caller).copied().unwrap_or_default().saturating_sub(1);
            match left {
                0 => book.of_callers.remove(&self.caller),
                left => book.of_callers.insert(self.caller.clone(), left),
            };
        }
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
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
            let taken = permits.of_state(&state(of), None, || {
                drawn.fetch_add(1, Ordering::AcqRel);
                Some(CallPermit::for_test(move || _ = back.fetch_sub(1, Ordering::AcqRel)))
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
        let book = lock(&permits.book);
        assert!(book.by_state.is_empty() && book.of_callers.is_empty());
    }

    /// The authority answers nobody: a caller's sign-ins hold so much and no more, and another's go on.
    #[test]
    fn so_many_of_one_caller_are_under_way() {
        let permits = SignInPermits::default();
        let (greedy, honest) = (CallerName::parse("greedy").ok(), CallerName::parse("honest").ok());
        let take = |caller: &Option<CallerName>, number: usize| {
            let state = FiledUnder::hash(&SecretHash::of(&number.to_string()));
            permits.of_state(&state, caller.as_ref(), || Some(CallPermit::for_test(|| ())))
        };
        let mut held: Vec<SignInPermit> = (0..1000).filter_map(|number| take(&greedy, number)).collect();
        assert_eq!(held.len(), MOST_UNDER_WAY);
        assert!(take(&greedy, 0).is_some(), "a callback that repeats one of them");
        assert!(take(&honest, 2000).is_some());
        held.pop();
        assert!(take(&greedy, 3000).is_some());
    }

    #[test]
    fn whoever_repeats_what_is_refused_writes_no_log() {
        let permits = SignInPermits::default();
        let said = |millis: std::ops::Range<u64>| {
            millis.filter(|millis| permits.is_to_be_said(Duration::from_millis(*millis))).count()
        };
        assert_eq!((said(0..10_000), said(10_000..30_000)), (1, 2));
    }
}
