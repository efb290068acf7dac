//! Stored records that cannot be used: each look is counted, each record is an ERROR once, and whoever asks how the daemon is hears
//! of them.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use super::Counters;
use crate::repository::{Damage, DamageObserver, Owner};
use crate::store::StoreError;

/// The word for a record whose outer form cannot be read.
const UNREADABLE: &str = "unreadable";
/// Records that are remembered as told: who writes to the store may damage as many as there are. Beyond it they are counted only.
const MOST: usize = 10_000;
/// After so long it is told again of what has no name of its own here, such as a session.
const AGAIN: Duration = Duration::from_secs(3600);

/// The records that were told of, and when.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<BTreeMap<String, Duration>>);

impl Told {
    /// Whether a record is to be told of; and of how many that was so.
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

/// Every kind of record that is counted.
pub(super) fn kinds() -> impl Iterator<Item = &'static str> {
    Owner::kinds().chain([UNREADABLE])
}

impl Counters {
    /// A record whose outer form cannot be read. It is counted here, whatever the store was asked for; the connection whose it is
    /// is told of when it is loaded.
    pub(super) fn unreadable(&self, error: &StoreError) {
        self.metrics.record_damaged(UNREADABLE);
        tracing::debug!(%error, "a stored record cannot be read");
    }

    fn found(&self, kind: &'static str, record: String, for_good: bool, error: &dyn Display) {
        self.metrics.record_damaged(kind);
        let Some(records) = self.damage.is_news(record, for_good, self.clock.monotonic()) else { return };
        tracing::error!(kind, %error, "a stored record cannot be used: it is damaged, was tampered with, or its sealing key is missing; deploy/RUNBOOK.md, TokenwardRecordDamaged, says what to do");
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
