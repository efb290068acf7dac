//! The broker: tokenward's use cases. Each takes a permit and parsed values, and returns values that any API
//! can format. A use case about a session takes its id and the caller: only the starter's session is found.
//!
//! May know: `policy`, `refresh`, the repository, the `Authority` port, `domain`, and as a value that it
//! hands on the way to a resource (`outbound`). It knows no HTTP.
//!
//! Invariants:
//! 1. No token and no information about a connection leaves without a [`Permit`](crate::policy::Permit), and
//!    no token of an app itself without an [`AppTokenPermit`](crate::policy::AppTokenPermit) (I2).
//! 2. A connection is created or renewed only for the account that its session pinned or its starter
//!    confirmed.
//! 3. A right is judged when it is used (`rights`), and only operators undo an operator's pause or
//!    revocation.
//! 4. A code is sent to the authority at most once: its state record is first marked as answered, which
//!    succeeds once.
//!
//! The one hard problem: the returning browser may not be the one that was sent ([`sign_in`] binds it, and
//! pins the account or leaves it to [`confirm`]).

pub mod admin_consent;
mod app_notices;
pub mod app_tokens;
pub mod confirm;
pub mod connect;
mod consent_walk;
mod counts;
mod credential_choices;
pub mod credentials;
pub mod disconnect;
pub mod exchange;
pub mod export;
pub mod forecast;
pub mod handles;
pub mod import;
mod in_use;
pub mod inspect;
mod invitations;
pub mod living_handles;
mod mailboxes;
pub mod once;
mod own_tokens;
pub mod pause;
#[cfg(any(test, feature = "testkit"))]
pub mod properties;
pub mod quota;
mod refusal;
pub mod relay;
pub mod replicas;
pub mod revoke;
pub mod rewrap;
mod rights;
mod sayings;
mod search;
pub mod serve;
mod session;
pub mod session_list;
mod session_waits;
mod shown_consent;
pub mod sign_in;
mod sign_in_permits;
pub mod tenant_blocks;
mod token_hosts;
pub mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
pub use mailboxes::{Busy, MailboxName, Mailboxes, Turn, Turns, Wanted};
use parking_lot::Mutex;
pub use refusal::{Outside, Refusal};
pub use relay::{Rejected, RelayBase};
pub use rights::Right;
pub use session::{ConsentState, FailureReason, Mender, Noted, SessionFailure, SessionState};
use tokio::sync::oneshot;

use crate::authority::{Authority, ClientCredentials, KnownTokenHosts};
use crate::domain::id::{AppName, ConnectionKey};
use crate::domain::random::Random;
use crate::domain::scope::{ScopeNaming, ScopeSet};
use crate::domain::task::Tasks;
use crate::domain::tenants::Tenants;
use crate::domain::time::Clock;
use crate::notices::Feed;
use crate::policy::Policies;
use crate::refresh::Engine;
use crate::repository::{Repository, RepositoryError};

/// 100 years: a store wants an expiry, and a record of what operators decided must not have one.
const KEPT_FOR_GOOD: Duration = Duration::from_secs(100 * 365 * 86_400);

/// One app, as the use cases need it.
pub struct App {
    /// Its authority.
    pub authority: Arc<dyn Authority>,
    /// Its client credentials there.
    pub credentials: Arc<dyn ClientCredentials>,
    /// Its name for people, if configured.
    pub display_name: Option<String>,
    /// What it wants accounts for, in a sentence for people, if configured.
    pub purpose: Option<String>,
    /// Contact for people who need help, if configured.
    pub support_contact: Option<String>,
    /// Default scopes of a connect session, and the most that it may request.
    pub scopes: ScopeSet,
    /// Whose accounts may be connected.
    pub tenants: Tenants,
    /// At Entra the tenant in which it is registered, by its id or domain, if that is known.
    pub home_tenant: Option<String>,
    /// Allowed return URLs, compared exactly.
    pub return_urls: Vec<String>,
    /// The registered redirect URI.
    pub redirect_uri: String,
    /// Its mount in the paths of Vault, if it has one.
    pub mount: Option<String>,
    /// Where callers' requests may be relayed to.
    pub bases: Vec<Arc<RelayBase>>,
}

/// Limits of time and number.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `{base_url}` of the public listener, without a slash at the end.
    pub base_url: String,
    /// Life of a connect session.
    pub connect_session_ttl: Duration,
    /// Life of an authorize request.
    pub state_ttl: Duration,
    /// How long a finished sign-in waits for its confirmation.
    pub confirmation_ttl: Duration,
    /// Most open connect sessions of one caller.
    pub open_sessions: u32,
    /// Most open streams of one caller.
    pub streams_per_caller: u32,
    /// How long a relayed request waits for its turn at a mailbox.
    pub caller_wait: Duration,
}

/// Ports and rooms that the use cases need.
pub struct Deps {
    /// Serves tokens.
    pub engine: Engine,
    /// Stores connections and sessions.
    pub repository: Arc<Repository>,
    /// Callers' current rules.
    pub policies: Arc<dyn Policies>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// Runs work that outlives a request.
    pub tasks: Arc<dyn Tasks>,
    /// Where secrets may go.
    pub token_hosts: Arc<KnownTokenHosts>,
}

/// The apps, by name.
pub type Apps = BTreeMap<AppName, Arc<App>>;

