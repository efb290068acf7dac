//! The body of an answer: whole, or a stream whose chunks come later.
//!
//! A stream is polled by its connection and nobody else. So it costs no task and no queue: a chunk is made
//! when the one before it is taken, and a stream ends with its connection at once.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::Stream;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};

use super::client_certificate::ClientCertificate;
use super::pulse::Pulse;
use super::room::{Room, StreamSeat};
use super::{Origin, Peer};
use crate::domain::time::Clock;

/// The body of an answer.
pub struct AnswerBody(Kind);

enum Kind {
    Whole(Full<Bytes>),
    Stream(Chunks),
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

    /// Returns its bytes; none of a stream.
    pub(super) fn into_bytes(self) -> Bytes {
        match self.0 {
            Kind::Whole(mut whole) => {
                match Pin::new(&mut whole).poll_frame(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
                    _ => Bytes::new(),
                }
            }
            Kind::Stream(_) => Bytes::new(),
        }
    }

    /// Whether its chunks come later.
    pub(super) fn is_stream(&self) -> bool {
        matches!(self.0, Kind::Stream(_))
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
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.get_mut().0 {
            Kind::Whole(whole) => Pin::new(whole).poll_frame(cx),
            Kind::Stream(stream) => {
                stream.chunks.as_mut().poll_next(cx).map(|chunk| chunk.map(Frame::data).map(Ok))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(whole) => whole.is_end_stream(),
            Kind::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(whole) => whole.size_hint(),
            Kind::Stream(_) => SizeHint::default(),
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
    ) -> Self {
        Streams(Some(Source { room, origin, certificate, clock }))
    }

    /// Takes a place for a stream. `None` if the listener, or this peer, has as many streams as it may have:
    /// that is 503.
    pub fn take(self) -> Option<Arc<StreamPlace>> {
        let Source { room, origin, certificate, clock } = self.0?;
        let seat = room.stream(origin)?;
        Some(Arc::new(StreamPlace { certificate, clock, _seat: seat }))
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
}

impl StreamPlace {
    /// Returns the peer of the stream's request as it is now: its certificate may not be trusted any more.
    pub fn now(&self, mut peer: Peer) -> Peer {
        if let Some(certificate) = &self.certificate {
            peer.certificate = certificate.now(self.clock.as_ref());
        }
        peer
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
}

impl Paced {
    pub(super) fn new(body: AnswerBody, pulse: &Arc<Pulse>) -> Self {
        let stream_of = body.is_stream().then(|| Arc::clone(pulse));
        Paced { body, stream_of }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(pulse) = &self.stream_of else { return Pin::new(&mut self.body).poll_frame(cx) };
        let pulse = Arc::clone(pulse);
        if pulse.is_chunk_untaken() {
            return Poll::Pending;
        }
        let frame = match pulse.closes() {
            true => Poll::Ready(None),
            false => Pin::new(&mut self.body).poll_frame(cx),
        };
        if let Poll::Ready(frame) = &frame {
            let chunk = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
            match chunk {
                // (Without room for it the stream ends; nothing of it was sent in part.)
                Some(chunk) if pulse.chunk_began(chunk.len()) => {}
                _ => {
                    self.stream_of = None;
                    self.body = AnswerBody::default();
                    pulse.stream_ended();
                    return Poll::Ready(None);
                }
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && self.stream_of.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
