//! `connections explain`: what is known of a connection, and at its end what to do: until when callers are
//! served, and the command to run.

use serde_json::Value;

use super::args::StoredConnectionArgs;
use super::client::text;
use super::described::{self, describe, plain};
use super::output::{shown, table};
use super::shell_text;
use super::status::store_lost;
use crate::api::admin::wire::{ClientCredential, Status};
use crate::domain::id::AppName;

/// Members that have a place of their own in the table of attempts.
const COLUMNS: [&str; 4] = ["at", "action", "outcome", "conclusion"];

/// Formats the explanation of a connection. `option` names the configuration, if the user did.
pub(super) fn explain(key: &StoredConnectionArgs, seen: &Value, status: &Status, option: &str) -> String {
    let mut parts = vec![describe(&without_a_promise(seen, status)), attempts(seen)];
    parts.extend(hand_outs(seen));
    parts.extend(Some(shown(text(seen, "advice"))).filter(|advice| !advice.is_empty()));
    parts.extend(store_lost(status).map(|lost| format!("But {lost}.")));
    parts.push(served(seen, status));
    parts.extend(next(key, seen, status, option));
    parts.join("\n\n")
}

fn attempts(seen: &Value) -> String {
    let attempts = seen.get("attempts").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if attempts.is_empty() {
        return "No attempts at the authority are recorded.".to_owned();
    }
    let row = |attempt: &Value| {
        let mut row: Vec<String> =
            COLUMNS.into_iter().map(|member| text(attempt, member).to_owned()).collect();
        row.push(said(attempt));
        row
    };
    let rows: Vec<Vec<String>> = attempts.iter().map(row).collect();
    table(&["AT", "ACTION", "OUTCOME", "CONCLUSION", "THE AUTHORITY SAID"], &rows)
}

/// Says which callers got a token last, as far as the daemon that answers has that in memory.
fn hand_outs(seen: &Value) -> Option<String> {
    let hand_outs = seen.get("hand_outs")?.as_array()?;
    let all = "(`tokenward audit who` knows all of them)";
    if hand_outs.is_empty() {
        return Some(format!("This replica remembers no hand-out {all}."));
    }
    let row = |one: &Value| ["caller", "last_at"].map(|member| text(one, member).to_owned()).to_vec();
    let rows: Vec<Vec<String>> = hand_outs.iter().map(row).collect();
    let table = table(&["HANDED OUT TO", "LAST"], &rows);
    Some(format!("{table}\nby this replica, as far as it remembers {all}."))
}

/// Formats what the authority said. Its numbers have the form that can be looked up.
fn said(attempt: &Value) -> String {
    let mut others = attempt.clone();
    let mut said = Vec::new();
    if let Some(members) = others.as_object_mut() {
        let codes = members.remove("error_codes").map(|codes| described::numbers(&codes));
        said.extend(codes.filter(|codes| !codes.is_empty()));
        members.retain(|name, value| {
            !COLUMNS.contains(&name.as_str())
                && !value.is_null()
                && value.as_array().is_none_or(|items| !items.is_empty())
        });
    }
    said.extend(Some(plain(&others)).filter(|rest| !rest.is_empty()));
    said.join(" ")
}

/// Leaves out the end of the held token where the lost store ends its service before, and what would end it
/// if the store were lost.
fn without_a_promise(seen: &Value, status: &Status) -> Value {
    let ends_before = ends_before(seen, status).is_some();
    let mut seen = seen.clone();
    if let Some(members) = seen.as_object_mut() {
        members.remove("cached_until");
        if ends_before {
            members.remove("served_until");
        }
    }
    seen
}

/// When the held token is served no longer because the store is lost, if that is before its own end. (Both
/// are instants of the API, in one form.) It counts from when this connection was last known to be current,
/// and not from the store's last answer to anybody. A daemon of an earlier version does not say it.
fn ends_before<'a>(seen: &'a Value, status: &Status) -> Option<&'a str> {
    status.store.as_ref().filter(|store| !store.reachable)?;
    let (until, cached) = (text(seen, "served_until"), text(seen, "cached_until"));
    (!until.is_empty() && !cached.is_empty() && cached < until).then_some(cached)
}

/// Says until when callers are served, whatever is wrong.
fn served(seen: &Value, status: &Status) -> String {
    if let Some(cached) = ends_before(seen, status) {
        return format!(
            "Callers are served until {}, unless the store answers before: the token that is held lives \
             until {}.",
            shown(cached),
            shown(text(seen, "served_until"))
        );
    }
    match (text(seen, "served_until"), text(seen, "status")) {
        (_, "paused") => "Callers are not served while it is paused.".to_owned(),
        ("", "active") => "No token is held: the next request fetches one.".to_owned(),
        ("", _) => "Callers are not served: no token with life is held.".to_owned(),
        (until, "active") => format!("The token that is held lives until {}.", shown(until)),
        (until, _) => {
            format!("Callers are served until {}, with the token that is held.", shown(until))
        }
    }
}

