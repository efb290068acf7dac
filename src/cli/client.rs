//! A client of the daemon's APIs: HTTP/1.1 over a Unix socket or loopback TCP, one connection for each
//! request.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use zeroize::Zeroizing;

use super::output::shown;
use super::progress::Progress;
use super::{ConfigPath, Failure, World};
use crate::callers::api_key::PresentedKey;
use crate::config::{self, HttpUrl, ListenConfig, Listener};
use crate::domain::verdict::aadsts;
use crate::secret_file::SecretReader;

/// Time for a request; longer than the daemon lets a caller wait for a refresh.
pub(super) const DEADLINE: Duration = Duration::from_secs(40);
/// How often a page of a list is asked for, and the longest pause in seconds, when the daemon asks to come
/// again: a list of a hundred pages is not begun anew because of one.
const MOST_TRIES: u32 = 30;
const LONGEST_PAUSE: u64 = 10;
/// Largest answer; a page of connections is far smaller.
const LARGEST_ANSWER: usize = 16 * 1024 * 1024;
/// Characters escaped in a path segment or a query value (all but those of RFC 3986 §2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How to reach the daemon, and as whom.
#[derive(clap::Args)]
pub(super) struct ReachArgs {
    /// A file with an API key to come with; else one comes as the Unix user that runs the command
    #[arg(long, value_name = "FILE")]
    pub(super) key_file: Option<PathBuf>,
    /// Where the daemon listens: unix:/path or http://127.0.0.1:PORT; else the configuration's first socket
    #[arg(long, value_name = "ENDPOINT", value_parser = Endpoint::parse)]
    pub(super) endpoint: Option<Endpoint>,
}

impl ReachArgs {
    /// Makes a client of the local API.
    pub(super) fn local(&self, config: &ConfigPath, world: &mut World) -> Result<Client, Failure> {
        let mut warnings = Vec::new();
        let client = self.local_with(config, world, &mut warnings);
        warn(&warnings, world);
        client
    }

    /// Makes a client of the local API, and adds what is wrong besides to `warnings`.
    pub(super) fn local_with(
        &self,
        config: &ConfigPath,
        world: &World,
        warnings: &mut Vec<String>,
    ) -> Result<Client, Failure> {
        self.client(config, world, "listen.local", |listen| &listen.local, warnings)
    }

    /// Makes a client of the admin API.
    pub(super) fn admin(&self, config: &ConfigPath, world: &mut World) -> Result<Client, Failure> {
        let mut warnings = Vec::new();
        let client = self.client(config, world, "listen.admin", |listen| &listen.admin, &mut warnings);
        warn(&warnings, world);
        client
    }

    /// The same, for a command that has said already what is wrong with the configuration.
    pub(super) fn admin_quietly(&self, config: &ConfigPath, world: &World) -> Result<Client, Failure> {
        self.client(config, world, "listen.admin", |listen| &listen.admin, &mut Vec::new())
    }

    fn client(
        &self,
        config: &ConfigPath,
        world: &World,
        section: &str,
        listeners: fn(&ListenConfig) -> &Vec<Listener>,
        warnings: &mut Vec<String>,
    ) -> Result<Client, Failure> {
        let endpoint = match &self.endpoint {
            // The configuration is not read then: it may be on another file system.
            Some(endpoint) => endpoint.clone(),
            None => {
                let (listen, mistakes) =
                    config::load_listeners(&config.path, &world.env).map_err(|errors| {
                        config
                            .failure(&errors)
                            .hint("a daemon that runs is reached with --endpoint unix:/path")
                    })?;
                let endpoint = Endpoint::of(listeners(&listen)).ok_or_else(|| {
                    Failure::usage(format!("the commands cannot use any listener of {section}: each has TLS"))
                        .hint("add a Unix socket, or name another one with --endpoint")
                })?;
                if let Some(mistakes) = mistakes {
                    warnings.push(config.has_mistakes(&mistakes));
                    warnings.push(format!(
                        "asking the daemon at {endpoint}, as far as the file can be read; --endpoint names \
                         another"
                    ));
                }
                endpoint
            }
        };
        let key = match &self.key_file {
            Some(path) => Some(read_key(path, world)?),
            None => None,
        };
        if key.is_none() && matches!(endpoint, Endpoint::Tcp { .. }) {
            return Err(Failure::usage(format!("{endpoint} does not know who you are without an API key"))
                .hint("name the file of one with --key-file, or use a Unix socket: --endpoint unix:/path"));
        }
        Ok(Client { endpoint, key })
    }
}

