//! How old a tenant lets a sign-in become. Nobody tells that; each grant that ended by its age shows it
//! within bounds: it worked at one age, and was refused at another. What several grants show is what they
//! have in common.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Certainty;
use crate::domain::connection::{Profile, Status};
use crate::domain::digest::sha256_hex;
use crate::domain::id::ConnectionName;
use crate::domain::time::Timestamp;

/// AADSTS numbers of a grant that ended by the age of its sign-in: sign-in frequency (70043, 70044, and 50078
/// for the second factor), and the fixed life that a redirect URI of type `spa` gives (700081, 700084).
/// (Entra error-code reference.)
const BY_AGE: [u32; 5] = [70043, 70044, 50078, 700081, 700084];
/// How often an age must have been seen to be likely.
const OFTEN: u32 = 3;
/// How long what was seen counts: a policy may be gone, and grants that live longer show that late.
const COUNTS_FOR: Duration = Duration::from_secs(180 * 86_400);
/// Most tenants of an app that are remembered: those that were seen last.
const MOST_TENANTS: usize = 1000;

/// The end of one grant by its age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenEnd {
    /// The age at which it last worked.
    pub worked_at: Duration,
    /// The age at which it was refused.
    pub refused_at: Duration,
    /// When that was.
    pub at: Timestamp,
    /// Tells it apart from other ends, if it is told twice. No name stands in the record.
    pub mark: u64,
}

impl SeenEnd {
    /// What the refusal of a connection's grant with these numbers shows, if it is about its age. `before`:
    /// the connection before the refusal.
    pub fn of(
        connection: &ConnectionName,
        before: &Profile,
        error_codes: &[u32],
        now: Timestamp,
    ) -> Option<Self> {
        let is_first = !matches!(before.status(), Status::NeedsReauthorization(_));
        let age = |at: Timestamp| at.since(before.connected_at());
        let (worked_at, refused_at) = (age(before.last_refreshed_at()), age(now));
        let is_by_age = error_codes.iter().any(|code| BY_AGE.contains(code));
        (is_first && is_by_age && worked_at < refused_at).then_some(SeenEnd {
            worked_at,
            refused_at,
            at: now,
            mark: mark(connection, now),
        })
    }
}

fn mark(connection: &ConnectionName, at: Timestamp) -> u64 {
    let digest = sha256_hex(format!("{connection} {}", at.unix_millis()).as_bytes());
    u64::from_str_radix(&digest[..16], 16).unwrap_or_default()
}

/// The age at which a tenant's grants end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frequency {
    /// Seconds: every grant that counts still worked at this age.
    more_than: u64,
    /// Seconds: none of them worked at this age any more.
    at_most: u64,
    /// How many grants showed it.
    seen: u32,
    /// When one last did.
    seen_at: Timestamp,
    /// Marks of those that were counted last, as many as matter: none counts twice.
    #[serde(default)]
    counted: [u64; OFTEN as usize],
}

impl Frequency {
    /// What one grant shows.
    pub fn of(end: SeenEnd) -> Self {
        let seconds = |age: Duration| age.as_secs();
        Frequency {
            more_than: seconds(end.worked_at),
            at_most: seconds(end.refused_at).saturating_add(1),
            seen: 1,
            seen_at: end.at,
            counted: [end.mark, 0, 0],
        }
    }

    /// What is known with one more grant. If the two cannot both be true the policy was changed, or users
    /// have different ones: the later one counts, alone.
    #[must_use]
    pub fn and(self, end: SeenEnd) -> Self {
        if self.counted.contains(&end.mark) {
            return self;
        }
        let one = Frequency::of(end);
        let more_than = self.more_than.max(one.more_than);
        let at_most = self.at_most.min(one.at_most);
        let seen_at = self.seen_at.max(one.seen_at);
        if self.as_of(end.at).is_none() || more_than >= at_most {
            return one;
        }
        let [last, before, _] = self.counted;
        let counted = [end.mark, last, before];
        Frequency { more_than, at_most, seen: self.seen.saturating_add(1), seen_at, counted }
    }

    /// The same, if it still counts.
    pub fn as_of(&self, now: Timestamp) -> Option<Self> {
        (now.since(self.seen_at) < COUNTS_FOR).then_some(*self)
    }

    /// The age that a sign-in reaches in any case.
    pub fn more_than(&self) -> Duration {
        Duration::from_secs(self.more_than)
    }

    /// The age at which it is over.
    pub fn at_most(&self) -> Duration {
        Duration::from_secs(self.at_most)
    }

    /// How sure that is.
    pub fn certainty(&self) -> Certainty {
        if self.seen >= OFTEN { Certainty::Likely } else { Certainty::Possible }
    }
}

/// The ages of an app's tenants, as they are stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frequencies {
    #[serde(default)]
    tenants: BTreeMap<String, Frequency>,
}