/// All use cases.
pub struct Broker {
    apps: ArcSwap<Apps>,
    deps: Deps,
    settings: ArcSwap<Settings>,
    session_waits: session_waits::SessionWaits,
    /// Links given beside a refusal, by caller.
    invitations: invitations::Invitations<ConnectionKey, connect::StartedSession>,
    /// Administrators' links that operators were given, by the caller that they are made for.
    consent_links: invitations::Invitations<(AppName, String), admin_consent::GivenLink>,
    /// True once waits for sessions must end at once.
    stopping: AtomicBool,
    at_their_limit: quota::AtTheirLimit,
    replicas: replicas::Known,
    rewrap: rewrap::State,
    reports: consent_walk::Reports,
    sign_in_permits: sign_in_permits::SignInPermits,
    shown_consents: shown_consent::ShownConsents,
    walks: search::Walks,
    choosing: credential_choices::Choosing,
    proving: credentials::UnderWay,
    /// Limits log lines about events that strangers can repeat.
    sayings: sayings::Sayings,
    streams: watch::Streams,
    feed: Arc<Feed>,
    looked: app_notices::Looked,
    own_tokens: own_tokens::OwnTokens,
    mailboxes: Mailboxes,
    /// The tenants that block an app, as last heard.
    blocked_tenants: ArcSwap<Vec<tenant_blocks::BlockedTenant>>,
    /// The last change to them, if its answer was lost.
    perhaps_told: Mutex<Option<tenant_blocks::PerhapsTold>>,
    handles: handles::Known,
    imports: import::Imports,
}

impl Broker {
    /// Makes a broker for these apps.
    pub fn new(apps: Apps, deps: Deps, settings: Settings) -> Self {
        let mailboxes = Mailboxes::new(
            Arc::clone(&deps.repository),
            Arc::clone(&deps.clock),
            Arc::clone(&deps.random),
            Arc::clone(&deps.tasks),
        );
        let feed = Arc::new(Feed::new(Arc::clone(&deps.repository)));
        Broker {
            apps: ArcSwap::from_pointee(apps),
            deps,
            settings: ArcSwap::from_pointee(settings),
            session_waits: session_waits::SessionWaits::default(),
            invitations: invitations::Invitations::default(),
            consent_links: invitations::Invitations::default(),
            stopping: AtomicBool::new(false),
            at_their_limit: quota::AtTheirLimit::default(),
            replicas: replicas::Known::default(),
            rewrap: rewrap::State::default(),
            reports: consent_walk::Reports::default(),
            sign_in_permits: sign_in_permits::SignInPermits::default(),
            shown_consents: shown_consent::ShownConsents::default(),
            walks: search::Walks::default(),
            choosing: credential_choices::Choosing::default(),
            proving: credentials::UnderWay::default(),
            sayings: sayings::Sayings::default(),
            streams: watch::Streams::default(),
            feed,
            looked: app_notices::Looked::default(),
            own_tokens: own_tokens::OwnTokens::default(),
            mailboxes,
            blocked_tenants: ArcSwap::default(),
            perhaps_told: Mutex::default(),
            handles: handles::Known::default(),
            imports: import::Imports::default(),
        }
    }

    /// Names this machine, for an installation with several replicas.
    #[must_use]
    pub fn on_host(mut self, host: String) -> Self {
        self.replicas = replicas::Known::new(self.deps.random.as_ref(), host);
        self
    }

    /// Returns an app by name.
    pub fn app(&self, name: &AppName) -> Result<Arc<App>, Refusal> {
        self.apps.load().get(name).cloned().ok_or(Refusal::AppNotFound)
    }

    /// Returns the name of the app with this mount.
    pub fn app_at(&self, mount: &str) -> Result<AppName, Refusal> {
        let apps = self.apps.load();
        let found = apps.iter().find(|(_, app)| app.mount.as_deref() == Some(mount));
        found.map(|(name, _)| name.clone()).ok_or(Refusal::AppNotFound)
    }

    /// Returns all current apps.
    pub fn apps(&self) -> Arc<Apps> {
        self.apps.load_full()
    }

    /// Replaces the apps and settings. Work under way continues with the old ones.
    pub fn reconfigure(&self, apps: Apps, settings: Settings) {
        self.apps.store(Arc::new(apps));
        self.settings.store(Arc::new(settings));
    }

    /// Returns the public listener's address for browsers, without a slash at the end.
    pub fn base_url(&self) -> String {
        self.settings.load().base_url.clone()
    }

    fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Returns which store this is ([`crate::store::Store::id`]).
    pub fn store_id(&self) -> Option<String> {
        self.deps.repository.store_id()
    }

    /// Adopts the present store on an operator's word, and checks everything cached against it.
    pub async fn adopt_store(&self) -> Result<(), Refusal> {
        self.deps.repository.adopt_store().await.map_err(RepositoryError::from)?;
        self.deps.engine.start_over();
        Ok(())
    }

    /// Makes all long polls return at once, because the process stops.
    pub fn stop_waiting(&self) {
        self.stopping.store(true, Ordering::Release);
        self.session_waits.wake_all();
    }

    /// Runs work that must outlive its request. `None` if it panicked.
    async fn to_the_end<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        let task = async move {
            // If this fails, nobody waits any more; the work is done all the same.
            let _ = sender.send(work.await);
        };
        self.deps.tasks.spawn(name, Box::pin(task));
        receiver.await.ok()
    }

    /// Returns the tenant of a connection, if it has one.
    async fn tenant_of(&self, key: &ConnectionKey) -> Result<Option<String>, Refusal> {
        match self.deps.engine.inspect(key).await {
            Ok(held) => Ok(held.connection.profile.account().tid.clone()),
            Err(failure) => match Refusal::of_failure(&failure) {
                Refusal::ConnectionNotFound => Ok(None),
                refusal => Err(refusal),
            },
        }
    }
}

impl App {
    /// Returns how its authority names scopes.
    pub fn naming(&self) -> &ScopeNaming {
        self.authority.scope_naming()
    }
}
