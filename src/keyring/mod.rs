//! The keyring: the keys that seal what goes into a store, and the keys derived from them for other purposes.
//!
//! May know: `domain`, aws-lc-rs; in `files` alone the file system, `secret_file` and tokio. Knows nothing of stores or of what is sealed.
//!
//! Invariants:
//! 1. A sealed value opens only in the very place it was sealed for: app, connection, field and generation are
//!    authenticated with it (I12).
//! 2. No (key, nonce) pair twice: every seal derives its own key from a random salt (I13).
//! 3. Keys for different purposes are never the same bytes ([`Purpose`]).
//! 4. The daemon never makes a sealing key by itself; a missing or short one stops the start.
//! 5. While the daemon runs, a key leaves the ring only when it was counted zero twice ([`tally`]) and no caller's API key needs it,
//!    and no key becomes another one under the same name.
//!
//! The one hard problem: replacing a key while everything still opens. So every sealed value names its key, one
//! key seals, and any number still open.

pub mod files;
#[cfg(any(test, feature = "testkit"))]
pub mod properties;
pub mod seal;
pub mod tally;

use parking_lot::{Mutex, MutexGuard, RwLock};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::Zeroizing;

use self::tally::{Needed, Tally, Walked};
use crate::domain::task::BoxFuture;
use crate::domain::time::Timestamp;
use crate::secret_file::SecretFileError;

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
    /// How often it sealed or opened something.
    uses: AtomicU64,
}

impl SealingKey {
    /// A key from its 256 bits.
    pub fn new(
        id: KeyId,
        created_at: Timestamp,
        promoted_at: Option<Timestamp>,
        material: Zeroizing<[u8; 32]>,
    ) -> Self {
        SealingKey { id, created_at, promoted_at, material, uses: AtomicU64::new(0) }
    }

    /// How often it sealed or opened something since it was read: whoever wants to know when it was used last looks whether this grows.
    pub fn uses(&self) -> u64 {
        self.uses.load(Ordering::Relaxed)
    }

    fn used(&self) {
        self.uses.fetch_add(1, Ordering::Relaxed);
    }

    /// A key for one purpose, derived from this one.
    pub fn derive(&self, purpose: Purpose) -> Zeroizing<[u8; 32]> {
        derive(&self.material[..], b"", purpose.label())
    }
}

/// Where sealing keys come from. A port: a directory of files ([`files`]), and whatever else keeps keys.
pub trait KeySource: Send + Sync {
    /// Where that is, for errors.
    fn place(&self) -> String;

    /// Every key there is, and what tells this state from another; none where it still is the one that was `seen`. For a timer of a
    /// second: cheap where nothing has changed.
    ///
    /// # Errors
    /// It cannot be reached, or a key cannot be read. What was read before stays in force.
    fn read<'a>(
        &'a self,
        seen: Option<&'a Version>,
    ) -> BoxFuture<'a, Result<Option<SourceRead>, KeyringError>>;
}

/// What tells one state of a [`KeySource`] from another: looks of files, a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(pub String);

/// What a [`KeySource`] holds.
pub struct SourceRead {
    /// Which state this is; as it was before the keys were read, so that what changes meanwhile is another one.
    pub version: Version,
    /// The keys.
    pub keys: Vec<SealingKey>,
}

/// Sealing keys that hashes of live API keys were made with, each with those API keys: the caller's name and the key's id.
pub type Hashed = BTreeMap<KeyId, BTreeSet<String>>;

