//! A TCP proxy in user space with faults on demand. One [`Link`] is the way from one process to one server.
//!
//! A held lane behaves like a partition: nothing passes, nothing is lost, and data in transit arrives late,
//! when the lane opens again. That is how a store gets a command whose sender has given up long ago.

use parking_lot::Mutex;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// Connections of one link at a time: more are a client that leaks them, which the report would show as
/// refusals.
const MOST_CONNECTIONS: usize = 512;
/// How long an orphan waits for its client to give up.
const ORPHAN_LIFE: Duration = Duration::from_secs(120);

/// One direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lane {
    /// Nothing passes.
    pub held: bool,
    /// Everything passes this much later.
    pub delay: Duration,
    /// So many bytes at a time, with this pause behind them.
    pub drip: Option<(usize, Duration)>,
}

/// How a link behaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// From the client to the server.
    pub up: Lane,
    /// From the server to the client.
    pub down: Lane,
    /// New connections are reset.
    pub refuse: bool,
}

impl Conditions {
    /// Nothing passes in the directions named.
    pub fn cut(up: bool, down: bool) -> Self {
        let lane = |held| Lane { held, ..Lane::default() };
        Conditions { up: lane(up), down: lane(down), refuse: false }
    }

    /// Everything passes later.
    pub fn slow(delay: Duration) -> Self {
        let lane = Lane { delay, ..Lane::default() };
        Conditions { up: lane.clone(), down: lane, refuse: false }
    }

    /// Answers come a few bytes at a time.
    pub fn drip(bytes: usize, pause: Duration) -> Self {
        let down = Lane { drip: Some((bytes, pause)), ..Lane::default() };
        Conditions { down, ..Conditions::default() }
    }

    /// New connections are reset.
    pub fn refuse() -> Self {
        Conditions { refuse: true, ..Conditions::default() }
    }
}

/// What happens to the connections that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shock {
    None,
    /// Both sides get a reset.
    Reset,
    /// The server's side is gone and the client is not told: it writes into the void.
    Orphan,
}

