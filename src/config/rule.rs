//! Reading of `[[callers.NAME.allow]]`.

use super::context::Section;
use super::relay::relayed;
use super::scope_list::scopes;
use super::sections::RuleConfig;
use super::spec::nearest;
use crate::domain::app_only::HOME;
use crate::policy::{AppTenants, Pattern};

/// Reads one rule.
pub(super) fn rule(section: &Section<'_>, known_apps: &[&str]) -> Option<RuleConfig> {
    let app = section.text("app");
    if let Some(leaf) = &app
        && !known_apps.contains(&leaf.value)
    {
        let near = nearest(leaf.value, known_apps.iter().copied());
        leaf.mistake_near("there is no such app", near);
    }
    let bulk = section.bool("bulk")?;
    let app_only = app_only(section, bulk);
    let connections = connections(section, bulk);
    if bulk && !connections.iter().chain(&app_only).any(|one| one == "*") {
        section
            .node("bulk")?
            .warning("has no effect without `connections = [\"*\"]` or `app_only = [\"*\"]`");
    }
    let connect = section.bool("connect")?;
    if connect && !section.has("connections") && !app_only.is_empty() {
        section.node("connect")?.warning("has no effect without `connections`");
    }
    let relay = relayed(section);
    if relay.is_empty() && (section.has("connections") || section.has("scopes")) {
        section.required("scopes", "name scopes, or \"*\" for whatever was granted");
    } else if !relay.is_empty() && !section.has("scopes") {
        section.required("scopes", "`scopes = []` is for a caller that only relays");
    }
    let resources = section.has("resources").then(|| {
        section.not_empty("resources", "leave it out for Microsoft Graph");
        section.texts("resources").iter().map(|leaf| leaf.value.to_owned()).collect()
    });
    Some(RuleConfig {
        app: app?.value.to_owned(),
        connections,
        scopes: scopes(section, true),
        relay,
        connect,
        bulk,
        app_only,
        resources,
        app_only_since: section.instant("app_only_since"),
    })
}

fn connections(section: &Section<'_>, bulk: bool) -> Vec<String> {
    let has_others = !section.texts("app_only").is_empty() && !section.has("scopes");
    if !has_others || section.has("connections") {
        let form = "name connections, prefixes such as \"team-a/*\", or \"*\" with `bulk = true`";
        section.required("connections", form);
    }
    let mut connections = Vec::new();
    for leaf in section.texts("connections") {
        match connection_pattern_problem(leaf.value) {
            Some(problem) => leaf.mistake(problem),
            None if leaf.value == "*" && !bulk => {
                leaf.mistake(
                    "every connection of the app at once needs `bulk = true` in the same rule, to \
                    say that it is meant",
                );
            }
            None => {}
        }
        connections.push(leaf.value.to_owned());
    }
    connections
}

/// Checks a pattern by the same rule that authorization uses.
fn connection_pattern_problem(pattern: &str) -> Option<String> {
    Pattern::parse(pattern).err().map(|error| error.to_string())
}

fn app_only(section: &Section<'_>, bulk: bool) -> Vec<String> {
    let mut tenants = Vec::new();
    for leaf in section.texts("app_only") {
        match AppTenants::parse(leaf.value) {
            Err(_) => leaf.mistake_near(
                "must be a tenant's id, \"home\" for the app's own tenant, or \"*\" with `bulk = true` (a \
                 domain can move to another tenant)",
                nearest(leaf.value, [HOME]),
            ),
            Ok(AppTenants::Any) if !bulk => leaf.mistake(
                "tokens of the app itself in every tenant need `bulk = true` in the same rule, to say that \
                 it is meant",
            ),
            Ok(_) => {}
        }
        tenants.push(leaf.value.to_owned());
    }
    for key in ["resources", "app_only_since"] {
        if tenants.is_empty()
            && let Some(leaf) = section.node(key)
        {
            leaf.warning("has no effect without `app_only`");
        }
    }
    tenants
}
