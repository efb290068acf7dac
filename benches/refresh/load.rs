//! The load: kept connections to the daemon, each with one request in flight, from one thread. Each request
//! asks for the token of the next connection.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

use crate::support::{Failure, answer};

/// What a run found.
pub struct Run {
    latencies: Vec<Duration>,
    took: Duration,
}

impl Run {
    pub fn answers(&self) -> usize {
        self.latencies.len()
    }

    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.took.as_secs_f64()
    }

    /// In milliseconds, from a request's first byte to its answer's last.
    pub fn p99(&self) -> f64 {
        let mut all = self.latencies.clone();
        all.sort_unstable();
        all.get(all.len() * 99 / 100).map_or(0.0, |one| one.as_secs_f64() * 1000.0)
    }
}

/// Connections to one daemon, and what they ask for in turn.
pub struct Load {
    runtime: Runtime,
    open: Vec<TcpStream>,
    asks: Rc<[Vec<u8>]>,
    next: Rc<Cell<usize>>,
}

impl Load {
    /// Opens the connections.
    pub fn open(port: u16, connections: usize, asks: Vec<Vec<u8>>) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let open = runtime.block_on(async {
            let mut open = Vec::new();
            for _ in 0..connections {
                let stream = TcpStream::connect(("127.0.0.1", port)).await?;
                stream.set_nodelay(true)?;
                open.push(stream);
            }
            Ok::<_, io::Error>(open)
        })?;
        Ok(Load { runtime, open, asks: asks.into(), next: Rc::default() })
    }

    /// Asks for as long as said, again and again for all.
    pub fn run(&mut self, during: Duration) -> Run {
        self.ask(Some(during))
    }

    /// Asks once for each.
    pub fn once(&mut self) -> Run {
        self.ask(None)
    }

    fn ask(&mut self, during: Option<Duration>) -> Run {
        let begun = Instant::now();
        let local = LocalSet::new();
        let tasks: Vec<_> = std::mem::take(&mut self.open)
            .into_iter()
            .map(|stream| {
                let (asks, next) = (Rc::clone(&self.asks), Rc::clone(&self.next));
                local.spawn_local(async move {
                    let is_over = |asked: usize| match during {
                        Some(during) => begun.elapsed() >= during,
                        None => asked >= asks.len(),
                    };
                    one_after_the_other(stream, &asks, &next, is_over).await
                })
            })
            .collect();
        let mut latencies = Vec::new();
        for task in tasks {
            let (stream, mut of_it) =
                local.block_on(&self.runtime, task).expect("no panic").expect("an answer");
            self.open.push(stream);
            latencies.append(&mut of_it);
        }
        Run { latencies, took: begun.elapsed() }
    }
}

async fn one_after_the_other(
    mut stream: TcpStream,
    asks: &[Vec<u8>],
    next: &Cell<usize>,
    is_over: impl Fn(usize) -> bool,
) -> io::Result<(TcpStream, Vec<Duration>)> {
    let mut latencies = Vec::with_capacity(8192);
    let mut buffer = vec![0; 16 * 1024];
    while !is_over(next.get()) {
        let ask = &asks[next.get() % asks.len()];
        next.set(next.get() + 1);
        let begun = Instant::now();
        stream.write_all(ask).await?;
        answer::read(&mut stream, &mut buffer).await?;
        latencies.push(begun.elapsed());
    }
    Ok((stream, latencies))
}
