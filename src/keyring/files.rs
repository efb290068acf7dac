//! A keyring directory with one file for each key, `{id}.key`. The files are read like every secret file
//! ([`secret_file`](crate::secret_file)): they belong to the daemon's user with mode 0600, or to root and a
//! group of the daemon's with 0640. A file holds the key's id, its creation time, its promotion time, and its
//! 256 bits. A rewritten file keeps its owner.
//!
//! The directory may also be systemd's credentials directory (`LoadCredential=keyring:/some/folder`). Its key
//! files start with `keyring_`, lie among other credentials, and may be readable to a group without members.
//! They change only when the unit restarts.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{FlockOperation, flock};
use zeroize::Zeroizing;

use super::{KeySource, Keyring, KeyringError, SealingKey, SourceRead, Version};
use crate::domain::random::{Random, random_bytes};
use crate::domain::task::BoxFuture;
use crate::domain::time::Timestamp;
use crate::secret_file::{Belongs, SecretFileError, SecretReader, is_of_systemd};

/// Largest size accepted: a key file is far smaller.
const LARGEST_FILE: usize = 4096;

/// Prefix of key files among other systemd credentials.
const AMONG_CREDENTIALS: &str = "keyring";

/// A directory that keys are read from.
#[derive(Clone)]
pub struct Directory {
    path: PathBuf,
    is_of_systemd: bool,
    secrets: SecretReader,
}

impl Directory {
    /// Opens the directory for the daemon itself; `credentials_directory` is `$CREDENTIALS_DIRECTORY`.
    pub fn new(path: &Path, credentials_directory: Option<&Path>) -> Self {
        Directory {
            path: path.to_owned(),
            is_of_systemd: is_of_systemd(path, credentials_directory),
            secrets: SecretReader::new(credentials_directory),
        }
    }

    /// Opens the directory for the given reader.
    fn read_by(path: &Path, secrets: SecretReader) -> Self {
        let is_of_systemd = secrets.is_of_systemd(path);
        Directory { path: path.to_owned(), is_of_systemd, secrets }
    }

    /// Opens the directory for a command, which reads as its owner would.
    fn for_its_owner(path: &Path) -> Self {
        let secrets = SecretReader::for_owner_of(path, None);
        Directory { path: path.to_owned(), is_of_systemd: is_of_systemd(path, None), secrets }
    }

    fn read_all(&self) -> Result<Vec<(PathBuf, SealingKey)>, KeyringError> {
        let files = self.key_files()?.into_iter();
        files.map(|path| read_key(&path, &self.secrets).map(|key| (path, key))).collect()
    }

    /// Returns a key and its file.
    fn find(&self, id: &str) -> Result<(PathBuf, SealingKey), KeyringError> {
        let all = self.read_all()?;
        let ids = all.iter().map(|(_, key)| key.id.clone()).collect();
        let found = all.into_iter().find(|(_, key)| key.id == id);
        found.ok_or_else(|| KeyringError::NoSuchKey { place: self.place(), key: id.to_owned(), ids })
    }

