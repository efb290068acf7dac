//! Kernel memory of a connection: it stays within the computed sum.

use std::os::fd::OwnedFd;

use super::*;
use crate::listener::room::{RECEIVED, UNSENT};
use crate::listener::socket::Socket;

/// Both ends of a connection.
struct Pair {
    socket: Box<dyn Socket>,
    ours: OwnedFd,
    client: OwnedFd,
}

async fn unix() -> Pair {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.sock");
    let bound = Bound::bind(ListenerConfig::new("test", Address::Unix(path.clone()))).expect("bound");
    let client = std::os::unix::net::UnixStream::connect(&path).expect("connected");
    let (socket, ours) = bound.accepted().await.expect("accepted");
    Pair { socket, ours, client: client.into() }
}

async fn tcp_with_window(window: u32) -> Pair {
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let bound = Bound::bind(ListenerConfig::new("test", Address::Tcp(anywhere))).expect("bound");
    let client = tokio::net::TcpSocket::new_v4().expect("a socket");
    client.set_recv_buffer_size(window).expect("a size");
    let client = client.connect(bound.tcp_address().expect("TCP")).await.expect("connected");
    let client = client.into_std().expect("a socket").into();
    let (socket, ours) = bound.accepted().await.expect("accepted");
    Pair { socket, ours, client }
}

fn readable(socket: &OwnedFd) -> usize {
    usize::try_from(rustix::io::ioctl_fionread(socket).expect("a number")).expect("it fits")
}

/// Writes until the kernel accepts nothing for a while, and returns how much it accepted.
async fn written(socket: &mut (impl AsyncWrite + Unpin), piece: &[u8]) -> usize {
    let mut taken = 0;
    while let Ok(written) = timeout(Duration::from_millis(100), socket.write(piece)).await {
        taken += written.expect("it is open");
    }
    taken
}

#[tokio::test]
async fn an_answer_that_nobody_reads_waits_in_the_kernel_for_a_small_part_alone() {
    let bytes = vec![b'x'; 1 << 20];
    for piece in [600, 1 << 20] {
        for window in [4 * 1024, 32 * 1024, 256 * 1024] {
            let mut pair = tcp_with_window(window).await;
            let piece = &bytes[..piece];
            let taken = written(&mut pair.socket, piece).await;
            let unsent = taken - readable(&pair.client);
            assert!(
                unsent <= UNSENT,
                "{unsent} bytes with a window of {window}, in pieces of {}",
                piece.len()
            );
        }
        let mut pair = unix().await;
        let taken = written(&mut pair.socket, &bytes[..piece]).await;
        assert!(taken <= UNSENT, "{taken} bytes, in pieces of {piece}");
    }
}

#[tokio::test]
async fn what_is_not_read_waits_in_the_kernel_for_a_small_part_alone() {
    for piece in [1, 600, 1 << 20] {
        let pair = tcp_with_window(4 * 1024).await;
        let client = std::net::TcpStream::from(pair.client.try_clone().expect("a handle"));
        let mut client = TcpStream::from_std(client).expect("a socket");
        written(&mut client, &vec![b'x'; piece]).await;
        let kept = readable(&pair.ours);
        assert!(kept > 0 && kept <= RECEIVED, "{kept} bytes, in pieces of {piece}");
    }
}

/// Small buffers do not slow down or damage a large answer.
#[tokio::test]
async fn a_large_answer_comes_whole_in_however_many_pieces() {
    let served = tcp(Limits { max_held: 128 << 20, ..Limits::default() });
    let answer = served.exchange("GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert_eq!(status(head), "200");
    assert!(body.len() == 32 << 20 && body.bytes().all(|byte| byte == b'x'), "{} bytes", body.len());
}
