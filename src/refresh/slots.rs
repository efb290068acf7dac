//! One slot per connection in use: what is held of it, and the work under way for it. A lock is held for a few
//! instructions, never across an await, and never two at once.

use parking_lot::{Mutex, MutexGuard};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};

use super::forced::Forced;
use super::unclear::Unclear;
use super::weight::{self, Total, Weight};
use crate::domain::connection::{ATTEMPTS_KEPT, Attempt, Profile, SignIn, Status};
use crate::domain::id::ConnectionKey;
use crate::domain::scope::ScopeSet;
use crate::domain::time::Timestamp;
use crate::domain::verdict::{AuthorityFailure, Disposition};
use crate::keyring::tally::COUNTED_AGAIN_AFTER;
use crate::repository::{Connection, RepositoryError, Unstored};
use crate::store::{Revision, StoredConnection};

/// Shards, so that slots of different connections do not share a lock.
const SHARDS: usize = 64;

/// Why work for a connection failed; shared by everyone who waited for it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no such connection.
    #[error("there is no such connection")]
    NotFound,
    /// The authority's answer, or its silence.
    #[error(transparent)]
    Authority(AuthorityFailure),
    /// The store's, or a record that does not open.
    #[error(transparent)]
    Repository(RepositoryError),
}

/// A connection as it is held in memory: no refresh token is in here.
pub struct Held {
    /// The connection.
    pub connection: Connection,
    /// Its granted scopes, read once.
    pub granted: ScopeSet,
}

/// How a flight ended, as its waiters see it: none while it flies.
type Landing = Option<Result<(), Arc<Failure>>>;

/// Work under way that others may wait for.
#[derive(Clone)]
pub(super) struct Flight {
    landing: watch::Receiver<Landing>,
}

impl Flight {
    /// A flight and the means to land it.
    pub(super) fn start() -> (Flight, watch::Sender<Landing>) {
        let (sender, landing) = watch::channel(None);
        (Flight { landing }, sender)
    }

    /// Waits for the flight. A flight whose task died counts as nothing learnt: the caller looks again.
    pub(super) async fn landed(mut self) -> Result<(), Arc<Failure>> {
        match self.landing.wait_for(Option::is_some).await {
            Ok(landing) => landing.clone().unwrap_or(Ok(())),
            Err(_) => Ok(()),
        }
    }
}

/// The kinds of work for a connection; of each there is one under way at the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// A look at the store.
    Lookup,
    /// A use of the grant.
    Renewal,
}

/// A failed try that still counts.
#[derive(Clone)]
pub(super) struct Trouble {
    /// Monotonic time until which nobody tries again.
    pub(super) until: Duration,
    /// How many in a row.
    pub(super) failures: u32,
    /// The last one.
    pub(super) failure: Arc<Failure>,
    /// When the grant had last worked then: a doubt is about that state of it and no later one.
    pub(super) about: Option<Timestamp>,
}

impl Trouble {
    /// Whether the authority refused and said nothing we know.
    pub(super) fn is_unclear(&self) -> bool {
        matches!(self.failure.as_ref(), Failure::Authority(failure) if failure.disposition == Disposition::Unclear)
    }

    /// Whether it may be over once the app's credentials are others: the app was rejected, or may have been.
    pub(super) fn may_be_the_apps(&self) -> bool {
        let is_rejection = |failure: &Failure| matches!(failure, Failure::Authority(why) if why.disposition == Disposition::NextCredential);
        self.is_unclear() || is_rejection(self.failure.as_ref())
    }
}

/// A look at the store that was in vain.
#[derive(Clone)]
pub(super) struct Unchecked {
    /// Monotonic time.
    pub(super) asked_at: Duration,
    pub(super) failure: Arc<Failure>,
    /// The store answers others: it is this connection that it does not answer for.
    pub(super) persists: bool,
}

