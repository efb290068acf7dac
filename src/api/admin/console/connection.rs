//! One connection: what it is, its timeline, what to do, and the acts.

use maud::{Markup, html};

use super::charts::{Point, timeline};
use super::layout::{Mood, csrf, head, status_words, tag, when};
use super::sessions::Met;
use crate::broker::admin_consent::StartedConsent;
use crate::broker::connect::StartedSession;
use crate::broker::inspect::Shown;
use crate::domain::connection::{Attempt, Status};
use crate::domain::id::{CallerName, ConnectionKey};
use crate::domain::time::Timestamp;

/// What is known of a connection.
pub(super) struct Known {
    pub(super) shown: Shown,
    /// Oldest first.
    pub(super) attempts: Vec<Attempt>,
    /// The callers to which this replica handed its tokens out, and when each got one last.
    pub(super) hand_outs: Vec<(CallerName, Timestamp)>,
    pub(super) advice: String,
    pub(super) now: Timestamp,
}

/// What happened to it and what comes next, oldest first, with the attempts among it.
fn points(known: &Known) -> Vec<(Point, Option<&Attempt>)> {
    let profile = &known.shown.profile;
    let plain = |at, mood, words: String| (Point { at, mood, words }, None);
    let signed_in = format!("signed in, by {}", profile.connected_by());
    let is_sign_in = |attempt: &Attempt| attempt.action == "connect" && attempt.outcome == "ok";
    // Of the earlier ones it is not known for which caller they were.
    let last = known.attempts.iter().rposition(is_sign_in);
    let mut points: Vec<_> = known
        .attempts
        .iter()
        .enumerate()
        .map(|(at, attempt)| {
            let words = match is_sign_in(attempt) {
                true if Some(at) == last => signed_in.clone(),
                true => "signed in".to_owned(),
                false => format!("{}: {}", attempt.action, attempt.outcome),
            };
            (Point { at: attempt.at, mood: mood_of_outcome(&attempt.outcome), words }, Some(attempt))
        })
        .collect();
    if profile.created_at() < profile.connected_at() {
        points.push(plain(profile.created_at(), Mood::Calm, "first connected".to_owned()));
    }
    if last.is_none() {
        points.push(plain(profile.connected_at(), Mood::Calm, signed_in));
    }
    let refreshed = profile.last_refreshed_at();
    if refreshed > profile.connected_at() && !known.attempts.iter().any(|attempt| attempt.at == refreshed) {
        points.push(plain(refreshed, Mood::Ok, "last refreshed".to_owned()));
    }
    for (caller, at) in &known.hand_outs {
        points.push(plain(*at, Mood::Calm, format!("last handed out to {caller}")));
    }
    if let Some(next) = known.shown.next_refresh_at
        && next > known.now
    {
        points.push(plain(next, Mood::Calm, "next refresh".to_owned()));
    }
    points.sort_by_key(|(point, _)| point.at);
    points
}

fn mood_of_outcome(outcome: &str) -> Mood {
    match outcome {
        "ok" => Mood::Ok,
        "reauthorize" | "blocked" => Mood::Bad,
        _ => Mood::Warn,
    }
}

/// The part of the page that follows the daemon.
pub(super) fn region(known: &Known) -> Markup {
    let (shown, now) = (&known.shown, known.now);
    let profile = &shown.profile;
    let status = profile.status();
    let account = profile.account();
    let points = points(known);
    let drawn: Vec<Point> = points.iter().map(|(point, _)| point.clone()).collect();
    html! {
        section.card {
            p.big {
                (tag(Mood::of_status(status.as_str()), status_words(status.as_str())))
                @if let Some(reason) = status.reason() { " " code { (reason) } }
            }
            p { (known.advice) }
        }
        section.card {
            h2 { "Timeline" }
            (timeline(&drawn, now))
            (listed(&points, now))
            p.soft { "Hand-outs are the last to each caller by this replica, as far as it remembers. "
                code { "tokenward audit who " (shown.key.app) " " (shown.key.connection) }
                " knows all of them." }
        }
        section.card {
            h2 { "What it is" }
            dl {
                dt { "Account" } dd { (account.username.as_deref().unwrap_or("not told")) }
                @if let Some(tid) = &account.tid { dt { "Tenant" } dd { code { (tid) } } }
                @if let Some(oid) = &account.oid { dt { "Object id" } dd { code { (oid) } } }
                @if account.tid.is_none() {
                    dt { "Subject" } dd { code { (account.sub) } " at " code { (account.iss) } }
                }
                dt { "Connected by" } dd { (profile.connected_by()) }
                dt { "Connected" } dd { (when(profile.connected_at(), now)) }
                dt { "Last refreshed" } dd { (when(profile.last_refreshed_at(), now)) }
                @if let Some(next) = shown.next_refresh_at { dt { "Next refresh" } dd { (when(next, now)) } }
                dt { "Scopes granted" } dd { (profile.scopes_granted().join(" ")) }
                @if !shown.scopes_missing.is_empty() {
                    dt { "Asked, not granted" } dd { (shown.scopes_missing.join(" ")) }
                }
            }
        }
    }
}

