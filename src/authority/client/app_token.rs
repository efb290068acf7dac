//! Tokens for the app itself (RFC 6749 §4.4).

use std::sync::Arc;

use super::OpenIdAuthority;
use super::failure::ours;
use super::token_call::{TokenCall, plain};
use crate::authority::classify::Asked;
use crate::authority::clouds::Provider;
use crate::authority::credential_set::Member;
use crate::authority::{AppTokenRequest, TokenAnswer};
use crate::domain::app_only::AppResource;
use crate::domain::scope::ScopeSet;
use crate::domain::verdict::{AuthorityFailure, Disposition};

impl OpenIdAuthority {
    /// Requests a token of the app itself. At Entra it comes from the tenant's token endpoint and is for all
    /// that the app may do with the resource there (`/.default`). Elsewhere there is one token endpoint, and
    /// a resource is named as in RFC 8707.
    pub(super) async fn get_app_token(
        &self,
        request: AppTokenRequest<'_>,
    ) -> Result<TokenAnswer, AuthorityFailure> {
        let AppTokenRequest { tenant, resource } = request;
        let (scopes, indicator) = match self.provider() {
            Provider::Entra => {
                let scope = resource.map(AppResource::default_scope);
                (self.app.naming.scopes_lossy(scope.as_deref()), None)
            }
            Provider::OpenId => (ScopeSet::default(), resource.map(AppResource::as_str)),
        };
        let wanted = Wanted { scopes, resource: indicator, tenant };
        self.client_token(wanted, self.credentials().candidates(self.parts.clock.now()), true).await
    }

    pub(super) async fn client_token(
        &self,
        wanted: Wanted<'_>,
        candidates: Vec<Arc<Member>>,
        is_use: bool,
    ) -> Result<TokenAnswer, AuthorityFailure> {
        let Wanted { scopes, resource, tenant } = wanted;
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
        if let Some(resource) = resource {
            fields.push(("resource", plain(resource)));
        }
        let tenant = tenant.map(str::to_owned);
        let asked = Asked::ClientCredentials;
        let call = TokenCall { doing, asked, endpoint, fields, candidates, is_use, tenant, account: None };
        let tokens = self.token_call(&metadata, call).await?.usable(doing)?;
        // No capability is declared, so resources send no challenge.
        Ok(tokens.answer(None, Vec::new(), &scopes, &self.app.config, false))
    }
}

/// What a token of the app's own is to be for.
pub(super) struct Wanted<'a> {
    pub(super) scopes: ScopeSet,
    /// RFC 8707's `resource`.
    pub(super) resource: Option<&'a str>,
    /// At Entra the tenant, by its id or domain; `None` for the one of the authority's URL.
    pub(super) tenant: Option<&'a str>,
}
