//! The right to tokens of an app itself.

use super::{CallerPolicy, Denial, Rule};
use crate::domain::account::NoTenantId;
use crate::domain::app_only::{AppResource, AppTenant};
use crate::domain::id::{AppName, CallerName};
use crate::domain::time::Timestamp;

/// One entry of a rule's `app_only`: the tenants in which the rule gives tokens of the app itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppTenants {
    /// One tenant.
    One(AppTenant),
    /// Every tenant. Matches only in a rule with `bulk = true`.
    Any,
}

impl AppTenants {
    /// Parses `home`, a tenant's id or `*`.
    ///
    /// # Errors
    /// [`NoTenantId`] for everything else.
    pub fn parse(text: &str) -> Result<Self, NoTenantId> {
        if text == "*" { Ok(AppTenants::Any) } else { AppTenant::parse(text).map(AppTenants::One) }
    }

    fn matches(&self, tenant: &AppTenant) -> bool {
        match self {
            AppTenants::One(one) => one == tenant,
            AppTenants::Any => true,
        }
    }
}

/// Proof that a caller may have a token of an app itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a permit is for the act that demands it"]
pub struct AppTokenPermit {
    caller: CallerName,
    app: AppName,
    tenant: AppTenant,
    resource: Option<AppResource>,
    since: Option<Timestamp>,
}

impl AppTokenPermit {
    /// Returns the caller it was given to.
    pub fn caller(&self) -> &CallerName {
        &self.caller
    }

    /// Returns the app.
    pub fn app(&self) -> &AppName {
        &self.app
    }

    /// Returns the tenant.
    pub fn tenant(&self) -> &AppTenant {
        &self.tenant
    }

    /// Returns the resource as the rule spells it; `None` leaves it to the authority.
    pub fn resource(&self) -> Option<&AppResource> {
        self.resource.as_ref()
    }

    /// Returns since when the rules give it, if they say so (`app_only_since`). A later revocation takes it
    /// away.
    pub fn since(&self) -> Option<Timestamp> {
        self.since
    }
}

/// The apps whose own tokens a caller's rules give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppsOfTokens<'a> {
    /// None: no rule has `app_only`.
    None,
    /// This one alone.
    One(&'a AppName),
    /// Several.
    Several,
}

impl CallerPolicy {
    /// Returns the apps whose own tokens the rules give, in whatever tenants.
    pub fn apps_of_tokens(&self) -> AppsOfTokens<'_> {
        let mut apps =
            self.rules.iter().filter(|rule| rule.app_tenants().next().is_some()).map(|rule| &rule.app);
        match apps.next() {
            None => AppsOfTokens::None,
            Some(first) if apps.all(|other| other == first) => AppsOfTokens::One(first),
            Some(_) => AppsOfTokens::Several,
        }
    }

    /// Judges whether the caller may have a token of the app itself. One rule must give both the tenant and
    /// the resource. `None` as resource leaves it to an authority that has no resources.
    ///
    /// # Errors
    /// [`Denial::AppNotFound`], and [`Denial::AppTokenForbidden`] if the caller may only know of the app.
    pub fn may_have_app_token(
        &self,
        app: &AppName,
        tenant: &AppTenant,
        resource: Option<&AppResource>,
    ) -> Result<AppTokenPermit, Denial> {
        if !self.knows_app(app) {
            return Err(Denial::AppNotFound);
        }
        let gives = |rule: &&Rule| {
            rule.app_tenants().any(|one| one.matches(tenant))
                && resource.is_none_or(|resource| rule.resources.contains(resource))
        };
        let giving: Vec<&Rule> = self.of_app(app).filter(gives).collect();
        let first = giving.first().ok_or(Denial::AppTokenForbidden)?;
        Ok(AppTokenPermit {
            caller: self.caller.clone(),
            app: app.clone(),
            tenant: tenant.clone(),
            resource: first.resources.iter().find(|one| resource == Some(*one)).cloned(),
            since: giving.iter().filter_map(|rule| rule.app_only_since).max(),
        })
    }
}

