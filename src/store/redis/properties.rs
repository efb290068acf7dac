//! Rules for whatever a Redis, a Sentinel or a node of a Cluster answers, and for every value under a key.

use ::redis::{FromRedisValue, RedisError, Value};

use super::scan::Cursor;
use super::sentinel::Place;
use super::{cluster, failure, identity, prerequisites};

/// The longest line of text that is made from an answer, in characters.
const LONGEST: usize = 1000;
const NOW: i64 = 1_795_392_000;

/// Panics if an answer becomes a place that is none, or a line of any length. The input is read as an answer
/// on the wire and as the text of one.
pub fn an_answer_is_read_in_bounds(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let asked = Place { host: "redis.example".to_owned(), port: 6379, epoch: 0 };
    let (epoch, serves) = cluster::answers::standing(&text);
    assert!(epoch == 0 || text.contains("cluster_current_epoch"), "{epoch}");
    assert!(!serves || text.contains("cluster_state"));
    for risk in prerequisites::risks(&text, true, NOW).values() {
        is_one_line(risk);
    }
    if let Some(cursor) = Cursor::read(&text) {
        assert_eq!(Cursor::read(&cursor.write()), Some(cursor));
    }
    assert!(identity::name(&text).len() <= text.len() && identity::replaced(&text).count() <= text.len());
    match ::redis::parse_redis_value(input) {
        Ok(value) => {
            for (_, _, place) in cluster::answers::ranges(&value, &asked.host).into_iter().flatten() {
                assert!(!place.host.is_empty() && place.host != "?", "{place}");
            }
            read::<(u64, Vec<Vec<u8>>)>(&value, &asked);
            read::<Option<Vec<u8>>>(&value, &asked);
            read::<Vec<Option<Vec<u8>>>>(&value, &asked);
            read::<Option<(String, u16)>>(&value, &asked);
            read::<std::collections::HashMap<String, String>>(&value, &asked);
            read::<(i64, i64)>(&value, &asked);
            if let Err(error) = value.extract_error() {
                is_told(&error, &asked);
            }
        }
        Err(error) => is_told(&error, &asked),
    }
}

fn read<T: FromRedisValue>(value: &Value, asked: &Place) {
    if let Err(error) = ::redis::from_redis_value::<T>(value.clone()) {
        is_told(&RedisError::from(error), asked);
    }
}

fn is_told(error: &RedisError, asked: &Place) {
    let _verdict = failure::Verdict::of(error);
    is_one_line(&failure::describe(error, "tokenward"));
    for slot in [0, 7, 16_383] {
        if let Some(cluster::answers::Redirect::Moved(place) | cluster::answers::Redirect::Ask(place)) =
            cluster::answers::redirect(error, slot, asked)
        {
            assert!(!place.host.is_empty() && place.host != "?", "{place}");
        }
    }
}

fn is_one_line(text: &str) {
    assert!(text.chars().count() <= LONGEST && !text.contains(char::is_control), "{text:?}");
}
