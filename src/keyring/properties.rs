//! Properties of key files and sealed values from any source.

use std::path::Path;

use super::files;
use super::seal::{OpenError, Place, key_id};
use super::{Keyring, SealingKey};
use crate::domain::time::Timestamp;
use crate::testkit::SeededRandom;
use zeroize::Zeroizing;

/// Panics if a key file changes its meaning when it is rewritten, or if an error repeats its content.
pub fn a_key_file_is_read_as_it_is_written(input: &[u8]) {
    let file = Path::new("k.key");
    match files::parse(file, input) {
        Ok(key) => {
            assert!((1..=64).contains(&key.id.len()), "{}", key.id);
            assert!(key.id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "{}", key.id);
            assert!(key.material.iter().any(|byte| *byte != key.material[0]), "not random");
            let written = files::text(&key);
            let again = files::parse(file, written.as_bytes()).expect("it is what we write");
            let seconds = |at: Option<Timestamp>| at.map(Timestamp::unix_seconds);
            assert_eq!((&again.id, &again.material), (&key.id, &key.material));
            assert_eq!(seconds(again.promoted_at), seconds(key.promoted_at));
            assert_eq!(again.created_at.unix_seconds(), key.created_at.unix_seconds());
            assert_eq!(*files::text(&again), *written);
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.starts_with("k.key") || text.contains("k.key"), "{text}");
            assert!(text.len() < 300 && !text.contains(char::is_control), "{text}");
        }
    }
}

/// Panics if a value opens that was not sealed for its place. The input serves as a sealed value, as changes
/// to one (pairs of a position and the bits to flip), and as a plain value.
pub fn nothing_opens_but_what_was_sealed(input: &[u8]) {
    const PLACE: Place<'static> =
        Place { schema: "connection", owner: ("outlook", "alice"), field: "grant", generation: 7 };
    let key = |id: &str, byte: u8| {
        let at = Timestamp::from_unix_seconds(i64::from(byte));
        SealingKey::new(id.to_owned(), at, Some(at), Zeroizing::new([byte; 32]))
    };
    let ring = Keyring::new(vec![key("k1", 1), key("k2", 2)], "properties").expect("a ring");
    match ring.open(&PLACE, input) {
        Ok(_) => panic!("it opens"),
        Err(OpenError::UnknownKey(id)) => assert_eq!(key_id(input).as_ref(), Some(&id)),
        Err(OpenError::Refused) => {}
    }
    if let Some(id) = key_id(input) {
        assert!((1..=255).contains(&id.len()) && input.len() >= 3 + id.len());
    }
    let sealed = ring.seal(&PLACE, input, &SeededRandom::new(1));
    assert_eq!(ring.open(&PLACE, &sealed).expect("it was sealed here").as_slice(), input);
    assert_eq!(key_id(&sealed).as_deref(), Some("k2"));
    let elsewhere = Place { generation: 8, ..PLACE };
    assert!(ring.open(&elsewhere, &sealed).is_err(), "it opens in another place");
    let mut changed = sealed.clone();
    for (at, pair) in input.as_chunks::<2>().0.iter().enumerate() {
        let length = changed.len();
        changed[(usize::from(pair[0]) + at * 256) % length] ^= pair[1];
    }
    assert_eq!(ring.open(&PLACE, &changed).is_ok(), changed == sealed, "a changed one opens");
    let cut = input.first().map_or(0, |byte| usize::from(*byte)) % sealed.len();
    assert!(ring.open(&PLACE, &sealed[..cut]).is_err(), "a cut one opens");
}
