//! The search for connections: a page of what is found in a moment, and a stream that goes on with it until
//! the page is full or all was read.

use std::time::Duration;

use maud::{Markup, html};

use super::connections::{Asked, Foot, Listed, body, foot, table};
use super::{Console, Problem};
use crate::broker::Refusal;
use crate::broker::inspect::{ListRequest, PAGE, Shown};
use crate::domain::id::{AppName, ConnectionName};
use crate::domain::time::Timestamp;
use crate::listener::Pairs;

/// The pause between two reads of a search that goes on: others read, too.
const PAUSE: Duration = Duration::from_millis(10);
/// How long a search goes on before it says how far it is, if it finds nothing.
const TOLD_EVERY: Duration = Duration::from_millis(500);

/// A search that is under way.
pub(super) struct Search {
    app: AppName,
    asked: Asked,
    /// Where it goes on stands in it.
    sought: ListRequest,
    is_first: bool,
    /// How many are on the page.
    found: usize,
    /// How many were read since its beginning, on earlier pages too.
    read: usize,
    /// About how many there are to read, if that is known.
    about: Option<u64>,
    is_over: bool,
}

impl Console {
    /// The search that a query asks for.
    pub(super) fn search(&self, query: &Pairs) -> Result<Search, Problem> {
        let asked = Asked::of(query, self.app_names().into_iter().next());
        let app = AppName::parse(&asked.app).map_err(|_| Problem::of(Refusal::AppNotFound))?;
        let cursor = query.value("cursor").filter(|cursor| !cursor.is_empty());
        let after = cursor.map(|cursor| self.api.broker.read_cursor(&app, cursor)).transpose();
        let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let sought = ListRequest {
            status: some(&asked.status),
            tenant: some(&asked.tenant),
            text: some(&asked.text),
            after: after.map_err(Problem::of)?,
            ..ListRequest::default()
        };
        let number = |name: &str| query.value(name).and_then(|text| text.parse().ok()).unwrap_or(0);
        let (found, read) = (number("found"), number("read"));
        let is_first = cursor.is_none();
        Ok(Search { app, asked, sought, is_first, found, read, about: None, is_over: false })
    }

    /// `GET /console/connections`
    pub(super) async fn connections_page(&self, query: &Pairs, now: Timestamp) -> Result<Markup, Problem> {
        let mut search = self.search(query)?;
        let namesake = search.namesake(self).await?;
        let found = search.read_on(self).await.map_err(Problem::of)?;
        let namesake = namesake.filter(|one| found.iter().all(|other| other.key != one.key));
        if search.goes_on() {
            search.learn_about(self).await;
        }
        Ok(body(&Listed {
            asked: &search.asked,
            apps: &self.app_names(),
            namesake: namesake.as_ref(),
            connections: &found,
            foot: &search.foot(self),
            now,
        }))
    }
}

impl Search {
    /// The connection whose name is the very text, which no search has to wait for.
    async fn namesake(&self, console: &Console) -> Result<Option<Shown>, Problem> {
        let is_sought = |text: &&str| self.is_first && text.starts_with(&self.asked.name);
        let Some(name) = self.sought.text.as_deref().filter(is_sought) else { return Ok(None) };
        let Ok(name) = ConnectionName::stored(name) else { return Ok(None) };
        let but_for_text = ListRequest { text: None, ..self.sought.clone() };
        console.api.broker.find_as_admin(&self.app, name, &but_for_text).await.map_err(Problem::of)
    }

    /// Reads for a moment, in a place among operators' walks over connections, and returns what it found.
    async fn read_on(&mut self, console: &Console) -> Result<Vec<Shown>, Refusal> {
        let page = console.api.broker.list_as_admin(&self.app, &self.asked.name, &self.sought).await?;
        // (Where an earlier page ended comes with the request, so that it may be any number.)
        self.read = self.read.saturating_add(page.read);
        self.found = self.found.saturating_add(page.connections.len());
        self.is_over = page.next.is_none();
        self.sought.after = page.next;
        Ok(page.connections)
    }

    /// Whether it goes on by itself, where there is script: the page has room, and there are more to read.
    fn goes_on(&self) -> bool {
        !self.is_over && self.asked.is_filter() && self.found < PAGE
    }

    /// Asks the kept counts how many there are to read.
    async fn learn_about(&mut self, console: &Console) {
        // (They are by app, and not by what a name begins with.)
        if self.about.is_none()
            && self.asked.name.is_empty()
            && let Ok(Some(counts)) = console.api.broker.keep_counts().await
        {
            let of_app = counts.by_status.iter().filter(|((app, _), _)| *app == self.app);
            self.about = Some(of_app.map(|(_, count)| count).sum());
        }
    }

    fn foot(&self, console: &Console) -> Foot<'_> {
        let next = self.sought.after.as_ref().filter(|_| !self.is_over);
        Foot {
            asked: &self.asked,
            cursor: next.map(|next| console.api.broker.cursor(&self.app, next)),
            goes_on: self.goes_on(),
            is_first: self.is_first,
            found: self.found,
            read: self.read,
            about: self.about,
        }
    }

    /// Whether the stream has said all.
    pub(super) fn is_over(&self) -> bool {
        !self.goes_on()
    }

    /// Goes on until something is found or for half a second, and returns how far it is and what it found.
    pub(super) async fn go_on(&mut self, console: &Console) -> Markup {
        let clock = &console.api.clock;
        let began = clock.monotonic();
        self.learn_about(console).await;
        let mut found = Vec::new();
        let mut is_stuck = false;
        while self.goes_on() && found.is_empty() && clock.monotonic().saturating_sub(began) < TOLD_EVERY {
            match self.read_on(console).await {
                Ok(some) => {
                    found = some;
                    // The page began with it.
                    found.retain(|one| Some(one.key.connection.as_str()) != self.sought.text.as_deref());
                }
                // (It tries again.)
                Err(Refusal::TooManyWalks { .. }) => {}
                Err(_) => {
                    is_stuck = true;
                    break;
                }
            }
            clock.sleep(PAUSE).await;
        }
        let more = html! {
            (foot(&self.foot(console)))
            @if !found.is_empty() { (table(&found, clock.now())) }
        };
        // (The button tries again where the store does not answer.)
        self.is_over |= is_stuck;
        more
    }
}