fn listed(points: &[(Point, Option<&Attempt>)], now: Timestamp) -> Markup {
    html! {
        div.scroll { table.stack {
            (head(&["When", "What", "Conclusion"]))
            tbody { @for (point, attempt) in points.iter().rev() {
                tr {
                    td data-label="When" { (when(point.at, now)) }
                    td data-label="What" { (tag(point.mood, &point.words)) }
                    td.name data-label="Conclusion" { @if let Some(one) = attempt { div {
                        (one.conclusion)
                        @if let Some(error) = &one.answer.error { " " code { (error) } }
                        @for number in &one.answer.error_codes { " " code { "AADSTS" (number) } }
                        @if let Some(trace) = &one.answer.trace_id { br; small { "trace id " (trace) } }
                    } } @else { "–" } }
                }
            } }
        } }
    }
}

/// The acts, each a form.
pub(super) fn acts(met: &Met, key: &ConnectionKey, status: Status) -> Markup {
    let hidden = html! {
        (csrf(met))
        input type="hidden" name="app" value=(key.app);
        input type="hidden" name="connection" value=(key.connection);
    };
    let plain = |act: &str, words: &str, class: &str| {
        html! { form method="post" action="/console/connection" {
            (hidden) input type="hidden" name="act" value=(act);
            button class=(class) type="submit" { (words) }
        } }
    };
    let is_paused = status == Status::Paused;
    html! {
        section.card aria-label="Acts" {
            h2 { "What you can do" }
            div.acts {
                @if is_paused { (plain("resume", "Resume", "main")) }
                @else {
                    @let (refresh, reconnect) = match status {
                        Status::NeedsReauthorization { .. } => ("", "main"),
                        _ => ("main", ""),
                    };
                    (plain("refresh", "Refresh now", refresh))
                    (plain("reconnect", "Make a reconnect link", reconnect))
                    @if matches!(status, Status::Blocked { .. }) {
                        (plain("admin_consent", "Make an administrator's link", ""))
                    }
                    (plain("pause", "Pause", ""))
                }
                details {
                    summary { "Delete…" }
                    form method="post" action="/console/connection" {
                        (hidden) input type="hidden" name="act" value="delete";
                        p.soft { "The grant is destroyed, and the user must connect again. Tokens already "
                            "handed out work until they expire." }
                        label.check { input type="checkbox" name="sure" value="yes" required;
                            span { "Yes, delete " strong { (key.connection) } } }
                        button.risk type="submit" { "Delete it" }
                    }
                }
            }
        }
    }
}

/// For a name that is paused without a connection.
pub(super) fn resume_name(met: &Met, key: &ConnectionKey) -> Markup {
    html! {
        form method="post" action="/console/connection" {
            (csrf(met))
            input type="hidden" name="app" value=(key.app);
            input type="hidden" name="connection" value=(key.connection);
            input type="hidden" name="act" value="resume";
            button.main type="submit" { "Resume the name" }
        }
    }
}

/// The page after a reconnect link was made.
pub(super) fn link(back: &str, started: &StartedSession, now: Timestamp) -> Markup {
    html! {
        h1 { "A reconnect link" }
        section.card {
            p { "Send it to the user. It works once, for the account that the connection has, and ends "
                (when(started.expires_at, now)) "." }
            p { label { "Link" input id="link" type="text" readonly value=(started.connect_url); } }
            p { button type="button" hidden data-copy="link" { "Copy" } }
            p { a href=(back) { "Back to the connection" } }
        }
    }
}

/// The page after a link for an administrator was made.
pub(super) fn admin_link(back: &str, started: &StartedConsent, now: Timestamp) -> Markup {
    html! {
        h1 { "An administrator's link" }
        section.card {
            p { "Send it to an administrator of the user's tenant. Whoever opens it approves the app there "
                "for everyone. It ends " (when(started.expires_at, now)) "." }
            p { label { "Link" input id="link" type="text" readonly value=(started.admin_consent_url); } }
            p { button type="button" hidden data-copy="link" { "Copy" } }
            p { a href=(back) { "Back to the connection" } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_looks_as_bad_as_it_is() {
        for (outcome, mood) in [
            ("ok", Mood::Ok),
            ("reauthorize", Mood::Bad),
            ("blocked", Mood::Bad),
            ("unavailable", Mood::Warn),
            ("what nobody knows", Mood::Warn),
        ] {
            assert_eq!(mood_of_outcome(outcome), mood, "{outcome}");
        }
    }
}
