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

use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, ErrorKind, RedisConnectionInfo, RedisError, RedisResult, ServerErrorKind, Value,
};
use futures_util::future::join_all;
use tokio::sync::watch;

use super::access::Access;
use super::asking::until_enough;
use super::commands::{Commands, check_master};
use super::config::{Location, RedisConfig};
use super::connection::Link;
use super::failure::{TRIES, Verdict, describe, failure, within};
use super::identity::Identity;
use super::live::Live;
use super::meter::SLOTS_LIMITS;
use super::prerequisites::Risks;
use super::sentinel::Place;
use super::subscription::Subscription;
use super::tls::RedisTls;
use super::wire::dial;
use crate::domain::random::Random;
use crate::domain::task::Tasks;
use crate::domain::time::Clock;
use crate::flight::Flight;
use crate::store::StoreError;
use crate::store::keyspace::SLOTS;

/// For so long after all were asked nobody is asked again: each operation that fails in an outage would.
const SURVEY_PAUSE: Duration = Duration::from_millis(100);
/// How long an operation waits for the nodes' word once they gave none: see `PATIENCE_WHILE_DOWN` of the
/// connection.
const PATIENCE_WHILE_DOWN: Duration = Duration::from_millis(100);
/// How often one operation is sent on. A failover and a move at the same moment need three.
const MOST_TRIES: u32 = 5;
/// Between two tries of a script whose keys are being moved: that takes milliseconds for one slot.
const TRY_AGAIN: Duration = Duration::from_millis(20);

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

/// What a node says of the Cluster.
struct View {
    epoch: u64,
    serves: bool,
    ranges: Vec<(u16, u16, Place)>,
}

/// Where a node sends us.
pub(super) enum Redirect {
    /// The slot has another owner.
    Moved(Place),
    /// The key is, or will be, at the slot's next owner.
    Ask(Place),
    /// Some of the keys are here and some there.
    TryAgain,
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

