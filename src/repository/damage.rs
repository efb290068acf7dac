//! Damaged records: they exist and cannot be used. They do not open, or this version does not write such
//! content. The cause is damage, tampering, or a missing sealing key.
//!
//! Invariant: each is reported to the [`DamageObserver`] when it is found, and there is no other way to make
//! one.

use super::{Kind, Repository, RepositoryError};
use crate::domain::id::ConnectionKey;
use crate::keyring::seal::OpenError;
use crate::store::StoreError;

/// The owner of a record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A connection.
    Connection(ConnectionKey),
    /// A pending record of this kind. Its id is not named, since ids of some kinds are secrets.
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
    /// Its owner.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The damaged part.
    pub fn field(&self) -> &'static str {
        self.field
    }

    /// True if nothing can read it: not a newer version either, nor whoever has another key.
    pub fn is_lost(&self) -> bool {
        matches!(self.cause, Cause::Sealed(OpenError::Refused) | Cause::Unreadable(_))
    }

    /// True if it does not open. False if it opens, and this version does not write such content.
    pub fn is_sealed(&self) -> bool {
        matches!(self.cause, Cause::Sealed(_))
    }
}

/// Receives each report.
pub trait DamageObserver: Send + Sync {
    /// A damaged record was found. It may be reported again with each read.
    fn damaged(&self, damage: &Damage);
}

/// Reports to nobody, for programs without an operator.
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

    /// A record that opens, with content that this version does not write.
    pub(super) fn format_error(&self, owner: Owner, field: &'static str) -> RepositoryError {
        self.tell(Damage { owner, field, cause: Cause::Format })
    }

    /// Error for a connection that the store could not read: if its record's outer form is unreadable, that
    /// connection is damaged.
    pub(super) fn store_error(&self, owner: Owner, error: StoreError) -> RepositoryError {
        match error {
            StoreError::Corrupt { cause, .. } => {
                self.tell(Damage { owner, field: "record", cause: Cause::Unreadable(cause) })
            }
            error @ (StoreError::Unavailable { .. } | StoreError::Full { .. }) => error.into(),
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
