//! The client for one resource, to which callers' requests are relayed: bodies of any length in both
//! directions, HTTP/2 where it is offered, and no redirect.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::address::{AddressGuard, GuardedResolver};
use super::roots::{Roots, tls_config};
use super::way_out::{Outbound, WayOut};
use crate::domain::time::Clock;

/// How long an unused connection is kept: shorter than servers keep theirs.
const IDLE: Duration = Duration::from_secs(15);
/// How many unused connections are kept.
const MOST_IDLE: usize = 64;
/// Most bytes of an HTTP/1 answer's head, and of what is read of its body at once.
const BUFFER: usize = 32 * 1024;
/// Bytes of an answer that a stream of HTTP/2 may have on its way. Its client takes them at its own pace, so
/// the connection has room for all streams' ([`CONNECTION_WINDOW`]): a slow client holds up nobody else.
const STREAM_WINDOW: u32 = 128 * 1024;
/// Room for the streams that a server allows at a time; most allow 100.
const CONNECTION_WINDOW: u32 = 128 * STREAM_WINDOW;
/// How often an HTTP/2 connection with requests is asked whether it lives, and how long it may take to
/// answer.
const ALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// The body of a request to a resource.
pub type ResourceBody = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// How a resource is reached.
#[derive(Clone, PartialEq)]
pub struct Settings {
    /// Its host, in lower case and without brackets.
    pub host: String,
    /// CA certificates to trust.
    pub roots: Roots,
    /// The way out.
    pub outbound: Arc<Outbound>,
}

/// Why there is no answer of a resource. The texts are for people; none has anything of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourceFault {
    /// Nothing was sent: there is no connection.
    #[error("the resource cannot be reached: {0}")]
    Unreachable(String),
    /// It was sent, and no answer came.
    #[error("the resource broke off: {0}")]
    BrokeOff(String),
    /// Nothing moved for too long.
    #[error("the resource said nothing for {} s", .0.as_secs())]
    Silent(Duration),
}

/// The client for one resource. It is made when it is first used.
pub struct Resource {
    settings: Settings,
    clock: Arc<dyn Clock>,
    client: OnceLock<Result<Client<HttpsConnector<WayOut>, ResourceBody>, String>>,
}

impl Resource {
    /// Makes the client for a resource that is reached so.
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Self {
        Resource { settings, clock, client: OnceLock::new() }
    }

    /// Returns how it is reached.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Sends a request, once, and returns the answer when its head has come. Dropping the future, or the
    /// answer's body, ends the exchange.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn send(
        &self,
        request: Request<ResourceBody>,
        silence: &Silence,
    ) -> Result<Response<Incoming>, ResourceFault> {
        let client = self.client.get_or_init(|| self.client()).as_ref();
        let client = client.map_err(|cause| ResourceFault::Unreachable(cause.clone()))?;
        let answer = tokio::select! {
            biased;
            answer = client.request(request) => answer,
            () = silence.is_over() => return Err(silence.fault()),
        };
        answer.map_err(|error| {
            let cause = chain(&error);
            if error.is_connect() {
                ResourceFault::Unreachable(cause)
            } else {
                ResourceFault::BrokeOff(cause)
            }
        })
    }

    fn client(&self) -> Result<Client<HttpsConnector<WayOut>, ResourceBody>, String> {
        let Settings { host, roots, outbound } = &self.settings;
        // The operator has named the host, so it may be anywhere.
        let resolver = GuardedResolver::new(Arc::new(AddressGuard::new(host)));
        let way_out = WayOut::new(resolver, Arc::clone(outbound), Arc::clone(&self.clock));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls_config(roots, false).map_err(|fault| fault.to_string())?)
            .https_or_http() // the configuration refuses plain http except for loopback
            .enable_http1()
            .enable_http2()
            .wrap_connector(way_out.map_err(|fault| fault.to_string())?);
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MOST_IDLE)
            .http1_max_buf_size(BUFFER)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(ALIVE.0)
            .http2_keep_alive_timeout(ALIVE.1)
            // What comes back whole from a connection that was dead was not written.
            .retry_canceled_requests(true);
        Ok(builder.build(connector))
    }
}

/// How long nothing has moved of one exchange.
pub struct Silence {
    clock: Arc<dyn Clock>,
    most: Duration,
    /// When something moved last, in milliseconds of the monotonic clock.
    moved: AtomicU64,
}

impl Silence {
    /// Begins to listen for an exchange that may be silent for so long.
    pub fn new(most: Duration, clock: Arc<dyn Clock>) -> Self {
        let silence = Silence { clock, most, moved: AtomicU64::new(0) };
        silence.breaks();
        silence
    }

    /// Something moved.
    pub fn breaks(&self) {
        let now = u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(now, Ordering::Relaxed);
    }

    /// Completes when nothing has moved for too long.
    pub async fn is_over(&self) {
        loop {
            let moved = Duration::from_millis(self.moved.load(Ordering::Relaxed));
            let left = (moved + self.most).saturating_sub(self.clock.monotonic());
            if left.is_zero() {
                return;
            }
            self.clock.sleep(left).await;
        }
    }

    /// Returns the fault that it is.
    pub fn fault(&self) -> ResourceFault {
        ResourceFault::Silent(self.most)
    }
}

/// An error with its sources, on one line of tame length.
fn chain(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        words.push_str(": ");
        words.push_str(&error.to_string());
        source = error.source();
    }
    words.chars().map(|one| if one.is_control() { ' ' } else { one }).take(300).collect()
}
