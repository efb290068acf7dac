//! The flood drill: one key, one link, strangers and stalled connections flood one daemon at once. A canary
//! caller beside them has its hand-outs counted, timed and looked up in the audit.

pub mod drive;
pub mod http2;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use entra_emulator::Mode;
use http::Method;
use serde_json::{Value, json};
use tokenward::telemetry::audit;

use self::drive::{Rates, Stalled, Tally, Target};
use crate::client::{Client, number_of};
use crate::daemon::Replica;
use crate::world::{Plan, World, has_other_life, now};

/// The flooder's name in the configuration.
const FLOODER: &str = "flooder";
/// The flooder's own limit: what is beyond it is refused.
const FLOODER_RATE: u32 = 50;
/// The canary's connections to the daemon, each with one request at a time.
const CANARY_HANDS: u32 = 4;
/// The life of the access tokens of every other user: they are held during the whole drill, as tokens of an
/// hour are.
const HELD: Duration = Duration::from_secs(3600);
/// A refresh is due after three quarters of a token's life at the latest; nobody is refused for this and one
/// more.
const SLACK: u64 = 2;

/// What to run.
#[derive(Debug, Clone)]
pub struct Drill {
    /// The daemon.
    pub binary: PathBuf,
    /// How long everything is flooded.
    pub span: Duration,
    /// How long until memory is looked at again.
    pub rest: Duration,
    /// What is driven.
    pub rates: Rates,
    /// The canary's requests a second.
    pub canary: u32,
    /// Its connections.
    pub connections: u16,
    /// The life of the access tokens of those connections that are refreshed during the drill. It is below
    /// `min_ttl`, so their hand-outs wait for the authority.
    pub token_life: Duration,
    /// Redis' `maxmemory`, so that a store that is filled is seen; empty for none.
    pub redis_memory: String,
}

