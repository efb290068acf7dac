//! Every job that runs beside the requests, in the order in which they start.

use std::sync::Arc;
use std::time::Duration;

use super::credentials::{self, ClientCredentials};
use super::foresight::{self, Expiries};
use super::in_force::InForce;
use super::jobs::{Ended, Job, Pause, Work, ended};
use super::keyring::{self, Follower, Rewrap};
use super::parts::Parts;
use super::pulse::{self, Pulse};
use super::reload::{self, Files};
use super::replicas::ReplicaReport;
use super::stock::{self, Stock};
use super::tenants::{self, Tenants};
use crate::broker::Broker;
use crate::broker::replicas::REPORT_EVERY;
use crate::events::Events;
use crate::lifecycle::Latch;
use crate::notices::Deliveries;
use crate::refresh::Engine;
use crate::telemetry::metrics::Metrics;

/// How often unstored answers are offered to the store.
const STORE_AGAIN: Duration = Duration::from_secs(1);
/// How often revocations of other replicas are read.
const REVOCATIONS: Duration = Duration::from_secs(1);
/// How often tokens of apps themselves are looked through for those whose renewal is due.
const APP_TOKENS: Duration = Duration::from_secs(1);
/// How often token hosts are read from the store and new ones are written.
const TOKEN_HOSTS: Duration = Duration::from_secs(1);
/// How often sums of events are written.
const SUM_UP: Duration = Duration::from_secs(1);

/// How often notices are ordered and looked for.
const NOTICES: Duration = Duration::from_secs(1);
/// How often the age of issuers' keys is checked.
const ISSUER_KEYS: Duration = Duration::from_secs(1);

/// Starts them all. The first answer of the store releases `store_latch`.
pub(super) fn start(parts: &Parts, store_latch: Latch) {
    let Parts { process, keyring, events, store, core, in_force, reloader, foresight, jobs, .. } = parts;
    let (clock, metrics) = (|| process.ports.clock.clone(), || process.metrics.clone());
    let (engine, broker, in_force) = (|| core.engine.clone(), || core.broker.clone(), || in_force.clone());

    let pulse = Pulse::new(process, store.store.clone(), store_latch, parts.store_seen.clone(), in_force());
    jobs.every(Job::StorePing, Pause::of(pulse::PING), pulse);

    let again = Pause::of(STORE_AGAIN).before_the_first_run();
    jobs.every(Job::UnstoredAnswers, again, UnstoredAnswers(engine(), broker()));

    let engine_of_changes = engine();
    jobs.until_stop("hear what other replicas do", async move { engine_of_changes.follow_changes().await });
    let engine_of_sweep = engine();
    jobs.until_stop("look after connections", async move { engine_of_sweep.sweep().await });

    jobs.every(Job::EventSums, Pause::of(SUM_UP).before_the_first_run(), EventSums(events.clone()));

    let revocations = Revocations { broker: broker(), metrics: metrics(), is_reported: false };
    jobs.every(Job::Revocations, Pause::of(REVOCATIONS), revocations);

    jobs.every(Job::AppTokens, Pause::of(APP_TOKENS).before_the_first_run(), AppTokens(engine()));

    let token_hosts = TokenHosts { broker: broker(), is_reported: false };
    jobs.every(Job::TokenHosts, Pause::of(TOKEN_HOSTS).once_more_at_a_stop(), token_hosts);

    let credentials = ClientCredentials::new(broker(), clock(), metrics());
    jobs.every(Job::ClientCredentials, Pause::of(credentials::CHECK_EVERY), credentials);

    let tenants = Tenants::new(broker(), events.clone(), metrics());
    jobs.every(Job::TenantBlocks, Pause::of(tenants::EVERY).once_more_at_a_stop(), tenants);

    let files = Files::new(reloader.clone());
    jobs.every(Job::Files, Pause::of(reload::CHECK_EVERY).before_the_first_run(), files);

    jobs.every(Job::IssuerKeys, Pause::of(ISSUER_KEYS), IssuerKeys(in_force()));

    let follower =
        Follower::new(&in_force().config(), parts.files.environment(), keyring.clone(), events.clone());
    let watch = keyring::Watch::new(follower, process.clone(), in_force(), broker());
    jobs.every(Job::Keyring, Pause::of(keyring::CHECK_EVERY), watch);

    jobs.every(Job::ReplicaReport, Pause::of(REPORT_EVERY), ReplicaReport(broker()));

    let rewrap = Rewrap::new(broker(), events.clone(), in_force(), metrics());
    jobs.every(Job::Rewrap, Pause::of(keyring::COUNT).dropped_at_a_stop(), rewrap);

    jobs.every(Job::Expiries, Pause::of(foresight::CHECK_EVERY), Expiries::new(foresight.clone()));

    let stock = Stock::new(broker(), engine(), clock(), metrics());
    jobs.every(Job::ConnectionCount, Pause::of(stock::WALK_AGAIN).dropped_at_a_stop(), stock);

    let notices = Notices(core.deliveries.clone());
    jobs.every(Job::Notices, Pause::of(NOTICES).before_the_first_run().dropped_at_a_stop(), notices);
}

