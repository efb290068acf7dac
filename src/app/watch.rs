//! What runs at intervals beside the requests: the store's pulse, what it has not taken, and the taking of stock for
//! the metrics.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::Parts;
use crate::broker::Broker;
use crate::callers::Callers;
use crate::config::Config;
use crate::domain::id::CallerName;
use crate::domain::task::Tasks;
use crate::domain::time::Clock;
use crate::keyring::Keyring;
use crate::lifecycle;
use crate::telemetry::metrics::Metrics;

/// How often an answer that the store did not take is offered again.
const STORE_AGAIN: Duration = Duration::from_secs(1);
/// How often the store is asked whether it is there.
const PING: Duration = Duration::from_secs(2);
/// How often stock is taken; it reads every profile.
const COUNT: Duration = Duration::from_secs(60);

/// Asks the store at intervals whether it is there; readiness follows it, with the time that it may be lost.
pub(super) fn store(parts: &Parts, config: &Config, latch: lifecycle::Latch) {
    let last_seen = Arc::new(AtomicI64::new(i64::MIN));
    let seen_at = |clock: &Arc<dyn Clock>| i64::try_from(clock.monotonic().as_millis()).unwrap_or(i64::MAX);
    let (clock, lost_after) = (parts.clock.clone(), config.store.serve_cached_for);
    let condition_seen = last_seen.clone();
    let condition_clock = clock.clone();
    parts.readiness.condition("store", move || {
        let seen = condition_seen.load(Ordering::Relaxed);
        let lost_for = seen_at(&condition_clock).saturating_sub(seen);
        seen == i64::MIN || u128::try_from(lost_for).unwrap_or(0) <= lost_after.as_millis()
    });
    let (store, shutdown) = (parts.store.store.clone(), parts.shutdown.clone());
    let mut latch = Some(latch);
    let watch = async move {
        loop {
            match store.ping().await {
                Ok(()) => {
                    last_seen.store(seen_at(&clock), Ordering::Relaxed);
                    if let Some(latch) = latch.take() {
                        latch.release();
                    }
                }
                Err(error) => tracing::warn!(%error, "the store does not answer"),
            }
            let pause = if latch.is_some() { Duration::from_millis(200) } else { PING };
            tokio::select! {
                () = clock.sleep(pause) => {}
                () = shutdown.soft().cancelled() => return,
            }
        }
    };
    parts.tasks.spawn("watch the store", Box::pin(watch));
}

/// Offers the store at intervals what it has not taken.
pub(super) fn unstored(parts: &Parts) {
    let (engine, clock, shutdown) = (parts.engine.clone(), parts.clock.clone(), parts.shutdown.clone());
    let offer = async move {
        loop {
            tokio::select! {
                () = clock.sleep(STORE_AGAIN) => {}
                () = shutdown.soft().cancelled() => return,
            }
            engine.store_unstored().await;
        }
    };
    parts.tasks.spawn("offer the store what it has not taken", Box::pin(offer));
}

/// Hears what other replicas do.
pub(super) fn changes(parts: &Parts) {
    let (engine, shutdown) = (parts.engine.clone(), parts.shutdown.clone());
    let follow = async move {
        tokio::select! {
            () = engine.follow_changes() => {}
            () = shutdown.soft().cancelled() => {}
        }
    };
    parts.tasks.spawn("hear what other replicas do", Box::pin(follow));
}

/// What stock is taken of.
pub(super) struct Stock {
    pub(super) broker: Arc<Broker>,
    pub(super) callers: Arc<Callers>,
    pub(super) admins: Arc<Callers>,
    pub(super) keyring: Arc<Keyring>,
    pub(super) metrics: Arc<Metrics>,
}

/// Counts connections by status and records by sealing key, and notes when API keys expire and were used.
pub(super) fn stock(parts: &Parts, stock: Stock) {
    let (clock, shutdown) = (parts.clock.clone(), parts.shutdown.clone());
    let take = async move {
        let mut known = BTreeSet::new();
        loop {
            stock.count().await;
            known = stock.note_api_keys(known);
            tokio::select! {
                () = clock.sleep(COUNT) => {}
                () = shutdown.soft().cancelled() => return,
            }
        }
    };
    parts.tasks.spawn("take stock", Box::pin(take));
}

impl Stock {
    async fn count(&self) {
        let Ok(counts) = self.broker.count().await else { return };
        for ((app, status), count) in &counts.by_status {
            self.metrics.connections_by_status(app, &[(status, *count)]);
        }
        let primary = self.keyring.primary();
        for key in self.keyring.keys() {
            let records = counts.by_sealing_key.get(&key.id).copied().unwrap_or(0);
            self.metrics.sealing_key(&key.id, records, key.id == primary.id);
        }
    }

    /// Says which keys there are now; those that are gone take their series with them.
    fn note_api_keys(&self, before: BTreeSet<(CallerName, String)>) -> BTreeSet<(CallerName, String)> {
        let mut now = BTreeSet::new();
        for used in self.callers.key_uses().into_iter().chain(self.admins.key_uses()) {
            self.metrics.caller_key_expiry(&used.caller, &used.key.id, used.key.expires_at);
            if let Some(at) = used.last_used_at {
                self.metrics.caller_key_used(&used.caller, &used.key.id, at);
            }
            now.insert((used.caller, used.key.id));
        }
        for (caller, key) in before.difference(&now) {
            self.metrics.caller_key_gone(caller, key);
        }
        now
    }
}
