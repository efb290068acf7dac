//! Connections by status, with search, page by page: what the page shows. What it reads is in `searching`.

use maud::{Markup, html};

use super::layout::{Mood, connection_href, head, href, number, status_words, tag, when};
use crate::broker::inspect::{PAGE, STATUSES, Shown};
use crate::domain::time::Timestamp;
use crate::listener::Pairs;

/// What was asked for, as the form has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) app: String,
    pub(super) status: String,
    pub(super) name: String,
    pub(super) text: String,
    pub(super) tenant: String,
}

/// What the page shows.
pub(super) struct Listed<'a> {
    pub(super) asked: &'a Asked,
    pub(super) apps: &'a [String],
    /// The one whose name is the very text, if it is not among the others.
    pub(super) namesake: Option<&'a Shown>,
    pub(super) connections: &'a [Shown],
    pub(super) foot: &'a Foot<'a>,
    pub(super) now: Timestamp,
}

/// How far a search is, and how it goes on.
pub(super) struct Foot<'a> {
    pub(super) asked: &'a Asked,
    /// Where it goes on; `None` if all was read.
    pub(super) cursor: Option<String>,
    /// Whether a stream goes on with it.
    pub(super) goes_on: bool,
    pub(super) is_first: bool,
    /// How many are on the page.
    pub(super) found: usize,
    /// How many were read since the search began.
    pub(super) read: usize,
    /// About how many there are to read, if that is known.
    pub(super) about: Option<u64>,
}

impl Asked {
    /// What a query asks for; without an app of this one.
    pub(super) fn of(query: &Pairs, app: Option<String>) -> Self {
        let text = |name: &str| query.value(name).unwrap_or_default().trim().to_owned();
        let [named, status, name, text, tenant] = ["app", "status", "name", "text", "tenant"].map(text);
        let app = if named.is_empty() { app.unwrap_or_default() } else { named };
        Asked { app, status, name, text, tenant }
    }

    /// The address at which it goes on after so many; with an empty cursor its beginning.
    fn href(&self, path: &str, cursor: &str, more: &[(&str, &str)]) -> String {
        let Asked { app, status, name, text, tenant } = self;
        let mut pairs = vec![
            ("app", app.as_str()),
            ("status", status),
            ("name", name),
            ("text", text),
            ("tenant", tenant),
            ("cursor", cursor),
        ];
        pairs.extend(more);
        href(path, &pairs)
    }

    /// Whether it asks for some of the connections that it reads, and not for all.
    pub(super) fn is_filter(&self) -> bool {
        [&self.status, &self.text, &self.tenant].into_iter().any(|one| !one.is_empty())
    }
}

impl Foot<'_> {
    /// The page on which it goes on.
    fn on(&self, cursor: &str) -> String {
        self.asked.href("/console/connections", cursor, &[("read", &self.read.to_string())])
    }

    /// The stream that goes on with it.
    fn stream(&self) -> Option<String> {
        let cursor = self.cursor.as_deref().filter(|_| self.goes_on)?;
        let (found, read) = (self.found.to_string(), self.read.to_string());
        let more = [("page", "search"), ("found", found.as_str()), ("read", read.as_str())];
        Some(self.asked.href("/console/live", cursor, &more))
    }

    fn words(&self) -> String {
        let read = number(self.read as u64);
        let of = match self.about {
            Some(about) if about >= self.read as u64 => format!(" of about {}", number(about)),
            _ => String::new(),
        };
        match (&self.cursor, self.found) {
            (Some(_), 0) => format!("None among the {read}{of} that were read so far."),
            (Some(_), _) => format!("Read {read}{of} so far."),
            (None, 0) if self.is_first => "No connection is like that.".to_owned(),
            (None, 0) => "There are no more.".to_owned(),
            (None, _) => format!("All {read} were read."),
        }
    }
}

/// The page.
pub(super) fn body(listed: &Listed<'_>) -> Markup {
    let Listed { asked, apps, namesake, connections, foot: end, now } = *listed;
    html! {
        h1 { "Connections" }
        form.card.row role="search" action="/console/connections" {
            label { "App" select name="app" { @for app in apps {
                option value=(app) selected[*app == asked.app] { (app) }
            } } }
            label { "Status" select name="status" {
                option value="" { "any" }
                @for status in STATUSES {
                    option value=(status) selected[status == asked.status] { (status_words(status)) }
                }
            } }
            label { "Name begins with" input type="text" name="name" value=(asked.name) autocomplete="off"; }
            label.wide { "Name, account or label contains"
                input type="text" name="text" value=(asked.text) autocomplete="off"; }
            label { "Tenant" input type="text" name="tenant" value=(asked.tenant) autocomplete="off"; }
            button.main type="submit" { "Search" }
        }
        section.card aria-label="Found" data-search=[end.stream()] {
            @if let Some(one) = namesake {
                p { "Of this very name:" }
                (table(std::slice::from_ref(one), now))
                p { "Others that contain it:" }
            }
            div data-found { @if !connections.is_empty() { (table(connections, now)) } }
            div data-foot role="status" { (foot(end)) }
            @if !end.is_first { p { a href=(asked.href("/console/connections", "", &[])) {
                "Back to the first page" } } }
        }
    }
}

