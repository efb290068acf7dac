//! Listeners: sockets, TLS, HTTP/1.1 and the limits on all of it. A [`Handler`] gets requests that are whole,
//! framed in exactly one way and come from a peer that is known as far as the socket knows it.
//!
//! May know: `domain`'s ports, `telemetry`'s counters, `lifecycle`'s shutdown. Knows no route and no caller.
//!
//! Invariants:
//! 1. Nothing that a client does holds more than one connection's worth of memory, or a connection for longer
//!    than the limits say (H8). Caps act before a byte is parsed. All connections together hold no more than
//!    [`Limits::most_memory`]; who gives way for that is in `room.rs`.
//! 2. What has two readings (both lengths, folded lines, bare LF, two Hosts, a target with an authority) is
//!    400 and the connection closes (B10); see `guard.rs`.
//! 3. A panic while a request is handled is that request's 500 and nothing more; its text stays inside (L4).
//! 4. Every response has `X-Request-Id` and, unless the handler said otherwise, `Cache-Control: no-store`.
//! 5. A soft stop finishes what is in flight; a hard stop drops it.
//!
//! The one hard problem: hyper has one timer for "no request yet", "half a request" and "idle between
//! requests" (`h1/conn.rs`, `poll_read_head` arms `header_read_timeout` whenever it waits for a head). They
//! need three limits, so hyper's is off and `connection.rs` keeps the time from what passes by.

mod bind;
mod connection;
mod guard;
mod pairs;
#[cfg(any(test, feature = "testkit"))]
pub mod properties;
mod room;
mod tcp;
mod tls;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Full};
use rustls::pki_types::CertificateDer;

use self::connection::Pulse;
use crate::domain::random::{Random, random_bytes};
use crate::domain::task::{BoxFuture, Tasks};
use crate::domain::time::Clock;
use crate::lifecycle::Shutdown;
use crate::telemetry::audit::AuditEvent;
use crate::telemetry::metrics::Metrics;

pub use bind::{BindError, Bound, LocalAddress, look_at_socket};
pub use pairs::{BadPairs, MOST_PARAMETERS, Pairs};
pub use room::{IN_KERNEL, OWN_BYTES, PER_CONNECTION, Room};
pub use tls::{Tls, TlsError, tls_server_config};

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket at this path.
    Unix(PathBuf),
    /// A TCP port; 0 lets the system choose.
    Tcp(SocketAddr),
}

/// One listener's settings.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// Its name in logs and metrics: `public`, `local`, `admin`, `ops`.
    pub name: &'static str,
    /// Where it listens.
    pub address: Address,
    /// Permissions of a Unix socket, 0o660 by default. Whoever may write to it may connect, so a socket whose
    /// callers are told apart by their peer credentials may well be 0o666.
    pub unix_mode: u32,
    /// TLS on a TCP listener; none is plain.
    pub tls: Option<Tls>,
    /// Its limits.
    pub limits: Limits,
    /// The room that it shares with others; none is one of its own, as large as its limits say.
    pub room: Option<Arc<Room>>,
}

impl ListenerConfig {
    /// A plain listener with default limits.
    pub fn new(name: &'static str, address: Address) -> Self {
        let limits = Limits::DEFAULT;
        ListenerConfig { name, address, unix_mode: 0o660, tls: None, limits, room: None }
    }
}

