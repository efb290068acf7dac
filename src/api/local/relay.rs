//! `…/connections/{connection}/relay/{base}/{path}`: a caller's request goes to a resource, with the
//! connection's token in the place of the caller's credential, and the resource's answer comes back.
//!
//! The request is judged in its canonical form, and sent in that form. Its body passes as it comes, and so
//! does the answer's. A 401 is answered by one renewal and one repetition, if what was sent of the body is
//! still here ([`body`]). A batch of Graph is taken apart first ([`batch`]), and links of an answer in JSON
//! are turned ([`answer`]).

mod answer;
mod batch;
mod body;
mod pace;
#[cfg(test)]
mod silence_tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, RETRY_AFTER,
};
use http::{Request, StatusCode};
use zeroize::Zeroizing;

use self::answer::{Along, Answer};
use self::body::Sent;
use self::pace::Pace;
use super::{Call, LocalApi};
use crate::api::doc::{Body as DocBody, Content, Doc};
use crate::api::problem::Problem;
use crate::api::relayed::{RELAY, Relayed};
use crate::api::routes::{Effect, Permission, Route, Run};
use crate::broker::handles::Handle;
use crate::broker::{Refusal, Rejected, RelayBase, Turns};
use crate::domain::connection::Profile;
use crate::domain::id::{CallerName, ConnectionKey};
use crate::events::{CALLER_GONE, RESOURCE_FULL, RelayRecord, Relaying};
use crate::listener::{Body, BodyStream, GivesWay, Refused, Response};
use crate::outbound::{Answered, ResourceFault, Silence, retry_after};
use crate::policy::{CallerPolicy, Permit};
use crate::refresh::{Claims, Served};
use crate::relay::{self, Asked, Links, Method};
use crate::telemetry::audit::TokenWords;

/// How long a resource may say nothing while we wait for it. (Clients of Graph wait as long.)
const SILENCE: Duration = Duration::from_secs(100);

/// A body that is longer is passed on in large parts.
const LONG_BODY: u64 = 16 * 1024;

/// A wait for a turn after which the token is asked for again.
const LITTLE: Duration = Duration::from_millis(500);

/// One row for each method that is relayed.
pub(super) const GET: Route<LocalApi> = row(Method::Get, "relayGet");
/// See [`GET`].
pub(super) const HEAD: Route<LocalApi> = row(Method::Head, "relayHead");
/// See [`GET`].
pub(super) const POST: Route<LocalApi> = row(Method::Post, "relayPost");
/// See [`GET`].
pub(super) const PUT: Route<LocalApi> = row(Method::Put, "relayPut");
/// See [`GET`].
pub(super) const PATCH: Route<LocalApi> = row(Method::Patch, "relayPatch");
/// See [`GET`].
pub(super) const DELETE: Route<LocalApi> = row(Method::Delete, "relayDelete");

const fn row(method: Method, id: &'static str) -> Route<LocalApi> {
    Route {
        method: method.as_str(),
        path: RELAY,
        handler: Run::Relay(|api, call, relayed| Box::pin(api.relay(call, relayed))),
        permission: Permission::HasRelay,
        effect: Effect::Relays,
        doc: Doc {
            id,
            tag: "relay",
            summary: "A request to a resource, with the connection's token",
            description: "The request goes to the base of this name, with the connection's token in place of \
             the caller's credential, and the resource's answer comes back as it is, whatever its status. A \
             rule of the caller must have the method and the path (`relay`). The path is judged once \
             decoded; one that can be read in two ways is refused. Bodies of any length pass as they come. \
             A 401 of the resource is answered by one renewal of the token and one repetition; 429 and 503 \
             are handed on. Redirects are handed on, and never followed.",
            body: match method {
                Method::Post | Method::Put | Method::Patch => DocBody::Optional(Content::WHATEVER),
                Method::Get | Method::Head | Method::Delete => DocBody::None,
            },
            answer: (200, "What the resource answered; its status and fields are the resource's."),
            content: Some(Content::WHATEVER),
            problems: &[
                (404, "ConnectionNotFound"),
                (409, "NotServed"),
                (429, "RelayBusy"),
                (502, "RelayFailed"),
                (503, "Unavailable"),
                (504, "RelayFailed"),
            ],
            ..Doc::PLAIN
        },
    }
}

/// A request that its caller may have relayed.
struct Allowed<'a> {
    policy: &'a CallerPolicy,
    /// The handle by which it is asked, if it is.
    handle: Option<&'a Handle>,
    key: &'a ConnectionKey,
    asked: Asked,
    fields: HeaderMap,
    /// The requests in it, if it is a batch.
    batch: Option<batch::Requests>,
}