    fn key_files(&self) -> Result<Vec<PathBuf>, KeyringError> {
        let io = |source| KeyringError::Io { doing: "reading", place: self.place(), source };
        let mut files = Vec::new();
        // Every file in it is a key, so nobody else may add one.
        let folder = self.secrets.guard().folder(&self.path).map_err(SecretFileError::from)?;
        for path in folder.entries().map_err(io)? {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            // Private keys of certificates may lie there too.
            let is_another = self.is_of_systemd && !name.starts_with(AMONG_CREDENTIALS);
            let is_key = path.extension().is_some_and(|extension| extension == "key");
            if is_key && !name.starts_with('.') && !is_another {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }
}

impl KeySource for Directory {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn read<'a>(
        &'a self,
        seen: Option<&'a Version>,
    ) -> BoxFuture<'a, Result<Option<SourceRead>, KeyringError>> {
        let (directory, seen) = (self.clone(), seen.cloned());
        let look = move || {
            // The stamp is taken before the files are read: a change in between is seen the next time.
            let now = Version(format!("{:?}", stamp(&directory.key_files()?)));
            if seen.as_ref() == Some(&now) {
                return Ok(None);
            }
            let keys = directory.read_all()?.into_iter().map(|(_, key)| key).collect();
            Ok(Some(SourceRead { version: now, keys }))
        };
        Box::pin(async move {
            // Reading may hang on a mount, so it does not run on a thread that serves requests.
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

/// Opens the keyring in `directory`.
pub fn open(directory: &Path) -> Result<Keyring, KeyringError> {
    Keyring::new(read(directory)?, &directory.display().to_string())
}

/// Opens the keyring in `directory` for the given reader.
pub fn open_as(directory: &Path, secrets: SecretReader) -> Result<Keyring, KeyringError> {
    let keys = Directory::read_by(directory, secrets).read_all()?.into_iter().map(|(_, key)| key).collect();
    Keyring::new(keys, &directory.display().to_string())
}

/// Reads every key in `directory`; an empty directory is no error.
pub fn read(directory: &Path) -> Result<Vec<SealingKey>, KeyringError> {
    Ok(Directory::for_its_owner(directory).read_all()?.into_iter().map(|(_, key)| key).collect())
}

/// Adds a new key to `directory`, which is created (0700) if missing. The first key of a ring is promoted;
/// any other only opens until it is promoted.
pub fn add(directory: &Path, random: &dyn Random, now: Timestamp) -> Result<SealingKey, KeyringError> {
    let io = |doing| move |source| KeyringError::Io { doing, place: directory.display().to_string(), source };
    if !directory.exists() {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io("creating"))?;
    }
    let _lock = lock(directory)?;
    let others = Directory::for_its_owner(directory).read_all()?;
    let first = others.is_empty();
    let material: Zeroizing<[u8; 32]> = Zeroizing::new(random_bytes(random));
    let suffix = random_bytes::<3>(random);
    let day = now.rfc3339();
    let id = format!("{}-{}", &day[..10], hex::encode(suffix));
    let key = SealingKey::new(id, now, first.then_some(now), material);

    // The new file gets the owner and mode of the others.
    let belongs = match others.first() {
        Some((sibling, _)) => fs::metadata(sibling).map(|sibling| Belongs::like_file(&sibling)),
        None => fs::metadata(directory).map(|directory| Belongs::in_directory(&directory)),
    };
    belongs
        .and_then(|belongs| write(directory, &directory.join(format!("{}.key", key.id)), &key, belongs))
        .map_err(io("writing to"))?;
    Ok(key)
}

/// Makes a key the one that seals. Its file is replaced atomically. To go back, promote the older key again.
///
/// # Errors
/// The key does not exist, or its file cannot be read or written.
pub fn promote(directory: &Path, id: &str, now: Timestamp) -> Result<SealingKey, KeyringError> {
    let io =
        |source| KeyringError::Io { doing: "writing to", place: directory.display().to_string(), source };
    let _lock = lock(directory)?;
    let (path, key) = Directory::for_its_owner(directory).find(id)?;
    // Later than all others: files hold whole seconds, and another machine's clock may be ahead.
    let others = read(directory)?.into_iter().filter(|other| other.id != id);
    let latest = others.filter_map(|other| other.promoted_at).max();
    let after_all = latest.map(|latest| latest.plus(Duration::from_secs(1)));
    let promoted_at = after_all.map_or(now, |after_all| after_all.max(now));
    let key = SealingKey { promoted_at: Some(promoted_at), ..key };
    let before = fs::metadata(&path).map_err(io)?;
    write(directory, &path, &key, Belongs::like_file(&before)).map_err(io)?;
    Ok(key)
}

/// Removes a key's file. It does not check whether the key is still needed.
///
/// # Errors
/// The key does not exist, is the primary, or its file cannot be read or removed.
pub fn retire(directory: &Path, id: &str) -> Result<SealingKey, KeyringError> {
    let io =
        |source| KeyringError::Io { doing: "writing to", place: directory.display().to_string(), source };
    let _lock = lock(directory)?;
    let (path, key) = Directory::for_its_owner(directory).find(id)?;
    let place = directory.display().to_string();
    if open(directory)?.primary().id == id {
        return Err(KeyringError::Primary { place, key: id.to_owned() });
    }
    fs::remove_file(&path).and_then(|()| sync(directory)).map_err(io)?;
    Ok(key)
}

/// Returns the metadata of the key files, which changes whenever a file is changed, added or removed.
fn stamp(files: &[PathBuf]) -> Vec<(&PathBuf, Option<FileStamp>)> {
    let look = |path| {
        let metadata = fs::metadata(path).ok()?;
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        // Only this one changes on `chmod`.
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        Some((metadata.dev(), metadata.ino(), metadata.len(), modified, changed))
    };
    files.iter().map(|path| (path, look(path))).collect()
}

/// Device, inode, length, and the times of the last changes of content and inode.
type FileStamp = (u64, u64, u64, (i64, i64), (i64, i64));

/// Locks the directory, so that one process at a time changes the keyring. The files cannot be locked, for
/// they are replaced.
fn lock(directory: &Path) -> Result<File, KeyringError> {
    let io = |source| KeyringError::Io { doing: "locking", place: directory.display().to_string(), source };
    let lock = File::open(directory).map_err(io)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| io(error.into()))?;
    Ok(lock)
}

/// Writes a key's file under a temporary name, syncs it, and renames it.
fn write(directory: &Path, path: &Path, key: &SealingKey, belongs: Belongs) -> io::Result<()> {
    let partial = directory.join(format!(".{}.partial", key.id));
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {} // left by a killed process
    }
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        file.write_all(text(key).as_bytes())?;
        belongs.give(&file)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    })();
    if written.is_err() {
        let _left_behind = fs::remove_file(&partial);
    }
    written.and_then(|()| sync(directory))
}

