//! Connect an account: a session is made for a connection, one browser redeems it, the account that comes back is the
//! pinned one or is confirmed by whoever started the session.
//!
//! Against capture: a link made for one user and opened by another ends with the other's account waiting for a
//! confirmation that the product gives only to the signed-in user it made the link for.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use super::session::{AuthorizeState, ConnectSession, ConnectState, Purpose};
use super::{App, Broker, FailureReason, Refusal, SessionState};
use crate::authority::{AuthorizeRequest, RedeemRequest, TENANT_NOT_ALLOWED, TokenAnswer};
use crate::domain::account::{Account, AccountId};
use crate::domain::connection::Profile;
use crate::domain::id::{AppName, CallerName, ConnectionKey, SessionId};
use crate::domain::random::random_token;
use crate::domain::scope::{ScopeNaming, ScopeSet};
use crate::domain::secret::{AuthorizationCode, CodeVerifier, ConfirmationCode};
use crate::domain::time::Timestamp;
use crate::domain::verdict::{BlockReason, Disposition, ReauthReason};
use crate::policy::{CallerPolicy, ConnectPermit};
use crate::refresh::{held_token, sha256_hex};
use crate::repository::{Kind, Redeemed, Taken};

/// A session's end can be read for this long.
const READABLE_AFTER_END: Duration = Duration::from_secs(3600);
/// Wrong confirmation codes that end a session.
const MOST_WRONG_CODES: u8 = 5;
/// Another replica's change is seen within this while someone waits for it.
const POLL: Duration = Duration::from_secs(1);
/// Links remembered for callers that ask again.
const MOST_INVITATIONS: usize = 10_000;
/// Characters of a browser's binding: 256 bits, base64url.
const BINDING_LENGTH: usize = 43;
/// Tries to replace a record that others replace too.
const SWAP_TRIES: usize = 8;

/// What a caller asks for when it starts a connect session.
#[derive(Debug, Clone, Default)]
pub struct NewSession {
    /// Scopes to ask for; the app's when nothing is said.
    pub scopes: Option<String>,
    /// Only this account will do.
    pub account: Option<AccountId>,
    /// The connection may pass to another account.
    pub change_account: bool,
    /// Passed to the authority.
    pub login_hint: Option<String>,
    /// Passed to the authority.
    pub domain_hint: Option<String>,
    /// Passed to the authority.
    pub prompt: Option<String>,
    /// Where the browser goes afterwards.
    pub return_url: Option<String>,
}

/// A session that was started.
#[derive(Debug, Clone)]
pub struct StartedSession {
    /// Its id.
    pub id: SessionId,
    /// The link for the user's browser.
    pub connect_url: String,
    /// Until when the link works.
    pub expires_at: Timestamp,
}

/// What a page may say about a session before its button is pressed.
#[derive(Debug, Clone)]
pub struct SessionView {
    /// The app.
    pub app: AppName,
    /// What is connected.
    pub key: ConnectionKey,
    /// The caller that asks.
    pub asked_by: String,
    /// The scopes that will be asked for.
    pub scopes: Vec<String>,
    /// Where it stands.
    pub state: SessionState,
}

/// Where to send the browser, and what to bind it with.
pub struct Begun {
    /// The authority's page.
    pub url: String,
    /// The binding to set as a cookie; none when the browser brought it.
    pub binding: Option<String>,
}

/// Why a browser cannot begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CannotBegin {
    /// There is no such session, or not any more.
    Gone,
    /// It is over: connected, failed, waiting or expired.
    Over(SessionState),
    /// Another browser began it.
    AnotherBrowser,
    /// The authority or the store does not serve now.
    Unavailable(Refusal),
}

/// What a callback brought, its parameters read strictly.
pub struct Callback<'a> {
    /// The app in the path.
    pub app: &'a AppName,
    /// `state`.
    pub state: String,
    /// `code` or `error`.
    pub outcome: CallbackOutcome,
    /// `iss` (RFC 9207).
    pub iss: Option<String>,
    /// The browser's binding for a session, from its cookie.
    pub binding: &'a (dyn Fn(&str) -> Option<String> + Send + Sync),
}

/// What the authority said in the redirect.
pub enum CallbackOutcome {
    /// A code to redeem.
    Code(AuthorizationCode),
    /// A refusal, already mapped to our own words.
    Error(FailureReason),
    /// An administrator's answer.
    AdminConsent {
        /// The tenant named; proves nothing.
        tenant: Option<String>,
    },
}

/// How a callback ended.
#[derive(Debug, Clone)]
pub enum Finished {
    /// The state is unknown, used, expired, or of another browser or app: nothing was done.
    Refused(CallbackProblem),
    /// A connect session moved on.
    Session(Box<FinishedSession>),
    /// An administrator answered.
    AdminConsent {
        /// Where the browser goes.
        return_to: Option<String>,
        /// The app.
        app: AppName,
        /// Whether the administrator approved, as far as the redirect says.
        approved: bool,
    },
}