fn warn(warnings: &[String], world: &mut World) {
    for warning in warnings {
        world.output.say(&format!("warning: {warning}"));
    }
}

fn read_key(path: &Path, world: &World) -> Result<Zeroizing<String>, Failure> {
    let reader = SecretReader::new(world.env.get("CREDENTIALS_DIRECTORY").map(Path::new));
    let key = reader.read_text(path).map_err(|error| Failure::usage(format!("--key-file: {error}")))?;
    match PresentedKey::parse(&key) {
        Some(_) => Ok(key),
        None => Err(Failure::usage(format!("--key-file: {} holds no API key", path.display()))
            .hint("it must hold one line, as `tokenward callers add-key` prints it")),
    }
}

/// The daemon's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// Loopback TCP: nobody can read it on the way.
    Tcp { host: String, port: u16 },
}

/// Error: the text is no endpoint.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("must be unix:/path/of/a/socket or http://127.0.0.1:PORT, which must be this machine")]
pub(super) struct NoEndpoint;

impl Endpoint {
    pub(super) fn parse(text: &str) -> Result<Self, NoEndpoint> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(NoEndpoint) } else { Ok(Endpoint::Unix(path.into())) };
        }
        let url = HttpUrl::parse(text).map_err(|_| NoEndpoint)?;
        let bare = matches!(url.path(), "" | "/") && url.query().is_none();
        if url.is_https() || !url.is_loopback() || !bare {
            return Err(NoEndpoint);
        }
        Ok(Endpoint::Tcp { host: url.host().to_owned(), port: url.port() })
    }

    /// Picks the first Unix socket, or else the first loopback TCP listener without TLS.
    fn of(listeners: &[Listener]) -> Option<Self> {
        let unix = listeners.iter().find_map(|listener| match listener {
            Listener::Unix { path, .. } => Some(Endpoint::Unix(path.clone())),
            Listener::Tcp { .. } => None,
        });
        unix.or_else(|| {
            listeners.iter().find_map(|listener| match listener {
                Listener::Tcp { address, tls: None, .. } => {
                    Some(Endpoint::Tcp { host: address.ip().to_string(), port: address.port() })
                }
                _ => None,
            })
        })
    }

    fn authority(&self) -> String {
        match self {
            Endpoint::Unix(_) => "localhost".to_owned(),
            Endpoint::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Endpoint::Tcp { host, port } => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
            Endpoint::Tcp { .. } => write!(f, "http://{}", self.authority()),
        }
    }
}

/// An HTTP client of the daemon.
pub(super) struct Client {
    endpoint: Endpoint,
    key: Option<Zeroizing<String>>,
}

/// Reason why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// The connection failed.
    #[error("cannot reach the daemon at {endpoint}: {source}")]
    Unreachable {
        /// The endpoint.
        endpoint: Endpoint,
        /// The cause.
        source: io::Error,
    },
    /// The exchange broke off.
    #[error("the daemon at {endpoint} broke off: {problem}")]
    Broken {
        /// The endpoint.
        endpoint: Endpoint,
        /// The cause.
        problem: String,
    },
    /// No complete answer came within the deadline.
    #[error("the daemon at {endpoint} did not answer within {} s", deadline.as_secs())]
    TimedOut {
        /// The endpoint.
        endpoint: Endpoint,
        /// The deadline.
        deadline: Duration,
    },
    /// The answer is not tokenward's.
    #[error("the server at {endpoint} answered {status}, but not as tokenward does")]
    Foreign {
        /// The endpoint.
        endpoint: Endpoint,
        /// The HTTP status.
        status: StatusCode,
    },
    /// The daemon refused.
    #[error("{0}")]
    Refused(Box<SeenProblem>),
}

