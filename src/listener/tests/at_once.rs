//! Requests that are answered beside hyper: the answers are the same, in their order, and end with the
//! connection like others.

use super::*;
use crate::domain::time::{Moment, Timestamp};
use crate::testkit::SeededRandom;

const PLAIN: &str = "GET /at-once HTTP/1.1\r\nHost: a\r\n\r\n";
/// Its record is written once the gate opens.
const WAITS: &str = "GET /at-once/wait HTTP/1.1\r\nHost: a\r\n\r\n";

const NOW: Moment = Moment { monotonic: Duration::ZERO, now: Timestamp::from_unix_seconds(0) };

/// What the probe answers at once.
pub(super) fn answer(probe: &Arc<Gate>, path: &str) -> Option<AtOnce> {
    let of = |may_leave| AtOnce {
        head: [&AtOnce::head()[..], b"content-type: text/plain\r\n"].concat(),
        body: b"at once".to_vec(),
        may_leave,
    };
    match path {
        "/at-once" => Some(of(Box::pin(std::future::ready(Ok(NOW))))),
        "/at-once/wait" => {
            let gate = Arc::clone(probe);
            Some(of(Box::pin(async move {
                gate.waiting.fetch_add(1, Ordering::SeqCst);
                gate.opens.notified().await;
                Ok(NOW)
            })))
        }
        "/at-once/refused" => {
            let refusal = response(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "refused");
            Some(of(Box::pin(std::future::ready(Err(refusal)))))
        }
        "/at-once/panic" => Some(of(Box::pin(async { panic!("secret") }))),
        "/at-once/large" => {
            Some(AtOnce { body: vec![b'x'; 700 << 10], ..of(Box::pin(std::future::ready(Ok(NOW)))) })
        }
        "/panic" => panic!("secret"),
        _ => None,
    }
}

/// Opens for the answers that wait.
#[derive(Default)]
pub(super) struct Gate {
    opens: Notify,
    /// How many have begun to wait.
    waiting: AtomicUsize,
}

impl Gate {
    async fn until_somebody_waits(&self) {
        until(|| self.waiting.load(Ordering::SeqCst) > 0).await;
    }
}

async fn until(is_so: impl Fn() -> bool) {
    let looking = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, looking).await.expect("in time");
}

