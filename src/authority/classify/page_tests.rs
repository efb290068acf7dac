//! Makes `docs/incidents.md`: what each AADSTS number means, and what to do about it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::*;

const INTRODUCTION: &str = "\
# AADSTS numbers

<!-- Generated from src/authority/classify.rs: change that, then run
`UPDATE_INCIDENTS=1 cargo test --lib classify` -->

Entra's refusals have a number. `tokenward connections explain` shows it, the log has it in `error_codes`, and
so does the page of a user whose sign-in failed. Look it up here; the last column leads to what to do. Alerts
are in the [runbook](../deploy/RUNBOOK.md).

The number is read beside the HTTP status, `error` and `suberror`, and sometimes those decide
([SEMANTICS.md](../SEMANTICS.md)). A number that is not here decides nothing: then `error` does, and `explain`
says so. If neither has a certain meaning, [ask Microsoft](#ask-microsoft). Microsoft changes numbers and
texts without notice.

In the browser, while a user signs in, a few mean something else: with 65004 the user declined; with 50020,
500208 and 51004 the user must take another account; with 65001 an administrator must approve the app; with
70001 the operator corrects the registration. The user's page says it.

| number | it says | what to do |
|---|---|---|
";

/// What there is to do, a section for each kind of row.
const SECTIONS: [(&str, &str, &str); 9] = [
    (
        "reauthorize",
        "The user signs in again",
        "Callers get 409 `reauthorization_required` with the reason, and a fresh link with \
         `?connect=1`. Nobody else has to do anything. Many at once have one cause, mostly a \
         policy or a password change of their tenant: see \
         [TokenwardReauthorizationGrowing](../deploy/RUNBOOK.md#tokenwardreauthorizationgrowing). \
         Where the reason is `consent_required`, the user consents during the sign-in; if the \
         tenant does not let users consent, its administrator does ([the \
         link](admin-consent.md)). After 50020 and 500208 the same account is refused again: the \
         user takes one of a tenant and a kind that *Supported account types* of the \
         registration allows, or the operator changes that ([step \
         2](app-registration.md#2-decide-who-may-connect)).",
    ),
    (
        "blocked",
        "An administrator of the tenant acts",
        "Callers get 409 `connection_blocked` with the reason; to sign in again does not help. \
         What each reason asks of whom is at \
         [TokenwardConnectionsBlocked](../deploy/RUNBOOK.md#tokenwardconnectionsblocked). \
         Afterwards nothing is left to do: the connection is tried again at least once an hour. \
         In an app for one tenant `app_not_in_tenant` and `tenant_gone` are faults of the \
         registration, and callers get 503 `app_rejected`.",
    ),
    (
        "credential_rejected",
        "The operator replaces the app's credential",
        "No user is affected, and no connection changes. tokenward tries the app's other \
         credentials; if none works, callers get 503 `app_credential_rejected` once their \
         tokens end. See \
         [TokenwardNoCredentialWorks](../deploy/RUNBOOK.md#tokenwardnocredentialworks).",
    ),
    (
        "app_rejected",
        "The operator corrects the registration",
        "Callers get 503 `app_rejected`, and no connection changes. Compare the registration at \
         Entra with the configuration: client id, authority, redirect URI and its platform, \
         supported account types, permissions ([app registration](app-registration.md)). \
         `tokenward check` prints the redirect URI.",
    ),
    (
        "caller_fault",
        "The scope is corrected",
        "A scope does not exist at its resource. Callers get 503 `app_rejected`. Correct \
         `scopes` of the app, or what the connect session asks for.",
    ),
    (
        "unavailable",
        "Wait",
        "Nothing is wrong here. Living tokens are served, refreshes are tried again, and \
         callers without a token get 503 `authority_unavailable` with `Retry-After`. If it \
         lasts, see [TokenwardAuthorityErrors](../deploy/RUNBOOK.md#tokenwardauthorityerrors).",
    ),
    (
        "restart",
        "The user tries again",
        "This sign-in failed: its page was open too long, was loaded twice, or another program \
         answered in its place. The page offers another try.",
    ),
    (
        "bug",
        "Report it",
        "The authority calls our request malformed. Callers get 503 `app_rejected`. Report it \
         with the log's line and its correlation id.",
    ),
    (
        "unclear",
        "Ask Microsoft",
        "No number and no `error` of the refusal has a certain meaning, so no row leads here. \
         Callers get 503 `authority_unavailable`, and no connection changes. Give Microsoft's \
         support the correlation id that `explain` shows, and tell us what they say.",
    ),
];

/// The anchor that a heading makes.
fn anchor(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || *c == ' ')
        .collect::<String>()
        .replace(' ', "-")
}

/// A verdict's reason, or nothing.
fn reason(disposition: Disposition) -> String {
    match disposition {
        Disposition::Reauthorize(reason, _) => format!(" (`{reason}`)"),
        Disposition::Blocked(reason) => format!(" (`{reason}`)"),
        _ => String::new(),
    }
}

/// The first row of the tables with a number decides, and tenants' numbers come first.
fn rows() -> BTreeMap<u32, (&'static str, Disposition)> {
    let mut rows = BTreeMap::new();
    for (numbers, reason, why) in TENANT_NUMBERS {
        for number in *numbers {
            rows.entry(*number).or_insert((*why, Blocked(*reason)));
        }
    }
    for (numbers, disposition, why) in NUMBERS {
        for number in *numbers {
            rows.entry(*number).or_insert((*why, *disposition));
        }
    }
    rows
}

fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    for (number, (why, disposition)) in rows() {
        let word = disposition.as_str();
        let (_, heading, _) = SECTIONS
            .iter()
            .find(|(kind, ..)| *kind == word)
            .unwrap_or_else(|| panic!("no section for {word}"));
        let (to_do, reason) = (anchor(heading), reason(disposition));
        writeln!(page, "| {number} | {why} | [{heading}](#{to_do}){reason} |").expect("text");
    }
    for (_, heading, text) in SECTIONS {
        write!(page, "\n## {heading}\n\n{}\n", wrapped(text)).expect("text");
    }
    page
}

/// Lines of at most 120 characters.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("there is one");
        if last.is_empty() {
            last.push_str(word);
        } else if last.chars().count() + 1 + word.chars().count() <= 120 {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines.join("\n")
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test may be told to write")]
fn the_page_of_numbers_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/incidents.md");
    let wanted = page();
    if std::env::var("UPDATE_INCIDENTS").is_ok() {
        std::fs::write(&path, &wanted).expect("the page is written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == wanted,
        "docs/incidents.md is out of date: UPDATE_INCIDENTS=1 cargo test --lib classify"
    );
}
