//! The faults of a run: the dice that draw them, and the weather on the way to the store and to the
//! authority.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// Dice for one part of a run. Each part has its own, so that one more draw here changes nothing there.
#[derive(Clone)]
pub(crate) struct Dice(Arc<Mutex<u64>>);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Dice(Arc::new(Mutex::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)))
    }

    /// Makes further dice from these.
    pub(crate) fn more(&self) -> Dice {
        Dice::new(self.draw())
    }

    /// SplitMix64.
    pub(crate) fn draw(&self) -> u64 {
        let mut state = self.0.lock();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = *state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// Draws a number below `end`, which is not 0.
    pub(crate) fn below(&self, end: usize) -> usize {
        usize::try_from(self.draw() % end as u64).unwrap_or(0)
    }

    /// Returns true this many times in a thousand.
    pub(crate) fn of_thousand(&self, times: u32) -> bool {
        self.draw() % 1000 < u64::from(times)
    }

    pub(crate) fn one_of<T: Copy>(&self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Draws a time between two bounds, in milliseconds, short ones more often.
    pub(crate) fn millis(&self, shortest: u64, longest: u64) -> Duration {
        let part = (self.draw() % 1001) * (self.draw() % 1001);
        Duration::from_millis(shortest + (longest - shortest) * part / 1_000_000)
    }
}

/// The way from one replica to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Link {
    #[default]
    Up,
    /// Nothing gets through.
    Cut,
    /// Requests arrive, answers do not.
    AnswersLost,
}

/// Faults on the way to the store, in a thousand calls.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct StoreWeather {
    pub(crate) lost_before: u32,
    pub(crate) lost_after: u32,
    pub(crate) slow: u32,
    pub(crate) repeated: u32,
    /// Changes reported, in a thousand.
    pub(crate) untold: u32,
    /// Greatest delay of the copy.
    pub(crate) lag: Duration,
}

/// Faults of a journal's disk, in a thousand steps.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DiskWeather {
    pub(crate) slow: u32,
    pub(crate) fails: u32,
}

/// Faults at the authority, in a thousand calls.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AuthorityWeather {
    pub(crate) transient: u32,
    pub(crate) lost_before: u32,
    pub(crate) lost_after: u32,
    pub(crate) slow: u32,
    pub(crate) garbage: u32,
    pub(crate) bad_token: u32,
    /// Nothing works.
    pub(crate) down: bool,
    pub(crate) throttled: bool,
    pub(crate) rejects_app: bool,
}

impl AuthorityWeather {
    /// Returns true if it refuses with words that nobody understands: in half of the lossy climates, by a
    /// number that is drawn anyway.
    pub(crate) fn mumbles(&self) -> bool {
        self.garbage % 2 == 1
    }
}

/// The faults of a seed. Each occurs in half of the seeds, so that some runs have few and find what many
/// would hide.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Climate {
    pub(crate) kills: bool,
    pub(crate) pauses: bool,
    pub(crate) partitions: bool,
    pub(crate) failovers: bool,
    pub(crate) restarts_empty: bool,
    pub(crate) wall_jumps: bool,
    pub(crate) store_lossy: bool,
    pub(crate) authority_lossy: bool,
    /// True if the authority always takes seconds, so that most accidents meet a refresh under way.
    pub(crate) authority_sluggish: bool,
    pub(crate) outages: bool,
    pub(crate) verdicts: bool,
    pub(crate) deletes: bool,
    pub(crate) reconnects: bool,
}

impl Climate {
    pub(crate) fn drawn(dice: &Dice) -> Self {
        let half = || dice.of_thousand(500);
        Climate {
            kills: half(),
            pauses: half(),
            partitions: half(),
            failovers: half(),
            restarts_empty: dice.of_thousand(50),
            wall_jumps: dice.of_thousand(150),
            store_lossy: half(),
            authority_lossy: half(),
            authority_sluggish: dice.of_thousand(250),
            outages: half(),
            verdicts: half(),
            deletes: half(),
            reconnects: half(),
        }
    }
}

/// Later additions to the simulation, each in half of the seeds. They have their own dice: a run without them
/// is the same as before.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Additions {
    /// Each replica has a journal.
    pub(crate) journals: bool,
    /// The disks of the journals are bad.
    pub(crate) bad_disks: bool,
    /// The store grants leases and refuses commits.
    pub(crate) refused_commits: bool,
    /// Rate in a second at which connections are renewed before anybody asks.
    pub(crate) sweep_rate: f64,
    /// A tenant is throttled.
    pub(crate) throttling: bool,
    /// An operator uses the kill switch.
    pub(crate) revocations: bool,
    /// An operator pauses and resumes.
    pub(crate) pausing: bool,
}

impl Additions {
    pub(crate) fn drawn(dice: &Dice) -> Self {
        let half = || dice.of_thousand(500);
        Additions {
            journals: half(),
            bad_disks: half(),
            refused_commits: half(),
            sweep_rate: if half() { dice.one_of(&[20.0, 50.0, 200.0]) } else { 0.0 },
            throttling: half(),
            revocations: half(),
            pausing: half(),
        }
    }

    pub(crate) fn sweeps(&self) -> bool {
        self.sweep_rate > 0.0
    }
}

/// A fake that is wrong on purpose: the checker must notice it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mutant {
    #[default]
    None,
    /// The store's commit ignores the lease.
    CommitIgnoresLease,
    /// The store's commit ignores the revision.
    CommitIgnoresRevision,
    /// The store gives a lease to everyone who asks.
    LeaseForEveryone,
    /// The store returns states from some seconds ago as current.
    StaleReads,
    /// The store acknowledges some commits without keeping them.
    ForgetsCommits,
    /// The store acknowledges deletes without making them.
    KeepsDeleted,
    /// The store deletes the present record, whatever revision is meant.
    DeletesWhatever,
    /// The authority room takes a passing failure for a verdict.
    TransientIsVerdict,
    /// The authority room takes a verdict for a passing failure.
    VerdictIsTransient,
    /// The authority answers with another user's token.
    WrongUser,
    /// The authority room doubles the life of tokens.
    LongLives,
    /// The store does not report the intent of an earlier lease holder.
    IntentIsForgotten,
    /// The journal acknowledges what it does not keep.
    JournalForgets,
    /// The store does not share an authority's throttle with other replicas.
    HoldsAreForgotten,
    /// The store shows revocations only to one replica.
    RevocationsStayAtHome,
    /// The store forgets some notices.
    ForgetsNotices,
}
