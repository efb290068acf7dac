//! The tokens of apps themselves in memory, with what went wrong lately and the renewals under way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::AppTokenKey;
use crate::domain::id::AppName;
use crate::domain::random::Random;
use crate::domain::revocation::Revocation;
use crate::domain::time::Timestamp;
use crate::domain::token::{Freshness, HeldToken};
use crate::domain::verdict::Disposition;
use crate::flight::{self, Landing};
use crate::refresh::due::USED_WITHIN;
use crate::refresh::failure::Failure;
use crate::refresh::slot::{Flight, next_try_after};

/// Most entries. A token takes a few KiB. Beyond it those without a living token leave first, and then those
/// that nobody asked for the longest.
pub(super) const MOST: usize = 4096;

/// All tokens of apps themselves.
#[derive(Default)]
pub(in crate::refresh) struct AppTokens {
    entries: Mutex<BTreeMap<AppTokenKey, Entry>>,
}

#[derive(Default)]
struct Entry {
    /// With the registration that it is of.
    token: Option<(String, Arc<HeldToken>)>,
    trouble: Option<Trouble>,
    renewal: Option<Flight>,
    /// Monotonic.
    asked_at: Duration,
}

/// The last failure.
struct Trouble {
    /// Monotonic time until which nobody tries again.
    until: Duration,
    /// How many in a row.
    failures: u32,
    failure: Arc<Failure>,
}

/// What is known for one request.
pub(super) struct Known {
    pub(super) token: Option<Arc<HeldToken>>,
    /// The last failure, while nobody tries again.
    pub(super) trouble: Option<Arc<Failure>>,
    /// Whether the last try failed, however long ago.
    pub(super) is_failing: bool,
}

impl AppTokens {
    /// Returns what is known, for a request at `now` (monotonic). A token of another registration is none.
    pub(super) fn look(&self, key: &AppTokenKey, registration: &str, now: Duration) -> Known {
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(key) else {
            return Known { token: None, trouble: None, is_failing: false };
        };
        entry.asked_at = now;
        if entry.token.as_ref().is_some_and(|(of, _)| of != registration) {
            (entry.token, entry.trouble) = (None, None);
        }
        let trouble = entry.trouble.as_ref();
        Known {
            token: entry.token.as_ref().map(|(_, token)| token.clone()),
            trouble: trouble.filter(|trouble| now < trouble.until).map(|trouble| trouble.failure.clone()),
            is_failing: trouble.is_some(),
        }
    }

    /// Returns the token if it lives.
    pub(super) fn living(&self, key: &AppTokenKey, now: Timestamp) -> Option<Arc<HeldToken>> {
        let entries = self.entries.lock();
        let (_, token) = entries.get(key)?.token.as_ref()?;
        (token.freshness(now, Duration::ZERO) != Freshness::Expired).then(|| token.clone())
    }

    /// Returns the tokens whose renewal is due though nobody asks at the moment, the first to end first:
    /// those that live, were asked for lately, and did not fail just now. `now` is the clock's and the
    /// monotonic time, `registration` says which one is an app's now.
    pub(super) fn due(
        &self,
        now: (Timestamp, Duration),
        registration: impl Fn(&AppName) -> String,
    ) -> Vec<AppTokenKey> {
        let entries = self.entries.lock();
        let mut due: Vec<(Timestamp, &AppTokenKey)> = entries
            .iter()
            .filter(|(_, entry)| now.1.saturating_sub(entry.asked_at) < USED_WITHIN)
            .filter(|(_, entry)| entry.trouble.as_ref().is_none_or(|trouble| trouble.until <= now.1))
            .filter_map(|(key, entry)| Some((key, entry.token.as_ref()?)))
            .filter(|(_, (_, token))| token.expires_at > now.0)
            .filter(|(_, (_, token))| token.refresh_at.is_some_and(|at| at <= now.0))
            .filter(|(key, (of, _))| *of == registration(&key.app))
            .map(|(key, (_, token))| (token.expires_at, key))
            .collect();
        due.sort_unstable();
        due.into_iter().map(|(_, key)| key.clone()).collect()
    }

