//! One budget for the calls to authorities that are not for somebody who waits for a token nobody has.
//!
//! What a caller waits for without forcing it is outside of this: it goes first, by not asking here. Everything else takes from
//! one bucket of a second's worth: what is renewed ahead of time, what callers force by reports and challenges, what the
//! redirect of an administrator's consent sets off, codes that come back from a sign-in. While half of it is there anybody may
//! take; below that each who asks has its part: half for what keeps connections warm, and of the rest the same for every caller
//! and for the redirects together. A caller's first reports of tokens that it holds have a bucket of that caller's own
//! beside, which nobody else takes from.
//!
//! A replica has one budget, so all of them together have as many times that as there are replicas. (What is renewed ahead of
//! time is bounded for all of them together, by `sweep`.)

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::domain::id::CallerName;

/// Calls a second where `limits.sweep_rate` is 0: that turns off what nobody asked for, and nothing else.
const WITHOUT_SWEEP: f64 = 50.0;
/// The sweep's part while it has something to do; the others have equal parts of the rest.
const SWEEPS_PART: f64 = 0.5;
/// Whoever asked within this time has a part.
const ASKS: Duration = Duration::from_secs(10);
/// Sign-ins of a caller that come back with a code: a moment's worth, and how many a second.
const SIGN_INS_BURST: f64 = 200.0;
const SIGN_INS_RATE: f64 = 50.0;
/// First reports of a caller that nobody else can use up: a moment's worth, and how many a second come back.
const OWN_BURST: f64 = 10.0;
const OWN_RATE: f64 = 1.0;
/// Whoever is told to come back is told at least this …
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// … and at most this.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Whose part of the budget.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whose {
    Sweep,
    /// All redirects of consents.
    Consent,
    /// What a caller forces, or none in particular.
    Caller(Option<CallerName>),
    /// Sign-ins that a caller started.
    SignIns(Option<CallerName>),
}

/// A token bucket that begins full.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Duration,
}

impl Bucket {
    fn full(most: f64, now: Duration) -> Self {
        Bucket { left: most, at: now }
    }

    /// Fills it up to `now` (monotonic).
    fn fill(&mut self, rate: f64, most: f64, now: Duration) {
        self.left = (self.left + now.saturating_sub(self.at).as_secs_f64() * rate).min(most);
        self.at = now;
    }
}

/// A party's part of the whole.
struct Part {
    bucket: Bucket,
    /// Monotonic time at which it last asked.
    asked_at: Duration,
}

#[derive(Default)]
struct Buckets {
    whole: Option<Bucket>,
    parts: BTreeMap<Whose, Part>,
    own: BTreeMap<Option<CallerName>, Bucket>,
}

impl Buckets {
    /// How much of `rate` is one's part, by who else asked of late.
    fn part_of(&self, whose: &Whose, rate: f64, now: Duration) -> f64 {
        let asks = |part: &Part| now.saturating_sub(part.asked_at) < ASKS;
        let sweeps = *whose == Whose::Sweep || self.parts.get(&Whose::Sweep).is_some_and(asks);
        let for_others = if sweeps { rate * (1.0 - SWEEPS_PART) } else { rate };
        match whose {
            Whose::Sweep => rate * SWEEPS_PART,
            Whose::SignIns(_) => SIGN_INS_RATE,
            Whose::Consent | Whose::Caller(_) => {
                let others = self.parts.iter().filter(|(other, part)| {
                    let shares = matches!(other, Whose::Consent | Whose::Caller(_));
                    shares && *other != whose && asks(part)
                });
                for_others / f64::from(u32::try_from(1 + others.count()).unwrap_or(u32::MAX))
            }
        }
    }
}

/// What callers and strangers may have authorities asked.
#[derive(Default)]
pub(super) struct Budget {
    buckets: Mutex<Buckets>,
}

