//! A daemon (the real binary in a process of its own), an authority and a store, made for one test and
//! removed after it.

#![allow(dead_code, reason = "each test uses a part of it")]

use parking_lot::Mutex;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use entra_emulator::{App, Emulator, Mode, User};
use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokenward::callers::key_file;
use tokenward::domain::id::CallerName;
use tokenward::domain::time::Clock;
use tokenward::keyring::files;
use tokenward::system::{SystemClock, SystemRandom, moved};

use crate::http_client::{Answer, Browser, request};
pub(crate) use crate::redis_server::free_port;
use crate::redis_server::{RedisCluster, RedisServer};
pub(crate) use crate::setup::CLIENT_ID;
use crate::setup::config_text::{ConfigText, EVERYTHING, caller};

/// A canary: only the authority may ever see it.
pub(crate) const CLIENT_SECRET: &str = "canary-client-secret-7Qf~9xLm2";
pub(crate) const ALICE: &str = "alice@contoso.example";
pub(crate) const BOB: &str = "bob@fabrikam.example";
pub(crate) const PERSONAL: &str = "carol@outlook.example";
/// A caller that may do everything with connections of any name.
pub(crate) const SYNC: &str = "mail-sync";
/// A caller that may only read mail of `team-b/*`.
pub(crate) const READER: &str = "mail-reader";

/// Time after which a test that waits for something has failed. It proves nothing, and only ends a test that
/// would hang; a busy machine must not reach it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// The longest life that the emulator gives an access token by itself.
const LONGEST_TOKEN_SECONDS: u64 = 5400;
/// Time between two checks of a condition.
pub(crate) const LOOK: Duration = Duration::from_millis(10);
/// The clock file that a world's daemons follow, in the folder of each.
const CLOCK: &str = "clock";

/// Lets one test at a time run that loads the machine with hundreds of callers or many processes. Keep the
/// returned guard to the end.
pub(crate) async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    ONE.lock().await
}

/// Waits until a condition holds.
pub(crate) async fn until(daemon: &Process, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}\n{}", daemon.log());
        tokio::time::sleep(LOOK).await;
    }
}

/// The store for connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    Embedded,
    Redis,
    /// Three primaries with a replica each.
    Cluster,
}

/// What to build.
pub(crate) struct Plan {
    pub(crate) kept: Kept,
    pub(crate) mode: Mode,
    pub(crate) token_life: Option<Duration>,
    pub(crate) form_post: bool,
    pub(crate) scopes: &'static str,
    /// More lines for `[apps.outlook]`, and whole sections.
    pub(crate) app_lines: String,
    /// More lines for `[store]`.
    pub(crate) store_lines: String,
    pub(crate) sections: String,
    /// What Redis' ACL file holds, `redis.acl` in the folder; without one there is none.
    pub(crate) redis_acl: Option<String>,
    /// Replaces the secret credential's table when it is set.
    pub(crate) credentials: Option<String>,
    /// Empty for a provider that has no tenants.
    pub(crate) tenants: &'static str,
    /// The authority's URL, when it is not the emulator's `common`.
    pub(crate) authority: Option<String>,
    /// Secret files beside the configuration, by name and content.
    pub(crate) files: Vec<(&'static str, String)>,
    /// The emulator serves TLS, with its authority in `ca.pem`.
    pub(crate) https: bool,
    /// Another store than that of `kept`: the section's lines.
    pub(crate) store: Option<String>,
    /// Where browsers reach the daemon, when that has to be known before it is configured.
    pub(crate) public_port: Option<u16>,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            kept: Kept::Embedded,
            mode: Mode::Entra,
            token_life: None,
            form_post: false,
            scopes: r#"["offline_access", "openid", "profile", "User.Read", "Mail.Read", "Calendars.Read"]"#,
            app_lines: String::new(),
            store_lines: String::new(),
            sections: String::new(),
            credentials: None,
            tenants: r#"["*", "personal"]"#,
            authority: None,
            files: Vec::new(),
            https: false,
            store: None,
            redis_acl: None,
            public_port: None,
        }
    }
}

impl Plan {
    pub(crate) fn kept(mut self, kept: Kept) -> Self {
        self.kept = kept;
        self
    }

    pub(crate) fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// A store that is started apart: the section's lines.
    pub(crate) fn store(mut self, lines: &str) -> Self {
        self.store = Some(lines.to_owned());
        self
    }

