//! The keyring: the keys that seal what goes into a store, and the keys derived from them for other purposes.
//!
//! May know: `domain`, the file system (only in `files`), aws-lc-rs. Knows nothing of stores or of what is sealed.
//!
//! Invariants:
//! 1. A sealed value opens only in the very place it was sealed for: app, connection, field and generation are
//!    authenticated with it (I12).
//! 2. No (key, nonce) pair twice: every seal derives its own key from a random salt (I13).
//! 3. Keys for different purposes are never the same bytes ([`Purpose`]).
//! 4. The daemon never makes a sealing key by itself; a missing or short one stops the start.
//!
//! The one hard problem: replacing a key while everything still opens. So every sealed value names its key, one
//! key seals, and any number still open.

pub mod files;
pub mod seal;

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::Zeroizing;

use crate::domain::time::Timestamp;

/// A sealing key's name: part of every sealed value, never secret.
pub type KeyId = String;

/// One key of the ring.
pub struct SealingKey {
    /// Its name.
    pub id: KeyId,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was told to seal; none for a key that only opens.
    pub promoted_at: Option<Timestamp>,
    material: Zeroizing<[u8; 32]>,
}

impl SealingKey {
    /// A key from its 256 bits.
    pub fn new(
        id: KeyId,
        created_at: Timestamp,
        promoted_at: Option<Timestamp>,
        material: Zeroizing<[u8; 32]>,
    ) -> Self {
        SealingKey { id, created_at, promoted_at, material }
    }

    /// A key for one purpose, derived from this one.
    pub fn derive(&self, purpose: Purpose) -> Zeroizing<[u8; 32]> {
        derive(&self.material[..], b"", purpose.label())
    }
}

/// What a key is derived for. Sealing is not listed: its keys are derived per value (`seal`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Keyed hashes of callers' API keys.
    ApiKeyHash,
}

impl Purpose {
    fn label(self) -> &'static [u8] {
        match self {
            Purpose::ApiKeyHash => b"tokenward/api-key-hash/v1",
        }
    }
}

struct Len32;

impl KeyType for Len32 {
    fn len(&self) -> usize {
        32
    }
}

/// HKDF-SHA256 (RFC 5869) to 256 bits.
fn derive(material: &[u8], salt: &[u8], label: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    Salt::new(HKDF_SHA256, salt)
        .extract(material)
        .expand(&[label], Len32)
        .and_then(|okm| okm.fill(&mut key[..]))
        .expect("32 bytes are within HKDF-SHA256's bound of 255 * 32");
    key
}

/// What is wrong with a keyring. Whose fault: the operator's; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// No key at all.
    #[error("the keyring {place} holds no key; make one with `tokenward keyring add`")]
    Empty {
        /// Where it was looked for.
        place: String,
    },
    /// Keys, but none that was told to seal.
    #[error(
        "no key of the keyring {place} is promoted, so nothing can be sealed; restore the promoted key's file"
    )]
    NothingPromoted {
        /// Where it was looked for.
        place: String,
    },
    /// A key file that cannot be used.
    #[error("sealing key file {file}: {problem}")]
    Key {
        /// The file.
        file: String,
        /// What is wrong with it, never its content.
        problem: String,
    },
    /// The directory cannot be read or written.
    #[error("{doing} the keyring {place}: {source}")]
    Io {
        /// What we were doing.
        doing: &'static str,
        /// Where.
        place: String,
        /// Why.
        source: std::io::Error,
    },
}

/// The keys in force: one seals, all open.
pub struct Keyring {
    keys: RwLock<Arc<KeySet>>,
}

struct KeySet {
    by_id: BTreeMap<KeyId, Arc<SealingKey>>,
    primary: Arc<SealingKey>,
}

impl Keyring {
    /// A ring of these keys. The one promoted last seals. `place` is for the error only.
    pub fn new(keys: Vec<SealingKey>, place: &str) -> Result<Self, KeyringError> {
        Ok(Keyring { keys: RwLock::new(Arc::new(KeySet::new(keys, place)?)) })
    }

    /// The key that seals.
    pub fn primary(&self) -> Arc<SealingKey> {
        self.set().primary.clone()
    }

    /// A key by its name.
    pub fn key(&self, id: &str) -> Option<Arc<SealingKey>> {
        self.set().by_id.get(id).cloned()
    }

    /// Every key, by name.
    pub fn keys(&self) -> Vec<Arc<SealingKey>> {
        self.set().by_id.values().cloned().collect()
    }

    fn set(&self) -> Arc<KeySet> {
        self.keys.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

impl KeySet {
    fn new(keys: Vec<SealingKey>, place: &str) -> Result<Self, KeyringError> {
        if keys.is_empty() {
            return Err(KeyringError::Empty { place: place.to_owned() });
        }
        let by_id: BTreeMap<KeyId, Arc<SealingKey>> =
            keys.into_iter().map(|key| (key.id.clone(), Arc::new(key))).collect();
        let primary = by_id
            .values()
            .filter(|key| key.promoted_at.is_some())
            .max_by_key(|key| (key.promoted_at, key.id.clone()))
            .cloned()
            .ok_or_else(|| KeyringError::NothingPromoted { place: place.to_owned() })?;
        Ok(KeySet { by_id, primary })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str, promoted: Option<i64>) -> SealingKey {
        SealingKey::new(
            id.into(),
            Timestamp::from_unix_seconds(0),
            promoted.map(Timestamp::from_unix_seconds),
            Zeroizing::new([7; 32]),
        )
    }

    #[test]
    fn the_key_promoted_last_seals() {
        let ring = Keyring::new(vec![key("a", Some(1)), key("b", Some(2)), key("c", None)], "here").ok();
        assert_eq!(ring.expect("a ring").primary().id, "b");
    }

    #[test]
    fn an_empty_or_unpromoted_ring_is_refused_and_says_what_to_do() {
        let error = Keyring::new(vec![], "/keys").err().expect("refused").to_string();
        assert!(error.contains("/keys") && error.contains("keyring add"), "{error}");
        assert!(matches!(
            Keyring::new(vec![key("a", None)], "/keys").err(),
            Some(KeyringError::NothingPromoted { .. })
        ));
    }
}
