//! Why tokenward puts off the use of a grant. These reasons are its own: the authority was not asked, or
//! has not answered yet. What the authority answered is an
//! [`AuthorityFailure`](super::verdict::AuthorityFailure).

use std::time::Duration;

/// Reason why a grant is not used now. None of these says anything about the grant, and each passes by
/// itself.
///
/// `Display` gives the text that a caller and `explain` read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotNow {
    /// The bulkhead is full: the tenant has as many calls under way as it may have.
    #[error("as many calls to the authority as one tenant may have are under way, and none ended in time")]
    Crowded,
    /// Another replica holds the connection's lease.
    #[error("another replica is refreshing the connection and has not finished")]
    LeaseElsewhere,
    /// The authority throttles: it told this replica, or another one, to wait for this long, if the time is
    /// known.
    #[error("the authority asked not to be called for a while")]
    AskedToWait(Option<Duration>),
    /// An earlier refresh may have used the refresh token up, and this authority ends a grant whose refresh
    /// token is used twice.
    #[error(
        "an earlier refresh may have used the refresh token up; it is not sent again while a token lives"
    )]
    Unsettled,
    /// This replica's lease would end before the call does: the process was stopped, or is too slow.
    #[error("this replica was too slow: its lease on the connection would end before the call")]
    LeaseRanOut,
    /// The refresh continues, but the caller's wait is over.
    #[error("the refresh has not finished within the time that a caller waits")]
    UnderWay,
}

impl NotNow {
    /// All words of [`NotNow::as_str`].
    pub const WORDS: &[&str] =
        &["crowded", "lease_elsewhere", "asked_to_wait", "outcome_unknown", "lease_ran_out", "under_way"];

    /// Its name in `explain` and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            NotNow::Crowded => "crowded",
            NotNow::LeaseElsewhere => "lease_elsewhere",
            NotNow::AskedToWait(_) => "asked_to_wait",
            // The same name as for an answer of the authority that never came: the doubt is the same.
            NotNow::Unsettled => "outcome_unknown",
            NotNow::LeaseRanOut => "lease_ran_out",
            NotNow::UnderWay => "under_way",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_in_the_list() {
        let all = [
            NotNow::Crowded,
            NotNow::LeaseElsewhere,
            NotNow::AskedToWait(None),
            NotNow::Unsettled,
            NotNow::LeaseRanOut,
            NotNow::UnderWay,
        ];
        assert_eq!(all.map(NotNow::as_str), NotNow::WORDS);
    }
}
