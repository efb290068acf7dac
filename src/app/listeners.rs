//! The configured listeners: prepares their TLS, binds them, and replaces their TLS and what they accept.

mod tls_files;

use parking_lot::Mutex;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::findings::Findings;
use super::start_error::StartError;
use crate::api::admin::Place;
use crate::config::{ListenConfig, Listener};
use crate::domain::auth_method::{AuthMethods, LiveAuthMethods};
use crate::domain::time::Clock;
use crate::listener::{
    Address, Bound, Limits, ListenerConfig, PassedSockets, Room, Tls, Traced, check_socket,
};
use crate::secret_file::SecretReader;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::series::MOST_PAGE;
use tls_files::ReadTls;
pub(super) use tls_files::{TlsEnds, TlsFile};

/// Browsers. A callback's form is a few KiB, and no other body is read.
const PUBLIC: Limits = Limits { max_body: 16 * 1024, ..Limits::DEFAULT };
/// Services. They keep many connections for long, from few addresses.
const LOCAL: Limits =
    Limits { max_connections_per_peer: 2304, max_held: 16 * 1024 * 1024, max_wide: 128, ..Limits::DEFAULT };
/// Operators and their scripts.
const ADMIN: Limits = Limits {
    max_connections: 256,
    max_connections_per_peer: 128,
    max_held: 4 * 1024 * 1024,
    ..Limits::DEFAULT
};
/// Prometheus and probes. No body is read, and the page of metrics is one large answer.
const OPS: Limits = Limits {
    max_body: 0,
    max_connections: 256,
    max_connections_per_peer: 128,
    max_held: 16 * 1024 * 1024,
    ..Limits::DEFAULT
};
// One peer's part is large enough for the page of metrics.
const _: () = assert!(MOST_PAGE + OPS.max_header_bytes <= OPS.max_held / 2);

/// Memory that all connections of all listeners take at most, whatever is configured: listeners of one kind
/// share one room.
#[cfg(test)]
const MOST_MEMORY: usize =
    PUBLIC.most_memory() + LOCAL.most_memory() + ADMIN.most_memory() + OPS.most_memory();

/// The TLS of every listener, read and checked, in the order public, ops, local, admin; `None` for a plain
/// one. And what those of callers and operators accept.
pub(super) struct PreparedListeners {
    tls: Vec<Option<ReadTls>>,
    accept: Vec<AuthMethods>,
}

/// What is in force, in the same order, and when the first file of each kind and name ends.
pub(super) struct LiveListeners {
    tls: Vec<Option<Tls>>,
    accept: Vec<LiveAuthMethods>,
    ends: Mutex<TlsEnds>,
}

/// A listener with what it accepts.
pub(super) type Accepting = (Bound, LiveAuthMethods);

/// Every listener, bound but not yet served.
pub(super) struct BoundListeners {
    pub(super) public: Bound,
    pub(super) local: Vec<Accepting>,
    pub(super) admin: Vec<Accepting>,
    pub(super) ops: Bound,
}

/// Where the TCP listeners listen.
pub(super) struct Addresses {
    pub(super) public: SocketAddr,
    pub(super) local: Vec<SocketAddr>,
    pub(super) ops: SocketAddr,
}

impl BoundListeners {
    /// The URL at which callers reach the local API: as configured, or the address of the first TCP listener.
    pub(super) fn issuer(&self, config: &ListenConfig) -> String {
        let of_listener = |((bound, _), listener): (&Accepting, &Listener)| match listener {
            Listener::Tcp { tls, .. } => {
                let scheme = if tls.is_some() { "https" } else { "http" };
                bound.tcp_address().map(|address| format!("{scheme}://{address}"))
            }
            Listener::Unix { .. } => None,
        };
        let configured = config.issuer.clone();
        let of_listeners = || self.local.iter().zip(&config.local).find_map(of_listener);
        configured.or_else(of_listeners).unwrap_or_else(|| "http://localhost".to_owned())
    }

    /// Where browsers can open the console: at the TCP listeners of operators. One that listens everywhere is
    /// named by this machine's own address.
    pub(super) fn console_places(&self, config: &ListenConfig) -> Vec<Place> {
        let place = |((bound, accepted), listener): (&Accepting, &Listener)| {
            let Listener::Tcp { tls, .. } = listener else { return None };
            let mut address = bound.tcp_address()?;
            match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
                IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
                _ => {}
            }
            let (scheme, is_tls) = if tls.is_some() { ("https", true) } else { ("http", false) };
            Some(Place { base_url: format!("{scheme}://{address}"), accepted: accepted.clone(), is_tls })
        };
        self.admin.iter().zip(&config.admin).filter_map(place).collect()
    }

    pub(super) fn addresses(&self) -> Addresses {
        Addresses {
            public: self.public.tcp_address().expect("the public listener is TCP"),
            local: self.local.iter().filter_map(|(bound, _)| bound.tcp_address()).collect(),
            ops: self.ops.tcp_address().expect("the ops listener is TCP"),
        }
    }
}

