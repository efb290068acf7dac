//! The whole daemon, put together: the only room that names every concrete type. It reads like a table of contents.

mod apps;
mod callers;
mod choices;
mod credentials;
mod files;
mod foresight;
mod jobs;
mod keyring;
mod listeners;
mod pulse;
pub mod reading;
mod reload;
mod replicas;
mod silence;
mod stock;
mod store;
mod token_hosts;
mod upkeep;
mod watch;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use self::jobs::Jobs;
use self::reading::{By, Everything, Refused};
pub use self::reload::Source;
use crate::api::LocalApi;
use crate::api::admin::AdminApi;
use crate::api::to_its_end::ToItsEnd;
use crate::authority::KnownTokenHosts;
use crate::broker::{self, Apps, Broker};
use crate::callers::limit::Limiter;
use crate::config::{AuditSink, Config, Loaded, LogFormat, LogLevel};
use crate::domain::id::AppName;
use crate::domain::random::Random;
use crate::domain::task::Tasks;
use crate::domain::time::Clock;
use crate::events::{Counters, Events};
use crate::journal::files::FileJournal;
use crate::keyring::KeySource;
use crate::keyring::files as keyring_files;
use crate::lifecycle::{self, Readiness, Shutdown, Signals};
use crate::listener::Surroundings;
use crate::ops::Ops;
use crate::public::PublicSite;
use crate::refresh::{self, Engine};
use crate::repository::Repository;
use crate::secret_file::SecretReader;
use crate::system::{SystemClock, SystemRandom, TokioTasks};
use crate::telemetry::audit::{self, Action, Audit, AuditWriter};
use crate::telemetry::logging::{self, LevelHandle};
use crate::telemetry::metrics::Metrics;

/// Why the daemon did not start. Whose fault: the operator's; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration, or what it names, is wrong.
    #[error("{}", .0.errors)]
    Refused(Refused),
    /// Something else stood in the way: a lock, a socket, another process.
    #[error("{0}")]
    Failed(String),
}

impl From<Refused> for StartError {
    fn from(refused: Refused) -> Self {
        StartError::Refused(refused)
    }
}

impl StartError {
    fn new(problem: impl std::fmt::Display) -> Self {
        StartError::Failed(problem.to_string())
    }

    /// With its causes: for errors that do not print them.
    fn chain(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        StartError::Failed(text)
    }
}

/// A running daemon.
pub struct Daemon {
    public: SocketAddr,
    local: Vec<SocketAddr>,
    ops: SocketAddr,
    parts: Parts,
}

/// What a stop needs.
struct Parts {
    tasks: Arc<TokioTasks>,
    /// The store's own, which must outlive all others.
    store_tasks: Arc<TokioTasks>,
    broker: Arc<Broker>,
    clock: Arc<dyn Clock>,
    shutdown: Shutdown,
    readiness: Readiness,
    engine: Engine,
    events: Arc<Events>,
    store: store::OpenedStore,
    running: Arc<ArcSwap<Config>>,
    reloader: Arc<reload::Reloader>,
    jobs: Jobs,
}

