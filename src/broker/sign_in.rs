//! The browser's part of a connect flow: a button that sends it to the authority, and the callback that brings it back.
//!
//! Against capture: a link made for one user and opened by another ends with the other's account waiting for a
//! confirmation that the product gives only to the signed-in user it made the link for.

use std::sync::Arc;
use std::time::Duration;

use super::connect::{SWAP_TRIES, same};
use super::session::{AuthorizeState, ConnectSession, ConnectState, Purpose};
use super::{App, Broker, FailureReason, Refusal, SessionState};
use crate::authority::{AuthorizeRequest, RedeemRequest, TENANT_NOT_ALLOWED, TokenAnswer};
use crate::domain::id::{AppName, ConnectionKey, SessionId};
use crate::domain::random::{random_bytes, random_token};
use crate::domain::scope::ScopeSet;
use crate::domain::secret::{AuthorizationCode, CodeVerifier, ConfirmationCode};
use crate::domain::verdict::{AuthorityError, BlockReason, Disposition, ReauthReason};
use crate::refresh::{held_token, sha256_hex};
use crate::repository::{Kind, Redeemed};
use crate::store::Floor;

/// Characters of a browser's binding: 256 bits, base64url.
const BINDING_LENGTH: usize = 43;

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

impl Broker {
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
        self.deps.repository.put_pending(Kind::State, &hash, &record, now, self.settings().state_ttl).await?;
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
                let redeemed = self.redeem(&app, &session, &state, &code).await;
                // It may have expired while the authority was asked.
                let redeemed = match session.state_at(self.deps.clock.now()) {
                    SessionState::Pending => redeemed,
                    _ => Err(FailureReason::Expired),
                };
                self.settle(&app, &session, redeemed).await
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
        let admin_consent_url = if needs_admin { self.consent_link(&app).await } else { None };
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
        // Before the grant is there: a delete that comes after this one means it too.
        let floor = self.deps.repository.store().floor(&session.key()).await.map_err(|error| {
            tracing::error!(app = %session.app, connection = %session.connection, %error, "a code is not redeemed: what was deleted of the connection is not known");
            FailureReason::Internal
        })?;
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
                    trace_id = failure.answer.trace_id, correlation_id = failure.answer.correlation_id,
                    "a code could not be redeemed"
                );
                if failure.answer.error.as_deref() == Some(TENANT_NOT_ALLOWED)
                    && failure.answer.status.is_none()
                {
                    FailureReason::TenantNotAllowed
                } else {
                    reason_of(failure.disposition)
                }
            })?;
        let nonce = random_bytes(self.deps.random.as_ref());
        redeemed(app, session, &requested, resource, answer, (floor, nonce))
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
            return match self.keep_connection(session, redeemed, None).await {
                Ok(()) => (SessionState::Connected { account, code_hash: None }, None),
                Err(reason) => failed(reason),
            };
        }
        let now = self.deps.clock.now();
        let ttl = self.settings().confirmation_ttl;
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
}

/// Checks an account's answer into what is kept, or says why nothing is.
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
        tracing::warn!(app = %session.app, connection = %session.connection, "the authority gave no refresh token; is offline_access among the app's scopes and granted?");
        return Err(FailureReason::ScopeMissing);
    };
    if let Some(rules) = answer.remarks.words() {
        let AuthorityError { trace_id, correlation_id, .. } = &answer.remarks.answer;
        tracing::warn!(
            app = %session.app, connection = %session.connection, rule = rules, trace_id, correlation_id,
            "an answer of the authority is odd; what is odd in it was cut or ignored, and its tokens are kept"
        );
    }
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
