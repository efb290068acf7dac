//! The browser's part of a connect session: a button that sends it to the authority, and the callback with
//! which it comes back.
//!
//! Against capture: if another user opens a link made for one user, the other's account waits for a
//! confirmation, which the product gives only to the signed-in user that it made the link for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::connect::{POLL, READABLE_AFTER_END, SWAP_TRIES, same};
use super::quota::{MOST_PRESSES, MOST_STATES};
use super::rights::{Barred, Right};
use super::session::{Answered, AuthorizeState, ConnectSession, ConnectState, Purpose};
use super::sign_in_permits::SignInPermit;
use super::{App, Broker, FailureReason, Refusal, SessionFailure, SessionState};
use crate::authority::{AuthorizeRequest, RedeemFailure, RedeemRequest, RedirectError, TokenAnswer};
use crate::domain::cause::Cause;
use crate::domain::id::{AppName, CallerName, ConnectionKey, SessionId};
use crate::domain::random::{random_bytes, random_token};
use crate::domain::scope::ScopeSet;
use crate::domain::secret::{AuthorizationCode, CodeVerifier, ConfirmationCode};
use crate::domain::task::BoxFuture;
use crate::refresh::{held_token, sha256_hex, warn_of_remarks};
use crate::repository::{FiledUnder, Kind, Redeemed, SecretHash, Taken};
use crate::store::Floor;

/// Length of a browser's binding: 256 bits in base64url.
const BINDING_LENGTH: usize = 43;
/// How long a repeated callback waits for the first one: longer than a call to the authority takes.
const REPEAT_WAIT: Duration = Duration::from_secs(15);
/// How long storing a code's result is retried …
const KEEP_TRYING: Duration = Duration::from_secs(10);
/// … with this pause in between.
const KEEP_AGAIN: Duration = Duration::from_millis(250);

/// The URL for the browser, and its binding.
pub struct Begun {
    /// URL of the authority's page.
    pub url: String,
    /// The binding to set as a cookie; `None` if the browser sent it.
    pub binding: Option<String>,
}

/// A prepared authorize request.
#[derive(Clone)]
struct Asked {
    url: String,
    state: SecretHash,
}

/// Reason why a browser cannot begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CannotBegin {
    /// The session does not exist, or no longer.
    Gone,
    /// The session is over: connected, failed, waiting or expired.
    Over(SessionState),
    /// Another browser has begun it.
    AnotherBrowser,
    /// Its button was pressed too often.
    TooOften,
    /// The starter may not connect this now. The session stays as it is, for that may change.
    Barred(FailureReason),
    /// The authority or the store is unavailable.
    Unavailable(Refusal),
}

/// Records how a callback ended, and returns its argument.
pub type Tell = dyn Fn(Finished) -> BoxFuture<'static, Finished> + Send + Sync;

/// The name and the future of the work that a callback begins.
type Work = (&'static str, BoxFuture<'static, Finished>);

/// A callback's parameters, strictly parsed.
pub struct Callback<'a> {
    /// The app from the path.
    pub app: &'a AppName,
    /// `state`.
    pub state: String,
    /// `code` or `error`.
    pub outcome: CallbackOutcome,
    /// `iss` (RFC 9207).
    pub iss: Option<String>,
    /// True if it came too late for a first callback: it may only repeat an earlier one.
    pub only_repeats: bool,
    /// Returns the browser's binding for a session, from its cookie.
    pub binding: &'a (dyn Fn(&str) -> Option<String> + Send + Sync),
}

/// The authority's answer in the redirect.
pub enum CallbackOutcome {
    /// A code to redeem.
    Code(AuthorizationCode),
    /// A refusal.
    Error(RedirectError),
    /// An administrator's answer.
    AdminConsent {
        /// The named tenant; it proves nothing.
        tenant: Option<String>,
    },
}

