//! The index of each app's names. It may lag behind the records for a moment: see [`crate::store::keyspace`].

use super::RedisStore;
use crate::domain::id::ConnectionKey;
use crate::store::{StoreError, keyspace};

impl RedisStore {
    /// Adds a name to its app's index.
    pub(super) async fn index(&self, doing: &'static str, key: &ConnectionKey) -> Result<(), StoreError> {
        let index = keyspace::redis_index(&key.app);
        let slot = keyspace::slot(&index);
        let mut add = ::redis::cmd("ZADD");
        add.arg(index).arg(0).arg(key.connection.as_str());
        self.run(doing, slot, |mut commands| {
            let add = &add;
            async move { add.exec_async(&mut commands).await }
        })
        .await?;
        Ok(())
    }

    /// Removes a name from its app's index, and adds it again if its record exists after all: see
    /// [`keyspace`].
    pub(super) async fn unindex(&self, doing: &'static str, key: &ConnectionKey) -> Result<(), StoreError> {
        let index = keyspace::redis_index(&key.app);
        let slot = keyspace::slot(&index);
        let mut remove = ::redis::cmd("ZREM");
        remove.arg(index).arg(key.connection.as_str());
        self.run(doing, slot, |mut commands| {
            let remove = &remove;
            async move { remove.exec_async(&mut commands).await }
        })
        .await?;
        let record = keyspace::redis_record(key);
        let (there, _) = self
            .run(doing, keyspace::slot(&record), |mut commands| {
                let record = &record;
                async move { ::redis::cmd("EXISTS").arg(record).query_async::<bool>(&mut commands).await }
            })
            .await?;
        if there { self.index(doing, key).await } else { Ok(()) }
    }
}
