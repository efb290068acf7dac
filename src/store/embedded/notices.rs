//! Notices in the file: a notice gets its place in the transaction of its change, so there is nothing to
//! gather. What is over goes a little at a time.

use async_trait::async_trait;
use redb::ReadableTable;

use super::EmbeddedStore;
use super::batch::{Batch, Failed};
use super::tables::{NOTICE_PLACES, NOTICES};
use crate::domain::notice::Notice;
use crate::domain::time::Timestamp;
use crate::store::rules::Swap;
use crate::store::{
    Deadline, Gathered, LeaseNonce, LeaseOf, MAX_PAGE, MOST_NOTICES, NoticePage, Notices, StoreError, telling,
};

/// How many notices one transaction forgets, so that this never delays a commit noticeably.
const FORGET: usize = 64;
/// The row of [`NOTICE_PLACES`] with the last place that was given. No id has such a form.
const LAST: &str = "last";

#[async_trait]
impl Notices for EmbeddedStore {
    async fn swap_telling(
        &self,
        id: &str,
        expected: Option<&[u8]>,
        sealed: &[u8],
        deadline: Deadline,
        notices: &[Notice],
    ) -> Result<bool, StoreError> {
        const DOING: &str = "replacing a pending record";
        let (id, expected, sealed) = (id.to_owned(), expected.map(<[u8]>::to_vec), sealed.to_owned());
        let notices = notices.to_vec();
        self.write(DOING, move |batch| {
            let stored = batch.pending(DOING, &id)?.map(|(stored, _)| stored);
            let swap = Swap::of(stored.as_ref(), expected.as_ref(), &sealed);
            if swap == Swap::Write {
                batch.put_pending(&id, &sealed, deadline.at())?;
                notices.iter().try_for_each(|notice| batch.tell(notice))?;
            }
            Ok(swap.is_done())
        })
        .await
    }

    async fn gather(&self, nonce: LeaseNonce) -> Result<Gathered, StoreError> {
        const DOING: &str = "forgetting notices of the past";
        // Mostly there is none, and a look costs no transaction.
        let (now, lease) = (self.clock.now(), super::tables::lease_key(LeaseOf::Notices));
        let is_due = self
            .read(DOING, move |transaction| {
                let first =
                    transaction.open_table(NOTICES)?.first()?.map(|(_, row)| is_over(row.value(), now));
                Ok(first.unwrap_or(false))
            })
            .await?;
        if !is_due {
            return Ok(Gathered::default());
        }
        self.write(DOING, move |batch| {
            if batch.leases.holder(&lease, batch.monotonic) != Some(nonce) {
                return Ok(Gathered::default());
            }
            let forgotten = batch.forget_notices()?;
            Ok(Gathered { placed: 0, more: forgotten == FORGET, forgotten })
        })
        .await
    }

    async fn notices(&self, after: u64, limit: usize) -> Result<NoticePage, StoreError> {
        const DOING: &str = "reading notices";
        let limit = limit.min(MAX_PAGE);
        self.read(DOING, move |transaction| {
            let last = transaction.open_table(NOTICE_PLACES)?.get(LAST)?.map_or(0, |row| row.value());
            let mut page = NoticePage { notices: Vec::new(), last };
            let Some(first) = after.checked_add(1) else { return Ok(page) };
            for row in transaction.open_table(NOTICES)?.range(first..)?.take(limit) {
                let (place, bytes) = row?;
                page.notices.extend(telling::read(DOING, bytes.value()).map(|one| (place.value(), one)));
            }
            Ok(page)
        })
        .await
    }

    async fn place_of(&self, id: &str) -> Result<Option<u64>, StoreError> {
        if id == LAST {
            return Ok(None);
        }
        let id = id.to_owned();
        self.read("looking up a notice", move |transaction| {
            Ok(transaction.open_table(NOTICE_PLACES)?.get(id.as_str())?.map(|row| row.value()))
        })
        .await
    }
}

impl Batch<'_> {
    /// Gives a notice its place, unless it has one.
    pub(super) fn tell(&mut self, notice: &Notice) -> Result<(), Failed> {
        let mut places = self.transaction.open_table(NOTICE_PLACES)?;
        if places.get(notice.id.as_str())?.is_some() {
            return Ok(());
        }
        let place = places.get(LAST)?.map_or(0, |row| row.value()) + 1;
        places.insert(LAST, place)?;
        places.insert(notice.id.as_str(), place)?;
        let mut notices = self.transaction.open_table(NOTICES)?;
        notices.insert(place, telling::encode(notice).as_slice())?;
        // One comes, and one goes.
        let first = notices.first()?.map(|(first, _)| first.value());
        if let Some(first) = first.filter(|first| place - first >= MOST_NOTICES) {
            let forgotten = notices.remove(first)?.and_then(|row| telling::label("", row.value()).ok());
            if let Some(forgotten) = forgotten {
                places.remove(forgotten.id.as_str())?;
            }
        }
        self.changed = true;
        Ok(())
    }

    /// Forgets notices that are over, oldest first. Returns how many.
    fn forget_notices(&mut self) -> Result<usize, Failed> {
        let mut notices = self.transaction.open_table(NOTICES)?;
        let mut over = Vec::new();
        for row in notices.range::<u64>(..)?.take(FORGET) {
            let (place, bytes) = row?;
            if !is_over(bytes.value(), self.now) {
                break;
            }
            over.push((place.value(), telling::label("", bytes.value()).ok()));
        }
        let mut places = self.transaction.open_table(NOTICE_PLACES)?;
        for (place, notice) in &over {
            notices.remove(place)?;
            if let Some(notice) = notice {
                places.remove(notice.id.as_str())?;
            }
        }
        self.changed |= !over.is_empty();
        Ok(over.len())
    }
}

/// Whether a row may be forgotten. One that cannot be read is of no use.
fn is_over(row: &[u8], now: Timestamp) -> bool {
    telling::label("", row).map_or(true, |label| label.may_go(now))
}
