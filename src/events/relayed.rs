//! Relayed requests: one record for each, however it ends.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::{Draft, Events, Who};
use crate::broker::Refusal;
use crate::domain::id::{AppName, CallerName, ConnectionKey};
use crate::telemetry::audit::{Action, AuditEvent, TokenWords};

/// The code of a request that the resource did not answer.
const RELAY_FAILED: &str = "relay_failed";

/// The reason of one whose caller did not wait.
pub const CALLER_GONE: &str = "caller_gone";

/// The reason of one for which no place was free on the way to its resource.
pub const RESOURCE_FULL: &str = "resource_full";

/// The code of a request whose turn at its mailbox did not come.
const MAILBOX_BUSY: &str = "mailbox_busy";

/// What becomes of waits for a turn, in metrics: it began, it did not come in time, its caller has gone away;
/// and what becomes of a turn whose caller is too slow for others that wait.
pub const TURN_OUTCOMES: [&str; 4] = ["begun", MAILBOX_BUSY, CALLER_GONE, TAKEN_BACK];
const TAKEN_BACK: &str = "taken_back";

/// What a batch's record says of its requests.
pub struct BatchParts {
    /// Method and shape of the path of each that is sent.
    pub sent: String,
    /// How many are refused.
    pub refused: usize,
    /// Of each of those the status, and method and shape as far as it could be read.
    pub refused_shapes: String,
}

impl BatchParts {
    fn tell(self, event: &mut AuditEvent) {
        if !self.sent.is_empty() {
            event.detail.insert("requests", self.sent);
        }
        event.detail.insert("refused", self.refused.to_string());
        if !self.refused_shapes.is_empty() {
            event.detail.insert("refused_requests", self.refused_shapes);
        }
    }
}

/// A request that waits for its turn. It is counted however that ends, and recorded if its caller goes away.
pub struct TurnWait<'a> {
    events: &'a Events,
    who: Who<'a>,
    caller: &'a CallerName,
    key: &'a ConnectionKey,
    begun: Duration,
    is_open: bool,
}

impl TurnWait<'_> {
    /// It has its turn, or needs none. Returns how long it has waited.
    pub fn is_over(mut self, has_turn: bool) -> Duration {
        match has_turn {
            true => self.ends("begun"),
            false => {
                self.is_open = false;
                self.events.metrics.needs_no_turn();
                Duration::ZERO
            }
        }
    }

    /// Its turn did not come. (The refusal is recorded as any other.)
    pub fn is_in_vain(mut self) {
        self.ends(MAILBOX_BUSY);
    }

    fn ends(&mut self, outcome: &'static str) -> Duration {
        self.is_open = false;
        let waited = self.events.clock.monotonic().saturating_sub(self.begun);
        self.events.metrics.waited_for_turn(&self.key.app, outcome, waited);
        waited
    }
}

impl Drop for TurnWait<'_> {
    /// Its caller has gone away.
    fn drop(&mut self) {
        if !self.is_open {
            return;
        }
        let waited = self.ends(CALLER_GONE);
        if let Some(mut event) = self.events.refusal(self.who, (self.caller, self.key), MAILBOX_BUSY, waited)
        {
            event.reason = Some(CALLER_GONE);
            // (It is taken at once, and nobody waits for it.)
            drop(self.events.audit.record(event));
        }
    }
}

/// A request that is about to be relayed.
pub struct Relaying<'a> {
    /// Whose it is.
    pub caller: &'a CallerName,
    /// With whose token.
    pub key: &'a ConnectionKey,
    /// Its method.
    pub method: &'static str,
    /// The name of its base.
    pub base: &'a str,
    /// The shape of its path.
    pub shape: String,
    /// How long its token took.
    pub elapsed: Duration,
}

/// The record of a relayed request. It is written when the request has ended, also where its caller goes
/// away.
pub struct RelayRecord {
    events: Arc<Events>,
    event: Option<AuditEvent>,
    app: AppName,
    begun: Duration,
}