impl LocalApi {
    /// Relays a request.
    pub(super) async fn relay(&self, call: Call<'_>, relayed: &Relayed) -> Result<Response, Problem> {
        let Call { admitted, method, headers, query: _, body, streaming: (streams, peer), handle, who } =
            call;
        let (begun, key) = (self.clock.monotonic(), &relayed.key);
        // (A handle knows of one connection.)
        if let Some(handle) = handle.filter(|handle| handle.key != *key) {
            let is_of_app = handle.key.app == key.app;
            return Err(Problem::of(if is_of_app {
                Refusal::ConnectionNotFound
            } else {
                Refusal::AppNotFound
            }));
        }
        let taken = admitted.take_for(key, begun);
        taken.map_err(|after| Problem::of(Refusal::ConnectionRateLimited { retry_after: after.0 }))?;
        let policy = &admitted.caller().policy;
        // (Who may not know of the connection is told nothing of its path.)
        let _ = policy.may_see(key).map_err(|denial| Problem::of(denial.into()))?;
        let method = Method::parse(method.as_str()).expect("the table has no other");
        let asked = Asked::read(method, &relayed.base, &relayed.path, relayed.query.as_deref());
        let asked = asked.map_err(|odd| Problem::invalid("path", odd.to_string()))?;
        let links = self.links(relayed, &headers, peer.tls)?;
        let (batch, body) = match asked.path.is_batch() {
            true => {
                let batch = batch::read(&asked, &headers, body, &links).await?;
                // (It counts as its requests would.)
                admitted.charge_for(key, batch.more(), begun);
                (Some(batch), None)
            }
            false => (None, Some(body)),
        };
        let fields = relay::for_resource(&headers);
        let mut allowed = Allowed { policy, handle, key, asked, fields, batch };
        let first = self.relay_token(&allowed, None).await;
        if let Err(Refusal::HandleEnded) = &first {
            // Who has one that is over uses up nothing of its caller's.
            admitted.give_back();
        }
        let (served, to) = first.map_err(Problem::of)?;
        let waits = self.events.waits_for_turn(who, &admitted.caller().name, key);
        let turns = match self.turns(&allowed, &admitted.caller().name, (&to, &served)).await {
            Ok(turns) => turns,
            Err(problem) => {
                waits.is_in_vain();
                return Err(problem);
            }
        };
        // What was paused, deleted or revoked meanwhile is not served.
        let (served, to) = match waits.is_over(turns.is_any()) < LITTLE {
            true => (served, to),
            false => {
                let (again, way) = self.relay_token(&allowed, None).await.map_err(Problem::of)?;
                match is_same(&to, &way, &served, &again) {
                    true => (again, way),
                    false => return Err(Problem::of_listener(Refused::Overloaded)),
                }
            }
        };
        let place = streams.take().ok_or_else(|| Problem::of_listener(Refused::Overloaded))?;

        let (body, batch) = match (body, allowed.batch.as_ref().map(batch::Requests::plan)) {
            (Some(body), _) => (body, None),
            (None, Some(plan)) => match plan.send {
                Some(text) => {
                    allowed.fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                    let parts = batch::BatchAnswer { refused: plan.refused, ids: plan.ids };
                    (Body::whole(text), Some(parts))
                }
                // Nothing of it is sent.
                None => {
                    let (caller, elapsed) =
                        (&admitted.caller().name, self.clock.monotonic().saturating_sub(begun));
                    let refused = (plan.code, batch::recorded(&plan));
                    self.events.batch_refused(who, caller, key, refused, elapsed).await;
                    return Ok(batch::refused(&plan.refused));
                }
            },
            (None, None) => unreachable!("a batch's body is read, and no other"),
        };
        let words = served.prepared(|| TokenWords::of(served.token()));
        let life = served.token().life_left(self.clock.now());
        let relaying = Relaying {
            caller: &admitted.caller().name,
            key,
            method: method.as_str(),
            base: to.base.name(),
            shape: relay::shape(&allowed.asked.path),
            elapsed: self.clock.monotonic().saturating_sub(begun),
        };
        let record = self.events.relays(who, relaying, (&words, life)).await;
        let mut record = record.map_err(|refusal| Problem::of(refusal).recorded())?;
        if let Some(requests) = &allowed.batch {
            record.has_parts(batch::recorded(&requests.plan()));
        }
        let silence = Arc::new(Silence::new(SILENCE, Arc::clone(&self.clock)));
        let (body, gives_way) = body.into_stream();
        if body.length().is_none_or(|length| length > LONG_BODY) {
            place.widen();
        }
        let (wanted, events, app) = (turns.wanted(), Arc::clone(&self.events), key.app.clone());
        let is_wanted = move || wanted.is_so() && events.turn_taken_back(&app);
        let pace = Arc::new(Pace::new(Arc::clone(&self.clock), is_wanted));
        let origin = to.base.origin();
        let exchange = Exchange { api: self, to, silence, pace, gives_way, record, batch, turns };
        let (answer, mut record) = exchange.run(&allowed, served, body).await?;
        record.has_status(answer.status());
        let is_head = method == Method::Head;
        match answer.response(place, is_head, (links, origin)).await {
            Ok(response) => {
                record.answered(response.status()).await;
                Ok(response)
            }
            Err((problem, reason)) => {
                record.failed(reason).await;
                Err(problem.recorded())
            }
        }
    }

