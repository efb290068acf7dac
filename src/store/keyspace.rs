//! How things are named in both stores.
//!
//! **Embedded.** One table of connections, keyed `app:connection`. An app's name never holds a `:`, so the
//! first one ends it, and the connections of an app are exactly the range from `app:` up to `app;` (`;`
//! follows `:`), ordered by the bytes of their names.
//!
//! **Redis.** Everything begins with `tokenward:`, so that one ACL pattern (`~tokenward:*`) covers all of it.
//!
//! | key | what |
//! |---|---|
//! | `tokenward:{app:connection}` | a record ([`super::record`]) |
//! | `tokenward:index:{app}` | an app's names: a sorted set, all scores 0, ordered by bytes |
//! | `tokenward:lease:{app:connection}` | the lease: its holder's nonce, with a time to live |
//! | `tokenward:intent:{app:connection}` | the intent: the nonce of that lease, until it is settled |
//! | `tokenward:floor:{app:connection}` | its floor ([`super::Floor`]): two numbers; for a day |
//! | `tokenward:due:{sweep-N}` | one shard of the schedule, by due time: a sorted set |
//! | `tokenward:used:{sweep-N}` | the same connections by their last use |
//! | `tokenward:pending:{id}` | a pending record, with its time to live |
//! | `tokenward:counted:{owner}` | an owner's open entries by their end: a sorted set |
//! | `tokenward:outbox:{N}` | notices beside the records of a slot (N is hashed to it): a sorted set |
//! | `tokenward:outbox-count:{N}` | how many there ever were |
//! | `tokenward:notices:{notices}` | notices by place: a sorted set |
//! | `tokenward:notice-places:{notices}` | places by the notice's id: a sorted set |
//! | `tokenward:notice-last:{notices}` | the last place |
//! | `tokenward:notice-slots:{notices}` | in a Cluster: slots with notices, by when: a sorted set |
//! | `tokenward:identity` | which store this is |
//! | `tokenward:identity:{N}` | in a Cluster: the same for one slot (N is hashed to it) |
//!
//! and `tokenward:changes` is the channel on which each change of a connection is told.
//!
//! The braces are Redis Cluster's hash tag: only the text within them decides the slot. No name can contain a
//! brace, so nobody can move a key to another slot, or one name's key onto another's.
//!
//! In a Cluster a record and its app's index live in different slots, and no script may touch both. (Tags by
//! app alone would put all connections of an app into one slot, and most installations would use one node.)
//! So the record alone is the truth and changes in one atomic script. The index only helps to find it:
//!
//! - A create adds the name *before* the record. A crash in between leaves a name without a record; a list
//!   skips such a name and removes it. The other order would leave a record that no list shows.
//! - A delete removes the name *after* the record, then reads the record once more, and adds the name again
//!   if the record has been made anew meanwhile. A create adds the name a second time after the record. So
//!   however a delete and a create of one name interleave, the later one sees the other.
//! - One gap remains: a process dies between removing a name and reading once more, while another one creates
//!   that very connection. Every later commit adds the name again (it costs nothing, since both go out in one
//!   round trip). So such a connection is missing in lists until its next refresh, and is served all the
//!   while.

use std::sync::LazyLock;

use super::{LeaseOf, RecordOf, SWEEP_SHARDS};
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};

/// The prefix of all keys in Redis.
pub const PREFIX: &str = "tokenward:";

/// The key of a connection's record in Redis.
pub fn redis_record(key: &ConnectionKey) -> String {
    format!("{PREFIX}{{{}:{}}}", key.app, key.connection)
}

/// The keys of a lease and of its intent in Redis. A connection's share the slot of its record.
pub fn redis_lease(of: LeaseOf<'_>) -> (String, String) {
    let tag = match of {
        LeaseOf::Connection(key) => key.to_string(),
        LeaseOf::Sweep(shard) => sweep_tag(shard),
        LeaseOf::Rewrap => REWRAP_TAG.to_owned(),
        LeaseOf::Notices => NOTICES_TAG.to_owned(),
    };
    (format!("{PREFIX}lease:{{{tag}}}"), format!("{PREFIX}intent:{{{tag}}}"))
}

