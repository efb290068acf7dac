//! The wait after a failed attempt for a connection.

use std::time::Duration;

use crate::domain::backoff::{Backoff, jittered};
use crate::domain::random::Random;

/// The shortest wait, so that a crowd of callers is not a crowd of calls …
const FIRST: Duration = Duration::from_secs(1);
/// … and the longest, so that recovery shows within seconds.
const LONGEST: Duration = Duration::from_secs(5);
/// The longest wait after an unclear refusal, which is no outage and may never heal.
const LONGEST_UNCLEAR: Duration = Duration::from_secs(30);
/// The largest random share by which a wait is lengthened.
const JITTER: f64 = 0.2;
/// The longest `Retry-After` that is kept.
pub(super) const LONGEST_ASKED: Duration = Duration::from_secs(3600);

/// The wait after `failures` failures in a row, with jitter, unless the authority named a time.
pub(super) fn wait(failures: u32, asked: Option<Duration>, random: &dyn Random) -> Duration {
    let base = match asked {
        Some(asked) => asked.clamp(FIRST, LONGEST_ASKED),
        None => Backoff { first: FIRST, longest: LONGEST }.after(failures),
    };
    jittered(base, JITTER, random)
}

/// The wait after this many unclear refusals in a row, with jitter.
pub(super) fn wait_unclear(refusals: u32, random: &dyn Random) -> Duration {
    jittered(Backoff { first: FIRST, longest: LONGEST_UNCLEAR }.after(refusals), JITTER, random)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::SeededRandom;

    #[test]
    fn waits_grow_to_a_bound_and_an_asked_time_is_kept() {
        let random = SeededRandom::new(1);
        let seconds = |failures, asked| wait(failures, asked, &random).as_secs_f64();
        assert!((1.0..=1.2).contains(&seconds(1, None)));
        assert!((4.0..=4.8).contains(&seconds(3, None)));
        assert!((5.0..=6.0).contains(&seconds(30, None)));
        assert!((30.0..=36.0).contains(&seconds(1, Some(Duration::from_secs(30)))));
        assert!(seconds(1, Some(Duration::from_secs(999_999))) <= 4320.0);
        let unclear = |refusals| wait_unclear(refusals, &random).as_secs_f64();
        assert!((1.0..=1.2).contains(&unclear(1)) && (30.0..=36.0).contains(&unclear(30)));
    }
}
