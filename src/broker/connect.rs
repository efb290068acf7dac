//! Connect sessions: invitations for one browser to create or renew one connection, started and watched by a
//! caller. `sign_in` has the browser's part, and `confirm` the starter's final word.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::invitations::Link;
use super::rights::Right;
use super::session::ConnectSession;
use super::sign_in::{CannotBegin, return_to};
use super::{App, Broker, Refusal, SessionState};
use crate::domain::account::{Account, AccountId, PERSONAL_TENANT};
use crate::domain::digest::sha256_hex;
use crate::domain::id::{AppName, ConnectionKey, SessionId};
use crate::domain::random::random_token;
use crate::domain::scope::{ScopeNaming, ScopeSet};
use crate::domain::time::Timestamp;
use crate::domain::user_consent::is_left_to_administrators;
use crate::policy::CallerPolicy;
use crate::repository::{FiledUnder, Kind, Taken};

/// How long a finished session can be read.
pub(super) const READABLE_AFTER_END: Duration = Duration::from_secs(3600);
/// Time within which a change by another replica is seen by a waiting request.
pub(super) const POLL: Duration = Duration::from_secs(1);
/// Most attempts to replace a record that others replace too.
pub(super) const SWAP_TRIES: usize = 8;

/// A caller's request for a connect session.
#[derive(Debug, Clone, Default)]
pub struct NewSession {
    /// Requested scopes; the app's by default.
    pub scopes: Option<String>,
    /// Only this account may sign in.
    pub account: Option<AccountId>,
    /// True if the connection may change to another account.
    pub change_account: bool,
    /// Passed to the authority.
    pub login_hint: Option<String>,
    /// Passed to the authority.
    pub domain_hint: Option<String>,
    /// Passed to the authority.
    pub prompt: Option<String>,
    /// Return URL for the browser.
    pub return_url: Option<String>,
    /// Labels for the connection; `None` leaves those that it has.
    pub labels: Option<Vec<String>>,
}

/// A new connect session.
#[derive(Debug, Clone)]
pub struct StartedSession {
    /// Its id.
    pub id: SessionId,
    /// The link for the user's browser.
    pub connect_url: String,
    /// End of the link's life.
    pub expires_at: Timestamp,
    /// The part of the caller's request that is not passed to the authority, and why.
    pub remark: Option<String>,
    /// What its user will be asked to consent to. `None` if that is nothing, or not known before.
    pub consent: Option<ConsentAhead>,
}

/// What a session asks its user to consent to, at Entra.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsentAhead {
    /// Scopes that the connection does not have.
    pub scopes_added: Vec<String>,
    /// True if an administrator has probably to consent first: the tenant's default policy leaves one of them
    /// to administrators, and no connection shows that one has consented.
    pub needs_administrator: bool,
}

/// What a page may show about a session before its button is pressed.
#[derive(Debug, Clone)]
pub struct SessionView {
    /// The app.
    pub app: AppName,
    /// The connection.
    pub key: ConnectionKey,
    /// The caller that asks.
    pub asked_by: String,
    /// The scopes that will be requested.
    pub scopes: Vec<String>,
    /// Its state.
    pub state: SessionState,
    /// True for the browser that the session is bound to.
    pub is_its_browser: bool,
    /// True if the new connection has been deleted since.
    pub gone_since: bool,
    /// For its browser, once it ended: the return URL, as a link.
    pub way_back: Option<String>,
    /// For its browser: a link for an administrator, if their approval is needed.
    pub admin_consent_url: Option<String>,
}

impl Link for StartedSession {
    fn expires_at(&self) -> Timestamp {
        self.expires_at
    }
}

impl Broker {
    /// Returns a link for a caller whose token request needs the user. It is the link given before while that
    /// is young and unused, so that a polling caller does not make a session with every request.
    pub async fn invite(&self, right: &Right) -> Result<StartedSession, Refusal> {
        let (caller, key) = (right.caller(), right.key());
        let given = self.invitations.given(caller, key);
        if let Some(given) = given
            && given.expires_at.since(self.deps.clock.now()) > self.settings().connect_session_ttl / 2
            && let Ok(session) = self.session(&given.id).await
            && self.stands(&session.value) == SessionState::Pending
            && session.value.browser.is_none()
            && session.value.seen == self.existing_account(key).await?.map(|account| account.id())
        {
            return Ok(given);
        }
        let started = self.start_session(right, NewSession::default()).await?;
        self.invitations.give(caller, key.clone(), started.clone(), self.deps.clock.now());
        Ok(started)
    }

