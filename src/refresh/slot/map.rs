//! All slots in use, in shards, bounded by the memory that they take.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::flight::Work;
use super::state::{Slot, State};
use super::weight::{self, Total, Weight};
use crate::domain::id::ConnectionKey;

/// Shards, so that slots of different connections do not share a lock.
const SHARDS: usize = 64;

/// Ordered, so that work over all slots has the same order in every run, and names with colliding hashes gain
/// nothing.
type Shard = Mutex<BTreeMap<ConnectionKey, Arc<Slot>>>;

/// All slots in use.
pub(in crate::refresh) struct Slots {
    shards: Vec<Shard>,
    total: Total,
    most_bytes: AtomicUsize,
}

impl Slots {
    /// Keeps at most about `most_bytes` of slots. The least recently used one of a sample is evicted first.
    pub(in crate::refresh) fn new(most_bytes: usize) -> Self {
        Slots {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            total: Total::default(),
            most_bytes: AtomicUsize::new(most_bytes),
        }
    }

    /// Changes the bound.
    pub(in crate::refresh) fn keep_at_most(&self, most_bytes: usize) {
        self.most_bytes.store(most_bytes, Ordering::Release);
    }

    fn are_too_heavy(&self) -> bool {
        self.total.load(Ordering::Acquire) > self.most_bytes.load(Ordering::Acquire)
    }

    /// Weighs a slot that changed, and evicts others if all together are too heavy.
    pub(in crate::refresh) fn weigh(&self, key: &ConnectionKey, slot: &Slot, now: Duration) {
        // More than one, since the new one may be heavier than an evicted one.
        const MOST_AT_ONCE: usize = 8;
        slot.weight.set(weight_of(&slot.state()));
        if self.are_too_heavy() {
            let mut shard = self.shard(key);
            let mut evicted = 0;
            while evicted < MOST_AT_ONCE && self.are_too_heavy() && evict_one(&mut shard, key, now) {
                evicted += 1;
            }
        }
    }

    /// The connection's slot, made if there is none.
    pub(in crate::refresh) fn slot(&self, key: &ConnectionKey, now: Duration) -> Arc<Slot> {
        let mut shard = self.shard(key);
        if let Some(slot) = shard.get(key) {
            return slot.clone();
        }
        if self.are_too_heavy() {
            evict_one(&mut shard, key, now);
        }
        let slot = Arc::new(Slot::weighed(Weight::new(&self.total)));
        slot.state().usage.at(now);
        shard.insert(key.clone(), slot.clone());
        slot
    }

    /// The connection's slot, if there is one.
    pub(in crate::refresh) fn existing(&self, key: &ConnectionKey) -> Option<Arc<Slot>> {
        self.shard(key).get(key).cloned()
    }

    /// Gives a slot back. It is dropped if it knows nothing and nobody else has it, so that names that do not
    /// exist take no room. A slot in use stays: two slots of one connection would make two refreshes of it.
    pub(in crate::refresh) fn give_back(&self, key: &ConnectionKey, slot: Arc<Slot>) {
        let mut shard = self.shard(key);
        drop(slot);
        if shard.get(key).is_some_and(is_empty) {
            shard.remove(key);
        }
    }

