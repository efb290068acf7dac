//! Hand-outs of a held token by the whole daemon, beside bare hyper that answers with the same bytes on the
//! same kind of listener. Each server is a process of its own, and they take turns within every round, so that
//! the ratio of a round holds whatever else the machine does. `benches/README.md` says what each figure means.
//!
//! `make bench`. Loopback only, bounded in time.

#![allow(clippy::print_stdout, missing_docs, unreachable_pub, reason = "printing is what a bench is for")]
#![allow(clippy::disallowed_methods, reason = "a bench looks from outside, with the real clock")]

mod bare;
mod daemon;
mod load;
mod openbao;
#[path = "../../tests/it/pki.rs"]
mod pki;
mod rows;
mod table;

#[path = "../support/mod.rs"]
mod support;

use std::path::PathBuf;

use clap::Parser;

use crate::daemon::{Bench, Daemon};
use crate::load::Load;
use crate::openbao::OpenBao;
use crate::rows::{ROWS, Row};
use crate::support::Failure;
use crate::support::rounds::Rounds;
use crate::table::{Figures, Outcome};

/// How many bytes OpenBao's secret has: as many as a token of the emulator's.
const SECRET: usize = 1200;

/// Measures hand-outs.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    rounds: Rounds,
    /// Leaves out the runs at half of saturation.
    #[arg(long)]
    no_latency: bool,
    /// OpenBao's program, which is then measured beside the daemon (`make vault` installs it).
    #[arg(long)]
    openbao: Option<PathBuf>,
    /// Writes a plot of the ratios to this file.
    #[arg(long)]
    svg: Option<PathBuf>,
}

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    if args.rounds.bare {
        return bare::serve();
    }
    let servers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let bench = servers.block_on(Bench::start())?;
    let mut daemons = Vec::new();
    for (number, binary) in args.rounds.binaries().iter().enumerate() {
        daemons.push(servers.block_on(bench.daemon(number, binary))?);
    }
    let mut outcomes = Vec::new();
    for row in ROWS.iter().filter(|row| args.rounds.wants(row.name)) {
        let outcome = measure(row, &args, &bench, &daemons)?;
        println!("{outcome}");
        outcomes.push(outcome);
    }
    if let Some(program) = &args.openbao {
        println!(
            "{}",
            servers
                .block_on(async { OpenBao::start(program, SECRET).await })
                .and_then(|bao| { beside(&bao, &args, &bench, &daemons[0]) })?
        );
    }
    if let Some(path) = &args.svg {
        std::fs::write(path, table::svg(&outcomes))?;
    }
    Ok(())
}

/// The daemon over TCP at 64 connections, and OpenBao in turn.
fn beside(bao: &OpenBao, args: &Args, bench: &Bench, daemon: &Daemon) -> Result<String, Failure> {
    let row = ROWS.iter().find(|row| row.name == "TCP, 64 connections").ok_or("no such row")?;
    let mut daemons = Load::open(bench.client(row, daemon)?, bench.wire(row).as_bytes(), row.connections)?;
    let mut baos = Load::open(bao.client(), bao.wire().as_bytes(), row.connections)?;
    let (during, mut figures) = (args.rounds.during(), [Figures::default(), Figures::default()]);
    for round in 0..=args.rounds.count {
        let runs = [daemons.run(during, None), baos.run(during, None)];
        if round > 0 {
            figures.iter_mut().zip(&runs).for_each(|(figures, run)| figures.add(run));
        }
    }
    Ok(table::beside("OpenBao", &figures))
}

/// One row: every server in turn, in each round.
fn measure(row: &Row, args: &Args, bench: &Bench, daemons: &[Daemon]) -> Result<Outcome, Failure> {
    let (wire, answer) = load::sample(&bench.client(row, &daemons[0])?, &bench.wire(row))?;
    let bare = bench.bare(row, &answer)?;
    let mut loads: Vec<Load> = Vec::new();
    for daemon in daemons {
        loads.push(Load::open(bench.client(row, daemon)?, &wire, row.connections)?);
    }
    loads.push(Load::open(bench.client_of_bare(row, &bare), &wire, row.connections)?);
    let during = args.rounds.during();
    let mut saturated: Vec<Figures> = vec![Figures::default(); loads.len()];
    for round in 0..=args.rounds.count {
        for (load, figures) in loads.iter_mut().zip(&mut saturated) {
            let run = load.run(during, None);
            if round > 0 {
                figures.add(&run);
            }
        }
    }
    let mut halved: Vec<Figures> = vec![Figures::default(); loads.len()];
    if row.latency && !args.no_latency {
        let half = saturated[0].rate() / 2.0;
        for _ in 0..args.rounds.count {
            for (load, figures) in loads.iter_mut().zip(&mut halved) {
                figures.add(&load.run(during, Some(half)));
            }
        }
    }
    Ok(Outcome { name: row.name, goal: row.goal, bytes: answer.len(), saturated, halved })
}
