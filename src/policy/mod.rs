//! Authorization of callers: from rules to a [`Permit`] or a [`Denial`] with its reason.
//!
//! May know: `domain`, `relay` and std. Pure: no time, no I/O, no async.
//!
//! Invariants:
//! 1. Only what a rule allows is allowed (default deny). A caller's rights are the union of its matching
//!    rules. No rule takes rights away, so the order of rules does not matter.
//! 2. `*` without `bulk` matches nothing, even if the configuration let it through (B5).
//! 3. Only this room makes a permit ([`Permit`], [`Provisional`], [`ConnectPermit`], [`AppPermit`],
//!    [`AppTokenPermit`]), so each one proves a decision. The use cases demand one as an argument.
//! 4. All denials of what a caller may not see are alike, whether it exists or not: the answer depends on
//!    rules alone.
//! 5. A right from a property of a connection (its tenant) allows to see and renew that connection. Only a
//!    rule that covers the name allows to create the connection or to give it another account.
//!
//! The one hard problem: a `tenant:` rule speaks of a connection's account, which is known only once the
//! connection has been read. [`CallerPolicy::may_see`] refuses where reading it could not help, and its
//! [`Provisional`] permit becomes a [`Permit`] with the tenant. Without a tenant, such a rule matches
//! nothing.

mod app_only;
mod decision;
mod lookup;
mod part;
mod pattern;
#[cfg(any(test, feature = "testkit"))]
pub mod properties;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod reference_tests;

use std::sync::Arc;

pub use app_only::{AppTenants, AppTokenPermit, AppsOfTokens};
pub use decision::Decision;
pub use lookup::Lookup;
pub use part::RelayPart;
pub use pattern::{Pattern, PatternError};

use crate::domain::app_only::AppResource;
use crate::domain::id::{AppName, CallerName, ConnectionKey};
use crate::domain::notice::{About, Notice};
use crate::domain::scope::{Scope, ScopeSet};
use crate::domain::time::Timestamp;
use crate::relay::{Asked, Beyond, CanonicalPath, RelayRule};

/// One `[[callers.NAME.allow]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The app whose connections it covers.
    pub app: AppName,
    /// Patterns of the connections it covers; one match is enough.
    pub connections: Vec<Pattern>,
    /// The scopes it gives.
    pub scopes: RuleScopes,
    /// What it has relayed.
    pub relay: Vec<RelayRule>,
    /// True if the caller may start and confirm connect sessions and delete connections.
    pub connect: bool,
    /// True if a `*` among `connections` or in `app_only` is intended.
    pub bulk: bool,
    /// The tenants in which it gives tokens of the app itself.
    pub app_only: Vec<AppTenants>,
    /// The resources for which it gives them.
    pub resources: Vec<AppResource>,
    /// Since when it gives them: what was revoked later is not given.
    pub app_only_since: Option<Timestamp>,
}

/// The scopes that a rule gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleScopes {
    /// `"*"`: all granted scopes.
    All,
    /// Only these scopes.
    Only(ScopeSet),
}

/// Reason of a denial. None reveals whether a connection exists that the caller may not see.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// No rule of the caller names the app (404 `app_not_found`).
    #[error("no rule of this caller names the app")]
    AppNotFound,
    /// No rule of the caller covers the connection (404 `connection_not_found`).
    #[error("no rule of this caller covers the connection")]
    ConnectionNotFound,
    /// The rules cover the connection but not these scopes (403 `caller_forbidden`).
    #[error("no rule of this caller gives {}", scopes.join(" "))]
    ScopeForbidden {
        /// The refused scopes, as the caller spelt them.
        scopes: Vec<String>,
    },
    /// The rules cover the connection but not this action (403 `caller_forbidden`).
    #[error("no rule of this caller lets it {action}")]
    ActionForbidden {
        /// The refused action: [`CONNECT`].
        action: &'static str,
    },
    /// The rules cover the connection but do not have this relayed (403 `caller_forbidden`).
    #[error("no rule of this caller has {beyond} relayed")]
    RelayForbidden {
        /// What was refused.
        beyond: Box<Beyond>,
    },
    /// The caller wants to give on what is not its own (403 `caller_forbidden`).
    #[error("no rule of this caller includes `{rule}` (each must be included in one of its own)")]
    NotItsOwn {
        /// The first rule that is not.
        rule: String,
    },
    /// The rules name the app, but give no token of the app itself in this tenant and for this resource (403
    /// `caller_forbidden`).
    #[error(
        "no rule of this caller gives a token of the app itself (app_only) in this tenant and for this \
        resource"
    )]
    AppTokenForbidden,
}

