//! Time limits of a relayed request: by silence, and not by length. Real sockets, and a clock that stands
//! still until a test moves it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request as HttpRequest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::answer::Answer;
use super::body::Sent;
use super::{SILENCE, unanswered};
use crate::domain::task::{BoxFuture, Tasks};
use crate::domain::time::{Clock, Timestamp};
use crate::lifecycle::Shutdown;
use crate::listener::{
    Address, Bound, Handler, ListenerConfig, LocalAddress, Request, Response, Surroundings,
};
use crate::outbound::{Outbound, Resource, Roots, Settings, Silence};
use crate::relay::Links;
use crate::span::Tracer;
use crate::system::{SystemRandom, TokioTasks};
use crate::telemetry::metrics::Metrics;

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the next bytes of a request may take.
const NEXT_BYTES: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);
/// Longer than a connection is kept, were these limits of length.
const PARTS: usize = 40;

/// Stands still until the test moves it.
#[derive(Clone)]
struct HandClock(watch::Sender<Duration>);

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_seconds(1_800_000_000).plus(self.monotonic())
    }

    fn monotonic(&self) -> Duration {
        *self.0.borrow()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let (until, mut now) = (self.monotonic() + duration, self.0.subscribe());
        Box::pin(async move {
            let _ = now.wait_for(|now| *now >= until).await;
        })
    }
}

impl HandClock {
    fn pass(&self, time: Duration) {
        self.0.send_modify(|now| *now += time);
    }
}

/// Relays every request to one address, as the API does what it may.
struct Through {
    to: Resource,
    url: String,
    clock: HandClock,
}

impl Handler for Through {
    fn handle<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        Box::pin(async move {
            let silence = Arc::new(Silence::new(SILENCE, Arc::new(self.clock.clone())));
            let (body, _gives_way) = request.body.into_stream();
            let sent = Sent::new(body, Arc::clone(&silence));
            let mut out = HttpRequest::new(sent.attempt());
            *out.method_mut() = request.method;
            *out.uri_mut() = self.url.parse().expect("a URL");
            match self.to.send(out, &silence).await {
                Ok(answer) => {
                    let place = request.streams.take().expect("a place");
                    let links = Arc::new(Links::new(Vec::new(), "http://here/".to_owned()));
                    Answer::new(answer, silence, None, Vec::new()).response(place, false, links)
                }
                Err(fault) => unanswered(&sent, &fault).response("an-id"),
            }
        })
    }
}

/// A relay between a caller and a resource, both of which are the test's sockets.
struct Relay {
    clock: HandClock,
    address: SocketAddr,
    resource: TcpListener,
}

impl Relay {
    async fn start() -> Self {
        let clock = HandClock(watch::Sender::new(Duration::from_secs(1000)));
        let resource = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/", resource.local_addr().expect("an address"));
        let settings = Settings {
            host: "127.0.0.1".to_owned(),
            roots: Roots::System,
            outbound: Arc::new(Outbound::default()),
        };
        let to = Resource::new(settings, Arc::new(clock.clone()));
        let handler = Arc::new(Through { to, url, clock: clock.clone() });
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
        Relay { clock, address, resource }
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
