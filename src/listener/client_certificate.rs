//! The certificate that a client proved to own when its connection began: its names, and whether it is still
//! trusted.
//!
//! The handshake verified it (chain, purpose, validity, name constraints, revocation). Connections live for
//! minutes, and in that time a certificate expires, is revoked, or its authority is taken out. So it is
//! judged again at the first request after the listener's TLS was replaced, and at least once a minute.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

use super::tls::{Current, Tls, unix_time};
use crate::domain::certificate_names::CertificateNames;
use crate::domain::time::Clock;

/// Most bytes of the certificates that a client presents.
pub(super) const MOST_CHAIN: usize = 16 * 1024;
/// Time after which a certificate is judged again though the listener's TLS is the same: it may have expired,
/// or its revocation list.
const JUDGED_FOR: Duration = Duration::from_secs(60);

/// The client certificate of a request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PeerCertificate {
    /// None was presented.
    #[default]
    None,
    /// It is trusted, and has these names.
    Trusted(Arc<CertificateNames>),
    /// It was trusted when the connection began, and is not any more.
    Distrusted,
}

/// The client certificate of a connection.
pub(super) struct ClientCertificate {
    /// Its own first.
    chain: Vec<CertificateDer<'static>>,
    names: Arc<CertificateNames>,
    tls: Tls,
    judged: Mutex<Judged>,
}

#[derive(Clone, Copy)]
struct Judged {
    /// Generation of the TLS settings that judged.
    generation: u64,
    /// Monotonic time.
    at: Duration,
    is_trusted: bool,
}

impl ClientCertificate {
    /// Makes it from the certificates that a handshake under `current` has verified. `None` if they are too
    /// long.
    pub(super) fn verified(
        chain: &[CertificateDer<'_>],
        tls: &Tls,
        current: &Current,
        clock: &dyn Clock,
    ) -> Option<Self> {
        if chain.iter().map(|certificate| certificate.len()).sum::<usize>() > MOST_CHAIN {
            return None;
        }
        let names = Arc::new(chain.first().map(names).unwrap_or_default());
        let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let judged =
            Mutex::new(Judged { generation: current.generation, at: clock.monotonic(), is_trusted: true });
        Some(ClientCertificate { chain, names, tls: tls.clone(), judged })
    }

    /// Returns how many bytes it keeps, here and in the TLS session.
    pub(super) fn kept(&self) -> usize {
        2 * self.chain.iter().map(|certificate| certificate.len()).sum::<usize>()
    }

    /// Returns the certificate as it stands for the next request.
    pub(super) fn now(&self, clock: &dyn Clock) -> PeerCertificate {
        let now = clock.monotonic();
        let mut judged = self.judged.lock();
        if judged.generation != self.tls.generation() || now.saturating_sub(judged.at) >= JUDGED_FOR {
            let Current { settings, generation } = self.tls.current();
            let is_trusted = settings.trusts(&self.chain, unix_time(clock));
            *judged = Judged { generation, at: now, is_trusted };
        }
        match judged.is_trusted {
            true => PeerCertificate::Trusted(Arc::clone(&self.names)),
            false => PeerCertificate::Distrusted,
        }
    }
}

/// Reads the names of a verified certificate. One that cannot be read has none.
fn names(certificate: &CertificateDer<'_>) -> CertificateNames {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
        return CertificateNames::default();
    };
    let Ok(Some(extension)) = parsed.subject_alternative_name() else { return CertificateNames::default() };
    let names = &extension.value.general_names;
    let dns = names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    });
    let uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    CertificateNames::new(dns, uris)
}
