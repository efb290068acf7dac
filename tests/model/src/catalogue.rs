//! The checked configurations and, for each broken rule, one that shows it.

use stateright::{Checker, HasDiscoveries, Model, Path};

use crate::RefreshModel;
use crate::bugs::Bug;
use crate::properties as p;
use crate::protocol::Action;
use crate::setup::{Authority, Budget, Setup};
use crate::world::World;

use Authority::{Entra, Rotating, Strict};

const MODES: [Authority; 3] = [Entra, Strict, Rotating];
const NO_FAULT: Budget = Setup::calm("", Entra).budget;

/// Returns the shortest run of a configuration that violates a property, if any does.
pub fn shortest(setup: Setup, property: &'static str) -> Option<Run> {
    // The checker stops at the end of a block of states, and then names the last that it has found; one depth
    // at a time, that is also the first.
    (2..MOST_STEPS).find_map(|depth| {
        let checker = RefreshModel { setup }.checker().target_max_depth(depth);
        let checker = checker.finish_when(HasDiscoveries::AnyOf([property].into())).spawn_bfs().join();
        checker.discovery(property).map(Path::into_vec)
    })
}

/// States and the actions after them.
pub type Run = Vec<(World, Option<Action>)>;

/// Longest run that is searched: every broken rule shows sooner.
const MOST_STEPS: usize = 26;

/// A broken rule, its configuration, and the violated property.
#[derive(Debug, Clone, Copy)]
pub struct Seeded {
    /// The rule.
    pub bug: Bug,
    /// The property that fails.
    pub violates: &'static str,
    /// The configuration, with the bug.
    pub setup: Setup,
}

/// Small configurations: each fault alone and the pairs that matter most, in all modes. Seconds in all.
pub fn small() -> Vec<Setup> {
    let b = NO_FAULT;
    configurations(&[
        ("no fault", 3, 1, Store::Plain, Budget { ticks: 2, ..b }),
        ("pause", 3, 1, Store::Plain, Budget { pauses: 1, ..b }),
        ("crash and pause", 2, 1, Store::Plain, Budget { crashes: 1, pauses: 1, ..b }),
        ("crash, no journal", 2, 1, Store::NoJournal, Budget { crashes: 1, lost_by_store: 1, ..b }),
        ("lost calls", 2, 1, Store::Plain, Budget { lost_calls: 1, transients: 1, crashes: 1, ..b }),
        ("lost by store", 2, 1, Store::Plain, Budget { lost_by_store: 1, crashes: 1, ..b }),
        ("lost by store, pause", 2, 1, Store::Plain, Budget { lost_by_store: 1, pauses: 1, ..b }),
        ("failover", 3, 1, Store::Plain, Budget { failovers: 1, ..b }),
        ("failover, later", 2, 1, Store::Plain, Budget { failovers: 1, ticks: 2, ..b }),
        ("failover, pause", 2, 1, Store::Plain, Budget { failovers: 1, pauses: 1, ..b }),
        ("failover with WAIT", 2, 1, Store::Wait, Budget { failovers: 1, lost_by_store: 1, crashes: 1, ..b }),
        ("delete", 2, 1, Store::Plain, Budget { deletes: 1, pauses: 1, crashes: 1, ..b }),
        ("sign-in", 2, 1, Store::Plain, Budget { connects: 1, revocations: 1, ..b }),
        ("delete, sign-in", 2, 1, Store::Plain, Budget { connects: 1, deletes: 1, ..b }),
        ("two connections", 2, 2, Store::Plain, Budget { ticks: 0, crashes: 1, ..b }),
    ])
}

