//! HTTP/2 over TLS: the same limits, and floods of frames.

use h2::client::SendRequest;
use rustls::version::TLS13;

use super::*;

mod floods;
mod raw;

use raw::Raw;

const HTTP_2: &[&str] = &["h2", "http/1.1"];

fn tls_with(limits: Limits) -> Served {
    tls(&Tls::new(settings(Some(CA))), limits)
}

/// A client of somebody else's.
pub(super) struct Client {
    send: SendRequest<Bytes>,
    /// How its connection ended.
    end: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Client {
    #[expect(clippy::disallowed_methods, reason = "it is no task of the daemon")]
    async fn connect(served: &Served, identity: Option<(&[u8], &[u8])>) -> Self {
        let stream = shake_hands(served, identity, &TLS13, HTTP_2).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (send, connection) = h2::client::handshake(stream).await.expect("a connection");
        Client { send, end: tokio::spawn(connection) }
    }

    /// Sends a head, and returns where a body goes and where the answer comes.
    fn begin(
        &mut self,
        request: http::request::Builder,
        has_body: bool,
    ) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
        let request = request.body(()).expect("a request");
        self.send.send_request(request, !has_body).expect("it is open")
    }

    async fn ask(&mut self, request: http::request::Builder) -> Result<Answer, h2::Error> {
        let (answer, _) = self.begin(request, false);
        whole(answer).await
    }

    async fn post(&mut self, path: &str, body: Vec<u8>) -> Result<Answer, h2::Error> {
        let request = http::Request::post(format!("https://localhost{path}"));
        let (answer, mut send) = self.begin(request, true);
        send.send_data(body.into(), true).expect("it is open");
        whole(answer).await
    }

    /// Waits until the listener ends the connection; the client itself would not.
    async fn ended(self) -> Result<(), h2::Error> {
        let _open = self.send;
        timeout(PATIENCE, self.end).await.expect("it ends in time").expect("no panic")
    }
}

async fn whole(answer: h2::client::ResponseFuture) -> Result<Answer, h2::Error> {
    let read = async {
        let (head, mut body) = answer.await?.into_parts();
        let mut all = Vec::new();
        while let Some(part) = body.data().await {
            let part = part?;
            body.flow_control().release_capacity(part.len())?;
            all.extend_from_slice(&part);
        }
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: all })
    };
    timeout(PATIENCE, read).await.expect("an answer in time")
}

fn get(path: &str) -> http::request::Builder {
    http::Request::get(format!("https://localhost{path}"))
}

async fn reached(served: &Served, count: usize) {
    let wait = async {
        while served.reached() < count {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, wait).await.expect("reached in time");
}

#[tokio::test]
async fn a_client_chooses_http_2_where_it_is_offered() {
    let live = Tls::new(settings(None));
    let served = tls(&live, Limits::default());
    let chosen = |protocols| {
        let served = &served;
        async move {
            let stream = shake_hands(served, None, &TLS13, protocols).await.map_err(|_| ())?;
            Ok::<_, ()>(stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec))
        }
    };
    assert_eq!(chosen(HTTP_2).await, Ok(Some(b"h2".to_vec())));
    assert_eq!(chosen(&["http/1.1"]).await, Ok(Some(b"http/1.1".to_vec())));
    assert_eq!(chosen(&[]).await, Ok(None));
    // The server's order counts.
    assert_eq!(chosen(&["http/1.1", "h2"]).await, Ok(Some(b"h2".to_vec())));
    let accepted = |protocol: &str, count: u32| {
        format!(
            "tokenward_http_connections_accepted_total{{listener=\"test\",protocol=\"{protocol}\"}} {count}"
        )
    };
    served.eventually(&accepted("http1", 2)).await;
    served.eventually(&accepted("http2", 2)).await;
    let clock = Arc::new(SystemClock::new());
    live.replace(tls_settings(SERVER.0, SERVER.1, None, false, clock).expect("settings"));
    assert_eq!(chosen(HTTP_2).await, Ok(Some(b"http/1.1".to_vec())));
    assert_eq!(chosen(&["h2"]).await, Err(()));
}

