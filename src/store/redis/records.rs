//! Connections in Redis.

use std::collections::BTreeSet;

use async_trait::async_trait;
use futures_util::future::{Either, select};

use super::RedisStore;
use super::reads::LIST_CHUNK;
use super::scripts::{self, millis};
use super::way::Way;
use crate::domain::connection::SignIn;
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
use crate::domain::notice::Notice;
use crate::store::{
    Committed, ConnectionPage, Deleted, FLOOR_KEPT, Floor, LOWEST_FLOOR, LeaseNonce, LeaseOf, MAX_PAGE,
    Records, Revision, Schedule as _, StoreError, StoredConnection, StoredProfile, Writer, keyspace, record,
    telling,
};

/// No lease has this nonce. A commit that names it is refused whenever anybody holds the lease.
const NOBODY: LeaseNonce = LeaseNonce([0; 16]);

#[async_trait]
impl Records for RedisStore {
    async fn load(&self, key: &ConnectionKey) -> Result<Option<StoredConnection>, StoreError> {
        const DOING: &str = "loading a connection";
        let slot = keyspace::connection_slot(key);
        let mut get = ::redis::cmd("GET");
        get.arg(keyspace::redis_record(key));
        let (found, _) = self
            .run(DOING, slot, |mut commands| {
                let get = &get;
                async move { get.query_async::<Option<Vec<u8>>>(&mut commands).await }
            })
            .await?;
        match found {
            Some(found) => record::decode(DOING, &found).map(Some),
            None => self.believe_absence(DOING, slot).await.map(|()| None),
        }
    }

    async fn revision(&self, key: &ConnectionKey) -> Result<Option<Revision>, StoreError> {
        const DOING: &str = "looking a revision up";
        let slot = keyspace::connection_slot(key);
        let mut get = ::redis::cmd("GETRANGE");
        get.arg(keyspace::redis_record(key)).arg(0).arg(record::REVISION_END - 1);
        let (found, _) = self
            .run(DOING, slot, |mut commands| {
                let get = &get;
                async move { get.query_async::<Vec<u8>>(&mut commands).await }
            })
            .await?;
        // Redis has no empty strings: an empty answer means that there is no record.
        if found.is_empty() {
            return self.believe_absence(DOING, slot).await.map(|()| None);
        }
        record::decode_revision(DOING, &found).map(Some)
    }

    async fn commit(
        &self,
        key: &ConnectionKey,
        expected: Option<Revision>,
        connection: &StoredConnection,
        writer: Writer,
    ) -> Result<Committed, StoreError> {
        const DOING: &str = "committing a connection";
        let encoded = record::encode(DOING, connection)?;
        let expects = expected.map(|revision| record::revision_bytes(&revision).to_vec());
        let (lease, intent) = keyspace::redis_lease(LeaseOf::Connection(key));
        let nonce = writer.lease().unwrap_or(NOBODY);
        let fence = if writer.is_fenced() { &nonce.0[..] } else { &[] };
        let mut script = scripts::COMMIT.prepare_invoke();
        script
            .key(keyspace::redis_record(key))
            .key(lease)
            .key(intent)
            .key(keyspace::redis_floor(key))
            .arg(expects.unwrap_or_default())
            .arg(&record::revision_bytes(&connection.revision)[..])
            .arg(&encoded[..record::REVISION_START])
            .arg(&encoded)
            .arg(fence)
            .arg(u8::from(writer.replaces_grant()))
            .arg(connection.revision.sign_in.number)
            .arg(keyspace::REDIS_CHANGES)
            .arg(self.changes.message(key));
        let slot = keyspace::connection_slot(key);
        let tells = connection.notice.as_deref();
        if let Some(notice) = tells {
            let (outbox, count) = self.outbox_of_connection(key);
            script.key(outbox).key(count).arg(telling::encode(notice));
        }
        let creates = expected.is_none();
        if creates {
            self.believe_absence(DOING, slot).await?;
            self.index(DOING, key).await?;
        }
        let written = self.write(DOING, slot, |mut commands| {
            let script = &script;
            async move { script.invoke_async::<i64>(&mut commands).await }
        });
        let written = async {
            match tells {
                Some(_) => beside(written, self.hint(slot)).await,
                None => written.await,
            }
        };
        let (answer, _) = if creates {
            written.await?
        } else {
            // Both are sent together. The record does not depend on the name.
            beside(written, self.index(DOING, key)).await?
        };
        if answer == scripts::UNTOLD {
            self.say_untold(DOING);
        }
        match answer {
            1 | scripts::UNTOLD => {
                if creates && let Err(error) = self.index(DOING, key).await {
                    tracing::warn!(%error, "a new connection may be missing in lists until its next refresh");
                }
                Ok(Committed::Done)
            }
            0 => Ok(Committed::Conflict),
            2 => Ok(Committed::Fenced),
            _ => Err(StoreError::corrupt(DOING, "what is stored is no record, or one of another format")),
        }
    }