impl Events {
    /// A request waits for its turn at its mailbox, from now until what is returned is told how it ended.
    pub fn waits_for_turn<'a>(
        &'a self,
        who: Who<'a>,
        caller: &'a CallerName,
        key: &'a ConnectionKey,
    ) -> TurnWait<'a> {
        self.metrics.waits_for_turn();
        TurnWait { events: self, who, caller, key, begun: self.clock.monotonic(), is_open: true }
    }

    /// Reports that a caller lost its turn, because it was too slow and others waited. Always true.
    pub fn turn_taken_back(&self, app: &AppName) -> bool {
        self.metrics.turn_taken_back(app, TAKEN_BACK);
        true
    }

    /// Reports that all requests of a batch were refused; `code` is the contract's.
    pub async fn batch_refused(
        &self,
        who: Who<'_>,
        caller: &CallerName,
        key: &ConnectionKey,
        (code, parts): (&'static str, BatchParts),
        elapsed: Duration,
    ) {
        if let Some(mut event) = self.refusal(who, (caller, key), code, elapsed) {
            parts.tell(&mut event);
            self.record(event).await;
        }
    }

    /// Begins the record of a request that is about to be relayed.
    ///
    /// # Errors
    /// No sink took the record that it begins, and the configuration demands one: nothing must be sent.
    pub async fn relays(
        self: &Arc<Self>,
        who: Who<'_>,
        relaying: Relaying<'_>,
        (words, life): (&TokenWords, Duration),
    ) -> Result<RelayRecord, Refusal> {
        let Relaying { caller, key, method, base, shape, elapsed } = relaying;
        let Draft(mut event) = self.of(who, Action::Relayed, "ok").caller(caller).key(key);
        event.detail.extend([("method", method.to_owned()), ("base", base.to_owned()), ("path", shape)]);
        let event = event.token(words, life);
        if self.is_fail_closed {
            let mut begins = event.clone();
            begins.reason = Some("begins");
            if !self.may_leave(begins).await {
                return Err(self.not_recorded(who, (caller, key), elapsed));
            }
        }
        self.handles(&key.app, caller, who.dialect).served(elapsed);
        let (events, begun) = (Arc::clone(self), self.clock.monotonic());
        Ok(RelayRecord { events, event: Some(event), app: key.app.clone(), begun })
    }
}

impl RelayRecord {
    /// It is a batch of these.
    pub fn has_parts(&mut self, parts: BatchParts) {
        if let Some(event) = &mut self.event {
            parts.tell(event);
        }
    }

    /// The head of the resource's answer has come.
    pub fn has_status(&mut self, status: StatusCode) {
        if let Some(event) = &mut self.event {
            event.detail.insert("status", status.as_u16().to_string());
        }
    }

    /// Another token is used than the one before.
    pub fn uses(&mut self, words: &TokenWords, life: Duration) {
        self.event = self.event.take().map(|event| event.token(words, life));
    }

    /// The resource has answered. Its answer leaves when this completes.
    pub async fn answered(mut self, status: StatusCode) {
        let Some(mut event) = self.event.take() else { return };
        event.at = self.events.clock.now();
        event.detail.insert("status", status.as_u16().to_string());
        self.count(outcome_of(status));
        self.events.record(event).await;
    }

    /// The resource has not answered. The reason is [`CALLER_GONE`], for one that went away in the middle of
    /// its body, [`RESOURCE_FULL`] or none.
    pub async fn failed(mut self, reason: Option<&'static str>) {
        if let Some(event) = self.ended_without_answer(reason) {
            self.events.record(event).await;
        }
    }

    fn ended_without_answer(&mut self, reason: Option<&'static str>) -> Option<AuditEvent> {
        let mut event = self.event.take()?;
        event.at = self.events.clock.now();
        event.outcome = RELAY_FAILED;
        event.reason = reason;
        self.count(reason.unwrap_or(RELAY_FAILED));
        Some(event)
    }

    fn count(&self, outcome: &'static str) {
        let elapsed = self.events.clock.monotonic().saturating_sub(self.begun);
        self.events.metrics.relayed(&self.app, outcome, elapsed);
    }
}

impl Drop for RelayRecord {
    /// Its caller has gone away.
    fn drop(&mut self) {
        if let Some(event) = self.ended_without_answer(Some(CALLER_GONE)) {
            // (It is taken at once, and nobody waits for it.)
            drop(self.events.audit.record(event));
        }
    }
}

/// The word of a resource's answer, in metrics.
fn outcome_of(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200..400 => "ok",
        401 => "unauthorized",
        403 => "forbidden",
        404 => "not_found",
        429 | 503 => "throttled",
        400..500 => "refused",
        _ => "server_error",
    }
}

/// Every word of the metric.
pub const RELAY_OUTCOMES: [&str; 10] = [
    "ok",
    "unauthorized",
    "forbidden",
    "not_found",
    "throttled",
    "refused",
    "server_error",
    RELAY_FAILED,
    CALLER_GONE,
    RESOURCE_FULL,
];
