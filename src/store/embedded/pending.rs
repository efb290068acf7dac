//! Pending records in the file, and how many of them each owner has.

use async_trait::async_trait;
use redb::ReadableTable;

use super::EmbeddedStore;
use super::tables::{COUNTED, PENDING, PendingRow};
use crate::domain::time::Timestamp;
use crate::store::rules::{Count, Swap};
use crate::store::{Counted, Deadline, Group, MOST_COUNTED, Most, Pending, StoreError, keyspace};

#[async_trait]
impl Pending for EmbeddedStore {
    async fn put_pending(&self, id: &str, sealed: &[u8], deadline: Deadline) -> Result<(), StoreError> {
        let (id, sealed) = (id.to_owned(), sealed.to_owned());
        self.write("keeping a pending record", move |batch| {
            Ok(batch.put_pending(&id, &sealed, deadline.at())?)
        })
        .await
    }

    async fn pending(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        const DOING: &str = "looking a pending record up";
        let (id, now) = (id.to_owned(), self.clock.now());
        self.read(DOING, move |transaction| {
            let found = transaction.open_table(PENDING)?.get(id.as_str())?;
            let Some(found) = found else { return Ok(None) };
            Ok(PendingRow::decode(DOING, found.value())?.alive(now).map(<[u8]>::to_vec))
        })
        .await
    }

    async fn take_pending(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        const DOING: &str = "taking a pending record";
        let id = id.to_owned();
        self.write(DOING, move |batch| {
            let Some((sealed, _)) = batch.pending(DOING, &id)? else { return Ok(None) };
            batch.remove_pending(&id)?;
            Ok(Some(sealed))
        })
        .await
    }

    async fn swap_pending(
        &self,
        id: &str,
        expected: Option<&[u8]>,
        sealed: &[u8],
        deadline: Deadline,
    ) -> Result<bool, StoreError> {
        const DOING: &str = "replacing a pending record";
        let (id, expected, sealed) = (id.to_owned(), expected.map(<[u8]>::to_vec), sealed.to_owned());
        self.write(DOING, move |batch| {
            let stored = batch.pending(DOING, &id)?.map(|(stored, _)| stored);
            let swap = Swap::of(stored.as_ref(), expected.as_ref(), &sealed);
            if swap == Swap::Write {
                batch.put_pending(&id, &sealed, deadline.at())?;
            }
            Ok(swap.is_done())
        })
        .await
    }

    async fn count_in(
        &self,
        owner: &str,
        entry: &str,
        until: Timestamp,
        most: Most<'_>,
    ) -> Result<Counted, StoreError> {
        let (owner, entry) = (keyspace::embedded_counted(owner), entry.to_owned());
        let of_owner = most.of_owner.min(MOST_COUNTED);
        let of_group = most.of_group.map(|group| (group.prefix.to_owned(), group.most));
        self.write("counting what is open", move |batch| {
            let of_group = of_group.as_ref().map(|(prefix, most)| Group { prefix, most: *most });
            let mut count = Count::new(&entry, Most { of_owner, of_group }, batch.now);
            let mut table = batch.transaction.open_table(COUNTED)?;
            let mut ended = Vec::new();
            for row in table.range::<&str>(owner.as_str()..)? {
                let (key, until) = row?;
                let Some(other) = key.value().strip_prefix(owner.as_str()) else { break };
                if !count.see(other, Timestamp::from_unix_millis(until.value())) {
                    ended.push(key.value().to_owned());
                }
            }
            batch.changed |= !ended.is_empty();
            for key in ended {
                table.remove(key.as_str())?;
            }
            let answer = count.answer();
            if answer == Counted::In {
                table.insert(format!("{owner}{entry}").as_str(), until.unix_millis())?;
                batch.changed = true;
            }
            Ok(answer)
        })
        .await
    }

    async fn count_out(&self, owner: &str, entry: &str) -> Result<(), StoreError> {
        let row = format!("{}{entry}", keyspace::embedded_counted(owner));
        self.write("counting what is closed", move |batch| {
            batch.changed |= batch.transaction.open_table(COUNTED)?.remove(row.as_str())?.is_some();
            Ok(())
        })
        .await
    }

    async fn counted(&self, owner: &str) -> Result<Vec<String>, StoreError> {
        let (owner, now) = (keyspace::embedded_counted(owner), self.clock.now());
        self.read("looking up what is open", move |transaction| {
            let mut entries = Vec::new();
            for row in transaction.open_table(COUNTED)?.range::<&str>(owner.as_str()..)? {
                let (key, until) = row?;
                let Some(entry) = key.value().strip_prefix(owner.as_str()) else { break };
                if until.value() > now.unix_millis() {
                    entries.push(entry.to_owned());
                }
            }
            Ok(entries)
        })
        .await
    }
}
