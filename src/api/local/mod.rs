//! The local API: who asks, that it is counted, and then the route of the [`table`].

mod at_once;
mod entity_tag;
mod examples;
mod handlers;
mod handles;
mod managed_identity;
mod notices;
mod relay;
#[cfg(feature = "testkit")]
mod steps;
mod stream_caller;
mod table;
mod token_answer;
mod token_endpoint;
mod vault;
mod watch;
mod with_token;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::{HeaderMap, Method, header};
use percent_encoding::percent_decode_str;

pub use self::handlers::DEGRADED;
#[cfg(feature = "testkit")]
pub use self::steps::{Routed, Steps};
use self::table::TABLE;
use self::token_endpoint::Client;
use super::asked::{Asked, BadUrl};
use super::dialect::{Dialect, is_below_creds};
use super::problem::Problem;
use super::routes::{self, Api, Effect, Found, Paths, Route, Target};
use super::to_its_end::{Acts, ToItsEnd};
use crate::broker::handles::Handle;
use crate::broker::{Broker, Refusal};
use crate::callers::limit::{Admitted, Limiter};
use crate::callers::{Authenticated, AuthenticationFailure, Caller, Credential, LiveCallers};
use crate::domain::auth_method::LiveAuthMethods;
use crate::domain::handle::HandleId;
use crate::domain::id::{CallerName, ConnectionKey, ConnectionName, InvalidName};
use crate::domain::task::{BoxFuture, Tasks};
use crate::domain::time::Clock;
use crate::events::{Events, Listener, Read, Who};
use crate::listener::{
    AtOnce, BadPairs, Body, Dots, Handler, Pairs, Peer, PlainRequest, Refused, Request, RequestId, Response,
    Streams,
};
use crate::span::{self, Value};

/// The API's document. Its paths are written from the table.
pub const OPENAPI: &str = include_str!("../openapi.json");

/// Method and path of every route.
pub const ROUTES: [(&str, &str); TABLE.len()] = routes::listed(TABLE);

/// The local API of one listener.
pub struct LocalApi {
    broker: Arc<Broker>,
    callers: LiveCallers,
    /// What the listener accepts.
    accepted: LiveAuthMethods,
    /// Counts for all listeners together.
    limiter: Arc<Limiter>,
    clock: Arc<dyn Clock>,
    events: Arc<Events>,
    url: CallersUrl,
}

/// The URL at which callers reach a local API.
#[derive(Debug, Clone)]
pub struct CallersUrl {
    /// The token endpoint's issuer.
    pub issuer: String,
    /// The same, if the operator has named it.
    pub configured: Option<String>,
}

/// Why nobody is known to ask.
enum NoCaller {
    /// What is presented is nobody's, or a handle that is over.
    Unknown(AuthenticationFailure, Option<HandleId>),
    /// The body, in which the credential may be, cannot be had.
    Body(Box<Problem>),
}

impl From<AuthenticationFailure> for NoCaller {
    fn from(failure: AuthenticationFailure) -> Self {
        NoCaller::Unknown(failure, None)
    }
}

/// What a request has beside its path: head, query, body, where its answer may stream to, and the handle by
/// which it is made.
type Rest<'a> = ((Method, HeaderMap), Result<Pairs, BadPairs>, Body, (Streams, Peer), Option<&'a Handle>);

/// A request of a caller that was counted.
pub(super) struct Call<'a> {
    admitted: &'a Admitted<'a>,
    method: Method,
    headers: HeaderMap,
    query: Pairs,
    body: Body,
    /// For an answer that is a stream.
    streaming: (Streams, Peer),
    /// The handle by which it is made: at the relay alone.
    handle: Option<&'a Handle>,
    who: Who<'a>,
}

impl Api for LocalApi {
    type Call<'a> = Call<'a>;
    const TABLE: &'static [Route<Self>] = TABLE;
    const DOTS: Dots = Dots::Never;
    const RELAYS: bool = true;

    fn paths() -> &'static Paths {
        static PATHS: LazyLock<Paths> = LazyLock::new(Paths::of::<LocalApi>);
        &PATHS
    }

    fn connection_name(text: &str) -> Result<ConnectionName, InvalidName> {
        ConnectionName::parse(text)
    }

    fn unreadable(path: &str) -> Problem {
        unreadable_name(path).map_or_else(Problem::no_such_path, Problem::no_connection)
    }
}

impl Call<'_> {
    fn caller(&self) -> &Caller {
        self.admitted.caller()
    }
}

impl LocalApi {
    /// The API over a broker and its callers, at a listener that accepts these methods.
    pub fn new(
        broker: Arc<Broker>,
        callers: LiveCallers,
        accepted: LiveAuthMethods,
        limiter: Arc<Limiter>,
        clock: Arc<dyn Clock>,
        events: Arc<Events>,
        url: CallersUrl,
    ) -> Self {
        LocalApi { broker, callers, accepted, limiter, clock, events, url }
    }

