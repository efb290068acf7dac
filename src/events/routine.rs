//! Hand-outs of held tokens, thousands a second: what those of one token to one caller have in common is made
//! once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;

use super::{Draft, Events, Listener, Who};
use crate::broker::Refusal;
use crate::callers::Caller;
use crate::domain::auth_method::AuthMethod;
use crate::domain::id::ConnectionKey;
use crate::domain::time::{Moment, Timestamp};
use crate::listener::{Origin, RequestId};
use crate::telemetry::audit::{Action, AuditEvent, HandOutRecord, HandOutText, Recorded, TokenWords};
use crate::telemetry::metrics::TokenRequestHandles;

/// What all hand-outs of a token to one caller have in common, made once.
pub struct Routine {
    caller: Arc<Caller>,
    method: AuthMethod,
    dialect: &'static str,
    key: ConnectionKey,
    /// What their records have in common.
    text: Arc<HandOutText>,
    /// Their counters, as they were in this generation of the configuration.
    handles: Arc<TokenRequestHandles>,
    generation: u64,
}

/// The routines of one token: of its last few callers.
#[derive(Default)]
pub struct Routines(Mutex<Vec<Arc<Routine>>>);

/// Most callers of one token whose routine is kept. A token seldom has more than one.
const MOST_ROUTINES: usize = 4;

/// A hand-out that is routine, by an answer that outlasts its handler.
pub struct RoutineHandOut {
    /// What it has in common with others.
    pub routine: Arc<Routine>,
    /// When the request began.
    pub begun: Moment,
    /// Where the request came from.
    pub origin: Origin,
    /// The request's id.
    pub request_id: RequestId,
    /// The life that the token has left.
    pub life: Duration,
}

impl RoutineHandOut {
    /// Makes its record.
    pub fn record(&self) -> HandOutRecord {
        HandOutRecord {
            at: self.begun.now,
            text: Arc::clone(&self.routine.text),
            source: self.origin.into(),
            expires_in: self.life.as_secs(),
            request_id: self.request_id.shared(),
        }
    }
}

impl Events {
    /// Returns the routine of a token's hand-outs to a caller, by what it has proven and in this dialect.
    pub fn routine(
        &self,
        known: &Routines,
        (caller, method): (&Arc<Caller>, AuthMethod),
        dialect: &'static str,
        key: &ConnectionKey,
        words: impl FnOnce() -> Arc<TokenWords>,
    ) -> Arc<Routine> {
        let generation = self.generation.load(Ordering::Acquire);
        let is_it = |routine: &&Arc<Routine>| {
            Arc::ptr_eq(&routine.caller, caller)
                && (routine.method, routine.generation) == (method, generation)
                && routine.dialect == dialect
        };
        let mut known = known.0.lock();
        if let Some(routine) = known.iter().find(is_it) {
            return Arc::clone(routine);
        }
        let mut event = AuditEvent::new(Timestamp::default(), Action::Token, "ok");
        event.method = Some(method.as_str());
        event.door = Some(dialect);
        let words = words();
        event.scopes = Arc::clone(&words.scopes);
        let event = Draft(event).caller(&caller.name).key(key).0.token(&words, Duration::ZERO);
        let routine = Arc::new(Routine {
            caller: Arc::clone(caller),
            method,
            dialect,
            key: key.clone(),
            text: Arc::new(HandOutText::of(&event)),
            handles: self.handles(&key.app, &caller.name, dialect),
            generation,
        });
        if known.len() >= MOST_ROUTINES {
            known.remove(0);
        }
        known.push(Arc::clone(&routine));
        routine
    }

