//! Rules for whatever a store gives back.

use super::{RecordOf, keyspace, record};

/// Panics if a record or a key is read as another one than it is written as.
pub fn a_record_is_read_as_it_is_written(input: &[u8]) {
    const DOING: &str = "checking properties";
    let revision = record::decode_revision(DOING, input);
    if let Ok(read) = record::decode(DOING, input) {
        assert_eq!(record::encode(DOING, &read).expect("each field was small enough"), input);
        assert_eq!(revision.as_ref().ok(), Some(&read.revision));
        for length in [0, 1, read.profile.len(), usize::MAX / 2] {
            let head = record::head(DOING, input, length).expect("the record is whole");
            assert_eq!(head, &read.profile[..length.min(read.profile.len())]);
        }
    }
    if let Ok(revision) = revision {
        assert_eq!(record::revision_bytes(&revision), input[record::REVISION_START..record::REVISION_END]);
    }
    let text = String::from_utf8_lossy(input);
    match keyspace::parse_redis(&text) {
        Some(RecordOf::Connection(key)) => {
            assert_eq!(keyspace::redis_record(&key), text);
            assert_eq!(
                keyspace::connection_slot(&key),
                keyspace::slot(&keyspace::redis_floor(&key)),
                "{text}"
            );
        }
        Some(RecordOf::Pending(id)) => assert_eq!(keyspace::redis_pending(&id), text),
        None => {}
    }
    assert!(keyspace::slot(&text) < keyspace::SLOTS);
    if let Some(key) = keyspace::parse_key(&text) {
        assert_eq!(key.to_string(), text);
    }
}
