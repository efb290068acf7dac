//! Secrets that end: metrics show when, and the log warns in time, once for each threshold.
//! [`super::credentials`] knows more of client credentials, and warns by this file's `Warnings`.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinError;

use super::files::WatchedFiles;
use super::in_force::InForce;
use super::jobs::{Ended, Work};
use super::listeners::TlsFile;
use super::process::Process;
use super::reading::public_file::{self, ends};
use crate::api::upkeep::Ending;
use crate::broker::Broker;
use crate::config::{StoreBackend, StoreConfig};
use crate::domain::expiry::{Warned, warning};
use crate::domain::id::{AppName, CallerName};
use crate::domain::time::{Clock, Timestamp};
use crate::secret_file::SecretReader;
use crate::telemetry::metrics::Metrics;

/// How often the ends are checked. Days matter, and the time of an API key's last use is a minute old at
/// most.
pub(super) const CHECK_EVERY: Duration = Duration::from_secs(60);

/// A secret that ends, by the names that operators gave it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Secret {
    /// Of an app.
    ClientCredential(AppName, String),
    /// Of a caller or an admin.
    ApiKey(CallerName, String),
    /// The file of the TLS of a listener of this name that ends first.
    ListenerTls(&'static str, TlsFile),
    /// The client certificate for the store.
    StoreCertificate,
}

/// Warnings that were logged already.
#[derive(Default)]
pub(super) struct Warnings(Warned<Secret>);

impl Warnings {
    /// Warns that the secret ends, once for each threshold. `expires_at` is `None` if the secret has no known
    /// end or is gone.
    pub(super) fn check(&mut self, secret: Secret, expires_at: Option<Timestamp>, now: Timestamp) {
        let days = expires_at.and_then(|at| warning(at, now));
        if self.0.is_news(secret.clone(), days)
            && let Some(days) = days
        {
            say(&secret, days);
        }
    }
}

fn say(secret: &Secret, days: u32) {
    let ends = if days == 0 { "has expired" } else { "expires within so many days" };
    match secret {
        Secret::ClientCredential(app, credential) => {
            tracing::warn!(%app, credential, days, "a client credential {ends}; add the next one now");
        }
        Secret::ApiKey(caller, key) => {
            tracing::warn!(%caller, key, days, "an API key {ends}; add the next one, and retire this one \
                                                when it is used no more");
        }
        Secret::ListenerTls(listener, TlsFile::ClientCa) => {
            tracing::warn!(
                listener,
                days,
                "an authority of clients' certificates {ends}; add the next one to client_ca, and take this \
                 one out when no client needs it"
            );
        }
        Secret::ListenerTls(listener, TlsFile::ClientCrl) => {
            tracing::warn!(
                listener,
                "a revocation list is out of date: certificates of its authority are refused; write the \
                 next one over client_crl"
            );
        }
        Secret::ListenerTls(listener, TlsFile::Certificate) => {
            tracing::warn!(
                listener,
                days,
                "a listener's certificate {ends}; write the next one over its files"
            );
        }
        Secret::StoreCertificate => {
            tracing::warn!(
                days,
                "the client certificate for the store {ends}; write the next one over its files"
            );
        }
    }
}

/// Knows every secret that ends.
pub(super) struct Foresight {
    in_force: Arc<InForce>,
    files: Arc<WatchedFiles>,
    broker: Arc<Broker>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

impl Foresight {
    pub(super) fn new(
        process: &Process,
        files: Arc<WatchedFiles>,
        in_force: Arc<InForce>,
        broker: Arc<Broker>,
    ) -> Self {
        let (clock, metrics) = (process.ports.clock.clone(), process.metrics.clone());
        Foresight { in_force, files, broker, clock, metrics }
    }

    /// Every secret that ends, in the order of their ends. Those without a known end come last.
    pub(super) async fn endings(&self) -> Vec<Ending> {
        let mut all = Vec::new();
        for (app, reports) in self.broker.client_credentials() {
            // A federated assertion lives for an hour and is renewed by somebody else.
            for one in reports.into_iter().filter(|one| one.kind != "federated" && !one.standing.is_retired) {
                let what = if one.kind == "secret" { "client secret" } else { "client certificate" };
                all.push(Ending { at: one.standing.expires_at, what, of: app.to_string(), id: one.label });
            }
        }
        for used in self.in_force.roster().key_uses() {
            let (of, id, at) = (used.caller.to_string(), used.key.id, Some(used.key.expires_at));
            all.push(Ending { at, what: "API key", of, id });
        }
        let certificate = |at, of: &str, id: &str| Ending {
            at: Some(at),
            what: "certificate",
            of: of.to_owned(),
            id: id.to_owned(),
        };
        // A revocation list is replaced by its authority, every few days.
        let of_tls = self.in_force.tls_ends().into_iter();
        all.extend(of_tls.filter_map(|((listener, file), at)| match file {
            TlsFile::Certificate => Some(certificate(at, "listener", listener)),
            TlsFile::ClientCa => Some(certificate(at, "client CA of listener", listener)),
            TlsFile::ClientCrl => None,
        }));
        if let Ok(StoreCertificates { client, ca }) = self.store_certificates().await {
            let known = [(client, "client"), (ca, "ca")].into_iter();
            all.extend(known.filter_map(|(at, id)| Some(certificate(at?, "store", id))));
        }
        all.sort_by(|a, b| (a.at.is_none(), a).cmp(&(b.at.is_none(), b)));
        all
    }

