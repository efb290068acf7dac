//! The local API: internal services come as themselves and get tokens and connect sessions.
//!
//! May know: the broker, callers, the listener's request and response. Decides nothing of the product: it reads
//! requests strictly, asks the broker, and puts the answer into the contract's shapes.
//!
//! Invariants:
//! 1. Nothing is looked at before the caller is known, but `/openapi.json`; a path that is no route is 401 to those
//!    who are not (B11).
//! 2. A credential is read from its header alone; one in a URL is refused, never used (B1).
//! 3. Every answer carries `Cache-Control: no-store` (B2).
//! 4. Every request of a caller is counted before it is served, whatever it is for: routes are for an [`Admitted`] one.
//! 5. Every hand-out and every refusal is one audit record and one count, and is answered after that.

pub mod admin;
mod body;
pub mod path;
pub mod problem;
#[cfg(any(test, feature = "testkit"))]
pub mod properties;
pub mod shapes;
pub mod to_its_end;
pub mod upkeep;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::Full;
use percent_encoding::percent_decode_str;
use serde::Serialize;

use self::path::{NoConnection, Of};
use self::problem::{Problem, json};
use self::shapes::{AccountShape, ConnectionShape, ExplainShape, PageShape, SessionShape};
use self::to_its_end::Acts;
use crate::broker::confirm::Confirmation;
use crate::broker::connect::NewSession;
use crate::broker::inspect::{ListRequest, ShownPage};
use crate::broker::serve::TokenRequest;
use crate::broker::{Broker, Refusal};
use crate::callers::limit::{Admitted, Limiter};
use crate::callers::{AuthenticationFailure, Caller, Credential, LiveCallers};
use crate::domain::id::{AppName, ConnectionKey, ConnectionName, SessionId};
use crate::domain::task::BoxFuture;
use crate::domain::time::Clock;
use crate::events::{Events, HandOut, Listener, Read, Who};
use crate::listener::{Handler, Origin, Pairs, Request, RequestId, Response};
use crate::refresh::Served;

/// The longest that a long poll may wait.
const MOST_WAIT: u64 = 60;

/// Says which guarantee is gone: `store`, that what is served was compared with the store within a second.
pub const DEGRADED: &str = "tokenward-degraded";

/// The API document, kept in step with the routes by a test.
pub const OPENAPI: &str = include_str!("openapi.json");

/// The local API.
pub struct LocalApi {
    broker: Arc<Broker>,
    callers: LiveCallers,
    limiter: Limiter,
    clock: Arc<dyn Clock>,
    events: Arc<Events>,
}

/// Every route of the local API: method and path, as the API document spells them.
pub const ROUTES: [(&str, &str); 12] = [
    ("GET", "/openapi.json"),
    ("GET", "/v1/apps/{app}/connections/{connection}/token"),
    ("POST", "/v1/apps/{app}/connections/{connection}/token"),
    ("GET", "/v1/apps/{app}/connections/{connection}/explain"),
    ("GET", "/v1/apps/{app}/connections/{connection}"),
    ("DELETE", "/v1/apps/{app}/connections/{connection}"),
    ("GET", "/v1/apps/{app}/connections"),
    ("POST", "/v1/connect-sessions"),
    ("GET", "/v1/connect-sessions/{id}"),
    ("POST", "/v1/connect-sessions/{id}/confirm"),
    ("POST", "/v1/admin-consent-sessions"),
    ("GET", "/v1/admin-consent-sessions/{id}"),
];

enum Route {
    Document,
    Connection(ConnectionKey, Of),
    Connections(AppName),
    NewSession,
    Session(SessionId),
    Confirm(SessionId),
    NewAdminConsent,
    AdminConsent(SessionId),
}

#[derive(Serialize)]
struct TokenShape<'a> {
    access_token: &'a str,
    token_type: &'static str,
    expires_in: u64,
    expires_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_in: Option<u64>,
    scope: String,
    connection: &'a str,
    account: AccountShape,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

impl LocalApi {
    /// The API over a broker and its callers.
    pub fn new(
        broker: Arc<Broker>,
        callers: LiveCallers,
        limiter: Limiter,
        clock: Arc<dyn Clock>,
        events: Arc<Events>,
    ) -> Self {
        LocalApi { broker, callers, limiter, clock, events }
    }

