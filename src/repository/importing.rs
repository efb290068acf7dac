//! How far the import of a grant is: a pending record that may hold a refresh token, so it is kept for a
//! month and rewrapped.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::journal::{filed_of_import, name_of_import};
use super::{FiledUnder, Kind, Owner, PendingError, Redeemed, Repository, SecretHash, wire};
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
use crate::domain::secret::RefreshToken;
use crate::domain::time::Timestamp;
use crate::store::Deadline;

/// How long it is known which grants were imported, and how long a grant is kept that no connection took.
const KEPT_FOR: Duration = Duration::from_secs(30 * 86_400);

/// The import of one grant.
pub struct Importing {
    /// The connection that it is for.
    pub key: ConnectionKey,
    /// How far it is.
    pub state: ImportState,
}

/// How far an import is.
pub enum ImportState {
    /// It is not proven yet.
    Open {
        /// Since when a call is under way; `None` once its outcome was noted.
        since: Option<Timestamp>,
        /// The process that makes the call.
        by: [u8; 8],
        /// The refresh token of an earlier answer of which nothing else was used. It stands in for the one
        /// that was imported, which may be spent.
        successor: Option<RefreshToken>,
        /// True if nobody knows how an earlier call ended.
        unsettled: bool,
    },
    /// It works, and is not connected yet.
    Proven(Box<Redeemed>),
    /// It is a connection.
    Done {
        /// The nonce of the connection's sign-in.
        nonce: [u8; 8],
    },
}

/// An import as it was read. It can be replaced if it is still the same.
pub struct TakenImport {
    /// The import.
    pub value: Importing,
    sealed: Vec<u8>,
}

/// An import that is sealed for its place: it may be offered again after a lost answer.
pub struct SealedImport(Vec<u8>);

/// An import of which only the journal knows.
pub type JournaledImport = (FiledUnder, Importing, SealedImport);

impl Repository {
    /// Reads the import that is filed there.
    pub async fn importing(&self, id: &FiledUnder) -> Result<Option<TakenImport>, PendingError> {
        let Some(sealed) = self.store.pending(&Kind::Import.store_id(&id.name)).await? else {
            return Ok(None);
        };
        let bytes = self.open_pending_bytes(Kind::Import, &id.name, &sealed)?;
        let value = decode(&bytes);
        let value = value.ok_or_else(|| self.format_error(Owner::Pending(Kind::Import), "pending"))?;
        Ok(Some(TakenImport { value, sealed }))
    }

    /// Seals an import for its place.
    pub fn seal_import(&self, id: &FiledUnder, value: &Importing) -> SealedImport {
        let bytes = encode(value);
        SealedImport(self.keyring.seal(&Kind::Import.place(&id.name), &bytes, self.random.as_ref()))
    }

    /// Stores an import if the one that was read is still there; `None` if it is not. The same sealed one may
    /// be offered again.
    pub async fn swap_import(
        &self,
        id: &FiledUnder,
        read: Option<&TakenImport>,
        sealed: &SealedImport,
        now: Timestamp,
    ) -> Result<bool, PendingError> {
        let expected = read.map(|read| &read.sealed[..]);
        let deadline = Deadline::after(now, KEPT_FOR);
        Ok(self.store.swap_pending(&Kind::Import.store_id(&id.name), expected, &sealed.0, deadline).await?)
    }
}

/// What the first use of a grant brought, while only the journal has it.
impl Repository {
    /// Keeps an import in the journal, durably. Call it only if there is a journal.
    pub async fn journal_import(&self, id: &FiledUnder, sealed: &SealedImport) -> Result<(), PendingError> {
        let Some(journal) = &self.journal else { return Ok(()) };
        Ok(journal.write(&name_of_import(&id.name), sealed.0.clone()).await?)
    }

    /// Drops an import from the journal, because the store has it.
    pub async fn unjournal_import(&self, id: &FiledUnder) {
        let Some(journal) = &self.journal else { return };
        if let Err(error) = journal.remove(&name_of_import(&id.name)).await {
            tracing::warn!(%error, "a stored import stays in the journal, and is offered again");
        }
    }

    /// What the journal has of one import. One that does not open is left there and logged.
    pub async fn journaled_import(&self, id: &FiledUnder) -> Result<Option<JournaledImport>, PendingError> {
        let Some(journal) = &self.journal else { return Ok(None) };
        let name = name_of_import(&id.name);
        let sealed = journal.read(&name).await?;
        Ok(sealed.and_then(|sealed| self.open_journaled(&name, sealed)))
    }

