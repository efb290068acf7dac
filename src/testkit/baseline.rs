//! The recorded results of the 200 seeds of every test run: a hash for each seed, and the count of each
//! combination of a slot's knowledge after a task has run.
//!
//! A change that only moves code changes neither. A change of what is awaited, drawn or noted changes hashes:
//! it comes alone, is judged by violations, mutants and the model, and then `make baseline` records the new
//! results. A new combination is a new state of a connection, and needs a rule that somebody has thought of.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::ledger::Counts;
use super::scenario::Report;

const SEEDS: &str = include_str!("baseline/seeds.txt");
const COMBINATIONS: &str = include_str!("baseline/combinations.txt");

/// Results of some seeds.
#[derive(Default)]
pub(crate) struct Baseline {
    hashes: BTreeMap<u64, u64>,
    pub(crate) counts: Counts,
}

impl Baseline {
    pub(crate) fn add(&mut self, seed: u64, report: &Report) {
        self.hashes.insert(seed, report.hash);
        self.counts.add(&report.counts);
    }

    /// Returns a line for each seed.
    pub(crate) fn seeds(&self) -> String {
        self.hashes.iter().fold(String::new(), |mut text, (seed, hash)| {
            let _ = writeln!(text, "{seed:>3} {hash:016x}");
            text
        })
    }

    /// Returns a line for each combination.
    pub(crate) fn combinations(&self) -> String {
        let mut text = "held     unstored   recent deleted unchecked times\n".to_owned();
        for (combination, times) in &self.counts.combinations {
            let _ = writeln!(text, "{combination} {times}");
        }
        text
    }

    /// Asserts that seeds and combinations equal the recorded ones.
    pub(crate) fn holds(&self) {
        let written: Vec<&str> = SEEDS.lines().collect();
        let changed: Vec<String> =
            self.seeds().lines().filter(|line| !written.contains(line)).map(str::to_owned).collect();
        assert!(
            changed.is_empty(),
            "{} of {} seeds are other runs than src/testkit/baseline/seeds.txt has: {changed:?}. A change \
             that only moves code changes none. Where it was meant to: `make baseline`.",
            changed.len(),
            self.hashes.len(),
        );
        let known = |line: &str| {
            COMBINATIONS.lines().any(|other| other.rsplit_once(' ').map(|(first, _)| first) == Some(line))
        };
        for combination in self.counts.combinations.keys() {
            let line = combination.to_string();
            assert!(
                known(&line),
                "{line:?} is no line of src/testkit/baseline/combinations.txt: `make baseline`"
            );
        }
    }
}
