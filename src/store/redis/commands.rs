//! The receiver of commands: one connection, which everyone shares.

use std::sync::Arc;

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::{Cmd, Pipeline, RedisError, RedisFuture, Value};

use super::failure::OURS;

/// The connection to which an operation sends its commands.
#[derive(Clone)]
pub(super) struct Commands {
    pub(super) connection: MultiplexedConnection,
    /// Whether `ASKING` goes before each command. It counts for the very next command on the connection,
    /// which everyone shares. So both are sent in one piece.
    pub(super) asking: bool,
    /// Why no script is sent: see [`super::prerequisites`].
    pub(super) no_scripts: Option<Arc<str>>,
}

impl ConnectionLike for Commands {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        if let Some(cause) = &self.no_scripts
            && matches!(command.args_iter().next(), Some(::redis::Arg::Simple(b"EVALSHA")))
        {
            let refused = RedisError::from((OURS, "not sent", cause.to_string()));
            return Box::pin(std::future::ready(Err(refused)));
        }
        if !self.asking {
            return self.connection.req_packed_command(command);
        }
        Box::pin(async move {
            let mut both = ::redis::pipe();
            both.cmd("ASKING").add_command(command.clone());
            let answers = self.connection.req_packed_commands(&both, 0, 2).await?;
            Ok(answers.into_iter().next_back().unwrap_or(Value::Nil))
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let answers = if self.asking {
                let mut all = ::redis::pipe();
                let mut commands = 0;
                for command in pipeline.cmd_iter() {
                    all.cmd("ASKING").add_command(command.clone());
                    commands += 1;
                }
                let answers = self.connection.req_packed_commands(&all, 0, 2 * commands).await?;
                answers.into_iter().skip(1).step_by(2).skip(offset).take(count).collect()
            } else {
                self.connection.req_packed_commands(pipeline, offset, count).await?
            };
            // The first error itself: the library's own error of a pipeline does not say to which node we are
            // sent.
            answers.into_iter().map(Value::extract_error).collect()
        })
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}

/// Asks the server for its role. Only a master may serve us: a demoted one would accept reads and show the
/// past.
pub(super) async fn check_master(commands: &mut Commands) -> Result<Result<(), String>, RedisError> {
    let role: Value = ::redis::cmd("ROLE").query_async(commands).await?;
    let role = match &role {
        Value::Array(items) => items.first(),
        _ => None,
    };
    Ok(match role {
        Some(Value::BulkString(role)) if role == b"master" => Ok(()),
        Some(Value::BulkString(role)) if role == b"slave" => {
            Err("it is a replica, not the master".to_owned())
        }
        Some(Value::BulkString(role)) if role == b"sentinel" => {
            Err("it is a Sentinel, which holds no data".to_owned())
        }
        _ => Err("it does not say whether it is a master".to_owned()),
    })
}
