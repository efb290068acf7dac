//! The knowledge of a slot at one moment, in a word for each part: the simulation counts which combinations
//! occur. A change that makes a new one possible shows in `testkit/baseline`.

use std::fmt;
use std::time::Duration;

use super::engine::Engine;
use super::slot::Memory;
use crate::domain::id::ConnectionKey;

/// The memory of one connection at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Combination {
    held: HeldAs,
    unstored: UnstoredAs,
    /// A state that the store had within the last two minutes is remembered.
    recent: bool,
    /// A delete of the last two minutes is remembered.
    deleted: bool,
    /// The last read of the store failed.
    unchecked: bool,
}

/// The cached connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum HeldAs {
    Nothing,
    /// The state that the store had a moment ago.
    Recent,
    /// The unstored answer.
    Unstored,
    Other,
}

/// The unstored answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum UnstoredAs {
    Nothing,
    InMemory,
    InJournal,
}

impl Combination {
    fn of(memory: &Memory, now: Duration) -> Self {
        let revision = memory.cached_revision();
        let recent = memory.recent_revision(now);
        let held = match revision {
            None => HeldAs::Nothing,
            Some(revision) if memory.is_unstored(revision) => HeldAs::Unstored,
            Some(revision) if recent == Some(revision) => HeldAs::Recent,
            Some(_) => HeldAs::Other,
        };
        let unstored = match memory.answer() {
            None => UnstoredAs::Nothing,
            Some(_) if memory.is_journaled() => UnstoredAs::InJournal,
            Some(_) => UnstoredAs::InMemory,
        };
        Combination {
            held,
            unstored,
            recent: recent.is_some(),
            deleted: memory.has_deleted(now),
            unchecked: memory.is_unchecked(),
        }
    }
}

impl fmt::Display for Combination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = match self.held {
            HeldAs::Nothing => "-",
            HeldAs::Recent => "recent",
            HeldAs::Unstored => "unstored",
            HeldAs::Other => "other",
        };
        let unstored = match self.unstored {
            UnstoredAs::Nothing => "-",
            UnstoredAs::InMemory => "in memory",
            UnstoredAs::InJournal => "in journal",
        };
        let mark = |is: bool| if is { "yes" } else { "-" };
        let (recent, deleted, unchecked) = (mark(self.recent), mark(self.deleted), mark(self.unchecked));
        write!(formatter, "{held:<8} {unstored:<10} {recent:<6} {deleted:<7} {unchecked:<9}")
    }
}

impl Engine {
    /// The memory of the connection, if it has a slot.
    pub(crate) fn combination(&self, key: &ConnectionKey) -> Option<Combination> {
        let now = self.ports.monotonic();
        self.slots.existing(key).map(|slot| Combination::of(&slot.state().memory, now))
    }
}
