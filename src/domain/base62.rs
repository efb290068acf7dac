//! Digits of base62, and the checksum in them: the parts of credentials that a leak scanner recognizes
//! without asking anyone.

use zeroize::{Zeroize, Zeroizing};

/// Digits of a checksum: 62^6 is the first power of 62 beyond 2^32.
pub const CHECKSUM_DIGITS: usize = 6;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Writes the big-endian `number`, which is consumed, as `N` base62 digits.
pub fn base62<const N: usize>(number: &mut [u8]) -> Zeroizing<[u8; N]> {
    let mut digits = Zeroizing::new([b'0'; N]);
    for digit in digits.iter_mut().rev() {
        let mut remainder = 0u32;
        for byte in number.iter_mut() {
            let dividend = remainder << 8 | u32::from(*byte);
            *byte = (dividend / 62) as u8;
            remainder = dividend % 62;
        }
        *digit = DIGITS[remainder as usize];
        remainder.zeroize();
    }
    digits
}

/// Returns the CRC-32 of a text in base62.
pub fn checksum(text: &[u8]) -> [u8; CHECKSUM_DIGITS] {
    let (mut digits, mut left) = ([0; CHECKSUM_DIGITS], crc32(text));
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(left % 62) as usize];
        left /= 62;
    }
    digits
}

/// Computes the CRC-32 of zip and Ethernet (reflected, polynomial 0x04C11DB7).
fn crc32(bytes: &[u8]) -> u32 {
    let next = |crc: u32, byte: &u8| crc >> 8 ^ CRC_OF_BYTES[((crc ^ u32::from(*byte)) & 0xff) as usize];
    !bytes.iter().fold(u32::MAX, next)
}

/// The CRC-32 of each byte alone.
const CRC_OF_BYTES: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_well_known_crc_32() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn digits_are_those_that_another_program_computed() {
        assert_eq!(&*base62::<43>(&mut [0; 32]), &[b'0'; 43]);
        // 2^256 - 1.
        let largest = base62::<43>(&mut [0xff; 32]);
        assert_eq!(std::str::from_utf8(&*largest).expect("digits"), LARGEST);
    }

    const LARGEST: &str = "yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp1";
}
