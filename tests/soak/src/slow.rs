//! The slow drill: slowhttptest, which nobody here wrote, stalls thousands of connections at a plain
//! listener, one with TLS and the public one. Then callers with a certificate flood the one with TLS with
//! HTTP/2 frames. A canary caller has its hand-outs timed, and the daemon's memory is read.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use entra_emulator::Mode;

use crate::flood::drive::Tally;
use crate::flood::{canary, http2, mib, percentile, resident, series_of};
use crate::world::{Plan, World};

/// A row: its name, its options of slowhttptest; without any, the floods of HTTP/2.
const ROWS: &[(&str, Option<&[&str]>)] = &[
    ("slow heads (-H)", Some(&["-H", "-i", "2", "-x", "24"])),
    ("slow bodies (-B)", Some(&["-B", "-i", "2", "-s", "8192", "-x", "24"])),
    ("ranges (-R)", Some(&["-R", "-a", "10", "-b", "3000", "-t", "HEAD"])),
    ("HTTP/2 floods", None),
];
/// The listeners, each with the door of its canary; that of the public one is at the plain one.
const PLACES: [(Place, &str); 3] =
    [(Place::Plain, "native"), (Place::Tls, "native, SPIFFE id"), (Place::Public, "native")];
/// The canary's connections, each with one request at a time.
const HANDS: u32 = 4;

/// A listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Plain,
    Tls,
    /// Where strangers' bodies are read.
    Public,
}

/// What to run.
#[derive(Debug, Clone)]
pub struct Drill {
    /// The daemon.
    pub binary: PathBuf,
    /// Connections of slowhttptest.
    pub stalled: u32,
    /// Connections of the HTTP/2 floods.
    pub http2: usize,
    /// How long each row lasts.
    pub span: Duration,
    /// The canary's requests a second.
    pub canary: u32,
}

/// What is asked of each row.
#[derive(Debug, Clone, Copy)]
pub struct Bar {
    /// The canary's 99th percentile.
    pub p99: Duration,
    /// Resident memory above what it was at first.
    pub more: u64,
}

/// What came of a row.
#[derive(Debug)]
struct Row {
    name: String,
    served: Vec<Duration>,
    failed: BTreeMap<String, u64>,
    /// Resident memory before, at its peak and five seconds later.
    resident: [u64; 3],
    /// What the listener counted as refused or closed, by reason.
    refused: BTreeMap<String, u64>,
    notes: String,
}

/// What came of all.
#[derive(Debug)]
pub struct Figures(Vec<Row>);

/// Runs the drill in a folder.
///
/// # Errors
/// When the world could not be built, or slowhttptest is missing.
pub async fn run(drill: &Drill, folder: &Path, say: impl Fn(String)) -> io::Result<Figures> {
    let hour = Duration::from_secs(3600);
    let plan = Plan {
        binary: drill.binary.clone(),
        mode: Mode::Entra,
        sentinel: false,
        replicas: 1,
        connections: 8,
        token_life: hour,
        other_life: None,
        clocks: false,
        store_lines: String::new(),
        more_callers: Vec::new(),
    };
    let world = Arc::new(World::start(&plan, folder).await?);
    let mut rows = Vec::new();
    for (name, options) in ROWS {
        for (place, door) in PLACES {
            if options.is_none() && place != Place::Tls {
                continue;
            }
            let name = format!("{name}, {}", format!("{place:?}").to_lowercase());
            say(format!("{name}: {:?}", drill.span));
            rows.push(row(&world, drill, (name, door), *options, place).await?);
        }
    }
    world.replicas[0].stop().await;
    Ok(Figures(rows))
}