#[tokio::test]
async fn requests_of_one_connection_are_answered_beside_each_other() {
    let served = tls_with(Limits::default());
    let mut client = Client::connect(&served, Some(CLIENT)).await;
    let (waits, _) = client.begin(get("/wait"), false);
    reached(&served, 1).await;
    for number in 0..200 {
        let answer = client.post("/", format!("{number}").into_bytes()).await.expect("an answer");
        assert_eq!((answer.status, answer.body), (200, format!("{number}").into_bytes()));
    }
    let large = vec![b'x'; 64 * 1024];
    assert_eq!(client.post("/", large.clone()).await.expect("an answer").body, large);
    let answer = client.ask(get("/peer")).await.expect("an answer");
    let peer = String::from_utf8(answer.body).expect("text");
    assert!(peer.contains("tls: true, certificate: Trusted("), "{peer}");
    served.probe.gate.notify_one();
    assert_eq!(whole(waits).await.expect("an answer").body, b"waited");
    let answer = client.ask(get("/large")).await.expect("an answer");
    assert_eq!((answer.status, answer.body.len()), (200, 700 << 10));
    let panicked = client.ask(get("/panic")).await.expect("an answer");
    let text = String::from_utf8(panicked.body).expect("text");
    assert!(panicked.status == 500 && text.contains("\"internal\"") && !text.contains("secret"), "{text}");
    assert_eq!(client.ask(get("/")).await.expect("it goes on").status, 200);
}

#[tokio::test]
async fn every_answer_has_its_headers_and_an_answer_to_head_no_body() {
    let served = tls_with(Limits::default());
    let mut client = Client::connect(&served, None).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let traced = get("/cached").header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"));
    let answer = client.ask(traced).await.expect("an answer");
    assert!(answer.headers["cache-control"] == "max-age=60" && answer.headers["x-request-id"] == trace);
    assert!(!answer.headers.contains_key("server") && answer.headers.contains_key("date"), "{answer:?}");
    let answer = client.ask(http::Request::head("https://localhost/ignore")).await.expect("an answer");
    assert!(answer.status == 200 && answer.headers["content-length"] == "7" && answer.body.is_empty());
    assert!(answer.headers["cache-control"] == "no-store" && answer.headers["x-request-id"].len() == 32);
}

#[tokio::test]
async fn limits_of_head_target_and_body_have_the_same_answers() {
    let served = tls_with(Limits { max_uri: 100, max_body: 100, ..Limits::default() });
    let mut client = Client::connect(&served, None).await;
    let long = |length| "x".repeat(length);
    for (request, status) in [
        (get(&format!("/{}", long(99))), 200),
        (get(&format!("/{}", long(100))), 414),
        (get(&format!("/?{}", "&".repeat(64))), 400),
        (get("/").header("a", long(16_000)), 200),
        (get("/").header("a", long(17_000)), 431),
        ((0..65).fold(get("/"), |request, _| request.header("a", "b")), 431),
        // Nobody reads a head of this length, so nobody writes a document either.
        (get("/").header("a", long(40_000)), 431),
    ] {
        let answer = client.ask(request).await.expect("an answer");
        assert_eq!(answer.status, status, "{answer:?}");
        if answer.headers.contains_key("x-request-id") {
            assert!(status != 431 || String::from_utf8_lossy(&answer.body).contains("16 KiB"), "{answer:?}");
        }
    }
    assert_eq!(client.post("/", vec![b'x'; 100]).await.expect("an answer").status, 200);
    assert_eq!(client.post("/", vec![b'x'; 101]).await.expect("an answer").status, 413);
    let unsaid = http::Request::post("https://localhost/");
    let (answer, mut send) = client.begin(unsaid, true);
    send.send_data(vec![b'x'; 60].into(), false).expect("open");
    send.send_data(vec![b'x'; 60].into(), false).expect("open");
    assert_eq!(whole(answer).await.expect("an answer").status, 413);
    assert_eq!(client.ask(get("/")).await.expect("it goes on").status, 200);
}

