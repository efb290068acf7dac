//! What came of a grant that was tried at its authority, by what is known of the connection before and after.
//! Pure.

use std::time::Duration;

use serde_json::Value;

use super::args::StoredConnectionArgs;
use super::client::text;
use super::output::shown;
use super::{Failure, shell_text};

/// Whether nothing but a new sign-in helps: such a grant may not be tried at all.
pub(super) fn is_dead(seen: &Value) -> bool {
    text(seen, "status") == "needs_reauthorization"
}

/// Whether something came of it.
pub(super) fn is_changed(before: &Value, after: &Value) -> bool {
    ["status", "reason", "last_refreshed_at", "attempts"].iter().any(|member| before[member] != after[member])
}

/// Says why the grant does not work, or that nobody knows yet; `None` if it works. `option` names the
/// configuration, if the user did.
pub(super) fn failure(
    key: &StoredConnectionArgs,
    option: &str,
    (before, after): (&Value, &Value),
    waited: Duration,
) -> Option<Failure> {
    let is_changed = is_changed(before, after);
    let last = after["attempts"].as_array().and_then(|all| all.last()).unwrap_or(&Value::Null);
    let outcome = text(last, "outcome");
    if is_changed && outcome == "ok" {
        return None;
    }
    let (app, name) = (&key.app, shell_text(key.connection.as_str()));
    let of = format!("the grant of {} of app {app}", key.connection);
    let explain = format!("tokenward connections explain {app} {name}{option}");
    let verify =
        format!("tokenward credentials verify {app}{option} asks the authority about each credential");
    Some(if is_dead(after) {
        let status = status(after);
        Failure::failed(format!("{of} does not work: {status}; its user must sign in again")).hint(format!(
            "tokenward connections reconnect-link {app} {name}{option} makes a link to send to the user"
        ))
    } else if outcome == "credential_rejected" {
        Failure::failed(format!("{of} could not be tried: the authority rejects the app's credential"))
            .hint(verify)
    } else if outcome == "app_rejected" {
        let why = shown(text(last, "conclusion"));
        Failure::failed(format!("{of} could not be tried: the authority rejects the app ({why})"))
            .hint(verify)
    } else if is_changed {
        Failure::failed(format!("{of} was tried: {}", status(after)))
            .hint(format!("{explain} says what to do"))
    } else {
        Failure::failed(format!("nothing came of {of} within {} s; it may still be tried", waited.as_secs()))
            .hint(format!("{explain} says what comes of it"))
    })
}

/// The status, with its reason.
fn status(seen: &Value) -> String {
    let status = shown(text(seen, "status"));
    match text(seen, "reason") {
        "" => status,
        why => format!("{status} ({})", shown(why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::{AppName, ConnectionName};
    use serde_json::json;

    #[test]
    fn only_a_grant_that_works_is_none() {
        let key = StoredConnectionArgs {
            app: AppName::parse("outlook").expect("a name"),
            connection: ConnectionName::parse("user-1").expect("a name"),
        };
        let seen = |status: &str, at: u32, outcomes: &[&str]| {
            let attempts: Vec<Value> =
                outcomes.iter().map(|outcome| json!({ "outcome": outcome, "conclusion": "c" })).collect();
            json!({ "status": status, "last_refreshed_at": at, "attempts": attempts })
        };
        let before = seen("active", 1, &["ok"]);
        let dead = seen("needs_reauthorization", 1, &["reauthorize"]);
        for (before, after, words) in [
            (&before, seen("active", 2, &["ok"]), None),
            (&before, seen("active", 2, &["ok", "ok"]), None),
            (&before, before.clone(), Some("nothing came of the grant of user-1 of app outlook within 18 s")),
            (&before, dead.clone(), Some("needs_reauthorization; its user must sign in again")),
            (&dead, dead.clone(), Some("needs_reauthorization; its user must sign in again")),
            (
                &before,
                seen("active", 1, &["ok", "credential_rejected"]),
                Some("could not be tried: the authority rejects the app's credential"),
            ),
            (&before, seen("active", 1, &["ok", "app_rejected"]), Some("the authority rejects the app (c)")),
            (&before, seen("blocked", 1, &["ok", "blocked"]), Some("was tried: blocked")),
            (&before, seen("active", 1, &["ok", "unavailable"]), Some("was tried: active")),
        ] {
            let failure = failure(&key, "", (before, &after), Duration::from_secs(18));
            let said = failure.map(|failure| failure.message);
            assert_eq!(said.is_some(), words.is_some(), "{after}: {said:?}");
            assert!(said.unwrap_or_default().contains(words.unwrap_or_default()), "{after}");
        }
    }
}
