//! The arguments of the benches that compare servers in rounds.

use std::path::PathBuf;
use std::time::Duration;

/// The builds to measure, how often, for how long, and which rows.
#[derive(clap::Args)]
pub struct Rounds {
    /// The daemon; by default the one built with this bench.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_tokenward"))]
    pub binary: PathBuf,
    /// An earlier build of the daemon, which is measured beside it.
    #[arg(long)]
    pub before: Option<PathBuf>,
    /// Rounds that count; one more before them warms up.
    #[arg(long = "rounds", default_value_t = 7)]
    pub count: usize,
    /// How long each is asked in a round, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    millis: u64,
    /// Only rows whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Is the limit that the daemon is compared with, as standard input says: the bench starts itself so.
    #[arg(long, hide = true)]
    pub bare: bool,
    /// What `cargo bench` passes on.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Rounds {
    /// How long each is asked in a round.
    pub fn during(&self) -> Duration {
        Duration::from_millis(self.millis)
    }

    /// The daemons, this build first.
    pub fn binaries(&self) -> Vec<PathBuf> {
        std::iter::once(&self.binary).chain(&self.before).cloned().collect()
    }

    /// Whether a row is wanted.
    pub fn wants(&self, row: &str) -> bool {
        row.contains(&self.only)
    }
}
