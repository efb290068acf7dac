//! Every job that runs beside the requests, in the order in which they start.

use std::sync::Arc;
use std::time::Duration;

use super::Parts;
use super::credentials::{self, ClientCredentials};
use super::foresight::{self, Expiries};
use super::jobs::{Ended, Job, Pause, Work, ended};
use super::keyring::{self, Follower, Rewrap};
use super::pulse::{self, Pulse};
use super::reload::{self, Files};
use super::replicas::ReplicaReport;
use super::stock::{self, Stock};
use super::token_hosts::{self, TokenHosts};
use crate::broker::Broker;
use crate::broker::replicas::REPORT_EVERY;
use crate::events::Events;
use crate::lifecycle::Latch;
use crate::refresh::Engine;
use crate::telemetry::metrics::Metrics;

/// How often the store is offered an answer that it has not taken.
const STORE_AGAIN: Duration = Duration::from_secs(1);
/// How often revocations of other replicas are taken up.
const REVOCATIONS: Duration = Duration::from_secs(1);
/// How often sums are written.
const SUM_UP: Duration = Duration::from_secs(1);

/// Starts them all. `store_latch` is released with the store's first answer.
pub(super) fn start(parts: &Parts, metrics: &Arc<Metrics>, store_latch: Latch, keyring: Follower) {
    let Parts { jobs, clock, broker, engine, events, running, reloader, shutdown, .. } = parts;
    let (clock, broker, engine, metrics) =
        (|| clock.clone(), || broker.clone(), || engine.clone(), || metrics.clone());

    let ready = (parts.readiness.clone(), store_latch);
    let (store, seen) = (parts.store.store.clone(), reloader.store_seen.clone());
    let pulse = Pulse::new(store, clock(), metrics(), ready, seen, running.clone());
    jobs.every(Job::StorePing, Pause::of(pulse::PING), pulse);
    jobs.every(
        Job::UnstoredAnswers,
        Pause::of(STORE_AGAIN).before_the_first_run(),
        UnstoredAnswers(engine()),
    );
    let engine_of_changes = engine();
    jobs.until_stop("hear what other replicas do", async move { engine_of_changes.follow_changes().await });
    let engine_of_sweep = engine();
    jobs.until_stop("look after connections", async move { engine_of_sweep.sweep().await });
    jobs.every(Job::EventSums, Pause::of(SUM_UP).before_the_first_run(), EventSums(events.clone()));
    jobs.every(
        Job::Revocations,
        Pause::of(REVOCATIONS),
        Revocations { broker: broker(), is_reported: false },
    );
    jobs.every(
        Job::TokenHosts,
        Pause::of(token_hosts::LOOK).once_more_at_a_stop(),
        TokenHosts::new(reloader.clone()),
    );
    jobs.every(
        Job::ClientCredentials,
        Pause::of(credentials::LOOK),
        ClientCredentials::new(reloader.clone(), metrics()),
    );
    jobs.every(
        Job::Files,
        Pause::of(reload::LOOK).before_the_first_run(),
        Files::new(reloader.clone(), running.clone()),
    );
    jobs.every(
        Job::Keyring,
        Pause::of(keyring::LOOK),
        keyring::Watch::new(keyring, reloader.clone(), shutdown.clone()),
    );
    jobs.every(Job::ReplicaReport, Pause::of(REPORT_EVERY), ReplicaReport(broker()));
    let rewrap = Rewrap::new(broker(), events.clone(), running.clone(), metrics());
    jobs.every(Job::Rewrap, Pause::of(keyring::COUNT).dropped_at_a_stop(), rewrap);
    jobs.every(Job::Expiries, Pause::of(foresight::LOOK), Expiries::new(reloader.clone()));
    let stock = Stock::new(broker(), engine(), clock(), metrics());
    jobs.every(Job::ConnectionCount, Pause::of(stock::WALK_AGAIN).dropped_at_a_stop(), stock);
}

struct UnstoredAnswers(Engine);

impl Work for UnstoredAnswers {
    async fn run(&mut self) -> Ended {
        match self.0.store_unstored().await {
            0 => Ok(()),
            left => Err(format!("the store has not taken {left} answers yet")),
        }
    }
}

struct EventSums(Arc<Events>);

impl Work for EventSums {
    async fn run(&mut self) -> Ended {
        self.0.sum_up().await;
        Ok(())
    }
}

struct Revocations {
    broker: Arc<Broker>,
    /// The log has the error that stands in the way.
    is_reported: bool,
}

impl Work for Revocations {
    async fn run(&mut self) -> Ended {
        let followed = self.broker.follow_revocations().await;
        match &followed {
            Ok(()) => self.is_reported = false,
            Err(error) if error.is_outage() || self.is_reported => {
                tracing::debug!(%error, "what is revoked could not be looked up; what is known stays in force");
            }
            // Until it is known nothing is served: a start that waits for it must say so.
            Err(error) => {
                tracing::error!(%error, "what is revoked cannot be read; what is known stays in force, and nothing is served before anything is");
                self.is_reported = true;
            }
        }
        ended(followed)
    }
}
