//! Takes stock of connections: counts them by status, and checks that each is in the schedule.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::jobs::{Ended, Work};
use crate::broker::Broker;
use crate::broker::inspect::{Counts, STATUSES};
use crate::domain::id::AppName;
use crate::domain::time::Clock;
use crate::refresh::Engine;
use crate::telemetry::metrics::Metrics;

/// The pause between two walks over every connection.
pub(super) const WALK_AGAIN: Duration = Duration::from_secs(30);
/// The pause after each page of a walk. So a walk costs the same each second, and only takes longer with more
/// connections.
const NEXT_PAGE: Duration = Duration::from_millis(200);

/// Counts connections, and schedules those again that fell out of the schedule.
pub(super) struct Stock {
    broker: Arc<Broker>,
    engine: Engine,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    /// The apps that have a count.
    shown: BTreeSet<AppName>,
}

impl Stock {
    pub(super) fn new(
        broker: Arc<Broker>,
        engine: Engine,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Stock { broker, engine, clock, metrics, shown: BTreeSet::new() }
    }
}

impl Work for Stock {
    async fn run(&mut self) -> Ended {
        let mut counts = Counts::default();
        let mut walk = self.broker.walk();
        // After an error some are not counted, so the figures stay as they were.
        while let Some(page) =
            walk.next(&self.broker, &mut counts).await.map_err(|error| error.to_string())?
        {
            for (key, profile) in &page {
                if !self.broker.destroy_if_revoked(key, profile).await {
                    self.engine.mend_schedule(key, profile).await;
                }
            }
            self.clock.sleep(NEXT_PAGE).await;
        }
        for ((app, status), count) in &counts.by_status {
            self.metrics.connections_by_status(app, &[(status, *count)]);
        }
        let now: BTreeSet<AppName> = counts.by_status.into_keys().map(|(app, _)| app).collect();
        for gone in self.shown.difference(&now) {
            self.metrics.connections_gone(gone, &STATUSES);
        }
        self.shown = now;
        Ok(())
    }
}
