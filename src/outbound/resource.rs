//! The client for one resource, to which callers' requests are relayed: bodies of any length in both
//! directions, HTTP/2 where it is offered, and no redirect.
//!
//! A connection over HTTP/2 takes as many requests at a time as its server allows; further ones would wait
//! within it, and nobody could tell. So requests go by lanes, each with connections of its own, and a lane
//! takes no more than servers allow.

use std::array;
use std::error::Error;
use std::io;
use std::iter::successors;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, Request, StatusCode, Version};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;

use super::address::{AddressGuard, GuardedResolver, NotAllowed, Reach};
use super::roots::{Roots, tls_config};
use super::way_out::{Outbound, WayOut};
use crate::domain::text::chain;
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

/// Requests of a lane: RFC 9113 §6.5.2 wants servers to allow at least as many at a time on a connection.
pub(super) const MOST_IN_LANE: usize = 100;
/// Lanes to one resource.
pub(super) const LANES: usize = 16;

/// How hyper's connector begins to say that a name does not resolve.
const UNRESOLVED: &str = "dns error";

/// The body of a request to a resource.
pub type ResourceBody = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// How a resource is reached.
#[derive(Clone, PartialEq)]
pub struct Settings {
    /// Its host, in lower case and without brackets.
    pub host: String,
    /// Where its name may lead.
    pub leads: Leads,
    /// CA certificates to trust.
    pub roots: Roots,
    /// The way out.
    pub outbound: Arc<Outbound>,
}

/// Where the name of a resource may lead. (Behind a proxy, the proxy resolves it.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leads {
    /// Anywhere: the operator has named the host.
    Anywhere,
    /// To public addresses.
    Public,
    /// To public addresses, the operator's own network and this machine.
    OwnNetworkToo,
}

impl Leads {
    fn guard(self, host: &str) -> AddressGuard {
        match self.scopes() {
            None => AddressGuard::new(host),
            Some(scopes) => AddressGuard::only(scopes),
        }
    }

    fn scopes(self) -> Option<&'static [Reach]> {
        match self {
            Leads::Anywhere => None,
            Leads::Public => Some(&[Reach::Public]),
            Leads::OwnNetworkToo => Some(&[Reach::Public, Reach::Private, Reach::Loopback]),
        }
    }

    /// Whether it may lead to a host that is written as an address. (Nobody resolves those.)
    pub fn allows_literal(self, host: &str) -> bool {
        let Ok(address) = host.parse() else { return true };
        self.guard(host).allows(host, address)
    }
}

/// Why there is no answer of a resource. The texts are for people; none has anything of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourceFault {
    /// Nothing was sent: there is no connection.
    #[error("the resource cannot be reached: {0}")]
    Unreachable(String),
    /// Nothing was sent: so many requests are under way there.
    #[error("{} requests are under way at the resource, and it takes no more", MOST_IN_LANE * LANES)]
    Full,
    /// It was sent, and no answer came.
    #[error("the resource broke off: {0}")]
    BrokeOff(String),
    /// Nothing moved for too long.
    #[error("the resource said nothing for {} s", .0.as_secs())]
    Silent(Duration),
}

/// What is in the way to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// Its name does not resolve.
    Name,
    /// Its name leads to no address that is allowed.
    Address,
    /// Its certificate is not trusted.
    Certificate,
    /// Anything else.
    Other,
}

impl Obstacle {
    fn of(error: &(dyn Error + 'static)) -> Self {
        let links = || successors(Some(error), |error| beneath(*error));
        if links().any(|error| error.is::<NotAllowed>()) {
            Obstacle::Address
        } else if links().any(|error| error.is::<rustls::Error>()) {
            Obstacle::Certificate
        } else if links().any(|error| error.to_string() == UNRESOLVED) {
            Obstacle::Name
        } else {
            Obstacle::Other
        }
    }
}

/// The error that an error is made of. (An I/O error's source is that of what is in it.)
fn beneath<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    let within = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    within.map(|error| error as &(dyn Error + 'static)).or_else(|| error.source())
}

/// The client for one resource.
pub struct Resource {
    settings: Settings,
    clock: Arc<dyn Clock>,
    /// Of all lanes: the trusted certificates are read once.
    tls: OnceLock<Result<ClientConfig, String>>,
    lanes: [Lane; LANES],
}

/// One connection over HTTP/2, or several over HTTP/1. Its client is made when it is first used.
#[derive(Default)]
struct Lane {
    client: OnceLock<Result<Client<HttpsConnector<WayOut>, ResourceBody>, String>>,
    under_way: Arc<AtomicUsize>,
}

/// A request's place in a lane, until its answer's end.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer, of which the head has come. Dropping it, or its body, ends the exchange.
pub struct Answered {
    head: Parts,
    body: ResourceAnswerBody,
}

impl Answered {
    /// Returns its status.
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// Returns its fields.
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// Returns its head.
    pub fn head(&self) -> &Parts {
        &self.head
    }

    /// Returns its body.
    pub fn body(&self) -> &ResourceAnswerBody {
        &self.body
    }

    /// Returns its head and its body.
    pub fn into_parts(self) -> (Parts, ResourceAnswerBody) {
        (self.head, self.body)
    }
}

/// The body of an answer of a resource.
pub struct ResourceAnswerBody {
    incoming: Incoming,
    is_http2: bool,
    _place: Place,
}

impl ResourceAnswerBody {
    /// Whether its end, which has come, is not the resource's own: hyper takes a reset without an error
    /// (RFC 9113 section 8.1) for one, wherever it comes.
    pub fn is_cut(&self) -> bool {
        self.is_http2 && !self.incoming.is_end_stream()
    }
}

impl Body for ResourceAnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.incoming).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Resource {
    /// Makes the client for a resource that is reached so.
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Self {
        Resource { settings, clock, tls: OnceLock::new(), lanes: array::from_fn(|_| Lane::default()) }
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
    ) -> Result<Answered, ResourceFault> {
        self.exchange(request, silence).await.map_err(|(_, fault)| fault)
    }

