//! Tenants that have consented to scopes, as shown by connections that a caller may see. A caller learns
//! nothing about any other tenant, not even whether it has a connected account.
//!
//! Callers that start sessions or poll could cause a walk over connections with each request. Therefore a
//! result is reused for a moment, all of a caller's questions in that time share one walk, and a walk takes a
//! place as a list does.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::search::Search;
use super::{Broker, Refusal};
use crate::domain::connection::Status;
use crate::domain::id::{AppName, CallerName, ConnectionKey};
use crate::domain::scope::ScopeSet;
use crate::domain::time::Timestamp;
use crate::policy::CallerPolicy;

/// Most connections read in a walk.
const MOST_CONNECTIONS: usize = 2000;
const PAGE: usize = 100;
/// How long a result is reused.
const BELIEVED: Duration = Duration::from_secs(2);

/// Recent results, for each caller and app that asked.
#[derive(Default)]
pub(super) struct ShownConsents(Mutex<BTreeMap<(CallerName, AppName), Entry>>);

/// Locked by the request that walks; the others wait for its result.
type Entry = Arc<tokio::sync::Mutex<Option<Seen>>>;

struct Seen {
    /// Monotonic time at which the walk began.
    at: Duration,
    /// The rules it was judged by.
    policy: CallerPolicy,
    consents: Vec<Consent>,
}

/// Consent that active connections of a tenant show.
struct Consent {
    tenant: String,
    granted: Vec<String>,
    /// When the last of them was refreshed.
    shown_at: Timestamp,
}

impl Seen {
    fn is_believed(&self, caller: &CallerPolicy, monotonic: Duration) -> bool {
        monotonic.saturating_sub(self.at) < BELIEVED && self.policy == *caller
    }
}

impl ShownConsents {
    fn all(&self) -> MutexGuard<'_, BTreeMap<(CallerName, AppName), Entry>> {
        self.0.lock()
    }

    /// There are at most as many entries as callers and apps in the configuration.
    fn entry(&self, caller: &CallerPolicy, app: &AppName) -> Entry {
        self.all().entry((caller.caller.clone(), app.clone())).or_default().clone()
    }

    /// Forgets results of this app, because one of its connections has changed.
    pub(super) fn forget(&self, app: &AppName) {
        self.all().retain(|(_, of), _| of != app);
    }
}

impl Broker {
    /// Returns the tenant, as its accounts spell it, if an active connection that the caller may see has
    /// these scopes in its last answer (since then).
    ///
    /// # Errors
    /// The store is unavailable. (If too many walks are under way, no consent is known, and nobody is refused
    /// for that.)
    pub(super) async fn shown_consent(
        &self,
        caller: &CallerPolicy,
        app: &AppName,
        asked: &ScopeSet,
        tenant: &str,
        since: Option<Timestamp>,
    ) -> Result<Option<String>, Refusal> {
        let found = async {
            let known = self.app(app)?;
            let entry = self.shown_consents.entry(caller, app);
            let mut seen = self.before_long(entry.lock()).await?;
            let now = self.deps.clock.monotonic();
            if !seen.as_ref().is_some_and(|seen| seen.is_believed(caller, now)) {
                *seen = Some(self.look_for_consents(caller, app, now).await?);
            }
            let naming = known.naming();
            let shows = |consent: &&Consent| {
                let granted = naming.scopes_lossy(consent.granted.iter().map(String::as_str));
                tenant.eq_ignore_ascii_case(&consent.tenant)
                    && since.is_none_or(|since| consent.shown_at >= since)
                    && !asked.missing_from(&granted).iter().any(|scope| !scope.is_openid())
            };
            let consents = seen.iter().flat_map(|seen| &seen.consents);
            Ok(consents.into_iter().find(shows).map(|consent| consent.tenant.clone()))
        };
        match found.await {
            Err(Refusal::TooManyWalks { .. }) => Ok(None),
            found => found,
        }
    }

    async fn look_for_consents(
        &self,
        caller: &CallerPolicy,
        app: &AppName,
        at: Duration,
    ) -> Result<Seen, Refusal> {
        let _place = self.walk_permit(caller).await?;
        let mut shown: BTreeMap<(String, Vec<String>), Timestamp> = BTreeMap::new();
        let mut search = Search::new(app.clone(), caller.lookups(app), None);
        while search.read() < MOST_CONNECTIONS
            && let Some(found) = search.next(&self.deps.repository, PAGE, None).await?
        {
            for (connection, profile) in found {
                let key = ConnectionKey { app: app.clone(), connection };
                let Some(tid) = profile.account().tid.clone() else { continue };
                if profile.status() == Status::Active && caller.see(&key, Some(&tid)).is_ok() {
                    let at = shown
                        .entry((tid, profile.scopes_granted().to_vec()))
                        .or_insert(profile.last_refreshed_at());
                    *at = profile.last_refreshed_at().max(*at);
                }
            }
        }
        let consent = |((tenant, granted), shown_at)| Consent { tenant, granted, shown_at };
        Ok(Seen { at, policy: caller.clone(), consents: shown.into_iter().map(consent).collect() })
    }
}
