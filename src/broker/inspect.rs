//! Reads of connections: they never return a token or a refresh token.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::search::Search;
use super::{Broker, Refusal};
use crate::domain::connection::{Attempt, Profile, Status};
use crate::domain::id::{AppName, CallerName, ConnectionKey, ConnectionName};
use crate::domain::scope::ScopeNaming;
use crate::domain::time::Timestamp;
use crate::domain::verdict::{BlockReason, ReauthReason};
use crate::policy::{CallerPolicy, Decision, Lookup, Provisional};
use crate::refresh::{Held, ShutTenant};
use crate::repository::RepositoryError;

/// Most connections read for one page: a filter that matches few must not become a scan of all.
const MOST_READ_FOR_A_PAGE: usize = 200;
const PAGE: usize = 100;
/// All statuses of a connection.
pub const STATUSES: [&str; 4] = ["active", "needs_reauthorization", "blocked", "paused"];

/// A connection as it is shown.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Its name.
    pub key: ConnectionKey,
    /// Account, scopes, status, times.
    pub profile: Profile,
    /// The scopes that the user was asked for and that are not granted.
    pub scopes_missing: Vec<String>,
    /// Time of its next planned refresh, if known.
    pub next_refresh_at: Option<Timestamp>,
    /// Until when its callers are served even if nothing more comes from the authority: the end of its
    /// longest-lived token. `None` if it has none with life, if it is paused, and in lists, which open no
    /// tokens.
    pub served_until: Option<Timestamp>,
}

/// A request for a list.
#[derive(Debug, Clone, Default)]
pub struct ListRequest {
    /// Only connections with this status.
    pub status: Option<String>,
    /// Only connections of this tenant.
    pub tenant: Option<String>,
    /// Only connections whose status has this reason.
    pub reason: Option<String>,
    /// Only connections of this account: its username or its id.
    pub account: Option<String>,
    /// Only connections with this label.
    pub label: Option<String>,
    /// Only connections with this text in their name or in their account.
    pub text: Option<String>,
    /// The name where the previous page ended.
    pub after: Option<ConnectionName>,
}

/// A page of connections.
pub struct ShownPage {
    /// Ordered by name.
    pub connections: Vec<Shown>,
    /// Start of the next page; `None` on the last. A page may be empty without being the last.
    pub next: Option<ConnectionName>,
    /// Pages read from the store for it: more than one if a rule or a filter matches few.
    pub pages_read: u32,
}

/// All reasons of a status.
fn reasons() -> impl Iterator<Item = &'static str> {
    ReauthReason::WORDS.iter().chain(BlockReason::WORDS).copied()
}

impl ListRequest {
    fn is_met_by(&self, profile: &Profile) -> bool {
        let (status, account) = (profile.status(), profile.account());
        let is = |value: &Option<String>, wanted: &str| {
            value.as_deref().is_some_and(|value| value.eq_ignore_ascii_case(wanted))
        };
        self.status.as_ref().is_none_or(|wanted| status.as_str() == wanted)
            && self.reason.as_ref().is_none_or(|wanted| status.reason() == Some(wanted))
            && self.tenant.as_ref().is_none_or(|wanted| is(&account.tid, wanted))
            && self.label.as_ref().is_none_or(|wanted| profile.labels().contains(wanted))
            && self.account.as_ref().is_none_or(|wanted| {
                is(&account.username, wanted) || is(&account.oid, wanted) || account.sub == *wanted
            })
    }
}

/// Returns true if a connection's name, labels or account have this text, which is in lower case.
fn has_text(text: Option<&str>, key: &ConnectionKey, profile: &Profile) -> bool {
    let Some(text) = text else { return true };
    let account = profile.account();
    let ids = [&account.username, &account.tid, &account.oid].into_iter().flatten();
    [key.connection.as_str(), &account.sub]
        .into_iter()
        .chain(profile.labels().iter().map(String::as_str))
        .chain(ids.map(String::as_str))
        .any(|one| one.to_lowercase().contains(text))
}

