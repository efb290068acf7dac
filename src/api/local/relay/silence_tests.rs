//! Time limits of a relayed request: by silence, and not by length. Real sockets, and a clock that stands
//! still until a test moves it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Request as HttpRequest;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::answer::{Along, Answer};
use super::body::Sent;
use super::pace::{FREE, Pace};
use super::{SILENCE, no_answer};
use crate::broker::Turns;
use crate::domain::task::{BoxFuture, Tasks};
use crate::domain::time::Clock;
use crate::lifecycle::Shutdown;
use crate::listener::{
    Address, AnswerBody, Bound, Handler, ListenerConfig, LocalAddress, Request, Response, Surroundings,
};
use crate::outbound::{Leads, Outbound, Resource, Roots, Settings, Silence};
use crate::relay::Links;
use crate::span::Tracer;
use crate::system::{SystemRandom, TokioTasks};
use crate::telemetry::metrics::Metrics;
use crate::testkit::hand_clock::HandClock;

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the next bytes of a request may take.
const NEXT_BYTES: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);
/// Longer than a connection is kept, were these limits of length.
const PARTS: usize = 40;

/// Relays every request to one address, as the API does what it may.
struct Through {
    to: Resource,
    url: String,
    clock: HandClock,
    /// Others wait for the exchange's turn.
    is_wanted: Arc<AtomicBool>,
    /// The answer's parts are taken one by one, with so much time between them. The caller is told how many
    /// bytes they were, and whether they were all.
    pause: Option<Duration>,
    /// The caller takes the first part of the answer, and then nothing.
    stalls: Arc<AtomicBool>,
    /// The request is sent once more.
    begins_again: Arc<Notify>,
}

impl Handler for Through {
    fn handle<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        Box::pin(async move {
            let silence = Arc::new(Silence::new(SILENCE, Arc::new(self.clock.clone())));
            let (body, gives_way) = request.body.into_stream();
            let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
            let wanted = Arc::clone(&self.is_wanted);
            let pace = Arc::new(Pace::new(Arc::clone(&clock), move || wanted.load(Ordering::Relaxed)));
            let sent = Sent::new(body, Arc::clone(&silence), Arc::clone(&pace));
            let attempt = || {
                let mut out = HttpRequest::new(sent.attempt());
                *out.method_mut() = request.method.clone();
                *out.uri_mut() = self.url.parse().expect("a URL");
                self.to.send(out, &silence)
            };
            let answer = {
                let mut first = Box::pin(attempt());
                let answer = tokio::select! {
                    answer = &mut first => answer,
                    () = self.begins_again.notified() => {
                        // (The first goes on beside the next one, as one does whose answer came early.)
                        match sent.begin_again() {
                            true => tokio::join!(first, attempt()).1,
                            false => first.await,
                        }
                    }
                };
                answer
            };
            match answer {
                Ok(answer) => {
                    let place = request.streams.take().expect("a place");
                    let links = Arc::new(Links::new(Vec::new(), "http://here/".to_owned()));
                    let tasks: Option<Arc<dyn Tasks>> = Some(Arc::new(TokioTasks::new()));
                    let along = Along { clock, silence, pace, batch: None, turns: Turns::default(), tasks };
                    let answer = Answer::new(answer, along, sent.clone(), gives_way);
                    let response = match answer.response(place, false, (links, String::new())).await {
                        Ok(response) => response,
                        Err((problem, _)) => return problem.response("an-id"),
                    };
                    if self.stalls.load(Ordering::Relaxed) {
                        let mut body = response.into_body();
                        body.frame().await.expect("a part").expect("it came");
                        self.stalls.store(false, Ordering::Relaxed);
                        return std::future::pending().await;
                    }
                    match self.pause {
                        Some(pause) => self.taken_slowly(response, pause).await,
                        None => response,
                    }
                }
                Err(fault) => no_answer(&sent, &fault).0.response("an-id"),
            }
        })
    }
}

