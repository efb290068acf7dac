//! Waits for turns under virtual time: two replicas that share a store, and callers that wait, leave and die.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::turns::{GRACE, KEPT_MS};
use super::{Busy, Counter, Desk, MailboxName, Mailboxes, Turn, Wanted};
use crate::domain::id::{AppName, CallerName};
use crate::domain::time::Timestamp;
use crate::keyring::{Keyring, SealingKey};
use crate::mailbox::{LONGEST_CLOSED, Line, SILENT};
use crate::repository::{Kind, Repository};
use crate::testkit::SeededRandom;
use crate::testkit::clock::{SimClock, WallError};
use crate::testkit::faults::{Dice, Link, Mutant};
use crate::testkit::store::SimServer;
use crate::testkit::tasks::{Pid, SimTasks, WORLD, World};

const PATIENCE: Duration = Duration::from_secs(15);
const SECOND: Duration = Duration::from_secs(1);
/// Longer than any test looks.
const EVER: Duration = Duration::from_secs(3600);
/// What crossing the store a few times may take.
const ON_THE_WAY: Duration = Duration::from_millis(300);

/// When a turn began, or was refused.
type Outcome = Arc<Mutex<Option<(Duration, Result<(), Busy>)>>>;

struct Scene {
    world: World,
    server: SimServer,
    keyring: Arc<Keyring>,
    replicas: Vec<Arc<Mailboxes>>,
}

/// The process of a replica.
fn pid(replica: usize) -> Pid {
    Pid(u32::try_from(replica).expect("few") + 1)
}

fn name(mailbox: &str) -> MailboxName {
    MailboxName { app: AppName::parse("outlook").expect("a name"), mailbox: mailbox.to_owned() }
}

fn caller(name: &str) -> CallerName {
    CallerName::parse(name).expect("a name")
}

impl Scene {
    fn new(replicas: usize) -> Self {
        let world = World::new(Dice::new(1), false);
        let clock = Arc::new(SimClock::new(world.clone(), WallError::default()));
        let tasks = Arc::new(SimTasks::new(world.clone(), WORLD));
        let server = SimServer::new(clock, tasks, Dice::new(2), replicas, false, Mutant::None, None);
        let born = Timestamp::from_unix_seconds(1);
        let key = SealingKey::new("simulated".into(), born, Some(born), zeroize::Zeroizing::new([7; 32]));
        let keyring = Arc::new(Keyring::new(vec![key], "in memory").expect("one promoted key"));
        let mut scene = Scene { world, server, keyring, replicas: Vec::new() };
        scene.replicas = (0..replicas).map(|replica| scene.replica(replica)).collect();
        scene
    }

    fn replica(&self, replica: usize) -> Arc<Mailboxes> {
        let random = Arc::new(SeededRandom::new(100 + replica as u64));
        let store = Arc::new(self.server.client(replica, pid(replica)));
        let repository = Arc::new(Repository::new(store, Arc::clone(&self.keyring), random.clone()));
        let clock = Arc::new(SimClock::new(self.world.clone(), WallError::default()));
        let tasks = Arc::new(SimTasks::new(self.world.clone(), pid(replica)));
        Arc::new(Mailboxes::new(repository, clock, random, tasks))
    }

    /// A request of one place, which keeps its turn for so long.
    fn asks(
        &self,
        replica: usize,
        (mailbox, who): (&str, &str),
        most: u32,
        (patience, keeps): (Duration, Duration),
    ) -> Outcome {
        self.asks_with(replica, (mailbox, who), (1, most), patience, move |world, turn| {
            Box::pin(async move {
                world.sleep(keeps).await;
                drop(turn);
            })
        })
    }

    /// A request that does something with its turn.
    fn asks_with(
        &self,
        replica: usize,
        (mailbox, who): (&str, &str),
        places: (u32, u32),
        patience: Duration,
        then: impl FnOnce(World, Turn) -> crate::domain::task::BoxFuture<'static, ()> + Send + 'static,
    ) -> Outcome {
        let (mailboxes, world) = (Arc::clone(&self.replicas[replica]), self.world.clone());
        let (mailbox, who, outcome) = (name(mailbox), caller(who), Outcome::default());
        let noted = Arc::clone(&outcome);
        let asks = async move {
            let turn = mailboxes.turn(&mailbox, &who, places, patience).await;
            let told = turn.as_ref().map(|_| ()).map_err(|busy| *busy);
            *noted.lock() = Some((world.now(), told));
            if let Ok(turn) = turn {
                then(world, turn).await;
            }
        };
        self.world.spawn(pid(replica), "a request", Box::pin(asks));
        outcome
    }

