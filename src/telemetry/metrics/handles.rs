//! Metrics that a hot path looks up once and keeps.

use std::time::Duration;

use prometheus::{IntCounter, IntGauge};

use super::catalogue::Catalogue;
use super::declare::Counters;
use crate::domain::id::{AppName, CallerName};
use crate::telemetry::series::{Label, Timing};

/// Counters of one (app, caller, dialect), looked up once so that a token from the cache costs two atomics.
#[derive(Debug, Clone)]
pub struct TokenRequestHandles {
    ok: IntCounter,
    duration: Timing,
}

impl TokenRequestHandles {
    pub(super) fn new(all: &Catalogue, app: &AppName, caller: &CallerName, dialect: &'static str) -> Self {
        let labels = [Label::App(app), Label::Caller(caller), Label::Word(dialect), Label::Word("ok")];
        TokenRequestHandles {
            ok: all.token_requests_total.with(&labels),
            duration: all.token_request_duration_seconds.with(&[Label::Word(dialect)]),
        }
    }

    /// A token was handed out.
    pub fn served(&self, duration: Duration) {
        self.ok.inc();
        self.duration.observe(duration.as_secs_f64());
    }
}

/// Counts of one sink of the audit.
#[derive(Debug, Clone)]
pub struct AuditSinkMetrics {
    written: IntCounter,
    lost: IntCounter,
    /// Of all sinks together, where there is no other.
    lost_everywhere: Option<IntCounter>,
    failing: IntGauge,
    checkpoints: IntCounter,
    checkpoints_failed: IntCounter,
    unsigned: IntGauge,
}

impl AuditSinkMetrics {
    pub(super) fn new(all: &Catalogue, sink: &str, is_only: bool) -> Self {
        let name = [Label::AuditSink(sink)];
        AuditSinkMetrics {
            written: all.audit_records_total.with(&name),
            lost: all.audit_records_lost_total.with(&name),
            lost_everywhere: is_only.then(|| all.audit_lost_total.clone()),
            failing: all.audit_sink_failing.with(&name),
            checkpoints: all.audit_checkpoints_total.with(&name),
            checkpoints_failed: all.audit_checkpoints_failed_total.with(&name),
            unsigned: all.audit_unsigned_records.with(&name),
        }
    }

    /// The sink took records.
    pub fn written(&self, records: u64) {
        self.written.inc_by(records);
    }

    /// The sink did not take records, or not in time.
    pub fn lost(&self, records: u64) {
        self.lost.inc_by(records);
        if let Some(everywhere) = &self.lost_everywhere {
            everywhere.inc_by(records);
        }
    }

    /// The sink took signed checkpoints, or did not.
    pub fn checkpoints(&self, checkpoints: u64, are_written: bool) {
        if are_written { &self.checkpoints } else { &self.checkpoints_failed }.inc_by(checkpoints);
    }

    /// So many records of the sink are not signed yet.
    pub fn unsigned(&self, records: u64) {
        self.unsigned.set(i64::try_from(records).unwrap_or(i64::MAX));
    }

    /// The sink takes no records, or takes them again.
    pub fn failing(&self, is_failing: bool) {
        self.failing.set(i64::from(is_failing));
    }
}

/// Counts of what becomes of spans.
#[derive(Debug, Clone)]
pub struct SpanMetrics {
    exported: IntCounter,
    dropped: Counters,
}

/// Why a span was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undelivered {
    /// The queue was full, for the collector is too slow or does not answer.
    QueueFull,
    /// The collector could not be reached, or had no room, for longer than is tried.
    Unreachable,
    /// The collector refused it.
    Refused,
    /// The process stopped, or `[traces]` was taken out, before it was delivered.
    Stopped,
}

impl Undelivered {
    const ALL: [Undelivered; 4] =
        [Undelivered::QueueFull, Undelivered::Unreachable, Undelivered::Refused, Undelivered::Stopped];

    /// Its name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Undelivered::QueueFull => "queue_full",
            Undelivered::Unreachable => "unreachable",
            Undelivered::Refused => "refused",
            Undelivered::Stopped => "stopped",
        }
    }
}

impl SpanMetrics {
    pub(super) fn new(all: &Catalogue) -> Self {
        let (exported, dropped) = (all.spans_exported_total.clone(), all.spans_dropped_total.clone());
        for why in Undelivered::ALL {
            let _at_zero = dropped.with(&[Label::Word(why.as_str())]);
        }
        SpanMetrics { exported, dropped }
    }

