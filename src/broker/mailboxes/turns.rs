//! Turns that were given: what a request does with them, and how they end.

use std::sync::Arc;
use std::time::Duration;

use super::{Busy, Counter, MailboxName, Mailboxes, Ports};
use crate::domain::id::CallerName;
use crate::domain::random::random_bytes;
use crate::mailbox::{LONGEST_CLOSED, Ticket};

/// How long the places of a request are kept that was given up: the resource may still be at work on it.
pub(super) const GRACE: Duration = Duration::from_secs(2);
/// How long a batch keeps the turns that it has while it waits for another one, at least and at most. (Two
/// batches that wait for each other do not give up in step.)
pub(super) const KEPT_MS: (u64, u64) = (500, 1_000);

/// A turn. It ends when it is dropped: at once, or a little later if its request was sent and is given up.
pub struct Turn {
    pub(super) counter: Arc<Counter>,
    pub(super) ticket: Ticket,
    pub(super) caller: CallerName,
    pub(super) ports: Arc<Ports>,
    /// The resource may be at work on the request.
    pub(super) is_sent: bool,
}

impl Turn {
    /// The mailbox said that it takes nothing for so long.
    pub fn closes_for(&self, wait: Duration) {
        let until = self.ports.clock.now().plus(wait.min(LONGEST_CLOSED));
        let mut state = self.counter.state.lock();
        state.desk.close(until);
        state.is_news = true;
        drop(state);
        self.counter.changes(&self.ports);
        self.counter.closed.notify_waiters();
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (counter, ports, ticket) = (Arc::clone(&self.counter), Arc::clone(&self.ports), self.ticket);
        if !self.is_sent {
            return counter.ends(ticket, &ports);
        }
        let grace = ports.clock.sleep(GRACE);
        let ends = {
            let ports = Arc::clone(&ports);
            async move {
                grace.await;
                counter.ends(ticket, &ports);
            }
        };
        ports.tasks.spawn("the places of a request that was given up", Box::pin(ends));
    }
}

/// The turns of a request: none, one, or those of a batch at several mailboxes.
#[derive(Default)]
pub struct Turns {
    turns: Vec<Turn>,
    /// For each request of a batch, in their order, which turn it has.
    of: Vec<Option<usize>>,
}

impl Turns {
    /// Returns true if it has one.
    pub fn is_any(&self) -> bool {
        !self.turns.is_empty()
    }

    /// The request is about to be sent. If it is given up from now on, its places are kept for a short
    /// while.
    pub fn sent(&mut self) {
        self.turns.iter_mut().for_each(|turn| turn.is_sent = true);
    }

    /// The resource has done its part, or has never had it: the turns end at once.
    pub fn over(&mut self) {
        self.turns.iter_mut().for_each(|turn| turn.is_sent = false);
        self.turns.clear();
    }

    /// The mailboxes said that they take nothing for so long.
    pub fn close_for(&self, wait: Duration) {
        self.turns.iter().for_each(|turn| turn.closes_for(wait));
    }

    /// The mailbox of one request of a batch said so.
    pub fn close_one_for(&self, at: usize, wait: Duration) {
        let turn = self.of.get(at).copied().flatten().and_then(|turn| self.turns.get(turn));
        if let Some(turn) = turn {
            turn.closes_for(wait);
        }
    }

    /// Returns what tells whether other callers wait for these turns' places.
    pub fn wanted(&self) -> Wanted {
        Wanted::of(&self.turns)
    }
}

/// Whether other callers wait for the places of a request.
pub struct Wanted(Vec<(Arc<Counter>, CallerName)>);

impl Wanted {
    pub(super) fn of<'a>(turns: impl IntoIterator<Item = &'a Turn>) -> Self {
        let counters = turns.into_iter().map(|turn| (Arc::clone(&turn.counter), turn.caller.clone()));
        Wanted(counters.collect())
    }

    /// Returns true if one does, as far as this replica knows.
    pub fn is_so(&self) -> bool {
        self.0.iter().any(|(counter, caller)| counter.state.lock().desk.waits_beside(caller.as_str()))
    }
}

impl Mailboxes {
    /// Waits for a turn at each of these mailboxes, of which each takes `most` at a time: of so many places,
    /// and in the order in which the requests of a batch have them.
    ///
    /// While it waits for one with another one in hand, it keeps that for a moment only. So nobody waits long
    /// for places that nobody uses.
    ///
    /// # Errors
    /// They do not come within `patience`, or too many wait already.
    pub async fn turns(
        &self,
        requests: &[Option<MailboxName>],
        caller: &CallerName,
        most: u32,
        patience: Duration,
    ) -> Result<Turns, Busy> {
        let mut names: Vec<&MailboxName> = requests.iter().flatten().collect();
        names.sort_unstable_by(|one, other| one.mailbox.cmp(&other.mailbox));
        names.dedup();
        let places = |name: &MailboxName| {
            let many = requests.iter().flatten().filter(|one| *one == name).count();
            u32::try_from(many).unwrap_or(u32::MAX).min(most)
        };
        let begun = self.ports.clock.monotonic();
        // The mailbox that is waited for comes first: what has to be waited for is not held by who waits.
        let mut first = 0;
        let turns = 'all: loop {
            let mut turns: Vec<Turn> = Vec::with_capacity(names.len());
            for step in 0..names.len() {
                let at = (first + step) % names.len();
                let left = (begun + patience).saturating_sub(self.ports.clock.monotonic());
                let wait = if turns.is_empty() { left } else { left.min(self.moment()) };
                match self.turn(names[at], caller, (places(names[at]), most), wait).await {
                    Ok(turn) => turns.push(turn),
                    Err(busy) if turns.is_empty() || wait == left => return Err(busy),
                    Err(_) => {
                        first = at;
                        continue 'all;
                    }
                }
            }
            turns.rotate_right(first);
            break turns;
        };
        let of = requests.iter().map(|one| names.iter().position(|name| Some(*name) == one.as_ref()));
        Ok(Turns { of: of.collect(), turns })
    }

    /// How long turns are kept while another one is waited for.
    fn moment(&self) -> Duration {
        let [spread] = random_bytes::<1>(self.ports.random.as_ref());
        let (least, most) = KEPT_MS;
        Duration::from_millis(least + u64::from(spread) * (most - least) / 255)
    }
}