/// The key of a connection's floor in Redis. The floor outlives the connection, and shares the slot of its
/// record.
pub fn redis_floor(key: &ConnectionKey) -> String {
    format!("{PREFIX}floor:{{{key}}}")
}

/// The keys of a shard's sorted sets in Redis: due times, and times of last use.
pub fn redis_due(shard: u8) -> (String, String) {
    let tag = sweep_tag(shard);
    (format!("{PREFIX}due:{{{tag}}}"), format!("{PREFIX}used:{{{tag}}}"))
}

/// The key in Redis of an owner's count. Each owner's lives in a slot of its own.
pub fn redis_counted(owner: &str) -> String {
    format!("{PREFIX}counted:{{{owner}}}")
}

/// The prefix of an owner's rows in the embedded store. No owner's name contains a zero byte.
pub fn embedded_counted(owner: &str) -> String {
    format!("{owner}\0")
}

/// Tag of the rewrap lease. A connection's tag always contains a colon, so the two cannot clash.
const REWRAP_TAG: &str = "rewrap";

/// Tag of everything about the one order of notices, its lease included: so that scripts may ask for it.
const NOTICES_TAG: &str = "notices";

/// The keys in Redis of the notices beside the records of a slot, and of their count. Both are in that slot.
pub fn redis_outbox(slot: u16) -> (String, String) {
    let tag = slot_tag(slot);
    (format!("{PREFIX}outbox:{{{tag}}}"), format!("{PREFIX}outbox-count:{{{tag}}}"))
}

/// The keys in Redis of the one order of notices. All are in one slot.
pub struct NoticeKeys {
    /// Notices by place.
    pub by_place: String,
    /// Places by id.
    pub places: String,
    /// The last place.
    pub last: String,
    /// Slots with notices, in a Cluster.
    pub slots: String,
}

/// The keys in Redis of the one order of notices.
pub fn redis_notices() -> NoticeKeys {
    let key = |name: &str| format!("{PREFIX}{name}:{{{NOTICES_TAG}}}");
    NoticeKeys {
        by_place: key("notices"),
        places: key("notice-places"),
        last: key("notice-last"),
        slots: key("notice-slots"),
    }
}

/// Tag of one shard of the schedule. It contains no colon either.
fn sweep_tag(shard: u8) -> String {
    format!("sweep-{shard}")
}

/// The key of the store's own name in Redis.
pub const REDIS_IDENTITY: &str = "tokenward:identity";

/// How many slots a Redis Cluster has.
pub const SLOTS: u16 = 16_384;

/// The slot of a Redis Cluster that a key lives in. The text in the first braces decides, if there is any.
pub fn slot(key: &str) -> u16 {
    let tag = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map_or(key, |(tag, _)| if tag.is_empty() { key } else { tag });
    crc16(tag.as_bytes()) % SLOTS
}

/// The slot of a connection's own keys: record, lease, intent and floor.
pub fn connection_slot(key: &ConnectionKey) -> u16 {
    slot(&redis_record(key))
}

/// The key of the store's name within one slot of a Cluster.
pub fn redis_slot_identity(slot: u16) -> String {
    format!("{REDIS_IDENTITY}:{{{}}}", slot_tag(slot))
}

/// A hash tag whose keys are all in this slot.
pub fn slot_tag(slot: u16) -> u32 {
    /// For each slot the least number whose hash is that slot.
    static TAGS: LazyLock<Vec<u32>> = LazyLock::new(|| {
        let mut tags: Vec<Option<u32>> = vec![None; usize::from(SLOTS)];
        let mut left = tags.len();
        for number in 0_u32.. {
            let tag = &mut tags[usize::from(self::slot(&number.to_string()))];
            if tag.is_none() {
                *tag = Some(number);
                left -= 1;
            }
            if left == 0 {
                break;
            }
        }
        tags.into_iter().flatten().collect()
    });
    TAGS[usize::from(slot)]
}

