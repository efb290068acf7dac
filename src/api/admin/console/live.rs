//! The stream that keeps a page's region up to date: server-sent events, each with the region's HTML.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, HeaderValue, StatusCode};

use super::layout::plain;
use super::{Console, connection, connection_key, guarded, html, overview};
use crate::listener::{AnswerBody, Pairs, Peer, Response, StreamPlace, Streams, response};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(3);

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
    /// What the page shows already.
    shown: Option<String>,
    is_over: bool,
}

impl Console {
    /// `GET /console/live`
    pub(super) fn live(&self, watch: Watch, streams: Streams) -> Response {
        let Some(place) = streams.take() else {
            let body = maud::html! { p { "Too many pages are open; this one stays as it is." } };
            return html(StatusCode::SERVICE_UNAVAILABLE, &plain("Not now", &body));
        };
        let stream =
            Stream { console: self.clone(), watch, place: Arc::clone(&place), shown: None, is_over: false };
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
        if self.shown.is_some() {
            self.console.api.clock.sleep(LOOK_EVERY).await;
        }
        let text = match self.region().await {
            Some(region) if self.shown.as_ref() == Some(&region) => ":\n\n".to_owned(),
            Some(region) => {
                let text = event("page", &region);
                self.shown = Some(region);
                text
            }
            None => {
                self.is_over = true;
                event("over", "")
            }
        };
        Some((text.into(), self))
    }

    /// The region as it is now; `None` where nobody may see it any more, or there is nothing to see.
    async fn region(&self) -> Option<String> {
        let peer = self.place.now(self.watch.peer.clone());
        let certified = self.console.certified(&peer).await;
        self.console.session(&self.watch.cookie, certified.as_ref(), peer.tls, false)?;
        let query = Pairs::read(&self.watch.query).ok()?;
        let now = self.console.api.clock.now();
        match query.value("page")? {
            "overview" => Some(overview::region(&self.console.overview(now).await).into_string()),
            "connection" => {
                let key = connection_key(query.value("app")?, query.value("name")?).ok()?;
                match self.console.known(&key, now).await {
                    Ok(known) => Some(connection::region(&known).into_string()),
                    Err(problem) if problem.status() == StatusCode::NOT_FOUND => None,
                    // The store does not answer now: the page stays as it is.
                    Err(_) => self.shown.clone(),
                }
            }
            _ => None,
        }
    }
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
    use super::*;

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
}
