//! Refreshes by the whole daemon, beside a bare client that posts the same form over kept connections and
//! parses the answer; and first hand-outs of tokens that the daemon does not hold yet. The daemon, the bare
//! client and Redis are processes of their own. They take turns within every round, so that the ratio of a
//! round holds whatever else the machine does. `benches/README.md` says what each figure means.
//!
//! `make bench-refresh`. Loopback only, bounded in time.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "printing is what a bench is for"
)]
#![allow(clippy::disallowed_methods, reason = "a bench looks from outside, with the real clock")]

mod authority;
mod bare;
mod daemon;
mod load;
mod seed;
mod stores;

#[path = "../../src/store/testing.rs"]
#[allow(dead_code, reason = "shared with the store's own tests")]
mod redis_server;
#[path = "../support/mod.rs"]
mod support;
#[path = "../../src/jwt/testing.rs"]
mod tokens;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use tokio::runtime::Runtime;

use crate::authority::Authority;
use crate::bare::Bare;
use crate::daemon::{Daemon, Kept, Shared};
use crate::load::Load;
use crate::support::Failure;
use crate::support::rounds::Rounds;
use crate::support::spread::Spread;

/// Requests in flight: as many as one tenant may have at the authority.
const AT_ONCE: usize = 64;
/// Connections of each daemon whose tokens are short, so that each request for one refreshes it. So many that
/// most were last asked for seconds ago, as those whose tokens end in earnest.
const SHORT: usize = 8192;
/// First hand-outs of one round.
const FIRST: usize = 1000;

/// Measures refreshes.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    rounds: Rounds,
}

/// A row of refreshes.
struct Row {
    name: &'static str,
    kept: Kept,
    /// How long the authority takes beside its work.
    thinks: Duration,
    by_certificate: bool,
    goal: Option<f64>,
}

const REFRESHES: [Row; 4] = [
    Row {
        name: "refresh, Redis, an authority that answers at once",
        kept: Kept::Redis,
        thinks: Duration::ZERO,
        by_certificate: false,
        goal: Some(0.6),
    },
    Row {
        name: "refresh, Redis, an authority that takes 20 ms",
        kept: Kept::Redis,
        thinks: Duration::from_millis(20),
        by_certificate: false,
        goal: Some(0.6),
    },
    Row {
        name: "refresh, Redis, a certificate's assertion for each",
        kept: Kept::Redis,
        thinks: Duration::ZERO,
        by_certificate: true,
        goal: None,
    },
    Row {
        name: "refresh, embedded",
        kept: Kept::Embedded,
        thinks: Duration::ZERO,
        by_certificate: false,
        goal: None,
    },
];
const FIRST_ROW: &str = "first hand-out, Redis";

