//! How much all connections of a listener may hold, in number and in bytes, and who gives way when that is used up.
//!
//! A connection costs what [`PER_CONNECTION`] says, and the first [`OWN_BYTES`] of heads, bodies and answers are in that: what
//! an ordinary request needs is always there. Whatever a connection holds beyond it comes out of one budget of the listener.
//!
//! Where connections or bytes are used up, nobody new is turned away while somebody waits for his client: **of the peer that
//! has most, the connection that has waited longest gives way.** So a peer that stalls connections loses those and takes
//! nobody else's place; and behind a proxy, where everybody is one peer, what stalls is older than what is on its way.
//! A connection that waits for us (its request is being worked on) is never cut.

use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::tcp::MOST_AT_ONCE;
use super::{Limits, Origin};
use crate::telemetry::metrics::ConnectionRefusal;

/// What a connection may hold without asking: an ordinary head with its body, or a token's answer.
pub const OWN_BYTES: usize = 4 * 1024;
/// What one connection costs at the most, without what comes out of the budget: three buffers of hyper (what it reads into, the
/// one before that a request still lies in, what it writes from), its state and ours, and [`OWN_BYTES`]. With TLS as much again,
/// and what [`IN_KERNEL`] is; there half as many connections are taken.
pub const PER_CONNECTION: usize = 3 * BUFFER + 8 * 1024 + OWN_BYTES;
/// A buffer of hyper, as long as no read fills it and no head needs a larger one (which comes out of the budget).
pub(super) const BUFFER: usize = 8 * 1024;
/// What a socket is told to keep of what the listener has not read, and of what the client has not taken. The kernel doubles both.
/// More does nothing for requests and answers of the usual size, and would count against the memory limit of a container.
pub(super) const SOCKET_BUFFER: usize = 8 * 1024;
/// What the kernel keeps at the most of what was not read: a whole request of the usual size.
pub(super) const RECEIVED: usize = 2 * SOCKET_BUFFER;
/// What it keeps at the most of what the client has not taken. [`tcp`](super::tcp) says why, and what was measured.
pub(super) const UNSENT: usize = 2 * SOCKET_BUFFER + MOST_AT_ONCE;
/// What one connection costs in the kernel at the most, with its socket, descriptor and what waits for it.
pub const IN_KERNEL: usize = RECEIVED + UNSENT + 4 * 1024;
/// One connection in so many may have been told to give way and not be gone yet.
pub(super) const LEAVING: usize = 16;
/// Whoever has waited for so long goes with those that have to, so that not every newcomer looks through all.
const LONG: Duration = Duration::from_secs(1);
/// That many of them at the most, as a part of all: one in …
const ALSO: usize = 64;

/// The room of one listener, or of several that share it.
#[derive(Debug)]
pub struct Room {
    max_connections: usize,
    max_per_peer: usize,
    max_held: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Those that count: neither gone nor told to go.
    seats: HashMap<u64, Arc<Seat>>,
    peers: HashMap<PeerKey, Used>,
    /// Told to go, and not gone.
    leaving: usize,
    held: usize,
}

#[derive(Debug, Default, Clone, Copy)]
struct Used {
    connections: usize,
    held: usize,
}

/// One connection, as the room sees it.
#[derive(Debug)]
struct Seat {
    peer: PeerKey,
    /// Milliseconds of the monotonic clock, and 1, since when it waits for its client; 0 while its client waits for us.
    waiting: AtomicU64,
    /// What it has of the budget. Changed under the room's lock only.
    held: AtomicU64,
    told: AtomicBool,
    tell: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum PeerKey {
    Uid(u32),
    Ip(IpAddr),
}

impl PeerKey {
    fn of(origin: Origin) -> Self {
        match origin {
            Origin::Unix { uid, .. } => PeerKey::Uid(uid),
            Origin::Tcp(address) => PeerKey::Ip(match address.ip().to_canonical() {
                IpAddr::V4(ip) => IpAddr::V4(ip),
                // Whoever has one address of a /64 has them all.
                IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
            }),
        }
    }
}

/// What is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Short {
    Connections,
    Bytes,
}

