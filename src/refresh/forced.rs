//! How many renewals of one connection callers may force by reports, challenges and `min_ttl`, as a pure
//! function of the earlier ones.
//!
//! Each caller has its own count, and all of them together another one. A caller's first report of the
//! current token is outside of both, so nobody else can use it up.

use std::time::Duration;

use crate::domain::cause::Cause;
use crate::domain::id::CallerName;

/// Within this time …
const WINDOW: Duration = Duration::from_secs(10);
/// … one caller may force this many renewals of a connection; more would be a loop …
const MOST_OF_ONE: usize = 5;
/// … all callers together this many …
const MOST: usize = 10;
/// … and of challenges that name no token, one: a caller that has the token can name it.
const MOST_BARE: usize = 1;
/// For so long after a forced renewal, a throttle may be its effect.
const LATELY: Duration = Duration::from_secs(60);

/// Why a renewal is forced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Force {
    /// A resource refused the cached token, and asked for no more than a plain refresh.
    Report,
    /// A resource refused the cached token, and asked for more than a plain refresh.
    Challenge,
    /// A challenge that names no token.
    Bare,
    /// The cached token lives and is not due, and has less life left than the caller wants.
    MoreLife,
}

impl Force {
    /// The cause of the call.
    pub(super) fn cause(self) -> Cause {
        match self {
            Force::Report => Cause::Report,
            Force::Challenge | Force::Bare => Cause::Challenge,
            Force::MoreLife => Cause::MinTtl,
        }
    }
}

struct One {
    number: u64,
    by: Option<CallerName>,
    at: Duration,
    force: Force,
    /// It was its caller's first report.
    is_first: bool,
}

/// The renewals of one connection that callers forced a moment ago.
#[derive(Default)]
pub(super) struct Forced {
    of_late: Vec<One>,
    /// How many there were.
    count: u64,
    /// Monotonic time of the last call to the authority.
    last: Option<Duration>,
}

/// The right to force one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowed {
    /// It is its caller's first report of the cached token.
    pub(super) is_first: bool,
}

impl Forced {
    /// Whether `by` may force another one at `now` (monotonic), or how long it must wait.
    pub(super) fn may(
        &mut self,
        by: Option<&CallerName>,
        force: Force,
        now: Duration,
    ) -> Result<Allowed, Duration> {
        self.of_late.retain(|one| now.saturating_sub(one.at) < WINDOW);
        let of_caller = || self.of_late.iter().filter(|one| one.by.as_ref() == by);
        let is_report = matches!(force, Force::Report | Force::Challenge);
        let is_no_report = |one: &One| matches!(one.force, Force::Bare | Force::MoreLife);
        if is_report && of_caller().all(is_no_report) {
            return Ok(Allowed { is_first: true });
        }
        let left = |of: &mut dyn Iterator<Item = &One>, most: usize| {
            let times: Vec<Duration> = of.map(|one| one.at).collect();
            let over = (times.len() + 1).checked_sub(most + 1)?;
            times.get(over).map(|at| WINDOW.saturating_sub(now.saturating_sub(*at)))
        };
        let waits = [
            left(&mut of_caller(), MOST_OF_ONE),
            left(&mut self.of_late.iter().filter(|one| !one.is_first), MOST),
            (force == Force::Bare)
                .then(|| left(&mut of_caller().filter(|one| one.force == Force::Bare), MOST_BARE))
                .flatten(),
        ];
        match waits.into_iter().flatten().max() {
            Some(wait) => Err(wait),
            None => Ok(Allowed { is_first: false }),
        }
    }

    /// Notes one more, and returns its number.
    pub(super) fn note(
        &mut self,
        by: Option<&CallerName>,
        force: Force,
        allowed: Allowed,
        now: Duration,
    ) -> u64 {
        self.count += 1;
        let (number, by) = (self.count, by.cloned());
        self.of_late.push(One { number, by, at: now, force, is_first: allowed.is_first });
        number
    }

    /// A forced renewal made no call: it does not count.
    pub(super) fn take_back(&mut self, number: u64) {
        self.of_late.retain(|one| one.number != number);
    }

