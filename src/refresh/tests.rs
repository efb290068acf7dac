//! The engine's promises under virtual time. Each test has a name where the simulation has only a seed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::{Deps, Engine, EngineApp, Held, LeaseOutcome, Lookup, Observer, Refused, Settings, Swept, Want};
use crate::authority::{RefreshRequest, Refreshed, TokenAnswer};
use crate::domain::account::Account;
use crate::domain::cause::Cause;
use crate::domain::connection::{Profile, Status};
use crate::domain::digest::sha256_hex;
use crate::domain::grant::Grant;
use crate::domain::id::{AppName, CallerName, ConnectionKey, ConnectionName};
use crate::domain::notice::Turn;
use crate::domain::remarks::Remarks;
use crate::domain::scope::{ScopeNaming, ScopeSet};
use crate::domain::secret::{AccessToken, RefreshToken};
use crate::domain::task::BoxFuture;
use crate::domain::time::{Clock, Timestamp};
use crate::domain::token::HeldToken;
use crate::domain::verdict::{AuthorityError, AuthorityFailure, Disposition};
use crate::keyring::{Keyring, SealingKey};
use crate::repository::Repository;
use crate::store::{Committed, LOWEST_FLOOR, Writer};
use crate::testkit::SeededRandom;
use crate::testkit::clock::{SimClock, WallError};
use crate::testkit::faults::{Dice, Link, Mutant, StoreWeather};
use crate::testkit::refreshes::{OnlyRefreshes, Refreshes};
use crate::testkit::store::SimServer;
use crate::testkit::tasks::{Pid, SimTasks, WORLD, World};

const PROCESS: Pid = Pid(1);
/// The life of each token that the authority gives.
const LIFE: Duration = Duration::from_secs(3600);

/// How the authority answers.
#[derive(Clone, Copy)]
enum Answers {
    /// A new token, after so long.
    Token(Duration),
    /// It cannot serve.
    Away,
    /// Nothing, ever.
    Never,
}

struct Scripted {
    world: World,
    clock: Arc<SimClock>,
    answers: Mutex<Answers>,
    calls: AtomicUsize,
}

impl Refreshes for Scripted {
    fn refresh<'a>(
        &'a self,
        _request: RefreshRequest<'a>,
    ) -> BoxFuture<'a, Result<Refreshed, AuthorityFailure>> {
        let number = self.calls.fetch_add(1, Ordering::AcqRel) + 1;
        let answers = *self.answers.lock();
        Box::pin(async move {
            let requested_at = self.clock.now();
            match answers {
                Answers::Token(after) => self.world.sleep(after).await,
                Answers::Never => std::future::pending().await,
                Answers::Away => {
                    return Err(AuthorityFailure {
                        doing: "refreshing a grant",
                        cause: "it is away".into(),
                        disposition: Disposition::RetryAfter(None),
                        answer: AuthorityError { status: Some(503), ..AuthorityError::default() },
                        claims: None,
                    });
                }
            }
            Ok(Refreshed::Tokens(Box::new(TokenAnswer {
                access_token: AccessToken::new(format!("access-{number}")),
                requested_at,
                expires_in: LIFE,
                refresh_in: None,
                refresh_token: Some(RefreshToken::new(format!("refresh-{number}"))),
                refresh_token_ends_at: None,
                scopes: vec!["mail".into()],
                account: None,
                remarks: Remarks::default(),
                cae: false,
            })))
        })
    }
}

/// Counts how often a lease was tried for.
#[derive(Default)]
struct Leases(AtomicUsize);