/// Why a callback was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallbackProblem {
    /// Unknown, used or expired.
    UnknownState,
    /// Begun in another browser.
    AnotherBrowser,
    /// Not this app's, or not of the issuer it was sent to.
    MixedUp,
    /// The store does not serve now.
    Unavailable,
}

/// A connect session after its callback.
#[derive(Debug, Clone)]
pub struct FinishedSession {
    /// Its id.
    pub id: String,
    /// What it was for.
    pub key: ConnectionKey,
    /// The caller that started it.
    pub started_by: String,
    /// Where it stands now.
    pub state: SessionState,
    /// Where the browser goes: the return URL with its parameters.
    pub return_to: Option<String>,
    /// A page to give to an administrator, when that is what it takes.
    pub admin_consent_url: Option<String>,
}

/// What the one who started the session says.
pub enum Confirmation {
    /// The one-time code that the browser brought.
    Code(ConfirmationCode),
    /// The account that came back.
    Account(AccountId),
}

impl Broker {
    /// Starts a connect session for a caller that may connect this connection.
    pub async fn start_session(
        &self,
        caller: &CallerPolicy,
        key: &ConnectionKey,
        request: NewSession,
    ) -> Result<StartedSession, Refusal> {
        let pinned_tenant = match &request.account {
            Some(AccountId::Entra { tid, .. }) => Some(tid.to_ascii_lowercase()),
            _ => None,
        };
        let permit = if caller.needs_tenant(key) {
            let tenant = self.tenant_of(key).await?.or(pinned_tenant);
            caller.can_connect(key, tenant.as_deref())?
        } else {
            caller.can_connect(key, None)?
        };
        self.start_permitted(&permit, request).await
    }

    /// A link for whoever asked for a token that only the user can bring: the one given before, while it is young and
    /// unused, so that a caller which polls does not make a session with every request.
    pub async fn invite(
        &self,
        caller: &CallerPolicy,
        key: &ConnectionKey,
    ) -> Result<StartedSession, Refusal> {
        let whose = (caller.caller.clone(), key.clone());
        let given = self.invitations().get(&whose).cloned();
        if let Some(given) = given
            && given.expires_at.since(self.deps.clock.now()) > self.settings.connect_session_ttl / 2
            && self.session_view(&given.id).await.is_ok_and(|view| view.state == SessionState::Pending)
        {
            return Ok(given);
        }
        let started = self.start_session(caller, key, NewSession::default()).await?;
        let mut invitations = self.invitations();
        if invitations.len() >= MOST_INVITATIONS {
            invitations.pop_first();
        }
        invitations.insert(whose, started.clone());
        Ok(started)
    }

    fn invitations(&self) -> MutexGuard<'_, BTreeMap<(CallerName, ConnectionKey), StartedSession>> {
        self.invitations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn start_permitted(
        &self,
        permit: &ConnectPermit,
        request: NewSession,
    ) -> Result<StartedSession, Refusal> {
        let key = permit.key();
        let app = self.app(&key.app)?;
        let scopes = scopes_to_request(app, request.scopes.as_deref())?;
        check_hints(&request)?;
        if let Some(url) = &request.return_url
            && !app.return_urls.contains(url)
        {
            return Err(Refusal::invalid(
                "return_url",
                format!("is not among apps.{}.return_urls, which are compared exactly", key.app),
            ));
        }
        let existing = self.existing_account(key).await?;
        let pinned = match (&request.account, &existing) {
            (Some(asked), Some(existing)) if !request.change_account && *asked != existing.id() => {
                return Err(Refusal::invalid(
                    "account",
                    "is another account than this connection has; pass change_account to move it",
                ));
            }
            (Some(asked), _) => Some(asked.clone()),
            (None, Some(existing)) if !request.change_account => Some(existing.id()),
            (None, _) => None,
        };
        let now = self.deps.clock.now();
        let expires_at = now.plus(self.settings.connect_session_ttl);
        let id = random_token(self.deps.random.as_ref());
        let session = ConnectSession {
            app: key.app.clone(),
            connection: key.connection.clone(),
            scopes: scopes.to_words(),
            created_by: permit.caller().to_string(),
            expires_at,
            change_account: request.change_account,
            // The account it has is offered only where it is the one wanted.
            login_hint: request.login_hint.or_else(|| {
                let wanted = existing.as_ref().filter(|account| pinned.as_ref() == Some(&account.id()));
                wanted.and_then(|account| account.username.clone())
            }),
            seen: existing.as_ref().map(Account::id),
            pinned,
            domain_hint: request.domain_hint,
            prompt: request.prompt.or_else(|| default_prompt(app, &scopes)),
            return_url: request.return_url,
            browser: None,
            state: SessionState::Pending,
        };
        let ttl = self.settings.connect_session_ttl + READABLE_AFTER_END;
        self.deps.repository.put_pending(Kind::ConnectSession, &id, &session, now, ttl).await?;
        Ok(StartedSession {
            connect_url: format!("{}/connect/{id}", self.settings.base_url),
            id: SessionId::parse(&id).expect("our own ids are of that alphabet"),
            expires_at,
        })
    }

