//! Listeners: sockets, TLS, HTTP/1.1, HTTP/2 and their limits. A [`Handler`] gets complete requests that are
//! framed in exactly one way, with everything the socket knows about the peer.
//!
//! May know: `domain`'s ports and the names in certificates, `telemetry`'s counters, `lifecycle`'s shutdown.
//! It knows no route and no caller.
//!
//! Invariants:
//! 1. No client can hold more than one connection's share of memory, or a connection for longer than the
//!    limits allow (H8). Caps apply before a byte is parsed. All connections together hold no more than
//!    [`Limits::most_memory`]; `room.rs` decides which of them gives way.
//! 2. A request that can be read in two ways (both lengths, folded lines, bare LF, two Hosts, a target with
//!    an authority) gets 400 and the connection closes (B10); see `guard.rs`.
//! 3. A panic in a request becomes that request's 500 and has no other effect; its text stays inside (L4).
//! 4. Every response has `X-Request-Id`, and `Cache-Control: no-store` unless the handler set another value.
//! 5. A soft stop finishes current requests; a hard stop drops them.
//! 6. HTTP/2 gets no client more than HTTP/1.1 would, and a flood of its frames ends its own connection.
//! 7. A stream is polled by its connection alone, ends with it, and is one of a limited number.
//! 8. What is answered beside hyper is answered as it would be through hyper; see `at_once.rs`.
//! 9. A client certificate that is not trusted any more names nobody, and its connection ends.
//!
//! The one hard problem: hyper has one timer for "no request yet", "half a request" and "idle between
//! requests" (`h1/conn.rs`, `poll_read_head` arms `header_read_timeout` whenever it waits for a head). These
//! need three limits, so hyper's timer is off and `connection.rs` keeps time by watching the bytes.

mod alarm;
mod answer;
mod at_once;
mod bind;
mod body;
mod client_certificate;
mod connection;
mod cookies;
mod date;
mod exchange;
mod fields;
mod guard;
mod guarded;
mod head_values;
mod http2;
mod pairs;
mod passed;
mod path;
mod problem;
#[cfg(any(test, feature = "testkit"))]
pub mod properties;
mod pulse;
mod room;
mod signals;
mod socket;
#[cfg(feature = "testkit")]
pub mod steps;
mod tcp;
mod tls;
mod traced;
mod wire;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use crate::domain::digest::hex_digits;
use crate::domain::random::{Random, random_bytes};
use crate::domain::task::{BoxFuture, Tasks};
use crate::domain::time::Clock;
use crate::lifecycle::Shutdown;
use crate::span::Tracer;
use crate::telemetry::audit::{AuditEvent, Source};
use crate::telemetry::metrics::Metrics;

pub use answer::{AnswerBody, BrokenOff, Part, StreamPlace, Streams};
pub use at_once::{AtOnce, Memory, PlainHead, PlainRequest};
pub use bind::{BindError, Bound, LocalAddress, check_socket};
pub use body::{Body, BodyError, BodyStream, GivesWay};
pub use client_certificate::PeerCertificate;
pub use cookies::{are_too_many_cookies, cookie, cookies};
pub use fields::Fields;
pub use pairs::{BadPairs, MOST_PARAMETERS, Pairs};
pub use passed::{PassedError, PassedSocket, PassedSockets};
pub use path::{Dots, segments};
pub use problem::{Problem, problem};
pub use room::{IN_KERNEL, OWN_BYTES, PER_CONNECTION, PER_WIDE, Room};
pub use tls::{ClientTrust, Tls, TlsError, TlsSettings, revocation_lists, tls_settings};
pub use traced::Traced;

/// Address of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket at this path.
    Unix(PathBuf),
    /// A TCP port; 0 lets the system choose.
    Tcp(SocketAddr),
}

/// Settings of one listener.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// Its name in logs and metrics: `public`, `local`, `admin`, `ops`.
    pub name: &'static str,
    /// Where it listens.
    pub address: Address,
    /// Permissions of a Unix socket, 0o660 by default. Write permission is needed to connect, so 0o666 is
    /// fine for a socket that tells callers apart by their peer credentials.
    pub unix_mode: u32,
    /// TLS of a TCP listener; `None` means plain HTTP.
    pub tls: Option<Tls>,
    /// Its limits.
    pub limits: Limits,
    /// A room shared with other listeners; `None` gives it one of its own, as large as its limits say.
    pub room: Option<Arc<Room>>,
    /// Which of its requests are traced; none by default.
    pub traced: Traced,
}

