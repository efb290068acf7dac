//! `slow`: see `soak::slow`. Exit code 0 when the bar was held, 1 when it was missed, 2 when the drill could
//! not be run.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people and their scripts")]
#![allow(clippy::disallowed_methods, reason = "it runs outside the daemon, with the real clock and tasks")]

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use soak::slow::{Bar, Drill, run};

const MIB: u64 = 1024 * 1024;

/// Stalls and floods one daemon's listeners for callers, and looks what a caller beside it still gets.
#[derive(Parser)]
struct Args {
    /// The daemon.
    #[arg(long, default_value = "target/release/tokenward")]
    binary: PathBuf,
    /// How long each row lasts, in seconds.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Connections of slowhttptest.
    #[arg(long, default_value_t = 2000)]
    stalled: u32,
    /// Connections of the HTTP/2 floods.
    #[arg(long, default_value_t = 200)]
    http2: usize,
    /// The canary's requests a second.
    #[arg(long, default_value_t = 100)]
    canary_rate: u32,
    /// What the canary's 99th percentile may be, in milliseconds.
    #[arg(long, default_value_t = 50)]
    p99: u64,
    /// What the daemon may have in memory above what it had at first, in MiB.
    #[arg(long, default_value_t = 128)]
    more: u64,
}

fn main() -> ExitCode {
    match drill(&Args::parse()) {
        Ok(missed) if missed.is_empty() => {
            println!("the bar was held");
            ExitCode::SUCCESS
        }
        Ok(missed) => {
            for words in missed {
                println!("MISSED: {words}");
            }
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("slow: {error}");
            ExitCode::from(2)
        }
    }
}

fn drill(args: &Args) -> io::Result<Vec<String>> {
    // Both ends of a connection need a descriptor, each in its own process; a child gets the limit too.
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })?;
    let binary = fs::canonicalize(&args.binary)
        .map_err(|error| io::Error::other(format!("{}: {error}; build it first", args.binary.display())))?;
    let drill = Drill {
        binary,
        stalled: args.stalled,
        http2: args.http2,
        span: Duration::from_secs(args.seconds),
        canary: args.canary_rate,
    };
    let bar = Bar { p99: Duration::from_millis(args.p99), more: args.more * MIB };
    let folder = tempfile::Builder::new().prefix("slow-").tempdir()?;
    let begun = Instant::now();
    let say = |words: String| eprintln!("{:7.2} {words}", begun.elapsed().as_secs_f64());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let figures = runtime.block_on(run(&drill, folder.path(), say))?;
    print!("{}", figures.table());
    Ok(figures.missed(&bar))
}
