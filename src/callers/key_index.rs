//! The API keys in force. They are read from the callers' key files, read again when these change, and
//! compared with presented keys in a time that reveals nothing.

use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::api_key::{KeyHash, KeyHasher, PresentedKey};
use super::key_file::{self, KeyFile, KeyFileError, KeyInfo, MOST_LIVE_KEYS, Stamp};
use super::{AuthenticationFailure, Caller, CallersError, KeyFileProblem, KeyUse};
use crate::domain::id::CallerName;
use crate::domain::time::Timestamp;
use crate::keyring::{KeyId, Keyring};
use crate::secret_file::SecretReader;

/// Least time between two checks of the files: a retired key is refused after this long.
const CHECK_EVERY_MILLIS: u64 = 1000;
/// Least time between two checks for an unknown key: a new key works as soon as its file is written, and
/// wrong keys cost at most a hundred checks a second.
const CHECK_AFTER_MISS_MILLIS: u64 = 10;

pub(super) struct KeyIndex {
    keyring: Arc<Keyring>,
    secrets: SecretReader,
    current: RwLock<Arc<Keys>>,
    /// When a request last found that a check is due, in milliseconds since the Unix epoch.
    asked_at: AtomicI64,
    /// When the latest completed check began, likewise.
    checked_at: AtomicI64,
    /// Locked while the files are checked, and never on a thread that serves requests.
    watched: Mutex<Watched>,
}

struct Watched {
    files: Vec<WatchedFile>,
    /// The sealing keys at the last check: another one allows keyed hashes to be checked that could not be
    /// before.
    sealing_keys: Vec<KeyId>,
}

struct WatchedFile {
    caller: CallerName,
    path: PathBuf,
    /// Stamp of the content that was last read or refused; the error if there was none.
    seen: Result<Option<Stamp>, String>,
    /// Stamp of the file when it was first found missing or blank, and when. The earlier content stays in
    /// force.
    blank: Option<(Option<Stamp>, i64)>,
    /// Why the content is not in force; the earlier content is.
    problem: Option<String>,
    keys: Vec<Arc<Key>>,
}

struct Key {
    info: KeyInfo,
    hash: KeyHash,
    /// In milliseconds since the Unix epoch, or [`NEVER`].
    last_used_at: AtomicI64,
}

const NEVER: i64 = i64::MIN;

impl Key {
    /// Notes its use. Returns false if it is not live.
    fn used(&self, now: Timestamp) -> bool {
        let is_live = self.info.is_live(now);
        // (Written once a millisecond at most: many may use it at one time.)
        if is_live && self.last_used_at.load(Ordering::Relaxed) < now.unix_millis() {
            self.last_used_at.fetch_max(now.unix_millis(), Ordering::Relaxed);
        }
        is_live
    }
}

/// The key that was presented last on a connection, which most likely comes again. Its text is not kept.
pub(super) struct Remembered {
    /// SHA-256 of it.
    hash: KeyHash,
    /// All keys as they were then. No others are the same.
    keys: Arc<Keys>,
    key: Arc<Key>,
    caller: Arc<Caller>,
}

/// The data that an authentication uses; replaced as a whole.
struct Keys {
    /// All keys, including those that cannot be checked.
    all: Vec<(CallerName, Arc<Key>)>,
    /// SHA-256, and one for each sealing key that lines from before 0.2 name.
    hashers: Vec<KeyHasher>,
    by_caller: HashMap<CallerName, Vec<Slot>>,
    /// Compared when the caller is unknown: as many slots as every caller has.
    nobody: Vec<Slot>,
}

/// One comparison. Every caller has the same number of them; those beyond its keys are empty and compared all
/// the same.
struct Slot {
    hasher: usize,
    hash: KeyHash,
    key: Option<Arc<Key>>,
}

