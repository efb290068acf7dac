//! Sockets. They are bound early, so that a taken port is an error at the start, and served later.

use std::fs::DirBuilder;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;

use super::client_certificate::{ClientCertificate, PeerCertificate};
use super::date::Date;
use super::exchange::Shared;
use super::passed::PassedSocket;
use super::room::{Room, SOCKET_BUFFER};
use super::socket::Socket;
use super::tcp::Tcp;
use super::tls::HTTP_2;
use super::traced::Tracing;
use super::{Address, Handler, ListenerConfig, Origin, Peer, Surroundings, Tls, connection, http2};
use crate::domain::backoff::Backoff;
use crate::domain::random::Stock;
use crate::domain::task::BoxFuture;
use crate::lifecycle::Shutdown;
use crate::telemetry::metrics::ConnectionRefusal;

/// Connections that the kernel queues while we are busy.
const BACKLOG: u32 = 1024;
/// Most bytes of written data that TLS keeps once it is encrypted.
const TLS_BUFFER: usize = 16 * 1024;
/// The pause after accepts that failed for want of something (file descriptors, memory).
const PAUSE: Backoff = Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(1) };

/// Reason why a listener cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens on this Unix socket.
    #[error("another process already listens on {}", .0.display())]
    InUse(PathBuf),
    /// The path has something other than a socket.
    #[error("{} exists and is not a socket; it was left alone", .0.display())]
    NotASocket(PathBuf),
    /// A passed Unix socket has no file any more, so nobody could find it.
    #[error(
        "the service manager passes the socket {}, but its file is gone: no unit may remove the directory \
         with it (`RuntimeDirectory=`); restart the socket unit",
        .0.display()
    )]
    Gone(PathBuf),
    /// TLS was configured on a Unix socket.
    #[error("a Unix socket cannot have TLS")]
    TlsOnUnix,
    /// A Unix socket could not be prepared or bound.
    #[error("cannot listen on {}", .path.display())]
    Unix {
        /// Its path.
        path: PathBuf,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// A TCP port could not be bound.
    #[error("cannot listen on {address}")]
    Tcp {
        /// Its address.
        address: SocketAddr,
        /// What failed.
        #[source]
        source: io::Error,
    },
}

/// Actual address of a bound listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalAddress {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP address with the chosen port.
    Tcp(SocketAddr),
}

/// A bound listener that does not serve yet: connections wait in the kernel.
#[derive(Debug)]
pub struct Bound {
    config: ListenerConfig,
    room: Arc<Room>,
    incoming: Incoming,
    local: LocalAddress,
}

#[derive(Debug)]
enum Incoming {
    Unix {
        listener: UnixListener,
        /// Kept for its `Drop`. A passed socket's file is not ours.
        _file: Option<SocketFile>,
    },
    Tcp {
        listener: TcpListener,
        /// Whether connections may have come before it had our limits.
        is_passed: bool,
    },
}

/// Our socket file. It is removed with the listener unless someone has replaced it.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a socket file could not be removed");
        }
    }
}

impl Bound {
    /// Binds the socket. Call it within a runtime.
    pub fn bind(config: ListenerConfig) -> Result<Self, BindError> {
        let (incoming, local) = match &config.address {
            Address::Unix(path) => {
                if config.tls.is_some() {
                    return Err(BindError::TlsOnUnix);
                }
                let (listener, file) = bind_unix(path, config.unix_mode)?;
                (Incoming::Unix { listener, _file: Some(file) }, LocalAddress::Unix(path.clone()))
            }
            Address::Tcp(address) => {
                let failed = |source| BindError::Tcp { address: *address, source };
                let listener = bind_tcp(*address).map_err(failed)?;
                let local = listener.local_addr().map_err(failed)?;
                (Incoming::Tcp { listener, is_passed: false }, LocalAddress::Tcp(local))
            }
        };
        Ok(Self::of(config, incoming, local))
    }

