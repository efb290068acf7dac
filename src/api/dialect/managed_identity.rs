//! The form of App Service's managed identity.
//! <https://learn.microsoft.com/azure/app-service/overview-managed-identity#rest-endpoint-reference>

use http::{HeaderMap, StatusCode};
use serde::Serialize;

use super::only;
use crate::api::credential_of_peer;
use crate::api::problem::{Problem, json};
use crate::callers::Credential;
use crate::listener::{Peer, Response};

/// The header with the caller's API key; clients take it from `IDENTITY_HEADER`.
const IDENTITY_HEADER: &str = "x-identity-header";

/// The longest wait that a client is told, in seconds: Python and Rust obey without a limit of their own.
const LONGEST_WAIT: u64 = 5;

/// A refusal. Each client shows its user other members, and one takes a body without `message` and `error`
/// for an empty token.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Refusal<'a> {
    status_code: u16,
    message: &'a str,
    correlation_id: &'a str,
    error: &'a str,
    #[serde(rename = "error_description")]
    error_description: &'a str,
}

/// Reads the credential.
pub(super) fn credential<'a>(headers: &'a HeaderMap, peer: &'a Peer) -> Option<Credential<'a>> {
    let key = only(headers, IDENTITY_HEADER)?.map(|value| value.to_str()).transpose().ok()?;
    Some(key.map_or_else(|| credential_of_peer(peer), Credential::ApiKey))
}

/// Writes a refusal.
pub(super) fn refusal(problem: &Problem, request_id: &str) -> Response {
    let message = match problem.hint.as_str() {
        "" => problem.detail.clone(),
        hint => format!("{}; {hint}", problem.detail),
    };
    let status = status(problem);
    let body = Refusal {
        status_code: status.as_u16(),
        message: &message,
        correlation_id: request_id,
        error: problem.code,
        error_description: &message,
    };
    let mut response = json(status, &body);
    problem.tell_headers(response.headers_mut(), LONGEST_WAIT);
    response
}

/// Returns the status for these clients. A connection that has no token to give is 403: two of them ask again
/// and again after 404 and 410, and one drops the body of a 400.
fn status(problem: &Problem) -> StatusCode {
    match (problem.status(), problem.code) {
        (StatusCode::NOT_FOUND, "app_not_found" | "connection_not_found") | (StatusCode::CONFLICT, _) => {
            StatusCode::FORBIDDEN
        }
        (status, _) => status,
    }
}
