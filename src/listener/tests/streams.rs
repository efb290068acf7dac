//! Answers whose chunks come later.

use futures_util::{FutureExt as _, stream};
use http_body_util::BodyExt as _;
use tokio::sync::mpsc;

use super::*;
use crate::domain::task::BoxFuture;
use crate::listener::answer::Paced;
use crate::listener::body::Keeper as _;
use crate::listener::pulse::Pulse;
use crate::listener::tcp::{LARGE_PART, Tcp};

/// What a test has of a stream: it sends chunks, ends the stream by dropping this, and is told when the
/// listener has dropped it.
pub(super) struct Chunks {
    sender: mpsc::UnboundedSender<Bytes>,
    /// How many the listener has asked for and got.
    made: Arc<AtomicUsize>,
}

impl Chunks {
    pub(super) fn send(&self, chunk: impl Into<Bytes>) {
        self.sender.send(chunk.into()).expect("the stream goes on");
    }

    pub(super) async fn dropped(&self) {
        timeout(PATIENCE, self.sender.closed()).await.expect("dropped in time");
    }
}

/// Answers with a stream, or with 503 where there is no place for one.
pub(super) fn answer(places: Streams, all: &parking_lot::Mutex<Vec<Chunks>>) -> Response {
    let Some(place) = places.take() else {
        return Refused::Overloaded.problem(&RequestId::new(&SystemRandom::new()));
    };
    let (sender, receiver) = mpsc::unbounded_channel();
    let made = Arc::new(AtomicUsize::new(0));
    all.lock().push(Chunks { sender, made: Arc::clone(&made) });
    let chunks = stream::unfold((receiver, made), |(mut receiver, made)| async {
        let chunk = receiver.recv().await?;
        made.fetch_add(1, Ordering::SeqCst);
        Some((chunk, (receiver, made)))
    });
    Response::new(AnswerBody::stream(place, chunks))
}

const ASK: &str = "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n";
const END: &str = "0\r\n\r\n";

/// Answers with what is relayed: five bytes of a known length, and then the listener's last part.
pub(super) fn relayed(places: Streams, length: Option<u64>) -> Response {
    let place = places.take().expect("a place");
    let part = Part { bytes: Bytes::from_static(b"whole"), is_last: length.is_none() };
    Response::new(AnswerBody::relayed(place, length, stream::iter([Ok(part)])))
}

/// Reads until the text ends so, and returns it.
async fn read_to(stream: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let read = async {
        let mut bytes = Vec::new();
        while !bytes.ends_with(end.as_bytes()) {
            let mut one = [0];
            let read = stream.read(&mut one).await.expect("read");
            assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&bytes));
            bytes.push(one[0]);
        }
        String::from_utf8(bytes).expect("text")
    };
    timeout(PATIENCE, read).await.expect("in time")
}

impl Served {
    /// Opens a connection and a stream on it. The head has come.
    async fn streaming(&self) -> (TcpStream, Chunks) {
        let mut stream = self.connect().await;
        send(&mut stream, ASK).await;
        let head = read_to(&mut stream, "\r\n\r\n").await;
        assert_eq!(status(&head), "200", "{head}");
        assert!(head.to_ascii_lowercase().contains("transfer-encoding: chunked"), "{head}");
        (stream, self.newest())
    }

    fn newest(&self) -> Chunks {
        self.probe.streams.lock().pop().expect("a stream")
    }
}

