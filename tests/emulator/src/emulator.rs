//! The library's interface: build an emulator, start it, use its controls.

use parking_lot::Mutex;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use crate::directory::{App, FederatedCredential, User};
use crate::faults::FaultRule;
use crate::graph::{ChallengeStyle, Pending};
use crate::ledger::{Endpoint, LedgerEntry};
use crate::server::{Shared, serve};
use crate::settings::{ConsentPolicy, Mode, Settings};
use crate::state::{RevokeKind, State};
use crate::tls::Tls;

/// Why an emulator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is no address, or not a loopback one. The emulator hands out tokens to anyone who asks.
    #[error("the emulator listens on loopback addresses only, not on {0}")]
    Address(String),
    /// The address could not be bound, or the thread not started.
    #[error("could not listen on {address}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// An app is not acceptable.
    #[error("app {client_id} is not acceptable: {reason}")]
    App {
        /// Which app.
        client_id: String,
        /// Why.
        reason: String,
    },
    /// The certificates could not be made.
    #[error("could not prepare TLS")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What an emulator starts with.
#[derive(Clone, Debug)]
pub struct Builder {
    settings: Settings,
    https: bool,
    address: String,
    apps: Vec<App>,
    users: Vec<User>,
}

impl Builder {
    /// What becomes of used refresh tokens. [`Mode::Entra`] by default.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.settings.mode = mode;
        self
    }

    /// Serves TLS with an authority of its own, see [`Emulator::ca_pem`]. Off by default.
    pub fn https(mut self, https: bool) -> Self {
        self.https = https;
        self
    }

    /// Where to listen; `127.0.0.1:0` by default. Loopback only.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = address.into();
        self
    }

    /// A fixed access token life in whole seconds; by default a random one between 60 and 90 minutes.
    pub fn token_lifetime(mut self, lifetime: Duration) -> Self {
        self.settings.token_lifetime_seconds = Some(lifetime.as_secs());
        self
    }

    /// Whether users are signed in at once, without pages. On by default.
    pub fn automatic(mut self, automatic: bool) -> Self {
        self.settings.automatic = automatic;
        self
    }

    /// Changes any of the settings.
    pub fn settings(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// Registers an app.
    pub fn app(mut self, app: App) -> Self {
        self.apps.push(app);
        self
    }

    /// Adds a user, and the tenant that goes with them.
    pub fn user(mut self, user: User) -> Self {
        self.users.push(user);
        self
    }

    /// Starts the emulator on a thread of its own, so that neither a blocked nor a paused test runtime stops
    /// it.
    ///
    /// # Errors
    /// When the address is not a loopback one or cannot be bound, or when an app is not acceptable.
    pub async fn start(self) -> Result<Emulator, StartError> {
        let listener = bind(&self.address)?;
        let failed = |source| StartError::Listen { address: self.address.clone(), source };
        let port = listener.local_addr().map_err(failed)?.port();
        let tls = if self.https { Some(Tls::new().map_err(StartError::Tls)?) } else { None };

        let mut state = State::new(self.settings);
        state.base = match (&tls, listener.local_addr().map_err(failed)?) {
            (Some(_), _) => format!("https://localhost:{port}"),
            (None, address) => format!("http://{address}"),
        };
        let now = state.clock.now();
        for app in self.apps {
            let client_id = app.client_id.clone();
            state.directory.add_app(app, now).map_err(|reason| StartError::App { client_id, reason })?;
        }
        for user in self.users {
            state.directory.add_user(user);
        }
        let base = state.base.clone();
        let shared = Arc::new(Shared::new(state));
        let (stop, stopped) = oneshot::channel();
        let (running, done) = watch::channel(());
        let acceptor = tls.as_ref().map(|tls| tls.acceptor.clone());
        let served = Arc::clone(&shared);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        std::thread::Builder::new()
            .name("entra-emulator".into())
            .spawn(move || {
                let _running = running;
                runtime.block_on(async move {
                    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
                    tokio::select! {
                        () = serve(listener, acceptor, served) => {}
                        _ = stopped => {}
                    }
                });
            })
            .map_err(failed)?;
        let handle =
            Handle { shared, base, ca_pem: tls.map(|tls| tls.ca_pem), stop: Mutex::new(Some(stop)), done };
        Ok(Emulator(Arc::new(handle)))
    }
}

/// A running emulator. Clones are the same emulator; it stops when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Emulator(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    base: String,
    ca_pem: Option<String>,
    /// Dropping it stops the server.
    stop: Mutex<Option<oneshot::Sender<()>>>,
    done: watch::Receiver<()>,
}

