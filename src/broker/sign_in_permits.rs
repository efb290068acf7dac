//! Permits of callbacks with a code: one for each state, shared by all its concurrent callbacks.
//!
//! Only one callback of a state sends its code, and only that one uses up a part of the caller's budget:
//! repeated callbacks must not use up what the caller's other sign-ins need. Later callbacks find the state
//! answered and need no permit.
//!
//! The number under way is limited for each caller and for all callers, so that a hanging authority holds
//! only so many tasks and connections. Each caller has a few places that others never take.

use super::in_use::{InUse, Use};
use crate::domain::id::CallerName;
use crate::refresh::CallPermit;
use crate::repository::FiledUnder;

/// Most states of one caller with codes under way: more than come in a moment, and more than pile up while
/// the authority answers within seconds.
const MOST_UNDER_WAY: usize = 256;
/// Most of all callers together …
const MOST_SHARED: usize = 2048;
/// … in addition to this many of each configured caller's own.
const MOST_OWN: usize = 8;

/// The permits in use.
#[derive(Default)]
pub(super) struct SignInPermits {
    of_states: InUse<String, UnderWay>,
    /// Each state under way shares its caller's entry.
    of_callers: InUse<Option<CallerName>, ()>,
    /// Each state under way has one of its caller's own places, or one of the common places.
    own: InUse<Option<CallerName>, ()>,
    shared: InUse<(), ()>,
}

/// A state whose code is under way.
struct UnderWay {
    permit: CallPermit,
    _of_caller: Use<Option<CallerName>, ()>,
    _place: Capacity,
}

/// The capacity that a state under way takes, given back with it.
enum Capacity {
    Own { _place: Use<Option<CallerName>, ()> },
    Shared { _place: Use<(), ()> },
}

/// A share of a state's permit.
pub(super) struct SignInPermit(Use<String, UnderWay>);

impl SignInPermits {
    /// Returns the permit of a state: the existing one, or one with the token from `take`. `None` if the
    /// sign-in's caller, or all callers, have too many under way, or if `take` returns none.
    pub(super) fn of_state(
        &self,
        state: &FiledUnder,
        caller: Option<&CallerName>,
        take: impl FnOnce() -> Option<CallPermit>,
    ) -> Option<SignInPermit> {
        let begin = || {
            let _of_caller = self.of_callers.try_share(caller.cloned(), MOST_UNDER_WAY, || Some(()))?;
            let _place = self.place(caller)?;
            Some(UnderWay { permit: take()?, _of_caller, _place })
        };
        self.of_states.try_share(state.name().to_owned(), usize::MAX, begin).map(SignInPermit)
    }

    fn place(&self, caller: Option<&CallerName>) -> Option<Capacity> {
        let own = self.own.try_share(caller.cloned(), MOST_OWN, || Some(()));
        own.map(|_place| Capacity::Own { _place }).or_else(|| {
            let shared = self.shared.try_share((), MOST_SHARED, || Some(()));
            shared.map(|_place| Capacity::Shared { _place })
        })
    }
}

impl SignInPermit {
    /// Records that the code is sent.
    pub(super) fn spend(&self) {
        self.0.with(|under_way| under_way.permit.spend());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
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
        assert!(permits.of_states.is_empty() && permits.of_callers.is_empty());
    }

    /// The authority answers nobody: a caller's sign-ins hold a limited number, and another caller's go on.
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

    /// All callers together hold a limited number, however many there are, and each has a few places of its
    /// own.
    #[test]
    fn so_many_of_all_callers_are_under_way_and_each_has_a_few() {
        let permits = SignInPermits::default();
        let caller = |number: usize| CallerName::parse(&format!("caller-{number}")).ok();
        let take = |caller: &Option<CallerName>, number: usize| {
            let state = FiledUnder::hash(&SecretHash::of(&number.to_string()));
            permits.of_state(&state, caller.as_ref(), || Some(CallPermit::for_test(|| ())))
        };
        const CALLERS: usize = 50;
        let mut held: Vec<SignInPermit> =
            (0..CALLERS * 300).filter_map(|number| take(&caller(number / 300), number)).collect();
        assert_eq!(held.len(), MOST_SHARED + CALLERS * MOST_OWN);
        let late = caller(CALLERS);
        let of_late: Vec<_> = (0..100).filter_map(|number| take(&late, 100_000 + number)).collect();
        assert_eq!(of_late.len(), MOST_OWN, "who comes late has places, too");
        drop(of_late);
        held.clear();
        assert!(permits.own.is_empty() && permits.shared.is_empty() && permits.of_callers.is_empty());
    }
}
