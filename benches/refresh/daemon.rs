//! The daemons, each a process of its own with a filled store.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokenward::store::embedded::{EmbeddedConfig, EmbeddedStore};
use tokenward::store::redis::{RedisConfig, RedisStore};
use tokenward::system::{SystemClock, SystemRandom, TokioTasks};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::authority::Authority;
use crate::redis_server::RedisServer;
use crate::support::daemon::{self, Server};
use crate::support::setup::config_text::{ConfigText, EVERYTHING, caller};
use crate::support::setup::{free_port, write_secret, write_secrets};
use crate::support::{Failure, account};
use crate::{SHORT, seed};

/// How often a daemon that starts is asked, and the pause in between.
const MOST_ASKS: usize = 200;
const PAUSE: Duration = Duration::from_millis(50);

/// What a line of its log has that is an error, and how many of those are shown.
const ERROR: &str = r#""level":"ERROR""#;
const MOST_LINES: usize = 20;

/// Where a daemon keeps its connections.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    Redis,
    Embedded,
}

/// What all daemons of a run share.
pub struct Shared {
    pub authority: Authority,
    folder: tempfile::TempDir,
    key: String,
}

/// A daemon, with its Redis if it has one.
pub struct Daemon {
    process: Server,
    redis: Option<RedisServer>,
    port: u16,
    key: String,
    record_bytes: usize,
}

/// The processor's time that processes have taken.
pub struct Spent {
    pub daemon: Duration,
    pub redis: Duration,
}

