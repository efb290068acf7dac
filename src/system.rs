//! The ports' real implementations: the machine's clocks, its randomness, and tokio's tasks.

use parking_lot::Mutex;
use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom as OsRandom};
use futures_util::FutureExt as _;
use tokio_util::task::TaskTracker;

use crate::domain::random::Random;
use crate::domain::task::{BoxFuture, Tasks};
use crate::domain::time::{Clock, Moment, Timestamp};

/// Two clocks that differ by no more than this agree: an HTTP date has whole seconds, and answers take time.
const AGREES: i64 = 5_000;

/// The machine's clocks. Monotonic time follows tokio's, so that a paused runtime pauses it too.
///
/// Wall time is read once, at the start, and advances with monotonic time: a clock that jumps changes no
/// token's life. Witnesses can correct it ([`Clock::witness`]): the first one at once, since this machine's
/// clock may have been wrong at the start, and later ones only if two in a row agree.
#[derive(Debug, Clone)]
pub struct SystemClock {
    start: tokio::time::Instant,
    /// Wall time at the start, in milliseconds.
    wall: Arc<AtomicI64>,
    /// The difference that the last witness reported, if any; `None` before the first one.
    differed: Arc<Mutex<Option<i64>>>,
}

impl SystemClock {
    /// Makes a clock whose monotonic time begins now.
    #[expect(clippy::disallowed_methods, reason = "this is the port's one implementation")]
    pub fn new() -> Self {
        let now = std::time::SystemTime::now();
        let millis = match now.duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |millis| -millis),
        };
        Self::starting_at(millis)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the port's one implementation")]
    fn starting_at(millis: i64) -> Self {
        SystemClock {
            start: tokio::time::Instant::now(),
            wall: Arc::new(AtomicI64::new(millis)),
            differed: Arc::default(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_millis(self.wall.load(Ordering::Relaxed)).plus(self.monotonic())
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed() + moved::ahead()
    }

    fn moment(&self) -> Moment {
        let monotonic = self.monotonic();
        let now = Timestamp::from_unix_millis(self.wall.load(Ordering::Relaxed)).plus(monotonic);
        Moment { monotonic, now }
    }

    fn witness(&self, at: Timestamp) {
        // Locked so that of two equal reports at the same moment only one is followed.
        let mut differed = self.differed.lock();
        // The date was cut to the second: on average it is half a second later.
        let differs = at.unix_millis().saturating_add(500).saturating_sub(self.now().unix_millis());
        if differs.abs() <= AGREES {
            *differed = Some(0);
            return;
        }
        let confirmed = differed
            .replace(differs)
            .is_none_or(|before| before != 0 && before.abs_diff(differs) <= AGREES.unsigned_abs());
        if confirmed {
            self.wall.fetch_add(differs, Ordering::Relaxed);
            *differed = Some(0);
            tracing::warn!(
                by_seconds = differs / 1000,
                "this machine's clock differs from the authority's, which decides how long tokens live; \
                 tokenward follows the authority's. Set the machine's clock"
            );
        }
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// Moves this process's clocks in tests. A release build lacks it: its clocks are the machine's.
///
/// A test writes into a file how far the clocks are ahead of the machine's, and every reading of a clock
/// reads the file. All processes of a test therefore agree at once, including those that start later. Sleeps
/// are not shortened: a wait for an answer lasts as long as before, and a check made every second sees the
/// new time within a second.
#[cfg(debug_assertions)]
pub mod moved {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::path::Path;
    use std::sync::OnceLock;
    use std::time::Duration;

    /// The environment variable that names the file.
    pub const VARIABLE: &str = "TOKENWARD_TEST_CLOCK";

    static FILE: OnceLock<File> = OnceLock::new();

    /// Follows a file: eight bytes with the milliseconds ahead, little-endian.
    pub fn follow(path: &Path) -> std::io::Result<()> {
        let _only_once = FILE.set(File::open(path)?);
        Ok(())
    }

    /// Writes how far ahead the processes that follow the file are.
    pub fn write(path: &Path, ahead: Duration) -> std::io::Result<()> {
        let millis = u64::try_from(ahead.as_millis()).unwrap_or(u64::MAX);
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        file.write_all_at(&millis.to_le_bytes(), 0)
    }

    pub(super) fn ahead() -> Duration {
        let mut millis = [0; 8];
        let read = FILE.get().map(|file| file.read_exact_at(&mut millis, 0));
        if let Some(Ok(())) = read {
            Duration::from_millis(u64::from_le_bytes(millis))
        } else {
            Duration::ZERO
        }
    }
}

#[cfg(not(debug_assertions))]
mod moved {
    pub(super) const fn ahead() -> std::time::Duration {
        std::time::Duration::ZERO
    }
}

/// The CSPRNG of the crypto provider.
#[derive(Debug, Clone, Default)]
pub struct SystemRandom(OsRandom);

impl SystemRandom {
    /// Makes the provider's generator.
    pub fn new() -> Self {
        SystemRandom(OsRandom::new())
    }
}

impl Random for SystemRandom {
    fn fill(&self, buffer: &mut [u8]) {
        self.0.fill(buffer).expect("the crypto provider aborts rather than give no randomness");
    }
}

/// Tasks on tokio's runtime. It counts them.
#[derive(Debug, Clone, Default)]
pub struct TokioTasks {
    tracker: TaskTracker,
}

impl TokioTasks {
    /// Makes an empty set of tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits until every task has ended, including tasks started meanwhile.
    pub async fn close_and_wait(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Returns the number of running tasks.
    pub fn running(&self) -> usize {
        self.tracker.len()
    }
}

impl Tasks for TokioTasks {
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        self.tracker.spawn(async move {
            // Panics are caught here and not by tokio, because only here is the task's name known.
            if let Err(payload) = AssertUnwindSafe(task).catch_unwind().await {
                tracing::error!(task = name, panic = panic_text(payload.as_ref()), "a task panicked");
            }
        });
    }
}

/// Returns the text of a panic as far as it is safe to show: a literal comes from the code, but a formatted
/// text may contain data.
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

    #[tokio::test]
    async fn a_wrong_clock_is_set_by_those_whose_clock_decides_and_by_nobody_alone() {
        let at = Timestamp::from_unix_seconds;
        let clock = SystemClock::starting_at(at(1_800_000_000).unix_millis());
        let now = || clock.now().unix_seconds();
        clock.witness(at(1_800_003_600));
        assert!((1_800_003_599..1_800_003_610).contains(&now()), "the first one at once: {}", now());
        for _ in 0..3 {
            clock.witness(at(1_900_000_000)); // one witness whose clock is wrong …
            clock.witness(at(1_800_003_600)); // … and is contradicted
        }
        assert!((1_800_003_599..1_800_003_610).contains(&now()), "{}", now());
        clock.witness(at(1_700_000_000));
        clock.witness(at(1_700_000_001));
        assert!((1_700_000_000..1_700_000_010).contains(&now()), "two in a row: {}", now());
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
