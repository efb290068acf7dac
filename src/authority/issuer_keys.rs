//! The keys of an issuer that is nobody's authority here: it only names callers. They are found by discovery
//! (OpenID Connect Discovery §4; a Kubernetes API server speaks just enough of it), or at a URL that the
//! operator knows.

use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderMap;
use serde_json::Value;

use super::client_auth::AssertionSource;
use super::discovery::DOCUMENT_PATH;
use super::http::{HttpClient, authorization};
use super::text::one_line;
use super::url::{CheckedUrl, UrlFault};
use crate::domain::task::BoxFuture;
use crate::domain::time::Clock;
use crate::jwt::json::Object;
use crate::jwt::keys::{Algorithm, KeySet};
use crate::jwt::{FetchKeys, PublishedKeys};
use crate::outbound::Outbound;
use crate::outbound::{Roots, RootsFault};

/// Where an issuer publishes its keys, and the way there.
#[derive(Clone)]
pub struct IssuerKeysConfig {
    /// The issuer, exactly as its discovery document and its tokens name it.
    pub issuer: String,
    /// Where its keys are; `None` finds them by its discovery document.
    pub jwks_url: Option<String>,
    /// CA certificates to trust for TLS.
    pub roots: Roots,
    /// The way of outgoing requests.
    pub outbound: Arc<Outbound>,
    /// The bearer token that the issuer demands for these requests, read anew for each fetch.
    pub bearer: Option<Arc<dyn AssertionSource>>,
    /// Longest exchange, from name resolution to the last byte.
    pub timeout: Duration,
}

/// Mistake in an [`IssuerKeysConfig`].
#[derive(Debug, thiserror::Error)]
pub enum IssuerKeysError {
    /// The issuer's URL is wrong.
    #[error("{0}; without discovery, `jwks_file` or `jwks_url` says where its keys are")]
    Issuer(#[source] UrlFault),
    /// The keys' URL is wrong.
    #[error("{0}")]
    JwksUrl(#[source] UrlFault),
    /// The CA certificates are wrong.
    #[error("{0}")]
    Roots(#[source] RootsFault),
}

/// An issuer's keys, as they can be fetched.
pub struct IssuerKeys {
    config: IssuerKeysConfig,
    /// The discovery document, or the keys themselves.
    url: CheckedUrl,
    http: HttpClient,
}

impl IssuerKeys {
    /// Checks the configuration. Nothing is sent yet.
    ///
    /// # Errors
    /// A mistake in the configuration.
    pub fn new(config: IssuerKeysConfig, clock: Arc<dyn Clock>) -> Result<Self, IssuerKeysError> {
        let url = match &config.jwks_url {
            Some(url) => CheckedUrl::parse(url, true).map_err(IssuerKeysError::JwksUrl)?,
            None => {
                let url = format!("{}{DOCUMENT_PATH}", config.issuer.trim_end_matches('/'));
                CheckedUrl::parse(&url, true).map_err(IssuerKeysError::Issuer)?
            }
        };
        let http = HttpClient::new(url.host(), &config.roots, &config.outbound, true, clock);
        let http = http.map_err(IssuerKeysError::Roots)?;
        Ok(IssuerKeys { config, url, http })
    }

    async fn fetch_now(&self) -> Result<PublishedKeys, String> {
        let bearer = self.bearer().await?;
        if self.config.jwks_url.is_some() {
            return Ok(PublishedKeys { keys: self.keys(&self.url, bearer).await?, algorithms: None });
        }
        let document = self.read(&self.url, bearer.clone()).await?;
        let (jwks_uri, algorithms) = self.check(&document)?;
        Ok(PublishedKeys { keys: self.keys(&jwks_uri, bearer).await?, algorithms })
    }

    async fn keys(&self, url: &CheckedUrl, bearer: HeaderMap) -> Result<KeySet, String> {
        KeySet::parse_even_empty(&self.read(url, bearer).await?)
    }

    /// Checks a discovery document. A Kubernetes API server's has no endpoints but the keys'.
    fn check(&self, document: &[u8]) -> Result<(CheckedUrl, Option<Vec<Algorithm>>), String> {
        let document = Object::parse(document)?;
        let text = |name: &str| document.0.get(name).and_then(Value::as_str);
        let issuer = text("issuer").ok_or("the discovery document has no issuer")?;
        if issuer != self.config.issuer {
            return Err(format!(
                "the discovery document names the issuer {}, which is not, to the letter, the configured one",
                one_line(issuer)
            ));
        }
        let jwks_uri = text("jwks_uri").ok_or("the discovery document has no jwks_uri")?;
        let jwks_uri = CheckedUrl::parse(jwks_uri, !self.url.is_https());
        let jwks_uri = jwks_uri.map_err(|fault| format!("the jwks_uri of the discovery document {fault}"))?;
        // Unknown ones are left out; a list of none but these allows nothing.
        let algorithms = match document.0.get("id_token_signing_alg_values_supported") {
            None | Some(Value::Null) => None,
            Some(Value::Array(named)) => {
                Some(named.iter().filter_map(Value::as_str).filter_map(Algorithm::parse).collect())
            }
            Some(_) => return Err("the discovery document's algorithms are no list".to_owned()),
        };
        Ok((jwks_uri, algorithms))
    }

    async fn read(&self, url: &CheckedUrl, headers: HeaderMap) -> Result<Vec<u8>, String> {
        let answer = self.http.get(url, headers, self.config.timeout).await;
        let answer = answer.map_err(|failure| failure.cause)?;
        match answer.status {
            200 => Ok(answer.body.to_vec()),
            status @ (401 | 403) if self.config.bearer.is_none() => Err(format!(
                "{} answered with status {status}: it may want a token, which `token_file` names",
                url.host()
            )),
            status => Err(format!("{} answered with status {status}", url.host())),
        }
    }

    async fn bearer(&self) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        if let Some(source) = &self.config.bearer {
            let token = source.read().await.map_err(|why| format!("{}: {why}", source.place()))?;
            let header = authorization(&format!("Bearer {}", token.as_str()));
            let (name, value) = header.ok_or_else(|| format!("{} holds no token", source.place()))?;
            headers.insert(name, value);
        }
        Ok(headers)
    }
}

impl FetchKeys for IssuerKeys {
    fn fetch(&self) -> BoxFuture<'_, Result<PublishedKeys, String>> {
        Box::pin(self.fetch_now())
    }
}
