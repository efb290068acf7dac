//! The activity of one HTTP/2 connection and the bytes that it keeps: what `pulse.rs` is for HTTP/1, for many
//! streams at once. Its parts report to it; its deadlines and the listener's room read it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use super::{MOST_OF_A_CLIENT, MOST_UNTAKEN, WINDOW};
use crate::domain::time::Clock;
use crate::listener::Limits;
use crate::listener::body::Keeper;
use crate::listener::pulse::SLOWEST;
use crate::listener::room::{OWN_BYTES, Reservation, Room};

/// What a connection must do next, and by when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Its client must send or take something: it is too slow otherwise.
    Client,
    /// Its client must begin a request: the connection is idle otherwise.
    Idle,
    /// It must go: nothing is under way any more, and the client was told.
    Gone,
}

/// The ledger of one connection.
pub(super) struct Ledger {
    clock: Arc<dyn Clock>,
    place: Reservation,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    kept: Kept,
    /// Requests that are being answered, and streams.
    open: usize,
    /// Those of them that wait for the client.
    waiting: usize,
    accepted: u64,
    /// Since when: the connection is open; nothing is under way; no request is; a frame has begun and not
    /// ended; the socket takes nothing.
    began: Duration,
    idle: Duration,
    rested: Duration,
    head: Option<Duration>,
    blocked: Option<Duration>,
    /// When the connection began to close.
    closes: Option<Duration>,
    next_answer: u64,
    /// Answers that the client has not taken yet: since when, and their lengths.
    untaken: BTreeMap<u64, (Duration, usize)>,
    /// Those that wait for a change.
    wakers: Vec<Waker>,
}

impl State {
    fn wakes(&mut self, cx: &Context<'_>) {
        if !self.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.wakers.push(cx.waker().clone());
        }
    }
}

/// Bytes in memory.
#[derive(Default, Clone, Copy)]
struct Kept {
    certificate: usize,
    /// A header block that has not ended.
    block: usize,
    heads: usize,
    bodies: usize,
    /// What may have come for bodies that nobody reads yet.
    unread: usize,
    answers: usize,
}

impl Kept {
    fn of_client(&self) -> usize {
        self.block + self.heads + self.bodies + self.unread.min(WINDOW)
    }

    fn all(&self) -> usize {
        self.certificate + self.of_client() + self.answers
    }
}

impl Ledger {
    pub(super) fn new(place: Reservation, clock: Arc<dyn Clock>) -> Self {
        let now = clock.monotonic();
        let state = State { began: now, idle: now, rested: now, ..State::default() };
        Ledger { clock, place, state: Mutex::new(state) }
    }

    /// Changes what is kept. Returns false, and changes nothing, if there is no room for more.
    fn keeps(&self, state: &mut State, change: impl FnOnce(&mut Kept)) -> bool {
        let mut kept = state.kept;
        change(&mut kept);
        let grows = kept.all() > state.kept.all();
        if grows && kept.of_client() > MOST_OF_A_CLIENT.max(state.kept.of_client()) {
            return false;
        }
        let fits = kept.all() <= OWN_BYTES && self.place.holds_its_own()
            || self.place.hold(kept.all(), self.clock.monotonic());
        if fits || !grows {
            state.kept = kept;
        }
        fits || !grows
    }

    /// Records the bytes kept for the client's certificates. Returns true if there is room for them.
    pub(super) fn certificate_kept(&self, bytes: usize) -> bool {
        self.keeps(&mut self.state.lock(), |kept| kept.certificate = bytes)
    }

    /// Records that bytes arrived, and how many of them are an unfinished header block. Returns true if there
    /// is room for it.
    pub(super) fn read(&self, is_unfinished: bool, block: usize) -> bool {
        let mut state = self.state.lock();
        state.head = is_unfinished.then(|| state.head.unwrap_or_else(|| self.clock.monotonic()));
        state.kept.block == 2 * block || self.keeps(&mut state, |kept| kept.block = 2 * block)
    }

