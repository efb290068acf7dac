//! The server: connections, limits, routing, and the faults that concern bytes and not meaning.

use parking_lot::{Mutex, MutexGuard};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep};
use tokio_rustls::TlsAcceptor;

use crate::control;
use crate::faults::{Fault, Garbage, Target};
use crate::ledger::{AuthMethod, Endpoint, LedgerEntry};
use crate::message::{Answer, Params, Request};
use crate::random;
use crate::state::State;

/// The largest request body.
const MOST_BODY_BYTES: usize = 64 * 1024;

/// The largest body of a request to Graph: a part of an upload.
const MOST_GRAPH_BYTES: usize = 8 * 1024 * 1024;

/// How long a client may take to send its request head, and to finish a TLS handshake. Pooled connections may
/// lie idle for as long, so it is generous.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Most connections; further clients wait until one closes.
const MOST_CONNECTIONS: usize = 1024;

/// State shared by handlers and controls.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    connections: AtomicU64,
}

impl Shared {
    pub(crate) fn new(state: State) -> Self {
        Self { state: Mutex::new(state), connections: AtomicU64::new(0) }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// Accepts connections until dropped.
pub(crate) async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept(), if connections.len() < MOST_CONNECTIONS => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((stream, peer)) = accepted else {
            // Out of file descriptors, most likely; give connections time to close.
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let client = Client { connection: shared.connections.fetch_add(1, Ordering::Relaxed) + 1, peer };
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            match tls {
                None => connection(stream, client, shared).await,
                Some(tls) => {
                    if let Ok(Ok(stream)) = tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream)).await {
                        connection(stream, client, shared).await;
                    }
                }
            }
        });
    }
}

/// The other side of a connection.
#[derive(Clone, Copy)]
struct Client {
    connection: u64,
    peer: SocketAddr,
}

/// Records in the ledger when a request ends, even if its client went away.
struct Ending {
    shared: Arc<Shared>,
    sequence: u64,
    delivered: bool,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let now = state.clock.now().system_time();
        state.ledger.end(self.sequence, now, self.delivered);
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    client: Client,
    shared: Arc<Shared>,
) {
    let service = service_fn(move |request| handle(request, client, Arc::clone(&shared)));
    // A failed connection is the client's doing, or the effect of a fault.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MOST_BODY_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// The connection closes without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is dropped on purpose")]
struct Dropped;

async fn handle(
    incoming: http::Request<Incoming>,
    client: Client,
    shared: Arc<Shared>,
) -> Result<Response<Payload>, Dropped> {
    let request = match read(incoming, client.connection).await {
        Ok(request) => request,
        Err(status) => {
            return Ok(respond(
                Answer::json(status, serde_json::json!({ "error": "invalid_request" })),
                None,
                None,
                None,
            ));
        }
    };
    if let Some(rest) = request.path.strip_prefix("/_emulator") {
        return Ok(respond(control::handle(&shared, &request, rest), None, None, None));
    }

    let route = Route::of(&request.path);
    let (sequence, faults, mut released, too_many) = {
        let mut state = shared.state();
        let (sequence, faults) = state.admit_request(&request, client.peer, &route);
        let too_many = state.one_too_many(&request, &route, sequence);
        (sequence, faults, state.released.subscribe(), too_many)
    };
    let ending = Ending { shared: Arc::clone(&shared), sequence, delivered: false };
    if let Some(answer) = too_many {
        return Ok(respond(answer, Some(&request), None, Some(ending)));
    }
    for fault in &faults {
        match fault {
            Fault::Delay(wait) => sleep(*wait).await,
            Fault::Hold => drop(released.changed().await),
            Fault::Hang(None) => std::future::pending().await,
            Fault::Hang(Some(wait)) => {
                sleep(*wait).await;
                return Err(Dropped);
            }
            Fault::DropBeforeProcessing => return Err(Dropped),
            _ => {}
        }
    }
    let answer = {
        let mut state = shared.state();
        let usual = state.base_for(&request).map(|base| std::mem::replace(&mut state.base, base));
        let answer = match state.replaced(&faults, &request) {
            Some(answer) => answer,
            None => state.dispatch(&request, &route, &faults),
        };
        if let Some(usual) = usual {
            state.base = usual;
        }
        state.ledger.note(sequence, &answer.notes);
        answer
    };
    for fault in &faults {
        match fault {
            Fault::DelayAnswer(wait) => sleep(*wait).await,
            Fault::HoldAnswer => drop(released.changed().await),
            Fault::DropAfterProcessing => return Err(Dropped),
            _ => {}
        }
    }
    let date = {
        let mut state = shared.state();
        state.ledger.close(sequence, answer.status);
        state.clock.now().in_header()
    };
    let mut answer = answer;
    answer.headers.push(("date", date));
    let pace = faults.iter().find_map(|fault| match fault {
        Fault::SlowDrip { bytes, interval } => {
            Some(Pace::Drip { bytes: (*bytes).max(1), interval: *interval })
        }
        Fault::CutAnswer => Some(Pace::Cut),
        _ => None,
    });
    Ok(respond(answer, Some(&request), pace, Some(ending)))
}

async fn read(incoming: http::Request<Incoming>, connection: u64) -> Result<Request, u16> {
    let (head, body) = incoming.into_parts();
    let most = if head.uri.path().starts_with("/graph/") { MOST_GRAPH_BYTES } else { MOST_BODY_BYTES };
    let read = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, most).collect()).await;
    let body = match read {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return Err(413),
        Err(_) => return Err(408),
    };
    let raw_query = head.uri.query().unwrap_or_default().to_owned();
    let path = percent_encoding::percent_decode_str(head.uri.path()).decode_utf8_lossy().into_owned();
    let client_request_id =
        head.headers.get("client-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let query = Params::parse(raw_query.as_bytes());
    let client_request_id = client_request_id.or_else(|| query.get("client-request-id").map(str::to_owned));
    let mut request = Request {
        method: head.method,
        path,
        query,
        raw_query,
        form: Params::default(),
        headers: head.headers,
        ids: crate::errors::Ids::new(client_request_id.as_deref()),
        body,
        connection,
    };
    if request.is_form() {
        request.form = Params::parse(&request.body);
        // SDKs put the correlation id into the header, the query or the form.
        if let Some(id) = request.form.get("client-request-id") {
            request.ids = crate::errors::Ids::new(Some(id));
        }
    }
    Ok(request)
}

