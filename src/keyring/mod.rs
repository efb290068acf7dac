//! The keyring: the keys that seal records in a store, and keys derived from them for other purposes.
//!
//! May know: `domain`, aws-lc-rs; only `files` knows the file system, `secret_file` and tokio. It knows no
//! store and no sealed content.
//!
//! Invariants:
//! 1. A sealed value opens only in the place it was sealed for: app, connection, field and generation are
//!    authenticated with it (I12).
//! 2. No (key, nonce) pair occurs twice: every seal derives its own key from a random salt (I13).
//! 3. Keys for different purposes are never the same bytes ([`Purpose`]).
//! 4. The daemon never makes a sealing key by itself; a missing or short one stops the start.
//! 5. While the daemon runs, a key leaves the ring only after it was counted zero twice ([`tally`]) and no
//!    caller's API key needs it. No key changes under its name.
//!
//! The one hard problem: replacing a key while every record still opens. Therefore every sealed value names
//! its key, one key seals, and any number of keys open.

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

/// Name of a sealing key. It is part of every sealed value and not secret.
pub type KeyId = String;

/// One key of the ring.
pub struct SealingKey {
    /// Its name.
    pub id: KeyId,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was promoted to seal; `None` for a key that only opens.
    pub promoted_at: Option<Timestamp>,
    material: Zeroizing<[u8; 32]>,
    /// Number of seals and opens.
    uses: AtomicU64,
}

impl SealingKey {
    /// Makes a key from its 256 bits.
    pub fn new(
        id: KeyId,
        created_at: Timestamp,
        promoted_at: Option<Timestamp>,
        material: Zeroizing<[u8; 32]>,
    ) -> Self {
        SealingKey { id, created_at, promoted_at, material, uses: AtomicU64::new(0) }
    }

    /// Returns how often the key has sealed or opened since it was read. It was used whenever this has grown.
    pub fn uses(&self) -> u64 {
        self.uses.load(Ordering::Relaxed)
    }

    fn used(&self) {
        self.uses.fetch_add(1, Ordering::Relaxed);
    }

    /// Derives a key for one purpose.
    pub fn derive(&self, purpose: Purpose) -> Zeroizing<[u8; 32]> {
        derive(&self.material[..], b"", purpose.label())
    }
}

/// Source of sealing keys. A port: a directory of files ([`files`]), or any other place that keeps keys.
pub trait KeySource: Send + Sync {
    /// Returns its place, for errors.
    fn place(&self) -> String;

    /// Returns all keys and the version of this state, or `None` if the version is still `seen`. It is called
    /// every second, so it is cheap when nothing has changed.
    ///
    /// # Errors
    /// The source cannot be reached, or a key cannot be read. The keys read before stay in force.
    fn read<'a>(
        &'a self,
        seen: Option<&'a Version>,
    ) -> BoxFuture<'a, Result<Option<SourceRead>, KeyringError>>;
}

/// Version of a [`KeySource`]'s state, such as its files' metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(pub String);

/// Content of a [`KeySource`].
pub struct SourceRead {
    /// Version before the keys were read, so that a change meanwhile gives another version.
    pub version: Version,
    /// The keys.
    pub keys: Vec<SealingKey>,
}

/// Sealing keys that hashes of live API keys were made with. Each has its API keys: the caller's name and the
/// key's id.
pub type Hashed = BTreeMap<KeyId, BTreeSet<String>>;

/// Purpose of a derived key. Sealing is not one: its keys are derived for each value (`seal`).
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

/// A fault of a keyring. It is the operator's to correct, and each message says how.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// There is no key.
    #[error("the keyring {place} holds no key; make one with `tokenward keyring add`")]
    Empty {
        /// Where it was looked for.
        place: String,
    },
    /// There are keys, but none is promoted.
    #[error(
        "no key of the keyring {place} is promoted, so nothing can be sealed; restore the promoted key's \
         file"
    )]
    NothingPromoted {
        /// Where it was looked for.
        place: String,
    },
    /// A key file cannot be used.
    #[error("sealing key file {file}: {problem}")]
    Key {
        /// The file.
        file: String,
        /// The fault, without the file's content.
        problem: String,
    },
    /// A key file may not be read, or cannot.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// A needed key is gone.
    #[error("the keyring {place} lacks the key {key}, and {why}; restore the file of that key")]
    Missing {
        /// Where it was looked for.
        place: String,
        /// The key's name.
        key: KeyId,
        /// Why it is needed.
        why: Needed,
    },
    /// A key has changed under its name.
    #[error(
        "the key {key} of the keyring {place} is another one than before under the same name; restore its \
         file"
    )]
    Changed {
        /// Where it was looked for.
        place: String,
        /// The key's name.
        key: KeyId,
    },
    /// No key has this name.
    #[error("the keyring {place} has no key {key}; it has {}", ids.join(", "))]
    NoSuchKey {
        /// Where it was looked for.
        place: String,
        /// The name asked for.
        key: KeyId,
        /// The names of the existing keys.
        ids: Vec<KeyId>,
    },
    /// The primary key cannot be removed.
    #[error("the key {key} is the primary of the keyring {place}: promote another one first")]
    Primary {
        /// The keyring's place.
        place: String,
        /// The key's name.
        key: KeyId,
    },
    /// The directory cannot be read or written.
    #[error("{doing} the keyring {place}: {source}")]
    Io {
        /// The activity that failed.
        doing: &'static str,
        /// The path.
        place: String,
        /// The cause.
        source: std::io::Error,
    },
}

