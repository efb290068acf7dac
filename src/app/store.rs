//! The configured store: prepared, opened and observed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::findings::Findings;
use super::process::Ports;
use super::reading::public_file;
use super::reporting::Reporting;
use super::start_error::StartError;
use crate::config::{self, RedisKind, StoreBackend, StoreConfig};
use crate::journal::files::FileJournal;
use crate::keyring::Keyring;
use crate::repository::Repository;
use crate::secret_file::SecretReader;
use crate::store::Store;
use crate::store::embedded::{self, EmbeddedConfig, EmbeddedStore};
use crate::store::observed::{Observed, StoreObserver};
use crate::store::redis::{
    PasswordSource, RedisConfig, RedisStore, RedisTls, Sentinels, TlsIdentity, TlsSource,
};

/// A store, and the way to end it.
pub(super) struct OpenedStore {
    pub(super) store: Arc<dyn Store>,
    redis: Option<Arc<Observed<RedisStore>>>,
}

impl OpenedStore {
    /// Ends the parts that would outlive a stop. The embedded store ends with its last user.
    pub(super) fn close(&self) {
        if let Some(redis) = &self.redis {
            redis.inner().close();
        }
    }
}

/// The store in use, and the repository on it.
pub(super) struct Stored {
    pub(super) store: OpenedStore,
    pub(super) repository: Arc<Repository>,
}

/// Opens the journal, if there is one, and then the store.
pub(super) fn start(
    prepared: PreparedStore,
    config: &StoreConfig,
    keyring: &Arc<Keyring>,
    reporting: &Reporting,
    ports: &Ports,
) -> Result<Stored, StartError> {
    let journal = match &config.journal {
        Some(path) => Some(
            FileJournal::open(path).map_err(|error| StartError::new(format!("store.journal: {error}")))?,
        ),
        None => None,
    };
    let store = open(prepared, ports, reporting.counters.clone())?;
    let repository = Repository::new(store.store.clone(), keyring.clone(), ports.random.clone());
    let mut repository = repository.with_damage_observer(reporting.counters.clone());
    if let Some(journal) = journal {
        repository = repository.with_journal(Arc::new(journal));
    }
    Ok(Stored { store, repository: Arc::new(repository) })
}

/// A store that can be opened, as far as this machine's files show.
pub(super) enum PreparedStore {
    Embedded(PathBuf),
    Redis(Box<RedisConfig>),
}

/// Reads the files that are needed to open the store. Opens and makes nothing.
pub(super) fn prepare(
    config: &StoreConfig,
    secrets: &SecretReader,
    ports: &Ports,
    findings: &mut Findings<'_>,
) -> Option<PreparedStore> {
    let mistakes = findings.mistakes();
    let prepared = match &config.backend {
        StoreBackend::Embedded { path } => {
            if let Err(error) = embedded::look(path) {
                findings.file("store.path", error);
            }
            PreparedStore::Embedded(path.clone())
        }
        StoreBackend::Redis(redis) => PreparedStore::Redis(Box::new(redis_config(
            redis,
            secrets,
            config.journal.as_deref(),
            ports,
            findings,
        )?)),
    };
    (findings.mistakes() == mistakes).then_some(prepared)
}

fn open(
    prepared: PreparedStore,
    ports: &Ports,
    observer: Arc<dyn StoreObserver>,
) -> Result<OpenedStore, StartError> {
    match prepared {
        PreparedStore::Embedded(path) => {
            let opened =
                EmbeddedStore::open(&EmbeddedConfig::new(&path), ports.clock.clone(), ports.random.as_ref())
                    .map_err(StartError::new)?;
            let store = Arc::new(Observed::new(opened, observer, ports.clock.clone()));
            Ok(OpenedStore { store, redis: None })
        }
        PreparedStore::Redis(mut redis) => {
            redis.observer = Some(observer.clone());
            let opened =
                RedisStore::new(*redis, ports.clock.clone(), ports.random.clone(), ports.store_tasks.clone())
                    .map_err(StartError::new)?;
            let redis = Arc::new(Observed::new(opened, observer, ports.clock.clone()));
            Ok(OpenedStore { store: redis.clone(), redis: Some(redis) })
        }
    }
}