/// Error of a control: something does not exist or is not acceptable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KnobError(String);

/// Addresses, and the end.
impl Emulator {
    /// An emulator on a free port with no apps and no users yet.
    pub fn builder() -> Builder {
        Builder {
            settings: Settings::default(),
            https: false,
            address: "127.0.0.1:0".into(),
            apps: Vec::new(),
            users: Vec::new(),
        }
    }

    /// `http://127.0.0.1:PORT`, or `https://localhost:PORT`.
    pub fn base_url(&self) -> String {
        self.0.base.clone()
    }

    /// The authority of a tenant: `{base}/{tenant}/v2.0`.
    pub fn authority(&self, tenant: &str) -> String {
        format!("{}/{tenant}/v2.0", self.0.base)
    }

    /// Where Graph is: `{base}/graph`.
    pub fn graph_url(&self) -> String {
        format!("{}/graph", self.0.base)
    }

    /// The certificate to trust, when it serves TLS.
    pub fn ca_pem(&self) -> Option<String> {
        self.0.ca_pem.clone()
    }

    /// Stops and waits until the port is free. Dropping the last clone stops without waiting.
    pub async fn stop(&self) {
        drop(self.0.stop.lock().take());
        let mut done = self.0.done.clone();
        while done.changed().await.is_ok() {}
    }
}

/// Requests.
impl Emulator {
    /// Every request so far, oldest first.
    pub fn ledger(&self) -> Vec<LedgerEntry> {
        self.0.shared.state().ledger.entries()
    }

    /// How many requests an endpoint had, of one grant type or of all.
    pub fn ledger_count(&self, endpoint: Endpoint, grant_type: Option<&str>) -> usize {
        self.0.shared.state().ledger.count(endpoint, grant_type)
    }

    /// Removes and returns the oldest requests, up to the first that is not over, for runs longer than the
    /// ledger.
    pub fn take_ledger(&self) -> Vec<LedgerEntry> {
        self.0.shared.state().ledger.take_ended()
    }

    /// Forgets the requests so far. Sequence numbers go on.
    pub fn clear_ledger(&self) {
        self.0.shared.state().ledger.clear();
    }
}

/// Secrets, for tests that search for leaks. Only from Rust, never over HTTP.
impl Emulator {
    /// Every authorization code, refresh token and access token issued so far, each with its kind: `code`,
    /// `refresh_token` or `access_token`.
    pub fn issued_secrets(&self) -> Vec<(&'static str, String)> {
        let state = self.0.shared.state();
        let named = |kind: &'static str, text: &str| (kind, text.to_owned());
        let codes = state.codes.keys().map(|text| named("code", text));
        let refresh = state.refresh_tokens.keys().map(|text| named("refresh_token", text));
        let access = state.access_tokens.keys().map(|text| named("access_token", text));
        codes.chain(refresh).chain(access).collect()
    }

    /// The secrets that token requests brought, oldest first, under their names in the form: `code`,
    /// `code_verifier`, `refresh_token`, `client_secret`, `client_assertion`. The latest ten thousand.
    pub fn presented_secrets(&self) -> Vec<(&'static str, String)> {
        self.0.shared.state().presented.iter().cloned().collect()
    }
}

/// Faults on demand.
#[derive(Clone, Debug)]
pub struct Faults(Emulator);

impl Faults {
    /// Adds a rule.
    ///
    /// # Panics
    /// When a thousand rules are in force already.
    pub fn inject(&self, rule: FaultRule) {
        assert!(self.0.0.shared.state().rules.inject(rule), "too many fault rules");
    }

    /// Removes the rules with this fault and target, however often they would still hit.
    pub fn withdraw(&self, rule: &FaultRule) {
        self.0.0.shared.state().rules.withdraw(rule);
    }

    /// Lets every request go on that [`Fault::Hold`](crate::Fault::Hold) or
    /// [`Fault::HoldAnswer`](crate::Fault::HoldAnswer) holds. Rules stay in force, and hold what comes.
    pub fn release(&self) {
        self.0.0.shared.state().released.send_replace(());
    }

    /// Removes every rule.
    pub fn clear(&self) {
        self.0.0.shared.state().rules.clear();
    }

    /// The rules still in force.
    pub fn rules(&self) -> Vec<FaultRule> {
        self.0.0.shared.state().rules.all().to_vec()
    }
}

/// Time, settings, users.
impl Emulator {
    /// The fault rules.
    pub fn faults(&self) -> Faults {
        Faults(self.clone())
    }

