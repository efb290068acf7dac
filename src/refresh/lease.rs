//! The right of this replica to use one connection's grant, while other replicas do not.
//!
//! A lease bounds calls to the authority; the fence of the commit protects the store. So a lease may be lost
//! (a pause, a failover of the store) and costs at most one needless call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::observer::LeaseOutcome;
use super::ports::Ports;
use crate::domain::id::ConnectionKey;
use crate::domain::random::random_bytes;
use crate::store::{LeaseAnswer, LeaseNonce, LeaseOf, Revision, StoreError};

/// The part of its life after which a lease is prolonged: two attempts may fail before it ends.
const PROLONG_AFTER: u32 = 3;

/// Result of trying to take a lease.
pub(super) enum Taken {
    Mine(Lease),
    /// Another replica has it, for at most this long.
    Theirs(Duration),
}

/// A lease that this replica has, as far as it knows.
pub(super) struct Lease {
    pub(super) nonce: LeaseNonce,
    /// True if an earlier intent is unsettled: nobody knows how that use of the grant ended.
    pub(super) unsettled: bool,
    /// The revision that was stored when it was taken.
    pub(super) stored: Option<Revision>,
    /// Monotonic milliseconds until which nobody else can have it: counted from before it was asked for.
    until: AtomicU64,
}

impl Lease {
    /// Tries to take the connection's lease.
    pub(super) async fn take(ports: &Arc<Ports>, key: &ConnectionKey) -> Result<Taken, StoreError> {
        let nonce = LeaseNonce(random_bytes(ports.random()));
        let ttl = ports.settings().lease;
        let until = ports.monotonic().saturating_add(ttl);
        let taken = ports.repository().take_lease(LeaseOf::Connection(key), nonce, ttl).await;
        let observer = &ports.deps.observer;
        match taken {
            Ok(LeaseAnswer::Mine { unsettled, stored }) => {
                observer.lease(LeaseOutcome::Acquired);
                Ok(Taken::Mine(Lease { nonce, unsettled, stored, until: AtomicU64::new(millis(until)) }))
            }
            Ok(LeaseAnswer::Theirs { left }) => {
                observer.lease(LeaseOutcome::Held);
                Ok(Taken::Theirs(left))
            }
            Err(error) => {
                observer.lease(LeaseOutcome::Unreachable);
                // The lease may be ours all the same, so it is given back if possible.
                let (by, key) = (ports.clone(), key.clone());
                let lease = Lease { nonce, unsettled: false, stored: None, until: AtomicU64::new(0) };
                let give_back = async move { lease.release(&by, &key, true).await };
                ports.spawn("give back a lease that may be ours", give_back);
                Err(error)
            }
        }
    }

    /// Whether nobody else can have it for the `needed` time.
    pub(super) fn outlasts(&self, ports: &Ports, needed: Duration) -> bool {
        let until = ports.monotonic().saturating_add(needed);
        millis(until) < self.until.load(Ordering::Acquire)
    }

    /// Prolongs it again and again, for as long as this is polled; it never completes.
    pub(super) async fn keep(&self, ports: &Arc<Ports>, key: &ConnectionKey) {
        let ttl = ports.settings().lease;
        loop {
            ports.sleep(ttl / PROLONG_AFTER).await;
            let until = ports.monotonic().saturating_add(ttl);
            let repository = ports.repository();
            match repository.extend_lease(LeaseOf::Connection(key), self.nonce, ttl).await {
                Ok(true) => self.until.store(millis(until), Ordering::Release),
                Ok(false) => {
                    ports.deps.observer.lease(LeaseOutcome::Lost);
                    tracing::warn!(
                        app = %key.app, connection = %key.connection,
                        "a lease passed to another replica while a refresh was under way; its answer counts \
                         only if nobody else's was stored"
                    );
                    self.until.store(0, Ordering::Release);
                    return std::future::pending().await;
                }
                Err(error) => tracing::warn!(%error, "a lease could not be prolonged"),
            }
        }
    }

    /// Gives it back. `known`: our own use of the grant has ended, and we know how. (An earlier holder's
    /// intent stays unsettled until an answer is stored.)
    pub(super) async fn release(self, ports: &Arc<Ports>, key: &ConnectionKey, known: bool) {
        let settled = known && !self.unsettled;
        let repository = ports.repository();
        if let Err(error) = repository.release_lease(LeaseOf::Connection(key), self.nonce, settled).await {
            tracing::warn!(%error, "a lease could not be given back; it ends by itself");
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
