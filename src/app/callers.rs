//! The configured callers and admins.

use std::sync::Arc;

use super::Environment;
use crate::broker::Apps;
use crate::callers::{CallerSetup, Callers, UnixUser};
use crate::config::{self, Authenticate, Config, RuleConfig};
use crate::domain::id::{AppName, CallerName};
use crate::domain::time::Timestamp;
use crate::keyring::Keyring;
use crate::policy::{CallerPolicy, Pattern, Rule, RuleScopes};

/// Callers and admins.
type Both = (Callers, Callers);

pub(super) fn build(
    config: &Config,
    apps: &Apps,
    keyring: &Arc<Keyring>,
    environment: &Environment,
    now: Timestamp,
) -> Result<Both, Vec<String>> {
    let mut problems = Vec::new();
    let mut callers = Vec::new();
    for (name, caller) in &config.callers {
        let rules = caller.allow.iter().map(|rule| build_rule(rule, apps)).collect::<Result<Vec<_>, _>>();
        match rules.and_then(|rules| setup(name, &caller.authenticate, rules, environment)) {
            Ok(mut setup) => {
                setup.rate_limit = caller.rate_limit;
                setup.connection_rate_limit = caller.connection_rate_limit;
                callers.push(setup);
            }
            Err(problem) => problems.push(format!("callers.{name}: {problem}")),
        }
    }
    let mut admins = Vec::new();
    for (name, admin) in &config.admins {
        match setup(name, &admin.authenticate, Vec::new(), environment) {
            Ok(setup) => admins.push(setup),
            Err(problem) => problems.push(format!("admins.{name}: {problem}")),
        }
    }
    let mut known = |setups| match Callers::new(setups, keyring.clone(), environment.secrets(), now) {
        Ok(callers) => Some(callers),
        Err(errors) => {
            problems.extend(errors.iter().map(ToString::to_string));
            None
        }
    };
    match (known(callers), known(admins)) {
        (Some(callers), Some(admins)) if problems.is_empty() => Ok((callers, admins)),
        _ => Err(problems),
    }
}

fn setup(
    name: &str,
    authenticate: &[Authenticate],
    rules: Vec<Rule>,
    environment: &Environment,
) -> Result<CallerSetup, String> {
    let name = CallerName::parse(name).map_err(|error| error.to_string())?;
    let mut setup = CallerSetup {
        policy: CallerPolicy::new(name, rules),
        unix_users: Vec::new(),
        api_key_files: Vec::new(),
        rate_limit: None,
        connection_rate_limit: None,
    };
    for way in authenticate {
        match way {
            Authenticate::UnixUser(config::UnixUser::Id(uid)) => {
                setup.unix_users.push(UnixUser { uid: *uid })
            }
            Authenticate::UnixUser(config::UnixUser::Name(user)) => setup
                .unix_users
                .push(UnixUser::resolve(user, &environment.passwd).map_err(|error| error.to_string())?),
            Authenticate::ApiKeys(path) => setup.api_key_files.push(path.clone()),
        }
    }
    Ok(setup)
}

fn build_rule(rule: &RuleConfig, apps: &Apps) -> Result<Rule, String> {
    let app = AppName::parse(&rule.app).map_err(|error| error.to_string())?;
    let known = apps.get(&app).ok_or_else(|| format!("there is no app {app}"))?;
    let connections = rule
        .connections
        .iter()
        .map(|pattern| Pattern::parse(pattern).map_err(|error| format!("connections: {error}")))
        .collect::<Result<Vec<_>, _>>()?;
    let scopes = if rule.scopes.iter().any(|scope| scope == "*") {
        RuleScopes::All
    } else {
        let naming = known.authority.scope_naming();
        let scopes = naming.scopes(&rule.scopes.join(" "));
        RuleScopes::Only(scopes.map_err(|scope| format!("scopes: {scope:?} is no scope"))?)
    };
    Ok(Rule { app, connections, scopes, connect: rule.connect, bulk: rule.bulk })
}
