//! The sockets of connections, as their connection sees them.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio_rustls::server::TlsStream;

use super::tcp::Tcp;

/// A socket of any kind.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {
    /// Makes the kernel discard unsent data when the socket is closed. Otherwise it would keep the data for a
    /// while, uncounted.
    fn forget_unsent(&self);
}

impl Socket for Tcp {
    fn forget_unsent(&self) {
        Tcp::forget_unsent(self);
    }
}

impl Socket for TlsStream<Tcp> {
    fn forget_unsent(&self) {
        self.get_ref().0.forget_unsent();
    }
}

impl Socket for UnixStream {
    /// The client has received it already.
    fn forget_unsent(&self) {}
}
