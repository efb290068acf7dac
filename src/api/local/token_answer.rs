//! The native API's answer with a token. What is the same each time a token is handed out is prepared once;
//! an answer writes the rest between.

use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use super::entity_tag;
use crate::api::problem::json_bytes;
use crate::api::shapes::AccountShape;
use crate::domain::id::ConnectionKey;
use crate::domain::json_text::{push_number, push_text};
use crate::domain::time::Timestamp;
use crate::listener::Response;
use crate::refresh::Served;

/// What is prepared of a token's answer.
pub(super) struct TokenAnswer {
    /// The member between the two numbers, with its commas.
    expires_at: String,
    /// The members behind the numbers, with a comma in front, and the end.
    rest: String,
    /// What tells it from the answers before it.
    pub(super) tag: String,
    header: HeaderValue,
    /// The head's lines that only an answer with this token has.
    line: String,
}

/// The members behind the numbers.
#[derive(Serialize)]
struct Rest<'a> {
    scope: &'a str,
    connection: &'a str,
    account: AccountShape,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

impl TokenAnswer {
    /// Prepares the answer with this token of the connection.
    pub(super) fn new(key: &ConnectionKey, served: &Served) -> Self {
        let (token, profile) = (served.token(), &served.held.connection.profile);
        let (status, reason) = (profile.status().as_str(), profile.status().reason());
        let scope = token.scopes.join(" ");
        let tag = entity_tag::opaque(&[&token.digest, status, reason.unwrap_or_default(), &scope]);
        let rest = Rest {
            scope: &scope,
            connection: key.connection.as_str(),
            account: profile.account().into(),
            status,
            reason,
        };
        let rest = serde_json::to_string(&rest).expect("plain JSON");
        TokenAnswer {
            expires_at: format!(",\"expires_at\":\"{}\"", token.expires_at.rfc3339()),
            rest: format!(",{}", rest.trim_start_matches('{')),
            header: entity_tag::header(&tag),
            line: format!("etag: W/\"{tag}\"\r\n"),
            tag,
        }
    }

    /// Writes the JSON of the answer as it is at `now`.
    pub(super) fn text(&self, served: &Served, life: Duration, now: Timestamp) -> Vec<u8> {
        let token = served.token();
        let (secret, numbers) = (token.access_token.expose(), 128);
        let length = secret.len() + self.expires_at.len() + self.rest.len() + numbers;
        // It never grows, so no copy of the token is left behind.
        let mut out = Vec::with_capacity(length);
        out.extend_from_slice(b"{\"access_token\":");
        push_text(&mut out, secret);
        out.extend_from_slice(b",\"token_type\":\"Bearer\",\"expires_in\":");
        push_number(&mut out, life.as_secs());
        out.extend_from_slice(self.expires_at.as_bytes());
        if let Some(at) = token.refresh_at {
            out.extend_from_slice(b",\"refresh_in\":");
            push_number(&mut out, at.since(now).as_secs());
        }
        out.extend_from_slice(self.rest.as_bytes());
        out
    }

    /// The head's lines that only an answer with this token has.
    pub(super) fn line(&self) -> &str {
        &self.line
    }

    /// Makes the answer.
    pub(super) fn response(&self, served: &Served, life: Duration, now: Timestamp) -> Response {
        let mut response = json_bytes(StatusCode::OK, self.text(served, life, now));
        response.headers_mut().insert(header::ETAG, self.header.clone());
        response
    }
}
