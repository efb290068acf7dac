//! Unstored answers of the authority: kept in memory, and sealed in the journal if there is one.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{ByKey, Connection, Owner, Repository, RepositoryError, count_keys, keys_of};
use crate::domain::connection::SignIn;
use crate::domain::grant::Grant;
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
use crate::domain::notice::Notice;
use crate::domain::secret::RefreshToken;
use crate::journal::JournalError;
use crate::keyring::seal::{Place, key_id};
use crate::keyring::{KeyId, SealingKey};
use crate::store::{LeaseNonce, Revision, StoredConnection, record};

const SCHEMA: &str = "journal";
/// How names of entries for imports begin. (All others are hexadecimal digits.)
const OF_IMPORT: &str = "import-";

/// An unstored answer: the successor of a connection.
#[derive(Clone)]
pub struct Unstored {
    /// The lease under which the answer came.
    pub lease: LeaseNonce,
    /// The revision that it succeeds.
    pub expected: Revision,
    /// The sealed record for the store.
    pub sealed: StoredConnection,
    /// The same connection, opened.
    pub connection: Connection,
    /// The grant in the sealed record …
    pub grant: Grant,
    /// … and the refresh token that was used. If a verdict was stored meanwhile and the stored grant still
    /// has this token, the answer goes on top.
    pub used: RefreshToken,
}

#[derive(Serialize, Deserialize)]
struct EntryWire<'a> {
    app: String,
    connection: String,
    lease: [u8; 16],
    expected: (SignIn, u64, [u8; 16]),
    #[serde(borrow)]
    record: Cow<'a, str>,
    #[serde(borrow)]
    used: Cow<'a, str>,
    /// What the record tells when it is stored. Entries of earlier versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    notice: Option<Box<Notice>>,
}

impl Repository {
    /// Whether there is a journal.
    pub fn has_journal(&self) -> bool {
        self.journal.is_some()
    }

    /// Keeps an answer in the journal, durably. Call it only if there is a journal.
    pub async fn journal(&self, key: &ConnectionKey, unstored: &Unstored) -> Result<(), RepositoryError> {
        const DOING: &str = "journaling a refreshed grant";
        let Some(journal) = &self.journal else {
            return Err(JournalError { doing: DOING, cause: "there is no journal".into() }.into());
        };
        let name = name_of(&unstored.sealed.revision);
        let sealed = self.seal_entry(DOING, key, unstored, &self.keyring.primary())?;
        Ok(journal.write(&name, sealed).await?)
    }

    /// An entry's bytes. The record in it is sealed by the same key.
    pub(super) fn seal_entry(
        &self,
        doing: &'static str,
        key: &ConnectionKey,
        unstored: &Unstored,
        primary: &SealingKey,
    ) -> Result<Vec<u8>, RepositoryError> {
        let anew = self.sealed_anew(key, &unstored.sealed, primary)?;
        let record = STANDARD.encode(record::encode(doing, anew.as_ref().unwrap_or(&unstored.sealed))?);
        let wire = EntryWire {
            app: key.app.to_string(),
            connection: key.connection.to_string(),
            lease: unstored.lease.0,
            expected: (unstored.expected.sign_in, unstored.expected.generation, unstored.expected.nonce),
            record: Cow::Borrowed(&record),
            used: Cow::Borrowed(unstored.used.expose()),
            notice: unstored.sealed.notice.clone(),
        };
        let mut bytes = Zeroizing::new(Vec::with_capacity(record.len() + wire.used.len() + 2048));
        serde_json::to_writer(&mut *bytes, &wire).expect("these types have no map keys that JSON lacks");
        let name = name_of(&unstored.sealed.revision);
        Ok(primary.seal(&place(&name), &bytes, self.random.as_ref()))
    }

