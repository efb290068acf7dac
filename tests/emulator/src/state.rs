//! The emulator's whole state, and the controls that change it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use crate::clock::{Clock, Moment};
use crate::directory::{Account, Certificate, Directory, FederatedCredential, Registration, TenantPath};
use crate::errors::AadError;
use crate::faults::{Fault, RetryAfter, Rules};
use crate::graph::GraphState;
use crate::keys::Keys;
use crate::ledger::Ledger;
use crate::mailbox::Mailboxes;
use crate::message::Params;
use crate::scope::Scopes;
use crate::settings::{ConsentPolicy, Settings};

/// Codes, tokens, sessions and assertion ids beyond this many push out the oldest.
const MOST_REMEMBERED: usize = 200_000;

/// The state of one emulator. One lock guards it; nothing awaits while holding it.
#[derive(Debug)]
pub(crate) struct State {
    /// Scheme, host and port, without a slash at the end.
    pub(crate) base: String,
    pub(crate) clock: Clock,
    pub(crate) settings: Settings,
    pub(crate) directory: Directory,
    pub(crate) keys: Keys,
    pub(crate) rules: Rules,
    /// Releases everything that a fault holds.
    pub(crate) released: watch::Sender<()>,
    pub(crate) ledger: Ledger,
    /// Events that a webhook brought, the last ones.
    pub(crate) events: VecDeque<Value>,
    pub(crate) graph: GraphState,
    pub(crate) mailboxes: Mailboxes,
    pub(crate) codes: Remembered<Code>,
    pub(crate) refresh_tokens: Remembered<RefreshToken>,
    pub(crate) access_tokens: Remembered<AccessToken>,
    /// Browser sessions of interactive mode: cookie to UPN.
    pub(crate) sessions: Remembered<String>,
    pub(crate) seen_assertions: Remembered<()>,
    /// Families killed by reuse of a used refresh token.
    pub(crate) dead_families: HashSet<u64>,
    /// Names and values of the secrets that token requests brought, oldest first.
    pub(crate) presented: VecDeque<(&'static str, String)>,
    serial: u64,
    /// Requests with a secret that flaps.
    pub(crate) flaps: u64,
}

/// Fields of a token request that are secrets.
const SECRET_FIELDS: [&str; 5] =
    ["code", "code_verifier", "refresh_token", "client_secret", "client_assertion"];
/// More presented secrets than this push out the oldest.
const MOST_PRESENTED: usize = 10_000;

/// An authorization code.
#[derive(Clone, Debug)]
pub(crate) struct Code {
    pub(crate) client_id: String,
    pub(crate) upn: String,
    pub(crate) redirect_uri: String,
    pub(crate) path: TenantPath,
    /// The challenge, and whether it is a SHA-256 digest.
    pub(crate) challenge: Option<(String, bool)>,
    pub(crate) scopes: Scopes,
    pub(crate) nonce: Option<String>,
    pub(crate) cae: bool,
    /// It went to a redirect URI of a single-page application.
    pub(crate) spa: bool,
    pub(crate) issued_at: Moment,
    pub(crate) used: bool,
}

/// A refresh token.
#[derive(Clone, Debug)]
pub(crate) struct RefreshToken {
    pub(crate) serial: u64,
    /// The sign-in it descends from.
    pub(crate) family: u64,
    /// How many refreshes lie between that sign-in and this token.
    pub(crate) generation: u64,
    pub(crate) client_id: String,
    pub(crate) upn: String,
    pub(crate) scopes: Scopes,
    pub(crate) issued_at: Moment,
    pub(crate) used: bool,
}

/// An access token.
#[derive(Clone, Debug)]
pub(crate) struct AccessToken {
    pub(crate) serial: u64,
    pub(crate) family: u64,
    pub(crate) generation: u64,
    pub(crate) client_id: String,
    /// `None` for an app's own token.
    pub(crate) upn: Option<String>,
    pub(crate) tenant: String,
    pub(crate) resource: String,
    pub(crate) scopes: Scopes,
    pub(crate) issued_at: Moment,
    pub(crate) expires_at: Moment,
    pub(crate) cae: bool,
}

/// A change that revokes a user's right. Over HTTP: `POST /_emulator/users/{upn}/revoke`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevokeKind {
    /// An administrator or the user revoked all refresh tokens: 50173 until the next sign-in.
    GrantRevoked,
    /// The tokens count as unused for 90 days: 700082 until the next sign-in.
    Idle,
    /// The consent was withdrawn: 65001 until it is given again.
    ConsentRemoved,
    /// The account is disabled: 50057 until restored.
    Disabled,
    /// The account is deleted: 50034 until restored.
    Deleted,
    /// The password expired: 50055 until the next sign-in.
    PasswordExpired,
    /// The sign-in frequency is used up: 70043 until the next sign-in.
    SignInFrequency,
    /// A second factor is asked for: 50076 with `claims` until the next sign-in.
    MfaRequired,
    /// Conditional Access blocks the app: 53003 until restored.
    ConditionalAccess,
}