/// Each ends its stream or its connection, and reaches no handler.
#[tokio::test]
async fn what_has_two_readings_reaches_no_handler() {
    let served = tls_with(Limits::default());
    let good: [(&[u8], &[u8]); 4] =
        [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/"), (b":authority", b"a")];
    let with = |name: &'static [u8], value: &'static [u8]| [&good[..], &[(name, value)]].concat();
    let less = |without: &[u8]| good.iter().copied().filter(|(name, _)| *name != without).collect::<Vec<_>>();
    let other = |name: &[u8], value: &'static [u8]| {
        good.iter().map(|line| if line.0 == name { (line.0, value) } else { *line }).collect::<Vec<_>>()
    };
    let bad: Vec<Vec<(&[u8], &[u8])>> = vec![
        // Fields of a connection.
        with(b"connection", b"close"),
        with(b"keep-alive", b"1"),
        with(b"proxy-connection", b"keep-alive"),
        with(b"transfer-encoding", b"chunked"),
        with(b"upgrade", b"h2c"),
        with(b"te", b"gzip"),
        // Names and values.
        with(b"Upper", b"a"),
        with(b"a b", b"a"),
        with(b"a:b", b"a"),
        with(b"", b"a"),
        with(b"x", b"a\r\nb: c"),
        with(b"x", b"a\nb"),
        with(b"x", b"a\rb"),
        with(b"x", b"a\0b"),
        with(b"x", b" a"),
        with(b"x", b"a\t"),
        // Pseudo-fields: missing, repeated, unknown, late, an answer's.
        less(b":method"),
        less(b":scheme"),
        less(b":path"),
        less(b":authority"),
        with(b":path", b"/"),
        with(b":method", b"GET"),
        with(b":scheme", b"https"),
        with(b":authority", b"a"),
        with(b":protocol", b"websocket"),
        with(b":unknown", b"a"),
        with(b":status", b"200"),
        [&[(&b"x"[..], &b"y"[..])], &good[..]].concat(),
        // Hosts.
        with(b"host", b"b"),
        [less(b":authority"), vec![(b"host", b"a"), (b"host", b"a")]].concat(),
        other(b":authority", b"user@a"),
        other(b":authority", b"a b"),
        // Targets.
        other(b":path", b""),
        other(b":path", b"*"),
        other(b":path", b"a"),
        other(b":path", b"https://a/"),
        other(b":path", b"/a\\b"),
        other(b":path", b"/a b"),
        other(b":path", b"/\xc3\xbc"),
        other(b":method", b"CONNECT"),
        other(b":method", b"G T"),
        other(b":scheme", b"ftp"),
        vec![(b":method", b"CONNECT"), (b":authority", b"a:443")],
        // Lengths.
        with(b"content-length", b"1"),
        with(b"content-length", b"x"),
        with(b"content-length", b"-1"),
        [with(b"content-length", b"0"), vec![(b"content-length", b"1")]].concat(),
        [with(b"content-length", b"0"), vec![(b"content-length", b"0")]].concat(),
    ];
    for lines in bad {
        let mut raw = Raw::connect(&served).await;
        raw.head(1, raw::END_STREAM, &lines).await;
        let end = raw.end_of_stream(1).await;
        assert!(
            matches!(end, raw::End::Reset(_) | raw::End::GoAway(_) | raw::End::Status(400)),
            "{lines:?}: {end:?}"
        );
    }
    assert_eq!(served.reached(), 0);
    let mut raw = Raw::connect(&served).await;
    raw.head(1, raw::END_STREAM, &good).await;
    assert_eq!(raw.end_of_stream(1).await, raw::End::Status(200));
    // A body and its length.
    for (length, body) in [(&b"2"[..], &b"abc"[..]), (b"3", b"ab")] {
        let mut raw = Raw::connect(&served).await;
        raw.head(1, 0, &[&good[..], &[(b"content-length", length)]].concat()).await;
        raw.frame(raw::DATA, raw::END_STREAM, 1, body).await;
        let end = raw.end_of_stream(1).await;
        assert!(matches!(end, raw::End::Reset(_) | raw::End::Status(400)), "{end:?}");
    }
}