impl KeyIndex {
    /// Reads every file once. Here, unlike later, an unreadable file is an error.
    pub(super) fn new(
        files: Vec<(CallerName, PathBuf)>,
        keyring: Arc<Keyring>,
        secrets: SecretReader,
        now: Timestamp,
    ) -> Result<Self, Vec<CallersError>> {
        let mut watched = Watched { files: Vec::new(), sealing_keys: sealing_keys(&keyring) };
        let mut errors = Vec::new();
        for (caller, path) in files {
            let mut file =
                WatchedFile { caller, path, seen: Ok(None), blank: None, problem: None, keys: Vec::new() };
            match key_file::read(&file.path, &secrets) {
                Ok(content) => {
                    file.blank = content.is_blank().then_some((content.stamp, now.unix_millis()));
                    file.take(content);
                    watched.files.push(file);
                }
                Err(source) => errors.push(CallersError::KeyFile { caller: file.caller, source }),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(KeyIndex {
            current: RwLock::new(Arc::new(Keys::new(&watched.files, &keyring))),
            keyring,
            secrets,
            asked_at: AtomicI64::new(now.unix_millis()),
            checked_at: AtomicI64::new(now.unix_millis()),
            watched: Mutex::new(watched),
        })
    }

    /// Returns the caller of this live key from what is known, without reading a file.
    ///
    /// # Errors
    /// [`AuthenticationFailure::Unknown`] and [`AuthenticationFailure::Expired`].
    pub(super) fn known(
        &self,
        presented: &PresentedKey<'_>,
        now: Timestamp,
    ) -> Result<CallerName, AuthenticationFailure> {
        let (caller, key) = self.current().find(presented).ok_or(AuthenticationFailure::Unknown)?;
        if key.used(now) { Ok(caller) } else { Err(AuthenticationFailure::Expired) }
    }

    /// The id of a key that is in force, live or not.
    pub(super) fn id_of(&self, presented: &PresentedKey<'_>) -> Option<String> {
        self.current().find(presented).map(|(_, key)| key.info.id.clone())
    }

    /// Whether a caller has a live key of this id.
    pub(super) fn is_live(&self, caller: &CallerName, id: &str, now: Timestamp) -> bool {
        let is_it = |of: &CallerName, key: &Key| of == caller && key.info.id == id && key.info.is_live(now);
        self.current().all.iter().any(|(of, key)| is_it(of, key))
    }

    /// Notes the use of a key that was not presented itself. Returns false if a caller has no live key of
    /// this id.
    pub(super) fn use_it(&self, caller: &CallerName, id: &str, now: Timestamp) -> bool {
        let keys = self.current();
        let mut of_id = keys.all.iter().filter(|(of, key)| of == caller && key.info.id == id);
        of_id.any(|(_, key)| key.used(now))
    }

    pub(super) fn uses(&self) -> Vec<KeyUse> {
        // (This avoids `watched`, which may be locked by a check that hangs.)
        let used = |key: &Key| Some(key.last_used_at.load(Ordering::Relaxed)).filter(|at| *at != NEVER);
        let of_key = |(caller, key): &(CallerName, Arc<Key>)| KeyUse {
            caller: caller.clone(),
            key: key.info.clone(),
            last_used_at: used(key).map(Timestamp::from_unix_millis),
        };
        self.current().all.iter().map(of_key).collect()
    }

    pub(super) fn problems(&self) -> Vec<KeyFileProblem> {
        let problem = |file: &WatchedFile| {
            Some(KeyFileProblem {
                caller: file.caller.clone(),
                file: file.path.clone(),
                problem: file.problem.clone()?,
            })
        };
        self.lock().files.iter().filter_map(problem).collect()
    }

    /// Takes over, from the index before a reload, the last uses of the same keys, and the keys of files that
    /// are missing or blank just now: such a file is checked twice before it counts, reload or not.
    pub(super) fn take_over(&self, before: &KeyIndex) {
        if let Some(before) = before.watched.try_lock() {
            self.keep_blank(&before);
        }
        let uses = before.uses();
        for (caller, key) in &self.current().all {
            let before = uses.iter().find(|before| before.caller == *caller && before.key == key.info);
            if let Some(at) = before.and_then(|before| before.last_used_at) {
                key.last_used_at.fetch_max(at.unix_millis(), Ordering::Relaxed);
            }
        }
    }

    fn keep_blank(&self, before: &Watched) {
        let mut watched = self.lock();
        let mut changed = false;
        for file in watched.files.iter_mut().filter(|file| file.blank.is_some()) {
            let is_same = |old: &&WatchedFile| old.caller == file.caller && old.path == file.path;
            if let Some(old) = before.files.iter().find(is_same).filter(|old| !old.keys.is_empty()) {
                (file.keys, file.seen) = (old.keys.clone(), old.seen.clone());
                changed = true;
            }
        }
        if changed {
            let keys = Arc::new(Keys::new(&watched.files, &self.keyring));
            *self.current.write() = keys;
        }
    }

    /// Returns true while the files are due for a check that nobody has begun.
    pub(super) fn is_nearly_due(&self, now: Timestamp) -> bool {
        // Also if the wall clock was set back.
        now.unix_millis().abs_diff(self.asked_at.load(Ordering::Relaxed)) >= CHECK_EVERY_MILLIS
    }

    /// Returns true, to one request, if the files are due for a check; the others go on with the known keys.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        let (is_due, before) = (self.is_nearly_due(now), self.asked_at.load(Ordering::Relaxed));
        let now = now.unix_millis();
        is_due && self.asked_at.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Returns true if a check is due because of an unknown key.
    pub(super) fn is_due_after_miss(&self, now: Timestamp) -> bool {
        let checked_at = self.checked_at.load(Ordering::Relaxed);
        now.unix_millis().abs_diff(checked_at) >= CHECK_AFTER_MISS_MILLIS
    }

    /// Checks the files. It blocks while one of them does not answer.
    pub(super) fn check(&self, now: Timestamp) {
        let mut watched = self.lock();
        let (now, sealing_keys) = (now.unix_millis(), sealing_keys(&self.keyring));
        let mut changed = watched.sealing_keys != sealing_keys;
        watched.sealing_keys = sealing_keys;
        for file in &mut watched.files {
            changed |= file.check(&self.secrets, now);
        }
        if changed {
            let keys = Arc::new(Keys::new(&watched.files, &self.keyring));
            *self.current.write() = keys;
        }
        self.checked_at.store(now, Ordering::Relaxed);
    }

    /// Behaves like a file that does not answer.
    #[cfg(test)]
    pub(super) fn hang(&self) -> impl Drop + '_ {
        self.lock()
    }

    /// Returns the caller of this live key from what is known, like [`KeyIndex::known`], and remembers it.
    /// While the same is presented and the keys are the same, it is not read, and compared with one hash.
    pub(super) fn known_again(
        &self,
        text: &str,
        remembered: &mut Option<Remembered>,
        now: Timestamp,
        caller: impl FnOnce(&CallerName) -> Option<Arc<Caller>>,
    ) -> Option<Arc<Caller>> {
        let hash = KeyHasher::Sha256.hash_text(text);
        let is_same = |known: &&Remembered| {
            verify_slices_are_equal(&known.hash.0, &hash.0).is_ok()
                && Arc::ptr_eq(&known.keys, &self.current.read())
        };
        let known = remembered.as_ref().filter(is_same);
        if let Some(known) = known {
            return known.key.used(now).then(|| Arc::clone(&known.caller));
        }
        let keys = self.current();
        let (name, key) = keys.find(&PresentedKey::parse(text)?)?;
        let caller = caller(&name)?;
        if !key.used(now) {
            return None;
        }
        *remembered = Some(Remembered { hash, keys, key, caller: Arc::clone(&caller) });
        Some(caller)
    }

    fn current(&self) -> Arc<Keys> {
        self.current.read().clone()
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, Watched> {
        self.watched.lock()
    }
}

impl WatchedFile {
    /// Reads the file if it has changed, and returns true if its keys changed. An unreadable file changes
    /// nothing and is reported once.
    fn check(&mut self, secrets: &SecretReader, now: i64) -> bool {
        let seen = key_file::stamp(&self.path).map_err(|error| error.to_string());
        if seen == self.seen {
            self.blank = None;
            return false;
        }
        match key_file::read(&self.path, secrets) {
            Ok(file) if file.is_blank() && !self.keys.is_empty() && !self.is_blank_still(file.stamp, now) => {
                false
            }
            Ok(file) => {
                self.take(file);
                (self.problem, self.blank) = (None, None);
                tracing::info!(
                    caller = %self.caller, file = %self.path.display(), keys = self.keys.len(),
                    "API keys read again"
                );
                true
            }
            Err(error) => {
                let problem = error.to_string();
                // Other causes than the content (too many open files, say) deserve another try, changed or
                // not.
                let is_io = matches!(error, KeyFileError::Io { .. });
                self.seen = if is_io { Err(problem.clone()) } else { seen };
                self.blank = None;
                if self.problem.as_ref() != Some(&problem) {
                    tracing::warn!(
                        caller = %self.caller, problem,
                        "API keys were not read again; the ones read before stay in force"
                    );
                }
                self.problem = Some(problem);
                false
            }
        }
    }

    /// Returns true if a file has been missing or blank for long enough. Until then it may be in the middle
    /// of a copy, or its mount may come back, and that must not lock everybody out.
    fn is_blank_still(&mut self, stamp: Option<Stamp>, now: i64) -> bool {
        match self.blank {
            Some((before, since)) if before == stamp => now.abs_diff(since) >= CHECK_EVERY_MILLIS,
            _ => {
                self.blank = Some((stamp, now));
                false
            }
        }
    }

    /// Takes over the file's keys, and keeps the last uses of known ones.
    fn take(&mut self, file: KeyFile) {
        self.seen = Ok(file.stamp);
        let before = std::mem::take(&mut self.keys);
        let known = |info: &KeyInfo, hash: KeyHash| {
            before.iter().find(|key| key.info == *info && key.hash == hash).cloned()
        };
        self.keys = file
            .keys
            .into_iter()
            .map(|stored| {
                known(&stored.info, stored.hash).unwrap_or_else(|| {
                    let last_used_at = AtomicI64::new(NEVER);
                    Arc::new(Key { info: stored.info, hash: stored.hash, last_used_at })
                })
            })
            .collect();
    }
}

impl Keys {
    fn new(files: &[WatchedFile], keyring: &Keyring) -> Self {
        let mut hashers = vec![KeyHasher::Sha256];
        let mut hasher_of: HashMap<&str, Option<usize>> = HashMap::new();
        let mut by_caller: HashMap<CallerName, Vec<Slot>> = HashMap::new();
        let of_file = |file: &WatchedFile| {
            file.keys.iter().map(|key| (file.caller.clone(), key.clone())).collect::<Vec<_>>()
        };
        let all = files.iter().flat_map(of_file).collect();
        for file in files {
            let slots = by_caller.entry(file.caller.clone()).or_default();
            for key in &file.keys {
                let sealing_key = key.info.sealing_key.as_deref();
                let hasher = match sealing_key {
                    None => Some(0),
                    Some(sealing_key) => *hasher_of.entry(sealing_key).or_insert_with(|| {
                        hashers.push(KeyHasher::keyed(&*keyring.key(sealing_key)?));
                        Some(hashers.len() - 1)
                    }),
                };
                match hasher {
                    Some(hasher) => slots.push(Slot { hasher, hash: key.hash, key: Some(key.clone()) }),
                    None => tracing::warn!(
                        caller = %file.caller, key = key.info.id, sealing_key,
                        "an API key cannot be checked: the keyring lacks the sealing key it was made with"
                    ),
                }
            }
        }
        let most = by_caller.values().map(Vec::len).max().unwrap_or(0).max(MOST_LIVE_KEYS);
        let empty = || Slot { hasher: 0, hash: KeyHash([0; 32]), key: None };
        let mut nobody = Vec::new();
        nobody.resize_with(most, empty);
        by_caller.values_mut().for_each(|slots| slots.resize_with(most, empty));
        Keys { all, hashers, by_caller, nobody }
    }

    /// Returns the presented key. An unknown caller, an unknown key and a wrong one cost the same: it
    /// computes every hash that any key could have and compares every slot.
    fn find(&self, presented: &PresentedKey<'_>) -> Option<(CallerName, Arc<Key>)> {
        let mut hashers = self.hashers.iter().map(|hasher| hasher.hash_presented(presented));
        // (Where there is no other hash, as in most installations, nothing is allocated.)
        let (first, others) = (hashers.next(), hashers.collect::<Vec<_>>());
        let hash = |at: usize| if at == 0 { first.as_ref() } else { others.get(at - 1) };
        let known = self.by_caller.get_key_value(presented.unverified_caller());
        let mut found = None;
        for slot in known.map_or(&self.nobody, |(_, slots)| slots) {
            let equal =
                hash(slot.hasher).is_some_and(|hash| verify_slices_are_equal(&hash.0, &slot.hash.0).is_ok());
            if equal {
                found = slot.key.as_ref();
            }
        }
        known.zip(found).map(|((caller, _), key)| (caller.clone(), Arc::clone(key)))
    }
}

fn sealing_keys(keyring: &Keyring) -> Vec<KeyId> {
    keyring.keys().iter().map(|key| key.id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::callers::api_key::ApiKey;
    use crate::keyring::SealingKey;
    use crate::testkit::SeededRandom;

    fn ring() -> Keyring {
        let key = |id: &str, promoted_at| {
            SealingKey::new(id.into(), at(0), Some(at(promoted_at)), Zeroizing::new([promoted_at as u8; 32]))
        };
        Keyring::new(vec![key("k1", 1), key("k2", 2)], "here").expect("a ring")
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    fn name(name: &str) -> CallerName {
        CallerName::parse(name).expect("a caller name")
    }

    fn file(caller: &str, keys: &[(&ApiKey, &str)]) -> WatchedFile {
        let ring = ring();
        let keys = keys.iter().enumerate().map(|(at_line, (key, sealing_key))| {
            let hash = match ring.key(sealing_key) {
                Some(sealing_key) => KeyHasher::keyed(&sealing_key).hash(key),
                None if sealing_key.is_empty() => KeyHasher::Sha256.hash(key),
                None => KeyHash([1; 32]),
            };
            let info = KeyInfo {
                id: at_line.to_string(),
                created_at: at(0),
                expires_at: at(100),
                sealing_key: (!sealing_key.is_empty()).then(|| (*sealing_key).into()),
            };
            Arc::new(Key { info, hash, last_used_at: AtomicI64::new(NEVER) })
        });
        let keys = keys.collect();
        WatchedFile {
            caller: name(caller),
            path: "x".into(),
            seen: Ok(None),
            blank: None,
            problem: None,
            keys,
        }
    }

    #[test]
    fn every_look_up_compares_equally_many_and_finds_only_the_right_key() {
        let random = SeededRandom::new(1);
        let [one, two, three, other, stranger] =
            ["a", "a", "a", "b", "c"].map(|caller| ApiKey::generate(&name(caller), &random));
        let files = [
            file("a", &[(&one, "k1"), (&two, "k2"), (&three, "")]),
            file("b", &[(&other, "k2"), (&stranger, "k9")]),
            file("d", &[]),
        ];
        let keys = Keys::new(&files, &ring());
        assert_eq!(keys.hashers.len(), 3, "SHA-256, and one for each sealing key in use");
        assert!(keys.by_caller.values().all(|slots| slots.len() == 3) && keys.nobody.len() == 3);
        let found = |key: &ApiKey| {
            let presented = PresentedKey::parse(key.expose()).expect("our own key");
            keys.find(&presented).map(|(caller, key)| (caller.to_string(), key.info.id.clone()))
        };
        for (key, caller, id) in [(&one, "a", "0"), (&two, "a", "1"), (&three, "a", "2"), (&other, "b", "0")]
        {
            assert_eq!(found(key), Some((caller.to_owned(), id.to_owned())));
        }
        // Of a caller without keys, of none that is known, and of one that has others.
        let [without, unknown, another] =
            ["d", "e", "a"].map(|caller| ApiKey::generate(&name(caller), &random));
        for key in [&stranger, &without, &unknown, &another] {
            assert_eq!(found(key), None);
        }
        assert_eq!(Keys::new(&[], &ring()).hashers.len(), 1, "a look for a key costs a hash even then");
        assert_eq!(Keys::new(&[file("a", &[(&one, "")])], &ring()).hashers.len(), 1, "and no more than that");
    }
}
