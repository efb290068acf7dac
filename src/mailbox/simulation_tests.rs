//! Replicas with callers at one mailbox, in virtual time: arrivals of every kind, writes that cross each
//! other, replicas that die, a store that is away or loses the record.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Desk, Line, SILENT, Ticket};
use crate::domain::time::{Moment, Timestamp};
use crate::testkit::SeededRandom;

const MOST: u32 = 4;
/// How long a request waits at most.
const PATIENCE: u64 = 15_000;

/// What may happen in a run.
#[derive(Debug, Clone, Copy, Default)]
struct Faults {
    kills: bool,
    /// The store cannot be reached for a while.
    outages: bool,
    /// The store comes back empty.
    losses: bool,
    /// The mailbox says when to come back.
    throttles: bool,
    batches: bool,
}

#[derive(Debug)]
struct Request {
    caller: usize,
    asked_at: u64,
    takes: u64,
    begun_at: Option<u64>,
    places: u32,
    /// How many turns of others had begun when it came.
    before: u64,
}

struct Replica {
    desk: Desk,
    requests: BTreeMap<Ticket, Request>,
    /// What it read, and what it is about to write in its place.
    writes: Option<(Line, Line)>,
    looks_at: u64,
}

struct World {
    dice: SeededRandom,
    now: u64,
    record: Line,
    replicas: Vec<Replica>,
    made: u64,
    faults: Faults,
    away_until: u64,
    /// Since when the limit may be passed, because the record was lost or a replica was cut off.
    may_pass_until: u64,
    /// When the replicas were told to leave the mailbox alone, and until when.
    closed: (u64, u64),
    begun: u64,
    /// For each caller: how many requests are done, how many gave up, the most turns that went before one.
    done: Vec<u64>,
    gave_up: Vec<u64>,
    overtaken: Vec<u64>,
    most_at_once: u32,
}

impl World {
    fn new(seed: u64, replicas: usize, callers: usize, faults: Faults) -> Self {
        let mut world = World {
            dice: SeededRandom::new(seed),
            now: 0,
            record: Line::default(),
            replicas: Vec::new(),
            made: 0,
            faults,
            away_until: 0,
            may_pass_until: 0,
            closed: (0, 0),
            begun: 0,
            done: vec![0; callers],
            gave_up: vec![0; callers],
            overtaken: vec![0; callers],
            most_at_once: 0,
        };
        (0..replicas).for_each(|_| {
            let replica = world.replica();
            world.replicas.push(replica);
        });
        world
    }

    fn replica(&mut self) -> Replica {
        self.made += 1;
        let desk = Desk::new(self.made, 0);
        Replica { desk, requests: BTreeMap::new(), writes: None, looks_at: self.now }
    }

    fn moment(&self) -> Moment {
        let millis = i64::try_from(self.now).expect("a short run");
        Moment { monotonic: Duration::from_millis(self.now), now: Timestamp::from_unix_millis(millis) }
    }

    fn chance(&self, of: usize) -> bool {
        self.dice.below(of) == 0
    }

    fn ask(&mut self, at: usize, caller: usize, takes: u64, places: u32) -> bool {
        let (now, begun) = (self.now, self.begun);
        let replica = &mut self.replicas[at];
        let Ok(ticket) = replica.desk.join(&caller.to_string(), places, MOST) else { return false };
        let before = begun;
        let request = Request { caller, asked_at: now, takes, begun_at: None, places, before };
        replica.requests.insert(ticket, request);
        replica.looks_at = now;
        true
    }

    /// How many requests of a caller are not over.
    fn open(&self, caller: usize) -> usize {
        let requests = self.replicas.iter().flat_map(|replica| replica.requests.values());
        requests.filter(|request| request.caller == caller).count()
    }

    fn begin(&mut self, at: usize, tickets: Vec<Ticket>) {
        for ticket in tickets {
            let Some(request) = self.replicas[at].requests.get_mut(&ticket) else { continue };
            // (What is on its way to the record begins all the same.)
            let is_closed = self.now > self.closed.0 + 50 && self.now < self.closed.1;
            assert!(!is_closed, "{ticket:?} began while the mailbox was closed");
            request.begun_at = Some(self.now);
            let (caller, overtaken) = (request.caller, self.begun - request.before);
            self.overtaken[caller] = self.overtaken[caller].max(overtaken);
            self.begun += 1;
        }
    }

