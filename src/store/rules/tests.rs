use super::*;
use crate::store::LOWEST_FLOOR;

const LEASE: LeaseNonce = LeaseNonce([1; 16]);
const OTHER: LeaseNonce = LeaseNonce([2; 16]);

fn sign_in(number: u64) -> SignIn {
    SignIn { number, nonce: [7; 8] }
}

fn revision(sign_in_number: u64, generation: u64) -> Revision {
    Revision {
        sign_in: sign_in(sign_in_number),
        generation,
        nonce: [u8::try_from(generation).expect("small"); 16],
    }
}

#[test]
fn a_commit_is_stored_where_the_revision_is_as_expected_and_nobody_elses_lease_is_in_the_way() {
    use Committed::{Conflict, Done, Fenced};
    let (one, two) = (revision(1, 1), revision(1, 2));
    let again = Writer::Again { replaces_grant: true };
    let (nobody, ours, theirs) = (None, Some(LEASE), Some(OTHER));
    // What is stored, who holds the lease, what is expected, who writes; and the answer, whether it is
    // stored.
    for (stored, holder, expected, writer, answer, is_stored) in [
        (Some(one), ours, Some(one), Writer::Lease(LEASE), Done, true),
        (Some(one), nobody, Some(one), Writer::Lease(LEASE), Done, true), // its lease merely ended
        (Some(one), theirs, Some(one), Writer::Lease(LEASE), Fenced, false),
        (Some(one), theirs, Some(one), Writer::Verdict(LEASE), Fenced, false),
        (Some(one), theirs, Some(one), again, Fenced, false),
        (Some(one), nobody, Some(one), again, Done, true),
        (Some(one), theirs, Some(one), Writer::SignIn, Done, true),
        (Some(one), theirs, Some(one), Writer::Operator, Done, true),
        (Some(one), nobody, None, Writer::SignIn, Conflict, false),
        (None, nobody, Some(one), Writer::SignIn, Conflict, false),
        (None, nobody, None, Writer::SignIn, Done, true),
        (Some(two), theirs, Some(one), Writer::Lease(LEASE), Done, false), // a repeated commit
    ] {
        let known = Known { stored, holder, floor: LOWEST_FLOOR };
        let (said, stores) = commit(&known, expected, &two, writer);
        assert_eq!((said, stores.is_some()), (answer, is_stored), "{stored:?} {holder:?} {writer:?}");
    }
}

#[test]
fn a_connection_is_not_created_below_its_floor() {
    let known = |stored, number| Known { stored, holder: None, floor: Floor { number, cut: 0 } };
    let new = revision(5, 5);
    for (stored, floor, answer) in [
        (None, 5, Committed::Done),
        (None, 6, Committed::Conflict),
        // A floor is about names with no connection.
        (Some(revision(5, 4)), 6, Committed::Done),
    ] {
        assert_eq!(commit(&known(stored, floor), stored, &new, Writer::SignIn).0, answer, "{floor}");
    }
}

#[test]
fn a_commit_settles_what_its_lease_began_and_what_was_begun_with_a_grant_that_it_replaces() {
    let stored = revision(1, 1);
    let intent = |nonce| Intent { nonce, about: stored.sign_in, unsettled: false };
    for (writer, holder, began, gives_back, settles) in [
        (Writer::Lease(LEASE), Some(LEASE), LEASE, true, true),
        (Writer::Lease(LEASE), Some(LEASE), OTHER, true, true),
        (Writer::Lease(LEASE), None, OTHER, false, true),
        (Writer::Verdict(LEASE), Some(LEASE), LEASE, true, true),
        (Writer::Verdict(LEASE), Some(LEASE), OTHER, true, false),
        (Writer::SignIn, None, OTHER, false, true),
        // Whoever holds the lease may be about to use the new grant.
        (Writer::SignIn, Some(OTHER), OTHER, false, false),
        (Writer::Operator, None, OTHER, false, false),
        (Writer::Again { replaces_grant: true }, None, OTHER, false, true),
        (Writer::Again { replaces_grant: false }, None, OTHER, false, false),
    ] {
        let known = Known { stored: Some(stored), holder, floor: LOWEST_FLOOR };
        let (_, stores) = commit(&known, Some(stored), &revision(1, 2), writer);
        let stores = stores.expect("stored");
        let seen = (stores.gives_lease_back, stores.settles(&intent(began)));
        assert_eq!(seen, (gives_back, settles), "{writer:?} {holder:?} {began:?}");
    }
}

#[test]
fn a_delete_takes_the_sign_in_that_is_meant_and_leaves_a_floor_above_it() {
    let there = Found::Revision(revision(3, 9));
    let floor = Floor { number: 4, cut: 2 };
    for (found, is_leased, meant, cuts_off, answer, leaves) in [
        (there, false, 3, false, Deleted::Gone, Some((10, 2, true))),
        (there, true, 3, false, Deleted::Gone, Some((10, 2, false))),
        (there, false, 3, true, Deleted::Gone, Some((10, 10, true))),
        (there, false, 2, true, Deleted::Another, None),
        (Found::Nothing, false, 7, true, Deleted::Absent, Some((8, 8, false))),
        (Found::Nothing, false, 1, false, Deleted::Absent, Some((4, 2, false))),
        (Found::Unreadable, false, 1, true, Deleted::Gone, Some((4, 4, true))),
    ] {
        let (said, destroys) = delete(found, is_leased, floor, sign_in(meant), cuts_off);
        let left = destroys.map(|left| (left.floor.number, left.floor.cut, left.settles));
        assert_eq!((said, left), (answer, leaves), "{found:?} {meant}");
    }
}

