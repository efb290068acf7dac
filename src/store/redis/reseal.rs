//! Resealing single records; the walk over all of them is in [`super::scan`].

use async_trait::async_trait;

use super::{RedisStore, scripts};
use crate::domain::id::ConnectionKey;
use crate::store::{MAX_PAGE, Reseal, SealedPage, StoreError, StoredConnection, keyspace, record};

#[async_trait]
impl Reseal for RedisStore {
    async fn sealed(&self, after: Option<&str>, limit: usize) -> Result<SealedPage, StoreError> {
        self.scan(after, limit.clamp(1, MAX_PAGE)).await
    }

    async fn reseal(
        &self,
        key: &ConnectionKey,
        before: &StoredConnection,
        after: &StoredConnection,
    ) -> Result<bool, StoreError> {
        const DOING: &str = "sealing a connection anew";
        if before.revision != after.revision {
            return Ok(false);
        }
        let (before, after) = (record::encode(DOING, before)?, record::encode(DOING, after)?);
        self.run_reseal(DOING, keyspace::redis_record(key), &before, &after).await
    }

    async fn reseal_pending(&self, id: &str, before: &[u8], after: &[u8]) -> Result<bool, StoreError> {
        const DOING: &str = "sealing a pending record anew";
        self.run_reseal(DOING, keyspace::redis_pending(id), before, after).await
    }
}

impl RedisStore {
    /// Runs [`scripts::RESEAL`], and waits for the replicas as a commit does: a failover must not bring back
    /// the old bytes of a record that was counted as resealed.
    async fn run_reseal(
        &self,
        doing: &'static str,
        key: String,
        before: &[u8],
        after: &[u8],
    ) -> Result<bool, StoreError> {
        let slot = keyspace::slot(&key);
        let mut script = scripts::RESEAL.prepare_invoke();
        script.key(key).arg(before).arg(after);
        let (resealed, _) = self
            .write(doing, slot, |mut commands| {
                let script = &script;
                async move { script.invoke_async::<bool>(&mut commands).await }
            })
            .await?;
        Ok(resealed)
    }
}
