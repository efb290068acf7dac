//! A store in memory that several processes share, as Redis is shared: a primary, a copy that follows it at a distance, and
//! networks in between that lose, delay and repeat.

use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, oneshot};

use super::faults::{Dice, Link, Mutant, StoreWeather};
use super::schedule::Schedule;
use super::tasks::{Pid, WORLD};
use crate::domain::connection::SignIn;
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
use crate::domain::task::Tasks;
use crate::domain::time::{Clock, Timestamp};
use crate::store::rules::{self, Begun, Found, Known, Swap};
use crate::store::{
    self, Change, Committed, ConnectionPage, Counted, Deadline, Deleted, Due, Floor, LOWEST_FLOOR,
    LeaseAnswer, LeaseNonce, LeaseOf, Leases, MAX_PAGE, Most, Pending, RecordOf, Records, Reseal, Revision,
    SEALED_HEAD, SealedPage, SealedRecord, Store, StoreError, StoredConnection, StoredProfile, Writer,
    record,
};

/// Callers are served what is held when a look takes longer than this.
const UNANSWERED_AFTER: Duration = Duration::from_millis(100);
/// After this a client gives up on an answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a write waits for the copy to have it, where it does.
const WAIT: Duration = Duration::from_secs(1);
/// How far behind stale reads are.
const STALE: Duration = Duration::from_secs(5);