    /// Where a session stands, at once or as soon as it is no longer pending, for the caller that started it.
    pub async fn session_state(
        &self,
        caller: &CallerPolicy,
        id: &SessionId,
        wait: Duration,
    ) -> Result<SessionState, Refusal> {
        let begun = self.deps.clock.monotonic();
        let mut first_seen: Option<&'static str> = None;
        loop {
            let changed = self.sessions_changed.notified();
            let session = self.own_session(caller, id).await?.value;
            let state = session.state_at(self.deps.clock.now());
            let waited = self.deps.clock.monotonic().saturating_sub(begun);
            let over = !matches!(state, SessionState::Pending | SessionState::AwaitingConfirmation { .. });
            let moved = first_seen.is_some_and(|first| first != state.as_str());
            // Who waits wants news; a session that waits for the caller's own confirmation is news at once.
            let news = over || moved || matches!(state, SessionState::AwaitingConfirmation { .. });
            if news || waited >= wait || self.stopping.load(Ordering::Acquire) {
                return Ok(state);
            }
            first_seen = Some(state.as_str());
            tokio::select! {
                () = changed => {}
                () = self.deps.clock.sleep(POLL.min(wait - waited)) => {}
            }
        }
    }

    /// What a session's page may show.
    pub async fn session_view(&self, id: &SessionId) -> Result<SessionView, CannotBegin> {
        let session = self.session(id.as_str()).await?.value;
        Ok(SessionView {
            app: session.app.clone(),
            key: session.key(),
            asked_by: session.created_by.clone(),
            state: session.state_at(self.deps.clock.now()),
            scopes: session.scopes,
        })
    }

    /// The button was pressed: binds the session to this browser and says where to send it. Only the browser that
    /// pressed it first may press it again. The session is bound last, so that a press that comes to nothing binds it
    /// to nobody.
    pub async fn begin(&self, id: &SessionId, binding: Option<&str>) -> Result<Begun, CannotBegin> {
        let now = self.deps.clock.now();
        let well_formed = binding.filter(|binding| binding.len() == BINDING_LENGTH);
        let fresh = random_token(self.deps.random.as_ref());
        let hash = sha256_hex(well_formed.unwrap_or(&fresh).as_bytes());
        for _ in 0..SWAP_TRIES {
            let taken = self.session(id.as_str()).await?;
            let state = taken.value.state_at(now);
            if state != SessionState::Pending {
                return Err(CannotBegin::Over(state));
            }
            if taken.value.browser.as_ref().is_some_and(|bound| !same(&hash, bound)) {
                return Err(CannotBegin::AnotherBrowser);
            }
            let mut session = taken.value.clone();
            session.browser = Some(hash.clone());
            let url = self.authorize(id.as_str(), &session).await.map_err(CannotBegin::Unavailable)?;
            if taken.value.browser.is_some() || self.swap_session(id.as_str(), &taken, &session).await? {
                return Ok(Begun { url, binding: well_formed.is_none().then_some(fresh) });
            }
        }
        Err(CannotBegin::AnotherBrowser)
    }

    /// A binding for a browser that has none yet: setting it changes nothing that is stored.
    pub fn new_binding(&self) -> String {
        random_token(self.deps.random.as_ref())
    }

    async fn authorize(&self, id: &str, session: &ConnectSession) -> Result<String, Refusal> {
        let app = self.app(&session.app)?;
        let random = self.deps.random.as_ref();
        let state = random_token(random);
        // A challenge that the last verdict came with is passed on, so that this sign-in meets it.
        let key = session.key();
        let claims = match self.deps.engine.inspect(&key).await {
            Ok(held) => held.connection.profile.pending_claims.clone(),
            Err(_) => None,
        };
        let request = AuthorizeRequest {
            redirect_uri: app.redirect_uri.clone(),
            scopes: app.naming().scopes_lossy(session.scopes.iter().map(String::as_str)),
            state: state.clone(),
            nonce: random_token(random),
            verifier: CodeVerifier::new(random_token(random)),
            login_hint: session.login_hint.clone(),
            domain_hint: session.domain_hint.clone(),
            prompt: session.prompt.clone(),
            claims,
        };
        let authorize = app.authority.authorize_url(&request).await.map_err(|failure| {
            tracing::warn!(app = %session.app, %failure, "a connect flow could not begin");
            Refusal::of_disposition(failure.disposition, failure.answer, Duration::from_secs(5))
        })?;
        let record = AuthorizeState {
            app: session.app.clone(),
            purpose: Purpose::Connect(ConnectState {
                session: id.to_owned(),
                browser: session.browser.clone().unwrap_or_default(),
                verifier: request.verifier.expose().to_owned(),
                nonce: request.nonce,
                issuer: authorize.issuer,
                iss_required: authorize.iss_required,
                redirect_uri: request.redirect_uri,
            }),
        };
        let now = self.deps.clock.now();
        let hash = sha256_hex(state.as_bytes());
        self.deps.repository.put_pending(Kind::State, &hash, &record, now, self.settings.state_ttl).await?;
        Ok(authorize.url)
    }