impl Denial {
    /// Returns its code in the contract.
    pub fn code(&self) -> &'static str {
        match self {
            Denial::AppNotFound => "app_not_found",
            Denial::ConnectionNotFound => "connection_not_found",
            Denial::ScopeForbidden { .. }
            | Denial::ActionForbidden { .. }
            | Denial::RelayForbidden { .. }
            | Denial::NotItsOwn { .. }
            | Denial::AppTokenForbidden => "caller_forbidden",
        }
    }
}

/// The action that `connect = true` allows, as [`Denial::ActionForbidden`] names it.
pub const CONNECT: &str = "connect";

/// All rights of one caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerPolicy {
    /// The caller.
    pub caller: CallerName,
    rules: Arc<[Rule]>,
}

/// Proof that the rules alone do not refuse a caller a connection. The connection's tenant decides, once it
/// has been read.
#[derive(Debug, Clone, Copy)]
#[must_use = "a permit is for the act that demands it"]
pub struct Provisional<'a> {
    policy: &'a CallerPolicy,
    key: &'a ConnectionKey,
}

/// Proof that a caller may see a connection, and which of its scopes the caller may use.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a permit is for the act that demands it"]
pub struct Permit {
    caller: CallerName,
    key: ConnectionKey,
    rules: Arc<[Rule]>,
    /// Indices into `rules`; never empty.
    matching: Vec<usize>,
}

/// A caller's rules as they were read. A reload makes others.
#[derive(Debug)]
pub struct SameRules(Arc<[Rule]>);

/// Proof that a caller may connect, confirm, renew and delete a connection.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a permit is for the act that demands it"]
pub struct ConnectPermit {
    policy: CallerPolicy,
    key: ConnectionKey,
    covers_name: bool,
}

/// Proof that a caller may connect accounts to an app.
#[derive(Debug, Clone, Copy)]
#[must_use = "a permit is for the act that demands it"]
pub struct AppPermit<'a> {
    policy: &'a CallerPolicy,
    app: &'a AppName,
}

/// The callers' current rules.
pub trait Policies: Send + Sync {
    /// Returns a caller's current policy; `None` if there is no such caller any more.
    fn policy_of(&self, caller: &CallerName) -> Option<CallerPolicy>;
}

impl CallerPolicy {
    /// Makes the policy of `caller`. Without rules it allows nothing.
    pub fn new(caller: CallerName, rules: Vec<Rule>) -> Self {
        CallerPolicy { caller, rules: rules.into() }
    }

    /// Returns the rules as configured.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Returns true if the caller may know that the app exists.
    pub fn knows_app(&self, app: &AppName) -> bool {
        self.of_app(app).any(|rule| rule.effective().next().is_some() || rule.app_tenants().next().is_some())
    }

    /// Judges whether the caller may connect any account to the app.
    ///
    /// # Errors
    /// [`Denial::AppNotFound`], and [`Denial::ActionForbidden`] if the caller may only know of the app.
    pub fn can_connect_to<'a>(&'a self, app: &'a AppName) -> Result<AppPermit<'a>, Denial> {
        if self.of_app(app).any(|rule| rule.connect && rule.effective().next().is_some()) {
            Ok(AppPermit { policy: self, app })
        } else if self.knows_app(app) {
            Err(Denial::ActionForbidden { action: CONNECT })
        } else {
            Err(Denial::AppNotFound)
        }
    }

    /// Returns true if the connection's tenant could change what the caller may do with it. Then read the
    /// connection first and pass its tenant. Judge a connection that does not exist without a tenant.
    pub fn needs_tenant(&self, key: &ConnectionKey) -> bool {
        let by_name = self.matching(key, None);
        let by_tenant = |rule: &Rule| rule.effective().any(|pattern| matches!(pattern, Pattern::Tenant(_)));
        (0..self.rules.len())
            .filter(|at| !by_name.contains(at))
            .map(|at| &self.rules[at])
            .filter(|rule| rule.app == key.app && by_tenant(rule))
            .any(|rule| by_name.is_empty() || !covered(rule, &self.rules, &by_name))
    }

    /// Judges, before the connection is read, whether the caller may know of it. A refusal depends on the
    /// rules alone, so it does not reveal whether the connection exists.
    ///
    /// # Errors
    /// The errors of [`CallerPolicy::see`].
    pub fn may_see<'a>(&'a self, key: &'a ConnectionKey) -> Result<Provisional<'a>, Denial> {
        if self.matches(key, None).next().is_none() && !self.needs_tenant(key) {
            return Err(self.unseen(key));
        }
        Ok(Provisional { policy: self, key })
    }