impl Room {
    /// A room as large as the limits say.
    pub fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Room {
            max_connections: limits.max_connections,
            max_per_peer: limits.max_connections_per_peer,
            max_held: limits.max_held,
            state: Mutex::default(),
        })
    }

    /// A place for a connection that was just accepted.
    pub(super) fn take(self: &Arc<Self>, origin: Origin, now: Duration) -> Result<Place, ConnectionRefusal> {
        let peer = PeerKey::of(origin);
        let mut state = self.state();
        let of_peer = state.peers.get(&peer).map_or(0, |used| used.connections);
        if of_peer >= self.max_per_peer && !self.make_room(&mut state, Short::Connections, 1, Some(peer), now)
        {
            return Err(ConnectionRefusal::PeerFull);
        }
        if state.seats.len() >= self.max_connections
            && !self.make_room(&mut state, Short::Connections, 1, None, now)
        {
            return Err(ConnectionRefusal::ListenerFull);
        }
        state.next += 1;
        let id = state.next;
        let seat = Arc::new(Seat {
            peer,
            waiting: AtomicU64::new(stamp(now)),
            held: AtomicU64::new(0),
            told: AtomicBool::new(false),
            tell: Notify::new(),
        });
        state.seats.insert(id, Arc::clone(&seat));
        state.peers.entry(peer).or_default().connections += 1;
        Ok(Place { room: Arc::clone(self), id, seat })
    }

    /// Tells as many connections to go as are needed for `needed` more connections or bytes; whether that was enough.
    fn make_room(
        &self,
        state: &mut State,
        short: Short,
        needed: usize,
        of: Option<PeerKey>,
        now: Duration,
    ) -> bool {
        let most_leaving = (self.max_connections / LEAVING).max(1);
        let amount = |used: &Used| match short {
            Short::Connections => used.connections,
            Short::Bytes => used.held,
        };
        let mut waiting: Vec<(std::cmp::Reverse<usize>, u64, u64)> = state
            .seats
            .iter()
            .filter(|(_, seat)| of.is_none_or(|peer| peer == seat.peer))
            .filter(|(_, seat)| short == Short::Connections || seat.held() > 0)
            .filter_map(|(id, seat)| {
                let since = seat.waiting.load(Ordering::Relaxed);
                let of_peer = state.peers.get(&seat.peer).map_or(0, amount);
                (since > 0).then_some((std::cmp::Reverse(of_peer), since, *id))
            })
            .collect();
        waiting.sort_unstable();
        let long_ago = stamp(now.saturating_sub(LONG));
        let (mut gained, mut also) = (0, 0);
        for (_, since, id) in waiting {
            if gained >= needed {
                also += 1;
                if since >= long_ago || also > self.max_connections / ALSO {
                    break;
                }
            }
            if state.leaving >= most_leaving {
                break;
            }
            gained += match short {
                Short::Connections => 1,
                Short::Bytes => state.seats.get(&id).map_or(0, |seat| seat.held()),
            };
            state.dismiss(id);
        }
        gained >= needed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    /// Tells a connection to go; it counts no longer.
    fn dismiss(&mut self, id: u64) {
        if let Some(seat) = self.remove(id) {
            self.leaving += 1;
            seat.told.store(true, Ordering::Release);
            seat.tell.notify_one();
        }
    }

    fn remove(&mut self, id: u64) -> Option<Arc<Seat>> {
        let seat = self.seats.remove(&id)?;
        let held = seat.held();
        self.held -= held;
        if let Entry::Occupied(mut of_peer) = self.peers.entry(seat.peer) {
            let used = of_peer.get_mut();
            used.held -= held;
            used.connections -= 1;
            if used.connections == 0 {
                of_peer.remove();
            }
        }
        Some(seat)
    }
}

