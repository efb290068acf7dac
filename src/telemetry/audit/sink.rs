//! Where lines are written. A sink takes whole lines, or says how many of them it took.

mod datagram;
mod descriptor;
mod file;
mod rotated;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use self::datagram::{Datagrams, Form};
use self::descriptor::Descriptor;
use self::file::AppendedFile;

/// Where syslog daemons listen.
pub const SYSLOG: &str = "/dev/log";
/// Where journald listens.
pub const JOURNALD: &str = "/run/systemd/journal/socket";

/// Destination of an [`AuditWriter`](super::AuditWriter). Its text is how the configuration spells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditSink {
    /// Appends to this file (0600). A moved file is created again, so that it can be rotated.
    File(PathBuf),
    /// Standard output.
    Stdout,
    /// Standard error, between the log's lines.
    Stderr,
    /// A syslog daemon at this Unix datagram socket: RFC 5424, facility `authpriv`.
    Syslog(PathBuf),
    /// journald at this Unix datagram socket, in its own protocol.
    Journald(PathBuf),
}

impl AuditSink {
    /// Opens it. Only a file can fail here: a daemon behind a socket may come later.
    pub(super) fn open(&self) -> Result<Box<dyn Sink>, AuditError> {
        let failed = |source| AuditError { sink: self.clone(), source };
        Ok(match self {
            AuditSink::Stdout => Box::new(Descriptor::stdout().map_err(failed)?),
            AuditSink::Stderr => Box::new(Descriptor::stderr().map_err(failed)?),
            AuditSink::File(path) => Box::new(AppendedFile::open(path).map_err(failed)?),
            AuditSink::Syslog(socket) => Box::new(Datagrams::new(socket, Form::syslog())),
            AuditSink::Journald(socket) => Box::new(Datagrams::new(socket, Form::Journal)),
        })
    }
}

impl fmt::Display for AuditSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let socket = |f: &mut fmt::Formatter<'_>, word: &str, path: &Path, usual: &str| {
            if path == Path::new(usual) { f.write_str(word) } else { write!(f, "{word}:{}", path.display()) }
        };
        match self {
            AuditSink::File(path) => write!(f, "{}", path.display()),
            AuditSink::Stdout => f.write_str("stdout"),
            AuditSink::Stderr => f.write_str("stderr"),
            AuditSink::Syslog(path) => socket(f, "syslog", path, SYSLOG),
            AuditSink::Journald(path) => socket(f, "journald", path, JOURNALD),
        }
    }
}

/// Error when an audit sink is opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the audit log {sink}")]
pub struct AuditError {
    /// The sink.
    sink: AuditSink,
    /// What failed.
    #[source]
    source: io::Error,
}

pub(super) trait Sink: Send {
    /// Writes whole lines. What it could not write must not spoil later lines.
    fn write(&mut self, lines: &[u8]) -> Result<(), Failed>;

    /// Returns true if a write is over at once as a rule, as one into the page cache is. Then a request that
    /// waits for it may make it.
    fn is_quick(&self) -> bool {
        false
    }

    /// Returns true if the next write begins another file, because this one was moved away.
    fn is_moved(&self) -> bool {
        false
    }

    /// Returns the chain of the last line written before this process's life, if the sink can be read.
    fn last_chain(&mut self) -> Option<String> {
        None
    }
}

/// A write that failed.
#[derive(Debug)]
pub(super) struct Failed {
    /// Bytes of the whole lines that it took all the same, from the beginning.
    pub(super) kept: usize,
    pub(super) error: io::Error,
}

impl Failed {
    /// After these bytes of `lines`.
    fn after(lines: &[u8], bytes: usize, error: io::Error) -> Self {
        let whole = lines[..bytes].iter().rposition(|byte| *byte == b'\n');
        Failed { kept: whole.map_or(0, |newline| newline + 1), error }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Failed { kept: 0, error }
    }
}

/// Writes as much as it takes, and says how much that was if it was not all.
fn write_counted(to: &mut impl io::Write, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut done = 0;
    while done < bytes.len() {
        match to.write(&bytes[done..]) {
            Ok(0) => return Err((done, io::ErrorKind::WriteZero.into())),
            Ok(more) => done += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((done, error)),
        }
    }
    Ok(())
}
