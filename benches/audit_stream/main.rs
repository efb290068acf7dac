//! The audit stream at full speed: a daemon with a signed audit file is asked for a held token as fast as it
//! answers, while its file is moved away again and again, as logrotate does. Every file is verified, with its
//! join with the one before it, and then deleted. `benches/README.md` says what each figure means.
//!
//! `make audit-stream MINUTES=60`. It ends with an error if a record is missing, if the chain breaks, or if
//! the daemon's memory grew.

#![allow(clippy::print_stdout, missing_docs, unreachable_pub, reason = "printing is what a bench is for")]
#![allow(clippy::disallowed_methods, reason = "a bench looks from outside, with the real clock")]

mod figures;
#[path = "../hand_out/load.rs"]
#[allow(dead_code, reason = "shared with the bench of hand-outs")]
mod load;
#[path = "../../tests/it/pki.rs"]
mod pki;
mod stream;

#[path = "../support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use tokio::runtime::Runtime;

use crate::figures::{Figures, Memory};
use crate::load::{Client, Load};
use crate::stream::{Rotation, Stream};
use crate::support::daemon::{self, Ports, Server};
use crate::support::setup::config_text::{ConfigText, EVERYTHING, caller};
use crate::support::setup::{free_port, write_secrets};
use crate::support::{Failure, account};

/// How long the load runs between two looks at what is on the disk.
const SLICE: Duration = Duration::from_secs(1);
/// How much memory may grow from the first quarter to the last: what the allocator keeps goes up and down by
/// that much.
const MOST_GROWTH: f64 = 8.0;
/// What verifying should reach at least, in GiB a minute.
const WANTED: f64 = 1.0;

/// Asks a daemon at full speed, and verifies its audit stream.
#[derive(Parser)]
struct Args {
    /// The daemon; by default the one built with this bench.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_tokenward"))]
    binary: PathBuf,
    /// Minutes of load.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Connections, each with one request in flight.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// How large the file gets before it is moved away, in MiB.
    #[arg(long, default_value_t = 256)]
    rotate: u64,
    /// How much may be on the disk before the load stops for a moment and all of it is verified, in MiB.
    #[arg(long, default_value_t = 2048)]
    keep: u64,
    /// What `cargo bench` passes on.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let folder = tempfile::tempdir()?;
    let mut stream = Stream::new(&args.binary, folder.path())?;
    let public = free_port()?;
    let entra = runtime.block_on(account::authority(&[public]))?;
    let key = write_secrets(folder.path())?;
    let text = ConfigText {
        public_port: public,
        base_port: public,
        authority: &entra.authority("common"),
        audit: &format!("signing_key = \"{}\"", stream::SIGNING_KEY),
        sections: &caller("mail-sync", "mail-sync.keys", EVERYTHING),
        ..ConfigText::default()
    };
    let config = folder.path().join("tokenward.toml");
    std::fs::write(&config, text.text())?;
    let (server, mut log) = daemon::start(&args.binary, &config)?;
    let Ports { local, ops } = log.ports()?;
    log.read_on(drop);
    runtime.block_on(account::connect(local[0], key.expose()))?;
    let wire = account::native(&account::bearer(key.expose()));
    let mut load = Load::open(Client::Tcp(local[0]), wire.as_bytes(), args.connections)?;
    let figures = under_load(&args, &runtime, (&server, ops), &mut load, &mut stream)?;
    drop(load);
    server.stop();
    stream.verify()?;
    judge(&figures, &stream)
}

/// Asks for as long as said. What is on the disk is verified in between, while nothing is asked.
fn under_load(
    args: &Args,
    runtime: &Runtime,
    (server, ops): (&Server, u16),
    load: &mut Load,
    stream: &mut Stream,
) -> Result<Figures, Failure> {
    let mut figures = Figures::default();
    let (all, mut minute) = (Duration::from_secs_f64(args.minutes * 60.0), 1);
    let rotation = Rotation::start(stream.path(), args.rotate << 20);
    while figures.asked_for() < all {
        let begun = Instant::now();
        let answers = load.run(SLICE, None).latencies.len() as u64;
        figures.add(answers, begun.elapsed(), Memory::of(server.id())?);
        stream.follow(&rotation);
        if figures.asked_for() >= Duration::from_secs(60) * minute || figures.asked_for() >= all {
            let lost = runtime.block_on(stream::lost(ops))?;
            println!("minute {minute}: {}", figures.minute(stream.written()?, stream.files(), lost));
            minute += 1;
        }
        if stream.kept()? > args.keep << 20 {
            stream.verify_moved()?;
        }
    }
    stream.follow(&rotation);
    figures.lost = runtime.block_on(stream::lost(ops))?;
    Ok(figures)
}

/// Says what came out, and fails if it is not as it should be.
fn judge(figures: &Figures, stream: &Stream) -> Result<(), Failure> {
    let (growth, speed) = (figures.growth(), stream.gib_a_minute());
    println!("answers      {}, records of hand-outs {}", figures.answers, stream.tokens);
    let Stream { lines, checkpoints, unsigned, .. } = stream;
    let files = stream.files();
    println!(
        "stream       {lines} lines in {files} files, {checkpoints} checkpoints, {unsigned} lines behind the last"
    );
    println!("verify       {speed:.2} GiB a minute, wanted {WANTED:.2}");
    println!("memory       {growth:+.1} MiB from the first quarter to the last, at most {MOST_GROWTH:.1}");
    let mut faults = stream.flaws.clone();
    if stream.tokens != figures.answers {
        faults.push(format!("{} answers have {} records", figures.answers, stream.tokens));
    }
    if figures.lost > 0 {
        faults.push(format!("{} records are lost, says the daemon", figures.lost));
    }
    if growth > MOST_GROWTH {
        faults.push(format!("memory grew by {growth:.1} MiB"));
    }
    match faults.is_empty() {
        true => Ok(()),
        false => Err(faults.join("\n").into()),
    }
}
