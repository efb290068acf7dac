//! The body of a request: whole, limited in size and time, or as it comes.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_ENCODING, HeaderMap, HeaderValue};
use http_body_util::BodyExt;

use super::Limits;
use crate::domain::task::BoxFuture;
use crate::domain::time::Clock;

/// What a body reports to its connection, and learns from it.
pub(super) trait Keeper: Send + Sync {
    /// Records that the rest of a body is awaited.
    fn body_awaited(&self);
    /// Records that the body is complete, or never will be.
    fn body_ended(&self);
    /// Records that the body was read to its end.
    fn body_read(&self) {}
    /// Records the bytes kept for the body. Returns true if there is room for them.
    fn body_grows(&self, bytes: usize) -> bool;
    /// Has bodies pass in large parts, if there is room for that. Returns true if they do.
    fn widen(&self) -> bool {
        false
    }
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
    /// It is compressed: 415.
    #[error("the body has a Content-Encoding, and is taken uncompressed alone")]
    Coded,
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
            BodyError::Coded => StatusCode::UNSUPPORTED_MEDIA_TYPE,
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
        /// Its fields say that it is compressed. (Who passes it on does not mind.)
        is_coded: bool,
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
        (incoming, fields): (hyper::body::Incoming, &HeaderMap),
        limits: &Limits,
        clock: Arc<dyn Clock>,
        failed: Arc<AtomicBool>,
        keeper: Arc<dyn Keeper>,
    ) -> Self {
        Body(BodySource::Wire {
            incoming,
            is_coded: fields.get_all(CONTENT_ENCODING).iter().any(|coding| !is_identity(coding)),
            max: limits.max_body,
            within: limits.body_read,
            clock,
            failed,
            keeper,
        })
    }

    /// Allows the body another length than the listener's.
    #[must_use]
    pub fn of_at_most(mut self, most: usize) -> Self {
        if let BodySource::Wire { max, .. } = &mut self.0 {
            *max = most;
        }
        self
    }

    /// Reads the whole body. After an error the connection closes once the response is sent.
    pub async fn read_all(self) -> Result<Bytes, BodyError> {
        match self.0 {
            BodySource::Whole(bytes) => Ok(bytes),
            BodySource::Wire { incoming, is_coded, max, within, clock, failed, keeper } => {
                if hyper::body::Body::is_end_stream(&incoming) {
                    return Ok(Bytes::new());
                }
                if is_coded {
                    failed.store(true, Ordering::Release);
                    return Err(BodyError::Coded);
                }
                keeper.body_awaited();
                let result = tokio::select! {
                    result = collect(incoming, max, keeper.as_ref()) => result,
                    () = clock.sleep(within) => Err(BodyError::TimedOut),
                    () = std::future::poll_fn(|cx| keeper.poll_gives_way(cx)) => Err(BodyError::NoRoom),
                };
                keeper.body_ended();
                match &result {
                    Ok(_) => keeper.body_read(),
                    Err(_) => failed.store(true, Ordering::Release),
                }
                result
            }
        }
    }
}

fn is_identity(coding: &HeaderValue) -> bool {
    coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity")
}

/// Time for the next bytes of a body that is read as it comes.
const NEXT_BYTES: Duration = Duration::from_secs(30);

/// A request's body, read as it comes: of any length, and limited in its silences alone.
pub struct BodyStream {
    source: StreamSource,
    /// When the next bytes must be here; while some are awaited.
    due: Option<BoxFuture<'static, ()>>,
}

enum StreamSource {
    Whole(Option<Bytes>),
    Wire {
        incoming: hyper::body::Incoming,
        clock: Arc<dyn Clock>,
        failed: Arc<AtomicBool>,
        keeper: Arc<dyn Keeper>,
    },
}

/// Whether the connection of a body that is read elsewhere must give way.
pub struct GivesWay(Option<Arc<dyn Keeper>>);

impl GivesWay {
    /// Completes once the connection must give way to others. Await it in the connection's own task.
    pub async fn happens(&self) {
        match &self.0 {
            Some(keeper) => std::future::poll_fn(|cx| keeper.poll_gives_way(cx)).await,
            None => std::future::pending().await,
        }
    }
}

impl Body {
    /// Has the body read as it comes, in any task.
    pub fn into_stream(self) -> (BodyStream, GivesWay) {
        let (source, gives_way) = match self.0 {
            BodySource::Whole(bytes) => {
                (StreamSource::Whole(Some(bytes).filter(|bytes| !bytes.is_empty())), None)
            }
            BodySource::Wire { incoming, clock, failed, keeper, .. } => {
                let gives_way = Some(Arc::clone(&keeper));
                (StreamSource::Wire { incoming, clock, failed, keeper }, gives_way)
            }
        };
        (BodyStream { source, due: None }, GivesWay(gives_way))
    }
}

impl BodyStream {
    /// Returns the length that is announced, if one is.
    pub fn length(&self) -> Option<u64> {
        match &self.source {
            StreamSource::Whole(bytes) => Some(bytes.as_ref().map_or(0, Bytes::len) as u64),
            StreamSource::Wire { incoming, .. } => hyper::body::Body::size_hint(incoming).exact(),
        }
    }

    /// Returns true if nothing more comes.
    pub fn is_over(&self) -> bool {
        match &self.source {
            StreamSource::Whole(bytes) => bytes.is_none(),
            StreamSource::Wire { incoming, .. } => hyper::body::Body::is_end_stream(incoming),
        }
    }

    /// Reads no more. The connection closes once the response is sent.
    pub fn give_up(&self) {
        if let StreamSource::Wire { failed, .. } = &self.source {
            failed.store(true, Ordering::Release);
        }
    }

    /// Reads the next bytes. After an error the connection closes once the response is sent.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let (incoming, clock, failed, keeper) = match &mut self.source {
            StreamSource::Whole(bytes) => return Poll::Ready(bytes.take().map(Ok)),
            StreamSource::Wire { incoming, clock, failed, keeper } => (incoming, clock, failed, keeper),
        };
        loop {
            let next = match hyper::body::Body::poll_frame(std::pin::Pin::new(&mut *incoming), cx) {
                Poll::Ready(None) => None,
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => Some(Ok(data)),
                    // Trailers are ignored.
                    _ => continue,
                },
                Poll::Ready(Some(Err(_))) => Some(Err(BodyError::Broken)),
                Poll::Pending => {
                    let due = self.due.get_or_insert_with(|| {
                        keeper.body_awaited();
                        clock.sleep(NEXT_BYTES)
                    });
                    if keeper.poll_gives_way(cx).is_ready() {
                        Some(Err(BodyError::NoRoom))
                    } else if due.as_mut().poll(cx).is_ready() {
                        Some(Err(BodyError::TimedOut))
                    } else {
                        return Poll::Pending;
                    }
                }
            };
            if self.due.take().is_some() {
                keeper.body_ended();
            }
            match &next {
                Some(Err(_)) => failed.store(true, Ordering::Release),
                // (Who knows the length does not ask for more.)
                Some(Ok(_)) if !hyper::body::Body::is_end_stream(&*incoming) => {}
                _ => keeper.body_read(),
            }
            return Poll::Ready(next);
        }
    }
}

impl Drop for BodyStream {
    fn drop(&mut self) {
        if let (StreamSource::Wire { keeper, .. }, true) = (&self.source, self.due.is_some()) {
            keeper.body_ended();
        }
    }
}

impl fmt::Debug for BodyStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BodyStream")
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
