//! Shared test tools of this room: a clock set by hand, and a server with scripted answers, good or bad.

use parking_lot::Mutex;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;

use super::observer::{AuthorityEvent, AuthorityObserver};
use crate::domain::random::Random;
use crate::domain::task::BoxFuture;
use crate::domain::time::{Clock, Timestamp};
pub(super) use crate::jwt::testing::{OTHER_RSA, P256, RSA, b64, jwt, other_jwks, p256_jwk, rsa_jwk};

pub(super) const CLIENT_ID: &str = "11111111-2222-3333-4444-555555555555";
pub(super) const TENANT_A: &str = "aaaaaaaa-0000-4000-8000-00000000000a";
pub(super) const TENANT_B: &str = "bbbbbbbb-0000-4000-8000-00000000000b";
pub(super) const USER: &str = "cccccccc-0000-4000-8000-00000000000c";

/// Wall and monotonic time move only by hand. Sleeps take real time, because the sockets are real.
pub(super) struct ManualClock {
    wall_seconds: AtomicI64,
    monotonic_seconds: AtomicU64,
}

/// 2026-11-23T00:00:00Z.
pub(super) const NOW: i64 = 1_795_392_000;

impl ManualClock {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(ManualClock {
            wall_seconds: AtomicI64::new(NOW),
            monotonic_seconds: AtomicU64::new(1_000_000),
        })
    }

    pub(super) fn advance(&self, seconds: u64) {
        self.wall_seconds.fetch_add(i64::try_from(seconds).expect("small"), Ordering::SeqCst);
        self.monotonic_seconds.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_seconds(self.wall_seconds.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.monotonic_seconds.load(Ordering::SeqCst))
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// A counter: every draw differs.
#[derive(Default)]
pub(super) struct CountingRandom(AtomicU64);

impl Random for CountingRandom {
    fn fill(&self, buffer: &mut [u8]) {
        for byte in buffer.chunks_mut(8) {
            let next = self.0.fetch_add(1, Ordering::SeqCst).to_be_bytes();
            byte.copy_from_slice(&next[8 - byte.len()..]);
        }
    }
}

/// Records every event.
#[derive(Default)]
pub(super) struct Ledger(Mutex<Vec<String>>);

impl AuthorityObserver for Ledger {
    fn observe(&self, event: AuthorityEvent<'_>) {
        let line = match event {
            AuthorityEvent::Request { endpoint, outcome, .. } => format!("{} {outcome}", endpoint.as_str()),
            AuthorityEvent::CredentialAccepted { id, .. } => format!("accepted {id}"),
            AuthorityEvent::CredentialRejected { id, codes, .. } => format!("rejected {id} {codes:?}"),
            AuthorityEvent::CredentialSuspected { id } => format!("suspected {id}"),
            AuthorityEvent::SecretMethodSeen { method } => format!("sent as {}", method.as_str()),
            AuthorityEvent::CredentialUnusable { id, .. } => format!("unusable {id}"),
            AuthorityEvent::HeldBack { cause } => format!("held back: {cause}"),
            AuthorityEvent::ServingLastGood { endpoint } => format!("last_good {}", endpoint.as_str()),
        };
        self.0.lock().push(line);
    }
}

impl Ledger {
    pub(super) fn lines(&self) -> Vec<String> {
        self.0.lock().clone()
    }

    pub(super) fn has(&self, line: &str) -> bool {
        self.lines().iter().any(|one| one == line)
    }
}

/// A request as the server read it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) path: String,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) form: Vec<(String, String)>,
}

