//! One budget for calls to authorities that no caller without a token waits for.
//!
//! A renewal that a request without a token waits for is outside of this and goes first. Every other call
//! takes from one bucket of a second's worth: renewals ahead of time, renewals that callers force by reports
//! and challenges, attempts after an administrator's consent, codes that come back from a sign-in. While half
//! of the bucket is left, each call may take from it. Below that each party has its part: renewals ahead of
//! time have half, and of the rest every caller, all consents together and all imports together have the
//! same. Beside these a caller's first reports of current tokens have a bucket of that caller's own, from
//! which nobody else takes.
//!
//! Codes of sign-ins take from the upper half alone and do not wait for it, since a person waits. Codes
//! beyond it take from a bucket of the caller that started the sign-ins. So however many sign in, the lower
//! half stays for the others.
//!
//! A taken token is a [`CallPermit`]. A call that is not made gives back everything that was drawn for it.
//!
//! Each replica has its own budget. (Only renewals ahead of time are bounded for all replicas together, by
//! `sweep`.)

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::permit::CallPermit;
use crate::domain::bucket::{ONE, Rate, TokenBucket, billionths};
use crate::domain::id::CallerName;

/// Calls a second if `limits.sweep_rate` is 0: that turns off renewals ahead of time, and nothing else.
const WITHOUT_SWEEP: f64 = 50.0;
/// The sweep's part while it has work. The others have equal parts of the rest.
const SWEEPS_PART: f64 = 0.5;
/// A party has a part if it asked within this time.
const ASKS: Duration = Duration::from_secs(10);
/// Sign-ins of a caller that come back with a code: a moment's worth, and how many a second.
const SIGN_INS_BURST: f64 = 200.0;
const SIGN_INS_RATE: f64 = 50.0;
/// First reports of a caller, from its own bucket: a moment's worth, and how many a second come back.
const OWN_BURST: f64 = 10.0;
const OWN_RATE: f64 = 1.0;
/// A refused party is told to wait at least this …
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// … and at most this.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A party with a part of the budget.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whose {
    Sweep,
    /// All consents together.
    Consent,
    /// All imports together.
    Imports,
    /// Renewals that a caller forces, or no caller in particular.
    Caller(Option<CallerName>),
    /// Sign-ins that a caller started.
    SignIns(Option<CallerName>),
}

/// A party's part of the whole.
struct Part {
    bucket: TokenBucket,
    /// Monotonic time at which it last asked.
    asked_at: Duration,
}

#[derive(Default)]
struct Buckets {
    whole: Option<TokenBucket>,
    parts: BTreeMap<Whose, Part>,
    own: BTreeMap<Option<CallerName>, TokenBucket>,
}

impl Buckets {
    /// The part of `rate` for one party, given who else asked lately.
    fn part_of(&self, whose: &Whose, rate: f64, now: Duration) -> f64 {
        let asks = |part: &Part| now.saturating_sub(part.asked_at) < ASKS;
        let sweeps = *whose == Whose::Sweep || self.parts.get(&Whose::Sweep).is_some_and(asks);
        let for_others = if sweeps { rate * (1.0 - SWEEPS_PART) } else { rate };
        match whose {
            Whose::Sweep => rate * SWEEPS_PART,
            Whose::SignIns(_) => SIGN_INS_RATE,
            Whose::Consent | Whose::Imports | Whose::Caller(_) => {
                let others = self.parts.iter().filter(|(other, part)| {
                    let shares = matches!(other, Whose::Consent | Whose::Imports | Whose::Caller(_));
                    shares && *other != whose && asks(part)
                });
                for_others / f64::from(u32::try_from(1 + others.count()).unwrap_or(u32::MAX))
            }
        }
    }
}

/// Tokens drawn for one call, in billionths.
enum Drawn {
    /// From a caller's own bucket.
    Own(Option<CallerName>),
    /// From the whole, and from a part.
    Whole { whole: i64, whose: Whose, part: i64 },
}

impl Buckets {
    fn give_back(&mut self, drawn: &Drawn) {
        match drawn {
            Drawn::Own(by) => {
                if let Some(own) = self.own.get_mut(by) {
                    own.give_back(ONE);
                }
            }
            Drawn::Whole { whole, whose, part } => {
                if let Some(bucket) = &mut self.whole {
                    bucket.give_back(*whole);
                }
                if let Some(one) = self.parts.get_mut(whose) {
                    one.bucket.give_back(*part);
                }
            }
        }
    }

    fn draw(
        &mut self,
        whose: &Whose,
        is_first_report: bool,
        rate: f64,
        now: Duration,
    ) -> Result<Drawn, Duration> {
        if let (true, Whose::Caller(by)) = (is_first_report, whose) {
            let own_rate = Rate::new(OWN_RATE, OWN_BURST);
            let own = self.own.entry(by.clone()).or_insert(TokenBucket::full(own_rate, now));
            if own.try_take(own_rate, now).is_ok() {
                return Ok(Drawn::Own(by.clone()));
            }
        }
        // Two at least: anybody may take the upper one.
        let most = rate.max(2.0);
        let half = billionths(most / 2.0);
        let part_rate = self.part_of(whose, rate, now);
        // (The most of the part, what the whole must have, and what is left to the others.)
        let (parts_most, needed, kept) = match whose {
            Whose::SignIns(_) => (SIGN_INS_BURST, 0, half),
            Whose::Sweep | Whose::Consent | Whose::Imports | Whose::Caller(_) => (part_rate.max(1.0), ONE, 0),
        };
        let (rate, part_rate) = (Rate::new(rate, most), Rate::new(part_rate, parts_most));
        let whole = self.whole.get_or_insert(TokenBucket::full(rate, now));
        whole.fill(rate, now);
        let full = Part { bucket: TokenBucket::full(part_rate, now), asked_at: now };
        let part = self.parts.entry(whose.clone()).or_insert(full);
        part.asked_at = now;
        part.bucket.fill(part_rate, now);
        if whole.left() >= needed && (part.bucket.left() >= ONE || whole.left() - ONE >= half) {
            let part = part.bucket.take_part(0);
            return Ok(Drawn::Whole { whole: whole.take_part(kept), whose: whose.clone(), part });
        }
        let until_whole = rate.time_of(needed - whole.left());
        let until_part = part_rate.time_of(ONE - part.bucket.left());
        Err(until_whole.max(until_part).clamp(SHORTEST_WAIT, LONGEST_WAIT))
    }
}