/// A state of a connection that the store has had.
#[derive(Clone)]
pub(super) struct Recent {
    pub(super) held: Arc<Held>,
    pub(super) sealed: Arc<StoredConnection>,
    until: Duration,
}

/// A sign-in that was deleted.
#[derive(Clone, Copy)]
pub(super) struct DeletedLately {
    pub(super) sign_in: SignIn,
    /// By the wall clock.
    at: Timestamp,
    until: Duration,
}

/// What was seen in the store or deleted there is remembered for so long, and stored or deleted again should the store fall back
/// behind it. A failover drops what its last seconds had not reached the new primary, and shows within half a minute.
const REMEMBERED: Duration = Duration::from_secs(120);
// What is remembered is sealed: its key must not go before it is forgotten.
const _: () = assert!(REMEMBERED.as_secs() <= COUNTED_AGAIN_AFTER.as_secs());
/// Deletes of one name that are remembered at once.
const MOST_DELETED: usize = 8;

/// What one slot knows.
#[derive(Default)]
pub(super) struct SlotState {
    pub(super) held: Option<Arc<Held>>,
    /// The look at the store under way …
    pub(super) lookup: Option<Flight>,
    /// … and the use of the grant under way: two, so that nobody who only looks waits for the authority.
    pub(super) renewal: Option<Flight>,
    /// Somebody waits for that one who needs no permit.
    hurried: bool,
    /// By resource: one that refuses is no trouble of another's.
    pub(super) trouble: BTreeMap<Option<String>, Trouble>,
    /// The sign-in of what was held last: no trouble outlives that grant, wherever it was replaced.
    pub(super) sign_in: Option<SignIn>,
    /// Renewals that callers forced by reports and challenges.
    pub(super) forced: Forced,
    /// The authority asked to leave it alone, or its tenant.
    pub(super) held_back: Option<Trouble>,
    /// An answer of the authority that the store has not taken yet.
    pub(super) unstored: Option<Unstored>,
    /// What was seen in the store a moment ago: a failover of it may drop that again.
    pub(super) recent: Option<Recent>,
    /// The sign-ins that were deleted here a moment ago.
    pub(super) deleted: Vec<DeletedLately>,
    /// Monotonic time of the last look at the store.
    pub(super) checked_at: Duration,
    /// Somebody said that it changed since then, or may have.
    pub(super) outdated: bool,
    /// The store does not answer for this connection.
    pub(super) unchecked: Option<Unchecked>,
    pub(super) last_used: Duration,
    /// Monotonic time at which it was noted in the store that callers use it.
    pub(super) noted_at: Option<Duration>,
    /// Failed tries not stored with the connection, newest last.
    pub(super) attempts: Vec<Attempt>,
    /// Refusals in a row that said nothing we know, and of which sign-in's grant.
    pub(super) unclear: Option<(SignIn, Unclear)>,
    /// Raised by every write of ours, by a delete and a reconnect, so that a look begun before does not bring back what
    /// it saw.
    pub(super) epoch: u64,
}

impl From<RepositoryError> for Failure {
    fn from(error: RepositoryError) -> Self {
        Failure::Repository(error)
    }
}

impl SlotState {
    pub(super) fn remember(&mut self, attempt: Attempt) {
        self.attempts.push(attempt);
        let extra = self.attempts.len().saturating_sub(ATTEMPTS_KEPT);
        self.attempts.drain(..extra);
    }

    /// The authority's word to leave the connection alone, while it counts.
    pub(super) fn held_back(&self, now: Duration) -> Option<Trouble> {
        self.held_back.as_ref().filter(|trouble| now < trouble.until).cloned()
    }

    /// Remembers what the store has, and is about to be held.
    pub(super) fn note_recent(&mut self, held: &Arc<Held>, sealed: &StoredConnection, now: Duration) {
        let (held, sealed) = (held.clone(), Arc::new(sealed.clone()));
        self.recent = Some(Recent { held, sealed, until: now.saturating_add(REMEMBERED) });
    }