impl Seen {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.form.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// The server's reaction to a request.
pub(super) enum Reply {
    /// A valid answer.
    Answer { status: u16, headers: Vec<(&'static str, String)>, body: String },
    /// These bytes, and then the end of the connection.
    Raw(Vec<u8>),
    /// A valid head, and then body bytes one at a time, for ever.
    Drip,
    /// No answer; the connection stays open.
    Hang,
    /// No answer; the connection is closed.
    Close,
}

impl Reply {
    pub(super) fn json(status: u16, body: &Value) -> Self {
        let headers = vec![("content-type", "application/json; charset=utf-8".to_owned())];
        Reply::Answer { status, headers, body: body.to_string() }
    }
}

type Handler = Box<dyn Fn(&Seen) -> Reply + Send + Sync>;

/// A server on its own port, with a thread for each connection.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    connections: Arc<AtomicU64>,
}

impl Server {
    pub(super) fn start(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Server::start_with(None, Box::new(handler))
    }

    /// Starts it with TLS and the certificate for localhost.
    pub(super) fn start_tls(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let pem = include_bytes!("../../tests/data/authority/keys/tls-localhost.pem");
        let chain = vec![CertificateDer::from_pem_slice(pem).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_slice(pem).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a pair");
        Server::start_with(Some(Arc::new(config)), Box::new(handler))
    }

    fn start_with(tls: Option<Arc<rustls::ServerConfig>>, handler: Handler) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let handler = Arc::new(handler);
        let (all_seen, stopping) = (Arc::clone(&seen), Arc::clone(&stop));
        let connections = Arc::new(AtomicU64::new(0));
        let opened = Arc::clone(&connections);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopping.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                opened.fetch_add(1, Ordering::SeqCst);
                stream.set_nodelay(true).expect("a socket");
                let (handler, seen, stop) =
                    (Arc::clone(&handler), Arc::clone(&all_seen), Arc::clone(&stopping));
                let tls = tls.clone();
                std::thread::spawn(move || match tls {
                    None => serve(stream, &**handler, &seen, &stop),
                    Some(config) => {
                        let session = rustls::ServerConnection::new(config).expect("a session");
                        serve(rustls::StreamOwned::new(session, stream), &**handler, &seen, &stop);
                    }
                });
            }
        });
        Server { address, seen, stop, connections }
    }

    pub(super) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    /// Returns the number of connections made.
    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    /// Returns the number of requests whose path has this end.
    pub(super) fn count(&self, suffix: &str) -> usize {
        self.seen().iter().filter(|seen| seen.path.ends_with(suffix)).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(
    mut stream: impl Read + Write,
    handler: &dyn Fn(&Seen) -> Reply,
    all: &Mutex<Vec<Seen>>,
    stop: &AtomicBool,
) {
    while let Some(seen) = read_request(&mut stream) {
        all.lock().push(seen.clone());
        match handler(&seen) {
            Reply::Answer { status, headers, body } => {
                let mut head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n", body.len());
                for (name, value) in headers {
                    head.push_str(&format!("{name}: {value}\r\n"));
                }
                head.push_str("\r\n");
                head.push_str(&body);
                if stream.write_all(head.as_bytes()).and_then(|()| stream.flush()).is_err() {
                    return;
                }
            }
            Reply::Raw(bytes) => {
                let _ = stream.write_all(&bytes).and_then(|()| stream.flush());
                return;
            }
            Reply::Drip => {
                let head =
                    b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n{";
                let mut alive = stream.write_all(head).and_then(|()| stream.flush()).is_ok();
                while alive && !stop.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(20));
                    alive = stream.write_all(b" ").and_then(|()| stream.flush()).is_ok();
                }
                return;
            }
            Reply::Hang => {
                while !stop.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(20));
                }
                return;
            }
            Reply::Close => return,
        }
    }
}

fn read_request(stream: &mut impl Read) -> Option<Seen> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        let read = stream.read(&mut piece).ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&piece[..read]);
    };
    let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length =
        headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok());
    let length: usize = length.unwrap_or(0);
    while bytes.len() < end + length {
        let read = stream.read(&mut piece).ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&piece[..read]);
    }
    #[expect(clippy::disallowed_methods, reason = "what we sent ourselves")]
    let form = form_urlencoded::parse(&bytes[end..end + length]).into_owned().collect();
    Some(Seen { method, path, headers, form })
}
