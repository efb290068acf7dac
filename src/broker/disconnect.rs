//! Destroy a connection: the grant is gone from the store before this answers, and from memory with it.

use std::sync::Arc;
use std::time::Duration;

use super::{Broker, Refusal};
use crate::domain::id::ConnectionKey;
use crate::policy::CallerPolicy;

impl Broker {
    /// Deletes a connection for a caller that may connect it.
    pub async fn delete(self: &Arc<Self>, caller: &CallerPolicy, key: &ConnectionKey) -> Result<(), Refusal> {
        let right = self.right_of(caller, key).await?;
        self.destroy(right.key()).await
    }

    /// Deletes a connection for an operator. A pause stays, on the name.
    pub async fn delete_as_admin(self: &Arc<Self>, key: &ConnectionKey) -> Result<(), Refusal> {
        self.destroy(key).await
    }

    /// Goes on whether anyone waits or not.
    async fn destroy(self: &Arc<Self>, key: &ConnectionKey) -> Result<(), Refusal> {
        self.app(&key.app)?;
        let (broker, key) = (Arc::clone(self), key.clone());
        let work = async move {
            // (What cannot be read says nothing of a pause, and can be deleted all the same.)
            if let Ok(held) = broker.deps.engine.inspect(&key).await {
                broker.hold_if_paused(&key, held.connection.profile.status).await?;
            }
            let deleted = broker.deps.repository.delete(&key).await;
            match &deleted {
                Ok(meant) => broker.deps.engine.deleted(&key, *meant),
                // It may have been deleted: look again.
                Err(_) => broker.deps.engine.distrust(&key),
            }
            Ok::<bool, Refusal>(deleted?.is_some())
        };
        match self.to_the_end("delete a connection", work).await {
            Some(Ok(true)) => Ok(()),
            Some(Ok(false)) => Err(Refusal::ConnectionNotFound),
            Some(Err(refusal)) => Err(refusal),
            None => Err(Refusal::StoreUnavailable { retry_after: Duration::from_secs(1) }),
        }
    }
}
