//! The kill switch: every connection of an app, a tenant or a caller, as it was at one instant.

use serde::{Deserialize, Serialize};

use super::connection::Profile;
use super::id::AppName;
use super::time::Timestamp;

/// What is revoked: connections that fit all that is named, and whose user signed in no later than `at`.
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
    /// When. Who signs in after that is not meant.
    pub at: Timestamp,
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
        let Profile { account, connected_by, connected_at, .. } = profile;
        self.covers_what_began(app, account.tid.as_deref(), connected_by, *connected_at)
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
            (revocation(None, None, None, 100), false), // never everything by mistake
        ] {
            assert_eq!(revocation.covers(&app, &profile), covered, "{revocation:?}");
        }
    }
}
