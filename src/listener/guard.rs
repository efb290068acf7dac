//! A strict check of HTTP/1 framing between the socket and hyper.
//!
//! hyper's parser repairs some messages where RFC 9112 lets the recipient choose (it drops `Content-Length`
//! beside `Transfer-Encoding`, merges equal lengths, ends lines at a bare LF, cuts a `#fragment` off the
//! target), and a service cannot see that. A proxy in front may have read the same bytes in another way,
//! which makes request smuggling possible. So every byte passes here first (a plain head passes stricter
//! rules, in `at_once.rs`), and a message that is not framed in exactly one way never reaches the parser
//! whole. A bad head gets a NUL in place of its end, to which hyper answers 400 in its turn and closes. A bad
//! chunk becomes a read error, which the handler sees as a broken body.
//!
//! Pure: bytes in, verdict out. `guarded.rs` connects it to a socket.

use memchr::{memchr, memchr2};

use super::head_values::{is_host, is_target, path_of};

/// Longest chunk extension that is skipped; no known client sends any.
const MAX_CHUNK_EXTENSION: usize = 256;

/// Fault in a message's framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Violation {
    /// In a head: make hyper answer 400.
    Head(&'static str),
    /// In a chunked body: break the body off.
    Body(&'static str),
}

impl Violation {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Violation::Head(reason) | Violation::Body(reason) => reason,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Between requests or within a head.
    Head,
    /// Within a body of known length.
    Sized(u64),
    /// Within a chunked body.
    Chunked(Chunk),
    /// The head is too long, or has too many lines.
    Overlong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunk {
    Size {
        digits: u8,
        size: u64,
    },
    Extension {
        size: u64,
        length: usize,
    },
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// `line` is the length of the current trailer line, `total` of all of them.
    Trailer {
        line: usize,
        total: usize,
    },
    TrailerLf {
        line: usize,
        total: usize,
    },
}

/// The state machine of one connection.
#[derive(Debug)]
pub(super) struct Framing {
    pub(super) state: State,
    /// The part of the current head from earlier reads.
    partial: Vec<u8>,
    max_head: usize,
    max_lines: usize,
    /// Where, in its last read, a head that is too long began.
    pub(super) overlong_at: Option<usize>,
    /// The path of a head that is too long, as far as it came: the refusal has its form.
    pub(super) overlong_path: String,
}

impl Framing {
    pub(super) fn new(max_head: usize, max_lines: usize) -> Self {
        let (partial, overlong_path) = (Vec::new(), String::new());
        Framing { state: State::Head, partial, max_head, max_lines, overlong_at: None, overlong_path }
    }

    /// Returns true inside a head.
    pub(super) fn in_head(&self) -> bool {
        matches!(self.state, State::Overlong) || (self.state == State::Head && !self.partial.is_empty())
    }

    /// Returns true inside a body.
    pub(super) fn in_body(&self) -> bool {
        matches!(self.state, State::Sized(_) | State::Chunked(_))
    }

    /// Returns true where a head begins, so that a whole one may be taken elsewhere ([`Lane::takes`]).
    pub(super) fn is_before_head(&self) -> bool {
        self.state == State::Head && self.partial.is_empty()
    }

    /// Returns how many bytes of an unfinished head are kept.
    pub(super) fn unfinished(&self) -> usize {
        self.partial.len()
    }

    /// Takes the bytes of one read. `Err` has the number of good bytes and the violation after them.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), (usize, Violation)> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            at += match self.state {
                State::Overlong => rest.len(),
                State::Sized(left) => {
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    let left = left - taken as u64;
                    self.state = if left == 0 { State::Head } else { State::Sized(left) };
                    taken
                }
                State::Chunked(chunk) => {
                    self.chunk(chunk, rest).map_err(|reason| (at, Violation::Body(reason)))?
                }
                State::Head => {
                    let taken = self.head(rest).map_err(|reason| (at, Violation::Head(reason)))?;
                    if self.state == State::Overlong {
                        self.overlong_at = Some(at);
                    }
                    taken
                }
            };
        }
        Ok(())
    }

    fn head(&mut self, rest: &[u8]) -> Result<usize, &'static str> {
        if self.partial.is_empty() && (rest[0] == b'\r' || rest[0] == b'\n') {
            // A server ignores empty lines before a request line (RFC 9112 §2.2), and so does hyper.
            return match (rest[0], rest.get(1)) {
                (b'\r', Some(b'\n')) => Ok(2),
                // The LF may come with the next read.
                (b'\r', None) => {
                    self.partial.push(b'\r');
                    Ok(1)
                }
                _ => Err("bare CR or LF before the request line"),
            };
        }
        if self.partial == b"\r" {
            self.partial.clear();
            return if rest[0] == b'\n' { Ok(1) } else { Err("bare CR before the request line") };
        }
        // The common case: the whole head in one read, checked in place.
        if self.partial.is_empty() {
            if let Some(length) = end_of_head(rest, 0)? {
                self.state = self.inspect(&rest[..length])?;
                self.note_path(rest);
                return Ok(length);
            }
            self.partial.extend_from_slice(rest);
        } else {
            let before = self.partial.len();
            self.partial.extend_from_slice(rest);
            if let Some(length) = end_of_head(&self.partial, before.saturating_sub(2))? {
                let head = std::mem::take(&mut self.partial);
                self.state = self.inspect(&head[..length])?;
                self.note_path(&head);
                return Ok(length - before);
            }
        }
        // An unfinished head of this length is too long; hyper stops at the same number.
        if self.partial.len() >= self.max_head {
            self.state = State::Overlong;
            let head = std::mem::take(&mut self.partial);
            self.note_path(&head);
        }
        Ok(rest.len())
    }

    /// Keeps the path of a head that turned out too long.
    fn note_path(&mut self, head: &[u8]) {
        if self.state == State::Overlong {
            self.overlong_path = path_of(head);
        }
    }

    fn inspect(&self, head: &[u8]) -> Result<State, &'static str> {
        if head.len() > self.max_head {
            return Ok(State::Overlong);
        }
        let framed = inspect(head)?;
        // The request line and the final empty line do not count.
        let lines = head.iter().filter(|byte| **byte == b'\n').count().saturating_sub(2);
        Ok(if lines > self.max_lines { State::Overlong } else { framed })
    }

    fn chunk(&mut self, chunk: Chunk, rest: &[u8]) -> Result<usize, &'static str> {
        let byte = rest[0];
        let mut taken = 1;
        let next = match chunk {
            Chunk::Size { digits, size } => match byte {
                b'\r' if digits > 0 => Chunk::SizeLf { size },
                b';' if digits > 0 => Chunk::Extension { size, length: 0 },
                _ => {
                    let digit = char::from(byte).to_digit(16).ok_or("chunk size")?;
                    if digits == 8 {
                        return Err("chunk size too long");
                    }
                    Chunk::Size { digits: digits + 1, size: size * 16 + u64::from(digit) }
                }
            },
            Chunk::Extension { size, .. } if byte == b'\r' => Chunk::SizeLf { size },
            Chunk::Extension { size, length } => {
                if (byte < b' ' && byte != b'\t') || byte == 0x7f {
                    return Err("control character in a chunk extension");
                }
                if length == MAX_CHUNK_EXTENSION {
                    return Err("chunk extension too long");
                }
                Chunk::Extension { size, length: length + 1 }
            }
            Chunk::SizeLf { size } => match (byte, size) {
                (b'\n', 0) => Chunk::Trailer { line: 0, total: 0 },
                (b'\n', left) => Chunk::Data { left },
                _ => return Err("bare CR in a chunk head"),
            },
            Chunk::Data { left } => {
                taken = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                match left - taken as u64 {
                    0 => Chunk::DataCr,
                    left => Chunk::Data { left },
                }
            }
            Chunk::DataCr if byte == b'\r' => Chunk::DataLf,
            Chunk::DataLf if byte == b'\n' => Chunk::Size { digits: 0, size: 0 },
            Chunk::DataCr | Chunk::DataLf => return Err("chunk data without its CRLF"),
            Chunk::Trailer { line, total } => match byte {
                b'\r' => Chunk::TrailerLf { line, total },
                b'\n' => return Err("bare LF in a trailer"),
                b' ' | b'\t' if line == 0 => return Err("obs-fold in a trailer"),
                _ if total >= self.max_head => return Err("trailers too long"),
                _ => Chunk::Trailer { line: line + 1, total: total + 1 },
            },
            Chunk::TrailerLf { line, total } => match (byte, line) {
                (b'\n', 0) => {
                    self.state = State::Head;
                    return Ok(1);
                }
                (b'\n', _) => Chunk::Trailer { line: 0, total },
                _ => return Err("bare CR in a trailer"),
            },
        };
        self.state = State::Chunked(next);
        Ok(taken)
    }
}

