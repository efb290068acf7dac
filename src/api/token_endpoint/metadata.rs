//! The metadata of the token endpoint (RFC 8414).

use serde::Serialize;

use super::request::{CLIENT_CREDENTIALS, TOKEN_EXCHANGE};
use crate::domain::auth_method::{AuthMethod, AuthMethods};
use crate::jwt::keys::Algorithm;

/// The path of the token endpoint.
pub(in crate::api) const TOKEN_ENDPOINT: &str = "/oauth2/token";
/// The path of the metadata.
pub(in crate::api) const PATH: &str = "/.well-known/oauth-authorization-server";

/// What a client may find out about the token endpoint.
#[derive(Debug, Serialize)]
pub(in crate::api) struct Metadata<'a> {
    issuer: &'a str,
    token_endpoint: String,
    token_endpoint_auth_methods_supported: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    token_endpoint_auth_signing_alg_values_supported: Vec<&'static str>,
    grant_types_supported: &'static [&'static str],
    /// There is no authorization endpoint, but RFC 8414 §2 wants the member and §3.2 forbids an empty list.
    response_types_supported: [&'static str; 1],
}

impl<'a> Metadata<'a> {
    /// Makes the metadata of this issuer, at a listener that accepts these methods.
    pub(in crate::api) fn of(issuer: &'a str, accepted: AuthMethods) -> Self {
        let signs = accepted.contains(AuthMethod::ClientAssertion);
        let algorithms = Algorithm::ALL.into_iter().filter(|_| signs).map(Algorithm::as_str);
        Metadata {
            issuer,
            token_endpoint: format!("{}{TOKEN_ENDPOINT}", issuer.trim_end_matches('/')),
            token_endpoint_auth_methods_supported: methods(accepted),
            token_endpoint_auth_signing_alg_values_supported: algorithms.collect(),
            grant_types_supported: &[TOKEN_EXCHANGE, CLIENT_CREDENTIALS],
            response_types_supported: ["none"],
        }
    }
}

/// How clients can authenticate there, by the names of IANA's registry. A Unix user needs nothing, which is
/// said only where nothing else counts.
fn methods(accepted: AuthMethods) -> Vec<&'static str> {
    let by_certificate = accepted.iter().any(AuthMethod::needs_certificate);
    let all = [
        ("client_secret_basic", accepted.contains(AuthMethod::ApiKeys)),
        ("client_secret_post", accepted.contains(AuthMethod::ApiKeys)),
        ("private_key_jwt", accepted.contains(AuthMethod::ClientAssertion)),
        ("tls_client_auth", by_certificate),
    ];
    let mut methods: Vec<&str> =
        all.into_iter().filter(|(_, counts)| *counts).map(|(name, _)| name).collect();
    if methods.is_empty() {
        methods.push("none");
    }
    methods
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_names_the_methods_that_count_there() {
        use AuthMethod::{ApiKeys, ClientAssertion, Jwt, San, Spiffe, UnixUser};
        let secret = ["client_secret_basic", "client_secret_post"];
        for (accepted, expected) in [
            (&[UnixUser, ApiKeys, Jwt, ClientAssertion][..], &[secret[0], secret[1], "private_key_jwt"][..]),
            (&[ApiKeys], &secret),
            (&[ClientAssertion], &["private_key_jwt"]),
            (&[Spiffe], &["tls_client_auth"]),
            (&[San, ApiKeys], &[secret[0], secret[1], "tls_client_auth"]),
            (&[UnixUser], &["none"]),
            (&[Jwt], &["none"]),
        ] {
            let metadata = Metadata::of("https://a.example", accepted.iter().copied().collect());
            assert_eq!(metadata.token_endpoint_auth_methods_supported, expected, "{accepted:?}");
            // RFC 8414 section 2 wants them beside `private_key_jwt`, and `none` must not be one of them.
            let algorithms = metadata.token_endpoint_auth_signing_alg_values_supported;
            assert_eq!(algorithms.is_empty(), !expected.contains(&"private_key_jwt"));
            assert!(algorithms.is_empty() || algorithms.starts_with(&["RS256"]), "{algorithms:?}");
            assert!(algorithms.iter().all(|name| !name.starts_with("HS") && *name != "none"));
        }
    }
}
