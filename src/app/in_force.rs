//! The configuration in force, and what was built from it. A reload puts another one in its place.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::apps::{self, Authorities};
use super::callers::Roster;
use super::core::{Core, broker_settings, engine_apps, engine_settings};
use super::listeners::LiveTls;
use super::process::Process;
use super::reading::Replaceable;
use super::reporting::level_of;
use crate::broker::Broker;
use crate::config::Config;
use crate::domain::time::Timestamp;
use crate::events::Events;
use crate::refresh::Engine;
use crate::telemetry::logging::LevelHandle;
use crate::telemetry::metrics::Metrics;

/// Each part is swapped by itself: requests look at the apps, callers and credentials of the moment they begin, and what is under
/// way ends as it was begun.
pub(super) struct InForce {
    config: ArcSwap<Config>,
    authorities: ArcSwap<Authorities>,
    roster: Roster,
    tls: LiveTls,
    level: Option<LevelHandle>,
    engine: Engine,
    broker: Arc<Broker>,
    events: Arc<Events>,
    metrics: Arc<Metrics>,
}

impl InForce {
    #[expect(clippy::too_many_arguments, reason = "one for each part that a reload replaces")]
    /// What the daemon starts with.
    pub(super) fn new(
        config: Config,
        authorities: Authorities,
        roster: Roster,
        tls: LiveTls,
        level: Option<LevelHandle>,
        core: &Core,
        events: Arc<Events>,
        process: &Process,
    ) -> Self {
        InForce {
            config: ArcSwap::from_pointee(config),
            authorities: ArcSwap::from_pointee(authorities),
            roster,
            tls,
            level,
            engine: core.engine.clone(),
            broker: core.broker.clone(),
            events,
            metrics: process.metrics.clone(),
        }
    }

    pub(super) fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    pub(super) fn authorities(&self) -> Arc<Authorities> {
        self.authorities.load_full()
    }

    pub(super) fn roster(&self) -> &Roster {
        &self.roster
    }

    /// When listeners' certificates expire, by the listeners' names.
    pub(super) fn certificate_expiries(&self) -> BTreeMap<&'static str, Timestamp> {
        self.tls.expiries()
    }

    /// Puts what was prepared in the place of what is in force. `before` are the authorities that it was prepared beside.
    pub(super) fn take_up(&self, config: Config, prepared: Replaceable, before: &Authorities) {
        let Replaceable { apps, tls, callers, admins, warnings: _ } = prepared;
        // Apps before those who may ask for them. (The other way about for what goes: an app that is gone is "not found" a moment
        // before its rules are.)
        let (apps, authorities) = apps::install(apps, before);
        // The names that are counted first: what comes under one that is not known yet would be nobody's.
        self.events.expect(apps.keys(), &callers, &admins);
        self.engine.reconfigure(engine_apps(&apps), engine_settings(&config));
        self.broker.reconfigure(apps, broker_settings(&config));
        // What the authority said of an app's credentials was not of one that is new.
        for (app, installed) in &authorities {
            if installed.authority.credentials().has_untried() {
                self.engine.app_is_mended(app);
            }
        }
        self.authorities.store(Arc::new(authorities));
        self.roster.succeed_by(callers, admins);
        self.tls.replace(tls, &self.metrics);
        if let Some(level) = &self.level {
            level.set(level_of(config.log.level));
        }
        if self.config.load().outbound != config.outbound {
            apps::say_ways_out(&config);
        }
        self.config.store(Arc::new(config));
    }

    /// What stays here because an authority is on another host now: one line for each app, with what to do.
    pub(super) fn held_back(&self) -> Vec<String> {
        let authorities = self.authorities();
        let hosts =
            authorities.iter().filter_map(|(app, one)| Some((app, one.authority.unconfirmed_host()?)));
        hosts
            .map(|(app, host)| {
                format!("the authority of {app} is on {host}, and its client credential is for another host: it is not sent there. If the change is right: tokenward credentials confirm {app} {host}")
            })
            .collect()
    }
}
