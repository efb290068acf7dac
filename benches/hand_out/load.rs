//! The load: connections that are kept, each with one request in flight, from one thread.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

use crate::http_client::Failure;
use crate::pki;

/// How to reach a server.
#[derive(Clone)]
pub enum Client {
    Tcp(u16),
    Unix(PathBuf),
    Tls(u16, TlsConnector),
}

/// A connection, and what it has read.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Wire for S {}

impl Client {
    async fn connect(&self) -> io::Result<Box<dyn Wire>> {
        Ok(match self {
            Client::Tcp(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port)).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Client::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Client::Tls(port, connector) => {
                let stream = pki::dial(connector, *port).await?;
                stream.get_ref().0.set_nodelay(true)?;
                Box::new(stream)
            }
        })
    }
}

/// What a run found.
pub struct Run {
    /// Answers a second.
    pub rate: f64,
    /// From a request's last byte to its answer's.
    pub latencies: Vec<Duration>,
}

/// Connections to one server.
pub struct Load {
    runtime: Runtime,
    open: Vec<Box<dyn Wire>>,
    wire: Arc<[u8]>,
}

impl Load {
    /// Opens the connections.
    pub fn open(client: Client, wire: &[u8], connections: usize) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let open = runtime.block_on(async {
            let mut open = Vec::new();
            for _ in 0..connections {
                open.push(client.connect().await?);
            }
            Ok::<_, io::Error>(open)
        })?;
        Ok(Load { runtime, open, wire: wire.into() })
    }

    /// Asks for as long as said, as fast as answers come or at `rate` requests a second.
    pub fn run(&mut self, during: Duration, rate: Option<f64>) -> Run {
        let begun = Instant::now();
        let until = begun + during;
        let pause = rate.map(|rate| Duration::from_secs_f64(self.open.len() as f64 / rate));
        let open = std::mem::take(&mut self.open);
        let many = open.len() as u32;
        let tasks: Vec<_> = (0..many)
            .zip(open)
            .map(|(at, stream)| {
                // (Spread over the pause, so that they do not all ask at once.)
                let from = begun + pause.map_or(Duration::ZERO, |pause| pause * at / many);
                self.runtime.spawn(ask(stream, Arc::clone(&self.wire), from, until, pause))
            })
            .collect();
        let mut latencies = Vec::new();
        for task in tasks {
            let (stream, mut of_it) = self.runtime.block_on(task).expect("no panic").expect("an answer");
            self.open.push(stream);
            latencies.append(&mut of_it);
        }
        Run { rate: latencies.len() as f64 / begun.elapsed().as_secs_f64(), latencies }
    }
}

async fn ask(
    mut stream: Box<dyn Wire>,
    wire: Arc<[u8]>,
    mut next: Instant,
    until: Instant,
    pause: Option<Duration>,
) -> io::Result<(Box<dyn Wire>, Vec<Duration>)> {
    let mut latencies = Vec::with_capacity(8192);
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if let Some(pause) = pause {
            tokio::time::sleep_until(next.into()).await;
            next += pause;
        }
        let begun = Instant::now();
        if begun >= until {
            return Ok((stream, latencies));
        }
        stream.write_all(&wire).await?;
        read_answer(&mut stream, &mut buffer).await?;
        latencies.push(begun.elapsed());
    }
}

/// Reads one whole answer, which must be a 200, and returns its length.
async fn read_answer(stream: &mut Box<dyn Wire>, buffer: &mut [u8]) -> io::Result<usize> {
    let (mut filled, mut whole) = (0, None);
    loop {
        filled += match stream.read(&mut buffer[filled..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => more,
        };
        if whole.is_none() {
            whole = length_of(&buffer[..filled]);
        }
        if whole.is_some_and(|whole| filled >= whole) {
            return Ok(filled);
        }
    }
}

/// The length of the answer whose head is there.
fn length_of(bytes: &[u8]) -> Option<usize> {
    // (Go's server begins each word with a capital.)
    const LENGTH: &[u8] = b"ontent-";
    const REST: usize = b"ontent-length: ".len();
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    assert!(bytes.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&bytes[..head]));
    let is_length = |at: &usize| {
        bytes[*at..].starts_with(LENGTH)
            && bytes[at + LENGTH.len()..head].to_ascii_lowercase().starts_with(b"length: ")
    };
    let at = (0..head).find(is_length).expect("a length");
    let digits = bytes[at + REST..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(head + 4 + digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0')))
}

/// One answer to what is sent. Returns both.
pub fn sample(client: &Client, wire: &str) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut stream = client.connect().await?;
        stream.write_all(wire.as_bytes()).await?;
        let mut buffer = vec![0; 16 * 1024];
        let length = read_answer(&mut stream, &mut buffer).await?;
        buffer.truncate(length);
        Ok((wire.as_bytes().to_vec(), buffer))
    })
}
