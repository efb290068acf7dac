//! The checked values. A value of these types has passed every check of this room, and none of them is a
//! secret.
//!
//! Defaults stand in `spec.rs` and are repeated here in words.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use time::OffsetDateTime;

use super::url::HttpUrl;
use crate::domain::auth_method::{AuthMethod, AuthMethods};
use crate::domain::certificate_names::{San, SpiffeId};
use crate::domain::proxy::Routes;
use crate::domain::tenants::Tenants;

/// Longest path of a Unix socket: `sun_path` without its zero byte (unix(7)).
pub const LONGEST_SOCKET_PATH: usize = 107;
/// The client id that `init` writes if it is given none.
pub const PLACEHOLDER_CLIENT_ID: &str = "00000000-0000-0000-0000-000000000000";

/// The whole configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[store]`: the store for connections.
    pub store: StoreConfig,
    /// `[sealing]`: the keys that seal stored records.
    pub sealing: SealingConfig,
    /// `[listen]`: the sockets.
    pub listen: ListenConfig,
    /// `[outbound]`: the way of outgoing requests.
    pub outbound: OutboundConfig,
    /// `[apps.NAME]`: the registered applications.
    pub apps: BTreeMap<String, AppConfig>,
    /// `[issuers.NAME]`: whose JWTs name callers.
    pub issuers: BTreeMap<String, IssuerConfig>,
    /// `[callers.NAME]`: the internal services that may ask for tokens.
    pub callers: BTreeMap<String, CallerConfig>,
    /// `[admins.NAME]`: the users of the admin API. If empty: root and the daemon's own user, on the admin
    /// socket.
    pub admins: BTreeMap<String, AdminConfig>,
    /// `[pages]`: the pages for users.
    pub pages: PagesConfig,
    /// `[limits]`: limits of time and size.
    pub limits: LimitsConfig,
    /// `[log]`: the log's level and format.
    pub log: LogConfig,
    /// `[audit]`: the audit log's sinks.
    pub audit: AuditConfig,
    /// `[traces]`: where traces are sent; `None` makes none.
    pub traces: Option<TracesConfig>,
    /// `[webhooks.NAME]`: who is told of changes.
    pub webhooks: BTreeMap<String, WebhookConfig>,
}

impl Config {
    /// Returns the redirect URI to register for an app: its own, or `{base_url}/callback/{app}`.
    pub fn redirect_uri(&self, app: &str) -> Option<String> {
        let settings = self.apps.get(app)?;
        Some(match &settings.redirect_uri {
            Some(uri) => uri.clone(),
            None => format!("{}/callback/{app}", self.listen.public.base_url),
        })
    }
}

/// The parts of a configuration that commands can use, whatever is wrong with the rest.
#[derive(Debug, Clone, PartialEq)]
pub struct Readable {
    /// Where the daemon listens.
    pub listen: Option<ListenConfig>,
    /// The callers that can be read.
    pub callers: BTreeMap<String, CallerConfig>,
    /// Where the audit goes.
    pub audit: Option<AuditConfig>,
}

/// `[store]`.
#[derive(Debug, Clone, PartialEq)]
pub struct StoreConfig {
    /// Kind of store; default embedded at `/var/lib/tokenward`.
    pub backend: StoreBackend,
    /// How long cached tokens are handed out while the store is unreachable; default 5 min.
    pub serve_cached_for: Duration,
    /// Directory for answers that Redis does not accept at once; `None` keeps them in memory.
    pub journal: Option<PathBuf>,
}

/// Kind of store.
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

/// Address of Redis. The URL never has a user or a password.
#[derive(Debug, Clone, PartialEq)]
pub struct RedisConfig {
    /// Standalone, Sentinel or Cluster.
    pub kind: RedisKind,
    /// The host of a standalone server; otherwise the sentinels or the first nodes. Never empty.
    pub hosts: Vec<HostPort>,
    /// `rediss`: connect with TLS.
    pub tls: bool,
    /// Database number; always 0 in a cluster.
    pub db: u32,
    /// ACL user.
    pub username: Option<String>,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// CA certificates to trust in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// Certificate chain to present; present exactly when `client_key` is.
    pub client_certificate: Option<PathBuf>,
    /// Private key of `client_certificate`.
    pub client_key: Option<PathBuf>,
    /// ACL user at the sentinels.
    pub sentinel_username: Option<String>,
    /// File with the password for the sentinels.
    pub sentinel_password_file: Option<PathBuf>,
    /// Number of replicas that must have a write before it is acknowledged; default 0.
    pub wait_replicas: u32,
    /// Time that they may take; default 250 ms.
    pub wait_timeout: Duration,
}

