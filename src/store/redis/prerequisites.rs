//! The properties of a Redis that this store needs beside its answers: it runs scripts, evicts nothing, and
//! does not lose everything with one process. They are checked with every probe (scripts) or every ten
//! seconds (the rest). None of them stops a store that serves.
//!
//! - **Scripts.** A commit is one. So the probe runs one over the connection in use
//!   ([`super::live::Live::look_at_scripts`]). While that is refused, no script is sent: Redis repeats a
//!   refused command's arguments, which are no text, in an error that then cannot be read.
//! - **The rest** is in `INFO`, whose fields are the same from Redis 6.2 to 8 and in Valkey. `CONFIG` would
//!   say more and is never used: if the right to it is missing, each use is a line in Redis' `ACL LOG`.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;

use ::redis::RedisError;
use ::redis::aio::ConnectionLike;

use super::failure::{Verdict, describe};
use crate::domain::text::one_line;
use crate::store::observed::{Risk, StoreObserver};

/// How often a server's `INFO` is read. All that callers may store in that time must fit into
/// [`ROOM_PERCENT`] of it.
pub(super) const LOOK: Duration = Duration::from_secs(10);
/// The part of `maxmemory` that is kept for connections.
const ROOM_PERCENT: i64 = 10;
/// With Redis' own defaults one change is saved within an hour.
const SAVED_WITHIN: i64 = 3600;

/// The risks at one server, in words.
pub(super) type Risks = BTreeMap<Risk, String>;

/// Asks a server. If the connection breaks meanwhile, nothing is learnt.
pub(super) async fn look(
    commands: &mut impl ConnectionLike,
    user: &str,
    has_failover: bool,
    now: i64,
) -> Option<Risks> {
    let mut sections = ::redis::pipe();
    // One at a time: Redis 6.2 takes no more.
    for section in ["memory", "persistence", "replication"] {
        sections.cmd("INFO").arg(section);
    }
    match sections.query_async::<Vec<String>>(commands).await {
        Ok(told) => Some(risks(&told.concat(), has_failover, now)),
        Err(error) if Verdict::of(&error) != Verdict::Fine => None,
        Err(error) => Some(unknown(&error, user)),
    }
}

fn unknown(error: &RedisError, user: &str) -> Risks {
    let why = format!(
        "whether Redis evicts records, keeps them on disk and has replicas is not known: {}",
        describe(error, user)
    );
    BTreeMap::from([(Risk::Unknown, why)])
}

/// Reads the answer to `INFO`.
pub(super) fn risks(info: &str, has_failover: bool, now: i64) -> Risks {
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'))
            .unwrap_or_default()
    };
    let number = |name: &str| field(name).parse::<i64>().unwrap_or(0);
    let mut risks = Risks::new();
    let (maxmemory, policy) = (number("maxmemory"), one_line(field("maxmemory_policy")));
    if maxmemory > 0 && !matches!(policy.as_str(), "noeviction" | "") {
        let what = if policy.starts_with("volatile-") {
            "leases and sessions: two replicas may then use one refresh token, and users are asked to begin \
             again"
        } else {
            "connections: their users are then not found, and have to sign in again"
        };
        risks.insert(
            Risk::Eviction,
            format!(
                "Redis is set to evict when it is full (maxmemory {maxmemory}, maxmemory-policy {policy}), \
                 and will evict {what}. Set maxmemory-policy noeviction, and give tokenward a Redis of its \
                 own"
            ),
        );
    }
    // As Redis itself compares: buffers for its replicas and its log are not counted.
    let used = number("used_memory") - number("mem_not_counted_for_evict");
    if maxmemory > 0
        && matches!(policy.as_str(), "noeviction" | "")
        && used > maxmemory / 100 * (100 - ROOM_PERCENT)
    {
        risks.insert(
            Risk::Full,
            format!(
                "Redis uses {used} of {maxmemory} bytes (maxmemory): new connect sessions are refused, and \
                 the last {ROOM_PERCENT} % are for connections. Raise maxmemory, or give tokenward a Redis \
                 of its own"
            ),
        );
    }
    let (replicas, unsaved) = (number("connected_slaves"), number("rdb_changes_since_last_save"));
    let since = now.saturating_sub(number("rdb_last_save_time"));
    if number("aof_enabled") == 0
        && unsaved > 0
        && (since > SAVED_WITHIN || field("rdb_last_bgsave_status") == "err")
    {
        risks.insert(
            Risk::Persistence,
            format!(
                "Redis keeps no append-only file and has saved nothing for {since} s: if it restarts, \
                 {unsaved} changes are lost{}. Set appendonly yes",
                if replicas == 0 { ", and no replica has them" } else { "" }
            ),
        );
    }
    if has_failover && replicas == 0 {
        risks.insert(
            Risk::Replicas,
            "this Redis primary has no replica connected: if it fails, what it holds is gone. Start its \
             replicas, or look why they do not follow"
                .to_owned(),
        );
    }
    risks
}

