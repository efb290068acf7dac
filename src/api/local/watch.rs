//! `GET …/connections/{connection}/token/watch`: a stream of server-sent events that pushes each new token.
//!
//! Each push is a hand-out: the credential, the rules and the connection are judged anew, and the token
//! leaves after its audit record. Between two pushes the stream waits for three things at once: a change of
//! the connection or of anybody's rights, the time at which the token is due, and the next sign of life. So
//! it asks neither the store nor the authority while nothing happens.

pub(super) mod plan;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, HeaderValue, StatusCode, header};

use self::plan::{ALIVE, HEARTBEAT, Next, Told, ends, event, nothing_new, opening};
use super::stream_caller::StreamCaller;
use super::token_answer::TokenAnswer;
use super::{Call, LocalApi};
use crate::api::dialect::Dialect;
use crate::api::doc::{Content, Doc};
use crate::api::problem::Problem;
use crate::api::routes::{Effect, Permission, Route, Run};
use crate::api::token_body::TokenBody;
use crate::broker::watch::Watch;
use crate::broker::{Broker, Refusal};
use crate::callers::Authenticated;
use crate::domain::auth_method::AuthMethod;
use crate::domain::id::ConnectionKey;
use crate::domain::time::Clock;
use crate::events::{Events, HandOut, Listener, OpenStream, Who};
use crate::listener::{AnswerBody, Pairs, Refused, RequestId, Response, response};
use crate::policy::CallerPolicy;
use crate::refresh::Served;
use crate::telemetry::audit::TokenWords;

/// Its row in the table.
pub(super) const WATCH: Route<LocalApi> = Route {
    method: "GET",
    path: "/v1/apps/{app}/connections/{connection}/token/watch",
    handler: Run::Connection(|api, call, key| Box::pin(api.watch(call, key))),
    permission: Permission::HasScopes,
    effect: Effect::Pushes,
    doc: Doc {
        id: "watchToken",
        tag: "tokens",
        summary: "A stream that pushes each new access token of a connection",
        description: "Server-sent events. `token` has the same JSON as `GET …/token`: the present token at \
         once, and each new one as soon as there is one, in time before the old one ends. `error` has a \
         problem document: there is no token now. After 400, 401, 403 and 404 the stream ends; after any \
         other it goes on, and `token` follows once there is one. A client that comes back with \
         `Last-Event-ID` gets only what is new. The stream ends when its connection is 10 minutes old (an \
         hour without TLS), and when the daemon stops: come back after `retry`.",
        query: &["scope", "resource", "min_ttl", "Last-Event-ID"],
        answer: (200, "The stream."),
        content: Some(Content::EVENTS),
        problems: &[(404, "ConnectionNotFound"), (409, "NotServed"), (503, "Unavailable")],
        ..Doc::PLAIN
    },
};

/// One stream.
struct Stream {
    asker: Asker,
    watch: Watch,
    told: Told,
    next: Next,
    /// The present text, if there is some to send.
    text: Option<String>,
    is_over: bool,
    /// How often the connection had changed before the last look at it.
    seen: u64,
    _open: OpenStream,
}

/// Who asks, for what, and how it is judged.
struct Asker {
    broker: Arc<Broker>,
    clock: Arc<dyn Clock>,
    events: Arc<Events>,
    caller: StreamCaller,
    key: ConnectionKey,
    query: Pairs,
    min_ttl: Duration,
    listener: Listener,
    method: Option<AuthMethod>,
    request_id: RequestId,
}

/// A token that the caller may have, unless its record cannot be written.
struct Judged {
    served: Served,
    method: Option<AuthMethod>,
    elapsed: Duration,
}

impl LocalApi {
    /// `GET …/connections/{connection}/token/watch`
    async fn watch(&self, call: Call<'_>, key: &ConnectionKey) -> Result<Response, Problem> {
        let asked = TokenBody::of_query(&call.query)?;
        let (stream, judged) = self.open(call, key, asked).await.map_err(|problem| *problem)?;
        stream.begin(judged).await
    }

