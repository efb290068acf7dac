//! The smaller pages: apps with their credentials, callers with their keys, sealing keys, the kill switch.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::charts::{Share, countdown, stacked};
use super::layout::{Mood, csrf, ends, head, number, tag, when, when_text};
use super::sessions::Met;
use crate::api::admin::wire::{AppCredentials, ClientCredential, Keyring, Reload, SealingKey};
use crate::api::problem::CODES;
use crate::broker::living_handles::LivingHandles;
use crate::broker::revoke::Meant;
use crate::callers::KeyUse;
use crate::domain::id::AppName;
use crate::domain::time::Timestamp;

fn instant(text: Option<&str>) -> Option<Timestamp> {
    text.and_then(Timestamp::parse_rfc3339)
}

/// Every app with its client credentials, and the token hosts that await an operator's word.
pub(super) fn apps(
    met: &Met,
    apps: &[AppCredentials],
    unconfirmed: &BTreeMap<AppName, String>,
    now: Timestamp,
) -> Markup {
    html! {
        h1 { "Apps and their credentials" }
        @if apps.is_empty() { p { "No app is configured." } }
        @for app in apps {
            section.card {
                h2 { (app.app) }
                @for (_, host) in unconfirmed.iter().filter(|(name, _)| name.as_str() == app.app) {
                    (unconfirmed_host(met, &app.app, host))
                }
                div.scroll { table.stack {
                    (head(&["Credential", "State", "Ends", "Last used", "Acts"]))
                    tbody { @for one in &app.credentials { (credential(met, &app.app, one, now)) } }
                } }
                (one_act(met, &app.app, "", "verify", "Prove all of them", ""))
            }
        }
    }
}

/// An app whose authority leads to another host than before.
fn unconfirmed_host(met: &Met, app: &str, host: &str) -> Markup {
    html! {
        form.note.warn method="post" action="/console/apps" {
            (csrf(met))
            input type="hidden" name="app" value=(app);
            input type="hidden" name="host" value=(host);
            input type="hidden" name="act" value="confirm_host";
            p { "The authority leads to " strong { (host) } ", and the credential belongs to another host: "
                "no secret is sent there before you say so." }
            label.check { input type="checkbox" name="sure" value="yes" required;
                span { "Yes, this is the app's authority" } }
            button.small type="submit" { "Confirm the host" }
        }
    }
}

fn credential(met: &Met, app: &str, one: &ClientCredential, now: Timestamp) -> Markup {
    let at = instant(one.expires_at.as_deref());
    let mood = match one.state.as_str() {
        "in_use" | "proven" => Mood::Ok,
        "rejected" | "expired" => Mood::Bad,
        "expiring" => Mood::Warn,
        _ => Mood::Calm,
    };
    html! {
        tr {
            td.name data-label="Credential" { div { strong { (one.id) } br; small { (one.kind) } } }
            td data-label="State" { div {
                (tag(mood, &one.state.replace('_', " ")))
                @if one.in_use && one.state != "in_use" { " " (tag(Mood::Calm, "tried first")) }
                @if let Some(no) = &one.rejection { br; small { (no.cause)
                    @for number in &no.error_codes { " " code { "AADSTS" (number) } } } }
                @for other in one.replicas.iter().flatten().filter(|other| other.state == "absent") {
                    br; small { "not yet at " (other.replica) }
                }
            } }
            td data-label="Ends" { div {
                @match at {
                    Some(at) => { (ends(at, now)) (countdown(Some(at), now)) }
                    None => {
                        @if one.kind == "secret" { (tag(Mood::Warn, "nobody said when")) } @else { "–" }
                    }
                }
            } }
            td data-label="Last used" { (when_text(one.last_used_at.as_deref(), now, "not since the start")) }
            td data-label="Acts" { div.acts.flat {
                (one_act(met, app, &one.id, "promote", "Promote", "small"))
                details {
                    summary { "Retire…" }
                    form method="post" action="/console/apps" {
                        (csrf(met))
                        input type="hidden" name="app" value=(app);
                        input type="hidden" name="credential" value=(one.id);
                        input type="hidden" name="act" value="retire";
                        label.check { input type="checkbox" name="sure" value="yes" required;
                            span { "Yes, stop using " strong { (one.id) } } }
                        button.risk.small type="submit" { "Retire it" }
                    }
                }
            } }
        }
    }
}

