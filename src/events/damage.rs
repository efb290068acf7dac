//! Stored records that cannot be used. Every read of one is counted, each record is logged once as an ERROR,
//! and `status` reports them.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use super::Counters;
use crate::repository::{Damage, DamageObserver, Owner};
use crate::store::StoreError;

/// The kind of a record whose outer form cannot be read.
const UNREADABLE: &str = "unreadable";
/// Most records that are remembered as reported: an attacker who can write to the store may damage any
/// number. Further ones are only counted.
const MOST: usize = 10_000;
/// Time after which a record without a name here, such as a session, is reported again.
const AGAIN: Duration = Duration::from_secs(3600);

/// The records that were reported, and when.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<BTreeMap<String, Duration>>);

impl Told {
    /// Returns how many records were reported so far, this one included, if it is due for a report.
    fn is_news(&self, record: String, for_good: bool, now: Duration) -> Option<usize> {
        let mut told = self.0.lock();
        let is_news = match told.get(&record) {
            Some(at) => !for_good && now.saturating_sub(*at) >= AGAIN,
            None => told.len() < MOST,
        };
        if is_news {
            told.insert(record, now);
        }
        is_news.then_some(told.len())
    }
}

/// Iterates over all kinds of records that are counted.
pub(super) fn kinds() -> impl Iterator<Item = &'static str> {
    Owner::kinds().chain([UNREADABLE])
}

impl Counters {
    /// Reports a record whose outer form cannot be read, whatever operation met it. The connection that it
    /// belongs to is reported when it is loaded.
    pub(super) fn unreadable(&self, error: &StoreError) {
        self.metrics.record_damaged(UNREADABLE);
        tracing::debug!(%error, "a stored record cannot be read");
    }

    fn found(&self, kind: &'static str, record: String, for_good: bool, error: &dyn Display) {
        self.metrics.record_damaged(kind);
        let Some(records) = self.damage.is_news(record, for_good, self.clock.monotonic()) else { return };
        tracing::error!(
            kind, %error,
            "a stored record cannot be used: it is damaged, was tampered with, or its sealing key is \
             missing; deploy/RUNBOOK.md, TokenwardRecordDamaged, says what to do"
        );
        let note =
            format!("stored records cannot be used ({records} found since the start; the log names each)");
        self.readiness.note("records", Some(&note));
    }
}

impl DamageObserver for Counters {
    fn damaged(&self, damage: &Damage) {
        let owner = damage.owner();
        let for_good = matches!(owner, Owner::Connection(_) | Owner::Journal(_));
        self.found(owner.kind(), format!("{} {owner}", owner.kind()), for_good, damage);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_told_of_once_and_what_has_no_name_once_an_hour() {
        let told = Told::default();
        let second = Duration::from_secs(1);
        let news = |record: &str, for_good, at| told.is_news(record.to_owned(), for_good, at).is_some();
        assert!(news("connection outlook:user-1", true, second));
        assert!(!news("connection outlook:user-1", true, AGAIN * 100));
        assert!(news("session", false, second) && !news("session", false, AGAIN));
        assert!(news("session", false, AGAIN + second));
        for each in 0..MOST * 2 {
            news(&format!("connection outlook:{each}"), true, second);
        }
        assert_eq!(told.0.lock().len(), MOST);
    }
}
