//! A very large number of connections due within an hour: how many calls that makes in each second, also
//! after a restart.

use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::SeededRandom;
use super::clock::{SimClock, WallError};
use super::faults::{Dice, Mutant};
use super::nobody::Nobody;
use super::refreshes::{OnlyRefreshes, Refreshes};
use super::store::SimServer;
use super::tasks::{Pid, SimTasks, WORLD, World};
use crate::authority::{RefreshRequest, Refreshed, TokenAnswer};
use crate::domain::account::Account;
use crate::domain::connection::Profile;
use crate::domain::grant::Grant;
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
use crate::domain::remarks::Remarks;
use crate::domain::scope::ScopeNaming;
use crate::domain::secret::{AccessToken, RefreshToken};
use crate::domain::task::BoxFuture;
use crate::domain::time::{Clock, Timestamp};
use crate::domain::token::HeldToken;
use crate::domain::verdict::AuthorityFailure;
use crate::keyring::{Keyring, SealingKey};
use crate::refresh::{Deps, Engine, EngineApp, Settings};
use crate::repository::Repository;
use crate::store::LOWEST_FLOOR;

const REPLICAS: usize = 3;
const TENANTS: usize = 20;
const RATE: usize = 50;
/// As many as 100,000 an hour.
const A_SECOND: f64 = 100_000.0 / 3600.0;

/// Answers every call, and records when and for whom.
struct Counting {
    world: World,
    clock: Arc<SimClock>,
    calls: Arc<Mutex<Vec<(Duration, String)>>>,
}

impl Refreshes for Counting {
    fn refresh<'a>(
        &'a self,
        request: RefreshRequest<'a>,
    ) -> BoxFuture<'a, Result<Refreshed, AuthorityFailure>> {
        Box::pin(async move {
            let requested_at = self.clock.now();
            self.calls.lock().push((self.world.now(), request.account.sub.clone()));
            self.world.sleep(Duration::from_millis(150)).await;
            Ok(Refreshed::Tokens(Box::new(TokenAnswer {
                access_token: AccessToken::new("a"),
                requested_at,
                expires_in: Duration::from_secs(10 * 3600),
                refresh_in: None,
                refresh_token: Some(RefreshToken::new(format!("next of {}", request.refresh_token.expose()))),
                refresh_token_ends_at: None,
                scopes: vec!["mail".into()],
                account: None,
                remarks: Remarks::default(),
                cae: false,
            })))
        })
    }
}

struct Scene {
    world: World,
    server: SimServer,
    keyring: Arc<Keyring>,
    calls: Arc<Mutex<Vec<(Duration, String)>>>,
    lives: u32,
}

impl Scene {
    fn start(&mut self, replica: usize) -> Pid {
        self.lives += 1;
        let pid = Pid(self.lives);
        let clock = Arc::new(SimClock::new(self.world.clone(), WallError::default()));
        let random = Arc::new(SeededRandom::new(self.lives.into()));
        let store = Arc::new(self.server.client(replica, pid));
        let counting =
            Counting { world: self.world.clone(), clock: clock.clone(), calls: self.calls.clone() };
        let authority =
            OnlyRefreshes { naming: ScopeNaming::Plain, may_replay: false, answers: Arc::new(counting) };
        let app = AppName::parse("outlook").expect("name");
        let engine = Engine::new(
            BTreeMap::from([(app, EngineApp { authority: Arc::new(authority) })]),
            Deps {
                repository: Arc::new(Repository::new(store, self.keyring.clone(), random.clone())),
                clock,
                random,
                tasks: Arc::new(SimTasks::new(self.world.clone(), pid)),
                observer: Arc::new(Nobody),
                tracer: crate::span::Tracer::off(),
            },
            Settings { sweep_rate: RATE as f64, ..Settings::default() },
        );
        engine.learn_revocations(Vec::new());
        self.world.spawn(pid, "look after connections", Box::pin(async move { engine.sweep().await }));
        pid
    }
}

