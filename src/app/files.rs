//! Whether a file that the configuration names has changed. They are looked at once a second, as they are behind whatever links
//! lead there: an editor's rename, a Kubernetes volume's swapped link and a mount that comes and goes all look the same.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::environment::{Environment, Source};
use super::findings::By;
use super::process::Process;
use crate::config::{self, Config, ConfigErrors, CredentialKind, Listener, Loaded, Mistake};

/// What a file looked like: another one is another content, or may be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Look {
    /// Device, inode, length, and when it was changed: content and status, in nanoseconds.
    File(u64, u64, u64, i128, i128),
    /// What is in a directory.
    Directory(BTreeMap<PathBuf, Look>),
    /// It is there; what it holds is somebody else's to read.
    There,
    Unreadable(std::io::ErrorKind),
}

/// What all of them looked like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Looks(BTreeMap<PathBuf, Look>);

/// The configuration's file and all files that it names, with how they looked before they were read for the last time.
pub(super) struct WatchedFiles {
    source: Source,
    environment: Environment,
    read: Mutex<Looks>,
    /// Held by the one reading under way.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl WatchedFiles {
    /// For before anything is read: a change from here on is seen.
    pub(super) fn new(source: Source, environment: Environment, config: &Config) -> Self {
        let read = Mutex::new(Looks::of(&source.path, config));
        WatchedFiles { source, environment, read, turn: Arc::default() }
    }

    pub(super) fn environment(&self) -> &Environment {
        &self.environment
    }

    /// What a start reads with.
    pub(super) fn by<'a>(&'a self, process: &'a Process) -> By<'a> {
        By { environment: &self.environment, ports: &process.ports, metrics: &process.metrics }
    }

    /// Waits until nobody else reads.
    pub(super) async fn turn(&self) -> tokio::sync::OwnedMutexGuard<()> {
        self.turn.clone().lock_owned().await
    }

    /// Reads the configuration. Each file is looked at before it is read: a change from here on is seen. So are the files of
    /// `running`, for another configuration that cannot be read.
    pub(super) fn load(&self, running: &Config) -> Result<Loaded, ConfigErrors> {
        let path = &self.source.path;
        let of_configuration = Looks::of_configuration(path);
        *self.read.lock() = of_configuration.clone().and(Looks::of(path, running));
        let loaded = config::load_file(path, &self.source.variables)?;
        *self.read.lock() =
            of_configuration.and(Looks::of(path, &loaded.config)).and(Looks::of(path, running));
        Ok(loaded)
    }

    /// How they look now.
    pub(super) fn look(&self, config: &Config) -> Looks {
        Looks::of(&self.source.path, config)
    }

    /// Whether the files were read as they look now, for a reload that was taken up or refused.
    pub(super) fn has_read(&self, now: &Looks) -> bool {
        now.are_in(&self.read.lock())
    }

    /// Warns of what was found in them.
    pub(super) fn say(&self, warnings: &[Mistake]) {
        for warning in warnings {
            tracing::warn!(config = %self.source.path.display(), "{warning}");
        }
    }
}

impl Looks {
    /// How the configuration's own file and all those that it names, and that a reload reads, look now.
    fn of(path: &Path, config: &Config) -> Self {
        let paths = std::iter::once(path.to_owned()).chain(read_by_a_reload(config));
        Looks(paths.map(|path| (path.clone(), look(&path, 1))).collect())
    }

    /// How the configuration's own file looks now.
    fn of_configuration(path: &Path) -> Self {
        Looks(BTreeMap::from([(path.to_owned(), look(path, 1))]))
    }

    /// These, and of files that are not among these how they look to the other.
    #[must_use]
    fn and(mut self, other: Looks) -> Self {
        for (path, look) in other.0 {
            self.0.entry(path).or_insert(look);
        }
        self
    }

    /// Whether each of these files looks as it does to the other.
    fn are_in(&self, other: &Looks) -> bool {
        self.0.iter().all(|(path, look)| other.0.get(path) == Some(look))
    }
}

