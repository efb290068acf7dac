//! What a connection's memory does with each thing that happens, a name for each rule.

use super::*;
use crate::domain::account::Account;
use crate::domain::connection::Profile;
use crate::domain::grant::Grant;
use crate::domain::scope::ScopeSet;
use crate::domain::secret::RefreshToken;
use crate::domain::time::Timestamp;
use crate::domain::verdict::ReauthReason;
use crate::store::{LeaseNonce, StoreError};

const SERVE_FOR: Duration = Duration::from_secs(300);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn wall(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(seconds)
}

fn sign_in(number: u64) -> SignIn {
    SignIn { number, nonce: [0; 8] }
}

/// The state of a connection after so many renewals of its grant, in this generation.
fn state(number: u64, renewals: u64, generation: u64) -> Connection {
    let account = Account { iss: "i".into(), sub: "s".into(), tid: None, oid: None, username: None };
    let connected_at = wall(1000 * i64::try_from(number).expect("small"));
    let profile = Profile::connected(account, vec![], vec![], "cli".into(), connected_at, None);
    let profile = (0..renewals).fold(profile, |profile, _| profile.grant_replaced(vec![]));
    let profile = profile.of_sign_in(sign_in(number));
    let nonce = [u8::try_from(generation).expect("small"); 16];
    let revision = Revision { sign_in: sign_in(number), generation, nonce };
    Connection { revision, profile, tokens: vec![] }
}

fn sealed(connection: &Connection) -> StoredConnection {
    let nothing = Vec::new;
    StoredConnection {
        revision: connection.revision,
        profile: nothing(),
        tokens: nothing(),
        grant: nothing(),
        notice: None,
    }
}

/// The answer that succeeds `before`.
fn answer_to(before: &Connection) -> Unstored {
    let place = before.profile.renewals() + 1;
    let connection = state(before.revision.sign_in.number, place, before.revision.generation + 1);
    Unstored {
        lease: LeaseNonce([0; 16]),
        expected: before.revision,
        sealed: sealed(&connection),
        connection,
        grant: Grant::new(RefreshToken::new("new")),
        used: RefreshToken::new("old"),
    }
}

fn held(connection: &Connection) -> Held {
    Held::new(connection.clone(), ScopeSet::default())
}

/// A read that began and ended at `at` showed this.
fn read(memory: &mut Memory, stored: &Connection, at: u64) -> Caching {
    let (epoch, _) = memory.begin_read();
    finish_read(memory, stored, epoch, at, at)
}

fn finish_read(memory: &mut Memory, stored: &Connection, epoch: Epoch, begun: u64, now: u64) -> Caching {
    let is_answer = memory.answer_on_top_of(stored).is_some();
    let shown = memory.answer_on_top_of(stored).map_or(stored, |answer| &answer.connection).clone();
    let sealed = sealed(stored);
    let (source, begun) = (Source::Read(&sealed), seconds(begun));
    memory.cache(Known { held: held(&shown), is_answer, source, epoch, begun }, seconds(now), true)
}

/// A commit of this process, begun at `at`, stored this.
fn committed(memory: &mut Memory, written: &Connection, at: u64) -> Caching {
    let sealed = sealed(written);
    let (epoch, source, begun) = (memory.epoch(), Source::Committed(&sealed), seconds(at));
    memory.cache(Known { held: held(written), is_answer: false, source, epoch, begun }, seconds(at), true)
}

/// The journal took the answer: it is cached.
fn journaled(memory: &mut Memory, answer: &Unstored, at: u64) {
    memory.answered(answer.clone());
    let Journaling::Done { is_replaced: false, checked_at } = memory.journaled(answer) else {
        panic!("it is the latest")
    };
    let (held, epoch, source) = (held(&answer.connection), memory.epoch(), Source::Journaled);
    let known = Known { held, is_answer: false, source, epoch, begun: checked_at };
    assert_eq!(memory.cache(known, seconds(at), true), Caching::Done { replaces_sign_in: false });
}

