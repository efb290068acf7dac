//! The public listener, for browsers only. A link leads to a page with one button, the button sends the
//! browser to the authority, the callback brings it back, and the last page or the product's return URL ends
//! the sign-in.
//!
//! May know: the broker, the listener's request and response, the keyring for the relay of a cross-site form.
//!
//! Invariants:
//! 1. No GET changes anything, except the callback's: a mail scanner that opens a link does not use it up.
//!    The callback's changes something only on a navigation, not on HEAD or when the browser loads ahead of
//!    time.
//! 2. No external resource, strict headers on every page, and no script but the copy button's of one page,
//!    allowed by its hash and needed for nothing (C8).
//! 3. Nothing from the request is shown unescaped, and none of the authority's text is shown at all (C9).
//! 4. `Host` and forwarding headers decide nothing (C7).
//!
//! The one hard problem: a `form_post` callback is a cross-site request, so the browser does not send our
//! `SameSite=Lax` cookie. The form is sealed into a URL of ours and the browser redirected there; that
//! request has the cookie.

mod callback;
mod cookie;
mod failure;
mod language;
mod look;
mod navigation;
mod page;
#[cfg(any(test, feature = "testkit"))]
pub mod properties;
mod scopes;
mod text;

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::{HeaderValue, Method, StatusCode, header};

pub use self::language::{LanguageFinding, Languages};
pub use self::look::{LARGEST_LOGO, Logo, Look};
use self::page::{About, Page, Reference, Style, Writing};
use self::scopes::asked_for;
use self::text::{Language, Text};
use crate::broker::connect::SessionView;
use crate::broker::sign_in::{CannotBegin, Finished, Tell};
use crate::broker::{Broker, FailureReason, Outside, Refusal, SessionState};
use crate::domain::id::{AppName, SessionId};
use crate::domain::random::Random;
use crate::domain::task::BoxFuture;
use crate::domain::time::Clock;
use crate::events::{Events, Listener, NATIVE, Stranger, Who};
use crate::keyring::Keyring;
use crate::listener::{
    Dots, Handler, Origin, Refused, Request, RequestId, Response, are_too_many_cookies, response, segments,
};
use crate::span;

/// How long a browser may keep the logo, in seconds.
const LOGO_MAX_AGE: &str = "public, max-age=300";

/// The public listener's handler.
pub struct PublicSite {
    broker: Arc<Broker>,
    keyring: Arc<Keyring>,
    random: Arc<dyn Random>,
    clock: Arc<dyn Clock>,
    events: Arc<Events>,
    look: Arc<ArcSwap<Look>>,
    style: Style,
}

/// One request of a browser: in which look and language it is answered, and under which id.
struct Visit {
    look: Arc<Look>,
    language: Arc<Language>,
    request_id: RequestId,
}

impl PublicSite {
    /// Makes the site for a broker. A reload replaces the look.
    pub fn new(
        broker: Arc<Broker>,
        keyring: Arc<Keyring>,
        random: Arc<dyn Random>,
        clock: Arc<dyn Clock>,
        events: Arc<Events>,
        look: Arc<ArcSwap<Look>>,
    ) -> Self {
        PublicSite { broker, keyring, random, clock, events, look, style: Style::new() }
    }

    fn visit(&self, accepted: Option<&str>, request_id: &RequestId) -> Visit {
        let look = self.look.load_full();
        let language = look.languages.choose(accepted);
        Visit { look, language, request_id: request_id.clone() }
    }

