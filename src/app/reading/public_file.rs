//! Files that are no secrets: certificates that others may see; and when what files hold ends.

use std::io::{self, Read};
use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::Findings;
use crate::domain::time::Timestamp;
use crate::secret_file::MAX_SECRET_SIZE;

/// What expires sooner than this is worth a warning.
const SOON: std::time::Duration = std::time::Duration::from_secs(30 * 86_400);

/// What is in a file that anybody may read: 1 byte to 64 KiB.
pub(in crate::app) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let read = || {
        let file = std::fs::File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let mut content = Vec::new();
        file.take(MAX_SECRET_SIZE as u64 + 1).read_to_end(&mut content)?;
        match content.len() {
            0 => Err(io::Error::other("it is empty")),
            length if length > MAX_SECRET_SIZE => Err(io::Error::other("it is longer than 64 KiB")),
            _ => Ok(content),
        }
    };
    read().map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// A file of certificates, as text.
pub(in crate::app) fn certificates(key: &str, path: &Path, findings: &mut Findings<'_>) -> Option<String> {
    let pem = read(path).map_err(|problem| findings.file(key, problem)).ok()?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match (all, String::from_utf8(pem)) {
        (Ok(all), Ok(text)) if !all.is_empty() => Some(text),
        _ => {
            findings.file(key, format_args!("{} holds no readable PEM certificate", path.display()));
            None
        }
    }
}

/// Says of a file's certificate or secret when that ends, where it is soon or was.
pub(in crate::app) fn warn_of_the_end(
    key: &str,
    file: &Path,
    ends_at: Option<Timestamp>,
    now: Timestamp,
    findings: &mut Findings<'_>,
) {
    let file = file.display();
    match ends_at {
        Some(at) if at <= now => findings.warning(key, format_args!("{file} expired at {}", at.rfc3339())),
        Some(at) if at.since(now) < SOON => {
            findings.warning(key, format_args!("{file} expires at {}", at.rfc3339()));
        }
        _ => {}
    }
}
