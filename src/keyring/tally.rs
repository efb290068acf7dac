//! Counts of the records that need each key. A key may be retired after it was counted zero twice, long
//! enough apart.
//!
//! One count is not enough. A record written a moment ago is kept in memory for a while, to be written again
//! if the store loses it. And a replica that still sealed with the key when a walk began may have written a
//! record behind the walk.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::KeyId;
use crate::domain::time::Timestamp;

/// Least time between a walk that found no record and the next one: longer than any record is kept in memory
/// to be written again.
pub const COUNTED_AGAIN_AFTER: Duration = Duration::from_secs(120);

/// How long counts allow a key to be retired. Nothing is counted again and again once every key but the
/// primary was counted zero twice, so an operator's act needs counts of its own.
pub const COUNT_LASTS: Duration = Duration::from_secs(600);

/// Result of one walk over all sealed records.
#[derive(Debug, Clone)]
pub struct Walked {
    /// Records by the key they need, including keys that the ring lacks.
    pub records: BTreeMap<KeyId, u64>,
    /// Those of them that expire by themselves.
    pub passing: BTreeMap<KeyId, u64>,
    /// Keys that some replica may have sealed with during the walk.
    pub sealing: BTreeSet<KeyId>,
    /// Monotonic time of its start …
    pub began: Duration,
    /// … and of its end.
    pub ended: Duration,
    /// Wall time of its end.
    pub at: Timestamp,
}

/// Counts for each key. A key without an entry was never counted.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    by_key: BTreeMap<KeyId, Counted>,
    /// Monotonic time of the end of the last walk.
    ended: Option<Duration>,
}

/// Count for one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Records that need the key …
    pub records: u64,
    /// … and how many of them expire by themselves.
    pub passing: u64,
    /// When they were counted.
    pub at: Timestamp,
    /// Since when no walk has found a replica that seals with it; `None` while one does.
    pub unused_since: Option<Timestamp>,
    /// Since when every walk has found no record, and no replica sealed with it.
    pub none_since: Option<Timestamp>,
    /// Monotonic time of `none_since`.
    since: Duration,
    /// True if a later walk found none either, and lately.
    again: bool,
    /// The same, however long ago.
    is_proven: bool,
}

/// Reason why a key may not be retired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Needed {
    /// API keys from before 0.2 are recognized by hashes made with it, and would stop working.
    ApiKeys(BTreeSet<String>),
    /// Records need it.
    Records {
        /// Number of records.
        records: u64,
        /// Number of these that expire by themselves.
        passing: u64,
        /// Since when no replica seals with it, if known.
        unused_since: Option<Timestamp>,
    },
    /// It was never counted, or a replica still sealed with it at the last count.
    NotCounted,
    /// It was counted zero only once, at this instant.
    CountedOnce(Timestamp),
}

impl Tally {
    /// Takes in the result of a walk. `ring` has the keys of the keyring.
    pub fn note(&mut self, ring: &BTreeSet<KeyId>, walked: &Walked) {
        let before = std::mem::take(&mut self.by_key);
        self.ended = Some(walked.ended);
        for id in ring.iter().chain(walked.records.keys()) {
            let records = walked.records.get(id).copied().unwrap_or(0);
            let passing = walked.passing.get(id).copied().unwrap_or(0);
            let (at, since) = (walked.at, walked.ended);
            let unused_since = (!walked.sealing.contains(id))
                .then(|| before.get(id).and_then(|before| before.unused_since).unwrap_or(at));
            let mut counted = Counted {
                records,
                passing,
                at,
                unused_since,
                none_since: None,
                since,
                again: false,
                is_proven: false,
            };
            if records == 0 && !walked.sealing.contains(id) {
                counted.none_since = Some(walked.at);
                counted.is_proven = before.get(id).is_some_and(|before| before.is_proven);
                if let Some(first) = before.get(id).filter(|before| before.none_since.is_some()) {
                    counted.none_since = first.none_since;
                    counted.since = first.since;
                    let apart = walked.began.checked_sub(first.since);
                    counted.again = first.again || apart.is_some_and(|apart| apart >= COUNTED_AGAIN_AFTER);
                    counted.is_proven |= counted.again;
                }
            }
            self.by_key.insert(id.clone(), counted);
        }
    }

    /// Forgets zero counts of a key, because a replica may have sealed with it since.
    pub(super) fn forget_none(&mut self, id: &str) {
        if let Some(counted) = self.by_key.get_mut(id) {
            counted.unused_since = None;
            counted.none_since = None;
            counted.again = false;
            counted.is_proven = false;
        }
    }

