//! A subscription to other processes' messages, and when it may have become useless.

use std::time::Duration;

use tokio::sync::watch;

/// One subscription.
pub(super) struct Subscription {
    pub(super) messages: ::redis::aio::PubSub,
    /// When one of these changes, this subscription may get no more messages: the connection for commands is
    /// made anew, perhaps to another server; or the primaries of a Cluster are others.
    pub(super) elsewhere: [watch::Receiver<u64>; 2],
    /// When this changes, the connection for commands uses other secrets than this one.
    pub(super) renewed: watch::Receiver<u64>,
    /// When a replacement may be tried, if one is needed.
    pub(super) successor: Option<Duration>,
}

impl Subscription {
    pub(super) fn new(
        messages: ::redis::aio::PubSub,
        elsewhere: [watch::Receiver<u64>; 2],
        renewed: watch::Receiver<u64>,
    ) -> Self {
        Subscription { messages, elsewhere, renewed, successor: None }
    }
}
