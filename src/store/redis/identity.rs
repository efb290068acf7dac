//! Which store this is. A Redis whose volume was lost comes back empty and answers as if it had never had any
//! data. Believing it would make every connection "not found", and services would delete their links to them.
//!
//! So the store has a random name, kept beside the records, and this process remembers it, on disk if there
//! is a journal. A Redis without that name, or with another one, is not used. And since a Redis can lose
//! everything without breaking the connection, no absence of a record is believed before the name was
//! checked.
//!
//! An operator may declare the present contents to be the store ([`Identity::adopt`]). Then the replaced name
//! is written beside the new one, so that every other replica that remembers the old name follows.

use parking_lot::{Mutex, MutexGuard};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use ::redis::RedisResult;

use super::commands::Commands;
use crate::domain::random::{Random, random_bytes};
use crate::store::keyspace;

/// The separator between the store's name and the names that it replaces.
pub(super) const REPLACES: &str = " replaces ";

/// How many replaced names are kept, the latest ones.
pub(super) const MOST_REPLACED: usize = 16;

pub(super) struct Identity {
    state: Mutex<State>,
    /// The file that remembers the name beyond this process.
    file: Option<PathBuf>,
    /// True where nothing is written, neither at Redis nor into the file.
    pub(super) only_reads: bool,
}

#[derive(Default)]
struct State {
    known: Option<String>,
    /// Whether an operator accepted the present contents.
    adopting: bool,
}

impl Identity {
    /// Remembers the file's name. A file that cannot be read is an error, since it may say that this is
    /// another store.
    pub(super) fn new(file: Option<PathBuf>, only_reads: bool) -> std::io::Result<Self> {
        let known = match file.as_deref().map(std::fs::read_to_string) {
            Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => None,
            Some(read) => Some(read?.trim().to_owned()),
            None => None,
        };
        Ok(Identity { state: Mutex::new(State { known, adopting: false }), file, only_reads })
    }

    /// Makes the next check accept the present contents.
    pub(super) fn adopt(&self) {
        self.state().adopting = true;
    }

    /// Forgets an operator's word that was not followed yet.
    pub(super) fn adopted_or_not(&self) {
        self.state().adopting = false;
    }

    /// Checks the store's name. The inner error says that it is not the store from before.
    pub(super) async fn check(
        &self,
        commands: &mut Commands,
        random: &dyn Random,
    ) -> RedisResult<Result<(), String>> {
        let read = async |commands: &mut Commands| -> RedisResult<Option<String>> {
            ::redis::cmd("GET").arg(keyspace::REDIS_IDENTITY).query_async(commands).await
        };
        let (known, adopting) = {
            let state = self.state();
            (state.known.clone(), state.adopting)
        };
        let mut found = read(commands).await?;
        let foreign = |found: &Option<String>| is_foreign(known.as_deref(), found.as_deref());
        if !self.only_reads && (found.is_none() && known.is_none() || adopting && foreign(&found)) {
            let fresh = fresh_name(random);
            // A store that has a name keeps it, so that replicas that know it go on.
            let mut value = found.as_deref().map_or(fresh.as_str(), name).to_owned();
            let before = found.as_deref().into_iter().flat_map(replaced).take(MOST_REPLACED);
            let replaces: Vec<&str> = known.as_deref().into_iter().chain(before).collect();
            if !replaces.is_empty() {
                value.push_str(REPLACES);
                value.push_str(&replaces.join(","));
            }
            let mut set = ::redis::cmd("SET");
            set.arg(keyspace::REDIS_IDENTITY).arg(value);
            // Several replicas may start, or adopt, at once: one of them gives the name.
            if found.is_none() {
                set.arg("NX");
            }
            set.exec_async(commands).await?;
            found = read(commands).await?;
        }
        if foreign(&found) {
            return Ok(Err(FOREIGN.to_owned()));
        }
        if let Some(found) = &found
            && known.as_deref() != Some(name(found))
        {
            self.remember(name(found));
        }
        Ok(Ok(()))
    }

    /// Whether the stored `value` has the remembered name.
    pub(super) fn is_known_as(&self, value: &[u8]) -> bool {
        let found = std::str::from_utf8(value).ok();
        let state = self.state();
        found.is_some_and(|found| state.known.as_deref() == Some(name(found)))
    }

    /// The remembered name.
    pub(super) fn known(&self) -> Option<String> {
        self.state().known.clone()
    }

    pub(super) fn remember(&self, name: &str) {
        self.state().known = Some(name.to_owned());
        if let Some(file) = self.file.as_ref().filter(|_| !self.only_reads)
            && let Err(error) = write(file, name)
        {
            tracing::warn!(%error, file = %file.display(),
                "which store this is will not be remembered after a restart");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// Whether what a store says of its name shows that it is not the one whose name is remembered.
pub(super) fn is_foreign(known: Option<&str>, found: Option<&str>) -> bool {
    match (known, found) {
        (Some(known), Some(found)) => {
            name(found) != known && !replaced(found).any(|replaced| replaced == known)
        }
        (Some(_), None) => true,
        (None, _) => false,
    }
}

pub(super) const FOREIGN: &str = "it is not the store that was there before: it came back empty, or it is \
                                  another one. Nothing of it is believed. Restore it; or, if what is there \
                                  now shall be the store, say `tokenward store adopt`";

pub(super) fn fresh_name(random: &dyn Random) -> String {
    hex::encode(random_bytes::<16>(random))
}

pub(super) fn name(value: &str) -> &str {
    value.split_once(REPLACES).map_or(value, |(name, _)| name)
}

pub(super) fn replaced(value: &str) -> impl Iterator<Item = &str> {
    value.split_once(REPLACES).map(|(_, replaced)| replaced).into_iter().flat_map(|names| names.split(','))
}

/// Whole or not at all.
fn write(file: &Path, name: &str) -> std::io::Result<()> {
    let unfinished = file.with_extension("new");
    let mut new = std::fs::File::create(&unfinished)?;
    new.write_all(name.as_bytes())?;
    new.sync_all()?;
    std::fs::rename(&unfinished, file)
}
