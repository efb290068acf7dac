//! What a stream says, and when it looks again. Pure.

use std::time::Duration;

use http::StatusCode;

use crate::api::problem::Problem;
use crate::domain::backoff::Backoff;
use crate::domain::time::Timestamp;
use crate::domain::token::{Freshness, HeldToken};

/// Time between two signs of life. Proxies commonly end a connection that is silent for 30 or 60 seconds.
pub(in crate::api::local) const HEARTBEAT: Duration = Duration::from_secs(15);
/// Time until a look after one that brought no token with enough life. Most healing is noticed without it.
const AGAIN: Backoff = Backoff { first: Duration::from_secs(5), longest: Duration::from_secs(60) };
/// The `retry` of streams, in milliseconds: spread, since many of them end together.
const RETRY: std::ops::Range<u64> = 1000..5000;

/// What a stream's client was told last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Told {
    /// Nothing yet.
    #[default]
    Nothing,
    /// The token with this id.
    Token(String),
    /// That there is none, with code and reason.
    Error(&'static str, Option<&'static str>),
}

impl Told {
    /// What the client of a new stream has from an earlier one, by its `Last-Event-ID`.
    pub(super) fn before(last_event_id: Option<&str>) -> Self {
        let id = last_event_id.filter(|id| !id.is_empty());
        id.map_or(Told::Nothing, |id| Told::Token(id.to_owned()))
    }

    /// What the client is told by this problem.
    pub(super) fn of(problem: &Problem) -> Self {
        Told::Error(problem.code, problem.more.reason)
    }
}

/// Whether a problem ends the stream: the caller has no right to it any more, or there is nothing to watch.
/// If the client comes back, it gets the same as the status of an answer. All other problems may pass.
pub(in crate::api::local) fn ends(problem: &Problem) -> bool {
    matches!(
        problem.status(),
        StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND
    )
}

/// When a stream looks again, if nothing changes before.
#[derive(Debug, Clone, Default)]
pub(super) struct Next {
    /// The times of the token that was served last.
    life: Option<Life>,
    /// Looks in a row that brought no token with enough life.
    failures: u32,
    /// Monotonic time before which none of them is repeated.
    again_at: Duration,
}

/// The times of a token.
#[derive(Debug, Clone, Copy)]
struct Life {
    issued_at: Timestamp,
    expires_at: Timestamp,
    /// Later than the look.
    refresh_at: Option<Timestamp>,
    min_ttl: Duration,
}

impl Next {
    /// A token was served.
    pub(super) fn served(
        &mut self,
        token: &HeldToken,
        min_ttl: Duration,
        (now, monotonic): (Timestamp, Duration),
    ) {
        let HeldToken { issued_at, expires_at, refresh_at, .. } = *token;
        // A wish that is due is followed behind this answer.
        let refresh_at = refresh_at.filter(|at| *at > now);
        // One that ends by its renewal is renewed at its end and not before.
        let min_ttl = if token.is_ended_by_renewal() { Duration::ZERO } else { min_ttl };
        self.life = Some(Life { issued_at, expires_at, refresh_at, min_ttl });
        match token.freshness(now, min_ttl) {
            Freshness::Fresh => self.failures = 0,
            Freshness::Short | Freshness::Expired => self.fail(Duration::ZERO, monotonic),
        }
    }

    /// There was a problem, which asks to wait for so many seconds.
    pub(super) fn refused(&mut self, retry_after: Option<u64>, monotonic: Duration) {
        self.life = None;
        self.fail(Duration::from_secs(retry_after.unwrap_or(0)), monotonic);
    }

    fn fail(&mut self, at_least: Duration, monotonic: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.again_at = monotonic + AGAIN.after(self.failures).max(at_least.min(AGAIN.longest));
    }

    /// Returns the time until the next look.
    pub(super) fn wait(&self, now: Timestamp, monotonic: Duration) -> Duration {
        if self.failures > 0 {
            return self.again_at.saturating_sub(monotonic);
        }
        self.life.map_or(AGAIN.longest, |life| life.until_due(now))
    }
}

impl Life {
    /// Time until the token is to be renewed. That is when the authority wants it, and at the latest when it
    /// becomes too short for the caller. (The token of a renewal behind an answer is noticed by itself.)
    fn until_due(self, now: Timestamp) -> Duration {
        let life = self.expires_at.since(self.issued_at);
        let left = self.expires_at.since(now);
        // A token younger than a quarter of its life is long enough (`HeldToken::freshness`).
        let until_old = (life / 4).saturating_sub(now.since(self.issued_at));
        let until_short = left.saturating_sub(self.min_ttl).max(until_old).min(left);
        let until_wish = self.refresh_at.map(|at| at.since(now));
        until_wish.map_or(until_short, |wish| wish.min(until_short))
    }
}

/// Writes an event. `id` is empty after an error, so that a client that comes back gets the present token.
pub(in crate::api::local) fn event(name: &str, id: &str, data: &str) -> String {
    format!("event: {name}\nid: {id}\ndata: {data}\n\n")
}

