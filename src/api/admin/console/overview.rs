//! The first page: are callers served, is Microsoft answering, what ends next, and the store.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::LOOK_BACK;
use super::charts::{Share, stacked};
use super::layout::{Mood, code_link, ends, head, href, number, status_words, tag, the_last, when_text};
use crate::api::admin::wire::{ClientCredential, Ending, Status, Webhook};
use crate::api::problem::meaning;
use crate::api::upkeep::Traffic;
use crate::broker::inspect::{Counts, STATUSES};
use crate::domain::forecast::Summary;
use crate::domain::time::Timestamp;
use crate::domain::verdict::Disposition;
use crate::refresh::OpenBreaker;

/// What says that the authority did not answer, or not as it should.
const SILENT: [Disposition; 2] = [Disposition::RetryAfter(None), Disposition::OutcomeUnknown];

/// What the page shows.
pub(super) struct Overview {
    pub(super) status: Status,
    pub(super) counts: Counted,
    pub(super) traffic: Option<Between>,
    pub(super) open_breakers: Vec<OpenBreaker>,
    /// What the last walk over all connections foresaw, if it is known.
    pub(super) forecast: Option<Summary>,
    pub(super) now: Timestamp,
}

/// The connections by app and status, as far as they are known.
pub(super) enum Counted {
    Known(Counts),
    NotYet,
    Unavailable,
}

/// What happened between two looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Between {
    pub(super) since: Timestamp,
    pub(super) served: u64,
    pub(super) refused: BTreeMap<String, u64>,
    pub(super) authority: BTreeMap<String, u64>,
}

impl Between {
    /// The difference of two looks; `None` where the counters began anew.
    pub(super) fn of(since: Timestamp, before: &Traffic, after: &Traffic) -> Option<Self> {
        let difference = |before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>| {
            let one = |(word, count): (&String, &u64)| {
                Some((word.clone(), count.checked_sub(before.get(word).copied().unwrap_or(0))?))
            };
            let all: Option<BTreeMap<String, u64>> = after.iter().map(one).collect();
            all.map(|all| all.into_iter().filter(|(_, count)| *count > 0).collect::<BTreeMap<_, _>>())
        };
        let mut tokens = difference(&before.tokens, &after.tokens)?;
        let served = tokens.remove("ok").unwrap_or(0);
        let authority = difference(&before.authority, &after.authority)?;
        Some(Between { since, served, refused: tokens, authority })
    }
}

/// An answer to one of the page's questions.
struct Card {
    question: &'static str,
    mood: Mood,
    answer: String,
    more: Markup,
}

/// The part of the page that follows the daemon.
pub(super) fn region(view: &Overview) -> Markup {
    let cards = [callers(view), microsoft(view), ends_next(view), store(view)];
    html! {
        div.grid {
            @for card in &cards {
                section.card {
                    h2 { (card.question) }
                    p.big { (tag(card.mood, &card.answer)) }
                    (card.more)
                }
            }
        }
        (connections(view))
        (refusals(view))
        (trouble(view))
        (foreseen(view))
        (webhooks(view))
        (notes(&view.status, view.now))
        section.card {
            h2 { "Secrets that end" }
            (endings(&view.status.ends_next, view.now))
        }
        p.soft { "tokenward " (view.status.version) ", as of "
            time data-as-of datetime=(view.now.rfc3339()) { (view.now.rfc3339()) } }
    }
}

fn callers(view: &Overview) -> Card {
    let waits = &view.status.waiting_for;
    let is_lost = view.status.store.as_ref().is_some_and(|store| !store.reachable);
    let refused: u64 = view.traffic.iter().flat_map(|traffic| traffic.refused.values()).sum();
    let (mood, answer) = match (waits.is_empty(), is_lost) {
        (false, _) => (Mood::Bad, format!("no: waits for {}", waits.join(", "))),
        (true, true) => (Mood::Warn, "from memory only".to_owned()),
        (true, false) => (Mood::Ok, "yes".to_owned()),
    };
    let more = html! {
        @if let Some(traffic) = &view.traffic {
            p { strong { (number(traffic.served)) } " tokens served, " strong { (number(refused)) }
                " requests refused in " (the_last(traffic.since, view.now)) "." }
        } @else {
            p.soft { "Figures follow with the next look." }
        }
    };
    Card { question: "Are callers served?", mood, answer, more }
}

