//! Mailboxes: a request that is relayed waits here for its turn ([`crate::mailbox`]).
//!
//! Where one process has the store for itself, its memory is the record. Otherwise one task for each mailbox
//! with turns of this replica meets the record in the store: it reads it, merges what this replica knows, and
//! replaces it. While the store cannot be reached, this replica goes on with its own part of the places.

#[cfg(test)]
mod tests;
mod turns;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

pub use self::turns::{Turn, Turns, Wanted};
use crate::domain::id::{AppName, CallerName};
use crate::domain::random::{Random, random_bytes};
use crate::domain::task::Tasks;
use crate::domain::time::{Clock, Timestamp};
use crate::mailbox::{BEAT, Desk, Line, ReplicaId, Ticket};
use crate::repository::{FiledUnder, Kind, PendingError, Repository, SecretHash, Taken};

/// How often the record is read while a turn of this replica waits.
const LOOK: Duration = Duration::from_millis(15);
/// How much longer it may be, so that replicas do not keep meeting.
const SPREAD_MS: u64 = 15;
/// How long after a failure of the store it is asked again.
const RETRY: Duration = Duration::from_millis(250);
/// Tries to replace a record that others replace too.
const TRIES: usize = 8;
/// How long a record is kept that nobody changes. (It has what callers have had, which nobody misses later.)
const KEPT: Duration = Duration::from_secs(60);
/// When a caller that found too many waiting may come back.
const WHEN_FULL: Duration = Duration::from_secs(1);
/// How many mailboxes without turns are kept in memory before they are looked through.
const MOST_IDLE: usize = 1024;

/// A mailbox of an app.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MailboxName {
    /// The app, whose requests are counted together.
    pub app: AppName,
    /// The mailbox, in one spelling ([`crate::relay::mailbox`]).
    pub mailbox: String,
}

/// There is no turn for a request now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy {
    /// When to ask again.
    pub retry_after: Duration,
}

/// What mailboxes need.
struct Ports {
    repository: Arc<Repository>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    tasks: Arc<dyn Tasks>,
    /// Drawn when it is first needed.
    replica: OnceLock<ReplicaId>,
    /// How many desks were opened. Each has numbers of its own.
    desks: AtomicU64,
    /// The most replicas that were seen at one mailbox.
    replicas: AtomicU32,
}

impl Ports {
    fn replica(&self) -> ReplicaId {
        *self.replica.get_or_init(|| u64::from_le_bytes(random_bytes(self.random.as_ref())))
    }

    fn desk(&self) -> Desk {
        Desk::new(self.replica(), self.desks.fetch_add(1, Ordering::Relaxed) << 32)
    }
}

/// The mailboxes at which this replica has turns.
pub struct Mailboxes {
    ports: Arc<Ports>,
    counters: Arc<Mutex<HashMap<MailboxName, Arc<Counter>>>>,
}

/// One mailbox, and who waits for it here.
struct Counter {
    name: MailboxName,
    /// How many places there are now.
    most: AtomicU32,
    state: Mutex<State>,
    /// Something has changed that the record must know.
    changed: Notify,
    /// The mailbox says when to come back.
    closed: Notify,
}

struct State {
    desk: Desk,
    waiting: HashMap<Ticket, oneshot::Sender<()>>,
    /// Something has changed that the record was not told yet.
    is_news: bool,
    /// A task meets the record.
    is_driven: bool,
    /// It was taken out of the map, and takes nothing any more.
    is_closed: bool,
}

impl Mailboxes {
    /// Opens all mailboxes, with nobody at any.
    pub fn new(
        repository: Arc<Repository>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        tasks: Arc<dyn Tasks>,
    ) -> Self {
        let ports = Arc::new(Ports {
            repository,
            clock,
            random,
            tasks,
            replica: OnceLock::new(),
            desks: AtomicU64::new(0),
            replicas: AtomicU32::new(1),
        });
        Mailboxes { ports, counters: Arc::default() }
    }

