//! Reads a node's answers about the Cluster.

use std::collections::HashMap;

use ::redis::{ErrorKind, RedisError, ServerErrorKind, Value};

use crate::store::redis::sentinel::Place;

/// The place that a node names instead of itself.
pub(in crate::store::redis) enum Redirect {
    /// The slot has another owner.
    Moved(Place),
    /// The slot is being moved, and its next owner has the key or will have it.
    Ask(Place),
    /// Some of the keys were moved already, and some were not.
    TryAgain,
}

/// Returns where an error sends an operation on `slot` that was sent to `from`. An error about another slot
/// gives `None`: it comes from a pipeline that must be split.
pub(in crate::store::redis) fn redirect(error: &RedisError, slot: u16, from: &Place) -> Option<Redirect> {
    if error.kind() == ErrorKind::Server(ServerErrorKind::TryAgain) {
        return Some(Redirect::TryAgain);
    }
    let (address, _) = error.redirect_node().filter(|(_, of)| *of == slot)?;
    let (host, port) = address.rsplit_once(':')?;
    let host = match host.trim_matches(['[', ']']) {
        // The node does not know its own address, or must not tell it: it means the one that we used.
        "" | "?" => from.host.clone(),
        host => host.to_owned(),
    };
    let place = Place { host, port: port.parse().ok()?, epoch: 0 };
    Some(match error.kind() {
        ErrorKind::Server(ServerErrorKind::Ask) => Redirect::Ask(place),
        _ => Redirect::Moved(place),
    })
}

/// Reads `CLUSTER INFO`: the latest change that the node knows, and whether it serves.
pub(in crate::store::redis) fn standing(info: &str) -> (u64, bool) {
    let fields: HashMap<&str, &str> = info.lines().filter_map(|line| line.trim().split_once(':')).collect();
    let epoch = fields.get("cluster_current_epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
    (epoch, fields.get("cluster_state").is_some_and(|state| *state == "ok"))
}

/// Reads `CLUSTER SLOTS`: the ranges of slots, and the primary of each.
pub(in crate::store::redis) fn ranges(slots: &Value, asked: &str) -> Option<Vec<(u16, u16, Place)>> {
    let Value::Array(rows) = slots else { return None };
    let number = |value: &Value| match value {
        Value::Int(number) => u16::try_from(*number).ok(),
        _ => None,
    };
    rows.iter()
        .map(|row| {
            let Value::Array(row) = row else { return None };
            let [first, last, Value::Array(primary), ..] = row.as_slice() else { return None };
            let [host, port, ..] = primary.as_slice() else { return None };
            let host = match host {
                Value::BulkString(host) => String::from_utf8(host.clone()).ok()?,
                Value::Nil => String::new(),
                _ => return None,
            };
            let host = if matches!(host.as_str(), "" | "?") { asked.to_owned() } else { host };
            Some((number(first)?, number(last)?, Place { host, port: number(port)?, epoch: 0 }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(first: i64, last: i64, host: Value, port: i64) -> Value {
        let node = Value::Array(vec![host, Value::Int(port), Value::BulkString(b"id".to_vec())]);
        Value::Array(vec![Value::Int(first), Value::Int(last), node.clone(), node])
    }

    #[test]
    fn who_has_what_is_read_and_a_node_without_an_address_is_where_it_was_asked() {
        let host = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let slots = Value::Array(vec![
            row(0, 8191, host("10.0.0.1"), 6379),
            row(8192, 16383, Value::Nil, 6380),
            row(5, 5, host(""), 1),
        ]);
        let read = ranges(&slots, "redis.example").expect("is of the right form");
        let read: Vec<_> =
            read.iter().map(|(first, last, place)| format!("{first}-{last} {place}")).collect();
        assert_eq!(read, ["0-8191 10.0.0.1:6379", "8192-16383 redis.example:6380", "5-5 redis.example:1"]);
        assert!(ranges(&Value::Array(vec![Value::Int(1)]), "x").is_none());
        assert!(ranges(&Value::Okay, "x").is_none());
        assert_eq!(standing("cluster_state:ok\r\ncluster_current_epoch:7\r\n"), (7, true));
        assert_eq!(standing("cluster_state:fail\r\n"), (0, false));
    }
}
