//! The admin API: operators and the commands see and end connections, whoever's they are.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;

use super::path::{self, Of};
use super::problem::{Problem, json};
use super::shapes::{ConnectionShape, ExplainShape};
use super::upkeep::{self, Choice, Upkeep};
use super::{body, code_of, credential, list_request, page_shape, refuse_credential_in_url};
use crate::broker::Broker;
use crate::callers::{Credential, KeyUse, LiveCallers};
use crate::domain::id::{AppName, CallerName};
use crate::domain::task::BoxFuture;
use crate::domain::time::Clock;
use crate::events::{Events, Who};
use crate::listener::{Handler, Request, RequestId, Response};

/// The admin API.
pub struct AdminApi {
    broker: Arc<Broker>,
    callers: LiveCallers,
    admins: LiveCallers,
    /// Those who are admins without being named: root, and the daemon's own user.
    own_uids: Vec<u32>,
    clock: Arc<dyn Clock>,
    events: Arc<Events>,
    upkeep: Arc<dyn Upkeep>,
}

impl AdminApi {
    /// The API over a broker and those who may use it. `own_uids` come over the Unix socket.
    pub fn new(
        broker: Arc<Broker>,
        callers: LiveCallers,
        admins: LiveCallers,
        own_uids: Vec<u32>,
        clock: Arc<dyn Clock>,
        events: Arc<Events>,
        upkeep: Arc<dyn Upkeep>,
    ) -> Self {
        AdminApi { broker, callers, admins, own_uids, clock, events, upkeep }
    }

    async fn answer(&self, request: Request) -> Response {
        let id = request.request_id.clone();
        match self.route(request, &id).await {
            Ok(response) => response,
            Err(problem) => problem.response(id.as_str()),
        }
    }

