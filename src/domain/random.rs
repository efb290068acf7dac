//! Randomness as a port, so that simulations replay.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Where random bytes come from: in the daemon a CSPRNG, in simulations a seed.
pub trait Random: Send + Sync {
    /// Fills the whole buffer.
    fn fill(&self, buffer: &mut [u8]);
}

/// `N` random bytes.
pub fn random_bytes<const N: usize>(random: &dyn Random) -> [u8; N] {
    let mut bytes = [0; N];
    random.fill(&mut bytes);
    bytes
}

/// 256 random bits as 43 URL-safe characters: for states, nonces, verifiers, session ids and codes
/// (RFC 7636 §4.1 asks for just this of a verifier).
pub fn random_token(random: &dyn Random) -> String {
    URL_SAFE_NO_PAD.encode(random_bytes::<32>(random))
}
