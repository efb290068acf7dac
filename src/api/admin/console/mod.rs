//! The operators' console: pages on the admin listeners. An operator who may use the admin API asks it for a
//! link, and the link opens a session in a browser; at a listener with client certificates the certificate is
//! enough. The pages do what the admin API does, by the same functions ([`super::acts`]).
//!
//! Invariants:
//! 1. No GET changes anything but a session of its own: a link is used up by the button of its page.
//! 2. A form counts only from a page of this listener, and with its session's token.
//! 3. Each request finds the operator's rights anew: a session gives no right that its operator does not have
//!    at this listener now.
//! 4. Everything works without script. No page has a style, a script or a picture from elsewhere, or inline.
//! 5. Nothing is put into a page unescaped; `maud` does that.
//! 6. No page waits until all connections are read: it asks the kept counts, one record, or for
//!    [`READ_FOR`](crate::broker::inspect::READ_FOR). A search that goes on does so in a stream, a moment at
//!    a time, within the limits of callers' walks.

mod charts;
mod connection;
mod connections;
mod forecast;
mod forms;
mod guard;
mod layout;
mod live;
mod overview;
mod own_sessions;
mod pages;
mod searching;
mod sessions;
mod words;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use maud::{Markup, html};
use parking_lot::Mutex;

use self::layout::{Tab, page, plain, refusal};
use self::overview::{Between, Counted, Overview};
use self::sessions::Met;
pub(super) use self::sessions::{Operator, Sessions};
use self::words::{done, from_elsewhere, link_gone, no_session};
use super::AdminApi;
use super::acts::Acting;
use super::wire::Keyring;
use crate::api::problem::Problem;
use crate::api::shapes::{ExplainShape, Reader};
use crate::api::to_its_end::Acts;
use crate::api::upkeep::Traffic;
use crate::broker::Refusal;
use crate::broker::living_handles::LivingHandles;
use crate::callers::{AuthenticationFailure, Credential};
use crate::domain::auth_method::{AuthMethod, LiveAuthMethods};
use crate::domain::id::{AppName, CallerName, ConnectionKey, ConnectionName};
use crate::domain::random::{Random, random_token};
use crate::domain::task::BoxFuture;
use crate::domain::time::Timestamp;
use crate::events::{About, Listener, NATIVE, Stranger, Who};
use crate::listener::{Pairs, Peer, PeerCertificate, Request, RequestId, Response, response};
use crate::span;

/// How far back the overview's figures reach.
const LOOK_BACK: Duration = Duration::from_secs(600);
/// Time between two looks that are kept.
const LOOK_EVERY: Duration = Duration::from_secs(2);

const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// Where consoles are, and who is in them: one for all admin listeners of a daemon.
pub struct Consoles {
    pub(super) sessions: Sessions,
    places: Vec<Place>,
    random: Arc<dyn Random>,
}

/// An admin listener that a browser can open.
pub struct Place {
    /// How its URLs begin.
    pub base_url: String,
    /// What it accepts.
    pub accepted: LiveAuthMethods,
    /// Whether it has TLS; without it is this machine's alone.
    pub is_tls: bool,
}

impl Consoles {
    /// Makes them for the TCP listeners.
    pub fn new(places: Vec<Place>, random: Arc<dyn Random>) -> Self {
        Consoles { sessions: Sessions::default(), places, random }
    }

    /// Makes a link for an operator: when it ends, and its URL at each listener where it would count. Without
    /// such a listener there is no URL, and nothing is kept.
    pub(super) fn link(&self, operator: &Operator, now: Timestamp) -> (Timestamp, Vec<String>) {
        let secret = random_token(self.random.as_ref());
        let counts = |place: &&Place| counts_at(operator.proof, &place.accepted, place.is_tls);
        let url = |place: &Place| format!("{}/console/enter/{secret}", place.base_url);
        let urls: Vec<String> = self.places.iter().filter(counts).map(url).collect();
        let ends_at = match urls.is_empty() {
            true => now,
            false => self.sessions.add_link(&secret, operator.clone(), now),
        };
        (ends_at, urls)
    }
}

/// Whether a session of an operator who proved who it is in this way counts at a listener: where the listener
/// accepts that proof. A Unix user's counts at a listener without TLS too, which is this machine's alone.
fn counts_at(proof: AuthMethod, accepted: &LiveAuthMethods, is_tls: bool) -> bool {
    accepted.current().contains(proof) || (proof == AuthMethod::UnixUser && !is_tls)
}

