//! Deletion of a connection: when it returns, the grant is gone from the store and from memory.

use std::sync::Arc;

use super::rights::Right;
use super::{Broker, Refusal};
use crate::domain::id::ConnectionKey;

/// On whose word it is deleted.
enum Word {
    /// A caller's right, judged just before.
    Caller(Right),
    /// An operator's request.
    Operator(ConnectionKey),
}

impl Word {
    fn into_key(self) -> ConnectionKey {
        match self {
            Word::Caller(right) => right.into_key(),
            Word::Operator(key) => key,
        }
    }
}

impl Broker {
    /// Deletes a connection for a caller.
    pub async fn delete(self: &Arc<Self>, right: Right) -> Result<(), Refusal> {
        self.destroy(Word::Caller(right)).await
    }

    /// Deletes a connection for an operator. A pause stays on the name.
    pub async fn delete_as_admin(self: &Arc<Self>, key: &ConnectionKey) -> Result<(), Refusal> {
        self.destroy(Word::Operator(key.clone())).await
    }

    /// Deletes it. The work continues even if nobody waits.
    async fn destroy(self: &Arc<Self>, word: Word) -> Result<(), Refusal> {
        let (broker, key) = (Arc::clone(self), word.into_key());
        self.app(&key.app)?;
        let work = async move {
            // (An unreadable connection tells nothing about a pause, and can be deleted all the same.)
            let held = broker.deps.engine.inspect(&key).await.ok();
            let before = held.as_ref().map(|held| held.connection.profile.status());
            let tenant = held.and_then(|held| held.connection.profile.account().tid.clone());
            if let Some(status) = before {
                broker.keep_name_paused(&key, status).await?;
            }
            let deleted =
                broker.deps.repository.delete(&key, tenant.as_deref(), broker.deps.clock.now()).await;
            match &deleted {
                Ok(meant) => {
                    broker.deps.engine.deleted(&key, *meant);
                    if meant.is_some() {
                        broker.status_changed(&key, before, None);
                    }
                }
                // It may have been deleted: read it again.
                Err(_) => broker.deps.engine.distrust(&key),
            }
            Ok::<bool, Refusal>(deleted?.is_some())
        };
        match self.to_the_end("delete a connection", work).await {
            Some(Ok(true)) => Ok(()),
            Some(Ok(false)) => Err(Refusal::ConnectionNotFound),
            Some(Err(refusal)) => Err(refusal),
            None => Err(Refusal::StoreUnavailable),
        }
    }
}
