//! The configured listeners: prepares their TLS, binds them, and replaces their TLS.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;

use super::findings::Findings;
use super::reading::public_file::{self, ends};
use super::start_error::StartError;
use crate::config::{self, ListenConfig, Listener};
use crate::domain::time::Timestamp;
use crate::listener::{
    Address, Bound, Limits, ListenerConfig, Room, Tls, TlsError, check_socket, tls_server_config,
};
use crate::secret_file::SecretReader;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::series::MOST_PAGE;

/// Browsers. A callback's form is a few KiB, and no other body is read.
const PUBLIC: Limits = Limits { max_body: 16 * 1024, ..Limits::DEFAULT };
/// Services. They keep many connections for long, from few addresses.
const LOCAL: Limits =
    Limits { max_connections_per_peer: 2304, max_held: 16 * 1024 * 1024, ..Limits::DEFAULT };
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

/// The TLS of every listener, read and checked, in the order public, ops, local, admin. `None` for a plain
/// one.
pub(super) struct PreparedTls(Vec<Option<ReadTls>>);

struct ReadTls {
    name: &'static str,
    config: ServerConfig,
    expires_at: Option<Timestamp>,
}

/// The TLS in force, in the same order, and when the first certificate of each name expires.
pub(super) struct LiveTls {
    tls: Vec<Option<Tls>>,
    expiries: Mutex<BTreeMap<&'static str, Timestamp>>,
}

/// Every listener, bound but not yet served.
pub(super) struct BoundListeners {
    pub(super) public: Bound,
    pub(super) local: Vec<Bound>,
    pub(super) admin: Vec<Bound>,
    pub(super) ops: Bound,
}

/// Where the TCP listeners listen.
pub(super) struct Addresses {
    pub(super) public: SocketAddr,
    pub(super) local: Vec<SocketAddr>,
    pub(super) ops: SocketAddr,
}

impl BoundListeners {
    pub(super) fn addresses(&self) -> Addresses {
        Addresses {
            public: self.public.tcp_address().expect("the public listener is TCP"),
            local: self.local.iter().filter_map(Bound::tcp_address).collect(),
            ops: self.ops.tcp_address().expect("the ops listener is TCP"),
        }
    }
}

/// Reads every listener's certificate and key. `None` if one of them is wrong.
pub(super) fn prepare(
    config: &ListenConfig,
    secrets: &SecretReader,
    now: Timestamp,
    findings: &mut Findings<'_>,
) -> Option<PreparedTls> {
    let internal =
        |name: &'static str, listeners: &[Listener]| -> Vec<(&'static str, String, Option<config::Tls>)> {
            let tls = |(at, listener): (usize, &Listener)| match listener {
                Listener::Unix { .. } => (name, String::new(), None),
                Listener::Tcp { tls, .. } => (name, format!("listen.{name}[{at}].tls"), tls.clone()),
            };
            listeners.iter().enumerate().map(tls).collect()
        };
    let all = [
        ("public", "listen.public.tls".to_owned(), config.public.tls.clone()),
        ("ops", "listen.ops.tls".to_owned(), config.ops.tls.clone()),
    ];
    let all = all.into_iter().chain(internal("local", &config.local)).chain(internal("admin", &config.admin));
    // All of them, so that every mistake is found.
    let read: Vec<Option<Option<ReadTls>>> = all
        .map(|(name, key, tls)| match tls {
            None => Some(None),
            Some(tls) => read(name, &key, &tls, secrets, now, findings).map(Some),
        })
        .collect();
    read.into_iter().collect::<Option<Vec<_>>>().map(PreparedTls)
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

impl PreparedTls {
    /// Of several listeners of one name, the one that ends first counts.
    fn expiries(&self) -> BTreeMap<&'static str, Timestamp> {
        let mut expiries = BTreeMap::new();
        for tls in self.0.iter().flatten() {
            if let Some(at) = tls.expires_at {
                let first = expiries.entry(tls.name).or_insert(at);
                *first = at.min(*first);
            }
        }
        expiries
    }
}

impl LiveTls {
    /// Puts the certificates in force for new connections. (A running daemon keeps its listeners, and which
    /// of them have TLS.)
    pub(super) fn replace(&self, prepared: PreparedTls, metrics: &Metrics) {
        *self.expiries.lock() = prepared.expiries();
        for (live, prepared) in self.tls.iter().zip(prepared.0) {
            if let (Some(live), Some(prepared)) = (live, prepared) {
                live.replace(prepared.config);
            }
        }
        self.show(metrics);
    }

