//! An answer's body as a stream of HTTP/2 sends it. Each part is counted until the socket has taken it: the
//! library keeps it while the client's window is closed.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};

use super::ledger::{Account, Ledger, Untaken};
use crate::listener::AnswerBody;

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

    fn end(&mut self) -> Poll<Option<Result<Frame<Part>, Infallible>>> {
        self.stream = None;
        self.body = AnswerBody::default();
        Poll::Ready(None)
    }
}

impl Body for Counted {
    type Data = Part;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Part>, Infallible>>> {
        if self.stream.is_some() {
            // (This also has it woken when the part before is taken.)
            if self.ledger.closes(cx) {
                return self.end();
            }
            if self.before.strong_count() > 0 {
                return Poll::Pending;
            }
        }
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else { return self.end() };
        let Ok(bytes) = frame?.into_data() else { return self.end() };
        if self.stream.is_none() {
            let place = self.whole.take().map(Arc::new);
            return Poll::Ready(Some(Ok(Frame::data(Part { bytes, _place: place }))));
        }
        // Without room for it a stream ends; nothing of it was sent in part.
        let Some(place) = self.ledger.answer(bytes.len()).map(Arc::new) else { return self.end() };
        self.before = Arc::downgrade(&place);
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