/// Reads every listener's TLS. `None` if one of them is wrong.
pub(super) fn prepare(
    config: &ListenConfig,
    secrets: &SecretReader,
    clock: &Arc<dyn Clock>,
    findings: &mut Findings<'_>,
) -> Option<PreparedListeners> {
    let internal = |name: &'static str, listeners: &[Listener]| {
        let tls = |(at, listener): (usize, &Listener)| {
            let tls = match listener {
                Listener::Unix { .. } => None,
                Listener::Tcp { tls, .. } => tls.clone(),
            };
            (name, format!("listen.{name}[{at}].tls"), tls, listener.accept().need_certificate())
        };
        listeners.iter().enumerate().map(tls).collect::<Vec<_>>()
    };
    let all = [
        ("public", "listen.public.tls".to_owned(), config.public.tls.clone(), false),
        ("ops", "listen.ops.tls".to_owned(), config.ops.tls.clone(), false),
    ];
    let all = all.into_iter().chain(internal("local", &config.local)).chain(internal("admin", &config.admin));
    // All of them, so that every mistake is found.
    let read: Vec<Option<Option<ReadTls>>> = all
        .map(|(name, key, tls, needs_certificate)| match tls {
            None => Some(None),
            Some(tls) => {
                tls_files::read(name, &key, &tls, needs_certificate, secrets, clock, findings).map(Some)
            }
        })
        .collect();
    let tls = read.into_iter().collect::<Option<Vec<_>>>()?;
    let accept = config.local.iter().chain(&config.admin).map(Listener::accept).collect();
    Some(PreparedListeners { tls, accept })
}

/// Checks the places of Unix sockets, without making any. A warning names those who could put a socket of
/// their own there. It is no mistake: the containers of one pod may share such a folder.
pub(super) fn check_sockets(config: &ListenConfig, secrets: &SecretReader, findings: &mut Findings<'_>) {
    for (name, listeners) in [("local", &config.local), ("admin", &config.admin)] {
        for (at, listener) in listeners.iter().enumerate() {
            let Listener::Unix { path, .. } = listener else { continue };
            let key = format!("listen.{name}[{at}].unix");
            if let Err(error) = check_socket(path) {
                findings.file(&key, StartError::chain(&error));
            }
            if let Err(loose) = secrets.guard().way(path) {
                let then =
                    "until then others can put a socket of their own there, and have what callers send";
                findings.warning(&key, format_args!("{loose}; {then}"));
            }
        }
    }
}

impl PreparedListeners {
    fn ends(&self) -> TlsEnds {
        let mut ends = TlsEnds::new();
        for tls in self.tls.iter().flatten() {
            for (file, at) in &tls.ends {
                let first = ends.entry((tls.name, *file)).or_insert(*at);
                *first = *at.min(first);
            }
        }
        ends
    }
}

impl LiveListeners {
    /// Puts TLS in force for new connections, and what is accepted for the next requests. (A running daemon
    /// keeps its listeners, and which of them have TLS.)
    pub(super) fn replace(&self, prepared: PreparedListeners, metrics: &Metrics) {
        *self.ends.lock() = prepared.ends();
        for (live, prepared) in self.tls.iter().zip(prepared.tls) {
            if let (Some(live), Some(prepared)) = (live, prepared) {
                live.replace(prepared.settings);
            }
        }
        for (live, accept) in self.accept.iter().zip(prepared.accept) {
            live.replace(accept);
        }
        self.show(metrics);
    }

    fn show(&self, metrics: &Metrics) {
        let ends = self.ends();
        for name in ["public", "ops", "local", "admin"] {
            let of = |file| ends.get(&(name, file)).copied();
            if let Some(at) = of(TlsFile::Certificate) {
                metrics.tls_certificate_expiry(name, at);
            }
            metrics.tls_client_ca_expiry(name, of(TlsFile::ClientCa));
            metrics.tls_client_crl_expiry(name, of(TlsFile::ClientCrl));
        }
    }

    /// When the files of TLS end.
    pub(super) fn ends(&self) -> TlsEnds {
        self.ends.lock().clone()
    }
}

/// Binds every listener, or takes over the socket that was passed for it.
pub(super) fn bind(
    config: &ListenConfig,
    prepared: PreparedListeners,
    mut passed: PassedSockets,
    metrics: &Metrics,
) -> Result<(BoundListeners, LiveListeners), StartError> {
    let ends = Mutex::new(prepared.ends());
    let tls = prepared.tls.into_iter().map(|tls| tls.map(|tls| Tls::new(tls.settings))).collect();
    let accept = prepared.accept.into_iter().map(LiveAuthMethods::new).collect();
    let live = LiveListeners { tls, accept, ends };
    live.show(metrics);
    let mut tls = live.tls.iter().cloned();
    let mut next = || tls.next().flatten();
    let passed = &mut passed;
    // (Browsers are strangers, and do not choose what is traced.)
    let public = tcp("public", PUBLIC, Traced::Anew, config.public.address, next(), passed)?;
    let ops = tcp("ops", OPS, Traced::Not, config.ops.address, next(), passed)?;
    let local = every("local", LOCAL, &config.local, &mut next, passed)?;
    let admin = every("admin", ADMIN, &config.admin, &mut next, passed)?;
    log_left(passed);
    let mut accept = live.accept.iter().cloned();
    let local = local.into_iter().zip(accept.by_ref()).collect();
    let admin = admin.into_iter().zip(accept).collect();
    Ok((BoundListeners { public, local, admin, ops }, live))
}