    /// Runs an operation, sent on as often as the nodes say so, and again if its answer was lost.
    pub(super) async fn try_nodes<T, F>(
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
                // Perhaps another one has taken its place.
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
                    // How often is bounded by the operation's time alone, being sent to the next owner each
                    // time included.
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

    /// The connection to a node, for half of an operation's time at the most: the other half is for finding
    /// who has taken the place of one that is silent. The attempt goes on, and whoever comes next finds it
    /// done.
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

    /// Looks at one primary; the latest change that it knows of.
    async fn look(&self, node: &Arc<Node>) -> Result<u64, String> {
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

    fn user(&self) -> &str {
        self.config.username.as_deref().unwrap_or("default")
    }

    /// Sees to it that there is a map.
    async fn mapped(self: &Arc<Self>) -> Result<(), String> {
        if self.lock().map.is_some() { Ok(()) } else { self.refresh().await }
    }

    /// Every primary, and the latest change that was heard of. An error when some slot has none.
    async fn primaries(self: &Arc<Self>) -> Result<(u64, Vec<Arc<Node>>), String> {
        self.mapped().await?;
        let find = || {
            let state = self.lock();
            let map = state.map.as_ref()?;
            let mut primaries: Vec<Arc<Node>> = Vec::new();
            for owner in &map.owners {
                let owner = owner.as_ref()?;
                if !primaries.iter().rev().any(|node| Arc::ptr_eq(node, owner)) {
                    primaries.push(Arc::clone(owner));
                }
            }
            Some((map.epoch, primaries))
        };
        if let Some(found) = find() {
            return Ok(found);
        }
        self.refresh().await?;
        find().ok_or_else(|| "some slots of the Cluster are served by nobody".to_owned())
    }

    async fn owner(self: &Arc<Self>, slot: u16) -> Result<Arc<Node>, String> {
        let find = || self.lock().map.as_ref().and_then(|map| map.owners[usize::from(slot)].clone());
        if let Some(owner) = find() {
            return Ok(owner);
        }
        self.refresh().await?;
        find().ok_or_else(|| format!("slot {slot} of the Cluster is served by nobody"))
    }

    pub(super) async fn groups(
        self: &Arc<Self>,
        doing: &'static str,
        slots: &[u16],
    ) -> Result<Vec<Vec<usize>>, StoreError> {
        let mut groups: Vec<(Arc<Node>, Vec<usize>)> = Vec::new();
        for (at, slot) in slots.iter().enumerate() {
            let owner = self.owner(*slot).await.map_err(|cause| StoreError::Unavailable { doing, cause })?;
            match groups.iter_mut().find(|(node, _)| Arc::ptr_eq(node, &owner)) {
                Some((_, group)) => group.push(at),
                None => groups.push((owner, vec![at])),
            }
        }
        Ok(groups.into_iter().map(|(_, group)| group).collect())
    }

    /// Who has a slot instead of this node, if anybody does.
    async fn successor(self: &Arc<Self>, slot: u16, node: &Arc<Node>) -> Option<Arc<Node>> {
        let other = |owner: Arc<Node>| (!Arc::ptr_eq(&owner, node)).then_some(owner);
        // Somebody may have found out already.
        if let Some(owner) = self.owner(slot).await.ok().and_then(other) {
            return Some(owner);
        }
        self.refresh().await.ok()?;
        self.owner(slot).await.ok().and_then(other)
    }

    /// The node at a place, which may be one that has no slot yet.
    fn node(&self, place: Place) -> Result<Arc<Node>, String> {
        let mut state = self.lock();
        if state.closed {
            return Err("the store is closed".to_owned());
        }
        Ok(self.node_of(&mut state, place))
    }

    fn node_of(&self, state: &mut State, place: Place) -> Arc<Node> {
        if let Some(node) = state.nodes.iter().find(|node| node.place.is_same_server(&place)) {
            return Arc::clone(node);
        }
        let mut config = self.config.clone();
        config.location = Location::Server { host: place.host.clone(), port: place.port };
        let (access, clock) = (Arc::clone(&self.access), Arc::clone(&self.clock));
        let (random, tasks) = (Arc::clone(&self.random), Arc::clone(&self.tasks));
        let node = Arc::new(Node { place, link: Link::new(config, access, clock, random, tasks, None) });
        state.nodes.push(Arc::clone(&node));
        node
    }

    /// One slot has another owner.
    fn moved(&self, slot: u16, place: Place) -> Result<Arc<Node>, String> {
        let node = self.node(place)?;
        if let Some(map) = &mut self.lock().map {
            map.owners[usize::from(slot)] = Some(Arc::clone(&node));
        }
        Ok(node)
    }

    /// Asks all nodes who has what, unless that was done a moment ago. One attempt at a time, in a task of
    /// its own.
    async fn refresh(self: &Arc<Self>) -> Result<(), String> {
        let (survey, failed) = {
            let mut state = self.lock();
            if state.closed {
                return Err("the store is closed".to_owned());
            }
            let failed = match &state.surveyed {
                Some((at, outcome)) if self.clock.monotonic().saturating_sub(*at) < SURVEY_PAUSE => {
                    return outcome.clone();
                }
                Some((_, Err(cause))) => Some(cause.clone()),
                _ => None,
            };
            let survey = Flight::join(&mut state.survey, |landing| {
                let shared = Arc::clone(self);
                let survey = async move {
                    let outcome = shared.survey().await;
                    shared.surveyed(outcome.clone());
                    landing.land(outcome);
                };
                self.tasks.spawn("asking the nodes of the Cluster", Box::pin(survey));
            });
            (survey, failed)
        };
        match failed {
            None => outcome(survey).await,
            Some(cause) => tokio::select! {
                biased;
                outcome = outcome(survey) => outcome,
                () = self.clock.sleep(PATIENCE_WHILE_DOWN) => Err(cause),
            },
        }
    }

    fn surveyed(&self, outcome: Result<(), String>) {
        let mut state = self.lock();
        let failed_before = matches!(&state.surveyed, Some((_, Err(_))));
        match &outcome {
            // Once, not with every attempt: an outage is one event.
            Err(cause) if !failed_before => tracing::warn!(cause, "the Cluster cannot be asked who has what"),
            Ok(()) if failed_before => tracing::info!("the Cluster says again who has what"),
            _ => {}
        }
        state.survey = None;
        state.surveyed = Some((self.clock.monotonic(), outcome));
    }

    /// Asks everyone who is known, all at once, until more than half agree on the latest change or all have
    /// answered.
    async fn survey(&self) -> Result<(), String> {
        let places = {
            let state = self.lock();
            let mut places = self.seeds.clone();
            for node in &state.nodes {
                if !places.iter().any(|place| place.is_same_server(&node.place)) {
                    places.push(node.place.clone());
                }
            }
            places
        };
        // So that an operation that has to ask first still ends within its time.
        let limit = self.config.connect_timeout.min(self.config.operation_timeout / 2);
        let asked = places.iter().map(|place| async move {
            tokio::select! {
                biased;
                answer = self.ask(place) => answer,
                () = self.clock.sleep(limit) => Err(format!("no answer within {limit:?}")),
            }
        });
        let answers = until_enough(asked, |answers: &[Option<Result<View, String>>]| {
            let epochs: Vec<u64> = answers.iter().flatten().flatten().map(|view| view.epoch).collect();
            let latest = epochs.iter().max();
            epochs.iter().filter(|epoch| Some(*epoch) == latest).count() > places.len() / 2
        })
        .await;
        let most = answers.iter().flatten().filter(|answer| answer.is_ok()).count() > places.len() / 2;
        let mut causes = Vec::new();
        let mut latest: Option<View> = None;
        for (place, answer) in places.iter().zip(answers) {
            match answer {
                Some(Ok(view)) => {
                    let rank = |view: &View| (view.epoch, view.serves);
                    if latest.as_ref().is_none_or(|latest| rank(latest) < rank(&view)) {
                        latest = Some(view);
                    }
                }
                Some(Err(cause)) => causes.push(format!("{place}: {cause}")),
                None => {}
            }
        }
        let Some(view) = latest else {
            return Err(format!("no node of the Cluster answers: {}", causes.join("; ")));
        };
        self.learn(&view, most)
    }

    /// Takes up what a node says, unless it is of the past.
    fn learn(&self, view: &View, is_most: bool) -> Result<(), String> {
        let mut state = self.lock();
        if state.closed {
            return Err("the store is closed".to_owned());
        }
        if state.map.as_ref().is_some_and(|map| view.epoch < map.epoch) && !is_most {
            return Err(
                "too few nodes of the Cluster answer, and those know less than was known before".to_owned()
            );
        }
        if view.ranges.is_empty() {
            return Err("no node of the Cluster has any slot yet".to_owned());
        }
        let mut owners: Vec<Option<Arc<Node>>> = vec![None; usize::from(SLOTS)];
        let mut primaries: Vec<Arc<Node>> = Vec::new();
        for (first, last, place) in &view.ranges {
            let node = self.node_of(&mut state, place.clone());
            for slot in *first..=(*last).min(SLOTS - 1) {
                owners[usize::from(slot)] = Some(Arc::clone(&node));
            }
            if !primaries.iter().any(|known| Arc::ptr_eq(known, &node)) {
                primaries.push(node);
            }
        }
        let is_primary = |node: &Arc<Node>| primaries.iter().any(|primary| Arc::ptr_eq(primary, node));
        let before = state.map.as_ref().map_or(0, |map| {
            let mut before: Vec<*const Node> = map.owners.iter().flatten().map(Arc::as_ptr).collect();
            before.sort_unstable();
            before.dedup();
            before.len()
        });
        let gone: Vec<Arc<Node>> = state.nodes.extract_if(.., |node| !is_primary(node)).collect();
        for node in &gone {
            tracing::info!(node = %node.place, "a node of the Cluster has no slots any more");
            node.link.close();
        }
        if !gone.is_empty() || before != primaries.len() {
            self.changed.send_modify(|changed| *changed += 1);
        }
        state.map = Some(Map { epoch: view.epoch, owners });
        Ok(())
    }

    /// Asks one node, over a connection that ends with its answer.
    async fn ask(&self, place: &Place) -> Result<View, String> {
        // Some are asked once and never again: their word is not kept.
        self.access.by_tls(None, |tls| self.ask_with(tls, place)).await
    }

    async fn ask_with(&self, tls: Option<Arc<RedisTls>>, place: &Place) -> Result<View, String> {
        let mut wire = dial(tls.as_deref(), &place.host, place.port, SLOTS_LIMITS).await?;
        if let Some(login) = &self.access.password {
            login.say(None, false, &mut *wire).await?;
        }
        let settings = AsyncConnectionConfig::new().set_response_timeout(Some(self.config.response_timeout));
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let words = |error: RedisError| describe(&error, self.user());
        let (mut commands, driver) =
            MultiplexedConnection::new_with_config(&info, wire, settings).await.map_err(words)?;
        let conversation = async {
            let (mut info, mut slots) = (::redis::cmd("CLUSTER"), ::redis::cmd("CLUSTER"));
            info.arg("INFO");
            slots.arg("SLOTS");
            let mut beside = commands.clone();
            let (info, slots) = tokio::join!(
                info.query_async::<String>(&mut commands),
                slots.query_async::<Value>(&mut beside)
            );
            let (epoch, serves) = standing(&info.map_err(words)?);
            let ranges = ranges(&slots.map_err(words)?, &place.host)
                .ok_or_else(|| "it says something else than who has what".to_owned())?;
            Ok(View { epoch, serves, ranges })
        };
        tokio::select! {
            biased;
            answer = conversation => answer,
            () = driver => Err("it hung up".to_owned()),
        }
    }
}

pub(super) async fn outcome(flight: Flight<Result<(), String>>) -> Result<(), String> {
    flight.landed().await.unwrap_or_else(|| Err("it was interrupted".to_owned()))
}

/// Where an error sends an operation on `slot` that was refused at `from`. An error about another slot is
/// none of it: it comes from a pipeline that has to be taken apart.
pub(super) fn redirect(error: &RedisError, slot: u16, from: &Place) -> Option<Redirect> {
    if error.kind() == ErrorKind::Server(ServerErrorKind::TryAgain) {
        return Some(Redirect::TryAgain);
    }
    let (address, _) = error.redirect_node().filter(|(_, of)| *of == slot)?;
    let (host, port) = address.rsplit_once(':')?;
    let host = match host.trim_matches(['[', ']']) {
        // It does not know its own address, or is told not to say it: what we used for it will do.
        "" | "?" => from.host.clone(),
        host => host.to_owned(),
    };
    let place = Place { host, port: port.parse().ok()?, epoch: 0 };
    Some(match error.kind() {
        ErrorKind::Server(ServerErrorKind::Ask) => Redirect::Ask(place),
        _ => Redirect::Moved(place),
    })
}

/// From the answer to `CLUSTER INFO`: the latest change that the node knows of, and whether it serves.
pub(super) fn standing(info: &str) -> (u64, bool) {
    let fields: HashMap<&str, &str> = info.lines().filter_map(|line| line.trim().split_once(':')).collect();
    let epoch = fields.get("cluster_current_epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
    (epoch, fields.get("cluster_state").is_some_and(|state| *state == "ok"))
}

/// From the answer to `CLUSTER SLOTS`: the ranges of slots, and the primary of each.
pub(super) fn ranges(slots: &Value, asked: &str) -> Option<Vec<(u16, u16, Place)>> {
    let Value::Array(rows) = slots else { return None };
    let number = |value: &Value| match value {
        Value::Int(number) => u16::try_from(*number).ok(),
        _ => None,
    };
    rows.iter()
        .map(|row| {
            let Value::Array(row) = row else { return None };
            let [first, last, Value::Array(primary), ..] = row.as_slice() else { return None };
            let [host, port, ..] = primary.as_slice() else { return None };
            let host = match host {
                Value::BulkString(host) => String::from_utf8(host.clone()).ok()?,
                Value::Nil => String::new(),
                _ => return None,
            };
            let host = if matches!(host.as_str(), "" | "?") { asked.to_owned() } else { host };
            Some((number(first)?, number(last)?, Place { host, port: number(port)?, epoch: 0 }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::suite::{CountingRandom, RealClock, RealTasks};

    fn row(first: i64, last: i64, host: Value, port: i64) -> Value {
        let node = Value::Array(vec![host, Value::Int(port), Value::BulkString(b"id".to_vec())]);
        Value::Array(vec![Value::Int(first), Value::Int(last), node.clone(), node])
    }

    #[test]
    fn nobody_leads_back_to_the_past_unless_most_do() {
        let config = RedisConfig::cluster(vec![("seed".to_owned(), 1)]);
        let (clock, random, tasks) =
            (RealClock::shared(), Arc::new(CountingRandom::new()), Arc::new(RealTasks));
        let identity = Identity::new(None).expect("there is no file");
        let access = Arc::new(Access::new(&config, &clock).expect("there is nothing to read"));
        let cluster = Cluster::new(config, access, clock, random, tasks, identity);
        let learn = |epoch, host: &str, is_most| {
            let place = |port| Place { host: host.to_owned(), port, epoch: 0 };
            let ranges = vec![(0, 9999, place(1)), (10000, SLOTS - 1, place(2))];
            cluster.0.learn(&View { epoch, serves: true, ranges }, is_most)
        };
        let owner = |slot: u16| {
            let state = cluster.0.lock();
            let map = state.map.as_ref().expect("was learnt");
            map.owners[usize::from(slot)].as_ref().map(|node| node.place.to_string())
        };
        let mut changed = cluster.0.changed.subscribe();
        learn(5, "a", false).expect("is the first that is heard of");
        assert_eq!((owner(9999), owner(10000)), (Some("a:1".to_owned()), Some("a:2".to_owned())));
        assert!(changed.has_changed().expect("is there"));
        changed.mark_unchanged();
        learn(5, "a", false).expect("is no news");
        assert!(!changed.has_changed().expect("is there"), "nobody is subscribed anew for that");
        assert!(learn(4, "b", false).expect_err("is of the past").contains("know less"));
        assert_eq!(owner(0), Some("a:1".to_owned()));
        learn(6, "c", false).expect("is news");
        assert!(changed.has_changed().expect("is there"));
        assert_eq!((owner(0), cluster.0.lock().nodes.len()), (Some("c:1".to_owned()), 2));
        learn(1, "d", true).expect("was made anew");
        assert_eq!(owner(16383), Some("d:2".to_owned()));
        let moved = Place { host: "e".to_owned(), port: 7, epoch: 0 };
        cluster.0.moved(3, moved).expect("is open");
        assert_eq!((owner(3), owner(4)), (Some("e:7".to_owned()), Some("d:1".to_owned())));
        cluster.close();
        assert!(learn(9, "f", true).is_err());
    }

    #[test]
    fn who_has_what_is_read_and_a_node_without_an_address_is_where_it_was_asked() {
        let host = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let slots = Value::Array(vec![
            row(0, 8191, host("10.0.0.1"), 6379),
            row(8192, 16383, Value::Nil, 6380),
            row(5, 5, host(""), 1),
        ]);
        let read = ranges(&slots, "redis.example").expect("is of the right form");
        let read: Vec<_> =
            read.iter().map(|(first, last, place)| format!("{first}-{last} {place}")).collect();
        assert_eq!(read, ["0-8191 10.0.0.1:6379", "8192-16383 redis.example:6380", "5-5 redis.example:1"]);
        assert!(ranges(&Value::Array(vec![Value::Int(1)]), "x").is_none());
        assert!(ranges(&Value::Okay, "x").is_none());
        assert_eq!(standing("cluster_state:ok\r\ncluster_current_epoch:7\r\n"), (7, true));
        assert_eq!(standing("cluster_state:fail\r\n"), (0, false));
    }
}
