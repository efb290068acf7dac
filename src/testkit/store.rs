//! A store in memory that several processes share, as Redis is shared: a primary, a copy that follows it at a
//! distance, and networks in between that lose, delay and repeat.

mod client;
mod data;
mod port;
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

pub(crate) use self::client::SimStore;
use self::data::{Data, LeaseKey, Op, Reply, wrong};
use super::faults::{Dice, Link, Mutant, StoreWeather};
use super::tasks::{Pid, WORLD};
use crate::domain::id::ConnectionKey;
use crate::domain::task::Tasks;
use crate::domain::time::Clock;
use crate::store::{Change, Committed, LeaseNonce, Revision, StoredConnection, Writer};

/// How far behind stale reads are.
const STALE: Duration = Duration::from_secs(5);

/// Told of what the store really does: the checker listens.
pub(crate) trait Watch: Send + Sync {
    /// A commit took effect.
    fn committed(&self, commit: &Effect<'_>);
    /// A failover is over, and these changes were lost with it.
    fn lost(&self, keys: &[ConnectionKey]);
    /// A process read a connection, and got an answer or none.
    fn checked(&self, pid: Pid, key: &ConnectionKey, answered: bool);
    /// Something went wrong between this replica and the store.
    fn trouble(&self, replica: usize, what: &str);
    /// The store answers this replica, and refuses a commit.
    fn refused(&self, replica: usize);
    /// A process's delete took effect, and this was there.
    fn destroyed(&self, pid: Pid, key: &ConnectionKey, was: Revision);
}

/// A commit that took effect, beside what there was.
pub(crate) struct Effect<'a> {
    pub(crate) key: &'a ConnectionKey,
    pub(crate) before: Option<Revision>,
    pub(crate) expected: Option<Revision>,
    pub(crate) after: Revision,
    pub(crate) writer: Writer,
    /// The lease that lived then.
    pub(crate) holder: Option<LeaseNonce>,
}

/// The server with its copy. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SimServer {
    inner: Arc<Server>,
}

struct Server {
    clock: Arc<dyn Clock>,
    /// Those of the network and the server: they go on when a client does not.
    tasks: Arc<dyn Tasks>,
    dice: Dice,
    watch: Option<Arc<dyn Watch>>,
    mutant: Mutant,
    /// Acknowledge what changes something only when the copy has it.
    wait: bool,
    state: Mutex<State>,
}

struct State {
    primary: Data,
    copy: Data,
    /// What the copy does not have yet: when it gets it, when it was done, and what.
    log: VecDeque<(Duration, Duration, Op)>,
    weather: StoreWeather,
    links: Vec<Link>,
    down: bool,
    /// It is out of memory, or read-only: leases and reads work, commits do not.
    refuses_commits: bool,
    /// How many primaries there were before this one.
    lost_primaries: u32,
    listeners: BTreeMap<Pid, Listener>,
    /// What was there at some instants, for stale reads.
    history: VecDeque<(Duration, BTreeMap<ConnectionKey, StoredConnection>)>,
    faults: u64,
    calls: u64,
}

struct Listener {
    replica: usize,
    told: VecDeque<Change>,
    word: Arc<Notify>,
}

impl State {
    /// What the copy has got by now.
    fn catch_up(&mut self, now: Duration) {
        while self.log.front().is_some_and(|(arrives_at, ..)| *arrives_at <= now) {
            if let Some((_, done_at, op)) = self.log.pop_front() {
                self.copy.apply(&op, done_at, Mutant::None);
            }
        }
    }
}

impl SimServer {
    /// An empty store for so many replicas.
    pub(crate) fn new(
        clock: Arc<dyn Clock>,
        tasks: Arc<dyn Tasks>,
        dice: Dice,
        replicas: usize,
        wait: bool,
        mutant: Mutant,
        watch: Option<Arc<dyn Watch>>,
    ) -> Self {
        let state = State {
            primary: Data::default(),
            copy: Data::default(),
            log: VecDeque::new(),
            weather: StoreWeather::default(),
            links: vec![Link::Up; replicas],
            down: false,
            refuses_commits: false,
            lost_primaries: 0,
            listeners: BTreeMap::new(),
            history: VecDeque::new(),
            faults: 0,
            calls: 0,
        };
        let server = Server { clock, tasks, dice, watch, mutant, wait, state: Mutex::new(state) };
        SimServer { inner: Arc::new(server) }
    }