fn main() -> Result<(), Failure> {
    let rounds = Args::parse().rounds;
    if rounds.bare {
        return bare::serve();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let binaries = rounds.binaries();
    let shared = Shared::new(runtime.block_on(Authority::start())?)?;
    for row in REFRESHES.iter().filter(|row| rounds.wants(row.name)) {
        refreshes(row, &rounds, &runtime, &shared, &binaries)?;
    }
    if rounds.wants(FIRST_ROW) {
        first(&rounds, &runtime, &shared, &binaries)?;
    }
    Ok(())
}

/// Refreshes of different connections: every daemon and its limits in turn, in each round.
fn refreshes(
    row: &Row,
    rounds: &Rounds,
    runtime: &Runtime,
    shared: &Shared,
    binaries: &[PathBuf],
) -> Result<(), Failure> {
    let during = rounds.during();
    let start =
        |binary: &PathBuf| runtime.block_on(Daemon::start(shared, binary, row.kept, row.by_certificate));
    let daemons = binaries.iter().map(start).collect::<Result<Vec<_>, _>>()?;
    for daemon in &daemons {
        runtime.block_on(daemon.is_ready(0))?;
    }
    let mut loads = Vec::new();
    for daemon in &daemons {
        loads.push(Load::open(daemon.port(), AT_ONCE, daemon.asks_for(0..SHORT))?);
    }
    let mut bare = Bare::start(shared, AT_ONCE, false)?;
    let mut http2 = Bare::start(shared, AT_ONCE, true)?;
    shared.authority.set_thinks(row.thinks);
    let mut rates = vec![Vec::new(); daemons.len()];
    let (mut p99s, mut costs) = (rates.clone(), rates.clone());
    let mut redis_costs = rates.clone();
    let (mut bares, mut bare_costs, mut limits) = (Vec::new(), Vec::new(), Vec::new());
    let (mut http2s, mut http2_costs) = (Vec::new(), Vec::new());
    for round in 0..=rounds.count {
        for (at, (daemon, load)) in daemons.iter().zip(&mut loads).enumerate() {
            let (before, called) = (daemon.spent(), shared.authority.refreshes());
            let run = load.run(during);
            let called = shared.authority.refreshes() - called;
            // (Almost) each answer needed a refresh of its own, or the row would measure hand-outs.
            if called * 100 < run.answers() as u64 * 99 {
                return Err(format!("{} answers, and {called} refreshes", run.answers()).into());
            }
            let after = daemon.spent();
            if round > 0 {
                let each = |spent: Duration| spent.as_secs_f64() * 1e6 / run.answers() as f64;
                rates[at].push(run.rate());
                p99s[at].push(run.p99());
                costs[at].push(each(after.daemon.saturating_sub(before.daemon)));
                redis_costs[at].push(each(after.redis.saturating_sub(before.redis)));
            }
        }
        let each =
            |(run, spent): (f64, Duration)| (run, spent.as_secs_f64() * 1e6 / (run * during.as_secs_f64()));
        let (run, cost) = each(bare.run(during)?);
        let over_http2 = each(http2.run(during)?);
        let limit = match row.kept {
            Kept::Redis => runtime.block_on(stores::pairs(&daemons[0], AT_ONCE, during))?,
            Kept::Embedded => stores::syncs(shared.folder(), daemons[0].record_bytes(), during)?,
        };
        if round > 0 {
            bares.push(run);
            bare_costs.push(cost);
            http2s.push(over_http2.0);
            http2_costs.push(over_http2.1);
            limits.push(limit);
        }
    }
    shared.authority.set_thinks(Duration::ZERO);
    println!("{}, {AT_ONCE} at once, records of {} bytes", row.name, daemons[0].record_bytes());
    for (at, name) in ["tokenward", "before"].iter().enumerate().take(daemons.len()) {
        let redis = match row.kept {
            Kept::Redis => format!(" and {:.0} of Redis'", Spread::of(&redis_costs[at]).median()),
            Kept::Embedded => String::new(),
        };
        println!(
            "  {name:<12} {:>8.0} refreshes/s, p99 {:.2} ms; {:.0} µs of its processor's time each{redis}",
            Spread::of(&rates[at]).median(),
            Spread::of(&p99s[at]).median(),
            Spread::of(&costs[at]).median(),
        );
    }
    for (name, rates, costs) in [("bare client", &bares, &bare_costs), ("by HTTP/2", &http2s, &http2_costs)] {
        println!(
            "  {name:<12} {:>8.0} refreshes/s; {:.0} µs of its processor's time each",
            Spread::of(rates).median(),
            Spread::of(costs).median()
        );
    }
    let wanted = row.goal.map_or(String::new(), |goal| format!(", wanted {goal:.2}"));
    println!("  ratio        {}{wanted}", Spread::of_ratios(&rates[0], &bares));
    if daemons.len() > 1 {
        println!("  times before {}", Spread::of_ratios(&rates[0], &rates[1]));
    }
    let limit = Spread::of(&limits);
    match row.kept {
        Kept::Redis => {
            println!("  bare Redis   {:>8.0} times GET and SET of a record a second", limit.median())
        }
        Kept::Embedded => println!(
            "  the disk     {:>8.0} syncs/s; {} refreshes for each",
            limit.median(),
            Spread::of_ratios(&rates[0], &limits)
        ),
    }
    Ok(())
}

/// Hand-outs of tokens that the daemon does not hold yet, one after the other, beside those that it holds by
/// then, and beside a bare GET of a record.
fn first(args: &Rounds, runtime: &Runtime, shared: &Shared, binaries: &[PathBuf]) -> Result<(), Failure> {
    let rounds = args.count + 1;
    let start = |binary: &PathBuf| runtime.block_on(Daemon::start_long(shared, binary, rounds * FIRST + 1));
    let daemons = binaries.iter().map(start).collect::<Result<Vec<_>, _>>()?;
    for daemon in &daemons {
        runtime.block_on(daemon.is_ready(rounds * FIRST))?;
    }
    let mut ratios = vec![Vec::new(); daemons.len()];
    let (mut firsts, mut held) = (ratios.clone(), ratios.clone());
    let (mut commands, mut gets) = (ratios.clone(), Vec::new());
    for round in 0..rounds {
        for (at, daemon) in daemons.iter().enumerate() {
            let names = || daemon.asks_for(round * FIRST..(round + 1) * FIRST);
            let counted = daemon.record_reads();
            let one = Load::open(daemon.port(), 1, names())?.once();
            let counted = daemon.record_reads() - counted;
            let again = Load::open(daemon.port(), 1, names())?.once();
            let get = runtime.block_on(stores::gets(daemon, round * FIRST..(round + 1) * FIRST))?;
            if round > 0 {
                firsts[at].push(one.p99());
                held[at].push(again.p99());
                commands[at].push(counted as f64 / FIRST as f64);
                ratios[at].push(one.p99() / (again.p99() + get));
                if at == 0 {
                    gets.push(get);
                }
            }
        }
    }
    println!("{FIRST_ROW}, one after the other");
    for (at, name) in ["tokenward", "before"].iter().enumerate().take(daemons.len()) {
        println!(
            "  {name:<12} p99 {:.3} ms; of a held token {:.3} ms; a bare GET {:.3} ms; {:.2} GETs each",
            Spread::of(&firsts[at]).median(),
            Spread::of(&held[at]).median(),
            Spread::of(&gets).median(),
            Spread::of(&commands[at]).median()
        );
        println!(
            "  p99, times that of a bare GET and a held token: {}, wanted at most 2",
            Spread::of(&ratios[at])
        );
    }
    Ok(())
}
