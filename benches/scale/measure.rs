//! What is measured at one number of connections, in this order: bytes, the start, rest, hand-outs and lists,
//! then the sweep with a daemon of its own, and last a count and a rewrap through the repository.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokenward::domain::time::Clock as _;
use tokenward::keyring::files;
use tokenward::repository::{Repository, Rewrapped};
use tokenward::store::{Store, keyspace, record};
use tokenward::system::{SystemClock, SystemRandom};

use crate::authority::Authority;
use crate::daemon::{Client, Daemon, Place};
use crate::seed::{self, Seeder};
use crate::support::{Failure, process};
use crate::table::Table;
use crate::{Args, Kind};

/// Refreshes a second that the sweep may begin.
const SWEEP_RATE: u32 = 400;
/// Records looked at for the bytes of one.
const SAMPLE: u64 = 200;
/// Records rewrapped.
const REWRAPPED: u64 = 2_000;
/// Lists that are timed.
const LISTS: usize = 100;

pub async fn size(
    args: &Args,
    kind: Kind,
    size: u64,
    authority: &Authority,
    table: &mut Table,
) -> Result<(), Failure> {
    let place = Place::new(kind == Kind::Redis, &authority.url(), SWEEP_RATE)?;
    seed(&place, size, authority, table).await?;
    let resting = serve(args, &place, size, table).await?;
    sweep(args, &place, size, authority, resting, table).await?;
    walk(&place, size, table).await
}

/// Seeds the store, and says what it takes.
async fn seed(place: &Place, size: u64, authority: &Authority, table: &mut Table) -> Result<(), Failure> {
    let keyring = Arc::new(files::open(&place.path("keyring"))?);
    let store = place.open()?;
    store.ping().await?;
    let before = place.redis.as_ref().map(|redis| redis.used()).transpose()?;
    let (seeder, began) = (Seeder::new(store, keyring, authority.origin()), Instant::now());
    seeder.seed(0..size).await?;
    table.put("seeded a second", count(size) / began.elapsed().as_secs_f64());
    let mut payload = [0_u64; 4];
    let sampled = spread(size, SAMPLE);
    for number in &sampled {
        let stored = seeder.store.load(&seed::key(*number)).await?.ok_or("a seeded record is gone")?;
        let whole = record::encode("measuring", &stored)?.len();
        for (sum, length) in
            payload.iter_mut().zip([stored.profile.len(), stored.tokens.len(), stored.grant.len(), whole])
        {
            *sum += length as u64;
        }
    }
    let rows = ["sealed profile, bytes", "sealed tokens, bytes", "sealed grant, bytes", "record, bytes"];
    for (row, sum) in rows.into_iter().zip(payload) {
        table.put(row, count(sum) / count(sampled.len() as u64));
    }
    if let (Some(redis), Some(before)) = (&place.redis, before) {
        let used = redis.used()?.saturating_sub(before);
        table.put("Redis, bytes a connection", count(used) / count(size));
        let records: u64 = sampled
            .iter()
            .map(|number| redis.usage(&keyspace::redis_record(&seed::key(*number))))
            .sum::<Result<u64, _>>()?;
        table.put("of these the record's key", count(records) / count(sampled.len() as u64));
        let index = redis.usage(&keyspace::redis_index(&seed::key(0).app))?;
        table.put("of these the index", count(index) / count(size));
        let (mut due, mut used) = (0, 0);
        for shard in 0..tokenward::store::SWEEP_SHARDS {
            let (of_due, of_used) = keyspace::redis_due(shard);
            due += redis.usage(&of_due)?;
            used += redis.usage(&of_used)?;
        }
        table.put("of these the schedule", count(due) / count(size));
        table.put("of these the last uses", count(used) / count(size));
    }
    drop(seeder);
    if place.redis.is_none() {
        let file = std::fs::metadata(place.path("data").join(tokenward::store::embedded::FILE_NAME))?;
        table.put("file, bytes a connection", count(file.len()) / count(size));
    }
    Ok(())
}