/// Syncs the directory, which makes a new name durable.
fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

pub(super) fn text(key: &SealingKey) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(256));
    let _ = writeln!(
        text,
        "# A tokenward sealing key. With it and the store anybody has every grant: keep it secret."
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

fn read_key(path: &Path, secrets: &SecretReader) -> Result<SealingKey, KeyringError> {
    let problem = |problem: String| KeyringError::Key { file: path.display().to_string(), problem };
    let bytes = secrets.read(path).map_err(|error| match error {
        // (The general hint for an empty secret file does not apply to a key.)
        SecretFileError::Empty { .. } | SecretFileError::TrailingNul { .. } => {
            problem("is empty or half written; restore it from its backup".into())
        }
        other => KeyringError::File(other),
    })?;
    parse(path, &bytes)
}

/// Parses a key file.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<SealingKey, KeyringError> {
    let problem = |problem: String| KeyringError::Key { file: path.display().to_string(), problem };
    if bytes.len() > LARGEST_FILE {
        return Err(problem("is not a key file".into()));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| problem("is not text".into()))?;

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
        format!("{:?}", stamp(&Directory::new(directory, None).key_files().expect("reads")))
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
            ("", "restore it from its backup"),
            ("# a key", "`id`"),
            ("id = \"a\"\nkey = \"AAAA\"", "256 bits"),
            ("id = \"a\"\nkey = \"????\"", "base64"),
            ("id = \"../a\"\nkey = \"AAAA\"", "A-Z a-z 0-9 -"),
            (
                "id = \"a\"\ncreated_at = \"2026-01-01T00:00:00Z\"\nkey = \
                 \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"",
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

    /// (Changes owners, which only root can.)
    #[test]
    fn what_root_writes_the_daemon_can_read_and_nobody_else() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        use std::os::unix::fs::chown;
        let (random, at) = (SeededRandom::new(1), Timestamp::from_unix_seconds);
        let owner = |path: &Path| {
            let metadata = fs::metadata(path).expect("metadata");
            (metadata.uid(), metadata.gid(), metadata.mode() & 0o777)
        };
        // Owner and mode of the directory, and the expected first key file.
        for (directory, mode, first_file) in
            [((0, 0), 0o700, (0, 0, 0o600)), ((5, 7), 0o700, (5, 7, 0o600)), ((0, 7), 0o750, (0, 7, 0o640))]
        {
            let folder = tempfile::tempdir().expect("temp dir");
            let file = |key: &SealingKey| folder.path().join(format!("{}.key", key.id));
            chown(folder.path(), Some(directory.0), Some(directory.1)).expect("chown");
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).expect("chmod");
            let first = add(folder.path(), &random, at(100)).expect("first key");
            assert_eq!(owner(&file(&first)), first_file);
            // The operator has changed its group since; a new file copies that, and the old one keeps it.
            let kept = if directory == (0, 0) { (0, 0, 0o400) } else { (0, 7, 0o640) };
            chown(file(&first), Some(kept.0), Some(kept.1)).expect("chown");
            fs::set_permissions(file(&first), fs::Permissions::from_mode(kept.2)).expect("chmod");
            let second = add(folder.path(), &random, at(200)).expect("second key");
            assert_eq!(owner(&file(&second)), kept);
            chown(file(&second), Some(directory.0), None).expect("chown");
            fs::set_permissions(file(&second), fs::Permissions::from_mode(0o600)).expect("chmod");
            promote(folder.path(), &first.id, at(300)).expect("promoted");
            promote(folder.path(), &second.id, at(400)).expect("promoted");
            assert_eq!(owner(&file(&first)), kept);
            assert_eq!(owner(&file(&second)), (directory.0, kept.1, 0o600));
            assert_eq!(open(folder.path()).expect("a ring").primary().id, second.id);
        }
    }

    #[test]
    fn a_key_file_is_read_like_every_secret_s() {
        let folder = tempfile::tempdir().expect("temp dir");
        let (ring, elsewhere) = (folder.path().join("ring"), folder.path().join("elsewhere"));
        let key = add(&ring, &SeededRandom::new(1), Timestamp::from_unix_seconds(500)).expect("a key");
        let file = ring.join(format!("{}.key", key.id));
        fs::rename(&file, &elsewhere).expect("moved");
        std::os::unix::fs::symlink(&elsewhere, &file).expect("a link");
        let error = open(&ring).err().expect("refused").to_string();
        assert!(error.contains("leads out of its directory"), "{error}");
        // The layout of a Kubernetes secret.
        fs::remove_file(&file).expect("removed");
        fs::create_dir(ring.join("..2026")).expect("a directory");
        fs::rename(&elsewhere, ring.join("..2026/key")).expect("moved");
        std::os::unix::fs::symlink("..2026/key", &file).expect("a link");
        assert_eq!(open(&ring).expect("a ring").primary().id, key.id);
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(ring.join("..2026/key"), Some(12_345), None).expect("chown");
            let error = open(&ring).err().expect("refused").to_string();
            assert!(error.contains("belongs to user 12345"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_directory_says_what_it_holds_once() {
        let folder = tempfile::tempdir().expect("temp dir");
        let (random, at) = (SeededRandom::new(1), Timestamp::from_unix_seconds);
        let first = add(folder.path(), &random, at(500)).expect("first key");
        let source = Directory::new(folder.path(), None);
        let read = source.read(None).await.expect("reads").expect("something");
        assert_eq!(read.keys.iter().map(|key| &key.id).collect::<Vec<_>>(), [&first.id]);
        assert!(source.read(Some(&read.version)).await.expect("reads").is_none());
        add(folder.path(), &random, at(600)).expect("second key");
        let again = source.read(Some(&read.version)).await.expect("reads").expect("something else");
        assert_eq!(again.keys.len(), 2);
        fs::remove_dir_all(folder.path()).expect("removed");
        assert!(source.read(Some(&again.version)).await.is_err());
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
