//! Who is heard of: a replica's own view of the others' counts.

use std::collections::HashMap;
use std::time::Duration;

use super::line::{Line, ReplicaId};

/// How often a replica counts in the record of a mailbox where it has turns.
pub const BEAT: Duration = Duration::from_secs(1);
/// A replica whose count stood still for so long is dead.
pub const SILENT: Duration = Duration::from_secs(5);

/// The counts of other replicas, and since when each stands.
#[derive(Debug, Default)]
pub struct Watch(HashMap<ReplicaId, (u64, Duration)>);

impl Watch {
    /// Looks at a record as it was read at `now` (monotonic), and returns who is dead.
    pub fn look(&mut self, line: &Line, own: ReplicaId, now: Duration) -> Vec<ReplicaId> {
        self.0.retain(|replica, _| line.beats().any(|(one, _)| one == *replica));
        let mut dead = Vec::new();
        for (replica, beat) in line.beats().filter(|(replica, _)| *replica != own) {
            let seen = self.0.entry(replica).or_insert((beat, now));
            if seen.0 != beat {
                *seen = (beat, now);
            } else if now.saturating_sub(seen.1) >= SILENT {
                dead.push(replica);
            }
        }
        dead
    }
}
