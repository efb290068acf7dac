//! The streams that keep pages up to date, as server-sent events: the region of a page that follows the
//! daemon, as HTML whenever it changed, and a search that goes on.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, HeaderValue, StatusCode};

use super::connection::Known;
use super::layout::plain;
use super::overview::Overview;
use super::searching::Search;
use super::sessions::Met;
use super::{Console, connection, connection_key, guarded, html, overview, pages};
use crate::api::admin::wire::Keyring;
use crate::domain::time::Timestamp;
use crate::listener::{AnswerBody, Pairs, Peer, Response, StreamPlace, Streams, response};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// How old a region's times may get before it is sent again. In between, the script counts them on.
const OLDEST_TIMES: Duration = Duration::from_secs(60);

/// What a stream follows, and for whom.
pub(super) struct Watch {
    pub(super) cookie: String,
    pub(super) peer: Peer,
    pub(super) query: Vec<u8>,
}

struct Stream {
    console: Console,
    watch: Watch,
    place: Arc<StreamPlace>,
    follows: Follows,
    is_over: bool,
}

enum Follows {
    /// A page's region, and what was sent of it.
    Region(Option<Sent>),
    Search(Box<Search>),
}

/// A region as it was sent, with the time that its times were told at.
struct Sent {
    region: String,
    told_at: Timestamp,
}

/// What a region shows.
enum Facts {
    Overview(Box<Overview>),
    Connection(Box<Known>),
    Keys(Box<Keyring>),
}

impl Facts {
    /// The region, its times told at this instant.
    fn region(&mut self, at: Timestamp) -> String {
        match self {
            Facts::Overview(view) => {
                view.now = at;
                overview::region(view).into_string()
            }
            Facts::Connection(known) => {
                known.now = at;
                connection::region(known).into_string()
            }
            Facts::Keys(keyring) => pages::keys(keyring, at).into_string(),
        }
    }
}

/// What a stream sees.
enum Seen {
    Facts(Facts),
    /// The store does not answer now: the page stays as it is.
    Nothing,
    /// There is nothing to see any more.
    Gone,
}

impl Console {
    /// `GET /console/live`
    pub(super) fn live(&self, watch: Watch, streams: Streams) -> Response {
        let Some(place) = streams.take() else {
            let body = maud::html! { p { "Too many pages are open; this one stays as it is." } };
            return html(StatusCode::SERVICE_UNAVAILABLE, &plain("Not now", &body));
        };
        let follows = match Pairs::read(&watch.query) {
            Ok(query) if query.value("page") == Some("search") => match self.search(&query) {
                Ok(search) => Follows::Search(Box::new(search)),
                Err(problem) => return html(problem.status(), &plain("Not like that", &maud::html! {})),
            },
            _ => Follows::Region(None),
        };
        let stream =
            Stream { console: self.clone(), watch, place: Arc::clone(&place), follows, is_over: false };
        let mut response = guarded(response(StatusCode::OK, "text/event-stream", ""));
        *response.body_mut() = AnswerBody::stream(place, stream::unfold(stream, Stream::next));
        // nginx and those that follow it would hold events back.
        let unbuffered = HeaderName::from_static("x-accel-buffering");
        response.headers_mut().insert(unbuffered, HeaderValue::from_static("no"));
        response
    }
}

impl Stream {
    async fn next(mut self) -> Option<(Bytes, Self)> {
        if self.is_over {
            return None;
        }
        if matches!(self.follows, Follows::Region(Some(_))) {
            self.console.api.clock.sleep(LOOK_EVERY).await;
        }
        let text = match (self.session().await, &mut self.follows) {
            (None, _) => None,
            (Some(_), Follows::Search(search)) => {
                let more = search.go_on(&self.console).await;
                self.is_over = search.is_over();
                let done = if self.is_over { event("done", "") } else { String::new() };
                Some(event("more", &more.into_string()) + &done)
            }
            (Some(_), Follows::Region(sent)) => {
                let now = self.console.api.clock.now();
                match see(&self.console, &self.watch.query, now).await {
                    Seen::Facts(facts) => Some(news(sent, facts, now)),
                    Seen::Nothing => Some(":\n\n".to_owned()),
                    Seen::Gone => None,
                }
            }
        };
        let text = text.unwrap_or_else(|| {
            self.is_over = true;
            event("over", "")
        });
        Some((text.into(), self))
    }