/// A problem document, as far as it is shown.
#[derive(Debug, Deserialize)]
pub(super) struct SeenProblem {
    #[serde(default)]
    status: u16,
    pub(super) code: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    pub(super) detail: String,
    #[serde(default)]
    hint: String,
    pub(super) reason: Option<String>,
    request_id: Option<String>,
    connect_url: Option<String>,
    pub(super) retry_after: Option<u64>,
    pub(super) error: Option<String>,
    suberror: Option<String>,
    #[serde(default)]
    pub(super) error_codes: Vec<u32>,
    trace_id: Option<String>,
    correlation_id: Option<String>,
}

impl fmt::Display for SeenProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = if self.detail.is_empty() { &self.title } else { &self.detail };
        write!(f, "{} ({}", shown(words), shown(&self.code))?;
        let numbers = aadsts(self.error_codes.iter().copied());
        for (label, value) in [
            ("reason", self.reason.as_deref()),
            ("request_id", self.request_id.as_deref()),
            ("authority", self.error.as_deref()),
            ("suberror", self.suberror.as_deref()),
            ("codes", Some(&*numbers)),
            ("trace_id", self.trace_id.as_deref()),
            ("correlation_id", self.correlation_id.as_deref()),
        ] {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                write!(f, ", {label} {}", shown(value))?;
            }
        }
        f.write_str(")")
    }
}

impl ClientError {
    /// Returns true if a later try may succeed.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            ClientError::Unreachable { source, .. } => source.kind() != io::ErrorKind::PermissionDenied,
            ClientError::Broken { .. } | ClientError::TimedOut { .. } => true,
            ClientError::Refused(problem) => matches!(problem.status, 429 | 503),
            ClientError::Foreign { .. } => false,
        }
    }
}

/// A hint without what only a program can follow: a header that is said in words beside it, and a request
/// that the command made.
fn for_a_person(problem: &SeenProblem) -> &str {
    let hint = &*problem.hint;
    if problem.code == "invalid_request"
        && hint.starts_with("correct ")
        && hint.contains(" and send it again")
    {
        return "correct it, and run the command again";
    }
    let waits = hint
        .strip_prefix("try again after the time in Retry-After")
        .filter(|_| problem.retry_after.is_some());
    waits.map_or(hint, |rest| rest.trim_start_matches([';', ',', ' ']))
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let failure = Failure::failed(error.to_string());
        match error {
            ClientError::Unreachable { endpoint, source } => match source.kind() {
                io::ErrorKind::PermissionDenied => failure.hint(format!(
                    "this user may not use {endpoint}: run the command as the daemon's user or as root"
                )),
                _ => failure.hint(
                    "is tokenward running? `tokenward serve` starts it; --endpoint names another socket",
                ),
            },
            ClientError::TimedOut { .. } | ClientError::Broken { .. } => {
                failure.hint("look at the daemon's log, then try again")
            }
            ClientError::Foreign { .. } => {
                failure.hint("is something else listening there? --endpoint names another socket")
            }
            ClientError::Refused(problem) => {
                let mut failure = failure;
                let hint = for_a_person(&problem);
                if !hint.is_empty() {
                    failure = failure.hint(shown(hint));
                }
                if let Some(seconds) = problem.retry_after {
                    failure = failure.hint(format!("try again in {seconds} s"));
                }
                if let Some(url) = &problem.connect_url {
                    failure = failure.hint(format!("the user can connect here: {}", shown(url)));
                }
                failure
            }
        }
    }
}

impl Client {
    /// Sends a request and returns the answer's JSON; null if it has no body.
    pub(super) async fn ask(
        &self,
        method: Method,
        target: &str,
        body: Option<&Value>,
        deadline: Duration,
    ) -> Result<Value, ClientError> {
        let body = body.map(|body| Bytes::from(body.to_string()));
        self.ask_with(method, target, body, deadline).await
    }

