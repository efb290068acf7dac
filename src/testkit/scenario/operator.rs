//! Later additions to the runs: journals, operators' acts, the sweep, a throttled tenant, and a store that
//! refuses commits.

use parking_lot::MutexGuard;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Cluster, LAST_ASKED, Process, REPLICAS};
use crate::authority::{Authority, ClientCredentials, CredentialSet};
use crate::broker::inspect::Counts;
use crate::broker::{self, App, Broker, Refusal};
use crate::domain::connection::Profile;
use crate::domain::id::{AppName, CallerName, ConnectionKey};
use crate::domain::random::Random;
use crate::domain::revocation::{self, Revocation};
use crate::domain::scope::ScopeSet;
use crate::domain::task::Tasks;
use crate::domain::tenants::Tenants;
use crate::domain::time::{Clock, Timestamp};
use crate::domain::token::HeldToken;
use crate::domain::verdict::AuthorityFailure;
use crate::policy::{CallerPolicy, Policies};
use crate::refresh::Engine;
use crate::repository::Repository;
use crate::testkit::faults::DiskWeather;
use crate::testkit::ledger::journal::at_once;

/// As in `app/watch.rs`.
const REVOCATIONS: Duration = Duration::from_secs(1);
/// As in `app/stock.rs`.
const WALK: Duration = Duration::from_millis(200);
const WALK_AGAIN: Duration = Duration::from_secs(30);
/// The idle connection is checked this long after [`LAST_ASKED`], before it is asked for.
const BEFORE_ASKED: Duration = Duration::from_secs(5);

const LONGEST_THROTTLE: Duration = Duration::from_secs(60);

/// The parts of a process that its broker needs.
pub(super) struct Parts {
    pub(super) engine: Engine,
    pub(super) repository: Arc<Repository>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Arc<dyn Random>,
    pub(super) tasks: Arc<dyn Tasks>,
}

/// The authority here asks for none.
struct NoCredentials;

#[async_trait]
impl ClientCredentials for NoCredentials {
    fn credentials(&self) -> Arc<CredentialSet> {
        Arc::new(CredentialSet::new(Vec::new(), Timestamp::default()))
    }

    async fn prove_due(&self) -> bool {
        false
    }

    async fn prove(&self, _: &str) -> Option<Result<(), AuthorityFailure>> {
        None
    }

    async fn check_token_host(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn unconfirmed_host(&self) -> Option<String> {
        None
    }
}

/// There are no callers' rules: callers ask the engine here, and not the use cases.
struct NoCallers;

impl Policies for NoCallers {
    fn policy_of(&self, _: &CallerName) -> Option<CallerPolicy> {
        None
    }
}

impl Cluster {
    /// Makes the use cases of one process.
    pub(super) fn broker(&self, authority: Arc<dyn Authority>, parts: Parts) -> Arc<Broker> {
        let app = App {
            authority,
            credentials: Arc::new(NoCredentials),
            display_name: Some("Outlook".into()),
            purpose: None,
            support_contact: None,
            scopes: ScopeSet::default(),
            tenants: Tenants::Everyone,
            home_tenant: None,
            return_urls: Vec::new(),
            redirect_uri: String::new(),
            mount: None,
            bases: Vec::new(),
        };
        let Parts { engine, repository, clock, random, tasks } = parts;
        let policies = Arc::new(NoCallers);
        let deps =
            broker::Deps { engine, repository, policies, clock, random, tasks, token_hosts: Arc::default() };
        let hour = Duration::from_secs(3600);
        let settings = broker::Settings {
            base_url: String::new(),
            connect_session_ttl: hour,
            state_ttl: hour,
            confirmation_ttl: hour,
            open_sessions: 1000,
            streams_per_caller: 256,
            caller_wait: Duration::from_secs(8),
        };
        Arc::new(Broker::new(BTreeMap::from([(self.app(), Arc::new(app))]), deps, settings))
    }

    fn app(&self) -> AppName {
        self.targets[0].key.app.clone()
    }

    /// Does what a process does before it serves and beside it, as in `app`.
    pub(super) fn set_out(&self, process: &Process) {
        let Process { pid, engine, broker, .. } = process;
        let disk = self.replicas()[process.replica].disk.clone();
        if let Some(disk) = disk {
            self.ledger.found_in_journal(process.replica, &disk.entries());
            let recovered = at_once(engine.recover()).expect("a journal that is read at once");
            self.world.note(format_args!("{pid:?} finds {recovered} answers in its journal"));
        }
        if self.additions.sweeps() {
            let engine = engine.clone();
            self.world.spawn(*pid, "look after connections", Box::pin(async move { engine.sweep().await }));
        }
        if self.additions.revocations {
            let (broker, clock) = (broker.clone(), process.clock.clone());
            let follow = async move {
                loop {
                    let _ = broker.follow_revocations().await;
                    clock.sleep(REVOCATIONS).await;
                }
            };
            self.world.spawn(*pid, "take up what is revoked", Box::pin(follow));
        } else {
            engine.learn_revocations(Vec::new());
        }
        if self.additions.revocations || self.additions.sweeps() {
            let (broker, engine, clock) = (broker.clone(), engine.clone(), process.clock.clone());
            let walk = async move {
                loop {
                    walk_once(&broker, &engine, clock.as_ref()).await;
                    clock.sleep(WALK_AGAIN).await;
                }
            };
            self.world.spawn(*pid, "walk over every connection", Box::pin(walk));
        }
    }

