//! The configured listeners, bound.

use std::net::SocketAddr;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::StartError;
use crate::config::secret_ref::SecretReader;
use crate::config::{self, ListenConfig, Listener};
use crate::domain::time::Timestamp;
use crate::listener::{Address, Bound, Limits, ListenerConfig, Tls, tls_server_config};
use crate::telemetry::metrics::Metrics;

/// Every listener, bound and not served yet.
pub(super) struct BoundListeners {
    pub(super) public: Bound,
    pub(super) local: Vec<Bound>,
    pub(super) admin: Vec<Bound>,
    pub(super) ops: Bound,
}

pub(super) fn bind(
    config: &ListenConfig,
    secrets: &SecretReader,
    metrics: &Metrics,
) -> Result<BoundListeners, StartError> {
    let secrets = &Secrets { reader: secrets, metrics };
    let public = tcp("public", config.public.address, config.public.tls.as_ref(), secrets)?;
    let ops = tcp("ops", config.ops.address, config.ops.tls.as_ref(), secrets)?;
    let every = |name: &str, listeners: &[Listener]| {
        listeners.iter().map(|listener| internal(name, listener, secrets)).collect::<Result<Vec<_>, _>>()
    };
    Ok(BoundListeners {
        public,
        local: every("local", &config.local)?,
        admin: every("admin", &config.admin)?,
        ops,
    })
}

/// Where secrets are read from, and where it is noted when they expire.
struct Secrets<'a> {
    reader: &'a SecretReader,
    metrics: &'a Metrics,
}

fn tcp(
    name: &str,
    address: SocketAddr,
    tls: Option<&config::Tls>,
    secrets: &Secrets<'_>,
) -> Result<Bound, StartError> {
    let mut listener = ListenerConfig::new(name, Address::Tcp(address));
    listener.tls = read_tls(name, tls, secrets)?;
    Bound::bind(listener).map_err(|error| StartError::chain(&error))
}

/// A listener for services of our own: they keep many connections, from few addresses, for long.
fn internal(name: &str, listener: &Listener, secrets: &Secrets<'_>) -> Result<Bound, StartError> {
    let mut bound = match listener {
        Listener::Unix { path, mode } => {
            let mut bound = ListenerConfig::new(name, Address::Unix(path.clone()));
            bound.unix_mode = *mode;
            bound
        }
        Listener::Tcp { address, tls } => {
            let mut bound = ListenerConfig::new(name, Address::Tcp(*address));
            bound.tls = read_tls(name, tls.as_ref(), secrets)?;
            bound
        }
    };
    bound.limits = Limits {
        max_connections: 16_384,
        max_connections_per_peer: 8_192,
        max_age: Duration::from_secs(3600),
        ..bound.limits
    };
    Bound::bind(bound).map_err(|error| StartError::chain(&error))
}

fn read_tls(name: &str, tls: Option<&config::Tls>, secrets: &Secrets<'_>) -> Result<Option<Tls>, StartError> {
    let Some(tls) = tls else { return Ok(None) };
    let certificate = std::fs::read(&tls.certificate).map_err(|error| {
        StartError::new(format!("listen.{name}.tls.certificate: {}: {error}", tls.certificate.display()))
    })?;
    let key =
        secrets.reader.read(&tls.key).map_err(|error| StartError::new(format!("listen.{name}.tls.key: {error}")))?;
    let config = tls_server_config(&certificate, &key, None)
        .map_err(|error| StartError::new(format!("listen.{name}.tls: {error}")))?;
    if let Some(expires_at) = expiry(&certificate) {
        secrets.metrics.tls_certificate_expiry(name, expires_at);
    }
    Ok(Some(Tls::new(config)))
}

/// When the first certificate of a PEM file expires.
fn expiry(pem: &[u8]) -> Option<Timestamp> {
    let certificate = CertificateDer::pem_slice_iter(pem).next()?.ok()?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).ok()?;
    Some(Timestamp::from_unix_seconds(parsed.validity().not_after.timestamp()))
}