/// Told of what the store really does: the checker listens.
pub(crate) trait Watch: Send + Sync {
    /// A commit took effect.
    fn committed(&self, commit: &Effect<'_>);
    /// A failover is over, and these changes were lost with it.
    fn lost(&self, keys: &[ConnectionKey]);
    /// A process looked at a connection, and got an answer or none.
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

#[derive(Clone, Default)]
struct Data {
    connections: BTreeMap<ConnectionKey, StoredConnection>,
    leases: rules::Leases<LeaseKey>,
    begun: BTreeMap<LeaseKey, Begun>,
    schedule: Schedule,
    floors: BTreeMap<ConnectionKey, Floor>,
    pending: BTreeMap<String, (Vec<u8>, Duration)>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum LeaseKey {
    Connection(ConnectionKey),
    Sweep(u8),
    Rewrap,
}

impl LeaseKey {
    fn of(of: LeaseOf<'_>) -> Self {
        match of {
            LeaseOf::Connection(key) => LeaseKey::Connection(key.clone()),
            LeaseOf::Sweep(shard) => LeaseKey::Sweep(shard),
            LeaseOf::Rewrap => LeaseKey::Rewrap,
        }
    }
}

#[derive(Clone)]
enum Op {
    Ping,
    Load(ConnectionKey),
    Commit { key: ConnectionKey, expected: Option<Revision>, connection: StoredConnection, writer: Writer },
    Take { of: LeaseKey, nonce: LeaseNonce, ttl: Duration },
    Extend { of: LeaseKey, nonce: LeaseNonce, ttl: Duration },
    Release { of: LeaseKey, nonce: LeaseNonce, settled: bool },
    Schedule(ConnectionKey, Option<Timestamp>),
    MarkUsed(ConnectionKey, Timestamp),
    Due { shard: u8, until: Timestamp, limit: usize },
    Floor(ConnectionKey),
    Delete(ConnectionKey, SignIn, bool),
    Profiles(Vec<ConnectionKey>),
    List { app: AppName, prefix: String, after: Option<ConnectionName>, limit: usize },
    PutPending { id: String, sealed: Vec<u8>, ttl: Duration },
    Pending(String),
    TakePending(String),
    SwapPending { id: String, expected: Option<Vec<u8>>, sealed: Vec<u8>, ttl: Duration },
    Sealed { after: Option<usize>, limit: usize },
    Reseal { key: ConnectionKey, before: StoredConnection, after: StoredConnection },
    ResealPending { id: String, before: Vec<u8>, after: Vec<u8> },
}

impl Op {
    fn writes(&self) -> bool {
        !matches!(
            self,
            Op::Ping
                | Op::Load(_)
                | Op::Floor(_)
                | Op::Due { .. }
                | Op::Profiles(_)
                | Op::List { .. }
                | Op::Pending(_)
                | Op::Sealed { .. }
        )
    }

    /// Those whose loss anybody could notice.
    fn key(&self) -> Option<&ConnectionKey> {
        match self {
            Op::Commit { key, .. } | Op::Delete(key, ..) => Some(key),
            Op::Take { of: LeaseKey::Connection(key), .. }
            | Op::Extend { of: LeaseKey::Connection(key), .. } => Some(key),
            Op::Release { of: LeaseKey::Connection(key), .. } => Some(key),
            _ => None,
        }
    }

    /// Whether it is about pending records of this kind.
    fn is_about(&self, kind: &str) -> bool {
        matches!(self, Op::Pending(id) | Op::PutPending { id, .. } if id.starts_with(kind))
    }

    /// Whether the network may bring it a second time when it was answered long ago. What is kept or taken whatever is there
    /// would be so again: a client must not leave such a one behind, and this one does not.
    fn may_come_late(&self) -> bool {
        !matches!(self, Op::PutPending { .. } | Op::TakePending(_))
    }
}

impl Mutant {
    /// Whether a run has a chance to notice it only when this comes twice.
    fn is_shown_by_repeating(self, op: &Op) -> bool {
        match self {
            Mutant::DeletesWhatever => matches!(op, Op::Delete(..)),
            _ => false,
        }
    }
}

enum Reply {
    Nothing,
    Connection(Option<StoredConnection>),
    Committed(Committed),
    Lease(LeaseAnswer),
    Yes(bool),
    Floor(Floor),
    Deleted(Deleted),
    Due(Vec<Due>),
    Profiles(Vec<Option<StoredProfile>>),
    Page(ConnectionPage),
    Sealed(SealedPage),
    Bytes(Option<Vec<u8>>),
    /// Not now.
    Refused,
}

impl Data {
    fn stored(&self, key: &ConnectionKey) -> Option<Revision> {
        self.connections.get(key).map(|stored| stored.revision)
    }

    fn floor(&self, key: &ConnectionKey) -> Floor {
        self.floors.get(key).copied().unwrap_or(LOWEST_FLOOR)
    }

    fn commit(
        &mut self,
        key: &ConnectionKey,
        expected: Option<Revision>,
        connection: &StoredConnection,
        writer: Writer,
        now: Duration,
        mutant: Mutant,
    ) -> Committed {
        let of = LeaseKey::Connection(key.clone());
        let (stored, holder) = (self.stored(key), self.leases.holder(&of, now));
        let ours = holder.filter(|holder| Some(*holder) == writer.lease());
        let holder = if mutant == Mutant::CommitIgnoresLease { ours } else { holder };
        let expected = if mutant == Mutant::CommitIgnoresRevision { stored } else { expected };
        let known = Known { stored, holder, floor: self.floor(key) };
        let (answer, stores) = rules::commit(&known, expected, &connection.revision, writer);
        let forgets = mutant == Mutant::ForgetsCommits && connection.revision.nonce[0] < 32;
        if let Some(stores) = stores.filter(|_| !forgets) {
            self.connections.insert(key.clone(), connection.clone());
            if let Some(nonce) = ours.filter(|_| stores.gives_lease_back) {
                self.leases.release(&of, nonce, now);
            }
            if self.begun.get(&of).is_some_and(|begun| stores.settles(begun)) {
                self.begun.remove(&of);
            }
        }
        answer
    }

    fn take(
        &mut self,
        of: &LeaseKey,
        nonce: LeaseNonce,
        ttl: Duration,
        now: Duration,
        mutant: Mutant,
    ) -> LeaseAnswer {
        if mutant == Mutant::LeaseForEveryone
            && let Some(holder) = self.leases.holder(of, now)
        {
            self.leases.release(of, holder, now);
        }
        if let Err(left) = self.leases.take(of.clone(), nonce, ttl, now) {
            return LeaseAnswer::Theirs { left };
        }
        let about = match of {
            LeaseKey::Connection(key) => self.stored(key).map(|stored| stored.sign_in),
            LeaseKey::Sweep(_) | LeaseKey::Rewrap => None,
        };
        let begun = Begun::after(self.begun.get(of).copied(), nonce, about.unwrap_or_default());
        self.begun.insert(of.clone(), begun);
        LeaseAnswer::Mine { unsettled: begun.unsettled }
    }

    fn delete(
        &mut self,
        key: &ConnectionKey,
        meant: SignIn,
        cuts_off: bool,
        now: Duration,
        mutant: Mutant,
    ) -> Deleted {
        if mutant == Mutant::KeepsDeleted {
            return Deleted::Gone;
        }
        let of = LeaseKey::Connection(key.clone());
        let stored = self.stored(key);
        let there = stored.map(|stored| stored.sign_in);
        let meant = there.filter(|_| mutant == Mutant::DeletesWhatever).unwrap_or(meant);
        let found = stored.map_or(Found::Nothing, Found::Revision);
        let is_leased = self.leases.holder(&of, now).is_some();
        let (answer, destroys) = rules::delete(found, is_leased, self.floor(key), meant, cuts_off);
        if let Some(destroys) = destroys {
            self.floors.insert(key.clone(), destroys.floor);
            if self.connections.remove(key).is_some() {
                self.schedule.remove(key);
            }
            if destroys.settles {
                self.begun.remove(&of);
            }
        }
        answer
    }

    fn waiting(&self, id: &str, now: Duration) -> Option<&Vec<u8>> {
        self.pending.get(id).filter(|(_, until)| *until > now).map(|(sealed, _)| sealed)
    }

    /// Everything, from the record of this number on.
    fn sealed(&self, first: usize, limit: usize, now: Duration) -> SealedPage {
        let head = |sealed: &[u8]| sealed[..sealed.len().min(SEALED_HEAD)].to_vec();
        let connections = self.connections.iter().map(|(key, stored)| SealedRecord {
            of: RecordOf::Connection(key.clone()),
            head: head(&stored.profile),
        });
        let pending = self.pending.iter().filter(|(_, (_, until))| *until > now);
        let pending = pending
            .map(|(id, (sealed, _))| SealedRecord { of: RecordOf::Pending(id.clone()), head: head(sealed) });
        let records: Vec<_> = connections.chain(pending).skip(first).take(limit).collect();
        let next = (records.len() == limit).then(|| (first + limit).to_string());
        SealedPage { records, next }
    }

    fn apply(&mut self, op: &Op, now: Duration, mutant: Mutant) -> Reply {
        match op {
            Op::Ping => Reply::Nothing,
            Op::Load(key) => Reply::Connection(self.connections.get(key).cloned()),
            Op::Commit { key, expected, connection, writer } => {
                Reply::Committed(self.commit(key, *expected, connection, *writer, now, mutant))
            }
            Op::Take { of, nonce, ttl } => Reply::Lease(self.take(of, *nonce, *ttl, now, mutant)),
            Op::Extend { of, nonce, ttl } => Reply::Yes(self.leases.extend(of.clone(), *nonce, *ttl, now)),
            Op::Release { of, nonce, settled } => {
                if *settled && self.begun.get(of).is_some_and(|begun| begun.is_settled_by(*nonce)) {
                    self.begun.remove(of);
                }
                self.leases.release(of, *nonce, now);
                Reply::Nothing
            }
            Op::Schedule(key, due_at) => {
                self.schedule.set(key, *due_at);
                Reply::Nothing
            }
            Op::MarkUsed(key, at) => {
                self.schedule.mark_used(key, *at);
                Reply::Nothing
            }
            Op::Due { shard, until, limit } => {
                Reply::Due(self.schedule.due(*shard, *until, *limit.min(&MAX_PAGE)))
            }
            Op::Floor(key) => Reply::Floor(self.floor(key)),
            Op::Delete(key, meant, cuts_off) => {
                Reply::Deleted(self.delete(key, *meant, *cuts_off, now, mutant))
            }
            Op::Profiles(keys) => {
                let profile = |key| self.connections.get(key).cloned().map(StoredProfile::from);
                Reply::Profiles(keys.iter().map(profile).collect())
            }
            Op::List { app, prefix, after, limit } => {
                let limit = *limit.min(&MAX_PAGE);
                let mut found = self
                    .connections
                    .iter()
                    .filter(|(key, _)| {
                        key.app == *app && key.connection.as_str().starts_with(prefix.as_str())
                    })
                    .filter(|(key, _)| {
                        after.as_ref().is_none_or(|after| key.connection.as_str() > after.as_str())
                    })
                    .map(|(key, stored)| (key.connection.clone(), stored.clone().into()));
                let connections: Vec<_> = found.by_ref().take(limit).collect();
                let next = found.next().and(connections.last()).map(|(name, _)| name.clone());
                Reply::Page(ConnectionPage { connections, next })
            }
            Op::PutPending { id, sealed, ttl } => {
                self.pending.insert(id.clone(), (sealed.clone(), now + *ttl));
                Reply::Nothing
            }
            Op::Pending(id) => Reply::Bytes(self.waiting(id, now).cloned()),
            Op::TakePending(id) => {
                let taken = self.waiting(id, now).cloned();
                self.pending.remove(id);
                Reply::Bytes(taken)
            }
            Op::SwapPending { id, expected, sealed, ttl } => {
                let swap = Swap::of(self.waiting(id, now), expected.as_ref(), sealed);
                if swap == Swap::Write {
                    self.pending.insert(id.clone(), (sealed.clone(), now + *ttl));
                }
                Reply::Yes(swap.is_done())
            }
            Op::Sealed { after, limit } => Reply::Sealed(self.sealed(after.unwrap_or(0), *limit, now)),
            Op::Reseal { key, before, after } => {
                let swap = Swap::of(self.connections.get(key), Some(before), after);
                if swap == Swap::Write {
                    self.connections.insert(key.clone(), after.clone());
                }
                Reply::Yes(swap.is_done())
            }
            Op::ResealPending { id, before, after } => {
                let swap = Swap::of(self.waiting(id, now), Some(before), after);
                if let (Swap::Write, Some((sealed, _))) = (swap, self.pending.get_mut(id)) {
                    sealed.clone_from(after);
                }
                Reply::Yes(swap.is_done())
            }
        }
    }
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

    /// The store as it is, with nothing in between: for whoever checks.
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
            LeaseKey::Sweep(_) | LeaseKey::Rewrap => None,
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

/// What a store says that forgets what was begun, or what it was asked to tell others.
fn wrong(mutant: Mutant, op: &Op, reply: Reply) -> Reply {
    match reply {
        Reply::Lease(LeaseAnswer::Mine { .. }) if mutant == Mutant::IntentIsForgotten => {
            Reply::Lease(LeaseAnswer::Mine { unsettled: false })
        }
        Reply::Bytes(_) if mutant == Mutant::HoldsAreForgotten && op.is_about("hold:") => Reply::Bytes(None),
        reply => reply,
    }
}

/// The store as one process sees it.
pub(crate) struct SimStore {
    server: SimServer,
    replica: usize,
    pid: Pid,
}

/// What becomes of one call on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Good,
    LostBefore,
    LostAfter,
    Slow,
    Repeated,
}

impl SimStore {
    fn fate(&self) -> Fate {
        let mut state = self.server.state();
        state.calls += 1;
        let weather = state.weather;
        let fate = match (state.links[self.replica], state.down) {
            (Link::Cut, _) | (_, true) => Fate::LostBefore,
            (Link::AnswersLost, false) => Fate::LostAfter,
            (Link::Up, false) => {
                let drawn = u32::try_from(self.server.inner.dice.below(1000)).unwrap_or(0);
                let chances = [
                    (Fate::LostBefore, weather.lost_before),
                    (Fate::LostAfter, weather.lost_after),
                    (Fate::Slow, weather.slow),
                    (Fate::Repeated, weather.repeated),
                ];
                let mut end = 0;
                let hit = chances.into_iter().find(|(_, times)| {
                    end += times;
                    drawn < end
                });
                hit.map_or(Fate::Good, |(fate, _)| fate)
            }
        };
        state.faults += u64::from(fate != Fate::Good);
        drop(state);
        if fate != Fate::Good {
            self.server.trouble(self.replica, &format!("{fate:?}"));
        }
        fate
    }

    async fn ask(&self, doing: &'static str, op: Op) -> Result<Reply, StoreError> {
        if self.pid == WORLD {
            return Ok(self.server.execute(&op, WORLD).0);
        }
        let fate = self.fate();
        let looked_at = if let Op::Load(key) = &op { Some(key.clone()) } else { None };
        let (answer, answered) = oneshot::channel();
        let (server, replica, pid) = (self.server.clone(), self.replica, self.pid);
        let (clock, dice) = (server.inner.clock.clone(), server.inner.dice.clone());
        let way = async move {
            let slow = if fate == Fate::Slow { 3000 } else { 4 };
            clock.sleep(dice.millis(0, slow)).await;
            let reachable = |answer: bool| {
                let state = server.state();
                match state.links[replica] {
                    Link::Up => !state.down,
                    Link::AnswersLost => !answer && !state.down,
                    Link::Cut => false,
                }
            };
            if fate == Fate::LostBefore || !reachable(false) {
                server.trouble(replica, "a request is lost");
                return; // the client gives up
            }
            if matches!(op, Op::Commit { .. }) && server.state().refuses_commits {
                if let Some(watch) = &server.inner.watch {
                    watch.refused(replica);
                }
                let _ = answer.send(Reply::Refused);
                return;
            }
            let (reply, arrives_at) = server.execute(&op, pid);
            let at_home = server.inner.mutant != Mutant::RevocationsStayAtHome || replica == 0;
            let reply = match reply {
                Reply::Bytes(_) if !at_home && op.is_about("revocations:") => Reply::Bytes(None),
                // What they cover would be destroyed, and missed for that.
                Reply::Page(_) if server.inner.mutant == Mutant::RevocationsStayAtHome => {
                    Reply::Page(ConnectionPage::default())
                }
                reply => reply,
            };
            if (fate == Fate::Repeated || server.inner.mutant.is_shown_by_repeating(&op))
                && op.may_come_late()
            {
                let (again, clock, delay) = (server.clone(), clock.clone(), dice.millis(0, 6000));
                let op = op.clone();
                let later = async move {
                    clock.sleep(delay).await;
                    if !again.state().down {
                        again.execute(&op, pid);
                    }
                };
                server.inner.tasks.spawn("repeat a message", Box::pin(later));
            }
            if server.inner.wait && op.writes() {
                let now = clock.monotonic();
                let wait = arrives_at.saturating_sub(now);
                if wait > WAIT {
                    server.trouble(replica, "the copy is too far behind");
                    return;
                }
                let primary = server.state().lost_primaries;
                clock.sleep(wait).await;
                if server.state().lost_primaries != primary {
                    server.trouble(replica, "the primary was lost before the copy had it");
                    return;
                }
            }
            clock.sleep(dice.millis(0, slow)).await;
            if fate == Fate::LostAfter || !reachable(true) {
                server.trouble(replica, "an answer is lost");
                return;
            }
            let _ = answer.send(reply);
        };
        let (clock, dice) = (&self.server.inner.clock, &self.server.inner.dice);
        // A refused connection is noticed at once, a lost one by and by.
        let patience = if fate == Fate::Good {
            CLIENT_TIMEOUT
        } else {
            dice.millis(1, 2000).max(Duration::from_millis(10))
        };
        let patience = if fate == Fate::Slow || fate == Fate::Repeated { CLIENT_TIMEOUT } else { patience };
        self.server.inner.tasks.spawn("a call of the store", Box::pin(way));
        let waiting = async {
            match answered.await {
                Ok(reply) => Some(reply),
                Err(_) => std::future::pending().await,
            }
        };
        // A look that takes longer than callers wait for it is unanswered before it is over.
        let unanswered_yet = async {
            clock.sleep(UNANSWERED_AFTER).await;
            if let (Some(key), Some(watch)) = (&looked_at, &self.server.inner.watch) {
                watch.checked(self.pid, key, false);
            }
            std::future::pending().await
        };
        let reply = tokio::select! {
            biased;
            reply = waiting => reply,
            () = clock.sleep(patience) => None,
            () = unanswered_yet => None,
        };
        if let (Some(key), Some(watch)) = (&looked_at, &self.server.inner.watch) {
            watch.checked(self.pid, key, reply.is_some());
        }
        match reply {
            Some(Reply::Refused) => Err(StoreError::unavailable(doing, "it is out of memory")),
            Some(reply) => Ok(reply),
            None => {
                self.server.trouble(self.replica, doing);
                Err(StoreError::unavailable(doing, "no answer came"))
            }
        }
    }
}

/// The reply of the kind that belongs to the operation; another one cannot come.
macro_rules! expect_reply {
    ($reply:expr, $kind:ident) => {
        match $reply {
            Reply::$kind(value) => value,
            _ => unreachable!("every operation has its own kind of reply"),
        }
    };
}

#[async_trait]
impl Store for SimStore {
    fn is_shared(&self) -> bool {
        true
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.ask("asking the store whether it serves", Op::Ping).await.map(|_| ())
    }

    fn has_room(&self) -> bool {
        true
    }

    async fn adopt(&self) -> Result<(), StoreError> {
        self.ping().await
    }

    async fn next_change(&self) -> Change {
        loop {
            let word = {
                let mut state = self.server.state();
                let listener = state.listeners.entry(self.pid).or_insert_with(|| Listener {
                    replica: self.replica,
                    told: VecDeque::from([Change::Missed]),
                    word: Arc::default(),
                });
                match listener.told.pop_front() {
                    Some(change) => return change,
                    None => listener.word.clone(),
                }
            };
            word.notified().await;
        }
    }
}

#[async_trait]
impl Records for SimStore {
    async fn load(&self, key: &ConnectionKey) -> Result<Option<StoredConnection>, StoreError> {
        let reply = self.ask("loading a connection", Op::Load(key.clone())).await?;
        Ok(expect_reply!(reply, Connection))
    }

    async fn revision(&self, key: &ConnectionKey) -> Result<Option<Revision>, StoreError> {
        let reply = self.ask("looking a revision up", Op::Load(key.clone())).await?;
        Ok(expect_reply!(reply, Connection).map(|stored| stored.revision))
    }

    async fn commit(
        &self,
        key: &ConnectionKey,
        expected: Option<Revision>,
        connection: &StoredConnection,
        writer: Writer,
    ) -> Result<Committed, StoreError> {
        const DOING: &str = "committing a connection";
        record::encode(DOING, connection)?;
        let op = Op::Commit { key: key.clone(), expected, connection: connection.clone(), writer };
        Ok(expect_reply!(self.ask(DOING, op).await?, Committed))
    }

    async fn floor(&self, key: &ConnectionKey) -> Result<Floor, StoreError> {
        const DOING: &str = "asking what was deleted of a connection";
        Ok(expect_reply!(self.ask(DOING, Op::Floor(key.clone())).await?, Floor))
    }

    async fn delete(
        &self,
        key: &ConnectionKey,
        meant: SignIn,
        cuts_off: bool,
    ) -> Result<Deleted, StoreError> {
        let op = Op::Delete(key.clone(), meant, cuts_off);
        Ok(expect_reply!(self.ask("deleting a connection", op).await?, Deleted))
    }

    async fn profiles(&self, keys: &[ConnectionKey]) -> Result<Vec<Option<StoredProfile>>, StoreError> {
        let op = Op::Profiles(keys.to_vec());
        Ok(expect_reply!(self.ask("reading profiles", op).await?, Profiles))
    }

    async fn list(
        &self,
        app: &AppName,
        prefix: &str,
        after: Option<&ConnectionName>,
        limit: usize,
    ) -> Result<ConnectionPage, StoreError> {
        let op = Op::List { app: app.clone(), prefix: prefix.to_owned(), after: after.cloned(), limit };
        Ok(expect_reply!(self.ask("listing connections", op).await?, Page))
    }
}

#[async_trait]
impl Leases for SimStore {
    async fn take_lease(
        &self,
        of: LeaseOf<'_>,
        nonce: LeaseNonce,
        ttl: Duration,
    ) -> Result<LeaseAnswer, StoreError> {
        let op = Op::Take { of: LeaseKey::of(of), nonce, ttl };
        Ok(expect_reply!(self.ask("taking a lease", op).await?, Lease))
    }

    async fn extend_lease(
        &self,
        of: LeaseOf<'_>,
        nonce: LeaseNonce,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        let op = Op::Extend { of: LeaseKey::of(of), nonce, ttl };
        Ok(expect_reply!(self.ask("prolonging a lease", op).await?, Yes))
    }

    async fn release_lease(
        &self,
        of: LeaseOf<'_>,
        nonce: LeaseNonce,
        settled: bool,
    ) -> Result<(), StoreError> {
        let op = Op::Release { of: LeaseKey::of(of), nonce, settled };
        self.ask("giving a lease back", op).await.map(|_| ())
    }
}

#[async_trait]
impl store::Schedule for SimStore {
    async fn schedule(&self, key: &ConnectionKey, due_at: Option<Timestamp>) -> Result<(), StoreError> {
        self.ask("scheduling a connection", Op::Schedule(key.clone(), due_at)).await.map(|_| ())
    }

    async fn due(&self, shard: u8, until: Timestamp, limit: usize) -> Result<Vec<Due>, StoreError> {
        Ok(expect_reply!(self.ask("asking what is due", Op::Due { shard, until, limit }).await?, Due))
    }

    async fn mark_used(&self, key: &ConnectionKey, at: Timestamp) -> Result<(), StoreError> {
        self.ask("noting a use", Op::MarkUsed(key.clone(), at)).await.map(|_| ())
    }
}

#[async_trait]
impl Pending for SimStore {
    async fn put_pending(&self, id: &str, sealed: &[u8], deadline: Deadline) -> Result<(), StoreError> {
        let op = Op::PutPending { id: id.to_owned(), sealed: sealed.to_vec(), ttl: deadline.ttl() };
        self.ask("keeping a pending record", op).await.map(|_| ())
    }

    async fn pending(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let op = Op::Pending(id.to_owned());
        Ok(expect_reply!(self.ask("looking a pending record up", op).await?, Bytes))
    }

    async fn take_pending(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let op = Op::TakePending(id.to_owned());
        Ok(expect_reply!(self.ask("taking a pending record", op).await?, Bytes))
    }

    async fn swap_pending(
        &self,
        id: &str,
        expected: Option<&[u8]>,
        sealed: &[u8],
        deadline: Deadline,
    ) -> Result<bool, StoreError> {
        let op = Op::SwapPending {
            id: id.to_owned(),
            expected: expected.map(<[u8]>::to_vec),
            sealed: sealed.to_vec(),
            ttl: deadline.ttl(),
        };
        Ok(expect_reply!(self.ask("replacing a pending record", op).await?, Yes))
    }

    /// The simulated world has no sessions, so nothing is counted.
    async fn count_in(
        &self,
        _owner: &str,
        _entry: &str,
        _until: Timestamp,
        _most: Most<'_>,
    ) -> Result<Counted, StoreError> {
        Ok(Counted::In)
    }

    async fn count_out(&self, _owner: &str, _entry: &str) -> Result<(), StoreError> {
        Ok(())
    }

    async fn counted(&self, _owner: &str) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Reseal for SimStore {
    async fn sealed(&self, after: Option<&str>, limit: usize) -> Result<SealedPage, StoreError> {
        let after = after.and_then(|after| after.parse().ok());
        let op = Op::Sealed { after, limit: limit.clamp(1, MAX_PAGE) };
        Ok(expect_reply!(self.ask("walking over every record", op).await?, Sealed))
    }

    async fn reseal(
        &self,
        key: &ConnectionKey,
        before: &StoredConnection,
        after: &StoredConnection,
    ) -> Result<bool, StoreError> {
        if before.revision != after.revision {
            return Ok(false);
        }
        let op = Op::Reseal { key: key.clone(), before: before.clone(), after: after.clone() };
        Ok(expect_reply!(self.ask("sealing a connection anew", op).await?, Yes))
    }

    async fn reseal_pending(&self, id: &str, before: &[u8], after: &[u8]) -> Result<bool, StoreError> {
        let op = Op::ResealPending { id: id.to_owned(), before: before.to_vec(), after: after.to_vec() };
        Ok(expect_reply!(self.ask("sealing a pending record anew", op).await?, Yes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::suite;

    #[tokio::test]
    async fn in_good_weather_it_passes_the_suite_of_every_store() {
        for wait in [false, true] {
            let (clock, tasks) = (suite::RealClock::shared(), Arc::new(suite::RealTasks));
            let server = SimServer::new(clock, tasks, Dice::new(7), 2, wait, Mutant::None, None);
            suite::run(Arc::new(server.client(0, Pid(1)))).await;
        }
    }

    #[tokio::test]
    async fn a_failover_loses_what_the_copy_had_not_got_and_others_hear_of_changes() {
        let (clock, tasks) = (suite::RealClock::shared(), Arc::new(suite::RealTasks));
        let server = SimServer::new(clock.clone(), tasks, Dice::new(7), 2, false, Mutant::None, None);
        let (one, other) = (server.client(0, Pid(1)), server.client(1, Pid(2)));
        assert_eq!(other.next_change().await, Change::Missed);
        let key = suite::key("outlook", "user-1");
        let (first, second) = (suite::connection(1, 1), suite::connection(2, 2));
        assert_eq!(one.commit(&key, None, &first, Writer::SignIn).await.expect("serves"), Committed::Done);
        assert_eq!(other.next_change().await, Change::Connection(key.clone()));
        clock.sleep(Duration::from_millis(50)).await;
        server.set_weather(StoreWeather { lag: Duration::from_secs(3600), ..StoreWeather::default() });
        let expected = Some(first.revision);
        let done = one.commit(&key, expected, &second, Writer::SignIn).await.expect("serves");
        assert_eq!(done, Committed::Done);
        server.lose_primary();
        assert!(one.load(&key).await.is_err());
        server.promote();
        assert_eq!(one.load(&key).await.expect("serves"), Some(first));
        assert_eq!(other.next_change().await, Change::Connection(key.clone()));
        assert_eq!(other.next_change().await, Change::Missed);
    }
}
