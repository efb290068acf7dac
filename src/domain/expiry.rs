//! Warnings before a secret expires: at 30, 14, 7 and 1 days, and at the end, each given once. Pure: time is
//! an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use super::time::Timestamp;

/// Days before the end at which a warning is due.
const WARN_AT: [u32; 4] = [1, 7, 14, 30];

/// Returns the smallest of 1, 7, 14 and 30 days that the time left does not exceed; 0 at the end and after
/// it. `None` if more than 30 days are left.
pub fn warning(expires_at: Timestamp, now: Timestamp) -> Option<u32> {
    if expires_at <= now {
        return Some(0);
    }
    let left = expires_at.since(now);
    WARN_AT.into_iter().find(|days| left <= Duration::from_secs(u64::from(*days) * 86_400))
}

/// Warnings already given. `K` names a secret. New content under the same name continues the series, so that
/// a secret renewed shortly before each end does not warn each time.
#[derive(Debug)]
pub struct Warned<K>(BTreeMap<K, u32>);

impl<K> Default for Warned<K> {
    fn default() -> Self {
        Warned(BTreeMap::new())
    }
}

impl<K: Ord> Warned<K> {
    /// Returns true if the warning for `days` left is due now. `None` means that more days are left, or that
    /// the secret is gone.
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
            ("b", Some(30), true), // counted apart from `a`
            ("a", Some(7), true),  // 14 passed unseen
            ("a", Some(7), false),
            ("a", Some(14), false), // renewed late: more is left than the last warning said …
            ("a", Some(7), true),   // … and passes again
            ("a", Some(1), true),
            ("a", Some(0), true),
            ("a", Some(0), false),
            ("a", None, false), // renewed in time: a new series
            ("a", Some(30), true),
        ] {
            assert_eq!(warned.is_news(secret, days), expected, "{secret} {days:?}");
        }
    }
}
