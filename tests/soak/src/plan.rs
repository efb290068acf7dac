//! The plan of a run: the faults and their times, drawn from a seed before anything starts.

use std::time::Duration;

use entra_emulator::{Fault as AuthorityFault, Garbage};

use crate::random::Random;
use crate::world::{LEASE, SERVE_CACHED_FOR};

/// What goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A daemon is killed, and started again after a while.
    Kill,
    /// A daemon stands still.
    Stop,
    /// A link between a replica and the store, or the authority, misbehaves.
    Link(Side, Weather),
    /// The store's primary is killed, and started again after a while.
    RedisKill,
    /// A server of the store comes back empty; the primary of a store that stands alone is restored
    /// afterwards.
    RedisEmpty,
    /// The primary is killed while its replicas lag: what it acknowledged last is lost.
    RedisSuffixLoss,
    /// The store's primary stands still.
    RedisStop,
    /// The authority answers refreshes like this, so often at the most.
    Authority(AuthorityFault, u32),
    /// A daemon's wall clock is this many seconds off.
    Clock(i64),
}

/// Which links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// To every server of the store.
    Store,
    /// To the authority.
    Authority,
}

/// How a link misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Nothing passes.
    Cut,
    /// Requests do not pass.
    CutUp,
    /// Answers do not pass.
    CutDown,
    /// Everything is late.
    Slow(Duration),
    /// Connections are reset, and new ones refused.
    Reset,
    /// Connections lose their server without a word.
    HalfOpen,
    /// Answers come a few bytes at a time.
    Drip,
}

/// One fault to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// Its number.
    pub number: u32,
    /// How long after the beginning.
    pub after: Duration,
    /// What.
    pub what: What,
    /// On which replica, where it is on one.
    pub replica: u8,
    /// How long it lasts.
    pub lasts: Duration,
}

/// What there is to choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Replicas.
    pub replicas: u8,
    /// Whether there are sentinels.
    pub sentinel: bool,
    /// Whether wall clocks can be set.
    pub clocks: bool,
    /// Whether the only server of a store may come back empty.
    pub empty: bool,
}

impl Planned {
    /// The kind, for figures.
    pub fn kind(&self) -> String {
        match &self.what {
            What::Kill => "daemon_kill".into(),
            What::Stop if self.lasts > LEASE => "daemon_stop_beyond_lease".into(),
            What::Stop => "daemon_stop".into(),
            What::Link(side, weather) => {
                let side = if *side == Side::Store { "store" } else { "authority" };
                let weather = match weather {
                    Weather::Cut => "cut",
                    Weather::CutUp => "cut_requests",
                    Weather::CutDown => "cut_answers",
                    Weather::Slow(_) => "slow",
                    Weather::Reset => "reset",
                    Weather::HalfOpen => "half_open",
                    Weather::Drip => "drip",
                };
                let beyond = if self.lasts > SERVE_CACHED_FOR { "_beyond_cache" } else { "" };
                format!("{side}_link_{weather}{beyond}")
            }
            What::RedisKill => "redis_kill".into(),
            What::RedisEmpty => "redis_empty".into(),
            What::RedisSuffixLoss => "redis_suffix_loss".into(),
            What::RedisStop => "redis_stop".into(),
            What::Authority(fault, _) => format!("authority_{}", authority_kind(fault)),
            What::Clock(seconds) => format!("clock_{}", if *seconds < 0 { "back" } else { "ahead" }),
        }
    }
}

fn authority_kind(fault: &AuthorityFault) -> String {
    let written = serde_json::to_value(fault).unwrap_or_default();
    match fault {
        AuthorityFault::Status { status, .. } => format!("{status}"),
        AuthorityFault::Aadsts { code, .. } => format!("aadsts_{code}"),
        AuthorityFault::Garbage(_) => format!("garbage_{}", written["garbage"].as_str().unwrap_or_default()),
        _ => {
            let name = written.as_object().and_then(|fields| fields.keys().next().cloned());
            name.or_else(|| written.as_str().map(str::to_owned)).unwrap_or_default()
        }
    }
}

