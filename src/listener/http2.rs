//! One HTTP/2 connection: its deadlines, its requests, its end. The same limits hold as over HTTP/1, for the
//! connection as a whole and for each of its streams.
//!
//! hyper's tasks of single requests run in the connection's own task. So they end with it, and what they
//! report to its ledger is in order.
//!
//! ARCHITECTURE.md ("HTTP/2 is counted frame by frame") gives the reasons for the numbers.

mod body;
mod frames;
mod head;
mod ledger;
mod wire;

use std::convert::Infallible;
use std::error::Error as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use http::{Method, StatusCode, header};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;

use self::body::Counted;
use self::frames::Frames;
use self::head::Fault;
use self::ledger::{Account, Due, Ledger};
use self::wire::{Counts, Wire};
use super::alarm::Alarm;
use super::client_certificate::ClientCertificate;
use super::connection::{LEAVE, linger};
use super::exchange::{Asked, Exchange, Shared, kept_of, length_of};
use super::room::Reservation;
use super::socket::Socket;
use super::{AnswerBody, Limits, Peer, Refused};
use crate::domain::task::BoxFuture;
use crate::telemetry::metrics::{ConnectionRefusal, Protocol};

/// Most requests of a connection at a time. Clients assume 100 until they know; what is above this is refused
/// in a way that they repeat (REFUSED_STREAM).
const MOST_STREAMS: u32 = 64;
/// Bytes of bodies that may be on their way at once, on a connection and on a stream: the protocol's own
/// default, and the longest body.
const WINDOW: usize = 65_535;
/// Longest decoded head that the library hands on. Twice ours, so that what is too long has our answer.
const HEADER_LIST: u32 = 32 * 1024;
/// Most bytes of heads and bodies that a connection has us keep at a time. Others of the same peer have
/// theirs.
const MOST_OF_A_CLIENT: usize = 256 * 1024;
/// Most bytes of answers that wait for the client before another request begins.
const MOST_UNTAKEN: usize = 256 * 1024;
/// Streams that the library ends for their client's mistakes before it ends the connection.
const MOST_MISTAKES: usize = 16;
/// Requests that are taken back before we have seen them, of those that come at once.
const MOST_UNSEEN: usize = 20;
/// Least frame size that a client must be allowed, and the most that we take.
const FRAME: u32 = 16 * 1024;

const NO_ERROR: u32 = 0;
const ENHANCE_YOUR_CALM: u32 = 11;

/// Reason why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The client closed it, or the library has, or the socket failed.
    Closed,
    /// Nothing was under way, and nothing came.
    Gone,
    /// The client was too slow.
    TooSlow,
    /// Others needed its room, and it had waited longest.
    GaveWay,
    /// Its frames cost more than they brought.
    Flooded,
    /// It broke the protocol.
    Malformed,
    /// The process stops at once.
    Aborted,
}

/// Requests that the library hands over for us to run.
#[derive(Clone, Default)]
struct Handed(Arc<Mutex<Vec<BoxFuture<'static, ()>>>>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Handed {
    fn execute(&self, future: F) {
        self.0.lock().push(Box::pin(future));
    }
}

/// Serves one connection until it ends.
pub(super) async fn serve(
    shared: Arc<Shared>,
    socket: Box<dyn Socket>,
    peer: Peer,
    certificate: Option<ClientCertificate>,
    place: Reservation,
) {
    let clock = &shared.surroundings.clock;
    shared.metrics.connection_speaks(Protocol::Http2);
    let ledger = Arc::new(Ledger::new(place, Arc::clone(clock)));
    if !ledger.certificate_kept(certificate.as_ref().map_or(0, ClientCertificate::kept)) {
        return shared.metrics.connection_refused(ConnectionRefusal::GaveWay);
    }
    let counts = Counts::new(Frames::new(clock.monotonic()));
    let wire = Wire::new(socket, &counts, &ledger, Arc::clone(clock));
    let end = run(&shared, wire, peer, certificate.map(Arc::new), &ledger, &counts).await;
    let (flood, ended, last, socket) = {
        let mut counts = counts.lock();
        (counts.flood, counts.ended, counts.frames.last(), counts.socket())
    };
    let end = match end {
        End::Aborted => return,
        _ if ledger.gives_way() => End::GaveWay,
        _ if flood.is_some() => End::Flooded,
        end => end,
    };
    let reason = match end {
        End::GaveWay => Some(ConnectionRefusal::GaveWay),
        End::TooSlow => Some(ConnectionRefusal::TooSlow),
        End::Flooded => Some(ConnectionRefusal::Flood),
        End::Malformed => Some(ConnectionRefusal::Malformed),
        End::Aborted | End::Closed | End::Gone => None,
    };
    if let Some(reason) = reason {
        shared.metrics.connection_refused(reason);
    }
    if let Some(flood) = flood {
        tracing::debug!(listener = shared.name, reason = flood.reason(), "a flood of frames");
    }
    let Some((mut socket, is_between)) = socket else { return };
    // The library's own ends have said so.
    let is_ours = flood.is_some() || matches!(end, End::Gone | End::TooSlow | End::GaveWay);
    if is_between && is_ours {
        let code = if end == End::Flooded { ENHANCE_YOUR_CALM } else { NO_ERROR };
        // As far as the socket takes it at once: nobody waits for a client that is to go.
        let _ = futures_util::FutureExt::now_or_never(async {
            socket.write_all(&frames::go_away(last, code)).await?;
            socket.flush().await
        });
    }
    match end {
        End::GaveWay | End::TooSlow if ledger.is_untaken() => socket.forget_unsent(),
        End::Flooded | End::Malformed | End::Closed | End::Gone if !ended => linger(&shared, socket).await,
        _ => {}
    }
}

