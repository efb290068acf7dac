//! One function for each event: it counts, logs and audits the event, so that the three never disagree.

mod crowd;
mod damage;
mod handles;
mod relayed;
mod routine;
mod strangers;

use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::authority::{AuthorityEvent, AuthorityObserver, Endpoint};
use crate::broker::revoke::Meant;
use crate::broker::rewrap::Progress;
use crate::broker::sign_in::Finished;
use crate::broker::{FailureReason, Mender, Refusal, SessionFailure, SessionState};
use crate::callers::{AuthenticationFailure, Callers};
use crate::domain::account::Account;
use crate::domain::auth_method::AuthMethod;
use crate::domain::cause::Cause;
use crate::domain::connection::Status;
use crate::domain::handle::HandleId;
use crate::domain::id::{AppName, CallerName, ConnectionKey, ConnectionName, SessionId};
use crate::domain::revocation::Revocation;
use crate::domain::tenant_block::{Change, Edge};
use crate::domain::time::{Clock, Timestamp};
use crate::domain::token::HeldToken;
use crate::keyring::Replaced;
use crate::lifecycle::Readiness;
use crate::listener::{Origin, RequestId};
use crate::refresh::{LeaseOutcome, Lookup, Observer, Swept};
use crate::span::{self, Value};
use crate::store::StoreError;
use crate::store::observed::{OPERATIONS, Risk, StoreObserver};
use crate::telemetry::audit::{Action, Audit, AuditEvent, Noted, Recorded, TokenWords};
use crate::telemetry::metrics::{CacheResult, LeaseResult, Metrics, TokenRequestHandles};
use crate::telemetry::sampler::Sampler;
use crate::telemetry::session_mark::SessionMark;

pub use handles::HandleMade;
pub use relayed::{
    BatchParts, CALLER_GONE, RELAY_OUTCOMES, RESOURCE_FULL, RelayRecord, Relaying, TURN_OUTCOMES, TurnWait,
};
pub use routine::{Routine, RoutineHandOut, Routines};
use strangers::Kind;
pub use strangers::{Listener, Stranger};

/// The word of tokenward's own interfaces, for [`Who::dialect`].
pub const NATIVE: &str = "native";

/// How an attempt to import a grant ends: with what it did, or with a code.
pub const IMPORT_OUTCOMES: [&str; 17] = [
    "imported",
    "replaced",
    "already_imported",
    "invalid_request",
    "caller_forbidden",
    "app_not_found",
    "reauthorization_required",
    "connection_blocked",
    "connection_paused",
    "import_refused",
    "rate_limited",
    "authority_unavailable",
    "app_credential_rejected",
    "app_rejected",
    "record_damaged",
    "store_unavailable",
    "overloaded",
];

/// The object of an operator's act on the daemon.
#[derive(Clone, Copy, Default)]
pub struct About<'a> {
    /// An app.
    pub app: Option<&'a str>,
    /// One of its client credentials, or `*` for all.
    pub credential: Option<&'a str>,
    /// The host of a token endpoint.
    pub host: Option<&'a str>,
}

impl<'a> About<'a> {
    /// Names an app's client credential.
    pub fn credential(app: &'a AppName, label: &'a str) -> Self {
        About { app: Some(app.as_str()), credential: Some(label), host: None }
    }
}

/// The sender of a request.
#[derive(Clone, Copy)]
pub struct Who<'a> {
    /// The request's id.
    pub request_id: &'a RequestId,
    /// Where it came from.
    pub origin: Origin,
    /// The listener that received it.
    pub listener: Listener,
    /// The word of the wire form that it speaks.
    pub dialect: &'static str,
    /// How the sender proved who it is; `None` for a stranger.
    pub method: Option<AuthMethod>,
    /// The handle that was presented, if it was one of ours.
    pub handle: Option<&'a HandleId>,
}

impl<'a> Who<'a> {
    /// Adds the handle that was presented.
    #[must_use]
    pub fn with_handle(mut self, handle: Option<&'a HandleId>) -> Self {
        self.handle = handle;
        self
    }

    /// Adds how the sender proved who it is.
    #[must_use]
    pub fn proven_by(mut self, method: AuthMethod) -> Self {
        self.method = Some(method);
        self
    }
}

/// A token that is handed out.
pub struct HandOut<'a> {
    /// The caller that gets it.
    pub caller: &'a CallerName,
    /// Its connection.
    pub key: &'a ConnectionKey,
    /// What its record says of the token.
    pub words: Arc<TokenWords>,
    /// The life it has left.
    pub life: Duration,
    /// How long the request took.
    pub elapsed: Duration,
    /// On whose word it was asked for, if a user's own token said it.
    pub detail: BTreeMap<&'static str, String>,
}

/// A token of an app itself that is handed out.
pub struct AppHandOut<'a> {
    /// The caller that gets it.
    pub caller: &'a CallerName,
    /// The app.
    pub app: &'a AppName,
    /// The tenant that it is for.
    pub tenant: &'a str,
    /// The resource that it is for; `None` if the authority chose.
    pub resource: Option<&'a str>,
    /// The token.
    pub token: &'a HeldToken,
    /// The life it has left.
    pub life: Duration,
    /// How long the request took.
    pub elapsed: Duration,
}

/// An object that a caller wants to read.
pub struct Read {
    /// Kind of object.
    pub what: &'static str,
    /// Its app.
    pub app: Option<AppName>,
    /// Its connection.
    pub connection: Option<ConnectionName>,
    /// Its session.
    pub session: Option<SessionId>,
}

type OfDialects = BTreeMap<&'static str, Arc<TokenRequestHandles>>;