    async fn answer(&self, request: Request) -> Response {
        let id = request.request_id.clone();
        match self.route(request, &id).await {
            Ok(response) => response,
            Err(problem) => problem.response(id.as_str()),
        }
    }

    /// Everything up to the routes: who asks, and that it is counted. What is malformed, refused or leads nowhere counts too.
    async fn route(&self, request: Request, id: &RequestId) -> Result<Response, Problem> {
        let clean = refuse_credential_in_url(&request);
        if clean.is_ok() && request.path == "/openapi.json" && request.method == Method::GET {
            let mut response = http::Response::new(Full::new(Bytes::from_static(OPENAPI.as_bytes())));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            return Ok(response);
        }
        let who = Who { request_id: id, origin: request.peer.origin, listener: Listener::Local };
        let caller = match self.authenticate(&request.headers, who.origin).await {
            Ok(caller) => caller,
            Err(failure) => {
                clean?;
                self.events.unauthenticated(who, failure);
                return Err(Problem::unauthenticated());
            }
        };
        let name = caller.name.clone();
        let admitted = self.limiter.admit(caller, self.clock.monotonic());
        let found = clean.and_then(|()| find_in(&request.path));
        match admitted {
            Ok(admitted) => {
                let route = found?;
                let read = route.read(&request.method);
                let outcome = self.serve(&admitted, route, request, who).await;
                if let (Err(problem), Some(read)) = (&outcome, read)
                    && problem.denies()
                {
                    self.events.reading_refused(who, &name, read, problem.code).await;
                }
                outcome
            }
            Err(after) => {
                // Whatever it was for, and also where it leads nowhere.
                self.events.count_over_rate(&name);
                let problem = Problem::of(Refusal::RateLimited { retry_after: after.0 });
                match &found {
                    Ok(Route::Connection(key, Of::Token)) => {
                        self.events.refused(who, &name, key, problem.code, Duration::ZERO).await;
                    }
                    other => {
                        let about = other.as_ref().map_or((None, None), Route::about);
                        self.events.over_its_rate(who, &name, about, problem.code).await;
                    }
                }
                Err(problem)
            }
        }
    }

