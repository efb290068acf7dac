//! What the local API does for a hand-out of a held token, step by step, for `benches/steps`: the same
//! functions as `at_once.rs` calls, in the same order.

use std::sync::Arc;

use super::LocalApi;
use super::token_answer::TokenAnswer;
use crate::api::asked::Asked;
use crate::api::dialect::Dialect;
use crate::api::routes::Target;
use crate::api::token_body::TokenBody;
use crate::broker::App;
use crate::callers::{Authenticated, Remembered};
use crate::domain::id::ConnectionKey;
use crate::domain::time::Moment;
use crate::events::{RoutineHandOut, Routines};
use crate::listener::{AtOnce, Pairs, Peer, PlainHead, PlainRequest, RequestId};
use crate::refresh::Served;
use crate::telemetry::audit::TokenWords;

/// The local API of a daemon.
pub struct Steps(pub(crate) Arc<LocalApi>);

/// A route, and what it is asked for.
pub struct Routed {
    /// The connection.
    pub key: ConnectionKey,
    dialect: Dialect,
    query: Pairs,
}

impl Steps {
    /// Finds the route of a head's URL, if it is that of a connection.
    pub fn route(head: &PlainHead<'_>) -> Option<Routed> {
        let Asked { found, query } = Asked::<LocalApi>::read(head.path(), head.query());
        let found = found.ok()?;
        match found.target {
            Target::Connection(key) => {
                Some(Routed { key, dialect: Dialect::of(found.path), query: query.ok()? })
            }
            _ => None,
        }
    }

    /// The time at which a request begins.
    pub fn moment(&self) -> Moment {
        self.0.clock.moment()
    }

    /// Finds the caller by the head's credential, as on a connection that has not shown it before.
    pub fn caller(
        &self,
        routed: &Routed,
        head: &PlainHead<'_>,
        peer: &Peer,
        at: Moment,
    ) -> Option<Authenticated> {
        let credential = routed.dialect.credential(head, peer)?;
        let (accepted, mut remembered) = (self.0.accepted.current(), Remembered::default());
        self.0.callers.load().authenticate_now(credential, accepted, &mut remembered, at.now)
    }

    /// Has the key files checked, as the first request of each second does. That request, and those until the
    /// end of the check, are answered by the routes.
    pub async fn check_keys(&self) {
        self.0.callers.load_full().check_key_files(self.0.clock.as_ref()).await;
    }

    /// Counts the request against its caller's limits.
    pub fn admit(&self, known: &Authenticated, routed: &Routed, at: Moment) -> bool {
        let admitted = self.0.limiter.admit(Arc::clone(&known.caller), at.monotonic);
        admitted.is_ok_and(|admitted| admitted.take_for(&routed.key, at.monotonic).is_ok())
    }

    /// Takes the token out of the connection's slot, if policy and plan say so.
    pub fn held(&self, known: &Authenticated, routed: &Routed, at: Moment) -> Option<Served> {
        let permit = known.caller.policy.may_see(&routed.key).ok()?;
        let asked = TokenBody::of_query(&routed.query).ok()?;
        self.0.broker.token_now(permit, at, |app: &App| asked.want(app.naming()), || true)
    }

    /// Writes the body of the answer.
    pub fn body(routed: &Routed, served: &Served, at: Moment) -> Vec<u8> {
        let answer = served.prepared(|| TokenAnswer::new(&routed.key, served));
        answer.text(served, served.token().life_left(at.now), at.now)
    }

    /// What is reported of the hand-out.
    pub fn hand_out(
        &self,
        known: &Authenticated,
        routed: &Routed,
        served: &Served,
        (peer, id, begun): (&Peer, &RequestId, Moment),
    ) -> RoutineHandOut {
        let words = || served.prepared(|| TokenWords::of(served.token()));
        let (routines, by) = (served.prepared(Routines::default), (&known.caller, known.method));
        let routine = self.0.events.routine(&routines, by, routed.dialect.as_str(), &routed.key, words);
        let (origin, request_id) = (peer.origin, id.clone());
        RoutineHandOut { routine, begun, origin, request_id, life: served.token().life_left(begun.now) }
    }

    /// Answers a request at once: everything, but for the wait for its record.
    pub fn at_once(&self, request: PlainRequest<'_>) -> Option<AtOnce> {
        self.0.token_at_once(request)
    }
}
