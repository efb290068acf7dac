//! Jobs: what the daemon does at intervals beside the requests. [`Jobs::every`] is the only timer loop of this room, and
//! remembers of each job when it last ran and how that ended.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::api::upkeep::{JobReport, LastRun};
use crate::domain::task::Tasks;
use crate::domain::time::Clock;
use crate::lifecycle::Shutdown;
use crate::repository::RepositoryError;
use crate::system::TokioTasks;
use crate::telemetry::metrics::Metrics;

/// Every job, in the order in which they start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Job {
    /// Asks the store whether it is there.
    StorePing,
    /// Offers the store the answers that it has not taken.
    UnstoredAnswers,
    /// Writes the sums of events that were too many to be told one by one.
    EventSums,
    /// Takes up what an operator revoked on another replica.
    Revocations,
    /// Remembers which hosts secrets may be sent to.
    TokenHosts,
    /// Proves client credentials and shows them.
    ClientCredentials,
    /// Reads configuration and files again once they have changed.
    Files,
    /// Takes up what changes in the keyring's source.
    Keyring,
    /// Tells the other replicas that this one is there.
    ReplicaReport,
    /// Counts what each sealing key sealed, and seals anew.
    Rewrap,
    /// Warns of secrets that end soon.
    Expiries,
    /// Counts connections, and puts those back into the schedule that fell out of it.
    ConnectionCount,
}

impl Job {
    /// All of them.
    const ALL: [Job; 12] = [
        Job::StorePing,
        Job::UnstoredAnswers,
        Job::EventSums,
        Job::Revocations,
        Job::TokenHosts,
        Job::ClientCredentials,
        Job::Files,
        Job::Keyring,
        Job::ReplicaReport,
        Job::Rewrap,
        Job::Expiries,
        Job::ConnectionCount,
    ];

    /// Its name in `status`, in metrics and in the log of a panic.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Job::StorePing => "store_ping",
            Job::UnstoredAnswers => "unstored_answers",
            Job::EventSums => "event_sums",
            Job::Revocations => "revocations",
            Job::TokenHosts => "token_hosts",
            Job::ClientCredentials => "client_credentials",
            Job::Files => "files",
            Job::Keyring => "keyring",
            Job::ReplicaReport => "replica_report",
            Job::Rewrap => "rewrap",
            Job::Expiries => "expiries",
            Job::ConnectionCount => "connection_count",
        }
    }
}

/// How long a job waits between two runs, whether it waits before the first, and what a stop means to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pause {
    between: Duration,
    is_first: bool,
    at_stop: AtStop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtStop {
    /// The run under way ends.
    Finish,
    /// The run under way is dropped.
    Drop,
    /// The run under way ends, and one more is made.
    RunOnceMore,
}

impl Pause {
    /// Of a job that runs at once, and whose run is finished at a stop.
    pub(super) const fn of(between: Duration) -> Self {
        Pause { between, is_first: false, at_stop: AtStop::Finish }
    }

    /// The job waits before its first run, too.
    pub(super) const fn before_the_first_run(self) -> Self {
        Pause { is_first: true, ..self }
    }

    /// A stop drops the run under way.
    pub(super) const fn dropped_at_a_stop(self) -> Self {
        Pause { at_stop: AtStop::Drop, ..self }
    }

    /// A stop has the job run once more.
    pub(super) const fn once_more_at_a_stop(self) -> Self {
        Pause { at_stop: AtStop::RunOnceMore, ..self }
    }
}

/// How a run ended: well, or with what an operator should know of it.
pub(super) type Ended = Result<(), String>;

/// How a run ended whose work is a use of the repository.
pub(super) fn ended(result: Result<(), RepositoryError>) -> Ended {
    result.map_err(|error| error.to_string())
}

/// What a job does.
pub(super) trait Work: Send + 'static {
    /// One run.
    fn run(&mut self) -> impl Future<Output = Ended> + Send;

    /// The pause after the last run, where it is another than the job's.
    fn pause(&self) -> Option<Duration> {
        None
    }

    /// Completes when somebody wants a run before its time.
    fn wanted(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}

