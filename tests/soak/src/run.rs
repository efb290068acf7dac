//! One run, from the first process to the report.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::Value;
use tokenward::telemetry::audit::{self, VerifyingKey, What};
use tokio::sync::mpsc;

use crate::acts::{Acts, act_until};
use crate::caller::{crowd, users};
use crate::check::is_settled;
use crate::client::number_of;
use crate::daemon::Replica;
use crate::faults::Maker;
use crate::ledger::{Audited, AuthorityCall, Effect, Ending, Evidence, FaultRecord, Final, Setup};
use crate::listener::listen;
use crate::plan::{Choice, draw};
use crate::world::{LEASE, Plan, SERVE_CACHED_FOR, World, now};

/// Time before the first fault, in which every replica caches every token.
const WARM_UP: Duration = Duration::from_secs(5);
/// Time before the end of the faults without further acts: the last acts are checked at the end, and tokens
/// cached before them must expire.
const LAST_ACTS: Duration = Duration::from_secs(14);
/// Time after the last fault for a lease to run out and everything to be refreshed once.
const SETTLE: Duration = Duration::from_secs(30);

/// What to run.
#[derive(Clone, Debug)]
pub struct Soak {
    /// The world.
    pub plan: Plan,
    /// The seed of the faults and of the callers.
    pub seed: u64,
    /// How many faults.
    pub faults: u32,
    /// The time in which they begin.
    pub span: Duration,
    /// Callers at a time.
    pub callers: u16,
    /// Requests a second, of all callers.
    pub rate: u32,
    /// Whether the only server of a store may come back empty.
    pub empty: bool,
    /// Only faults whose kind begins with one of these; all if there are none.
    pub only: Vec<String>,
}

/// Runs in a folder and says what everyone wrote down.
///
/// # Errors
/// When the world could not be built or mended; whatever the daemons do wrong is in the evidence instead.
pub async fn run(soak: &Soak, folder: &Path, say: impl Fn(String)) -> io::Result<Evidence> {
    let choice = Choice {
        replicas: soak.plan.replicas,
        sentinel: soak.plan.sentinel,
        clocks: soak.plan.clocks && crate::daemon::can_fake_clocks(),
        empty: soak.empty,
    };
    let planned = draw(soak.seed, soak.faults, soak.span, choice, &soak.only);
    let world = Arc::new(World::start(&soak.plan, folder).await?);
    say(format!("{} connections on {} replicas", world.connections.len(), world.replicas.len()));

    let stop = Arc::new(AtomicBool::new(false));
    let (need, needed) = mpsc::channel(usize::from(soak.plan.connections).max(1));
    let acts = Arc::new(Acts::new(world.clone()));
    let users = tokio::spawn(users(world.clone(), acts.clone(), needed, stop.clone()));
    let callers =
        tokio::spawn(crowd(world.clone(), (soak.callers, soak.rate, soak.seed), stop.clone(), need));
    // The authority's ledger is bounded: it is read as it grows.
    let (reading, read) = (world.clone(), stop.clone());
    let ledger = tokio::spawn(async move {
        let mut calls: Vec<AuthorityCall> = Vec::new();
        while !read.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(500)).await;
            calls.extend(reading.authority_calls(false));
        }
        calls
    });
    let heard = tokio::spawn(listen(world.clone(), stop.clone()));
    tokio::time::sleep(WARM_UP).await;
    let faults_from = now();
    let acting = act_until(acts.clone(), Instant::now() + soak.span.saturating_sub(LAST_ACTS), soak.seed);
    let (faults, (), endings) = tokio::join!(
        Maker::new(world.clone()).make_all(planned, &say),
        tokio::time::sleep(soak.span),
        acting
    );
    let faults_until = now();
    say("the faults are over".to_owned());
    let finals = settle(&world, &endings).await;
    stop.store(true, Ordering::Relaxed);
    let mut calls = callers.await.map_err(io::Error::other)?;
    users.await.map_err(io::Error::other)?;
    let (connections, acts) = acts.written_down();
    let mut authority = ledger.await.map_err(io::Error::other)?;
    let faults = faults?;
    let told = heard.await.map_err(io::Error::other)?;
    for replica in &world.replicas {
        replica.stop().await;
    }
    authority.extend(world.authority_calls(true));
    calls.sort_by_key(|call| call.number);
    let (mut audited, mut audit_flaws) = (Vec::new(), Vec::new());
    for replica in &world.replicas {
        read_audit(replica.index, &replica.audit(), &mut audited)?;
        audit_flaws.extend(flaws_of(replica, &world.shared.access.audit_key, &faults)?);
    }
    let mode = if soak.plan.mode == entra_emulator::Mode::Entra { "entra" } else { "strict" };
    let setup = Setup {
        seed: soak.seed,
        mode: mode.to_owned(),
        redis: if soak.plan.sentinel { "sentinel" } else { "standalone" }.to_owned(),
        replicas: soak.plan.replicas,
        wait_replicas: waits_for(&soak.plan.store_lines),
        serve_cached_for: u64::try_from(SERVE_CACHED_FOR.as_millis()).unwrap_or(u64::MAX),
        lease: u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX),
        faults_from,
        faults_until,
    };
    let entries = world.shared.entries();
    Ok(Evidence {
        setup,
        connections,
        calls,
        entries,
        audited,
        audit_flaws,
        authority,
        faults,
        acts,
        finals,
        told,
    })
}

