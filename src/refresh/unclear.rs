//! Decides when unclear refusals mean that one grant has ended.
//!
//! Most authorities refuse an ended grant with `invalid_grant`. Some answer with `invalid_request`, a word of
//! their own or nothing at all, as they do for a wrong request, app or credential. Other grants of the same
//! app and tenant tell the two apart: a refusal, another grant that works, and a refusal again mean this
//! grant alone.

use std::time::Duration;

use crate::domain::connection::Status;
use crate::domain::verdict::{AuthorityFailure, Disposition, GrantFate, ReauthReason};

/// This many such answers in a row …
const TIMES: u32 = 4;
/// … over at least this time …
const OVER: Duration = Duration::from_secs(60);
/// … with another grant's success between two of them this often: once may be a change that came in between.
const CONTRASTS: u32 = 2;

/// The unclear answers to a grant, in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unclear {
    times: u32,
    /// Monotonic times of the first and the last.
    first_at: Duration,
    last_at: Duration,
    /// How often another grant worked between two of them.
    contrasts: u32,
}

impl Unclear {
    /// Counts one more at `now`. `worked_at` is when a grant of the app last worked at the same tenant; it
    /// was another one, since this one did not.
    pub(super) fn again(before: Option<Unclear>, now: Duration, worked_at: Option<Duration>) -> Unclear {
        let Some(before) = before else {
            return Unclear { times: 1, first_at: now, last_at: now, contrasts: 0 };
        };
        let contrast = worked_at.is_some_and(|at| before.last_at < at && at <= now);
        Unclear {
            times: before.times.saturating_add(1),
            first_at: before.first_at,
            last_at: now,
            contrasts: before.contrasts.saturating_add(u32::from(contrast)),
        }
    }

    /// Whether only this grant is refused, and for long enough to believe that it has ended.
    pub(super) fn is_the_grants_end(&self, has_live_token: bool) -> bool {
        !has_live_token
            && self.times >= TIMES
            && self.contrasts >= CONTRASTS
            && self.last_at.saturating_sub(self.first_at) >= OVER
    }
}

/// A failed refresh of a grant, weighed.
pub(super) struct Weighed {
    /// The failure with its disposition.
    pub(super) failure: AuthorityFailure,
    /// The new count. `Some(None)` begins anew; `None` leaves it as it is.
    pub(super) count: Option<Option<Unclear>>,
    /// It is the last of enough: the grant counts as ended after this many refusals.
    pub(super) ended_after: Option<u32>,
}

/// Weighs a failed refresh of a grant at `now` (monotonic) with the refusals before it: an unclear refusal
/// may be the last of enough. A grant under a verdict keeps it, and is tried again as late as after one more
/// of that verdict. `worked_at`: when a grant of the app last worked at the same tenant.
pub(super) fn weigh(
    before: Option<Unclear>,
    status: Status,
    has_live_token: bool,
    worked_at: Option<Duration>,
    now: Duration,
    mut failure: AuthorityFailure,
) -> Weighed {
    if failure.disposition != Disposition::Unclear {
        // No answer says nothing of either. Any other answer begins the count anew.
        let count = failure.answer.status.is_some().then_some(None);
        return Weighed { failure, count, ended_after: None };
    }
    let unclear = Unclear::again(before, now, worked_at);
    let mut ended_after = None;
    match status {
        Status::NeedsReauthorization(reason) => {
            failure.disposition = Disposition::Reauthorize(reason, GrantFate::Keep);
            failure.cause.push_str("; the grant did not work before either");
        }
        Status::Blocked(reason) => {
            failure.disposition = Disposition::Blocked(reason);
            failure.cause.push_str("; the grant did not work before either");
        }
        Status::Active if unclear.is_the_grants_end(has_live_token) => {
            failure.disposition = Disposition::Reauthorize(ReauthReason::GrantRevoked, GrantFate::Keep);
            failure.cause = format!(
                "the authority refused this grant {} times in a row without saying why, while other grants \
                 of the app worked: it is taken for ended",
                unclear.times
            );
            ended_after = Some(unclear.times);
        }
        Status::Active | Status::Paused => {}
    }
    Weighed { failure, count: Some(Some(unclear)), ended_after }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `r`: refused, `w`: another grant worked; one event every so many seconds. Which refusal is the grant's
    /// end, if any.
    fn ends_at(story: &str, every: u64) -> Option<usize> {
        let (mut unclear, mut worked_at) = (None, None);
        for (at, event) in story.chars().filter(|event| *event != ' ').enumerate() {
            let now = Duration::from_secs(at as u64 * every);
            match event {
                'w' => worked_at = Some(now),
                _ => {
                    let next = Unclear::again(unclear, now, worked_at);
                    unclear = Some(next);
                    if next.is_the_grants_end(false) {
                        return Some(at);
                    }
                }
            }
        }
        None
    }

    #[test]
    fn one_grant_alone_has_ended_and_all_of_them_have_not() {
        let rows = [
            // Seconds between two events, what happened, and at which event the grant is taken for ended.
            (10, "r w r w r w r", Some(6), "this one, between others that work"),
            (
                10,
                "w r r r r r r r r r r r",
                None,
                "others worked before, and nothing since: the app, or its credential",
            ),
            (10, "r r r r r r r r r r r r", None, "it is the only one that anybody asks for"),
            (10, "r r w r r r r r r r r r", None, "something changed in between"),
            (10, "r r w r r w r r", Some(6), "twice in between is no change"),
            (10, "r w w w w w w r", None, "too few"),
            (2, "r w r w r w r w r w r", None, "too soon"),
            (2, &"r w ".repeat(20), Some(30), "after a minute"),
            (600, "r w r w r", None, "too few, over whatever time"),
            (600, "r w r w r r", Some(5), "a quiet app"),
        ];
        for (every, story, expected, case) in rows {
            assert_eq!(ends_at(story, every), expected, "{case}: {story}");
        }
    }

    #[test]
    fn while_a_token_lives_there_is_time() {
        let mut unclear = None;
        for second in 0..100 {
            let (now, worked) = (Duration::from_secs(second * 10 + 1), Duration::from_secs(second * 10));
            unclear = Some(Unclear::again(unclear, now, Some(worked)));
        }
        let unclear = unclear.expect("refused");
        assert!(!unclear.is_the_grants_end(true) && unclear.is_the_grants_end(false));
    }
}