/// Counts, logs and audits events.
pub struct Events {
    metrics: Arc<Metrics>,
    audit: Arc<dyn Audit>,
    clock: Arc<dyn Clock>,
    /// Counters of each (app, caller, dialect), resolved once.
    handles: RwLock<BTreeMap<AppName, BTreeMap<CallerName, OfDialects>>>,
    /// Counts the configurations: each makes new counters.
    generation: AtomicU64,
    strangers: crowd::Crowd,
    /// Whether a token is handed out only if a sink took its record.
    is_fail_closed: bool,
    /// Limits the records of callers' refusals by action and code, so that one caller pushes out nobody
    /// else's records.
    refusals: Sampler<(CallerName, Action, &'static str)>,
    unavailable_links: Sampler<()>,
}

impl Events {
    /// Makes events with these outputs.
    pub fn new(metrics: Arc<Metrics>, audit: Arc<dyn Audit>, clock: Arc<dyn Clock>) -> Self {
        metrics.expect_strangers(Stranger::all().map(Stranger::as_str));
        let (handles, generation, is_fail_closed) = (RwLock::default(), AtomicU64::new(0), false);
        Events {
            metrics,
            audit,
            clock,
            handles,
            generation,
            strangers: crowd::Crowd::default(),
            is_fail_closed,
            refusals: Sampler::default(),
            unavailable_links: Sampler::default(),
        }
    }

    /// Sets whether a token is handed out only if a sink took its record.
    #[must_use]
    pub fn fail_closed(mut self, is_fail_closed: bool) -> Self {
        self.is_fail_closed = is_fail_closed;
        self
    }

    /// Sets the configured apps and callers. New series begin at 0, and series of removed names end.
    pub fn expect<'a>(
        &self,
        apps: impl Iterator<Item = &'a AppName>,
        issuers: impl Iterator<Item = &'a String>,
        callers: &Callers,
        admins: &Callers,
    ) {
        let issuers: BTreeSet<String> = issuers.cloned().collect();
        let apps: BTreeSet<AppName> = apps.cloned().collect();
        let names = callers.iter().chain(admins.iter()).map(|caller| caller.name.clone()).collect();
        self.metrics.rename(|known| {
            known.apps.clone_from(&apps);
            known.callers = names;
            known.issuers.clone_from(&issuers);
        });
        // Their counters may have ended.
        self.handles.write().clear();
        self.generation.fetch_add(1, Ordering::AcqRel);
        issuers.iter().for_each(|issuer| self.metrics.expect_issuer(issuer));
        for app in &apps {
            self.metrics.expect_app(app, &Endpoint::WORDS);
            self.metrics.expect_relayed(app, &RELAY_OUTCOMES, &TURN_OUTCOMES);
            self.metrics.expect_imports(app, &IMPORT_OUTCOMES);
        }
        for caller in callers.iter() {
            self.metrics.expect_caller(&caller.name);
            for rule in caller.policy.rules() {
                self.handles(&rule.app, &caller.name, NATIVE);
                if !rule.relay.is_empty() {
                    self.metrics.expect_handles(&rule.app, &caller.name);
                }
            }
        }
    }

    /// Reports that a token is handed out. It may leave after that.
    ///
    /// # Errors
    /// No sink took the record, and the configuration demands one: the token must not leave.
    pub async fn handed_out(&self, who: Who<'_>, out: HandOut<'_>) -> Result<(), Refusal> {
        let HandOut { caller, key, words, life, elapsed, detail } = out;
        let mut event = hand_out(self.clock.now(), who, (caller, key), &words, life);
        event.detail = detail;
        if !self.may_leave(event).await {
            return Err(self.not_recorded(who, (caller, key), elapsed));
        }
        self.handles(&key.app, caller, who.dialect).served(elapsed);
        self.show(Some(&key.app), caller, who.dialect, "ok");
        Ok(())
    }

    /// Says in the span of a request for a token what it was for, and how it ended. (The name of an app that
    /// is not configured is the sender's text.)
    fn show(&self, app: Option<&AppName>, caller: &CallerName, dialect: &'static str, outcome: &'static str) {
        if !span::is_shown() {
            return;
        }
        if let Some(app) = app.filter(|app| self.metrics.knows(app, caller)) {
            span::set(span::key::APP, Value::App(app));
        }
        span::set(span::key::DIALECT, Value::Word(dialect));
        span::set(span::key::OUTCOME, Value::Word(outcome));
    }

    /// Reports that a token is not handed out because no sink took its record.
    fn not_recorded(
        &self,
        who: Who<'_>,
        (caller, key): (&CallerName, &ConnectionKey),
        elapsed: Duration,
    ) -> Refusal {
        let refusal = Refusal::AuditUnavailable;
        let code = refusal.outside().code;
        // The sink may write the record after all. Then this refusal follows it.
        if let Some(event) = self.refusal(who, (caller, key), code, elapsed) {
            drop(self.audit.record(event));
        }
        refusal
    }

    /// Has the audit written and signed to its end. Nothing is recorded after that.
    pub async fn end(&self) {
        let audit = Arc::clone(&self.audit);
        // (It blocks.)
        if let Err(error) = tokio::task::spawn_blocking(move || audit.end()).await {
            tracing::error!(%error, "the end of the audit stream was not reached");
        }
    }

    /// Records that a token is handed out. Returns false if no sink took the record and the configuration
    /// demands one.
    async fn may_leave(&self, event: AuditEvent) -> bool {
        self.audit.record(event).await == Recorded::Written || !self.is_fail_closed
    }

    /// Reports that a stream of tokens is open until this is dropped.
    pub fn stream_opened(&self) -> OpenStream {
        self.metrics.token_stream_opened();
        OpenStream(self.metrics.clone())
    }

    /// Reports that a token was refused with the contract's `code` before it was known whose it was to be.
    pub async fn refused_unnamed(
        &self,
        who: Who<'_>,
        caller: &CallerName,
        app: Option<&AppName>,
        code: &'static str,
        elapsed: Duration,
    ) {
        self.metrics.token_request(app, Some(caller), who.dialect, code, elapsed);
        self.show(app, caller, who.dialect, code);
        self.request_refused(who, caller, (app, None), code).await;
    }

    /// Reports that a token was refused with the contract's `code`.
    pub async fn refused(
        &self,
        who: Who<'_>,
        caller: &CallerName,
        key: &ConnectionKey,
        code: &'static str,
        elapsed: Duration,
    ) {
        if let Some(event) = self.refusal(who, (caller, key), code, elapsed) {
            self.record(event).await;
        }
    }

