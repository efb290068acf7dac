//! A caller's key file. It has one line for each key, `{id} {created_at} {expires_at} sha256 {hex hash}`, and
//! at most two live keys, so that one can replace the other. It holds hashes and no keys. Comments stay where
//! they are.
//!
//! Lines from before 0.2 have a sealing key's id in place of the word `sha256`, and a hash keyed from it. (A
//! daemon from before 0.2 therefore reads a new line as one whose sealing key it lacks; it reads every other
//! line as before.)

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};

use super::api_key::{ApiKey, KeyHash, KeyHasher};
use crate::domain::id::CallerName;
use crate::domain::random::{Random, random_bytes};
use crate::domain::time::Timestamp;
use crate::keyring::KeyId;
use crate::secret_file::{Belongs, SecretFileError, SecretReader};

/// Default life of a key: a year, so that every key is replaced now and then.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(365 * 86_400);
/// Most live keys: one in use and its successor. That is enough to replace a key without a gap, and few
/// enough to keep track of.
pub const MOST_LIVE_KEYS: usize = 2;
/// Largest file accepted: a key's line has some 150 bytes.
const LARGEST_FILE: u64 = 64 * 1024;
/// Marks a line whose hash is not keyed. (No sealing key has this name: they are named by the day they were
/// made.)
const UNKEYED: &str = "sha256";
const HEADER: &str = "# API keys of one tokenward caller: id, born, expires, the key's SHA-256.\n\
                      # Written by `tokenward callers add-key` and `retire-key`.\n";

/// Public facts about a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its name within the file; not secret.
    pub id: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// The instant from which it is refused.
    pub expires_at: Timestamp,
    /// The sealing key that its hash was made with, in a line from before 0.2. The API key stops working
    /// without it.
    pub sealing_key: Option<KeyId>,
}

impl KeyInfo {
    /// Returns true if it is accepted at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        now < self.expires_at
    }
}

/// A failure with a key file. Each message names the file and says what to do, and none shows a line's
/// content.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read or written.
    #[error("{doing} the key file {file}: {source}")]
    Io {
        /// The activity that failed.
        doing: &'static str,
        /// The file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Other users than the daemon's may read or write it.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// The path is a directory or a device, or the file is too large.
    #[error("{file} is no key file: it must be a regular file of at most {LARGEST_FILE} bytes of text")]
    NotAKeyFile {
        /// The file.
        file: PathBuf,
    },
    /// A line cannot be read.
    #[error("key file {file}, line {line}: {problem}; restore the line, or delete it and add a new key")]
    Line {
        /// The file.
        file: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Two keys are live already.
    #[error(
        "the key file {file} has two live keys already ({}); retire one with `tokenward callers retire-key` \
         first",
        ids.join(", ")
    )]
    Full {
        /// The file.
        file: PathBuf,
        /// The live keys' ids.
        ids: Vec<String>,
    },
    /// No key has this id.
    #[error("the key file {file} has no key `{id}`; it has \
        {}", if ids.is_empty() { "none".to_owned() } else { ids.join(", ") })]
    NoSuchKey {
        /// The file.
        file: PathBuf,
        /// The id asked for.
        id: String,
        /// The ids in the file.
        ids: Vec<String>,
    },
}

