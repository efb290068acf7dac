//! The form of Vault and OpenBao. <https://developer.hashicorp.com/vault/api-docs>

use http::StatusCode;
use serde::Serialize;

use super::only;
use crate::api::problem::{Problem, json};
use crate::api::text_of;
use crate::callers::Credential;
use crate::listener::{Fields, Peer, Response};

/// The header with the caller's API key; clients take it from `VAULT_TOKEN`.
const VAULT_TOKEN: &str = "x-vault-token";

/// The longest wait that a client is told, in seconds.
const LONGEST_WAIT: u64 = 60;

/// A refusal. What is not there has no words.
#[derive(Serialize)]
struct Refusal {
    errors: Vec<String>,
}

/// Reads the credential. `X-Vault-Token` decides alone; without it a bearer credential or the peer does.
pub(super) fn credential<'a>(headers: &'a impl Fields, peer: &'a Peer) -> Option<Credential<'a>> {
    match only(headers, VAULT_TOKEN)? {
        Some(key) => Some(Credential::ApiKey(text_of(key)?)),
        None => crate::api::credential(headers, peer),
    }
}

/// Writes a refusal.
pub(super) fn refusal(problem: &Problem) -> Response {
    let words = match problem.hint.as_str() {
        "" => problem.detail.clone(),
        hint => format!("{}: {}; {hint}", problem.code, problem.detail),
    };
    let (status, errors) = match problem.status() {
        // Vault has no 401.
        StatusCode::UNAUTHORIZED => (StatusCode::FORBIDDEN, vec!["permission denied".to_owned()]),
        StatusCode::NOT_FOUND => (StatusCode::NOT_FOUND, Vec::new()),
        // The plugin's status of a credential that has no token to give.
        StatusCode::CONFLICT => (StatusCode::BAD_REQUEST, vec![words]),
        status => (status, vec![words]),
    };
    let mut response = json(status, &Refusal { errors });
    problem.tell_headers(response.headers_mut(), LONGEST_WAIT);
    response
}