impl ListenerConfig {
    /// Makes settings for a plain listener with default limits.
    pub fn new(name: &'static str, address: Address) -> Self {
        let limits = Limits::DEFAULT;
        ListenerConfig { name, address, unix_mode: 0o660, tls: None, limits, room: None, traced: Traced::Not }
    }
}

/// Limits of a listener, a connection and a request. The defaults are those of H8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Time from the connection (or the end of its TLS handshake) to the first byte of a request: 10 s.
    pub first_byte: Duration,
    /// Time from the first byte of a head to its last: 5 s.
    pub header_read: Duration,
    /// Time for a TLS handshake: 5 s.
    pub tls_handshake: Duration,
    /// Time for a whole body: 5 s.
    pub body_read: Duration,
    /// Time for the client to take an answer, plus a second for each 256 KiB of it: 10 s.
    pub answer_taken: Duration,
    /// Time between two requests of a connection: 60 s.
    pub idle: Duration,
    /// Age at which a connection is closed after its current response, so that load spreads over replicas
    /// again and certificates are presented anew: 10 min.
    pub max_age: Duration,
    /// Most bytes of a body: 64 KiB.
    pub max_body: usize,
    /// Most header lines: 64.
    pub max_headers: usize,
    /// Most bytes of a head, including the request line: 16 KiB. At least 8 KiB, which is hyper's smallest
    /// buffer.
    pub max_header_bytes: usize,
    /// Most bytes of a target: 8 KiB.
    pub max_uri: usize,
    /// Most open connections of the listener: 3,072. Beyond that, the one that has waited longest gives way.
    pub max_connections: usize,
    /// Most open connections of one peer (an IPv4 address, an IPv6 /64, a Unix user): 1,536. An ingress is
    /// one peer.
    pub max_connections_per_peer: usize,
    /// Most bytes of heads, bodies and answers that all connections hold together, not counting the first
    /// [`OWN_BYTES`] of each: 8 MiB, and half of that for one peer.
    pub max_held: usize,
    /// Most connections that pass on bodies in parts of 64 KiB at a time: none.
    pub max_wide: usize,
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
        max_wide: 0,
    };

    /// Returns the most memory that all connections within these limits use, in the process and in the
    /// kernel, including those that must give way and are not gone yet.
    pub const fn most_memory(&self) -> usize {
        let connections = self.max_connections + self.max_connections / room::LEAVING;
        connections * (PER_CONNECTION + IN_KERNEL) + self.max_held + self.max_wide * PER_WIDE
    }

    /// Returns the limits for connections with TLS: half as many, since each costs twice as much, and half as
    /// many wide ones: TLS keeps a part once more, in each direction.
    #[must_use]
    pub const fn with_tls(mut self) -> Self {
        self.max_connections /= 2;
        self.max_connections_per_peer /= 2;
        self.max_wide /= 2;
        self
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits::DEFAULT
    }
}

/// What a listener needs from the process.
#[derive(Clone)]
pub struct Surroundings {
    /// Runs connections.
    pub tasks: Arc<dyn Tasks>,
    /// Measures time.
    pub clock: Arc<dyn Clock>,
    /// Makes request ids.
    pub random: Arc<dyn Random>,
    /// Says when to stop.
    pub shutdown: Shutdown,
    /// Counts events.
    pub metrics: Arc<Metrics>,
    /// Begins the traces of requests.
    pub tracer: Tracer,
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings").field("shutdown", &self.shutdown).finish_non_exhaustive()
    }
}

/// The other end of a connection, as far as the socket knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its origin.
    pub origin: Origin,
    /// True if the connection has TLS that ends here.
    pub tls: bool,
    /// The client certificate that it proved to own, verified against the listener's client CA.
    pub certificate: PeerCertificate,
}

/// Origin of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A process of this machine; the kernel vouches for it (`SO_PEERCRED`).
    Unix {
        /// Its effective user when it connected.
        uid: u32,
        /// Its effective group when it connected.
        gid: u32,
        /// Its process id, only for the log: ids are reused.
        pid: Option<i32>,
    },
    /// A TCP address. Headers that claim another one are ignored here.
    Tcp(SocketAddr),
}

impl Origin {
    /// Its name in audit and logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Origin::Unix { .. } => "unix",
            Origin::Tcp(_) => "tcp",
        }
    }
}