impl Through {
    async fn taken_slowly(&self, response: Response, pause: Duration) -> Response {
        let (mut body, mut taken) = (response.into_body(), 0);
        let is_whole = loop {
            match body.frame().await {
                None => break true,
                Some(Err(_)) => break false,
                Some(Ok(frame)) => taken += frame.into_data().expect("data").len(),
            }
            self.clock.pass(pause);
        };
        Response::new(AnswerBody::whole(format!("{taken} {is_whole}")))
    }
}

/// A relay between a caller and a resource, both of which are the test's sockets.
struct Relay {
    clock: HandClock,
    is_wanted: Arc<AtomicBool>,
    stalls: Arc<AtomicBool>,
    begins_again: Arc<Notify>,
    address: SocketAddr,
    resource: TcpListener,
}

impl Relay {
    async fn start() -> Self {
        Relay::start_with(None).await
    }

    async fn start_with(pause: Option<Duration>) -> Self {
        let clock = HandClock::at(Duration::from_secs(1000));
        let resource = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/", resource.local_addr().expect("an address"));
        let settings = Settings {
            leads: Leads::Anywhere,
            host: "127.0.0.1".to_owned(),
            roots: Roots::System,
            outbound: Arc::new(Outbound::default()),
        };
        let to = Resource::new(settings, Arc::new(clock.clone()));
        let is_wanted = Arc::new(AtomicBool::new(false));
        let stalls = Arc::new(AtomicBool::new(false));
        let begins_again = Arc::new(Notify::new());
        let handler = Arc::new(Through {
            to,
            url,
            clock: clock.clone(),
            is_wanted: Arc::clone(&is_wanted),
            pause,
            stalls: Arc::clone(&stalls),
            begins_again: Arc::clone(&begins_again),
        });
        let anywhere = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
        let bound = Bound::bind(ListenerConfig::new("test", anywhere)).expect("bound");
        let LocalAddress::Tcp(address) = bound.local_address().clone() else { panic!("not TCP") };
        let surroundings = Surroundings {
            tasks: Arc::new(TokioTasks::new()) as Arc<dyn Tasks>,
            clock: Arc::new(clock.clone()),
            random: Arc::new(SystemRandom::new()),
            shutdown: Shutdown::new(),
            metrics: Arc::new(Metrics::new("test")),
            tracer: Tracer::off(),
        };
        bound.serve(handler, surroundings);
        Relay { clock, is_wanted, stalls, begins_again, address, resource }
    }

    /// A caller that has sent this.
    async fn caller(&self, text: &str) -> TcpStream {
        let mut caller = TcpStream::connect(self.address).await.expect("connected");
        send(&mut caller, text).await;
        caller
    }

    /// The resource's end of the next exchange, of which this much has come.
    async fn asked(&self, until: &str) -> TcpStream {
        let accepted = timeout(PATIENCE, self.resource.accept()).await.expect("in time");
        let mut stream = accepted.expect("a connection").0;
        read_to(&mut stream, until).await;
        stream
    }

    /// A caller and the resource, half a minute into a body of which one part has come.
    async fn uploads_slowly(&self) -> (TcpStream, TcpStream) {
        let mut caller = self.caller("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n").await;
        let mut resource = self.asked("\r\n\r\n").await;
        self.clock.pass(NEXT_BYTES - SECOND);
        send(&mut caller, "part").await;
        read_to(&mut resource, "part").await;
        (caller, resource)
    }

    /// Lets silences pass until the other side has ended the connection, and returns what it had sent.
    async fn until_closed(&self, stream: &mut TcpStream, silence: Duration) -> String {
        let mut all = Vec::new();
        for _ in 0..3 {
            self.clock.pass(silence);
            if timeout(SECOND * 5, stream.read_to_end(&mut all)).await.is_ok() {
                return String::from_utf8(all).expect("text");
            }
        }
        panic!("it goes on after three silences: {}", String::from_utf8_lossy(&all));
    }
}

async fn send(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.expect("sent");
}

