//! Secrets that end: when is shown, and said in time, each threshold once. Of client credentials more is known than that; they are
//! looked at in [`super::credentials`] and said here.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::jobs::{Ended, Work};
use super::reading::public_file;
use super::reload::Reloader;
use crate::api::upkeep::Ending;
use crate::config::{StoreBackend, StoreConfig};
use crate::domain::expiry::{Warned, warning};
use crate::domain::id::{AppName, CallerName};
use crate::domain::time::Timestamp;
use crate::secret_file::SecretReader;

/// How often it is looked when they end. Days matter, and API keys' time of last use is a minute old at most.
pub(super) const LOOK: Duration = Duration::from_secs(60);

/// A secret that ends, by the names that operators gave it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Secret {
    /// Of an app.
    ClientCredential(AppName, String),
    /// Of a caller or an admin.
    ApiKey(CallerName, String),
    /// Of all listeners of this name, the one that ends first.
    ListenerCertificate(&'static str),
    /// What the store is shown.
    StoreCertificate,
}

/// What was said already.
#[derive(Default)]
pub(super) struct Warnings(Warned<Secret>);

impl Warnings {
    /// Says that it ends, once for each threshold. No time: it does not say, or it is gone.
    pub(super) fn look(&mut self, secret: Secret, expires_at: Option<Timestamp>, now: Timestamp) {
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
            tracing::warn!(%caller, key, days, "an API key {ends}; add the next one, and retire this one when it is used no more");
        }
        Secret::ListenerCertificate(listener) => {
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

/// Looks at API keys, listeners' certificates and those for the store.
pub(super) struct Expiries {
    reloader: Arc<Reloader>,
    warnings: Warnings,
    keys: BTreeSet<(CallerName, String)>,
}

impl Expiries {
    pub(super) fn new(reloader: Arc<Reloader>) -> Self {
        Expiries { reloader, warnings: Warnings::default(), keys: BTreeSet::new() }
    }
}

impl Work for Expiries {
    async fn run(&mut self) -> Ended {
        let Expiries { reloader, warnings, keys } = self;
        reloader.look_at_api_key_files().await;
        *keys = reloader.look_at_api_keys(std::mem::take(keys), warnings);
        reloader.look_at_certificates(warnings).await
    }
}

impl Reloader {
    /// Those that are gone take their series with them. Gives those that there are now.
    fn look_at_api_keys(
        &self,
        before: BTreeSet<(CallerName, String)>,
        warnings: &mut Warnings,
    ) -> BTreeSet<(CallerName, String)> {
        let now = self.ports.clock.now();
        let mut uses = self.callers.load().key_uses();
        uses.extend(self.admins.load().key_uses());
        let there: BTreeSet<_> = uses.iter().map(|used| (used.caller.clone(), used.key.id.clone())).collect();
        self.metrics.rename(|names| names.caller_keys.clone_from(&there));
        for used in uses {
            let (caller, key) = (used.caller, used.key.id);
            self.metrics.caller_key_expiry(&caller, &key, used.key.expires_at);
            if let Some(at) = used.last_used_at {
                self.metrics.caller_key_used(&caller, &key, at);
            }
            warnings.look(Secret::ApiKey(caller, key), Some(used.key.expires_at), now);
        }
        for (caller, key) in before.difference(&there) {
            warnings.look(Secret::ApiKey(caller.clone(), key.clone()), None, now);
        }
        there
    }

    /// (The listeners' are shown by whoever puts them in force.)
    async fn look_at_certificates(&self, warnings: &mut Warnings) -> Ended {
        let now = self.ports.clock.now();
        for (listener, at) in self.tls.expiries() {
            warnings.look(Secret::ListenerCertificate(listener), Some(at), now);
        }
        // Not on a thread that serves: a file may be on a mount that hangs.
        let (running, secrets) = (self.running.load_full(), self.environment.secrets());
        let read = tokio::task::spawn_blocking(move || store_certificates(&running.store, &secrets)).await;
        let StoreCertificates { client, ca } =
            read.map_err(|error| format!("the certificates for the store could not be looked at: {error}"))?;
        if let Some(at) = client {
            self.metrics.store_certificate_expiry("client", at);
            warnings.look(Secret::StoreCertificate, Some(at), now);
        }
        if let Some(at) = ca {
            self.metrics.store_certificate_expiry("ca", at);
        }
        Ok(())
    }
}

impl Reloader {
    /// Every secret that ends, those first that end first, and last those of which nobody knows when.
    pub(super) async fn endings(&self) -> Vec<Ending> {
        let mut all = Vec::new();
        for (app, reports) in self.credentials() {
            // A federated assertion lives for an hour and is renewed by somebody else.
            for one in reports.into_iter().filter(|one| one.kind != "federated" && !one.standing.is_retired) {
                let what = if one.kind == "secret" { "client secret" } else { "client certificate" };
                all.push(Ending { at: one.standing.expires_at, what, of: app.to_string(), id: one.label });
            }
        }
        for used in self.callers.load().key_uses().into_iter().chain(self.admins.load().key_uses()) {
            let (of, id, at) = (used.caller.to_string(), used.key.id, Some(used.key.expires_at));
            all.push(Ending { at, what: "API key", of, id });
        }
        for (listener, at) in self.tls.expiries() {
            all.push(Ending {
                at: Some(at),
                what: "certificate",
                of: "listener".to_owned(),
                id: listener.to_owned(),
            });
        }
        // Not on a thread that serves: a file may be on a mount that hangs.
        let (running, secrets) = (self.running.load_full(), self.environment.secrets());
        let read = tokio::task::spawn_blocking(move || store_certificates(&running.store, &secrets)).await;
        if let Ok(StoreCertificates { client, ca }) = read {
            for (at, id) in [(client, "client"), (ca, "ca")] {
                let ending =
                    |at| Ending { at: Some(at), what: "certificate", of: "store".into(), id: id.into() };
                all.extend(at.map(ending));
            }
        }
        all.sort_by(|a, b| (a.at.is_none(), a).cmp(&(b.at.is_none(), b)));
        all
    }
}

/// When what the store and this process know each other by expires, as the files are now. None where there is no such file, or
/// where it cannot be read: whoever connects to the store says that, and what was found before stays in use.
#[derive(Debug, PartialEq, Eq)]
struct StoreCertificates {
    client: Option<Timestamp>,
    /// Of several authorities the last one, for one is enough: both stand there while one takes the other's place.
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

/// When each certificate of a PEM file expires, in the file's order: a chain begins with the one that is meant.
pub(super) fn ends(pem: &[u8]) -> Vec<Timestamp> {
    validities(pem).into_iter().map(|(_, end)| end).collect()
}

/// The same with when each begins to be valid.
pub(super) fn validities(pem: &[u8]) -> Vec<(Timestamp, Timestamp)> {
    let validity = |certificate: CertificateDer<'_>| {
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).ok()?;
        let at = |time: x509_parser::time::ASN1Time| Timestamp::from_unix_seconds(time.timestamp());
        Some((at(parsed.validity().not_before), at(parsed.validity().not_after)))
    };
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).filter_map(validity).collect()
}
