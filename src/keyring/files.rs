//! A keyring directory: one file a key, `{id}.key`, mode 0600. A key's file holds its id, its birth, when it was
//! promoted, and its 256 bits.
//!
//! systemd's credentials may be one, too (`LoadCredential=keyring:/some/folder`): there the files have `keyring_` before their names,
//! lie among others, and may be readable to a group that nobody is in. They change with a restart of the unit only.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{FlockOperation, Gid, Uid, fchown, flock};
use zeroize::Zeroizing;

use super::{KeySource, Keyring, KeyringError, SealingKey, Seen, SourceRead};
use crate::domain::random::{Random, random_bytes};
use crate::domain::task::BoxFuture;
use crate::domain::time::Timestamp;

/// A key file is far smaller; what is larger is something else.
const LARGEST_FILE: u64 = 4096;

/// Where systemd puts the credentials of units, each in a directory of its own that nobody else can enter.
const SYSTEMD: &str = "/run/credentials";
/// What files of a keyring begin with among other credentials of systemd.
const AMONG_CREDENTIALS: &str = "keyring";

/// A directory as a source of keys.
pub struct Directory {
    path: PathBuf,
    is_of_systemd: bool,
}

impl Directory {
    /// This one; `credentials_directory` is `$CREDENTIALS_DIRECTORY`.
    pub fn new(path: &Path, credentials_directory: Option<&Path>) -> Self {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let is_given = credentials_directory.is_some_and(|given| real(path).starts_with(real(given)));
        Directory { path: path.to_owned(), is_of_systemd: is_given || is_of_systemd(path) }
    }
}

impl KeySource for Directory {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn read<'a>(&'a self, seen: Option<&'a Seen>) -> BoxFuture<'a, Result<Option<SourceRead>, KeyringError>> {
        let (directory, is_of_systemd, seen) = (self.path.clone(), self.is_of_systemd, seen.cloned());
        let look = move || {
            // Looked at before it is read: what changes in between is seen the next time.
            let files = key_files(&directory, is_of_systemd)?;
            let now = Seen(format!("{:?}", stamp(&files)));
            if seen.as_ref() == Some(&now) {
                return Ok(None);
            }
            let keys = files.iter().map(|file| read_key(file, is_of_systemd)).collect::<Result<_, _>>()?;
            Ok(Some(SourceRead { seen: now, keys }))
        };
        Box::pin(async move {
            // Not on a thread that serves: it may be on a mount that hangs.
            match tokio::task::spawn_blocking(look).await {
                Ok(looked) => looked,
                Err(error) => Err(KeyringError::Io {
                    doing: "reading",
                    place: self.place(),
                    source: io::Error::other(error),
                }),
            }
        })
    }
}

/// Opens the ring that lies in `directory`.
pub fn open(directory: &Path) -> Result<Keyring, KeyringError> {
    Keyring::new(read(directory)?, &directory.display().to_string())
}

/// Every key in `directory`; none at all is no error here.
pub fn read(directory: &Path) -> Result<Vec<SealingKey>, KeyringError> {
    let is_of_systemd = is_of_systemd(directory);
    key_files(directory, is_of_systemd)?.iter().map(|path| read_key(path, is_of_systemd)).collect()
}

/// Makes a new key in `directory`, which is created (0700) when it is missing. The first key of a ring is promoted;
/// any other only opens until it is promoted.
pub fn add(directory: &Path, random: &dyn Random, now: Timestamp) -> Result<SealingKey, KeyringError> {
    let io = |doing| move |source| KeyringError::Io { doing, place: directory.display().to_string(), source };
    if !directory.exists() {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io("creating"))?;
    }
    let _lock = lock(directory)?;
    let first = read(directory)?.is_empty();
    let material: Zeroizing<[u8; 32]> = Zeroizing::new(random_bytes(random));
    let suffix = random_bytes::<3>(random);
    let day = now.rfc3339();
    let id = format!("{}-{:02x}{:02x}{:02x}", &day[..10], suffix[0], suffix[1], suffix[2]);
    let key = SealingKey::new(id, now, first.then_some(now), material);

    write(directory, &directory.join(format!("{}.key", key.id)), &key, None).map_err(io("writing to"))?;
    Ok(key)
}

