//! When connections are due, as Redis keeps it: in shards, ordered by time, so that asking what is due costs
//! what is due. Uses are kept apart, so one that is noted before the connection is scheduled counts; in the
//! embedded store it does not.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::id::ConnectionKey;
use crate::domain::time::Timestamp;
use crate::store::{Due, SWEEP_SHARDS, keyspace};

#[derive(Clone, Default)]
struct Entry {
    due_at: Option<Timestamp>,
    used_at: Option<Timestamp>,
}

/// The schedule of a store.
#[derive(Clone, Default)]
pub(super) struct Schedule {
    entries: BTreeMap<ConnectionKey, Entry>,
    /// Entries with a time, by shard.
    due: BTreeMap<u8, BTreeSet<(Timestamp, ConnectionKey)>>,
}

impl Schedule {
    pub(super) fn set(&mut self, key: &ConnectionKey, due_at: Option<Timestamp>) {
        let entry = self.entries.entry(key.clone()).or_default();
        let before = std::mem::replace(&mut entry.due_at, due_at);
        let shard = self.due.entry(keyspace::shard(key)).or_default();
        if let Some(before) = before {
            shard.remove(&(before, key.clone()));
        }
        if let Some(due_at) = due_at {
            shard.insert((due_at, key.clone()));
        }
    }

    pub(super) fn mark_used(&mut self, key: &ConnectionKey, at: Timestamp) {
        let used = &mut self.entries.entry(key.clone()).or_default().used_at;
        *used = (*used).max(Some(at));
    }

    /// Returns a shard's connections due at `until`, the longest due first.
    pub(super) fn due(&self, shard: u8, until: Timestamp, limit: usize) -> Vec<Due> {
        let of_shard = self.due.get(&(shard % SWEEP_SHARDS)).into_iter().flatten();
        let due = of_shard.take_while(|(due_at, _)| *due_at <= until).take(limit);
        let told = |(due_at, key): &(Timestamp, ConnectionKey)| Due {
            key: key.clone(),
            due_at: *due_at,
            used_at: self.entries.get(key).and_then(|entry| entry.used_at),
        };
        due.map(told).collect()
    }

    pub(super) fn remove(&mut self, key: &ConnectionKey) {
        self.set(key, None);
        self.entries.remove(key);
    }
}