fn one_act(met: &Met, app: &str, credential: &str, act: &str, words: &str, class: &str) -> Markup {
    html! {
        form method="post" action="/console/apps" {
            (csrf(met))
            input type="hidden" name="app" value=(app);
            input type="hidden" name="credential" value=(credential);
            input type="hidden" name="act" value=(act);
            button class=(class) type="submit" { (words) }
        }
    }
}

/// What the authority says of credentials that were proven.
pub(super) fn verified(app: &str, rows: &[(String, &'static str, Option<String>)]) -> Markup {
    html! {
        h1 { "What the authority says of " (app) }
        section.card { ul { @for (id, outcome, cause) in rows {
            li {
                strong { (id) } " "
                (tag(mood_of_proof(outcome), outcome))
                @if let Some(cause) = cause { " " (cause) }
            }
        } } p { a href="/console/apps" { "Back to the apps" } } }
    }
}

/// An authority that did not answer has proven nothing.
fn mood_of_proof(outcome: &str) -> Mood {
    match outcome {
        "accepted" => Mood::Ok,
        "rejected" => Mood::Bad,
        _ => Mood::Warn,
    }
}

/// Every caller with its keys.
pub(super) fn callers(
    names: &[String],
    keys: &[KeyUse],
    handles: &[LivingHandles],
    now: Timestamp,
) -> Markup {
    let of_caller = |name: &str| handles.iter().filter(|one| one.caller.as_str() == name).collect::<Vec<_>>();
    let mut of: BTreeMap<&str, Vec<&KeyUse>> = names.iter().map(|name| (name.as_str(), Vec::new())).collect();
    for key in keys {
        of.entry(key.caller.as_str()).or_default().push(key);
    }
    html! {
        h1 { "Callers" }
        p.soft { "API keys with their last use since this replica started. Unix users, certificates and "
            "tokens of issuers have no key." }
        @for (name, keys) in of {
            section.card {
                h2 { (name) }
                @if keys.is_empty() { p.soft { "No API key." } }
                @else { div.scroll { table.stack {
                    (head(&["Key", "Made", "Ends", "Last used"]))
                    tbody { @for one in keys {
                        @let at = one.key.expires_at;
                        tr {
                            td.name data-label="Key" { code { (one.key.id) } }
                            td data-label="Made" { (when(one.key.created_at, now)) }
                            td data-label="Ends" { div {
                                (ends(at, now)) (countdown(Some(at), now)) } }
                            td data-label="Last used" { @match one.last_used_at {
                                Some(at) => (when(at, now)),
                                None => "not since the start",
                            } }
                        }
                    } }
                } } }
                (living(&of_caller(name), now))
            }
        }
    }
}

/// The handles of a caller that live. (Nobody sees one here: they are stored nowhere.)
fn living(handles: &[&LivingHandles], now: Timestamp) -> Markup {
    html! {
        @if !handles.is_empty() {
            h3 { "Handles" }
            div.scroll { table.stack {
                (head(&["Made by key", "Alive", "The last ends", "Last used"]))
                tbody { @for one in handles { tr {
                    td.name data-label="Made by key" { @match &one.api_key {
                        Some(id) => code { (id) },
                        None => "no key",
                    } }
                    td data-label="Alive" { (number(one.alive)) }
                    td data-label="The last ends" { (when(one.ends_at, now)) }
                    td data-label="Last used" { @match one.last_used_at {
                        Some(at) => (when(at, now)),
                        None => "not since the start",
                    } }
                } } }
            } }
            p.soft { "Parts of this caller's relay that it gave on, as far as this replica knows: it made "
                "them, or they were used here since its start." }
        }
    }
}

/// The act on all records.
pub(super) fn rewrap(met: &Met) -> Markup {
    html! {
        form.card method="post" action="/console/keys" {
            h2 { "Rewrap" }
            p { "Seals every record anew that another key than the primary sealed. Nobody waits for it, and "
                "it may be asked for at any time." }
            (csrf(met))
            button type="submit" { "Rewrap now" }
        }
    }
}

/// The act on configuration and secrets.
pub(super) fn reload(met: &Met, last: Option<&Reload>, now: Timestamp) -> Markup {
    html! {
        form.card method="post" action="/console/reload" {
            h2 { "Configuration and secrets" }
            p { "They are read again when their files change. "
                @if let Some(last) = last {
                    "The last time was " (when_text(Some(&last.at), now, "")) ", asked for by "
                    (last.asked_by) "."
                } }
            (csrf(met))
            button type="submit" { "Read them again now" }
        }
    }
}

/// How that ended.
pub(super) fn reloaded(reload: &Reload) -> Markup {
    let listed = |title: &str, lines: &[String]| {
        html! { @if !lines.is_empty() { h2 { (title) } ul { @for line in lines { li { (line) } } } } }
    };
    html! {
        h1 { "Configuration and secrets" }
        section.card role="status" {
            p.big { @match reload.outcome.as_str() {
                "ok" => (tag(Mood::Ok, "read again, and in force")),
                _ => (tag(Mood::Bad, "refused: what was before is in force")),
            } }
            @if reload.outcome == "ok" && reload.changed.is_empty() {
                p { "No section differs from before." }
            }
            (listed("Sections that differ", &reload.changed))
            (listed("What is wrong", &reload.problems))
            (listed("Warnings", &reload.warnings))
            (listed("Not fetched anew", &reload.not_fetched))
            (listed("Not sent to a new host", &reload.held_back))
            p { a href="/console" { "Back to the overview" } }
        }
    }
}

/// The sealing keys and the replicas: the part that follows the daemon.
pub(super) fn keys(keyring: &Keyring, now: Timestamp) -> Markup {
    let rewrap = &keyring.rewrap;
    let sealed_by = |is_primary: bool| {
        let keys = keyring.keys.iter().filter(|key| key.primary == is_primary);
        keys.filter_map(|key| key.records).sum()
    };
    let sealed = [(Mood::Ok, "sealed with the primary", true), (Mood::Warn, "with others", false)];
    let sealed = sealed.map(|(mood, label, is_primary)| Share {
        mood,
        label,
        count: sealed_by(is_primary),
        href: None,
    });
    html! {
        section.card {
            div.scroll { table.stack {
                (head(&["Key", "Role", "Made", "Records", "Who can open"]))
                tbody { @for key in &keyring.keys { (sealing_key(key, now)) } }
            } }
            (stacked(&sealed))
            p { strong { (number(rewrap.left)) } " records are still to be rewrapped."
                @if rewrap.running { " This replica is at it." }
                @if let Some(why) = &rewrap.waits_for { " It waits: " (why) } }
            p.soft { "A key is promoted and retired where its file is: "
                code { "tokenward keyring promote" } ", " code { "tokenward keyring retire" } "." }
        }
        section.card {
            h2 { "Replicas" }
            div.scroll { table.stack {
                (head(&["Replica", "Version", "Seals with", "Reported"]))
                tbody { @for one in &keyring.replicas { tr {
                    td.name data-label="Replica" { div {
                        (one.host) @if one.answers { " " (tag(Mood::Ok, "this one")) }
                        br; small { (one.id) } } }
                    td data-label="Version" { (one.version) }
                    td.name data-label="Seals with" { code { (one.primary) } }
                    td data-label="Reported" { (when_text(Some(&one.reported_at), now, "–")) }
                } } }
            } }
        }
    }
}

fn sealing_key(key: &SealingKey, now: Timestamp) -> Markup {
    html! {
        tr {
            td.name data-label="Key" { code { (key.id) } }
            td data-label="Role" { @match (key.primary, key.created_at.is_some()) {
                (true, _) => (tag(Mood::Ok, "seals")),
                (false, true) => (tag(Mood::Calm, "only opens")),
                (false, false) => (tag(Mood::Bad, "missing")),
            } }
            td data-label="Made" { (when_text(key.created_at.as_deref(), now, "–")) }
            td data-label="Records" { @match key.records {
                Some(records) => (number(records)),
                None => "not counted yet",
            } }
            td.name data-label="Who can open" { div {
                (number(key.opened_by.len() as u64)) " of "
                (number((key.opened_by.len() + key.not_opened_by.len()) as u64))
                @if !key.not_opened_by.is_empty() { br; small { "not " (key.not_opened_by.join(", ")) } }
            } }
        }
    }
}

/// Every code of a refusal.
pub(super) fn codes() -> Markup {
    html! {
        h1 { "What the codes mean" }
        p.soft { "Callers branch on them, and audit and metrics have them: docs/audit.md, Codes." }
        section.card { div.scroll { table.stack {
            (head(&["Code", "What it means"]))
            tbody { @for (code, means) in CODES { tr id=(code) {
                td.name data-label="Code" { code { (code) } }
                td.name data-label="What it means" { (means) }
            } } }
        } } }
    }
}

/// What is to be revoked, as the form has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) app: String,
    pub(super) tenant: String,
    pub(super) caller: String,
}

/// The kill switch: the first step, which only counts.
pub(super) fn revoke(met: &Met, target: &Target, apps: &[String], callers: &[String]) -> Markup {
    let choice = |name: &str, words: &str, all: &[String], chosen: &str| {
        html! { label { (words) select name=(name) {
            option value="" { "any" }
            @for one in all { option value=(one) selected[one == chosen] { (one) } }
        } } }
    };
    html! {
        h1 { "Revoke" }
        p { "Ends every connection that has all of what you choose. Their grants are destroyed, links made "
            "before stop working, and each user must connect again. Tokens already handed out work until "
            "they expire." }
        form.card.row method="post" action="/console/revoke" {
            (csrf(met))
            input type="hidden" name="step" value="count";
            (choice("app", "App", apps, &target.app))
            label { "Tenant id" input type="text" name="tenant" value=(target.tenant) autocomplete="off"; }
            (choice("caller", "Connected by", callers, &target.caller))
            button.main type="submit" { "Count what it would end" }
        }
        p.soft { "Counting changes nothing." }
    }
}

/// The kill switch: what it would end, and the second step.
pub(super) fn would_revoke(met: &Met, target: &Target, meant: Meant) -> Markup {
    html! {
        h1 { "Revoke: what it would end" }
        section.card {
            p.big { (counted(meant)) }
            dl { @for (name, value) in named(target) { dt { (name) } dd { strong { (value) } } } }
        }
        section.card {
            form method="post" action="/console/revoke" {
                (csrf(met))
                input type="hidden" name="step" value="revoke";
                input type="hidden" name="app" value=(target.app);
                input type="hidden" name="tenant" value=(target.tenant);
                input type="hidden" name="caller" value=(target.caller);
                label.check { input type="checkbox" name="sure" value="yes" required;
                    span { "Yes, end " (counted(meant)) " now" } }
                div.acts.flat {
                    button.risk type="submit" { "Revoke" }
                    a.button href="/console/revoke" { "Change nothing" }
                }
            }
        }
    }
}

/// The kill switch: done.
pub(super) fn revoked(target: &Target, meant: Meant) -> Markup {
    html! {
        h1 { "Revoked" }
        section.card role="status" {
            p.big { (counted(meant)) }
            dl { @for (name, value) in named(target) { dt { (name) } dd { strong { (value) } } } }
            p { "Every replica follows within seconds." }
        }
    }
}

fn named(target: &Target) -> impl Iterator<Item = (&'static str, &str)> {
    let all = [("App", &target.app), ("Tenant", &target.tenant), ("Connected by", &target.caller)];
    all.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name, value.as_str()))
}

