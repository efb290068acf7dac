//! One connection: its deadlines, its requests, its end.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{HeaderValue, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::alarm::Alarm;
use super::answer::Paced;
use super::at_once::{Lane, text_of};
use super::client_certificate::ClientCertificate;
use super::exchange::{Asked, Exchange, Shared, finished, kept_of, length_of};
use super::guarded::Guarded;
use super::pulse::{Phase, Pulse};
use super::room::Reservation;
use super::signals::Signals;
use super::socket::Socket;
use super::tcp::LARGE_READ;
use super::wire::{REST, Wire};
use super::{Limits, Peer, Refused, RequestId, Response};
use crate::domain::task::BoxFuture;
use crate::domain::time::Clock;
use crate::telemetry::metrics::{ConnectionRefusal, Protocol};

/// How long a closed connection is still read. Otherwise data on its way from the client makes the kernel
/// reset the connection before the client has seen our answer.
const LINGER: Duration = Duration::from_millis(500);
/// Most bytes read in that time.
const LINGER_BYTES: usize = 256 * 1024;

/// How long a connection that is to close, and has no request, waits for one that may be on its way. Its
/// answer says that the connection closes; to a client, an end without one looks like a failure.
const COMES: Duration = Duration::from_secs(1);

/// How long a connection that must give way may take to receive its last answer.
pub(super) const LEAVE: Duration = Duration::from_secs(1);

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
    shared.metrics.connection_speaks(Protocol::Http1);
    let pulse = Arc::new(Pulse::new(place, Arc::clone(&shared.surroundings.clock)));
    if !pulse.certificate_kept(certificate.as_ref().map_or(0, ClientCertificate::kept)) {
        return shared.metrics.connection_refused(ConnectionRefusal::GaveWay);
    }
    let certificate = certificate.map(Arc::new);
    let lane = Lane::new(Arc::clone(&shared), peer.clone(), certificate.clone());
    let guarded = Guarded::new(socket, limits, Arc::clone(&pulse), lane);
    let service = {
        let (shared, pulse) = (Arc::clone(&shared), Arc::clone(&pulse));
        service_fn(move |request: hyper::Request<Incoming>| {
            let (shared, pulse, peer) = (Arc::clone(&shared), Arc::clone(&pulse), peer.clone());
            let certificate = certificate.clone();
            pulse.request_came();
            async move {
                let response = answer(&shared, request, peer, certificate, &pulse).await;
                Ok::<_, Infallible>(response.map(|body| Paced::new(body, &pulse)))
            }
        })
    };
    let make_hyper = |guarded, service| {
        http1::Builder::new()
            .half_close(false)
            .header_read_timeout(None)
            .max_headers(limits.max_headers)
            .max_header_size(limits.max_header_bytes)
            .max_buf_size(LARGE_READ)
            .serve_connection(guarded, service)
    };
    let mut wire = Wire::new(guarded, service, make_hyper, Arc::clone(&pulse));

    let mut broke = false;
    let end = {
        let shutdown = &shared.surroundings.shutdown;
        let clock = shared.surroundings.clock.as_ref();
        let mut timer = Timer::new(clock, limits, &pulse);
        let mut soft = pin!(shutdown.soft().cancelled());
        let mut hard = pin!(shutdown.hard().cancelled());
        let mut told = pin!(pulse.told());
        let signals = Signals::new();
        let (mut closing, mut gives_way) = (false, false);
        // Whether the wire is to be told that the connection closes.
        let mut untold = false;
        let mut leave: Option<BoxFuture<'static, ()>> = None;
        let mut comes: Option<BoxFuture<'static, ()>> = None;
        let mut waited = false;
        std::future::poll_fn(|cx| {
            let rings = signals.have_come(cx);
            if rings {
                let cx = &mut Context::from_waker(signals.waker());
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
                    untold = true;
                    pulse.close();
                }
                if !closing && soft.as_mut().poll(cx).is_ready() {
                    closing = true;
                    untold = true;
                    pulse.close();
                }
            }
            loop {
                // It would close at once, also while a request is answered beside hyper; the end of that one
                // closes the connection by itself.
                if untold && !pulse.is_beside() {
                    if !waited && pulse.awaits_a_request() {
                        let comes = comes.get_or_insert_with(|| clock.sleep(COMES));
                        waited = comes.as_mut().poll(cx).is_ready();
                    }
                    if waited || !pulse.awaits_a_request() {
                        untold = false;
                        wire.close();
                    }
                }
                if let Poll::Ready(result) = wire.poll(cx) {
                    if let Err(error) = result {
                        broke = true;
                        tracing::debug!(listener = shared.name, %error, "a connection broke");
                    }
                    return Poll::Ready(End::Closed);
                }
                // What it waited for has come.
                if untold && !pulse.is_beside() && !pulse.awaits_a_request() {
                    continue;
                }
                // It ends with its answer, which most clients take at once.
                if gives_way && !pulse.is_answering() {
                    let leave = leave.get_or_insert_with(|| clock.sleep(LEAVE));
                    if !pulse.is_untaken() || leave.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(End::GaveWay);
                    }
                }
                match timer.poll(rings, signals.waker()) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Due::TooSlow) => return Poll::Ready(End::TooSlow),
                    Poll::Ready(Due::Rest) => wire.rest(),
                    Poll::Ready(Due::TooOld) => {
                        closing = true;
                        untold = true;
                        pulse.close();
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
                wire.into_guarded().into_socket().forget_unsent();
            }
        }
        End::Closed => {
            let guarded = wire.into_guarded();
            if let Some(violation) = guarded.violation() {
                shared.metrics.connection_refused(ConnectionRefusal::Malformed);
                tracing::debug!(listener = shared.name, reason = violation.reason(), "a malformed request");
            }
            let refused = guarded.refused_head();
            let path = guarded.overlong_path().to_owned();
            let mut socket = guarded.into_socket();
            if let Some(refused) = refused {
                refuse_head(&shared, &mut socket, refused, &path).await;
            } else if broke && pulse.ends_by_closing() {
                // An answer that broke off must not look whole.
                return socket.forget_unsent();
            }
            // (If the client has ended it, there is nothing to linger for but the end of TLS.)
            linger(&shared, socket).await;
        }
    }
}

