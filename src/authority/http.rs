//! The HTTP client for one authority: with size limits, timeouts, and without redirects.
//!
//! The one hard problem: telling whether a failed request may have reached the authority. The body given to
//! hyper records when it is taken. hyper takes its first piece before it writes anything, so a request whose
//! body was not taken was not sent.

use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION,
    USER_AGENT,
};
use http::{Method, Request};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use zeroize::Zeroizing;

use super::body;
use super::url::CheckedUrl;
use crate::domain::text::chain;
use crate::domain::time::Clock;
use crate::outbound::{AddressGuard, GuardedResolver};
use crate::outbound::{Outbound, WayOut};
use crate::outbound::{Roots, RootsFault, tls_config};

/// Most bytes of a discovery document or a key set.
pub(super) const METADATA_CAP: usize = 256 * 1024;
/// Most bytes of a token answer: room for three tokens of the greatest length and some more.
pub(super) const TOKEN_CAP: usize = 256 * 1024;
/// Media types of what is sent.
const FORM: &str = "application/x-www-form-urlencoded";
const PROTOBUF: &str = "application/x-protobuf";
/// Most bytes of an answer's head.
const HEAD_CAP: usize = 32 * 1024;
/// How long an unused connection is kept: shorter than servers keep theirs, so that a POST seldom meets a
/// connection that is just being closed.
const IDLE: Duration = Duration::from_secs(15);

/// How many unused connections are kept: as many as one tenant may have calls under way. With fewer, callers
/// in step would make a connection, and with TLS a handshake, for most calls.
const MOST_IDLE: usize = 64;
/// Room for an answer whose length is not said before it.
const USUAL_ANSWER: usize = 16 * 1024;

/// A completely read answer.
pub(super) struct HttpAnswer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Zeroizing<Vec<u8>>,
}

impl HttpAnswer {
    /// Returns a header's value, if it is plain text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns true if the media type is `application/json` or ends in `+json`.
    pub(super) fn is_json(&self) -> bool {
        let media_type = self.header("content-type").and_then(|value| value.split(';').next());
        media_type.is_some_and(|media_type| {
            let media_type = media_type.trim().to_ascii_lowercase();
            media_type == "application/json"
                || (media_type.starts_with("application/") && media_type.ends_with("+json"))
        })
    }
}

impl HttpAnswer {
    /// Refuses a redirect: none is followed.
    fn without_redirect(self, url: &CheckedUrl) -> Result<HttpAnswer, HttpFailure> {
        if !(300..400).contains(&self.status) {
            return Ok(self);
        }
        let cause = format!(
            "{} answered with a redirect ({}) to {}, which is never followed: if that is where it is now, \
             configure the address there",
            url.host(),
            self.status,
            leads_to(&self.headers)
        );
        Err(HttpFailure { fault: HttpFault::Nonsense, status: Some(self.status), cause })
    }
}

/// How a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HttpFault {
    /// Nothing was sent: name resolution, connection or TLS failed, the address was refused, or the time was
    /// over.
    NotSent,
    /// It was sent, and no complete answer came.
    NoWholeAnswer,
    /// The answer is a redirect, or a success that is too large; no authority sends these.
    Nonsense,
}

/// A request without a usable answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HttpFailure {
    pub(super) fault: HttpFault,
    /// The answer's status, if that much came.
    pub(super) status: Option<u16>,
    /// The cause, in our words and the transport's.
    pub(super) cause: String,
}

/// The client for one authority.
pub(super) struct HttpClient {
    client: Client<HttpsConnector<WayOut>, Outgoing>,
    /// The same way out as the client's, for a connection that is only looked at.
    pub(super) connector: HttpsConnector<WayOut>,
    guard: Arc<AddressGuard>,
    outbound: Arc<Outbound>,
    clock: Arc<dyn Clock>,
}

