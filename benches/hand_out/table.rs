//! What came out: rates, ratios and latencies, as text and as a plot.

use std::fmt;
use std::fmt::Write as _;
use std::time::Duration;

use crate::load::Run;
use crate::support::spread::Spread;

/// One server's runs of a row.
#[derive(Clone, Default)]
pub struct Figures {
    rates: Vec<f64>,
    p99: Vec<f64>,
}

/// A row's figures: the daemon, perhaps an earlier build of it, and bare hyper at last.
pub struct Outcome {
    pub name: &'static str,
    pub goal: f64,
    pub bytes: usize,
    pub saturated: Vec<Figures>,
    /// At half of the daemon's own saturation.
    pub halved: Vec<Figures>,
}

impl Figures {
    pub fn add(&mut self, run: &Run) {
        let mut latencies: Vec<Duration> = run.latencies.clone();
        latencies.sort_unstable();
        let p99 = latencies.get(latencies.len() * 99 / 100).copied().unwrap_or_default();
        self.rates.push(run.rate);
        self.p99.push(p99.as_secs_f64() * 1000.0);
    }

    /// The median rate.
    pub fn rate(&self) -> f64 {
        Spread::of(&self.rates).median()
    }

    fn p99(&self) -> f64 {
        Spread::of(&self.p99).median()
    }
}

/// The daemon's figures beside those of another program that does the same.
pub fn beside(name: &str, [daemon, other]: &[Figures; 2]) -> String {
    let times = Spread::of_ratios(&daemon.rates, &other.rates);
    format!(
        "{name}, 64 connections\n  tokenward {:>8.0} requests/s, p99 {:.2} ms\n  {name} {:>10.0} requests/s, p99 \
         {:.2} ms\n  times {times}, wanted 25",
        daemon.rate(),
        daemon.p99(),
        other.rate(),
        other.p99()
    )
}

impl Outcome {
    fn to_bare(&self) -> Option<Spread> {
        Some(Spread::of_ratios(&self.saturated.first()?.rates, &self.saturated.last()?.rates))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(daemon), Some(bare)) = (self.saturated.first(), self.saturated.last()) else {
            return Ok(());
        };
        writeln!(f, "{}, answers of {} bytes", self.name, self.bytes)?;
        let line = |name: &str, figures: &Figures| {
            format!("  {name:<12} {:>8.0} requests/s, p99 {:.2} ms", figures.rate(), figures.p99())
        };
        writeln!(f, "{}", line("tokenward", daemon))?;
        if let [daemon, before, _] = &self.saturated[..] {
            let times = Spread::of_ratios(&daemon.rates, &before.rates);
            writeln!(f, "{}", line("before", before))?;
            writeln!(f, "  times before {times}")?;
        }
        writeln!(f, "{}", line("bare hyper", bare))?;
        if let Some(ratio) = self.to_bare() {
            writeln!(f, "  ratio        {ratio}, wanted {:.2}", self.goal)?;
        }
        if let (Some(daemon), Some(bare)) = (self.halved.first(), self.halved.last())
            && !daemon.p99.is_empty()
        {
            let times = Spread::of_ratios(&daemon.p99, &bare.p99);
            writeln!(
                f,
                "  at half      p99 {:.2} ms against {:.2} ms, {times} times bare hyper's, wanted 1.50",
                daemon.p99(),
                bare.p99()
            )?;
        }
        Ok(())
    }
}

/// A bar for each row's ratio to bare hyper, its spread, and a mark at what is wanted.
pub fn svg(outcomes: &[Outcome]) -> String {
    const LEFT: usize = 220;
    const WIDTH: f64 = 500.0;
    const STEP: usize = 30;
    let height = outcomes.len() * STEP + 40;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"780\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<title>Hand-outs a second, as a part of bare hyper's</title>\n"
    );
    let at = |ratio: f64| LEFT as f64 + WIDTH * ratio.min(1.0);
    for (number, outcome) in outcomes.iter().enumerate() {
        let Some(ratio) = outcome.to_bare() else { continue };
        let (y, goal) = (number * STEP + 10, at(outcome.goal));
        let middle = y + 10;
        let _ = write!(
            text,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"20\" fill=\"#4a7dbd\"/>\n\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\" stroke=\"#111\"/>\n\
             <line x1=\"{goal:.1}\" x2=\"{goal:.1}\" y1=\"{}\" y2=\"{}\" stroke=\"#c33\" stroke-width=\"2\"/>\n\
             <text x=\"{:.1}\" y=\"{}\">{:.2}</text>\n",
            LEFT - 8,
            y + 15,
            outcome.name,
            at(ratio.median()) - LEFT as f64,
            at(ratio.least()),
            at(ratio.most()),
            y - 3,
            y + 23,
            at(1.0) + 8.0,
            y + 15,
            ratio.median()
        );
    }
    let _ = write!(text, "<text x=\"{LEFT}\" y=\"{}\">0 to 1.0; red: wanted</text>\n</svg>\n", height - 8);
    text
}
