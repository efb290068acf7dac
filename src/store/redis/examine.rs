//! What can be seen of Redis from here, for an operator who asks what is wrong: whether it can be reached,
//! which version it is, how it is set up, what its user may do, and what time it has.
//!
//! Nothing is decided here, and the store is not taken into use: it gets no name, and none is remembered. To
//! see what the user may do, a script writes two keys with names of their own and removes them.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use ::redis::aio::ConnectionLike;
use ::redis::{Cmd, RedisError, Script, Value};

use super::access::Access;
use super::cluster::Cluster;
use super::config::{Location, RedisConfig};
use super::connection::Link;
use super::failure::describe;
use super::identity::Identity;
use super::live::Live;
use super::prerequisites;
use crate::domain::random::{Random, random_bytes};
use crate::domain::task::Tasks;
use crate::domain::text::one_line;
use crate::domain::time::{Clock, Timestamp};
use crate::store::keyspace::{PREFIX, REDIS_IDENTITY};
use crate::store::observed::Risk;

/// What one server showed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerSeen {
    /// Its address, or what it is among others.
    pub server: String,
    /// Its version, as it says it.
    pub version: Option<String>,
    /// Its clock, and this process's own at that moment.
    pub clocks: Option<(Timestamp, Timestamp)>,
    /// True if it keeps an append-only file; unknown if it does not say.
    pub appends: Option<bool>,
    /// The risks that the daemon would report, in words.
    pub risks: Vec<(Risk, String)>,
    /// Rights that the user lacks, as Redis' ACLs spell them; empty if none was seen to be missing.
    pub missing: BTreeSet<String>,
    /// Why no script runs, if none does.
    pub no_scripts: Option<String>,
    /// True if it holds a store of tokenward. A node of a Cluster does as soon as it holds anything.
    pub is_named: bool,
}

/// Connects to Redis, looks at each server that the store would use, and leaves.
///
/// # Errors
/// No server can be reached; in words, with what to do.
pub async fn examine(
    mut config: RedisConfig,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    tasks: Arc<dyn Tasks>,
) -> Result<Vec<ServerSeen>, String> {
    (config.identity_file, config.observer) = (None, None);
    let access = Arc::new(Access::new(&config, &clock)?);
    let limit = config.connect_timeout + config.operation_timeout;
    let (has_failover, is_node) = match config.location {
        Location::Server { .. } => (false, false),
        Location::Sentinels(_) => (true, false),
        Location::Cluster(_) => (true, true),
    };
    let way = match &config.location {
        Location::Cluster(_) => {
            let nameless = Identity::new(None).map_err(|error| error.to_string())?;
            let parts = (clock.clone(), random.clone(), tasks);
            Links::Cluster(Cluster::new(config, access, parts.0, parts.1, parts.2, nameless))
        }
        _ => Links::One(Link::new(config, access, clock.clone(), random.clone(), tasks, None)),
    };
    let look = async {
        let mut seen = Vec::new();
        for (server, link) in way.links().await? {
            let live = link.acquire().await.map_err(|cause| with_server(&server, &cause))?;
            let setup = (has_failover, is_node);
            seen.push(look_at(server, &live, link.user(), setup, &*clock, &*random).await);
        }
        Ok(seen)
    };
    let seen = tokio::select! {
        biased;
        seen = look => seen,
        () = clock.sleep(limit) => Err(format!("Redis gave no answer within {limit:?}")),
    };
    way.close();
    seen
}

enum Links {
    One(Link),
    Cluster(Cluster),
}

impl Links {
    async fn links(&self) -> Result<Vec<(String, Link)>, String> {
        match self {
            Links::One(link) => Ok(vec![(link.risks().0, link.clone())]),
            Links::Cluster(cluster) => cluster.links().await,
        }
    }

    fn close(&self) {
        match self {
            Links::One(link) => link.close(),
            Links::Cluster(cluster) => cluster.close(),
        }
    }
}

fn with_server(server: &str, cause: &str) -> String {
    if cause.contains(server) { cause.to_owned() } else { format!("{server}: {cause}") }
}

async fn look_at(
    server: String,
    live: &Arc<Live>,
    user: &str,
    (has_failover, is_node): (bool, bool),
    clock: &dyn Clock,
    random: &dyn Random,
) -> ServerSeen {
    let mut commands = live.commands();
    let mut seen = ServerSeen {
        server,
        no_scripts: live.no_scripts.lock().as_ref().map(ToString::to_string),
        ..ServerSeen::default()
    };
    let mut info = ::redis::pipe();
    // One at a time: Redis 6.2 takes no more.
    for section in ["server", "memory", "persistence", "replication"] {
        info.cmd("INFO").arg(section);
    }
    let told = info.query_async::<Vec<String>>(&mut commands).await;
    let now = clock.now();
    match told {
        Ok(told) => read_info(&told.concat(), has_failover, now, &mut seen),
        Err(error) => {
            if let Some(right) = missing_right(&error) {
                seen.missing.insert(right);
            }
            seen.risks.push((Risk::Unknown, describe(&error, user)));
        }
    }
    seen.is_named = if is_node { holds_anything(&mut commands).await } else { is_named(&mut commands).await };
    if seen.no_scripts.is_none() {
        rights(&mut commands, random, &mut seen.missing).await;
    }
    seen
}

