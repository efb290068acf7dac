//! Finds out whether a file that the configuration names has changed. Files are checked once a second,
//! through all symbolic links: so an editor's rename, a Kubernetes volume's swapped link and a mount that
//! comes and goes all look the same.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::environment::{Environment, Source};
use super::findings::By;
use super::process::Process;
use crate::config::{
    self, Authenticate, Config, ConfigErrors, CredentialKind, IssuerKeysConfig, Listener, Loaded, Mistake,
};

/// State of a file when it was checked. If it differs, the content may differ.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Device, inode and length, and the times at which content and status changed, in nanoseconds.
    File(u64, u64, u64, i128, i128),
    /// Every entry of a directory.
    Directory(BTreeMap<PathBuf, State>),
    /// The file exists. Another part reads its content.
    There,
    Unreadable(std::io::ErrorKind),
}

/// State of several files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct States(BTreeMap<PathBuf, State>);

/// The configuration's file and all files that it names, with their state from before they were last read.
pub(super) struct WatchedFiles {
    source: Source,
    environment: Environment,
    read: Mutex<States>,
    /// Locked by the reading under way.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl WatchedFiles {
    /// To be made before anything is read, so that every later change is noticed.
    pub(super) fn new(source: Source, environment: Environment, config: &Config) -> Self {
        let read = Mutex::new(States::of(&source.path, config));
        WatchedFiles { source, environment, read, turn: Arc::default() }
    }

    pub(super) fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The ports that a start reads with.
    pub(super) fn by<'a>(&'a self, process: &'a Process) -> By<'a> {
        By { environment: &self.environment, ports: &process.ports, metrics: &process.metrics }
    }

    /// Waits until no other reading is under way.
    pub(super) async fn turn(&self) -> tokio::sync::OwnedMutexGuard<()> {
        self.turn.clone().lock_owned().await
    }

    /// Reads the configuration. Each file is checked before it is read, so that every later change is
    /// noticed. The files of `running` are checked too, for the case that the new configuration cannot be
    /// read.
    pub(super) fn load(&self, running: &Config) -> Result<Loaded, ConfigErrors> {
        let path = &self.source.path;
        let of_configuration = States::of_configuration(path);
        *self.read.lock() = of_configuration.clone().and(States::of(path, running));
        let loaded = config::load_file(path, &self.source.variables)?;
        *self.read.lock() =
            of_configuration.and(States::of(path, &loaded.config)).and(States::of(path, running));
        Ok(loaded)
    }

    /// Present state of the files.
    pub(super) fn states(&self, config: &Config) -> States {
        States::of(&self.source.path, config)
    }

    /// Whether the files were last read in this state, by a reload that was taken up or refused.
    pub(super) fn has_read(&self, now: &States) -> bool {
        now.are_in(&self.read.lock())
    }

    /// Logs the warnings about the files.
    pub(super) fn say(&self, warnings: &[Mistake]) {
        for warning in warnings {
            tracing::warn!(config = %self.source.path.display(), "{warning}");
        }
    }
}

impl States {
    /// State of the configuration's own file and of all files that it names and a reload reads.
    fn of(path: &Path, config: &Config) -> Self {
        let paths = std::iter::once(path.to_owned()).chain(read_by_a_reload(config));
        States(paths.map(|path| (path.clone(), state_of(&path, 1))).collect())
    }

    /// State of the configuration's own file.
    fn of_configuration(path: &Path) -> Self {
        States(BTreeMap::from([(path.to_owned(), state_of(path, 1))]))
    }

    /// Adds the files of `other` that are not among these.
    #[must_use]
    fn and(mut self, other: States) -> Self {
        for (path, state) in other.0 {
            self.0.entry(path).or_insert(state);
        }
        self
    }

    /// Whether `other` has each of these files in the same state.
    fn are_in(&self, other: &States) -> bool {
        self.0.iter().all(|(path, state)| other.0.get(path) == Some(state))
    }
}

