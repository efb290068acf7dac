//! Properties of API keys and their files from any source.

use super::api_key::{ApiKey, PresentedKey};
use super::key_file;
use crate::domain::id::CallerName;
use crate::testkit::SeededRandom;

/// Panics if text without the form of an API key is taken for one, if a key is taken for another caller's, or
/// if it is accepted with one character changed.
pub fn a_presented_key_is_one_caller_s(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let is_of_its_shape = |text: &str| {
        let Some(key) = PresentedKey::parse(text) else { return };
        let caller = key.unverified_caller();
        assert!(CallerName::parse(caller).is_ok(), "{caller}");
        assert_eq!(text.len(), "twk_".len() + caller.len() + "_".len() + 43 + "_".len() + 6, "{text}");
        for at in 0..text.len() {
            let mut other = text.as_bytes().to_vec();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).expect("it is ASCII");
            assert!(PresentedKey::parse(&other).is_none(), "{other} passes for {text}");
        }
    };
    is_of_its_shape(&text);
    // A key made for this caller is read as this caller's.
    if let Ok(caller) = CallerName::parse(&text) {
        let key = ApiKey::generate(&caller, &SeededRandom::new(input.len() as u64));
        let read = PresentedKey::parse(key.expose()).expect("it is a key");
        assert_eq!(read.unverified_caller(), caller.as_str());
        is_of_its_shape(key.expose());
    }
}

/// Panics if a caller's key file changes its meaning when it is rewritten.
pub fn a_key_file_is_read_as_it_would_be_written(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match key_file::parse(&text) {
        Ok(keys) => {
            let written: String = keys.iter().map(key_file::line).collect();
            let again =
                key_file::parse(&written).map_err(|(_, problem)| problem).expect("it is what we write");
            assert_eq!(again.len(), keys.len());
            let mut ids: Vec<&str> = keys.iter().map(|key| key.info.id.as_str()).collect();
            ids.sort_unstable();
            assert!(ids.windows(2).all(|two| two[0] != two[1]), "one id is of two keys");
            for (one, other) in keys.iter().zip(&again) {
                assert_eq!((&one.info.id, &one.info.sealing_key), (&other.info.id, &other.info.sealing_key));
                assert_eq!(one.hash, other.hash);
                assert_eq!(one.info.expires_at.unix_seconds(), other.info.expires_at.unix_seconds());
            }
            let rewritten: String = again.iter().map(key_file::line).collect();
            assert_eq!(rewritten, written);
        }
        Err((line, problem)) => assert!(line >= 1 && line <= text.lines().count() && !problem.is_empty()),
    }
}