    /// Judges whether the caller may know of the connection.
    ///
    /// # Errors
    /// [`Denial::AppNotFound`] or [`Denial::ConnectionNotFound`].
    pub fn see(&self, key: &ConnectionKey, tenant: Option<&str>) -> Result<Permit, Denial> {
        let matching = self.matching(key, tenant);
        if matching.is_empty() {
            return Err(self.unseen(key));
        }
        Ok(Permit { caller: self.caller.clone(), key: key.clone(), rules: self.rules.clone(), matching })
    }

    /// Judges whether the caller may connect, confirm, renew or delete the connection. `tenant` is that of
    /// the existing connection and no other: naming a tenant, or signing in from it, gives no right.
    ///
    /// # Errors
    /// The errors of [`CallerPolicy::see`], and [`Denial::ActionForbidden`] if the caller may only see it.
    pub fn can_connect(&self, key: &ConnectionKey, tenant: Option<&str>) -> Result<ConnectPermit, Denial> {
        let permit = self.see(key, tenant)?;
        if !permit.matching().any(|rule| rule.connect) {
            return Err(Denial::ActionForbidden { action: CONNECT });
        }
        let covers_name = self.matching(key, None).into_iter().any(|at| self.rules[at].connect);
        Ok(ConnectPermit { policy: self.clone(), key: permit.key, covers_name })
    }

    /// Judges whether the caller may hear of a change: of a connection that it may see, of an app that it
    /// knows, and of a tenant that one of its rules is about as a whole.
    pub fn may_hear(&self, notice: &Notice) -> bool {
        match &notice.about {
            About::Connection { connection, of } => {
                let key = ConnectionKey { app: notice.app.clone(), connection: connection.clone() };
                self.matches(&key, of.as_deref()).next().is_some()
            }
            About::Tenant { tenant } => self.of_app(&notice.app).any(|rule| rule.is_about_tenant(tenant)),
            About::App {} => self.knows_app(&notice.app),
        }
    }

    fn unseen(&self, key: &ConnectionKey) -> Denial {
        if self.knows_app(&key.app) { Denial::ConnectionNotFound } else { Denial::AppNotFound }
    }

    fn of_app(&self, app: &AppName) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(move |rule| rule.app == *app)
    }

    fn matching(&self, key: &ConnectionKey, tenant: Option<&str>) -> Vec<usize> {
        self.matches(key, tenant).collect()
    }

    /// The indices of the rules that cover a connection of this tenant.
    fn matches(&self, key: &ConnectionKey, tenant: Option<&str>) -> impl Iterator<Item = usize> {
        let covers =
            move |rule: &Rule| rule.effective().any(|pattern| pattern.matches(&key.connection, tenant));
        (0..self.rules.len()).filter(move |&at| self.rules[at].app == key.app && covers(&self.rules[at]))
    }
}

impl Rule {
    /// Iterates over the patterns that can match: `*` counts only with `bulk`.
    fn effective(&self) -> impl Iterator<Item = &Pattern> {
        self.connections.iter().filter(|pattern| self.bulk || !pattern.is_any())
    }

    /// Returns true if it covers every connection of a tenant, or gives the app's own tokens in it.
    fn is_about_tenant(&self, tenant: &str) -> bool {
        let covers = |pattern: &Pattern| match pattern {
            Pattern::Tenant(tid) => tid == tenant,
            other => other.is_any(),
        };
        self.effective().any(covers) || self.gives_app_tokens_in(tenant)
    }
}

/// Returns true if `rule` adds nothing to the rules at `others`.
fn covered(rule: &Rule, rules: &[Rule], others: &[usize]) -> bool {
    let others = || others.iter().map(|&at| &rules[at]);
    let connect = !rule.connect || others().any(|other| other.connect);
    let scopes = others().any(|other| other.scopes == RuleScopes::All)
        || match &rule.scopes {
            RuleScopes::All => false,
            RuleScopes::Only(scopes) => {
                scopes.iter().all(|scope| others().any(|other| other.scopes.give(scope)))
            }
        };
    let relay = rule.relay.iter().all(|one| others().any(|other| other.relay.contains(one)));
    connect && scopes && relay
}

impl RuleScopes {
    fn give(&self, scope: &Scope) -> bool {
        match self {
            RuleScopes::All => true,
            RuleScopes::Only(scopes) => scopes.contains(scope),
        }
    }
}