fn microsoft(view: &Overview) -> Card {
    let all = || view.status.apps.iter().flat_map(|app| app.credentials.iter().map(move |one| (app, one)));
    let accepted = all().filter_map(|(_, one)| one.accepted_at.as_deref()).max();
    let rejected: Vec<(&str, &ClientCredential)> = all()
        .filter(|(_, one)| one.rejection.is_some() && one.in_use)
        .map(|(app, one)| (app.app.as_str(), one))
        .collect();
    let calls = view.traffic.as_ref().map(|traffic| &traffic.authority);
    let total: u64 = calls.iter().flat_map(|calls| calls.values()).sum();
    let came_to = |one: Disposition| calls.and_then(|calls| calls.get(one.as_str())).copied().unwrap_or(0);
    let silent: u64 = SILENT.into_iter().map(came_to).sum();
    let app_rejected = came_to(Disposition::Misconfigured);
    let is_lately =
        accepted.and_then(Timestamp::parse_rfc3339).is_some_and(|at| view.now.since(at) < LOOK_BACK);
    let (mood, answer) = match (rejected.is_empty(), total, silent) {
        (false, ..) => (Mood::Bad, "it rejects a credential".to_owned()),
        (true, 1.., silent) if silent * 2 >= total => (Mood::Bad, "it mostly does not answer".to_owned()),
        (true, 1.., 1..) => (Mood::Warn, "some calls get no answer".to_owned()),
        (true, 1.., 0) if app_rejected > 0 => (Mood::Bad, "it rejects the app".to_owned()),
        (true, 1.., 0) => (Mood::Ok, "yes".to_owned()),
        (true, 0, _) if is_lately => (Mood::Ok, "yes".to_owned()),
        (true, 0, _) if accepted.is_some() => (Mood::Ok, "nothing was asked of late".to_owned()),
        (true, 0, _) => (Mood::Calm, "not asked yet".to_owned()),
    };
    let more = html! {
        @if accepted.is_some() {
            p { "It last took a credential " (when_text(accepted, view.now, "")) "." }
        } @else {
            p { "It was shown no credential since this replica's start." }
        }
        @if total > 0 {
            p.soft { @for (outcome, count) in calls.into_iter().flatten() {
                code { (outcome) } " " (number(*count)) " "
            } }
        }
        @for (app, one) in rejected {
            p { a href="/console/apps" { (app) ", " (one.id) } ": "
                (one.rejection.as_ref().map_or("", |no| no.cause.as_str())) }
        }
    };
    Card { question: "Is the authority answering?", mood, answer, more }
}

fn ends_next(view: &Overview) -> Card {
    let question = "What ends next?";
    let Some(first) = view.status.ends_next.iter().find(|one| one.ends_at.is_some()) else {
        let more = html! { p.soft { "No secret has a known end." } };
        return Card { question, mood: Mood::Calm, answer: "nothing known".to_owned(), more };
    };
    let at = first.ends_at.as_deref().and_then(Timestamp::parse_rfc3339);
    let answer = at.map_or_else(|| "unknown".to_owned(), |at| super::layout::relative(at, view.now));
    let more = html! { p { (first.what) " " strong { (first.id) } " of " (first.of) } };
    Card { question, mood: Mood::of_end(at, view.now), answer, more }
}

fn store(view: &Overview) -> Card {
    let lost = view.status.store.as_ref().filter(|store| !store.reachable);
    let (mood, answer) = match lost {
        None => (Mood::Ok, "yes".to_owned()),
        Some(_) => (Mood::Bad, "no".to_owned()),
    };
    let more = html! {
        @match lost {
            Some(store) => {
                p { "It last answered " (when_text(store.answered_at.as_deref(), view.now, "never")) "." }
                @match store.cached_until.as_deref() {
                    Some(until) => p {
                        "Tokens in memory are served until " (when_text(Some(until), view.now, "")) "."
                    },
                    None => p { "Tokens in memory are served while they live." },
                }
            }
            None => p.soft { "New refresh tokens are durable before anything else happens." },
        }
    };
    Card { question: "Does the store answer?", mood, answer, more }
}

