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
use crate::domain::own_tokens::Refused;
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
    /// Why, since when, and how many: no connection, if it only gives the app no token of its own.
    pub block: Block,
}

/// A change to the tenants' record whose answer was lost.
#[derive(Default)]
pub(super) struct PerhapsTold {
    /// What is stored if it was made.
    after: Blocks,
    /// The edges that it brought then.
    edges: Vec<Edge>,
}

impl PerhapsTold {
    /// The edges, if this is what is stored. (A change after it, by another replica, hides it.)
    fn edges_if(self, stored: &Blocks) -> Vec<Edge> {
        if self.after == *stored { self.edges } else { Vec::new() }
    }
}

impl Broker {
    /// Tells the store what this replica saw of tenants, and learns what the others saw. Returns the edges
    /// that this brought: each is returned once, by one replica. After a recovery the tenant's blocked
    /// connections are tried at once. For a timer: it costs one read, and writes only what is new.
    pub async fn keep_tenant_blocks(self: &Arc<Self>) -> Result<Vec<Edge>, RepositoryError> {
        let Untold { news, ends } = self.deps.engine.take_seen_of_tenants();
        let ends = self.tell_ends(ends).await;
        self.deps.engine.give_back_seen_of_tenants(Untold { news: BTreeMap::new(), ends });
        let (blocks, edges) = self.tell_news(news).await?;
        self.own_tokens.learn(&blocks.own);
        let part = |app: &str, tenant: &str| Some((AppName::parse(app).ok()?, tenant.to_owned()));
        let refusing =
            blocks.watched().filter_map(|(app, tenant, blocks)| Some((part(app, tenant)?, blocks)));
        self.deps.engine.learn_refusing_tenants(refusing);
        let mut shown: BTreeMap<(&str, &str), Block> = BTreeMap::new();
        shown.extend(blocks.own.refused().map(|(app, tenant, refused)| {
            let Refused { reason, since, at } = refused;
            ((app, tenant), Block { reason, since, connections: 0, refused_at: at })
        }));
        // What it refuses to users says more.
        shown.extend(blocks.all().map(|(app, tenant, block)| ((app, tenant), block.clone())));
        let shown = shown.into_iter().map(|((app, tenant), block)| BlockedTenant {
            app: app.to_owned(),
            tenant: tenant.to_owned(),
            block,
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
            let is_of_users = one.block.connections > 0 && one.block.reason == reason;
            one.app == app && one.tenant == tenant.unwrap_or_default() && is_of_users
        };
        self.blocked_tenants().iter().find(is_its).map(|one| one.block.clone())
    }

    /// The ages at which an app's tenants were seen to end grants; none if this version cannot read them.
    pub(super) async fn frequencies(&self, app: &AppName) -> Result<Frequencies, RepositoryError> {
        match self.deps.repository.pending(Kind::SignInFrequency, &FiledUnder::app(app)).await {
            Ok(read) => Ok(read.map(|read| read.value).unwrap_or_default()),
            Err(error) if error.is_damage() => Ok(Frequencies::default()),
            Err(error) => Err(error),
        }
    }

    /// A record of these. One that is damaged is begun anew: what it had is seen again. One that opens, and
    /// that this version does not write, is a newer version's: it stays.
    async fn kept<T: Default + DeserializeOwned>(
        &self,
        kind: Kind,
        id: &FiledUnder,
    ) -> Result<T, RepositoryError> {
        let repository = &self.deps.repository;
        let kept = repository.kept::<T>(kind, id, "what was seen of tenants").await?;
        if kept.is_lost {
            repository.discard_pending(kind, id).await?;
        }
        Ok(kept.taken.map(|taken| taken.value).unwrap_or_default())
    }

    /// Returns the record as it is then, and the edges of this change.
    async fn tell_news(&self, news: BTreeMap<Part, News>) -> Result<(Blocks, Vec<Edge>), RepositoryError> {
        let (repository, only) = (&self.deps.repository, FiledUnder::only());
        let now = self.deps.clock.now();
        let give_back = |news| {
            self.deps.engine.give_back_seen_of_tenants(Untold { news, ends: Vec::new() });
        };
        let blocks = match self.kept::<Blocks>(Kind::TenantBlocks, &only).await {
            Ok(blocks) => blocks,
            Err(error) => {
                give_back(news);
                return Err(error);
            }
        };
        // A change whose answer was lost is made, if what it would have made is there.
        let perhaps = self.perhaps_told.lock().take();
        let mut told = perhaps.map_or(Vec::new(), |perhaps| perhaps.edges_if(&blocks));
        let own = self.own_tokens.untold();
        if news.is_empty() && own.is_empty() && !blocks.has_old(now) {
            return Ok((blocks, told));
        }
        let mut last = PerhapsTold::default();
        let change = |blocks: &mut Blocks| {
            let before = blocks.clone();
            let mut edges = blocks.forget(now);
            edges.extend(news.iter().flat_map(|(part, news)| blocks.tell(part, news, now)));
            blocks.own.tell(&own, now);
            last = PerhapsTold { after: blocks.clone(), edges };
            Ok::<_, RepositoryError>(self.notices_of_tenants(&before, blocks, now))
        };
        match repository.change_telling(Kind::TenantBlocks, &only, now, KEPT, change).await {
            Ok(Some(changed)) => {
                told.append(&mut last.edges);
                Ok((changed, told))
            }
            // Others kept changing it. A refusal is news once, so it is told again later.
            Ok(None) => {
                give_back(news);
                Ok((blocks, told))
            }
            Err(error) => {
                tracing::debug!(%error, "nobody knows whether what was seen of tenants is stored");
                give_back(news.into_iter().map(|(part, news)| (part, news.perhaps_told())).collect());
                *self.perhaps_told.lock() = Some(last).filter(|last| !last.edges.is_empty());
                if told.is_empty() { Err(error) } else { Ok((blocks, told)) }
            }
        }
    }

    /// Returns the ends that could not be told. (One that is told twice counts once.)
    async fn tell_ends(&self, ends: Vec<(Part, SeenEnd)>) -> Vec<(Part, SeenEnd)> {
        let mut by_app: BTreeMap<AppName, Vec<(Part, SeenEnd)>> = BTreeMap::new();
        for (part, end) in ends {
            by_app.entry(part.0.clone()).or_default().push((part, end));
        }
        let mut untold = Vec::new();
        for (app, ends) in by_app {
            match self.tell_ends_of(&app, &ends).await {
                Ok(true) => {}
                Ok(false) => untold.extend(ends),
                // These are dropped, lest they take the place of other apps'. It was logged.
                Err(error) if error.is_damage() => {}
                Err(_) => untold.extend(ends),
            }
        }
        untold
    }

    async fn tell_ends_of(&self, app: &AppName, ends: &[(Part, SeenEnd)]) -> Result<bool, RepositoryError> {
        let now: Timestamp = self.deps.clock.now();
        let learn = |known: &mut Frequencies| {
            ends.iter().for_each(|((_, tenant), end)| known.learn(tenant, *end));
            Ok::<(), RepositoryError>(())
        };
        let (repository, of_app) = (&self.deps.repository, FiledUnder::app(app));
        self.kept::<Frequencies>(Kind::SignInFrequency, &of_app).await?;
        let told = repository.change_pending(Kind::SignInFrequency, &of_app, now, KEPT, learn).await?;
        Ok(told.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::ConnectionName;
    use crate::domain::verdict::BlockReason;

    #[test]
    fn a_change_whose_answer_was_lost_brings_its_edges_if_it_is_there() {
        let part = (AppName::parse("outlook").expect("a name"), "t".to_owned());
        let mut news = News::default();
        for number in 0..3 {
            let name = ConnectionName::parse(&format!("user-{number}")).expect("a name");
            news.refused(&name, BlockReason::PolicyBlocked, &[], true);
        }
        let mut after = Blocks::default();
        let edges = after.tell(&part, &news, Timestamp::from_unix_seconds(5));
        assert_eq!(edges.len(), 1);
        let lost = || PerhapsTold { after: after.clone(), edges: edges.clone() };
        // As the store has it.
        let written = serde_json::to_vec(&after).expect("JSON");
        let stored: Blocks = serde_json::from_slice(&written).expect("it is read");
        assert_eq!(lost().edges_if(&stored), edges);
        assert_eq!(lost().edges_if(&Blocks::default()), []);
        // Told again it is no edge: the block is there.
        let mut stored = stored;
        assert_eq!(stored.tell(&part, &news.perhaps_told(), Timestamp::from_unix_seconds(7)), []);
    }
}
