//! Reasons why a use case refuses, and the one map from these to the outside ([`Refusal::outside`]): status,
//! stable code and `Retry-After`, the same for every API.
//!
//! A refusal is what a caller may know. Its cause (a [`Failure`] of refresh, a [`RepositoryError`]) stays in
//! this file.

use std::time::Duration;

use crate::broker::import::ImportFault;
use crate::domain::not_now::NotNow;
use crate::domain::verdict::{AuthorityError, BlockReason, Disposition, ReauthReason};
use crate::policy::Denial;
use crate::refresh::{Failure, Refused};
use crate::repository::RepositoryError;

/// A refusal. Each has one `code` of the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// 400: the caller's mistake.
    InvalidRequest {
        /// Name of the parameter.
        parameter: &'static str,
        /// What is wrong with it and what would be right.
        problem: String,
    },
    /// 403: the caller may know of it and may not have it.
    Forbidden {
        /// What was refused.
        problem: String,
    },
    /// 401: the handle that was presented has ended.
    HandleEnded,
    /// 404: the app does not exist, or the caller may not know of it.
    AppNotFound,
    /// 404: the connection does not exist, or the caller may not know of it.
    ConnectionNotFound,
    /// 404: the session does not exist, or is another caller's.
    SessionNotFound,
    /// 409: the user must sign in again.
    ReauthorizationRequired {
        /// The reason.
        reason: ReauthReason,
        /// The authority's answer.
        answer: AuthorityError,
    },
    /// 409: an administrator must act.
    ConnectionBlocked {
        /// The reason.
        reason: BlockReason,
        /// The authority's answer.
        answer: AuthorityError,
    },
    /// 409: the app itself gets no token in this tenant before an administrator of the tenant acts.
    TenantBlocked {
        /// The reason.
        reason: BlockReason,
        /// The authority's answer.
        answer: AuthorityError,
    },
    /// 409: the connection lacks these scopes.
    ScopeNotGranted {
        /// The missing scopes.
        scopes: Vec<String>,
    },
    /// 409: an operator paused it.
    ConnectionPaused,
    /// 409: the confirmation does not match.
    ConfirmationRejected {
        /// The reason.
        problem: String,
    },
    /// 409: a grant is not imported.
    ImportRefused(ImportFault),
    /// 429: imports are asked for faster than the budget of calls allows.
    TooManyImports {
        /// Time until the next try.
        retry_after: Duration,
    },
    /// 429: the caller exceeds its rate.
    RateLimited {
        /// Time until the next try.
        retry_after: Duration,
    },
    /// 429: the caller exceeds its rate for one connection.
    ConnectionRateLimited {
        /// Time until the next try.
        retry_after: Duration,
    },
    /// 429: as many requests are under way at the mailbox as it takes, and others wait.
    MailboxBusy {
        /// Time until the next try.
        retry_after: Duration,
    },
    /// 429: renewals are forced faster than allowed.
    TooManyForced {
        /// Time until the next try.
        retry_after: Duration,
    },
    /// 429: the caller has as many open as it may have.
    TooMany {
        /// Kind of record.
        what: &'static str,
        /// Number allowed.
        most: usize,
        /// Time until the next try.
        retry_after: Duration,
    },
    /// 429: too many walks over connections are under way.
    TooManyWalks {
        /// Number allowed for a caller.
        most: usize,
    },
    /// 429: the caller has as many open streams as it may have.
    TooManyStreams {
        /// Number allowed.
        most: u32,
    },
    /// 410: the event after which a stream should begin is not kept any more.
    EventsGone,
    /// 503: the authority is unavailable.
    AuthorityUnavailable {
        /// Time that it asked to be left alone.
        asked: Option<Duration>,
        /// Its answer.
        answer: AuthorityError,
    },
    /// 503: the authority's answer does not say what is wrong.
    AuthorityUnclear {
        /// Its answer.
        answer: AuthorityError,
    },
    /// 503: tokenward does not use the grant now, for a reason of its own.
    NotNow(NotNow),
    /// 503: the authority issues the same token again that was reported as rejected.
    SameTokenAgain,
    /// 503: the authority refuses the app's credential.
    AppCredentialRejected {
        /// Its answer.
        answer: AuthorityError,
    },
    /// 503: the authority refuses the app's registration.
    AppRejected {
        /// Its answer.
        answer: AuthorityError,
    },
    /// 503: the store is nearly full, and the rest is reserved for connections.
    StoreNearlyFull,
    /// 503: the store's disk is full, and this could not be written.
    StoreFull,
    /// 503: the stored record cannot be used: it is damaged, was tampered with, or its sealing key is
    /// missing.
    RecordDamaged,
    /// 503: the store is unavailable.
    StoreUnavailable,
    /// 503: no sink of the audit took the record of the hand-out, and the configuration demands one.
    AuditUnavailable,
}

