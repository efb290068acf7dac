//! The admin API: operators and the commands see and end connections, whoever's they are, and look after sealing keys, client
//! credentials and the daemon itself.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::Serialize;

use super::body::AskedRevocation;
use super::path::{self, NoConnection, Of};
use super::problem::{Problem, json};
use super::shapes::{ConnectionShape, ExplainShape};
use super::to_its_end::Acts;
use super::upkeep::{self, Upkeep};
use super::{body, code_of, credential, list_request, no_content, page_shape, refuse_credential_in_url};
use crate::broker::inspect::Shown;
use crate::broker::pause::PausedWhat;
use crate::broker::replicas::Replica;
use crate::broker::revoke::Meant;
use crate::broker::rewrap::{Against, Progress, ShownKeyring};
use crate::broker::{Broker, Refusal};
use crate::callers::{AuthenticationFailure, Credential, KeyUse, LiveCallers};
use crate::domain::choice::Choice;
use crate::domain::id::{AppName, CallerName, ConnectionKey};
use crate::domain::task::BoxFuture;
use crate::domain::time::{Clock, Timestamp};
use crate::events::{About, Events, Listener, Who};
use crate::listener::{Handler, Origin, Pairs, Request, RequestId, Response};

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
        let who = Who { request_id: id, origin: request.peer.origin, listener: Listener::Admin };
        let admin = match self.authenticate(&request.headers, who.origin).await {
            Ok(admin) => admin,
            Err(failure) => {
                self.events.unauthenticated(who, failure);
                return Err(Problem::unauthenticated());
            }
        };
        let segments = path::segments_of_operators(&request.path).ok_or_else(Problem::no_such_path)?;
        let query =
            Pairs::read(request.query.as_deref().unwrap_or_default().as_bytes()).map_err(Problem::query)?;
        let words: Vec<&str> = segments.iter().map(String::as_str).collect();
        match words[..] {
            ["admin", "v1", "apps"] if request.method == Method::GET => {
                let apps = self.broker.apps();
                let apps: Vec<&str> = apps.keys().map(AppName::as_str).collect();
                Ok(json(StatusCode::OK, &serde_json::json!({ "apps": apps })))
            }
            ["admin", "v1", "revocations"] if request.method == Method::POST => {
                let asked = body::revocation(body::read(request.body).await?, self.clock.now())?;
                let AskedRevocation { revocation, even_if_unknown, dry_run } = asked;
                if dry_run {
                    let meant = self.broker.would_revoke(&revocation, even_if_unknown).await;
                    let Meant { connections, complete } = meant.map_err(Problem::of)?;
                    let answer = serde_json::json!({ "connections": connections, "complete": complete });
                    return Ok(json(StatusCode::OK, &answer));
                }
                let outcome = self.broker.revoke(revocation.clone(), even_if_unknown).await;
                let meant = outcome.as_ref().ok();
                self.events.revoked(who, &admin, &revocation, meant, code_of(&outcome)).await;
                let Meant { connections, complete } = outcome.map_err(Problem::of)?;
                let at = revocation.at.rfc3339();
                let answer =
                    serde_json::json!({ "revoked_at": at, "connections": connections, "complete": complete });
                Ok(json(StatusCode::OK, &answer))
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
                    "notes": self.upkeep.notes(),
                    "last_reload": reloaded.as_ref().map(upkeep::reloaded_shape),
                    "store": upkeep::store_shape(self.upkeep.store_lost()),
                    "jobs": upkeep::jobs_shape(&self.upkeep.jobs()),
                    "ends_next": upkeep::endings_shape(&self.upkeep.endings().await),
                    "apps": self.credentials().await,
                });
                Ok(json(StatusCode::OK, &status))
            }
            ["admin", "v1", "reload"] if request.method == Method::POST => {
                let reloaded = self.upkeep.reload().await;
                let code = if reloaded.result.is_ok() { "ok" } else { "refused" };
                self.events.operated(who, &admin, "reload", code, About::default()).await;
                Ok(json(StatusCode::OK, &upkeep::reloaded_shape(&reloaded)))
            }
            ["admin", "v1", "credentials"] if request.method == Method::GET => {
                Ok(json(StatusCode::OK, &serde_json::json!({ "apps": self.credentials().await })))
            }
            ["admin", "v1", "apps", app, "token-host", host, "confirm"] if request.method == Method::POST => {
                let app = AppName::parse(app).map_err(|_| Problem::no_such_path())?;
                let outcome = self.upkeep.confirm_token_host(&app, host).await;
                let about = About { app: Some(app.as_str()), host: Some(host), ..About::default() };
                self.events.operated(who, &admin, "token_host_confirm", code_of(&outcome), about).await;
                outcome.map_err(Problem::of)?;
                Ok(json(StatusCode::OK, &serde_json::json!({ "host": host })))
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
                        let about = About::credential(&app, label);
                        self.events.operated(who, &admin, act, code_of(&outcome), about).await;
                        outcome.map_err(Problem::of)?;
                        Ok(json(StatusCode::OK, &serde_json::json!({ "id": label })))
                    }
                    (label, _) => {
                        let heard = self.upkeep.verify(&app, label).await;
                        let about = About::credential(&app, label.unwrap_or("*"));
                        let code = code_of(&heard);
                        self.events.operated(who, &admin, "credential_verify", code, about).await;
                        let heard = heard.map_err(Problem::of)?;
                        let shapes: Vec<_> = heard.iter().map(upkeep::verified_shape).collect();
                        Ok(json(StatusCode::OK, &serde_json::json!({ "credentials": shapes })))
                    }
                }
            }
            ["admin", "v1", "keyring"] if request.method == Method::GET => {
                let shown = self.broker.show_keyring().await.map_err(Problem::of)?;
                Ok(json(StatusCode::OK, &KeyringShape::new(&shown, self.broker.left_to_rewrap())))
            }
            ["admin", "v1", "keyring", "rewrap"] if request.method == Method::POST => {
                self.broker.ask_for_rewrap();
                self.events.keyring_act(who, &admin, ("keyring_rewrap", None), "ok").await;
                Ok(json(StatusCode::ACCEPTED, &serde_json::json!({ "rewrapping": true })))
            }
            // What is asked is whether it may be done: whoever asks changes the file, which is not the daemon's to write.
            ["admin", "v1", "keyring", act @ ("promote" | "retire")] if request.method == Method::POST => {
                let key = body::sealing_key(body::read(request.body).await?)?;
                let (act, against) = if act == "promote" {
                    let reasons = self.broker.against_promoting(&key).await;
                    ("keyring_promote", reasons.map(|reasons| Against { reasons, gone_by: None }))
                } else {
                    ("keyring_retire", self.broker.against_retiring(&key).await)
                };
                let Against { reasons, gone_by } = against.map_err(Problem::of)?;
                let may = reasons.is_empty();
                let code = if may { "ok" } else { "refused" };
                self.events.keyring_act(who, &admin, (act, Some(&key)), code).await;
                let gone_by = gone_by.map(Timestamp::rfc3339);
                let answer = serde_json::json!({ "may": may, "reasons": reasons, "gone_by": gone_by });
                Ok(json(StatusCode::OK, &answer))
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
                let (key, of) =
                    path::connection_of_operators(app, &segments[5..]).map_err(|no| match no {
                        NoConnection::App => Problem::of(Refusal::AppNotFound),
                        NoConnection::Name(invalid) => Problem::no_connection(invalid),
                    })?;
                match (of, request.method) {
                    (Of::Connection, Method::GET) => {
                        let shown = self.show(&key).await?;
                        Ok(json(StatusCode::OK, &ConnectionShape::from(&shown)))
                    }
                    (Of::Explain, Method::GET) => {
                        let shown = self.show(&key).await?;
                        Ok(json(StatusCode::OK, &ExplainShape::new(&shown, &self.broker.attempts(&shown))))
                    }
                    (Of::Connection, Method::DELETE) => {
                        let outcome = self.broker.delete_as_admin(&key).await;
                        self.events.admin_act(who, &admin, "delete", &key, code_of(&outcome)).await;
                        outcome.map_err(Problem::of)?;
                        Ok(no_content())
                    }
                    (Of::Connection, Method::PATCH) => {
                        let paused = body::paused(body::read(request.body).await?)?;
                        let outcome = self.broker.set_paused(&key, paused).await;
                        let act = if paused { "pause" } else { "resume" };
                        self.events.admin_act(who, &admin, act, &key, code_of(&outcome)).await;
                        if outcome.map_err(Problem::of)? == PausedWhat::Name {
                            return Ok(no_content());
                        }
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

    /// A connection; where there is none and its name is held, that is said.
    async fn show(&self, key: &ConnectionKey) -> Result<Shown, Problem> {
        match self.broker.show_as_admin(key).await {
            Ok(shown) => Ok(shown),
            Err(Refusal::ConnectionNotFound) if self.broker.is_name_paused(key).await == Ok(true) => {
                Err(Problem::of(Refusal::ConnectionNotFound).of_held_name(key))
            }
            Err(refusal) => Err(Problem::of(refusal)),
        }
    }

    async fn credentials(&self) -> Vec<serde_json::Value> {
        // They are shown without the others where the store does not answer: what this one knows is worth more then.
        let replicas = self.broker.replicas().await.ok();
        upkeep::apps_shape(self.upkeep.credentials(), replicas.as_deref())
    }

    async fn authenticate(
        &self,
        headers: &HeaderMap,
        origin: Origin,
    ) -> Result<String, AuthenticationFailure> {
        let credential = credential(headers, origin).ok_or(AuthenticationFailure::Malformed)?;
        if let Credential::UnixPeer { uid } = credential
            && self.own_uids.contains(&uid)
        {
            return Ok(format!("uid:{uid}"));
        }
        let admin = self.admins.load_full().authenticate(credential, self.clock.as_ref()).await;
        admin.map(|admin| admin.name.to_string())
    }
}

/// The keyring as it is shown: never a key.
#[derive(Serialize)]
struct KeyringShape {
    keys: Vec<SealingKeyShape>,
    replicas: Vec<ReplicaShape>,
    rewrap: RewrapShape,
}

#[derive(Serialize)]
struct SealingKeyShape {
    id: String,
    /// Null for a key that records name and that is not in the keyring.
    created_at: Option<String>,
    promoted_at: Option<String>,
    primary: bool,
    /// Null when nothing was counted since the daemon started.
    records: Option<u64>,
    /// Of those, the ones that go by themselves.
    passing: Option<u64>,
    counted_at: Option<String>,
    /// Since when it was counted zero.
    none_since: Option<String>,
    /// It was counted zero twice, long enough apart.
    counted_away: bool,
    /// The replicas that can open it.
    opened_by: Vec<String>,
    /// The live ones that cannot.
    not_opened_by: Vec<String>,
}

#[derive(Serialize)]
struct ReplicaShape {
    id: String,
    host: String,
    version: String,
    reported_at: String,
    primary: String,
    keys: Vec<String>,
    /// It is the one that answers.
    answers: bool,
}

#[derive(Serialize)]
struct RewrapShape {
    /// Records that are still to be sealed anew, as counted last.
    left: u64,
    /// How often this replica has counted since it started.
    counts: u64,
    running: bool,
    /// Why nothing is sealed anew although it is needed.
    waits_for: Option<String>,
    /// By the last pass of this replica.
    resealed: u64,
    refused: u64,
}

impl KeyringShape {
    fn new(shown: &ShownKeyring, left: u64) -> Self {
        let keys = shown.keys.iter().map(|key| {
            let named = |opens: bool| {
                let those = |replica: &&Replica| replica.report.sealing.keys.contains_key(&key.id) == opens;
                shown.replicas.iter().filter(those).map(Replica::name).collect()
            };
            let counted = key.counted.as_ref();
            SealingKeyShape {
                id: key.id.clone(),
                created_at: key.created_at.map(|at| at.rfc3339()),
                promoted_at: key.promoted_at.map(|at| at.rfc3339()),
                primary: key.is_primary,
                records: counted.map(|counted| counted.records),
                passing: counted.map(|counted| counted.passing),
                counted_at: counted.map(|counted| counted.at.rfc3339()),
                none_since: counted.and_then(|counted| counted.none_since).map(|at| at.rfc3339()),
                counted_away: key.may_go,
                opened_by: named(true),
                not_opened_by: named(false),
            }
        });
        let replicas = shown.replicas.iter().map(|Replica { report, is_me }| ReplicaShape {
            id: report.id.clone(),
            host: report.host.clone(),
            version: report.version.clone(),
            reported_at: report.at.rfc3339(),
            primary: report.sealing.primary.clone(),
            keys: report.sealing.keys.keys().cloned().collect(),
            answers: *is_me,
        });
        let Progress { is_running, waits_for, resealed, refused } = shown.progress.clone();
        // Another replica may have done what this one waited with.
        let waits_for = waits_for.filter(|_| left > 0);
        let rewrap =
            RewrapShape { left, counts: shown.counts, running: is_running, waits_for, resealed, refused };
        KeyringShape { keys: keys.collect(), replicas: replicas.collect(), rewrap }
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

/// Operators ask seldom: whatever they ask for is done to its end.
impl Acts for AdminApi {
    fn is_act(&self, _: &Request) -> bool {
        true
    }
}