impl CallbackOutcome {
    /// Returns a hash of the code. It tells the first callback from one that only knows the `state`.
    fn brought(&self) -> Option<String> {
        match self {
            CallbackOutcome::Code(code) => Some(sha256_hex(code.expose().as_bytes())),
            CallbackOutcome::Error(_) | CallbackOutcome::AdminConsent { .. } => None,
        }
    }
}

/// Outcome of a callback.
#[derive(Debug, Clone)]
pub enum Finished {
    /// Nothing was done: the state is unknown, used or expired, or belongs to another browser or app.
    Refused(CallbackProblem),
    /// The session has a new state.
    Session(Box<FinishedSession>),
    /// An administrator answered.
    AdminConsent {
        /// URL for the browser.
        return_to: Option<String>,
        /// The app.
        app: AppName,
        /// The session.
        session: SessionId,
        /// Why the administrator did not approve; `None` if the redirect says that it was approved.
        refused: Option<SessionFailure>,
        /// True if the callback repeats one that has ended.
        repeated: bool,
    },
}

/// Reason why a callback was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallbackProblem {
    /// Unknown, used or expired.
    UnknownState,
    /// Begun in another browser.
    AnotherBrowser,
    /// It is not for this app, or not from the issuer that was asked.
    MixedUp,
    /// It repeats a callback that is still being processed.
    UnderWay,
    /// The caller's sign-ins come back faster than codes are redeemed; this code was not sent.
    Crowded,
    /// The store is unavailable.
    Unavailable,
}

/// A connect session after its callback.
#[derive(Debug, Clone)]
pub struct FinishedSession {
    /// Its id.
    pub id: SessionId,
    /// Its connection.
    pub key: ConnectionKey,
    /// The caller that started it.
    pub started_by: String,
    /// Its present state.
    pub state: SessionState,
    /// True if the callback repeats one that has ended.
    pub repeated: bool,
    /// True if the new connection has been deleted since.
    pub gone_since: bool,
    /// The return URL with its parameters; `None` if a page is shown.
    pub return_to: Option<String>,
    /// The same URL, as a link on a page.
    pub way_back: Option<String>,
    /// A link for an administrator, if their consent is needed.
    pub admin_consent_url: Option<String>,
}

impl Broker {
    /// Handles a press of the button: binds the session to this browser and returns the URL to send it to.
    /// Only the browser that pressed first may press again. The binding is stored last, so that a failed
    /// press binds nobody.
    ///
    /// Each press makes an authorize request of its own, and the last few of a session are valid, so that
    /// Back, a second tab and a reload find theirs. Older ones are forgotten.
    pub async fn begin(&self, id: &SessionId, binding: Option<&str>) -> Result<Begun, CannotBegin> {
        let mut asked = None;
        let begun = self.press(id, binding, &mut asked).await;
        if begun.is_err()
            && let Some(Asked { state, .. }) = &asked
        {
            self.forget(state).await;
        }
        begun
    }

    async fn press(
        &self,
        id: &SessionId,
        binding: Option<&str>,
        asked: &mut Option<Asked>,
    ) -> Result<Begun, CannotBegin> {
        self.room().map_err(CannotBegin::Unavailable)?;
        let well_formed = binding.filter(|binding| binding.len() == BINDING_LENGTH);
        let fresh = random_token(self.deps.random.as_ref());
        let hash = sha256_hex(well_formed.unwrap_or(&fresh).as_bytes());
        for _ in 0..SWAP_TRIES {
            let taken = self.session(id).await?;
            let state = self.stands(&taken.value);
            if state != SessionState::Pending {
                return Err(CannotBegin::Over(state));
            }
            let right = self.right_of_session(&taken.value, None).await?;
            if taken.value.browser.as_ref().is_some_and(|bound| !same(&hash, bound)) {
                return Err(CannotBegin::AnotherBrowser);
            }
            if taken.value.presses >= MOST_PRESSES {
                return Err(CannotBegin::TooOften);
            }
            let mut session = taken.value.clone();
            session.browser = Some(hash.clone());
            let Asked { url, state } = match &*asked {
                Some(asked) => asked.clone(),
                None => {
                    let new = self.authorize(&right, id, &session).await.map_err(CannotBegin::Unavailable)?;
                    asked.insert(new).clone()
                }
            };
            session.presses += 1;
            session.states.push(state);
            let superseded = session.states.len().saturating_sub(MOST_STATES);
            let superseded: Vec<SecretHash> = session.states.drain(..superseded).collect();
            if self.swap_session(id, &taken, &session).await? {
                for state in &superseded {
                    self.forget(state).await;
                }
                return Ok(Begun { url, binding: well_formed.is_none().then_some(fresh) });
            }
        }
        Err(CannotBegin::TooOften)
    }

