//! What operators see of the keyring and of API keys.

use serde::Serialize;

use crate::broker::replicas::Replica;
use crate::broker::rewrap::{Progress, ShownKeyring};
use crate::callers::KeyUse;

/// The keyring as it is shown: never a key.
#[derive(Serialize)]
pub(super) struct KeyringShape {
    keys: Vec<SealingKeyShape>,
    replicas: Vec<ReplicaShape>,
    rewrap: RewrapShape,
}

#[derive(Serialize)]
struct SealingKeyShape {
    id: String,
    /// Null for a key that records name and that is not in the keyring.
    created_at: Option<String>,
    promoted_at: Option<String>,
    primary: bool,
    /// Null when nothing was counted since the daemon started.
    records: Option<u64>,
    /// Of those, the ones that go by themselves.
    passing: Option<u64>,
    counted_at: Option<String>,
    /// Since when it was counted zero.
    none_since: Option<String>,
    /// It was counted zero twice, long enough apart.
    counted_away: bool,
    /// The replicas that can open it.
    opened_by: Vec<String>,
    /// The live ones that cannot.
    not_opened_by: Vec<String>,
}

#[derive(Serialize)]
struct ReplicaShape {
    id: String,
    host: String,
    version: String,
    reported_at: String,
    primary: String,
    keys: Vec<String>,
    /// It is the one that answers.
    answers: bool,
}

#[derive(Serialize)]
struct RewrapShape {
    /// Records that are still to be sealed anew, as counted last.
    left: u64,
    /// How often this replica has counted since it started.
    counts: u64,
    running: bool,
    /// Why nothing is sealed anew although it is needed.
    waits_for: Option<String>,
    /// By the last pass of this replica.
    resealed: u64,
    refused: u64,
}

impl KeyringShape {
    pub(super) fn new(shown: &ShownKeyring, left: u64) -> Self {
        let keys = shown.keys.iter().map(|key| {
            let named = |opens: bool| {
                let those = |replica: &&Replica| replica.report.sealing.keys.contains_key(&key.id) == opens;
                shown.replicas.iter().filter(those).map(Replica::name).collect()
            };
            let counted = key.counted.as_ref();
            SealingKeyShape {
                id: key.id.clone(),
                created_at: key.created_at.map(|at| at.rfc3339()),
                promoted_at: key.promoted_at.map(|at| at.rfc3339()),
                primary: key.is_primary,
                records: counted.map(|counted| counted.records),
                passing: counted.map(|counted| counted.passing),
                counted_at: counted.map(|counted| counted.at.rfc3339()),
                none_since: counted.and_then(|counted| counted.none_since).map(|at| at.rfc3339()),
                counted_away: key.may_go,
                opened_by: named(true),
                not_opened_by: named(false),
            }
        });
        let replicas = shown.replicas.iter().map(|Replica { report, is_me }| ReplicaShape {
            id: report.id.clone(),
            host: report.host.clone(),
            version: report.version.clone(),
            reported_at: report.at.rfc3339(),
            primary: report.sealing.primary.clone(),
            keys: report.sealing.keys.keys().cloned().collect(),
            answers: *is_me,
        });
        let Progress { is_running, waits_for, resealed, refused } = shown.progress.clone();
        // Another replica may have done what this one waited with.
        let waits_for = waits_for.filter(|_| left > 0);
        let rewrap =
            RewrapShape { left, counts: shown.counts, running: is_running, waits_for, resealed, refused };
        KeyringShape { keys: keys.collect(), replicas: replicas.collect(), rewrap }
    }
}

/// An API key as it is shown: never the key, never its hash.
#[derive(Serialize)]
pub(super) struct KeyShape {
    id: String,
    created_at: String,
    expires_at: String,
    /// Null when not since the daemon started.
    last_used_at: Option<String>,
}

impl From<KeyUse> for KeyShape {
    fn from(used: KeyUse) -> Self {
        KeyShape {
            id: used.key.id,
            created_at: used.key.created_at.rfc3339(),
            expires_at: used.key.expires_at.rfc3339(),
            last_used_at: used.last_used_at.map(|at| at.rfc3339()),
        }
    }
}
