//! A client that writes its frames by hand.

use super::*;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// How a stream, or its connection, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Status(u16),
    Reset(u32),
    GoAway(u32),
    Closed,
}

#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

pub(super) struct Raw {
    stream: TlsStream<TcpStream>,
}

/// One frame.
pub(super) fn bytes(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header block of literals that no table keeps.
pub(super) fn block(lines: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in lines {
        block.push(0);
        for text in [name, value] {
            length(&mut block, text.len());
            block.extend_from_slice(text);
        }
    }
    block
}

/// The length of a text (RFC 7541 section 5.1).
pub(super) fn length(block: &mut Vec<u8>, length: usize) {
    let Some(mut rest) = length.checked_sub(127) else {
        return block.push(u8::try_from(length).expect("below 127"));
    };
    block.push(127);
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).expect("7 bits") | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).expect("7 bits"));
}

/// The block of an ordinary request.
pub(super) fn request(method: &[u8], path: &[u8]) -> Vec<u8> {
    block(&[(b":method", method), (b":scheme", b"https"), (b":path", path), (b":authority", b"a")])
}

/// The code of a GOAWAY, or of a reset.
pub(super) fn code(frame: &Frame) -> u32 {
    let at = if frame.kind == GOAWAY { 4 } else { 0 };
    u32::from_be_bytes(frame.payload[at..at + 4].try_into().expect("four bytes"))
}

impl Raw {
    pub(super) async fn shake_hands(served: &Served) -> Self {
        let stream = shake_hands(served, None, &TLS13, &["h2"]).await.expect("a handshake");
        Raw { stream }
    }

    pub(super) async fn connect(served: &Served) -> Self {
        Self::with_settings(served, &[]).await
    }

    /// Connects and sends settings: each is a number and a value.
    pub(super) async fn with_settings(served: &Served, settings: &[(u16, u32)]) -> Self {
        let mut raw = Self::shake_hands(served).await;
        let mut payload = Vec::new();
        for (id, value) in settings {
            payload.extend_from_slice(&id.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        raw.frame(SETTINGS, 0, 0, &payload).await;
        raw
    }

    pub(super) async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.try_send(bytes)).await.expect("in time").expect("sent");
    }

    pub(super) async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.send(&bytes(kind, flags, stream, payload)).await;
    }

    pub(super) async fn head(&mut self, stream: u32, flags: u8, lines: &[(&[u8], &[u8])]) {
        self.frame(HEADERS, flags | END_HEADERS, stream, &block(lines)).await;
    }

    pub(super) async fn get(&mut self, stream: u32, path: &[u8]) {
        self.frame(HEADERS, END_STREAM | END_HEADERS, stream, &request(b"GET", path)).await;
    }

    /// Reads the next frame; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        let read = async {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut payload = vec![0; length];
            self.stream.read_exact(&mut payload).await.ok()?;
            let stream = u32::from_be_bytes(head[5..9].try_into().expect("four bytes"));
            Some(Frame { kind: head[3], stream, payload })
        };
        timeout(PATIENCE, read).await.expect("a frame, or the end, in time")
    }

    /// Reads until the stream has its answer, or will have none.
    pub(super) async fn end_of_stream(&mut self, stream: u32) -> End {
        while let Some(frame) = self.next().await {
            match frame.kind {
                HEADERS if frame.stream == stream => return End::Status(status(&frame.payload)),
                RST_STREAM if frame.stream == stream => return End::Reset(code(&frame)),
                GOAWAY => return End::GoAway(code(&frame)),
                _ => {}
            }
        }
        End::Closed
    }

    /// Reads until the connection ends; returns all frames.
    pub(super) async fn closed(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            frames.push(frame);
        }
        frames
    }

    /// Sends bytes and reads nothing, until the connection ends.
    pub(super) async fn only_writes(mut self, mut next: impl FnMut(u32) -> Vec<u8>) {
        for number in 0..MOST {
            // (TLS reads nothing while it writes.)
            if self.try_send(&next(number)).await.is_err() {
                return;
            }
        }
        panic!("nothing ends it");
    }

    /// Sends bytes while it reads, until the connection ends. Returns the frames that came, and how often it
    /// sent something.
    pub(super) async fn flood(self, mut next: impl FnMut(u32) -> Vec<u8>) -> (Vec<Frame>, u32) {
        let (mut reads, mut writes) = tokio::io::split(self.stream);
        let read = async {
            let mut bytes = Vec::new();
            // A reset is as good an end as any.
            let _ = reads.read_to_end(&mut bytes).await;
            let mut frames = Vec::new();
            let mut rest = &bytes[..];
            while let [a, b, c, kind, _, d, e, f, g, after @ ..] = rest {
                let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
                let Some((payload, after)) = after.split_at_checked(length) else { break };
                let stream = u32::from_be_bytes([*d, *e, *f, *g]);
                frames.push(Frame { kind: *kind, stream, payload: payload.to_vec() });
                rest = after;
            }
            frames
        };
        let write = async {
            for number in 0..MOST {
                if writes.write_all(&next(number)).await.is_err() || writes.flush().await.is_err() {
                    return number;
                }
            }
            panic!("nothing ends it");
        };
        timeout(PATIENCE, async { tokio::join!(read, write) }).await.expect("it ends")
    }
}

/// More than any flood may send.
const MOST: u32 = 100_000;

/// The status in a block of the listener's, of those that have a byte of their own (RFC 7541, appendix A).
fn status(block: &[u8]) -> u16 {
    // A change of the table's size may come first.
    let first = block.iter().copied().find(|byte| byte >> 5 != 1).unwrap_or_default();
    match first {
        0x88 => 200,
        0x8c => 400,
        0x8e => 500,
        _ => 0,
    }
}
