//! Jobs: work that the daemon repeats beside the requests. [`Jobs::every`] is the only timer loop of this
//! room. It remembers for each job when it last ran and how that ended.

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
    /// Checks whether the store answers.
    StorePing,
    /// Offers unstored answers to the store.
    UnstoredAnswers,
    /// Writes the sums of events that were too many for lines of their own.
    EventSums,
    /// Learns what operators revoked on other replicas.
    Revocations,
    /// Renews tokens of apps themselves before somebody asks.
    AppTokens,
    /// Stores the hosts to which secrets may be sent, and learns those of other replicas.
    TokenHosts,
    /// Proves client credentials and shows them.
    ClientCredentials,
    /// Tells the store of tenants that block an app, and learns of those.
    TenantBlocks,
    /// Reloads configuration and files once they have changed.
    Files,
    /// Fetches the keys of callers' issuers.
    IssuerKeys,
    /// Takes up changes in the keyring's source.
    Keyring,
    /// Tells the other replicas that this one lives.
    ReplicaReport,
    /// Counts records by sealing key, and rewraps.
    Rewrap,
    /// Warns of secrets that end soon.
    Expiries,
    /// Counts connections, and schedules those again that fell out of the schedule.
    ConnectionCount,
    /// Orders notices, shows them to streams and has them delivered to webhooks.
    Notices,
}

impl Job {
    /// All of them.
    const ALL: [Job; 16] = [
        Job::StorePing,
        Job::UnstoredAnswers,
        Job::EventSums,
        Job::Revocations,
        Job::AppTokens,
        Job::TokenHosts,
        Job::ClientCredentials,
        Job::TenantBlocks,
        Job::Files,
        Job::IssuerKeys,
        Job::Keyring,
        Job::ReplicaReport,
        Job::Rewrap,
        Job::Expiries,
        Job::ConnectionCount,
        Job::Notices,
    ];

    /// Its name in `status`, in metrics and in the log of a panic.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Job::StorePing => "store_ping",
            Job::UnstoredAnswers => "unstored_answers",
            Job::EventSums => "event_sums",
            Job::Revocations => "revocations",
            Job::AppTokens => "app_tokens",
            Job::TokenHosts => "token_hosts",
            Job::ClientCredentials => "client_credentials",
            Job::TenantBlocks => "tenant_blocks",
            Job::Files => "files",
            Job::IssuerKeys => "issuer_keys",
            Job::Keyring => "keyring",
            Job::ReplicaReport => "replica_report",
            Job::Rewrap => "rewrap",
            Job::Expiries => "expiries",
            Job::ConnectionCount => "connection_count",
            Job::Notices => "notices",
        }
    }
}

/// How long a job waits between two runs, whether it waits before the first, and how a stop ends it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pause {
    between: Duration,
    is_first: bool,
    at_stop: AtStop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtStop {
    /// A stop waits for the run under way.
    Finish,
    /// A stop drops the run under way.
    Drop,
    /// A stop waits for the run under way, and the job runs once more.
    RunOnceMore,
}

impl Pause {
    /// For a job that runs at once, and whose run under way a stop waits for.
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

    /// The job runs once more at a stop.
    pub(super) const fn once_more_at_a_stop(self) -> Self {
        Pause { at_stop: AtStop::RunOnceMore, ..self }
    }
}

/// Result of a run. An error says what an operator should know.
pub(super) type Ended = Result<(), String>;

/// Result of a run that uses the repository.
pub(super) fn ended(result: Result<(), RepositoryError>) -> Ended {
    result.map_err(|error| error.to_string())
}

/// The work of a job.
pub(super) trait Work: Send + 'static {
    /// One run.
    fn run(&mut self) -> impl Future<Output = Ended> + Send;

    /// Pause after the last run, if it is not the job's ordinary one.
    fn pause(&self) -> Option<Duration> {
        None
    }

    /// Completes when a run is wanted before its time.
    fn wanted(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}

/// Starts jobs, and keeps the last result of each.
#[derive(Clone)]
pub(super) struct Jobs {
    tasks: Arc<TokioTasks>,
    clock: Arc<dyn Clock>,
    shutdown: Shutdown,
    metrics: Arc<Metrics>,
    last: Arc<Mutex<BTreeMap<Job, LastRun>>>,
}

impl Jobs {
    /// No job runs yet.
    pub(super) fn new(process: &Process) -> Self {
        let Process { ports, tasks, shutdown, metrics, .. } = process.clone();
        Jobs { tasks, clock: ports.clock, shutdown, metrics, last: Arc::default() }
    }

    /// Runs `work` again and again until the soft stop.
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

    /// Runs work that never ends by itself, until the soft stop.
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
