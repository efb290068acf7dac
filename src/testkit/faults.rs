//! What goes wrong in a run: the dice it is drawn with, and the weather on the way to the store and to the authority.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// Draws of one part of a run. Each part has dice of its own, so that one more draw here moves nothing there.
#[derive(Clone)]
pub(crate) struct Dice(Arc<Mutex<u64>>);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Dice(Arc::new(Mutex::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)))
    }

    /// Other dice, which follow from these.
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

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&self, end: usize) -> usize {
        usize::try_from(self.draw() % end as u64).unwrap_or(0)
    }

    /// True so many times of a thousand.
    pub(crate) fn of_thousand(&self, times: u32) -> bool {
        self.draw() % 1000 < u64::from(times)
    }

    pub(crate) fn one_of<T: Copy>(&self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// A time between two, in milliseconds, short ones more often.
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

/// How often something goes wrong on the way to the store, of a thousand calls.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct StoreWeather {
    pub(crate) lost_before: u32,
    pub(crate) lost_after: u32,
    pub(crate) slow: u32,
    pub(crate) repeated: u32,
    /// Of a thousand changes told.
    pub(crate) untold: u32,
    /// How far the copy may be behind.
    pub(crate) lag: Duration,
}

/// How often something goes wrong with a journal's disk, of a thousand steps.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DiskWeather {
    pub(crate) slow: u32,
    pub(crate) fails: u32,
}

/// How often something goes wrong at the authority, of a thousand calls.
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
    /// Whether it refuses in words that nobody understands: in half of the lossy times, by a number that was drawn anyway.
    pub(crate) fn mumbles(&self) -> bool {
        self.garbage % 2 == 1
    }
}

/// Which faults a seed has: each is there in half of the seeds, so that some runs have few and find what many would hide.
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
    /// The authority always takes seconds, so that most accidents meet a refresh under way.
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

/// What came to the simulation later, each in half of the seeds. It has dice of its own: a run with none of it is what it was before.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Additions {
    /// Each replica has a journal.
    pub(crate) journals: bool,
    /// The disks of the journals are bad.
    pub(crate) bad_disks: bool,
    /// The store takes leases and refuses commits.
    pub(crate) refused_commits: bool,
    /// Connections are looked after before anybody asks, at so many a second.
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

/// A fake that is wrong on purpose: whoever checks the runs has to notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mutant {
    #[default]
    None,
    /// The store's commit does not look at the lease.
    CommitIgnoresLease,
    /// The store's commit does not look at the revision.
    CommitIgnoresRevision,
    /// The store gives a lease to everyone who asks.
    LeaseForEveryone,
    /// The store shows what was there some seconds ago as what is there.
    StaleReads,
    /// The store acknowledges some commits that it does not keep.
    ForgetsCommits,
    /// The store acknowledges deletes and keeps the connection.
    KeepsDeleted,
    /// The store deletes what is there, whatever is meant.
    DeletesWhatever,
    /// The authority room takes a failure that passes for a verdict.
    TransientIsVerdict,
    /// The authority room takes a verdict for a failure that passes.
    VerdictIsTransient,
    /// The authority answers with somebody else's token.
    WrongUser,
    /// The authority room takes tokens to live twice as long as they do.
    LongLives,
    /// The store does not say that an earlier holder of a lease never told how its call ended.
    IntentIsForgotten,
    /// The journal acknowledges what it does not keep.
    JournalForgets,
    /// The store does not keep what an authority asked of one replica for the others.
    HoldsAreForgotten,
    /// The store shows revocations to one replica only.
    RevocationsStayAtHome,
}
