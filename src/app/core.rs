//! The core: the engine that refreshes grants, and the use cases on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::apps::{self, Authorities, PreparedApps};
use super::callers::Roster;
use super::process::Process;
use super::reporting::Reporting;
use super::start_error::StartError;
use super::store::Stored;
use super::webhooks::Counts;
use crate::broker::{self, Apps, Broker};
use crate::config::Config;
use crate::domain::id::AppName;
use crate::domain::random::random_bytes;
use crate::notices::{self, Deliveries};
use crate::refresh::{self, Engine};
use crate::store::LeaseNonce;

pub(super) struct Core {
    pub(super) engine: Engine,
    pub(super) broker: Arc<Broker>,
    pub(super) deliveries: Arc<Deliveries>,
}

impl Core {
    /// Builds the core and takes up the journal. It serves nothing before it has learnt what is revoked.
    pub(super) async fn start(
        prepared: PreparedApps,
        roster: &Roster,
        stored: &Stored,
        reporting: &Reporting,
        config: &Config,
        process: &Process,
    ) -> Result<(Self, Authorities), StartError> {
        let (apps, authorities) = apps::install(prepared, &Authorities::new());
        let (ports, repository) = (&process.ports, &stored.repository);
        let deps = refresh::Deps {
            repository: repository.clone(),
            clock: ports.clock.clone(),
            random: ports.random.clone(),
            tasks: process.tasks.clone(),
            observer: reporting.counters.clone(),
            tracer: process.traces.tracer(),
        };
        let engine = Engine::new(engine_apps(&apps), deps, engine_settings(config));
        let knows = engine.clone();
        process.readiness.condition("revocations", move || knows.knows_revocations());
        let recovered = engine.recover().await.map_err(StartError::new)?;
        if recovered > 0 {
            tracing::warn!(
                entries = recovered,
                "the journal holds answers from before that the store has not taken; it is offered them now"
            );
        }
        reporting.events.expect(
            apps.keys(),
            roster.issuers().keys(),
            &roster.callers.load(),
            &roster.admins.load(),
        );
        let deps = broker::Deps {
            engine: engine.clone(),
            repository: repository.clone(),
            policies: roster.callers.clone(),
            clock: ports.clock.clone(),
            random: ports.random.clone(),
            tasks: process.tasks.clone(),
            token_hosts: ports.token_hosts.clone(),
        };
        let broker = Arc::new(Broker::new(apps, deps, broker_settings(config)).on_host(host_name()));
        let ports = notices::Ports {
            repository: repository.clone(),
            clock: ports.clock.clone(),
            tasks: process.tasks.clone(),
            observer: Arc::new(Counts(process.metrics.clone())),
            stop: process.shutdown.soft().clone(),
        };
        let nonce = LeaseNonce(random_bytes(process.ports.random.as_ref()));
        let deliveries = Arc::new(Deliveries::new(ports, nonce, Arc::clone(broker.feed())));
        Ok((Core { engine, broker, deliveries }, authorities))
    }
}

/// The apps as the engine needs them.
pub(super) fn engine_apps(apps: &Apps) -> BTreeMap<AppName, refresh::EngineApp> {
    let app = |app: &broker::App| refresh::EngineApp { authority: app.authority.clone() };
    apps.iter().map(|(name, one)| (name.clone(), app(one))).collect()
}

pub(super) fn engine_settings(config: &Config) -> refresh::Settings {
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

pub(super) fn broker_settings(config: &Config) -> broker::Settings {
    broker::Settings {
        base_url: config.listen.public.base_url.clone(),
        connect_session_ttl: config.limits.connect_session_ttl,
        state_ttl: config.limits.state_ttl,
        confirmation_ttl: config.limits.confirmation_ttl,
        open_sessions: config.limits.open_sessions,
        streams_per_caller: config.limits.streams_per_caller,
        caller_wait: config.limits.caller_wait,
    }
}

/// The machine's name, for operators to tell replicas apart.
pub(super) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}
