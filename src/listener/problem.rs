//! Problem documents (RFC 9457). Every error answer in JSON is written here, an API's or not.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use super::{RequestId, Response, response};

/// A problem document. `M` are members that an API adds.
#[derive(Debug, Clone, Serialize)]
pub struct Problem<M = ()> {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    /// Stable: programs branch on it.
    pub code: &'static str,
    /// What happened. It is for people, like the title and the hint.
    pub detail: String,
    /// What the reader does next.
    pub hint: String,
    /// The API's members.
    #[serde(flatten)]
    pub more: M,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
}

impl<M: Default + Serialize> Problem<M> {
    /// Makes a problem without a hint.
    pub fn new(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Problem {
            kind: format!("urn:tokenward:problem:{code}"),
            title,
            status: status.as_u16(),
            code,
            detail: detail.into(),
            hint: String::new(),
            more: M::default(),
            request_id: None,
        }
    }

    /// Sets the hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Returns the status of its response.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Writes the document as text, on one line. The request's id lets a report of it be found in the log.
    pub fn text(mut self, request_id: &str) -> String {
        self.request_id = Some(request_id.to_owned());
        serde_json::to_string(&self).expect("a problem is plain JSON")
    }

    /// Writes the document as a response.
    pub fn document(self, request_id: &str) -> Response {
        let status = self.status();
        let body = Bytes::from(self.text(request_id));
        let mut response = response(status, "application/problem+json", body);
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// Makes a problem outside any API.
pub fn problem(
    status: StatusCode,
    code: &'static str,
    detail: &'static str,
    request_id: &RequestId,
) -> Response {
    let hint = match status {
        StatusCode::SERVICE_UNAVAILABLE => "try again after the time in Retry-After",
        status if status.is_server_error() => "report the request_id to the operator",
        _ => "correct the request; the same one will fail again",
    };
    let title = status.canonical_reason().unwrap_or("Error");
    <Problem>::new(status, code, title, detail).hint(hint).document(request_id.as_str())
}
