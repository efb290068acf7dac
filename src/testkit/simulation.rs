//! Runs of the simulation: many seeds, the seeds that once found a fault, and proof that the checker notices
//! faults.

use super::baseline::Baseline;
use super::faults::Mutant;
use super::scenario::{Plan, Report, run};

fn traced(seed: u64) -> Report {
    run(Plan { traced: true, ..Plan::seed(seed) })
}

/// Returns the events up to the first violation, only of its connection if that is known.
fn story(plan: Plan, report: &Report) -> String {
    let again = run(Plan { traced: true, ..plan });
    let Some(first) = report.violations.first() else { return String::new() };
    let until = format!("{:>10.3}", first.at.as_secs_f64() + 0.001);
    let end = again.lines.partition_point(|line| line.as_str() < until.as_str());
    let name = first.what.split("user-").nth(1).map(|rest| format!("user-{}", &rest[..1]));
    let told = |line: &&String| {
        let about_others =
            line.contains("user-") && name.as_ref().is_some_and(|name| !line.contains(name.as_str()));
        !about_others
    };
    let lines: Vec<&str> = again.lines[1..end].iter().filter(told).map(String::as_str).collect();
    let from = lines.len().saturating_sub(80);
    format!("seed {}: {first:?}\n{}\n{}\n", plan.seed, again.lines[0], lines[from..].join("\n"))
}

fn holds(seed: u64) -> Report {
    holds_as(Plan::seed(seed))
}

/// The simulation as it was before it had [`Additions`](super::faults::Additions).
fn holds_plain(seed: u64) {
    holds_as(Plan { plain: true, ..Plan::seed(seed) });
}

fn holds_as(plan: Plan) -> Report {
    let report = run(plan);
    assert!(report.violations.is_empty(), "{}{:#?}", story(plan, &report), report.violations);
    report
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..4 {
        let (one, other) = (run(Plan::seed(seed)), traced(seed));
        assert_eq!(one.hash, other.hash, "seed {seed}");
    }
}

// Two tests, so that they share two cores.

#[test]
fn a_hundred_seeds_hold_and_are_as_written_down() {
    baseline(0..100).holds();
}

#[test]
fn another_hundred_seeds_hold_and_are_as_written_down() {
    baseline(100..200).holds();
}

fn baseline(seeds: std::ops::Range<u64>) -> Baseline {
    let mut baseline = Baseline::default();
    seeds.for_each(|seed| baseline.add(seed, &holds(seed)));
    baseline
}

/// Run by `make baseline`.
#[test]
#[ignore = "for `make baseline`"]
fn the_baseline_is_written_anew() {
    let baseline = baseline(0..200);
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/testkit/baseline");
    std::fs::write(folder.join("seeds.txt"), baseline.seeds()).expect("the baseline is written");
    std::fs::write(folder.join("combinations.txt"), baseline.combinations())
        .expect("the baseline is written");
}

// Seeds that found a fault. A change of what a run draws turns them into ordinary ones.

#[test]
fn seed_17_who_waited_for_a_look_in_vain_does_not_get_what_was_deleted_meanwhile() {
    holds_plain(17);
}

#[test]
fn seed_1248_a_commit_does_not_prove_what_is_stored_when_its_answer_is_seen() {
    holds_plain(1248);
}

#[test]
fn seed_125_a_verdict_is_forgotten_everywhere_when_the_user_signs_in_again() {
    holds_plain(125);
}

#[test]
fn seed_510_an_answer_on_top_of_another_replica_s_keeps_the_newer_tokens() {
    holds_plain(510);
}

#[test]
fn seed_19544_a_slow_look_does_not_bring_back_what_a_later_one_replaced() {
    holds_plain(19544);
}

#[test]
fn seed_9736_a_verdict_on_a_grant_that_was_replaced_meanwhile_is_not_remembered() {
    holds_plain(9736);
}

#[test]
fn seed_49_what_is_only_in_the_journal_keeps_its_lease_and_its_doubt() {
    holds(49);
}

#[test]
fn seed_71_an_answer_from_the_journal_is_held_while_it_is_stored_at_last() {
    holds(71);
}

#[test]
fn seed_2803_what_is_to_be_tried_now_waits_for_its_turn() {
    holds(2803);
}

#[test]
fn seed_5203_an_answer_without_a_new_refresh_token_goes_over_no_other_answer() {
    holds(5203);
}

#[test]
fn seed_12978_of_two_revocations_at_once_neither_is_forgotten() {
    holds(12978);
}

#[test]
fn seeds_10449_and_11001_an_answer_s_own_token_succeeds_those_of_before_whatever_the_clocks_say() {
    holds(10449);
    holds(11001);
}

#[test]
fn seed_11049_a_store_that_answers_and_takes_nothing_back_is_still_asked_every_second() {
    holds(11049);
}

#[test]
fn seed_42201_what_was_served_from_the_journal_is_served_again_after_a_pause_that_came_and_went() {
    holds(42201);
}

#[test]
fn seed_6549_another_replica_s_answer_without_a_new_refresh_token_does_not_stand_before_a_served_one() {
    holds(6549);
}

#[test]
fn seed_17530_a_verdict_is_not_asked_about_again_where_the_authority_wants_to_be_left_alone() {
    holds(17530);
}

#[test]
fn seed_4042_what_the_store_lost_comes_back_paused_where_it_was_paused_meanwhile() {
    holds(4042);
}

#[test]
fn seeds_3603_and_4461_a_verdict_is_heard_twice_and_what_is_in_doubt_is_left_alone() {
    holds(3603);
    holds(4461);
}

