//! A service that hears the run's events: it keeps a stream open at one replica or another, and comes back with
//! the last id that it has.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::access::FIRST;
use crate::ledger::Told;
use crate::world::World;

/// A stream without a sign of life for so long is given up.
const SILENCE: Duration = Duration::from_secs(20);
/// Pause before it comes back.
const PAUSE: Duration = Duration::from_millis(200);
/// How long it listens without news after the end: a stream is told within 2 s, and a lease lives for 15 s.
const LAST: Duration = Duration::from_secs(25);

/// Listens until `stop`, and then until nothing is new. Each event is written down once.
pub async fn listen(world: Arc<World>, stop: Arc<AtomicBool>) -> Vec<Told> {
    let mut heard = Heard::default();
    let mut replica = 0;
    loop {
        // (A stream that breaks off is ordinary: the next one goes on.)
        let _broke_off = heard.follow(&world, replica, &stop).await;
        if heard.is_over(&stop) {
            return heard.told;
        }
        replica = (replica + 1) % world.replicas.len();
        tokio::time::sleep(PAUSE).await;
    }
}

#[derive(Default)]
struct Heard {
    told: Vec<Told>,
    known: HashSet<String>,
    last_id: String,
    /// When the last news came after the end.
    quiet_since: Option<Instant>,
}

impl Heard {
    fn is_over(&mut self, stop: &AtomicBool) -> bool {
        if !stop.load(Ordering::Relaxed) {
            return false;
        }
        self.quiet_since.get_or_insert_with(Instant::now).elapsed() > LAST
    }

    async fn follow(&mut self, world: &World, replica: usize, stop: &AtomicBool) -> io::Result<()> {
        let stream = timeout(SILENCE, TcpStream::connect(world.replicas[replica].local)).await??;
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let connection = tokio::spawn(connection);
        let bearer = format!("Bearer {}", world.shared.access.key(FIRST));
        let mut request = Request::get("/v1/events").header(header::HOST, "localhost");
        request = request.header(header::AUTHORIZATION, bearer);
        if !self.last_id.is_empty() {
            request = request.header("last-event-id", &self.last_id);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
        let answer = timeout(SILENCE, sender.send_request(request)).await?.map_err(io::Error::other)?;
        let ended = self.read(answer, stop).await;
        connection.abort();
        ended
    }

    async fn read(
        &mut self,
        answer: http::Response<hyper::body::Incoming>,
        stop: &AtomicBool,
    ) -> io::Result<()> {
        if answer.status() == 410 {
            // Only a store that lost everything forgets so early.
            self.last_id.clear();
        }
        if answer.status() != 200 {
            return Err(io::Error::other(answer.status().to_string()));
        }
        let (mut body, mut received) = (answer.into_body(), String::new());
        let mut since = Instant::now();
        while !self.is_over(stop) && since.elapsed() < SILENCE {
            let Ok(frame) = timeout(Duration::from_secs(1), body.frame()).await else { continue };
            let Some(frame) = frame else { return Ok(()) };
            since = Instant::now();
            let data = frame.map_err(io::Error::other)?.into_data().unwrap_or_default();
            received.push_str(&String::from_utf8_lossy(&data));
            while let Some((block, rest)) = received.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.hear(&block);
                received = rest;
            }
        }
        Ok(())
    }

    fn hear(&mut self, block: &str) {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let Some(id) = field("id:").filter(|id| !id.is_empty()) else { return };
        id.clone_into(&mut self.last_id);
        let (Some(kind), Some(data)) = (field("event:"), field("data:")) else { return };
        if !self.known.insert(id.to_owned()) {
            return;
        }
        self.quiet_since = None;
        let data: Value = serde_json::from_str(data).unwrap_or_default();
        let connection = data["data"]["connection"].as_str().unwrap_or_default().to_owned();
        self.told.push(Told { id: id.to_owned(), kind: kind.to_owned(), connection });
    }
}