    /// Counts and logs the refusal of a token, and returns its record unless it goes into a sum.
    fn refusal(
        &self,
        who: Who<'_>,
        (caller, key): (&CallerName, &ConnectionKey),
        code: &'static str,
        elapsed: Duration,
    ) -> Option<AuditEvent> {
        self.metrics.token_request(Some(&key.app), Some(caller), who.dialect, code, elapsed);
        self.show(Some(&key.app), caller, who.dialect, code);
        if !self.is_told(caller, Action::Refused, code) {
            return None;
        }
        tracing::info!(
            request_id = %who.request_id, %caller, app = %key.app, connection = %key.connection, code,
            "a token was refused"
        );
        Some(self.of(who, Action::Refused, code).caller(caller).key(key).0)
    }

    /// Reports that a token of an app itself is handed out. It may leave after that.
    ///
    /// # Errors
    /// No sink took the record, and the configuration demands one: the token must not leave.
    pub async fn app_token_handed_out(&self, who: Who<'_>, out: AppHandOut<'_>) -> Result<(), Refusal> {
        let mut event = self.of(who, Action::Token, "ok").caller(out.caller).0;
        event.app = Some(out.app.clone());
        event.tenant = Some(out.tenant.to_owned());
        let scopes = out.resource.map(|resource| format!("{resource}/.default")).into_iter().collect();
        event.scopes = Arc::new(scopes);
        if !self.may_leave(event.token(&TokenWords::of(out.token), out.life)).await {
            let refusal = Refusal::AuditUnavailable;
            let (about, code) = ((out.app, Some(out.tenant)), refusal.outside().code);
            if let Some(event) = self.app_refusal(who, out.caller, about, code, out.elapsed) {
                drop(self.audit.record(event));
            }
            return Err(refusal);
        }
        self.handles(out.app, out.caller, who.dialect).served(out.elapsed);
        self.show(Some(out.app), out.caller, who.dialect, "ok");
        Ok(())
    }

    /// Reports that a token of an app itself was refused with the contract's `code`. `tenant` is the one that
    /// was asked for, if it is one.
    pub async fn app_token_refused(
        &self,
        who: Who<'_>,
        caller: &CallerName,
        (app, tenant): (&AppName, Option<&str>),
        code: &'static str,
        elapsed: Duration,
    ) {
        if let Some(event) = self.app_refusal(who, caller, (app, tenant), code, elapsed) {
            self.record(event).await;
        }
    }

    /// Counts and logs the refusal of an app's token, and returns its record unless it goes into a sum.
    fn app_refusal(
        &self,
        who: Who<'_>,
        caller: &CallerName,
        (app, tenant): (&AppName, Option<&str>),
        code: &'static str,
        elapsed: Duration,
    ) -> Option<AuditEvent> {
        self.metrics.token_request(Some(app), Some(caller), who.dialect, code, elapsed);
        self.show(Some(app), caller, who.dialect, code);
        if !self.is_told(caller, Action::Refused, code) {
            return None;
        }
        tracing::info!(
            request_id = %who.request_id, %caller, %app, tenant, code, "a token of an app itself was refused"
        );
        let mut event = self.of(who, Action::Refused, code).caller(caller).0;
        event.app = Some(app.clone());
        event.tenant = tenant.map(str::to_owned);
        Some(event)
    }

    /// Counts a caller's request, of any kind, that exceeded its rate limit.
    pub fn count_over_rate(&self, caller: &CallerName) {
        self.metrics.over_its_rate(caller);
    }

    /// Reports that a caller's request, of which only the path was looked at, was refused with the contract's
    /// `code`.
    pub async fn request_refused(
        &self,
        who: Who<'_>,
        caller: &CallerName,
        (app, connection): (Option<&AppName>, Option<&ConnectionName>),
        code: &'static str,
    ) {
        if !self.is_told(caller, Action::Refused, code) {
            return;
        }
        let (app_name, name) = (app.map(AppName::as_str), connection.map(ConnectionName::as_str));
        tracing::info!(
            request_id = %who.request_id, %caller, app = app_name, connection = name, code,
            "a request was refused"
        );
        let mut event = self.of(who, Action::Refused, code).caller(caller).0;
        event.app = app.cloned();
        event.connection = connection.cloned();
        self.record(event).await;
    }

    /// Reports a request that failed authentication.
    pub fn unauthenticated(&self, who: Who<'_>, failure: AuthenticationFailure) {
        self.metrics.token_request(None, None, who.dialect, "caller_unauthenticated", Duration::ZERO);
        let (stranger, reason) = (Stranger::from(failure), failure.as_str());
        if self.is_stranger_told(who, stranger) {
            let listener = who.listener.as_str();
            tracing::warn!(
                request_id = %who.request_id, listener, peer = who.origin.kind(), reason,
                "a request without a known credential was refused"
            );
            self.note(who, stranger, None);
        }
    }

    /// Reports a browser's request that was refused: a link, or a callback that cannot be parsed.
    pub fn browser_refused(&self, who: Who<'_>, stranger: Stranger, app: Option<&AppName>) {
        if self.is_stranger_told(who, stranger) {
            let (reason, app_name) = (stranger.reason(), app.map(AppName::as_str));
            tracing::info!(request_id = %who.request_id, app = app_name, reason, "a browser was refused");
            self.note(who, stranger, app);
        }
    }

    /// Reports a link that could not be used now, since the authority or the store does not answer. A browser
    /// is not to blame for that, so it counts for no stranger. This line has the request's id, which the page
    /// shows; what does not answer has its own reports.
    pub fn link_unavailable(&self, who: Who<'_>) {
        if self.unavailable_links.is_told((), self.clock.monotonic()) {
            tracing::info!(request_id = %who.request_id, "a link could not be used now");
        }
    }