/// Has a key seal from now on: its file says so, whole or as it was before. Promoting an older one again is the way back.
///
/// # Errors
/// There is no such key, or its file cannot be read or written.
pub fn promote(directory: &Path, id: &str, now: Timestamp) -> Result<SealingKey, KeyringError> {
    let io =
        |source| KeyringError::Io { doing: "writing to", place: directory.display().to_string(), source };
    let _lock = lock(directory)?;
    let (path, key) = find(directory, id)?;
    // Later than every other: files hold whole seconds, and some other machine's clock may be ahead.
    let others = read(directory)?.into_iter().filter(|other| other.id != id);
    let latest = others.filter_map(|other| other.promoted_at).max();
    let after_all = latest.map(|latest| latest.plus(Duration::from_secs(1)));
    let promoted_at = after_all.map_or(now, |after_all| after_all.max(now));
    let key = SealingKey { promoted_at: Some(promoted_at), ..key };
    let owner = fs::metadata(&path).map_err(io)?;
    write(directory, &path, &key, Some((owner.uid(), owner.gid()))).map_err(io)?;
    Ok(key)
}

/// Takes a key's file away. Whether anything still needs the key is not known here.
///
/// # Errors
/// There is no such key; it is the primary; its file cannot be read or removed.
pub fn retire(directory: &Path, id: &str) -> Result<SealingKey, KeyringError> {
    let io =
        |source| KeyringError::Io { doing: "writing to", place: directory.display().to_string(), source };
    let _lock = lock(directory)?;
    let (path, key) = find(directory, id)?;
    let place = directory.display().to_string();
    if open(directory)?.primary().id == id {
        return Err(KeyringError::Primary { place, key: id.to_owned() });
    }
    fs::remove_file(&path).and_then(|()| sync(directory)).map_err(io)?;
    Ok(key)
}

/// What the key files look like from outside: it changes whenever one of them does, or comes, or goes.
fn stamp(files: &[PathBuf]) -> Vec<(&PathBuf, Option<FileStamp>)> {
    let look = |path| {
        let metadata = fs::metadata(path).ok()?;
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        // `chmod` shows only in this one.
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        Some((metadata.dev(), metadata.ino(), metadata.len(), modified, changed))
    };
    files.iter().map(|path| (path, look(path))).collect()
}

/// Device, inode, length, and when content and inode were changed.
type FileStamp = (u64, u64, u64, (i64, i64), (i64, i64));

/// A key and its file.
fn find(directory: &Path, id: &str) -> Result<(PathBuf, SealingKey), KeyringError> {
    let (mut ids, is_of_systemd) = (Vec::new(), is_of_systemd(directory));
    for path in key_files(directory, is_of_systemd)? {
        let key = read_key(&path, is_of_systemd)?;
        if key.id == id {
            return Ok((path, key));
        }
        ids.push(key.id);
    }
    Err(KeyringError::NoSuchKey { place: directory.display().to_string(), key: id.to_owned(), ids })
}

/// One at a time changes a keyring. The directory is locked, for its files are replaced.
fn lock(directory: &Path) -> Result<File, KeyringError> {
    let io = |source| KeyringError::Io { doing: "locking", place: directory.display().to_string(), source };
    let lock = File::open(directory).map_err(io)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| io(error.into()))?;
    Ok(lock)
}

