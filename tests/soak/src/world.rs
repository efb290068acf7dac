//! The world of one run: the authority, the store, three daemons, the links between them, and the
//! connections.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use entra_emulator::{App, Emulator, Endpoint, Fault, FaultRule, Mode, User};
use http::Method;
use serde_json::{Value, json};
use tokenward::domain::time::Clock;
use tokenward::keyring::files;
use tokenward::system::{SystemClock, SystemRandom};
use tokio_rustls::TlsConnector;

use crate::access::{self, Access, FIRST};
use crate::acts::{Role, role_of};
use crate::client::{Client, Shared};
use crate::config_text::{CLIENT_ID, ConfigText, EVERYTHING, caller};
use crate::daemon::Replica;
use crate::doors::door;
use crate::http_client::{Browser, request, request_unix};
use crate::ledger::{AuthorityCall, Connected};
use crate::ports::lasting_port;
use crate::proxy::Link;
use crate::redis::{PRIMARY, Redis};

/// The app's one secret, which the daemons read from a file.
const CLIENT_SECRET: &str = "soak-client-secret-7Qf~9xLm2";
/// Number of tenants: a throttled one leaves the others alone.
const TENANTS: usize = 4;
/// Tenant of the connections that are revoked together.
pub const REVOKED: &str = "revoked.example";
/// Every connection with this step is a second one of the user before.
const SECOND_CONNECTION: usize = 10;
/// Longest call to the authority …
pub const AUTHORITY_TIMEOUT: Duration = Duration::from_secs(2);
/// … and the length of a lease, at least 5 s more.
pub const LEASE: Duration = Duration::from_secs(8);
/// Longest wait of a caller.
pub const CALLER_WAIT: Duration = Duration::from_secs(5);
/// How long a replica that is cut off from the store serves its cache: less than a token's life, so that the
/// end is seen, and more than a failover takes.
pub const SERVE_CACHED_FOR: Duration = Duration::from_secs(15);
/// The authority's time for a refresh: long enough for two concurrent ones to be seen.
const AUTHORITY_LATENCY: Duration = Duration::from_millis(30);

/// What to build.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The daemon's binary.
    pub binary: PathBuf,
    /// What becomes of used refresh tokens.
    pub mode: Mode,
    /// Three servers and three sentinels, or one server.
    pub sentinel: bool,
    /// Replicas of the daemon.
    pub replicas: u8,
    /// Connections.
    pub connections: u16,
    /// The life of access tokens. A quarter of it, and a replica asks for a new one.
    pub token_life: Duration,
    /// Every other user has tokens of this life.
    pub other_life: Option<Duration>,
    /// Whether wall clocks are to be made wrong.
    pub clocks: bool,
    /// More lines for the daemons' `[store]`.
    pub store_lines: String,
    /// More callers: each one's name, and the lines below its way to prove itself (an API key of its own).
    pub more_callers: Vec<(String, String)>,
}

/// Everything of one run.
pub struct World {
    /// The authority.
    pub entra: Emulator,
    /// The store.
    pub redis: Redis,
    /// The daemons.
    pub replicas: Vec<Replica>,
    /// From each replica to each server of the store, and to each sentinel.
    pub store_links: Vec<Vec<Link>>,
    /// From each replica to the authority.
    pub authority_links: Vec<Link>,
    /// The connections, as they were made at first.
    pub connections: Vec<Connected>,
    /// The callers' credentials and ledger.
    pub shared: Arc<Shared>,
    public_port: u16,
}

/// Milliseconds since 1970.
pub fn now() -> u64 {
    millis(SystemTime::now())
}

fn millis(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// The address from which a replica's links reach servers.
fn source(replica: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, replica + 1)
}

impl World {
    /// Starts everything in a folder and connects every account.
    ///
    /// # Errors
    /// When anything does not start, with what is known of why.
    pub async fn start(plan: &Plan, folder: &Path) -> io::Result<World> {
        let public_port = lasting_port();
        let entra = authority(plan, public_port).await?;
        let redis = if plan.sentinel { Redis::with_sentinels(folder)? } else { Redis::standalone(folder)? };
        secrets(folder)?;
        let access = Access::make(folder, plan.more_callers.iter().map(|(name, _)| name.as_str()))?;
        let mut world = World {
            entra,
            redis,
            replicas: Vec::new(),
            store_links: Vec::new(),
            authority_links: Vec::new(),
            connections: Vec::new(),
            shared: Arc::new(Shared::new(access)),
            public_port,
        };
        for index in 0..plan.replicas {
            world.add_replica(plan, folder, index).await?;
        }
        for replica in &world.replicas {
            replica.start().await?;
        }
        world.confirm_token_hosts().await?;
        world.connect_all(plan.connections).await?;
        // Only now, so that connecting is quick.
        world.entra.faults().inject(world.latency());
        Ok(world)
    }

