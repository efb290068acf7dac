//! Decides what to do for one request, as a pure function of the cached connection and the wanted token.

use std::time::Duration;

use super::claims::Claims;
use super::forced::Force;
use crate::domain::connection::{Profile, Status};
use crate::domain::id::CallerName;
use crate::domain::scope::ScopeSet;
use crate::domain::time::Timestamp;
use crate::domain::token::{Freshness, HeldToken};
use crate::domain::verdict::{BlockReason, ReauthReason};

/// What a caller wants. A request is read into one of these, and policy narrows it to what the caller may
/// have of the connection: one resource, and its scopes.
#[derive(Debug, Clone)]
pub struct Want {
    /// The caller that asks; none for the sweep and operators.
    pub by: Option<CallerName>,
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
    /// Whether it may be a token under continuous access evaluation. It may not for a caller that cannot pass
    /// a challenge on.
    pub cae: bool,
}

impl Want {
    /// Whether a token is of a kind that this request may have: of its resource, and under continuous access
    /// evaluation only if that is allowed.
    fn fits(&self, token: &HeldToken) -> bool {
        token.resource == self.resource && (self.cae || !token.cae)
    }
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
    /// The last attempt failed a moment ago, and no verdict changed the status.
    Trouble,
}

/// Decides. `trouble`: an attempt failed so recently that another would only add load. `failing`: the last
/// attempt failed, however long ago, so nobody should wait for the next while there is a token to serve.
pub fn next<'a>(
    profile: &Profile,
    granted: &ScopeSet,
    tokens: &'a [HeldToken],
    want: &Want,
    now: Timestamp,
    trouble: bool,
    failing: bool,
) -> Step<'a> {
    if profile.status() == Status::Paused {
        return Step::Refuse(Refusal::Paused);
    }
    if want.scopes.iter().any(|scope| !scope.is_openid() && !granted.contains(scope)) {
        return Step::Refuse(Refusal::ScopeNotGranted);
    }
    let token = pick(tokens, want, now);
    let freshness = token.map_or(Freshness::Expired, |token| token.freshness(now, want.min_ttl));
    let may_try = !trouble && profile.may_try(now);

    if let Some(token) = token
        && freshness != Freshness::Expired
        && is_refused(token, want)
    {
        // The reporter never gets the token back that it reported.
        return if may_try { Step::Renew { fallback: None } } else { Step::Refuse(why_not(profile)) };
    }
    // A verdict may be outdated: if it may be tried again, that happens behind the answer. (A token for a
    // caller's challenge is renewed when the challenge comes again.)
    let due = token.is_some_and(|token| {
        let is_doubted = profile.status() != Status::Active && !token.is_ended_by_renewal();
        (token.refresh_at.is_some_and(|at| at <= now) || is_doubted) && token.got_for.is_none()
    });
    of_token(token, want.min_ttl, now, may_try, failing, due)
        .unwrap_or_else(|| Step::Refuse(why_not(profile)))
}

/// Decides by the token alone; `None` if there is none to serve and none may be got. `may_try`: the authority
/// may be called. `due`: a token with life enough is renewed behind the answer.
pub(super) fn of_token(
    token: Option<&HeldToken>,
    min_ttl: Duration,
    now: Timestamp,
    may_try: bool,
    failing: bool,
    due: bool,
) -> Option<Step<'_>> {
    let freshness = token.map_or(Freshness::Expired, |token| token.freshness(now, min_ttl));
    Some(match (freshness, token) {
        (Freshness::Fresh, Some(token)) => Step::Serve { token, renew: due && may_try },
        (Freshness::Short, Some(token)) if !may_try => Step::Serve { token, renew: false },
        (Freshness::Short, Some(token)) if failing => Step::Serve { token, renew: true },
        (Freshness::Short, Some(token)) => Step::Renew { fallback: Some(token) },
        _ if may_try => Step::Renew { fallback: None },
        _ => return None,
    })
}

/// The cached token that a request is about: the one that answers its challenge. A request without a
/// challenge gets the token that its caller got for an earlier one while that is fresh, else the shared one
/// (of two that differ in continuous access evaluation, the one that lives longer).
pub fn pick<'a>(tokens: &'a [HeldToken], want: &Want, now: Timestamp) -> Option<&'a HeldToken> {
    let fitting = || tokens.iter().filter(|token| want.fits(token));
    let is_its_own = |token: &&HeldToken| match &want.claims {
        Some(claims) => {
            let answers = token.answers_claims.as_deref() == Some(claims.digest());
            answers && token.freshness(now, Duration::ZERO) != Freshness::Expired
        }
        None => {
            token.got_for.is_some()
                && token.got_for == want.by
                && token.freshness(now, want.min_ttl) == Freshness::Fresh
                && token.refresh_at.is_none_or(|at| at > now)
                && !is_refused(token, want)
        }
    };
    let shared = || fitting().filter(|token| token.got_for.is_none()).max_by_key(|token| token.expires_at);
    fitting().find(is_its_own).or_else(shared)
}

