//! Handles: which were made, and which an operator ended.

use super::{Draft, Events, Who};
use crate::broker::Refusal;
use crate::domain::handle::HandleId;
use crate::domain::id::{CallerName, ConnectionKey};
use crate::domain::time::Timestamp;
use crate::telemetry::audit::Action;

/// A handle that was made.
pub struct HandleMade<'a> {
    /// Its id.
    pub id: &'a HandleId,
    /// When it ends by itself.
    pub expires_at: Timestamp,
    /// Its rules.
    pub relay: Vec<String>,
    /// What the caller says it is for.
    pub note: Option<&'a str>,
}

impl Events {
    /// Reports that a caller made a handle. It may leave after that.
    ///
    /// # Errors
    /// No sink took the record, and the configuration demands one: the handle must not leave.
    pub async fn handle_made(
        &self,
        who: Who<'_>,
        caller: &CallerName,
        key: &ConnectionKey,
        made: HandleMade<'_>,
    ) -> Result<(), Refusal> {
        let HandleMade { id, expires_at, relay, note } = made;
        tracing::info!(
            request_id = %who.request_id, %caller, app = %key.app, connection = %key.connection, handle = %id,
            "a caller made a handle"
        );
        let Draft(mut event) = self.of(who, Action::HandleMade, "ok").caller(caller).key(key);
        event.detail.insert("handle", id.to_string());
        event.detail.insert("expires_at", expires_at.rfc3339());
        event.detail.insert("relay", relay.join(", "));
        event.detail.extend(note.map(|note| ("note", note.to_owned())));
        match self.may_leave(event).await {
            true => {
                self.metrics.handle_made(&key.app, caller);
                Ok(())
            }
            false => Err(Refusal::AuditUnavailable),
        }
    }

    /// Reports that a caller was refused a handle.
    pub async fn handle_refused(
        &self,
        who: Who<'_>,
        caller: &CallerName,
        key: &ConnectionKey,
        code: &'static str,
    ) {
        if !self.is_told(caller, Action::HandleMade, code) {
            return;
        }
        tracing::info!(
            request_id = %who.request_id, %caller, app = %key.app, connection = %key.connection, code,
            "a caller was refused a handle"
        );
        self.record(self.of(who, Action::HandleMade, code).caller(caller).key(key).0).await;
    }

    /// Reports that an operator ended a handle, or tried to.
    pub async fn handle_ended(&self, who: Who<'_>, admin: &str, id: &HandleId, code: &'static str) {
        tracing::warn!(request_id = %who.request_id, admin, handle = %id, code, "an operator ended a handle");
        let Draft(mut event) = self.of(who, Action::Admin, code);
        event.detail.insert("admin", admin.to_owned());
        event.detail.insert("act", "revoke".to_owned());
        event.detail.insert("handle", id.to_string());
        self.record(event).await;
    }
}
