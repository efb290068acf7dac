//! The body of an answer: whole, a stream whose chunks come later, or one that is relayed.
//!
//! A stream is polled by its connection and nobody else. So it costs no task and no queue: a chunk is made
//! when the one before it is taken, and a stream ends with its connection at once. A stream may end where a
//! connection is to close; what is relayed has an end of its own, and without it the answer must not look
//! whole.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};

use super::body::Keeper;
use super::client_certificate::ClientCertificate;
use super::pulse::Pulse;
use super::room::{Room, StreamSeat};
use super::tcp::LARGE_PART;
use super::{Origin, Peer};
use crate::domain::time::Clock;

/// Most bytes of a body that a connection hands on at once, unless it is wide.
const SMALL_PART: usize = 8 * 1024;
/// A client that takes no longer for a part gets large ones.
const QUICK: Duration = Duration::from_secs(1);

/// The body of an answer.
pub struct AnswerBody(Kind);

enum Kind {
    Whole(Full<Bytes>),
    Stream(Chunks),
    Relayed(Relayed),
}

/// A relayed body broke off: the client must not take what it has for the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the relayed answer broke off")]
pub struct BrokenOff;

/// A part of a relayed body.
#[derive(Debug)]
pub struct Part {
    /// Its bytes.
    pub bytes: Bytes,
    /// Whether it is known that nothing follows. (It leaves together with the end then.)
    pub is_last: bool,
}

/// The parts of a relayed body, with its place while they come.
struct Relayed {
    parts: Pin<Box<dyn Stream<Item = Result<Part, BrokenOff>> + Send>>,
    /// Its length, if that is known.
    left: Option<u64>,
    /// Whether its last part was given.
    is_over: bool,
    _place: Arc<StreamPlace>,
}

/// The chunks of a stream, with its place while they come.
struct Chunks {
    chunks: Pin<Box<dyn Stream<Item = Bytes> + Send>>,
    _place: Arc<StreamPlace>,
}

impl AnswerBody {
    /// Makes a body that is known as a whole.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        AnswerBody(Kind::Whole(Full::new(bytes.into())))
    }

    /// Makes a body whose chunks come later. The connection polls them one by one; it drops them when the
    /// client goes away, and ends them when it becomes too old or the process stops.
    pub fn stream(place: Arc<StreamPlace>, chunks: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        AnswerBody(Kind::Stream(Chunks { chunks: Box::pin(chunks), _place: place }))
    }

    /// Makes a body that is relayed: its parts come later, and it ends when they do, or breaks off. `length`
    /// is that of all parts, if it is known.
    pub fn relayed(
        place: Arc<StreamPlace>,
        length: Option<u64>,
        parts: impl Stream<Item = Result<Part, BrokenOff>> + Send + 'static,
    ) -> Self {
        let (parts, is_over) = (Box::pin(parts) as Pin<Box<_>>, length == Some(0));
        AnswerBody(Kind::Relayed(Relayed { parts, left: length, is_over, _place: place }))
    }

    /// Returns its bytes; none of a stream.
    pub(super) fn into_bytes(self) -> Bytes {
        match self.0 {
            Kind::Whole(mut whole) => {
                match Pin::new(&mut whole).poll_frame(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
                    _ => Bytes::new(),
                }
            }
            Kind::Stream(_) | Kind::Relayed(_) => Bytes::new(),
        }
    }

    /// Whether its chunks come later.
    pub(super) fn is_stream(&self) -> bool {
        matches!(self.0, Kind::Stream(_) | Kind::Relayed(_))
    }

    /// Whether it has an end of its own, without which it is broken.
    pub(super) fn is_relayed(&self) -> bool {
        matches!(self.0, Kind::Relayed(_))
    }
}

impl Default for AnswerBody {
    fn default() -> Self {
        AnswerBody::whole(Bytes::new())
    }
}

