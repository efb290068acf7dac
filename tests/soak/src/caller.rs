//! Callers: services that keep asking for tokens of their connections, and record what they get.

use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokenward::domain::time::Timestamp;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::acts::{Acts, Role, role_of};
use crate::daemon::Replica;
use crate::ledger::{Call, HandedOut};
use crate::random::Random;
use crate::world::{CALLER_WAIT, World, now};

/// Longest wait of a caller: longer than the daemon's own limit.
const PATIENCE: Duration = Duration::from_millis(2 * CALLER_WAIT.as_millis() as u64);
/// Pause of a caller after a refusal, as in a client with a backoff.
pub const LOOK_AWAY: Duration = Duration::from_millis(100);
/// One in this many requests reports the caller's earlier token: well below the ten forced renewals in 10 s
/// that a connection allows.
const REPORT_ONCE_IN: u64 = 100;

/// Every call has a number of its own in this process.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// A service's HTTP client: one connection kept to each replica.
pub struct Client {
    bearer: String,
    kept: BTreeMap<SocketAddr, SendRequest<Full<Bytes>>>,
    /// The token it last got of each connection: its serial, and the digest by which it is reported.
    last: HashMap<u16, (u64, String)>,
}

impl Client {
    /// A client with an API key.
    pub fn new(key: String) -> Self {
        Client { bearer: format!("Bearer {key}"), kept: BTreeMap::new(), last: HashMap::new() }
    }

    /// Asks a replica for a token of a connection.
    pub async fn ask(&mut self, replica: &Replica, connection: u16, name: &str, query: &str) -> Call {
        self.ask_with(replica, connection, name, (query, None)).await
    }

    /// Reports the connection's last token as rejected and asks for another; `None` if it got none yet.
    pub async fn report(&mut self, replica: &Replica, connection: u16, name: &str) -> Option<Call> {
        let last = self.last.get(&connection)?.clone();
        Some(self.ask_with(replica, connection, name, ("", Some(last))).await)
    }

    async fn ask_with(
        &mut self,
        replica: &Replica,
        connection: u16,
        name: &str,
        (query, rejected): (&str, Option<(u64, String)>),
    ) -> Call {
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let (life, started) = (replica.life(), now());
        let path = format!("/v1/apps/outlook/connections/{}/token{query}", name.replace('/', "%2F"));
        let (reported, body) = match rejected {
            None => (None, Bytes::new()),
            Some((serial, digest)) => (Some(serial), Bytes::from(json!({ "rejected": digest }).to_string())),
        };
        let asked = Asked { address: replica.local, path, body, number };
        let answer = tokio::time::timeout(PATIENCE, self.get(&asked)).await;
        if answer.is_err() {
            // The connection still waits for that answer.
            self.kept.remove(&replica.local);
        }
        let ended = now();
        let (status, body, trouble) = match answer {
            Ok(Ok((status, body))) => (status, body, None),
            Ok(Err(error)) => (0, Bytes::new(), Some(error)),
            Err(_) => (0, Bytes::new(), Some("timed_out")),
        };
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let token = (status == 200).then(|| read_token(&body)).flatten();
        if let (Some(token), Some(text)) = (&token, body["access_token"].as_str()) {
            let digest: String =
                digest(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            self.last.insert(connection, (token.serial, digest));
        }
        let code = body["code"].as_str().or(trouble).map(str::to_owned);
        let replica = replica.index;
        Call { number, started, ended, replica, life, connection, status, code, token, reported }
    }

    async fn get(&mut self, asked: &Asked) -> Result<(u16, Bytes), &'static str> {
        if let Some(kept) = self.kept.remove(&asked.address)
            && !kept.is_closed()
            && let Ok(answer) = self.send(kept, asked).await
        {
            return Ok(answer);
        }
        // A kept connection may be closed by the other side just as it is used: a request without effects is
        // repeated.
        let stream = TcpStream::connect(asked.address).await.map_err(|_| "not_connected")?;
        let _ = stream.set_nodelay(true);
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|_| "not_connected")?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        self.send(sender, asked).await.map_err(|_| "cut_off")
    }

    async fn send(
        &mut self,
        mut sender: SendRequest<Full<Bytes>>,
        asked: &Asked,
    ) -> Result<(u16, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        sender.ready().await?;
        let Asked { address, path, body, number } = asked;
        let method = if body.is_empty() { Method::GET } else { Method::POST };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "tokenward")
            .header(header::AUTHORIZATION, &self.bearer)
            .header(header::CONTENT_TYPE, "application/json")
            .header("traceparent", format!("00-{SOAK:016x}{number:016x}-{SOAK:016x}-00"))
            .body(Full::new(body.clone()))?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        self.kept.insert(*address, sender);
        Ok((status, body))
    }
}