#[tokio::test]
async fn a_body_that_trickles_is_408_and_the_others_go_on() {
    let served = tls_with(short());
    let mut client = Client::connect(&served, None).await;
    for request in
        [http::Request::post("https://a/"), http::Request::post("https://a/").header("content-length", "9")]
    {
        let (answer, mut send) = client.begin(request, true);
        send.send_data("1".into(), false).expect("open");
        let (waits, _) = client.begin(get("/wait"), false);
        assert_eq!(whole(answer).await.expect("an answer").status, 408);
        served.probe.gate.notify_one();
        assert_eq!(whole(waits).await.expect("an answer").status, 200);
    }
}

#[tokio::test]
async fn a_head_that_does_not_end_ends_its_connection() {
    let block = raw::block(&[(b":method", b"GET")]);
    let (head, ping) = (raw::bytes(raw::HEADERS, 0, 1, &block), raw::bytes(raw::PING, 0, 0, &[0; 8]));
    let data = raw::bytes(raw::HEADERS, raw::END_HEADERS, 1, &[]);
    for half in [&head[..], &head[..4], &ping[..12], &data[..8]] {
        // In 60 s it would be idle.
        let served = tls_with(short());
        let mut raw = Raw::connect(&served).await;
        raw.get(1, b"/").await;
        assert_eq!(raw.end_of_stream(1).await, raw::End::Status(200));
        raw.send(half).await;
        raw.closed().await;
        refused(&served, "too_slow", 1).await;
    }
    // Nor need it begin, or the preface end.
    for half in [&b""[..], b"PRI * HTTP/2.0\r\n"] {
        let served = tls_with(short());
        let mut raw = Raw::shake_hands(&served).await;
        raw.send(half).await;
        raw.closed().await;
        refused(&served, "too_slow", 1).await;
    }
    // Settings alone are no request.
    let served = tls_with(short());
    Raw::connect(&served).await.closed().await;
    refused(&served, "too_slow", 1).await;
}

async fn refused(served: &Served, reason: &str, count: usize) {
    let series =
        format!("tokenward_http_connections_refused_total{{listener=\"test\",reason=\"{reason}\"}} {count}");
    served.eventually(&series).await;
}

#[tokio::test]
async fn an_idle_connection_ends_and_pings_do_not_prolong_it() {
    let served = tls_with(Limits { idle: Duration::from_millis(400), ..Limits::default() });
    let mut raw = Raw::connect(&served).await;
    raw.get(1, b"/").await;
    assert_eq!(raw.end_of_stream(1).await, raw::End::Status(200));
    let pings = async {
        while raw.try_send(&raw::bytes(raw::PING, 0, 0, &[0; 8])).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, pings).await.expect("it ends");
    served.eventually("tokenward_http_connections{listener=\"test\"} 0").await;
    for reason in ["too_slow", "flood", "malformed"] {
        refused(&served, reason, 0).await;
    }
}

#[tokio::test]
async fn an_old_connection_finishes_its_requests_and_ends() {
    let served = tls_with(Limits { max_age: Duration::from_millis(200), ..Limits::default() });
    let (mut busy, idle) = (Client::connect(&served, None).await, Client::connect(&served, None).await);
    let (waits, _) = busy.begin(get("/wait"), false);
    idle.ended().await.expect("it ends well");
    served.eventually("tokenward_http_connections{listener=\"test\"} 1").await;
    served.probe.gate.notify_one();
    assert_eq!(whole(waits).await.expect("an answer").status, 200);
    busy.ended().await.expect("it ends well");
    // One that takes no notice is gone a second later.
    let mut deaf = Raw::connect(&served).await;
    deaf.get(1, b"/").await;
    assert_eq!(deaf.end_of_stream(1).await, raw::End::Status(200));
    deaf.closed().await;
}