    /// One replica looks at the record, or writes what it made of it.
    fn step(&mut self, at: usize) {
        let (moment, now) = (self.moment(), self.now);
        if now < self.away_until {
            self.replicas[at].writes = None;
            let begun = self.replicas[at].desk.cut_off(MOST, 3, moment);
            self.begin(at, begun);
            self.replicas[at].looks_at = now + 250;
            return;
        }
        if let Some((read, wanted)) = self.replicas[at].writes.take() {
            if read == self.record {
                self.record = wanted.clone();
                let begun = self.replicas[at].desk.agreed(wanted);
                self.begin(at, begun);
                let waits = self.replicas[at].desk.waits();
                self.replicas[at].looks_at = now + if waits { 20 } else { 1_000 };
            } else {
                self.replicas[at].looks_at = now;
            }
            return;
        }
        let read = self.record.clone();
        let begun = self.replicas[at].desk.agreed(read.clone());
        self.begin(at, begun);
        let desk = &mut self.replicas[at].desk;
        let wanted = desk.proposal(&read, MOST, moment);
        if wanted == read {
            self.replicas[at].looks_at = now + if desk.waits() { 20 } else { 1_000 };
        } else {
            self.replicas[at].writes = Some((read, wanted));
            self.replicas[at].looks_at = now + u64::try_from(self.dice.below(4)).expect("few");
        }
    }

    fn pass(&mut self) {
        self.now += 1;
        for at in 0..self.replicas.len() {
            let over: Vec<Ticket> = self.replicas[at]
                .requests
                .iter()
                .filter(|(_, request)| match request.begun_at {
                    Some(begun) => self.now >= begun + request.takes,
                    None => self.now >= request.asked_at + PATIENCE,
                })
                .map(|(ticket, _)| *ticket)
                .collect();
            for ticket in over {
                let request = self.replicas[at].requests.remove(&ticket).expect("it is there");
                match request.begun_at {
                    Some(_) => self.done[request.caller] += 1,
                    None => self.gave_up[request.caller] += 1,
                }
                self.replicas[at].desk.end(ticket);
                self.replicas[at].looks_at = self.now;
                if self.faults.throttles && request.begun_at.is_some() && self.chance(200) {
                    self.closed = (self.now, self.now + 1_500);
                    let until = Timestamp::from_unix_millis(i64::try_from(self.closed.1).expect("short"));
                    self.replicas.iter_mut().for_each(|replica| replica.desk.close(until));
                }
            }
        }
        self.go_wrong();
        for at in 0..self.replicas.len() {
            if self.replicas[at].looks_at <= self.now {
                self.step(at);
            }
        }
        let live = self.replicas.iter().flat_map(|replica| replica.requests.values());
        let at_once = live.filter(|one| one.begun_at.is_some()).map(|one| one.places).sum::<u32>();
        self.most_at_once = self.most_at_once.max(at_once);
        assert!(
            at_once <= MOST || self.now < self.may_pass_until,
            "{at_once} places are taken at {} ms: {:?}",
            self.now,
            self.record
        );
    }

    fn go_wrong(&mut self) {
        if self.faults.kills && self.chance(15_000) {
            let at = self.dice.below(self.replicas.len());
            self.replicas[at] = self.replica();
        }
        // (Requests that began in between may run for 400 ms longer.)
        if self.faults.outages && self.chance(20_000) {
            self.away_until = self.now + 3_000;
            self.may_pass_until = self.may_pass_until.max(self.away_until + 2_000);
        }
        if self.faults.losses && self.chance(20_000) {
            self.record = Line::default();
            self.replicas.iter_mut().for_each(|replica| replica.looks_at = self.now);
            self.may_pass_until = self.may_pass_until.max(self.now + 2_000);
        }
    }
}

