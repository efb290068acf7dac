//! Renews connections before a caller asks: used ones before their tokens' end, idle ones to keep their
//! grants alive, and those under a verdict because it may be outdated.
//!
//! It takes no input and may run at any time, on a timer and on a nudge. The schedule is in the store, in
//! shards, and the replica with a shard's lease works on it. So the cost follows the number of due
//! connections, a restart forgets nothing, and replicas share the work and its budget without knowing one
//! another. A connection is first moved ahead in the schedule: a replica that dies over it costs a minute,
//! and one that hangs delays nobody.
//!
//! Budgets: a shard may begin so many refreshes a second, and a tenant a quarter of that. They begin empty,
//! so that the pile of an outage or a stop is smoothed out. All shards also share the budget of other kinds
//! of calls. If that does not suffice, it is dealt out to them in turn (`turns`). Renewals that a caller
//! waits for take from none of these.

#[cfg(test)]
mod load;

use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::fly::{REFRESH, fly_as};
use super::observer::Swept;
use super::permit::CallPermit;
use super::ports::Ports;
use super::renewals::renew_due;
use super::schedule::jitter;
use super::slot::{At, Slots, Work};
use super::turns::{self, Dry};
use crate::domain::bucket::{self, Rate, TokenBucket};
use crate::domain::cause::Cause;
use crate::domain::connection::Status;
use crate::domain::time::Timestamp;
use crate::repository::RepositoryError;
use crate::store::{Due, LeaseAnswer, LeaseNonce, LeaseOf, SWEEP_SHARDS, StoreError};

/// How often due connections are looked for.
const EVERY: Duration = Duration::from_secs(1);
/// A shard's lease …
const SHARD_LEASE: Duration = Duration::from_secs(10);
/// … which is prolonged when this much of it has passed, and tried for this often while another replica has
/// it: neither is a write to the store with every round.
const SHARD_AGAIN: Duration = Duration::from_secs(4);
/// Due connections of a shard that one round reads.
const BATCH: usize = 64;
/// How far a connection is moved ahead before its renewal: longer than the refresh takes.
const TAKEN_UP: Duration = Duration::from_secs(60);
/// How far a connection is moved ahead if its tenant has had its share for now.
const TENANTS_TURN: Duration = Duration::from_secs(5);
/// How far a blocked connection is moved ahead while its tenant blocks the app: one is tried for all, and all
/// are tried at once when it works.
const TENANT_BLOCKS: Duration = Duration::from_secs(1800);
/// How long an unused budget is kept: a pause must not become a burst.
const BURST: Duration = Duration::from_secs(1);
/// A tenant may have this part of a shard's budget.
const TENANTS_PART: f64 = 0.25;
/// Tenants whose budgets are remembered for one shard.
const MOST_TENANTS: usize = 1000;

/// The owner of a shard's budget.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    Everybody,
    /// One tenant's; all of an authority without tenants are one.
    Tenant(Option<String>),
}

/// Who has the lease of a shard, as far as the store said.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lease {
    Ours,
    Anothers,
    /// The store did not answer.
    Unknown,
}

/// What the sweep remembers between rounds; losing it costs nothing.
pub(super) struct Sweep {
    nonce: LeaseNonce,
    /// Monotonic: since when every budget fills.
    begun: Duration,
    nudged: Notify,
    /// By shard: when it was last asked for, and whose it is.
    asked: Mutex<BTreeMap<u8, (Duration, Lease)>>,
    budgets: Arc<Mutex<BTreeMap<(u8, Whose), TokenBucket>>>,
    /// The shard whose turn is first.
    first: AtomicU8,
}

impl Sweep {
    /// A sweep that begins with a random shard, so that a restart favours none.
    pub(super) fn new(nonce: LeaseNonce, begun: Duration) -> Self {
        let first = AtomicU8::new(nonce.0[0] % SWEEP_SHARDS);
        let (asked, budgets) = (Mutex::default(), Arc::default());
        Sweep { nonce, begun, nudged: Notify::new(), asked, budgets, first }
    }

    /// Starts the next round at once.
    pub(super) fn nudge(&self) {
        self.nudged.notify_one();
    }