/// Writes the first line of a stream: when to come back after its end. `request_id` spreads it.
pub(in crate::api::local) fn opening(request_id: &str) -> String {
    let many = RETRY.end - RETRY.start;
    let spread = request_id.bytes().fold(0_u64, |sum, byte| (sum * 31 + u64::from(byte)) % many);
    format!("retry: {}\n", RETRY.start + spread)
}

/// Writes what begins the stream of a client that has the present token, with its id.
pub(super) fn nothing_new(id: &str) -> String {
    format!("id: {id}\n\n")
}

/// A comment. (An empty line behind it would be an event without data to some clients.)
pub(in crate::api::local) const ALIVE: &str = ":\n";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Refusal;
    use crate::domain::secret::AccessToken;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds.cast_signed())
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn token(refresh_at: Option<u64>) -> HeldToken {
        HeldToken {
            access_token: AccessToken::new("t"),
            digest: String::new(),
            uti: None,
            issued_at: at(0),
            expires_at: at(3600),
            refresh_at: refresh_at.map(at),
            scopes: Vec::new(),
            resource: None,
            answers_claims: None,
            got_for: None,
            cae: false,
        }
    }

    /// Served at this second with this `min_ttl`, it is looked at again this many seconds later.
    #[test]
    fn a_token_is_looked_at_again_when_its_renewal_is_due() {
        let rows = [
            // refresh_at, min_ttl, now, wait
            (None, 300, 0, 3300),
            (None, 300, 3299, 1),
            (Some(1800), 300, 0, 1800),
            (Some(1800), 300, 1800, 1500), // the renewal goes on behind the answer
            (Some(3500), 300, 0, 3300),
            (None, 86_400, 0, 900), // a quarter of its life is enough for any `min_ttl`
            (Some(3600), 300, 0, 3600), // its renewal would end it
            (Some(3600), 300, 3590, 10),
        ];
        for (refresh_at, min_ttl, now, wait) in rows {
            let mut next = Next::default();
            next.served(&token(refresh_at), seconds(min_ttl), (at(now), seconds(now)));
            let found = next.wait(at(now), seconds(now));
            assert_eq!(found, seconds(wait), "{refresh_at:?} {min_ttl} {now}");
            // A clock that was moved is believed.
            assert_eq!(
                next.wait(at(now + wait), seconds(now)),
                Duration::ZERO,
                "{refresh_at:?} {min_ttl} {now}"
            );
        }
    }

    #[test]
    fn a_look_that_brought_nothing_is_repeated_ever_less_often() {
        let mut next = Next::default();
        let mut waits = Vec::new();
        for round in 0..6_u32 {
            match round % 2 {
                0 => next.refused(None, seconds(100)),
                _ => next.served(&token(None), seconds(300), (at(3400), seconds(100))),
            }
            waits.push(next.wait(at(3400), seconds(100)).as_secs());
        }
        assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
        assert_eq!(next.wait(at(3400), seconds(130)), seconds(30));
        next.served(&token(None), seconds(300), (at(0), seconds(200)));
        assert_eq!(next.wait(at(0), seconds(200)), seconds(3300));
        next.refused(Some(30), seconds(0));
        assert_eq!(next.wait(at(0), seconds(0)), seconds(30));
        next.refused(Some(3600), seconds(0));
        assert_eq!(next.wait(at(0), seconds(0)), seconds(60), "somebody may mend it sooner");
    }

    #[test]
    fn what_takes_the_right_away_ends_the_stream_and_what_may_pass_does_not() {
        let of = Problem::of;
        let ending = [
            Problem::unauthenticated(),
            of(Refusal::Forbidden { problem: String::new() }),
            of(Refusal::AppNotFound),
            of(Refusal::ConnectionNotFound),
            Problem::invalid("resource", "spans two"),
        ];
        assert!(ending.iter().all(ends));
        let passing = [
            of(Refusal::ConnectionPaused),
            of(Refusal::ScopeNotGranted { scopes: Vec::new() }),
            of(Refusal::StoreUnavailable),
            of(Refusal::AuditUnavailable),
            of(Refusal::TooManyForced { retry_after: Duration::ZERO }),
        ];
        assert!(!passing.iter().any(ends));
    }

    #[test]
    fn events_are_written_as_the_standard_has_them() {
        assert_eq!(event("token", "0a", "{}"), "event: token\nid: 0a\ndata: {}\n\n");
        let opened = opening("4bf92f3577b34da6a3ce929d0e0e4736");
        let retry: u64 = opened.strip_prefix("retry: ").expect("first").trim_end().parse().expect("a number");
        assert!(RETRY.contains(&retry) && !opened.ends_with("\n\n") && opened != opening("another"));
        assert_eq!(Told::before(Some("0a")), Told::Token("0a".into()));
        assert_eq!((Told::before(Some("")), Told::before(None)), (Told::Nothing, Told::Nothing));
    }
}