impl From<Origin> for Source {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Unix { uid, .. } => Source::Unix { uid },
            Origin::Tcp(address) => Source::Tcp(address.ip().to_canonical()),
        }
    }
}

impl AuditEvent {
    /// Adds a request's origin and id.
    #[must_use]
    pub fn from_request(self, origin: Origin, request_id: &RequestId) -> Self {
        self.from(origin.into(), &request_id.0)
    }
}

/// Identifies one request in every log line, audit record and error. It is the trace id of the request's W3C
/// `traceparent`, or 128 random bits, as 32 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// Returns the request's own trace id if it is valid, otherwise a new id.
    pub fn of(headers: &impl Fields, random: &dyn Random) -> Self {
        traced::parent(headers).map_or_else(|| Self::new(random), |parent| RequestId(parent.trace.into()))
    }

    /// Makes a new id.
    pub fn new(random: &dyn Random) -> Self {
        let mut digits = [0; 32];
        RequestId(hex_digits(&random_bytes::<16>(random), &mut digits).into())
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the id as text that is shared.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
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
    /// Its path as sent, still percent-encoded.
    pub path: String,
    /// Its query as sent, without the `?`, with at most [`MOST_PARAMETERS`]. Read it with [`Pairs`].
    pub query: Option<String>,
    /// Its headers. Names may repeat.
    pub headers: HeaderMap,
    /// Its sender.
    pub peer: Peer,
    /// Its id in logs.
    pub request_id: RequestId,
    /// Its body, not read yet.
    pub body: Body,
    /// Where its answer gets a place if it is a stream.
    pub streams: Streams,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers, query and body are left out: they have credentials and codes.
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("path", &self.path)
            .field("peer", &self.peer.origin)
            .field("request_id", &self.request_id)
            .finish_non_exhaustive()
    }
}

/// A response. Nearly every one is whole, so that its length is known and the request ends with its handler.
pub type Response = http::Response<AnswerBody>;

/// Answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. The future is dropped when the client goes away; work that must finish runs in
    /// [`Tasks`].
    fn handle<'a>(&'a self, request: Request) -> BoxFuture<'a, Response>;

    /// Answers a plain request at once, if nothing has to be waited for but its record. `None` leaves it to
    /// [`Handler::handle`], whose answer would be the same, and has had no effect.
    fn at_once(&self, _request: PlainRequest<'_>) -> Option<AtOnce> {
        None
    }

    /// Makes the answer to a request that the listener refuses. `path` is as much of its path as could be
    /// read, which may be nothing.
    fn refuse(&self, refused: Refused, path: &str, request_id: &RequestId) -> Response {
        let _ = path;
        refused.problem(request_id)
    }
}

/// Reason why a listener refuses a request without its handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Its head exceeds the limits; nothing else is known of it.
    HeadTooLarge,
    /// Its target exceeds the limit.
    TargetTooLong,
    /// Its query has more than [`MOST_PARAMETERS`], none of which was read.
    TooManyParameters,
    /// There is no room for it beside all others.
    Overloaded,
    /// Its head can be read in two ways, or breaks the rules of HTTP/2. (What HTTP/1 finds wrong in a head
    /// has no document.)
    Malformed,
    /// Its handler panicked.
    Panicked,
}

impl Refused {
    /// Returns its status, its code in the contract, and what happened.
    pub fn words(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Refused::HeadTooLarge => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "invalid_request",
                "the request line and the headers are too large: at most 16 KiB and 64 lines are accepted",
            ),
            Refused::TargetTooLong => (StatusCode::URI_TOO_LONG, "invalid_request", "the target is too long"),
            Refused::TooManyParameters => (
                StatusCode::BAD_REQUEST,
                "invalid_request",
                "the query has too many parameters: 64 are taken",
            ),
            Refused::Overloaded => (
                StatusCode::SERVICE_UNAVAILABLE,
                "overloaded",
                "more is on its way to this listener than it has room for",
            ),
            Refused::Malformed => (
                StatusCode::BAD_REQUEST,
                "invalid_request",
                "the head of the request is malformed: its host, its target or a length",
            ),
            Refused::Panicked => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "tokenward failed in an unforeseen way; its log says more",
            ),
        }
    }

    /// Writes its problem document.
    pub fn problem(self, request_id: &RequestId) -> Response {
        let (status, code, detail) = self.words();
        let mut response = problem(status, code, detail, request_id);
        if self == Refused::Overloaded {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// Makes a response with one content type.
pub fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(AnswerBody::whole(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests;