    /// Reports the due summaries of events that were too many to be reported one by one, and has the audit
    /// sign what is due. Call it every second.
    pub async fn sum_up(&self) {
        self.sum_up_what(false).await;
        self.audit.tick();
    }

    /// Reports all remaining summaries, at the end.
    pub async fn sum_up_all(&self) {
        self.sum_up_what(true).await;
    }

    async fn sum_up_what(&self, all: bool) {
        let now = self.clock.monotonic();
        for sum in self.strangers.sums(now, all) {
            let crowd::Sum { kind: Kind { stranger, listener }, suppressed, peers, most } = &sum;
            let (reason, listener) = (stranger.as_str(), listener.as_str());
            tracing::warn!(reason, listener, suppressed, peers, most, "refused strangers, summed up");
            if stranger.is_audited() {
                self.metrics.audit_suppressed(*suppressed);
                self.record(sum.record(self.clock.now())).await;
            }
        }
        for ((caller, action, code), suppressed) in self.refusals.sums(now) {
            tracing::info!(
                %caller, ?action, code, suppressed,
                "a caller was refused more often than is told one by one"
            );
            let mut event = Draft(AuditEvent::new(self.clock.now(), action, code)).caller(&caller).0;
            event.suppressed = Some(suppressed);
            self.metrics.audit_suppressed(suppressed);
            self.record(event).await;
        }
    }

    /// Counts an unauthenticated request. Returns true if it is reported alone.
    fn is_stranger_told(&self, who: Who<'_>, stranger: Stranger) -> bool {
        self.metrics.stranger_refused(stranger.as_str());
        let kind = Kind::of(stranger, who.listener);
        self.strangers.is_told(kind, who.origin, self.clock.monotonic())
    }

    /// Queues an audit record of an unauthenticated request, without waiting.
    fn note(&self, who: Who<'_>, stranger: Stranger, app: Option<&AppName>) {
        let kind = Kind::of(stranger, who.listener);
        let mut event = kind.record(self.clock.now()).from_request(who.origin, who.request_id);
        event.door = Some(door(who));
        event.reason = Some(stranger.reason());
        event.detail.extend(handle_of(who));
        event.app = app.cloned();
        if self.audit.note(event) == Noted::NoRoom {
            self.strangers.leave_out(kind, who.origin, self.clock.monotonic());
        }
    }

    /// Returns true if a caller's request is reported alone: every success, and the first few refusals a
    /// second.
    fn is_told(&self, caller: &CallerName, action: Action, code: &'static str) -> bool {
        code == "ok" || self.refusals.is_told((caller.clone(), action, code), self.clock.monotonic())
    }

    /// Reports that a connect session was started, or refused with `code`.
    pub async fn connect_started(
        &self,
        who: Who<'_>,
        caller: &CallerName,
        key: &ConnectionKey,
        code: &'static str,
    ) {
        if !self.is_told(caller, Action::ConnectStarted, code) {
            return;
        }
        tracing::info!(
            request_id = %who.request_id, %caller, app = %key.app, connection = %key.connection, code,
            "a connect session was asked for"
        );
        self.record(self.of(who, Action::ConnectStarted, code).caller(caller).key(key).0).await;
    }

    /// Reports that a session was confirmed.
    pub async fn confirmed(
        &self,
        who: Who<'_>,
        caller: &CallerName,
        key: &ConnectionKey,
        account: &Account,
        session: &SessionId,
    ) {
        tracing::info!(
            request_id = %who.request_id, %caller, app = %key.app, connection = %key.connection,
            "a connection was confirmed"
        );
        let mut event = self.of(who, Action::Confirmed, "ok").caller(caller).key(key).account(account).0;
        event.session = Some(SessionMark::of(session));
        self.record(event).await;
    }

    /// Reports that a confirmation was refused.
    pub async fn confirmation_refused(
        &self,
        who: Who<'_>,
        caller: &CallerName,
        session: &SessionId,
        code: &'static str,
    ) {
        if !self.is_told(caller, Action::Confirmed, code) {
            return;
        }
        tracing::warn!(request_id = %who.request_id, %caller, code, "a confirmation was refused");
        let mut event = self.of(who, Action::Confirmed, code).caller(caller).0;
        event.session = Some(SessionMark::of(session));
        self.record(event).await;
    }

    /// Reports that a browser came back from the authority. A repeated callback changes nothing, so it is not
    /// audited.
    pub async fn callback(&self, who: Who<'_>, app: &AppName, finished: &Finished) {
        let event = match finished {
            Finished::Session(session) if session.repeated => {
                if !self.is_stranger_told(who, Stranger::RepeatedCallback) {
                    return;
                }
                let (key, state) = (&session.key, session.state.as_str());
                tracing::info!(
                    request_id = %who.request_id, app = %key.app, connection = %key.connection,
                    session = %SessionMark::of(&session.id), state,
                    "a browser repeated its callback"
                );
                return;
            }
            Finished::AdminConsent { repeated: true, .. } => {
                if self.is_stranger_told(who, Stranger::RepeatedCallback) {
                    tracing::info!(request_id = %who.request_id, %app, "a browser repeated its callback");
                }
                return;
            }
            Finished::Refused(problem) => {
                let stranger = Stranger::from(problem);
                if !self.is_stranger_told(who, stranger) {
                    return;
                }
                let reason = stranger.reason();
                if stranger.is_audited() {
                    tracing::warn!(request_id = %who.request_id, %app, reason, "a callback was refused");
                    self.note(who, stranger, Some(app));
                } else {
                    tracing::info!(
                        request_id = %who.request_id, %app, reason,
                        "a browser repeated its callback"
                    );
                }
                return;
            }
            Finished::AdminConsent { app, session, refused, .. } => {
                let outcome = if refused.is_none() { "reported" } else { "refused" };
                let mut event = self.of(who, Action::AdminConsent, outcome).0;
                event.app = Some(app.clone());
                event.session = Some(SessionMark::of(session));
                if let Some(failure) = refused {
                    failed(who, app, None, &SessionMark::of(session), failure);
                    event.reason = Some(failure.reason.as_str());
                    event.detail = detail(failure);
                }
                event
            }
            Finished::Session(session) => {
                let (action, outcome) = match &session.state {
                    SessionState::Connected { .. } => (Action::Connected, "ok"),
                    SessionState::AwaitingConfirmation { .. } => (Action::Connected, "awaiting_confirmation"),
                    SessionState::Failed(failure) => (Action::ConnectFailed, failure.reason.as_str()),
                    SessionState::Expired | SessionState::Pending => (Action::ConnectFailed, "expired"),
                };
                let key = &session.key;
                let mut event = self.of(who, action, outcome).key(key).0;
                if let SessionState::Failed(failure) = &session.state {
                    failed(who, &key.app, Some(&key.connection), &SessionMark::of(&session.id), failure);
                    event.detail = detail(failure);
                } else {
                    tracing::info!(
                        request_id = %who.request_id, app = %key.app, connection = %key.connection,
                        session = %SessionMark::of(&session.id), outcome,
                        "a connect session has a new state"
                    );
                }
                event.caller = CallerName::parse(&session.started_by).ok();
                event.session = Some(SessionMark::of(&session.id));
                if let SessionState::Connected { account, .. }
                | SessionState::AwaitingConfirmation { account, .. } = &session.state
                {
                    event.tenant.clone_from(&account.tid);
                    event.object.clone_from(&account.oid);
                }
                event
            }
        };
        self.record(event).await;
    }