    /// Time passes: old counts of zero allow nothing any more, and a key is counted zero twice anew.
    pub(super) fn age(&mut self, now: Duration) {
        if self.ended.is_some_and(|ended| now.saturating_sub(ended) > COUNT_LASTS) {
            for counted in self.by_key.values_mut() {
                counted.none_since = None;
                counted.again = false;
            }
        }
    }

    /// Whether the key was counted zero twice and nobody is known to have sealed with it since, however long
    /// ago the counts were.
    pub fn is_proven(&self, id: &str) -> bool {
        self.by_key.get(id).is_some_and(|counted| counted.is_proven)
    }

    /// When the next walk is due, as monotonic time; at once if there was none. While anything but the
    /// `primary` is or may be in use, or counts are `wanted`, records are counted every `often`; otherwise
    /// `rarely`.
    pub fn next_walk_at(
        &self,
        ring: &BTreeSet<KeyId>,
        primary: &str,
        wanted: bool,
        (often, rarely): (Duration, Duration),
    ) -> Duration {
        let Some(ended) = self.ended else { return Duration::ZERO };
        let mut others = ring.iter().chain(self.by_key.keys()).filter(|id| *id != primary);
        let is_settled = others.all(|id| self.is_proven(id) || !ring.contains(id) && self.records(id) == 0);
        ended.saturating_add(if wanted || !is_settled { often } else { rarely })
    }

    fn records(&self, id: &str) -> u64 {
        self.by_key.get(id).map_or(0, |counted| counted.records)
    }

    /// Returns the count for a key.
    pub fn of(&self, id: &str) -> Option<&Counted> {
        self.by_key.get(id)
    }

    /// Iterates over all counted keys.
    pub fn keys(&self) -> impl Iterator<Item = (&KeyId, &Counted)> {
        self.by_key.iter()
    }

    /// Returns whether the counts allow a key to be retired.
    pub(super) fn may_go(&self, id: &str) -> Result<(), Needed> {
        match self.by_key.get(id) {
            Some(&Counted { records, passing, unused_since, .. }) if records > 0 => {
                Err(Needed::Records { records, passing, unused_since })
            }
            Some(Counted { none_since: Some(_), again: true, .. }) => Ok(()),
            Some(Counted { none_since: Some(since), .. }) => Err(Needed::CountedOnce(*since)),
            Some(_) | None => Err(Needed::NotCounted),
        }
    }
}

