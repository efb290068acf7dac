//! Redis Cluster: which primary has which slot, and how an operation finds the one that has its key.
//!
//! Each primary has a [`Link`] of its own, made and kept like the link to a single server. A link has its own
//! breaker, so a node that is down delays no key of another node. It also counts what was written over it:
//! `WAIT` confirms only what was written over the same connection. The client library's cluster connection
//! may reconnect beneath us, to a node that never saw the write, and `WAIT` would then say yes. So it is not
//! used.
//!
//! - **The map** of slots is asked of all known nodes, starting with those of the configuration
//!   ([`Shared::survey`]). The answer with the latest change counts: Cluster numbers its failovers and moves
//!   (`cluster_current_epoch`), and a node that was cut off answers with an old number. An older map is taken
//!   only if more than half of all nodes answer and none knows a later one: then somebody has made the
//!   Cluster anew.
//! - **When it is asked:** at the start; if a node cannot be reached or says that it does not have the key;
//!   and if a probe ([`Cluster::ping`]) hears of a later change from a primary. `MOVED` corrects one slot at
//!   once.
//! - **While a slot is moved**, `ASK` sends one operation on, with `ASKING` before each command. A script
//!   whose keys are partly moved gets `TRYAGAIN`, and is tried again within its time.
//! - **Reads go to primaries alone:** a link is made only to a node that says it is a primary, and a replica
//!   answers `MOVED` to a client that has not sent `READONLY`.
//!
//! [`super::cluster_identity`] checks that the Cluster still is the same store.

pub(super) mod answers;
mod operation;
mod owners;
mod survey;

use parking_lot::{Mutex, MutexGuard};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ::redis::RedisResult;
use futures_util::future::join_all;
use tokio::sync::watch;

use super::access::Access;
use super::commands::Commands;
use super::config::{Location, RedisConfig};
use super::connection::Link;
use super::failure::within;
use super::identity::Identity;
use super::live::Live;
use super::prerequisites::Risks;
use super::sentinel::Place;
use super::subscription::Subscription;
use crate::domain::random::Random;
use crate::domain::task::Tasks;
use crate::domain::time::Clock;
use crate::flight::Flight;
use crate::store::StoreError;
use crate::store::keyspace::SLOTS;

/// The way to a Cluster.
#[derive(Clone)]
pub(super) struct Cluster(pub(super) Arc<Shared>);

/// This process's knowledge of the store's name.
#[derive(Default)]
pub(super) struct Naming {
    /// The running attempt to learn the name or to give one.
    pub(super) attempt: Mutex<Option<Flight<Result<(), String>>>>,
    /// True if every slot was seen to have the name.
    pub(super) is_whole: AtomicBool,
}

pub(super) struct Shared {
    pub(super) config: RedisConfig,
    access: Arc<Access>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Arc<dyn Random>,
    pub(super) tasks: Arc<dyn Tasks>,
    pub(super) identity: Identity,
    pub(super) naming: Naming,
    seeds: Vec<Place>,
    /// Counts the changes of the set of primaries.
    changed: watch::Sender<u64>,
    /// Never held across an await.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    map: Option<Map>,
    /// All nodes with a link, including those that were only named by a redirect.
    nodes: Vec<Arc<Node>>,
    survey: Option<Flight<Result<(), String>>>,
    /// When the last survey ended, and its outcome.
    surveyed: Option<(Duration, Result<(), String>)>,
    /// The next primary to subscribe at, round robin.
    turn: usize,
    closed: bool,
}

/// The owner of each slot.
struct Map {
    epoch: u64,
    owners: Vec<Option<Arc<Node>>>,
}

/// One primary.
pub(super) struct Node {
    place: Place,
    link: Link,
}

impl Cluster {
    pub(super) fn new(
        config: RedisConfig,
        access: Arc<Access>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        tasks: Arc<dyn Tasks>,
        identity: Identity,
    ) -> Self {
        let seeds = match &config.location {
            Location::Cluster(seeds) => seeds.clone(),
            Location::Server { host, port } => vec![(host.clone(), *port)],
            Location::Sentinels(_) => Vec::new(),
        };
        let seeds = seeds.into_iter().map(|(host, port)| Place { host, port, epoch: 0 }).collect();
        let (changed, state, naming) = (watch::Sender::new(0), Mutex::default(), Naming::default());
        Cluster(Arc::new(Shared {
            config,
            access,
            clock,
            random,
            tasks,
            identity,
            naming,
            seeds,
            changed,
            state,
        }))
    }

    /// Makes the next operations reconnect.
    pub(super) fn renew(&self) {
        for node in &self.0.lock().nodes {
            node.link.renew();
        }
    }

    /// Applies changed files to the connections.
    pub(super) async fn keep_up(&self) {
        let nodes = self.0.lock().nodes.clone();
        join_all(nodes.iter().map(|node| node.link.keep_up())).await;
    }

    /// Makes the next operations reconnect, and forgets earlier failures.
    pub(super) fn retry(&self) {
        let mut state = self.0.lock();
        state.surveyed = None;
        for node in &state.nodes {
            node.link.retry();
        }
    }

    pub(super) fn close(&self) {
        let mut state = self.0.lock();
        state.closed = true;
        state.map = None;
        for node in state.nodes.drain(..) {
            node.link.close();
        }
    }

    /// Runs an operation at the owner of `slot`, within its time. Also returns whether the answer to a try
    /// was lost.
    pub(super) async fn run<T, F>(
        &self,
        doing: &'static str,
        slot: u16,
        operation: impl Fn(&Arc<Live>, Commands) -> F,
    ) -> Result<(T, bool), StoreError>
    where
        F: Future<Output = RedisResult<T>> + Send,
    {
        let limit = self.0.config.operation_timeout;
        within(limit, &*self.0.clock, doing, async {
            self.named(doing).await?;
            self.0.try_nodes(doing, slot, operation).await
        })
        .await
    }