    /// Reports that a caller deleted a connection, or tried to.
    pub async fn deleted(&self, who: Who<'_>, caller: &CallerName, key: &ConnectionKey, code: &'static str) {
        if !self.is_told(caller, Action::Deleted, code) {
            return;
        }
        tracing::info!(
            request_id = %who.request_id, %caller, app = %key.app, connection = %key.connection, code,
            "a caller asked to delete a connection"
        );
        self.record(self.of(who, Action::Deleted, code).caller(caller).key(key).0).await;
    }

    /// Reports that a caller was refused a read.
    pub async fn reading_refused(&self, who: Who<'_>, caller: &CallerName, read: Read, code: &'static str) {
        if !self.is_told(caller, Action::Read, code) {
            return;
        }
        let Read { what, app, connection, session } = read;
        let (app_name, connection_name) = (app.as_ref().map(AppName::as_str), connection.as_ref());
        let connection_name = connection_name.map(ConnectionName::as_str);
        tracing::info!(
            request_id = %who.request_id, %caller, what, app = app_name, connection = connection_name,
            code,
            "a caller's read was refused"
        );
        let mut event = self.of(who, Action::Read, code).caller(caller).0;
        event.detail.insert("what", what.to_owned());
        (event.app, event.connection) = (app, connection);
        event.session = session.as_ref().map(SessionMark::of);
        self.record(event).await;
    }

    /// Reports that an admin consent link was made, or refused with `code`.
    pub async fn admin_consent_started(
        &self,
        who: Who<'_>,
        caller: &CallerName,
        app: &AppName,
        code: &'static str,
    ) {
        if !self.is_told(caller, Action::AdminConsent, code) {
            return;
        }
        let outcome = if code == "ok" { "started" } else { code };
        tracing::info!(
            request_id = %who.request_id, %caller, %app, code,
            "an admin consent session was asked for"
        );
        let mut event = self.of(who, Action::AdminConsent, outcome).caller(caller).0;
        event.app = Some(app.clone());
        self.record(event).await;
    }

    /// Reports an operator's act on a connection.
    pub async fn admin_act(
        &self,
        who: Who<'_>,
        admin: &str,
        act: &'static str,
        key: &ConnectionKey,
        code: &'static str,
    ) {
        let event = self.of_act(who, admin, act, key, code);
        self.record(event).await;
    }

    /// Reports that an operator takes a grant away. It may leave after that.
    ///
    /// # Errors
    /// No sink took the record, and the configuration demands one: the grant must not leave.
    pub async fn exported(&self, who: Who<'_>, admin: &str, key: &ConnectionKey) -> Result<(), Refusal> {
        let event = self.of_act(who, admin, "export", key, "ok");
        if self.may_leave(event).await { Ok(()) } else { Err(Refusal::AuditUnavailable) }
    }

    fn of_act(
        &self,
        who: Who<'_>,
        admin: &str,
        act: &'static str,
        key: &ConnectionKey,
        code: &'static str,
    ) -> AuditEvent {
        tracing::info!(
            request_id = %who.request_id, admin, act, app = %key.app, connection = %key.connection, code,
            "an operator acted"
        );
        let mut event = self.of(who, Action::Admin, code).key(key).0;
        event.detail.insert("admin", admin.to_owned());
        event.detail.insert("act", act.to_owned());
        event
    }

    /// Counts an attempt to import a grant. (The act itself is reported as every operator's is.)
    pub fn imported(&self, app: &AppName, outcome: &'static str) {
        self.metrics.imported(app, outcome);
    }

    /// Reports an operator's act on the daemon itself.
    pub async fn operated(
        &self,
        who: Who<'_>,
        admin: &str,
        act: &'static str,
        code: &'static str,
        about: About<'_>,
    ) {
        let About { app, credential, host } = about;
        tracing::info!(
            request_id = %who.request_id, admin, act, app, credential, host, code, "an operator acted"
        );
        let mut event = self.of(who, Action::Admin, code).0;
        event.detail.insert("admin", admin.to_owned());
        event.detail.insert("act", act.to_owned());
        let members = [("app", app), ("credential", credential), ("host", host)];
        let said = members.into_iter().filter_map(|(name, value)| Some((name, value?.to_owned())));
        event.detail.extend(said);
        self.record(event).await;
    }