impl fmt::Display for Needed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Needed::ApiKeys(names) => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let names = names.join(", ");
                write!(
                    f,
                    "API keys are known by hashes made with it: replace {names} first (callers add-key, \
                     callers retire-key)"
                )
            }
            Needed::Records { records, passing, .. } => {
                let (kind, verb) = match (records == passing, records) {
                    (true, 1) => ("short-lived record", "is"),
                    (true, _) => ("short-lived records", "are"),
                    (false, 1) => ("record", "is"),
                    (false, _) => ("records", "are"),
                };
                write!(f, "{records} {kind} {verb} still sealed with it")?;
                match passing {
                    0 => Ok(()),
                    1 if *records == 1 => f.write_str(" and goes by itself"),
                    _ if records == passing => f.write_str(" and go by themselves"),
                    _ => write!(f, ", {passing} of them short-lived"),
                }
            }
            Needed::NotCounted => {
                f.write_str("it was not counted lately since nobody seals with it; that happens now")
            }
            Needed::CountedOnce(at) => write!(
                f,
                "it was counted zero only once, at {}; the next count that begins {} s later decides",
                at.rfc3339(),
                COUNTED_AGAIN_AFTER.as_secs()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walked(records: u64, sealing: bool, began: u64) -> Walked {
        Walked {
            records: [("old".to_owned(), records)].into_iter().filter(|(_, count)| *count > 0).collect(),
            passing: BTreeMap::new(),
            sealing: sealing.then(|| "old".to_owned()).into_iter().collect(),
            began: Duration::from_secs(began),
            ended: Duration::from_secs(began + 10),
            at: Timestamp::from_unix_seconds(i64::try_from(began + 10).expect("small")),
        }
    }

    #[test]
    fn a_key_may_go_when_it_was_counted_zero_twice_long_enough_apart_and_nobody_sealed_with_it() {
        let once = |seconds| Err(Needed::CountedOnce(Timestamp::from_unix_seconds(seconds)));
        let left = |records, since| {
            let unused_since = Some(Timestamp::from_unix_seconds(since));
            Err(Needed::Records { records, passing: 0, unused_since })
        };
        // Records, whether a replica sealed with the key, and when the walk began.
        for (walks, expected) in [
            (&[][..], Err(Needed::NotCounted)),
            (&[(0, false, 0)][..], once(10)),
            (&[(3, false, 0)], left(3, 10)),
            (&[(0, true, 0), (0, true, 500)], Err(Needed::NotCounted)),
            (&[(0, true, 0), (0, false, 500)], once(510)),
            (&[(0, false, 0), (0, false, 100)], once(10)),
            (&[(0, false, 0), (0, false, 129)], once(10)),
            (&[(0, false, 0), (0, false, 130)], Ok(())),
            (&[(0, false, 0), (0, false, 100), (0, false, 130)], Ok(())),
            (&[(0, false, 0), (0, false, 130), (0, false, 150)], Ok(())),
            (&[(0, false, 0), (1, false, 50), (0, false, 130)], once(140)),
            (&[(0, false, 0), (0, true, 50), (0, false, 130)], once(140)),
            (&[(0, false, 0), (0, false, 130), (1, false, 150)], left(1, 10)),
            (&[(3, false, 0), (3, true, 100), (3, false, 200)], left(3, 210)),
        ] {
            let mut tally = Tally::default();
            for (records, sealing, began) in walks {
                tally.note(&BTreeSet::from(["old".to_owned()]), &walked(*records, *sealing, *began));
            }
            assert_eq!(tally.may_go("old"), expected, "{walks:?}");
        }
    }

    fn ring() -> BTreeSet<KeyId> {
        BTreeSet::from(["new".to_owned(), "old".to_owned()])
    }

    #[test]
    fn old_counts_allow_nothing_and_two_new_ones_do() {
        let mut tally = Tally::default();
        let seconds = Duration::from_secs;
        for began in [0, 130] {
            tally.note(&ring(), &walked(0, false, began));
        }
        tally.age(seconds(140) + COUNT_LASTS);
        assert_eq!(tally.may_go("old"), Ok(()));
        tally.age(seconds(141) + COUNT_LASTS);
        assert_eq!(tally.may_go("old"), Err(Needed::NotCounted));
        assert!(tally.is_proven("old"), "which other replicas ask about");
        tally.note(&ring(), &walked(0, false, 1000));
        assert!(matches!(tally.may_go("old"), Err(Needed::CountedOnce(_))));
        tally.note(&ring(), &walked(0, false, 1130));
        assert_eq!(tally.may_go("old"), Ok(()));
    }

    #[test]
    fn records_are_counted_often_until_every_other_key_is_proven_unused_and_then_rarely() {
        let seconds = Duration::from_secs;
        let pace = (seconds(30), seconds(86_400));
        let next = |tally: &Tally, wanted| tally.next_walk_at(&ring(), "new", wanted, pace).as_secs();
        let mut tally = Tally::default();
        assert_eq!(next(&tally, false), 0);
        // Records, whether a replica sealed with it, when the walk began, and how long until the next.
        for (records, sealing, began, pause) in [
            (3, false, 0, 30),
            (0, true, 50, 30),
            (0, false, 100, 30),
            (0, false, 150, 30),
            (0, false, 230, 86_400),
            (0, true, 300, 30),
            (0, false, 400, 30),
            (0, false, 530, 86_400),
        ] {
            tally.note(&ring(), &walked(records, sealing, began));
            assert_eq!(next(&tally, false), began + 10 + pause, "{began}");
            assert_eq!(next(&tally, true), began + 10 + 30, "{began}");
        }
        tally.age(seconds(100_000));
        assert_eq!(next(&tally, false), 540 + 86_400, "age alone makes nobody count");
        tally.forget_none("old");
        assert_eq!(next(&tally, false), 540 + 30);
    }

    #[test]
    fn keys_that_the_ring_lacks_are_counted_for_as_long_as_a_record_names_them() {
        let mut tally = Tally::default();
        tally.note(&BTreeSet::new(), &walked(2, false, 0));
        assert_eq!(tally.of("old").map(|counted| counted.records), Some(2));
        tally.note(&BTreeSet::from(["new".to_owned()]), &walked(0, false, 50));
        assert_eq!(tally.keys().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["new"]);
    }
}
