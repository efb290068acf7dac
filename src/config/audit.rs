//! Reads `[audit]`.

use super::context::Section;
use super::sections::{AuditConfig, AuditSink};

/// Most sinks. Each costs every hand-out a record.
const MOST_SINKS: usize = 4;
/// Where syslog daemons listen.
const SYSLOG: &str = "/dev/log";
/// Where journald listens.
const JOURNALD: &str = "/run/systemd/journal/socket";

pub(super) fn audit(section: &Section<'_>) -> Option<AuditConfig> {
    let mut sinks = vec![sink(section, section.text("path")?.value)];
    for leaf in section.texts("also") {
        let one = sink(section, leaf.value);
        if sinks.contains(&one) {
            leaf.mistake("is a sink of the audit already; name each once");
        } else if sinks.len() == MOST_SINKS {
            leaf.mistake(format!("is one sink too many; the audit has at most {MOST_SINKS}"));
        } else {
            sinks.push(one);
        }
    }
    let signing_key = section.path("signing_key");
    Some(AuditConfig { sinks, fail_closed: section.bool("fail_closed")?, signing_key })
}

/// `syslog` and `journald` may have a socket after a colon.
fn sink(section: &Section<'_>, text: &str) -> AuditSink {
    let (word, socket) = text.split_once(':').map_or((text, None), |(word, path)| (word, Some(path)));
    match (word, socket) {
        ("stdout", None) => AuditSink::Stdout,
        ("stderr", None) => AuditSink::Stderr,
        ("syslog", socket) => AuditSink::Syslog(section.resolve(socket.unwrap_or(SYSLOG))),
        ("journald", socket) => AuditSink::Journald(section.resolve(socket.unwrap_or(JOURNALD))),
        _ => AuditSink::File(section.resolve(text)),
    }
}
