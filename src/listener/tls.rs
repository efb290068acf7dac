//! The server's side of TLS: version 1.3 only, http/1.1 only, no resumption, replaceable while it runs.

use parking_lot::RwLock;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

/// A listener's TLS settings. Clones share them: what replaces them in one replaces them in all, for
/// connections from then on.
#[derive(Debug, Clone)]
pub struct Tls(Arc<RwLock<Arc<ServerConfig>>>);

impl Tls {
    /// Begins with these settings.
    pub fn new(config: ServerConfig) -> Self {
        Tls(Arc::new(RwLock::new(Arc::new(config))))
    }

    /// The settings now in force.
    pub fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.read())
    }

    /// Puts other settings in force.
    pub fn replace(&self, config: ServerConfig) {
        *self.0.write() = Arc::new(config);
    }
}

/// Why TLS settings cannot be used. Never shows any of the key.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate, or one that is not PEM.
    #[error("holds no readable PEM certificate")]
    Certificate,
    /// No key, or one that is not PEM.
    #[error("holds no readable, unencrypted PEM private key")]
    Key,
    /// No client CA, or one that is not PEM.
    #[error("holds no readable PEM certificate of a client CA")]
    ClientCa,
    /// Certificate and key do not fit each other, or the provider does not take them.
    #[error("cannot be used with its key: {0}")]
    Refused(#[source] rustls::Error),
    /// The client CA cannot be used.
    #[error("cannot be used as a client CA: {0}")]
    ClientVerifier(#[source] rustls::server::VerifierBuilderError),
}

/// Settings from a certificate chain (leaf first) and its key. With a client CA, clients may prove themselves
/// by certificate; one that offers a certificate which does not verify is refused, one that offers none is
/// left to prove itself otherwise.
///
/// There is no session resumption: a resumed session would carry an identity that was verified in the past.
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