    /// The browser came back. Everything is checked before the state is taken, and the state is taken before the code
    /// is sent: of any number of callbacks one sends it. From there on the work goes on whether the browser waits or
    /// not: a code that was sent, and a grant that came back, are not lost with a closed tab.
    pub async fn finish(self: &Arc<Self>, callback: Callback<'_>) -> Finished {
        let hash = sha256_hex(callback.state.as_bytes());
        let repository = &self.deps.repository;
        let record = match repository.pending::<AuthorizeState>(Kind::State, &hash).await {
            Ok(Some(record)) => record.value,
            Ok(None) => return Finished::Refused(CallbackProblem::UnknownState),
            Err(error) => {
                tracing::error!(%error, "a callback could not be looked up");
                return Finished::Refused(CallbackProblem::Unavailable);
            }
        };
        if record.app != *callback.app {
            return Finished::Refused(CallbackProblem::MixedUp);
        }
        let broker = Arc::clone(self);
        let outcome = callback.outcome;
        match record.purpose {
            Purpose::AdminConsent { session } => {
                let work = async move { broker.finish_admin_consent(&hash, &session, outcome).await };
                self.to_the_end("finish an admin consent", work).await
            }
            Purpose::Connect(state) => {
                let bound = (callback.binding)(&state.session)
                    .is_some_and(|binding| same(&sha256_hex(binding.as_bytes()), &state.browser));
                if !bound {
                    return Finished::Refused(CallbackProblem::AnotherBrowser);
                }
                // RFC 9207 section 2.4: simple string comparison. A templated issuer is compared with its tenant
                // filled in.
                let fits = match &callback.iss {
                    Some(iss) => issuer_fits(&state.issuer, iss),
                    None => !state.iss_required,
                };
                if !fits {
                    return Finished::Refused(CallbackProblem::MixedUp);
                }
                let work = async move { broker.finish_connect(&hash, state, outcome).await };
                self.to_the_end("finish a connect flow", work).await
            }
        }
        .unwrap_or(Finished::Refused(CallbackProblem::Unavailable))
    }

    async fn finish_connect(&self, hash: &str, state: ConnectState, outcome: CallbackOutcome) -> Finished {
        match self.deps.repository.take_pending::<AuthorizeState>(Kind::State, hash).await {
            Ok(Some(_)) => {}
            Ok(None) => return Finished::Refused(CallbackProblem::UnknownState),
            Err(error) => {
                tracing::error!(%error, "a callback's state could not be taken");
                return Finished::Refused(CallbackProblem::Unavailable);
            }
        }
        let session = match self.session(&state.session).await {
            Ok(taken) => taken.value,
            Err(_) => return Finished::Refused(CallbackProblem::UnknownState),
        };
        // Who waits may have been told that it expired: that is final.
        if session.state_at(self.deps.clock.now()) != SessionState::Pending {
            return Finished::Refused(CallbackProblem::UnknownState);
        }
        let app = match self.app(&session.app) {
            Ok(app) => app,
            Err(_) => return Finished::Refused(CallbackProblem::UnknownState),
        };
        let (outcome, code) = match outcome {
            CallbackOutcome::Code(code) => {
                let redeemed = self.redeem(app, &session, &state, &code).await;
                self.settle(app, &session, redeemed).await
            }
            CallbackOutcome::Error(reason) => (SessionState::Failed { reason }, None),
            CallbackOutcome::AdminConsent { .. } => {
                (SessionState::Failed { reason: FailureReason::AuthorityError }, None)
            }
        };
        let state_now = self.conclude(&state.session, outcome.clone()).await;
        let code = code.filter(|_| state_now == outcome);
        // Too late: the session has moved on. (When that is not known, the grant is left to die of age.)
        if let SessionState::AwaitingConfirmation { code_hash, .. } = &outcome
            && state_now != outcome
            && state_now != (SessionState::Failed { reason: FailureReason::Internal })
            && let Err(error) = self.deps.repository.discard_redeemed(code_hash).await
        {
            tracing::warn!(%error, "a grant that came back too late could not be destroyed");
        }
        let needs_admin =
            matches!(state_now, SessionState::Failed { reason: FailureReason::AdminConsentRequired });
        let admin_consent_url = if needs_admin { self.consent_link(app).await } else { None };
        Finished::Session(Box::new(FinishedSession {
            return_to: return_to(session.return_url.as_deref(), &state.session, &state_now, code.as_ref()),
            key: session.key(),
            started_by: session.created_by,
            id: state.session,
            state: state_now,
            admin_consent_url,
        }))
    }