/// Makes a new key for `caller` and adds it to the file at `path`. The file is created if missing; its
/// directory is not.
///
/// # Errors
/// [`KeyFileError::Full`] if two keys are live; otherwise the errors of [`list`], and failures to write,
/// after which the file is unchanged.
pub fn add(
    path: &Path,
    caller: &CallerName,
    random: &dyn Random,
    now: Timestamp,
    lifetime: Duration,
) -> Result<(ApiKey, KeyInfo), KeyFileError> {
    let mut file = Locked::open(path)?;
    let live: Vec<String> =
        file.keys.iter().filter(|key| key.info.is_live(now)).map(|key| key.info.id.clone()).collect();
    if live.len() >= MOST_LIVE_KEYS {
        return Err(KeyFileError::Full { file: path.to_owned(), ids: live });
    }
    let id = loop {
        let id = format!("{}-{}", &now.rfc3339()[..10], hex::encode(random_bytes::<3>(random)));
        if !file.keys.iter().any(|key| key.info.id == id) {
            break id;
        }
    };
    let key = ApiKey::generate(caller, random);
    let hash = KeyHasher::Sha256.hash(&key);
    // Whole seconds, as in the file.
    let created_at = Timestamp::from_unix_seconds(now.unix_seconds());
    let expires_at = Timestamp::from_unix_seconds(now.plus(lifetime).unix_seconds().min(LATEST_EXPIRY));
    let info = KeyInfo { id, created_at, expires_at, sealing_key: None };
    if file.text.is_empty() {
        file.text.push_str(HEADER);
    } else if !file.text.ends_with('\n') {
        file.text.push('\n');
    }
    let stored = StoredKey { info, hash, line: 0 };
    file.text.push_str(&line(&stored));
    file.write()?;
    Ok((key, stored.info))
}

/// Formats a key's line.
pub(super) fn line(StoredKey { info, hash, .. }: &StoredKey) -> String {
    let method = info.sealing_key.as_deref().unwrap_or(UNKEYED);
    let (created_at, expires_at) = (info.created_at.rfc3339(), info.expires_at.rfc3339());
    format!("{} {created_at} {expires_at} {method} {}\n", info.id, hex::encode(hash.0))
}

/// 9999-12-31T23:59:59Z, the last instant that RFC 3339 can write.
const LATEST_EXPIRY: i64 = 253_402_300_799;

/// Removes a key's line. The key is refused from the next check of the file on, a second later at most.
///
/// # Errors
/// [`KeyFileError::NoSuchKey`]; otherwise the errors of [`list`], and failures to write, after which the file
/// is unchanged.
pub fn retire(path: &Path, id: &str) -> Result<KeyInfo, KeyFileError> {
    let mut file = Locked::open(path)?;
    let Some(retired) = file.keys.iter().find(|key| key.info.id == id) else {
        let ids = file.keys.iter().map(|key| key.info.id.clone()).collect();
        return Err(KeyFileError::NoSuchKey { file: path.to_owned(), id: id.to_owned(), ids });
    };
    let info = retired.info.clone();
    let gone = retired.line;
    file.text = file
        .text
        .split_inclusive('\n')
        .enumerate()
        .filter(|(at, _)| at + 1 != gone)
        .map(|(_, line)| line)
        .collect();
    if file.text.trim_ascii().is_empty() {
        // An empty file would look as if it were just being written.
        file.text = HEADER.to_owned();
    }
    file.write()?;
    Ok(info)
}

/// Returns every key in the file, in its order, including expired ones. A missing file has none.
///
/// # Errors
/// The file cannot be read, is accessible to others, is no key file, or has a line that cannot be read.
pub fn list(path: &Path) -> Result<Vec<KeyInfo>, KeyFileError> {
    list_as(path, &reader_for(path))
}

/// Like [`list`], for a given reader.
///
/// # Errors
/// The errors of [`list`].
pub fn list_as(path: &Path, secrets: &SecretReader) -> Result<Vec<KeyInfo>, KeyFileError> {
    Ok(read(path, secrets)?.keys.into_iter().map(|key| key.info).collect())
}

