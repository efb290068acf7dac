//! Raw sockets against a real listener: attempts that a client must not succeed with.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::domain::time::Timestamp;
use crate::span::Tracer;
use crate::system::{SystemClock, SystemRandom, TokioTasks};

mod at_once;
mod http2;
mod kernel;
mod plain_head;
mod streams;
mod untaken;

/// Long enough for a busy machine, short enough to fail a test.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers by path, and counts the requests that reach it.
#[derive(Default)]
struct Probe {
    reached: AtomicUsize,
    gate: Notify,
    /// For answers at once that wait.
    at_once: Arc<at_once::Gate>,
    /// One for each stream: its chunks go in here.
    streams: parking_lot::Mutex<Vec<streams::Chunks>>,
}

impl Handler for Probe {
    fn handle<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        self.reached.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            match request.path.as_str() {
                "/panic" => panic!("secret {}", request.path),
                "/wait" => {
                    self.gate.notified().await;
                    response(StatusCode::OK, "text/plain", "waited")
                }
                "/cached" => {
                    let mut response = response(StatusCode::OK, "text/plain", "x");
                    response
                        .headers_mut()
                        .insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
                    response.headers_mut().insert(header::SERVER, HeaderValue::from_static("tokenward/0.1"));
                    response
                }
                "/peer" => response(StatusCode::OK, "text/plain", format!("{:?}", request.peer)),
                "/large" => response(StatusCode::OK, "text/plain", vec![b'x'; 700 << 10]),
                "/stubborn" => {
                    let _ = request.body.read_all().await;
                    response(StatusCode::OK, "text/plain", vec![b'x'; 700 << 10])
                }
                "/big" => response(StatusCode::OK, "text/plain", vec![b'x'; 32 << 20]),
                "/stream" => streams::answer(request.streams, &self.streams),
                "/relayed" => streams::relayed(request.streams, None),
                "/relayed-5" => streams::relayed(request.streams, Some(5)),
                "/at-once" | "/as-at-once" => response(StatusCode::OK, "text/plain", "at once"),
                "/ignore" => response(StatusCode::OK, "text/plain", "ignored"),
                _ => match request.body.read_all().await {
                    Ok(body) => response(StatusCode::OK, "text/plain", body),
                    Err(error) => response(error.status(), "text/plain", error.to_string()),
                },
            }
        })
    }

    fn at_once(&self, request: PlainRequest<'_>) -> Option<AtOnce> {
        at_once::answer(&self.at_once, request.head.path())
    }
}

struct Served {
    address: LocalAddress,
    probe: Arc<Probe>,
    tasks: Arc<TokioTasks>,
    shutdown: Shutdown,
    metrics: Arc<Metrics>,
}

fn serve(config: ListenerConfig) -> Served {
    let bound = Bound::bind(config).expect("bound");
    let address = bound.local_address().clone();
    let (probe, tasks, shutdown) = (Arc::new(Probe::default()), Arc::new(TokioTasks::new()), Shutdown::new());
    let metrics = Arc::new(Metrics::new("test"));
    let surroundings = Surroundings {
        tasks: Arc::clone(&tasks) as Arc<dyn Tasks>,
        clock: Arc::new(SystemClock::new()),
        random: Arc::new(SystemRandom::new()),
        shutdown: shutdown.clone(),
        metrics: Arc::clone(&metrics),
        tracer: Tracer::off(),
    };
    bound.serve(Arc::clone(&probe) as Arc<dyn Handler>, surroundings);
    Served { address, probe, tasks, shutdown, metrics }
}

fn tcp(limits: Limits) -> Served {
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    serve(ListenerConfig { limits, ..ListenerConfig::new("test", Address::Tcp(anywhere)) })
}

impl Served {
    async fn connect(&self) -> TcpStream {
        let LocalAddress::Tcp(address) = &self.address else { panic!("not TCP") };
        TcpStream::connect(address).await.expect("connected")
    }

    /// Sends the bytes and reads until the listener closes the connection.
    async fn exchange(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_ref()).await.expect("sent");
        rest(&mut stream).await
    }

    fn reached(&self) -> usize {
        self.probe.reached.load(Ordering::SeqCst)
    }

    fn shows(&self, series: &str) -> bool {
        self.metrics.encode(Timestamp::from_unix_seconds(0)).lines().any(|line| line == series)
    }

    async fn eventually(&self, series: &str) {
        for _ in 0..500 {
            if self.shows(series) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no {series} in {}", self.metrics.encode(Timestamp::from_unix_seconds(0)));
    }
}