/// The console of one listener.
#[derive(Clone)]
pub(super) struct Console {
    api: Arc<AdminApi>,
    looks: Arc<Mutex<VecDeque<(Timestamp, Traffic)>>>,
}

/// A request whose session is known.
struct Visit<'a> {
    met: &'a Met,
    who: Who<'a>,
}

type Answer = Result<Response, Problem>;

impl Console {
    pub(super) fn new(api: Arc<AdminApi>) -> Self {
        Console { api, looks: Arc::default() }
    }

    /// Whether a path is the console's.
    pub(super) fn has(path: &str) -> bool {
        path == "/console" || path.starts_with("/console/")
    }

    async fn respond(&self, request: Request) -> Response {
        let Request { method, path, query, headers, peer, request_id, body, streams } = request;
        let is_tls = peer.tls;
        span::route(&method, if path == "/console" { "/console" } else { "/console/{page}" });
        let (is_get, is_post) = (method == Method::GET, method == Method::POST);
        match path.as_str() {
            "/console/console.css" if is_get => return asset("text/css", include_str!("console.css")),
            "/console/console.js" if is_get => {
                return asset("text/javascript", include_str!("console.js"));
            }
            _ => {}
        }
        if !is_get && !is_post {
            let mut response = html(StatusCode::METHOD_NOT_ALLOWED, &plain("Not like that", &html! {}));
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, POST"));
            return response;
        }
        let who = who(&request_id, &peer);
        if let Some(secret) = path.strip_prefix("/console/enter/") {
            return match is_get {
                true => self.show_link(secret),
                false => self.enter(secret, &headers, is_tls, who).await,
            };
        }
        let certified = self.certified(&peer).await;
        let cookie = guard::cookie(&headers, is_tls);
        // A page that keeps itself up to date comes again by itself.
        let is_asked = path != "/console/live";
        let met = match &cookie {
            Some(cookie) => self.session(cookie, certified.as_ref(), is_tls, is_asked).await,
            None => None,
        };
        let (met, cookie_set) = match (met, certified) {
            (Some(met), _) => (met, None),
            (None, Some(operator)) if is_get && path != "/console/live" => {
                let (met, cookie) = self.open(operator, who).await;
                (met, Some(guard::set_cookie(&headers, is_tls, &cookie)))
            }
            (None, _) => {
                self.api.events.unauthenticated(who, AuthenticationFailure::Missing);
                return html(StatusCode::UNAUTHORIZED, &no_session());
            }
        };
        let visit = Visit { met: &met, who: who.proven_by(met.operator.proof) };
        let query = query.as_deref().unwrap_or_default().as_bytes();
        let answer = match (is_get, path.as_str()) {
            (true, "/console/live") => {
                let watch = live::Watch { cookie: cookie.unwrap_or_default(), peer, query: query.to_vec() };
                return self.live(watch, streams);
            }
            (true, path) => self.show(&visit, path, query).await,
            (false, "/console/leave") => match self.form(&visit, &headers, body).await {
                Ok(_) => return self.leave(cookie.as_deref(), &headers, is_tls),
                Err(problem) => Err(problem),
            },
            (false, path) => match self.form(&visit, &headers, body).await {
                Ok(form) => self.act(&visit, path, &form).await,
                Err(problem) => Err(problem),
            },
        };
        let mut response = answer.unwrap_or_else(|problem| self.refused(&visit, &path, &problem));
        if let Some(cookie) = cookie_set {
            response.headers_mut().insert(header::SET_COOKIE, cookie);
        }
        response
    }

    /// The operator whose certificate the browser shows, where the listener takes it.
    async fn certified(&self, peer: &Peer) -> Option<Operator> {
        let PeerCertificate::Trusted(names) = &peer.certificate else { return None };
        let admins = self.api.admins.load_full();
        let accepted = self.api.accepted.current();
        let known = admins.authenticate(Credential::Certificate(names), accepted, self.api.clock.as_ref());
        let known = known.await.ok()?;
        Some(Operator { name: known.caller.name.to_string(), proof: known.method, key: None })
    }

    /// The session of a cookie, if its operator is one still and it counts here. One that a certificate
    /// opened is worth nothing without it.
    async fn session(
        &self,
        cookie: &str,
        certified: Option<&Operator>,
        is_tls: bool,
        is_asked: bool,
    ) -> Option<Met> {
        let met = self.api.consoles.sessions.find(cookie, self.api.clock.now(), is_asked)?;
        let operator = &met.operator;
        let is_shown = match certified {
            Some(certified) => certified.name == operator.name,
            None => !operator.proof.needs_certificate(),
        };
        let counts = is_shown
            && counts_at(operator.proof, &self.api.accepted, is_tls)
            && self.is_still(operator).await;
        counts.then_some(met)
    }