    /// Takes over a socket that the service manager passed for this listener. Its file, owner and mode stay
    /// as they are. Call it within a runtime.
    ///
    /// # Errors
    /// The socket cannot be used, its file is gone, or it is a Unix socket and TLS was configured.
    pub fn take_over(config: ListenerConfig, socket: PassedSocket) -> Result<Self, BindError> {
        let (incoming, local) = match socket {
            PassedSocket::Unix(listener, path) => {
                if config.tls.is_some() {
                    return Err(BindError::TlsOnUnix);
                }
                if !std::fs::symlink_metadata(&path).is_ok_and(|found| found.file_type().is_socket()) {
                    return Err(BindError::Gone(path));
                }
                let adopted = listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener));
                let listener = adopted.map_err(|source| BindError::Unix { path: path.clone(), source })?;
                (Incoming::Unix { listener, _file: None }, LocalAddress::Unix(path))
            }
            PassedSocket::Tcp(listener, address) => {
                let adopted = limit_buffers(&listener)
                    .and_then(|()| listener.set_nonblocking(true))
                    .and_then(|()| TcpListener::from_std(listener));
                let listener = adopted.map_err(|source| BindError::Tcp { address, source })?;
                (Incoming::Tcp { listener, is_passed: true }, LocalAddress::Tcp(address))
            }
        };
        Ok(Self::of(config, incoming, local))
    }

    fn of(config: ListenerConfig, incoming: Incoming, local: LocalAddress) -> Self {
        let room = config.room.clone().unwrap_or_else(|| Room::new(&config.limits));
        Bound { config, room, incoming, local }
    }

    /// Returns the address it listens on.
    pub fn local_address(&self) -> &LocalAddress {
        &self.local
    }

    /// Returns the TCP address it listens on, if any.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.local {
            LocalAddress::Unix(_) => None,
            LocalAddress::Tcp(address) => Some(*address),
        }
    }

    /// Returns its name.
    pub fn name(&self) -> &'static str {
        self.config.name
    }

    /// Accepts the next connection, and returns it with another handle to its socket.
    #[cfg(test)]
    pub(super) async fn accepted(&self) -> io::Result<(Box<dyn Socket>, std::os::fd::OwnedFd)> {
        Ok(match next(&self.incoming).await? {
            Accepted::Unix(stream) => {
                let handle = stream.as_fd().try_clone_to_owned()?;
                (Box::new(stream), handle)
            }
            Accepted::Tcp(stream, _) => {
                let handle = stream.as_fd().try_clone_to_owned()?;
                (Box::new(stream), handle)
            }
        })
    }

    /// Serves, in tasks of its own, until the soft stop. Then it closes the listener and removes its socket
    /// file, and the connections end once they have finished their current requests.
    pub fn serve(self, handler: Arc<dyn Handler>, surroundings: Surroundings) {
        self.serve_after(Box::pin(std::future::ready(())), handler, surroundings);
    }

    /// The same, from the moment on that `opens` completes: connections wait in the kernel until then.
    pub fn serve_after(
        self,
        opens: BoxFuture<'static, ()>,
        handler: Arc<dyn Handler>,
        surroundings: Surroundings,
    ) {
        let tasks = Arc::clone(&surroundings.tasks);
        let metrics = surroundings.metrics.listener(self.config.name);
        let ids = Stock::new(Arc::clone(&surroundings.random));
        let shared = Arc::new(Shared {
            name: self.config.name,
            tracing: Tracing {
                listener: self.config.name,
                traced: self.config.traced,
                tracer: surroundings.tracer.clone(),
            },
            handler,
            limits: self.config.limits,
            surroundings,
            metrics,
            ids,
            date: Date::default(),
        });
        tasks.spawn("listener", Box::pin(accept(opens, self.incoming, self.config.tls, self.room, shared)));
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit them.
    limit_buffers(&socket)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn limit_buffers(socket: impl AsFd) -> io::Result<()> {
    sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER)?;
    Ok(sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER)?)
}

