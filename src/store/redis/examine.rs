//! What can be seen of Redis from here, for an operator who asks what is wrong: whether it can be reached,
//! which version it is, how it is set up, what its user may do, and what time it has.
//!
//! Nothing is decided here, and the store is not taken into use: it gets no name, and none is remembered. To
//! see what the user may do, a script writes two keys with names of their own and removes them.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use ::redis::aio::ConnectionLike;
use ::redis::{Cmd, Script, Value};

use super::access::Access;
use super::cluster::Cluster;
use super::config::{Location, RedisConfig};
use super::connection::Link;
use super::failure::{describe, missing_right};
use super::identity::{FOREIGN, Identity, is_foreign};
use super::live::Live;
use super::prerequisites;
use crate::domain::random::{Random, random_bytes};
use crate::domain::task::Tasks;
use crate::domain::text::one_line;
use crate::domain::time::{Clock, Timestamp};
use crate::store::keyspace::{PREFIX, REDIS_IDENTITY, slot_tag};
use crate::store::observed::Risk;

/// What was seen of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Each of its primaries.
    pub servers: Vec<ServerSeen>,
    /// Whether it has a name, and whether that is the right one.
    pub name: StoreName,
}

/// What the store's name shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreName {
    /// There is none, and none is remembered: the first start gives it one.
    None,
    /// There is one, and it is the one that this machine remembers, if it remembers one.
    Known,
    /// It is not the store that was there before; in words, with what to do.
    Another(String),
    /// It could not be read, for this reason.
    Unknown(String),
}

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
    /// Rules of Redis' ACLs that the user lacks (`+get`); empty if none was seen to be missing.
    pub missing: BTreeSet<String>,
    /// Why no script runs, if none does.
    pub no_scripts: Option<String>,
}

/// Connects to Redis, looks at each server that the store would use, and leaves.
///
/// # Errors
/// No server can be reached, or the file that remembers the store's name cannot be read; in words, with what
/// to do.
pub async fn examine(
    mut config: RedisConfig,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    tasks: Arc<dyn Tasks>,
) -> Result<Found, String> {
    let remembered =
        Identity::new(config.identity_file.take(), true).map_err(|error| error.to_string())?.known();
    config.observer = None;
    config.only_reads = true;
    let access = Arc::new(Access::new(&config, &clock)?);
    let limit = config.connect_timeout + config.operation_timeout;
    let has_failover = !matches!(config.location, Location::Server { .. });
    let way = match &config.location {
        Location::Cluster(_) => {
            let nameless = Identity::new(None, true).map_err(|error| error.to_string())?;
            let parts = (clock.clone(), random.clone(), tasks);
            Links::Cluster(Cluster::new(config, access, parts.0, parts.1, parts.2, nameless))
        }
        _ => Links::One(Link::new(config, access, clock.clone(), random.clone(), tasks, None)),
    };
    let look = async {
        let mut seen = Vec::new();
        for (server, link, slot) in way.links().await? {
            let live = link.acquire().await.map_err(|cause| with_server(&server, &cause))?;
            seen.push(look_at(server, &live, link.user(), (has_failover, slot), &*clock, &*random).await);
        }
        Ok(seen)
    };
    let no_answer = || format!("Redis gave no answer within {limit:?}");
    let servers = tokio::select! {
        biased;
        seen = look => seen,
        () = clock.sleep(limit) => Err(no_answer()),
    };
    let name = match &servers {
        Err(cause) => StoreName::Unknown(cause.clone()),
        Ok(_) => tokio::select! {
            biased;
            found = way.found_name() => name_seen(found, remembered.as_deref()),
            () = clock.sleep(limit) => StoreName::Unknown(no_answer()),
        },
    };
    way.close();
    Ok(Found { servers: servers?, name })
}

/// The name that was found, and why it is not the store of that name, if it is not.
type FoundName = (Option<String>, Option<String>);

fn name_seen(found: Result<FoundName, String>, remembered: Option<&str>) -> StoreName {
    match found {
        Err(cause) => StoreName::Unknown(cause),
        Ok((_, Some(lost))) => StoreName::Another(lost),
        Ok((found, None)) if is_foreign(remembered, found.as_deref()) => {
            StoreName::Another(FOREIGN.to_owned())
        }
        Ok((None, None)) => StoreName::None,
        Ok((Some(_), None)) => StoreName::Known,
    }
}

enum Links {
    One(Link),
    Cluster(Cluster),
}

impl Links {
    /// Each primary, and one of its slots, if it is of a Cluster.
    async fn links(&self) -> Result<Vec<(String, Link, Option<u16>)>, String> {
        match self {
            Links::One(link) => Ok(vec![(link.risks().0, link.clone(), None)]),
            Links::Cluster(cluster) => cluster.links().await,
        }
    }