fn connections(view: &Overview) -> Markup {
    html! {
        section.card {
            h2 { "Connections" }
            @match &view.counts {
                Counted::Known(counts) => @for (app, shares) in by_app(counts) {
                    p { strong { (app) } " " span.soft {
                        (number(shares.iter().map(|share| share.count).sum())) " connections" } }
                    (stacked(&shares))
                },
                Counted::NotYet => p.soft {
                    "They are being counted for the first time. "
                    a href="/console/connections" { "See them" } "."
                },
                Counted::Unavailable => p.soft { "The store does not say now." },
            }
        }
    }
}

fn by_app(counts: &Counts) -> Vec<(&str, Vec<Share<'static>>)> {
    let apps: std::collections::BTreeSet<&str> =
        counts.by_status.keys().map(|(app, _)| app.as_str()).collect();
    let share = |app: &str, status: &'static str| {
        let count = counts.by_status.iter().find(|((of, with), _)| of.as_str() == app && *with == status);
        Share {
            mood: Mood::of_status(status),
            label: status_words(status),
            count: count.map_or(0, |(_, count)| *count),
            href: Some(href("/console/connections", &[("app", app), ("status", status)])),
        }
    };
    apps.into_iter().map(|app| (app, STATUSES.map(|status| share(app, status)).into())).collect()
}

/// What callers were refused lately, and what that means.
fn refusals(view: &Overview) -> Markup {
    let refused = view.traffic.as_ref().map(|traffic| &traffic.refused).filter(|refused| !refused.is_empty());
    html! {
        @if let Some(refused) = refused { section.card {
            h2 { "Recent refusals" }
            div.scroll { table.stack {
                (head(&["Code", "Requests", "What it means"]))
                tbody { @for (code, count) in refused { tr {
                    td.name data-label="Code" { (code_link(code)) }
                    td data-label="Requests" { (number(*count)) }
                    td.name data-label="What it means" {
                        (meaning(code).unwrap_or("A dialect's own word; the audit stream has the request."))
                    }
                } } }
            } }
        } }
    }
}

/// The tenants for which the authority is not called, and those that block the app.
fn trouble(view: &Overview) -> Markup {
    let (open_breakers, blocked) = (&view.open_breakers, &view.status.tenants_blocked);
    let link = |app: &str, tenant: &str| {
        html! {
            a href=(href("/console/connections", &[("app", app), ("tenant", tenant)])) { (tenant) }
        }
    };
    html! {
        @if !open_breakers.is_empty() || !blocked.is_empty() { section.card {
            h2 { "Tenants with trouble" }
            @if !blocked.is_empty() {
                p.soft { "A tenant that blocks the app is its administrator's to mend. One connection tries "
                    "for all of it, and all are tried at once when it works." }
            }
            @if !open_breakers.is_empty() {
                p.soft { "Where the authority failed, or asked to wait, a call tries again from time to "
                    "time. Tokens that live are served." }
            }
            div.scroll { table.stack {
                (head(&["App", "Tenant", "Why"]))
                tbody {
                    @for one in blocked { tr {
                        td.name data-label="App" { (one.app) }
                        td.name data-label="Tenant" { @match one.tenant.as_str() {
                            "" => "all users",
                            tenant => (link(&one.app, tenant)),
                        } }
                        td.name data-label="Why" { (tag(Mood::Bad, &one.reason.replace('_', " "))) " since "
                            (when_text(Some(&one.since), view.now, "")) ", "
                            @match one.connections {
                                0 => "for tokens of the app's own",
                                some => { (number(some)) " connections at least" }
                            } }
                    } }
                    @for one in open_breakers { tr {
                        td.name data-label="App" { (one.app) }
                        td.name data-label="Tenant" { @match one.tenant.as_deref() {
                            None => (tag(Mood::Bad, "all of them")),
                            Some("") => "not known",
                            Some(tenant) => (link(one.app.as_str(), tenant)),
                        } }
                        td.name data-label="Why" { (one.why) }
                    } }
                }
            } }
        } }
    }
}

