//! Makes the faults of a plan, repairs them, and records both.

use parking_lot::Mutex as StdMutex;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use entra_emulator::{Endpoint, FaultRule};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::ledger::{Effect, FaultRecord};
use crate::plan::{Planned, Side, Weather, What};
use crate::proxy::{Conditions, Link};
use crate::redis::Server;
use crate::world::{World, now};

/// How long a store of several servers may take until it is whole again.
const WHOLE: Duration = Duration::from_secs(40);
/// Replicas lag this long before the primary that they follow is killed.
const LAG: Duration = Duration::from_millis(400);

/// Makes faults. Each part of the world has one fault at a time; those that find theirs busy wait.
pub struct Maker {
    world: Arc<World>,
    daemons: Vec<Mutex<()>>,
    clocks: Vec<Mutex<()>>,
    store_links: Vec<Mutex<()>>,
    authority_links: Vec<Mutex<()>>,
    store: Mutex<()>,
    authority: Mutex<()>,
    done: StdMutex<Vec<FaultRecord>>,
    broken: AtomicBool,
}

impl Maker {
    /// A maker of faults in this world.
    pub fn new(world: Arc<World>) -> Arc<Self> {
        let each = || world.replicas.iter().map(|_| Mutex::new(())).collect();
        Arc::new(Maker {
            daemons: each(),
            clocks: each(),
            store_links: each(),
            authority_links: each(),
            store: Mutex::new(()),
            authority: Mutex::new(()),
            done: StdMutex::default(),
            broken: AtomicBool::new(false),
            world,
        })
    }

    /// Makes every fault of a plan at its time, and waits until the last one is mended.
    ///
    /// # Errors
    /// When something could not be mended: what follows would say nothing.
    pub async fn make_all(
        self: Arc<Self>,
        plan: Vec<Planned>,
        say: impl Fn(String),
    ) -> io::Result<Vec<FaultRecord>> {
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for planned in plan {
            sleep(planned.after.saturating_sub(begun.elapsed())).await;
            say(format!("{} on replica {} for {:?}", planned.kind(), planned.replica, planned.lasts));
            let maker = self.clone();
            tasks.spawn(async move { maker.make(planned).await });
        }
        let mut outcome = Ok(());
        while let Some(ended) = tasks.join_next().await {
            outcome = outcome.and(ended.map_err(io::Error::other).flatten());
        }
        outcome?;
        let mut done = std::mem::take(&mut *self.done.lock());
        done.sort_by_key(|fault| (fault.started, fault.number));
        Ok(done)
    }

    async fn make(&self, planned: Planned) -> io::Result<()> {
        let index = usize::from(planned.replica);
        let lock = match &planned.what {
            What::Kill | What::Stop => &self.daemons[index],
            What::Clock(_) => &self.clocks[index],
            What::Link(Side::Store, _) => &self.store_links[index],
            What::Link(Side::Authority, _) => &self.authority_links[index],
            What::RedisKill | What::RedisEmpty | What::RedisSuffixLoss | What::RedisStop => &self.store,
            // Rules of one kind at a time, so that each can be withdrawn by itself.
            What::Authority(..) => &self.authority,
        };
        let _mine = lock.lock().await;
        if self.broken.load(Ordering::Relaxed) {
            return Ok(());
        }
        let started = now();
        let outcome = self.strike(&planned, index).await;
        let ended = now();
        self.broken.fetch_or(outcome.is_err(), Ordering::Relaxed);
        let (effect, replica, detail) = outcome?;
        let record = FaultRecord {
            number: planned.number,
            kind: planned.kind(),
            effect,
            replica,
            started,
            ended,
            detail,
        };
        self.done.lock().push(record);
        // A server that comes back takes its place among the others by and by: that explains nothing any
        // more, but the next fault of the store waits for it.
        if effect == Effect::Store { self.wait_until_whole().await } else { Ok(()) }
    }