impl<'a> Provisional<'a> {
    /// Returns the connection it is for.
    pub fn key(&self) -> &'a ConnectionKey {
        self.key
    }

    /// Returns the caller it was given to.
    pub fn caller(&self) -> &'a CallerName {
        &self.policy.caller
    }

    /// Returns the rules it was given by. By the same rules, the same connection of the same tenant is given
    /// the same.
    pub fn rules(&self) -> SameRules {
        SameRules(Arc::clone(&self.policy.rules))
    }

    /// Returns true if it was given by these rules.
    pub fn is_by(&self, rules: &SameRules) -> bool {
        Arc::ptr_eq(&self.policy.rules, &rules.0)
    }

    /// Judges with the connection's tenant.
    ///
    /// # Errors
    /// The errors of [`CallerPolicy::see`].
    pub fn of_tenant(&self, tenant: Option<&str>) -> Result<Permit, Denial> {
        self.policy.see(self.key, tenant)
    }
}

impl<'a> AppPermit<'a> {
    /// Returns the app it is for.
    pub fn app(&self) -> &'a AppName {
        self.app
    }

    /// Returns the caller it was given to.
    pub fn caller(&self) -> &'a CallerName {
        &self.policy.caller
    }
}

impl Permit {
    /// Returns the connection it is for.
    pub fn key(&self) -> &ConnectionKey {
        &self.key
    }

    /// Returns the caller it was given to.
    pub fn caller(&self) -> &CallerName {
        &self.caller
    }

    /// Returns the scopes to serve. If none are asked for, these are the scopes that the rules list, or all
    /// of `granted` if a rule has `"*"`. The next step checks whether they were granted. The sign-in's own
    /// scopes (`openid`, `offline_access` and so on) need no rule: they are added if granted, and a request
    /// for only these counts as a request for none.
    ///
    /// # Errors
    /// [`Denial::ScopeForbidden`] names each requested scope that no rule gives.
    pub fn scopes_for(&self, asked: Option<&ScopeSet>, granted: &ScopeSet) -> Result<ScopeSet, Denial> {
        let listed;
        let wanted = match asked.filter(|asked| asked.iter().any(|scope| !scope.is_openid())) {
            Some(asked) => {
                let refused: Vec<String> = asked
                    .iter()
                    .filter(|scope| !scope.is_openid() && !self.gives(scope))
                    .map(|scope| scope.wire().to_owned())
                    .collect();
                if !refused.is_empty() {
                    return Err(Denial::ScopeForbidden { scopes: refused });
                }
                asked
            }
            None => match self.listed() {
                None => granted,
                Some(union) => {
                    listed = union;
                    &listed
                }
            },
        };
        Ok(wanted.iter().filter(|scope| !scope.is_openid() || granted.contains(scope)).cloned().collect())
    }

    /// Judges whether a request may be relayed, with all that its query reaches.
    ///
    /// # Errors
    /// [`Denial::RelayForbidden`] names what no rule covers.
    pub fn relays(&self, asked: &Asked) -> Result<(), Denial> {
        self.relaying(asked, |_| ())
    }

    /// Judges the same, and names the first rule that covers it, and each thing that its query reaches.
    fn relaying(&self, asked: &Asked, mut by: impl FnMut(usize)) -> Result<(), Denial> {
        let is_covered = |method, base: &str, path: &CanonicalPath| {
            let covers =
                |at: &usize| self.rules[*at].relay.iter().any(|rule| rule.covers(method, base, path));
            let rule = self.matching.iter().copied().find(covers);
            rule.inspect(|at| by(*at)).is_some()
        };
        asked.judge(is_covered).map_err(|beyond| Denial::RelayForbidden { beyond: Box::new(beyond) })
    }

    fn gives(&self, scope: &Scope) -> bool {
        self.given_by(scope).is_some()
    }

    /// Returns the first rule that gives the scope.
    fn given_by(&self, scope: &Scope) -> Option<usize> {
        self.matching.iter().copied().find(|&at| self.rules[at].scopes.give(scope))
    }

    /// Returns the union of the listed scopes; `None` if a rule gives all.
    fn listed(&self) -> Option<ScopeSet> {
        let mut union = ScopeSet::default();
        for rule in self.matching() {
            match &rule.scopes {
                RuleScopes::All => return None,
                RuleScopes::Only(scopes) => scopes.iter().for_each(|scope| union.insert(scope.clone())),
            }
        }
        Some(union)
    }

    fn matching(&self) -> impl Iterator<Item = &Rule> {
        self.matching.iter().map(|&at| &self.rules[at])
    }
}

impl ConnectPermit {
    /// Returns all rights of the caller it was given to.
    pub fn policy(&self) -> &CallerPolicy {
        &self.policy
    }

