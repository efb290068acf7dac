//! Pending records: sealed, short-lived, taken at most once.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::{FiledUnder, Kind, Owner, Redeemed, Repository, RepositoryError, SecretHash, wire};
use crate::domain::notice::Notice;
use crate::domain::time::Timestamp;
use crate::keyring::seal::Place;
use crate::store::Deadline;

/// Tries to change a record that others change too.
const CHANGE_TRIES: usize = 16;

/// A pending record as it was read. It can be replaced if it is still the same.
pub struct Taken<T> {
    /// The record.
    pub value: T,
    pub(super) sealed: Vec<u8>,
    /// Its name in the store, under which a new one is stored too.
    found_under: String,
}

/// A record whose loss is borne, as it was found.
pub struct Kept<T> {
    /// The record; `None` if there is none.
    pub taken: Option<Taken<T>>,
    /// It cannot be read. `taken` then has an empty one, which takes its place when it is replaced.
    pub is_lost: bool,
}

/// As [`RepositoryError`]. Only a stranger is told that a damaged pending record is absent.
pub type PendingError = RepositoryError;

impl Repository {
    /// Keeps a pending record until `expires_at`.
    pub async fn put_pending<T: Serialize>(
        &self,
        kind: Kind,
        id: &FiledUnder,
        value: &T,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<(), PendingError> {
        let sealed = self.seal_pending(kind, &id.name, value);
        Ok(self.store.put_pending(&kind.store_id(&id.name), &sealed, Deadline::after(now, ttl)).await?)
    }

    /// Reads a pending record.
    pub async fn pending<T: DeserializeOwned>(
        &self,
        kind: Kind,
        id: &FiledUnder,
    ) -> Result<Option<Taken<T>>, PendingError> {
        for name in id.names() {
            if let Some(sealed) = self.store.pending(&kind.store_id(name)).await? {
                return self.open_pending(kind, name, sealed).map(Some);
            }
        }
        Ok(None)
    }

    /// The same for a record whose loss is borne: one that nobody can read any more says nothing for good, so
    /// it is begun anew. The log says so each time, until the record is replaced. `what` is what it has. A
    /// newer version's record stays, and one whose key is not here: they are errors.
    pub async fn kept<T: DeserializeOwned + Default>(
        &self,
        kind: Kind,
        id: &FiledUnder,
        what: &'static str,
    ) -> Result<Kept<T>, PendingError> {
        for name in id.names() {
            let Some(sealed) = self.store.pending(&kind.store_id(name)).await? else { continue };
            return Ok(match self.open_pending(kind, name, sealed.clone()) {
                Ok(taken) => Kept { taken: Some(taken), is_lost: false },
                Err(error) if !error.is_lost() => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, what, "a record cannot be read; it is begun anew");
                    let taken = Taken { value: T::default(), sealed, found_under: name.to_owned() };
                    Kept { taken: Some(taken), is_lost: true }
                }
            });
        }
        Ok(Kept { taken: None, is_lost: false })
    }

    /// Replaces a pending record if it still is the one that was read; `None` creates it. Otherwise it
    /// returns false and changes nothing.
    pub async fn swap_pending<T: Serialize>(
        &self,
        kind: Kind,
        id: &FiledUnder,
        read: Option<&Taken<T>>,
        value: &T,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<bool, PendingError> {
        let name = read.map_or(&id.name, |read| &read.found_under);
        let sealed = self.seal_pending(kind, name, value);
        let expected = read.map(|read| &read.sealed[..]);
        Ok(self
            .store
            .swap_pending(&kind.store_id(name), expected, &sealed, Deadline::after(now, ttl))
            .await?)
    }

    /// The same with notices, which are written in the step that replaces it.
    pub async fn swap_telling<T: Serialize>(
        &self,
        kind: Kind,
        id: &FiledUnder,
        (read, value): (Option<&Taken<T>>, &T),
        notices: &[Notice],
        now: Timestamp,
        ttl: Duration,
    ) -> Result<bool, PendingError> {
        let name = read.map_or(&id.name, |read| &read.found_under);
        let sealed = self.seal_pending(kind, name, value);
        let (expected, deadline) = (read.map(|read| &read.sealed[..]), Deadline::after(now, ttl));
        Ok(self.store.swap_telling(&kind.store_id(name), expected, &sealed, deadline, notices).await?)
    }

    /// As [`Repository::swap_pending`], and returns the record as it is now, so that it can be replaced again
    /// without being read. `None` if it was not the one that was read any more.
    pub async fn replace_pending<T: Serialize>(
        &self,
        kind: Kind,
        id: &FiledUnder,
        read: Option<&Taken<T>>,
        value: T,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<Option<Taken<T>>, PendingError> {
        let name = read.map_or(&id.name, |read| &read.found_under);
        let sealed = self.seal_pending(kind, name, &value);
        let (expected, deadline) = (read.map(|read| &read.sealed[..]), Deadline::after(now, ttl));
        let swapped = self.store.swap_pending(&kind.store_id(name), expected, &sealed, deadline).await?;
        Ok(swapped.then(|| Taken { value, sealed, found_under: name.clone() }))
    }

    /// Changes a record that others change too, and that may not exist yet. It reads, changes and replaces
    /// the record until nobody else came in between, and returns the new record; `None` if others kept
    /// changing it. If `change` refuses, nothing is written.
    pub async fn change_pending<T: Serialize + DeserializeOwned + Default + Clone, E: From<PendingError>>(
        &self,
        kind: Kind,
        id: &FiledUnder,
        now: Timestamp,
        ttl: Duration,
        mut change: impl FnMut(&mut T) -> Result<(), E>,
    ) -> Result<Option<T>, E> {
        let change = |value: &mut T| change(value).map(|()| Vec::new());
        self.change_telling(kind, id, now, ttl, change).await
    }

    /// The same with the notices that `change` returns, which are written in the step that replaces it.
    pub async fn change_telling<T: Serialize + DeserializeOwned + Default + Clone, E: From<PendingError>>(
        &self,
        kind: Kind,
        id: &FiledUnder,
        now: Timestamp,
        ttl: Duration,
        mut change: impl FnMut(&mut T) -> Result<Vec<Notice>, E>,
    ) -> Result<Option<T>, E> {
        for _ in 0..CHANGE_TRIES {
            let before: Option<Taken<T>> = self.pending(kind, id).await?;
            let mut value = before.as_ref().map(|before| before.value.clone()).unwrap_or_default();
            let notices = change(&mut value)?;
            let is_replaced = if notices.is_empty() {
                self.swap_pending(kind, id, before.as_ref(), &value, now, ttl).await?
            } else {
                self.swap_telling(kind, id, (before.as_ref(), &value), &notices, now, ttl).await?
            };
            if is_replaced {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// Takes a pending record and removes it.
    pub async fn discard_pending(&self, kind: Kind, id: &FiledUnder) -> Result<(), PendingError> {
        for name in id.names() {
            self.store.take_pending(&kind.store_id(name)).await?;
        }
        Ok(())
    }

    /// Keeps a grant, sealed, until it is confirmed, under the hash of its one-time code.
    pub async fn put_redeemed(
        &self,
        code_hash: &SecretHash,
        redeemed: &Redeemed,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<(), PendingError> {
        let (kind, id) = (Kind::Redeemed, FiledUnder::hash(code_hash));
        let bytes = wire::encode_redeemed(redeemed);
        let sealed = self.keyring.seal(&kind.place(&id.name), &bytes, self.random.as_ref());
        Ok(self.store.put_pending(&kind.store_id(&id.name), &sealed, Deadline::after(now, ttl)).await?)
    }

    /// The grant that waits for its confirmation under this hash.
    pub async fn redeemed(&self, code_hash: &SecretHash) -> Result<Option<Redeemed>, PendingError> {
        let (kind, id) = (Kind::Redeemed, FiledUnder::hash(code_hash));
        let Some(sealed) = self.store.pending(&kind.store_id(&id.name)).await? else { return Ok(None) };
        let bytes = self.open_pending_bytes(kind, &id.name, &sealed)?;
        wire::decode_redeemed(&bytes)
            .map(Some)
            .ok_or_else(|| self.format_error(Owner::Pending(kind), "pending"))
    }

    /// Destroys the grant that waited under this hash.
    pub async fn discard_redeemed(&self, code_hash: &SecretHash) -> Result<(), PendingError> {
        let id = FiledUnder::hash(code_hash);
        self.store.take_pending(&Kind::Redeemed.store_id(&id.name)).await?;
        Ok(())
    }

    /// A cursor of a list, sealed: nobody can read it or make one up. All have the same length, since the
    /// length of a name may be a secret too.
    pub fn seal_cursor(&self, list: &str, name: &str) -> String {
        let padded = format!("{name:\0<256}");
        URL_SAFE_NO_PAD.encode(self.keyring.seal(
            &cursor_place(list),
            padded.as_bytes(),
            self.random.as_ref(),
        ))
    }

    /// Opens a cursor of that list.
    pub fn open_cursor(&self, list: &str, cursor: &str) -> Option<String> {
        let sealed = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let name = self.keyring.open(&cursor_place(list), &sealed).ok()?;
        Some(std::str::from_utf8(&name).ok()?.trim_end_matches('\0').to_owned())
    }

    pub(super) fn open_pending_bytes(
        &self,
        kind: Kind,
        id: &str,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, PendingError> {
        let opened = self.keyring.open(&kind.place(id), sealed);
        opened.map_err(|cause| self.sealed_error(Owner::Pending(kind), "pending", cause))
    }

    fn seal_pending<T: Serialize>(&self, kind: Kind, id: &str, value: &T) -> Vec<u8> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024));
        serde_json::to_writer(&mut *bytes, value).expect("these types have no map keys that JSON lacks");
        self.keyring.seal(&kind.place(id), &bytes, self.random.as_ref())
    }

    fn open_pending<T: DeserializeOwned>(
        &self,
        kind: Kind,
        id: &str,
        sealed: Vec<u8>,
    ) -> Result<Taken<T>, PendingError> {
        let bytes = self.open_pending_bytes(kind, id, &sealed)?;
        let value =
            serde_json::from_slice(&bytes).map_err(|_| self.format_error(Owner::Pending(kind), "pending"))?;
        Ok(Taken { value, sealed, found_under: id.to_owned() })
    }
}

fn cursor_place(list: &str) -> Place<'_> {
    Place { schema: "cursor", owner: (list, ""), field: "name", generation: 0 }
}