/// Checks the path of a Unix socket before it is bound. It does not check whether another process listens
/// there.
///
/// # Errors
/// The path has something other than a socket, or something other than a directory is above it.
pub fn check_socket(path: &Path) -> Result<(), BindError> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => Err(BindError::NotASocket(path.to_owned())),
        Err(source) if source.kind() == io::ErrorKind::NotADirectory => {
            Err(BindError::Unix { path: path.to_owned(), source })
        }
        // The path may become visible, or be created, before it is needed.
        Ok(_) | Err(_) => Ok(()),
    }
}

fn bind_unix(path: &Path, mode: u32) -> Result<(UnixListener, SocketFile), BindError> {
    let failed = |source: io::Error| BindError::Unix { path: path.to_owned(), source };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !parent.exists() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(failed)?;
        // The process's umask is 077 (see `lifecycle::harden`), but callers must be able to reach the socket.
        std::fs::set_permissions(parent, PermissionsExt::from_mode(0o755)).map_err(failed)?;
    }
    // Two daemons that start together must not both find a stale file and remove each other's.
    let directory = std::fs::File::open(parent).map_err(failed)?;
    rustix::fs::flock(&directory, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
    check_socket(path)?;
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(_) => match StdUnixStream::connect(path) {
            Ok(_) => return Err(BindError::InUse(path.to_owned())),
            // Nobody listens: a process could not clean up.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        },
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    let metadata = std::fs::symlink_metadata(path).map_err(failed)?;
    let file = SocketFile { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) };
    // Permissions only widen here, so nobody had more access before.
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).map_err(failed)?;
    Ok((listener, file))
}

enum Accepted {
    Unix(UnixStream),
    Tcp(Tcp, SocketAddr),
}

async fn accept(
    opens: BoxFuture<'static, ()>,
    incoming: Incoming,
    tls: Option<Tls>,
    room: Arc<Room>,
    shared: Arc<Shared>,
) {
    let clock = Arc::clone(&shared.surroundings.clock);
    let _stop = StopWithUs(shared.surroundings.shutdown.clone());
    let soft = shared.surroundings.shutdown.soft().clone();
    let mut stopping = pin!(soft.cancelled());
    let mut failures = 0_u32;
    tokio::select! {
        () = &mut stopping => return,
        () = opens => {}
    }
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stopping => break,
            accepted = next(&incoming) => accepted,
        };
        match accepted {
            Ok(accepted) => {
                failures = 0;
                admit(accepted, tls.as_ref(), &room, &shared);
            }
            Err(error) if is_of_one_connection(&error) => {
                tracing::debug!(
                    listener = shared.name, %error,
                    "a connection was gone before it was accepted"
                );
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                tracing::warn!(listener = shared.name, %error, "cannot accept connections; trying again");
                tokio::select! {
                    () = &mut stopping => break,
                    () = clock.sleep(PAUSE.after(failures)) => {}
                }
            }
        }
    }
    tracing::debug!(listener = shared.name, "no longer accepting");
}

/// Stops the process if a listener ends before the stop: otherwise only users would notice that half of the
/// sockets are dead.
struct StopWithUs(Shutdown);

impl Drop for StopWithUs {
    fn drop(&mut self) {
        if !self.0.is_stopping() {
            tracing::error!("a listener ended before its time; stopping");
            self.0.stop();
        }
    }
}

async fn next(incoming: &Incoming) -> io::Result<Accepted> {
    let gone = |error| io::Error::new(io::ErrorKind::ConnectionAborted, error);
    match incoming {
        Incoming::Unix { listener, .. } => {
            let (stream, _) = listener.accept().await?;
            // It does not have the listener's limit. The data it receives stays in the client's buffer and
            // counts against the client.
            sockopt::set_socket_send_buffer_size(&stream, SOCKET_BUFFER)
                .map_err(|error| gone(error.into()))?;
            Ok(Accepted::Unix(stream))
        }
        Incoming::Tcp { listener, is_passed } => {
            let (stream, address) = listener.accept().await?;
            if *is_passed {
                limit_buffers(&stream).map_err(gone)?;
            }
            Ok(Accepted::Tcp(Tcp::new(stream).map_err(gone)?, address))
        }
    }
}

/// Returns true for errors of the connection being accepted, not of the listener (accept(2), "Error
/// handling").
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
            | io::ErrorKind::TimedOut
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
    )
}

