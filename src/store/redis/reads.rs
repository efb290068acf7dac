//! Reads many records at once, and of each no more than is needed.

use futures_util::future::join_all;

use super::RedisStore;
use super::way::Way;
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
use crate::store::record::{self, Beginning};
use crate::store::{StoreError, StoredProfile, keyspace};

/// How many records a list reads in one go: a page of the broker's, and the one that shows whether there are
/// more. It bounds how long others wait behind them on the connection.
pub(super) const LIST_CHUNK: usize = 101;
/// How many records one pipeline reads, and how many bytes they may have in all. The answer to one command is
/// bounded ([`super::meter`]), so these bound the memory that a lying server can take for one list.
const READ_AT_ONCE: usize = 32;
const LARGEST_CHUNK: usize = 16 * 1024 * 1024;
/// How much of a record is read for its profile at first: most profiles have two or three KiB. A larger one
/// is read again, and so is one that has grown meanwhile, at most so often.
const PROFILE_REACH: usize = record::reach_of(4096);
const PROFILE_ROUNDS: usize = 4;

impl RedisStore {
    /// One chunk of a list: names from the index, and their profiles.
    pub(super) async fn list_chunk(
        &self,
        doing: &'static str,
        app: &AppName,
        (start, end): &(Vec<u8>, Vec<u8>),
        count: usize,
    ) -> Result<Vec<(ConnectionKey, Option<StoredProfile>)>, StoreError> {
        let index = keyspace::redis_index(app);
        let slot = keyspace::slot(&index);
        let mut range = ::redis::cmd("ZRANGEBYLEX");
        range.arg(index).arg(start).arg(end).arg("LIMIT").arg(0).arg(count);
        let (names, _) = self
            .run(doing, slot, |mut commands| {
                let range = &range;
                async move { range.query_async::<Vec<Vec<u8>>>(&mut commands).await }
            })
            .await?;
        let mut keys = Vec::with_capacity(names.len());
        for name in names {
            let name = String::from_utf8(name).ok().and_then(|name| ConnectionName::stored(&name).ok());
            let name = name.ok_or_else(|| StoreError::corrupt(doing, "the index holds what is no name"))?;
            keys.push(ConnectionKey { app: app.clone(), connection: name });
        }
        let profiles = self.read_profiles(doing, &keys).await?;
        Ok(keys.into_iter().zip(profiles).collect())
    }

    /// The profiles of some connections, at most [`LIST_CHUNK`]. Of each record as much is read as most
    /// profiles need, and the rest of larger ones.
    pub(super) async fn read_profiles(
        &self,
        doing: &'static str,
        keys: &[ConnectionKey],
    ) -> Result<Vec<Option<StoredProfile>>, StoreError> {
        let mut profiles: Vec<Option<StoredProfile>> = vec![None; keys.len()];
        let mut wanted: Vec<(usize, usize)> = (0..keys.len()).map(|at| (at, PROFILE_REACH)).collect();
        let mut rounds = 0;
        while !wanted.is_empty() {
            if rounds == PROFILE_ROUNDS {
                return Err(StoreError::unavailable(doing, "a record grows with every look at it"));
            }
            rounds += 1;
            let read = |(at, reach): &(usize, usize)| {
                let record = keyspace::redis_record(&keys[*at]);
                let slot = keyspace::slot(&record);
                let mut read = ::redis::cmd("GETRANGE");
                read.arg(record).arg(0).arg(reach - 1);
                (slot, read)
            };
            let reads: Vec<(u16, ::redis::Cmd)> = wanted.iter().map(read).collect();
            let records = self.read_many(doing, &reads).await?;
            let mut longer = Vec::new();
            for ((at, reach), record) in wanted.into_iter().zip(records) {
                // Redis has no empty strings: an empty answer means that there is no record.
                let Some(record) = record.filter(|record| !record.is_empty()) else { continue };
                match record::profile(doing, &record, reach) {
                    Ok(Beginning::Whole(profile)) => profiles[at] = Some(profile),
                    Ok(Beginning::Cut(reach)) => longer.push((at, reach)),
                    Err(_) => profiles[at] = Some(record::unreadable()),
                }
            }
            wanted = longer;
        }
        Ok(profiles)
    }

    /// Runs many reading commands, each on a key of its slot: one pipeline for each node that has some of
    /// them.
    pub(super) async fn read_many(
        &self,
        doing: &'static str,
        reads: &[(u16, ::redis::Cmd)],
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let slots: Vec<u16> = reads.iter().map(|(slot, _)| *slot).collect();
        let groups = match &self.link {
            Way::One(_) if reads.is_empty() => Vec::new(),
            Way::One(_) => vec![(0..reads.len()).collect()],
            Way::Cluster(cluster) => cluster.groups(doing, &slots).await?,
        };
        // Not MGET: the records live in different slots.
        let found = join_all(groups.iter().map(|group| self.group(doing, reads, group))).await;
        let mut records: Vec<Option<Vec<u8>>> = vec![None; reads.len()];
        for (group, found) in groups.iter().zip(found) {
            for (at, record) in group.iter().zip(found?) {
                records[*at] = record;
            }
        }
        Ok(records)
    }

    async fn group(
        &self,
        doing: &'static str,
        reads: &[(u16, ::redis::Cmd)],
        group: &[usize],
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let get = async |group: &[usize]| {
            let mut records: Vec<Option<Vec<u8>>> = Vec::with_capacity(group.len());
            for some in group.chunks(READ_AT_ONCE) {
                let mut gets = ::redis::pipe();
                for at in some {
                    gets.add_command(reads[*at].1.clone());
                }
                let found = self.run(doing, reads[some[0]].0, |mut commands| {
                    let gets = &gets;
                    async move { gets.query_async::<Vec<Option<Vec<u8>>>>(&mut commands).await }
                });
                records.extend(found.await?.0);
                let bytes: usize = records.iter().flatten().map(Vec::len).sum();
                if bytes > LARGEST_CHUNK {
                    return Err(StoreError::corrupt(doing, "records are larger than any of ours"));
                }
            }
            Ok::<_, StoreError>(records)
        };
        match get(group).await {
            Err(_) if matches!(self.link, Way::Cluster(_)) && group.len() > 1 => {}
            done => return done,
        }
        // Perhaps some were moved to another node since.
        let mut records = Vec::with_capacity(group.len());
        for at in group {
            records.extend(get(&[*at]).await?);
        }
        Ok(records)
    }
}
