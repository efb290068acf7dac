//! A strict count of HTTP/2 frames between the socket and hyper.
//!
//! A frame costs its sender nine bytes and may cost us a lookup, an answer or a place in a queue. The library
//! bounds what each kind may make it keep. It does not bound how many there are for each request that they
//! are sent for, and this count does: a frame that brings no request comes out of a budget that fills slowly,
//! and a connection that has overdrawn it ends.
//!
//! Pure: bytes and the time in, a verdict out. What the frames say is left to the library.

use std::time::Duration;

use crate::domain::bucket::{ONE, Rate, TokenBucket};

/// Bytes that a client begins with.
const PREFACE: usize = 24;
/// Bytes in front of each frame.
const HEAD: usize = 9;

/// Frames that serve requests without being one: a client sends a few at the start and a few for each answer.
const CONTROL: (f64, f64) = (128.0, 1024.0);
/// How many of them each request brings along.
const CONTROL_PER_REQUEST: i64 = 4;
/// Requests that are taken back, or begun beyond the limit, or malformed. All of a connection may be taken
/// back at once, twice.
const TAKEN_BACK: (f64, f64) = (32.0, 2.0 * super::MOST_STREAMS as f64);
/// Most CONTINUATION frames of a header block. With frames of 16 KiB one is enough.
const MOST_CONTINUATIONS: u32 = 4;
/// A part of a body shorter than this costs more to keep than its bytes.
const SMALL_DATA: usize = 256;

/// Reason why a connection is ended for its frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flood {
    /// Requests that were taken back, begun beyond the limit, or malformed.
    TakenBack,
    /// Frames that bring no request.
    Control,
    /// A header block in many pieces.
    Continuations,
}

impl Flood {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Flood::TakenBack => "requests that are taken back, malformed or too many at once",
            Flood::Control => "frames without requests",
            Flood::Continuations => "a header block in too many pieces",
        }
    }
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FrameHead {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl FrameHead {
    const END_STREAM: u8 = 0x1;
    const END_HEADERS: u8 = 0x4;

    fn read(bytes: [u8; HEAD]) -> Self {
        let [a, b, c, kind, flags, d, e, f, g] = bytes;
        FrameHead {
            length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            kind,
            flags,
            stream: u32::from_be_bytes([d & 0x7f, e, f, g]),
        }
    }
}

/// The place within a sequence of frames.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Edge {
    head: [u8; HEAD],
    filled: usize,
    left: usize,
    kind: u8,
}

impl Edge {
    /// Takes bytes up to the next end of a frame's head, or of its rest. Returns how many, and that head.
    fn step(&mut self, bytes: &[u8]) -> (usize, Option<FrameHead>) {
        if self.left > 0 {
            let taken = self.left.min(bytes.len());
            self.left -= taken;
            return (taken, None);
        }
        let taken = (HEAD - self.filled).min(bytes.len());
        self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
        self.filled += taken;
        if self.filled < HEAD {
            return (taken, None);
        }
        let head = FrameHead::read(self.head);
        (self.filled, self.left, self.kind) = (0, head.length, head.kind);
        (taken, Some(head))
    }

    /// Takes bytes, whatever they are.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (taken, _) = self.step(bytes);
            bytes = &bytes[taken..];
        }
    }

    /// Returns true between two frames.
    pub(super) fn is_between(&self) -> bool {
        self.filled == 0 && self.left == 0
    }
}

/// The count of one connection.
#[derive(Debug)]
pub(super) struct Frames {
    preface: usize,
    edge: Edge,
    control: TokenBucket,
    taken_back: TokenBucket,
    /// The last stream that was begun.
    last: u32,
    /// How many were.
    begun: u64,
    /// How many of those are known to have been refused or accepted.
    settled: u64,
    /// Bytes of the header block that has not ended, and its pieces after the first.
    block: Option<(usize, u32)>,
}

impl Frames {
    pub(super) fn new(now: Duration) -> Self {
        Frames {
            preface: PREFACE,
            edge: Edge::default(),
            control: TokenBucket::full(control(), now),
            taken_back: TokenBucket::full(taken_back(), now),
            last: 0,
            begun: 0,
            settled: 0,
            block: None,
        }
    }

    /// Takes the bytes of one read.
    pub(super) fn take(&mut self, mut bytes: &[u8], now: Duration) -> Result<(), Flood> {
        let skipped = self.preface.min(bytes.len());
        self.preface -= skipped;
        bytes = &bytes[skipped..];
        while !bytes.is_empty() {
            let (taken, head) = self.edge.step(bytes);
            bytes = &bytes[taken..];
            if let Some(head) = head {
                self.frame(head, now)?;
            }
            if let Some((length, _)) = &mut self.block {
                *length += taken;
            }
            if self.edge.is_between() && self.block_has_ended() {
                self.block = None;
            }
        }
        Ok(())
    }

