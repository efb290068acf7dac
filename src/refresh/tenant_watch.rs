//! What this process saw of tenants and has not told the store yet, and which tenants block an app, as the
//! store said. A pure value: [`crate::broker`] (`tenant_blocks.rs`) tells the store, and this file is told.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::domain::connection::{Profile, Status};
use crate::domain::forecast::SeenEnd;
use crate::domain::id::{AppName, ConnectionKey};
use crate::domain::tenant_block::{News, Part};
use crate::domain::time::Timestamp;
use crate::domain::verdict::BlockReason;

/// Most tenants of which there are untold news; the next refusals of others are seen again.
const MOST_UNTOLD: usize = 1000;
/// Most ends of grants by their age that are kept untold: a few of a tenant say it.
const MOST_ENDS: usize = 200;
/// How often the background tries for a tenant that blocks the app.
const PROBED_EVERY: Duration = Duration::from_secs(60);

/// What was seen and not told.
#[derive(Debug, Default)]
pub struct Untold {
    /// Refusals and successes, by tenant.
    pub news: BTreeMap<Part, News>,
    /// Ends of grants by the age of their sign-in.
    pub ends: Vec<(Part, SeenEnd)>,
}

impl Untold {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.news.is_empty() && self.ends.is_empty()
    }
}

/// A tenant that refuses, as the store says.
#[derive(Debug, Clone, Copy, Default)]
struct Watched {
    /// It blocks the app.
    blocks: Option<BlockReason>,
    /// Monotonic time of the last probe.
    probed_at: Option<Duration>,
}

/// See above.
#[derive(Debug, Default)]
pub(super) struct TenantWatch {
    untold: Untold,
    watched: BTreeMap<Part, Watched>,
}

impl TenantWatch {
    /// The authority judged a connection, which was in this state before.
    pub(super) fn judged(
        &mut self,
        key: &ConnectionKey,
        before: &Profile,
        after: Status,
        error_codes: &[u32],
        now: Timestamp,
    ) {
        let part = part(&key.app, before.account().tid.as_deref());
        if let Some(end) = SeenEnd::of(&key.connection, before, error_codes, now)
            && matches!(after, Status::NeedsReauthorization(_))
            && self.untold.ends.len() < MOST_ENDS
        {
            self.untold.ends.push((part.clone(), end));
        }
        if let Status::Blocked(reason) = after
            && (self.untold.news.len() < MOST_UNTOLD || self.untold.news.contains_key(&part))
        {
            let is_new = before.status() != after;
            let news = self.untold.news.entry(part).or_default();
            news.refused(&key.connection, reason, error_codes, is_new);
        }
    }

    /// A grant of this tenant worked, whose connection was in this state before; `None`: it had none.
    pub(super) fn worked(&mut self, app: &AppName, tenant: Option<&str>, before: Option<Status>) {
        let was_blocked = matches!(before, Some(Status::Blocked(_)));
        if !was_blocked && self.watched.is_empty() && self.untold.news.is_empty() {
            return;
        }
        let part = part(app, tenant);
        let is_news = self.watched.contains_key(&part) || self.untold.news.contains_key(&part);
        if was_blocked || is_news {
            self.untold.news.entry(part).or_default().worked(was_blocked);
        }
    }

    /// What is to be told now.
    pub(super) fn take(&mut self) -> Untold {
        std::mem::take(&mut self.untold)
    }

    /// The store could not be told.
    pub(super) fn give_back(&mut self, untold: Untold) {
        for (part, earlier) in untold.news {
            let later = self.untold.news.remove(&part).unwrap_or_default();
            self.untold.news.insert(part, later.after(earlier));
        }
        let room = MOST_ENDS.saturating_sub(self.untold.ends.len());
        self.untold.ends.extend(untold.ends.into_iter().take(room));
    }

    /// The store said which tenants refuse, and which of them block the app.
    pub(super) fn learn(&mut self, refusing: impl Iterator<Item = (Part, Option<BlockReason>)>) {
        let before = std::mem::take(&mut self.watched);
        self.watched = refusing
            .map(|(part, blocks)| {
                let probed_at = before.get(&part).and_then(|one| one.probed_at);
                (part, Watched { blocks, probed_at })
            })
            .collect();
    }

    /// Whether the background may try a connection of this tenant at `now` (monotonic). While the tenant
    /// blocks the app, one connection that is blocked for the same reason tries for all of them.
    pub(super) fn may_try(&self, app: &AppName, tenant: Option<&str>, status: Status, now: Duration) -> bool {
        let Status::Blocked(reason) = status else { return true };
        if self.watched.is_empty() {
            return true;
        }
        let Some(watched) = self.watched.get(&part(app, tenant)) else { return true };
        watched.blocks != Some(reason)
            || watched.probed_at.is_none_or(|at| now.saturating_sub(at) >= PROBED_EVERY)
    }