    /// The session, if it may see the page still.
    async fn session(&self) -> Option<Met> {
        let peer = self.place.now(self.watch.peer.clone());
        let certified = self.console.certified(&peer).await;
        self.console.session(&self.watch.cookie, certified.as_ref(), peer.tls, false).await
    }
}

/// What is known now of what a stream follows.
async fn see(console: &Console, query: &[u8], now: Timestamp) -> Seen {
    let Ok(query) = Pairs::read(query) else { return Seen::Gone };
    match query.value("page") {
        Some("overview") => Seen::Facts(Facts::Overview(Box::new(console.overview(now).await))),
        Some("keys") => match console.keys().await {
            Ok(keyring) => Seen::Facts(Facts::Keys(Box::new(keyring))),
            Err(_) => Seen::Nothing,
        },
        Some("connection") => {
            let value = |name: &str| query.value(name).unwrap_or_default();
            let Ok(key) = connection_key(value("app"), value("name")) else { return Seen::Gone };
            match console.known(&key, now).await {
                Ok(known) => Seen::Facts(Facts::Connection(Box::new(known))),
                Err(problem) if problem.status() == StatusCode::NOT_FOUND => Seen::Gone,
                Err(_) => Seen::Nothing,
            }
        }
        _ => Seen::Gone,
    }
}

/// The event for what is known now: the region if it shows something else than was sent, and otherwise the
/// time alone.
fn news(sent: &mut Option<Sent>, mut facts: Facts, now: Timestamp) -> String {
    let is_same = sent.as_ref().is_some_and(|sent| {
        now.since(sent.told_at) < OLDEST_TIMES && facts.region(sent.told_at) == sent.region
    });
    if is_same {
        return event("time", &now.rfc3339());
    }
    let region = facts.region(now);
    let text = event("page", &region);
    *sent = Some(Sent { region, told_at: now });
    text
}

/// Writes an event. No line of it may end the event early.
fn event(name: &str, data: &str) -> String {
    let mut text = format!("event: {name}\n");
    for line in data.split(['\n', '\r']) {
        text.push_str("data: ");
        text.push_str(line);
        text.push('\n');
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::super::overview::Counted;
    use super::*;
    use crate::api::admin::wire::{Reload, Status};

    #[test]
    fn no_text_of_a_page_ends_its_event() {
        assert_eq!(event("page", "<p>a</p>"), "event: page\ndata: <p>a</p>\n\n");
        let text = event("page", "a\n\nevent: over\r\rdata: x\n");
        let lines: Vec<&str> = text.split('\n').collect();
        assert_eq!(lines.last(), Some(&""));
        let data = &lines[1..lines.len() - 2];
        assert!(data.iter().all(|line| line.starts_with("data: ")), "{text}");
        assert!(!text.contains('\r') && text.matches("\n\n").count() == 1, "{text}");
    }

    #[test]
    fn a_region_is_sent_when_it_changed_or_its_times_are_old_and_not_for_the_clock() {
        let at = |seconds| Timestamp::from_unix_seconds(1_000_000 + seconds);
        let facts = |accepted: Option<i64>| {
            let mut view = Overview {
                status: Status::default(),
                counts: Counted::NotYet,
                traffic: None,
                open_breakers: Vec::new(),
                forecast: None,
                now: at(0),
            };
            view.status.last_reload = accepted.map(|seconds| Reload {
                outcome: "refused".to_owned(),
                at: at(seconds).rfc3339(),
                ..Reload::default()
            });
            Facts::Overview(Box::new(view))
        };
        let mut sent = None;
        let mut is_page =
            |accepted, now| news(&mut sent, facts(accepted), at(now)).starts_with("event: page");
        assert!(is_page(None, 0));
        assert!(!is_page(None, 3) && !is_page(None, 6), "only the clock went on");
        assert!(is_page(Some(5), 9), "something happened");
        assert!(!is_page(Some(5), 12));
        assert!(is_page(Some(5), 69), "its times are a minute old");
        assert!(!is_page(Some(5), 72));
    }
}
