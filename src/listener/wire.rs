//! HTTP/1 on a connection: without hyper as long as its requests are plain ([`Lane`]), by hyper while others
//! come. A connection that waits for its next request has none of hyper's buffers, which are most of its
//! memory: hyper goes once a plain request has come again, or none for [`REST`].
//!
//! [`Lane`]: super::at_once::Lane

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1::{Connection, Parts};
use hyper::service::HttpService;

use super::guarded::{Guarded, Next};
use super::pulse::Pulse;

/// How long hyper stays without a request.
pub(super) const REST: Duration = Duration::from_secs(1);

/// Why a connection broke.
type Broken = Box<dyn std::error::Error + Send + Sync>;

/// Serves a connection. `M` makes hyper for it.
pub(super) struct Wire<M, S: HttpService<Incoming>> {
    stage: Stage<S>,
    make_hyper: M,
    pulse: Arc<Pulse>,
    /// True if it is to end.
    closes: bool,
    /// True if no request has come for [`REST`].
    rests: bool,
    /// True if hyper stays to the end.
    stays: bool,
}

#[expect(clippy::large_enum_variant, reason = "most connections are without hyper")]
enum Stage<S: HttpService<Incoming>> {
    WithoutHyper(Guarded, S),
    WithHyper(Box<Connection<Guarded, S>>),
    /// In the middle of a change.
    Nothing,
}

impl<M, S> Wire<M, S>
where
    M: Fn(Guarded, S) -> Connection<Guarded, S>,
    S: HttpService<Incoming>,
    S::Error: Into<Broken>,
    S::ResBody: Body + 'static,
    <S::ResBody as Body>::Error: Into<Broken>,
{
    pub(super) fn new(guarded: Guarded, service: S, make_hyper: M, pulse: Arc<Pulse>) -> Self {
        let stage = Stage::WithoutHyper(guarded, service);
        Wire { stage, make_hyper, pulse, closes: false, rests: false, stays: false }
    }

    /// Goes on until the connection has ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            match &mut self.stage {
                Stage::WithoutHyper(..) if self.closes => return Poll::Ready(Ok(())),
                Stage::WithoutHyper(guarded, _) => match ready!(guarded.poll_without_hyper(cx))? {
                    Next::End => return Poll::Ready(Ok(())),
                    Next::Hyper => self.take_hyper(),
                },
                Stage::WithHyper(connection) => {
                    self.pulse.waits_for_head(false);
                    let polled = Pin::new(connection.as_mut()).poll(cx);
                    // (A hyper that has had nothing but an empty line does not end by itself.)
                    if polled.is_pending() && self.closes && self.pulse.is_hyper_done() {
                        return Poll::Ready(Ok(()));
                    }
                    if polled.is_ready() || !self.may_leave_hyper() {
                        return polled.map_err(Into::into);
                    }
                    self.leave_hyper();
                }
                Stage::Nothing => unreachable!("no change is under way between two polls"),
            }
        }
    }

    fn take_hyper(&mut self) {
        if let Stage::WithoutHyper(guarded, service) = std::mem::replace(&mut self.stage, Stage::Nothing) {
            self.stage = Stage::WithHyper(Box::new((self.make_hyper)(guarded, service)));
            self.pulse.has_hyper_now(true);
            #[cfg(test)]
            CHANGES.with(|changes| changes.borrow_mut().push("with"));
        }
    }

    /// Whether hyper has done everything, and will not be needed at once.
    fn may_leave_hyper(&mut self) -> bool {
        let is_over = std::mem::take(&mut self.rests) || self.pulse.was_beside();
        is_over && !self.closes && !self.stays && self.pulse.is_hyper_done()
    }

    fn leave_hyper(&mut self) {
        if let Stage::WithHyper(connection) = std::mem::replace(&mut self.stage, Stage::Nothing) {
            let Parts { io: mut guarded, read_buf, service, .. } = connection.into_parts();
            // (An empty line may be left, which hyper has not used.)
            self.stays = !read_buf.is_empty();
            guarded.take_back(read_buf);
            self.stage = Stage::WithoutHyper(guarded, service);
            self.pulse.has_hyper_now(false);
            #[cfg(test)]
            CHANGES.with(|changes| changes.borrow_mut().push("without"));
        }
    }

    /// Says that no request has come for [`REST`].
    pub(super) fn rest(&mut self) {
        self.rests = true;
    }

    /// Ends it after the answer under way. (A request that is answered beside hyper is not known here: its
    /// end comes before this.)
    pub(super) fn close(&mut self) {
        self.closes = true;
        if let Stage::WithHyper(connection) = &mut self.stage {
            Pin::new(connection.as_mut()).graceful_shutdown();
        }
    }

    pub(super) fn into_guarded(self) -> Guarded {
        match self.stage {
            Stage::WithoutHyper(guarded, _) => guarded,
            Stage::WithHyper(connection) => connection.into_parts().io,
            Stage::Nothing => unreachable!("no change is under way between two polls"),
        }
    }
}

#[cfg(test)]
thread_local! {
    /// How the connections of this thread went on: with hyper, or without.
    pub(super) static CHANGES: std::cell::RefCell<Vec<&'static str>> =
        const { std::cell::RefCell::new(Vec::new()) };
}