async fn run(
    shared: &Arc<Shared>,
    wire: Wire,
    peer: Peer,
    certificate: Option<Arc<ClientCertificate>>,
    ledger: &Arc<Ledger>,
    counts: &Arc<Mutex<Counts>>,
) -> End {
    let closes = Arc::new(AtomicBool::new(false));
    let service = {
        let (shared, ledger, closes) = (Arc::clone(shared), Arc::clone(ledger), Arc::clone(&closes));
        service_fn(move |request: hyper::Request<Incoming>| {
            // Its head counts from here, before its own future is polled.
            let account = Arc::new(opened(&ledger, &request, &shared.limits));
            let (shared, ledger, peer) = (Arc::clone(&shared), Arc::clone(&ledger), peer.clone());
            let (certificate, closes) = (certificate.clone(), Arc::clone(&closes));
            async move {
                Ok::<_, Infallible>(
                    answer(&shared, request, peer, certificate, account, &ledger, &closes).await,
                )
            }
        })
    };
    let handed = Handed::default();
    let mut builder = http2::Builder::new(handed.clone());
    builder
        .max_concurrent_streams(MOST_STREAMS)
        .max_header_list_size(HEADER_LIST)
        .initial_stream_window_size(u32::try_from(WINDOW).unwrap_or(u32::MAX))
        .initial_connection_window_size(u32::try_from(WINDOW).unwrap_or(u32::MAX))
        .adaptive_window(false)
        .max_frame_size(FRAME)
        .max_pending_accept_reset_streams(MOST_UNSEEN)
        .max_local_error_reset_streams(MOST_MISTAKES)
        // A client that is gone is found by the deadlines of the socket and of its answers.
        .keep_alive_interval(None);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(wire), service));
    let mut requests = FuturesUnordered::new();

    let clock = shared.surroundings.clock.as_ref();
    let shutdown = &shared.surroundings.shutdown;
    let mut alarm = Alarm::new(clock);
    let too_old = clock.monotonic() + shared.limits.max_age;
    let mut soft = pin!(shutdown.soft().cancelled());
    let mut hard = pin!(shutdown.hard().cancelled());
    let mut told = pin!(ledger.told());
    let (mut closing, mut gives_way) = (false, false);
    std::future::poll_fn(|cx| {
        if hard.as_mut().poll(cx).is_ready() {
            return Poll::Ready(End::Aborted);
        }
        let mut close = false;
        if !gives_way && told.as_mut().poll(cx).is_ready() {
            gives_way = true;
            if !ledger.is_answering() && !ledger.is_untaken() {
                return Poll::Ready(End::GaveWay);
            }
            // Bodies get an error and answer with it; then the connection ends.
            close = true;
        }
        close |= !closing && soft.as_mut().poll(cx).is_ready();
        loop {
            close |= closes.load(Ordering::Relaxed);
            if std::mem::take(&mut close) && !std::mem::replace(&mut closing, true) {
                ledger.close();
                connection.as_mut().graceful_shutdown();
            }
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(result.map_or_else(|error| why(shared, &error), |()| End::Closed));
            }
            if work(&handed, &mut requests, cx) {
                continue;
            }
            if counts.lock().has_flood(ledger, clock.monotonic()) {
                return Poll::Ready(End::Flooded);
            }
            if gives_way && !ledger.is_busy() {
                return Poll::Ready(End::GaveWay);
            }
            let old = (!closing).then_some(too_old);
            let due = ledger.due(&shared.limits, LEAVE, gives_way);
            let first = due.map(|(at, _)| at).into_iter().chain(old).min();
            if !alarm.rings(first, true, cx.waker()) {
                return Poll::Pending;
            }
            let now = clock.monotonic();
            match due.filter(|(at, _)| *at <= now) {
                Some((_, Due::Client)) => return Poll::Ready(End::TooSlow),
                Some((_, Due::Idle | Due::Gone)) => return Poll::Ready(End::Gone),
                None => close = old.is_some_and(|at| at <= now),
            }
        }
    })
    .await
}