    /// Invalidates an authorize request. If an outage prevents that, it expires by itself.
    async fn forget(&self, state: &SecretHash) {
        let taken = self.deps.repository.discard_pending(Kind::State, &FiledUnder::hash(state)).await;
        if let Err(error) = taken {
            tracing::debug!(%error, "an invalid authorize request could not be removed; it expires");
        }
    }

    /// Makes a binding for a browser without one. Setting it changes no stored record.
    pub fn new_binding(&self) -> String {
        random_token(self.deps.random.as_ref())
    }

    async fn authorize(
        &self,
        right: &Right,
        id: &SessionId,
        session: &ConnectSession,
    ) -> Result<Asked, Refusal> {
        let key = right.key();
        let app = self.app(&key.app)?;
        let random = self.deps.random.as_ref();
        let state = random_token(random);
        // The claims challenge of the last verdict is passed on, so that this sign-in satisfies it.
        let claims = match self.deps.engine.inspect(key).await {
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
            if let Some(left_out) = self.sayings.due("flow begun", self.deps.clock.monotonic()) {
                tracing::warn!(app = %session.app, %failure, left_out, "a connect flow could not begin");
            }
            Refusal::of_disposition(failure.disposition, failure.answer)
        })?;
        let record = AuthorizeState {
            app: session.app.clone(),
            purpose: Purpose::Connect(ConnectState {
                session: id.clone(),
                browser: session.browser.clone().unwrap_or_default(),
                verifier: request.verifier.expose().to_owned(),
                nonce: request.nonce,
                issuer: authorize.issuer,
                iss_required: authorize.iss_required,
                redirect_uri: request.redirect_uri,
            }),
        };
        let now = self.deps.clock.now();
        let state = SecretHash::of(&state);
        let (filed, ttl) = (FiledUnder::hash(&state), self.settings().state_ttl);
        self.deps.repository.put_pending(Kind::State, &filed, &record, now, ttl).await?;
        Ok(Asked { url: authorize.url, state })
    }

    /// Handles the browser's return. Everything is checked before the state is marked as answered, and the
    /// mark is stored before the code is sent. Of any number of callbacks exactly one sends the code, and the
    /// others of the same browser end like that one. From then on the work continues even if the browser
    /// leaves, so that a closed tab loses neither a sent code nor a grant. So does `tell`, which records the
    /// outcome and returns it.
    pub async fn finish(self: &Arc<Self>, callback: Callback<'_>, tell: Arc<Tell>) -> Finished {
        match self.begun_by(callback).await {
            Err(finished) => tell(finished).await,
            Ok((name, work)) => {
                let told = Arc::clone(&tell);
                match self.to_the_end(name, async move { told(work.await).await }).await {
                    Some(finished) => finished,
                    None => tell(Finished::Refused(CallbackProblem::Unavailable)).await,
                }
            }
        }
    }

    /// Returns the work that a callback begins, or its outcome if it begins none.
    async fn begun_by(self: &Arc<Self>, callback: Callback<'_>) -> Result<Work, Finished> {
        let hash = FiledUnder::hash(&SecretHash::of(&callback.state));
        let repository = &self.deps.repository;
        let record = match repository.pending::<AuthorizeState>(Kind::State, &hash).await {
            Ok(Some(record)) => record,
            Ok(None) => return Err(Finished::Refused(CallbackProblem::UnknownState)),
            Err(error) => {
                if let Some(left_out) = self.sayings.due("callback looked up", self.deps.clock.monotonic()) {
                    tracing::error!(%error, left_out, "a callback could not be looked up");
                }
                return Err(Finished::Refused(CallbackProblem::Unavailable));
            }
        };
        if record.value.app != *callback.app {
            return Err(Finished::Refused(CallbackProblem::MixedUp));
        }
        let is_bound = |session: &SessionId, browser: &str| {
            (callback.binding)(session.expose())
                .is_some_and(|binding| same(&sha256_hex(binding.as_bytes()), browser))
        };
        let broker = Arc::clone(self);
        let outcome = callback.outcome;
        match &record.value.purpose {
            Purpose::Answered(answered) => {
                if !is_bound(&answered.session, &answered.browser) {
                    return Err(Finished::Refused(CallbackProblem::AnotherBrowser));
                }
                Err(self.repeat(answered, outcome.brought().as_deref()).await)
            }
            _ if callback.only_repeats => Err(Finished::Refused(CallbackProblem::UnknownState)),
            Purpose::AdminConsent { session } => {
                let (app, session) = (record.value.app.clone(), session.clone());
                let work = async move { broker.finish_admin_consent(&app, &session, outcome).await };
                Ok(("finish an admin consent", Box::pin(work)))
            }
            Purpose::Connect(state) => {
                if !is_bound(&state.session, &state.browser) {
                    return Err(Finished::Refused(CallbackProblem::AnotherBrowser));
                }
                // RFC 9207 section 2.4: simple string comparison. A templated issuer is compared with its
                // tenant filled in.
                let fits = match &callback.iss {
                    Some(iss) => issuer_fits(&state.issuer, iss),
                    None => !state.iss_required,
                };
                if !fits {
                    return Err(Finished::Refused(CallbackProblem::MixedUp));
                }
                let work = async move { broker.finish_connect(&hash, record, outcome).await };
                Ok(("finish a connect flow", Box::pin(work)))
            }
        }
    }

    async fn finish_connect(
        &self,
        hash: &FiledUnder,
        record: Taken<AuthorizeState>,
        outcome: CallbackOutcome,
    ) -> Finished {
        // Judged before anything is used up: if it cannot be determined now, the browser may come again.
        let right = match &record.value.purpose {
            Purpose::Connect(state) => match self.session(&state.session).await {
                Ok(taken) => self.right_of_session(&taken.value, None).await,
                Err(CannotBegin::Unavailable(refusal)) => Err(Barred::Unavailable(refusal)),
                Err(_) => return Finished::Refused(CallbackProblem::UnknownState),
            },
            _ => return Finished::Refused(CallbackProblem::UnknownState),
        };
        if let Err(Barred::Unavailable(_)) = right {
            return Finished::Refused(CallbackProblem::Unavailable);
        }
        let (state, confirmation_code, permit) = match self.answer_once(hash, record, &outcome).await {
            Ok(answered) => answered,
            Err(finished) => return finished,
        };
        let session = match self.session(&state.session).await {
            Ok(taken) => taken.value,
            Err(_) => return Finished::Refused(CallbackProblem::UnknownState),
        };
        let app = match self.app(&session.app) {
            Ok(app) => app,
            Err(_) => return Finished::Refused(CallbackProblem::UnknownState),
        };
        let (outcome, code) = match outcome {
            CallbackOutcome::Code(code) => {
                let redeemed = match right {
                    Ok(right) => self.redeem(&right, &app, &session, (&state, &code), permit).await,
                    Err(barred) => Err(barred.reason().into()),
                };
                // The session may have ended during the call to the authority.
                let redeemed = match self.stands(&session) {
                    SessionState::Pending => redeemed,
                    SessionState::Failed(failure) => Err(failure),
                    _ => Err(FailureReason::Expired.into()),
                };
                self.settle(&app, &session, redeemed, confirmation_code).await
            }
            CallbackOutcome::Error(error) => {
                let refusal = app.authority.judge_redirect(&error);
                (SessionState::Failed(SessionFailure::of_redirect(refusal, error.answer())), None)
            }
            CallbackOutcome::AdminConsent { .. } => {
                (SessionState::failed(FailureReason::AuthorityError), None)
            }
        };
        let state_now = self.conclude(&state.session, outcome.clone()).await;
        let code = code.filter(|_| state_now == outcome);
        // Too late: the session has another state. (If that is unknown, the grant is left to expire.)
        if let SessionState::AwaitingConfirmation { code_hash, .. } = &outcome
            && state_now != outcome
            && !state_now.is_failed_for(FailureReason::Internal)
            && let Err(error) = self.deps.repository.discard_redeemed(code_hash).await
        {
            tracing::warn!(%error, "a grant that came back too late could not be destroyed");
        }
        self.finished(session, state.session, state_now, code.as_ref(), false).await
    }

    /// Marks the state as answered; the one callback that succeeds goes on. A session that has another state
    /// uses nothing up: a waiting caller may have been told that it expired, and that is final.
    async fn answer_once(
        &self,
        hash: &FiledUnder,
        mut record: Taken<AuthorizeState>,
        outcome: &CallbackOutcome,
    ) -> Result<(ConnectState, ConfirmationCode, Option<SignInPermit>), Finished> {
        let brought = outcome.brought();
        let mut permit = None;
        let confirmation_code = random_token(self.deps.random.as_ref());
        let unavailable = |error: &dyn std::fmt::Display| {
            if let Some(left_out) = self.sayings.due("state taken", self.deps.clock.monotonic()) {
                tracing::error!(%error, left_out, "a callback's state could not be taken");
            }
            Finished::Refused(CallbackProblem::Unavailable)
        };
        for _ in 0..SWAP_TRIES {
            let state = match &record.value.purpose {
                Purpose::Connect(state) => state.clone(),
                Purpose::Answered(answered) => return Err(self.repeat(answered, brought.as_deref()).await),
                Purpose::AdminConsent { .. } => break,
            };
            let session = match self.session(&state.session).await {
                Ok(taken) => taken.value,
                Err(CannotBegin::Unavailable(_)) => {
                    return Err(Finished::Refused(CallbackProblem::Unavailable));
                }
                Err(_) => break,
            };
            let now = self.deps.clock.now();
            let stands = self.stands(&session);
            if stands != SessionState::Pending {
                return Err(self.finished(session, state.session, stands, None, true).await);
            }
            // Nothing has been used up, so the browser may come again.
            let starter = CallerName::parse(&session.created_by).ok();
            let take = || self.deps.engine.take(Cause::SignIn, starter.as_ref()).ok();
            if permit.is_none() && matches!(outcome, CallbackOutcome::Code(_)) {
                permit = self.sign_in_permits.of_state(hash, starter.as_ref(), take);
            }
            if permit.is_none() && matches!(outcome, CallbackOutcome::Code(_)) {
                if let Some(left_out) = self.sayings.due("crowded", self.deps.clock.monotonic()) {
                    tracing::warn!(
                        app = %session.app, caller = session.created_by, left_out,
                        "a caller's sign-ins come back faster than codes are redeemed, or the authority \
                         does not answer; this one must come again"
                    );
                }
                return Err(Finished::Refused(CallbackProblem::Crowded));
            }
            let answered = AuthorizeState {
                app: record.value.app.clone(),
                purpose: Purpose::Answered(Answered {
                    session: state.session.clone(),
                    browser: state.browser.clone(),
                    brought: brought.clone(),
                    confirmation_code: confirmation_code.clone(),
                }),
            };
            // As long as the session itself can be read.
            let ttl = session.expires_at.since(now) + self.settings().confirmation_ttl + READABLE_AFTER_END;
            let repository = &self.deps.repository;
            let swapped =
                repository.swap_pending(Kind::State, hash, Some(&record), &answered, now, ttl).await;
            if swapped.map_err(|error| unavailable(&error))? {
                return Ok((state, ConfirmationCode::new(confirmation_code), permit));
            }
            let again = repository.pending(Kind::State, hash).await;
            match again.map_err(|error| unavailable(&error))? {
                Some(again) => record = again,
                None => break,
            }
        }
        Err(Finished::Refused(CallbackProblem::UnknownState))
    }

    /// Handles a callback that the same browser repeats: returns the session's outcome as soon as there is
    /// one.
    async fn repeat(&self, answered: &Answered, brought: Option<&str>) -> Finished {
        let begun = self.deps.clock.monotonic();
        let mut news = self.session_waits.begin(&answered.session);
        let (session, state) = loop {
            let session = match self.session(&answered.session).await {
                Ok(taken) => taken.value,
                Err(CannotBegin::Unavailable(_)) => return Finished::Refused(CallbackProblem::Unavailable),
                Err(_) => return Finished::Refused(CallbackProblem::UnknownState),
            };
            let state = self.stands(&session);
            if state != SessionState::Pending {
                break (session, state);
            }
            let waited = self.deps.clock.monotonic().saturating_sub(begun);
            if waited >= REPEAT_WAIT || self.stopping.load(Ordering::Acquire) {
                return Finished::Refused(CallbackProblem::UnderWay);
            }
            tokio::select! {
                () = news.changed() => {}
                () = self.deps.clock.sleep(POLL.min(REPEAT_WAIT - waited)) => {}
            }
        };
        let is_same = match (brought, &answered.brought) {
            (Some(brought), Some(before)) => same(brought, before),
            _ => false,
        };
        let code = match &state {
            SessionState::AwaitingConfirmation { code_hash, .. }
                if is_same && code_hash.is_of(&answered.confirmation_code) =>
            {
                Some(ConfirmationCode::new(answered.confirmation_code.clone()))
            }
            _ => None,
        };
        self.finished(session, answered.session.clone(), state, code.as_ref(), true).await
    }

    /// Returns what the browser is shown about a session, or the URL it is sent to.
    async fn finished(
        &self,
        session: ConnectSession,
        id: SessionId,
        state: SessionState,
        code: Option<&ConfirmationCode>,
        repeated: bool,
    ) -> Finished {
        let needs_admin = state.is_failed_for(FailureReason::AdminConsentRequired);
        let admin_consent_url = match self.app(&session.app) {
            Ok(app) if needs_admin => self.consent_link(&app).await,
            _ => None,
        };
        let gone_since = repeated && self.is_gone(&session.key(), &state).await;
        let way_back = return_to(session.return_url.as_deref(), id.expose(), &state, code);
        // A page reports later changes: the product knows about them already.
        let ended_there = match &state {
            SessionState::AwaitingConfirmation { .. } => code.is_some(),
            SessionState::Connected { code_hash, .. } => code_hash.is_none(),
            SessionState::Failed(_) | SessionState::Expired | SessionState::Pending => true,
        };
        // Only our own page can show the administrator's link; the product learns the reason by polling.
        let goes = (!repeated || ended_there) && admin_consent_url.is_none();
        Finished::Session(Box::new(FinishedSession {
            return_to: way_back.clone().filter(|_| goes),
            way_back,
            key: session.key(),
            started_by: session.created_by,
            id,
            state,
            repeated,
            gone_since,
            admin_consent_url,
        }))
    }

    /// Redeems the code, and checks the account and the scopes of the answer. `permit` is for the call.
    async fn redeem(
        &self,
        right: &Right,
        app: &App,
        session: &ConnectSession,
        (state, code): (&ConnectState, &AuthorizationCode),
        permit: Option<SignInPermit>,
    ) -> Result<Redeemed, SessionFailure> {
        // Read before the grant exists, so that a later delete covers it too.
        let floor = self.deps.repository.floor(right.key()).await.map_err(|error| {
            tracing::error!(
                app = %session.app, connection = %session.connection, %error,
                "a code is not redeemed: the connection's deletes cannot be read"
            );
            SessionFailure::from(FailureReason::Internal)
        })?;
        let naming = app.naming();
        let requested = naming.scopes_lossy(session.scopes.iter().map(String::as_str));
        // A code is redeemed for one resource; the refresh token gets the others' tokens when they are
        // needed.
        let resource = naming.primary_resource(&requested);
        let scopes = requested.of_resource(resource.as_deref());
        let verifier = CodeVerifier::new(state.verifier.clone());
        if let Some(permit) = &permit {
            permit.spend();
        }
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
            .map_err(|refused| {
                let (failure, error) = match &refused {
                    RedeemFailure::TenantNotAllowed(failure) => {
                        (failure, Some(FailureReason::TenantNotAllowed.as_str()))
                    }
                    RedeemFailure::Authority(failure) => (failure, failure.answer.error.as_deref()),
                };
                tracing::warn!(
                    app = %session.app, connection = %session.connection, %failure,
                    error, error_codes = ?failure.answer.error_codes,
                    trace_id = failure.answer.trace_id, correlation_id = failure.answer.correlation_id,
                    "a code could not be redeemed"
                );
                match refused {
                    RedeemFailure::TenantNotAllowed(_) => FailureReason::TenantNotAllowed.into(),
                    RedeemFailure::Authority(failure) => {
                        SessionFailure::of_disposition(failure.disposition, failure.answer)
                    }
                }
            })?;
        let nonce = random_bytes(self.deps.random.as_ref());
        Ok(redeemed(app, session, &requested, resource, answer, (floor, nonce))?)
    }

    /// Turns a redemption into its session's outcome: connected, waiting for a confirmation, or failed.
    async fn settle(
        &self,
        app: &App,
        session: &ConnectSession,
        redeemed: Result<Redeemed, SessionFailure>,
        code: ConfirmationCode,
    ) -> (SessionState, Option<ConfirmationCode>) {
        let failed = |reason| (SessionState::failed(reason), None);
        let redeemed = match redeemed {
            Ok(redeemed) => redeemed,
            Err(failure) => return (SessionState::Failed(failure), None),
        };
        if !app.tenants.allow(&redeemed.account) {
            return failed(FailureReason::TenantNotAllowed);
        }
        let account = redeemed.account.clone();
        let begun = self.deps.clock.monotonic();
        if let Some(pinned) = &session.pinned {
            if account.id() != *pinned {
                return failed(FailureReason::AccountMismatch);
            }
            loop {
                match self.keep_connection(session, &redeemed, None).await {
                    Ok(()) => return (SessionState::Connected { account, code_hash: None }, None),
                    Err(FailureReason::Internal) if self.may_keep_again(begun).await => {}
                    Err(reason) => return failed(reason),
                }
            }
        }
        let now = self.deps.clock.now();
        let ttl = self.settings().confirmation_ttl;
        let code_hash = SecretHash::of(code.expose());
        // Keyed by the code and not by the session, so that two sign-ins keep their own.
        while let Err(error) = self.deps.repository.put_redeemed(&code_hash, &redeemed, now, ttl).await {
            tracing::error!(%error, "a grant that waits for its confirmation could not be kept");
            if !self.may_keep_again(begun).await {
                return failed(FailureReason::Internal);
            }
        }
        // The account is known now. The grant is stored first: if the right cannot be judged now, no grant is
        // lost, for the confirmation judges it again.
        match self.right_of_session(session, Some(&account)).await {
            Ok(_) | Err(Barred::Unavailable(_)) => {}
            Err(barred) => {
                if let Err(error) = self.deps.repository.discard_redeemed(&code_hash).await {
                    tracing::warn!(
                        %error,
                        "a grant that may not be stored could not be destroyed; it expires"
                    );
                }
                return failed(barred.reason());
            }
        }
        let waiting =
            SessionState::AwaitingConfirmation { account, code_hash, wrong_codes: 0, until: now.plus(ttl) };
        (waiting, Some(code))
    }

    /// Waits before storing a code's result is retried: the result is nowhere else, and the code is used up.
    /// Returns false once that has been tried for long enough.
    async fn may_keep_again(&self, begun: Duration) -> bool {
        if self.deps.clock.monotonic().saturating_sub(begun) >= KEEP_TRYING {
            return false;
        }
        self.deps.clock.sleep(KEEP_AGAIN).await;
        true
    }

    /// Moves a pending session to its outcome. If the session has another state by now, returns that.
    async fn conclude(&self, id: &SessionId, outcome: SessionState) -> SessionState {
        for _ in 0..SWAP_TRIES {
            let Ok(taken) = self.session(id).await else { break };
            if taken.value.state != SessionState::Pending {
                return taken.value.state;
            }
            let mut after = taken.value.clone();
            after.state = outcome.clone();
            match self.swap_session(id, &taken, &after).await {
                Ok(true) => return outcome,
                Ok(false) => {}
                Err(_) => break,
            }
        }
        tracing::error!("a connect session's outcome could not be stored");
        SessionState::failed(FailureReason::Internal)
    }
}

