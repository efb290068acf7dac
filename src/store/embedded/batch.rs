//! The operations of one batch work on this: the tables in one transaction, the leases, and one moment.

use std::time::Duration;

use redb::{ReadableTable, TableDefinition, WriteTransaction};

use super::tables::{
    CONNECTIONS, DUE, EXPIRY, FLOOR_EXPIRY, FLOORS, INTENTS, PENDING, PendingRow, SCHEDULE, due_key,
    expiring_id, expiry_key, intent_row, read_intent, read_scheduled, schedule_row,
};
use crate::domain::id::ConnectionKey;
use crate::domain::time::{Clock, Timestamp};
use crate::store::rules::{Intent, Leases, Scheduled};
use crate::store::{FLOOR_KEPT, Floor, LOWEST_FLOOR, StoreError, keyspace};

/// How many expired records one transaction removes, so that a purge never delays a commit noticeably.
const PURGE: usize = 64;

/// Why an operation failed.
pub(super) enum Failed {
    /// The file cannot be read or written. No operation of the batch counts.
    File(redb::Error),
    /// A record that this operation needs cannot be read, or its own record cannot be stored.
    Record(StoreError),
}

impl<E: Into<redb::Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Failed::File(error.into())
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Failed::Record(error)
    }
}

impl Failed {
    /// The error for the caller of the operation.
    pub(super) fn into_error(self, doing: &'static str) -> StoreError {
        match self {
            Failed::File(error @ redb::Error::Corrupted(_)) => StoreError::corrupt(doing, error),
            Failed::File(error) => StoreError::unavailable(doing, error),
            Failed::Record(error) => error,
        }
    }
}

/// One batch.
pub(super) struct Batch<'a> {
    pub(super) transaction: &'a WriteTransaction,
    pub(super) leases: &'a mut Leases<String>,
    pub(super) now: Timestamp,
    pub(super) monotonic: Duration,
    /// Whether there is something to commit.
    pub(super) changed: bool,
}

impl<'a> Batch<'a> {
    pub(super) fn new(
        transaction: &'a WriteTransaction,
        leases: &'a mut Leases<String>,
        clock: &dyn Clock,
    ) -> Self {
        Batch { transaction, leases, now: clock.now(), monotonic: clock.monotonic(), changed: false }
    }

    /// Whether the transaction is to be committed. If so, the records that expired first are removed with it.
    /// An expired record is invisible, and a store that is not written to gets no further ones.
    pub(super) fn end(self) -> Result<bool, redb::Error> {
        if self.changed {
            purge(self.transaction, self.now, EXPIRY, PENDING)?;
            purge(self.transaction, self.now, FLOOR_EXPIRY, FLOORS)?;
        }
        Ok(self.changed)
    }

    pub(super) fn record(&self, key: &str) -> Result<Option<Vec<u8>>, redb::Error> {
        let found = self.transaction.open_table(CONNECTIONS)?.get(key)?.map(|row| row.value().to_vec());
        Ok(found)
    }

    pub(super) fn put_record(&mut self, key: &str, record: &[u8]) -> Result<(), redb::Error> {
        self.transaction.open_table(CONNECTIONS)?.insert(key, record)?;
        self.changed = true;
        Ok(())
    }

    /// Removes a connection, and takes it out of the schedule.
    pub(super) fn remove_record(&mut self, key: &str) -> Result<(), redb::Error> {
        self.transaction.open_table(CONNECTIONS)?.remove(key)?;
        self.changed = true;
        match keyspace::parse_key(key) {
            Some(key) => self.schedule(&key, None),
            None => Ok(()),
        }
    }

    pub(super) fn intent(&self, of: &str) -> Result<Option<Intent>, redb::Error> {
        let found = self.transaction.open_table(INTENTS)?.get(of)?.and_then(|row| read_intent(row.value()));
        Ok(found)
    }

    pub(super) fn put_intent(&mut self, of: &str, intent: &Intent) -> Result<(), redb::Error> {
        self.transaction.open_table(INTENTS)?.insert(of, intent_row(intent).as_slice())?;
        self.changed = true;
        Ok(())
    }

    /// Settles the intent.
    pub(super) fn settle(&mut self, of: &str) -> Result<(), redb::Error> {
        self.changed |= self.transaction.open_table(INTENTS)?.remove(of)?.is_some();
        Ok(())
    }

    pub(super) fn floor(&self, key: &str) -> Result<Floor, redb::Error> {
        let row = self.transaction.open_table(FLOORS)?.get(key)?.map(|row| row.value());
        Ok(row.map_or(LOWEST_FLOOR, |(number, cut, _)| Floor { number, cut }))
    }

