//! Rewrapping: opens records that another key sealed, and seals them with the primary.
//!
//! Nothing is decoded here. A field is opened and sealed as it is, for its own place and generation, so a
//! newer version's content stays whole. A record that does not open is left as it is.

use std::collections::BTreeMap;

use super::{
    ConnectionKey, GRANT, Kind, PROFILE, Repository, RepositoryError, StoredConnection, TOKENS, place,
};
use crate::keyring::seal::key_id;
use crate::keyring::{KeyId, SealingKey};
use crate::store::{MAX_PAGE, RecordOf};

/// Result of rewrapping one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewrapped {
    /// It is sealed by the primary now.
    Done,
    /// It was already, or it expires by itself.
    NotNeeded,
    /// It changed or was deleted meanwhile. Its writer sealed it with the primary.
    Overtaken,
}

/// A page of all records, each with the key that it names, if it names one.
#[derive(Debug, Default)]
pub struct SealedBy {
    /// The records.
    pub records: Vec<(RecordOf, Option<KeyId>)>,
    /// Where to go on; `None` on the last page.
    pub next: Option<String>,
}

impl Repository {
    /// A page of every record, with the key that sealed it.
    pub async fn sealed_by(&self, after: Option<&str>) -> Result<SealedBy, RepositoryError> {
        let page = self.store.sealed(after, MAX_PAGE).await?;
        let records = page.records.into_iter().map(|record| (record.of, key_id(&record.head)));
        Ok(SealedBy { records: records.collect(), next: page.next })
    }

    /// Whether a record of this kind is rewrapped. A short-lived one is not: its next writer expects the
    /// bytes that it read.
    pub fn lasts(of: &RecordOf) -> bool {
        match of {
            RecordOf::Connection(_) => true,
            RecordOf::Pending(id) => Kind::of_store_id(id).is_some_and(|(kind, _)| kind.lasts()),
        }
    }

    /// Rewraps a record if another key than the primary sealed it.
    ///
    /// # Errors The store's; and [`RepositoryError::Damaged`] if the record does not open, which leaves it as
    /// it is.
    pub async fn rewrap(&self, of: &RecordOf) -> Result<Rewrapped, RepositoryError> {
        match of {
            RecordOf::Connection(key) => self.rewrap_connection(key).await,
            RecordOf::Pending(id) => self.rewrap_pending(id).await,
        }
    }

    async fn rewrap_connection(&self, key: &ConnectionKey) -> Result<Rewrapped, RepositoryError> {
        let Some(stored) = self.store.load(key).await? else { return Ok(Rewrapped::Overtaken) };
        let Some(anew) = self.sealed_anew(key, &stored, &self.keyring.primary())? else {
            return Ok(Rewrapped::NotNeeded);
        };
        let done = self.store.reseal(key, &stored, &anew).await?;
        Ok(if done { Rewrapped::Done } else { Rewrapped::Overtaken })
    }

    async fn rewrap_pending(&self, store_id: &str) -> Result<Rewrapped, RepositoryError> {
        let Some((kind, id)) = Kind::of_store_id(store_id).filter(|(kind, _)| kind.lasts()) else {
            return Ok(Rewrapped::NotNeeded);
        };
        let Some(stored) = self.store.pending(store_id).await? else { return Ok(Rewrapped::Overtaken) };
        let primary = self.keyring.primary();
        if key_id(&stored).as_ref() == Some(&primary.id) {
            return Ok(Rewrapped::NotNeeded);
        }
        let bytes = self.open_pending_bytes(kind, id, &stored)?;
        let anew = primary.seal(&kind.place(id), &bytes, self.random.as_ref());
        let done = self.store.reseal_pending(store_id, &stored, &anew).await?;
        Ok(if done { Rewrapped::Done } else { Rewrapped::Overtaken })
    }

    /// The same connection with all fields sealed by `primary`; `None` if they are.
    pub(super) fn sealed_anew(
        &self,
        key: &ConnectionKey,
        stored: &StoredConnection,
        primary: &SealingKey,
    ) -> Result<Option<StoredConnection>, RepositoryError> {
        let fields = [(PROFILE, &stored.profile), (TOKENS, &stored.tokens), (GRANT, &stored.grant)];
        if fields.iter().all(|(_, sealed)| key_id(sealed).as_ref() == Some(&primary.id)) {
            return Ok(None);
        }
        let generation = stored.revision.generation;
        let anew = |(name, sealed): (&'static str, &Vec<u8>)| -> Result<Vec<u8>, RepositoryError> {
            let bytes = self.open_field(key, name, generation, sealed)?;
            Ok(primary.seal(&place(key, name, generation), &bytes, self.random.as_ref()))
        };
        let [profile, tokens, grant] = fields;
        let (profile, tokens, grant) = (anew(profile)?, anew(tokens)?, anew(grant)?);
        Ok(Some(StoredConnection { profile, tokens, grant, ..stored.clone() }))
    }
}

/// How many values of something name each key.
pub type ByKey = BTreeMap<KeyId, u64>;

