//! Heads that are read beside hyper, held against the strict check.

use std::mem::MaybeUninit;

use httparse::EMPTY_HEADER;

use super::super::at_once::{LONGEST_HEAD, MOST_LINES, PlainHead};
use super::super::guard::{Framing, State};
use crate::testkit::SeededRandom;

fn is_plain(bytes: &[u8]) -> bool {
    let mut lines = [const { MaybeUninit::new(EMPTY_HEADER) }; MOST_LINES];
    PlainHead::read(bytes, &mut lines).is_some()
}

/// Whether the strict check takes it for one whole head without a body, and nothing else.
fn is_one_head(bytes: &[u8]) -> bool {
    let mut framing = Framing::new(LONGEST_HEAD, MOST_LINES);
    let is_whole = (1..bytes.len()).all(|length| {
        let mut framing = Framing::new(LONGEST_HEAD, MOST_LINES);
        framing.take(&bytes[..length]).is_ok() && framing.in_head()
    });
    is_whole && framing.take(bytes) == Ok(()) && framing.state == State::Head && !framing.in_head()
}

#[test]
fn a_head_that_is_read_here_is_one_that_the_strict_check_lets_pass() {
    const FRAGMENTS: [&str; 40] = [
        "GET / HTTP/1.1\r\n",
        "GET /a?b=c HTTP/1.1\r\n",
        "GET /a#b HTTP/1.1\r\n",
        "GET /a\\b HTTP/1.1\r\n",
        "GET a HTTP/1.1\r\n",
        "GET http://a/ HTTP/1.1\r\n",
        "GET * HTTP/1.1\r\n",
        "GET  / HTTP/1.1\r\n",
        "GET / HTTP/1.1\n",
        "GET / HTTP/1.0\r\n",
        "GET / HTTP/2.0\r\n",
        "POST / HTTP/1.1\r\n",
        "Host: a\r\n",
        "Host: a\n",
        "HOST:a:80\r\n",
        "Host: a/b\r\n",
        "Host : a\r\n",
        "Host:\r\n",
        "Content-Length: 0\r\n",
        "Content-Length: 3\r\n",
        "content-length: 00\r\n",
        "Content-Length: +0\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Connection: keep-alive\r\n",
        "Connection: close\r\n",
        "Expect: 100-continue\r\n",
        "Upgrade: h2c\r\n",
        "A: b\r\n",
        "A: b\tc \r\n",
        "A: b\rc\r\n",
        "A: b\n",
        " c\r\n",
        "\tc\r\n",
        ": b\r\n",
        "A\r\n",
        "A: \0\r\n",
        "\r\n",
        "\n",
        "\r",
    ];
    let dice = SeededRandom::new(1);
    let random = |below| dice.below(below);
    let (mut taken, mut left) = (0, 0);
    for _ in 0..60_000 {
        // Half of them begin as they should, and most end so.
        let before = if random(4) == 0 { FRAGMENTS[37 + random(3)] } else { "" };
        let start = if random(2) == 0 { "GET /a HTTP/1.1\r\nHost: a\r\n" } else { FRAGMENTS[random(12)] };
        let middle: String = (0..random(4)).map(|_| FRAGMENTS[12 + random(28)]).collect();
        let end = if random(8) == 0 { FRAGMENTS[37 + random(3)] } else { "\r\n" };
        let head = format!("{before}{start}{middle}{end}");
        if is_plain(head.as_bytes()) {
            taken += 1;
            assert!(is_one_head(head.as_bytes()), "{head:?}");
        } else {
            left += 1;
        }
    }
    assert!(taken > 3000 && left > 3000, "{taken} taken, {left} left: it tests one side only");
}

/// What stands before a head, or in its midst, makes up for no line that ends in a bare LF.
#[test]
fn a_changed_head_is_no_plain_one_unless_the_strict_check_lets_it_pass() {
    let head =
        "GET /v1/apps/a/connections/b/token HTTP/1.1\r\nHost: a:1\r\nA: b\r\nAuthorization: Bearer c\r\n\r\n";
    let pieces = [
        "\r",
        "\n",
        "\r\n",
        "\n\n",
        " ",
        "\t",
        "\0",
        "\x7f",
        "\u{80}",
        ":",
        "Host: b\r\n",
        "Content-Length : 1\r\n",
    ];
    for at in 0..=head.len() {
        for removed in 0..=(head.len() - at).min(2) {
            for piece in pieces.iter().chain(&[""]) {
                for before in ["", "\r\n", "\n", "\r"] {
                    let changed = format!("{before}{}{piece}{}", &head[..at], &head[at + removed..]);
                    if is_plain(changed.as_bytes()) {
                        assert!(is_one_head(changed.as_bytes()), "{changed:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn what_clients_send_is_plain() {
    for head in [
        "GET /v1/apps/outlook/connections/a@b.example/token HTTP/1.1\r\nhost: a:1\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\nUser-Agent: x\r\nAccept: */*\r\nConnection: keep-alive\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nAuthorization: Bearer x\r\n\r\n",
    ] {
        assert!(is_plain(head.as_bytes()), "{head}");
    }
    let many = |lines: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(lines));
    assert!(is_plain(many(MOST_LINES - 1).as_bytes()) && !is_plain(many(MOST_LINES).as_bytes()));
}
