//! An app's client credentials, as the use cases look after them: a port, and the authority's client behind it.

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

    /// Asks about each that it is time to ask about. True when the authority takes one now, and took none before.
    async fn prove_due(&self) -> bool;

    /// Asks about one, trusted or not. `Ok` when the authority took it; `None` where there is none of this label.
    async fn prove(&self, label: &str) -> Option<Result<(), AuthorityFailure>>;

    /// Whether `host` is where this app's secrets go, for an operator who says that it is right. `Err` says what is not.
    async fn check_token_host(&self, host: &str) -> Result<(), String>;
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
}
