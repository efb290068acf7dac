//! One replica's turns at one mailbox, and how they meet the record that all replicas share.

use std::time::Duration;

use super::line::{Line, Mine, ReplicaId, Ticket, Turn};
use super::watch::{BEAT, Watch};
use crate::domain::time::{Moment, Timestamp};

/// Most turns that wait at one mailbox.
pub const MOST_WAITING: usize = 256;
/// Most turns of one caller that wait at one mailbox.
pub const MOST_WAITING_OF_CALLER: usize = 64;

/// Too many wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// One replica's turns at one mailbox.
#[derive(Debug)]
pub struct Desk {
    replica: ReplicaId,
    /// The number of the last turn.
    number: u64,
    /// The turns of this replica, in the order in which they came.
    mine: Vec<Mine>,
    closed_until: Option<Timestamp>,
    /// This replica's count, and when (monotonic) it was raised.
    beat: (u64, Option<Duration>),
    watch: Watch,
    /// The record as it was last read or written.
    known: Line,
}

impl Desk {
    /// Opens a desk where this replica has no turns. It numbers its turns from above `number`, which no desk
    /// of this replica may have given before: an old record may come back.
    pub fn new(replica: ReplicaId, number: u64) -> Self {
        Desk {
            replica,
            number,
            mine: Vec::new(),
            closed_until: None,
            beat: (0, None),
            watch: Watch::default(),
            known: Line::default(),
        }
    }

    /// A caller asks for a turn of so many places; at most `most` are of use.
    ///
    /// # Errors
    /// Too many wait already: here, or in the record as it was last read.
    pub fn join(&mut self, caller: &str, places: u32, most: u32) -> Result<Ticket, Full> {
        let waits = |mine: &&Mine| !mine.is_under_way;
        let new = |mine: &&Mine| waits(mine) && !self.known.waits(mine.turn.ticket);
        let here = self.mine.iter().filter(new).count();
        let of_caller = self.mine.iter().filter(new).filter(|mine| mine.turn.caller == caller).count();
        if self.known.waiting() + here >= MOST_WAITING
            || self.known.waiting_of(caller) + of_caller >= MOST_WAITING_OF_CALLER
        {
            return Err(Full);
        }
        self.number += 1;
        let ticket = Ticket { replica: self.replica, number: self.number };
        let turn = Turn { ticket, caller: caller.to_owned(), places: places.clamp(1, most.max(1)) };
        self.mine.push(Mine { turn, is_under_way: false });
        Ok(ticket)
    }

    /// A turn is over, or nobody waits for it any more.
    pub fn end(&mut self, ticket: Ticket) {
        self.mine.retain(|mine| mine.turn.ticket != ticket);
    }

    /// The mailbox is to be left alone until then.
    pub fn close(&mut self, until: Timestamp) {
        self.closed_until = self.closed_until.max(Some(until));
    }

    /// Returns what the record should be in the place of `read`. It is the same if nothing has to be written.
    pub fn proposal(&mut self, read: &Line, most: u32, now: Moment) -> Line {
        let mut line = read.clone();
        for replica in self.watch.look(read, self.replica, now.monotonic) {
            line.forget(replica);
        }
        let is_due = self.beat.1.is_none_or(|at| now.monotonic.saturating_sub(at) >= BEAT);
        if is_due && !self.mine.is_empty() {
            // (Another desk of this replica at this mailbox never has the same count, however soon it opens.)
            let count = u64::try_from(now.monotonic.as_millis()).unwrap_or(u64::MAX);
            self.beat = (count.max(self.beat.0 + 1), Some(now.monotonic));
        }
        line.merge(self.replica, &self.mine, self.beat.0, self.closed_until, (most, now.now));
        line
    }

    /// The record is `line`: this replica read or wrote it so. Returns its turns that have begun by that.
    pub fn agreed(&mut self, line: Line) -> Vec<Ticket> {
        self.known = line;
        self.closed_until = self.closed_until.max(self.known.closed_until());
        let mut begun = Vec::new();
        for mine in self.mine.iter_mut().filter(|mine| !mine.is_under_way) {
            if self.known.is_under_way(mine.turn.ticket) {
                mine.is_under_way = true;
                begun.push(mine.turn.ticket);
            }
        }
        begun
    }

    /// Goes on without a record that others see: in a single process, where there are no others.
    pub fn alone(&mut self, most: u32, now: Moment) -> Vec<Ticket> {
        let mut line = std::mem::take(&mut self.known);
        line.merge(self.replica, &self.mine, 0, self.closed_until, (most, now.now));
        self.agreed(line)
    }

    /// Goes on while the record cannot be reached: with this replica's part of the places, as far as it knew
    /// the others. What others have is not known now.
    /// `replicas` is how many there were at any mailbox.
    pub fn cut_off(&mut self, most: u32, replicas: u32, now: Moment) -> Vec<Ticket> {
        let here = u32::try_from(self.known.replicas()).unwrap_or(u32::MAX);
        let replicas = here.max(replicas).max(1);
        self.known = std::mem::take(&mut self.known).of_one(self.replica);
        self.alone((most / replicas).max(1), now)
    }

    /// Returns true if the record, as it was last known, has turns of other replicas.
    pub fn sees_others(&self) -> bool {
        self.known.beats().any(|(replica, _)| replica != self.replica)
    }

    /// How many replicas have turns in the record, as it was last known.
    pub fn replicas(&self) -> u32 {
        u32::try_from(self.known.replicas()).unwrap_or(u32::MAX)
    }

    /// Until when the mailbox takes nothing.
    pub fn closed_until(&self) -> Option<Timestamp> {
        self.closed_until
    }

    /// Returns true if turns of this replica wait.
    pub fn waits(&self) -> bool {
        self.mine.iter().any(|mine| !mine.is_under_way)
    }

    /// Returns true if a turn of another caller waits, of whichever replica, as far as this one knows.
    pub fn waits_beside(&self, caller: &str) -> bool {
        let here = self.mine.iter().any(|mine| !mine.is_under_way && mine.turn.caller != caller);
        here || self.known.waits_beside(caller)
    }

    /// Returns true if this replica has no turns here.
    pub fn is_idle(&self) -> bool {
        self.mine.is_empty()
    }

    /// Returns when (monotonic) the count is to be raised next.
    pub fn beats_at(&self) -> Duration {
        self.beat.1.map_or(Duration::ZERO, |at| at + BEAT)
    }
}