    async fn answer(&self, request: Request) -> Response {
        let accepted = request.headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
        let visit = self.visit(accepted, &request.request_id);
        let segments = segments(&request.path, Dots::Never);
        let words: Vec<&str> = segments.iter().flatten().map(AsRef::as_ref).collect();
        let (route, allow) = match words[..] {
            _ if request.path == "/" => ("/", "GET, HEAD, OPTIONS"),
            ["connect", _] => ("/connect/{session}", "GET, HEAD, OPTIONS, POST"),
            ["callback", _] => ("/callback/{app}", "GET, HEAD, OPTIONS, POST"),
            ["logo"] if visit.look.logo.is_some() => ("/logo", "GET, HEAD, OPTIONS"),
            _ => return self.page(&visit, StatusCode::NOT_FOUND, &Page::not_found()),
        };
        span::route(&request.method, route);
        if are_too_many_cookies(&request.headers) {
            return self.too_many_cookies(&visit);
        }
        // A page loads it, and it changes nothing.
        if let (&Method::GET | &Method::HEAD, ["logo"], Some(logo)) =
            (&request.method, &words[..], &visit.look.logo)
        {
            return picture(logo);
        }
        if navigation::is_ahead(&request.headers) {
            return self.page(&visit, StatusCode::SERVICE_UNAVAILABLE, &Page::opened_ahead());
        }
        match (&request.method, &words[..]) {
            (&Method::GET | &Method::HEAD, []) => self.page(&visit, StatusCode::OK, &self.launch()),
            (&Method::GET | &Method::HEAD, ["connect", id]) => self.invitation(&visit, id, &request).await,
            (&Method::POST, ["connect", id]) => self.begin(&visit, id, &request).await,
            (&Method::HEAD, ["callback", _]) => self.page(&visit, StatusCode::OK, &Page::opened_ahead()),
            (&Method::GET | &Method::POST, ["callback", app]) => {
                let app = (*app).to_owned();
                self.callback(&visit, &app, request).await
            }
            (method, _) => {
                let page = Page::only_for_browsers();
                let mut response = self.page(&visit, StatusCode::METHOD_NOT_ALLOWED, &page);
                if *method == Method::OPTIONS {
                    *response.status_mut() = StatusCode::NO_CONTENT;
                    *response.body_mut() = Default::default();
                }
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
                response
            }
        }
    }

    /// Makes the page for a My Apps tile. The launch has no token and must not start anything by itself
    /// (login CSRF).
    fn launch(&self) -> Page {
        let mut page = Page::new(Text::HomeTitle).say(Text::Home).say(Text::HomeNext);
        for app in self.broker.apps().values() {
            if let Some(url) = app.return_urls.first() {
                page = page.link_to(Text::HomeOpen, app.display_name.clone(), url.clone());
            }
        }
        page
    }

    /// Answers `GET /connect/{session}`: a page that says what is asked and by whom, with one button. Once
    /// its browser has signed in, the same address says how that ended.
    async fn invitation(&self, visit: &Visit, id: &str, request: &Request) -> Response {
        let Ok(id) = SessionId::parse(id) else {
            return self.cannot_begin(visit, CannotBegin::Gone, who(request), false);
        };
        let binding = cookie::binding(&request.headers, &self.broker.base_url(), id.expose());
        let view = match self.broker.session_view(&id, binding.as_deref()).await {
            Ok(view) => view,
            Err(problem) => return self.cannot_begin(visit, problem, who(request), binding.is_some()),
        };
        if view.state != SessionState::Pending {
            // The browser that completed the sign-in learns how it ended; any other learns only that it
            // ended.
            return match view.is_its_browser {
                true => self.ended(visit, &id, &view),
                false => self.cannot_begin(visit, CannotBegin::Over(view.state), who(request), false),
            };
        }
        let about = self.about(&view.app);
        let asks = visit.look.callers.get(&view.asked_by);
        let is_microsoft = about.as_ref().is_some_and(About::is_microsoft);
        let button = if is_microsoft { Text::ConnectButtonMicrosoft } else { Text::ConnectButton };
        // The title says who asks, unless it is somebody else than the app.
        let page = match asks {
            Some(name) => Page::new(Text::ConnectTitle).with("who", name).say(Text::ConnectAsks),
            None => Page::new(Text::ConnectTitle),
        };
        let page = page
            .say_plain(about.as_ref().and_then(|about| about.purpose(&visit.language)))
            .list(Text::ConnectList, asked_for(&view.scopes))
            .say(Text::ConnectHow)
            .note(Text::ConnectWarning)
            .button(button, self.link_of(&id))
            .about(about);
        let mut response = self.page(visit, StatusCode::OK, &page);
        // The binding comes with the page, so that two presses of the button come from the same browser.
        if binding.is_none() && request.method == Method::GET {
            let cookie = cookie::set(&self.broker.base_url(), id.expose(), &self.broker.new_binding());
            response.headers_mut().insert(header::SET_COOKIE, cookie);
        }
        response
    }