    /// The links that lead to the app's bases, and how they lead through here: by the URL that the operator
    /// has named, or by the one that the caller uses.
    fn links(&self, relayed: &Relayed, headers: &HeaderMap, is_tls: bool) -> Result<Arc<Links>, Problem> {
        let app = self.broker.app(&relayed.key.app).map_err(Problem::of)?;
        let bases = app.bases.iter().map(|one| one.base.clone()).collect();
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).filter(|host| !host.is_empty());
        let scheme = if is_tls { "https" } else { "http" };
        let origin = match (&self.url.configured, host) {
            (Some(url), _) => url.trim_end_matches('/').to_owned(),
            (None, Some(host)) => format!("{scheme}://{host}"),
            (None, None) => self.url.issuer.clone(),
        };
        Ok(Arc::new(Links::new(bases, format!("{origin}{}", relayed.here))))
    }

    /// Waits for the request's turn at its mailbox, that of a batch at those of its requests.
    async fn turns(
        &self,
        allowed: &Allowed<'_>,
        caller: &CallerName,
        way: (&RelayBase, &Served),
    ) -> Result<Turns, Problem> {
        let paths = match &allowed.batch {
            Some(requests) => requests.plan().paths,
            None => vec![allowed.asked.path.clone()],
        };
        self.broker.mailbox_turns(allowed.key, caller, way, &paths).await.map_err(Problem::of)
    }

    async fn relay_token(
        &self,
        allowed: &Allowed<'_>,
        rejected: Option<Rejected>,
    ) -> Result<(Served, Arc<RelayBase>), Refusal> {
        let permit = allowed.policy.may_see(allowed.key).map_err(Refusal::from)?;
        let judge = |permit: &Permit, profile: &Profile| {
            if let Some(handle) = allowed.handle {
                self.broker.handle_stands(handle, profile)?;
            }
            let relays = |asked: &Asked| {
                permit.relays(asked)?;
                allowed.handle.map_or(Ok(()), |handle| handle.part.relays(asked))
            };
            relays(&allowed.asked)?;
            // (Each request in a batch has its own verdict, which refuses it alone.)
            allowed.batch.iter().for_each(|requests| requests.judge(relays));
            Ok(())
        };
        self.broker.relay_token(permit, &allowed.asked.base, judge, rejected).await
    }
}

/// A request on its way.
struct Exchange<'a> {
    api: &'a LocalApi,
    to: Arc<RelayBase>,
    silence: Arc<Silence>,
    pace: Arc<Pace>,
    gives_way: GivesWay,
    record: RelayRecord,
    batch: Option<batch::BatchAnswer>,
    /// The turns at the mailboxes, which end with the answer's body.
    turns: Turns,
}