/// What one listener, one connection and one request may take. The defaults are those of H8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// From the connection (or the end of its TLS handshake) to the first byte of a request: 10 s.
    pub first_byte: Duration,
    /// From the first byte of a head to its last: 5 s.
    pub header_read: Duration,
    /// For a TLS handshake: 5 s.
    pub tls_handshake: Duration,
    /// For a whole body: 5 s.
    pub body_read: Duration,
    /// For the client to take an answer, and a second more for each 256 KiB of it: 10 s.
    pub answer_taken: Duration,
    /// Between two requests of a connection: 60 s.
    pub idle: Duration,
    /// How old a connection grows before it is closed after its current response, so that load spreads again
    /// over replicas and certificates are presented anew: 10 min.
    pub max_age: Duration,
    /// Bytes of a body: 64 KiB.
    pub max_body: usize,
    /// Header lines: 64.
    pub max_headers: usize,
    /// Bytes of a head, request line included: 16 KiB. At least 8 KiB, which is hyper's smallest buffer.
    pub max_header_bytes: usize,
    /// Bytes of a target: 8 KiB.
    pub max_uri: usize,
    /// Open connections of the listener: 3,072. Beyond them the one that has waited longest gives way.
    pub max_connections: usize,
    /// Open connections of one peer (an IPv4 address, an IPv6 /64, a Unix user): 1,536. An ingress is one
    /// peer.
    pub max_connections_per_peer: usize,
    /// Bytes of heads, bodies and answers that all connections hold together beyond the first [`OWN_BYTES`] of
    /// each: 8 MiB, half of it at the most for one peer.
    pub max_held: usize,
}

impl Limits {
    /// The defaults.
    pub const DEFAULT: Limits = Limits {
        first_byte: Duration::from_secs(10),
        header_read: Duration::from_secs(5),
        tls_handshake: Duration::from_secs(5),
        body_read: Duration::from_secs(5),
        answer_taken: Duration::from_secs(10),
        idle: Duration::from_secs(60),
        max_age: Duration::from_secs(600),
        max_body: 64 * 1024,
        max_headers: 64,
        max_header_bytes: 16 * 1024,
        max_uri: 8 * 1024,
        max_connections: 3072,
        max_connections_per_peer: 1536,
        max_held: 8 * 1024 * 1024,
    };

    /// What all connections within these limits hold at the most, in the process and in the kernel, those too that were
    /// told to give way and are not gone yet.
    pub const fn most_memory(&self) -> usize {
        let connections = self.max_connections + self.max_connections / room::LEAVING;
        connections * (PER_CONNECTION + IN_KERNEL) + self.max_held
    }

    /// The same for connections with TLS, each of which costs twice as much: half as many.
    #[must_use]
    pub const fn with_tls(mut self) -> Self {
        self.max_connections /= 2;
        self.max_connections_per_peer /= 2;
        self
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits::DEFAULT
    }
}

/// What a listener needs of the process.
#[derive(Clone)]
pub struct Surroundings {
    /// Where connections run.
    pub tasks: Arc<dyn Tasks>,
    /// What limits are measured with.
    pub clock: Arc<dyn Clock>,
    /// What request ids are made of.
    pub random: Arc<dyn Random>,
    /// When to stop.
    pub shutdown: Shutdown,
    /// Where events are counted.
    pub metrics: Arc<Metrics>,
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings").field("shutdown", &self.shutdown).finish_non_exhaustive()
    }
}

/// Who is at the other end, as far as the socket knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where it comes from.
    pub origin: Origin,
    /// Whether the connection is TLS, ended here.
    pub tls: bool,
    /// The certificates it proved to hold, verified against the listener's client CA, its own first.
    pub certificates: Option<Arc<[CertificateDer<'static>]>>,
}

/// Where a peer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A process of this machine, as the kernel vouches for it (`SO_PEERCRED`).
    Unix {
        /// Its effective user when it connected.
        uid: u32,
        /// Its effective group when it connected.
        gid: u32,
        /// Its process id, for the log only: ids are reused.
        pid: Option<i32>,
    },
    /// A TCP address. Headers that claim another one are nobody's business here.
    Tcp(SocketAddr),
}

impl Origin {
    /// The word for audit and logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Origin::Unix { .. } => "unix",
            Origin::Tcp(_) => "tcp",
        }
    }
}

impl AuditEvent {
    /// Adds where the request came from and what it is called.
    #[must_use]
    pub fn from_request(mut self, origin: Origin, request_id: &RequestId) -> Self {
        self.peer = Some(origin.kind());
        match origin {
            Origin::Unix { uid, .. } => self.peer_uid = Some(uid),
            Origin::Tcp(address) => self.peer_address = Some(address.ip().to_canonical().to_string()),
        }
        self.request_id = Some(request_id.to_string());
        self
    }
}