    /// Waits for a turn of so many places at a mailbox that takes `most` at a time.
    ///
    /// # Errors
    /// It does not come within `patience`, or too many wait already.
    pub async fn turn(
        &self,
        name: &MailboxName,
        caller: &CallerName,
        (places, most): (u32, u32),
        patience: Duration,
    ) -> Result<Turn, Busy> {
        let (turn, mut begins) = self.join(name, caller, places, most)?;
        let begun = self.ports.clock.monotonic();
        loop {
            let mut closes = pin!(turn.counter.closed.notified());
            closes.as_mut().enable();
            let now = self.ports.clock.moment();
            let left = (begun + patience).saturating_sub(now.monotonic);
            // Who cannot be served in time is told at once when to come back.
            let closed =
                turn.counter.state.lock().desk.closed_until().map_or(Duration::ZERO, |at| at.since(now.now));
            if begins.try_recv().is_ok() {
                break;
            }
            if left.is_zero() || closed > left {
                return Err(Busy { retry_after: closed.max(WHEN_FULL) });
            }
            let wake = if closed.is_zero() { left } else { closed.min(left) };
            tokio::select! {
                biased;
                _ = &mut begins => break,
                () = closes => {}
                () = self.ports.clock.sleep(wake) => turn.counter.changes(&self.ports),
            }
        }
        Ok(turn)
    }

    fn join(
        &self,
        name: &MailboxName,
        caller: &CallerName,
        places: u32,
        most: u32,
    ) -> Result<(Turn, oneshot::Receiver<()>), Busy> {
        loop {
            let counter = self.counter(name, most);
            let (begins, begun) = oneshot::channel();
            let mut state = counter.state.lock();
            if state.is_closed {
                continue;
            }
            let ticket = state.desk.join(caller.as_str(), places, most);
            let ticket = ticket.map_err(|_| Busy { retry_after: WHEN_FULL })?;
            state.waiting.insert(ticket, begins);
            let must_drive = self.is_shared() && !std::mem::replace(&mut state.is_driven, true);
            drop(state);
            if must_drive {
                self.drive(Arc::clone(&counter));
            }
            counter.changes(&self.ports);
            let (caller, ports) = (caller.clone(), Arc::clone(&self.ports));
            return Ok((Turn { counter, ticket, caller, ports, is_sent: false }, begun));
        }
    }

    fn is_shared(&self) -> bool {
        self.ports.repository.is_shared()
    }

    fn counter(&self, name: &MailboxName, most: u32) -> Arc<Counter> {
        let mut counters = self.counters.lock();
        if counters.len() >= MOST_IDLE && counters.len().is_multiple_of(MOST_IDLE) {
            let now = self.ports.clock.now();
            counters.retain(|_, counter| !counter.closes(now));
        }
        match counters.entry(name.clone()) {
            // (A changed limit counts at once.)
            Entry::Occupied(known) => {
                known.get().most.store(most, Ordering::Relaxed);
                Arc::clone(known.get())
            }
            Entry::Vacant(new) => {
                Arc::clone(new.insert(Arc::new(Counter::new(name, most, self.ports.desk()))))
            }
        }
    }

    /// Meets the record until nobody of this replica is at the mailbox.
    fn drive(&self, counter: Arc<Counter>) {
        let (ports, counters) = (Arc::clone(&self.ports), Arc::clone(&self.counters));
        self.ports.tasks.spawn(
            "a mailbox's turns",
            Box::pin(async move {
                let id = counter.filed_under();
                let mut known = None;
                loop {
                    let met = counter.meet(&ports, &id, &mut known).await;
                    let pause = {
                        let mut counters = counters.lock();
                        let mut state = counter.state.lock();
                        // (While others have turns there, it is watched whether they live. And a replica that
                        // cannot tell that its turns are over is taken for dead.)
                        let is_told = matches!(met, Ok(true)) && !state.is_news && !state.desk.sees_others();
                        if state.desk.is_idle() && (is_told || met.is_err()) {
                            state.is_driven = false;
                            state.is_closed = true;
                            if counters.get(&counter.name).is_some_and(|one| Arc::ptr_eq(one, &counter)) {
                                counters.remove(&counter.name);
                            }
                            return;
                        }
                        let now = ports.clock.monotonic();
                        match met {
                            Err(_) => RETRY,
                            Ok(is_heard) if !is_heard || state.desk.waits() => {
                                let [spread] = random_bytes::<1>(ports.random.as_ref());
                                LOOK + Duration::from_millis(u64::from(spread) % SPREAD_MS)
                            }
                            Ok(_) if state.desk.is_idle() => BEAT,
                            Ok(_) => state.desk.beats_at().saturating_sub(now),
                        }
                    };
                    tokio::select! {
                        () = counter.changed.notified() => {}
                        () = ports.clock.sleep(pause) => {}
                    }
                }
            }),
        );
    }
}

impl Counter {
    fn new(name: &MailboxName, most: u32, desk: Desk) -> Self {
        let state =
            State { desk, waiting: HashMap::new(), is_news: false, is_driven: false, is_closed: false };
        Counter {
            name: name.clone(),
            most: AtomicU32::new(most),
            state: Mutex::new(state),
            changed: Notify::new(),
            closed: Notify::new(),
        }
    }