/// No answer came: what the caller is told, and the word for why, where it is not the resource's.
type NoAnswer = (Problem, Option<&'static str>);

impl Exchange<'_> {
    /// Sends it, and once more with another token if the resource refuses the first.
    async fn run(
        mut self,
        allowed: &Allowed<'_>,
        served: Served,
        body: BodyStream,
    ) -> Result<(Answer, RelayRecord), Problem> {
        let sent = Sent::new(body, Arc::clone(&self.silence), Arc::clone(&self.pace));
        let first = match self.send(allowed, &served, &sent).await {
            Ok(answer) => answer,
            Err(fault) => return Err(self.failed(fault).await),
        };
        if first.status() != StatusCode::UNAUTHORIZED {
            return self.answered(first, sent).await;
        }
        let claims = relay::claims(first.headers()).and_then(|text| Claims::read(&text).ok());
        let rejected = Rejected { digest: served.token().digest.clone(), claims };
        match self.api.relay_token(allowed, Some(rejected)).await {
            // Only the user or an administrator helps: that is said in our words.
            Err(refusal) if refusal.outside().status == 409 => {
                self.turns.over();
                self.record.answered(StatusCode::UNAUTHORIZED).await;
                Err(Problem::of(refusal).recorded())
            }
            Ok((renewed, to))
                if renewed.token().digest != served.token().digest
                    && is_same(&self.to, &to, &served, &renewed)
                    && sent.begin_again() =>
            {
                let life = renewed.token().life_left(self.api.clock.now());
                self.record.uses(&TokenWords::of(renewed.token()), life);
                drop(first);
                match self.send(allowed, &renewed, &sent).await {
                    Ok(answer) => self.answered(answer, sent).await,
                    Err(fault) => Err(self.failed(fault).await),
                }
            }
            // The body cannot be sent again, or there is no other token now: the resource's word counts.
            _ => self.answered(first, sent).await,
        }
    }

    async fn send(
        &mut self,
        allowed: &Allowed<'_>,
        served: &Served,
        sent: &Sent,
    ) -> Result<Answered, NoAnswer> {
        let mut request = Request::new(sent.attempt());
        *request.method_mut() = allowed.asked.method.as_str().parse().expect("a method's word");
        let url = self.to.base.url(&allowed.asked.target());
        *request.uri_mut() =
            url.parse().map_err(|_| (Problem::invalid("path", "makes a URL that is too long"), None))?;
        *request.headers_mut() = allowed.fields.clone();
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, bearer(served).map_err(|problem| (problem, None))?);
        // An answer in JSON is read on its way.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        // (RFC 9110 section 8.6. Some servers answer 411 without it.)
        let may_have_body = matches!(allowed.asked.method, Method::Post | Method::Put | Method::Patch);
        if may_have_body && sent.is_empty() {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        self.silence.breaks();
        self.turns.sent();
        let answer = tokio::select! {
            biased;
            answer = self.to.way.send(request, &self.silence) => answer,
            () = self.gives_way.happens() => return Err((Problem::of_listener(Refused::Overloaded), None)),
        };
        match answer {
            Ok(answer) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => {
                Err((Problem::relay_failed(502, "the resource wants to change the protocol"), None))
            }
            Ok(answer) => Ok(answer),
            Err(fault) => {
                if matches!(fault, ResourceFault::Unreachable(_) | ResourceFault::Full) {
                    self.turns.over();
                }
                Err(no_answer(sent, &fault))
            }
        }
    }

    /// The resource has answered. If it said when to come back, its mailbox is left alone until then.
    async fn answered(self, answer: Answered, sent: Sent) -> Result<(Answer, RelayRecord), Problem> {
        let Exchange { api, silence, pace, gives_way, record, batch, turns, .. } = self;
        let busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        let after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let after = after.and_then(|value| retry_after(value, api.clock.now()));
        if let (Some(after), true) = (after, busy.contains(&answer.status())) {
            turns.close_for(after);
        }
        let clock = Arc::clone(&api.clock);
        let tasks = turns.is_any().then(|| api.broker.tasks());
        let answer =
            Answer::new(answer, Along { clock, silence, pace, batch, turns, tasks }, sent, gives_way);
        if answer.loses_refusals() {
            record.failed(None).await;
            let what = "it answered the batch in a form that cannot be read, so that the answers of refused \
                requests have no place in it";
            return Err(Problem::relay_failed(502, what).recorded());
        }
        Ok((answer, record))
    }

    /// Records that there is no answer.
    async fn failed(self, (problem, reason): NoAnswer) -> Problem {
        self.record.failed(reason).await;
        problem.recorded()
    }
}

fn no_answer(sent: &Sent, fault: &ResourceFault) -> NoAnswer {
    match (sent.failed(), fault) {
        // The caller's own body broke off.
        (Some(error), _) => (crate::api::body::unread(error), Some(CALLER_GONE)),
        (None, ResourceFault::Full) => (Problem::of_listener(Refused::Overloaded), Some(RESOURCE_FULL)),
        (None, ResourceFault::Silent(_)) => (Problem::relay_failed(504, fault.to_string()), None),
        (None, ResourceFault::Unreachable(_) | ResourceFault::BrokeOff(_)) => {
            (Problem::relay_failed(502, fault.to_string()), None)
        }
    }
}

/// Whether a token is for the same base and of the same account as the one before, for which a request was
/// judged and got its turn.
fn is_same(to: &RelayBase, other: &RelayBase, served: &Served, renewed: &Served) -> bool {
    let account = |served: &Served| served.held.connection.profile.account().clone();
    (&to.base, &to.resource) == (&other.base, &other.resource) && account(served) == account(renewed)
}

/// The field's value with a token, which is cleared when its request is sent.
fn bearer(served: &Served) -> Result<HeaderValue, Problem> {
    let text = format!("Bearer {}", served.token().access_token.expose()).into_bytes();
    let value = HeaderValue::from_maybe_shared(Bytes::from_owner(Zeroizing::new(text)));
    let mut value = value.map_err(|_| Problem::internal())?;
    value.set_sensitive(true);
    Ok(value)
}
