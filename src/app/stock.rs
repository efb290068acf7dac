//! Shows how many connections have which status, and walks over all of them: slowly, to correct the counts,
//! to put those back into the schedule that fell out of it, to destroy revoked ones, and to see on its way
//! who will have to sign in again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::jobs::{Ended, Work};
use crate::broker::Broker;
use crate::broker::forecast::Foreseeing;
use crate::broker::inspect::{Counts, STATUSES, Walk};
use crate::domain::forecast::{Reason, Summary};
use crate::domain::id::AppName;
use crate::domain::time::Clock;
use crate::refresh::Engine;
use crate::repository::RepositoryError;
use crate::telemetry::metrics::Metrics;

/// The pause between two walks over every connection, and between two looks at the kept counts.
pub(super) const WALK_AGAIN: Duration = Duration::from_secs(30);
/// The pause after each page of a walk. So a walk costs the same each second, a thousandth of a core, and
/// only takes longer with more connections: nine hours for a million.
const NEXT_PAGE: Duration = Duration::from_secs(3);
/// The same while no counts are known: the first figures of a store come in minutes.
const NEXT_PAGE_AT_FIRST: Duration = Duration::from_millis(200);

/// Counts connections, and schedules those again that fell out of the schedule.
pub(super) struct Stock {
    broker: Arc<Broker>,
    engine: Engine,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    /// The apps that have a count.
    shown: BTreeSet<AppName>,
    /// Monotonic time of the last look at the kept counts.
    looked_at: Option<Duration>,
    /// Whether counts are kept.
    is_counted: bool,
}

impl Stock {
    pub(super) fn new(
        broker: Arc<Broker>,
        engine: Engine,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Stock { broker, engine, clock, metrics, shown: BTreeSet::new(), looked_at: None, is_counted: false }
    }

    /// Adds this replica's changes to the kept counts and shows them, every half a minute.
    async fn keep(&mut self) -> Result<(), RepositoryError> {
        let now = self.clock.monotonic();
        if self.looked_at.is_some_and(|at| now.saturating_sub(at) < WALK_AGAIN) {
            return Ok(());
        }
        self.looked_at = Some(now);
        let counts = self.broker.keep_counts().await?;
        self.is_counted = counts.is_some();
        if let Some(counts) = counts {
            self.show(counts);
        }
        match self.broker.kept_forecast().await {
            Ok(Some(summary)) => self.show_forecast(&summary),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "what is foreseen could not be read"),
        }
        Ok(())
    }

    fn show_forecast(&self, summary: &Summary) {
        for app in self.broker.apps().keys() {
            for reason in Reason::ALL {
                let is_of = |total: &&(String, Reason, u64)| total.0 == app.as_str() && total.1 == reason;
                let total = summary.totals.iter().find(is_of).map_or(0, |(_, _, count)| *count);
                self.metrics.foreseen(app, reason.as_str(), total);
            }
        }
    }

    fn show(&mut self, counts: Counts) {
        for ((app, status), count) in &counts.by_status {
            self.metrics.connections_by_status(app, &[(status, *count)]);
        }
        let now: BTreeSet<AppName> = counts.by_status.into_keys().map(|(app, _)| app).collect();
        for gone in self.shown.difference(&now) {
            self.metrics.connections_gone(gone, &STATUSES);
            self.metrics.foreseen_gone(gone, &Reason::ALL.map(Reason::as_str));
        }
        self.shown = now;
    }

    /// One walk. After an error some are not counted, so the figures stay as they were.
    async fn walk(&mut self) -> Result<(), RepositoryError> {
        let (mut counts, mut foreseeing) = (Counts::default(), Foreseeing::default());
        let mut walk: Walk = self.broker.walk();
        self.broker.status_walk_begins();
        self.keep().await?;
        while let Some(page) = walk.next(&self.broker, &mut counts).await? {
            self.broker.status_walk_passed(page.app(), page.last());
            self.broker.foresee_page(&page, &mut foreseeing).await;
            for (key, profile) in page.connections() {
                if !self.broker.destroy_if_revoked(key, profile).await {
                    self.engine.mend_schedule(key, profile).await;
                }
            }
            if walk.is_over() {
                break;
            }
            self.clock.sleep(if self.is_counted { NEXT_PAGE } else { NEXT_PAGE_AT_FIRST }).await;
            self.keep().await?;
        }
        let counts = self.broker.walk_ended(counts).await?;
        self.is_counted = true;
        self.show(counts);
        // (What is foreseen is nobody's need: the walk's other work does not fail with it.)
        match self.broker.keep_forecast(foreseeing).await {
            Ok(summary) => self.show_forecast(&summary),
            Err(error) => tracing::debug!(%error, "what was foreseen could not be kept"),
        }
        Ok(())
    }
}

impl Work for Stock {
    async fn run(&mut self) -> Ended {
        self.walk().await.map_err(|error| error.to_string())
    }
}
