//! The local API: who asks, that it is counted, and then the route of the [`table`].

mod examples;
mod handlers;
mod table;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};

pub use self::handlers::DEGRADED;
use self::table::TABLE;
use super::problem::Problem;
use super::routes::{self, Api, Effect, Found, Route, Target};
use super::to_its_end::Acts;
use super::{credential, path, refuse_credential_in_url};
use crate::broker::{Broker, Refusal};
use crate::callers::limit::{Admitted, Limiter};
use crate::callers::{AuthenticationFailure, Caller, LiveCallers};
use crate::domain::id::ConnectionName;
use crate::domain::task::BoxFuture;
use crate::domain::time::Clock;
use crate::events::{Events, Listener, Read, Who};
use crate::listener::{Body, Handler, Origin, Pairs, Request, RequestId, Response};

/// The API's document. Its paths are written from the table.
pub const OPENAPI: &str = include_str!("../openapi.json");

/// Method and path of every route.
pub const ROUTES: [(&str, &str); TABLE.len()] = routes::listed(TABLE);

/// The local API.
pub struct LocalApi {
    broker: Arc<Broker>,
    callers: LiveCallers,
    limiter: Limiter,
    clock: Arc<dyn Clock>,
    events: Arc<Events>,
}

/// A request of a caller that was counted.
pub(super) struct Call<'a> {
    admitted: &'a Admitted<'a>,
    query: Pairs,
    body: Body,
    who: Who<'a>,
}

impl Api for LocalApi {
    type Call<'a> = Call<'a>;
}

impl Call<'_> {
    fn caller(&self) -> &Caller {
        self.admitted.caller()
    }
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

    /// Everything up to the routes: who asks, and that it is counted. What is malformed, refused or leads nowhere counts
    /// too.
    async fn route(&self, request: Request, id: &RequestId) -> Result<Response, Problem> {
        let clean = refuse_credential_in_url(&request);
        let found = clean.clone().and_then(|()| find(&request.path));
        if let Ok(found) = &found
            && let Some(answer) = found.open(&request.method, &request.path)
        {
            return Ok(answer);
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
        match self.limiter.admit(caller, self.clock.monotonic()) {
            Ok(admitted) => {
                let found = found?;
                let route = found.route(&request.method);
                let outcome = self.serve(&admitted, &found, route, request, who).await;
                if let (Err(problem), Some(Route { effect: Effect::Reads(what), .. })) = (&outcome, route)
                    && problem.denies()
                {
                    self.events.reading_refused(who, &name, read(what, &found.target), problem.code).await;
                }
                outcome
            }
            Err(after) => {
                // Whatever it was for, and also where it leads nowhere.
                self.events.count_over_rate(&name);
                let problem = Problem::of(Refusal::RateLimited { retry_after: after.0 });
                match &found {
                    Ok(found @ Found { target: Target::Connection(key), .. }) if found.hands_out() => {
                        self.events.refused(who, &name, key, problem.code, Duration::ZERO).await;
                    }
                    other => {
                        let about = other.as_ref().map_or((None, None), |found| found.target.about());
                        self.events.over_its_rate(who, &name, about, problem.code).await;
                    }
                }
                Err(problem)
            }
        }
    }

    /// The route, for a caller whose request was counted.
    async fn serve(
        &self,
        admitted: &Admitted<'_>,
        found: &Found<LocalApi>,
        route: Option<&Route<LocalApi>>,
        request: Request,
        who: Who<'_>,
    ) -> Result<Response, Problem> {
        let query =
            Pairs::read(request.query.as_deref().unwrap_or_default().as_bytes()).map_err(Problem::query)?;
        let Some(route) = route else { return Ok(found.other_method(who.request_id.as_str())) };
        let call = Call { admitted, query, body: request.body, who };
        route.run(self, call, &found.target).await
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
}

impl Handler for LocalApi {
    fn handle<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        Box::pin(self.answer(request))
    }
}

impl Acts for LocalApi {
    fn is_act(&self, request: &Request) -> bool {
        is_act(find(&request.path).ok().as_ref(), &request.method, request.query.as_deref())
    }
}

fn is_act(found: Option<&Found<LocalApi>>, method: &Method, query: Option<&str>) -> bool {
    match found.and_then(|found| found.route(method)).map(|route| route.effect) {
        Some(Effect::Acts) => true,
        // A hand-out's record is put down in the step in which it is decided, so it needs no task. The link that is
        // asked for beside a refusal is an act.
        Some(Effect::HandsOut) => asks_for_link(query),
        Some(Effect::None | Effect::Reads(_)) | None => false,
    }
}

fn find(path: &str) -> Result<Found<LocalApi>, Problem> {
    let segments = path::segments(path).ok_or_else(|| {
        path::unreadable_name(path).map_or_else(Problem::no_such_path, Problem::no_connection)
    })?;
    routes::find(TABLE, &segments, ConnectionName::parse)
}

fn read(what: &'static str, target: &Target) -> Read {
    let (app, connection) = target.about();
    Read { what, app: app.cloned(), connection: connection.cloned(), session: target.session().cloned() }
}

/// However its name is spelled.
fn asks_for_link(query: Option<&str>) -> bool {
    Pairs::names(query.unwrap_or_default().as_bytes())
        .is_ok_and(|mut names| names.any(|name| name == "connect"))
}

#[cfg(test)]
mod tests;
