//! The kill switch: every connection of an app, a tenant or a caller, as it was at one instant.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::connection::Profile;
use super::id::AppName;
use super::time::Timestamp;

/// What is revoked: connections that fit all that is named, and whose session was started no later than `at`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Of this app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
    /// Of this tenant (`tid`), in whatever case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Connected by this caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// What began after that is not meant. Not the instant of the act, but [`ends_at`] it.
    pub at: Timestamp,
}

/// The clocks of two replicas may be so far apart, and a revocation still means what was started before it.
pub const CLOCKS_APART: Duration = Duration::from_secs(5);

/// The least by which two instants differ.
const NEXT: Duration = Duration::from_millis(1);

/// Up to when a revocation reaches that is made at `now` beside those that are known: over whatever was started before it on a
/// replica whose clock is ahead, and over whatever knew no other revocations than these.
pub fn ends_at(known: &[Revocation], now: Timestamp) -> Timestamp {
    now.plus(CLOCKS_APART).max(begins_at(known, now))
}

/// When something begins that is started at `now` by somebody who knows these revocations: after every one of them, however far
/// the clock of whoever revoked was ahead.
pub fn begins_at(known: &[Revocation], now: Timestamp) -> Timestamp {
    known.iter().map(|revocation| revocation.at.plus(NEXT)).fold(now, Timestamp::max)
}

/// How many targets are kept at the most; the newest count. It is looked through for each token that is handed out, so it
/// stays short.
pub const MOST: usize = 1000;

/// Keeps of each target the newest revocation, for that one means whatever the ones before it meant; and of more than [`MOST`]
/// targets the newest. What is dropped beyond that has been destroyed long since, but for what a backup brings back.
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
    /// Whether it names anything: one that names nothing would be everything.
    pub fn names_something(&self) -> bool {
        self.app.is_some() || self.tenant.is_some() || self.caller.is_some()
    }

    /// Whether this connection is meant.
    pub fn covers(&self, app: &AppName, profile: &Profile) -> bool {
        self.covers_what_began(app, profile.account.tid.as_deref(), &profile.connected_by, profile.began_at())
    }

    /// Whether what `caller` began at that instant is meant: a connection, or a session that is to become one.
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
        let mut profile = Profile::connected(account, vec![], vec![], "sync".into(), at(100), None);
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
            (revocation(None, None, None, 100), false), // never everything by mistake
        ] {
            assert_eq!(revocation.covers(&app, &profile), covered, "{revocation:?}");
        }
        // The session that it came from was started earlier.
        profile.session_started_at = Some(at(90));
        let covered = |seconds| revocation(Some("outlook"), None, None, seconds).covers(&app, &profile);
        assert_eq!([89, 90, 99].map(covered), [false, true, true]);
    }

    /// Three replicas whose clocks are apart by all that they may be.
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
            // Revoked once more, by another clock.
            list.push(revocation(ends_at(&list, again)));
            keep_newest(&mut list);
            assert!(is_meant(&list, late) && is_meant(&list, early), "{revoker:?} {after:?} {again:?}");
            assert!(!is_meant(&list, begins_at(&list, before)));
        }
    }
}