    /// Returns true if the permit comes from a rule that covers the connection's name. Otherwise it only
    /// allows to renew the existing connection with its present account.
    pub fn covers_name(&self) -> bool {
        self.covers_name
    }

    /// Returns the connection it is for.
    pub fn key(&self) -> &ConnectionKey {
        &self.key
    }

    /// Returns the connection it is for, and gives up the permit.
    pub fn into_key(self) -> ConnectionKey {
        self.key
    }

    /// Returns the caller it was given to.
    pub fn caller(&self) -> &CallerName {
        &self.policy.caller
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::connection::SignIn;
    use crate::domain::id::ConnectionName;
    use crate::domain::notice::NoticeKind;
    use crate::domain::random::{Random, random_bytes};
    use crate::domain::scope::ScopeNaming;
    use crate::testkit::SeededRandom;

    const T1: &str = "aaaaaaaa-2222-3333-4444-555555555555";
    const T2: &str = "bbbbbbbb-2222-3333-4444-555555555555";

    fn scopes(text: &str) -> ScopeSet {
        ScopeNaming::Entra { graph: "https://graph.microsoft.com".into() }.scopes(text).expect("scopes")
    }

    fn app(name: &str) -> AppName {
        AppName::parse(name).expect("an app name")
    }

    fn key(name: &str) -> ConnectionKey {
        ConnectionKey { app: app("outlook"), connection: ConnectionName::parse(name).expect("a name") }
    }

    fn rule(connections: &[&str], given: &str) -> Rule {
        Rule {
            app: app("outlook"),
            connections: connections.iter().map(|text| Pattern::parse(text).expect("a pattern")).collect(),
            scopes: if given == "*" { RuleScopes::All } else { RuleScopes::Only(scopes(given)) },
            relay: Vec::new(),
            connect: false,
            bulk: false,
            app_only: Vec::new(),
            resources: Vec::new(),
            app_only_since: None,
        }
    }

    fn policy(rules: Vec<Rule>) -> CallerPolicy {
        CallerPolicy::new(CallerName::parse("mail-sync").expect("a caller name"), rules)
    }

    #[test]
    fn who_hears_of_what_follows_from_the_rules() {
        let at = Timestamp::from_unix_seconds(5);
        let of = |name: &str, tenant: &str| Notice::deleted(&key(name), &SignIn::default(), Some(tenant), at);
        let of_app = |app: &AppName, tenant: Option<&str>| {
            let kind = if tenant.is_none() { NoticeKind::AppRecovered } else { NoticeKind::TenantBlocked };
            Notice::of_app(app, kind, tenant, "1", at)
        };
        let (ours, other) = (app("outlook"), app("teams"));
        let heard = |rule: Rule| {
            let policy = policy(vec![rule]);
            let all = [
                ("team-a/1", of("team-a/1", T1)),
                ("team-b/1 of T2", of("team-b/1", T2)),
                ("T1", of_app(&ours, Some(T1))),
                ("T2", of_app(&ours, Some(T2))),
                ("the app", of_app(&ours, None)),
                ("another's T1", of_app(&other, Some(T1))),
                ("another", of_app(&other, None)),
            ];
            let heard = all.iter().filter(|(_, notice)| policy.may_hear(notice));
            heard.map(|(name, _)| *name).collect::<Vec<_>>()
        };
        assert_eq!(heard(rule(&["team-a/*"], "*")), ["team-a/1", "the app"]);
        let of_tenant = rule(&[&format!("tenant:{T2}")], "*");
        assert_eq!(heard(of_tenant), ["team-b/1 of T2", "T2", "the app"]);
        let all = Rule { bulk: true, ..rule(&["*"], "*") };
        assert_eq!(heard(all), ["team-a/1", "team-b/1 of T2", "T1", "T2", "the app"]);
        let only_relays = Rule { scopes: RuleScopes::Only(scopes("")), ..rule(&["team-b/*"], "*") };
        assert_eq!(heard(only_relays), ["team-b/1 of T2", "the app"]);
    }

    #[test]
    fn nothing_is_allowed_that_no_rule_allows() {
        assert_eq!(policy(vec![]).see(&key("a"), None), Err(Denial::AppNotFound));
        let policy = policy(vec![rule(&["team-a/*"], "Mail.Read")]);
        assert_eq!(policy.see(&key("team-b/1"), None), Err(Denial::ConnectionNotFound));
        assert_eq!(policy.can_connect(&key("team-b/1"), None), Err(Denial::ConnectionNotFound));
        let denial = Denial::ActionForbidden { action: "connect" };
        assert_eq!(policy.can_connect(&key("team-a/1"), None), Err(denial));
        let other = ConnectionKey { app: app("other"), connection: key("team-a/1").connection };
        assert_eq!(policy.see(&other, None), Err(Denial::AppNotFound));
        let permit = policy.see(&key("team-a/1"), None).expect("a permit");
        assert_eq!((permit.key(), permit.caller().as_str()), (&key("team-a/1"), "mail-sync"));
    }

    #[test]
    fn a_star_without_bulk_matches_nothing() {
        let mut careless = rule(&["*"], "*");
        careless.connect = true;
        let mut empty_prefix = careless.clone();
        empty_prefix.connections = vec![Pattern::Prefix(String::new())];
        let without = policy(vec![careless.clone(), empty_prefix]);
        assert_eq!(without.see(&key("a"), Some(T1)), Err(Denial::AppNotFound));
        assert!(!without.knows_app(&app("outlook")) && without.lookups(&app("outlook")).is_empty());
        careless.bulk = true;
        assert!(policy(vec![careless]).can_connect(&key("a"), None).is_ok());
    }

    #[test]
    fn a_tenant_rule_waits_for_the_tenant() {
        let mut by_tenant = rule(&[&format!("tenant:{T1}")], "Mail.Read");
        by_tenant.connect = true;
        let both = policy(vec![by_tenant.clone(), rule(&["a"], "Mail.Read")]);
        assert!(both.needs_tenant(&key("b")) && both.needs_tenant(&key("a")), "it adds the right to connect");
        assert_eq!(both.see(&key("b"), None), Err(Denial::ConnectionNotFound));
        assert_eq!(both.see(&key("b"), Some(T2)), Err(Denial::ConnectionNotFound));
        assert!(both.see(&key("b"), Some(&T1.to_ascii_uppercase())).is_ok());
        assert!(both.can_connect(&key("b"), Some(T1)).is_ok() && both.can_connect(&key("b"), None).is_err());
        by_tenant.connect = false;
        let covered = policy(vec![by_tenant, rule(&["a"], "Mail.Read Calendars.Read")]);
        assert!(!covered.needs_tenant(&key("a")) && covered.needs_tenant(&key("b")));
        assert!(!policy(vec![rule(&["*"], "*")]).needs_tenant(&key("a")));
    }

    #[test]
    fn only_a_rule_for_the_name_makes_a_connection() {
        let tenant = format!("tenant:{T1}");
        let connecting = |pattern: &str| Rule { connect: true, ..rule(&[pattern], "*") };
        let covers = |rules: Vec<Rule>, name: &str, tenant: Option<&str>| {
            policy(rules).can_connect(&key(name), tenant).map(|permit| permit.covers_name())
        };
        assert_eq!(covers(vec![connecting("a/*")], "a/1", None), Ok(true));
        assert_eq!(covers(vec![connecting("a/*"), connecting(&tenant)], "a/1", Some(T1)), Ok(true));
        assert_eq!(covers(vec![connecting(&tenant)], "a/1", Some(T1)), Ok(false));
        // The right to see a name is no right to create it.
        assert_eq!(covers(vec![rule(&["a/*"], "*"), connecting(&tenant)], "a/1", Some(T1)), Ok(false));
        // A connection that does not exist has no tenant.
        assert_eq!(covers(vec![connecting(&tenant)], "a/1", None), Err(Denial::ConnectionNotFound));
    }

    #[test]
    fn scopes_are_what_the_matching_rules_give_together() {
        let policy =
            policy(vec![rule(&["a"], "Mail.Read"), rule(&["a*"], "Calendars.Read"), rule(&["b"], "*")]);
        let granted = scopes("openid Mail.Read Contacts.Read");
        let permit = policy.see(&key("a"), None).expect("a permit");
        assert_eq!(permit.scopes_for(None, &granted), Ok(scopes("Mail.Read Calendars.Read")));
        let asked = scopes("https://graph.microsoft.com/MAIL.READ openid offline_access");
        assert_eq!(permit.scopes_for(Some(&asked), &granted), Ok(scopes("Mail.Read openid")));
        let refused = permit.scopes_for(Some(&scopes("Mail.Read Mail.Send")), &granted);
        assert_eq!(refused, Err(Denial::ScopeForbidden { scopes: vec!["Mail.Send".into()] }));
        assert_eq!(permit.scopes_for(Some(&scopes("openid")), &granted), permit.scopes_for(None, &granted));
        assert_eq!(permit.scopes_for(Some(&scopes("")), &granted), permit.scopes_for(None, &granted));

        let everything = policy.see(&key("b"), None).expect("a permit");
        assert_eq!(everything.scopes_for(None, &granted), Ok(granted.clone()));
        let asked = scopes("Files.Read");
        assert_eq!(everything.scopes_for(Some(&asked), &granted), Ok(asked));
    }

    #[test]
    fn looking_is_minimal_and_ordered() {
        let tenant = format!("tenant:{T1}");
        let mut rules = vec![
            rule(&["team-b/*", "team-a/1", "zoe", "team-a/*", "adam", "zoe", "b*", "b"], "*"),
            rule(&["team-a/x/*", "team-b/*", "team-a"], "Mail.Read"),
        ];
        let expected = vec![
            Lookup::Exact(key("adam").connection),
            Lookup::Prefix("b".into()),
            Lookup::Exact(key("team-a").connection),
            Lookup::Prefix("team-a/".into()),
            Lookup::Prefix("team-b/".into()),
            Lookup::Exact(key("zoe").connection),
        ];
        assert_eq!(policy(rules.clone()).lookups(&app("outlook")), expected);
        assert!(policy(rules.clone()).lookups(&app("other")).is_empty());
        rules[0].connections.push(Pattern::Any);
        assert_eq!(policy(rules.clone()).lookups(&app("outlook")), expected, "a star without bulk");
        rules[0].bulk = true;
        assert_eq!(policy(rules.clone()).lookups(&app("outlook")), [Lookup::EVERYTHING]);
        rules[0].connections = vec![Pattern::parse(&tenant).expect("a pattern")];
        assert_eq!(policy(rules).lookups(&app("outlook")), [Lookup::EVERYTHING]);
    }

    /// A second, simplest possible implementation of the rules. It shares no code with the room.
    mod reference {
        use super::*;

        pub(super) struct Verdict {
            pub(super) see: Result<(), &'static str>,
            pub(super) connect: Result<(), &'static str>,
            pub(super) all: bool,
            pub(super) scopes: Vec<String>,
        }

        pub(super) fn judge(rules: &[Rule], app: &str, name: &str, tenant: Option<&str>) -> Verdict {
            let mut knows_app = false;
            let mut sees = false;
            let mut connects = false;
            let mut all = false;
            let mut scopes = Vec::new();
            for rule in rules {
                if rule.app.as_str() != app {
                    continue;
                }
                let mut hit = false;
                for pattern in &rule.connections {
                    let text = pattern.to_string();
                    if text == "*" && !rule.bulk {
                        continue;
                    }
                    knows_app = true;
                    hit |= match (text.strip_prefix("tenant:"), text.strip_suffix('*')) {
                        (Some(tid), _) => tenant == Some(tid),
                        (None, Some(prefix)) => name.len() >= prefix.len() && &name[..prefix.len()] == prefix,
                        (None, None) => text == name,
                    };
                }
                if hit {
                    sees = true;
                    connects = connects || rule.connect;
                    match &rule.scopes {
                        RuleScopes::All => all = true,
                        RuleScopes::Only(set) => scopes.extend(set.to_words()),
                    }
                }
            }
            let see = if sees { Ok(()) } else { Err(if knows_app { "connection" } else { "app" }) };
            let connect = see.and(if connects { Ok(()) } else { Err("action") });
            Verdict { see, connect, all, scopes }
        }
    }

    fn word(denial: &Denial) -> &'static str {
        match denial {
            Denial::AppNotFound => "app",
            Denial::ConnectionNotFound => "connection",
            Denial::ActionForbidden { .. } => "action",
            Denial::ScopeForbidden { .. } => "scope",
            Denial::RelayForbidden { .. } => "relay",
            Denial::NotItsOwn { .. } => "not its own",
            Denial::AppTokenForbidden => "app token",
        }
    }

