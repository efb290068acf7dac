//! The connection to Redis, and how it comes back.
//!
//! One multiplexed connection serves all operations. If it breaks, or its server says that it is no longer
//! the master, it is put aside and another one is made: the master is found again, the present secrets are
//! used, and the server must say that it is the master. Running operations keep the old connection until they
//! end.
//!
//! - One attempt runs at a time, in a task of its own. A caller that gives up does not end it, and all that
//!   need a connection wait for the same attempt.
//! - An operation waits for at most its own time. After a failed attempt the server counts as down: an
//!   operation then waits only a moment for the running attempt. Between attempts there is a pause, longer
//!   each time and with jitter; during it all operations fail at once with the attempt's cause.
//! - No attempt is made in the background: the next operation after the pause makes it. The readiness probe
//!   is such an operation.
//! - A connection that is up follows the files of [`super::access`]: [`Link::keep_up`].
//!
//! [`Shared::discover`] finds the master. With Sentinel the master can change while the connection is up, if
//! its server is cut off from all but us: [`Link::follow`] asks the sentinels. In a Cluster each primary has
//! a link of its own, and [`super::cluster`] knows the owner of each slot.

mod making;
mod upkeep;

use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::access::Access;
use super::commands::Commands;
use super::config::{Location, RedisConfig};
use super::failure::Verdict;
use super::identity::Identity;
use super::live::Live;
use super::prerequisites::Risks;
use crate::domain::backoff::{Backoff, jittered};
use crate::domain::random::Random;
use crate::domain::task::Tasks;
use crate::domain::time::Clock;
use crate::flight::{Flight, Landing};

/// Pause after failed attempts: short enough that a restart of Redis is over soon, long enough that a
/// thousand replicas do not keep it down.
const PAUSE: Backoff = Backoff { first: Duration::from_millis(50), longest: Duration::from_secs(1) };
/// An operation's wait for an attempt while the server counts as down. A local server that is back is
/// connected to within this; for a farther one the attempt continues, and the next operation finds it done.
const PATIENCE_WHILE_DOWN: Duration = Duration::from_millis(100);
/// A connection this young is not put aside because of its server's state, which was checked a moment ago.
/// Otherwise a server that refuses writes for lack of replicas would be reconnected to with each of them.
const YOUNG: Duration = Duration::from_millis(500);

#[derive(Default)]
struct State {
    live: Option<Arc<Live>>,
    attempt: Option<Flight<Result<Arc<Live>, String>>>,
    failures: u32,
    /// The latest known failover.
    epoch: u64,
    /// After a failed attempt: its cause, and when the next attempt may begin.
    pause: Option<(String, Duration)>,
    /// Another connection is being made beside the one in use.
    replacing: bool,
    closed: bool,
    /// The risks at the server; when they were checked, and over which connection.
    risks: Risks,
    looked: Option<(Duration, u64)>,
}

struct Shared {
    config: RedisConfig,
    access: Arc<Access>,
    /// The server's name in [`Access`].
    name: String,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    tasks: Arc<dyn Tasks>,
    /// None for one node of several, whose name alone does not identify the store.
    identity: Option<Identity>,
    /// Counts the connections made.
    made: watch::Sender<u64>,
    /// Counts how often the connection in use was authenticated again, or replaced by another one to the same
    /// server.
    renewed: watch::Sender<u64>,
    /// Never held across an await.
    state: Mutex<State>,
}

/// The way to Redis.
#[derive(Clone)]
pub(super) struct Link(Arc<Shared>);

impl Link {
    pub(super) fn new(
        config: RedisConfig,
        access: Arc<Access>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        tasks: Arc<dyn Tasks>,
        identity: Option<Identity>,
    ) -> Self {
        let name = match &config.location {
            Location::Server { host, port } => format!("{host}:{port}"),
            _ => "the primary".to_owned(),
        };
        let (made, renewed, state) = (watch::Sender::new(0), watch::Sender::new(0), Mutex::default());
        Link(Arc::new(Shared { config, access, name, clock, random, tasks, identity, made, renewed, state }))
    }

    pub(super) fn config(&self) -> &RedisConfig {
        &self.0.config
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.0.clock
    }

    /// Returns the connection, made if there is none. The caller limits the wait.
    pub(super) async fn acquire(&self) -> Result<Arc<Live>, String> {
        let (attempt, down) = {
            let mut state = self.0.lock();
            if state.closed {
                return Err("the store is closed".to_owned());
            }
            if let Some(live) = &state.live {
                return Ok(Arc::clone(live));
            }
            let pause = state.pause.clone();
            if let Some((cause, until)) = &pause
                && !state.attempt.as_ref().is_some_and(Flight::is_under_way)
                && self.0.clock.monotonic() < *until
            {
                return Err(cause.clone());
            }
            let attempt = Flight::join(&mut state.attempt, |landing| {
                self.0.tasks.spawn("connecting to Redis", Box::pin(Arc::clone(&self.0).attempt(landing)));
            });
            (attempt, pause.map(|(cause, _)| cause))
        };
        let outcome =
            async { attempt.landed().await.unwrap_or_else(|| Err("connecting was interrupted".to_owned())) };
        match down {
            None => outcome.await,
            Some(cause) => tokio::select! {
                biased;
                outcome = outcome => outcome,
                () = self.0.clock.sleep(PATIENCE_WHILE_DOWN) => Err(cause),
            },
        }
    }

