//! A connection's status with the data that belongs to it.

use std::time::Duration;

use super::{Attempt, Status};
use crate::domain::time::Timestamp;
use crate::domain::verdict::{BlockReason, Disposition, GrantFate, ReauthReason};

/// First wait before a grant under a verdict is tried again.
const FIRST_RETRY: Duration = Duration::from_secs(60);
/// The slowest pace at which a blocked grant is tried: an administrator's repair shows within the hour.
const SLOWEST_RETRY_BLOCKED: Duration = Duration::from_secs(3600);
/// The slowest pace at which a grant that wants its user is tried.
const SLOWEST_RETRY_REAUTH: Duration = Duration::from_secs(86_400);

/// A connection's status, and the data that only this status has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// Works, as far as we know.
    Active,
    /// The authority refuses its grant.
    Refused(Verdict),
    /// An operator stopped it. The verdict before the pause is kept.
    Paused(Option<Verdict>),
}

/// The authority's verdict on a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) reason: Reason,
    pub(super) next_try: NextTry,
    /// How many verdicts came in a row.
    pub(super) refusals: u32,
    /// The attempt that caused it. Old records may have none.
    pub(super) error: Option<Box<Attempt>>,
}

/// Who must act, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    User(ReauthReason),
    Administrator(BlockReason),
}

/// When the grant is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextTry {
    /// At any time, since the record names none.
    AtOnce,
    At(Timestamp),
    /// The authority said that the grant itself is dead.
    Never,
}

impl Standing {
    /// As callers and operators see it.
    pub(super) fn status(&self) -> Status {
        match self {
            Standing::Active => Status::Active,
            Standing::Refused(verdict) => verdict.reason.status(),
            Standing::Paused(_) => Status::Paused,
        }
    }

    /// The verdict that counts, or that a pause keeps.
    pub(super) fn verdict(&self) -> Option<&Verdict> {
        match self {
            Standing::Active => None,
            Standing::Refused(verdict) => Some(verdict),
            Standing::Paused(verdict) => verdict.as_ref(),
        }
    }

    /// The standing after the grant worked: without a verdict. A pause stays.
    pub(super) fn worked(self) -> Self {
        match self {
            Standing::Active | Standing::Refused(_) => Standing::Active,
            Standing::Paused(_) => Standing::Paused(None),
        }
    }

    /// The standing after the authority refused the grant. A pause stays. Each verdict in a row doubles the
    /// wait.
    pub(super) fn judged(self, word: Word, error: Attempt, now: Timestamp) -> Self {
        let before = self.verdict();
        let refusals = before.map_or(0, |before| before.refusals);
        let was_dead = before.is_some_and(Verdict::is_of_a_dead_grant);
        let (reason, is_dead, slowest) = match word {
            Word::Reauthorize(reason, fate) => {
                (Reason::User(reason), fate == GrantFate::Dead, SLOWEST_RETRY_REAUTH)
            }
            Word::Blocked(reason) => (Reason::Administrator(reason), was_dead, SLOWEST_RETRY_BLOCKED),
        };
        let wait = FIRST_RETRY.saturating_mul(1u32 << refusals.min(20)).min(slowest);
        let next_try = if is_dead { NextTry::Never } else { NextTry::At(now.plus(wait)) };
        let refusals = refusals.saturating_add(1);
        let verdict = Verdict { reason, next_try, refusals, error: Some(Box::new(error)) };
        match self {
            Standing::Active | Standing::Refused(_) => Standing::Refused(verdict),
            Standing::Paused(_) => Standing::Paused(Some(verdict)),
        }
    }

    /// The standing after an operator paused it. The verdict is kept.
    pub(super) fn paused(self) -> Self {
        match self {
            Standing::Active => Standing::Paused(None),
            Standing::Refused(verdict) => Standing::Paused(Some(verdict)),
            Standing::Paused(verdict) => Standing::Paused(verdict),
        }
    }

    /// The standing after an operator resumed it. The grant is tried next, unless it is dead.
    pub(super) fn resumed(self) -> Self {
        match self {
            Standing::Paused(Some(verdict)) if verdict.is_of_a_dead_grant() => {
                Standing::Refused(Verdict { refusals: 0, ..verdict })
            }
            Standing::Paused(_) => Standing::Active,
            Standing::Active | Standing::Refused(_) => self,
        }
    }

    /// Whether the grant may be tried at `now`.
    pub(super) fn may_try(&self, now: Timestamp) -> bool {
        match self {
            Standing::Active => true,
            Standing::Paused(_) => false,
            Standing::Refused(verdict) => match verdict.next_try {
                NextTry::AtOnce => true,
                NextTry::At(at) => at <= now,
                NextTry::Never => false,
            },
        }
    }
}

impl Verdict {
    /// Whether nothing is left to try.
    pub(super) fn is_of_a_dead_grant(&self) -> bool {
        self.next_try == NextTry::Never
    }
}

impl Reason {
    pub(super) fn status(self) -> Status {
        match self {
            Reason::User(reason) => Status::NeedsReauthorization(reason),
            Reason::Administrator(reason) => Status::Blocked(reason),
        }
    }

    /// None for a status that is no verdict.
    pub(super) fn of(status: Status) -> Option<Self> {
        match status {
            Status::NeedsReauthorization(reason) => Some(Reason::User(reason)),
            Status::Blocked(reason) => Some(Reason::Administrator(reason)),
            Status::Active | Status::Paused => None,
        }
    }
}

/// The two dispositions that are a verdict on the grant.
#[derive(Debug, Clone, Copy)]
pub(super) enum Word {
    Reauthorize(ReauthReason, GrantFate),
    Blocked(BlockReason),
}

impl Word {
    /// None for the app's fault, or the authority's: those are never the user's.
    pub(super) fn of(disposition: Disposition) -> Option<Self> {
        match disposition {
            Disposition::Reauthorize(reason, fate) => Some(Word::Reauthorize(reason, fate)),
            Disposition::Blocked(reason) => Some(Word::Blocked(reason)),
            Disposition::RetryAfter(_)
            | Disposition::NextCredential
            | Disposition::Misconfigured
            | Disposition::Restart
            | Disposition::CallerFault
            | Disposition::Unclear
            | Disposition::OutcomeUnknown
            | Disposition::Bug => None,
        }
    }
}
