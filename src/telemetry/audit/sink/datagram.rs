//! A syslog daemon or journald behind a Unix datagram socket: one datagram a record. Each counts as taken
//! once it is in the socket's queue.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use super::{Failed, Sink};
use crate::telemetry::audit::PATIENCE;

/// `authpriv.info` (RFC 5424 §6.2.1): facility 10, severity 6.
const PRIORITY: &str = "<86>1";
/// What a field is that is not known (RFC 5424 §6).
const NIL: &str = "-";
/// APP-NAME and the journal's identifier.
const IDENTIFIER: &str = "tokenward-audit";

pub(super) enum Form {
    /// RFC 5424.
    Syslog {
        /// HOSTNAME and PROCID.
        sender: String,
    },
    /// journald's own protocol, <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.
    Journal,
}

impl Form {
    pub(super) fn syslog() -> Self {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let is_name = |name: &&str| {
            !name.is_empty() && name.len() <= 255 && name.bytes().all(|byte| byte.is_ascii_graphic())
        };
        let host = Some(name.trim()).filter(is_name).unwrap_or(NIL);
        Form::Syslog { sender: format!("{host} {IDENTIFIER} {}", std::process::id()) }
    }

    /// Writes the datagram of a line, which has no newline.
    fn frame(&self, line: &str, datagram: &mut Vec<u8>) {
        datagram.clear();
        match self {
            Form::Syslog { sender } => {
                let at = time_of(line);
                datagram.extend_from_slice(format!("{PRIORITY} {at} {sender} audit {NIL} ").as_bytes());
            }
            Form::Journal => {
                let fields = "PRIORITY=6\nSYSLOG_FACILITY=10\nSYSLOG_IDENTIFIER=";
                datagram.extend_from_slice(format!("{fields}{IDENTIFIER}\nMESSAGE=").as_bytes());
            }
        }
        datagram.extend_from_slice(line.as_bytes());
        if matches!(self, Form::Journal) {
            datagram.push(b'\n');
        }
    }
}

/// The record's own time, which RFC 5424 takes as it is.
fn time_of(line: &str) -> &str {
    let at = line.split_once("\"at\":\"").and_then(|(_, rest)| rest.split_once('"'));
    at.map_or(NIL, |(at, _)| at)
}

pub(super) struct Datagrams {
    path: PathBuf,
    form: Form,
    socket: Option<UnixDatagram>,
    datagram: Vec<u8>,
}

impl Datagrams {
    pub(super) fn new(path: &Path, form: Form) -> Self {
        Datagrams { path: path.to_owned(), form, socket: None, datagram: Vec::new() }
    }

    /// Sends the datagram. A daemon that was started again is behind a new socket of the same path.
    fn send(&mut self) -> io::Result<()> {
        if let Some(socket) = &self.socket {
            match socket.send(&self.datagram) {
                Ok(_) => return Ok(()),
                // It does not read: a new connection would not help.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "the daemon behind it does not read",
                    ));
                }
                Err(_) => self.socket = None,
            }
        }
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.connect(&self.path)?;
        let sent = socket.send(&self.datagram);
        self.socket = Some(socket);
        sent.map(|_| ())
    }
}

impl Sink for Datagrams {
    fn write(&mut self, lines: &[u8]) -> Result<(), Failed> {
        let text = String::from_utf8_lossy(lines);
        let mut kept = 0;
        for line in text.split_inclusive('\n') {
            let mut datagram = std::mem::take(&mut self.datagram);
            self.form.frame(line.trim_end_matches('\n'), &mut datagram);
            self.datagram = datagram;
            self.send().map_err(|error| Failed { kept, error })?;
            kept += line.len();
        }
        Ok(())
    }
}