/// The outside form of a refusal, for every API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outside {
    /// The HTTP status.
    pub status: u16,
    /// The stable code, on which programs branch.
    pub code: &'static str,
    /// `Retry-After` in seconds.
    pub retry_after: Option<u64>,
}

/// Time until the next try when the store does not answer: it may answer any moment.
const STORE: Duration = Duration::from_secs(1);
/// Time until the next try when no sink of the audit takes records. A try costs none of them anything.
const AUDIT: Duration = Duration::from_secs(2);
/// Time until the next try when the authority is down and did not name one: its outages are short or long.
const AUTHORITY: Duration = Duration::from_secs(2);
/// Time until the next try when it is unlikely to end otherwise.
const UNLIKELY: Duration = Duration::from_secs(5);
/// Time until the next try when a stream must end first: they are meant to last.
const STREAMS: Duration = Duration::from_secs(10);
/// Time until the next try when an operator must act first.
const OPERATOR: Duration = Duration::from_secs(60);

impl Refusal {
    /// Makes the refusal of a parameter.
    pub(crate) fn invalid(parameter: &'static str, problem: impl Into<String>) -> Self {
        Refusal::InvalidRequest { parameter, problem: problem.into() }
    }

    /// Returns its outside form. The status tells whose fault it is: 4xx is the caller's, its user's or their
    /// administrator's, 503 is tokenward's or the authority's. A passing refusal has a `Retry-After`.
    pub fn outside(&self) -> Outside {
        let (status, code, retry_after) = match self {
            Refusal::InvalidRequest { .. } => (400, "invalid_request", None),
            Refusal::Forbidden { .. } => (403, "caller_forbidden", None),
            Refusal::HandleEnded => (401, "caller_unauthenticated", None),
            Refusal::AppNotFound => (404, "app_not_found", None),
            Refusal::ConnectionNotFound => (404, "connection_not_found", None),
            Refusal::SessionNotFound => (404, "session_not_found", None),
            Refusal::ReauthorizationRequired { .. } => (409, "reauthorization_required", None),
            Refusal::ConnectionBlocked { .. } => (409, "connection_blocked", None),
            Refusal::TenantBlocked { .. } => (409, "tenant_blocked", None),
            Refusal::ScopeNotGranted { .. } => (409, "scope_not_granted", None),
            Refusal::ConnectionPaused => (409, "connection_paused", None),
            Refusal::ConfirmationRejected { .. } => (409, "confirmation_rejected", None),
            Refusal::ImportRefused(_) => (409, "import_refused", None),
            Refusal::RateLimited { retry_after }
            | Refusal::TooManyImports { retry_after }
            | Refusal::ConnectionRateLimited { retry_after }
            | Refusal::TooManyForced { retry_after }
            | Refusal::TooMany { retry_after, .. } => (429, "rate_limited", Some(*retry_after)),
            Refusal::MailboxBusy { retry_after } => (429, "mailbox_busy", Some(*retry_after)),
            Refusal::TooManyWalks { .. } => (429, "rate_limited", Some(Duration::from_secs(1))),
            Refusal::TooManyStreams { .. } => (429, "rate_limited", Some(STREAMS)),
            Refusal::EventsGone => (410, "events_gone", None),
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
            // Some authorities issue another token a moment later.
            Refusal::SameTokenAgain => (503, "authority_unavailable", Some(AUTHORITY)),
            Refusal::AuthorityUnclear { .. } => (503, "authority_unavailable", Some(UNLIKELY)),
            Refusal::AppCredentialRejected { .. } => (503, "app_credential_rejected", Some(UNLIKELY)),
            Refusal::AppRejected { .. } => (503, "app_rejected", Some(UNLIKELY)),
            Refusal::StoreNearlyFull | Refusal::StoreFull => (503, "store_unavailable", Some(OPERATOR)),
            Refusal::RecordDamaged => (503, "record_damaged", Some(OPERATOR)),
            Refusal::StoreUnavailable => (503, "store_unavailable", Some(STORE)),
            Refusal::AuditUnavailable => (503, "audit_unavailable", Some(AUDIT)),
        };
        // No `Retry-After` is zero.
        let seconds = |after: Duration| after.as_secs_f64().ceil().max(1.0) as u64;
        Outside { status, code, retry_after: retry_after.map(seconds) }
    }

