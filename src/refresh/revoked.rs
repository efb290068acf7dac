//! What an operator revoked. Until that is known nothing is handed out or refreshed.

use parking_lot::RwLock;

use crate::domain::connection::Profile;
use crate::domain::id::ConnectionKey;
use crate::domain::revocation::{self, Revocation};

/// Revocations, as far as they are known; none before they were read.
#[derive(Default)]
pub(super) struct Revoked {
    known: RwLock<Option<Vec<Revocation>>>,
}

impl Revoked {
    /// These are revoked, too. Known ones stay in force, whatever order acts come back in.
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

    /// Whether it is known what is revoked.
    pub(super) fn is_known(&self) -> bool {
        self.known.read().is_some()
    }

    /// The known ones.
    pub(super) fn list(&self) -> Vec<Revocation> {
        self.known.read().clone().unwrap_or_default()
    }

    /// Whether one of them is meant.
    pub(super) fn any(&self, is_meant: impl Fn(&Revocation) -> bool) -> bool {
        self.known.read().iter().flatten().any(is_meant)
    }

    /// Whether a connection is revoked.
    pub(super) fn covers(&self, key: &ConnectionKey, profile: &Profile) -> bool {
        self.any(|revocation| revocation.covers(&key.app, profile))
    }
}
