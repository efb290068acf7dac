//! Medians, with the least and the most.

use std::fmt;

/// Median, least and most.
#[derive(Clone, Copy)]
pub struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    pub fn of(all: &[f64]) -> Self {
        let mut all = all.to_vec();
        all.sort_by(f64::total_cmp);
        let at = |at: usize| all.get(at).copied().unwrap_or_default();
        Spread { median: at(all.len() / 2), least: at(0), most: at(all.len().saturating_sub(1)) }
    }

    /// Of the ratio of each round.
    pub fn of_ratios(one: &[f64], other: &[f64]) -> Self {
        Spread::of(&one.iter().zip(other).map(|(one, other)| one / other).collect::<Vec<_>>())
    }

    pub fn median(self) -> f64 {
        self.median
    }

    pub fn least(self) -> f64 {
        self.least
    }

    pub fn most(self) -> f64 {
        self.most
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2} to {:.2})", self.median, self.least, self.most)
    }
}