impl Daemon {
    /// Builds and starts everything. Nothing is served before all of it is built.
    pub async fn start(
        loaded: Loaded,
        source: Source,
        environment: Environment,
        level: Option<LevelHandle>,
    ) -> Result<Self, StartError> {
        let config = loaded.config.clone();
        apps::say_ways_out(&config);
        // Before anything is read: what changes from here on is seen.
        let looks = files::Looks::of(&source.path, &config);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let random: Arc<dyn Random> = Arc::new(SystemRandom::new());
        let tasks = Arc::new(TokioTasks::new());
        let store_tasks = Arc::new(TokioTasks::new());
        let ports = Ports {
            clock: clock.clone(),
            random: random.clone(),
            store_tasks: store_tasks.clone(),
            token_hosts: Arc::default(),
        };
        let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION")));
        let shutdown = Shutdown::new();
        let readiness = Readiness::new();
        let store_latch = readiness.latch("store");
        let listeners_latch = readiness.latch("listeners");

        let by = By { environment: &environment, ports: &ports, metrics: &metrics };
        let Everything { keyring, store: prepared_store, replaceable } = reading::everything(&loaded, &by)?;
        for warning in &replaceable.warnings {
            tracing::warn!(config = %source.path.display(), "{warning}");
        }

        let audit: Arc<dyn Audit> = Arc::new(open_audit(&config.audit.sink, &clock, &metrics)?);
        let events = Arc::new(Events::new(metrics.clone(), audit, clock.clone()));
        let keys: Arc<dyn KeySource> = Arc::new(keyring_files::Directory::new(
            &config.sealing.keyring,
            environment.credentials_directory.as_deref(),
        ));
        let counters = Arc::new(Counters::new(metrics.clone(), clock.clone(), readiness.clone()));
        let journal = match &config.store.journal {
            Some(path) => Some(
                FileJournal::open(path)
                    .map_err(|error| StartError::new(format!("store.journal: {error}")))?,
            ),
            None => None,
        };
        let store = store::open(prepared_store, &ports, counters.clone())?;
        let repository = Repository::new(store.store.clone(), keyring.clone(), random.clone());
        let mut repository = repository.with_damage_observer(counters.clone());
        if let Some(journal) = journal {
            repository = repository.with_journal(Arc::new(journal));
        }
        let repository = Arc::new(repository);

        let (apps, authorities) = apps::install(replaceable.apps, &apps::Authorities::new());
        let engine = Engine::new(
            engine_apps(&apps),
            refresh::Deps {
                repository: repository.clone(),
                clock: clock.clone(),
                random: random.clone(),
                tasks: tasks.clone(),
                observer: counters,
            },
            engine_settings(&config),
        );
        let knows = engine.clone();
        readiness.condition("revocations", move || knows.knows_revocations());
        let recovered = engine.recover().await.map_err(StartError::new)?;
        if recovered > 0 {
            tracing::warn!(
                entries = recovered,
                "the journal holds answers from before that the store has not taken; it is offered them now"
            );
        }
        let (callers, admins) = (replaceable.callers, replaceable.admins);
        events.expect(apps.keys(), &callers, &admins);
        let callers = Arc::new(ArcSwap::from_pointee(callers));
        let broker = Broker::new(
            apps,
            broker::Deps {
                engine: engine.clone(),
                repository: repository.clone(),
                policies: callers.clone(),
                clock: clock.clone(),
                random: random.clone(),
                tasks: tasks.clone(),
            },
            broker_settings(&config),
        );
        let broker = Arc::new(broker.on_host(keyring::host_name()));
        let admins = Arc::new(ArcSwap::from_pointee(admins));

        let bound = listeners::bind(&config.listen, replaceable.tls, &metrics)?;
        let surroundings = Surroundings {
            tasks: tasks.clone(),
            clock: clock.clone(),
            random: random.clone(),
            shutdown: shutdown.clone(),
            metrics: metrics.clone(),
        };
        let running = Arc::new(ArcSwap::from_pointee(config));
        let reloader = Arc::new(reload::Reloader {
            source,
            environment,
            ports,
            metrics: metrics.clone(),
            events: events.clone(),
            keyring: keyring.clone(),
            running: running.clone(),
            authorities: Arc::new(ArcSwap::from_pointee(authorities)),
            readiness: readiness.clone(),
            engine: engine.clone(),
            broker: broker.clone(),
            callers: callers.clone(),
            admins: admins.clone(),
            tls: bound.tls,
            store_seen: Arc::new(pulse::Seen::from(clock.now())),
            level,
            repository,
            turn: tokio::sync::Mutex::default(),
            reading: Arc::default(),
            choosing: parking_lot::Mutex::default(),
            tasks: tasks.clone(),
            last: parking_lot::Mutex::default(),
            read: parking_lot::Mutex::new(looks),
        });
        let jobs = Jobs::new(tasks.clone(), clock.clone(), shutdown.clone(), metrics.clone());
        let daemon = Daemon {
            public: bound.public.tcp_address().expect("the public listener is TCP"),
            local: bound.local.iter().filter_map(|bound| bound.tcp_address()).collect(),
            ops: bound.ops.tcp_address().expect("the ops listener is TCP"),
            parts: Parts {
                tasks: tasks.clone(),
                store_tasks,
                broker: broker.clone(),
                clock: clock.clone(),
                shutdown: shutdown.clone(),
                readiness: readiness.clone(),
                engine: engine.clone(),
                events: events.clone(),
                store,
                running: running.clone(),
                reloader: reloader.clone(),
                jobs: jobs.clone(),
            },
        };

        bound.ops.serve(
            Arc::new(Ops::new(metrics.clone(), readiness.clone(), clock.clone())),
            surroundings.clone(),
        );
        let site = PublicSite::new(broker.clone(), keyring.clone(), random, clock.clone(), events.clone());
        bound.public.serve(Arc::new(site), surroundings.clone());
        let limiter = Limiter::default();
        let local = LocalApi::new(broker.clone(), callers.clone(), limiter, clock.clone(), events.clone());
        let local = Arc::new(ToItsEnd::new(local, tasks.clone()));
        for listener in bound.local {
            listener.serve(local.clone(), surroundings.clone());
        }
        let own_uids = vec![0, rustix::process::geteuid().as_raw()];
        let admin = AdminApi::new(
            broker.clone(),
            callers.clone(),
            admins.clone(),
            own_uids,
            clock.clone(),
            events.clone(),
            Arc::new(upkeep::Keeper(reloader, jobs)),
        );
        let admin = Arc::new(ToItsEnd::new(admin, tasks.clone()));
        for listener in bound.admin {
            listener.serve(admin.clone(), surroundings.clone());
        }
        listeners_latch.release();

        let keyring = keyring::Follower::new(keys, keyring.clone(), events.clone());
        watch::start(&daemon.parts, &metrics, store_latch, keyring);
        events.process(Action::Started).await;
        Ok(daemon)
    }

