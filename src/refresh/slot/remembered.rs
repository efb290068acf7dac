//! The writes of the last two minutes, which a failover of the store may lose. Used only if other processes
//! write to the store, too: an embedded store loses nothing.

use std::sync::Arc;
use std::time::Duration;

use super::held::Held;
use crate::domain::connection::SignIn;
use crate::domain::time::Timestamp;
use crate::keyring::tally::COUNTED_AGAIN_AFTER;
use crate::repository::Connection;
use crate::store::{Revision, StoredConnection};

/// How long a write is remembered. A failover loses the writes of its last seconds, and shows within half a
/// minute.
const REMEMBERED: Duration = Duration::from_secs(120);
// A remembered record is sealed. Its key must not be retired before the record is forgotten.
const _: () = assert!(REMEMBERED.as_secs() <= COUNTED_AGAIN_AFTER.as_secs());
/// Deletes of one name that are remembered at once.
const MOST_DELETED: usize = 8;

/// A state that the store had.
#[derive(Clone)]
pub(in crate::refresh) struct Recent {
    pub(in crate::refresh) held: Arc<Held>,
    pub(in crate::refresh) sealed: Arc<StoredConnection>,
    /// Monotonic.
    until: Duration,
}

/// A sign-in that was deleted.
#[derive(Clone, Copy)]
struct DeletedLately {
    sign_in: SignIn,
    /// By the wall clock.
    at: Timestamp,
    /// Monotonic.
    until: Duration,
}

/// The repair that a read needs before it counts, because a failover of the store lost writes.
pub(in crate::refresh) enum Repair {
    Nothing,
    /// The store lost a delete.
    DeleteAgain,
    /// The store lost this state.
    StoreAgain(Recent),
}

/// The last state that the store had, and the sign-ins that were deleted.
#[derive(Default)]
pub(super) struct Remembered {
    recent: Option<Recent>,
    deleted: Vec<DeletedLately>,
}

impl Remembered {
    /// The store has this state at `now` (monotonic).
    pub(super) fn note(&mut self, held: &Arc<Held>, sealed: &StoredConnection, now: Duration) {
        let (held, sealed) = (held.clone(), Arc::new(sealed.clone()));
        self.recent = Some(Recent { held, sealed, until: now.saturating_add(REMEMBERED) });
    }

    /// This sign-in was deleted: `at` by the wall clock, `now` by the monotonic one.
    pub(super) fn note_delete(&mut self, sign_in: SignIn, at: Timestamp, now: Duration) {
        self.deleted.retain(|other| other.sign_in != sign_in);
        let extra = (self.deleted.len() + 1).saturating_sub(MOST_DELETED);
        self.deleted.drain(..extra);
        self.deleted.push(DeletedLately { sign_in, at, until: now.saturating_add(REMEMBERED) });
    }

    /// The repair for a read that showed `stored` at `now`. `is_answer_waiting`: an answer waits to be
    /// stored, and replaces the lost state, too.
    pub(super) fn repair(&self, stored: &Connection, is_answer_waiting: bool, now: Duration) -> Repair {
        if self.was_deleted(stored, now) {
            return Repair::DeleteAgain;
        }
        match &self.recent {
            Some(recent)
                if now < recent.until && !is_answer_waiting && stored.is_before(&recent.held.connection) =>
            {
                Repair::StoreAgain(recent.clone())
            }
            _ => Repair::Nothing,
        }
    }

    /// Whether a remembered delete meant `stored`: its sign-in, or a later one.
    fn was_deleted(&self, stored: &Connection, now: Duration) -> bool {
        let (sign_in, connected_at) = (stored.profile.sign_in(), stored.profile.connected_at());
        self.deleted.iter().any(|deleted| {
            let is_earlier = sign_in.number < deleted.sign_in.number && connected_at <= deleted.at;
            now < deleted.until && (sign_in == deleted.sign_in || is_earlier)
        })
    }

    /// Whether the store had this revision lately, so that it can be written again.
    pub(super) fn has(&self, revision: Revision, now: Duration) -> bool {
        self.recent
            .as_ref()
            .is_some_and(|recent| now < recent.until && recent.held.connection.revision == revision)
    }

    /// Forgets the state if `is_over`; deletes stay.
    pub(super) fn forget_state(&mut self, is_over: impl Fn(&Connection) -> bool) {
        self.recent.take_if(|recent| is_over(&recent.held.connection));
    }

    /// Forgets writes that are too old for a failover to lose. Returns whether any is left.
    pub(super) fn prune(&mut self, now: Duration) -> bool {
        self.recent.take_if(|recent| recent.until <= now);
        self.deleted.retain(|deleted| now < deleted.until);
        self.recent.is_some() || !self.deleted.is_empty()
    }

    /// The last state, however old.
    pub(super) fn state(&self) -> Option<&Recent> {
        self.recent.as_ref()
    }

    /// Whether a delete is remembered, however old.
    pub(super) fn has_deletes(&self) -> bool {
        !self.deleted.is_empty()
    }
}

/// For the simulation.
#[cfg(test)]
impl Remembered {
    pub(super) fn revision(&self, now: Duration) -> Option<Revision> {
        self.recent.as_ref().filter(|recent| now < recent.until).map(|recent| recent.held.connection.revision)
    }

    pub(super) fn has_live_deletes(&self, now: Duration) -> bool {
        self.deleted.iter().any(|deleted| now < deleted.until)
    }
}
