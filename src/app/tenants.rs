//! Tells the store what this replica saw of tenants, learns which of them block an app, and reports each edge
//! once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::jobs::{Ended, Work};
use crate::broker::Broker;
use crate::domain::id::AppName;
use crate::events::Events;
use crate::telemetry::metrics::Metrics;

/// How often. A block is known everywhere after twice this time.
pub(super) const EVERY: Duration = Duration::from_secs(2);

/// See above.
pub(super) struct Tenants {
    broker: Arc<Broker>,
    events: Arc<Events>,
    metrics: Arc<Metrics>,
    /// The apps that have a count.
    shown: BTreeSet<AppName>,
}

impl Tenants {
    pub(super) fn new(broker: Arc<Broker>, events: Arc<Events>, metrics: Arc<Metrics>) -> Self {
        Tenants { broker, events, metrics, shown: BTreeSet::new() }
    }

    fn show(&mut self) {
        let apps: BTreeSet<AppName> = self.broker.apps().keys().cloned().collect();
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        let blocked = self.broker.blocked_tenants();
        // (A caller may ask for the app's own token in any tenant: that is shown, and no alert.)
        for one in blocked.iter().filter(|one| one.block.connections > 0) {
            *counts.entry(&one.app).or_default() += 1;
        }
        for app in &apps {
            self.metrics.tenants_blocked(app, counts.get(app.as_str()).copied().unwrap_or(0));
        }
        for gone in self.shown.difference(&apps) {
            self.metrics.tenants_gone(gone);
        }
        self.shown = apps;
    }
}

impl Work for Tenants {
    async fn run(&mut self) -> Ended {
        let edges = self.broker.keep_tenant_blocks().await.map_err(|error| error.to_string())?;
        for edge in &edges {
            self.events.tenant_changed(edge).await;
        }
        self.show();
        Ok(())
    }
}