    /// Redeems the code and checks who came back and with what.
    async fn redeem(
        &self,
        app: &App,
        session: &ConnectSession,
        state: &ConnectState,
        code: &AuthorizationCode,
    ) -> Result<Redeemed, FailureReason> {
        let naming = app.naming();
        let requested = naming.scopes_lossy(session.scopes.iter().map(String::as_str));
        // A code is redeemed for one resource; the others' tokens come from the refresh token when they are wanted.
        let resource = naming.primary_resource(&requested);
        let scopes = requested.of_resource(resource.as_deref());
        let verifier = CodeVerifier::new(state.verifier.clone());
        let answer = app
            .authority
            .redeem(RedeemRequest {
                code,
                verifier: &verifier,
                redirect_uri: &state.redirect_uri,
                nonce: &state.nonce,
                sent_to_issuer: &state.issuer,
                scopes: &scopes,
            })
            .await
            .map_err(|failure| {
                tracing::warn!(
                    app = %session.app, connection = %session.connection, %failure,
                    error = failure.answer.error, error_codes = ?failure.answer.error_codes,
                    correlation_id = failure.answer.correlation_id, "a code could not be redeemed"
                );
                if failure.answer.error.as_deref() == Some(TENANT_NOT_ALLOWED)
                    && failure.answer.status.is_none()
                {
                    FailureReason::TenantNotAllowed
                } else {
                    reason_of(failure.disposition)
                }
            })?;
        redeemed(app, session, &requested, resource, answer)
    }

    /// What a redemption makes of its session: connected, waiting for a confirmation, or failed.
    async fn settle(
        &self,
        app: &App,
        session: &ConnectSession,
        redeemed: Result<Redeemed, FailureReason>,
    ) -> (SessionState, Option<ConfirmationCode>) {
        let failed = |reason| (SessionState::Failed { reason }, None);
        let redeemed = match redeemed {
            Ok(redeemed) => redeemed,
            Err(reason) => return failed(reason),
        };
        if !app.tenants.allow(&redeemed.account) {
            return failed(FailureReason::TenantNotAllowed);
        }
        let account = redeemed.account.clone();
        if let Some(pinned) = &session.pinned {
            if account.id() != *pinned {
                return failed(FailureReason::AccountMismatch);
            }
            return match self.keep_connection(session, redeemed).await {
                Ok(()) => (SessionState::Connected { account, code_hash: None }, None),
                Err(reason) => failed(reason),
            };
        }
        let now = self.deps.clock.now();
        let ttl = self.settings.confirmation_ttl;
        let code = ConfirmationCode::new(random_token(self.deps.random.as_ref()));
        let code_hash = sha256_hex(code.expose().as_bytes());
        // By the code and not by the session: of two sign-ins each keeps its own.
        if let Err(error) = self.deps.repository.put_redeemed(&code_hash, &redeemed, now, ttl).await {
            tracing::error!(%error, "a grant that waits for its confirmation could not be kept");
            return failed(FailureReason::Internal);
        }
        let waiting =
            SessionState::AwaitingConfirmation { account, code_hash, wrong_codes: 0, until: now.plus(ttl) };
        (waiting, Some(code))
    }

    /// The one who started the session says that the right user came back. Goes on whether the caller waits or not.
    pub async fn confirm(
        self: &Arc<Self>,
        caller: &CallerPolicy,
        id: &SessionId,
        confirmation: Confirmation,
    ) -> Result<(ConnectionKey, Account), Refusal> {
        let (broker, caller, id) = (Arc::clone(self), caller.clone(), id.clone());
        let work = async move { broker.confirm_to_the_end(&caller, &id, confirmation).await };
        let outcome = self.to_the_end("confirm a connect session", work).await;
        outcome.unwrap_or(Err(Refusal::StoreUnavailable { retry_after: Duration::from_secs(1) }))
    }