fn admit(accepted: Accepted, tls: Option<&Tls>, room: &Arc<Room>, shared: &Arc<Shared>) {
    let origin = match &accepted {
        Accepted::Unix(stream) => match stream.peer_cred() {
            Ok(peer) => Origin::Unix { uid: peer.uid(), gid: peer.gid(), pid: peer.pid() },
            // Without an identity, the peer could not be allowed anything.
            Err(_) => return,
        },
        Accepted::Tcp(_, address) => Origin::Tcp(*address),
    };
    let place = match room.take(origin, shared.surroundings.clock.monotonic()) {
        Ok(place) => place,
        Err(reason) => return shared.metrics.connection_refused(reason),
    };
    let tls = tls.cloned();
    let task = {
        let shared = Arc::clone(shared);
        async move {
            shared.metrics.connection_opened();
            let _open = Open { shared: &shared };
            let peer = Peer { origin, tls: tls.is_some(), certificate: PeerCertificate::None };
            let (mut certificate, mut is_http2) = (None, false);
            let socket: Box<dyn Socket> = match (accepted, tls) {
                (Accepted::Unix(stream), _) => Box::new(stream),
                (Accepted::Tcp(stream, _), None) => Box::new(stream),
                (Accepted::Tcp(stream, address), Some(tls)) => {
                    let surroundings = &shared.surroundings;
                    let current = tls.current();
                    let accept = TlsAcceptor::from(current.settings.config())
                        .accept_with(stream, |tls| tls.set_buffer_limit(Some(TLS_BUFFER)));
                    let handshake = tokio::select! {
                        handshake = accept => handshake.map_err(|error| (why(&error), error.to_string())),
                        () = surroundings.clock.sleep(shared.limits.tls_handshake) => {
                            Err((ConnectionRefusal::Handshake, "too slow".to_owned()))
                        }
                        () = place.told() => {
                            return shared.metrics.connection_refused(ConnectionRefusal::GaveWay);
                        }
                        // (A soft stop ends connections by their first answer, and no handshake takes long.)
                        () = surroundings.shutdown.hard().cancelled() => return,
                    };
                    let verified = handshake.and_then(|stream| {
                        if let Some(chain) = stream.get_ref().1.peer_certificates() {
                            let clock = surroundings.clock.as_ref();
                            let client = ClientCertificate::verified(chain, &tls, &current, clock);
                            certificate = Some(client.ok_or((
                                ConnectionRefusal::ClientCertificate,
                                "the client's certificates are longer than 16 KiB".to_owned(),
                            ))?);
                        }
                        Ok(stream)
                    });
                    match verified {
                        Ok(stream) => {
                            is_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP_2);
                            Box::new(stream)
                        }
                        Err((reason, error)) => {
                            shared.metrics.connection_refused(reason);
                            tracing::debug!(
                                listener = shared.name, peer = %address, error,
                                "TLS handshake failed"
                            );
                            return;
                        }
                    }
                }
            };
            let shared = Arc::clone(&shared);
            match is_http2 {
                true => http2::serve(shared, socket, peer, certificate, place).await,
                false => connection::serve(shared, socket, peer, certificate, place).await,
            }
        }
    };
    shared.surroundings.tasks.spawn("connection", Box::pin(task));
}

/// Returns whether a handshake failed for the client's certificate, or for anything else.
fn why(error: &io::Error) -> ConnectionRefusal {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    match error {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            ConnectionRefusal::ClientCertificate
        }
        _ => ConnectionRefusal::Handshake,
    }
}

/// Counts a connection as open while it lives, however its task ends.
struct Open<'a> {
    shared: &'a Shared,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.shared.metrics.connection_closed();
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn want_of_descriptors_is_no_single_connection_s_error() {
        let error = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        for waits in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert!(!is_of_one_connection(&error(waits)), "{waits}");
        }
        for passes in [Errno::CONNABORTED, Errno::INTR, Errno::NETUNREACH, Errno::HOSTUNREACH] {
            assert!(is_of_one_connection(&error(passes)), "{passes}");
        }
    }
}