/// The handler for a path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Route {
    Authorize(String),
    Token(String),
    Logout(String),
    OpenidConfiguration(String),
    Jwks(String),
    InstanceDiscovery,
    UserRealm(String),
    AdminConsent {
        tenant: String,
        legacy: bool,
    },
    /// The path from `/v1.0` or `/oidc` on.
    Graph(String),
    Unknown,
}

impl Route {
    fn of(path: &str) -> Self {
        let graph = path.strip_prefix("/graph").unwrap_or(path);
        if graph == "/v1.0" || graph.starts_with("/v1.0/") || graph == "/oidc/userinfo" {
            return Self::Graph(graph.to_owned());
        }
        let segments: Vec<_> = path.trim_matches('/').split('/').collect();
        let tenant = || segments[0].to_owned();
        match segments[1..] {
            ["oauth2", "v2.0", "authorize"] => Self::Authorize(tenant()),
            ["oauth2", "v2.0", "token"] => Self::Token(tenant()),
            ["oauth2", "v2.0", "logout"] => Self::Logout(tenant()),
            ["v2.0", ".well-known", "openid-configuration"] => Self::OpenidConfiguration(tenant()),
            ["discovery", "v2.0", "keys"] => Self::Jwks(tenant()),
            ["discovery", "instance"] => Self::InstanceDiscovery,
            ["userrealm", upn] | ["UserRealm", upn] => Self::UserRealm(upn.to_owned()),
            ["v2.0", "adminconsent"] => Self::AdminConsent { tenant: tenant(), legacy: false },
            ["adminconsent"] => Self::AdminConsent { tenant: tenant(), legacy: true },
            _ => Self::Unknown,
        }
    }

    fn endpoint(&self) -> Endpoint {
        match self {
            Self::Authorize(_) => Endpoint::Authorize,
            Self::Token(_) => Endpoint::Token,
            Self::Logout(_) => Endpoint::Logout,
            Self::OpenidConfiguration(_) | Self::InstanceDiscovery | Self::UserRealm(_) => {
                Endpoint::Discovery
            }
            Self::Jwks(_) => Endpoint::Jwks,
            Self::AdminConsent { .. } => Endpoint::AdminConsent,
            Self::Graph(_) => Endpoint::Graph,
            Self::Unknown => Endpoint::Other,
        }
    }

    fn tenant(&self) -> Option<&str> {
        match self {
            Self::Authorize(tenant)
            | Self::Token(tenant)
            | Self::Logout(tenant)
            | Self::OpenidConfiguration(tenant)
            | Self::Jwks(tenant)
            | Self::AdminConsent { tenant, .. } => Some(tenant),
            Self::InstanceDiscovery | Self::UserRealm(_) | Self::Graph(_) | Self::Unknown => None,
        }
    }
}

impl State {
    /// The answer of a request about a mailbox that has as many under way as it takes.
    fn one_too_many(&mut self, request: &Request, route: &Route, sequence: u64) -> Option<Answer> {
        let most = self.settings.mailbox_concurrency?;
        let Route::Graph(path) = route else { return None };
        if !path.starts_with("/v1.0/me/") || self.ledger.beside(sequence) <= most {
            return None;
        }
        let words = "Application is over its MailboxConcurrency limit.";
        self.ledger.close(sequence, 429);
        Some(Answer::json(429, self.graph_error(request, "ApplicationThrottled", words)))
    }

