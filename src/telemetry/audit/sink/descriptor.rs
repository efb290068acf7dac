//! Standard output and standard error.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use super::{Failed, Sink, write_counted};

pub(super) struct Descriptor {
    /// Without std's buffer, which would keep the rest of a failed write for later.
    file: File,
    is_stderr: bool,
    /// True if the last write stopped within a line.
    is_torn: bool,
}

impl Descriptor {
    pub(super) fn stdout() -> io::Result<Self> {
        let file = io::stdout().as_fd().try_clone_to_owned()?.into();
        Ok(Descriptor { file, is_stderr: false, is_torn: false })
    }

    pub(super) fn stderr() -> io::Result<Self> {
        let file = io::stderr().as_fd().try_clone_to_owned()?.into();
        Ok(Descriptor { file, is_stderr: true, is_torn: false })
    }
}

impl Sink for Descriptor {
    fn write(&mut self, lines: &[u8]) -> Result<(), Failed> {
        // No line of the log comes between.
        let _log_waits = self.is_stderr.then(|| io::stderr().lock());
        if self.is_torn {
            write_counted(&mut self.file, b"\n").map_err(|(_, error)| error)?;
            self.is_torn = false;
        }
        write_counted(&mut self.file, lines).map_err(|(bytes, error)| {
            let failed = Failed::after(lines, bytes, error);
            self.is_torn = bytes > failed.kept;
            failed
        })
    }
}
