//! Decides when to log that something does not answer: once for each cause, then ever more rarely with the
//! number of failures, and once when it answers again. Pure: time is an argument.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::domain::backoff::Backoff;

/// The pause before the same cause is logged again.
const AGAIN: Backoff = Backoff { first: Duration::from_secs(10), longest: Duration::from_secs(600) };
/// How many causes of one silence are remembered.
const CAUSES: usize = 8;

/// One silence, or none.
#[derive(Default)]
pub(super) struct Silence {
    /// Questions in a row without an answer.
    failures: u64,
    said: BTreeSet<String>,
    said_at: Duration,
    times: u32,
}

impl Silence {
    /// A question failed. Returns how many failed in a row, if that is to be logged now.
    pub(super) fn failed(&mut self, cause: &str, now: Duration) -> Option<u64> {
        self.failures = self.failures.saturating_add(1);
        let is_news = self.said.len() < CAUSES && self.said.insert(cause.to_owned());
        let is_time = now.saturating_sub(self.said_at) >= AGAIN.after(self.times.saturating_add(1));
        if is_time && !is_news {
            self.times += 1;
        }
        if is_news || is_time {
            self.said_at = now;
            return Some(self.failures);
        }
        None
    }

    /// A question was answered. Returns how many failed before, if any did.
    pub(super) fn answered(&mut self) -> Option<u64> {
        let failures = std::mem::take(self).failures;
        (failures > 0).then_some(failures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_said_once_then_ever_more_rarely_and_its_end_once() {
        let mut silence = Silence::default();
        assert_eq!(silence.answered(), None, "nobody was silent");
        // Five times a second, for an hour.
        let begin = 1000;
        let at = |step: u64| Duration::from_secs(begin) + Duration::from_millis(200 * step);
        let said: Vec<u64> = (0..5 * 3600)
            .filter(|step| silence.failed("refused", at(*step)).is_some())
            .map(|step| step / 5)
            .collect();
        assert_eq!(said, [0, 10, 30, 70, 150, 310, 630, 1230, 1830, 2430, 3030]);
        assert_eq!(silence.failed("another cause", at(18_000)), Some(18_001));
        assert_eq!(silence.failed("another cause", at(18_001)), None);
        assert_eq!(silence.answered(), Some(18_002));
        assert_eq!(silence.answered(), None);
        assert_eq!(silence.failed("refused", at(18_003)), Some(1), "another silence");
    }

    #[test]
    fn causes_that_never_repeat_are_not_said_without_end() {
        let mut silence = Silence::default();
        let said = (0..1000)
            .filter(|number| silence.failed(&format!("cause {number}"), Duration::from_secs(5)).is_some());
        assert_eq!(said.count(), CAUSES);
    }
}
