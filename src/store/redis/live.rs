//! An open connection, and what is known of it.

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
    /// Its number, among all of this process.
    pub(super) number: u64,
    pub(super) place: Place,
    pub(super) since: Duration,
    /// The content with which it was last authenticated.
    pub(super) password: Mutex<Option<Password>>,
    /// Why the server runs no scripts for us, if that was noticed.
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

    /// The same connection for a slot that is moving to this node, when another node sent us here.
    pub(super) fn asking(&self) -> Commands {
        Commands { asking: true, ..self.commands() }
    }

    /// Checks whether the server runs scripts for us; the inner error names the missing right. Until it does,
    /// no script is sent.
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