    /// Moves the emulator's clock forward: tokens, codes and secrets age at once.
    pub fn advance(&self, by: Duration) {
        self.0.shared.state().clock.advance(by);
    }

    /// The emulator's clock.
    pub fn now(&self) -> std::time::SystemTime {
        self.0.shared.state().clock.now().system_time()
    }

    /// The settings in force.
    pub fn settings(&self) -> Settings {
        self.0.shared.state().settings.clone()
    }

    /// Changes settings while running.
    pub fn change_settings(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.0.shared.state().settings);
    }

    /// Sets the user that automatic mode signs in without a `login_hint`.
    pub fn sign_in_as(&self, upn: impl Into<String>) {
        self.0.shared.state().settings.sign_in_as = Some(upn.into());
    }

    /// A token of a user for an app's own users or API, signed like an `id_token`: with its claims, and with
    /// those of `patch` (`null` takes one away). For tests that present a user's token to somebody else.
    ///
    /// # Errors
    /// When there is no such user.
    pub fn user_token(
        &self,
        upn: &str,
        client_id: &str,
        patch: &serde_json::Value,
    ) -> Result<String, KnobError> {
        self.0.shared.state().user_token(upn, client_id, patch).map_err(KnobError)
    }

    /// A refresh token that another program of this app got from a user, who consented there to these scopes.
    ///
    /// # Errors
    /// When there is no such user, or a scope is none.
    pub fn foreign_grant(&self, upn: &str, client_id: &str, scopes: &str) -> Result<String, KnobError> {
        self.0.shared.state().foreign_grant(upn, client_id, scopes).map_err(KnobError)
    }

    /// Adds a user; replaces one of the same name.
    pub fn add_user(&self, user: User) {
        self.0.shared.state().directory.add_user(user);
    }

    /// Revokes a user's right.
    ///
    /// # Errors
    /// When there is no such user.
    pub fn revoke_user(&self, upn: &str, kind: RevokeKind) -> Result<(), KnobError> {
        self.0.shared.state().revoke(upn, kind).map_err(KnobError)
    }

    /// Lifts what blocks a user. Refresh tokens that died stay dead.
    ///
    /// # Errors
    /// When there is no such user.
    pub fn restore_user(&self, upn: &str) -> Result<(), KnobError> {
        self.0.shared.state().restore(upn).map_err(KnobError)
    }

    /// Lets every access token issued so far expire now.
    pub fn expire_access_tokens(&self) {
        self.0.shared.state().expire_access_tokens();
    }

    /// Signs with new keys from now on. With `overlap` the old keys stay published.
    pub fn rotate_signing_keys(&self, overlap: bool) {
        self.0.shared.state().keys.rotate(overlap);
    }
}

/// Apps and their credentials.
impl Emulator {
    /// Registers an app; replaces one of the same id.
    ///
    /// # Errors
    /// When a certificate cannot be read, or there are too many secrets.
    pub fn add_app(&self, app: App) -> Result<(), KnobError> {
        let mut state = self.0.shared.state();
        let now = state.clock.now();
        state.directory.add_app(app, now).map_err(KnobError)
    }

    /// Adds a secret that works after `active_after` and expires after `expires_after`; returns its key id.
    ///
    /// # Errors
    /// When there is no such app, or it has its most secrets.
    pub fn add_secret(
        &self,
        client_id: &str,
        value: &str,
        active_after: Duration,
        expires_after: Option<Duration>,
    ) -> Result<String, KnobError> {
        self.0.shared.state().add_secret(client_id, value, active_after, expires_after).map_err(KnobError)
    }

    /// Until then, refuses every other request with this secret, like replicas that do not know it yet.
    ///
    /// # Errors
    /// When there is no such app or secret.
    pub fn let_secret_flap(&self, client_id: &str, which: &str, within: Duration) -> Result<(), KnobError> {
        self.0.shared.state().let_secret_flap(client_id, which, within).map_err(KnobError)
    }

    /// Removes a secret by its value or key id.
    ///
    /// # Errors
    /// When there is no such app or secret.
    pub fn remove_secret(&self, client_id: &str, which: &str) -> Result<(), KnobError> {
        self.0.shared.state().remove_secret(client_id, which).map_err(KnobError)
    }

    /// Lets a secret expire now, by its value or key id.
    ///
    /// # Errors
    /// When there is no such app or secret.
    pub fn expire_secret(&self, client_id: &str, which: &str) -> Result<(), KnobError> {
        self.0.shared.state().expire_secret(client_id, which).map_err(KnobError)
    }