    /// Starts a connect session.
    pub async fn start_session(&self, right: &Right, request: NewSession) -> Result<StartedSession, Refusal> {
        let key = right.key();
        if request.change_account && !right.may_move() {
            let problem =
                "a rule for a tenant renews connections of that tenant and moves none to another account: \
                           change_account takes a rule that names the connection or its prefix"
                    .to_owned();
            return Err(Refusal::Forbidden { problem });
        }
        let app = self.app(&key.app)?;
        let scopes = scopes_to_request(&app, request.scopes.as_deref())?;
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
        let expires_at = now.plus(self.settings().connect_session_ttl);
        let id = self.new_session_id();
        // Counted before anything is read, so that a refusal costs nothing.
        self.count_session(right.caller(), key, &id, expires_at).await?;
        let keep = async {
            let consented = self.consent_known(right, &scopes, pinned.as_ref(), &request).await?;
            // A forecast refuses nobody.
            let consent = self.consent_ahead(right, &scopes, pinned.as_ref()).await.ok().flatten();
            let (prompt, remark) = match consented {
                Some(tenant) => (None, Some(consent_left_out(&tenant))),
                None => (prompt(&app, &scopes, request.prompt), None),
            };
            let session = ConnectSession {
                app: key.app.clone(),
                connection: key.connection.clone(),
                scopes: scopes.to_words(),
                created_by: right.caller().to_string(),
                started_at: self.session_begins_at().await?,
                expires_at,
                change_account: request.change_account,
                // The present account is suggested only if it is the wanted one.
                login_hint: request.login_hint.or_else(|| {
                    let wanted = existing.as_ref().filter(|account| pinned.as_ref() == Some(&account.id()));
                    wanted.and_then(|account| account.username.clone())
                }),
                seen: existing.as_ref().map(Account::id),
                pinned,
                domain_hint: request.domain_hint,
                prompt,
                return_url: request.return_url,
                browser: None,
                presses: 0,
                states: Vec::new(),
                state: SessionState::Pending,
                labels: request.labels,
            };
            let ttl = self.settings().connect_session_ttl + READABLE_AFTER_END;
            let filed = FiledUnder::session(&id);
            self.deps.repository.put_pending(Kind::ConnectSession, &filed, &session, now, ttl).await?;
            Ok((remark, consent))
        };
        let (remark, consent) = match keep.await {
            Ok(told) => told,
            Err(refusal) => {
                self.uncount_session(right.caller().as_str(), key, &id).await;
                return Err(refusal);
            }
        };
        Ok(StartedSession {
            connect_url: format!("{}/connect/{}", self.settings().base_url, id.expose()),
            id,
            expires_at,
            remark,
            consent,
        })
    }

    /// Returns what a session's user will be asked to consent to. Personal accounts have no administrator.
    async fn consent_ahead(
        &self,
        right: &Right,
        scopes: &ScopeSet,
        pinned: Option<&AccountId>,
    ) -> Result<Option<ConsentAhead>, Refusal> {
        let name = &right.key().app;
        let app = self.app(name)?;
        let ScopeNaming::Entra { graph } = app.naming() else { return Ok(None) };
        let granted = match self.deps.engine.inspect(right.key()).await {
            Ok(held) if pinned == Some(&held.connection.profile.account().id()) => held.granted.clone(),
            _ => ScopeSet::default(),
        };
        let added = scopes.missing_from(&granted);
        let added = || added.iter().filter(|scope| !scope.is_openid());
        if added().next().is_none() {
            return Ok(None);
        }
        let tenant = self.tenant_ahead(&app, pinned);
        let is_left = added().any(|scope| is_left_to_administrators(scope, graph));
        let needs_administrator = match tenant {
            _ if !is_left => false,
            Some(PERSONAL_TENANT) => false,
            Some(tenant) => self.shown_consent(right.policy(), name, scopes, tenant, None).await?.is_none(),
            None => app.tenants.has_organizations(),
        };
        let scopes_added = added().map(|scope| scope.wire().to_owned()).collect();
        Ok(Some(ConsentAhead { scopes_added, needs_administrator }))
    }

    /// Returns the tenant that a session's account must belong to, if that is known before.
    fn tenant_ahead<'a>(&self, app: &'a App, pinned: Option<&'a AccountId>) -> Option<&'a str> {
        match pinned {
            Some(AccountId::Entra { tid, .. }) => Some(tid.as_str()),
            Some(_) => None,
            None => app.tenants.only(),
        }
    }

