//! Redis servers for tests: each started on a free port with a directory of its own, stopped when dropped.
//! One alone, a primary with replicas and the sentinels that watch them, or a Cluster.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

#[path = "testing_ports.rs"]
mod ports;
use ports::free_node_port;
pub use ports::free_port;

/// How often a start is tried.
const STARTS: u32 = 5;
/// How often a starting server is looked at, and how long in between: a minute and a half, for a busy
/// machine.
const LOOKS: u32 = 9000;
const LOOK: Duration = Duration::from_millis(10);

/// A `redis-server` of our own, from the `PATH`, with an append-only file that is synced with every write.
pub struct RedisServer {
    child: Option<Child>,
    directory: PathBuf,
    port: u16,
    arguments: Vec<String>,
    tls: bool,
    /// What its configuration file begins with, where it has one: whoever is reconfigured by a sentinel
    /// writes that down.
    configuration: Option<String>,
    sentinel: bool,
    paused: AtomicBool,
}

impl RedisServer {
    /// A server on a free port of 127.0.0.1.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more arguments, as `redis-server` takes them. `{dir}` in one stands for the server's
    /// directory.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_any(arguments, false, None, false)
    }

    /// A server that keeps what it is told at run time, so that it comes back from a restart as what it was
    /// made.
    pub fn start_configured(configuration: &str, arguments: &[&str]) -> Self {
        Self::start_any(arguments, false, Some(configuration), false)
    }

    /// A sentinel with this configuration. `{dir}` in it stands for its directory.
    pub fn start_sentinel(configuration: &str) -> Self {
        Self::start_any(&[], false, Some(configuration), true)
    }

    /// A server that speaks TLS alone and asks for a client certificate: see [`RedisServer::file`] for
    /// `ca.crt`, `client.crt` and `client.key`. Its own certificate is for `localhost` and 127.0.0.1.
    pub fn start_tls() -> Self {
        Self::start_any(&[], true, None, false)
    }

    /// The same with more arguments.
    pub fn start_tls_with(arguments: &[&str]) -> Self {
        Self::start_any(arguments, true, None, false)
    }

    fn start_any(arguments: &[&str], tls: bool, configuration: Option<&str>, sentinel: bool) -> Self {
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
        let configuration = configuration.map(|text| text.replace("{dir}", &path));
        let paused = AtomicBool::new(false);
        let mut server =
            RedisServer { child: None, directory, port: 0, arguments, tls, configuration, sentinel, paused };
        for _ in 0..STARTS {
            let is_node = server.arguments.iter().any(|argument| argument == "--cluster-enabled");
            server.port = if is_node { free_node_port() } else { free_port() };
            if let Some(text) = &server.configuration {
                let text = format!("port {}\nbind 127.0.0.1\n{text}\n", server.port);
                fs::write(server.file("redis.conf"), text).expect("the directory is ours");
            }
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

    /// Another certificate of the authority of a server with TLS, for a client: `name.crt` and `name.key`.
    pub fn issue(&self, name: &str) {
        issue(&self.directory, name, "extendedKeyUsage=clientAuth\nsubjectAltName=DNS:tokenward\n");
    }

    /// Kills it, as a crash would. What it had acknowledged is in its append-only file.
    pub fn stop(&mut self) {
        self.paused.store(false, Ordering::SeqCst);
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

    /// Stops it in its tracks, as a frozen machine would: it keeps its connections and says nothing.
    pub fn pause(&self) {
        self.paused.store(true, Ordering::SeqCst);
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.paused.store(false, Ordering::SeqCst);
        self.signal("-CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.pid().expect("it runs").to_string();
        let sent = Command::new("kill").args([name, &pid]).status().expect("kill is there");
        assert!(sent.success(), "kill {name} {pid}");
    }

    /// Whether it was started and not stopped.
    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// Whether it can be asked.
    fn answers(&self) -> bool {
        self.runs() && !self.paused.load(Ordering::SeqCst)
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
        if self.configuration.is_some() {
            command.arg(self.file("redis.conf"));
        }
        if self.sentinel {
            command.arg("--sentinel");
        } else {
            command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]);
            command.args(["--appendfsync", "always"]);
        }
        command.arg("--dir").arg(&self.directory).arg("--logfile").arg(self.file("log"));
        if self.sentinel {
            // Its port is in its configuration.
        } else if self.tls {
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

/// How often a state is looked for that comes by itself, and how long in between: a minute and a half, for a
/// busy machine.
const WAITS: u32 = 1800;
const WAIT: Duration = Duration::from_millis(50);

/// After how long a silence a sentinel begins a failover. A sentinel says PING once a second at most and
/// begins with the count at each failover: with less, a busy machine has one failover after the other.
const DOWN_AFTER_MILLIS: u32 = 1500;

/// A primary, its replicas and the sentinels that watch them, more than half of which agree on a failover.
/// The first node is the first primary.
pub struct RedisTopology {
    /// The servers.
    pub nodes: Vec<RedisServer>,
    /// The sentinels.
    pub sentinels: Vec<RedisServer>,
}

impl RedisTopology {
    /// The primary's name.
    pub const PRIMARY: &str = "primary";

    /// Starts them, and waits until everyone knows everyone.
    pub fn start(replicas: usize, sentinels: usize) -> Self {
        Self::start_with(replicas, sentinels, &[])
    }

    /// The same with more arguments for each node, as `redis-server` takes them.
    pub fn start_with(replicas: usize, sentinels: usize, arguments: &[&str]) -> Self {
        let mut arguments = arguments.to_vec();
        arguments.extend(["--repl-diskless-sync-delay", "0"]);
        let first = RedisServer::start_configured("", &arguments);
        let replicaof = format!("replicaof 127.0.0.1 {}", first.port());
        let (name, port, quorum) = (Self::PRIMARY, first.port(), sentinels / 2 + 1);
        let watch = format!(
            "sentinel monitor {name} 127.0.0.1 {port} {quorum}\n\
             sentinel down-after-milliseconds {name} {DOWN_AFTER_MILLIS}\n\
             sentinel failover-timeout {name} 2000"
        );
        let mut nodes = vec![first];
        nodes.extend((0..replicas).map(|_| RedisServer::start_configured(&replicaof, &arguments)));
        let sentinels = (0..sentinels).map(|_| RedisServer::start_sentinel(&watch)).collect();
        let topology = RedisTopology { nodes, sentinels };
        topology.settle();
        topology
    }

    /// The URL that names the sentinels, as the configuration takes it.
    pub fn url(&self) -> String {
        let hosts: Vec<String> =
            self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port())).collect();
        format!("redis+sentinel://{}/{}", hosts.join(","), Self::PRIMARY)
    }

    /// The node that a sentinel names, by its place among [`RedisTopology::nodes`].
    pub fn named_by(&self, sentinel: usize) -> Option<usize> {
        let said = self.sentinels[sentinel].cli(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Self::PRIMARY]);
        let port: u16 = said.lines().nth(1)?.parse().ok()?;
        self.nodes.iter().position(|node| node.port() == port)
    }

    /// The node that the sentinels name; waits until all that run agree.
    pub fn primary(&self) -> usize {
        let mut named = None;
        wait_for("the sentinels to agree", || {
            let running: Vec<usize> =
                (0..self.sentinels.len()).filter(|&at| self.sentinels[at].runs()).collect();
            named = self.named_by(running[0]);
            named.is_some() && running.iter().all(|&at| self.named_by(at) == named)
        });
        named.expect("was waited for")
    }

    /// Tells a sentinel to make a replica the primary, and waits until it is. Everyone that runs must be
    /// settled.
    pub fn failover(&self) -> usize {
        let before = self.primary();
        let sentinel = self.sentinels.iter().find(|sentinel| sentinel.runs()).expect("one runs");
        assert_eq!(sentinel.cli(&["SENTINEL", "FAILOVER", Self::PRIMARY]), "OK");
        self.failed_over(before)
    }

    /// Waits until the sentinels name another primary than this one, and it is one.
    pub fn failed_over(&self, before: usize) -> usize {
        let mut primary = before;
        wait_for("a failover", || {
            primary = self.primary();
            primary != before && self.nodes[primary].cli(&["ROLE"]).starts_with("master")
        });
        primary
    }

    /// Waits until every node and sentinel that runs is known to every sentinel that does, and every replica
    /// has what the primary has.
    pub fn settle(&self) {
        let nodes = self.nodes.iter().filter(|node| node.runs()).count();
        let sentinels = self.sentinels.iter().filter(|sentinel| sentinel.runs()).count();
        wait_for("replicas and sentinels to know each other", || {
            let primary = self.primary();
            let port = self.nodes[primary].port().to_string();
            let follows = |node: &RedisServer| {
                let role = node.cli(&["ROLE"]);
                let role: Vec<&str> = role.lines().collect();
                matches!(&role[..], ["slave", _, of, "connected", ..] if *of == port)
            };
            self.nodes.iter().filter(|node| node.runs()).filter(|node| follows(node)).count() == nodes - 1
                && self.sentinels.iter().filter(|sentinel| sentinel.runs()).all(|sentinel| {
                    let known = sentinel.cli(&["SENTINEL", "MASTER", Self::PRIMARY]);
                    let fields: Vec<&str> = known.lines().collect();
                    let number = |name: &str| {
                        let at = fields.iter().position(|field| *field == name)?;
                        fields.get(at + 1)?.parse::<usize>().ok()
                    };
                    fields.contains(&"master")
                        && number("num-slaves") >= Some(nodes - 1)
                        && number("num-other-sentinels") >= Some(sentinels - 1)
                })
        });
    }
}

/// After how long a silence the nodes of a Cluster take one of them for dead. With less, a busy machine has
/// one failover after the other.
const NODE_TIMEOUT_MILLIS: &str = "2000";

/// A Cluster. The first nodes are the first primaries.
pub struct RedisCluster {
    /// The servers.
    pub nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts it, with so many replicas for each primary, and waits until everyone knows everyone.
    pub fn start(primaries: usize, replicas: usize) -> Self {
        Self::start_with(primaries, replicas, &[])
    }

    /// The same with more arguments for each node, as `redis-server` takes them.
    pub fn start_with(primaries: usize, replicas: usize, arguments: &[&str]) -> Self {
        let mut all = vec!["--cluster-enabled", "yes", "--cluster-node-timeout", NODE_TIMEOUT_MILLIS];
        // A replica that heard nothing for a while is promoted all the same: a busy machine is slow.
        all.extend(["--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"]);
        all.extend(arguments);
        let nodes: Vec<RedisServer> =
            (0..primaries * (1 + replicas)).map(|_| RedisServer::start_with(&all)).collect();
        let addresses: Vec<String> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        let replicas = replicas.to_string();
        let mut create = vec!["--cluster", "create"];
        create.extend(addresses.iter().map(String::as_str));
        create.extend(["--cluster-replicas", &replicas, "--cluster-yes"]);
        let created = Command::new("redis-cli").args(&create).output().expect("redis-cli is installed");
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
        let cluster = RedisCluster { nodes };
        cluster.settle();
        cluster
    }

    /// The URL that names the first nodes, as the configuration takes it.
    pub fn url(&self) -> String {
        let hosts: Vec<String> =
            self.nodes.iter().take(3).map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// The node that has a slot, as those that run say, by its place among [`RedisCluster::nodes`]; none
    /// while they disagree.
    pub fn owner(&self, slot: u16) -> Option<usize> {
        let mut owners = self.nodes.iter().filter(|node| node.answers()).map(|node| {
            let slots = node.cli(&["--json", "CLUSTER", "SLOTS"]);
            let slots: Vec<serde_json::Value> = serde_json::from_str(&slots).ok()?;
            let has = |row: &&serde_json::Value| {
                row[0].as_u64() <= Some(slot.into()) && Some(u64::from(slot)) <= row[1].as_u64()
            };
            let port = slots.iter().find(has)?[2][1].as_u64()?;
            self.nodes.iter().position(|node| u64::from(node.port()) == port)
        });
        let first = owners.next()??;
        owners.all(|other| other == Some(first)).then_some(first)
    }

    /// Waits until another node than this one has a slot, and serves.
    pub fn failed_over(&self, slot: u16, before: usize) -> usize {
        let mut owner = before;
        wait_for("a failover", || {
            owner = self.owner(slot).unwrap_or(before);
            owner != before
        });
        self.settle();
        owner
    }

    /// The name by which the nodes know one of them.
    pub fn id(&self, node: usize) -> String {
        self.nodes[node].cli(&["CLUSTER", "MYID"])
    }

    /// Waits until everyone that runs agrees on everything and says that it serves, and every replica
    /// follows.
    pub fn settle(&self) {
        let running: Vec<&RedisServer> = self.nodes.iter().filter(|node| node.answers()).collect();
        wait_for("the nodes to agree", || {
            let serve = |node: &&RedisServer| {
                let info = node.cli(&["CLUSTER", "INFO"]);
                info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
            };
            let follows = |node: &&RedisServer| {
                let role = node.cli(&["ROLE"]);
                role.starts_with("master") || role.contains("connected")
            };
            // In whatever order.
            let view = |node: &&RedisServer| {
                let mut slots: Vec<String> =
                    node.cli(&["--json", "CLUSTER", "SLOTS"]).split('[').map(str::to_owned).collect();
                slots.sort_unstable();
                slots
            };
            running.iter().all(serve)
                && running.iter().all(follows)
                && running.iter().skip(1).all(|node| view(node) == view(&running[0]))
        });
    }
}

/// Waits until a state is there, and panics if it does not come.
pub fn wait_for(what: &str, mut is_there: impl FnMut() -> bool) {
    for _ in 0..WAITS {
        if is_there() {
            return;
        }
        std::thread::sleep(WAIT);
    }
    panic!("waited in vain for {what}");
}

const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

/// An authority, a server's certificate and a client's, made with the `openssl` command.
fn make_certificates(directory: &Path) {
    let mut authority = vec!["req", "-x509", "-days", "2", "-subj", "/CN=test authority"];
    authority.extend(["-keyout", "ca.key", "-out", "ca.crt"]);
    authority.extend(NEW_KEY);
    openssl(directory, &authority);
    issue(directory, "server", "subjectAltName=DNS:localhost,IP:127.0.0.1\n");
    issue(directory, "client", "extendedKeyUsage=clientAuth\nsubjectAltName=DNS:tokenward\n");
}

fn issue(directory: &Path, name: &str, extensions: &str) {
    let (request, certificate) = (format!("{name}.csr"), format!("{name}.crt"));
    let (private, extension) = (format!("{name}.key"), format!("{name}.ext"));
    fs::write(directory.join(&extension), extensions).expect("the directory is ours");
    let subject = format!("/CN={name}");
    let mut ask = vec!["req", "-subj", &subject, "-keyout", &private, "-out", &request];
    ask.extend(NEW_KEY);
    openssl(directory, &ask);
    let mut sign = vec!["x509", "-req", "-days", "2", "-in", &request, "-out", &certificate];
    sign.extend(["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", &extension]);
    openssl(directory, &sign);
}

fn openssl(directory: &Path, arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).current_dir(directory).output();
    let output = output.expect("openssl is installed");
    assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
}