/// What is asked of a drill.
#[derive(Debug, Clone, Copy)]
pub struct Bar {
    /// The canary's 99th percentile.
    pub p99: Duration,
    /// Resident memory, at the most.
    pub peak: u64,
    /// Resident memory at the end above what it was before.
    pub kept: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Figures {
    /// Hand-outs of held tokens that the canary got, and how long each took, sorted.
    pub served: Vec<Duration>,
    /// The same for those that are refreshed first.
    pub renewed: Vec<Duration>,
    /// What it did not get: by status and code.
    pub failed: BTreeMap<String, u64>,
    /// Hand-outs without a record in the audit, and flaws of its chain.
    pub unaudited: usize,
    /// Flaws of the audit's chain.
    pub audit_flaws: usize,
    /// The audit's bytes and records.
    pub audit_records: u64,
    /// Connections of the canary that were not refreshed as often as their tokens' life demands.
    pub starved: Vec<String>,
    /// Refreshes at the authority during the flood, and calls of every kind.
    pub refreshes: usize,
    /// Calls of every kind.
    pub authority_calls: usize,
    /// Resident memory in bytes: before, at its peak, at the end.
    pub resident: [u64; 3],
    /// Redis' memory in bytes: before, and after the flood.
    pub redis: [u64; 2],
    /// Series of `/metrics` before and after.
    pub series: [usize; 2],
    /// What was sent and how it was answered.
    pub sent: Vec<String>,
    /// Requests of the floods that were answered 5xx other than 503, or by nothing.
    pub internal_errors: u64,
}

/// Runs a drill in a folder.
///
/// # Errors
/// When the world could not be built; what the daemon does wrong is in the figures.
pub async fn run(drill: &Drill, folder: &Path, say: impl Fn(String)) -> io::Result<Figures> {
    let lines = format!(
        "rate_limit = {FLOODER_RATE}\n[[callers.{FLOODER}.allow]]\napp = \"outlook\"\nconnections = \
         [\"*\"]\nbulk = true\n\
         scopes = [\"*\"]\nconnect = true\n"
    );
    let plan = Plan {
        binary: drill.binary.clone(),
        mode: Mode::Entra,
        sentinel: false,
        replicas: 1,
        connections: drill.connections,
        token_life: drill.token_life,
        other_life: Some(HELD),
        clocks: false,
        store_lines: String::new(),
        more_callers: vec![(FLOODER.to_owned(), lines)],
    };
    let world = Arc::new(World::start(&plan, folder).await?);
    let redis = &world.redis.nodes[0];
    if !drill.redis_memory.is_empty() {
        redis.ask(&format!("CONFIG SET maxmemory {}", drill.redis_memory))?;
    }
    let replica = &world.replicas[0];
    let key = world.shared.access.key(FLOODER).to_owned();
    let session = json!({ "app": "outlook", "connection": "flood/link" });
    let session = world.api_of(0, Method::POST, "/v1/connect-sessions", session).await?;
    let link =
        session["connect_url"].as_str().and_then(|url| url.find("/connect/").map(|at| url[at..].to_owned()));
    let target = Target {
        public: world.public(),
        local: replica.local,
        key,
        link: link.ok_or_else(|| io::Error::other(format!("no link in {session}")))?,
        connection: world.connections[0].name.replace('/', "%2F"),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let canaries: Vec<_> = (0..CANARY_HANDS)
        .map(|hand| tokio::spawn(canary(world.clone(), world.client(), drill.canary, hand, stop.clone())))
        .collect();
    // Every token is held, and what the daemon allocates once is allocated.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let resident_before = resident(replica)?;
    let redis_before = used_memory(redis);
    let series_before = series(replica).await;
    drop(world.entra.take_ledger());
    say(format!("{} before; flooding for {:?}", mib(resident_before), drill.span));

    let (tally, stalled, over) =
        (Arc::new(Tally::default()), Arc::new(Stalled::default()), Arc::new(AtomicBool::new(false)));
    let floods = tokio::spawn(drive::all(target, drill.rates, tally.clone(), stalled.clone(), over.clone()));
    let begun = Instant::now();
    let mut peak = resident_before;
    let mut calls = Vec::new();
    while begun.elapsed() < drill.span {
        tokio::time::sleep(Duration::from_millis(100)).await;
        peak = peak.max(resident(replica)?);
        calls.extend(world.authority_calls(false));
    }
    let redis_after = used_memory(redis);
    let series_after = series(replica).await;
    over.store(true, Ordering::Relaxed);
    floods.await.map_err(io::Error::other)?;
    calls.extend(world.authority_calls(false));
    say(format!("the floods are over; {} now, waiting {:?}", mib(resident(replica)?), drill.rest));
    tokio::time::sleep(drill.rest).await;
    let resident_after = resident(replica)?;
    stop.store(true, Ordering::Relaxed);
    let (mut served, mut renewed, mut failed) = (Vec::new(), Vec::new(), BTreeMap::new());
    let mut numbers = BTreeSet::new();
    for canary in canaries {
        for (number, held, took, trouble) in canary.await.map_err(io::Error::other)? {
            match trouble {
                None => {
                    numbers.insert(number);
                    if held { served.push(took) } else { renewed.push(took) }
                }
                Some(trouble) => *failed.entry(trouble).or_default() += 1,
            }
        }
    }
    served.sort_unstable();
    renewed.sort_unstable();
    replica.stop().await;

    let audit_records = strike_out_audited(&replica.audit(), &mut numbers)?;
    let verified = audit::verify(fs::File::open(replica.audit())?)?;
    let due = (drill.span.as_secs() / drill.token_life.as_secs().max(1)).saturating_sub(SLACK);
    let refreshed = |user: &str| {
        calls.iter().filter(|call| call.refresh && call.user.as_deref() == Some(user)).count() as u64
    };
    // The first one is the one that is reported with ever new claims. Tokens of the other life outlive the
    // drill.
    let starved = world.connections.iter().enumerate().skip(1);
    let starved = starved.filter(|(number, one)| !has_other_life(*number) && refreshed(&one.user) < due);
    let mut sent = tally.lines();
    sent.push(format!(
        "{:<22} {:>8}  most open at a time, as the driver sees it: {}",
        "stalled connections",
        stalled.opened.load(Ordering::Relaxed),
        stalled.most.load(Ordering::Relaxed)
    ));
    Ok(Figures {
        served,
        renewed,
        failed,
        unaudited: numbers.len(),
        audit_flaws: verified.flaws.len(),
        audit_records,
        starved: starved.map(|(_, one)| one.name.clone()).collect(),
        refreshes: calls.iter().filter(|call| call.refresh).count(),
        authority_calls: calls.len(),
        resident: [resident_before, peak, resident_after],
        redis: [redis_before, redis_after],
        series: [series_before, series_after],
        sent,
        internal_errors: tally.with(500) + tally.with(502),
    })
}

/// One of the canary's connections: asks for one token after the other, until told to stop. Each request's
/// number, whether the token was one that is held, how long it took, and what was wrong.
pub(crate) async fn canary(
    world: Arc<World>,
    mut client: Client,
    rate: u32,
    hand: u32,
    stop: Arc<AtomicBool>,
) -> Vec<(u64, bool, Duration, Option<String>)> {
    let mut due = tokio::time::interval(Duration::from_secs(1) * CANARY_HANDS / rate.max(1));
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut results = Vec::new();
    let mut next = hand as usize;
    while !stop.load(Ordering::Relaxed) {
        due.tick().await;
        let number = next % world.connections.len();
        next += CANARY_HANDS as usize;
        let name = &world.connections[number].name;
        let begun = Instant::now();
        let call = client.ask(&world.replicas[0], u16::try_from(number).unwrap_or(0), name, false).await;
        let took = begun.elapsed();
        let usable = call.token.as_ref().is_some_and(|token| token.dies > now());
        let trouble =
            (!usable).then(|| format!("{} {}", call.status, call.code.as_deref().unwrap_or("no token")));
        results.push((call.number, has_other_life(number), took, trouble));
    }
    results
}

/// Takes those numbers out that the audit has as a token handed out; how many records it has in all.
fn strike_out_audited(path: &Path, numbers: &mut BTreeSet<u64>) -> io::Result<u64> {
    let mut records = 0;
    for line in BufReader::new(fs::File::open(path)?).lines() {
        records += 1;
        let Ok(record) = serde_json::from_str::<Value>(&line?) else { continue };
        if record["action"] == "token"
            && record["outcome"] == "ok"
            && let Some(number) = record["request_id"].as_str().and_then(number_of)
        {
            numbers.remove(&number);
        }
    }
    Ok(records)
}

pub(crate) fn percentile(sorted: &[Duration], hundredths: usize) -> Duration {
    let at = (sorted.len() * hundredths / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}

fn spread(sorted: &[Duration]) -> String {
    let [half, p99, longest] = [50, 99, 100].map(|hundredths| percentile(sorted, hundredths));
    format!("{} served, p50 {half:.1?}, p99 {p99:.1?}, longest {longest:.1?}", sorted.len())
}

pub(crate) fn resident(replica: &Replica) -> io::Result<u64> {
    let pid = replica.pid().ok_or_else(|| io::Error::other("the daemon is gone"))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok());
    kib.map(|kib| kib * 1024)
        .ok_or_else(|| io::Error::other("the kernel does not say what the daemon has in memory"))
}

fn used_memory(server: &crate::redis::Server) -> u64 {
    let said = server.ask("INFO memory").unwrap_or_default();
    let line = said.lines().find_map(|line| line.strip_prefix("used_memory:"));
    line.and_then(|line| line.trim().parse().ok()).unwrap_or(0)
}

/// The series of `/metrics` that begin so, by their labels of listener and reason.
pub(crate) async fn series_of(replica: &Replica, prefix: &str) -> BTreeMap<String, u64> {
    let metrics = replica.metrics().await.unwrap_or_default();
    let lines = metrics.lines().filter_map(|line| line.strip_prefix(prefix)?.split_once("\"} "));
    lines
        .filter_map(|(label, count)| Some((label.replace("\",reason=\"", " "), count.parse().ok()?)))
        .collect()
}

async fn series(replica: &Replica) -> usize {
    let metrics = replica.metrics().await.unwrap_or_default();
    metrics.lines().filter(|line| !line.starts_with('#')).count()
}

pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1024.0 / 1024.0)
}