    /// Takes one from a budget that fills at `rate` a second; none when it is empty.
    fn take(&self, shard: u8, whose: Whose, rate: f64, now: Duration) -> Option<CallPermit> {
        let one = (shard, whose);
        {
            let mut budgets = self.budgets.lock();
            if budgets.len() > MOST_TENANTS * usize::from(SWEEP_SHARDS) {
                budgets.retain(|_, budget| now.saturating_sub(budget.filled_at()) < BURST);
            }
            let budget = budgets.entry(one.clone()).or_insert(TokenBucket::empty(self.begun));
            let rate = Rate::new(rate, (rate * BURST.as_secs_f64()).max(1.0));
            budget.try_take(rate, now).ok()?;
        }
        let budgets = self.budgets.clone();
        let give_back = move || {
            let mut budgets = budgets.lock();
            if let Some(budget) = budgets.get_mut(&one) {
                budget.give_back(bucket::ONE);
            }
        };
        Some(CallPermit::new(give_back, || ()))
    }
}

/// Sweeps again and again, for as long as this is polled; it never completes.
pub(super) async fn run(ports: &Arc<Ports>, slots: &Arc<Slots>, sweep: &Sweep) {
    while !ports.revoked.is_known() {
        ports.sleep(EVERY).await;
    }
    loop {
        match once(ports, slots, sweep).await {
            Ok(swept) => ports.deps.observer.swept(swept),
            Err(error) => tracing::warn!(%error, "the sweep could not be made; it is tried again"),
        }
        let nudged = sweep.nudged.notified();
        tokio::select! {
            biased; // a run of the simulation is the same each time
            () = nudged => {}
            () = ports.sleep(EVERY) => {}
        }
    }
}