/// Writes a key's file: under another name, synced, and only then under its own.
fn write(directory: &Path, path: &Path, key: &SealingKey, owner: Option<(u32, u32)>) -> io::Result<()> {
    let partial = directory.join(format!(".{}.partial", key.id));
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {} // left by one that was killed
    }
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        file.write_all(text(key).as_bytes())?;
        let made = file.metadata()?;
        if let Some((uid, gid)) = owner.filter(|owner| *owner != (made.uid(), made.gid())) {
            fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        file.sync_all()?;
        fs::rename(&partial, path)
    })();
    if written.is_err() {
        let _left_behind = fs::remove_file(&partial);
    }
    written.and_then(|()| sync(directory))
}

/// A name is as durable as its directory.
fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn text(key: &SealingKey) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(256));
    let _ = writeln!(
        text,
        "# A tokenward sealing key. Whoever has it and the store has every grant: keep it secret."
    );
    let _ = writeln!(text, "# Without it nothing it sealed can be opened: keep a copy in a safe place.");
    let _ = writeln!(text, "id = \"{}\"", key.id);
    let _ = writeln!(text, "created_at = \"{}\"", key.created_at.rfc3339());
    if let Some(promoted_at) = key.promoted_at {
        let _ = writeln!(text, "promoted_at = \"{}\"", promoted_at.rfc3339());
    }
    let encoded = Zeroizing::new(STANDARD.encode(&key.material[..]));
    let _ = writeln!(text, "key = \"{}\"", encoded.as_str());
    text
}

