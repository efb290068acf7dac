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
//! 2. No script, no external resource, strict headers on every page (C8).
//! 3. Nothing from the request is shown unescaped, and none of the authority's text is shown at all (C9).
//! 4. `Host` and forwarding headers decide nothing (C7).
//!
//! The one hard problem: a `form_post` callback is a cross-site request, so the browser does not send our
//! `SameSite=Lax` cookie. The form is sealed into a URL of ours and the browser redirected there; that
//! request has the cookie.

mod callback;
mod cookie;
mod failure;
mod navigation;
mod page;
#[cfg(any(test, feature = "testkit"))]
pub mod properties;

use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode, header};

use self::page::{Page, Style};
use crate::broker::sign_in::{CannotBegin, Finished, FinishedSession, Tell};
use crate::broker::{Broker, FailureReason, Outside, Refusal, SessionState};
use crate::domain::id::{AppName, SessionId};
use crate::domain::random::Random;
use crate::domain::task::BoxFuture;
use crate::domain::time::Clock;
use crate::events::{Events, Listener, NATIVE, Stranger, Who};
use crate::keyring::Keyring;
use crate::listener::{Dots, Handler, Origin, Refused, Request, RequestId, Response, response, segments};

/// The public listener's handler.
pub struct PublicSite {
    broker: Arc<Broker>,
    keyring: Arc<Keyring>,
    random: Arc<dyn Random>,
    clock: Arc<dyn Clock>,
    events: Arc<Events>,
    style: Style,
}

impl PublicSite {
    /// Makes the site for a broker.
    pub fn new(
        broker: Arc<Broker>,
        keyring: Arc<Keyring>,
        random: Arc<dyn Random>,
        clock: Arc<dyn Clock>,
        events: Arc<Events>,
    ) -> Self {
        PublicSite { broker, keyring, random, clock, events, style: Style::new() }
    }