/// Two of them resend a refresh token that a late request had used up after a later one had worked. In the
/// third, a refresh token whose answer was lost is left alone, although nothing had used it up. Nobody on
/// this side can tell.
#[test]
fn seeds_2329_16211_and_17677_what_nobody_can_know_is_nobodys_mistake() {
    holds(2329);
    holds(16211);
    holds(17677);
}

/// The session was started before the revocation, and the user came back after it.
#[test]
fn seeds_653_and_4849_a_sign_in_that_a_revocation_overtakes_is_meant_by_it() {
    holds(653);
    holds(4849);
}

/// The store was slow with a sign-in. Meanwhile its session was revoked, and its user signed in anew.
#[test]
fn seeds_20078_and_20800_a_revoked_sign_in_replaces_no_later_one() {
    holds(20078);
    holds(20800);
}

/// One replica's answer had no new refresh token, another's had one, and a third spent the old one again: the
/// verdict stands below the answer that was served. In the other, a late request of its own came between an
/// authority's mistake and the second opinion, which is no mistake then.
#[test]
fn seeds_23183_and_25500_a_verdict_stands_below_an_answer_and_a_second_opinion_counts() {
    holds(23183);
    holds(25500);
}

/// Asserts that a seed of these runs, with a wrong fake, violates this invariant.
fn is_noticed(mutant: Mutant, invariant: &str) {
    let noticed = (0..MOST_SEEDS).find(|seed| {
        let report = run(Plan { mutant, ..Plan::seed(*seed) });
        report.violations.iter().any(|violation| violation.invariant == invariant)
    });
    assert!(noticed.is_some(), "{mutant:?} passes {MOST_SEEDS} seeds");
}

/// Enough seeds for every fault to meet every other.
const MOST_SEEDS: u64 = 60;

#[test]
fn a_commit_that_ignores_the_lease_is_noticed() {
    is_noticed(Mutant::CommitIgnoresLease, "I5");
}

#[test]
fn a_commit_that_ignores_the_revision_is_noticed() {
    is_noticed(Mutant::CommitIgnoresRevision, "I5");
}

#[test]
fn a_lease_for_everyone_is_noticed() {
    is_noticed(Mutant::LeaseForEveryone, "I4");
}

#[test]
fn stale_reads_are_noticed() {
    is_noticed(Mutant::StaleReads, "I7");
}

#[test]
fn a_commit_that_is_acknowledged_and_not_kept_is_noticed() {
    is_noticed(Mutant::ForgetsCommits, "I6");
}

#[test]
fn a_delete_that_is_acknowledged_and_not_done_is_noticed() {
    is_noticed(Mutant::KeepsDeleted, "I7");
}

#[test]
fn a_delete_that_takes_a_later_sign_in_along_is_noticed() {
    is_noticed(Mutant::DeletesWhatever, "I18");
}

#[test]
fn a_passing_failure_taken_for_a_verdict_is_noticed() {
    is_noticed(Mutant::TransientIsVerdict, "I9");
}

#[test]
fn a_verdict_taken_for_a_passing_failure_is_noticed() {
    is_noticed(Mutant::VerdictIsTransient, "I18");
}

#[test]
fn somebody_else_s_token_is_noticed() {
    is_noticed(Mutant::WrongUser, "I1");
}

#[test]
fn tokens_said_to_live_longer_than_they_do_are_noticed() {
    is_noticed(Mutant::LongLives, "I8");
}

#[test]
fn a_begun_call_that_is_forgotten_is_noticed() {
    is_noticed(Mutant::IntentIsForgotten, "I6");
}

#[test]
fn a_journal_that_forgets_is_noticed() {
    is_noticed(Mutant::JournalForgets, "I24");
}

#[test]
fn a_throttle_that_other_replicas_do_not_hear_of_is_noticed() {
    is_noticed(Mutant::HoldsAreForgotten, "I22");
}

#[test]
fn a_revocation_that_other_replicas_do_not_hear_of_is_noticed() {
    is_noticed(Mutant::RevocationsStayAtHome, "I7");
}

#[test]
fn a_store_that_forgets_notices_is_noticed() {
    is_noticed(Mutant::ForgetsNotices, "I27");
}

/// `make simulate`: runs as many seeds as requested, and prints the results.
#[test]
#[ignore = "for `make simulate`"]
#[expect(clippy::disallowed_methods, reason = "the number of seeds is an argument, and a test has no other")]
#[expect(clippy::print_stdout, reason = "it is there to be read")]
fn as_many_seeds_as_are_asked_for() {
    let number =
        |name, otherwise| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    let (first, seeds): (u64, u64) = (number("FIRST_SEED", 0), number("SEEDS", 1000));
    let mut all = super::ledger::Counts::default();
    let (mut hours, mut violated) = (0.0, Vec::new());
    for seed in first..first + seeds {
        let report = run(Plan::seed(seed));
        hours += report.virtual_time.as_secs_f64() / 3600.0;
        all.add(&report.counts);
        if !report.violations.is_empty() {
            if violated.len() < 5 {
                println!("{}", story(Plan::seed(seed), &report));
            }
            let invariants: std::collections::BTreeSet<_> =
                report.violations.iter().map(|violation| violation.invariant).collect();
            violated.push((seed, invariants));
        }
    }
    println!(
        "seeds {first} to {}: {hours:.0} virtual hours\n{all:#?}\nviolations: {violated:?}",
        first + seeds - 1
    );
    assert!(violated.is_empty());
}

/// Prints the whole story of one seed.
#[test]
#[ignore = "tells the story of one seed"]
#[expect(clippy::disallowed_methods, reason = "the seed is an argument, and a test has no other")]
#[expect(clippy::print_stdout, reason = "it is there to be read")]
fn the_story_of_one_seed() {
    let seed = std::env::var("FIRST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    println!("{}", traced(seed).lines.join("\n"));
}