impl Figures {
    /// The table.
    pub fn table(&self) -> String {
        let mut text = String::from("what was sent          requests  answered with\n");
        for line in &self.sent {
            text.push_str(&format!("{line}\n"));
        }
        let [before, peak, after] = self.resident.map(mib);
        let [redis_before, redis_after] = self.redis.map(mib);
        text.push_str(&format!(
            "\ncanary's held tokens   {}\nrefreshed first        {} (the authority answers after 30 \
             ms)\nfailed                 {:?}\n",
            spread(&self.served),
            spread(&self.renewed),
            self.failed
        ));
        text.push_str(&format!(
            "refreshes              {} of {} calls to the authority; starved: {:?}\n",
            self.refreshes, self.authority_calls, self.starved
        ));
        text.push_str(&format!(
            "memory                 {before} before, {peak} at its peak, {after} at the end\n"
        ));
        text.push_str(&format!(
            "redis                  {redis_before} before, {redis_after} after the floods\n"
        ));
        text.push_str(&format!(
            "series of /metrics     {} before, {} after\n",
            self.series[0], self.series[1]
        ));
        text.push_str(&format!(
            "audit                  {} records, {} of the canary's missing, {} flaws of the chain\n",
            self.audit_records, self.unaudited, self.audit_flaws
        ));
        text
    }

    /// Where the bar was missed, in words.
    pub fn missed(&self, bar: &Bar) -> Vec<String> {
        let mut missed = Vec::new();
        let mut ask = |held: bool, words: String| {
            if !held {
                missed.push(words);
            }
        };
        ask(!self.served.is_empty() && !self.renewed.is_empty(), "the canary got nothing".to_owned());
        ask(self.failed.is_empty(), format!("hand-outs of the canary failed: {:?}", self.failed));
        let p99 = percentile(&self.served, 99);
        ask(p99 <= bar.p99, format!("p99 of the canary is {p99:.1?}, above {:?}", bar.p99));
        ask(self.starved.is_empty(), format!("not refreshed in time: {:?}", self.starved));
        let [before, peak, after] = self.resident;
        ask(peak <= bar.peak, format!("the daemon had {} in memory, above {}", mib(peak), mib(bar.peak)));
        let kept = after.saturating_sub(before);
        ask(kept <= bar.kept, format!("it kept {} of it, more than {}", mib(kept), mib(bar.kept)));
        ask(self.unaudited == 0, format!("{} hand-outs have no record in the audit", self.unaudited));
        ask(self.audit_flaws == 0, format!("the audit's chain has {} flaws", self.audit_flaws));
        ask(self.internal_errors == 0, format!("{} requests were answered 500 or 502", self.internal_errors));
        missed
    }
}