    /// Reports that a tenant began or ceased to block an app: one line and one record, however many
    /// connections that concerns.
    pub async fn tenant_changed(&self, edge: &Edge) {
        let Edge { app, tenant, change } = edge;
        let (word, block) = match change {
            Change::Blocked(block) => ("blocked", block),
            Change::Recovered(block) => ("recovered", block),
        };
        let (reason, since, connections) = (block.reason.as_str(), block.since.rfc3339(), block.connections);
        match change {
            Change::Blocked(_) => tracing::warn!(
                %app, tenant, reason, since, connections,
                "a tenant blocks the app: its connections are refused, and none works; one of them tries for \
                 all"
            ),
            Change::Recovered(_) => tracing::info!(
                %app, tenant, reason, since, connections,
                "a tenant does not block the app any more; its blocked connections are tried now"
            ),
        }
        let mut event = AuditEvent::new(self.clock.now(), Action::TenantBlock, "ok");
        event.app = Some(app.clone());
        event.tenant = Some(tenant.clone()).filter(|tenant| !tenant.is_empty());
        event.reason = Some(reason);
        event.detail.insert("change", word.to_owned());
        event.detail.insert("since", since);
        event.detail.insert("connections", connections.to_string());
        self.record(event).await;
    }

    /// Reports that an operator adopted the present store.
    pub async fn store_adopted(&self, who: Who<'_>, admin: &str, code: &'static str) {
        tracing::warn!(request_id = %who.request_id, admin, code, "an operator asked to adopt the store");
        let mut event = self.of(who, Action::Admin, code).0;
        event.detail.insert("admin", admin.to_owned());
        event.detail.insert("act", "store_adopt".to_owned());
        self.record(event).await;
    }

    /// Reports that an operator used the kill switch.
    pub async fn revoked(
        &self,
        who: Who<'_>,
        admin: &str,
        revocation: &Revocation,
        meant: Option<&Meant>,
        code: &'static str,
    ) {
        tracing::warn!(
            request_id = %who.request_id, admin, app = revocation.app.as_ref().map(AppName::as_str),
            tenant = revocation.tenant, caller = revocation.caller,
            connections = meant.map(|meant| meant.connections), complete = meant.map(|meant| meant.complete),
            code, "an operator asked to revoke connections"
        );
        let mut event = self.of(who, Action::Admin, code).0;
        event.app.clone_from(&revocation.app);
        event.tenant.clone_from(&revocation.tenant);
        event.detail.insert("admin", admin.to_owned());
        event.detail.insert("act", "revoke".to_owned());
        if let Some(caller) = &revocation.caller {
            event.detail.insert("connected_by", caller.clone());
        }
        if let Some(Meant { connections, complete }) = meant {
            event.detail.insert("connections", connections.to_string());
            event.detail.insert("complete", complete.to_string());
        }
        self.record(event).await;
    }

    /// Reports a reload of configuration and secrets; `problems` are the reasons if it was refused.
    pub async fn reloaded(&self, asked_by: &'static str, problems: Option<&[String]>) {
        let outcome = if problems.is_some() { "refused" } else { "ok" };
        let mut event = AuditEvent::new(self.clock.now(), Action::Reloaded, outcome);
        event.detail.insert("asked_by", asked_by.to_owned());
        if let Some(problems) = problems {
            event.detail.insert("problems", problems.join("; "));
        }
        self.record(event).await;
    }

    /// Reports an operator's request about the keyring. `act` names it, and `key` is the key it concerns.
    pub async fn keyring_act(
        &self,
        who: Who<'_>,
        admin: &str,
        (act, key): (&'static str, Option<&str>),
        code: &'static str,
    ) {
        tracing::info!(
            request_id = %who.request_id, admin, act, key, code,
            "an operator acted on the keyring"
        );
        let mut event = self.of(who, Action::Admin, code).0;
        event.detail.insert("admin", admin.to_owned());
        event.detail.insert("act", act.to_owned());
        if let Some(key) = key {
            event.detail.insert("key", key.to_owned());
        }
        self.record(event).await;
    }

    /// Reports that the keyring on disk was taken up.
    pub async fn keyring_replaced(&self, replaced: &Replaced) {
        let Replaced { added, gone, primary } = replaced;
        tracing::info!(?added, ?gone, primary, "the keyring was taken up");
        let mut event = AuditEvent::new(self.clock.now(), Action::Reloaded, "ok");
        event.detail.insert("what", "keyring".to_owned());
        for (word, keys) in [("added", added.join(" ")), ("gone", gone.join(" "))] {
            if !keys.is_empty() {
                event.detail.insert(word, keys);
            }
        }
        if let Some(primary) = primary {
            event.detail.insert("primary", primary.clone());
        }
        self.record(event).await;
    }

    /// Reports that the keyring on disk was refused and the earlier one stays in force.
    pub async fn keyring_refused(&self, problem: &str) {
        tracing::error!(problem, "the keyring on disk is not taken up; the keys from before stay in force");
        let mut event = AuditEvent::new(self.clock.now(), Action::Reloaded, "refused");
        event.detail.insert("what", "keyring".to_owned());
        self.record(event).await;
    }

    /// Reports that this replica has gone over all records sealed with other keys.
    pub async fn rewrap_ended(&self, progress: &Progress) {
        let Progress { resealed, refused, .. } = progress;
        if *refused > 0 {
            tracing::error!(
                resealed,
                refused,
                "records were rewrapped; some do not open and were left unchanged"
            );
        } else {
            tracing::info!(resealed, "records were sealed anew");
        }
        let outcome = if *refused > 0 { "some_do_not_open" } else { "ok" };
        let mut event = AuditEvent::new(self.clock.now(), Action::Admin, outcome);
        event.detail.insert("act", "rewrap_ended".to_owned());
        event.detail.insert("resealed", resealed.to_string());
        event.detail.insert("refused", refused.to_string());
        self.record(event).await;
    }

    /// Reports that the process started or stopped.
    pub async fn process(&self, action: Action) {
        self.record(AuditEvent::new(self.clock.now(), action, "ok")).await;
    }

    fn of(&self, who: Who<'_>, action: Action, outcome: &'static str) -> Draft {
        draft(self.clock.now(), who, action, outcome)
    }

    /// Waits until the record is written, so that an answer sent afterwards is always audited, even if the
    /// process is killed. The stream itself counts and logs a lost record. What is done is answered all the
    /// same.
    async fn record(&self, event: AuditEvent) {
        match self.audit.record(event).await {
            Recorded::Written | Recorded::Lost => {}
        }
    }

    fn handles(&self, app: &AppName, caller: &CallerName, dialect: &'static str) -> Arc<TokenRequestHandles> {
        let known = self.handles.read();
        let of_caller = known.get(app).and_then(|callers| callers.get(caller));
        if let Some(handles) = of_caller.and_then(|dialects| dialects.get(dialect)) {
            return handles.clone();
        }
        drop(known);
        let handles = Arc::new(self.metrics.token_request_handles(app, caller, dialect));
        // (The names may have left the configuration during the request.)
        if !self.metrics.knows(app, caller) {
            return handles;
        }
        let mut known = self.handles.write();
        let of_caller = known.entry(app.clone()).or_default().entry(caller.clone()).or_default();
        of_caller.entry(dialect).or_insert(handles).clone()
    }
}

/// An open stream of tokens, as it is counted.
pub struct OpenStream(Arc<Metrics>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.token_stream_closed();
    }
}