    /// Groups slots by their owner; each group has indexes into `slots`. If a slot was moved since, its group
    /// fails and must be asked for slot by slot.
    pub(super) async fn groups(
        &self,
        doing: &'static str,
        slots: &[u16],
    ) -> Result<Vec<Vec<usize>>, StoreError> {
        let limit = self.0.config.operation_timeout;
        within(limit, &*self.0.clock, doing, async { self.0.groups(doing, slots).await }).await
    }

    /// Succeeds if every primary serves and none knows a later change than we do.
    pub(super) async fn ping(&self, doing: &'static str) -> Result<(), StoreError> {
        let limit = self.0.config.operation_timeout;
        within(limit, &*self.0.clock, doing, async {
            self.name_the_rest(doing).await?;
            let unavailable = |cause| StoreError::Unavailable { doing, cause };
            let mut again = true;
            loop {
                let (epoch, primaries) = self.0.primaries().await.map_err(unavailable)?;
                let (mut cause, mut latest) = (None, epoch);
                for look in join_all(primaries.iter().map(|node| self.0.look(node))).await {
                    match look {
                        Ok(epoch) => latest = latest.max(epoch),
                        Err(failed) => cause = cause.or(Some(failed)),
                    }
                }
                if cause.is_none() && latest <= epoch {
                    break;
                }
                match cause {
                    Some(cause) if !again => return Err(unavailable(cause)),
                    None if !again => break,
                    _ => self.0.refresh().await.map_err(unavailable)?,
                }
                again = false;
            }
            self.believe_some(doing).await
        })
        .await
    }

    /// Returns the risks at each primary, checked again if the last check is old.
    pub(super) async fn look_at_risks(&self) -> Vec<(String, Risks)> {
        let Ok((_, primaries)) = self.0.primaries().await else { return Vec::new() };
        join_all(primaries.iter().map(|node| node.link.look_at_risks())).await;
        primaries.iter().map(|node| node.link.risks()).collect()
    }

    /// Returns the name of each primary, the link to it, and one of its slots.
    pub(super) async fn links(&self) -> Result<Vec<(String, Link, Option<u16>)>, String> {
        let (_, primaries) = self.0.primaries().await?;
        let state = self.0.lock();
        let owners = || (0..SLOTS).zip(state.map.iter().flat_map(|map| &map.owners));
        let slot_of = |node: &Arc<Node>| {
            let is_its = |owner: &Option<Arc<Node>>| owner.as_ref().is_some_and(|one| Arc::ptr_eq(one, node));
            owners().find(|(_, owner)| is_its(owner)).map(|(slot, _)| slot)
        };
        let named = |node: &Arc<Node>| (node.place.to_string(), node.link.clone(), slot_of(node));
        Ok(primaries.iter().map(named).collect())
    }

    /// Returns the latest known change, and one slot of each primary, in order.
    pub(super) async fn nodes(&self, doing: &'static str) -> Result<(u64, Vec<u16>), StoreError> {
        let slots = self.sample().await.map_err(|cause| StoreError::Unavailable { doing, cause })?;
        let epoch = self.0.lock().map.as_ref().map_or(0, |map| map.epoch);
        Ok((epoch, slots))
    }

    /// Returns one slot of each primary.
    pub(super) async fn sample(&self) -> Result<Vec<u16>, String> {
        self.0.mapped().await?;
        let state = self.0.lock();
        let mut seen: Vec<&Arc<Node>> = Vec::new();
        let mut slots = Vec::new();
        for (slot, owner) in (0..SLOTS).zip(state.map.iter().flat_map(|map| &map.owners)) {
            match owner {
                Some(owner) if !seen.iter().any(|node| Arc::ptr_eq(node, owner)) => {
                    seen.push(owner);
                    slots.push(slot);
                }
                _ => {}
            }
        }
        Ok(slots)
    }

    /// Subscribes to a channel, at any primary that answers, since every node passes messages on to all. The
    /// subscription also ends if its node is reconnected to or the set of primaries changes: it may then miss
    /// messages although it is up.
    pub(super) async fn listen(&self, channel: &str) -> Result<Subscription, String> {
        self.0.mapped().await?;
        let mut changed = self.0.changed.subscribe();
        changed.mark_unchanged();
        let (_, primaries) = self.0.primaries().await?;
        let first = {
            let mut state = self.0.lock();
            state.turn = state.turn.wrapping_add(1);
            state.turn
        };
        let mut cause = "the Cluster has no primary".to_owned();
        for number in 0..primaries.len() {
            let node = &primaries[first.wrapping_add(number) % primaries.len()];
            let heard = async {
                node.link.acquire().await?;
                let (mut made, mut renewed) = (node.link.made(), node.link.renewed());
                made.mark_unchanged();
                renewed.mark_unchanged();
                Ok::<_, String>((node.link.subscribe(channel).await?, made, renewed))
            };
            match heard.await {
                Ok((messages, made, renewed)) => {
                    return Ok(Subscription::new(messages, [made, changed], renewed));
                }
                Err(failed) => cause = format!("{}: {failed}", node.place),
            }
        }
        let _who_is_there_now = self.0.refresh().await;
        Err(cause)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn user(&self) -> &str {
        self.config.username.as_deref().unwrap_or("default")
    }
}

pub(super) async fn outcome(flight: Flight<Result<(), String>>) -> Result<(), String> {
    flight.landed().await.unwrap_or_else(|| Err("it was interrupted".to_owned()))
}