/// Counts one value under each of the keys that it needs.
pub fn count_keys(counts: &mut ByKey, keys: impl IntoIterator<Item = KeyId>) {
    let mut keys: Vec<KeyId> = keys.into_iter().collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        *counts.entry(key).or_default() += 1;
    }
}

/// The keys that a connection's fields name.
pub fn keys_of(stored: &StoredConnection) -> impl Iterator<Item = KeyId> {
    [&stored.profile, &stored.tokens, &stored.grant].into_iter().filter_map(|field| key_id(field))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use zeroize::Zeroizing;

    use super::*;
    use crate::domain::account::Account;
    use crate::domain::connection::Profile;
    use crate::domain::grant::Grant;
    use crate::domain::id::{AppName, ConnectionName};
    use crate::domain::secret::RefreshToken;
    use crate::domain::time::Timestamp;
    use crate::journal::files::FileJournal;
    use crate::keyring::Keyring;
    use crate::repository::{Connection, FiledUnder, Unstored};
    use crate::store::embedded::{EmbeddedConfig, EmbeddedStore};
    use crate::store::suite::{CountingRandom, RealClock};
    use crate::store::{Committed, LeaseNonce, Records as _, Reseal as _, Revision, Writer};

    /// A ring whose last key is the primary.
    fn ring(ids: &[&str]) -> Arc<Keyring> {
        let keys = ids.iter().zip(1..).map(|(id, at): (&&str, i64)| {
            let at = Timestamp::from_unix_seconds(at);
            let material = Zeroizing::new([u8::try_from(id.len() * 7 % 250).expect("small"); 32]);
            SealingKey::new((*id).to_owned(), at, Some(at), material)
        });
        Arc::new(Keyring::new(keys.collect(), "test").expect("a ring"))
    }

    struct Desk {
        store: Arc<EmbeddedStore>,
        folder: tempfile::TempDir,
        key: ConnectionKey,
    }

    impl Desk {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a directory");
            let config = EmbeddedConfig::new(folder.path().join("store"));
            let store = EmbeddedStore::open(&config, RealClock::shared(), &CountingRandom::new());
            let key = ConnectionKey {
                app: AppName::parse("outlook").expect("a name"),
                connection: ConnectionName::parse("user-1").expect("a name"),
            };
            Desk { store: Arc::new(store.expect("opens")), folder, key }
        }

        /// A repository whose last key is the primary.
        fn with(&self, keys: &[&str]) -> Repository {
            Repository::new(self.store.clone(), ring(keys), Arc::new(CountingRandom::new()))
        }

        async fn connect(&self, repository: &Repository) -> Revision {
            let account = Account {
                iss: "i".into(),
                sub: "s".into(),
                tid: Some("t".into()),
                oid: Some("o".into()),
                username: None,
            };
            let at = Timestamp::from_unix_seconds(5);
            let profile = Profile::connected(account, vec![], vec![], "sync".into(), at, None);
            let grant = Grant::new(RefreshToken::new("r1"));
            let made = repository.connect(&self.key, (None, 1), ([7; 8], at), profile, &[], &grant).await;
            let (committed, revision) = made.expect("serves");
            assert_eq!(committed, Committed::Done);
            revision
        }

        async fn keys(&self) -> Vec<KeyId> {
            let stored = self.store.load(&self.key).await.expect("serves").expect("is there");
            keys_of(&stored).collect()
        }
    }

    #[tokio::test]
    async fn a_connection_is_sealed_anew_whole_or_not_at_all() {
        let desk = Desk::new();
        let old = desk.with(&["k1"]);
        let revision = desk.connect(&old).await;
        let (of, both) = (RecordOf::Connection(desk.key.clone()), desk.with(&["k1", "key2"]));
        assert_eq!(both.rewrap(&of).await.expect("opens"), Rewrapped::Done);
        assert_eq!(both.rewrap(&of).await.expect("opens"), Rewrapped::NotNeeded);
        assert_eq!(desk.keys().await, ["key2", "key2", "key2"]);
        let loaded = desk.with(&["key2"]).load(&desk.key).await.expect("opens").expect("is there");
        assert_eq!(loaded.connection.revision, revision);
        let grant = both.open_grant(&desk.key, &loaded).expect("opens").expect("a grant");
        assert!(grant.current == RefreshToken::new("r1"));
        // And back: half way is no one-way street.
        assert_eq!(desk.with(&["key2", "k1"]).rewrap(&of).await.expect("opens"), Rewrapped::Done);
        assert_eq!(desk.keys().await, ["k1", "k1", "k1"]);

        // One field that does not open, and nothing is touched.
        let mut stored = desk.store.load(&desk.key).await.expect("serves").expect("is there");
        let before = stored.clone();
        *stored.grant.last_mut().expect("some bytes") ^= 1;
        assert!(desk.store.reseal(&desk.key, &before, &stored).await.expect("serves"));
        assert!(
            matches!(both.rewrap(&of).await, Err(RepositoryError::Damaged(damage)) if damage.field() == GRANT)
        );
        // Nor where the key is not there at all.
        assert!(desk.with(&["key2"]).rewrap(&of).await.is_err());
        assert_eq!(desk.store.load(&desk.key).await.expect("serves"), Some(stored));
        let page = both.sealed_by(None).await.expect("serves");
        assert_eq!(page.records, [(of, Some("k1".to_owned()))]);
    }

    #[tokio::test]
    async fn what_was_long_held_is_stored_under_the_primary_of_now_and_of_its_revision() {
        let desk = Desk::new();
        let (old, both) = (desk.with(&["k1"]), desk.with(&["k1", "key2"]));
        let revision = desk.connect(&old).await;
        let loaded = old.load(&desk.key).await.expect("opens").expect("is there");
        let grant = old.open_grant(&desk.key, &loaded).expect("opens");
        let held =
            old.seal(&desk.key, revision.generation, &loaded.connection.profile, &[], grant.as_ref(), None);
        let committed = both.commit_sealed(&desk.key, revision, &held, Writer::Operator).await;
        assert_eq!(committed.expect("serves"), Committed::Done);
        assert_eq!(desk.keys().await, ["key2", "key2", "key2"]);
        assert_eq!(desk.store.revision(&desk.key).await.expect("serves"), Some(held.revision));
        assert!(both.load(&desk.key).await.expect("opens").is_some());
        // Once more, as whoever lost the answer does.
        let committed = both.commit_sealed(&desk.key, revision, &held, Writer::Operator).await;
        assert_eq!(committed.expect("serves"), Committed::Done);
    }

    #[tokio::test]
    async fn of_pending_records_those_that_last_are_sealed_anew() {
        let desk = Desk::new();
        let (old, both) = (desk.with(&["k1"]), desk.with(&["k1", "key2"]));
        let (now, ttl) = (RealClock::shared().now(), Duration::from_secs(60));
        let id = FiledUnder::tenant(&desk.key.app, Some("b"));
        for kind in Kind::ALL {
            old.put_pending(kind, &id, &7, now, ttl).await.expect("serves");
        }
        let page = both.sealed_by(None).await.expect("serves");
        let page = both.sealed_by(page.next.as_deref()).await.expect("serves");
        assert_eq!(page.records.len(), Kind::ALL.len());
        for (of, key) in page.records {
            assert_eq!(key.as_deref(), Some("k1"));
            let expected = if Repository::lasts(&of) { Rewrapped::Done } else { Rewrapped::NotNeeded };
            assert_eq!(both.rewrap(&of).await.expect("opens"), expected, "{of:?}");
        }
        for kind in Kind::ALL {
            let newest = desk.with(&["key2"]).pending::<u8>(kind, &id).await;
            assert_eq!(newest.is_ok(), kind.lasts(), "{kind:?}");
            assert!(both.pending::<u8>(kind, &id).await.expect("opens").is_some_and(|is| is.value == 7));
        }
        let unknown = RecordOf::Pending("of a newer version:x".into());
        assert_eq!(both.rewrap(&unknown).await.expect("serves"), Rewrapped::NotNeeded);
    }

    #[tokio::test]
    async fn the_journal_is_counted_and_sealed_anew_the_records_in_it_too() {
        let desk = Desk::new();
        let journal = Arc::new(FileJournal::open(&desk.folder.path().join("journal")).expect("opens"));
        let with = |keys: &[&str]| desk.with(keys).with_journal(journal.clone());
        let (old, both, new) = (with(&["k1"]), with(&["k1", "key2"]), with(&["key2"]));
        let revision = desk.connect(&old).await;
        let loaded = old.load(&desk.key).await.expect("opens").expect("is there");
        let grant = old.open_grant(&desk.key, &loaded).expect("opens").expect("a grant");
        let profile = loaded.connection.profile;
        let sealed = old.seal(&desk.key, revision.generation, &profile, &[], Some(&grant), None);
        let unstored = Unstored {
            lease: LeaseNonce([1; 16]),
            expected: revision,
            connection: Connection { revision: sealed.revision, profile, tokens: vec![] },
            sealed,
            grant,
            used: RefreshToken::new("r0"),
        };
        old.journal(&desk.key, &unstored).await.expect("written");
        let counts = |pairs: &[(&str, u64)]| -> ByKey {
            pairs.iter().map(|(key, count)| ((*key).to_owned(), *count)).collect()
        };
        assert_eq!(new.rewrap_journal().await.expect("reads"), counts(&[("k1", 1)]), "it does not open");
        assert_eq!(both.rewrap_journal().await.expect("reads"), counts(&[("k1", 1)]));
        assert_eq!(both.rewrap_journal().await.expect("reads"), counts(&[("key2", 1)]));
        let (_, found) = new.journaled().await.expect("reads").pop().expect("an entry that opens");
        assert_eq!(found.sealed.revision, unstored.sealed.revision);
        // One that is written under the new key has no record of the old one in it.
        both.journal(&desk.key, &unstored).await.expect("written");
        assert_eq!(new.rewrap_journal().await.expect("reads"), counts(&[("key2", 1)]));
    }
}
