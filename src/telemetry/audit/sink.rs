//! Where lines are written: standard output, standard error, or a file that may be moved away.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::chain::split_chain;

/// Destination of an [`AuditWriter`](super::AuditWriter).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditSink {
    /// Appends to this file (0600). A moved file is created again, so that it can be rotated.
    File(PathBuf),
    /// Standard output.
    Stdout,
    /// Standard error, between the log's lines.
    Stderr,
}

impl AuditSink {
    /// Opens it.
    pub(super) fn open(&self) -> Result<Box<dyn Sink>, AuditError> {
        Ok(match self {
            AuditSink::Stdout => Box::new(Stdout),
            AuditSink::Stderr => Box::new(Stderr),
            AuditSink::File(path) => {
                let failed = |source| AuditError { path: path.clone(), source };
                Box::new(AppendedFile::open(path).map_err(failed)?)
            }
        })
    }
}

/// Error when an audit stream is opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the audit log {}", .path.display())]
pub struct AuditError {
    /// Its path.
    path: PathBuf,
    /// What failed.
    #[source]
    source: io::Error,
}

pub(super) trait Sink: Send {
    /// Writes whole lines, or fails; a partial write must not spoil later lines.
    fn write(&mut self, lines: &[u8]) -> io::Result<()>;

    /// Returns the chain of the last line written before this process's life.
    fn last_chain(&mut self) -> Option<String> {
        None
    }
}

struct Stdout;

impl Sink for Stdout {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(lines)?;
        stdout.flush()
    }
}

struct Stderr;

impl Sink for Stderr {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        io::stderr().lock().write_all(lines)
    }
}

struct AppendedFile {
    path: PathBuf,
    file: File,
    identity: (u64, u64),
    /// True if the last write stopped within a line.
    torn: bool,
}

impl AppendedFile {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0))
            .open(path)?;
        let metadata = file.metadata()?;
        let mut torn = false;
        if metadata.len() > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            torn = last != *b"\n";
        }
        Ok(AppendedFile { path: path.to_owned(), file, identity: (metadata.dev(), metadata.ino()), torn })
    }
}

impl Sink for AppendedFile {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let same = std::fs::metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if !same {
            *self = Self::open(&self.path)?;
        }
        let before = self.file.metadata()?.len();
        let newline: &[u8] = if self.torn { b"\n" } else { b"" };
        let written = self.file.write_all(newline).and_then(|()| self.file.write_all(lines));
        self.torn = match &written {
            Ok(()) => false,
            // All or nothing: a partial write would break the chain for the next line.
            Err(_) => self.file.set_len(before).is_err() || self.torn,
        };
        written
    }

    fn last_chain(&mut self) -> Option<String> {
        // A record is far shorter than this.
        const TAIL: u64 = 64 * 1024;
        let length = self.file.metadata().ok()?.len();
        self.file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
        let mut tail = Vec::new();
        Read::by_ref(&mut self.file).take(TAIL).read_to_end(&mut tail).ok()?;
        let tail = String::from_utf8_lossy(&tail);
        tail.lines().rev().find_map(|line| split_chain(line).map(|(_, chain)| chain.to_owned()))
    }
}