/// How often another fault is drawn when one is not wanted.
const MOST_DRAWS: u32 = 100_000;

/// Draws a plan, of the kinds that begin with one of `only`, or of all if that is empty.
pub fn draw(seed: u64, faults: u32, span: Duration, choice: Choice, only: &[String]) -> Vec<Planned> {
    let mut random = Random::new(seed);
    let mut begins: Vec<Duration> = (0..faults).map(|_| random.between(Duration::ZERO, span)).collect();
    begins.sort_unstable();
    let wanted =
        |planned: &Planned| only.is_empty() || only.iter().any(|kind| planned.kind().starts_with(kind));
    let draw =
        |(number, after)| (0..MOST_DRAWS).map(|_| one(number, after, &mut random, choice)).find(wanted);
    (0..).zip(begins).filter_map(draw).collect()
}

fn one(number: u32, after: Duration, random: &mut Random, choice: Choice) -> Planned {
    #[derive(Clone, Copy)]
    enum Kind {
        Kill,
        Stop,
        Link(Side),
        Redis,
        Authority,
        Clock,
    }
    let kind = random.weighted(&[
        (12, Kill),
        (10, Stop),
        (15, Link(Side::Store)),
        (15, Link(Side::Authority)),
        (8, Redis),
        (36, Authority),
        (if choice.clocks { 4 } else { 0 }, Clock),
    ]);
    use Kind::{Authority, Clock, Kill, Link, Redis, Stop};
    let replica = u8::try_from(random.below(u64::from(choice.replicas))).unwrap_or(0);
    let seconds = |least: u64, most: u64, random: &mut Random| {
        random.between(Duration::from_millis(least * 100), Duration::from_millis(most * 100))
    };
    let (what, lasts) = match kind {
        Kill => (What::Kill, seconds(0, 20, random)),
        // One in three outlives its lease.
        Stop if random.once_in(3) => (What::Stop, LEASE + seconds(10, 40, random)),
        Stop => (What::Stop, seconds(2, 30, random)),
        Link(side) => {
            let (weather, mut lasts) = (weather(random), seconds(5, 60, random));
            // One in three outlives what the replica may serve meanwhile.
            if side == Side::Store && weather == Weather::Cut && random.once_in(3) {
                lasts += SERVE_CACHED_FOR;
            }
            (What::Link(side, weather), lasts)
        }
        Redis => (redis(random, choice), seconds(5, 40, random)),
        Authority => (authority(random), seconds(10, 60, random)),
        Clock => {
            let off = random.weighted(&[(2, 1), (2, 30), (3, 3600), (1, 315_360_000)]);
            (What::Clock(if random.once_in(2) { -off } else { off }), seconds(20, 80, random))
        }
    };
    Planned { number, after, what, replica, lasts }
}

fn weather(random: &mut Random) -> Weather {
    let slow = random.between(Duration::from_millis(50), Duration::from_millis(1500));
    random.weighted(&[
        (3, Weather::Cut),
        (2, Weather::CutUp),
        (3, Weather::CutDown),
        (2, Weather::Slow(slow)),
        (2, Weather::Reset),
        (2, Weather::HalfOpen),
        (1, Weather::Drip),
    ])
}

fn redis(random: &mut Random, choice: Choice) -> What {
    let (kill, stop, empty, loss) = (0, 1, 2, 3);
    let which = random.weighted(&[
        (4, kill),
        (2, stop),
        (if choice.sentinel || choice.empty { 2 } else { 0 }, empty),
        (if choice.sentinel { 2 } else { 0 }, loss),
    ]);
    match which {
        0 => What::RedisKill,
        1 => What::RedisStop,
        2 => What::RedisEmpty,
        _ => What::RedisSuffixLoss,
    }
}