fn failed(memory: &mut Memory, at: u64, store_answered_at: u64) {
    let outage = StoreError::Unavailable { doing: "looking up a connection", cause: "it is away".into() };
    let failure = Arc::new(Failure::Repository(outage.into()));
    memory.read_failed(failure, seconds(at), |since| seconds(store_answered_at) > since);
}

/// How the cached connection is come by: `serve`, `serve+read`, `fail`, `read`, `read briefly`.
fn look(memory: &Memory, at: u64, store_answered_at: u64) -> &'static str {
    let answered_since = |since| seconds(store_answered_at) > since;
    match memory.look(seconds(at), true, || SERVE_FOR, answered_since) {
        Look::Serve(_) => "serve",
        Look::ServeAndRead(_) => "serve+read",
        Look::Fail(_) => "fail",
        Look::Read { briefly: true } => "read briefly",
        Look::Read { briefly: false } => "read",
    }
}

fn repair(memory: &Memory, stored: &Connection, at: u64) -> &'static str {
    match memory.repair(stored, seconds(at)) {
        Repair::Nothing => "nothing",
        Repair::DeleteAgain => "delete again",
        Repair::StoreAgain(_) => "store again",
    }
}

const CACHED: Caching = Caching::Done { replaces_sign_in: false };

#[test]
fn a_cached_connection_is_served_for_a_second_and_then_compared() {
    let mut memory = Memory::default();
    assert_eq!(look(&memory, 10, 0), "read");
    assert_eq!(read(&mut memory, &state(1, 0, 1), 10), CACHED);
    assert_eq!(look(&memory, 10, 0), "serve");
    assert_eq!(look(&memory, 11, 0), "read");
    memory.read_confirmed(seconds(11));
    assert_eq!(look(&memory, 11, 0), "serve");
    memory.outdated();
    assert_eq!(look(&memory, 11, 0), "read", "somebody said that it changed");
}

#[test]
fn an_embedded_store_is_not_asked_again() {
    let mut memory = Memory::default();
    let _ = read(&mut memory, &state(1, 0, 1), 10);
    memory.outdated();
    assert!(matches!(memory.look(seconds(999), false, || SERVE_FOR, |_| true), Look::Serve(_)));
}

#[test]
fn while_the_store_fails_the_cached_connection_is_served_for_its_time() {
    // (Seconds since it was read, since the last read failed, whether the store answered others since.)
    let rows = [
        (20, 0, false, "serve"),
        (20, 1, false, "serve+read"),
        (20, 1, true, "read"),
        (301, 0, false, "fail"),
        (301, 1, false, "read briefly"),
        (301, 1, true, "read"),
    ];
    for (age, since_failure, has_answered, expected) in rows {
        let mut memory = Memory::default();
        let _ = read(&mut memory, &state(1, 0, 1), 100);
        let now = 100 + age;
        failed(&mut memory, now - since_failure, 0);
        let answered_at = if has_answered { now } else { 0 };
        assert_eq!(look(&memory, now, answered_at), expected, "{age} {since_failure} {has_answered}");
        assert!(memory.is_degraded());
    }
}

#[test]
fn a_connection_that_alone_cannot_be_read_is_served_without_waiting() {
    let mut memory = Memory::default();
    let _ = read(&mut memory, &state(1, 0, 1), 100);
    failed(&mut memory, 110, 0);
    failed(&mut memory, 112, 111); // the store answered others in between
    assert_eq!(look(&memory, 112, 112), "serve");
    assert_eq!(look(&memory, 113, 113), "read briefly");
    memory.read_confirmed(seconds(113));
    assert!(!memory.is_degraded());
}

#[test]
fn a_read_that_began_before_a_write_changes_nothing() {
    let mut memory = Memory::default();
    let (old, new) = (state(1, 0, 1), state(1, 1, 2));
    let _ = read(&mut memory, &old, 10);
    let (epoch, _) = memory.begin_read();
    assert_eq!(committed(&mut memory, &new, 11), CACHED);
    assert_eq!(finish_read(&mut memory, &old, epoch, 12, 12), Caching::Dropped);
    assert_eq!(memory.cached_revision(), Some(new.revision));
    memory.read_absent(epoch, seconds(12));
    assert_eq!(memory.cached_revision(), Some(new.revision), "nor does it say that it is gone");
    let (epoch, _) = memory.begin_read();
    memory.forget(|_| true); // a delete
    assert_eq!(finish_read(&mut memory, &new, epoch, 13, 13), Caching::Dropped);
    assert_eq!(memory.cached_revision(), None, "nor does it bring back what was deleted");
}

