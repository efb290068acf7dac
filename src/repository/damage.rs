//! Records that are there and cannot be used: they do not open, or are not what this version writes. That is
//! damage, somebody's tampering, or a sealing key that is missing.
//!
//! Invariant: each is told to the [`DamageObserver`] where it is found, and there is no other way to make
//! one.

use super::{Kind, Repository, RepositoryError};
use crate::domain::id::ConnectionKey;
use crate::keyring::seal::OpenError;
use crate::store::StoreError;

/// Which record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A connection's.
    Connection(ConnectionKey),
    /// One of this kind. Which one is not said: ids of some kinds are secrets.
    Pending(Kind),
    /// An entry of this machine's journal, by its name.
    Journal(String),
}

impl Owner {
    /// Every word of [`Owner::kind`].
    pub fn kinds() -> impl Iterator<Item = &'static str> {
        Kind::ALL.into_iter().map(Kind::schema).chain(["connection", "journal"])
    }

    /// The word for metrics and logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Owner::Connection(_) => "connection",
            Owner::Pending(kind) => kind.schema(),
            Owner::Journal(_) => "journal",
        }
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Owner::Connection(key) => write!(f, "{key}"),
            Owner::Pending(kind) => f.write_str(kind.schema()),
            Owner::Journal(name) => write!(f, "journal entry {name}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Cause {
    #[error(transparent)]
    Sealed(#[from] OpenError),
    #[error("it is of another format than this version reads")]
    Format,
    #[error("not even its outer form can be read: {0}")]
    Unreadable(String),
}

/// A record that cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the stored {field} of {owner} is refused: {cause}")]
pub struct Damage {
    owner: Owner,
    field: &'static str,
    #[source]
    cause: Cause,
}

impl Damage {
    /// Whose it is.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Which part of it.
    pub fn field(&self) -> &'static str {
        self.field
    }

    /// Whether it does not open; otherwise it does, and is not what this version writes.
    pub fn is_sealed(&self) -> bool {
        matches!(self.cause, Cause::Sealed(_))
    }
}

/// Is told of each.
pub trait DamageObserver: Send + Sync {
    /// A record was found that cannot be used. It may be found again with each look.
    fn damaged(&self, damage: &Damage);
}

/// Tells nobody, where nobody operates.
pub(super) struct Untold;

impl DamageObserver for Untold {
    fn damaged(&self, _: &Damage) {}
}

impl Repository {
    /// A record that does not open.
    pub(super) fn sealed_error(
        &self,
        owner: Owner,
        field: &'static str,
        cause: OpenError,
    ) -> RepositoryError {
        self.tell(Damage { owner, field, cause: Cause::Sealed(cause) })
    }

    /// A record that opens, and is not what this version writes.
    pub(super) fn format_error(&self, owner: Owner, field: &'static str) -> RepositoryError {
        self.tell(Damage { owner, field, cause: Cause::Format })
    }

    /// What the store said of a connection's record: where its outer form cannot be read, that is that
    /// connection's.
    pub(super) fn store_error(&self, owner: Owner, error: StoreError) -> RepositoryError {
        match error {
            StoreError::Corrupt { cause, .. } => {
                self.tell(Damage { owner, field: "record", cause: Cause::Unreadable(cause) })
            }
            error @ StoreError::Unavailable { .. } => error.into(),
        }
    }

    fn tell(&self, damage: Damage) -> RepositoryError {
        self.damage_observer.damaged(&damage);
        RepositoryError::Damaged(damage)
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use std::sync::Arc;
    use std::time::Duration;

    use zeroize::Zeroizing;

    use super::*;
    use crate::domain::id::AppName;
    use crate::domain::time::Timestamp;
    use crate::keyring::{Keyring, SealingKey};
    use crate::repository::FiledUnder;
    use crate::store::embedded::{EmbeddedConfig, EmbeddedStore};
    use crate::store::suite::{CountingRandom, RealClock};
    use crate::store::{Deadline, Store};

    #[derive(Default)]
    struct Heard(Mutex<Vec<&'static str>>);

    impl DamageObserver for Heard {
        fn damaged(&self, damage: &Damage) {
            self.0.lock().push(damage.owner().kind());
        }
    }

    #[tokio::test]
    async fn every_kind_of_short_lived_record_is_told_where_it_is_found() {
        let folder = tempfile::tempdir().expect("a directory");
        let config = EmbeddedConfig::new(folder.path().join("store"));
        let store = EmbeddedStore::open(&config, RealClock::shared(), &CountingRandom::new()).expect("opens");
        let store: Arc<dyn Store> = Arc::new(store);
        let at = Timestamp::from_unix_seconds(1);
        let key = SealingKey::new("k1".to_owned(), at, Some(at), Zeroizing::new([7; 32]));
        let keyring = Arc::new(Keyring::new(vec![key], "test").expect("a ring"));
        let heard = Arc::new(Heard::default());
        let repository = Repository::new(store.clone(), keyring.clone(), Arc::new(CountingRandom::new()))
            .with_damage_observer(heard.clone());
        let later = Deadline::after(RealClock::shared().now(), Duration::from_secs(3600));
        let app = FiledUnder::app(&AppName::parse("outlook").expect("a name"));
        for kind in Kind::ALL {
            let id = format!("{}:outlook", kind.schema());
            let not_json = keyring.seal(&kind.place("outlook"), b"{", &CountingRandom::new());
            let moved = keyring.seal(&kind.place("teams"), b"{}", &CountingRandom::new());
            for stored in [b"rubbish".to_vec(), not_json, moved] {
                store.put_pending(&id, &stored, later).await.expect("serves");
                let read = repository.pending::<serde_json::Value>(kind, &app).await;
                assert!(read.is_err_and(|error| error.is_damage()), "{kind:?}");
                let heard = std::mem::take(&mut *heard.0.lock());
                assert_eq!(heard, [kind.schema()], "told once a look");
            }
        }
        // What somebody brings is no record: a cursor that was made up is nobody's damage.
        assert_eq!(repository.open_cursor("list", "bm9ib2R5J3M"), None);
        assert!(heard.0.lock().is_empty());
    }
}