/// The `min_ttl` of a request without one. It forces nothing, however short the authority's tokens are.
pub const ORDINARY_MIN_TTL: Duration = Duration::from_secs(300);

/// The kind of renewal that a request forces. Without a live token only a challenge forces one; with a token
/// that is due anyway only a report or a challenge does.
pub(super) fn force(tokens: &[HeldToken], want: &Want, now: Timestamp) -> Option<Force> {
    let lives = |token: &&HeldToken| token.freshness(now, Duration::ZERO) != Freshness::Expired;
    let token = pick(tokens, want, now).filter(lives);
    let is_of_held = token.is_some_and(|token| want.rejected.as_ref() == Some(&token.digest));
    match &want.claims {
        Some(claims) if is_of_held && claims.is_met_by_any_new_token(now) => Some(Force::Report),
        Some(_) if is_of_held => Some(Force::Challenge),
        Some(_) => Some(Force::Bare),
        None if is_of_held => Some(Force::Report),
        None if want.min_ttl <= ORDINARY_MIN_TTL => None,
        None => token.filter(|token| !is_due(token, now)).map(|_| Force::MoreLife),
    }
}

/// Whether a token would be renewed by now without any request: it is in the last fifth of its life (as in
/// [`due`](super::due)), or the authority said so.
pub(super) fn is_due(token: &HeldToken, now: Timestamp) -> bool {
    let life = token.expires_at.since(token.issued_at);
    token.life_left(now) <= life / 5 || token.refresh_at.is_some_and(|at| at <= now)
}

/// Whether the caller has no living token of the resource, neither everybody's nor one for its own challenge.
/// Then a challenge that may not be passed on gets a plain renewal: one for everybody, however many
/// challenges there are.
pub(super) fn has_none(tokens: &[HeldToken], want: &Want, now: Timestamp) -> bool {
    let is_of_caller = |token: &&HeldToken| {
        let is_its_own = token.got_for.is_none() || token.got_for == want.by;
        want.fits(token) && is_its_own
    };
    let mut tokens = tokens.iter().filter(is_of_caller);
    tokens.all(|token| token.freshness(now, Duration::ZERO) == Freshness::Expired)
}

/// Whether a resource refused this token, or it does not answer the challenge.
pub fn is_refused(token: &HeldToken, want: &Want) -> bool {
    match (&want.rejected, &want.claims) {
        (Some(rejected), _) => *rejected == token.digest,
        (None, Some(claims)) => token.answers_claims.as_deref() != Some(claims.digest()),
        (None, None) => false,
    }
}

