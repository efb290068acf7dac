//! One request and its answer, over either protocol.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt as _;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Uri, header};
use hyper::body::Incoming;

use super::answer::Streams;
use super::body::{Body, Keeper};
use super::client_certificate::{ClientCertificate, PeerCertificate};
use super::date::Date;
use super::room::Room;
use super::traced::{self, Tracing};
use super::{Handler, Limits, Pairs, Peer, Refused, Request, RequestId, Response, Surroundings};
use crate::domain::random::Stock;
use crate::span::{Span, within};
use crate::telemetry::metrics::ListenerMetrics;

/// State shared by all connections of a listener.
pub(super) struct Shared {
    pub(super) name: &'static str,
    pub(super) tracing: Tracing,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) limits: Limits,
    pub(super) surroundings: Surroundings,
    pub(super) metrics: ListenerMetrics,
    /// For ids of requests.
    pub(super) ids: Stock,
    pub(super) date: Date,
}

/// A request as its protocol has read it.
pub(super) struct Asked {
    pub(super) head: Parts,
    pub(super) incoming: Incoming,
    pub(super) peer: Peer,
    pub(super) certificate: Option<Arc<ClientCertificate>>,
    pub(super) keeper: Arc<dyn Keeper>,
    pub(super) room: Arc<Room>,
    /// Why its protocol refuses it.
    pub(super) refused: Option<Refused>,
}

/// A request until it is answered.
pub(super) struct Exchange<'a> {
    shared: &'a Shared,
    uri: Uri,
    request_id: RequestId,
    /// True if its body could not be read.
    broken: Arc<AtomicBool>,
    is_distrusted: AtomicBool,
    /// For one that is traced.
    span: Option<Box<Span>>,
}

impl<'a> Exchange<'a> {
    /// Takes the target out of the head. `id` is the request's, if it has one already.
    pub(super) fn begin(shared: &'a Shared, head: &mut Parts, id: Option<RequestId>) -> Self {
        let request_id = id.unwrap_or_else(|| RequestId::of(&head.headers, &shared.ids));
        let span = shared.tracing.begin(head, &request_id);
        let (broken, is_distrusted) = (Arc::default(), AtomicBool::new(false));
        Exchange { shared, uri: std::mem::take(&mut head.uri), request_id, broken, is_distrusted, span }
    }

    /// Has the handler answer, or refuses in its place.
    pub(super) async fn respond(&self, asked: Asked) -> Response {
        let Asked { head, incoming, mut peer, certificate, keeper, room, refused } = asked;
        let clock = &self.shared.surroundings.clock;
        if let Some(certificate) = &certificate {
            peer.certificate = certificate.now(clock.as_ref());
            self.is_distrusted.store(peer.certificate == PeerCertificate::Distrusted, Ordering::Relaxed);
        }
        if let Some(span) = &self.span {
            traced::comes_from(span, &peer);
        }
        if let Some(refused) = refused.or_else(|| self.too_much()) {
            return self.refuse(refused);
        }
        let wide = Arc::clone(&keeper);
        let streams = Streams::of(room, peer.origin, certificate, Arc::clone(clock), wide);
        let body = Body::wire(
            (incoming, &head.headers),
            &self.shared.limits,
            Arc::clone(clock),
            Arc::clone(&self.broken),
            keeper,
        );
        let request = Request {
            method: head.method,
            path: self.uri.path().to_owned(),
            query: self.uri.query().map(str::to_owned),
            headers: head.headers,
            peer,
            request_id: self.request_id.clone(),
            body,
            streams,
        };
        let handled = catching(self.shared.handler.as_ref(), request);
        let handled = match &self.span {
            None => handled.await,
            // (Boxed, so that the future of a request that is not traced stays small.)
            Some(span) => Box::pin(within(Some(span), handled)).await,
        };
        match handled {
            Some(response) => response,
            None => {
                self.shared.metrics.panicked();
                let (listener, request_id) = (self.shared.name, &self.request_id);
                tracing::error!(listener, request_id = %request_id, "a handler panicked");
                self.refuse(Refused::Panicked)
            }
        }
    }

    fn too_much(&self) -> Option<Refused> {
        let length = self.uri.path_and_query().map_or(1, |target| target.as_str().len());
        if length > self.shared.limits.max_uri {
            return Some(Refused::TargetTooLong);
        }
        let query = self.uri.query().unwrap_or_default();
        Pairs::are_too_many(query.as_bytes()).then_some(Refused::TooManyParameters)
    }

    pub(super) fn refuse(&self, refused: Refused) -> Response {
        self.shared.handler.refuse(refused, self.uri.path(), &self.request_id)
    }

    /// Returns true if its client certificate is not trusted any more.
    pub(super) fn is_distrusted(&self) -> bool {
        self.is_distrusted.load(Ordering::Relaxed)
    }

    /// Returns true if nothing more can be read behind it, or is to be.
    pub(super) fn has_failed(&self) -> bool {
        self.broken.load(Ordering::Acquire) || self.is_distrusted()
    }

    /// Counts the answer and adds the headers that every one has.
    pub(super) fn finished(&self, response: Response) -> Response {
        if let Some(span) = &self.span {
            traced::answered(span, response.status());
        }
        finished(self.shared, response, &self.request_id)
    }
}

/// Returns the bytes that a head keeps in memory until its request is answered: the received text and what
/// was parsed from it.
pub(super) fn kept_of(uri: &Uri, headers: &HeaderMap) -> usize {
    const ENTRY: usize = 104;
    let target = uri.path_and_query().map_or(0, |target| target.as_str().len());
    let lines = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ENTRY);
    2 * target + lines.sum::<usize>()
}

pub(super) fn length_of(response: &Response) -> usize {
    usize::try_from(hyper::body::Body::size_hint(response.body()).lower()).unwrap_or(usize::MAX)
}

/// Counts an answer and adds the headers that every one has.
pub(super) fn finished(shared: &Shared, mut response: Response, request_id: &RequestId) -> Response {
    shared.metrics.http_request(response.status());
    let headers = response.headers_mut();
    headers.remove(header::SERVER);
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Ok(value) = HeaderValue::from_str(request_id.as_str()) {
        headers.insert("x-request-id", value);
    }
    response
}

/// Returns the handler's response, or `None` if it panicked.
async fn catching(handler: &dyn Handler, request: Request) -> Option<Response> {
    let handling = catch_unwind(AssertUnwindSafe(|| handler.handle(request))).ok()?;
    AssertUnwindSafe(handling).catch_unwind().await.ok()
}
