//! The way to a collector of traces. It is no authority; it is here because the way out of this process, with
//! its proxies, certificates and limits, is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderMap;

use super::http::{HttpClient, HttpFailure};
use super::url::{CheckedUrl, UrlFault};
use crate::domain::time::Clock;
use crate::outbound::{Outbound, Roots, RootsFault, retry_after};

/// A collector of traces, and the way there.
#[derive(Clone)]
pub struct CollectorConfig {
    /// Where it takes spans. The operator chose it, so that it may be anywhere, and plain http too.
    pub url: String,
    /// Header fields for it.
    pub headers: HeaderMap,
    /// CA certificates to trust for TLS.
    pub roots: Roots,
    /// The way of outgoing requests.
    pub outbound: Arc<Outbound>,
    /// Longest exchange, from name resolution to the last byte.
    pub timeout: Duration,
}

/// Mistake in a [`CollectorConfig`].
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// The URL is wrong.
    #[error("{0}")]
    Url(#[source] UrlFault),
    /// The CA certificates are wrong.
    #[error("{0}")]
    Roots(#[source] RootsFault),
}

/// An answer of the collector.
pub struct CollectorAnswer {
    /// Its status.
    pub status: u16,
    /// After what time to come again, if it says so.
    pub retry_after: Option<Duration>,
    /// Its body.
    pub body: Vec<u8>,
}

/// A collector of traces.
pub struct TraceCollector {
    url: CheckedUrl,
    headers: HeaderMap,
    timeout: Duration,
    http: HttpClient,
    clock: Arc<dyn Clock>,
}

impl TraceCollector {
    /// Checks the configuration. Nothing is sent yet.
    ///
    /// # Errors
    /// A mistake in the configuration.
    pub fn new(config: CollectorConfig, clock: Arc<dyn Clock>) -> Result<Self, CollectorError> {
        let url = CheckedUrl::parse_plain_too(&config.url).map_err(CollectorError::Url)?;
        let http = HttpClient::new(url.host(), &config.roots, &config.outbound, true, Arc::clone(&clock));
        let http = http.map_err(CollectorError::Roots)?;
        Ok(TraceCollector { url, headers: config.headers, timeout: config.timeout, http, clock })
    }

    /// Posts a message in protobuf.
    ///
    /// # Errors
    /// Why no answer came.
    pub async fn post(&self, message: Bytes) -> Result<CollectorAnswer, String> {
        let answer = self.http.post_protobuf(&self.url, self.headers.clone(), message, self.timeout).await;
        let answer = match answer {
            Ok(answer) => answer,
            // The status says enough, whatever came after it: what was taken is not sent again.
            Err(HttpFailure { status: Some(status), .. }) => {
                return Ok(CollectorAnswer { status, retry_after: None, body: Vec::new() });
            }
            Err(failure) => return Err(failure.cause),
        };
        let after = answer.header("retry-after");
        let after = after.and_then(|value| retry_after(value, self.clock.now()));
        Ok(CollectorAnswer { status: answer.status, retry_after: after, body: answer.body.to_vec() })
    }
}
