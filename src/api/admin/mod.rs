//! The admin API: operators and the commands see and end every connection, and look after sealing keys,
//! client credentials and the daemon itself. It finds out who asks, and then the route of its table.

mod examples;
mod handlers;
mod shapes;
mod table;
pub mod wire;

use std::sync::Arc;

use http::HeaderMap;

use self::table::TABLE;
use super::problem::Problem;
use super::routes::{self, Api, Effect, Found};
use super::to_its_end::Acts;
use super::upkeep::Upkeep;
use super::{credential, path, refuse_credential_in_url};
use crate::broker::Broker;
use crate::callers::{AuthenticationFailure, Credential, LiveCallers};
use crate::domain::id::ConnectionName;
use crate::domain::task::BoxFuture;
use crate::domain::time::Clock;
use crate::events::{Events, Listener, Who};
use crate::listener::{Body, Handler, Origin, Pairs, Request, RequestId, Response};

/// The API's document. Its paths are written from the table.
pub const OPENAPI: &str = include_str!("../openapi-admin.json");

/// Method and path of every route.
pub const ROUTES: [(&str, &str); TABLE.len()] = routes::listed(TABLE);

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

/// A request of an operator.
pub(super) struct Call<'a> {
    /// The name in `[admins]`, or the uid.
    admin: &'a str,
    query: Pairs,
    body: Body,
    who: Who<'a>,
}

impl Api for AdminApi {
    type Call<'a> = Call<'a>;
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

    /// Everything up to the routes: who asks.
    async fn route(&self, request: Request, id: &RequestId) -> Result<Response, Problem> {
        refuse_credential_in_url(&request)?;
        let found = find(&request.path);
        if let Ok(found) = &found
            && let Some(answer) = found.open(&request.method, &request.path)
        {
            return Ok(answer);
        }
        let who = Who { request_id: id, origin: request.peer.origin, listener: Listener::Admin };
        let admin = match self.authenticate(&request.headers, who.origin).await {
            Ok(admin) => admin,
            Err(failure) => {
                self.events.unauthenticated(who, failure);
                return Err(Problem::unauthenticated());
            }
        };
        let found = found?;
        let query =
            Pairs::read(request.query.as_deref().unwrap_or_default().as_bytes()).map_err(Problem::query)?;
        let Some(route) = found.route(&request.method) else { return Ok(found.other_method(id.as_str())) };
        let call = Call { admin: &admin, query, body: request.body, who };
        route.run(self, call, &found.target).await
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

impl Handler for AdminApi {
    fn handle<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        Box::pin(self.answer(request))
    }
}

impl Acts for AdminApi {
    fn is_act(&self, request: &Request) -> bool {
        let route = find(&request.path).ok().and_then(|found| found.route(&request.method));
        route.is_some_and(|route| route.effect == Effect::Acts)
    }
}

/// Operators may have to name a connection from before some names were ruled out.
fn find(path: &str) -> Result<Found<AdminApi>, Problem> {
    let segments = path::segments_of_operators(path).ok_or_else(Problem::no_such_path)?;
    routes::find(TABLE, &segments, ConnectionName::stored)
}

#[cfg(test)]
mod tests;
