//! An app's client credentials, as the use cases need them: a port, and the authority's client behind it.

use std::sync::Arc;

use async_trait::async_trait;

use super::client::OpenIdAuthority;
use super::credential_set::CredentialSet;
use crate::domain::verdict::AuthorityFailure;

/// An app's client credentials, and the authority that can be asked about them.
#[async_trait]
pub trait ClientCredentials: Send + Sync {
    /// Those of now, with what is known of each.
    fn credentials(&self) -> Arc<CredentialSet>;

    /// Checks each credential that is due. Returns true if the authority accepts one now and accepted none
    /// before.
    async fn prove_due(&self) -> bool;

    /// Checks one credential, trusted or not. `Ok` if the authority accepted it; `None` if none has this
    /// label.
    async fn prove(&self, label: &str) -> Option<Result<(), AuthorityFailure>>;

    /// Checks that `host` is where this app's secrets are to go, for an operator who confirms it. `Err` says
    /// what is wrong.
    async fn check_token_host(&self, host: &str) -> Result<(), String>;

    /// Returns the host of the app's token endpoint if a credential is held back from it, because it belongs
    /// to another.
    fn unconfirmed_host(&self) -> Option<String>;
}

#[async_trait]
impl ClientCredentials for OpenIdAuthority {
    fn credentials(&self) -> Arc<CredentialSet> {
        OpenIdAuthority::credentials(self)
    }

    async fn prove_due(&self) -> bool {
        self.prove_credentials().await
    }

    async fn prove(&self, label: &str) -> Option<Result<(), AuthorityFailure>> {
        self.prove_credential(label).await
    }

    async fn check_token_host(&self, host: &str) -> Result<(), String> {
        self.is_token_host(host).await
    }

    fn unconfirmed_host(&self) -> Option<String> {
        OpenIdAuthority::unconfirmed_host(self)
    }
}