    /// Access tokens of this life.
    pub(crate) fn token_life(mut self, life: Duration) -> Self {
        self.token_life = Some(life);
        self
    }

    pub(crate) fn form_post(mut self) -> Self {
        self.form_post = true;
        self
    }

    /// More lines for `[apps.outlook]`.
    pub(crate) fn app_lines(mut self, lines: &str) -> Self {
        self.app_lines.push_str(lines);
        self.app_lines.push('\n');
        self
    }

    /// Whole sections.
    pub(crate) fn sections(mut self, sections: &str) -> Self {
        self.sections.push_str(sections);
        self.sections.push('\n');
        self
    }

    /// Other credentials than the secret: the table as the configuration has it.
    pub(crate) fn credentials(mut self, table: &str) -> Self {
        self.credentials = Some(table.to_owned());
        self
    }

    /// Redis' users, as its ACL file has them.
    pub(crate) fn redis_acl(mut self, users: String) -> Plan {
        self.redis_acl = Some(users);
        self
    }

    /// A secret file beside the configuration.
    pub(crate) fn file(mut self, name: &'static str, content: &str) -> Self {
        self.files.push((name, content.to_owned()));
        self
    }

    pub(crate) async fn start(self) -> World {
        World::start(self).await
    }
}

/// Everything of one test.
pub(crate) struct World {
    pub(crate) entra: Emulator,
    pub(crate) redis: Option<RedisServer>,
    pub(crate) cluster: Option<RedisCluster>,
    pub(crate) daemon: Process,
    pub(crate) folder: TempDir,
    pub(crate) public_port: u16,
    /// API keys of [`SYNC`] and [`READER`].
    pub(crate) key: String,
    pub(crate) reader_key: String,
    /// How far the clocks of the daemons and of the emulator are ahead of the machine's.
    ahead: Mutex<Duration>,
}

