//! Answers to plain requests that wait for nothing but their record: the hand-outs of held tokens.
//!
//! Most of what a hand-out costs beside the broker's own work is the way of a request through hyper and
//! through the futures of its handler. A request needs none of it while its whole head came in one read,
//! nothing stands behind it, nothing else is under way on its connection, and its handler has the answer. It
//! is then answered here, and hyper, if there is one (`wire.rs`), goes on waiting for a request. Everything
//! else goes to hyper as if this file did not exist: it is a shorter way to the same answer, and never
//! another answer.
//!
//! The head is read by hyper's own parser, httparse. What it finds is held against the rules of `guard.rs`,
//! so that a head that is taken here is one that passes there; a test compares the two.

use std::any::Any;
use std::io;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use httparse::{EMPTY_HEADER, Header, Status};
use memchr::memchr_iter;

use super::answer::AnswerBody;
use super::client_certificate::ClientCertificate;
use super::exchange::{Shared, finished, length_of};
use super::fields::Fields;
use super::head_values::is_host;
use super::pulse::Pulse;
use super::socket::Socket;
use super::{Limits, Peer, PeerCertificate, Refused, RequestId, Response};
use crate::domain::json_text::push_number;
use crate::domain::task::BoxFuture;
use crate::domain::time::Moment;

/// Longest target that is answered here.
const LONGEST_TARGET: usize = 1024;
/// Most header lines of a head that is answered here.
pub(super) const MOST_LINES: usize = 32;
/// Most bytes of one.
pub(super) const LONGEST_HEAD: usize = 8 * 1024;

/// The head of a request without a body, as its text stands in the read buffer.
pub struct PlainHead<'a> {
    method: &'a str,
    target: &'a str,
    lines: &'a [Header<'a>],
}

impl<'a> PlainHead<'a> {
    /// Its method.
    pub fn method(&self) -> &'a str {
        self.method
    }

    /// Its path as sent, still percent-encoded.
    pub fn path(&self) -> &'a str {
        self.target.split_once('?').map_or(self.target, |(path, _)| path)
    }

    /// Its query as sent, without the `?`.
    pub fn query(&self) -> Option<&'a str> {
        self.target.split_once('?').map(|(_, query)| query)
    }

    /// Reads the head of a GET; `None` for one that is not plain.
    pub(super) fn read(bytes: &'a [u8], lines: &'a mut [MaybeUninit<Header<'a>>]) -> Option<Self> {
        // (What has a body, say, is not worth reading twice.)
        if !bytes.starts_with(b"GET ") || !bytes.ends_with(b"\r\n\r\n") {
            return None;
        }
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(bytes, lines) {
            Ok(Status::Complete(length)) if length == bytes.len() && length <= LONGEST_HEAD => {}
            _ => return None,
        }
        let (Some(method), Some(target), Some(1)) = (request.method, request.path, request.version) else {
            return None;
        };
        let head = PlainHead { method, target, lines: request.headers };
        // httparse takes a bare LF for the end of a line, too. (Empty lines before the first, which it takes
        // as well, are not there.) Each line that it found ends in one LF, and no CR stands elsewhere. So
        // each has one exactly if there are as many as lines: the request's, the fields', and the empty one.
        let ends_as_it_should = memchr_iter(b'\r', bytes).count() == head.lines.len() + 2;
        let is_ordinary = target.len() <= LONGEST_TARGET
            && target.starts_with('/')
            && target.bytes().fold(true, |so_far, byte| so_far & ORDINARY[usize::from(byte)]);
        (ends_as_it_should && is_ordinary && head.has_plain_lines()).then_some(head)
    }

    /// Whether its fields ask for no more than an answer, and say that no body follows.
    fn has_plain_lines(&self) -> bool {
        let mut hosts = 0;
        let is_plain = |line: &Header<'_>| match line.name.len() {
            4 if line.name.eq_ignore_ascii_case("host") => {
                hosts += 1;
                is_host(line.value)
            }
            6 => !line.name.eq_ignore_ascii_case("expect"),
            7 => !line.name.eq_ignore_ascii_case("upgrade"),
            10 if line.name.eq_ignore_ascii_case("connection") => {
                line.value.eq_ignore_ascii_case(b"keep-alive")
            }
            14 if line.name.eq_ignore_ascii_case("content-length") => line.value == b"0",
            17 => !line.name.eq_ignore_ascii_case("transfer-encoding"),
            _ => true,
        };
        // (Of two lengths of 0, the second is left to the strict check.)
        let has_one_length = self.values("content-length").nth(1).is_none();
        self.lines.iter().all(is_plain) && hosts == 1 && has_one_length
    }
}