    /// A batch with these mailboxes, which keeps its turns for so long.
    fn asks_all(&self, replica: usize, who: &str, mailboxes: &[&str], most: u32, keeps: Duration) -> Outcome {
        let (of, world) = (Arc::clone(&self.replicas[replica]), self.world.clone());
        let names: Vec<_> = mailboxes.iter().map(|mailbox| Some(name(mailbox))).collect();
        let (who, outcome) = (caller(who), Outcome::default());
        let noted = Arc::clone(&outcome);
        let asks = async move {
            let turns = of.turns(&names, &who, most, PATIENCE).await;
            *noted.lock() = Some((world.now(), turns.as_ref().map(|_| ()).map_err(|busy| *busy)));
            world.sleep(keeps).await;
            drop(turns);
        };
        self.world.spawn(pid(replica), "a batch", Box::pin(asks));
        outcome
    }

    fn passes(&self, time: Duration) {
        self.world.run_until(self.world.now() + time).expect("it comes to rest");
    }

    /// How many places the record says are taken.
    fn taken(&self, mailbox: &str) -> u32 {
        let random = Arc::new(SeededRandom::new(1));
        let repository = Repository::new(Arc::new(self.server.insight()), Arc::clone(&self.keyring), random);
        let id = Counter::new(&name(mailbox), 1, Desk::new(1, 0)).filed_under();
        let taken = Arc::new(Mutex::new(0));
        let noted = Arc::clone(&taken);
        let reads = async move {
            let line = repository.pending::<Line>(Kind::Mailbox, &id).await.expect("it serves");
            *noted.lock() = line.map_or(0, |line| line.value.taken());
        };
        self.world.spawn(WORLD, "a look", Box::pin(reads));
        self.world.run_until(self.world.now()).expect("it comes to rest");
        *taken.lock()
    }
}

/// When it began; it did.
fn begun(outcome: &Outcome) -> Duration {
    let (at, told) = outcome.lock().expect("it has ended");
    told.expect("it began");
    at
}

/// When it was refused, and when it may come back; it was.
fn refused(outcome: &Outcome) -> (Duration, Duration) {
    let (at, told) = outcome.lock().expect("it has ended");
    (at, told.expect_err("it was refused").retry_after)
}

#[test]
fn whoever_waits_is_told_at_once_that_the_mailbox_closes() {
    let scene = Scene::new(2);
    scene.asks_with(0, ("x", "a"), (1, 1), PATIENCE, |world, turn| {
        Box::pin(async move {
            world.sleep(SECOND * 2).await;
            // (An hour is taken for a mistake.)
            turn.closes_for(EVER);
        })
    });
    scene.passes(SECOND);
    let waiting = [0, 0, 1].map(|replica| scene.asks(replica, ("x", "b"), 1, (PATIENCE, EVER)));
    scene.passes(SECOND + ON_THE_WAY);
    for outcome in &waiting {
        let (at, after) = refused(outcome);
        assert!(at >= SECOND * 2 && at <= SECOND * 2 + ON_THE_WAY, "{at:?}");
        assert!(after <= LONGEST_CLOSED && after > LONGEST_CLOSED - SECOND, "{after:?}");
    }
    // Until then nobody has a turn, and afterwards somebody has.
    scene.passes(LONGEST_CLOSED - SECOND * 4);
    let early = scene.asks(1, ("x", "b"), 1, (SECOND, SECOND));
    scene.passes(SECOND);
    refused(&early);
    let later = scene.asks(1, ("x", "b"), 1, (PATIENCE, SECOND));
    scene.passes(PATIENCE);
    begun(&later);
}

