//! The tables of the file and the form of their rows. A change here changes files that exist.

use redb::TableDefinition;

use crate::domain::connection::SignIn;
use crate::domain::id::ConnectionKey;
use crate::domain::time::Timestamp;
use crate::store::rules::{Intent, Scheduled};
use crate::store::{LeaseNonce, LeaseOf, StoreError, keyspace, record};

/// What the file says about itself, in one row.
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Records, by the connection's key.
pub(super) const CONNECTIONS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("connections");
/// Pending records: see [`PendingRow`].
pub(super) const PENDING: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("pending");
/// Key: when a pending record expires, in order, then its id.
pub(super) const EXPIRY: TableDefinition<'_, &[u8], ()> = TableDefinition::new("pending_expiry");
/// Intents: see [`intent_row`]. Leases are in the memory of this process and end with it.
pub(super) const INTENTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("begun");
/// Key: shard, instant in order, connection.
pub(super) const DUE: TableDefinition<'_, &[u8], ()> = TableDefinition::new("due");
/// When each connection is due, and when it was used (0: not known).
pub(super) const SCHEDULE: TableDefinition<'_, &str, (i64, i64)> = TableDefinition::new("schedule");
/// The floor of a deleted connection: its two numbers, and until when it is kept.
pub(super) const FLOORS: TableDefinition<'_, &str, (u64, u64, i64)> = TableDefinition::new("floors");
/// Key: until when a floor is kept, in order, then the connection.
pub(super) const FLOOR_EXPIRY: TableDefinition<'_, &[u8], ()> = TableDefinition::new("floor_expiry");
/// Until when each entry counts. Key: the owner, a zero, the entry.
pub(super) const COUNTED: TableDefinition<'_, &str, i64> = TableDefinition::new("counted");
/// Notices, by place.
pub(super) const NOTICES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("notices");
/// The place of each notice by its id, and the last place that was given.
pub(super) const NOTICE_PLACES: TableDefinition<'_, &str, u64> = TableDefinition::new("notice_places");

/// A pending record as it is stored: when it expires, then the sealed bytes.
pub(super) struct PendingRow<'r> {
    pub(super) expires_at: Timestamp,
    pub(super) sealed: &'r [u8],
}

impl<'r> PendingRow<'r> {
    pub(super) fn decode(doing: &'static str, row: &'r [u8]) -> Result<Self, StoreError> {
        let (expires_at, sealed) = row
            .split_first_chunk()
            .ok_or_else(|| StoreError::corrupt(doing, "a pending record is shorter than its expiry"))?;
        Ok(PendingRow { expires_at: Timestamp::from_unix_millis(i64::from_be_bytes(*expires_at)), sealed })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        [&self.expires_at.unix_millis().to_be_bytes(), self.sealed].concat()
    }

    /// The sealed bytes; `None` once they have expired.
    pub(super) fn alive(&self, now: Timestamp) -> Option<&'r [u8]> {
        (now < self.expires_at).then_some(self.sealed)
    }
}

/// An intent as it is stored: the nonce, the sign-in, and 1 if an earlier intent was not settled either.
pub(super) fn intent_row(intent: &Intent) -> Vec<u8> {
    [&intent.nonce.0[..], &record::sign_in_bytes(&intent.about), &[u8::from(intent.unsettled)]].concat()
}

/// Reads such a row. A row of another form is about no sign-in and says nothing.
pub(super) fn read_intent(row: &[u8]) -> Option<Intent> {
    let (nonce, rest) = row.split_first_chunk()?;
    let (number, rest) = rest.split_first_chunk()?;
    let (sign_in, rest) = rest.split_first_chunk()?;
    let about = SignIn { number: u64::from_be_bytes(*number), nonce: *sign_in };
    Some(Intent { nonce: LeaseNonce(*nonce), about, unsettled: rest == [1] })
}

pub(super) fn schedule_row(scheduled: &Scheduled) -> (i64, i64) {
    (scheduled.due_at.unix_millis(), scheduled.used_at.map_or(0, Timestamp::unix_millis))
}

pub(super) fn read_scheduled((due_at, used_at): (i64, i64)) -> Scheduled {
    let used_at = (used_at != 0).then(|| Timestamp::from_unix_millis(used_at));
    Scheduled { due_at: Timestamp::from_unix_millis(due_at), used_at }
}

/// The key that orders expiries by time. The sign bit is flipped, so that bytes sort as numbers do.
pub(super) fn expiry_key(expires_at: Timestamp, id: &str) -> Vec<u8> {
    [&(expires_at.unix_millis() ^ i64::MIN).to_be_bytes(), id.as_bytes()].concat()
}

/// The id in an [`expiry_key`].
pub(super) fn expiring_id(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.get(8..)?).ok()
}

/// The key that orders due connections by time within their shard.
pub(super) fn due_key(shard: u8, at: Timestamp, name: &str) -> Vec<u8> {
    [&[shard][..], &expiry_key(at, name)].concat()
}

/// The connection in a [`due_key`].
pub(super) fn due_connection(key: &[u8]) -> Option<ConnectionKey> {
    keyspace::parse_key(expiring_id(key.get(1..)?)?)
}

/// The key of a lease. The key of a connection always contains a colon, so the other leases cannot clash with
/// one.
pub(super) fn lease_key(of: LeaseOf<'_>) -> String {
    match of {
        LeaseOf::Connection(key) => keyspace::embedded_record(key),
        LeaseOf::Sweep(shard) => format!("sweep-{shard}"),
        LeaseOf::Rewrap => "rewrap".to_owned(),
        LeaseOf::Notices => "notices".to_owned(),
    }
}
