//! Where the daemon's log, audit stream and counts go.

use std::io::IsTerminal;
use std::sync::Arc;

use super::process::Process;
use super::start_error::StartError;
use crate::config::{AuditConfig, AuditSink, LogConfig, LogFormat, LogLevel};
use crate::events::{Counters, Events};
use crate::telemetry::audit::{self, AuditSinks, Signing, SigningKey};
use crate::telemetry::logging::{self, LevelHandle};

/// What rooms report to.
pub(super) struct Reporting {
    pub(super) events: Arc<Events>,
    pub(super) counters: Arc<Counters>,
    /// The key that signs the audit.
    pub(super) signing: Arc<Signing>,
}

impl Reporting {
    /// Opens the audit stream, signed with this key.
    pub(super) fn open(
        config: &AuditConfig,
        key: Option<SigningKey>,
        process: &Process,
    ) -> Result<Self, StartError> {
        let (clock, metrics) = (&process.ports.clock, &process.metrics);
        let sinks: Vec<_> = config.sinks.iter().map(sink_of).collect();
        let signing = Arc::new(Signing::default());
        signing.replace(key);
        let audit = AuditSinks::open(&sinks, &signing, clock, metrics);
        let audit = audit.map_err(|error| StartError::chain(&error))?;
        Ok(Reporting {
            signing,
            events: Arc::new(
                Events::new(metrics.clone(), audit, clock.clone()).fail_closed(config.fail_closed),
            ),
            counters: Arc::new(Counters::new(metrics.clone(), clock.clone(), process.readiness.clone())),
        })
    }
}

fn sink_of(sink: &AuditSink) -> audit::AuditSink {
    match sink {
        AuditSink::Stdout => audit::AuditSink::Stdout,
        AuditSink::Stderr => audit::AuditSink::Stderr,
        AuditSink::File(path) => audit::AuditSink::File(path.clone()),
        AuditSink::Syslog(path) => audit::AuditSink::Syslog(path.clone()),
        AuditSink::Journald(path) => audit::AuditSink::Journald(path.clone()),
    }
}

/// Installs the log. None where there is one already.
pub(super) fn install_log(config: &LogConfig) -> Option<LevelHandle> {
    let format = match config.format {
        LogFormat::Json => logging::Format::Json,
        LogFormat::Text => logging::Format::Text,
        LogFormat::Auto if std::io::stderr().is_terminal() => logging::Format::Text,
        LogFormat::Auto => logging::Format::Json,
    };
    logging::install(level_of(config.level), format).ok()
}

pub(super) fn level_of(level: LogLevel) -> logging::Level {
    match level {
        LogLevel::Error => logging::Level::Error,
        LogLevel::Warn => logging::Level::Warn,
        LogLevel::Info => logging::Level::Info,
        LogLevel::Debug => logging::Level::Debug,
        LogLevel::Trace => logging::Level::Trace,
    }
}
