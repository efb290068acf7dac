//! A service's HTTP client: it asks for tokens through one door, and writes down every request.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::access::Access;
use crate::daemon::Replica;
use crate::doors::{Asked, Door, Over, Said, Wanted, native_status};
use crate::ledger::{Answer, Call, Entry, HandedOut};
use crate::pki::dial;
use crate::world::{CALLER_WAIT, now};

/// Longest wait of a caller: longer than the daemon's own limit.
const PATIENCE: Duration = Duration::from_millis(2 * CALLER_WAIT.as_millis() as u64);
/// The first half of every request id of a run.
const SOAK: u64 = 0x50a4_50a4_50a4_50a4;

/// Every request has a number of its own in this process.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// What all clients of a run share: their credentials, and the ledger.
pub struct Shared {
    /// Their credentials.
    pub access: Access,
    entries: Mutex<Vec<Entry>>,
}

impl Shared {
    /// With an empty ledger.
    pub fn new(access: Access) -> Self {
        Shared { access, entries: Mutex::default() }
    }

    /// What was written down.
    pub fn entries(&self) -> Vec<Entry> {
        let mut entries = self.entries.lock().clone();
        entries.sort_by_key(|entry| entry.number);
        entries
    }
}

/// The token that a client last got of a connection.
struct LastToken {
    serial: u64,
    /// By which it is reported.
    digest: String,
}

/// A client, with one connection kept to each replica.
pub struct Client {
    door: &'static Door,
    shared: Arc<Shared>,
    kept: BTreeMap<u8, SendRequest<Full<Bytes>>>,
    last: HashMap<u16, LastToken>,
}

/// What became of one try.
struct Tried {
    answer: Result<(u16, Value), &'static str>,
    ended: u64,
    said: Said,
}

impl Client {
    /// A client at this door.
    pub fn new(door: &'static Door, shared: Arc<Shared>) -> Self {
        Client { door, shared, kept: BTreeMap::new(), last: HashMap::new() }
    }

