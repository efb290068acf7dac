//! How many connections have which status. The counts are kept: one record in the store has them, each
//! replica adds its own changes to it, and a slow walk over all connections corrects it. So nothing counts
//! everything again and again, and a restart forgets nothing.
//!
//! The counts are for metrics alone, and nothing is decided by them. A replica that dies takes at most half a
//! minute's changes along, and one of an earlier version adds none: the next walk's end mends that.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Broker;
use super::inspect::{Counts, STATUSES};
use crate::domain::connection::Status;
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
use crate::domain::time::Timestamp;
use crate::refresh::Changes;
use crate::repository::{FiledUnder, Kind, RepositoryError};

/// How long the counts are kept without a change. (A walk's end is one.)
const KEPT: Duration = Duration::from_secs(90 * 86_400);

/// The record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// When a walk last corrected them; `None` before the first walk's end, and then they say nothing.
    #[serde(default)]
    walked_at: Option<Timestamp>,
    /// By app, then by status.
    #[serde(default)]
    apps: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Kept {
    fn add(&mut self, changes: &Changes) {
        for ((app, status), by) in changes {
            let statuses = self.apps.entry(app.as_str().to_owned()).or_default();
            let count = statuses.entry((*status).to_owned()).or_default();
            *count = count.saturating_add_signed(*by);
        }
    }

    /// The counts of these apps, with all statuses; `None` before the first walk's end.
    fn counts<'a>(&self, apps: impl Iterator<Item = &'a AppName>) -> Option<Counts> {
        self.walked_at?;
        let mut counts = Counts::default();
        for app in apps {
            let kept = self.apps.get(app.as_str());
            for status in STATUSES {
                let count = kept.and_then(|kept| kept.get(status)).copied().unwrap_or(0);
                counts.by_status.insert((app.clone(), status), count);
            }
        }
        Some(counts)
    }
}

impl Broker {
    /// Adds this replica's changes to the kept counts. Returns the counts, if there are any yet.
    pub async fn keep_counts(&self) -> Result<Option<Counts>, RepositoryError> {
        let changes = self.deps.engine.take_status_changes();
        let kept = if changes.is_empty() {
            self.deps
                .repository
                .pending(Kind::Counts, &FiledUnder::only())
                .await
                .map(|read| read.map(|read| read.value).unwrap_or_default())
        } else {
            self.change_counts(|kept| kept.add(&changes)).await
        };
        match kept {
            Ok(kept) => Ok(kept.counts(self.apps().keys())),
            Err(error) => {
                self.deps.engine.give_back_status_changes(changes);
                Err(error)
            }
        }
    }

    /// Replaces the kept counts by those of a walk that has ended, and returns them.
    pub async fn walk_ended(&self, mut walked: Counts) -> Result<Counts, RepositoryError> {
        for (of, by) in self.deps.engine.status_walk_ends() {
            let count = walked.by_status.entry(of).or_default();
            *count = count.saturating_add_signed(by);
        }
        let now = self.deps.clock.now();
        self.change_counts(|kept| {
            // (An app that is not configured is not walked over.)
            for ((app, status), count) in &walked.by_status {
                let statuses = kept.apps.entry(app.as_str().to_owned()).or_default();
                statuses.insert((*status).to_owned(), *count);
            }
            kept.walked_at = Some(now);
        })
        .await?;
        Ok(walked)
    }

    async fn change_counts(&self, change: impl Fn(&mut Kept)) -> Result<Kept, RepositoryError> {
        let now = self.deps.clock.now();
        let changed = |kept: &mut Kept| {
            change(kept);
            Ok::<(), RepositoryError>(())
        };
        let only = FiledUnder::only();
        let kept = self.deps.repository.change_pending(Kind::Counts, &only, now, KEPT, changed).await?;
        // (Others kept changing it: the next walk's end mends what is missing.)
        Ok(kept.unwrap_or_default())
    }

    /// A connection's status changed by an act here; `None` is a connection that is not there.
    pub(super) fn status_changed(&self, key: &ConnectionKey, from: Option<Status>, to: Option<Status>) {
        self.deps.engine.status_changed(key, from, to);
    }

    /// A walk that will be counted begins.
    pub fn status_walk_begins(&self) {
        self.deps.engine.status_walk_begins();
    }

    /// The walk read this app's connections up to this name; `None`: all of them.
    pub fn status_walk_passed(&self, app: &AppName, last: Option<&ConnectionName>) {
        self.deps.engine.status_walk_passed(app, last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_added_and_every_status_of_a_configured_app_is_shown() {
        let app = |name| AppName::parse(name).expect("a name");
        let (one, other) = (app("one"), app("other"));
        let mut kept = Kept::default();
        assert!(kept.counts([&one].into_iter()).is_none(), "no walk has ended yet");
        kept.walked_at = Some(Timestamp::from_unix_seconds(1));
        kept.add(&[((one.clone(), "active"), 3), ((one.clone(), "blocked"), -1)].into_iter().collect());
        kept.add(&[((one.clone(), "active"), -1), ((one.clone(), "paused"), 1)].into_iter().collect());
        let counts = kept.counts([&one, &other].into_iter()).expect("walked");
        let shown: Vec<(&str, &str, u64)> =
            counts.by_status.iter().map(|((app, status), count)| (app.as_str(), *status, *count)).collect();
        assert_eq!(
            shown,
            [
                ("one", "active", 2),
                ("one", "blocked", 0),
                ("one", "needs_reauthorization", 0),
                ("one", "paused", 1),
                ("other", "active", 0),
                ("other", "blocked", 0),
                ("other", "needs_reauthorization", 0),
                ("other", "paused", 0),
            ]
        );
    }
}
