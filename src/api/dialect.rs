//! The dialects of the local API: the wire forms that callers speak. A request's path decides its dialect.
//! The dialect decides where the credential stands, how an error is written, and the word in metrics.

mod managed_identity;
mod token_endpoint;
mod vault;

pub(super) use self::token_endpoint::tell_not_to_store;
use super::problem::Problem;
use super::relayed::Split;
use crate::callers::Credential;
use crate::events::NATIVE;
use crate::listener::{Fields, Peer, Response};

/// A wire form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// tokenward's own: bearer credentials and problem documents (RFC 9457).
    Native,
    /// App Service's managed identity.
    ManagedIdentity,
    /// The OAuth token endpoint (RFC 6749, RFC 8693).
    TokenEndpoint,
    /// The native one, as a stream of server-sent events.
    Watch,
    /// Vault's, and OpenBao's, with the paths of their OAuth plugin.
    Vault,
    /// The native one, for requests that are relayed.
    Relay,
}

impl Dialect {
    /// Returns the dialect of a path, as it was sent or as the table spells it. Misspelt paths below a
    /// dialect's own are its own, too: its clients understand no other form of an error.
    pub(super) fn of(path: &str) -> Self {
        let below =
            |own: &str| path.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if Split::of(path).is_some() {
            Dialect::Relay
        } else if path.starts_with("/v1/apps/") && path.ends_with("/token/watch") {
            Dialect::Watch
        } else if below("/msi") || (path.starts_with("/v1/apps/") && path.ends_with("/msi/token")) {
            Dialect::ManagedIdentity
        } else if below("/oauth2") {
            Dialect::TokenEndpoint
        } else if below("/v1/sys") || below("/v1/auth") || is_below_creds(path) {
            Dialect::Vault
        } else {
            Dialect::Native
        }
    }

    /// Returns the form of a refusal. A client of managed identity that has another address than its own,
    /// such as `…/token` or `…/msi/token/`, is refused in the form that it understands: one takes any other
    /// for a token. Its credential still counts on its own paths only.
    pub(super) fn form_for(self, headers: &impl Fields) -> Self {
        let is_of_identity = managed_identity::KEYS.iter().any(|name| headers.has(name));
        match self {
            Dialect::Native if is_of_identity && !headers.has("authorization") => Dialect::ManagedIdentity,
            dialect => dialect,
        }
    }

    /// Returns its word in metrics and in the audit log.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Dialect::Native => NATIVE,
            Dialect::Watch => "watch",
            Dialect::ManagedIdentity => "msi",
            Dialect::TokenEndpoint => "oauth2",
            Dialect::Vault => "vault",
            Dialect::Relay => "relay",
        }
    }

    /// Returns the name of its credential in the document's components; `None` for the document's own.
    #[cfg(test)]
    pub(super) const fn security_scheme(self) -> Option<&'static str> {
        match self {
            Dialect::Native | Dialect::Watch | Dialect::Relay => None,
            Dialect::ManagedIdentity => Some("identityHeader"),
            Dialect::TokenEndpoint => Some("clientSecretBasic"),
            Dialect::Vault => Some("vaultToken"),
        }
    }

    /// Returns the name of its refusals in the document's components; `None` if each has its own.
    #[cfg(test)]
    pub(super) const fn refusal_schema(self) -> Option<&'static str> {
        match self {
            Dialect::Native | Dialect::Watch | Dialect::Relay => None,
            Dialect::ManagedIdentity => Some("ManagedIdentityRefusal"),
            Dialect::TokenEndpoint => Some("TokenEndpointRefusal"),
            Dialect::Vault => Some("VaultRefusal"),
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
    pub(super) fn credential<'a>(self, headers: &'a impl Fields, peer: &'a Peer) -> Option<Credential<'a>> {
        match self {
            Dialect::Native | Dialect::Watch | Dialect::Relay => super::credential(headers, peer),
            Dialect::ManagedIdentity => managed_identity::credential(headers, peer),
            Dialect::TokenEndpoint => None,
            Dialect::Vault => vault::credential(headers, peer),
        }
    }

    /// Writes a refusal in its form.
    pub(super) fn refusal(self, problem: Problem, request_id: &str) -> Response {
        match self {
            Dialect::Native | Dialect::Watch | Dialect::Relay => problem.response(request_id),
            Dialect::ManagedIdentity => managed_identity::refusal(&problem, request_id),
            Dialect::TokenEndpoint => token_endpoint::refusal(&problem, request_id),
            Dialect::Vault => vault::refusal(&problem),
        }
    }
}

/// Returns true for `/v1/{mount}/creds` and what is below it. A mount may have slashes.
pub(super) fn is_below_creds(path: &str) -> bool {
    let mut parts = path.strip_prefix("/v1/").into_iter().flat_map(|rest| rest.split('/'));
    let is_native = |first: &str| OURS.contains(&first);
    parts.next().is_some_and(|first| !is_native(first)) && parts.any(|part| part == "creds")
}

/// The words with which our own paths begin, behind `/v1/`. (A test holds them against the table.)
pub(super) const OURS: [&str; 4] = ["admin-consent-sessions", "apps", "connect-sessions", "events"];

/// Returns a header that may stand there once. The outer `None` means that it stands there twice.
fn only<'h>(headers: &'h impl Fields, name: &'static str) -> Option<Option<&'h [u8]>> {
    let mut values = headers.values(name);
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
            ("/v1/apps/{app}/connections/{connection}/token/watch", Dialect::Watch),
            ("/v1/apps/outlook/connections/team%2Fa/token/watch", Dialect::Watch),
            ("/token/watch", Dialect::Native),
            ("/oauth2/token", Dialect::TokenEndpoint),
            ("/oauth2/tokens", Dialect::TokenEndpoint),
            ("/oauth2token", Dialect::Native),
            ("/v1/connect-sessions", Dialect::Native),
            ("/v1/outlook/creds/team/a", Dialect::Vault),
            ("/v1/{mount}/creds/{connection}", Dialect::Vault),
            ("/v1/outlook/creds", Dialect::Vault),
            ("/v1/outlook/credsx", Dialect::Native),
            ("/v1/team/outlook/creds/a", Dialect::Vault),
            ("/v1/team%2Foutlook/creds/a", Dialect::Vault),
            ("/v1/creds/a", Dialect::Native),
            ("/v1/apps/outlook/connections/creds/a", Dialect::Native),
            ("/v1/connect-sessions/a/creds", Dialect::Native),
            ("/v1/apps/creds/a", Dialect::Native),
            ("/v1/sys/health", Dialect::Vault),
            ("/v1/auth/token/lookup-self", Dialect::Vault),
            ("/v1/system", Dialect::Native),
            ("/v1/apps/a/connections/c/relay/graph/v1.0/me", Dialect::Relay),
            ("/v1/apps/a/connections/c/relay/graph/msi/token", Dialect::Relay),
            ("/v1/apps/a/connections/c/relay/graph/token/watch", Dialect::Relay),
        ] {
            assert_eq!(Dialect::of(path), dialect, "{path}");
        }
    }
}
