//! The configuration in force, and what was built from it. A reload puts another one in its place.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::apps::{self, Authorities};
use super::callers::Roster;
use super::core::{Core, broker_settings, engine_apps, engine_settings};
use super::listeners::{LiveListeners, TlsEnds};
use super::process::Process;
use super::reading::Replaceable;
use super::reporting::level_of;
use crate::broker::Broker;
use crate::config::Config;
use crate::events::Events;
use crate::notices::{Deliveries, Standing};
use crate::public::Look;
use crate::refresh::Engine;
use crate::telemetry::audit::Signing;
use crate::telemetry::logging::LevelHandle;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::Traces;

/// Each part is swapped by itself. A request uses the apps, callers and credentials of the moment at which it
/// began.
pub(super) struct InForce {
    config: ArcSwap<Config>,
    authorities: ArcSwap<Authorities>,
    roster: Roster,
    listeners: LiveListeners,
    look: Arc<ArcSwap<Look>>,
    level: Option<LevelHandle>,
    engine: Engine,
    broker: Arc<Broker>,
    events: Arc<Events>,
    signing: Arc<Signing>,
    metrics: Arc<Metrics>,
    traces: Arc<Traces>,
    deliveries: Arc<Deliveries>,
}

impl InForce {
    #[expect(clippy::too_many_arguments, reason = "one for each part that a reload replaces")]
    /// The parts with which the daemon starts.
    pub(super) fn new(
        config: Config,
        authorities: Authorities,
        roster: Roster,
        listeners: LiveListeners,
        look: Look,
        level: Option<LevelHandle>,
        core: &Core,
        (events, signing): (Arc<Events>, Arc<Signing>),
        process: &Process,
    ) -> Self {
        InForce {
            config: ArcSwap::from_pointee(config),
            authorities: ArcSwap::from_pointee(authorities),
            roster,
            listeners,
            look: Arc::new(ArcSwap::from_pointee(look)),
            level,
            engine: core.engine.clone(),
            broker: core.broker.clone(),
            events,
            signing,
            metrics: process.metrics.clone(),
            traces: process.traces.clone(),
            deliveries: core.deliveries.clone(),
        }
    }

    pub(super) fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// How each webhook stands.
    pub(super) async fn webhooks(&self, is_store_lost: bool) -> Vec<Standing> {
        self.deliveries.standings(is_store_lost).await
    }

    pub(super) fn authorities(&self) -> Arc<Authorities> {
        self.authorities.load_full()
    }

    pub(super) fn roster(&self) -> &Roster {
        &self.roster
    }

    /// How the pages look.
    pub(super) fn look(&self) -> Arc<ArcSwap<Look>> {
        self.look.clone()
    }

    /// When the files of listeners' TLS end.
    pub(super) fn tls_ends(&self) -> TlsEnds {
        self.listeners.ends()
    }

    /// Replaces the parts in force by `prepared`. `before` are the authorities beside which those were
    /// prepared.
    pub(super) fn take_up(&self, config: Config, prepared: Replaceable, before: &Authorities) {
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
            ..
        } = prepared;
        // Apps before callers, so that nobody is granted an app that is not there yet. (A removed app is
        // therefore "not found" a moment before its rules are gone.)
        let (apps, authorities) = apps::install(apps, before);
        // Names before all else: an event under a name that is not known yet would be counted as `unknown`.
        self.events.expect(apps.keys(), issuers.keys(), &callers, &admins);
        self.engine.reconfigure(engine_apps(&apps), engine_settings(&config));
        self.broker.reconfigure(apps, broker_settings(&config));
        // Earlier answers of the authority about an app's credentials say nothing of a new credential.
        for (app, installed) in &authorities {
            if installed.authority.credentials().has_untried() {
                self.engine.app_is_mended(app);
            }
        }
        self.authorities.store(Arc::new(authorities));
        self.roster.succeed_by(issuers, callers, admins);
        self.listeners.replace(listeners, &self.metrics);
        self.broker.rights_changed();
        self.look.store(Arc::new(look));
        self.signing.replace(signing_key);
        traces.take_up(&self.traces);
        webhooks.take_up(&self.deliveries, (Some(&self.config.load()), &config), &self.metrics);
        if let Some(level) = &self.level {
            level.set(level_of(config.log.level));
        }
        if self.config.load().outbound != config.outbound {
            apps::log_ways_out(&config);
        }
        self.config.store(Arc::new(config));
    }

    /// Credentials that are not sent because their authority is on another host now: one line for each app,
    /// with the next step.
    pub(super) fn held_back(&self) -> Vec<String> {
        let authorities = self.authorities();
        let hosts =
            authorities.iter().filter_map(|(app, one)| Some((app, one.authority.unconfirmed_host()?)));
        hosts
            .map(|(app, host)| {
                format!(
                    "the authority of {app} is on {host}, and its client credential is for another host: \
                     it is not sent there. If the change is right: tokenward credentials confirm {app} \
                     {host}"
                )
            })
            .collect()
    }
}
