//! One connection: its deadlines, its requests, its end.

use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt as _;
use http::{HeaderValue, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::answer::{Paced, Streams};
use super::client_certificate::{ClientCertificate, PeerCertificate};
use super::guard::{Guarded, Socket};
use super::pulse::{Phase, Pulse};
use super::room::Reservation;
use super::{Body, Handler, Limits, Pairs, Peer, Refused, Request, RequestId, Response, Surroundings};
use crate::domain::task::BoxFuture;
use crate::domain::time::Clock;
use crate::telemetry::metrics::{ConnectionRefusal, ListenerMetrics};

/// How long a closed connection is still read. Otherwise data on its way from the client makes the kernel
/// reset the connection before the client has seen our answer.
const LINGER: Duration = Duration::from_millis(500);
/// Most bytes read in that time.
const LINGER_BYTES: usize = 256 * 1024;

/// How long a connection that must give way may take to receive its last answer.
const LEAVE: Duration = Duration::from_secs(1);

/// State shared by all connections of a listener.
pub(super) struct Shared {
    pub(super) name: &'static str,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) limits: Limits,
    pub(super) surroundings: Surroundings,
    pub(super) metrics: ListenerMetrics,
}

/// Reason why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Either side closed it, or the socket failed.
    Closed,
    /// The client was too slow.
    TooSlow,
    /// Others needed its room, and it had waited longest.
    GaveWay,
    /// The process stops at once.
    Aborted,
}

/// Serves one connection until it ends.
pub(super) async fn serve(
    shared: Arc<Shared>,
    socket: Box<dyn Socket>,
    peer: Peer,
    certificate: Option<ClientCertificate>,
    place: Reservation,
) {
    let limits = &shared.limits;
    let pulse = Arc::new(Pulse::new(place, Arc::clone(&shared.surroundings.clock)));
    if !pulse.certificate_kept(certificate.as_ref().map_or(0, ClientCertificate::kept)) {
        return shared.metrics.connection_refused(ConnectionRefusal::GaveWay);
    }
    let certificate = certificate.map(Arc::new);
    let guarded = Guarded::new(socket, limits, Arc::clone(&pulse));
    let service = {
        let (shared, pulse) = (Arc::clone(&shared), Arc::clone(&pulse));
        service_fn(move |request: hyper::Request<Incoming>| {
            let (shared, pulse, peer) = (Arc::clone(&shared), Arc::clone(&pulse), peer.clone());
            let certificate = certificate.clone();
            async move {
                let response = answer(&shared, request, peer, certificate, &pulse).await;
                Ok::<_, Infallible>(response.map(|body| Paced::new(body, &pulse)))
            }
        })
    };
    let mut connection = http1::Builder::new()
        .half_close(false)
        .header_read_timeout(None)
        .max_headers(limits.max_headers)
        .max_header_size(limits.max_header_bytes)
        .max_buf_size(limits.max_header_bytes.max(8192))
        .serve_connection(TokioIo::new(guarded), service);

    let end = {
        let shutdown = &shared.surroundings.shutdown;
        let clock = shared.surroundings.clock.as_ref();
        let mut timer = Timer::new(clock, limits, &pulse);
        let mut soft = pin!(shutdown.soft().cancelled());
        let mut hard = pin!(shutdown.hard().cancelled());
        let mut told = pin!(pulse.told());
        let (mut closing, mut gives_way) = (false, false);
        let mut leave: Option<BoxFuture<'static, ()>> = None;
        std::future::poll_fn(|cx| {
            if hard.as_mut().poll(cx).is_ready() {
                return Poll::Ready(End::Aborted);
            }
            if !gives_way && told.as_mut().poll(cx).is_ready() {
                gives_way = true;
                if !pulse.is_answering() && !pulse.is_untaken() {
                    return Poll::Ready(End::GaveWay);
                }
                // The body gets an error and answers with it; then the connection ends.
                closing = true;
                pulse.close();
                Pin::new(&mut connection).graceful_shutdown();
            }
            if !closing && soft.as_mut().poll(cx).is_ready() {
                closing = true;
                pulse.close();
                Pin::new(&mut connection).graceful_shutdown();
            }
            loop {
                if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                    if let Err(error) = result {
                        tracing::debug!(listener = shared.name, %error, "a connection broke");
                    }
                    return Poll::Ready(End::Closed);
                }
                // It ends with its answer, which most clients take at once.
                if gives_way && !pulse.is_answering() {
                    let leave = leave.get_or_insert_with(|| clock.sleep(LEAVE));
                    if !pulse.is_untaken() || leave.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(End::GaveWay);
                    }
                }
                match timer.poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Due::TooSlow) => return Poll::Ready(End::TooSlow),
                    Poll::Ready(Due::TooOld) => {
                        closing = true;
                        pulse.close();
                        Pin::new(&mut connection).graceful_shutdown();
                    }
                }
            }
        })
        .await
    };

    // A connection that had to give way counts as that, whatever happened afterwards, and is not waited for.
    let end = if pulse.gives_way() && end != End::Aborted { End::GaveWay } else { end };
    match end {
        End::Aborted => {}
        End::GaveWay | End::TooSlow => {
            if end == End::GaveWay {
                shared.metrics.connection_refused(ConnectionRefusal::GaveWay);
            } else if pulse.phase() != Phase::Idle || pulse.is_untaken() {
                shared.metrics.connection_refused(ConnectionRefusal::TooSlow);
            }
            if pulse.is_untaken() {
                connection.into_parts().io.into_inner().into_socket().forget_unsent();
            }
        }
        End::Closed => {
            let guarded = connection.into_parts().io.into_inner();
            if let Some(violation) = guarded.violation() {
                shared.metrics.connection_refused(ConnectionRefusal::Malformed);
                tracing::debug!(listener = shared.name, reason = violation.reason(), "a malformed request");
            }
            let (ended, refused) = (guarded.ended(), guarded.refused_head());
            let mut socket = guarded.into_socket();
            if refused {
                refuse_head(&shared, &mut socket).await;
            }
            if !ended {
                linger(&shared, socket).await;
            }
        }
    }
}