#[test]
fn a_dead_replicas_places_come_back_where_requests_wait_for_less_than_that_takes() {
    let scene = Scene::new(2);
    let held: Vec<_> = (0..4).map(|_| scene.asks(0, ("x", "a"), 4, (PATIENCE, EVER))).collect();
    scene.passes(SECOND * 3);
    held.iter().for_each(|one| {
        begun(one);
    });
    scene.world.kill(pid(0));
    let died = scene.world.now();
    // Each waits two seconds, and comes again a little later.
    let (mailboxes, world) = (Arc::clone(&scene.replicas[1]), scene.world.clone());
    let begun = Arc::new(Mutex::new(None));
    let noted = Arc::clone(&begun);
    let asks = async move {
        while mailboxes.turn(&name("x"), &caller("b"), (1, 4), SECOND * 2).await.is_err() {
            world.sleep(SECOND / 2).await;
        }
        *noted.lock() = Some(world.now());
    };
    scene.world.spawn(pid(1), "requests", Box::pin(asks));
    scene.passes(SECOND * 30);
    let waited = begun.lock().expect("one had its turn") - died;
    assert!(waited > SILENT - SECOND * 2 && waited < SILENT + SECOND * 3, "{waited:?}");
}

#[test]
fn a_changed_limit_counts_at_once() {
    let scene = Scene::new(1);
    let first = scene.asks(0, ("x", "a"), 1, (PATIENCE, SECOND * 4));
    scene.passes(SECOND);
    let second = scene.asks(0, ("x", "b"), 2, (PATIENCE, SECOND * 2));
    scene.passes(ON_THE_WAY);
    assert!(begun(&first) < begun(&second));
    let third = scene.asks(0, ("x", "c"), 1, (PATIENCE, SECOND));
    scene.passes(SECOND * 6);
    assert!(begun(&third) > begun(&first) + SECOND * 4, "one at a time again");
}

#[test]
fn while_the_store_is_away_each_replica_has_its_part_and_what_ends_is_told_later() {
    let scene = Scene::new(2);
    let asks = |replica, mailbox: &str, keeps| scene.asks(replica, (mailbox, "a"), 4, (PATIENCE, keeps));
    let one_each = [0, 1].map(|replica| asks(replica, "x", SECOND * 8));
    scene.passes(SECOND * 3);
    one_each.iter().for_each(|one| {
        begun(one);
    });
    [0, 1].into_iter().for_each(|replica| scene.server.set_link(replica, Link::Cut));
    scene.passes(SECOND);
    // Here, and at a mailbox where nobody has seen the other replica.
    let outcomes = |mailbox: &str| [0, 1].map(|replica| [0; 4].map(|_| asks(replica, mailbox, SECOND * 8)));
    let (known, unknown) = (outcomes("x"), outcomes("y"));
    scene.passes(SECOND * 3);
    let have = |of: &[Outcome]| of.iter().filter(|one| one.lock().is_some()).count();
    assert_eq!([have(&known[0]), have(&known[1])], [1, 1], "two of four, of which each had one");
    assert_eq!([have(&unknown[0]), have(&unknown[1])], [2, 2]);
    [0, 1].into_iter().for_each(|replica| scene.server.set_link(replica, Link::Up));
    scene.passes(SECOND * 40);
    for outcome in known.iter().chain(&unknown).flatten() {
        assert!(outcome.lock().is_some(), "it ends, one way or the other");
    }
    assert_eq!((scene.taken("x"), scene.taken("y")), (0, 0));
}

#[test]
fn a_turn_that_ends_leaves_nothing_however_soon() {
    let scene = Scene::new(2);
    for keeps in [0, 1, 5, 20, 100] {
        let keeps = Duration::from_millis(keeps);
        let outcomes = [0, 1, 0].map(|replica| scene.asks(replica, ("x", "a"), 4, (PATIENCE, keeps)));
        scene.passes(SECOND * 7);
        outcomes.iter().for_each(|one| {
            begun(one);
        });
        assert_eq!(scene.taken("x"), 0, "after {keeps:?}");
    }
    // Who leaves while it waits leaves nothing, either.
    scene.asks(0, ("x", "a"), 1, (PATIENCE, SECOND * 2));
    scene.passes(ON_THE_WAY);
    let gives_up = scene.asks(1, ("x", "a"), 1, (SECOND, EVER));
    scene.passes(SECOND * 9);
    refused(&gives_up);
    assert_eq!(scene.taken("x"), 0);
}