/// Reads until what came ends so.
async fn read_to(stream: &mut TcpStream, end: &str) -> String {
    let read = async {
        let mut bytes = Vec::new();
        while !bytes.ends_with(end.as_bytes()) {
            let byte = stream.read_u8().await;
            let so_far = String::from_utf8_lossy(&bytes);
            bytes.push(byte.unwrap_or_else(|error| panic!("{error} after {so_far:?}")));
        }
        String::from_utf8(bytes).expect("text")
    };
    timeout(PATIENCE, read).await.unwrap_or_else(|_| panic!("no {end:?} came"))
}

/// Waits until the other side is gone. (A reset says so as well as an end.)
async fn gone(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it goes away");
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const END: &str = "0\r\n\r\n";

#[tokio::test]
async fn an_answer_that_moves_has_no_limit_of_time() {
    let relay = Relay::start().await;
    let mut caller = relay.caller(GET).await;
    let mut resource = relay.asked("\r\n\r\n").await;
    // The resource may think for as long as it may be silent.
    relay.clock.pass(SILENCE - SECOND);
    send(&mut resource, CHUNKED).await;
    read_to(&mut caller, "\r\n\r\n").await;
    for _ in 0..PARTS {
        relay.clock.pass(SILENCE - SECOND);
        send(&mut resource, "4\r\npart\r\n").await;
        assert_eq!(read_to(&mut caller, "part\r\n").await, "4\r\npart\r\n");
    }
    relay.clock.pass(SILENCE - SECOND);
    send(&mut resource, END).await;
    assert_eq!(read_to(&mut caller, END).await, END);
}

#[tokio::test]
async fn a_request_that_moves_has_no_limit_of_time() {
    let relay = Relay::start().await;
    let head = format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 4 * PARTS);
    let mut caller = relay.caller(&head).await;
    let mut resource = relay.asked("\r\n\r\n").await;
    for _ in 0..PARTS {
        relay.clock.pass(NEXT_BYTES - SECOND);
        send(&mut caller, "part").await;
        assert_eq!(read_to(&mut resource, "part").await, "part");
    }
    relay.clock.pass(SILENCE - SECOND);
    send(&mut resource, "HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok").await;
    assert!(read_to(&mut caller, "\r\n\r\nok").await.starts_with("HTTP/1.1 201"));
}

#[tokio::test]
async fn a_resource_that_says_nothing_is_a_504() {
    let relay = Relay::start().await;
    let mut caller = relay.caller("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let mut resource = relay.asked("\r\n\r\n").await;
    let answer = relay.until_closed(&mut caller, SILENCE + SECOND).await;
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    assert!(answer.contains("relay_failed") && answer.contains("said nothing for 100 s"), "{answer}");
    gone(&mut resource).await;
}

/// A short answer is awaited, so that its caller can be told that it did not come.
#[tokio::test]
async fn a_short_answer_that_does_not_come_is_a_502_or_a_504() {
    let relay = Relay::start().await;
    let closing = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let short = "HTTP/1.1 200 OK\r\nContent-Length: 8192\r\n\r\n";
    let mut caller = relay.caller(closing).await;
    let mut resource = relay.asked("\r\n\r\n").await;
    send(&mut resource, short).await;
    drop(resource);
    let answer = read_to(&mut caller, "}").await;
    assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("relay_failed"), "{answer}");

    // (The resource may think for as long before its head as after it.)
    let mut caller = relay.caller(closing).await;
    let mut resource = relay.asked("\r\n\r\n").await;
    relay.clock.pass(SILENCE - SECOND);
    send(&mut resource, short).await;
    let answer = relay.until_closed(&mut caller, SILENCE + SECOND).await;
    assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("relay_failed"), "{answer}");

    // What has begun goes on as any other.
    let mut caller = relay.caller(GET).await;
    let mut resource = relay.asked("\r\n\r\n").await;
    send(&mut resource, &format!("{short}part")).await;
    let begun = read_to(&mut caller, "part").await;
    assert!(begun.starts_with("HTTP/1.1 200"), "{begun}");
    drop(resource);
    gone(&mut caller).await;
}

