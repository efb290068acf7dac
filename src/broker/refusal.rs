//! Why a use case did not give what was asked, and the one map from that to the outside
//! ([`Refusal::outside`]): status, stable code and `Retry-After`, the same at every door.
//!
//! A refusal is what a caller may know. Why it came to that (a [`Failure`] of refresh, a [`RepositoryError`])
//! stays in here.

use std::time::Duration;

use crate::domain::not_now::NotNow;
use crate::domain::verdict::{AuthorityError, BlockReason, Disposition, ReauthReason};
use crate::policy::Denial;
use crate::refresh::{Failure, Refused};
use crate::repository::RepositoryError;

/// A refusal. Each is one `code` of the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// 400: the caller's mistake.
    InvalidRequest {
        /// Which parameter.
        parameter: &'static str,
        /// What is wrong with it and what would be right.
        problem: String,
    },
    /// 403: the caller may know of it and may not have it.
    Forbidden {
        /// What was refused.
        problem: String,
    },
    /// 404: no such app, or none of this caller's business.
    AppNotFound,
    /// 404: no such connection, or none of this caller's business.
    ConnectionNotFound,
    /// 404: no such session, or another caller's.
    SessionNotFound,
    /// 409: the user must sign in again.
    ReauthorizationRequired {
        /// Why.
        reason: ReauthReason,
        /// What the authority answered.
        answer: AuthorityError,
    },
    /// 409: an administrator must act.
    ConnectionBlocked {
        /// Why.
        reason: BlockReason,
        /// What the authority answered.
        answer: AuthorityError,
    },
    /// 409: the connection lacks these scopes.
    ScopeNotGranted {
        /// Which.
        scopes: Vec<String>,
    },
    /// 409: an operator paused it.
    ConnectionPaused,
    /// 409: the confirmation does not fit.
    ConfirmationRejected {
        /// Why.
        problem: String,
    },
    /// 429: more than this caller may.
    RateLimited {
        /// When to come back.
        retry_after: Duration,
    },
    /// 429: renewals are forced faster than they may be.
    TooManyForced {
        /// When to come back.
        retry_after: Duration,
    },
    /// 429: this caller has as many open as it may have.
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many it may have.
        most: usize,
        /// When to come back.
        retry_after: Duration,
    },
    /// 429: as many walks over connections as there may be are under way.
    TooManyWalks {
        /// How many a caller may have.
        most: usize,
    },
    /// 503: the authority does not serve now.
    AuthorityUnavailable {
        /// How long it asked to be left alone.
        asked: Option<Duration>,
        /// What it answered.
        answer: AuthorityError,
    },
    /// 503: nobody can tell from what the authority answered what is wrong.
    AuthorityUnclear {
        /// What it answered.
        answer: AuthorityError,
    },
    /// 503: tokenward does not use the grant now, for a reason of its own.
    NotNow(NotNow),
    /// 503: the authority gives the very token again that was reported as rejected.
    SameTokenAgain,
    /// 503: the authority refuses the app's credential.
    AppCredentialRejected {
        /// What it answered.
        answer: AuthorityError,
    },
    /// 503: the authority refuses the app's registration.
    AppRejected {
        /// What it answered.
        answer: AuthorityError,
    },
    /// 503: the store is nearly full, and what is left is for connections.
    StoreNearlyFull,
    /// 503: what is stored is there and cannot be used: damaged, tampered with, or sealed with a key that is missing.
    RecordDamaged,
    /// 503: the store does not serve now.
    StoreUnavailable,
}

/// What is told outside of a refusal, at whatever door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outside {
    /// The HTTP status.
    pub status: u16,
    /// The stable code: what programs branch on.
    pub code: &'static str,
    /// `Retry-After` in seconds.
    pub retry_after: Option<u64>,
}

