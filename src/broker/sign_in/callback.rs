//! The callback: it is checked against the stored authorize request, marked as answered once, and processed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::Instrument as _;

use super::{Callback, CallbackOutcome, CallbackProblem, CannotBegin, Finished, Tell};
use crate::broker::connect::{POLL, READABLE_AFTER_END, SWAP_TRIES, same};
use crate::broker::rights::Barred;
use crate::broker::session::{Answered, AuthorizeState, ConnectState, Purpose};
use crate::broker::sign_in_permits::SignInPermit;
use crate::broker::{Broker, FailureReason, SessionFailure, SessionState};
use crate::domain::cause::Cause;
use crate::domain::digest::sha256_hex;
use crate::domain::id::{CallerName, SessionId};
use crate::domain::random::random_token;
use crate::domain::secret::ConfirmationCode;
use crate::domain::task::BoxFuture;
use crate::repository::{FiledUnder, Kind, SecretHash, Taken};
use crate::span;

/// How long a repeated callback waits for the first one: longer than a call to the authority takes.
const REPEAT_WAIT: Duration = Duration::from_secs(15);

/// The name and the future of the work that a callback begins.
type Work = (&'static str, BoxFuture<'static, Finished>);

impl CallbackOutcome {
    /// Returns a hash of the code. It tells the first callback from one that only knows the `state`.
    fn brought(&self) -> Option<String> {
        match self {
            CallbackOutcome::Code(code) => Some(sha256_hex(code.expose().as_bytes())),
            CallbackOutcome::Error(_) | CallbackOutcome::AdminConsent { .. } => None,
        }
    }
}

impl Broker {
    /// Handles the browser's return. Everything is checked before the state is marked as answered, and the
    /// mark is stored before the code is sent. Of any number of callbacks exactly one sends the code, and the
    /// others of the same browser end like that one. From then on the work continues even if the browser
    /// leaves, so that a closed tab loses neither a sent code nor a grant. So does `tell`, which records the
    /// outcome and returns it.
    pub async fn finish(self: &Arc<Self>, callback: Callback<'_>, tell: Arc<Tell>) -> Finished {
        // Whatever is logged on the way has the request's id, at every level of the log.
        let (trace_id, span_id) = span::ids().unzip();
        let span = tracing::error_span!("callback", request_id = callback.request_id, trace_id, span_id);
        match self.begun_by(callback).instrument(span.clone()).await {
            Err(finished) => tell(finished).await,
            Ok((name, work)) => {
                let told = Arc::clone(&tell);
                let work = span::carried(async move { told(work.instrument(span).await).await });
                match self.to_the_end(name, work).await {
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
        let (outcome, request_id) = (callback.outcome, callback.request_id.to_owned());
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
                let work =
                    async move { broker.finish_admin_consent(&app, &session, outcome, &request_id).await };
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
                let work = async move { broker.finish_connect(&hash, record, outcome, &request_id).await };
                Ok(("finish a connect flow", Box::pin(work)))
            }
        }
    }

    async fn finish_connect(
        &self,
        hash: &FiledUnder,
        record: Taken<AuthorizeState>,
        outcome: CallbackOutcome,
        request_id: &str,
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
        let outcome = outcome.noted(request_id, self.deps.clock.now());
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

#[cfg(test)]
mod tests {
    use super::issuer_fits;

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
}
