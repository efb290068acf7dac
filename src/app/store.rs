//! The configured store, opened and observed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::{Ports, StartError};
use crate::config::{self, RedisKind, StoreBackend, StoreConfig};
use crate::secret_file::SecretReader;
use crate::store::Store;
use crate::store::embedded::{EmbeddedConfig, EmbeddedStore};
use crate::store::observed::{Observed, StoreObserver};
use crate::store::redis::{PasswordSource, RedisConfig, RedisStore, RedisTls, Sentinels, TlsIdentity};

/// A store, and how to end it.
pub(super) struct OpenedStore {
    pub(super) store: Arc<dyn Store>,
    redis: Option<Arc<Observed<RedisStore>>>,
}

impl OpenedStore {
    /// Ends what would outlive a stop. The embedded store ends when the last of its users is gone.
    pub(super) fn close(&self) {
        if let Some(redis) = &self.redis {
            redis.inner().close();
        }
    }
}

pub(super) fn open(
    config: &StoreConfig,
    secrets: &SecretReader,
    ports: &Ports,
    observer: Arc<dyn StoreObserver>,
) -> Result<OpenedStore, StartError> {
    match &config.backend {
        StoreBackend::Embedded { path } => {
            let opened =
                EmbeddedStore::open(&EmbeddedConfig::new(path), ports.clock.clone(), ports.random.as_ref())
                    .map_err(StartError::new)?;
            let store = Arc::new(Observed::new(opened, observer, ports.clock.clone()));
            Ok(OpenedStore { store, redis: None })
        }
        StoreBackend::Redis(redis) => {
            let mut redis = redis_config(redis, secrets, config.journal.as_deref())?;
            redis.observer = Some(observer.clone());
            let opened =
                RedisStore::new(redis, ports.clock.clone(), ports.random.clone(), ports.store_tasks.clone())
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
) -> Result<RedisConfig, StartError> {
    let password = |key: &str, path: &Option<PathBuf>| {
        let Some(path) = path.clone() else { return Ok(None) };
        let secrets = secrets.clone();
        secrets.read_text(&path).map_err(|error| StartError::new(format!("store.{key}: {error}")))?;
        let source: PasswordSource =
            Arc::new(move || secrets.read_text(&path).map_err(|error| error.to_string()));
        Ok(Some(source))
    };
    let mut redis = match &config.kind {
        RedisKind::Standalone => {
            let host = config.hosts.first().ok_or_else(|| StartError::new("store.url names no host"))?;
            RedisConfig::new(host.host.clone(), host.port)
        }
        RedisKind::Sentinel { primary } => {
            let addresses = config.hosts.iter().map(|host| (host.host.clone(), host.port)).collect();
            let mut sentinels = Sentinels::new(addresses, primary.clone());
            sentinels.username.clone_from(&config.sentinel_username);
            sentinels.password = password("sentinel_password_file", &config.sentinel_password_file)?;
            RedisConfig::through(sentinels)
        }
        RedisKind::Cluster => {
            RedisConfig::cluster(config.hosts.iter().map(|host| (host.host.clone(), host.port)).collect())
        }
    };
    redis.wait_replicas = config.wait_replicas;
    redis.wait_timeout = config.wait_timeout;
    redis.database = u16::try_from(config.db)
        .map_err(|_| StartError::new("store.url: there is no such database number"))?;
    redis.identity_file = journal.map(|journal| journal.join("store-identity"));
    redis.username.clone_from(&config.username);
    redis.password = password("password_file", &config.password_file)?;
    if config.tls {
        let (ca, certificate, key) =
            (config.ca_file.clone(), config.client_certificate.clone(), config.client_key.clone());
        let secrets = secrets.clone();
        redis.tls = Some(Arc::new(move || {
            let public = |path| {
                std::fs::read(path).map_err(|error| format!("a certificate file cannot be read: {error}"))
            };
            let ca_pem = ca.as_ref().map(public).transpose()?;
            let identity = match (&certificate, &key) {
                (Some(certificate), Some(key)) => Some(TlsIdentity {
                    certificate_pem: public(certificate)?,
                    key_pem: Zeroizing::new(secrets.read(key).map_err(|error| error.to_string())?.to_vec()),
                }),
                _ => None,
            };
            Ok(RedisTls { ca_pem, identity })
        }));
    }
    Ok(redis)
}