fn why_not(profile: &Profile) -> Refusal {
    match profile.status() {
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

    fn profile(status: Status, retry_at: Option<i64>) -> Profile {
        let account = Account { iss: "i".into(), sub: "s".into(), tid: None, oid: None, username: None };
        let active = Profile::connected(account, vec![], vec![], "cli".into(), at(0), None);
        active.of_status(status, retry_at.map(at))
    }

    fn held() -> Vec<HeldToken> {
        vec![HeldToken {
            access_token: AccessToken::new("t"),
            digest: "d1".into(),
            uti: None,
            issued_at: at(0),
            expires_at: at(LIFE),
            refresh_at: None,
            scopes: vec![],
            resource: None,
            answers_claims: None,
            got_for: None,
            cae: false,
        }]
    }

    fn want() -> Want {
        Want {
            by: CallerName::parse("sync").ok(),
            resource: None,
            scopes: ScopeNaming::Plain.scopes("mail").expect("scopes"),
            min_ttl: Duration::from_secs(300),
            rejected: None,
            claims: None,
            cae: true,
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
            let profile = profile(status, retry_at);
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
            word(next(
                &profile(Status::Active, None),
                &ScopeSet::default(),
                &tokens,
                &want(),
                at(10),
                false,
                false,
            ))
        };
        assert_eq!(step_word, "scope");
    }

    #[test]
    fn a_reported_token_is_renewed_once_and_an_old_report_gets_what_is_held() {
        let granted = want().scopes;
        let tokens = held();
        let active = profile(Status::Active, None);
        let reporting = |digest: &str| Want { rejected: Some(digest.into()), ..want() };
        let step =
            |want: &Want, trouble| word(next(&active, &granted, &tokens, want, at(10), trouble, trouble));
        assert_eq!(step(&reporting("d1"), false), "renew");
        assert_eq!(step(&reporting("d0"), false), "serve");
        assert_eq!(step(&reporting("d1"), true), "trouble"); // the reporter gets the error …
        assert_eq!(step(&want(), true), "serve"); // … and others what they had
    }

    fn step_up(context: &str) -> Claims {
        Claims::read(&format!(r#"{{"access_token":{{"acrs":{{"value":"{context}"}}}}}}"#))
            .expect("a challenge")
    }

    #[test]
    fn a_challenge_is_answered_once_for_all_who_bring_it() {
        let granted = want().scopes;
        let active = profile(Status::Active, None);
        let claims = |context| Want { claims: Some(step_up(context)), ..want() };
        let mut tokens = held();
        let step = |tokens: &[HeldToken], want: &Want| {
            word(next(&active, &granted, tokens, want, at(10), false, false))
        };
        assert_eq!(step(&tokens, &claims("c1")), "renew");
        tokens[0].answers_claims = Some(step_up("c1").digest().into());
        assert_eq!(step(&tokens, &claims("c1")), "serve");
        assert_eq!(step(&tokens, &claims("c2")), "renew");
    }

    /// Who gets which of two tokens: everybody's (`d1`), and one that a caller got for a challenge (`d2`).
    #[test]
    fn what_a_caller_got_for_its_challenge_is_nobody_elses() {
        let sync = CallerName::parse("sync").ok();
        let reader = CallerName::parse("reader").ok();
        let own = HeldToken {
            digest: "d2".into(),
            uti: None,
            answers_claims: Some(step_up("c1").digest().into()),
            got_for: sync.clone(),
            refresh_at: Some(at(1800)),
            ..held().remove(0)
        };
        let tokens = [held(), vec![own]].concat();
        let want = |by: &Option<CallerName>, claims: Option<&str>, rejected: Option<&str>| Want {
            by: by.clone(),
            claims: claims.map(step_up),
            rejected: rejected.map(str::to_owned),
            min_ttl: Duration::from_secs(600),
            ..want()
        };
        // who, with which challenge, reporting what, when: is about which token, and forces what
        let rows = [
            (&sync, None, None, 10, "d2", Some(Force::MoreLife)), // (It asks for more than is ordinary.)
            (&reader, None, None, 10, "d1", Some(Force::MoreLife)),
            (&None, None, None, 10, "d1", Some(Force::MoreLife)),
            // (Its own is due: it is asked about everybody's.)
            (&sync, None, None, 1800, "d1", Some(Force::MoreLife)),
            (&reader, None, None, LIFE * 4 / 5 - 1, "d1", Some(Force::MoreLife)),
            (&reader, None, None, LIFE * 4 / 5, "d1", None), // it would be renewed whatever is asked
            (&sync, None, Some("d2"), 10, "d1", Some(Force::MoreLife)),
            (&sync, None, Some("d1"), 10, "d2", Some(Force::MoreLife)),
            (&reader, None, Some("d1"), 10, "d1", Some(Force::Report)),
            (&reader, None, Some("d1"), LIFE, "d1", None), // nobody has a token
            (&reader, Some("c1"), None, 10, "d2", Some(Force::Bare)),
            (&reader, Some("c1"), Some("d2"), 10, "d2", Some(Force::Challenge)),
            (&reader, Some("c2"), Some("d1"), 10, "d1", Some(Force::Challenge)),
            (&sync, Some("c2"), None, 10, "d1", Some(Force::Bare)),
            (&sync, Some("c1"), None, LIFE, "d1", Some(Force::Bare)),
        ];
        for (by, claims, rejected, now, digest, forces) in rows {
            let want = want(by, claims, rejected);
            let found = pick(&tokens, &want, at(now)).map(|token| token.digest.as_str());
            assert_eq!(found, Some(digest), "{want:?} at {now}");
            assert_eq!(force(&tokens, &want, at(now)), forces, "{want:?} at {now}");
            // Who says nothing forces nothing, however short-lived tokens are.
            let ordinary = Want { min_ttl: ORDINARY_MIN_TTL, ..want };
            let forces = forces.filter(|force| *force != Force::MoreLife);
            assert_eq!(force(&tokens, &ordinary, at(now)), forces, "{ordinary:?} at {now}");
        }
    }

    /// Beside everybody's token stands one under continuous access evaluation.
    #[test]
    fn who_cannot_pass_a_challenge_on_never_gets_a_token_that_may_be_challenged() {
        let of = |digest: &str, cae: bool, expires_at: i64| HeldToken {
            digest: digest.into(),
            cae,
            expires_at: at(expires_at),
            ..held().remove(0)
        };
        let (both, neither) = (Want { cae: true, ..want() }, Want { cae: false, ..want() });
        let granted = ScopeNaming::Plain.scopes("mail").expect("scopes");
        let active = profile(Status::Active, None);
        // cached tokens, now, who may have both gets, who may not gets
        let rows = [
            (vec![of("cae", true, 90_000)], 10, "cae", None),
            (vec![of("plain", false, LIFE)], 10, "plain", Some("plain")),
            (vec![of("plain", false, LIFE), of("cae", true, 90_000)], 10, "cae", Some("plain")),
            (vec![of("cae", true, 90_000), of("plain", false, LIFE)], 10, "cae", Some("plain")),
            // The one that lives longer, so that a living one is served.
            (vec![of("cae", true, 100), of("plain", false, LIFE)], 200, "plain", Some("plain")),
            (vec![of("cae", true, 90_000), of("plain", false, LIFE)], LIFE + 1, "cae", Some("plain")),
        ];
        for (tokens, now, of_both, of_neither) in rows {
            let got = |want: &Want| pick(&tokens, want, at(now)).map(|token| token.digest.clone());
            assert_eq!(got(&both).as_deref(), Some(of_both));
            assert_eq!(got(&neither).as_deref(), of_neither);
            let lives = |token: &HeldToken| token.expires_at > at(now);
            let has_plain = tokens.iter().any(|token| !token.cae && lives(token));
            assert_eq!(has_none(&tokens, &neither, at(now)), !has_plain);
            let step = next(&active, &granted, &tokens, &neither, at(now), false, false);
            assert_eq!(word(step), if has_plain { "serve" } else { "renew" });
        }
        assert!(!crate::refresh::kept::is_in_place_of(&of("a", true, 1), &of("b", false, 1)));
    }

    /// Who has no token of its own or everybody's that lives: a challenge that may not be passed on is
    /// answered plainly then.
    #[test]
    fn who_has_none_is_told_by_what_a_plain_request_would_get() {
        let by = |name: &str| CallerName::parse(name).ok();
        let of = |owner: Option<&str>, resource: Option<&str>| HeldToken {
            got_for: owner.and_then(by),
            resource: resource.map(str::to_owned),
            ..held().remove(0)
        };
        let want = Want { by: by("sync"), claims: Some(step_up("c2")), ..want() };
        // cached tokens, now, whether the caller has none
        let rows = [
            (vec![], 10, true),
            (vec![of(None, None)], 10, false),
            (vec![of(None, None)], LIFE, true),
            (vec![of(Some("sync"), None)], 10, false),
            (vec![of(Some("sync"), None)], LIFE, true),
            (vec![of(Some("reader"), None)], 10, true),
            (vec![of(None, Some("other"))], 10, true),
            (vec![of(Some("reader"), None), of(None, None)], 10, false),
        ];
        for (tokens, now, expected) in rows {
            let digests: Vec<_> = tokens.iter().map(|token| (&token.got_for, &token.resource)).collect();
            assert_eq!(has_none(&tokens, &want, at(now)), expected, "{digests:?} at {now}");
        }
    }

    /// Whatever life a caller wants and whatever the status: copies of the token may be in use.
    #[test]
    fn a_token_that_a_renewal_would_end_is_renewed_at_its_end_or_when_it_was_refused() {
        let granted = want().scopes;
        let mut tokens = held();
        tokens[0].refresh_at = Some(tokens[0].expires_at);
        let active = profile(Status::Active, None);
        let doubted = profile(Status::NeedsReauthorization(ReauthReason::InteractionRequired), Some(0));
        let long = Want { min_ttl: Duration::from_secs(86_400), ..want() };
        let refused = Want { rejected: Some("d1".into()), ..want() };
        for (profile, want, now, expected) in [
            (&active, &want(), LIFE - 2, "serve"),
            (&active, &long, LIFE - 2, "serve"),
            (&doubted, &long, LIFE - 2, "serve"),
            (&active, &want(), LIFE, "renew"),
            (&active, &refused, 10, "renew"),
        ] {
            let step = next(profile, &granted, &tokens, want, at(now), false, false);
            assert_eq!(word(step), expected, "{:?} at {now}", want.min_ttl);
        }
    }

    #[test]
    fn refresh_in_renews_behind_the_answer() {
        let granted = want().scopes;
        let mut tokens = held();
        tokens[0].refresh_at = Some(at(1800));
        let active = profile(Status::Active, None);
        assert_eq!(word(next(&active, &granted, &tokens, &want(), at(1799), false, false)), "serve");
        assert_eq!(
            word(next(&active, &granted, &tokens, &want(), at(1800), false, false)),
            "serve, renew behind"
        );
    }
}
