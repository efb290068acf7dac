//! The right of this replica to use one connection's grant, while other replicas stay away from it.
//!
//! A lease bounds what is done at the authority; what is stored is kept right by the fence of the commit. So a lease may
//! be lost (a pause, a store that failed over) and costs at most a call that was not needed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::LeaseOutcome;
use super::engine::Inner;
use crate::domain::id::ConnectionKey;
use crate::domain::random::random_bytes;
use crate::store::{LeaseAnswer, LeaseNonce, LeaseOf, StoreError};

/// A lease is prolonged when this part of it has passed: two attempts may fail before it ends.
const PROLONG_AFTER: u32 = 3;

/// What came of an attempt.
pub(super) enum Attempt {
    Mine(Lease),
    /// Somebody else's, for so long at the most.
    Theirs(Duration),
}

/// A lease that is held, as far as we know.
pub(super) struct Lease {
    pub(super) nonce: LeaseNonce,
    /// An earlier holder began to use the grant, and nobody learnt how that ended.
    pub(super) unsettled: bool,
    /// Monotonic milliseconds until which nobody else can have it: counted from before it was asked for.
    until: AtomicU64,
}

impl Lease {
    /// Tries to take the connection's lease.
    pub(super) async fn take(inner: &Arc<Inner>, key: &ConnectionKey) -> Result<Attempt, StoreError> {
        let nonce = LeaseNonce(random_bytes(inner.deps.random.as_ref()));
        let ttl = inner.settings().lease;
        let until = inner.deps.clock.monotonic().saturating_add(ttl);
        let taken = inner.deps.repository.store().take_lease(LeaseOf::Connection(key), nonce, ttl).await;
        let observer = &inner.deps.observer;
        match taken {
            Ok(LeaseAnswer::Mine { unsettled }) => {
                observer.lease(LeaseOutcome::Acquired);
                Ok(Attempt::Mine(Lease { nonce, unsettled, until: AtomicU64::new(millis(until)) }))
            }
            Ok(LeaseAnswer::Theirs { left }) => {
                observer.lease(LeaseOutcome::Held);
                Ok(Attempt::Theirs(left))
            }
            Err(error) => {
                observer.lease(LeaseOutcome::Unreachable);
                // It may be ours all the same, and nobody would know: it is given back where that can be done.
                let (inner, key) = (inner.clone(), key.clone());
                let lease = Lease { nonce, unsettled: false, until: AtomicU64::new(0) };
                inner.clone().deps.tasks.spawn(
                    "give back a lease that may be ours",
                    Box::pin(async move { lease.release(&inner, &key, true).await }),
                );
                Err(error)
            }
        }
    }

    /// Whether nobody else can have it before `needed` has passed.
    pub(super) fn outlasts(&self, inner: &Inner, needed: Duration) -> bool {
        let until = inner.deps.clock.monotonic().saturating_add(needed);
        millis(until) < self.until.load(Ordering::Acquire)
    }

    /// Prolongs it again and again, for as long as this is polled; it never completes.
    pub(super) async fn keep(&self, inner: &Arc<Inner>, key: &ConnectionKey) {
        let ttl = inner.settings().lease;
        loop {
            inner.deps.clock.sleep(ttl / PROLONG_AFTER).await;
            let until = inner.deps.clock.monotonic().saturating_add(ttl);
            let store = inner.deps.repository.store();
            match store.extend_lease(LeaseOf::Connection(key), self.nonce, ttl).await {
                Ok(true) => self.until.store(millis(until), Ordering::Release),
                Ok(false) => {
                    inner.deps.observer.lease(LeaseOutcome::Lost);
                    tracing::warn!(app = %key.app, connection = %key.connection, "a lease passed to another replica while a refresh was under way; its answer counts only if nobody else's was stored");
                    self.until.store(0, Ordering::Release);
                    return std::future::pending().await;
                }
                Err(error) => tracing::warn!(%error, "a lease could not be prolonged"),
            }
        }
    }

    /// Gives it back. `known`: what we began with it has ended, and we know how. (What an earlier holder began stays
    /// unsettled until somebody's answer is stored.)
    pub(super) async fn release(self, inner: &Arc<Inner>, key: &ConnectionKey, known: bool) {
        let settled = known && !self.unsettled;
        let store = inner.deps.repository.store();
        if let Err(error) = store.release_lease(LeaseOf::Connection(key), self.nonce, settled).await {
            tracing::warn!(%error, "a lease could not be given back; it ends by itself");
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