impl HttpClient {
    /// Makes a client for the authority on `host`. A reused connection may be closed by the server just as a
    /// POST is written to it, and the outcome is then unknown. Without `keep_connections` each request has
    /// its own connection, for authorities where an unknown outcome may cost a grant.
    pub(super) fn new(
        host: &str,
        roots: &Roots,
        outbound: &Arc<Outbound>,
        keep_connections: bool,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RootsFault> {
        let guard = Arc::new(AddressGuard::new(host));
        let resolver = GuardedResolver::new(Arc::clone(&guard));
        let connector = WayOut::new(resolver, Arc::clone(outbound), Arc::clone(&clock))?;
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls_config(roots, false)?)
            .https_or_http() // `CheckedUrl` refuses plain http except for loopback
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(if keep_connections { MOST_IDLE } else { 0 })
            .http1_max_buf_size(HEAD_CAP)
            // A request that hyper calls cancelled comes back whole from a pooled connection that was dead:
            // none of it was written, so that sending it again is safe for a POST too.
            .retry_canceled_requests(true)
            .build(connector.clone());
        Ok(HttpClient { client, connector, guard, outbound: Arc::clone(outbound), clock })
    }

    /// Reads a document. It is tried twice if the transport fails, for reading changes nothing.
    pub(super) async fn get(
        &self,
        url: &CheckedUrl,
        headers: HeaderMap,
        limit: Duration,
    ) -> Result<HttpAnswer, HttpFailure> {
        let read =
            async |headers| self.send(Method::GET, url, headers, None, METADATA_CAP, &Sent::default()).await;
        let work = async {
            match read(headers.clone()).await {
                Err(failure) if failure.fault != HttpFault::Nonsense => read(headers).await,
                done => done,
            }
        };
        tokio::select! {
            biased;
            done = work => done?.without_redirect(url),
            () = self.clock.sleep(limit) => Err(self.too_late(url, limit, false)),
        }
    }

    /// Reads whatever is there, a redirect too, once. For looking, not for following.
    pub(super) async fn look(
        &self,
        url: &CheckedUrl,
        headers: HeaderMap,
        limit: Duration,
    ) -> Result<HttpAnswer, HttpFailure> {
        let sent = Sent::default();
        tokio::select! {
            biased;
            done = self.send(Method::GET, url, headers, None, METADATA_CAP, &sent) => done,
            () = self.clock.sleep(limit) => Err(self.too_late(url, limit, false)),
        }
    }

    /// Checks a host that is written as an address: it does not pass the resolver.
    pub(super) fn check_literal(&self, url: &CheckedUrl) -> Result<(), HttpFailure> {
        match url.literal() {
            Some(address) if !self.guard.allows(url.host(), address) => {
                let cause = format!(
                    "{} is a private, local or reserved address, which the authority is not",
                    url.host()
                );
                Err(HttpFailure { fault: HttpFault::NotSent, status: None, cause })
            }
            _ => Ok(()),
        }
    }

    /// Posts a form, once.
    pub(super) async fn post(
        &self,
        url: &CheckedUrl,
        headers: HeaderMap,
        form: Zeroizing<String>,
        limit: Duration,
    ) -> Result<HttpAnswer, HttpFailure> {
        let (form, sent) = (Some((Bytes::from_owner(form), FORM)), Sent::default());
        tokio::select! {
            biased;
            done = self.send(Method::POST, url, headers, form, TOKEN_CAP, &sent) => {
                done?.without_redirect(url)
            }
            () = self.clock.sleep(limit) => Err(self.too_late(url, limit, sent.is_set())),
        }
    }

    /// Posts a message in protobuf, once.
    pub(super) async fn post_protobuf(
        &self,
        url: &CheckedUrl,
        headers: HeaderMap,
        message: Bytes,
        limit: Duration,
    ) -> Result<HttpAnswer, HttpFailure> {
        let (message, sent) = (Some((message, PROTOBUF)), Sent::default());
        tokio::select! {
            biased;
            done = self.send(Method::POST, url, headers, message, METADATA_CAP, &sent) => done,
            () = self.clock.sleep(limit) => Err(self.too_late(url, limit, sent.is_set())),
        }
    }

