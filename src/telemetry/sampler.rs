//! Limits on log and audit lines about events that callers can cause as often as their limits allow: the
//! first few of a kind in a second are reported one by one, and the rest in one summary.
//!
//! Invariant: every event is reported exactly once, either alone or in a summary.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::time::Duration;

/// Events of one kind reported one by one within a second: enough to see what they are, and some 5 kB of
/// audit.
pub const FIRST: u32 = 10;

/// Events already reported, for each kind. Kinds must be a closed set or come from the configuration: each
/// takes memory.
#[derive(Debug)]
pub struct Sampler<K>(Mutex<BTreeMap<K, Seen>>);

#[derive(Debug, Default)]
struct Seen {
    /// Second of the last event, by the monotonic clock.
    second: u64,
    told: u32,
    left_out: u64,
}

impl<K> Default for Sampler<K> {
    fn default() -> Self {
        Sampler(Mutex::default())
    }
}

impl<K: Ord> Sampler<K> {
    /// Returns true if one more event of this kind is reported alone; otherwise the next summary includes it.
    pub fn is_told(&self, kind: K, monotonic: Duration) -> bool {
        let mut kinds = self.lock();
        let seen = kinds.entry(kind).or_default();
        if seen.second != monotonic.as_secs() {
            seen.second = monotonic.as_secs();
            seen.told = 0;
        }
        let is_told = seen.told < FIRST;
        seen.told += u32::from(is_told);
        seen.left_out += u64::from(!is_told);
        is_told
    }

    /// Returns how many events of each kind were left out since the last summary.
    pub fn sums(&self, monotonic: Duration) -> Vec<(K, u64)>
    where
        K: Clone,
    {
        let mut kinds = self.lock();
        let sums = kinds.iter_mut().filter(|(_, seen)| seen.left_out > 0);
        let sums = sums.map(|(kind, seen)| (kind.clone(), std::mem::take(&mut seen.left_out))).collect();
        kinds.retain(|_, seen| seen.second == monotonic.as_secs());
        sums
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, Seen>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_few_of_each_kind_are_told_and_the_rest_is_in_one_sum() {
        let sampler = Sampler::default();
        let told = |kind: &'static str, at| (0..1000).filter(|_| sampler.is_told(kind, at)).count();
        assert_eq!((told("a", SECOND), told("b", SECOND)), (10, 10), "no kind takes another's place");
        assert_eq!(told("a", SECOND * 2), 10);
        assert_eq!(sampler.sums(SECOND * 2), [("a", 1980), ("b", 990)]);
        assert_eq!(sampler.sums(SECOND * 2), [], "nothing is told twice");
        // A summary makes no new room within its second.
        assert_eq!(told("a", SECOND * 2), 0);
        assert_eq!(sampler.sums(SECOND * 3), [("a", 1000)]);
        assert!(sampler.lock().is_empty(), "what is over is forgotten");
    }
}
