//! Randomness as a port, so that simulations replay.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Source of random bytes: a CSPRNG in the daemon, a seed in simulations.
pub trait Random: Send + Sync {
    /// Fills the whole buffer.
    fn fill(&self, buffer: &mut [u8]);
}

/// Returns `N` random bytes.
pub fn random_bytes<const N: usize>(random: &dyn Random) -> [u8; N] {
    let mut bytes = [0; N];
    random.fill(&mut bytes);
    bytes
}

/// Returns 256 random bits as 43 URL-safe characters, for states, nonces, verifiers, session ids and codes
/// (RFC 7636 §4.1 asks for exactly this of a verifier).
pub fn random_token(random: &dyn Random) -> String {
    URL_SAFE_NO_PAD.encode(random_bytes::<32>(random))
}

/// A random UUID (version 4, RFC 9562 §5.4).
pub fn random_uuid(random: &dyn Random) -> String {
    let mut bytes = random_bytes::<16>(random);
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = hex::encode(bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
