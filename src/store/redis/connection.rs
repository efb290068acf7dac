//! The connection to Redis, and how it comes back.
//!
//! One multiplexed connection serves everyone. When it breaks, or the server behind it says that it is not
//! the one to talk to any more, it is put aside and another one is made: found anew, authenticated with the
//! secrets as they are then, and used only once the server says that it is the master. Operations under way
//! on the old one keep it until they end.
//!
//! - One attempt at a time, in a task of its own: a caller that goes away does not take it along, and those
//!   who need a connection wait for the same one.
//! - Nobody waits longer than one operation may take, and hardly at all once an attempt has failed: from then
//!   on the server counts as down, those who come wait a moment for the attempt under way, and after each
//!   failed one there is a pause, longer each time and with jitter, in which everyone is refused at once with
//!   the attempt's cause.
//! - Nothing tries in the background: the next operation after the pause does, and the readiness probe is
//!   one.
//! - A connection that is up is kept up with the files of [`super::access`]: [`Link::keep_up`].
//!
//! [`Shared::discover`] says where the master is now. With Sentinel that can change while the connection is
//! up and its server sees nothing of it, having been cut off from all but us: [`Link::follow`] asks. In a
//! Cluster each primary has a link of its own, and who owns which slot is known above: [`super::cluster`].

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

/// The pause after failed attempts: short enough that nobody notices a restart of Redis for
/// long, long enough that a thousand replicas do not keep it down.
const PAUSE: Backoff = Backoff { first: Duration::from_millis(50), longest: Duration::from_secs(1) };
/// How long an operation waits for an attempt while the server counts as down. A local server that is back is
/// connected to within this; for one farther away the attempt goes on, and the next operation finds it done.
const PATIENCE_WHILE_DOWN: Duration = Duration::from_millis(100);
/// A connection this young is not put aside because of the server's state: it was judged a moment ago, and a
/// server that refuses writes for lack of replicas would otherwise be reconnected to with every one of them.
const YOUNG: Duration = Duration::from_millis(500);

#[derive(Default)]
struct State {
    live: Option<Arc<Live>>,
    attempt: Option<Flight<Result<Arc<Live>, String>>>,
    failures: u32,
    /// The latest failover that was heard of.
    epoch: u64,
    /// After a failed attempt: its cause, and when the next one may be made.
    pause: Option<(String, Duration)>,
    /// Another connection is being made beside the one in use.
    replacing: bool,
    closed: bool,
    /// What is at risk at the server, when that was looked at, and over which connection.
    risks: Risks,
    looked: Option<(Duration, u64)>,
}

struct Shared {
    config: RedisConfig,
    access: Arc<Access>,
    /// By which this server is known to [`Access`].
    name: String,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    tasks: Arc<dyn Tasks>,
    /// None where this is one node of several, and its name is not all that counts.
    identity: Option<Identity>,
    /// Counts the connections made, for those who must know of each.
    made: watch::Sender<u64>,
    /// Counts how often the connection in use was authenticated anew or replaced by another one to the same
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

    /// The connection, made when there is none. The caller bounds how long it waits.
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

    /// Puts a connection aside, if it is still the one in use; false when it stays.
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

    /// Puts the connection in use aside: the next operation makes one with the secrets as they are then.
    pub(super) fn renew(&self) {
        self.0.lock().live = None;
    }

    pub(super) fn identity(&self) -> Option<&Identity> {
        self.0.identity.as_ref()
    }

    /// Whether the server still is the store that was there before.
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

    /// Changes when the connection in use was authenticated anew or replaced by another one to the same
    /// server.
    pub(super) fn renewed(&self) -> watch::Receiver<u64> {
        self.0.renewed.subscribe()
    }

    /// A connection of its own that hears what is told on a channel.
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

    /// Puts the connection in use aside, and whatever failed before holds up no attempt.
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
                    // From a half to all of it.
                    let pause = jittered(PAUSE.after(state.failures) / 2, 1.0, &*self.random);
                    state.pause = Some((cause.clone(), self.clock.monotonic().saturating_add(pause)));
                }
            }
        }
        landing.land(outcome);
    }

    /// Connects. The first failure of an outage may be none: what ended the connection before may have ended
    /// this one while it was made. So where it comes at once, it is tried once more.
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
