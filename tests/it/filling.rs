//! A store with many connections, without as many sign-ins.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use tokenward::domain::account::Account;
use tokenward::domain::connection::{Profile, SignIn};
use tokenward::domain::grant::Grant;
use tokenward::domain::id::{AppName, ConnectionKey, ConnectionName};
use tokenward::domain::secret::RefreshToken;
use tokenward::domain::time::Clock;
use tokenward::domain::token::HeldToken;
use tokenward::keyring::files;
use tokenward::repository::Repository;
use tokenward::store::{keyspace, record};
use tokenward::system::{SystemClock, SystemRandom, TokioTasks};

use crate::redis_server::RedisServer;

/// The tenant of these connections, unless another one matters.
pub(crate) const TENANT: &str = "11111111-0000-4000-8000-00000000000a";

/// The connection with this number.
pub(crate) fn name(number: usize) -> String {
    format!("bulk-{number:06}")
}

/// The store as the daemon has it, and its keys.
pub(crate) fn repository(redis: &RedisServer, folder: &Path) -> Repository {
    let keyring = Arc::new(files::open(&folder.join("keyring")).expect("a keyring"));
    let (random, clock) = (Arc::new(SystemRandom::new()), Arc::new(SystemClock::new()));
    let config = tokenward::store::redis::RedisConfig::new("127.0.0.1", redis.port());
    let tasks = Arc::new(TokioTasks::new());
    let store = tokenward::store::redis::RedisStore::new(config, clock, random.clone(), tasks);
    Repository::new(Arc::new(store.expect("prepared")), keyring, random)
}

/// Fills the store with connections of one tenant, sealed as the daemon seals them, each with these tokens.
pub(crate) fn fill(redis: &RedisServer, folder: &Path, count: usize, tenant: &str, tokens: &[HeldToken]) {
    // It only seals: nothing is asked of the store.
    let (repository, clock) = (repository(redis, folder), SystemClock::new());
    let app = AppName::parse("outlook").expect("a name");
    let account = Account {
        iss: format!("https://login.example/{tenant}/v2.0"),
        sub: "s".into(),
        tid: Some(tenant.to_owned()),
        oid: Some("o".into()),
        username: None,
    };
    let profile =
        Profile::connected(account, vec![], vec!["Mail.Read".into()], "mail-sync".into(), clock.now(), None)
            .of_sign_in(SignIn { number: 1, nonce: [3; 8] });
    let grant = Grant::new(RefreshToken::new("a".repeat(900)));
    let mut pipe = Command::new("redis-cli")
        .args(["-p", &redis.port().to_string(), "--pipe"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-cli is installed");
    let mut input = std::io::BufWriter::new(pipe.stdin.take().expect("piped"));
    let mut send = |words: &[&[u8]]| {
        write!(input, "*{}\r\n", words.len()).expect("written");
        for word in words {
            write!(input, "${}\r\n", word.len()).expect("written");
            input.write_all(word).and_then(|()| input.write_all(b"\r\n")).expect("written");
        }
    };
    for number in 0..count {
        let connection = ConnectionName::parse(&name(number)).expect("a name");
        let key = ConnectionKey { app: app.clone(), connection };
        let sealed = repository.seal(&key, 0, &profile, tokens, Some(&grant), None);
        let record = record::encode("filling", &sealed).expect("fits");
        send(&[b"SET", keyspace::redis_record(&key).as_bytes(), &record]);
        send(&[b"ZADD", keyspace::redis_index(&app).as_bytes(), b"0", key.connection.as_str().as_bytes()]);
    }
    drop(input);
    assert!(pipe.wait().expect("it ends").success());
}