fn redis_config(
    config: &config::RedisConfig,
    secrets: &SecretReader,
    journal: Option<&Path>,
    ports: &Ports,
    findings: &mut Findings<'_>,
) -> Option<RedisConfig> {
    let mut password = |key: &str, path: &Option<PathBuf>| {
        let path = path.clone()?;
        let secrets = secrets.clone();
        let key = format!("store.{key}");
        match secrets.read_text(&path) {
            Ok(password) => public_file::warn_of_a_secret(&key, &path, &password, findings),
            Err(error) => findings.file(&key, error),
        }
        let source: PasswordSource =
            Arc::new(move || secrets.read_text(&path).map_err(|error| error.to_string()));
        Some(source)
    };
    let addresses = || config.hosts.iter().map(|host| (host.host.clone(), host.port)).collect();
    let mut redis = match &config.kind {
        RedisKind::Standalone => {
            let host = config.hosts.first().expect("a URL without a host is a mistake of its own");
            RedisConfig::new(host.host.clone(), host.port)
        }
        RedisKind::Sentinel { primary } => {
            let mut sentinels = Sentinels::new(addresses(), primary.clone());
            sentinels.username.clone_from(&config.sentinel_username);
            sentinels.password = password("sentinel_password_file", &config.sentinel_password_file);
            RedisConfig::through(sentinels)
        }
        RedisKind::Cluster => RedisConfig::cluster(addresses()),
    };
    redis.wait_replicas = config.wait_replicas;
    redis.wait_timeout = config.wait_timeout;
    redis.identity_file = journal.map(|journal| journal.join("store-identity"));
    redis.username.clone_from(&config.username);
    redis.password = password("password_file", &config.password_file);
    match u16::try_from(config.db) {
        Ok(database) => redis.database = database,
        Err(_) => findings.value("store.url", "there is no such database number", None),
    }
    if config.tls {
        look_at_tls(config, secrets, ports, findings);
        redis.tls = Some(tls_source(config, secrets));
    }
    Some(redis)
}

/// Checks the files of TLS, each by itself and then together.
fn look_at_tls(
    config: &config::RedisConfig,
    secrets: &SecretReader,
    ports: &Ports,
    findings: &mut Findings<'_>,
) {
    const CERTIFICATE: &str = "store.client_certificate";
    let mistakes = findings.mistakes();
    if let Some(path) = &config.ca_file {
        public_file::certificates("store.ca_file", path, secrets, findings);
    }
    if let Some(path) = &config.client_certificate
        && let Some(pem) = public_file::certificates(CERTIFICATE, path, secrets, findings)
    {
        public_file::warn_of_a_certificate_s_time(
            CERTIFICATE,
            path,
            pem.as_bytes(),
            ports.clock.now(),
            findings,
        );
    }
    if let Some(path) = &config.client_key
        && let Err(error) = secrets.read(path)
    {
        findings.file("store.client_key", error);
    }
    if findings.mistakes() == mistakes
        && let Err(problem) = tls_source(config, secrets)().and_then(|tls| tls.look())
    {
        let key = if config.client_certificate.is_some() { CERTIFICATE } else { "store.ca_file" };
        findings.file(key, problem);
    }
}

fn tls_source(config: &config::RedisConfig, secrets: &SecretReader) -> TlsSource {
    let (ca, certificate, key) =
        (config.ca_file.clone(), config.client_certificate.clone(), config.client_key.clone());
    let secrets = secrets.clone();
    Arc::new(move || {
        let ca_pem = ca.as_deref().map(|path| public_file::read(path, &secrets)).transpose()?;
        let identity = match (&certificate, &key) {
            (Some(certificate), Some(key)) => Some(TlsIdentity {
                certificate_pem: public_file::read(certificate, &secrets)?,
                key_pem: Zeroizing::new(secrets.read(key).map_err(|error| error.to_string())?.to_vec()),
            }),
            _ => None,
        };
        Ok(RedisTls { ca_pem, identity })
    })
}