impl Rule {
    /// Returns true if it gives tokens of the app itself in this tenant, for some resource.
    pub(super) fn gives_app_tokens_in(&self, tenant: &str) -> bool {
        // (What is no id is the domain of the app's own.)
        let tenant = AppTenant::parse(tenant).unwrap_or(AppTenant::Home);
        self.app_tenants().any(|one| one.matches(&tenant))
    }

    /// Iterates over the entries of `app_only` that can match: `*` counts only with `bulk`.
    pub(super) fn app_tenants(&self) -> impl Iterator<Item = &AppTenants> {
        self.app_only.iter().filter(|one| self.bulk || **one != AppTenants::Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::scope::ScopeNaming;
    use crate::policy::RuleScopes;

    const T1: &str = "aaaaaaaa-2222-3333-4444-555555555555";
    const T2: &str = "bbbbbbbb-2222-3333-4444-555555555555";
    const GRAPH: &str = "https://graph.microsoft.com";
    const VAULT: &str = "https://vault.azure.net";

    fn app(name: &str) -> AppName {
        AppName::parse(name).expect("a name")
    }

    fn resource(text: &str) -> AppResource {
        AppResource::parse(&ScopeNaming::Entra { graph: GRAPH.into() }, text).expect("a resource")
    }

    fn rule(tenants: &[&str], resources: &[&str], bulk: bool) -> Rule {
        Rule {
            app: app("outlook"),
            connections: Vec::new(),
            scopes: RuleScopes::Only(Default::default()),
            relay: Vec::new(),
            connect: false,
            bulk,
            app_only: tenants.iter().map(|text| AppTenants::parse(text).expect("a tenant")).collect(),
            resources: resources.iter().map(|text| resource(text)).collect(),
            app_only_since: None,
        }
    }

    /// What a request for it is answered: the resource's spelling, or the reason.
    fn judge(rules: &[Rule], tenant: &str, asked: Option<&str>) -> Result<Option<String>, Denial> {
        let policy = CallerPolicy::new(CallerName::parse("sync").expect("a name"), rules.to_vec());
        let tenant = AppTenant::parse(tenant).expect("a tenant");
        let permit = policy.may_have_app_token(&app("outlook"), &tenant, asked.map(resource).as_ref())?;
        assert_eq!((permit.app(), permit.tenant()), (&app("outlook"), &tenant));
        Ok(permit.resource().map(ToString::to_string))
    }

    #[test]
    fn one_rule_must_give_the_tenant_and_the_resource() {
        let rules = [
            rule(&[T1], &[GRAPH], false),
            rule(&["home", &T2.to_uppercase()], &["https://Vault.azure.net/"], false),
        ];
        let forbidden = || Err(Denial::AppTokenForbidden);
        let rows = [
            (T1, Some(GRAPH), Ok(Some(GRAPH.to_owned()))),
            (T1, Some("https://graph.microsoft.com/.default"), Ok(Some(GRAPH.to_owned()))),
            (T1, Some(VAULT), forbidden()), // (the other rule's resource)
            (T2, Some(VAULT), Ok(Some("https://Vault.azure.net/".to_owned()))),
            (T2, Some(GRAPH), forbidden()),
            ("home", Some(VAULT), Ok(Some("https://Vault.azure.net/".to_owned()))),
            ("home", Some(GRAPH), forbidden()),
            ("home", None, Ok(None)),
            ("cccccccc-2222-3333-4444-555555555555", Some(GRAPH), forbidden()),
        ];
        for (tenant, asked, expected) in rows {
            assert_eq!(judge(&rules, tenant, asked), expected, "{tenant} {asked:?}");
        }
        assert_eq!(judge(&[], T1, Some(GRAPH)), Err(Denial::AppNotFound));
    }

    #[test]
    fn a_star_gives_nothing_without_bulk_and_a_right_to_connections_gives_no_token_of_the_app() {
        assert_eq!(judge(&[rule(&["*"], &[GRAPH], false)], T1, Some(GRAPH)), Err(Denial::AppNotFound));
        assert_eq!(judge(&[rule(&["*"], &[GRAPH], true)], T1, Some(GRAPH)), Ok(Some(GRAPH.into())));
        assert_eq!(judge(&[rule(&["*"], &[GRAPH], true)], "home", Some(GRAPH)), Ok(Some(GRAPH.into())));
        let everything = Rule {
            connections: vec![crate::policy::Pattern::Any],
            scopes: RuleScopes::All,
            relay: Vec::new(),
            connect: true,
            ..rule(&[], &[], true)
        };
        assert_eq!(judge(&[everything], T1, Some(GRAPH)), Err(Denial::AppTokenForbidden));
    }

    #[test]
    fn of_several_rules_the_one_that_gives_it_since_the_latest_counts() {
        let since = |seconds: i64| Rule {
            app_only_since: Some(Timestamp::from_unix_seconds(seconds)),
            ..rule(&[T1], &[GRAPH], false)
        };
        let of_other =
            Rule { app_only_since: Some(Timestamp::from_unix_seconds(9)), ..rule(&[T2], &[GRAPH], false) };
        let policy = CallerPolicy::new(
            CallerName::parse("sync").expect("a name"),
            vec![rule(&[T1], &[GRAPH], false), since(2), since(7), since(3), of_other],
        );
        let tenant = AppTenant::parse(T1).expect("a tenant");
        let permit = policy.may_have_app_token(&app("outlook"), &tenant, Some(&resource(GRAPH)));
        assert_eq!(permit.expect("a permit").since(), Some(Timestamp::from_unix_seconds(7)));
    }

    #[test]
    fn the_app_is_known_if_the_rules_give_tokens_of_one_alone() {
        let of =
            |name: &str, tenants: &[&str], bulk| Rule { app: app(name), ..rule(tenants, &[GRAPH], bulk) };
        let (outlook, other) = (of("outlook", &[T1], false), of("other", &["home"], false));
        let (no_token, no_bulk) = (of("third", &[], true), of("third", &["*"], false));
        for (rules, expected) in [
            (vec![], AppsOfTokens::None),
            (vec![no_token.clone(), no_bulk.clone()], AppsOfTokens::None),
            (vec![no_token, outlook.clone(), no_bulk], AppsOfTokens::One(&outlook.app)),
            (vec![outlook.clone(), of("outlook", &[T2], false)], AppsOfTokens::One(&outlook.app)),
            (vec![outlook.clone(), other], AppsOfTokens::Several),
        ] {
            let policy = CallerPolicy::new(CallerName::parse("sync").expect("a name"), rules.clone());
            assert_eq!(policy.apps_of_tokens(), expected, "{rules:?}");
        }
    }

    /// A rule for tokens of the app tells nothing of connections, and gives none.
    #[test]
    fn a_right_to_tokens_of_the_app_gives_no_connection() {
        use crate::domain::id::{ConnectionKey, ConnectionName};
        let mut rule = rule(&["*"], &[GRAPH], true);
        (rule.connect, rule.scopes) = (true, RuleScopes::All);
        let policy = CallerPolicy::new(CallerName::parse("sync").expect("a name"), vec![rule]);
        let key =
            ConnectionKey { app: app("outlook"), connection: ConnectionName::parse("a").expect("a name") };
        assert_eq!(policy.see(&key, Some(T1)), Err(Denial::ConnectionNotFound));
        assert_eq!(policy.can_connect(&key, Some(T1)), Err(Denial::ConnectionNotFound));
        assert!(policy.can_connect_to(&key.app).is_err() && policy.lookups(&key.app).is_empty());
    }
}
