//! The protocol holds in every small configuration, and no rule can be left out.

use refresh_model::{RefreshModel, Setup, catalogue, single_use};
use single_use::SingleUse;
use stateright::{Checker, HasDiscoveries, Model};

#[test]
fn the_protocol_holds_in_every_small_configuration() {
    catalogue::small().into_iter().for_each(holds);
}

#[test]
fn every_broken_rule_is_in_the_catalogue_once() {
    let mut bugs: Vec<_> = catalogue::seeded().into_iter().map(|seeded| seeded.bug).collect();
    let all = bugs.len();
    bugs.sort_unstable();
    bugs.dedup();
    assert_eq!(bugs.len(), all);
    assert_eq!(all, refresh_model::Bug::COUNT, "a bug without a test is no bug");
}

#[test]
fn a_callback_is_used_once() {
    for wait in [true, false] {
        let model = SingleUse { callbacks: 3, wait, failovers: 1, lost: 1, reads_then_removes: false };
        model.checker().spawn_bfs().join().assert_properties();
    }
}

#[test]
fn reading_and_then_removing_uses_a_callback_twice() {
    let model = SingleUse { callbacks: 2, wait: true, failovers: 0, lost: 0, reads_then_removes: true };
    model.checker().spawn_bfs().join().assert_any_discovery(single_use::TAKEN_ONCE);
}

fn holds(setup: Setup) {
    let checker =
        RefreshModel { setup }.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    for (name, path) in checker.discoveries() {
        let good = name == refresh_model::properties::REFRESHES;
        assert!(good, "{name} fails in {setup:?}:\n{}", refresh_model::trace::lines(path.into_vec()));
    }
    assert!(
        checker.discovery(refresh_model::properties::REFRESHES).is_some(),
        "nothing happens in {setup:?}"
    );
}