impl RedisConfig {
    /// Formats where it is, for people: the hosts that the URL names, and nothing of the login.
    pub fn place(&self) -> String {
        let hosts = self.hosts.iter().map(|host| format!("{}:{}", host.host, host.port));
        let hosts = hosts.collect::<Vec<_>>().join(", ");
        match &self.kind {
            RedisKind::Standalone => format!("Redis at {hosts}"),
            RedisKind::Sentinel { primary } => {
                format!("Redis, the primary {primary} of the sentinels at {hosts}")
            }
            RedisKind::Cluster => format!("the Redis Cluster with {hosts}"),
        }
    }
}

/// Ways to run Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisKind {
    /// One server.
    Standalone,
    /// Sentinels that know where the primary is.
    Sentinel {
        /// The primary's name.
        primary: String,
    },
    /// A Cluster; the hosts are some of its nodes.
    Cluster,
}

/// A host name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Name or address; an IPv6 address has no brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// `[sealing]`.
#[derive(Debug, Clone, PartialEq)]
pub struct SealingConfig {
    /// Directory with one file for each key; default `/etc/tokenward/keyring`.
    pub keyring: PathBuf,
}

/// `[listen]`.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenConfig {
    /// The URL at which callers reach the local API, without a slash at the end: the token endpoint's issuer.
    /// Default: the address of the first TCP listener of `local`.
    pub issuer: Option<String>,
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
    /// Its address for browsers, without a slash at the end; default `http://localhost:8080`.
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
        /// The ways to authenticate that count here.
        accept: AuthMethods,
    },
    /// TCP. Without TLS the address is a loopback one.
    Tcp {
        /// Address and port.
        address: SocketAddr,
        /// Its TLS.
        tls: Option<Tls>,
        /// The ways to authenticate that count here.
        accept: AuthMethods,
    },
}

impl Listener {
    /// Returns the ways to authenticate that count here.
    pub fn accept(&self) -> AuthMethods {
        match self {
            Listener::Unix { accept, .. } | Listener::Tcp { accept, .. } => *accept,
        }
    }
}

/// The files of a listener's TLS.
#[derive(Debug, Clone, PartialEq)]
pub struct Tls {
    /// PEM certificate chain.
    pub certificate: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
    /// PEM authorities of clients' certificates; only for callers and operators.
    pub client_ca: Option<PathBuf>,
    /// Their revocation lists.
    pub client_crl: Option<PathBuf>,
    /// Whether clients may choose HTTP/2; only for callers and operators.
    pub http2: bool,
}

/// `[outbound]`, or the environment's settings where the section has none.
#[derive(Debug, Clone, PartialEq)]
pub struct OutboundConfig {
    /// The proxies, and the destinations without one.
    pub routes: Routes,
    /// User name for the proxy; present exactly when `proxy_password_file` is.
    pub proxy_username: Option<String>,
    /// File with the proxy's password.
    pub proxy_password_file: Option<PathBuf>,
    /// CA certificates to trust for a proxy at `https://`, in place of the system's.
    pub proxy_ca_file: Option<PathBuf>,
}