    async fn send(
        &self,
        method: Method,
        url: &CheckedUrl,
        headers: HeaderMap,
        body: Option<(Bytes, &'static str)>,
        cap: usize,
        sent: &Sent,
    ) -> Result<HttpAnswer, HttpFailure> {
        self.check_literal(url)?;
        let (body, content_type) = body.unzip();
        let mut request = Request::new(Outgoing { data: body, sent: sent.clone() });
        *request.method_mut() = method;
        *request.uri_mut() = url.uri().clone();
        *request.headers_mut() = headers;
        let headers = request.headers_mut();
        let wanted = if content_type == Some(PROTOBUF) { PROTOBUF } else { "application/json" };
        headers.insert(ACCEPT, HeaderValue::from_static(wanted));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers
            .insert(USER_AGENT, HeaderValue::from_static(concat!("tokenward/", env!("CARGO_PKG_VERSION"))));
        if let Some(content_type) = content_type {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }

        let failed = |error: &(dyn Error + 'static), sent: bool| HttpFailure {
            fault: if sent { HttpFault::NoWholeAnswer } else { HttpFault::NotSent },
            status: None,
            cause: format!("calling {}: {}", self.destination(url), chain(error)),
        };
        let answer = match self.client.request(request).await {
            Ok(answer) => answer,
            Err(error) => return Err(failed(&error, sent.is_set() && !error.is_connect())),
        };
        let (head, body) = answer.into_parts();
        let status = head.status.as_u16();
        if head.status.is_redirection() {
            // Nobody reads its body, however long it is.
            return Ok(HttpAnswer { status, headers: head.headers, body: Zeroizing::default() });
        }
        let body = read_whole(body, cap).await.and_then(|body| body::text_of(&head.headers, body, cap));
        let body = body.map_err(|cause| HttpFailure {
            // The rest of an error answer matters little beside its status; that of a success matters.
            fault: if status < 400 { HttpFault::NoWholeAnswer } else { HttpFault::Nonsense },
            status: Some(status),
            cause: format!("reading the answer of {}: {cause}", url.host()),
        })?;
        Ok(HttpAnswer { status, headers: head.headers, body })
    }

    /// Describes the host, and the proxy on the way to it.
    pub(super) fn destination(&self, url: &CheckedUrl) -> String {
        match self.outbound.proxy_for(url.is_https(), url.host(), url.port()) {
            Some(proxy) => format!("{} through the proxy {proxy}", url.host()),
            None => url.host().to_owned(),
        }
    }

    fn too_late(&self, url: &CheckedUrl, limit: Duration, sent: bool) -> HttpFailure {
        HttpFailure {
            fault: if sent { HttpFault::NoWholeAnswer } else { HttpFault::NotSent },
            status: None,
            cause: format!("{} did not answer within {} ms", self.destination(url), limit.as_millis()),
        }
    }
}

/// Makes an `Authorization` header that debug output does not show.
pub(super) fn authorization(value: &str) -> Option<(HeaderName, HeaderValue)> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some((AUTHORIZATION, value))
}

/// Returns only the host that a redirect names: its sender is unknown, and a query may repeat what was sent.
fn leads_to(headers: &HeaderMap) -> String {
    let location = headers.get(LOCATION).and_then(|location| location.to_str().ok());
    let Some(uri) = location.and_then(|location| location.parse::<http::Uri>().ok()) else {
        return "no readable address".to_owned();
    };
    match (uri.scheme_str(), uri.host(), uri.port()) {
        (None, None, _) => "another path of this host".to_owned(),
        (Some(scheme @ ("http" | "https")), Some(host), port) if is_plain_host(host) => {
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            format!("{scheme}://{host}{port}")
        }
        _ => "no readable address".to_owned(),
    }
}