impl State {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            base: String::new(),
            clock: Clock::default(),
            settings,
            directory: Directory::default(),
            keys: Keys::new(),
            rules: Rules::default(),
            released: watch::Sender::default(),
            ledger: Ledger::default(),
            events: VecDeque::new(),
            graph: GraphState::default(),
            mailboxes: Mailboxes::default(),
            codes: Remembered::default(),
            refresh_tokens: Remembered::default(),
            access_tokens: Remembered::default(),
            sessions: Remembered::default(),
            seen_assertions: Remembered::default(),
            dead_families: HashSet::new(),
            presented: VecDeque::new(),
            serial: 0,
            flaps: 0,
        }
    }

    /// Remembers the secrets of a token request, for tests that search for leaks.
    pub(crate) fn remember_presented(&mut self, form: &Params) {
        for name in SECRET_FIELDS {
            if let Some(value) = form.get(name) {
                if self.presented.len() == MOST_PRESENTED {
                    self.presented.pop_front();
                }
                self.presented.push_back((name, value.to_owned()));
            }
        }
    }

    /// The next serial number; tokens and sign-ins share one count.
    pub(crate) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(crate) fn issuer(&self, tenant: &str) -> String {
        format!("{}/{tenant}/v2.0", self.base)
    }

    /// Returns the user that automatic mode signs in at this path: the hinted, the chosen, or the first
    /// allowed one.
    pub(crate) fn automatic_user(&self, hint: Option<&str>, path: &TenantPath) -> Option<&Account> {
        let directory = &self.directory;
        let hinted = hint.and_then(|upn| directory.account(upn));
        let chosen = || self.settings.sign_in_as.as_deref().and_then(|upn| directory.account(upn));
        let first = || directory.accounts().iter().find(|account| path.admits(&account.user.tenant));
        hinted.or_else(chosen).or_else(first)
    }

    pub(crate) fn expire_access_tokens(&mut self) {
        let now = self.clock.now();
        self.access_tokens.for_each(|token| token.expires_at = token.expires_at.min(now));
    }

    pub(crate) fn revoke(&mut self, upn: &str, kind: RevokeKind) -> Result<(), String> {
        let last = self.serial;
        let account = self.directory.account_mut(upn).ok_or_else(|| format!("no user {upn}"))?;
        let mut kill = |code| account.dead_tokens = Some((last, code));
        match kind {
            RevokeKind::GrantRevoked => kill(50173),
            RevokeKind::Idle => kill(700082),
            RevokeKind::PasswordExpired => kill(50055),
            RevokeKind::SignInFrequency => kill(70043),
            RevokeKind::MfaRequired => kill(50076),
            RevokeKind::ConsentRemoved => account.consents.clear(),
            RevokeKind::Disabled => account.block = Some(crate::directory::Block { code: 50057 }),
            RevokeKind::Deleted => account.block = Some(crate::directory::Block { code: 50034 }),
            RevokeKind::ConditionalAccess => account.block = Some(crate::directory::Block { code: 53003 }),
        }
        // Access tokens of clients that understand claims challenges lose their force at Graph too.
        if !matches!(kind, RevokeKind::ConsentRemoved | RevokeKind::Idle) {
            self.graph.revoked.insert(upn.to_ascii_lowercase(), (last, self.clock.now()));
        }
        Ok(())
    }

    /// Lifts whatever blocks the user. Refresh tokens that died stay dead.
    pub(crate) fn restore(&mut self, upn: &str) -> Result<(), String> {
        let account = self.directory.account_mut(upn).ok_or_else(|| format!("no user {upn}"))?;
        account.block = None;
        Ok(())
    }

    pub(crate) fn app_mut(&mut self, client_id: &str) -> Result<&mut Registration, String> {
        self.directory.apps.get_mut(client_id).ok_or_else(|| format!("no app {client_id}"))
    }

    pub(crate) fn add_secret(
        &mut self,
        client_id: &str,
        value: &str,
        active_after: Duration,
        expires_after: Option<Duration>,
    ) -> Result<String, String> {
        let now = self.clock.now();
        self.app_mut(client_id)?.add_secret(value, now, active_after, expires_after)
    }

    /// Until then, every other request with this secret is answered as if it were wrong.
    pub(crate) fn let_secret_flap(
        &mut self,
        client_id: &str,
        which: &str,
        within: Duration,
    ) -> Result<(), String> {
        let until = self.clock.now().plus(within);
        let app = self.app_mut(client_id)?;
        let found = app.secrets.iter_mut().find(|secret| secret.value == which || secret.key_id == which);
        found.ok_or("no such secret")?.flaps_until = Some(until);
        Ok(())
    }

    /// Removes the secret with this value or key id.
    pub(crate) fn remove_secret(&mut self, client_id: &str, which: &str) -> Result<(), String> {
        let app = self.app_mut(client_id)?;
        let before = app.secrets.len();
        app.secrets.retain(|secret| secret.value != which && secret.key_id != which);
        if app.secrets.len() == before { Err("no such secret".into()) } else { Ok(()) }
    }

    /// Lets the secret with this value or key id expire now.
    pub(crate) fn expire_secret(&mut self, client_id: &str, which: &str) -> Result<(), String> {
        let now = self.clock.now();
        let app = self.app_mut(client_id)?;
        let found = app.secrets.iter_mut().find(|secret| secret.value == which || secret.key_id == which);
        found.ok_or("no such secret")?.expires_at = Some(now);
        Ok(())
    }

    /// Replaces every secret by this one, at once.
    pub(crate) fn rotate_secret(&mut self, client_id: &str, value: &str) -> Result<String, String> {
        let now = self.clock.now();
        let app = self.app_mut(client_id)?;
        app.secrets.clear();
        app.add_secret(value, now, Duration::ZERO, None)
    }

    pub(crate) fn set_certificates<'a>(
        &mut self,
        client_id: &str,
        pems: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), String> {
        let read = pems.into_iter().map(Certificate::from_pem).collect::<Result<_, _>>()?;
        self.app_mut(client_id)?.certificates = read;
        Ok(())
    }

    /// Marks every certificate of the app as revoked.
    pub(crate) fn revoke_certificates(&mut self, client_id: &str) -> Result<(), String> {
        let app = self.app_mut(client_id)?;
        app.certificates.iter_mut().for_each(|certificate| certificate.revoked = true);
        Ok(())
    }

    pub(crate) fn add_federated(
        &mut self,
        client_id: &str,
        credential: FederatedCredential,
    ) -> Result<(), String> {
        let active_at = self.clock.now().plus(credential.active_after);
        let app = self.app_mut(client_id)?;
        let same =
            |one: &FederatedCredential| one.issuer == credential.issuer && one.subject == credential.subject;
        app.federated.retain(|(one, _)| !same(one));
        if app.federated.len() >= 20 {
            return Err("an app holds 20 federated credentials at most".into());
        }
        app.federated.push((credential, active_at));
        Ok(())
    }

    /// Sets the consent policy of a tenant, or of all tenants without their own.
    pub(crate) fn set_consent_policy(
        &mut self,
        tenant: Option<&str>,
        policy: ConsentPolicy,
    ) -> Result<(), String> {
        match tenant {
            None => self.settings.consent_policy = policy,
            Some(segment) => {
                let id = self.tenant_id(segment)?;
                self.directory.tenant_mut(&id).policy = Some(policy);
            }
        }
        Ok(())
    }

    /// An administrator consents for everyone in a tenant.
    pub(crate) fn grant_admin_consent(
        &mut self,
        tenant: &str,
        client_id: &str,
        scopes: &str,
    ) -> Result<(), String> {
        let id = self.tenant_id(tenant)?;
        let app = self.directory.apps.get(client_id).ok_or_else(|| format!("no app {client_id}"))?;
        let scopes = Scopes::parse(scopes).map_err(|bad| format!("not a scope: {bad}"))?;
        let scopes = app.app.expand_default(&scopes);
        self.directory.tenant_mut(&id).consents.entry(client_id.to_owned()).or_default().add(&scopes);
        Ok(())
    }

    /// An administrator takes the tenant-wide consent back.
    pub(crate) fn withdraw_admin_consent(&mut self, tenant: &str, client_id: &str) -> Result<(), String> {
        let id = self.tenant_id(tenant)?;
        self.directory.tenant_mut(&id).consents.remove(client_id);
        Ok(())
    }

    fn tenant_id(&self, segment: &str) -> Result<String, String> {
        match self.directory.tenant_path(segment) {
            Ok(TenantPath::Tenant(id)) => Ok(id),
            _ => Err(format!("no tenant {segment}")),
        }
    }

    /// Returns the failure of an [`Fault::Aadsts`]; `None` for other faults.
    pub(crate) fn failure_of(&self, fault: &Fault) -> Option<AadError> {
        let Fault::Aadsts { code, error, suberror, claims, status, retry_after } = fault else { return None };
        let mut failure = AadError::new(*code);
        failure.error = error.clone().unwrap_or(failure.error);
        failure.suberror = suberror.clone().or(failure.suberror);
        failure.claims = claims.as_deref().map(Into::into);
        failure.status = status.unwrap_or(failure.status);
        failure.retry_after = retry_after.map(|after| self.retry_after(after).into());
        Some(failure)
    }

    /// The text of a `Retry-After` header.
    pub(crate) fn retry_after(&self, after: RetryAfter) -> String {
        match after {
            RetryAfter::Seconds(seconds) => seconds.to_string(),
            RetryAfter::DateAfterSeconds(seconds) => {
                self.clock.now().plus(Duration::from_secs(seconds)).in_header()
            }
        }
    }
}

/// A map that forgets its oldest entries when it is full.
#[derive(Debug)]
pub(crate) struct Remembered<V> {
    values: HashMap<Arc<str>, V>,
    order: VecDeque<Arc<str>>,
}

impl<V> Default for Remembered<V> {
    fn default() -> Self {
        Self { values: HashMap::new(), order: VecDeque::new() }
    }
}

impl<V> Remembered<V> {
    pub(crate) fn insert(&mut self, key: String, value: V) {
        if self.order.len() == MOST_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.values.remove(&oldest);
        }
        let key: Arc<str> = key.into();
        if self.values.insert(Arc::clone(&key), value).is_none() {
            self.order.push_back(key);
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&V> {
        self.values.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut V> {
        self.values.get_mut(key)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.order.iter().map(AsRef::as_ref)
    }

    pub(crate) fn for_each(&mut self, change: impl FnMut(&mut V)) {
        self.values.values_mut().for_each(change);
    }
}
