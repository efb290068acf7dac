//! Bounds the answers of a Redis, between the socket and the client library, which would accept any announced
//! length.
//!
//! Lengths and counts of an answer are read as they come (RESP2 and RESP3). One beyond [`LIMITS`] ends the
//! connection before the announced bytes are accepted. So a server that lies, or a record that somebody else
//! wrote, costs this process no more than the limits (a value in memory takes some 60 bytes, however small it
//! is). Every answer of Redis and of Sentinel passes here.
//!
//! The sum of many small answers is bounded by the sender: a pipeline has few commands.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::store::record::LARGEST;
use crate::store::{MAX_PAGE, MOST_COUNTED};

/// Limits of one answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes of a line: a status, an error, a number, an announced length.
    pub(super) line: usize,
    /// Bytes of one value.
    pub(super) value: usize,
    /// Bytes of a whole answer, its lines included.
    pub(super) answer: usize,
    /// Values in an answer, those within others included.
    pub(super) values: usize,
    /// Values within values.
    pub(super) depth: usize,
}

/// Limits of a connection for commands. A value is at most a record ([`LARGEST`]). A list of what counts
/// against a quota ([`MOST_COUNTED`]) has the most values; a page of a walk has some thousand keys.
pub(super) const LIMITS: Limits =
    Limits { line: 64 * 1024, value: LARGEST, answer: 8 * 1024 * 1024, values: 32 * 1024, depth: 16 };
const _: () = assert!(LIMITS.values > 3 * MOST_COUNTED && LIMITS.values > 16 * MAX_PAGE);

/// Limits of a connection that only asks for the owners of slots: `CLUSTER SLOTS` of a Cluster whose slots
/// are scattered has a row for each of them, some 300,000 values.
pub(super) const SLOTS_LIMITS: Limits = Limits { values: 512 * 1024, ..LIMITS };

/// The longest announcement of a length: a number with a sign.
const LONGEST_LENGTH: usize = 24;

/// A connection whose answers are bounded.
pub(super) struct Metered<W> {
    wire: W,
    frame: Frame,
    /// Why reading ended.
    refused: Option<String>,
}

impl<W> Metered<W> {
    pub(super) fn new(wire: W, limits: Limits) -> Self {
        Metered { wire, frame: Frame::new(limits), refused: None }
    }
}

impl<W: AsyncRead + Unpin> AsyncRead for Metered<W> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.refused.is_none() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.wire).poll_read(context, buffer))?;
            this.refused = this.frame.take(&buffer.filled()[before..]).err();
            if this.refused.is_some() {
                buffer.set_filled(before);
            }
        }
        Poll::Ready(match &this.refused {
            None => Ok(()),
            Some(problem) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, problem.clone())),
        })
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Metered<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(context)
    }
}

/// The position within an answer.
struct Frame {
    limits: Limits,
    within: Within,
    /// How many values are still to come of each one under way, the outermost first.
    open: Vec<usize>,
    bytes: usize,
    values: usize,
    /// Whole answers so far.
    #[cfg(test)]
    answers: usize,
}

enum Within {
    /// In a line: its first byte, as much of the rest as is needed, its length, and its last byte.
    Line { kind: Option<u8>, text: [u8; LONGEST_LENGTH], length: usize, last: u8 },
    /// In a value: so many bytes are to come, with its line end.
    Value(usize),
}

const NEW_LINE: Within = Within::Line { kind: None, text: [0; LONGEST_LENGTH], length: 0, last: 0 };

impl Frame {
    fn new(limits: Limits) -> Self {
        Frame {
            limits,
            within: NEW_LINE,
            open: Vec::new(),
            bytes: 0,
            values: 0,
            #[cfg(test)]
            answers: 0,
        }
    }