/// Answers a head that is malformed or too long. No handler sees it, and the connection ends.
async fn refuse_head(shared: &Shared, socket: &mut Box<dyn Socket>, refused: Refused, path: &str) {
    let request_id = RequestId::new(shared.surroundings.random.as_ref());
    let response = shared.handler.refuse(refused, path, &request_id);
    let response = finished(shared, response, &request_id);
    let (mut bytes, body) = text_of(response, true, shared);
    bytes.extend_from_slice(&body);
    tokio::select! {
        // A client that is gone does not need the answer.
        _ = socket.write_all(&bytes) => {}
        () = shared.surroundings.clock.sleep(LINGER) => {}
        () = shared.surroundings.shutdown.hard().cancelled() => {}
    }
}

/// Closes our side, then reads and discards until the client closes too, for a short time.
pub(super) async fn linger(shared: &Shared, mut socket: Box<dyn Socket>) {
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
    /// No request has come for a while.
    Rest,
    TooOld,
}

/// All deadlines of a connection.
struct Timer<'a> {
    clock: &'a dyn Clock,
    limits: &'a Limits,
    pulse: &'a Pulse,
    beats: u32,
    /// When the current phase must end.
    phase_ends: Option<Duration>,
    /// When hyper is left without a request for too long.
    rest_begins: Option<Duration>,
    /// When the connection becomes too old; `None` after that.
    age_ends: Option<Duration>,
    alarm: Alarm<'a>,
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
            rest_begins: None,
            age_ends: Some(now + limits.max_age),
            alarm: Alarm::new(clock),
        }
    }

    /// `rings`: the waker has been woken since the last poll.
    fn poll(&mut self, rings: bool, waker: &Waker) -> Poll<Due> {
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
            let now = limit.map(|_| self.clock.monotonic());
            self.phase_ends = now.zip(limit).map(|(now, limit)| now + limit);
            let may_rest = self.pulse.has_hyper() && self.pulse.phase() == Phase::Idle;
            self.rest_begins = now.filter(|_| may_rest).map(|now| now + REST);
        }
        let taken_ends = self.pulse.must_be_taken(self.limits.answer_taken);
        let ends = [self.phase_ends, taken_ends, self.rest_begins, self.age_ends];
        if !self.alarm.rings(ends.into_iter().flatten().min(), rings, waker) {
            return Poll::Pending;
        }
        let now = self.clock.monotonic();
        if [self.phase_ends, taken_ends].into_iter().flatten().any(|end| end <= now) {
            return Poll::Ready(Due::TooSlow);
        }
        if self.rest_begins.take_if(|begins| *begins <= now).is_some() {
            // (An answer that is not taken keeps hyper.)
            self.rest_begins = self.pulse.is_untaken().then(|| now + REST);
            return Poll::Ready(Due::Rest);
        }
        self.age_ends = None;
        Poll::Ready(Due::TooOld)
    }
}

async fn answer(
    shared: &Shared,
    request: hyper::Request<Incoming>,
    peer: Peer,
    certificate: Option<Arc<ClientCertificate>>,
    pulse: &Arc<Pulse>,
) -> Response {
    let (mut head, incoming) = request.into_parts();
    pulse.request_is(head.version, &incoming);
    let has_room = pulse.head_came(kept_of(&head.uri, &head.headers));
    pulse.answer_before_is_taken().await;
    pulse.request_began();
    let exchange = Exchange::begin(shared, &mut head, pulse.take_id());
    let refused = (!has_room).then_some(Refused::Overloaded);
    let (keeper, room) = (Arc::clone(pulse) as _, pulse.room());
    let mut response =
        exchange.respond(Asked { head, incoming, peer, certificate, keeper, room, refused }).await;
    // (hyper may have the answer before it hears that the connection is to close.)
    let mut closes = !has_room || exchange.has_failed() || pulse.closes();
    if response.body().is_stream() {
        pulse.stream_began();
    } else if !pulse.request_ended(length_of(&response)) {
        closes = true;
        response = exchange.refuse(Refused::Overloaded);
    }
    response = exchange.finished(response);
    // (Otherwise its client would send the next request into a connection that ends: RFC 9112 section 9.6.)
    if closes || pulse.leaves_body() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
