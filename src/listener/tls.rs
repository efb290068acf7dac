//! Server-side TLS: version 1.3 only, no resumption, replaceable at run time.

use parking_lot::RwLock;
use std::fmt;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{RootCertStore, ServerConfig};

use crate::domain::time::Clock;

/// The protocols by the names that a handshake has for them.
pub(super) const HTTP_2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";

/// TLS of a listener. Clones share it: replacing it in one replaces it in all, for new connections. (A client
/// certificate of an older connection is judged again.)
#[derive(Debug, Clone)]
pub struct Tls(Arc<RwLock<Current>>);

/// The settings in force.
#[derive(Debug, Clone)]
pub(super) struct Current {
    pub(super) settings: Arc<TlsSettings>,
    /// Rises with every replacement.
    pub(super) generation: u64,
}

impl Tls {
    /// Makes shared settings.
    pub fn new(settings: TlsSettings) -> Self {
        Tls(Arc::new(RwLock::new(Current { settings: Arc::new(settings), generation: 0 })))
    }

    pub(super) fn current(&self) -> Current {
        self.0.read().clone()
    }

    pub(super) fn generation(&self) -> u64 {
        self.0.read().generation
    }

    /// Replaces the settings.
    pub fn replace(&self, settings: TlsSettings) {
        let mut current = self.0.write();
        current.settings = Arc::new(settings);
        current.generation += 1;
    }
}

/// TLS settings, ready for use.
pub struct TlsSettings {
    config: Arc<ServerConfig>,
    /// Judges clients' certificates; `None` if none is asked for.
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

impl fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSettings").field("clients", &self.clients.is_some()).finish_non_exhaustive()
    }
}

impl TlsSettings {
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Returns true if the certificates of a client, its own first, are trusted at this time.
    pub(super) fn trusts(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
        match (&self.clients, chain.split_first()) {
            (Some(clients), Some((own, others))) => clients.verify_client_cert(own, others, now).is_ok(),
            _ => false,
        }
    }
}

/// What a client certificate is judged by.
#[derive(Debug, Clone, Copy)]
pub struct ClientTrust<'a> {
    /// PEM certificates of the authorities.
    pub ca_pem: &'a [u8],
    /// Revocation lists, PEM or one DER. With them a certificate is refused unless a current list of its
    /// issuer says that it is not revoked; the same for each authority below one of `ca_pem`.
    pub crl: Option<&'a [u8]>,
    /// True if a client without a certificate is refused.
    pub required: bool,
}

/// Reason why TLS settings cannot be used. It never shows any part of the key.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// There is no certificate, or it is not PEM.
    #[error("holds no readable PEM certificate")]
    Certificate,
    /// There is no key, or it is not PEM.
    #[error("holds no readable, unencrypted PEM private key")]
    Key,
    /// There is no client CA, or it is not PEM.
    #[error("holds no readable PEM certificate of a client CA")]
    ClientCa,
    /// There is no revocation list, or it is neither PEM nor DER.
    #[error("holds no readable certificate revocation list")]
    ClientCrl,
    /// Certificate and key do not match, or the provider refuses them.
    #[error("cannot be used with its key: {0}")]
    Refused(#[source] rustls::Error),
    /// A revocation list has a form that cannot be judged by.
    #[error("cannot be used as a certificate revocation list: {0}")]
    ClientVerifier(#[source] rustls::server::VerifierBuilderError),
}

/// Makes settings from a certificate chain (leaf first) and its key. With `clients`, a client may present a
/// certificate; one that does not verify is refused at the handshake. With `http2`, a client may choose
/// HTTP/2.
///
/// There is no session resumption: a resumed session would have an identity that was verified in the past.
pub fn tls_settings(
    certificate_pem: &[u8],
    key_pem: &[u8],
    clients: Option<ClientTrust<'_>>,
    http2: bool,
    clock: Arc<dyn Clock>,
) -> Result<TlsSettings, TlsError> {
    let chain = certificates(certificate_pem).ok_or(TlsError::Certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| TlsError::Key)?;
    let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
    let clients = clients.map(|trust| verifier(trust, &provider)).transpose()?;
    let builder = ServerConfig::builder_with_details(provider, Arc::new(OurTime(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Refused)?;
    let builder = match &clients {
        None => builder.with_no_client_auth(),
        Some(clients) => builder.with_client_cert_verifier(clients.clone()),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(TlsError::Refused)?;
    let protocols: &[&[u8]] = if http2 { &[HTTP_2, HTTP_1] } else { &[HTTP_1] };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(TlsSettings { config: Arc::new(config), clients })
}

fn verifier(
    trust: ClientTrust<'_>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(trust.ca_pem).ok_or(TlsError::ClientCa)? {
        roots.add(certificate).map_err(|_| TlsError::ClientCa)?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    if !trust.required {
        builder = builder.allow_unauthenticated();
    }
    if let Some(crl) = trust.crl {
        // The whole chain is checked, and what no list decides is refused: both are the builder's defaults.
        let lists = revocation_lists(crl).ok_or(TlsError::ClientCrl)?;
        builder = builder.with_crls(lists).enforce_revocation_expiration();
    }
    builder.build().map_err(TlsError::ClientVerifier)
}

/// Reads revocation lists: any number in PEM, or one in DER, as authorities publish it.
pub fn revocation_lists(content: &[u8]) -> Option<Vec<CertificateRevocationListDer<'static>>> {
    const DER_SEQUENCE: u8 = 0x30;
    if content.first() == Some(&DER_SEQUENCE) {
        return Some(vec![content.to_vec().into()]);
    }
    let lists = CertificateRevocationListDer::pem_slice_iter(content).collect::<Result<Vec<_>, _>>().ok()?;
    (!lists.is_empty()).then_some(lists)
}

fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().ok()?;
    (!certificates.is_empty()).then_some(certificates)
}

/// The daemon's clock, by which certificates are valid or not.
struct OurTime(Arc<dyn Clock>);

impl TimeProvider for OurTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(self.0.as_ref()))
    }
}

impl fmt::Debug for OurTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OurTime")
    }
}

/// The time, as rustls wants it. Before 1970 no certificate is valid.
pub(super) fn unix_time(clock: &dyn Clock) -> UnixTime {
    let millis = u64::try_from(clock.now().unix_millis()).unwrap_or(0);
    UnixTime::since_unix_epoch(std::time::Duration::from_millis(millis))
}
