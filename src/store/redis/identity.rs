//! Which store this is. A Redis whose volume was lost comes back empty and answers as if nothing had ever
//! been there; to believe it would make every connection "not found", and services delete their links to
//! them.
//!
//! So the store has a random name, kept beside the records, and this process remembers it, on disk where
//! there is a journal. A Redis without it, or with another one, is not talked to. And since one can lose
//! everything without the connection to it breaking, no absence of a record is believed without a look at the
//! name.
//!
//! An operator who knows that what is there now is the store says so ([`Identity::adopt`]): then the name
//! that it replaces is written beside its own, so that every other replica that remembers that one follows.

use parking_lot::{Mutex, MutexGuard};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use ::redis::RedisResult;

use super::commands::Commands;
use crate::domain::random::{Random, random_bytes};
use crate::store::keyspace;

/// What the store's name and the one that it replaces are parted by.
pub(super) const REPLACES: &str = " replaces ";

/// Names that a store's name says it replaces, the latest of them.
pub(super) const MOST_REPLACED: usize = 16;

pub(super) struct Identity {
    state: Mutex<State>,
    /// Where the name is remembered beyond this process.
    file: Option<PathBuf>,
}

#[derive(Default)]
struct State {
    known: Option<String>,
    /// An operator said that whatever is there now is the store.
    adopting: bool,
}

impl Identity {
    /// Remembers what the file says. One that cannot be read is an error, for it may say that this is another
    /// store.
    pub(super) fn new(file: Option<PathBuf>) -> std::io::Result<Self> {
        let known = match file.as_deref().map(std::fs::read_to_string) {
            Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => None,
            Some(read) => Some(read?.trim().to_owned()),
            None => None,
        };
        Ok(Identity { state: Mutex::new(State { known, adopting: false }), file })
    }

    /// The next look at the name takes whatever is there.
    pub(super) fn adopt(&self) {
        self.state().adopting = true;
    }

    /// No operator's word counts any more that was not followed.
    pub(super) fn adopted_or_not(&self) {
        self.state().adopting = false;
    }

    /// Looks at the store's name. The inner error says that it is not the store that was there before.
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
        let foreign = |found: &Option<String>| match (&known, found) {
            (Some(known), Some(found)) => {
                name(found) != known && !replaced(found).any(|replaced| replaced == known)
            }
            (Some(_), None) => true,
            (None, _) => false,
        };
        if found.is_none() && known.is_none() || adopting && foreign(&found) {
            let fresh = fresh_name(random);
            // One that has a name keeps it, so that whoever goes by it already goes on.
            let mut value = found.as_deref().map_or(fresh.as_str(), name).to_owned();
            let before = found.as_deref().into_iter().flat_map(replaced).take(MOST_REPLACED);
            let replaces: Vec<&str> = known.as_deref().into_iter().chain(before).collect();
            if !replaces.is_empty() {
                value.push_str(REPLACES);
                value.push_str(&replaces.join(","));
            }
            let mut set = ::redis::cmd("SET");
            set.arg(keyspace::REDIS_IDENTITY).arg(value);
            // Several replicas may start, or be told to adopt, at once: one of them gives the name.
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

    /// The name that is remembered.
    pub(super) fn known(&self) -> Option<String> {
        self.state().known.clone()
    }

    pub(super) fn remember(&self, name: &str) {
        self.state().known = Some(name.to_owned());
        if let Some(file) = &self.file
            && let Err(error) = write(file, name)
        {
            tracing::warn!(%error, file = %file.display(), "which store this is will not be remembered after a restart");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

pub(super) const FOREIGN: &str = "it is not the store that was there before: it came back empty, or it is another one. Nothing of it is \
                       believed. Restore it; or, if what is there now shall be the store, say `tokenward store adopt`";

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
