//! A socket that counts the frames which pass it, in both directions.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{Edge, Flood, Frames};
use super::ledger::Ledger;
use crate::domain::time::Clock;
use crate::listener::socket::Socket;

/// What a connection and its socket share.
pub(super) struct Counts {
    pub(super) frames: Frames,
    pub(super) flood: Option<Flood>,
    /// True if the client has closed its side.
    pub(super) ended: bool,
    sent: Edge,
    /// The socket, once the library has dropped it.
    socket: Option<Box<dyn Socket>>,
}

impl Counts {
    pub(super) fn new(frames: Frames) -> Arc<Mutex<Self>> {
        let counts = Counts { frames, flood: None, ended: false, sent: Edge::default(), socket: None };
        Arc::new(Mutex::new(counts))
    }

    /// Returns true if too many requests were refused, once the library has worked off what was read.
    pub(super) fn has_flood(&mut self, ledger: &Ledger, now: Duration) -> bool {
        // While the socket takes nothing, the library may leave frames for later.
        if !ledger.is_blocked() {
            self.flood = self.flood.or(self.frames.settle(ledger.accepted(), now).err());
        }
        self.flood.is_some()
    }

    /// Returns the socket, and whether a frame of ours may follow what was written.
    pub(super) fn socket(&mut self) -> Option<(Box<dyn Socket>, bool)> {
        Some((self.socket.take()?, self.sent.is_between()))
    }
}

/// The socket, as the library has it.
pub(super) struct Wire {
    socket: Option<Box<dyn Socket>>,
    counts: Arc<Mutex<Counts>>,
    ledger: Arc<Ledger>,
    clock: Arc<dyn Clock>,
}

impl Wire {
    pub(super) fn new(
        socket: Box<dyn Socket>,
        counts: &Arc<Mutex<Counts>>,
        ledger: &Arc<Ledger>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Wire { socket: Some(socket), counts: Arc::clone(counts), ledger: Arc::clone(ledger), clock }
    }

    fn socket(&mut self) -> Pin<&mut Box<dyn Socket>> {
        Pin::new(self.socket.as_mut().expect("it is taken away with the drop alone"))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.counts.lock().socket = self.socket.take();
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(self.socket().poll_read(cx, buffer))?;
        let counts = &mut *self.counts.lock();
        let read = &buffer.filled()[before..];
        counts.ended |= read.is_empty();
        if let Err(flood) = counts.frames.take(read, self.clock.monotonic()) {
            counts.flood = Some(flood);
            return Poll::Ready(Err(io::Error::other(flood.reason())));
        }
        if !self.ledger.read(counts.frames.is_unfinished(), counts.frames.in_progress()) {
            return Poll::Ready(Err(io::Error::other("too much is on its way here at once")));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Poll::Ready(written) = self.socket().poll_write_vectored(cx, slices) else {
            self.ledger.written(false);
            return Poll::Pending;
        };
        let mut left = *written.as_ref().unwrap_or(&0);
        let counts = &mut *self.counts.lock();
        for slice in slices {
            let taken = left.min(slice.len());
            counts.sent.pass(&slice[..taken]);
            left -= taken;
        }
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.as_ref().is_some_and(|socket| socket.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.socket().poll_flush(cx);
        self.ledger.written(flushed.is_ready());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_shutdown(cx)
    }
}
