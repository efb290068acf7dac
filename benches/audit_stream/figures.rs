//! What is noted of every second: answers, and the memory of the daemon.

use std::time::Duration;

use crate::support::spread::Spread;
use crate::support::{Failure, process};

/// The memory of a process, in MiB.
#[derive(Clone, Copy)]
pub struct Memory {
    /// What no file backs.
    own: f64,
    /// All that is in memory.
    all: f64,
}

impl Memory {
    pub fn of(process: u32) -> Result<Self, Failure> {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        Ok(Memory { own: mib(process::memory(process)?), all: mib(process::resident(process)?) })
    }
}

/// The figures of a run.
#[derive(Default)]
pub struct Figures {
    pub answers: u64,
    /// Records that the daemon counts as lost.
    pub lost: u64,
    asked_for: Duration,
    memory: Vec<Memory>,
    /// Answers, time and bytes until the last minute's end.
    before: (u64, Duration, u64),
}

impl Figures {
    /// Adds a slice of the load.
    pub fn add(&mut self, answers: u64, took: Duration, memory: Memory) {
        self.answers += answers;
        self.asked_for += took;
        self.memory.push(memory);
    }

    /// How long the load has run.
    pub fn asked_for(&self) -> Duration {
        self.asked_for
    }

    /// The line of a minute.
    pub fn minute(&mut self, written: u64, files: usize, lost: u64) -> String {
        let (answers, time, bytes) =
            std::mem::replace(&mut self.before, (self.answers, self.asked_for, written));
        let (answers, bytes) = (self.answers - answers, written - bytes);
        let seconds = (self.asked_for - time).as_secs_f64();
        let last = self.memory.last().copied().unwrap_or(Memory { own: 0.0, all: 0.0 });
        format!(
            "{:.0} requests/s, {:.1} MB/s of audit, {:.0} bytes a hand-out, RssAnon {:.1} MiB, RSS {:.1} MiB, {files} \
             files, {lost} lost",
            answers as f64 / seconds,
            bytes as f64 / seconds / 1e6,
            bytes as f64 / answers.max(1) as f64,
            last.own,
            last.all
        )
    }

    /// How much memory that no file backs grew from the first quarter to the last, by their medians, in MiB.
    pub fn growth(&self) -> f64 {
        let quarter = (self.memory.len() / 4).max(1).min(self.memory.len());
        let median =
            |some: &[Memory]| Spread::of(&some.iter().map(|one| one.own).collect::<Vec<_>>()).median();
        median(&self.memory[self.memory.len() - quarter..]) - median(&self.memory[..quarter])
    }
}