/// The last report on all servers, so that each risk is reported when it changes.
#[derive(Default)]
pub(super) struct Said(Mutex<Risks>);

impl Said {
    /// Whether any server has this risk.
    pub(super) fn holds(&self, risk: Risk) -> bool {
        self.0.lock().contains_key(&risk)
    }

    /// Notes the findings at every server, and reports changes.
    pub(super) fn settle(
        &self,
        found: impl Iterator<Item = (String, Risks)>,
        observer: Option<&dyn StoreObserver>,
    ) {
        let mut now = Risks::new();
        for (server, risks) in found {
            for (risk, what) in risks {
                now.entry(risk).or_insert_with(|| format!("{server}: {what}"));
            }
        }
        let mut before = self.0.lock();
        for risk in Risk::ALL {
            let (was, is) = (before.get(&risk), now.get(&risk));
            match (was, is) {
                (None, Some(what)) => tracing::warn!(risk = risk.as_str(), "{what}"),
                (Some(_), None) => tracing::info!(risk = risk.as_str(), "this is no risk any more at Redis"),
                _ => {}
            }
            if was != is {
                observer.inspect(|observer| observer.risk(risk, is.map(String::as_str)));
            }
        }
        *before = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn found(info: &str, has_failover: bool) -> Vec<(Risk, String)> {
        risks(&info.replace('\n', "\r\n"), has_failover, NOW).into_iter().collect()
    }

    #[test]
    fn what_info_tells_is_a_risk_or_is_none() {
        let saved = NOW - SAVED_WITHIN - 1;
        let unsaved = format!("aof_enabled:0\nrdb_changes_since_last_save:7\nrdb_last_save_time:{saved}\n");
        for (info, has_failover, expected) in [
            ("", false, &[][..]),
            // Fields as Redis 6.2, 7.0, 8.2 and Valkey 9.1 have them.
            ("maxmemory:0\nmaxmemory_policy:allkeys-lru\n", false, &[]),
            ("maxmemory:3000000\nmaxmemory_policy:noeviction\n", false, &[]),
            ("used_memory:2700000\nmaxmemory:3000000\nmaxmemory_policy:noeviction\n", false, &[]),
            (
                "used_memory:2700001\nmaxmemory:3000000\nmaxmemory_policy:noeviction\n",
                false,
                &[(Risk::Full, "2700001 of 3000000")],
            ),
            ("used_memory:2700001\nmaxmemory:0\nmaxmemory_policy:noeviction\n", false, &[]),
            (
                "used_memory:2900000\nmem_not_counted_for_evict:200000\n\
                 maxmemory:3000000\nmaxmemory_policy:noeviction\n",
                false,
                &[],
            ),
            (
                "maxmemory:3000000\nmaxmemory_human:3M\nmaxmemory_policy:allkeys-lru\n",
                false,
                &[(Risk::Eviction, "sign in again")],
            ),
            ("maxmemory:3000000\nmaxmemory_policy:volatile-ttl\n", false, &[(Risk::Eviction, "leases")]),
            ("maxmemory:3000000\nmaxmemory_policy:allkeys-lrm\n", false, &[(Risk::Eviction, "noeviction")]),
            (&unsaved, false, &[(Risk::Persistence, "7 changes are lost, and no replica")]),
            (
                &format!("{unsaved}connected_slaves:1\n"),
                true,
                &[(Risk::Persistence, "7 changes are lost. Set")],
            ),
            (&unsaved.replace("aof_enabled:0", "aof_enabled:1"), false, &[]),
            (&unsaved.replace("save:7", "save:0"), false, &[]),
            (&unsaved.replace(&saved.to_string(), &NOW.to_string()), false, &[]),
            (
                &format!(
                    "{}rdb_last_bgsave_status:err\n",
                    unsaved.replace(&saved.to_string(), &NOW.to_string())
                ),
                false,
                &[(Risk::Persistence, "appendonly yes")],
            ),
            ("aof_enabled:1\nconnected_slaves:0\n", true, &[(Risk::Replicas, "no replica")]),
            ("aof_enabled:1\nconnected_slaves:0\n", false, &[]),
        ] {
            let found = found(info, has_failover);
            assert_eq!(found.len(), expected.len(), "{info}: {found:?}");
            for ((risk, what), (expected, part)) in found.iter().zip(expected) {
                assert!(risk == expected && what.contains(part), "{info}: {found:?}");
            }
        }
    }
}