impl World {
    async fn start(plan: Plan) -> World {
        let folder = tempfile::tempdir().expect("a temp dir");
        let public_port = plan.public_port.unwrap_or_else(free_port);
        let callback = format!("http://localhost:{public_port}/callback/outlook");
        let mut builder = Emulator::builder()
            .mode(plan.mode)
            .https(plan.https)
            .app(App::new(CLIENT_ID).secret(CLIENT_SECRET).redirect_uri(&callback))
            .user(User::work(ALICE))
            .user(User::work(BOB).tenant("22222222-0000-4000-8000-00000000000b"))
            .user(User::personal(PERSONAL));
        if let Some(life) = plan.token_life {
            builder = builder.token_lifetime(life);
        }
        let entra = builder.start().await.expect("the emulator starts");
        entra.sign_in_as(ALICE);
        let redis = (plan.kept == Kept::Redis).then(|| match &plan.redis_acl {
            None => RedisServer::start(),
            Some(users) => {
                let file = folder.path().join("redis.acl");
                write_secret(&file, users);
                RedisServer::start_with(&["--aclfile", file.to_str().expect("UTF-8")])
            }
        });
        let cluster = (plan.kept == Kept::Cluster).then(|| RedisCluster::start(3, 1));
        let url = redis.as_ref().map(RedisServer::url).or(cluster.as_ref().map(RedisCluster::url));

        let (key, reader_key) = make_keys(folder.path());
        for (name, content) in &plan.files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            write_secret(&path, content);
        }
        if let Some(ca) = entra.ca_pem() {
            write_secret(&folder.path().join("ca.pem"), &ca);
        }
        let config = configuration(&plan, &entra, url.as_deref(), public_port);
        std::fs::write(folder.path().join("tokenward.toml"), config).expect("write");
        moved::write(&folder.path().join(CLOCK), Duration::ZERO).expect("write");
        let daemon = Process::start(folder.path()).await;
        let ahead = Mutex::default();
        World { entra, redis, cluster, daemon, folder, public_port, key, reader_key, ahead }
    }

    /// Lets time pass for the emulator and for every daemon of this world, including those that start later.
    /// Redis' own clock stays, and sleeps are not shortened: a check made every second sees the new time
    /// within a second.
    pub(crate) fn pass(&self, time: Duration) {
        let mut ahead = self.ahead.lock();
        *ahead += time;
        self.entra.advance(time);
        moved::write(&self.folder.path().join(CLOCK), *ahead).expect("the folder is there");
    }

    /// How far the clocks of the daemons are ahead of the machine's.
    pub(crate) fn ahead(&self) -> Duration {
        *self.ahead.lock()
    }

    /// Lets time pass for Redis: keys with an expiry come nearer to it, or are gone. Without Redis it does
    /// nothing.
    pub(crate) fn pass_in_redis(&self, time: Duration) {
        const NEARER: &str = "for _, key in ipairs(redis.call('KEYS', '*')) do local left = \
            redis.call('PTTL', key) if left >= 0 then redis.call('PEXPIRE', key, left - ARGV[1]) end end \
            return 'OK'";
        if let Some(redis) = &self.redis {
            assert_eq!(redis.cli(&["EVAL", NEARER, "0", &time.as_millis().to_string()]), "OK");
        }
    }

    /// Lets enough time pass for every issued access token to expire.
    pub(crate) fn outlive_tokens(&self) {
        let life = self.entra.settings().token_lifetime_seconds.unwrap_or(LONGEST_TOKEN_SECONDS);
        self.pass(Duration::from_secs(life));
    }

    /// Waits until a condition holds.
    pub(crate) async fn until(&self, what: &str, is_so: impl AsyncFnMut() -> bool) {
        until(&self.daemon, what, is_so).await;
    }

    /// Waits until a connection's token is served.
    pub(crate) async fn until_served(&self, connection: &str) {
        self.until("a token is served", async || self.token(connection).await.status == 200).await;
    }

    /// Waits until the token endpoint had this many calls with a grant type since the ledger was cleared.
    pub(crate) async fn until_called(&self, grant_type: &str, times: usize) {
        self.until(&format!("{times} calls for {grant_type}"), async || {
            self.token_calls(grant_type) >= times
        })
        .await;
    }

    /// Starts a replica that also sweeps.
    pub(crate) async fn sweeping_replica(&self, name: &str) -> Process {
        self.prepare_replica(name);
        std::fs::write(self.folder.path().join(name).join("sweep"), "").expect("write");
        Process::start(&self.folder.path().join(name)).await
    }

    /// Starts another daemon on the same store, with the same keys and credentials.
    pub(crate) async fn replica(&self, name: &str) -> Process {
        self.prepare_replica(name);
        Process::start(&self.folder.path().join(name)).await
    }

    /// Starts a replica whose clock is ahead of the others'.
    pub(crate) async fn replica_ahead(&self, name: &str, by: Duration) -> Process {
        self.prepare_replica(name);
        let folder = self.folder.path().join(name);
        std::fs::remove_file(folder.join(CLOCK)).expect("a link");
        moved::write(&folder.join(CLOCK), by).expect("the folder is there");
        Process::start(&folder).await
    }

    pub(crate) fn prepare_replica(&self, name: &str) {
        let config =
            std::fs::read_to_string(self.folder.path().join("tokenward.toml")).expect("the configuration");
        let folder = self.folder.path().join(name);
        std::fs::create_dir(&folder).expect("a folder");
        std::os::unix::fs::symlink(Path::new("..").join(CLOCK), folder.join(CLOCK)).expect("a link");
        let other = config
            .replace(&format!("address  = \"127.0.0.1:{}\"", self.public_port), "address  = \"127.0.0.1:0\"")
            .replace("\"keyring\"", "\"../keyring\"")
            .replace("\"client-secret\"", "\"../client-secret\"")
            .replace("\"credentials\"", "\"../credentials\"")
            .replace("mail-sync.keys", "../mail-sync.keys")
            .replace("mail-reader.keys", "../mail-reader.keys");
        // Whatever else has an address of its own gets another one.
        let line = |line: &str| match line.strip_prefix("address = \"127.0.0.1:") {
            Some(_) => "address = \"127.0.0.1:0\"".to_owned(),
            None => line.to_owned(),
        };
        let mut other = other.lines().map(line).collect::<Vec<_>>().join("\n");
        for shared in ["redis-password", "server.pem", "server.key"] {
            other = other.replace(&format!("\"{shared}\""), &format!("\"../{shared}\""));
        }
        std::fs::write(folder.join("tokenward.toml"), other).expect("write");
    }

    /// Asks one daemon for a token.
    pub(crate) async fn token_at(&self, daemon: &Process, connection: &str) -> Answer {
        let name = connection.replace('/', "%2F");
        let url = format!("{}/v1/apps/outlook/connections/{name}/token", daemon.local);
        let bearer = format!("Bearer {}", self.key);
        request(Method::GET, &url, &[("authorization", bearer.as_str())], "")
            .await
            .unwrap_or_else(|error| panic!("{connection}: {error}\n{}", daemon.log()))
    }

    /// Kills the daemon with SIGKILL, and starts it again on the same store.
    pub(crate) async fn kill_and_restart(&mut self) {
        self.daemon.kill();
        self.daemon = Process::start(self.folder.path()).await;
    }

    /// Stops the daemon with SIGTERM, and starts it again. Returns the log of the stopped one.
    pub(crate) async fn stop_and_restart(&mut self) -> String {
        assert_eq!(self.daemon.terminate(), Some(0), "{}", self.daemon.log());
        let log = self.daemon.log();
        self.daemon = Process::start(self.folder.path()).await;
        log
    }

    pub(crate) fn base_url(&self) -> String {
        format!("http://localhost:{}", self.public_port)
    }

    /// Calls the local API as [`SYNC`].
    pub(crate) async fn api(&self, method: Method, path: &str, body: Value) -> Answer {
        self.api_as(&self.key, method, path, body).await
    }

    /// Calls the local API with a key.
    pub(crate) async fn api_as(&self, key: &str, method: Method, path: &str, body: Value) -> Answer {
        let url = format!("{}{path}", self.daemon.local);
        let bearer = format!("Bearer {key}");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        request(method, &url, &headers, body)
            .await
            .unwrap_or_else(|error| panic!("{path}: {error}\n{}", self.daemon.log()))
    }

    /// Starts a connect session.
    pub(crate) async fn start_session(&self, body: Value) -> Value {
        let answer = self.api(Method::POST, "/v1/connect-sessions", body).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()
    }

    /// Returns a session's state.
    pub(crate) async fn session(&self, id: &str) -> Value {
        let answer = self.api(Method::GET, &format!("/v1/connect-sessions/{id}"), Value::Null).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Opens a connect URL, presses the button, signs in and comes back. Returns the last URL and page.
    pub(crate) async fn sign_in(&self, browser: &mut Browser, connect_url: &str) -> (String, Answer) {
        let page = browser.get(connect_url).await.expect("the invitation");
        assert_eq!(page.status, 200, "{}", page.text());
        let pressed = browser.post(connect_url, "").await.expect("the button");
        assert_eq!(pressed.status, 303, "{}", pressed.text());
        let base = self.base_url();
        let away = |url: &str| !url.starts_with(&base) && !url.contains("/oauth2/");
        let (url, answer) = browser.follow(&pressed.location(), away).await.expect("the way back");
        // With form_post the authority's page posts itself: press its button.
        if answer.text().contains("<form") && !url.starts_with(&base) {
            let page = answer.text();
            let form = hidden_fields(&page);
            let action = attribute(&page, "action");
            let posted = browser.post(&action, &form).await.expect("the form");
            if posted.status.is_redirection() {
                let (url, answer) = browser.follow(&posted.location(), away).await.expect("the way back");
                return (url, answer);
            }
            return (action, posted);
        }
        (url, answer)
    }

    /// Connects an account and confirms it.
    pub(crate) async fn connect(&self, connection: &str, user: &str) {
        self.entra.sign_in_as(user);
        let session = self
            .start_session(json!({ "app": "outlook", "connection": connection, "login_hint": user }))
            .await;
        let mut browser = Browser::default();
        let (_, page) = self.sign_in(&mut browser, text(&session, "connect_url")).await;
        let id = text(&session, "id");
        let state = self.session(id).await;
        assert_eq!(state["state"], "awaiting_confirmation", "{state} {} {}", page.text(), self.daemon.log());
        let account =
            json!({ "account": { "tid": state["account"]["tid"], "oid": state["account"]["oid"] } });
        let confirmed = self.api(Method::POST, &format!("/v1/connect-sessions/{id}/confirm"), account).await;
        assert_eq!(confirmed.status, 200, "{}", confirmed.text());
        assert_eq!(confirmed.json()["state"], "connected");
    }

    /// Asks for a token.
    pub(crate) async fn token(&self, connection: &str) -> Answer {
        self.token_with(connection, "").await
    }

    /// Asks for a token with a query.
    pub(crate) async fn token_with(&self, connection: &str, query: &str) -> Answer {
        let name = connection.replace('/', "%2F");
        self.api(Method::GET, &format!("/v1/apps/outlook/connections/{name}/token{query}"), Value::Null).await
    }

    /// A token that must be there.
    pub(crate) async fn access_token(&self, connection: &str) -> String {
        let answer = self.token(connection).await;
        assert_eq!(answer.status, 200, "{}\n{}", answer.text(), self.daemon.log());
        text(&answer.json(), "access_token").to_owned()
    }

    /// A connection as it is shown.
    pub(crate) async fn show(&self, connection: &str) -> Value {
        let name = connection.replace('/', "%2F");
        let answer =
            self.api(Method::GET, &format!("/v1/apps/outlook/connections/{name}"), Value::Null).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Calls the Graph's stand-in.
    pub(crate) async fn graph(&self, token: &str) -> Answer {
        let url = format!("{}/v1.0/me", self.entra.graph_url());
        request(Method::GET, &url, &[("authorization", &format!("Bearer {token}"))], "")
            .await
            .expect("Graph answers")
    }

    /// Calls to the token endpoint with a grant type.
    pub(crate) fn token_calls(&self, grant_type: &str) -> usize {
        self.entra.ledger_count(entra_emulator::Endpoint::Token, Some(grant_type))
    }

    pub(crate) async fn metrics(&self) -> String {
        request(Method::GET, &format!("{}/metrics", self.daemon.ops), &[], "").await.expect("metrics").text()
    }
}

/// The daemon's process.
pub(crate) struct Process {
    child: Child,
    log: Arc<Mutex<String>>,
    pub(crate) local: String,
    pub(crate) ops: String,
    pub(crate) public: String,
}

impl Process {
    /// Starts the binary and waits until it is ready.
    pub(crate) async fn start(folder: &Path) -> Process {
        let process = Process::launch(folder).await;
        process.until_ready().await;
        process
    }

    /// Starts the binary and waits until it listens.
    pub(crate) async fn launch(folder: &Path) -> Process {
        // A file of this name gets what it prints.
        let stdout = std::fs::OpenOptions::new().append(true).open(folder.join("stdout"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_tokenward"));
        command.stdin(Stdio::null()).stdout(stdout.map_or_else(|_| Stdio::null(), Stdio::from));
        Process::launch_by(command, folder).await
    }

    /// The same, by a command that becomes the daemon.
    pub(crate) async fn launch_by(mut command: Command, folder: &Path) -> Process {
        // Most tests count calls to the authority, so they run without the sweep.
        let sweep_rate = match std::fs::read_to_string(folder.join("sweep")).as_deref() {
            Ok("") => "400".to_owned(),
            Ok(rate) => rate.to_owned(),
            Err(_) => "0".to_owned(),
        };
        // A folder of this name is what systemd loaded.
        let of_systemd = Some(folder.join("systemd")).filter(|folder| folder.exists());
        // The machine's proxy settings do not apply to an authority on it; the test's own do.
        let environment = std::fs::read_to_string(folder.join("environment")).unwrap_or_default();
        for name in ["HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"] {
            command.env_remove(name).env_remove(name.to_ascii_lowercase());
        }
        let mut child = command
            .envs(environment.lines().filter_map(|line| line.split_once('=')))
            .env("TOKENWARD__LIMITS__SWEEP_RATE", &sweep_rate)
            .envs(of_systemd.map(|folder| ("CREDENTIALS_DIRECTORY", folder)))
            .envs(Some(folder.join(CLOCK)).filter(|file| file.exists()).map(|file| (moved::VARIABLE, file)))
            .arg("serve")
            .arg("--config")
            .arg(folder.join("tokenward.toml"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("the daemon starts");
        // What the command holds of its own, such as sockets, is the daemon's alone now.
        drop(command);
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().expect("piped");
        let (sender, mut addresses) = tokio::sync::mpsc::unbounded_channel();
        let kept = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str::<Value>(&line)
                    && event["message"] == "tokenward serves"
                {
                    let _ = sender.send(event);
                }
                let mut log = kept.lock();
                let _ = writeln!(log, "{line}");
            }
        });
        let started = tokio::time::timeout(PATIENCE, addresses.recv()).await;
        let Ok(Some(event)) = started else {
            panic!("the daemon did not start:\n{}", log.lock());
        };
        let first_local = event["local"].as_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let first_local = first_local.split(',').next().unwrap_or_default().to_owned();
        Process {
            child,
            log,
            local: format!("http://{first_local}"),
            ops: format!("http://{}", text(&event, "ops")),
            public: format!("http://{}", text(&event, "public")),
        }
    }

    /// Waits until it is ready.
    pub(crate) async fn until_ready(&self) {
        until(self, "the daemon is ready", async || {
            let ready = request(Method::GET, &format!("{}/readyz", self.ops), &[], "").await;
            ready.is_ok_and(|answer| answer.status == 200)
        })
        .await;
    }

    /// Waits until a line of the log holds these words.
    pub(crate) async fn until_logged(&self, words: &str) {
        until(self, words, async || self.log().contains(words)).await;
    }

    /// Everything it logged.
    pub(crate) fn log(&self) -> String {
        self.log.lock().clone()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
        let _ = rustix::process::kill_process(pid, signal);
    }

    /// SIGTERM, and the exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        self.signal(rustix::process::Signal::TERM);
        self.ended()
    }

    /// Waits until it is gone, and the exit code.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        self.child.wait().ok().and_then(|status| status.code())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A member that must be text.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// The hidden fields of a page's form, form-encoded.
pub(crate) fn hidden_fields(page: &str) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    for input in page.split("<input").skip(1).map(|rest| rest.split('>').next().unwrap_or_default()) {
        if input.contains("hidden") {
            form.append_pair(&attribute(input, "name"), &attribute(input, "value"));
        }
    }
    form.finish()
}

/// The first attribute of a name, unescaped.
pub(crate) fn attribute(html: &str, name: &str) -> String {
    let raw =
        html.split(&format!("{name}=\"")).nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
    raw.replace("&amp;", "&")
        .replace("&#38;", "&")
        .replace("&quot;", "\"")
        .replace("&#x2F;", "/")
        .replace("&#x3D;", "=")
}

fn make_keys(folder: &Path) -> (String, String) {
    let random = SystemRandom::new();
    let now = SystemClock::new().now();
    files::add(&folder.join("keyring"), &random, now).expect("a key");
    let secret = folder.join("client-secret");
    write_secret(&secret, CLIENT_SECRET);
    let mut keys = [SYNC, READER].map(|name| {
        let caller = CallerName::parse(name).expect("a name");
        let path = folder.join(format!("{name}.keys"));
        let day = Duration::from_secs(86_400);
        let (key, _) = key_file::add(&path, &caller, &random, now, day).expect("a key");
        key.expose().to_owned()
    });
    (std::mem::take(&mut keys[0]), std::mem::take(&mut keys[1]))
}

/// A file that only its owner reads.
pub(crate) fn write_secret(path: &PathBuf, content: &str) {
    std::fs::write(path, content).expect("write");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
}

fn configuration(plan: &Plan, entra: &Emulator, redis: Option<&str>, public_port: u16) -> String {
    let store = match redis {
        None => plan.store.clone().unwrap_or_else(|| ConfigText::default().store.to_owned()),
        Some(url) => format!("kind = \"redis\"\nurl = \"{url}\""),
    };
    let Plan { scopes, app_lines, store_lines, .. } = plan;
    let sections = plan.sections.replace("{graph}", &entra.graph_url());
    let authority = plan.authority.clone().unwrap_or_else(|| entra.authority("common"));
    let response_mode = if plan.form_post { "form_post" } else { "query" };
    let tenants = match plan.tenants {
        "" => String::new(),
        tenants => format!("tenants = {tenants}"),
    };
    let app = format!(
        r#"{tenants}
return_urls   = ["https://app.contoso.example/settings/outlook"]
response_mode = "{response_mode}"
support_contact = "help@contoso.example"
{app_lines}"#
    );
    let unix = "[[listen.local]]\nunix = \"local.sock\"\n";
    let team = "connections = [\"team-b/*\"]\nscopes      = [\"Mail.Read\"]\n";
    let callers =
        [caller(SYNC, &format!("{SYNC}.keys"), EVERYTHING), caller(READER, &format!("{READER}.keys"), team)];
    ConfigText {
        store: &format!("{store}\n{store_lines}"),
        log_level: "debug",
        public_port,
        base_port: public_port,
        authority: &authority,
        scopes,
        app: &app,
        credentials: plan.credentials.as_deref(),
        sections: &format!("{unix}{}{sections}", callers.concat()),
        ..ConfigText::default()
    }
    .text()
}