    /// The collector took spans.
    pub fn exported(&self, spans: u64) {
        self.exported.inc_by(spans);
    }

    /// Spans were given up.
    pub fn dropped(&self, why: Undelivered, spans: u64) {
        self.dropped.with(&[Label::Word(why.as_str())]).inc_by(spans);
    }
}

/// Why a connection was refused or closed before a request came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionRefusal {
    /// The listener's own cap.
    ListenerFull,
    /// The peer's cap.
    PeerFull,
    /// The TLS handshake failed or took too long.
    Handshake,
    /// No head, or half of one, in time.
    TooSlow,
    /// Framing that has more than one reading.
    Malformed,
    /// It had waited longest when others needed its room.
    GaveWay,
    /// The client's certificate is not trusted, or there is none where one is needed.
    ClientCertificate,
    /// Its HTTP/2 frames cost more than they brought.
    Flood,
}

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, or 1.0.
    Http1,
    /// HTTP/2.
    Http2,
}

impl ConnectionRefusal {
    const ALL: [ConnectionRefusal; 8] = [
        ConnectionRefusal::ListenerFull,
        ConnectionRefusal::PeerFull,
        ConnectionRefusal::Handshake,
        ConnectionRefusal::TooSlow,
        ConnectionRefusal::Malformed,
        ConnectionRefusal::GaveWay,
        ConnectionRefusal::ClientCertificate,
        ConnectionRefusal::Flood,
    ];

    fn as_str(self) -> &'static str {
        match self {
            ConnectionRefusal::ListenerFull => "listener_full",
            ConnectionRefusal::PeerFull => "peer_full",
            ConnectionRefusal::Handshake => "handshake",
            ConnectionRefusal::TooSlow => "too_slow",
            ConnectionRefusal::Malformed => "malformed",
            ConnectionRefusal::GaveWay => "gave_way",
            ConnectionRefusal::ClientCertificate => "client_certificate",
            ConnectionRefusal::Flood => "flood",
        }
    }
}

// A counter is found by its reason's place.
const _: () = {
    let mut place = 0;
    while place < ConnectionRefusal::ALL.len() {
        assert!(ConnectionRefusal::ALL[place] as usize == place);
        place += 1;
    }
};

/// One listener's counters.
#[derive(Debug, Clone)]
pub struct ListenerMetrics {
    listener: &'static str,
    ok: IntCounter,
    requests: Counters,
    open: IntGauge,
    refused: [IntCounter; ConnectionRefusal::ALL.len()],
    speak: [IntCounter; 2],
    panics: IntCounter,
}

impl ListenerMetrics {
    pub(super) fn new(all: &Catalogue, listener: &'static str) -> Self {
        let name = Label::Word(listener);
        ListenerMetrics {
            listener,
            ok: all.http_requests_total.with(&[name, Label::Status(http::StatusCode::OK)]),
            requests: all.http_requests_total.clone(),
            open: all.http_connections.with(&[name]),
            refused: ConnectionRefusal::ALL
                .map(|reason| all.http_connections_refused_total.with(&[name, Label::Word(reason.as_str())])),
            speak: ["http1", "http2"]
                .map(|word| all.http_connections_accepted_total.with(&[name, Label::Word(word)])),
            panics: all.panics_total.clone(),
        }
    }

    /// A request was answered.
    pub fn http_request(&self, status: http::StatusCode) {
        if status == http::StatusCode::OK {
            self.ok.inc();
        } else {
            self.requests.with(&[Label::Word(self.listener), Label::Status(status)]).inc();
        }
    }

    /// A connection was opened.
    pub fn connection_opened(&self) {
        self.open.inc();
    }

    /// A connection was accepted, and speaks this.
    pub fn connection_speaks(&self, protocol: Protocol) {
        self.speak[protocol as usize].inc();
    }

    /// A connection was closed.
    pub fn connection_closed(&self) {
        self.open.dec();
    }

    /// A connection was refused or cut.
    pub fn connection_refused(&self, reason: ConnectionRefusal) {
        self.refused[reason as usize].inc();
    }

    /// A handler panicked.
    pub fn panicked(&self) {
        self.panics.inc();
    }
}