    async fn confirm_to_the_end(
        &self,
        caller: &CallerPolicy,
        id: &SessionId,
        confirmation: Confirmation,
    ) -> Result<(ConnectionKey, Account), Refusal> {
        let rejected = |problem: &str| Refusal::ConfirmationRejected { problem: problem.to_owned() };
        for _ in 0..SWAP_TRIES {
            let taken = self.own_session(caller, id).await?;
            let session = &taken.value;
            let key = session.key();
            let (account, code_hash, wrong_codes, until) = match session.state_at(self.deps.clock.now()) {
                SessionState::AwaitingConfirmation { account, code_hash, wrong_codes, until } => {
                    (account, code_hash, wrong_codes, until)
                }
                SessionState::Connected { account, code_hash } => {
                    return if already_confirmed(&confirmation, &account, code_hash.as_deref()) {
                        Ok((key, account))
                    } else {
                        Err(rejected("the session was confirmed before, with something else"))
                    };
                }
                SessionState::Pending => return Err(rejected("nobody has signed in yet")),
                SessionState::Failed { .. } | SessionState::Expired => {
                    return Err(rejected("the session is over; start a new one"));
                }
            };
            let fits = match &confirmation {
                Confirmation::Code(code) => same(&sha256_hex(code.expose().as_bytes()), &code_hash),
                Confirmation::Account(_) if session.return_url.is_some() => {
                    return Err(rejected(
                        "this session has a return_url: confirm it with the code that the browser brought there",
                    ));
                }
                Confirmation::Account(named) => *named == account.id(),
            };
            if !fits {
                let wrong_codes = wrong_codes + 1;
                let over = wrong_codes >= MOST_WRONG_CODES;
                let mut after = session.clone();
                let waiting = code_hash.clone();
                after.state = if over {
                    SessionState::Failed { reason: FailureReason::AccessDenied }
                } else {
                    let code_hash = code_hash.clone();
                    SessionState::AwaitingConfirmation { account, code_hash, wrong_codes, until }
                };
                if !self.swap_session(id.as_str(), &taken, &after).await.map_err(unavailable)? {
                    continue;
                }
                if over {
                    self.deps.repository.discard_redeemed(&waiting).await?;
                    self.sessions_changed.notify_waiters();
                    return Err(rejected(
                        "too many wrong confirmations; the session is over, start a new one",
                    ));
                }
                return Err(rejected("it does not fit what came back"));
            }
            let redeemed = self.deps.repository.redeemed(&code_hash).await?;
            let Some(redeemed) = redeemed.filter(|redeemed| redeemed.account.id() == account.id()) else {
                return Err(rejected("the session is over; start a new one"));
            };
            let session = session.clone();
            self.keep_connection(&session, redeemed).await.map_err(|reason| match reason {
                FailureReason::AccountMismatch => rejected(
                    "the connection belongs to another account by now; pass change_account to move it",
                ),
                _ => Refusal::StoreUnavailable { retry_after: Duration::from_secs(1) },
            })?;
            let mut after = session;
            let confirmed = code_hash.clone();
            after.state = SessionState::Connected { account: account.clone(), code_hash: Some(code_hash) };
            // If another confirmation was first, it made the same connection of the same grant.
            let _ = self.swap_session(id.as_str(), &taken, &after).await.map_err(unavailable)?;
            // It is connected, whatever becomes of this: what is left expires.
            if let Err(error) = self.deps.repository.discard_redeemed(&confirmed).await {
                tracing::warn!(%error, "a confirmed grant's waiting copy could not be discarded; it expires");
            }
            self.sessions_changed.notify_waiters();
            return Ok((key, account));
        }
        Err(Refusal::StoreUnavailable { retry_after: Duration::from_secs(1) })
    }

    /// Makes or renews the connection. Of a connection that is there, only its own account may renew it.
    async fn keep_connection(
        &self,
        session: &ConnectSession,
        redeemed: Redeemed,
    ) -> Result<(), FailureReason> {
        let key = session.key();
        let repository = &self.deps.repository;
        let grant = crate::domain::grant::Grant::new(redeemed.refresh_token);
        let internal = |error: crate::repository::RepositoryError| {
            tracing::error!(app = %key.app, connection = %key.connection, %error, "a connection could not be stored");
            FailureReason::Internal
        };
        for _ in 0..SWAP_TRIES {
            let before = repository.load(&key).await.map_err(internal)?;
            let before = before.map(|loaded| loaded.connection);
            // Another account gives way only where the session was started to move it, and only the account that the
            // connection had then.
            if let Some(before) = &before {
                let account = before.profile.account.id();
                let may_move = session.change_account && session.seen.as_ref() == Some(&account);
                if account != redeemed.account.id() && !may_move {
                    return Err(FailureReason::AccountMismatch);
                }
            }
            let same_account =
                before.as_ref().filter(|before| before.profile.account.id() == redeemed.account.id());
            let profile = Profile::connected(
                redeemed.account.clone(),
                session.scopes.clone(),
                redeemed.scopes_granted.clone(),
                session.created_by.clone(),
                self.deps.clock.now(),
                same_account.map(|before| &before.profile),
            );
            let expected = before.as_ref().map(|before| before.revision);
            let tokens = std::slice::from_ref(&redeemed.token);
            let committed = repository.commit(&key, expected, &profile, tokens, Some(&grant)).await;
            // Whatever came of it: what is held may not be what is stored any more.
            self.deps.engine.forget(&key);
            if committed.map_err(internal)?.is_some() {
                return Ok(());
            }
        }
        Err(FailureReason::Internal)
    }

    /// Moves a pending session to its outcome; when it has moved on meanwhile, says to where.
    async fn conclude(&self, id: &str, outcome: SessionState) -> SessionState {
        for _ in 0..SWAP_TRIES {
            let Ok(taken) = self.session(id).await else { break };
            if taken.value.state != SessionState::Pending {
                return taken.value.state;
            }
            let mut after = taken.value.clone();
            after.state = outcome.clone();
            match self.swap_session(id, &taken, &after).await {
                Ok(true) => {
                    self.sessions_changed.notify_waiters();
                    return outcome;
                }
                Ok(false) => {}
                Err(_) => break,
            }
        }
        tracing::error!("a connect session's outcome could not be stored");
        SessionState::Failed { reason: FailureReason::Internal }
    }