    /// A client of the native API.
    pub fn client(&self) -> Client {
        Client::new(door("native"), self.shared.clone())
    }

    /// A client at a door.
    ///
    /// # Panics
    /// When there is no such door.
    pub fn client_at(&self, name: &str) -> Client {
        Client::new(door(name), self.shared.clone())
    }

    /// What a caller shows who it is with, in TLS.
    pub fn tls(&self, caller: &str) -> Option<&TlsConnector> {
        self.shared.access.tls(caller)
    }

    /// Where browsers go.
    pub fn public(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.public_port))
    }

    /// The rule by which every refresh takes a little.
    pub fn latency(&self) -> FaultRule {
        FaultRule::new(Endpoint::Token, Fault::Delay(AUTHORITY_LATENCY)).grant_type("refresh_token")
    }

    async fn add_replica(&mut self, plan: &Plan, folder: &Path, index: u8) -> io::Result<()> {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut links = Vec::new();
        for node in &self.redis.nodes {
            let link =
                Link::open(loopback(lasting_port()), node.address(), source(index), Vec::new()).await?;
            links.push(link);
        }
        // Sentinels name servers by their own ports; this replica is told those of its links.
        let mut sentinels: Vec<(u16, u16)> = Vec::new();
        for sentinel in &self.redis.sentinels {
            sentinels.push((sentinel.port, lasting_port()));
        }
        let of_nodes =
            self.redis.nodes.iter().zip(&links).map(|(node, link)| (node.port, link.address().port()));
        let rewrites: Vec<_> = of_nodes
            .chain(sentinels.iter().copied())
            .map(|(from, to)| (from.to_string().into_bytes(), to.to_string().into_bytes()))
            .collect();
        for (from, to) in &sentinels {
            let link = Link::open(loopback(*to), loopback(*from), source(index), rewrites.clone()).await?;
            links.push(link);
        }
        let url = if sentinels.is_empty() {
            format!("redis://{}/0", links[0].address())
        } else {
            let hosts: Vec<_> = sentinels.iter().map(|(_, to)| format!("127.0.0.1:{to}")).collect();
            format!("redis+sentinel://{}/{PRIMARY}", hosts.join(","))
        };
        let emulator: SocketAddr = self
            .entra
            .base_url()
            .trim_start_matches("http://")
            .parse()
            .map_err(|_| io::Error::other("the emulator's address is no address"))?;
        let authority = Link::open(loopback(lasting_port()), emulator, source(index), Vec::new()).await?;

        let home = folder.join(format!("replica-{index}"));
        fs::create_dir_all(&home)?;
        let public = if index == 0 { self.public_port } else { lasting_port() };
        let [local, tls, ops] = [lasting_port(), lasting_port(), lasting_port()].map(loopback);
        let places = Places { folder, public, base_port: self.public_port, local, tls, ops };
        fs::write(home.join("tokenward.toml"), configuration(plan, &places, &url, authority.address()))?;
        self.replicas.push(Replica::new(index, home, plan.binary.clone(), (local, tls, ops), plan.clocks)?);
        self.store_links.push(links);
        self.authority_links.push(authority);
        Ok(())
    }

    /// Each replica reaches the one authority by a link of its own, which is another host to it: the app's
    /// secret may go to all of them.
    async fn confirm_token_hosts(&self) -> io::Result<()> {
        for (replica, link) in self.authority_links.iter().enumerate() {
            let path = format!("/admin/v1/apps/outlook/token-host/{}/confirm", link.address());
            match self.operate(replica, Method::POST, &path, &Value::Null).await {
                200 => {}
                status => {
                    return Err(io::Error::other(format!(
                        "replica {replica}: its token host is not confirmed: {status}"
                    )));
                }
            }
        }
        Ok(())
    }

    async fn connect_all(&mut self, connections: u16) -> io::Result<()> {
        let mut client = self.client();
        for number in 0..connections {
            let (name, user) = (name_of(number), user_of(number));
            self.connect(&name, &user).await?;
            let family = client
                .ask(&self.replicas[0], number, &name, false)
                .await
                .token
                .map(|token| token.family)
                .ok_or_else(|| io::Error::other(format!("{name} has no token")))?;
            self.connections.push(Connected { name, user, families: vec![family] });
        }
        Ok(())
    }

    /// Connects an account and confirms it, as a service and its user would.
    ///
    /// # Errors
    /// When a step on the way fails.
    pub async fn connect(&self, connection: &str, user: &str) -> io::Result<()> {
        let session = json!({ "app": "outlook", "connection": connection, "login_hint": user });
        let session = self.api(Method::POST, "/v1/connect-sessions", session).await?;
        let (id, url) = (text(&session, "id")?, text(&session, "connect_url")?);
        let mut browser = Browser::default();
        browser.get(url).await.map_err(io::Error::other)?;
        let pressed = browser.post(url, "").await.map_err(io::Error::other)?;
        if !pressed.status.is_redirection() {
            return Err(io::Error::other(format!("the button is answered by {}", pressed.status)));
        }
        let base = format!("http://localhost:{}", self.public_port);
        let away = |url: &str| !url.starts_with(&base) && !url.contains("/oauth2/");
        browser.follow(&pressed.location(), away).await.map_err(io::Error::other)?;
        let session = self.api(Method::GET, &format!("/v1/connect-sessions/{id}"), Value::Null).await?;
        let account = &session["account"];
        let account = json!({ "account": { "tid": account["tid"], "oid": account["oid"] } });
        let confirmed =
            self.api(Method::POST, &format!("/v1/connect-sessions/{id}/confirm"), account).await?;
        match text(&confirmed, "state")? {
            "connected" => Ok(()),
            _ => Err(io::Error::other(format!("{connection} was not connected: {session} {confirmed}"))),
        }
    }

    async fn api(&self, method: Method, path: &str, body: Value) -> io::Result<Value> {
        self.api_of(0, method, path, body).await
    }

    /// Calls a replica's API.
    ///
    /// # Errors
    /// When there is no answer, or one that is no JSON.
    pub async fn api_of(&self, replica: usize, method: Method, path: &str, body: Value) -> io::Result<Value> {
        let url = format!("http://{}{path}", self.replicas[replica].local);
        let bearer = format!("Bearer {}", self.shared.access.key(FIRST));
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let asked = tokio::time::timeout(CALLER_WAIT * 2, request(method, &url, &headers, body)).await;
        let answer = asked.map_err(io::Error::other)?.map_err(io::Error::other)?;
        serde_json::from_slice(&answer.body).map_err(io::Error::other)
    }

    /// Tells a replica something that has an effect, as a caller: the status, and what it answered; 0 for no
    /// answer.
    pub async fn tell(&self, replica: usize, method: Method, path: &str) -> u16 {
        let url = format!("http://{}{path}", self.replicas[replica].local);
        let bearer = format!("Bearer {}", self.shared.access.key(FIRST));
        let headers = [("authorization", bearer.as_str())];
        let asked = tokio::time::timeout(CALLER_WAIT * 2, request(method, &url, &headers, "")).await;
        asked.map_or(0, |answer| answer.map_or(0, |answer| answer.status.as_u16()))
    }

    /// The same as an operator, over the replica's Unix socket.
    pub async fn operate(&self, replica: usize, method: Method, path: &str, body: &Value) -> u16 {
        let socket = self.replicas[replica].admin();
        let headers = [("content-type", "application/json")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let asked = request_unix(&socket, method, path, &headers, body);
        let asked = tokio::time::timeout(CALLER_WAIT * 2, asked).await;
        asked.map_or(0, |answer| answer.map_or(0, |answer| answer.status.as_u16()))
    }

    /// What the authority was asked since this was last called, as far as it is over, and of the rest at the
    /// end.
    pub fn authority_calls(&self, also_unended: bool) -> Vec<AuthorityCall> {
        let mut entries = self.entra.take_ledger();
        if also_unended {
            entries.extend(self.entra.ledger());
        }
        let is_token = |entry: &entra_emulator::LedgerEntry| entry.endpoint == Endpoint::Token;
        let call = |entry: entra_emulator::LedgerEntry| AuthorityCall {
            sequence: entry.sequence,
            started: millis(entry.time),
            ended: entry.ended.map(millis),
            delivered: entry.delivered,
            replica: (0..u8::try_from(self.replicas.len()).unwrap_or(u8::MAX))
                .find(|replica| entry.peer.ip() == source(*replica)),
            refresh: entry.grant_type.as_deref() == Some("refresh_token"),
            user: entry.user,
            family: entry.family,
            presented: entry.refresh_presented,
            issued: entry.refresh_issued,
            access: entry.access_issued,
            status: entry.status,
            error: entry.error,
            aadsts: entry.aadsts,
            faults: entry.faults,
        };
        entries.into_iter().filter(is_token).map(call).collect()
    }
}

