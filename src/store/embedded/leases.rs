//! Leases are in the memory of the one process. The intents written with them are in the file.

use std::time::Duration;

use async_trait::async_trait;

use super::EmbeddedStore;
use super::tables::lease_key;
use crate::store::rules::Intent;
use crate::store::{LeaseAnswer, LeaseNonce, LeaseOf, Leases, StoreError, record};

#[async_trait]
impl Leases for EmbeddedStore {
    async fn take_lease(
        &self,
        of: LeaseOf<'_>,
        nonce: LeaseNonce,
        ttl: Duration,
    ) -> Result<LeaseAnswer, StoreError> {
        const DOING: &str = "taking a lease";
        let of = lease_key(of);
        self.write(DOING, move |batch| {
            if let Err(left) = batch.leases.take(of.clone(), nonce, ttl, batch.monotonic) {
                return Ok(LeaseAnswer::Theirs { left });
            }
            let stored = batch.record(&of)?.and_then(|record| record::decode_revision(DOING, &record).ok());
            let about = stored.map(|revision| revision.sign_in).unwrap_or_default();
            let intent = Intent::after(batch.intent(&of)?, nonce, about);
            batch.put_intent(&of, &intent)?;
            Ok(LeaseAnswer::Mine { unsettled: intent.unsettled, stored })
        })
        .await
    }

    async fn extend_lease(
        &self,
        of: LeaseOf<'_>,
        nonce: LeaseNonce,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        let of = lease_key(of);
        let extend =
            move |batch: &mut super::Batch<'_>| Ok(batch.leases.extend(of, nonce, ttl, batch.monotonic));
        self.write("prolonging a lease", extend).await
    }

    async fn release_lease(
        &self,
        of: LeaseOf<'_>,
        nonce: LeaseNonce,
        settled: bool,
    ) -> Result<(), StoreError> {
        let of = lease_key(of);
        self.write("giving a lease back", move |batch| {
            batch.leases.release(&of, nonce, batch.monotonic);
            if settled && batch.intent(&of)?.is_some_and(|intent| intent.is_settled_by(nonce)) {
                batch.settle(&of)?;
            }
            Ok(())
        })
        .await
    }
}