    /// Whether it is an operator by the configuration in force, and the API key that was the proof is one
    /// still.
    async fn is_still(&self, operator: &Operator) -> bool {
        if self.api.own_uids.iter().any(|uid| operator.name == format!("uid:{uid}")) {
            return true;
        }
        let (admins, clock) = (self.api.admins.load_full(), self.api.clock.as_ref());
        let Ok(name) = CallerName::parse(&operator.name) else { return false };
        let is_key_live = match &operator.key {
            Some(key) => {
                admins.check_key_files(clock).await;
                admins.has_live_key(&name, key, clock.now())
            }
            None => true,
        };
        is_key_live && admins.named(&name).is_some()
    }

    async fn open(&self, operator: Operator, who: Who<'_>) -> (Met, String) {
        let random = self.api.consoles.random.as_ref();
        let (cookie, csrf) = (random_token(random), random_token(random));
        let who = who.proven_by(operator.proof);
        self.api.events.operated(who, &operator.name, "console_open", "ok", About::default()).await;
        let now = self.api.clock.now();
        let met = self.api.consoles.sessions.open(&cookie, csrf, operator, who.origin, now);
        (met, cookie)
    }

    /// `GET /console/enter/{secret}`: the page with the button that uses the link.
    fn show_link(&self, secret: &str) -> Response {
        let Some(operator) = self.api.consoles.sessions.look_at_link(secret, self.api.clock.now()) else {
            return html(StatusCode::NOT_FOUND, &link_gone());
        };
        let body = html! {
            p { "This link opens the console once, for " strong { (operator.name) } ", in this browser." }
            form method="post" action={ "/console/enter/" (secret) } {
                button.main type="submit" autofocus { "Open the console" }
            }
        };
        html(StatusCode::OK, &plain("Open the console", &body))
    }

    /// `POST /console/enter/{secret}`
    async fn enter(&self, secret: &str, headers: &HeaderMap, is_tls: bool, who: Who<'_>) -> Response {
        if !guard::is_from_own_page(headers) {
            self.api.events.browser_refused(who, Stranger::LinkFromElsewhere, None);
            return html(StatusCode::FORBIDDEN, &from_elsewhere());
        }
        let sessions = &self.api.consoles.sessions;
        let operator = sessions
            .take_link(secret, self.api.clock.now())
            .filter(|operator| counts_at(operator.proof, &self.api.accepted, is_tls));
        let operator = match operator {
            Some(operator) if self.is_still(&operator).await => operator,
            _ => {
                self.api.events.browser_refused(who, Stranger::UnknownLink, None);
                return html(StatusCode::NOT_FOUND, &link_gone());
            }
        };
        if let Some(before) = guard::cookie(headers, is_tls) {
            sessions.end(&before);
        }
        let (_, cookie) = self.open(operator, who).await;
        let mut response = redirect("/console");
        response.headers_mut().insert(header::SET_COOKIE, guard::set_cookie(headers, is_tls, &cookie));
        response
    }

    fn leave(&self, cookie: Option<&str>, headers: &HeaderMap, is_tls: bool) -> Response {
        if let Some(cookie) = cookie {
            self.api.consoles.sessions.end(cookie);
        }
        let body = html! { p { "The session of this browser is over." } };
        let mut response = html(StatusCode::OK, &plain("You have left the console", &body));
        response.headers_mut().insert(header::SET_COOKIE, guard::forget_cookie(headers, is_tls));
        response
    }