    /// Where the public listener listens.
    pub fn public_address(&self) -> SocketAddr {
        self.public
    }

    /// Where the local TCP listeners listen.
    pub fn local_addresses(&self) -> &[SocketAddr] {
        &self.local
    }

    /// Where the ops listener listens.
    pub fn ops_address(&self) -> SocketAddr {
        self.ops
    }

    /// Whether everything is up.
    pub fn is_ready(&self) -> bool {
        self.parts.readiness.is_ready()
    }

    /// Stops: no new work, what is in flight is finished within the drain time.
    pub async fn stop(self) {
        self.parts.readiness.drain();
        self.parts.shutdown.stop();
        let tasks = self.parts.tasks.clone();
        self.parts.broker.stop_waiting();
        tokio::select! {
            () = finished(&self.parts) => {}
            () = self.parts.clock.sleep(self.parts.running.load().limits.drain) => {
                self.parts.shutdown.abort();
                let _ = tokio::time::timeout(Duration::from_secs(2), tasks.close_and_wait()).await;
            }
        }
    }

    /// Runs until a signal, then drains. True when all that was in flight was finished.
    async fn run(self, mut signals: Signals) -> bool {
        let Parts { shutdown, readiness, clock, reloader, tasks, .. } = &self.parts;
        let reload = || {
            let reloader = reloader.clone();
            let reload = async move {
                reloader.reload_at_a_word("SIGHUP").await;
            };
            tasks.spawn("reload", Box::pin(reload));
        };
        signals.wait_for_stop(shutdown, readiness, reload).await;
        let drain = self.parts.running.load().limits.drain;
        tracing::info!("stopping: finishing what is in flight");
        signals.wait_for_drain(shutdown, clock.as_ref(), drain, finished(&self.parts)).await
    }
}

/// Completes when nothing is in flight any more and everything is stored: first the requests and refreshes under way,
/// then what they could not store, and the store itself last.
async fn finished(parts: &Parts) {
    parts.broker.stop_waiting();
    let ended = parts.tasks.close_and_wait();
    tokio::pin!(ended);
    loop {
        tokio::select! {
            () = &mut ended => break,
            // What is under way may take long: the store is offered what it has not taken all the while.
            () = parts.clock.sleep(Duration::from_millis(200)) => {
                parts.engine.store_unstored().await;
            }
        }
    }
    while parts.engine.store_unstored().await > 0 {
        parts.clock.sleep(Duration::from_millis(200)).await;
    }
    // Nobody has to wait until it is noticed that this one is gone.
    if let Err(error) = parts.broker.withdraw_report().await {
        tracing::debug!(%error, "other replicas take this one for live for a minute");
    }
    parts.events.sum_up_all().await;
    parts.events.process(Action::Stopped).await;
    parts.store.close();
    parts.store_tasks.close_and_wait().await;
}

/// The ports of the process itself.
struct Ports {
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    store_tasks: Arc<TokioTasks>,
    /// Where every app's secrets may go.
    token_hosts: Arc<KnownTokenHosts>,
}

/// What of the environment the daemon may know.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `$CREDENTIALS_DIRECTORY`, where systemd puts credentials.
    pub credentials_directory: Option<PathBuf>,
    /// The text of `/etc/passwd`, for the users that callers are known by.
    pub passwd: String,
    /// A directory of the daemon's, for a command that root runs: whose that is, says as whom to read.
    pub of_owner: Option<PathBuf>,
}