#[test]
fn a_lease_is_its_holders_until_it_ends() {
    let at = Duration::from_secs;
    let mut leases = Leases::default();
    assert_eq!(leases.take("a", LEASE, at(10), at(0)), Ok(()));
    assert_eq!(leases.take("a", OTHER, at(10), at(4)), Err(at(6)));
    assert_eq!(leases.take("a", LEASE, at(10), at(4)), Ok(()), "taken again");
    assert!(!leases.extend("a", OTHER, at(99), at(5)));
    assert!(leases.extend("a", LEASE, at(3), at(5)));
    assert_eq!((leases.holder(&"a", at(7)), leases.holder(&"a", at(8))), (Some(LEASE), None));
    assert!(!leases.extend("a", LEASE, at(3), at(8)), "it ended");
    assert_eq!(leases.take("a", OTHER, at(10), at(8)), Ok(()));
    leases.release(&"a", LEASE, at(9));
    assert_eq!(leases.held(at(9)).collect::<Vec<_>>(), [&"a"], "only its holder gives it back");
    leases.release(&"a", OTHER, at(9));
    assert_eq!(leases.held(at(9)).count(), 0);
}

#[test]
fn what_was_begun_is_unsettled_for_the_next_holder_and_not_for_the_same_one() {
    let first = Intent::after(None, LEASE, sign_in(1));
    assert!(!first.unsettled);
    assert_eq!(Intent::after(Some(first), LEASE, sign_in(1)), first, "taken again");
    let next = Intent::after(Some(first), OTHER, sign_in(1));
    assert!(next.unsettled);
    assert_eq!(Intent::after(Some(next), OTHER, sign_in(1)), next, "taken again");
    assert!(!Intent::after(Some(next), LEASE, sign_in(2)).unsettled, "that was another sign-in's grant");
    assert!(first.is_settled_by(LEASE) && !first.is_settled_by(OTHER));
    assert!(!next.is_settled_by(OTHER), "only a commit settles what an earlier holder began");
}

#[test]
fn a_swap_that_is_repeated_is_done() {
    let (old, new, other) = (b"old".as_slice(), b"new".as_slice(), b"other".as_slice());
    for (stored, expected, swap) in [
        (Some(old), Some(old), Swap::Write),
        (Some(new), Some(old), Swap::Already),
        (Some(other), Some(old), Swap::Refused),
        (None, Some(old), Swap::Refused),
        (None, None, Swap::Write),
        (Some(old), None, Swap::Refused),
        (Some(new), None, Swap::Already),
    ] {
        assert_eq!(Swap::of(stored, expected, new), swap, "{stored:?} {expected:?}");
    }
}

#[test]
fn a_schedule_keeps_the_latest_use_until_the_connection_leaves_it() {
    let at = Timestamp::from_unix_seconds;
    let new = Scheduled::anew(None, Some(at(9))).expect("scheduled");
    assert_eq!(new.used_at, None);
    let used = new.used(at(5)).expect("noted");
    assert_eq!((used.used(at(5)), used.used(at(4))), (None, None), "nothing new");
    let later = Scheduled::anew(Some(used), Some(at(20)));
    assert_eq!(later, Some(Scheduled { due_at: at(20), used_at: Some(at(5)) }));
    assert_eq!(Scheduled::anew(Some(used), None), None);
}

#[test]
fn an_owner_and_a_group_are_full_with_others_that_have_not_ended() {
    let at = Timestamp::from_unix_seconds;
    let rows = [("ended", at(10)), ("a/1", at(40)), ("a/2", at(30)), ("b/1", at(20))];
    let full = |which, until| Counted::Full { which, until: at(until) };
    for (entry, most, answer) in [
        ("new", Most::of_owner(4), Counted::In),
        ("new", Most::of_owner(3), full(Full::Owner, 20)),
        ("b/1", Most::of_owner(3), Counted::In), // it counts already
        ("a/3", Most::of_owner(9).and_of_group("a/", 2), full(Full::Group, 30)),
        ("a/3", Most::of_owner(9).and_of_group("a/", 3), Counted::In),
        ("a/1", Most::of_owner(9).and_of_group("a/", 1), Counted::In),
        ("a/3", Most::of_owner(3).and_of_group("a/", 1), full(Full::Owner, 20)),
    ] {
        let mut count = Count::new(entry, most, at(10));
        let lasting: Vec<bool> = rows.iter().map(|(other, until)| count.see(other, *until)).collect();
        assert_eq!(lasting, [false, true, true, true]);
        assert_eq!(count.answer(), answer, "{entry} {most:?}");
    }
}