fn is_plain_host(host: &str) -> bool {
    host.len() <= 253 && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte))
}

async fn read_whole<B>(mut body: B, cap: usize) -> Result<Zeroizing<Vec<u8>>, String>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Error + 'static,
{
    let too_large = || format!("it is larger than {cap} bytes");
    let expected = body.size_hint().lower();
    let expected = usize::try_from(expected).unwrap_or(usize::MAX);
    if expected > cap {
        return Err(too_large());
    }
    // Large enough from the start if the size is known, so that no outgrown buffer stays behind with a
    // secret.
    let room = if expected > 0 { expected } else { USUAL_ANSWER };
    let mut whole = Zeroizing::new(Vec::with_capacity(room));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| chain(&error))?;
        if let Some(data) = frame.data_ref() {
            if whole.len() + data.len() > cap {
                return Err(too_large());
            }
            if whole.len() + data.len() > whole.capacity() {
                let mut larger = Zeroizing::new(Vec::with_capacity(cap));
                larger.extend_from_slice(&whole);
                whole = larger;
            }
            whole.extend_from_slice(data);
        }
    }
    Ok(whole)
}

/// Records whether any part of a request may have been sent.
#[derive(Clone, Default)]
struct Sent(Arc<AtomicBool>);

impl Sent {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A request's body in one piece. It is wiped when dropped, and records when it is taken.
struct Outgoing {
    data: Option<Bytes>,
    sent: Sent,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.sent.0.store(true, Ordering::Release);
        Poll::Ready(self.data.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.as_ref().map_or(0, |data| data.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::testing::{ManualClock, Reply, Server};

    fn client(host: &str) -> HttpClient {
        let ca = include_str!("../../tests/data/authority/keys/tls-ca.pem");
        HttpClient::new(host, &Roots::Only(ca.to_owned()), &Arc::default(), true, ManualClock::new())
            .expect("a client")
    }

    fn url(text: &str) -> CheckedUrl {
        CheckedUrl::parse(text, true).expect("a URL")
    }

    async fn post(client: &HttpClient, url: &CheckedUrl) -> HttpFailure {
        let form = Zeroizing::new("a=b".to_owned());
        client.post(url, HeaderMap::new(), form, Duration::from_millis(400)).await.err().expect("a failure")
    }

    #[tokio::test]
    async fn nothing_was_sent_before_the_handshake_was_done() {
        // A server that accepts the connection and stays silent: the handshake never ends.
        let server = Server::start(|_| Reply::Hang);
        let port = server.address.port();
        let silent = post(&client("127.0.0.1"), &url(&format!("https://127.0.0.1:{port}/"))).await;
        assert_eq!((silent.fault, silent.status), (HttpFault::NotSent, None), "{}", silent.cause);
        // The same server without TLS reads the request and stays silent.
        let silent = post(&client("127.0.0.1"), &url(&format!("http://127.0.0.1:{port}/"))).await;
        assert_eq!(silent.fault, HttpFault::NoWholeAnswer, "{}", silent.cause);
        assert_eq!(server.seen().len(), 1);
    }

    #[tokio::test]
    async fn names_ports_and_certificates_that_are_wrong_were_sent_nothing() {
        let server = Server::start_tls(|_| Reply::Close);
        let port = server.address.port();
        let rows = [
            ("https://nowhere.invalid/".to_owned(), "nowhere.invalid"),
            (format!("https://127.0.0.2:{port}/"), "127.0.0.2"), // not in the certificate, or nobody listens
        ];
        for (text, host) in rows {
            let failure = post(&client(host), &url(&text)).await;
            assert_eq!(failure.fault, HttpFault::NotSent, "{text}: {}", failure.cause);
        }
        assert!(server.seen().is_empty());
        let failure = post(&client("localhost"), &url(&format!("https://localhost:{port}/"))).await;
        assert_eq!(failure.fault, HttpFault::NoWholeAnswer, "{}", failure.cause);
        assert_eq!(server.seen().len(), 1);
    }

    #[tokio::test]
    async fn a_public_authority_leads_to_no_local_server() {
        let server = Server::start(|_| Reply::Answer { status: 200, headers: vec![], body: String::new() });
        let port = server.address.port();
        let client = client("login.example");
        for host in [
            "127.0.0.1",
            "localhost",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "169.254.169.254",
            "10.0.0.1",
            "0.0.0.0",
        ] {
            // As a hostile document would name it, after the document's own check.
            let url = url(&format!("https://{host}:{port}/"));
            let failure = post(&client, &url).await;
            assert_eq!(failure.fault, HttpFault::NotSent, "{host}");
            let refused = failure.cause.contains("private, local or reserved");
            assert!(refused, "{host}: {}", failure.cause);
            assert!(client.get(&url, HeaderMap::new(), Duration::from_millis(400)).await.is_err(), "{host}");
        }
        // Forms of an IPv4 address that only resolvers know.
        for host in ["2130706433", "0x7f000001", "0177.0.0.1", "127.1"] {
            let failure = post(&client, &url(&format!("https://{host}:{port}/"))).await;
            assert_eq!(failure.fault, HttpFault::NotSent, "{host}: {}", failure.cause);
        }
        assert!(server.seen().is_empty());
    }

    #[tokio::test]
    async fn a_redirect_says_the_host_that_it_leads_to_and_no_more() {
        let rows = [
            ("https://login.example/new?code=canary", "(301) to https://login.example, which"),
            ("https://login.example:8443", "(301) to https://login.example:8443, which"),
            ("https://u:canary@login.example/", "(301) to https://login.example, which"),
            ("http://[::1]:80/canary", "(301) to http://[::1]:80, which"),
            ("/canary?code=canary", "(301) to another path of this host, which"),
            ("javascript:canary", "(301) to no readable address, which"),
            ("https://canary%0a.example/", "(301) to no readable address, which"),
            ("", "(301) to no readable address, which"),
        ];
        for (location, expected) in rows {
            let server = Server::start(move |_| Reply::Answer {
                status: 301,
                headers: vec![("location", location.to_owned())],
                body: String::new(),
            });
            let client = client("127.0.0.1");
            let read = client.get(&url(&server.origin()), HeaderMap::new(), Duration::from_secs(5)).await;
            for failure in [read.err().expect("a failure"), post(&client, &url(&server.origin())).await] {
                assert_eq!((failure.fault, failure.status), (HttpFault::Nonsense, Some(301)), "{location}");
                assert!(failure.cause.contains(expected), "{location}: {}", failure.cause);
                assert!(!failure.cause.contains("canary"), "{location}: {}", failure.cause);
            }
        }
    }

    #[tokio::test]
    async fn an_answer_may_arrive_in_pieces_up_to_the_cap() {
        let chunk = format!("{:x}\r\n{}\r\n", 10_000, "x".repeat(10_000));
        let bytes = format!(
            "HTTP/1.1 200 X\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{}0\r\n\r\n",
            chunk.repeat(13)
        );
        let server = Server::start(move |_| Reply::Raw(bytes.clone().into_bytes()));
        let client = client("127.0.0.1");
        let url = url(&server.origin());
        let Ok(answer) = client.get(&url, HeaderMap::new(), Duration::from_secs(5)).await else {
            panic!("a document")
        };
        assert_eq!(answer.body.len(), 130_000);
        let form = Zeroizing::new("a=b".to_owned());
        let answer = client.post(&url, HeaderMap::new(), form, Duration::from_secs(5)).await;
        let Ok(answer) = answer else { panic!("a token answer") };
        assert_eq!(answer.body.len(), 130_000);
    }
}
