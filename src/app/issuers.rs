//! The configured issuers of callers' JWTs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::findings::{By, Findings};
use super::reading::public_file;
use crate::authority::{
    AssertionFile, AssertionSource, IssuerKeys, IssuerKeysConfig, IssuerKeysError, Outbound, Roots,
};
use crate::callers::jwt::{HeldKeys, Issuer, KeyObserver, KeyParts};
use crate::config::{self, Config, IssuerConfig};
use crate::domain::time::Timestamp;
use crate::jwt::PublishedKeys;
use crate::jwt::keys::KeySet;
use crate::telemetry::metrics::Metrics;

/// An issuer, with what its keys were made from.
#[derive(Clone)]
pub(super) struct InstalledIssuer {
    pub(super) issuer: Arc<Issuer>,
    way: Way,
}

/// The issuers by their names in the configuration.
pub(super) type InstalledIssuers = BTreeMap<String, InstalledIssuer>;

/// How keys are come by.
#[derive(Clone, PartialEq)]
enum Way {
    File,
    Fetched {
        /// The issuer, and the URL of its keys if there is no discovery.
        from: (String, Option<String>),
        roots: Roots,
        token_file: Option<PathBuf>,
        outbound: Arc<Outbound>,
        timeout: Duration,
    },
}

/// Reads all issuers, and keeps the fetched keys of those `before`. Those that are wrong are left out.
pub(super) fn prepare(
    config: &Config,
    outbound: &Arc<Outbound>,
    by: &By<'_>,
    before: &InstalledIssuers,
    findings: &mut Findings<'_>,
) -> InstalledIssuers {
    let mut installed = InstalledIssuers::new();
    for (name, issuer) in &config.issuers {
        let key = format!("issuers.{name}");
        let Some(way) = way(&key, issuer, config, outbound, by, findings) else { continue };
        let keys = match &issuer.keys {
            config::IssuerKeysConfig::File(path) => from_file(&key, name, path, by, findings),
            config::IssuerKeysConfig::Fetched { .. } => fetched(&key, name, &way, by, before, findings),
        };
        let Some(keys) = keys else { continue };
        let issuer = Issuer {
            name: name.clone(),
            iss: issuer.issuer.clone(),
            audience: issuer.audience.clone(),
            max_ttl: issuer.max_ttl,
            not_for: config.apps.values().map(|app| app.client_id.clone()).collect(),
            keys,
        };
        installed.insert(name.clone(), InstalledIssuer { issuer: Arc::new(issuer), way });
    }
    installed
}

fn way(
    key: &str,
    issuer: &IssuerConfig,
    config: &Config,
    outbound: &Arc<Outbound>,
    by: &By<'_>,
    findings: &mut Findings<'_>,
) -> Option<Way> {
    let config::IssuerKeysConfig::Fetched { jwks_url, ca_file, token_file } = &issuer.keys else {
        return Some(Way::File);
    };
    let secrets = by.environment.secrets();
    let roots = match ca_file {
        Some(path) => {
            Roots::Only(public_file::certificates(&format!("{key}.ca_file"), path, &secrets, findings)?)
        }
        None => Roots::System,
    };
    if let Some(path) = token_file
        && let Err(problem) = public_file::read(path, &secrets)
    {
        findings.file(&format!("{key}.token_file"), problem);
        return None;
    }
    Some(Way::Fetched {
        from: (issuer.issuer.clone(), jwks_url.clone()),
        roots,
        token_file: token_file.clone(),
        outbound: Arc::clone(outbound),
        timeout: config.limits.authority_timeout,
    })
}

fn from_file(
    key: &str,
    name: &str,
    path: &std::path::Path,
    by: &By<'_>,
    findings: &mut Findings<'_>,
) -> Option<Arc<HeldKeys>> {
    let key = format!("{key}.jwks_file");
    let bytes = public_file::read(path, &by.environment.secrets());
    let bytes = bytes.map_err(|problem| findings.file(&key, problem)).ok()?;
    match KeySet::parse(&bytes) {
        Ok(keys) => Some(Arc::new(HeldKeys::fixed(name, PublishedKeys { keys, algorithms: None }))),
        Err(why) => {
            findings.file(&key, format_args!("{} is no JWK set (RFC 7517): {why}", path.display()));
            None
        }
    }
}

fn fetched(
    key: &str,
    name: &str,
    way: &Way,
    by: &By<'_>,
    before: &InstalledIssuers,
    findings: &mut Findings<'_>,
) -> Option<Arc<HeldKeys>> {
    let Way::Fetched { from, roots, token_file, outbound, timeout } = way else { return None };
    let before = before.get(name);
    if let Some(same) = before.filter(|before| before.way == *way) {
        return Some(Arc::clone(&same.issuer.keys));
    }
    let guard = by.environment.secrets().guard();
    let bearer = token_file.as_ref().map(|path| AssertionFile::new(path, guard));
    let wanted = IssuerKeysConfig {
        issuer: from.0.clone(),
        jwks_url: from.1.clone(),
        roots: roots.clone(),
        outbound: Arc::clone(outbound),
        bearer: bearer.map(|file| Arc::new(file) as Arc<dyn AssertionSource>),
        timeout: *timeout,
    };
    let fetch = IssuerKeys::new(wanted, by.ports.clock.clone()).map_err(|error| match &error {
        IssuerKeysError::Issuer(_) => findings.value(&format!("{key}.issuer"), error, None),
        IssuerKeysError::JwksUrl(_) => findings.value(&format!("{key}.jwks_url"), error, None),
        IssuerKeysError::Roots(_) => findings.file(&format!("{key}.ca_file"), error),
    });
    let parts = KeyParts {
        clock: by.ports.clock.clone(),
        tasks: by.ports.tasks.clone(),
        observer: Arc::new(KeyCounters(by.metrics.clone())),
    };
    let keys = HeldKeys::fetched(name, Arc::new(fetch.ok()?), parts);
    if let Some(before) = before
        && matches!(&before.way, Way::Fetched { from: same, .. } if same == from)
    {
        keys.take_over(&before.issuer.keys);
    }
    Some(Arc::new(keys))
}

/// Counts fetches of issuers' keys.
struct KeyCounters(Arc<Metrics>);

impl KeyObserver for KeyCounters {
    fn keys_fetched(&self, issuer: &str, at: Timestamp, is_ok: bool) {
        self.0.issuer_keys_fetched(issuer, at, is_ok);
    }
}
