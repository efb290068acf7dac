//! What to do for one request, as a pure function of what is held and what is wanted.

use std::time::Duration;

use crate::domain::connection::{Profile, Status};
use crate::domain::scope::ScopeSet;
use crate::domain::time::Timestamp;
use crate::domain::token::{Freshness, HeldToken};
use crate::domain::verdict::{BlockReason, ReauthReason};

/// A request that brings new claims waits this long after a refresh: a stream of ever new challenges must not become a
/// stream of calls to the authority.
const CLAIMS_COOLDOWN: Duration = Duration::from_secs(10);

/// A claims challenge of a resource (continuous access evaluation).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The challenge as JSON text.
    pub json: String,
    /// Lower-case hex SHA-256 of it: what a token that answers it is marked with.
    pub digest: String,
}

/// What a caller wants, after policy.
#[derive(Debug, Clone)]
pub struct Want {
    /// The resource the token is for; none outside Entra.
    pub resource: Option<String>,
    /// The scopes it must carry.
    pub scopes: ScopeSet,
    /// The life it should have left.
    pub min_ttl: Duration,
    /// SHA-256 of a token that a resource refused.
    pub rejected: Option<String>,
    /// A challenge the token must answer.
    pub claims: Option<Claims>,
}

/// What to do next.
#[derive(Clone, Copy)]
pub enum Step<'a> {
    /// Serve this token; with `renew`, start renewing it behind the answer.
    Serve {
        /// The token.
        token: &'a HeldToken,
        /// Whether its renewal is due.
        renew: bool,
    },
    /// Renew first. If that fails or takes too long and there is a fallback, serve that.
    Renew {
        /// A token that still lives and that this request may have.
        fallback: Option<&'a HeldToken>,
    },
    /// Neither: say why.
    Refuse(Refusal),
}

/// Why there is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// An operator paused it.
    Paused,
    /// A wanted scope was never granted.
    ScopeNotGranted,
    /// The user must sign in again.
    NeedsReauthorization(ReauthReason),
    /// An administrator must act.
    Blocked(BlockReason),
    /// The last try failed a moment ago and nobody's verdict changed.
    Trouble,
    /// Another challenge was answered a moment ago.
    TooManyChallenges(Duration),
}

/// Decides. `trouble`: a try failed so recently that another now would only add load. `failing`: the last try failed,
/// whenever that was, so nobody should wait for the next while there is a token to serve.
pub fn next<'a>(
    profile: &Profile,
    granted: &ScopeSet,
    tokens: &'a [HeldToken],
    want: &Want,
    now: Timestamp,
    trouble: bool,
    failing: bool,
) -> Step<'a> {
    if profile.status == Status::Paused {
        return Step::Refuse(Refusal::Paused);
    }
    if want.scopes.iter().any(|scope| !scope.is_openid() && !granted.contains(scope)) {
        return Step::Refuse(Refusal::ScopeNotGranted);
    }
    let token = tokens.iter().find(|token| token.resource == want.resource);
    let freshness = token.map_or(Freshness::Expired, |token| token.freshness(now, want.min_ttl));
    let may_try = !trouble && profile.may_try(now);

    if let Some(token) = token
        && freshness != Freshness::Expired
        && is_refused(token, want)
    {
        if want.claims.is_some() && want.rejected.is_none() {
            let age = now.since(token.issued_at);
            if token.answers_claims.is_some() && age < CLAIMS_COOLDOWN {
                return Step::Refuse(Refusal::TooManyChallenges(CLAIMS_COOLDOWN - age));
            }
        }
        // The reporter never gets the token back that it reported.
        return if may_try { Step::Renew { fallback: None } } else { Step::Refuse(why_not(profile)) };
    }
    match (freshness, token) {
        (Freshness::Fresh, Some(token)) => {
            // A verdict that may be tried again is, behind the answer: it may have been lifted.
            let due = token.refresh_at.is_some_and(|at| at <= now) || profile.status != Status::Active;
            Step::Serve { token, renew: due && may_try }
        }
        (Freshness::Short, Some(token)) if !may_try => Step::Serve { token, renew: false },
        (Freshness::Short, Some(token)) if failing => Step::Serve { token, renew: true },
        (Freshness::Short, Some(token)) => Step::Renew { fallback: Some(token) },
        _ if may_try => Step::Renew { fallback: None },
        _ => Step::Refuse(why_not(profile)),
    }
}

/// Whether the held token is just the one a resource refused, or does not answer the challenge it made.
pub fn is_refused(token: &HeldToken, want: &Want) -> bool {
    match (&want.rejected, &want.claims) {
        (Some(rejected), _) => *rejected == token.digest,
        (None, Some(claims)) => token.answers_claims.as_deref() != Some(claims.digest.as_str()),
        (None, None) => false,
    }
}

