//! The limit: a client that posts the form of a refresh over kept connections and parses the answer, in a
//! process of its own. It keeps the new refresh token in memory and does nothing else with the answer.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use crate::authority::refresh_token;
use crate::daemon::{Shared, processor_time};
use crate::support::Failure;
use crate::support::daemon::Server;
use crate::support::setup::{CLIENT_ID, CLIENT_SECRET};

/// What it is told first, as one line. Each further line is a time in milliseconds; it then posts for so
/// long, and says how often.
#[derive(Serialize, Deserialize)]
struct Settings {
    endpoint: String,
    /// The port that takes HTTP/2 alone, if that is what it speaks; then over one connection.
    http2: Option<u16>,
    at_once: usize,
}

/// Where it posts.
#[derive(Clone)]
enum Way {
    Http1(Box<Client<HttpConnector, Full<Bytes>>>),
    Http2(SendRequest<Full<Bytes>>),
}

impl Way {
    async fn open(settings: &Settings) -> Result<Self, Failure> {
        let Some(port) = settings.http2 else {
            return Ok(Way::Http1(Box::new(Client::builder(TokioExecutor::new()).build_http())));
        };
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Way::Http2(sender))
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure> {
        Ok(match self {
            Way::Http1(client) => client.request(request).await?,
            Way::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        })
    }
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    refresh_token: String,
    id_token: String,
    expires_in: u64,
}

pub struct Bare {
    process: Server,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Bare {
    pub fn start(shared: &Shared, at_once: usize, is_http2: bool) -> Result<Self, Failure> {
        let mut child: Child = Command::new(std::env::current_exe()?)
            .arg("--bare")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut input = child.stdin.take().ok_or("no input")?;
        let output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let endpoint = shared.authority.token_endpoint();
        let http2 = is_http2.then(|| shared.authority.http2_port());
        let settings = Settings { endpoint, http2, at_once };
        writeln!(input, "{}", serde_json::to_string(&settings)?)?;
        Ok(Bare { process: Server::new(child), input, output })
    }

    /// Refreshes a second, and the processor's time that it took.
    pub fn run(&mut self, during: Duration) -> Result<(f64, Duration), Failure> {
        let before = processor_time(self.process.id());
        writeln!(self.input, "{}", during.as_millis())?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let spent = processor_time(self.process.id()).saturating_sub(before);
        Ok((line.trim().parse()?, spent))
    }
}

/// Posts as it is told, until standard input ends.
pub fn serve() -> Result<(), Failure> {
    let mut lines = std::io::stdin().lock().lines();
    let settings: Settings = serde_json::from_str(&lines.next().ok_or("no settings")??)?;
    // As the daemon's: as many threads as cores.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let way = runtime.block_on(Way::open(&settings))?;
    for line in lines {
        let during = Duration::from_millis(line?.trim().parse()?);
        let (begun, count) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let tasks: Vec<_> = (0..settings.at_once)
            .map(|number| {
                let (way, endpoint, count) = (way.clone(), settings.endpoint.clone(), count.clone());
                runtime.spawn(post(way, endpoint, number, begun + during, count))
            })
            .collect();
        for task in tasks {
            runtime.block_on(task)??;
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", count.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64())?;
        out.flush()?;
    }
    Ok(())
}

async fn post(
    mut way: Way,
    endpoint: String,
    number: usize,
    until: Instant,
    count: Arc<AtomicU64>,
) -> Result<(), Failure> {
    let mut token = refresh_token(number, 0);
    while Instant::now() < until {
        let form = form_urlencoded::Serializer::new(String::with_capacity(4096))
            .append_pair("grant_type", "refresh_token")
            .append_pair("refresh_token", &token)
            .append_pair("scope", &format!("{} offline_access", crate::authority::SCOPES))
            .append_pair("client_id", CLIENT_ID)
            .append_pair("client_secret", CLIENT_SECRET)
            .finish();
        let request = Request::post(&endpoint)
            .header("content-type", "application/x-www-form-urlencoded")
            .header("accept", "application/json")
            .header("user-agent", "tokenward/bench")
            .header("client-request-id", "44444444-0000-4000-8000-000000000004")
            .body(Full::new(Bytes::from(form)))?;
        let body = way.send(request).await?.into_body().collect().await?.to_bytes();
        let answer: Answer = serde_json::from_slice(&body)?;
        if answer.access_token.is_empty() || answer.id_token.is_empty() || answer.expires_in == 0 {
            return Err("an empty answer".into());
        }
        token = answer.refresh_token;
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