impl Seat {
    fn held(&self) -> usize {
        usize::try_from(self.held.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }
}

/// A moment as a seat keeps it: never 0.
fn stamp(now: Duration) -> u64 {
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX - 1) + 1
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    room: Arc<Room>,
    id: u64,
    seat: Arc<Seat>,
}

impl Place {
    /// From now on it waits for its client.
    pub(super) fn waits(&self, now: Duration) {
        self.seat.waiting.store(stamp(now), Ordering::Relaxed);
    }

    /// From now on its client waits for us.
    pub(super) fn works(&self) {
        self.seat.waiting.store(0, Ordering::Relaxed);
    }

    /// Whether it has nothing of the budget.
    pub(super) fn holds_its_own(&self) -> bool {
        self.seat.held() == 0
    }

    /// It holds so many bytes now, its own among them; whether there is room for them.
    pub(super) fn hold(&self, bytes: usize, now: Duration) -> bool {
        let over = bytes.saturating_sub(OWN_BYTES);
        let before = self.seat.held();
        if over == before {
            return true;
        }
        let mut state = self.room.state();
        // One that was told to go has given back what it had, and gets no more.
        if self.is_told() {
            return over < before;
        }
        let more = over.saturating_sub(before);
        if more > 0 {
            // No peer has more than half of it for good, for what is being worked on cannot be taken from him.
            let half = self.room.max_held / 2;
            let of_peer = state.peers.get(&self.seat.peer).map_or(0, |used| used.held);
            let above_half = (of_peer + more).saturating_sub(half);
            if above_half > 0
                && !self.room.make_room(&mut state, Short::Bytes, above_half, Some(self.seat.peer), now)
            {
                return false;
            }
            let above_all = (state.held + more).saturating_sub(self.room.max_held);
            if above_all > 0 && !self.room.make_room(&mut state, Short::Bytes, above_all, None, now) {
                return false;
            }
            if self.is_told() {
                return false;
            }
        }
        state.held = state.held - before + over;
        if let Some(used) = state.peers.get_mut(&self.seat.peer) {
            used.held = used.held - before + over;
        }
        self.seat.held.store(over as u64, Ordering::Relaxed);
        true
    }

    /// Whether it was told to go.
    pub(super) fn is_told(&self) -> bool {
        self.seat.told.load(Ordering::Acquire)
    }

