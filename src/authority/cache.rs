//! Cache of one of the authority's documents. One caller at a time fetches it; it is renewed while in use,
//! and kept if the renewal fails.

use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;
use std::time::Duration;

use super::observer::Endpoint;
use crate::domain::time::Clock;
use crate::domain::verdict::AuthorityFailure;

/// Age after which the next user renews a document.
const RENEW_AFTER: Duration = Duration::from_secs(3600);
/// Least time between two attempts to renew a document, and between two fetches for a missing key.
const COOLDOWN: Duration = Duration::from_secs(300);
/// How long a failure to get the first document is shared: concurrent callers share it, and the next caller
/// tries again.
const FAILURE_SHARED_FOR: Duration = Duration::from_secs(1);
/// Longest wait of a caller for the renewal of a document of which a good copy exists.
const RENEW_LIMIT: Duration = Duration::from_secs(3);

/// How a call used the cache, for events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Used {
    /// The document is as new as it should be.
    Fresh,
    /// It could not be renewed.
    LastGood,
}

/// A document, with the state of its fetches.
pub(super) struct Kept<T> {
    pub(super) endpoint: Endpoint,
    clock: Arc<dyn Clock>,
    /// Time limit for the first fetch.
    limit: Duration,
    state: Mutex<State<T>>,
    /// Held during a fetch, and never by a caller that can use the present document.
    flight: tokio::sync::Mutex<()>,
}

struct State<T> {
    value: Option<Arc<T>>,
    /// Monotonic time at which `value` came.
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

    /// Returns the document; `fetch` gets its time limit.
    pub(super) async fn get<F, R>(&self, fetch: F) -> Result<(Arc<T>, Used), AuthorityFailure>
    where
        F: FnOnce(Duration) -> R,
        R: Future<Output = Result<T, AuthorityFailure>>,
    {
        let Some(value) = self.value() else { return self.first(fetch).await };
        if !self.is_due() {
            return Ok((value, Used::Fresh));
        }
        // Callers that come during a renewal get the old document.
        let Ok(_flight) = self.flight.try_lock() else { return Ok((value, Used::Fresh)) };
        if !self.is_due() {
            return Ok((self.value().unwrap_or(value), Used::Fresh));
        }
        match self.settle(fetch(RENEW_LIMIT.min(self.limit)).await) {
            Ok(new) => Ok((new, Used::Fresh)),
            Err(_) => Ok((value, Used::LastGood)),
        }
    }

    /// Returns the document if it is here; nothing is fetched.
    pub(super) fn held(&self) -> Option<Arc<T>> {
        self.value()
    }

    /// Fetches the document again because `lacking` lacks something, at most once in five minutes; otherwise
    /// returns the present one.
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

    /// Takes over the content of `before`, which is for the same document.
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

    /// Fetches the document again, whatever its age. If that fails, the present one stays.
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
