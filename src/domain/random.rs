//! Randomness as a port, so that simulations replay.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;

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

/// How many bytes are drawn at once.
const DRAWN: usize = 2048;

/// Random bytes for what is public and needed often, such as the ids of requests: drawn in advance, many at a
/// time. They stay in memory until they are used, so they are for no secret.
pub struct Stock {
    random: Arc<dyn Random>,
    /// The last ones drawn, and how many of them are used.
    drawn: Mutex<([u8; DRAWN], usize)>,
}

impl Stock {
    /// Makes an empty stock.
    pub fn new(random: Arc<dyn Random>) -> Self {
        Stock { random, drawn: Mutex::new(([0; DRAWN], DRAWN)) }
    }
}

impl Random for Stock {
    fn fill(&self, buffer: &mut [u8]) {
        if buffer.len() > DRAWN {
            return self.random.fill(buffer);
        }
        let mut drawn = self.drawn.lock();
        let (bytes, used) = &mut *drawn;
        if *used + buffer.len() > DRAWN {
            self.random.fill(bytes);
            *used = 0;
        }
        buffer.copy_from_slice(&bytes[*used..*used + buffer.len()]);
        *used += buffer.len();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::testkit::SeededRandom;

    #[test]
    fn a_stock_gives_nothing_twice() {
        let stock = Stock::new(Arc::new(SeededRandom::new(1)));
        let mut seen = BTreeSet::new();
        for _ in 0..3 * DRAWN / 16 {
            assert!(seen.insert(random_bytes::<16>(&stock)));
            assert!(seen.insert(random_bytes::<16>(&stock)));
            let odd = random_bytes::<7>(&stock);
            assert_ne!(odd, random_bytes::<7>(&stock));
        }
        let mut long = [0; DRAWN + 1];
        stock.fill(&mut long);
        assert_ne!(long[..DRAWN / 2], long[DRAWN / 2..DRAWN]);
    }
}