/// Begins the record of a request.
fn draft(at: Timestamp, who: Who<'_>, action: Action, outcome: &'static str) -> Draft {
    let mut event = AuditEvent::new(at, action, outcome).from_request(who.origin, who.request_id);
    event.method = who.method.map(AuthMethod::as_str);
    event.door = Some(door(who));
    event.detail.extend(handle_of(who));
    Draft(event)
}

/// The member of a record that names the handle which was presented.
fn handle_of(who: Who<'_>) -> Option<(&'static str, String)> {
    who.handle.map(|handle| ("handle", handle.to_string()))
}

/// The record of a token that is handed out.
fn hand_out(
    at: Timestamp,
    who: Who<'_>,
    (caller, key): (&CallerName, &ConnectionKey),
    words: &TokenWords,
    life: Duration,
) -> AuditEvent {
    let mut event = draft(at, who, Action::Token, "ok").caller(caller).key(key).0;
    event.scopes = Arc::clone(&words.scopes);
    event.token(words, life)
}

/// What a request came through.
fn door(who: Who<'_>) -> &'static str {
    match who.listener {
        Listener::Local => who.dialect,
        Listener::Public => "browser",
        Listener::Admin => "admin",
    }
}

/// Logs a failed sign-in, as an error if the operator can correct the cause.
fn failed(
    who: Who<'_>,
    app: &AppName,
    connection: Option<&ConnectionName>,
    session: &SessionMark,
    failure: &SessionFailure,
) {
    let SessionFailure { reason, mender, answer, by_browser, .. } = failure;
    let reported_by = by_browser.then_some(BROWSER);
    let connection = connection.map(ConnectionName::as_str);
    macro_rules! log {
        ($level:ident, $words:literal) => {
            tracing::$level!(
                request_id = %who.request_id, %app, connection, %session, reason = reason.as_str(),
                reported_by, error = answer.error, suberror = answer.suberror,
                error_codes = ?answer.error_codes, trace_id = answer.trace_id,
                correlation_id = answer.correlation_id, $words
            )
        };
    }
    // The operators of tokenward decided these themselves, so they are no errors.
    if let FailureReason::CallerForbidden | FailureReason::ConnectionPaused | FailureReason::Revoked = reason
    {
        log!(warn, "a sign-in failed: it is no longer allowed");
        return;
    }
    match mender {
        Mender::Operator if *by_browser => {
            log!(
                warn,
                "a sign-in failed: its browser says that the app's registration or configuration does not fit"
            )
        }
        Mender::Operator => {
            log!(error, "a sign-in failed: the app's registration or configuration does not fit")
        }
        Mender::Administrator => {
            log!(warn, "a sign-in failed: an administrator of the user's organisation must act")
        }
        Mender::User => log!(warn, "a sign-in failed: its user can try again"),
        Mender::Time => log!(warn, "a sign-in failed for a passing reason"),
        Mender::Unknown => log!(warn, "a sign-in failed: what the authority says is not known here"),
    }
}

/// The reporter of a failure that the authority did not report to us directly: anybody who has the link can
/// forge it.
const BROWSER: &str = "browser";

/// Returns the authority's words for the audit stream.
fn detail(failure: &SessionFailure) -> BTreeMap<&'static str, String> {
    let answer = &failure.answer;
    let codes: Vec<String> = answer.error_codes.iter().map(u32::to_string).collect();
    let words = [
        ("error", answer.error.clone()),
        ("error_codes", (!codes.is_empty()).then(|| codes.join(" "))),
        ("trace_id", answer.trace_id.clone()),
        ("correlation_id", answer.correlation_id.clone()),
        ("reported_by", failure.by_browser.then(|| BROWSER.to_owned())),
    ];
    words.into_iter().filter_map(|(name, word)| Some((name, word?))).collect()
}

/// An audit record while it is filled in.
struct Draft(AuditEvent);

impl Draft {
    fn caller(mut self, caller: &CallerName) -> Self {
        self.0.caller = Some(caller.clone());
        self
    }

    fn key(mut self, key: &ConnectionKey) -> Self {
        self.0.app = Some(key.app.clone());
        self.0.connection = Some(key.connection.clone());
        self
    }

    fn account(mut self, account: &Account) -> Self {
        self.0.tenant.clone_from(&account.tid);
        self.0.object.clone_from(&account.oid);
        self
    }
}

/// Verdicts of one kind in one tenant within this time count as one event: a tenant that blocks the app
/// blocks it for hundreds of connections.
const ONE_EVENT: Duration = Duration::from_secs(60);
/// Most kinds of verdicts tracked at a time; far fewer are normal.
const MOST_EVENTS: usize = 1000;

