//! Floods of frames: each ends its own connection, is bounded, is counted, and is nobody else's matter.

use super::raw::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, bytes, code, request,
};
use super::*;

const ENHANCE_YOUR_CALM: u32 = 11;

/// A listener with a room of a known size.
fn measured(limits: Limits) -> (Served, Arc<Room>) {
    let room = Room::new(&limits);
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = ListenerConfig::new("test", Address::Tcp(anywhere));
    let tls = Some(Tls::new(settings(None)));
    (serve(ListenerConfig { tls, limits, room: Some(Arc::clone(&room)), ..config }), room)
}

/// Panics unless a flood ends its connection, is counted, has few requests answered, leaves nothing behind,
/// and a neighbour is answered during and after it.
async fn ends(name: &str, next: impl FnMut(u32) -> Vec<u8>, most_reached: usize) {
    let (served, room) = measured(Limits::default());
    let mut neighbour = Client::connect(&served, None).await;
    assert_eq!(neighbour.ask(get("/")).await.expect("an answer").status, 200);
    let raw = Raw::connect(&served).await;
    let ((frames, sent), meanwhile) =
        tokio::join!(raw.flood(next), async { neighbour.ask(get("/")).await.expect("an answer").status });
    assert_eq!(meanwhile, 200, "{name}");
    let goaway = frames.iter().rev().find(|frame| frame.kind == GOAWAY).map(code);
    // (A reset of the socket can overtake it.)
    assert!(goaway.is_none_or(|code| code == ENHANCE_YOUR_CALM), "{name}: {goaway:?} after {sent}");
    refused(&served, "flood", 1).await;
    served.eventually("tokenward_http_connections{listener=\"test\"} 1").await;
    assert!(served.reached() <= most_reached + 2, "{name}: {} reached the handler", served.reached());
    assert_eq!(room.held(), 0, "{name}");
    assert_eq!(neighbour.ask(get("/")).await.expect("an answer").status, 200, "{name}");
}