    async fn answer(&self, request: Request) -> Response {
        let segments = segments(&request.path, Dots::Never);
        let words: Vec<&str> = segments.iter().flatten().map(AsRef::as_ref).collect();
        let allow = match words[..] {
            _ if request.path == "/" => "GET, HEAD, OPTIONS",
            ["connect", _] | ["callback", _] => "GET, HEAD, OPTIONS, POST",
            _ => return self.page(StatusCode::NOT_FOUND, &Page::not_found()),
        };
        if cookie::are_too_many(&request.headers) {
            return self.too_many_cookies();
        }
        if navigation::is_ahead(&request.headers) {
            return self.page(StatusCode::SERVICE_UNAVAILABLE, &Page::opened_ahead());
        }
        match (&request.method, &words[..]) {
            (&Method::GET | &Method::HEAD, []) => self.page(StatusCode::OK, &self.launch()),
            (&Method::GET | &Method::HEAD, ["connect", id]) => self.invitation(id, &request).await,
            (&Method::POST, ["connect", id]) => self.begin(id, &request).await,
            (&Method::HEAD, ["callback", _]) => self.page(StatusCode::OK, &Page::opened_ahead()),
            (&Method::GET | &Method::POST, ["callback", app]) => {
                let app = (*app).to_owned();
                self.callback(&app, request).await
            }
            (method, _) => {
                let mut response = self.page(StatusCode::METHOD_NOT_ALLOWED, &Page::only_for_browsers());
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
        let mut page = Page::new("Connected accounts")
            .say(
                "This service keeps your Outlook account connected to your company's own applications. It \
                has no pages of its own to work in.",
            )
            .say("To connect your account, or to see what is connected, open the application that uses it.");
        for app in self.broker.apps().values() {
            if let Some(url) = app.return_urls.first() {
                page = page.link(format!("Open {}", app.display_name), url.clone());
            }
        }
        page
    }

    /// Answers `GET /connect/{session}`: a page that says what is asked and by whom, with one button.
    async fn invitation(&self, id: &str, request: &Request) -> Response {
        let Ok(id) = SessionId::parse(id) else {
            return self.cannot_begin(CannotBegin::Gone, request);
        };
        let binding = cookie::binding(&request.headers, &self.broker.base_url(), id.expose());
        let view = match self.broker.session_view(&id, binding.as_deref()).await {
            Ok(view) => view,
            Err(problem) => return self.cannot_begin(problem, request),
        };
        if view.state != SessionState::Pending {
            // The browser that completed the sign-in learns how it ended; any other learns only that it
            // ended.
            return match view.is_its_browser {
                true => {
                    let page = failure::of_session(&view.state, view.gone_since, None);
                    self.page(StatusCode::GONE, &self.with_contact(page, &view.app))
                }
                false => self.cannot_begin(CannotBegin::Over(view.state), request),
            };
        }
        let app = self.broker.app(&view.app).ok();
        let name = app.as_ref().map_or_else(|| view.app.to_string(), |app| app.display_name.clone());
        let mut page = Page::new(format!("Connect your account to {name}"))
            .say(format!(
                "{} asks for access to your account, to be used as {}. You will sign in at your account's \
                 own provider and decide there; this page never sees your password.",
                view.asked_by, view.key.connection
            ))
            .list("It will ask for", asked_for(&view.scopes))
            .say(
                "If you did not just ask for this yourself, close this page: whoever sent you the link \
                would get access to your account.",
            )
            .button("Continue to sign in", format!("{}/connect/{}", self.broker.base_url(), id.expose()));
        page = page.contact(app.and_then(|app| app.support_contact.clone()));
        let mut response = self.page(StatusCode::OK, &page);
        // The binding comes with the page, so that two presses of the button come from the same browser.
        if binding.is_none() && request.method == Method::GET {
            let cookie = cookie::set(&self.broker.base_url(), id.expose(), &self.broker.new_binding());
            response.headers_mut().insert(header::SET_COOKIE, cookie);
        }
        response
    }

    /// Answers `POST /connect/{session}`: the button.
    async fn begin(&self, id: &str, request: &Request) -> Response {
        let Ok(id) = SessionId::parse(id) else {
            return self.cannot_begin(CannotBegin::Gone, request);
        };
        if !cookie::is_same_site(&request.headers, &self.broker.base_url()) {
            self.events.browser_refused(who(request), Stranger::LinkFromElsewhere, None);
            return self.page(StatusCode::FORBIDDEN, &Page::link_from_elsewhere());
        }
        let binding = cookie::binding(&request.headers, &self.broker.base_url(), id.expose());
        match self.broker.begin(&id, binding.as_deref()).await {
            Ok(begun) => {
                let mut response = self.redirect(&begun.url);
                if let Some(binding) = begun.binding {
                    let cookie = cookie::set(&self.broker.base_url(), id.expose(), &binding);
                    response.headers_mut().insert(header::SET_COOKIE, cookie);
                }
                response
            }
            Err(problem) => self.cannot_begin(problem, request),
        }
    }

    fn cannot_begin(&self, problem: CannotBegin, request: &Request) -> Response {
        let stranger = match &problem {
            CannotBegin::Gone | CannotBegin::Over(_) => Some(Stranger::UnknownLink),
            CannotBegin::AnotherBrowser => Some(Stranger::LinkFromElsewhere),
            CannotBegin::Barred(_) => Some(Stranger::BarredLink),
            CannotBegin::TooOften => Some(Stranger::LinkPressedTooOften),
            CannotBegin::Unavailable(_) => None,
        };
        if let Some(stranger) = stranger {
            self.events.browser_refused(who(request), stranger, None);
        }
        match problem {
            CannotBegin::Gone => self.page(StatusCode::NOT_FOUND, &Page::link_gone()),
            CannotBegin::AnotherBrowser => self.page(StatusCode::CONFLICT, &Page::another_browser()),
            CannotBegin::TooOften => self.page(StatusCode::TOO_MANY_REQUESTS, &Page::pressed_too_often()),
            CannotBegin::Barred(reason) => {
                let status = match reason {
                    FailureReason::ConnectionPaused => StatusCode::CONFLICT,
                    _ => StatusCode::FORBIDDEN,
                };
                self.page(status, &failure::of_session(&SessionState::Failed(reason.into()), false, None))
            }
            CannotBegin::Over(state) if state.is_failed_for(FailureReason::Revoked) => {
                self.page(StatusCode::GONE, &failure::of_session(&state, false, None))
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
                self.page(StatusCode::GONE, &page)
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
                let mut response = self.page(status, &page);
                if let Some(seconds) = retry_after {
                    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
                }
                response
            }
        }
    }

    /// Answers the callback, with which the browser comes back.
    async fn callback(&self, app: &str, request: Request) -> Response {
        let Ok(app) = AppName::parse(app) else {
            return self.page(StatusCode::NOT_FOUND, &Page::not_found());
        };
        let request_id = request.request_id.clone();
        let reference = format!("{}, {request_id}", self.clock.now().rfc3339());
        let who = of_browser(&request_id, request.peer.origin);
        let headers = request.headers.clone();
        let parameters = match self.callback_parameters(&app, request).await {
            Ok(callback::Arrived::Here(parameters)) => parameters,
            Ok(callback::Arrived::Relay(url)) => return self.redirect(&url),
            Err(callback::CannotRead::Wrong(page)) => {
                self.events.browser_refused(who, Stranger::MalformedCallback, Some(&app));
                return self.page(StatusCode::BAD_REQUEST, &page);
            }
            Err(callback::CannotRead::NoRoom) => return self.crowded(),
        };
        let admin = parameters.admin_consent;
        let base_url = self.broker.base_url();
        let binding = move |session: &str| cookie::binding(&headers, &base_url, session);
        let tell = self.teller(&app, &request_id, who.origin);
        let finished =
            self.broker.finish(parameters.callback(&app, request_id.as_str(), &binding), tell).await;
        match finished {
            Finished::Refused(problem) => {
                let (status, page) = Page::of_callback_problem(&problem, admin);
                self.page(status, &page)
            }
            Finished::AdminConsent { return_to: Some(url), .. } => self.redirect(&url),
            Finished::AdminConsent { refused, app, .. } => {
                let page = match &refused {
                    None => Page::approval_noted(),
                    Some(failure) => failure::approval_refused(failure).for_support(failure, &reference),
                };
                self.page(StatusCode::OK, &self.with_contact(page, &app))
            }
            Finished::Session(session) => match &session.return_to {
                Some(url) => self.redirect(url),
                None => {
                    let FinishedSession { key, state, gone_since, admin_consent_url, way_back, .. } =
                        *session;
                    let mut page = failure::of_session(&state, gone_since, admin_consent_url);
                    if let SessionState::Failed(failure) = &state {
                        page = page.for_support(failure, &reference);
                    }
                    if let Some(url) = way_back {
                        page = page.link("Back to the application".to_owned(), url);
                    }
                    let status = match state {
                        _ if state.is_failed_for(FailureReason::Internal) => StatusCode::SERVICE_UNAVAILABLE,
                        SessionState::Expired => StatusCode::GONE,
                        _ => StatusCode::OK,
                    };
                    self.page(status, &self.with_contact(page, &key.app))
                }
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

    fn with_contact(&self, page: Page, app: &AppName) -> Page {
        page.contact(self.broker.app(app).ok().and_then(|app| app.support_contact.clone()))
    }

    /// 303, never 307: the method and its body end here (RFC 9700 section 4.12).
    fn redirect(&self, url: &str) -> Response {
        let Ok(location) = HeaderValue::from_str(url) else {
            return self.page(StatusCode::INTERNAL_SERVER_ERROR, &Page::try_again_later());
        };
        let mut response = self.page(StatusCode::SEE_OTHER, &Page::new("Continue"));
        response.headers_mut().insert(header::LOCATION, location);
        response
    }

    fn too_many_cookies(&self) -> Response {
        let base_url = self.broker.base_url();
        let host = base_url.split('/').nth(2).unwrap_or_default();
        self.page(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, &Page::too_many_cookies(host))
    }

    fn page(&self, status: StatusCode, page: &Page) -> Response {
        let mut response = response(status, "text/html; charset=utf-8", page.html(&self.style));
        let headers = response.headers_mut();
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
        headers.insert(header::CONTENT_SECURITY_POLICY, self.style.policy.clone());
        if self.broker.base_url().starts_with("https://") {
            headers.insert(
                header::STRICT_TRANSPORT_SECURITY,
                HeaderValue::from_static("max-age=31536000; includeSubDomains"),
            );
        }
        response
    }

    fn crowded(&self) -> Response {
        let mut response = self.page(StatusCode::SERVICE_UNAVAILABLE, &Page::crowded());
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        response
    }
}

impl Handler for PublicSite {
    fn handle<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        Box::pin(self.answer(request))
    }

    fn refuse(&self, refused: Refused, _: &str, request_id: &RequestId) -> Response {
        match refused {
            Refused::HeadTooLarge => self.too_many_cookies(),
            Refused::TooManyParameters => self.page(StatusCode::BAD_REQUEST, &Page::too_many_parameters()),
            Refused::Overloaded => self.crowded(),
            Refused::TargetTooLong | Refused::Malformed | Refused::Panicked => refused.problem(request_id),
        }
    }
}

fn who(request: &Request) -> Who<'_> {
    of_browser(&request.request_id, request.peer.origin)
}

fn of_browser(request_id: &RequestId, origin: Origin) -> Who<'_> {
    Who { request_id, origin, listener: Listener::Public, dialect: NATIVE, method: None }
}

/// Describes the scopes, without repetition.
fn asked_for(scopes: &[String]) -> Vec<String> {
    let mut said = Vec::new();
    for words in scopes.iter().map(|scope| in_words(scope)) {
        if !said.contains(&words) {
            said.push(words);
        }
    }
    said
}

/// Describes a scope in plain words; an unknown one is shown as it is.
fn in_words(scope: &str) -> String {
    let name = scope.rsplit('/').next().unwrap_or(scope).to_ascii_lowercase();
    let words = match name.as_str() {
        "openid" | "profile" | "user.read" => return "Know who you are (name and account)".to_owned(),
        "email" => "See your e-mail address",
        "offline_access" => "Keep the connection while you are away",
        "mail.readbasic" => "See your e-mail's headers, not its text",
        "mail.read" => "Read your e-mail",
        "mail.readwrite" => "Read, change and delete your e-mail",
        "mail.send" => "Send e-mail as you",
        "mailboxsettings.read" => "See your mailbox settings",
        "mailboxsettings.readwrite" => "Change your mailbox settings",
        "calendars.read" => "Read your calendars",
        "calendars.readwrite" => "Read and change your calendars",
        "contacts.read" => "Read your contacts",
        "contacts.readwrite" => "Read and change your contacts",
        _ => return scope.to_owned(),
    };
    format!("{words} ({scope})")
}
