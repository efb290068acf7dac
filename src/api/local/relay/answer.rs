//! The answer to a relayed request, as it goes back to the caller.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_TYPE, LOCATION};
use http::response::Parts;
use http::{HeaderName, HeaderValue, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;

use super::batch::BatchAnswer;
use super::body::Sent;
use super::pace::{Lent, Pace};
use super::{NoAnswer, no_answer};
use crate::api::problem::Problem;
use crate::broker::Turns;
use crate::domain::task::Tasks;
use crate::domain::text::chain;
use crate::domain::time::Clock;
use crate::listener::{AnswerBody, BrokenOff, GivesWay, Part, Response, StreamPlace};
use crate::outbound::{Answered, ResourceAnswerBody, ResourceFault, Silence, retry_after};
use crate::relay::{self, Injector, Links, Rewriter, Throttled};

/// The first bytes of a body of at most this length are awaited before the answer begins. A body that is
/// whole with them leaves with the head; if it breaks off before, the caller is told.
const SHORT: u64 = 8 * 1024;

/// Fields that are links.
const LINKS: [HeaderName; 3] = [LOCATION, CONTENT_LOCATION, HeaderName::from_static("operation-location")];

/// A resource's answer, of which the head has come.
pub(super) struct Answer {
    answer: Answered,
    along: Along,
    sent: Sent,
    gives_way: GivesWay,
}

/// What goes along with an answer until its end.
pub(super) struct Along {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) silence: Arc<Silence>,
    /// How fast the caller takes it.
    pub(super) pace: Arc<Pace>,
    /// Of a batch: what belongs into its answer.
    pub(super) batch: Option<BatchAnswer>,
    /// The turns at the mailboxes. They end when the resource's part is over, however long the client takes.
    pub(super) turns: Turns,
    /// Where others may wait for the turns: runs what watches over a slow client.
    pub(super) tasks: Option<Arc<dyn Tasks>>,
}

impl Answer {
    /// Takes an answer.
    pub(super) fn new(answer: Answered, along: Along, sent: Sent, gives_way: GivesWay) -> Self {
        Answer { answer, along, sent, gives_way }
    }

    /// Returns its status.
    pub(super) fn status(&self) -> StatusCode {
        self.answer.status()
    }

    /// Whether it is a batch's in which there is no place for the answers of what was refused.
    pub(super) fn loses_refusals(&self) -> bool {
        let has_some = self.along.batch.as_ref().is_some_and(|parts| !parts.refused.is_empty());
        let head = self.answer.head();
        has_some && head.status.is_success() && (!is_json(head) || self.answer.body().is_end_stream())
    }

