//! The admin API: operators and the commands see and end every connection, and look after sealing keys,
//! client credentials and the daemon itself. It finds out who asks, and then the route of its table.

mod acts;
mod console;
mod examples;
mod handlers;
mod shapes;
mod table;
pub mod wire;

use std::sync::{Arc, LazyLock};

use http::{HeaderMap, header};

use self::console::{Console, Operator};
pub use self::console::{Consoles, Place};
use self::table::TABLE;
use super::asked::{Asked, BadUrl};
use super::credential;
use super::problem::Problem;
use super::routes::{self, Api, Paths, Route};
use super::to_its_end::{Acts, ToItsEnd};
use super::upkeep::Upkeep;
use crate::broker::Broker;
use crate::callers::{AuthenticationFailure, Credential, LiveCallers};
use crate::domain::auth_method::{AuthMethod, LiveAuthMethods};
use crate::domain::id::{ConnectionName, InvalidName};
use crate::domain::task::{BoxFuture, Tasks};
use crate::domain::time::Clock;
use crate::events::{Events, Listener, NATIVE, Who};
use crate::listener::{Body, Dots, Handler, Pairs, Peer, Refused, Request, RequestId, Response};
use crate::span::{self, Value};

/// The API's document. Its paths are written from the table.
pub const OPENAPI: &str = include_str!("../openapi-admin.json");

/// Method and path of every route.
pub const ROUTES: [(&str, &str); TABLE.len()] = routes::listed(TABLE);

/// The admin API of one listener.
pub struct AdminApi {
    broker: Arc<Broker>,
    callers: LiveCallers,
    admins: LiveCallers,
    /// Those who are admins without being named: root, and the daemon's own user.
    own_uids: Vec<u32>,
    /// What the listener accepts.
    accepted: LiveAuthMethods,
    clock: Arc<dyn Clock>,
    events: Arc<Events>,
    upkeep: Arc<dyn Upkeep>,
    consoles: Arc<Consoles>,
}

/// A request of an operator.
pub(super) struct Call<'a> {
    /// The name in `[admins]`, or the uid.
    admin: &'a str,
    /// The id of the API key that came, if one did.
    key: Option<&'a str>,
    query: Pairs,
    body: Body,
    who: Who<'a>,
}

impl Api for AdminApi {
    type Call<'a> = Call<'a>;
    const TABLE: &'static [Route<Self>] = TABLE;
    const DOTS: Dots = Dots::Escaped;
    const RELAYS: bool = false;

    fn paths() -> &'static Paths {
        static PATHS: LazyLock<Paths> = LazyLock::new(Paths::of::<AdminApi>);
        &PATHS
    }

    /// Operators may have to name a connection from before some names were ruled out.
    fn connection_name(text: &str) -> Result<ConnectionName, InvalidName> {
        ConnectionName::stored(text)
    }
}

impl AdminApi {
    /// The API over a broker and those who may use it, at a listener that accepts these methods. `own_uids`
    /// come over the Unix socket.
    #[expect(clippy::too_many_arguments, reason = "one for each part that it asks")]
    pub fn new(
        broker: Arc<Broker>,
        callers: LiveCallers,
        admins: LiveCallers,
        own_uids: Vec<u32>,
        accepted: LiveAuthMethods,
        clock: Arc<dyn Clock>,
        events: Arc<Events>,
        upkeep: Arc<dyn Upkeep>,
        consoles: Arc<Consoles>,
    ) -> Self {
        AdminApi { broker, callers, admins, own_uids, accepted, clock, events, upkeep, consoles }
    }

    /// Makes the handler of its requests, and of the console's. Each act is a task of its own.
    pub fn handler(self, tasks: Arc<dyn Tasks>) -> Arc<impl Handler> {
        let api = Arc::new(self);
        let console = ToItsEnd::new(Arc::new(Console::new(Arc::clone(&api))), Arc::clone(&tasks));
        Arc::new(ApiAndConsole { api: ToItsEnd::new(api, tasks), console })
    }

