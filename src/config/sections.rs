//! The checked values. A value of these types has passed every check of this room; nothing in them is a secret.
//!
//! Defaults stand in `spec.rs` and are repeated here in words.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use time::OffsetDateTime;

use super::url::HttpUrl;
use crate::domain::proxy::Routes;
use crate::domain::tenants::Tenants;

/// The longest path that a Unix socket can have: `sun_path` without its zero byte (unix(7)).
pub const LONGEST_SOCKET_PATH: usize = 107;
/// What `init` writes when it is told no client id.
pub const PLACEHOLDER_CLIENT_ID: &str = "00000000-0000-0000-0000-000000000000";

/// The whole configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[store]`: where connections live.
    pub store: StoreConfig,
    /// `[sealing]`: the keys that seal what is stored.
    pub sealing: SealingConfig,
    /// `[listen]`: the sockets.
    pub listen: ListenConfig,
    /// `[outbound]`: which way requests leave.
    pub outbound: OutboundConfig,
    /// `[apps.NAME]`: the registered applications.
    pub apps: BTreeMap<String, AppConfig>,
    /// `[callers.NAME]`: the internal services that may ask for tokens.
    pub callers: BTreeMap<String, CallerConfig>,
    /// `[admins.NAME]`: who may use the admin API. Empty: root and the daemon's own user, on the admin socket.
    pub admins: BTreeMap<String, AdminConfig>,
    /// `[limits]`: how long things may take.
    pub limits: LimitsConfig,
    /// `[log]`: what is logged.
    pub log: LogConfig,
    /// `[audit]`: where the audit log goes.
    pub audit: AuditConfig,
}

impl Config {
    /// The redirect URI to register for an app: its own, or `{base_url}/callback/{app}`.
    pub fn redirect_uri(&self, app: &str) -> Option<String> {
        let settings = self.apps.get(app)?;
        Some(match &settings.redirect_uri {
            Some(uri) => uri.clone(),
            None => format!("{}/callback/{app}", self.listen.public.base_url),
        })
    }
}

/// `[store]`.
#[derive(Debug, Clone, PartialEq)]
pub struct StoreConfig {
    /// Which store; default embedded at `/var/lib/tokenward`.
    pub backend: StoreBackend,
    /// How long tokens in memory are handed out while the store cannot be reached; default 5 min.
    pub serve_cached_for: Duration,
    /// Where answers are kept that Redis does not take at once; none keeps them in memory.
    pub journal: Option<PathBuf>,
}

/// Which store.
#[derive(Debug, Clone, PartialEq)]
pub enum StoreBackend {
    /// One process, on its own disk.
    Embedded {
        /// The store's directory.
        path: PathBuf,
    },
    /// Any number of replicas.
    Redis(Box<RedisConfig>),
}

/// How to reach Redis. The URL never holds a user or a password.
#[derive(Debug, Clone, PartialEq)]
pub struct RedisConfig {
    /// Standalone, Sentinel or Cluster.
    pub kind: RedisKind,
    /// One host when standalone; the sentinels or the first nodes otherwise. Never empty.
    pub hosts: Vec<HostPort>,
    /// `rediss`: connect with TLS.
    pub tls: bool,
    /// Database number; always 0 in a cluster.
    pub db: u32,
    /// ACL user.
    pub username: Option<String>,
    /// File that holds the password.
    pub password_file: Option<PathBuf>,
    /// Authorities to trust, in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// Certificate chain to show; present exactly when `client_key` is.
    pub client_certificate: Option<PathBuf>,
    /// Private key of `client_certificate`.
    pub client_key: Option<PathBuf>,
    /// ACL user at the sentinels.
    pub sentinel_username: Option<String>,
    /// File that holds the password for the sentinels.
    pub sentinel_password_file: Option<PathBuf>,
    /// How many replicas must have a write before it is acknowledged; default 0.
    pub wait_replicas: u32,
    /// How long they may take; default 250 ms.
    pub wait_timeout: Duration,
}

/// The ways in which Redis is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisKind {
    /// One server.
    Standalone,
    /// Sentinels that know where the primary is.
    Sentinel {
        /// The primary's name.
        primary: String,
    },
    /// A Cluster, of which the hosts are some nodes.
    Cluster,
}

/// A host name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Name or address; an IPv6 address is without its brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// `[sealing]`.
#[derive(Debug, Clone, PartialEq)]
pub struct SealingConfig {
    /// Directory with one file a key; default `/etc/tokenward/keyring`.
    pub keyring: PathBuf,
}