/// Starts jobs, and knows how each ended last.
#[derive(Clone)]
pub(super) struct Jobs {
    tasks: Arc<TokioTasks>,
    clock: Arc<dyn Clock>,
    shutdown: Shutdown,
    metrics: Arc<Metrics>,
    last: Arc<Mutex<BTreeMap<Job, LastRun>>>,
}

impl Jobs {
    /// None runs yet.
    pub(super) fn new(
        tasks: Arc<TokioTasks>,
        clock: Arc<dyn Clock>,
        shutdown: Shutdown,
        metrics: Arc<Metrics>,
    ) -> Self {
        Jobs { tasks, clock, shutdown, metrics, last: Arc::default() }
    }

    /// Does `work` again and again, until the soft stop.
    pub(super) fn every(&self, job: Job, pause: Pause, mut work: impl Work) {
        let jobs = self.clone();
        let rounds = async move {
            let stop = jobs.shutdown.soft();
            let mut is_paused = pause.is_first;
            loop {
                if is_paused {
                    tokio::select! {
                        () = jobs.clock.sleep(work.pause().unwrap_or(pause.between)) => {}
                        () = work.wanted() => {}
                        () = stop.cancelled() => break,
                    }
                }
                is_paused = true;
                let ended = if pause.at_stop == AtStop::Drop {
                    tokio::select! {
                        ended = work.run() => ended,
                        () = stop.cancelled() => break,
                    }
                } else {
                    work.run().await
                };
                jobs.ended(job, ended);
            }
            if pause.at_stop == AtStop::RunOnceMore {
                jobs.ended(job, work.run().await);
            }
        };
        self.tasks.spawn(job.name(), Box::pin(rounds));
    }

    /// Follows something that ends only with the soft stop.
    pub(super) fn until_stop(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        let work = async move {
            tokio::select! {
                () = work => {}
                () = shutdown.soft().cancelled() => {}
            }
        };
        self.tasks.spawn(name, Box::pin(work));
    }

    /// Every job with its last run.
    pub(super) fn report(&self) -> Vec<JobReport> {
        let last = self.last.lock();
        Job::ALL.iter().map(|job| JobReport { job: job.name(), last_run: last.get(job).cloned() }).collect()
    }

