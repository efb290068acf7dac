//! Connections in the file.

use async_trait::async_trait;

use super::EmbeddedStore;
use super::tables::{CONNECTIONS, FLOORS};
use crate::domain::connection::SignIn;
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
use crate::domain::notice::Notice;
use crate::store::record::Beginning;
use crate::store::rules::{self, Found, Known};
use crate::store::{
    Committed, ConnectionPage, Deleted, Floor, LOWEST_FLOOR, MAX_PAGE, Records, Revision, StoreError,
    StoredConnection, StoredProfile, Writer, keyspace, record,
};

#[async_trait]
impl Records for EmbeddedStore {
    async fn load(&self, key: &ConnectionKey) -> Result<Option<StoredConnection>, StoreError> {
        const DOING: &str = "loading a connection";
        let key = keyspace::embedded_record(key);
        self.read(DOING, move |transaction| {
            let found = transaction.open_table(CONNECTIONS)?.get(key.as_str())?;
            Ok(found.map(|found| record::decode(DOING, found.value())).transpose()?)
        })
        .await
    }

    async fn revision(&self, key: &ConnectionKey) -> Result<Option<Revision>, StoreError> {
        const DOING: &str = "looking a revision up";
        let key = keyspace::embedded_record(key);
        self.read(DOING, move |transaction| {
            let found = transaction.open_table(CONNECTIONS)?.get(key.as_str())?;
            Ok(found.map(|found| record::decode_revision(DOING, found.value())).transpose()?)
        })
        .await
    }

    async fn commit(
        &self,
        key: &ConnectionKey,
        expected: Option<Revision>,
        connection: &StoredConnection,
        writer: Writer,
    ) -> Result<Committed, StoreError> {
        const DOING: &str = "committing a connection";
        let (key, revision) = (keyspace::embedded_record(key), connection.revision);
        let record = record::encode(DOING, connection)?;
        let notice = connection.notice.clone();
        self.write(DOING, move |batch| {
            let stored = batch.record(&key)?;
            let known = Known {
                stored: stored.map(|stored| record::decode_revision(DOING, &stored)).transpose()?,
                holder: batch.leases.holder(&key, batch.monotonic),
                floor: batch.floor(&key)?,
            };
            let (answer, stores) = rules::commit(&known, expected, &revision, writer);
            if let Some(stores) = stores {
                batch.put_record(&key, &record)?;
                if let Some(notice) = &notice {
                    batch.tell(notice)?;
                }
                if let Some(nonce) = writer.lease().filter(|_| stores.gives_lease_back) {
                    batch.leases.release(&key, nonce, batch.monotonic);
                }
                if batch.intent(&key)?.is_some_and(|intent| stores.settles(&intent)) {
                    batch.settle(&key)?;
                }
            }
            Ok(answer)
        })
        .await
    }

    async fn floor(&self, key: &ConnectionKey) -> Result<Floor, StoreError> {
        let key = keyspace::embedded_record(key);
        self.read("asking what was deleted of a connection", move |transaction| {
            let row = transaction.open_table(FLOORS)?.get(key.as_str())?.map(|row| row.value());
            Ok(row.map_or(LOWEST_FLOOR, |(number, cut, _)| Floor { number, cut }))
        })
        .await
    }

    async fn delete(
        &self,
        key: &ConnectionKey,
        meant: SignIn,
        cuts_off: bool,
        notice: Option<&Notice>,
    ) -> Result<Deleted, StoreError> {
        const DOING: &str = "deleting a connection";
        let (key, notice) = (keyspace::embedded_record(key), notice.cloned());
        self.write(DOING, move |batch| {
            let found = match batch.record(&key)?.map(|record| record::decode_revision(DOING, &record)) {
                None => Found::Nothing,
                Some(Err(_)) => Found::Unreadable,
                Some(Ok(revision)) => Found::Revision(revision),
            };
            let is_leased = batch.leases.holder(&key, batch.monotonic).is_some();
            let (answer, destroys) = rules::delete(found, is_leased, batch.floor(&key)?, meant, cuts_off);
            if let Some(destroys) = destroys {
                if answer == Deleted::Gone {
                    batch.remove_record(&key)?;
                    if let Some(notice) = &notice {
                        batch.tell(notice)?;
                    }
                }
                if destroys.settles {
                    batch.settle(&key)?;
                }
                batch.put_floor(&key, destroys.floor)?;
            }
            Ok(answer)
        })
        .await
    }

    async fn profiles(&self, keys: &[ConnectionKey]) -> Result<Vec<Option<StoredProfile>>, StoreError> {
        const DOING: &str = "reading profiles";
        let keys: Vec<String> = keys.iter().map(keyspace::embedded_record).collect();
        self.read(DOING, move |transaction| {
            let table = transaction.open_table(CONNECTIONS)?;
            let mut profiles = Vec::with_capacity(keys.len());
            for key in keys {
                let found = table.get(key.as_str())?;
                profiles.push(found.map(|found| profile(DOING, found.value())));
            }
            Ok(profiles)
        })
        .await
    }

    async fn list(
        &self,
        app: &AppName,
        prefix: &str,
        after: Option<&ConnectionName>,
        limit: usize,
    ) -> Result<ConnectionPage, StoreError> {
        const DOING: &str = "listing connections";
        let (start, past) = keyspace::embedded_start(app, prefix, after);
        let (app, prefix, limit) = (app.clone(), prefix.to_owned(), limit.min(MAX_PAGE));
        self.read(DOING, move |transaction| {
            let table = transaction.open_table(CONNECTIONS)?;
            let mut page = ConnectionPage::default();
            for row in table.range(start.as_str()..)? {
                let (key, value) = row?;
                if past && key.value() == start {
                    continue;
                }
                let Some(name) = keyspace::embedded_name(key.value(), &app, &prefix) else { break };
                if page.connections.len() == limit {
                    page.next = page.connections.last().map(|(name, _)| name.clone());
                    break;
                }
                let name = ConnectionName::stored(name);
                let name = name.map_err(|invalid| StoreError::corrupt(DOING, invalid))?;
                page.connections.push((name, profile(DOING, value.value())));
            }
            Ok(page)
        })
        .await
    }
}

/// The profile of a whole record.
fn profile(doing: &'static str, record: &[u8]) -> StoredProfile {
    match record::profile(doing, record, usize::MAX) {
        Ok(Beginning::Whole(profile)) => profile,
        Ok(Beginning::Cut(_)) | Err(_) => record::unreadable(),
    }
}
