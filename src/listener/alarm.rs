//! One sleep for all deadlines of a connection. The hot path (a whole request in one read) leaves it alone:
//! it fires early and is then set anew.

use std::task::Context;
use std::time::Duration;

use crate::domain::task::BoxFuture;
use crate::domain::time::Clock;

/// The sleep.
pub(super) struct Alarm<'a> {
    clock: &'a dyn Clock,
    sleep: Option<(Duration, BoxFuture<'static, ()>)>,
}

impl<'a> Alarm<'a> {
    pub(super) fn new(clock: &'a dyn Clock) -> Self {
        Alarm { clock, sleep: None }
    }

    /// Returns true if the next deadline has come. Otherwise the task is woken by then.
    pub(super) fn rings(&mut self, next: Option<Duration>, cx: &mut Context<'_>) -> bool {
        let Some(due) = next else { return false };
        loop {
            let sleep = match &mut self.sleep {
                Some((until, sleep)) if *until <= due => sleep,
                _ => {
                    let left = due.saturating_sub(self.clock.monotonic());
                    &mut self.sleep.insert((due, self.clock.sleep(left))).1
                }
            };
            if sleep.as_mut().poll(cx).is_pending() {
                return false;
            }
            self.sleep = None;
            if due <= self.clock.monotonic() {
                return true;
            }
        }
    }
}
