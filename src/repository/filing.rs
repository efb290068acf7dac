//! Ids of pending records in the store.
//!
//! Backups, `SCAN` and `MONITOR` show the names in a store to more people than its contents. So no name
//! contains a bearer secret (a link, a `state`, a one-time code): the record's id is the secret's hash. Types
//! enforce that: a [`FiledUnder`] is made of a hash, of a session's id (which it hashes), or of names that
//! are no secret.

use std::iter;

use crate::domain::digest::sha256_hex;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::domain::id::{AppName, ConnectionKey, SessionId};
use crate::keyring::KeyId;

/// The SHA-256 of a bearer secret: enough to recognise it, and to find its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretHash(String);

impl SecretHash {
    /// The hash of this secret.
    pub fn of(secret: &str) -> Self {
        SecretHash(sha256_hex(secret.as_bytes()))
    }

    /// Reads a hash back from its 64 hexadecimal digits.
    pub fn parse(digits: &str) -> Option<Self> {
        let is_one = digits.len() == 64 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        is_one.then(|| SecretHash(digits.to_owned()))
    }

    /// Its digits.
    pub fn digits(&self) -> &str {
        &self.0
    }

    /// Whether it is the hash of this secret, in constant time.
    pub fn is_of(&self, secret: &str) -> bool {
        let other = SecretHash::of(secret);
        verify_slices_are_equal(self.0.as_bytes(), other.0.as_bytes()).is_ok()
    }
}

/// The length of every session id that was ever made: 32 random bytes in base64url.
const ID_LENGTH: usize = 43;

/// The id of a pending record, beside its kind.
#[derive(Clone)]
pub struct FiledUnder {
    pub(super) name: String,
    /// The id that builds before 0.3 used.
    pub(super) before: Option<Zeroizing<String>>,
}

impl FiledUnder {
    /// The id for a session: the hash of its own id, which is the link. A session that a build before 0.3
    /// made is under its own id and stays there. A hash has the form of such an id, but another length: so
    /// the name of a session does not open that session.
    pub fn session(id: &SessionId) -> Self {
        let could_be_ours = id.expose().len() == ID_LENGTH;
        let before = could_be_ours.then(|| Zeroizing::new(id.expose().to_owned()));
        FiledUnder { before, ..FiledUnder::hash(&SecretHash::of(id.expose())) }
    }

    /// The name in the store. It contains no bearer secret.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id for a record that is known by this hash.
    pub fn hash(hash: &SecretHash) -> Self {
        FiledUnder { name: hash.0.clone(), before: None }
    }

    /// The id for the only record of its kind.
    pub fn only() -> Self {
        FiledUnder { name: "all".to_owned(), before: None }
    }

    /// The id for what a sealing key sealed.
    pub fn sealing_key(id: &KeyId) -> Self {
        FiledUnder { name: id.clone(), before: None }
    }

    /// The id for a webhook, by its name in the configuration.
    pub fn webhook(name: &str) -> Self {
        FiledUnder { name: name.to_owned(), before: None }
    }

    /// The id for an app in a tenant. No name of an app has a space.
    pub fn app_in_tenant(app: &AppName, tenant: &str) -> Self {
        FiledUnder { name: format!("{app} {tenant}"), before: None }
    }

    /// The id for an app.
    pub fn app(app: &AppName) -> Self {
        FiledUnder { name: app.as_str().to_owned(), before: None }
    }

    /// The id for a connection's name. The name is no secret: the key of its record shows it too.
    pub fn connection(key: &ConnectionKey) -> Self {
        FiledUnder { name: key.to_string(), before: None }
    }

    /// The id for one tenant of an app; `None` for an app whose authority has no tenants.
    pub fn tenant(app: &AppName, tenant: Option<&str>) -> Self {
        FiledUnder { name: format!("{app}:{}", tenant.unwrap_or_default()), before: None }
    }

    /// The names under which to search, in that order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        iter::once(self.name.as_str()).chain(self.before.as_ref().map(|before| before.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lets_its_bearer_in_is_known_again_and_is_not_in_a_name() {
        let id = SessionId::parse("a-session-that-is-a-link").expect("an id");
        let filed = FiledUnder::session(&id);
        assert!(!filed.name.contains(id.expose()) && filed.name.len() == 64);
        // A reader of the name does not learn the id.
        let name = SessionId::parse(&filed.name).expect("of an id's form");
        assert!(FiledUnder::session(&name).names().all(|looked_at| looked_at != filed.name));
        let earlier = SessionId::parse(&"a".repeat(ID_LENGTH)).expect("an id");
        assert!(FiledUnder::session(&earlier).names().any(|looked_at| looked_at == earlier.expose()));
        assert_eq!(filed.name, FiledUnder::hash(&SecretHash::of(id.expose())).name);
        assert!(SecretHash::of("code").is_of("code") && !SecretHash::of("code").is_of("codf"));
        assert_eq!(SecretHash::parse(SecretHash::of("code").digits()), Some(SecretHash::of("code")));
        assert_eq!((SecretHash::parse("code"), SecretHash::parse(&"G".repeat(64))), (None, None));
        // As they stand in sealed records of earlier builds.
        let stored = format!("\"{}\"", sha256_hex(b"code"));
        assert!(serde_json::from_str::<SecretHash>(&stored).is_ok_and(|hash| hash.is_of("code")));
        assert_eq!(serde_json::to_string(&SecretHash::of("code")).expect("JSON"), stored);
    }
}