    /// Records whether the socket takes what is written.
    pub(super) fn written(&self, is_all: bool) {
        let mut state = self.state.lock();
        state.blocked = match is_all {
            true => None,
            false => Some(state.blocked.unwrap_or_else(|| self.clock.monotonic())),
        };
    }

    /// Opens the account of a request that keeps this many bytes for its head, and may have this many of its
    /// body come before somebody reads them.
    pub(super) fn open(self: &Arc<Self>, head: usize, unread: usize) -> Account {
        let mut state = self.state.lock();
        state.accepted += 1;
        state.open += 1;
        let has_room = self.keeps(&mut state, |kept| {
            kept.heads += head;
            kept.unread += unread;
        });
        self.place.works();
        let (head, unread) = if has_room { (head, unread) } else { (0, 0) };
        drop(state);
        Account {
            ledger: Arc::clone(self),
            has_room,
            head,
            unread,
            body: AtomicUsize::new(0),
            is_waiting: AtomicBool::new(false),
        }
    }

    /// Returns how many requests were accepted.
    pub(super) fn accepted(&self) -> u64 {
        self.state.lock().accepted
    }

    /// Records an answer that the client must take from now on. `None` if there is no room for it.
    pub(super) fn answer(self: &Arc<Self>, bytes: usize) -> Option<Untaken> {
        let mut state = self.state.lock();
        if !self.keeps(&mut state, |kept| kept.answers += bytes) {
            return None;
        }
        state.next_answer += 1;
        let id = state.next_answer;
        state.untaken.insert(id, (self.clock.monotonic(), bytes));
        Some(Untaken { ledger: Arc::clone(self), id })
    }

    fn taken(&self, id: u64) {
        let mut state = self.state.lock();
        if let Some((_, bytes)) = state.untaken.remove(&id) {
            self.keeps(&mut state, |kept| kept.answers -= bytes);
        }
        self.rests(&mut state);
        self.wake(state);
    }

    /// Notes when nothing is under way any more.
    fn rests(&self, state: &mut State) {
        if state.open == state.waiting {
            self.place.waits(self.clock.monotonic());
        }
        if state.open == 0 {
            state.rested = self.clock.monotonic();
        }
        if state.open == 0 && state.untaken.is_empty() {
            state.idle = self.clock.monotonic();
        }
    }

    fn wake(&self, mut state: parking_lot::MutexGuard<'_, State>) {
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Has streams end, and bodies that are awaited, where others need the room.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        let now = self.clock.monotonic();
        state.closes.get_or_insert(now);
        self.wake(state);
    }

    /// Returns true if the connection is to close; wakes the one who asks when that, or what is taken,
    /// changes.
    pub(super) fn closes(&self, cx: &Context<'_>) -> bool {
        let mut state = self.state.lock();
        state.wakes(cx);
        state.closes.is_some()
    }

    /// Returns true while a request is being answered, or an answer waits for the client.
    pub(super) fn is_busy(&self) -> bool {
        let state = self.state.lock();
        state.open > 0 || !state.untaken.is_empty()
    }

    /// Returns true while a request is being answered.
    pub(super) fn is_answering(&self) -> bool {
        self.state.lock().open > 0
    }

    /// Returns true if the client has not taken all that it was sent.
    pub(super) fn is_untaken(&self) -> bool {
        let state = self.state.lock();
        !state.untaken.is_empty() || state.blocked.is_some()
    }

