//! Admin consent: a link with which a tenant's administrator approves the app for everyone. Anyone who has
//! the link can forge the redirect that comes back, so it proves nothing: it only makes tokenward try that
//! tenant's blocked connections at once. Consent is believed once a user's token call in that tenant has
//! shown the scopes.

use std::sync::Arc;

use super::connect::{READABLE_AFTER_END, SWAP_TRIES};
use super::invitations::Link;
use super::session::{AuthorizeState, ConsentSession, ConsentState, Purpose};
use super::sign_in::{CallbackOutcome, CallbackProblem, Finished};
use super::{App, Broker, FailureReason, Refusal, SessionFailure};
use crate::authority::{AdminConsentRequest, is_tenant_name};
use crate::domain::id::{AppName, SessionId};
use crate::domain::random::random_token;
use crate::domain::scope::ScopeSet;
use crate::domain::time::Timestamp;
use crate::policy::{AppPermit, CallerPolicy};
use crate::repository::{FiledUnder, Kind, SecretHash, Taken};

/// A new admin consent session.
#[derive(Debug, Clone)]
pub struct StartedConsent {
    /// Its id.
    pub id: SessionId,
    /// The administrator's link.
    pub admin_consent_url: String,
    /// End of the time in which the redirect is accepted.
    pub expires_at: Timestamp,
}

/// What a user's token must have for the consent to show. (No token names the scopes of the sign-in.)
fn to_show(app: &App) -> ScopeSet {
    app.scopes.iter().filter(|scope| !scope.is_openid()).cloned().collect()
}

/// A link that an operator was given, with the `state` in it.
#[derive(Clone)]
pub(super) struct GivenLink {
    started: StartedConsent,
    state: String,
}

impl Link for GivenLink {
    fn expires_at(&self) -> Timestamp {
        self.started.expires_at
    }
}

impl Broker {
    /// Returns a link for an administrator of a tenant, for an operator who asks in the place of a caller. It
    /// is the link given before while that is young and unused and would be made so now, so that an operator
    /// who presses again takes no more of the caller's sessions.
    pub async fn admin_consent_link(
        &self,
        caller: &CallerPolicy,
        app: &AppName,
        tenant: String,
    ) -> Result<StartedConsent, Refusal> {
        let (permit, known) = (caller.can_connect_to(app)?, self.app(app)?);
        let key = (app.clone(), tenant.clone());
        if let Some(given) = self.consent_links.given(permit.caller(), &key)
            && given.started.expires_at.since(self.deps.clock.now()) > self.settings().connect_session_ttl / 2
            && self.admin_consent_state(caller, &given.started.id).await == Ok(ConsentState::Pending)
            && self.admin_consent_url(&known, Some(tenant.clone()), given.state).await?
                == Some(given.started.admin_consent_url.clone())
        {
            return Ok(given.started);
        }
        let state = random_token(self.deps.random.as_ref());
        let started = self.start_consent(permit, Some(tenant), None, state.clone()).await?;
        let given = GivenLink { started: started.clone(), state };
        self.consent_links.give(permit.caller(), key, given, self.deps.clock.now());
        Ok(started)
    }

    /// Starts an admin consent session.
    pub async fn start_admin_consent(
        &self,
        permit: AppPermit<'_>,
        tenant: Option<String>,
        return_url: Option<String>,
    ) -> Result<StartedConsent, Refusal> {
        self.start_consent(permit, tenant, return_url, random_token(self.deps.random.as_ref())).await
    }

