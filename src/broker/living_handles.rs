//! Which handles live, as far as this replica knows: those that it made, and those that were used here. They
//! are stored nowhere, so nobody knows all of them. Pure: time is an argument.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::handle::{EndedHandles, HandleId};
use crate::domain::id::{AppName, CallerName};
use crate::domain::time::Timestamp;

/// Most handles that are remembered; beyond that, those are forgotten that end first.
const MOST: usize = 10_000;

/// The handles of one caller that one of its API keys made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LivingHandles {
    /// The caller.
    pub caller: CallerName,
    /// The id of the API key; `None` where the caller showed none.
    pub api_key: Option<String>,
    /// How many live.
    pub alive: u64,
    /// When one of them was last used here.
    pub last_used_at: Option<Timestamp>,
    /// When the last of them ends.
    pub ends_at: Timestamp,
}

/// What is remembered of a handle. It has no secret.
pub(super) struct One {
    /// The app of its connection.
    pub(super) app: AppName,
    /// The caller that made it.
    pub(super) caller: CallerName,
    /// The id of the API key that made it.
    pub(super) api_key: Option<String>,
    /// When it ends by itself.
    pub(super) expires_at: Timestamp,
    /// When it was last used.
    pub(super) used_at: Option<Timestamp>,
}

/// The memory of them.
#[derive(Default)]
pub(super) struct Living {
    all: BTreeMap<HandleId, One>,
    /// The same by when they end: who makes room must not look at all of them.
    by_end: BTreeSet<(Timestamp, HandleId)>,
    /// Whose handles were counted last: their count may have become 0.
    counted: BTreeSet<(AppName, CallerName)>,
}

impl Living {
    /// Notes a handle that was made or used.
    pub(super) fn note(&mut self, id: &HandleId, one: One) {
        if let Some(known) = self.all.get_mut(id) {
            known.used_at = known.used_at.max(one.used_at);
            return;
        }
        if self.all.len() >= MOST
            && let Some((_, first)) = self.by_end.pop_first()
        {
            self.all.remove(&first);
        }
        self.by_end.insert((one.expires_at, id.clone()));
        self.all.insert(id.clone(), one);
    }

    /// Forgets a handle that has ended.
    pub(super) fn end(&mut self, id: &HandleId) {
        if let Some(one) = self.all.remove(id) {
            self.by_end.remove(&(one.expires_at, id.clone()));
        }
    }

    /// Forgets those that are over, or that operators ended.
    pub(super) fn forget(&mut self, ended: Option<&EndedHandles>, now: Timestamp) {
        self.all.retain(|id, one| one.expires_at > now && !ended.is_some_and(|ended| ended.has(id)));
        let Living { all, by_end, .. } = self;
        by_end.retain(|(_, id)| all.contains_key(id));
    }

    /// Those that live, by caller and API key.
    pub(super) fn by_key(&self) -> Vec<LivingHandles> {
        let mut found: BTreeMap<(&str, Option<&str>), LivingHandles> = BTreeMap::new();
        for one in self.all.values() {
            let entry = found.entry((one.caller.as_str(), one.api_key.as_deref()));
            let sum = entry.or_insert_with(|| LivingHandles {
                caller: one.caller.clone(),
                api_key: one.api_key.clone(),
                alive: 0,
                last_used_at: None,
                ends_at: one.expires_at,
            });
            sum.alive += 1;
            sum.last_used_at = sum.last_used_at.max(one.used_at);
            sum.ends_at = sum.ends_at.max(one.expires_at);
        }
        found.into_values().collect()
    }

    /// How many live by app and caller, with those that had some at the last call.
    pub(super) fn counts(&mut self) -> BTreeMap<(AppName, CallerName), u64> {
        let mut counts: BTreeMap<_, u64> = BTreeMap::new();
        for one in self.all.values() {
            *counts.entry((one.app.clone(), one.caller.clone())).or_default() += 1;
        }
        let before = std::mem::replace(&mut self.counted, counts.keys().cloned().collect());
        for gone in before {
            counts.entry(gone).or_default();
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::SeededRandom;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    fn one(api_key: Option<&str>, ends: i64, used: Option<i64>) -> One {
        One {
            app: AppName::parse("outlook").expect("a name"),
            caller: CallerName::parse("mail-reader").expect("a name"),
            api_key: api_key.map(str::to_owned),
            expires_at: at(ends),
            used_at: used.map(at),
        }
    }

    #[test]
    fn those_that_live_are_counted_by_key_until_they_are_over_or_ended() {
        let ids: Vec<HandleId> = (0..4).map(|seed| HandleId::generate(&SeededRandom::new(seed))).collect();
        let mut living = Living::default();
        for (id, key, ends) in [(0, Some("k"), 50), (1, Some("k"), 90), (2, None, 90), (3, Some("k"), 90)] {
            living.note(&ids[id], one(key, ends, None));
        }
        living.note(&ids[1], one(Some("k"), 90, Some(20)));
        living.note(&ids[1], one(Some("k"), 90, Some(10)));
        let told = |living: &Living| -> Vec<_> {
            let of = |all: &LivingHandles| (all.api_key.clone(), all.alive, all.last_used_at, all.ends_at);
            living.by_key().iter().map(of).collect()
        };
        let key = Some("k".to_owned());
        assert_eq!(told(&living), [(None, 1, None, at(90)), (key.clone(), 3, Some(at(20)), at(90))]);
        let mut ended = EndedHandles::default();
        assert!(ended.end(ids[2].clone(), at(30)));
        living.forget(Some(&ended), at(50));
        assert_eq!(told(&living), [(key, 2, Some(at(20)), at(90))]);
        assert_eq!(living.counts().into_values().collect::<Vec<_>>(), [2]);
        living.end(&ids[1]);
        living.forget(None, at(90));
        assert_eq!(living.counts().into_values().collect::<Vec<_>>(), [0], "it was counted before");
        assert!(living.counts().is_empty());
    }

    #[test]
    fn of_too_many_the_one_that_ends_first_is_forgotten() {
        let mut living = Living::default();
        for number in 0..=MOST as u64 {
            let id = HandleId::generate(&SeededRandom::new(number));
            living.note(&id, one(None, 1000 + i64::try_from(number).expect("small"), None));
        }
        assert_eq!(living.all.len(), MOST);
        assert!(living.all.values().all(|one| one.expires_at > at(1000)));
    }
}