    /// The routes, for a caller whose request was counted.
    async fn serve(
        &self,
        admitted: &Admitted<'_>,
        route: Route,
        request: Request,
        who: Who<'_>,
    ) -> Result<Response, Problem> {
        let caller = admitted.caller();
        let query =
            Pairs::read(request.query.as_deref().unwrap_or_default().as_bytes()).map_err(Problem::query)?;
        let method = request.method.clone();
        match (route, method) {
            (Route::Connection(key, Of::Token), Method::GET) => {
                let asked = body::token_request_of(&query)?;
                self.token(admitted, &key, asked, query.value("connect") == Some("1"), who).await
            }
            (Route::Connection(key, Of::Token), Method::POST) => {
                let connect = query.value("connect") == Some("1");
                let asked = body::token_request(body::read(request.body).await?)?;
                self.token(admitted, &key, asked, connect, who).await
            }
            (Route::Connection(key, Of::Connection), Method::GET) => {
                let shown = self.broker.show(&caller.policy, &key).await.map_err(Problem::of)?;
                Ok(json(StatusCode::OK, &ConnectionShape::from(&shown)))
            }
            (Route::Connection(key, Of::Explain), Method::GET) => {
                let shown = self.broker.show(&caller.policy, &key).await.map_err(Problem::of)?;
                Ok(json(StatusCode::OK, &ExplainShape::new(&shown, &self.broker.attempts(&shown))))
            }
            (Route::Connection(key, Of::Connection), Method::DELETE) => {
                let outcome = self.broker.delete(&caller.policy, &key).await;
                self.events.deleted(who, &caller.name, &key, code_of(&outcome)).await;
                outcome.map_err(Problem::of)?;
                let mut response = http::Response::new(Full::new(Bytes::new()));
                *response.status_mut() = StatusCode::NO_CONTENT;
                Ok(response)
            }
            (Route::Connections(app), Method::GET) => {
                let request = list_request(&self.broker, &app, &query)?;
                let page = self.broker.list(&caller.policy, &app, &request).await.map_err(Problem::of)?;
                // The request itself paid for the first one.
                admitted.charge(page.pages_read.saturating_sub(1), self.clock.monotonic());
                Ok(json(StatusCode::OK, &page_shape(&self.broker, &app, &page)))
            }
            (Route::NewSession, Method::POST) => {
                let (key, session) = body::new_session(body::read(request.body).await?)?;
                self.start_session(caller, &key, session, who).await
            }
            (Route::Session(session), Method::GET) => {
                let wait = wait_of(&query)?;
                let state =
                    self.broker.session_state(&caller.policy, &session, wait).await.map_err(Problem::of)?;
                Ok(json(StatusCode::OK, &SessionShape::from(&state)))
            }
            (Route::Confirm(session), Method::POST) => {
                let confirmation = body::confirmation(body::read(request.body).await?)?;
                self.confirm(caller, &session, confirmation, who).await
            }
            (Route::NewAdminConsent, Method::POST) => {
                let asked = body::new_admin_consent(body::read(request.body).await?)?;
                self.start_admin_consent(caller, asked, who).await
            }
            (Route::AdminConsent(session), Method::GET) => {
                let state =
                    self.broker.admin_consent_state(&caller.policy, &session).await.map_err(Problem::of)?;
                Ok(json(StatusCode::OK, &body::consent_shape(&state)))
            }
            (route, _) => {
                let mut response = Problem::method_not_allowed().response(who.request_id.as_str());
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(route.methods()));
                Ok(response)
            }
        }
    }

    /// The caller, or the word for why there is none: that word is for the audit, outside they all look the same.
    async fn authenticate(
        &self,
        headers: &HeaderMap,
        origin: Origin,
    ) -> Result<Arc<Caller>, AuthenticationFailure> {
        let credential = credential(headers, origin).ok_or(AuthenticationFailure::Malformed)?;
        self.callers.load_full().authenticate(credential, self.clock.as_ref()).await
    }

    async fn token(
        &self,
        admitted: &Admitted<'_>,
        key: &ConnectionKey,
        asked: TokenRequest,
        connect: bool,
        who: Who<'_>,
    ) -> Result<Response, Problem> {
        let (caller, begun) = (admitted.caller(), self.clock.monotonic());
        let outcome = match admitted.take_for(key, begun) {
            Ok(()) => self.broker.token(&caller.policy, key, &asked).await,
            Err(after) => Err(Refusal::RateLimited { retry_after: after.0 }),
        };
        let elapsed = self.clock.monotonic().saturating_sub(begun);
        match outcome {
            Ok(served) => {
                let now = self.clock.now();
                let life = served.token.life_left(now);
                let scopes = &served.token.scopes;
                self.events
                    .handed_out(who, HandOut { caller: &caller.name, key, scopes, life, elapsed })
                    .await;
                Ok(self.token_response(key, &served, life))
            }
            Err(refusal) => {
                // Only where the user's act would mend it.
                let mendable = matches!(
                    refusal,
                    Refusal::ReauthorizationRequired { .. }
                        | Refusal::ConnectionNotFound
                        | Refusal::ScopeNotGranted { .. }
                );
                let problem = Problem::of(refusal);
                self.events.refused(who, &caller.name, key, problem.code, elapsed).await;
                if connect && mendable {
                    match self.broker.invite(&caller.policy, key).await {
                        Ok(invited) => {
                            self.events.connect_started(who, &caller.name, key, "ok").await;
                            return Err(problem.with_connect_url(invited.connect_url));
                        }
                        // The first problem is the answer; why there is no link beside it is for the log.
                        Err(refusal) => {
                            let code = refusal.outside().code;
                            self.events.connect_started(who, &caller.name, key, code).await;
                        }
                    }
                }
                Err(problem)
            }
        }
    }

    fn token_response(&self, key: &ConnectionKey, served: &Served, life: Duration) -> Response {
        let now = self.clock.now();
        let token = &served.token;
        let profile = &served.held.connection.profile;
        let shape = TokenShape {
            access_token: token.access_token.expose(),
            token_type: "Bearer",
            expires_in: life.as_secs(),
            expires_at: token.expires_at.rfc3339(),
            refresh_in: token.refresh_at.map(|at| at.since(now).as_secs()),
            scope: token.scopes.join(" "),
            connection: key.connection.as_str(),
            account: (&profile.account).into(),
            status: profile.status.as_str(),
            reason: profile.status.reason(),
        };
        let mut response = json(StatusCode::OK, &shape);
        if served.degraded {
            response.headers_mut().insert(DEGRADED, HeaderValue::from_static("store"));
        }
        response
    }

    async fn start_session(
        &self,
        caller: &Caller,
        key: &ConnectionKey,
        session: NewSession,
        who: Who<'_>,
    ) -> Result<Response, Problem> {
        #[derive(Serialize)]
        struct Started {
            id: String,
            connect_url: String,
            expires_at: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            remark: Option<String>,
        }
        let started = match self.broker.start_session(&caller.policy, key, session).await {
            Ok(started) => started,
            Err(refusal) => {
                let problem = Problem::of(refusal);
                self.events.connect_started(who, &caller.name, key, problem.code).await;
                return Err(problem);
            }
        };
        self.events.connect_started(who, &caller.name, key, "ok").await;
        if let Some(remark) = &started.remark {
            tracing::info!(request_id = %who.request_id, caller = %caller.name, app = %key.app, connection = %key.connection, remark);
        }
        let shape = Started {
            id: started.id.expose().to_owned(),
            connect_url: started.connect_url,
            expires_at: started.expires_at.rfc3339(),
            remark: started.remark,
        };
        Ok(json(StatusCode::CREATED, &shape))
    }

    async fn confirm(
        &self,
        caller: &Caller,
        session: &SessionId,
        confirmation: Confirmation,
        who: Who<'_>,
    ) -> Result<Response, Problem> {
        #[derive(Serialize)]
        struct Confirmed {
            state: &'static str,
            account: AccountShape,
        }
        match self.broker.confirm(&caller.policy, session, confirmation).await {
            Ok((key, account)) => {
                self.events.confirmed(who, &caller.name, &key, &account, session).await;
                Ok(json(StatusCode::OK, &Confirmed { state: "connected", account: (&account).into() }))
            }
            Err(refusal) => {
                let problem = Problem::of(refusal);
                self.events.confirmation_refused(who, &caller.name, session, problem.code).await;
                Err(problem)
            }
        }
    }

    async fn start_admin_consent(
        &self,
        caller: &Caller,
        asked: body::NewAdminConsent,
        who: Who<'_>,
    ) -> Result<Response, Problem> {
        #[derive(Serialize)]
        struct Started {
            id: String,
            admin_consent_url: String,
            expires_at: String,
        }
        let app = asked.app;
        let asked =
            self.broker.start_admin_consent(&caller.policy, &app, asked.tenant, asked.return_url).await;
        self.events.admin_consent_started(who, &caller.name, &app, code_of(&asked)).await;
        let started = asked.map_err(Problem::of)?;
        let shape = Started {
            id: started.id.expose().to_owned(),
            admin_consent_url: started.admin_consent_url,
            expires_at: started.expires_at.rfc3339(),
        };
        Ok(json(StatusCode::CREATED, &shape))
    }
}

