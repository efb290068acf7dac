//! Cached access tokens: when they came, when they expire, and which requests they satisfy.

use std::time::Duration;

use super::id::CallerName;
use super::secret::AccessToken;
use super::time::Timestamp;

/// An access token with what the authority said about it.
#[derive(Clone)]
pub struct HeldToken {
    /// The bearer itself.
    pub access_token: AccessToken,
    /// Lower-case hex SHA-256 of the token. A caller reports a refused token by this digest.
    pub digest: String,
    /// The token's `uti` claim, unverified and for the audit only, if it is a JWT that has one.
    pub uti: Option<String>,
    /// When we asked for it: its life counts from the start of the request, not from the answer.
    pub issued_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
    /// When the authority wants it renewed (`refresh_in`), if it said so. Its end, if a renewal would end it.
    pub refresh_at: Option<Timestamp>,
    /// Its scopes, in the authority's spelling.
    pub scopes: Vec<String>,
    /// Its resource; `None` outside Entra.
    pub resource: Option<String>,
    /// SHA-256 of the claims challenge it answers, if any.
    pub answers_claims: Option<String>,
    /// The caller whose claims challenge asked for more than a plain refresh does. The token is for this
    /// caller and for those who bring the same challenge. `None` means that it is for everybody.
    pub got_for: Option<CallerName>,
    /// It was asked for under continuous access evaluation: a resource may refuse it before its end, with a
    /// claims challenge.
    pub cae: bool,
}

/// How well a token satisfies one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Serve it.
    Fresh,
    /// It lives, but the caller wants more life: renew, and serve this one if that fails.
    Short,
    /// It has expired.
    Expired,
}

/// Placeholder caller for a token that belongs to a caller whose name is unknown, so that it does not become
/// everybody's.
pub fn nobody() -> CallerName {
    CallerName::parse("nobody").expect("it is of a name's alphabet")
}

impl HeldToken {
    /// Returns the life left at `now`.
    pub fn life_left(&self, now: Timestamp) -> Duration {
        self.expires_at.since(now)
    }

    /// Returns true if its provider ends it at the next renewal (`refresh_ends_tokens` of the app). Copies of
    /// it may be in use, so nothing renews it while it lives, but a report that it was refused.
    pub fn is_ended_by_renewal(&self) -> bool {
        self.refresh_at == Some(self.expires_at)
    }

    /// Judges the token for a caller that wants at least `min_ttl` of life. A token younger than a quarter of
    /// its own life is fresh for any `min_ttl`, so that a `min_ttl` beyond what the authority gives does not
    /// cause a refresh for every request. So is one that a renewal would end.
    pub fn freshness(&self, now: Timestamp, min_ttl: Duration) -> Freshness {
        let left = self.life_left(now);
        if left < Duration::from_secs(1) {
            return Freshness::Expired;
        }
        let life = self.expires_at.since(self.issued_at);
        let age = now.since(self.issued_at);
        let is_enough = left >= min_ttl || age < life / 4 || self.is_ended_by_renewal();
        if is_enough { Freshness::Fresh } else { Freshness::Short }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(life: i64) -> HeldToken {
        HeldToken {
            access_token: AccessToken::new("t"),
            digest: String::new(),
            uti: None,
            issued_at: Timestamp::from_unix_seconds(0),
            expires_at: Timestamp::from_unix_seconds(life),
            refresh_at: None,
            scopes: Vec::new(),
            resource: None,
            answers_claims: None,
            got_for: None,
            cae: false,
        }
    }

    #[test]
    fn freshness_table() {
        // life, now, min_ttl, verdict
        let rows = [
            (3600, 0, 300, Freshness::Fresh),
            (3600, 3299, 300, Freshness::Fresh),
            (3600, 3301, 300, Freshness::Short),
            (3600, 3599, 300, Freshness::Short),
            (3600, 3600, 300, Freshness::Expired),
            (3600, 9999, 300, Freshness::Expired),
            (3600, 899, 86_400, Freshness::Fresh), // younger than a quarter of its life
            (3600, 901, 86_400, Freshness::Short),
            (200, 0, 300, Freshness::Fresh), // fresh from the authority, served with its true life
            (200, 60, 300, Freshness::Short),
        ];
        for (life, now, min_ttl, verdict) in rows {
            let now_at = Timestamp::from_unix_seconds(now);
            assert_eq!(
                token(life).freshness(now_at, Duration::from_secs(min_ttl)),
                verdict,
                "life {life} now {now} min_ttl {min_ttl}"
            );
        }
    }
}