/// What a key is derived for. Sealing is not listed: its keys are derived per value (`seal`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Keyed hashes of callers' API keys, in lines from before 0.2.
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
    /// A key file that may not be read, or cannot.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// A key that is gone, and must not be.
    #[error("the keyring {place} lacks the key {key}, and {why}; restore the file of that key")]
    Missing {
        /// Where it was looked for.
        place: String,
        /// Which.
        key: KeyId,
        /// Why it must not be gone.
        why: Needed,
    },
    /// A key that is another one than before.
    #[error(
        "the key {key} of the keyring {place} is another one than before under the same name; restore its file"
    )]
    Changed {
        /// Where it was looked for.
        place: String,
        /// Which.
        key: KeyId,
    },
    /// No key has this name.
    #[error("the keyring {place} has no key {key}; it has {}", ids.join(", "))]
    NoSuchKey {
        /// Where it was looked for.
        place: String,
        /// The name asked for.
        key: KeyId,
        /// Those that it has.
        ids: Vec<KeyId>,
    },
    /// The key that seals is not taken away.
    #[error("the key {key} is the primary of the keyring {place}: promote another one first")]
    Primary {
        /// Where it is.
        place: String,
        /// Which.
        key: KeyId,
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

impl KeyringError {
    /// Whether it says the same as another, but for numbers that change by themselves.
    pub fn is_like(&self, other: &KeyringError) -> bool {
        match (self, other) {
            (KeyringError::Missing { key, why, .. }, KeyringError::Missing { key: other, why: how, .. }) => {
                let is_like = match (why, how) {
                    // Which ones is what is to be done.
                    (Needed::ApiKeys(_), Needed::ApiKeys(_)) => why == how,
                    _ => std::mem::discriminant(why) == std::mem::discriminant(how),
                };
                key == other && is_like
            }
            _ => self.to_string() == other.to_string(),
        }
    }
}

/// The keys in force: one seals, all open.
pub struct Keyring {
    keys: RwLock<Arc<KeySet>>,
    tally: Mutex<Tally>,
}

/// What became of a ring that was replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replaced {
    /// Keys that there were not before.
    pub added: Vec<KeyId>,
    /// Keys that there are no more.
    pub gone: Vec<KeyId>,
    /// The key that seals from now on, if that was another one.
    pub primary: Option<KeyId>,
}

impl Replaced {
    /// Whether everything is as it was.
    pub fn is_nothing(&self) -> bool {
        *self == Replaced::default()
    }
}

struct KeySet {
    by_id: BTreeMap<KeyId, Arc<SealingKey>>,
    primary: Arc<SealingKey>,
}

impl Keyring {
    /// A ring of these keys. The one promoted last seals. `place` is for the error only.
    pub fn new(keys: Vec<SealingKey>, place: &str) -> Result<Self, KeyringError> {
        let keys = RwLock::new(Arc::new(KeySet::new(keys, place)?));
        Ok(Keyring { keys, tally: Mutex::default() })
    }

    /// Puts other keys in the place of those in force, all of them or, with an error that says what to do, none. `hashed` are the keys
    /// that live API keys' hashes were made with.
    ///
    /// # Errors
    /// What [`Keyring::new`] refuses; a key that is gone before it may go; one that is another under its name.
    pub fn replace(
        &self,
        keys: Vec<SealingKey>,
        place: &str,
        hashed: &Hashed,
    ) -> Result<Replaced, KeyringError> {
        let after = KeySet::new(keys, place)?;
        // Locked until the new ones are in force: who counts meanwhile does so before or after.
        let mut tally = self.lock_tally();
        let before = self.set();
        let may_go = |id: &str| match hashed.get(id) {
            Some(names) => Err(Needed::ApiKeys(names.clone())),
            None => tally.may_go(id),
        };
        let replaced = replaced(&before, &after, may_go, place)?;
        // Between two walks nobody counts what they seal.
        tally.forget_none(&before.primary.id);
        tally.forget_none(&after.primary.id);
        *self.keys.write() = Arc::new(after);
        Ok(replaced)
    }

    /// Takes up what a walk over everything that is sealed has found.
    pub fn note_walk(&self, walked: &Walked) {
        let mut tally = self.lock_tally();
        let set = self.set();
        tally.note(&set.by_id.keys().cloned().collect::<BTreeSet<_>>(), walked);
    }

    /// Whether a key may go as far as records are counted.
    ///
    /// # Errors
    /// [`Needed`] says why not.
    pub fn may_go(&self, id: &str) -> Result<(), Needed> {
        self.lock_tally().may_go(id)
    }