#[tokio::test]
async fn a_soft_stop_finishes_what_is_in_flight_and_a_hard_stop_does_not() {
    let served = tls_with(Limits::default());
    let (mut busy, idle) = (Client::connect(&served, None).await, Client::connect(&served, None).await);
    let (waits, _) = busy.begin(get("/wait"), false);
    let (body, _send) = busy.begin(http::Request::post("https://a/"), true);
    reached(&served, 2).await;
    served.shutdown.stop();
    idle.ended().await.expect("it ends well");
    served.probe.gate.notify_one();
    assert_eq!(whole(waits).await.expect("an answer").status, 200);
    assert!(busy.send.clone().ready().await.is_err(), "no new request");
    served.shutdown.abort();
    assert!(whole(body).await.is_err());
    timeout(PATIENCE, served.tasks.close_and_wait()).await.expect("every task has ended");
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_any_more_ends_the_connection() {
    let live = Tls::new(settings(Some(CA)));
    let served = tls(&live, Limits::default());
    let mut client = Client::connect(&served, Some(CLIENT)).await;
    let peer = |answer: Answer| String::from_utf8(answer.body).expect("text");
    assert!(peer(client.ask(get("/peer")).await.expect("an answer")).contains("Trusted("));
    live.replace(settings(None));
    let (waits, _) = client.begin(get("/wait"), false);
    assert!(peer(client.ask(get("/peer")).await.expect("an answer")).contains("certificate: Distrusted"));
    served.probe.gate.notify_one();
    assert_eq!(whole(waits).await.expect("what was under way ends").status, 200);
    client.ended().await.expect("it ends well");
}

#[tokio::test]
async fn where_it_is_full_the_connection_that_waited_longest_gives_way() {
    let served = tls_with(Limits { max_connections: 3, ..Limits::default() });
    let mut idle = Client::connect(&served, None).await;
    assert_eq!(idle.ask(get("/")).await.expect("an answer").status, 200);
    let mut stalled = Client::connect(&served, None).await;
    let (body, mut send) = stalled.begin(http::Request::post("https://a/"), true);
    send.send_data(vec![b'x'; 20_000].into(), false).expect("open");
    reached(&served, 2).await;
    let mut busy = Client::connect(&served, None).await;
    let (waits, _) = busy.begin(get("/wait"), false);
    reached(&served, 3).await;
    // The idle one goes for the first newcomer, the stalled one for the second.
    let mut newcomers = Vec::new();
    for number in 1..=2 {
        let mut newcomer = Client::connect(&served, None).await;
        assert_eq!(newcomer.ask(get("/")).await.expect("an answer").status, 200);
        newcomers.push(newcomer);
        refused(&served, "gave_way", number).await;
        served.eventually("tokenward_http_connections{listener=\"test\"} 3").await;
    }
    idle.ended().await.expect("it was told");
    let answer = whole(body).await.expect("an answer");
    assert!(answer.status == 503 && !answer.body.is_empty());
    served.probe.gate.notify_one();
    assert_eq!(whole(waits).await.expect("it was never cut").status, 200);
    drop(newcomers);
}

#[tokio::test]
async fn a_stream_goes_on_beside_other_requests_and_ends_with_the_stop() {
    let served = tls_with(Limits::default());
    let mut client = Client::connect(&served, None).await;
    let (answer, _) = client.begin(get("/stream"), false);
    let mut body = timeout(PATIENCE, answer).await.expect("in time").expect("an answer").into_body();
    let chunks = served.probe.streams.lock().pop().expect("a stream");
    for text in ["first", "second"] {
        chunks.send(text);
        let part = timeout(PATIENCE, body.data()).await.expect("in time").expect("a part").expect("open");
        assert_eq!(part, text);
        assert_eq!(client.ask(get("/")).await.expect("an answer").status, 200);
    }
    served.shutdown.stop();
    let end = timeout(PATIENCE, body.data()).await.expect("in time");
    // (The last part is empty.)
    assert!(end.is_none_or(|last| last.is_ok_and(|last| last.is_empty())), "no good end");
    chunks.dropped().await;
    client.ended().await.expect("it ends well");
}