    /// Every slot.
    pub(in crate::refresh) fn all(&self) -> Vec<Arc<Slot>> {
        let slots = |shard: &Shard| {
            let shard = shard.lock();
            shard.values().cloned().collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(slots).collect()
    }

    /// Every slot that remembers a write or a delete which a failover of the store may take back.
    pub(in crate::refresh) fn remembering(&self, now: Duration) -> Vec<(ConnectionKey, Arc<Slot>)> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let those = shard.iter().filter(|(_, slot)| slot.state().memory.remembers(now));
            found.extend(those.map(|(key, slot)| (key.clone(), slot.clone())));
        }
        found
    }

    /// Forgets writes that are too old for a failover to take back, and drops the slots that were kept for
    /// them.
    pub(in crate::refresh) fn forget_old(&self, now: Duration) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.retain(|_, slot| {
                let (remembers, weight) = {
                    let mut state = slot.state();
                    (state.memory.remembers(now), weight_of(&state))
                };
                slot.weight.set(weight);
                remembers || !is_empty(slot)
            });
        }
    }

    /// Every slot with an unstored answer.
    pub(in crate::refresh) fn unstored(&self) -> Vec<(ConnectionKey, Arc<Slot>)> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            for (key, slot) in shard.iter() {
                let state = slot.state();
                if state.memory.answer().is_some() && state.flights.under_way(Work::Renewal).is_none() {
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

/// About how many bytes a slot takes.
fn weight_of(state: &State) -> usize {
    let recent = state.memory.recent().map(|recent| (recent.held.as_ref(), recent.sealed.as_ref()));
    weight::of(state.memory.cached().map(Arc::as_ref), recent)
}

/// Whether a slot knows nothing, and only the map has it.
fn is_empty(slot: &Arc<Slot>) -> bool {
    let state = slot.state();
    Arc::strong_count(slot) == 1 && state.memory.is_empty() && state.flights.are_idle()
}

/// Evicts the least recently used of a few idle slots, the neighbours of `newcomer`, which differ each time.
/// Returns whether one was evicted. If none is idle, the shard grows by one: the callers' open connections
/// bound the work under way.
fn evict_one(
    shard: &mut BTreeMap<ConnectionKey, Arc<Slot>>,
    newcomer: &ConnectionKey,
    now: Duration,
) -> bool {
    const SAMPLE: usize = 16;
    /// A slot that remembers a write or a trouble counts as used at most this long ago. So it is evicted
    /// after slots that were unused for longer, and before slots in use.
    const OF_VALUE: Duration = Duration::from_secs(30);
    let oldest = shard
        .range(newcomer..)
        .chain(shard.range(..newcomer))
        .take(SAMPLE)
        .filter_map(|(key, slot)| {
            let state = slot.state();
            let unused_for = now.saturating_sub(state.usage.last);
            let is_of_value = state.memory.recent().is_some() || state.troubles.is_known();
            let unused_for = if is_of_value { unused_for.min(OF_VALUE) } else { unused_for };
            // References are made only under the shard's lock, so nobody gets one meanwhile.
            (Arc::strong_count(slot) == 1 && state.flights.are_idle() && !state.memory.is_needed())
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
    use crate::domain::verdict::{AuthorityError, AuthorityFailure, Disposition};
    use crate::refresh::slot::Flight;
    use crate::testkit::SeededRandom;

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
        busy.state().flights.started(Work::Renewal, Flight::new().0);
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
        let random = SeededRandom::new(1);
        let failure = || AuthorityFailure {
            doing: "refreshing a grant",
            cause: String::new(),
            disposition: Disposition::RetryAfter(None),
            answer: AuthorityError::default(),
            claims: None,
        };
        let mut shard = BTreeMap::new();
        // (Its number, used at, whether there is trouble.)
        for (number, used_at, is_in_trouble) in
            [(1, 95, false), (2, 10, true), (3, 60, false), (4, 80, false)]
        {
            let slot = Slot::default();
            slot.state().usage.at(Duration::from_secs(used_at));
            if is_in_trouble {
                slot.state().troubles.throttle(Duration::from_secs(999), failure(), Duration::ZERO, &random);
            }
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
    fn an_empty_slot_goes_with_the_last_who_has_it() {
        let slots = Slots::new(usize::MAX);
        let one = slots.slot(&key(0), Duration::ZERO);
        let other = slots.slot(&key(0), Duration::ZERO);
        slots.give_back(&key(0), one);
        assert!(slots.existing(&key(0)).is_some_and(|slot| Arc::ptr_eq(&slot, &other)));
        slots.give_back(&key(0), other);
        assert!(slots.existing(&key(0)).is_none());
    }
}
