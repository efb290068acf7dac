//! How far a long command is: shown on a terminal once it takes more than a second, with its rate and, where
//! the end is known, the time left.

use std::fs::File;
use std::io::{self, Read};
use std::time::Duration;

use super::output::Output;
use crate::domain::time::Clock;

/// How many bytes are read between two looks at the clock.
const STEP: u64 = 1 << MIB;
const MIB: u32 = 20;
/// Time before anything is shown.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time between two signs of life.
const AGAIN: Duration = Duration::from_millis(500);

/// The progress of one command, counted in `unit`.
pub(super) struct Progress {
    unit: &'static str,
    /// How many there are in all, if that is known.
    all: Option<u64>,
    began: Duration,
    shown: Duration,
}

impl Progress {
    /// Begins to count.
    pub(super) fn new(clock: &dyn Clock, unit: &'static str, all: Option<u64>) -> Self {
        let began = clock.monotonic();
        Progress { unit, all, began, shown: began.saturating_add(PATIENCE).saturating_sub(AGAIN) }
    }

    /// Shows that so many are done, if it is time to.
    pub(super) fn show(&mut self, done: u64, clock: &dyn Clock, output: &mut Output) {
        let now = clock.monotonic();
        if now.saturating_sub(self.shown) < AGAIN {
            return;
        }
        self.shown = now;
        output.progress(&self.line(done, now.saturating_sub(self.began)));
    }

    fn line(&self, done: u64, took: Duration) -> String {
        let unit = self.unit;
        match self.all.filter(|all| *all > 0) {
            None => format!("{done} {unit}, {:.0} a second", rate(done, took)),
            Some(all) => {
                let percent = done.saturating_mul(100) / all;
                let pace = pace(done, all.saturating_sub(done), took);
                let pace = pace.map(|pace| format!(", {pace}")).unwrap_or_default();
                format!("{percent} % of {all} {unit}{pace}")
            }
        }
    }
}

fn rate(done: u64, took: Duration) -> f64 {
    done as f64 / took.as_secs_f64().max(0.001)
}

/// Says how fast it goes, and how long the rest takes at that pace. `None` if nothing was done yet.
pub(super) fn pace(done: u64, to_do: u64, took: Duration) -> Option<String> {
    let rate = rate(done, took);
    let left = Duration::try_from_secs_f64(to_do as f64 / rate).ok()?;
    Some(format!("{rate:.0} a second, {} left", words(left)))
}

/// Formats a time by its two largest units.
fn words(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A file that says how far it was read.
pub(super) struct Watched<'a> {
    file: File,
    read: u64,
    shown: u64,
    progress: Progress,
    clock: &'a dyn Clock,
    output: &'a mut Output,
}

impl<'a> Watched<'a> {
    /// Watches how a file is read.
    pub(super) fn new(file: File, clock: &'a dyn Clock, output: &'a mut Output) -> io::Result<Self> {
        let size = file.metadata()?.len() >> MIB;
        Ok(Watched {
            file,
            read: 0,
            shown: 0,
            progress: Progress::new(clock, "MiB", Some(size)),
            clock,
            output,
        })
    }
}

impl Read for Watched<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(bytes)?;
        self.read += count as u64;
        if self.read - self.shown >= STEP {
            self.shown = self.read;
            self.progress.show(self.read >> MIB, self.clock, self.output);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_what_is_done_the_rate_and_the_time_left() {
        let progress = |all| Progress { unit: "records", all, began: Duration::ZERO, shown: Duration::ZERO };
        let line = progress(Some(1000)).line(250, Duration::from_secs(5));
        assert_eq!(line, "25 % of 1000 records, 50 a second, 15 s left");
        let line = progress(None).line(250, Duration::from_secs(5));
        assert_eq!(line, "250 records, 50 a second");
        // Nothing done yet, and an empty whole.
        assert_eq!(progress(Some(10)).line(0, Duration::ZERO), "0 % of 10 records");
        assert_eq!(progress(Some(0)).line(0, Duration::from_secs(1)), "0 records, 0 a second");
        assert_eq!(words(Duration::from_secs(3_725)), "1 h 2 min");
        assert_eq!(words(Duration::from_secs(125)), "2 min 5 s");
    }
}
