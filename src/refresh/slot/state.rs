//! One slot: the memory of a connection, its troubles, and the work under way for it.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::flight::Flights;
use super::hand_outs::HandOuts;
use super::memory::Memory;
use super::trouble::Troubles;
use super::weight::Weight;
use crate::domain::time::Timestamp;
use crate::refresh::due;
use crate::refresh::forced::Forced;

/// The parts of one slot.
#[derive(Default)]
pub(in crate::refresh) struct State {
    pub(in crate::refresh) memory: Memory,
    pub(in crate::refresh) troubles: Troubles,
    /// Renewals that callers forced by reports and challenges.
    pub(in crate::refresh) forced: Forced,
    pub(in crate::refresh) flights: Flights,
    pub(in crate::refresh) usage: Usage,
    pub(in crate::refresh) hand_outs: HandOuts,
}

impl State {
    /// When the cached connection's grant last worked. A failed attempt is about that state.
    pub(in crate::refresh) fn about(&self) -> Option<Timestamp> {
        self.memory.cached().map(|held| held.connection.profile.last_refreshed_at())
    }
}

/// When callers used a connection.
#[derive(Default)]
pub(in crate::refresh) struct Usage {
    /// Monotonic.
    pub(super) last: Duration,
    /// Monotonic time at which the store was told that callers use it.
    noted_at: Option<Duration>,
}

impl Usage {
    /// A caller uses it at `now` (monotonic).
    pub(in crate::refresh) fn at(&mut self, now: Duration) {
        self.last = now;
    }

    /// Whether the store was told lately that callers use it.
    pub(in crate::refresh) fn is_noted(&self, now: Duration) -> bool {
        self.noted_at.is_some_and(|at| now.saturating_sub(at) < due::NOTED_EVERY)
    }

    /// The store is told at `now`. False if it was told lately.
    pub(in crate::refresh) fn note(&mut self, now: Duration) -> bool {
        let is_due = !self.is_noted(now);
        if is_due {
            self.noted_at = Some(now);
        }
        is_due
    }

    /// Whether callers ever used it here.
    pub(in crate::refresh) fn was_noted(&self) -> bool {
        self.noted_at.is_some()
    }
}

/// One connection's slot.
#[derive(Default)]
pub(in crate::refresh) struct Slot {
    state: Mutex<State>,
    /// Wakes those who wait until another replica is done with the connection.
    word: Notify,
    /// Wakes the renewal under way when a request without a permit joins it.
    hurry: Notify,
    /// Counts what may have changed what callers get, and wakes those who watch the connection.
    changes: AtomicU64,
    changed: Notify,
    pub(super) weight: Weight,
}

impl Slot {
    /// An empty one; `weight` is its part of all slots' weight.
    pub(super) fn weighed(weight: Weight) -> Self {
        Slot { weight, ..Slot::default() }
    }

    /// Another replica changed the connection, or gave its lease back: those who wait for that look at once,
    /// and the cached connection is compared with the store before it is served again.
    pub(in crate::refresh) fn tell(&self) {
        self.state().memory.outdated();
        self.word.notify_waiters();
        self.stir();
    }

    /// What callers get of the connection may have changed: those who watch it look again.
    pub(in crate::refresh) fn stir(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    /// How often it was stirred.
    pub(in crate::refresh) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Completes once it was stirred more often than this.
    pub(in crate::refresh) async fn changed_since(&self, seen: u64) {
        let mut changed = std::pin::pin!(self.changed.notified());
        changed.as_mut().enable();
        if self.changes() == seen {
            changed.await;
        }
    }

    /// Completes at the next [`Slot::tell`]. One that comes after this is made and before it is awaited
    /// counts.
    pub(in crate::refresh) fn told(&self) -> Pin<Box<Notified<'_>>> {
        let mut told = Box::pin(self.word.notified());
        told.as_mut().enable();
        told
    }

    /// Somebody who needs no permit joins the renewal under way, if there is one: it waits no longer for what
    /// needs a permit.
    pub(in crate::refresh) fn hurry(&self) {
        let is_under_way = self.state().flights.hurry();
        if is_under_way {
            self.hurry.notify_waiters();
        }
    }

    /// Completes once somebody who needs no permit waits for the renewal under way.
    pub(in crate::refresh) async fn hurried(&self) {
        let mut told = Box::pin(self.hurry.notified());
        told.as_mut().enable();
        if !self.state().flights.is_hurried() {
            told.await;
        }
    }

    /// Its state, locked.
    pub(in crate::refresh) fn state(&self) -> Locked<'_> {
        debug_assert!(none_is_locked_here(), "two slots are locked at once");
        let state = self.state.lock();
        count_locked(|count| count + 1);
        Locked { state }
    }
}

/// A slot's state, locked.
pub(in crate::refresh) struct Locked<'a> {
    state: MutexGuard<'a, State>,
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        count_locked(|count| count - 1);
    }
}

thread_local! {
    /// Slots that this thread has locked; counted in builds that check assertions.
    static LOCKED: Cell<u32> = const { Cell::new(0) };
}

fn count_locked(next: impl FnOnce(u32) -> u32) {
    if cfg!(debug_assertions) {
        LOCKED.set(next(LOCKED.get()));
    }
}

/// Whether this thread has no slot locked, where that is counted. Code that locks a slot, or may do so,
/// asserts it.
pub(in crate::refresh) fn none_is_locked_here() -> bool {
    LOCKED.get() == 0
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;
    use crate::refresh::slot::{Flight, Work};

    #[test]
    fn who_joins_without_a_permit_hurries_the_renewal_under_way_and_no_later_one() {
        let slot = Slot::default();
        let is_hurried = |hurried: &mut Pin<Box<dyn Future<Output = ()> + '_>>| {
            hurried.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
        };
        let now = |slot: &Slot| {
            let mut hurried: Pin<Box<dyn Future<Output = ()> + '_>> = Box::pin(slot.hurried());
            hurried.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
        };
        let start = || slot.state().flights.started(Work::Renewal, Flight::new().0);
        slot.hurry();
        assert!(!now(&slot), "there is none");
        start();
        let mut waits: Pin<Box<dyn Future<Output = ()> + '_>> = Box::pin(slot.hurried());
        assert!(!is_hurried(&mut waits) && !now(&slot));
        slot.hurry();
        assert!(is_hurried(&mut waits) && now(&slot), "who waits already, and who comes to wait");
        slot.state().flights.landed(Work::Read);
        assert!(now(&slot), "another work's end");
        slot.state().flights.landed(Work::Renewal);
        start();
        assert!(!now(&slot), "the next one");
    }
}
