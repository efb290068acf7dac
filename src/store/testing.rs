//! A Redis server for tests: started on a free port with a directory of its own, stopped when dropped.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How often a start is tried: somebody else may take the free port first.
const STARTS: u32 = 5;
/// How often a starting server is looked at, and how long in between.
const LOOKS: u32 = 500;
const LOOK: Duration = Duration::from_millis(10);

/// A `redis-server` of our own, from the `PATH`, with an append-only file that is synced with every write.
pub struct RedisServer {
    child: Option<Child>,
    directory: PathBuf,
    port: u16,
    arguments: Vec<String>,
    tls: bool,
}

impl RedisServer {
    /// A server on a free port of 127.0.0.1.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more arguments, as `redis-server` takes them. `{dir}` in one stands for the server's directory.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_any(arguments, false)
    }

    /// A server that speaks TLS alone and asks for a client certificate: see [`RedisServer::file`] for `ca.crt`,
    /// `client.crt` and `client.key`. Its own certificate is for `localhost` and 127.0.0.1.
    pub fn start_tls() -> Self {
        Self::start_any(&[], true)
    }

    fn start_any(arguments: &[&str], tls: bool) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("tokenward-redis-{}-{number}", std::process::id()));
        let _left_behind = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).expect("a temporary directory can be made");
        if tls {
            make_certificates(&directory);
        }
        let path = directory.display().to_string();
        let arguments = arguments.iter().map(|argument| argument.replace("{dir}", &path)).collect();
        let mut server = RedisServer { child: None, directory, port: 0, arguments, tls };
        for _ in 0..STARTS {
            server.port = free_port();
            if server.launch() {
                return server;
            }
        }
        let log = fs::read_to_string(server.file("log")).unwrap_or_default();
        panic!("redis-server does not start: {log}");
    }

    /// The port it listens on; the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address as a URL, without a user.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "rediss" } else { "redis" };
        format!("{scheme}://127.0.0.1:{}/0", self.port)
    }

    /// A file in its directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Kills it, as a crash would. What it had acknowledged is in its append-only file.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill();
            let _gone = child.wait();
        }
    }

    /// Starts it again on the same port, with the same data.
    pub fn restart(&mut self) {
        self.stop();
        for _ in 0..STARTS {
            if self.launch() {
                return;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        panic!("redis-server does not start again");
    }

    /// The process, for signals.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Runs `redis-cli` with these arguments and returns what it printed, trimmed.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        if self.tls {
            command.arg("--tls").arg("--cacert").arg(self.file("ca.crt"));
            command.arg("--cert").arg(self.file("client.crt")).arg("--key").arg(self.file("client.key"));
        }
        let output = command.args(arguments).output().expect("redis-cli is installed");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// True once it answers.
    fn launch(&mut self) -> bool {
        let port = self.port.to_string();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
        command.arg("--dir").arg(&self.directory).arg("--logfile").arg(self.file("log"));
        if self.tls {
            command.args(["--port", "0", "--tls-port", &port]);
            command.arg("--tls-cert-file").arg(self.file("server.crt"));
            command.arg("--tls-key-file").arg(self.file("server.key"));
            command.arg("--tls-ca-cert-file").arg(self.file("ca.crt"));
        } else {
            command.args(["--port", &port]);
        }
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("redis-server is installed");
        for _ in 0..LOOKS {
            if child.try_wait().expect("ours").is_some() {
                return false;
            }
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                self.child = Some(child);
                // It accepts before it has loaded its data.
                while self.cli(&["PING"]).contains("LOADING") {
                    std::thread::sleep(LOOK);
                }
                return true;
            }
            std::thread::sleep(LOOK);
        }
        let _gone = child.kill();
        let _gone = child.wait();
        false
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
        let _left_behind = fs::remove_dir_all(&self.directory);
    }
}

/// A port that nobody listens on at the moment.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("some port is free");
    listener.local_addr().expect("bound").port()
}

/// An authority, a server's certificate and a client's, made with the `openssl` command.
fn make_certificates(directory: &Path) {
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(directory).output();
        let output = output.expect("openssl is installed");
        assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let mut authority = vec!["req", "-x509", "-days", "2", "-subj", "/CN=test authority"];
    authority.extend(["-keyout", "ca.key", "-out", "ca.crt"]);
    authority.extend(key);
    openssl(&authority);
    for (name, extensions) in [
        ("server", "subjectAltName=DNS:localhost,IP:127.0.0.1\n"),
        ("client", "extendedKeyUsage=clientAuth\nsubjectAltName=DNS:tokenward\n"),
    ] {
        let (request, certificate) = (format!("{name}.csr"), format!("{name}.crt"));
        let (private, extension) = (format!("{name}.key"), format!("{name}.ext"));
        fs::write(directory.join(&extension), extensions).expect("the directory is ours");
        let subject = format!("/CN={name}");
        let mut ask = vec!["req", "-subj", &subject, "-keyout", &private, "-out", &request];
        ask.extend(key);
        openssl(&ask);
        let mut sign = vec!["x509", "-req", "-days", "2", "-in", &request, "-out", &certificate];
        sign.extend(["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", &extension]);
        openssl(&sign);
    }
}
