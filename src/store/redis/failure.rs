//! Failures of Redis: what an error says about its connection, and its text.

use std::time::Duration;

use ::redis::{ErrorKind, RedisError, ServerErrorKind};

use super::config::{Location, RedisConfig};
use crate::domain::text::one_line;
use crate::domain::time::Clock;
use crate::store::StoreError;
use crate::store::keyspace::PREFIX;

/// Tries of one operation whose connections die. Redis ends all connections at once when it reads its ACL
/// file anew (until 7.2), and replacing a password does that twice.
pub(super) const TRIES: u32 = 3;

/// What an error says about its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The connection is gone or not to be trusted. Nobody knows whether the command was executed.
    Lost,
    /// The server did not execute the command and is not the right one now.
    Elsewhere,
    /// The server has too few replicas to accept writes. Asking another server may help; asking again at once
    /// does not.
    TooFewReplicas,
    /// The connection is fine.
    Fine,
}

impl Verdict {
    pub(super) fn of(error: &RedisError) -> Self {
        match error.kind() {
            // A timeout too: a peer that vanished would cost every later operation a timeout.
            ErrorKind::Io | ErrorKind::Parse => return Verdict::Lost,
            ErrorKind::Server(
                ServerErrorKind::ReadOnly
                | ServerErrorKind::BusyLoading
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ClusterDown,
            ) => return Verdict::Elsewhere,
            _ => {}
        }
        match code_of(error).map(|(code, _)| code) {
            Some("UNBLOCKED" | "NOAUTH" | "READONLY" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN") => {
                Verdict::Elsewhere
            }
            Some("NOREPLICAS") => Verdict::TooFewReplicas,
            _ => Verdict::Fine,
        }
    }
}

/// The code of a server's error, and the rest of it. A Redis before 7.0 wraps the error of a command in a
/// script: then it is the inner code.
pub(super) fn code_of(error: &RedisError) -> Option<(&str, &str)> {
    let (code, detail) = (error.code()?, error.detail().unwrap_or_default());
    let within = detail.starts_with("Error running script").then(|| detail.rsplit_once(" -")).flatten();
    let within = within.and_then(|(_, answer)| answer.split_once(' '));
    let is_code = |code: &str| !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_uppercase());
    Some(within.filter(|(code, _)| is_code(code)).unwrap_or((code, detail)))
}

/// The command that was not permitted, in the spelling of Redis' ACLs.
fn refused_command(detail: &str) -> Option<&str> {
    let (before, _) = detail.split_once("' command")?;
    let command = before.rsplit_once('\'')?.1;
    command
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'|' | b'-' | b'_'))
        .then_some(command)
}

/// The right that the user lacks, as a rule of Redis' ACLs (`+get`, `~tokenward:*`), if that is why Redis
/// refused. The inner `None`: it does not say which.
pub(super) fn missing_right(error: &RedisError) -> Option<Option<String>> {
    let (code, detail) = code_of(error)?;
    // (Redis 7 reports this without a code of its own inside a script, and before 8 without the command.)
    if code != "NOPERM" && !detail.contains("user executing the script can't") {
        return None;
    }
    let command = refused_command(detail).map(|command| format!("+{command}"));
    let pattern = || match () {
        () if detail.contains("channel") => Some(format!("&{PREFIX}*")),
        () if detail.contains("key") => Some(format!("~{PREFIX}*")),
        () => None,
    };
    Some(command.or_else(pattern))
}

/// The text of an error, without any stored data: Redis repeats arguments in some of its errors, and the
/// client library repeats answers in some of its own.
pub(super) fn describe(error: &RedisError, user: &str) -> String {
    match error.kind() {
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => {
            return "Redis answered something else".to_owned();
        }
        ErrorKind::Io => return one_line(&error.to_string()),
        OURS => return error.detail().unwrap_or_else(|| error.category()).to_owned(),
        _ => {}
    }
    let Some((code, detail)) = code_of(error) else { return format!("Redis refused: {}", error.category()) };
    let detail = detail.split(", with args").next().unwrap_or_default();
    let missing = missing_right(error);
    let hint = match code {
        _ if missing.is_some() => {
            let right = missing.flatten().map_or_else(
                || {
                    "those of deploy/compose/redis.acl, of which Redis' `ACL LOG` names the one that is \
                    missing"
                        .to_owned()
                },
                |right| format!("`{right}`, as deploy/compose/redis.acl does"),
            );
            format!("user `{user}` lacks a right that this store needs: give it {right}")
        }
        "WRONGPASS" => format!("Redis refused the password of user `{user}`"),
        "NOAUTH" => {
            "Redis asks for a password: give `password_file`, and `username` if it is not `default`".into()
        }
        "READONLY" => "Redis is a replica and takes no writes".into(),
        "NOREPLICAS" => "Redis takes no writes as long as too few replicas are connected to it".into(),
        "LOADING" => "Redis is still loading its data".into(),
        "MOVED" | "ASK" | "CROSSSLOT" => {
            "this is a node of a Redis Cluster, and the configuration speaks of one server: \
             begin `store.url` with `redis+cluster://`, or `rediss+cluster://` for TLS"
                .into()
        }
        "CLUSTERDOWN" => "the Cluster does not serve at the moment".into(),
        "TRYAGAIN" => "the connection is on its way from one node of the Cluster to another".into(),
        "ERR" if detail.contains("cluster support disabled") => {
            "it is no node of a Cluster: begin `store.url` with `redis://`, or `rediss://` for TLS".into()
        }
        "ERR" if detail.starts_with("unknown command") => {
            "Redis does not know a command that this store needs: take it out of `rename-command`, or use \
             Redis 6.2 or later"
                .into()
        }
        "OOM" => "Redis is out of memory (and must not evict: set `maxmemory-policy noeviction`)".into(),
        "MISCONF" => "Redis cannot write to its disk and takes no writes".into(),
        _ => "Redis refused".into(),
    };
    // A server's text may have any length and several lines.
    format!("{hint} ({} {})", one_line(code), one_line(detail))
}

/// The kind of an error with our own text.
pub(super) const OURS: ErrorKind = ErrorKind::Client;

/// The text of a sentinel's error.
pub(super) fn refusal(error: &RedisError, user: &str) -> String {
    match error.code() {
        Some("NOAUTH") => "it asks for a password: give `sentinel_password_file`".to_owned(),
        Some("WRONGPASS") => format!("it refused the password of its user `{user}`"),
        Some("NOPERM") => format!("its user `{user}` may not ask for the primary's address"),
        _ => describe(error, user),
    }
}

/// The error of an operation.
pub(super) fn failure(config: &RedisConfig, doing: &'static str, error: &RedisError) -> StoreError {
    if matches!(code_of(error), Some(("WRONGTYPE", _))) {
        return StoreError::corrupt(doing, "what is stored is of another type");
    }
    if matches!(config.location, Location::Cluster(_)) && matches!(error.code(), Some("MOVED" | "ASK")) {
        return StoreError::unavailable(doing, "the nodes of the Cluster send us to one another in circles");
    }
    let user = config.username.as_deref().unwrap_or("default");
    StoreError::Unavailable { doing, cause: describe(error, user) }
}

/// Bounds an operation.
pub(super) async fn within<T>(
    limit: Duration,
    clock: &dyn Clock,
    doing: &'static str,
    operation: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    tokio::select! {
        biased;
        answer = operation => answer,
        () = clock.sleep(limit) => {
            Err(StoreError::Unavailable { doing, cause: format!("Redis gave no answer within {limit:?}") })
        }
    }
}
