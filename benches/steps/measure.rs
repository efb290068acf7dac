//! Measuring a step: how long one of many takes, in rounds.

use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::support::spread::Spread;

/// Rounds of a step.
const ROUNDS: usize = 25;
/// How long a round takes at least.
const ROUND: Duration = Duration::from_millis(15);

/// The steps measured so far, in nanoseconds.
#[derive(Default)]
pub struct Table(Vec<(&'static str, Spread)>);

impl Table {
    /// Measures a step, with the drop of what it returns.
    pub fn row<T>(&mut self, name: &'static str, mut step: impl FnMut() -> T) {
        let mut run = |times: u32| {
            let begun = Instant::now();
            (0..times).for_each(|_| drop(black_box(step())));
            begun.elapsed()
        };
        let mut times = 1;
        while run(times) < ROUND {
            times *= 2;
        }
        let nanos: Vec<f64> =
            (0..ROUNDS).map(|_| run(times).as_secs_f64() * 1e9 / f64::from(times)).collect();
        self.0.push((name, Spread::of(&nanos)));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| step | ns | least | most |\n|---|---|---|---|")?;
        self.0.iter().try_for_each(|(name, nanos)| {
            writeln!(f, "| {name} | {:.0} | {:.0} | {:.0} |", nanos.median(), nanos.least(), nanos.most())
        })
    }
}
