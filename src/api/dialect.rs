//! The dialects of the local API: the wire forms that callers speak. A request's path decides its dialect.
//! The dialect decides where the credential stands, how an error is written, and the word in metrics.

mod managed_identity;
mod token_endpoint;

use http::{HeaderMap, HeaderValue};

pub(super) use self::token_endpoint::tell_not_to_store;
use super::problem::Problem;
use crate::callers::Credential;
use crate::events::NATIVE;
use crate::listener::{Peer, Response};

/// A wire form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// tokenward's own: bearer credentials and problem documents (RFC 9457).
    Native,
    /// App Service's managed identity.
    ManagedIdentity,
    /// The OAuth token endpoint (RFC 6749, RFC 8693).
    TokenEndpoint,
}

impl Dialect {
    /// Returns the dialect of a path, as it was sent or as the table spells it. Misspelt paths below a
    /// dialect's own are its own, too: its clients understand no other form of an error.
    pub(super) fn of(path: &str) -> Self {
        let below =
            |own: &str| path.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if below("/msi") || (path.starts_with("/v1/apps/") && path.ends_with("/msi/token")) {
            Dialect::ManagedIdentity
        } else if below("/oauth2") {
            Dialect::TokenEndpoint
        } else {
            Dialect::Native
        }
    }

    /// Returns its word in metrics and in the audit log.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Dialect::Native => NATIVE,
            Dialect::ManagedIdentity => "msi",
            Dialect::TokenEndpoint => "oauth2",
        }
    }

    /// Returns the name of its credential in the document's components; `None` for the document's own.
    #[cfg(test)]
    pub(super) const fn security_scheme(self) -> Option<&'static str> {
        match self {
            Dialect::Native => None,
            Dialect::ManagedIdentity => Some("identityHeader"),
            Dialect::TokenEndpoint => Some("clientSecretBasic"),
        }
    }

    /// Returns the name of its refusals in the document's components; `None` if each has its own.
    #[cfg(test)]
    pub(super) const fn refusal_schema(self) -> Option<&'static str> {
        match self {
            Dialect::Native => None,
            Dialect::ManagedIdentity => Some("ManagedIdentityRefusal"),
            Dialect::TokenEndpoint => Some("TokenEndpointRefusal"),
        }
    }

    /// Returns true if a refusal may have this status.
    #[cfg(test)]
    pub(super) const fn answers(self, status: u16) -> bool {
        match self {
            Dialect::ManagedIdentity => status != 400,
            _ => true,
        }
    }

    /// Returns the credential that a request carries: its header's, which then decides alone, otherwise the
    /// peer's. `None` if a header is there and is not what it should be. The token endpoint's may stand in
    /// the body, so it is read there (`LocalApi::client`).
    pub(super) fn credential<'a>(self, headers: &'a HeaderMap, peer: &'a Peer) -> Option<Credential<'a>> {
        match self {
            Dialect::Native => super::credential(headers, peer),
            Dialect::ManagedIdentity => managed_identity::credential(headers, peer),
            Dialect::TokenEndpoint => None,
        }
    }

    /// Writes a refusal in its form.
    pub(super) fn refusal(self, problem: Problem, request_id: &str) -> Response {
        match self {
            Dialect::Native => problem.response(request_id),
            Dialect::ManagedIdentity => managed_identity::refusal(&problem, request_id),
            Dialect::TokenEndpoint => token_endpoint::refusal(&problem, request_id),
        }
    }
}

/// Returns a header that may stand there once. The outer `None` means that it stands there twice.
fn only<'h>(headers: &'h HeaderMap, name: &str) -> Option<Option<&'h HeaderValue>> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Some(value),
        (_, Some(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_decides_the_dialect() {
        for (path, dialect) in [
            ("/msi/token", Dialect::ManagedIdentity),
            ("/msi/token/", Dialect::ManagedIdentity),
            ("/msi", Dialect::ManagedIdentity),
            ("/msix", Dialect::Native),
            ("/v1/apps/outlook/connections/team%2Fa/msi/token", Dialect::ManagedIdentity),
            ("/v1/apps/{app}/connections/{connection}/msi/token", Dialect::ManagedIdentity),
            ("/v1/apps/{app}/connections/{connection}/token", Dialect::Native),
            ("/oauth2/token", Dialect::TokenEndpoint),
            ("/oauth2/tokens", Dialect::TokenEndpoint),
            ("/oauth2token", Dialect::Native),
            ("/v1/connect-sessions", Dialect::Native),
        ] {
            assert_eq!(Dialect::of(path), dialect, "{path}");
        }
    }
}
