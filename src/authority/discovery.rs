//! The discovery document, and the checks before it is believed (OpenID Connect Discovery §4.3; RFC 8414
//! §3.3).

use serde_json::Value;

use super::clouds::{Provider, TenantPath};
use super::text::one_line;
use super::url::CheckedUrl;
use crate::domain::clouds::cloud_of;
use crate::jwt::json::Object;
use crate::outbound::Reach;

/// Path of the document, below the authority (OpenID Connect Discovery §4).
pub(super) const DOCUMENT_PATH: &str = "/.well-known/openid-configuration";

/// A checked document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metadata {
    /// As in the document; at Entra with a literal `{tenantid}` for `common` and `organizations`.
    pub(super) issuer: String,
    pub(super) authorization_endpoint: CheckedUrl,
    pub(super) token_endpoint: CheckedUrl,
    pub(super) jwks_uri: CheckedUrl,
    /// RFC 9207 §3.
    pub(super) iss_in_response: bool,
    /// `None` if the document does not say.
    pub(super) token_auth_methods: Option<Vec<String>>,
    pub(super) token_auth_algorithms: Option<Vec<String>>,
    pub(super) id_token_algorithms: Option<Vec<String>>,
    /// True if the document lists the grant by which an app gets a token of its own (RFC 8414 §2; unlisted
    /// means absent).
    pub(super) offers_client_credentials: bool,
    /// Entra's cloud, which a key's own must equal if it has one.
    pub(super) cloud_instance_name: Option<String>,
}

/// The configuration that the document must match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    /// As configured, for the comparison with the issuer.
    pub(super) authority: CheckedUrl,
    pub(super) provider: Provider,
    /// True if the provider is configured and not guessed.
    pub(super) provider_is_configured: bool,
    /// The tenant in the path; only at Entra.
    pub(super) tenant: Option<TenantPath>,
    /// `host` or `host:port`, lower case; see [`AuthorityConfig`](super::AuthorityConfig).
    pub(super) endpoint_hosts: Option<Vec<String>>,
}

impl Expected {
    /// Returns the document's URL.
    pub(super) fn document_url(&self) -> String {
        format!("{}{DOCUMENT_PATH}", self.authority.as_str().trim_end_matches('/'))
    }

    /// Checks a document. `Err` says in our words what is wrong.
    pub(super) fn check(&self, bytes: &[u8]) -> Result<Metadata, String> {
        let document = Object::parse(bytes)?;
        let issuer = text(&document, "issuer")?.ok_or("the document has no issuer")?;
        let looks_like = match looks_like_entra(&document, issuer) {
            true => Provider::Entra,
            false => Provider::OpenId,
        };
        if looks_like != self.provider && !self.provider_is_configured {
            return Err(match looks_like {
                Provider::Entra => {
                    "the document is Entra's, the authority's URL is not: set provider = \"entra\""
                }
                Provider::OpenId => {
                    "the authority's URL is Entra's, the document is not: set provider = \"openid\""
                }
            }
            .to_owned());
        }
        self.check_issuer(issuer)?;
        let algorithms = list(&document, "id_token_signing_alg_values_supported")?;
        Ok(Metadata {
            issuer: issuer.to_owned(),
            authorization_endpoint: self.endpoint(&document, "authorization_endpoint")?,
            token_endpoint: self.endpoint(&document, "token_endpoint")?,
            jwks_uri: self.endpoint(&document, "jwks_uri")?,
            iss_in_response: document.0.get("authorization_response_iss_parameter_supported")
                == Some(&Value::Bool(true)),
            token_auth_methods: list(&document, "token_endpoint_auth_methods_supported")?,
            token_auth_algorithms: list(&document, "token_endpoint_auth_signing_alg_values_supported")?,
            id_token_algorithms: algorithms,
            offers_client_credentials: list(&document, "grant_types_supported")
                .ok()
                .flatten()
                .is_some_and(|grants| grants.iter().any(|grant| grant == "client_credentials")),
            cloud_instance_name: match self.provider {
                Provider::Entra => text(&document, "cloud_instance_name")?.map(str::to_owned),
                Provider::OpenId => None,
            },
        })
    }