    /// Schedules a connection whose sign-in is about to be stored, as `broker/confirm.rs` does.
    pub(super) async fn expect(
        &self,
        process: &Process,
        target: usize,
        profile: &Profile,
        token: &HeldToken,
    ) {
        if self.additions.sweeps() {
            let tokens = std::slice::from_ref(token);
            process.engine.expect(&self.targets[target].key, profile, tokens).await;
        }
    }

    /// Returns the caller that made a connection.
    pub(super) fn caller_of(&self, target: usize) -> &'static str {
        ["simulation", "other"][target % 2]
    }

    async fn wait_more(&self, shortest: u64, longest: u64) {
        self.world.sleep(self.more_dice.millis(shortest, longest)).await;
    }

    /// Like [`Cluster::now_and_then`], with the dice of the additions.
    fn now_and_then_more<F>(
        self: &Arc<Self>,
        name: &'static str,
        every: u64,
        work: impl Fn(Arc<Cluster>) -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = ()> + Send,
    {
        self.always(name, move |cluster| async move {
            loop {
                cluster.wait_more(200, every * 4000).await;
                if cluster.world.now() >= cluster.faults_end() {
                    return;
                }
                cluster.ledger.count(|counts| counts.faults += 1);
                work(cluster.clone()).await;
            }
        });
    }

    /// Runs an act in a task of a live process. Returns false if the dice chose none.
    fn somewhere<F>(
        self: &Arc<Self>,
        name: &'static str,
        work: impl FnOnce(Arc<Cluster>, Arc<Process>) -> F,
    ) -> bool
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Some(process) = self.process(self.more_dice.below(REPLICAS)) else { return false };
        self.world.spawn(process.pid, name, Box::pin(work(self.clone(), process)));
        true
    }

    pub(super) fn begin_more(self: &Arc<Self>) {
        let additions = self.additions;
        if additions.bad_disks && additions.journals {
            self.now_and_then_more("bad disk", 40, |cluster| async move {
                let dice = &cluster.more_dice;
                let up_to = |most: usize| u32::try_from(dice.below(most)).unwrap_or(0);
                let weather = DiskWeather { slow: up_to(500), fails: up_to(500) };
                let replica = dice.below(REPLICAS);
                cluster.world.note(format_args!("{replica}'s journal: {weather:?}"));
                cluster.set_disk_weather(replica, weather);
                cluster.wait_more(2000, 60_000).await;
                cluster.set_disk_weather(replica, DiskWeather::default());
            });
        }
        if additions.refused_commits {
            self.now_and_then_more("refused commits", 50, |cluster| async move {
                cluster.world.note(format_args!("the store refuses commits"));
                cluster.server.refuse_commits(true);
                cluster.wait_more(500, 60_000).await;
                cluster.world.note(format_args!("the store takes commits"));
                cluster.server.refuse_commits(false);
            });
        }
        if additions.throttling {
            self.now_and_then_more("throttle", 50, |cluster| async move {
                let target = cluster.more_dice.below(cluster.targets.len());
                let tenant = cluster.issuer.tenant_of(cluster.targets[target].user);
                // Its demands are remembered, so it ends before everybody has to be well.
                let latest = cluster.faults_end() + LONGEST_THROTTLE / 2;
                let longest = u64::try_from(LONGEST_THROTTLE.as_millis()).unwrap_or(0);
                let until = cluster.world.now() + cluster.more_dice.millis(5000, longest);
                let until = until.min(latest);
                cluster.world.note(format_args!("{tenant:?} is throttled until {until:?}"));
                cluster.issuer.throttle(tenant, until);
            });
        }
        if additions.pausing {
            self.now_and_then_more("pause", 40, |cluster| async move {
                let target = cluster.more_dice.below(cluster.targets.len());
                cluster.somewhere("pause", move |cluster, process| async move {
                    cluster.set_paused(&process, target, true).await;
                });
                cluster.wait_more(100, 40_000).await;
                cluster.somewhere("resume", move |cluster, process| async move {
                    cluster.set_paused(&process, target, false).await;
                });
            });
        }
        // A wall clock decides when something was revoked; if clocks jump, the result is unpredictable.
        if additions.revocations && !self.climate.wall_jumps {
            self.now_and_then_more("revoke", 60, |cluster| async move {
                let target = cluster.more_dice.below(cluster.targets.len());
                let what = cluster.more_dice.below(3);
                cluster.somewhere("revoke", move |cluster, process| async move {
                    cluster.revoke(&process, target, what).await;
                });
                cluster.wait_more(10, 25_000).await;
                for target in 0..cluster.asked {
                    if cluster.more_dice.of_thousand(700) {
                        let user = cluster.targets[target].user;
                        cluster.somewhere("sign in", move |cluster, process| async move {
                            cluster.sign_in(&process, target, user).await;
                        });
                    }
                }
            });
        }
        if additions.sweeps() {
            self.always("look at the idle connection", |cluster| async move {
                let at = LAST_ASKED + BEFORE_ASKED;
                cluster.world.sleep(at.saturating_sub(cluster.world.now())).await;
                if !cluster.climate.wall_jumps {
                    cluster.ledger.judge_idle(&cluster.targets[cluster.asked].key);
                }
            });
        }
    }