    /// Ends when it is told to go. For one who waits.
    pub(super) fn told(&self) -> impl Future<Output = ()> + '_ {
        self.seat.tell.notified()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.room.state();
        if state.remove(self.id).is_none() {
            state.leaving -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(last: u8) -> Origin {
        Origin::Tcp(([10, 0, 0, last], 1).into())
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn room(max_connections: usize, max_connections_per_peer: usize, max_held: usize) -> Arc<Room> {
        Room::new(&Limits { max_connections, max_connections_per_peer, max_held, ..Limits::default() })
    }

    #[test]
    fn one_peer_is_an_address_a_network_of_ipv6_or_a_user() {
        let tcp = |text: &str| PeerKey::of(Origin::Tcp(text.parse().expect("an address")));
        assert_eq!(tcp("10.0.0.1:1"), tcp("10.0.0.1:2"));
        assert_eq!(tcp("10.0.0.1:1"), tcp("[::ffff:10.0.0.1]:2"));
        assert_ne!(tcp("10.0.0.1:1"), tcp("10.0.0.2:1"));
        assert_eq!(tcp("[2001:db8::1]:1"), tcp("[2001:db8::ffff:2]:1"));
        assert_ne!(tcp("[2001:db8::1]:1"), tcp("[2001:db8:0:1::1]:1"));
        let unix = |uid, pid| PeerKey::of(Origin::Unix { uid, gid: 1, pid: Some(pid) });
        assert_eq!(unix(1, 1), unix(1, 2));
        assert_ne!(unix(1, 1), unix(2, 1));
    }

    #[test]
    fn of_the_peer_with_most_connections_the_one_that_waited_longest_gives_way() {
        let room = room(4, 4, 0);
        let honest = room.take(tcp(1), at(0)).expect("a place");
        let mut stalled: Vec<_> =
            (1..4).map(|second| room.take(tcp(2), at(second)).expect("a place")).collect();
        // The oldest of all is somebody else's, and stays.
        let newcomer = room.take(tcp(3), at(4)).expect("a place");
        assert!(stalled[0].is_told() && !stalled[1].is_told() && !honest.is_told());
        // Nobody else is taken in before that one is gone: so many more would be here.
        assert_eq!(room.take(tcp(4), at(4)).expect_err("full"), ConnectionRefusal::ListenerFull);
        drop(stalled.remove(0));
        let _another = room.take(tcp(4), at(4)).expect("a place");
        assert!(stalled[0].is_told() && !honest.is_told() && !newcomer.is_told());
    }

    #[test]
    fn who_is_being_answered_stays_and_then_the_newcomer_is_refused() {
        let room = room(2, 1, 0);
        let (first, second) = (room.take(tcp(1), at(0)).expect("a"), room.take(tcp(2), at(0)).expect("b"));
        first.works();
        second.works();
        assert_eq!(room.take(tcp(1), at(9)).expect_err("peer"), ConnectionRefusal::PeerFull);
        assert_eq!(room.take(tcp(3), at(9)).expect_err("all"), ConnectionRefusal::ListenerFull);
        second.waits(at(9));
        drop(room.take(tcp(3), at(9)).expect("a place"));
        assert!(second.is_told() && !first.is_told());
        assert_eq!(room.state().leaving, 1);
        drop((first, second));
        let state = room.state();
        assert_eq!((state.seats.len(), state.peers.len(), state.leaving, state.held), (0, 0, 0, 0));
    }

    #[test]
    fn the_first_bytes_are_everybodys_own_and_the_rest_is_one_budget() {
        let room = room(64, 64, 8000);
        let place = |last, second| room.take(tcp(last), at(second)).expect("a place");
        let slow = place(1, 0);
        assert!(slow.hold(OWN_BYTES + 1000, at(0)), "an honest user on a slow line");
        let first = place(2, 1);
        let second = place(2, 2);
        assert!(first.hold(OWN_BYTES + 3000, at(1)) && second.hold(OWN_BYTES + 1000, at(2)));
        // Half of it is the most that one peer has: its own oldest goes.
        let third = place(2, 3);
        assert!(third.hold(OWN_BYTES + 2000, at(3)));
        assert!(first.is_told() && !second.is_told() && !slow.is_told());
        assert!(!first.hold(OWN_BYTES + 3001, at(3)), "and gets no more");
        // What is worked on is not taken away; then the newcomer is refused, and keeps what he has.
        second.works();
        third.works();
        let fourth = place(2, 4);
        assert!(fourth.hold(OWN_BYTES, at(4)) && fourth.hold(OWN_BYTES + 1000, at(4)));
        fourth.works();
        assert!(!fourth.hold(OWN_BYTES + 1001, at(4)) && !fourth.is_told());
        assert_eq!(room.state().held, 1000 + 1000 + 2000 + 1000);
        assert!(fourth.hold(0, at(5)) && fourth.hold(OWN_BYTES + 500, at(5)));
        drop((slow, first, second, third, fourth));
        assert_eq!(room.state().held, 0);
    }

    #[test]
    fn a_peer_that_only_stalls_cuts_its_own_and_goes_on_so_for_ever() {
        let room = room(1024, 512, 64 * 1024);
        let honest = room.take(tcp(1), at(0)).expect("a place");
        assert!(honest.hold(OWN_BYTES + 1, at(0)));
        let mut open: Vec<Place> = Vec::new();
        for second in 1..2000 {
            open.retain(|place| !place.is_told());
            let place = room.take(tcp(2), at(second)).expect("always a place");
            assert!(place.hold(OWN_BYTES + 12_000, at(second)), "{second}");
            open.push(place);
            assert!(room.state().held <= room.max_held && !honest.is_told());
        }
        assert!(open.len() <= 3);
    }
}
