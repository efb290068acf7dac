use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::domain::time::Timestamp;
use crate::testkit::hand_clock::HandClock;

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Lets time pass in steps after which every task goes on.
async fn pass(clock: &HandClock, time: Duration) {
    let end = clock.monotonic() + time;
    while clock.monotonic() < end {
        clock.pass(millis(50));
        settle().await;
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
    let clock = HandClock::at(Duration::ZERO);
    let mut process = Process::new();
    process.ports.clock = Arc::new(clock.clone());
    let jobs = Jobs::new(&process);
    let work = Counted { clock: clock.clone(), begun: Arc::default(), ended: Arc::default() };
    (jobs, work, clock)
}

/// The runs after so long, and at the end of a stop.
async fn counted(pause: Pause, time: Duration) -> [(usize, usize); 2] {
    let (jobs, work, clock) = jobs();
    jobs.every(Job::Files, pause, work.clone());
    settle().await;
    pass(&clock, time).await;
    let before = work.runs();
    jobs.shutdown.stop();
    settle().await;
    pass(&clock, millis(2000)).await;
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
    pass(&clock, millis(2400)).await;
    assert_eq!(work.runs(), (1, 1));
    pass(&clock, millis(200)).await;
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
    pass(&clock, millis(1000)).await;
    assert_eq!(of(Job::Files), None);
    let at = Timestamp::from_unix_millis(1_800_000_000_500);
    assert_eq!(of(Job::Keyring), Some(LastRun { at, result: Ok(()) }));
    pass(&clock, millis(1250)).await;
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
