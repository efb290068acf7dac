//! The activity of one connection and the bytes it keeps. Its parts report them; its timer and the listener's
//! room read them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Version;
use hyper::body::{Body as _, Incoming};
use parking_lot::Mutex;

use super::RequestId;
use super::body::Keeper;
use super::room::{OWN_BYTES, Reservation, Room};
use super::tcp::LARGE_PART;
use crate::domain::time::Clock;

/// What may be left of a request's body: nothing, …
const NOTHING: u8 = 0;
/// … some of a known length, …
const SIZED: u8 = 1;
/// … or chunks.
const CHUNKED: u8 = 2;

/// Least bytes of a large answer that a client must take in a second.
pub(super) const SLOWEST: usize = 256 * 1024;

/// Current activity of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    New = 0,
    Head = 1,
    Request = 2,
    Idle = 3,
    Stream = 4,
}

/// State that the parts of a connection report to its timer and to the listener's room. They all run in one
/// task.
pub(super) struct Pulse {
    phase: AtomicU8,
    /// Counts changes of phase, because several may happen within one poll.
    beats: AtomicU32,
    in_head: AtomicBool,
    /// True while the rest of a body has not come.
    in_body: AtomicBool,
    /// What the handler has left of the present request's body.
    unread: AtomicU8,
    /// True if the present request's client takes the connection's end for the answer's end.
    ends_by_closing: AtomicBool,
    clock: Arc<dyn Clock>,
    place: Reservation,
    /// Bytes in memory for the client's certificates, a head, a body and an answer.
    certificate: AtomicUsize,
    head: AtomicUsize,
    /// Bytes of an incomplete head, which may follow a request.
    ahead: AtomicUsize,
    body: AtomicUsize,
    answer: AtomicUsize,
    /// When the present answer began to wait for the client, in milliseconds of the monotonic clock plus 1; 0
    /// if none waits.
    untaken_since: AtomicU64,
    /// True if a request, or a stream, waits for that answer to be taken.
    awaited: AtomicBool,
    /// True if a stream is to end.
    closes: AtomicBool,
    /// True while hyper has a request whose handling has not begun.
    came: AtomicBool,
    /// True while a request is answered beside hyper.
    beside: AtomicBool,
    /// True if the last request was answered beside hyper.
    was_beside: AtomicBool,
    /// True while there is a hyper.
    has_hyper: AtomicBool,
    /// True if hyper waits for a head that has not begun.
    waits_for_head: AtomicBool,
    /// The id of the request that hyper gets next, where it was looked at before.
    id: Mutex<Option<RequestId>>,
}

impl Pulse {
    pub(super) fn new(place: Reservation, clock: Arc<dyn Clock>) -> Self {
        Pulse {
            phase: AtomicU8::new(Phase::New as u8),
            beats: AtomicU32::new(0),
            in_head: AtomicBool::new(false),
            in_body: AtomicBool::new(false),
            unread: AtomicU8::new(NOTHING),
            ends_by_closing: AtomicBool::new(false),
            clock,
            place,
            certificate: AtomicUsize::new(0),
            head: AtomicUsize::new(0),
            ahead: AtomicUsize::new(0),
            body: AtomicUsize::new(0),
            answer: AtomicUsize::new(0),
            untaken_since: AtomicU64::new(0),
            awaited: AtomicBool::new(false),
            closes: AtomicBool::new(false),
            came: AtomicBool::new(false),
            beside: AtomicBool::new(false),
            was_beside: AtomicBool::new(false),
            has_hyper: AtomicBool::new(false),
            waits_for_head: AtomicBool::new(false),
            id: Mutex::new(None),
        }
    }

    /// Records the bytes kept for the client's certificates. Returns true if there is room for them.
    pub(super) fn certificate_kept(&self, bytes: usize) -> bool {
        self.keeps(&self.certificate, bytes)
    }