impl Environment {
    /// The process's own.
    pub fn of_process(variables: &BTreeMap<String, String>) -> Self {
        Environment {
            credentials_directory: variables.get("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            passwd: std::fs::read_to_string("/etc/passwd").unwrap_or_default(),
            of_owner: None,
        }
    }

    /// The same, as the owner of that directory sees it.
    #[must_use]
    pub fn as_owner_of(self, directory: &Path) -> Self {
        Environment { of_owner: Some(directory.to_owned()), ..self }
    }

    /// The same, with the users of now.
    fn again(&self) -> Self {
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_else(|_| self.passwd.clone());
        Environment { passwd, ..self.clone() }
    }

    fn secrets(&self) -> SecretReader {
        let credentials = self.credentials_directory.as_deref();
        match &self.of_owner {
            Some(directory) => SecretReader::for_owner_of(directory, credentials),
            None => SecretReader::new(credentials),
        }
    }
}

/// `tokenward serve`: from the words of a configuration to an exit code.
///
/// # Errors
/// The configuration, or what it names, is wrong: nothing was started.
pub fn serve(loaded: Loaded, path: &Path, variables: &BTreeMap<String, String>) -> Result<ExitCode, Refused> {
    let format = match loaded.config.log.format {
        LogFormat::Json => logging::Format::Json,
        LogFormat::Text => logging::Format::Text,
    };
    let level = logging::install(level_of(loaded.config.log.level), format).ok();
    for warning in &loaded.warnings {
        tracing::warn!(config = %path.display(), "{warning}");
    }
    for warning in lifecycle::harden() {
        tracing::warn!(wanted = warning.wanted, why = warning.why, "a protection is missing");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the runtime could not be started");
            return Ok(ExitCode::FAILURE);
        }
    };
    let environment = Environment::of_process(variables);
    let source = Source { path: path.to_owned(), variables: variables.clone() };
    let ended = runtime.block_on(async {
        let signals = match Signals::catch() {
            Ok(signals) => signals,
            Err(error) => {
                tracing::error!(%error, "signals cannot be caught");
                return Ok(ExitCode::FAILURE);
            }
        };
        match Daemon::start(loaded, source, environment, level).await {
            Ok(daemon) => {
                tracing::info!(
                    version = env!("CARGO_PKG_VERSION"), public = %daemon.public, ops = %daemon.ops,
                    local = ?daemon.local, "tokenward serves"
                );
                Ok(if daemon.run(signals).await { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            }
            Err(StartError::Refused(refused)) => Err(refused),
            Err(error @ StartError::Failed(_)) => {
                tracing::error!(%error, config = %path.display(), "tokenward cannot start");
                Ok(ExitCode::FAILURE)
            }
        }
    });
    // Who still reads a file that does not answer is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

/// The apps as the engine needs them.
fn engine_apps(apps: &Apps) -> BTreeMap<AppName, refresh::EngineApp> {
    let app = |app: &broker::App| refresh::EngineApp { authority: app.authority.clone() };
    apps.iter().map(|(name, one)| (name.clone(), app(one))).collect()
}

fn engine_settings(config: &Config) -> refresh::Settings {
    refresh::Settings {
        caller_wait: config.limits.caller_wait,
        serve_cached_for: config.store.serve_cached_for,
        lease: config.limits.lease,
        sweep_rate: f64::from(config.limits.sweep_rate),
        authority_timeout: config.limits.authority_timeout,
        most_bytes: usize::try_from(config.limits.held_memory_mib)
            .unwrap_or(usize::MAX)
            .saturating_mul(1024 * 1024),
    }
}

fn broker_settings(config: &Config) -> broker::Settings {
    broker::Settings {
        base_url: config.listen.public.base_url.clone(),
        connect_session_ttl: config.limits.connect_session_ttl,
        state_ttl: config.limits.state_ttl,
        confirmation_ttl: config.limits.confirmation_ttl,
        open_sessions: config.limits.open_sessions,
    }
}

fn level_of(level: LogLevel) -> logging::Level {
    match level {
        LogLevel::Error => logging::Level::Error,
        LogLevel::Warn => logging::Level::Warn,
        LogLevel::Info => logging::Level::Info,
        LogLevel::Debug => logging::Level::Debug,
        LogLevel::Trace => logging::Level::Trace,
    }
}

fn open_audit(
    sink: &AuditSink,
    clock: &Arc<dyn Clock>,
    metrics: &Arc<Metrics>,
) -> Result<AuditWriter, StartError> {
    let sink = match sink {
        AuditSink::Stdout => audit::AuditSink::Stdout,
        AuditSink::Stderr => audit::AuditSink::Stderr,
        AuditSink::File(path) => audit::AuditSink::File(path.clone()),
    };
    AuditWriter::open(&sink, clock.clone(), metrics.clone()).map_err(|error| StartError::chain(&error))
}