    async fn existing_account(&self, key: &ConnectionKey) -> Result<Option<Account>, Refusal> {
        match self.deps.engine.inspect(key).await {
            Ok(held) => Ok(Some(held.connection.profile.account.clone())),
            Err(failure) => match Refusal::of_failure(&failure) {
                Refusal::ConnectionNotFound => Ok(None),
                refusal => Err(refusal),
            },
        }
    }

    async fn session(&self, id: &str) -> Result<Taken<ConnectSession>, CannotBegin> {
        match self.deps.repository.pending(Kind::ConnectSession, id).await {
            Ok(Some(taken)) => Ok(taken),
            Ok(None) => Err(CannotBegin::Gone),
            Err(error) => Err(CannotBegin::Unavailable(error.into())),
        }
    }

    /// A session, for the caller that started it: for anyone else there is none.
    async fn own_session(
        &self,
        caller: &CallerPolicy,
        id: &SessionId,
    ) -> Result<Taken<ConnectSession>, Refusal> {
        match self.session(id.as_str()).await {
            Ok(taken) if taken.value.created_by == caller.caller.as_str() => Ok(taken),
            Ok(_) | Err(CannotBegin::Gone) => Err(Refusal::SessionNotFound),
            Err(other) => Err(unavailable(other)),
        }
    }

    async fn swap_session(
        &self,
        id: &str,
        read: &Taken<ConnectSession>,
        after: &ConnectSession,
    ) -> Result<bool, CannotBegin> {
        let now = self.deps.clock.now();
        // A session that waits for its confirmation outlives its link.
        let ends = match after.state {
            SessionState::AwaitingConfirmation { until, .. } => until.max(after.expires_at),
            _ => after.expires_at,
        };
        let ttl = ends.since(now) + READABLE_AFTER_END;
        self.deps
            .repository
            .swap_pending(Kind::ConnectSession, id, read, after, now, ttl)
            .await
            .map_err(|error| CannotBegin::Unavailable(error.into()))
    }
}

/// Checks an account's answer into what is kept, or says why nothing is.
fn redeemed(
    app: &App,
    session: &ConnectSession,
    requested: &ScopeSet,
    resource: Option<String>,
    answer: TokenAnswer,
) -> Result<Redeemed, FailureReason> {
    let naming = app.naming();
    let account = answer.account.clone().ok_or(FailureReason::AuthorityError)?;
    let Some(refresh_token) = answer.refresh_token.clone() else {
        tracing::warn!(app = %session.app, connection = %session.connection, "the authority gave no refresh token; is offline_access among the app's scopes and granted?");
        return Err(FailureReason::ScopeMissing);
    };
    let answered = naming.scopes_lossy(answer.scopes.iter().map(String::as_str));
    // The answer speaks of one resource. What was consented to for the others shows when their tokens are fetched.
    let others = requested.iter().filter(|scope| {
        scope.resource().is_some() && scope.resource() != resource.as_deref() && !answered.contains(scope)
    });
    let granted: ScopeSet = answered.iter().chain(others).cloned().collect();
    Ok(Redeemed {
        account,
        scopes_granted: granted.to_words(),
        refresh_token,
        token: held_token(answer, resource, None),
    })
}

/// What will be asked of the user: the app's scopes, or fewer, and always what keeping a connection takes.
fn scopes_to_request(app: &App, asked: Option<&str>) -> Result<ScopeSet, Refusal> {
    let naming = app.naming();
    let mut scopes = match asked {
        None => app.scopes.clone(),
        Some(asked) => {
            let asked = naming
                .scopes(asked)
                .map_err(|_| Refusal::invalid("scopes", "holds a character or a length that no scope has"))?;
            let beyond: Vec<String> = asked
                .missing_from(&app.scopes)
                .iter()
                .filter(|scope| !scope.is_openid())
                .map(|scope| scope.wire().to_owned())
                .collect();
            if !beyond.is_empty() {
                let problem = format!("{} is not among the app's configured scopes", beyond.join(" "));
                return Err(Refusal::invalid("scopes", problem));
            }
            asked
        }
    };
    let needed: &[&str] = match naming {
        ScopeNaming::Entra { .. } => &["openid", "profile", "offline_access"],
        // Other providers differ in how they grant a refresh token; the operator lists `offline_access` where it is so.
        ScopeNaming::Plain => &["openid"],
    };
    for name in needed {
        scopes.insert(naming.scope(name).expect("these are scopes"));
    }
    if *naming == ScopeNaming::Plain {
        for scope in app.scopes.iter().filter(|scope| scope.canonical() == "offline_access") {
            scopes.insert(scope.clone());
        }
    }
    Ok(scopes)
}

