//! The body of a relayed request: it passes as it comes, and as much of it is kept as may be sent once more.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

use super::pace::Pace;
use crate::domain::task::BoxFuture;
use crate::listener::{BodyError, BodyStream};
use crate::outbound::{ResourceBody, Silence};

/// Most bytes that are kept to be sent once more.
const MOST_KEPT: usize = 64 * 1024;
/// Most parts that are kept: each costs more than its bytes.
const MOST_PARTS: usize = 1024;

/// What is sent of a body, over all attempts.
#[derive(Clone)]
pub(super) struct Sent(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    silence: Arc<Silence>,
    /// How fast the caller sends it.
    pace: Arc<Pace>,
    /// The announced length.
    length: Option<u64>,
    is_empty: bool,
}

struct State {
    source: BodyStream,
    /// What came so far; `None` once that is too much to be kept.
    kept: Option<Vec<Bytes>>,
    bytes: usize,
    is_over: bool,
    failed: Option<BodyError>,
    /// The attempt that may read on.
    attempt: u32,
    /// Whoever waits for the next part, and since when (monotonic) it is waited for.
    waiting: Option<Waker>,
    since: Option<Duration>,
    /// Ends when it has been waited for too long.
    patience: Option<BoxFuture<'static, ()>>,
}

impl State {
    /// The caller was too slow for others that wait.
    fn took_too_long(&mut self) -> BodyError {
        self.source.give_up();
        *self.failed.insert(BodyError::TimedOut)
    }
}

impl Sent {
    /// Begins with a body of which nothing was read.
    pub(super) fn new(source: BodyStream, silence: Arc<Silence>, pace: Arc<Pace>) -> Self {
        let (length, is_empty) = (source.length(), source.is_over());
        let state = State {
            source,
            kept: Some(Vec::new()),
            bytes: 0,
            is_over: is_empty,
            failed: None,
            attempt: 0,
            waiting: None,
            since: None,
            patience: None,
        };
        Sent(Arc::new(Shared { state: Mutex::new(state), silence, pace, length, is_empty }))
    }

    /// Returns the body for the present attempt.
    pub(super) fn attempt(&self) -> ResourceBody {
        let number = self.0.state.lock().attempt;
        Attempt { shared: Arc::clone(&self.0), number, at: 0, given: 0 }.boxed_unsync()
    }

    /// Returns true if there is no body.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty
    }

    /// Begins another attempt, if all that was read is still here. The one before gets nothing more.
    pub(super) fn begin_again(&self) -> bool {
        let mut state = self.0.state.lock();
        let may = state.kept.is_some() && state.failed.is_none();
        state.attempt += u32::from(may);
        // (Nobody has read from the caller since the first attempt ended.)
        (state.since, state.patience) = (None, None);
        // (It is told that it is over: it would sleep, and its connection with it.)
        if let (true, Some(waiting)) = (may, state.waiting.take()) {
            waiting.wake();
        }
        may
    }

    /// Returns why the caller's body broke off, if it did.
    pub(super) fn failed(&self) -> Option<BodyError> {
        self.0.state.lock().failed
    }
}

/// One attempt to send the body.
struct Attempt {
    shared: Arc<Shared>,
    number: u32,
    /// How many of the kept parts it has given.
    at: usize,
    given: u64,
}

/// Another attempt has begun.
#[derive(Debug, thiserror::Error)]
#[error("the request is sent once more")]
struct Superseded;

impl Body for Attempt {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state.lock();
        if state.attempt != self.number {
            return Poll::Ready(Some(Err(Superseded.into())));
        }
        if let Some(part) = state.kept.as_ref().and_then(|kept| kept.get(self.at)).cloned() {
            self.at += 1;
            self.given += part.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(part))));
        }
        if let Some(error) = state.failed {
            return Poll::Ready(Some(Err(error.into())));
        }
        if state.is_over {
            return Poll::Ready(None);
        }
        let Poll::Ready(part) = state.source.poll_next(cx) else {
            state.waiting = Some(cx.waker().clone());
            let since = *state.since.get_or_insert_with(|| shared.pace.now());
            let patience = state.patience.get_or_insert_with(|| shared.pace.is_over(since));
            if patience.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            state.patience = None;
            return Poll::Ready(Some(Err(state.took_too_long().into())));
        };
        state.patience = None;
        let since = state.since.take();
        let part = match part {
            None => {
                state.is_over = true;
                return Poll::Ready(None);
            }
            Some(Err(error)) => {
                state.failed = Some(error);
                return Poll::Ready(Some(Err(error.into())));
            }
            Some(Ok(_)) if shared.pace.is_too_slow(since, 0) => {
                return Poll::Ready(Some(Err(state.took_too_long().into())));
            }
            Some(Ok(part)) => part,
        };
        shared.pace.passed(part.len());
        shared.silence.breaks();
        state.bytes = state.bytes.saturating_add(part.len());
        let parts = state.kept.as_ref().map_or(0, Vec::len);
        if state.bytes > MOST_KEPT || parts == MOST_PARTS {
            state.kept = None;
        } else if let Some(kept) = &mut state.kept {
            kept.push(part.clone());
        }
        self.at += 1;
        self.given += part.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.shared.is_empty
    }

    fn size_hint(&self) -> SizeHint {
        match self.shared.length {
            Some(length) => SizeHint::with_exact(length.saturating_sub(self.given)),
            None if self.shared.is_empty => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }
}