/// Starts a fetch of each issuer's keys that is due; the fetches themselves are tasks.
struct IssuerKeys(Arc<InForce>);

impl Work for IssuerKeys {
    async fn run(&mut self) -> Ended {
        for installed in self.0.roster().issuers().values() {
            installed.issuer.keys.renew_if_due();
        }
        Ok(())
    }
}

/// Begins deliveries; each is a task of its own.
struct Notices(Arc<Deliveries>);

impl Work for Notices {
    async fn run(&mut self) -> Ended {
        self.0.round().await.map_err(|error| error.to_string())
    }
}

struct UnstoredAnswers(Engine, Arc<Broker>);

impl Work for UnstoredAnswers {
    async fn run(&mut self) -> Ended {
        match self.0.store_unstored().await + self.1.store_journaled_imports().await {
            0 => Ok(()),
            left => Err(format!("the store has not taken {left} answers yet")),
        }
    }
}

/// Begins their renewals; each is a task of its own.
struct AppTokens(Engine);

impl Work for AppTokens {
    async fn run(&mut self) -> Ended {
        self.0.renew_app_tokens_ahead();
        Ok(())
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
    metrics: Arc<Metrics>,
    /// The present error is in the log already.
    is_reported: bool,
}

impl Work for Revocations {
    async fn run(&mut self) -> Ended {
        let followed = self.broker.follow_revocations().await;
        match &followed {
            Ok(()) => self.is_reported = false,
            Err(error) if error.is_outage() || self.is_reported => {
                tracing::debug!(%error, "the revocations could not be read; the known ones stay in force");
            }
            // Nothing is served before the revocations are known. So a start that waits for them must say so.
            Err(error) => {
                tracing::error!(%error, "the revocations cannot be read; the known ones stay in force, and \
                                         nothing is served before they have been read once");
                self.is_reported = true;
            }
        }
        let handles = self.broker.follow_ended_handles().await;
        if let Err(error) = &handles {
            // (Nothing is asked by a handle before the list was read, and again if that fails for long.)
            tracing::debug!(%error, "the list of ended handles could not be read; the known ones stay ended");
        }
        for ((app, caller), count) in self.broker.count_handles() {
            self.metrics.handles_live(&app, &caller, count);
        }
        let noted = self.broker.note_living_handles().await;
        if let Err(error) = &noted {
            tracing::debug!(%error, "the note of living handles could not be checked; it is tried again");
        }
        ended(followed.and(handles).and(noted))
    }
}

/// Keeps this replica's token hosts and the stored ones the same. Runs once more at a stop, for those that
/// the last requests brought.
struct TokenHosts {
    broker: Arc<Broker>,
    /// The present error is in the log already.
    is_reported: bool,
}

impl Work for TokenHosts {
    async fn run(&mut self) -> Ended {
        let followed = self.broker.follow_token_hosts().await;
        match &followed {
            Ok(()) => self.is_reported = false,
            Err(error) if error.is_outage() => {
                tracing::debug!(%error, "the token hosts could not be read or written");
            }
            // A replica that starts in this state sends no secret at all.
            Err(error) if !std::mem::replace(&mut self.is_reported, true) => {
                tracing::error!(%error, "the record of confirmed token hosts does not open: restore it from \
                                         a backup of the store, or restore the sealing key that sealed it; \
                                         or begin it anew with `tokenward credentials confirm APP HOST`");
            }
            Err(_) => {}
        }
        ended(followed)
    }
}