    /// Reads on with these bytes. The error says what exceeds a limit.
    fn take(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while let Some(&byte) = bytes.first() {
            match &mut self.within {
                Within::Value(left) => {
                    let taken = bytes.len().min(*left);
                    *left -= taken;
                    bytes = &bytes[taken..];
                    if *left == 0 {
                        self.end();
                    }
                }
                Within::Line { kind, text, length, last } => {
                    bytes = &bytes[1..];
                    let ends = *last == b'\r' && byte == b'\n';
                    *last = byte;
                    match (*kind, text.get_mut(*length)) {
                        (None, _) => *kind = Some(byte),
                        (Some(_), Some(at)) => {
                            *at = byte;
                            *length += 1;
                        }
                        (Some(_), None) => *length += 1,
                    }
                    if *length > self.limits.line {
                        return Err(format!(
                            "Redis answered with a line of more than {} bytes",
                            self.limits.line
                        ));
                    }
                    if ends {
                        let (kind, length) = (kind.unwrap_or(byte), *length);
                        // (Its last two bytes end the line.)
                        let number = text.get(..length.saturating_sub(2)).map(<[u8]>::to_vec);
                        self.line(kind, length, number.as_deref())?;
                    }
                }
            }
        }
        Ok(())
    }

    fn line(&mut self, kind: u8, length: usize, number: Option<&[u8]>) -> Result<(), String> {
        self.add(length, 1)?;
        let announced = || {
            let text = number.and_then(|number| std::str::from_utf8(number).ok());
            let number = text.and_then(|text| text.trim().parse::<i64>().ok());
            number.ok_or_else(|| "Redis announced a length that is no number".to_owned())
        };
        let no_count = || "Redis announced a length that cannot be".to_owned();
        let pairs = |more: usize| {
            let pairs = usize::try_from(announced()?).map_err(|_| no_count())?;
            Ok::<usize, String>(pairs.saturating_mul(2).saturating_add(more))
        };
        match kind {
            b'$' | b'!' | b'=' => match usize::try_from(announced()?) {
                Ok(length) if length > self.limits.value => Err(format!(
                    "Redis announced a value of {length} bytes, and {} are the most: is it ours?",
                    self.limits.value
                )),
                Ok(length) => {
                    self.add(length, 0)?;
                    self.within = Within::Value(length + 2);
                    Ok(())
                }
                // A null.
                Err(_) if kind == b'$' => {
                    self.end();
                    Ok(())
                }
                Err(_) => Err(no_count()),
            },
            b'*' | b'~' | b'>' => self.begin(usize::try_from(announced()?).unwrap_or(0)),
            b'%' => self.begin(pairs(0)?),
            b'|' => self.begin(pairs(1)?),
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => {
                self.end();
                Ok(())
            }
            _ => Err("Redis answered something else than an answer of Redis".to_owned()),
        }
    }

    fn add(&mut self, bytes: usize, values: usize) -> Result<(), String> {
        self.bytes = self.bytes.saturating_add(bytes);
        self.values = self.values.saturating_add(values);
        let Limits { answer, values: most, .. } = self.limits;
        match (self.bytes > answer, self.values > most) {
            (false, false) => Ok(()),
            (true, _) => {
                Err(format!("Redis announced an answer of {} bytes, and {answer} are the most", self.bytes))
            }
            (_, true) => {
                Err(format!("Redis announced an answer of {} values, and {most} are the most", self.values))
            }
        }
    }

    /// Begins a value with so many others within it.
    fn begin(&mut self, count: usize) -> Result<(), String> {
        if count == 0 {
            self.end();
            return Ok(());
        }
        if self.values.saturating_add(count) > self.limits.values {
            return self.add(0, count);
        }
        if self.open.len() >= self.limits.depth {
            return Err(format!(
                "Redis answered with values within values, deeper than {}",
                self.limits.depth
            ));
        }
        self.open.push(count);
        self.within = NEW_LINE;
        Ok(())
    }