/// CRC16 as Redis Cluster has it (XMODEM).
fn crc16(bytes: &[u8]) -> u16 {
    const TABLE: [u16; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut crc = (index as u16) << 8;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
                bit += 1;
            }
            table[index] = crc;
            index += 1;
        }
        table
    };
    bytes.iter().fold(0, |crc, byte| (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

/// The channel on which changes are told.
pub const REDIS_CHANGES: &str = "tokenward:changes";

/// The shard that keeps a connection's due time: FNV-1a over its key, the same in every version and process.
/// It is mixed once more, because names that differ in their last letters differ in few bits of the hash.
pub fn shard(key: &ConnectionKey) -> u8 {
    let hash = key.to_string().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    u8::try_from((mixed ^ (mixed >> 33)) % u64::from(SWEEP_SHARDS))
        .expect("there are fewer shards than a byte counts")
}

/// Reads `app:connection` back.
pub fn parse_key(text: &str) -> Option<ConnectionKey> {
    let (app, connection) = text.split_once(':')?;
    Some(ConnectionKey {
        app: AppName::parse(app).ok()?,
        connection: ConnectionName::stored(connection).ok()?,
    })
}

/// The key of an app's index in Redis.
pub fn redis_index(app: &AppName) -> String {
    format!("{PREFIX}index:{{{app}}}")
}

/// The key of a pending record in Redis.
pub fn redis_pending(id: &str) -> String {
    format!("{PREFIX}pending:{{{id}}}")
}

/// Reads the record that a key in Redis belongs to, if it belongs to one.
pub fn parse_redis(key: &str) -> Option<RecordOf> {
    let rest = key.strip_prefix(PREFIX)?;
    let tag = |text: &str| Some(text.strip_prefix('{')?.strip_suffix('}')?.to_owned());
    match rest.strip_prefix("pending:") {
        Some(pending) => tag(pending).map(RecordOf::Pending),
        None => parse_key(&tag(rest)?).map(RecordOf::Connection),
    }
}

/// The range of names to list, in the words of ZRANGEBYLEX.
pub fn redis_range(prefix: &str, after: Option<&str>) -> (Vec<u8>, Vec<u8>) {
    // The last possible name with a prefix is followed by the prefix and a byte that no name contains.
    let end = if prefix.is_empty() {
        b"+".to_vec()
    } else {
        let mut end = vec![b'('];
        end.extend_from_slice(prefix.as_bytes());
        end.push(0xff);
        end
    };
    let start = match after {
        Some(after) if after >= prefix => format!("({after}"),
        _ if prefix.is_empty() => "-".to_owned(),
        _ => format!("[{prefix}"),
    };
    (start.into_bytes(), end)
}

/// A connection's key in the embedded store.
pub fn embedded_record(key: &ConnectionKey) -> String {
    format!("{}:{}", key.app, key.connection)
}

/// Where to begin a listing in the embedded store: at this key, and past it when the second value says so.
pub fn embedded_start(app: &AppName, prefix: &str, after: Option<&ConnectionName>) -> (String, bool) {
    match after {
        Some(after) if after.as_str() >= prefix => (format!("{app}:{after}"), true),
        _ => (format!("{app}:{prefix}"), false),
    }
}

/// The connection's name within a key of the embedded store, if it is one of `app` and begins with `prefix`.
pub fn embedded_name<'k>(key: &'k str, app: &AppName, prefix: &str) -> Option<&'k str> {
    key.strip_prefix(app.as_str())?.strip_prefix(':').filter(|name| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str) -> AppName {
        AppName::parse(name).expect("a name")
    }

    #[test]
    fn keys_are_what_they_were_and_one_pattern_covers_them() {
        let connection = ConnectionName::parse("team-a/user:7").expect("a name");
        let key = ConnectionKey { app: app("outlook"), connection };
        assert_eq!(redis_record(&key), "tokenward:{outlook:team-a/user:7}");
        assert_eq!(redis_lease(LeaseOf::Connection(&key)).0, "tokenward:lease:{outlook:team-a/user:7}");
        assert_eq!(redis_floor(&key), "tokenward:floor:{outlook:team-a/user:7}");
        assert_eq!(redis_lease(LeaseOf::Sweep(3)).0, "tokenward:lease:{sweep-3}");
        assert_eq!(redis_due(3).0, "tokenward:due:{sweep-3}");
        assert_eq!(redis_lease(LeaseOf::Rewrap).0, "tokenward:lease:{rewrap}");
        assert_eq!((shard(&key), parse_key(&key.to_string())), (0, Some(key.clone())));
        assert_eq!(redis_index(&key.app), "tokenward:index:{outlook}");
        assert_eq!(redis_pending("abc"), "tokenward:pending:{abc}");
        assert_eq!(embedded_record(&key), "outlook:team-a/user:7");
        assert_eq!(parse_redis(&redis_pending("state:a")), Some(RecordOf::Pending("state:a".into())));
        assert_eq!(parse_redis(&redis_record(&key)), Some(RecordOf::Connection(key.clone())));
        assert_eq!(redis_counted("sessions/team-a"), "tokenward:counted:{sessions/team-a}");
        let others = [
            redis_floor(&key),
            redis_lease(LeaseOf::Connection(&key)).1,
            redis_index(&key.app),
            redis_counted("sessions/team-a"),
            redis_outbox(7).0,
            redis_outbox(7).1,
            redis_notices().by_place,
            redis_notices().last,
        ];
        for other in others.iter().map(String::as_str).chain([REDIS_IDENTITY, "tokenward:{x}", "other:{a:b}"])
        {
            assert_eq!(parse_redis(other), None, "{other}");
        }
    }

    /// What redis-server says: `CLUSTER KEYSLOT`.
    #[test]
    fn slots_are_those_of_redis_and_all_keys_of_a_connection_share_one() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (key, expected) in [
            ("foo", 12182),
            ("somekey", 11058),
            ("{user1000}.x", 3443),
            ("foo{}{bar}", 8363),
            ("x{foo}{bar}", 12182),
        ] {
            assert_eq!(slot(key), expected, "{key}");
        }
        let connection = ConnectionName::parse("team-a/user:7").expect("a name");
        let key = ConnectionKey { app: app("outlook"), connection };
        let (lease, intent) = redis_lease(LeaseOf::Connection(&key));
        assert_eq!((slot(&lease), slot(&intent)), (connection_slot(&key), connection_slot(&key)));
        assert_eq!(slot(&redis_floor(&key)), connection_slot(&key));
        assert_eq!(slot(&redis_due(3).0), slot(&redis_lease(LeaseOf::Sweep(3)).0));
        for number in 0..SLOTS {
            assert_eq!(slot(&redis_slot_identity(number)), number);
            let (outbox, count) = redis_outbox(number);
            assert_eq!((slot(&outbox), slot(&count)), (number, number));
        }
        let NoticeKeys { by_place, places, last, slots } = redis_notices();
        let lease = redis_lease(LeaseOf::Notices).0;
        assert!([places, last, slots, lease].iter().all(|key| slot(key) == slot(&by_place)));
    }

    #[test]
    fn names_that_are_numbered_are_spread_over_all_shards() {
        let mut counts = [0_u32; SWEEP_SHARDS as usize];
        for number in 0..16_000 {
            let connection = ConnectionName::parse(&format!("user-{number}")).expect("a name");
            counts[usize::from(shard(&ConnectionKey { app: app("outlook"), connection }))] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn apps_whose_names_begin_alike_do_not_mix() {
        assert_eq!(embedded_name("a-b:x", &app("a"), ""), None);
        assert_eq!(embedded_name("a:b:x", &app("a"), "b"), Some("b:x"));
        assert_eq!(embedded_name("a:b:x", &app("a"), "c"), None);
    }

    #[test]
    fn ranges_begin_at_the_prefix_or_past_the_last_page() {
        assert_eq!(redis_range("", None), (b"-".to_vec(), b"+".to_vec()));
        assert_eq!(redis_range("t/", None), (b"[t/".to_vec(), b"(t/\xff".to_vec()));
        assert_eq!(redis_range("t/", Some("t/5")), (b"(t/5".to_vec(), b"(t/\xff".to_vec()));
        assert_eq!(redis_range("t/", Some("a")), (b"[t/".to_vec(), b"(t/\xff".to_vec()));
        assert_eq!(redis_range("", Some("a")), (b"(a".to_vec(), b"+".to_vec()));
    }
}
