//! The way out: a direct connection to the host, or a tunnel to it through a forward proxy (RFC 9110 §9.3.6).
//!
//! The operator chose the proxy, so it may be anywhere. It learns a host and a port, and carries bytes: TLS
//! runs with the host inside the tunnel, so the host's certificate is what counts.
//!
//! The one hard problem: telling who is at fault when nothing comes back. A fault of the proxy is a
//! [`ProxyFault`].

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{HOST, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::GaiResolver;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;
use zeroize::Zeroizing;

use super::address::GuardedResolver;
use super::roots::{Roots, RootsFault, tls_config};
use crate::domain::proxy::{Proxy, Routes, host_and_port};
use crate::domain::task::BoxFuture;
use crate::domain::time::Clock;

/// Time limit of one step: a connection to one address, or a proxy's answer. A dead one uses up only its
/// share.
pub(crate) const STEP: Duration = Duration::from_secs(5);
/// Most bytes of the head of a proxy's answer (hyper's minimum).
const HEAD_CAP: usize = 8 * 1024;

type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;
type BoxError = Box<dyn Error + Send + Sync>;

/// The way of all outgoing connections.
#[derive(Clone, Default, PartialEq)]
pub struct Outbound {
    routes: Routes,
    /// The value of `Proxy-Authorization`.
    login: Option<Zeroizing<String>>,
    /// CA certificates to trust for a proxy with TLS.
    roots: Roots,
}

impl Outbound {
    /// Uses these routes, and this user and password for the proxy.
    pub fn new(routes: Routes, login: Option<(&str, &str)>, roots: Roots) -> Self {
        let login = login.map(|(name, password)| {
            let pair = Zeroizing::new(format!("{name}:{password}"));
            Zeroizing::new(format!("Basic {}", *Zeroizing::new(STANDARD.encode(pair.as_bytes()))))
        });
        Outbound { routes, login, roots }
    }

    pub(crate) fn proxy_for(&self, https: bool, host: &str, port: u16) -> Option<&Proxy> {
        self.routes.proxy_for(https, host, port)
    }
}

/// Without the login.
impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound").field("routes", &self.routes).finish_non_exhaustive()
    }
}

/// A fault of a proxy or of its configuration. The destination's description names the proxy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyFault {
    #[error("the proxy cannot be reached")]
    Unreachable(#[source] BoxError),
    #[error("the proxy did not answer CONNECT within {} s", STEP.as_secs())]
    Silent,
    #[error("the proxy broke off")]
    BrokeOff(#[source] hyper::Error),
    #[error("the proxy wants a login (407): set proxy_username and proxy_password_file in [outbound]")]
    LoginWanted,
    #[error(
        "the proxy refuses the login of [outbound] proxy_username (407): correct it, or the password's file"
    )]
    LoginRefused,
    #[error("the proxy forbids the way there (403): have the host allowed there, or name it in no_proxy")]
    Forbidden,
    #[error("the proxy did not get through to the host ({0}): see what it can reach and resolve")]
    NotThrough(StatusCode),
    #[error("the proxy answered CONNECT with {0}: see whether it is one, and allows CONNECT to this port")]
    Refused(StatusCode),
    #[error("the proxy sent bytes of its own into the tunnel")]
    Talks,
}

/// Makes connections as an [`Outbound`] says.
#[derive(Clone)]
pub(crate) struct WayOut {
    direct: HttpConnector<GuardedResolver>,
    proxied: Option<HttpsConnector<HttpConnector>>,
    outbound: Arc<Outbound>,
    clock: Arc<dyn Clock>,
}

