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

use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, RedisConnectionInfo, RedisError};
use tokio::sync::{oneshot, watch};

use super::access::{Access, Password};
use super::commands::{Commands, check_master};
use super::config::{Location, RedisConfig};
use super::failure::{Verdict, describe};
use super::identity::Identity;
use super::live::Live;
use super::meter::LIMITS;
use super::prerequisites::{self, Risks};
use super::replication::Replication;
use super::sentinel::{Place, survey};
use super::tls::RedisTls;
use super::wire::{Wire, dial};
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

    /// Looks at what else Redis must be, where the last look is long ago or was at another connection.
    pub(super) async fn look_at_risks(&self) {
        let (live, now) = (self.0.lock().live.clone(), self.0.clock.monotonic());
        let Some(live) = live else { return };
        let is_fresh = |(at, number): (Duration, u64)| {
            number == live.number && now.saturating_sub(at) < prerequisites::LOOK
        };
        if self.0.lock().looked.is_some_and(is_fresh) {
            return;
        }
        let has_failover =
            !matches!(self.0.config.location, Location::Server { .. }) || self.0.identity.is_none();
        let mut commands = live.commands();
        let wall = self.0.clock.now().unix_seconds();
        if let Some(risks) = prerequisites::look(&mut commands, self.0.user(), has_failover, wall).await {
            let mut state = self.0.lock();
            (state.risks, state.looked) = (risks, Some((now, live.number)));
        }
    }

    /// What was found then, and at which server.
    pub(super) fn risks(&self) -> (String, Risks) {
        (self.0.name.clone(), self.0.lock().risks.clone())
    }

    pub(super) fn user(&self) -> &str {
        self.0.user()
    }

    /// Puts the connection in use aside: the next operation makes one with the secrets as they are then.
    pub(super) fn renew(&self) {
        self.0.lock().live = None;
    }

    /// Asks the sentinels, if there are any, whether the connection in use is to the primary they name, and
    /// puts it aside if it is not: true then. Sentinels that say nothing change nothing.
    pub(super) async fn follow(&self) -> bool {
        let Location::Sentinels(sentinels) = &self.0.config.location else { return false };
        let Some(live) = self.0.lock().live.clone() else { return false };
        let known = live.place.epoch;
        let Ok(survey) = survey(&self.0.access, sentinels, known, self.clock()).await else { return false };
        let Some(named) = survey.primaries.first() else { return false };
        let stays = survey.primaries.iter().any(|named| named.is_same_server(&live.place));
        if stays || (named.epoch <= known && !survey.agreed) {
            return false;
        }
        let mut state = self.0.lock();
        if state.live.as_ref().is_some_and(|current| Arc::ptr_eq(current, &live)) {
            state.live = None;
            tracing::warn!(left = %live.place, named = %named, "the sentinels name another primary");
        }
        true
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

    /// Sees to it that the connection in use, if there is one, goes by what the files hold now. What is
    /// refused leaves it as it is.
    pub(super) async fn keep_up(&self) {
        let Some(live) = self.0.lock().live.clone() else { return };
        let Shared { access, name, .. } = &*self.0;
        if let Some(login) = &access.password {
            let in_use = live.password().clone();
            if let Some(password) = login.due(name, in_use.as_ref()) {
                let mut commands = live.commands();
                match login.auth(&password).exec_async(&mut commands).await {
                    Ok(()) => {
                        login.accepted(name, &password);
                        *live.password() = Some(password);
                        self.0.renewed.send_modify(|renewed| *renewed += 1);
                    }
                    Err(error) if Verdict::of(&error) == Verdict::Lost => {
                        self.discard(&live, Verdict::Lost, &login.describe(&error));
                        return;
                    }
                    Err(error) => login.refused(name, &password, &error),
                }
            }
        }
        if let Some(tls) = &access.tls
            && let Some(due) = tls.due(name, live.tls.as_ref())
            && !std::mem::replace(&mut self.0.lock().replacing, true)
        {
            let replace = Arc::clone(&self.0).replace(live, due);
            self.0.tasks.spawn("replacing the connection to Redis", Box::pin(replace));
        }
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

    /// Makes a connection beside one that is in use, to the same server and with other files of TLS, and puts
    /// it in its place. What is under way ends on the old one. If it cannot be made the old one stays.
    async fn replace(self: Arc<Self>, old: Arc<Live>, with: Arc<RedisTls>) {
        let limit = self.config.connect_timeout;
        let made = tokio::select! {
            biased;
            made = self.connect_to(&old.place, Some(Arc::clone(&with))) => made,
            () = self.clock.sleep(limit) => Err(format!("no connection within {limit:?}")),
        };
        let tls = self.access.tls.as_ref();
        let mut state = self.lock();
        state.replacing = false;
        if !state.live.as_ref().is_some_and(|current| Arc::ptr_eq(current, &old)) {
            return; // another one was needed meanwhile
        }
        match made {
            Ok(live) => {
                state.live = Some(Arc::new(live));
                drop(state);
                tls.inspect(|tls| tls.accepted(&self.name, &with));
                self.renewed.send_modify(|renewed| *renewed += 1);
            }
            Err(cause) => {
                drop(state);
                tls.inspect(|tls| tls.refused(&self.name, &with, cause));
            }
        }
    }

    /// Where the master is; several places when there is doubt, to be tried in this order. Bounded by the
    /// sentinels' own time.
    async fn discover(&self) -> Result<Vec<Place>, String> {
        let sentinels = match &self.config.location {
            Location::Server { host, port } => {
                return Ok(vec![Place { host: host.clone(), port: *port, epoch: 0 }]);
            }
            Location::Sentinels(sentinels) => sentinels,
            Location::Cluster(_) => return Err("a Cluster is many places".to_owned()),
        };
        let known = self.lock().epoch;
        let survey = survey(&self.access, sentinels, known, &*self.clock).await?;
        // Who was cut off together with an old primary would lead us back to it. But if more than half of all
        // say so, an operator has set them up anew, and their count with them.
        if !survey.agreed && survey.primaries.iter().any(|place| place.epoch < known) {
            return Err("too few sentinels agree, and those know less than was known before".to_owned());
        }
        Ok(survey.primaries)
    }

    /// Connects to the first master there is.
    async fn connect(&self) -> Result<Live, String> {
        let limit = self.config.connect_timeout;
        let mut causes = Vec::new();
        for place in self.discover().await? {
            let connected = tokio::select! {
                biased;
                connected = self.access.by_tls(Some(&self.name), |tls| self.connect_to(&place, tls)) => connected,
                () = self.clock.sleep(limit) => Err(format!("no connection within {limit:?}")),
            };
            match connected {
                Ok(live) => return Ok(live),
                Err(cause) => causes.push(format!("connecting to Redis at {place}: {cause}")),
            }
        }
        Err(causes.join("; "))
    }

    async fn connect_to(&self, place: &Place, tls: Option<Arc<RedisTls>>) -> Result<Live, String> {
        let (wire, password) = self.enter(place, tls.as_deref()).await?;
        let (connection, alive) = self.greet(wire).await?;
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let live = Live {
            connection,
            replication: Replication::default(),
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            place: place.clone(),
            since: self.clock.monotonic(),
            password: Mutex::new(password),
            no_scripts: Mutex::default(),
            tls,
            _alive: alive,
        };
        // One that runs none is connected to all the same: what it holds can be read.
        let _is_remembered =
            live.look_at_scripts(self.user()).await.map_err(|error| describe(&error, self.user()))?;
        Ok(live)
    }

    async fn subscribe(&self, channel: &str) -> Result<::redis::aio::PubSub, String> {
        // Where the commands go: what is told elsewhere is nobody's business here.
        let place = self.lock().live.as_ref().map(|live| live.place.clone());
        let place = place.ok_or_else(|| "there is no connection for commands".to_owned())?;
        self.access.by_tls(Some(&self.name), |tls| self.subscribe_at(&place, tls, channel)).await
    }

    async fn subscribe_at(
        &self,
        place: &Place,
        tls: Option<Arc<RedisTls>>,
        channel: &str,
    ) -> Result<::redis::aio::PubSub, String> {
        let (wire, _) = self.enter(place, tls.as_deref()).await?;
        let words = |error: RedisError| describe(&error, self.user());
        // Everything was said where refusals can be told apart.
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let mut subscription = ::redis::aio::PubSub::new(&info, wire).await.map_err(words)?;
        subscription.subscribe(channel).await.map_err(words)?;
        Ok(subscription)
    }

    fn user(&self) -> &str {
        self.config.username.as_deref().unwrap_or("default")
    }

    /// A connection over which anything may be said.
    async fn enter(
        &self,
        place: &Place,
        tls: Option<&RedisTls>,
    ) -> Result<(Box<dyn Wire>, Option<Password>), String> {
        let mut wire = dial(tls, &place.host, place.port, LIMITS).await?;
        let password = match &self.access.password {
            Some(login) => Some(login.say(Some(&self.name), false, &mut *wire).await?),
            None => None,
        };
        Ok((wire, password))
    }

    /// Says who we are, and asks who it is.
    async fn greet(
        &self,
        wire: Box<dyn Wire>,
    ) -> Result<(MultiplexedConnection, oneshot::Sender<()>), String> {
        let words = |error: RedisError| describe(&error, self.user());
        let settings = AsyncConnectionConfig::new().set_response_timeout(Some(self.config.response_timeout));
        // Everything is said below, where refusals can be told apart.
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&info, wire, settings).await.map_err(words)?;
        let mut commands = Commands { connection: connection.clone(), asking: false, no_scripts: None };
        let (alive, ended) = oneshot::channel::<()>();
        self.tasks.spawn(
            "driving the connection to Redis",
            Box::pin(async move {
                // Without the second one a peer that vanished would keep the task: it waits for answers.
                tokio::select! {
                    () = driver => {}
                    _dropped = ended => {}
                }
            }),
        );
        if self.config.database != 0 {
            let mut select = ::redis::cmd("SELECT");
            select.arg(self.config.database).exec_async(&mut commands).await.map_err(words)?;
        }
        let mut name = ::redis::cmd("CLIENT");
        name.arg("SETNAME").arg(&self.config.client_name);
        name.exec_async(&mut commands).await.map_err(words)?;
        check_master(&mut commands).await.map_err(words)??;
        self.check_identity(&mut commands).await.map_err(words)??;
        Ok((connection, alive))
    }
}
