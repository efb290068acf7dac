//! What became of each row, in a file beside the one that is imported: a line of JSON for each outcome,
//! without anything secret. A killed command leaves at most half a line, which is passed over.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::row::Digest;
use crate::cli::{Failure, World};
use crate::secret_file::SecretReader;

/// What stands behind the name of the imported file.
const SUFFIX: &str = ".imported";

/// The ledger of one file.
pub(super) struct Ledger {
    path: PathBuf,
    /// The rows that became connections. Whether they still are is asked of the daemon.
    done: Mutex<HashMap<Digest, Done>>,
    /// Open once something is written.
    file: Option<Mutex<File>>,
}

/// What is known of a row that became a connection.
#[derive(Debug, Clone)]
pub(super) struct Done {
    /// The account that the authority named; empty if nobody noted it.
    account: String,
    /// The id of the store that it went to; empty if nobody noted it.
    store: String,
    /// Whether that store was found not to have it any more.
    pub(super) is_deleted: bool,
}

/// One line.
#[derive(Serialize, Deserialize)]
struct Line {
    /// The row's digest, in hexadecimal digits.
    row: String,
    place: u64,
    app: String,
    connection: String,
    /// The outcome, or why it failed.
    outcome: String,
    imported: bool,
    /// The account that the authority named.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    account: String,
    /// The id of the daemon's store.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    store: String,
}

impl Ledger {
    /// Reads what an earlier run wrote.
    pub(super) fn read(imported: &Path, world: &World) -> Result<Self, Failure> {
        let mut name = imported.file_name().unwrap_or_default().to_owned();
        name.push(SUFFIX);
        let path = imported.with_file_name(name);
        let mut done = HashMap::new();
        if path.symlink_metadata().is_ok() {
            let reader = SecretReader::new(world.env.get("CREDENTIALS_DIRECTORY").map(Path::new));
            let file = reader.open(&path).map_err(|error| Failure::usage(error.to_string()))?;
            for line in BufReader::new(file).split(b'\n') {
                let line = line.map_err(|error| failed("read", &path, &error))?;
                // (Half a line of a killed run is none.)
                let Ok(Line { row, imported: true, account, store, .. }) = serde_json::from_slice(&line)
                else {
                    continue;
                };
                let mut digest = Digest::default();
                if hex::decode_to_slice(&row, &mut digest).is_ok() {
                    done.insert(digest, Done { account, store, is_deleted: false });
                }
            }
        }
        Ok(Ledger { path, done: Mutex::new(done), file: None })
    }

