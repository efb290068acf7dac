//! One run: three replicas of the real engine with fakes, callers, users, an operator, and faults drawn by a
//! seed; then quiet, in which everything must heal.

mod acts;
mod build;
mod judgement;
mod operator;
mod processes;
mod requests;

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::authority::{Mode, SimIssuer, Stamp};
use super::clock::{SimClock, WallError};
use super::faults::{Additions, Climate, Dice, Mutant};
use super::journal::SimDisk;
use super::ledger::{Counts, Ledger, Violation};
use super::store::SimServer;
use super::tasks::{Pid, World};
use crate::broker::Broker;
use crate::domain::id::ConnectionKey;
use crate::domain::revocation::Revocation;
use crate::keyring::Keyring;
use crate::refresh::{Engine, Settings};
use crate::repository::Repository;

const REPLICAS: usize = 3;
/// Faults and users' acts come until here …
const FAULTS_END: Duration = Duration::from_secs(200);
/// … or until here, if connections must be renewed without requests before the end: one that was taken up and
/// abandoned is taken up again within 90 s.
const FAULTS_END_OF_SWEEPS: Duration = Duration::from_secs(140);
/// … requests until here …
const CALLERS_END: Duration = Duration::from_secs(225);
/// … every connection that is not asked for otherwise is asked for here …
const LAST_ASKED: Duration = Duration::from_secs(240);
/// … everything is compared with the store here …
const COMPARED: Duration = Duration::from_secs(255);
/// … and nothing is under way after this.
const END: Duration = Duration::from_secs(260);

/// A run to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) mutant: Mutant,
    pub(crate) traced: bool,
    /// True for a run without [`Additions`].
    pub(crate) plain: bool,
}

impl Plan {
    pub(crate) fn seed(seed: u64) -> Self {
        Plan { seed, mutant: Mutant::None, traced: false, plain: false }
    }
}

/// Result of a run.
pub(crate) struct Report {
    pub(crate) hash: u64,
    pub(crate) virtual_time: Duration,
    pub(crate) violations: Vec<Violation>,
    pub(crate) counts: Counts,
    pub(crate) lines: Vec<String>,
}

/// Runs a plan to its end.
pub(crate) fn run(plan: Plan) -> Report {
    let dice = Dice::new(plan.seed);
    let world = World::new(dice.more(), plan.traced);
    let mode = if plan.seed.is_multiple_of(2) { Mode::Entra } else { Mode::Strict };
    let cluster = Cluster::build(&world, &dice, mode, plan);
    let watching = Arc::downgrade(&cluster);
    world.watch(Box::new(move |pid| {
        if let Some(cluster) = watching.upgrade() {
            cluster.count_combinations(pid);
        }
    }));
    cluster.begin();
    cluster.begin_more();
    let mut circles = world.run_until(cluster.faults_end());
    if circles.is_ok() {
        cluster.calm_down();
        circles = world.run_until(END);
    }
    match circles {
        Ok(()) => cluster.judge(),
        Err(circles) => cluster.ledger.violated("I23", circles),
    }
    let (server, issuer) = (cluster.server.counted(), cluster.issuer.counted());
    cluster.ledger.count(|counts| {
        (counts.store_calls, counts.authority_calls) = (server.0, issuer.0);
        counts.faults += server.1 + issuer.1;
        counts.faults +=
            cluster.replicas().iter().filter_map(|of| of.disk.as_ref()).map(SimDisk::faults).sum::<u64>();
    });
    let (violations, counts) = cluster.ledger.results();
    let report =
        Report { hash: world.hash(), virtual_time: world.now(), violations, counts, lines: world.lines() };
    cluster.end();
    report
}

/// One life of a replica.
struct Process {
    pid: Pid,
    replica: usize,
    engine: Engine,
    repository: Arc<Repository>,
    broker: Arc<Broker>,
    clock: Arc<SimClock>,
}

/// A replica: the parts that outlive its processes.
struct Replica {
    wall_error: WallError,
    /// Its journal's disk, if it has one.
    disk: Option<SimDisk>,
    process: Option<Arc<Process>>,
    stopped: bool,
}

/// A connection, and the users it may have.
struct Target {
    key: ConnectionKey,
    user: u32,
    /// Digest of a token that was handed out for it.
    handed_out: Mutex<Option<String>>,
}

struct Cluster {
    world: World,
    dice: Dice,
    climate: Climate,
    mode: Mode,
    settings: Settings,
    server: SimServer,
    issuer: SimIssuer,
    ledger: Arc<Ledger>,
    keyring: Arc<Keyring>,
    replicas: Mutex<Vec<Replica>>,
    targets: Vec<Target>,
    /// Number of connections that are asked for; there may be one more.
    asked: usize,
    additions: Additions,
    more_dice: Dice,
    lives: Mutex<u32>,
    /// Outcomes of the last requests, by connection and replica.
    last: Mutex<BTreeMap<(usize, usize), Outcome>>,
    /// All revocations made, stored or not.
    revoking: Mutex<Vec<Revocation>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Token(Stamp),
    NotFound,
    Judged,
    Trouble(String),
}

impl Cluster {
    /// Returns the end of faults and acts.
    fn faults_end(&self) -> Duration {
        if self.additions.sweeps() { FAULTS_END_OF_SWEEPS } else { FAULTS_END }
    }

    fn replicas(&self) -> MutexGuard<'_, Vec<Replica>> {
        self.replicas.lock()
    }

    fn process(&self, replica: usize) -> Option<Arc<Process>> {
        self.replicas()[replica].process.clone()
    }
}