/// Large configurations: millions of states, minutes in all.
pub fn full() -> Vec<Setup> {
    let b = NO_FAULT;
    let faults = Budget { crashes: 1, pauses: 1, lost_by_store: 1, ..b };
    configurations(&[
        ("pauses, crash", 3, 1, Store::Plain, Budget { pauses: 2, crashes: 1, ..b }),
        ("crashes, lost calls", 3, 1, Store::Plain, Budget { crashes: 1, lost_calls: 1, transients: 1, ..b }),
        ("lost by store, crash, pause", 2, 1, Store::Plain, faults),
        ("the same, no journal", 2, 1, Store::NoJournal, faults),
        ("failover, pause, lost by store", 2, 1, Store::Plain, Budget { failovers: 1, crashes: 0, ..faults }),
        ("failover with WAIT and all that", 2, 1, Store::Wait, Budget { failovers: 1, ..faults }),
        (
            "failover with WAIT, lost call",
            2,
            1,
            Store::Wait,
            Budget { failovers: 1, lost_calls: 1, ..faults },
        ),
        (
            "failover, crash, lost call",
            2,
            1,
            Store::Plain,
            Budget { failovers: 1, crashes: 1, lost_calls: 1, ..b },
        ),
        ("three replicas, failover, pause", 3, 1, Store::Plain, Budget { failovers: 1, pauses: 1, ..b }),
        ("delete, sign-in, pause", 2, 1, Store::Plain, Budget { deletes: 1, connects: 1, pauses: 1, ..b }),
        ("delete, sign-in, crash", 2, 1, Store::Plain, Budget { deletes: 1, connects: 1, crashes: 1, ..b }),
        (
            "delete, sign-in, lost call",
            2,
            1,
            Store::Plain,
            Budget { deletes: 1, connects: 1, lost_calls: 1, ..b },
        ),
        (
            "delete, sign-in, lost by store",
            2,
            1,
            Store::Plain,
            Budget { deletes: 2, connects: 1, lost_by_store: 1, ..b },
        ),
        (
            "delete, sign-in, failover",
            2,
            1,
            Store::Plain,
            Budget { deletes: 1, connects: 1, failovers: 1, ..b },
        ),
        (
            "delete, sign-ins, failover",
            2,
            1,
            Store::Plain,
            Budget { ticks: 0, deletes: 1, connects: 2, failovers: 1, ..b },
        ),
        (
            "delete, failover with WAIT",
            2,
            1,
            Store::Wait,
            Budget { deletes: 1, failovers: 1, lost_by_store: 1, crashes: 1, ..b },
        ),
        (
            "sign-in, revocation, pause",
            2,
            1,
            Store::Plain,
            Budget { connects: 1, revocations: 1, pauses: 1, ..b },
        ),
        (
            "three replicas, delete, and all that",
            3,
            1,
            Store::Plain,
            Budget { deletes: 1, crashes: 1, pauses: 1, ..b },
        ),
        ("two connections, failover", 2, 2, Store::Plain, Budget { ticks: 0, failovers: 1, ..b }),
        ("two connections, crash, tick", 2, 2, Store::Plain, Budget { crashes: 1, ..b }),
    ])
}

