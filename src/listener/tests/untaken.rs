//! Answers that clients do not take, and endless heads after a request: how much a client can make a listener
//! keep, and for how long.

use super::*;

/// Size of the socket buffers of a client that does not read; small, so that tests fill them quickly.
const LITTLE: u32 = 4096;

/// Opens a connection of a client that never reads.
pub(super) async fn deaf(served: &Served) -> TcpStream {
    let LocalAddress::Tcp(address) = served.address else { panic!("not TCP") };
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(LITTLE).expect("a size");
    socket.set_send_buffer_size(LITTLE).expect("a size");
    socket.connect(address).await.expect("connected")
}

/// Such a client sends request after request. hyper begins the next request before it has written the answer
/// to one with an unread body, until 16 KiB of answers wait.
#[tokio::test]
async fn no_request_is_begun_before_the_answer_before_it_is_taken() {
    const ASKED: usize = 20_000;
    // The kernel takes about as many of these answers as of those.
    let mut first = None;
    for request in [
        "HEAD /ignore HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /ignore HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
        "HEAD /ignore HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
        // (Behind chunks that nobody has read, the connection ends with the answer.)
    ] {
        let served = tcp(Limits { answer_taken: Duration::from_millis(300), ..Limits::default() });
        let mut stream = deaf(&served).await;
        let asked = request.repeat(100);
        let flood = async {
            for _ in 0..ASKED / 100 {
                if stream.write_all(asked.as_bytes()).await.is_err() {
                    return;
                }
            }
        };
        timeout(PATIENCE, flood).await.expect("it is taken or refused");
        served
            .eventually("tokenward_http_connections_refused_total{listener=\"test\",reason=\"too_slow\"} 1")
            .await;
        served.eventually("tokenward_http_connections{listener=\"test\"} 0").await;
        let reached = served.reached();
        let first = *first.get_or_insert(reached);
        assert!(first < 200 && reached <= first + 20, "{first} and {reached} were answered: {request}");
    }
}