    fn frame(&mut self, head: FrameHead, now: Duration) -> Result<(), Flood> {
        const DATA: u8 = 0;
        const HEADERS: u8 = 1;
        const RST_STREAM: u8 = 3;
        const CONTINUATION: u8 = 9;
        match head.kind {
            // The end of a body comes once for each request.
            DATA if head.length >= SMALL_DATA || head.flags & FrameHead::END_STREAM != 0 => Ok(()),
            HEADERS => {
                self.block = Some((0, 0));
                if head.stream > self.last {
                    self.last = head.stream;
                    self.begun += 1;
                    self.control.give_back(CONTROL_PER_REQUEST * ONE);
                    return Ok(());
                }
                self.control(now)
            }
            CONTINUATION => {
                let pieces = self.block.as_mut().map_or(0, |(_, pieces)| {
                    *pieces += 1;
                    *pieces
                });
                if pieces > MOST_CONTINUATIONS { Err(Flood::Continuations) } else { Ok(()) }
            }
            RST_STREAM => self.taken_back(now),
            _ => self.control(now),
        }
    }

    /// Returns true if the frame that has just ended is the last of its header block.
    fn block_has_ended(&self) -> bool {
        self.edge.head[4] & FrameHead::END_HEADERS != 0
    }

    fn control(&mut self, now: Duration) -> Result<(), Flood> {
        self.control.try_take(control(), now).map_err(|_| Flood::Control)
    }

    fn taken_back(&mut self, now: Duration) -> Result<(), Flood> {
        self.taken_back.try_take(taken_back(), now).map_err(|_| Flood::TakenBack)
    }

    /// Records that the library has worked off everything that was read, and has accepted so many requests in
    /// all. It refused the rest: they were malformed, or too many at once.
    pub(super) fn settle(&mut self, accepted: u64, now: Duration) -> Result<(), Flood> {
        if self.in_block() {
            return Ok(());
        }
        let refused = self.begun.saturating_sub(accepted).saturating_sub(self.settled);
        self.settled += refused;
        (0..refused).try_for_each(|_| self.taken_back(now))
    }

    /// Returns true while a frame or a header block has begun and not ended. A part of a body does not count:
    /// the body has a deadline of its own.
    pub(super) fn is_unfinished(&self) -> bool {
        const DATA: u8 = 0;
        let in_frame = match (self.edge.filled, self.edge.left) {
            (0, 0) => false,
            (0, _) => self.edge.kind != DATA,
            _ => true,
        };
        (1..PREFACE).contains(&self.preface) || in_frame || self.in_block()
    }

    fn in_block(&self) -> bool {
        self.block.is_some()
    }

    /// Returns the bytes of the header block that has not ended.
    pub(super) fn in_progress(&self) -> usize {
        self.block.map_or(0, |(length, _)| length)
    }

    /// Returns the last stream that was begun.
    pub(super) fn last(&self) -> u32 {
        self.last
    }
}

fn control() -> Rate {
    Rate::new(CONTROL.0, CONTROL.1)
}

fn taken_back() -> Rate {
    Rate::new(TAKEN_BACK.0, TAKEN_BACK.1)
}

