//! Reports of this replica to the others.

use std::sync::Arc;

use super::jobs::{Ended, Work, ended};
use crate::broker::Broker;

/// Tells the other replicas that this one lives.
pub(super) struct ReplicaReport(pub(super) Arc<Broker>);

impl Work for ReplicaReport {
    async fn run(&mut self) -> Ended {
        report(&self.0).await
    }
}

/// Tells them at once.
pub(super) async fn report(broker: &Broker) -> Ended {
    let reported = broker.report().await;
    if let Err(error) = &reported {
        tracing::debug!(%error, "other replicas could not be told that this one is there");
    }
    ended(reported)
}