    async fn start_consent(
        &self,
        permit: AppPermit<'_>,
        tenant: Option<String>,
        return_url: Option<String>,
        state: String,
    ) -> Result<StartedConsent, Refusal> {
        let (app, caller) = (permit.app(), permit.caller());
        let known = self.app(app)?;
        if let Some(tenant) = &tenant
            && !is_tenant_name(tenant)
        {
            return Err(Refusal::invalid("tenant", "must be a tenant id or a domain of the tenant"));
        }
        if let Some(url) = &return_url
            && !known.return_urls.contains(url)
        {
            return Err(Refusal::invalid("return_url", format!("is not among apps.{app}.return_urls")));
        }
        let scopes = to_show(&known);
        let now = self.deps.clock.now();
        let expires_at = now.plus(self.settings().connect_session_ttl);
        let session = ConsentSession {
            app: app.clone(),
            tenant: tenant.clone(),
            scopes: scopes.to_words(),
            created_by: caller.to_string(),
            started_at: self.session_begins_at().await?,
            expires_at,
            return_url,
            state: ConsentState::Pending,
        };
        let url = self.admin_consent_url(&known, tenant, state.clone()).await?;
        let admin_consent_url = url.ok_or_else(|| {
            Refusal::invalid("app", "this app's authority has no page for an administrator's consent")
        })?;
        let id = self.new_session_id();
        let ttl = self.settings().connect_session_ttl;
        let kept = ttl + READABLE_AFTER_END;
        self.count_consent(caller, app, session.tenant.as_deref(), &id, expires_at).await?;
        let record =
            AuthorizeState { app: app.clone(), purpose: Purpose::AdminConsent { session: id.clone() } };
        let hash = FiledUnder::hash(&SecretHash::of(&state));
        let (kind, filed) = (Kind::AdminConsentSession, FiledUnder::session(&id));
        let repository = &self.deps.repository;
        let keep = async {
            repository.put_pending(kind, &filed, &session, now, kept).await?;
            repository.put_pending(Kind::State, &hash, &record, now, ttl).await
        };
        if let Err(error) = keep.await {
            self.uncount_consent(caller.as_str(), app, session.tenant.as_deref(), &id).await;
            return Err(error.into());
        }
        Ok(StartedConsent { id, admin_consent_url, expires_at })
    }

    /// Makes an administrator's link without a session, for an error page.
    pub(super) async fn consent_link(&self, app: &App) -> Option<String> {
        let state = random_token(self.deps.random.as_ref());
        self.admin_consent_url(app, None, state).await.ok().flatten()
    }

    /// The link asks for every scope of the app, those of the sign-in too: an approval may take back what it
    /// does not ask for, and where users may consent to nothing, they may not consent to these either.
    async fn admin_consent_url(
        &self,
        app: &App,
        tenant: Option<String>,
        state: String,
    ) -> Result<Option<String>, Refusal> {
        let scopes = app.scopes.clone();
        let request = AdminConsentRequest { tenant, scopes, redirect_uri: app.redirect_uri.clone(), state };
        app.authority
            .admin_consent_url(&request)
            .await
            .map_err(|failure| Refusal::of_disposition(failure.disposition, failure.answer))
    }

    /// Returns the state of an admin consent session to the caller that started it, as long as it may know of
    /// the app.
    pub async fn admin_consent_state(
        &self,
        caller: &CallerPolicy,
        id: &SessionId,
    ) -> Result<ConsentState, Refusal> {
        let (kind, filed) = (Kind::AdminConsentSession, FiledUnder::session(id));
        let taken: Option<Taken<ConsentSession>> = self.deps.repository.pending(kind, &filed).await?;
        let may_know = |session: &ConsentSession| {
            session.created_by == caller.caller.as_str() && caller.knows_app(&session.app)
        };
        let Some(taken) = taken.filter(|taken| may_know(&taken.value)) else {
            return Err(Refusal::SessionNotFound);
        };
        let now = self.deps.clock.now();
        let is_open = match taken.value.state {
            ConsentState::Pending => now < taken.value.expires_at,
            ConsentState::Reported { .. } => true,
            _ => false,
        };
        if is_open && let Some(reason) = self.bars_consent(&taken.value) {
            return Ok(ConsentState::Failed(reason.into()));
        }
        match &taken.value.state {
            ConsentState::Pending if now >= taken.value.expires_at => Ok(ConsentState::Expired),
            ConsentState::Reported { tenant, at } => {
                let Some(shown) = self.reported_consent(caller, &taken.value, tenant.as_deref(), *at).await?
                else {
                    return Ok(taken.value.state.clone());
                };
                let mut after = taken.value.clone();
                after.state = ConsentState::Consented { tenant: shown };
                let ttl = self.consent_readable(id, &after).await;
                self.deps.repository.swap_pending(kind, &filed, Some(&taken), &after, now, ttl).await?;
                Ok(after.state)
            }
            state => Ok(state.clone()),
        }
    }

