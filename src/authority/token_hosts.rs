//! The known token hosts, shared between the store's keeper and the senders of secrets.
//!
//! Nothing is sent before the stored record is known: a restart with another configuration must not lead a
//! secret to another host.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::url::CheckedUrl;
use crate::domain::clouds::cloud_of;
use crate::domain::proxy::host_and_port;
use crate::domain::time::{Clock, Timestamp};
use crate::domain::token_hosts::{Confined, TokenHosts};

/// The known hosts of all apps.
#[derive(Debug)]
pub struct KnownTokenHosts {
    pub(super) hosts: Mutex<TokenHosts>,
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
