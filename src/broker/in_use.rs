//! Values shared by their users and kept by key. The first user creates the value, and the last one removes
//! it.
//!
//! All of this happens under one lock, so no second value is created between the end of the last use and the
//! removal, and nothing is left of an unused key. Creation and drop of a value also run under that lock and
//! must not use the same map.

use parking_lot::{Mutex, MutexGuard};
use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The values in use, by key.
pub(super) struct InUse<K, V> {
    all: All<K, V>,
}

type All<K, V> = Arc<Mutex<BTreeMap<K, Shared<V>>>>;

struct Shared<V> {
    value: V,
    users: usize,
}

/// One user's share of a value.
pub(super) struct Use<K: Ord, V> {
    key: K,
    all: All<K, V>,
}

impl<K, V> Default for InUse<K, V> {
    fn default() -> Self {
        InUse { all: Arc::default() }
    }
}

impl<K: Ord + Clone, V> InUse<K, V> {
    /// Shares the value of this key; `make` creates it if nobody uses it.
    pub(super) fn share(&self, key: K, make: impl FnOnce() -> V) -> Use<K, V> {
        let mut all = lock(&self.all);
        all.entry(key.clone()).or_insert_with(|| Shared { value: make(), users: 0 }).users += 1;
        Use { key, all: Arc::clone(&self.all) }
    }

    /// Like [`share`](Self::share), if fewer than `most` share it and, if it must be created, `make` returns
    /// one.
    pub(super) fn try_share(
        &self,
        key: K,
        most: usize,
        make: impl FnOnce() -> Option<V>,
    ) -> Option<Use<K, V>> {
        let mut all = lock(&self.all);
        match all.get_mut(&key) {
            Some(shared) if shared.users < most => shared.users += 1,
            Some(_) => return None,
            None if most == 0 => return None,
            None => {
                let value = make()?;
                all.insert(key.clone(), Shared { value, users: 1 });
            }
        }
        Some(Use { key, all: Arc::clone(&self.all) })
    }
}

impl<K: Ord, V> InUse<K, V> {
    /// Passes the value of this key to `use_it`, if it is in use.
    pub(super) fn with<Q: Ord + ?Sized>(&self, key: &Q, use_it: impl FnOnce(&V))
    where
        K: Borrow<Q>,
    {
        if let Some(shared) = lock(&self.all).get(key) {
            use_it(&shared.value);
        }
    }

    /// Passes all values in use to `use_it`.
    pub(super) fn for_each(&self, use_it: impl Fn(&V)) {
        for shared in lock(&self.all).values() {
            use_it(&shared.value);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        lock(&self.all).is_empty()
    }
}

impl<K: Ord, V> Use<K, V> {
    /// Passes the shared value to `use_it`.
    pub(super) fn with<T>(&self, use_it: impl FnOnce(&V) -> T) -> T {
        let all = lock(&self.all);
        use_it(&all.get(&self.key).expect("it is there for as long as somebody uses it").value)
    }
}

impl<K: Ord, V> Drop for Use<K, V> {
    fn drop(&mut self) {
        let mut all = lock(&self.all);
        let is_last = all.get_mut(&self.key).is_some_and(|shared| {
            shared.users -= 1;
            shared.users == 0
        });
        if is_last {
            all.remove(&self.key);
        }
    }
}

fn lock<K, V>(all: &All<K, V>) -> MutexGuard<'_, BTreeMap<K, Shared<V>>> {
    all.lock()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    /// Records when it ends.
    struct Value(u32, Arc<Mutex<Vec<u32>>>);

    impl Drop for Value {
        fn drop(&mut self) {
            self.1.lock().push(self.0);
        }
    }

    /// A step, and what is created, ended and in use after it.
    enum Step {
        /// Shares the key, among at most this many; a created value gets that number.
        Share(&'static str, usize, u32),
        /// The same when nothing can be created.
        Barren(&'static str),
        /// The user at that index leaves.
        Leave(usize),
    }

    #[test]
    fn the_first_makes_it_the_last_ends_it_and_nothing_is_left() {
        use Step::{Barren, Leave, Share};

        let ended = Arc::new(Mutex::new(Vec::new()));
        let values: InUse<&'static str, Value> = InUse::default();
        let mut users: Vec<Option<Use<&'static str, Value>>> = Vec::new();
        for (at, (step, shares, in_use, ends)) in [
            (Barren("a"), None, 0, 0),
            (Share("a", 3, 1), Some(1), 1, 0),
            (Share("a", 3, 2), Some(1), 1, 0),
            (Barren("a"), Some(1), 1, 0),
            (Share("a", 3, 3), None, 1, 0),
            (Share("b", 1, 4), Some(4), 2, 0),
            (Share("b", 1, 5), None, 2, 0),
            (Share("c", 0, 6), None, 2, 0),
            (Leave(1), None, 2, 0),
            (Share("a", 3, 7), Some(1), 2, 0),
            (Leave(2), None, 2, 0),
            (Leave(3), None, 2, 0),
            (Leave(9), None, 1, 1),
            (Share("a", 3, 8), Some(8), 2, 1),
            (Leave(5), None, 1, 2),
            (Leave(13), None, 0, 3),
        ]
        .into_iter()
        .enumerate()
        {
            let user = match step {
                Share(key, most, number) => {
                    values.try_share(key, most, || Some(Value(number, Arc::clone(&ended))))
                }
                Barren(key) => values.try_share(key, usize::MAX, || None),
                Leave(place) => {
                    users[place] = None;
                    None
                }
            };
            assert_eq!(user.as_ref().map(|user| user.with(|value| value.0)), shares, "step {at}");
            users.push(user);
            let counted = AtomicUsize::new(0);
            values.for_each(|_| _ = counted.fetch_add(1, Ordering::AcqRel));
            let ends_now = ended.lock().len();
            assert_eq!((counted.into_inner(), ends_now), (in_use, ends), "step {at}");
        }
        assert_eq!(*ended.lock(), [1, 4, 8]);
        assert!(values.is_empty());
        let looked = AtomicBool::new(false);
        values.with("a", |_| looked.store(true, Ordering::Release));
        assert!(!looked.into_inner(), "nobody uses it");
        let user = values.share("a", || Value(9, Arc::clone(&ended)));
        let other = values.share("a", || Value(10, Arc::clone(&ended)));
        values.with("a", |value| assert_eq!(value.0, 9));
        drop((user, other));
        assert!(values.is_empty());
    }

    /// A key never has two values, even if a user comes while the last one leaves.
    #[test]
    fn whoever_comes_while_the_last_one_leaves_shares_or_makes_anew() {
        struct Alone(Arc<AtomicBool>);
        impl Drop for Alone {
            fn drop(&mut self) {
                assert!(self.0.swap(false, Ordering::AcqRel), "it ends once");
            }
        }
        let there: [Arc<AtomicBool>; 3] = Default::default();
        let values: InUse<usize, Alone> = InUse::default();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (there, values) = (&there, &values);
                scope.spawn(move || {
                    for number in 0..5000 {
                        let key = (number + thread) % there.len();
                        let make = || {
                            assert!(!there[key].swap(true, Ordering::AcqRel), "there are two of one key");
                            Some(Alone(Arc::clone(&there[key])))
                        };
                        if let Some(user) = values.try_share(key, 3, make) {
                            assert!(user.with(|value| value.0.load(Ordering::Acquire)), "it is there");
                        }
                    }
                });
            }
        });
        assert!(values.is_empty() && there.iter().all(|there| !there.load(Ordering::Acquire)));
    }
}
