//! What may be used once: clients' assertions at the token endpoint (RFC 7523 §3, `jti`).

use serde::Serialize;

use super::{Broker, Refusal};
use crate::domain::time::Timestamp;
use crate::repository::{FiledUnder, Kind, SecretHash};

/// The record of a use: that it exists says all.
#[derive(Serialize)]
struct Used {}

impl Broker {
    /// Marks an assertion as used, by all replicas together, until it is refused for its age anyway. Returns
    /// false if it was used before.
    ///
    /// # Errors
    /// The store is unavailable, or has room for connections alone. Then the assertion is refused: nobody
    /// knows whether it was used, or could find out later.
    pub async fn use_once(&self, name: &str, until: Timestamp) -> Result<bool, Refusal> {
        if !self.deps.repository.has_room() {
            return Err(Refusal::StoreNearlyFull);
        }
        let (id, now) = (FiledUnder::hash(&SecretHash::of(name)), self.deps.clock.now());
        let ttl = until.since(now);
        Ok(self.deps.repository.swap_pending(Kind::Assertion, &id, None, &Used {}, now, ttl).await?)
    }
}
