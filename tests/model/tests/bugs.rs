//! One test for each rule that the protocol needs: without it, the check finds a run that violates the rule's
//! purpose.

use refresh_model::{Bug, RefreshModel, Setup, catalogue};
use stateright::{Checker, Model};

macro_rules! found {
    ($($test:ident: $bug:ident,)*) => {
        $(#[test]
        fn $test() {
            is_found(Bug::$bug);
        })*
    };
}

found! {
    the_commit_looks_at_the_lease: NoFence,
    a_lease_is_a_nonce_and_not_a_counter: CounterFence,
    the_commit_is_one_step: CheckThenSet,
    a_commit_does_not_create: CommitCreates,
    the_record_is_loaded_under_the_lease: NoReloadUnderLease,
    a_call_is_made_on_the_newest_that_the_replica_knows: CallsOnStale,
    a_lease_is_not_taken_over_by_the_wall_clock: StealsByWallClock,
    the_clock_is_looked_at_before_the_call: NoClockCheck,
    only_the_holder_gives_a_lease_back: ReleasesAnothers,
    without_the_store_there_is_no_refresh: RefreshesWithoutStore,
    a_lease_ends: LeaseWithoutEnd,
    an_intent_is_left: NoIntent,
    doubt_stops_a_replay: ReplaysInDoubt,
    a_lost_answer_leaves_doubt: LostIsSettled,
    not_now_leaves_earlier_doubt: TransientIsSettled,
    a_new_refresh_token_ends_doubt: IntentOutlives,
    nothing_is_served_before_it_is_durable: ServesBeforeDurable,
    the_journal_is_replayed: JournalNotReplayed,
    what_is_unstored_is_offered_first: RefreshesOverUnstored,
    an_answer_overrules_a_verdict: NoRebase,
    an_answer_outlives_a_failover: DropsOnFallback,
    a_verdict_is_about_a_revision: VerdictUnconditional,
    a_verdict_is_not_moved: VerdictOnNewer,
    a_lost_answer_is_no_verdict: LostIsVerdict,
    nothing_older_is_adopted: AdoptsOlder,
    what_was_seen_is_published_again: RepublishesOwnOnly,
    nothing_is_published_again_over_nothing: RepublishesOnNothing,
    nothing_is_published_after_a_delete: PublishesAfterDelete,
    a_late_delete_spares_a_new_sign_in: DeletesWhatever,
    a_delete_names_more_than_a_number: DeletesByNumber,
    a_sign_in_in_doubt_is_not_moved: RebasesLostSignIn,
    a_repeated_delete_spares_a_new_sign_in: RedeletesWhatever,
    one_absence_is_not_like_another: NoTombstone,
    messages_are_not_believed: TrustsMessages,
    messages_are_not_waited_for: WaitsForMessage,
    no_dead_token_is_served: ServesExpired,
}

fn is_found(bug: Bug) {
    let seeded = catalogue::seeded()
        .into_iter()
        .find(|seeded| seeded.bug == bug)
        .expect("every bug is in the catalogue, and a test says so");
    let Some(run) = catalogue::shortest(seeded.setup, seeded.violates) else {
        panic!("{bug:?} does not break '{}'", seeded.violates)
    };
    // In the same configuration the protocol with all its rules holds, so it is the missing rule that was
    // found.
    let whole = Setup { bug: None, ..seeded.setup };
    let depth = run.len() + 1;
    let checker = RefreshModel { setup: whole }.checker().target_max_depth(depth).spawn_bfs().join();
    assert!(checker.discovery(seeded.violates).is_none(), "'{}' does not need {bug:?}", seeded.violates);
}