    /// Records that bytes arrived, whether the last of them is within a head or a body, and how many are an
    /// unfinished head. Returns true if there is room for it.
    pub(super) fn read(&self, (in_head, in_body): (bool, bool), unfinished: usize) -> bool {
        self.in_head.store(in_head, Ordering::Relaxed);
        self.in_body.store(in_body, Ordering::Relaxed);
        if in_head && matches!(self.phase(), Phase::New | Phase::Idle) {
            self.enter(Phase::Head);
        }
        // If there is no room for bytes after a request, the request's answer says so.
        self.keeps(&self.ahead, 2 * unfinished) || self.is_answering()
    }

    /// Records what the next request is like, before its body is read.
    pub(super) fn request_is(&self, version: Version, body: &Incoming) {
        let unread = match (body.is_end_stream(), body.size_hint().exact()) {
            (true, _) => NOTHING,
            (false, Some(_)) => SIZED,
            (false, None) => CHUNKED,
        };
        self.unread.store(unread, Ordering::Relaxed);
        self.ends_by_closing.store(version < Version::HTTP_11, Ordering::Relaxed);
    }

    /// Returns true if hyper closes the connection after the answer, because some of the body is left: it
    /// passes over no more than a body of a known length that is here.
    pub(super) fn leaves_body(&self) -> bool {
        match self.unread.load(Ordering::Relaxed) {
            NOTHING => false,
            SIZED => self.in_body.load(Ordering::Relaxed),
            _ => true,
        }
    }

    /// Returns true if the client takes the connection's end for the answer's end (HTTP/1.0).
    pub(super) fn ends_by_closing(&self) -> bool {
        self.ends_by_closing.load(Ordering::Relaxed)
    }

    /// Records a complete head. Returns true if there is room for it.
    pub(super) fn head_came(&self, kept: usize) -> bool {
        // The new wait has a deadline of its own.
        if self.is_untaken() && self.phase() == Phase::Head {
            self.enter(Phase::Idle);
        }
        self.keeps(&self.head, kept)
    }

