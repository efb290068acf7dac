//! CA certificates to trust for TLS.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// CA certificates to trust for TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Roots {
    /// The system's roots.
    #[default]
    System,
    /// The system's, and those in this PEM text.
    SystemAnd(String),
    /// Only those in this PEM text.
    Only(String),
}

/// Fault of the CA certificates.
#[derive(Debug, thiserror::Error)]
pub enum RootsFault {
    /// The PEM text has no readable certificate.
    #[error("the CA file holds no readable PEM certificate")]
    Pem,
    /// The system has no roots: set a CA, or `SSL_CERT_FILE`.
    #[error("no root certificate was found on this system")]
    NoRoots,
    /// The TLS library refused its own defaults.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

/// Makes the TLS settings. With `without_roots` there may be none, and then nobody is trusted.
pub(crate) fn tls_config(roots: &Roots, without_roots: bool) -> Result<rustls::ClientConfig, RootsFault> {
    let mut store = rustls::RootCertStore::empty();
    if let Roots::System | Roots::SystemAnd(_) = roots {
        // Some of a system's certificates may be unreadable or outdated; the rest decides.
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if let Roots::SystemAnd(pem) | Roots::Only(pem) = roots {
        let mut added = 0;
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            store.add(certificate.map_err(|_| RootsFault::Pem)?).map_err(|_| RootsFault::Pem)?;
            added += 1;
        }
        if added == 0 {
            return Err(RootsFault::Pem);
        }
    }
    if store.is_empty() && !without_roots {
        return Err(RootsFault::NoRoots);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(RootsFault::Tls)?
        .with_root_certificates(store)
        .with_no_client_auth())
}
