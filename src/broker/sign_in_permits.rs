//! The permits of callbacks that bring a code: one for a state, however many callbacks of it are looked at at one time.
//!
//! Of all of them one sends its code, and only that one is to cost its caller anything: who repeats a callback must not use up
//! what the other sign-ins of the caller need. Callbacks that come later find the state answered and take nothing.
//!
//! So many are under way for one caller at one time, and so many for all callers: an authority that hangs holds no more tasks
//! and connections than that. A few of each caller's have a place that the others' never take.

use super::in_use::{InUse, Use};
use crate::domain::id::CallerName;
use crate::refresh::CallPermit;
use crate::repository::FiledUnder;

/// States of one caller whose codes are under way at one time: more than come in a moment, and than an authority that answers
/// within seconds lets pile up.
const MOST_UNDER_WAY: usize = 256;
/// The same of all callers together …
const MOST_SHARED: usize = 2048;
/// … beside so many of each caller's own, of which there are no more than configured ones.
const MOST_OWN: usize = 8;

/// The permits in use.
#[derive(Default)]
pub(super) struct SignInPermits {
    of_states: InUse<String, UnderWay>,
    /// Each state under way is one of those who share its caller.
    of_callers: InUse<Option<CallerName>, ()>,
    /// Each state under way has one of its caller's own places, or else one of those that all share.
    own: InUse<Option<CallerName>, ()>,
    shared: InUse<(), ()>,
}

/// A state whose code is under way.
struct UnderWay {
    permit: CallPermit,
    _of_caller: Use<Option<CallerName>, ()>,
    _place: Place,
}

/// Where a state under way has its place; it is given back with it.
enum Place {
    Own { _place: Use<Option<CallerName>, ()> },
    Shared { _place: Use<(), ()> },
}

/// One of those who share the permit of a state.
pub(super) struct SignInPermit(Use<String, UnderWay>);

impl SignInPermits {
    /// The permit of a state: that of whoever has it already, else what `take` gives. None where the caller that started the
    /// sign-in, or all of them, have too many under way, or where `take` gives none.
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

    fn place(&self, caller: Option<&CallerName>) -> Option<Place> {
        let own = self.own.try_share(caller.cloned(), MOST_OWN, || Some(()));
        own.map(|_place| Place::Own { _place }).or_else(|| {
            let shared = self.shared.try_share((), MOST_SHARED, || Some(()));
            shared.map(|_place| Place::Shared { _place })
        })
    }
}

impl SignInPermit {
    /// The code is sent.
    pub(super) fn spend(&self) {
        self.0.look(|under_way| under_way.permit.spend());
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

    /// However many callers there are: all of them hold so much together, and each has a few places of its own.
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
