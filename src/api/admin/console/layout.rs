//! What all pages share: the frame around them, and their small parts. `maud` escapes everything that is put
//! into a page; nothing here goes around it.

use std::time::Duration;

use maud::{DOCTYPE, Markup, html};

use super::sessions::Met;
use crate::api::problem::Problem;
use crate::domain::expiry;
use crate::domain::time::Timestamp;

const DAY: u64 = 86_400;

/// The pages that the navigation names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tab {
    Overview,
    Connections,
    Apps,
    Callers,
    Keys,
    Revoke,
}

impl Tab {
    const ALL: [Tab; 6] = [Tab::Overview, Tab::Connections, Tab::Apps, Tab::Callers, Tab::Keys, Tab::Revoke];

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Tab::Overview => ("/console", "Overview"),
            Tab::Connections => ("/console/connections", "Connections"),
            Tab::Apps => ("/console/apps", "Apps"),
            Tab::Callers => ("/console/callers", "Callers"),
            Tab::Keys => ("/console/keys", "Sealing keys"),
            Tab::Revoke => ("/console/revoke", "Revoke"),
        }
    }
}

/// How good something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Ok,
    Warn,
    Bad,
    Calm,
}

impl Mood {
    /// Its class.
    pub(super) fn class(self) -> &'static str {
        match self {
            Mood::Ok => "ok",
            Mood::Warn => "warn",
            Mood::Bad => "bad",
            Mood::Calm => "calm",
        }
    }

    /// The mood of a connection's status.
    pub(super) fn of_status(status: &str) -> Self {
        match status {
            "active" => Mood::Ok,
            "needs_reauthorization" => Mood::Warn,
            "blocked" => Mood::Bad,
            _ => Mood::Calm,
        }
    }

    /// The mood of something that ends then: by the days at which it is warned of.
    pub(super) fn of_end(at: Option<Timestamp>, now: Timestamp) -> Self {
        match at.map(|at| expiry::warning(at, now)) {
            None => Mood::Warn,
            Some(Some(days)) if days <= 7 => Mood::Bad,
            Some(Some(_)) => Mood::Warn,
            Some(None) => Mood::Ok,
        }
    }
}

/// A whole page of a session.
pub(super) fn page(met: &Met, tab: Tab, title: &str, body: &Markup) -> Markup {
    let chrome = html! {
        header.top { div {
            a.name href="/console" { "tokenward" }
            nav aria-label="Console" { ul {
                @for one in Tab::ALL {
                    @let (href, name) = one.words();
                    li { a href=(href) aria-current=[(one == tab).then_some("page")] { (name) } }
                }
            } }
            div.who {
                span { "You are " a href="/console/sessions" title="Your sessions" {
                    strong { (met.operator.name) } } }
                form method="post" action="/console/leave" {
                    (csrf(met))
                    button.small type="submit" { "Leave" }
                }
            }
        } }
    };
    document(title, Some(&chrome), body)
}

/// A page for somebody without a session.
pub(super) fn plain(title: &str, body: &Markup) -> Markup {
    let body = html! { div.enter.card { h1 { (title) } (body) } };
    document(title, None, &body)
}

fn document(title: &str, chrome: Option<&Markup>, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex";
                title { (title) " · tokenward" }
                link rel="stylesheet" href="/console/console.css";
                script src="/console/console.js" defer {}
            }
            body {
                @if let Some(chrome) = chrome { a.skip href="#main" { "Skip to the content" } (chrome) }
                main id="main" { (body) }
            }
        }
    }
}

/// The session's token, for a form.
pub(super) fn csrf(met: &Met) -> Markup {
    html! { input type="hidden" name="csrf" value=(met.csrf); }
}

/// A word with its mood. The word says all; the colour only helps.
pub(super) fn tag(mood: Mood, words: &str) -> Markup {
    html! { span class={ "tag " (mood.class()) } { (words) } }
}

/// A status in words for people.
pub(super) fn status_words(status: &str) -> &str {
    match status {
        "active" => "active",
        "needs_reauthorization" => "user must sign in",
        "blocked" => "administrator must act",
        "paused" => "paused",
        other => other,
    }
}

/// An instant: how far away, with the exact time for those who point at it, and for machines.
pub(super) fn when(at: Timestamp, now: Timestamp) -> Markup {
    let exact = at.rfc3339();
    html! { time datetime=(exact) title=(exact) { (relative(at, now)) } }
}

/// When something ends, with how near that is.
pub(super) fn ends(at: Timestamp, now: Timestamp) -> Markup {
    html! { span class={ "tag " (Mood::of_end(Some(at), now).class()) } { (when(at, now)) } }
}

/// The head of a table.
pub(super) fn head(names: &[&str]) -> Markup {
    html! { thead { tr { @for name in names { th scope="col" { (name) } } } } }
}