    /// Handles the redirect. The first one counts; a repeated one gets the same answer.
    pub(super) async fn finish_admin_consent(
        self: &Arc<Self>,
        app: &AppName,
        session: &SessionId,
        outcome: CallbackOutcome,
        request_id: &str,
    ) -> Finished {
        let repository = &self.deps.repository;
        let (kind, filed) = (Kind::AdminConsentSession, FiledUnder::session(session));
        let now = self.deps.clock.now();
        let failed = |failure: SessionFailure| ConsentState::Failed(failure.noted(request_id, now));
        let state = match outcome {
            CallbackOutcome::AdminConsent { tenant } => ConsentState::Reported { tenant, at: now },
            CallbackOutcome::Error(error) => {
                let refusal = match self.app(app) {
                    Ok(app) => app.authority.judge_redirect(&error),
                    Err(_) => return Finished::Refused(CallbackProblem::UnknownState),
                };
                failed(SessionFailure::of_redirect(refusal, error.answer()))
            }
            CallbackOutcome::Code(_) => failed(FailureReason::AuthorityError.into()),
        };
        let mut tries = 0;
        let (after, repeated) = loop {
            let taken = match repository.pending::<ConsentSession>(kind, &filed).await {
                Ok(Some(taken)) => taken,
                Ok(None) => return Finished::Refused(CallbackProblem::UnknownState),
                Err(_) => return Finished::Refused(CallbackProblem::Unavailable),
            };
            if taken.value.state != ConsentState::Pending {
                break (taken.value, true);
            }
            let mut after = taken.value.clone();
            // Nothing is done for a starter that has lost its right.
            after.state = match self.bars_consent(&after) {
                Some(reason) => failed(reason.into()),
                None => state.clone(),
            };
            let readable = self.consent_readable(session, &after).await;
            match repository.swap_pending(kind, &filed, Some(&taken), &after, now, readable).await {
                Ok(true) => {
                    self.recount_consent(session, &after, readable).await;
                    break (after, false);
                }
                Ok(false) if tries < SWAP_TRIES => tries += 1,
                Ok(false) | Err(_) => return Finished::Refused(CallbackProblem::Unavailable),
            }
        };
        let refused = match &after.state {
            ConsentState::Failed(failure) => Some(Box::new(failure.clone())),
            _ => None,
        };
        if !repeated && let ConsentState::Reported { tenant: Some(tenant), .. } = &after.state {
            self.note_reported_consent(&after.app, tenant, &after.created_by);
        }
        let return_to = after.return_url.as_ref().map(|url| {
            let joint = if url.contains('?') { '&' } else { '?' };
            let error = refused.as_ref().map(|failure| format!("&error={}", failure.reason.as_str()));
            format!("{url}{joint}session={}{}", session.expose(), error.unwrap_or_default())
        });
        Finished::AdminConsent { return_to, app: after.app, session: session.clone(), refused, repeated }
    }

    /// Returns the tenant in which, since the report, a token call has shown every scope to be approved, for
    /// a connection that the caller may see.
    async fn reported_consent(
        &self,
        caller: &CallerPolicy,
        session: &ConsentSession,
        reported: Option<&str>,
        since: Timestamp,
    ) -> Result<Option<String>, Refusal> {
        let app = self.app(&session.app)?;
        let asked = app.naming().scopes_lossy(session.scopes.iter().map(String::as_str));
        match session.tenant.as_deref().filter(|tenant| tenant.len() == 36).or(reported) {
            Some(tenant) => self.shown_consent(caller, &session.app, &asked, tenant, Some(since)).await,
            None => Ok(None),
        }
    }
}