impl Handler for LocalApi {
    fn handle<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        Box::pin(self.answer(request))
    }
}

impl Acts for LocalApi {
    fn is_act(&self, request: &Request) -> bool {
        find_in(&request.path).is_ok_and(|route| route.is_act(&request.method, request.query.as_deref()))
    }
}

/// The credential a request carries: its header's, which then decides alone, else the Unix peer's. `None` for a header
/// that is there and is no bearer.
pub(crate) fn credential(headers: &HeaderMap, origin: Origin) -> Option<Credential<'_>> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    match (values.next(), values.next(), origin) {
        (Some(value), None, _) => {
            let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(Credential::ApiKey(key.trim_start_matches(' ')))
        }
        (Some(_), Some(_), _) => None,
        (None, _, Origin::Unix { uid, .. }) => Some(Credential::UnixPeer { uid }),
        (None, _, Origin::Tcp(_)) => Some(Credential::None),
    }
}

/// RFC 6750 section 2.3's way is not ours: what stands in a URL stands in every log on the way.
pub(crate) fn refuse_credential_in_url(request: &Request) -> Result<(), Problem> {
    // As it was meant: an escape hides nothing from who reads the log.
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let query = request.query.as_deref().unwrap_or_default();
    let named = Pairs::names(query.as_bytes())
        .map_err(Problem::query)?
        .any(|name| ["access_token", "api_key", "authorization"].contains(&&*name.to_ascii_lowercase()));
    if named || decoded(query).contains("twk_") || decoded(&request.path).contains("twk_") {
        return Err(Problem::invalid(
            "query",
            "carries a credential; send it in the Authorization header, and replace this one: it is in logs now",
        ));
    }
    Ok(())
}

