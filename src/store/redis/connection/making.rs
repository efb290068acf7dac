//! Makes a connection: finds the master, authenticates with the present secrets, and checks the server.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, RedisConnectionInfo, RedisError};
use tokio::sync::oneshot;

use super::Shared;
use crate::store::redis::access::Password;
use crate::store::redis::commands::{Commands, check_master};
use crate::store::redis::config::Location;
use crate::store::redis::failure::describe;
use crate::store::redis::live::Live;
use crate::store::redis::meter::LIMITS;
use crate::store::redis::replication::Replication;
use crate::store::redis::sentinel::{Place, survey};
use crate::store::redis::tls::RedisTls;
use crate::store::redis::wire::{Wire, dial};

impl Shared {
    /// Connects to the first place that is a master.
    pub(super) async fn connect(&self) -> Result<Live, String> {
        let limit = self.config.connect_timeout;
        let mut causes = Vec::new();
        for place in self.discover().await? {
            let connect = self.access.by_tls(Some(&self.name), |tls| self.connect_to(&place, tls));
            let connected = tokio::select! {
                biased;
                connected = connect => connected,
                () = self.clock.sleep(limit) => Err(format!("no connection within {limit:?}")),
            };
            match connected {
                Ok(live) => return Ok(live),
                Err(cause) => causes.push(format!("connecting to Redis at {place}: {cause}")),
            }
        }
        Err(causes.join("; "))
    }

    /// Returns the master's place; several, in the order to try, if that is uncertain. The sentinels' own
    /// time limits it.
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
        // Sentinels that were cut off together with an old primary would lead us back to it. But if more than
        // half of all say so, an operator has set them up again, and their count began anew.
        if !survey.agreed && survey.primaries.iter().any(|place| place.epoch < known) {
            return Err("too few sentinels agree, and those know less than was known before".to_owned());
        }
        Ok(survey.primaries)
    }

    pub(super) async fn connect_to(&self, place: &Place, tls: Option<Arc<RedisTls>>) -> Result<Live, String> {
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
        // A server that runs no scripts is connected to all the same: its records can be read.
        let _is_remembered =
            live.look_at_scripts(self.user()).await.map_err(|error| describe(&error, self.user()))?;
        Ok(live)
    }

    pub(super) async fn subscribe(&self, channel: &str) -> Result<::redis::aio::PubSub, String> {
        // Messages count only if they come from the server that gets the commands.
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
        // Nothing is left to send: `enter` has authenticated, where refusals can be told apart.
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let mut subscription = ::redis::aio::PubSub::new(&info, wire).await.map_err(words)?;
        subscription.subscribe(channel).await.map_err(words)?;
        Ok(subscription)
    }

    /// Opens an authenticated connection.
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

    /// Names the connection, and checks that the server is the master of the same store.
    async fn greet(
        &self,
        wire: Box<dyn Wire>,
    ) -> Result<(MultiplexedConnection, oneshot::Sender<()>), String> {
        let words = |error: RedisError| describe(&error, self.user());
        let settings = AsyncConnectionConfig::new().set_response_timeout(Some(self.config.response_timeout));
        // The database and the name are sent below, where refusals can be told apart.
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&info, wire, settings).await.map_err(words)?;
        let mut commands = Commands { connection: connection.clone(), asking: false, no_scripts: None };
        let (alive, ended) = oneshot::channel::<()>();
        self.tasks.spawn(
            "driving the connection to Redis",
            Box::pin(async move {
                // The driver alone would wait for ever for the answers of a peer that vanished.
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