struct Shared {
    target: SocketAddr,
    /// Where connections to the server come from, so that it can tell the links apart.
    source: Ipv4Addr,
    conditions: watch::Sender<Conditions>,
    shocks: watch::Sender<Shock>,
    /// Replaced in what the server says; each pair of one length.
    rewrites: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A link: a port of its own in front of one server.
pub struct Link {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Mutex<Option<AbortHandle>>,
}

impl Link {
    /// Listens on `address` and carries to `target`, as a client from `source`.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn open(
        address: SocketAddr,
        target: SocketAddr,
        source: Ipv4Addr,
        rewrites: Vec<(Vec<u8>, Vec<u8>)>,
    ) -> io::Result<Self> {
        debug_assert!(rewrites.iter().all(|(from, to)| from.len() == to.len()));
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target,
            source,
            conditions: watch::Sender::default(),
            shocks: watch::Sender::new(Shock::None),
            rewrites,
        });
        let accepting = tokio::spawn(accept(listener, shared.clone())).abort_handle();
        Ok(Link { shared, address, accepting: Mutex::new(Some(accepting)) })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Behaves like this from now on, for connections that there are and new ones.
    pub fn set(&self, conditions: Conditions) {
        self.shared.conditions.send_replace(conditions);
    }

    /// Behaves well again. What was held arrives now.
    pub fn heal(&self) {
        self.set(Conditions::default());
    }

    /// Resets every connection that there is.
    pub fn reset(&self) {
        self.shared.shocks.send_replace(Shock::Reset);
    }

    /// Loses the server's side of every connection that there is, without telling the client.
    pub fn orphan(&self) {
        self.shared.shocks.send_replace(Shock::Orphan);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(accepting) = self.accepting.lock().take() {
            accepting.abort();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else {
                    // Out of file descriptors: give connections time to close.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                if connections.len() >= MOST_CONNECTIONS {
                    hang_up(&client);
                    continue;
                }
                connections.spawn(carry(client, shared.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn carry(mut client: TcpStream, shared: Arc<Shared>) {
    let mut shocks = shared.shocks.subscribe();
    if shared.conditions.borrow().refuse {
        return hang_up(&client);
    }
    let Ok(mut server) = connect(&shared).await else {
        return hang_up(&client);
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let shock = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let up = pump(from_client, to_server, |all| &all.up, shared.conditions.subscribe(), &[]);
        let rewrites = &shared.rewrites;
        let down = pump(from_server, to_client, |all| &all.down, shared.conditions.subscribe(), rewrites);
        tokio::select! {
            _ = async { tokio::try_join!(up, down) } => Shock::None,
            _ = shocks.changed() => *shocks.borrow_and_update(),
        }
    };
    match shock {
        Shock::None => {}
        Shock::Reset => {
            hang_up(&client);
            hang_up(&server);
        }
        Shock::Orphan => {
            drop(server);
            let mut void = [0; 4096];
            let giving_up = async { while client.read(&mut void).await.is_ok_and(|read| read > 0) {} };
            let _ = tokio::time::timeout(ORPHAN_LIFE, giving_up).await;
        }
    }
}

async fn connect(shared: &Shared) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((IpAddr::V4(shared.source), 0).into())?;
    socket.connect(shared.target).await
}

/// A reset when it is dropped, in place of an orderly end.
fn hang_up(stream: &TcpStream) {
    let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}

async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    lane: impl Fn(&Conditions) -> &Lane,
    mut conditions: watch::Receiver<Conditions>,
    rewrites: &[(Vec<u8>, Vec<u8>)],
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        let lane = {
            let open = conditions.wait_for(|all| !lane(all).held).await;
            let open = open.map_err(|_| io::Error::other("the link is closed"))?;
            lane(&open).clone()
        };
        if !lane.delay.is_zero() {
            tokio::time::sleep(lane.delay).await;
        }
        if read == 0 {
            return to.shutdown().await;
        }
        let bytes = &mut buffer[..read];
        for (written, meant) in rewrites {
            replace(bytes, written, meant);
        }
        match lane.drip {
            None => to.write_all(bytes).await?,
            Some((size, pause)) => {
                for piece in bytes.chunks(size.max(1)) {
                    to.write_all(piece).await?;
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}

/// Replaces every occurrence in place.
fn replace(bytes: &mut [u8], written: &[u8], meant: &[u8]) {
    let mut at = 0;
    while let Some(found) =
        bytes.get(at..).and_then(|rest| rest.windows(written.len()).position(|window| window == written))
    {
        let begin = at + found;
        bytes[begin..begin + written.len()].copy_from_slice(meant);
        at = begin + written.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(150);
    const HOME: Ipv4Addr = Ipv4Addr::LOCALHOST;

    /// A server that says everything back, and a link to it.
    async fn echo(rewrites: Vec<(Vec<u8>, Vec<u8>)>) -> Link {
        let listener = TcpListener::bind((HOME, 0)).await.unwrap();
        let target = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, peer)) = listener.accept().await {
                assert_eq!(peer.ip(), IpAddr::V4(Ipv4Addr::new(127, 0, 1, 9)));
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        Link::open((HOME, 0).into(), target, Ipv4Addr::new(127, 0, 1, 9), rewrites).await.unwrap()
    }

    async fn says(stream: &mut TcpStream, word: &[u8]) -> Option<Vec<u8>> {
        stream.write_all(word).await.ok()?;
        hears(stream, word.len()).await
    }

    async fn hears(stream: &mut TcpStream, length: usize) -> Option<Vec<u8>> {
        let mut heard = vec![0; length];
        let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut heard)).await;
        read.ok()?.ok().map(|_| heard)
    }

    #[tokio::test]
    async fn it_carries_both_ways_and_rewrites_what_the_server_says() {
        let link = echo(vec![(b"26379".to_vec(), b"20001".to_vec())]).await;
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        assert_eq!(says(&mut stream, b"at 26379 or 26379").await.unwrap(), b"at 20001 or 20001");
    }

    #[tokio::test]
    async fn a_cut_holds_what_is_said_and_lets_it_arrive_late() {
        for (up, down) in [(true, false), (false, true), (true, true)] {
            let link = echo(Vec::new()).await;
            let mut stream = TcpStream::connect(link.address()).await.unwrap();
            assert!(says(&mut stream, b"one").await.is_some());
            link.set(Conditions::cut(up, down));
            assert_eq!(says(&mut stream, b"two").await, None);
            link.heal();
            assert_eq!(hears(&mut stream, 3).await.unwrap(), b"two");
        }
    }

    #[tokio::test]
    async fn resets_refusals_and_half_open_connections() {
        let link = echo(Vec::new()).await;
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        assert!(says(&mut stream, b"one").await.is_some());
        link.reset();
        let mut one = [0];
        assert!(stream.read(&mut one).await.is_err(), "a reset is an error, not an end");
        link.set(Conditions::refuse());
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        assert_eq!(says(&mut stream, b"two").await, None);
        link.heal();
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        assert!(says(&mut stream, b"three").await.is_some());
        link.orphan();
        let nothing = tokio::time::timeout(PATIENCE, stream.read(&mut one)).await;
        assert!(nothing.is_err(), "the client is not told");
        let mut other = TcpStream::connect(link.address()).await.unwrap();
        assert!(says(&mut other, b"four").await.is_some(), "new connections are well");
    }

    #[tokio::test]
    async fn delays_and_drips_take_their_time() {
        let link = echo(Vec::new()).await;
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        for slow in
            [Conditions::slow(Duration::from_millis(100)), Conditions::drip(1, Duration::from_millis(60))]
        {
            link.set(slow);
            assert_eq!(says(&mut stream, b"slowly").await, None);
            link.heal();
            let rest = tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut [0; 3])).await;
            assert!(rest.is_ok());
            let mut stream_again = TcpStream::connect(link.address()).await.unwrap();
            std::mem::swap(&mut stream, &mut stream_again);
        }
    }
}
