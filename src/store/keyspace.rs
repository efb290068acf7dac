//! How things are named in both stores.
//!
//! **Embedded.** One table of connections, keyed `app:connection`. An app's name never holds a `:`, so the first one
//! ends it, and the connections of an app are exactly the range from `app:` up to `app;` (`;` follows `:`), ordered by
//! the bytes of their names.
//!
//! **Redis.** Everything begins with `tokenward:`, so that one ACL pattern (`~tokenward:*`) covers all of it.
//!
//! | key | what |
//! |---|---|
//! | `tokenward:{app:connection}` | a record ([`super::record`]) |
//! | `tokenward:index:{app}` | the names of an app's connections: a sorted set, all scores 0, ordered by bytes |
//! | `tokenward:pending:{id}` | a pending record, with its time to live |
//!
//! The braces are Redis Cluster's hash tag: only what is within decides the slot. No name can hold a brace, so nobody
//! can move a key to another slot, or one name's key onto another's.
//!
//! In a Cluster a record and its app's index live in different slots, and no script may touch both. (Tagging by app
//! alone would put an app's every connection into one slot, which is to say: one node for most installations.) So the
//! record alone is the truth and changes in one atomic script, and the index only helps to find it:
//!
//! - A create adds the name *before* the record: a crash in between leaves a name without a record, which a list skips
//!   and takes out again. The other way round it would leave a record that no list shows.
//! - A delete takes the name out *after* the record, then looks once more, and puts the name back if the record has
//!   been made anew meanwhile. A create adds the name a second time after the record. So whichever way a delete and a
//!   create of one name interleave, whoever comes last sees the other.
//! - What is left: a process that dies between taking a name out and looking once more, while another one creates that
//!   very connection. Every later commit adds the name again (it costs nothing: both go out in one round trip), so such
//!   a connection is missing in lists until its next refresh, and is served all the while.

use crate::domain::id::{AppName, ConnectionKey, ConnectionName};

/// What all keys in Redis begin with.
pub const PREFIX: &str = "tokenward:";

/// The key of a connection's record in Redis.
pub fn redis_record(key: &ConnectionKey) -> String {
    format!("{PREFIX}{{{}:{}}}", key.app, key.connection)
}

/// The key of an app's index in Redis.
pub fn redis_index(app: &AppName) -> String {
    format!("{PREFIX}index:{{{app}}}")
}

/// The key of a pending record in Redis.
pub fn redis_pending(id: &str) -> String {
    format!("{PREFIX}pending:{{{id}}}")
}

/// The range of names to list, in the words of ZRANGEBYLEX.
pub fn redis_range(prefix: &str, after: Option<&str>) -> (Vec<u8>, Vec<u8>) {
    // A prefix's last possible name is followed by the prefix and a byte that no name has.
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
        assert_eq!(redis_index(&key.app), "tokenward:index:{outlook}");
        assert_eq!(redis_pending("abc"), "tokenward:pending:{abc}");
        assert_eq!(embedded_record(&key), "outlook:team-a/user:7");
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