/// Asks for every connection at every replica until each was refreshed, or stands as it must, and all agree;
/// or it takes too long.
async fn settle(world: &Arc<World>, endings: &HashMap<u16, Ending>) -> Vec<Final> {
    // Tokens issued from now on have higher numbers than any before.
    let ended_at = now();
    let begun = Instant::now();
    let mut client = world.client();
    let mut finals: Vec<Final> = (0u16..)
        .zip(&world.connections)
        .map(|(connection, _)| {
            let expected = endings.get(&connection).copied().unwrap_or_default();
            // Nobody was asked yet.
            let refused_by = (0..).take(world.replicas.len()).collect();
            Final { connection, expected, refused_by, ..Final::default() }
        })
        .collect();
    loop {
        for end in finals.iter_mut().filter(|end| !is_settled(end)) {
            let name = &world.connections[usize::from(end.connection)].name;
            end.refused_by.clear();
            for replica in &world.replicas {
                let call = client.ask(replica, end.connection, name, false).await;
                match &call.token {
                    None if end.expected.code().is_some_and(|code| call.code.as_deref() == Some(code)) => {}
                    // Life is counted from the issue, and fixed: a token that dies later was issued later.
                    Some(token) if end.expected == Ending::Served && token.dies > call.started => {
                        let life = life_of(world);
                        end.refreshed |= token.dies >= ended_at + life;
                    }
                    _ => {
                        end.refused_by.push(replica.index);
                        end.code.clone_from(&call.code);
                    }
                }
            }
        }
        if finals.iter().all(is_settled) || begun.elapsed() > SETTLE {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for end in &mut finals {
        let name = world.connections[usize::from(end.connection)].name.replace('/', "%2F");
        let path = format!("/v1/apps/outlook/connections/{name}");
        if let Ok(shown) = world.api_of(0, Method::GET, &path, Value::Null).await {
            end.status = shown["status"].as_str().map(str::to_owned);
        }
        if (!is_settled(end) || end.expected == Ending::Dead)
            && let Ok(refused) = world.api_of(0, Method::GET, &format!("{path}/token"), Value::Null).await
        {
            let codes = refused["error_codes"].as_array().into_iter().flatten();
            end.error_codes =
                codes.filter_map(Value::as_u64).filter_map(|code| u32::try_from(code).ok()).collect();
        }
    }
    finals
}

/// What the daemons' `wait_replicas` is.
fn waits_for(store_lines: &str) -> u8 {
    let value = store_lines
        .lines()
        .find_map(|line| line.trim().strip_prefix("wait_replicas")?.trim().strip_prefix('='));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

fn life_of(world: &World) -> u64 {
    world.entra.settings().token_lifetime_seconds.unwrap_or(0) * 1000
}

/// What is wrong with a daemon's audit stream and its signatures.
fn flaws_of(replica: &Replica, key: &VerifyingKey, faults: &[FaultRecord]) -> io::Result<Vec<String>> {
    let keys = std::slice::from_ref(key);
    let verified = [audit::verify_signed(File::open(replica.audit())?, keys)?];
    let joined = audit::join_signed(&verified, None, keys);
    // Records from before and after a clock was put right seem to lie far apart.
    let has_jumped =
        faults.iter().any(|fault| fault.effect == Effect::Clock && fault.replica == Some(replica.index));
    let of_files = joined.flaws.iter().map(|(_, flaw)| flaw);
    let flaws = verified[0].flaws.iter().chain(of_files);
    let flaws = flaws.filter(|flaw| !(has_jumped && matches!(flaw.what, What::Unsigned { .. })));
    let of = replica.index;
    let mut flaws: Vec<String> = flaws.map(|flaw| format!("replica {of}: {flaw:?}")).collect();
    if joined.signed.checkpoints == 0 {
        flaws.push(format!("replica {of}: nothing is signed"));
    }
    Ok(flaws)
}

/// What one daemon's audit stream says of tokens.
fn read_audit(replica: u8, path: &Path, audited: &mut Vec<Audited>) -> io::Result<()> {
    for line in BufReader::new(File::open(path)?).split(b'\n') {
        // A line torn by a kill is the chain's concern.
        let Ok(record) = serde_json::from_slice::<Value>(&line?) else { continue };
        let text = |key: &str| record[key].as_str().map(str::to_owned);
        let suppressed = record["suppressed"].as_u64().unwrap_or(0);
        let call = record["request_id"].as_str().and_then(number_of);
        if call.is_some() || (suppressed > 0 && record["action"] == "refused") {
            audited.push(Audited {
                replica,
                call,
                action: text("action").unwrap_or_default(),
                outcome: text("outcome").unwrap_or_default(),
                caller: text("caller"),
                method: text("method"),
                door: text("door"),
                connection: text("connection"),
                token_sha256: text("token_sha256"),
                uti: text("uti"),
                suppressed,
            });
        }
    }
    Ok(())
}
