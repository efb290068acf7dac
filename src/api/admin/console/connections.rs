//! Connections by status, with search, page by page.

use maud::{Markup, html};

use super::layout::{Mood, connection_href, head, href, status_words, tag, when};
use crate::broker::inspect::{STATUSES, Shown};
use crate::domain::time::Timestamp;

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
    pub(super) connections: &'a [Shown],
    /// Where it goes on.
    pub(super) cursor: Option<&'a str>,
    pub(super) is_first: bool,
    pub(super) now: Timestamp,
}

impl Asked {
    fn href(&self, cursor: &str) -> String {
        let Asked { app, status, name, text, tenant } = self;
        let pairs = [
            ("app", app.as_str()),
            ("status", status),
            ("name", name),
            ("text", text),
            ("tenant", tenant),
            ("cursor", cursor),
        ];
        href("/console/connections", &pairs)
    }

    fn is_filter(&self) -> bool {
        [&self.status, &self.name, &self.text, &self.tenant].into_iter().any(|one| !one.is_empty())
    }
}

/// The page.
pub(super) fn body(listed: &Listed<'_>) -> Markup {
    let Listed { asked, apps, connections, cursor, is_first, now } = *listed;
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
        section.card aria-label="Found" {
            @if connections.is_empty() { p { (nothing(asked, cursor.is_some())) } }
            @else { (table(connections, now)) }
            @if let Some(cursor) = cursor {
                p { a.button href=(asked.href(cursor)) {
                    @if connections.is_empty() { "Search on" } @else { "Next page" }
                } }
            }
            @if !is_first { p { a href=(asked.href("")) { "Back to the first page" } } }
        }
    }
}

fn nothing(asked: &Asked, goes_on: bool) -> &'static str {
    match (goes_on, asked.is_filter()) {
        (true, _) => "None among those that were read so far. There are more to read.",
        (false, true) => "No connection is like that.",
        (false, false) => "This app has no connections yet.",
    }
}

fn table(connections: &[Shown], now: Timestamp) -> Markup {
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
    fn a_search_without_results_says_whether_it_is_over() {
        let asked = Asked { text: "\"><script>".to_owned(), app: "outlook".to_owned(), ..Asked::default() };
        let apps = ["outlook".to_owned()];
        let listed = |cursor| Listed {
            asked: &asked,
            apps: &apps,
            connections: &[],
            cursor,
            is_first: cursor.is_none(),
            now: Timestamp::from_unix_seconds(1),
        };
        let over = body(&listed(None)).into_string();
        assert!(over.contains("No connection is like that") && !over.contains("Search on"));
        let on = body(&listed(Some("a+b"))).into_string();
        assert!(on.contains("There are more to read") && on.contains("cursor=a%2Bb"), "{on}");
        assert!(on.contains("text=%22%3E%3Cscript%3E") && !on.contains("<script>"), "{on}");
        let none = Asked { app: "outlook".to_owned(), ..Asked::default() };
        assert_eq!(nothing(&none, false), "This app has no connections yet.");
    }
}