impl Budget {
    /// Takes one of `sweep_rate` a second at `now` (monotonic); else says when to come back. Parts are those of configured
    /// callers, so there are no more of them than of these.
    pub(super) fn take(
        &self,
        whose: &Whose,
        is_first_report: bool,
        sweep_rate: f64,
        now: Duration,
    ) -> Result<(), Duration> {
        let rate = if sweep_rate > 0.0 { sweep_rate } else { WITHOUT_SWEEP };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let (true, Whose::Caller(by)) = (is_first_report, whose) {
            let own = buckets.own.entry(by.clone()).or_insert(Bucket::full(OWN_BURST, now));
            own.fill(OWN_RATE, OWN_BURST, now);
            if own.left >= 1.0 {
                own.left -= 1.0;
                return Ok(());
            }
        }
        let most = rate.max(1.0);
        let whole = buckets.whole.get_or_insert(Bucket::full(most, now));
        whole.fill(rate, most, now);
        let left = whole.left;
        let part_rate = buckets.part_of(whose, rate, now);
        let (parts_most, needed) = match whose {
            // A person waits: it counts, and the others make room.
            Whose::SignIns(_) => (SIGN_INS_BURST, 0.0),
            Whose::Sweep | Whose::Consent | Whose::Caller(_) => (part_rate.max(1.0), 1.0),
        };
        let full = Part { bucket: Bucket::full(parts_most, now), asked_at: now };
        let part = buckets.parts.entry(whose.clone()).or_insert(full);
        part.asked_at = now;
        part.bucket.fill(part_rate, parts_most, now);
        if left >= needed && (part.bucket.left >= 1.0 || left >= (most / 2.0).max(1.0)) {
            part.bucket.left = (part.bucket.left - 1.0).max(0.0);
            if let Some(whole) = &mut buckets.whole {
                whole.left = (left - 1.0).max(0.0);
            }
            return Ok(());
        }
        let until_whole = (needed - left).max(0.0) / rate;
        let until_part = (1.0 - part.bucket.left).max(0.0) / part_rate;
        let wait = Duration::from_secs_f64(until_whole.max(until_part).min(LONGEST_WAIT.as_secs_f64()));
        Err(wait.max(SHORTEST_WAIT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: f64 = 40.0;

    fn caller(name: &str) -> Whose {
        Whose::Caller(Some(CallerName::parse(name).expect("a name")))
    }

    /// How many of each are let through in ten seconds, each trying a hundred times a second.
    fn in_ten_seconds(all: &[(Whose, bool)], rate: f64) -> Vec<usize> {
        let budget = Budget::default();
        let mut through = vec![0; all.len()];
        for millis in (0..10_000).step_by(10) {
            for (one, through) in all.iter().zip(&mut through) {
                let now = Duration::from_millis(millis);
                match budget.take(&one.0, one.1, rate, now) {
                    Ok(()) => *through += 1,
                    Err(wait) => assert!(wait >= SHORTEST_WAIT && wait <= Duration::from_secs(60)),
                }
            }
        }
        through
    }

    #[test]
    fn who_is_alone_has_nearly_all_of_it_and_nobody_has_more() {
        for whose in [Whose::Sweep, Whose::Consent, caller("one")] {
            let [through] = in_ten_seconds(&[(whose.clone(), false)], RATE)[..] else { panic!("one") };
            assert!((390..=441).contains(&through), "{whose:?}: {through}");
        }
    }

    #[test]
    fn all_together_are_bounded_and_each_has_its_part() {
        let all = [
            (caller("one"), false),
            (caller("two"), false),
            (caller("three"), false),
            (Whose::Consent, false),
            (Whose::Sweep, false),
        ];
        let through = in_ten_seconds(&all, RATE);
        assert!(through.iter().sum::<usize>() <= 441, "{through:?}");
        assert!(through[4] >= 150, "the sweep has its own: {through:?}");
        assert!(through[..4].iter().all(|through| *through >= 30), "{through:?}");
    }

    #[test]
    fn a_callers_first_report_is_nobody_elses_to_use_up() {
        let budget = Budget::default();
        for second in 0..100 {
            let now = Duration::from_secs(second);
            for number in 0..20 {
                let greedy = caller(&format!("c{number}"));
                while budget.take(&greedy, true, RATE, now).is_ok() {}
            }
            assert_eq!(budget.take(&caller("honest"), true, RATE, now), Ok(()), "at {second}");
        }
    }

    #[test]
    fn sign_ins_wait_for_nobody_elses_and_are_bounded() {
        let all = [(caller("greedy"), false), (Whose::Sweep, false), (Whose::SignIns(None), false)];
        let through = in_ten_seconds(&all, RATE);
        assert!((600..=720).contains(&through[2]), "{through:?}");
    }

    #[test]
    fn without_a_sweep_there_is_a_budget_and_a_slow_one_lets_everybody_through_in_time() {
        let [through] = in_ten_seconds(&[(caller("one"), false)], 0.0)[..] else { panic!("one") };
        assert!(through > 400);
        for whose in [Whose::Sweep, Whose::Consent, caller("one")] {
            let [through] = in_ten_seconds(&[(whose, false)], 0.5)[..] else { panic!("one") };
            assert!((2..=6).contains(&through), "{through}");
        }
    }
}
