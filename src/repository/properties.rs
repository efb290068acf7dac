//! Rules for everything that opens, in each version and state.

use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use zeroize::Zeroizing;

use super::{Repository, journal, wire};
use crate::domain::connection::{Profile, SignIn};
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
use crate::domain::time::Timestamp;
use crate::keyring::{Keyring, SealingKey};
use crate::store::redis::{RedisConfig, RedisStore};
use crate::store::{Revision, StoredConnection, record};
use crate::system::{SystemClock, SystemRandom, TokioTasks};
use crate::testkit::SeededRandom;

/// Panics if a field is read as something else than it is when written again. The first byte says which field
/// it is.
pub fn a_field_is_read_as_it_is_written(input: &[u8]) {
    let Some((field, bytes)) = input.split_first() else { return };
    let rewritten = |bytes: &[u8]| match field % 4 {
        0 => serde_json::from_slice::<Profile>(bytes).ok().map(|profile| wire::encode_profile(&profile)),
        1 => wire::decode_tokens(bytes).map(|tokens| wire::encode_tokens(&tokens)),
        2 => wire::decode_grant(bytes).map(|grant| wire::encode_grant(grant.as_ref())),
        _ => wire::decode_redeemed(bytes).map(|redeemed| wire::encode_redeemed(&redeemed)),
    };
    if let Some(written) = rewritten(bytes) {
        let again = rewritten(&written).expect("it is what we write");
        assert_eq!(String::from_utf8_lossy(&again), String::from_utf8_lossy(&written));
    }
}

/// Panics if an entry of the journal is accepted that changes when it is written again. The first byte says
/// what the rest replaces: the sealed entry, the opened one, its record, or one of the record's three fields.
pub fn a_journal_entry_is_read_as_it_is_written(input: &[u8]) {
    const NAME: &str = "30313233343536373839616263646566";
    let Some((level, bytes)) = input.split_first() else { return };
    let (repository, random) = (&*REPOSITORY, SeededRandom::new(3));
    let primary = repository.keyring.primary();
    let key = ConnectionKey {
        app: AppName::parse("outlook").expect("a name"),
        connection: ConnectionName::parse("team-a/user-7").expect("a name"),
    };
    let sign_in = SignIn { number: 5, nonce: *b"abcdefgh" };
    let revision = Revision { sign_in, generation: 7, nonce: *b"0123456789abcdef" };
    let field = |at: u8, name, plain: &[u8]| {
        let plain = if level % 6 == at { bytes } else { plain };
        primary.seal(&super::place(&key, name, revision.generation), plain, &random)
    };
    let stored = StoredConnection {
        revision,
        profile: field(3, super::PROFILE, PROFILE.as_bytes()),
        tokens: field(4, super::TOKENS, b"[]"),
        grant: field(5, super::GRANT, br#"{"current":"R2","previous":"R1"}"#),
        notice: None,
    };
    let record = match level % 6 {
        2 => bytes.to_vec(),
        _ => record::encode("checking properties", &stored).expect("it is small"),
    };
    let (lease, expected) = ([9_u8; 16], (sign_in, 6, [1_u8; 16]));
    let entry = json!({
        "app": key.app, "connection": key.connection, "lease": lease, "used": "R1", "expected": expected,
        "record": STANDARD.encode(&record),
    });
    let entry = if level % 6 == 1 { bytes.to_vec() } else { entry.to_string().into_bytes() };
    let sealed = match level % 6 {
        0 => bytes.to_vec(),
        _ => primary.seal(&journal::place(NAME), &entry, &random),
    };
    let Ok((found, unstored)) = repository.open_entry(NAME, &sealed) else { return };
    assert_ne!(level % 6, 0, "nobody sealed it");
    assert!(AppName::parse(found.app.as_str()).is_ok(), "{found}");
    assert!(ConnectionName::stored(found.connection.as_str()).is_ok(), "{found}");
    let name = journal::name_of(&unstored.sealed.revision);
    let written =
        repository.seal_entry("checking properties", &found, &unstored, &primary).expect("it is small");
    let (again, unstored_again) = repository.open_entry(&name, &written).expect("it is what we write");
    assert_eq!(
        (&again, unstored_again.expected, unstored_again.lease),
        (&found, unstored.expected, unstored.lease)
    );
    assert_eq!(unstored_again.sealed, unstored.sealed);
    assert!(unstored_again.used == unstored.used && unstored_again.grant.current == unstored.grant.current);
}

/// Panics if a cursor is accepted that was not made for this list.
pub fn a_cursor_is_one_that_was_given(input: &[u8]) {
    // (No name has a NUL; a cursor is filled up with them.)
    let text = String::from_utf8_lossy(input).replace('\0', "");
    let repository = &*REPOSITORY;
    assert_eq!(repository.open_cursor("connections", &text), None, "nobody gave it");
    let given = repository.seal_cursor("connections", &text);
    assert!(given.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')), "{given}");
    assert_eq!(repository.open_cursor("connections", &given).as_deref(), Some(&*text));
    assert_eq!(repository.open_cursor("connections of another caller", &given), None);
    let at = input.first().map_or(0, |byte| usize::from(*byte)) % given.len();
    let mut other = given.into_bytes();
    other[at] = if other[at] == b'A' { b'B' } else { b'A' };
    let other = String::from_utf8(other).expect("it is ASCII");
    let opened = repository.open_cursor("connections", &other);
    // (The last character may hold bits that mean nothing, and then is refused for them.)
    assert_eq!(opened, None, "a changed one opens");
}

const PROFILE: &str = r#"{"account":{"iss":"https://issuer.example","sub":"alice"},"scopes_requested":[],"scopes_granted":[],
    "status":"Active","connected_by":"mail-sync","created_at":1,"connected_at":2,"last_refreshed_at":3}"#;

/// Over a store that nobody asks anything.
static REPOSITORY: LazyLock<Repository> = LazyLock::new(|| {
    let at = Timestamp::from_unix_seconds(1);
    let key = SealingKey::new("k1".to_owned(), at, Some(at), Zeroizing::new([1; 32]));
    let keyring = Keyring::new(vec![key], "properties").expect("a ring");
    let (clock, random) = (Arc::new(SystemClock::new()), Arc::new(SystemRandom::new()));
    let store = RedisStore::new(RedisConfig::new("127.0.0.1", 1), clock, random, Arc::new(TokioTasks::new()));
    let store = Arc::new(store.expect("it is not connected yet"));
    Repository::new(store, Arc::new(keyring), Arc::new(SeededRandom::new(1)))
});