    /// Waits until the previous answer is taken. Otherwise hyper would begin more requests and keep the heads
    /// of their answers.
    pub(super) async fn answer_before_is_taken(&self) {
        std::future::poll_fn(|_| {
            self.awaited.store(self.is_untaken(), Ordering::Relaxed);
            if self.is_untaken() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    /// Records that hyper has a request: it may read on before the request's handling begins.
    pub(super) fn request_came(&self) {
        self.came.store(true, Ordering::Relaxed);
        self.was_beside.store(false, Ordering::Relaxed);
    }

    /// Records that a request is being processed.
    pub(super) fn request_began(&self) {
        self.came.store(false, Ordering::Relaxed);
        self.enter(Phase::Request);
    }

    /// Keeps the id of the request that hyper gets next.
    pub(super) fn keep_id(&self, id: RequestId) {
        *self.id.lock() = Some(id);
    }

    /// The id that was kept.
    pub(super) fn take_id(&self) -> Option<RequestId> {
        self.id.lock().take()
    }

    /// Records whether there is a hyper now.
    pub(super) fn has_hyper_now(&self, is_so: bool) {
        self.has_hyper.store(is_so, Ordering::Relaxed);
    }

    /// Returns true while there is a hyper.
    pub(super) fn has_hyper(&self) -> bool {
        self.has_hyper.load(Ordering::Relaxed)
    }

    /// Returns true if the connection is to be wide.
    pub(super) fn is_wide(&self) -> bool {
        self.place.is_wide()
    }

    /// Records whether hyper waits for a head that has not begun.
    pub(super) fn waits_for_head(&self, is_so: bool) {
        self.waits_for_head.store(is_so, Ordering::Relaxed);
    }

    /// Returns true if hyper has done everything, and waits for a head that has not begun.
    pub(super) fn is_hyper_done(&self) -> bool {
        self.waits_for_head.load(Ordering::Relaxed) && !self.is_with_hyper() && !self.is_beside()
    }

    /// Returns true while there is no whole request, but the next may be on its way.
    pub(super) fn awaits_a_request(&self) -> bool {
        matches!(self.phase(), Phase::New | Phase::Head | Phase::Idle)
    }

    /// Returns true if the last request was answered beside hyper.
    pub(super) fn was_beside(&self) -> bool {
        self.was_beside.load(Ordering::Relaxed)
    }

    /// Returns true while hyper has a request, or an answer that is not taken.
    pub(super) fn is_with_hyper(&self) -> bool {
        self.came.load(Ordering::Relaxed) || self.is_answering() || self.is_untaken()
    }

    /// Records an answer of this many bytes. Returns true if there is room for them until the client takes
    /// them.
    pub(super) fn request_ended(&self, answer: usize) -> bool {
        self.request_ended_at(answer, self.clock.monotonic())
    }

    /// Records an answer like [`Pulse::request_ended`], with the monotonic time of its end.
    pub(super) fn request_ended_at(&self, answer: usize, now: Duration) -> bool {
        self.head.store(0, Ordering::Relaxed);
        self.body.store(0, Ordering::Relaxed);
        // If there is no room, a short answer replaces it, and the connection ends.
        let fits = self.must_take(answer, now);
        self.waits_for_the_next(now);
        fits
    }

    fn waits_for_the_next(&self, now: Duration) {
        self.enter_at(if self.in_head.load(Ordering::Relaxed) { Phase::Head } else { Phase::Idle }, now);
    }

    /// Records that a request is answered by a stream, which begins with the head of the answer.
    pub(super) fn stream_began(&self) {
        self.request_ended(0);
        self.enter(Phase::Stream);
    }

    /// Records a stream's next chunk. Returns true if there is room for it until the client takes it.
    pub(super) fn chunk_began(&self, bytes: usize) -> bool {
        self.must_take(self.beyond_its_own(bytes), self.clock.monotonic())
    }

    /// Records a stream's last chunk, and with it the stream's end, if there is room for it. Returns true if
    /// there is.
    pub(super) fn last_chunk_began(&self, bytes: usize) -> bool {
        let fits = self.chunk_began(bytes);
        if fits {
            self.waits_for_the_next(self.clock.monotonic());
        }
        fits
    }

    /// What a chunk takes beyond the room of a wide connection, which includes one large part.
    fn beyond_its_own(&self, bytes: usize) -> usize {
        bytes.saturating_sub(if self.is_wide() { LARGE_PART } else { 0 })
    }

    /// Returns true if a stream's next chunk must wait. It is woken once the one before is taken.
    pub(super) fn is_chunk_untaken(&self) -> bool {
        self.awaited.store(self.is_untaken(), Ordering::Relaxed);
        self.is_untaken()
    }

    /// Records the end of a stream. Its last bytes must still be taken.
    pub(super) fn stream_ended(&self) {
        self.request_ended(0);
    }

    /// Has a stream end, now or when it comes, because its connection is to close.
    pub(super) fn close(&self) {
        self.closes.store(true, Ordering::Relaxed);
    }

    /// Records that a request is being processed beside hyper, until [`Pulse::left_beside`].
    pub(super) fn request_began_beside(&self) {
        self.beside.store(true, Ordering::Relaxed);
        self.request_began();
    }

    /// Records that it is answered and its answer is taken.
    pub(super) fn left_beside(&self) {
        self.beside.store(false, Ordering::Relaxed);
        self.was_beside.store(true, Ordering::Relaxed);
    }

    /// Returns true while a request is answered beside hyper.
    pub(super) fn is_beside(&self) -> bool {
        self.beside.load(Ordering::Relaxed)
    }

    /// Returns true if a stream is to end.
    pub(super) fn closes(&self) -> bool {
        self.closes.load(Ordering::Relaxed)
    }

    /// Records bytes that the client must take from now on. Returns true if there is room for them.
    fn must_take(&self, bytes: usize, now: Duration) -> bool {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX - 1);
        self.untaken_since.store(now + 1, Ordering::Relaxed);
        let fits = self.keeps(&self.answer, bytes);
        if !fits {
            self.answer.store(0, Ordering::Relaxed);
        }
        fits
    }

    /// Records that the client has taken everything written. Returns true if a request waited for that.
    pub(super) fn flushed(&self) -> bool {
        self.untaken_since.store(0, Ordering::Relaxed);
        if self.answer.load(Ordering::Relaxed) > 0 {
            self.keeps(&self.answer, 0);
        }
        self.awaited.swap(false, Ordering::Relaxed)
    }

    /// Returns true if an answer waits to be taken.
    pub(super) fn is_untaken(&self) -> bool {
        self.untaken_since.load(Ordering::Relaxed) > 0
    }

    /// Returns the deadline for taking the answer.
    pub(super) fn must_be_taken(&self, within: Duration) -> Option<Duration> {
        let since = self.untaken_since.load(Ordering::Relaxed).checked_sub(1)?;
        let more = self.answer.load(Ordering::Relaxed) as u64 * 1000 / SLOWEST as u64;
        Some(Duration::from_millis(since + more) + within)
    }

    /// Returns the room of the connection.
    pub(super) fn room(&self) -> Arc<Room> {
        self.place.room()
    }

    /// Completes when the connection is told to give way to others.
    pub(super) fn told(&self) -> impl Future<Output = ()> + '_ {
        self.place.told()
    }

    /// Returns true if the connection must give way to others.
    pub(super) fn gives_way(&self) -> bool {
        self.place.is_told()
    }

    fn keeps(&self, what: &AtomicUsize, bytes: usize) -> bool {
        what.store(bytes, Ordering::Relaxed);
        let all = [&self.certificate, &self.head, &self.ahead, &self.body, &self.answer]
            .map(|part| part.load(Ordering::Relaxed));
        all.iter().sum::<usize>() <= OWN_BYTES && self.place.holds_its_own()
            || self.place.hold(all.iter().sum(), self.clock.monotonic())
    }

    fn enter(&self, phase: Phase) {
        let waits = matches!(phase, Phase::New | Phase::Head | Phase::Idle);
        self.enter_at(phase, if waits { self.clock.monotonic() } else { Duration::ZERO });
    }

    fn enter_at(&self, phase: Phase, now: Duration) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.beats.fetch_add(1, Ordering::Relaxed);
        match phase {
            // Neither waits for its client. (Few connections may have a stream.)
            Phase::Request | Phase::Stream => self.place.works(),
            Phase::New | Phase::Head | Phase::Idle => self.place.waits(now),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::New,
            1 => Phase::Head,
            2 => Phase::Request,
            3 => Phase::Idle,
            _ => Phase::Stream,
        }
    }

    /// Returns true if a request is being answered.
    pub(super) fn is_answering(&self) -> bool {
        matches!(self.phase(), Phase::Request | Phase::Stream)
    }

    pub(super) fn beats(&self) -> u32 {
        self.beats.load(Ordering::Relaxed)
    }
}

impl Keeper for Pulse {
    /// (A body that is read in another task may be told of after its request has ended.)
    fn body_awaited(&self) {
        if self.is_answering() {
            self.place.waits(self.clock.monotonic());
        }
    }

    fn body_ended(&self) {
        if self.is_answering() {
            self.place.works();
        }
    }

    fn body_read(&self) {
        self.unread.store(NOTHING, Ordering::Relaxed);
    }

    fn body_grows(&self, bytes: usize) -> bool {
        self.keeps(&self.body, bytes)
    }

    fn widen(&self) -> bool {
        self.place.widen()
    }

    /// The connection checks whether it must give way whenever it is woken, and runs in the same task as the
    /// body.
    fn poll_gives_way(&self, _: &mut Context<'_>) -> Poll<()> {
        if self.gives_way() { Poll::Ready(()) } else { Poll::Pending }
    }
}
