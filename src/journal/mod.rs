//! The journal: a few sealed values on this machine's own disk, for as long as the store does not take them.
//!
//! May know: nothing but bytes and names. What is kept is sealed before it comes here, and is never more than what is on
//! its way: an entry goes away once the store has it.
//!
//! Invariants:
//! 1. A written entry survives the process and the machine: it is synced before the write is acknowledged.
//! 2. An entry is there whole or not at all, however its writing ended (I24).
//! 3. One process at a time has a journal.

pub mod files;

use crate::domain::task::BoxFuture;

/// What went wrong with the journal: the disk's or the operator's fault.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{doing}: {cause}")]
pub struct JournalError {
    /// What we were doing.
    pub doing: &'static str,
    /// Why, without any byte of an entry.
    pub cause: String,
}

/// A sealed value and its name.
pub type Entry = (String, Vec<u8>);

/// Durable sealed values, by name.
pub trait Journal: Send + Sync {
    /// Keeps `sealed` under `name` (letters, digits and `-`), replacing what was there, durably.
    fn write<'a>(&'a self, name: &'a str, sealed: Vec<u8>) -> BoxFuture<'a, Result<(), JournalError>>;

    /// Puts `after` in the place of an entry, durably, if that still is `before`: one that was dropped meanwhile does not come
    /// back, and one that was written anew stays.
    fn replace<'a>(
        &'a self,
        name: &'a str,
        before: Vec<u8>,
        after: Vec<u8>,
    ) -> BoxFuture<'a, Result<(), JournalError>>;

    /// Drops an entry; one that is not there is dropped already.
    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), JournalError>>;

    /// Every entry, by name.
    fn entries(&self) -> BoxFuture<'_, Result<Vec<Entry>, JournalError>>;
}
