//! Jobs: what the daemon does at intervals beside the requests. [`Jobs::every`] is the only timer loop of this room, and
//! remembers of each job when it last ran and how that ended.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::process::Process;
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
    pub(super) fn new(process: &Process) -> Self {
        let Process { ports, tasks, shutdown, metrics, .. } = process.clone();
        Jobs { tasks, clock: ports.clock, shutdown, metrics, last: Arc::default() }
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
mod tests;
