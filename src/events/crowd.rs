//! Limits on what is logged about unauthenticated requests. Strangers can send as many as they like, from as
//! many addresses as they have, so their log and audit lines are bounded. A summary names the peers that sent
//! most, so that a busy stranger hides nobody else.
//!
//! Invariants:
//! 1. Every event is reported exactly once, either alone or in a summary.
//! 2. All kinds together cause less than 384 KiB of audit a minute, however many events come.
//! 3. Memory is bounded: a fixed number of peers for each kind, and a closed set of kinds.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::strangers::Kind;
use crate::domain::time::Timestamp;
use crate::listener::Origin;
use crate::telemetry::audit::AuditEvent;

/// Events of one kind that are reported one by one in a burst: enough to see what they are.
const AT_ONCE: u32 = 10;
/// After a burst, one event of a kind is reported in this time.
const EVERY: Duration = Duration::from_secs(6);
/// Least time between two summaries of a kind.
const SUM_EVERY: Duration = Duration::from_secs(10);
/// Peers that are counted one by one for a summary. A peer that sent more than a 64th of the events is always
/// among them.
const PEERS: usize = 64;
/// Peers that a summary names.
const NAMED: usize = 5;

/// Events already reported, for each kind of stranger.
#[derive(Debug, Default)]
pub(super) struct Crowd(Mutex<BTreeMap<Kind, Seen>>);

/// One summary line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) kind: Kind,
    pub(super) suppressed: u64,
    /// Number of peers; a text, because there may be too many to count.
    pub(super) peers: String,
    /// The peers that sent most, with a lower bound of their events.
    pub(super) most: String,
}

#[derive(Debug)]
struct Seen {
    left_to_tell: u32,
    filled_at: Duration,
    summed_at: Option<Duration>,
    left_out: u64,
    peers: Peers,
}

impl Crowd {
    /// Returns true if this event is reported alone; otherwise the next summary includes it.
    pub(super) fn is_told(&self, kind: Kind, origin: Origin, monotonic: Duration) -> bool {
        let mut kinds = self.lock();
        let seen = kinds.entry(kind).or_insert_with(|| Seen::new(monotonic));
        seen.fill(monotonic);
        if seen.left_to_tell > 0 {
            seen.left_to_tell -= 1;
            return true;
        }
        seen.leave_out(origin);
        false
    }

    /// Counts an event for the summary that could not be reported alone.
    pub(super) fn leave_out(&self, kind: Kind, origin: Origin, monotonic: Duration) {
        self.lock().entry(kind).or_insert_with(|| Seen::new(monotonic)).leave_out(origin);
    }

    /// Returns the summaries that are due, or all of them.
    pub(super) fn sums(&self, monotonic: Duration, all: bool) -> Vec<Sum> {
        let mut kinds = self.lock();
        let is_due = |seen: &Seen| {
            let waited = seen.summed_at.map(|at| monotonic.saturating_sub(at));
            seen.left_out > 0 && (all || waited.is_none_or(|waited| waited >= SUM_EVERY))
        };
        let due = kinds.iter_mut().filter(|(_, seen)| is_due(seen));
        due.map(|(kind, seen)| {
            seen.summed_at = Some(monotonic);
            let peers = std::mem::take(&mut seen.peers);
            Sum {
                kind: *kind,
                suppressed: std::mem::take(&mut seen.left_out),
                peers: peers.number(),
                most: peers.most(),
            }
        })
        .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Kind, Seen>> {
        self.0.lock()
    }
}

impl Sum {
    /// Makes its audit record.
    pub(super) fn record(&self, at: Timestamp) -> AuditEvent {
        let mut event = self.kind.record(at);
        event.suppressed = Some(self.suppressed);
        event.detail.insert("peers", self.peers.clone());
        event.detail.insert("most", self.most.clone());
        event
    }
}

impl Seen {
    fn new(monotonic: Duration) -> Self {
        Seen {
            left_to_tell: AT_ONCE,
            filled_at: monotonic,
            summed_at: None,
            left_out: 0,
            peers: Peers::default(),
        }
    }

