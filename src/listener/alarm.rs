//! One sleep for all deadlines of a connection. The hot path (a whole request in one read) leaves it alone:
//! it fires early and is then set anew. It is not even asked until its waker was woken.

use std::task::{Context, Waker};
use std::time::Duration;

use crate::domain::task::BoxFuture;
use crate::domain::time::Clock;

/// The sleep.
pub(super) struct Alarm<'a> {
    clock: &'a dyn Clock,
    sleep: Option<(Duration, BoxFuture<'static, ()>)>,
    /// True if the sleep may be over.
    has_rung: bool,
}

impl<'a> Alarm<'a> {
    pub(super) fn new(clock: &'a dyn Clock) -> Self {
        Alarm { clock, sleep: None, has_rung: false }
    }

    /// Returns true if the next deadline has come. Otherwise the waker is woken by then. `rings`: it has been
    /// woken since the last call.
    pub(super) fn rings(&mut self, next: Option<Duration>, rings: bool, waker: &Waker) -> bool {
        self.has_rung |= rings;
        let Some(due) = next else { return false };
        loop {
            let sleep = match &mut self.sleep {
                Some((until, _)) if *until <= due && !self.has_rung => return false,
                Some((until, sleep)) if *until <= due => sleep,
                _ => {
                    let left = due.saturating_sub(self.clock.monotonic());
                    &mut self.sleep.insert((due, self.clock.sleep(left))).1
                }
            };
            self.has_rung = false;
            if sleep.as_mut().poll(&mut Context::from_waker(waker)).is_pending() {
                return false;
            }
            self.sleep = None;
            if due <= self.clock.monotonic() {
                return true;
            }
        }
    }
}
