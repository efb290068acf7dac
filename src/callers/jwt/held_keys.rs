//! The keys of one issuer, as they are held: fetched beside the requests, and kept until others come.
//!
//! A request whose key is held waits for nothing. One whose key is not waits for a fetch, at most
//! [`WAIT`]; anybody can send such a request, so it causes a fetch at most once in [`MISS_COOLDOWN`].

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use crate::domain::task::Tasks;
use crate::domain::time::{Clock, Timestamp};
use crate::flight::Flight;
use crate::jwt::{FetchKeys, PublishedKeys};

/// Age at which keys are fetched anew. A key that its issuer withdraws is believed no longer than this, the
/// second between two looks and the fetch itself: less than five minutes.
const RENEW_AFTER: Duration = Duration::from_secs(4 * 60);
/// The least time between a fetch that failed and the next one, when no keys are held yet and otherwise.
const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(30);
/// The least time between two fetches for tokens whose key is not held.
const MISS_COOLDOWN: Duration = Duration::from_secs(5 * 60);
/// Longest wait of a request for a fetch.
const WAIT: Duration = Duration::from_secs(3);

/// Receives the end of each fetch. It must not block.
pub trait KeyObserver: Send + Sync {
    /// A fetch of this issuer's keys ended at this instant, well or not.
    fn keys_fetched(&self, issuer: &str, at: Timestamp, is_ok: bool);
}

/// What fetching keys needs.
#[derive(Clone)]
pub struct KeyParts {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Runs fetches, which no request's end ends.
    pub tasks: Arc<dyn Tasks>,
    /// Receives events.
    pub observer: Arc<dyn KeyObserver>,
}

/// The keys of one issuer.
pub struct HeldKeys {
    /// The issuer's name in the configuration.
    name: String,
    /// `None` for keys from a file, which only a reload changes.
    fetch: Option<(Arc<dyn FetchKeys>, KeyParts)>,
    held: ArcSwapOption<PublishedKeys>,
    state: Mutex<State>,
}

/// Monotonic times.
#[derive(Default)]
struct State {
    flight: Option<Flight<()>>,
    /// When the held keys came.
    fetched_at: Option<Duration>,
    /// When a fetch last failed, since the last one that did not.
    failed_at: Option<Duration>,
    /// When a token's key was last missed and caused a fetch.
    missed_at: Option<Duration>,
}

impl HeldKeys {
    /// Holds these keys for ever.
    pub fn fixed(name: &str, keys: PublishedKeys) -> Self {
        HeldKeys {
            name: name.to_owned(),
            fetch: None,
            held: ArcSwapOption::from_pointee(keys),
            state: Mutex::default(),
        }
    }

    /// Holds none yet. [`HeldKeys::renew_if_due`] fetches them.
    pub fn fetched(name: &str, fetch: Arc<dyn FetchKeys>, parts: KeyParts) -> Self {
        HeldKeys {
            name: name.to_owned(),
            fetch: Some((fetch, parts)),
            held: ArcSwapOption::empty(),
            state: Mutex::default(),
        }
    }

    /// Takes over the keys that were fetched from the same place in another way. They are fetched anew at
    /// once.
    pub fn take_over(&self, before: &HeldKeys) {
        let Some((_, KeyParts { clock, .. })) = &self.fetch else { return };
        if let Some(keys) = before.held() {
            self.held.store(Some(keys));
            self.state.lock().fetched_at = Some(clock.monotonic().saturating_sub(RENEW_AFTER));
        }
    }

    /// Returns the keys; `None` if there never were any.
    pub(super) fn held(&self) -> Option<Arc<PublishedKeys>> {
        self.held.load_full()
    }

    /// Returns the keys after one was missed: those of a fetch, if there may be one now, or of the one under
    /// way. Waits for it for a limited time.
    pub(super) async fn after_miss(self: &Arc<Self>) -> Option<Arc<PublishedKeys>> {
        let Some((_, KeyParts { clock, .. })) = &self.fetch else { return self.held() };
        let under_way = {
            let now = clock.monotonic();
            let mut state = self.state.lock();
            let under_way = state.flight.clone().filter(Flight::is_under_way);
            let may_fetch = match state.fetched_at {
                Some(_) => {
                    is_over(state.missed_at, MISS_COOLDOWN, now) && is_over(state.failed_at, RETRY, now)
                }
                // Without any keys every token misses its own.
                None => is_over(state.failed_at, RETRY_FIRST, now),
            };
            if under_way.is_none() && may_fetch {
                state.missed_at = Some(now);
                self.start(&mut state)
            } else {
                under_way
            }
        };
        if let Some(flight) = under_way {
            tokio::select! {
                _ = flight.landed() => {}
                () = clock.sleep(WAIT) => {}
            }
        }
        self.held()
    }