#[test]
fn of_two_reads_the_one_that_began_later_counts() {
    let mut memory = Memory::default();
    let (old, new) = (state(1, 0, 1), state(1, 0, 2));
    let (epoch, _) = memory.begin_read();
    assert_eq!(finish_read(&mut memory, &new, epoch, 11, 12), CACHED);
    assert_eq!(finish_read(&mut memory, &old, epoch, 10, 13), Caching::Dropped);
    let newer = state(1, 0, 3); // a failover lost it before the later read began
    assert_eq!(finish_read(&mut memory, &newer, epoch, 10, 13), Caching::Dropped);
}

#[test]
fn loaded_behind_a_delete() {
    let mut memory = Memory::default();
    let deleted = state(2, 0, 2);
    let _ = read(&mut memory, &deleted, 10);
    memory.remember_delete(sign_in(2), wall(2500), seconds(11));
    memory.forget(|_| true);
    assert_eq!(memory.cached_revision(), None);
    assert_eq!(repair(&memory, &deleted, 12), "delete again");
    assert_eq!(repair(&memory, &state(1, 0, 1), 12), "delete again", "an earlier sign-in of the name");
    assert_eq!(repair(&memory, &state(3, 0, 3), 12), "nothing", "a later one");
    assert_eq!(repair(&memory, &deleted, 131), "nothing", "two minutes later it is no failover");
}

#[test]
fn loaded_behind_a_write() {
    let mut memory = Memory::default();
    let (lost_to, new) = (state(1, 0, 1), state(1, 1, 2));
    let _ = read(&mut memory, &lost_to, 10);
    let _ = committed(&mut memory, &new, 11);
    assert_eq!(repair(&memory, &lost_to, 12), "store again");
    assert_eq!(read(&mut memory, &lost_to, 12), Caching::Dropped, "the newer state stays cached");
    assert_eq!(repair(&memory, &new, 12), "nothing");
    assert_eq!(repair(&memory, &state(1, 2, 3), 12), "nothing");
    memory.answered(answer_to(&new));
    assert_eq!(repair(&memory, &lost_to, 12), "nothing", "an answer on its way replaces both");
}

#[test]
fn a_state_that_is_seen_again_is_not_remembered_for_longer() {
    let mut memory = Memory::default();
    let (old, new) = (state(1, 0, 1), state(1, 1, 2));
    let _ = committed(&mut memory, &new, 10);
    let _ = read(&mut memory, &new, 100);
    assert_eq!(repair(&memory, &old, 129), "store again");
    assert_eq!(repair(&memory, &old, 131), "nothing");
}

#[test]
fn an_answer_in_memory_is_not_shown_and_one_in_the_journal_is() {
    let mut memory = Memory::default();
    let before = state(1, 0, 1);
    let _ = read(&mut memory, &before, 10);
    let answer = answer_to(&before);
    memory.answered(answer.clone());
    assert_eq!(memory.cached_revision(), Some(before.revision));
    assert!(memory.answer_on_top_of(&before).is_none());
    journaled(&mut memory, &answer, 11);
    assert_eq!(memory.cached_revision(), Some(answer.sealed.revision));
    assert!(memory.is_degraded());
    assert_eq!(read(&mut memory, &before, 12), CACHED, "shown in place of what it succeeds");
    assert_eq!(memory.cached_revision(), Some(answer.sealed.revision));
    assert!(memory.settled(answer.sealed.revision) && !memory.is_degraded());
}

