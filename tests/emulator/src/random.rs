//! The emulator's one source of randomness: token texts, ids, lifetimes.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use digests::sha256;

/// `n` random bytes.
#[expect(clippy::disallowed_methods, reason = "this file is where the emulator's randomness comes from")]
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    aws_lc_rs::rand::fill(&mut out).expect("the system's random source works");
    out
}

/// A random whole number in `low..=high`.
pub(crate) fn between(low: u64, high: u64) -> u64 {
    low + u64::from_be_bytes(bytes()) % (high - low + 1)
}

/// Random text that may stand in a URL, `N` bytes strong.
pub(crate) fn text<const N: usize>() -> String {
    URL_SAFE_NO_PAD.encode(bytes::<N>())
}

/// A random GUID.
pub(crate) fn guid() -> String {
    guid_from(bytes())
}

/// The same GUID for the same name, so that tests can predict tenant and object ids.
pub(crate) fn named_guid(name: &str) -> String {
    let digest = sha256(name.as_bytes());
    let mut first = [0; 16];
    first.copy_from_slice(&digest[..16]);
    guid_from(first)
}

/// Whether `text` has the shape of a GUID.
pub(crate) fn is_guid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

fn guid_from(mut raw: [u8; 16]) -> String {
    raw[6] = (raw[6] & 0x0f) | 0x40;
    raw[8] = (raw[8] & 0x3f) | 0x80;
    let hex: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The two digests the emulator needs, by their plain names.
pub(crate) mod digests {
    use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};

    pub(crate) fn sha256(data: &[u8]) -> Vec<u8> {
        digest(&SHA256, data).as_ref().to_vec()
    }

    pub(crate) fn sha1(data: &[u8]) -> Vec<u8> {
        digest(&SHA1_FOR_LEGACY_USE_ONLY, data).as_ref().to_vec()
    }
}