    /// Says how a session ended, to the browser that completed the sign-in.
    fn ended(&self, visit: &Visit, id: &SessionId, view: &SessionView) -> Response {
        let page = failure::of_session(&view.state, view.gone_since, view.admin_consent_url.clone());
        let mut page = page.without_own_reference();
        let app = self.broker.app(&view.app).ok();
        let home = app.and_then(|app| app.return_urls.first().cloned());
        let back = view.way_back.clone().or(home);
        let label = match view.state {
            SessionState::Failed(_) | SessionState::Expired | SessionState::Pending => Text::TryAgain,
            SessionState::Connected { .. } | SessionState::AwaitingConfirmation { .. } => Text::Back,
        };
        if let SessionState::AwaitingConfirmation { .. } = view.state {
            page = page.link(Text::CheckNow, self.link_of(id));
        }
        if let Some(url) = back {
            page = page.link(label, url);
        }
        let status = match view.state {
            SessionState::Expired => StatusCode::GONE,
            _ => StatusCode::OK,
        };
        self.page(visit, status, &page.about(self.about(&view.app)))
    }

    fn link_of(&self, id: &SessionId) -> String {
        format!("{}/connect/{}", self.broker.base_url(), id.expose())
    }

    /// Answers `POST /connect/{session}`: the button.
    async fn begin(&self, visit: &Visit, id: &str, request: &Request) -> Response {
        let Ok(id) = SessionId::parse(id) else {
            return self.cannot_begin(visit, CannotBegin::Gone, who(request), false);
        };
        if !cookie::is_same_site(&request.headers, &self.broker.base_url()) {
            self.events.browser_refused(who(request), Stranger::LinkFromElsewhere, None);
            return self.page(visit, StatusCode::FORBIDDEN, &Page::link_from_elsewhere());
        }
        let binding = cookie::binding(&request.headers, &self.broker.base_url(), id.expose());
        match self.broker.begin(&id, binding.as_deref()).await {
            Ok(begun) => {
                let mut response = self.redirect(visit, &begun.url);
                if let Some(binding) = begun.binding {
                    let cookie = cookie::set(&self.broker.base_url(), id.expose(), &binding);
                    response.headers_mut().insert(header::SET_COOKIE, cookie);
                }
                response
            }
            Err(problem) => self.cannot_begin(visit, problem, who(request), binding.is_some()),
        }
    }