    /// Sends a request as [`Resource::send`] does, and says what is in the way.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn probe(
        &self,
        request: Request<ResourceBody>,
        silence: &Silence,
    ) -> Result<StatusCode, (Obstacle, ResourceFault)> {
        self.exchange(request, silence).await.map(|answered| answered.status())
    }

    async fn exchange(
        &self,
        request: Request<ResourceBody>,
        silence: &Silence,
    ) -> Result<Answered, (Obstacle, ResourceFault)> {
        let other = |fault| (Obstacle::Other, fault);
        let (lane, place) = self.lane().ok_or(other(ResourceFault::Full))?;
        let client = lane.client.get_or_init(|| self.client()).as_ref();
        let client = client.map_err(|cause| other(ResourceFault::Unreachable(cause.clone())))?;
        let answer = tokio::select! {
            biased;
            answer = client.request(request) => answer,
            () = silence.is_over() => return Err(other(silence.fault())),
        };
        let answer = answer.map_err(|error| {
            let cause = chain(&error);
            if error.is_connect() {
                (Obstacle::of(&error), ResourceFault::Unreachable(cause))
            } else {
                other(ResourceFault::BrokeOff(cause))
            }
        })?;
        let (head, incoming) = answer.into_parts();
        let is_http2 = head.version == Version::HTTP_2;
        Ok(Answered { head, body: ResourceAnswerBody { incoming, is_http2, _place: place } })
    }

    /// A place in the first lane that has one: so there are no more connections than are needed.
    fn lane(&self) -> Option<(&Lane, Place)> {
        self.lanes.iter().find_map(|lane| {
            let one_more = |many: usize| (many < MOST_IN_LANE).then_some(many + 1);
            lane.under_way.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
            Some((lane, Place(Arc::clone(&lane.under_way))))
        })
    }

    fn client(&self) -> Result<Client<HttpsConnector<WayOut>, ResourceBody>, String> {
        let Settings { host, leads, roots, outbound } = &self.settings;
        let resolver = GuardedResolver::new(Arc::new(leads.guard(host)));
        let way_out = WayOut::new(resolver, Arc::clone(outbound), Arc::clone(&self.clock));
        let tls = self.tls.get_or_init(|| tls_config(roots, false).map_err(|fault| fault.to_string()));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls.clone()?)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::hand_clock::HandClock;

    #[test]
    fn requests_fill_lanes_one_after_the_other_and_are_refused_beyond_the_last() {
        let settings = Settings {
            host: "a.example".to_owned(),
            leads: Leads::Anywhere,
            roots: Roots::System,
            outbound: Arc::new(Outbound::default()),
        };
        let resource = Resource::new(settings, Arc::new(HandClock::at(Duration::ZERO)));
        let under_way = || resource.lanes.each_ref().map(|lane| lane.under_way.load(Ordering::Relaxed));
        let mut places: Vec<Place> = Vec::new();
        for lane in 0..LANES {
            for many in 1..=MOST_IN_LANE {
                places.push(resource.lane().expect("there is room").1);
                assert_eq!(under_way()[lane], many);
            }
        }
        assert!(resource.lane().is_none());
        // A place that is free again is the next one's, in the first lane that has one.
        places.remove(3 * MOST_IN_LANE);
        places.remove(MOST_IN_LANE);
        assert_eq!((under_way()[1], under_way()[3]), (MOST_IN_LANE - 1, MOST_IN_LANE - 1));
        let one = resource.lane().expect("there is room");
        assert_eq!((under_way()[1], under_way()[3]), (MOST_IN_LANE, MOST_IN_LANE - 1));
        drop((places, one));
        assert_eq!(under_way(), [0; LANES]);
    }
}
