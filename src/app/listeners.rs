//! The configured listeners: their TLS prepared, bound, and their TLS put into its place again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;

use super::StartError;
use super::foresight::ends;
use super::reading::{Findings, public_file};
use crate::config::{self, ListenConfig, Listener};
use crate::domain::time::Timestamp;
use crate::listener::{
    Address, Bound, Limits, ListenerConfig, Tls, TlsError, look_at_socket, tls_server_config,
};
use crate::secret_file::SecretReader;
use crate::telemetry::metrics::Metrics;

/// The TLS of every listener, read and checked: in the order public, ops, local, admin. None where it is plain.
pub(super) struct PreparedTls(Vec<Option<ReadTls>>);

struct ReadTls {
    name: String,
    config: ServerConfig,
    expires_at: Option<Timestamp>,
}

/// The TLS in force, in the same order, and when the first certificate of each name expires.
pub(super) struct LiveTls {
    tls: Vec<Option<Tls>>,
    expiries: Mutex<BTreeMap<String, Timestamp>>,
}

/// Every listener, bound and not served yet.
pub(super) struct BoundListeners {
    pub(super) public: Bound,
    pub(super) local: Vec<Bound>,
    pub(super) admin: Vec<Bound>,
    pub(super) ops: Bound,
    pub(super) tls: LiveTls,
}

/// Reads every listener's certificate and key; none when one of them is wrong.
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

/// Looks where Unix sockets will be, without making any.
pub(super) fn look_at_sockets(config: &ListenConfig, findings: &mut Findings<'_>) {
    for (name, listeners) in [("local", &config.local), ("admin", &config.admin)] {
        for (at, listener) in listeners.iter().enumerate() {
            if let Listener::Unix { path, .. } = listener
                && let Err(error) = look_at_socket(path)
            {
                findings.file(&format!("listen.{name}[{at}].unix"), StartError::chain(&error));
            }
        }
    }
}

impl PreparedTls {
    /// Of several listeners of one name, the one counts that ends first.
    fn expiries(&self) -> BTreeMap<String, Timestamp> {
        let mut expiries = BTreeMap::new();
        for tls in self.0.iter().flatten() {
            if let Some(at) = tls.expires_at {
                let first = expiries.entry(tls.name.clone()).or_insert(at);
                *first = at.min(*first);
            }
        }
        expiries
    }
}

impl LiveTls {
    /// Puts them into the place of those in force, for connections from now on. (Which listeners there are, and which of them
    /// have TLS, does not change while the daemon runs.)
    pub(super) fn replace(&self, prepared: PreparedTls, metrics: &Metrics) {
        *self.expiries.lock().unwrap_or_else(PoisonError::into_inner) = prepared.expiries();
        for (live, prepared) in self.tls.iter().zip(prepared.0) {
            if let (Some(live), Some(prepared)) = (live, prepared) {
                live.replace(prepared.config);
            }
        }
        self.show(metrics);
    }

    fn show(&self, metrics: &Metrics) {
        for (name, at) in self.expiries() {
            metrics.tls_certificate_expiry(&name, at);
        }
    }

    /// When the certificates expire, by the listeners' names.
    pub(super) fn expiries(&self) -> BTreeMap<String, Timestamp> {
        self.expiries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Binds every listener.
pub(super) fn bind(
    config: &ListenConfig,
    prepared: PreparedTls,
    metrics: &Metrics,
) -> Result<BoundListeners, StartError> {
    let expiries = Mutex::new(prepared.expiries());
    let take = |prepared: ReadTls| Tls::new(prepared.config);
    let live = LiveTls { tls: prepared.0.into_iter().map(|tls| tls.map(take)).collect(), expiries };
    live.show(metrics);
    let mut tls = live.tls.iter().cloned();
    let mut next = || tls.next().flatten();
    let public = tcp("public", config.public.address, next())?;
    let ops = tcp("ops", config.ops.address, next())?;
    let mut every = |name: &str, listeners: &[Listener]| {
        listeners.iter().map(|listener| internal(name, listener, next())).collect::<Result<Vec<_>, _>>()
    };
    let (local, admin) = (every("local", &config.local)?, every("admin", &config.admin)?);
    Ok(BoundListeners { public, local, admin, ops, tls: live })
}

fn tcp(name: &str, address: SocketAddr, tls: Option<Tls>) -> Result<Bound, StartError> {
    let mut listener = ListenerConfig::new(name, Address::Tcp(address));
    listener.tls = tls;
    Bound::bind(listener).map_err(|error| StartError::chain(&error))
}

/// A listener for services of our own: they keep many connections, from few addresses, for long.
fn internal(name: &str, listener: &Listener, tls: Option<Tls>) -> Result<Bound, StartError> {
    let has_tls = tls.is_some();
    let mut bound = match listener {
        Listener::Unix { path, mode } => {
            let mut bound = ListenerConfig::new(name, Address::Unix(path.clone()));
            bound.unix_mode = *mode;
            bound
        }
        Listener::Tcp { address, .. } => {
            let mut bound = ListenerConfig::new(name, Address::Tcp(*address));
            bound.tls = tls;
            bound
        }
    };
    // With TLS it is also how long a certificate that was replaced is in use.
    let max_age = if has_tls { bound.limits.max_age } else { Duration::from_secs(3600) };
    bound.limits =
        Limits { max_connections: 16_384, max_connections_per_peer: 8_192, max_age, ..bound.limits };
    Bound::bind(bound).map_err(|error| StartError::chain(&error))
}

fn read(
    name: &str,
    key: &str,
    tls: &config::Tls,
    secrets: &SecretReader,
    now: Timestamp,
    findings: &mut Findings<'_>,
) -> Option<ReadTls> {
    let (of_certificate, of_key) = (format!("{key}.certificate"), format!("{key}.key"));
    let certificate = public_file::read(&tls.certificate);
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
    Some(ReadTls { name: name.to_owned(), config, expires_at })
}