    fn show(&self, metrics: &Metrics) {
        for (name, at) in self.expiries() {
            metrics.tls_certificate_expiry(name, at);
        }
    }

    /// When the certificates expire, by the listeners' names.
    pub(super) fn expiries(&self) -> BTreeMap<&'static str, Timestamp> {
        self.expiries.lock().clone()
    }
}

/// Binds every listener.
pub(super) fn bind(
    config: &ListenConfig,
    prepared: PreparedTls,
    metrics: &Metrics,
) -> Result<(BoundListeners, LiveTls), StartError> {
    let expiries = Mutex::new(prepared.expiries());
    let take = |prepared: ReadTls| Tls::new(prepared.config);
    let live = LiveTls { tls: prepared.0.into_iter().map(|tls| tls.map(take)).collect(), expiries };
    live.show(metrics);
    let mut tls = live.tls.iter().cloned();
    let mut next = || tls.next().flatten();
    let public = tcp("public", PUBLIC, config.public.address, next())?;
    let ops = tcp("ops", OPS, config.ops.address, next())?;
    let local = every("local", LOCAL, &config.local, &mut next)?;
    let admin = every("admin", ADMIN, &config.admin, &mut next)?;
    Ok((BoundListeners { public, local, admin, ops }, live))
}

fn tcp(
    name: &'static str,
    limits: Limits,
    address: SocketAddr,
    tls: Option<Tls>,
) -> Result<Bound, StartError> {
    let limits = if tls.is_some() { limits.with_tls() } else { limits };
    let listener = ListenerConfig { tls, limits, ..ListenerConfig::new(name, Address::Tcp(address)) };
    Bound::bind(listener).map_err(|error| StartError::chain(&error))
}

/// Limits of the listeners of one kind. They share one room, however many they are.
fn every(
    name: &'static str,
    limits: Limits,
    listeners: &[Listener],
    next: &mut impl FnMut() -> Option<Tls>,
) -> Result<Vec<Bound>, StartError> {
    let tls: Vec<_> = listeners.iter().map(|_| next()).collect();
    let limits = if tls.iter().any(Option::is_some) { limits.with_tls() } else { limits };
    let room = Room::new(&limits);
    let bind = |(listener, tls)| internal(name, &limits, &room, listener, tls);
    listeners.iter().zip(tls).map(bind).collect()
}

fn internal(
    name: &'static str,
    limits: &Limits,
    room: &Arc<Room>,
    listener: &Listener,
    tls: Option<Tls>,
) -> Result<Bound, StartError> {
    // Services keep their connections. With TLS this is also how long a replaced certificate stays in use.
    let max_age = if tls.is_some() { limits.max_age } else { Duration::from_secs(3600) };
    let limits = Limits { max_age, ..limits.clone() };
    let address = match listener {
        Listener::Unix { path, .. } => Address::Unix(path.clone()),
        Listener::Tcp { address, .. } => Address::Tcp(*address),
    };
    let mut bound =
        ListenerConfig { tls, limits, room: Some(Arc::clone(room)), ..ListenerConfig::new(name, address) };
    if let Listener::Unix { mode, .. } = listener {
        bound.unix_mode = *mode;
    }
    Bound::bind(bound).map_err(|error| StartError::chain(&error))
}

fn read(
    name: &'static str,
    key: &str,
    tls: &config::Tls,
    secrets: &SecretReader,
    now: Timestamp,
    findings: &mut Findings<'_>,
) -> Option<ReadTls> {
    let (of_certificate, of_key) = (format!("{key}.certificate"), format!("{key}.key"));
    let certificate = public_file::read(&tls.certificate, secrets);
    let certificate = certificate.map_err(|problem| findings.file(&of_certificate, problem)).ok();
    let private = secrets.read(&tls.key).map_err(|error| findings.file(&of_key, error)).ok();
    let (certificate, private) = (certificate?, private?);
    let config = tls_server_config(&certificate, &private, None)
        .map_err(|error| {
            let (key, file, pem) = match error {
                TlsError::Key => (&of_key, &tls.key, &**private),
                _ => (&of_certificate, &tls.certificate, &*certificate),
            };
            findings.file(key, public_file::pem_problem(pem, file, error));
        })
        .ok()?;
    let expires_at = ends(&certificate).first().copied();
    public_file::warn_of_a_certificate_s_time(&of_certificate, &tls.certificate, &certificate, now, findings);
    Some(ReadTls { name, config, expires_at })
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
            let plain = limits.max_connections;
            assert!(2 * limits.with_tls().max_connections <= plain, "TLS costs twice as much");
        }
    }
}