impl Broker {
    /// Decides, for an operator, what a caller's rules give it of a connection: a token with these scopes, or
    /// without scopes the right to connect. A connection that is there counts with its tenant.
    pub async fn decide(
        &self,
        policy: &CallerPolicy,
        key: &ConnectionKey,
        scope: Option<&str>,
    ) -> Result<Decision, Refusal> {
        let app = self.app(&key.app)?;
        let tenant = if policy.needs_tenant(key) { self.tenant_of(key).await? } else { None };
        let Some(scope) = scope else { return Ok(policy.decide_connect(key, tenant.as_deref())) };
        let asked = app.naming().scopes_asked(scope).map_err(|why| Refusal::invalid("scope", why))?;
        Ok(policy.decide(key, tenant.as_deref(), &asked))
    }

    /// Returns a connection to a caller that may know of it.
    pub async fn show(&self, permit: Provisional<'_>) -> Result<Shown, Refusal> {
        let held = self.inspect(permit.key()).await?;
        let permit = permit.of_tenant(held.connection.profile.account().tid.as_deref())?;
        self.shown(permit.key(), &held)
    }

    /// Returns a connection to an operator.
    pub async fn show_as_admin(&self, key: &ConnectionKey) -> Result<Shown, Refusal> {
        self.shown(key, &*self.inspect(key).await?)
    }

    fn shown(&self, key: &ConnectionKey, held: &Held) -> Result<Shown, Refusal> {
        let app = self.app(&key.app)?;
        let connection = &held.connection;
        let profile = connection.profile.clone();
        let next_refresh_at = match profile.status() {
            Status::Active => {
                connection.tokens.iter().map(|token| token.refresh_at.unwrap_or(token.expires_at)).min()
            }
            Status::Paused | Status::NeedsReauthorization(_) | Status::Blocked(_) => next_try(&profile),
        };
        let scopes_missing = missing(app.naming(), &profile);
        let now = self.deps.clock.now();
        let ends = connection.tokens.iter().map(|token| token.expires_at).filter(|end| *end > now);
        let served_until = ends.max().filter(|_| profile.status() != Status::Paused);
        Ok(Shown { key: key.clone(), profile, scopes_missing, next_refresh_at, served_until })
    }

    async fn inspect(&self, key: &ConnectionKey) -> Result<Arc<Held>, Refusal> {
        self.app(&key.app)?;
        self.deps.engine.inspect(key).await.map_err(|failure| Refusal::of_failure(&failure))
    }

    /// Returns the last attempts for a connection, stored and not, oldest first.
    pub fn attempts(&self, shown: &Shown) -> Vec<Attempt> {
        let mut attempts = shown.profile.attempts();
        attempts.extend(self.deps.engine.recent_attempts(&shown.key));
        attempts.sort_by_key(|attempt| attempt.at);
        attempts
    }

    /// Returns the callers to which this replica handed the connection's tokens out, and when each got one
    /// last, oldest first. It is what is in memory: of this replica, since it holds the connection.
    pub fn hand_outs(&self, shown: &Shown) -> Vec<(CallerName, Timestamp)> {
        let mut hand_outs = self.deps.engine.hand_outs(&shown.key);
        // (An earlier connection of this name may have been another user's.)
        hand_outs.retain(|(_, at)| *at >= shown.profile.created_at());
        hand_outs.sort_by_key(|(_, at)| *at);
        hand_outs
    }

    /// Returns the tenants for which this replica does not call an authority now.
    pub fn shut_tenants(&self) -> Vec<ShutTenant> {
        self.deps.engine.shut_tenants()
    }

