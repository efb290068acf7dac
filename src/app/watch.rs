//! What runs at intervals beside the requests: the store's pulse, what it has not taken, and the taking of stock for
//! the metrics.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::Parts;
use super::files::Looks;
use super::keyring::{Follower, Rounds, SealingKeyUses};
use super::reload::AGAIN;
use super::silence::Silence;
use crate::broker::Broker;
use crate::broker::inspect::{Counts, STATUSES};
use crate::broker::replicas::REPORT_EVERY;
use crate::broker::rewrap::Pass;
use crate::domain::id::AppName;
use crate::domain::task::Tasks;
use crate::domain::time::Clock;
use crate::events::Events;
use crate::lifecycle;
use crate::refresh::Engine;
use crate::repository::RepositoryError;
use crate::telemetry::metrics::Metrics;

/// How often an answer that the store did not take is offered again.
const STORE_AGAIN: Duration = Duration::from_secs(1);
/// How often the store is asked whether it is there.
const PING: Duration = Duration::from_secs(2);
/// How often it is looked whether something was revoked.
const REVOCATIONS: Duration = Duration::from_secs(1);
/// How often it is looked whether a file has changed.
const LOOK: Duration = Duration::from_secs(1);
/// A refused reload is tried again after so long.
const TRY_AGAIN: Duration = Duration::from_secs(15);
/// How often the keyring's source is looked at.
const KEYRING: Duration = Duration::from_secs(1);
/// Stock is taken by walking over every connection, page by page, with this pause after each: what that costs in a second does
/// not grow with how many there are, only how long it takes.
const WALK: Duration = Duration::from_millis(200);
/// The pause between two walks.
const WALK_AGAIN: Duration = Duration::from_secs(30);