/// Returns the reader for a command: the owner of the file, or else of its directory.
fn reader_for(path: &Path) -> SecretReader {
    let place = if path.exists() { path } else { directory_of(path) };
    SecretReader::for_owner_of(place, None)
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A key as stored in its file.
pub(super) struct StoredKey {
    pub(super) info: KeyInfo,
    pub(super) hash: KeyHash,
    line: usize,
}

/// A key file as read, with its metadata at that time.
pub(super) struct KeyFile {
    pub(super) keys: Vec<StoredKey>,
    /// `None` if there is no file.
    pub(super) stamp: Option<Stamp>,
    text: String,
}

impl KeyFile {
    /// Returns true if the file is missing or blank. A file emptied by `retire` still has a heading, so it is
    /// not blank.
    pub(super) fn is_blank(&self) -> bool {
        self.text.trim_ascii().is_empty()
    }
}

/// Changes whenever the file does: a rewrite has another inode, an edit in place another time or length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    /// Only this one changes on `chmod`.
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Returns the file's metadata; `None` if there is no file.
pub(super) fn stamp(path: &Path) -> io::Result<Option<Stamp>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(Stamp::of(&metadata))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads the file, which must be as protected as any secret file. Symbolic links are followed anywhere: the
/// file holds only hashes, and commands write the file behind the link.
pub(super) fn read(path: &Path, secrets: &SecretReader) -> Result<KeyFile, KeyFileError> {
    let io = |source| KeyFileError::Io { doing: "reading", file: path.to_owned(), source };
    // The path is checked even before the file exists: nobody else may create it.
    secrets.guard().way(path).map_err(SecretFileError::from)?;
    // So that opening a pipe does not wait for a writer.
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(nonblocking).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(KeyFile { keys: Vec::new(), stamp: None, text: String::new() });
        }
        Err(error) => return Err(io(error)),
    };
    let metadata = file.metadata().map_err(io)?;
    let not_a_key_file = || KeyFileError::NotAKeyFile { file: path.to_owned() };
    if !metadata.is_file() || metadata.len() > LARGEST_FILE {
        return Err(not_a_key_file());
    }
    secrets.check(path, &file)?;
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(not_a_key_file());
    }
    let text = String::from_utf8(bytes).map_err(|_| not_a_key_file())?;
    let keys = parse(&text).map_err(|(line, problem)| KeyFileError::Line {
        file: path.to_owned(),
        line,
        problem,
    })?;
    Ok(KeyFile { keys, stamp: Some(Stamp::of(&metadata)), text })
}

/// Returns the keys in `text`, or the first bad line and its fault.
pub(super) fn parse(text: &str) -> Result<Vec<StoredKey>, (usize, &'static str)> {
    let mut keys: Vec<StoredKey> = Vec::new();
    for (at, content) in text.lines().enumerate() {
        let line = at + 1;
        let content = content.trim();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let (info, hash) = parse_line(content).map_err(|problem| (line, problem))?;
        if keys.iter().any(|key| key.info.id == info.id) {
            return Err((line, "an earlier line has the same id"));
        }
        keys.push(StoredKey { info, hash, line });
    }
    Ok(keys)
}

fn parse_line(content: &str) -> Result<(KeyInfo, KeyHash), &'static str> {
    let fields: Vec<&str> = content.split_ascii_whitespace().collect();
    let [id, created_at, expires_at, method, hash] = fields[..] else {
        return Err("has not five fields");
    };
    let is_id = |text: &str| {
        text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if !is_id(id) {
        return Err("its first field is no key id");
    }
    if !is_id(method) {
        return Err("its fourth field is neither `sha256` nor a sealing key's id");
    }
    let sealing_key = (method != UNKEYED).then(|| method.to_owned());
    let created_at = Timestamp::parse_rfc3339(created_at).ok_or("its second field is no RFC 3339 instant")?;
    let expires_at = Timestamp::parse_rfc3339(expires_at).ok_or("its third field is no RFC 3339 instant")?;
    let hash = parse_hash(hash).ok_or("its last field is no hash of 64 hexadecimal digits")?;
    Ok((KeyInfo { id: id.to_owned(), created_at, expires_at, sealing_key }, hash))
}

fn parse_hash(text: &str) -> Option<KeyHash> {
    let mut hash = [0; 32];
    hex::decode_to_slice(text, &mut hash).ok()?;
    Some(KeyHash(hash))
}

/// A key file that no other process writes meanwhile. Its directory is locked: each write replaces the file
/// itself, and a separate lock file would belong to its first creator.
struct Locked {
    path: PathBuf,
    directory: File,
    keys: Vec<StoredKey>,
    text: String,
    /// Owner and mode of the previous file, or those the directory implies.
    belongs: Belongs,
}

