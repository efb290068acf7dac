//! How many connections have which status, as far as this process changes it: a pure value. The sum of all
//! replicas' changes is in the store, and a slow walk over all connections corrects it
//! ([`crate::broker`], `counts.rs`).

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::connection::Status;
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};

/// Changes of the number of connections, by app and status.
pub type Changes = BTreeMap<(AppName, &'static str), i64>;

/// What changed since the store was told, and since a walk passed by.
#[derive(Default)]
pub(super) struct Census {
    untold: Changes,
    walk: Option<Passed>,
}

/// The part of all connections that a walk has passed, and what changed there since.
#[derive(Default)]
struct Passed {
    apps: BTreeSet<AppName>,
    within: Option<(AppName, ConnectionName)>,
    changes: Changes,
}

impl Passed {
    fn has(&self, key: &ConnectionKey) -> bool {
        let is_within =
            self.within.as_ref().is_some_and(|(app, name)| *app == key.app && key.connection <= *name);
        self.apps.contains(&key.app) || is_within
    }
}

impl Census {
    /// A connection's status changed; `None` is a connection that is not there.
    pub(super) fn changed(&mut self, key: &ConnectionKey, from: Option<Status>, to: Option<Status>) {
        let (from, to) = (from.map(Status::as_str), to.map(Status::as_str));
        if from == to {
            return;
        }
        let note = |changes: &mut Changes| {
            for (status, by) in [(from, -1), (to, 1)] {
                if let Some(status) = status {
                    *changes.entry((key.app.clone(), status)).or_default() += by;
                }
            }
        };
        note(&mut self.untold);
        if let Some(walk) = self.walk.as_mut().filter(|walk| walk.has(key)) {
            note(&mut walk.changes);
        }
    }

    /// What the store is to be told now.
    pub(super) fn take(&mut self) -> Changes {
        std::mem::take(&mut self.untold)
    }

    /// The store could not be told.
    pub(super) fn give_back(&mut self, changes: Changes) {
        for (of, by) in changes {
            *self.untold.entry(of).or_default() += by;
        }
    }

    /// A walk begins.
    pub(super) fn walk_begins(&mut self) {
        self.walk = Some(Passed::default());
    }

    /// The walk read this app's connections up to this name; `None`: all of them.
    pub(super) fn walk_passed(&mut self, app: &AppName, last: Option<&ConnectionName>) {
        let Some(walk) = &mut self.walk else { return };
        match last {
            Some(last) => walk.within = Some((app.clone(), last.clone())),
            None => {
                walk.apps.insert(app.clone());
            }
        }
    }

    /// The walk is over. Returns what changed behind it. What it counted says everything else, so the store
    /// need not be told of changes before.
    pub(super) fn walk_ends(&mut self) -> Changes {
        self.untold.clear();
        self.walk.take().map(|walk| walk.changes).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::verdict::ReauthReason;

    const REFUSED: Status = Status::NeedsReauthorization(ReauthReason::GrantRevoked);

    fn key(app: &str, name: &str) -> ConnectionKey {
        ConnectionKey {
            app: AppName::parse(app).expect("a name"),
            connection: ConnectionName::parse(name).expect("a name"),
        }
    }

    fn of(changes: &Changes) -> Vec<(&str, &str, i64)> {
        changes.iter().map(|((app, status), by)| (app.as_str(), *status, *by)).collect()
    }

    #[test]
    fn what_comes_goes_and_changes_is_told_once() {
        let mut census = Census::default();
        census.changed(&key("a", "1"), None, Some(Status::Active));
        census.changed(&key("a", "2"), Some(Status::Active), Some(REFUSED));
        census.changed(&key("b", "1"), Some(Status::Paused), None);
        census.changed(&key("b", "2"), Some(Status::Active), Some(Status::Active));
        let changes = census.take();
        let expected = [("a", "active", 0), ("a", "needs_reauthorization", 1), ("b", "paused", -1)];
        assert_eq!(of(&changes), expected);
        assert_eq!(of(&census.take()), []);
        census.give_back(changes);
        assert_eq!(of(&census.take()), expected);
    }

    /// The walk sees what changes before it. What changes behind it is added.
    #[test]
    fn a_walk_misses_only_what_changes_behind_it() {
        let mut census = Census::default();
        census.changed(&key("b", "1"), None, Some(Status::Active));
        census.walk_begins();
        census.walk_passed(&key("b", "5").app, Some(&key("b", "5").connection));
        census.changed(&key("b", "5"), Some(Status::Active), Some(REFUSED));
        census.changed(&key("b", "6"), Some(Status::Active), Some(Status::Paused));
        census.changed(&key("a", "1"), None, Some(Status::Active));
        census.walk_passed(&key("b", "5").app, None);
        census.changed(&key("b", "9"), Some(Status::Active), None);
        census.changed(&key("a", "2"), None, Some(Status::Active));
        assert_eq!(of(&census.walk_ends()), [("b", "active", -2), ("b", "needs_reauthorization", 1)]);
        assert_eq!(of(&census.take()), [], "the walk's counts say it");
        census.changed(&key("b", "1"), Some(Status::Active), None);
        assert_eq!(of(&census.walk_ends()), [], "there is no walk");
    }
}