/// `[listen]`.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenConfig {
    /// For browsers.
    pub public: PublicListener,
    /// For callers; never empty. Default `/run/tokenward/tokenward.sock` and `127.0.0.1:7070`.
    pub local: Vec<Listener>,
    /// For operators. Default `/run/tokenward/admin.sock`.
    pub admin: Vec<Listener>,
    /// For metrics and probes.
    pub ops: OpsListener,
}

/// `[listen.public]`.
#[derive(Debug, Clone, PartialEq)]
pub struct PublicListener {
    /// Default `127.0.0.1:8080`.
    pub address: SocketAddr,
    /// How browsers reach it, without a slash at the end; default `http://localhost:8080`.
    pub base_url: String,
    /// Its own TLS.
    pub tls: Option<Tls>,
}

/// `[listen.ops]`.
#[derive(Debug, Clone, PartialEq)]
pub struct OpsListener {
    /// Default `127.0.0.1:9464`.
    pub address: SocketAddr,
    /// Its own TLS.
    pub tls: Option<Tls>,
}

/// A socket for callers or for operators.
#[derive(Debug, Clone, PartialEq)]
pub enum Listener {
    /// A Unix socket.
    Unix {
        /// Its path.
        path: PathBuf,
        /// Its permission bits: default 0666 for callers, 0600 for operators.
        mode: u32,
    },
    /// TCP. Without TLS the address is a loopback one.
    Tcp {
        /// Address and port.
        address: SocketAddr,
        /// Its TLS.
        tls: Option<Tls>,
    },
}

/// The files of a listener's TLS.
#[derive(Debug, Clone, PartialEq)]
pub struct Tls {
    /// PEM certificate chain.
    pub certificate: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
}

/// `[outbound]`, or what the environment says where it says nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct OutboundConfig {
    /// The proxies, and what they are not for.
    pub routes: Routes,
    /// The name in the login at the proxy; present exactly when `proxy_password_file` is.
    pub proxy_username: Option<String>,
    /// File that holds its password.
    pub proxy_password_file: Option<PathBuf>,
    /// Authorities to trust for a proxy at `https://`, in place of the system's.
    pub proxy_ca_file: Option<PathBuf>,
}

/// `[apps.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct AppConfig {
    /// Application (client) id.
    pub client_id: String,
    /// Issuer or Entra authority URL, exactly as written.
    pub authority: HttpUrl,
    /// How the authority behaves; `None`: find out.
    pub provider: Option<Provider>,
    /// Authorities to trust for TLS to it, in place of the system's.
    pub authority_ca: Option<PathBuf>,
    /// The only hosts its endpoints may be on, in lower case; empty: no such list.
    pub endpoint_hosts: Vec<String>,
    /// What a connect session asks for unless it says otherwise.
    pub scopes: Vec<String>,
    /// Whose accounts may connect. Without `provider` this is for Entra.
    pub tenants: Tenants,
    /// Where a browser may be sent, compared exactly.
    pub return_urls: Vec<String>,
    /// Tenant of the registration, by id or domain.
    pub home_tenant: Option<String>,
    /// How the authority returns the browser; default query.
    pub response_mode: ResponseMode,
    /// Whether a used refresh token may be sent again; `None`: safe for Entra, never for others.
    pub refresh_token_reuse: Option<RefreshTokenReuse>,
    /// Day-long tokens that resources can revoke; default false.
    pub continuous_access_evaluation: bool,
    /// The redirect URI as registered; see [`Config::redirect_uri`].
    pub redirect_uri: Option<String>,
    /// How a secret is sent; `None`: as the discovery document says.
    pub token_endpoint_auth_method: Option<SecretAuthMethod>,
    /// Whom signed assertions are for; default the token endpoint.
    pub assertion_audience: AssertionAudience,
    /// What pages call this app.
    pub display_name: Option<String>,
    /// Whom pages tell a user to ask.
    pub support_contact: Option<String>,
    /// The client credentials, in the order of the file. Empty when `credentials_dir` is used.
    pub credentials: Vec<CredentialConfig>,
    /// A directory of client credentials; see [`read_credentials_dir`](super::read_credentials_dir).
    pub credentials_dir: Option<PathBuf>,
}

/// How an authority behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// Microsoft Entra ID.
    Entra,
    /// Any other OpenID provider.
    OpenId,
}

/// How the authority returns the browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseMode {
    /// In the URL's query.
    Query,
    /// In a form that the browser posts.
    FormPost,
}

/// What may be done with a refresh token that has been used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshTokenReuse {
    /// It may be sent again to repair a lost answer.
    Safe,
    /// It must not be sent again.
    Never,
}