    /// What was counted so far.
    pub fn tally(&self) -> Tally {
        self.lock_tally().clone()
    }

    fn lock_tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock()
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
        self.keys.read().clone()
    }
}

/// Whether these keys may take the place of those, and what changes with it.
fn replaced(
    before: &KeySet,
    after: &KeySet,
    may_go: impl Fn(&str) -> Result<(), Needed>,
    place: &str,
) -> Result<Replaced, KeyringError> {
    let mut replaced = Replaced::default();
    for (id, key) in &before.by_id {
        match after.by_id.get(id) {
            Some(other) if *other.material == *key.material => {}
            Some(_) => return Err(KeyringError::Changed { place: place.to_owned(), key: id.clone() }),
            None => {
                may_go(id).map_err(|why| KeyringError::Missing {
                    place: place.to_owned(),
                    key: id.clone(),
                    why,
                })?;
                replaced.gone.push(id.clone());
            }
        }
    }
    replaced.added = after.by_id.keys().filter(|id| !before.by_id.contains_key(*id)).cloned().collect();
    replaced.primary = (before.primary.id != after.primary.id).then(|| after.primary.id.clone());
    Ok(replaced)
}

impl KeySet {
    fn new(keys: Vec<SealingKey>, place: &str) -> Result<Self, KeyringError> {
        if keys.is_empty() {
            return Err(KeyringError::Empty { place: place.to_owned() });
        }
        let mut by_id: BTreeMap<KeyId, Arc<SealingKey>> = BTreeMap::new();
        for key in keys {
            let id = key.id.clone();
            // Which of two that share a name had sealed what names it could not be told.
            if by_id.insert(id.clone(), Arc::new(key)).is_some() {
                let problem = format!("two files hold a key of the name {id}; take one of them away");
                return Err(KeyringError::Key { file: place.to_owned(), problem });
            }
        }
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

    fn replace(ring: &Keyring, keys: Vec<SealingKey>) -> Result<Replaced, KeyringError> {
        ring.replace(keys, "here", &Hashed::new())
    }

    #[test]
    fn the_key_promoted_last_seals() {
        let ring = Keyring::new(vec![key("a", Some(1)), key("b", Some(2)), key("c", None)], "here").ok();
        assert_eq!(ring.expect("a ring").primary().id, "b");
    }

    #[test]
    fn a_ring_is_replaced_whole_or_not_at_all() {
        fn other(id: &str) -> SealingKey {
            let born = Timestamp::from_unix_seconds(0);
            SealingKey::new(id.into(), born, Some(born), Zeroizing::new([8; 32]))
        }
        type Keys = fn() -> Vec<SealingKey>;
        // What is to take the place of a and b, of which b seals; and what is wrong with it.
        let cases: [(Keys, &str); 10] = [
            (|| vec![], "holds no key"),
            (|| vec![key("a", None), key("b", None)], "promoted"),
            (|| vec![key("a", Some(1))], "lacks the key b"),
            (|| vec![key("b", Some(2))], "lacks the key a, and it was not counted"),
            (|| vec![key("a", Some(1)), other("b")], "key b of the keyring here is another one"),
            (|| vec![key("a", Some(1)), key("b", Some(2)), key("b", Some(2))], "two files"),
            (|| vec![key("a", Some(1)), key("b", Some(2))], ""),
            (|| vec![key("a", Some(1)), key("b", Some(2)), key("c", None)], "+c"),
            (|| vec![key("a", Some(1)), key("b", Some(2)), key("c", Some(3))], "+c primary c"),
            (|| vec![key("a", Some(3)), key("b", Some(2))], "primary a"),
        ];
        for (keys, expected) in cases {
            let ring = Keyring::new(vec![key("a", Some(1)), key("b", Some(2))], "here").expect("a ring");
            let names = |ring: &Keyring| ring.keys().iter().map(|key| key.id.clone()).collect::<Vec<_>>();
            match ring.replace(keys(), "here", &Hashed::new()) {
                Ok(replaced) => {
                    let added = replaced.added.iter().map(|id| format!("+{id}"));
                    let primary = replaced.primary.iter().map(|id| format!("primary {id}"));
                    assert_eq!(added.chain(primary).collect::<Vec<_>>().join(" "), expected);
                    assert_eq!(ring.primary().id, replaced.primary.unwrap_or("b".into()));
                }
                Err(error) => {
                    assert!(!expected.is_empty() && error.to_string().contains(expected), "{error}");
                    assert_eq!(
                        (names(&ring), ring.primary().id.as_str()),
                        (vec!["a".into(), "b".into()], "b")
                    );
                }
            }
        }
    }

    #[test]
    fn a_key_goes_when_it_was_counted_zero_twice_and_not_before() {
        let ring = Keyring::new(vec![key("a", Some(1)), key("b", Some(2))], "here").expect("a ring");
        let walk = |records: u64, began: u64| Walked {
            records: [("a".to_owned(), records)].into_iter().filter(|(_, count)| *count > 0).collect(),
            passing: BTreeMap::new(),
            sealing: BTreeSet::from(["b".to_owned()]),
            began: std::time::Duration::from_secs(began),
            ended: std::time::Duration::from_secs(began),
            at: Timestamp::from_unix_seconds(0),
        };
        let without = || replace(&ring, vec![key("b", Some(2))]);
        for (records, began, problem) in
            [(7, 0, "7 records are still sealed"), (0, 1, "counted zero only once")]
        {
            ring.note_walk(&walk(records, began));
            let error = without().expect_err("refused");
            assert!(error.to_string().contains(problem), "{error}");
            assert!(ring.key("a").is_some());
        }
        ring.note_walk(&walk(0, 121));
        assert_eq!(without().expect("may go").gone, ["a"]);
        assert!(ring.key("a").is_none());
        // The one that seals never goes by being counted.
        ring.note_walk(&walk(0, 500));
        ring.note_walk(&walk(0, 900));
        assert!(replace(&ring, vec![key("c", Some(3))]).is_err());
        // Nor does one that sealed between two walks.
        replace(&ring, vec![key("a", Some(1)), key("b", Some(2))]).expect("added again");
        ring.note_walk(&walk(0, 1000));
        ring.note_walk(&walk(0, 2000));
        replace(&ring, vec![key("a", Some(3)), key("b", Some(2))]).expect("and back");
        replace(&ring, vec![key("a", Some(3)), key("b", Some(4))]).expect("and back");
        let error = replace(&ring, vec![key("b", Some(4))]).expect_err("refused");
        assert!(error.to_string().contains("was not counted"), "{error}");
    }

    #[test]
    fn a_key_that_api_keys_need_stays_whatever_was_counted() {
        let ring = Keyring::new(vec![key("a", Some(1)), key("b", Some(2))], "here").expect("a ring");
        for began in [0, 500] {
            let (began, at) = (std::time::Duration::from_secs(began), Timestamp::from_unix_seconds(0));
            let (records, passing) = (BTreeMap::new(), BTreeMap::new());
            ring.note_walk(&Walked { records, passing, sealing: BTreeSet::new(), began, ended: began, at });
        }
        assert_eq!(ring.may_go("a"), Ok(()));
        let refused = |names: &[&str]| {
            let names: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let hashed = Hashed::from([("a".to_owned(), names), ("not there".to_owned(), BTreeSet::new())]);
            ring.replace(vec![key("b", Some(2))], "here", &hashed).expect_err("refused")
        };
        let (both, one) = (refused(&["cli 1", "mail-sync 2"]), refused(&["mail-sync 2"]));
        let said = both.to_string();
        assert!(
            said.contains("lacks the key a") && said.contains("replace cli 1, mail-sync 2 first"),
            "{said}"
        );
        assert!(!one.to_string().contains("cli 1"), "{one}");
        assert!(both.is_like(&refused(&["cli 1", "mail-sync 2"])), "said once");
        assert!(!both.is_like(&one), "what is left is said anew");
        assert_eq!(replace(&ring, vec![key("b", Some(2))]).expect("may go").gone, ["a"]);
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