/// The files that are read at the start and by a reload. Not those that are looked at by themselves: API keys, other issuers'
/// assertions, the keyring, and the password and certificates for Redis.
fn read_by_a_reload(config: &Config) -> Vec<PathBuf> {
    let outbound = &config.outbound;
    let mut paths: Vec<PathBuf> =
        [&outbound.proxy_password_file, &outbound.proxy_ca_file].into_iter().flatten().cloned().collect();
    for app in config.apps.values() {
        paths.extend(app.authority_ca.clone());
        paths.extend(app.credentials_dir.clone());
        for credential in app.credentials.iter().filter(|one| one.kind != CredentialKind::Federated) {
            paths.push(credential.file.clone());
            paths.extend(credential.key.clone());
        }
    }
    let internal =
        config.listen.local.iter().chain(&config.listen.admin).filter_map(|listener| match listener {
            Listener::Unix { .. } => None,
            Listener::Tcp { tls, .. } => tls.as_ref(),
        });
    for tls in internal.chain(&config.listen.public.tls).chain(&config.listen.ops.tls) {
        paths.extend([tls.certificate.clone(), tls.key.clone()]);
    }
    paths
}

fn look(path: &Path, depth: usize) -> Look {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return Look::Unreadable(error.kind()),
    };
    if metadata.is_dir() && depth > 0 {
        let entries = match std::fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => return Look::Unreadable(error.kind()),
        };
        let is_read =
            |path: &PathBuf| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let paths = entries.filter_map(Result::ok).map(|entry| entry.path()).filter(is_read);
        let look_inside = |path: PathBuf| {
            // Assertions are renewed every hour or so, and read each time they are used; that there is another one is news.
            let is_assertion = path.extension().is_some_and(|extension| extension == "assertion");
            let look = if is_assertion { Look::There } else { look(&path, depth - 1) };
            (path, look)
        };
        return Look::Directory(paths.map(look_inside).collect());
    }
    let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    Look::File(
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
        nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_counts_as_read_with_the_first_look_at_it() {
        let looks = |files: &[(&str, u64)]| {
            let look = |(name, inode): &(&str, u64)| (PathBuf::from(name), Look::File(1, *inode, 1, 1, 1));
            Looks(files.iter().map(look).collect())
        };
        let read = looks(&[("config", 1)]).and(looks(&[("config", 2), ("new.secret", 1)]));
        assert!(looks(&[("config", 1), ("new.secret", 1)]).are_in(&read));
        assert!(!looks(&[("config", 2)]).are_in(&read), "it changed while it was read");
        assert!(!looks(&[("config", 1), ("other", 1)]).are_in(&read), "nobody has read that one");
    }

    #[test]
    fn a_change_behind_links_is_seen_and_an_assertion_s_renewal_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for (version, content) in [("v1", "one"), ("v2", "two")] {
            std::fs::create_dir(at(version)).expect("a folder");
            std::fs::write(at(version).join("a.secret"), content).expect("written");
        }
        // As Kubernetes does it: a -> ..data/a, ..data -> v1.
        std::os::unix::fs::symlink("v1", at("..data")).expect("a link");
        std::os::unix::fs::symlink("..data/a.secret", at("a.secret")).expect("a link");
        let without = look(folder.path(), 1);
        std::fs::write(at("pod.assertion"), "one").expect("written");
        let before = look(folder.path(), 1);
        assert_ne!(before, without, "another credential");
        std::fs::write(at("pod.assertion"), "renewed").expect("written");
        assert_eq!(look(folder.path(), 1), before);
        std::os::unix::fs::symlink("v2", at("..next")).expect("a link");
        std::fs::rename(at("..next"), at("..data")).expect("swapped");
        let after = look(folder.path(), 1);
        assert_ne!(after, before);
        std::fs::remove_file(at("a.secret")).expect("removed");
        assert_ne!(look(folder.path(), 1), after);
    }
}
