//! One run: three replicas of the real engine with fakes, callers, users, an operator, and faults drawn by a
//! seed; then quiet, in which everything must heal.

mod operator;

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::SeededRandom;
use super::authority::{GRAPH, Mode, OTHER, SimIssuer, Stamp};
use super::clock::{SimClock, WallError};
use super::faults::{Additions, AuthorityWeather, Climate, Dice, Link, Mutant, StoreWeather};
use super::journal::SimDisk;
use super::ledger::journal::Answer;
use super::ledger::{Counts, Ledger, Violation};
use super::nobody::Nobody;
use super::store::SimServer;
use super::tasks::{Pid, SimTasks, WORLD, World};
use crate::authority::{Authority, TokenAnswer};
use crate::broker::Broker;
use crate::domain::account::{Account, PERSONAL_TENANT};
use crate::domain::connection::Profile;
use crate::domain::grant::Grant;
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
use crate::domain::remarks::Remarks;
use crate::domain::revocation::Revocation;
use crate::domain::scope::ScopeNaming;
use crate::domain::time::{Clock, Timestamp};
use crate::keyring::{Keyring, SealingKey};
use crate::refresh::{Deps, Engine, EngineApp, Refused, Settings, Want, held_token};
use crate::repository::Repository;
use crate::store::Committed;

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
/// As in `broker/confirm.rs`.
const SIGN_IN_TRIES: usize = 8;

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