/// Makes connections that are due evenly over their time at [`A_SECOND`].
async fn connect(repository: Repository, clock: Arc<SimClock>, count: usize) {
    let now = clock.now();
    for number in 0..count {
        let key = ConnectionKey {
            app: AppName::parse("outlook").expect("name"),
            connection: ConnectionName::parse(&format!("user-{number}")).expect("name"),
        };
        let due_at = now.plus(Duration::from_secs_f64(number as f64 / A_SECOND));
        let account = Account {
            iss: "issuer".into(),
            sub: format!("user-{number}"),
            tid: Some(format!("tenant-{}", number % TENANTS)),
            oid: None,
            username: None,
        };
        let words = vec!["mail".to_owned()];
        let profile = Profile::connected(account, words.clone(), words.clone(), "sync".into(), now, None);
        let token = HeldToken {
            access_token: AccessToken::new("a"),
            digest: String::new(),
            uti: None,
            issued_at: now,
            expires_at: now.plus(Duration::from_secs(10 * 3600)),
            refresh_at: Some(due_at),
            scopes: words,
            resource: None,
            answers_claims: None,
            got_for: None,
            cae: false,
        };
        let grant = Grant::new(RefreshToken::new(format!("r-{number}")));
        let stored = repository
            .connect(&key, (None, LOWEST_FLOOR.number), ([0; 8], now), profile, &[token], &grant)
            .await;
        stored.expect("stored");

        repository.schedule(&key, Some(due_at)).await.expect("scheduled");
        repository.mark_used(&key, Timestamp::from_unix_millis(now.unix_millis())).await.expect("noted");
    }
}

/// Returns the most calls in any stretch of `seconds`.
fn busiest(calls: &[(Duration, String)], seconds: u64) -> usize {
    let mut stretches: BTreeMap<u64, usize> = BTreeMap::new();
    for (at, _) in calls {
        *stretches.entry(at.as_secs() / seconds).or_default() += 1;
    }
    stretches.into_values().max().unwrap_or(0)
}

/// Runs it with this many connections (100,000 with `DUE=100000 cargo test --release …`); everything stops
/// for a while in the middle, and starts again.
#[expect(clippy::print_stdout, reason = "the figures are what a longer run is made for")]
fn due_over_an_hour(count: usize) {
    let world = World::new(Dice::new(1), false);
    let material = zeroize::Zeroizing::new([7; 32]);
    let born = Timestamp::from_unix_seconds(1);
    let key = SealingKey::new("simulated".into(), born, Some(born), material);
    let clock = Arc::new(SimClock::new(world.clone(), WallError::default()));
    let tasks = Arc::new(SimTasks::new(world.clone(), WORLD));
    let server = SimServer::new(clock.clone(), tasks, Dice::new(2), REPLICAS, false, Mutant::None, None);
    let mut scene = Scene {
        world: world.clone(),
        server,
        keyring: Arc::new(Keyring::new(vec![key], "in memory").expect("one promoted key")),
        calls: Arc::default(),
        lives: 0,
    };
    let random = Arc::new(SeededRandom::new(9));
    let repository = Repository::new(Arc::new(scene.server.insight()), scene.keyring.clone(), random);
    world.spawn(WORLD, "connect", Box::pin(connect(repository, clock, count)));
    let lasts = Duration::from_secs_f64(count as f64 / A_SECOND);
    let goes = |until: Duration| world.run_until(until).expect("it ends");

    let pids: Vec<Pid> = (0..REPLICAS).map(|replica| scene.start(replica)).collect();
    goes(lasts / 2);
    let steady = busiest(&scene.calls.lock(), 10);
    // All of them die, and return when many connections are due at once.
    for pid in pids {
        world.kill(pid);
    }
    goes(lasts / 2 + lasts / 4);
    for replica in 0..REPLICAS {
        scene.start(replica);
    }
    goes(lasts * 3 + Duration::from_secs(300));

    let calls = scene.calls.lock();
    let users: BTreeSet<&str> = calls.iter().map(|(_, user)| user.as_str()).collect();
    assert_eq!((users.len(), calls.len()), (count, count), "each of them once");
    let (second, ten) = (busiest(&calls, 1), busiest(&calls, 10));
    println!(
        "{count} connections over {lasts:?}: at most {steady} calls in 10 s as it goes, {ten} after the \
         restart, {second} in one second"
    );
    assert!(ten <= RATE * 11, "{ten} calls in ten seconds");
    assert!(second <= RATE * 2, "{second} calls in one second");
    assert!(ten > RATE * 5, "the backlog is worked off at the budget's rate, or nearly: {ten}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a longer run is asked for in the environment")]
fn what_is_due_stays_within_the_budget_through_a_restart() {
    let count = std::env::var("DUE").ok().and_then(|text| text.parse().ok()).unwrap_or(3000);
    due_over_an_hour(count);
}
