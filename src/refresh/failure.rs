//! Why work for a connection failed.

use crate::domain::not_now::NotNow;
use crate::domain::verdict::{AuthorityFailure, Disposition};
use crate::repository::RepositoryError;

/// Why work for a connection failed; everyone who waited for it gets the same value.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// The connection does not exist.
    #[error("there is no such connection")]
    NotFound,
    /// The authority's answer, or its silence.
    #[error(transparent)]
    Authority(AuthorityFailure),
    /// The store did not answer, or a record does not open.
    #[error(transparent)]
    Repository(RepositoryError),
    /// A reason of tokenward's own; the authority was not asked.
    #[error("{0}")]
    NotNow(NotNow),
}

impl Failure {
    /// The disposition of the authority's answer; `None` if something else failed.
    pub(super) fn disposition(&self) -> Option<Disposition> {
        match self {
            Failure::Authority(failure) => Some(failure.disposition),
            Failure::NotFound | Failure::Repository(_) | Failure::NotNow(_) => None,
        }
    }

    /// A word for it.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Failure::NotFound => "not_found",
            Failure::Authority(failure) => failure.disposition.as_str(),
            Failure::Repository(_) => "store",
            Failure::NotNow(_) => "not_now",
        }
    }

    /// Whether the authority's refusal has no known meaning.
    pub(super) fn is_unclear(&self) -> bool {
        self.disposition() == Some(Disposition::Unclear)
    }

    /// Whether nobody knows if the authority used the refresh token up.
    pub(super) fn is_unsettled(&self) -> bool {
        let is_ours = matches!(self, Failure::NotNow(NotNow::Unsettled));
        is_ours || self.disposition() == Some(Disposition::OutcomeUnknown)
    }

    /// Whether the authority judged the grant.
    pub(super) fn is_verdict(&self) -> bool {
        self.disposition().is_some_and(|disposition| disposition.is_verdict())
    }
}

impl From<NotNow> for Failure {
    fn from(why: NotNow) -> Self {
        Failure::NotNow(why)
    }
}

impl From<RepositoryError> for Failure {
    fn from(error: RepositoryError) -> Self {
        Failure::Repository(error)
    }
}