    async fn found_name(&self) -> Result<FoundName, String> {
        match self {
            Links::One(link) => {
                let mut commands = link.acquire().await?.commands();
                let name = ::redis::cmd("GET").arg(REDIS_IDENTITY).query_async(&mut commands).await;
                Ok((name.map_err(|error| describe(&error, link.user()))?, None))
            }
            Links::Cluster(cluster) => {
                let found = cluster.found_name("asking which store this is").await;
                found.map_err(|error| error.to_string())
            }
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
    (has_failover, slot): (bool, Option<u16>),
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
            seen.missing.extend(missing_right(&error).flatten());
            seen.risks.push((Risk::Unknown, describe(&error, user)));
        }
    }
    if seen.no_scripts.is_none() {
        rights(&mut commands, slot, random, &mut seen.missing).await;
    }
    seen
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

/// How each right to a key is tried: `a` and `b` are keys that nobody else has.
const TRIALS: &[(&str, &[&str])] = &[
    ("del", &["DEL", "a", "b"]),
    ("set", &["SET", "a", "x", "PX", "10000"]),
    ("get", &["GET", "a"]),
    ("getrange", &["GETRANGE", "a", "0", "1"]),
    ("exists", &["EXISTS", "a"]),
    ("pttl", &["PTTL", "a"]),
    ("getdel", &["GETDEL", "a"]),
    ("zadd", &["ZADD", "b", "0", "m"]),
    ("zscore", &["ZSCORE", "b", "m"]),
    ("zrangebylex", &["ZRANGEBYLEX", "b", "-", "+", "LIMIT", "0", "1"]),
    ("zrangebyscore", &["ZRANGEBYSCORE", "b", "0", "1", "LIMIT", "0", "1"]),
    ("zrem", &["ZREM", "b", "m"]),
];

/// Tries them. A command within a script needs the same right as one alone. Without the right to remove its
/// keys, nothing else is tried.
static RIGHTS: LazyLock<Script> = LazyLock::new(|| {
    let trial = |(right, words): &(&str, &[&str])| {
        let words = words.iter().map(|word| match *word {
            "a" | "b" => (*word).to_owned(),
            word => format!("'{word}'"),
        });
        format!("try('{right}', {})\n", words.collect::<Vec<_>>().join(", "))
    };
    let mut trials = TRIALS.iter().map(trial);
    let (first, rest) = (trials.next().unwrap_or_default(), trials.collect::<String>());
    Script::new(&format!(
        r"local missing = {{}}
        local function try(name, ...)
            local answer = redis.pcall(...)
            if type(answer) ~= 'table' or not answer.err then return end
            -- (A store that is full, say, refuses too; that is no missing right.)
            local why = string.lower(answer.err)
            local is_right = string.find(why, 'noperm', 1, true) or string.find(why, 'execut', 1, true)
            if is_right then missing[#missing + 1] = name end
        end
        local a, b = KEYS[1], KEYS[2]
        {first}
        if #missing > 0 then return missing end
        {rest}
        redis.pcall('DEL', a, b)
        return missing"
    ))
});

/// Notes the rights that are missing. What cannot be asked is not noted. A node of a Cluster is asked with
/// keys of one of its own slots, since each node has rights of its own.
async fn rights(
    commands: &mut impl ConnectionLike,
    slot: Option<u16>,
    random: &dyn Random,
    missing: &mut BTreeSet<String>,
) {
    let name = hex::encode(random_bytes::<8>(random));
    // One slot: both keys have the same tag.
    let tag = slot.map_or_else(|| name.clone(), |slot| slot_tag(slot).to_string());
    let key = |which: &str| format!("{PREFIX}doctor:{{{tag}}}:{name}:{which}");
    let script = RIGHTS.key(key("a")).key(key("b")).invoke_async::<Vec<String>>(commands).await;
    match script {
        Ok(lacking) => missing.extend(lacking.into_iter().map(|right| format!("+{right}"))),
        Err(error) => missing.extend(missing_right(&error).flatten()),
    }
    let (mut scan, mut wait, mut publish) =
        (::redis::cmd("SCAN"), ::redis::cmd("WAIT"), ::redis::cmd("PUBLISH"));
    scan.arg(0).arg("MATCH").arg(key("a")).arg("COUNT").arg(1);
    wait.arg(0).arg(1);
    publish.arg(format!("{PREFIX}doctor")).arg("");
    for command in [scan, wait, publish] {
        let command: Cmd = command;
        if let Err(error) = command.query_async::<Value>(commands).await {
            missing.extend(missing_right(&error).flatten());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::acl::REDIS_COMMANDS;
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

    #[test]
    fn each_right_that_the_store_needs_is_tried_or_shows_by_itself() {
        // Connecting, sending a script and reading `INFO` show these; `scan`, `wait` and `publish` are sent
        // as they are. Only a subscription would show the last one.
        let elsewhere = [
            "select",
            "client|setname",
            "role",
            "evalsha",
            "script|load",
            "info",
            "scan",
            "wait",
            "publish",
            "subscribe",
        ];
        let tried: BTreeSet<&str> = TRIALS.iter().map(|(right, _)| *right).chain(elsewhere).collect();
        assert_eq!(tried, REDIS_COMMANDS.iter().copied().collect());
        for (right, words) in TRIALS {
            assert_eq!(*right, words[0].to_ascii_lowercase());
        }
    }
}