impl KeyringError {
    /// Returns true if it differs from `other` only in numbers that change by themselves.
    pub fn is_like(&self, other: &KeyringError) -> bool {
        match (self, other) {
            (KeyringError::Missing { key, why, .. }, KeyringError::Missing { key: other, why: how, .. }) => {
                let is_like = match (why, how) {
                    // The operator acts on these names, so they count.
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

/// Changes made by replacing a ring.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replaced {
    /// New keys.
    pub added: Vec<KeyId>,
    /// Removed keys.
    pub gone: Vec<KeyId>,
    /// The new primary, if it changed.
    pub primary: Option<KeyId>,
}

impl Replaced {
    /// Returns true if nothing changed.
    pub fn is_nothing(&self) -> bool {
        *self == Replaced::default()
    }
}

struct KeySet {
    by_id: BTreeMap<KeyId, Arc<SealingKey>>,
    primary: Arc<SealingKey>,
}

impl Keyring {
    /// Makes a ring of these keys. The one promoted last seals. `place` is for errors only.
    pub fn new(keys: Vec<SealingKey>, place: &str) -> Result<Self, KeyringError> {
        let keys = RwLock::new(Arc::new(KeySet::new(keys, place)?));
        Ok(Keyring { keys, tally: Mutex::default() })
    }

    /// Replaces the keys in force by `keys`, all or none; the error says what to do. `hashed` has the keys
    /// that live API keys' hashes were made with.
    ///
    /// # Errors
    /// The refusals of [`Keyring::new`]; a needed key is missing; a key has changed under its name.
    pub fn replace(
        &self,
        keys: Vec<SealingKey>,
        place: &str,
        hashed: &Hashed,
    ) -> Result<Replaced, KeyringError> {
        let after = KeySet::new(keys, place)?;
        // Locked until the new keys are in force, so that a count comes before or after the change.
        let mut tally = self.lock_tally();
        let before = self.set();
        let may_go = |id: &str| match hashed.get(id) {
            Some(names) => Err(Needed::ApiKeys(names.clone())),
            None => tally.may_go(id),
        };
        let replaced = replaced(&before, &after, may_go, place)?;
        // Records sealed since the last walk are not counted.
        tally.forget_none(&before.primary.id);
        tally.forget_none(&after.primary.id);
        *self.keys.write() = Arc::new(after);
        Ok(replaced)
    }

    /// Takes in the result of a walk over all sealed records.
    pub fn note_walk(&self, walked: &Walked) {
        let mut tally = self.lock_tally();
        let set = self.set();
        tally.note(&set.by_id.keys().cloned().collect::<BTreeSet<_>>(), walked);
    }

    /// Returns whether the counts of records allow a key to be retired.
    ///
    /// # Errors
    /// [`Needed`] gives the reason against it.
    pub fn may_go(&self, id: &str) -> Result<(), Needed> {
        self.lock_tally().may_go(id)
    }

    /// Time passes: old counts allow no key to be retired ([`tally::COUNT_LASTS`]).
    pub fn age_counts(&self, now: std::time::Duration) {
        self.lock_tally().age(now);
    }

    /// Returns the counts so far.
    pub fn tally(&self) -> Tally {
        self.lock_tally().clone()
    }

    fn lock_tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock()
    }

    /// Returns the key that seals.
    pub fn primary(&self) -> Arc<SealingKey> {
        self.set().primary.clone()
    }

    /// Returns a key by its name.
    pub fn key(&self, id: &str) -> Option<Arc<SealingKey>> {
        self.set().by_id.get(id).cloned()
    }

    /// Returns all keys, ordered by name.
    pub fn keys(&self) -> Vec<Arc<SealingKey>> {
        self.set().by_id.values().cloned().collect()
    }

    fn set(&self) -> Arc<KeySet> {
        self.keys.read().clone()
    }
}

/// Checks whether `keys` may replace the current ones, and returns the changes.
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
            // With two keys of one name, a sealed value could not say which one it needs.
            if by_id.insert(id.clone(), Arc::new(key)).is_some() {
                let problem = format!("two files have a key named {id}; remove one of them");
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
        // Keys that replace a and b, of which b seals; and the expected error.
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
        // The primary is never retired by being counted.
        ring.note_walk(&walk(0, 500));
        ring.note_walk(&walk(0, 900));
        assert!(replace(&ring, vec![key("c", Some(3))]).is_err());
        // Neither is a key that sealed between two walks.
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