    /// Remembers a delete.
    pub(super) fn note_deleted(&mut self, sign_in: SignIn, at: Timestamp, now: Duration) {
        self.deleted.retain(|other| other.sign_in != sign_in);
        let extra = (self.deleted.len() + 1).saturating_sub(MOST_DELETED);
        self.deleted.drain(..extra);
        self.deleted.push(DeletedLately { sign_in, at, until: now.saturating_add(REMEMBERED) });
    }

    /// Whether there was a delete a moment ago that means this connection: of its sign-in, or of a later one.
    pub(super) fn was_deleted(&self, connection: &Connection, now: Duration) -> bool {
        let Profile { sign_in, connected_at, .. } = &connection.profile;
        self.deleted.iter().any(|deleted| {
            let is_earlier = sign_in.number < deleted.sign_in.number && *connected_at <= deleted.at;
            now < deleted.until && (*sign_in == deleted.sign_in || is_earlier)
        })
    }

    /// What to store again, if the store shows less than it had a moment ago. Not while an answer is on its way to it: that
    /// succeeds both.
    pub(super) fn fell_back(&self, stored: &Connection, now: Duration) -> Option<Recent> {
        let recent = self.recent.as_ref().filter(|recent| now < recent.until && self.unstored.is_none())?;
        stored.is_before(&recent.held.connection).then(|| recent.clone())
    }

    /// Whether what is held is newer than what the store shows, and is kept for that: because it can be stored again, or
    /// because it is safe in the journal and on its way.
    pub(super) fn is_ahead_of(&self, stored: &Connection, now: Duration) -> bool {
        let Some(held) = self.held.as_ref().map(|held| &held.connection) else { return false };
        let is_remembered = self
            .recent
            .as_ref()
            .is_some_and(|recent| now < recent.until && recent.held.connection.revision == held.revision);
        let is_on_its_way = self.on_top_of(stored).is_some()
            || self.unstored.as_ref().is_some_and(|unstored| {
                // The store has lost what it succeeds, too; or a verdict came between, which it proves wrong.
                let used = unstored.connection.grant_place().before();
                let is_judged =
                    matches!(stored.profile.status, Status::NeedsReauthorization(_) | Status::Blocked(_));
                let place = stored.grant_place();
                unstored.journaled && (place.is_before(&used) || (place == used && is_judged))
            });
        stored.is_before(held) && (is_remembered || is_on_its_way)
    }

    /// The answer that is held and safe in the journal, where the store shows another one to the same use of the grant.
    pub(super) fn answer_beside(&self, stored: &Connection) -> Option<&Unstored> {
        self.unstored.as_ref().filter(|unstored| {
            let is_rotated = unstored.grant.current != unstored.used;
            let is_beside = unstored.expected != stored.revision
                && unstored.connection.grant_place() == stored.grant_place()
                && stored.profile.status == Status::Active;
            unstored.journaled
                && is_rotated
                && is_beside
                && self.held_revision() == Some(unstored.sealed.revision)
        })
    }

    /// What is to be served in place of just this state of the store: the answer that succeeds it, where that is safe in the
    /// journal. What anybody else stored meanwhile (an operator's pause) counts; where it has come and gone (a pause that was
    /// resumed), the grant is still the one that the answer succeeds.
    pub(super) fn on_top_of(&self, stored: &Connection) -> Option<&Unstored> {
        self.unstored.as_ref().filter(|unstored| {
            let is_as_before = stored.profile.status == Status::Active
                && stored.grant_place() == unstored.connection.grant_place().before();
            unstored.journaled && (unstored.expected == stored.revision || is_as_before)
        })
    }

    /// Whether the store has never been seen to have it.
    pub(super) fn is_unstored(&self, revision: Revision) -> bool {
        self.unstored.as_ref().is_some_and(|unstored| unstored.sealed.revision == revision)
    }

