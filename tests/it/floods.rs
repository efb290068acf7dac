//! Thousands of stalled connections (the short form of `make flood`): they cost a limited amount of memory,
//! which is given back, and affect nobody else.

use std::net::{Ipv4Addr, SocketAddr};

use http::Method;
use tokenward::listener::PER_CONNECTION;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::http_client::request;
use crate::world::{ALICE, PATIENCE, Plan, World, alone, until};

const MIB: usize = 1024 * 1024;
/// Connections of each kind. A quarter of all comes from each of four addresses.
const STALLED: usize = 400;

fn resident(world: &World) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.daemon.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a figure");
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().expect("a number") * 1024
}

async fn stall(to: &str, from: u8, begin: &[u8]) -> TcpStream {
    let to: SocketAddr =
        to.trim_start_matches("http://").replace("localhost", "127.0.0.1").parse().expect("an address");
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, from), 0))).expect("an address of this machine");
    let mut stream = socket.connect(to).await.expect("connected");
    // It may be refused before all is sent.
    let _ = stream.write_all(begin).await;
    stream
}

fn form(length: usize, sent: usize) -> Vec<u8> {
    let head = "POST /callback/outlook HTTP/1.1\r\nhost: localhost\r\ncontent-type: \
        application/x-www-form-urlencoded\r\n";
    format!("{head}content-length: {length}\r\n\r\n{}", "x".repeat(sent)).into_bytes()
}

/// Attack 11 of a hostile reading: 12,000 connections with 65,500 of 65,536 bytes each took the process from
/// 21 to 389 MB, for good.
#[tokio::test]
async fn stalled_connections_take_bounded_memory_and_give_it_back_while_others_are_served() {
    let _alone = alone().await;
    let world = Plan::default().start().await;
    world.connect("team-b/alice", ALICE).await;
    assert_eq!(world.token("team-b/alice").await.status, 200);
    let before = resident(&world);
    let kinds = [
        form(64 * 1024, 64 * 1024 - 36),
        form(16 * 1024, 16 * 1024 - 36),
        format!("GET / HTTP/1.1\r\nhost: localhost\r\ncookie: {}", "c".repeat(15_000)).into_bytes(),
        // Answers that nobody reads.
        "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(200).into_bytes(),
        Vec::new(),
    ];
    let mut stalled = Vec::new();
    let mut peak = before;
    for number in 0..STALLED {
        let from = 2 + u8::try_from(number % 4).expect("a few");
        for begin in &kinds {
            stalled.push(stall(&world.daemon.public, from, begin).await);
        }
        if number % 40 == 0 {
            assert_eq!(world.token("team-b/alice").await.status, 200);
            peak = peak.max(resident(&world));
        }
    }
    // Somebody whose form comes slowly is read, whatever the others do.
    let mut slow = stall(&world.daemon.public, 9, &form(3000, 2000)).await;
    let page = request(Method::GET, &format!("{}/", world.daemon.public), &[], "").await.expect("a page");
    assert_eq!(page.status, 200);
    slow.write_all(&[b'x'; 1000]).await.expect("taken");
    let mut answer = [0; 12];
    timeout(PATIENCE, slow.read_exact(&mut answer)).await.expect("in time").expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 400", "it was read, and meant nothing");
    assert_eq!(world.token("team-b/alice").await.status, 200);
    peak = peak.max(resident(&world));
    // The budget of the listener; and what a debug build and the test's own requests cost.
    let bound = stalled.len() * PER_CONNECTION + 8 * MIB + 16 * MIB;
    let cost = peak.saturating_sub(before);
    assert!(cost <= bound, "{cost} bytes for {} connections, more than {bound}", stalled.len());

    // 64 KiB are refused by what they say they are, and so never kept.
    let mut refused = String::new();
    let large = &mut stalled[0];
    let _ = timeout(PATIENCE, large.read_to_string(&mut refused)).await.expect("closed");
    assert!(refused.starts_with("HTTP/1.1 400"), "{refused}");
    drop(stalled);
    until(&world.daemon, "the memory is given back", async || resident(&world) <= before + 16 * MIB).await;
}