fn key_files(directory: &Path, is_of_systemd: bool) -> Result<Vec<PathBuf>, KeyringError> {
    let io = |source| KeyringError::Io { doing: "reading", place: directory.display().to_string(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // Private keys of certificates may lie there as well.
        let is_another = is_of_systemd && !name.starts_with(AMONG_CREDENTIALS);
        let is_key = path.extension().is_some_and(|extension| extension == "key");
        if is_key && !name.starts_with('.') && !is_another {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn is_of_systemd(directory: &Path) -> bool {
    directory.starts_with(SYSTEMD)
}

/// What the file's mode may hold. Its group may read it where that is how the daemon gets at it, as with every secret's file: root's,
/// and the daemon is not root and is in the group; and where systemd has seen to it that nobody else comes near.
fn allowed_mode(metadata: &fs::Metadata, is_of_systemd: bool) -> u32 {
    use rustix::process::{getegid, geteuid, getgroups};
    let in_group = || {
        let groups = getgroups().unwrap_or_default();
        groups.into_iter().chain([getegid()]).any(|group| group.as_raw() == metadata.gid())
    };
    let is_by_group = metadata.uid() == 0 && !geteuid().is_root() && in_group();
    if is_by_group || is_of_systemd { 0o740 } else { 0o700 }
}

fn read_key(path: &Path, is_of_systemd: bool) -> Result<SealingKey, KeyringError> {
    let problem = |problem: String| KeyringError::Key { file: path.display().to_string(), problem };
    let metadata = fs::metadata(path).map_err(|error| problem(error.to_string()))?;
    if !metadata.is_file() || metadata.len() > LARGEST_FILE {
        return Err(problem("is not a key file".into()));
    }
    if metadata.mode() & 0o777 & !allowed_mode(&metadata, is_of_systemd) != 0 {
        return Err(problem(format!(
            "others may read it (mode {:03o}); run `chmod 600 {}`",
            metadata.mode() & 0o777,
            path.display()
        )));
    }
    let bytes = Zeroizing::new(fs::read(path).map_err(|error| problem(error.to_string()))?);
    let text = std::str::from_utf8(&bytes).map_err(|_| problem("is not text".into()))?;

    let field = |name: &str| {
        text.lines()
            .filter_map(|line| line.split_once('='))
            .find(|(key, _)| key.trim() == name)
            .and_then(|(_, value)| value.trim().strip_prefix('"')?.strip_suffix('"'))
    };
    let instant = |name: &str| -> Result<Option<Timestamp>, KeyringError> {
        field(name)
            .map(|text| {
                Timestamp::parse_rfc3339(text)
                    .ok_or_else(|| problem(format!("{name} is no RFC 3339 instant")))
            })
            .transpose()
    };
    let id = field("id").ok_or_else(|| problem("has no `id`; is it damaged?".into()))?;
    if id.is_empty() || id.len() > 64 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    {
        return Err(problem("its `id` must be 1 to 64 of A-Z a-z 0-9 -".into()));
    }
    let encoded = field("key").ok_or_else(|| problem("has no `key`; is it damaged?".into()))?;
    let decoded =
        Zeroizing::new(STANDARD.decode(encoded).map_err(|_| problem("its `key` is not base64".into()))?);
    let mut material = Zeroizing::new([0; 32]);
    if decoded.len() != material.len() {
        return Err(problem("its `key` is not 256 bits long".into()));
    }
    material.copy_from_slice(&decoded);
    if material.iter().all(|byte| *byte == material[0]) {
        return Err(problem("its `key` is not random".into()));
    }
    let created_at = instant("created_at")?.ok_or_else(|| problem("has no `created_at`".into()))?;
    Ok(SealingKey::new(id.to_owned(), created_at, instant("promoted_at")?, material))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testkit::SeededRandom;

    fn looks(directory: &Path) -> String {
        format!("{:?}", stamp(&key_files(directory, false).expect("reads")))
    }

    #[test]
    fn the_first_key_promotes_itself_and_the_second_only_opens() {
        let folder = tempfile::tempdir().expect("temp dir");
        let directory = folder.path().join("keyring");
        let random = SeededRandom::new(1);
        let first = add(&directory, &random, Timestamp::from_unix_seconds(100)).expect("first key");
        let second = add(&directory, &random, Timestamp::from_unix_seconds(200)).expect("second key");
        assert!(first.promoted_at.is_some() && second.promoted_at.is_none());
        let ring = open(&directory).expect("a ring");
        assert_eq!(ring.primary().id, first.id);
        assert_eq!(ring.keys().len(), 2);
        assert!(ring.key(&second.id).is_some_and(|key| *key.material == *second.material));
        let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&directory.join(format!("{}.key", first.id))), 0o600);
    }

    #[test]
    fn a_key_is_promoted_and_promoted_back_whatever_the_clock_says() {
        let folder = tempfile::tempdir().expect("temp dir");
        let directory = folder.path().join("keyring");
        let (random, at) = (SeededRandom::new(1), Timestamp::from_unix_seconds);
        let first = add(&directory, &random, at(500)).expect("first key");
        let second = add(&directory, &random, at(600)).expect("second key");
        let path = directory.join(format!("{}.key", second.id));
        fs::write(directory.join(format!(".{}.partial", second.id)), "left by a kill").expect("written");
        let before = looks(&directory);
        for (id, now, promoted_at) in
            [(&second.id, 700, 700), (&first.id, 700, 701), (&second.id, 3, 702), (&second.id, 800, 800)]
        {
            let promoted = promote(&directory, id, at(now)).expect("promoted");
            assert_eq!(promoted.promoted_at, Some(at(promoted_at)));
            let ring = open(&directory).expect("a ring");
            assert_eq!((&ring.primary().id, ring.keys().len()), (id, 2));
        }
        let ring = open(&directory).expect("a ring");
        let found = ring.key(&second.id).expect("is there");
        assert_eq!((found.created_at, *found.material == *second.material), (second.created_at, true));
        assert_eq!(fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&directory).expect("is there").count(), 2, "nothing is left of it");
        assert_ne!(looks(&directory), before);
        let unknown = promote(&directory, "nobody", at(900)).err().expect("refused").to_string();
        assert!(unknown.contains("nobody") && unknown.contains(&first.id), "{unknown}");
    }

    #[test]
    fn a_key_is_retired_unless_it_is_the_primary() {
        let folder = tempfile::tempdir().expect("temp dir");
        let directory = folder.path().join("keyring");
        let (random, at) = (SeededRandom::new(1), Timestamp::from_unix_seconds);
        let first = add(&directory, &random, at(500)).expect("first key");
        let second = add(&directory, &random, at(600)).expect("second key");
        assert!(matches!(retire(&directory, &first.id), Err(KeyringError::Primary { .. })));
        assert!(matches!(retire(&directory, "nobody"), Err(KeyringError::NoSuchKey { .. })));
        promote(&directory, &second.id, at(700)).expect("promoted");
        let before = looks(&directory);
        retire(&directory, &first.id).expect("retired");
        assert_ne!(looks(&directory), before);
        let ring = open(&directory).expect("a ring");
        assert_eq!((ring.keys().len(), ring.primary().id.clone()), (1, second.id));
    }

    #[test]
    fn a_bad_key_file_is_refused_by_name_and_without_its_content() {
        let folder = tempfile::tempdir().expect("temp dir");
        let path = folder.path().join("x.key");
        let cases = [
            ("", "`id`"),
            ("id = \"a\"\nkey = \"AAAA\"", "256 bits"),
            ("id = \"a\"\nkey = \"????\"", "base64"),
            ("id = \"../a\"\nkey = \"AAAA\"", "A-Z a-z 0-9 -"),
            (
                "id = \"a\"\ncreated_at = \"2026-01-01T00:00:00Z\"\nkey = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"",
                "not random",
            ),
        ];
        for (content, problem) in cases {
            fs::write(&path, content).expect("write");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
            let error = open(folder.path()).err().expect("refused").to_string();
            assert!(error.contains(problem) && error.contains("x.key"), "{error}");
            assert!(!error.contains("AAAA"), "{error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
        assert!(open(folder.path()).err().expect("refused").to_string().contains("chmod 600"));
    }

    #[tokio::test]
    async fn a_directory_says_what_it_holds_once() {
        let folder = tempfile::tempdir().expect("temp dir");
        let (random, at) = (SeededRandom::new(1), Timestamp::from_unix_seconds);
        let first = add(folder.path(), &random, at(500)).expect("first key");
        let source = Directory::new(folder.path(), None);
        let read = source.read(None).await.expect("reads").expect("something");
        assert_eq!(read.keys.iter().map(|key| &key.id).collect::<Vec<_>>(), [&first.id]);
        assert!(source.read(Some(&read.seen)).await.expect("reads").is_none());
        add(folder.path(), &random, at(600)).expect("second key");
        let again = source.read(Some(&read.seen)).await.expect("reads").expect("something else");
        assert_eq!(again.keys.len(), 2);
        fs::remove_dir_all(folder.path()).expect("removed");
        assert!(source.read(Some(&again.seen)).await.is_err());
    }

    #[tokio::test]
    async fn systemd_s_credentials_are_a_keyring_among_other_files() {
        let folder = tempfile::tempdir().expect("temp dir");
        let key =
            add(folder.path(), &SeededRandom::new(1), Timestamp::from_unix_seconds(500)).expect("a key");
        let (file, loaded) = (
            folder.path().join(format!("{}.key", key.id)),
            folder.path().join(format!("keyring_{}.key", key.id)),
        );
        fs::rename(file, &loaded).expect("renamed");
        fs::write(folder.path().join("server.key"), "of a certificate").expect("written");
        fs::set_permissions(&loaded, fs::Permissions::from_mode(0o440)).expect("chmod");
        let source = Directory::new(folder.path(), Some(folder.path()));
        let read = source.read(None).await.expect("reads").expect("something");
        assert_eq!(read.keys.iter().map(|key| &key.id).collect::<Vec<_>>(), [&key.id]);
        assert!(
            Directory::new(folder.path(), None).read(None).await.is_err(),
            "anywhere else others may read it"
        );
        fs::set_permissions(&loaded, fs::Permissions::from_mode(0o444)).expect("chmod");
        assert!(source.read(None).await.is_err());
    }
}
