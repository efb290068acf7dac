//! Lines and desks by themselves: what each rule of the room comes to.

use std::time::Duration;

use super::{
    Desk, Full, LONGEST_CLOSED, Line, MOST_WAITING, MOST_WAITING_OF_CALLER, Mine, SILENT, Ticket, Turn,
};
use crate::domain::time::{Moment, Timestamp};

const MOST: u32 = 4;

fn at(millis: u64) -> Moment {
    let now = Timestamp::from_unix_millis(1_800_000_000_000 + i64::try_from(millis).expect("short"));
    Moment { monotonic: Duration::from_millis(millis), now }
}

fn ticket(number: u64) -> Ticket {
    Ticket { replica: 1, number }
}

fn mine(number: u64, caller: &str, places: u32, is_under_way: bool) -> Mine {
    Mine { turn: Turn { ticket: ticket(number), caller: caller.to_owned(), places }, is_under_way }
}

/// The numbers of the turns that are under way, once these have met an empty record.
fn begun(turns: &[Mine]) -> Vec<u64> {
    let mut line = Line::default();
    line.merge(1, turns, 1, None, (MOST, at(0).now));
    let numbers = turns.iter().map(|mine| mine.turn.ticket.number);
    numbers.filter(|number| line.is_under_way(ticket(*number))).collect()
}

#[test]
fn who_holds_places_itself_holds_up_nobody_else() {
    // A long request of a's, and a's batch of all places behind it: b's request goes on.
    assert_eq!(begun(&[mine(1, "a", 1, true), mine(2, "a", 4, false), mine(3, "b", 1, false)]), [1, 3]);
    // A batch of somebody who holds nothing is not overtaken.
    assert_eq!(begun(&[mine(1, "a", 1, true), mine(2, "c", 4, false), mine(3, "b", 1, false)]), [1]);
    // Nor by another request of its own caller.
    assert_eq!(begun(&[mine(1, "a", 1, true), mine(2, "a", 4, false), mine(3, "a", 1, false)]), [1]);
    assert_eq!(begun(&[mine(2, "c", 4, false), mine(3, "b", 1, false)]), [2]);
}

#[test]
fn a_mailbox_is_left_alone_for_ten_minutes_at_most() {
    let now = at(0).now;
    let closed = |until: Duration| {
        let mut line = Line::default();
        line.merge(1, &[], 0, Some(now.plus(until)), (MOST, now));
        line.closed_until()
    };
    for (asked, kept) in [(1, 1), (599, 599), (600, 600), (601, 600), (86_400, 600)] {
        assert_eq!(
            closed(Duration::from_secs(asked)),
            Some(now.plus(Duration::from_secs(kept))),
            "{asked} seconds"
        );
    }
    // An instant of another clock, which is a day ahead, is cut by whoever reads it.
    let ahead = now.plus(Duration::from_secs(86_400));
    let mut line = Line::default();
    line.merge(1, &[], 0, Some(ahead.plus(Duration::from_secs(300))), (MOST, ahead));
    line.merge(2, &[], 0, None, (MOST, now));
    assert_eq!(line.closed_until(), Some(now.plus(LONGEST_CLOSED)));
}

#[test]
fn so_many_wait_and_no_more() {
    let mut desk = Desk::new(1, 0);
    for _ in 0..MOST_WAITING_OF_CALLER {
        desk.join("a", 1, MOST).expect("there is room");
    }
    assert_eq!(desk.join("a", 1, MOST), Err(Full), "so many of one caller");
    for number in 0..MOST_WAITING - MOST_WAITING_OF_CALLER {
        desk.join(&format!("b{number}"), 1, MOST).expect("there is room");
    }
    assert_eq!(desk.join("c", 1, MOST), Err(Full), "so many of all");
    assert_eq!((MOST_WAITING, MOST_WAITING_OF_CALLER), (256, 64));
    // Those of another replica count, and those that are in the record and here count once.
    let line = desk.proposal(&Line::default(), MOST, at(0));
    let mut other = Desk::new(2, 0);
    other.agreed(line.clone());
    // (Four of them are under way now.)
    for number in 0..4 {
        other.join(&format!("c{number}"), 1, MOST).expect("there is room");
    }
    assert_eq!(other.join("d", 1, MOST), Err(Full));
    desk.agreed(line);
    for number in 0..4 {
        desk.join(&format!("d{number}"), 1, MOST).expect("there is room");
    }
    assert_eq!(desk.join("e", 1, MOST), Err(Full));
}

/// So many requests of one place.
fn joins(desk: &mut Desk, caller: &str, many: usize, most: u32) {
    for _ in 0..many {
        desk.join(caller, 1, most).expect("there is room");
    }
}

#[test]
fn a_replica_that_is_cut_off_has_its_part_of_the_places() {
    for (most, replicas, part) in [(4, 1, 4), (4, 2, 2), (4, 3, 1), (4, 9, 1), (1, 3, 1), (9, 2, 4)] {
        let mut desk = Desk::new(1, 0);
        joins(&mut desk, "a", 9, most);
        assert_eq!(desk.cut_off(most, replicas, at(0)).len(), part, "{most} places, {replicas} replicas");
        assert!(desk.cut_off(most, replicas, at(250)).is_empty(), "it does not grow");
    }
    // Whom the record had counts, too; the places that the others have there do not.
    let mut line = Line::default();
    for replica in [2, 3] {
        let mut other = Desk::new(replica, 0);
        joins(&mut other, "b", 2, MOST);
        line = other.proposal(&line, MOST, at(0));
    }
    let mut desk = Desk::new(1, 0);
    joins(&mut desk, "a", 3, MOST);
    line = desk.proposal(&line, MOST, at(0));
    assert_eq!(desk.agreed(line).len(), 0, "all are taken");
    assert_eq!(desk.cut_off(MOST, 1, at(250)).len(), 1, "a third of four");
}

#[test]
fn a_replica_that_comes_back_at_once_does_not_look_dead() {
    let (mut record, mut observer) = (Line::default(), Desk::new(2, 0));
    let mut desk = Desk::new(1, 0);
    desk.join("a", 1, MOST).expect("there is room");
    record = desk.proposal(&record, MOST, at(10));
    observer.proposal(&record, MOST, at(20));
    // Its turn ends, and it opens the mailbox anew before anybody looks.
    let mut desk = Desk::new(1, 1 << 32);
    let ticket = desk.join("a", 1, MOST).expect("there is room");
    record = desk.proposal(&record, MOST, at(3_000));
    let later = at(20 + u64::try_from(SILENT.as_millis()).expect("short"));
    let read = observer.proposal(&record, MOST, later);
    assert!(read.is_under_way(ticket), "{read:?}");
    // What it had before is over, and no number comes twice: an old record that comes back starts nothing.
    assert_eq!((read.taken(), ticket.number), (1, (1 << 32) + 1));
}

#[test]
fn whose_turn_waits_beside_is_known() {
    let mut desk = Desk::new(1, 0);
    desk.join("a", 1, 1).expect("there is room");
    let begun = desk.alone(1, at(0));
    assert_eq!((begun.len(), desk.waits_beside("a")), (1, false));
    desk.join("a", 1, 1).expect("there is room");
    assert!(!desk.waits_beside("a"), "its own waits");
    desk.join("b", 1, 1).expect("there is room");
    assert!(desk.waits_beside("a"));
    // Another replica knows it by the record.
    let record = desk.proposal(&Line::default(), 1, at(0));
    let mut other = Desk::new(2, 0);
    other.agreed(record);
    assert!(other.waits_beside("a") && other.waits_beside("b") && other.waits_beside("c"));
}