    /// Makes the caller's answer, with this place for its body. Links to a base lead through the relay;
    /// `origin` is that of the request's URL.
    ///
    /// # Errors
    /// A short body broke off, or the caller's connection must give way.
    pub(super) async fn response(
        self,
        place: Arc<StreamPlace>,
        is_head: bool,
        (links, origin): (Arc<Links>, String),
    ) -> Result<Response, NoAnswer> {
        let Answer { answer, along, sent, gives_way } = self;
        along.silence.breaks();
        let (head, body) = answer.into_parts();
        let has_none = matches!(
            head.status,
            StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
        );
        let body = match is_head || has_none || body.is_end_stream() {
            true => {
                let mut turns = along.turns;
                turns.over();
                AnswerBody::default()
            }
            false => {
                let changes = is_json(&head).then(|| Changes::new(&links, along.batch.as_ref(), head.status));
                let length = body.size_hint().exact();
                let mut known = length.filter(|_| changes.is_none());
                let mut passing = Passing::new(body, changes, along, Arc::clone(&place));
                if length.is_some_and(|length| length <= SHORT) {
                    tokio::select! {
                        biased;
                        came = passing.fill() => came.map_err(|fault| no_answer(&sent, &fault))?,
                        () = gives_way.happens() => return Err((gave_way(), None)),
                    }
                }
                if passing.is_over {
                    known = Some(passing.rest.len() as u64);
                }
                match known {
                    Some(0) => AnswerBody::default(),
                    _ => AnswerBody::relayed(place, known, parts(passing)),
                }
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        *response.headers_mut() = relay::for_caller(&head.headers);
        for name in LINKS {
            let field = response.headers().get(&name).and_then(|value| value.to_str().ok());
            let links = field.and_then(|field| links.turned_field(field, &origin));
            if let Some(value) = links.and_then(|link| HeaderValue::from_str(&link).ok()) {
                response.headers_mut().insert(name, value);
            }
        }
        // (The length of what a GET would have. JSON is changed on its way, so its length is not known.)
        let has_length = is_head && !is_json(&head) && head.status != StatusCode::NO_CONTENT;
        if let Some(length) = head.headers.get(CONTENT_LENGTH).filter(|_| has_length) {
            response.headers_mut().insert(CONTENT_LENGTH, length.clone());
        }
        Ok(response)
    }
}

/// What a caller is told whose connection must give way. (The resource may have done what was asked.)
fn gave_way() -> Problem {
    Problem::relay_failed(502, "the answer was not awaited, because others need the room of this connection")
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

/// What changes in a body in JSON, and what is read from it.
struct Changes {
    rewriter: Rewriter,
    injector: Injector,
    /// A batch's requests may each be told to come later, and have fields.
    throttled: Option<Throttled>,
    /// What was refused of a batch must be in the answer of one that succeeded.
    is_whole_with_refusals: bool,
}

impl Changes {
    fn new(links: &Arc<Links>, batch: Option<&BatchAnswer>, status: StatusCode) -> Self {
        Changes {
            rewriter: Rewriter::new(Arc::clone(links)),
            injector: Injector::new(batch.map(|parts| &parts.refused[..]).unwrap_or_default()),
            throttled: batch.map(|_| Throttled::default()),
            is_whole_with_refusals: status.is_success(),
        }
    }
}

/// A body on its way.
struct Passing {
    /// While the next part is waited for.
    held: Option<Held>,
    /// While the client takes its time.
    lent: Option<Lent<Held>>,
    changes: Option<Changes>,
    along: Along,
    /// What came and is not handed on.
    rest: Bytes,
    is_over: bool,
    /// When (monotonic) the last part was handed on, and how long it was.
    handed: (Option<Duration>, usize),
    place: Arc<StreamPlace>,
}

/// What is given up when a client is too slow.
struct Held {
    body: ResourceAnswerBody,
    turns: Turns,
}

/// The parts of a body as they come, none longer than its connection takes at once.
fn parts(passing: Passing) -> impl Stream<Item = Result<Part, BrokenOff>> + Send + 'static {
    stream::unfold(passing, |mut passing| async move {
        let part = passing.next().await?;
        Some((part, passing))
    })
}

impl Passing {
    fn new(
        body: ResourceAnswerBody,
        changes: Option<Changes>,
        mut along: Along,
        place: Arc<StreamPlace>,
    ) -> Self {
        let held = Some(Held { body, turns: std::mem::take(&mut along.turns) });
        let rest = Bytes::new();
        Passing { held, lent: None, changes, along, rest, is_over: false, handed: (None, 0), place }
    }

    /// The client has the last part. It takes its time, and has what it holds up lent meanwhile.
    fn lends(&mut self, now: Duration) {
        let Some(tasks) = self.along.tasks.as_ref().filter(|_| !self.is_over) else { return };
        let Some(held) = self.held.take() else { return };
        let lent = self.lent.get_or_insert_with(|| {
            let (lent, watch) = Lent::new(Arc::clone(&self.along.pace));
            tasks.spawn("watch over a relayed answer", watch);
            lent
        });
        lent.lend(held, now);
    }

    async fn next(&mut self) -> Option<Result<Part, BrokenOff>> {
        // The client takes what came at its own pace, and that is no silence of the resource. But it may be
        // too slow for others.
        self.along.silence.breaks();
        let (since, bytes) = std::mem::take(&mut self.handed);
        if let (None, Some(lent)) = (&self.held, &self.lent) {
            self.held = lent.take_back();
        }
        if !self.is_over && (self.held.is_none() || self.along.pace.is_too_slow(since, bytes)) {
            self.held = None;
            return Some(Err(BrokenOff));
        }
        if self.fill().await.is_err() {
            self.held = None;
            return Some(Err(BrokenOff));
        }
        if self.rest.is_empty() {
            return None;
        }
        let bytes = self.rest.split_to(self.place.part(self.rest.len()));
        let now = self.along.pace.now();
        self.handed = (Some(now), bytes.len());
        self.lends(now);
        Some(Ok(Part { bytes, is_last: self.is_over && self.rest.is_empty() }))
    }

    /// Waits until there is something to hand on, or nothing more comes.
    async fn fill(&mut self) -> Result<(), ResourceFault> {
        while self.rest.is_empty() && !self.is_over {
            let given_up = || ResourceFault::BrokeOff("the caller was too slow".to_owned());
            let held = self.held.as_mut().ok_or_else(given_up)?;
            let frame = tokio::select! {
                biased;
                frame = held.body.frame() => frame,
                () = self.along.silence.is_over() => return Err(self.along.silence.fault()),
            };
            self.along.silence.breaks();
            // (Trailers end with their connection.)
            let data = frame.transpose().map_err(|error| ResourceFault::BrokeOff(chain(&error)))?;
            let data = data.map(|frame| frame.into_data().unwrap_or_default());
            if data.is_none() && held.body.is_cut() {
                return Err(ResourceFault::BrokeOff("the stream was reset before its end".to_owned()));
            }
            // (The end of HTTP/2 may come by itself, after all that was announced.)
            let is_last =
                data.is_none() || held.body.is_end_stream() || held.body.size_hint().exact() == Some(0);
            let came = data.map(|data| self.changed(data)).transpose()?.unwrap_or_default();
            self.rest = match is_last {
                true => self.ended(came)?,
                false => came,
            };
        }
        Ok(())
    }

    /// Nothing more comes behind this.
    fn ended(&mut self, came: Bytes) -> Result<Bytes, ResourceFault> {
        self.is_over = true;
        if let Some(held) = &mut self.held {
            held.turns.over();
        }
        let Some(changes) = self.changes.take() else { return Ok(came) };
        if changes.is_whole_with_refusals && !changes.injector.is_done() {
            let what = "the batch's answer has no place for the answers of refused requests";
            return Err(ResourceFault::BrokeOff(what.to_owned()));
        }
        let kept = changes.rewriter.end();
        Ok(if kept.is_empty() { came } else { [came, kept].concat().into() })
    }

    /// What is handed on of a piece that came.
    fn changed(&mut self, piece: Bytes) -> Result<Bytes, ResourceFault> {
        let Some(changes) = &mut self.changes else { return Ok(piece) };
        let said = changes.throttled.as_mut().map(|throttled| throttled.take(&piece)).unwrap_or_default();
        // (The answers of what was refused are in one of them, and the caller may read the other.)
        if said.is_twice {
            return Err(ResourceFault::BrokeOff("the batch's answer has `responses` twice".to_owned()));
        }
        let mut turned = changes.rewriter.take(&piece, &said.fields);
        if !changes.injector.is_done() {
            let mut out = Vec::new();
            changes.injector.take(&turned, &mut out);
            turned = out.into();
        }
        for one in said.later {
            let mut ids = self.along.batch.iter().flat_map(|parts| &parts.ids);
            let after = retry_after(&one.after, self.along.clock.now());
            if let (Some(at), Some(after), Some(held)) = (ids.position(|id| *id == one.id), after, &self.held)
            {
                held.turns.close_one_for(at, after);
            }
        }
        Ok(turned)
    }
}