/// `[apps.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct AppConfig {
    /// Application (client) id.
    pub client_id: String,
    /// Issuer or Entra authority URL, exactly as written.
    pub authority: HttpUrl,
    /// Kind of authority; `None` means that it is detected.
    pub provider: Option<Provider>,
    /// CA certificates to trust for TLS to it, in place of the system's.
    pub authority_ca: Option<PathBuf>,
    /// The only hosts allowed for its endpoints, in lower case; empty means no such list.
    pub endpoint_hosts: Vec<String>,
    /// Default scopes of a connect session.
    pub scopes: Vec<String>,
    /// Whose accounts may connect. Without `provider` it applies if the authority is Entra.
    pub tenants: Tenants,
    /// Allowed return URLs, compared exactly.
    pub return_urls: Vec<String>,
    /// Tenant of the registration, by id or domain.
    pub home_tenant: Option<String>,
    /// The app's mount in the paths of Vault; see [`AppConfig::mount`].
    pub vault_mount: Option<String>,
    /// How the authority returns the browser; default query.
    pub response_mode: ResponseMode,
    /// Whether a used refresh token may be sent again; `None` means `Safe` for Entra and `Never` for others.
    pub refresh_token_reuse: Option<RefreshTokenReuse>,
    /// The provider ends the old access token at each refresh; default false.
    pub refresh_ends_tokens: bool,
    /// Day-long tokens that resources can revoke; default false.
    pub continuous_access_evaluation: bool,
    /// The redirect URI as registered; see [`Config::redirect_uri`].
    pub redirect_uri: Option<String>,
    /// Client authentication method for a secret; `None` follows the discovery document.
    pub token_endpoint_auth_method: Option<SecretAuthMethod>,
    /// Audience of signed assertions; default the token endpoint.
    pub assertion_audience: AssertionAudience,
    /// The app's name on pages.
    pub display_name: Option<String>,
    /// What it wants accounts for, in one sentence for users.
    pub purpose: Option<String>,
    /// The contact that pages tell a user to ask.
    pub support_contact: Option<String>,
    /// The client credentials, in the order of the file. Empty when `credentials_dir` is used.
    pub credentials: Vec<CredentialConfig>,
    /// A directory of client credentials; see [`read_credentials_dir`](super::read_credentials_dir).
    pub credentials_dir: Option<PathBuf>,
    /// Where callers' requests may be relayed to.
    pub relay: RelayConfig,
}

/// `[apps.NAME.relay]`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RelayConfig {
    /// The bases by name, without a slash at their end. At Entra there is one more, if it is not among them.
    pub bases: BTreeMap<String, HttpUrl>,
    /// CA certificates to trust for TLS to them, in place of the system's.
    pub ca: Option<PathBuf>,
    /// Most requests of the app that are under way at one mailbox of Microsoft Graph, over all replicas;
    /// default 4.
    pub mailbox_concurrency: u32,
}

impl AppConfig {
    /// Returns true if nothing says where the app is registered: its authority is for many tenants, and
    /// `home_tenant` is not set.
    pub fn lacks_home_tenant(&self) -> bool {
        let tenant = self.authority.path().split('/').find(|part| !part.is_empty()).unwrap_or_default();
        let is_of_many = ["common", "organizations"].iter().any(|word| tenant.eq_ignore_ascii_case(word));
        is_of_many && self.home_tenant.is_none()
    }
}

impl AppConfig {
    /// Returns the mount of the app with this name. `None` if the name is a word of the API and no mount is
    /// configured.
    pub fn mount<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.vault_mount.as_deref().or_else(|| (!RESERVED_MOUNTS.contains(&name)).then_some(name))
    }
}

/// What stands behind `/v1/` in paths of the local API's own and of Vault's system, so no mount is called so.
pub const RESERVED_MOUNTS: [&str; 8] =
    ["admin-consent-sessions", "apps", "auth", "connect-sessions", "cubbyhole", "events", "identity", "sys"];

/// Kind of authority.
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

/// Whether a used refresh token may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshTokenReuse {
    /// Yes, to repair a lost answer.
    Safe,
    /// No.
    Never,
}

/// Client authentication method for a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretAuthMethod {
    /// In the form.
    Post,
    /// In an `Authorization: Basic` header.
    Basic,
}

/// Audience of an assertion signed with a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AssertionAudience {
    /// The token endpoint's URL.
    TokenEndpoint,
    /// The authority's issuer.
    Issuer,
    /// This URL.
    Url(String),
}

/// One client credential: where it is, without its content.
#[derive(Debug, Clone, PartialEq)]
pub struct CredentialConfig {
    /// Its name, unique in the app.
    pub id: String,
    /// Its kind.
    pub kind: CredentialKind,
    /// File with the credential.
    pub file: PathBuf,
    /// A certificate's private key, if it has a file of its own.
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

/// `[issuers.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct IssuerConfig {
    /// The `iss` of its tokens.
    pub issuer: String,
    /// What their `aud` must be or contain.
    pub audience: String,
    /// The longest life of a token, from `iat` to `exp`; default 1 h.
    pub max_ttl: Duration,
    /// Where its keys are.
    pub keys: IssuerKeysConfig,
}

