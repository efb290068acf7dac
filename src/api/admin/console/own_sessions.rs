//! The sessions that an operator has in the console: when each began, from where, when it was last used, and
//! its end. Ending takes rights away and gives none, so nobody is asked again who it is.

use maud::{Markup, html};

use super::layout::{Mood, csrf, head, tag, when};
use super::sessions::{Met, Seen};
use super::{Answer, Console, Visit, redirect};
use crate::api::problem::Problem;
use crate::domain::auth_method::AuthMethod;
use crate::domain::time::Timestamp;
use crate::events::About;
use crate::listener::{Origin, Pairs};

impl Console {
    /// The sessions of a session's operator, but for those whose proof counts no more.
    pub(super) async fn own_sessions(&self, met: &Met) -> Vec<Seen> {
        let mut all = Vec::new();
        for seen in self.api.consoles.sessions.of(&met.operator.name, self.api.clock.now()) {
            if self.is_still(&seen.operator).await {
                all.push(seen);
            }
        }
        all
    }

    /// Ends one of them, or all the others.
    pub(super) async fn act_on_own_sessions(&self, visit: &Visit<'_>, form: &Pairs) -> Answer {
        let (met, sessions) = (visit.met, &self.api.consoles.sessions);
        let name = &met.operator.name;
        let said = match form.value("act") {
            Some("end") => {
                let wanted = form.value("session").unwrap_or_default();
                sessions.end_of(name, |id| id == wanted);
                "ended"
            }
            Some("end_others") => {
                sessions.end_of(name, |id| id != met.id);
                "others_ended"
            }
            _ => return Err(Problem::invalid("act", "is none of this page's")),
        };
        self.api.events.operated(visit.who, name, "console_end", "ok", About::default()).await;
        Ok(redirect(&format!("/console/sessions?done={said}")))
    }
}

/// The page.
pub(super) fn page(met: &Met, all: &[Seen], now: Timestamp) -> Markup {
    html! {
        h1 { "Your sessions" }
        p.soft { "Those of " strong { (met.operator.name) } " in the console of this replica. A session ends "
            "after 30 minutes without a request, after 8 hours, and with the API key that opened it." }
        section.card {
            div.scroll { table.stack {
                (head(&["Session", "Opened", "From", "Last used", "Acts"]))
                tbody { @for one in all { (row(met, one, now)) } }
            } }
            @if all.len() > 1 {
                form method="post" action="/console/sessions" {
                    (csrf(met))
                    input type="hidden" name="act" value="end_others";
                    button.risk type="submit" { "End all others" }
                }
            }
        }
    }
}

fn row(met: &Met, one: &Seen, now: Timestamp) -> Markup {
    html! {
        tr {
            td.name data-label="Session" { div {
                code { (one.id) }
                @if one.id == met.id { " " (tag(Mood::Ok, "this one")) }
                br; small { (proof(one)) }
            } }
            td data-label="Opened" { (when(one.opened_at, now)) }
            td data-label="From" { (place(one.from)) }
            td data-label="Last used" { (when(one.seen_at, now)) }
            td data-label="Acts" {
                @if one.id == met.id { "–" } @else {
                    form method="post" action="/console/sessions" {
                        (csrf(met))
                        input type="hidden" name="act" value="end";
                        input type="hidden" name="session" value=(one.id);
                        button.small type="submit" aria-label={ "End it: session " (one.id) } { "End it" }
                    }
                }
            }
        }
    }
}

fn place(from: Origin) -> String {
    match from {
        Origin::Unix { .. } => "this machine".to_owned(),
        Origin::Tcp(address) => address.ip().to_canonical().to_string(),
    }
}

fn proof(one: &Seen) -> String {
    match (one.operator.proof, &one.operator.key) {
        (_, Some(key)) => format!("API key {key}"),
        (AuthMethod::UnixUser, _) => "Unix user".to_owned(),
        (proof, _) if proof.needs_certificate() => "client certificate".to_owned(),
        (proof, _) => proof.as_str().to_owned(),
    }
}
