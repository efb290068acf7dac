//! What short-lived records are filed under.
//!
//! Whoever may look at the store sees names: in its backups, by `SCAN`, by `MONITOR`. So nothing that lets
//! its bearer in (a link, a `state`, a one-time code) stands in one: it is filed under its hash. That is kept
//! by type. A [`FiledUnder`] is made of a hash, of a session's id (which it hashes), or of names that are no
//! secret.

use std::iter;

use crate::domain::digest::sha256_hex;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::domain::id::{AppName, ConnectionKey, SessionId};

/// The SHA-256 of something that lets its bearer in: enough to know it again, and to find what it is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretHash(String);

impl SecretHash {
    /// That of this secret.
    pub fn of(secret: &str) -> Self {
        SecretHash(sha256_hex(secret.as_bytes()))
    }

    /// Whether it is that of this secret, in constant time.
    pub fn is_of(&self, secret: &str) -> bool {
        let other = SecretHash::of(secret);
        verify_slices_are_equal(self.0.as_bytes(), other.0.as_bytes()).is_ok()
    }
}

/// The length of every id that was ever made: 32 random bytes in base64url.
const ID_LENGTH: usize = 43;

/// What a short-lived record is filed under, beside its kind.
#[derive(Clone)]
pub struct FiledUnder {
    pub(super) name: String,
    /// What builds before 0.3 filed it under.
    pub(super) before: Option<Zeroizing<String>>,
}

impl FiledUnder {
    /// That of a session: the hash of its id, which is the link. One that a build before 0.3 made is under
    /// the id itself, and stays there. A hash has the form of an id, but not its length: the name of a
    /// session must not open that session.
    pub fn session(id: &SessionId) -> Self {
        let could_be_ours = id.expose().len() == ID_LENGTH;
        let before = could_be_ours.then(|| Zeroizing::new(id.expose().to_owned()));
        FiledUnder { before, ..FiledUnder::hash(&SecretHash::of(id.expose())) }
    }

    /// The name: nothing that lets its bearer in.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// That of what is known by this hash.
    pub fn hash(hash: &SecretHash) -> Self {
        FiledUnder { name: hash.0.clone(), before: None }
    }

    /// That of the one record of its kind.
    pub fn only() -> Self {
        FiledUnder { name: "all".to_owned(), before: None }
    }

    /// That of an app.
    pub fn app(app: &AppName) -> Self {
        FiledUnder { name: app.as_str().to_owned(), before: None }
    }

    /// That of a connection's name, which is no secret: its record has it too.
    pub fn connection(key: &ConnectionKey) -> Self {
        FiledUnder { name: key.to_string(), before: None }
    }

    /// That of one tenant of an app; none is for an app whose authority has none.
    pub fn tenant(app: &AppName, tenant: Option<&str>) -> Self {
        FiledUnder { name: format!("{app}:{}", tenant.unwrap_or_default()), before: None }
    }

    /// Where to look for it, in that order.
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
        // Whoever reads the name has no id.
        let name = SessionId::parse(&filed.name).expect("of an id's form");
        assert!(FiledUnder::session(&name).names().all(|looked_at| looked_at != filed.name));
        let earlier = SessionId::parse(&"a".repeat(ID_LENGTH)).expect("an id");
        assert!(FiledUnder::session(&earlier).names().any(|looked_at| looked_at == earlier.expose()));
        assert_eq!(filed.name, FiledUnder::hash(&SecretHash::of(id.expose())).name);
        assert!(SecretHash::of("code").is_of("code") && !SecretHash::of("code").is_of("codf"));
        // As they stand in sealed records of earlier builds.
        let stored = format!("\"{}\"", sha256_hex(b"code"));
        assert!(serde_json::from_str::<SecretHash>(&stored).is_ok_and(|hash| hash.is_of("code")));
        assert_eq!(serde_json::to_string(&SecretHash::of("code")).expect("JSON"), stored);
    }
}
