//! Sockets that the service manager opened and passes on (sd_listen_fds(3)). It keeps them open while no
//! daemon runs, and the kernel keeps what arrives meanwhile: a restart refuses no connection.
//!
//! A passed socket goes to the listener that is configured at its address, and the daemon opens every other
//! listener by itself. So one configuration fits both ways to start, and commands find the daemon either way.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use rustix::net::sockopt;

use super::Address;

/// Most sockets that are taken: far more than there are listeners. A larger count is a mistake.
const MOST: usize = 64;

/// The sockets that were passed and that no listener has yet.
#[derive(Debug, Default)]
pub struct PassedSockets {
    sockets: Vec<Passed>,
    /// What the unit calls those that are no sockets of ours.
    odd: Vec<String>,
}

#[derive(Debug)]
struct Passed {
    /// What its unit calls it (`FileDescriptorName=`; systemd's default is the name of the unit).
    name: String,
    socket: PassedSocket,
}

/// A socket that listens already.
#[derive(Debug)]
pub enum PassedSocket {
    /// A Unix socket, and its path.
    Unix(UnixListener, PathBuf),
    /// A TCP socket, and its address.
    Tcp(TcpListener, SocketAddr),
}

/// Reason why a passed socket, or all of them, cannot be taken over.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PassedError {
    /// `LISTEN_FDS` is no number, or too large.
    #[error("LISTEN_FDS is `{0}` and no count of sockets up to {MOST}: the service manager sets it")]
    Count(String),
    /// One of them is something else.
    #[error(
        "the service manager passes `{0}`, which is no socket that listens at a path or a TCP address: use \
         `ListenStream=` and no `Accept=yes`"
    )]
    NotListening(String),
    /// No listener is configured at this address.
    #[error(
        "the service manager passes a socket at {0}, where no listener is configured, so nobody would be \
         answered there: configure a listener with this very address, or take it out of the socket unit"
    )]
    Unused(String),
}

impl PassedSockets {
    /// Takes the sockets of this process, if its environment says that some were passed to it. They are not
    /// inherited by a child. Call it once, before the process opens descriptors that it keeps.
    ///
    /// # Errors
    /// What was passed is not what `variables` say.
    pub fn of_process(variables: &BTreeMap<String, String>) -> Result<Self, PassedError> {
        let Some(count) = variables.get("LISTEN_FDS") else { return Ok(PassedSockets::default()) };
        if variables.get("LISTEN_PID") != Some(&std::process::id().to_string()) {
            return Ok(PassedSockets::default());
        }
        if !count.parse().is_ok_and(|count: usize| count <= MOST) {
            return Err(PassedError::Count(count.clone()));
        }
        let names: Vec<&str> =
            variables.get("LISTEN_FDNAMES").map_or(Vec::new(), |it| it.split(':').collect());
        // It also removes the variables.
        let mut all = ListenFd::from_env();
        let mut passed = PassedSockets::default();
        for at in 0..all.len() {
            let name = names.get(at).map_or_else(|| format!("socket {at}"), |name| String::from(*name));
            match listening(&mut all, at) {
                Some(socket) => passed.sockets.push(Passed { name, socket }),
                None => passed.odd.push(name),
            }
        }
        Ok(passed)
    }

    /// Takes the socket at that address, if there is one.
    pub fn take(&mut self, address: &Address) -> Option<PassedSocket> {
        let at = self.sockets.iter().position(|passed| match (&passed.socket, address) {
            (PassedSocket::Unix(_, path), Address::Unix(configured)) => is_same_place(path, configured),
            (PassedSocket::Tcp(_, passed), Address::Tcp(configured)) => {
                (passed.ip(), passed.port()) == (configured.ip(), configured.port())
            }
            (PassedSocket::Unix(..), Address::Tcp(_)) | (PassedSocket::Tcp(..), Address::Unix(_)) => false,
        });
        at.map(|at| self.sockets.remove(at).socket)
    }

    /// Returns what is wrong with those that no listener has taken.
    pub fn left(&self) -> impl Iterator<Item = PassedError> {
        let odd = self.odd.iter().map(|name| PassedError::NotListening(name.clone()));
        let unused = |Passed { name, socket }: &Passed| PassedError::Unused(format!("{socket} (`{name}`)"));
        odd.chain(self.sockets.iter().map(unused))
    }
}

impl fmt::Display for PassedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PassedSocket::Unix(_, path) => write!(f, "{}", path.display()),
            PassedSocket::Tcp(_, address) => write!(f, "{address}"),
        }
    }
}

/// Takes the socket at a place of the list, if it listens.
fn listening(all: &mut ListenFd, at: usize) -> Option<PassedSocket> {
    if let Ok(Some(listener)) = all.take_unix_listener(at) {
        let path = listener.local_addr().ok()?.as_pathname()?.to_owned();
        return sockopt::socket_acceptconn(&listener).ok()?.then_some(PassedSocket::Unix(listener, path));
    }
    let listener = all.take_tcp_listener(at).ok()??;
    let address = listener.local_addr().ok()?;
    sockopt::socket_acceptconn(&listener).ok()?.then_some(PassedSocket::Tcp(listener, address))
}

/// Returns whether two paths name one entry of one directory (`/var/run` is often a link to `/run`).
fn is_same_place(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| {
        let folder = path.parent()?.canonicalize().ok()?;
        Some((folder, path.file_name()?.to_owned()))
    };
    one == other || place(one).is_some_and(|one| Some(one) == place(other))
}
