//! The app's registration at its authority: the checked configuration, and what it puts into requests. Pure.

use serde_json::{Value, json};

use super::config::{AuthorityConfig, AuthorityConfigError};
use super::failure::ours;
use crate::authority::clouds::{Provider, TenantPath, entra_authority_of, is_tenant_name};
use crate::authority::discovery::{DOCUMENT_PATH, Expected, Metadata};
use crate::authority::id_token::{Rules, UserTokenKind};
use crate::authority::url::CheckedUrl;
use crate::authority::wire::MAX_CLAIMS;
use crate::domain::clouds::{GRAPH, cloud_of};
use crate::domain::scope::{ScopeNaming, ScopeSet};
use crate::domain::time::Timestamp;
use crate::domain::verdict::{AuthorityFailure, Disposition};
use crate::jwt::json::Object;

/// An app's registration at its authority.
pub(super) struct Registration {
    pub(super) config: AuthorityConfig,
    pub(super) expected: Expected,
    pub(super) document_url: CheckedUrl,
    pub(super) naming: ScopeNaming,
    /// True if only one tenant's accounts can be connected.
    pub(super) one_tenant: bool,
    /// True if a used refresh token may be sent again.
    pub(super) may_replay: bool,
}

impl Registration {
    /// Checks the configuration.
    pub(super) fn new(config: AuthorityConfig) -> Result<Self, AuthorityConfigError> {
        let url = CheckedUrl::parse(&config.authority, true).map_err(AuthorityConfigError::Url)?;
        if url.has_query() {
            return Err(AuthorityConfigError::Query);
        }
        let odd = config.client_id.chars().find(|one| !matches!(one, ' '..='~'));
        if config.client_id.is_empty() || odd.is_some() {
            return Err(AuthorityConfigError::ClientId(odd));
        }
        let path = TenantPath::of(&url);
        let cloud = cloud_of(url.host());
        if let Some(own) = url.as_str().strip_suffix(DOCUMENT_PATH) {
            let of_entra = cloud.and_then(|_| entra_authority_of(&url));
            return Err(AuthorityConfigError::DocumentUrl(of_entra.unwrap_or_else(|| own.to_owned())));
        }
        // Guessed from the URL alone, since the names of scopes must be known before the network is used.
        let guessed = if cloud.is_some() || path.is_some() { Provider::Entra } else { Provider::OpenId };
        let provider = config.provider.unwrap_or(guessed);
        let tenant = match provider {
            Provider::Entra => {
                Some(path.ok_or_else(|| AuthorityConfigError::EntraPath(entra_authority_of(&url)))?)
            }
            Provider::OpenId => None,
        };
        let naming = match provider {
            Provider::Entra => {
                let graph = config.graph.as_deref().unwrap_or(cloud.map_or(GRAPH, |cloud| cloud.graph));
                let graph = CheckedUrl::parse(graph, false).map_err(AuthorityConfigError::Graph)?;
                ScopeNaming::Entra { graph: graph.as_str().trim_end_matches('/').to_owned() }
            }
            Provider::OpenId => ScopeNaming::Plain,
        };
        let one_tenant =
            config.tenants.only().is_some() || tenant.as_ref().is_some_and(TenantPath::is_one_tenant);
        let may_replay = config.refresh_token_reuse.unwrap_or(provider == Provider::Entra);
        let expected = Expected {
            authority: url,
            provider,
            provider_is_configured: config.provider.is_some(),
            tenant,
            endpoint_hosts: config.endpoint_hosts.clone(),
        };
        let document_url =
            CheckedUrl::parse(&expected.document_url(), true).map_err(AuthorityConfigError::Url)?;
        Ok(Registration { config, expected, document_url, naming, one_tenant, may_replay })
    }

    pub(super) fn provider(&self) -> Provider {
        self.expected.provider
    }

    /// Returns the scopes and the tenant of the app's own token request that proves a credential.
    ///
    /// At Entra the tenant is the app's own (`home_tenant`, or the authority's only one); elsewhere there is
    /// none.
    pub(super) fn proof_request(&self) -> Option<(ScopeSet, Option<&str>)> {
        match &self.expected.tenant {
            None => Some((ScopeSet::default(), None)),
            Some(_) => {
                let tenant = self.home_tenant()?;
                let ScopeNaming::Entra { graph } = &self.naming else { return None };
                let default = format!("{graph}/.default");
                Some((self.naming.scopes_lossy([default.as_str()]), Some(tenant)))
            }
        }
    }