/// Makes a connection that nobody asks for.
fn idle_target(issuer: &SimIssuer, app: &AppName) -> Target {
    const USER: u32 = 50;
    issuer.add_user(USER, false);
    issuer.add_user(USER + 100, false);
    let name = ConnectionName::parse("user-9").expect("name");
    let key = ConnectionKey { app: app.clone(), connection: name };
    Target { key, user: USER, handed_out: Mutex::default() }
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
    fn build(world: &World, dice: &Dice, mode: Mode, plan: Plan) -> Arc<Cluster> {
        let mutant = plan.mutant;
        let climate = Climate::drawn(&dice.more());
        let life = Duration::from_secs(dice.one_of(&[40, 75, 120, 3600]));
        let wait = dice.of_thousand(300);
        let settings = Settings {
            sweep_rate: 0.0,
            caller_wait: Duration::from_secs(8),
            serve_cached_for: Duration::from_secs(30),
            lease: Duration::from_secs(12),
            authority_timeout: Duration::from_secs(4),
            most_bytes: usize::MAX,
        };
        let ledger =
            Arc::new(Ledger::new(world.clone(), settings.clone(), REPLICAS, wait, climate.wall_jumps));
        let clock = Arc::new(SimClock::new(world.clone(), WallError::default()));
        let tasks = Arc::new(SimTasks::new(world.clone(), WORLD));
        let server = SimServer::new(clock, tasks, dice.more(), REPLICAS, wait, mutant, Some(ledger.clone()));
        let issuer = SimIssuer::new(
            world.clone(),
            dice.more(),
            mode,
            mutant,
            life,
            climate.authority_sluggish,
            ledger.clone(),
        );
        let material = zeroize::Zeroizing::new([7; 32]);
        let born = Timestamp::from_unix_seconds(1);
        let key = SealingKey::new("simulated".into(), born, Some(born), material);
        let keyring = Arc::new(Keyring::new(vec![key], "in memory").expect("one promoted key"));
        let random = Arc::new(SeededRandom::new(dice.draw()));
        let insight = Repository::new(Arc::new(server.insight()), keyring.clone(), random.clone());
        ledger.look_into(insight, issuer.clone());
        let (of_store, of_keyring) = (server.clone(), keyring.clone());
        ledger.open_entries_with(Box::new(move |entry| {
            let store = Arc::new(of_store.insight());
            Answer::of(Repository::new(store, of_keyring.clone(), random.clone()), entry)
        }));
        let app = AppName::parse("outlook").expect("name");
        let targets = (0..3 + u32::try_from(dice.below(3)).unwrap_or(0)).map(|user| {
            issuer.add_user(user, user.is_multiple_of(3));
            issuer.add_user(user + 100, false);
            let name = ConnectionName::parse(&format!("user-{user}")).expect("name");
            let key = ConnectionKey { app: app.clone(), connection: name };
            Target { key, user, handed_out: Mutex::default() }
        });
        let mut targets: Vec<Target> = targets.collect();
        let asked = targets.len();
        let cluster_dice = dice.more();
        let more_dice = dice.more();
        let additions = if plan.plain { Additions::default() } else { Additions::drawn(&more_dice) };
        let settings = Settings { sweep_rate: additions.sweep_rate, ..settings };
        if additions.sweeps() {
            targets.push(idle_target(&issuer, &app));
            ledger.is_idle(&targets[asked].key);
        }
        let disk = |replica| SimDisk::new(world.clone(), more_dice.more(), replica, mutant, ledger.clone());
        let replicas = (0..REPLICAS).map(|replica| Replica {
            wall_error: WallError::default(),
            disk: additions.journals.then(|| disk(replica)),
            process: None,
            stopped: false,
        });
        let replicas = Mutex::new(replicas.collect());
        world.note(format_args!("{mode:?}, tokens live {life:?}, wait {wait}, {climate:?}"));
        if !plan.plain {
            world.note(format_args!("{additions:?}"));
        }
        Arc::new(Cluster {
            world: world.clone(),
            dice: cluster_dice,
            climate,
            mode,
            settings,
            server,
            issuer,
            ledger,
            keyring,
            replicas,
            targets,
            asked,
            additions,
            more_dice,
            lives: Mutex::new(0),
            last: Mutex::default(),
            revoking: Mutex::default(),
        })
    }

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

    // Lives.

    fn start(&self, replica: usize) {
        let pid = {
            let mut lives = self.lives.lock();
            *lives += 1;
            Pid(*lives)
        };
        let wall_error = self.replicas()[replica].wall_error.clone();
        let clock = Arc::new(SimClock::new(self.world.clone(), wall_error));
        let random = Arc::new(SeededRandom::new(self.dice.draw()));
        let store = Arc::new(self.server.client(replica, pid));
        let mut repository = Repository::new(store, self.keyring.clone(), random.clone());
        if let Some(disk) = &self.replicas()[replica].disk {
            repository = repository.with_journal(Arc::new(disk.journal(pid)));
        }
        let repository = Arc::new(repository);
        let authority: Arc<dyn Authority> =
            Arc::new(self.issuer.client(replica, pid, clock.clone(), &self.settings));
        let apps =
            BTreeMap::from([(self.targets[0].key.app.clone(), EngineApp { authority: authority.clone() })]);
        let tasks = Arc::new(SimTasks::new(self.world.clone(), pid));
        let deps = Deps {
            repository: repository.clone(),
            clock: clock.clone(),
            random: random.clone(),
            tasks: tasks.clone(),
            observer: Arc::new(Nobody),
        };
        let engine = Engine::new(apps, deps, self.settings.clone());
        let parts = operator::Parts {
            engine: engine.clone(),
            repository: repository.clone(),
            clock: clock.clone(),
            random,
            tasks,
        };
        let broker = self.broker(authority, parts);
        let process = Process { pid, replica, engine, repository, broker, clock };
        self.world.note(format_args!("{replica} starts as {pid:?}"));
        self.set_out(&process);
        let Process { engine, clock, .. } = &process;
        // As in `app/watch.rs`.
        let (offering, pause) = (engine.clone(), clock.clone());
        let offer = async move {
            loop {
                pause.sleep(Duration::from_secs(1)).await;
                offering.store_unstored().await;
            }
        };
        self.world.spawn(pid, "offer the store what it has not taken", Box::pin(offer));
        let following = engine.clone();
        let follow = async move { following.follow_changes().await };
        self.world.spawn(pid, "hear what other replicas do", Box::pin(follow));
        self.ledger.away(replica, false);
        self.replicas()[replica].process = Some(Arc::new(process));
    }

    fn kill(&self, replica: usize) {
        let Some(process) = ({
            let mut replicas = self.replicas();
            replicas[replica].stopped = false;
            replicas[replica].process.take()
        }) else {
            return;
        };
        self.world.note(format_args!("{replica} is killed"));
        self.ledger.killed(process.pid);
        self.ledger.away(replica, true);
        self.server.hang_up(process.pid);
        self.issuer.hang_up(process.pid);
        self.world.kill(process.pid);
    }

    fn stop(&self, replica: usize) -> Option<Pid> {
        let mut replicas = self.replicas();
        let pid = replicas[replica].process.as_ref().map(|process| process.pid)?;
        if std::mem::replace(&mut replicas[replica].stopped, true) {
            return None;
        }
        drop(replicas);
        self.world.note(format_args!("{replica} is stopped"));
        self.ledger.stopped(pid);
        self.ledger.away(replica, true);
        self.world.stop(pid);
        Some(pid)
    }

    fn resume(&self, replica: usize, pid: Pid) {
        {
            let mut replicas = self.replicas();
            let same = replicas[replica].process.as_ref().is_some_and(|process| process.pid == pid);
            if !same || !std::mem::replace(&mut replicas[replica].stopped, false) {
                return;
            }
        }
        self.world.note(format_args!("{replica} goes on"));
        self.ledger.resumed(pid);
        self.ledger.away(replica, false);
        self.world.resume(pid);
    }

    // Requests.

    fn scopes(&self) -> (Vec<String>, &'static [Option<&'static str>]) {
        match self.mode {
            Mode::Entra => {
                let words =
                    [format!("{GRAPH}/Mail.Read"), format!("{OTHER}/Files.Read"), "offline_access".into()];
                (words.to_vec(), &[Some(GRAPH), Some(GRAPH), Some(OTHER)])
            }
            Mode::Strict => (vec!["mail".to_owned()], &[None]),
        }
    }

    fn naming(&self) -> ScopeNaming {
        match self.mode {
            Mode::Entra => ScopeNaming::Entra { graph: GRAPH.to_owned() },
            Mode::Strict => ScopeNaming::Plain,
        }
    }

    /// Makes one request of a caller to a process.
    async fn request(&self, process: &Process, target: usize, reports: bool) -> Outcome {
        let Target { key, handed_out, .. } = &self.targets[target];
        let (words, resources) = self.scopes();
        // At the end it is asked for the resource that it was connected for: a verdict on another may stand
        // for a minute.
        let resource = if reports { self.dice.one_of(resources) } else { resources[0] };
        let scopes = self.naming().scopes_lossy(words.iter().map(String::as_str)).of_resource(resource);
        let min_ttl = self.dice.millis(1000, 40_000);
        let known = handed_out.lock().clone();
        let rejected = known.filter(|_| reports && self.dice.of_thousand(30));
        let want = Want {
            by: None,
            resource: resource.map(str::to_owned),
            scopes,
            min_ttl,
            rejected: rejected.clone(),
            claims: None,
        };
        self.ledger.count(|counts| counts.requests += 1);
        let asked_at = self.world.now();
        if rejected.is_some() {
            self.ledger.reported(process.pid, key);
        }
        let served = process.engine.serve::<Infallible>(key, |_| Ok(want.clone())).await;
        let (outcome, word) = match served {
            Ok(served) => {
                let stamp = Stamp::of_access(served.token.access_token.expose());
                if rejected.as_deref() == Some(&served.token.digest) {
                    self.ledger.violated("plan", format!("{key}: the token that was reported came back"));
                }
                let (who, times) =
                    ((process.pid, process.replica), (served.token.expires_at, process.clock.now()));
                self.ledger.handed_out(who, key, resource, stamp, times, asked_at);
                *handed_out.lock() = Some(served.token.digest);
                return Outcome::Token(stamp);
            }
            Err(Refused::NotFound) => (Outcome::NotFound, "not found"),
            Err(Refused::NeedsReauthorization(..) | Refused::Blocked(..)) => {
                self.ledger.refused_by_verdict(process.replica, key);
                (Outcome::Judged, "judged")
            }
            Err(Refused::Policy(never)) => match never {},
            Err(Refused::Store | Refused::Damaged) => (Outcome::Trouble("store".into()), "store"),
            Err(Refused::Authority { disposition, .. }) => {
                (Outcome::Trouble(format!("{disposition:?}")), disposition.as_str())
            }
            Err(Refused::NotNow(why)) => (Outcome::Trouble(why.to_string()), why.as_str()),
            Err(Refused::Paused) => (Outcome::Trouble("paused".into()), "paused"),
            Err(Refused::SameTokenAgain) => {
                self.ledger.violated("plan", format!("{key}: this authority never gives a token twice"));
                (Outcome::Trouble("the same token".into()), "the same token")
            }
            Err(refused @ (Refused::ScopeNotGranted(_) | Refused::TooManyForced(_))) => {
                (Outcome::Trouble(format!("{refused:?}")), "other")
            }
        };
        self.world.note(format_args!("{} refuses {}: {word}", process.replica, key.connection));
        self.ledger.count(|counts| *counts.refused.entry(word).or_default() += 1);
        outcome
    }

    /// Signs a user in for a connection, and stores that as `broker/confirm.rs` does.
    async fn sign_in(&self, process: &Process, target: usize, user: u32) {
        let key = &self.targets[target].key;
        let begun = self.world.now();
        let session_started_at = self.session_begins_at(process);
        let Ok(floor_then) = process.repository.floor(key).await else { return };
        let (family, refresh_token, access_token, life) = self.issuer.sign_in(user);
        self.ledger.signing_in(key, family, user, begun);
        self.world.note(format_args!("{} signs in at {}: grant {}", user, process.replica, family.0));
        let personal = user < 100 && user.is_multiple_of(3);
        let tenant = if personal { PERSONAL_TENANT.to_owned() } else { format!("tenant-{}", user % 2) };
        let entra = self.mode == Mode::Entra || personal;
        let account = Account {
            iss: "https://issuer.example".into(),
            sub: format!("sub-{user}"),
            tid: entra.then_some(tenant),
            oid: entra.then(|| format!("oid-{user}")),
            username: None,
        };
        let (words, _) = self.scopes();
        let resource = match self.mode {
            Mode::Entra => Some(GRAPH.to_owned()),
            Mode::Strict => None,
        };
        let answer = TokenAnswer {
            access_token,
            requested_at: process.clock.now(),
            expires_in: life,
            refresh_in: None,
            refresh_token: None,
            scopes: words.clone(),
            account: None,
            remarks: Remarks::default(),
        };
        let token = held_token(answer, resource);
        let grant = Grant::new(refresh_token);
        for _ in 0..SIGN_IN_TRIES {
            let Ok(before) = process.repository.load(key).await else { return };
            let before = before.map(|loaded| loaded.connection);
            match process.repository.floor(key).await {
                Ok(floor) if floor.cut <= floor_then.cut => {}
                _ => return, // deleted since, or unknown
            }
            let same = before.as_ref().filter(|before| before.profile.account().id() == account.id());
            let profile = Profile::connected(
                account.clone(),
                words.clone(),
                words.clone(),
                self.caller_of(target).into(),
                process.clock.now(),
                same.map(|before| &before.profile),
            )
            .of_session(session_started_at);
            self.expect(process, target, &profile, &token).await;
            let expected = before.as_ref().map(|before| before.revision);
            let tokens = std::slice::from_ref(&token);
            let base = (expected, floor_then.number);
            let repository = &process.repository;
            let nonce = family.0.to_be_bytes();
            let committed = repository.connect(key, base, nonce, profile, tokens, &grant).await;
            if let Ok((Committed::Done, revision)) = committed {
                process.engine.connected(key, revision.sign_in);
                self.ledger.signed_in(family, begun, process.pid);
                self.world.note(format_args!("grant {} is stored", family.0));
                return;
            }
            process.engine.distrust(key);
            if committed.is_err() {
                return;
            }
        }
    }

    /// Deletes a connection on an operator's word, as `broker/disconnect.rs` does.
    async fn delete(&self, process: &Process, target: usize) {
        let key = &self.targets[target].key;
        let begun = self.world.now();
        self.world.note(format_args!("{} is deleted at {}", key.connection, process.replica));
        let number = self.ledger.deleting(key);
        let deleted = process.repository.delete(key).await;
        self.ledger.delete_ended(key, number);
        match deleted {
            Ok(meant) => {
                process.engine.deleted(key, meant);
                self.ledger.deleted(key, begun, process.pid);
                self.world.note(format_args!("{} was deleted", key.connection));
            }
            Err(_) => process.engine.distrust(key),
        }
    }

    // Background work and faults.

    fn begin(self: &Arc<Self>) {
        for replica in 0..REPLICAS {
            self.start(replica);
        }
        self.always("connect everybody at first", |cluster| async move {
            for target in 0..cluster.targets.len() {
                cluster.at_some_process("sign in", move |cluster, process| async move {
                    let user = cluster.targets[target].user;
                    cluster.sign_in(&process, target, user).await;
                });
            }
        });
        for _ in 0..4 {
            self.always("callers", |cluster| async move {
                while cluster.world.now() < CALLERS_END {
                    cluster.wait(1, 2500).await;
                    // Sometimes a crowd.
                    let crowd = if cluster.dice.of_thousand(20) { 10 } else { 1 };
                    let target = cluster.dice.below(cluster.asked);
                    for _ in 0..crowd {
                        cluster.at_some_process("a caller", move |cluster, process| async move {
                            let _ = cluster.request(&process, target, true).await;
                        });
                    }
                }
            });
        }
        let climate = self.climate;
        if climate.kills {
            self.now_and_then("kill", 60, |cluster| async move {
                let replica = cluster.dice.below(REPLICAS);
                cluster.kill(replica);
                cluster.wait(1, 8000).await;
                if cluster.process(replica).is_none() {
                    cluster.start(replica);
                }
            });
        }
        if climate.pauses {
            self.now_and_then("stop", 50, |cluster| async move {
                let replica = cluster.dice.below(REPLICAS);
                if let Some(pid) = cluster.stop(replica) {
                    cluster.wait(50, 30_000).await;
                    cluster.resume(replica, pid);
                }
            });
        }
        if climate.partitions {
            self.now_and_then("cut off", 50, |cluster| async move {
                let replica = cluster.dice.below(REPLICAS);
                let link = cluster.dice.one_of(&[Link::Cut, Link::AnswersLost]);
                cluster.world.note(format_args!("{replica} and the store: {link:?}"));
                cluster.server.set_link(replica, link);
                cluster.wait(100, 45_000).await;
                cluster.world.note(format_args!("{replica} and the store: up"));
                cluster.server.set_link(replica, Link::Up);
            });
        }
        if climate.failovers {
            self.now_and_then("failover", 60, |cluster| async move {
                cluster.world.note(format_args!("the primary is lost"));
                cluster.server.lose_primary();
                cluster.wait(200, 6000).await;
                cluster.server.promote();
            });
        }
        if climate.restarts_empty {
            self.now_and_then("restart empty", 120, |cluster| async move {
                cluster.world.note(format_args!("the store starts empty"));
                cluster.ledger.emptied();
                cluster.server.empty();
            });
        }
        if climate.wall_jumps {
            self.now_and_then("wall jump", 40, |cluster| async move {
                const HOUR: i64 = 3_600_000;
                let by = cluster.dice.one_of(&[HOUR, -HOUR, 24 * 365 * 10 * HOUR, -30_000, 5_000, 0]);
                let replica = cluster.dice.below(REPLICAS);
                cluster.world.note(format_args!("{replica}'s wall clock is wrong by {by} ms"));
                cluster.replicas()[replica].wall_error.store(by, Ordering::Relaxed);
            });
        }
        if climate.store_lossy {
            self.now_and_then("lossy store", 40, |cluster| async move {
                let dice = &cluster.dice;
                let up_to = |most: usize| u32::try_from(dice.below(most)).unwrap_or(0);
                let weather = StoreWeather {
                    lost_before: up_to(150),
                    lost_after: up_to(150),
                    slow: up_to(150),
                    repeated: up_to(100),
                    untold: up_to(1000),
                    lag: dice.millis(1, 8000),
                };
                cluster.world.note(format_args!("{weather:?}"));
                cluster.server.set_weather(weather);
                cluster.wait(2000, 40_000).await;
                cluster.server.set_weather(StoreWeather::default());
            });
        }
        if climate.authority_lossy {
            self.now_and_then("lossy authority", 30, |cluster| async move {
                let dice = &cluster.dice;
                let up_to = |most: usize| u32::try_from(dice.below(most)).unwrap_or(0);
                let weather = AuthorityWeather {
                    transient: up_to(300),
                    lost_before: up_to(200),
                    lost_after: up_to(200),
                    slow: up_to(300),
                    garbage: up_to(200),
                    bad_token: up_to(500),
                    ..AuthorityWeather::default()
                };
                cluster.world.note(format_args!("{weather:?}"));
                cluster.issuer.set_weather(weather);
                cluster.wait(5000, 60_000).await;
                cluster.issuer.set_weather(AuthorityWeather::default());
            });
        }
        if climate.outages {
            self.now_and_then("outage", 60, |cluster| async move {
                let which = cluster.dice.below(3);
                let set = |on: bool| {
                    cluster.issuer.change_weather(|weather| match which {
                        0 => weather.down = on,
                        1 => weather.throttled = on,
                        _ => weather.rejects_app = on,
                    });
                };
                cluster.world.note(format_args!("outage {which} of the authority"));
                set(true);
                cluster.wait(1000, 60_000).await;
                set(false);
            });
        }
        if climate.verdicts {
            self.now_and_then("verdict", 60, |cluster| async move {
                let target = cluster.dice.below(cluster.asked);
                let user = cluster.targets[target].user;
                if cluster.dice.of_thousand(500) {
                    cluster.world.note(format_args!("{user} is revoked"));
                    cluster.issuer.revoke(user);
                } else {
                    cluster.world.note(format_args!("{user} is blocked"));
                    cluster.issuer.block(user, true);
                    cluster.wait(2000, 60_000).await;
                    cluster.issuer.block(user, false);
                }
            });
        }
        if climate.deletes {
            self.now_and_then("delete", 40, |cluster| async move {
                let target = cluster.dice.below(cluster.asked);
                cluster.at_some_process("delete", move |cluster, process| async move {
                    cluster.delete(&process, target).await;
                });
                cluster.wait(10, 25_000).await;
                cluster.sign_in_somewhere(target);
            });
        }
        if climate.reconnects {
            self.now_and_then("reconnect", 30, |cluster| async move {
                let target = cluster.dice.below(cluster.asked);
                cluster.sign_in_somewhere(target);
            });
        }
    }

    fn sign_in_somewhere(self: &Arc<Self>, target: usize) {
        // Sometimes another account takes the connection over.
        let other = if self.dice.of_thousand(200) { 100 } else { 0 };
        self.at_some_process("sign in", move |cluster, process| async move {
            let user = cluster.targets[target].user + other;
            cluster.sign_in(&process, target, user).await;
        });
    }

    async fn wait(&self, shortest: u64, longest: u64) {
        self.world.sleep(self.dice.millis(shortest, longest)).await;
    }

    fn always<F>(self: &Arc<Self>, name: &'static str, work: impl FnOnce(Arc<Cluster>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.world.spawn(WORLD, name, Box::pin(work(self.clone())));
    }

    /// Runs an act every so often, one after the other, until the faults end.
    fn now_and_then<F>(
        self: &Arc<Self>,
        name: &'static str,
        every: u64,
        work: impl Fn(Arc<Cluster>) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = ()> + Send,
    {
        self.always(name, move |cluster| async move {
            loop {
                cluster.wait(200, every * 4000).await;
                if cluster.world.now() >= cluster.faults_end() {
                    return;
                }
                cluster.ledger.count(|counts| counts.faults += 1);
                work(cluster.clone()).await;
            }
        });
    }

    /// Runs an act at the drawn process, if it lives.
    fn at_some_process<F>(
        self: &Arc<Self>,
        name: &'static str,
        work: impl FnOnce(Arc<Cluster>, Arc<Process>) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        if let Some(process) = self.process(self.dice.below(REPLICAS)) {
            let pid = process.pid;
            self.world.spawn(pid, name, Box::pin(work(self.clone(), process)));
        }
    }

    /// Ends the faults: dead processes start, and stopped ones resume.
    fn calm_down(self: &Arc<Self>) {
        self.world.note(format_args!("the faults end"));
        self.server.set_weather(StoreWeather::default());
        self.issuer.set_weather(AuthorityWeather::default());
        self.calm_down_more();
        if self.server.is_down() {
            self.server.promote();
        }
        for replica in 0..REPLICAS {
            self.server.set_link(replica, Link::Up);
            self.replicas()[replica].wall_error.store(0, Ordering::Relaxed);
            match self.process(replica) {
                Some(process) => self.resume(replica, process.pid),
                None => self.start(replica),
            }
        }
        for target in &self.targets {
            self.issuer.block(target.user, false);
        }
        for target in 0..self.targets.len() {
            self.always("ask at the end", move |cluster| async move {
                cluster.world.sleep(LAST_ASKED.saturating_sub(cluster.world.now())).await;
                // A verdict may have been lifted; a caller reports that.
                if let Some(process) = cluster.process(0) {
                    process.engine.try_now(&cluster.targets[target].key, None);
                }
                cluster.world.sleep(Duration::from_secs(6)).await;
                for replica in 0..REPLICAS {
                    let Some(process) = cluster.process(replica) else { continue };
                    let asking = cluster.clone();
                    let ask = async move {
                        for _ in 0..3 {
                            let outcome = asking.request(&process, target, false).await;
                            let over = !matches!(outcome, Outcome::Trouble(_));
                            asking.outcome(target, replica, outcome);
                            if over {
                                break;
                            }
                            process.clock.sleep(Duration::from_secs(2)).await;
                        }
                        asking.world.sleep(COMPARED.saturating_sub(asking.world.now())).await;
                        asking.compare(&process, target).await;
                    };
                    let pid = cluster.process(replica).map_or(WORLD, |process| process.pid);
                    cluster.world.spawn(pid, "ask at the end", Box::pin(ask));
                }
            });
        }
    }

    /// Compares a process's cache with the store.
    async fn compare(&self, process: &Process, target: usize) {
        let key = &self.targets[target].key;
        let held = process.engine.inspect(key).await.ok().map(|held| held.connection.revision);
        let stored = self.ledger.stored(key).map(|stored| stored.revision);
        if held != stored {
            let what = format!("{key}: replica {} holds {held:?} and {stored:?} is stored", process.replica);
            self.ledger.violated("I18", what);
        }
    }

    fn outcome(&self, target: usize, replica: usize, outcome: Outcome) {
        self.last.lock().insert((target, replica), outcome);
    }

    /// Checks that everything healed.
    fn judge(self: &Arc<Self>) {
        // If connections are renewed without requests, one is always being renewed.
        let held = if self.additions.sweeps() { Vec::new() } else { self.server.leases() };
        for lease in held {
            self.ledger.violated("I18", format!("the lease of {lease} is still held"));
        }
        self.ledger.judge_journals();
        let last = self.last.lock().clone();
        for (number, target) in self.targets.iter().enumerate() {
            let stored = self.ledger.stored(&target.key);
            let expected = match stored {
                None => {
                    self.ledger.not_there(&target.key);
                    Outcome::NotFound
                }
                Some(stored) => match stored.grant {
                    Some((family, _)) if self.issuer.lives(family) => {
                        // Any token will do.
                        match last.get(&(number, 0)) {
                            Some(Outcome::Token(stamp)) if stamp.family == family => Outcome::Token(*stamp),
                            other => {
                                let what = format!("{}: a living grant gives {other:?}", target.key);
                                self.ledger.violated("I18", what);
                                continue;
                            }
                        }
                    }
                    _ => Outcome::Judged,
                },
            };
            for replica in 0..REPLICAS {
                let outcome = last.get(&(number, replica));
                let fits = match (outcome, &expected) {
                    (Some(Outcome::Token(one)), Outcome::Token(other)) => one.family == other.family,
                    // A live token is served, whatever the verdict.
                    (Some(Outcome::Token(_)), Outcome::Judged) => true,
                    (outcome, expected) => outcome == Some(expected),
                };
                if !fits {
                    let what =
                        format!("{} on replica {replica}: {outcome:?} and not {expected:?}", target.key);
                    self.ledger.violated("I18", what);
                }
            }
        }
    }

    /// Counts the process's knowledge of each connection.
    fn count_combinations(&self, pid: Pid) {
        let engine = {
            let replicas = self.replicas();
            let process =
                replicas.iter().filter_map(|of| of.process.as_ref()).find(|process| process.pid == pid);
            let Some(process) = process else { return };
            process.engine.clone()
        };
        let known: Vec<_> =
            self.targets.iter().filter_map(|target| engine.combination(&target.key)).collect();
        self.ledger.count(|counts| {
            for combination in known {
                *counts.combinations.entry(combination).or_default() += 1;
            }
        });
    }

    /// Drops everything, so that no reference cycle is left.
    fn end(&self) {
        for replica in 0..REPLICAS {
            self.kill(replica);
        }
        self.world.kill(WORLD);
    }
}
