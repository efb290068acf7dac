//! Records that an earlier build stored are read as it showed them (`tests/data/records`).

use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use http::Method;
use serde_json::Value;
use tokenward::domain::id::{AppName, ConnectionKey, ConnectionName};
use tokenward::keyring::files;
use tokenward::repository::Repository;
use tokenward::store::embedded::{EmbeddedConfig, EmbeddedStore};
use tokenward::system::{SystemClock, SystemRandom};

use crate::http_client::request;
use crate::redis_server::RedisServer;
use crate::setup::{free_port, write_configuration};
use crate::world::{Process, text, write_secret};

const CONNECTIONS: [&str; 4] = ["user-alice", "user-bob", "user-carol", "user-dave"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/records").join(name)
}

/// What the earlier build said of its records.
fn expected(store: &str) -> Value {
    let text = std::fs::read(fixture(&format!("{store}.json"))).expect("a file of ours");
    serde_json::from_slice(&text).expect("JSON")
}

/// Puts the records' keyring into this folder, in place of what is there.
fn take_keyring(folder: &Path, store: &str) {
    let (keyring, key) = (folder.join("keyring"), fixture(&format!("{store}.key")));
    let _made_anew = std::fs::remove_dir_all(&keyring);
    DirBuilder::new().mode(0o700).create(&keyring).expect("the folder is ours");
    let key = std::fs::read_to_string(key).expect("a file of ours");
    let id = key.split_once("id = \"").and_then(|(_, rest)| rest.split_once('"')).expect("an id").0;
    write_secret(&keyring.join(format!("{id}.key")), &key);
}

fn take_embedded(folder: &Path) {
    let data = folder.join("data");
    DirBuilder::new().mode(0o700).create(&data).expect("the folder is ours");
    let file = data.join("tokenward.redb");
    std::fs::copy(fixture("embedded.redb"), &file).expect("the folder is ours");
    std::fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("the file is ours");
}

/// A server that has loaded the snapshot.
fn redis_with_records() -> RedisServer {
    let mut redis = RedisServer::start_with(&["--appendonly", "no"]);
    redis.stop();
    std::fs::copy(fixture("redis.rdb"), redis.file("dump.rdb")).expect("its directory is ours");
    redis.restart();
    redis.cli(&["CONFIG", "SET", "appendonly", "yes"]);
    redis
}

/// The daemon on such records shows each connection as the earlier build did. The authority is away: nothing
/// is asked anew.
async fn are_shown_as_before(folder: &Path, store: &str, redis: Option<&RedisServer>) {
    let away = format!("http://127.0.0.1:{}/common", free_port().expect("a port"));
    let (config, key) = write_configuration(folder, free_port().expect("a port"), &away).expect("written");
    take_keyring(folder, store);
    if let Some(redis) = redis {
        let text = std::fs::read_to_string(&config).expect("ours");
        let store = format!("kind = \"redis\"\nurl = \"{}\"", redis.url());
        let text = text.replace("kind = \"embedded\"\npath = \"data\"", &store);
        std::fs::write(&config, text).expect("ours");
    }
    let daemon = Process::start(folder).await;
    let bearer = format!("Bearer {}", key.expose());
    let get = async |connection: &str, what: &str| {
        let url = format!("{}/v1/apps/outlook/connections/{connection}{what}", daemon.local);
        request(Method::GET, &url, &[("authorization", &bearer)], "").await.expect("an answer")
    };
    let expected = expected(store);
    for connection in CONNECTIONS {
        let mut shown = get(connection, "/explain").await.json();
        shown.as_object_mut().expect("an object").remove("next_refresh_at");
        // (Later builds show more.)
        for (member, value) in expected[connection].as_object().expect("a connection") {
            assert_eq!(&shown[member], value, "{connection} {member}");
        }
    }
    let codes =
        ["authority_unavailable", "connection_paused", "reauthorization_required", "connection_blocked"];
    for (connection, code) in CONNECTIONS.into_iter().zip(codes) {
        let refused = get(connection, "/token").await.json();
        assert_eq!(text(&refused, "code"), code, "{connection}: {refused}");
    }
}

#[tokio::test]
async fn of_an_earlier_build_are_shown_as_before_embedded() {
    let folder = tempfile::tempdir().expect("a folder");
    take_embedded(folder.path());
    are_shown_as_before(folder.path(), "embedded", None).await;
}

#[tokio::test]
async fn of_an_earlier_build_are_shown_as_before_redis() {
    let folder = tempfile::tempdir().expect("a folder");
    let redis = redis_with_records();
    are_shown_as_before(folder.path(), "redis", Some(&redis)).await;
}

/// Grants that an earlier build sealed open to the refresh tokens that it got.
#[tokio::test]
async fn grants_of_an_earlier_build_open() {
    let folder = tempfile::tempdir().expect("a folder");
    take_embedded(folder.path());
    take_keyring(folder.path(), "embedded");
    let keyring = files::open(&folder.path().join("keyring")).expect("opens");
    let random = Arc::new(SystemRandom::new());
    let config = EmbeddedConfig::new(folder.path().join("data"));
    let store = EmbeddedStore::open(&config, Arc::new(SystemClock::new()), &*random).expect("opens");
    let repository = Repository::new(Arc::new(store), Arc::new(keyring), random);
    let expected = expected("embedded");
    let issued = expected["refresh_tokens_sha256"].as_array().expect("a list");
    for connection in CONNECTIONS {
        let app = AppName::parse("outlook").expect("a name");
        let name = ConnectionName::parse(connection).expect("a name");
        let key = ConnectionKey { app, connection: name };
        let loaded = repository.load(&key).await.expect("reads").expect("is there");
        assert_eq!(loaded.connection.tokens.len(), 1, "{connection}");
        let Some(grant) = repository.open_grant(&key, &loaded).expect("opens") else {
            assert_eq!(connection, "user-carol", "the authority called this grant dead");
            continue;
        };
        let hash = digest::digest(&digest::SHA256, grant.current.expose().as_bytes());
        let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(issued.iter().any(|one| *one == hash), "{connection}");
    }
}
