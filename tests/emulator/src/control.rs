//! The knobs over HTTP, under `/_emulator`.

use serde_json::{Value, json};

use crate::message::{Answer, Request};
use crate::server::Shared;

/// Answers `/_emulator{rest}`.
pub(crate) fn handle(shared: &Shared, request: &Request, rest: &str) -> Answer {
    let mut state = shared.state();
    match (request.method.as_str(), rest) {
        ("GET", "/health") => Answer::json(200, json!({ "ready": true })),
        ("GET", "/ledger") => {
            Answer::json(200, serde_json::to_value(state.ledger.entries()).unwrap_or(Value::Null))
        }
        ("DELETE", "/ledger") => {
            state.ledger.clear();
            Answer::json(200, json!({}))
        }
        _ => Answer::json(404, json!({ "error": "no such knob" })),
    }
}
