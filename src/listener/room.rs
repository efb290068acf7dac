//! Limits on the number and bytes of a listener's connections, and the choice of the one that gives way when
//! they are reached.
//!
//! [`PER_CONNECTION`] is the cost of a connection. It includes the first [`OWN_BYTES`] of heads, bodies and
//! answers, so that there is always enough for an ordinary request. Further bytes come out of one budget of
//! the listener.
//!
//! When connections or bytes run out, no newcomer is turned away while another connection waits for its
//! client: **of the peer that has most, the connection that has waited longest gives way.** A peer that
//! stalls connections therefore loses those and takes nobody else's place. Behind a proxy all clients are one
//! peer, and there the stalled connections are older than the active ones. A connection that waits for us
//! (its request is being processed, or its answer is a stream) is never cut. So at most half of all places,
//! and half of one peer's, may have a stream.
//!
//! A connection that passes on a long body becomes **wide**, if there is room for that: it reads and writes
//! `LARGE_PART` at once in place of [`BUFFER`], and the kernel keeps as much for it. It stays so until its
//! end, since a kernel that has told a client to send more takes nothing of that back. Some are wide at a
//! time, and the others pass bodies on in small parts.

use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::tcp::{LARGE_PART, MOST_AT_ONCE};
use super::{Limits, Origin};
use crate::telemetry::metrics::ConnectionRefusal;

/// Bytes that every connection may hold: enough for an ordinary head with its body, or for the answer with a
/// token.
pub const OWN_BYTES: usize = 4 * 1024;
/// Most that one connection costs, without its part of the budget: three of hyper's buffers (the one it reads
/// into, the previous one if it still has a request, the one it writes from), hyper's state and ours, and
/// [`OWN_BYTES`]. A connection with TLS costs twice this and [`IN_KERNEL`], so only half as many are
/// accepted.
pub const PER_CONNECTION: usize = 3 * BUFFER + 8 * 1024 + OWN_BYTES;
/// Size of one of hyper's buffers, unless a read fills it or a head needs a larger one (which comes out of
/// the budget).
pub(super) const BUFFER: usize = 8 * 1024;
/// Socket buffer size that is set for received and for unsent data. The kernel doubles both. More would not
/// help ordinary requests and answers, and would count against a container's memory limit.
pub(super) const SOCKET_BUFFER: usize = 8 * 1024;
/// Most unread data in the kernel: an ordinary request fits.
pub(super) const RECEIVED: usize = 2 * SOCKET_BUFFER;
/// Most unsent data in the kernel. [`tcp`](super::tcp) gives the reason and the measurements.
pub(super) const UNSENT: usize = 2 * SOCKET_BUFFER + MOST_AT_ONCE;
/// Most that one connection costs in the kernel, with its socket, descriptor and queues.
pub const IN_KERNEL: usize = RECEIVED + UNSENT + 4 * 1024;
/// One in this many connections may be leaving: told to give way, and not gone yet.
pub(super) const LEAVING: usize = 16;
/// Connections that have waited this long leave together with those that must, so that not every newcomer
/// searches the whole list.
const LONG: Duration = Duration::from_secs(1);
/// The most of them, as a fraction of all connections: one in …
const ALSO: usize = 64;

/// Most that a connection costs more once it is wide: hyper's buffers for reading and writing, the part of an
/// answer that waits for the client, and the kernel's for received data (twice `LARGE_PART`) and for unsent
/// data (three times).
pub const PER_WIDE: usize = (1 + 1 + 1 + 2 + 3) * LARGE_PART;

/// The room of one listener, or of several that share it.
#[derive(Debug)]
pub struct Room {
    max_connections: usize,
    max_per_peer: usize,
    max_held: usize,
    max_wide: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Counted connections: neither gone nor leaving.
    seats: HashMap<u64, Arc<Seat>>,
    peers: HashMap<PeerKey, Used>,
    /// Number of connections that were told to leave and are not gone.
    leaving: usize,
    held: usize,
    /// Number of connections that are wide.
    wide: usize,
    /// Streams of each peer that has one.
    streams: HashMap<PeerKey, usize>,
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
    /// Since when it has waited for its client, in milliseconds of the monotonic clock plus 1; 0 while its
    /// client waits for us.
    waiting: AtomicU64,
    /// Its part of the budget. Changed only under the room's lock.
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
                // The holder of one address of a /64 has them all.
                IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
            }),
        }
    }
}

/// The resource that ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Short {
    Connections,
    Bytes,
}

impl Room {
    /// Makes a room as large as the limits say.
    pub fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Room {
            max_connections: limits.max_connections,
            max_per_peer: limits.max_connections_per_peer,
            max_held: limits.max_held,
            max_wide: limits.max_wide,
            state: Mutex::default(),
        })
    }

    /// Reserves a place for an accepted connection.
    pub(super) fn take(
        self: &Arc<Self>,
        origin: Origin,
        now: Duration,
    ) -> Result<Reservation, ConnectionRefusal> {
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
        Ok(Reservation { room: Arc::clone(self), id, seat, is_wide: AtomicBool::new(false) })
    }

    /// Takes a place for a stream. `None` if there are as many as there may be.
    pub(super) fn stream(self: &Arc<Self>, origin: Origin) -> Option<StreamSeat> {
        let peer = PeerKey::of(origin);
        let streams = &mut self.state().streams;
        let of_peer = streams.get(&peer).copied().unwrap_or(0);
        let all: usize = streams.values().sum();
        if of_peer >= self.max_per_peer / 2 || all >= self.max_connections / 2 {
            return None;
        }
        streams.insert(peer, of_peer + 1);
        Some(StreamSeat { room: Arc::clone(self), peer })
    }

    /// Returns the bytes that all connections hold beyond their own.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.state().held
    }

    /// Tells enough connections to leave to free `needed` connections or bytes. Returns true if that was
    /// possible.
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
    /// Tells a connection to leave; it no longer counts.
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