impl fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // (A body may have a token.)
        f.write_str(if self.is_stream() { "AnswerBody(stream)" } else { "AnswerBody(whole)" })
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match &mut self.get_mut().0 {
            Kind::Whole(whole) => Pin::new(whole).poll_frame(cx).map_err(|never| match never {}),
            Kind::Relayed(relayed) => {
                let part = std::task::ready!(relayed.parts.as_mut().poll_next(cx));
                if let Some(Ok(part)) = &part {
                    relayed.left = relayed.left.map(|left| left.saturating_sub(part.bytes.len() as u64));
                    relayed.is_over = part.is_last || relayed.left == Some(0);
                }
                Poll::Ready(part.map(|part| part.map(|part| Frame::data(part.bytes))))
            }
            Kind::Stream(stream) => {
                stream.chunks.as_mut().poll_next(cx).map(|chunk| chunk.map(Frame::data).map(Ok))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(whole) => whole.is_end_stream(),
            Kind::Relayed(relayed) => relayed.is_over,
            Kind::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(whole) => whole.size_hint(),
            Kind::Stream(_) => SizeHint::default(),
            Kind::Relayed(relayed) => relayed.left.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

/// Where a request may get a place for a stream.
pub struct Streams(Option<Source>);

struct Source {
    room: Arc<Room>,
    origin: Origin,
    certificate: Option<Arc<ClientCertificate>>,
    clock: Arc<dyn Clock>,
    keeper: Arc<dyn Keeper>,
}

impl Streams {
    /// Makes one for a request without a connection, in tests of handlers: it has no place.
    pub fn none() -> Self {
        Streams(None)
    }

    pub(super) fn of(
        room: Arc<Room>,
        origin: Origin,
        certificate: Option<Arc<ClientCertificate>>,
        clock: Arc<dyn Clock>,
        keeper: Arc<dyn Keeper>,
    ) -> Self {
        Streams(Some(Source { room, origin, certificate, clock, keeper }))
    }

    /// Takes a place for a stream. `None` if the listener, or this peer, has as many streams as it may have:
    /// that is 503.
    pub fn take(self) -> Option<Arc<StreamPlace>> {
        let Source { room, origin, certificate, clock, keeper } = self.0?;
        let seat = room.stream(origin)?;
        let last_part = AtomicU64::new(0);
        Some(Arc::new(StreamPlace { certificate, clock, _seat: seat, keeper, last_part }))
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Streams")
    }
}

/// The place of one stream, given back when it is dropped.
pub struct StreamPlace {
    certificate: Option<Arc<ClientCertificate>>,
    clock: Arc<dyn Clock>,
    _seat: StreamSeat,
    keeper: Arc<dyn Keeper>,
    /// When a part was handed on last, in milliseconds of the monotonic clock; 0 before the first.
    last_part: AtomicU64,
}

impl StreamPlace {
    /// Returns the peer of the stream's request as it is now: its certificate may not be trusted any more.
    pub fn now(&self, mut peer: Peer) -> Peer {
        if let Some(certificate) = &self.certificate {
            peer.certificate = certificate.now(self.clock.as_ref());
        }
        peer
    }

    /// Has the connection pass bodies on in large parts, if there is room for that. Returns true if it does.
    pub fn widen(&self) -> bool {
        self.keeper.widen()
    }

    /// Returns how many bytes of a body are handed on next, of so many that are there.
    pub fn part(&self, has: usize) -> usize {
        let now = u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        let last = self.last_part.swap(now, Ordering::Relaxed);
        // (A slow client must take a part in time, so it gets small ones.)
        let is_quick = last == 0 || now.saturating_sub(last) < QUICK.as_millis() as u64;
        let most = if has > SMALL_PART && is_quick && self.widen() { LARGE_PART } else { SMALL_PART };
        has.min(most)
    }
}

impl fmt::Debug for StreamPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamPlace")
    }
}

/// A body at the pace of its HTTP/1 connection: a stream's next chunk is made when the client has taken the
/// one before, and its end comes when the connection is to close.
pub(super) struct Paced {
    body: AnswerBody,
    /// `None` for a whole body, and after a stream's end.
    stream_of: Option<Arc<Pulse>>,
    /// Whether nothing of it was given yet.
    is_first: bool,
    /// Whether it broke off before its head was taken.
    is_broken: bool,
}

impl Paced {
    pub(super) fn new(body: AnswerBody, pulse: &Arc<Pulse>) -> Self {
        let stream_of = body.is_stream().then(|| Arc::clone(pulse));
        Paced { body, stream_of, is_first: true, is_broken: false }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let Some(pulse) = &self.stream_of else { return Pin::new(&mut self.body).poll_frame(cx) };
        let pulse = Arc::clone(pulse);
        let is_relayed = self.body.is_relayed();
        // What is relayed goes on to its end, unless others need the room.
        if is_relayed && pulse.gives_way() {
            return self.end(&pulse, Some(Err(BrokenOff)));
        }
        // (The first part of what is relayed leaves together with the head.)
        if !(is_relayed && self.is_first) && pulse.is_chunk_untaken() {
            return Poll::Pending;
        }
        if self.is_broken {
            return self.end(&pulse, Some(Err(BrokenOff)));
        }
        if !is_relayed && pulse.closes() {
            return self.end(&pulse, None);
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else { return Poll::Pending };
        self.is_first = false;
        // (hyper throws a head away whose body breaks off at once, so the head leaves first.)
        if matches!(frame, Some(Err(_))) && pulse.is_chunk_untaken() {
            self.is_broken = true;
            return Poll::Pending;
        }
        let chunk = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
        let with_head = is_relayed && pulse.is_chunk_untaken();
        let is_last = self.body.is_end_stream();
        match chunk {
            // (hyper does not ask again behind the last.)
            Some(chunk) if is_last && pulse.last_chunk_began(chunk.len()) => {
                self.stream_of = None;
                Poll::Ready(frame)
            }
            Some(chunk) if !is_last && pulse.chunk_began(chunk.len()) => Poll::Ready(frame),
            // (Without room for it the stream ends; nothing of it was sent in part. A head leaves first.)
            Some(_) if with_head => {
                (self.body, self.is_broken) = (AnswerBody::default(), true);
                Poll::Pending
            }
            Some(_) => self.end(&pulse, is_relayed.then_some(Err(BrokenOff))),
            None => self.end(&pulse, frame.filter(Result::is_err)),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream_of.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Paced {
    fn end(
        &mut self,
        pulse: &Pulse,
        last: Option<Result<Frame<Bytes>, BrokenOff>>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        self.stream_of = None;
        self.body = AnswerBody::default();
        pulse.stream_ended();
        Poll::Ready(last)
    }
}
