//! Redis Cluster: which primary has which slot, and how an operation finds the one that has its key.
//!
//! Each primary has a [`Link`] of its own, made and kept like the one to a single server: with its own
//! breaker, so that a node that is down holds up nobody whose key is elsewhere, and with its own count of
//! what was written over it. That is why this is not the client library's own cluster connection: `WAIT`
//! answers for what was written over *its* connection, and a connection that was changed beneath us, to a
//! node that never saw the write, would answer yes.
//!
//! - **Who has what** is asked of all nodes that are known, those of the configuration first of all
//!   ([`Shared::survey`]). Of those that answer, the one that knows of the latest change counts: Cluster
//!   numbers its failovers and moves (`cluster_current_epoch`), and a node that was cut off tells of the
//!   past. Nobody leads us back to it, unless more than half of all answer and none knows better: then
//!   somebody has made the Cluster anew.
//! - **When it is asked:** at the start; when a node cannot be reached or says that it is not the one to ask;
//!   and when a probe ([`Cluster::ping`]) hears of a later change from any primary. `MOVED` corrects one slot
//!   at once.
//! - **While a slot is moved**, `ASK` sends one operation on, with `ASKING` before each command. A script
//!   whose keys are not all on one side yet is told `TRYAGAIN`, and tries again within its time.
//! - **Reads go to primaries alone:** only one that says it is one is talked to, and a replica answers
//!   `MOVED` to whoever has not said `READONLY`.
//!
//! Whether what answers is the store that it was: [`super::cluster_identity`].

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

/// How far this process is with the store's name.
#[derive(Default)]
pub(super) struct Naming {
    /// The one attempt to learn it, or to give it.
    pub(super) attempt: Mutex<Option<Flight<Result<(), String>>>>,
    /// It was seen that every slot was given it.
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
    /// Counts how often the primaries became others.
    changed: watch::Sender<u64>,
    /// Never held across an await.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    map: Option<Map>,
    /// Every node that there is a link to, the ones that only moves lead to included.
    nodes: Vec<Arc<Node>>,
    survey: Option<Flight<Result<(), String>>>,
    /// When all were asked last, and with what outcome.
    surveyed: Option<(Duration, Result<(), String>)>,
    /// Whose turn it is to be listened to.
    turn: usize,
    closed: bool,
}

/// Who has what.
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

    /// Makes the next operations connect anew.
    pub(super) fn renew(&self) {
        for node in &self.0.lock().nodes {
            node.link.renew();
        }
    }

    /// Sees to it that each connection goes by what the files hold now.
    pub(super) async fn keep_up(&self) {
        let nodes = self.0.lock().nodes.clone();
        join_all(nodes.iter().map(|node| node.link.keep_up())).await;
    }

    /// Makes the next operations connect anew, and whatever failed before holds up nothing.
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

    /// Runs an operation on keys of one slot, where it is, within its time. Also says whether the answer to a
    /// try was lost.
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

    /// Groups slots by who has them now: each group is a list of places within `slots`. What is grouped
    /// wrongly, because it was moved since, fails and has to be asked for one by one.
    pub(super) async fn groups(
        &self,
        doing: &'static str,
        slots: &[u16],
    ) -> Result<Vec<Vec<usize>>, StoreError> {
        let limit = self.0.config.operation_timeout;
        within(limit, &*self.0.clock, doing, async { self.0.groups(doing, slots).await }).await
    }

    /// Answers once every primary serves, and no node knows of a later change than we do.
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

    /// What is at risk at each primary, looked at where that is long ago.
    pub(super) async fn look_at_risks(&self) -> Vec<(String, Risks)> {
        let Ok((_, primaries)) = self.0.primaries().await else { return Vec::new() };
        join_all(primaries.iter().map(|node| node.link.look_at_risks())).await;
        primaries.iter().map(|node| node.link.risks()).collect()
    }

    /// The latest change that is known of, and a slot of each primary, in order.
    pub(super) async fn nodes(&self, doing: &'static str) -> Result<(u64, Vec<u16>), StoreError> {
        let slots = self.sample().await.map_err(|cause| StoreError::Unavailable { doing, cause })?;
        let epoch = self.0.lock().map.as_ref().map_or(0, |map| map.epoch);
        Ok((epoch, slots))
    }

    /// One slot of each primary.
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

    /// A connection that hears what is told on a channel: every node tells everyone, so any will do that
    /// answers. And what says that it may hear nothing any more, though it is up: its node is connected to
    /// anew, or the primaries are others.
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