impl Observer for Leases {
    fn cache_lookup(&self, _result: Lookup) {}
    fn refreshed(&self, _app: &AppName, _outcome: &'static str, _elapsed: Duration) {}
    fn judged(&self, _app: &AppName, _tenant: Option<&str>, _status: Status) {}
    fn swept(&self, _swept: Swept) {}
    fn budgeted(&self, _cause: Cause, _is_begun: bool) {}
    fn lease(&self, _result: LeaseOutcome) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// What a request was answered, and after how long. (The store takes milliseconds: to a tenth of a second.)
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answered {
    after: Duration,
    /// The access token, or the word of the refusal.
    what: String,
    is_degraded: bool,
}

type Pending = Arc<Mutex<Option<Answered>>>;

/// One replica, its store, its authority and one connection, all under virtual time.
struct Scene {
    world: World,
    server: SimServer,
    authority: Arc<Scripted>,
    repository: Arc<Repository>,
    leases: Arc<Leases>,
    engine: Engine,
    key: ConnectionKey,
}

impl Scene {
    /// With a connection whose only token, `access-0`, has so much life left.
    fn new(life_left: Duration) -> Self {
        let world = World::new(Dice::new(1), false);
        let clock = Arc::new(SimClock::new(world.clone(), WallError::default()));
        let tasks = |pid| Arc::new(SimTasks::new(world.clone(), pid));
        let (dice, mutant) = (Dice::new(2), Mutant::None);
        let server = SimServer::new(clock.clone(), tasks(WORLD), dice, 1, false, mutant, None);
        let born = Timestamp::from_unix_seconds(1);
        let material = zeroize::Zeroizing::new([7; 32]);
        let key = SealingKey::new("simulated".into(), born, Some(born), material);
        let keyring = Arc::new(Keyring::new(vec![key], "in memory").expect("one promoted key"));
        let random = Arc::new(SeededRandom::new(9));
        let store = Arc::new(server.client(0, PROCESS));
        let repository = Arc::new(Repository::new(store, keyring, random.clone()));
        let authority = Arc::new(Scripted {
            world: world.clone(),
            clock: clock.clone(),
            answers: Mutex::new(Answers::Token(Duration::from_millis(150))),
            calls: AtomicUsize::new(0),
        });
        let asked =
            OnlyRefreshes { naming: ScopeNaming::Plain, may_replay: true, answers: authority.clone() };
        let leases = Arc::new(Leases::default());
        let key = ConnectionKey {
            app: AppName::parse("outlook").expect("name"),
            connection: ConnectionName::parse("user").expect("name"),
        };
        let deps = Deps {
            repository: repository.clone(),
            clock: clock.clone(),
            random,
            tasks: tasks(PROCESS),
            observer: leases.clone(),
            tracer: crate::span::Tracer::off(),
        };
        let apps = BTreeMap::from([(key.app.clone(), EngineApp { authority: Arc::new(asked) })]);
        let engine = Engine::new(apps, deps, Settings::default());
        engine.learn_revocations(Vec::new());
        let scene = Scene { world, server, authority, repository, leases, engine, key };
        scene.connect(clock.now(), life_left);
        scene
    }

    fn connect(&self, now: Timestamp, life_left: Duration) {
        let account =
            Account { iss: "i".into(), sub: "s".into(), tid: Some("t".into()), oid: None, username: None };
        let words = vec!["mail".to_owned()];
        let profile = Profile::connected(account, words.clone(), words.clone(), "cli".into(), now, None);
        let token = HeldToken {
            access_token: AccessToken::new("access-0"),
            digest: sha256_hex(b"access-0"),
            uti: None,
            issued_at: Timestamp::from_unix_millis(
                now.unix_millis() - i64::try_from((LIFE - life_left).as_millis()).expect("small"),
            ),
            expires_at: now.plus(life_left),
            refresh_at: None,
            scopes: words,
            resource: None,
            answers_claims: None,
            got_for: None,
            cae: false,
        };
        let (repository, key) = (self.repository.clone(), self.key.clone());
        self.run("connect", async move {
            let grant = Grant::new(RefreshToken::new("refresh-0"));
            let nothing_before = (None, LOWEST_FLOOR.number);
            let of_sign_in = ([0; 8], profile.connected_at());
            let stored =
                repository.connect(&key, nothing_before, of_sign_in, profile, &[token], &grant).await;
            stored.expect("stored");
        });
    }

    /// Runs something, and the second after it.
    fn run(&self, name: &'static str, what: impl Future<Output = ()> + Send + 'static) {
        self.world.spawn(WORLD, name, Box::pin(what));
        self.pass(Duration::from_secs(1));
    }

    fn pass(&self, time: Duration) {
        self.world.run_until(self.world.now() + time).expect("nothing goes in circles");
    }

    fn authority_answers(&self, answers: Answers) {
        *self.authority.answers.lock() = answers;
    }

    fn calls(&self) -> usize {
        self.authority.calls.load(Ordering::Acquire)
    }

    /// A request begins.
    fn ask(&self, by: &str, rejected: Option<&str>) -> Pending {
        let want = Want {
            by: Some(CallerName::parse(by).expect("name")),
            resource: None,
            scopes: ScopeSet::default(),
            min_ttl: Duration::from_secs(300),
            rejected: rejected.map(|token| sha256_hex(token.as_bytes())),
            claims: None,
            cae: true,
        };
        let pending = Pending::default();
        let (answered, engine, key, world) =
            (pending.clone(), self.engine.clone(), self.key.clone(), self.world.clone());
        let ask = async move {
            let begun = world.now();
            let served = engine.serve(&key, |_: &Held| Ok::<_, ()>(want.clone())).await;
            let tenths = (world.now() - begun).as_millis() / 100;
            let after = Duration::from_millis(100) * u32::try_from(tenths).expect("small");
            let (what, is_degraded) = match served {
                Ok(served) => (served.token().access_token.expose().to_owned(), served.degraded),
                Err(refused) => (word(&refused).to_owned(), false),
            };
            *answered.lock() = Some(Answered { after, what, is_degraded });
        };
        self.world.spawn(PROCESS, "a request", Box::pin(ask));
        pending
    }

    /// A request, to its end.
    fn asked(&self, by: &str, rejected: Option<&str>) -> Answered {
        let pending = self.ask(by, rejected);
        self.pass(Duration::from_secs(20));
        let answered = pending.lock().clone();
        answered.expect("nobody waits for longer than caller_wait")
    }
}

fn word(refused: &Refused<()>) -> &'static str {
    match refused {
        Refused::NotFound => "not found",
        Refused::Store => "store",
        Refused::TooManyForced(_) => "too many forced",
        Refused::Authority { .. } => "authority",
        Refused::NotNow(why) => why.as_str(),
        _ => "other",
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn many_waiters_share_one_lease_and_one_call() {
    let scene = Scene::new(Duration::ZERO);
    scene.authority_answers(Answers::Token(seconds(2)));
    let requests: Vec<Pending> = (0..100).map(|_| scene.ask("sync", None)).collect();
    scene.pass(seconds(5));
    for request in requests {
        let answered = request.lock().clone().expect("the call has ended");
        assert_eq!((answered.after, answered.what.as_str()), (seconds(2), "access-1"));
    }
    assert_eq!((scene.calls(), scene.leases.0.load(Ordering::Acquire)), (1, 1));
}

/// SEMANTICS 6.
#[test]
fn a_better_token_is_waited_for_three_seconds_where_one_lives_and_caller_wait_where_none_does() {
    for (life_left, after, what) in
        [(seconds(200), seconds(3), "access-0"), (Duration::ZERO, seconds(15), "under_way")]
    {
        let scene = Scene::new(life_left);
        scene.authority_answers(Answers::Never);
        assert_eq!(scene.asked("sync", None), Answered { after, what: what.into(), is_degraded: false });
    }
}

/// A caller that comes after a failed renewal gets the live token at once, and the next renewal runs behind
/// it.
#[test]
fn who_comes_after_a_renewal_failed_does_not_wait_for_the_next() {
    let scene = Scene::new(seconds(200));
    scene.authority_answers(Answers::Away);
    assert_eq!(scene.asked("sync", None).what, "access-0");
    scene.authority_answers(Answers::Never);
    let answered = scene.asked("sync", None);
    assert_eq!((answered.after, answered.what.as_str()), (Duration::ZERO, "access-0"));
}

/// SEMANTICS 9b: all callers together force ten renewals of a connection in ten seconds, beside each caller's
/// first report.
#[test]
fn ten_renewals_of_a_connection_are_forced_in_ten_seconds() {
    let scene = Scene::new(LIFE);
    scene.authority_answers(Answers::Token(Duration::ZERO));
    let callers = ["one", "two", "three", "four"];
    let mut refusals = 0;
    for round in 0..5 {
        for caller in callers {
            let current = format!("access-{}", scene.calls());
            let pending = scene.ask(caller, Some(&current));
            scene.pass(Duration::from_millis(100));
            let answered = pending.lock().clone().expect("it is answered at once");
            match answered.what.as_str() {
                "too many forced" => refusals += 1,
                token => assert_eq!(token, format!("access-{}", scene.calls()), "round {round}, {caller}"),
            }
        }
    }
    assert_eq!((scene.calls(), refusals), (callers.len() + 10, 5 * callers.len() - callers.len() - 10));
}

/// `serve_cached_for` is 300 s.
#[test]
fn a_live_token_is_served_while_the_store_and_the_authority_fail() {
    let scene = Scene::new(seconds(1000));
    assert_eq!(scene.asked("sync", None).what, "access-0");
    scene.server.set_link(0, Link::Cut);
    scene.authority_answers(Answers::Away);
    let cut_at = scene.world.now();
    let first = scene.asked("sync", None);
    assert_eq!((first.what.as_str(), first.is_degraded), ("access-0", true));
    while scene.world.now() < cut_at + seconds(250) {
        let answered = scene.asked("sync", None);
        assert_eq!(
            answered,
            Answered { after: Duration::ZERO, what: "access-0".into(), is_degraded: true },
            "once the store is known to fail nobody waits for it"
        );
    }
    scene.pass(seconds(60));
    assert_eq!(scene.asked("sync", None).what, "store");
}

/// The store fails over and has the record again, which was deleted: it is deleted again, and never served.
#[test]
fn a_record_that_is_loaded_behind_its_delete_is_deleted_again() {
    let scene = Scene::new(LIFE);
    assert_eq!(scene.asked("sync", None).what, "access-0");
    scene.server.set_weather(StoreWeather { lag: seconds(3600), ..StoreWeather::default() });
    let (repository, engine, key) = (scene.repository.clone(), scene.engine.clone(), scene.key.clone());
    scene.run("delete", async move {
        let meant = repository.delete(&key, None, Timestamp::default()).await.expect("the store answers");
        engine.deleted(&key, meant);
    });
    scene.server.lose_primary();
    scene.server.promote();
    let stored = |scene: &Scene| {
        let (found, repository, key) =
            (Arc::new(Mutex::new(None)), scene.repository.clone(), scene.key.clone());
        let answer = found.clone();
        scene.run("look into the store", async move {
            *answer.lock() = Some(repository.load(&key).await.expect("the store answers").is_some());
        });
        found.lock().expect("it was read")
    };
    assert!(stored(&scene), "the failover brought it back");
    assert_eq!(scene.asked("sync", None).what, "not found");
    assert!(!stored(&scene));
}

/// Another replica renewed the grant within the second for which a read counts. The lease's answer shows it,
/// and the older grant is not used once more.
#[test]
fn what_was_read_a_moment_ago_is_not_used_if_another_has_renewed_it_since() {
    let scene = Scene::new(LIFE);
    assert_eq!(scene.asked("sync", None).what, "access-0");
    let _checked = scene.ask("sync", None);
    scene.pass(Duration::from_millis(100));
    let (repository, key) = (scene.repository.clone(), scene.key.clone());
    let another = async move {
        let loaded = repository.load(&key).await.expect("the store answers").expect("it is there").connection;
        let mut tokens = loaded.tokens;
        tokens[0].access_token = AccessToken::new("access-of-another");
        tokens[0].digest = sha256_hex(b"access-of-another");
        let grant = Grant::new(RefreshToken::new("refresh-of-another"));
        let profile = loaded.profile.grant_replaced(vec![]);
        let turn = Turn::After { before: profile.outlook(), at: Timestamp::default() };
        let base = (loaded.revision, turn);
        let committed = repository.commit(&key, base, &profile, &tokens, Some(&grant), Writer::Operator);
        assert_eq!(committed.await.expect("the store answers").0, Committed::Done);
    };
    scene.world.spawn(WORLD, "another replica renews", Box::pin(another));
    scene.pass(Duration::from_millis(100));
    assert_eq!(scene.asked("sync", Some("access-0")).what, "access-of-another");
    assert_eq!(scene.calls(), 0);
    assert_eq!(scene.leases.0.load(Ordering::Acquire), 1, "the lease showed it");
}