async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("closed in time");
    // A reset after the answer is as good as a close; the assertions find a missing answer.
    drop(read);
    String::from_utf8(bytes).expect("text")
}

/// Reads one response with a `Content-Length`.
async fn one_response(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let read = async {
        let mut bytes = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head
                    .lines()
                    .find_map(|line| {
                        line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned)
                    })
                    .map_or(0, |length| length.parse().expect("a number"));
                if body.len() >= length {
                    return text;
                }
            }
            let mut buffer = [0; 1024];
            let read = stream.read(&mut buffer).await.expect("read");
            assert!(read > 0, "closed after {text:?}");
            bytes.extend_from_slice(&buffer[..read]);
        }
    };
    timeout(PATIENCE, read).await.expect("a response in time")
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), text: &str) {
    stream.write_all(text.as_bytes()).await.expect("sent");
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

#[tokio::test]
async fn what_has_two_readings_is_400_and_closes_and_reaches_no_handler() {
    let served = tcp(Limits::default());
    let next = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for bad in [
        // Two lengths, or a length and an encoding, in any order and spelling.
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\ncontent-LENGTH: 5\r\ntransfer-ENCODING:chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\na",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\na",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\na",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\na",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 1\r\n\r\na",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\na",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 1\r\n\r\na",
        // Encodings other than a single `chunked`.
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: \
         chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: \
         identity\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        // Host.
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: user@a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        // Lines.
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\rc\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\0c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n: nameless\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nA(B: c\r\n\r\n",
        // Request lines.
        "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://user@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        "GET /#fragment HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\\..\\a HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\u{fc} HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\tHTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET /\r\n\r\n",
        "G@T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n",
        // What HTTP/2 begins with: it is spoken with TLS alone, by those who agreed on it.
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let answer = served.exchange(format!("{bad}{next}")).await;
        assert_eq!(status(&answer), "400", "{bad:?} gave {answer:?}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{bad:?} gave {answer:?}");
    }
    assert_eq!(served.reached(), 0);
}

#[tokio::test]
async fn a_bad_message_after_a_good_one_does_not_take_its_answer_away() {
    let served = tcp(Limits::default());
    let answer = served
        .exchange(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nokGET / HTTP/1.1\r\nHost: a\r\nHost: \
             a\r\n\r\n",
        )
        .await;
    let statuses: Vec<_> = answer.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "400"], "{answer}");
    assert_eq!(served.reached(), 1);
    served
        .eventually("tokenward_http_connections_refused_total{listener=\"test\",reason=\"malformed\"} 1")
        .await;
}

