//! How a request gets to the renewal that it waits for: it joins the one under way, or begins one.
//!
//! A forced renewal needs a permit to begin, and none to join. Both are decided in one step, with the flight
//! that is found: if that flight ends before the request waits for it, the request has still joined it, and
//! no other begins in its place.

use std::sync::Arc;
use std::time::Duration;

use super::forced::Force;
use super::permit::CallPermit;
use super::plan::Want;
use super::ports::Ports;
use super::renewals::{note_use, start_renewal};
use super::slot::{At, Flight, Work};
use crate::domain::id::CallerName;

/// The way to a renewal.
pub(super) enum Way {
    /// Join this one, which is under way.
    Join(Flight),
    /// Begin one, with the permit that a forced one needs.
    Begin(Option<CallPermit>),
}

/// Finds the way to a renewal, a forced one with `force`; or returns for how long there is none.
pub(super) fn way(
    ports: &Ports,
    at: At<'_>,
    by: Option<&CallerName>,
    force: Option<Force>,
) -> Result<Way, Duration> {
    let Some(force) = force else { return Ok(Way::Begin(None)) };
    let now = ports.monotonic();
    let cause = force.cause();
    let noted = {
        let mut state = at.state();
        if let Some(flight) = state.flights.under_way(Work::Renewal) {
            return Ok(Way::Join(flight.clone()));
        }
        // Asked and noted in one step, so that of two requests at once the second sees the first.
        let allowed = state.forced.may(by, force, now);
        allowed.map(|allowed| (allowed, state.forced.note(by, force, allowed, now)))
    };
    let (allowed, number) = noted.inspect_err(|_| ports.deps.observer.budgeted(cause, false))?;
    let (undone, called) = (at.slot.clone(), at.slot.clone());
    let of_connection = CallPermit::new(
        move || undone.state().forced.take_back(number),
        move || called.state().forced.called(force, now),
    );
    // (If the budget has none, the connection's part is given back.)
    let of_budget = ports.take(cause, by, allowed.is_first)?;
    Ok(Way::Begin(Some(of_budget.and(of_connection))))
}