impl Locked {
    fn open(path: &Path) -> Result<Self, KeyFileError> {
        let io =
            |source| KeyFileError::Io { doing: "locking the directory of", file: path.to_owned(), source };
        // Behind a symbolic link the target is rewritten, and the link stays.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let directory = File::open(directory_of(&path)).map_err(io)?;
        flock(&directory, FlockOperation::LockExclusive).map_err(|error| io(error.into()))?;
        let KeyFile { keys, text, stamp } = read(&path, &reader_for(&path))?;
        let belongs = match stamp {
            Some(_) => fs::metadata(&path).map(|before| Belongs::like_file(&before)),
            None => directory.metadata().map(|directory| Belongs::in_directory(&directory)),
        }
        .map_err(io)?;
        Ok(Locked { path, directory, keys, text, belongs })
    }

    /// Replaces the file by `text` atomically, and releases the lock.
    fn write(self) -> Result<(), KeyFileError> {
        let file_name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let partial = self.path.with_file_name(format!(".{file_name}.partial"));
        let written = self.write_partial(&partial).and_then(|()| fs::rename(&partial, &self.path));
        if written.is_err() {
            let _ = fs::remove_file(&partial);
        }
        written.and_then(|()| self.directory.sync_all()).map_err(|source| KeyFileError::Io {
            doing: "writing",
            file: self.path.clone(),
            source,
        })
    }

    fn write_partial(&self, partial: &Path) -> io::Result<()> {
        // Left by a process that died; the lock proves that no other is writing.
        match fs::remove_file(partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(partial)?;
        self.belongs.give(&file)?;
        file.write_all(self.text.as_bytes())?;
        file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testkit::SeededRandom;

    const YEAR: Duration = DEFAULT_LIFETIME;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    fn caller() -> CallerName {
        CallerName::parse("mail-sync").expect("a caller name")
    }

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Folder(tempfile::tempdir().expect("temp dir"))
        }

        fn file(&self) -> PathBuf {
            self.0.path().join("mail-sync.keys")
        }

        fn with(content: &str) -> Self {
            let folder = Folder::new();
            folder.write(content, 0o600);
            folder
        }

        fn write(&self, content: &str, mode: u32) {
            fs::write(self.file(), content).expect("write");
            fs::set_permissions(self.file(), fs::Permissions::from_mode(mode)).expect("chmod");
        }

        fn add(&self, seed: u64, now: i64) -> Result<(ApiKey, KeyInfo), KeyFileError> {
            add(&self.file(), &caller(), &SeededRandom::new(seed), at(now), YEAR)
        }
    }

    #[test]
    fn keys_are_added_listed_and_retired_and_comments_stay() {
        let folder = Folder::with("# mine\n\n# last, without a line's end");
        let (_, first) = folder.add(1, 100).expect("first key");
        let (_, second) = folder.add(2, 200).expect("second key");
        assert_eq!(list(&folder.file()).expect("a list"), [first.clone(), second.clone()]);
        assert_eq!(first.expires_at.since(first.created_at), YEAR);
        assert_eq!(first.sealing_key, None);
        assert_eq!(retire(&folder.file(), &first.id).expect("retired"), first);
        assert_eq!(list(&folder.file()).expect("a list"), [second]);
        let text = fs::read_to_string(folder.file()).expect("text");
        assert!(text.starts_with("# mine\n\n# last, without a line's end\n1970-01-01-"), "{text}");
        let error = retire(&folder.file(), &first.id).expect_err("gone").to_string();
        assert!(error.contains(&first.id) && error.contains("it has 1970-01-01-"), "{error}");
    }

