//! A clock that stands still until a test moves it.

use std::time::Duration;

use tokio::sync::watch;

use crate::domain::task::BoxFuture;
use crate::domain::time::{Clock, Timestamp};

/// The clock. Its clones show the same time.
#[derive(Clone)]
pub(crate) struct HandClock(watch::Sender<Duration>);

impl HandClock {
    /// Makes one that shows this monotonic time.
    pub(crate) fn at(time: Duration) -> Self {
        HandClock(watch::Sender::new(time))
    }

    /// Moves it.
    pub(crate) fn pass(&self, time: Duration) {
        self.0.send_modify(|now| *now += time);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_seconds(1_800_000_000).plus(self.monotonic())
    }

    fn monotonic(&self) -> Duration {
        *self.0.borrow()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let (until, mut now) = (self.monotonic() + duration, self.0.subscribe());
        Box::pin(async move {
            let _ = now.wait_for(|now| *now >= until).await;
        })
    }
}