    /// Returns the tenant in which the app is registered: `home_tenant`, or the authority's only one.
    pub(super) fn home_tenant(&self) -> Option<&str> {
        let path = self.expected.tenant.as_ref()?;
        let own = path.is_one_tenant().then(|| path.as_str());
        self.config.home_tenant.as_deref().or(own)
    }

    /// Returns true if only the operator can correct what is wrong in this tenant: it is the app's own, or
    /// the only one.
    pub(super) fn is_its_own(&self, tenant: Option<&str>) -> bool {
        let is_home = |tenant: &str| self.home_tenant().is_some_and(|home| home.eq_ignore_ascii_case(tenant));
        self.one_tenant || tenant.is_some_and(is_home)
    }

    /// Returns the token endpoint on another tenant's path. Only Entra has tenants in paths.
    pub(super) fn token_endpoint_of(
        &self,
        metadata: &Metadata,
        tenant: Option<&str>,
    ) -> Result<CheckedUrl, String> {
        let (Some(tenant), Some(path)) = (tenant, &self.expected.tenant) else {
            return Ok(metadata.token_endpoint.clone());
        };
        if !is_tenant_name(tenant) {
            return Err("the tenant is neither an id nor a domain".to_owned());
        }
        let endpoint = &metadata.token_endpoint;
        let origin = endpoint.origin();
        let rest = &endpoint.as_str()[origin.len()..];
        let after = rest.strip_prefix('/').and_then(|rest| rest.find('/').map(|at| &rest[at..]));
        let after = after
            .ok_or_else(|| format!("the token endpoint has no tenant ({}) in its path", path.as_str()))?;
        CheckedUrl::parse(&format!("{origin}/{tenant}{after}"), true)
            .map_err(|fault| format!("the endpoint {fault}"))
    }

    /// Returns the rules by which an `id_token` for the app is judged.
    pub(super) fn rules<'a>(
        &'a self,
        metadata: &'a Metadata,
        nonce: Option<&'a str>,
        access_token: Option<&'a str>,
        now: Timestamp,
    ) -> Rules<'a> {
        Rules {
            kind: UserTokenKind::IdToken,
            provider: self.provider(),
            metadata,
            client_id: &self.config.client_id,
            tenants: &self.config.tenants,
            nonce,
            access_token,
            now,
        }
    }

    /// Adds the scopes that a sign-in needs: for an `id_token`, and at Entra for the `oid` in it and a
    /// refresh token, none of which Entra issues unasked.
    pub(super) fn with_sign_in(&self, scopes: &ScopeSet) -> ScopeSet {
        let more: &[&str] = match self.provider() {
            Provider::Entra => &["openid", "profile", "offline_access"],
            Provider::OpenId => &["openid"],
        };
        scopes.iter().cloned().chain(self.naming.scopes_lossy(more.iter().copied()).iter().cloned()).collect()
    }

    /// Returns true if a token that may be under continuous access evaluation is asked for as one.
    pub(super) fn is_cae(&self, may_be: bool) -> bool {
        may_be && self.config.continuous_access_evaluation
    }

    /// Returns a claims request, with our declaration of continuous access evaluation for a token under it.
    pub(super) fn claims(
        &self,
        doing: &'static str,
        challenge: Option<&str>,
        cae: bool,
    ) -> Result<Option<String>, AuthorityFailure> {
        let mut claims = match challenge {
            None => Value::Object(serde_json::Map::new()),
            Some(text) => {
                let object =
                    (text.len() <= MAX_CLAIMS).then(|| Object::parse(text.as_bytes()).ok()).flatten();
                let object = object.ok_or_else(|| {
                    let cause =
                        format!("the claims challenge is not a JSON object of at most {MAX_CLAIMS} bytes");
                    ours(doing, Disposition::CallerFault, cause)
                })?;
                Value::Object(object.0.clone())
            }
        };
        if cae {
            let declared = json!({ "values": ["cp1"] });
            match claims.get_mut("access_token") {
                Some(Value::Object(access_token)) => {
                    access_token.insert("xms_cc".to_owned(), declared);
                }
                _ => claims["access_token"] = json!({ "xms_cc": declared }),
            }
        } else if challenge.is_none() {
            return Ok(None);
        }
        Ok(Some(claims.to_string()))
    }
}