    /// Replaces every secret of an app by this one; returns its key id.
    ///
    /// # Errors
    /// When there is no such app.
    pub fn rotate_secret(&self, client_id: &str, value: &str) -> Result<String, KnobError> {
        self.0.shared.state().rotate_secret(client_id, value).map_err(KnobError)
    }

    /// Replaces the certificates of an app (PEM).
    ///
    /// # Errors
    /// When there is no such app, or a certificate cannot be read.
    pub fn set_certificates(&self, client_id: &str, pems: &[&str]) -> Result<(), KnobError> {
        self.0.shared.state().set_certificates(client_id, pems.iter().copied()).map_err(KnobError)
    }

    /// Revokes the certificates an app has now: 7000214 when one is used.
    ///
    /// # Errors
    /// When there is no such app.
    pub fn revoke_certificates(&self, client_id: &str) -> Result<(), KnobError> {
        self.0.shared.state().revoke_certificates(client_id).map_err(KnobError)
    }

    /// Adds a federated credential; replaces one of the same issuer and subject.
    ///
    /// # Errors
    /// When there is no such app, or it has twenty.
    pub fn add_federated_credential(
        &self,
        client_id: &str,
        credential: FederatedCredential,
    ) -> Result<(), KnobError> {
        self.0.shared.state().add_federated(client_id, credential).map_err(KnobError)
    }
}

/// Consent.
impl Emulator {
    /// Sets who may consent, in one tenant (id or domain) or, with `None`, wherever no other policy is set.
    ///
    /// # Errors
    /// When there is no such tenant.
    pub fn set_consent_policy(&self, tenant: Option<&str>, policy: ConsentPolicy) -> Result<(), KnobError> {
        self.0.shared.state().set_consent_policy(tenant, policy).map_err(KnobError)
    }

    /// An administrator consents to these scopes for a whole tenant (id or domain).
    ///
    /// # Errors
    /// When there is no such tenant or app, or a scope is none.
    pub fn grant_admin_consent(&self, tenant: &str, client_id: &str, scopes: &str) -> Result<(), KnobError> {
        self.0.shared.state().grant_admin_consent(tenant, client_id, scopes).map_err(KnobError)
    }

    /// An administrator takes the consent of a whole tenant back.
    ///
    /// # Errors
    /// When there is no such tenant.
    pub fn withdraw_admin_consent(&self, tenant: &str, client_id: &str) -> Result<(), KnobError> {
        self.0.shared.state().withdraw_admin_consent(tenant, client_id).map_err(KnobError)
    }
}

/// Graph.
impl Emulator {
    /// Gives a user's mailbox so many messages; it has three otherwise.
    pub fn set_messages(&self, user: &str, count: usize) {
        self.0.shared.state().mailboxes.messages.insert(user.to_ascii_lowercase(), count);
    }

    /// How many messages a user has sent.
    pub fn sent(&self, user: &str) -> usize {
        self.0.shared.state().mailboxes.sent.get(&user.to_ascii_lowercase()).copied().unwrap_or_default()
    }

    /// What a user has uploaded whole by upload sessions, in their order: bytes, and SHA-256 in lower-case hex.
    pub fn uploads(&self, user: &str) -> Vec<(u64, String)> {
        self.0.shared.state().mailboxes.uploads(&user.to_ascii_lowercase())
    }

    /// Challenges the next `times` Graph calls, of one user or of all, for fresh claims.
    pub fn challenge_graph(&self, user: Option<&str>, times: u32, style: ChallengeStyle) {
        let user = user.map(str::to_owned);
        self.0.shared.state().graph.challenges.push(Pending { user, left: times, what: style });
    }

    /// Throttles the next `times` Graph calls, of one user or of all.
    pub fn throttle_graph(&self, user: Option<&str>, times: u32, retry_after_seconds: u64) {
        let user = user.map(str::to_owned);
        self.0.shared.state().graph.throttles.push(Pending { user, left: times, what: retry_after_seconds });
    }
}

fn bind(address: &str) -> Result<TcpListener, StartError> {
    let refused = || StartError::Address(address.to_owned());
    let resolved: SocketAddr =
        address.to_socket_addrs().ok().and_then(|mut all| all.next()).ok_or_else(refused)?;
    if !resolved.ip().is_loopback() {
        return Err(refused());
    }
    let failed = |source| StartError::Listen { address: address.to_owned(), source };
    let listener = TcpListener::bind(resolved).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}