/// An app, one of its tenants, and the reason.
type VerdictKind = (AppName, String, &'static str);

/// Counts the events of the engine and the store.
pub struct Counters {
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    /// By app, tenant and reason: when it began, and how many followed.
    readiness: Readiness,
    damage: damage::Told,
    verdicts: Mutex<BTreeMap<VerdictKind, (Duration, u64)>>,
}

impl Counters {
    /// Makes counters with these outputs.
    pub fn new(metrics: Arc<Metrics>, clock: Arc<dyn Clock>, readiness: Readiness) -> Self {
        metrics.expect_store_operations(&OPERATIONS);
        Risk::ALL.iter().for_each(|risk| metrics.store_risk(risk.as_str(), false));
        metrics.expect_damage(damage::kinds());
        Counters { metrics, clock, readiness, damage: damage::Told::default(), verdicts: Mutex::default() }
    }
}

impl Observer for Counters {
    fn cache_lookup(&self, result: Lookup) {
        self.metrics.cache_lookup(match result {
            Lookup::Hit => CacheResult::Hit,
            Lookup::Stale => CacheResult::Stale,
            Lookup::Miss => CacheResult::Miss,
        });
    }

    fn refreshed(&self, app: &AppName, outcome: &'static str, elapsed: Duration) {
        self.metrics.refresh(app, outcome, elapsed);
    }

    fn judged(&self, app: &AppName, tenant: Option<&str>, status: Status) {
        let reason = status.reason().unwrap_or("none");
        self.metrics.verdict(app, status.as_str(), reason);
        let now = self.clock.monotonic();
        let mut verdicts = self.verdicts.lock();
        // A finished series is summed up when the next event comes; the metric has counted it already.
        verdicts.retain(|(app, tenant, reason), (since, count)| {
            let over = now.saturating_sub(*since) >= ONE_EVENT;
            if over && *count > 1 {
                tracing::warn!(
                    %app, tenant, reason, connections = *count,
                    "connections of one tenant got the same verdict within a minute"
                );
            }
            !over
        });
        let one = (app.clone(), tenant.unwrap_or_default().to_owned(), reason);
        if let Some((_, count)) = verdicts.get_mut(&one) {
            *count += 1;
            return;
        }
        tracing::warn!(
            %app, tenant = one.1, status = status.as_str(), reason,
            "the authority's verdict changed a connection; more of the same in this tenant are counted and \
             summed up"
        );
        if verdicts.len() < MOST_EVENTS {
            verdicts.insert(one, (now, 1));
        }
    }

    fn swept(&self, swept: Swept) {
        let made_at = (swept.unknown == 0).then(|| self.clock.now());
        self.metrics.swept(swept.shards, swept.begun, swept.waiting > 0, made_at);
    }

    fn budgeted(&self, cause: Cause, is_begun: bool) {
        self.metrics.upstream_budget(cause, is_begun);
    }

    fn lease(&self, outcome: LeaseOutcome) {
        self.metrics.lease_attempt(match outcome {
            LeaseOutcome::Acquired => LeaseResult::Acquired,
            LeaseOutcome::Held => LeaseResult::Held,
            LeaseOutcome::Unreachable => LeaseResult::Unreachable,
            LeaseOutcome::Lost => LeaseResult::Lost,
        });
    }
}

impl StoreObserver for Counters {
    fn operation(&self, operation: &'static str, elapsed: Duration, error: bool) {
        self.metrics.store_operation(operation, elapsed, error);
    }

    fn corrupt(&self, error: &StoreError) {
        self.unreadable(error);
    }

    fn login(&self, secret: &'static str, is_refused: bool, since: Timestamp) {
        self.metrics.store_login(secret, is_refused, since);
    }

    fn risk(&self, risk: Risk, what: Option<&str>) {
        self.metrics.store_risk(risk.as_str(), what.is_some());
        self.readiness.note(&format!("store {}", risk.as_str()), what);
    }
}

/// Counts one app's exchanges with its authority, and the authority's judgements of its credentials.
pub struct AppCounters {
    /// The app.
    pub app: AppName,
    /// Metrics to count in.
    pub metrics: Arc<Metrics>,
}

impl AuthorityObserver for AppCounters {
    fn observe(&self, event: AuthorityEvent<'_>) {
        let app = &self.app;
        match event {
            AuthorityEvent::Request { endpoint, outcome, duration } => {
                self.metrics.authority_request(app, endpoint.as_str(), outcome, duration);
            }
            // The gauges for state and last use are set once a second, from the credentials themselves.
            AuthorityEvent::CredentialAccepted { id, is_news: true } => {
                tracing::info!(%app, credential = id, "the authority takes a client credential");
            }
            AuthorityEvent::CredentialSuspected { id } => {
                tracing::warn!(
                    %app, credential = id,
                    "refreshes with this client credential fail with an error that may concern the \
                     credential, or those users and their tenant: the credential may be wrong, or sent by \
                     the wrong method (token_endpoint_auth_method); `tokenward connections explain` shows \
                     the authority's error"
                );
            }
            AuthorityEvent::SecretMethodSeen { method } => {
                tracing::warn!(
                    %app, method = method.as_str(),
                    "the authority accepts the client secret by this method and not by the guessed one; set \
                     token_endpoint_auth_method, which saves a refused call after each start"
                );
            }
            AuthorityEvent::CredentialRejected { id, codes, cause, is_news: true } => {
                tracing::error!(
                    %app, credential = id, error_codes = ?codes, cause,
                    "the authority rejects a client credential; replace it, or wait where it is new"
                );
            }
            AuthorityEvent::CredentialUnusable { id, cause, is_news: true } => {
                tracing::error!(
                    %app, credential = id, cause,
                    "a client credential cannot be used; look at its file"
                );
            }
            AuthorityEvent::HeldBack { cause } => {
                tracing::error!(%app, cause, "a secret is held back");
            }
            AuthorityEvent::CredentialAccepted { .. }
            | AuthorityEvent::CredentialRejected { .. }
            | AuthorityEvent::CredentialUnusable { .. } => {}
            AuthorityEvent::ServingLastGood { endpoint } => {
                tracing::warn!(
                    %app, endpoint = endpoint.as_str(),
                    "the authority's metadata could not be renewed; the last good one is in use"
                );
            }
        }
    }
}
