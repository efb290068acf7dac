//! When a connection is due for a renewal that nobody asks for, as a pure function.

use std::time::Duration;

use crate::domain::connection::{Profile, Status};
use crate::domain::forecast::Renewals;
use crate::domain::time::Timestamp;
use crate::domain::token::HeldToken;

/// A connection that was used within this time is renewed ahead of its token's end, so that its callers never
/// wait: one that is used every day is ready in the morning. Each costs one call for each life of its token.
pub const USED_WITHIN: Duration = Duration::from_secs(24 * 3600);
/// How often a use is noted at most.
pub const NOTED_EVERY: Duration = Duration::from_secs(3600);
/// How often an idle grant is renewed: well inside Entra's 90 idle days, with room for a month of trouble.
const KEEP_ALIVE: Duration = Duration::from_secs(30 * 86_400);
/// If idle grants were seen to end sooner: this part of the time that they lasted.
const OF_LEARNT_LIMIT: u32 = 2;
/// But no more often than this: a limit learnt from an accident must not become a stream of calls.
const SHORTEST_KEEP_ALIVE: Duration = Duration::from_secs(3600);
/// A connection that is overdue by this much has fallen out of the schedule.
const OVERDUE: Duration = Duration::from_secs(10 * 86_400);
/// The life that callers want by default, with some time for the call.
const CALLERS_MARGIN: Duration = Duration::from_secs(360);

/// When an access token that lives from `issued_at` for `life` is to be renewed, unless the authority named a
/// time: between three and four fifths of its life, with `jitter` (0 to 1), and before it is too short for
/// callers without a `min_ttl`.
pub fn renew_at(issued_at: Timestamp, life: Duration, jitter: f64) -> Timestamp {
    let point = life.mul_f64(0.6 + 0.2 * jitter.clamp(0.0, 1.0));
    let latest = life.saturating_sub(CALLERS_MARGIN);
    // A token that is always too short for them is renewed by its own life.
    issued_at.plus(if latest > life / 2 { point.min(latest) } else { point })
}

/// When a connection is due next; never if its grant is dead or an operator paused it. `resource` is the one
/// that it was connected for; `idle_limit` is how long idle grants of its tenant were seen to last, if that
/// is known.
pub fn due_at(
    profile: &Profile,
    tokens: &[HeldToken],
    resource: Option<&str>,
    used_at: Option<Timestamp>,
    idle_limit: Option<Duration>,
    now: Timestamp,
    jitter: f64,
) -> Option<Timestamp> {
    if profile.grant_destroyed() {
        return None;
    }
    // Copies of a token that a renewal would end may be in use.
    let spared =
        tokens.iter().filter(|token| token.is_ended_by_renewal()).map(|token| token.expires_at).max();
    let due = match profile.status() {
        Status::Paused => None,
        Status::NeedsReauthorization(_) | Status::Blocked(_) => Some(profile.retry_at().unwrap_or(now)),
        Status::Active => {
            let idle = keep_alive_at(profile, idle_limit, jitter);
            let warm = used_at.is_some_and(|at| now.since(at) < USED_WITHIN);
            let is_everybodys = |token: &&HeldToken| token.got_for.is_none();
            let of_resource = |token: &&HeldToken| token.resource.as_deref() == resource;
            let token = tokens.iter().filter(is_everybodys).filter(of_resource);
            let token = token.max_by_key(|token| token.expires_at);
            let renewal = token.map_or(now, |token| {
                let life = token.expires_at.since(token.issued_at);
                token.refresh_at.unwrap_or_else(|| renew_at(token.issued_at, life, jitter))
            });
            Some(if warm { renewal.min(idle) } else { idle })
        }
    };
    due.map(|due| spared.map_or(due, |end| due.max(end)))
}

/// When an idle grant is renewed, so that it does not end.
fn keep_alive_at(profile: &Profile, idle_limit: Option<Duration>, jitter: f64) -> Timestamp {
    // From five sixths to seven sixths, so that connections made together are not refreshed together.
    profile.last_refreshed_at().plus(rhythm(idle_limit).mul_f64((5.0 + 2.0 * jitter.clamp(0.0, 1.0)) / 6.0))
}

/// The pause between two renewals of an idle grant.
fn rhythm(idle_limit: Option<Duration>) -> Duration {
    idle_limit.map_or(KEEP_ALIVE, |limit| (limit / OF_LEARNT_LIMIT).clamp(SHORTEST_KEEP_ALIVE, KEEP_ALIVE))
}

/// What is done for idle grants, if they were seen to last for `idle_limit` alone; `renews`: the background
/// renews at all.
pub fn renewals(idle_limit: Option<Duration>, renews: bool) -> Renewals {
    let latest = rhythm(idle_limit).mul_f64(7.0 / 6.0);
    Renewals { in_use_within: USED_WITHIN, idle_after: renews.then_some(latest), overdue_by: OVERDUE }
}

