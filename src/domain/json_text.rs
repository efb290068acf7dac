//! JSON that is written by hand where it is written thousands of times a second. What such a writer writes is
//! compared with serde's in its tests.

/// Appends a string, in quotation marks and escaped as JSON wants it (RFC 8259 section 7).
pub fn push_text(out: &mut Vec<u8>, text: &str) {
    if is_plain(text) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect("a list of bytes takes everything");
    }
}

/// Appends a whole number.
pub fn push_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Whether nothing in it needs an escape. (Without a branch for each byte, so that many are looked at at
/// once.)
fn is_plain(text: &str) -> bool {
    let needs_escape = |byte: u8| (byte < b' ') | (byte == b'"') | (byte == b'\\');
    !text.bytes().fold(false, |found, byte| found | needs_escape(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_numbers_are_written_as_serde_writes_them() {
        for text in ["", "a.b-c_d~", "\"", "a\\b", "\u{1f}\n\t", "\u{7f}\u{80}ä€😀", "a\u{2028}/"] {
            let mut out = Vec::new();
            push_text(&mut out, text);
            assert_eq!(out, serde_json::to_vec(text).expect("text"), "{text:?}");
        }
        for number in [0, 7, 10, 99, 3599, 1_000_000, u64::MAX] {
            let mut out = Vec::new();
            push_number(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }
}