/// OpenID Connect Core section 11: a provider grants `offline_access` only together with `prompt=consent`. Entra does
/// without, and would ask its users again each time.
fn default_prompt(app: &App, scopes: &ScopeSet) -> Option<String> {
    let offline = scopes.iter().any(|scope| scope.canonical() == "offline_access");
    (*app.naming() == ScopeNaming::Plain && offline).then(|| "consent".to_owned())
}

fn check_hints(request: &NewSession) -> Result<(), Refusal> {
    let hints = [("login_hint", &request.login_hint), ("domain_hint", &request.domain_hint)];
    for (parameter, hint) in hints {
        if let Some(hint) = hint
            && (hint.is_empty() || hint.len() > 512 || hint.chars().any(char::is_control))
        {
            return Err(Refusal::invalid(parameter, "must be 1 to 512 printable characters"));
        }
    }
    if let Some(prompt) = &request.prompt
        && !["login", "consent", "select_account", "none"].contains(&prompt.as_str())
    {
        return Err(Refusal::invalid("prompt", "must be login, consent, select_account or none"));
    }
    Ok(())
}

fn issuer_fits(expected: &str, iss: &str) -> bool {
    match expected.split_once("{tenantid}") {
        None => iss == expected,
        Some((before, after)) => {
            let tenant = iss.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            tenant.is_some_and(|tenant| {
                tenant.len() == 36 && tenant.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
            })
        }
    }
}

/// Where the browser goes after its session moved on.
fn return_to(
    return_url: Option<&str>,
    id: &str,
    state: &SessionState,
    code: Option<&ConfirmationCode>,
) -> Option<String> {
    let return_url = return_url?;
    let joint = if return_url.contains('?') { '&' } else { '?' };
    let rest = match (state, code) {
        (SessionState::Failed { reason }, _) => format!("&error={}", reason.as_str()),
        (SessionState::Expired, _) => "&error=expired".to_owned(),
        (_, Some(code)) => format!("&code={}", code.expose()),
        (_, None) => String::new(),
    };
    Some(format!("{return_url}{joint}session={id}{rest}"))
}

fn reason_of(disposition: Disposition) -> FailureReason {
    match disposition {
        Disposition::Blocked(BlockReason::AdminConsentRequired)
        | Disposition::Reauthorize(ReauthReason::ConsentRequired, _) => FailureReason::AdminConsentRequired,
        Disposition::Blocked(_) | Disposition::Reauthorize(..) => FailureReason::AccessDenied,
        Disposition::RetryAfter(_)
        | Disposition::NextCredential
        | Disposition::Misconfigured
        | Disposition::Restart
        | Disposition::CallerFault
        | Disposition::OutcomeUnknown
        | Disposition::Bug => FailureReason::AuthorityError,
    }
}

fn already_confirmed(confirmation: &Confirmation, account: &Account, code_hash: Option<&str>) -> bool {
    match confirmation {
        Confirmation::Code(code) => {
            code_hash.is_some_and(|hash| same(&sha256_hex(code.expose().as_bytes()), hash))
        }
        Confirmation::Account(named) => *named == account.id(),
    }
}

fn unavailable(problem: CannotBegin) -> Refusal {
    match problem {
        CannotBegin::Unavailable(refusal) => refusal,
        CannotBegin::Gone | CannotBegin::Over(_) | CannotBegin::AnotherBrowser => Refusal::SessionNotFound,
    }
}

/// Compares two hashes in constant time.
fn same(one: &str, other: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(one.as_bytes(), other.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_compared_as_it_stands_and_a_template_with_a_tenant_in_it() {
        let template = "https://login.microsoftonline.com/{tenantid}/v2.0";
        let tenant = "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/v2.0";
        assert!(issuer_fits("https://issuer", "https://issuer"));
        assert!(!issuer_fits("https://issuer", "https://issuer/"));
        assert!(issuer_fits(template, tenant));
        assert!(!issuer_fits(template, "https://evil/11111111-2222-3333-4444-555555555555/v2.0"));
        assert!(!issuer_fits(template, "https://login.microsoftonline.com/a/b/v2.0"));
    }

    #[test]
    fn the_browser_returns_with_a_session_and_a_code_or_an_error_and_nothing_of_the_authority() {
        let failed = SessionState::Failed { reason: FailureReason::AccountMismatch };
        assert_eq!(
            return_to(Some("https://app/x?y=1"), "s1", &failed, None).as_deref(),
            Some("https://app/x?y=1&session=s1&error=account_mismatch")
        );
        let code = ConfirmationCode::new("c1");
        assert_eq!(
            return_to(Some("https://app/x"), "s1", &SessionState::Pending, Some(&code)).as_deref(),
            Some("https://app/x?session=s1&code=c1")
        );
        assert_eq!(return_to(None, "s1", &failed, None), None);
    }
}