/// Returns what to run or where to look, if there is anything to do.
fn next(key: &StoredConnectionArgs, seen: &Value, status: &Status, option: &str) -> Option<String> {
    let (app, connection) = (&key.app, shell_text(key.connection.as_str()));
    let run = |command: String| Some(format!("Run: tokenward {command}{option}"));
    match (text(seen, "status"), text(seen, "reason")) {
        ("paused", _) => run(format!("connections resume {app} {connection}")),
        ("needs_reauthorization", _) => run(format!("connections reconnect-link {app} {connection}")),
        ("blocked", "admin_consent_required" | "app_not_in_tenant") => {
            let tenant = Some(text(&seen["account"], "tid")).filter(|tenant| !tenant.is_empty());
            let of = tenant.map(|tenant| format!(" --tenant {}", shell_text(tenant))).unwrap_or_default();
            run(format!("admin-consent {app}{of}"))
        }
        ("blocked", reason) => {
            let correlation = last_with(seen, "correlation_id");
            let search = correlation.map(|id| format!(", and search for the correlation id {}", shown(id)));
            let what = match reason {
                "assignment_required" => "assign the user to the app under Enterprise applications",
                "account_disabled" => "enable the account, or unlock it",
                "device_required" => "see which Conditional Access policy asks for a device",
                "tenant_gone" => return Some("The tenant is gone: delete the connection.".to_owned()),
                _ => "see which policy refused",
            };
            Some(format!(
                "The administrator of the user's tenant can {what}: open Microsoft Entra > Monitoring > \
                 Sign-in logs{}.\nAfterwards: tokenward connections refresh {app} {connection}{option}",
                search.unwrap_or_default()
            ))
        }
        ("active", _) => {
            let attempts = seen["attempts"].as_array();
            let outcome = text(attempts.and_then(|all| all.last()).unwrap_or(&Value::Null), "outcome");
            let is_of_the_app = matches!(outcome, "credential_rejected" | "app_rejected" | "unclear");
            if !is_of_the_app {
                return None;
            }
            let verify = run(format!("credentials verify {app}"))?;
            let way_back: String = retired(app, status)
                .map(|id| {
                    let id = shell_text(id);
                    format!(
                        "\nIf the authority takes {id}, which is retired, that one serves callers at once: \
                         tokenward credentials promote {app} {id}{option}"
                    )
                })
                .collect();
            Some(verify + &way_back)
        }
        _ => None,
    }
}

/// The app's retired credentials, if the authority rejects those that are used. They may be the way back.
fn retired<'a>(app: &AppName, status: &'a Status) -> impl Iterator<Item = &'a str> {
    let of_app = status.apps.iter().filter(move |one| one.app == app.as_str());
    let all = of_app.flat_map(|one| &one.credentials);
    let works = |one: &&ClientCredential| !matches!(&*one.state, "retired" | "rejected" | "expired");
    let some_work = all.clone().any(|one| works(&one));
    all.filter(move |one| one.state == "retired" && !some_work).map(|one| &*one.id)
}

