//! Tokens for the app itself (RFC 6749 §4.4).

use std::sync::Arc;
use std::time::Duration;

use super::OpenIdAuthority;
use super::answered::Tokens;
use super::failure::ours;
use super::token_call::{TokenCall, plain};
use crate::authority::classify::Asked;
use crate::authority::credential_set::Member;
use crate::domain::scope::ScopeSet;
use crate::domain::secret::AccessToken;
use crate::domain::time::Timestamp;
use crate::domain::verdict::{AuthorityFailure, Disposition};

/// A token for the app itself (RFC 6749 §4.4).
pub struct ClientToken {
    /// The access token, which is opaque.
    pub access_token: AccessToken,
    /// When the request began: its life counts from here.
    pub requested_at: Timestamp,
    /// Its life.
    pub expires_in: Duration,
}

impl OpenIdAuthority {
    /// Requests a token for the app itself, from `tenant` (a tenant's id or domain) if this is an Entra
    /// authority for several tenants.
    pub async fn client_credentials(
        &self,
        scopes: &ScopeSet,
        tenant: Option<&str>,
    ) -> Result<ClientToken, AuthorityFailure> {
        self.client_token(scopes, tenant, self.credentials().candidates(self.parts.clock.now()), true).await
    }

    pub(super) async fn client_token(
        &self,
        scopes: &ScopeSet,
        tenant: Option<&str>,
        candidates: Vec<Arc<Member>>,
        is_use: bool,
    ) -> Result<ClientToken, AuthorityFailure> {
        let doing = "getting a token of the app's own";
        let metadata = self.documents.metadata(doing).await?;
        let endpoint = self
            .app
            .token_endpoint_of(&metadata, tenant)
            .map_err(|cause| ours(doing, Disposition::CallerFault, cause))?;
        let mut fields = vec![("grant_type", plain("client_credentials"))];
        if !scopes.is_empty() {
            fields.push(("scope", plain(scopes.wire())));
        }
        let tenant = tenant.map(str::to_owned);
        let asked = Asked::ClientCredentials;
        let call = TokenCall { doing, asked, endpoint, fields, candidates, is_use, tenant, account: None };
        let Tokens { success, requested_at, .. } = self.token_call(&metadata, call).await?.usable(doing)?;
        Ok(ClientToken { access_token: success.access_token, requested_at, expires_in: success.expires_in })
    }
}