    /// The store as one process of a replica sees it.
    pub(crate) fn client(&self, replica: usize, pid: Pid) -> SimStore {
        SimStore { server: self.clone(), replica, pid }
    }

    /// The store itself, without faults, for checks.
    pub(crate) fn insight(&self) -> SimStore {
        self.client(0, WORLD)
    }

    pub(crate) fn set_weather(&self, weather: StoreWeather) {
        self.state().weather = weather;
    }

    pub(crate) fn refuse_commits(&self, refuses: bool) {
        self.state().refuses_commits = refuses;
    }

    pub(crate) fn set_link(&self, replica: usize, link: Link) {
        let mut state = self.state();
        state.links[replica] = link;
        // A broken subscription is made anew.
        for listener in state.listeners.values_mut().filter(|listener| listener.replica == replica) {
            listener.told.clear();
            listener.told.push_back(Change::Missed);
            listener.word.notify_one();
        }
        drop(state);
        self.trouble(replica, "the link changes");
    }

    /// The primary is lost, and nobody answers until [`SimServer::promote`].
    pub(crate) fn lose_primary(&self) {
        self.state().down = true;
        self.trouble_for_all();
    }

    /// The copy becomes the primary, as far as it got.
    pub(crate) fn promote(&self) {
        let now = self.inner.clock.monotonic();
        let lost: Vec<ConnectionKey> = {
            let mut state = self.state();
            state.catch_up(now);
            state.primary = state.copy.clone();
            state.down = false;
            state.lost_primaries += 1;
            let log = std::mem::take(&mut state.log);
            log.iter().filter_map(|(_, _, op)| op.key().cloned()).collect()
        };
        self.after_a_loss(&lost);
    }

    /// Whether nobody answers.
    pub(crate) fn is_down(&self) -> bool {
        self.state().down
    }

    /// Everything is lost.
    pub(crate) fn empty(&self) {
        let lost: Vec<ConnectionKey> = {
            let mut state = self.state();
            let lost = state.primary.connections.keys().cloned().collect();
            (state.primary, state.copy) = (Data::default(), Data::default());
            state.log.clear();
            lost
        };
        self.after_a_loss(&lost);
    }

    /// The process is gone, and hears no more.
    pub(crate) fn hang_up(&self, pid: Pid) {
        self.state().listeners.remove(&pid);
    }

    /// The connections whose lease somebody holds.
    pub(crate) fn leases(&self) -> Vec<ConnectionKey> {
        let now = self.inner.clock.monotonic();
        let state = self.state();
        let of_connections = state.primary.leases.held(now).filter_map(|of| match of {
            LeaseKey::Connection(key) => Some(key.clone()),
            LeaseKey::Sweep(_) | LeaseKey::Rewrap | LeaseKey::Notices => None,
        });
        of_connections.collect()
    }

    /// Calls that were made, and those that something was done to.
    pub(crate) fn counted(&self) -> (u64, u64) {
        let state = self.state();
        (state.calls, state.faults)
    }

    fn after_a_loss(&self, lost: &[ConnectionKey]) {
        for listener in self.state().listeners.values_mut() {
            listener.told.push_back(Change::Missed);
            listener.word.notify_one();
        }
        if let Some(watch) = &self.inner.watch {
            watch.lost(lost);
        }
        self.trouble_for_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock()
    }

    fn trouble(&self, replica: usize, what: &str) {
        if let Some(watch) = &self.inner.watch {
            watch.trouble(replica, what);
        }
    }