    /// Returns the tenant that this session's account must belong to, if a caller asks for `prompt=consent`
    /// at Entra and a connection that the caller may see shows that the tenant has consented. With that
    /// prompt Entra refuses users who may not consent (AADSTS90095), and without it asks everybody who must
    /// be asked.
    async fn consent_known(
        &self,
        right: &Right,
        scopes: &ScopeSet,
        pinned: Option<&AccountId>,
        request: &NewSession,
    ) -> Result<Option<String>, Refusal> {
        let name = &right.key().app;
        let app = self.app(name)?;
        if *app.naming() == ScopeNaming::Plain || request.prompt.as_deref() != Some("consent") {
            return Ok(None);
        }
        match self.tenant_ahead(&app, pinned) {
            Some(tenant) => self.shown_consent(right.policy(), name, scopes, tenant, None).await,
            None => Ok(None),
        }
    }

    /// Returns a session's state to the caller that started it, at once or as soon as it is no longer
    /// pending.
    pub async fn session_state(
        &self,
        caller: &CallerPolicy,
        id: &SessionId,
        wait: Duration,
    ) -> Result<SessionState, Refusal> {
        let begun = self.deps.clock.monotonic();
        let mut first_seen: Option<&'static str> = None;
        let mut waiting = self.session_waits.begin(id);
        loop {
            let session = self.own_session(caller, id).await?.value;
            let state = self.stands(&session);
            let waited = self.deps.clock.monotonic().saturating_sub(begun);
            let over = !matches!(state, SessionState::Pending | SessionState::AwaitingConfirmation { .. });
            let moved = first_seen.is_some_and(|first| first != state.as_str());
            // A waiting caller wants changes; a session that waits for the caller's own confirmation is one
            // at once.
            let news = over || moved || matches!(state, SessionState::AwaitingConfirmation { .. });
            if news || waited >= wait || self.stopping.load(Ordering::Acquire) {
                return Ok(state);
            }
            first_seen = Some(state.as_str());
            tokio::select! {
                () = waiting.changed() => {}
                () = self.deps.clock.sleep(POLL.min(wait - waited)) => {}
            }
        }
    }

    /// Returns what a session's page may show to a browser with this binding.
    pub async fn session_view(
        &self,
        id: &SessionId,
        binding: Option<&str>,
    ) -> Result<SessionView, CannotBegin> {
        let session = self.session(id).await?.value;
        let is_its_browser = match (binding, &session.browser) {
            (Some(binding), Some(bound)) => same(&sha256_hex(binding.as_bytes()), bound),
            _ => false,
        };
        let state = self.stands(&session);
        let key = match state {
            SessionState::Pending => self.right_of_session(&session, None).await?.into_key(),
            _ => session.key(),
        };
        let has_ended = is_its_browser && state != SessionState::Pending;
        let (mut way_back, mut admin_consent_url) = (None, None);
        if has_ended {
            way_back = return_to(session.return_url.as_deref(), id.expose(), &state, None);
            admin_consent_url = self.approval_link(&session.app, &state).await;
        }
        Ok(SessionView {
            gone_since: is_its_browser && self.is_gone(&key, &state).await,
            is_its_browser,
            way_back,
            admin_consent_url,
            app: session.app.clone(),
            key,
            asked_by: session.created_by.clone(),
            state,
            scopes: session.scopes,
        })
    }

    /// Returns true if the connection that a session made is known to be deleted or to have another account.
    pub(super) async fn is_gone(&self, key: &ConnectionKey, state: &SessionState) -> bool {
        let SessionState::Connected { account, .. } = state else { return false };
        match self.existing_account(key).await {
            Ok(existing) => existing.is_none_or(|existing| existing.id() != account.id()),
            Err(_) => false,
        }
    }

    /// Makes a new id, which is the link's secret.
    pub(super) fn new_session_id(&self) -> SessionId {
        SessionId::parse(&random_token(self.deps.random.as_ref())).expect("our own ids are of that alphabet")
    }

    async fn existing_account(&self, key: &ConnectionKey) -> Result<Option<Account>, Refusal> {
        match self.deps.engine.inspect(key).await {
            Ok(held) => Ok(Some(held.connection.profile.account().clone())),
            Err(failure) => match Refusal::of_failure(&failure) {
                Refusal::ConnectionNotFound => Ok(None),
                refusal => Err(refusal),
            },
        }
    }