fn tcp(
    name: &'static str,
    limits: Limits,
    traced: Traced,
    address: SocketAddr,
    tls: Option<Tls>,
    passed: &mut PassedSockets,
) -> Result<Bound, StartError> {
    let limits = if tls.is_some() { limits.with_tls() } else { limits };
    open(ListenerConfig { tls, limits, traced, ..ListenerConfig::new(name, Address::Tcp(address)) }, passed)
}

/// A passed socket that nobody takes is left out: it must not keep callers of the others from being served.
fn log_left(passed: &PassedSockets) {
    for error in passed.left() {
        tracing::error!(%error, "a passed socket is left out");
    }
}

fn open(listener: ListenerConfig, passed: &mut PassedSockets) -> Result<Bound, StartError> {
    let bound = match passed.take(&listener.address) {
        Some(socket) => {
            tracing::info!(listener = listener.name, %socket, "takes over a socket of the service manager");
            Bound::take_over(listener, socket)
        }
        None => Bound::bind(listener),
    };
    bound.map_err(|error| {
        // (A socket at almost the same address may be why this one is taken.)
        log_left(passed);
        StartError::chain(&error)
    })
}

/// Limits of the listeners of one kind. They share one room, however many they are.
fn every(
    name: &'static str,
    limits: Limits,
    listeners: &[Listener],
    next: &mut impl FnMut() -> Option<Tls>,
    passed: &mut PassedSockets,
) -> Result<Vec<Bound>, StartError> {
    let tls: Vec<_> = listeners.iter().map(|_| next()).collect();
    let limits = if tls.iter().any(Option::is_some) { limits.with_tls() } else { limits };
    let room = Room::new(&limits);
    let bind = |(listener, tls)| internal(name, &limits, &room, listener, tls, passed);
    listeners.iter().zip(tls).map(bind).collect()
}

fn internal(
    name: &'static str,
    limits: &Limits,
    room: &Arc<Room>,
    listener: &Listener,
    tls: Option<Tls>,
    passed: &mut PassedSockets,
) -> Result<Bound, StartError> {
    // Services keep their connections. With TLS this is also how long a replaced certificate stays in use.
    let max_age = if tls.is_some() { limits.max_age } else { Duration::from_secs(3600) };
    let limits = Limits { max_age, ..limits.clone() };
    let address = match listener {
        Listener::Unix { path, .. } => Address::Unix(path.clone()),
        Listener::Tcp { address, .. } => Address::Tcp(*address),
    };
    let (room, traced) = (Some(Arc::clone(room)), Traced::Continued);
    let mut bound = ListenerConfig { tls, limits, room, traced, ..ListenerConfig::new(name, address) };
    if let Listener::Unix { mode, .. } = listener {
        bound.unix_mode = *mode;
    }
    open(bound, passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory of the process beside network connections and cached grants: code, threads, keys, metrics, and
    /// calls to the authority and the store.
    const THE_REST: usize = 96 * 1024 * 1024;

    fn deployed(file: &str, key: &str) -> usize {
        let path = format!("{}/deploy/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).expect("a file of the repository");
        let value = text.lines().find_map(|line| line.trim().strip_prefix(key)).expect("a memory limit");
        let value = value.split_whitespace().next().expect("a value").to_ascii_lowercase();
        let mib = value.strip_suffix('m').expect("a limit in MiB").parse::<usize>().expect("a number");
        mib * 1024 * 1024
    }

    #[test]
    fn what_connections_hold_at_the_most_is_below_the_memory_limit_of_the_packaged_deployments() {
        let held = crate::refresh::Settings::default().most_bytes;
        // The first `mem_limit` of the compose file is tokenward's.
        for (file, key) in
            [("compose/compose.yaml", "mem_limit:"), ("systemd/tokenward.service", "MemoryMax=")]
        {
            let limit = deployed(file, key);
            assert!(
                MOST_MEMORY + held + THE_REST <= limit,
                "{file}: {MOST_MEMORY} bytes of connections, and the rest"
            );
        }
        for limits in [PUBLIC, LOCAL, ADMIN, OPS] {
            assert!(limits.max_connections_per_peer >= limits.max_connections / 2, "an ingress is one peer");
            assert!(
                limits.max_held / 2 >= limits.max_body + 2 * limits.max_header_bytes,
                "one peer has room for one request"
            );
            let (plain, wide, tls) = (limits.max_connections, limits.max_wide, limits.with_tls());
            assert!(2 * tls.max_connections <= plain, "TLS costs twice as much");
            assert!(2 * tls.max_wide <= wide, "a wide one, too");
        }
    }
}
