//! The real world behind the ports: the machine's clocks, its randomness, and tokio's tasks.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom as OsRandom};
use tokio_util::task::TaskTracker;

use crate::domain::random::Random;
use crate::domain::task::{BoxFuture, Tasks};
use crate::domain::time::{Clock, Timestamp};

/// The machine's clocks. Monotonic time follows tokio's, so that a paused runtime pauses it too.
#[derive(Debug, Clone)]
pub struct SystemClock {
    start: tokio::time::Instant,
}

impl SystemClock {
    /// A clock whose monotonic time begins now.
    #[expect(clippy::disallowed_methods, reason = "this is the port's one implementation")]
    pub fn new() -> Self {
        SystemClock { start: tokio::time::Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the port's one implementation")]
    fn now(&self) -> Timestamp {
        let now = std::time::SystemTime::now();
        let millis = match now.duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |millis| -millis),
        };
        Timestamp::from_unix_millis(millis)
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// The CSPRNG of the crypto provider.
#[derive(Debug, Clone, Default)]
pub struct SystemRandom(OsRandom);

impl SystemRandom {
    /// The provider's generator.
    pub fn new() -> Self {
        SystemRandom(OsRandom::new())
    }
}

impl Random for SystemRandom {
    fn fill(&self, buffer: &mut [u8]) {
        self.0.fill(buffer).expect("the crypto provider aborts rather than give no randomness");
    }
}

/// Tasks on tokio's runtime, all of them counted.
#[derive(Debug, Clone, Default)]
pub struct TokioTasks {
    tracker: TaskTracker,
}

impl TokioTasks {
    /// No tasks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits until every task has ended. Tasks may still be started while it waits; they are waited for too.
    pub async fn close_and_wait(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// How many tasks run.
    pub fn running(&self) -> usize {
        self.tracker.len()
    }
}

impl Tasks for TokioTasks {
    fn spawn(&self, name: &'static str, mut task: BoxFuture<'static, ()>) {
        self.tracker.spawn(async move {
            // Caught here and not by tokio, because only here is the task's name known.
            let ended = std::future::poll_fn(move |cx| {
                match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(cx))) {
                    Ok(Poll::Pending) => Poll::Pending,
                    Ok(Poll::Ready(())) => Poll::Ready(Ok(())),
                    Err(payload) => Poll::Ready(Err(payload)),
                }
            });
            if let Err(payload) = ended.await {
                tracing::error!(task = name, panic = panic_text(payload.as_ref()), "a task panicked");
            }
        });
    }
}

/// The text of a panic as far as it is safe to show: a literal is the programmer's, a formatted one may
/// carry data.
pub fn panic_text(payload: &(dyn Any + Send)) -> &'static str {
    payload.downcast_ref::<&'static str>().copied().unwrap_or("(formatted message withheld)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::random::random_token;

    #[tokio::test]
    async fn sleeping_moves_monotonic_time() {
        let clock = SystemClock::new();
        clock.sleep(Duration::from_millis(20)).await;
        assert!(clock.monotonic() >= Duration::from_millis(20));
        assert!(clock.now() > Timestamp::from_unix_seconds(1_700_000_000));
    }

    #[test]
    fn random_is_not_constant() {
        let random = SystemRandom::new();
        assert_ne!(random_token(&random), random_token(&random));
    }

    #[tokio::test]
    async fn a_panicking_task_ends_alone_and_the_wait_sees_every_task() {
        let tasks = TokioTasks::new();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        tasks.spawn("bad", Box::pin(async { panic!("a literal") }));
        let inner = tasks.clone();
        tasks.spawn(
            "good",
            Box::pin(async move {
                tokio::task::yield_now().await;
                inner.spawn("late", Box::pin(async move { sender.send(7).expect("still awaited") }));
            }),
        );
        tasks.close_and_wait().await;
        assert_eq!(receiver.await, Ok(7));
        assert_eq!(tasks.running(), 0);
    }

    #[test]
    fn only_literal_panic_texts_are_shown() {
        assert_eq!(panic_text(&"literal"), "literal");
        assert_eq!(panic_text(&format!("token {}", "x")), "(formatted message withheld)");
    }
}
