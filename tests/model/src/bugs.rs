//! Rules that can be switched off, one at a time: the model is worth only what it finds when a rule is
//! missing.

/// A protocol without one of its rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bug {
    /// The commit does not look at the lease.
    NoFence,
    /// Leases and revisions are compared by counter, and the lease's counter is in the store.
    CounterFence,
    /// The commit compares in one step and writes in the next.
    CheckThenSet,
    /// The commit takes a missing record for the expected one.
    CommitCreates,
    /// The record is not loaded again under the lease.
    NoReloadUnderLease,
    /// A call goes out although its own replica has learned since that the record was replaced.
    CallsOnStale,
    /// Another's lease is judged by the local wall clock, and taken over.
    StealsByWallClock,
    /// The clock is not looked at between taking the lease and calling.
    NoClockCheck,
    /// The lease is given back whoever has it.
    ReleasesAnothers,
    /// The store does not answer, and the authority is called without a lease.
    RefreshesWithoutStore,
    /// The lease never runs out.
    LeaseWithoutEnd,
    /// Taking the lease leaves no intent.
    NoIntent,
    /// An intent is overlooked where reuse is not safe.
    ReplaysInDoubt,
    /// A lost answer counts as a known outcome.
    LostIsSettled,
    /// "Not now" settles an outcome that was already in doubt before the call.
    TransientIsSettled,
    /// A commit removes its own intent only: another's stays when what it was about is replaced.
    IntentOutlives,
    /// An answer is served before it is stored or journaled.
    ServesBeforeDurable,
    /// The journal is not read at start.
    JournalNotReplayed,
    /// An answer that the store has not taken is not offered before the next refresh.
    RefreshesOverUnstored,
    /// An answer that a verdict overtook is dropped.
    NoRebase,
    /// An answer is dropped when the store has fallen back to a grant before the one that was used.
    DropsOnFallback,
    /// The verdict is written whatever the revision.
    VerdictUnconditional,
    /// A verdict that came too late is put on what is stored by then.
    VerdictOnNewer,
    /// A lost answer is taken for a verdict.
    LostIsVerdict,
    /// What is read is held even if it is older than what is held.
    AdoptsOlder,
    /// Only what a replica has committed itself is offered again when the store has lost it.
    RepublishesOwnOnly,
    /// A record that is missing is offered again by whoever has just signed in.
    RepublishesOnNothing,
    /// A flight publishes although the connection was deleted in its replica meanwhile.
    PublishesAfterDelete,
    /// A delete removes whatever is there when it arrives.
    DeletesWhatever,
    /// A delete names a sign-in by its number alone, which the store may have given twice.
    DeletesByNumber,
    /// A sign-in whose commit went unanswered is put on whatever is there by then.
    RebasesLostSignIn,
    /// A delete is repeated against whatever is there.
    RedeletesWhatever,
    /// A delete leaves nothing, so that one absence is like another.
    NoTombstone,
    /// Waiters take the record from the change message.
    TrustsMessages,
    /// Waiters wait for the change message alone.
    WaitsForMessage,
    /// The life of a token is not looked at when it is served.
    ServesExpired,
}

impl Bug {
    /// How many there are.
    pub const COUNT: usize = Bug::ServesExpired as usize + 1;
}