/// Checks an account's answer, and returns what to store or why nothing is stored.
fn redeemed(
    app: &App,
    session: &ConnectSession,
    requested: &ScopeSet,
    resource: Option<String>,
    answer: TokenAnswer,
    (floor, nonce): (Floor, [u8; 8]),
) -> Result<Redeemed, FailureReason> {
    let naming = app.naming();
    let account = answer.account.clone().ok_or(FailureReason::AuthorityError)?;
    let Some(refresh_token) = answer.refresh_token.clone() else {
        tracing::warn!(
            app = %session.app, connection = %session.connection,
            "the authority gave no refresh token; is offline_access among the app's scopes and granted?"
        );
        return Err(FailureReason::ScopeMissing);
    };
    warn_of_remarks(&session.key(), &answer.remarks);
    let answered = naming.scopes_lossy(answer.scopes.iter().map(String::as_str));
    // The answer covers one resource. Consent for the others shows when their tokens are fetched.
    let others = requested.iter().filter(|scope| {
        scope.resource().is_some() && scope.resource() != resource.as_deref() && !answered.contains(scope)
    });
    let granted: ScopeSet = answered.iter().chain(others).cloned().collect();
    Ok(Redeemed {
        account,
        scopes_granted: granted.to_words(),
        refresh_token,
        token: held_token(answer, resource),
        floor,
        nonce,
    })
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

/// Returns the URL for the browser after its session got a new state.
fn return_to(
    return_url: Option<&str>,
    id: &str,
    state: &SessionState,
    code: Option<&ConfirmationCode>,
) -> Option<String> {
    let return_url = return_url?;
    let joint = if return_url.contains('?') { '&' } else { '?' };
    let rest = match (state, code) {
        (SessionState::Failed(failure), _) => format!("&error={}", failure.reason.as_str()),
        (SessionState::Expired, _) => "&error=expired".to_owned(),
        (_, Some(code)) => format!("&code={}", code.expose()),
        (_, None) => String::new(),
    };
    Some(format!("{return_url}{joint}session={id}{rest}"))
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
        let failed = SessionState::failed(FailureReason::AccountMismatch);
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
