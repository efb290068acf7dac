//! Destroy a connection: the grant is gone from the store before this answers, and from memory with it.

use super::{Broker, Refusal};
use crate::domain::id::ConnectionKey;
use crate::policy::CallerPolicy;

impl Broker {
    /// Deletes a connection for a caller that may connect it.
    pub async fn delete(&self, caller: &CallerPolicy, key: &ConnectionKey) -> Result<(), Refusal> {
        let tenant = if caller.needs_tenant(key) { self.tenant_of(key).await? } else { None };
        caller.can_connect(key, tenant.as_deref())?;
        self.delete_as_admin(key).await
    }

    /// Deletes a connection for an operator.
    pub async fn delete_as_admin(&self, key: &ConnectionKey) -> Result<(), Refusal> {
        self.app(&key.app)?;
        let existed = self.deps.repository.delete(key).await?;
        self.deps.engine.forget(key);
        if existed { Ok(()) } else { Err(Refusal::ConnectionNotFound) }
    }
}
