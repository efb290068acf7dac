//! One operation: it is sent to the owner of its slot, and follows redirects from there.

use std::sync::Arc;
use std::time::Duration;

use ::redis::RedisResult;

use super::answers::{Redirect, redirect, standing};
use super::{Node, Shared};
use crate::store::StoreError;
use crate::store::redis::commands::{Commands, check_master};
use crate::store::redis::failure::{TRIES, Verdict, describe, failure};
use crate::store::redis::live::Live;

/// Most tries of one operation. A failover and a move at the same moment need three.
const MOST_TRIES: u32 = 5;
/// Time between two tries of a script whose keys are being moved; one slot takes milliseconds.
const TRY_AGAIN: Duration = Duration::from_millis(20);

impl Shared {
    /// Runs an operation, follows redirects, and tries again if an answer was lost.
    pub(in crate::store::redis) async fn try_nodes<T, F>(
        self: &Arc<Self>,
        doing: &'static str,
        slot: u16,
        operation: impl Fn(&Arc<Live>, Commands) -> F,
    ) -> Result<(T, bool), StoreError>
    where
        F: Future<Output = RedisResult<T>> + Send,
    {
        let unavailable = |cause| StoreError::Unavailable { doing, cause };
        let mut node = self.owner(slot).await.map_err(unavailable)?;
        let (mut asking, mut lost, mut tries) = (false, 0, 0);
        loop {
            tries += 1;
            let live = match self.acquire(&node).await {
                Ok(live) => live,
                // A replica may have taken its place.
                Err(cause) => match self.successor(slot, &node).await {
                    Some(next) if tries < MOST_TRIES => {
                        (node, asking) = (next, false);
                        continue;
                    }
                    _ => return Err(unavailable(cause)),
                },
            };
            let commands = if asking { live.asking() } else { live.commands() };
            let error = match operation(&live, commands).await {
                Ok(answer) => return Ok((answer, lost > 0)),
                Err(error) => error,
            };
            let failed = failure(&self.config, doing, &error);
            match redirect(&error, slot, &node.place) {
                Some(_) if tries >= MOST_TRIES => return Err(failed),
                Some(Redirect::Moved(place)) => {
                    (node, asking) = (self.moved(slot, place).map_err(unavailable)?, false);
                    continue;
                }
                Some(Redirect::Ask(place)) => {
                    (node, asking) = (self.node(place).map_err(unavailable)?, true);
                    continue;
                }
                Some(Redirect::TryAgain) => {
                    self.clock.sleep(TRY_AGAIN).await;
                    // Only the operation's time limits these tries, including the redirects in each.
                    tries = 0;
                    (node, asking) = (self.owner(slot).await.map_err(unavailable)?, false);
                    continue;
                }
                None => {}
            }
            let verdict = Verdict::of(&error);
            let discarded =
                verdict != Verdict::Fine && node.link.discard(&live, verdict, &failed.to_string());
            match verdict {
                Verdict::Fine | Verdict::TooFewReplicas => return Err(failed),
                Verdict::Lost => {
                    lost += 1;
                    if lost >= TRIES {
                        return Err(failed);
                    }
                }
                Verdict::Elsewhere => {
                    let next = self.successor(slot, &node).await;
                    if tries >= MOST_TRIES || next.is_none() && (!discarded || tries > 1) {
                        return Err(failed);
                    }
                    (node, asking) = (next.unwrap_or(node), false);
                }
            }
        }
    }

    /// Returns the connection to a node within half of an operation's time. The other half is for finding the
    /// successor of a silent node. The attempt continues, and a later operation finds it done.
    async fn acquire(&self, node: &Node) -> Result<Arc<Live>, String> {
        let limit = self.config.operation_timeout / 2;
        tokio::select! {
            biased;
            live = node.link.acquire() => live,
            () = self.clock.sleep(limit) => {
                Err(format!("connecting to Redis at {}: no connection within {limit:?}", node.place))
            }
        }
    }

    /// Checks one primary, and returns the latest change that it knows.
    pub(super) async fn look(&self, node: &Arc<Node>) -> Result<u64, String> {
        let live = self.acquire(node).await?;
        let mut commands = live.commands();
        let mut beside = commands.clone();
        let mut info = ::redis::cmd("CLUSTER");
        info.arg("INFO");
        let (role, info) = tokio::join!(check_master(&mut commands), info.query_async::<String>(&mut beside));
        let at = |cause| format!("{}: {cause}", node.place);
        let (role, info) = match (role, info) {
            (Ok(role), Ok(info)) => (role, info),
            (Err(error), _) | (_, Err(error)) => {
                let verdict = Verdict::of(&error);
                let cause = at(describe(&error, self.user()));
                if verdict != Verdict::Fine {
                    node.link.discard(&live, verdict, &cause);
                }
                return Err(cause);
            }
        };
        role.map_err(|cause| {
            node.link.renew();
            at(cause)
        })?;
        let runs_scripts = live.look_at_scripts(self.user()).await;
        runs_scripts.map_err(|error| at(describe(&error, self.user())))?.map_err(at)?;
        let (epoch, serves) = standing(&info);
        if serves { Ok(epoch) } else { Err(at("the Cluster does not serve at the moment".to_owned())) }
    }
}
