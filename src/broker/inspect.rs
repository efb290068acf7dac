//! Reads of connections: they never return a token or a refresh token.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::search::{Search, Walker};
use super::{Broker, Refusal};
use crate::domain::connection::{Attempt, Glimpse, Profile, Status};
use crate::domain::id::{AppName, CallerName, ConnectionKey, ConnectionName};
use crate::domain::scope::ScopeNaming;
use crate::domain::time::Timestamp;
use crate::domain::verdict::{BlockReason, ReauthReason};
use crate::policy::{CallerPolicy, Decision, Lookup, Provisional};
use crate::refresh::{Held, OpenBreaker};
use crate::relay::Asked;
use crate::repository::{RepositoryError, Wanted};

/// Most connections read for one page of a caller's: a filter that matches few must not become a scan of all.
const MOST_READ_FOR_A_PAGE: usize = 200;
/// How long one page of an operator's is read for. With all else that is below a tenth of a second
/// (`benches/README.md`, *What an operator waits for*).
pub const READ_FOR: Duration = Duration::from_millis(40);
/// Most connections of one page.
pub const PAGE: usize = 100;
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

/// What an operator asks about a caller's rights.
#[derive(Debug, Clone)]
pub enum Wish<'a> {
    /// Whether it gets a token with these scopes, as they are spelt.
    Token {
        /// The scopes, separated by spaces.
        scope: &'a str,
    },
    /// Whether it may connect, confirm and delete.
    Connect,
    /// Whether it has a request relayed.
    Relay(Asked),
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
    /// Connections read from the store for it: more than are shown if a rule or a filter matches few.
    pub read: usize,
}

impl ShownPage {
    /// How many pages of the store that was.
    pub fn pages_read(&self) -> u32 {
        u32::try_from(self.read.div_ceil(PAGE)).unwrap_or(u32::MAX)
    }
}

/// All reasons of a status.
fn reasons() -> impl Iterator<Item = &'static str> {
    ReauthReason::WORDS.iter().chain(BlockReason::WORDS).copied()
}

impl ListRequest {
    /// Whether it asks for some connections and not for all.
    fn is_filter(&self) -> bool {
        let ListRequest { status, tenant, reason, account, label, text, after: _ } = self;
        [status, tenant, reason, account, label, text].into_iter().any(Option::is_some)
    }

    fn is_met_by(&self, seen: &Glimpse<'_>) -> bool {
        let status = seen.status();
        let is =
            |value: Option<&str>, wanted: &str| value.is_some_and(|value| value.eq_ignore_ascii_case(wanted));
        self.status.as_ref().is_none_or(|wanted| status.as_str() == wanted)
            && self.reason.as_ref().is_none_or(|wanted| status.reason() == Some(wanted))
            && self.tenant.as_ref().is_none_or(|wanted| is(seen.tid(), wanted))
            && self.label.as_ref().is_none_or(|wanted| seen.labels().any(|label| label == wanted))
            && self.account.as_ref().is_none_or(|wanted| {
                is(seen.username(), wanted) || is(seen.oid(), wanted) || seen.sub() == wanted
            })
    }
}

/// Returns true if a connection's name, labels or account have this text, which is in lower case.
fn has_text(text: Option<&str>, key: &ConnectionKey, seen: &Glimpse<'_>) -> bool {
    let Some(text) = text else { return true };
    let ids = [seen.username(), seen.tid(), seen.oid()].into_iter().flatten();
    let mut all = [key.connection.as_str(), seen.sub()].into_iter().chain(seen.labels()).chain(ids);
    all.any(|one| contains(one, text))
}

/// Returns true if `one` has this text, which is in lower case, in either case.
fn contains(one: &str, text: &str) -> bool {
    if !one.is_ascii() || text.is_empty() {
        return one.to_lowercase().contains(text);
    }
    one.as_bytes().windows(text.len()).any(|part| part.eq_ignore_ascii_case(text.as_bytes()))
}