fn find_in(path: &str) -> Result<Route, Problem> {
    let segments = path::segments(path).ok_or_else(|| {
        path::unreadable_name(path).map_or_else(Problem::no_such_path, Problem::no_connection)
    })?;
    find(&segments)
}

fn find(segments: &[String]) -> Result<Route, Problem> {
    let words: Vec<&str> = segments.iter().map(String::as_str).collect();
    let found = match words[..] {
        ["openapi.json"] => Some(Route::Document),
        ["v1", "apps", app, "connections"] => AppName::parse(app).ok().map(Route::Connections),
        ["v1", "apps", app, "connections", ..] => {
            return match path::connection(app, &segments[4..]) {
                Ok((key, of)) => Ok(Route::Connection(key, of)),
                Err(NoConnection::App) => Err(Problem::of(Refusal::AppNotFound)),
                Err(NoConnection::Name(invalid)) => Err(Problem::no_connection(invalid)),
            };
        }
        ["v1", "connect-sessions"] => Some(Route::NewSession),
        ["v1", "connect-sessions", id] => SessionId::parse(id).ok().map(Route::Session),
        ["v1", "connect-sessions", id, "confirm"] => SessionId::parse(id).ok().map(Route::Confirm),
        ["v1", "admin-consent-sessions"] => Some(Route::NewAdminConsent),
        ["v1", "admin-consent-sessions", id] => SessionId::parse(id).ok().map(Route::AdminConsent),
        _ => None,
    };
    found.ok_or_else(Problem::no_such_path)
}

impl Route {
    /// The app and the connection that it names.
    fn about(&self) -> (Option<&AppName>, Option<&ConnectionName>) {
        match self {
            Route::Connection(key, _) => (Some(&key.app), Some(&key.connection)),
            Route::Connections(app) => (Some(app), None),
            Route::Document
            | Route::NewSession
            | Route::Session(_)
            | Route::Confirm(_)
            | Route::NewAdminConsent
            | Route::AdminConsent(_) => (None, None),
        }
    }

    fn methods(&self) -> &'static str {
        match self {
            Route::Connection(_, Of::Token) => "GET, POST",
            Route::Connection(_, Of::Connection) => "GET, DELETE",
            Route::Document
            | Route::Connection(_, Of::Explain)
            | Route::Connections(_)
            | Route::Session(_)
            | Route::AdminConsent(_) => "GET",
            Route::NewSession | Route::Confirm(_) | Route::NewAdminConsent => "POST",
        }
    }

    /// What is read there. Whatever else a route does, a hand-out, a session that is started, is told of where it is done, refused or
    /// not.
    fn read(&self, method: &Method) -> Option<Read> {
        let what = |what| Read { what, app: None, connection: None, session: None };
        let of_key = |word, key: &ConnectionKey| {
            let ConnectionKey { app, connection } = key.clone();
            Read { app: Some(app), connection: Some(connection), ..what(word) }
        };
        let of_session = |word, session: &SessionId| Read { session: Some(session.clone()), ..what(word) };
        let read = match self {
            Route::Connection(key, Of::Connection) => of_key("connection", key),
            Route::Connection(key, Of::Explain) => of_key("explain", key),
            Route::Connections(app) => Read { app: Some(app.clone()), ..what("connections") },
            Route::Session(session) => of_session("connect_session", session),
            Route::AdminConsent(session) => of_session("admin_consent_session", session),
            Route::Connection(_, Of::Token)
            | Route::Document
            | Route::NewSession
            | Route::Confirm(_)
            | Route::NewAdminConsent => return None,
        };
        (*method == Method::GET).then_some(read)
    }

    /// Whether this request may change what outlives it, so that it is done to its end ([`to_its_end`]).
    fn is_act(&self, method: &Method, query: Option<&str>) -> bool {
        match self {
            // A hand-out's record is put down in the step in which it is decided, so it needs no task. The link that is asked for beside
            // a refusal is an act.
            Route::Connection(_, Of::Token) => asks_for_link(query),
            Route::Document
            | Route::Connection(_, Of::Connection | Of::Explain)
            | Route::Connections(_)
            | Route::NewSession
            | Route::Session(_)
            | Route::Confirm(_)
            | Route::NewAdminConsent
            | Route::AdminConsent(_) => !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS),
        }
    }
}