/// Each of `callers` callers keeps `open` requests open for `millis`, over all replicas.
fn saturated(seed: u64, callers: usize, open: usize, faults: Faults, millis: u64) -> World {
    let mut world = World::new(seed, 3, callers, faults);
    while world.now < millis {
        for caller in 0..callers {
            while world.open(caller) < open {
                let at = world.dice.below(3);
                let takes = 20 + u64::try_from(world.dice.below(60)).expect("few");
                let places = if faults.batches && world.chance(5) {
                    1 + u32::try_from(world.dice.below(4)).expect("few")
                } else {
                    1
                };
                if !world.ask(at, caller, takes, places) {
                    break;
                }
            }
        }
        world.pass();
    }
    world
}

#[test]
fn never_more_than_the_limit_and_turns_are_shared_within_a_fifth() {
    for seed in 0..4 {
        let world =
            saturated(seed, 8, 4, Faults { kills: true, throttles: true, ..Faults::default() }, 30_000);
        let (least, most) = (world.done.iter().min().expect("some"), world.done.iter().max().expect("some"));
        assert!(*least > 0 && least * 5 >= most * 4, "seed {seed}: {:?}", world.done);
        assert_eq!(world.gave_up, vec![0; 8], "seed {seed}");
        assert!(world.most_at_once == MOST, "seed {seed}: the places are used: {}", world.most_at_once);
    }
}

#[test]
fn whoever_asks_for_much_waits_behind_whoever_asks_for_little() {
    for seed in 0..4 {
        let mut world = World::new(seed, 3, 3, Faults { kills: true, batches: true, ..Faults::default() });
        while world.now < 60_000 {
            // One caller always has as many as may wait; one has a request now and then; one sends batches.
            while world.open(0) < 60 && world.ask(0, 0, 80, 1) {}
            if world.open(1) == 0 && world.chance(100) {
                let at = world.dice.below(3);
                world.ask(at, 1, 80, 1);
            }
            if world.open(2) < 3 {
                let at = world.dice.below(3);
                world.ask(at, 2, 120, 4);
            }
            world.pass();
        }
        assert!(world.done[1] > 100 && world.gave_up[1] == 0, "seed {seed}: {:?}", world.done);
        // (At most one turn of each other caller goes before it, a batch may count for four, and what crossed
        // on its way to the record.)
        assert!(world.overtaken[1] <= 16, "seed {seed}: {} went before", world.overtaken[1]);
    }
}

#[test]
fn a_lost_record_and_a_store_that_is_away_are_made_good() {
    let faults = Faults { kills: true, outages: true, losses: true, throttles: false, batches: true };
    for seed in 0..4 {
        let mut world = saturated(seed, 6, 3, faults, 40_000);
        // Afterwards nothing is lost: whatever is open ends, and the record is empty.
        world.faults = Faults::default();
        let end = world.now + 3 * u64::try_from(SILENT.as_millis()).expect("short");
        while world.now < end {
            world.pass();
        }
        assert_eq!((0..6).map(|caller| world.open(caller)).sum::<usize>(), 0, "seed {seed}");
        for _ in 0..100 {
            (0..3).for_each(|at| world.step(at));
            world.now += 200;
        }
        assert_eq!((world.record.taken(), world.record.waiting()), (0, 0), "seed {seed}: {:?}", world.record);
    }
}

#[test]
fn a_dead_replicas_places_come_back() {
    let mut world = World::new(1, 2, 2, Faults::default());
    (0..4).for_each(|_| assert!(world.ask(0, 0, 100_000, 1)));
    (0..50).for_each(|_| world.pass());
    assert_eq!(world.record.taken(), 4);
    world.replicas[0] = world.replica();
    assert!(world.ask(1, 1, 10, 1));
    let died_at = world.now;
    while world.done[1] == 0 {
        world.pass();
        assert!(world.gave_up[1] == 0, "it waited in vain");
    }
    let waited = Duration::from_millis(world.now - died_at);
    assert!(waited >= SILENT && waited < SILENT + Duration::from_secs(1), "{waited:?}");
}
