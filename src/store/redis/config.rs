//! How to reach Redis.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::tls::RedisTls;
use crate::store::observed::StoreObserver;

/// Source of a secret. It is asked every second and with every connection, so that a changed file counts
/// without a restart. It may read a small file. The error says why there is no secret, without showing one.
pub type PasswordSource = Arc<dyn Fn() -> Result<Zeroizing<String>, String> + Send + Sync>;

/// Source of the files of TLS, asked as often.
pub type TlsSource = Arc<dyn Fn() -> Result<RedisTls, String> + Send + Sync>;

/// Where Redis is.
#[derive(Clone)]
pub enum Location {
    /// One server.
    Server {
        /// Its name or address.
        host: String,
        /// Its port.
        port: u16,
    },
    /// At the address that the sentinels name.
    Sentinels(Sentinels),
    /// At these nodes of a Cluster, and at all that they name. It has no database but 0.
    Cluster(Vec<(String, u16)>),
}

/// How to reach Redis.
#[derive(Clone)]
pub struct RedisConfig {
    /// The server, or those that know its address.
    pub location: Location,
    /// The database's number.
    pub database: u16,
    /// The files of TLS; `None` is plain TCP. For the sentinels too.
    pub tls: Option<TlsSource>,
    /// The ACL user; Redis's `default` when there is none.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<PasswordSource>,
    /// What `CLIENT LIST` shows; no blanks.
    pub client_name: String,
    /// The file that remembers the store's name beyond this process.
    pub identity_file: Option<PathBuf>,
    /// True for a command that only reads: it gives the store no name, and writes none into `identity_file`.
    pub only_reads: bool,
    /// How long making a connection may take: name, TCP, TLS and the greeting.
    pub connect_timeout: Duration,
    /// How long one command may take before its connection counts as dead.
    pub response_timeout: Duration,
    /// How long one operation of the store may take in all, waiting for a connection and a second try
    /// included. (A list and a creation are a few of these.)
    pub operation_timeout: Duration,
    /// How many replicas must have a commit or a delete before it is acknowledged.
    pub wait_replicas: u32,
    /// How long the replicas may take. Shorter than `response_timeout`, since the server answers only then.
    pub wait_timeout: Duration,
    /// The receiver of reports on replaced secrets.
    pub observer: Option<Arc<dyn StoreObserver>>,
}

impl RedisConfig {
    /// A plain connection without a password, with the usual limits.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self::at(Location::Server { host: host.into(), port })
    }

    /// The same for the primary that these sentinels name.
    pub fn through(sentinels: Sentinels) -> Self {
        Self::at(Location::Sentinels(sentinels))
    }

    /// The same for the Cluster of these nodes.
    pub fn cluster(nodes: Vec<(String, u16)>) -> Self {
        Self::at(Location::Cluster(nodes))
    }

    fn at(location: Location) -> Self {
        RedisConfig {
            location,
            database: 0,
            tls: None,
            username: None,
            password: None,
            client_name: "tokenward".to_owned(),
            identity_file: None,
            only_reads: false,
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_millis(500),
            operation_timeout: Duration::from_secs(1),
            wait_replicas: 0,
            wait_timeout: Duration::from_millis(250),
            observer: None,
        }
    }
}

/// Long enough for a handshake with TLS across a region. Short enough that an operation that has to find the
/// primary first still ends within its time.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(300);

/// The sentinels, and what to ask them.
#[derive(Clone)]
pub struct Sentinels {
    /// Where they listen.
    pub addresses: Vec<(String, u16)>,
    /// The name under which they watch the primary.
    pub primary: String,
    /// The sentinels' own ACL user; their `default` when there is none.
    pub username: Option<String>,
    /// The password for the sentinels. Redis's own is never shown to them.
    pub password: Option<PasswordSource>,
    /// How long one may take to answer, connecting included.
    pub answer_timeout: Duration,
}

impl Sentinels {
    /// Sentinels without a password, with the usual limit.
    pub fn new(addresses: Vec<(String, u16)>, primary: impl Into<String>) -> Self {
        Sentinels {
            addresses,
            primary: primary.into(),
            username: None,
            password: None,
            answer_timeout: ANSWER_TIMEOUT,
        }
    }

    /// How many are more than half of them.
    pub(super) fn majority(&self) -> usize {
        self.addresses.len() / 2 + 1
    }
}