    async fn store_certificates(&self) -> Result<StoreCertificates, JoinError> {
        // Not on a thread that serves, since a file may be on a mount that hangs.
        let (config, secrets) = (self.in_force.config(), self.files.environment().secrets());
        tokio::task::spawn_blocking(move || store_certificates(&config.store, &secrets)).await
    }
}

/// Shows when API keys, listeners' certificates and those for the store end, and warns in time.
pub(super) struct Expiries {
    foresight: Arc<Foresight>,
    warnings: Warnings,
    keys: BTreeSet<(CallerName, String)>,
}

impl Expiries {
    pub(super) fn new(foresight: Arc<Foresight>) -> Self {
        Expiries { foresight, warnings: Warnings::default(), keys: BTreeSet::new() }
    }

    /// Ends the series of keys that are gone, too.
    fn check_api_keys(&mut self, now: Timestamp) {
        let Foresight { in_force, metrics, .. } = &*self.foresight;
        let uses = in_force.roster().key_uses();
        let there: BTreeSet<_> = uses.iter().map(|used| (used.caller.clone(), used.key.id.clone())).collect();
        let signing = in_force.roster().client_key_uses();
        metrics.rename(|names| {
            names.caller_keys = signing.iter().map(|used| (used.caller.clone(), used.key.clone())).collect();
            names.caller_keys.extend(there.iter().cloned());
        });
        for used in signing {
            if let Some(at) = used.last_used_at {
                metrics.caller_key_used(&used.caller, &used.key, at);
            }
        }
        for used in uses {
            let (caller, key) = (used.caller, used.key.id);
            metrics.caller_key_expiry(&caller, &key, used.key.expires_at);
            if let Some(at) = used.last_used_at {
                metrics.caller_key_used(&caller, &key, at);
            }
            self.warnings.check(Secret::ApiKey(caller, key), Some(used.key.expires_at), now);
        }
        for (caller, key) in self.keys.difference(&there) {
            self.warnings.check(Secret::ApiKey(caller.clone(), key.clone()), None, now);
        }
        self.keys = there;
    }

    /// (The listeners' series are written by the part that puts certificates in force.)
    async fn check_certificates(&mut self, now: Timestamp) -> Ended {
        let Foresight { in_force, metrics, .. } = &*self.foresight;
        for ((listener, file), at) in in_force.tls_ends() {
            // A revocation list lives for days, so nothing is said before its end.
            let at = Some(at).filter(|at| file != TlsFile::ClientCrl || *at <= now);
            self.warnings.check(Secret::ListenerTls(listener, file), at, now);
        }
        let read = self.foresight.store_certificates().await;
        let StoreCertificates { client, ca } =
            read.map_err(|error| format!("the certificates for the store could not be read: {error}"))?;
        if let Some(at) = client {
            metrics.store_certificate_expiry("client", at);
            self.warnings.check(Secret::StoreCertificate, Some(at), now);
        }
        if let Some(at) = ca {
            metrics.store_certificate_expiry("ca", at);
        }
        Ok(())
    }
}

impl Work for Expiries {
    async fn run(&mut self) -> Ended {
        let clock = self.foresight.clock.clone();
        self.foresight.in_force.roster().check_key_files(&*clock).await;
        let now = clock.now();
        self.check_api_keys(now);
        self.check_certificates(now).await
    }
}

/// Ends of the certificates by which the store and this process know each other, as the files are now. `None`
/// if there is no such file or it cannot be read: the part that connects to the store reports that, and keeps
/// what it read before.
#[derive(Debug, PartialEq, Eq)]
struct StoreCertificates {
    client: Option<Timestamp>,
    /// Of several authorities the last to end. One is enough: both are in the file while one replaces the
    /// other.
    ca: Option<Timestamp>,
}

fn store_certificates(store: &StoreConfig, secrets: &SecretReader) -> StoreCertificates {
    let StoreBackend::Redis(redis) = &store.backend else {
        return StoreCertificates { client: None, ca: None };
    };
    let read = |path: &Option<_>| {
        path.as_deref().map(|path: &Path| public_file::read(path, secrets).unwrap_or_default())
    };
    StoreCertificates {
        client: read(&redis.client_certificate).and_then(|pem| ends(&pem).first().copied()),
        ca: read(&redis.ca_file).and_then(|pem| ends(&pem).into_iter().max()),
    }
}