    async fn floor(&self, key: &ConnectionKey) -> Result<Floor, StoreError> {
        const DOING: &str = "asking what was deleted of a connection";
        let slot = keyspace::connection_slot(key);
        let mut get = ::redis::cmd("GET");
        get.arg(keyspace::redis_floor(key));
        let (floor, _) = self
            .run(DOING, slot, |mut commands| {
                let get = &get;
                async move { get.query_async::<Option<String>>(&mut commands).await }
            })
            .await?;
        let Some(floor) = floor else {
            return self.believe_absence(DOING, slot).await.map(|()| LOWEST_FLOOR);
        };
        let numbers = floor.split_once(' ').map(|(number, cut)| (number.parse(), cut.parse()));
        match numbers {
            Some((Ok(number), Ok(cut))) => Ok(Floor { number, cut }),
            _ => Err(StoreError::corrupt(DOING, "a floor is two numbers")),
        }
    }

    async fn delete(
        &self,
        key: &ConnectionKey,
        meant: SignIn,
        cuts_off: bool,
        notice: Option<&Notice>,
    ) -> Result<Deleted, StoreError> {
        const DOING: &str = "deleting a connection";
        let (lease, intent) = keyspace::redis_lease(LeaseOf::Connection(key));
        let mut script = scripts::DELETE.prepare_invoke();
        script.key(keyspace::redis_record(key)).key(lease).key(intent).key(keyspace::redis_floor(key));
        script.arg(&record::sign_in_bytes(&meant)[..]).arg(&record::HEAD[..]).arg(millis(FLOOR_KEPT));
        script.arg(u8::from(cuts_off));
        script.arg(keyspace::REDIS_CHANGES).arg(self.changes.message(key));
        let slot = keyspace::connection_slot(key);
        if let Some(notice) = notice {
            let (outbox, count) = self.outbox_of_connection(key);
            script.key(outbox).key(count).arg(telling::encode(notice));
        }
        let written = self.write(DOING, slot, |mut commands| {
            let script = &script;
            async move { script.invoke_async::<i64>(&mut commands).await }
        });
        let (found, lost) = match notice {
            Some(_) => beside(written, self.hint(slot)).await?,
            None => written.await?,
        };
        if found == 2 {
            return Ok(Deleted::Another);
        }
        if found == scripts::UNTOLD {
            self.say_untold(DOING);
        }
        let removed = found != 0;
        if !removed {
            self.believe_absence(DOING, slot).await?;
        }
        if let Err(error) = self.unindex(DOING, key).await {
            tracing::debug!(%error, "the name of a deleted connection stays in the index until it is listed");
        }
        if let Err(error) = self.schedule(key, None).await {
            tracing::debug!(%error, "a deleted connection stays in the schedule until it is due");
        }
        Ok(if removed || lost { Deleted::Gone } else { Deleted::Absent })
    }

    async fn profiles(&self, keys: &[ConnectionKey]) -> Result<Vec<Option<StoredProfile>>, StoreError> {
        const DOING: &str = "reading profiles";
        let mut profiles = Vec::with_capacity(keys.len());
        for some in keys.chunks(LIST_CHUNK) {
            let found = self.read_profiles(DOING, some).await?;
            let absent = some.iter().zip(&found).filter(|(_, found)| found.is_none());
            let slots: BTreeSet<u16> = absent.map(|(key, _)| keyspace::connection_slot(key)).collect();
            for slot in slots {
                self.believe_absence(DOING, slot).await?;
                // All of these are on one server.
                if matches!(self.link, Way::One(_)) {
                    break;
                }
            }
            profiles.extend(found);
        }
        Ok(profiles)
    }

    async fn list(
        &self,
        app: &AppName,
        prefix: &str,
        after: Option<&ConnectionName>,
        limit: usize,
    ) -> Result<ConnectionPage, StoreError> {
        const DOING: &str = "listing connections";
        let limit = limit.min(MAX_PAGE);

        let mut page = ConnectionPage::default();
        let mut after = after.cloned();
        // One more than fits shows whether there is a next page.
        while limit > 0 && page.connections.len() <= limit {
            let range = keyspace::redis_range(prefix, after.as_ref().map(ConnectionName::as_str));
            let count = (limit + 1 - page.connections.len()).min(LIST_CHUNK);
            let chunk = self.list_chunk(DOING, app, &range, count).await?;
            let last = chunk.len() < count;
            for (key, found) in chunk {
                after = Some(key.connection.clone());
                match found {
                    Some(found) => page.connections.push((key.connection, found)),
                    None => {
                        // In a Cluster the record's node may have lost it while the index is on another.
                        self.believe_absence(DOING, keyspace::connection_slot(&key)).await?;
                        self.unindex(DOING, &key).await?;
                    }
                }
            }
            if last {
                break;
            }
        }
        if page.connections.len() > limit {
            page.connections.truncate(limit);
            page.next = page.connections.last().map(|(name, _)| name.clone());
        }
        // The end of the list is an absence too. If the index was lost, only connections used since are in
        // it.
        self.believe_absence(DOING, keyspace::slot(&keyspace::redis_index(app))).await?;
        Ok(page)
    }
}

/// Waits for the first one. The second one gets as far as it can meanwhile.
pub(super) async fn beside<T>(first: impl Future<Output = T>, second: impl Future) -> T {
    match select(std::pin::pin!(first), std::pin::pin!(second)).await {
        Either::Left((answer, _)) => answer,
        Either::Right((_, first)) => first.await,
    }
}
