//! Real Redis servers and sentinels, in folders of their own, removed with their owner.

use parking_lot::{Mutex, MutexGuard};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use rustix::process::{Pid, Signal, kill_process};

use crate::ports::lasting_port;

/// The name by which sentinels know the primary.
pub const PRIMARY: &str = "primary";
/// How long a server may take to answer after its start.
const START: Duration = Duration::from_secs(15);
/// How long a question to a server may take.
const ANSWER: Duration = Duration::from_secs(2);
/// A primary that is silent for so long is down, for the sentinels, in milliseconds.
const DOWN_AFTER: u32 = 1000;

/// A store of one server, or of three with three sentinels.
pub struct Redis {
    /// The servers; the first begins as the primary.
    pub nodes: Vec<Server>,
    /// The sentinels; none for a server that stands alone.
    pub sentinels: Vec<Server>,
}

impl Redis {
    /// Starts one server.
    ///
    /// # Errors
    /// When it does not start.
    pub fn standalone(folder: &Path) -> io::Result<Self> {
        let node = Server::start(folder.join("redis-0"), lasting_port(), "", false)?;
        Ok(Redis { nodes: vec![node], sentinels: Vec::new() })
    }

    /// Starts a primary, two replicas and three sentinels.
    ///
    /// # Errors
    /// When one of them does not start.
    pub fn with_sentinels(folder: &Path) -> io::Result<Self> {
        let first = Server::start(folder.join("redis-0"), lasting_port(), "", false)?;
        let primary = first.port;
        let mut nodes = vec![first];
        for number in 1..3 {
            let lines = format!("replicaof 127.0.0.1 {primary}\n");
            nodes.push(Server::start(folder.join(format!("redis-{number}")), lasting_port(), &lines, false)?);
        }
        let lines = format!(
            "sentinel monitor {PRIMARY} 127.0.0.1 {primary} 2\nsentinel down-after-milliseconds {PRIMARY} \
             {DOWN_AFTER}\n\
             sentinel failover-timeout {PRIMARY} 4000\nsentinel parallel-syncs {PRIMARY} 2\n"
        );
        let sentinels = (0..3).map(|number| {
            Server::start(folder.join(format!("sentinel-{number}")), lasting_port(), &lines, true)
        });
        let redis = Redis { nodes, sentinels: sentinels.collect::<io::Result<_>>()? };
        let begun = Instant::now();
        while !redis.is_whole() {
            if begun.elapsed() > START {
                return Err(io::Error::other("the sentinels do not find the replicas and each other"));
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(redis)
    }

    /// Which server is the primary now, as most sentinels see it.
    pub fn primary(&self) -> Option<&Server> {
        if self.sentinels.is_empty() {
            return self.nodes.first();
        }
        let votes: Vec<String> = self
            .sentinels
            .iter()
            .filter_map(|sentinel| sentinel.ask(&format!("SENTINEL get-master-addr-by-name {PRIMARY}")).ok())
            .collect();
        self.nodes.iter().find(|node| {
            let port = format!("\r\n{}\r\n", node.port);
            votes.iter().filter(|vote| vote.contains(&port)).count() * 2 > self.sentinels.len()
        })
    }

    /// Whether there is one primary with every other server as its replica, and all sentinels agree.
    pub fn is_whole(&self) -> bool {
        let Some(primary) = self.primary() else { return false };
        let Ok(state) = primary.ask("INFO replication") else { return false };
        let online = state.matches("state=online").count();
        let sentinels_know = self.sentinels.iter().all(|sentinel| {
            sentinel.ask("INFO sentinel").is_ok_and(|state| {
                state.contains("status=ok") && state.contains(&format!("sentinels={}", self.sentinels.len()))
            })
        });
        state.contains("role:master") && online + 1 == self.nodes.len() && sentinels_know
    }
}

/// One process of Redis.
pub struct Server {
    /// Where it listens.
    pub port: u16,
    folder: PathBuf,
    sentinel: bool,
    child: Mutex<Option<Child>>,
}

impl Server {
    fn start(folder: PathBuf, port: u16, lines: &str, sentinel: bool) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let data = if sentinel {
            ""
        } else {
            "appendonly yes\nappendfsync always\nsave \"\"\nrepl-diskless-sync-delay 0\nmaxmemory-policy \
             noeviction\n"
        };
        // Sentinels and failovers rewrite the file, so it is each server's own.
        let dir = folder.display();
        let config = format!(
            "port {port}\nbind 127.0.0.1\nprotected-mode no\ndir {dir}\nlogfile {dir}/log\n{data}{lines}"
        );
        fs::write(folder.join("redis.conf"), config)?;
        let server = Server { port, folder, sentinel, child: Mutex::new(None) };
        server.launch()?;
        Ok(server)
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Starts it, with the data it has, and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn launch(&self) -> io::Result<()> {
        let mut command = Command::new("redis-server");
        command.arg(self.folder.join("redis.conf"));
        if self.sentinel {
            command.arg("--sentinel");
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        *self.child() = Some(command.spawn()?);
        let begun = Instant::now();
        while !self.ask("PING").is_ok_and(|answer| answer.contains("PONG")) {
            if begun.elapsed() > START {
                let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                return Err(io::Error::other(format!("redis-server does not start: {log}")));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Kills it.
    pub fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops it from running, or lets it run on.
    pub fn freeze(&self, frozen: bool) {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        if let Some(child) = self.child().as_ref() {
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    /// Puts its data aside, so that it starts empty; or back, as an operator's restore does.
    ///
    /// # Errors
    /// When files cannot be moved.
    pub fn hide_data(&self, hidden: bool) -> io::Result<()> {
        const DATA: &str = "appendonlydir";
        let (here, aside) = (self.folder.join(DATA), self.folder.join("aside"));
        if !hidden {
            if here.exists() {
                fs::remove_dir_all(&here)?;
            }
            return fs::rename(aside, here);
        }
        if aside.exists() {
            fs::remove_dir_all(&aside)?;
        }
        fs::rename(here, aside)
    }

    /// Asks it something that it answers in one go.
    ///
    /// # Errors
    /// When it cannot be reached or does not answer in time.
    pub fn ask(&self, command: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.address(), ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes())?;
        let mut answer = Vec::new();
        // Sentinels do not know QUIT in every version: what came until then is the answer.
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) if answer.is_empty() => return Err(error),
            Err(_) => {}
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.freeze(false);
        self.kill();
    }
}
