//! Hand-outs of held tokens at once ([`Handler::at_once`]): for a request whose caller is known, whose token
//! is held, checked lately and living long enough, and that no limit refuses. Whatever else a request is, or
//! becomes on the way, is left to the routes, before anything has had an effect.
//!
//! [`Handler::at_once`]: crate::listener::Handler::at_once

use std::sync::{Arc, LazyLock};

use http::Method;
use memchr::memmem::Finder;

use super::LocalApi;
use super::handlers::{DEGRADED, SOURCE};
use super::managed_identity::{Asked as IdentityAsked, Whose, identity_text};
use super::token_answer::TokenAnswer;
use super::vault::creds_text;
use crate::api::asked::Asked;
use crate::api::dialect::Dialect;
use crate::api::problem::Problem;
use crate::api::routes::{Effect, Target};
use crate::api::token_body::TokenBody;
use crate::broker::{App, Refusal};
use crate::callers::{Authenticated, Remembered};
use crate::domain::id::ConnectionKey;
use crate::domain::time::Moment;
use crate::events::{RoutineHandOut, Routines};
use crate::listener::{AtOnce, Fields, Pairs, PlainRequest};
use crate::refresh::{Served, Want};
use crate::telemetry::audit::TokenWords;

/// What every path has that is relayed.
static RELAYED: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("/relay/"));

/// A request with its caller and its connection.
struct Request<'a> {
    begun: Moment,
    known: &'a Authenticated,
    key: &'a ConnectionKey,
    query: &'a Pairs,
}

impl LocalApi {
    /// Answers a request for a token, if it is one that waits for nothing but its record.
    pub(super) fn token_at_once(self: &Arc<Self>, request: PlainRequest<'_>) -> Option<AtOnce> {
        let PlainRequest { head, peer, request_id, memory } = request;
        // (A tag in a request may turn its answer into another one.)
        if head.method() != "GET" || head.has("if-none-match") {
            return None;
        }
        // (Reading what is relayed costs more, and it is never answered here.)
        if RELAYED.find(head.path().as_bytes()).is_some() {
            return None;
        }
        let asked = Asked::<LocalApi>::read(head.path(), head.query());
        let (found, query) = (asked.found.ok()?, asked.query.ok()?);
        if found.route(&Method::GET)?.effect != Effect::HandsOut || query.has("connect") {
            return None;
        }
        let dialect = Dialect::of(found.path);
        let credential = dialect.credential(head, peer)?;
        let begun = self.clock.moment();
        let now = begun.now;
        let remembered = memory.get_or_insert_with(|| Box::new(Remembered::default())).downcast_mut()?;
        let accepted = self.accepted.current();
        let known = self.callers.load().authenticate_now(credential, accepted, remembered, now)?;
        let request = |key| Request { begun, known: &known, key, query: &query };
        let (key, served, answer, body) = match (dialect, found.target) {
            (Dialect::Native, Target::Connection(key)) => {
                let (served, answer, body) = self.native(&request(&key))?;
                (key, served, answer, body)
            }
            (Dialect::ManagedIdentity, target) => {
                let key = match target {
                    Target::Connection(key) => Some(key),
                    _ => None,
                };
                let asked = IdentityAsked::read(&query, key.as_ref()).ok()?;
                let Whose::Connection(key) = &asked.whose else { return None };
                let ask = |app: &App| asked.want(app.naming(), &app.scopes);
                let served = self.held(&request(key), ask)?;
                let body = identity_text(&asked, served.token(), now);
                let answer = head_of(&served);
                (key.clone(), served, answer, body)
            }
            (Dialect::Vault, Target::Mount(mount, connection)) => {
                let key = ConnectionKey { app: self.broker.app_at(&mount).ok()?, connection };
                let asked = TokenBody::of_minimum_seconds(query.value("minimum_seconds")).ok()?;
                let served = self.held(&request(&key), |app| asked.want(app.naming()))?;
                let body = creds_text(request_id, &key, served.token(), now);
                (key, served, bare_head(), body)
            }
            _ => return None,
        };
        let words = || served.prepared(|| TokenWords::of(served.token()));
        let (routines, by) = (served.prepared(Routines::default), (&known.caller, known.method));
        let out = RoutineHandOut {
            routine: self.events.routine(&routines, by, dialect.as_str(), &key, words),
            begun,
            origin: peer.origin,
            request_id: request_id.clone(),
            life: served.token().life_left(now),
        };
        let (events, id, form) = (Arc::clone(&self.events), request_id.clone(), dialect.form_for(head));
        let may_leave = Box::pin(async move {
            let recorded = events.handed_out_by_routine(out).await;
            recorded.map_err(|refusal| form.refusal(Problem::of(refusal), id.as_str()))
        });
        Some(AtOnce { head: answer, body, may_leave })
    }

    fn native(&self, request: &Request<'_>) -> Option<(Served, Vec<u8>, Vec<u8>)> {
        let asked = TokenBody::of_query(request.query).ok()?;
        let served = self.held(request, |app| asked.want(app.naming()))?;
        let answer = served.prepared(|| TokenAnswer::new(request.key, &served));
        let now = request.begun.now;
        let mut head = head_of(&served);
        head.extend_from_slice(answer.line().as_bytes());
        let body = answer.text(&served, served.token().life_left(now), now);
        Some((served, head, body))
    }

    /// The held token that a request gets, counted against the limits of its caller.
    fn held(&self, request: &Request<'_>, ask: impl FnOnce(&App) -> Result<Want, Refusal>) -> Option<Served> {
        let Request { begun, known, key, .. } = *request;
        let permit = known.caller.policy.may_see(key).ok()?;
        // (What a limit refuses is not counted, so the routes count and refuse it in their turn.)
        let admit = || {
            let admitted = self.limiter.admit(Arc::clone(&known.caller), begun.monotonic);
            admitted.is_ok_and(|admitted| admitted.take_for(key, begun.monotonic).is_ok())
        };
        self.broker.token_now(permit, begun, ask, admit)
    }
}

/// The head of an answer, as far as every one of these has it.
fn bare_head() -> Vec<u8> {
    let mut head = AtOnce::head();
    head.extend_from_slice(b"content-type: application/json\r\n");
    head
}

/// The head that says where a token came from, and which promise it does not keep.
fn head_of(served: &Served) -> Vec<u8> {
    let mut head = bare_head();
    let mut line = |name: &str, value: &str| {
        for part in [name, ": ", value, "\r\n"] {
            head.extend_from_slice(part.as_bytes());
        }
    };
    line(SOURCE, served.source.as_str());
    if served.degraded {
        line(DEGRADED, "store");
    }
    head
}