/// What the store shows while the journaled answer waits, and which of the two is served.
#[test]
fn what_is_served_while_a_journaled_answer_waits() {
    let before = state(1, 3, 5);
    let with = |status: Status, generation: u64| {
        let other = state(1, 3, generation);
        Connection { profile: other.profile.of_status(status, None), ..other }
    };
    let rows = [
        ("what it succeeds", before.clone(), true),
        ("a pause", with(Status::Paused, 7), false),
        ("a pause that was resumed", with(Status::Active, 8), true),
        ("a verdict", with(Status::NeedsReauthorization(ReauthReason::GrantRevoked), 7), true),
        ("a failover to an earlier grant", state(1, 2, 4), true),
        ("a new sign-in", state(2, 0, 9), false),
        ("a later renewal", state(1, 5, 9), false),
    ];
    for (what, stored, is_ours) in rows {
        let mut memory = Memory::default();
        let _ = read(&mut memory, &before, 10);
        let answer = answer_to(&before);
        journaled(&mut memory, &answer, 11);
        let _ = read(&mut memory, &stored, 200); // nothing is remembered any more
        assert_eq!(memory.cached_revision() == Some(answer.sealed.revision), is_ours, "{what}");
    }
}

#[test]
fn a_commit_settles_its_answer_in_the_same_step() {
    let mut memory = Memory::default();
    let before = state(1, 0, 1);
    let _ = read(&mut memory, &before, 10);
    let answer = answer_to(&before);
    memory.answered(answer.clone());
    assert_eq!(committed(&mut memory, &answer.connection, 11), CACHED);
    assert!(memory.answer().is_none());
    assert!(!memory.settled(answer.sealed.revision), "there is nothing left to settle");
}

#[test]
fn an_answer_that_goes_on_top_of_another_state_stays_where_it_was() {
    for is_journaled in [false, true] {
        let mut memory = Memory::default();
        let before = state(1, 0, 1);
        let _ = read(&mut memory, &before, 10);
        let answer = answer_to(&before);
        memory.answered(answer.clone());
        if is_journaled {
            assert!(matches!(memory.journaled(&answer), Journaling::Done { .. }));
        }
        let mut again = answer.clone();
        again.sealed.revision.generation += 5;
        assert!(memory.rebased(answer.sealed.revision, again.clone()));
        assert_eq!((memory.is_journaled(), memory.is_unstored(again.sealed.revision)), (is_journaled, true));
        assert!(!memory.rebased(answer.sealed.revision, again), "another one took its place");
    }
}

#[test]
fn an_entry_of_the_journal_that_was_forgotten_is_of_no_use() {
    let mut memory = Memory::default();
    let answer = answer_to(&state(1, 0, 1));
    memory.answered(answer.clone());
    assert_eq!(memory.forget(|_| true), None, "the journal has nothing to drop");
    assert!(matches!(memory.journaled(&answer), Journaling::Superseded));
    let _ = memory.recovered(answer.clone());
    assert_eq!(memory.forget(|_| true), Some(answer.sealed.revision));
}

#[test]
fn of_two_entries_of_the_journal_the_newer_is_offered() {
    let (older, newer) = (answer_to(&state(1, 0, 1)), answer_to(&state(1, 1, 2)));
    for (first, second) in [(&older, &newer), (&newer, &older)] {
        let mut memory = Memory::default();
        assert!(memory.recovered(first.clone()).is_none());
        let passed_over = memory.recovered(second.clone()).expect("one of two");
        assert_eq!(passed_over.sealed.revision, older.sealed.revision);
        assert!(memory.is_unstored(newer.sealed.revision) && memory.is_journaled());
    }
}

#[test]
fn what_is_of_another_sign_in_outlives_a_delete() {
    let mut memory = Memory::default();
    let stays = state(3, 0, 3);
    let _ = read(&mut memory, &stays, 10);
    memory.forget(|other| other.number < 3);
    assert_eq!(memory.cached_revision(), Some(stays.revision));
    assert_eq!(look(&memory, 10, 0), "read", "it is compared before it is served");
}

#[test]
fn a_new_sign_in_ends_the_troubles_of_the_one_before() {
    let mut memory = Memory::default();
    assert_eq!(read(&mut memory, &state(1, 0, 1), 10), CACHED, "the first has none before it");
    memory.distrust();
    assert_eq!(read(&mut memory, &state(1, 0, 2), 11), CACHED);
    assert_eq!(read(&mut memory, &state(2, 0, 3), 12), Caching::Done { replaces_sign_in: true });
}
