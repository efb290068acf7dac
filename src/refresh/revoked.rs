//! Operators' revocations. Until they are known nothing is handed out or refreshed.

use std::time::Duration;

use parking_lot::RwLock;

use crate::domain::connection::Profile;
use crate::domain::id::ConnectionKey;
use crate::domain::revocation::{self, Revocation};

/// The known revocations; `None` before they were read.
#[derive(Default)]
pub(super) struct Revoked {
    known: RwLock<Option<Known>>,
}

struct Known {
    list: Vec<Revocation>,
    /// Monotonic time of the last read.
    read_at: Duration,
    /// Grows when one becomes known.
    learnt: u64,
}

impl Revoked {
    /// Adds revocations that were read at `now` (monotonic), and returns those that were not known. Known
    /// ones stay in force, in whatever order they arrive.
    pub(super) fn learn(&self, list: Vec<Revocation>, now: Duration) -> Vec<Revocation> {
        let mut known = self.known.write();
        let known = known.get_or_insert_with(|| Known { list: Vec::new(), read_at: now, learnt: 0 });
        known.read_at = known.read_at.max(now);
        let new: Vec<Revocation> =
            list.into_iter().filter(|revocation| !known.list.contains(revocation)).collect();
        if !new.is_empty() {
            known.learnt += 1;
            known.list.extend(new.iter().cloned());
            revocation::keep_newest(&mut known.list);
        }
        new
    }

    /// A number that grows when one becomes known.
    pub(super) fn learnt(&self) -> u64 {
        self.known.read().as_ref().map_or(0, |known| known.learnt)
    }

    /// Whether they were read within this time.
    pub(super) fn is_known_since(&self, now: Duration, within: Duration) -> bool {
        self.known.read().as_ref().is_some_and(|known| now.saturating_sub(known.read_at) <= within)
    }

    /// Whether the revocations are known.
    pub(super) fn is_known(&self) -> bool {
        self.known.read().is_some()
    }

    /// The known ones.
    pub(super) fn list(&self) -> Vec<Revocation> {
        self.known.read().as_ref().map(|known| known.list.clone()).unwrap_or_default()
    }

    /// Whether there is one that fits.
    pub(super) fn any(&self, is_meant: impl Fn(&Revocation) -> bool) -> bool {
        self.known.read().iter().flat_map(|known| &known.list).any(is_meant)
    }

    /// Whether a connection is revoked.
    pub(super) fn covers(&self, key: &ConnectionKey, profile: &Profile) -> bool {
        self.any(|revocation| revocation.covers(&key.app, profile))
    }
}
