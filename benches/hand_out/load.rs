//! The load: connections that are kept, each with one request in flight, from one thread.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

use crate::pki;
use crate::support::{Failure, answer};

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
        answer::read(&mut stream, &mut buffer).await?;
        latencies.push(begun.elapsed());
    }
}

/// One answer to what is sent. Returns both.
pub fn sample(client: &Client, wire: &str) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut stream = client.connect().await?;
        stream.write_all(wire.as_bytes()).await?;
        let mut buffer = vec![0; 16 * 1024];
        let length = answer::read(&mut stream, &mut buffer).await?;
        buffer.truncate(length);
        Ok((wire.as_bytes().to_vec(), buffer))
    })
}