async fn row(
    world: &Arc<World>,
    drill: &Drill,
    (name, door): (String, &'static str),
    options: Option<&[&str]>,
    place: Place,
) -> io::Result<Row> {
    let replica = &world.replicas[0];
    let stop = Arc::new(AtomicBool::new(false));
    let canaries: Vec<_> = (0..HANDS)
        .map(|hand| {
            tokio::spawn(canary(world.clone(), world.client_at(door), drill.canary, hand, stop.clone()))
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (before, refused) = (resident(replica)?, series_of(replica, REFUSED).await);
    let begun = Instant::now();
    let (mut peak, tally) = (before, Arc::new(Tally::default()));
    let over = Arc::new(AtomicBool::new(false));
    let attack = async {
        match options {
            Some(options) => {
                let path = "v1/apps/outlook/connections/none/token";
                let url = match place {
                    Place::Plain => format!("http://{}/{path}", replica.local),
                    Place::Tls => format!("https://{}/{path}", replica.tls),
                    Place::Public => format!("http://{}/callback/outlook", world.public()),
                };
                slowhttptest(drill, options, &url).await
            }
            None => {
                let tls = world.tls("mesh").ok_or_else(|| io::Error::other("no certificate"))?;
                http2::all(tls, replica.tls.port(), drill.http2, &tally, &over).await;
                Ok(tally.lines().join("\n    "))
            }
        }
    };
    let watch = async {
        while begun.elapsed() < drill.span {
            tokio::time::sleep(Duration::from_millis(100)).await;
            peak = peak.max(resident(replica)?);
        }
        over.store(true, Ordering::Relaxed);
        io::Result::Ok(())
    };
    let (notes, watched) = tokio::join!(attack, watch);
    watched?;
    stop.store(true, Ordering::Relaxed);
    let (mut served, mut failed) = (Vec::new(), BTreeMap::new());
    for canary in canaries {
        for (_, _, took, trouble) in canary.await.map_err(io::Error::other)? {
            match trouble {
                None => served.push(took),
                Some(trouble) => *failed.entry(trouble).or_default() += 1,
            }
        }
    }
    served.sort_unstable();
    let mut now = series_of(replica, REFUSED).await;
    for (reason, count) in &mut now {
        *count -= refused.get(reason).copied().unwrap_or(0).min(*count);
    }
    now.retain(|_, count| *count > 0);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let resident = [before, peak, resident(replica)?];
    Ok(Row { name, served, failed, resident, refused: now, notes: notes? })
}

const REFUSED: &str = "tokenward_http_connections_refused_total{listener=\"";

/// Runs it to its end, and returns what it says last of its connections.
async fn slowhttptest(drill: &Drill, options: &[&str], url: &str) -> io::Result<String> {
    let mut command = std::process::Command::new("slowhttptest");
    command.args(options).args(["-c", &drill.stalled.to_string(), "-r", "400", "-u", url, "-p", "3"]);
    command.args(["-l", &drill.span.as_secs().to_string()]);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.map_err(io::Error::other)?;
    let output =
        output.map_err(|error| io::Error::other(format!("slowhttptest: {error}; run `make slow`")))?;
    Ok(last_said(&String::from_utf8_lossy(&output.stdout)))
}

/// The last count of connections in its output, which has colours.
fn last_said(text: &str) -> String {
    let mut said = BTreeMap::new();
    for line in text.lines() {
        let mut plain = String::new();
        let mut rest = line;
        while let Some((before, after)) = rest.split_once('\u{1b}') {
            plain.push_str(before);
            rest = after.split_once('m').map_or("", |(_, after)| after);
        }
        plain.push_str(rest);
        for word in ["connected", "error", "closed", "service available"] {
            if let Some(value) = plain.trim().strip_prefix(word) {
                said.insert(word, value.trim_start_matches(':').trim().to_owned());
            }
        }
    }
    said.iter().map(|(word, value)| format!("{word} {value}")).collect::<Vec<_>>().join(", ")
}

impl Figures {
    /// The table.
    pub fn table(&self) -> String {
        let mut text = String::new();
        for row in &self.0 {
            let [half, p99, longest] = [50, 99, 100].map(|hundredths| percentile(&row.served, hundredths));
            let [before, peak, after] = row.resident.map(mib);
            let _ = writeln!(
                text,
                "{}\n    canary: {} served, p50 {half:.1?}, p99 {p99:.1?}, longest {longest:.1?}, failed {:?}\n    \
                 memory: {before} before, {peak} at its peak, {after} five seconds later\n    \
                 refused or closed: {:?}\n    {}",
                row.name,
                row.served.len(),
                row.failed,
                row.refused,
                row.notes
            );
        }
        text
    }

    /// Where the bar was missed, in words.
    pub fn missed(&self, bar: &Bar) -> Vec<String> {
        let first = self.0.first().map_or(0, |row| row.resident[0]);
        let mut missed = Vec::new();
        for row in &self.0 {
            let p99 = percentile(&row.served, 99);
            let more = row.resident[1].saturating_sub(first);
            let mut ask = |held: bool, words: String| {
                if !held {
                    missed.push(format!("{}: {words}", row.name));
                }
            };
            ask(!row.served.is_empty(), "the canary got nothing".to_owned());
            ask(row.failed.is_empty(), format!("hand-outs failed: {:?}", row.failed));
            ask(p99 <= bar.p99, format!("p99 is {p99:.1?}, above {:?}", bar.p99));
            ask(more <= bar.more, format!("{} more in memory, above {}", mib(more), mib(bar.more)));
        }
        missed
    }
}