/// For how many connections somebody will have to act soon.
fn foreseen(view: &Overview) -> Markup {
    let Some(forecast) = view.forecast.as_ref().filter(|forecast| !forecast.rows.is_empty()) else {
        return html! {};
    };
    html! {
        section.card {
            h2 { "Who will have to act within a week" }
            ul { @for (app, reason, count) in &forecast.totals {
                li { strong { (app) } ": " (reason.as_str().replace('_', " "))
                    @if *count > 0 { ", " (number(*count)) " connections" } }
            } }
            p.soft { a href="/console/forecast" { "By tenant, and how sure it is" } ", as of "
                (when_text(Some(&forecast.walked_at.rfc3339()), view.now, "")) "." }
        }
    }
}

/// Whether each webhook takes events.
fn webhooks(view: &Overview) -> Markup {
    let all = &view.status.webhooks;
    html! {
        @if !all.is_empty() { section.card {
            h2 { "Webhooks" }
            div.scroll { table.stack {
                (head(&["Webhook", "Takes events", "Oldest that waits", "Never delivered"]))
                tbody { @for one in all { tr {
                    td.name data-label="Webhook" { strong { (one.name) } }
                    td data-label="Takes events" { (takes(one, view.now)) }
                    @if is_known(one) {
                        td data-label="Oldest that waits" {
                            (when_text(one.oldest_waiting_at.as_deref(), view.now, "none"))
                        }
                        td data-label="Never delivered" { (number(one.undelivered)) }
                    } @else {
                        td data-label="Oldest that waits" { "not known" }
                        td data-label="Never delivered" { "not known" }
                    }
                } } }
            } }
            p.soft { "An event that is not taken is tried again for three days." }
        } }
    }
}

/// Whether it is known how far a webhook is.
fn is_known(one: &Webhook) -> bool {
    one.state != "unknown"
}

fn takes(one: &Webhook, now: Timestamp) -> Markup {
    let since = when_text(one.failing_since.as_deref(), now, "");
    html! { @match one.state.as_str() {
        "takes" => (tag(Mood::Ok, "yes")),
        "fails" => div { (tag(Mood::Bad, "no")) br;
            small { (one.problem.as_deref().unwrap_or_default()) "; the first failure was " (since) } },
        "gone" => div { (tag(Mood::Bad, "it says that it is gone (410)")) br;
            small { "The first failure was " (since) } },
        "left_out" => (tag(Mood::Bad, "left out: a file of it is wrong")),
        _ => (tag(Mood::Calm, "not known now")),
    } }
}

/// What an operator should know: notes, jobs that failed, a refused reload.
fn notes(status: &Status, now: Timestamp) -> Markup {
    let failed = status.jobs.iter().filter(|job| job.outcome.as_deref() == Some("failed"));
    let refused = status.last_reload.as_ref().filter(|reload| reload.outcome != "ok");
    html! {
        @if !status.notes.is_empty() || failed.clone().next().is_some() || refused.is_some() {
            section.card {
                h2 { "What you should know" }
                ul {
                    @for (part, what) in &status.notes { li { strong { (part) } ": " (what) } }
                    @for job in failed {
                        li { strong { (job.job) } " failed " (when_text(job.last_run_at.as_deref(), now, ""))
                            ": " (job.problem.as_deref().unwrap_or_default()) }
                    }
                    @if let Some(reload) = refused {
                        li { strong { "configuration" } " refused " (when_text(Some(&reload.at), now, ""))
                            "; the one before is in force" ul {
                            @for problem in &reload.problems { li { (problem) } } } }
                    }
                }
            }
        }
    }
}

