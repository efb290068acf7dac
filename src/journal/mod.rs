//! The journal: a few sealed records on this machine's disk, kept until the store accepts them.
//!
//! May know: only bytes and names. Entries arrive sealed, and only while they are on their way to the store:
//! an entry is removed once the store has it.
//!
//! Invariants:
//! 1. A written entry survives a crash of the process and of the machine: it is synced before the write is
//!    acknowledged.
//! 2. An entry is complete or absent, however its writing ended (I24).
//! 3. Only one process at a time has a journal open.

pub mod files;

use crate::domain::task::BoxFuture;

/// A failure of the journal; the disk or the operator is at fault.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{doing}: {cause}")]
pub struct JournalError {
    /// The activity that failed.
    pub doing: &'static str,
    /// The cause, without any byte of an entry.
    pub cause: String,
}

/// A name and its sealed value.
pub type Entry = (String, Vec<u8>);

/// Durable sealed values, by name.
pub trait Journal: Send + Sync {
    /// Stores `sealed` durably under `name` (letters, digits and `-`), and replaces an earlier entry.
    fn write<'a>(&'a self, name: &'a str, sealed: Vec<u8>) -> BoxFuture<'a, Result<(), JournalError>>;

    /// Replaces an entry by `after`, durably, if it still equals `before`. An entry removed meanwhile does
    /// not come back, and one written anew stays.
    fn replace<'a>(
        &'a self,
        name: &'a str,
        before: Vec<u8>,
        after: Vec<u8>,
    ) -> BoxFuture<'a, Result<(), JournalError>>;

    /// Removes an entry. A missing entry is no error.
    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), JournalError>>;

    /// Returns one entry.
    fn read<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, JournalError>>;

    /// Returns all entries, ordered by name.
    fn entries(&self) -> BoxFuture<'_, Result<Vec<Entry>, JournalError>>;
}