    /// Puts a connection aside if it is the one in use. Returns false if it stays.
    pub(super) fn discard(&self, live: &Arc<Live>, verdict: Verdict, cause: &str) -> bool {
        let mut state = self.0.lock();
        if !state.live.as_ref().is_some_and(|current| Arc::ptr_eq(current, live)) {
            return true; // somebody did already
        }
        let age = self.0.clock.monotonic().saturating_sub(live.since);
        if verdict != Verdict::Lost && age < YOUNG {
            return false;
        }
        state.live = None;
        tracing::warn!(cause, "the connection to Redis is given up");
        true
    }

    pub(super) fn user(&self) -> &str {
        self.0.user()
    }

    /// Puts the connection in use aside: the next operation makes one with the secrets of then.
    pub(super) fn renew(&self) {
        self.0.lock().live = None;
    }

    pub(super) fn identity(&self) -> Option<&Identity> {
        self.0.identity.as_ref()
    }

    /// Checks that the server still is the same store.
    pub(super) async fn check_identity(
        &self,
        commands: &mut Commands,
    ) -> ::redis::RedisResult<Result<(), String>> {
        self.0.check_identity(commands).await
    }

    /// Changes with every connection that is made.
    pub(super) fn made(&self) -> watch::Receiver<u64> {
        self.0.made.subscribe()
    }

    /// Changes when the connection in use was authenticated again, or replaced by another one to the same
    /// server.
    pub(super) fn renewed(&self) -> watch::Receiver<u64> {
        self.0.renewed.subscribe()
    }

    /// Makes a connection of its own that is subscribed to a channel.
    pub(super) async fn subscribe(&self, channel: &str) -> Result<::redis::aio::PubSub, String> {
        if self.0.lock().closed {
            return Err("the store is closed".to_owned());
        }
        let limit = self.0.config.connect_timeout;
        tokio::select! {
            biased;
            made = self.0.subscribe(channel) => made,
            () = self.0.clock.sleep(limit) => Err(format!("no connection within {limit:?}")),
        }
    }

    /// Puts the connection in use aside, and forgets earlier failures.
    pub(super) fn retry(&self) {
        let mut state = self.0.lock();
        state.live = None;
        state.pause = None;
    }

    pub(super) fn close(&self) {
        let mut state = self.0.lock();
        state.closed = true;
        state.live = None;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    async fn check_identity(&self, commands: &mut Commands) -> ::redis::RedisResult<Result<(), String>> {
        match &self.identity {
            Some(identity) => identity.check(commands, &*self.random).await,
            None => Ok(Ok(())),
        }
    }

    async fn attempt(self: Arc<Self>, landing: Landing<Result<Arc<Live>, String>>) {
        let outcome = self.connect_once_more().await.map(Arc::new);
        {
            let mut state = self.lock();
            state.attempt = None;
            match &outcome {
                Ok(live) => {
                    if state.failures > 0 {
                        tracing::info!(failures = state.failures, "connected to Redis again");
                    }
                    state.failures = 0;
                    state.epoch = live.place.epoch;
                    state.pause = None;
                    self.made.send_modify(|made| *made += 1);
                    if !state.closed {
                        state.live = Some(Arc::clone(live));
                    }
                }
                Err(cause) => {
                    // Once, not with every attempt: an outage is one event.
                    if state.failures == 0 {
                        tracing::warn!(cause, "Redis cannot be reached");
                    }
                    state.failures = state.failures.saturating_add(1);
                    // A random part of it, at least half.
                    let pause = jittered(PAUSE.after(state.failures) / 2, 1.0, &*self.random);
                    state.pause = Some((cause.clone(), self.clock.monotonic().saturating_add(pause)));
                }
            }
        }
        landing.land(outcome);
    }

    /// Connects. The first failure of an outage may not mean that the server is down: what ended the last
    /// connection may have ended this one too. So an immediate first failure is tried once more.
    async fn connect_once_more(&self) -> Result<Live, String> {
        let began = self.clock.monotonic();
        let is_first = self.lock().failures == 0;
        match self.connect().await {
            Err(_) if is_first && self.clock.monotonic().saturating_sub(began) < PAUSE.first => {
                self.connect().await
            }
            outcome => outcome,
        }
    }

    fn user(&self) -> &str {
        self.config.username.as_deref().unwrap_or("default")
    }
}