/// The budget of calls to authorities that callers and strangers cause.
#[derive(Default)]
pub(super) struct Budget {
    buckets: Arc<Mutex<Buckets>>,
}

impl Budget {
    /// Takes one of `sweep_rate` a second at `now` (monotonic), or returns the time to wait. `spend` runs
    /// when the call is made. Parts are those of configured callers, so there are no more parts than callers.
    pub(super) fn take(
        &self,
        whose: &Whose,
        is_first_report: bool,
        sweep_rate: f64,
        now: Duration,
        spend: impl FnOnce() + Send + 'static,
    ) -> Result<CallPermit, Duration> {
        let rate = if sweep_rate > 0.0 { sweep_rate } else { WITHOUT_SWEEP };
        let drawn = lock(&self.buckets).draw(whose, is_first_report, rate, now)?;
        let buckets = self.buckets.clone();
        Ok(CallPermit::new(move || lock(&buckets).give_back(&drawn), spend))
    }
}

fn lock(buckets: &Mutex<Buckets>) -> parking_lot::MutexGuard<'_, Buckets> {
    buckets.lock()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: f64 = 40.0;

    fn caller(name: &str) -> Whose {
        Whose::Caller(Some(CallerName::parse(name).expect("a name")))
    }

    /// Takes one and makes the call.
    fn call(
        budget: &Budget,
        whose: &Whose,
        is_first_report: bool,
        rate: f64,
        now: Duration,
    ) -> Result<(), Duration> {
        budget.take(whose, is_first_report, rate, now, || ()).map(|permit| permit.spend())
    }

    /// How many of each are let through in ten seconds, each trying a hundred times a second.
    fn in_ten_seconds(all: &[(Whose, bool)], rate: f64) -> Vec<usize> {
        let budget = Budget::default();
        let mut through = vec![0; all.len()];
        for millis in (0..10_000).step_by(10) {
            for (one, through) in all.iter().zip(&mut through) {
                let now = Duration::from_millis(millis);
                match call(&budget, &one.0, one.1, rate, now) {
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
                while call(&budget, &greedy, true, RATE, now).is_ok() {}
            }
            assert_eq!(call(&budget, &caller("honest"), true, RATE, now), Ok(()), "at {second}");
        }
    }

    #[test]
    fn sign_ins_wait_for_nobody_elses_and_are_bounded() {
        let all = [(caller("greedy"), false), (Whose::Sweep, false), (Whose::SignIns(None), false)];
        let through = in_ten_seconds(&all, RATE);
        assert!((600..=720).contains(&through[2]), "{through:?}");
    }

    /// Many callers' sign-ins, each as fast as it may: what renews the connections of others goes on as
    /// without them.
    #[test]
    fn whoever_signs_in_how_often_the_others_keep_their_parts() {
        for rate in [1.0, 4.0, RATE, 160.0] {
            let others = [(Whose::Sweep, false), (caller("one"), false), (Whose::Consent, false)];
            let sign_ins =
                (0..30).map(|number| (Whose::SignIns(CallerName::parse(&format!("c{number}")).ok()), false));
            let all: Vec<(Whose, bool)> = sign_ins.chain(others).collect();
            let through = in_ten_seconds(&all, rate);
            let [sweep, one, consent] = through[30..] else { panic!("three") };
            let parts = |of: f64| (rate * of * 9.0) as usize;
            assert!(sweep >= parts(0.5), "{rate}: {through:?}");
            assert!(one >= parts(0.25) && consent >= parts(0.25), "{rate}: {through:?}");
        }
    }

    /// Of every kind: what was drawn for a call that was not made is there again, all of it, and no more than
    /// was drawn.
    #[test]
    fn a_call_that_is_not_made_leaves_the_budget_as_it_was() {
        let all = [Whose::Sweep, Whose::Consent, caller("one"), Whose::SignIns(None)];
        for (whose, is_first) in all.iter().flat_map(|whose| [(whose, false), (whose, true)]) {
            for made in 0..300 {
                let budget = Budget::default();
                let now = Duration::ZERO;
                for _ in 0..made {
                    let _ = call(&budget, whose, is_first, RATE, now);
                }
                let left = || {
                    let buckets = lock(&budget.buckets);
                    let parts: Vec<i64> = buckets.parts.values().map(|part| part.bucket.left()).collect();
                    let own: Vec<i64> = buckets.own.values().map(TokenBucket::left).collect();
                    (buckets.whole.as_ref().map(TokenBucket::left), parts, own)
                };
                let take = || budget.take(whose, is_first, RATE, now, || ());
                drop(take()); // every bucket is there now
                let before = left();
                let taken = take();
                assert_eq!(taken.is_ok(), left() != before, "{whose:?} after {made}");
                drop(taken);
                assert_eq!(left(), before, "{whose:?} after {made}");
            }
        }
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