fn endings(all: &[Ending], now: Timestamp) -> Markup {
    html! {
        @if all.is_empty() { p.soft { "Nothing ends that is known here." } }
        @else { div.scroll { table.stack {
            (head(&["Ends", "What", "Of", "Id"]))
            tbody { @for one in all.iter().take(12) {
                @let at = one.ends_at.as_deref().and_then(Timestamp::parse_rfc3339);
                tr {
                    td data-label="Ends" { @match at {
                        Some(at) => (ends(at, now)),
                        None => (tag(Mood::Warn, "nobody said when")),
                    } }
                    td data-label="What" { (one.what) }
                    td.name data-label="Of" { (one.of) }
                    td.name data-label="Id" { (one.id) }
                }
            } }
        } } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::admin::wire::{AppCredentials, Rejection, Store, TenantBlocked};
    use crate::domain::forecast::{Certainty, Reason, Row, Rows};

    fn traffic(tokens: &[(&str, u64)], authority: &[(&str, u64)]) -> Traffic {
        let counts =
            |all: &[(&str, u64)]| all.iter().map(|(word, count)| ((*word).to_owned(), *count)).collect();
        Traffic { tokens: counts(tokens), authority: counts(authority) }
    }

    fn view(authority: &[(&str, u64)]) -> Overview {
        let (then, now) = (Timestamp::from_unix_seconds(1_000), Timestamp::from_unix_seconds(1_060));
        let between = Between::of(then, &Traffic::default(), &traffic(&[("ok", 7)], authority));
        let status = Status { version: "0.1.0".to_owned(), ..Status::default() };
        Overview {
            status,
            counts: Counted::NotYet,
            traffic: between,
            open_breakers: Vec::new(),
            forecast: None,
            now,
        }
    }

    #[test]
    fn what_happened_between_two_looks_is_the_difference() {
        let since = Timestamp::from_unix_seconds(1);
        let before = traffic(&[("ok", 5), ("not_found", 2)], &[("ok", 1)]);
        let after = traffic(&[("ok", 9), ("not_found", 2), ("forbidden", 1)], &[("ok", 4)]);
        let between = Between::of(since, &before, &after).expect("both are of one start");
        assert_eq!(between.served, 4);
        assert_eq!(between.refused, BTreeMap::from([("forbidden".to_owned(), 1)]));
        assert_eq!(between.authority, BTreeMap::from([("ok".to_owned(), 3)]));
        assert_eq!(Between::of(since, &after, &before), None);
    }

    #[test]
    fn each_question_has_an_answer_for_each_state() {
        let rows: [(&[(&str, u64)], &str); 6] = [
            (&[], "not asked yet"),
            (&[("ok", 3)], "yes"),
            (&[("ok", 3), ("reauthorize", 9)], "yes"),
            (&[("ok", 3), ("unavailable", 1)], "some calls get no answer"),
            (&[("ok", 3), ("unavailable", 2), ("outcome_unknown", 1)], "it mostly does not answer"),
            (&[("ok", 3), ("app_rejected", 1)], "it rejects the app"),
        ];
        for (authority, answer) in rows {
            assert_eq!(microsoft(&view(authority)).answer, answer, "{authority:?}");
        }
        let mut rejecting = view(&[("ok", 3)]);
        let rejection =
            Some(Rejection { cause: "the secret has expired".to_owned(), ..Rejection::default() });
        let one = ClientCredential { in_use: true, rejection, ..ClientCredential::default() };
        rejecting.status.apps = vec![AppCredentials { app: "outlook".to_owned(), credentials: vec![one] }];
        assert_eq!(microsoft(&rejecting).answer, "it rejects a credential");
        assert!(region(&rejecting).into_string().contains("the secret has expired"));

        let text = region(&view(&[])).into_string();
        assert!(text.contains("shown no credential since") && !text.contains("last took"), "{text}");
        assert_eq!(callers(&view(&[])).answer, "yes");
        let mut lost = view(&[]);
        lost.status.store = Some(Store {
            id: None,
            answered_at: Some(Timestamp::from_unix_seconds(1_000).rfc3339()),
            cached_until: Some(Timestamp::from_unix_seconds(1_300).rfc3339()),
            reachable: false,
        });
        assert_eq!(
            (callers(&lost).answer.as_str(), store(&lost).answer.as_str()),
            ("from memory only", "no")
        );
        assert!(region(&lost).into_string().contains("in 4 minutes"));
        lost.status.waiting_for = vec!["store".to_owned()];
        assert_eq!(callers(&lost).answer, "no: waits for store");
    }

    #[test]
    fn a_tenant_with_trouble_is_named_with_the_reason() {
        let mut troubled = view(&[]);
        assert!(!region(&troubled).into_string().contains("Tenants with trouble"));
        let app = crate::domain::id::AppName::parse("outlook").expect("a name");
        let open = |tenant: Option<&str>, why: &str| OpenBreaker {
            app: app.clone(),
            tenant: tenant.map(str::to_owned),
            why: why.to_owned(),
        };
        troubled.open_breakers =
            vec![open(None, "the app is rejected"), open(Some("a-tenant"), "<b>503</b>")];
        let text = region(&troubled).into_string();
        for part in ["all of them", "the app is rejected", "tenant=a-tenant", "&lt;b&gt;503"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_tenant_that_blocks_and_what_is_foreseen_have_their_rows() {
        let mut known = view(&[]);
        let blocked = |tenant: &str, connections: u64| TenantBlocked {
            app: "outlook".to_owned(),
            connections,
            reason: "policy_blocked".to_owned(),
            since: Timestamp::from_unix_seconds(1_000).rfc3339(),
            tenant: tenant.to_owned(),
        };
        known.status.tenants_blocked = vec![blocked("<t>", 1234), blocked("u", 0)];
        assert!(!region(&known).into_string().contains("within a week"));
        let mut rows = Rows::new();
        rows.insert(Row {
            app: "outlook".to_owned(),
            tenant: None,
            reason: Reason::SignInFrequency,
            certainty: Certainty::Likely,
            from: Timestamp::from_unix_seconds(2_000),
            to: Timestamp::from_unix_seconds(3_000),
            connections: 77,
            examples: vec![],
            detail: None,
        });
        known.forecast = Some(rows.summary(Timestamp::from_unix_seconds(1_000), 9));
        let text = region(&known).into_string();
        for part in [
            "policy blocked",
            "1,234 connections at least",
            "for tokens of the app's own",
            "tenant=%3Ct%3E",
            "sign in frequency",
            "77 connections",
            "/console/forecast",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn each_webhook_says_whether_it_takes_events() {
        let mut known = view(&[]);
        assert!(!region(&known).into_string().contains("Webhooks"));
        let of = |name: &str, state: &str, since: Option<i64>| Webhook {
            name: name.to_owned(),
            state: state.to_owned(),
            failing_since: since.map(|at| Timestamp::from_unix_seconds(at).rfc3339()),
            problem: since.map(|_| "<it> answered 503".to_owned()),
            undelivered: 1234,
            ..Webhook::default()
        };
        known.status.webhooks = vec![
            of("a", "takes", None),
            of("b", "fails", Some(1_000)),
            of("c", "gone", Some(1_000)),
            of("d", "left_out", None),
            of("e", "unknown", None),
        ];
        let text = region(&known).into_string();
        for part in [
            "&lt;it&gt; answered 503",
            "says that it is gone (410)",
            "left out: a file of it is wrong",
            "not known now",
            "1,234",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let told = |what: &str| text.matches(what).count();
        assert_eq!((told("<td data-label=\"Never delivered\">not known"), told("1,234")), (1, 4), "{text}");
    }

    #[test]
    fn connections_are_shown_by_status_with_links_to_their_lists() {
        let app = crate::domain::id::AppName::parse("outlook").expect("a name");
        let mut known = view(&[]);
        let counts = [("active", 1_234_567), ("blocked", 1), ("needs_reauthorization", 0), ("paused", 0)];
        let by_status = counts.into_iter().map(|(status, count)| ((app.clone(), status), count)).collect();
        known.counts = Counted::Known(Counts { by_status });
        let text = region(&known).into_string();
        for part in
            ["1,234,567", "1,234,568 connections", "/console/connections?app=outlook&amp;status=blocked"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
