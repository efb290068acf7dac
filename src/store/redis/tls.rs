//! The files needed to speak TLS with Redis.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// The files needed to speak TLS.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RedisTls {
    /// The authorities to trust, PEM; `None` for the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// Our certificate, if the server requires one.
    pub identity: Option<TlsIdentity>,
}

impl RedisTls {
    /// Whether TLS can be spoken with these.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn look(&self) -> Result<(), String> {
        client_config(self).map(drop)
    }
}

/// A certificate of ours and its key.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsIdentity {
    /// The certificate and its chain, PEM.
    pub certificate_pem: Vec<u8>,
    /// Its private key, PEM.
    pub key_pem: Zeroizing<Vec<u8>>,
}

/// Our TLS settings: one provider, the given authority or the system's, and our certificate if there is one.
pub(super) fn client_config(tls: &RedisTls) -> Result<rustls::ClientConfig, String> {
    let certificates = |pem: &[u8], what: &str| {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        match read {
            Ok(read) if !read.is_empty() => Ok(read),
            Ok(_) => Err(format!("{what} holds no certificate")),
            Err(error) => Err(format!("{what}: {error}")),
        }
    };
    let trusted = match &tls.ca_pem {
        Some(pem) => certificates(pem, "the CA file")?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = rustls::RootCertStore::empty();
    let (added, _unreadable) = roots.add_parsable_certificates(trusted);
    if added == 0 {
        return Err("there is no certificate authority to trust: give `ca_file`".to_owned());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let Some(identity) = &tls.identity else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(&identity.certificate_pem, "the client certificate")?;
    let key = PrivateKeyDer::from_pem_slice(&identity.key_pem)
        .map_err(|_| "the client key holds no private key".to_owned())?; // never a word of its content
    builder.with_client_auth_cert(chain, key).map_err(|error| format!("the client certificate: {error}"))
}
