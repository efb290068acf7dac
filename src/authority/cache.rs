//! One document of the authority, kept: fetched by one caller at a time, renewed while in use, and never given up
//! for a failure to renew it.

use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;
use std::time::Duration;

use super::observer::Endpoint;
use crate::domain::time::Clock;
use crate::domain::verdict::AuthorityFailure;

/// A document older than this is renewed by the next one who uses it.
const RENEW_AFTER: Duration = Duration::from_secs(3600);
/// Between two tries to renew a document, and between two fetches because of a key that was not in it.
const COOLDOWN: Duration = Duration::from_secs(300);
/// How long a failure to get the first document is everyone's: a herd shares it, the next caller tries again.
const FAILURE_SHARED_FOR: Duration = Duration::from_secs(1);
/// The longest a caller waits to renew a document of which there is a good one.
const RENEW_LIMIT: Duration = Duration::from_secs(3);

/// How a call used the cache; worth an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Used {
    /// The document is as good as it should be.
    Fresh,
    /// It could not be renewed.
    LastGood,
}

/// A document and how it was come by.
pub(super) struct Kept<T> {
    pub(super) endpoint: Endpoint,
    clock: Arc<dyn Clock>,
    /// How long the first fetch may take.
    limit: Duration,
    state: Mutex<State<T>>,
    /// Held across a fetch, and never by one who can do with what there is.
    flight: tokio::sync::Mutex<()>,
}

struct State<T> {
    value: Option<Arc<T>>,
    /// When `value` came, monotonic.
    fetched_at: Duration,
    /// When a fetch last failed, and how.
    failed: Option<(Duration, AuthorityFailure)>,
    /// When a fetch was last made because `value` lacked something.
    missed_at: Option<Duration>,
}

impl<T> Kept<T> {
    pub(super) fn new(endpoint: Endpoint, clock: Arc<dyn Clock>, limit: Duration) -> Self {
        let state = State { value: None, fetched_at: Duration::ZERO, failed: None, missed_at: None };
        Kept { endpoint, clock, limit, state: Mutex::new(state), flight: tokio::sync::Mutex::new(()) }
    }

    /// The document; `fetch` is given its time limit.
    pub(super) async fn get<F, R>(&self, fetch: F) -> Result<(Arc<T>, Used), AuthorityFailure>
    where
        F: FnOnce(Duration) -> R,
        R: Future<Output = Result<T, AuthorityFailure>>,
    {
        let Some(value) = self.value() else { return self.first(fetch).await };
        if !self.is_due() {
            return Ok((value, Used::Fresh));
        }
        // Whoever comes while one renews it takes the old one.
        let Ok(_flight) = self.flight.try_lock() else { return Ok((value, Used::Fresh)) };
        if !self.is_due() {
            return Ok((self.value().unwrap_or(value), Used::Fresh));
        }
        match self.settle(fetch(RENEW_LIMIT.min(self.limit)).await) {
            Ok(new) => Ok((new, Used::Fresh)),
            Err(_) => Ok((value, Used::LastGood)),
        }
    }

    /// The document, if it is here; nothing is fetched.
    pub(super) fn held(&self) -> Option<Arc<T>> {
        self.value()
    }

    /// The document anew because `lacking` lacks something, at most once in five minutes; else what there is.
    pub(super) async fn get_after_miss<F, R>(&self, lacking: &Arc<T>, fetch: F) -> Arc<T>
    where
        F: FnOnce(Duration) -> R,
        R: Future<Output = Result<T, AuthorityFailure>>,
    {
        let _flight = self.flight.lock().await;
        let now = self.clock.monotonic();
        let current = self.value().unwrap_or_else(|| Arc::clone(lacking));
        let cooling = self.state().missed_at.is_some_and(|at| now.saturating_sub(at) < COOLDOWN);
        if cooling || !Arc::ptr_eq(&current, lacking) {
            return current;
        }
        let fetched = fetch(RENEW_LIMIT.min(self.limit)).await;
        self.state().missed_at = Some(self.clock.monotonic());
        self.settle(fetched).unwrap_or(current)
    }

    /// Holds what `before` holds: it is the same document.
    pub(super) fn take_over(&self, before: &Kept<T>) {
        let (value, fetched_at, missed_at) = {
            let before = before.state();
            (before.value.clone(), before.fetched_at, before.missed_at)
        };
        let mut state = self.state();
        if state.value.is_none() {
            (state.value, state.fetched_at, state.missed_at) = (value, fetched_at, missed_at);
        }
    }

    /// Fetches the document anew whatever its age; where that fails, what there is stays.
    pub(super) async fn renew<F, R>(&self, fetch: F) -> Result<Arc<T>, AuthorityFailure>
    where
        F: FnOnce(Duration) -> R,
        R: Future<Output = Result<T, AuthorityFailure>>,
    {
        let _flight = self.flight.lock().await;
        self.settle(fetch(self.limit).await)
    }

    async fn first<F, R>(&self, fetch: F) -> Result<(Arc<T>, Used), AuthorityFailure>
    where
        F: FnOnce(Duration) -> R,
        R: Future<Output = Result<T, AuthorityFailure>>,
    {
        let _flight = self.flight.lock().await;
        if let Some(value) = self.value() {
            return Ok((value, Used::Fresh));
        }
        let now = self.clock.monotonic();
        if let Some((at, failure)) = &self.state().failed
            && now.saturating_sub(*at) < FAILURE_SHARED_FOR
        {
            return Err(failure.clone());
        }
        self.settle(fetch(self.limit).await).map(|value| (value, Used::Fresh))
    }

    fn settle(&self, fetched: Result<T, AuthorityFailure>) -> Result<Arc<T>, AuthorityFailure> {
        let now = self.clock.monotonic();
        let mut state = self.state();
        match fetched {
            Ok(value) => {
                let value = Arc::new(value);
                state.value = Some(Arc::clone(&value));
                state.fetched_at = now;
                state.failed = None;
                Ok(value)
            }
            Err(failure) => {
                state.failed = Some((now, failure.clone()));
                Err(failure)
            }
        }
    }

    fn value(&self) -> Option<Arc<T>> {
        self.state().value.clone()
    }

    fn is_due(&self) -> bool {
        let now = self.clock.monotonic();
        let state = self.state();
        let cooling = state.failed.as_ref().is_some_and(|(at, _)| now.saturating_sub(*at) < COOLDOWN);
        now.saturating_sub(state.fetched_at) >= RENEW_AFTER && !cooling
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock()
    }
}
