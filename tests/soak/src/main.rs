//! `soak`: see the library. Exit code 0 when every promise held, 1 when one did not, 2 when it could not be
//! run.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people and their scripts")]
#![allow(clippy::disallowed_methods, reason = "it runs outside the daemon, with the real clock and tasks")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use entra_emulator::Mode;
use soak::check::{Report, Rule, check};
use soak::ledger::Evidence;
use soak::run::{Soak, run};
use soak::world::Plan;

/// Runs three tokenward processes under faults and checks what they promised.
#[derive(Parser)]
struct Args {
    /// The time in which faults begin.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// How many faults.
    #[arg(long, default_value_t = 20)]
    faults: u32,
    /// The seed of the plan.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Whether used refresh tokens stay valid, or end their grant.
    #[arg(long, value_enum, default_value_t = AuthorityMode::Entra)]
    mode: AuthorityMode,
    /// One server, or a primary with two replicas and three sentinels.
    #[arg(long, value_enum, default_value_t = RedisKind::Standalone)]
    redis: RedisKind,
    /// The daemon.
    #[arg(long, default_value = "target/debug/tokenward")]
    binary: PathBuf,
    /// Replicas of the daemon. One alone needs no leases.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    replicas: u8,
    /// Connections.
    #[arg(long, default_value_t = 40)]
    connections: u16,
    /// Callers at a time.
    #[arg(long, default_value_t = 24)]
    callers: u16,
    /// Requests a second, of all callers.
    #[arg(long, default_value_t = 300)]
    rate: u32,
    /// The life of access tokens, in seconds.
    #[arg(long, default_value_t = 20)]
    token_life: u64,
    /// Leave wall clocks alone.
    #[arg(long)]
    no_clocks: bool,
    /// Let the only server of the store come back empty, and restore it.
    #[arg(long)]
    empty: bool,
    /// Only faults whose kind begins with one of these, such as `redis_` or `daemon_kill`.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// More lines for the daemons' `[store]` section.
    #[arg(long, default_value = "")]
    store_lines: String,
    /// Rules that are counted and fail nothing, by name; or `all`.
    #[arg(long, value_delimiter = ',')]
    tolerate: Vec<String>,
    /// Keep everything that was written down, the daemons' logs and the report here.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Run nothing: check what `--keep` kept.
    #[arg(long, conflicts_with = "keep")]
    check: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum AuthorityMode {
    Entra,
    Strict,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RedisKind {
    Standalone,
    Sentinel,
}

fn main() -> ExitCode {
    match soak(&Args::parse()) {
        Ok(report) if report.passed => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::from(2)
        }
    }
}

fn soak(args: &Args) -> io::Result<Report> {
    let tolerated = tolerated(&args.tolerate)?;
    let evidence = match &args.check {
        Some(kept) => Evidence::load(kept)?,
        None => gather(args)?,
    };
    let report = check(&evidence, &tolerated);
    if let Some(keep) = &args.keep {
        fs::write(keep.join("report.json"), serde_json::to_vec_pretty(&report)?)?;
    }
    eprint!("{}", report.summary());
    println!("{}", serde_json::to_string(&report)?);
    Ok(report)
}

fn gather(args: &Args) -> io::Result<Evidence> {
    let binary = fs::canonicalize(&args.binary)
        .map_err(|error| io::Error::other(format!("{}: {error}; build it first", args.binary.display())))?;
    if !args.no_clocks && !soak::daemon::can_fake_clocks() {
        eprintln!("libfaketime is not installed (apt-get install faketime): wall clocks stay right");
    }
    let soak = Soak {
        plan: Plan {
            binary,
            mode: match args.mode {
                AuthorityMode::Entra => Mode::Entra,
                AuthorityMode::Strict => Mode::Strict,
            },
            sentinel: args.redis == RedisKind::Sentinel,
            replicas: args.replicas,
            connections: args.connections,
            token_life: Duration::from_secs(args.token_life),
            other_life: None,
            clocks: !args.no_clocks,
            store_lines: args.store_lines.clone(),
            more_callers: Vec::new(),
        },
        seed: args.seed,
        faults: args.faults,
        span: Duration::from_secs_f64(args.minutes * 60.0),
        callers: args.callers,
        rate: args.rate,
        empty: args.empty,
        only: args.only.clone(),
    };
    let folder = tempfile::Builder::new().prefix("soak-").tempdir()?;
    let begun = Instant::now();
    let say = |words: String| eprintln!("{:7.2} {words}", begun.elapsed().as_secs_f64());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(6).enable_all().build()?;
    let outcome = runtime.block_on(run(&soak, folder.path(), say));
    if let Some(keep) = &args.keep {
        keep_files(folder.path(), keep)?;
    }
    let evidence = outcome?;
    if let Some(keep) = &args.keep {
        evidence.save(keep)?;
    }
    Ok(evidence)
}

fn tolerated(names: &[String]) -> io::Result<Vec<Rule>> {
    if names.iter().any(|name| name == "all") {
        return Ok(Rule::ALL.to_vec());
    }
    let rule = |name: &String| {
        let found = Rule::ALL.into_iter().find(|rule| rule.name() == name);
        found.ok_or_else(|| io::Error::other(format!("--tolerate: there is no rule {name}")))
    };
    names.iter().map(rule).collect()
}

/// Logs, configuration and audit of every process, for whoever looks into a violation.
fn keep_files(from: &Path, to: &Path) -> io::Result<()> {
    for folder in fs::read_dir(from)?.flatten() {
        let name = folder.file_name();
        if !folder.path().is_dir() || name == "keyring" {
            continue;
        }
        fs::create_dir_all(to.join(&name))?;
        for file in ["log", "tokenward.toml", "audit.jsonl", "redis.conf"] {
            let path = folder.path().join(file);
            if path.is_file() {
                fs::copy(path, to.join(&name).join(file))?;
            }
        }
    }
    Ok(())
}