impl Broker {
    /// Decides, for an operator, what a caller's rules give it of a connection. A connection that is there
    /// counts with its tenant.
    pub async fn decide(
        &self,
        policy: &CallerPolicy,
        key: &ConnectionKey,
        wish: Wish<'_>,
    ) -> Result<Decision, Refusal> {
        let app = self.app(&key.app)?;
        let tenant = if policy.needs_tenant(key) { self.tenant_of(key).await? } else { None };
        Ok(match wish {
            Wish::Connect => policy.decide_connect(key, tenant.as_deref()),
            Wish::Relay(asked) => policy.decide_relay(key, tenant.as_deref(), &asked),
            Wish::Token { scope } => {
                let asked = app.naming().scopes_asked(scope).map_err(|why| Refusal::invalid("scope", why))?;
                policy.decide(key, tenant.as_deref(), &asked)
            }
        })
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

    /// Returns until when callers are served the connection by this replica if the store stays away. `None`
    /// if that ends nothing before its tokens do: no other process writes to the store.
    pub fn cached_until(&self, shown: &Shown) -> Option<Timestamp> {
        self.deps.engine.cached_until(&shown.key)
    }

    /// Returns the tenants for which this replica does not call an authority now.
    pub fn open_breakers(&self) -> Vec<OpenBreaker> {
        self.deps.engine.open_breakers()
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
        let sees = |key: &ConnectionKey, seen: &Glimpse<'_>| caller.see(key, seen.tid()).is_ok();
        let limit = ReadLimit::Records(MOST_READ_FOR_A_PAGE);
        self.list_where(app, caller.lookups(app), request, Some(&sees), limit).await
    }

    /// Returns a page of what an operator looks for among the connections whose names begin so. It begins no
    /// read after [`READ_FOR`]: where few match, the page may be short and even empty without being the last.
    ///
    /// # Errors
    /// Too many walks of operators are under way, among others.
    pub async fn list_as_admin(
        &self,
        app: &AppName,
        prefix: &str,
        request: &ListRequest,
    ) -> Result<ShownPage, Refusal> {
        let _place = self.before_long(self.walks.permit(&Walker::Operators)).await?;
        let lookups = vec![Lookup::Prefix(prefix.to_owned())];
        let limit = ReadLimit::Until(self.deps.clock.monotonic().saturating_add(READ_FOR));
        self.list_where(app, lookups, request, None, limit).await
    }

    /// Returns the connection of this very name, if there is one and the request's filter matches it.
    pub async fn find_as_admin(
        &self,
        app: &AppName,
        name: ConnectionName,
        request: &ListRequest,
    ) -> Result<Option<Shown>, Refusal> {
        let (lookups, limit) = (vec![Lookup::Exact(name)], ReadLimit::Records(1));
        let found = self.list_where(app, lookups, request, None, limit).await?;
        Ok(found.connections.into_iter().next())
    }

    async fn list_where(
        &self,
        app: &AppName,
        lookups: Vec<Lookup>,
        request: &ListRequest,
        visible: Option<&Wanted<'_>>,
        limit: ReadLimit,
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
        let is_wanted = |key: &ConnectionKey, seen: &Glimpse<'_>| {
            visible.is_none_or(|is_visible| is_visible(key, seen))
                && request.is_met_by(seen)
                && has_text(text.as_deref(), key, seen)
        };
        let is_for_some = visible.is_some() || request.is_filter();
        let wanted: Option<&Wanted<'_>> = is_for_some.then_some(&is_wanted);
        let mut shown: Vec<Shown> = Vec::new();
        let mut next = None;
        let mut search = Search::new(app.clone(), lookups, request.after.clone());
        while next.is_none() && shown.len() < PAGE {
            let Some(most) = limit.next_read(search.read(), || self.deps.clock.monotonic()) else { break };
            let Some(found) = search.next(&self.deps.repository, most, wanted).await? else { break };
            for (connection, profile) in found {
                let key = ConnectionKey { app: app.clone(), connection };
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
        Ok(ShownPage { connections: shown, next, read: search.read() })
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
enum ReadLimit {
    /// So many records.
    Records(usize),
    /// Until then, in monotonic time; but something in any case.
    Until(Duration),
}

impl ReadLimit {
    /// Returns how many records the next request to the store may read, after so many; `None` if it must not
    /// be made.
    fn next_read(self, read: usize, now: impl FnOnce() -> Duration) -> Option<usize> {
        match self {
            ReadLimit::Records(most) => Some(PAGE.min(most.saturating_sub(read))).filter(|most| *most > 0),
            ReadLimit::Until(until) => (read == 0 || now() < until).then_some(PAGE),
        }
    }
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_text_is_found_in_either_case() {
        for (one, text, is_there) in [
            ("Alice@Contoso.com", "alice@contoso", true),
            ("Alice@Contoso.com", "contoso.com", true),
            ("alice", "alice@", false),
            ("GRÜSSE@contoso.com", "grüsse", true),
            ("GRÜSSE@contoso.com", "contoso", true),
            ("alice", "ü", false),
            ("", "a", false),
            ("", "", true),
            ("a", "", true),
        ] {
            assert_eq!(contains(one, text), is_there, "{one} {text}");
        }
    }

    #[test]
    fn a_page_reads_so_many_records_or_for_so_long() {
        let never = || unreachable!("the clock does not count");
        let of_caller = ReadLimit::Records(MOST_READ_FOR_A_PAGE);
        let read: Vec<Option<usize>> =
            [0, 100, 150, 199, 200, 300].map(|read| of_caller.next_read(read, never)).into();
        assert_eq!(read, [Some(100), Some(100), Some(50), Some(1), None, None]);

        // Each request to the store takes 15 ms of this clock.
        let clock = Cell::new(Duration::from_secs(7));
        let limit = ReadLimit::Until(clock.get() + READ_FOR);
        let mut read = 0;
        while let Some(most) = limit.next_read(read, || clock.get()) {
            read += most;
            clock.set(clock.get() + Duration::from_millis(15));
        }
        assert_eq!(read, 3 * PAGE, "none begins after 40 ms");
        // A store that takes longer than all of it: the page goes on nevertheless.
        assert_eq!(limit.next_read(0, || clock.get()), Some(PAGE));
        assert_eq!(limit.next_read(PAGE, || clock.get()), None);
    }
}