/// The name of a connection.
fn name_of(number: u16) -> String {
    format!("soak/user-{number:05}")
}

/// The number of its user: some have two connections.
fn owner_of(number: usize) -> usize {
    if number % SECOND_CONNECTION == SECOND_CONNECTION - 1 { number - 1 } else { number }
}

/// Whether a connection's tokens have the plan's other life.
pub(crate) fn has_other_life(number: usize) -> bool {
    owner_of(number) % 2 == 1
}

/// Whose it is.
fn user_of(number: u16) -> String {
    let owner = owner_of(usize::from(number));
    match role_of(u16::try_from(owner).unwrap_or(u16::MAX)) {
        Role::Revoked => format!("user-{owner:05}@{REVOKED}"),
        _ => format!("user-{owner:05}@tenant-{}.example", owner % TENANTS),
    }
}

async fn authority(plan: &Plan, public_port: u16) -> io::Result<Emulator> {
    let callback = format!("http://localhost:{public_port}/callback/outlook");
    let mut builder = Emulator::builder()
        .mode(plan.mode)
        .settings(|settings| settings.follow_host = true)
        .token_lifetime(plan.token_life)
        .app(App::new(CLIENT_ID).secret(CLIENT_SECRET).redirect_uri(&callback));
    for number in 0..plan.connections {
        let user = User::work(user_of(number));
        builder = builder.user(match plan.other_life {
            Some(life) if has_other_life(usize::from(number)) => user.token_lifetime(life),
            _ => user,
        });
    }
    builder.start().await.map_err(io::Error::other)
}