/// Finds the end of the head from `from` on. Every line must end in CRLF.
fn end_of_head(bytes: &[u8], from: usize) -> Result<Option<usize>, &'static str> {
    let mut at = from;
    while let Some(found) = memchr2(b'\r', b'\n', &bytes[at..]) {
        at += found;
        match (bytes[at], bytes.get(at + 1)) {
            (b'\n', _) => {
                if at == 0 || bytes[at - 1] != b'\r' {
                    return Err("bare LF in a head");
                }
                if at >= 3 && bytes[at - 2] == b'\n' {
                    return Ok(Some(at + 1));
                }
            }
            (_, Some(next)) if *next != b'\n' => return Err("bare CR in a head"),
            _ => {}
        }
        at += 1;
    }
    Ok(None)
}

/// The lines of a head without their ends, and without the empty one at last.
fn lines_of(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(&head[..head.len() - 4]);
    std::iter::from_fn(move || {
        let all = rest?;
        let (line, behind) = match memchr(b'\n', all) {
            Some(at) => (&all[..at], Some(&all[at + 1..])),
            None => (all, None),
        };
        rest = behind;
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    })
}

/// Checks a whole head and returns how the body is framed. Checks that hyper makes itself (method and name
/// tokens, characters of values) are left to it.
fn inspect(head: &[u8]) -> Result<State, &'static str> {
    let mut lines = lines_of(head);
    let request_line = lines.next().unwrap_or_default();
    let mut words = request_line.split(|byte| *byte == b' ');
    let (Some(_method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("request line");
    };
    // Only the origin form is accepted: this server is no proxy, and an authority in the target could
    // contradict Host. http::Uri would silently cut off a fragment.
    if target.first() != Some(&b'/') {
        return Err("target is not in origin form");
    }
    if !is_target(target) {
        return Err("character in the target");
    }
    let version_1_1 = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        _ => return Err("version"),
    };

    let mut hosts = 0;
    let mut length = None;
    let mut chunked = false;
    for line in lines {
        if matches!(line.first(), None | Some(b' ' | b'\t')) {
            return Err("obs-fold");
        }
        let Some(colon) = memchr(b':', line) else {
            return Err("header line without a colon");
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        // Only these three frame a message.
        if !matches!(name.len(), 4 | 14 | 17) {
            continue;
        }
        if name.eq_ignore_ascii_case(b"host") {
            hosts += 1;
            if !is_host(value) {
                return Err("Host");
            }
        } else if name.eq_ignore_ascii_case(b"content-length") {
            if length.is_some() {
                return Err("repeated Content-Length");
            }
            if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
                return Err("Content-Length");
            }
            length = Some(value.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0')));
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if chunked {
                return Err("repeated Transfer-Encoding");
            }
            if !version_1_1 || !value.eq_ignore_ascii_case(b"chunked") {
                return Err("Transfer-Encoding");
            }
            chunked = true;
        }
    }
    if hosts > 1 || (hosts == 0 && version_1_1) {
        return Err("missing or repeated Host");
    }
    match (chunked, length) {
        (true, Some(_)) => Err("Content-Length together with Transfer-Encoding"),
        (true, None) => Ok(State::Chunked(Chunk::Size { digits: 0, size: 0 })),
        (false, Some(length)) if length > 0 => Ok(State::Sized(length)),
        (false, _) => Ok(State::Head),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::SeededRandom;

    /// Feeds the bytes whole, byte by byte and in halves: the verdict must not depend on the cuts.
    fn verdict(bytes: &[u8]) -> Result<State, Violation> {
        let mut verdicts = Vec::new();
        for cut in 1..=bytes.len() {
            let mut framing = Framing::new(1024, 64);
            let mut result = Ok(());
            for piece in bytes.chunks(cut) {
                result = framing.take(piece);
                if result.is_err() {
                    break;
                }
            }
            verdicts.push(match result {
                Ok(()) => Ok(framing.state),
                Err((_, violation)) => Err(violation),
            });
        }
        for other in &verdicts {
            let same = match (&verdicts[0], other) {
                (Ok(one), Ok(two)) => one == two,
                (Err(one), Err(two)) => std::mem::discriminant(one) == std::mem::discriminant(two),
                _ => false,
            };
            assert!(same, "{:?}: {verdicts:?}", String::from_utf8_lossy(bytes));
        }
        verdicts.swap_remove(0)
    }

    #[test]
    fn well_framed_messages_pass_and_the_next_head_is_found_again() {
        for good in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "GET /?q=%20 HTTP/1.1\r\nhOsT:a:80\r\nA: b\tc\r\n\r\nGET / HTTP/1.1\r\nHost:\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\n\n\r\n\r\n0\r\nT: \
             1\r\n\r\n\
             GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            assert_eq!(verdict(good.as_bytes()), Ok(State::Head), "{good:?}");
        }
    }

    #[test]
    fn broken_chunks_are_told_however_they_are_cut() {
        for bad in [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "0x1\r\na\r\n",
            " 1\r\na\r\n",
            "1 \r\na\r\n",
            "000000001\r\na",
            "1\na\r\n",
            "1;a\nb\r\na\r\n",
            "1\r\nab\r\n",
            "1\r\na\n",
            "0\r\nA: b\n\r\n",
            "0\r\nA: b\r\n c\r\n\r\n",
            "0\r\n\rx",
        ] {
            let message = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{bad}");
            assert!(matches!(verdict(message.as_bytes()), Err(Violation::Body(_))), "{bad:?}");
        }
        let endless = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{}",
            "A: b\r\n".repeat(300)
        );
        let mut framing = Framing::new(1024, 64);
        assert!(matches!(framing.take(endless.as_bytes()), Err((_, Violation::Body("trailers too long")))));
    }

    #[test]
    fn an_overlong_head_is_left_to_the_parser_and_never_ends() {
        let mut framing = Framing::new(64, 64);
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(64));
        for byte in long.as_bytes() {
            assert_eq!(framing.take(&[*byte]), Ok(()));
        }
        assert!(framing.in_head());
    }

    #[test]
    fn a_head_that_is_too_long_is_known_by_its_path_however_it_is_cut() {
        let long = "x".repeat(1100);
        for (head, path) in [
            (format!("GET /msi/token?resource={long} HTTP/1.1\r\nHost: a\r\n\r\n"), "/msi/token"),
            (format!("GET /msi/token?a=b HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"), "/msi/token"),
            (format!("GET /msi/token HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(70)), "/msi/token"),
            (
                format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"),
                &format!("/{}", &long[1..crate::listener::head_values::MAX_PATH]),
            ),
            (format!("GET http://a/msi/token HTTP/1.1\r\nX: {long}\r\n\r\n"), ""),
            (long.clone(), ""),
        ] {
            for cut in [1, 7, 64, 4096] {
                let mut framing = Framing::new(1024, 64);
                for piece in head.as_bytes().chunks(cut) {
                    assert_eq!(framing.take(piece), Ok(()), "{head}");
                }
                assert_eq!(
                    (framing.state, framing.overlong_path.as_str()),
                    (State::Overlong, path),
                    "{cut}: {head}"
                );
            }
        }
    }

    #[test]
    fn no_soup_of_fragments_is_read_differently_when_cut() {
        const FRAGMENTS: [&str; 20] = [
            "\r\n",
            "\n",
            "\r",
            " ",
            ":",
            ";",
            "0",
            "3",
            "GET / HTTP/1.1\r\n",
            "POST /a HTTP/1.0\r\n",
            "Host: a\r\n",
            "Content-Length: 3\r\n",
            "Transfer-Encoding: chunked\r\n",
            "\r\n\r\n",
            "abc",
            "3\r\nabc\r\n",
            "0\r\n\r\n",
            "A: b\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        ];
        let dice = SeededRandom::new(1);
        let random = |below| dice.below(below);
        let (mut good, mut bad) = (0, 0);
        for _ in 0..3000 {
            // Half of them begin like a valid message, so that chunks are reached too.
            let start = if random(2) == 0 { FRAGMENTS[18 + random(2)] } else { "" };
            let soup: String = (0..=random(8)).map(|_| FRAGMENTS[random(20)]).collect();
            let soup = format!("{start}{soup}");
            match verdict(soup.as_bytes()) {
                Ok(_) => good += 1,
                Err(_) => bad += 1,
            }
        }
        assert!(good > 300 && bad > 300, "{good} good, {bad} bad: the soup tests one side only");
    }
}