/// Files that are read at the start and by a reload. API keys, other issuers' assertions, tokens for issuers,
/// the keyring, and the password and certificates for Redis are not among them: each of these is checked by
/// its own part.
fn read_by_a_reload(config: &Config) -> Vec<PathBuf> {
    let outbound = &config.outbound;
    let mut paths: Vec<PathBuf> =
        [&outbound.proxy_password_file, &outbound.proxy_ca_file].into_iter().flatten().cloned().collect();
    paths.extend(config.audit.signing_key.clone());
    let traces = config.traces.iter().flat_map(|traces| [&traces.headers_file, &traces.ca_file]);
    paths.extend(traces.flatten().cloned());
    let webhooks = config.webhooks.values();
    paths.extend(webhooks.clone().map(|webhook| webhook.secret_file.clone()));
    paths.extend(webhooks.filter_map(|webhook| webhook.ca_file.clone()));
    paths.extend([&config.pages.logo, &config.pages.languages_dir].into_iter().flatten().cloned());
    for app in config.apps.values() {
        paths.extend(app.authority_ca.clone());
        paths.extend(app.relay.ca.clone());
        paths.extend(app.credentials_dir.clone());
        for credential in app.credentials.iter().filter(|one| one.kind != CredentialKind::Federated) {
            paths.push(credential.file.clone());
            paths.extend(credential.key.clone());
        }
    }
    for issuer in config.issuers.values() {
        match &issuer.keys {
            IssuerKeysConfig::File(path) => paths.push(path.clone()),
            IssuerKeysConfig::Fetched { ca_file, .. } => paths.extend(ca_file.clone()),
        }
    }
    let ways = config.callers.values().flat_map(|caller| &caller.authenticate);
    paths.extend(ways.filter_map(|way| match way {
        Authenticate::ClientAssertion(path) => Some(path.clone()),
        _ => None,
    }));
    let internal =
        config.listen.local.iter().chain(&config.listen.admin).filter_map(|listener| match listener {
            Listener::Unix { .. } => None,
            Listener::Tcp { tls, .. } => tls.as_ref(),
        });
    for tls in internal.chain(&config.listen.public.tls).chain(&config.listen.ops.tls) {
        paths.extend([tls.certificate.clone(), tls.key.clone()]);
        paths.extend([&tls.client_ca, &tls.client_crl].into_iter().flatten().cloned());
    }
    paths
}

fn state_of(path: &Path, depth: usize) -> State {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return State::Unreadable(error.kind()),
    };
    if metadata.is_dir() && depth > 0 {
        let entries = match std::fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => return State::Unreadable(error.kind()),
        };
        let is_read =
            |path: &PathBuf| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let paths = entries.filter_map(Result::ok).map(|entry| entry.path()).filter(is_read);
        let state_inside = |path: PathBuf| {
            // An assertion is renewed every hour or so and read each time it is used. Only a further file is
            // a change.
            let is_assertion = path.extension().is_some_and(|extension| extension == "assertion");
            let state = if is_assertion { State::There } else { state_of(&path, depth - 1) };
            (path, state)
        };
        return State::Directory(paths.map(state_inside).collect());
    }
    let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    State::File(
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
    fn a_file_counts_as_read_in_the_state_before_its_first_reading() {
        let states = |files: &[(&str, u64)]| {
            let state = |(name, inode): &(&str, u64)| (PathBuf::from(name), State::File(1, *inode, 1, 1, 1));
            States(files.iter().map(state).collect())
        };
        let read = states(&[("config", 1)]).and(states(&[("config", 2), ("new.secret", 1)]));
        assert!(states(&[("config", 1), ("new.secret", 1)]).are_in(&read));
        assert!(!states(&[("config", 2)]).are_in(&read), "it changed while it was read");
        assert!(!states(&[("config", 1), ("other", 1)]).are_in(&read), "nobody has read that one");
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
        let without = state_of(folder.path(), 1);
        std::fs::write(at("pod.assertion"), "one").expect("written");
        let before = state_of(folder.path(), 1);
        assert_ne!(before, without, "another credential");
        std::fs::write(at("pod.assertion"), "renewed").expect("written");
        assert_eq!(state_of(folder.path(), 1), before);
        std::os::unix::fs::symlink("v2", at("..next")).expect("a link");
        std::fs::rename(at("..next"), at("..data")).expect("swapped");
        let after = state_of(folder.path(), 1);
        assert_ne!(after, before);
        std::fs::remove_file(at("a.secret")).expect("removed");
        assert_ne!(state_of(folder.path(), 1), after);
    }
}
