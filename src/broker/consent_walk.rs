//! Tries the blocked connections of a tenant after a report that its administrator has consented, or once one
//! of them works again.
//!
//! Anyone with the link can report any tenant, as often as they like. Therefore a tenant is tried once a
//! minute. One walk over the app's connections searches for all waiting tenants, one walk at a time. They are
//! tried in turn, one connection of each tenant, out of the budget that all calls of this kind share. A
//! report that comes while its tenant has had its turn is kept for the next. If nothing is blocked, a working
//! connection is tried as the proof, one that the session's starter may see, since no other proves anything
//! to it.

use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Broker;
use crate::domain::cause::Cause;
use crate::domain::connection::Status;
use crate::domain::id::{AppName, CallerName, ConnectionKey};
use crate::policy::CallerPolicy;

/// Least time between two tries of a tenant.
const TENANT_AGAIN: Duration = Duration::from_secs(60);
/// Time between two checks for due tenants: all reports in between share one walk.
const LOOK: Duration = Duration::from_secs(1);
/// Most tenants that wait for their turn or have just had it.
const MOST_TENANTS: usize = 1000;
/// Most connections of one tenant tried for one report, and of all tenants tried in one walk.
const MOST_OF_A_TENANT: usize = 2000;
const MOST_OF_A_WALK: usize = 10_000;
const PAGE: usize = 100;

/// Tenants that were reported a moment ago.
#[derive(Default)]
pub(super) struct Reports {
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    /// True if a task handles waiting reports.
    is_seen_to: bool,
    tenants: BTreeMap<(AppName, String), Report>,
}

/// State of a tenant.
#[derive(Default)]
struct Report {
    /// Monotonic time of its last try.
    tried_at: Option<Duration>,
    /// True if it was reported since.
    waits: bool,
    /// The callers that started the sessions, all from the configuration.
    starters: Starters,
}

type Starters = BTreeSet<CallerName>;
/// Due tenants, and the callers that wait for their proof.
type Turns = BTreeMap<String, Starters>;

impl Report {
    fn has_had_its_turn(&self, now: Duration) -> bool {
        self.tried_at.is_some_and(|at| now.saturating_sub(at) < TENANT_AGAIN)
    }
}

impl Reports {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock()
    }
}

impl Book {
    /// Records a report at `now` (monotonic). Returns true if a task must be started to handle it.
    fn note(&mut self, app: &AppName, tenant: &str, starter: Option<CallerName>, now: Duration) -> bool {
        self.tenants.retain(|_, report| report.waits || report.has_had_its_turn(now));
        let one = (app.clone(), tenant.to_owned());
        if self.tenants.len() >= MOST_TENANTS && !self.tenants.contains_key(&one) {
            // A waiting tenant is worth more than the knowledge that another was tried.
            let tried = self.tenants.iter().find(|(_, report)| !report.waits).map(|(one, _)| one.clone());
            let Some(tried) = tried else {
                tracing::warn!(
                    %app,
                    "too many tenants were reported to have consented; further reports are dropped, and \
                     blocked connections are tried again at their time"
                );
                return false;
            };
            self.tenants.remove(&tried);
        }
        let report = self.tenants.entry(one).or_default();
        report.waits = true;
        report.starters.extend(starter);
        !std::mem::replace(&mut self.is_seen_to, true)
    }

    /// Returns the due tenants by app and marks them as tried; `None` if nothing waits any more, and the task
    /// ends.
    fn turns(&mut self, now: Duration) -> Option<BTreeMap<AppName, Turns>> {
        let mut turns: BTreeMap<AppName, Turns> = BTreeMap::new();
        for ((app, tenant), report) in &mut self.tenants {
            if report.waits && !report.has_had_its_turn(now) {
                let starters = std::mem::take(&mut report.starters);
                *report = Report { tried_at: Some(now), ..Report::default() };
                turns.entry(app.clone()).or_default().insert(tenant.clone(), starters);
            }
        }
        self.is_seen_to = !turns.is_empty() || self.tenants.values().any(|report| report.waits);
        self.is_seen_to.then_some(turns)
    }
}

impl Broker {
    /// A connection of this tenant works that was blocked: the others are tried now, too.
    pub(super) fn try_tenant_again(self: &Arc<Self>, app: &AppName, tenant: &str) {
        self.note_tenant(app, tenant.to_ascii_lowercase(), None);
    }

    /// Records that a browser came back from an admin consent page for a session of that caller and named
    /// this tenant.
    pub(super) fn note_reported_consent(
        self: &Arc<Self>,
        app: &AppName,
        unverified_tenant: &str,
        starter: &str,
    ) {
        self.note_tenant(app, unverified_tenant.to_ascii_lowercase(), CallerName::parse(starter).ok());
    }

    fn note_tenant(self: &Arc<Self>, app: &AppName, tenant: String, starter: Option<CallerName>) {
        let is_id = tenant.len() == 36 && tenant.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        // Accounts have tenant ids: no other name would match.
        if !is_id || !self.reports.book().note(app, &tenant, starter, self.deps.clock.monotonic()) {
            return;
        }
        let broker = Arc::clone(self);
        let see_to_it = async move { broker.see_to_reports().await };
        self.deps.tasks.spawn("try the blocked connections of tenants", Box::pin(see_to_it));
    }