#[tokio::test]
async fn chunks_come_when_they_are_made_and_the_connection_goes_on_after_them() {
    let served = tcp(Limits::default());
    let (mut stream, chunks) = served.streaming().await;
    for text in ["one", "two", "three"] {
        chunks.send(text);
        assert_eq!(
            read_to(&mut stream, &format!("{text}\r\n")).await,
            format!("{}\r\n{text}\r\n", text.len())
        );
    }
    drop(chunks);
    assert_eq!(read_to(&mut stream, END).await, END);
    send(&mut stream, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(status(&one_response(&mut stream).await), "200");
}

/// What is relayed ends with its last part, whether its length was announced or not. The connection waits for
/// the next request then, as any other.
#[tokio::test]
async fn what_is_relayed_leaves_in_one_piece_with_its_head_and_its_end() {
    let limits = Limits { idle: Duration::from_millis(300), max_connections: 2, ..Limits::default() };
    let served = tcp(Limits { max_connections_per_peer: 2, ..limits });
    for (path, end) in [("/relayed-5", "\r\n\r\nwhole"), ("/relayed", "\r\n5\r\nwhole\r\n0\r\n\r\n")] {
        let mut stream = served.connect().await;
        for _ in 0..3 {
            send(&mut stream, &format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
            // (One read: over loopback, what is written at once is there at once.)
            let mut bytes = [0; 1024];
            let read = timeout(PATIENCE, stream.read(&mut bytes)).await.expect("in time").expect("read");
            let text = String::from_utf8_lossy(&bytes[..read]);
            assert!(text.starts_with("HTTP/1.1 200") && text.ends_with(end), "{text}");
        }
        // (Of two connections one may have a stream: each gave its place back.)
        assert_eq!(rest(&mut stream).await, "", "closed after the idle time");
        served.eventually("tokenward_http_connections{listener=\"test\"} 0").await;
    }
}

/// The head of an answer leaves, though its body breaks off at once: its client is not to think that there
/// was no answer.
#[tokio::test]
async fn what_breaks_off_at_once_lets_its_head_leave_first() {
    let (clock, origin) = (Arc::new(SystemClock::new()), Origin::Tcp(([127, 0, 0, 1], 1).into()));
    let room = Room::new(&Limits::default());
    let place = room.take(origin, Duration::ZERO).expect("a place");
    let pulse = Arc::new(Pulse::new(place, clock.clone()));
    let keeper = Arc::clone(&pulse) as _;
    let place = Streams::of(room, origin, None, clock, keeper).take().expect("a place");
    let broken = AnswerBody::relayed(place, None, stream::iter([Err(BrokenOff)]));
    let mut body = Paced::new(broken, &pulse);
    pulse.stream_began();
    assert!(body.frame().now_or_never().is_none(), "the head is not taken");
    assert!(pulse.flushed(), "it is to be woken");
    assert!(matches!(body.frame().now_or_never(), Some(Some(Err(BrokenOff)))));
}

#[tokio::test]
async fn a_client_that_leaves_drops_its_stream_and_gives_its_place_back() {
    // Half of the places may have a stream: one.
    let served = tcp(Limits { max_connections: 2, max_connections_per_peer: 2, ..Limits::default() });
    for _ in 0..3 {
        let (stream, chunks) = served.streaming().await;
        let refused = served.exchange(ASK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(status(&refused), "503", "{refused}");
        drop(stream);
        chunks.dropped().await;
        served.eventually("tokenward_http_connections{listener=\"test\"} 0").await;
    }
}

#[tokio::test]
async fn a_stop_ends_a_stream_at_once_and_cleanly_and_a_hard_one_drops_it() {
    let served = tcp(Limits::default());
    let (mut stream, chunks) = served.streaming().await;
    served.shutdown.stop();
    assert_eq!(rest(&mut stream).await, END);
    chunks.dropped().await;
    timeout(PATIENCE, served.tasks.close_and_wait()).await.expect("nothing is left");

    let served = tcp(Limits::default());
    let (mut stream, chunks) = served.streaming().await;
    served.shutdown.abort();
    chunks.dropped().await;
    assert!(!rest(&mut stream).await.contains(END));
}

/// However long nothing comes; and the connection's age is the stream's end, which tells the client to come
/// back.
#[tokio::test]
async fn a_silent_stream_outlives_every_deadline_but_its_connection_s_age() {
    let short = Duration::from_millis(50);
    let limits = Limits {
        first_byte: short,
        header_read: short,
        idle: short,
        answer_taken: short,
        max_age: Duration::from_millis(600),
        ..Limits::default()
    };
    let served = tcp(limits);
    let (mut stream, chunks) = served.streaming().await;
    assert_eq!(rest(&mut stream).await, END);
    chunks.dropped().await;
    served.eventually("tokenward_http_connections{listener=\"test\"} 0").await;
    served
        .eventually("tokenward_http_connections_refused_total{listener=\"test\",reason=\"too_slow\"} 0")
        .await;
}

/// hyper would ask for chunks until 16 KiB of them wait.
#[tokio::test]
async fn a_chunk_is_made_when_the_one_before_is_taken() {
    let (clock, origin) = (Arc::new(SystemClock::new()), Origin::Tcp(([127, 0, 0, 1], 1).into()));
    let room = Room::new(&Limits::default());
    let place = room.take(origin, Duration::ZERO).expect("a place");
    let pulse = Arc::new(Pulse::new(place, clock.clone()));
    let all = parking_lot::Mutex::default();
    let keeper = Arc::clone(&pulse) as _;
    let (_, body) = answer(Streams::of(room, origin, None, clock, keeper), &all).into_parts();
    let chunks = all.lock().pop().expect("a stream");
    let mut body = Paced::new(body, &pulse);
    let mut next = || body.frame().now_or_never().map(|frame| frame.map(|frame| frame.expect("no error")));
    chunks.send("one");
    chunks.send("two");
    pulse.stream_began();
    assert!(next().is_none(), "the head is not taken");
    pulse.flushed();
    assert!(next().is_some());
    assert!(next().is_none() && chunks.made.load(Ordering::SeqCst) == 1);
    assert!(pulse.flushed(), "it is to be woken");
    assert!(next().is_some() && next().is_none() && chunks.made.load(Ordering::SeqCst) == 2);
    drop(chunks);
    pulse.flushed();
    assert!(next().expect("at once").is_none() && pulse.is_untaken() && !pulse.is_answering());
}

#[tokio::test]
async fn a_client_that_takes_nothing_ends_in_time() {
    const SENT: usize = 1000;
    let served = tcp(Limits { answer_taken: Duration::from_millis(300), ..Limits::default() });
    let LocalAddress::Tcp(address) = served.address else { panic!("not TCP") };
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a size");
    let mut stream = socket.connect(address).await.expect("connected");
    send(&mut stream, ASK).await;
    read_to(&mut stream, "\r\n\r\n").await;
    let chunks = served.newest();
    for _ in 0..SENT {
        chunks.send(vec![b'x'; 4096]);
    }
    chunks.dropped().await;
    // What the kernel takes, and little more.
    let made = chunks.made.load(Ordering::SeqCst);
    assert!((2..50).contains(&made), "{made} of {SENT}");
    served
        .eventually("tokenward_http_connections_refused_total{listener=\"test\",reason=\"too_slow\"} 1")
        .await;
    served.eventually("tokenward_http_connections{listener=\"test\"} 0").await;
}

#[tokio::test]
async fn a_chunk_without_room_ends_its_stream_and_nothing_of_it_is_sent() {
    let served = tcp(Limits { max_held: 8 * 1024, ..Limits::default() });
    let (mut stream, chunks) = served.streaming().await;
    chunks.send("small");
    chunks.send(vec![b'x'; 64 * 1024]);
    assert_eq!(read_to(&mut stream, END).await, format!("5\r\nsmall\r\n{END}"));
}

#[tokio::test]
async fn a_stream_gives_way_to_nobody_and_bytes_behind_its_request_wait() {
    let served = tcp(Limits { max_connections: 2, max_connections_per_peer: 2, ..Limits::default() });
    let (mut stream, chunks) = served.streaming().await;
    let mut idle = served.connect().await;
    send(&mut idle, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    one_response(&mut idle).await;
    let answer = served.exchange("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status(&answer), "200");
    assert_eq!(rest(&mut idle).await, "", "it waited for its client, and gave way");
    send(&mut stream, "GET /peer HTTP/1.1\r\nHost: a\r\n\r\n").await;
    chunks.send("still here");
    assert_eq!(read_to(&mut stream, "here\r\n").await, "A\r\nstill here\r\n");
    drop(chunks);
    assert_eq!(read_to(&mut stream, END).await, END);
    assert_eq!(status(&one_response(&mut stream).await), "200");
}

/// A clock that is moved by hand, in milliseconds.
struct Hand(AtomicUsize);

impl Default for Hand {
    fn default() -> Self {
        Hand(AtomicUsize::new(1))
    }
}

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp::default()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst) as u64)
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

/// A long body passes in large parts while there is room for them, and to a client that takes them quickly.
#[tokio::test]
async fn some_connections_pass_long_bodies_on_in_large_parts_and_the_others_in_small_ones() {
    const MANY: usize = 1 << 20;
    let (clock, origin) = (Arc::new(Hand::default()), Origin::Tcp(([127, 0, 0, 1], 1).into()));
    let room = Room::new(&Limits { max_wide: 1, ..Limits::default() });
    let connection = || {
        let place = room.take(origin, Duration::ZERO).expect("a place");
        Arc::new(Pulse::new(place, clock.clone()))
    };
    let stream = |pulse: &Arc<Pulse>| {
        let streams = Streams::of(Arc::clone(&room), origin, None, clock.clone(), Arc::clone(pulse) as _);
        streams.take().expect("a place")
    };
    let (first, second) = (connection(), connection());
    let (one, other) = (stream(&first), stream(&second));
    assert_eq!((one.part(100), one.part(8192), first.is_wide()), (100, 8192, false), "short ones");
    assert_eq!((one.part(MANY), first.is_wide()), (LARGE_PART, true));
    assert_eq!(
        (other.part(MANY), other.widen(), second.is_wide()),
        (8192, false, false),
        "there is one place"
    );
    clock.0.store(3_000, Ordering::SeqCst);
    assert_eq!((one.part(MANY), one.part(MANY)), (8192, LARGE_PART), "the last part took long");
    // It is wide until its end, for the kernel does not take its promise back.
    drop(one);
    assert_eq!((stream(&first).part(MANY), stream(&second).part(MANY)), (LARGE_PART, 8192));
    drop(first);
    assert_eq!((other.part(MANY), other.part(MANY), second.is_wide()), (8192, LARGE_PART, true));
}

/// A large part comes out of the wide connection's own room, so that it breaks off nobody's stream.
#[tokio::test]
async fn a_large_part_takes_nothing_of_the_budget_that_others_share() {
    let (clock, origin) = (Arc::new(Hand::default()), Origin::Tcp(([127, 0, 0, 1], 1).into()));
    let room = Room::new(&Limits { max_wide: 1, max_held: 0, ..Limits::default() });
    let place = room.take(origin, Duration::ZERO).expect("a place");
    let pulse = Pulse::new(place, clock);
    pulse.stream_began();
    assert!(!pulse.chunk_began(LARGE_PART), "there is no budget");
    assert!(pulse.widen() && pulse.chunk_began(LARGE_PART) && room.held() == 0);
}

/// What a wide connection sends and takes at once, seen from outside.
#[tokio::test]
async fn a_wide_connection_reads_and_writes_large_parts() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let client = tokio::net::TcpStream::connect(listener.local_addr().expect("bound")).await.expect("opens");
    let (accepted, _) = listener.accept().await.expect("accepts");
    rustix::net::sockopt::set_socket_send_buffer_size(&accepted, 8192).expect("a size");
    let mut socket = Tcp::new(accepted).expect("a socket");
    let text = vec![7; 1 << 20];
    assert_eq!(socket.write(&text).await.expect("writes"), 8192);
    socket.widen();
    client.readable().await.expect("readable");
    assert_eq!(client.try_read(&mut [0; 8192]).expect("reads"), 8192);
    assert_eq!(socket.write(&text).await.expect("writes"), LARGE_PART);
}