    /// Forgets what is too old to be lost; whether anything is left.
    fn remembers(&mut self, now: Duration) -> bool {
        self.recent.take_if(|recent| recent.until <= now);
        self.deleted.retain(|deleted| now < deleted.until);
        self.recent.is_some() || !self.deleted.is_empty()
    }

    /// The revision of the state of the store that is remembered.
    #[cfg(test)]
    pub(super) fn recent_revision(&self, now: Duration) -> Option<Revision> {
        self.recent.as_ref().filter(|recent| now < recent.until).map(|recent| recent.held.connection.revision)
    }

    /// Whether a delete is remembered.
    #[cfg(test)]
    pub(super) fn has_deleted(&self, now: Duration) -> bool {
        self.deleted.iter().any(|deleted| now < deleted.until)
    }

    pub(super) fn held_revision(&self) -> Option<Revision> {
        self.held.as_ref().map(|held| held.connection.revision)
    }

    /// About how many bytes it takes.
    fn weight(&self) -> usize {
        let remembered = self.recent.as_ref().map(|recent| (recent.held.as_ref(), recent.sealed.as_ref()));
        weight::of(self.held.as_deref(), remembered)
    }

    fn is_idle(&self) -> bool {
        self.lookup.is_none() && self.renewal.is_none() && self.unstored.is_none()
    }

    /// The work of one kind has ended.
    pub(super) fn landed(&mut self, work: Work) {
        *self.flight(work) = None;
        self.hurried &= work != Work::Renewal;
    }

    /// The work of one kind under way.
    pub(super) fn flight(&mut self, work: Work) -> &mut Option<Flight> {
        match work {
            Work::Lookup => &mut self.lookup,
            Work::Renewal => &mut self.renewal,
        }
    }
}

/// One connection's slot.
#[derive(Default)]
pub(super) struct Slot {
    state: Mutex<SlotState>,
    /// Wakes those who wait for another replica to be done with the connection.
    word: Notify,
    /// Wakes the renewal under way when somebody joins it who needs no permit.
    hurry: Notify,
    weight: Weight,
}

impl Slot {
    /// Another replica changed the connection, or gave its lease back: whoever waits for that looks at once, and whatever
    /// is held is compared with the store before it is served again.
    pub(super) fn tell(&self) {
        self.state().outdated = true;
        self.word.notify_waiters();
    }

    /// Completes at the next [`Slot::tell`]. One that comes after this is made and before it is awaited counts.
    pub(super) fn told(&self) -> Pin<Box<Notified<'_>>> {
        let mut told = Box::pin(self.word.notified());
        told.as_mut().enable();
        told
    }

    /// Somebody joins the renewal under way, if there is one, who needs no permit: it waits for what others need one for no longer.
    pub(super) fn hurry(&self) {
        let is_under_way = {
            let mut state = self.state();
            state.hurried = state.renewal.is_some();
            state.hurried
        };
        if is_under_way {
            self.hurry.notify_waiters();
        }
    }

    /// Completes once somebody who needs no permit waits for the renewal under way.
    pub(super) async fn hurried(&self) {
        let mut told = Box::pin(self.hurry.notified());
        told.as_mut().enable();
        if !self.state().hurried {
            told.await;
        }
    }

    pub(super) fn state(&self) -> Locked<'_> {
        debug_assert!(none_is_locked_here(), "two slots are locked at once");
        let state = self.state.lock();
        count_locked(|count| count + 1);
        Locked { state }
    }
}

/// A slot's state, locked.
pub(super) struct Locked<'a> {
    state: MutexGuard<'a, SlotState>,
}

impl Deref for Locked<'_> {
    type Target = SlotState;

    fn deref(&self) -> &SlotState {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut SlotState {
        &mut self.state
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        count_locked(|count| count - 1);
    }
}

thread_local! {
    /// Slots that this thread has locked; counted in builds that check assertions.
    static LOCKED: Cell<u32> = const { Cell::new(0) };
}