/// Converts an instant for a seat: never 0.
fn stamp(now: Duration) -> u64 {
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX - 1) + 1
}

/// The place of one stream, given back when dropped.
#[derive(Debug)]
pub(super) struct StreamSeat {
    room: Arc<Room>,
    peer: PeerKey,
}

impl Drop for StreamSeat {
    fn drop(&mut self) {
        let streams = &mut self.room.state().streams;
        if let Entry::Occupied(mut of_peer) = streams.entry(self.peer) {
            *of_peer.get_mut() -= 1;
            if *of_peer.get() == 0 {
                of_peer.remove();
            }
        }
    }
}

/// One connection's place, given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    room: Arc<Room>,
    id: u64,
    seat: Arc<Seat>,
    is_wide: AtomicBool,
}

impl Reservation {
    /// Returns its room.
    pub(super) fn room(&self) -> Arc<Room> {
        Arc::clone(&self.room)
    }

    /// Makes the connection wide until its end, if there is room for that. Returns true if it is wide.
    pub(super) fn widen(&self) -> bool {
        if self.is_wide() {
            return true;
        }
        let mut state = self.room.state();
        // (The body and its answer may ask at once: it counts once.)
        if self.is_wide() {
            return true;
        }
        let has_room = state.wide < self.room.max_wide;
        state.wide += usize::from(has_room);
        self.is_wide.store(has_room, Ordering::Relaxed);
        has_room
    }

    /// Returns true if it is wide.
    pub(super) fn is_wide(&self) -> bool {
        self.is_wide.load(Ordering::Relaxed)
    }

    /// Records that the connection waits for its client.
    pub(super) fn waits(&self, now: Duration) {
        self.seat.waiting.store(stamp(now), Ordering::Relaxed);
    }

    /// Records that the client waits for us.
    pub(super) fn works(&self) {
        self.seat.waiting.store(0, Ordering::Relaxed);
    }

    /// Returns true if it has no part of the budget.
    pub(super) fn holds_its_own(&self) -> bool {
        self.seat.held() == 0
    }

    /// Records that it holds this many bytes, including its own. Returns true if there is room for them.
    pub(super) fn hold(&self, bytes: usize, now: Duration) -> bool {
        let over = bytes.saturating_sub(OWN_BYTES);
        let before = self.seat.held();
        if over == before {
            return true;
        }
        let mut state = self.room.state();
        // A connection that was told to leave has given back its part, and gets no more.
        if self.is_told() {
            return over < before;
        }
        let more = over.saturating_sub(before);
        if more > 0 {
            // No peer permanently gets more than half of it, since memory of a request in progress cannot be
            // taken away.
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

    /// Returns true if it was told to leave.
    pub(super) fn is_told(&self) -> bool {
        self.seat.told.load(Ordering::Acquire)
    }

    /// Waits until it is told to leave.
    pub(super) fn told(&self) -> impl Future<Output = ()> + '_ {
        self.seat.tell.notified()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.room.state();
        state.wide -= usize::from(self.is_wide());
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

    /// A body and its answer ask at once.
    #[test]
    fn a_connection_takes_one_wide_place_however_many_ask_for_it() {
        for _ in 0..200 {
            let room = Room::new(&Limits { max_wide: 2, ..Limits::default() });
            let place = room.take(tcp(1), at(0)).expect("a place");
            let (both, held) = (std::sync::Barrier::new(3), room.state());
            std::thread::scope(|scope| {
                let asks = || {
                    both.wait();
                    place.widen()
                };
                let askers = [scope.spawn(asks), scope.spawn(asks)];
                both.wait();
                std::thread::yield_now();
                drop(held);
                assert!(askers.into_iter().all(|asker| asker.join().expect("no panic")));
            });
            assert_eq!(room.state().wide, 1);
            drop(place);
            assert_eq!(room.state().wide, 0);
        }
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
        // The oldest of all belongs to another peer, and stays.
        let newcomer = room.take(tcp(3), at(4)).expect("a place");
        assert!(stalled[0].is_told() && !stalled[1].is_told() && !honest.is_told());
        // No other newcomer is accepted before that one is gone: otherwise there would be too many.
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
        // One peer has at most half of it: its own oldest connection goes.
        let third = place(2, 3);
        assert!(third.hold(OWN_BYTES + 2000, at(3)));
        assert!(first.is_told() && !second.is_told() && !slow.is_told());
        assert!(!first.hold(OWN_BYTES + 3001, at(3)), "and gets no more");
        // Requests in progress keep their memory; the newcomer is refused, and keeps what it has.
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
        let mut open: Vec<Reservation> = Vec::new();
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
