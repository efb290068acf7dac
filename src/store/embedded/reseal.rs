//! The walk over every record of the file, and resealing.

use std::ops::Bound;

use async_trait::async_trait;
use redb::ReadTransaction;

use super::EmbeddedStore;
use super::batch::Failed;
use super::tables::{CONNECTIONS, PENDING, PendingRow};
use crate::domain::id::ConnectionKey;
use crate::domain::time::Timestamp;
use crate::store::rules::Swap;
use crate::store::{
    MAX_PAGE, RecordOf, Reseal, SEALED_HEAD, SealedPage, SealedRecord, StoreError, StoredConnection,
    keyspace, record,
};

/// Where a walk goes on: past this connection …
const CONNECTION_CURSOR: &str = "connection ";
/// … or past this pending record. An empty one stands for the first.
const PENDING_CURSOR: &str = "pending ";

const WALKING: &str = "walking over every record";

#[async_trait]
impl Reseal for EmbeddedStore {
    /// Connections first, then pending records, each in the order of its table.
    async fn sealed(&self, after: Option<&str>, limit: usize) -> Result<SealedPage, StoreError> {
        let (after, now) = (after.map(str::to_owned), self.clock.now());
        let limit = limit.clamp(1, MAX_PAGE);
        self.read(WALKING, move |transaction| {
            let after = after.as_deref();
            match after.and_then(|after| after.strip_prefix(PENDING_CURSOR)) {
                Some(last) => pending(&transaction, Some(last).filter(|last| !last.is_empty()), limit, now),
                None => {
                    let last = after.and_then(|after| after.strip_prefix(CONNECTION_CURSOR));
                    connections(&transaction, last, limit)
                }
            }
        })
        .await
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
        let key = keyspace::embedded_record(key);
        let (before, after) = (record::encode(DOING, before)?, record::encode(DOING, after)?);
        self.write(DOING, move |batch| {
            let swap = Swap::of(batch.record(&key)?.as_ref(), Some(&before), &after);
            if swap == Swap::Write {
                batch.put_record(&key, &after)?;
            }
            Ok(swap.is_done())
        })
        .await
    }

    async fn reseal_pending(&self, id: &str, before: &[u8], after: &[u8]) -> Result<bool, StoreError> {
        const DOING: &str = "sealing a pending record anew";
        let (id, before, after) = (id.to_owned(), before.to_owned(), after.to_owned());
        self.write(DOING, move |batch| {
            let Some((stored, expires_at)) = batch.pending(DOING, &id)? else { return Ok(false) };
            let swap = Swap::of(Some(&stored), Some(&before), &after);
            if swap == Swap::Write {
                batch.put_pending(&id, &after, expires_at)?;
            }
            Ok(swap.is_done())
        })
        .await
    }
}

fn connections(
    transaction: &ReadTransaction,
    last: Option<&str>,
    limit: usize,
) -> Result<SealedPage, Failed> {
    let mut page = SealedPage::default();
    for row in transaction.open_table(CONNECTIONS)?.range::<&str>(beyond(last))?.take(limit) {
        let (name, value) = row?;
        let Some(key) = keyspace::parse_key(name.value()) else {
            tracing::error!("the store holds what is no connection; it is passed over");
            continue;
        };
        let head = record::head(WALKING, value.value(), SEALED_HEAD);
        let head = head.map(<[u8]>::to_vec).unwrap_or_default();
        page.records.push(SealedRecord { of: RecordOf::Connection(key), head });
        page.next = Some(format!("{CONNECTION_CURSOR}{}", name.value()));
    }
    if page.records.is_empty() {
        page.next = Some(PENDING_CURSOR.to_owned());
    }
    Ok(page)
}

fn pending(
    transaction: &ReadTransaction,
    last: Option<&str>,
    limit: usize,
    now: Timestamp,
) -> Result<SealedPage, Failed> {
    let mut page = SealedPage::default();
    for row in transaction.open_table(PENDING)?.range::<&str>(beyond(last))?.take(limit) {
        let (id, value) = row?;
        let id = id.value().to_owned();
        page.next = Some(format!("{PENDING_CURSOR}{id}"));
        let head = match PendingRow::decode(WALKING, value.value()) {
            Ok(row) => match row.alive(now) {
                Some(sealed) => sealed[..sealed.len().min(SEALED_HEAD)].to_vec(),
                None => continue,
            },
            Err(_) => Vec::new(),
        };
        page.records.push(SealedRecord { of: RecordOf::Pending(id), head });
    }
    Ok(page)
}

fn beyond(last: Option<&str>) -> (Bound<&str>, Bound<&str>) {
    (last.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
}