    pub(super) async fn session(&self, id: &SessionId) -> Result<Taken<ConnectSession>, CannotBegin> {
        match self.deps.repository.pending(Kind::ConnectSession, &FiledUnder::session(id)).await {
            Ok(Some(taken)) => Ok(taken),
            Ok(None) => Err(CannotBegin::Gone),
            Err(error) => Err(CannotBegin::Unavailable(error.into())),
        }
    }

    /// Returns a session to the caller that started it, as long as it may know of the connection; for anyone
    /// else there is none.
    pub(super) async fn own_session(
        &self,
        caller: &CallerPolicy,
        id: &SessionId,
    ) -> Result<Taken<ConnectSession>, Refusal> {
        let may_know = |session: &ConnectSession| {
            let key = session.key();
            session.created_by == caller.caller.as_str()
                && session.tenants().map(Some).chain([None]).any(|tenant| caller.see(&key, tenant).is_ok())
        };
        match self.session(id).await {
            Ok(taken) if may_know(&taken.value) => Ok(taken),
            Ok(_) | Err(CannotBegin::Gone) => Err(Refusal::SessionNotFound),
            Err(other) => Err(unavailable(other)),
        }
    }

    pub(super) async fn swap_session(
        &self,
        id: &SessionId,
        read: &Taken<ConnectSession>,
        after: &ConnectSession,
    ) -> Result<bool, CannotBegin> {
        let now = self.deps.clock.now();
        // A session that waits for its confirmation outlives its link.
        let ends = match after.state {
            SessionState::AwaitingConfirmation { until, .. } => until.max(after.expires_at),
            _ => after.expires_at,
        };
        let readable = self.readable_after_end(id, after).await;
        let link = if readable == READABLE_AFTER_END { ends.since(now) } else { Duration::ZERO };
        let ttl = link + readable;
        let swapped = self
            .deps
            .repository
            .swap_pending(Kind::ConnectSession, &FiledUnder::session(id), Some(read), after, now, ttl)
            .await
            .map_err(|error| CannotBegin::Unavailable(error.into()))?;
        if swapped {
            self.session_waits.wake(id);
            self.recount_session(id, after, ends, readable).await;
        }
        Ok(swapped)
    }
}

/// Returns the scopes to request from the user: the app's, or fewer, and always those needed to keep a
/// connection.
pub(super) fn scopes_to_request(app: &App, asked: Option<&str>) -> Result<ScopeSet, Refusal> {
    let naming = app.naming();
    let mut scopes = match asked {
        None => app.scopes.clone(),
        Some(asked) => {
            let asked = naming.scopes_asked(asked).map_err(|why| Refusal::invalid("scopes", why))?;
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
        // Other providers differ in how they issue a refresh token; the operator lists `offline_access` for
        // those that need it.
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

/// Returns the `prompt` to send. OpenID Connect Core section 11: a provider grants `offline_access` only with
/// `prompt=consent`, so that is added to the caller's own prompt, except for `none`, which shows no page.
/// Entra does not require it, and would ask its users again each time.
fn prompt(app: &App, scopes: &ScopeSet, asked: Option<String>) -> Option<String> {
    let offline = scopes.iter().any(|scope| scope.canonical() == "offline_access");
    if *app.naming() != ScopeNaming::Plain || !offline {
        return asked;
    }
    Some(match asked.as_deref() {
        None => "consent".to_owned(),
        Some(alone @ ("none" | "consent")) => alone.to_owned(),
        Some(other) => format!("{other} consent"),
    })
}

fn consent_left_out(tenant: &str) -> String {
    format!(
        "prompt=consent is left out: tenant {tenant} has consented to these scopes, and users who may not \
         consent would be refused (AADSTS90095). Entra still asks each user who has not consented yet."
    )
}

fn check_hints(request: &NewSession) -> Result<(), Refusal> {
    let hints = [("login_hint", &request.login_hint), ("domain_hint", &request.domain_hint)];
    for (parameter, hint) in hints {
        if let Some(hint) = hint
            && (hint.is_empty() || hint.chars().count() > 512 || hint.chars().any(char::is_control))
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

pub(super) fn unavailable(problem: CannotBegin) -> Refusal {
    match problem {
        CannotBegin::Unavailable(refusal) => refusal,
        CannotBegin::Gone
        | CannotBegin::Over(_)
        | CannotBegin::AnotherBrowser
        | CannotBegin::TooOften
        | CannotBegin::Barred(_) => Refusal::SessionNotFound,
    }
}

/// Compares two hashes in constant time.
pub(super) fn same(one: &str, other: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(one.as_bytes(), other.as_bytes()).is_ok()
}