    /// Posts a body with a secret, which is wiped afterwards, and returns the answer's JSON.
    pub(super) async fn post_secret(
        &self,
        target: &str,
        body: Zeroizing<Vec<u8>>,
        deadline: Duration,
    ) -> Result<Value, ClientError> {
        self.ask_with(Method::POST, target, Some(Bytes::from_owner(body)), deadline).await
    }

    async fn ask_with(
        &self,
        method: Method,
        target: &str,
        body: Option<Bytes>,
        deadline: Duration,
    ) -> Result<Value, ClientError> {
        let endpoint = || self.endpoint.clone();
        let exchange = async {
            let unreachable = |source| ClientError::Unreachable { endpoint: endpoint(), source };
            match &self.endpoint {
                Endpoint::Unix(path) => {
                    let stream = UnixStream::connect(path).await.map_err(unreachable)?;
                    self.exchange(stream, method, target, body).await
                }
                Endpoint::Tcp { host, port } => {
                    let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(unreachable)?;
                    self.exchange(stream, method, target, body).await
                }
            }
        };
        let (status, bytes) = match tokio::time::timeout(deadline, exchange).await {
            Ok(answer) => answer?,
            Err(_) => return Err(ClientError::TimedOut { endpoint: endpoint(), deadline }),
        };
        let foreign = || ClientError::Foreign { endpoint: endpoint(), status };
        match status {
            StatusCode::NO_CONTENT => Ok(Value::Null),
            status if status.is_success() => serde_json::from_slice(&bytes).map_err(|_| foreign()),
            _ => Err(match serde_json::from_slice::<SeenProblem>(&bytes) {
                Ok(problem) => {
                    ClientError::Refused(Box::new(SeenProblem { status: status.as_u16(), ..problem }))
                }
                Err(_) => foreign(),
            }),
        }
    }

    /// Sends a GET with [`ask`](Self::ask).
    pub(super) async fn get(&self, target: &str) -> Result<Value, ClientError> {
        self.ask(Method::GET, target, None, DEADLINE).await
    }

    /// Reads every page of a list and adds what its `member` holds. Shows how far it is, if that takes a
    /// while.
    pub(super) async fn every_page(
        &self,
        path: &[&str],
        filter: &[(&str, Option<&str>)],
        member: &str,
        all: &mut Vec<Value>,
        world: &mut World,
    ) -> Result<(), Failure> {
        let take = |mut page: Value| {
            if let Some(Value::Array(found)) = page.get_mut(member).map(Value::take) {
                all.extend(found);
            }
            Ok(())
        };
        self.each_page(path, filter, world, take).await
    }

    /// Reads every page of a list, one after the other. Shows how far it is, if that takes a while.
    pub(super) async fn each_page(
        &self,
        path: &[&str],
        filter: &[(&str, Option<&str>)],
        world: &mut World,
        mut take: impl FnMut(Value) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut cursor: Option<String> = None;
        let mut progress = Progress::new(&*world.clock, "pages", None);
        for pages in 1_u64.. {
            let query: Vec<_> = filter.iter().copied().chain([("cursor", cursor.as_deref())]).collect();
            let page = self.get_before_long(&target(path, &query), world).await?;
            let next = page.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
            take(page)?;
            if next.is_none() {
                return Ok(());
            }
            if next == cursor {
                return Err(Failure::failed("the daemon gave the same page twice; the list would never end"));
            }
            cursor = next;
            progress.show(pages, &*world.clock, &mut world.output);
        }
        Ok(())
    }