    fn trouble_for_all(&self) {
        for replica in 0..self.state().links.len() {
            self.trouble(replica, "the store changes");
        }
    }

    /// Does it, here and now. The time at which the copy has it comes along.
    fn execute(&self, op: &Op, from: Pid) -> (Reply, Duration) {
        let now = self.inner.clock.monotonic();
        let mutant = self.inner.mutant;
        let mut state = self.state();
        if mutant == Mutant::StaleReads {
            if let Op::Load(key) = op
                && from != WORLD
            {
                let then = state.history.iter().rev().find(|(at, _)| *at + STALE <= now);
                return (Reply::Connection(then.and_then(|(_, then)| then.get(key).cloned())), now);
            }
            if let Op::Commit { .. } | Op::Delete(..) = op {
                let connections = state.primary.connections.clone();
                state.history.push_back((now, connections));
            }
        }
        let before = match op {
            Op::Commit { key, .. } => {
                let holder = state.primary.leases.holder(&LeaseKey::Connection(key.clone()), now);
                Some((state.primary.stored(key), holder))
            }
            _ => None,
        };
        let there = match op {
            Op::Delete(key, ..) => state.primary.stored(key).map(|stored| (key, stored)),
            _ => None,
        };
        let reply = wrong(mutant, op, state.primary.apply(op, now, mutant));
        let destroyed = there.filter(|(key, _)| !state.primary.connections.contains_key(*key));
        if mutant == Mutant::StaleReads && op.writes() {
            let connections = state.primary.connections.clone();
            state.history.push_back((now, connections));
        }
        let mut arrives_at = now;
        if op.writes() {
            let most = u64::try_from(state.weather.lag.as_millis()).unwrap_or(0) + 3;
            arrives_at = now + self.inner.dice.millis(1, most);
            arrives_at = arrives_at.max(state.log.back().map_or(Duration::ZERO, |(last, ..)| *last));
            state.log.push_back((arrives_at, now, op.clone()));
            state.catch_up(now);
        }
        let told = match (op, &reply) {
            (Op::Commit { key, .. }, Reply::Committed(Committed::Done))
            | (Op::Delete(key, ..), Reply::Deleted(_)) => Some(key),
            (Op::Release { of: LeaseKey::Connection(key), .. }, _) => Some(key),
            _ => None,
        };
        let listeners: Vec<Pid> = match told {
            Some(_) => state.listeners.keys().filter(|pid| **pid != from).copied().collect(),
            None => Vec::new(),
        };
        let untold = state.weather.untold;
        drop(state);
        if let (Some(watch), Some((stored, holder)), Op::Commit { key, expected, connection, writer }) =
            (&self.inner.watch, before, op)
            && matches!(reply, Reply::Committed(Committed::Done))
            && stored != Some(connection.revision)
        {
            watch.committed(&Effect {
                key,
                before: stored,
                expected: *expected,
                after: connection.revision,
                writer: *writer,
                holder,
            });
        }
        if let (Some(watch), Some((key, was))) = (&self.inner.watch, destroyed) {
            watch.destroyed(from, key, was);
        }
        if let Some(key) = told {
            for listener in listeners {
                if !self.inner.dice.of_thousand(untold) {
                    self.tell(listener, key.clone(), untold > 0);
                }
            }
        }
        (reply, arrives_at)
    }

    /// Tells a process of a change, later, and in bad weather much later, so that others overtake it.
    fn tell(&self, listener: Pid, key: ConnectionKey, slowly: bool) {
        let (server, longest) = (self.clone(), if slowly { 1500 } else { 5 });
        let delay = self.inner.dice.millis(0, longest);
        let telling = async move {
            server.inner.clock.sleep(delay).await;
            let mut state = server.state();
            let links = state.links.clone();
            if let Some(listener) = state.listeners.get_mut(&listener)
                && links[listener.replica] == Link::Up
            {
                listener.told.push_back(Change::Connection(key));
                listener.word.notify_one();
            }
        };
        self.inner.tasks.spawn("tell a change", Box::pin(telling));
    }
}