    /// Completes when the connection is told to give way to others.
    pub(super) fn told(&self) -> impl Future<Output = ()> + '_ {
        self.place.told()
    }

    /// Returns true if the connection must give way to others.
    pub(super) fn gives_way(&self) -> bool {
        self.place.is_told()
    }

    /// Returns the room of the connection.
    pub(super) fn room(&self) -> Arc<Room> {
        self.place.room()
    }

    /// Returns true while the socket takes nothing.
    pub(super) fn is_blocked(&self) -> bool {
        self.state.lock().blocked.is_some()
    }

    /// Returns the next deadline, and of what. A connection that closes goes when it has nothing more to do;
    /// one that gives way does not wait for its client either.
    pub(super) fn due(&self, limits: &Limits, leave: Duration, gives_way: bool) -> Option<(Duration, Due)> {
        let state = self.state.lock();
        let is_idle = state.open == 0 && state.untaken.is_empty();
        let oldest = state.untaken.values().next().map(|(since, _)| {
            let more = state.kept.answers as u64 * 1000 / SLOWEST as u64;
            *since + limits.answer_taken + Duration::from_millis(more)
        });
        let never_asked = (state.accepted == 0).then(|| state.began + limits.first_byte);
        let idle = (is_idle && state.accepted > 0).then(|| state.idle + limits.idle);
        let is_done = is_idle || gives_way && state.open == 0;
        let rested = if gives_way { state.rested } else { state.idle };
        let gone = state.closes.filter(|_| is_done).map(|since| since.max(rested) + leave);
        [
            (never_asked, Due::Client),
            (state.head.map(|since| since + limits.header_read), Due::Client),
            (state.blocked.map(|since| since + limits.answer_taken), Due::Client),
            (oldest, Due::Client),
            (idle, Due::Idle),
            (gone, Due::Gone),
        ]
        .into_iter()
        .filter_map(|(at, due)| Some((at?, due)))
        .min_by_key(|(at, _)| *at)
    }
}

/// An answer, or a part of one, until the client has taken it.
pub(super) struct Untaken {
    ledger: Arc<Ledger>,
    id: u64,
}

impl Drop for Untaken {
    fn drop(&mut self) {
        self.ledger.taken(self.id);
    }
}

/// One request's part of the ledger, given back when it is dropped.
pub(super) struct Account {
    ledger: Arc<Ledger>,
    has_room: bool,
    head: usize,
    unread: usize,
    body: AtomicUsize,
    is_waiting: AtomicBool,
}

impl Account {
    /// Returns true if there is room for its head.
    pub(super) fn has_room(&self) -> bool {
        self.has_room
    }

    /// Waits until the client has taken most of the answers before. Otherwise it could have us keep more and
    /// more of them.
    pub(super) async fn answers_before_are_taken(&self) {
        std::future::poll_fn(|cx| {
            let is_much = {
                let mut state = self.ledger.state.lock();
                let is_much = state.kept.answers > MOST_UNTAKEN;
                if is_much {
                    state.wakes(cx);
                }
                is_much
            };
            self.waits(is_much);
            if is_much { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    fn waits(&self, waits: bool) {
        if self.is_waiting.swap(waits, Ordering::Relaxed) == waits {
            return;
        }
        let mut state = self.ledger.state.lock();
        if waits {
            state.waiting += 1;
            self.ledger.rests(&mut state);
        } else {
            state.waiting -= 1;
            self.ledger.place.works();
        }
    }
}

impl Keeper for Account {
    fn body_awaited(&self) {
        self.waits(true);
    }

    fn body_ended(&self) {
        self.waits(false);
    }

    fn body_grows(&self, bytes: usize) -> bool {
        let before = self.body.load(Ordering::Relaxed);
        let mut state = self.ledger.state.lock();
        let fits = self.ledger.keeps(&mut state, |kept| kept.bodies = kept.bodies + bytes - before);
        if fits {
            self.body.store(bytes, Ordering::Relaxed);
        }
        fits
    }

    fn poll_gives_way(&self, cx: &mut Context<'_>) -> Poll<()> {
        let is_closing = self.ledger.closes(cx);
        if is_closing && self.ledger.gives_way() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let mut state = self.ledger.state.lock();
        state.open -= 1;
        state.waiting -= usize::from(*self.is_waiting.get_mut());
        let body = *self.body.get_mut();
        self.ledger.keeps(&mut state, |kept| {
            kept.heads -= self.head;
            kept.unread -= self.unread;
            kept.bodies -= body;
        });
        self.ledger.rests(&mut state);
    }
}
