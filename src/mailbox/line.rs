//! The line at one mailbox: turns that are under way, turns that wait, and what each caller has had.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::time::Timestamp;

/// Most callers whose shares are remembered while they do not wait.
const MOST_SHARES: usize = 256;

/// Longest time that a mailbox is left alone: a longer `Retry-After` is taken for a mistake, and a later
/// instant for another clock's.
pub const LONGEST_CLOSED: Duration = Duration::from_secs(600);

/// The random name of a replica, new at each start.
pub type ReplicaId = u64;

/// What tells a turn from all others: its replica, and that one's own number for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ticket {
    /// The replica that has the request.
    pub replica: ReplicaId,
    /// The replica's number for it. A later turn has a greater one.
    pub number: u64,
}

/// A request that waits or is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// Which request it is.
    pub ticket: Ticket,
    /// Who asked.
    pub caller: String,
    /// How many places it takes: more than one for a batch.
    pub places: u32,
}

/// A turn of the replica that merges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mine {
    /// The turn.
    pub turn: Turn,
    /// True if it is under way already.
    pub is_under_way: bool,
}

/// The record of one mailbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Turns under way.
    #[serde(default)]
    under_way: Vec<Turn>,
    /// Turns that wait, the oldest first.
    #[serde(default)]
    waiting: Vec<Turn>,
    /// What each caller has had, in places. Whoever is not in it has had `floor`.
    #[serde(default)]
    shares: BTreeMap<String, u64>,
    /// What the caller whose turn began last had had before: nobody counts as having had less. So who comes
    /// late, or comes again, has no credit for the time before.
    #[serde(default)]
    floor: u64,
    /// The mailbox takes nothing before this.
    #[serde(default)]
    closed_until: Option<Timestamp>,
    /// The counts of the replicas that have turns here.
    #[serde(default)]
    beats: BTreeMap<ReplicaId, u64>,
}

impl Line {
    /// Brings in what one replica knows for certain: its own turns (`mine`: all of them, in the order in
    /// which they came), its count, and until when it was told to leave the mailbox alone. Whatever the
    /// record has of this replica beyond that is over. Then begins the turns that are next, of whichever
    /// replica they are.
    pub fn merge(
        &mut self,
        replica: ReplicaId,
        mine: &[Mine],
        beat: u64,
        closed_until: Option<Timestamp>,
        (most, now): (u32, Timestamp),
    ) {
        let is_over = |turn: &Turn| {
            turn.ticket.replica == replica && !mine.iter().any(|one| one.turn.ticket == turn.ticket)
        };
        self.under_way.retain(|turn| !is_over(turn));
        self.waiting.retain(|turn| !is_over(turn));
        for Mine { turn, is_under_way } in mine {
            let has = |turns: &[Turn]| turns.iter().any(|one| one.ticket == turn.ticket);
            if has(&self.under_way) {
                continue;
            }
            match (is_under_way, has(&self.waiting)) {
                // (The record was lost, or this replica was taken for dead.)
                (true, is_waiting) => {
                    if is_waiting {
                        self.waiting.retain(|one| one.ticket != turn.ticket);
                    }
                    self.under_way.push(turn.clone());
                }
                (false, false) => self.waiting.push(turn.clone()),
                (false, true) => {}
            }
        }
        match mine.is_empty() {
            true => self.beats.remove(&replica),
            false => self.beats.insert(replica, beat),
        };
        let latest = now.plus(LONGEST_CLOSED);
        let closed_until = self.closed_until.max(closed_until).filter(|until| *until > now);
        self.closed_until = closed_until.map(|until| until.min(latest));
        self.begin_next(most, now);
    }

    /// Ends all turns of a replica that is dead.
    pub fn forget(&mut self, replica: ReplicaId) {
        self.under_way.retain(|turn| turn.ticket.replica != replica);
        self.waiting.retain(|turn| turn.ticket.replica != replica);
        self.beats.remove(&replica);
    }

