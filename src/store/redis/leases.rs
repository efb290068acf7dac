//! Leases in Redis.

use std::time::Duration;

use async_trait::async_trait;

use super::RedisStore;
use super::scripts::{self, millis};
use crate::store::{LeaseAnswer, LeaseNonce, LeaseOf, Leases, StoreError, keyspace, record};

#[async_trait]
impl Leases for RedisStore {
    async fn take_lease(
        &self,
        of: LeaseOf<'_>,
        nonce: LeaseNonce,
        ttl: Duration,
    ) -> Result<LeaseAnswer, StoreError> {
        const DOING: &str = "taking a lease";
        let (lease, intent) = keyspace::redis_lease(of);
        let slot = keyspace::slot(&lease);
        let mut script = scripts::TAKE.prepare_invoke();
        script.key(lease).key(intent).arg(&nonce.0[..]).arg(millis(ttl));
        if let LeaseOf::Connection(key) = of {
            script.key(keyspace::redis_record(key));
        }
        // Not waited for on replicas: a lease that a failover loses costs one more call to the authority.
        let ((mine, rest, head), _) = self
            .write(DOING, slot, |mut commands| {
                let script = &script;
                async move { script.invoke_async::<(bool, i64, Vec<u8>)>(&mut commands).await }
            })
            .await?;
        Ok(if mine {
            LeaseAnswer::Mine { unsettled: rest == 1, stored: record::decode_revision(DOING, &head).ok() }
        } else {
            LeaseAnswer::Theirs { left: Duration::from_millis(u64::try_from(rest).unwrap_or(0)) }
        })
    }

    async fn extend_lease(
        &self,
        of: LeaseOf<'_>,
        nonce: LeaseNonce,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        let mut script = scripts::EXTEND.prepare_invoke();
        let (lease, _) = keyspace::redis_lease(of);
        let slot = keyspace::slot(&lease);
        script.key(lease).arg(&nonce.0[..]).arg(millis(ttl));
        Ok(self.script("prolonging a lease", slot, &script).await?.0)
    }

    async fn release_lease(
        &self,
        of: LeaseOf<'_>,
        nonce: LeaseNonce,
        settled: bool,
    ) -> Result<(), StoreError> {
        let (lease, intent) = keyspace::redis_lease(of);
        let told = match of {
            LeaseOf::Connection(key) => self.changes.message(key),
            LeaseOf::Sweep(_) | LeaseOf::Rewrap | LeaseOf::Notices => String::new(),
        };
        let slot = keyspace::slot(&lease);
        let mut script = scripts::RELEASE.prepare_invoke();
        script.key(lease).key(intent).arg(&nonce.0[..]).arg(u8::from(settled));
        script.arg(keyspace::REDIS_CHANGES).arg(told);
        self.script::<i64>("giving a lease back", slot, &script).await?;
        Ok(())
    }
}