    /// Opens the ledger entry and finds the faults that hit this request.
    fn admit_request(&mut self, request: &Request, peer: SocketAddr, route: &Route) -> (u64, Vec<Fault>) {
        let endpoint = route.endpoint();
        let token = request.bearer().and_then(|text| self.access_tokens.get(text));
        let user = match endpoint {
            Endpoint::Token => self.token_user(request),
            Endpoint::Graph => token.and_then(|token| token.upn.clone()),
            Endpoint::Authorize => {
                let path = route.tenant().and_then(|tenant| self.known_tenant(tenant).ok());
                path.and_then(|path| self.authorize_user(request, &path))
            }
            _ => None,
        };
        let of_both =
            |name: &str| request.query.get(name).or_else(|| request.form.get(name)).map(str::to_owned);
        let client_id = of_both("client_id")
            .or_else(|| token.map(|token| token.client_id.clone()))
            .or_else(|| crate::client_auth::basic_client(request));
        let grant_type = request.form.get("grant_type").map(str::to_owned);
        let target = Target {
            endpoint,
            grant_type: grant_type.as_deref(),
            user: user.as_deref(),
            client: client_id.as_deref(),
        };
        let faults = self.rules.strike(&target, |fault| !fault.is_late(endpoint));
        let refresh = request.form.get("refresh_token").and_then(|text| self.refresh_tokens.get(text));
        let entry = LedgerEntry {
            sequence: 0,
            time: self.clock.now().system_time(),
            connection: request.connection,
            peer,
            method: request.method.to_string(),
            path: request.path.clone(),
            endpoint,
            tenant: route.tenant().map(str::to_owned),
            access_presented: token.map(|token| token.serial),
            family: refresh.map(|token| token.family),
            refresh_presented: refresh.map(|token| token.serial),
            client_id,
            grant_type,
            auth_method: AuthMethod::None,
            credential: None,
            status: None,
            ended: None,
            delivered: false,
            aadsts: None,
            error: None,
            faults: faults.iter().map(|fault| fault.name().to_owned()).collect(),
            user,
            scopes_requested: of_both("scope")
                .unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
            scopes_granted: Vec::new(),
            refresh_issued: None,
            access_issued: None,
            claims_sent: of_both("claims").is_some(),
            query_keys: request.query.keys(),
            form_keys: request.form.keys(),
            header_keys: request.headers.keys().map(ToString::to_string).collect(),
            correlation_id: request.ids.correlation.clone(),
        };
        if endpoint == Endpoint::Token {
            self.remember_presented(&request.form);
        }
        (self.ledger.open(entry), faults)
    }

    /// Returns the base of URLs for this request, if they follow the host it was sent to.
    fn base_for(&self, request: &Request) -> Option<String> {
        if !self.settings.follow_host {
            return None;
        }
        let host: SocketAddr = request.header("host")?.parse().ok()?;
        let scheme = self.base.split("://").next()?;
        host.ip().is_loopback().then(|| format!("{scheme}://{host}"))
    }

    /// Returns the answer of the fault that replaces processing, if one hit.
    fn replaced(&self, faults: &[Fault], request: &Request) -> Option<Answer> {
        let fault = faults.iter().find(|fault| fault.replaces_processing())?;
        Some(match fault {
            Fault::Status { status, retry_after } => {
                let answer = Answer::json(*status, serde_json::json!({}));
                match retry_after {
                    Some(after) => answer.header("retry-after", self.retry_after(*after)),
                    None => answer,
                }
            }
            Fault::Garbage(kind) => garbage(*kind),
            Fault::Redirect(to) => Answer::redirect(to.clone()),
            other => self.failure(&self.failure_of(other)?, request),
        })
    }

    fn dispatch(&mut self, request: &Request, route: &Route, faults: &[Fault]) -> Answer {
        match route {
            Route::Authorize(tenant) => self.authorize(request, tenant),
            Route::Token(tenant) => self.token(request, tenant, faults),
            Route::Logout(_) => self.logout(request),
            Route::OpenidConfiguration(tenant) => self.openid_configuration(request, tenant, faults),
            Route::Jwks(tenant) => self.jwks(request, tenant, faults),
            Route::InstanceDiscovery => self.instance_discovery(request),
            Route::UserRealm(upn) => self.user_realm(upn),
            Route::AdminConsent { tenant, legacy } => self.admin_consent(request, tenant, *legacy),
            Route::Graph(path) => self.graph(request, path),
            Route::Unknown => Answer::json(404, serde_json::json!({ "error": "not_found" })),
        }
    }
}