/// As [`LocalApi::serve`] reads it, whatever way its name is spelled.
fn asks_for_link(query: Option<&str>) -> bool {
    Pairs::names(query.unwrap_or_default().as_bytes())
        .is_ok_and(|mut names| names.any(|name| name == "connect"))
}

pub(crate) fn list_request(broker: &Broker, app: &AppName, query: &Pairs) -> Result<ListRequest, Problem> {
    let after = query.value("cursor").map(|cursor| broker.read_cursor(app, cursor));
    Ok(ListRequest {
        status: query.value("status").map(str::to_owned),
        tenant: query.value("tenant").map(str::to_owned),
        after: after.transpose().map_err(Problem::of)?,
    })
}

pub(crate) fn page_shape(broker: &Broker, app: &AppName, page: &ShownPage) -> PageShape {
    PageShape::new(page, page.next.as_ref().map(|next| broker.cursor(app, next)))
}

fn wait_of(query: &Pairs) -> Result<Duration, Problem> {
    match query.value("wait") {
        None => Ok(Duration::ZERO),
        Some(text) => match text.parse::<u64>() {
            Ok(seconds) => Ok(Duration::from_secs(seconds.min(MOST_WAIT))),
            Err(_) => Err(Problem::invalid("wait", "must be whole seconds, at most 60")),
        },
    }
}

pub(crate) fn code_of<T>(outcome: &Result<T, Refusal>) -> &'static str {
    match outcome {
        Ok(_) => "ok",
        Err(refusal) => refusal.outside().code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_document_lists_the_routes_and_no_others() {
        let document: serde_json::Value = serde_json::from_str(OPENAPI).expect("JSON");
        let mut documented = Vec::new();
        for (path, operations) in document["paths"].as_object().expect("paths") {
            for method in
                operations.as_object().expect("operations").keys().filter(|key| *key != "parameters")
            {
                documented.push((method.to_ascii_uppercase(), path.clone()));
            }
        }
        documented.sort();
        let mut routes: Vec<(String, String)> =
            ROUTES.iter().map(|(method, path)| ((*method).to_owned(), (*path).to_owned())).collect();
        routes.sort();
        assert_eq!(documented, routes);
    }

    #[test]
    fn whatever_is_more_than_a_look_or_a_hand_out_is_done_to_its_end() {
        let is_act = |method: &str, path: &str, query| {
            let path = path
                .replace("{app}", "outlook")
                .replace("{connection}", "token")
                .replace("{id}", "session-1");
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            find_in(&path).is_ok_and(|route| route.is_act(&method, query))
        };
        for (method, path) in ROUTES {
            let is_token = path.ends_with("/token");
            assert_eq!(is_act(method, path, None), method != "GET" && !is_token, "{method} {path}");
            // The link that comes beside a refusal, however its name is spelled.
            for query in ["connect=1", "min_ttl=60&c%6Fnnect=1", "connect"] {
                assert_eq!(is_act(method, path, Some(query)), method != "GET" || is_token, "{method} {path}");
            }
        }
        assert!(!is_act("GET", "/v1/nowhere", Some("connect=1")));
    }

    #[test]
    fn every_listed_route_is_found_with_its_method() {
        for (method, path) in ROUTES.iter().filter(|(_, path)| *path != "/openapi.json") {
            let path = path
                .replace("{app}", "outlook")
                .replace("{connection}", "a%2Fb")
                .replace("{id}", "session-1");
            let route = find(&path::segments(&path).expect("segments")).expect("a route");
            assert!(route.methods().split(", ").any(|allowed| allowed == *method), "{method} {path}");
        }
    }
}