    /// The name of the record: a hash, since an address is nobody's business who lists the store's keys.
    fn filed_under(&self) -> FiledUnder {
        FiledUnder::hash(&SecretHash::of(&format!("{}\n{}", self.name.app, self.name.mailbox)))
    }

    /// Something has changed here: turns begin that are next.
    fn changes(&self, ports: &Ports) {
        let mut state = self.state.lock();
        if state.is_driven {
            state.is_news = true;
            drop(state);
            self.changed.notify_one();
        } else if !ports.repository.is_shared() {
            let begun = state.desk.alone(self.most(), ports.clock.moment());
            state.begin(begun);
        }
    }

    /// A turn is over, or nobody waits for it any more.
    fn ends(&self, ticket: Ticket, ports: &Ports) {
        let mut state = self.state.lock();
        state.waiting.remove(&ticket);
        state.desk.end(ticket);
        // (In the same step: the record is told before the mailbox is left.)
        state.is_news = true;
        drop(state);
        self.changes(ports);
    }

    /// Takes it out of use if there is nothing in it that must be known. Returns true if it was.
    fn closes(&self, now: Timestamp) -> bool {
        let mut state = self.state.lock();
        let is_over = state.desk.closed_until().is_none_or(|until| until <= now);
        let may = is_over && state.desk.is_idle() && !state.is_driven;
        state.is_closed |= may;
        may
    }

    /// How many places there are now.
    fn most(&self) -> u32 {
        self.most.load(Ordering::Relaxed)
    }

    /// Meets the record in the store: reads it, unless it is known, and replaces it if this replica has
    /// something to say. False if others kept changing it.
    async fn meet(
        &self,
        ports: &Ports,
        id: &FiledUnder,
        known: &mut Option<Taken<Line>>,
    ) -> Result<bool, PendingError> {
        let met = self.try_to_meet(ports, id, known).await;
        if let Err(error) = &met {
            *known = None;
            tracing::debug!(%error, "a mailbox's turns go on with this replica's part of them");
            let now = ports.clock.moment();
            let mut state = self.state.lock();
            let begun = state.desk.cut_off(self.most(), ports.replicas.load(Ordering::Relaxed), now);
            state.begin(begun);
        }
        met
    }

    async fn try_to_meet(
        &self,
        ports: &Ports,
        id: &FiledUnder,
        known: &mut Option<Taken<Line>>,
    ) -> Result<bool, PendingError> {
        let (repository, kind) = (&ports.repository, Kind::Mailbox);
        for attempt in 0..TRIES {
            // What this replica wrote last is mostly still there. If not, the store says so.
            let is_guess = attempt == 0 && known.is_some();
            if !is_guess {
                *known = repository.pending::<Line>(kind, id).await?;
            }
            let read = known.as_ref().map(|known| known.value.clone()).unwrap_or_default();
            let now = ports.clock.moment();
            let wanted = {
                let mut state = self.state.lock();
                if !is_guess {
                    let before = state.desk.closed_until();
                    let begun = state.desk.agreed(read.clone());
                    state.begin(begun);
                    ports.replicas.fetch_max(state.desk.replicas(), Ordering::Relaxed);
                    if state.desk.closed_until() != before {
                        self.closed.notify_waiters();
                    }
                }
                state.is_news = false;
                state.desk.proposal(&read, self.most(), now)
            };
            match (wanted == read, is_guess) {
                // There is nothing to say: what others have said counts.
                (true, true) => continue,
                (true, false) => return Ok(true),
                (false, _) => {}
            }
            let kept = KEPT + wanted.closed_until().map_or(Duration::ZERO, |until| until.since(now.now));
            let replaced =
                repository.replace_pending(kind, id, known.as_ref(), wanted.clone(), now.now, kept);
            if let Some(written) = replaced.await? {
                *known = Some(written);
                let mut state = self.state.lock();
                let begun = state.desk.agreed(wanted);
                state.begin(begun);
                return Ok(true);
            }
        }
        // (Others keep changing it. This replica is heard at the next look.)
        *known = None;
        Ok(false)
    }
}

impl State {
    fn begin(&mut self, begun: Vec<Ticket>) {
        for ticket in begun {
            // (Who is gone has ended its turn.)
            if let Some(waits) = self.waiting.remove(&ticket) {
                let _ = waits.send(());
            }
        }
    }
}
