//! A subscription to what other processes tell, and when it may be of use no more.

use std::time::Duration;

use tokio::sync::watch;

/// One subscription.
pub(super) struct Subscription {
    pub(super) messages: ::redis::aio::PubSub,
    /// When one of these changes, this may be a subscription where nothing is told any more: the connection
    /// for commands is made anew, perhaps to another server; the primaries of a Cluster are others.
    pub(super) elsewhere: [watch::Receiver<u64>; 2],
    /// When this changes, the connection for commands goes by other secrets than this one.
    pub(super) renewed: watch::Receiver<u64>,
    /// When another one may be tried in place of this, if one is needed.
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