/// The end of the list: how far it is, and how it goes on.
pub(super) fn foot(end: &Foot<'_>) -> Markup {
    let is_empty_app = end.found == 0 && end.cursor.is_none() && end.is_first && end.asked.name.is_empty();
    html! {
        div data-next=[end.stream()] {
            @if end.asked.is_filter() || end.found == 0 {
                p.soft {
                    @if is_empty_app && !end.asked.is_filter() { "This app has no connections yet." }
                    @else { (end.words()) }
                }
            }
            @if let Some(cursor) = &end.cursor {
                p { a.button href=(end.on(cursor)) {
                    @if end.found < PAGE && end.asked.is_filter() { "Search on" } @else { "Next page" }
                } }
            }
        }
    }
}

/// Connections, a row for each.
pub(super) fn table(connections: &[Shown], now: Timestamp) -> Markup {
    html! {
        div.scroll { table.stack {
            (head(&["Connection", "Status", "Account", "Connected by", "Last refreshed"]))
            tbody { @for one in connections {
                @let status = one.profile.status();
                tr {
                    td.name data-label="Connection" {
                        a href=(connection_href(one.key.app.as_str(), one.key.connection.as_str())) {
                            (one.key.connection)
                        }
                    }
                    td data-label="Status" { div {
                        (tag(Mood::of_status(status.as_str()), status_words(status.as_str())))
                        @if let Some(reason) = status.reason() { br; small { (reason) } }
                    } }
                    td.name data-label="Account" {
                        (one.profile.account().username.as_deref().unwrap_or("–"))
                    }
                    td.name data-label="Connected by" { (one.profile.connected_by()) }
                    td data-label="Last refreshed" { (when(one.profile.last_refreshed_at(), now)) }
                }
            } }
        } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_says_how_far_it_is_and_how_it_goes_on() {
        let asked = Asked { text: "\"><script>".to_owned(), app: "outlook".to_owned(), ..Asked::default() };
        let none = Asked { app: "outlook".to_owned(), ..Asked::default() };
        let end = |asked, cursor: Option<&str>, found| Foot {
            asked,
            cursor: cursor.map(str::to_owned),
            goes_on: cursor.is_some() && found < PAGE,
            is_first: true,
            found,
            read: 120_000,
            about: Some(1_000_000),
        };
        let text = |end: &Foot<'_>| foot(end).into_string();

        let over = text(&end(&asked, None, 0));
        assert!(over.contains("No connection is like that") && !over.contains("Search on"), "{over}");
        assert!(!over.contains("data-next"), "{over}");
        let later = text(&Foot { is_first: false, ..end(&asked, None, 0) });
        assert!(later.contains("There are no more."), "{later}");
        assert!(text(&end(&asked, None, 3)).contains("All 120,000 were read."));

        let on = text(&end(&asked, Some("a+b"), 0));
        assert!(on.contains("None among the 120,000 of about 1,000,000 that were read so far."), "{on}");
        assert!(on.contains("Search on") && on.contains("cursor=a%2Bb&amp;read=120000"), "{on}");
        assert!(on.contains("data-next=\"/console/live?") && on.contains("page=search&amp;found=0"), "{on}");
        assert!(on.contains("text=%22%3E%3Cscript%3E") && !on.contains("<script>"), "{on}");
        let unsure = text(&Foot { about: Some(7), ..end(&asked, Some("a"), 2) });
        assert!(unsure.contains("Read 120,000 so far."), "the count is older: {unsure}");

        // The page names the same stream as its foot, and none where the search is over.
        let whole = |end: &Foot<'_>| {
            let listed = Listed {
                asked: &asked,
                apps: &["outlook".to_owned()],
                namesake: None,
                connections: &[],
                foot: end,
                now: Timestamp::from_unix_seconds(1_800_000_000),
            };
            body(&listed).into_string()
        };
        let stream = on.split("data-next=").nth(1).and_then(|rest| rest.split('"').nth(1)).expect("a stream");
        let page = whole(&end(&asked, Some("a+b"), 0));
        assert!(page.contains(&format!("data-search=\"{stream}\"")), "{page}");
        let page = whole(&end(&asked, None, 0));
        assert!(!page.contains("data-search"), "{page}");

        let full = text(&end(&asked, Some("a"), PAGE));
        assert!(full.contains("Next page") && !full.contains("data-next"), "{full}");
        let list = text(&Foot { goes_on: false, ..end(&none, Some("a"), PAGE) });
        assert!(list.contains("Next page") && !list.contains("120,000"), "{list}");
        assert!(text(&end(&none, None, 0)).contains("This app has no connections yet."));
    }
}