    /// Reports a hand-out like [`Events::handed_out`], when it is first polled. Returns when it may leave.
    ///
    /// # Errors
    /// As there.
    pub async fn handed_out_by_routine(self: Arc<Self>, out: RoutineHandOut) -> Result<Moment, Refusal> {
        let recorded = Arc::clone(&self.audit).record_hand_out(out.record()).await;
        let RoutineHandOut { routine, begun, origin, request_id, .. } = out;
        let ended = self.clock.moment();
        let elapsed = ended.monotonic.saturating_sub(begun.monotonic);
        if recorded == Recorded::Lost && self.is_fail_closed {
            let Routine { caller, method, dialect, key, .. } = &*routine;
            let (listener, method) = (Listener::Local, Some(*method));
            let who = Who { request_id: &request_id, origin, listener, dialect, method, handle: None };
            return Err(self.not_recorded(who, (&caller.name, key), elapsed));
        }
        routine.handles.served(elapsed);
        Ok(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::callers::Limits;
    use crate::domain::id::{AppName, CallerName, ConnectionName};
    use crate::domain::task::BoxFuture;
    use crate::policy::CallerPolicy;
    use crate::system::SystemClock;
    use crate::telemetry::audit::{Audit, Noted};
    use crate::telemetry::metrics::Metrics;

    /// Takes no record.
    struct Full;

    impl Audit for Full {
        fn record(&self, _: AuditEvent) -> BoxFuture<'_, Recorded> {
            Box::pin(std::future::ready(Recorded::Lost))
        }

        fn record_hand_out(self: Arc<Self>, _: HandOutRecord) -> BoxFuture<'static, Recorded> {
            Box::pin(std::future::ready(Recorded::Lost))
        }

        fn end(&self) {}

        fn note(&self, _: AuditEvent) -> Noted {
            Noted::NoRoom
        }
    }

    fn caller(name: &str) -> Arc<Caller> {
        let name = CallerName::parse(name).expect("a name");
        let policy = CallerPolicy::new(name.clone(), vec![]);
        Arc::new(Caller { name, policy, limits: Limits::default() })
    }

    fn events() -> Events {
        Events::new(Arc::new(Metrics::new("0")), Arc::new(Full), Arc::new(SystemClock::new()))
    }

    fn key() -> ConnectionKey {
        ConnectionKey {
            app: AppName::parse("outlook").expect("a name"),
            connection: ConnectionName::parse("user-1").expect("a name"),
        }
    }

    fn routine(
        events: &Events,
        known: &Routines,
        by: (&Arc<Caller>, AuthMethod),
        dialect: &'static str,
    ) -> Arc<Routine> {
        let words = || Arc::new(TokenWords { scopes: Arc::default(), sha256: "00".into(), uti: None });
        events.routine(known, by, dialect, &key(), words)
    }

    #[test]
    fn a_routine_is_of_one_caller_one_proof_one_dialect_and_one_configuration() {
        let (events, known) = (events(), Routines::default());
        let (one, other) = (caller("one"), caller("other"));
        let first = routine(&events, &known, (&one, AuthMethod::ApiKeys), "native");
        let is_first = |routine: &Arc<Routine>| Arc::ptr_eq(routine, &first);
        assert!(is_first(&routine(&events, &known, (&one, AuthMethod::ApiKeys), "native")));
        for (caller, method, dialect) in [
            (&other, AuthMethod::ApiKeys, "native"),
            (&one, AuthMethod::UnixUser, "native"),
            (&one, AuthMethod::ApiKeys, "msi"),
            // The same name in another reading of the configuration.
            (&caller("one"), AuthMethod::ApiKeys, "native"),
        ] {
            let another = routine(&events, &known, (caller, method), dialect);
            assert!(!is_first(&another));
            assert_eq!((another.method, another.dialect), (method, dialect));
        }
        assert_eq!(known.0.lock().len(), MOST_ROUTINES);
        let known = Routines::default();
        let before = routine(&events, &known, (&one, AuthMethod::ApiKeys), "native");
        events.generation.fetch_add(1, Ordering::AcqRel);
        let after = routine(&events, &known, (&one, AuthMethod::ApiKeys), "native");
        assert!(!Arc::ptr_eq(&before, &after), "its counters may have ended");
    }

    #[tokio::test]
    async fn without_a_record_a_token_leaves_unless_that_is_demanded() {
        for is_demanded in [false, true] {
            let events = Arc::new(events().fail_closed(is_demanded));
            let clock = SystemClock::new();
            let out = RoutineHandOut {
                routine: routine(
                    &events,
                    &Routines::default(),
                    (&caller("one"), AuthMethod::ApiKeys),
                    "native",
                ),
                begun: crate::domain::time::Clock::moment(&clock),
                origin: Origin::Unix { uid: 1, gid: 1, pid: None },
                request_id: RequestId::new(&crate::system::SystemRandom::new()),
                life: Duration::from_secs(60),
            };
            let outcome = events.handed_out_by_routine(out).await;
            assert_eq!(outcome.is_err(), is_demanded, "{outcome:?}");
        }
    }
}
