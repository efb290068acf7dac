//! Files that are no secrets, such as certificates: everybody may read them, and only root and the daemon's
//! user may change them. Also warnings about validity times, and about secrets that were pasted wrongly.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::app::findings::Findings;
use crate::config::Topic;
use crate::domain::time::Timestamp;
use crate::secret_file::shape::Misshapen;
use crate::secret_file::{SecretReader, paste};

/// An end sooner than this causes a warning.
const SOON: std::time::Duration = std::time::Duration::from_secs(30 * 86_400);

/// The longest file of certificates, in bytes: a distribution's bundle of all roots has some 220,000.
const MAX_SIZE: usize = 4 * 1024 * 1024;

/// Content of a file that anybody may read: 1 byte to 4 MiB.
pub(in crate::app) fn read(path: &Path, secrets: &SecretReader) -> Result<Vec<u8>, String> {
    let content = secrets.guard().read(path, MAX_SIZE + 1).map_err(|error| error.to_string())?;
    let wrong = |problem: &str| Err(format!("cannot read {}: {problem}", path.display()));
    match content.len() {
        0 => wrong("it is empty"),
        length if length > MAX_SIZE => wrong("it is longer than 4 MiB"),
        _ => Ok(content),
    }
}

/// A file of certificates, as text.
pub(in crate::app) fn certificates(
    key: &str,
    path: &Path,
    secrets: &SecretReader,
    findings: &mut Findings<'_>,
) -> Option<String> {
    let pem = read(path, secrets).map_err(|problem| findings.file(key, problem)).ok()?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let text = std::str::from_utf8(&pem).ok().filter(|_| all.is_ok_and(|all| !all.is_empty()));
    if text.is_none() {
        findings.file(key, pem_problem(&pem, path, "holds no readable PEM certificate"));
    }
    text.map(str::to_owned)
}

/// Warns if a certificate or secret is not valid yet, ends soon or has ended.
pub(in crate::app) fn warn_of_its_time(
    key: &str,
    file: &Path,
    valid_from: Option<Timestamp>,
    ends_at: Option<Timestamp>,
    now: Timestamp,
    findings: &mut Findings<'_>,
) {
    let file = file.display();
    if let Some(at) = valid_from.filter(|at| *at > now) {
        let problem = format_args!("{file} is not valid before {}", at.rfc3339());
        findings.warning_about(Topic::Expiry, key, problem);
    }
    match ends_at {
        Some(at) if at <= now => {
            let problem = format_args!("{file} expired at {}", at.rfc3339());
            findings.warning_about(Topic::Expired, key, problem);
        }
        Some(at) if at.since(now) < SOON => {
            let problem = format_args!("{file} expires at {}", at.rfc3339());
            findings.warning_about(Topic::Expiry, key, problem);
        }
        _ => {}
    }
}

/// The same for the first certificate in a PEM text.
pub(in crate::app) fn warn_of_a_certificate_s_time(
    key: &str,
    file: &Path,
    pem: &[u8],
    now: Timestamp,
    findings: &mut Findings<'_>,
) {
    if let Some((from, end)) = validities(pem).first().copied() {
        warn_of_its_time(key, file, Some(from), Some(end), now, findings);
    }
}

/// Names what is wrong with an unreadable PEM file: the damage if it can be told, otherwise `found`.
pub(in crate::app) fn pem_problem(pem: &[u8], file: &Path, found: impl std::fmt::Display) -> String {
    match Misshapen::pem(pem, file) {
        Some(what) => format!("{} {what}", file.display()),
        None => format!("{} {found}", file.display()),
    }
}

/// Warns of a secret that probably was not copied as it is.
pub(in crate::app) fn warn_of_a_secret(key: &str, file: &Path, secret: &str, findings: &mut Findings<'_>) {
    for suspicion in paste::suspicions(secret) {
        findings.warning(key, format_args!("{} {suspicion}", file.display()));
    }
}

/// When each certificate of a PEM file expires, in the file's order. The first one of a chain is the one in
/// use.
pub(in crate::app) fn ends(pem: &[u8]) -> Vec<Timestamp> {
    validities(pem).into_iter().map(|(_, end)| end).collect()
}

/// The same, with the start of each one's validity.
fn validities(pem: &[u8]) -> Vec<(Timestamp, Timestamp)> {
    let validity = |certificate: CertificateDer<'_>| {
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).ok()?;
        let at = |time: x509_parser::time::ASN1Time| Timestamp::from_unix_seconds(time.timestamp());
        Some((at(parsed.validity().not_before), at(parsed.validity().not_after)))
    };
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).filter_map(validity).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Places;

    #[test]
    fn a_bundle_of_every_root_there_is_can_be_read() {
        let folder = tempfile::tempdir().expect("temp dir");
        let file = folder.path().join("ca.pem");
        let write = |length| std::fs::write(&file, vec![b'x'; length]).expect("a file");
        for (length, is_read) in
            [(0, false), (1, true), (1024 * 1024, true), (MAX_SIZE, true), (MAX_SIZE + 1, false)]
        {
            write(length);
            assert_eq!(read(&file, &SecretReader::new(None)).is_ok(), is_read, "{length}");
        }
    }

    #[test]
    fn the_time_of_a_certificate_is_said_where_it_is_not_now() {
        let day = |days: i64| Timestamp::from_unix_seconds(1_800_000_000 + days * 86_400);
        for (from, end, said) in [
            (-10, 100, None),
            (1, 100, Some("a.pem is not valid before 2027-01-16")),
            (-10, 29, Some("a.pem expires at 2027-02-13")),
            (-10, 0, Some("a.pem expired at 2027-01-15")),
        ] {
            let places = Places::default();
            let mut findings = Findings::new(&places);
            let file = Path::new("a.pem");
            warn_of_its_time("a.b", file, Some(day(from)), Some(day(end)), day(0), &mut findings);
            let warnings: Vec<String> = findings.sorted().warnings.iter().map(ToString::to_string).collect();
            assert_eq!(warnings.len(), usize::from(said.is_some()), "{warnings:?}");
            assert!(said.is_none_or(|said| warnings[0].contains(said)), "{warnings:?}");
        }
    }
}
