//! An answer's body as a stream of HTTP/2 sends it. Each part is counted until the socket has taken it: the
//! library keeps it while the client's window is closed.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};

use super::ledger::{Account, Ledger, Untaken};
use crate::listener::{AnswerBody, BrokenOff};

/// A body, counted.
pub(super) struct Counted {
    body: AnswerBody,
    ledger: Arc<Ledger>,
    /// The place of a whole body, taken when its answer began. A refusal for want of room has none.
    whole: Option<Untaken>,
    /// The account of a stream's request: it lasts as long as the stream.
    stream: Option<Arc<Account>>,
    /// The part before, until it is taken.
    before: std::sync::Weak<Untaken>,
}

impl Counted {
    pub(super) fn whole(body: AnswerBody, ledger: &Arc<Ledger>, place: Option<Untaken>) -> Self {
        Counted { body, ledger: Arc::clone(ledger), whole: place, stream: None, before: Default::default() }
    }

    pub(super) fn stream(body: AnswerBody, ledger: &Arc<Ledger>, account: Arc<Account>) -> Self {
        let ledger = Arc::clone(ledger);
        Counted { body, ledger, whole: None, stream: Some(account), before: Default::default() }
    }

    /// Ends it: what is relayed breaks off, unless its own end has come.
    fn end(&mut self, is_own_end: bool) -> Poll<Option<Result<Frame<Part>, BrokenOff>>> {
        let is_broken = self.body.is_relayed() && !is_own_end;
        self.stream = None;
        self.body = AnswerBody::default();
        Poll::Ready(is_broken.then_some(Err(BrokenOff)))
    }
}

impl Body for Counted {
    type Data = Part;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Part>, BrokenOff>>> {
        if self.stream.is_some() {
            // (This also has it woken when the part before is taken. What is relayed goes on to its end,
            // unless others need the room.)
            if self.ledger.closes(cx) && (!self.body.is_relayed() || self.ledger.gives_way()) {
                return self.end(false);
            }
            if self.before.strong_count() > 0 {
                return Poll::Pending;
            }
        }
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else { return self.end(true) };
        let Ok(frame) = frame else { return self.end(false) };
        let Ok(bytes) = frame.into_data() else { return self.end(true) };
        if self.stream.is_none() {
            let place = self.whole.take().map(Arc::new);
            return Poll::Ready(Some(Ok(Frame::data(Part { bytes, _place: place }))));
        }
        // Without room for it a stream ends; nothing of it was sent in part.
        let Some(place) = self.ledger.answer(bytes.len()).map(Arc::new) else { return self.end(false) };
        self.before = Arc::downgrade(&place);
        if self.body.is_end_stream() {
            self.stream = None; // it ends with this part
        }
        Poll::Ready(Some(Ok(Frame::data(Part { bytes, _place: Some(place) }))))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A part of a body with its place, which the library drops when the socket has taken it.
pub(super) struct Part {
    bytes: Bytes,
    _place: Option<Arc<Untaken>>,
}

impl Buf for Part {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}
