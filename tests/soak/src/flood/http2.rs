//! Floods of HTTP/2 frames, each on connections of its own with a caller's certificate: what a caller that
//! has gone wrong can do.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::drive::Tally;

/// A connection that was ended is opened again after this.
const COMES_BACK_AFTER: Duration = Duration::from_secs(2);
/// How long a handshake, or a write that is not taken, is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A flood: its name, what it sends for the number of times it has sent something, and whether it reads what
/// comes.
struct Attack {
    name: &'static str,
    next: fn(u32) -> Vec<u8>,
    reads: bool,
}

const ATTACKS: &[Attack] = &[
    Attack { name: "h2: taken back at once", next: taken_back, reads: true },
    Attack { name: "h2: windows too large", next: windows_too_large, reads: true },
    Attack { name: "h2: requests, unread", next: get, reads: false },
    Attack { name: "h2: windows of 0", next: with_no_window, reads: true },
    Attack { name: "h2: settings", next: |_| frame(SETTINGS, 0, 0, &[]), reads: true },
    Attack { name: "h2: pings, unread", next: |_| frame(PING, 0, 0, &[0; 8]), reads: false },
    Attack { name: "h2: priorities", next: |_| frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1]), reads: true },
    Attack { name: "h2: continuations", next: continuations, reads: true },
    Attack { name: "h2: empty parts", next: empty_parts, reads: true },
    Attack { name: "h2: half bodies", next: half_bodies, reads: true },
];

/// Drives all of them with so many connections in all, until told to stop. The tally counts the ends of their
/// connections.
pub async fn all(
    connector: &TlsConnector,
    port: u16,
    connections: usize,
    tally: &Arc<Tally>,
    stop: &Arc<AtomicBool>,
) {
    let mut tasks = JoinSet::new();
    for number in 0..connections {
        let attack = &ATTACKS[number % ATTACKS.len()];
        let (connector, tally, stop) = (connector.clone(), Arc::clone(tally), Arc::clone(stop));
        tasks.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                // However it ended, it ended.
                let _ = once(attack, &connector, port, &stop).await;
                tally.add(attack.name, 0);
                tokio::time::sleep(COMES_BACK_AFTER).await;
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

async fn once(attack: &Attack, connector: &TlsConnector, port: u16, stop: &AtomicBool) -> io::Result<()> {
    let dial = async {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let name = "localhost".try_into().map_err(io::Error::other)?;
        connector.with_alpn(vec![b"h2".to_vec()]).connect(name, stream).await
    };
    let stream = tokio::time::timeout(PATIENCE, dial).await.map_err(io::Error::other)??;
    let (mut reads, mut writes) = tokio::io::split(stream);
    let read = async {
        let mut buffer = [0; 4096];
        while attack.reads && !stop.load(Ordering::Relaxed) {
            if let Ok(Ok(0) | Err(_)) =
                tokio::time::timeout(Duration::from_secs(1), reads.read(&mut buffer)).await
            {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        if attack.reads { Ok(()) } else { std::future::pending().await }
    };
    let write = async {
        writes.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        writes.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
        for number in 0.. {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let bytes = (attack.next)(number);
            if bytes.is_empty() {
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            tokio::time::timeout(PATIENCE, writes.write_all(&bytes)).await.map_err(io::Error::other)??;
            tokio::time::timeout(PATIENCE, writes.flush()).await.map_err(io::Error::other)??;
            // Fast, and not as fast as the machine: the canary has the same cores.
            if number % 64 == 63 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        Ok(())
    };
    tokio::select! { ended = read => ended, ended = write => ended }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The head of a request, without any table.
fn head(number: u32, method: &str, flags: u8) -> Vec<u8> {
    let path = "/v1/apps/outlook/connections/none/token";
    let mut block = Vec::new();
    for (name, value) in [(":method", method), (":scheme", "https"), (":path", path), (":authority", "a")] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap_or(0));
            block.extend_from_slice(text.as_bytes());
        }
    }
    frame(HEADERS, flags, stream(number), &block)
}

fn stream(number: u32) -> u32 {
    2 * number + 1
}

fn get(number: u32) -> Vec<u8> {
    head(number, "GET", END_HEADERS | END_STREAM)
}

fn taken_back(number: u32) -> Vec<u8> {
    [get(number), frame(RST_STREAM, 0, stream(number), &8_u32.to_be_bytes())].concat()
}

fn windows_too_large(number: u32) -> Vec<u8> {
    [get(number), frame(WINDOW_UPDATE, 0, stream(number), &[0x7f, 0xff, 0xff, 0xff])].concat()
}

fn with_no_window(number: u32) -> Vec<u8> {
    match number {
        0 => frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]),
        1..64 => get(number),
        _ => Vec::new(),
    }
}

fn continuations(number: u32) -> Vec<u8> {
    match number {
        0 => head(0, "GET", END_STREAM),
        _ => frame(CONTINUATION, 0, 1, b"\0\x01x\x01y"),
    }
}

fn empty_parts(number: u32) -> Vec<u8> {
    match number {
        0 => head(0, "POST", END_HEADERS),
        _ => frame(DATA, 0, 1, &[]),
    }
}

fn half_bodies(number: u32) -> Vec<u8> {
    match number {
        0..64 => [head(number, "POST", END_HEADERS), frame(DATA, 0, stream(number), &[b'x'; 900])].concat(),
        _ => Vec::new(),
    }
}
