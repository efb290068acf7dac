//! The floods: requests with one key, with one link and without a key, and stalled connections, each at a
//! rate, over plain sockets.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Tasks of one flood, each with a connection of its own.
const HANDS: u32 = 4;
/// A stalled connection that was closed is opened again after this.
const COMES_BACK_AFTER: Duration = Duration::from_secs(8);
/// The addresses that stalled connections come from: `127.0.0.2` and so many more.
const STALLED_FROM: u8 = 16;

/// Where the daemon listens, and what a flood has in hand.
#[derive(Debug, Clone)]
pub struct Target {
    /// The public listener.
    pub public: SocketAddr,
    /// The local one.
    pub local: SocketAddr,
    /// The flooder's key.
    pub key: String,
    /// A path with a link's secret: `/connect/…`.
    pub link: String,
    /// A connection that the flooder may have, escaped for a path.
    pub connection: String,
}

/// Requests a second of each flood, and how many connections stall.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// One key: connect sessions, consent sessions, apps that are none, reports with claims; each.
    pub key: u32,
    /// One link: presses of its button.
    pub link: u32,
    /// No key: callbacks of 64 KiB, callbacks by query, local requests; each.
    pub keyless: u32,
    /// Connections that stall, half of them at each listener.
    pub stalled: usize,
}

/// What was sent and how it was answered: (flood, status), how often. Status 0: the connection broke.
#[derive(Debug, Default)]
pub struct Tally(Mutex<BTreeMap<(&'static str, u16), u64>>);

impl Tally {
    pub(super) fn add(&self, flood: &'static str, status: u16) {
        *self.counts().entry((flood, status)).or_default() += 1;
    }

    fn counts(&self) -> parking_lot::MutexGuard<'_, BTreeMap<(&'static str, u16), u64>> {
        self.0.lock()
    }

    /// One line a flood: how many, and by status.
    pub fn lines(&self) -> Vec<String> {
        let mut floods: BTreeMap<&str, (u64, String)> = BTreeMap::new();
        for ((flood, status), count) in self.counts().iter() {
            let (all, by) = floods.entry(flood).or_default();
            *all += count;
            let _ = write!(by, " {status}:{count}");
        }
        floods.iter().map(|(flood, (all, by))| format!("{flood:<22} {all:>8} {by}")).collect()
    }

    /// How many requests were answered with this status, of all floods.
    pub fn with(&self, status: u16) -> u64 {
        self.counts().iter().filter(|((_, of), _)| *of == status).map(|(_, count)| count).sum()
    }
}

/// Stalled connections: how many are open now, and how many were opened in all.
#[derive(Debug, Default)]
pub struct Stalled {
    /// Open now.
    pub open: AtomicUsize,
    /// Opened in all.
    pub opened: AtomicU64,
    /// The most that were open at a time.
    pub most: AtomicUsize,
}

/// Every flood at once, until told to stop.
pub async fn all(
    target: Target,
    rates: Rates,
    tally: Arc<Tally>,
    stalled: Arc<Stalled>,
    stop: Arc<AtomicBool>,
) {
    let mut tasks = JoinSet::new();
    let json = "content-type: application/json\r\n";
    let bearer = format!("authorization: Bearer {}\r\n{json}", target.key);
    let hint = "h".repeat(500);
    let (local, public) = (target.local, target.public);
    let mut flood =
        |name: &'static str, to: SocketAddr, rate: u32, make: Arc<dyn Fn(u64) -> String + Send + Sync>| {
            let number = Arc::new(AtomicU64::new(0));
            for _ in 0..HANDS.min(rate) {
                let pause = Duration::from_secs(1) * HANDS.min(rate) / rate;
                let (make, tally, stop, number) = (make.clone(), tally.clone(), stop.clone(), number.clone());
                tasks.spawn(async move {
                    let mut wire = None;
                    let mut due = tokio::time::interval(pause);
                    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                    while !stop.load(Ordering::Relaxed) {
                        due.tick().await;
                        let text = make(number.fetch_add(1, Ordering::Relaxed));
                        let status =
                            tokio::time::timeout(PATIENCE, exchange(&mut wire, to, text.as_bytes())).await;
                        let status = status.unwrap_or(Err(io::ErrorKind::TimedOut.into())).unwrap_or(0);
                        tally.add(name, status);
                    }
                });
            }
        };
    let head = bearer.clone();
    flood(
        "key: connect sessions",
        local,
        rates.key,
        Arc::new(move |number| {
            let body = format!(r#"{{"app":"outlook","connection":"flood/{number}","login_hint":"{hint}"}}"#);
            post("/v1/connect-sessions", &head, &body)
        }),
    );
    let head = bearer.clone();
    flood(
        "key: consent sessions",
        local,
        rates.key,
        Arc::new(move |number| {
            let body = format!(r#"{{"app":"outlook","tenant":"00000000-0000-4000-8000-{number:012x}"}}"#);
            post("/v1/admin-consent-sessions", &head, &body)
        }),
    );
    let head = bearer.clone();
    flood(
        "key: apps that are none",
        local,
        rates.key,
        Arc::new(move |number| get(&format!("/v1/apps/none-{number}/connections/x/token"), &head)),
    );
    let (head, connection) = (bearer.clone(), target.connection.clone());
    flood(
        "key: reports, claims",
        local,
        rates.key,
        Arc::new(move |number| {
            let body = format!(
                "{{\"rejected\":\"{number:064x}\",\"claims\":{{\"access_token\":\
                 {{\"nbf\":{{\"essential\":true,\"value\":\"{number}\"}}}}}}}}"
            );
            post(&format!("/v1/apps/outlook/connections/{connection}/token"), &head, &body)
        }),
    );
    let link = target.link.clone();
    flood(
        "link: presses",
        public,
        rates.link,
        Arc::new(move |_| post(&link, "content-type: application/x-www-form-urlencoded\r\n", "")),
    );
    let form = many_parameters(64 * 1024);
    flood(
        "no key: forms, 64 KiB",
        public,
        rates.keyless,
        Arc::new(move |_| {
            post("/callback/outlook", "content-type: application/x-www-form-urlencoded\r\n", &form)
        }),
    );
    let form = many_parameters(16 * 1024);
    flood(
        "no key: forms, 16 KiB",
        public,
        rates.keyless,
        Arc::new(move |_| {
            post("/callback/outlook", "content-type: application/x-www-form-urlencoded\r\n", &form)
        }),
    );
    let query = many_parameters(8 * 1024 - 32);
    flood(
        "no key: queries, 8 KiB",
        public,
        rates.keyless,
        Arc::new(move |_| get(&format!("/callback/outlook?{query}"), "")),
    );
    flood(
        "no key: callbacks",
        public,
        rates.keyless,
        Arc::new(|number| get(&format!("/callback/outlook?state=s{number}&code=c{number}"), "")),
    );
    flood(
        "no key: local",
        local,
        rates.keyless,
        Arc::new(|number| get(&format!("/v1/apps/outlook/connections/none-{number}/token"), "")),
    );
    for one in 0..rates.stalled {
        let (stalled, stop) = (stalled.clone(), stop.clone());
        let to = if one % 2 == 0 { public } else { local };
        let head = if one % 2 == 0 { String::new() } else { bearer.clone() };
        tasks.spawn(async move { stall(one, to, &head, &stalled, &stop).await });
        if one % 256 == 255 {
            // Not all of them in one moment: the kernel's queue is shorter than that.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    while tasks.join_next().await.is_some() {}
}

/// One connection that begins something and does not go on, again as often as it is closed.
async fn stall(one: usize, to: SocketAddr, head: &str, stalled: &Stalled, stop: &AtomicBool) {
    let last = 2 + u8::try_from(one / 2 % usize::from(STALLED_FROM)).expect("a few");
    let from = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0));
    let path = if head.is_empty() { "/callback/outlook" } else { "/v1/connect-sessions" };
    let kind = if head.is_empty() { "content-type: application/x-www-form-urlencoded\r\n" } else { head };
    let begin = match one / 2 % 4 {
        // What attacks.md did; a body as large as a public one may be; most of a head; nothing.
        0 => body_but_for_its_end(path, kind, 64 * 1024),
        1 => body_but_for_its_end(path, kind, 16 * 1024),
        2 => format!("GET {path} HTTP/1.1\r\nhost: localhost\r\ncookie: {}", "c".repeat(15_000)),
        _ => String::new(),
    };
    while !stop.load(Ordering::Relaxed) {
        let opened = async {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(from)?;
            let mut stream = socket.connect(to).await?;
            stream.write_all(begin.as_bytes()).await?;
            io::Result::Ok(stream)
        };
        if let Ok(Ok(mut stream)) = tokio::time::timeout(PATIENCE, opened).await {
            stalled.opened.fetch_add(1, Ordering::Relaxed);
            let open = stalled.open.fetch_add(1, Ordering::Relaxed) + 1;
            stalled.most.fetch_max(open, Ordering::Relaxed);
            let mut answer = [0; 512];
            while !stop.load(Ordering::Relaxed) {
                let read = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut answer)).await;
                if matches!(read, Ok(Ok(0) | Err(_))) {
                    break;
                }
            }
            stalled.open.fetch_sub(1, Ordering::Relaxed);
        }
        // This flood is of connections, and not of how often they are opened.
        tokio::time::sleep(COMES_BACK_AFTER).await;
    }
}