#[tokio::test]
async fn an_answer_that_falls_silent_breaks_off_and_does_not_look_whole() {
    let relay = Relay::start().await;
    let mut caller = relay.caller(GET).await;
    let mut resource = relay.asked("\r\n\r\n").await;
    send(&mut resource, CHUNKED).await;
    send(&mut resource, "4\r\npart\r\n").await;
    read_to(&mut caller, "part\r\n").await;
    let rest = relay.until_closed(&mut caller, SILENCE + SECOND).await;
    assert_eq!(rest, "");
    gone(&mut resource).await;
}

#[tokio::test]
async fn a_request_that_falls_silent_is_refused_and_broken_off_at_the_resource() {
    let relay = Relay::start().await;
    let mut caller = relay.caller("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf").await;
    let mut resource = relay.asked("\r\n\r\nhalf").await;
    let answer = relay.until_closed(&mut caller, NEXT_BYTES + SECOND).await;
    // (As everywhere in the API.)
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("body: did not arrive in time"), "{answer}");
    gone(&mut resource).await;
}

/// A caller that takes nothing of what it was sent holds up its resource for as long as any answer may wait.
#[tokio::test]
async fn a_caller_that_takes_nothing_is_given_up() {
    let relay = Relay::start().await;
    let _caller = relay.caller(GET).await;
    let mut resource = relay.asked("\r\n\r\n").await;
    send(&mut resource, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
    let part = vec![b'x'; 64 * 1024];
    // Nobody takes more than there is room for on the way.
    let mut sent = 0;
    while let Ok(written) = timeout(SECOND, resource.write(&part)).await {
        sent += written.expect("nobody has given up");
        assert!(sent < 100_000_000, "it is kept somewhere");
    }
    for _ in 0..3 {
        relay.clock.pass(Duration::from_secs(11));
        let write = async { while resource.write_all(&part).await.is_ok() {} };
        if timeout(SECOND * 5, write).await.is_ok() {
            return;
        }
    }
    panic!("it goes on");
}

/// How many bytes of an answer of a mebibyte come to a caller that takes them so slowly, and whether all do.
async fn taken(pause: Duration, is_wanted: bool) -> String {
    let relay = Relay::start_with(Some(pause)).await;
    relay.is_wanted.store(is_wanted, Ordering::Relaxed);
    let mut caller = relay.caller("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let mut resource = relay.asked("\r\n\r\n").await;
    let mut answer = String::new();
    let sends = async {
        send(&mut resource, "HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n").await;
        // (It may be broken off.)
        let _ = resource.write_all(&vec![b'x'; 1024 * 1024]).await;
        std::future::pending::<()>().await;
    };
    let reads = async {
        let read = timeout(PATIENCE, caller.read_to_string(&mut answer)).await;
        read.expect("in time").expect("text");
    };
    tokio::select! {
        () = reads => {}
        () = sends => unreachable!("it waits for the caller's end"),
    }
    answer.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn an_answer_that_is_taken_slowly_is_taken_back_if_others_wait() {
    // Eight KiB at a time, each after a second: an eighth of what buys that second. Who waits for nothing has
    // all the time there is.
    assert_eq!(taken(SECOND, false).await, "1048576 true");
    let taken_back = taken(SECOND, true).await;
    let (bytes, is_whole) = taken_back.split_once(' ').expect("two words");
    let bytes: u64 = bytes.parse().expect("a number");
    assert_eq!(is_whole, "false", "{bytes}");
    // (As many parts as seconds. They are of eight KiB at most.)
    assert!((FREE.as_secs()..300_000).contains(&bytes), "{bytes}");
    // Who is as fast as that has all of it, though others wait.
    assert_eq!(taken(SECOND / 16, true).await, "1048576 true");
}

#[tokio::test]
async fn a_request_that_comes_slowly_is_broken_off_if_others_wait() {
    let relay = Relay::start().await;
    relay.is_wanted.store(true, Ordering::Relaxed);
    let (mut caller, mut resource) = relay.uploads_slowly().await;
    relay.clock.pass(NEXT_BYTES - SECOND);
    send(&mut caller, "part").await;
    let answer = read_to(&mut caller, "\r\n\r\n").await;
    // (Nothing can be read behind it.)
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("connection: close"), "{answer}");
    gone(&mut resource).await;
}

/// Nothing moves: time alone ends it, while others wait and no sooner.
#[tokio::test]
async fn a_caller_that_stalls_has_thirty_seconds_and_no_more_if_others_wait() {
    let relay = Relay::start().await;
    relay.stalls.store(true, Ordering::Relaxed);
    let _caller = relay.caller(GET).await;
    let mut resource = relay.asked("\r\n\r\n").await;
    send(&mut resource, CHUNKED).await;
    send(&mut resource, "4\r\npart\r\n").await;
    while relay.stalls.load(Ordering::Relaxed) {
        tokio::task::yield_now().await;
    }
    relay.clock.pass(FREE + SECOND);
    // Nobody waits.
    assert!(timeout(SECOND / 10, resource.read_u8()).await.is_err(), "it goes on");
    relay.is_wanted.store(true, Ordering::Relaxed);
    relay.clock.pass(SECOND * 2);
    gone(&mut resource).await;
}

/// The resource waits for a body before it ends its answer: the body's fault is its caller's.
#[tokio::test]
async fn a_body_that_breaks_off_while_a_short_answer_is_awaited_is_its_callers_fault() {
    let relay = Relay::start().await;
    let mut caller = relay.caller("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut resource = relay.asked("\r\n\r\n").await;
    send(&mut resource, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n").await;
    send(&mut caller, "no length\r\n").await;
    let answer = read_to(&mut caller, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    gone(&mut resource).await;
}

/// The other way round: a body of which the next bytes do not come.
#[tokio::test]
async fn a_body_that_stalls_has_thirty_seconds_in_all_if_others_wait() {
    let relay = Relay::start().await;
    relay.is_wanted.store(true, Ordering::Relaxed);
    let (mut caller, mut resource) = relay.uploads_slowly().await;
    // The next bytes have half a minute, but others do not wait for that.
    relay.clock.pass(SECOND * 2);
    let answer = read_to(&mut caller, "\r\n\r\n").await;
    // (Nothing can be read behind it.)
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("connection: close"), "{answer}");
    gone(&mut resource).await;
}

/// Each part takes memory beside its bytes.
#[tokio::test]
async fn a_body_in_very_many_parts_is_not_kept() {
    let relay = Relay::start().await;
    let head = "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (parts, is_kept) in [(1024, true), (1025, false)] {
        let mut caller = relay.caller(head).await;
        let mut resource = relay.asked("\r\n\r\n").await;
        for _ in 0..parts {
            send(&mut caller, "1\r\nx\r\n").await;
            read_to(&mut resource, "x\r\n").await;
        }
        relay.begins_again.notify_one();
        if is_kept {
            gone(&mut resource).await;
            resource = relay.asked(&"1\r\nx\r\n".repeat(parts)).await;
        }
        send(&mut caller, END).await;
        read_to(&mut resource, END).await;
        send(&mut resource, "HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok").await;
        assert!(read_to(&mut caller, "\r\n\r\nok").await.starts_with("HTTP/1.1 201"), "{parts}");
    }
}

/// A resource that refuses before all of the body has come: the attempt waits for bytes that are the next
/// one's.
#[tokio::test]
async fn an_attempt_that_is_superseded_does_not_sleep() {
    let relay = Relay::start().await;
    let mut caller = relay.caller("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nhalf").await;
    let mut first = relay.asked("half").await;
    relay.begins_again.notify_one();
    // Its connection ends, and the next one gets all of the body.
    gone(&mut first).await;
    let mut second = relay.asked("half").await;
    send(&mut caller, "rest").await;
    read_to(&mut second, "rest").await;
    send(&mut second, "HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok").await;
    assert!(read_to(&mut caller, "\r\n\r\nok").await.starts_with("HTTP/1.1 201"));
}
