//! The schedule in Redis.

use async_trait::async_trait;

use super::{RedisStore, scripts};
use crate::domain::id::ConnectionKey;
use crate::domain::time::Timestamp;
use crate::store::{Due, MAX_PAGE, Schedule, StoreError, keyspace};

#[async_trait]
impl Schedule for RedisStore {
    async fn schedule(&self, key: &ConnectionKey, due_at: Option<Timestamp>) -> Result<(), StoreError> {
        let (due, used) = keyspace::redis_due(keyspace::shard(key));
        let slot = keyspace::slot(&due);
        let name = key.to_string();
        let mut commands = ::redis::pipe();
        match due_at {
            Some(at) => {
                commands.cmd("ZADD").arg(due).arg(at.unix_millis()).arg(name).ignore();
            }
            None => {
                commands.cmd("ZREM").arg(due).arg(&name).ignore();
                commands.cmd("ZREM").arg(used).arg(&name).ignore();
            }
        }
        self.run("scheduling a connection", slot, |mut connection| {
            let commands = &commands;
            async move { commands.exec_async(&mut connection).await }
        })
        .await?;
        Ok(())
    }

    async fn due(&self, shard: u8, until: Timestamp, limit: usize) -> Result<Vec<Due>, StoreError> {
        const DOING: &str = "asking what is due";
        let (due, used) = keyspace::redis_due(shard);
        let slot = keyspace::slot(&due);
        let mut script = scripts::DUE.prepare_invoke();
        script.key(due).key(used).arg(until.unix_millis()).arg(limit.min(MAX_PAGE));
        let (rows, _) = self.script::<Vec<String>>(DOING, slot, &script).await?;
        rows.chunks_exact(3)
            .filter_map(|row| {
                let key = keyspace::parse_key(&row[0]);
                let instant = |text: &str| text.parse::<f64>().ok().map(|millis| millis as i64);
                match (key, instant(&row[1])) {
                    (Some(key), Some(at)) => Some(Ok(Due {
                        key,
                        due_at: Timestamp::from_unix_millis(at),
                        used_at: instant(&row[2]).map(Timestamp::from_unix_millis),
                    })),
                    _ => {
                        tracing::error!(shard, "the schedule holds what is no connection; it is passed over");
                        None
                    }
                }
            })
            .collect()
    }

    async fn mark_used(&self, key: &ConnectionKey, at: Timestamp) -> Result<(), StoreError> {
        let (_, used) = keyspace::redis_due(keyspace::shard(key));
        let slot = keyspace::slot(&used);
        let mut add = ::redis::cmd("ZADD");
        add.arg(used).arg("GT").arg(at.unix_millis()).arg(key.to_string());
        self.run("noting that a connection is used", slot, |mut commands| {
            let add = &add;
            async move { add.exec_async(&mut commands).await }
        })
        .await?;
        Ok(())
    }
}
