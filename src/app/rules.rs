//! The rules of callers, from the configuration to those that policy judges by.

use super::apps::PreparedApps;
use super::findings::Findings;
use crate::broker::App;
use crate::config::RuleConfig;
use crate::domain::app_only::{AppResource, AppTenant};
use crate::domain::id::AppName;
use crate::domain::scope::ScopeNaming;
use crate::domain::time::Timestamp;
use crate::policy::{AppTenants, Pattern, Rule, RuleScopes};
use crate::relay::RelayRule;

/// Builds one rule; `None` if something in it is wrong, or its app could not be built.
pub(super) fn build_rule(
    key: &str,
    rule: &RuleConfig,
    apps: &PreparedApps,
    findings: &mut Findings<'_>,
) -> Option<Rule> {
    let app = AppName::parse(&rule.app);
    let app = app.map_err(|error| findings.value(&format!("{key}.app"), error, None)).ok()?;
    let patterns = rule.connections.iter().enumerate().map(|(at, pattern)| {
        let pattern = Pattern::parse(pattern);
        pattern.map_err(|error| findings.value(&format!("{key}.connections[{at}]"), error, None)).ok()
    });
    // All of them, so that every mistake is found.
    let patterns: Vec<Option<Pattern>> = patterns.collect();
    for (at, pattern) in patterns.iter().enumerate().filter_map(|(at, pattern)| Some((at, pattern.as_ref()?)))
    {
        means_more(&format!("{key}.connections[{at}]"), pattern, findings);
    }
    let connections = patterns.into_iter().collect::<Option<Vec<_>>>()?;
    let known = apps.apps.get(&app)?;
    let scopes = if rule.scopes.iter().any(|scope| scope == "*") {
        RuleScopes::All
    } else {
        let scopes = known.authority.scope_naming().scopes(&rule.scopes.join(" "));
        let no_scope = |scope| {
            findings.value(&format!("{key}.scopes"), format_args!("{scope:?} is no scope"), None);
        };
        RuleScopes::Only(scopes.map_err(no_scope).ok()?)
    };
    let relay = relayed(key, rule, known, findings);
    let app_only = app_tenants(key, rule, known, findings);
    let resources = resources(key, rule, known, findings);
    Some(Rule {
        app,
        connections,
        scopes,
        relay: relay?,
        connect: rule.connect,
        bulk: rule.bulk,
        app_only: app_only?,
        resources: resources?,
        app_only_since: rule.app_only_since.map(|at| Timestamp::from_unix_seconds(at.unix_timestamp())),
    })
}

/// What the rule has relayed, to bases of its app.
fn relayed(key: &str, rule: &RuleConfig, app: &App, findings: &mut Findings<'_>) -> Option<Vec<RelayRule>> {
    let bases: Vec<&str> = app.bases.iter().map(|one| one.base.name()).collect();
    let read = rule.relay.iter().enumerate().map(|(at, text)| {
        let mut wrong = |problem: String| findings.value(&format!("{key}.relay[{at}]"), problem, None);
        match RelayRule::parse(text) {
            Err(fault) => wrong(fault.to_string()),
            Ok(rule) if !bases.contains(&rule.base()) => wrong(format!(
                "names a base that the app does not have: it has {}; see its `relay.bases`",
                if bases.is_empty() { "none".to_owned() } else { bases.join(", ") }
            )),
            Ok(rule) => return Some(rule),
        }
        None
    });
    let read: Vec<Option<RelayRule>> = read.collect();
    read.into_iter().collect()
}

/// The tenants in which the rule gives tokens of the app itself. `home` is the tenant's id, if that is known.
fn app_tenants(
    key: &str,
    rule: &RuleConfig,
    app: &App,
    findings: &mut Findings<'_>,
) -> Option<Vec<AppTenants>> {
    let has_tenants = matches!(app.authority.scope_naming(), ScopeNaming::Entra { .. });
    let mut tenants = Vec::new();
    let mistakes = findings.mistakes();
    for (at, text) in rule.app_only.iter().enumerate() {
        let mut wrong = |problem: &str| findings.value(&format!("{key}.app_only[{at}]"), problem, None);
        match AppTenants::parse(text) {
            Err(error) => wrong(&error.to_string()),
            Ok(AppTenants::One(AppTenant::Home)) if has_tenants && app.home_tenant.is_none() => {
                wrong("the app's own tenant is not known: set `home_tenant` of the app");
            }
            Ok(AppTenants::One(AppTenant::Home)) => tenants.push(AppTenants::One(app.own_tenant())),
            Ok(_) if !has_tenants => {
                wrong("only Entra has tenants: write \"home\" for tokens of this app itself");
            }
            Ok(AppTenants::One(AppTenant::Id(id))) if !app.gives_app_tokens_in(&id) => {
                wrong("is not among the app's `tenants`, nor its own");
            }
            Ok(one) => tenants.push(one),
        }
    }
    (findings.mistakes() == mistakes).then_some(tenants)
}

fn resources(
    key: &str,
    rule: &RuleConfig,
    app: &App,
    findings: &mut Findings<'_>,
) -> Option<Vec<AppResource>> {
    let naming = app.authority.scope_naming();
    let default = match naming {
        ScopeNaming::Entra { graph } => vec![graph.clone()],
        ScopeNaming::Plain => Vec::new(),
    };
    let named = rule.resources.as_ref().unwrap_or(&default).iter().enumerate().map(|(at, text)| {
        let resource = AppResource::parse(naming, text);
        if resource.is_none() {
            let key = format!("{key}.resources[{at}]");
            findings.value(&key, "is no resource's name", None);
        }
        resource
    });
    let named: Vec<Option<AppResource>> = named.collect();
    named.into_iter().collect()
}

/// Warns of a pattern that probably means something else than its author thought.
fn means_more(key: &str, pattern: &Pattern, findings: &mut Findings<'_>) {
    if pattern.ends_within_a_word() {
        let prefix = pattern.to_string();
        let prefix = prefix.trim_end_matches('*');
        findings.warning(
            key,
            format_args!(
                "`{pattern}` means every name that begins with `{prefix}`, {prefix}b/… too: end the \
                 prefix with a separator (`{prefix}/*`), or list the names"
            ),
        );
    }
    if pattern.is_every_personal_account() {
        findings.warning(
            key,
            format_args!(
                "`{pattern}` is the tenant of every personal Microsoft account, so this rule is \
                 about all of them and not about one customer's"
            ),
        );
    }
}