/// Answers a head that was too long. No handler sees it, and the connection ends.
async fn refuse_head(shared: &Shared, socket: &mut Box<dyn Socket>) {
    let request_id = RequestId::new(shared.surroundings.random.as_ref());
    let response = finished(shared.handler.refuse(Refused::HeadTooLarge, None, &request_id), &request_id);
    shared.metrics.http_request(response.status());
    let (head, body) = response.into_parts();
    let Ok(body) = body.collect().await;
    let body = body.to_bytes();
    let mut bytes = format!("HTTP/1.1 {}\r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        bytes.extend_from_slice(format!("{name}: ").as_bytes());
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
        .extend_from_slice(format!("content-length: {}\r\nconnection: close\r\n\r\n", body.len()).as_bytes());
    bytes.extend_from_slice(&body);
    tokio::select! {
        // A client that is gone does not need the answer.
        _ = socket.write_all(&bytes) => {}
        () = shared.surroundings.clock.sleep(LINGER) => {}
        () = shared.surroundings.shutdown.hard().cancelled() => {}
    }
}

/// Closes our side, then reads and discards until the client closes too, for a short time.
async fn linger(shared: &Shared, mut socket: Box<dyn Socket>) {
    let drain = async {
        if socket.shutdown().await.is_err() {
            return;
        }
        let mut left = LINGER_BYTES;
        let mut buffer = vec![0; 4096];
        while let Ok(read @ 1..) = socket.read(&mut buffer).await {
            left = left.saturating_sub(read);
            if left == 0 {
                return;
            }
        }
    };
    tokio::select! {
        () = drain => {}
        () = shared.surroundings.clock.sleep(LINGER) => {}
        () = shared.surroundings.shutdown.hard().cancelled() => {}
    }
}

enum Due {
    TooSlow,
    TooOld,
}

/// One sleep for all deadlines of a connection. The hot path (a whole request in one read) leaves it alone:
/// it fires early and is then set anew.
struct Timer<'a> {
    clock: &'a dyn Clock,
    limits: &'a Limits,
    pulse: &'a Pulse,
    beats: u32,
    /// When the current phase must end.
    phase_ends: Option<Duration>,
    /// When the connection becomes too old; `None` after that.
    age_ends: Option<Duration>,
    sleep: Option<(Duration, BoxFuture<'static, ()>)>,
}

impl<'a> Timer<'a> {
    fn new(clock: &'a dyn Clock, limits: &'a Limits, pulse: &'a Pulse) -> Self {
        let now = clock.monotonic();
        Timer {
            clock,
            limits,
            pulse,
            beats: pulse.beats(),
            phase_ends: Some(now + limits.first_byte),
            age_ends: Some(now + limits.max_age),
            sleep: None,
        }
    }

    fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Due> {
        let beats = self.pulse.beats();
        if beats != self.beats {
            self.beats = beats;
            let limit = match self.pulse.phase() {
                Phase::New => Some(self.limits.first_byte),
                Phase::Head => Some(self.limits.header_read),
                Phase::Idle => Some(self.limits.idle),
                // The handler, the body and each chunk of a stream have their own deadlines.
                Phase::Request | Phase::Stream => None,
            };
            self.phase_ends = limit.map(|limit| self.clock.monotonic() + limit);
        }
        loop {
            let taken_ends = self.pulse.must_be_taken(self.limits.answer_taken);
            let ends = [self.phase_ends, taken_ends, self.age_ends];
            let Some(due) = ends.into_iter().flatten().min() else { return Poll::Pending };
            let sleep = match &mut self.sleep {
                Some((until, sleep)) if *until <= due => sleep,
                _ => {
                    let left = due.saturating_sub(self.clock.monotonic());
                    &mut self.sleep.insert((due, self.clock.sleep(left))).1
                }
            };
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.sleep = None;
            let now = self.clock.monotonic();
            if [self.phase_ends, taken_ends].into_iter().flatten().any(|end| end <= now) {
                return Poll::Ready(Due::TooSlow);
            }
            if self.age_ends.is_some_and(|end| end <= now) {
                self.age_ends = None;
                return Poll::Ready(Due::TooOld);
            }
        }
    }
}

async fn answer(
    shared: &Shared,
    request: hyper::Request<Incoming>,
    mut peer: Peer,
    certificate: Option<Arc<ClientCertificate>>,
    pulse: &Arc<Pulse>,
) -> Response {
    let (head, incoming) = request.into_parts();
    let has_room = pulse.head_came(kept_of(&head));
    pulse.answer_before_is_taken().await;
    pulse.request_began();
    let request_id = RequestId::of(&head.headers, shared.surroundings.random.as_ref());
    let failed = Arc::new(AtomicBool::new(false));
    if let Some(certificate) = &certificate {
        peer.certificate = certificate.now(shared.surroundings.clock.as_ref());
        failed.store(peer.certificate == PeerCertificate::Distrusted, Ordering::Release);
    }
    let length = head.uri.path_and_query().map_or(1, |target| target.as_str().len());
    let uri = head.uri.clone();
    let refuse = |refused| shared.handler.refuse(refused, Some(uri.path()), &request_id);
    let mut response = if !has_room {
        failed.store(true, Ordering::Release);
        refuse(Refused::Overloaded)
    } else if length > shared.limits.max_uri {
        refuse(Refused::TargetTooLong)
    } else if head.uri.query().is_some_and(|query| Pairs::are_too_many(query.as_bytes())) {
        refuse(Refused::TooManyParameters)
    } else {
        let clock = Arc::clone(&shared.surroundings.clock);
        let streams = Streams::of(pulse.room(), peer.origin, certificate, Arc::clone(&clock));
        let request = Request {
            method: head.method,
            path: head.uri.path().to_owned(),
            query: head.uri.query().map(str::to_owned),
            headers: head.headers,
            peer,
            request_id: request_id.clone(),
            body: Body::wire(incoming, &shared.limits, clock, Arc::clone(&failed), Arc::clone(pulse)),
            streams,
        };
        match catching(shared.handler.as_ref(), request).await {
            Some(response) => response,
            None => {
                shared.metrics.panicked();
                tracing::error!(listener = shared.name, request_id = %request_id, "a handler panicked");
                refuse(Refused::Panicked)
            }
        }
    };
    if response.body().is_stream() {
        pulse.stream_began();
    } else if !pulse.request_ended(length_of(&response)) {
        failed.store(true, Ordering::Release);
        response = refuse(Refused::Overloaded);
    }
    shared.metrics.http_request(response.status());
    response = finished(response, &request_id);
    let headers = response.headers_mut();
    if failed.load(Ordering::Acquire) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Returns the bytes that a head keeps in memory until its request is answered: the received text and what
/// was parsed from it.
fn kept_of(head: &http::request::Parts) -> usize {
    const ENTRY: usize = 104;
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let lines = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ENTRY);
    2 * target + lines.sum::<usize>()
}

fn length_of(response: &Response) -> usize {
    usize::try_from(hyper::body::Body::size_hint(response.body()).lower()).unwrap_or(usize::MAX)
}

/// Adds the headers that every response has.
fn finished(mut response: Response, request_id: &RequestId) -> Response {
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