    /// The background tries a connection of this tenant now: for all that are blocked for the same reason.
    pub(super) fn tries(&mut self, app: &AppName, tenant: Option<&str>, status: Status, now: Duration) {
        let Status::Blocked(reason) = status else { return };
        if let Some(watched) = self.watched.get_mut(&part(app, tenant))
            && watched.blocks == Some(reason)
        {
            watched.probed_at = Some(now);
        }
    }
}

fn part(app: &AppName, tenant: Option<&str>) -> Part {
    (app.clone(), tenant.unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::account::Account;
    use crate::domain::connection::Attempt;
    use crate::domain::id::ConnectionName;
    use crate::domain::tenant_block::{Blocks, Change};
    use crate::domain::verdict::{AuthorityError, Disposition};

    fn key(number: usize) -> ConnectionKey {
        ConnectionKey {
            app: AppName::parse("outlook").expect("a name"),
            connection: ConnectionName::parse(&format!("user-{number}")).expect("a name"),
        }
    }

    fn profile() -> Profile {
        let (iss, sub, tid) = ("i".into(), "s".into(), Some("t".into()));
        let account = Account { iss, sub, tid, oid: None, username: None };
        Profile::connected(account, vec![], vec![], "cli".into(), Timestamp::default(), None)
    }

    fn blocked() -> Profile {
        let at = Timestamp::default();
        let attempt = Attempt {
            at,
            action: "refresh".into(),
            outcome: "blocked".into(),
            conclusion: "no".into(),
            answer: AuthorityError::default(),
        };
        profile().judged(Disposition::Blocked(BlockReason::PolicyBlocked), attempt, None, at)
    }

    #[test]
    fn what_could_not_be_told_is_told_with_what_comes_later() {
        let now = Timestamp::from_unix_seconds(10);
        let mut watch = TenantWatch::default();
        let refused = |watch: &mut TenantWatch, number| {
            watch.judged(&key(number), &profile(), blocked().status(), &[53003], now);
        };
        refused(&mut watch, 0);
        refused(&mut watch, 1);
        let untold = watch.take();
        assert!(watch.take().is_empty());
        refused(&mut watch, 2);
        watch.give_back(untold);
        let mut blocks = Blocks::default();
        let untold = watch.take();
        let edges: Vec<_> =
            untold.news.iter().flat_map(|(part, news)| blocks.tell(part, news, now)).collect();
        assert!(matches!(&edges[..], [one] if matches!(&one.change, Change::Blocked(_))), "{edges:?}");
        // A success is news only where something refuses.
        watch.worked(&key(0).app, Some("t"), Some(Status::Active));
        assert!(watch.take().is_empty());
        watch.learn(blocks.watched().map(|(_, tenant, reason)| ((key(0).app, tenant.to_owned()), reason)));
        watch.worked(&key(0).app, Some("t"), Some(Status::Active));
        assert_eq!(watch.take().news.len(), 1);
        watch.worked(&key(0).app, Some("t"), Some(blocked().status()));
        let edges: Vec<_> =
            watch.take().news.iter().flat_map(|(part, news)| blocks.tell(part, news, now)).collect();
        assert!(matches!(&edges[..], [one] if matches!(&one.change, Change::Recovered(_))), "{edges:?}");
    }

    #[test]
    fn one_connection_tries_for_a_tenant_that_blocks_all_of_them() {
        let mut watch = TenantWatch::default();
        let app = key(0).app;
        let seconds = Duration::from_secs;
        let may = |watch: &TenantWatch, profile: &Profile, now| {
            watch.may_try(&app, Some("t"), profile.status(), seconds(now))
        };
        let tries = |watch: &mut TenantWatch, profile: &Profile, now| {
            watch.tries(&app, Some("t"), profile.status(), seconds(now));
        };
        assert!(may(&watch, &blocked(), 0), "no tenant blocks");
        watch.learn([((key(0).app, "t".to_owned()), Some(BlockReason::PolicyBlocked))].into_iter());
        assert!(may(&watch, &blocked(), 1) && may(&watch, &blocked(), 1), "to look is not to try");
        tries(&mut watch, &blocked(), 1);
        tries(&mut watch, &profile(), 30); // one that is not blocked does not try for them
        assert!(!may(&watch, &blocked(), 2) && may(&watch, &profile(), 2));
        watch.learn([((key(0).app, "t".to_owned()), Some(BlockReason::PolicyBlocked))].into_iter());
        assert!(!may(&watch, &blocked(), 60) && may(&watch, &blocked(), 61));
        assert!(may(&watch, &blocked(), 62), "a suspicion holds nobody up");
    }
}
