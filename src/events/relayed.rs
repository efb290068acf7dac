//! Relayed requests: one record for each, however it ends.

use std::collections::BTreeMap;
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
const CALLER_GONE: &str = "caller_gone";

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
        event.detail =
            BTreeMap::from([("method", method.to_owned()), ("base", base.to_owned()), ("path", shape)]);
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
    /// It is a batch of these: the shapes of what is sent, and how many are refused.
    pub fn has_parts(&mut self, (sent, refused): (String, usize)) {
        if let Some(event) = &mut self.event {
            event.detail.insert("requests", sent);
            event.detail.insert("refused", refused.to_string());
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

    /// The resource has not answered, perhaps because its caller has gone away in the middle of the body.
    pub async fn failed(mut self, is_caller_gone: bool) {
        if let Some(event) = self.ended_without_answer(is_caller_gone.then_some(CALLER_GONE)) {
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
pub const RELAY_OUTCOMES: [&str; 9] = [
    "ok",
    "unauthorized",
    "forbidden",
    "not_found",
    "throttled",
    "refused",
    "server_error",
    RELAY_FAILED,
    CALLER_GONE,
];
