//! A walk over every record: `SCAN` on each primary, one after the other. Redis promises that a key that
//! exists from the first page to the last is on one of them. No index has to be right for it.
//!
//! The promise holds for one process of one server. So a walk that goes on over another connection than it
//! began with is an error, and so is one during which the Cluster changed: a slot may have moved from a node
//! still to come to one that is done. The walk then begins anew.

use ::redis::Cmd;

use super::RedisStore;
use super::reads::LIST_CHUNK;
use super::way::Way;
use crate::store::{RecordOf, SEALED_HEAD, SealedPage, SealedRecord, StoreError, keyspace, record};

const DOING: &str = "walking over every record";

/// Where a walk goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The latest known change of the Cluster; 0 with a single server.
    epoch: u64,
    /// A slot of the node.
    slot: u16,
    /// The connection ([`super::live::Live::number`]); 0 at the first page of a node.
    connection: u64,
    /// Redis' own cursor.
    cursor: u64,
}

impl Cursor {
    pub(super) fn write(self) -> String {
        format!("{}.{}.{}.{}", self.epoch, self.slot, self.connection, self.cursor)
    }

    pub(super) fn read(text: &str) -> Option<Self> {
        let mut numbers = text.split('.').map(str::parse::<u64>);
        let mut next = || numbers.next()?.ok();
        let (epoch, slot, connection, cursor) = (next()?, next()?, next()?, next()?);
        Some(Cursor { epoch, slot: u16::try_from(slot).ok()?, connection, cursor })
    }
}

impl RedisStore {
    pub(super) async fn scan(&self, after: Option<&str>, limit: usize) -> Result<SealedPage, StoreError> {
        let at = match after {
            Some(after) => {
                Cursor::read(after).ok_or_else(|| StoreError::unavailable(DOING, "it began elsewhere"))?
            }
            None => self.first().await?,
        };
        let mut scan = ::redis::cmd("SCAN");
        scan.arg(at.cursor).arg("MATCH").arg(format!("{}*", keyspace::PREFIX)).arg("COUNT").arg(limit);
        let (((cursor, keys), connection), _) = self
            .run_on(DOING, at.slot, |live, mut commands| {
                let (scan, number) = (&scan, live.number);
                async move { Ok((scan.query_async::<(u64, Vec<Vec<u8>>)>(&mut commands).await?, number)) }
            })
            .await?;
        if at.connection != 0 && at.connection != connection {
            return Err(StoreError::unavailable(DOING, "the connection to Redis is another one than before"));
        }
        let records = self.heads(&keys).await?;
        let next = match cursor {
            0 => self.following(at).await?,
            cursor => Some(Cursor { connection, cursor, ..at }),
        };
        Ok(SealedPage { records, next: next.map(Cursor::write) })
    }

    /// Where a walk begins.
    async fn first(&self) -> Result<Cursor, StoreError> {
        let (epoch, slots) = match &self.link {
            Way::One(_) => (0, vec![0]),
            Way::Cluster(cluster) => cluster.nodes(DOING).await?,
        };
        let slot = slots.first().copied().unwrap_or(0);
        Ok(Cursor { epoch, slot, connection: 0, cursor: 0 })
    }

    /// Where the walk goes on after a node; `None` after the last. The walk was complete if this still is the
    /// same store.
    async fn following(&self, at: Cursor) -> Result<Option<Cursor>, StoreError> {
        let Way::Cluster(cluster) = &self.link else {
            return self.believe_absence(DOING, 0).await.map(|()| None);
        };
        let (epoch, slots) = cluster.nodes(DOING).await?;
        let next = slots.into_iter().find(|slot| *slot > at.slot);
        if next.is_none() {
            // Asks every node, and takes up what it knows.
            cluster.ping(DOING).await?;
        }
        let (now, _) = cluster.nodes(DOING).await?;
        if epoch != at.epoch || now != at.epoch {
            return Err(StoreError::unavailable(DOING, "the Cluster changed meanwhile"));
        }
        Ok(next.map(|slot| Cursor { slot, connection: 0, cursor: 0, ..at }))
    }

    /// The first bytes of those keys that are records.
    async fn heads(&self, keys: &[Vec<u8>]) -> Result<Vec<SealedRecord>, StoreError> {
        let mut records = Vec::new();
        let mut reads: Vec<(u16, Cmd)> = Vec::new();
        for key in keys {
            let Some(of) = std::str::from_utf8(key).ok().and_then(keyspace::parse_redis) else { continue };
            let reach = match &of {
                RecordOf::Connection(_) => record::reach_of(SEALED_HEAD),
                RecordOf::Pending(_) => SEALED_HEAD,
            };
            let mut read = ::redis::cmd("GETRANGE");
            read.arg(key).arg(0).arg(reach - 1);
            reads.push((keyspace::slot(&String::from_utf8_lossy(key)), read));
            records.push(of);
        }
        let mut heads = Vec::with_capacity(reads.len());
        // Others wait behind them on the connection.
        for some in reads.chunks(LIST_CHUNK) {
            heads.extend(self.read_many(DOING, some).await?);
        }
        let seen = records.into_iter().zip(heads).filter_map(|(of, read)| {
            // Gone since, when there is nothing.
            let read = read.filter(|read| !read.is_empty())?;
            let head = match &of {
                RecordOf::Connection(_) => {
                    record::head(DOING, &read, SEALED_HEAD).map(<[u8]>::to_vec).unwrap_or_default()
                }
                RecordOf::Pending(_) => read,
            };
            Some(SealedRecord { of, head })
        });
        Ok(seen.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_nothing_else_is() {
        let cursor = Cursor { epoch: 7, slot: 16_383, connection: 3, cursor: u64::MAX };
        assert_eq!(Cursor::read(&cursor.write()), Some(cursor));
        for text in ["", "1.2.3", "1.70000.3.4", "a.2.3.4"] {
            assert_eq!(Cursor::read(text), None, "{text}");
        }
    }
}
