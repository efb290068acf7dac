//! `flood`: see `soak::flood`. Exit code 0 when the bar was held, 1 when it was missed, 2 when the drill
//! could not be run.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people and their scripts")]
#![allow(clippy::disallowed_methods, reason = "it runs outside the daemon, with the real clock and tasks")]

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use soak::flood::drive::Rates;
use soak::flood::{Bar, Drill, run};

const MIB: u64 = 1024 * 1024;

/// Floods one daemon with everything at once, and looks what a caller beside it still gets.
#[derive(Parser)]
struct Args {
    /// The daemon.
    #[arg(long, default_value = "target/release/tokenward")]
    binary: PathBuf,
    /// How long, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How long until memory is looked at again, in seconds.
    #[arg(long, default_value_t = 60)]
    rest: u64,
    /// Requests a second of each of the four floods by one key.
    #[arg(long, default_value_t = 200)]
    key_rate: u32,
    /// Presses of one link a second.
    #[arg(long, default_value_t = 200)]
    link_rate: u32,
    /// Requests a second of each of the five floods without a key.
    #[arg(long, default_value_t = 50)]
    keyless_rate: u32,
    /// Connections that stall.
    #[arg(long, default_value_t = 16_384)]
    stalled: usize,
    /// The canary's requests a second.
    #[arg(long, default_value_t = 100)]
    canary_rate: u32,
    /// The canary's connections.
    #[arg(long, default_value_t = 40)]
    connections: u16,
    /// The life of the access tokens that are refreshed during the drill, in seconds; the others live an
    /// hour.
    #[arg(long, default_value_t = 20)]
    token_life: u64,
    /// Redis' maxmemory; empty for none.
    #[arg(long, default_value = "128mb")]
    redis_memory: String,
    /// What the canary's 99th percentile may be where tokens are held, in milliseconds.
    #[arg(long, default_value_t = 20)]
    p99: u64,
    /// What the daemon may have in memory, in MiB.
    #[arg(long, default_value_t = 256)]
    peak: u64,
    /// What it may keep of it, in MiB.
    #[arg(long, default_value_t = 32)]
    kept: u64,
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
            eprintln!("flood: {error}");
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
        span: Duration::from_secs(args.seconds),
        rest: Duration::from_secs(args.rest),
        rates: Rates {
            key: args.key_rate,
            link: args.link_rate,
            keyless: args.keyless_rate,
            stalled: args.stalled,
        },
        canary: args.canary_rate,
        connections: args.connections,
        token_life: Duration::from_secs(args.token_life),
        redis_memory: args.redis_memory.clone(),
    };
    let bar = Bar { p99: Duration::from_millis(args.p99), peak: args.peak * MIB, kept: args.kept * MIB };
    let folder = tempfile::Builder::new().prefix("flood-").tempdir()?;
    let begun = Instant::now();
    let say = |words: String| eprintln!("{:7.2} {words}", begun.elapsed().as_secs_f64());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let figures = runtime.block_on(run(&drill, folder.path(), say))?;
    print!("{}", figures.table());
    Ok(figures.missed(&bar))
}