async fn is_named(commands: &mut impl ConnectionLike) -> bool {
    let name = ::redis::cmd("GET").arg(REDIS_IDENTITY).query_async::<Option<String>>(commands).await;
    // (One that cannot be read may be there.)
    !matches!(name, Ok(None))
}

/// The name of a store in a Cluster is in every slot, so a node that serves one has keys.
async fn holds_anything(commands: &mut impl ConnectionLike) -> bool {
    let keys = ::redis::cmd("SCAN").arg(0).query_async::<(u64, Vec<Vec<u8>>)>(commands).await;
    !matches!(keys, Ok((0, keys)) if keys.is_empty())
}

/// Reads the answers to `INFO`.
fn read_info(info: &str, has_failover: bool, now: Timestamp, seen: &mut ServerSeen) {
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'))
            .filter(|value| !value.is_empty())
    };
    // (Valkey says the version of Redis that it follows there, and its own elsewhere.)
    seen.version = field("redis_version").map(one_line);
    let theirs = field("server_time_usec").and_then(|micros| micros.parse::<i64>().ok());
    seen.clocks = theirs.map(|micros| (Timestamp::from_unix_millis(micros / 1000), now));
    seen.appends = field("aof_enabled").map(|word| word != "0");
    seen.risks = prerequisites::risks(info, has_failover, now.unix_seconds()).into_iter().collect();
}

/// Tries what the store does, on keys that nobody else has. A command within a script needs the same right as
/// one alone.
static RIGHTS: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"local missing = {}
        local function try(name, ...)
            local answer = redis.pcall(...)
            if type(answer) ~= 'table' or not answer.err then return end
            -- (A store that is full, say, refuses too; that is no missing right.)
            local why = string.lower(answer.err)
            local is_right = string.find(why, 'noperm', 1, true) or string.find(why, 'execut', 1, true)
            if is_right then missing[#missing + 1] = name end
        end
        local a, b = KEYS[1], KEYS[2]
        try('del', 'DEL', a, b)
        if #missing > 0 then return missing end
        try('set', 'SET', a, 'x', 'PX', 10000)
        try('get', 'GET', a)
        try('getrange', 'GETRANGE', a, 0, 1)
        try('exists', 'EXISTS', a)
        try('pttl', 'PTTL', a)
        try('getdel', 'GETDEL', a)
        try('zadd', 'ZADD', b, 0, 'm')
        try('zscore', 'ZSCORE', b, 'm')
        try('zrangebylex', 'ZRANGEBYLEX', b, '-', '+', 'LIMIT', 0, 1)
        try('zrangebyscore', 'ZRANGEBYSCORE', b, 0, 1, 'LIMIT', 0, 1)
        try('zrem', 'ZREM', b, 'm')
        redis.pcall('DEL', a, b)
        return missing",
    )
});

/// Notes the rights that are missing. What cannot be asked is not noted.
async fn rights(commands: &mut impl ConnectionLike, random: &dyn Random, missing: &mut BTreeSet<String>) {
    let name = hex::encode(random_bytes::<8>(random));
    // One slot: both keys have the same tag.
    let key = |which: &str| format!("{PREFIX}doctor:{{{name}}}:{which}");
    let script = RIGHTS.key(key("a")).key(key("b")).invoke_async::<Vec<String>>(commands).await;
    match script {
        Ok(lacking) => missing.extend(lacking),
        Err(error) => missing.extend(missing_right(&error)),
    }
    let (mut scan, mut wait, mut publish) =
        (::redis::cmd("SCAN"), ::redis::cmd("WAIT"), ::redis::cmd("PUBLISH"));
    scan.arg(0).arg("MATCH").arg(key("a")).arg("COUNT").arg(1);
    wait.arg(0).arg(1);
    publish.arg(format!("{PREFIX}doctor")).arg("");
    for command in [scan, wait, publish] {
        let command: Cmd = command;
        if let Err(error) = command.query_async::<Value>(commands).await {
            missing.extend(missing_right(&error));
        }
    }
}

/// The right that a refused command needs, if that is why it was refused.
fn missing_right(error: &RedisError) -> Option<String> {
    let words = describe(error, "");
    let right = words.split_once("give it `+").and_then(|(_, rest)| rest.split_once('`'));
    right.map(|(right, _)| right.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_says_version_time_and_how_it_is_set_up() {
        let now = Timestamp::from_unix_seconds(1_800_000_000);
        let info = "redis_version:7.2.4\r\nserver_time_usec:1800000600000000\r\nmaxmemory:100\r\n\
                    maxmemory_policy:allkeys-lru\r\naof_enabled:0\r\n";
        let mut seen = ServerSeen::default();
        read_info(info, false, now, &mut seen);
        assert_eq!(seen.version.as_deref(), Some("7.2.4"));
        assert_eq!(seen.clocks, Some((now.plus(std::time::Duration::from_secs(600)), now)));
        assert_eq!(seen.appends, Some(false));
        assert_eq!(seen.risks.iter().map(|(risk, _)| *risk).collect::<Vec<_>>(), [Risk::Eviction]);
        let mut nothing = ServerSeen::default();
        read_info("", false, now, &mut nothing);
        assert_eq!(nothing, ServerSeen::default(), "what is not said is not known");
    }
}