    /// `knew_it`: the browser has a cookie for this session, so it may have completed the sign-in.
    fn cannot_begin(&self, visit: &Visit, problem: CannotBegin, who: Who<'_>, knew_it: bool) -> Response {
        let stranger = match &problem {
            CannotBegin::Gone | CannotBegin::Over(_) => Some(Stranger::UnknownLink),
            CannotBegin::AnotherBrowser => Some(Stranger::LinkFromElsewhere),
            CannotBegin::Barred(_) => Some(Stranger::BarredLink),
            CannotBegin::TooOften => Some(Stranger::LinkPressedTooOften),
            CannotBegin::Unavailable(_) => None,
        };
        match stranger {
            Some(stranger) => self.events.browser_refused(who, stranger, None),
            None => self.events.link_unavailable(who),
        }
        let (status, page) = match problem {
            CannotBegin::Gone if knew_it => (StatusCode::NOT_FOUND, Page::over()),
            CannotBegin::Gone => (StatusCode::NOT_FOUND, Page::link_gone()),
            CannotBegin::AnotherBrowser => (StatusCode::CONFLICT, Page::another_browser()),
            CannotBegin::TooOften => (StatusCode::TOO_MANY_REQUESTS, Page::pressed_too_often()),
            CannotBegin::Barred(reason) => {
                let status = match reason {
                    FailureReason::ConnectionPaused => StatusCode::CONFLICT,
                    _ => StatusCode::FORBIDDEN,
                };
                (status, failure::of_session(&SessionState::Failed(reason.into()), false, None))
            }
            CannotBegin::Over(state) if state.is_failed_for(FailureReason::Revoked) => {
                let revoked = SessionState::Failed(FailureReason::Revoked.into());
                (StatusCode::GONE, failure::of_session(&revoked, false, None))
            }
            CannotBegin::Over(state) => {
                let page = match state {
                    SessionState::Connected { .. } | SessionState::AwaitingConfirmation { .. } => {
                        Page::already_used()
                    }
                    SessionState::Failed(_) | SessionState::Expired | SessionState::Pending => {
                        Page::link_gone()
                    }
                };
                (StatusCode::GONE, page)
            }
            CannotBegin::Unavailable(refusal) => {
                let page = match refusal {
                    Refusal::AppCredentialRejected { .. }
                    | Refusal::AppRejected { .. }
                    | Refusal::RecordDamaged => Page::operator_must_act(),
                    _ => Page::try_again_later(),
                };
                let Outside { status, retry_after, .. } = refusal.outside();
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
                let mut response = self.page(visit, status, &page);
                if let Some(seconds) = retry_after {
                    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
                }
                return response;
            }
        };
        self.page(visit, status, &page)
    }

    /// Answers the callback, with which the browser comes back. What it brought stays in no address bar: how
    /// the session ended is said at the session's own address.
    async fn callback(&self, visit: &Visit, app: &str, request: Request) -> Response {
        let Ok(app) = AppName::parse(app) else {
            return self.page(visit, StatusCode::NOT_FOUND, &Page::not_found());
        };
        let (headers, origin) = (request.headers.clone(), request.peer.origin);
        let parameters = match self.callback_parameters(&app, request).await {
            Ok(callback::Arrived::Here(parameters)) => parameters,
            Ok(callback::Arrived::Relay(url)) => return self.redirect(visit, &url),
            Err(callback::CannotRead::Wrong(page)) => {
                let who = of_browser(&visit.request_id, origin);
                self.events.browser_refused(who, Stranger::MalformedCallback, Some(&app));
                return self.page(visit, StatusCode::BAD_REQUEST, &page);
            }
            Err(callback::CannotRead::NoRoom) => return self.crowded(visit),
        };
        let admin = parameters.admin_consent;
        let base_url = self.broker.base_url();
        let binding = move |session: &str| cookie::binding(&headers, &base_url, session);
        let tell = self.teller(&app, &visit.request_id, origin);
        let request_id = visit.request_id.to_string();
        let finished = self.broker.finish(parameters.callback(&app, &request_id, &binding), tell).await;
        match finished {
            Finished::Refused(problem) => {
                let (status, page) = Page::of_callback_problem(&problem, admin);
                self.page(visit, status, &page.about(self.about(&app)))
            }
            Finished::AdminConsent { return_to: Some(url), .. } => self.redirect(visit, &url),
            Finished::AdminConsent { refused, app, .. } => {
                let page = match &refused {
                    None => Page::approval_noted(),
                    Some(failure) => failure::approval_refused(failure),
                };
                self.page(visit, StatusCode::OK, &page.about(self.about(&app)))
            }
            Finished::Session(session) => match &session.return_to {
                Some(url) => self.redirect(visit, url),
                // Not stored, so the session's address would not say it.
                None if session.state.is_failed_for(FailureReason::Internal) => {
                    let page = failure::of_session(&session.state, false, None);
                    let page = page.about(self.about(&session.key.app));
                    self.page(visit, StatusCode::SERVICE_UNAVAILABLE, &page)
                }
                None => self.redirect(visit, &self.link_of(&session.id)),
            },
        }
    }