/// Starts a daemon, watches it at rest, and asks for tokens and lists. Returns the processor time of a second
/// at rest, of the daemon and of Redis.
async fn serve(args: &Args, place: &Place, size: u64, table: &mut Table) -> Result<[f64; 2], Failure> {
    let (daemon, took) = place.daemon(&args.binary).await?;
    table.put("start to ready, ms", millis(took));
    tokio::time::sleep(Duration::from_secs(args.settle)).await;
    let at_first = process::memory(daemon.id())?;
    table.put("memory after the start, MiB", count(at_first) / 1048576.0);
    let resting = rest(place, &daemon, args.rest()).await?;
    table.put("processor at rest, ms a second", resting[0] * 1000.0);
    if place.redis.is_some() {
        table.put("Redis' processor at rest, ms a second", resting[1] * 1000.0);
    }
    let mut client = daemon.client().await?;
    let numbers: BTreeSet<u64> = spread(size / 2, args.held).into_iter().map(|number| 2 * number).collect();
    let before = process::memory(daemon.id())?;
    let first = hand_out(&mut client, &numbers).await?;
    put_latency(table, ["hand-out, not held, µs", "  its p99, µs"], first);
    let again = hand_out(&mut client, &numbers).await?;
    put_latency(table, ["hand-out, held, µs", "  of these the p99, µs"], again);
    let held = process::memory(daemon.id())?;
    table
        .put("memory for each held, bytes", count(held.saturating_sub(before)) / count(numbers.len() as u64));
    let mut lists = Vec::new();
    let mut path = "/v1/apps/outlook/connections".to_owned();
    for _ in 0..LISTS {
        let (took, page) = client.get(&path).await?;
        lists.push(took);
        path = match page["next_cursor"].as_str().or(page["next"].as_str()) {
            Some(cursor) => format!("/v1/apps/outlook/connections?cursor={cursor}"),
            None => "/v1/apps/outlook/connections".to_owned(),
        };
    }
    put_latency(table, ["page of a list, µs", "  p99 of a page, µs"], lists);
    daemon.stop();
    Ok(resting)
}

/// Processor time of a second, of the daemon and of Redis.
async fn rest(place: &Place, daemon: &Daemon, during: Duration) -> Result<[f64; 2], Failure> {
    let redis = || place.redis.as_ref().map_or(Ok(Duration::ZERO), |redis| process::cpu(redis.process.id()));
    let (before, began) = ([process::cpu(daemon.id())?, redis()?], Instant::now());
    tokio::time::sleep(during).await;
    let (after, during) = ([process::cpu(daemon.id())?, redis()?], began.elapsed().as_secs_f64());
    Ok([0, 1].map(|at| after[at].saturating_sub(before[at]).as_secs_f64() / during))
}

async fn hand_out(client: &mut Client, numbers: &BTreeSet<u64>) -> Result<Vec<Duration>, Failure> {
    let mut took = Vec::with_capacity(numbers.len());
    for number in numbers {
        let path = format!("/v1/apps/outlook/connections/{}/token", seed::name(*number));
        took.push(client.get(&path).await?.0);
    }
    Ok(took)
}

