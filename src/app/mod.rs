//! The whole daemon, put together: the only room that names every concrete type. `Daemon::start_on` is its
//! table of contents.

mod apps;
mod bases;
mod callers;
mod core;
mod credentials;
pub mod doctor;
mod edges;
mod environment;
mod files;
mod findings;
mod foresight;
mod greeting;
mod in_force;
mod issuers;
mod jobs;
mod keyring;
mod listeners;
mod pages;
mod parts;
mod process;
mod pulse;
pub mod reading;
mod reload;
mod replicas;
mod reporting;
mod rules;
mod service_manager;
mod silence;
mod start_error;
#[cfg(feature = "testkit")]
mod steps;
mod stock;
mod store;
mod tenants;
mod traces;
mod upkeep;
mod watch;
mod webhooks;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use self::callers::Roster;
use self::core::Core;
pub use self::environment::{Environment, Source};
use self::files::WatchedFiles;
use self::foresight::Foresight;
use self::in_force::InForce;
use self::jobs::Jobs;
use self::listeners::Addresses;
use self::parts::Parts;
use self::process::Process;
use self::pulse::Seen;
use self::reading::{Everything, Refused, Replaceable};
use self::reload::Reloader;
use self::reporting::{Reporting, install_log};
use self::service_manager::ServiceManager;
pub use self::start_error::StartError;
use self::store::Stored;
use crate::config::Loaded;
use crate::lifecycle::{self, Signals};
use crate::listener::PassedSockets;
use crate::telemetry::audit::Action;
use crate::telemetry::logging::LevelHandle;

/// A running daemon.
pub struct Daemon {
    addresses: Addresses,
    parts: Parts,
}

impl Daemon {
    /// Builds and starts everything. Nothing is served before everything is built.
    pub async fn start(
        loaded: Loaded,
        source: Source,
        environment: Environment,
        level: Option<LevelHandle>,
    ) -> Result<Self, StartError> {
        Self::start_on(PassedSockets::default(), loaded, source, environment, level).await
    }

    /// The same. A listener for which a socket was passed takes that over.
    async fn start_on(
        passed: PassedSockets,
        loaded: Loaded,
        source: Source,
        environment: Environment,
        level: Option<LevelHandle>,
    ) -> Result<Self, StartError> {
        apps::log_ways_out(&loaded.config);
        let files = Arc::new(WatchedFiles::new(source, environment, &loaded.config));
        let process = Process::new();
        let latch = |part| process.readiness.latch(part);
        let (store_latch, listeners_latch) = (latch("store"), latch("listeners"));

        let everything = reading::everything(&loaded, &files.by(&process))?;
        let Everything { keyring, store, replaceable } = everything;
        let Replaceable {
            apps,
            listeners,
            issuers,
            callers,
            admins,
            look,
            signing_key,
            traces,
            webhooks,
            warnings,
        } = replaceable;
        files.say(&warnings);
        process.traces.start(process.trace_tasks.as_ref());
        traces.take_up(&process.traces);

        let config = loaded.config;
        let reporting = Reporting::open(&config.audit, signing_key, &process)?;
        let stored = store::start(store, &config.store, &keyring, &reporting, &process.ports)?;
        let roster = Roster::new(issuers, callers, admins);
        let (core, authorities) = Core::start(apps, &roster, &stored, &reporting, &config, &process).await?;
        webhooks.take_up(&core.deliveries, (None, &config), &process.metrics);
        let (listeners, live) = listeners::bind(&config.listen, listeners, passed, &process.metrics)?;
        let addresses = listeners.addresses();

        let Reporting { events, signing, .. } = reporting;
        let in_force = InForce::new(
            config,
            authorities,
            roster,
            live,
            look,
            level,
            &core,
            (events.clone(), signing),
            &process,
        );
        let in_force = Arc::new(in_force);
        let reloader =
            Reloader::new(&process, files.clone(), keyring.clone(), in_force.clone(), events.clone());
        let foresight = Foresight::new(&process, files.clone(), in_force.clone(), core.broker.clone());
        let Stored { store, .. } = stored;
        let store_seen = Arc::new(Seen::from(process.ports.clock.now()));
        let (reloader, foresight, jobs) = (Arc::new(reloader), Arc::new(foresight), Jobs::new(&process));
        let parts = Parts {
            process,
            files,
            keyring,
            events,
            store,
            store_seen,
            core,
            in_force,
            reloader,
            foresight,
            jobs,
        };

        edges::serve(listeners, &parts);
        listeners_latch.release();
        watch::start(&parts, store_latch);
        parts.events.process(Action::Started).await;
        Ok(Daemon { addresses, parts })
    }

    /// Where the public listener listens.
    pub fn public_address(&self) -> SocketAddr {
        self.addresses.public
    }

    /// Where the local TCP listeners listen.
    pub fn local_addresses(&self) -> &[SocketAddr] {
        &self.addresses.local
    }

    /// Where the ops listener listens.
    pub fn ops_address(&self) -> SocketAddr {
        self.addresses.ops
    }

    /// Whether everything is up.
    pub fn is_ready(&self) -> bool {
        self.parts.process.readiness.is_ready()
    }

    /// Stops: no new work, and what is in flight is finished within the drain time.
    pub async fn stop(self) {
        self.parts.stop().await;
    }
}

/// `tokenward serve`: from the words of a configuration to an exit code.
///
/// # Errors
/// The configuration, or what it names, is wrong: nothing was started.
pub fn serve(loaded: Loaded, path: &Path, variables: &BTreeMap<String, String>) -> Result<ExitCode, Refused> {
    // First of all: later descriptors have other numbers, and no thread reads the environment yet.
    let passed = PassedSockets::of_process(variables);
    let level = install_log(&loaded.config.log);
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
    let passed = match passed {
        Ok(passed) => passed,
        Err(error) => {
            tracing::error!(%error, config = %path.display(), "tokenward cannot start");
            return Ok(ExitCode::FAILURE);
        }
    };
    let environment = Environment::of_process(variables);
    let source = Source { path: path.to_owned(), variables: variables.clone() };
    let greeting = greeting::prepare(&loaded.config, path);
    let ended = runtime.block_on(async {
        let signals = match Signals::catch() {
            Ok(signals) => signals,
            Err(error) => {
                tracing::error!(%error, "signals cannot be caught");
                return Ok(ExitCode::FAILURE);
            }
        };
        match Daemon::start_on(passed, loaded, source, environment, level).await {
            Ok(daemon) => {
                let Addresses { public, local, ops } = &daemon.addresses;
                let version = env!("CARGO_PKG_VERSION");
                tracing::info!(version, %public, %ops, ?local, "tokenward serves");
                greeting.iter().for_each(|text| greeting::say(text));
                let manager = ServiceManager::of(variables, std::process::id());
                manager.ready();
                let is_finished = tokio::select! {
                    is_finished = daemon.parts.run(signals) => is_finished,
                    () = manager.keep_alive(daemon.parts.process.ports.clock.as_ref()) => false,
                };
                Ok(if is_finished { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            }
            Err(StartError::Refused(refused)) => Err(refused),
            Err(error @ StartError::Failed(_)) => {
                tracing::error!(%error, config = %path.display(), "tokenward cannot start");
                Ok(ExitCode::FAILURE)
            }
        }
    });
    // A task that still reads a file that does not answer does not delay the exit.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}