/// One request for a token.
struct Asked {
    address: SocketAddr,
    path: String,
    /// Empty for a plain request.
    body: Bytes,
    number: u64,
}

/// The first half of every request id of a run.
const SOAK: u64 = 0x50a4_50a4_50a4_50a4;

/// The call's number in a request id.
pub fn number_of(request_id: &str) -> Option<u64> {
    let rest = request_id.strip_prefix(&format!("{SOAK:016x}"))?;
    u64::from_str_radix(rest, 16).ok()
}

/// Reads what a token says about itself. Only the emulator's tokens do.
fn read_token(body: &Value) -> Option<HandedOut> {
    let said = Timestamp::parse_rfc3339(body["expires_at"].as_str()?)?;
    let claims = body["access_token"].as_str()?.split('.').nth(1)?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    Some(HandedOut {
        user: claims["emu_user"].as_str()?.to_owned(),
        family: claims["emu_family"].as_u64()?,
        generation: claims["emu_generation"].as_u64()?,
        serial: claims["emu_serial"].as_u64()?,
        dies: claims["exp"].as_u64()? * 1000,
        said_to_die: u64::try_from(said.unix_millis()).unwrap_or(0),
    })
}

/// Asks until told to stop, with this many callers at a time and this many requests a second. Connections
/// that need their user are sent to `need`.
pub async fn crowd(
    world: Arc<World>,
    (callers, rate, seed): (u16, u32, u64),
    stop: Arc<AtomicBool>,
    need: mpsc::Sender<u16>,
) -> Vec<Call> {
    let ledger = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    let pause = Duration::from_secs(1) * u32::from(callers) / rate.max(1);
    for caller in 0..callers {
        let (world, ledger, stop, need) = (world.clone(), ledger.clone(), stop.clone(), need.clone());
        tasks.spawn(async move {
            let mut random = Random::new(seed ^ (u64::from(caller) << 32));
            let mut client = Client::new(world.key.clone());
            let mut calls = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let replica = &world.replicas[random.index(world.replicas.len())];
                let number = random.index(world.connections.len());
                let name = &world.connections[number].name;
                let query = if random.once_in(10) { "?min_ttl=60" } else { "" };
                let connection = u16::try_from(number).expect("connections have numbers of 16 bits");
                let reported = match random.once_in(REPORT_ONCE_IN) {
                    true => client.report(replica, connection, name).await,
                    false => None,
                };
                let call = match reported {
                    Some(call) => call,
                    None => client.ask(replica, connection, name, query).await,
                };
                let refused = call.status == 0;
                if needs_its_user(&call) {
                    // A full queue has it already, most likely; it comes again.
                    let _ = need.try_send(connection);
                }
                calls.push(call);
                let pause = if refused { pause.max(LOOK_AWAY) } else { pause };
                tokio::time::sleep(random.between(Duration::ZERO, pause * 2)).await;
            }
            ledger.lock().append(&mut calls);
        });
    }
    drop(need);
    while tasks.join_next().await.is_some() {}
    std::mem::take(&mut ledger.lock())
}

/// Returns true if the user must sign in. A missing connection counts only if it was deleted on purpose:
/// otherwise it is a fault and must not be repaired.
fn needs_its_user(call: &Call) -> bool {
    match call.code.as_deref() {
        Some("reauthorization_required") => true,
        Some("connection_not_found") => matches!(role_of(call.connection), Role::Deleted | Role::Revoked),
        _ => false,
    }
}

/// The users: they sign in again for connections that need it, until told to stop.
pub async fn users(
    world: Arc<World>,
    acts: Arc<Acts>,
    mut asked: mpsc::Receiver<u16>,
    stop: Arc<AtomicBool>,
) {
    let mut client = Client::new(world.key.clone());
    while let Some(number) = asked.recv().await {
        // Another act is under way and knows what the connection needs; if it still needs its user
        // afterwards, it comes again.
        let Ok(_turn) = acts.turn(number).try_lock() else { continue };
        let name = &world.connections[usize::from(number)].name;
        // Until the sign-in that the connection lives by is known: a confirmation's answer may have been
        // lost.
        while !stop.load(Ordering::Relaxed) {
            // The replica at which they are connected: others take up to a second to see it.
            let call = client.ask(&world.replicas[0], number, name, "").await;
            if let Some(token) = &call.token {
                acts.lives_by(number, token.family);
                break;
            }
            if !needs_its_user(&call) || !acts.sign_in(number).await {
                tokio::time::sleep(LOOK_AWAY * 5).await;
            }
        }
    }
}
