//! The right to one call to an authority, with everything that was drawn for it.
//!
//! Budgets give out a [`CallPermit`] and nothing else. The permit goes along with the work. The call spends
//! it. If it is dropped unspent, everything that was drawn for it is given back, however the work ended.

use parking_lot::Mutex;
use std::fmt;

use super::slot::none_is_locked_here;

type Act = Box<dyn FnOnce() + Send>;

/// The right to one call to an authority.
#[must_use = "a permit that is dropped gives back what was drawn for it"]
pub struct CallPermit {
    drawn: Mutex<Vec<Drawn>>,
}

/// The draw from one budget.
struct Drawn {
    give_back: Act,
    spend: Act,
}

impl CallPermit {
    /// A permit from one budget: `give_back` undoes the draw, `spend` runs when the call is made.
    pub(super) fn new(
        give_back: impl FnOnce() + Send + 'static,
        spend: impl FnOnce() + Send + 'static,
    ) -> Self {
        let drawn = Drawn { give_back: Box::new(give_back), spend: Box::new(spend) };
        CallPermit { drawn: Mutex::new(vec![drawn]) }
    }

    /// A permit that does this when it is given back.
    #[cfg(test)]
    pub(crate) fn for_test(give_back: impl FnOnce() + Send + 'static) -> Self {
        CallPermit::new(give_back, || ())
    }

    /// One permit for the same call from both budgets.
    pub(super) fn and(self, other: CallPermit) -> Self {
        let others = other.take();
        self.drawn.lock().extend(others);
        self
    }

    /// The call is made now. A second call of the same work needs no second permit.
    pub fn spend(&self) {
        debug_assert!(none_is_locked_here(), "a permit is spent by a thread that has a slot locked");
        self.take().into_iter().for_each(|drawn| (drawn.spend)());
    }

    fn take(&self) -> Vec<Drawn> {
        std::mem::take(&mut *self.drawn.lock())
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        // Giving back locks a slot. (During a panic nothing is given back.)
        debug_assert!(
            none_is_locked_here() || std::thread::panicking(),
            "a permit is dropped by a thread that has a slot locked"
        );
        self.take().into_iter().for_each(|drawn| (drawn.give_back)());
    }
}

impl fmt::Debug for CallPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallPermit")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A permit of two budgets, and how often they were given back to and spent.
    fn of_two() -> (CallPermit, Arc<[AtomicU32; 2]>) {
        let counts: Arc<[AtomicU32; 2]> = Arc::default();
        let one = || {
            let (back, spent) = (counts.clone(), counts.clone());
            CallPermit::new(
                move || _ = back[0].fetch_add(1, Ordering::AcqRel),
                move || _ = spent[1].fetch_add(1, Ordering::AcqRel),
            )
        };
        (one().and(one()), counts)
    }

    /// In builds that check assertions, so in every test: whichever permit it is, whatever it would give
    /// back.
    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "a permit is dropped by a thread that has a slot locked")]
    fn a_permit_dropped_under_a_slots_lock_is_found() {
        let slot = crate::refresh::slot::Slot::default();
        let permit = CallPermit::for_test(|| ());
        let _state = slot.state();
        drop(permit);
    }

    #[test]
    fn a_call_that_is_not_made_gives_back_everything_and_one_that_is_nothing() {
        let read = |counts: &[AtomicU32; 2]| [0, 1].map(|at| counts[at].load(Ordering::Acquire));
        let (permit, counts) = of_two();
        assert_eq!(read(&counts), [0, 0]);
        drop(permit);
        assert_eq!(read(&counts), [2, 0]);
        let (permit, counts) = of_two();
        permit.spend();
        permit.spend();
        drop(permit);
        assert_eq!(read(&counts), [0, 2]);
    }
}