    /// Makes the refusal for an authority's failure.
    pub(crate) fn of_disposition(disposition: Disposition, answer: AuthorityError) -> Self {
        match disposition {
            Disposition::Reauthorize(reason, _) => Refusal::ReauthorizationRequired { reason, answer },
            Disposition::Blocked(reason) => Refusal::ConnectionBlocked { reason, answer },
            Disposition::NextCredential => Refusal::AppCredentialRejected { answer },
            // A wrong request of ours lasts until an operator corrects it, too.
            Disposition::Misconfigured | Disposition::CallerFault | Disposition::Bug => {
                Refusal::AppRejected { answer }
            }
            Disposition::RetryAfter(asked) => Refusal::AuthorityUnavailable { asked, answer },
            Disposition::Restart | Disposition::Unclear | Disposition::OutcomeUnknown => {
                Refusal::AuthorityUnclear { answer }
            }
        }
    }

    /// Makes the refusal for a failed request for a token of the app itself.
    pub(crate) fn of_app_failure(failure: &Failure) -> Self {
        match Refusal::of_failure(failure) {
            Refusal::ConnectionBlocked { reason, answer } => Refusal::TenantBlocked { reason, answer },
            Refusal::ConnectionNotFound => Refusal::AppNotFound,
            refusal => refusal,
        }
    }

    /// Makes the refusal for failed work on a connection.
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
            Denial::ScopeForbidden { .. }
            | Denial::ActionForbidden { .. }
            | Denial::RelayForbidden { .. }
            | Denial::NotItsOwn { .. }
            | Denial::AppTokenForbidden => Refusal::Forbidden { problem: denial.to_string() },
        }
    }
}

impl From<ImportFault> for Refusal {
    fn from(fault: ImportFault) -> Self {
        Refusal::ImportRefused(fault)
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
        if error.is_full() { Refusal::StoreFull } else { Refusal::StoreUnavailable }
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

    /// Programs and dashboards rely on these. A new refusal is a row here.
    #[test]
    fn what_each_refusal_is_outside() {
        let answer = AuthorityError::default;
        let seconds = Duration::from_secs;
        let word = String::new;
        let rows = [
            (Refusal::invalid("scope", "odd"), 400, "invalid_request", None),
            (Refusal::Forbidden { problem: word() }, 403, "caller_forbidden", None),
            (Refusal::HandleEnded, 401, "caller_unauthenticated", None),
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
            (
                Refusal::TenantBlocked { reason: BlockReason::AppNotInTenant, answer: answer() },
                409,
                "tenant_blocked",
                None,
            ),
            (Refusal::ScopeNotGranted { scopes: vec![] }, 409, "scope_not_granted", None),
            (Refusal::ConnectionPaused, 409, "connection_paused", None),
            (Refusal::ConfirmationRejected { problem: word() }, 409, "confirmation_rejected", None),
            // Never earlier than it helps, and never at once.
            (Refusal::RateLimited { retry_after: Duration::from_millis(1001) }, 429, "rate_limited", Some(2)),
            (Refusal::ConnectionRateLimited { retry_after: seconds(1) }, 429, "rate_limited", Some(1)),
            (Refusal::MailboxBusy { retry_after: Duration::from_millis(1001) }, 429, "mailbox_busy", Some(2)),
            (Refusal::EventsGone, 410, "events_gone", None),
            (Refusal::TooManyForced { retry_after: Duration::ZERO }, 429, "rate_limited", Some(1)),
            (Refusal::TooMany { what: "", most: 1, retry_after: seconds(9) }, 429, "rate_limited", Some(9)),
            (Refusal::TooManyWalks { most: 1 }, 429, "rate_limited", Some(1)),
            (Refusal::TooManyStreams { most: 1 }, 429, "rate_limited", Some(10)),
            // Reasons of tokenward's own are not reported as an outage of the authority.
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
            (Refusal::AuditUnavailable, 503, "audit_unavailable", Some(2)),
            (Refusal::StoreNearlyFull, 503, "store_unavailable", Some(60)),
            (Refusal::StoreFull, 503, "store_unavailable", Some(60)),
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