/// The lines of an answer's head, in their order.
fn lines(answer: &str) -> Vec<String> {
    let head = answer.split("\r\n\r\n").next().expect("a head").to_ascii_lowercase();
    let names = head.split("\r\n").map(|line| match line.split_once(": ") {
        Some((name @ ("date" | "x-request-id"), value)) => format!("{name}: {} bytes", value.len()),
        _ => line.to_owned(),
    });
    let mut lines: Vec<String> = names.collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn an_answer_beside_hyper_has_what_every_answer_has() {
    let served = tcp(Limits::default());
    let mut stream = served.connect().await;
    send(&mut stream, PLAIN).await;
    let beside = one_response(&mut stream).await;
    assert_eq!(served.reached(), 0, "hyper had no part in it");
    // In two pieces it is for hyper.
    send(&mut stream, "GET /as-at-once HTTP/1.1\r\nHo").await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    send(&mut stream, "st: a\r\n\r\n").await;
    let through = one_response(&mut stream).await;
    assert_eq!(served.reached(), 1);
    assert_eq!(lines(&beside), lines(&through));
    assert!(beside.ends_with("\r\n\r\nat once") && through.ends_with("\r\n\r\nat once"), "{beside}{through}");
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    send(
        &mut stream,
        &format!("GET /at-once HTTP/1.1\r\nHost: a\r\ntraceparent: 00-{id}-00f067aa0ba902b7-01\r\n\r\n"),
    )
    .await;
    assert!(one_response(&mut stream).await.contains(&format!("x-request-id: {id}\r\n")));
    assert!(served.shows("tokenward_http_requests_total{listener=\"test\",status=\"200\"} 3"));
}

#[tokio::test]
async fn what_is_not_plain_goes_through_hyper() {
    let served = tcp(Limits::default());
    for request in [
        "GET /at-once HTTP/1.0\r\nHost: a\r\n\r\n",
        "GET /at-once HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET /at-once HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        "GET /at-once HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
        "GET /at-once HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
        "\r\nGET /at-once HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /at-once?a=%5c\" HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let before = served.reached();
        let mut stream = served.connect().await;
        send(&mut stream, request).await;
        let answer = one_response(&mut stream).await;
        let reached = served.reached() - before;
        assert!(reached == 1 || status(&answer) == "400", "{request:?}: {reached} reached, {answer}");
    }
}

#[tokio::test]
async fn answers_come_in_the_order_of_their_requests() {
    let served = tcp(Limits::default());
    // Several in one read.
    let mut stream = served.connect().await;
    let last = "GET /wait HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    served.probe.gate.notify_one();
    send(&mut stream, &format!("{PLAIN}{PLAIN}{last}")).await;
    let answers = rest(&mut stream).await;
    let bodies: Vec<&str> = answers.split("\r\n\r\n").skip(1).collect();
    assert_eq!(bodies.len(), 3, "{answers}");
    assert!(bodies[2] == "waited" && served.reached() == 3, "{answers}");
    // The next one is there before hyper begins with the first, which fills one read.
    let head = "GET /wait HTTP/1.1\r\nHost: a\r\nA: ";
    let first = format!("{head}{}\r\n\r\n", "x".repeat(8191 - head.len() - 4));
    for _ in 0..20 {
        let (mut stream, before) = (served.connect().await, served.reached());
        send(&mut stream, &format!("{first}{PLAIN}")).await;
        until(|| served.reached() > before).await;
        served.probe.gate.notify_one();
        let mut answers = one_response(&mut stream).await;
        if answers.matches("HTTP/1.1 ").count() < 2 {
            answers.push_str(&one_response(&mut stream).await);
        }
        let bodies: Vec<&str> = answers.split("\r\n\r\n").skip(1).collect();
        assert!(bodies[0].starts_with("waited") && bodies[1] == "at once", "{answers}");
    }
    // The next one comes while hyper has one under way, and while one is under way beside it.
    let waits = "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n";
    for (first, open) in [(waits, &served.probe.gate), (WAITS, &served.probe.at_once.opens)] {
        let (mut stream, before) = (served.connect().await, served.reached());
        send(&mut stream, first).await;
        if first == waits {
            until(|| served.reached() > before).await;
        } else {
            served.probe.at_once.until_somebody_waits().await;
        }
        send(&mut stream, PLAIN).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut nothing = [0; 1];
        let early = stream.try_read(&mut nothing);
        assert!(early.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "{first}");
        open.notify_one();
        // (Both may come in one read.)
        let mut answers = one_response(&mut stream).await;
        if answers.matches("HTTP/1.1 ").count() < 2 {
            answers.push_str(&one_response(&mut stream).await);
        }
        let expected = if first == waits { "waited" } else { "at once" };
        let bodies: Vec<&str> = answers.split("\r\n\r\n").skip(1).collect();
        assert!(bodies[0].starts_with(expected) && bodies[1] == "at once", "{first}: {answers}");
    }
}

#[tokio::test]
async fn an_answer_in_its_place_and_a_panic_are_answers_too() {
    let served = tcp(Limits::default());
    let mut stream = served.connect().await;
    for (path, expected) in [("/at-once/refused", "503"), ("/at-once/panic", "500"), ("/panic", "500")] {
        send(&mut stream, &format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let answer = one_response(&mut stream).await;
        assert_eq!(status(&answer), expected, "{answer}");
        assert!(!answer.contains("secret") && answer.contains("x-request-id: "), "{answer}");
    }
    send(&mut stream, PLAIN).await;
    assert_eq!(status(&one_response(&mut stream).await), "200", "the connection goes on");
}

#[tokio::test]
async fn a_soft_stop_waits_for_an_answer_beside_hyper_and_a_hard_stop_does_not() {
    for is_hard in [false, true] {
        let served = tcp(Limits::default());
        let mut stream = served.connect().await;
        send(&mut stream, WAITS).await;
        served.probe.at_once.until_somebody_waits().await;
        if is_hard {
            served.shutdown.abort();
            assert_eq!(rest(&mut stream).await, "");
            continue;
        }
        served.shutdown.stop();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(served.shows("tokenward_http_connections{listener=\"test\"} 1"), "it is not cut off");
        served.probe.at_once.opens.notify_one();
        let answer = rest(&mut stream).await;
        assert!(answer.contains("connection: close\r\n") && answer.ends_with("at once"), "{answer}");
        served.eventually("tokenward_http_connections{listener=\"test\"} 0").await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_take_such_an_answer_loses_its_connection() {
    let served = tcp(Limits { answer_taken: Duration::from_millis(300), ..Limits::default() });
    let mut stream = untaken::deaf(&served).await;
    send(&mut stream, "GET /at-once/large HTTP/1.1\r\nHost: a\r\n\r\n").await;
    served
        .eventually("tokenward_http_connections_refused_total{listener=\"test\",reason=\"too_slow\"} 1")
        .await;
    // One that takes it late gets all of it.
    let served = tcp(Limits::default());
    let mut stream = untaken::deaf(&served).await;
    send(&mut stream, "GET /at-once/large HTTP/1.1\r\nHost: a\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(one_response(&mut stream).await.split("\r\n\r\n").nth(1).map(str::len), Some(700 << 10));
}

#[tokio::test]
async fn an_old_connection_ends_after_its_answer() {
    let served = tcp(Limits { max_age: Duration::from_millis(500), ..Limits::default() });
    let mut stream = served.connect().await;
    send(&mut stream, WAITS).await;
    served.probe.at_once.until_somebody_waits().await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    served.probe.at_once.opens.notify_one();
    let answer = rest(&mut stream).await;
    assert!(answer.contains("connection: close\r\n") && answer.ends_with("at once"), "{answer}");
}

/// How this thread's connections went on since it was asked last.
fn changes() -> Vec<&'static str> {
    wire::CHANGES.with(|changes| std::mem::take(&mut *changes.borrow_mut()))
}

#[tokio::test]
async fn hyper_is_there_while_it_is_needed() {
    let served = tcp(Limits::default());
    let through = "GET /as-at-once HTTP/1.1\r\nHost: a\r\n\r\n";
    let with_body = "POST /as-at-once HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    let mut stream = served.connect().await;
    for (request, expected) in [
        (PLAIN, &[][..]),
        (PLAIN, &[]),
        // It comes with the first that needs it, and goes with the next plain one.
        (through, &["with"]),
        (with_body, &[]),
        (PLAIN, &["without"]),
        (PLAIN, &[]),
        (with_body, &["with"]),
    ] {
        send(&mut stream, request).await;
        assert!(one_response(&mut stream).await.ends_with("at once"), "{request}");
        // (What follows an answer may come after it. On a busy machine hyper may rest between two requests.)
        until(|| wire::CHANGES.with(|changes| changes.borrow().len() >= expected.len())).await;
        let mut changes = changes();
        if changes.starts_with(&["without", "with"]) {
            changes.drain(..2);
        }
        assert_eq!(changes, expected, "{request}");
    }
    // Without another request it goes, too, and the connection goes on.
    until(|| wire::CHANGES.with(|changes| changes.borrow().len() == 1)).await;
    assert_eq!(changes(), ["without"]);
    for request in [PLAIN, with_body, through] {
        send(&mut stream, request).await;
        assert!(one_response(&mut stream).await.ends_with("at once"), "{request}");
    }
    // While a head has begun, or a request is under way, it stays.
    let (begin, end) = PLAIN.split_at(20);
    send(&mut stream, begin).await;
    tokio::time::sleep(wire::REST + Duration::from_millis(300)).await;
    assert_eq!(changes(), ["with"]);
    send(&mut stream, end).await;
    assert!(one_response(&mut stream).await.ends_with("at once"));
}

/// Whatever comes, in whatever pieces: each request has its answer, in its order.
#[tokio::test]
async fn the_way_of_a_request_is_not_to_be_seen() {
    let through = "GET /as-at-once HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n";
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
    let requests = [
        (PLAIN, "at once"),
        (PLAIN, "at once"),
        (through, "at once"),
        ("GET /ignore HTTP/1.1\r\nHost: a\r\n\r\n", "ignored"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabcde", "abcde"),
        (chunked, "ab"),
    ];
    let last = ("GET /ignore HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "ignored");
    let served = tcp(Limits::default());
    let dice = SeededRandom::new(1);
    let random = |below| dice.below(below);
    for _ in 0..20 {
        let mut stream = served.connect().await;
        let chosen = (0..20).map(|_| requests[random(requests.len())]).chain([last]);
        let (sent, expected): (Vec<&str>, Vec<&str>) = chosen.unzip();
        let sent = sent.concat();
        let mut left = sent.as_str();
        while !left.is_empty() {
            let (piece, after) = left.split_at(left.len().min(1 + random(120)));
            send(&mut stream, piece).await;
            left = after;
            // (Some come apart, some together.)
            for _ in 0..random(4) {
                tokio::task::yield_now().await;
            }
        }
        let answers = rest(&mut stream).await;
        let bodies = answers.split("HTTP/1.1 200 OK").skip(1).filter_map(|one| one.split("\r\n\r\n").nth(1));
        assert_eq!(bodies.collect::<Vec<_>>(), expected, "{sent:?}");
    }
}

#[tokio::test]
async fn a_bare_line_end_is_400_before_and_in_a_plain_head() {
    let served = tcp(Limits::default());
    for request in [
        "\nGET /at-once HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\nGET /at-once HTTP/1.1\nHost: a\r\n\r\n",
        "\r\nGET /at-once HTTP/1.1\r\nHost: a\r\nX: y\nAuthorization: z\r\n\r\n",
    ] {
        let mut stream = served.connect().await;
        send(&mut stream, request).await;
        assert_eq!(status(&one_response(&mut stream).await), "400", "{request:?}");
    }
}

#[tokio::test]
async fn an_empty_line_keeps_no_connection_open_at_a_stop() {
    for before in [PLAIN, "GET /ignore HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let served = tcp(Limits::default());
        let mut stream = served.connect().await;
        send(&mut stream, before).await;
        one_response(&mut stream).await;
        if before != PLAIN {
            until(|| changes().contains(&"without")).await;
        }
        send(&mut stream, "\r\n").await;
        until(|| changes().contains(&"with")).await;
        served.shutdown.stop();
        assert_eq!(rest(&mut stream).await, "", "{before}");
    }
}