#[test]
fn a_batch_that_waits_for_one_mailbox_holds_up_no_other_one() {
    for replica in [0, 1] {
        let scene = Scene::new(2);
        scene.asks(0, ("y", "a"), 1, (PATIENCE, SECOND * 6));
        scene.passes(SECOND);
        let batch = scene.asks_all(0, "b", &["x", "y"], 1, SECOND);
        scene.passes(ON_THE_WAY);
        let single = scene.asks(replica, ("x", "c"), 1, (PATIENCE, SECOND));
        scene.passes(SECOND * 12);
        let asked = SECOND + ON_THE_WAY;
        let most = Duration::from_millis(KEPT_MS.1);
        assert!(begun(&single) <= asked + most + ON_THE_WAY, "{:?}", begun(&single));
        assert!(begun(&batch) >= SECOND * 6 && begun(&batch) < SECOND * 8, "{:?}", begun(&batch));
        assert_eq!((scene.taken("x"), scene.taken("y")), (0, 0));
    }
}

#[test]
fn batches_that_want_the_same_mailboxes_all_have_their_turns() {
    let scene = Scene::new(2);
    let mut batches = Vec::new();
    for number in 0..6 {
        let mailboxes: &[&str] = if number % 2 == 0 { &["x", "y", "z"] } else { &["z", "y", "x"] };
        let who = format!("b{}", number % 3);
        batches.push(scene.asks_all(number % 2, &who, mailboxes, 1, SECOND / 2));
    }
    scene.passes(SECOND * 30);
    let mut times: Vec<Duration> = batches.iter().map(begun).collect();
    times.sort();
    assert!(times.windows(2).all(|two| two[0] + SECOND / 2 <= two[1]), "one after the other: {times:?}");
    // Who cannot be served in time is told, whichever mailbox it is.
    scene.asks(0, ("y", "a"), 1, (PATIENCE, EVER));
    scene.passes(SECOND);
    let in_vain = scene.asks_all(1, "b", &["x", "y"], 1, SECOND);
    let asked = scene.world.now();
    scene.passes(SECOND * 20);
    let (at, _) = refused(&in_vain);
    assert!(at >= asked + PATIENCE && at < asked + PATIENCE + ON_THE_WAY, "{:?}", at - asked);
}

#[test]
fn the_places_of_a_request_that_is_given_up_are_kept_for_a_while() {
    for (is_sent, is_over, kept) in [
        (false, false, Duration::ZERO),
        (true, false, GRACE),
        // (The resource has done its part.)
        (true, true, Duration::ZERO),
    ] {
        let scene = Scene::new(1);
        scene.asks_with(0, ("x", "a"), (1, 1), PATIENCE, move |world, turn| {
            Box::pin(async move {
                let mut turn = turn;
                turn.is_sent = is_sent;
                world.sleep(SECOND).await;
                turn.is_sent &= !is_over;
                drop(turn);
            })
        });
        scene.passes(SECOND / 2);
        let next = scene.asks(0, ("x", "b"), 1, (PATIENCE, SECOND));
        scene.passes(SECOND * 5);
        let waited = begun(&next) - SECOND;
        assert!(waited >= kept && waited < kept + ON_THE_WAY, "{is_sent} {is_over}: {waited:?}");
    }
}

#[test]
fn who_holds_a_turn_knows_whether_others_wait_for_it() {
    let scene = Scene::new(2);
    let seen: Arc<Mutex<Vec<bool>>> = Arc::default();
    let noted = Arc::clone(&seen);
    scene.asks_with(0, ("x", "a"), (1, 1), PATIENCE, move |world, turn| {
        Box::pin(async move {
            let wanted = Wanted::of([&turn]);
            for _ in 0..3 {
                world.sleep(SECOND * 3).await;
                noted.lock().push(wanted.is_so());
            }
        })
    });
    scene.passes(SECOND);
    // Its own, and then one of another replica.
    scene.asks(0, ("x", "a"), 1, (PATIENCE, SECOND));
    scene.passes(SECOND * 3);
    let other = scene.asks(1, ("x", "b"), 1, (SECOND * 4, SECOND));
    scene.passes(SECOND * 8);
    refused(&other);
    assert_eq!(*seen.lock(), [false, true, false]);
}