/// Makes a GOAWAY frame.
pub(super) fn go_away(last: u32, code: u32) -> [u8; HEAD + 8] {
    let mut frame = [0; HEAD + 8];
    (frame[2], frame[3]) = (8, 7);
    frame[9..13].copy_from_slice(&last.to_be_bytes());
    frame[13..].copy_from_slice(&code.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags];
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    /// How many of the frames pass, whole or byte by byte.
    fn passed(frames: &[Vec<u8>], at: impl Fn(usize) -> Duration) -> (usize, Option<Flood>) {
        let all = [false, true].map(|is_cut| {
            let mut count = Frames::new(Duration::ZERO);
            count.take(&[b'x'; PREFACE], Duration::ZERO).expect("a preface");
            for (number, frame) in frames.iter().enumerate() {
                let mut pieces = frame.chunks(if is_cut { 1 } else { frame.len() });
                if let Err(flood) = pieces.try_for_each(|piece| count.take(piece, at(number))) {
                    return (number, Some(flood));
                }
                assert!(count.edge.is_between());
            }
            (frames.len(), None)
        });
        assert_eq!(all[0], all[1], "the verdict depends on the cuts");
        all[0]
    }

    #[test]
    fn what_brings_no_request_comes_out_of_a_budget_that_fills_slowly() {
        let at_once = |_| Duration::ZERO;
        for (kind, flags, payload) in [
            (4, 0, 0),
            (4, 1, 0),
            (6, 0, 8),
            (8, 0, 4),
            (2, 0, 5),
            (7, 0, 8),
            (99, 0, 3),
            (0, 0, 0),
            (0, 0, 255),
        ] {
            let many = vec![frame(kind, flags, 1, &vec![0; payload]); 2000];
            assert_eq!(passed(&many, at_once), (1024, Some(Flood::Control)), "frames of kind {kind}");
            // So many a second are taken for ever.
            let slowly = |number: usize| SECOND * u32::try_from(number).expect("few") / 128;
            assert_eq!(passed(&many, slowly), (2000, None), "frames of kind {kind}");
        }
        // Trailers, or a head for a stream that has been.
        let heads = vec![frame(1, 4, 1, b""); 2000];
        assert_eq!(passed(&heads, at_once), (1025, Some(Flood::Control)));
    }

    #[test]
    fn a_request_brings_its_frames_along() {
        let requests = (0..5000_u32).flat_map(|number| {
            let stream = 2 * number + 1;
            let small = frame(8, 0, stream, &[0; 4]);
            let body = frame(0, 0, stream, &[0; 256]);
            let end = frame(0, 1, stream, b"");
            [frame(1, 4, stream, b"x"), small.clone(), small.clone(), small.clone(), small, body, end]
        });
        let requests: Vec<_> = requests.collect();
        assert_eq!(passed(&requests, |_| Duration::ZERO), (requests.len(), None));
    }

    #[test]
    fn requests_that_are_taken_back_refused_or_malformed_have_one_small_budget() {
        let back = |number: u32| {
            let stream = 2 * number + 1;
            [frame(1, 5, stream, b"x"), frame(3, 0, stream, &[0; 4])]
        };
        let rapid: Vec<_> = (0..1000).flat_map(back).collect();
        let most = 2 * usize::try_from(super::super::MOST_STREAMS).expect("few");
        assert_eq!(passed(&rapid, |_| Duration::ZERO), (2 * most + 1, Some(Flood::TakenBack)));
        // What the library accepted does not count, and what it refused does.
        let mut count = Frames::new(Duration::ZERO);
        count.take(&[0; PREFACE], Duration::ZERO).expect("a preface");
        for number in 0..1000 {
            count.take(&frame(1, 5, 2 * number + 1, b"x"), Duration::ZERO).expect("a request");
            assert_eq!(count.settle(u64::from(number) + 1, Duration::ZERO), Ok(()));
        }
        let mut refused = 0;
        let flood = loop {
            count.take(&frame(1, 5, 2001 + 2 * refused, b"x"), Duration::ZERO).expect("a request");
            if let Err(flood) = count.settle(1000, Duration::ZERO) {
                break flood;
            }
            assert_eq!(count.settle(1000, Duration::ZERO), Ok(()), "each counts once");
            refused += 1;
        };
        assert_eq!((usize::try_from(refused), flood), (Ok(most), Flood::TakenBack));
    }

    #[test]
    fn a_header_block_has_few_pieces_and_is_unfinished_until_its_last() {
        let mut block = vec![frame(1, 1, 1, b"abc")];
        block.extend(vec![frame(9, 0, 1, b""); 9]);
        assert_eq!(passed(&block, |_| Duration::ZERO), (5, Some(Flood::Continuations)));
        let mut count = Frames::new(Duration::ZERO);
        let mut take = |bytes: &[u8]| {
            count.take(bytes, Duration::ZERO).expect("no flood");
            (count.is_unfinished(), count.in_progress())
        };
        assert_eq!(take(b""), (false, 0));
        assert_eq!(take(&[0; 23]), (true, 0));
        assert_eq!(take(&[0]), (false, 0));
        assert_eq!(take(&frame(1, 1, 1, b"abc")), (true, 12));
        assert_eq!(take(&frame(9, 0, 1, b"abc")), (true, 24));
        let last = frame(9, 4, 1, b"abc");
        assert_eq!(take(&last[..11]), (true, 35));
        assert_eq!(take(&last[11..]), (false, 0));
        // Half a frame is unfinished, but for the rest of a body.
        let ping = frame(6, 0, 0, &[0; 8]);
        assert_eq!((take(&ping[..8]).0, take(&ping[8..12]).0, take(&ping[12..]).0), (true, true, false));
        let data = frame(0, 0, 1, &[0; 300]);
        assert_eq!((take(&data[..8]).0, take(&data[8..12]).0, take(&data[12..]).0), (true, false, false));
    }

    #[test]
    fn a_goaway_is_one_frame() {
        let bytes = go_away(5, 11);
        let mut edge = Edge::default();
        let (_, head) = edge.step(&bytes);
        assert_eq!(head, Some(FrameHead { length: 8, kind: 7, flags: 0, stream: 0 }));
        edge.pass(&bytes[HEAD..]);
        assert!(edge.is_between() && bytes[9..] == [0, 0, 0, 5, 0, 0, 0, 11]);
        edge.pass(&bytes[..12]);
        assert!(!edge.is_between());
    }
}
