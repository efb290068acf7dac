//! The record of a hand-out, for `benches/steps`.

use super::HandOutAtOnce;
use crate::telemetry::audit::AuditEvent;

/// Makes it.
pub fn record_of(out: &HandOutAtOnce) -> AuditEvent {
    let HandOutAtOnce { at, asked, caller, key, words, life, .. } = out;
    super::hand_out(*at, asked.who(), (&caller.name, key), words, *life)
}
