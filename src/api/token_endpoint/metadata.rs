//! The metadata of the token endpoint (RFC 8414).

use serde::Serialize;

use super::request::TOKEN_EXCHANGE;

/// The path of the token endpoint.
pub(in crate::api) const TOKEN_ENDPOINT: &str = "/oauth2/token";
/// The path of the metadata.
pub(in crate::api) const PATH: &str = "/.well-known/oauth-authorization-server";

/// What a client may find out about the token endpoint.
#[derive(Debug, Serialize)]
pub(in crate::api) struct Metadata<'a> {
    issuer: &'a str,
    token_endpoint: String,
    token_endpoint_auth_methods_supported: &'static [&'static str],
    grant_types_supported: &'static [&'static str],
    /// There is no authorization endpoint, but RFC 8414 §2 wants the member and §3.2 forbids an empty list.
    response_types_supported: [&'static str; 1],
}

impl<'a> Metadata<'a> {
    /// Makes the metadata of this issuer.
    pub(in crate::api) fn of(issuer: &'a str) -> Self {
        Metadata {
            issuer,
            token_endpoint: format!("{}{TOKEN_ENDPOINT}", issuer.trim_end_matches('/')),
            token_endpoint_auth_methods_supported: &["client_secret_basic", "client_secret_post"],
            grant_types_supported: &[TOKEN_EXCHANGE],
            response_types_supported: ["none"],
        }
    }
}