/// An instant of the API's, which may be missing.
pub(super) fn when_text(at: Option<&str>, now: Timestamp, else_say: &str) -> Markup {
    match at.and_then(Timestamp::parse_rfc3339) {
        Some(at) => when(at, now),
        None => html! { (else_say) },
    }
}

/// How far away an instant is, in one unit.
pub(super) fn relative(at: Timestamp, now: Timestamp) -> String {
    match at.unix_seconds() - now.unix_seconds() {
        0 => "just now".to_owned(),
        1.. => format!("in {}", span(at.since(now))),
        _ => format!("{} ago", span(now.since(at))),
    }
}

/// The time since an instant: `the last 3 minutes`.
pub(super) fn the_last(since: Timestamp, now: Timestamp) -> String {
    format!("the last {}", span(now.since(since)))
}

fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (count, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7_200 => (seconds / 60, "minute"),
        7_200..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / DAY, "day"),
    };
    if count == 1 { format!("1 {unit}") } else { format!("{count} {unit}s") }
}

/// A number with its thousands apart.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A refusal, with what to do.
pub(super) fn refusal(problem: &Problem) -> Markup {
    html! {
        div.note.bad role="alert" {
            p { strong { (problem.detail) } }
            @if !problem.hint.is_empty() { p { (problem.hint) } }
            p { small { "Code " (code_link(problem.code)) } }
        }
    }
}

/// A code, with the way to what it means.
pub(super) fn code_link(code: &str) -> Markup {
    html! { a href={ "/console/codes#" (code) } { code { (code) } } }
}

/// An address with a query, escaped.
pub(super) fn href(path: &str, pairs: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        query.append_pair(name, value);
    }
    let query = query.finish();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

/// The address of a connection's page.
pub(super) fn connection_href(app: &str, connection: &str) -> String {
    href("/console/connection", &[("app", app), ("name", connection)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_told_in_one_unit() {
        let now = Timestamp::from_unix_seconds(10_000_000);
        for (seconds, before, after) in [
            (1, "1 second ago", "in 1 second"),
            (119, "119 seconds ago", "in 119 seconds"),
            (120, "2 minutes ago", "in 2 minutes"),
            (7_199, "119 minutes ago", "in 119 minutes"),
            (7_200, "2 hours ago", "in 2 hours"),
            (172_800, "2 days ago", "in 2 days"),
            (400 * DAY, "400 days ago", "in 400 days"),
        ] {
            let far = Duration::from_secs(seconds);
            let told = (relative(now.minus(far), now), relative(now.plus(far), now));
            assert_eq!((told.0.as_str(), told.1.as_str()), (before, after));
        }
        assert_eq!(relative(now, now), "just now");
        assert_eq!(the_last(now.minus(Duration::from_secs(300)), now), "the last 5 minutes");
    }

    #[test]
    fn what_ends_soon_looks_so() {
        let now = Timestamp::from_unix_seconds(10_000_000);
        let day = |days| Some(now.plus(Duration::from_secs(days * DAY)));
        for (at, mood) in [
            (None, Mood::Warn),
            (Some(now), Mood::Bad),
            (day(7), Mood::Bad),
            (day(8), Mood::Warn),
            (day(30), Mood::Warn),
            (day(31), Mood::Ok),
        ] {
            assert_eq!(Mood::of_end(at, now), mood, "{at:?}");
        }
    }

    #[test]
    fn numbers_have_their_thousands_apart() {
        for (given, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_000_000, "1,000,000")] {
            assert_eq!(number(given), text);
        }
    }

    #[test]
    fn an_address_escapes_what_it_names_and_leaves_out_what_is_empty() {
        assert_eq!(connection_href("outlook", "a/b&c=\"d\""), {
            "/console/connection?app=outlook&name=a%2Fb%26c%3D%22d%22"
        });
        assert_eq!(href("/console", &[("a", "")]), "/console");
    }

    #[test]
    fn everything_in_a_page_is_escaped() {
        let evil = "<script>alert(1)</script>\"'&";
        let met = super::super::sessions::Met {
            operator: super::super::sessions::Operator {
                name: evil.to_owned(),
                proof: crate::domain::auth_method::AuthMethod::UnixUser,
                key: None,
            },
            csrf: evil.to_owned(),
            ends_at: Timestamp::from_unix_seconds(1),
            id: "s".to_owned(),
        };
        let body = html! { p { (evil) } (tag(Mood::Ok, evil)) (when_text(None, met.ends_at, evil)) };
        let text = page(&met, Tab::Apps, evil, &body).into_string();
        assert!(!text.contains("<script>") && !text.contains("\"'"), "{text}");
        assert_eq!(text.matches("&lt;script&gt;").count(), 6, "{text}");
    }
}