/// When to come back where the store does not answer: it may answer any moment.
const STORE: Duration = Duration::from_secs(1);
/// When to come back where the authority is away and did not say when: its outages are short or long.
const AUTHORITY: Duration = Duration::from_secs(2);
/// When to come back where a second try is unlikely to end otherwise than the first.
const UNLIKELY: Duration = Duration::from_secs(5);
/// When to come back where an operator has to do something first.
const OPERATOR: Duration = Duration::from_secs(60);

impl Refusal {
    /// A parameter's mistake.
    pub(crate) fn invalid(parameter: &'static str, problem: impl Into<String>) -> Self {
        Refusal::InvalidRequest { parameter, problem: problem.into() }
    }

    /// What is told outside. Whose fault it is says the status: 4xx is the caller's, its user's or their
    /// administrator's, 503 is ours or the authority's. What heals by itself has a `Retry-After`.
    pub fn outside(&self) -> Outside {
        let (status, code, retry_after) = match self {
            Refusal::InvalidRequest { .. } => (400, "invalid_request", None),
            Refusal::Forbidden { .. } => (403, "caller_forbidden", None),
            Refusal::AppNotFound => (404, "app_not_found", None),
            Refusal::ConnectionNotFound => (404, "connection_not_found", None),
            Refusal::SessionNotFound => (404, "session_not_found", None),
            Refusal::ReauthorizationRequired { .. } => (409, "reauthorization_required", None),
            Refusal::ConnectionBlocked { .. } => (409, "connection_blocked", None),
            Refusal::ScopeNotGranted { .. } => (409, "scope_not_granted", None),
            Refusal::ConnectionPaused => (409, "connection_paused", None),
            Refusal::ConfirmationRejected { .. } => (409, "confirmation_rejected", None),
            Refusal::RateLimited { retry_after }
            | Refusal::TooManyForced { retry_after }
            | Refusal::TooMany { retry_after, .. } => (429, "rate_limited", Some(*retry_after)),
            Refusal::TooManyWalks { .. } => (429, "rate_limited", Some(Duration::from_secs(1))),
            Refusal::NotNow(why) => match why {
                NotNow::Crowded | NotNow::LeaseRanOut => (503, "overloaded", Some(Duration::from_secs(2))),
                NotNow::LeaseElsewhere => (503, "overloaded", Some(Duration::from_secs(1))),
                NotNow::AskedToWait(asked) => (503, "authority_unavailable", asked.or(Some(AUTHORITY))),
                NotNow::UnderWay => (503, "authority_unavailable", Some(AUTHORITY)),
                NotNow::Unsettled => (503, "authority_unavailable", Some(UNLIKELY)),
            },
            Refusal::AuthorityUnavailable { asked, .. } => {
                (503, "authority_unavailable", asked.or(Some(AUTHORITY)))
            }
            // Some authorities make another token a moment later.
            Refusal::SameTokenAgain => (503, "authority_unavailable", Some(AUTHORITY)),
            Refusal::AuthorityUnclear { .. } => (503, "authority_unavailable", Some(UNLIKELY)),
            Refusal::AppCredentialRejected { .. } => (503, "app_credential_rejected", Some(UNLIKELY)),
            Refusal::AppRejected { .. } => (503, "app_rejected", Some(UNLIKELY)),
            Refusal::StoreNearlyFull => (503, "store_unavailable", Some(OPERATOR)),
            Refusal::RecordDamaged => (503, "record_damaged", Some(OPERATOR)),
            Refusal::StoreUnavailable => (503, "store_unavailable", Some(STORE)),
        };
        // Nobody is told to come back at once.
        let seconds = |after: Duration| after.as_secs_f64().ceil().max(1.0) as u64;
        Outside { status, code, retry_after: retry_after.map(seconds) }
    }

    /// The refusal for what an authority's failure means.
    pub(crate) fn of_disposition(disposition: Disposition, answer: AuthorityError) -> Self {
        match disposition {
            Disposition::Reauthorize(reason, _) => Refusal::ReauthorizationRequired { reason, answer },
            Disposition::Blocked(reason) => Refusal::ConnectionBlocked { reason, answer },
            Disposition::NextCredential => Refusal::AppCredentialRejected { answer },
            // What we send wrongly lasts until an operator looks at it, too.
            Disposition::Misconfigured | Disposition::CallerFault | Disposition::Bug => {
                Refusal::AppRejected { answer }
            }
            Disposition::RetryAfter(asked) => Refusal::AuthorityUnavailable { asked, answer },
            Disposition::Restart | Disposition::Unclear | Disposition::OutcomeUnknown => {
                Refusal::AuthorityUnclear { answer }
            }
        }
    }

