//! The daemon, a process of its own, and the Redis beside it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokenward::store::Store;
use tokenward::store::embedded::{EmbeddedConfig, EmbeddedStore};
use tokenward::store::redis::{RedisConfig, RedisStore};
use tokenward::system::{SystemClock, SystemRandom, TokioTasks};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::Failure;
use crate::support::daemon::{self, Server};
use crate::support::http_client::request;
use crate::support::setup::config_text::{ConfigText, EVERYTHING, caller};
use crate::support::setup::{free_port, write_secrets};

/// How long a `redis-server` may take until it answers: one with a million connections reads its file first.
const REDIS_WAIT: Duration = Duration::from_secs(300);

/// A `redis-server` that writes nothing by itself.
pub struct Redis {
    pub process: Server,
    pub port: u16,
}

impl Redis {
    pub fn start(folder: &Path) -> Result<Self, Failure> {
        let port = free_port()?;
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"])
            .arg(port.to_string())
            .arg("--dir")
            .arg(folder)
            .stdout(Stdio::null())
            .spawn()?;
        let redis = Redis { process: Server::new(child), port };
        let began = Instant::now();
        while began.elapsed() < REDIS_WAIT {
            if redis.cli(&["PING"])? == "PONG" {
                return Ok(redis);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err("redis-server does not start".into())
    }

    pub fn cli(&self, arguments: &[&str]) -> Result<String, Failure> {
        let port = self.port.to_string();
        let output = Command::new("redis-cli").args(["-p", &port]).args(arguments).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Bytes that it has in use.
    pub fn used(&self) -> Result<u64, Failure> {
        let info = self.cli(&["INFO", "memory"])?;
        let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).ok_or("no used_memory")?;
        Ok(line.trim().parse()?)
    }

    /// Bytes of one key with its value, every element of it counted.
    pub fn usage(&self, key: &str) -> Result<u64, Failure> {
        Ok(self.cli(&["MEMORY", "USAGE", key, "SAMPLES", "0"])?.parse().unwrap_or(0))
    }
}

/// A store of one size, the files of a daemon on it, and the Redis if it is one.
pub struct Place {
    folder: PathBuf,
    /// It goes with the place, unless somebody keeps it.
    _temporary: Option<tempfile::TempDir>,
    pub redis: Option<Redis>,
    key: String,
    local: u16,
    ops: u16,
    pub admin: u16,
}

impl Place {
    /// A new, empty one.
    pub fn new(in_redis: bool, authority: &str, sweep_rate: u32) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().to_owned();
        Ok(Place { _temporary: Some(folder), ..Self::at(path, in_redis, authority, sweep_rate)? })
    }

    /// The one in this folder, as it was left there, or a new one. What is in Redis stays with
    /// [`Place::save`].
    pub fn at(folder: PathBuf, in_redis: bool, authority: &str, sweep_rate: u32) -> Result<Self, Failure> {
        std::fs::create_dir_all(&folder)?;
        let is_new = !folder.join("keyring").exists();
        let key = if is_new { write_secrets(&folder)?.expose().to_owned() } else { String::new() };
        let redis = if in_redis { Some(Redis::start(&folder)?) } else { None };
        let store = match &redis {
            Some(redis) => format!("kind = \"redis\"\nurl = \"redis://127.0.0.1:{}/0\"", redis.port),
            None => "kind = \"embedded\"\npath = \"data\"".to_owned(),
        };
        let (public, local, ops, admin) = (free_port()?, free_port()?, free_port()?, free_port()?);
        let sections = format!("[[listen.admin]]\naddress = \"127.0.0.1:{admin}\"\n")
            + &caller("mail-sync", "mail-sync.keys", EVERYTHING)
            + &format!("\n[limits]\nsweep_rate = {sweep_rate}\nheld_memory_mib = 1024\n");
        let text = ConfigText {
            store: &store,
            public_port: public,
            base_port: public,
            authority,
            sections: &sections,
            log_level: "error",
            ops: &format!("127.0.0.1:{ops}"),
            local: &format!("127.0.0.1:{local}"),
            ..ConfigText::default()
        };
        std::fs::write(folder.join("tokenward.toml"), text.text())?;
        Ok(Place { folder, _temporary: None, redis, key, local, ops, admin })
    }

    /// Has Redis write what it holds into the folder.
    pub fn save(&self) -> Result<(), Failure> {
        match self.redis.as_ref().map(|redis| redis.cli(&["SAVE"])).transpose()?.as_deref() {
            None | Some("OK") => Ok(()),
            Some(other) => Err(format!("Redis does not save: {other}").into()),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Opens the store itself. (The embedded one serves one process.)
    pub fn open(&self) -> Result<Arc<dyn Store>, Failure> {
        let clock = Arc::new(SystemClock::new());
        Ok(match &self.redis {
            Some(redis) => {
                let config = RedisConfig::new("127.0.0.1", redis.port);
                let (random, tasks) = (Arc::new(SystemRandom::new()), Arc::new(TokioTasks::new()));
                Arc::new(RedisStore::new(config, clock, random, tasks)?)
            }
            None => {
                let config = EmbeddedConfig::new(self.path("data"));
                Arc::new(EmbeddedStore::open(&config, clock, &SystemRandom::new())?)
            }
        })
    }

    /// Starts the daemon. Says how long it took until it was ready.
    pub async fn daemon(&self, binary: &Path) -> Result<(Daemon, Duration), Failure> {
        let began = Instant::now();
        let (process, log) = daemon::start(binary, &self.path("tokenward.toml"))?;
        log.read_on(|line| println!("  daemon: {line}"));
        let daemon = Daemon { process, local: self.local, ops: self.ops, key: self.key.clone() };
        while !daemon.is_ready().await {
            if began.elapsed() > Duration::from_secs(300) {
                return Err("the daemon is not ready".into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok((daemon, began.elapsed()))
    }
}

/// A daemon that runs.
pub struct Daemon {
    process: Server,
    local: u16,
    ops: u16,
    key: String,
}

impl Daemon {
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn stop(self) {
        self.process.stop();
    }

    async fn is_ready(&self) -> bool {
        let url = format!("http://127.0.0.1:{}/readyz", self.ops);
        request(http::Method::GET, &url, &[], "").await.is_ok_and(|answer| answer.status == 200)
    }

    /// A connection to its local API, which is kept.
    pub async fn client(&self) -> Result<Client, Failure> {
        let stream = TcpStream::connect(("127.0.0.1", self.local)).await?;
        stream.set_nodelay(true)?;
        Ok(Client { stream, key: self.key.clone(), read: Vec::new() })
    }
}

/// A caller with one connection, which asks one thing after the other.
pub struct Client {
    stream: TcpStream,
    key: String,
    read: Vec<u8>,
}

impl Client {
    /// Asks, and says how long the answer took. Any other answer than 200 is an error.
    pub async fn get(&mut self, path: &str) -> Result<(Duration, serde_json::Value), Failure> {
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: tokenward\r\nauthorization: Bearer {}\r\n\r\n", self.key);
        let began = Instant::now();
        self.stream.write_all(request.as_bytes()).await?;
        self.read.clear();
        let (head, length) = loop {
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err("the daemon hung up".into());
            }
            let Some(head) = self.read.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let text = String::from_utf8_lossy(&self.read[..head]).to_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            break (head + 4, length.unwrap_or(0_usize));
        };
        while self.read.len() < head + length {
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err("the daemon hung up".into());
            }
        }
        let took = began.elapsed();
        if !self.read.starts_with(b"HTTP/1.1 200") {
            return Err(String::from_utf8_lossy(&self.read).into_owned().into());
        }
        Ok((took, serde_json::from_slice(&self.read[head..])?))
    }
}