impl Fields for PlainHead<'_> {
    fn values<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.lines.iter().filter(|line| line.name.eq_ignore_ascii_case(name)).map(|line| line.value)
    }
}

/// Whether a byte of a target means the same to every reader of URLs.
const ORDINARY: [bool; 256] = {
    let mut ordinary = [false; 256];
    let mut byte: u8 = 0;
    while byte < 128 {
        ordinary[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let (signs, mut at) = (b"-._~/%?=&+:@,;!$'()*", 0);
    while at < signs.len() {
        ordinary[signs[at] as usize] = true;
        at += 1;
    }
    ordinary
};

/// An answer that is made at once: 200, with what its handler gives it.
pub struct AtOnce {
    /// [`AtOnce::head`], and the lines of its head, each with its CRLF, beside those that every answer has.
    pub head: Vec<u8>,
    /// Its body.
    pub body: Vec<u8>,
    /// Completes when it may leave, with that moment. An error is the answer that leaves in its place.
    pub may_leave: BoxFuture<'static, Result<Moment, Response>>,
}

impl AtOnce {
    /// The beginning of its head, with room for the rest.
    pub fn head() -> Vec<u8> {
        let mut head = Vec::with_capacity(512);
        head.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        head
    }
}

/// What a handler remembers of a connection from one such request to the next.
pub type Memory = Option<Box<dyn Any + Send>>;

/// A plain request.
pub struct PlainRequest<'a> {
    /// Its head.
    pub head: &'a PlainHead<'a>,
    /// Its sender.
    pub peer: &'a Peer,
    /// Its id in logs.
    pub request_id: &'a RequestId,
    /// What is remembered of its connection.
    pub memory: &'a mut Memory,
}

/// The way of such requests through one connection.
pub(super) struct Lane {
    shared: Arc<Shared>,
    peer: Peer,
    certificate: Option<Arc<ClientCertificate>>,
    memory: Memory,
    under_way: Option<UnderWay>,
}

/// A request until its answer is written.
struct UnderWay {
    request_id: RequestId,
    stage: Stage,
}

enum Stage {
    /// Its record is being written.
    Recorded(AtOnce),
    /// Its answer is being written: head, body, and how many bytes of both were taken.
    Written { head: Vec<u8>, body: Bytes, taken: usize, is_last: bool },
}

/// What follows an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// The next request.
    ReadOn,
    /// The end of the connection.
    End,
}

impl Lane {
    pub(super) fn new(shared: Arc<Shared>, peer: Peer, certificate: Option<Arc<ClientCertificate>>) -> Self {
        Lane { shared, peer, certificate, memory: None, under_way: None }
    }