    /// Takes what a stream needs, and judges for the first time.
    async fn open(
        &self,
        call: Call<'_>,
        key: &ConnectionKey,
        asked: TokenBody,
    ) -> Result<(Stream, Judged), Box<Problem>> {
        let Call { admitted, method: _, headers, query, body: _, streaming, handle: _, who } = call;
        let (streams, peer) = streaming;
        let begun = self.clock.monotonic();
        let caller = admitted.caller();
        let min_ttl = asked.life()?;
        let taken = admitted.take_for(key, begun);
        taken.map_err(|after| Problem::of(Refusal::ConnectionRateLimited { retry_after: after.0 }))?;
        let permit = caller.policy.may_see(key).map_err(|denial| Problem::of(denial.into()))?;
        let watch = self.broker.watch(&permit).map_err(Problem::of)?;
        let place = streams.take().ok_or_else(|| Problem::of_listener(Refused::Overloaded))?;
        let asker = Asker {
            broker: self.broker.clone(),
            clock: self.clock.clone(),
            events: self.events.clone(),
            caller: StreamCaller {
                callers: self.callers.clone(),
                accepted: self.accepted.clone(),
                clock: self.clock.clone(),
                name: caller.name.clone(),
                credential: headers.get(header::AUTHORIZATION).cloned(),
                peer,
                place,
            },
            key: key.clone(),
            query,
            min_ttl,
            listener: who.listener,
            method: who.method,
            request_id: who.request_id.clone(),
        };
        let seen = watch.changes();
        let served = asker.serve(&caller.policy).await?;
        let judged =
            Judged { served, method: who.method, elapsed: self.clock.monotonic().saturating_sub(begun) };
        let told = Told::before(headers.get("last-event-id").and_then(|id| id.to_str().ok()));
        let open = self.events.stream_opened();
        let next = Next::default();
        Ok((Stream { asker, watch, told, next, text: None, is_over: false, seen, _open: open }, judged))
    }
}

impl Stream {
    /// Answers with the stream, which begins with the present token unless the client has it.
    async fn begin(mut self, judged: Judged) -> Result<Response, Problem> {
        self.hand_out(judged).await?;
        let opened = opening(self.asker.request_id.as_str());
        let first = match (self.text.take(), &self.told) {
            (Some(event), _) => event,
            (None, Told::Token(id)) => nothing_new(id),
            (None, Told::Nothing | Told::Error(..)) => unreachable!("a token was served"),
        };
        self.text = Some(opened + &first);
        let place = Arc::clone(&self.asker.caller.place);
        let mut response = response(StatusCode::OK, "text/event-stream", "");
        *response.body_mut() = AnswerBody::stream(place, stream::unfold(self, Stream::next));
        // nginx and those that follow it would hold events back.
        let unbuffered = HeaderName::from_static("x-accel-buffering");
        response.headers_mut().insert(unbuffered, HeaderValue::from_static("no"));
        Ok(response)
    }

    /// Waits for what is next to say, and says it.
    async fn next(mut self) -> Option<(Bytes, Self)> {
        loop {
            if let Some(text) = self.text.take() {
                return Some((text.into(), self));
            }
            if self.is_over {
                return None;
            }
            let clock = &self.asker.clock;
            let wait = self.next.wait(clock.now(), clock.monotonic());
            let is_changed = tokio::select! {
                () = self.watch.changed_since(self.seen) => true,
                () = clock.sleep(wait.min(HEARTBEAT)) => false,
            };
            let clock = &self.asker.clock;
            if is_changed || self.next.wait(clock.now(), clock.monotonic()).is_zero() {
                // (In a box, so that a stream that waits is small.)
                Box::pin(self.look()).await;
            } else {
                match Box::pin(self.asker.may_still_see()).await {
                    Ok(()) => self.text = Some(ALIVE.to_owned()),
                    Err(problem) => self.refuse(problem, Duration::ZERO).await,
                }
            }
        }
    }

