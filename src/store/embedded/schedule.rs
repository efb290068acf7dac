//! The schedule in the file.

use std::time::Duration;

use async_trait::async_trait;

use super::EmbeddedStore;
use super::tables::{DUE, SCHEDULE, due_connection, due_key, read_scheduled};
use crate::domain::id::ConnectionKey;
use crate::domain::time::Timestamp;
use crate::store::{Due, MAX_PAGE, Schedule, StoreError};

#[async_trait]
impl Schedule for EmbeddedStore {
    async fn schedule(&self, key: &ConnectionKey, due_at: Option<Timestamp>) -> Result<(), StoreError> {
        let key = key.clone();
        self.write("scheduling a connection", move |batch| Ok(batch.schedule(&key, due_at)?)).await
    }

    async fn due(&self, shard: u8, until: Timestamp, limit: usize) -> Result<Vec<Due>, StoreError> {
        let limit = limit.min(MAX_PAGE);
        self.read("asking what is due", move |transaction| {
            let table = transaction.open_table(DUE)?;
            let schedule = transaction.open_table(SCHEDULE)?;
            let start = [shard];
            let end = due_key(shard, until.plus(Duration::from_millis(1)), "");
            let mut found = Vec::new();
            for row in table.range::<&[u8]>(&start[..]..end.as_slice())?.take(limit) {
                let Some(key) = due_connection(row?.0.value()) else {
                    tracing::error!(shard, "the schedule holds what is no connection; it is passed over");
                    continue;
                };
                let scheduled =
                    schedule.get(key.to_string().as_str())?.map(|row| read_scheduled(row.value()));
                if let Some(scheduled) = scheduled {
                    found.push(Due { key, due_at: scheduled.due_at, used_at: scheduled.used_at });
                }
            }
            Ok(found)
        })
        .await
    }

    async fn mark_used(&self, key: &ConnectionKey, at: Timestamp) -> Result<(), StoreError> {
        let key = key.clone();
        self.write("noting that a connection is used", move |batch| Ok(batch.mark_used(&key, at)?)).await
    }
}