    /// The refusal for work that failed for a connection.
    pub(crate) fn of_failure(failure: &Failure) -> Self {
        match failure {
            Failure::NotFound => Refusal::ConnectionNotFound,
            Failure::Repository(error) if error.is_damage() => Refusal::RecordDamaged,
            Failure::Repository(_) => Refusal::StoreUnavailable,
            Failure::NotNow(why) => Refusal::NotNow(*why),
            Failure::Authority(failure) => {
                Refusal::of_disposition(failure.disposition, failure.answer.clone())
            }
        }
    }
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        match denial {
            Denial::AppNotFound => Refusal::AppNotFound,
            Denial::ConnectionNotFound => Refusal::ConnectionNotFound,
            Denial::ScopeForbidden { .. } | Denial::ActionForbidden { .. } => {
                Refusal::Forbidden { problem: denial.to_string() }
            }
        }
    }
}

impl From<NotNow> for Refusal {
    fn from(why: NotNow) -> Self {
        Refusal::NotNow(why)
    }
}

impl From<RepositoryError> for Refusal {
    fn from(error: RepositoryError) -> Self {
        if error.is_damage() {
            return Refusal::RecordDamaged;
        }
        if error.is_outage() {
            tracing::debug!(%error, "a record could not be had");
        } else {
            tracing::error!(%error, "a record could not be had");
        }
        Refusal::StoreUnavailable
    }
}