    fn check_issuer(&self, issuer: &str) -> Result<(), String> {
        if !issuer.bytes().all(|byte| byte.is_ascii_graphic()) || issuer.len() > 2048 {
            return Err("the document's issuer is not a URL".to_owned());
        }
        let Some(tenant) = &self.tenant else {
            return if issuer == self.authority.as_str() {
                Ok(())
            } else {
                Err(format!(
                    "the document names the issuer {issuer}, which is not, to the letter, the authority"
                ))
            };
        };
        // `{origin}/{tenant id or template}/v2.0`, on the configured host or the one that its cloud uses in
        // issuers.
        let refused = || {
            format!("the document names the issuer {}, which does not fit the authority", one_line(issuer))
        };
        let rest = self.origins().find_map(|origin| issuer.strip_prefix(&origin).map(str::to_owned));
        let rest = rest.ok_or_else(refused)?;
        let issuer_tenant =
            rest.strip_prefix('/').and_then(|rest| rest.strip_suffix("/v2.0")).ok_or_else(refused)?;
        if tenant.fits_issuer(&issuer_tenant.to_ascii_lowercase()) { Ok(()) } else { Err(refused()) }
    }

    /// Returns true if a grant's issuer is this authority.
    pub(super) fn is_issuer(&self, issuer: &str) -> bool {
        match self.provider {
            Provider::Entra => {
                let issuer = issuer.to_ascii_lowercase();
                self.origins()
                    .any(|origin| issuer.strip_prefix(&origin).is_some_and(|rest| rest.starts_with('/')))
            }
            Provider::OpenId => issuer == self.authority.as_str(),
        }
    }

    /// Returns the possible origins of this Entra authority's issuers.
    fn origins(&self) -> impl Iterator<Item = String> {
        let cloud = cloud_of(self.authority.host()).filter(|_| self.authority.is_https());
        let canonical = cloud.and_then(|cloud| cloud.hosts.first()).map(|host| format!("https://{host}"));
        std::iter::once(self.authority.origin().to_ascii_lowercase()).chain(canonical)
    }

    fn endpoint(&self, document: &Object, key: &'static str) -> Result<CheckedUrl, String> {
        let url = text(document, key)?.ok_or_else(|| format!("the document has no {key}"))?;
        let url = CheckedUrl::parse(url, self.authority.is_loopback() && !self.authority.is_https())
            .map_err(|fault| format!("the document's {key} {fault}"))?;
        if self.may_call(&url) {
            Ok(url)
        } else {
            let host = one_line(url.host());
            Err(format!(
                "the document's {key} is on {host}, which is not the authority's: add it to endpoint_hosts"
            ))
        }
    }

    /// Returns true if this authority may name an endpoint on this host.
    fn may_call(&self, url: &CheckedUrl) -> bool {
        let own = url.host() == self.authority.host() && url.port() == self.authority.port();
        let cloud = cloud_of(self.authority.host());
        let of_cloud = cloud.is_some_and(|cloud| cloud.hosts.contains(&url.host()) && url.port() == 443);
        let listed = match &self.endpoint_hosts {
            Some(hosts) => hosts.iter().any(|host| names(host, url)),
            // An OpenID provider may use any hosts (Google's does); Entra's clouds are known.
            None => self.provider == Provider::OpenId && url.is_https() && !is_near(url),
        };
        own || (self.provider == Provider::Entra && of_cloud) || listed
    }
}

/// Returns true if the host is written as an address outside the Internet. Addresses of names are checked
/// when they are resolved.
fn is_near(url: &CheckedUrl) -> bool {
    url.is_loopback() || url.literal().is_some_and(|address| Reach::of(address) != Reach::Public)
}

/// Returns true if `host` or `host:port` matches the URL's; without a port it means the scheme's own.
fn names(entry: &str, url: &CheckedUrl) -> bool {
    let default_port = if url.is_https() { 443 } else { 80 };
    let entry = entry.to_ascii_lowercase();
    entry == format!("{}:{}", url.host(), url.port()) || (entry == url.host() && url.port() == default_port)
}

fn looks_like_entra(document: &Object, issuer: &str) -> bool {
    let has = |key: &str| document.0.contains_key(key);
    issuer.contains("{tenantid}")
        || ((has("tenant_region_scope") || has("cloud_instance_name")) && has("msgraph_host"))
}

fn text<'a>(document: &'a Object, key: &'static str) -> Result<Option<&'a str>, String> {
    match document.0.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("the document's {key} is not a string")),
    }
}

fn list(document: &Object, key: &'static str) -> Result<Option<Vec<String>>, String> {
    match document.0.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(items)) => {
            let words = items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
            words.map(Some).ok_or_else(|| format!("the document's {key} is not a list of strings"))
        }
        Some(_) => Err(format!("the document's {key} is not a list")),
    }
}