    fn fill(&mut self, monotonic: Duration) {
        let periods = monotonic.saturating_sub(self.filled_at).as_secs() / EVERY.as_secs();
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        if periods >= AT_ONCE - self.left_to_tell {
            (self.left_to_tell, self.filled_at) = (AT_ONCE, monotonic);
        } else {
            self.left_to_tell += periods;
            self.filled_at += EVERY * periods;
        }
    }

    fn leave_out(&mut self, origin: Origin) {
        self.left_out += 1;
        self.peers.add(Peer::from(origin));
    }
}

/// The part of an origin that tells peers apart. Within one IPv6 network a stranger can have billions of
/// addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Peer {
    User(u32),
    Address(IpAddr),
    /// The first 64 bits.
    Network([u16; 4]),
}

impl From<Origin> for Peer {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Unix { uid, .. } => Peer::User(uid),
            Origin::Tcp(address) => match address.ip().to_canonical() {
                IpAddr::V6(ip) if !ip.is_loopback() => {
                    let [a, b, c, d, ..] = ip.segments();
                    Peer::Network([a, b, c, d])
                }
                ip => Peer::Address(ip),
            },
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::User(uid) => write!(f, "uid {uid}"),
            Peer::Address(ip) => ip.fmt(f),
            Peer::Network([a, b, c, d]) => {
                write!(f, "{}/64", std::net::Ipv6Addr::new(*a, *b, *c, *d, 0, 0, 0, 0))
            }
        }
    }
}

/// The most frequent peers (Metwally's *space saving*). If there is no room, a new peer replaces the least
/// frequent one, inherits its count, and remembers how much of it was inherited.
#[derive(Debug, Default)]
struct Peers {
    counts: BTreeMap<Peer, Count>,
    had_no_room: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    at_most: u64,
    inherited: u64,
}

impl Peers {
    fn add(&mut self, peer: Peer) {
        if let Some(count) = self.counts.get_mut(&peer) {
            count.at_most += 1;
            return;
        }
        let mut inherited = 0;
        if self.counts.len() >= PEERS
            && let Some((least, count)) = self.counts.iter().min_by_key(|(_, count)| count.at_most)
        {
            (inherited, self.had_no_room) = (count.at_most, true);
            let least = *least;
            self.counts.remove(&least);
        }
        self.counts.insert(peer, Count { at_most: inherited + 1, inherited });
    }

    fn number(&self) -> String {
        match self.had_no_room {
            true => format!("more than {PEERS}"),
            false => self.counts.len().to_string(),
        }
    }

