//! What other processes do, as they tell it: one subscription of its own, beside the connection for commands.
//!
//! Each process also hears what it told itself; its messages begin with a random word of its own, and those are skipped.
//! A subscription that broke is made anew, and then [`Change::Missed`] is said first: what was told in between is lost.
//! Nothing rests on these messages alone; they make others look at once where they would have looked within a second.

use std::time::Duration;

use futures_core::Stream as _;
use tokio::sync::{Mutex, watch};

use super::connection::Link;
use crate::domain::id::ConnectionKey;
use crate::domain::random::{Random, random_bytes};
use crate::store::{Change, keyspace};

/// How long after a broken subscription the next one is tried.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) struct Changes {
    own: String,
    subscription: Mutex<Option<Subscription>>,
}

struct Subscription {
    messages: ::redis::aio::PubSub,
    /// The connection for commands: when it is made anew, perhaps to another server, so must this one be.
    commands: watch::Receiver<u64>,
}

impl Changes {
    pub(super) fn new(random: &dyn Random) -> Self {
        let word = random_bytes::<8>(random).iter().map(|byte| format!("{byte:02x}")).collect();
        Changes { own: word, subscription: Mutex::default() }
    }

    /// What this process tells of a connection.
    pub(super) fn message(&self, key: &ConnectionKey) -> String {
        format!("{} {key}", self.own)
    }

    /// The next thing that another process did.
    pub(super) async fn next(&self, link: &Link) -> Change {
        let mut subscription = self.subscription.lock().await;
        let mut commands = link.made();
        loop {
            let Some(open) = subscription.as_mut() else {
                // First the connection for commands: it knows whether this is the store at all.
                let subscribed = match link.acquire().await {
                    Ok(_) => {
                        commands = link.made();
                        commands.mark_unchanged();
                        link.subscribe(keyspace::REDIS_CHANGES).await
                    }
                    Err(cause) => Err(cause),
                };
                match subscribed {
                    Ok(messages) => {
                        *subscription = Some(Subscription { messages, commands });
                        return Change::Missed;
                    }
                    Err(cause) => {
                        tracing::debug!(cause, "changes of other processes are not heard of at once for now");
                        link.clock().sleep(PAUSE).await;
                        continue;
                    }
                }
            };
            let message = {
                let Subscription { messages, commands } = open;
                let mut messages = std::pin::pin!(messages.on_message());
                tokio::select! {
                    message = std::future::poll_fn(|cx| messages.as_mut().poll_next(cx)) => message,
                    _ = commands.changed() => None,
                }
            };
            match message {
                None => *subscription = None,
                Some(message) => {
                    let text = std::str::from_utf8(message.get_payload_bytes()).unwrap_or_default();
                    match text.split_once(' ') {
                        Some((own, _)) if own == self.own => {}
                        Some((_, key)) => match keyspace::parse_key(key) {
                            Some(key) => return Change::Connection(key),
                            None => return Change::Missed,
                        },
                        None => return Change::Missed,
                    }
                }
            }
        }
    }
}