    async fn strike(&self, planned: &Planned, index: usize) -> io::Result<(Effect, Option<u8>, String)> {
        let world = &self.world;
        let replica = &world.replicas[index];
        let one = Some(planned.replica);
        Ok(match &planned.what {
            What::Kill => {
                replica.kill();
                sleep(planned.lasts).await;
                replica.start().await?;
                (Effect::Down, one, String::new())
            }
            What::Stop => {
                replica.freeze(true);
                sleep(planned.lasts).await;
                replica.freeze(false);
                (Effect::Stopped, one, String::new())
            }
            What::Clock(seconds) => {
                replica.set_clock(*seconds)?;
                sleep(planned.lasts).await;
                replica.set_clock(0)?;
                (Effect::Clock, one, format!("{seconds:+} s"))
            }
            What::Link(Side::Store, weather) => {
                let links: Vec<&Link> = world.store_links[index].iter().collect();
                trouble(&links, *weather, planned.lasts).await;
                (Effect::StoreLink, one, format!("{weather:?}"))
            }
            What::Link(Side::Authority, weather) => {
                trouble(&[&world.authority_links[index]], *weather, planned.lasts).await;
                (Effect::AuthorityLink, one, format!("{weather:?}"))
            }
            What::Authority(fault, times) => {
                let rule =
                    FaultRule::new(Endpoint::Token, fault.clone()).grant_type("refresh_token").times(*times);
                world.entra.faults().inject(rule.clone());
                sleep(planned.lasts).await;
                world.entra.faults().withdraw(&rule);
                (Effect::Authority, None, format!("at most {times} times"))
            }
            What::RedisKill | What::RedisEmpty | What::RedisSuffixLoss | What::RedisStop => {
                let detail = self.strike_store(&planned.what, planned.lasts, index).await?;
                (Effect::Store, None, detail)
            }
        })
    }

    async fn strike_store(&self, what: &What, lasts: Duration, index: usize) -> io::Result<String> {
        let redis = &self.world.redis;
        let alone = redis.sentinels.is_empty();
        let primary = redis.primary().ok_or_else(|| io::Error::other("no primary before a fault"))?;
        let others: Vec<&Server> = redis.nodes.iter().filter(|node| node.port != primary.port).collect();
        match what {
            What::RedisStop => {
                primary.freeze(true);
                sleep(lasts).await;
                primary.freeze(false);
            }
            What::RedisEmpty if alone => {
                primary.kill();
                primary.hide_data(true)?;
                primary.launch()?;
                sleep(lasts).await;
                primary.kill();
                primary.hide_data(false)?;
                primary.launch()?;
            }
            What::RedisEmpty => {
                let node = others[index % others.len().max(1)];
                node.kill();
                node.hide_data(true)?;
                sleep(lasts).await;
                node.launch()?;
            }
            What::RedisSuffixLoss => {
                others.iter().for_each(|node| node.freeze(true));
                sleep(LAG).await;
                primary.kill();
                others.iter().for_each(|node| node.freeze(false));
                self.wait_for_another(primary.port).await?;
                sleep(lasts).await;
                primary.launch()?;
            }
            _ => {
                primary.kill();
                if !alone {
                    self.wait_for_another(primary.port).await?;
                }
                sleep(lasts).await;
                primary.launch()?;
            }
        }
        Ok(format!("server on {}", primary.port))
    }

    async fn wait_for_another(&self, port: u16) -> io::Result<()> {
        self.wait("no failover", move |world| {
            world.redis.primary().is_some_and(|primary| primary.port != port)
        })
        .await
    }

    async fn wait_until_whole(&self) -> io::Result<()> {
        self.wait("the store is not whole again", |world| world.redis.is_whole()).await
    }

    async fn wait(
        &self,
        otherwise: &str,
        ready: impl Fn(&World) -> bool + Copy + Send + 'static,
    ) -> io::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < WHOLE {
            let world = self.world.clone();
            if tokio::task::spawn_blocking(move || ready(&world)).await.map_err(io::Error::other)? {
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
        Err(io::Error::other(otherwise.to_owned()))
    }
}

async fn trouble(links: &[&Link], weather: Weather, lasts: Duration) {
    let conditions = match weather {
        Weather::Cut => Conditions::cut(true, true),
        Weather::CutUp => Conditions::cut(true, false),
        Weather::CutDown => Conditions::cut(false, true),
        Weather::Slow(delay) => Conditions::slow(delay),
        Weather::Reset => Conditions::refuse(),
        Weather::HalfOpen => Conditions::default(),
        Weather::Drip => Conditions::drip(3, Duration::from_millis(20)),
    };
    for link in links {
        link.set(conditions.clone());
        match weather {
            Weather::Reset => link.reset(),
            Weather::HalfOpen => link.orphan(),
            _ => {}
        }
    }
    sleep(lasts).await;
    for link in links {
        link.heal();
    }
}
