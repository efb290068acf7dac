//! What the drivers need: the outside (store, authorities, time, tasks), settings, and knowledge beyond one
//! connection. No slot is in here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::breaker::Breakers;
use super::budget::{Budget, Whose};
use super::census::Census;
use super::granted::Granted;
use super::idle_limits::IdleLimits;
use super::observer::Observer;
use super::permit::CallPermit;
use super::revoked::Revoked;
use super::tenant_watch::TenantWatch;
use crate::authority::Authority;
use crate::domain::cause::Cause;
use crate::domain::id::{AppName, CallerName};
use crate::domain::random::Random;
use crate::domain::task::Tasks;
use crate::domain::time::{Clock, Moment, Timestamp};
use crate::repository::Repository;
use crate::span::Tracer;

/// The engine's settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a caller waits at most.
    pub caller_wait: Duration,
    /// How long a cached connection is served while the store cannot be reached.
    pub serve_cached_for: Duration,
    /// How long a lease of a connection lasts if it is not prolonged.
    pub lease: Duration,
    /// How long one call to an authority may take; less than a lease.
    pub authority_timeout: Duration,
    /// Renewals ahead of time that begin in a second, of all replicas together.
    pub sweep_rate: f64,
    /// About how many bytes cached connections take at most. The least recently used leave first, and are
    /// read again when they are needed.
    pub most_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            caller_wait: Duration::from_secs(15),
            serve_cached_for: Duration::from_secs(300),
            lease: Duration::from_secs(30),
            authority_timeout: Duration::from_secs(10),
            sweep_rate: 50.0,
            most_bytes: 128 * 1024 * 1024,
        }
    }
}

/// One app, as the engine needs it.
#[derive(Clone)]
pub struct EngineApp {
    /// Its authority.
    pub authority: Arc<dyn Authority>,
}

/// Configured apps, and removed ones that are kept until their running work ends.
#[derive(Clone, Default)]
struct Apps {
    known: BTreeMap<AppName, EngineApp>,
    gone: BTreeMap<AppName, EngineApp>,
}

/// Ports and rooms that the engine needs.
pub struct Deps {
    /// Connections.
    pub repository: Arc<Repository>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness, for jitter.
    pub random: Arc<dyn Random>,
    /// Tasks.
    pub tasks: Arc<dyn Tasks>,
    /// Receives events.
    pub observer: Arc<dyn Observer>,
    /// Begins the traces of renewals that nobody asked for.
    pub tracer: Tracer,
}

/// What every driver gets.
pub(super) struct Ports {
    pub(super) deps: Deps,
    settings: ArcSwap<Settings>,
    apps: ArcSwap<Apps>,
    budget: Budget,
    pub(super) breakers: Breakers,
    pub(super) revoked: Revoked,
    pub(super) idle_limits: IdleLimits,
    pub(super) granted: Granted,
    /// What changed the number of connections with a status.
    pub(super) census: Mutex<Census>,
    /// What was seen of tenants.
    pub(super) tenants: Mutex<TenantWatch>,
    /// Monotonic milliseconds of the store's last known answer, to whatever question.
    answered_at: AtomicU64,
}

impl Ports {
    pub(super) fn new(apps: BTreeMap<AppName, EngineApp>, deps: Deps, settings: Settings) -> Self {
        Ports {
            deps,
            settings: ArcSwap::from_pointee(settings),
            apps: ArcSwap::from_pointee(Apps { known: apps, gone: BTreeMap::new() }),
            budget: Budget::default(),
            breakers: Breakers::default(),
            revoked: Revoked::default(),
            idle_limits: IdleLimits::default(),
            granted: Granted::default(),
            census: Mutex::default(),
            tenants: Mutex::default(),
            answered_at: AtomicU64::new(0),
        }
    }

    /// Replaces the apps and the settings. Work of removed apps ends as it began.
    pub(super) fn reconfigure(&self, apps: BTreeMap<AppName, EngineApp>, settings: Settings) {
        let mut gone = self.apps.load_full().as_ref().clone();
        gone.gone.append(&mut gone.known);
        gone.gone.retain(|name, _| !apps.contains_key(name));
        self.apps.store(Arc::new(Apps { known: apps, gone: gone.gone }));
        self.settings.store(Arc::new(settings));
    }

    /// The present settings.
    pub(super) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Whether the app is configured.
    pub(super) fn knows_app(&self, app: &AppName) -> bool {
        self.apps.load().known.contains_key(app)
    }

    /// An app's authority, for as long as work of it may be under way.
    pub(super) fn authority(&self, app: &AppName) -> Option<Arc<dyn Authority>> {
        let apps = self.apps.load();
        apps.known.get(app).or_else(|| apps.gone.get(app)).map(|app| app.authority.clone())
    }

    /// Connections.
    pub(super) fn repository(&self) -> &Repository {
        &self.deps.repository
    }

    /// The wall clock.
    pub(super) fn now(&self) -> Timestamp {
        self.deps.clock.now()
    }

    /// Monotonic time.
    pub(super) fn monotonic(&self) -> Duration {
        self.deps.clock.monotonic()
    }

    /// Both clocks.
    pub(super) fn moment(&self) -> Moment {
        Moment { monotonic: self.monotonic(), now: self.now() }
    }

    /// Sleeps.
    pub(super) async fn sleep(&self, duration: Duration) {
        self.deps.clock.sleep(duration).await;
    }

    /// Randomness.
    pub(super) fn random(&self) -> &dyn Random {
        self.deps.random.as_ref()
    }

    /// Runs work in a task of its own.
    pub(super) fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.deps.tasks.spawn(name, Box::pin(task));
    }

    /// The store answered: requests that waited in vain may ask again.
    pub(super) fn store_answered(&self) {
        let now = u64::try_from(self.monotonic().as_millis()).unwrap_or(u64::MAX);
        self.answered_at.fetch_max(now, Ordering::AcqRel);
    }

    /// Whether the store answered anybody after `asked_at` (monotonic).
    pub(super) fn answered_since(&self, asked_at: Duration) -> bool {
        u128::from(self.answered_at.load(Ordering::Acquire)) > asked_at.as_millis()
    }

    /// Takes a permit from the budget of calls that no request without a token waits for, or returns the time
    /// to wait.
    pub(super) fn take(
        &self,
        cause: Cause,
        by: Option<&CallerName>,
        is_first_report: bool,
    ) -> Result<CallPermit, Duration> {
        let whose = match cause {
            Cause::Sweep => Whose::Sweep,
            Cause::Consent => Whose::Consent,
            Cause::Import => Whose::Imports,
            Cause::Report | Cause::Challenge | Cause::MinTtl => Whose::Caller(by.cloned()),
            Cause::SignIn => Whose::SignIns(by.cloned()),
        };
        let now = self.monotonic();
        let observer = self.deps.observer.clone();
        let spend = move || observer.budgeted(cause, true);
        let taken = self.budget.take(&whose, is_first_report, self.settings().sweep_rate, now, spend);
        taken.inspect_err(|_| self.deps.observer.budgeted(cause, false))
    }
}
