//! The parts of the process's environment that the daemon may know.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::secret_file::SecretReader;

/// Where the configuration comes from.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// The process's environment.
    pub variables: BTreeMap<String, String>,
}

/// The parts of the environment that the daemon may know.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `$CREDENTIALS_DIRECTORY`, where systemd puts credentials.
    pub credentials_directory: Option<PathBuf>,
    /// The text of `/etc/passwd`, for the users that callers are known by.
    pub passwd: String,
    /// A directory of the daemon's, for a command that root runs. Its owner is the user as whom the command
    /// reads.
    pub of_owner: Option<PathBuf>,
}

impl Environment {
    /// The process's own.
    pub fn of_process(variables: &BTreeMap<String, String>) -> Self {
        Environment {
            credentials_directory: variables.get("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            passwd: std::fs::read_to_string("/etc/passwd").unwrap_or_default(),
            of_owner: None,
        }
    }

    /// The same, as the owner of that directory sees it.
    #[must_use]
    pub fn as_owner_of(self, directory: &Path) -> Self {
        Environment { of_owner: Some(directory.to_owned()), ..self }
    }

    /// The same, with the present users of this machine.
    pub(super) fn again(&self) -> Self {
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_else(|_| self.passwd.clone());
        Environment { passwd, ..self.clone() }
    }

    pub(super) fn secrets(&self) -> SecretReader {
        let credentials = self.credentials_directory.as_deref();
        match &self.of_owner {
            Some(directory) => SecretReader::for_owner_of(directory, credentials),
            None => SecretReader::new(credentials),
        }
    }
}