    /// Keeps the floor that a delete leaves, for its time.
    pub(super) fn put_floor(&mut self, key: &str, floor: Floor) -> Result<(), redb::Error> {
        let until = self.now.plus(FLOOR_KEPT);
        let row = (floor.number, floor.cut, until.unix_millis());
        let before = self.transaction.open_table(FLOORS)?.insert(key, row)?.map(|row| row.value());
        let mut expiry = self.transaction.open_table(FLOOR_EXPIRY)?;
        if let Some((_, _, until)) = before {
            expiry.remove(expiry_key(Timestamp::from_unix_millis(until), key).as_slice())?;
        }
        expiry.insert(expiry_key(until, key).as_slice(), ())?;
        self.changed = true;
        Ok(())
    }

    /// Schedules a connection, or takes it out of the schedule.
    pub(super) fn schedule(
        &mut self,
        key: &ConnectionKey,
        due_at: Option<Timestamp>,
    ) -> Result<(), redb::Error> {
        let (name, shard) = (key.to_string(), keyspace::shard(key));
        let mut schedule = self.transaction.open_table(SCHEDULE)?;
        let mut due = self.transaction.open_table(DUE)?;
        let before = schedule.remove(name.as_str())?.map(|row| read_scheduled(row.value()));
        if let Some(before) = before {
            due.remove(due_key(shard, before.due_at, &name).as_slice())?;
        }
        let after = Scheduled::anew(before, due_at);
        if let Some(after) = after {
            schedule.insert(name.as_str(), schedule_row(&after))?;
            due.insert(due_key(shard, after.due_at, &name).as_slice(), ())?;
        }
        self.changed |= before.is_some() || after.is_some();
        Ok(())
    }

    /// Notes that a connection was used, if it is in the schedule.
    pub(super) fn mark_used(&mut self, key: &ConnectionKey, at: Timestamp) -> Result<(), redb::Error> {
        let name = key.to_string();
        let mut schedule = self.transaction.open_table(SCHEDULE)?;
        let before = schedule.get(name.as_str())?.map(|row| read_scheduled(row.value()));
        if let Some(used) = before.and_then(|before| before.used(at)) {
            schedule.insert(name.as_str(), schedule_row(&used))?;
            self.changed = true;
        }
        Ok(())
    }

    /// The sealed bytes and the expiry of a pending record that has not expired.
    pub(super) fn pending(
        &self,
        doing: &'static str,
        id: &str,
    ) -> Result<Option<(Vec<u8>, Timestamp)>, Failed> {
        let table = self.transaction.open_table(PENDING)?;
        let Some(row) = table.get(id)? else { return Ok(None) };
        let row = PendingRow::decode(doing, row.value())?;
        Ok(row.alive(self.now).map(|sealed| (sealed.to_vec(), row.expires_at)))
    }

    pub(super) fn put_pending(
        &mut self,
        id: &str,
        sealed: &[u8],
        expires_at: Timestamp,
    ) -> Result<(), redb::Error> {
        self.remove_pending(id)?;
        let row = PendingRow { expires_at, sealed }.encode();
        self.transaction.open_table(PENDING)?.insert(id, row.as_slice())?;
        self.transaction.open_table(EXPIRY)?.insert(expiry_key(expires_at, id).as_slice(), ())?;
        self.changed = true;
        Ok(())
    }

    pub(super) fn remove_pending(&mut self, id: &str) -> Result<(), redb::Error> {
        let mut pending = self.transaction.open_table(PENDING)?;
        let removed = pending.remove(id)?;
        self.changed |= removed.is_some();
        if let Some(Ok(row)) = removed.as_ref().map(|row| PendingRow::decode("", row.value())) {
            let mut expiry = self.transaction.open_table(EXPIRY)?;
            expiry.remove(expiry_key(row.expires_at, id).as_slice())?;
        }
        Ok(())
    }
}

fn purge<V: redb::Value + 'static>(
    transaction: &WriteTransaction,
    now: Timestamp,
    expiry: TableDefinition<'_, &[u8], ()>,
    records: TableDefinition<'_, &str, V>,
) -> Result<(), redb::Error> {
    let mut expiry = transaction.open_table(expiry)?;
    let end = expiry_key(now.plus(Duration::from_millis(1)), "");
    let mut expired = Vec::new();
    for row in expiry.range::<&[u8]>(..end.as_slice())?.take(PURGE) {
        expired.push(row?.0.value().to_vec());
    }
    let mut records = transaction.open_table(records)?;
    for key in expired {
        expiry.remove(key.as_slice())?;
        if let Some(id) = expiring_id(&key) {
            records.remove(id)?;
        }
    }
    Ok(())
}