    async fn route(&self, request: Request, id: &RequestId) -> Result<Response, Problem> {
        refuse_credential_in_url(&request)?;
        let who = Who { request_id: id, origin: request.peer.origin };
        let admin = match self.authenticate(&request) {
            Ok(admin) => admin,
            Err(reason) => {
                self.events.unauthenticated(who, reason).await;
                return Err(Problem::unauthenticated());
            }
        };
        let segments = path::segments(&request.path).ok_or_else(Problem::no_such_path)?;
        let query =
            path::query(request.query.as_deref()).map_err(|name| Problem::repeated_parameter(&name))?;
        let words: Vec<&str> = segments.iter().map(String::as_str).collect();
        match words[..] {
            ["admin", "v1", "apps"] if request.method == Method::GET => {
                let apps = self.broker.apps();
                let apps: Vec<&str> = apps.keys().map(AppName::as_str).collect();
                Ok(json(StatusCode::OK, &serde_json::json!({ "apps": apps })))
            }
            ["admin", "v1", "revocations"] if request.method == Method::POST => {
                let revocation = body::revocation(body::read(request.body).await?, self.clock.now())?;
                let outcome = self.broker.revoke(revocation.clone()).await;
                self.events.revoked(who, &admin, &revocation, code_of(&outcome)).await;
                outcome.map_err(Problem::of)?;
                let at = revocation.at.rfc3339();
                Ok(json(StatusCode::OK, &serde_json::json!({ "revoked_at": at })))
            }
            ["admin", "v1", "store", "adopt"] if request.method == Method::POST => {
                let outcome = self.broker.adopt_store().await;
                self.events.store_adopted(who, &admin, code_of(&outcome)).await;
                outcome.map_err(Problem::of)?;
                Ok(json(StatusCode::OK, &serde_json::json!({ "adopted": true })))
            }
            ["admin", "v1", "status"] if request.method == Method::GET => {
                let reloaded = self.upkeep.last_reload();
                let status = serde_json::json!({
                    "version": env!("CARGO_PKG_VERSION"),
                    "now": self.clock.now().rfc3339(),
                    "waiting_for": self.upkeep.waiting_for(),
                    "last_reload": reloaded.as_ref().map(upkeep::reloaded_shape),
                    "apps": upkeep::apps_shape(self.upkeep.credentials()),
                });
                Ok(json(StatusCode::OK, &status))
            }
            ["admin", "v1", "reload"] if request.method == Method::POST => {
                let reloaded = self.upkeep.reload().await;
                let code = if reloaded.result.is_ok() { "ok" } else { "refused" };
                self.events.operated(who, &admin, "reload", code, &[]).await;
                Ok(json(StatusCode::OK, &upkeep::reloaded_shape(&reloaded)))
            }
            ["admin", "v1", "credentials"] if request.method == Method::GET => {
                let apps = upkeep::apps_shape(self.upkeep.credentials());
                Ok(json(StatusCode::OK, &serde_json::json!({ "apps": apps })))
            }
            ["admin", "v1", "apps", app, "credentials", ref act @ ..] if request.method == Method::POST => {
                let app = AppName::parse(app).map_err(|_| Problem::no_such_path())?;
                let (label, choice) = match act {
                    ["verify"] => (None, None),
                    [label, "verify"] => (Some(*label), None),
                    [label, "promote"] => (Some(*label), Some(Choice::Promote)),
                    [label, "retire"] => (Some(*label), Some(Choice::Retire)),
                    _ => return Err(Problem::no_such_path()),
                };
                match (label, choice) {
                    (Some(label), Some(choice)) => {
                        let outcome = self.upkeep.choose(&app, label, choice).await;
                        let act = if choice == Choice::Promote {
                            "credential_promote"
                        } else {
                            "credential_retire"
                        };
                        let about = [("app", app.as_str()), ("credential", label)];
                        self.events.operated(who, &admin, act, code_of(&outcome), &about).await;
                        outcome.map_err(Problem::of)?;
                        Ok(json(StatusCode::OK, &serde_json::json!({ "id": label })))
                    }
                    (label, _) => {
                        let heard =
                            self.upkeep.verify(&app, label).await.ok_or_else(Problem::no_such_path)?;
                        let about = [("app", app.as_str()), ("credential", label.unwrap_or("*"))];
                        self.events.operated(who, &admin, "credential_verify", "ok", &about).await;
                        let shapes: Vec<_> = heard.iter().map(upkeep::verified_shape).collect();
                        Ok(json(StatusCode::OK, &serde_json::json!({ "credentials": shapes })))
                    }
                }
            }
            ["admin", "v1", "callers", caller, "keys"] if request.method == Method::GET => {
                let caller = CallerName::parse(caller).map_err(|_| Problem::no_such_path())?;
                if self.callers.load().named(&caller).is_none() {
                    return Err(Problem::no_such_path());
                }
                let uses = self.callers.load().key_uses().into_iter().filter(|used| used.caller == caller);
                let keys: Vec<KeyShape> = uses.map(KeyShape::from).collect();
                Ok(json(StatusCode::OK, &serde_json::json!({ "keys": keys })))
            }
            ["admin", "v1", "apps", app, "connections"] if request.method == Method::GET => {
                let app = AppName::parse(app).map_err(|_| Problem::no_such_path())?;
                let request = list_request(&self.broker, &app, &query)?;
                let page = self.broker.list_as_admin(&app, &request).await.map_err(Problem::of)?;
                Ok(json(StatusCode::OK, &page_shape(&self.broker, &app, &page)))
            }
            ["admin", "v1", "apps", app, "connections", ..] => {
                let (key, of) = path::connection(app, &segments[5..]).ok_or_else(Problem::no_such_path)?;
                match (of, request.method) {
                    (Of::Connection, Method::GET) => {
                        let shown = self.broker.show_as_admin(&key).await.map_err(Problem::of)?;
                        Ok(json(StatusCode::OK, &ConnectionShape::from(&shown)))
                    }
                    (Of::Explain, Method::GET) => {
                        let shown = self.broker.show_as_admin(&key).await.map_err(Problem::of)?;
                        Ok(json(StatusCode::OK, &ExplainShape::new(&shown, &self.broker.attempts(&shown))))
                    }
                    (Of::Connection, Method::DELETE) => {
                        let outcome = self.broker.delete_as_admin(&key).await;
                        self.events.admin_act(who, &admin, "delete", &key, code_of(&outcome)).await;
                        outcome.map_err(Problem::of)?;
                        let mut response = http::Response::new(Full::new(Bytes::new()));
                        *response.status_mut() = StatusCode::NO_CONTENT;
                        Ok(response)
                    }
                    (Of::Connection, Method::PATCH) => {
                        let paused = body::paused(body::read(request.body).await?)?;
                        let outcome = self.broker.set_paused(&key, paused).await;
                        let act = if paused { "pause" } else { "resume" };
                        self.events.admin_act(who, &admin, act, &key, code_of(&outcome)).await;
                        outcome.map_err(Problem::of)?;
                        let shown = self.broker.show_as_admin(&key).await.map_err(Problem::of)?;
                        Ok(json(StatusCode::OK, &ConnectionShape::from(&shown)))
                    }
                    (Of::Connection, Method::POST) => {
                        let outcome = self.broker.refresh_now(&key).await;
                        self.events.admin_act(who, &admin, "refresh", &key, code_of(&outcome)).await;
                        outcome.map_err(Problem::of)?;
                        Ok(json(StatusCode::ACCEPTED, &serde_json::json!({ "refreshing": true })))
                    }
                    // Nobody gets a token here: an operator who needs one is a caller.
                    (Of::Token, _) => Err(Problem::no_such_path()),
                    _ => {
                        let mut response = Problem::method_not_allowed().response(id.as_str());
                        response
                            .headers_mut()
                            .insert(header::ALLOW, HeaderValue::from_static("GET, PATCH, POST, DELETE"));
                        Ok(response)
                    }
                }
            }
            _ => Err(Problem::no_such_path()),
        }
    }

    fn authenticate(&self, request: &Request) -> Result<String, &'static str> {
        let credential = credential(&request.headers, request.peer.origin).ok_or("malformed")?;
        if let Credential::UnixPeer { uid } = credential
            && self.own_uids.contains(&uid)
        {
            return Ok(format!("uid:{uid}"));
        }
        let admin = self.admins.load().authenticate(credential, self.clock.now());
        admin.map(|admin| admin.name.to_string()).map_err(|failure| failure.as_str())
    }
}

/// An API key as it is shown: never the key, never its hash.
#[derive(Serialize)]
struct KeyShape {
    id: String,
    created_at: String,
    expires_at: String,
    /// Null when not since the daemon started.
    last_used_at: Option<String>,
}

impl From<KeyUse> for KeyShape {
    fn from(used: KeyUse) -> Self {
        KeyShape {
            id: used.key.id,
            created_at: used.key.created_at.rfc3339(),
            expires_at: used.key.expires_at.rfc3339(),
            last_used_at: used.last_used_at.map(|at| at.rfc3339()),
        }
    }
}

impl Handler for AdminApi {
    fn handle<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        Box::pin(self.answer(request))
    }
}
