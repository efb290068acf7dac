//! A process's clocks in virtual time: its monotonic clock begins with it, and its wall clock may be wrong
//! and may jump.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::tasks::World;
use crate::domain::task::BoxFuture;
use crate::domain::time::{Clock, Timestamp};

/// Wall time at the beginning of every run.
pub(crate) const BEGINNING: i64 = 1_800_000_000_000;

/// Error of a replica's wall clock in milliseconds. It outlives the replica's processes.
pub(crate) type WallError = Arc<AtomicI64>;

/// The clocks of one process.
pub(crate) struct SimClock {
    world: World,
    started: Duration,
    wall_error: WallError,
}

impl SimClock {
    /// Makes the clocks of a process that starts now, on a machine whose wall clock is wrong by `wall_error`.
    pub(crate) fn new(world: World, wall_error: WallError) -> Self {
        SimClock { started: world.now(), world, wall_error }
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let since = i64::try_from(self.world.now().as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_unix_millis(BEGINNING + since + self.wall_error.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        self.world.now().saturating_sub(self.started)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(self.world.sleep(duration))
    }
}