/// Names one request in every log line, audit record and error: the trace id of its W3C `traceparent`, or
/// 128 random bits. 32 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Box<str>);

impl RequestId {
    /// The request's own trace id if it brought a valid one, else a new id.
    pub fn of(headers: &HeaderMap, random: &dyn Random) -> Self {
        Self::from_traceparent(headers).unwrap_or_else(|| Self::new(random))
    }

    /// A new id.
    pub fn new(random: &dyn Random) -> Self {
        let bytes = random_bytes::<16>(random);
        let digit = |value: u8| char::from_digit(u32::from(value), 16).expect("a nibble is a digit");
        RequestId(
            bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect::<String>().into(),
        )
    }

    /// <https://www.w3.org/TR/trace-context/#traceparent-header>: version, trace id, parent id, flags. A later
    /// version may add fields at the end.
    fn from_traceparent(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all("traceparent").iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return None;
        };
        let mut fields = value.to_str().ok()?.split('-');
        let (version, trace, parent, flags) =
            (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let hex = |field: &str, length| {
            field.len() == length && field.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let zero = |field: &str| field.bytes().all(|byte| byte == b'0');
        let valid = hex(version, 2)
            && version != "ff"
            && hex(trace, 32)
            && !zero(trace)
            && hex(parent, 16)
            && !zero(parent)
            && hex(flags, 2)
            && (version != "00" || fields.next().is_none());
        valid.then(|| RequestId(trace.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One request.
pub struct Request {
    /// Its method.
    pub method: Method,
    /// Its path as it was sent, percent-encoding untouched.
    pub path: String,
    /// Its query as it was sent, without the `?`; it has no more than [`MOST_PARAMETERS`]. Read it with [`Pairs`].
    pub query: Option<String>,
    /// Its headers. Names may repeat.
    pub headers: HeaderMap,
    /// Who sent it.
    pub peer: Peer,
    /// What it is called in logs.
    pub request_id: RequestId,
    /// Its body, not read yet.
    pub body: Body,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No headers, no query, no body: they carry credentials and codes.
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("path", &self.path)
            .field("peer", &self.peer.origin)
            .field("request_id", &self.request_id)
            .finish_non_exhaustive()
    }
}

/// What goes back: whole, so that its length is known and a handler's end is the request's end.
pub type Response = http::Response<Full<Bytes>>;

/// Answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. Dropped when the client goes away; what must not die with it goes through
    /// [`Tasks`].
    fn handle<'a>(&'a self, request: Request) -> BoxFuture<'a, Response>;

    /// The answer to a request whose head is larger than the limits, of which nothing is known.
    fn head_too_large(&self, request_id: &RequestId) -> Response {
        let detail = "the request line and the headers together are too large, or too many: 16 KiB and 64 lines are taken";
        problem(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "invalid_request", detail, request_id)
    }

    /// The answer to a request for which there is no room beside all others.
    fn overloaded(&self, request_id: &RequestId) -> Response {
        let detail = "more is on its way to this listener than it has room for";
        let mut response = problem(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail, request_id);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        response
    }

    /// The answer to a request with more than [`MOST_PARAMETERS`] in its query, of which none was read.
    fn too_many_parameters(&self, request_id: &RequestId) -> Response {
        let detail = "the query has too many parameters: 64 are taken";
        problem(StatusCode::BAD_REQUEST, "invalid_request", detail, request_id)
    }
}

/// Why a body could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Longer than the limit: 413.
    #[error("the body is longer than allowed")]
    TooLarge,
    /// Not whole in time: 408.
    #[error("the body did not come in time")]
    TimedOut,
    /// Broken off or badly framed: 400.
    #[error("the body broke off")]
    Broken,
    /// No room for it beside all others that are on their way, or it was the one that gave way: 503.
    #[error("too many requests are on their way")]
    NoRoom,
}

impl BodyError {
    /// The status that says so.
    pub fn status(self) -> StatusCode {
        match self {
            BodyError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::TimedOut => StatusCode::REQUEST_TIMEOUT,
            BodyError::Broken => StatusCode::BAD_REQUEST,
            BodyError::NoRoom => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// A request's body, bounded in size and time.
pub struct Body(BodySource);

enum BodySource {
    Whole(Bytes),
    Wire {
        incoming: hyper::body::Incoming,
        max: usize,
        within: Duration,
        clock: Arc<dyn Clock>,
        /// Tells the connection that it cannot go on.
        failed: Arc<AtomicBool>,
        pulse: Arc<Pulse>,
    },
}

impl Body {
    /// A body that is already here, for tests of handlers.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Body(BodySource::Whole(bytes.into()))
    }

    fn wire(
        incoming: hyper::body::Incoming,
        limits: &Limits,
        clock: Arc<dyn Clock>,
        failed: Arc<AtomicBool>,
        pulse: Arc<Pulse>,
    ) -> Self {
        Body(BodySource::Wire {
            incoming,
            max: limits.max_body,
            within: limits.body_read,
            clock,
            failed,
            pulse,
        })
    }

    /// The whole body. After an error the connection closes once the response is out.
    pub async fn read_all(self) -> Result<Bytes, BodyError> {
        match self.0 {
            BodySource::Whole(bytes) => Ok(bytes),
            BodySource::Wire { incoming, max, within, clock, failed, pulse } => {
                if hyper::body::Body::is_end_stream(&incoming) {
                    return Ok(Bytes::new());
                }
                pulse.body_awaited();
                let result = tokio::select! {
                    result = collect(incoming, max, &pulse) => result,
                    () = clock.sleep(within) => Err(BodyError::TimedOut),
                    // The connection looks whether it is to give way whenever it is woken, and is one task with this.
                    () = std::future::poll_fn(|_| match pulse.gives_way() {
                        true => Poll::Ready(()),
                        false => Poll::Pending,
                    }) => Err(BodyError::NoRoom),
                };
                pulse.body_ended();
                if result.is_err() {
                    failed.store(true, Ordering::Release);
                }
                result
            }
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Body")
    }
}

async fn collect(mut incoming: hyper::body::Incoming, max: usize, pulse: &Pulse) -> Result<Bytes, BodyError> {
    /// A body is given room in steps of this, and not for what it says it will be.
    const STEP: usize = 1024;
    let announced = hyper::body::Body::size_hint(&incoming).lower();
    if announced > max as u64 {
        return Err(BodyError::TooLarge);
    }
    let mut whole = Vec::new();
    while let Some(frame) = incoming.frame().await {
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else {
            continue; // trailers mean nothing to us
        };
        let length = whole.len() + data.len();
        if length > max {
            return Err(BodyError::TooLarge);
        }
        if whole.is_empty() && data.len() as u64 == announced {
            return Ok(data);
        }
        if length > whole.capacity() {
            let room = length.next_power_of_two().max(STEP);
            if !pulse.body_grows(room) {
                return Err(BodyError::NoRoom);
            }
            whole.reserve_exact(room - whole.len());
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.into())
}

/// A response of one content type.
pub fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A problem document (RFC 9457) with a stable code, for what goes wrong outside any API.
pub fn problem(
    status: StatusCode,
    code: &'static str,
    detail: &'static str,
    request_id: &RequestId,
) -> Response {
    let document = serde_json::json!({
        "type": format!("urn:tokenward:problem:{code}"),
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "code": code,
        "detail": detail,
        "hint": match status {
            StatusCode::SERVICE_UNAVAILABLE => "try again after the time in Retry-After",
            status if status.is_server_error() => "report the request_id to the operator",
            _ => "correct the request; the same one will fail again",
        },
        "request_id": request_id.as_str(),
    });
    response(status, "application/problem+json", document.to_string())
}

#[cfg(test)]
mod tests;