    /// Ends a value, and with it perhaps those around it.
    fn end(&mut self) {
        self.within = NEW_LINE;
        while let Some(left) = self.open.last_mut() {
            *left -= 1;
            if *left > 0 {
                return;
            }
            self.open.pop();
        }
        (self.bytes, self.values) = (0, 0);
        #[cfg(test)]
        {
            self.answers += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::domain::random::{Random, random_bytes};
    use crate::testkit::SeededRandom;

    const SMALL: Limits = Limits { line: 40, value: 100, answer: 200, values: 20, depth: 3 };

    /// How many answers these bytes are, whole or in pieces of whatever length; or what is too much.
    fn answers(bytes: &[u8]) -> Result<usize, String> {
        let mut whole = Frame::new(SMALL);
        let taken = whole.take(bytes).map(|()| whole.answers);
        for piece in 1..bytes.len().min(9) {
            let mut frame = Frame::new(SMALL);
            let in_pieces = bytes.chunks(piece).try_for_each(|piece| frame.take(piece));
            assert_eq!(in_pieces.map(|()| frame.answers), taken, "in pieces of {piece}");
        }
        taken
    }

    #[test]
    fn what_a_server_answers_is_counted_as_the_library_reads_it() {
        for (bytes, count) in [
            ("+OK\r\n", 1),
            ("+PONG\r\n:-7\r\n$-1\r\n*-1\r\n_\r\n#t\r\n,1.5\r\n(99\r\n", 8),
            ("$5\r\nhello\r\n$0\r\n\r\n", 2),
            ("$9\r\n$9999\r\n+x\r\n", 1),
            ("*2\r\n$1\r\na\r\n*1\r\n:1\r\n*0\r\n", 2),
            ("*2\r\n$1\r\na\r\n*1\r\n", 0),
            ("%1\r\n+a\r\n~2\r\n:1\r\n:2\r\n", 1),
            ("|1\r\n+ttl\r\n:5\r\n$1\r\na\r\n+next\r\n", 2),
            (">3\r\n+message\r\n+c\r\n$1\r\nx\r\n", 1),
            ("=7\r\ntxt:abc\r\n!4\r\nERR!\r\n", 2),
            ("-ERR a\nb\rc\r\n", 1),
            ("$5\r\nhel", 0),
        ] {
            assert_eq!(answers(bytes.as_bytes()), Ok(count), "{bytes:?}");
            let read = ::redis::parse_redis_value(bytes.as_bytes());
            assert_eq!(read.is_ok(), count > 0, "{bytes:?}: {read:?}");
        }
    }

    #[test]
    fn more_than_the_limits_is_refused_before_it_comes() {
        let many = "*21\r\n".to_owned();
        let deep = "*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n";
        let long = format!("+{}", "x".repeat(41));
        let sum = format!("*3\r\n{}", format!("$90\r\n{}\r\n", "x".repeat(90)).repeat(2) + "$90\r\n");
        for (bytes, words) in [
            ("$101\r\n", "a value of 101 bytes, and 100 are the most"),
            ("$314572800\r\n", "a value of 314572800 bytes"),
            ("=9223372036854775807\r\n", "a value of 9223372036854775807 bytes"),
            ("*1\r\n!101\r\n", "a value of 101 bytes"),
            (&many, "an answer of 22 values, and 20 are the most"),
            ("*9223372036854775807\r\n", "values, and 20 are the most"),
            ("%9223372036854775807\r\n", "values, and 20 are the most"),
            ("|10\r\n", "an answer of 22 values"),
            (deep, "deeper than 3"),
            (&long, "a line of more than 40 bytes"),
            (&sum, "an answer of 285 bytes, and 200 are the most"),
            ("$1x\r\n", "no number"),
            ("=-1\r\n", "a length that cannot be"),
            ("!-1\r\n", "a length that cannot be"),
            ("%-1\r\n", "a length that cannot be"),
            ("|-1\r\n", "a length that cannot be"),
            ("$                                5\r\n", "no number"),
            ("HTTP/1.1 400 Bad Request\r\n", "something else than an answer of Redis"),
            ("\r\n", "something else than an answer of Redis"),
        ] {
            let refused = answers(bytes.as_bytes());
            assert!(refused.as_ref().is_err_and(|problem| problem.contains(words)), "{bytes:?}: {refused:?}");
        }
    }

    /// However small the values are: what sixteen answers at once cost is bounded as their bytes are.
    #[test]
    fn many_small_values_cost_no_more_than_a_few_large_ones() {
        let of_one = LIMITS.values * size_of::<::redis::Value>();
        assert!(of_one <= LIMITS.answer / 2, "{of_one} bytes");
        for (limits, count, is_taken) in [
            (LIMITS, MOST_COUNTED, true),
            (LIMITS, 300_000, false),
            (SLOTS_LIMITS, 300_000, true),
            (SLOTS_LIMITS, 600_000, false),
        ] {
            let answer = format!("*{count}\r\n{}", ":1\r\n".repeat(count));
            assert_eq!(Frame::new(limits).take(answer.as_bytes()).is_ok(), is_taken, "{count}");
        }
    }

    /// What is counted as whole is what the library takes as whole, whatever comes.
    #[test]
    fn random_answers_end_where_the_library_says_that_they_end() {
        let words: Vec<&[u8]> = [
            &b"$3\r\n"[..],
            b"abc\r\n",
            b"*2\r\n",
            b"%1\r\n",
            b"|1\r\n",
            b"+x\r\n",
            b":1\r\n",
            b"\r",
            b"\n",
            b"$-1\r\n",
            b"*0\r\n",
            b"*-1\r\n",
            b"$+3\r\n",
            b"$ 3\r\n",
            b"~1\r\n",
            b">1\r\n",
            b"-E\r\n",
            b"_\r\n",
        ]
        .to_vec();
        let random: Arc<dyn Random> = Arc::new(SeededRandom::new(16));
        let (mut whole, limits) = (0, Limits { values: 10_000, ..LIMITS });
        for _ in 0..20_000 {
            let picks = random_bytes::<10>(&*random);
            let bytes: Vec<u8> = picks
                .iter()
                .take(1 + usize::from(picks[9] % 9))
                .flat_map(|pick| words[usize::from(*pick) % words.len()])
                .copied()
                .collect();
            let Ok(_) = ::redis::parse_redis_value(&bytes) else { continue };
            whole += 1;
            let mut frame = Frame::new(limits);
            let ends = (1..=bytes.len()).find(|end| {
                frame.take(&bytes[end - 1..*end]).unwrap_or_else(|problem| panic!("{bytes:?}: {problem}"));
                frame.answers == 1
            });
            let ends = ends.unwrap_or_else(|| panic!("{:?}", String::from_utf8_lossy(&bytes)));
            assert!(
                ::redis::parse_redis_value(&bytes[..ends]).is_ok(),
                "{:?}",
                String::from_utf8_lossy(&bytes[..ends])
            );
            assert!(
                ::redis::parse_redis_value(&bytes[..ends - 1]).is_err(),
                "{:?}",
                String::from_utf8_lossy(&bytes[..ends])
            );
        }
        assert!(whole > 500, "{whole}");
    }

    #[tokio::test]
    async fn a_refused_answer_ends_the_connection_and_says_why() {
        let (mut server, client) = tokio::io::duplex(4096);
        let mut metered = Metered::new(client, LIMITS);
        metered.write_all(b"GET x\r\n").await.expect("written");
        server.write_all(b"+OK\r\n").await.expect("written");
        let mut answer = [0; 5];
        metered.read_exact(&mut answer).await.expect("a small one");
        server.write_all(b"$314572800\r\nxxxxxxxx").await.expect("written");
        for _ in 0..2 {
            let error = metered.read(&mut [0; 64]).await.expect_err("refused, and for good");
            assert!(error.to_string().contains("314572800 bytes"), "{error}");
        }
    }
}