    /// Makes the reporter that records how a callback ended, even if its browser does not wait.
    fn teller(&self, app: &AppName, request_id: &RequestId, origin: Origin) -> Arc<Tell> {
        let (events, app, request_id) = (Arc::clone(&self.events), app.clone(), request_id.clone());
        Arc::new(move |finished| {
            let (events, app, request_id) = (Arc::clone(&events), app.clone(), request_id.clone());
            Box::pin(async move {
                let who = of_browser(&request_id, origin);
                events.callback(who, &app, &finished).await;
                finished
            })
        })
    }

    fn about(&self, app: &AppName) -> Option<About> {
        self.broker.app(app).ok().map(|found| About::new(app, &found))
    }

    /// What a page is about that belongs to no app: what all apps have in common.
    fn about_all(&self) -> About {
        let apps = self.broker.apps();
        About::of_all(apps.iter().map(|(name, app)| About::new(name, app)))
    }

    /// 303, never 307: the method and its body end here (RFC 9700 section 4.12).
    fn redirect(&self, visit: &Visit, url: &str) -> Response {
        let Ok(location) = HeaderValue::from_str(url) else {
            return self.page(visit, StatusCode::INTERNAL_SERVER_ERROR, &Page::try_again_later());
        };
        let mut response = self.page(visit, StatusCode::SEE_OTHER, &Page::new(Text::RedirectTitle));
        response.headers_mut().insert(header::LOCATION, location);
        response
    }

    fn too_many_cookies(&self, visit: &Visit) -> Response {
        self.page(visit, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, &Page::too_many_cookies())
    }

    fn page(&self, visit: &Visit, status: StatusCode, page: &Page) -> Response {
        let base_url = self.broker.base_url();
        let html = page.html(&Writing {
            style: &self.style,
            look: &visit.look,
            language: &visit.language,
            host: base_url.split('/').nth(2).unwrap_or_default(),
            base_url: &base_url,
            about: &self.about_all(),
            reference: &Reference { request_id: visit.request_id.to_string(), at: self.clock.now() },
        });
        let mut response = response(status, "text/html; charset=utf-8", html);
        let headers = response.headers_mut();
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        if let Some(seconds) = page.reloads() {
            headers.insert(header::REFRESH, HeaderValue::from(seconds));
        }
        if let Ok(tag) = HeaderValue::from_str(&visit.language.tag) {
            headers.insert(header::CONTENT_LANGUAGE, tag);
        }
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
        headers.insert(header::CONTENT_SECURITY_POLICY, self.style.policy(page));
        if base_url.starts_with("https://") {
            headers.insert(
                header::STRICT_TRANSPORT_SECURITY,
                HeaderValue::from_static("max-age=31536000; includeSubDomains"),
            );
        }
        response
    }

    fn crowded(&self, visit: &Visit) -> Response {
        let mut response = self.page(visit, StatusCode::SERVICE_UNAVAILABLE, &Page::crowded());
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        response
    }
}

/// Makes the answer with the logo. A picture that is opened by itself runs nothing and loads nothing.
fn picture(logo: &Logo) -> Response {
    let mut response = response(StatusCode::OK, logo.content_type, logo.content.clone());
    let headers = response.headers_mut();
    let policy = "default-src 'none'; style-src 'unsafe-inline'; sandbox";
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(LOGO_MAX_AGE));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    response
}

impl Handler for PublicSite {
    fn handle<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        Box::pin(self.answer(request))
    }

    fn refuse(&self, refused: Refused, _: &str, request_id: &RequestId) -> Response {
        let visit = self.visit(None, request_id);
        match refused {
            Refused::HeadTooLarge => self.too_many_cookies(&visit),
            Refused::TooManyParameters => {
                self.page(&visit, StatusCode::BAD_REQUEST, &Page::too_many_parameters())
            }
            Refused::Overloaded => self.crowded(&visit),
            Refused::TargetTooLong | Refused::Malformed | Refused::Panicked => refused.problem(request_id),
        }
    }
}

fn who(request: &Request) -> Who<'_> {
    of_browser(&request.request_id, request.peer.origin)
}

fn of_browser(request_id: &RequestId, origin: Origin) -> Who<'_> {
    Who { request_id, origin, listener: Listener::Public, dialect: NATIVE, method: None, handle: None }
}
