//! The authority's documents: its discovery document and its keys, fetched when needed and kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use form_urlencoded::Serializer;

use super::failure::{LATER, ours};
use super::registration::Registration;
use super::transport::Transport;
use crate::authority::cache::{Kept, Used};
use crate::authority::clouds::Provider;
use crate::authority::discovery::Metadata;
use crate::authority::id_token::UnverifiedToken;
use crate::authority::observer::{AuthorityEvent, Endpoint};
use crate::authority::url::CheckedUrl;
use crate::domain::time::Clock;
use crate::domain::verdict::AuthorityFailure;
use crate::jwt::keys::KeySet;

/// The documents of one app's authority.
pub(super) struct Documents {
    app: Arc<Registration>,
    transport: Arc<Transport>,
    metadata: Kept<Metadata>,
    keys: Kept<KeySet>,
    /// True if the app signs with keys of its own, which are listed only if it is named.
    has_own_keys: AtomicBool,
}

impl Documents {
    pub(super) fn new(app: Arc<Registration>, transport: Arc<Transport>, clock: &Arc<dyn Clock>) -> Self {
        let timeout = app.config.timeout;
        Documents {
            app,
            transport,
            metadata: Kept::new(Endpoint::Discovery, Arc::clone(clock), timeout),
            keys: Kept::new(Endpoint::Keys, Arc::clone(clock), timeout),
            has_own_keys: AtomicBool::new(false),
        }
    }

    /// Takes over the documents of the authority before, if they would be the same ones.
    pub(super) fn take_over(&self, before: &Documents) {
        if before.app.expected != self.app.expected || before.app.config.roots != self.app.config.roots {
            return;
        }
        self.metadata.take_over(&before.metadata);
        self.keys.take_over(&before.keys);
        self.has_own_keys.store(before.has_own_keys.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Returns the discovery document if it is here; nothing is fetched.
    pub(super) fn held(&self) -> Option<Arc<Metadata>> {
        self.metadata.held()
    }

    /// Fetches the documents again, whatever their age, if they are here at all.
    pub(super) async fn renew(&self) -> Result<(), AuthorityFailure> {
        if self.metadata.held().is_none() {
            return Ok(());
        }
        let metadata = self.metadata.renew(async |limit| self.fetch_metadata(limit).await).await?;
        self.keys.renew(async |limit| self.fetch_keys(&metadata, limit).await).await.map(|_| ())
    }

    /// Returns the discovery document, fetched if it is not here. `doing` is what needs it, for the failure.
    pub(super) async fn metadata(&self, doing: &'static str) -> Result<Arc<Metadata>, AuthorityFailure> {
        let fetch = async |limit| self.fetch_metadata(limit).await;
        let (metadata, used) =
            self.metadata.get(fetch).await.map_err(|failure| AuthorityFailure { doing, ..failure })?;
        self.note(self.metadata.endpoint, used);
        Ok(metadata)
    }

    /// Returns the keys, fetched if they are not here.
    pub(super) async fn keys(
        &self,
        doing: &'static str,
        metadata: &Metadata,
    ) -> Result<Arc<KeySet>, AuthorityFailure> {
        let fetch = async |limit| self.fetch_keys(metadata, limit).await;
        let (keys, used) =
            self.keys.get(fetch).await.map_err(|failure| AuthorityFailure { doing, ..failure })?;
        self.note(self.keys.endpoint, used);
        Ok(keys)
    }

    /// Returns the keys to check a token with. They are fetched once more if the token's own is missing.
    pub(super) async fn keys_for(
        &self,
        metadata: &Metadata,
        keys: Arc<KeySet>,
        token: &UnverifiedToken<'_>,
    ) -> Arc<KeySet> {
        if token.has_key_in(&keys) {
            return keys;
        }
        let fetch = async |limit| {
            let fetched = self.fetch_keys(metadata, limit).await?;
            let is_of_the_app =
                self.app.provider() == Provider::Entra && !self.has_own_keys.load(Ordering::Relaxed);
            if !is_of_the_app || token.has_key_in(&fetched) {
                return Ok(fetched);
            }
            // An Entra app with keys of its own (claims mapping): they are listed only if it is named.
            let Ok(own) = self.fetch_own_keys(metadata, limit).await else { return Ok(fetched) };
            self.has_own_keys.store(token.has_key_in(&own), Ordering::Relaxed);
            Ok(fetched.and(own))
        };
        self.keys.get_after_miss(&keys, fetch).await
    }

    async fn fetch_metadata(&self, limit: Duration) -> Result<Metadata, AuthorityFailure> {
        let checked = |bytes: &[u8]| self.app.expected.check(bytes);
        self.transport
            .document(
                "reading the discovery document",
                Endpoint::Discovery,
                &self.app.document_url,
                limit,
                checked,
            )
            .await
    }

    /// Fetches the keys, and the app's own if it is known to have some.
    async fn fetch_keys(&self, metadata: &Metadata, limit: Duration) -> Result<KeySet, AuthorityFailure> {
        let keys = self.fetch_listed_keys(metadata, limit).await?;
        if self.has_own_keys.load(Ordering::Relaxed) {
            return Ok(keys.and(self.fetch_own_keys(metadata, limit).await?));
        }
        Ok(keys)
    }

    async fn fetch_own_keys(&self, metadata: &Metadata, limit: Duration) -> Result<KeySet, AuthorityFailure> {
        let doing = "reading the app's own keys";
        let query = Serializer::new(String::new()).append_pair("appid", &self.app.config.client_id).finish();
        let url = CheckedUrl::parse(&metadata.jwks_uri.with_query(&query), true);
        let url = url.map_err(|fault| ours(doing, LATER, format!("the keys' URL {fault}")))?;
        self.transport.document(doing, Endpoint::Keys, &url, limit, KeySet::parse).await
    }

    async fn fetch_listed_keys(
        &self,
        metadata: &Metadata,
        limit: Duration,
    ) -> Result<KeySet, AuthorityFailure> {
        self.transport
            .document(
                "reading the authority's keys",
                Endpoint::Keys,
                &metadata.jwks_uri,
                limit,
                KeySet::parse,
            )
            .await
    }

    fn note(&self, endpoint: Endpoint, used: Used) {
        if used == Used::LastGood {
            self.transport.observe(AuthorityEvent::ServingLastGood { endpoint });
        }
    }
}