/// Asks the store at intervals whether it is there; readiness follows it, with the time that it may be lost.
pub(super) fn store(parts: &Parts, metrics: Arc<Metrics>, latch: lifecycle::Latch) {
    let last_seen = Arc::new(AtomicI64::new(i64::MIN));
    let seen_at = |clock: &Arc<dyn Clock>| i64::try_from(clock.monotonic().as_millis()).unwrap_or(i64::MAX);
    let (clock, running) = (parts.clock.clone(), parts.running.clone());
    let condition_seen = last_seen.clone();
    let condition_clock = clock.clone();
    parts.readiness.condition("store", move || {
        let seen = condition_seen.load(Ordering::Relaxed);
        let lost_for = seen_at(&condition_clock).saturating_sub(seen);
        let lost_after = running.load().store.serve_cached_for;
        seen == i64::MIN || u128::try_from(lost_for).unwrap_or(0) <= lost_after.as_millis()
    });
    let (store, shutdown) = (parts.store.store.clone(), parts.shutdown.clone());
    let seen = parts.reloader.store_seen.clone();
    let (readiness, mut silence) = (parts.readiness.clone(), Silence::default());
    let mut latch = Some(latch);
    let watch = async move {
        loop {
            let answered = store.ping().await;
            metrics.store_reachable(answered.is_ok());
            seen.looked(answered.is_ok(), clock.now());
            match answered {
                Ok(()) => {
                    readiness.note("store", None);
                    if let Some(failures) = silence.answered() {
                        tracing::info!(failures, "the store answers again");
                    }
                    last_seen.store(seen_at(&clock), Ordering::Relaxed);
                    if let Some(latch) = latch.take() {
                        latch.release();
                    }
                }
                Err(error) => {
                    let cause = error.to_string();
                    readiness.note("store", Some(&cause));
                    if let Some(failures) = silence.failed(&cause, clock.monotonic()) {
                        tracing::warn!(error = cause, failures, "the store does not answer");
                    }
                }
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

/// Takes up what an operator revoked on another replica.
pub(super) fn revocations(parts: &Parts) {
    let (broker, clock, shutdown) = (parts.broker.clone(), parts.clock.clone(), parts.shutdown.clone());
    let follow = async move {
        let mut said = false;
        loop {
            match broker.follow_revocations().await {
                Ok(()) => said = false,
                Err(error) if error.is_outage() || said => {
                    tracing::debug!(%error, "what is revoked could not be looked up; what is known stays in force");
                }
                // Until it is known nothing is served: a start that waits for it must say so.
                Err(error) => {
                    tracing::error!(%error, "what is revoked cannot be read; what is known stays in force, and nothing is served before anything is");
                    said = true;
                }
            }
            tokio::select! {
                () = clock.sleep(REVOCATIONS) => {}
                () = shutdown.soft().cancelled() => return,
            }
        }
    };
    parts.tasks.spawn("take up what is revoked", Box::pin(follow));
}

/// Looks once a second whether the configuration or a file that it names has changed since it was read, and has it read again. One
/// that is being written is let be until it has stayed the same for a second.
pub(super) fn files(parts: &Parts) {
    let (reloader, running) = (parts.reloader.clone(), parts.running.clone());
    let (clock, shutdown) = (parts.clock.clone(), parts.shutdown.clone());
    let watch = async move {
        let mut before = Looks::default();
        let mut tried_at = clock.monotonic();
        loop {
            tokio::select! {
                () = clock.sleep(LOOK) => {}
                () = shutdown.soft().cancelled() => return,
            }
            // Not on a thread that serves: a file may be on a mount that hangs.
            let (path, config) = (reloader.source.path.clone(), running.load_full());
            let look = move || Looks::of(&path, &config);
            let Ok(now) = tokio::task::spawn_blocking(look).await else { continue };
            let monotonic = clock.monotonic();
            let is_changed = !reloader.has_read(&now) && now == before;
            // What was wrong may have been mended where nobody looks: a key file, a full table of files.
            let is_time = reloader.is_refused() && monotonic.saturating_sub(tried_at) >= TRY_AGAIN;
            if is_changed || is_time {
                tried_at = monotonic;
                reloader.reload(if is_changed { "a file changed" } else { AGAIN }).await;
            }
            before = now;
        }
    };
    parts.tasks.spawn("look whether files have changed", Box::pin(watch));
}

/// Takes up what changes in the keyring's source, and shows what its keys are used for.
pub(super) fn keyring(parts: &Parts, mut follower: Follower) {
    let (broker, clock, shutdown) = (parts.broker.clone(), parts.clock.clone(), parts.shutdown.clone());
    let reloader = parts.reloader.clone();
    let watch = async move {
        let mut uses = SealingKeyUses::default();
        loop {
            uses.show(&reloader.keyring, &reloader.metrics, clock.now());
            // (A file on a mount that hangs must not hold the stop up.)
            let is_changed = tokio::select! {
                is_changed = follower.look_again(&reloader) => is_changed,
                () = shutdown.soft().cancelled() => return,
            };
            if is_changed {
                // The others wait for that word, and there may be something to be sealed anew.
                report(&broker).await;
                broker.ask_for_rewrap();
            }
            tokio::select! {
                () = clock.sleep(KEYRING) => {}
                () = shutdown.soft().cancelled() => return,
            }
        }
    };
    parts.tasks.spawn("take up what changes in the keyring", Box::pin(watch));
}

/// Says at intervals that this replica is there.
pub(super) fn replicas(parts: &Parts) {
    let (broker, clock, shutdown) = (parts.broker.clone(), parts.clock.clone(), parts.shutdown.clone());
    let tell = async move {
        loop {
            report(&broker).await;
            tokio::select! {
                () = clock.sleep(REPORT_EVERY) => {}
                () = shutdown.soft().cancelled() => return,
            }
        }
    };
    parts.tasks.spawn("say that this replica is there", Box::pin(tell));
}

async fn report(broker: &Broker) {
    if let Err(error) = broker.report().await {
        tracing::debug!(%error, "other replicas could not be told that this one is there");
    }
}

/// Counts at intervals what each key sealed, and seals anew what another key sealed than the primary.
pub(super) fn seals(parts: &Parts, metrics: Arc<Metrics>) {
    let (broker, events, running) = (parts.broker.clone(), parts.events.clone(), parts.running.clone());
    let (clock, shutdown) = (parts.clock.clone(), parts.shutdown.clone());
    let look_after = async move {
        let mut rounds = Rounds::default();
        loop {
            let rate = f64::from(running.load().limits.rewrap_rate);
            let looked = look_after_seals(&broker, &events, rate, &mut rounds, &metrics).await;
            let pause = looked.unwrap_or_else(|error| rounds.pause_after_failure(&error));
            tokio::select! {
                () = clock.sleep(pause) => {}
                () = broker.rewrap_asked_for() => {}
            }
        }
    };
    let look_after = async move {
        tokio::select! {
            () = look_after => {}
            () = shutdown.soft().cancelled() => {}
        }
    };
    parts.tasks.spawn("look after what is sealed", Box::pin(look_after));
}

/// One count, and what comes of it; how long to wait for the next.
async fn look_after_seals(
    broker: &Broker,
    events: &Events,
    rate: f64,
    rounds: &mut Rounds,
    metrics: &Metrics,
) -> Result<Duration, RepositoryError> {
    broker.count_sealed().await?;
    let counts = broker.sealing_keys();
    metrics
        .sealing_keys(counts.iter().map(|(key, records, is_primary)| (key.as_str(), *records, *is_primary)));
    let left = broker.left_to_rewrap();
    if left == 0 {
        return Ok(rounds.pause_after_nothing());
    }
    let pass = broker.rewrap(rate).await?;
    if let Pass::Done(progress) = &pass
        && progress.resealed + progress.refused > 0
    {
        events.rewrap_ended(progress).await;
    }
    Ok(rounds.pause_after(&pass))
}

/// Looks once a second for what was too much to be told one by one.
pub(super) fn sums(parts: &Parts) {
    let (events, clock, shutdown) = (parts.events.clone(), parts.clock.clone(), parts.shutdown.clone());
    let sum_up = async move {
        loop {
            tokio::select! {
                () = clock.sleep(Duration::from_secs(1)) => events.sum_up().await,
                () = shutdown.soft().cancelled() => return,
            }
        }
    };
    parts.tasks.spawn("sum up what is not told one by one", Box::pin(sum_up));
}

/// Looks after connections before anybody asks.
pub(super) fn sweep(parts: &Parts) {
    let (engine, shutdown) = (parts.engine.clone(), parts.shutdown.clone());
    let sweep = async move {
        tokio::select! {
            () = engine.sweep() => {}
            () = shutdown.soft().cancelled() => {}
        }
    };
    parts.tasks.spawn("look after connections", Box::pin(sweep));
}

/// What stock is taken of.
pub(super) struct Stock {
    pub(super) broker: Arc<Broker>,
    pub(super) metrics: Arc<Metrics>,
}

/// Counts connections by status.
pub(super) fn stock(parts: &Parts, stock: Stock) {
    let (clock, shutdown, engine) = (parts.clock.clone(), parts.shutdown.clone(), parts.engine.clone());
    let walk = async move {
        let mut shown = BTreeSet::new();
        loop {
            tokio::select! {
                () = async {
                    stock.count(clock.as_ref(), &engine, &mut shown).await;
                    clock.sleep(WALK_AGAIN).await;
                } => {}
                () = shutdown.soft().cancelled() => return,
            }
        }
    };
    parts.tasks.spawn("walk over every connection", Box::pin(walk));
}

impl Stock {
    /// Counts connections, and puts those back into the schedule that fell out of it. `shown` are the apps that have a count.
    async fn count(&self, clock: &dyn Clock, engine: &Engine, shown: &mut BTreeSet<AppName>) {
        let mut counts = Counts::default();
        let mut walk = self.broker.walk();
        loop {
            match walk.next(&self.broker, &mut counts).await {
                Ok(Some(page)) => {
                    for (key, profile) in &page {
                        if self.broker.destroy_if_revoked(key, profile).await {
                            continue;
                        }
                        engine.mend_schedule(key, profile).await;
                    }
                    clock.sleep(WALK).await;
                }
                Ok(None) => break,
                Err(_) => return, // what was counted is not all: the figures stay as they are
            }
        }
        for ((app, status), count) in &counts.by_status {
            self.metrics.connections_by_status(app, &[(status, *count)]);
        }
        let now: BTreeSet<AppName> = counts.by_status.into_keys().map(|(app, _)| app).collect();
        for gone in shown.difference(&now) {
            self.metrics.connections_gone(gone, &STATUSES);
        }
        *shown = now;
    }
}