    async fn see_to_reports(&self) {
        loop {
            let Some(turns) = self.reports.book().turns(self.deps.clock.monotonic()) else { return };
            for (app, tenants) in turns {
                self.try_blocked_of(&app, &tenants).await;
            }
            if self.stopping.load(Ordering::Acquire) {
                return;
            }
            self.deps.clock.sleep(LOOK).await;
        }
    }

    /// Tries the blocked connections of these tenants now instead of at their time. If a tenant has none, one
    /// working connection is tried for each waiting caller that may see it: its token call is the proof.
    async fn try_blocked_of(&self, app: &AppName, tenants: &Turns) {
        let mut blocked: BTreeMap<&str, VecDeque<ConnectionKey>> = BTreeMap::new();
        let mut working: BTreeMap<&str, Working> = BTreeMap::new();
        for (tenant, starters) in tenants {
            let unproven = starters.iter().filter_map(|starter| self.deps.policies.policy_of(starter));
            working.insert(tenant, Working { unproven: unproven.collect(), proofs: VecDeque::new() });
        }
        let (mut after, mut found) = (None, 0);
        loop {
            let Ok(page) = self.deps.repository.list(app, "", after.as_ref(), PAGE).await else { return };
            for (connection, profile) in page.profiles {
                let tid = profile.account().tid.as_deref().map(str::to_ascii_lowercase);
                let Some((tenant, _)) = tid.and_then(|tid| tenants.get_key_value(&tid)) else { continue };
                let key = ConnectionKey { app: app.clone(), connection };
                match profile.status() {
                    Status::Active => {
                        if let Some(working) = working.get_mut(tenant.as_str()) {
                            working.take(key, tenant);
                        }
                    }
                    Status::Blocked(_) => {
                        let of_tenant = blocked.entry(tenant).or_default();
                        if of_tenant.len() < MOST_OF_A_TENANT {
                            of_tenant.push_back(key);
                            found += 1;
                        }
                    }
                    Status::NeedsReauthorization(_) | Status::Paused => {}
                }
            }
            after = page.next;
            if after.is_none() || found >= MOST_OF_A_WALK || self.stopping.load(Ordering::Acquire) {
                break;
            }
        }
        for (tenant, working) in working {
            blocked.entry(tenant).or_insert(working.proofs);
        }
        let mut queues: VecDeque<VecDeque<ConnectionKey>> = blocked.into_values().collect();
        while let Some(mut queue) = queues.pop_front() {
            let Some(key) = queue.pop_front() else { continue };
            let permit = loop {
                match self.deps.engine.take(Cause::Consent, None) {
                    Ok(permit) => break permit,
                    Err(_) if self.stopping.load(Ordering::Acquire) => return,
                    Err(wait) => self.deps.clock.sleep(wait).await,
                }
            };
            self.deps.engine.try_now(&key, Some(permit));
            queues.push_back(queue);
        }
    }
}

/// Working connections of a tenant, and the callers that may see none of them.
struct Working {
    unproven: Vec<CallerPolicy>,
    proofs: VecDeque<ConnectionKey>,
}

impl Working {
    fn take(&mut self, key: ConnectionKey, tenant: &str) {
        let before = self.unproven.len();
        self.unproven.retain(|caller| caller.see(&key, Some(tenant)).is_err());
        if self.unproven.len() < before {
            self.proofs.push_back(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn app() -> AppName {
        AppName::parse("outlook").expect("a name")
    }

    fn turns(book: &mut Book, seconds: u64) -> Option<Vec<String>> {
        book.turns(at(seconds)).map(|turns| turns.into_values().flat_map(Turns::into_keys).collect())
    }

    #[test]
    fn a_tenant_has_its_turn_once_a_minute_and_what_is_reported_meanwhile_waits() {
        let mut book = Book::default();
        assert!(book.note(&app(), "a", None, at(0)), "somebody has to see to it");
        assert!(
            !book.note(&app(), "a", None, at(0)) && !book.note(&app(), "b", None, at(0)),
            "somebody does"
        );
        assert_eq!(turns(&mut book, 0), Some(vec!["a".to_owned(), "b".to_owned()]));
        assert!(!book.note(&app(), "a", None, at(1)));
        for seconds in 1..60 {
            assert_eq!(turns(&mut book, seconds), Some(vec![]), "it waits");
        }
        assert_eq!(turns(&mut book, 60), Some(vec!["a".to_owned()]));
        assert_eq!(turns(&mut book, 61), None, "nothing waits any more");
        assert!(book.note(&app(), "a", None, at(62)));
        assert_eq!(turns(&mut book, 62), Some(vec![]));
        assert_eq!(turns(&mut book, 120), Some(vec!["a".to_owned()]));
    }

    #[test]
    fn tenants_that_are_made_up_take_no_room_from_those_that_wait() {
        let mut book = Book::default();
        for number in 0..MOST_TENANTS * 2 {
            book.note(&app(), &number.to_string(), None, at(0));
        }
        assert_eq!(turns(&mut book, 0).map(|turns| turns.len()), Some(MOST_TENANTS));
        book.note(&app(), "honest", None, at(1));
        assert_eq!(turns(&mut book, 1), Some(vec!["honest".to_owned()]));
    }
}
