//! When it is to be said that a secret ends: at 30, 14, 7 and 1 days before, and at its end, each once. Pure: time comes in.

use std::collections::BTreeMap;
use std::time::Duration;

use super::time::Timestamp;

/// Days before a secret's end at which it is warned of.
const WARN_AT: [u32; 4] = [1, 7, 14, 30];

/// The nearest of 30, 14, 7 and 1 days that are not left any more; none while there are more. At the end and after it: 0.
pub fn warning(expires_at: Timestamp, now: Timestamp) -> Option<u32> {
    if expires_at <= now {
        return Some(0);
    }
    let left = expires_at.since(now);
    WARN_AT.into_iter().find(|days| left <= Duration::from_secs(u64::from(*days) * 86_400))
}

/// What was warned of. `K` names a secret; another content under the same name goes on from there, so that what is renewed
/// shortly before its end each time is not a warning each time.
#[derive(Debug)]
pub struct Warned<K>(BTreeMap<K, u32>);

impl<K> Default for Warned<K> {
    fn default() -> Self {
        Warned(BTreeMap::new())
    }
}

impl<K: Ord> Warned<K> {
    /// Whether it is to be said now that so many days are left. None: there are more, or the secret is gone.
    pub fn is_news(&mut self, secret: K, days: Option<u32>) -> bool {
        match days {
            Some(days) => self.0.insert(secret, days).is_none_or(|before| days < before),
            None => {
                self.0.remove(&secret);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

    #[test]
    fn it_is_warned_of_an_end_at_30_14_7_and_1_days() {
        let left = |days: u64, more: u64| NOW.plus(Duration::from_secs(days * 86_400 + more));
        let cases = [(31, 0, None), (30, 1, None), (30, 0, Some(30)), (14, 1, Some(30)), (14, 0, Some(14))];
        let more = [(7, 0, Some(7)), (1, 1, Some(7)), (1, 0, Some(1)), (0, 1, Some(1)), (0, 0, Some(0))];
        for (days, seconds, expected) in cases.into_iter().chain(more) {
            assert_eq!(warning(left(days, seconds), NOW), expected, "{days} days and {seconds} s");
        }
    }

    #[test]
    fn each_threshold_is_said_once_for_each_secret() {
        let mut warned = Warned::default();
        for (secret, days, expected) in [
            ("a", None, false),
            ("a", Some(30), true),
            ("a", Some(30), false),
            ("b", Some(30), true), // another's is its own
            ("a", Some(7), true),  // 14 went by while nobody looked
            ("a", Some(7), false),
            ("a", Some(14), false), // renewed late: more is left than was said …
            ("a", Some(7), true),   // … and goes by again
            ("a", Some(1), true),
            ("a", Some(0), true),
            ("a", Some(0), false),
            ("a", None, false), // renewed in time: anew
            ("a", Some(30), true),
        ] {
            assert_eq!(warned.is_news(secret, days), expected, "{secret} {days:?}");
        }
    }
}