fn count_locked(next: impl FnOnce(u32) -> u32) {
    if cfg!(debug_assertions) {
        LOCKED.set(next(LOCKED.get()));
    }
}

/// Whether this thread has no slot locked, where that is counted: whoever is about to lock one, or to do what may lock one,
/// asserts it.
pub(super) fn none_is_locked_here() -> bool {
    LOCKED.get() == 0
}

/// Ordered, so that what is done for all of them is done in the same order in every run, and nobody gains by choosing names
/// whose hashes collide.
type Shard = Mutex<BTreeMap<ConnectionKey, Arc<Slot>>>;

/// All slots in use.
pub(super) struct Slots {
    shards: Vec<Shard>,
    total: Total,
    most_bytes: AtomicUsize,
}

impl Slots {
    /// Keeps at most about `most_bytes` of slots; of a sample the one goes first that was not used for longest.
    pub(super) fn new(most_bytes: usize) -> Self {
        Slots {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            total: Total::default(),
            most_bytes: AtomicUsize::new(most_bytes),
        }
    }

    /// From now on about so many bytes.
    pub(super) fn keep_at_most(&self, most_bytes: usize) {
        self.most_bytes.store(most_bytes, Ordering::Release);
    }

    fn are_too_heavy(&self) -> bool {
        self.total.load(Ordering::Acquire) > self.most_bytes.load(Ordering::Acquire)
    }

    /// Weighs a slot that changed, and evicts others where all of them are too heavy.
    pub(super) fn weigh(&self, key: &ConnectionKey, slot: &Slot, now: Duration) {
        // More than one, since what comes may be heavier than what goes.
        const MOST_AT_ONCE: usize = 8;
        slot.weight.set(slot.state().weight());
        if self.are_too_heavy() {
            let mut shard = self.shard(key);
            let mut evicted = 0;
            while evicted < MOST_AT_ONCE && self.are_too_heavy() && evict_one(&mut shard, key, now) {
                evicted += 1;
            }
        }
    }

    /// The connection's slot, made if there is none.
    pub(super) fn slot(&self, key: &ConnectionKey, now: Duration) -> Arc<Slot> {
        let mut shard = self.shard(key);
        if let Some(slot) = shard.get(key) {
            return slot.clone();
        }
        if self.are_too_heavy() {
            evict_one(&mut shard, key, now);
        }
        let slot = Arc::new(Slot { weight: Weight::new(&self.total), ..Slot::default() });
        slot.state().last_used = now;
        shard.insert(key.clone(), slot.clone());
        slot
    }

    /// The connection's slot, if there is one.
    pub(super) fn existing(&self, key: &ConnectionKey) -> Option<Arc<Slot>> {
        self.shard(key).get(key).cloned()
    }

    /// Gives a slot back. One that holds nothing and that nobody else has is dropped, so that names that do not exist
    /// take no room. A slot that somebody has stays: two slots of one connection would be two refreshes of it.
    pub(super) fn give_back(&self, key: &ConnectionKey, slot: Arc<Slot>) {
        let mut shard = self.shard(key);
        drop(slot);
        if shard.get(key).is_some_and(is_empty) {
            shard.remove(key);
        }
    }