    /// Every import in the journal. One that does not open is left there and logged.
    pub async fn journaled_imports(&self) -> Result<Vec<JournaledImport>, PendingError> {
        let Some(journal) = &self.journal else { return Ok(Vec::new()) };
        let entries = journal.entries().await?.into_iter();
        Ok(entries.filter_map(|(name, sealed)| self.open_journaled(&name, sealed)).collect())
    }

    /// `None` if it is no import's, or does not open.
    fn open_journaled(&self, name: &str, sealed: Vec<u8>) -> Option<JournaledImport> {
        let id = FiledUnder::hash(&filed_of_import(name).and_then(SecretHash::parse)?);
        let opened = self.open_pending_bytes(Kind::Import, &id.name, &sealed);
        let value = opened.ok().and_then(|bytes| decode(&bytes));
        if value.is_none() {
            tracing::warn!(entry = name, "an import in the journal does not open and is left there");
        }
        Some((id, value?, SealedImport(sealed)))
    }
}

impl SealedImport {
    /// What was read, once it is stored.
    pub fn stored(self, value: Importing) -> TakenImport {
        TakenImport { value, sealed: self.0 }
    }
}

#[derive(Serialize, Deserialize)]
struct ImportWire<'a> {
    app: String,
    connection: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    #[serde(default)]
    by: [u8; 8],
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    successor: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unsettled: bool,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    proven: Option<wire::RedeemedWire<'a>>,
    /// Once it is connected: its sign-in's nonce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    done: Option<[u8; 8]>,
}

fn encode(importing: &Importing) -> Zeroizing<Vec<u8>> {
    let mut written = ImportWire {
        app: importing.key.app.to_string(),
        connection: importing.key.connection.to_string(),
        since: None,
        by: [0; 8],
        successor: None,
        unsettled: false,
        proven: None,
        done: None,
    };
    let mut size = 4096;
    match &importing.state {
        ImportState::Open { since, by, successor, unsettled } => {
            let successor = successor.as_ref().map(RefreshToken::expose);
            size += successor.map_or(0, str::len);
            (written.since, written.by, written.unsettled) = (*since, *by, *unsettled);
            written.successor = successor.map(Cow::Borrowed);
        }
        ImportState::Proven(proven) => {
            size += proven.refresh_token.expose().len() + proven.token.access_token.expose().len();
            written.proven = Some(wire::RedeemedWire::of(proven));
        }
        ImportState::Done { nonce } => written.done = Some(*nonce),
    }
    wire::encode(&written, size)
}

fn decode(bytes: &[u8]) -> Option<Importing> {
    let wire: ImportWire<'_> = serde_json::from_slice(bytes).ok()?;
    let key = ConnectionKey {
        app: AppName::parse(&wire.app).ok()?,
        connection: ConnectionName::stored(&wire.connection).ok()?,
    };
    let state = match (wire.done, wire.proven) {
        (Some(nonce), _) => ImportState::Done { nonce },
        (None, Some(proven)) => ImportState::Proven(Box::new(proven.into_redeemed())),
        (None, None) => ImportState::Open {
            since: wire.since,
            by: wire.by,
            successor: wire.successor.map(RefreshToken::new),
            unsettled: wire.unsettled,
        },
    };
    Some(Importing { key, state })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_comes_back_as_it_went() {
        let key = ConnectionKey {
            app: AppName::parse("outlook").expect("a name"),
            connection: ConnectionName::parse("team/a").expect("a name"),
        };
        let since = Some(Timestamp::from_unix_seconds(7));
        let successor = Some(RefreshToken::new("s\"1"));
        let state = ImportState::Open { since, by: [3; 8], successor, unsettled: true };
        let back = decode(&encode(&Importing { key: key.clone(), state })).expect("decodes");
        assert_eq!(back.key, key);
        assert!(matches!(
            back.state,
            ImportState::Open { since: Some(_), by: [3, ..], successor: Some(token), unsettled: true }
                if token.expose() == "s\"1"
        ));
        let done = Importing { key, state: ImportState::Done { nonce: [9; 8] } };
        let back = decode(&encode(&done)).expect("decodes");
        assert!(matches!(back.state, ImportState::Done { nonce: [9, ..] }));
    }
}