/// Runs what was handed over. Returns true if anything began or ended.
fn work(
    handed: &Handed,
    requests: &mut FuturesUnordered<BoxFuture<'static, ()>>,
    cx: &mut Context<'_>,
) -> bool {
    let mut any = false;
    loop {
        let new = std::mem::take(&mut *handed.0.lock());
        any |= !new.is_empty();
        requests.extend(new);
        match requests.poll_next_unpin(cx) {
            Poll::Ready(Some(())) => any = true,
            Poll::Ready(None) | Poll::Pending => return any,
        }
    }
}

/// Why the library has ended the connection.
fn why(shared: &Shared, error: &hyper::Error) -> End {
    tracing::debug!(listener = shared.name, %error, "a connection broke");
    match error.source().and_then(|source| source.downcast_ref::<h2::Error>()) {
        Some(error) if error.is_io() || error.is_remote() => End::Closed,
        Some(error) if error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) => End::Flooded,
        Some(_) => End::Malformed,
        None => End::Closed,
    }
}

fn opened(ledger: &Arc<Ledger>, request: &hyper::Request<Incoming>, limits: &Limits) -> Account {
    let body = request.body();
    let unread = match (body.is_end_stream(), body.size_hint().exact()) {
        (true, _) => 0,
        (false, Some(length)) => usize::try_from(length).unwrap_or(WINDOW).min(limits.max_body),
        (false, None) => WINDOW.min(limits.max_body),
    };
    let kept = kept_of(request.uri(), request.headers());
    ledger.open(kept, unread)
}

async fn answer(
    shared: &Arc<Shared>,
    request: hyper::Request<Incoming>,
    peer: Peer,
    certificate: Option<Arc<ClientCertificate>>,
    account: Arc<Account>,
    ledger: &Arc<Ledger>,
    closes: &AtomicBool,
) -> http::Response<Counted> {
    let (mut head, incoming) = request.into_parts();
    account.answers_before_are_taken().await;
    let is_head = head.method == Method::HEAD;
    let refused = match head::check(&mut head, &shared.limits) {
        _ if !account.has_room() => Some(Refused::Overloaded),
        Ok(()) => None,
        Err(Fault::TooLarge) => Some(Refused::HeadTooLarge),
        Err(Fault::Malformed(reason)) => {
            tracing::debug!(listener = shared.name, reason, "a malformed request");
            Some(Refused::Malformed)
        }
    };
    let exchange = Exchange::begin(shared, &mut head, None);
    let (keeper, room) = (Arc::clone(&account) as _, ledger.room());
    let asked = Asked { head, incoming, peer, certificate, keeper, room, refused };
    let mut response = exchange.respond(asked).await;
    // A failed body ends its stream alone; a certificate that is not trusted any more ends the connection.
    if exchange.is_distrusted() {
        closes.store(true, Ordering::Relaxed);
    }
    let bodiless = is_head || matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if bodiless && !response.body().is_stream() {
        if let Some(length) = response.body().size_hint().exact().filter(|length| is_head && *length > 0) {
            response.headers_mut().entry(header::CONTENT_LENGTH).or_insert(length.into());
        }
        *response.body_mut() = AnswerBody::default();
    }
    if response.body().is_stream() {
        return exchange.finished(response).map(|body| Counted::stream(body, ledger, account));
    }
    let mut place = ledger.answer(length_of(&response));
    if place.is_none() {
        response = exchange.refuse(Refused::Overloaded);
        place = ledger.answer(length_of(&response));
    }
    drop(account);
    exchange.finished(response).map(|body| Counted::whole(body, ledger, place))
}
