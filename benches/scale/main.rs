//! What the daemon costs as the number of connections grows, in both stores: bytes, memory, start, processor
//! time at rest, hand-outs, lists, the sweep, a count and a rewrap. `benches/README.md` says what each figure
//! means.
//!
//! `make scale`. Loopback only. A million connections take some 6 GB of memory or of disk, and minutes.

#![allow(clippy::print_stdout, missing_docs, unreachable_pub, reason = "printing is what a bench is for")]
#![allow(clippy::disallowed_methods, reason = "a bench looks from outside, with the real clock")]

mod authority;
mod console;
mod daemon;
mod measure;
mod seed;
mod table;

#[path = "../support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::authority::Authority;
use crate::support::Failure;
use crate::table::Table;

/// Where connections are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Embedded,
    Redis,
}

/// Measures what connections cost.
#[derive(Parser)]
pub struct Args {
    /// The daemon; by default the one built with this bench.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_tokenward"))]
    binary: PathBuf,
    /// Numbers of connections.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 100_000])]
    sizes: Vec<u64>,
    /// Stores.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Kind::Embedded, Kind::Redis])]
    stores: Vec<Kind>,
    /// How many connections are handed out, and then held in memory, at the most.
    #[arg(long, default_value_t = 10_000)]
    held: u64,
    /// How many connections become due for the sweep, at the most.
    #[arg(long, default_value_t = 1_000)]
    due: u64,
    /// How long a daemon is left alone before it counts as being at rest, in seconds.
    #[arg(long, default_value_t = 5)]
    settle: u64,
    /// For how long a daemon at rest is watched, in seconds.
    #[arg(long, default_value_t = 20)]
    rest: u64,
    /// Measure the console and the listings of the admin API alone.
    #[arg(long)]
    console: bool,
    /// How often each question is asked of them.
    #[arg(long, default_value_t = 100)]
    asked: usize,
    /// A folder for the seeded stores of `--console`, which are kept there and used again.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// What `cargo bench` passes on.
    #[arg(long, hide = true)]
    bench: bool,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Embedded => "embedded",
            Kind::Redis => "redis",
        })
    }
}

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let authority = Authority::start().await?;
        for kind in &args.stores {
            let mut table = Table::new(*kind);
            for size in &args.sizes {
                let began = std::time::Instant::now();
                if args.console {
                    console::size(&args, *kind, *size, &authority).await?;
                    continue;
                }
                table.column(*size);
                measure::size(&args, *kind, *size, &authority, &mut table).await?;
                println!("{kind}, {size} connections: {:.0} s", began.elapsed().as_secs_f64());
            }
            println!("{table}");
        }
        Ok(())
    })
}

impl Args {
    fn rest(&self) -> Duration {
        Duration::from_secs(self.rest)
    }
}
