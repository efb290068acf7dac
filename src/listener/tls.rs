//! Server-side TLS: version 1.3 and http/1.1 only, no resumption, replaceable at run time.

use parking_lot::RwLock;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

/// TLS settings of a listener. Clones share them: replacing them in one replaces them in all, for new
/// connections.
#[derive(Debug, Clone)]
pub struct Tls(Arc<RwLock<Arc<ServerConfig>>>);

impl Tls {
    /// Makes shared settings.
    pub fn new(config: ServerConfig) -> Self {
        Tls(Arc::new(RwLock::new(Arc::new(config))))
    }

    /// Returns the settings in force.
    pub fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.read())
    }

    /// Replaces the settings.
    pub fn replace(&self, config: ServerConfig) {
        *self.0.write() = Arc::new(config);
    }
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
    /// Certificate and key do not match, or the provider refuses them.
    #[error("cannot be used with its key: {0}")]
    Refused(#[source] rustls::Error),
    /// The client CA cannot be used.
    #[error("cannot be used as a client CA: {0}")]
    ClientVerifier(#[source] rustls::server::VerifierBuilderError),
}

/// Makes settings from a certificate chain (leaf first) and its key. With a client CA, a client may present a
/// certificate; one that does not verify is refused, and a client without one may prove itself otherwise.
///
/// There is no session resumption: a resumed session would have an identity that was verified in the past.
pub fn tls_server_config(
    certificate_pem: &[u8],
    key_pem: &[u8],
    client_ca_pem: Option<&[u8]>,
) -> Result<ServerConfig, TlsError> {
    let chain = certificates(certificate_pem).ok_or(TlsError::Certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| TlsError::Key)?;
    let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Refused)?;
    let builder = match client_ca_pem {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(pem).ok_or(TlsError::ClientCa)? {
                roots.add(certificate).map_err(|_| TlsError::ClientCa)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(TlsError::ClientVerifier)?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(TlsError::Refused)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().ok()?;
    (!certificates.is_empty()).then_some(certificates)
}