    fn pick<'a>(random: &dyn Random, from: &[&'a str]) -> &'a str {
        from[usize::from(random_bytes::<1>(random)[0]) % from.len()]
    }

    fn some<'a>(random: &dyn Random, from: &[&'a str]) -> Vec<&'a str> {
        let bits = random_bytes::<1>(random)[0];
        from.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1).map(|(_, text)| *text).collect()
    }

    #[test]
    fn twenty_thousand_random_questions_agree_with_the_reference() {
        let (t1, t2) = (format!("tenant:{T1}"), format!("tenant:{T2}"));
        let apps = ["outlook", "other", "third"];
        let names = ["a", "ab", "team-a/1", "team-a/x/1", "team-b/1", "A"];
        let patterns = ["a", "a*", "team-a/*", "team-a/x/*", "team-b/1", "*", &t1, &t2];
        let words = ["Mail.Read", "Mail.Send", "Calendars.Read", "Contacts.Read"];
        let random = SeededRandom::new(4711);
        for round in 0..4_000 {
            let rules: Vec<Rule> = (0..random_bytes::<1>(&random)[0] % 4)
                .map(|_| {
                    let [connect, bulk, all] = random_bytes::<3>(&random);
                    let mut connections = some(&random, &patterns);
                    connections.retain(|_| random_bytes::<1>(&random)[0] < 100);
                    Rule {
                        app: app(pick(&random, &apps[..2])),
                        connect: connect < 100,
                        bulk: bulk < 100,
                        ..rule(
                            &connections,
                            &if all < 40 { "*".into() } else { some(&random, &words).join(" ") },
                        )
                    }
                })
                .collect();
            let policy = policy(rules.clone());
            for _ in 0..5 {
                let (app_name, name) = (pick(&random, &apps), pick(&random, &names));
                let tenant = Some(pick(&random, &[T1, T2, ""])).filter(|tid| !tid.is_empty());
                let at = ConnectionKey { app: app(app_name), connection: key(name).connection };
                let expected = reference::judge(&rules, app_name, name, tenant);
                let seen = policy.see(&at, tenant);
                let context = format!("round {round}: {rules:?} {at} {tenant:?}");
                assert_eq!(seen.as_ref().map(|_| ()).map_err(word), expected.see, "{context}");
                let connects = policy.can_connect(&at, tenant);
                assert_eq!(
                    connects.map(|_| ()).map_err(|denial| word(&denial)),
                    expected.connect,
                    "{context}"
                );

                // Every visible connection lies in exactly one range; a connection found by its name alone is
                // visible.
                let lookups = policy.lookups(&at.app);
                let found = lookups.iter().filter(|lookup| match lookup {
                    Lookup::Exact(exact) => *exact == at.connection,
                    Lookup::Prefix(prefix) => name.starts_with(prefix.as_str()),
                });
                let found = found.count();
                assert!(found <= 1 && (expected.see.is_err() || found == 1), "{context} {lookups:?}");
                if lookups.iter().all(|lookup| *lookup != Lookup::EVERYTHING) {
                    assert_eq!(found == 1, expected.see.is_ok(), "{context} {lookups:?}");
                }

                // Before the tenant is known, only what no tenant could change is refused.
                match policy.may_see(&at) {
                    Ok(permit) => {
                        assert!(policy.needs_tenant(&at) || expected.see.is_ok(), "{context}");
                        assert_eq!(permit.of_tenant(tenant), seen, "{context}");
                    }
                    Err(denial) => assert_eq!(Err(word(&denial)), expected.see, "{context}"),
                }

                // The tenant changes the answer only if the policy said that it is needed.
                if !policy.needs_tenant(&at) {
                    for tenant in [None, Some(T1), Some(T2)] {
                        let other = reference::judge(&rules, app_name, name, tenant);
                        assert_eq!(other.see, expected.see, "{context}");
                        assert_eq!(other.connect, expected.connect, "{context}");
                        let given = |verdict: &reference::Verdict| {
                            let listed: Vec<&str> = words
                                .into_iter()
                                .filter(|word| verdict.scopes.iter().any(|scope| scope == word))
                                .collect();
                            (!verdict.all).then_some(listed)
                        };
                        if !expected.all || !other.all {
                            assert_eq!(given(&other), given(&expected), "{context}");
                        }
                    }
                }

                let Ok(permit) = seen else { continue };
                let granted = scopes(&some(&random, &words).join(" "));
                let listed = if expected.all { granted.clone() } else { scopes(&expected.scopes.join(" ")) };
                assert_eq!(permit.scopes_for(None, &granted), Ok(listed.clone()), "{context}");
                let asked = some(&random, &words);
                let refused: Vec<&str> = asked
                    .iter()
                    .filter(|word| !expected.all && !expected.scopes.iter().any(|scope| scope == *word))
                    .copied()
                    .collect();
                let answer = permit.scopes_for(Some(&scopes(&asked.join(" "))), &granted);
                match answer {
                    Ok(given) if asked.is_empty() => assert_eq!(given, listed, "{context}"),
                    Ok(given) => {
                        assert!(refused.is_empty(), "{context}");
                        assert_eq!(given, scopes(&asked.join(" ")), "{context}");
                    }
                    Err(Denial::ScopeForbidden { mut scopes }) => {
                        scopes.sort_unstable();
                        let mut refused = refused;
                        refused.sort_unstable();
                        assert_eq!(scopes, refused, "{context}");
                    }
                    Err(other) => panic!("{other:?} {context}"),
                }
            }
        }
    }
}