    async fn respond(&self, request: Request, asked: Asked<AdminApi>) -> Response {
        let id = request.request_id.clone();
        match self.route(request, asked, &id).await {
            Ok(response) => response,
            Err(problem) => {
                span::set(span::key::CODE, Value::Word(problem.code));
                problem.response(id.as_str())
            }
        }
    }

    /// Everything up to the routes: who asks.
    async fn route(
        &self,
        request: Request,
        asked: Asked<AdminApi>,
        id: &RequestId,
    ) -> Result<Response, Problem> {
        let Asked { found, query } = asked;
        if let Ok(found) = &found {
            span::route(&request.method, found.path);
        }
        if let Err(BadUrl::Refused(problem)) = found {
            return Err(*problem);
        }
        if let Ok(found) = &found
            && let Some(answer) = found.open(self, &request.method, &request.path)
        {
            return Ok(answer);
        }
        let origin = request.peer.origin;
        let who = Who {
            request_id: id,
            origin,
            listener: Listener::Admin,
            dialect: NATIVE,
            method: None,
            handle: None,
        };
        let operator = match self.authenticate(&request.headers, &request.peer).await {
            Ok(authenticated) => authenticated,
            Err(failure) => {
                self.events.unauthenticated(who, failure);
                let brought = request.headers.contains_key(header::AUTHORIZATION);
                return Err(Problem::of_stranger(failure, brought));
            }
        };
        let found = found?;
        let query = query.map_err(Problem::query)?;
        let route = found.route(&request.method).ok_or_else(|| found.other_method())?;
        let Operator { name: admin, proof, key } = &operator;
        let (key, who) = (key.as_deref(), who.proven_by(*proof));
        let call = Call { admin, key, query, body: request.body, who };
        route.run(self, call, &found.target).await.map_err(Problem::for_an_operator)
    }

    async fn authenticate(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
    ) -> Result<Operator, AuthenticationFailure> {
        let credential = credential(headers, peer).ok_or(AuthenticationFailure::Malformed)?;
        let accepted = self.accepted.current();
        if let Credential::UnixPeer { uid } = credential
            && self.own_uids.contains(&uid)
            && accepted.contains(AuthMethod::UnixUser)
        {
            return Ok(Operator { name: format!("uid:{uid}"), proof: AuthMethod::UnixUser, key: None });
        }
        let admins = self.admins.load_full();
        let known = admins.authenticate(credential, accepted, self.clock.as_ref()).await?;
        let key = match credential {
            // (What lasts no longer than the key must know it: the key may be retired just now.)
            Credential::ApiKey(text) => Some(admins.key_id(text).ok_or(AuthenticationFailure::Unknown)?),
            _ => None,
        };
        Ok(Operator { name: known.caller.name.to_string(), proof: known.method, key })
    }
}

/// What an admin listener serves.
struct ApiAndConsole {
    api: ToItsEnd<AdminApi>,
    console: ToItsEnd<Console>,
}

impl Handler for ApiAndConsole {
    fn handle<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        match Console::has(&request.path) {
            true => self.console.handle(request),
            false => self.api.handle(request),
        }
    }

    fn refuse(&self, refused: Refused, path: &str, id: &RequestId) -> Response {
        self.api.refuse(refused, path, id)
    }
}

impl Acts for AdminApi {
    type Asked = Asked<AdminApi>;

    fn read(&self, request: &Request) -> Asked<AdminApi> {
        Asked::read(&request.path, request.query.as_deref())
    }

    fn is_act(&self, request: &Request, asked: &Asked<AdminApi>) -> bool {
        asked.is_act(&request.method)
    }

    fn answer<'a>(&'a self, request: Request, asked: Asked<AdminApi>) -> BoxFuture<'a, Response> {
        Box::pin(self.respond(request, asked))
    }
}

#[cfg(test)]
mod tests;