    fn most(&self) -> String {
        let mut counts: Vec<_> =
            self.counts.iter().map(|(peer, count)| (count.at_most - count.inherited, peer)).collect();
        counts.sort_unstable_by(|(a, one), (b, other)| b.cmp(a).then(one.cmp(other)));
        let named = counts.iter().take(NAMED).map(|(times, peer)| format!("{peer} ({times})"));
        named.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::{Ipv6Addr, SocketAddr};

    use super::*;
    use crate::domain::id::AppName;
    use crate::events::{Listener, Stranger};
    use crate::listener::RequestId;
    use crate::telemetry::audit::Action;

    const KIND: Kind = Kind { stranger: Stranger::UnknownState, listener: Listener::Public };

    fn from(address: &str) -> Origin {
        Origin::Tcp(SocketAddr::new(address.parse().expect("an address"), 1))
    }

    /// An origin in a network of its own, with the longest possible address.
    fn one_of_many(number: u64) -> Origin {
        let ip = Ipv6Addr::from_bits((0xfdff_ffff_0000_0000 | u128::from(number)) << 64 | 0xffff_ffff);
        Origin::Tcp(SocketAddr::new(ip.into(), 65_535))
    }

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    /// All possible kinds: browsers at their listener, the others at the callers' and operators' listeners.
    fn kinds() -> BTreeSet<Kind> {
        let at = Timestamp::from_unix_millis(0);
        let of_each = Stranger::all().flat_map(move |stranger| {
            let of_callers = Kind::of(stranger, Listener::Local).record(at).action == Action::Refused;
            let listeners: &[Listener] =
                if of_callers { &[Listener::Local, Listener::Admin] } else { &[Listener::Public] };
            listeners.iter().map(move |listener| Kind::of(stranger, *listener))
        });
        of_each.collect()
    }

    #[test]
    fn the_first_are_told_then_some_and_the_rest_is_in_sums() {
        let crowd = Crowd::default();
        let told = |at| (0..100).filter(|_| crowd.is_told(KIND, from("203.0.113.9"), seconds(at))).count();
        assert_eq!((told(100), told(101), told(106), told(119)), (10, 0, 1, 2));
        let (kind, suppressed) = (KIND, 387);
        let (peers, most) = ("1".to_owned(), "203.0.113.9 (387)".to_owned());
        assert_eq!(crowd.sums(seconds(119), false), [Sum { kind, suppressed, peers, most }]);
        crowd.leave_out(KIND, from("203.0.113.9"), seconds(120));
        assert_eq!(crowd.sums(seconds(120), false), [], "not yet");
        assert_eq!(crowd.sums(seconds(120), true).len(), 1, "but for the end");
        assert_eq!(crowd.sums(seconds(200), true), [], "nothing is told twice");
        assert_eq!(told(10_000), 10);
    }

    #[test]
    fn whoever_comes_from_many_places_hides_nobody_who_comes_often() {
        let crowd = Crowd::default();
        for number in 0..10_000 {
            crowd.leave_out(KIND, one_of_many(number), seconds(1));
            if number % 20 == 0 {
                crowd.leave_out(KIND, from("::ffff:203.0.113.9"), seconds(1));
                crowd.leave_out(KIND, Origin::Unix { uid: 7, gid: 7, pid: None }, seconds(1));
            }
        }
        // And a peer that arrives late, when there is no room any more.
        for number in 10_000..11_000 {
            crowd.leave_out(KIND, one_of_many(number), seconds(1));
            crowd.leave_out(KIND, from("198.51.100.2"), seconds(1));
        }
        assert_eq!(crowd.lock()[&KIND].peers.counts.len(), PEERS, "no more than that is kept");
        let sum = &crowd.sums(seconds(1), false)[0];
        assert_eq!((sum.suppressed, sum.peers.as_str()), (13_000, "more than 64"));
        let named: Vec<&str> = sum.most.split(", ").collect();
        assert_eq!(named[..3], ["198.51.100.2 (1000)", "uid 7 (500)", "203.0.113.9 (500)"]);
        assert_eq!(named.len(), NAMED);
        assert!(named[3].starts_with("fdff:ffff:0:") && named[3].ends_with("::/64 (1)"), "{named:?}");
    }

    #[test]
    fn strangers_of_all_kinds_write_less_than_384_kib_a_minute() {
        /// What the writer adds to each line: its number and its chain value.
        const ADDED: usize = 120;
        let crowd = Crowd::default();
        let id = RequestId::new(&crate::system::SystemRandom::new());
        let at = Timestamp::from_unix_millis(1_795_392_083_250);
        let mut number = 0;
        for minute in 0..3 {
            let (mut bytes, mut told) = (0, 0);
            for second in 0..60 {
                let now = seconds(minute * 60 + second);
                for kind in kinds() {
                    for _ in 0..200 {
                        number += 1;
                        let origin = one_of_many(number);
                        if crowd.is_told(kind, origin, now) {
                            let mut event = kind.record(at).from_request(origin, &id);
                            event.app = AppName::parse(&"a".repeat(64)).ok();
                            bytes += serde_json::to_vec(&event).expect("JSON").len() + ADDED;
                            told += 1;
                        }
                    }
                }
                for sum in crowd.sums(now, false) {
                    bytes += serde_json::to_vec(&sum.record(at)).expect("JSON").len() + ADDED;
                    told += 1;
                }
            }
            assert!(bytes < 384 * 1024 && told > 100, "minute {minute}: {bytes} bytes in {told} lines");
        }
    }
}
