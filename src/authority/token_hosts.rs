//! The known token hosts, shared between the store's keeper and the senders of secrets.
//!
//! Nothing is sent before the stored record is known: a restart with another configuration must not lead a
//! secret to another host.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::client::{OpenIdAuthority, ours};
use super::clouds::Provider;
use super::credential_set::Member;
use super::observer::AuthorityEvent;
use super::text::one_line;
use super::url::CheckedUrl;
use crate::domain::account::Account;
use crate::domain::clouds::cloud_of;
use crate::domain::proxy::host_and_port;
use crate::domain::time::{Clock, Timestamp};
use crate::domain::token_hosts::{Confined, TokenHosts};
use crate::domain::verdict::{AuthorityFailure, Disposition};

/// Value of [`AuthorityError::error`](crate::domain::verdict::AuthorityError::error), without a status, if
/// nothing was sent because the token host differs from before.
pub const HOST_NOT_CONFIRMED: &str = "host_not_confirmed";

/// The known hosts of all apps.
#[derive(Debug)]
pub struct KnownTokenHosts {
    hosts: Mutex<TokenHosts>,
    /// (app, host) pairs that were logged as held back.
    said: Mutex<BTreeSet<(String, String)>>,
    is_read: watch::Sender<bool>,
}

/// The known hosts for one app's authority.
#[derive(Debug, Clone)]
pub struct AppHosts {
    /// The app's name.
    pub app: String,
    /// The known hosts of all apps.
    pub known: Arc<KnownTokenHosts>,
}

/// For users without a store: no record is loaded.
impl Default for AppHosts {
    fn default() -> Self {
        let known = KnownTokenHosts::default();
        known.take_up(&TokenHosts::default());
        AppHosts { app: "app".to_owned(), known: Arc::new(known) }
    }
}

/// Nothing is known before a record is loaded.
impl Default for KnownTokenHosts {
    fn default() -> Self {
        KnownTokenHosts {
            hosts: Mutex::default(),
            said: Mutex::default(),
            is_read: watch::Sender::new(false),
        }
    }
}

/// Reason why a secret is not sent.
pub(super) enum Stays {
    /// The stored record is not known yet.
    Unread,
    /// It belongs to these hosts. True if that has not been logged yet.
    For(BTreeSet<String>, bool),
}

impl KnownTokenHosts {
    /// Merges a stored record, and returns the result.
    pub fn take_up(&self, remembered: &TokenHosts) -> TokenHosts {
        let mut hosts = lock(&self.hosts);
        *hosts = hosts.merged(remembered);
        self.is_read.send_replace(true);
        hosts.clone()
    }

    /// Records an operator's confirmation that an app's secrets go to this host.
    pub fn confirmed(&self, app: &str, host: &str, now: Timestamp) {
        lock(&self.hosts).confirm(app, host, now);
        lock(&self.said).remove(&(app.to_owned(), host.to_owned()));
    }
}

impl AppHosts {
    /// Returns whether a secret may be sent to a host. Waits for the stored record, up to `limit`.
    pub(super) async fn admit(
        &self,
        secret: Confined<'_>,
        host: &str,
        clock: &dyn Clock,
        limit: Duration,
    ) -> Result<(), Stays> {
        let mut is_read = self.known.is_read.subscribe();
        if !*is_read.borrow() {
            tokio::select! {
                biased;
                _ = is_read.wait_for(|is_read| *is_read) => {}
                () = clock.sleep(limit) => return Err(Stays::Unread),
            }
        }
        let admitted = lock(&self.known.hosts).admit(&self.app, secret, host, clock.now());
        admitted.map_err(|hosts| {
            let is_news = lock(&self.known.said).insert((self.app.clone(), host.to_owned()));
            Stays::For(hosts, is_news)
        })
    }
}