#[tokio::test]
async fn pipelined_requests_of_a_client_that_reads_late_are_all_answered_in_order() {
    const ASKED: usize = 2000;
    let served = tcp(Limits::default());
    let stream = deaf(&served).await;
    let (mut reads, mut writes) = stream.into_split();
    let send = async {
        for number in 1..=ASKED {
            let end = if number == ASKED { "Connection: close\r\n" } else { "" };
            let text = format!("{number}.");
            let length = text.len();
            let post = format!("POST / HTTP/1.1\r\nHost: a\r\n{end}Content-Length: {length}\r\n\r\n{text}");
            send(&mut writes, &post).await;
        }
    };
    let read = async {
        // It counts from when the listener waits for it.
        let mut before = 0;
        while served.reached() == 0 || served.reached() > before {
            before = served.reached();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(before < ASKED, "nothing was held back");
        rest(&mut reads).await
    };
    let ((), answers) = tokio::join!(send, read);
    let bodies: Vec<&str> =
        answers.split("\r\n\r\n").skip(1).filter_map(|part| part.split('.').next()).collect();
    assert_eq!(bodies, (1..=ASKED).map(|number| number.to_string()).collect::<Vec<_>>());
}

/// This deadline is shorter than that of an idle connection, and nobody else is affected.
#[tokio::test]
async fn an_answer_that_is_not_taken_in_time_ends_its_connection_alone() {
    let limits = Limits { answer_taken: Duration::from_millis(200), max_held: 8 << 20, ..Limits::default() };
    let served = tcp(limits);
    let mut stalled = deaf(&served).await;
    let mut idle = served.connect().await;
    send(&mut idle, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    one_response(&mut idle).await;
    send(&mut stalled, "GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await;
    served
        .eventually("tokenward_http_connections_refused_total{listener=\"test\",reason=\"too_slow\"} 1")
        .await;
    served.eventually("tokenward_http_connections{listener=\"test\"} 1").await;
    // The kernel has discarded the waiting data.
    let read = timeout(PATIENCE, stalled.read_to_end(&mut Vec::new())).await.expect("in time");
    assert_eq!(read.expect_err("reset").kind(), std::io::ErrorKind::ConnectionReset);
    send(&mut idle, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(status(&one_response(&mut idle).await), "200");
}

/// An answer tells them, and they do not close.
#[tokio::test]
async fn connections_that_give_way_keep_no_newcomer_out() {
    // With so few, one may be about to leave.
    let served = tcp(Limits { max_connections: 4, ..Limits::default() });
    let mut stalled = Vec::new();
    for number in 1..=4 {
        let mut stream = served.connect().await;
        send(&mut stream, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1").await;
        while served.reached() < number {
            tokio::task::yield_now().await;
        }
        stalled.push(stream);
    }
    let mut newcomers = Vec::new();
    for _ in 0..4 {
        let mut newcomer = served.connect().await;
        send(&mut newcomer, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(status(&one_response(&mut newcomer).await), "200");
        newcomers.push(newcomer);
    }
    for stream in &mut stalled {
        assert_eq!(status(&rest(stream).await), "503");
    }
    refused_are(&served, &[("gave_way", 4), ("too_slow", 0), ("listener_full", 0)]).await;
}

/// However large its answer is, and however long it could wait otherwise.
#[tokio::test]
async fn a_connection_that_gives_way_and_does_not_take_its_answer_is_gone_a_second_later() {
    let limits = Limits { max_connections: 1, answer_taken: Duration::from_secs(600), ..Limits::default() };
    let served = tcp(limits);
    let mut stalled = deaf(&served).await;
    send(&mut stalled, "POST /stubborn HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1").await;
    while served.reached() < 1 {
        tokio::task::yield_now().await;
    }
    let answer = served.exchange("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status(&answer), "200");
    served.eventually("tokenward_http_connections{listener=\"test\"} 0").await;
    refused_are(&served, &[("gave_way", 1), ("too_slow", 0)]).await;
}

/// It had to give way while its client was taking the answer: it has its second, too.
#[tokio::test]
async fn a_connection_that_gives_way_while_its_answer_is_taken_gets_the_whole_of_it() {
    let served = tcp(Limits { max_connections: 1, ..Limits::default() });
    let mut slow = served.connect().await;
    send(&mut slow, "GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut first = [0; 12];
    timeout(PATIENCE, slow.read_exact(&mut first)).await.expect("in time").expect("it begins");
    let answer = served.exchange("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status(&answer), "200");
    let rest = rest(&mut slow).await;
    let (_, body) = rest.split_once("\r\n\r\n").expect("a head");
    assert_eq!(body.len(), 700 << 10);
    refused_are(&served, &[("gave_way", 1), ("too_slow", 0)]).await;
}

async fn refused_are(served: &Served, counts: &[(&str, usize)]) {
    for (reason, count) in counts {
        let series = "tokenward_http_connections_refused_total{listener=\"test\",reason=";
        served.eventually(&format!("{series}\"{reason}\"}} {count}")).await;
    }
}

#[tokio::test]
async fn half_a_head_behind_a_request_has_the_deadline_of_a_head() {
    let half = "GET / HTTP/1.1\r\nHost: a\r\nA: b";
    for before in [
        "GET /ignore HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab",
        "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let served = tcp(Limits {
            header_read: Duration::from_millis(150),
            idle: Duration::from_secs(600),
            ..Limits::default()
        });
        let mut stream = served.connect().await;
        send(&mut stream, &format!("{before}{half}")).await;
        // It may be answered before it waits here; then the permit is kept.
        served.probe.gate.notify_one();
        let answer = rest(&mut stream).await;
        assert_eq!(answer.matches(" 200 OK").count(), 1, "{answer}");
        served
            .eventually("tokenward_http_connections_refused_total{listener=\"test\",reason=\"too_slow\"} 1")
            .await;
    }
}

/// Bytes after a request stay in memory when the request is answered.
#[tokio::test]
async fn half_a_head_behind_a_request_comes_out_of_the_budget() {
    // One peer has half of it: two such heads, besides the connections' own bytes.
    let served =
        tcp(Limits { max_held: 8 * 1024, header_read: Duration::from_secs(600), ..Limits::default() });
    let half = format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}", "a".repeat(2900));
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut stream = served.connect().await;
        send(&mut stream, &format!("GET /ignore HTTP/1.1\r\nHost: a\r\n\r\n{half}")).await;
        assert_eq!(status(&one_response(&mut stream).await), "200");
        open.push(stream);
    }
    for stream in &mut open[..2] {
        assert_eq!(rest(stream).await, "");
    }
    served
        .eventually("tokenward_http_connections_refused_total{listener=\"test\",reason=\"gave_way\"} 2")
        .await;
    send(&mut open[2], "\r\n\r\n").await;
    assert_eq!(status(&one_response(&mut open[2]).await), "200");
}
