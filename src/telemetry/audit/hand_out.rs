//! The record of a hand-out, by far the most frequent one. Most of its text is the same each time that a
//! caller gets a token, so that is made once.

use std::sync::Arc;

use super::record::{AuditEvent, push_key, push_peer, push_time};
use super::source::Source;
use crate::domain::json_text::{push_number, push_text};
use crate::domain::time::Timestamp;

/// What the records of a token's hand-outs to one caller have in common.
#[derive(Debug)]
pub struct HandOutText {
    /// The members from the action to the door, then those from the app to the scopes, then the token's.
    text: Box<[u8]>,
    /// Where the second and the third of these begin.
    begins: [usize; 2],
}

impl HandOutText {
    /// Makes it from a hand-out's record. Its time, its peer, the token's life and its request are left out.
    pub fn of(event: &AuditEvent) -> Self {
        let mut text = Vec::new();
        event.push_act(&mut text);
        let object = text.len();
        event.push_object(&mut text);
        let token = text.len();
        event.push_token(&mut text);
        HandOutText { text: text.into(), begins: [object, token] }
    }
}

/// The record of one hand-out.
#[derive(Debug, Clone)]
pub struct HandOutRecord {
    /// When.
    pub at: Timestamp,
    /// What it has in common with others.
    pub text: Arc<HandOutText>,
    /// Where the request came from.
    pub source: Source,
    /// Seconds of life left in the token.
    pub expires_in: u64,
    /// The request.
    pub request_id: Arc<str>,
}

impl HandOutRecord {
    /// Appends the members of its JSON, without the braces.
    pub(super) fn push_members(&self, out: &mut Vec<u8>) {
        let (text, [object, token]) = (&self.text.text, self.text.begins);
        push_time(out, self.at);
        out.extend_from_slice(&text[..object]);
        push_peer(out, Some(self.source.kind()), self.source.address(), self.source.uid());
        out.extend_from_slice(&text[object..token]);
        push_key(out, "expires_in");
        push_number(out, self.expires_in);
        out.extend_from_slice(&text[token..]);
        push_key(out, "request_id");
        push_text(out, &self.request_id);
    }
}
