//! The bytes to a server: TCP, TLS if it is configured, and a meter on the answers.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::meter::{Limits, Metered};
use super::tls::{RedisTls, client_config};

/// A connection, whatever is below it.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// Connects, with TLS where it is wanted. The caller bounds how long it waits; `limits` bound how much is
/// answered.
pub(super) async fn dial(
    tls: Option<&RedisTls>,
    host: &str,
    port: u16,
    limits: Limits,
) -> Result<Box<dyn Wire>, String> {
    let stream = TcpStream::connect((host, port)).await.map_err(|error| error.to_string())?;
    prepare(&stream).map_err(|error| error.to_string())?;
    let Some(tls) = tls else { return Ok(Box::new(Metered::new(stream, limits))) };
    let tls = client_config(tls)?;
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| format!("`{host}` cannot stand in a certificate"))?;
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await;
    Ok(Box::new(Metered::new(stream.map_err(|error| format!("TLS: {error}"))?, limits)))
}

/// Small requests must not wait for one another's acknowledgement, and a vanished peer must be noticed while
/// nobody asks anything.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(15))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(5))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    Ok(())
}
