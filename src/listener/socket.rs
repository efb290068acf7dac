//! The sockets of connections, as their connection sees them.

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio_rustls::server::TlsStream;

use super::tcp::{LARGE_PART, Tcp};

/// A socket of any kind.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {
    /// Makes the kernel discard unsent data when the socket is closed. Otherwise it would keep the data for a
    /// while, uncounted.
    fn forget_unsent(&self);

    /// Has the kernel keep as much for it as a wide connection needs.
    fn widen(&mut self);
}

impl Socket for Tcp {
    fn forget_unsent(&self) {
        Tcp::forget_unsent(self);
    }

    fn widen(&mut self) {
        Tcp::widen(self);
    }
}

impl Socket for TlsStream<Tcp> {
    fn forget_unsent(&self) {
        self.get_ref().0.forget_unsent();
    }

    fn widen(&mut self) {
        self.get_mut().0.widen();
    }
}

impl Socket for UnixStream {
    /// The client has received it already.
    fn forget_unsent(&self) {}

    fn widen(&mut self) {
        // (What it receives stays in the client's buffer.)
        if let Err(error) = sockopt::set_socket_send_buffer_size(&*self, LARGE_PART) {
            tracing::debug!(%error, "the buffer of a socket keeps its size");
        }
    }
}