    /// Every slot.
    pub(super) fn all(&self) -> Vec<Arc<Slot>> {
        let slots = |shard: &Shard| {
            let shard = shard.lock();
            shard.values().cloned().collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(slots).collect()
    }

    /// Every slot that remembers what the store had, or what was deleted there, a moment ago.
    pub(super) fn remembering(&self, now: Duration) -> Vec<(ConnectionKey, Arc<Slot>)> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let those = shard.iter().filter(|(_, slot)| slot.state().remembers(now));
            found.extend(those.map(|(key, slot)| (key.clone(), slot.clone())));
        }
        found
    }

    /// Forgets what is too old to be lost by the store, and drops the slots that were kept for it.
    pub(super) fn forget_old(&self, now: Duration) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.retain(|_, slot| {
                let (remembers, weight) = {
                    let mut state = slot.state();
                    (state.remembers(now), state.weight())
                };
                slot.weight.set(weight);
                remembers || !is_empty(slot)
            });
        }
    }

    /// Every slot with an answer the store has not taken.
    pub(super) fn unstored(&self) -> Vec<(ConnectionKey, Arc<Slot>)> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            for (key, slot) in shard.iter() {
                let state = slot.state();
                if state.unstored.is_some() && state.renewal.is_none() {
                    found.push((key.clone(), slot.clone()));
                }
            }
        }
        found
    }

    fn shard(&self, key: &ConnectionKey) -> MutexGuard<'_, BTreeMap<ConnectionKey, Arc<Slot>>> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % SHARDS as u64).unwrap_or(0);
        self.shards[index].lock()
    }
}

/// Whether a slot holds nothing, and nobody has it but the map.
fn is_empty(slot: &Arc<Slot>) -> bool {
    let state = slot.state();
    Arc::strong_count(slot) == 1
        && state.held.is_none()
        && state.is_idle()
        && state.unchecked.is_none()
        && state.deleted.is_empty()
        && state.recent.is_none()
}