impl From<Refused<Refusal>> for Refusal {
    fn from(refused: Refused<Refusal>) -> Self {
        match refused {
            Refused::Policy(refusal) => refusal,
            Refused::NotFound => Refusal::ConnectionNotFound,
            Refused::Paused => Refusal::ConnectionPaused,
            Refused::ScopeNotGranted(scopes) => Refusal::ScopeNotGranted { scopes },
            Refused::NeedsReauthorization(reason, answer) => {
                Refusal::ReauthorizationRequired { reason, answer }
            }
            Refused::Blocked(reason, answer) => Refusal::ConnectionBlocked { reason, answer },
            Refused::Authority { disposition, answer } => Refusal::of_disposition(disposition, answer),
            Refused::NotNow(why) => Refusal::NotNow(why),
            Refused::SameTokenAgain => Refusal::SameTokenAgain,
            Refused::TooManyForced(retry_after) => Refusal::TooManyForced { retry_after },
            Refused::Damaged => Refusal::RecordDamaged,
            Refused::Store => Refusal::StoreUnavailable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::verdict::GrantFate;

    /// What programs and dashboards hold on to. A new refusal is a row here.
    #[test]
    fn what_each_refusal_is_outside() {
        let answer = AuthorityError::default;
        let seconds = Duration::from_secs;
        let word = String::new;
        let rows = [
            (Refusal::invalid("scope", "odd"), 400, "invalid_request", None),
            (Refusal::Forbidden { problem: word() }, 403, "caller_forbidden", None),
            (Refusal::AppNotFound, 404, "app_not_found", None),
            (Refusal::ConnectionNotFound, 404, "connection_not_found", None),
            (Refusal::SessionNotFound, 404, "session_not_found", None),
            (
                Refusal::ReauthorizationRequired { reason: ReauthReason::GrantExpired, answer: answer() },
                409,
                "reauthorization_required",
                None,
            ),
            (
                Refusal::ConnectionBlocked { reason: BlockReason::PolicyBlocked, answer: answer() },
                409,
                "connection_blocked",
                None,
            ),
            (Refusal::ScopeNotGranted { scopes: vec![] }, 409, "scope_not_granted", None),
            (Refusal::ConnectionPaused, 409, "connection_paused", None),
            (Refusal::ConfirmationRejected { problem: word() }, 409, "confirmation_rejected", None),
            // Never sooner than it helps, and never at once.
            (Refusal::RateLimited { retry_after: Duration::from_millis(1001) }, 429, "rate_limited", Some(2)),
            (Refusal::TooManyForced { retry_after: Duration::ZERO }, 429, "rate_limited", Some(1)),
            (Refusal::TooMany { what: "", most: 1, retry_after: seconds(9) }, 429, "rate_limited", Some(9)),
            (Refusal::TooManyWalks { most: 1 }, 429, "rate_limited", Some(1)),
            // What tokenward puts off itself is not told as an outage of the authority.
            (Refusal::NotNow(NotNow::Crowded), 503, "overloaded", Some(2)),
            (Refusal::NotNow(NotNow::LeaseElsewhere), 503, "overloaded", Some(1)),
            (Refusal::NotNow(NotNow::LeaseRanOut), 503, "overloaded", Some(2)),
            (Refusal::NotNow(NotNow::AskedToWait(None)), 503, "authority_unavailable", Some(2)),
            (Refusal::NotNow(NotNow::AskedToWait(Some(seconds(17)))), 503, "authority_unavailable", Some(17)),
            (Refusal::NotNow(NotNow::Unsettled), 503, "authority_unavailable", Some(5)),
            (Refusal::NotNow(NotNow::UnderWay), 503, "authority_unavailable", Some(2)),
            (
                Refusal::AuthorityUnavailable { asked: None, answer: answer() },
                503,
                "authority_unavailable",
                Some(2),
            ),
            (
                Refusal::AuthorityUnavailable { asked: Some(seconds(60)), answer: answer() },
                503,
                "authority_unavailable",
                Some(60),
            ),
            (Refusal::AuthorityUnclear { answer: answer() }, 503, "authority_unavailable", Some(5)),
            (Refusal::SameTokenAgain, 503, "authority_unavailable", Some(2)),
            (Refusal::AppCredentialRejected { answer: answer() }, 503, "app_credential_rejected", Some(5)),
            (Refusal::AppRejected { answer: answer() }, 503, "app_rejected", Some(5)),
            (Refusal::RecordDamaged, 503, "record_damaged", Some(60)),
            (Refusal::StoreNearlyFull, 503, "store_unavailable", Some(60)),
            (Refusal::StoreUnavailable, 503, "store_unavailable", Some(1)),
        ];
        for (refusal, status, code, retry_after) in rows {
            assert_eq!(refusal.outside(), Outside { status, code, retry_after }, "{refusal:?}");
        }
    }

    #[test]
    fn what_an_authority_s_failure_is_outside() {
        let seconds = Duration::from_secs;
        let rows = [
            (Disposition::RetryAfter(None), "authority_unavailable", Some(2)),
            (Disposition::RetryAfter(Some(seconds(30))), "authority_unavailable", Some(30)),
            (
                Disposition::Reauthorize(ReauthReason::GrantExpired, GrantFate::Keep),
                "reauthorization_required",
                None,
            ),
            (Disposition::Blocked(BlockReason::PolicyBlocked), "connection_blocked", None),
            (Disposition::NextCredential, "app_credential_rejected", Some(5)),
            (Disposition::Misconfigured, "app_rejected", Some(5)),
            (Disposition::CallerFault, "app_rejected", Some(5)),
            (Disposition::Bug, "app_rejected", Some(5)),
            (Disposition::Restart, "authority_unavailable", Some(5)),
            (Disposition::Unclear, "authority_unavailable", Some(5)),
            (Disposition::OutcomeUnknown, "authority_unavailable", Some(5)),
        ];
        for (disposition, code, retry_after) in rows {
            let outside = Refusal::of_disposition(disposition, AuthorityError::default()).outside();
            assert_eq!((outside.code, outside.retry_after), (code, retry_after), "{disposition:?}");
        }
    }
}
