//! Why a use case did not give what was asked: the stable codes of the contract, as values.

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
        /// When to come back.
        retry_after: Duration,
    },
    /// 503: the authority does not serve now.
    AuthorityUnavailable {
        /// When to come back.
        retry_after: Duration,
        /// What it answered.
        answer: AuthorityError,
    },
    /// 503: tokenward does not use the grant now, for a reason of its own.
    NotNow(NotNow),
    /// 503: the authority gives the very token again that was reported as rejected.
    SameTokenAgain {
        /// When to come back.
        retry_after: Duration,
    },
    /// 503: the authority refuses the app's credential.
    AppCredentialRejected {
        /// When to come back.
        retry_after: Duration,
        /// What it answered.
        answer: AuthorityError,
    },
    /// 503: the authority refuses the app's registration.
    AppRejected {
        /// When to come back.
        retry_after: Duration,
        /// What it answered.
        answer: AuthorityError,
    },
    /// 503: the store is nearly full, and what is left is for connections.
    StoreNearlyFull {
        /// When to come back.
        retry_after: Duration,
    },
    /// 503: what is stored is there and cannot be used: damaged, tampered with, or sealed with a key that is missing.
    RecordDamaged,
    /// 503: the store does not serve now.
    StoreUnavailable {
        /// When to come back.
        retry_after: Duration,
    },
}

impl Refusal {
    /// A parameter's mistake.
    pub(crate) fn invalid(parameter: &'static str, problem: impl Into<String>) -> Self {
        Refusal::InvalidRequest { parameter, problem: problem.into() }
    }

    /// The refusal for a disposition that is no verdict on a grant.
    pub(crate) fn of_disposition(
        disposition: Disposition,
        answer: AuthorityError,
        retry_after: Duration,
    ) -> Self {
        match disposition {
            Disposition::Reauthorize(reason, _) => Refusal::ReauthorizationRequired { reason, answer },
            Disposition::Blocked(reason) => Refusal::ConnectionBlocked { reason, answer },
            Disposition::NextCredential => Refusal::AppCredentialRejected { retry_after, answer },
            // What we send wrongly lasts until an operator looks at it, too.
            Disposition::Misconfigured | Disposition::CallerFault | Disposition::Bug => {
                Refusal::AppRejected { retry_after, answer }
            }
            Disposition::RetryAfter(_)
            | Disposition::Restart
            | Disposition::Unclear
            | Disposition::OutcomeUnknown => Refusal::AuthorityUnavailable { retry_after, answer },
        }
    }

    /// The refusal for work that failed for a connection.
    pub(crate) fn of_failure(failure: &Failure) -> Self {
        match failure {
            Failure::NotFound => Refusal::ConnectionNotFound,
            Failure::Repository(error) if error.is_damage() => Refusal::RecordDamaged,
            Failure::Repository(_) => Refusal::StoreUnavailable { retry_after: Duration::from_secs(1) },
            Failure::Authority(failure) => {
                Refusal::of_disposition(failure.disposition, failure.answer.clone(), Duration::from_secs(2))
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
        Refusal::StoreUnavailable { retry_after: Duration::from_secs(1) }
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
            Refused::Authority { disposition, answer, retry_after } => {
                Refusal::of_disposition(disposition, answer, retry_after)
            }
            Refused::SameTokenAgain { retry_after } => Refusal::SameTokenAgain { retry_after },
            Refused::TooManyForced(retry_after) => Refusal::TooManyForced { retry_after },
            Refused::Damaged => Refusal::RecordDamaged,
            Refused::Store { retry_after } => Refusal::StoreUnavailable { retry_after },
        }
    }
}