    fn ended(&self, job: Job, result: Ended) {
        let at = self.clock.now();
        self.metrics.job_ended(job.name(), at, result.is_ok());
        self.last.lock().insert(job, LastRun { at, result });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::watch;

    use super::*;
    use crate::domain::task::BoxFuture;
    use crate::domain::time::Timestamp;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Stands still until the test moves it.
    #[derive(Clone)]
    struct HandClock(watch::Sender<Duration>);

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

    impl HandClock {
        async fn pass(&self, time: Duration) {
            let end = self.monotonic() + time;
            while self.monotonic() < end {
                self.0.send_modify(|now| *now += millis(50));
                settle().await;
            }
        }
    }

    /// Lets every task go on until all of them wait.
    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    /// Each run takes half a second, and every other one fails.
    #[derive(Clone)]
    struct Counted {
        clock: HandClock,
        begun: Arc<AtomicUsize>,
        ended: Arc<AtomicUsize>,
    }

    impl Work for Counted {
        async fn run(&mut self) -> Ended {
            let run = self.begun.fetch_add(1, Ordering::Relaxed);
            self.clock.sleep(millis(500)).await;
            self.ended.fetch_add(1, Ordering::Relaxed);
            if run.is_multiple_of(2) { Ok(()) } else { Err(format!("run {run}")) }
        }
    }

    impl Counted {
        /// Begun and ended.
        fn runs(&self) -> (usize, usize) {
            (self.begun.load(Ordering::Relaxed), self.ended.load(Ordering::Relaxed))
        }
    }

    fn jobs() -> (Jobs, Counted, HandClock) {
        let clock = HandClock(watch::Sender::new(Duration::ZERO));
        let metrics = Arc::new(Metrics::new("0.1.0"));
        let jobs = Jobs::new(Arc::new(TokioTasks::new()), Arc::new(clock.clone()), Shutdown::new(), metrics);
        let work = Counted { clock: clock.clone(), begun: Arc::default(), ended: Arc::default() };
        (jobs, work, clock)
    }

    /// The runs after so long, and at the end of a stop.
    async fn counted(pause: Pause, time: Duration) -> [(usize, usize); 2] {
        let (jobs, work, clock) = jobs();
        jobs.every(Job::Files, pause, work.clone());
        settle().await;
        clock.pass(time).await;
        let before = work.runs();
        jobs.shutdown.stop();
        settle().await;
        clock.pass(millis(2000)).await;
        jobs.tasks.close_and_wait().await;
        [before, work.runs()]
    }

    const SECOND: Pause = Pause::of(millis(1000));

    #[tokio::test]
    async fn a_job_runs_at_once_or_after_its_pause() {
        // Runs begin after 0, 1.5 and 3 seconds; or after 1, 2.5 and 4.
        assert_eq!(counted(SECOND, millis(3750)).await[0], (3, 3));
        assert_eq!(counted(SECOND.before_the_first_run(), millis(900)).await[0], (0, 0));
        assert_eq!(counted(SECOND.before_the_first_run(), millis(3750)).await[0], (2, 2));
    }

    #[tokio::test]
    async fn a_stop_ends_the_pause_and_finishes_drops_or_repeats_the_run() {
        let (in_a_pause, in_a_run) = (millis(1250), millis(1750));
        assert_eq!(counted(SECOND, in_a_pause).await[1], (1, 1));
        assert_eq!(counted(SECOND, in_a_run).await[1], (2, 2));
        assert_eq!(counted(SECOND.dropped_at_a_stop(), in_a_run).await[1], (2, 1));
        assert_eq!(counted(SECOND.once_more_at_a_stop(), in_a_pause).await[1], (2, 2));
        assert_eq!(counted(SECOND.once_more_at_a_stop(), in_a_run).await[1], (3, 3));
    }

    /// Has a pause of its own, of an hour, and is wanted after two seconds.
    struct Wanted(Counted);

    impl Work for Wanted {
        async fn run(&mut self) -> Ended {
            self.0.run().await
        }

        fn pause(&self) -> Option<Duration> {
            Some(Duration::from_secs(3600))
        }

        async fn wanted(&self) {
            self.0.clock.sleep(millis(2000)).await;
        }
    }

    #[tokio::test]
    async fn a_job_has_a_pause_of_its_own_and_runs_when_it_is_wanted() {
        let (jobs, work, clock) = jobs();
        jobs.every(Job::Rewrap, SECOND, Wanted(work.clone()));
        settle().await;
        clock.pass(millis(2400)).await;
        assert_eq!(work.runs(), (1, 1));
        clock.pass(millis(200)).await;
        assert_eq!(work.runs(), (2, 1));
    }

    #[tokio::test]
    async fn the_last_run_of_each_job_is_reported_and_counted() {
        let (jobs, work, clock) = jobs();
        let of = |job: Job| {
            let report = jobs.report().into_iter().find(|one| one.job == job.name());
            report.expect("every job is reported").last_run
        };
        jobs.every(Job::Keyring, SECOND, work);
        settle().await;
        clock.pass(millis(1000)).await;
        assert_eq!(of(Job::Files), None);
        let at = Timestamp::from_unix_millis(1_800_000_000_500);
        assert_eq!(of(Job::Keyring), Some(LastRun { at, result: Ok(()) }));
        clock.pass(millis(1250)).await;
        let at = Timestamp::from_unix_millis(1_800_000_002_000);
        assert_eq!(of(Job::Keyring), Some(LastRun { at, result: Err("run 1".to_owned()) }));
        let page = jobs.metrics.encode(at);
        for series in [
            "tokenward_job_last_run_successful{job_name=\"keyring\"} 0",
            "tokenward_job_last_run_timestamp_seconds{job_name=\"keyring\"} 1800000002",
        ] {
            assert!(page.lines().any(|line| line == series), "{series} in\n{page}");
        }
    }

    #[test]
    fn every_job_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<&str> = Job::ALL.iter().map(|job| job.name()).collect();
        assert_eq!(names.len(), Job::ALL.len());
        assert!(Job::ALL.is_sorted(), "in the order of the declaration: {:?}", Job::ALL);
        assert_eq!(Job::ALL.last().map(|last| *last as usize + 1), Some(Job::ALL.len()), "none is left out");
    }
}
