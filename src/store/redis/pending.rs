//! Pending records in Redis, and how many of them each owner has.

use async_trait::async_trait;

use super::RedisStore;
use super::scripts::{self, millis};
use super::way::Way;
use crate::domain::time::Timestamp;
use crate::store::{Counted, Deadline, Full, MOST_COUNTED, Most, Pending, StoreError, keyspace};

#[async_trait]
impl Pending for RedisStore {
    async fn put_pending(&self, id: &str, sealed: &[u8], deadline: Deadline) -> Result<(), StoreError> {
        let slot = keyspace::slot(&keyspace::redis_pending(id));
        let mut set = ::redis::cmd("SET");
        set.arg(keyspace::redis_pending(id)).arg(sealed).arg("PX").arg(millis(deadline.ttl()));
        self.write("keeping a pending record", slot, |mut commands| {
            let set = &set;
            async move { set.exec_async(&mut commands).await }
        })
        .await?;
        Ok(())
    }

    /// Asks for the store's name in the same trip: a renewal looks for what is mostly not there, and an
    /// absence is believed only of this very store. (In a Cluster the name may be on another node.)
    async fn pending(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        const DOING: &str = "looking a pending record up";
        let slot = keyspace::slot(&keyspace::redis_pending(id));
        let identity = match &self.link {
            Way::One(link) => link.identity(),
            Way::Cluster(_) => None,
        };
        let mut get = ::redis::pipe();
        get.cmd("GET").arg(keyspace::redis_pending(id));
        if identity.is_some() {
            get.cmd("GET").arg(keyspace::REDIS_IDENTITY);
        }
        let (answers, _) = self
            .run(DOING, slot, |mut commands| {
                let get = &get;
                async move { get.query_async::<Vec<Option<Vec<u8>>>>(&mut commands).await }
            })
            .await?;
        let mut answers = answers.into_iter();
        let (found, name) = (answers.next().flatten(), answers.next().flatten());
        let is_same = identity.zip(name).is_some_and(|(identity, name)| identity.is_known_as(&name));
        if found.is_none() && !is_same {
            self.believe_absence(DOING, slot).await?;
        }
        Ok(found)
    }

    async fn take_pending(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        const DOING: &str = "taking a pending record";
        let slot = keyspace::slot(&keyspace::redis_pending(id));
        let mut take = ::redis::cmd("GETDEL");
        take.arg(keyspace::redis_pending(id));
        // A record that was taken once must not come back after a failover.
        let (taken, lost) = self
            .write(DOING, slot, |mut commands| {
                let take = &take;
                async move { take.query_async::<Option<Vec<u8>>>(&mut commands).await }
            })
            .await?;
        if taken.is_none() && lost {
            return Err(StoreError::unavailable(DOING, "the answer was lost with its connection"));
        }
        if taken.is_none() {
            self.believe_absence(DOING, slot).await?;
        }
        Ok(taken)
    }

    async fn swap_pending(
        &self,
        id: &str,
        expected: Option<&[u8]>,
        sealed: &[u8],
        deadline: Deadline,
    ) -> Result<bool, StoreError> {
        const DOING: &str = "replacing a pending record";
        let slot = keyspace::slot(&keyspace::redis_pending(id));
        let mut script = scripts::SWAP.prepare_invoke();
        script
            .key(keyspace::redis_pending(id))
            .arg(expected.unwrap_or_default())
            .arg(sealed)
            .arg(millis(deadline.ttl()));
        let (swapped, _) = self
            .write(DOING, slot, |mut commands| {
                let script = &script;
                async move { script.invoke_async::<bool>(&mut commands).await }
            })
            .await?;
        if !swapped {
            self.believe_absence(DOING, slot).await?;
        }
        Ok(swapped)
    }

    async fn count_in(
        &self,
        owner: &str,
        entry: &str,
        until: Timestamp,
        most: Most<'_>,
    ) -> Result<Counted, StoreError> {
        let key = keyspace::redis_counted(owner);
        let slot = keyspace::slot(&key);
        let mut script = scripts::COUNT_IN.prepare_invoke();
        script.key(key).arg(entry).arg(until.unix_millis()).arg(self.link.clock().now().unix_millis());
        script.arg(most.of_owner.min(MOST_COUNTED));
        let group = most.of_group.map_or(("", 0), |group| (group.prefix, group.most));
        script.arg(group.0).arg(group.1);
        // Not waited for on replicas: a failover that loses the count lets one more in.
        let (full, _) = self.script::<Vec<i64>>("counting what is open", slot, &script).await?;
        Ok(match full.as_slice() {
            [] => Counted::In,
            [which, first, ..] => Counted::Full {
                which: if *which == 0 { Full::Owner } else { Full::Group },
                until: Timestamp::from_unix_millis(*first),
            },
            [_] => return Err(StoreError::corrupt("counting what is open", "half an answer")),
        })
    }

    async fn count_out(&self, owner: &str, entry: &str) -> Result<(), StoreError> {
        let key = keyspace::redis_counted(owner);
        let slot = keyspace::slot(&key);
        let mut remove = ::redis::cmd("ZREM");
        remove.arg(key).arg(entry);
        self.run("counting what is closed", slot, |mut commands| {
            let remove = &remove;
            async move { remove.exec_async(&mut commands).await }
        })
        .await?;
        Ok(())
    }

    async fn counted(&self, owner: &str) -> Result<Vec<String>, StoreError> {
        let key = keyspace::redis_counted(owner);
        let slot = keyspace::slot(&key);
        let now = self.link.clock().now().unix_millis();
        let mut range = ::redis::cmd("ZRANGEBYSCORE");
        range.arg(key).arg(format!("({now}")).arg("+inf").arg("LIMIT").arg(0).arg(MOST_COUNTED);
        let (entries, _) = self
            .run("looking up what is open", slot, |mut commands| {
                let range = &range;
                async move { range.query_async::<Vec<String>>(&mut commands).await }
            })
            .await?;
        Ok(entries)
    }
}