impl OpenIdAuthority {
    /// Returns whether a secret may be sent to this endpoint's host.
    pub(super) async fn admit(
        &self,
        doing: &'static str,
        secret: Confined<'_>,
        endpoint: &CheckedUrl,
        limit: Duration,
    ) -> Result<(), AuthorityFailure> {
        let host = token_host(endpoint);
        let hosts = &self.parts.token_hosts;
        let (before, is_news) = match hosts.admit(secret, &host, &*self.parts.clock, limit).await {
            Ok(()) => return Ok(()),
            Err(Stays::For(before, is_news)) => (before, is_news),
            Err(Stays::Unread) => {
                let cause = "the record of token hosts has not been read from the store yet".to_owned();
                return Err(ours(doing, Disposition::RetryAfter(None), cause));
            }
        };
        let before = match before.is_empty() {
            true => "another authority".to_owned(),
            false => before.into_iter().collect::<Vec<_>>().join(", "),
        };
        let what = match secret {
            Confined::Credential(_) => "the client credential",
            Confined::Grants { .. } => "the grant",
        };
        let cause = format!(
            "the token endpoint is on {host}, and {what} is for {before}: it is not sent. If the change is \
             right: tokenward credentials confirm {} {host}",
            hosts.app
        );
        if is_news {
            self.observe(AuthorityEvent::HeldBack { cause: &cause });
        }
        let mut failure = ours(doing, Disposition::Misconfigured, cause);
        failure.answer.error = Some(HOST_NOT_CONFIRMED.to_owned());
        Err(failure)
    }

    /// Returns the grants that this account's belongs to.
    pub(super) fn grants_of<'a>(&self, account: &'a Account) -> Confined<'a> {
        let issuer = account.iss.as_str();
        let is_of_authority = self.expected.is_issuer(issuer);
        match self.provider() {
            Provider::Entra => Confined::Grants { issuer: origin_of(issuer), is_of_authority },
            Provider::OpenId => Confined::Grants { issuer, is_of_authority },
        }
    }

    /// Returns the host of this app's token endpoint, as far as it is known here, if one of the app's
    /// credentials belongs to another. Only at Entra is that host known before the document is read.
    pub fn unconfirmed_host(&self) -> Option<String> {
        let host = match (self.metadata.held(), self.provider()) {
            (Some(metadata), _) => token_host(&metadata.token_endpoint),
            (None, Provider::Entra) => token_host(&self.expected.authority),
            (None, Provider::OpenId) => return None,
        };
        let AppHosts { app, known } = &self.parts.token_hosts;
        let known = lock(&known.hosts);
        let stays = |member: &Member| {
            let credential = member.credential();
            let secret = Confined::Credential(&credential.fingerprint());
            credential.is_bearer(&self.config.assertion_audience) && known.holds_back(app, secret, &host)
        };
        let credentials = self.credentials();
        credentials.configured().any(|member| stays(member)).then_some(host)
    }

    /// Checks, for an operator's confirmation, that `host` is the host of this app's token endpoint. `Err`
    /// says what is wrong.
    pub async fn is_token_host(&self, host: &str) -> Result<(), String> {
        let metadata = self.metadata("confirming the token host").await.map_err(|failure| {
            format!(
                "the discovery document, which names the token host, cannot be fetched: \
                {}",
                failure.cause
            )
        })?;
        let is = token_host(&metadata.token_endpoint);
        if host == is {
            return Ok(());
        }
        Err(format!("the app's token endpoint is on {is}, and not on {}", one_line(host)))
    }
}

/// Returns the `{scheme}://{host}[:{port}]` of a URL.
fn origin_of(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find('/').map_or(url.len(), |at| host + at);
    &url[..end]
}

/// Returns a token endpoint's host in the form that is compared and confirmed: with its port unless that is
/// the scheme's own, and the same for all hosts of a cloud.
pub(super) fn token_host(url: &CheckedUrl) -> String {
    let own_port = url.port() == if url.is_https() { 443 } else { 80 };
    let cloud = cloud_of(url.host()).filter(|_| url.is_https() && own_port);
    match cloud.and_then(|cloud| cloud.hosts.first()) {
        Some(first) => (*first).to_owned(),
        None if own_port => url.host().to_owned(),
        None => host_and_port(url.host(), url.port()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}