    fn set_disk_weather(&self, replica: usize, weather: DiskWeather) {
        if let Some(disk) = &self.replicas()[replica].disk {
            disk.set_weather(weather);
        }
    }

    async fn set_paused(&self, process: &Process, target: usize, paused: bool) {
        let key = &self.targets[target].key;
        let word = if paused { "paused" } else { "resumed" };
        self.world.note(format_args!("{} is to be {word} at {}", key.connection, process.replica));
        let number = self.ledger.pausing(process.pid, key, paused);
        if process.broker.set_paused(key, paused).await.is_ok() {
            self.ledger.paused(key, number);
            self.world.note(format_args!("{} is {word}", key.connection));
        }
    }

    /// Returns the start to record for a session begun now: after all revocations. (The broker reads that
    /// from the store; here it takes no time and cannot fail.)
    pub(super) fn session_begins_at(&self, process: &Process) -> Timestamp {
        revocation::begins_at(&self.revoking(), process.clock.now())
    }

    fn revoking(&self) -> MutexGuard<'_, Vec<Revocation>> {
        self.revoking.lock()
    }

    /// Uses the kill switch, for the app, for a tenant or for a caller.
    async fn revoke(&self, process: &Process, target: usize, what: usize) {
        let tenant = self.issuer.tenant_of(self.targets[target].user);
        let caller = self.caller_of(target);
        let none = Revocation { app: None, tenant: None, caller: None, at: process.clock.now() };
        let revocation = match (what, &tenant) {
            (0, _) => Revocation { caller: Some(caller.to_owned()), ..none },
            (1, Some(tenant)) => Revocation { tenant: Some(tenant.clone()), ..none },
            _ => Revocation { app: Some(self.app()), ..none },
        };
        let mut covers: BTreeSet<(ConnectionKey, u32)> = BTreeSet::new();
        for (number, target) in self.targets.iter().enumerate() {
            for user in [target.user, target.user + 100] {
                let of_caller = revocation.caller.as_deref().is_none_or(|one| one == self.caller_of(number));
                let of_tenant =
                    revocation.tenant.is_none() || revocation.tenant == self.issuer.tenant_of(user);
                if of_caller && of_tenant {
                    covers.insert((target.key.clone(), user));
                }
            }
        }
        self.world.note(format_args!("at {}: {revocation:?}", process.replica));
        let number = self.ledger.revoking(process.pid, covers);
        {
            let mut revoking = self.revoking();
            let at = revocation::ends_at(&revoking, revocation.at);
            revoking.push(Revocation { at, ..revocation.clone() });
        }
        match process.broker.revoke(revocation, true).await {
            Ok(_) => {
                self.ledger.revoked(number);
                self.world.note(format_args!("it is revoked"));
            }
            Err(refusal) => self.world.note(format_args!("it is not known to be revoked: {refusal:?}")),
        }
    }

    /// Ends the additions too: all pauses are lifted.
    pub(super) fn calm_down_more(self: &Arc<Self>) {
        self.server.refuse_commits(false);
        self.issuer.throttle_nobody();
        for replica in 0..REPLICAS {
            self.set_disk_weather(replica, DiskWeather::default());
        }
        if self.additions.pausing {
            self.always("let everybody go on", |cluster| async move {
                cluster.world.sleep(Duration::from_secs(5)).await;
                for target in 0..cluster.targets.len() {
                    let Some(process) = cluster.process(0) else { return };
                    let key = &cluster.targets[target].key;
                    for _ in 0..5 {
                        let number = cluster.ledger.pausing(process.pid, key, false);
                        let resumed = process.broker.set_paused(key, false).await;
                        if matches!(resumed, Ok(_) | Err(Refusal::ConnectionNotFound)) {
                            cluster.ledger.paused(key, number);
                            break;
                        }
                        cluster.world.sleep(Duration::from_secs(1)).await;
                    }
                }
            });
        }
    }
}

/// Destroys revoked connections, and schedules those that the schedule has lost.
async fn walk_once(broker: &Broker, engine: &Engine, clock: &dyn Clock) {
    let (mut walk, mut counts) = (broker.walk(), Counts::default());
    while let Ok(Some(page)) = walk.next(broker, &mut counts).await {
        for (key, profile) in page.connections() {
            if !broker.destroy_if_revoked(key, profile).await {
                engine.mend_schedule(key, profile).await;
            }
        }
        clock.sleep(WALK).await;
    }
}
