//! The load: connections that are kept, each with one request in flight, from one thread. Of an answer it reads
//! the status and what its length is told by, and nothing else.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::Row;
use crate::support::Failure;

/// Connections to one server.
pub struct Load {
    runtime: Runtime,
    open: Vec<Connection>,
    wire: Arc<[u8]>,
}

/// A connection, and what is read of it and not used.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    from: usize,
    to: usize,
}

/// A request as it is sent.
pub fn request(target: &str, credential: &str, sends: usize) -> Vec<u8> {
    let (method, length) = match sends {
        0 => ("GET", String::new()),
        sends => ("PUT", format!("content-length: {sends}\r\n")),
    };
    let head = format!("{method} {target} HTTP/1.1\r\nhost: tokenward\r\n{credential}{length}\r\n");
    [head.into_bytes(), vec![7; sends]].concat()
}

impl Load {
    /// Opens the connections.
    pub fn open(port: u16, wire: &[u8], row: &Row) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let open = runtime.block_on(async {
            let mut open = Vec::new();
            for _ in 0..row.connections {
                let stream = TcpStream::connect(("127.0.0.1", port)).await?;
                stream.set_nodelay(true)?;
                open.push(Connection { stream, buffer: vec![0; 64 * 1024], from: 0, to: 0 });
            }
            Ok::<_, io::Error>(open)
        })?;
        Ok(Load { runtime, open, wire: wire.into() })
    }

    /// Asks for as long as said, as fast as answers come. Returns answers a second.
    pub fn run(&mut self, during: Duration) -> Result<f64, Failure> {
        let begun = Instant::now();
        let tasks: Vec<_> = std::mem::take(&mut self.open)
            .into_iter()
            .map(|open| self.runtime.spawn(ask(open, Arc::clone(&self.wire), begun + during)))
            .collect();
        let mut answers = 0_u32;
        for task in tasks {
            let (open, of_it) = self.runtime.block_on(task)??;
            self.open.push(open);
            answers += of_it;
        }
        Ok(f64::from(answers) / begun.elapsed().as_secs_f64())
    }
}

async fn ask(mut open: Connection, wire: Arc<[u8]>, until: Instant) -> io::Result<(Connection, u32)> {
    let mut answers = 0;
    while Instant::now() < until {
        open.stream.write_all(&wire).await?;
        open.answer().await?;
        answers += 1;
    }
    Ok((open, answers))
}

impl Connection {
    /// Reads one whole answer, which must be of the 200s.
    async fn answer(&mut self) -> io::Result<()> {
        let head = self.until(b"\r\n\r\n").await?;
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 2"), "{head}");
        let field = |name: &str| head.split("\r\n").find_map(|line| line.strip_prefix(name));
        match field("content-length: ") {
            Some(length) => self.skip(length.parse().map_err(io::Error::other)?).await,
            None => loop {
                let line = self.until(b"\r\n").await?;
                let digits = String::from_utf8_lossy(&line);
                let length = usize::from_str_radix(digits.trim(), 16).map_err(io::Error::other)?;
                self.skip(length + 2).await?;
                if length == 0 {
                    return Ok(());
                }
            },
        }
    }

    /// Reads more into the buffer.
    async fn more(&mut self) -> io::Result<()> {
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
        } else if self.to == self.buffer.len() {
            self.buffer.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
        }
        match self.stream.read(&mut self.buffer[self.to..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            more => {
                self.to += more;
                Ok(())
            }
        }
    }

    /// Takes what stands before this end, and the end with it.
    async fn until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            let here = &self.buffer[self.from..self.to];
            if let Some(at) = here.windows(end.len()).position(|part| part == end) {
                let taken = here[..at].to_vec();
                self.from += at + end.len();
                return Ok(taken);
            }
            self.more().await?;
        }
    }

    /// Takes so many bytes.
    async fn skip(&mut self, mut bytes: usize) -> io::Result<()> {
        loop {
            let here = bytes.min(self.to - self.from);
            self.from += here;
            bytes -= here;
            if bytes == 0 {
                return Ok(());
            }
            self.more().await?;
        }
    }
}