    /// The pages.
    async fn show(&self, visit: &Visit<'_>, path: &str, query: &[u8]) -> Answer {
        let query = Pairs::read(query).map_err(Problem::query)?;
        let value = |name: &str| query.value(name).unwrap_or_default();
        let (met, now) = (visit.met, self.api.clock.now());
        let (tab, title, body) = match path {
            "/console" => (Tab::Overview, "Overview".to_owned(), self.overview_page(met, now).await),
            "/console/connections" => {
                (Tab::Connections, "Connections".to_owned(), self.connections_page(&query, now).await?)
            }
            "/console/connection" => {
                let key = connection_key(value("app"), value("name"))?;
                let body = self.connection_page(met, &key, value("done"), now).await?;
                (Tab::Connections, key.connection.to_string(), body)
            }
            "/console/apps" => {
                let apps = self.api.app_credentials().await;
                let unconfirmed = self.api.broker.unconfirmed_hosts();
                let body = html! { (done(value("done"))) (pages::apps(met, &apps, &unconfirmed, now)) };
                (Tab::Apps, "Apps".to_owned(), body)
            }
            "/console/callers" => {
                let callers = self.api.callers.load();
                let keys = callers.key_uses();
                let mut handles = self.api.broker.living_handles();
                // (With its key, a handle has ended.)
                let has_key = |one: &LivingHandles| {
                    one.api_key.iter().all(|id| callers.has_live_key(&one.caller, id, now))
                };
                handles.retain(has_key);
                let body = pages::callers(&self.caller_names(), &keys, &handles, now);
                (Tab::Callers, "Callers".to_owned(), body)
            }
            "/console/keys" => {
                let body = html! {
                    h1 { "Sealing keys" }
                    (done(value("done")))
                    div data-live="/console/live?page=keys" { (pages::keys(&self.keys().await?, now)) }
                    (pages::rewrap(met))
                };
                (Tab::Keys, "Sealing keys".to_owned(), body)
            }
            "/console/sessions" => {
                let own = self.own_sessions(met).await;
                let body = html! { (done(value("done"))) (own_sessions::page(met, &own, now)) };
                (Tab::Overview, "Your sessions".to_owned(), body)
            }
            "/console/forecast" => {
                (Tab::Overview, "Forecast".to_owned(), forecast::page(&self.api.broker, now).await?)
            }
            "/console/codes" => (Tab::Overview, "Codes".to_owned(), pages::codes()),
            "/console/revoke" => {
                let target = forms::target(&query);
                let body = pages::revoke(met, &target, &self.app_names(), &self.caller_names());
                (Tab::Revoke, "Revoke".to_owned(), body)
            }
            _ => return Err(Problem::no_such_path()),
        };
        Ok(html(StatusCode::OK, &page(met, tab, &title, &body)))
    }

    async fn overview_page(&self, met: &Met, now: Timestamp) -> Markup {
        let view = self.overview(now).await;
        html! {
            h1 { "Overview" }
            div data-live="/console/live?page=overview" { (overview::region(&view)) }
            (pages::reload(met, view.status.last_reload.as_ref(), now))
        }
    }

    /// The part of the page of sealing keys that follows the daemon.
    async fn keys(&self) -> Result<Keyring, Problem> {
        let shown = self.api.broker.show_keyring().await.map_err(Problem::of)?;
        Ok(Keyring::new(&shown, self.api.broker.left_to_rewrap()))
    }

    async fn overview(&self, now: Timestamp) -> Overview {
        // (A store that is known to be lost is not waited for: this page says so at once.)
        let counts = match self.api.upkeep.store_lost() {
            Some(_) => Counted::Unavailable,
            None => match self.api.broker.keep_counts().await {
                Ok(Some(counts)) => Counted::Known(counts),
                Ok(None) => Counted::NotYet,
                Err(_) => Counted::Unavailable,
            },
        };
        let traffic = self.look(now, self.api.upkeep.traffic());
        let open_breakers = self.api.broker.open_breakers();
        let forecast = forecast::kept(&self.api.broker, &counts).await;
        Overview { status: self.api.status_now().await, counts, traffic, open_breakers, forecast, now }
    }

    /// Keeps a look at the counters, and returns what happened since the oldest that is kept.
    fn look(&self, now: Timestamp, traffic: Traffic) -> Option<Between> {
        let mut looks = self.looks.lock();
        looks.retain(|(at, _)| *at <= now && now.since(*at) <= LOOK_BACK);
        let first = looks.front().filter(|(at, _)| now.since(*at) >= LOOK_EVERY);
        let between = first.and_then(|(at, before)| Between::of(*at, before, &traffic));
        if looks.back().is_none_or(|(at, _)| now.since(*at) >= LOOK_EVERY) {
            looks.push_back((now, traffic));
        }
        between
    }