impl Shared {
    pub fn new(authority: Authority) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let key = write_secrets(folder.path())?;
        let pair = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)?;
        let certificate = rcgen::CertificateParams::new(Vec::<String>::new())?.self_signed(&pair)?;
        let pem = format!("{}{}", certificate.pem(), pair.serialize_pem());
        write_secret(&folder.path().join("certificate.pem"), &pem)?;
        Ok(Shared { authority, key: key.expose().to_owned(), folder })
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Daemon {
    /// Starts one whose connections' tokens have ended.
    pub async fn start(
        shared: &Shared,
        binary: &Path,
        kept: Kept,
        by_certificate: bool,
    ) -> Result<Self, Failure> {
        Self::start_with(shared, binary, kept, by_certificate, (SHORT, Duration::ZERO)).await
    }

    /// Starts one with Redis and so many connections whose tokens live.
    pub async fn start_long(shared: &Shared, binary: &Path, count: usize) -> Result<Self, Failure> {
        let life = Duration::from_secs(6 * 3600);
        Self::start_with(shared, binary, Kept::Redis, false, (count, life)).await
    }

    async fn start_with(
        shared: &Shared,
        binary: &Path,
        kept: Kept,
        by_certificate: bool,
        (count, life): (usize, Duration),
    ) -> Result<Self, Failure> {
        let folder = tempfile::tempdir_in(shared.folder())?.keep();
        let keyring = shared.folder().join("keyring");
        let (clock, random) = (Arc::new(SystemClock::new()), Arc::new(SystemRandom::new()));
        // (As Redis is usually set up: synced once a second. Its file is not rewritten meanwhile.)
        let redis = (kept == Kept::Redis).then(|| {
            RedisServer::start_with(&["--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0"])
        });
        let (store, record_bytes) = match &redis {
            Some(redis) => {
                let config = RedisConfig::new("127.0.0.1", redis.port());
                let store = RedisStore::new(config, clock, random, Arc::new(TokioTasks::new()))?;
                let bytes = seed::fill(Arc::new(store), &keyring, &shared.authority, count, life).await?;
                (format!("kind = \"redis\"\nurl = \"{}\"", redis.url()), bytes)
            }
            None => {
                let config = EmbeddedConfig::new(folder.join("data"));
                let store = EmbeddedStore::open(&config, clock, random.as_ref())?;
                let bytes = seed::fill(Arc::new(store), &keyring, &shared.authority, count, life).await?;
                ("kind = \"embedded\"\npath = \"data\"".to_owned(), bytes)
            }
        };
        let parts = format!("{}/", shared.folder().display());
        let certificate = format!(
            "[[apps.outlook.credentials]]\nid = \"first\"\nkind = \"certificate\"\nfile = \
             \"{parts}certificate.pem\"\n"
        );
        let public = free_port()?;
        let text = ConfigText {
            store: &store,
            folder: &parts,
            public_port: public,
            base_port: public,
            authority: &shared.authority.url(),
            credentials: by_certificate.then_some(certificate.as_str()),
            // (The sweep would renew some of them before they are asked for.)
            sections: &format!(
                "{}[limits]\nsweep_rate = 0\n",
                caller("mail-sync", &format!("{parts}mail-sync.keys"), EVERYTHING)
            ),
            ..ConfigText::default()
        };
        std::fs::write(folder.join("tokenward.toml"), text.text())?;
        let (process, mut log) = daemon::start(binary, &folder.join("tokenward.toml"))?;
        let port = log.ports()?.local[0];
        // (An error would spoil the figures.)
        let mut most = MOST_LINES;
        log.read_on(move |line| {
            if line.contains(ERROR) && most > 0 {
                most -= 1;
                eprintln!("{line}");
            }
        });
        Ok(Daemon { process, redis, port, key: shared.key.clone(), record_bytes })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many bytes a record had when it was made.
    pub fn record_bytes(&self) -> usize {
        self.record_bytes
    }

    /// A client of its Redis.
    pub fn redis(&self) -> Result<redis::Client, Failure> {
        let server = self.redis.as_ref().ok_or("it has no Redis")?;
        Ok(redis::Client::open(server.url())?)
    }

    /// Requests for the tokens of these connections.
    pub fn asks_for(&self, numbers: Range<usize>) -> Vec<Vec<u8>> {
        let target = |number| format!("/v1/apps/outlook/connections/user-{number:06}/token");
        let ask = |number| account::get(&target(number), &account::bearer(&self.key));
        numbers.map(|number| ask(number).into_bytes()).collect()
    }

    /// Waits until it hands out the token of connection `number`; says what is wrong if it does not.
    pub async fn is_ready(&self, number: usize) -> Result<(), Failure> {
        let mut answer = String::new();
        for _ in 0..MOST_ASKS {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            stream.write_all(&self.asks_for(number..number + 1)[0]).await?;
            let mut bytes = vec![0; 16 * 1024];
            let read = stream.read(&mut bytes).await?;
            answer = String::from_utf8_lossy(&bytes[..read]).into_owned();
            if answer.starts_with("HTTP/1.1 200") {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(answer.into())
    }

    /// How many GETs its Redis has carried out.
    pub fn record_reads(&self) -> u64 {
        let Some(redis) = &self.redis else { return 0 };
        let stats = redis.cli(&["INFO", "commandstats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_get:calls="));
        let digits = line.and_then(|rest| rest.split(',').next());
        digits.and_then(|digits| digits.parse().ok()).unwrap_or_default()
    }

    /// The processor's time so far.
    pub fn spent(&self) -> Spent {
        let redis = self.redis.as_ref().map_or(0, |redis| {
            let info = redis.cli(&["INFO", "server"]);
            let line = info.lines().find_map(|line| line.strip_prefix("process_id:").map(str::to_owned));
            line.and_then(|id| id.trim().parse().ok()).unwrap_or_default()
        });
        Spent { daemon: processor_time(self.process.id()), redis: processor_time(redis) }
    }
}

/// The processor's time of a process, in and for it.
pub fn processor_time(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name before may hold blanks. Of what follows, the 12th and the 13th are the times, in hundredths.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let hundredths =
        |at: usize| after.split_ascii_whitespace().nth(at).and_then(|one| one.parse::<u64>().ok());
    Duration::from_millis(10 * (hundredths(11).unwrap_or(0) + hundredths(12).unwrap_or(0)))
}