    /// Judges anew, and says what is new.
    async fn look(&mut self) {
        let begun = self.asker.clock.monotonic();
        self.seen = self.watch.changes();
        let judged = self.asker.judge(begun).await;
        let elapsed = self.asker.clock.monotonic().saturating_sub(begun);
        let said = match judged {
            Ok(judged) => self.hand_out(judged).await,
            Err(problem) => Err(problem),
        };
        if let Err(problem) = said {
            self.refuse(problem, elapsed).await;
        }
    }

    /// Hands the token out, if it is news to the client.
    async fn hand_out(&mut self, judged: Judged) -> Result<(), Problem> {
        let Judged { served, method, elapsed } = judged;
        let asker = &self.asker;
        let (now, monotonic) = (asker.clock.now(), asker.clock.monotonic());
        let (token, answer) = (served.token(), served.prepared(|| TokenAnswer::new(&asker.key, &served)));
        let life = token.life_left(now);
        let told = Told::Token(answer.tag.clone());
        self.next.served(token, asker.min_ttl, (now, monotonic));
        if told == self.told {
            return Ok(());
        }
        let out = HandOut {
            caller: &asker.caller.name,
            key: &asker.key,
            words: served.prepared(|| TokenWords::of(token)),
            life,
            elapsed,
            detail: Default::default(),
        };
        let recorded = asker.events.handed_out(asker.who(method), out).await;
        recorded.map_err(|refusal| Problem::of(refusal).recorded())?;
        let text = String::from_utf8(answer.text(&served, life, now)).expect("JSON");
        self.text = Some(event("token", &answer.tag, &text));
        self.told = told;
        Ok(())
    }

    /// Says that there is no token, if that is news to the client.
    async fn refuse(&mut self, problem: Problem, elapsed: Duration) {
        let asker = &self.asker;
        self.next.refused(problem.more.retry_after, asker.clock.monotonic());
        let told = Told::of(&problem);
        if told == self.told {
            return;
        }
        self.is_over = ends(&problem);
        self.told = told;
        if !problem.is_recorded() {
            let who = asker.who(asker.method);
            asker.events.refused(who, &asker.caller.name, &asker.key, problem.code, elapsed).await;
        }
        self.text = Some(event("error", "", &problem.text(asker.request_id.as_str())));
    }
}

impl Asker {
    /// Judges everything anew: who asks, what the rules give, and the connection.
    async fn judge(&self, begun: Duration) -> Result<Judged, Problem> {
        let Authenticated { caller, method } = self.caller.now().await?;
        let served = self.serve(&caller.policy).await?;
        let elapsed = self.clock.monotonic().saturating_sub(begun);
        Ok(Judged { served, method: Some(method), elapsed })
    }

    /// Judges credential and rules, without a look at the connection.
    async fn may_still_see(&self) -> Result<(), Problem> {
        let known = self.caller.now().await?;
        let may = known.caller.policy.may_see(&self.key);
        may.map(|_| ()).map_err(|denial| Problem::of(denial.into()))
    }

    /// Gets the token that these rules give.
    async fn serve(&self, policy: &CallerPolicy) -> Result<Served, Problem> {
        let asked = TokenBody::of_query(&self.query)?;
        let permit = policy.may_see(&self.key).map_err(|denial| Problem::of(denial.into()))?;
        let served = self.broker.token(permit, |app| asked.want(app.naming())).await;
        served.map_err(Problem::of)
    }

    fn who(&self, method: Option<AuthMethod>) -> Who<'_> {
        Who {
            request_id: &self.request_id,
            origin: self.caller.peer.origin,
            listener: self.listener,
            dialect: Dialect::Watch.as_str(),
            method,
            handle: None,
        }
    }
}
