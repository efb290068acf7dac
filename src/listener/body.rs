//! The body of a request, limited in size and time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;

use super::Limits;
use crate::domain::time::Clock;

/// What a body reports to its connection, and learns from it.
pub(super) trait Keeper: Send + Sync {
    /// Records that the rest of a body is awaited.
    fn body_awaited(&self);
    /// Records that the body is complete, or never will be.
    fn body_ended(&self);
    /// Records the bytes kept for the body. Returns true if there is room for them.
    fn body_grows(&self, bytes: usize) -> bool;
    /// Is ready once the connection must give way to others.
    fn poll_gives_way(&self, cx: &mut Context<'_>) -> Poll<()>;
}

/// Reason why a body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It exceeds the limit: 413.
    #[error("the body is longer than allowed")]
    TooLarge,
    /// It was not complete in time: 408.
    #[error("the body did not come in time")]
    TimedOut,
    /// It broke off, or its framing is bad: 400.
    #[error("the body broke off")]
    Broken,
    /// There is no room for it beside all others, or its connection had to give way: 503.
    #[error("too many requests are on their way")]
    NoRoom,
}

impl BodyError {
    /// Returns its HTTP status.
    pub fn status(self) -> StatusCode {
        match self {
            BodyError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::TimedOut => StatusCode::REQUEST_TIMEOUT,
            BodyError::Broken => StatusCode::BAD_REQUEST,
            BodyError::NoRoom => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// A request's body, limited in size and time.
pub struct Body(BodySource);

enum BodySource {
    Whole(Bytes),
    Wire {
        incoming: hyper::body::Incoming,
        max: usize,
        within: Duration,
        clock: Arc<dyn Clock>,
        /// Tells the connection that it must end.
        failed: Arc<AtomicBool>,
        keeper: Arc<dyn Keeper>,
    },
}

impl Body {
    /// Makes a complete body, for tests of handlers.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Body(BodySource::Whole(bytes.into()))
    }

    pub(super) fn wire(
        incoming: hyper::body::Incoming,
        limits: &Limits,
        clock: Arc<dyn Clock>,
        failed: Arc<AtomicBool>,
        keeper: Arc<dyn Keeper>,
    ) -> Self {
        Body(BodySource::Wire {
            incoming,
            max: limits.max_body,
            within: limits.body_read,
            clock,
            failed,
            keeper,
        })
    }

    /// Reads the whole body. After an error the connection closes once the response is sent.
    pub async fn read_all(self) -> Result<Bytes, BodyError> {
        match self.0 {
            BodySource::Whole(bytes) => Ok(bytes),
            BodySource::Wire { incoming, max, within, clock, failed, keeper } => {
                if hyper::body::Body::is_end_stream(&incoming) {
                    return Ok(Bytes::new());
                }
                keeper.body_awaited();
                let result = tokio::select! {
                    result = collect(incoming, max, keeper.as_ref()) => result,
                    () = clock.sleep(within) => Err(BodyError::TimedOut),
                    () = std::future::poll_fn(|cx| keeper.poll_gives_way(cx)) => Err(BodyError::NoRoom),
                };
                keeper.body_ended();
                if result.is_err() {
                    failed.store(true, Ordering::Release);
                }
                result
            }
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Body")
    }
}

async fn collect(
    mut incoming: hyper::body::Incoming,
    max: usize,
    keeper: &dyn Keeper,
) -> Result<Bytes, BodyError> {
    /// A body gets room in steps of this size, whatever length it announces.
    const STEP: usize = 1024;
    let announced = hyper::body::Body::size_hint(&incoming).lower();
    if announced > max as u64 {
        return Err(BodyError::TooLarge);
    }
    let mut whole = Vec::new();
    while let Some(frame) = incoming.frame().await {
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else {
            continue; // trailers are ignored
        };
        let length = whole.len() + data.len();
        if length > max {
            return Err(BodyError::TooLarge);
        }
        if whole.is_empty() && data.len() as u64 == announced {
            return Ok(data);
        }
        if length > whole.capacity() {
            let room = length.next_power_of_two().max(STEP);
            if !keeper.body_grows(room) {
                return Err(BodyError::NoRoom);
            }
            whole.reserve_exact(room - whole.len());
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.into())
}
