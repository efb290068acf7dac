//! A connection's socket, as hyper sees it: what comes is checked ([`Framing`]), and plain requests are
//! answered beside hyper.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::at_once::{Lane, Then};
use super::guard::{Framing, Violation};
use super::pulse::Pulse;
use super::room::BUFFER;
use super::socket::Socket;
use super::tcp::LARGE_READ;
use super::{Limits, Refused};

/// Most bytes of one read: one less than the size at which hyper doubles its next buffer.
const MOST_READ: usize = BUFFER - 1;

/// A socket that checks incoming bytes.
pub(super) struct Guarded {
    socket: Box<dyn Socket>,
    framing: Framing,
    pulse: Arc<Pulse>,
    /// The first violation; nothing is read after it.
    violated: Option<Violation>,
    /// Why a head was refused while no earlier request waits for an answer: the connection answers that and
    /// ends.
    refused_head: Option<Refused>,
    /// For requests that are answered at once.
    lane: Lane,
    /// What came while there was no hyper, and is for it.
    came: Bytes,
    /// Whether the socket is wide.
    is_wide: bool,
}

/// How a connection goes on that was without hyper.
pub(super) enum Next {
    /// Something came that is for hyper.
    Hyper,
    /// It ends.
    End,
}

/// What one read brought.
enum Came {
    /// A request that is answered at once.
    Plain,
    /// What is for hyper, and was given to it.
    ForHyper,
    /// Nothing more: the client has closed its side, or a head was too long.
    End,
}

impl Guarded {
    pub(super) fn new(socket: Box<dyn Socket>, limits: &Limits, pulse: Arc<Pulse>, lane: Lane) -> Self {
        let framing = Framing::new(limits.max_header_bytes, limits.max_headers);
        let came = Bytes::new();
        Guarded { socket, framing, pulse, violated: None, refused_head: None, lane, came, is_wide: false }
    }

    /// Answers plain requests while there is no hyper. It keeps what is for hyper.
    pub(super) fn poll_without_hyper(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Next>> {
        if !self.came.is_empty() {
            return Poll::Ready(Ok(Next::Hyper));
        }
        let mut came = Bytes::new();
        let next = self.poll_requests(cx, MOST_READ, |bytes| came = Bytes::copy_from_slice(bytes));
        self.came = came;
        next
    }

    /// Takes back what hyper has read and not used.
    pub(super) fn take_back(&mut self, read: Bytes) {
        self.came = read;
    }

    /// Answers plain requests until something else comes, which `give` gets.
    fn poll_requests(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        mut give: impl FnMut(&[u8]),
    ) -> Poll<io::Result<Next>> {
        loop {
            let Guarded { lane, socket, pulse, .. } = &mut *self;
            if let Then::End = ready!(lane.poll(socket.as_mut(), pulse, cx))? {
                return Poll::Ready(Ok(Next::End));
            }
            match ready!(self.read(cx, most, &mut give))? {
                Came::Plain => {}
                Came::ForHyper => return Poll::Ready(Ok(Next::Hyper)),
                Came::End => return Poll::Ready(Ok(Next::End)),
            }
        }
    }

    /// Returns why a head was refused that still needs its answer.
    pub(super) fn refused_head(&self) -> Option<Refused> {
        self.refused_head
    }

    /// Returns the path of the head that was too long, as far as it is known.
    pub(super) fn overlong_path(&self) -> &str {
        &self.framing.overlong_path
    }

    /// Returns the first violation, if any.
    pub(super) fn violation(&self) -> Option<Violation> {
        self.violated
    }

    /// Returns the socket itself.
    pub(super) fn into_socket(self) -> Box<dyn Socket> {
        self.socket
    }
}

thread_local! {
    /// What was read last on this thread. A buffer of hyper's would have to be cleared for each read.
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; LARGE_READ].into());
}

impl Read for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.came.is_empty() {
            let most = self.came.len().min(buffer.remaining());
            buffer.put_slice(&self.came.split_to(most));
            return Poll::Ready(Ok(()));
        }
        match self.violated {
            None => {}
            Some(Violation::Head(_)) => return Poll::Ready(Ok(())),
            Some(Violation::Body(reason)) => {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, reason)));
            }
        }
        if self.refused_head.is_some() {
            return Poll::Ready(Ok(()));
        }
        self.fit();
        // hyper takes a read without bytes for the end, as it should.
        let most = buffer.remaining();
        let next = self.poll_requests(cx, most, |bytes| buffer.put_slice(bytes));
        self.pulse.waits_for_head(next.is_pending() && self.framing.is_before_head());
        next.map_ok(|_| ())
    }
}

impl Guarded {
    /// Makes the socket wide if its connection has become so.
    fn fit(&mut self) {
        if !self.is_wide && self.pulse.is_wide() {
            self.is_wide = true;
            self.socket.widen();
        }
    }

    /// Reads at most this many bytes, once.
    fn read(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        give: &mut impl FnMut(&[u8]),
    ) -> Poll<io::Result<Came>> {
        READ.with_borrow_mut(|read| {
            let most = most.min(if self.is_wide { read.len() } else { MOST_READ });
            let mut some = ReadBuf::new(&mut read[..most]);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut some))?;
            let bytes = some.filled_mut();
            if bytes.is_empty() {
                return Poll::Ready(Ok(Came::End));
            }
            if self.framing.is_before_head() && self.lane.takes(bytes, &self.pulse) {
                return Poll::Ready(Ok(Came::Plain));
            }
            let good = self.check(bytes)?;
            give(&bytes[..good]);
            Poll::Ready(Ok(if good == 0 { Came::End } else { Came::ForHyper }))
        })
    }

    /// Checks what was read, and returns how many of its bytes go on to hyper.
    fn check(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut passed = bytes.len();
        if let Err((good, violation)) = self.framing.take(bytes) {
            self.violated = Some(violation);
            match violation {
                // (hyper's own answer would have no words.)
                Violation::Head(_) if good == 0 && !self.pulse.is_with_hyper() => {
                    self.refused_head = Some(Refused::Malformed);
                    return Ok(0);
                }
                Violation::Head(_) => {
                    // At least one byte was refused, so there is room for the NUL.
                    bytes[good] = 0;
                    passed = good + 1;
                }
                // The good bytes (perhaps the whole head) go first; the next read is the error.
                Violation::Body(reason) if good == 0 => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
                }
                Violation::Body(_) => passed = good,
            }
        }
        // hyper's own answer would not say what to do, so it sees the end of the stream in place of this
        // head. If a request is being answered, hyper sees the head, because an end would break that answer
        // off; it then says 431 by itself.
        if self.framing.overlong_at.take() == Some(0) && !self.pulse.is_answering() {
            self.refused_head = Some(Refused::HeadTooLarge);
            return Ok(0);
        }
        let within = (self.framing.in_head(), self.framing.in_body());
        if !self.pulse.read(within, self.framing.unfinished()) {
            return Err(io::Error::other("too much is on its way here at once"));
        }
        Ok(passed)
    }
}

impl Write for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.fit();
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What is under way beside hyper is flushed there.
        if self.lane.is_busy() {
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
        // hyper comes here once everything is written, and does not check again whether a request waits for
        // that.
        if self.pulse.flushed() {
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper is done, and the answer must still be written.
        if self.refused_head.is_some() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.fit();
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}