    /// The authority is called at `now` (monotonic) for one of them. (A wish for more life causes no
    /// throttle: it comes at most once in a quarter of a token's life.)
    pub(super) fn called(&mut self, force: Force, now: Duration) {
        if force != Force::MoreLife {
            self.last = Some(now);
        }
    }

    /// Whether the authority's answer for the connection may be an effect of forced renewals.
    pub(super) fn lately(&self, now: Duration) -> bool {
        self.last.is_some_and(|at| now.saturating_sub(at) < LATELY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(name: &str) -> CallerName {
        CallerName::parse(name).expect("a name")
    }

    /// How many of so many tries in one moment are let through.
    fn through(forced: &mut Forced, by: &CallerName, force: Force, tries: usize, now: u64) -> usize {
        let now = Duration::from_secs(now);
        let mut one = || match forced.may(Some(by), force, now) {
            Ok(allowed) => {
                // One that comes to nothing counts for nothing.
                let in_vain = forced.note(Some(by), force, allowed, now);
                forced.take_back(in_vain);
                forced.note(Some(by), force, allowed, now);
                forced.called(force, now);
                true
            }
            Err(wait) => {
                assert!(!wait.is_zero() && wait <= WINDOW);
                false
            }
        };
        (0..tries).filter(|_| one()).count()
    }

    #[test]
    fn one_callers_renewals_leave_anothers_first_report_alone() {
        let (greedy, other, honest) = (caller("greedy"), caller("other"), caller("honest"));
        let mut forced = Forced::default();
        assert_eq!(through(&mut forced, &greedy, Force::Challenge, 100, 0), MOST_OF_ONE);
        assert_eq!(through(&mut forced, &other, Force::Report, 100, 0), MOST_OF_ONE);
        for number in 0..10 {
            through(&mut forced, &caller(&format!("c{number}")), Force::Challenge, 100, 0);
        }
        assert_eq!(through(&mut forced, &honest, Force::Report, 100, 0), 1);
        assert_eq!(through(&mut forced, &honest, Force::Report, 100, 9), 0);
        assert_eq!(through(&mut forced, &honest, Force::Report, 100, 10), MOST_OF_ONE);
    }

    #[test]
    fn a_challenge_that_names_no_token_uses_up_no_report() {
        let (greedy, honest) = (caller("greedy"), caller("honest"));
        let mut forced = Forced::default();
        assert_eq!(through(&mut forced, &greedy, Force::Bare, 100, 0), MOST_BARE);
        assert_eq!(through(&mut forced, &greedy, Force::Bare, 100, 9), 0);
        assert_eq!(through(&mut forced, &honest, Force::Bare, 100, 9), MOST_BARE, "each caller's own");
        assert_eq!(through(&mut forced, &honest, Force::MoreLife, 1, 9), 1);
        assert_eq!(through(&mut forced, &honest, Force::Challenge, 1, 9), 1);
        assert_eq!(through(&mut forced, &greedy, Force::Bare, 100, 10), 1);
    }

    #[test]
    fn whatever_callers_do_a_connection_is_renewed_so_often_and_no_more() {
        let callers: Vec<CallerName> = (0..4).map(|number| caller(&format!("c{number}"))).collect();
        for window in 0..5 {
            let mut forced = Forced::default();
            let mut count = 0;
            for second in 0..10 {
                for (number, by) in callers.iter().enumerate() {
                    let forces = [Force::Report, Force::Challenge, Force::Bare, Force::MoreLife];
                    let force = forces[(number + window) % forces.len()];
                    count += through(&mut forced, by, force, 7, second);
                }
            }
            assert!(count <= MOST + callers.len(), "{count}");
        }
    }

    #[test]
    fn it_is_known_for_a_while_that_callers_forced_some() {
        let mut forced = Forced::default();
        assert!(!forced.lately(Duration::ZERO));
        through(&mut forced, &caller("one"), Force::MoreLife, 1, 4);
        assert!(!forced.lately(Duration::from_secs(4)), "that throttles nobody");
        through(&mut forced, &caller("one"), Force::Report, 1, 5);
        assert!(forced.lately(Duration::from_secs(64)) && !forced.lately(Duration::from_secs(65)));
    }
}
