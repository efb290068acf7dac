//! Fakes for the rooms' own tests and the benches; in no release build.
//!
//! In tests there is also a simulated world: the real engine and repository under virtual time (`tasks`,
//! `clock`), with a store and an authority that fail in every way that a seed draws (`store`, `authority`,
//! `faults`), in runs with callers, users and crashes (`scenario`), checked against the invariants of
//! `refresh` and `store` (`ledger`). `simulation` runs them.

#[cfg(test)]
mod authority;
#[cfg(test)]
mod baseline;
#[cfg(test)]
pub(crate) mod clock;
#[cfg(test)]
mod due;
#[cfg(test)]
pub(crate) mod faults;
pub mod fuzzing;
#[cfg(test)]
pub(crate) mod hand_clock;
#[cfg(test)]
mod journal;
#[cfg(test)]
mod ledger;
#[cfg(test)]
pub(crate) mod nobody;
#[cfg(test)]
pub(crate) mod refreshes;
#[cfg(test)]
mod scenario;
#[cfg(test)]
mod schedule;
#[cfg(test)]
mod simulation;
#[cfg(test)]
pub(crate) mod store;
#[cfg(test)]
pub(crate) mod tasks;

use parking_lot::Mutex;

use crate::domain::random::{Random, random_bytes};

/// Reproducible randomness (SplitMix64). Never for anything real.
pub struct SeededRandom(Mutex<u64>);

impl SeededRandom {
    /// Makes a generator; the same seed gives the same bytes.
    pub fn new(seed: u64) -> Self {
        SeededRandom(Mutex::new(seed))
    }

    /// Draws a number below `end`, which is not 0.
    pub fn below(&self, end: usize) -> usize {
        usize::try_from(u64::from_le_bytes(random_bytes(self)) % end as u64).unwrap_or(0)
    }
}

impl Random for SeededRandom {
    fn fill(&self, buffer: &mut [u8]) {
        let mut state = self.0.lock();
        for chunk in buffer.chunks_mut(8) {
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = *state;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^= word >> 31;
            chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        }
    }
}
