//! A file, which may be moved away at any time.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::rotated;
use super::{Failed, Sink, write_counted};
use crate::telemetry::audit::chain::last_chain;

pub(super) struct AppendedFile {
    path: PathBuf,
    file: File,
    identity: (u64, u64),
    /// False for a pipe, say.
    is_regular: bool,
    /// True if the last write stopped within a line.
    is_torn: bool,
}

impl AppendedFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0))
            .open(path)?;
        let metadata = file.metadata()?;
        let mut is_torn = false;
        if metadata.len() > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            is_torn = last != *b"\n";
        }
        let (identity, is_regular) = ((metadata.dev(), metadata.ino()), metadata.is_file());
        Ok(AppendedFile { path: path.to_owned(), file, identity, is_regular, is_torn })
    }
}

impl Sink for AppendedFile {
    fn write(&mut self, lines: &[u8]) -> Result<(), Failed> {
        if self.is_moved() {
            *self = Self::open(&self.path)?;
        }
        if self.is_torn {
            write_counted(&mut self.file, b"\n").map_err(|(_, error)| error)?;
            self.is_torn = false;
        }
        write_counted(&mut self.file, lines).map_err(|(bytes, error)| {
            // Nobody else appends to it, so what was taken stands at its end.
            let before = self.file.metadata().map(|metadata| metadata.len().saturating_sub(bytes as u64));
            if before.is_ok_and(|before| self.file.set_len(before).is_ok()) {
                return error.into();
            }
            // A file that may only grow, or a pipe.
            let failed = Failed::after(lines, bytes, error);
            self.is_torn = bytes > failed.kept;
            failed
        })
    }

    fn is_quick(&self) -> bool {
        self.is_regular
    }

    fn is_moved(&self) -> bool {
        let here = std::fs::metadata(&self.path);
        !here.is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity)
    }

    fn last_chain(&mut self) -> Option<String> {
        // A record is far shorter than this.
        const TAIL: u64 = 64 * 1024;
        let length = self.file.metadata().ok()?.len();
        let mut tail = Vec::new();
        self.file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
        Read::by_ref(&mut self.file).take(TAIL).read_to_end(&mut tail).ok()?;
        // Where the file was moved while no process wrote to it, the moved one has the chain.
        last_chain(&tail).or_else(|| rotated::last_chain(&self.path))
    }
}