    #[test]
    fn a_missing_file_has_no_keys_and_is_made_for_its_owner_only() {
        let folder = Folder::new();
        assert!(list(&folder.file()).expect("a list").is_empty());
        assert!(matches!(retire(&folder.file(), "x"), Err(KeyFileError::NoSuchKey { .. })));
        let (key, _) = folder.add(1, 100).expect("a key");
        let metadata = fs::metadata(folder.file()).expect("metadata");
        assert_eq!(metadata.mode() & 0o777, 0o600);
        let text = fs::read_to_string(folder.file()).expect("text");
        let random = key.expose().split('_').nth(2).expect("the random part");
        assert!(!text.contains(random) && text.starts_with("# API keys"), "{text}");
        let nowhere = folder.0.path().join("no/such/dir/x.keys");
        let error = add(&nowhere, &caller(), &SeededRandom::new(1), at(0), YEAR).err();
        assert!(matches!(error, Some(KeyFileError::Io { .. })));
        assert_eq!(fs::read_dir(folder.0.path()).expect("entries").count(), 1, "nothing is left lying about");
    }

    #[test]
    fn a_third_live_key_is_refused_until_one_is_retired_or_expires() {
        let folder = Folder::new();
        let (_, first) = folder.add(1, 100).expect("first key");
        let (_, second) = folder.add(2, 200).expect("second key");
        let error = folder.add(3, 300).err().expect("refused").to_string();
        assert!(
            error.contains(&first.id) && error.contains(&second.id) && error.contains("retire-key"),
            "{error}"
        );
        let after = first.expires_at.unix_seconds();
        assert!(folder.add(3, after - 1).is_err());
        folder.add(3, after).expect("the first has expired");
        assert_eq!(list(&folder.file()).expect("a list").len(), 3);
    }

    #[test]
    fn an_endless_lifetime_ends_with_the_calendar_and_is_read_back() {
        let folder = Folder::new();
        let made = add(&folder.file(), &caller(), &SeededRandom::new(1), at(0), Duration::MAX);
        let (_, info) = made.expect("a key");
        assert_eq!(info.expires_at.rfc3339(), "9999-12-31T23:59:59Z");
        assert_eq!(list(&folder.file()).expect("a list"), [info]);
    }

    #[test]
    fn a_malformed_line_is_named_by_number_and_never_shown() {
        let folder = Folder::new();
        folder.add(1, 100).expect("a key");
        let text = fs::read_to_string(folder.file()).expect("text");
        let good = text.lines().last().expect("a key's line");
        let hash = good.split(' ').next_back().expect("its hash");
        let cases = [
            ("twk_secret".to_owned(), "five fields"),
            (format!("{good} more"), "five fields"),
            (good.replacen("1970", "19_0", 1), "first field"),
            (good.replacen("T00:01:40Z", "", 1), "second field"),
            (good.replacen("1971-01-01T", "T", 1), "third field"),
            (good.replace(" sha256 ", " k_1 "), "fourth field"),
            (good.replace(hash, &hash[1..]), "last field"),
            (good.replace(hash, &format!("g{}", &hash[1..])), "last field"),
            (good.replace(hash, &format!("{hash}00")), "last field"),
            (good.replace(hash, "ü"), "last field"),
            (good.to_owned(), "same id"),
        ];
        for (bad, problem) in cases {
            folder.write(&format!("{text}{bad}\n# end\n"), 0o600);
            let error = list(&folder.file()).expect_err(&bad).to_string();
            assert!(
                error.contains(problem) && error.contains("line 4") && error.contains("mail-sync.keys"),
                "{error}"
            );
            assert!(!error.contains(&hash[2..]) && !error.contains("secret"), "{error}");
            assert!(folder.add(2, 200).is_err() && retire(&folder.file(), "x").is_err());
        }
    }

