//! The kill switch: it revokes every connection of an app, a tenant or a caller that was begun by an instant.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::connection::Profile;
use super::id::AppName;
use super::time::Timestamp;

/// Revokes the connections that match every member that is set, and whose session started no later than `at`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Only connections of this app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
    /// Only connections of this tenant (`tid`), in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Only connections made by this caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// The last instant that is revoked; sessions that start later are not. See [`ends_at`]: this is not the
    /// instant of the act.
    pub at: Timestamp,
}

/// Most difference between the clocks of two replicas under which a revocation still covers everything that
/// was started before it.
pub const CLOCKS_APART: Duration = Duration::from_secs(5);

/// The smallest difference between two instants.
const NEXT: Duration = Duration::from_millis(1);

/// Returns the `at` of a revocation made at `now`, given the known ones. It covers everything started earlier
/// on a replica whose clock is ahead, and everything started with knowledge of no more than these
/// revocations.
pub fn ends_at(known: &[Revocation], now: Timestamp) -> Timestamp {
    now.plus(CLOCKS_APART).max(begins_at(known, now))
}

/// Returns the start to record for a session begun at `now` by a replica that knows these revocations. It
/// lies after all of them, however far the revoking replica's clock was ahead.
pub fn begins_at(known: &[Revocation], now: Timestamp) -> Timestamp {
    known.iter().map(|revocation| revocation.at.plus(NEXT)).fold(now, Timestamp::max)
}

/// Most targets that are kept; the newest win. The list is searched for each token that is handed out, so it
/// stays short.
pub const MOST: usize = 1000;

/// Keeps the newest revocation of each target, which covers all earlier ones, and of more than [`MOST`]
/// targets the newest. Connections of dropped targets have been destroyed long ago; only a backup can bring
/// them back.
pub fn keep_newest(list: &mut Vec<Revocation>) {
    list.sort_by_key(|revocation| revocation.at);
    let mut later = std::collections::HashSet::new();
    let mut kept: Vec<Revocation> = Vec::new();
    for revocation in list.drain(..).rev() {
        let Revocation { app, tenant, caller, .. } = &revocation;
        let tenant = tenant.as_ref().map(|tenant| tenant.to_ascii_lowercase());
        if kept.len() < MOST && later.insert((app.clone(), tenant, caller.clone())) {
            kept.push(revocation);
        }
    }
    kept.reverse();
    *list = kept;
}

impl Revocation {
    /// Returns true if it names a target. Without one it would revoke everything.
    pub fn names_something(&self) -> bool {
        self.app.is_some() || self.tenant.is_some() || self.caller.is_some()
    }

    /// Returns true if it revokes this connection.
    pub fn covers(&self, app: &AppName, profile: &Profile) -> bool {
        self.covers_what_began(
            app,
            profile.account().tid.as_deref(),
            profile.connected_by(),
            profile.began_at(),
        )
    }

    /// Returns true if it revokes what `caller` began at that instant: a connection, or a session that will
    /// become one.
    pub fn covers_what_began(
        &self,
        app: &AppName,
        tenant: Option<&str>,
        caller: &str,
        began_at: Timestamp,
    ) -> bool {
        self.names_something()
            && began_at <= self.at
            && self.app.as_ref().is_none_or(|named| named == app)
            && self
                .tenant
                .as_deref()
                .is_none_or(|named| tenant.is_some_and(|tenant| tenant.eq_ignore_ascii_case(named)))
            && self.caller.as_deref().is_none_or(|named| caller == named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::account::Account;

    #[test]
    fn of_one_target_the_newest_is_kept_and_no_other_is_pushed_out_by_repetition() {
        let revocation = |tenant: &str, at: i64| Revocation {
            app: None,
            tenant: Some(tenant.to_owned()),
            caller: None,
            at: Timestamp::from_unix_seconds(at),
        };
        let mut list = vec![revocation("first", 0)];
        list.extend((1..5000).map(|at| revocation(if at % 2 == 0 { "Again" } else { "again" }, at)));
        keep_newest(&mut list);
        assert_eq!(list, [revocation("first", 0), revocation("again", 4999)]);
        list.extend((0..1000).map(|number| revocation(&number.to_string(), 5000 + number)));
        keep_newest(&mut list);
        assert_eq!((list.len(), list[0].tenant.as_deref()), (MOST, Some("0")));
    }

    #[test]
    fn it_covers_what_fits_all_that_is_named_and_was_there_then() {
        let app = AppName::parse("outlook").expect("name");
        let account =
            Account { iss: "i".into(), sub: "s".into(), tid: Some("T1".into()), oid: None, username: None };
        let at = Timestamp::from_unix_seconds;
        let profile = Profile::connected(account, vec![], vec![], "sync".into(), at(100), None);
        let revocation =
            |app: Option<&str>, tenant: Option<&str>, caller: Option<&str>, seconds| Revocation {
                app: app.map(|app| AppName::parse(app).expect("name")),
                tenant: tenant.map(str::to_owned),
                caller: caller.map(str::to_owned),
                at: at(seconds),
            };
        for (revocation, covered) in [
            (revocation(Some("outlook"), None, None, 100), true),
            (revocation(Some("outlook"), None, None, 99), false), // signed in after it
            (revocation(Some("other"), None, None, 100), false),
            (revocation(None, Some("t1"), None, 100), true),
            (revocation(None, Some("t2"), None, 100), false),
            (revocation(None, None, Some("sync"), 100), true),
            (revocation(None, None, Some("other"), 100), false),
            (revocation(Some("outlook"), Some("t1"), Some("sync"), 100), true),
            (revocation(Some("outlook"), Some("t2"), Some("sync"), 100), false),
            (revocation(None, None, None, 100), false), // never everything, by mistake
        ] {
            assert_eq!(revocation.covers(&app, &profile), covered, "{revocation:?}");
        }
        // Its session was started earlier.
        let profile = profile.of_session(at(90));
        let covered = |seconds| revocation(Some("outlook"), None, None, seconds).covers(&app, &profile);
        assert_eq!([89, 90, 99].map(covered), [false, true, true]);
    }

    /// Three replicas whose clocks differ by the full amount allowed.
    #[test]
    fn what_was_started_before_a_revocation_is_meant_and_what_knew_of_it_is_not_whatever_the_clocks_say() {
        let revocation = |at| Revocation { app: None, tenant: None, caller: Some("sync".into()), at };
        let app = AppName::parse("outlook").expect("name");
        let clocks = [0, 2500, 5000].map(Timestamp::from_unix_millis);
        for number in 0..81 {
            let [before, revoker, after, again] = [1, 3, 9, 27].map(|place| clocks[number / place % 3]);
            let mut list = Vec::new();
            let is_meant = |list: &[Revocation], began| {
                list.iter().any(|one: &Revocation| one.covers_what_began(&app, None, "sync", began))
            };
            let early = begins_at(&list, before);
            list.push(revocation(ends_at(&list, revoker)));
            assert!(is_meant(&list, early), "{before:?} {revoker:?}");
            let late = begins_at(&list, after);
            assert!(!is_meant(&list, late), "{revoker:?} {after:?}");
            // Revoked once more, with another clock.
            list.push(revocation(ends_at(&list, again)));
            keep_newest(&mut list);
            assert!(is_meant(&list, late) && is_meant(&list, early), "{revoker:?} {after:?} {again:?}");
            assert!(!is_meant(&list, begins_at(&list, before)));
        }
    }
}
