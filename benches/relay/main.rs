//! Requests that the whole daemon relays, beside a bare reverse proxy of hyper between the same client and the
//! same resource. Daemon, proxy and resource are processes of their own, and daemon and proxy take turns within
//! every round, so that the ratio of a round holds whatever else the machine does. `benches/README.md` says what
//! each figure means.
//!
//! `make bench-relay`. Loopback only, bounded in time.

#![allow(clippy::print_stdout, missing_docs, unreachable_pub, reason = "printing is what a bench is for")]
#![allow(clippy::disallowed_methods, reason = "a bench looks from outside, with the real clock")]

mod bare;
mod daemon;
mod load;
mod resource;

#[path = "../support/mod.rs"]
mod support;

use clap::Parser;

use crate::bare::Bare;
use crate::daemon::{Bench, HERE};
use crate::load::Load;
use crate::support::Failure;
use crate::support::rounds::Rounds;
use crate::support::spread::Spread;

/// Measures what is relayed.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    rounds: Rounds,
}

/// What is asked for.
struct Row {
    name: &'static str,
    /// The resource's path.
    path: &'static str,
    /// Bytes of the request's body; without one it is a GET.
    sends: usize,
    connections: usize,
}

const GOAL: f64 = 0.7;
const ROWS: [Row; 7] = [
    Row { name: "GET, 1 KiB of JSON", path: "/v1.0/json/1024", sends: 0, connections: 64 },
    Row { name: "GET, 64 KiB of JSON", path: "/v1.0/json/65536", sends: 0, connections: 64 },
    Row { name: "GET, 1 MiB of JSON", path: "/v1.0/json/1048576", sends: 0, connections: 16 },
    Row { name: "GET, 64 KiB", path: "/v1.0/bytes/65536", sends: 0, connections: 64 },
    Row { name: "GET, 10 MiB", path: "/v1.0/bytes/10485760", sends: 0, connections: 16 },
    Row { name: "PUT, 64 KiB", path: "/v1.0/bytes/2", sends: 65_536, connections: 64 },
    Row { name: "PUT, 4 MiB", path: "/v1.0/bytes/2", sends: 4_194_304, connections: 16 },
];

fn main() -> Result<(), Failure> {
    let rounds = Args::parse().rounds;
    if rounds.bare {
        return bare::serve();
    }
    let servers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let resource = Bare::resource()?;
    let proxy = Bare::proxy(resource.port)?;
    let bench = servers.block_on(Bench::start(resource.port))?;
    let mut daemons = Vec::new();
    for (number, binary) in rounds.binaries().iter().enumerate() {
        daemons.push(servers.block_on(bench.daemon(number, binary))?);
    }
    for row in ROWS.iter().filter(|row| rounds.wants(row.name)) {
        let key = bench.credential();
        let mut loads = Vec::new();
        for daemon in &daemons {
            loads.push(Load::open(
                daemon.port,
                &load::request(&format!("{HERE}{}", row.path), &key, row.sends),
                row,
            )?);
        }
        loads.push(Load::open(proxy.port, &load::request(row.path, &key, row.sends), row)?);
        let mut rates = vec![Vec::new(); loads.len()];
        for round in 0..=rounds.count {
            for (load, rates) in loads.iter_mut().zip(&mut rates) {
                let rate = load.run(rounds.during())?;
                if round > 0 {
                    rates.push(rate);
                }
            }
        }
        show(row, &rates);
    }
    Ok(())
}

fn show(row: &Row, rates: &[Vec<f64>]) {
    let (Some(daemon), Some(bare)) = (rates.first(), rates.last()) else { return };
    let (ours, bares) = (Spread::of(daemon).median(), Spread::of(bare).median());
    println!("{}, {} connections", row.name, row.connections);
    println!("  tokenward    {ours:>8.0} requests/s");
    if let [daemon, before, _] = rates {
        println!("  before       {:>8.0} requests/s", Spread::of(before).median());
        println!("  times before {}", Spread::of_ratios(daemon, before));
    }
    println!("  bare proxy   {bares:>8.0} requests/s");
    println!("  ratio        {}, wanted {GOAL:.2}", Spread::of_ratios(daemon, bare));
}