/// Makes invalid answers.
fn garbage(kind: Garbage) -> Answer {
    const JSON: &str = "application/json; charset=utf-8";
    const PAGE: &str =
        "<!DOCTYPE html><html><body><h1>Our services aren't available right now</h1></body></html>";
    match kind {
        Garbage::Html => Answer::html(200, PAGE.to_owned()),
        Garbage::HtmlError => Answer::html(502, PAGE.to_owned()),
        Garbage::NotJson => {
            Answer::text(200, JSON, "upstream connect error or disconnect/reset before headers")
        }
        Garbage::TruncatedJson => {
            Answer::text(200, JSON, r#"{"token_type":"Bearer","expires_in":3599,"access_tok"#)
        }
        Garbage::TrailingBytes => Answer::text(
            200,
            JSON,
            r#"{"token_type":"Bearer","expires_in":3599,"access_token":"garbage","scope":""}trailing"#,
        ),
        Garbage::DuplicateKeys => Answer::text(
            200,
            JSON,
            concat!(
                r#"{"token_type":"Bearer","expires_in":3599,"#,
                r#""access_token":"first","access_token":"second","scope":""}"#
            ),
        ),
        Garbage::HugeBody => {
            Answer::text(200, JSON, format!(r#"{{"access_token":"{}"}}"#, "A".repeat(16 * 1024 * 1024)))
        }
        Garbage::Empty => Answer::text(200, JSON, ""),
    }
}

/// Turns an answer into a response with the headers Entra adds.
fn respond(
    answer: Answer,
    request: Option<&Request>,
    pace: Option<Pace>,
    ending: Option<Ending>,
) -> Response<Payload> {
    let mut response = Response::new(Payload::new(answer.body.into(), pace, ending));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    let mut put = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.append(HeaderName::from_static(name), value);
        }
    };
    for (name, value) in &answer.headers {
        put(name, value);
    }
    put("cache-control", "no-store, no-cache");
    put("pragma", "no-cache");
    put("x-content-type-options", "nosniff");
    if let Some(request) = request {
        put("x-ms-request-id", &request.ids.trace);
        put("x-ms-ests-server", "2.1.14167.14 - EMU ProdSlices");
        put("x-ms-clitelem", &format!("1,{},0,,", answer.notes.aadsts.unwrap_or(0)));
        put("x-ms-srs", "1.P");
        if request
            .header("return-client-request-id")
            .is_some_and(|wanted| wanted.eq_ignore_ascii_case("true"))
        {
            put("client-request-id", &request.ids.correlation);
        }
        put("set-cookie", &format!("fpc={}; path=/; secure; HttpOnly; SameSite=None", random::text::<18>()));
        put("set-cookie", "x-ms-gateway-slice=estsfd; path=/; secure; HttpOnly");
        put("set-cookie", "stsservicecookie=estsfd; path=/; secure; HttpOnly");
    }
    response
}

/// How a delayed body is sent.
#[derive(Clone, Copy, Debug)]
enum Pace {
    Drip { bytes: usize, interval: Duration },
    Cut,
}

/// A body that can be sent slowly, or only in part.
struct Payload {
    left: Bytes,
    announced: u64,
    pace: Option<Pace>,
    pause: Option<Pin<Box<Sleep>>>,
    ending: Option<Ending>,
}

impl Payload {
    fn new(bytes: Bytes, pace: Option<Pace>, ending: Option<Ending>) -> Self {
        let announced = bytes.len() as u64;
        let left = match pace {
            Some(Pace::Cut) => bytes.slice(..bytes.len() / 2),
            _ => bytes,
        };
        let mut payload = Self { left, announced, pace, pause: None, ending };
        if payload.is_end_stream() {
            payload.note_delivered();
        }
        payload
    }

    fn note_delivered(&mut self) {
        if let Some(ending) = &mut self.ending {
            ending.delivered = true;
        }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(pause) = &mut self.pause {
            if pause.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.pause = None;
        }
        if self.left.is_empty() {
            return Poll::Ready(match self.pace {
                Some(Pace::Cut) => Some(Err(io::Error::other("cut on purpose"))),
                _ => None,
            });
        }
        let take = match self.pace {
            Some(Pace::Drip { bytes, interval }) => {
                self.pause = Some(Box::pin(sleep(interval)));
                bytes.min(self.left.len())
            }
            _ => self.left.len(),
        };
        let data = self.left.split_to(take);
        if self.is_end_stream() {
            self.note_delivered();
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty() && !matches!(self.pace, Some(Pace::Cut))
    }

    fn size_hint(&self) -> SizeHint {
        match self.pace {
            Some(Pace::Cut) => SizeHint::with_exact(self.announced),
            _ => SizeHint::with_exact(self.left.len() as u64),
        }
    }
}