/// Makes some connections due and starts a daemon: what its sweep takes for each of them, beyond rest.
async fn sweep(
    args: &Args,
    place: &Place,
    size: u64,
    authority: &Authority,
    resting: [f64; 2],
    table: &mut Table,
) -> Result<(), Failure> {
    let due: BTreeSet<u64> = spread(size / 2, args.due).into_iter().map(|number| 2 * number + 1).collect();
    let keyring = Arc::new(files::open(&place.path("keyring"))?);
    let seeder = Seeder::new(place.open()?, keyring, authority.origin());
    seeder.store.ping().await?;
    seeder.make_due(due.iter().copied()).await?;
    drop(seeder);
    let before = authority.refreshes();
    let redis = || place.redis.as_ref().map_or(Ok(Duration::ZERO), |redis| process::cpu(redis.process.id()));
    let (daemon, _) = place.daemon(&args.binary).await?;
    let (began, at_first) = (Instant::now(), [process::cpu(daemon.id())?, redis()?]);
    let first = authority.refreshes();
    while authority.refreshes() - before < due.len() as u64 {
        if began.elapsed() > Duration::from_secs(60) {
            println!("  only {} of {} were swept", authority.refreshes() - before, due.len());
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // (The last answers are being stored.)
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (at_last, during) = ([process::cpu(daemon.id())?, redis()?], began.elapsed().as_secs_f64());
    let swept = count((authority.refreshes() - first).max(1));
    let each = [0, 1].map(|at| {
        let busy = at_last[at].saturating_sub(at_first[at]).as_secs_f64();
        (busy - resting[at] * during).max(0.0) * 1e6 / swept
    });
    table.put("sweep, µs of processor for each due", each[0]);
    if place.redis.is_some() {
        table.put("  of Redis', µs for each due", each[1]);
    }
    daemon.stop();
    Ok(())
}

/// Counts all records by sealing key, and rewraps some with a new one.
async fn walk(place: &Place, size: u64, table: &mut Table) -> Result<(), Failure> {
    let path = place.path("keyring");
    let store = place.open()?;
    store.ping().await?;
    let of = |store: &Arc<dyn Store>| -> Result<Repository, Failure> {
        Ok(Repository::new(Arc::clone(store), Arc::new(files::open(&path)?), Arc::new(SystemRandom::new())))
    };
    let (repository, began, busy) = (of(&store)?, Instant::now(), process::cpu(std::process::id())?);
    let (mut after, mut counted, mut some) = (None, 0_u64, Vec::new());
    loop {
        let page = repository.sealed_by(after.as_deref()).await?;
        counted += page.records.len() as u64;
        if (some.len() as u64) < REWRAPPED.min(size) {
            some.extend(page.records.into_iter().map(|(of, _)| of).filter(Repository::lasts));
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let busy = process::cpu(std::process::id())?.saturating_sub(busy);
    table.put("count, µs for each record", began.elapsed().as_secs_f64() * 1e6 / count(counted));
    table.put("  of processor, µs for each", busy.as_secs_f64() * 1e6 / count(counted));
    let (random, now) = (SystemRandom::new(), SystemClock::new().now());
    let made = files::add(&path, &random, now)?;
    files::promote(&path, &made.id, now)?;
    let (repository, began, busy) = (of(&store)?, Instant::now(), process::cpu(std::process::id())?);
    some.truncate(usize::try_from(REWRAPPED)?);
    let mut done = 0;
    for record in &some {
        done += u64::from(repository.rewrap(record).await? == Rewrapped::Done);
    }
    let busy = process::cpu(std::process::id())?.saturating_sub(busy);
    table.put("rewrap, µs for each record", began.elapsed().as_secs_f64() * 1e6 / count(done.max(1)));
    table.put("  of processor, µs for each one", busy.as_secs_f64() * 1e6 / count(done.max(1)));
    Ok(())
}

/// At most so many numbers below `size`, all over it and in the order of no index.
fn spread(size: u64, most: u64) -> BTreeSet<u64> {
    let most = most.min(size);
    (0..most).map(|at| at * size / most).collect()
}

fn put_latency(table: &mut Table, rows: [&'static str; 2], mut took: Vec<Duration>) {
    took.sort_unstable();
    let at = |part: usize| took[(took.len() * part).div_ceil(100).max(1) - 1].as_secs_f64() * 1e6;
    table.put(rows[0], at(50));
    table.put(rows[1], at(99));
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn count(number: u64) -> f64 {
    number as f64
}