/// Whether a connection fell out of the schedule: it would have been renewed long ago.
pub fn is_overdue(profile: &Profile, now: Timestamp) -> bool {
    if profile.grant_destroyed() {
        return false;
    }
    match profile.status() {
        Status::Paused => false,
        Status::Active => now.since(keep_alive_at(profile, None, 1.0)) > OVERDUE,
        Status::NeedsReauthorization(_) | Status::Blocked(_) => {
            profile.retry_at().is_none_or(|at| now.since(at) > OVERDUE)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::account::Account;
    use crate::domain::secret::AccessToken;
    use crate::domain::verdict::{BlockReason, ReauthReason};

    const DAY: i64 = 86_400;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    fn profile(status: Status, retry_at: Option<i64>) -> Profile {
        let account = Account { iss: "i".into(), sub: "s".into(), tid: None, oid: None, username: None };
        let active = Profile::connected(account, vec![], vec![], "cli".into(), at(0), None);
        active.of_status(status, retry_at.map(at))
    }

    fn token(life: i64, refresh_at: Option<i64>) -> HeldToken {
        HeldToken {
            access_token: AccessToken::new("t"),
            digest: String::new(),
            uti: None,
            issued_at: at(0),
            expires_at: at(life),
            refresh_at: refresh_at.map(at),
            scopes: vec![],
            resource: None,
            answers_claims: None,
            got_for: None,
            cae: false,
        }
    }

    #[test]
    fn when_each_kind_of_connection_is_due() {
        let active = Status::Active;
        let reauth = Status::NeedsReauthorization(ReauthReason::InteractionRequired);
        let blocked = Status::Blocked(BlockReason::PolicyBlocked);
        let hour = token(3600, None);
        let said = token(86_400, Some(43_200));
        let week = Some(Duration::from_secs(7 * 86_400));
        let spared = token(3 * 86_400, Some(3 * DAY)); // a renewal would end it
        let hourly = Some(Duration::from_secs(3600));
        // status, retry_at, token, used_at, idle limit, jitter, due
        let rows = [
            (active, None, Some(&hour), Some(0), None, 0.0, Some(2160)),
            (active, None, Some(&hour), Some(0), None, 1.0, Some(2880)),
            (active, None, Some(&said), Some(0), None, 0.5, Some(43_200)), // what the authority said
            (active, None, None, Some(0), None, 0.5, Some(10)),            // used, and nothing is held of it
            (active, None, Some(&hour), None, None, 0.5, Some(30 * DAY)),
            (active, None, Some(&hour), Some(10 - 2 * DAY), None, 0.0, Some(25 * DAY)),
            (active, None, Some(&hour), None, week, 0.5, Some(302_400)),
            (reauth, Some(77), Some(&hour), Some(0), None, 0.5, Some(77)),
            (blocked, Some(78), None, None, None, 0.5, Some(78)),
            (Status::Paused, None, Some(&hour), Some(0), None, 0.5, None),
            (active, None, Some(&spared), Some(0), None, 0.5, Some(3 * DAY)),
            (active, None, Some(&spared), None, hourly, 0.5, Some(3 * DAY)),
            (reauth, Some(77), Some(&spared), Some(0), None, 0.5, Some(3 * DAY)),
        ];
        for (number, (status, retry, token, used, limit, jitter, due)) in rows.into_iter().enumerate() {
            let tokens: Vec<HeldToken> = token.cloned().into_iter().collect();
            let found = due_at(&profile(status, retry), &tokens, None, used.map(at), limit, at(10), jitter);
            assert_eq!(found, due.map(at), "row {number}");
        }
        let dead = profile(Status::Active, None).of_a_dead_grant();
        assert_eq!(due_at(&dead, &[], None, Some(at(0)), None, at(10), 0.5), None);
        assert!(!is_overdue(&dead, at(999 * DAY)));
    }

    #[test]
    fn a_learnt_limit_never_becomes_a_stream_of_calls() {
        let shortest = Some(Duration::from_secs(1));
        let due = due_at(&profile(Status::Active, None), &[], None, None, shortest, at(10), 0.5);
        assert_eq!(due, Some(at(3600)));
    }

    #[test]
    fn callers_that_say_nothing_never_find_a_renewed_token_short() {
        for life in [1800, 3600, 5400, 86_400] {
            for jitter in [0.0, 0.5, 1.0] {
                let renewed = renew_at(at(0), Duration::from_secs(life), jitter).unix_seconds();
                let life = i64::try_from(life).expect("small");
                assert!(renewed <= life - 360 && renewed >= life / 2, "{life} {jitter}: {renewed}");
            }
        }
        assert_eq!(renew_at(at(0), Duration::from_secs(10), 0.0), at(6));
    }

    #[test]
    fn what_fell_out_of_the_schedule_is_seen_before_it_ends() {
        assert!(!is_overdue(&profile(Status::Active, None), at(44 * DAY)));
        assert!(is_overdue(&profile(Status::Active, None), at(46 * DAY)));
        let blocked = Status::Blocked(BlockReason::PolicyBlocked);
        assert!(!is_overdue(&profile(blocked, Some(10)), at(9 * DAY)));
        assert!(is_overdue(&profile(blocked, Some(10)), at(11 * DAY)));
    }
}
