//! What each code means, for operators: the console shows it, and docs/audit.md has the same table.

/// Every code of the contract with what it means, in one sentence.
pub const CODES: &[(&str, &str)] = &[
    ("invalid_request", "The request is malformed or a parameter of it is wrong: its caller corrects it."),
    (
        "caller_unauthenticated",
        "The request brings no credential that counts here: it is missing, wrong or expired, or the listener \
         does not accept its kind.",
    ),
    ("caller_forbidden", "The caller may know of it, and no rule lets it have this scope or do this."),
    ("app_not_found", "There is no such app, or no rule of the caller names it."),
    ("connection_not_found", "There is no such connection, or no rule of the caller covers it."),
    ("session_not_found", "There is no such session, or it is over, or another caller started it."),
    ("not_found", "There is nothing at this path."),
    ("method_not_allowed", "The path takes other methods."),
    ("reauthorization_required", "The user must sign in again, with a reconnect link."),
    (
        "connection_blocked",
        "An administrator of the user's organisation must act; the connection's reason says how.",
    ),
    ("tenant_blocked", "The app itself gets no token in a tenant before its administrator acts."),
    ("scope_not_granted", "The user has not granted a scope that the caller asked for."),
    ("connection_paused", "An operator paused the connection, or its name."),
    ("confirmation_rejected", "A confirmation does not fit the sign-in that it is about."),
    ("import_refused", "A grant of another system is not imported; the reason says why."),
    ("rate_limited", "The caller asks faster than its limits, or has as much open as it may have."),
    ("mailbox_busy", "A relayed request's turn at its mailbox did not come in time."),
    ("events_gone", "A stream of events should begin after one that is not kept any more."),
    ("relay_failed", "A relayed request's resource could not be reached, or broke off."),
    ("internal", "tokenward made a mistake: report it with the request's id."),
    (
        "authority_unavailable",
        "The authority did not answer, throttled or gave no usable answer, and no valid token was held.",
    ),
    ("app_credential_rejected", "The authority accepts none of the app's client credentials: replace them."),
    (
        "app_rejected",
        "The authority refuses the app's registration, or its new token host is not confirmed: the operator \
         acts.",
    ),
    (
        "record_damaged",
        "The stored record does not open: it is damaged, or its sealing key is missing here. The operator \
         acts.",
    ),
    ("store_unavailable", "The store did not answer, or it is nearly full."),
    (
        "audit_unavailable",
        "No sink took the audit's record of the hand-out, and the configuration demands one.",
    ),
    (
        "overloaded",
        "There was no room, too many calls of the tenant were under way, or another replica was refreshing \
         the connection; the same request may work a moment later.",
    ),
    ("issuer_unavailable", "The keys of an issuer of callers' tokens could not be fetched yet."),
];

/// Returns what a code means. A dialect has words of its own, which are none of these.
pub fn meaning(code: &str) -> Option<&'static str> {
    CODES.iter().find(|(known, _)| *known == code).map(|(_, means)| *means)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: &str =
        "<!-- Generated from src/api/problem/codes.rs: `UPDATE_CODES=1 cargo test --lib codes` -->\n";

    #[test]
    fn the_page_of_the_audit_has_the_table() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/audit.md");
        let found = std::fs::read_to_string(&path).expect("the page");
        let (before, rest) = found.split_once(BEGIN).expect("the table's begin");
        let after = rest.split_once("\n## ").expect("the next section").1;
        let rows: String = CODES.iter().map(|(code, means)| format!("| `{code}` | {means} |\n")).collect();
        let wanted = format!("{before}{BEGIN}\n| code | what it means |\n|---|---|\n{rows}\n## {after}");
        if std::env::var_os("UPDATE_CODES").is_some() {
            std::fs::write(&path, &wanted).expect("it is written");
        } else {
            assert!(found == wanted, "docs/audit.md is out of date: UPDATE_CODES=1 cargo test --lib codes");
        }
    }
}