/// Where an issuer's keys are.
#[derive(Debug, Clone, PartialEq)]
pub enum IssuerKeysConfig {
    /// In this file.
    File(PathBuf),
    /// Where the issuer publishes them.
    Fetched {
        /// Their URL; `None` finds it by discovery.
        jwks_url: Option<String>,
        /// CA certificates to trust for TLS, in place of the system's.
        ca_file: Option<PathBuf>,
        /// File with the token that the issuer demands for these requests.
        token_file: Option<PathBuf>,
    },
}

/// `[callers.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct CallerConfig {
    /// Ways to authenticate; any one will do. Never empty.
    pub authenticate: Vec<Authenticate>,
    /// The caller's name on pages.
    pub display_name: Option<String>,
    /// Token requests a second; bursts may be twice that.
    pub rate_limit: Option<u32>,
    /// The same for any one connection.
    pub connection_rate_limit: Option<u32>,
    /// The caller's rules.
    pub allow: Vec<RuleConfig>,
}

/// `[pages]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PagesConfig {
    /// The company's name.
    pub name: Option<String>,
    /// A picture of at most 128 KiB.
    pub logo: Option<PathBuf>,
    /// Whom users may ask.
    pub support: Option<String>,
    /// A directory with one file for each further language.
    pub languages_dir: Option<PathBuf>,
}

/// One way to authenticate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authenticate {
    /// The user at the other end of a Unix socket.
    UnixUser(UnixUser),
    /// A file with the hashes of API keys.
    ApiKeys(PathBuf),
    /// The SPIFFE id in a client certificate.
    Spiffe(SpiffeId),
    /// A DNS name or URI in a client certificate.
    San(San),
    /// The tokens of an issuer.
    Jwt(JwtConfig),
    /// A file with the keys by which it signs its own assertions.
    ClientAssertion(PathBuf),
}

/// The tokens of an issuer that are one caller. One of `subject` and `claims` is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtConfig {
    /// Name of an existing issuer.
    pub issuer: String,
    /// The exact `sub`.
    pub subject: Option<String>,
    /// Claims with their values.
    pub claims: serde_json::Map<String, serde_json::Value>,
}

impl Authenticate {
    /// Returns the method by which it proves who is calling.
    pub fn method(&self) -> AuthMethod {
        match self {
            Authenticate::UnixUser(_) => AuthMethod::UnixUser,
            Authenticate::ApiKeys(_) => AuthMethod::ApiKeys,
            Authenticate::Spiffe(_) => AuthMethod::Spiffe,
            Authenticate::San(_) => AuthMethod::San,
            Authenticate::Jwt(_) => AuthMethod::Jwt,
            Authenticate::ClientAssertion(_) => AuthMethod::ClientAssertion,
        }
    }
}

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnixUser {
    /// A name, which is resolved when it is used.
    Name(String),
    /// By user id.
    Id(u32),
}

/// `[[callers.NAME.allow]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleConfig {
    /// Name of an existing app.
    pub app: String,
    /// Exact names, prefixes that end in `*`, `tenant:{tid}`, or `*`. Empty only beside `app_only`.
    pub connections: Vec<String>,
    /// Allowed scopes; `*` means all granted ones. Empty only without `connections`, or beside `relay`.
    pub scopes: Vec<String>,
    /// What the caller may have relayed; each is a [`RelayRule`](crate::relay::RelayRule).
    pub relay: Vec<String>,
    /// True if the caller may start and confirm connect sessions and delete connections; default false.
    pub connect: bool,
    /// Confirms that `*` is intended; true whenever `connections` or `app_only` has it.
    pub bulk: bool,
    /// Tenants in which the caller gets tokens of the app itself: ids, `home` or `*`.
    pub app_only: Vec<String>,
    /// Resources for which it gets them; `None` is the default.
    pub resources: Option<Vec<String>>,
    /// Since when it gets them.
    pub app_only_since: Option<OffsetDateTime>,
}