    /// Begins each turn that is next, as long as there is room.
    fn begin_next(&mut self, most: u32, now: Timestamp) {
        while self.closed_until.is_none_or(|until| until <= now) {
            let Some(at) = self.next(most) else { break };
            let turn = self.waiting.remove(at);
            self.floor = self.share(&turn.caller);
            self.shares.insert(turn.caller.clone(), self.floor.saturating_add(u64::from(turn.places.max(1))));
            self.under_way.push(turn);
        }
        self.shares.retain(|_, share| *share > self.floor);
        while self.shares.len() > MOST_SHARES {
            // (Whoever has had the least loses the least by being forgotten.)
            let Some(least) = self.shares.iter().min_by_key(|(_, share)| **share) else { break };
            let least = least.0.clone();
            self.shares.remove(&least);
        }
    }

    /// The place in `waiting` of the turn that begins next; `None` if it has to wait.
    fn next(&self, most: u32) -> Option<usize> {
        let mut order: Vec<usize> = (0..self.waiting.len()).collect();
        order.sort_by_key(|at| (self.share(&self.waiting[*at].caller), *at));
        let (taken, mut passed) = (self.taken(), Vec::new());
        for at in order {
            let turn = &self.waiting[at];
            if passed.contains(&turn.caller.as_str()) {
                continue;
            }
            if taken == 0 || taken.saturating_add(turn.places.max(1)) <= most {
                return Some(at);
            }
            // What has no room waits, and all others wait with it, so that it has room some time. But a
            // caller that holds places itself is passed by.
            if !self.under_way.iter().any(|one| one.caller == turn.caller) {
                return None;
            }
            passed.push(turn.caller.as_str());
        }
        None
    }

    /// What a caller has had.
    fn share(&self, caller: &str) -> u64 {
        self.shares.get(caller).copied().unwrap_or(0).max(self.floor)
    }

    /// How many places are taken.
    pub fn taken(&self) -> u32 {
        self.under_way.iter().fold(0, |sum, turn| sum.saturating_add(turn.places.max(1)))
    }

    /// Returns true if a turn waits.
    pub fn waits(&self, ticket: Ticket) -> bool {
        self.waiting.iter().any(|turn| turn.ticket == ticket)
    }

    /// How many turns wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many turns of a caller wait.
    pub fn waiting_of(&self, caller: &str) -> usize {
        self.waiting.iter().filter(|turn| turn.caller == caller).count()
    }

    /// Returns true if a turn of another caller waits.
    pub fn waits_beside(&self, caller: &str) -> bool {
        self.waiting.iter().any(|turn| turn.caller != caller)
    }

    /// Returns true if a turn is under way.
    pub fn is_under_way(&self, ticket: Ticket) -> bool {
        self.under_way.iter().any(|turn| turn.ticket == ticket)
    }

    /// Until when the mailbox takes nothing.
    pub fn closed_until(&self) -> Option<Timestamp> {
        self.closed_until
    }

    /// The counts of the replicas that have turns here.
    pub fn beats(&self) -> impl Iterator<Item = (ReplicaId, u64)> + '_ {
        self.beats.iter().map(|(replica, beat)| (*replica, *beat))
    }

    /// How many replicas have turns here.
    pub fn replicas(&self) -> usize {
        self.beats.len()
    }

    /// Returns it without what other replicas have: for a replica that cannot reach the record.
    pub(super) fn of_one(mut self, replica: ReplicaId) -> Self {
        self.under_way.retain(|turn| turn.ticket.replica == replica);
        self.waiting.retain(|turn| turn.ticket.replica == replica);
        self
    }

    /// Returns true if there is nothing in it that anybody must know: it need not be stored.
    pub fn is_empty(&self) -> bool {
        self.under_way.is_empty() && self.waiting.is_empty() && self.closed_until.is_none()
    }
}
