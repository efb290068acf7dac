//! `GET /v1/events`: a stream of server-sent events that tells what changed of what the caller may see.
//!
//! Before each event the credential and the rules are judged anew. The stream asks the store for nothing
//! while nothing happens.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, HeaderValue, StatusCode, header};

use super::stream_caller::StreamCaller;
use super::watch::plan::{ALIVE, HEARTBEAT, ends, event, opening};
use super::{Call, LocalApi};
use crate::api::doc::{Content, Doc};
use crate::api::problem::Problem;
use crate::api::routes::{Effect, Permission, Route, Run};
use crate::broker::watch::OpenPlace;
use crate::broker::{Broker, Refusal};
use crate::events::OpenStream;
use crate::listener::{AnswerBody, Refused, RequestId, Response, response};
use crate::notices::{Begun, Listening, Mark, body};

/// Its row in the table.
pub(super) const EVENTS: Route<LocalApi> = Route {
    method: "GET",
    path: "/v1/events",
    handler: Run::Plain(|api, call| Box::pin(api.events(call))),
    permission: Permission::Sees,
    effect: Effect::Reads("events"),
    doc: Doc {
        id: "events",
        tag: "events",
        summary: "A stream of what changes: connections, apps and tenants",
        description: "Server-sent events. Each has the event's id, its type as name, and `{type, timestamp, \
         data: {app, connection? | tenant?}}` as data: one for each change, in order for one connection. The \
         caller gets those that it may see, by its rules at that time. With `after` (or `Last-Event-ID`, \
         which a client that comes back sends by itself) the stream goes on behind that event; without it it \
         begins now. An event may come twice: remember the last ids. Events are kept for three days, and the \
         last 100,000 at most: an `after` that is not kept any more is 410 `events_gone`. Then list the \
         connections, and begin without `after`. The stream ends when its connection is 10 minutes old (an \
         hour without TLS), and when the daemon stops: come back after `retry`.",
        query: &["after", "Last-Event-ID"],
        answer: (200, "The stream."),
        content: Some(Content::NOTICES),
        problems: &[(410, "EventsGone")],
        ..Doc::PLAIN
    },
};

/// One stream.
struct Stream {
    broker: Arc<Broker>,
    caller: StreamCaller,
    listening: Listening,
    /// All up to this notice was looked at.
    behind: Mark,
    /// Whether the client was not told its id yet.
    is_untold: bool,
    /// The losses of the store that it knows of.
    losses: u64,
    /// The present text, if there is some to send.
    text: Option<String>,
    is_over: bool,
    /// Whether it was refused for a reason that passes: it looks again after a while.
    rests: bool,
    request_id: RequestId,
    _place: OpenPlace,
    _open: OpenStream,
}

impl LocalApi {
    /// `GET /v1/events`
    async fn events(&self, call: Call<'_>) -> Result<Response, Problem> {
        let Call { admitted, headers, query, streaming: (streams, peer), who, .. } = call;
        let last_id = headers.get("last-event-id").and_then(|id| id.to_str().ok());
        let after =
            last_id.filter(|id| !id.is_empty()).or_else(|| query.value("after")).filter(|id| !id.is_empty());
        let name = &admitted.caller().name;
        let counted = self.broker.open_stream(name).map_err(Problem::of)?;
        let place = streams.take().ok_or_else(|| Problem::of_listener(Refused::Overloaded))?;
        let feed = self.broker.feed();
        let mut listening = feed.listen();
        let losses = listening.seen().losses;
        let begun = feed.begin(after).await.map_err(|_| Problem::of(Refusal::StoreUnavailable))?;
        let Begun::Behind(behind) = begun else { return Err(Problem::of(Refusal::EventsGone)) };
        let caller = StreamCaller {
            callers: self.callers.clone(),
            accepted: self.accepted.clone(),
            clock: self.clock.clone(),
            name: name.clone(),
            credential: headers.get(header::AUTHORIZATION).cloned(),
            peer,
            place: Arc::clone(&place),
        };
        let stream = Stream {
            broker: self.broker.clone(),
            caller,
            listening,
            is_untold: false,
            losses,
            // With an id it can come back before the first event. (What has no data is no event.)
            text: Some(match &behind.id {
                Some(id) => format!("{}id: {id}\n\n", opening(who.request_id.as_str())),
                None => opening(who.request_id.as_str()) + "\n",
            }),
            behind,
            is_over: false,
            rests: false,
            request_id: who.request_id.clone(),
            _place: counted,
            _open: self.events.stream_opened(),
        };
        let mut response = response(StatusCode::OK, "text/event-stream", "");
        *response.body_mut() = AnswerBody::stream(place, stream::unfold(stream, Stream::next));
        // nginx and those that follow it would hold events back.
        let unbuffered = HeaderName::from_static("x-accel-buffering");
        response.headers_mut().insert(unbuffered, HeaderValue::from_static("no"));
        Ok(response)
    }
}

impl Stream {
    /// Waits for what is next to say, and says it.
    async fn next(mut self) -> Option<(Bytes, Self)> {
        loop {
            if let Some(text) = self.text.take() {
                return Some((text.into(), self));
            }
            if self.is_over {
                return None;
            }
            let clock = self.caller.clock.clone();
            if std::mem::take(&mut self.rests) {
                clock.sleep(HEARTBEAT).await;
            }
            let seen = self.listening.seen();
            let is_news = seen.last != self.behind.place || seen.losses != self.losses;
            // (In a box, so that a stream that waits is small.)
            if !is_news || !Box::pin(self.look(seen.losses)).await {
                let is_changed = tokio::select! {
                    () = self.listening.changed() => true,
                    () = clock.sleep(HEARTBEAT) => false,
                };
                if !is_changed && self.text.is_none() {
                    Box::pin(self.beat()).await;
                }
            }
        }
    }

    /// Says what is new. Returns false if nothing is, or the store does not say.
    async fn look(&mut self, losses: u64) -> bool {
        // (Without an answer the client's place stays. It learns of it when the store answers.)
        let Ok(page) = self.broker.feed().after(&self.behind).await else { return false };
        self.losses = losses;
        let Some(page) = page else {
            // The store lost what was told: the client comes back by its id, and learns what became of that.
            self.is_over = true;
            return true;
        };
        if page.is_empty() {
            return false;
        }
        let policy = match self.caller.now().await {
            Ok(known) => known.caller.policy.clone(),
            Err(problem) => {
                self.refuse(problem);
                return true;
            }
        };
        let mut text = String::new();
        for (place, notice) in page {
            self.behind = Mark::of(place, &notice);
            self.is_untold = !policy.may_hear(&notice);
            if !self.is_untold {
                text.push_str(&event(&notice.kind, &notice.id, &body(&notice)));
            }
        }
        self.text = Some(text).filter(|text| !text.is_empty());
        true
    }

    /// A sign of life. With it the client learns how far it is, so that it need not begin at an event that is
    /// not kept any more.
    async fn beat(&mut self) {
        self.text = Some(match self.caller.now().await {
            Err(problem) => return self.refuse(problem),
            Ok(_) => match &self.behind.id {
                Some(id) if std::mem::take(&mut self.is_untold) => format!("id: {id}\n\n"),
                _ => ALIVE.to_owned(),
            },
        });
    }

    fn refuse(&mut self, problem: Problem) {
        self.is_over = ends(&problem);
        self.rests = !self.is_over;
        self.text = Some(event("error", "", &problem.text(self.request_id.as_str())));
    }
}
