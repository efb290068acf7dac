//! An operator stops one connection, lets it go on, or has its grant tried now.

use super::connect::SWAP_TRIES;
use super::{Broker, Refusal};
use crate::domain::connection::Status;
use crate::domain::id::ConnectionKey;
use crate::store::{Committed, Writer};

impl Broker {
    /// Pauses a connection, or resumes it. In force in this process when it answers, and on every other replica that reaches
    /// the store within a second.
    pub async fn set_paused(&self, key: &ConnectionKey, paused: bool) -> Result<(), Refusal> {
        self.app(&key.app)?;
        let repository = &self.deps.repository;
        for _ in 0..SWAP_TRIES {
            let Some(loaded) = repository.load(key).await? else { return Err(Refusal::ConnectionNotFound) };
            let grant = repository.open_grant(key, &loaded)?;
            let before = loaded.connection;
            // Whatever is held may be from before an act whose answer was lost.
            self.deps.engine.distrust(key);
            if (before.profile.status == Status::Paused) == paused {
                return Ok(());
            }
            let profile = if paused { before.profile.paused() } else { before.profile.resumed() };
            let committed = repository
                .commit(key, before.revision, &profile, &before.tokens, grant.as_ref(), Writer::Operator)
                .await;
            self.deps.engine.distrust(key);
            let (committed, _) = committed?;
            if committed == Committed::Done {
                // Paused, nothing is due; resumed, it is looked at at once and scheduled by that.
                self.deps.engine.reschedule(key, !paused).await;
                return Ok(());
            }
        }
        Err(Refusal::StoreUnavailable { retry_after: std::time::Duration::from_secs(1) })
    }

    /// Has a connection's grant tried now.
    pub async fn refresh_now(&self, key: &ConnectionKey) -> Result<(), Refusal> {
        self.app(&key.app)?;
        let held = self.deps.engine.inspect(key).await.map_err(|failure| Refusal::of_failure(&failure))?;
        if held.connection.profile.status == Status::Paused {
            return Err(Refusal::ConnectionPaused);
        }
        self.deps.engine.try_now(key);
        Ok(())
    }
}
