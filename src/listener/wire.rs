//! HTTP/1 on a connection: beside hyper as long as all its requests are plain ([`Lane`]), and by hyper from
//! the first other one on. So a connection that waits for its next plain request has none of hyper's buffers.
//!
//! [`Lane`]: super::at_once::Lane

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1::Connection;
use hyper::service::HttpService;

use super::guard::{Guarded, Next};

/// Why a connection broke.
type Broken = Box<dyn std::error::Error + Send + Sync>;

/// Serves a connection. `M` makes hyper for it.
pub(super) struct Wire<M, S: HttpService<Incoming>> {
    stage: Stage<M, S>,
    closes: bool,
}

enum Stage<M, S: HttpService<Incoming>> {
    WithoutHyper(Guarded, M),
    WithHyper(Box<Connection<Guarded, S>>),
    /// In the middle of a change.
    Nothing,
}

impl<M, S> Wire<M, S>
where
    M: FnOnce(Guarded) -> Connection<Guarded, S>,
    S: HttpService<Incoming>,
    S::Error: Into<Broken>,
    S::ResBody: Body + 'static,
    <S::ResBody as Body>::Error: Into<Broken>,
{
    pub(super) fn new(guarded: Guarded, make_hyper: M) -> Self {
        Wire { stage: Stage::WithoutHyper(guarded, make_hyper), closes: false }
    }

    /// Goes on until the connection has ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if let Stage::WithoutHyper(guarded, _) = &mut self.stage {
            if self.closes {
                return Poll::Ready(Ok(()));
            }
            match ready!(guarded.poll_without_hyper(cx))? {
                Next::End => return Poll::Ready(Ok(())),
                Next::Hyper => self.make_hyper(),
            }
        }
        let Stage::WithHyper(connection) = &mut self.stage else { unreachable!("it was just made") };
        Pin::new(connection.as_mut()).poll(cx).map_err(Into::into)
    }

    fn make_hyper(&mut self) {
        if let Stage::WithoutHyper(guarded, make) = std::mem::replace(&mut self.stage, Stage::Nothing) {
            self.stage = Stage::WithHyper(Box::new(make(guarded)));
        }
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