    /// Starts a fetch if the keys are old enough. To be called every second.
    pub fn renew_if_due(self: &Arc<Self>) {
        let Some((_, KeyParts { clock, .. })) = &self.fetch else { return };
        let now = clock.monotonic();
        let mut state = self.state.lock();
        let is_due = match state.fetched_at {
            None => is_over(state.failed_at, RETRY_FIRST, now),
            // What failed is tried again, also if it was for a token whose key is not held.
            Some(_) => match state.failed_at {
                Some(_) => is_over(state.failed_at, RETRY, now),
                None => is_over(state.fetched_at, RENEW_AFTER, now),
            },
        };
        if is_due {
            let _beside = self.start(&mut state);
        }
    }

    /// Fetches the keys whatever their age, and waits for it: for an operator who knows that a key must no
    /// longer be believed. `Err` says that the keys from before are believed still.
    pub async fn renew(self: &Arc<Self>) -> Result<(), String> {
        let Some((_, KeyParts { clock, .. })) = &self.fetch else { return Ok(()) };
        // A fetch under way may have read the keys before the issuer withdrew one.
        let under_way = self.state.lock().flight.clone().filter(Flight::is_under_way);
        if let Some(flight) = under_way {
            let _ = flight.landed().await;
        }
        let began = clock.monotonic();
        let flight = self.start(&mut self.state.lock());
        if let Some(flight) = flight {
            let _ = flight.landed().await;
        }
        match self.state.lock().fetched_at {
            Some(at) if at >= began => Ok(()),
            _ => Err("they could not be fetched; the log says why".to_owned()),
        }
    }

    /// Joins the fetch under way, or starts one.
    fn start(self: &Arc<Self>, state: &mut State) -> Option<Flight<()>> {
        let (_, KeyParts { tasks, .. }) = self.fetch.as_ref()?;
        let this = Arc::clone(self);
        Some(Flight::join(&mut state.flight, |landing| {
            let work = async move {
                this.fetch_now().await;
                landing.land(());
            };
            tasks.spawn("fetch an issuer's keys", Box::pin(work));
        }))
    }

    async fn fetch_now(&self) {
        let Some((fetch, KeyParts { clock, observer, .. })) = &self.fetch else { return };
        let fetched = fetch.fetch().await;
        let (now, issuer) = (clock.monotonic(), self.name.as_str());
        observer.keys_fetched(issuer, clock.now(), fetched.is_ok());
        let mut state = self.state.lock();
        match fetched {
            Ok(keys) => {
                if state.failed_at.take().is_some() || state.fetched_at.is_none() {
                    tracing::info!(issuer, "the issuer's keys were fetched");
                }
                if keys.keys.is_empty() {
                    tracing::error!(
                        issuer,
                        "the issuer publishes no key any more that can be used: its tokens are refused"
                    );
                }
                self.held.store(Some(Arc::new(keys)));
                state.fetched_at = Some(now);
            }
            Err(cause) => {
                state.failed_at = Some(now);
                state.missed_at = None;
                match state.fetched_at {
                    Some(at) => tracing::warn!(
                        issuer,
                        cause,
                        age_seconds = now.saturating_sub(at).as_secs(),
                        "the issuer's keys could not be fetched; those from before stay in use"
                    ),
                    None => tracing::error!(
                        issuer,
                        cause,
                        "the issuer's keys could not be fetched yet: its tokens are refused until they are"
                    ),
                }
            }
        }
    }
}

/// Returns true if `pause` has passed since an instant, or there was none.
fn is_over(since: Option<Duration>, pause: Duration, now: Duration) -> bool {
    since.is_none_or(|since| now.saturating_sub(since) >= pause)
}