    /// Opens it for writing; no other command may be at it.
    pub(super) fn into_writable(mut self, world: &World) -> Result<Self, Failure> {
        let fail = |error: &io::Error| failed("write", &self.path, error);
        let mut options = OpenOptions::new();
        let opened = options.read(true).append(true).create(true).mode(0o600).open(&self.path);
        let mut file = opened.map_err(|error| fail(&error))?;
        let reader = SecretReader::new(world.env.get("CREDENTIALS_DIRECTORY").map(Path::new));
        reader.check(&self.path, &file).map_err(|error| Failure::usage(error.to_string()))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Failure::failed(format!("another command imports this file: it holds {}", self.path.display()))
        })?;
        let length = file.seek(SeekFrom::End(0)).map_err(|error| fail(&error))?;
        if length > 0 {
            // Behind half a line, a new one begins.
            file.write_all(b"\n").map_err(|error| fail(&error))?;
        }
        self.file = Some(Mutex::new(file));
        Ok(self)
    }

    /// What an earlier run made of this row, if that was a connection and nobody knows better.
    pub(super) fn done(&self, digest: &Digest) -> Option<Done> {
        self.done.lock().get(digest).cloned()
    }

    /// Whether the row's connection may be the one that has this account now.
    pub(super) fn may_be_of(&self, digest: &Digest, account: &str) -> bool {
        let done = self.done.lock();
        done.get(digest).is_some_and(|done| done.account.is_empty() || done.account == account)
    }

    /// Takes this row for one that was deleted, if its connection was in this store. Otherwise returns false.
    pub(super) fn is_deleted_from(&self, store: Option<&str>, digest: &Digest) -> bool {
        let mut done = self.done.lock();
        let Some(done) = done.get_mut(digest).filter(|done| Some(&*done.store) == store) else {
            return false;
        };
        done.is_deleted = true;
        true
    }

    /// Takes this row for one that is not imported.
    pub(super) fn forget(&self, digest: &Digest) {
        self.done.lock().remove(digest);
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Notes what became of a row; the account and the store if it is a connection.
    pub(super) fn note(
        &self,
        digest: &Digest,
        place: u64,
        (app, connection): (&str, &str),
        outcome: &str,
        imported: Option<(&str, Option<&str>)>,
    ) -> Result<(), Failure> {
        let Some(file) = &self.file else { return Ok(()) };
        let (app, connection, outcome) = (app.to_owned(), connection.to_owned(), outcome.to_owned());
        let (account, store) = imported.unwrap_or_default();
        let (account, store) = (account.to_owned(), store.unwrap_or_default().to_owned());
        let (row, imported) = (hex::encode(digest), imported.is_some());
        let line = Line { row, place, app, connection, outcome, imported, account, store };
        let mut text = serde_json::to_vec(&line).expect("a line is plain JSON");
        text.push(b'\n');
        file.lock().write_all(&text).map_err(|error| failed("write", &self.path, &error))
    }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot {what} {}: {error}", path.display()))
        .hint("it says which rows are done; without it they are asked for again, and found to be imported")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::world;

    #[test]
    fn what_is_done_is_known_again_after_a_kill_within_a_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("grants.jsonl");
        let (world, _) = world();
        let read = || Ledger::read(&file, &world).expect("read");
        let open = || read().into_writable(&world).expect("opened");
        let note = |ledger: &Ledger, row: u8, outcome, done: Option<&str>| {
            let done = done.map(|account| (account, Some("aa")));
            ledger.note(&[row; 16], row.into(), ("outlook", "a"), outcome, done).expect("written");
        };
        let ledger = open();
        note(&ledger, 1, "imported", Some("t o"));
        note(&ledger, 2, "grant_expired", None);
        assert!(
            read().into_writable(&world).is_err_and(|failure| failure.message.contains("another command"))
        );
        drop(ledger);
        let path = folder.path().join("grants.jsonl.imported");
        let mut text = std::fs::read(&path).expect("it");
        text.extend_from_slice(b"{\"row\":\"0303");
        std::fs::write(&path, text).expect("written");
        let ledger = open();
        let has = |ledger: &Ledger, row| ledger.done(&[row; 16]).is_some();
        assert!(has(&ledger, 1) && !has(&ledger, 2) && !has(&ledger, 3));
        assert!(ledger.may_be_of(&[1; 16], "t o") && !ledger.may_be_of(&[1; 16], "t other"));
        note(&ledger, 4, "imported", Some(""));
        drop(ledger);
        let ledger = read();
        assert!(has(&ledger, 4) && ledger.may_be_of(&[4; 16], "any"));
        for other in [None, Some("bb"), Some("")] {
            assert!(!ledger.is_deleted_from(other, &[4; 16]), "{other:?}");
        }
        assert!(ledger.done(&[4; 16]).is_some_and(|done| !done.is_deleted));
        assert!(
            ledger.is_deleted_from(Some("aa"), &[4; 16]) && !ledger.is_deleted_from(Some("aa"), &[2; 16])
        );
        assert!(ledger.done(&[4; 16]).is_some_and(|done| done.is_deleted));
        ledger.forget(&[4; 16]);
        assert!(!has(&ledger, 4) && !ledger.may_be_of(&[4; 16], "any"));
        // A line of an earlier version names no store, and neither does a daemon of one.
        let line = r#"{"row":"05050505050505050505050505050505","place":5,"app":"a","connection":"b","#;
        let line = format!("{line}\"outcome\":\"imported\",\"imported\":true}}\n");
        std::fs::write(&path, line).expect("written");
        let ledger = read();
        assert!(has(&ledger, 5) && ledger.may_be_of(&[5; 16], "any"));
        assert!(!ledger.is_deleted_from(Some("aa"), &[5; 16]) && !ledger.is_deleted_from(None, &[5; 16]));
    }
}