fn counted(Meant { connections, complete }: Meant) -> String {
    let at_least = if complete { "" } else { "at least " };
    let unit = if connections == 1 { "connection" } else { "connections" };
    format!("{at_least}{} {unit}", number(connections))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::admin::console::sessions::Operator;
    use crate::api::admin::wire::Rejection;
    use crate::domain::auth_method::AuthMethod;

    fn met() -> Met {
        let operator = Operator { name: "ada".to_owned(), proof: AuthMethod::ApiKeys, key: None };
        Met {
            operator,
            csrf: "the-token".to_owned(),
            ends_at: Timestamp::from_unix_seconds(1),
            id: "s".to_owned(),
        }
    }

    /// Every form that changes something is a POST with the session's token.
    fn assert_forms_are_safe(page: &Markup) {
        let forms: Vec<&str> = page.0.split("<form").skip(1).collect();
        assert!(!forms.is_empty());
        for form in forms {
            let form = form.split("</form>").next().expect("an end");
            assert!(
                form.contains("method=\"post\"") && form.contains("name=\"csrf\" value=\"the-token\""),
                "{form}"
            );
        }
    }

    #[test]
    fn a_credential_is_shown_with_its_end_and_why_it_is_rejected() {
        let now = Timestamp::parse_rfc3339("2026-11-23T00:00:00Z").expect("an instant");
        let rejection = Some(Rejection {
            cause: "<b>expired</b>".to_owned(),
            error_codes: vec![7_000_222],
            ..Rejection::default()
        });
        let one = ClientCredential {
            id: "2026-11".to_owned(),
            kind: "secret".to_owned(),
            state: "rejected".to_owned(),
            expires_at: Some("2026-11-28T00:00:00Z".to_owned()),
            in_use: true,
            rejection,
            ..ClientCredential::default()
        };
        let unconfirmed = [("outlook", "login.new.example"), ("other", "not.shown.example")];
        let unconfirmed =
            unconfirmed.map(|(app, host)| (AppName::parse(app).expect("a name"), host.to_owned()));
        let unconfirmed = BTreeMap::from(unconfirmed);
        let page = apps(
            &met(),
            &[AppCredentials { app: "outlook".to_owned(), credentials: vec![one] }],
            &unconfirmed,
            now,
        );
        assert_forms_are_safe(&page);
        for part in
            ["AADSTS7000222", "in 5 days", "tag bad", "&lt;b&gt;expired", "tried first", "login.new.example"]
        {
            assert!(page.0.contains(part), "{part} in {}", page.0);
        }
    }

    #[test]
    fn nothing_is_revoked_before_it_was_counted_and_meant() {
        let target = Target { app: "outlook".to_owned(), tenant: "\"><b>".to_owned(), caller: String::new() };
        let names = ["outlook".to_owned()];
        let first = revoke(&met(), &target, &names, &names);
        assert_forms_are_safe(&first);
        assert!(first.0.contains("value=\"count\"") && !first.0.contains("value=\"revoke\""));
        let second = would_revoke(&met(), &target, Meant { connections: 10_000, complete: false });
        assert_forms_are_safe(&second);
        assert!(second.0.contains("at least 10,000 connections") && second.0.contains("required"));
        assert!(!second.0.contains("<b>") && !second.0.contains("Connected by"));
        assert_eq!(counted(Meant { connections: 1, complete: true }), "1 connection");
    }
}