/// Goes that way.
pub(super) fn go(ports: &Arc<Ports>, at: At<'_>, want: &Want, way: Way) -> Flight {
    match way {
        Way::Join(flight) => {
            note_use(ports, at, ports.monotonic());
            flight
        }
        Way::Begin(permit) => start_renewal(ports, at, want, permit),
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::{Mutex, MutexGuard};
    use std::collections::BTreeMap;

    use super::*;
    use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
    use crate::domain::scope::ScopeSet;
    use crate::domain::task::{BoxFuture, Tasks};
    use crate::domain::time::Timestamp;
    use crate::keyring::{Keyring, SealingKey};
    use crate::refresh::slot::Slot;
    use crate::refresh::{Deps, Engine, Settings};
    use crate::repository::Repository;
    use crate::testkit::SeededRandom;
    use crate::testkit::clock::{SimClock, WallError};
    use crate::testkit::faults::{Dice, Mutant};
    use crate::testkit::nobody::Nobody;
    use crate::testkit::store::SimServer;
    use crate::testkit::tasks::{SimTasks, WORLD, World};

    type Task = (&'static str, BoxFuture<'static, ()>);

    /// Runs nothing: a renewal that is begun is under way until its task is dropped.
    #[derive(Default)]
    struct Begun(Mutex<Vec<Task>>);

    impl Begun {
        fn tasks(&self) -> MutexGuard<'_, Vec<Task>> {
            self.0.lock()
        }
    }

    impl Tasks for Begun {
        fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) {
            if name == "refresh a connection" {
                self.tasks().push((name, task));
            }
        }
    }

    struct Scene {
        engine: Engine,
        begun: Arc<Begun>,
        key: ConnectionKey,
        slot: Arc<Slot>,
        caller: CallerName,
    }

    impl Scene {
        fn new() -> Self {
            let world = World::new(Dice::new(1), false);
            let born = Timestamp::from_unix_seconds(1);
            let material = zeroize::Zeroizing::new([7; 32]);
            let key = SealingKey::new("simulated".into(), born, Some(born), material);
            let keyring = Arc::new(Keyring::new(vec![key], "in memory").expect("one promoted key"));
            let clock = Arc::new(SimClock::new(world.clone(), WallError::default()));
            let tasks = Arc::new(SimTasks::new(world, WORLD));
            let server = SimServer::new(clock.clone(), tasks, Dice::new(2), 1, false, Mutant::None, None);
            let random = Arc::new(SeededRandom::new(9));
            let begun = Arc::new(Begun::default());
            let deps = Deps {
                repository: Arc::new(Repository::new(Arc::new(server.insight()), keyring, random.clone())),
                clock,
                random,
                tasks: begun.clone(),
                observer: Arc::new(Nobody),
                tracer: crate::span::Tracer::off(),
            };
            let engine = Engine::new(BTreeMap::new(), deps, Settings::default());
            let key = ConnectionKey {
                app: AppName::parse("outlook").expect("name"),
                connection: ConnectionName::parse("user").expect("name"),
            };
            let slot = engine.slots.slot(&key, Duration::ZERO);
            Scene { engine, begun, key, slot, caller: CallerName::parse("one").expect("name") }
        }

        fn at(&self) -> At<'_> {
            At { key: &self.key, slot: &self.slot, slots: &self.engine.slots }
        }

        fn way(&self, force: Option<Force>) -> Result<Way, Duration> {
            way(&self.engine.ports, self.at(), Some(&self.caller), force)
        }

        /// Goes a way; how many renewals that begins.
        fn go(&self, way: Way) -> usize {
            let before = self.begun.tasks().len();
            let want = Want {
                by: Some(self.caller.clone()),
                resource: None,
                scopes: ScopeSet::default(),
                min_ttl: Duration::ZERO,
                rejected: None,
                claims: None,
                cae: true,
            };
            let _ = go(&self.engine.ports, self.at(), &want, way);
            self.begun.tasks().len() - before
        }

        fn plain_renewal_begins(&self) {
            let way = self.way(None).expect("nobody forces it");
            assert_eq!(self.go(way), 1);
        }

        /// Every renewal under way ends, as one does whose task is dropped.
        fn renewals_end(&self) {
            let ended = std::mem::take(&mut *self.begun.tasks());
            drop(ended);
            self.slot.state().flights.landed(Work::Renewal);
        }
    }

    /// What else happens between the decision and the flight, and whether a renewal begins then.
    #[test]
    fn no_forced_renewal_begins_without_a_permit_whenever_others_begin_and_end() {
        #[derive(Debug, Clone, Copy, PartialEq)]
        enum Others {
            No,
            Begin,
            End,
        }
        // (One under way before, what others do meanwhile, it has a permit, a renewal begins.)
        let rows = [
            (false, Others::No, true, 1),
            (false, Others::Begin, true, 0),
            (true, Others::No, false, 0),
            (true, Others::End, false, 0),
        ];
        for (is_under_way, others, has_permit, begins) in rows {
            for force in [Force::Report, Force::Challenge, Force::Bare] {
                let row = (is_under_way, others, force);
                let scene = Scene::new();
                if is_under_way {
                    scene.plain_renewal_begins();
                }
                let way = scene.way(Some(force)).expect("the first is allowed");
                assert_eq!(matches!(way, Way::Begin(Some(_))), has_permit, "{row:?}");
                match others {
                    Others::No => {}
                    Others::Begin => scene.plain_renewal_begins(),
                    Others::End => scene.renewals_end(),
                }
                assert_eq!(scene.go(way), begins, "{row:?}");
            }
        }
    }

    /// However many ask at once, so many renewals may be forced; one that joins another gives its place back.
    #[test]
    fn of_many_that_ask_at_once_each_sees_those_before() {
        let scene = Scene::new();
        let mut ways: Vec<Way> =
            std::iter::from_fn(|| scene.way(Some(Force::Report)).ok()).take(100).collect();
        assert_eq!(ways.len(), 5);
        drop(ways.pop());
        let again = scene.way(Some(Force::Report));
        assert!(again.is_ok() && scene.way(Some(Force::Report)).is_err());
        scene.plain_renewal_begins();
        for way in ways {
            assert_eq!(scene.go(way), 0);
        }
        scene.renewals_end();
        let left =
            std::iter::from_fn(|| scene.way(Some(Force::Report)).ok()).take(100).collect::<Vec<Way>>().len();
        assert_eq!(left, 4, "all but the one that is still had");
    }
}