    /// Returns a page of an app's connections that the caller may know of.
    pub async fn list(
        &self,
        caller: &CallerPolicy,
        app: &AppName,
        request: &ListRequest,
    ) -> Result<ShownPage, Refusal> {
        if !caller.knows_app(app) {
            return Err(Refusal::AppNotFound);
        }
        let _place = self.walk_permit(caller).await?;
        let sees = |key: &ConnectionKey, profile: &Profile| {
            caller.see(key, profile.account().tid.as_deref()).is_ok()
        };
        self.list_where(app, caller.lookups(app), request, sees, Budget::Records(MOST_READ_FOR_A_PAGE)).await
    }

    /// Returns a page of an app's connections to an operator.
    pub async fn list_as_admin(&self, app: &AppName, request: &ListRequest) -> Result<ShownPage, Refusal> {
        let budget = Budget::Records(MOST_READ_FOR_A_PAGE);
        self.list_where(app, vec![Lookup::EVERYTHING], request, |_, _| true, budget).await
    }

    /// Returns a page of what an operator looks for among the connections whose names begin so. It reads for
    /// so long at most: where few match, the page may be short and even empty without being the last.
    pub async fn search_as_admin(
        &self,
        app: &AppName,
        prefix: &str,
        request: &ListRequest,
        within: Duration,
    ) -> Result<ShownPage, Refusal> {
        let lookups = vec![Lookup::Prefix(prefix.to_owned())];
        let until = self.deps.clock.monotonic().saturating_add(within);
        self.list_where(app, lookups, request, |_, _| true, Budget::Time(until)).await
    }

    async fn list_where(
        &self,
        app: &AppName,
        lookups: Vec<Lookup>,
        request: &ListRequest,
        visible: impl Fn(&ConnectionKey, &Profile) -> bool,
        budget: Budget,
    ) -> Result<ShownPage, Refusal> {
        let named = self.app(app)?;
        if let Some(status) = &request.status
            && !STATUSES.contains(&status.as_str())
        {
            return Err(Refusal::invalid(
                "status",
                "must be active, needs_reauthorization, blocked or paused",
            ));
        }
        if let Some(reason) = &request.reason
            && !reasons().any(|word| word == reason)
        {
            let words: Vec<&str> = reasons().collect();
            return Err(Refusal::invalid("reason", format!("must be one of {}", words.join(", "))));
        }
        let text = request.text.as_ref().map(|text| text.to_lowercase());
        let wanted = |key: &ConnectionKey, profile: &Profile| {
            visible(key, profile) && request.is_met_by(profile) && has_text(text.as_deref(), key, profile)
        };
        let mut shown: Vec<Shown> = Vec::new();
        let mut next = None;
        let mut search = Search::new(app.clone(), lookups, request.after.clone());
        while next.is_none() && shown.len() < PAGE {
            let most = match budget {
                Budget::Records(most) if search.read() < most => PAGE.min(most - search.read()),
                Budget::Time(until) if search.read() == 0 || self.deps.clock.monotonic() < until => PAGE,
                Budget::Records(_) | Budget::Time(_) => break,
            };
            let Some(found) = search.next(&self.deps.repository, most).await? else { break };
            for (connection, profile) in found {
                let key = ConnectionKey { app: app.clone(), connection };
                if !wanted(&key, &profile) {
                    continue;
                }
                if shown.len() == PAGE {
                    next = shown.last().map(|last| last.key.connection.clone());
                    break;
                }
                let next_refresh_at = next_try(&profile);
                let scopes_missing = missing(named.naming(), &profile);
                shown.push(Shown { key, profile, scopes_missing, next_refresh_at, served_until: None });
            }
        }
        let next = next.or_else(|| search.position().cloned());
        let pages_read = u32::try_from(search.read().div_ceil(PAGE)).unwrap_or(u32::MAX);
        Ok(ShownPage { connections: shown, next, pages_read })
    }

    /// Makes a page's cursor. It is sealed, for its name may be one that the caller may not know of.
    pub fn cursor(&self, app: &AppName, next: &ConnectionName) -> String {
        self.deps.repository.seal_cursor(app.as_str(), next.as_str())
    }

