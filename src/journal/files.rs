//! A journal with one file for each entry, in a directory that only its owner can enter. A file is written
//! under a temporary name, synced and renamed. A temporary file left by a crash was never acknowledged, and
//! is removed at the start.

use parking_lot::{Mutex, MutexGuard};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};

use super::{Entry, Journal, JournalError};
use crate::domain::task::BoxFuture;

const ENDING: &str = ".entry";
const UNFINISHED: &str = ".new";
const LOCK: &str = "lock";
const OPENING: &str = "opening the journal";
/// Largest entry: an entry has one connection's record, so a larger file is not ours.
const MOST_BYTES: u64 = 8 * 1024 * 1024;

/// A journal in a directory.
pub struct FileJournal {
    directory: Arc<Directory>,
}

struct Directory {
    path: PathBuf,
    /// Held while an entry changes, so that an entry is not removed while it is replaced.
    changing: Mutex<()>,
    /// Keeps the directory locked while it is open.
    _lock: File,
}

/// Checks a journal's directory before it is opened. It creates nothing, and does not check whether another
/// process has the journal.
///
/// # Errors
/// The path is no directory, other users may enter it, or it cannot be read.
pub fn check(path: &Path) -> Result<(), JournalError> {
    let failed = |cause: String| JournalError { doing: OPENING, cause };
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(format!("{}: {error}", path.display()))),
        Ok(there) if !there.is_dir() => Err(failed(format!("{}: it is not a directory", path.display()))),
        Ok(there) if there.mode() & 0o077 != 0 => Err(failed(format!(
            "{}: others may enter it; run `chmod 700` on it, or name a directory that does not exist yet",
            path.display()
        ))),
        Ok(_) => Ok(()),
    }
}

impl FileJournal {
    /// Opens the journal, and creates its directory if missing. It fails while another process has the
    /// journal.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let failed = |cause: String| JournalError { doing: OPENING, cause };
        let at = |error: io::Error| failed(format!("{}: {error}", path.display()));
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at)?;
        check(path)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK))
            .map_err(at)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            failed(format!(
                "{}: another process has it; each replica needs a directory of its own",
                path.display()
            ))
        })?;
        let directory = Directory { path: path.to_owned(), changing: Mutex::default(), _lock: lock };
        for (name, file) in directory.files().map_err(at)? {
            if name.ends_with(UNFINISHED) {
                fs::remove_file(file).map_err(at)?;
            }
        }
        Ok(FileJournal { directory: Arc::new(directory) })
    }

    async fn run<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Directory) -> io::Result<T> + Send + 'static,
    ) -> Result<T, JournalError> {
        let directory = Arc::clone(&self.directory);
        let done = tokio::task::spawn_blocking(move || work(&directory)).await;
        match done {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(JournalError { doing, cause: error.to_string() }),
            Err(_) => Err(JournalError { doing, cause: "it panicked".into() }),
        }
    }
}

impl Directory {
    fn files(&self) -> io::Result<Vec<(String, PathBuf)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                files.push((name, entry.path()));
            }
        }
        files.sort();
        Ok(files)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock()
    }

    fn replace(&self, name: &str, before: &[u8], after: &[u8]) -> io::Result<()> {
        let _changing = self.changing();
        match fs::read(self.path.join(format!("{name}{ENDING}"))) {
            Ok(there) if there == before => self.put(name, after),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn write(&self, name: &str, sealed: &[u8]) -> io::Result<()> {
        let _changing = self.changing();
        self.put(name, sealed)
    }

    fn put(&self, name: &str, sealed: &[u8]) -> io::Result<()> {
        let unfinished = self.path.join(format!("{name}{UNFINISHED}"));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(sealed)?;
        file.sync_all()?;
        fs::rename(&unfinished, self.path.join(format!("{name}{ENDING}")))?;
        self.sync()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let _changing = self.changing();
        match fs::remove_file(self.path.join(format!("{name}{ENDING}"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            // An entry that reappears after a crash is offered to the store once more, which recognizes it.
            _ => Ok(()),
        }
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path.join(format!("{name}{ENDING}"))) {
            Ok(sealed) => Ok(Some(sealed)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for (file, path) in self.files()? {
            let Some(name) = file.strip_suffix(ENDING) else { continue };
            if fs::metadata(&path)?.len() > MOST_BYTES {
                tracing::error!(file, "a file in the journal is larger than any entry and is left alone");
                continue;
            }
            entries.push((name.to_owned(), fs::read(&path)?));
        }
        Ok(entries)
    }

    /// Syncs the directory, which makes names durable.
    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

impl Journal for FileJournal {
    fn write<'a>(&'a self, name: &'a str, sealed: Vec<u8>) -> BoxFuture<'a, Result<(), JournalError>> {
        let name = name.to_owned();
        Box::pin(self.run("writing to the journal", move |directory| directory.write(&name, &sealed)))
    }

    fn replace<'a>(
        &'a self,
        name: &'a str,
        before: Vec<u8>,
        after: Vec<u8>,
    ) -> BoxFuture<'a, Result<(), JournalError>> {
        let name = name.to_owned();
        let replace = move |directory: &Directory| directory.replace(&name, &before, &after);
        Box::pin(self.run("replacing an entry of the journal", replace))
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), JournalError>> {
        let name = name.to_owned();
        Box::pin(self.run("taking an entry out of the journal", move |directory| directory.remove(&name)))
    }

    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, JournalError>> {
        let name = name.to_owned();
        Box::pin(self.run("reading an entry of the journal", move |directory| directory.read(&name)))
    }

    fn entries(&self) -> BoxFuture<'_, Result<Vec<Entry>, JournalError>> {
        Box::pin(self.run("reading the journal", Directory::entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn entries_outlive_the_process_and_unfinished_ones_do_not_count() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("journal");
        let journal = FileJournal::open(&path).expect("opens");
        journal.write("one", b"1".to_vec()).await.expect("written");
        journal.write("two", b"2".to_vec()).await.expect("written");
        journal.write("two", b"22".to_vec()).await.expect("replaced");
        journal.write("gone", b"3".to_vec()).await.expect("written");
        journal.remove("gone").await.expect("removed");
        let replace = async |name, before: &[u8], after: &[u8]| {
            journal.replace(name, before.to_vec(), after.to_vec()).await.expect("read, at least");
        };
        replace("gone", b"3", b"4").await; // it does not come back
        replace("one", b"another", b"4").await; // it was written anew
        replace("two", b"22", b"222").await;
        journal.remove("never").await.expect("nothing to do");
        assert!(FileJournal::open(&path).is_err(), "one process at a time");
        drop(journal);
        // Leftovers of a crash in the middle of a write, cut at any byte.
        fs::write(path.join("three.new"), b"thr").expect("written");
        let journal = FileJournal::open(&path).expect("opens again");
        let entries = journal.entries().await.expect("read");
        assert_eq!(entries, [("one".to_owned(), b"1".to_vec()), ("two".to_owned(), b"222".to_vec())]);
        assert!(!path.join("three.new").exists());
        let mode = fs::metadata(path.join("one.entry")).expect("there").mode() & 0o777;
        assert_eq!(mode, 0o600);
    }

    #[test]
    fn a_directory_that_others_may_enter_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a directory");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let refused = FileJournal::open(folder.path()).err().expect("refused");
        assert!(refused.to_string().contains("chmod 700"), "{refused}");
    }
}
