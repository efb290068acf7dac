//! One replica: a real daemon, its folder, and the faults that can be applied from outside.

use parking_lot::{Mutex, MutexGuard};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use rustix::process::{Pid, Signal, kill_process};

use crate::access::AUDIT_KEY;
use crate::http_client;

/// How long a daemon may take until it is ready, with a store and an authority that may be in trouble.
const START: Duration = Duration::from_secs(60);
/// Exit code for a wrong configuration: a restart would not help.
const CONFIGURATION: i32 = 2;
/// Where Debian keeps the library that fakes wall clocks.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// A replica.
pub struct Replica {
    /// Its number.
    pub index: u8,
    /// Where callers go.
    pub local: SocketAddr,
    /// Where callers with a certificate go.
    pub tls: SocketAddr,
    ops: SocketAddr,
    folder: PathBuf,
    binary: PathBuf,
    clock: Option<PathBuf>,
    life: AtomicU32,
    child: Mutex<Option<Child>>,
}

/// Returns true if this machine can set wrong wall clocks.
pub fn can_fake_clocks() -> bool {
    Path::new(FAKETIME).exists()
}

impl Replica {
    /// A replica that is not started yet. With `clock` its wall clock can be set.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn new(
        index: u8,
        folder: PathBuf,
        binary: PathBuf,
        (local, tls, ops): (SocketAddr, SocketAddr, SocketAddr),
        clock: bool,
    ) -> io::Result<Self> {
        let clock = (clock && can_fake_clocks()).then(|| folder.join("clock"));
        let replica = Replica {
            index,
            local,
            tls,
            ops,
            folder,
            binary,
            clock,
            life: AtomicU32::new(0),
            child: Mutex::new(None),
        };
        replica.set_clock(0)?;
        Ok(replica)
    }

    /// Returns the number of its process, from 1.
    pub fn life(&self) -> u32 {
        self.life.load(Ordering::SeqCst)
    }

    /// Its process, while there is one.
    pub fn pid(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    /// Its audit stream.
    pub fn audit(&self) -> PathBuf {
        self.folder.join("audit.jsonl")
    }

    /// Where callers go that are users of this machine.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("local.sock")
    }

    /// Where operators go.
    pub fn admin(&self) -> PathBuf {
        self.folder.join("admin.sock")
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Whether its wall clock can be set.
    pub fn has_clock(&self) -> bool {
        self.clock.is_some()
    }

    /// Sets its wall clock this many seconds off.
    ///
    /// # Errors
    /// When the file that says so cannot be written.
    pub fn set_clock(&self, seconds: i64) -> io::Result<()> {
        let Some(clock) = &self.clock else { return Ok(()) };
        // Replaced atomically: the library reads it whenever the clock is read.
        let fresh = clock.with_extension("new");
        fs::write(&fresh, format!("{seconds:+}\n"))?;
        fs::rename(fresh, clock)
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// When it is not, for a minute.
    pub async fn start(&self) -> io::Result<()> {
        let begun = Instant::now();
        let mut running = false;
        while begun.elapsed() < START {
            if !running {
                self.spawn()?;
            }
            if self.is_ready().await {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            running = self.is_running();
            if self.exit_code() == Some(CONFIGURATION) {
                break;
            }
            if !running {
                // As a supervisor would: it may have met a store that is down.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let tail = log.lines().rev().take(4).collect::<Vec<_>>().join("\n");
        Err(io::Error::other(format!("replica {} is not ready:\n{tail}", self.index)))
    }

    fn spawn(&self) -> io::Result<()> {
        let log: File = OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut command = Command::new(&self.binary);
        command.arg("serve").arg("--config").arg(self.folder.join("tokenward.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let signing_key = self.folder.parent().map(|run| run.join(AUDIT_KEY));
        command.envs(signing_key.map(|file| ("TOKENWARD__AUDIT__SIGNING_KEY", file)));
        if let Some(clock) = &self.clock {
            command
                .env("LD_PRELOAD", FAKETIME)
                .env("FAKETIME_TIMESTAMP_FILE", clock)
                .env("FAKETIME_NO_CACHE", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
                .env("DONT_FAKE_MONOTONIC", "1");
        }
        let child = command.spawn()?;
        // Counted before anybody can be answered by it.
        self.life.fetch_add(1, Ordering::SeqCst);
        *self.child() = Some(child);
        Ok(())
    }

    fn is_running(&self) -> bool {
        self.child().as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    fn exit_code(&self) -> Option<i32> {
        self.child().as_mut()?.try_wait().ok()??.code()
    }

    async fn is_ready(&self) -> bool {
        let url = format!("http://{}/readyz", self.ops);
        let asked = http_client::request(Method::GET, &url, &[], "");
        let answer = tokio::time::timeout(Duration::from_secs(2), asked).await;
        matches!(answer, Ok(Ok(answer)) if answer.status == 200)
    }

    /// What it counts.
    pub async fn metrics(&self) -> Option<String> {
        let url = format!("http://{}/metrics", self.ops);
        let asked = http_client::request(Method::GET, &url, &[], "");
        tokio::time::timeout(Duration::from_secs(2), asked).await.ok()?.ok().map(|answer| answer.text())
    }

    /// Kills it.
    pub fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops it in order and waits until it has ended, for half a minute.
    pub async fn stop(&self) {
        self.signal(Signal::TERM);
        for _ in 0..300 {
            if !self.is_running() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.kill();
    }

    /// Stops it from running, or lets it run on.
    pub fn freeze(&self, frozen: bool) {
        self.signal(if frozen { Signal::STOP } else { Signal::CONT });
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = self.child().as_ref() {
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.freeze(false);
        self.kill();
    }
}
