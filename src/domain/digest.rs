//! SHA-256 as text.

use aws_lc_rs::digest::{SHA256, digest};

/// The SHA-256 of some bytes, in lower-case hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    let mut digits = [0; 64];
    hex_digits(digest(&SHA256, bytes).as_ref(), &mut digits).to_owned()
}

/// Writes bytes as lower-case hexadecimal digits, two for each, and returns these as text.
///
/// # Panics
/// When there is not just as much room as is needed.
pub fn hex_digits<'a>(bytes: &[u8], digits: &'a mut [u8]) -> &'a str {
    assert_eq!(digits.len(), 2 * bytes.len(), "two digits for each byte");
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&PAIRS[usize::from(*byte)]);
    }
    std::str::from_utf8(digits).expect("digits")
}

/// The two digits of each byte.
const PAIRS: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let (mut pairs, mut byte) = ([[0; 2]; 256], 0);
    while byte < 256 {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    pairs
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_sha256sum_says() {
        // `printf %s abc | sha256sum`
        assert_eq!(sha256_hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn every_byte_has_its_two_digits() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(hex_digits(&bytes, &mut [0; 512]), hex::encode(&bytes));
    }
}
