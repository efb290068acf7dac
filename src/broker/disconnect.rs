//! Destroy a connection: the grant is gone from the store before this answers, and from memory with it.

use std::sync::Arc;
use std::time::Duration;

use super::{Broker, Refusal};
use crate::domain::id::ConnectionKey;
use crate::policy::CallerPolicy;

impl Broker {
    /// Deletes a connection for a caller that may connect it.
    pub async fn delete(self: &Arc<Self>, caller: &CallerPolicy, key: &ConnectionKey) -> Result<(), Refusal> {
        let tenant = if caller.needs_tenant(key) { self.tenant_of(key).await? } else { None };
        caller.can_connect(key, tenant.as_deref())?;
        self.delete_as_admin(key).await
    }

    /// Deletes a connection for an operator. Goes on whether anyone waits or not.
    pub async fn delete_as_admin(self: &Arc<Self>, key: &ConnectionKey) -> Result<(), Refusal> {
        self.app(&key.app)?;
        let (broker, key) = (Arc::clone(self), key.clone());
        let work = async move {
            let deleted = broker.deps.repository.delete(&key).await;
            match &deleted {
                Ok(deleted) => broker.deps.engine.deleted(&key, deleted.meant),
                // It may have been deleted: look again.
                Err(_) => broker.deps.engine.distrust(&key),
            }
            deleted.map(|deleted| deleted.existed)
        };
        match self.to_the_end("delete a connection", work).await {
            Some(Ok(true)) => Ok(()),
            Some(Ok(false)) => Err(Refusal::ConnectionNotFound),
            Some(Err(error)) => Err(error.into()),
            None => Err(Refusal::StoreUnavailable { retry_after: Duration::from_secs(1) }),
        }
    }
}
