//! Implements the admin API's port for operators' acts on the daemon itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::foresight::Foresight;
use super::in_force::InForce;
use super::jobs::Jobs;
use super::parts::Parts;
use super::pulse::Seen;
use super::reload::Reloader;
use crate::api::upkeep::{Ending, JobReport, Reloaded, StoreLost, Traffic, Upkeep};
use crate::config::StoreBackend;
use crate::domain::task::BoxFuture;
use crate::lifecycle::Readiness;
use crate::notices::Standing;
use crate::telemetry::metrics::Metrics;

/// The daemon itself, for operators.
pub(super) struct Keeper {
    readiness: Readiness,
    store_seen: Arc<Seen>,
    in_force: Arc<InForce>,
    reloader: Arc<Reloader>,
    foresight: Arc<Foresight>,
    jobs: Jobs,
    metrics: Arc<Metrics>,
}

impl Keeper {
    pub(super) fn new(parts: &Parts) -> Self {
        Keeper {
            readiness: parts.process.readiness.clone(),
            store_seen: parts.store_seen.clone(),
            in_force: parts.in_force.clone(),
            reloader: parts.reloader.clone(),
            foresight: parts.foresight.clone(),
            jobs: parts.jobs.clone(),
            metrics: parts.process.metrics.clone(),
        }
    }
}

impl Upkeep for Keeper {
    fn reload(&self) -> BoxFuture<'_, Reloaded> {
        Box::pin(self.reloader.reload_at_a_word("an operator"))
    }

    fn waiting_for(&self) -> Vec<&'static str> {
        self.readiness.waiting_for()
    }

    fn notes(&self) -> BTreeMap<String, String> {
        self.readiness.notes()
    }

    fn last_reload(&self) -> Option<Reloaded> {
        self.reloader.last()
    }

    fn store_lost(&self) -> Option<StoreLost> {
        let answered_at = self.store_seen.lost()?;
        let config = self.in_force.config();
        // Nobody else writes to an embedded store, so nothing in memory goes stale without it.
        let is_shared = !matches!(config.store.backend, StoreBackend::Embedded { .. });
        let cached_until = is_shared.then(|| answered_at.plus(config.store.serve_cached_for));
        Some(StoreLost { answered_at, cached_until })
    }

    fn jobs(&self) -> Vec<JobReport> {
        self.jobs.report()
    }

    fn traffic(&self) -> Traffic {
        let (tokens, authority) = self.metrics.by_outcome();
        Traffic { tokens, authority }
    }

    fn webhooks(&self) -> BoxFuture<'_, Vec<Standing>> {
        Box::pin(self.in_force.webhooks(self.store_seen.lost().is_some()))
    }

    fn endings(&self) -> BoxFuture<'_, Vec<Ending>> {
        Box::pin(self.foresight.endings())
    }
}