    /// Sends a GET, and again when the daemon says so because others' requests come first.
    async fn get_before_long(&self, target: &str, world: &World) -> Result<Value, ClientError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let pause = match self.get(target).await {
                Err(ClientError::Refused(problem)) if problem.status == 429 && tries < MOST_TRIES => {
                    problem.retry_after.unwrap_or(1).min(LONGEST_PAUSE)
                }
                answer => return answer,
            };
            world.clock.sleep(Duration::from_secs(pause)).await;
        }
    }

    async fn exchange<S>(
        &self,
        stream: S,
        method: Method,
        target: &str,
        body: Option<Bytes>,
    ) -> Result<(StatusCode, Bytes), ClientError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let broken = |problem: String| ClientError::Broken {
            endpoint: self.endpoint.clone(),
            problem: shown(&problem),
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(error.to_string()))?;
        let mut request = http::Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, self.endpoint.authority())
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("tokenward-cli/", env!("CARGO_PKG_VERSION")));
        if let Some(key) = &self.key {
            let value = Zeroizing::new(format!("Bearer {}", key.as_str()));
            let mut value =
                header::HeaderValue::from_str(&value).map_err(|error| broken(error.to_string()))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let bytes = match body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                body
            }
            None => Bytes::new(),
        };
        let request = request.body(Full::new(bytes)).map_err(|error| broken(error.to_string()))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(|error| broken(error.to_string()))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LARGEST_ANSWER)
                .collect()
                .await
                .map_err(|error| broken(error.to_string()))?;
            Ok((status, body.to_bytes()))
        };
        // The connection is driven only while the answer is awaited; its failures show in the answer.
        let drive = async {
            let _ = connection.await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            answer = answer => answer,
            () = drive => unreachable!("it never ends"),
        }
    }
}

/// Reads an answer of the daemon.
pub(super) fn read<T: DeserializeOwned>(answer: &Value) -> Result<T, Failure> {
    T::deserialize(answer).map_err(|_| {
        Failure::failed("the daemon's answer is not what this command knows")
            .hint("does the daemon have another version than the command?")
    })
}

/// A request's body.
pub(super) fn body<T: Serialize>(body: &T) -> Value {
    serde_json::to_value(body).expect("requests are plain JSON")
}

/// Builds a path from its segments, and a query from those of its parameters that have a value.
pub(super) fn target(segments: &[&str], query: &[(&str, Option<&str>)]) -> String {
    let mut target = String::new();
    for segment in segments {
        target.push('/');
        match *segment {
            // Unescaped, they would name another path.
            "." => target.push_str("%2E"),
            ".." => target.push_str("%2E%2E"),
            segment => target.extend(utf8_percent_encode(segment, ESCAPED)),
        }
    }
    let mut joint = '?';
    for (name, value) in query {
        if let Some(value) = value {
            target.push(joint);
            target.push_str(name);
            target.push('=');
            target.extend(utf8_percent_encode(value, ESCAPED));
            joint = '&';
        }
    }
    target
}

