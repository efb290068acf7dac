//! The parameters of a check: the world's size, the authority's mode, the number of faults, and the broken
//! rule.

use crate::bugs::Bug;

/// The authority's reaction to a used refresh token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Authority {
    /// Used refresh tokens stay good, and each use gives a new one (`refresh_token_reuse = safe`).
    Entra,
    /// The newest gives a new one; any older one kills the whole family (`refresh_token_reuse = never`).
    Strict,
    /// The newest gives a new one; any older one is refused, and the family lives on (`refresh_token_reuse =
    /// never`).
    Rotating,
}

impl Authority {
    /// Whether a refresh token may be sent again when nobody knows how its last use ended.
    pub fn reuse_is_safe(self) -> bool {
        self == Authority::Entra
    }
}

/// Most faults and outside events in one run. An event with 0 never happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Budget {
    /// Half lives of an access token that pass: a token is fresh, then due, then dead.
    pub ticks: u8,
    /// Processes that lose their memory (and keep their journal).
    pub crashes: u8,
    /// Changes of the store's primary, each dropping any suffix of what was not replicated.
    pub failovers: u8,
    /// Leases that run out under a living holder: it was paused, or cut off.
    pub pauses: u8,
    /// Users who disconnect.
    pub deletes: u8,
    /// Users who sign in again.
    pub connects: u8,
    /// Requests to the store without an answer: carried out now, later or never.
    pub lost_by_store: u8,
    /// Calls to the authority without an answer: carried out now, later or never.
    pub lost_calls: u8,
    /// Calls that the authority puts off (5xx, 429).
    pub transients: u8,
    /// Grants that the authority ends of its own (password changed, consent withdrawn).
    pub revocations: u8,
}

/// One configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Setup {
    /// Its name, for reports.
    pub name: &'static str,
    /// How many replicas there are.
    pub replicas: u8,
    /// How many connections there are.
    pub connections: u8,
    /// The authority's mode.
    pub authority: Authority,
    /// Whether a write counts only when a replica of the store has it.
    pub wait: bool,
    /// Whether replicas keep a journal.
    pub journal: bool,
    /// What may happen.
    pub budget: Budget,
    /// The last writes that a failover may drop; older ones are replicated by then.
    pub unreplicated: usize,
    /// The rule that is switched off.
    pub bug: Option<Bug>,
    /// Whether replicas that differ in name only count as one. Off, traces are easier to read.
    pub symmetry: bool,
}

impl Setup {
    /// Two replicas, one connection, a journal, no faults.
    pub const fn calm(name: &'static str, authority: Authority) -> Self {
        Setup {
            name,
            replicas: 2,
            connections: 1,
            authority,
            wait: false,
            journal: true,
            budget: Budget {
                ticks: 1,
                crashes: 0,
                failovers: 0,
                pauses: 0,
                deletes: 0,
                connects: 0,
                lost_by_store: 0,
                lost_calls: 0,
                transients: 0,
                revocations: 0,
            },
            unreplicated: 4,
            bug: None,
            symmetry: true,
        }
    }

    /// Whether this rule is switched off.
    pub fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }
}
