//! Handles: sealed, and not stored. What is stored is until when those of a sealing key live.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{FiledUnder, Kept, Kind, PendingError, Repository, Taken};
use crate::domain::handle::{HandleId, PresentedHandle};
use crate::domain::time::Timestamp;
use crate::keyring::seal::{OpenError, Place};
use crate::keyring::{KeyId, SealingKey};
use crate::store::{Deadline, StoreError};

/// Tries to note until when handles live, while others note it too.
const TRIES: usize = 16;

/// Until when handles live that a key sealed.
#[derive(Default, Serialize, Deserialize)]
struct HandlesOfKey {
    until: Timestamp,
}

impl Repository {
    /// Seals what a handle says, with this key.
    pub fn seal_handle<T: Serialize>(&self, key: &SealingKey, id: &HandleId, value: &T) -> Vec<u8> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024));
        serde_json::to_writer(&mut *bytes, value).expect("these types have no map keys that JSON lacks");
        key.seal(&place(id), &bytes, self.random.as_ref())
    }

    /// Opens what a handle says. It needs no store.
    ///
    /// # Errors
    /// It is not of ours, or of a key that is gone.
    pub fn open_handle<T: DeserializeOwned>(&self, presented: &PresentedHandle) -> Result<T, OpenError> {
        let bytes = self.keyring.open(&place(&presented.id), &presented.sealed)?;
        serde_json::from_slice(&bytes).map_err(|_| OpenError::Refused)
    }

    /// Notes that handles which this key sealed live until then, at least. The note is a record that the key
    /// sealed. So the counts show that the key is needed, for as long.
    ///
    /// # Errors
    /// It could not be noted: the key must seal no handle that lives so long.
    pub async fn note_handles(
        &self,
        key: &SealingKey,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<(), PendingError> {
        let (kind, id) = (Kind::HandlesOfKey, FiledUnder::sealing_key(&key.id));
        let bytes = serde_json::to_vec(&HandlesOfKey { until }).expect("a number");
        let deadline = Deadline::after(now, until.since(now));
        for _ in 0..TRIES {
            let Kept { taken: before, is_lost } =
                self.kept::<HandlesOfKey>(kind, &id, "a note of handles").await?;
            if !is_lost && before.as_ref().is_some_and(|before| before.value.until >= until) {
                return Ok(());
            }
            let expected = before.as_ref().map(|before| &before.sealed[..]);
            let sealed = key.seal(&kind.place(&id.name), &bytes, self.random.as_ref());
            if self.store.swap_pending(&kind.store_id(&id.name), expected, &sealed, deadline).await? {
                return Ok(());
            }
        }
        let doing = "noting until when handles live";
        Err(StoreError::Unavailable { doing, cause: "others kept changing the note".into() }.into())
    }

    /// Returns until when handles live that a key sealed; `None` if there are none.
    pub async fn handles_of(&self, key: &KeyId) -> Result<Option<Timestamp>, PendingError> {
        let note: Option<Taken<HandlesOfKey>> =
            self.pending(Kind::HandlesOfKey, &FiledUnder::sealing_key(key)).await?;
        Ok(note.map(|note| note.value.until))
    }
}

/// The place of a handle: no record's, and no other handle's.
fn place(id: &HandleId) -> Place<'_> {
    Place { schema: "handle", owner: (id.as_str(), ""), field: "relay", generation: 0 }
}
