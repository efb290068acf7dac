//! Failures that no answer of the authority decided.

use crate::authority::http::{HttpFailure, HttpFault};
use crate::domain::verdict::{AuthorityError, AuthorityFailure, Disposition};

/// Nothing is decided: try again later.
pub(super) const LATER: Disposition = Disposition::RetryAfter(None);

/// Makes a failure without an answer of the authority.
pub(super) fn ours(doing: &'static str, disposition: Disposition, cause: String) -> AuthorityFailure {
    AuthorityFailure { doing, cause, disposition, answer: AuthorityError::default(), claims: None }
}

/// Makes the failure for a request without a usable answer. `is_read` is true if the request changes nothing.
pub(super) fn from_transport(doing: &'static str, failure: HttpFailure, is_read: bool) -> AuthorityFailure {
    let disposition = match failure.fault {
        // A request that only reads has changed nothing, whether it arrived or not.
        HttpFault::NoWholeAnswer if !is_read => Disposition::OutcomeUnknown,
        HttpFault::NoWholeAnswer | HttpFault::NotSent | HttpFault::Nonsense => LATER,
    };
    let answer = AuthorityError { status: failure.status, ..AuthorityError::default() };
    AuthorityFailure { answer, ..ours(doing, disposition, failure.cause) }
}
