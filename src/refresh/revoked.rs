//! Operators' revocations. Until they are known nothing is handed out or refreshed.

use parking_lot::RwLock;

use crate::domain::connection::Profile;
use crate::domain::id::ConnectionKey;
use crate::domain::revocation::{self, Revocation};

/// The known revocations; `None` before they were read.
#[derive(Default)]
pub(super) struct Revoked {
    known: RwLock<Option<Vec<Revocation>>>,
}

impl Revoked {
    /// Adds revocations. Known ones stay in force, in whatever order they arrive.
    pub(super) fn learn(&self, list: Vec<Revocation>) {
        let mut known = self.known.write();
        let known = known.get_or_insert_default();
        for revocation in list {
            if !known.contains(&revocation) {
                known.push(revocation);
            }
        }
        revocation::keep_newest(known);
    }

    /// Whether the revocations are known.
    pub(super) fn is_known(&self) -> bool {
        self.known.read().is_some()
    }

    /// The known ones.
    pub(super) fn list(&self) -> Vec<Revocation> {
        self.known.read().clone().unwrap_or_default()
    }

    /// Whether there is one that fits.
    pub(super) fn any(&self, is_meant: impl Fn(&Revocation) -> bool) -> bool {
        self.known.read().iter().flatten().any(is_meant)
    }

    /// Whether a connection is revoked.
    pub(super) fn covers(&self, key: &ConnectionKey, profile: &Profile) -> bool {
        self.any(|revocation| revocation.covers(&key.app, profile))
    }
}