    async fn connection_page(
        &self,
        met: &Met,
        key: &ConnectionKey,
        said: &str,
        now: Timestamp,
    ) -> Result<Markup, Problem> {
        let live = layout::href(
            "/console/live",
            &[("page", "connection"), ("app", key.app.as_str()), ("name", key.connection.as_str())],
        );
        let known = match self.known(key, now).await {
            Ok(known) => known,
            Err(problem) if self.api.broker.is_name_paused(key).await == Ok(true) => {
                return Ok(html! {
                    h1 { (key.connection) } (done(said)) (refusal(&problem))
                    (connection::resume_name(met, key))
                });
            }
            Err(problem) => return Err(problem),
        };
        Ok(html! {
            p { a href=(layout::href("/console/connections", &[("app", key.app.as_str())])) {
                "All connections of " (key.app) } }
            h1 { (key.connection) }
            (done(said))
            div.two {
                div data-live=(live) { (connection::region(&known)) }
                (connection::acts(met, key, known.shown.profile.status()))
            }
        })
    }

    async fn known(&self, key: &ConnectionKey, now: Timestamp) -> Result<connection::Known, Problem> {
        let shown = self.api.shown(key).await?;
        let attempts = self.api.broker.attempts(&shown);
        let hand_outs = self.api.broker.hand_outs(&shown);
        let block = self.api.broker.tenant_block_of(&shown);
        let explained = ExplainShape::new(&shown, &attempts, Reader::Operator);
        let advice = explained.with_tenant_block(block.as_ref()).into_advice();
        Ok(connection::Known { shown, attempts, hand_outs, advice, now })
    }

    fn app_names(&self) -> Vec<String> {
        self.api.broker.apps().keys().map(AppName::to_string).collect()
    }

    fn caller_names(&self) -> Vec<String> {
        self.api.callers.load().iter().map(|caller| caller.name.to_string()).collect()
    }

    /// The page of a refusal.
    fn refused(&self, visit: &Visit<'_>, path: &str, problem: &Problem) -> Response {
        let tab = match path {
            "/console/apps" => Tab::Apps,
            "/console/callers" => Tab::Callers,
            "/console/keys" => Tab::Keys,
            "/console/revoke" => Tab::Revoke,
            "/console/connections" | "/console/connection" => Tab::Connections,
            _ => Tab::Overview,
        };
        let (heading, title) = match (problem.code, problem.status()) {
            ("not_found", _) => {
                let body = html! {
                    h1 { "There is no such page" }
                    p { "The console has nothing at this address. " a href="/console" { "To the overview" } }
                };
                return html(problem.status(), &page(visit.met, tab, "No such page", &body));
            }
            (_, StatusCode::NOT_FOUND) => ("That is not there", "Not there"),
            _ => ("That was not done", "Not done"),
        };
        let body = html! {
            h1 { (heading) }
            (refusal(problem))
            p { small { "Request " code { (visit.who.request_id) } } }
        };
        html(problem.status(), &page(visit.met, tab, title, &body))
    }

    fn acting<'a>(&'a self, visit: &Visit<'a>) -> Acting<'a> {
        Acting { api: &self.api, admin: &visit.met.operator.name, who: visit.who }
    }
}

impl Acts for Console {
    type Asked = ();

    fn read(&self, _: &Request) {}

    fn is_act(&self, request: &Request, (): &()) -> bool {
        request.method == Method::POST
    }

    fn answer<'a>(&'a self, request: Request, (): ()) -> BoxFuture<'a, Response> {
        Box::pin(self.respond(request))
    }
}

fn who<'a>(request_id: &'a RequestId, peer: &Peer) -> Who<'a> {
    Who {
        request_id,
        origin: peer.origin,
        listener: Listener::Admin,
        dialect: NATIVE,
        method: None,
        handle: None,
    }
}

fn connection_key(app: &str, name: &str) -> Result<ConnectionKey, Problem> {
    let app = AppName::parse(app).map_err(|_| Problem::of(Refusal::AppNotFound))?;
    let connection = ConnectionName::stored(name).map_err(Problem::no_connection)?;
    Ok(ConnectionKey { app, connection })
}

fn redirect(to: &str) -> Response {
    let mut response = html(StatusCode::SEE_OTHER, &plain("Go on", &html! { a href=(to) { "Go on" } }));
    let location = HeaderValue::from_str(to).expect("an address of ours is escaped");
    response.headers_mut().insert(header::LOCATION, location);
    response
}

fn asset(content_type: &'static str, text: &'static str) -> Response {
    guarded(response(StatusCode::OK, content_type, text))
}

fn html(status: StatusCode, page: &Markup) -> Response {
    guarded(response(status, "text/html; charset=utf-8", page.0.clone()))
}

fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        // With it `Origin` is sent with our own forms.
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