#[tokio::test]
async fn a_bad_chunk_breaks_the_body_off_and_the_connection_closes() {
    let served = tcp(Limits::default());
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for bad in
        ["1;a\nb\r\na\r\n0\r\n\r\n", "1\na\r\n0\r\n\r\n", "1\r\nab\r\n0\r\n\r\n", "-1\r\n\r\n", "zz\r\n"]
    {
        let answer =
            served.exchange(format!("{chunked}{bad}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{bad:?} gave {answer:?}");
        assert_eq!(status(&answer), "400", "{bad:?} gave {answer:?}");
        assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    }
    let answer =
        served.exchange(format!("{chunked}3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\nGET / HTTP/1.0\r\n\r\n")).await;
    assert!(answer.contains("\r\n\r\nabcHTTP/1.") && answer.matches(" 200 OK").count() == 2, "{answer}");
}

#[tokio::test]
async fn limits_of_head_target_and_body_have_their_own_answers() {
    let limits = Limits { max_uri: 100, max_body: 100, max_headers: 8, ..Limits::default() };
    let served = tcp(limits);
    let long = |length| "x".repeat(length);
    let close = "Connection: close\r\n\r\n";
    for (message, expected) in [
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n{close}", long(99)), "200"),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n{close}", long(100)), "414"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n{close}", long(16_000)), "200"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n{close}", long(17_000)), "431"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}", long(100_000)), "431"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}{close}", "A: b\r\n".repeat(6)), "200"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}{close}", "A: b\r\n".repeat(7)), "431"),
        (format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n{close}{}", long(100)), "200"),
        (format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n{}", long(101)), "413"),
        (format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999999\r\n\r\n{}", long(1000)), "413"),
        (
            format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n{}\r\n",
                long(101)
            ),
            "413",
        ),
    ] {
        let answer = served.exchange(&message).await;
        assert_eq!(status(&answer), expected, "{} gave {answer}", &message[..60]);
        if expected == "431" {
            assert!(answer.contains("16 KiB") && answer.to_lowercase().contains("x-request-id"), "{answer}");
        }
    }
    // After a request in progress, it waits for its turn.
    let two =
        format!("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n", long(17_000));
    let answer = served.exchange(&two).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn every_response_has_its_headers_and_names_no_server() {
    let served = tcp(Limits::default());
    let mut stream = served.connect().await;
    send(&mut stream, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answer = one_response(&mut stream).await.to_lowercase();
    assert!(answer.contains("cache-control: no-store\r\n"), "{answer}");
    let id = answer.split("x-request-id: ").nth(1).expect("an id").split("\r\n").next().expect("a line");
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    send(
        &mut stream,
        "GET /cached HTTP/1.1\r\nHost: a\r\ntraceparent: \
         00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n",
    )
    .await;
    let answer = one_response(&mut stream).await.to_lowercase();
    assert!(answer.contains("cache-control: max-age=60\r\n") && !answer.contains("no-store"), "{answer}");
    assert!(answer.contains("x-request-id: 4bf92f3577b34da6a3ce929d0e0e4736\r\n"), "{answer}");
    assert!(!answer.contains("server:"), "{answer}");
    send(&mut stream, "HEAD /ignore HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let answer = rest(&mut stream).await;
    assert!(answer.contains("content-length: 7\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert!(served.shows("tokenward_http_requests_total{listener=\"test\",status=\"200\"} 3"));
}

#[test]
fn only_a_valid_traceparent_names_the_request() {
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let id = |values: &[&str]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("traceparent", HeaderValue::from_str(value).expect("a value"));
        }
        RequestId::of(&headers, &SystemRandom::new()).to_string()
    };
    let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    assert_eq!(id(&[good]), trace);
    assert_eq!(id(&["01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more"]), trace);
    let bad: &[&[&str]] = &[
        &[],
        &[good, good],
        &["ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
        &["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more"],
        &["00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"],
        &["00-00000000000000000000000000000000-00f067aa0ba902b7-01"],
        &["00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"],
        &["00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01"],
        &["00-4bf92f3577b34da6a3ce929d0e0e4736"],
    ];
    for values in bad {
        let made = id(values);
        assert!(made != trace && made.len() == 32, "{values:?} gave {made}");
    }
}

#[tokio::test]
async fn a_panic_is_that_request_s_500_and_shows_nothing() {
    let served = tcp(Limits::default());
    let mut stream = served.connect().await;
    send(&mut stream, "GET /panic HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answer = one_response(&mut stream).await;
    assert_eq!(status(&answer), "500");
    assert!(
        answer.contains("\"code\":\"internal\"") && answer.contains("application/problem+json"),
        "{answer}"
    );
    assert!(!answer.contains("secret") && !answer.contains("/panic"), "{answer}");
    send(&mut stream, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(status(&one_response(&mut stream).await), "200");
    assert!(served.shows("tokenward_panics_total 1"));
}

fn short() -> Limits {
    Limits {
        first_byte: Duration::from_millis(150),
        header_read: Duration::from_millis(150),
        body_read: Duration::from_millis(150),
        tls_handshake: Duration::from_millis(150),
        ..Limits::default()
    }
}

#[tokio::test]
async fn a_silent_client_is_closed() {
    let served = tcp(short());
    assert_eq!(rest(&mut served.connect().await).await, "");
    served.eventually("tokenward_http_connections{listener=\"test\"} 0").await;
    assert!(
        served.shows("tokenward_http_connections_refused_total{listener=\"test\",reason=\"too_slow\"} 1")
    );
}

#[tokio::test]
async fn a_head_that_trickles_is_closed_however_often_a_byte_comes() {
    let served = tcp(short());
    for before in ["", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let mut stream = served.connect().await;
        if !before.is_empty() {
            // On an idle connection (which has 60 s) as well as on a new one.
            send(&mut stream, before).await;
            one_response(&mut stream).await;
        }
        let mut sent = 0;
        for byte in "GET / HTTP/1.1\r\nHost: a\r\nA: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb".bytes() {
            if stream.write_all(&[byte]).await.is_err() {
                break;
            }
            sent += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(sent < 50, "{sent} bytes were taken");
        assert_eq!(rest(&mut stream).await, "");
    }
}

#[tokio::test]
async fn a_body_that_trickles_is_408() {
    let served = tcp(short());
    for head in ["Content-Length: 1000", "Transfer-Encoding: chunked"] {
        let answer = served.exchange(format!("POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n1")).await;
        assert_eq!(status(&answer), "408", "{answer}");
        assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    }
}

#[tokio::test]
async fn an_idle_connection_has_its_own_longer_limit_and_a_slow_handler_none() {
    let served = tcp(Limits { idle: Duration::from_millis(600), ..short() });
    let mut stream = served.connect().await;
    for _ in 0..2 {
        send(&mut stream, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        one_response(&mut stream).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    send(&mut stream, "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(900)).await;
    served.probe.gate.notify_one();
    assert_eq!(status(&one_response(&mut stream).await), "200");
    assert_eq!(rest(&mut stream).await, "", "closed after the idle time");
    assert!(
        served.shows("tokenward_http_connections_refused_total{listener=\"test\",reason=\"too_slow\"} 0")
    );
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_closed() {
    let limits =
        Limits { idle: Duration::from_millis(200), max_held: 128 * 1024 * 1024, ..Limits::default() };
    let served = tcp(limits);
    let mut stream = served.connect().await;
    send(&mut stream, "GET /big HTTP/1.1\r\nHost: a\r\n\r\n").await;
    served.eventually("tokenward_http_requests_total{listener=\"test\",status=\"200\"} 1").await;
    served.eventually("tokenward_http_connections{listener=\"test\"} 0").await;
}

#[tokio::test]
async fn a_body_that_nobody_wants_neither_stalls_nor_hides_the_answer() {
    let served = tcp(Limits::default());
    let mut stream = served.connect().await;
    send(&mut stream, "POST /ignore HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n").await;
    for _ in 0..20 {
        if stream.write_all(&[b'x'; 10_000]).await.is_err() {
            break;
        }
    }
    assert!(rest(&mut stream).await.ends_with("ignored"));
}

#[tokio::test]
async fn an_old_connection_is_closed_after_its_current_response() {
    let served = tcp(Limits { max_age: Duration::from_millis(200), ..Limits::default() });
    let mut stream = served.connect().await;
    send(&mut stream, "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    served.probe.gate.notify_one();
    let answer = rest(&mut stream).await;
    assert!(status(&answer) == "200" && answer.to_lowercase().contains("connection: close"), "{answer}");
    // An idle connection is closed at once.
    let mut idle = served.connect().await;
    send(&mut idle, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    one_response(&mut idle).await;
    assert_eq!(rest(&mut idle).await, "");
}

#[tokio::test]
async fn caps_refuse_before_anything_is_read_and_places_are_given_back() {
    for (limits, reason) in [
        (Limits { max_connections: 2, ..Limits::default() }, "listener_full"),
        (Limits { max_connections_per_peer: 2, ..Limits::default() }, "peer_full"),
    ] {
        let served = tcp(limits);
        let (mut first, mut second) = (served.connect().await, served.connect().await);
        // Both wait for us, so neither gives way.
        send(&mut first, "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
        send(&mut second, "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
        while served.reached() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(rest(&mut served.connect().await).await, "");
        let refused =
            format!("tokenward_http_connections_refused_total{{listener=\"test\",reason=\"{reason}\"}} 1");
        served.eventually(&refused).await;
        drop(first);
        served.eventually("tokenward_http_connections{listener=\"test\"} 1").await;
        let answer = served.exchange("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        assert_eq!(status(&answer), "200");
    }
}

#[tokio::test]
async fn where_it_is_full_the_connection_that_waited_longest_gives_way_to_a_new_one() {
    let served = tcp(Limits { max_connections: 3, ..Limits::default() });
    let mut silent = served.connect().await;
    served.eventually("tokenward_http_connections{listener=\"test\"} 1").await;
    let mut half = served.connect().await;
    send(&mut half, "GET / HTTP/1.1\r\nHost:").await;
    let mut body = served.connect().await;
    send(&mut body, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n12345678").await;
    while served.reached() < 1 {
        tokio::task::yield_now().await;
    }
    for (stalled, expected) in [(&mut silent, ""), (&mut half, ""), (&mut body, "503")] {
        let answer = served.exchange("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        assert_eq!(status(&answer), "200");
        let end = rest(stalled).await;
        assert_eq!(end.split(' ').nth(1).unwrap_or_default(), expected, "{end}");
        // It is gone before the next one comes, which gets its place.
        let again = served.connect().await;
        drop(std::mem::replace(stalled, again));
        served.eventually("tokenward_http_connections{listener=\"test\"} 3").await;
    }
    served
        .eventually("tokenward_http_connections_refused_total{listener=\"test\",reason=\"gave_way\"} 3")
        .await;
}

/// Opens a connection from another address of this machine, which counts as another peer.
async fn connect_from(served: &Served, last: u8) -> TcpStream {
    let LocalAddress::Tcp(address) = served.address else { panic!("not TCP") };
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).expect("bound");
    socket.connect(address).await.expect("connected")
}

#[tokio::test]
async fn stalled_bodies_of_one_peer_give_way_and_a_slow_one_of_another_is_read() {
    let served = tcp(Limits { max_held: 96 * 1024, ..Limits::default() });
    let post = |length| format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    let mut slow = connect_from(&served, 2).await;
    send(&mut slow, &format!("{}{}", post(20_000), "a".repeat(19_000))).await;
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let mut stream = connect_from(&served, 3).await;
        send(&mut stream, &format!("{}{}", post(30_000), "a".repeat(29_000))).await;
        stalled.push(stream);
    }
    // Half of the room belongs to one peer: one body of 32 KiB, so seven had to go, the oldest first.
    for stream in &mut stalled[..7] {
        let answer = rest(stream).await.to_lowercase();
        assert_eq!(status(&answer), "503", "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
    }
    send(&mut slow, &"a".repeat(1000)).await;
    assert_eq!(status(&one_response(&mut slow).await), "200");
    send(&mut stalled[7], &"a".repeat(1000)).await;
    assert_eq!(status(&one_response(&mut stalled[7]).await), "200");
    served
        .eventually("tokenward_http_connections_refused_total{listener=\"test\",reason=\"gave_way\"} 7")
        .await;
    // Memory of read and answered requests is given back.
    for _ in 0..20 {
        send(&mut slow, &format!("{}{}", post(30_000), "a".repeat(30_000))).await;
        assert_eq!(status(&one_response(&mut slow).await), "200");
    }
}

#[tokio::test]
async fn an_answer_that_nobody_takes_is_counted_too() {
    let served = tcp(Limits { max_held: 48 * 1024 * 1024, ..Limits::default() });
    let mut first = served.connect().await;
    // 32 MiB exceed one peer's half.
    send(&mut first, "GET /big HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answer = rest(&mut first).await.to_lowercase();
    assert!(status(&answer) == "503" && answer.contains("retry-after: 1"), "{answer}");
    assert!(answer.contains("\"code\":\"overloaded\""), "{answer}");
}

#[tokio::test]
async fn a_soft_stop_finishes_what_is_in_flight_and_closes_the_rest() {
    let served = tcp(Limits::default());
    let (mut busy, mut idle, mut fresh) =
        (served.connect().await, served.connect().await, served.connect().await);
    send(&mut idle, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    one_response(&mut idle).await;
    send(&mut busy, "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
    while served.reached() < 2 {
        tokio::task::yield_now().await;
    }
    served.eventually("tokenward_http_connections{listener=\"test\"} 3").await;
    served.shutdown.stop();
    assert_eq!(rest(&mut idle).await, "");
    assert_eq!(rest(&mut fresh).await, "");
    let LocalAddress::Tcp(address) = served.address else { panic!("not TCP") };
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, refused).await.expect("no longer listening");
    served.probe.gate.notify_one();
    let answer = rest(&mut busy).await;
    assert!(status(&answer) == "200" && answer.to_lowercase().contains("connection: close"), "{answer}");
    drop((busy, idle, fresh));
    timeout(PATIENCE, served.tasks.close_and_wait()).await.expect("every task has ended");
}

#[tokio::test]
async fn a_soft_stop_answers_what_is_on_its_way() {
    let served = tcp(Limits::default());
    let (mut fresh, mut begun) = (served.connect().await, served.connect().await);
    let (mut kept, mut stream) = (served.connect().await, served.connect().await);
    send(&mut kept, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    one_response(&mut kept).await;
    send(&mut begun, "GET / HTTP/1.1\r\nHo").await;
    send(&mut stream, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n").await;
    served.eventually("tokenward_http_connections{listener=\"test\"} 4").await;
    while served.reached() < 2 {
        tokio::task::yield_now().await;
    }
    served.shutdown.stop();
    // A stream ends at once, so by then the others know of the stop, too.
    rest(&mut stream).await;
    send(&mut begun, "st: a\r\n\r\n").await;
    send(&mut fresh, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    send(&mut kept, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    for connection in [&mut begun, &mut fresh, &mut kept] {
        let answer = rest(connection).await;
        assert!(status(&answer) == "200" && answer.to_lowercase().contains("connection: close"), "{answer}");
    }
    drop((fresh, begun, kept, stream));
    timeout(PATIENCE, served.tasks.close_and_wait()).await.expect("every task has ended");
}

#[tokio::test]
async fn a_hard_stop_drops_what_is_in_flight() {
    let served = tcp(Limits::default());
    let mut busy = served.connect().await;
    send(&mut busy, "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
    while served.reached() < 1 {
        tokio::task::yield_now().await;
    }
    served.shutdown.abort();
    assert_eq!(rest(&mut busy).await, "");
    timeout(PATIENCE, served.tasks.close_and_wait()).await.expect("every task has ended");
}

#[tokio::test]
async fn a_unix_peer_is_known_and_the_socket_file_comes_and_goes() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("run/tokenward.sock");
    let config =
        ListenerConfig { unix_mode: 0o666, ..ListenerConfig::new("local", Address::Unix(path.clone())) };
    let served = serve(config.clone());
    let metadata = std::fs::symlink_metadata(&path).expect("a socket file");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o666);
    let mut stream = UnixStream::connect(&path).await.expect("connected");
    send(&mut stream, "GET /peer HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    let answer = rest(&mut stream).await;
    let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw(), std::process::id());
    assert!(
        answer.contains(&format!("Unix {{ uid: {}, gid: {}, pid: Some({}) }}", me.0, me.1, me.2)),
        "{answer}"
    );

    assert!(matches!(Bound::bind(config.clone()), Err(BindError::InUse(_))), "another one serves it");
    served.shutdown.stop();
    drop(stream);
    timeout(PATIENCE, served.tasks.close_and_wait()).await.expect("stopped");
    assert!(!path.exists(), "removed with the listener");

    // A leftover of a killed process: nobody listens on it, so it is replaced.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
    assert!(path.exists());
    let bound = Bound::bind(config.clone()).expect("bound over the stale file");
    // A socket that someone else has put there: it is not removed.
    std::fs::remove_file(&path).expect("removed");
    std::fs::write(&path, "").expect("written");
    drop(bound);
    assert!(path.exists());
    assert!(matches!(Bound::bind(config), Err(BindError::NotASocket(_))));
}

#[tokio::test]
async fn a_taken_port_is_an_error_at_once() {
    let served = tcp(Limits::default());
    let LocalAddress::Tcp(address) = served.address else { panic!("not TCP") };
    let taken = Bound::bind(ListenerConfig::new("test", Address::Tcp(address)));
    assert!(matches!(taken, Err(BindError::Tcp { .. })));
}

/// A CA and two of its leaves, made for these tests only; valid for a century.
const CA: &[u8] = include_bytes!("testdata/ca.pem");
const SERVER: (&[u8], &[u8]) = (include_bytes!("testdata/server.pem"), include_bytes!("testdata/server.key"));
const CLIENT: (&[u8], &[u8]) = (include_bytes!("testdata/client.pem"), include_bytes!("testdata/client.key"));

fn tls(settings: &Tls, limits: Limits) -> Served {
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = ListenerConfig::new("test", Address::Tcp(anywhere));
    serve(ListenerConfig { tls: Some(settings.clone()), limits, ..config })
}

fn trust(ca_pem: &[u8]) -> ClientTrust<'_> {
    ClientTrust { ca_pem, crl: None, required: false }
}

fn settings(client_ca: Option<&[u8]>) -> TlsSettings {
    tls_settings(SERVER.0, SERVER.1, client_ca.map(trust), true, Arc::new(SystemClock::new()))
        .expect("settings")
}

/// Opens a connection with TLS that offers these protocols.
async fn shake_hands(
    served: &Served,
    identity: Option<(&[u8], &[u8])>,
    version: &'static rustls::SupportedProtocolVersion,
    protocols: &[&str],
) -> Result<TlsStream<TcpStream>, std::io::Error> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(CA).expect("PEM")).expect("a CA");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("versions")
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(certificate).expect("PEM")],
                PrivateKeyDer::from_pem_slice(key).expect("PEM"),
            )
            .expect("an identity"),
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let name = ServerName::try_from("localhost").expect("a name");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(name, served.connect().await).await
}

/// Returns what a client reads from `/peer`, or its error.
async fn ask_over_tls(
    served: &Served,
    identity: Option<(&[u8], &[u8])>,
    version: &'static rustls::SupportedProtocolVersion,
) -> Result<String, std::io::Error> {
    let mut stream = shake_hands(served, identity, version, &["http/1.1"]).await?;
    stream.write_all(b"GET /peer HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("closed in time")?;
    Ok(String::from_utf8(answer).expect("text"))
}

#[tokio::test]
async fn tls_is_1_3_alone_and_a_client_may_prove_itself() {
    use rustls::version::{TLS12, TLS13};
    let served = tls(&Tls::new(settings(Some(CA))), Limits::default());
    let answer = ask_over_tls(&served, None, &TLS13).await.expect("an answer");
    assert!(answer.contains("tls: true, certificate: None"), "{answer}");
    let answer = ask_over_tls(&served, Some(CLIENT), &TLS13).await.expect("an answer");
    assert!(answer.contains("tls: true, certificate: Trusted("), "{answer}");
    assert!(ask_over_tls(&served, None, &TLS12).await.is_err());
    // A server certificate does not authenticate a client.
    assert!(ask_over_tls(&served, Some(SERVER), &TLS13).await.is_err());
    served
        .eventually("tokenward_http_connections_refused_total{listener=\"test\",reason=\"handshake\"} 1")
        .await;
    served
        .eventually(
            "tokenward_http_connections_refused_total{listener=\"test\",reason=\"client_certificate\"} 1",
        )
        .await;
    // Plain HTTP on a TLS port is no handshake.
    let mut plain = served.connect().await;
    send(&mut plain, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut bytes = Vec::new();
    drop(plain.read_to_end(&mut bytes).await);
    assert!(!bytes.starts_with(b"HTTP"), "{bytes:?}");
}

#[tokio::test]
async fn tls_settings_are_replaced_while_it_listens() {
    use rustls::version::TLS13;
    let live = Tls::new(settings(None));
    let served = tls(&live, Limits::default());
    let answer = ask_over_tls(&served, Some(CLIENT), &TLS13).await.expect("an answer");
    assert!(answer.contains("certificate: None"), "not asked for one: {answer}");
    live.replace(settings(Some(CA)));
    let answer = ask_over_tls(&served, Some(CLIENT), &TLS13).await.expect("an answer");
    assert!(answer.contains("certificate: Trusted("), "{answer}");
}

#[tokio::test]
async fn a_client_that_never_shakes_hands_is_closed() {
    let served = tls(&Tls::new(settings(None)), short());
    assert_eq!(rest(&mut served.connect().await).await, "");
    served
        .eventually("tokenward_http_connections_refused_total{listener=\"test\",reason=\"handshake\"} 1")
        .await;
}

#[test]
fn unusable_tls_files_are_told_apart_and_never_shown() {
    let error = |certificate, key, clients| {
        tls_settings(certificate, key, clients, true, Arc::new(SystemClock::new())).expect_err("unusable")
    };
    assert!(matches!(error(b"", SERVER.1, None), TlsError::Certificate));
    assert!(matches!(error(SERVER.1, SERVER.1, None), TlsError::Certificate));
    assert!(matches!(error(SERVER.0, b"secret", None), TlsError::Key));
    assert!(matches!(error(SERVER.0, SERVER.1, Some(trust(b""))), TlsError::ClientCa));
    let with = |crl| Some(ClientTrust { crl: Some(crl), ..trust(CA) });
    assert!(matches!(error(SERVER.0, SERVER.1, with(b"")), TlsError::ClientCrl));
    assert!(matches!(error(SERVER.0, SERVER.1, with(b"\x30\x00")), TlsError::ClientVerifier(_)));
    assert!(matches!(error(SERVER.0, CLIENT.1, None), TlsError::Refused(_)), "a key of another certificate");
    let shown = format!("{:?}", error(SERVER.0, b"secret", None));
    assert!(!shown.contains("secret"), "{shown}");
}