/// Evicts the least recently used of a few idle slots. When none of them is idle the shard grows by one: work under
/// way is bounded elsewhere, by the connections that callers hold open.
/// The few are the neighbours of `newcomer`, which are others each time. Says whether one went.
fn evict_one(
    shard: &mut BTreeMap<ConnectionKey, Arc<Slot>>,
    newcomer: &ConnectionKey,
    now: Duration,
) -> bool {
    const SAMPLE: usize = 16;
    /// What the store might lose, and what is known of a trouble, is as good as used so long ago: it goes after what nobody used for
    /// longer, and before what is in use.
    const OF_VALUE: Duration = Duration::from_secs(30);
    let oldest = shard
        .range(newcomer..)
        .chain(shard.range(..newcomer))
        .take(SAMPLE)
        .filter_map(|(key, slot)| {
            let state = slot.state();
            let unused_for = now.saturating_sub(state.last_used);
            let is_of_value =
                state.recent.is_some() || !state.trouble.is_empty() || state.held_back.is_some();
            let unused_for = if is_of_value { unused_for.min(OF_VALUE) } else { unused_for };
            // Arcs are made under the shard's lock alone: a slot that only the map has is nobody's.
            (Arc::strong_count(slot) == 1 && state.is_idle() && state.deleted.is_empty())
                .then(|| (unused_for, key.clone()))
        })
        .max_by_key(|(unused_for, _)| *unused_for)
        .map(|(_, key)| key);
    oldest.is_some_and(|key| shard.remove(&key).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::{AppName, ConnectionName};

    fn key(number: usize) -> ConnectionKey {
        ConnectionKey {
            app: AppName::parse("outlook").expect("name"),
            connection: ConnectionName::parse(&format!("user-{number}")).expect("name"),
        }
    }

    #[test]
    fn slots_are_bounded_and_those_at_work_stay() {
        let slots = Slots::new(SHARDS * Weight::new(&Total::default()).bytes());
        let busy = slots.slot(&key(0), Duration::ZERO);
        busy.state().renewal = Some(Flight::start().0);
        let in_use = slots.slot(&key(1), Duration::ZERO);
        drop(busy);
        for number in 2..2000 {
            slots.slot(&key(number), Duration::from_secs(1));
        }
        let kept: usize = slots.shards.iter().map(|shard| shard.lock().len()).sum();
        assert!(kept <= SHARDS * 2, "{kept}");
        assert!(slots.existing(&key(0)).is_some());
        assert!(slots.existing(&key(1)).is_some_and(|slot| Arc::ptr_eq(&slot, &in_use)));
    }

    #[test]
    fn bytes_are_bounded_whatever_comes_and_a_smaller_bound_is_met_by_those_who_come() {
        let empty = Weight::new(&Total::default());
        let one = empty.bytes();
        let slots = Slots::new(640 * one);
        for number in 0..5000 {
            slots.slot(&key(number), Duration::from_secs(1));
        }
        let total = || slots.total.load(Ordering::Acquire);
        let kept = || slots.shards.iter().map(|shard| shard.lock().len()).sum::<usize>();
        assert!(total() <= (640 + SHARDS) * one && kept() >= 320, "{} {}", total() / one, kept());
        assert_eq!(total(), kept() * one);
        slots.keep_at_most(64 * one);
        for number in 0..5000 {
            let slot = slots.slot(&key(number), Duration::from_secs(2));
            slots.weigh(&key(number), &slot, Duration::from_secs(2));
        }
        assert!(total() <= (64 + SHARDS) * one, "{}", total() / one);
    }

    /// What is in use stays before what the store might lose, and that before what nobody used for longer.
    #[test]
    fn the_slot_goes_that_matters_least() {
        let held_back = Trouble {
            until: Duration::from_secs(999),
            failures: 1,
            failure: Arc::new(Failure::NotFound),
            about: None,
        };
        let mut shard = BTreeMap::new();
        // (Its number, used at, whether there is trouble.)
        for (number, used_at, is_in_trouble) in
            [(1, 95, false), (2, 10, true), (3, 60, false), (4, 80, false)]
        {
            let slot = Slot::default();
            slot.state().last_used = Duration::from_secs(used_at);
            slot.state().held_back = is_in_trouble.then(|| held_back.clone());
            shard.insert(key(number), Arc::new(slot));
        }
        let mut gone = Vec::new();
        while evict_one(&mut shard, &key(0), Duration::from_secs(100)) {
            gone.extend(
                (1..5)
                    .filter(|number| !shard.contains_key(&key(*number)) && !gone.contains(number))
                    .collect::<Vec<_>>(),
            );
        }
        assert_eq!(gone, [3, 2, 4, 1]);
    }

    #[test]
    fn who_joins_without_a_permit_hurries_the_renewal_under_way_and_no_later_one() {
        use std::task::{Context, Waker};
        let slot = Slot::default();
        let is_hurried = |hurried: &mut Pin<Box<dyn Future<Output = ()> + '_>>| {
            hurried.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
        };
        let now = |slot: &Slot| {
            let mut hurried: Pin<Box<dyn Future<Output = ()> + '_>> = Box::pin(slot.hurried());
            hurried.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
        };
        slot.hurry();
        assert!(!now(&slot), "there is none");
        slot.state().renewal = Some(Flight::start().0);
        let mut waits: Pin<Box<dyn Future<Output = ()> + '_>> = Box::pin(slot.hurried());
        assert!(!is_hurried(&mut waits) && !now(&slot));
        slot.hurry();
        assert!(is_hurried(&mut waits) && now(&slot), "who waits already, and who comes to wait");
        slot.state().landed(Work::Lookup);
        assert!(now(&slot), "another work's end");
        slot.state().landed(Work::Renewal);
        slot.state().renewal = Some(Flight::start().0);
        assert!(!now(&slot), "the next one");
    }

    #[test]
    fn an_empty_slot_goes_with_the_last_who_has_it() {
        let slots = Slots::new(usize::MAX);
        let one = slots.slot(&key(0), Duration::ZERO);
        let other = slots.slot(&key(0), Duration::ZERO);
        slots.give_back(&key(0), one);
        assert!(slots.existing(&key(0)).is_some_and(|slot| Arc::ptr_eq(&slot, &other)));
        slots.give_back(&key(0), other);
        assert!(slots.existing(&key(0)).is_none());
    }

    #[tokio::test]
    async fn a_flight_whose_task_died_wakes_its_waiters() {
        let (flight, landing) = Flight::start();
        let waiter = flight.landed();
        drop(landing);
        assert!(waiter.await.is_ok());
    }
}