/// Makes the keyring and the app's secret, which all replicas share.
fn secrets(folder: &Path) -> io::Result<()> {
    let random = SystemRandom::new();
    let now = SystemClock::new().now();
    files::add(&folder.join("keyring"), &random, now).map_err(io::Error::other)?;
    let secret = folder.join("client-secret");
    fs::write(&secret, CLIENT_SECRET)?;
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))
}

fn text<'a>(value: &'a Value, key: &str) -> io::Result<&'a str> {
    value[key].as_str().ok_or_else(|| io::Error::other(format!("no {key} in {value}")))
}

struct Places<'a> {
    folder: &'a Path,
    public: u16,
    base_port: u16,
    local: SocketAddr,
    tls: SocketAddr,
    ops: SocketAddr,
}

fn configuration(plan: &Plan, places: &Places<'_>, url: &str, authority: SocketAddr) -> String {
    let Places { folder, public, base_port, local, tls, ops } = places;
    let folder = format!("{}/", folder.display());
    let reuse = match plan.mode {
        Mode::Entra => "safe",
        Mode::Strict => "never",
    };
    let home = User::work(user_of(0));
    let home = home.tenant_id();
    let seconds = |duration: Duration| format!("{}s", duration.as_secs());
    let mut sections = format!(
        "[limits]\nauthority_timeout = \"{}\"\nlease = \"{}\"\ncaller_wait = \"{}\"\n",
        seconds(AUTHORITY_TIMEOUT),
        seconds(LEASE),
        seconds(CALLER_WAIT)
    );
    sections += &caller(FIRST, &format!("{folder}{FIRST}.keys"), EVERYTHING);
    sections += &access::sections(&folder, *tls);
    for (name, lines) in &plan.more_callers {
        let keys = format!("{folder}{name}.keys");
        sections += &format!("[callers.{name}]\nauthenticate = [{{ api_keys = \"{keys}\" }}]\n{lines}");
    }
    ConfigText {
        store: &format!(
            "kind = \"redis\"\nurl = \"{url}\"\nserve_cached_for = \"{}\"\n{}",
            seconds(SERVE_CACHED_FOR),
            plan.store_lines
        ),
        folder: &folder,
        public_port: *public,
        base_port: *base_port,
        local: &local.to_string(),
        ops: &ops.to_string(),
        authority: &format!("http://{authority}/common/v2.0"),
        app: &format!(
            "tenants = [\"*\"]\nhome_tenant = \"{home}\"\n\
             return_urls = [\"https://app.contoso.example/settings/outlook\"]\n\
             refresh_token_reuse = \"{reuse}\""
        ),
        sections: &sections,
        ..ConfigText::default()
    }
    .text()
}

/// Both halves of a run hold on to it.
pub type SharedWorld = Arc<World>;
