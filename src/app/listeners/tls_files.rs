//! The files of a listener's TLS: its certificate and key, and what clients' certificates are judged by.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::app::findings::Findings;
use crate::app::reading::public_file::{self, ends};
use crate::config;
use crate::domain::time::{Clock, Timestamp};
use crate::listener::{ClientTrust, TlsError, TlsSettings, revocation_lists, tls_settings};
use crate::secret_file::SecretReader;

/// A file of TLS that ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::app) enum TlsFile {
    /// The listener's own certificate.
    Certificate,
    /// The authorities of clients' certificates.
    ClientCa,
    /// Their revocation lists.
    ClientCrl,
}

/// When the files of the listeners of a name end. Of several, the first end counts.
pub(in crate::app) type TlsEnds = BTreeMap<(&'static str, TlsFile), Timestamp>;

/// The TLS of one listener, read and checked.
pub(super) struct ReadTls {
    pub(super) name: &'static str,
    pub(super) settings: TlsSettings,
    pub(super) ends: BTreeMap<TlsFile, Timestamp>,
}

/// Reads the files. `None` if one of them is wrong.
pub(super) fn read(
    name: &'static str,
    key: &str,
    tls: &config::Tls,
    needs_certificate: bool,
    secrets: &SecretReader,
    clock: &Arc<dyn Clock>,
    findings: &mut Findings<'_>,
) -> Option<ReadTls> {
    let now = clock.now();
    let [of_certificate, of_key, of_ca, of_crl] =
        ["certificate", "key", "client_ca", "client_crl"].map(|file| format!("{key}.{file}"));
    let mut public = |key: &str, path: &Path| {
        public_file::read(path, secrets).map_err(|problem| findings.file(key, problem)).ok()
    };
    let certificate = public(&of_certificate, &tls.certificate);
    let ca = tls.client_ca.as_ref().map(|path| public(&of_ca, path));
    let crl = tls.client_crl.as_ref().map(|path| public(&of_crl, path));
    let private = secrets.read(&tls.key).map_err(|error| findings.file(&of_key, error)).ok();
    let (certificate, private) = (certificate?, private?);
    // A file that is configured and cannot be read is a mistake, and not as if it were not configured.
    let (ca, crl) =
        (ca.map_or(Some(None), |read| read.map(Some))?, crl.map_or(Some(None), |read| read.map(Some))?);
    let clients =
        ca.as_deref().map(|ca_pem| ClientTrust { ca_pem, crl: crl.as_deref(), required: needs_certificate });
    let settings = tls_settings(&certificate, &private, clients, tls.http2, clock.clone())
        .map_err(|error| {
            let nothing = (&of_certificate, Some(&tls.certificate), &*certificate);
            let (key, file, content) = match error {
                TlsError::Key => (&of_key, Some(&tls.key), &**private),
                TlsError::ClientCa => (&of_ca, tls.client_ca.as_ref(), ca.as_deref().unwrap_or_default()),
                TlsError::ClientCrl | TlsError::ClientVerifier(_) => {
                    (&of_crl, tls.client_crl.as_ref(), crl.as_deref().unwrap_or_default())
                }
                TlsError::Certificate | TlsError::Refused(_) => nothing,
            };
            let file = file.unwrap_or(&tls.certificate);
            findings.file(key, public_file::pem_problem(content, file, error));
        })
        .ok()?;
    let mut all_ends = BTreeMap::new();
    all_ends.extend(ends(&certificate).first().map(|at| (TlsFile::Certificate, *at)));
    public_file::warn_of_a_certificate_s_time(&of_certificate, &tls.certificate, &certificate, now, findings);
    if let (Some(path), Some(pem)) = (&tls.client_ca, &ca) {
        let first = ends(pem).into_iter().min();
        all_ends.extend(first.map(|at| (TlsFile::ClientCa, at)));
        public_file::warn_of_its_time(&of_ca, path, None, first, now, findings);
        if let (Some(path), Some(crl)) = (&tls.client_crl, &crl) {
            let end = check_lists(&of_crl, path, crl, pem, now, findings)?;
            all_ends.extend(end.map(|at| (TlsFile::ClientCrl, at)));
        }
    }
    Some(ReadTls { name, settings, ends: all_ends })
}

/// Checks that the revocation lists are of the authorities, and warns of those that are out of date. Returns
/// when the first of them ends; `None` if nobody's certificate could be accepted with them.
fn check_lists(
    key: &str,
    path: &Path,
    crl: &[u8],
    ca_pem: &[u8],
    now: Timestamp,
    findings: &mut Findings<'_>,
) -> Option<Option<Timestamp>> {
    let lists = revocation_lists(crl).unwrap_or_default();
    let lists: Vec<_> =
        lists.iter().filter_map(|list| CertificateRevocationList::from_der(list).ok()).collect();
    let file = path.display();
    let issuers: Vec<&[u8]> = lists.iter().map(|(_, list)| list.issuer().as_raw()).collect();
    let authorities: Vec<_> = CertificateDer::pem_slice_iter(ca_pem).filter_map(Result::ok).collect();
    let authorities: Vec<_> = authorities
        .iter()
        .filter_map(|certificate| Some(x509_parser::parse_x509_certificate(certificate).ok()?.1))
        .collect();
    let without: Vec<String> = authorities
        .iter()
        .filter(|authority| !issuers.contains(&authority.subject().as_raw()))
        .map(|authority| authority.subject().to_string())
        .collect();
    for subject in &without {
        let problem = format_args!(
            "{file} has no list of `{subject}`: every certificate that this authority issued is refused"
        );
        match without.len() == authorities.len() {
            true => findings.file(key, problem),
            false => findings.warning(key, problem),
        }
    }
    let ends = lists.iter().filter_map(|(_, list)| Some(list.next_update()?.timestamp()));
    let end = ends.min().map(Timestamp::from_unix_seconds);
    if let Some(end) = end.filter(|end| *end <= now) {
        findings.warning(
            key,
            format_args!(
                "{file} is out of date since {}: every certificate of its authority is refused until there \
                 is a new list",
                end.rfc3339()
            ),
        );
    }
    (without.len() < authorities.len()).then_some(end)
}