    /// Makes the handler of its requests. Each act is a task of its own.
    pub fn handler(self, tasks: Arc<dyn Tasks>) -> Arc<impl Handler> {
        Arc::new(ToItsEnd::new(Arc::new(self), tasks))
    }

    async fn respond(&self, request: Request, asked: Asked<LocalApi>) -> Response {
        let id = request.request_id.clone();
        let dialect = Dialect::of(asked.found.as_ref().map_or(&request.path, |found| found.path));
        let form = dialect.form_for(&request.headers);
        match self.route(request, (asked, dialect), &id).await {
            Ok(response) => response,
            Err(problem) => {
                span::set(span::key::CODE, Value::Word(problem.code));
                form.refusal(problem, id.as_str())
            }
        }
    }

    /// Everything up to the routes: who asks, and that it is counted. What is malformed, refused or leads
    /// nowhere counts too.
    async fn route(
        &self,
        request: Request,
        (asked, dialect): (Asked<LocalApi>, Dialect),
        id: &RequestId,
    ) -> Result<Response, Problem> {
        let Asked { found, query } = asked;
        if let Ok(found) = &found {
            span::route(&request.method, found.path);
        }
        if let Ok(found) = &found
            && let Some(answer) = found.open(self, &request.method, &request.path)
        {
            return Ok(answer);
        }
        let (origin, word) = (request.peer.origin, dialect.as_str());
        let listener = Listener::Local;
        let who = Who { request_id: id, origin, listener, dialect: word, method: None, handle: None };
        let credential = dialect.credential(&request.headers, &request.peer);
        let mut handle = None;
        let known = match dialect {
            // (Boxed, as all that is not the ordinary way: so an ordinary request's future is small.)
            Dialect::TokenEndpoint => {
                Box::pin(self.client(&request.headers, &request.peer, request.body)).await
            }
            _ => {
                let known = match (dialect, credential) {
                    (Dialect::Relay, Some(Credential::Handle(text))) => {
                        Box::pin(self.by_handle(text)).await.map(|(known, of)| {
                            handle = Some(of);
                            known
                        })
                    }
                    (_, credential) => self.authenticate(credential).await.map_err(NoCaller::from),
                };
                let body = request.body;
                known.map(|known| Client { known, once: None, body })
            }
        };
        let Client { known: Authenticated { caller, method }, once, body } = match known {
            Ok(known) => known,
            // The form that would say who asks cannot be read.
            Err(NoCaller::Body(problem)) => {
                self.events.unauthenticated(who, AuthenticationFailure::Malformed);
                return Err(*problem);
            }
            Err(NoCaller::Unknown(failure, handle)) => {
                // A credential in the URL is said so to everybody, and is nobody's for all that.
                self.events.unauthenticated(who.with_handle(handle.as_ref()), failure);
                if let Err(BadUrl::Refused(problem)) = found {
                    return Err(*problem);
                }
                let brought = request.headers.contains_key(header::AUTHORIZATION);
                return Err(Problem::of_stranger(failure, brought));
            }
        };
        let who = who.proven_by(method).with_handle(handle.as_ref().map(|handle| &handle.id));
        let name = caller.name.clone();
        span::set(span::key::CALLER, Value::Caller(&name));
        match self.limiter.admit(caller, self.clock.monotonic()) {
            Ok(admitted) => {
                if let Some(once) = &once {
                    Box::pin(self.use_once(who, &admitted, once)).await?;
                }
                let found = match found {
                    Ok(found) => found,
                    Err(bad) => return Err(Box::pin(self.lost((bad, &request.path), who, &name)).await),
                };
                let route = found.route(&request.method);
                let head = (request.method, request.headers);
                let rest = (head, query, body, (request.streams, request.peer), handle.as_deref());
                let outcome = self.serve(&admitted, &found, route, rest, who).await;
                if let Err(problem) = &outcome {
                    Box::pin(self.leave_record(who, &name, (&found, route), problem)).await;
                }
                outcome
            }
            Err(after) => {
                // Whatever it was for, and also where it leads nowhere.
                self.events.count_over_rate(&name);
                let problem = Problem::of(Refusal::RateLimited { retry_after: after.0 });
                match &found {
                    Ok(found) if found.hands_out() => {
                        Box::pin(self.token_refused(who, &name, &found.target, problem.code)).await;
                    }
                    other => {
                        let about = other.as_ref().map_or((None, None), |found| found.target.about());
                        Box::pin(self.events.request_refused(who, &name, about, problem.code)).await;
                    }
                }
                Err(problem)
            }
        }
    }

    /// The problem of a known caller's URL. One that is refused, or names what nothing can have, is recorded;
    /// one that leads nowhere is not. (Below a mount of Vault's plugin there is nothing but names.)
    async fn lost(&self, (bad, path): (BadUrl, &str), who: Who<'_>, name: &CallerName) -> Problem {
        let problem = Problem::from(bad);
        if is_below_creds(path) {
            self.events.refused_unnamed(who, name, None, problem.code, Duration::ZERO).await;
        } else if problem.code != "not_found" {
            self.events.request_refused(who, name, (None, None), problem.code).await;
        }
        problem
    }

