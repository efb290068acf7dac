//! Wait before the next try: it grows with each failure, up to a bound.

use std::time::Duration;

use super::random::{Random, random_bytes};

/// The wait after the first failure, doubled with each further one in a row, up to `longest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after one failure.
    pub first: Duration,
    /// The longest wait.
    pub longest: Duration,
}

impl Backoff {
    /// Returns the wait after this many failures in a row; zero failures count as one.
    pub fn after(self, failures: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
        self.first.saturating_mul(doubled).min(self.longest)
    }
}

/// Adds a random part of the wait, up to `share` (it draws one byte), so that processes which failed together
/// do not retry together.
pub fn jittered(wait: Duration, share: f64, random: &dyn Random) -> Duration {
    let [jitter] = random_bytes::<1>(random);
    wait + wait.mul_f64(f64::from(jitter) / 255.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_doubles_up_to_the_longest() {
        let backoff = Backoff { first: Duration::from_millis(50), longest: Duration::from_secs(1) };
        let waits = [0, 1, 2, 3, 4, 5, 6, 7, u32::MAX].map(|failures| backoff.after(failures).as_millis());
        assert_eq!(waits, [50, 50, 100, 200, 400, 800, 1000, 1000, 1000]);
        let unbounded = Backoff { first: Duration::from_secs(u64::MAX), longest: Duration::MAX };
        assert_eq!(unbounded.after(u32::MAX), Duration::MAX, "no overflow");
    }

    #[test]
    fn jitter_adds_no_more_than_its_share() {
        struct Byte(u8);
        impl Random for Byte {
            fn fill(&self, buffer: &mut [u8]) {
                buffer.fill(self.0);
            }
        }
        let wait = Duration::from_secs(10);
        let jittered = |byte| jittered(wait, 0.2, &Byte(byte));
        assert_eq!((jittered(0), jittered(255)), (wait, Duration::from_secs(12)));
        assert!((wait..Duration::from_secs(12)).contains(&jittered(128)));
    }
}
