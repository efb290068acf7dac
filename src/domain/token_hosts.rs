//! Record of the token hosts that each secret may be sent to. Pure.
//!
//! A secret belongs to the host that it was first sent to. If a configuration or a discovery document later
//! names another host, by mistake or by an attack, the secret is not sent there until an operator confirms
//! the new host.
//!
//! The one hard problem: delaying nobody when nothing is wrong. A new secret may go to whatever host its
//! first use names; only a secret that was sent somewhere before is held back.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::credential::Fingerprint;
use super::time::Timestamp;

/// Most entries that are remembered: more than there are secrets and issuers at a time. The oldest go first.
const MOST: usize = 256;

/// A secret that must not reach another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confined<'a> {
    /// A client credential that its reader can use, identified by its content.
    Credential(&'a Fingerprint),
    /// The grants of an issuer.
    Grants {
        /// The issuer; at Entra its origin, since each tenant is an issuer there.
        issuer: &'a str,
        /// True if the present authority gave them: grants of another authority may go to no host of this
        /// one.
        is_of_authority: bool,
    },
}

/// The known hosts. The record only grows, so that two replicas' records can be merged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenHosts {
    #[serde(default)]
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    hosts: BTreeSet<String>,
    /// When the last of the hosts was added.
    at: Timestamp,
}

impl TokenHosts {
    /// Returns whether `secret` of `app` may be sent to `host`, or the hosts that it is for. A secret that
    /// was sent nowhere yet may, and belongs to that host from then on.
    pub fn admit(
        &mut self,
        app: &str,
        secret: Confined<'_>,
        host: &str,
        now: Timestamp,
    ) -> Result<(), BTreeSet<String>> {
        let key = key_of(secret);
        if self.is_for(&key, host) || self.is_for(&key_of_app(app), host) {
            return Ok(());
        }
        let begins = !matches!(secret, Confined::Grants { is_of_authority: false, .. });
        match self.entries.get(&key) {
            Some(entry) => Err(entry.hosts.clone()),
            None if begins => {
                self.add(key, host, now);
                Ok(())
            }
            None => Err(BTreeSet::new()),
        }
    }

    /// Returns true if `secret` of `app` belongs to other hosts than this one.
    pub fn holds_back(&self, app: &str, secret: Confined<'_>, host: &str) -> bool {
        let key = key_of(secret);
        self.entries.contains_key(&key) && !self.is_for(&key, host) && !self.is_for(&key_of_app(app), host)
    }

    fn is_for(&self, key: &str, host: &str) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.hosts.contains(host))
    }

    /// Records an operator's confirmation that an app's secrets go to `host`.
    pub fn confirm(&mut self, app: &str, host: &str, now: Timestamp) {
        self.add(key_of_app(app), host, now);
    }

    /// Merges the records of two replicas.
    #[must_use]
    pub fn merged(&self, other: &TokenHosts) -> TokenHosts {
        let mut merged = self.clone();
        for (key, entry) in &other.entries {
            let mine = merged.entries.entry(key.clone()).or_default();
            mine.hosts.extend(entry.hosts.iter().cloned());
            mine.at = mine.at.max(entry.at);
        }
        merged.trim();
        merged
    }

    fn add(&mut self, key: String, host: &str, now: Timestamp) {
        let entry = self.entries.entry(key).or_default();
        entry.hosts.insert(host.to_owned());
        entry.at = now;
        self.trim();
    }

    fn trim(&mut self) {
        while self.entries.len() > MOST {
            let oldest = self.entries.iter().min_by_key(|(key, entry)| (entry.at, *key));
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else { return };
            self.entries.remove(&oldest);
        }
    }
}

fn key_of(secret: Confined<'_>) -> String {
    match secret {
        Confined::Credential(fingerprint) => {
            format!("credential:{}", hex::encode(fingerprint))
        }
        Confined::Grants { issuer, .. } => format!("grants:{issuer}"),
    }
}

/// Key of all entries of an app.
fn key_of_app(app: &str) -> String {
    format!("app:{app}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: Confined<'static> = Confined::Credential(&[1; 32]);
    const OTHER: Confined<'static> = Confined::Credential(&[2; 32]);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(1_800_000_000 + seconds)
    }

    fn grants(issuer: &str, is_of_authority: bool) -> Confined<'_> {
        Confined::Grants { issuer, is_of_authority }
    }

    #[test]
    fn a_secret_is_for_its_first_host_until_an_operator_says_more() {
        let mut known = TokenHosts::default();
        let mut admit = |app, secret, host| known.admit(app, secret, host, at(0));
        assert_eq!(admit("a", SECRET, "one"), Ok(()));
        assert_eq!(admit("a", SECRET, "one"), Ok(()));
        let held = Err(BTreeSet::from(["one".to_owned()]));
        assert_eq!(admit("a", SECRET, "two"), held);
        assert_eq!(admit("b", SECRET, "two"), held, "under another app's name it is the same secret");
        assert_eq!(admit("a", OTHER, "two"), Ok(()), "another secret is new");
        assert!(known.holds_back("a", SECRET, "two") && !known.holds_back("a", SECRET, "one"));
        assert!(!known.holds_back("a", Confined::Credential(&[3; 32]), "two"));
        known.confirm("a", "two", at(1));
        assert!(!known.holds_back("a", SECRET, "two") && known.holds_back("b", SECRET, "two"));
        assert_eq!(known.admit("a", SECRET, "two", at(1)), Ok(()));
        assert_eq!(known.admit("a", SECRET, "one", at(1)), Ok(()), "the way back is open");
        assert_eq!(known.admit("a", SECRET, "three", at(1)), held);
        assert_eq!(known.admit("b", SECRET, "two", at(1)), held, "it was said of the one app");
    }

    #[test]
    fn grants_are_for_their_issuer_s_host() {
        let mut known = TokenHosts::default();
        assert_eq!(
            known.admit("a", grants("i1", false), "two", at(0)),
            Err(BTreeSet::new()),
            "never seen, and not its"
        );
        assert_eq!(known.admit("a", grants("i1", true), "one", at(0)), Ok(()));
        assert!(known.admit("a", grants("i1", false), "two", at(0)).is_err());
        assert!(
            known.admit("a", grants("i1", true), "two", at(0)).is_err(),
            "the document names another host"
        );
        assert_eq!(known.admit("a", grants("i2", true), "two", at(0)), Ok(()));
        known.confirm("a", "two", at(1));
        assert_eq!(known.admit("a", grants("i1", false), "two", at(1)), Ok(()));
    }

    #[test]
    fn what_replicas_know_is_joined_and_bounded() {
        let (mut one, mut two) = (TokenHosts::default(), TokenHosts::default());
        one.admit("a", SECRET, "one", at(0)).expect("new");
        two.admit("a", OTHER, "two", at(1)).expect("new");
        two.confirm("a", "three", at(2));
        let both = one.merged(&two);
        assert_eq!(both, two.merged(&one));
        assert_eq!((both.merged(&one), both.merged(&both)), (both.clone(), both.clone()));
        let mut many = both;
        for number in 0..MOST {
            let issuer = number.to_string();
            many.admit("a", grants(&issuer, true), "one", at(10)).expect("new");
        }
        assert_eq!(many.entries.len(), MOST);
        assert_eq!(many.merged(&two), many, "what was dropped does not come back for ever");
    }
}