fn authority(random: &mut Random) -> What {
    let millis = Duration::from_millis;
    let garbage = [
        Garbage::Html,
        Garbage::HtmlError,
        Garbage::NotJson,
        Garbage::TruncatedJson,
        Garbage::TrailingBytes,
        Garbage::DuplicateKeys,
        Garbage::HugeBody,
        Garbage::Empty,
    ];
    let times = u32::try_from(1 + random.below(20)).unwrap_or(1);
    let fault = match random.below(15) {
        0 => AuthorityFault::status_retry_after(429, 1 + random.below(5)),
        1 => AuthorityFault::status(429),
        2 => AuthorityFault::status(500),
        3 => AuthorityFault::status_retry_after(503, 1 + random.below(3)),
        4 => AuthorityFault::Hang(Some(random.between(millis(100), millis(6000)))),
        5 => AuthorityFault::DropBeforeProcessing,
        6 => AuthorityFault::DropAfterProcessing,
        7 => AuthorityFault::CutAnswer,
        8 => AuthorityFault::Garbage(garbage[random.index(garbage.len())]),
        9 => AuthorityFault::SlowDrip { bytes: 1 + random.index(200), interval: millis(20) },
        10 => AuthorityFault::Delay(random.between(millis(100), millis(3000))),
        11 => AuthorityFault::DelayAnswer(random.between(millis(100), millis(3000))),
        // Holds a connection off for minutes: one at a time.
        12 => return What::Authority(AuthorityFault::aadsts(50196), 1),
        13 => AuthorityFault::aadsts(if random.once_in(2) { 7_000_215 } else { 90033 }),
        _ => AuthorityFault::WrongUserIdToken("user-00000@tenant-0.example".to_owned()),
    };
    What::Authority(fault, times)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const ALL: Choice = Choice { replicas: 3, sentinel: true, clocks: true, empty: true };

    #[test]
    fn a_seed_is_a_plan() {
        let span = Duration::from_secs(60);
        assert_eq!(draw(7, 50, span, ALL, &[]), draw(7, 50, span, ALL, &[]));
        assert_ne!(draw(7, 50, span, ALL, &[]), draw(8, 50, span, ALL, &[]));
        assert!(draw(7, 50, span, ALL, &[]).iter().all(|fault| fault.after <= span && fault.replica < 3));
    }

    #[test]
    fn a_plan_can_be_of_some_kinds_only() {
        let only = ["redis_".to_owned(), "daemon_kill".to_owned()];
        let plan = draw(7, 50, Duration::from_secs(1), ALL, &only);
        assert_eq!(plan.len(), 50);
        assert!(plan.iter().all(|fault| only.iter().any(|kind| fault.kind().starts_with(kind))));
        assert!(draw(7, 5, Duration::ZERO, ALL, &["no_such_kind".to_owned()]).is_empty());
    }

    #[test]
    fn every_kind_comes_up_and_none_that_cannot_be_made() {
        let kinds = |choice| -> BTreeSet<String> {
            draw(1, 5000, Duration::from_secs(1), choice, &[]).iter().map(Planned::kind).collect()
        };
        let all = kinds(ALL);
        for kind in [
            "daemon_kill",
            "daemon_stop",
            "daemon_stop_beyond_lease",
            "store_link_cut",
            "store_link_cut_beyond_cache",
            "authority_link_half_open",
            "redis_suffix_loss",
            "redis_empty",
            "authority_429",
            "authority_hang",
            "authority_drop_after_processing",
            "authority_garbage_duplicate_keys",
            "authority_aadsts_50196",
            "authority_wrong_user_id_token",
            "clock_back",
        ] {
            assert!(all.contains(kind), "{kind} is not among {all:?}");
        }
        let few = kinds(Choice { sentinel: false, clocks: false, empty: false, ..ALL });
        assert!(few.iter().all(|kind| !kind.starts_with("clock") && kind != "redis_empty"), "{few:?}");
    }
}
