//! An operator stops one connection, lets it go on, or has its grant tried now.
//!
//! A pause is a hold on the name, kept beside the connection: it is written first, so that whoever renews or deletes the
//! connection meanwhile meets it, and it stays when the connection goes. Only an operator's word lifts it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::connect::SWAP_TRIES;
use super::{Broker, Refusal};
use crate::domain::connection::Status;
use crate::domain::id::ConnectionKey;
use crate::domain::time::Timestamp;
use crate::repository::{FiledUnder, Kind, Taken};
use crate::store::{Committed, Writer};

/// For ever, as a store counts.
const KEPT: Duration = Duration::from_secs(100 * 365 * 86_400);

/// That an operator paused a name.
#[derive(Serialize, Deserialize)]
struct Hold {
    since: Timestamp,
}

/// What an operator paused or let go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PausedWhat {
    /// A connection.
    Connection,
    /// A name alone: its connection was deleted while it was paused.
    Name,
}

impl Broker {
    /// Pauses a connection, or resumes it. In force in this process when it answers, and on every other replica that reaches
    /// the store within a second.
    pub async fn set_paused(&self, key: &ConnectionKey, paused: bool) -> Result<PausedWhat, Refusal> {
        self.app(&key.app)?;
        let repository = &self.deps.repository;
        for _ in 0..SWAP_TRIES {
            // What the store has lost it gets back first: an act on less would be undone by that.
            self.deps.engine.look_again(key).await;
            let Some(loaded) = repository.load(key).await? else {
                if !self.is_held(key).await? {
                    return Err(Refusal::ConnectionNotFound);
                }
                if !paused {
                    self.release(key).await?;
                }
                return Ok(PausedWhat::Name);
            };
            let grant = repository.open_grant(key, &loaded)?;
            let before = loaded.connection;
            if paused {
                self.hold(key).await?;
            }
            // Whatever is held may be from before an act whose answer was lost.
            self.deps.engine.distrust(key);
            let is_so = (before.profile.status == Status::Paused) == paused;
            if !is_so {
                let profile = if paused { before.profile.paused() } else { before.profile.resumed() };
                let committed = repository
                    .commit(key, before.revision, &profile, &before.tokens, grant.as_ref(), Writer::Operator)
                    .await;
                self.deps.engine.distrust(key);
                // Seen here, it is given back to a store that loses it.
                self.deps.engine.look_again(key).await;
                let (committed, _) = committed?;
                if committed != Committed::Done {
                    continue;
                }
            }
            if !paused {
                self.release(key).await?;
            }
            if !is_so {
                // Paused, nothing is due; resumed, it is looked at at once and scheduled by that.
                self.deps.engine.reschedule(key, !paused).await;
            }
            return Ok(PausedWhat::Connection);
        }
        Err(Refusal::StoreUnavailable)
    }

    /// Whether an operator paused the name, connection or none.
    pub async fn is_held(&self, key: &ConnectionKey) -> Result<bool, Refusal> {
        let filed = FiledUnder::connection(key);
        let hold: Option<Taken<Hold>> = self.deps.repository.pending(Kind::PausedName, &filed).await?;
        Ok(hold.is_some())
    }

    /// Holds the name of a connection that is about to be destroyed, if it is paused: it may have been paused before names
    /// were held.
    pub(super) async fn hold_if_paused(&self, key: &ConnectionKey, status: Status) -> Result<(), Refusal> {
        if status == Status::Paused && !self.is_held(key).await? {
            self.hold(key).await?;
        }
        Ok(())
    }

    async fn hold(&self, key: &ConnectionKey) -> Result<(), Refusal> {
        let now = self.deps.clock.now();
        let hold = Hold { since: now };
        let filed = FiledUnder::connection(key);
        self.deps.repository.put_pending(Kind::PausedName, &filed, &hold, now, KEPT).await?;
        Ok(())
    }

    async fn release(&self, key: &ConnectionKey) -> Result<(), Refusal> {
        Ok(self.deps.repository.discard_pending(Kind::PausedName, &FiledUnder::connection(key)).await?)
    }

    /// Has a connection's grant tried now.
    pub async fn refresh_now(&self, key: &ConnectionKey) -> Result<(), Refusal> {
        self.app(&key.app)?;
        let held = self.deps.engine.inspect(key).await.map_err(|failure| Refusal::of_failure(&failure))?;
        if held.connection.profile.status == Status::Paused {
            return Err(Refusal::ConnectionPaused);
        }
        self.deps.engine.try_now(key, None);
        Ok(())
    }
}
