//! The survey: all nodes are asked for the map of slots, and the latest map is taken.

use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, RedisConnectionInfo, RedisError, Value};

use super::answers::{ranges, standing};
use super::{Map, Node, Shared, outcome};
use crate::flight::Flight;
use crate::store::keyspace::SLOTS;
use crate::store::redis::asking::until_enough;
use crate::store::redis::failure::describe;
use crate::store::redis::meter::SLOTS_LIMITS;
use crate::store::redis::sentinel::Place;
use crate::store::redis::tls::RedisTls;
use crate::store::redis::wire::dial;

/// No survey begins so soon after another: in an outage every failing operation would begin one.
const SURVEY_PAUSE: Duration = Duration::from_millis(100);
/// Wait for a survey after one has failed; see `PATIENCE_WHILE_DOWN` of the connection.
const PATIENCE_WHILE_DOWN: Duration = Duration::from_millis(100);

/// One node's view of the Cluster.
struct View {
    epoch: u64,
    serves: bool,
    ranges: Vec<(u16, u16, Place)>,
}

impl Shared {
    /// Makes a survey, unless one ended a moment ago. One runs at a time, in a task of its own.
    pub(super) async fn refresh(self: &Arc<Self>) -> Result<(), String> {
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

    /// Asks all known nodes at once, until more than half agree on the latest change or all have answered.
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
        // An operation that needs a survey first still ends within its time.
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

    /// Takes a node's view as the map, unless it is outdated.
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
        // Some nodes are asked only once, so what they say of our files is not recorded.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::redis::access::Access;
    use crate::store::redis::cluster::Cluster;
    use crate::store::redis::config::RedisConfig;
    use crate::store::redis::identity::Identity;
    use crate::store::suite::{CountingRandom, RealClock, RealTasks};

    #[test]
    fn nobody_leads_back_to_the_past_unless_most_do() {
        let config = RedisConfig::cluster(vec![("seed".to_owned(), 1)]);
        let (clock, random, tasks) =
            (RealClock::shared(), Arc::new(CountingRandom::new()), Arc::new(RealTasks));
        let identity = Identity::new(None, false).expect("there is no file");
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
}