/// Returns a member of the last attempt that has it.
fn last_with<'a>(seen: &'a Value, member: &str) -> Option<&'a str> {
    let attempts = seen["attempts"].as_array()?;
    attempts.iter().rev().map(|attempt| text(attempt, member)).find(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::id::ConnectionName;

    fn explained(change: &Value) -> String {
        let mut seen = json!({
            "app": "outlook", "connection": "user-1", "status": "blocked", "reason": "policy_blocked",
            "account": { "tid": "t-1", "oid": "o" }, "served_until": "2026-11-23T01:00:00Z",
            "attempts": [{ "at": "2026-11-23T00:00:00Z", "action": "refresh", "outcome": "blocked",
                "conclusion": "kept", "error": "invalid_grant", "error_codes": [53003], "trace_id": null,
                "correlation_id": "c-1" }],
            "advice": "An administrator must\u{1b} act.",
        });
        for (member, value) in change.as_object().expect("members") {
            seen[member] = value.clone();
        }
        let key = StoredConnectionArgs {
            app: AppName::parse("outlook").expect("a name"),
            connection: ConnectionName::parse("user-1").expect("a name"),
        };
        explain(&key, &seen, &Status::default(), " --config t.toml")
    }

    #[test]
    fn an_explanation_ends_with_the_time_and_the_command_for_each_state() {
        for (change, time, command) in [
            (
                json!({ "status": "needs_reauthorization", "reason": "grant_expired" }),
                "Callers are served until 2026-11-23T01:00:00Z",
                "Run: tokenward connections reconnect-link outlook user-1 --config t.toml",
            ),
            (
                json!({ "reason": "admin_consent_required", "served_until": null }),
                "Callers are not served: no token",
                "Run: tokenward admin-consent outlook --tenant t-1 --config t.toml",
            ),
            (
                json!({ "status": "paused", "reason": null, "served_until": null }),
                "Callers are not served while it is paused",
                "Run: tokenward connections resume outlook user-1 --config t.toml",
            ),
            (
                json!({ "status": "active", "reason": null,
                    "attempts": [{ "outcome": "credential_rejected" }] }),
                "lives until 2026-11-23T01:00:00Z",
                "Run: tokenward credentials verify outlook --config t.toml",
            ),
            (
                json!({}),
                "Callers are served until 2026-11-23T01:00:00Z",
                "Afterwards: tokenward connections refresh outlook user-1 --config t.toml",
            ),
        ] {
            let text = explained(&change);
            let (before, end) =
                text.split_at(text.find("Callers are").or(text.find("The token")).expect(&text));
            assert!(end.contains(time) && end.ends_with(command), "{text}");
            assert!(before.contains("act.") && !before.contains('\u{1b}'), "{text}");
        }
        let works = explained(&json!({ "status": "active", "reason": null, "attempts": [] }));
        assert!(works.ends_with("lives until 2026-11-23T01:00:00Z."), "{works}");
    }

    /// With the store gone, one time is told and not two.
    #[test]
    fn a_lost_store_ends_the_service_before_the_token_does() {
        let key = StoredConnectionArgs {
            app: AppName::parse("outlook").expect("a name"),
            connection: ConnectionName::parse("user-1").expect("a name"),
        };
        let lost = json!({ "store": {
            "reachable": false, "answered_at": "2026-11-23T00:00:00Z", "cached_until": "2026-11-23T00:05:00Z",
        } });
        let lost: Status = serde_json::from_value(lost).expect("a status");
        let explained = |cached_until: Option<&str>, status: &Status| {
            let mut seen = json!({ "status": "active", "served_until": "2026-11-23T01:00:00Z" });
            seen["cached_until"] = cached_until.into();
            explain(&key, &seen, status, "")
        };
        // It was idle for a minute when the store was lost.
        let earlier = explained(Some("2026-11-23T00:04:00Z"), &lost);
        assert!(earlier.contains("Callers are served until 2026-11-23T00:04:00Z, unless"), "{earlier}");
        assert!(!earlier.contains("served_until"), "{earlier}");
        for (cached_until, status) in [
            (Some("2026-11-23T02:00:00Z"), &lost),
            // The embedded store: nobody else has changed the connection.
            (None, &lost),
            (Some("2026-11-23T00:04:00Z"), &Status::default()),
        ] {
            let later = explained(cached_until, status);
            assert!(later.contains("served_until  2026-11-23T01:00:00Z"), "{later}");
            assert!(later.contains("held lives until 2026-11-23T01:00:00Z."), "{later}");
            assert!(!later.contains("cached_until"), "{later}");
        }
    }

    #[test]
    fn where_no_credential_works_the_way_back_to_a_retired_one_is_named() {
        let key = StoredConnectionArgs {
            app: AppName::parse("outlook").expect("a name"),
            connection: ConnectionName::parse("user-1").expect("a name"),
        };
        let seen = json!({ "status": "active", "attempts": [{ "outcome": "credential_rejected" }] });
        let way_back = "tokenward credentials promote outlook old --config t.toml";
        for (state, is_named) in [("rejected", true), ("in_use", false), ("new", false)] {
            let all = [json!({ "id": "old", "state": "retired" }), json!({ "id": "new", "state": state })];
            let status = json!({ "apps": [{ "app": "outlook", "credentials": all }] });
            let status: Status = serde_json::from_value(status).expect("a status");
            let text = explain(&key, &seen, &status, " --config t.toml");
            assert!(text.contains("Run: tokenward credentials verify outlook --config t.toml"), "{text}");
            assert_eq!(text.contains(way_back), is_named, "{state}: {text}");
        }
    }

    #[test]
    fn an_explanation_says_who_got_a_token_last_and_where_all_of_them_are() {
        let text = explained(
            &json!({ "hand_outs": [{ "caller": "mail-sync", "last_at": "2026-11-23T00:30:00Z" }] }),
        );
        let lines = ["HANDED OUT TO  LAST", "mail-sync      2026-11-23T00:30:00Z", "`tokenward audit who`"];
        assert!(lines.iter().all(|line| text.contains(line)), "{text}");
        let text = explained(&json!({ "hand_outs": [] }));
        assert!(text.contains("remembers no hand-out"), "{text}");
        // A daemon of an earlier version says nothing of it.
        assert!(!explained(&json!({})).contains("hand-out"));
    }

    #[test]
    fn what_the_authority_said_can_be_looked_up() {
        let text = explained(&json!({}));
        assert!(text.contains("AADSTS53003 correlation_id=c-1 error=invalid_grant"), "{text}");
        assert!(text.contains("search for the correlation id c-1") && !text.contains("trace_id"), "{text}");
    }
}