impl Frequencies {
    /// What is known of a tenant (empty: of an authority without tenants).
    pub fn of(&self, tenant: &str) -> Option<&Frequency> {
        self.tenants.get(tenant)
    }

    /// Adds what a grant of the tenant shows.
    pub fn learn(&mut self, tenant: &str, end: SeenEnd) {
        let known = self.tenants.get(tenant).copied();
        let learnt = known.map_or_else(|| Frequency::of(end), |known| known.and(end));
        self.tenants.insert(tenant.to_owned(), learnt);
        while self.tenants.len() > MOST_TENANTS {
            let oldest = self.tenants.iter().min_by_key(|(_, one)| one.seen_at);
            let Some(oldest) = oldest.map(|(tenant, _)| tenant.clone()) else { return };
            self.tenants.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::random::random_bytes;
    use crate::testkit::SeededRandom;

    const HOUR: u64 = 3600;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(i64::try_from(seconds).expect("small"))
    }

    fn end(worked: u64, refused: u64, when: u64) -> SeenEnd {
        let (worked_at, refused_at) = (Duration::from_secs(worked), Duration::from_secs(refused));
        SeenEnd { worked_at, refused_at, at: at(when), mark: when + 1 }
    }

    fn bounds(one: &Frequency) -> (u64, u64, Certainty) {
        (one.more_than, one.at_most - 1, one.certainty())
    }

    #[test]
    fn what_several_grants_show_is_what_they_have_in_common() {
        let day = 24 * HOUR;
        let one = Frequency::of(end(day - HOUR, day + HOUR, 0));
        assert_eq!(bounds(&one), (23 * HOUR, 25 * HOUR, Certainty::Possible));
        let two = one.and(end(day - 2 * HOUR, day + HOUR / 2, 1));
        assert_eq!(bounds(&two), (23 * HOUR, day + HOUR / 2, Certainty::Possible));
        let three = two.and(end(day - HOUR / 2, day + HOUR, 2));
        assert_eq!(bounds(&three), (day - HOUR / 2, day + HOUR / 2, Certainty::Likely));
        // The policy is another one now.
        let changed = three.and(end(11 * HOUR, 12 * HOUR, 3));
        assert_eq!(bounds(&changed), (11 * HOUR, 12 * HOUR, Certainty::Possible));
        // What was seen long ago counts no more.
        let later = three.and(end(23 * HOUR, 25 * HOUR, 200 * day));
        assert_eq!(bounds(&later), (23 * HOUR, 25 * HOUR, Certainty::Possible));
        assert!(three.as_of(at(200 * day)).is_none() && three.as_of(at(100 * day)).is_some());
    }

    /// What a store took without answering is told again.
    #[test]
    fn an_end_that_is_told_twice_counts_once() {
        let ends = [end(23 * HOUR, 25 * HOUR, 0), end(22 * HOUR, 25 * HOUR, 1)];
        let known = Frequency::of(ends[0]).and(ends[1]);
        let again = ends.into_iter().fold(known, Frequency::and);
        assert_eq!((again, again.certainty()), (known, Certainty::Possible));
        assert_eq!(again.and(end(23 * HOUR, 25 * HOUR, 2)).certainty(), Certainty::Likely);
        // A record of a build that had no marks.
        let old = r#"{"more_than":1,"at_most":9,"seen":2,"seen_at":0}"#;
        let old: Frequency = serde_json::from_str(old).expect("it is read");
        assert_eq!(old.and(end(2, 7, 3)).certainty(), Certainty::Likely);
    }

    /// Whatever the policy is, and whenever grants are used: the bounds contain it.
    #[test]
    fn the_age_that_a_tenant_asks_for_is_within_the_bounds() {
        let random = SeededRandom::new(7);
        let number = |below: u64| u64::from(u32::from_be_bytes(random_bytes::<4>(&random))) % below;
        for _ in 0..2000 {
            let policy = HOUR + number(90 * 24 * HOUR);
            let mut known: Option<Frequency> = None;
            for seen in 0..1 + number(6) {
                let worked = policy - 1 - number(policy.min(10 * HOUR));
                let refused = policy + number(10 * HOUR);
                let one = end(worked, refused, seen);
                known = Some(known.map_or_else(|| Frequency::of(one), |known| known.and(one)));
            }
            let known = known.expect("one at least");
            assert!(known.more_than < policy && policy < known.at_most, "{policy} {known:?}");
        }
    }

    #[test]
    fn of_many_tenants_those_are_kept_that_were_seen_last() {
        let mut all = Frequencies::default();
        for number in 0..MOST_TENANTS as u64 + 10 {
            all.learn(&number.to_string(), end(1, 2, number));
        }
        assert_eq!(all.tenants.len(), MOST_TENANTS);
        assert!(all.of("9").is_none() && all.of("10").is_some());
    }
}