fn why_not(profile: &Profile) -> Refusal {
    match profile.status {
        Status::NeedsReauthorization(reason) => Refusal::NeedsReauthorization(reason),
        Status::Blocked(reason) => Refusal::Blocked(reason),
        Status::Paused => Refusal::Paused,
        Status::Active => Refusal::Trouble,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::account::Account;
    use crate::domain::scope::ScopeNaming;
    use crate::domain::secret::AccessToken;

    const LIFE: i64 = 3600;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    fn profile(status: Status) -> Profile {
        let account = Account { iss: "i".into(), sub: "s".into(), tid: None, oid: None, username: None };
        let mut profile = Profile::connected(account, vec![], vec![], "cli".into(), at(0), None);
        profile.status = status;
        profile
    }

    fn held() -> Vec<HeldToken> {
        vec![HeldToken {
            access_token: AccessToken::new("t"),
            digest: "d1".into(),
            issued_at: at(0),
            expires_at: at(LIFE),
            refresh_at: None,
            scopes: vec![],
            resource: None,
            answers_claims: None,
        }]
    }

    fn want() -> Want {
        Want {
            resource: None,
            scopes: ScopeNaming::Plain.scopes("mail").expect("scopes"),
            min_ttl: Duration::from_secs(300),
            rejected: None,
            claims: None,
        }
    }

    fn word(step: Step<'_>) -> &'static str {
        match step {
            Step::Serve { renew: false, .. } => "serve",
            Step::Serve { renew: true, .. } => "serve, renew behind",
            Step::Renew { fallback: Some(_) } => "renew, else serve",
            Step::Renew { fallback: None } => "renew",
            Step::Refuse(Refusal::Paused) => "paused",
            Step::Refuse(Refusal::ScopeNotGranted) => "scope",
            Step::Refuse(Refusal::NeedsReauthorization(_)) => "reauthorize",
            Step::Refuse(Refusal::Blocked(_)) => "blocked",
            Step::Refuse(Refusal::Trouble) => "trouble",
            Step::Refuse(Refusal::TooManyChallenges(_)) => "too many",
        }
    }

    #[test]
    fn a_valid_token_is_served_whatever_the_status_and_a_refresh_is_tried_only_where_it_may_help() {
        let reauth = Status::NeedsReauthorization(ReauthReason::GrantExpired);
        let blocked = Status::Blocked(BlockReason::PolicyBlocked);
        // status, now, retry_at, trouble, failing, step
        let rows = [
            (Status::Active, 10, None, false, false, "serve"),
            (Status::Active, 10, None, true, true, "serve"),
            (Status::Active, LIFE - 200, None, false, false, "renew, else serve"),
            (Status::Active, LIFE - 200, None, true, true, "serve"),
            (Status::Active, LIFE - 200, None, false, true, "serve, renew behind"),
            (Status::Active, LIFE, None, false, false, "renew"),
            (Status::Active, LIFE, None, true, true, "trouble"),
            (reauth, 10, Some(9999), false, false, "serve"),
            (reauth, 10, Some(10), false, false, "serve, renew behind"),
            (reauth, LIFE - 200, Some(9999), false, false, "serve"),
            (reauth, LIFE, Some(9999), false, false, "reauthorize"),
            (reauth, LIFE, Some(LIFE), false, false, "renew"),
            (blocked, LIFE, Some(9999), false, false, "blocked"),
            (blocked, LIFE, Some(LIFE), true, true, "blocked"),
            (Status::Paused, 10, None, false, false, "paused"),
        ];
        for (status, now, retry_at, trouble, failing, expected) in rows {
            let mut profile = profile(status);
            profile.retry_at = retry_at.map(at);
            let granted = want().scopes;
            let tokens = held();
            let step = next(&profile, &granted, &tokens, &want(), at(now), trouble, failing);
            assert_eq!(word(step), expected, "{status:?} at {now} trouble {trouble} failing {failing}");
        }
    }

    #[test]
    fn a_scope_that_was_not_granted_is_refused_even_beside_a_valid_token() {
        let step_word = {
            let tokens = held();
            word(next(&profile(Status::Active), &ScopeSet::default(), &tokens, &want(), at(10), false, false))
        };
        assert_eq!(step_word, "scope");
    }

    #[test]
    fn a_reported_token_is_renewed_once_and_an_old_report_gets_what_is_held() {
        let granted = want().scopes;
        let tokens = held();
        let active = profile(Status::Active);
        let reporting = |digest: &str| Want { rejected: Some(digest.into()), ..want() };
        let step =
            |want: &Want, trouble| word(next(&active, &granted, &tokens, want, at(10), trouble, trouble));
        assert_eq!(step(&reporting("d1"), false), "renew");
        assert_eq!(step(&reporting("d0"), false), "serve");
        assert_eq!(step(&reporting("d1"), true), "trouble"); // the reporter gets the error …
        assert_eq!(step(&want(), true), "serve"); // … and others what they had
    }

    #[test]
    fn a_challenge_is_answered_once_and_ever_new_ones_are_slowed_down() {
        let granted = want().scopes;
        let active = profile(Status::Active);
        let claims = |digest: &str| Want {
            claims: Some(Claims { json: "{}".into(), digest: digest.into() }),
            ..want()
        };
        let mut tokens = held();
        let step = |tokens: &[HeldToken], want: &Want, now| {
            word(next(&active, &granted, tokens, want, at(now), false, false))
        };
        assert_eq!(step(&tokens, &claims("c1"), 10), "renew");
        tokens[0].answers_claims = Some("c1".into());
        assert_eq!(step(&tokens, &claims("c1"), 10), "serve");
        assert_eq!(step(&tokens, &claims("c2"), 9), "too many");
        assert_eq!(step(&tokens, &claims("c2"), 11), "renew");
    }

    #[test]
    fn refresh_in_renews_behind_the_answer() {
        let granted = want().scopes;
        let mut tokens = held();
        tokens[0].refresh_at = Some(at(1800));
        let active = profile(Status::Active);
        assert_eq!(word(next(&active, &granted, &tokens, &want(), at(1799), false, false)), "serve");
        assert_eq!(
            word(next(&active, &granted, &tokens, &want(), at(1800), false, false)),
            "serve, renew behind"
        );
    }
}