    /// Joins the renewal under way, or has `start` start one.
    pub(super) fn join(
        &self,
        key: &AppTokenKey,
        now: (Timestamp, Duration),
        start: impl FnOnce(Landing<Result<(), Arc<Failure>>>),
    ) -> Flight {
        let mut entries = self.entries.lock();
        if !entries.contains_key(key) {
            make_room(&mut entries, now.0);
        }
        let fresh = || Entry { asked_at: now.1, ..Entry::default() };
        flight::Flight::join(&mut entries.entry(key.clone()).or_insert_with(fresh).renewal, start)
    }

    /// Keeps a new token.
    pub(super) fn put(&self, key: &AppTokenKey, registration: String, token: HeldToken) {
        let mut entries = self.entries.lock();
        let entry = entries.entry(key.clone()).or_default();
        (entry.token, entry.trouble) = (Some((registration, Arc::new(token))), None);
    }

    /// Notes a failure at `now` (monotonic), and returns how many there were in a row. `left`: for how long
    /// the tenant's breaker is open, if that is the reason.
    pub(super) fn failed(
        &self,
        key: &AppTokenKey,
        failure: &Arc<Failure>,
        left: Option<Duration>,
        now: Duration,
        random: &dyn Random,
    ) -> u32 {
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(key) else { return 1 };
        let failures = entry.trouble.as_ref().map_or(0, |trouble| trouble.failures) + 1;
        let until = now + left.unwrap_or_else(|| next_try_after(failure, failures, random));
        entry.trouble = Some(Trouble { until, failures, failure: failure.clone() });
        failures
    }

    /// Failures that may have been the app's are over: its credentials are others.
    pub(in crate::refresh) fn app_is_mended(&self, app: &AppName) {
        for (_, entry) in self.entries.lock().iter_mut().filter(|(key, _)| key.app == *app) {
            let is_the_apps = |trouble: &Trouble| {
                let disposition = trouble.failure.disposition();
                matches!(disposition, Some(Disposition::NextCredential | Disposition::Unclear))
            };
            if entry.trouble.as_ref().is_some_and(is_the_apps) {
                entry.trouble = None;
            }
        }
    }

    /// Forgets the tokens of other apps than these.
    pub(in crate::refresh) fn keep_only(&self, is_there: impl Fn(&AppName) -> bool) {
        self.entries.lock().retain(|key, _| is_there(&key.app));
    }

    /// Forgets the tokens that an operator revoked.
    pub(in crate::refresh) fn revoke(&self, revocation: &Revocation) {
        for (key, entry) in self.entries.lock().iter_mut() {
            if entry.token.as_ref().is_some_and(|(_, token)| is_meant(revocation, key, token)) {
                entry.token = None;
            }
        }
    }

    /// Returns how many entries there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.lock().len()
    }
}

/// Whether an operator revoked the token. A revocation for one caller ends no token that others have too.
pub(super) fn is_meant(revocation: &Revocation, key: &AppTokenKey, token: &HeldToken) -> bool {
    let is_of_one_caller = revocation.caller.is_some();
    !is_of_one_caller && revocation.covers_what_began(&key.app, key.tenant.as_deref(), "", token.issued_at)
}

/// Makes room for one entry at the least: a quarter of all leave at once, so that this is seldom done.
fn make_room(entries: &mut BTreeMap<AppTokenKey, Entry>, now: Timestamp) {
    if entries.len() < MOST {
        return;
    }
    let mut by_worth: Vec<(bool, Duration, AppTokenKey)> = entries
        .iter()
        .filter(|(_, entry)| entry.renewal.as_ref().is_none_or(|renewal| !renewal.is_under_way()))
        .map(|(key, entry)| {
            let lives = |(_, token): &(String, Arc<HeldToken>)| token.expires_at > now;
            (entry.token.as_ref().is_some_and(lives), entry.asked_at, key.clone())
        })
        .collect();
    by_worth.sort();
    for (_, _, key) in by_worth.into_iter().take(MOST / 4) {
        entries.remove(&key);
    }
}
