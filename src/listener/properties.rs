//! Properties of all bytes from a socket before they form a request.

use http::{HeaderMap, HeaderValue};

use super::RequestId;
use super::guard::{Framing, State};
use crate::testkit::SeededRandom;

/// Panics if the framing depends on how the bytes are cut, or differs from that of a plain reader of the
/// whole. The first byte chooses the limits and the pieces.
pub fn a_stream_is_framed_in_one_way(input: &[u8]) {
    let Some((choice, stream)) = input.split_first() else { return };
    let (max_head, max_lines) = if choice & 0x80 == 0 { (16 * 1024, 64) } else { (96, 3) };
    let whole = framed(stream, stream.len().max(1), max_head, max_lines);
    for size in [1, usize::from(choice & 0x7f) + 1] {
        assert_eq!(framed(stream, size, max_head, max_lines), whole, "pieces of {size}");
    }
    if whole.is_some_and(|end| end.is_between_messages) {
        assert!(plainly_ends(stream), "a plain reader does not find its messages to end here");
    }
}

/// The end state of an accepted stream.
#[derive(Debug, PartialEq, Eq)]
struct End {
    state: State,
    is_between_messages: bool,
}

/// Returns `None` if the stream is refused.
fn framed(stream: &[u8], size: usize, max_head: usize, max_lines: usize) -> Option<End> {
    let mut framing = Framing::new(max_head, max_lines);
    for piece in stream.chunks(size) {
        if let Err((taken, violation)) = framing.take(piece) {
            assert!(taken <= piece.len() && !violation.reason().is_empty());
            return None;
        }
    }
    let is_between_messages = framing.state == State::Head && !framing.in_head();
    (framing.state != State::Overlong).then_some(End { state: framing.state, is_between_messages })
}

/// Returns true if a reader of the whole, which trusts the headers, ends where the bytes end.
fn plainly_ends(mut rest: &[u8]) -> bool {
    loop {
        while let Some(after) = rest.strip_prefix(b"\r\n") {
            rest = after;
        }
        if rest.is_empty() {
            return true;
        }
        let Some(end) = find(rest, b"\r\n\r\n") else { return false };
        let Ok(head) = std::str::from_utf8(&rest[..end]) else {
            return plainly_ends_of_bytes(rest, end);
        };
        let value = |wanted: &str| {
            let lines = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
            let mut values = lines.filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
            let value = values.next().map(|(_, value)| value.trim_ascii());
            assert!(values.next().is_none(), "{wanted} stands twice");
            value
        };
        rest = &rest[end + 4..];
        match (value("content-length"), value("transfer-encoding")) {
            (None, None) => {}
            (Some(length), None) => match length.parse().ok().and_then(|length| rest.get(length..)) {
                Some(after) => rest = after,
                None => return false,
            },
            (None, Some(_)) => match after_chunks(rest) {
                Some(after) => rest = after,
                None => return false,
            },
            (Some(_), Some(_)) => panic!("framed in two ways"),
        }
    }
}

/// A value may have any bytes beyond ASCII; the framing is ASCII all the same.
fn plainly_ends_of_bytes(rest: &[u8], end: usize) -> bool {
    let mut plain = rest.to_vec();
    for byte in &mut plain[..end] {
        if !byte.is_ascii() {
            *byte = b'x';
        }
    }
    plainly_ends(&plain)
}

fn after_chunks(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let line = find(rest, b"\r\n")?;
        let digits = rest[..line].split(|byte| *byte == b';').next()?;
        let size = usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        rest = rest.get(line + 2..)?;
        if size > 0 {
            rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
            continue;
        }
        loop {
            let line = find(rest, b"\r\n")?;
            rest = &rest[line + 2..];
            if line == 0 {
                return Some(rest);
            }
        }
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// Panics if a request id is anything but 32 hexadecimal digits, not all zero. Each line is one
/// `traceparent`.
pub fn a_request_has_one_plain_id(input: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in input.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append("traceparent", value);
        }
    }
    let (fresh, other) = (SeededRandom::new(1), SeededRandom::new(2));
    let id = RequestId::of(&headers, &fresh);
    let text = id.as_str();
    assert_eq!(text.len(), 32);
    assert!(
        text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) && text.bytes().any(|b| b != b'0')
    );
    // The id comes from the request, or is new.
    let is_its_own = RequestId::of(&headers, &other) == id;
    assert_eq!(is_its_own, id != RequestId::new(&SeededRandom::new(1)));
    if is_its_own {
        let value = headers.get("traceparent").and_then(|value| value.to_str().ok());
        assert_eq!((headers.len(), value.and_then(|value| value.get(3..35))), (1, Some(text)));
    }
}