#[tokio::test]
async fn requests_that_are_taken_back_at_once_end_their_connection() {
    // CVE-2023-44487.
    let rapid = |number: u32| {
        let stream = 2 * number + 1;
        let head = bytes(HEADERS, END_HEADERS | END_STREAM, stream, &request(b"GET", b"/wait"));
        [head, bytes(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    };
    ends("rapid reset", rapid, 160).await;
}

#[tokio::test]
async fn a_client_that_makes_us_take_its_requests_back_ends_its_connection() {
    let get =
        |number: u32, path| bytes(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &request(b"GET", path));
    // CVE-2025-8671: a window that is too large is an error of the stream, which the server resets.
    let large = [0x7f, 0xff, 0xff, 0xff];
    let made = |number| [get(number, b"/wait"), bytes(WINDOW_UPDATE, 0, 2 * number + 1, &large)].concat();
    ends("made you reset", made, 160).await;
    ends("more at once than allowed", |number| get(number, b"/wait"), 64).await;
    let malformed = |number| {
        let block = raw::block(&[(b":method", b"GET"), (b"connection", b"close")]);
        bytes(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &block)
    };
    ends("malformed", malformed, 0).await;
}

#[tokio::test]
async fn frames_that_bring_no_request_end_their_connection() {
    for (name, kind, stream, payload) in [
        ("settings", SETTINGS, 0, &[][..]),
        ("changes of the window", SETTINGS, 0, &[0, 4, 0, 0, 1, 0]),
        ("pings", PING, 0, &[0; 8]),
        ("priorities", PRIORITY, 1, &[0, 0, 0, 3, 1]),
        ("windows", WINDOW_UPDATE, 0, &[0, 0, 0, 1]),
        ("unknown frames", 99, 0, &[0; 4]),
    ] {
        let frame = bytes(kind, 0, stream, payload);
        ends(name, |_| frame.clone(), 0).await;
    }
}

#[tokio::test]
async fn parts_of_a_body_that_bring_little_end_their_connection() {
    for (name, part) in [("empty", &b""[..]), ("of one byte", b"x")] {
        let next = |number: u32| match number {
            0 => bytes(HEADERS, END_HEADERS, 1, &request(b"POST", b"/wait")),
            _ => bytes(DATA, 0, 1, part),
        };
        ends(name, next, 1).await;
    }
}

#[tokio::test]
async fn a_head_without_end_ends_its_connection() {
    let next = |number: u32| match number {
        0 => bytes(HEADERS, END_STREAM, 1, &request(b"GET", b"/")),
        _ => bytes(CONTINUATION, 0, 1, &raw::block(&[(b"x", b"y")])),
    };
    ends("continuations", next, 0).await;
}

/// A table's entry of 3.9 KB that one byte repeats: 10 KB stand for 23 MB.
#[tokio::test]
async fn a_head_that_unfolds_to_many_times_its_size_is_refused() {
    let (served, room) = measured(Limits::default());
    let mut raw = Raw::connect(&served).await;
    let mut block = request(b"GET", b"/");
    // A literal that the table keeps, and its first entry again and again.
    block.extend_from_slice(&[0x40, 1, b'x']);
    raw::length(&mut block, 3900);
    block.extend_from_slice(&[b'a'; 3900]);
    block.extend(std::iter::repeat_n(0xbe, 6000));
    raw.frame(HEADERS, END_HEADERS | END_STREAM, 1, &block).await;
    let end = raw.end_of_stream(1).await;
    assert_eq!(end, raw::End::GoAway(ENHANCE_YOUR_CALM));
    refused(&served, "flood", 1).await;
    assert_eq!((served.reached(), room.held()), (0, 0));
}

/// A window of 0 for every stream: what was answered waits, and counts.
#[tokio::test]
async fn answers_that_nobody_takes_are_counted_and_end_their_connection() {
    let limits = Limits { answer_taken: Duration::from_millis(400), ..Limits::default() };
    let (served, room) = measured(limits);
    let mut raw = Raw::with_settings(&served, &[(4, 0)]).await;
    for number in 0..3 {
        raw.get(2 * number + 1, b"/large").await;
    }
    let held = async {
        while room.held() < 690 << 10 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, held).await.expect("it counts");
    raw.closed().await;
    refused(&served, "too_slow", 1).await;
    assert_eq!(served.reached(), 1, "while so much waits no further request begins");
    served.eventually("tokenward_http_connections{listener=\"test\"} 0").await;
    assert_eq!(room.held(), 0);
}

#[tokio::test]
async fn a_window_that_opens_byte_by_byte_has_the_same_deadline() {
    let limits = Limits { answer_taken: Duration::from_millis(400), ..Limits::default() };
    let (served, room) = measured(limits);
    let mut raw = Raw::with_settings(&served, &[(4, 0)]).await;
    raw.get(1, b"/large").await;
    let update = bytes(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes());
    raw.send(&update).await;
    let drip = async {
        while let Some(frame) = raw.next().await {
            if frame.kind == DATA && raw.try_send(&update).await.is_err() {
                return;
            }
        }
    };
    timeout(PATIENCE, drip).await.expect("it ends");
    served.eventually("tokenward_http_connections{listener=\"test\"} 0").await;
    assert_eq!(room.held(), 0);
    let reasons = ["too_slow", "flood"].map(|reason| {
        let series = "tokenward_http_connections_refused_total{listener=\"test\",reason=";
        served.shows(&format!("{series}\"{reason}\"}} 1"))
    });
    assert!(reasons.contains(&true), "whichever comes first");
}

/// A client that reads nothing and goes on to ask.
#[tokio::test]
async fn a_client_that_never_reads_is_closed() {
    let limits = Limits { answer_taken: Duration::from_millis(400), ..Limits::default() };
    let (served, room) = measured(limits);
    for path in [&b"/"[..], b"/large"] {
        let raw = Raw::connect(&served).await;
        let write = raw.only_writes(|number| {
            bytes(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &request(b"GET", path))
        });
        timeout(PATIENCE, write).await.expect("it ends");
        served.eventually("tokenward_http_connections{listener=\"test\"} 0").await;
        assert_eq!(room.held(), 0);
    }
}

/// What one connection has us keep of bodies is limited, however many streams it has.
#[tokio::test]
async fn bodies_of_one_connection_share_one_limit_and_it_goes_on() {
    let (served, room) = measured(Limits { body_read: Duration::from_secs(600), ..Limits::default() });
    let mut client = Client::connect(&served, None).await;
    let mut stalled = Vec::new();
    let refused = loop {
        let request = http::Request::post("https://a/").header("content-length", 30_000);
        let (answer, mut send) = client.begin(request, true);
        send.send_data(vec![b'x'; 20_000].into(), false).expect("open");
        let (mut answer, before) = (Box::pin(whole(answer)), room.held());
        let kept = async {
            while room.held() < before + 30_000 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            refused = &mut answer => break refused,
            () = kept => {}
        }
        stalled.push((answer, send));
        assert!(stalled.len() < 60, "nothing is refused");
    };
    assert_eq!(refused.expect("an answer").status, 503);
    // Each keeps 32 KiB.
    assert!(room.held() <= 320 << 10 && stalled.len() >= 4, "{} for {}", room.held(), stalled.len());
    let (first, mut send) = stalled.remove(0);
    send.send_data(vec![b'x'; 10_000].into(), true).expect("open");
    assert_eq!(first.await.expect("an answer").body.len(), 30_000);
    assert_eq!(client.ask(get("/")).await.expect("an answer").status, 200);
    // Those that are taken back count no more.
    drop(stalled);
    let given_back = async {
        while room.held() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, given_back).await.expect("given back in time");
    client.end.abort();
    served.eventually("tokenward_http_connections{listener=\"test\"} 0").await;
}
