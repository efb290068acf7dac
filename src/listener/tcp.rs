//! A TCP socket whose kernel buffers stay within their limit.
//!
//! `SO_SNDBUF` alone does not bound them. The kernel checks the limit when it begins a new buffer, and each
//! buffer takes up to 64 KiB, for a write is added to the last one. `MSG_EOR` ends a buffer with its write,
//! so the limit is checked before every write, and writes of at most [`MOST_AT_ONCE`] exceed it by no more
//! than that.
//!
//! Measured on Linux 6.18 with a client that has a window of 256 KiB and reads nothing, and `SO_SNDBUF` of 8
//! KiB (the kernel doubles it): 65 KiB wait in the kernel without `MSG_EOR`, 19 KiB with it. With 64 KiB (an
//! earlier setting) it was 194 KiB. Sending 2 MB to a client that reads takes 3 ms in place of 790 ms,
//! because no buffer waits half full.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// Most bytes in one write, unless the connection is wide.
pub(super) const MOST_AT_ONCE: usize = 8 * 1024;

/// Most bytes of a body that a wide connection hands on at once.
pub(super) const LARGE_PART: usize = 64 * 1024;

/// Most that it reads at once: a large part, and the head before it. (Each part that comes alone costs a turn
/// of both connections' tasks.)
pub(super) const LARGE_READ: usize = LARGE_PART + MOST_AT_ONCE;

/// Slices in one write: a head and a body are two, TLS records are a few.
const SLICES: usize = 8;

/// How long the kernel keeps trying when the client accepts nothing, even after the connection was closed: 20
/// s. That is longer than the listener's own deadline for an answer.
const TAKES_NOTHING: Duration = Duration::from_secs(20);

/// An accepted TCP connection.
#[derive(Debug)]
pub(super) struct Tcp {
    stream: TcpStream,
    /// Most bytes in one write.
    most: usize,
}

impl Tcp {
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let milliseconds = u32::try_from(TAKES_NOTHING.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(&stream, milliseconds)?;
        Ok(Tcp { stream, most: MOST_AT_ONCE })
    }

    /// Makes the kernel discard unsent data when the socket is closed.
    pub(super) fn forget_unsent(&self) {
        if let Err(error) = sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)) {
            tracing::debug!(%error, "unsent data of a socket could not be discarded");
        }
    }

    /// Has writes be as long, and the kernel keep as much, as a wide connection needs.
    pub(super) fn widen(&mut self) {
        self.most = LARGE_PART;
        let set = sockopt::set_socket_recv_buffer_size(&self.stream, LARGE_READ)
            .and_then(|()| sockopt::set_socket_send_buffer_size(&self.stream, LARGE_PART));
        if let Err(error) = set {
            tracing::debug!(%error, "the buffers of a socket keep their size");
        }
    }

    fn poll_send(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            let sent = self.stream.try_io(Interest::WRITABLE, || {
                let flags = SendFlags::EOR | SendFlags::NOSIGNAL;
                Ok(sendmsg(&self.stream, slices, &mut SendAncillaryBuffer::default(), flags)?)
            });
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => return Poll::Ready(sent),
            }
        }
    }
}

#[cfg(test)]
impl std::os::fd::AsFd for Tcp {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl AsyncRead for Tcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let most = bytes.len().min(self.most);
        self.poll_send(cx, &[IoSlice::new(&bytes[..most])])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut some = [IoSlice::new(&[]); SLICES];
        let (mut taken, mut left) = (0, self.most);
        for slice in slices.iter().filter(|slice| !slice.is_empty()) {
            if left == 0 || taken == SLICES {
                break;
            }
            let most = slice.len().min(left);
            some[taken] = IoSlice::new(&slice[..most]);
            taken += 1;
            left -= most;
        }
        self.poll_send(cx, &some[..taken])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