/// Returns a member's text, safe to show; empty if there is none.
pub(super) fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value.get(member).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::cli::testing::Scene;
    use crate::domain::auth_method::AuthMethods;

    #[test]
    fn endpoints_are_on_this_machine() {
        let tcp = |host: &str, port| Ok(Endpoint::Tcp { host: host.into(), port });
        assert_eq!(Endpoint::parse("unix:/run/t.sock"), Ok(Endpoint::Unix("/run/t.sock".into())));
        assert_eq!(Endpoint::parse("unix:///run/t.sock"), Ok(Endpoint::Unix("/run/t.sock".into())));
        assert_eq!(Endpoint::parse("http://127.0.0.1:7070"), tcp("127.0.0.1", 7070));
        assert_eq!(Endpoint::parse("http://[::1]:7070/"), tcp("::1", 7070));
        assert_eq!(Endpoint::parse("http://localhost:7070"), tcp("localhost", 7070));
        for bad in
            ["", "unix:", "/run/t.sock", "http://10.0.0.1:7070", "https://localhost", "http://localhost/v1"]
        {
            assert_eq!(Endpoint::parse(bad), Err(NoEndpoint), "{bad}");
        }
        let shown = Endpoint::parse("http://[::1]:7070").expect("an endpoint").to_string();
        assert_eq!(shown, "http://[::1]:7070");
    }

    #[test]
    fn the_first_socket_that_the_commands_can_use() {
        let address = "127.0.0.1:7070".parse().expect("an address");
        let accept = AuthMethods::all();
        let (certificate, key) = ("c".into(), "k".into());
        let tls =
            Some(crate::config::Tls { certificate, key, client_ca: None, client_crl: None, http2: true });
        let unix = Listener::Unix { path: "s".into(), mode: 0o600, accept };
        let plain = Listener::Tcp { address, tls: None, accept };
        let secure = Listener::Tcp { address, tls, accept };
        assert_eq!(Endpoint::of(&[plain.clone(), unix]), Some(Endpoint::Unix("s".into())));
        let tcp = Endpoint::Tcp { host: "127.0.0.1".into(), port: 7070 };
        assert_eq!(Endpoint::of(&[secure.clone(), plain]), Some(tcp));
        assert_eq!(Endpoint::of(&[secure]), None);
    }

    #[test]
    fn names_are_escaped_whole() {
        assert_eq!(
            target(&["v1", "apps", "outlook", "connections", "team-a/al@b:c", "token"], &[]),
            "/v1/apps/outlook/connections/team-a%2Fal%40b%3Ac/token"
        );
        assert_eq!(
            target(&["a"], &[("scope", Some("Mail.Read User.Read")), ("x", None), ("min_ttl", Some("60"))]),
            "/a?scope=Mail.Read%20User.Read&min_ttl=60"
        );
    }

    #[test]
    fn without_a_daemon_the_failure_says_so() {
        let scene = Scene::new();
        let endpoint = format!("unix:{}", scene.path("no.sock"));
        let ended = scene.run(&["token", "outlook", "a", "--endpoint", &endpoint]);
        assert_eq!(ended.code, 1);
        assert!(ended.err.contains("is tokenward running?"), "{}", ended.err);
        let ended = scene.run(&["token", "outlook", "a", "--endpoint", "http://127.0.0.1:1"]);
        assert!(ended.code == 2 && ended.err.contains("--key-file"), "{}", ended.err);
        let key = scene.file("k", "hunter2", 0o600);
        let ended = scene.run(&["token", "outlook", "a", "--endpoint", &endpoint, "--key-file", &key]);
        assert!(ended.code == 2 && !ended.err.contains("hunter2"), "{}", ended.err);
    }

    /// Feeds a raw answer to a client, and returns its request and its result.
    fn answer(raw: &'static str) -> (String, Result<Value, Failure>) {
        let folder = tempfile::tempdir().expect("temp dir");
        let path = folder.path().join("s");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::UnixListener::bind(&path).expect("bound");
            let server = async {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.expect("a request");
                stream.write_all(raw.as_bytes()).await.expect("answered");
                String::from_utf8_lossy(&request[..length]).into_owned()
            };
            let client = Client { endpoint: Endpoint::Unix(path.clone()), key: None };
            let (request, answer) = tokio::join!(server, client.get("/x"));
            (request, answer.map_err(Failure::from))
        })
    }

    #[test]
    fn answers_are_read_and_problems_are_words() {
        let (request, good) = answer("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{\"a\": 1}");
        assert!(request.starts_with("GET /x HTTP/1.1\r\nhost: localhost\r\n"), "{request}");
        assert_eq!(good.expect("JSON")["a"], 1);
        let (_, empty) = answer("HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(empty.expect("nothing"), Value::Null);

        let (_, problem) = answer(
            "HTTP/1.1 409 Conflict\r\nConnection: close\r\n\r\n{\"code\":\"reauthorization_required\",\
             \"detail\":\"gone\\u001b[2J\",\"hint\":\"do this\",\"reason\":\"grant_expired\",\
             \"request_id\":\"r1\",\"error\":\"invalid_grant\",\"error_codes\":[70008]}",
        );
        let problem = problem.expect_err("a problem");
        assert_eq!(
            problem.message,
            "gone\\u{1b}[2J (reauthorization_required, reason grant_expired, request_id r1, authority \
             invalid_grant, codes AADSTS70008)"
        );
        assert_eq!(problem.hints, ["do this"]);

        let (_, html) = answer("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 13\r\n\r\n<html></html>");
        let html = html.expect_err("a failure").message;
        assert!(html.contains("502") && !html.contains('<'), "{html}");
        let (_, cut) = answer("HTTP/1.1 200 OK\r\nContent-Length: 80\r\n\r\n{");
        assert!(cut.expect_err("a failure").message.contains("broke off"));
    }
}