    /// Whether a request is under way here.
    pub(super) fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }

    /// Takes a request whose head is these bytes. Returns false if it is for hyper, which then counts its
    /// bytes anew.
    pub(super) fn takes(&mut self, bytes: &[u8], pulse: &Pulse) -> bool {
        if pulse.is_with_hyper() || pulse.closes() || pulse.gives_way() {
            return false;
        }
        let mut lines = [const { MaybeUninit::new(EMPTY_HEADER) }; MOST_LINES];
        let Some(head) = PlainHead::read(bytes, &mut lines) else { return false };
        let shared = &*self.shared;
        let Limits { max_header_bytes, max_headers, max_uri, .. } = shared.limits;
        if bytes.len() > max_header_bytes || head.lines.len() > max_headers || head.target.len() > max_uri {
            return false;
        }
        if let Some(certificate) = &self.certificate {
            self.peer.certificate = certificate.now(shared.surroundings.clock.as_ref());
            if self.peer.certificate == PeerCertificate::Distrusted {
                return false;
            }
        }
        if !pulse.read((false, false), 0) || !pulse.head_came(bytes.len()) {
            return false;
        }
        let request_id = RequestId::of(&head, &shared.ids);
        // (What a trace shows is on the ordinary way.)
        if shared.tracing.is_traced(&head, &request_id) {
            pulse.keep_id(request_id);
            return false;
        }
        // (A handler that panics does so again on the ordinary way, where it is answered and told.)
        let request =
            PlainRequest { head: &head, peer: &self.peer, request_id: &request_id, memory: &mut self.memory };
        let answer = || shared.handler.at_once(request);
        let Ok(Some(answer)) = catch_unwind(AssertUnwindSafe(answer)) else {
            // The same request comes again: with another id it might be traced after all.
            pulse.keep_id(request_id);
            return false;
        };
        pulse.request_began_beside();
        self.under_way = Some(UnderWay { request_id, stage: Stage::Recorded(answer) });
        true
    }

    /// Goes on with the request under way.
    pub(super) fn poll(
        &mut self,
        socket: &mut dyn Socket,
        pulse: &Pulse,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Then>> {
        let Some(UnderWay { request_id, stage }) = &mut self.under_way else {
            return Poll::Ready(Ok(Then::ReadOn));
        };
        if let Stage::Recorded(answer) = stage {
            let polled = catch_unwind(AssertUnwindSafe(|| answer.may_leave.as_mut().poll(cx)));
            let outcome = match polled {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(outcome)) => outcome,
                Err(_) => {
                    self.shared.metrics.panicked();
                    tracing::error!(listener = self.shared.name, %request_id, "a handler panicked");
                    Err(Refused::Panicked.problem(request_id))
                }
            };
            let shared = &*self.shared;
            // Without room for it, a short answer replaces it, and the connection ends.
            let (outcome, fits) = match outcome {
                Ok(now) if pulse.request_ended_at(answer.head.len() + answer.body.len(), now.monotonic) => {
                    (Ok(now), true)
                }
                Ok(_) => (Err(shared.handler.refuse(Refused::Overloaded, "", request_id)), false),
                Err(response) => {
                    pulse.request_ended(length_of(&response));
                    (Err(response), true)
                }
            };
            let is_last = pulse.closes() || !fits;
            let (head, body) = match outcome {
                Ok(now) => {
                    shared.metrics.http_request(http::StatusCode::OK);
                    (head_of(answer, request_id, is_last, (shared, now)), take(&mut answer.body))
                }
                Err(response) => text_of(finished(shared, response, request_id), is_last, shared),
            };
            *stage = Stage::Written { head, body, taken: 0, is_last };
        }
        let Stage::Written { head, body, taken, is_last } = stage else { unreachable!("it is written now") };
        let (all, is_last) = (head.len() + body.len(), *is_last);
        while *taken < all {
            let rest = [&head[(*taken).min(head.len())..], &body[taken.saturating_sub(head.len())..]];
            let written =
                ready!(Pin::new(&mut *socket).poll_write_vectored(cx, &rest.map(io::IoSlice::new)))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *taken += written;
        }
        ready!(Pin::new(&mut *socket).poll_flush(cx))?;
        pulse.flushed();
        pulse.left_beside();
        self.under_way = None;
        Poll::Ready(Ok(if is_last || pulse.closes() { Then::End } else { Then::ReadOn }))
    }
}

fn take(body: &mut Vec<u8>) -> Bytes {
    std::mem::take(body).into()
}

/// Completes the head of a 200.
fn head_of(
    answer: &mut AtOnce,
    request_id: &RequestId,
    closes: bool,
    (shared, now): (&Shared, Moment),
) -> Vec<u8> {
    let mut head = std::mem::take(&mut answer.head);
    head.extend_from_slice(b"cache-control: no-store\r\nx-request-id: ");
    head.extend_from_slice(request_id.as_str().as_bytes());
    head.extend_from_slice(b"\r\n");
    end_head(head, answer.body.len(), closes, (shared, now))
}

/// Writes an answer as it goes over the wire: its head and its body. It is whole, as a handler's answers are
/// but for streams.
pub(super) fn text_of(response: Response, closes: bool, shared: &Shared) -> (Vec<u8>, Bytes) {
    let (parts, body) = response.into_parts();
    let body = AnswerBody::into_bytes(body);
    let mut head = format!("HTTP/1.1 {}\r\n", parts.status).into_bytes();
    for (name, value) in &parts.headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    let now = shared.surroundings.clock.moment();
    (end_head(head, body.len(), closes, (shared, now)), body)
}

/// Adds the last lines of a head.
fn end_head(mut head: Vec<u8>, length: usize, closes: bool, (shared, now): (&Shared, Moment)) -> Vec<u8> {
    head.extend_from_slice(b"content-length: ");
    push_number(&mut head, length as u64);
    if closes {
        head.extend_from_slice(b"\r\nconnection: close");
    }
    // RFC 9110 §6.6.1: an origin server with a clock sends it.
    head.extend_from_slice(b"\r\ndate: ");
    shared.date.push(&mut head, now);
    head.extend_from_slice(b"\r\n\r\n");
    head
}