/// One round over the shards that no other replica has: finds due connections, deals out permits, and begins
/// renewals.
pub(super) async fn once(ports: &Arc<Ports>, slots: &Arc<Slots>, sweep: &Sweep) -> Result<Swept, StoreError> {
    let mut swept = Swept::default();
    let mut failed = None;
    let mut due: BTreeMap<u8, Vec<Due>> = BTreeMap::new();
    let looks = (0..SWEEP_SHARDS).map(|shard| async move { (shard, due_of_ours(ports, sweep, shard).await) });
    for (shard, looked) in four_at_a_time(looks).await {
        match looked {
            Ok((Lease::Ours, found)) => {
                swept.shards += 1;
                due.insert(shard, found);
            }
            Ok((Lease::Anothers, _)) => {}
            Ok((Lease::Unknown, _)) => swept.unknown += 1,
            // One shard's failure is not the others'.
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    let wants = due.iter().map(|(shard, due)| (*shard, due.len())).collect();
    let first = sweep.first.load(Ordering::Acquire);
    let rate = ports.settings().sweep_rate / f64::from(SWEEP_SHARDS);
    let now = ports.monotonic();
    let (mut dealt, next) = turns::deal(&wants, first, |shard| {
        let own = sweep.take(shard, Whose::Everybody, rate, now).ok_or(Dry::Its)?;
        let shared = ports.take(Cause::Sweep, None, false).map_err(|_| Dry::Everybodys)?;
        Ok(own.and(shared))
    });
    sweep.first.store(next, Ordering::Release);
    let begins = due.into_iter().map(|(shard, due)| {
        let permits = dealt.remove(&shard).unwrap_or_default();
        async move {
            let mut swept = Swept::default();
            let done = sweep_shard(ports, slots, sweep, shard, due, permits.into(), &mut swept).await;
            (swept, done)
        }
    });
    for (of_shard, done) in four_at_a_time(begins).await {
        swept.begun += of_shard.begun;
        swept.waiting += of_shard.waiting;
        failed = failed.or(done.err());
    }
    failed.map_or(Ok(swept), Err)
}

/// Four at a time: a store that is far away makes a round no longer than the pause between two.
async fn four_at_a_time<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let left = Mutex::new(all.collect::<VecDeque<F>>());
    let rounds = tokio::join!(one_by_one(&left), one_by_one(&left), one_by_one(&left), one_by_one(&left));
    let (first, second, third, fourth) = rounds;
    [first, second, third, fourth].into_iter().flatten().collect()
}

async fn one_by_one<F: Future>(left: &Mutex<VecDeque<F>>) -> Vec<F::Output> {
    let next = || left.lock().pop_front();
    let mut done = Vec::new();
    while let Some(one) = next() {
        done.push(one.await);
    }
    done
}

/// Whose a shard is, and its due connections if it is ours.
async fn due_of_ours(ports: &Ports, sweep: &Sweep, shard: u8) -> Result<(Lease, Vec<Due>), StoreError> {
    let lease = lease_of(ports, sweep, shard).await?;
    let due = match lease {
        Lease::Ours => ports.repository().due(shard, ports.now(), BATCH).await?,
        Lease::Anothers | Lease::Unknown => Vec::new(),
    };
    Ok((lease, due))
}

/// Who has the shard's lease; this replica takes a free one. A store that did not answer is left alone for
/// as long as one that did.
async fn lease_of(ports: &Ports, sweep: &Sweep, shard: u8) -> Result<Lease, StoreError> {
    let repository = ports.repository();
    if !repository.is_shared() {
        return Ok(Lease::Ours);
    }
    let now = ports.monotonic();
    let asked = sweep.asked.lock().get(&shard).copied();
    if let Some((at, lease)) = asked
        && now.saturating_sub(at) < SHARD_AGAIN
    {
        return Ok(lease);
    }
    let answer = repository.take_lease(LeaseOf::Sweep(shard), sweep.nonce, SHARD_LEASE).await;
    let lease = match &answer {
        Ok(LeaseAnswer::Mine { .. }) => Lease::Ours,
        Ok(_) => Lease::Anothers,
        Err(_) => Lease::Unknown,
    };
    sweep.asked.lock().insert(shard, (now, lease));
    answer.map(|_| lease)
}

/// Begins renewals of a shard's due connections, one for each permit; unused permits are given back.
async fn sweep_shard(
    ports: &Arc<Ports>,
    slots: &Arc<Slots>,
    sweep: &Sweep,
    shard: u8,
    due: Vec<Due>,
    mut permits: VecDeque<CallPermit>,
    swept: &mut Swept,
) -> Result<(), StoreError> {
    let rate = ports.settings().sweep_rate / f64::from(SWEEP_SHARDS);
    let repository = ports.repository();
    for one in due {
        if permits.is_empty() {
            swept.waiting += 1;
            break; // what is left is due longest next time
        }
        let monotonic = ports.monotonic();
        let Some((tenant, status)) = standing_of(ports, &one).await? else { continue };
        if !ports.tenants.lock().may_try(&one.key.app, tenant.as_deref(), status, monotonic) {
            // Another one tries for its tenant.
            repository.schedule(&one.key, Some(soon(ports, TENANT_BLOCKS))).await?;
            continue;
        }
        let Some(of_tenant) =
            sweep.take(shard, Whose::Tenant(tenant.clone()), rate * TENANTS_PART, monotonic)
        else {
            // One tenant's turn costs the others nothing.
            swept.waiting += 1;
            repository.schedule(&one.key, Some(soon(ports, TENANTS_TURN))).await?;
            continue;
        };
        // (Before anything is awaited: other shards have connections of the same tenant.)
        ports.tenants.lock().tries(&one.key.app, tenant.as_deref(), status, monotonic);
        repository.schedule(&one.key, Some(soon(ports, TAKEN_UP))).await?;
        let Some(permit) = permits.pop_front() else { break };
        let permit = permit.and(of_tenant);
        swept.begun += 1;
        let slot = slots.slot(&one.key, monotonic);
        let at = At { key: &one.key, slot: &slot, slots };
        let begin = || ports.deps.tracer.root(REFRESH);
        fly_as(ports, at, Work::Renewal, begin, |ports, owned| async move {
            renew_due(&ports, owned.at(), one.used_at, permit).await
        });
    }
    Ok(())
}

/// The tenant of a due connection, and its status. A connection that is gone is taken out of the schedule.
async fn standing_of(ports: &Ports, due: &Due) -> Result<Option<(Option<String>, Status)>, StoreError> {
    if !ports.knows_app(&due.key.app) {
        // Not configured (any more): its connections are left as they are, and checked again later.
        ports.repository().schedule(&due.key, Some(soon(ports, TAKEN_UP * 60))).await?;
        return Ok(None);
    }
    match ports.repository().load(&due.key).await {
        Ok(Some(loaded)) => {
            let profile = &loaded.connection.profile;
            Ok(Some((profile.account().tid.clone(), profile.status())))
        }
        Ok(None) => {
            ports.repository().schedule(&due.key, None).await?;
            Ok(None)
        }
        Err(RepositoryError::Store(error @ (StoreError::Unavailable { .. } | StoreError::Full { .. }))) => {
            Err(error)
        }
        Err(error) => {
            tracing::warn!(
                app = %due.key.app, connection = %due.key.connection, %error,
                "a connection that is due cannot be read; it is left alone for an hour"
            );
            ports.repository().schedule(&due.key, Some(soon(ports, TAKEN_UP * 60))).await?;
            Ok(None)
        }
    }
}

/// So long from now, and up to half as long again.
fn soon(ports: &Ports, after: Duration) -> Timestamp {
    ports.now().plus(after.mul_f64(1.0 + jitter(ports) / 2.0))
}