    /// Its door.
    pub fn door(&self) -> &'static Door {
        self.door
    }

    /// Asks a replica for a token of a connection. `short` is for the least life.
    pub async fn ask(&mut self, replica: &Replica, connection: u16, name: &str, short: bool) -> Call {
        self.ask_with(replica, connection, name, (short, None)).await
    }

    /// Reports the connection's last token as rejected and asks for another; `None` if it got none yet.
    pub async fn report(&mut self, replica: &Replica, connection: u16, name: &str) -> Option<Call> {
        let LastToken { serial, digest } = self.last.get(&connection)?;
        let last = (*serial, digest.clone());
        Some(self.ask_with(replica, connection, name, (false, Some(last))).await)
    }

    async fn ask_with(
        &mut self,
        replica: &Replica,
        connection: u16,
        name: &str,
        (short, rejected): (bool, Option<(u64, String)>),
    ) -> Call {
        let (life, started) = (replica.life(), now());
        let secret = self.shared.access.secret(self.door);
        let digest = rejected.as_ref().map(|(_, digest)| digest.as_str());
        let asked = self.door.ask(&Wanted { connection: name, rejected: digest, short, secret: &secret });
        let (number, tried) = self.get(replica, &asked, name).await;
        let Tried { answer, ended, said } = tried;
        let token = said.token.as_deref().and_then(|text| read_token(text, said.dies));
        if let (Some(token), Some(text)) = (&token, &said.token) {
            self.last.insert(connection, LastToken { serial: token.serial, digest: hex_digest(text) });
        }
        let (status, trouble) = match &answer {
            Ok((status, _)) => (native_status(*status, said.code.as_deref()), None),
            Err(trouble) => (0, Some((*trouble).to_owned())),
        };
        Call {
            number,
            started,
            ended,
            replica: replica.index,
            life,
            connection,
            status,
            code: said.code.or(trouble),
            token,
            reported: rejected.filter(|_| asked.reports).map(|(serial, _)| serial),
            door: self.door.name.to_owned(),
        }
    }

    /// Sends it, on a kept connection if there is one.
    async fn get(&mut self, replica: &Replica, asked: &Asked, name: &str) -> (u64, Tried) {
        if let Some(kept) = self.kept.remove(&replica.index)
            && !kept.is_closed()
        {
            let (number, tried) = self.try_once(replica, asked, name, Some(kept)).await;
            if !matches!(tried.answer, Err("cut_off")) {
                return (number, tried);
            }
        }
        // A kept connection may be closed by the other side just as it is used: a request without effects is
        // repeated.
        self.try_once(replica, asked, name, None).await
    }

    /// One try, with a number and a place in the ledger of its own.
    async fn try_once(
        &mut self,
        replica: &Replica,
        asked: &Asked,
        name: &str,
        kept: Option<SendRequest<Full<Bytes>>>,
    ) -> (u64, Tried) {
        let (number, started) = (NUMBERS.fetch_add(1, Ordering::Relaxed), now());
        let answer = tokio::time::timeout(PATIENCE, self.send(replica, asked, number, kept)).await;
        let ended = now();
        let (answer, said) = match answer {
            Err(_) => (Err("timed_out"), Said::default()),
            Ok(Err(trouble)) => (Err(trouble), Said::default()),
            Ok(Ok((status, body))) => {
                let body: Value = serde_json::from_slice(&body).unwrap_or_default();
                let said = self.door.read(status, &body, ended);
                (Ok((status, body)), said)
            }
        };
        let door = self.door;
        let entry = Entry {
            number,
            door: door.name.to_owned(),
            word: door.word.to_owned(),
            method: door.proof.method().map(str::to_owned),
            caller: Some(door.caller).filter(|caller| !caller.is_empty()).map(str::to_owned),
            connection: door.connection(name).map(str::to_owned),
            replica: replica.index,
            started,
            ended,
            hung_up: door.streams,
            answer: match (&answer, &said) {
                (Err(_), _) => Answer::Lost,
                (_, Said { token: Some(token), .. }) => {
                    Answer::Token { sha256: hex_digest(token), uti: claim(token, "uti") }
                }
                (Ok((status, _)), Said { code, .. }) => {
                    Answer::Refused(code.clone().unwrap_or_else(|| status.to_string()))
                }
            },
        };
        self.shared.entries.lock().push(entry);
        (number, Tried { answer, ended, said })
    }

    async fn send(
        &mut self,
        replica: &Replica,
        asked: &Asked,
        number: u64,
        kept: Option<SendRequest<Full<Bytes>>>,
    ) -> Result<(u16, Bytes), &'static str> {
        let mut sender = match kept {
            Some(kept) => kept,
            None => self.connected(replica).await.map_err(|_| "not_connected")?,
        };
        sender.ready().await.map_err(|_| "cut_off")?;
        let mut request = Request::builder()
            .method(asked.method.clone())
            .uri(&asked.path)
            .header(header::HOST, "tokenward")
            .header("traceparent", traceparent(number));
        for (name, value) in &asked.headers {
            request = request.header(*name, value);
        }
        let body = Full::new(Bytes::from(asked.body.clone()));
        let response = sender.send_request(request.body(body).map_err(|_| "not_sent")?).await;
        let response = response.map_err(|_| "cut_off")?;
        let status = response.status().as_u16();
        if self.door.streams && status == 200 {
            // (The connection goes with its sender.)
            return Ok((status, first_event(response.into_body()).await?));
        }
        let body = response.into_body().collect().await.map_err(|_| "cut_off")?.to_bytes();
        self.kept.insert(replica.index, sender);
        Ok((status, body))
    }

    async fn connected(&self, replica: &Replica) -> io::Result<SendRequest<Full<Bytes>>> {
        match self.door.over {
            Over::Tcp => {
                let stream = TcpStream::connect(replica.local).await?;
                stream.set_nodelay(true)?;
                over(stream).await
            }
            Over::Unix => over(UnixStream::connect(replica.socket()).await?).await,
            Over::Tls => {
                let client = self.shared.access.tls(self.door.caller);
                let client = client.ok_or_else(|| io::Error::other("no certificate"))?;
                over(dial(client, replica.tls.port()).await?).await
            }
        }
    }
}

/// The data of the first event of a stream that has some (server-sent events).
async fn first_event(mut body: Incoming) -> Result<Bytes, &'static str> {
    let mut text = String::new();
    loop {
        let frame = body.frame().await.ok_or("cut_off")?.map_err(|_| "cut_off")?;
        if let Some(data) = frame.data_ref() {
            text += &String::from_utf8_lossy(data);
        }
        let data = text.split_once("data: ").and_then(|(_, rest)| rest.split_once('\n'));
        if let Some((data, _)) = data {
            return Ok(Bytes::from(data.to_owned()));
        }
    }
}

async fn over(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> io::Result<SendRequest<Full<Bytes>>> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

/// The header that makes this number the low half of the request's id.
fn traceparent(number: u64) -> String {
    format!("00-{SOAK:016x}{number:016x}-{SOAK:016x}-00")
}

/// The request's number in its id.
pub fn number_of(request_id: &str) -> Option<u64> {
    let rest = request_id.strip_prefix(&format!("{SOAK:016x}"))?;
    u64::from_str_radix(rest, 16).ok()
}

/// The SHA-256 of a token, in lower-case hex.
fn hex_digest(token: &str) -> String {
    digest(&SHA256, token.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn claims(token: &str) -> Option<Value> {
    let claims = token.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}

fn claim(token: &str, name: &str) -> Option<String> {
    claims(token)?[name].as_str().map(str::to_owned)
}

/// Reads what a token says about itself. Only the emulator's tokens do.
fn read_token(token: &str, said_to_die: Option<u64>) -> Option<HandedOut> {
    let claims = claims(token)?;
    Some(HandedOut {
        user: claims["emu_user"].as_str()?.to_owned(),
        family: claims["emu_family"].as_u64()?,
        generation: claims["emu_generation"].as_u64()?,
        serial: claims["emu_serial"].as_u64()?,
        dies: claims["exp"].as_u64()? * 1000,
        said_to_die: said_to_die?,
    })
}
