//! Tenants that block an app, as one thing. Each replica adds what it saw to one record
//! ([`crate::domain::tenant_block`] judges it), by compare-and-swap: so the replica whose change makes or
//! ends a block knows the edge, and nobody else reports it. The ages at which tenants end grants are told the
//! same way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::Broker;
use super::inspect::Shown;
use crate::domain::connection::Status;
use crate::domain::forecast::{Frequencies, SeenEnd};
use crate::domain::id::AppName;
use crate::domain::tenant_block::{Block, Blocks, Change, Edge, News, Part};
use crate::domain::time::Timestamp;
use crate::refresh::Untold;
use crate::repository::{FiledUnder, Kind, RepositoryError};

/// How long the records are kept without a change.
const KEPT: Duration = Duration::from_secs(200 * 86_400);

/// A tenant that blocks an app, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockedTenant {
    /// The app.
    pub app: String,
    /// The tenant; empty where the authority has none.
    pub tenant: String,
    /// Why, since when, and how many.
    pub block: Block,
}

impl Broker {
    /// Tells the store what this replica saw of tenants, and learns what the others saw. Returns the edges
    /// that this brought: each is returned once, by one replica. After a recovery the tenant's blocked
    /// connections are tried at once. For a timer: it costs one read, and writes only what is new.
    pub async fn keep_tenant_blocks(self: &Arc<Self>) -> Result<Vec<Edge>, RepositoryError> {
        let Untold { news, ends } = self.deps.engine.take_seen_of_tenants();
        if let Err(error) = self.tell_ends(&ends).await {
            self.deps.engine.give_back_seen_of_tenants(Untold { news, ends });
            return Err(error);
        }
        let told = self.tell_news(&news).await;
        let (blocks, edges) = told.inspect_err(|_| {
            self.deps.engine.give_back_seen_of_tenants(Untold { news, ends: Vec::new() });
        })?;
        self.own_tokens.learn(&blocks.own);
        let part = |app: &str, tenant: &str| Some((AppName::parse(app).ok()?, tenant.to_owned()));
        let refusing =
            blocks.watched().filter_map(|(app, tenant, blocks)| Some((part(app, tenant)?, blocks)));
        self.deps.engine.learn_refusing_tenants(refusing);
        let shown = blocks.all().map(|(app, tenant, block)| BlockedTenant {
            app: app.to_owned(),
            tenant: tenant.to_owned(),
            block: block.clone(),
        });
        self.blocked_tenants.store(Arc::new(shown.collect()));
        for edge in &edges {
            if matches!(edge.change, Change::Recovered(_)) {
                self.try_tenant_again(&edge.app, &edge.tenant);
            }
        }
        Ok(edges)
    }

    /// The tenants that block an app, as this replica last heard.
    pub fn blocked_tenants(&self) -> Arc<Vec<BlockedTenant>> {
        self.blocked_tenants.load_full()
    }

    /// The block of a connection's tenant, if the connection is blocked for the same reason.
    pub fn tenant_block_of(&self, shown: &Shown) -> Option<Block> {
        let Status::Blocked(reason) = shown.profile.status() else { return None };
        let (app, tenant) = (shown.key.app.as_str(), shown.profile.account().tid.as_deref());
        let is_its = |one: &&BlockedTenant| {
            one.app == app && one.tenant == tenant.unwrap_or_default() && one.block.reason == reason
        };
        self.blocked_tenants().iter().find(is_its).map(|one| one.block.clone())
    }

    /// The ages at which an app's tenants were seen to end grants.
    pub(super) async fn frequencies(&self, app: &AppName) -> Result<Frequencies, RepositoryError> {
        let read = self.deps.repository.pending(Kind::SignInFrequency, &FiledUnder::app(app)).await?;
        Ok(read.map(|read| read.value).unwrap_or_default())
    }

    /// A record of these. One that does not open is begun anew: what it had is seen again.
    async fn kept<T: Default + DeserializeOwned>(
        &self,
        kind: Kind,
        id: &FiledUnder,
    ) -> Result<T, RepositoryError> {
        match self.deps.repository.pending(kind, id).await {
            Ok(read) => Ok(read.map(|read| read.value).unwrap_or_default()),
            Err(error) if error.is_outage() => Err(error),
            Err(error) => {
                tracing::warn!(%error, "what was seen of tenants cannot be read; it is begun anew");
                self.deps.repository.discard_pending(kind, id).await?;
                Ok(T::default())
            }
        }
    }

    /// Returns the record as it is then, and the edges of this change.
    async fn tell_news(&self, news: &BTreeMap<Part, News>) -> Result<(Blocks, Vec<Edge>), RepositoryError> {
        let (repository, only) = (&self.deps.repository, FiledUnder::only());
        let now = self.deps.clock.now();
        let blocks = self.kept::<Blocks>(Kind::TenantBlocks, &only).await?;
        let own = self.own_tokens.untold();
        if news.is_empty() && own.is_empty() && !blocks.has_old(now) {
            return Ok((blocks, Vec::new()));
        }
        let mut edges = Vec::new();
        let change = |blocks: &mut Blocks| {
            blocks.own.forget(now);
            let before = blocks.clone();
            edges = blocks.forget(now);
            edges.extend(news.iter().flat_map(|(part, news)| blocks.tell(part, news, now)));
            blocks.own.tell(&own, now);
            Ok::<_, RepositoryError>(self.notices_of_tenants(&before, blocks, now))
        };
        match repository.change_telling(Kind::TenantBlocks, &only, now, KEPT, change).await? {
            Some(changed) => Ok((changed, edges)),
            // Others kept changing it. A refusal is news once, so it is told again later.
            None => {
                let untold = Untold { news: news.clone(), ends: Vec::new() };
                self.deps.engine.give_back_seen_of_tenants(untold);
                Ok((blocks, Vec::new()))
            }
        }
    }

    async fn tell_ends(&self, ends: &[(Part, SeenEnd)]) -> Result<(), RepositoryError> {
        let mut by_app: BTreeMap<&AppName, Vec<(&str, SeenEnd)>> = BTreeMap::new();
        for ((app, tenant), end) in ends {
            by_app.entry(app).or_default().push((tenant, *end));
        }
        for (app, ends) in by_app {
            let now: Timestamp = self.deps.clock.now();
            let learn = |known: &mut Frequencies| {
                ends.iter().for_each(|(tenant, end)| known.learn(tenant, *end));
                Ok::<(), RepositoryError>(())
            };
            let of_app = FiledUnder::app(app);
            self.kept::<Frequencies>(Kind::SignInFrequency, &of_app).await?;
            self.deps.repository.change_pending(Kind::SignInFrequency, &of_app, now, KEPT, learn).await?;
        }
        Ok(())
    }
}