    #[test]
    fn a_line_from_before_names_its_sealing_key_and_stays_as_it_is() {
        let folder = Folder::new();
        let (_, info) = folder.add(1, 100).expect("a key");
        let text = fs::read_to_string(folder.file()).expect("text").replace(" sha256 ", " 2026-01-01-k1 ");
        folder.write(&text, 0o600);
        let old = KeyInfo { sealing_key: Some("2026-01-01-k1".into()), ..info };
        assert_eq!(list(&folder.file()).expect("a list"), std::slice::from_ref(&old));
        let (_, new) = folder.add(2, 200).expect("another key");
        assert_eq!(list(&folder.file()).expect("a list"), [old, new]);
        assert!(fs::read_to_string(folder.file()).expect("text").starts_with(&text));
    }

    #[test]
    fn what_is_open_to_others_or_no_file_is_refused() {
        let folder = Folder::new();
        for mode in [0o640, 0o604, 0o620, 0o666] {
            folder.write("", mode);
            let error = list(&folder.file()).expect_err("refused").to_string();
            assert!(error.contains("chmod 600") && error.contains(&format!("{mode:o}")), "{error}");
        }
        folder.write(&"#\n".repeat(40_000), 0o600);
        assert!(matches!(list(&folder.file()), Err(KeyFileError::NotAKeyFile { .. })));
        assert!(matches!(list(folder.0.path()), Err(KeyFileError::NotAKeyFile { .. })));
        fs::write(folder.file(), [b'#', 0xff]).expect("write");
        assert!(matches!(list(&folder.file()), Err(KeyFileError::NotAKeyFile { .. })));
    }

    #[test]
    fn a_symbolic_link_stays_and_its_file_is_rewritten() {
        let folder = Folder::new();
        folder.add(1, 100).expect("a key");
        let link = folder.0.path().join("link.keys");
        std::os::unix::fs::symlink(folder.file(), &link).expect("symlink");
        add(&link, &caller(), &SeededRandom::new(2), at(200), YEAR).expect("second key");
        assert!(fs::symlink_metadata(&link).expect("metadata").is_symlink());
        assert_eq!(list(&folder.file()).expect("a list").len(), 2);
    }

    #[test]
    fn two_writers_at_once_lose_no_key() {
        let folder = Folder::with("# start\n");
        for round in 0..20 {
            let ids: Vec<String> = std::thread::scope(|scope| {
                let add = |seed| folder.add(seed, 100).expect("a key").1.id;
                let writers = [round * 2 + 1, round * 2 + 2].map(|seed| scope.spawn(move || add(seed)));
                writers.map(|writer| writer.join().expect("no panic")).into()
            });
            assert_eq!(list(&folder.file()).expect("a list").len(), 2);
            for id in ids {
                retire(&folder.file(), &id).expect("retired");
            }
        }
        assert_eq!(fs::read_to_string(folder.file()).expect("text"), "# start\n");
    }

    #[test]
    fn a_dead_writer_s_leftover_is_no_obstacle() {
        let folder = Folder::new();
        fs::write(folder.0.path().join(".mail-sync.keys.partial"), "half").expect("write");
        folder.add(1, 100).expect("a key");
        assert_eq!(fs::read_dir(folder.0.path()).expect("entries").count(), 1);
    }

    #[test]
    fn what_root_writes_belongs_to_the_daemon_s_user() {
        if !rustix::process::geteuid().is_root() {
            return; // only root can change owners
        }
        let folder = Folder::new();
        std::os::unix::fs::chown(folder.0.path(), Some(1042), Some(1043)).expect("chown");
        for seed in [1, 2] {
            folder.add(seed, 100).expect("a key");
            let metadata = fs::metadata(folder.file()).expect("metadata");
            assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o777), (1042, 1043, 0o600));
        }
    }

    #[test]
    fn every_change_shows_in_the_stamp() {
        let folder = Folder::new();
        assert_eq!(stamp(&folder.file()).expect("a stamp"), None);
        let (_, info) = folder.add(1, 100).expect("a key");
        let added = read(&folder.file(), &SecretReader::new(None)).expect("the file").stamp;
        assert_eq!(stamp(&folder.file()).expect("a stamp"), added);
        retire(&folder.file(), &info.id).expect("retired");
        assert_ne!(stamp(&folder.file()).expect("a stamp"), added);
    }
}
