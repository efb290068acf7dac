//! A connection that is up, and what is known of it.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{RedisResult, Script};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use super::access::Password;
use super::commands::Commands;
use super::failure::{Verdict, describe};
use super::replication::Replication;
use super::sentinel::Place;
use super::tls::RedisTls;

static PROBE: LazyLock<Script> = LazyLock::new(|| Script::new("return 1"));

/// A connection that was made and checked.
pub(super) struct Live {
    pub(super) connection: MultiplexedConnection,
    pub(super) replication: Replication,
    /// Which it is, among all of this process.
    pub(super) number: u64,
    pub(super) place: Place,
    pub(super) since: Duration,
    /// What it was authenticated with last.
    pub(super) password: Mutex<Option<Password>>,
    /// Why the server runs no scripts for us, where it was seen to run none.
    pub(super) no_scripts: Mutex<Option<Arc<str>>>,
    pub(super) tls: Option<Arc<RedisTls>>,
    /// Ends the task that drives the connection, once nobody uses it any more.
    pub(super) _alive: oneshot::Sender<()>,
}

impl Live {
    pub(super) fn commands(&self) -> Commands {
        let no_scripts = self.no_scripts.lock().clone();
        Commands { connection: self.connection.clone(), asking: false, no_scripts }
    }

    pub(super) fn password(&self) -> MutexGuard<'_, Option<Password>> {
        self.password.lock()
    }

    /// For a slot that is on its way to this node of a Cluster, which another one sent us to.
    pub(super) fn asking(&self) -> Commands {
        Commands { asking: true, ..self.commands() }
    }

    /// Whether the server runs scripts for us; the inner error names what is missing. Until it does, none is
    /// sent.
    pub(super) async fn look_at_scripts(&self, user: &str) -> RedisResult<Result<(), String>> {
        let mut commands = self.connection.clone();
        let cause = match PROBE.prepare_invoke().invoke_async::<i64>(&mut commands).await {
            Ok(_) => None,
            Err(error) if Verdict::of(&error) != Verdict::Fine => return Err(error),
            Err(error) => Some(format!(
                "Redis runs no scripts for us, and every write is one: {}",
                describe(&error, user)
            )),
        };
        let answer = cause.clone().map_or(Ok(()), Err);
        *self.no_scripts.lock() = cause.map(Arc::from);
        Ok(answer)
    }
}
