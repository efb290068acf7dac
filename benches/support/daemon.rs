//! A daemon in a process of its own.

use std::io::{BufRead as _, BufReader, Lines};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use super::Failure;

/// A process that ends with this.
pub struct Server(Child);

impl Server {
    pub fn new(child: Child) -> Self {
        Server(child)
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Asks it to stop, and waits until it has: it ends as it does in production.
    pub fn stop(mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(i32::try_from(self.id()).unwrap_or(0)) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a daemon with this configuration.
pub fn start(binary: &Path, config: &Path) -> Result<(Server, Log), Failure> {
    let mut child = Command::new(binary)
        .args(["serve", "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let log = BufReader::new(child.stderr.take().ok_or("no log")?).lines();
    Ok((Server(child), Log(log)))
}

/// What a daemon logs.
pub struct Log(Lines<BufReader<ChildStderr>>);

/// Where a daemon listens: ports, in the configuration's order.
pub struct Ports {
    pub local: Vec<u16>,
    pub ops: u16,
}

impl Log {
    /// Waits until the daemon serves. (It says so at the level "info".)
    pub fn ports(&mut self) -> Result<Ports, Failure> {
        loop {
            let line = self.0.next().ok_or("the daemon did not start")??;
            let event: serde_json::Value = serde_json::from_str(&line).map_err(|_| line.clone())?;
            if event["message"] == "tokenward serves" {
                let port = |text: &str| text.trim().parse::<SocketAddr>().map(|address| address.port());
                let [local, ops] = ["local", "ops"].map(|key| event[key].as_str().ok_or("no addresses"));
                let local = local?.trim_matches(['[', ']']).split(',').map(port).collect::<Result<_, _>>()?;
                return Ok(Ports { local, ops: port(ops?)? });
            }
        }
    }

    /// Reads on in a thread of its own, so that the daemon never waits for that.
    pub fn read_on(self, each: impl FnMut(String) + Send + 'static) {
        std::thread::spawn(move || self.0.map_while(Result::ok).for_each(each));
    }
}
