//! The answer to a relayed request, as it goes back to the caller.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_TYPE, LOCATION};
use http::response::Parts;
use http::{HeaderName, HeaderValue, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

use crate::broker::Turn;
use crate::listener::{AnswerBody, BrokenOff, Response, StreamPlace};
use crate::outbound::Silence;
use crate::relay::{self, Injector, Links, Rewriter};

/// Fields that are links.
const LINKS: [HeaderName; 3] = [LOCATION, CONTENT_LOCATION, HeaderName::from_static("operation-location")];

/// A resource's answer, of which the head has come.
pub(super) struct Answer {
    answer: http::Response<Incoming>,
    silence: Arc<Silence>,
    /// The answers of what was refused of a batch; `None` if it is none.
    batch: Option<Vec<String>>,
    /// The turns at the mailboxes.
    turns: Vec<Turn>,
}

impl Answer {
    /// Takes an answer; that of a batch with the answers of what was refused of it.
    pub(super) fn new(
        answer: http::Response<Incoming>,
        silence: Arc<Silence>,
        batch: Option<Vec<String>>,
        turns: Vec<Turn>,
    ) -> Self {
        Answer { answer, silence, batch, turns }
    }

    /// Makes the caller's answer, with this place for its body. Links to a base lead through the relay.
    pub(super) fn response(self, place: Arc<StreamPlace>, is_head: bool, links: Arc<Links>) -> Response {
        let (head, incoming) = self.answer.into_parts();
        let has_none = matches!(
            head.status,
            StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
        );
        let body = match is_head || has_none || incoming.is_end_stream() {
            true => AnswerBody::default(),
            false if is_json(&head) => {
                let rewriter = Rewriter::new(Arc::clone(&links), self.batch.is_some());
                let changes = Some((rewriter, self.batch.as_deref().map(Injector::new)));
                let passing = Passing::new(incoming, self.silence, changes, self.turns, Arc::clone(&place));
                AnswerBody::relayed(place, None, passing.parts())
            }
            false => {
                let length = incoming.size_hint().exact();
                let passing = Passing::new(incoming, self.silence, None, self.turns, Arc::clone(&place));
                AnswerBody::relayed(place, length, passing.parts())
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        *response.headers_mut() = relay::for_caller(&head.headers);
        for name in LINKS {
            let links = response.headers().get(&name).and_then(|value| links.turned(value.to_str().ok()?));
            if let Some(value) = links.and_then(|link| HeaderValue::from_str(&link).ok()) {
                response.headers_mut().insert(name, value);
            }
        }
        // (The length of what a GET would have.)
        if let Some(length) = head.headers.get(CONTENT_LENGTH).filter(|_| is_head) {
            response.headers_mut().insert(CONTENT_LENGTH, length.clone());
        }
        response
    }
}

/// Whether a body is JSON that can be read on its way: whole, and not compressed.
fn is_json(head: &Parts) -> bool {
    let text = |name| head.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let kind = text(CONTENT_TYPE).and_then(|value| value.split(';').next()).unwrap_or_default();
    let kind = kind.trim().to_ascii_lowercase();
    let is_json = kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"));
    let is_plain = text(CONTENT_ENCODING).is_none_or(|value| value.eq_ignore_ascii_case("identity"));
    is_json && is_plain && head.status != StatusCode::PARTIAL_CONTENT
}

/// A body on its way.
struct Passing {
    incoming: Incoming,
    silence: Arc<Silence>,
    changes: Option<(Rewriter, Option<Injector>)>,
    /// What came and is not handed on.
    rest: Bytes,
    is_over: bool,
    /// They end when the resource's part is over, however long the client takes.
    turns: Vec<Turn>,
    place: Arc<StreamPlace>,
}

impl Passing {
    fn new(
        incoming: Incoming,
        silence: Arc<Silence>,
        changes: Option<(Rewriter, Option<Injector>)>,
        turns: Vec<Turn>,
        place: Arc<StreamPlace>,
    ) -> Self {
        Passing { incoming, silence, changes, rest: Bytes::new(), is_over: false, turns, place }
    }

    /// The parts of a body as they come, none longer than its connection takes at once.
    fn parts(self) -> impl Stream<Item = Result<Bytes, BrokenOff>> + Send + 'static {
        stream::unfold(self, |mut passing| async move {
            let part = passing.next().await?;
            Some((part, passing))
        })
    }

    async fn next(&mut self) -> Option<Result<Bytes, BrokenOff>> {
        // The client takes what came at its own pace, and that is no silence of the resource.
        self.silence.breaks();
        while self.rest.is_empty() {
            if self.is_over {
                return None;
            }
            let frame = tokio::select! {
                biased;
                frame = self.incoming.frame() => frame,
                () = self.silence.is_over() => return Some(Err(BrokenOff)),
            };
            self.silence.breaks();
            match (frame, &mut self.changes) {
                (Some(Err(_)), _) => return Some(Err(BrokenOff)),
                // (Trailers end with their connection.)
                (Some(Ok(frame)), None) => self.rest = frame.into_data().unwrap_or_default(),
                (Some(Ok(frame)), Some((rewriter, injector))) => {
                    self.rest = rewriter.take(&frame.into_data().unwrap_or_default());
                    if let Some(injector) = injector {
                        let mut out = Vec::new();
                        injector.take(&self.rest, &mut out);
                        self.rest = out.into();
                    }
                }
                (None, _) => {
                    self.is_over = true;
                    self.turns.clear();
                    if let Some((rewriter, _)) = self.changes.take() {
                        self.rest = rewriter.end();
                    }
                }
            }
        }
        Some(Ok(self.rest.split_to(self.place.part(self.rest.len()))))
    }
}