/// `[admins.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct AdminConfig {
    /// Ways to authenticate; any one will do. Never empty.
    pub authenticate: Vec<Authenticate>,
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitsConfig {
    /// Life of a connect session; default 1 h.
    pub connect_session_ttl: Duration,
    /// Time that a user may take at the authority; default 10 min.
    pub state_ttl: Duration,
    /// Time that a new connection waits for its confirmation; default 10 min.
    pub confirmation_ttl: Duration,
    /// Most open connect sessions of one caller, over all replicas; default 1000.
    pub open_sessions: u32,
    /// Most open streams of tokens of one caller, in each replica; default 256.
    pub streams_per_caller: u32,
    /// Time of one call to an authority; default 10 s. At least 5 s less than `lease`.
    pub authority_timeout: Duration,
    /// Time that a caller waits for a refresh; default 15 s.
    pub caller_wait: Duration,
    /// Length of a lease, in which one replica may refresh a connection; default 30 s.
    pub lease: Duration,
    /// Most refreshes a second that begin before anybody asks, over all replicas; default 50, 0 for none.
    pub sweep_rate: u32,
    /// Most records a second that are rewrapped after another sealing key was promoted; default 500.
    pub rewrap_rate: u32,
    /// Most mebibytes of cached connections, approximately; default 128.
    pub held_memory_mib: u32,
    /// Time for requests in progress to finish at a stop; default 30 s.
    pub drain: Duration,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq)]
pub struct LogConfig {
    /// Least level that is logged; default info.
    pub level: LogLevel,
    /// JSON lines or text; default by where it goes.
    pub format: LogFormat,
}

/// Level of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// A part of tokenward is broken.
    Error,
    /// An operator should check something.
    Warn,
    /// What happened.
    Info,
    /// How it happened.
    Debug,
    /// Everything.
    Trace,
}

/// Format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text where standard error is a terminal, JSON anywhere else.
    Auto,
    /// One JSON line for each event.
    Json,
    /// Text for people.
    Text,
}

/// `[traces]`, with an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct TracesConfig {
    /// The collector's URL, with its path.
    pub endpoint: HttpUrl,
    /// The part of the traces beginning here that are sampled, from 0 to 1; default 0.01.
    pub sample_ratio: f64,
    /// File with header fields for the collector.
    pub headers_file: Option<PathBuf>,
    /// CA certificates to trust for the collector.
    pub ca_file: Option<PathBuf>,
    /// `service.name`; default tokenward.
    pub service_name: String,
}

/// `[webhooks.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct WebhookConfig {
    /// Where events are sent.
    pub url: HttpUrl,
    /// File with one or two secrets that sign them.
    pub secret_file: PathBuf,
    /// The apps whose events are sent; default all.
    pub apps: Option<Vec<String>>,
    /// The types of events that are sent; default all.
    pub events: Option<Vec<String>>,
    /// CA certificates to trust for the receiver.
    pub ca_file: Option<PathBuf>,
    /// Whether it may be in the operator's own network; default false.
    pub allow_private: bool,
}

impl WebhookConfig {
    /// Whether they differ in nothing but in their files.
    pub fn is_the_same_but_files(&self, other: &Self) -> bool {
        let WebhookConfig { secret_file, ca_file, .. } = self.clone();
        *self == WebhookConfig { secret_file, ca_file, ..other.clone() }
    }
}

/// `[audit]`.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditConfig {
    /// Destinations of its JSON lines, `path` first and then those of `also`; never empty, no two the same.
    /// Default standard output, while logs go to standard error.
    pub sinks: Vec<AuditSink>,
    /// Whether a token is handed out only if a sink took its record; default false.
    pub fail_closed: bool,
    /// The Ed25519 private key in PEM that signs checkpoints; default none.
    pub signing_key: Option<PathBuf>,
}

/// Destination of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditSink {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Appended to this file.
    File(PathBuf),
    /// A syslog daemon at this Unix datagram socket, in RFC 5424.
    Syslog(PathBuf),
    /// journald at this Unix datagram socket, in its own protocol.
    Journald(PathBuf),
}
