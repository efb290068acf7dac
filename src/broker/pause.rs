//! Operators' acts on one connection: pause, resume, and refresh now.
//!
//! A pause is kept by name, beside the connection. It is stored first, so that a renewal or delete at the
//! same time sees it, and it stays when the connection is deleted. Only an operator lifts it.

use serde::{Deserialize, Serialize};

use super::connect::SWAP_TRIES;
use super::{Broker, KEPT_FOR_GOOD, Refusal};
use crate::domain::connection::Status;
use crate::domain::id::ConnectionKey;
use crate::domain::notice::Turn;
use crate::domain::time::Timestamp;
use crate::repository::{FiledUnder, Kind, Taken};
use crate::store::{Committed, Writer};

/// Record of an operator's pause of a name.
#[derive(Serialize, Deserialize)]
struct PauseRecord {
    since: Timestamp,
}

/// What an operator paused or resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PausedWhat {
    /// A connection.
    Connection,
    /// Only a name: its connection was deleted during the pause.
    Name,
}

impl Broker {
    /// Pauses or resumes a connection. When it returns, the change is in force in this process; it is within
    /// a second on every replica that reaches the store.
    pub async fn set_paused(&self, key: &ConnectionKey, paused: bool) -> Result<PausedWhat, Refusal> {
        self.app(&key.app)?;
        let repository = &self.deps.repository;
        for _ in 0..SWAP_TRIES {
            // Repairs a store that lost writes first: otherwise the repair would undo this act.
            self.deps.engine.look_again(key).await;
            let Some(loaded) = repository.load(key).await? else {
                if !self.is_name_paused(key).await? {
                    return Err(Refusal::ConnectionNotFound);
                }
                if !paused {
                    self.remove_pause(key).await?;
                }
                return Ok(PausedWhat::Name);
            };
            let grant = repository.open_grant(key, &loaded)?;
            let before = loaded.connection;
            if paused {
                self.write_pause(key).await?;
            }
            // A cached record may be older than an act whose answer was lost.
            self.deps.engine.distrust(key);
            let is_so = (before.profile.status() == Status::Paused) == paused;
            if !is_so {
                let was = before.profile.status();
                let turn = Turn::After { before: before.profile.outlook(), at: self.deps.clock.now() };
                let base = (before.revision, turn);
                let profile = match paused {
                    true => before.profile.paused().ending_handles(Some(self.handles_made_by_now())),
                    false => before.profile.resumed(),
                };
                let committed = repository
                    .commit(key, base, &profile, &before.tokens, grant.as_ref(), Writer::Operator)
                    .await;
                self.deps.engine.distrust(key);
                // Read here, so that it is given back to a store that loses it.
                self.deps.engine.look_again(key).await;
                let (committed, _) = committed?;
                if committed != Committed::Done {
                    continue;
                }
                self.status_changed(key, Some(was), Some(profile.status()));
            }
            if !paused {
                self.remove_pause(key).await?;
            }
            if !is_so {
                // A paused connection has no due refresh; a resumed one is checked at once, which schedules
                // it.
                self.deps.engine.reschedule(key, !paused).await;
            }
            return Ok(PausedWhat::Connection);
        }
        Err(Refusal::StoreUnavailable)
    }

    /// Returns true if an operator paused the name, with or without a connection.
    pub async fn is_name_paused(&self, key: &ConnectionKey) -> Result<bool, Refusal> {
        let filed = FiledUnder::connection(key);
        let record: Option<Taken<PauseRecord>> =
            self.deps.repository.pending(Kind::PausedName, &filed).await?;
        Ok(record.is_some())
    }

    /// Keeps a pause by name when its connection is about to be deleted: it may be older than pauses by name.
    pub(super) async fn keep_name_paused(&self, key: &ConnectionKey, status: Status) -> Result<(), Refusal> {
        if status == Status::Paused && !self.is_name_paused(key).await? {
            self.write_pause(key).await?;
        }
        Ok(())
    }

    async fn write_pause(&self, key: &ConnectionKey) -> Result<(), Refusal> {
        let now = self.deps.clock.now();
        let record = PauseRecord { since: now };
        let filed = FiledUnder::connection(key);
        self.deps.repository.put_pending(Kind::PausedName, &filed, &record, now, KEPT_FOR_GOOD).await?;
        Ok(())
    }

    async fn remove_pause(&self, key: &ConnectionKey) -> Result<(), Refusal> {
        Ok(self.deps.repository.discard_pending(Kind::PausedName, &FiledUnder::connection(key)).await?)
    }

    /// Tries a connection's grant now.
    pub async fn refresh_now(&self, key: &ConnectionKey) -> Result<(), Refusal> {
        self.app(&key.app)?;
        let held = self.deps.engine.inspect(key).await.map_err(|failure| Refusal::of_failure(&failure))?;
        if held.connection.profile.status() == Status::Paused {
            return Err(Refusal::ConnectionPaused);
        }
        self.deps.engine.try_now(key, None);
        Ok(())
    }
}