    /// Reads a cursor that was made for this app.
    pub fn read_cursor(&self, app: &AppName, cursor: &str) -> Result<ConnectionName, Refusal> {
        let name = self.deps.repository.open_cursor(app.as_str(), cursor);
        name.and_then(|name| ConnectionName::stored(&name).ok())
            .ok_or_else(|| Refusal::invalid("cursor", "is not one that was given for this list"))
    }

    /// Starts a walk over all connections, page by page.
    pub fn walk(&self) -> Walk {
        Walk { apps: self.apps().keys().cloned().collect(), after: None }
    }
}

/// A walk over all connections. It reads every profile, so it must go slowly.
pub struct Walk {
    /// Apps that remain, in reverse order.
    apps: Vec<AppName>,
    after: Option<ConnectionName>,
}

/// A page of a walk.
pub struct WalkedPage {
    app: AppName,
    connections: Vec<(ConnectionKey, Profile)>,
    next: Option<ConnectionName>,
}

impl WalkedPage {
    /// The app that it is of.
    pub fn app(&self) -> &AppName {
        &self.app
    }

    /// The name up to which the app's connections have been read; `None` if all have.
    pub fn last(&self) -> Option<&ConnectionName> {
        self.next.as_ref()
    }

    /// The connections of this page.
    pub fn connections(&self) -> &[(ConnectionKey, Profile)] {
        &self.connections
    }
}

impl Walk {
    /// Whether nothing is left.
    pub fn is_over(&self) -> bool {
        self.apps.is_empty()
    }

    /// Returns the next page, counted; `None` at the end.
    pub async fn next(
        &mut self,
        broker: &Broker,
        counts: &mut Counts,
    ) -> Result<Option<WalkedPage>, RepositoryError> {
        let Some(app) = self.apps.last().cloned() else { return Ok(None) };
        if self.after.is_none() {
            for status in STATUSES {
                counts.by_status.insert((app.clone(), status), 0);
            }
        }
        let page = broker.deps.repository.list(&app, "", self.after.as_ref(), PAGE).await?;
        for (_, profile) in &page.profiles {
            *counts.by_status.entry((app.clone(), profile.status().as_str())).or_default() += 1;
        }
        self.after = page.next;
        if self.after.is_none() {
            self.apps.pop();
        }
        let named = |(connection, profile)| (ConnectionKey { app: app.clone(), connection }, profile);
        let connections = page.profiles.into_iter().map(named).collect();
        Ok(Some(WalkedPage { app: app.clone(), connections, next: self.after.clone() }))
    }
}

/// How much is read for one page.
#[derive(Clone, Copy)]
enum Budget {
    /// So many records.
    Records(usize),
    /// Until then, in monotonic time; but something in any case.
    Time(Duration),
}

/// Returns what was asked for and is not granted. The sign-in's own scopes give no right, and Entra does not
/// list them all.
fn missing(naming: &ScopeNaming, profile: &Profile) -> Vec<String> {
    let words = |words: &[String]| naming.scopes_lossy(words.iter().map(String::as_str));
    let missing = words(profile.scopes_requested()).missing_from(&words(profile.scopes_granted()));
    missing.iter().filter(|scope| !scope.is_openid()).map(|scope| scope.wire().to_owned()).collect()
}

/// Returns when a grant under a verdict is tried again. For an active connection only its tokens say that,
/// and a list does not open them.
fn next_try(profile: &Profile) -> Option<Timestamp> {
    match profile.status() {
        Status::NeedsReauthorization(_) | Status::Blocked(_) => profile.retry_at(),
        Status::Active | Status::Paused => None,
    }
}

/// All connections, counted.
#[derive(Debug, Default)]
pub struct Counts {
    /// By app and status; every status has an entry.
    pub by_status: BTreeMap<(AppName, &'static str), u64>,
}