/// How a client secret is sent to the token endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretAuthMethod {
    /// In the form.
    Post,
    /// In an `Authorization: Basic` header.
    Basic,
}

/// Whom an assertion that a certificate signs is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AssertionAudience {
    /// The token endpoint's URL.
    TokenEndpoint,
    /// The authority's issuer.
    Issuer,
    /// This URL.
    Url(String),
}

/// One client credential: where it is, not what it is.
#[derive(Debug, Clone, PartialEq)]
pub struct CredentialConfig {
    /// Its name, unique in the app.
    pub id: String,
    /// Which kind.
    pub kind: CredentialKind,
    /// The file that holds it.
    pub file: PathBuf,
    /// A certificate's private key, when it is in a file of its own.
    pub key: Option<PathBuf>,
    /// When a secret expires.
    pub expires: Option<OffsetDateTime>,
}

/// The kinds of client credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialKind {
    /// A client secret.
    Secret,
    /// A certificate and its key, used to sign assertions.
    Certificate,
    /// An assertion that someone else issued and keeps fresh in the file.
    Federated,
}

/// `[callers.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct CallerConfig {
    /// Ways to prove who is calling; any one will do. Never empty.
    pub authenticate: Vec<Authenticate>,
    /// Token requests a second, with bursts of twice that.
    pub rate_limit: Option<u32>,
    /// The same for any one connection.
    pub connection_rate_limit: Option<u32>,
    /// What the caller may have.
    pub allow: Vec<RuleConfig>,
}

/// One way to prove who is calling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authenticate {
    /// The user at the other end of a Unix socket.
    UnixUser(UnixUser),
    /// A file with the hashes of API keys.
    ApiKeys(PathBuf),
}

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnixUser {
    /// By name; looked up where it is used.
    Name(String),
    /// By user id.
    Id(u32),
}

/// `[[callers.NAME.allow]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleConfig {
    /// The app's name; it exists.
    pub app: String,
    /// Exact names, prefixes that end in `*`, `tenant:{tid}`, or `*`. Never empty.
    pub connections: Vec<String>,
    /// What may be asked for; `*` is whatever was granted. Never empty.
    pub scopes: Vec<String>,
    /// Whether the caller may start connect sessions, confirm and delete; default false.
    pub connect: bool,
    /// Says that `*` is meant; true whenever `connections` holds it.
    pub bulk: bool,
}

/// `[admins.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct AdminConfig {
    /// Ways to prove who is calling; any one will do. Never empty.
    pub authenticate: Vec<Authenticate>,
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitsConfig {
    /// How long a connect session can be used; default 1 h.
    pub connect_session_ttl: Duration,
    /// How long a user may take at the authority; default 10 min.
    pub state_ttl: Duration,
    /// How long a new connection waits for its confirmation; default 10 min.
    pub confirmation_ttl: Duration,
    /// Connect sessions of one caller that may be open at once, over all replicas; default 1000.
    pub open_sessions: u32,
    /// One call to an authority; default 10 s. At least 5 s less than `lease`.
    pub authority_timeout: Duration,
    /// How long a caller waits for a refresh; default 15 s.
    pub caller_wait: Duration,
    /// How long one replica keeps the right to refresh one connection; default 30 s.
    pub lease: Duration,
    /// Refreshes a second begun before anybody asks, over all replicas; default 50, 0 for none.
    pub sweep_rate: u32,
    /// Records a second that are sealed anew after another sealing key was promoted; default 500.
    pub rewrap_rate: u32,
    /// Mebibytes of connections that are held in memory, about and at the most; default 128.
    pub held_memory_mib: u32,
    /// How long requests in flight may take to finish at a stop; default 30 s.
    pub drain: Duration,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq)]
pub struct LogConfig {
    /// The least important events that are logged; default info.
    pub level: LogLevel,
    /// JSON lines or text; default JSON.
    pub format: LogFormat,
}

/// How important an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Something of ours is broken.
    Error,
    /// Something needs a look.
    Warn,
    /// What happened.
    Info,
    /// How it happened.
    Debug,
    /// Everything.
    Trace,
}

/// How an event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON line an event.
    Json,
    /// Text for people.
    Text,
}

/// `[audit]`.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditConfig {
    /// Where its JSON lines go; default standard output, while logs go to standard error.
    pub sink: AuditSink,
}

/// Where the audit log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditSink {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Appended to a file.
    File(PathBuf),
}

/// The default configuration: what an empty file means.
impl Default for Config {
    fn default() -> Self {
        super::load::load("", &BTreeMap::new(), std::path::Path::new("/etc/tokenward/tokenward.toml"))
            .expect("an empty file is a valid configuration")
            .config
    }
}
