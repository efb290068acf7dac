//! The kill switch: one act ends every connection of an app, a tenant or a caller, on all replicas within seconds and
//! through restarts. What is revoked is written down first, and nothing that it covers is handed out or refreshed from then
//! on, wherever a replica sees it; the records are destroyed after that, at leisure.

use std::sync::Arc;
use std::time::Duration;

use super::{Broker, Refusal};
use crate::domain::connection::Profile;
use crate::domain::id::ConnectionKey;
use crate::domain::revocation::{self, Revocation};
use crate::repository::{FiledUnder, Kind, RepositoryError, Taken};
use crate::store::Deleted;

/// For ever, as a store counts.
const KEPT: Duration = Duration::from_secs(100 * 365 * 86_400);

impl Broker {
    /// Revokes. Answers once it is written down and holds in this process; every other replica follows within seconds.
    pub async fn revoke(self: &Arc<Self>, revocation: Revocation) -> Result<(), Refusal> {
        if !revocation.names_something() {
            return Err(Refusal::invalid(
                "app",
                "name an app, a tenant or a caller; nothing named is not everything",
            ));
        }
        let repository = &self.deps.repository;
        let now = self.deps.clock.now();
        let written = repository
            .change_pending(
                Kind::Revocations,
                &FiledUnder::only(),
                now,
                KEPT,
                |list: &mut Vec<Revocation>| {
                    if !list.contains(&revocation) {
                        list.push(revocation.clone());
                    }
                    revocation::keep_newest(list);
                    Ok::<(), RepositoryError>(())
                },
            )
            .await?;
        if let Some(list) = written {
            self.deps.engine.learn_revocations(list);
            self.destroy_revoked();
            return Ok(());
        }
        Err(Refusal::StoreUnavailable { retry_after: Duration::from_secs(1) })
    }

    /// Takes up what was revoked elsewhere. For a timer of a second; an error leaves what is known in force.
    pub async fn follow_revocations(&self) -> Result<(), RepositoryError> {
        let list: Option<Taken<Vec<Revocation>>> =
            self.deps.repository.pending(Kind::Revocations, &FiledUnder::only()).await?;
        let read = list.as_ref().map(|list| list.value.clone()).unwrap_or_default();
        // What this process knows to be revoked stays so: a failover may have lost one.
        let mut all = read.clone();
        let known = self.deps.engine.revocations();
        all.extend(known.into_iter().filter(|known| !read.contains(known)));
        revocation::keep_newest(&mut all);
        if all.len() > read.len() {
            let now = self.deps.clock.now();
            let repository = &self.deps.repository;
            // (Where others change it at this very moment: the next time.)
            repository
                .swap_pending(Kind::Revocations, &FiledUnder::only(), list.as_ref(), &all, now, KEPT)
                .await?;
        }
        self.deps.engine.learn_revocations(all);
        Ok(())
    }

    /// Destroys a connection that was revoked; false when it was not. For a walk over all of them.
    pub async fn destroy_if_revoked(&self, key: &ConnectionKey, profile: &Profile) -> bool {
        if !self.deps.engine.is_revoked(key, profile) {
            return false;
        }
        // Its user may have signed in anew since the walk read it: that one is not meant.
        match self.deps.repository.store().delete(key, profile.sign_in, false).await {
            Ok(Deleted::Gone) => {
                tracing::warn!(app = %key.app, connection = %key.connection, "a revoked connection was destroyed");
                self.deps.engine.deleted(key, Some(profile.sign_in));
            }
            Ok(Deleted::Absent | Deleted::Another) => {}
            // It is not served for all that, and the next walk comes by.
            Err(error) => tracing::warn!(%error, "a revoked connection could not be destroyed yet"),
        }
        true
    }

    /// Walks over everything at once and destroys what is revoked.
    fn destroy_revoked(self: &Arc<Self>) {
        let broker = Arc::clone(self);
        let destroy = async move {
            let mut walk = broker.walk();
            let mut counts = super::inspect::Counts::default();
            while let Ok(Some(page)) = walk.next(&broker, &mut counts).await {
                for (key, profile) in &page {
                    broker.destroy_if_revoked(key, profile).await;
                }
            }
        };
        self.deps.tasks.spawn("destroy revoked connections", Box::pin(destroy));
    }
}
