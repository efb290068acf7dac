//! Reading an answer, and nothing of it but its status and its length.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Reads one whole answer, which must be a 200, into the buffer, and returns its length.
pub async fn read(stream: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> io::Result<usize> {
    let (mut filled, mut whole) = (0, None);
    loop {
        filled += match stream.read(&mut buffer[filled..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => more,
        };
        if whole.is_none() {
            whole = length_of(&buffer[..filled]);
        }
        if whole.is_some_and(|whole| filled >= whole) {
            return Ok(filled);
        }
    }
}

/// The length of the answer whose head is there.
fn length_of(bytes: &[u8]) -> Option<usize> {
    // (Go's server begins each word with a capital.)
    const LENGTH: &[u8] = b"ontent-";
    const REST: usize = b"ontent-length: ".len();
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    assert!(bytes.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(bytes));
    let is_length = |at: &usize| {
        bytes[*at..].starts_with(LENGTH)
            && bytes[at + LENGTH.len()..head].to_ascii_lowercase().starts_with(b"length: ")
    };
    let at = (0..head).find(is_length).expect("a length");
    let digits = bytes[at + REST..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(head + 4 + digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0')))
}
