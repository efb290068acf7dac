//! What a search looks at in a stored profile, read without the rest: of a million connections it shows few.

use std::borrow::Cow;

use serde::Deserialize;

use super::Status;

/// A part of a profile, in the bytes that it was read from.
#[derive(Debug, Deserialize)]
pub struct Glimpse<'p> {
    status: Status,
    #[serde(borrow)]
    account: Account<'p>,
    #[serde(borrow, default)]
    labels: Vec<Text<'p>>,
}

#[derive(Debug, Deserialize)]
struct Account<'p> {
    #[serde(borrow)]
    sub: Text<'p>,
    #[serde(borrow, default)]
    tid: Option<Text<'p>>,
    #[serde(borrow, default)]
    oid: Option<Text<'p>>,
    #[serde(borrow, default)]
    username: Option<Text<'p>>,
}

#[derive(Debug, Deserialize)]
struct Text<'p>(#[serde(borrow)] Cow<'p, str>);

impl Glimpse<'_> {
    /// Status and reason.
    pub fn status(&self) -> Status {
        self.status
    }

    /// The account's subject.
    pub fn sub(&self) -> &str {
        &self.account.sub.0
    }

    /// The account's tenant.
    pub fn tid(&self) -> Option<&str> {
        self.account.tid.as_ref().map(|text| &*text.0)
    }

    /// The account's id in its tenant.
    pub fn oid(&self) -> Option<&str> {
        self.account.oid.as_ref().map(|text| &*text.0)
    }

    /// The account's name for people.
    pub fn username(&self) -> Option<&str> {
        self.account.username.as_ref().map(|text| &*text.0)
    }

    /// The labels.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.labels.iter().map(|label| &*label.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::account::Account;
    use crate::domain::connection::{Attempt, Profile};
    use crate::domain::time::Timestamp;
    use crate::domain::verdict::{AuthorityError, BlockReason, Disposition, GrantFate, ReauthReason};

    #[test]
    fn a_glimpse_says_what_the_whole_profile_says() {
        let now = Timestamp::from_unix_seconds(7);
        let account = |tid: Option<&str>, username: Option<&str>| Account {
            iss: "https://issuer".into(),
            sub: "s\"\\ü".into(),
            tid: tid.map(str::to_owned),
            oid: tid.map(str::to_owned),
            username: username.map(str::to_owned),
        };
        let connected = |account, labels: &[&str]| {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            Profile::connected(account, vec![], vec![], "caller".into(), now, None).labelled(Some(labels))
        };
        let judged = |disposition| {
            let attempt = Attempt {
                at: now,
                action: "refresh".into(),
                outcome: "no".into(),
                conclusion: "no".into(),
                answer: AuthorityError::default(),
            };
            connected(account(None, None), &[]).judged(disposition, attempt, None, now)
        };
        let refused = judged(Disposition::Reauthorize(ReauthReason::GrantRevoked, GrantFate::Dead));
        for profile in [
            connected(account(Some("T-1"), Some("alice\n\u{1f600}@contoso.com")), &["a", "b=1"]),
            connected(account(None, None), &[]),
            judged(Disposition::Blocked(BlockReason::PolicyBlocked)),
            refused.clone().paused(),
            refused.clone().paused().resumed(),
            refused,
            connected(account(None, Some("")), &[]).paused(),
        ] {
            let bytes = serde_json::to_vec(&profile).expect("JSON");
            let glimpse: Glimpse<'_> = serde_json::from_slice(&bytes).expect("a glimpse");
            let account = profile.account();
            assert_eq!(glimpse.status(), profile.status());
            assert_eq!(glimpse.sub(), account.sub);
            assert_eq!(glimpse.tid(), account.tid.as_deref());
            assert_eq!(glimpse.oid(), account.oid.as_deref());
            assert_eq!(glimpse.username(), account.username.as_deref());
            assert_eq!(glimpse.labels().collect::<Vec<_>>(), profile.labels());
        }
    }
}
