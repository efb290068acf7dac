//! The broker: what the daemon does, in order. Each use case takes a caller that is known and names that are parsed,
//! gets a permit, and answers in values that any edge can put into its own shape.
//!
//! May know: `policy`, `refresh`, the repository, the `Authority` port, `domain`. Knows nothing of HTTP.
//!
//! Invariants:
//! 1. No token and no word about a connection leaves without a [`Permit`](crate::policy::Permit) (I2).
//! 2. A connection is made or renewed only for the account that its session pinned or its starter confirmed.
//! 3. A right is judged when it is used (`rights`), and what an operator paused or revoked only operators undo.
//! 4. A code is sent to the authority at most once: its state record is marked as answered before, by one.
//!
//! The one hard problem: the browser that comes back is not known to be the one that was sent
//! ([`sign_in`] binds it, and pins the account or leaves it to [`confirm`]).

pub mod admin_consent;
pub mod confirm;
pub mod connect;
mod consent_walk;
pub mod disconnect;
mod in_use;
pub mod inspect;
mod invitations;
pub mod pause;
#[cfg(any(test, feature = "testkit"))]
pub mod properties;
pub mod quota;
mod refusal;
pub mod replicas;
pub mod revoke;
pub mod rewrap;
mod rights;
mod sayings;
mod search;
pub mod serve;
mod session;
mod session_waits;
mod shown_consent;
pub mod sign_in;
mod sign_in_permits;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
pub use refusal::{Outside, Refusal};
pub use session::{ConsentState, FailureReason, Mender, SessionFailure, SessionState};
use tokio::sync::oneshot;

use crate::authority::Authority;
use crate::domain::id::{AppName, ConnectionKey};
use crate::domain::random::Random;
use crate::domain::scope::{ScopeNaming, ScopeSet};
use crate::domain::task::Tasks;
use crate::domain::tenants::Tenants;
use crate::domain::time::Clock;
use crate::policy::Policies;
use crate::refresh::Engine;
use crate::repository::{Repository, RepositoryError};

/// One app, as the use cases need it.
pub struct App {
    /// Its authority.
    pub authority: Arc<dyn Authority>,
    /// What people are shown.
    pub display_name: String,
    /// Whom people ask for help, if the operator said so.
    pub support_contact: Option<String>,
    /// What a connect session asks for by default, and the most it may ask for.
    pub scopes: ScopeSet,
    /// Whose accounts may be connected.
    pub tenants: Tenants,
    /// Where a browser may be sent back to, exact.
    pub return_urls: Vec<String>,
    /// The registered redirect URI.
    pub redirect_uri: String,
}

/// How long things may take.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `{base_url}` of the public listener, no slash at the end.
    pub base_url: String,
    /// Life of a connect session.
    pub connect_session_ttl: Duration,
    /// Life of an authorize request.
    pub state_ttl: Duration,
    /// How long a finished sign-in waits for its confirmation.
    pub confirmation_ttl: Duration,
    /// Connect sessions of one caller that may be open at once.
    pub open_sessions: u32,
}

/// What the use cases stand on.
pub struct Deps {
    /// Tokens.
    pub engine: Engine,
    /// Connections and sessions.
    pub repository: Arc<Repository>,
    /// What callers may do now.
    pub policies: Arc<dyn Policies>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// Tasks that outlive a request.
    pub tasks: Arc<dyn Tasks>,
}

/// The apps, by name.
pub type Apps = BTreeMap<AppName, Arc<App>>;

/// The use cases.
pub struct Broker {
    apps: ArcSwap<Apps>,
    deps: Deps,
    settings: ArcSwap<Settings>,
    session_waits: session_waits::SessionWaits,
    /// Links given beside a refusal, by whom they were given to.
    invitations: invitations::Invitations,
    /// Who waits for a session is answered at once.
    stopping: AtomicBool,
    at_their_limit: quota::AtTheirLimit,
    replicas: replicas::Known,
    rewrap: rewrap::State,
    reports: consent_walk::Reports,
    sign_in_permits: sign_in_permits::SignInPermits,
    shown_consents: shown_consent::ShownConsents,
    walks: search::Walks,
    /// What the log is told of what strangers can repeat.
    sayings: sayings::Sayings,
}

impl Broker {
    /// A broker for these apps.
    pub fn new(apps: Apps, deps: Deps, settings: Settings) -> Self {
        Broker {
            apps: ArcSwap::from_pointee(apps),
            deps,
            settings: ArcSwap::from_pointee(settings),
            session_waits: session_waits::SessionWaits::default(),
            invitations: invitations::Invitations::default(),
            stopping: AtomicBool::new(false),
            at_their_limit: quota::AtTheirLimit::default(),
            replicas: replicas::Known::default(),
            rewrap: rewrap::State::default(),
            reports: consent_walk::Reports::default(),
            sign_in_permits: sign_in_permits::SignInPermits::default(),
            shown_consents: shown_consent::ShownConsents::default(),
            walks: search::Walks::default(),
            sayings: sayings::Sayings::default(),
        }
    }

    /// The same as one of several replicas, on the machine of that name.
    #[must_use]
    pub fn on_host(mut self, host: String) -> Self {
        self.replicas = replicas::Known::new(self.deps.random.as_ref(), host);
        self
    }

    /// An app, by name.
    pub fn app(&self, name: &AppName) -> Result<Arc<App>, Refusal> {
        self.apps.load().get(name).cloned().ok_or(Refusal::AppNotFound)
    }

    /// Every app of now.
    pub fn apps(&self) -> Arc<Apps> {
        self.apps.load_full()
    }

    /// From now on these are the apps, and things may take so long. What is under way goes on as it was begun.
    pub fn reconfigure(&self, apps: Apps, settings: Settings) {
        self.apps.store(Arc::new(apps));
        self.settings.store(Arc::new(settings));
    }

    /// How browsers reach the public listener, no slash at the end.
    pub fn base_url(&self) -> String {
        self.settings.load().base_url.clone()
    }

    fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// An operator's word that what is in the store's place now is the store. Everything held in memory is looked at again.
    pub async fn adopt_store(&self) -> Result<(), Refusal> {
        self.deps.repository.adopt_store().await.map_err(RepositoryError::from)?;
        self.deps.engine.start_over();
        Ok(())
    }

    /// The process stops: long polls are answered with what is known.
    pub fn stop_waiting(&self) {
        self.stopping.store(true, Ordering::Release);
        self.session_waits.wake_all();
    }

    /// Runs work that must not end with the request that asked for it. `None` when it panicked.
    async fn to_the_end<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        let task = async move {
            // Nobody waits any more when this fails: the work is done all the same.
            let _ = sender.send(work.await);
        };
        self.deps.tasks.spawn(name, Box::pin(task));
        receiver.await.ok()
    }

    /// The tenant of a connection, where there is one.
    async fn tenant_of(&self, key: &ConnectionKey) -> Result<Option<String>, Refusal> {
        match self.deps.engine.inspect(key).await {
            Ok(held) => Ok(held.connection.profile.account.tid.clone()),
            Err(failure) => match Refusal::of_failure(&failure) {
                Refusal::ConnectionNotFound => Ok(None),
                refusal => Err(refusal),
            },
        }
    }
}

impl App {
    fn naming(&self) -> &ScopeNaming {
        self.authority.scope_naming()
    }
}
