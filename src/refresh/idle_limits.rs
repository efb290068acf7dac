//! How long idle grants of each tenant were seen to last.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::domain::id::AppName;

/// Tenants whose idle limit is remembered.
const MOST_LIMITS: usize = 10_000;

/// How long idle grants were seen to last, by app and tenant, if that was too short.
#[derive(Default)]
pub(super) struct IdleLimits {
    known: Mutex<BTreeMap<(AppName, String), Option<Duration>>>,
}

impl IdleLimits {
    pub(super) fn of(&self, app: &AppName, tenant: String) -> Option<Duration> {
        self.known.lock().get(&(app.clone(), tenant)).copied().flatten()
    }

    /// Whether it is known which limit the tenant has, or that it has none.
    pub(super) fn knows(&self, one: &(AppName, String)) -> bool {
        self.known.lock().contains_key(one)
    }

    /// Another process noted this limit of a tenant, or none.
    pub(super) fn learn(&self, one: (AppName, String), limit: Option<Duration>) {
        let mut limits = self.known.lock();
        if limits.len() >= MOST_LIMITS {
            limits.pop_first();
        }
        limits.insert(one, limit);
    }

    /// Notes a shorter limit. Returns false if one as short is known.
    pub(super) fn note(&self, app: &AppName, tenant: String, lasted: Duration) -> bool {
        let mut limits = self.known.lock();
        let known = limits.entry((app.clone(), tenant)).or_insert(None);
        if known.is_some_and(|known| known <= lasted) {
            return false;
        }
        *known = Some(lasted);
        true
    }
}
