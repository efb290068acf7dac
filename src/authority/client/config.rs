//! The configuration of one app's authority, and its mistakes.

use std::sync::Arc;
use std::time::Duration;

use crate::authority::client_auth::{AssertionAudience, SecretMethod};
use crate::authority::clouds::Provider;
use crate::authority::observer::AuthorityObserver;
use crate::authority::token_hosts::AppHosts;
use crate::authority::url::UrlFault;
use crate::domain::random::Random;
use crate::domain::tenants::Tenants;
use crate::domain::time::Clock;
use crate::outbound::Outbound;
use crate::outbound::{Roots, RootsFault};

/// How an authority returns the code to the browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResponseMode {
    /// In the callback's query.
    #[default]
    Query,
    /// In a form that the browser posts to the callback.
    FormPost,
}

/// Configuration of one app's authority.
#[derive(Debug, Clone, PartialEq)]
pub struct AuthorityConfig {
    /// The authority's URL; for providers other than Entra it is exactly the issuer.
    pub authority: String,
    /// Kind of authority; `None` detects it from the URL, which the discovery document must not contradict.
    pub provider: Option<Provider>,
    /// The app's id at the authority.
    pub client_id: String,
    /// At Entra: the accounts that may be connected.
    pub tenants: Tenants,
    /// At Entra: the Microsoft Graph that bare scopes belong to, such as `https://dod-graph.microsoft.us`,
    /// whose login host serves another Graph too; `None` means the login host's own.
    pub graph: Option<String>,
    /// Hosts (`host` or `host:port`) of the authority's endpoints besides its own. `None` allows the cloud's
    /// hosts for Entra, and every public host over `https` for others. A list, even an empty one, allows
    /// nothing else, except an Entra cloud's own hosts.
    pub endpoint_hosts: Option<Vec<String>>,
    /// CA certificates to trust for TLS.
    pub roots: Roots,
    /// The way of outgoing requests.
    pub outbound: Arc<Outbound>,
    /// Longest exchange, from name resolution to the last byte.
    pub timeout: Duration,
    /// At Entra: the tenant in which the app is registered, for tokens of its own.
    pub home_tenant: Option<String>,
    /// The provider ends the old access token at each refresh, so the answers are to be renewed at their end.
    pub refresh_ends_tokens: bool,
    /// Request tokens under continuous access evaluation (`cp1`), which live for a day.
    pub continuous_access_evaluation: bool,
    /// Client authentication method for a secret; `None` follows the discovery document.
    pub token_endpoint_auth_method: Option<SecretMethod>,
    /// Audience of signed assertions.
    pub assertion_audience: AssertionAudience,
    /// Whether a used refresh token may be sent again; `None` means yes for Entra, as documented, and no for
    /// others.
    pub refresh_token_reuse: Option<bool>,
    /// How the code is returned.
    pub response_mode: ResponseMode,
}

impl AuthorityConfig {
    /// Makes the defaults for an app at an authority: every work or school tenant, the system's CA
    /// certificates, ten seconds.
    pub fn new(authority: impl Into<String>, client_id: impl Into<String>) -> Self {
        AuthorityConfig {
            authority: authority.into(),
            provider: None,
            client_id: client_id.into(),
            tenants: Tenants::any_organization(),
            graph: None,
            endpoint_hosts: None,
            roots: Roots::System,
            outbound: Arc::default(),
            timeout: Duration::from_secs(10),
            home_tenant: None,
            refresh_ends_tokens: false,
            continuous_access_evaluation: false,
            token_endpoint_auth_method: None,
            assertion_audience: AssertionAudience::default(),
            refresh_token_reuse: None,
            response_mode: ResponseMode::Query,
        }
    }
}

/// Mistake in an [`AuthorityConfig`].
#[derive(Debug, thiserror::Error)]
pub enum AuthorityConfigError {
    /// The authority's URL is wrong.
    #[error("the authority's URL {0}")]
    Url(#[source] UrlFault),
    /// An Entra authority must be `{origin}/{tenant}/v2.0`. Holds the probable one.
    #[error(
        "an Entra authority ends in /common/v2.0, /organizations/v2.0, /consumers/v2.0 or /{{tenant}}/v2.0, \
        where {{tenant}} is the tenant's id or one of its domains, such as contoso.onmicrosoft.com"
    )]
    EntraPath(Option<String>),
    /// It is the URL of the authority's document. Holds the authority's own.
    #[error("is the URL of the authority's discovery document; the authority's own is what stands before it")]
    DocumentUrl(String),
    /// The authority's URL has a query.
    #[error("the authority's URL must not carry a query")]
    Query,
    /// The client id is empty, or has a character that no client id has (RFC 6749 appendix A.1).
    #[error("{}", odd_client_id(*.0))]
    ClientId(Option<char>),
    /// The Graph's URL is wrong.
    #[error("the Graph's URL {0}")]
    Graph(#[source] UrlFault),
    /// The CA certificates are wrong.
    #[error("{0}")]
    Roots(#[source] RootsFault),
}

fn odd_client_id(odd: Option<char>) -> String {
    match odd {
        None => "is empty".to_owned(),
        Some(odd) => format!("holds {:?}, which no client id does", odd.to_string()),
    }
}

impl AuthorityConfigError {
    /// Returns the name of the wrong setting, as in an app's configuration.
    pub fn key(&self) -> &'static str {
        match self {
            AuthorityConfigError::Url(_)
            | AuthorityConfigError::EntraPath(_)
            | AuthorityConfigError::DocumentUrl(_)
            | AuthorityConfigError::Query
            | AuthorityConfigError::Graph(_) => "authority",
            AuthorityConfigError::ClientId(_) => "client_id",
            AuthorityConfigError::Roots(_) => "authority_ca",
        }
    }

    /// Returns the probable value.
    pub fn nearest(&self) -> Option<&str> {
        match self {
            AuthorityConfigError::EntraPath(nearest) => nearest.as_deref(),
            AuthorityConfigError::DocumentUrl(nearest) => Some(nearest),
            _ => None,
        }
    }
}

/// Parts that the client needs.
#[derive(Clone)]
pub struct AuthorityParts {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Randomness for assertion and request ids.
    pub random: Arc<dyn Random>,
    /// Receives events; [`Unobserved`](crate::authority::Unobserved) ignores them.
    pub observer: Arc<dyn AuthorityObserver>,
    /// Says where secrets may be sent.
    pub token_hosts: AppHosts,
}