    /// Records a refusal that no handler has recorded, such as that of a body that cannot be read. Of
    /// readings only the denied ones are recorded.
    async fn leave_record(
        &self,
        who: Who<'_>,
        name: &CallerName,
        (found, route): (&Found<LocalApi>, Option<&Route<LocalApi>>),
        problem: &Problem,
    ) {
        match route.map(|route| route.effect) {
            Some(Effect::Reads(what)) => {
                if problem.denies() {
                    self.events.reading_refused(who, name, read(what, &found.target), problem.code).await;
                }
            }
            _ if problem.is_recorded() => {}
            _ if found.hands_out() => self.token_refused(who, name, &found.target, problem.code).await,
            Some(Effect::Acts) => {
                self.events.request_refused(who, name, found.target.about(), problem.code).await;
            }
            Some(Effect::None | Effect::HandsOut | Effect::Pushes | Effect::Relays) | None => {}
        }
    }

    /// Records that a token was refused of which only the path was looked at.
    async fn token_refused(&self, who: Who<'_>, name: &CallerName, target: &Target, code: &'static str) {
        let (elapsed, events) = (Duration::ZERO, &self.events);
        match target {
            Target::Connection(key) => events.refused(who, name, key, code, elapsed).await,
            Target::Relay(relayed) => events.refused(who, name, &relayed.key, code, elapsed).await,
            Target::App(app) => events.app_token_refused(who, name, (app, None), code, elapsed).await,
            Target::Mount(mount, connection) => match self.broker.app_at(mount) {
                Ok(app) => {
                    let key = ConnectionKey { app, connection: connection.clone() };
                    events.refused(who, name, &key, code, elapsed).await;
                }
                Err(_) => events.refused_unnamed(who, name, None, code, elapsed).await,
            },
            // Whose it was to be stands in the body or the query, at which nobody looked.
            _ => events.refused_unnamed(who, name, None, code, elapsed).await,
        }
    }

    /// The route, for a caller whose request was counted.
    async fn serve(
        &self,
        admitted: &Admitted<'_>,
        found: &Found<LocalApi>,
        route: Option<&Route<LocalApi>>,
        ((method, headers), query, body, streaming, handle): Rest<'_>,
        who: Who<'_>,
    ) -> Result<Response, Problem> {
        let query = query.map_err(Problem::query)?;
        let route = route.ok_or_else(|| found.other_method())?;
        let call = Call { admitted, method, headers, query, body, streaming, handle, who };
        route.run(self, call, &found.target).await
    }

    /// The caller, or the word for why there is none: that word is for the audit, outside they all look the
    /// same.
    async fn authenticate(
        &self,
        credential: Option<Credential<'_>>,
    ) -> Result<Authenticated, AuthenticationFailure> {
        let credential = credential.ok_or(AuthenticationFailure::Malformed)?;
        let accepted = self.accepted.current();
        self.callers.load_full().authenticate(credential, accepted, self.clock.as_ref()).await
    }
}

impl Acts for LocalApi {
    type Asked = Asked<LocalApi>;

    fn read(&self, request: &Request) -> Asked<LocalApi> {
        Asked::read(&request.path, request.query.as_deref())
    }

    fn is_act(&self, request: &Request, asked: &Asked<LocalApi>) -> bool {
        asked.is_act(&request.method)
    }

    fn answer<'a>(&'a self, request: Request, asked: Asked<LocalApi>) -> BoxFuture<'a, Response> {
        Box::pin(self.respond(request, asked))
    }

    fn at_once(self: &Arc<Self>, request: PlainRequest<'_>) -> Option<AtOnce> {
        self.token_at_once(request)
    }

    fn refuse(&self, refused: Refused, path: &str, id: &RequestId) -> Response {
        Dialect::of(path).refusal(Problem::of_listener(refused), id.as_str())
    }
}

/// Returns what is wrong with the connection's name in a path that cannot be read. `None` if the path is not
/// meant to name a connection.
fn unreadable_name(path: &str) -> Option<InvalidName> {
    let mut rest = path.strip_prefix("/v1/apps/")?.splitn(3, '/').skip(1);
    let name = match (rest.next(), rest.next()) {
        (Some("connections"), Some(name)) if !name.is_empty() => name,
        _ => return None,
    };
    let name = ["/token/watch", "/token", "/explain", "/handles"]
        .iter()
        .find_map(|word| name.strip_suffix(word))
        .unwrap_or(name);
    let decoded = percent_decode_str(name).decode_utf8_lossy();
    // A valid name in an invalid escape is a name with a `%` in it.
    ConnectionName::parse(&decoded).err().or_else(|| ConnectionName::parse(name).err())
}

fn read(what: &'static str, target: &Target) -> Read {
    let (app, connection) = target.about();
    Read { what, app: app.cloned(), connection: connection.cloned(), session: target.session().cloned() }
}

#[cfg(test)]
mod tests;