fn body_but_for_its_end(path: &str, head: &str, length: usize) -> String {
    let body = "x".repeat(length - 36);
    format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n{head}content-length: {length}\r\n\r\n{body}")
}

/// So many parameters of different short names as fit.
fn many_parameters(length: usize) -> String {
    let mut text = String::new();
    for number in 0_u32.. {
        let next = format!("{number:x}&");
        if text.len() + next.len() > length {
            break;
        }
        text.push_str(&next);
    }
    text
}

fn get(path: &str, head: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{head}\r\n")
}

fn post(path: &str, head: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n{head}content-length: {length}\r\n\r\n{body}")
}

/// Sends one request over the connection that is kept, or a new one, and reads the answer: its status.
async fn exchange(kept: &mut Option<TcpStream>, to: SocketAddr, text: &[u8]) -> io::Result<u16> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            stream
        }
    };
    // The answer may come before all is sent, and the rest not be taken any more.
    let sent = stream.write_all(text).await;
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some((status, length, closes)) = understood(&bytes)
            && bytes.len() >= length
        {
            if !closes && sent.is_ok() {
                *kept = Some(stream);
            }
            return Ok(status);
        }
        match stream.read(&mut buffer).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => bytes.extend_from_slice(&buffer[..read]),
        }
    }
}

/// An answer's status, its whole length and whether the connection ends with it, once its head is there.
fn understood(bytes: &[u8]) -> Option<(u16, usize, bool)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let status = head.get(9..12)?.parse().ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length = length.and_then(|length| length.trim().parse::<usize>().ok()).unwrap_or(0);
    Some((status, end + 4 + length, head.contains("connection: close")))
}
