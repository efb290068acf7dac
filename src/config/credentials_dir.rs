//! `credentials_dir`: one client credential in each file, described by the file's name.
//!
//! Examples are `2026-11.secret`, `2026-11@2027-05-20.secret`, `main.pem` (certificate and key) and
//! `pod.assertion`. Files whose names begin with a dot are skipped: Kubernetes keeps its own data (`..data`)
//! beside the files of a secret.

use std::path::{Path, PathBuf};

use time::format_description::well_known::Rfc3339;

use super::sections::{CredentialConfig, CredentialKind};
use crate::secret_file::guarded::GuardedFolder;

/// Reason why a credentials directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsDirError {
    /// The directory cannot be read.
    #[error("cannot read the credentials directory {}", path.display())]
    Read {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A file's name does not describe a credential.
    #[error(
        "{}: {problem}; name it `id.secret`, `id.pem` or `id.assertion`, with an expiry as in \
         `id@2027-05-20.secret`",
        path.display()
    )]
    Name {
        /// The file.
        path: PathBuf,
        /// What is wrong with its name.
        problem: &'static str,
    },
    /// Two files have the same id.
    #[error("{}: another file of this directory has the id `{id}` too", path.display())]
    Duplicate {
        /// The second file.
        path: PathBuf,
        /// The id.
        id: String,
    },
}

/// Parses the description of a credential in its file's name.
///
/// # Errors
/// The mistake in the name.
pub fn credential_from_file_name(
    directory: &Path,
    name: &str,
) -> Result<CredentialConfig, CredentialsDirError> {
    let path = directory.join(name);
    let wrong = |problem| CredentialsDirError::Name { path: path.clone(), problem };
    let (stem, extension) = name.rsplit_once('.').ok_or_else(|| wrong("the name has no extension"))?;
    let kind = match extension {
        "secret" => CredentialKind::Secret,
        "pem" => CredentialKind::Certificate,
        "assertion" => CredentialKind::Federated,
        _ => return Err(wrong("the extension is not known")),
    };
    let (id, expires) = match stem.split_once('@') {
        None => (stem, None),
        Some((id, date)) => {
            // Ten characters, so that only a date can become an RFC 3339 instant.
            let instant = (date.len() == 10).then(|| format!("{date}T00:00:00Z"));
            let instant = instant.and_then(|text| time::OffsetDateTime::parse(&text, &Rfc3339).ok());
            (id, Some(instant.ok_or_else(|| wrong("what follows `@` is not a date"))?))
        }
    };
    if !is_credential_id(id) {
        return Err(wrong("the id must be up to 63 of `A-Z a-z 0-9 . _ -` and begin with a letter or digit"));
    }
    Ok(CredentialConfig { id: id.to_owned(), kind, file: path, key: None, expires })
}

/// Lists the credentials in a directory, ordered by id. The files themselves are not opened.
///
/// # Errors
/// The directory cannot be read, a file's name does not describe a credential, or two files have the same id.
/// A credential that was silently left out would be missed on the day it is needed.
pub fn read_credentials_dir(folder: &GuardedFolder) -> Result<Vec<CredentialConfig>, CredentialsDirError> {
    let directory = folder.path();
    let failed = |source| CredentialsDirError::Read { path: directory.to_owned(), source };
    let mut all: Vec<CredentialConfig> = Vec::new();
    for path in folder.entries().map_err(failed)? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Err(CredentialsDirError::Name { path, problem: "the name is not UTF-8" });
        };
        if name.starts_with('.') {
            continue;
        }
        all.push(credential_from_file_name(directory, name)?);
    }
    all.sort_by(|a, b| (&a.id, &a.file).cmp(&(&b.id, &b.file)));
    if let Some(two) = all.windows(2).find(|two| two[0].id == two[1].id) {
        return Err(CredentialsDirError::Duplicate { path: two[1].file.clone(), id: two[1].id.clone() });
    }
    Ok(all)
}

pub(super) fn is_credential_id(id: &str) -> bool {
    (1..=63).contains(&id.len())
        && id.starts_with(|c: char| c.is_ascii_alphanumeric())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret_file::SecretReader;

    fn folder(path: &Path) -> GuardedFolder {
        SecretReader::new(None).guard().folder(path).unwrap()
    }

    #[test]
    fn names() {
        let read = |name: &str| credential_from_file_name(Path::new("/d"), name);
        let credential = read("2026-11@2027-05-20.secret").unwrap();
        assert_eq!((credential.id.as_str(), credential.kind), ("2026-11", CredentialKind::Secret));
        assert_eq!(credential.expires, Some(time::macros::datetime!(2027-05-20 0:00 UTC)));
        assert_eq!(credential.file, Path::new("/d/2026-11@2027-05-20.secret"));
        assert_eq!(read("a.b.pem").unwrap().id, "a.b");
        assert_eq!(read("pod.assertion").unwrap().kind, CredentialKind::Federated);
        for name in [
            "x",
            "x.txt",
            ".secret",
            "@2027-05-20.secret",
            "x@soon.secret",
            "x@2027-02-30.secret",
            "x y.pem",
            "x@2027-05-20T00:00:00Z.pem",
        ] {
            assert!(matches!(read(name), Err(CredentialsDirError::Name { .. })), "{name}");
        }
    }

    #[test]
    fn directories() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["b.secret", "a@2027-05-20.secret", "..data", ".keep"] {
            std::fs::write(directory.path().join(name), "x").unwrap();
        }
        let ids: Vec<_> =
            read_credentials_dir(&folder(directory.path())).unwrap().into_iter().map(|c| c.id).collect();
        assert_eq!(ids, ["a", "b"]);
        std::fs::write(directory.path().join("a.pem"), "x").unwrap();
        let error = read_credentials_dir(&folder(directory.path())).unwrap_err();
        assert!(matches!(&error, CredentialsDirError::Duplicate { id, .. } if id == "a"), "{error}");
        assert!(matches!(
            read_credentials_dir(&folder(Path::new("/nowhere"))),
            Err(CredentialsDirError::Read { .. })
        ));
    }
}