/// Every broken rule.
pub fn seeded() -> Vec<Seeded> {
    let b = NO_FAULT;
    let user = Budget { deletes: 1, connects: 1, ..b };
    let one = |bug, violates, authority, budget| Seeded {
        bug,
        violates,
        setup: Setup { budget, bug: Some(bug), symmetry: false, ..Setup::calm("seeded", authority) },
    };
    let without_journal =
        |seeded: Seeded| Seeded { setup: Setup { journal: false, ..seeded.setup }, ..seeded };
    vec![
        one(Bug::NoFence, p::I5, Entra, Budget { pauses: 1, ..b }),
        one(Bug::CounterFence, p::I5, Entra, Budget { failovers: 1, ..b }),
        one(Bug::CheckThenSet, p::I5, Entra, Budget { connects: 1, ..b }),
        one(Bug::CommitCreates, p::I7, Entra, Budget { deletes: 1, ..b }),
        one(Bug::NoReloadUnderLease, p::I6, Strict, b),
        one(Bug::CallsOnStale, p::I3, Entra, Budget { failovers: 1, ..b }),
        one(Bug::StealsByWallClock, p::I4, Entra, b),
        one(Bug::NoClockCheck, p::I4, Entra, Budget { pauses: 1, ..b }),
        one(Bug::ReleasesAnothers, p::I4, Entra, Budget { pauses: 1, transients: 1, ..b }),
        one(Bug::RefreshesWithoutStore, p::I4, Entra, Budget { lost_by_store: 1, ..b }),
        one(Bug::LeaseWithoutEnd, p::I18, Entra, Budget { crashes: 1, ..b }),
        one(Bug::NoIntent, p::I6, Strict, Budget { crashes: 1, ..b }),
        one(Bug::ReplaysInDoubt, p::I6, Strict, Budget { crashes: 1, ..b }),
        one(Bug::LostIsSettled, p::I6, Strict, Budget { lost_calls: 1, ..b }),
        one(Bug::TransientIsSettled, p::I6, Strict, Budget { lost_calls: 1, transients: 1, ..b }),
        one(Bug::IntentOutlives, p::DOUBT, Strict, Budget { lost_by_store: 1, ..b }),
        one(Bug::ServesBeforeDurable, p::I6, Entra, b),
        one(Bug::JournalNotReplayed, p::I6, Strict, Budget { lost_by_store: 1, crashes: 1, ..b }),
        // With a journal the answer is held as well, and what is held goes back to the store in any case.
        without_journal(one(Bug::RefreshesOverUnstored, p::I18, Strict, Budget { lost_by_store: 1, ..b })),
        one(Bug::NoRebase, p::I6, Rotating, Budget { pauses: 1, ..b }),
        one(Bug::DropsOnFallback, p::I6, Strict, Budget { failovers: 1, ticks: 2, ..b }),
        one(Bug::VerdictUnconditional, p::I9, Entra, Budget { connects: 1, revocations: 1, ..b }),
        one(Bug::VerdictOnNewer, p::I9, Entra, Budget { connects: 1, revocations: 1, ..b }),
        one(Bug::LostIsVerdict, p::I9, Entra, Budget { lost_calls: 1, ..b }),
        one(Bug::AdoptsOlder, p::I3, Entra, Budget { failovers: 1, ..b }),
        one(Bug::RepublishesOwnOnly, p::I3, Strict, Budget { failovers: 1, ..b }),
        one(Bug::RepublishesOnNothing, p::I7, Entra, user),
        one(Bug::PublishesAfterDelete, p::I7, Entra, Budget { deletes: 1, lost_by_store: 1, ..b }),
        one(Bug::DeletesWhatever, p::RECONNECT, Entra, Budget { lost_by_store: 1, ..user }),
        one(Bug::DeletesByNumber, p::RECONNECT, Entra, Budget { connects: 2, failovers: 1, ..user }),
        one(Bug::RebasesLostSignIn, p::I7, Entra, Budget { lost_by_store: 1, ..user }),
        one(Bug::RedeletesWhatever, p::RECONNECT, Entra, user),
        one(Bug::NoTombstone, p::I7, Entra, Budget { lost_by_store: 1, deletes: 2, ..user }),
        one(Bug::TrustsMessages, p::I7, Entra, Budget { deletes: 1, ..b }),
        one(Bug::WaitsForMessage, p::I18, Entra, b),
        one(Bug::ServesExpired, p::I8, Entra, Budget { ticks: 2, ..b }),
    ]
}

#[derive(Clone, Copy, PartialEq)]
enum Store {
    Plain,
    Wait,
    NoJournal,
}

fn configurations(rows: &[(&'static str, u8, u8, Store, Budget)]) -> Vec<Setup> {
    let in_mode = |authority| {
        rows.iter().map(move |&(name, replicas, connections, store, budget)| Setup {
            replicas,
            connections,
            wait: store == Store::Wait,
            journal: store != Store::NoJournal,
            budget,
            ..Setup::calm(name, authority)
        })
    };
    MODES.into_iter().flat_map(in_mode).collect()
}