impl WayOut {
    pub(crate) fn new(
        resolver: GuardedResolver,
        outbound: Arc<Outbound>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RootsFault> {
        let mut direct = HttpConnector::new_with_resolver(resolver);
        direct.enforce_http(false);
        direct.set_nodelay(true);
        direct.set_connect_timeout(Some(STEP));
        let mut to_proxy = HttpConnector::new_with_resolver(GaiResolver::new());
        to_proxy.enforce_http(false);
        to_proxy.set_nodelay(true);
        to_proxy.set_connect_timeout(Some(STEP));
        let routes = &outbound.routes;
        let proxied = match routes.https.as_ref().or(routes.http.as_ref()) {
            None => None,
            // (Only a proxy with TLS needs CA certificates: without one a machine may have none.)
            Some(_) => {
                let speaks_tls = routes.https.iter().chain(&routes.http).any(|proxy| proxy.tls);
                let config = tls_config(&outbound.roots, !speaks_tls)?;
                let builder = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http();
                Some(builder.enable_http1().wrap_connector(to_proxy))
            }
        };
        Ok(WayOut { direct, proxied, outbound, clock })
    }

    async fn tunnel(self, proxy: Proxy, target: String) -> Result<Stream, ProxyFault> {
        let unreachable = |error: BoxError| ProxyFault::Unreachable(error);
        let scheme = if proxy.tls { "https" } else { "http" };
        let address = format!("{scheme}://{}", host_and_port(&proxy.host, proxy.port));
        let address: Uri =
            address.parse().map_err(|error: http::uri::InvalidUri| unreachable(error.into()))?;
        let mut connector = self.proxied.ok_or_else(|| unreachable("it is not set up".into()))?;
        let stream = connector.call(address).await.map_err(unreachable)?;
        tokio::select! {
            opened = open(stream, &target, self.outbound.login.as_deref()) => opened,
            () = self.clock.sleep(STEP) => Err(ProxyFault::Silent),
        }
    }
}

/// Asks the proxy at the other end of `stream` for a tunnel.
async fn open(stream: Stream, target: &str, login: Option<&String>) -> Result<Stream, ProxyFault> {
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = Method::CONNECT;
    // (Made of a checked URL's host and port.)
    *request.uri_mut() = target.parse().map_err(|_| ProxyFault::Refused(StatusCode::BAD_REQUEST))?;
    let headers = request.headers_mut();
    if let Ok(host) = HeaderValue::from_str(target) {
        headers.insert(HOST, host);
    }
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("tokenward/", env!("CARGO_PKG_VERSION"))));
    if let Some(mut login) = login.and_then(|login| HeaderValue::from_str(login).ok()) {
        login.set_sensitive(true);
        headers.insert(PROXY_AUTHORIZATION, login);
    }
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_CAP)
        .handshake::<_, Empty<Bytes>>(stream)
        .await
        .map_err(ProxyFault::BrokeOff)?;
    let connection = connection.with_upgrades();
    let ask = async {
        let answer = sender.send_request(request).await.map_err(ProxyFault::BrokeOff)?;
        match answer.status() {
            status if status.is_success() => {}
            StatusCode::PROXY_AUTHENTICATION_REQUIRED if login.is_none() => {
                return Err(ProxyFault::LoginWanted);
            }
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => return Err(ProxyFault::LoginRefused),
            StatusCode::FORBIDDEN => return Err(ProxyFault::Forbidden),
            status @ (StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT) => {
                return Err(ProxyFault::NotThrough(status));
            }
            status => return Err(ProxyFault::Refused(status)),
        }
        hyper::upgrade::on(answer).await.map_err(ProxyFault::BrokeOff)
    };
    tokio::pin!(connection, ask);
    let mut is_open = true;
    let upgraded = loop {
        tokio::select! {
            biased;
            upgraded = &mut ask => break upgraded?,
            // It returns the stream when it ends; the caller of the request learns of a failure.
            _ = &mut connection, if is_open => is_open = false,
        }
    };
    let parts = upgraded.downcast::<Stream>().expect("it is the stream that the request was sent over");
    // TLS and HTTP servers both wait for our first bytes, so early bytes are the proxy's.
    if parts.read_buf.is_empty() { Ok(parts.io) } else { Err(ProxyFault::Talks) }
}

impl Service<Uri> for WayOut {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.direct.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let https = to.scheme_str() == Some("https");
        let port = to.port_u16().unwrap_or(if https { 443 } else { 80 });
        let host =
            to.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        match self.outbound.proxy_for(https, &host, port) {
            None => {
                let direct = self.direct.call(to);
                Box::pin(async move { Ok(MaybeHttpsStream::Http(direct.await?)) })
            }
            Some(proxy) => {
                let tunnel: BoxFuture<'static, _> =
                    Box::pin(self.clone().tunnel(proxy.clone(), host_and_port(&host, port)));
                Box::pin(async move { Ok(tunnel.await?) })
            }
        }
    }
}