    /// Counts the journal's entries by the keys that they need, and rewraps those that need another key than
    /// the primary. An entry that does not open is counted under the key that it names, and left.
    pub async fn rewrap_journal(&self) -> Result<ByKey, RepositoryError> {
        const DOING: &str = "sealing an entry of the journal anew";
        let mut counts = ByKey::new();
        let Some(journal) = &self.journal else { return Ok(counts) };
        let primary = self.keyring.primary();
        for (name, sealed) in journal.entries().await? {
            // (An import's is no connection's: it stays as it is until the store takes it.)
            let Ok((key, unstored)) = self.open_entry(&name, &sealed) else {
                count_keys(&mut counts, key_id(&sealed));
                continue;
            };
            let needs: Vec<KeyId> = key_id(&sealed).into_iter().chain(keys_of(&unstored.sealed)).collect();
            if needs.iter().any(|id| *id != primary.id) {
                let anew = self.seal_entry(DOING, &key, &unstored, &primary)?;
                journal.replace(&name, sealed, anew).await?;
            }
            // Counted as it was found. The next count shows its new key.
            count_keys(&mut counts, needs);
        }
        Ok(counts)
    }

    /// Drops an answer from the journal, because the store has it or a newer one.
    pub async fn unjournal(&self, revision: &Revision) {
        let Some(journal) = &self.journal else { return };
        if let Err(error) = journal.remove(&name_of(revision)).await {
            tracing::warn!(%error, "a stored answer stays in the journal; it is offered again after a \
                                    restart, and known then");
        }
    }

    /// Every answer in the journal. Those that do not open are left there and logged.
    pub async fn journaled(&self) -> Result<Vec<(ConnectionKey, Unstored)>, RepositoryError> {
        let Some(journal) = &self.journal else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for (name, sealed) in journal.entries().await? {
            if is_of_import(&name) {
                continue;
            }
            match self.open_entry(&name, &sealed) {
                Ok(entry) => found.push(entry),
                Err(error) => {
                    tracing::warn!(entry = name, %error,
                        "an entry of the journal does not open and is left there: restore the sealing key \
                         that it names");
                }
            }
        }
        Ok(found)
    }

    pub(super) fn open_entry(
        &self,
        name: &str,
        sealed: &[u8],
    ) -> Result<(ConnectionKey, Unstored), RepositoryError> {
        let owner = || Owner::Journal(name.to_owned());
        let format = || self.format_error(owner(), "entry");
        let opened = self.keyring.open(&place(name), sealed);
        let bytes = opened.map_err(|cause| self.sealed_error(owner(), "entry", cause))?;
        let wire: EntryWire<'_> = serde_json::from_slice(&bytes).map_err(|_| format())?;
        let key = ConnectionKey {
            app: AppName::parse(&wire.app).map_err(|_| format())?,
            connection: ConnectionName::stored(&wire.connection).map_err(|_| format())?,
        };
        let record = STANDARD.decode(wire.record.as_ref()).map_err(|_| format())?;
        let mut sealed = record::decode("reading the journal", &record)?;
        sealed.notice = wire.notice;
        let loaded = self.open(&key, sealed.clone())?;
        let grant = self.open_grant(&key, &loaded)?.ok_or_else(format)?;
        let (sign_in, generation, nonce) = wire.expected;
        let unstored = Unstored {
            lease: LeaseNonce(wire.lease),
            expected: Revision { sign_in, generation, nonce },
            sealed,
            connection: loaded.connection,
            grant,
            used: RefreshToken::new(wire.used),
        };
        Ok((key, unstored))
    }
}

/// Whether an entry is what the first use of an imported grant brought.
pub(super) fn is_of_import(name: &str) -> bool {
    name.starts_with(OF_IMPORT)
}

/// The name of the entry for the import that is filed there.
pub(super) fn name_of_import(filed: &str) -> String {
    format!("{OF_IMPORT}{filed}")
}

/// The import that an entry of this name is filed under.
pub(super) fn filed_of_import(name: &str) -> Option<&str> {
    name.strip_prefix(OF_IMPORT)
}

/// An entry's name: the nonce of its revision, so that no two answers share one.
pub(super) fn name_of(revision: &Revision) -> String {
    hex::encode(revision.nonce)
}

pub(super) fn place(name: &str) -> Place<'_> {
    Place { schema: SCHEMA, owner: (name, ""), field: "entry", generation: 0 }
}
