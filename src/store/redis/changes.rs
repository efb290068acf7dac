//! Messages about other processes' changes: one subscription, beside the connection for commands.
//!
//! Each process also receives its own messages; they begin with a random word of its own and are skipped. A
//! broken subscription is made anew, and then [`Change::Missed`] comes first, since messages in between are
//! lost. If the password or the files of TLS were replaced, the subscription is used until there is another:
//! as long as it is subscribed, Redis takes no AUTH over it. Nothing depends on messages alone. They only
//! make other replicas check at once instead of within a second.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::Mutex;

use super::subscription::Subscription;
use super::way::Way;
use crate::domain::id::ConnectionKey;
use crate::domain::random::{Random, random_bytes};
use crate::store::{Change, keyspace};

/// How long after a broken subscription the next one is tried.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) struct Changes {
    own: String,
    subscription: Mutex<Option<Subscription>>,
}

impl Changes {
    pub(super) fn new(random: &dyn Random) -> Self {
        let word = hex::encode(random_bytes::<8>(random));
        Changes { own: word, subscription: Mutex::default() }
    }

    /// The message about a connection.
    pub(super) fn message(&self, key: &ConnectionKey) -> String {
        format!("{} {key}", self.own)
    }

    /// The next change of another process.
    pub(super) async fn next(&self, link: &Way) -> Change {
        let mut subscription = self.subscription.lock().await;
        loop {
            let Some(open) = subscription.as_mut() else {
                match listen(link).await {
                    Ok(open) => {
                        *subscription = Some(open);
                        return Change::Missed;
                    }
                    Err(cause) => {
                        tracing::debug!(cause, "changes of other processes are not heard of at once for now");
                        link.clock().sleep(PAUSE).await;
                        continue;
                    }
                }
            };
            if open.successor.is_some_and(|from| from <= link.clock().monotonic()) {
                match listen(link).await {
                    Ok(successor) => {
                        *subscription = Some(successor);
                        return Change::Missed;
                    }
                    Err(cause) => {
                        tracing::debug!(cause, "the subscription of before is kept for now");
                        open.successor = Some(link.clock().monotonic().saturating_add(PAUSE));
                    }
                }
            }
            let message = {
                let Subscription { messages, elsewhere: [one, other], renewed, successor } = open;
                let mut messages = std::pin::pin!(messages.on_message());
                tokio::select! {
                    message = messages.next() => message,
                    _ = one.changed() => None,
                    _ = other.changed() => None,
                    Ok(()) = renewed.changed() => {
                        *successor = Some(link.clock().monotonic());
                        continue;
                    }
                    () = link.clock().sleep(PAUSE), if successor.is_some() => continue,
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

async fn listen(link: &Way) -> Result<Subscription, String> {
    match link {
        Way::One(link) => {
            // The connection for commands first: it knows whether this is the right store at all.
            link.acquire().await?;
            let (mut made, mut renewed) = (link.made(), link.renewed());
            made.mark_unchanged();
            renewed.mark_unchanged();
            let messages = link.subscribe(keyspace::REDIS_CHANGES).await?;
            Ok(Subscription::new(messages, [made.clone(), made], renewed))
        }
        Way::Cluster(cluster) => cluster.listen(keyspace::REDIS_CHANGES).await,
    }
}
