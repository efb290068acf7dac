//! Tries the blocked connections of a tenant after a report that its administrator has consented, or once one
//! of them works again.
//!
//! Anyone with the link can report any tenant, as often as they like. Therefore a tenant is tried once a
//! minute, by one of the replicas. One walk over the app's connections searches for all waiting tenants, one
//! walk at a time. They are tried in turn, one connection of each tenant, out of the budget that all calls of
//! this kind share. A tenant with many goes on in the next walk, with whoever has come since. A report that
//! comes while its tenant has had its turn is kept for the next. If nothing is blocked, a working connection
//! is tried as the proof, one that the session's starter may see, since no other proves anything to it.

use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Broker;
use crate::domain::cause::Cause;
use crate::domain::connection::{Profile, Status};
use crate::domain::id::{AppName, CallerName, ConnectionKey, ConnectionName};
use crate::domain::time::Timestamp;
use crate::policy::CallerPolicy;
use crate::repository::{FiledUnder, Kind, RepositoryError};

/// Least time between two tries of a tenant.
const TENANT_AGAIN: Duration = Duration::from_secs(60);
/// Time between two checks for due tenants: all reports in between share one walk.
const LOOK: Duration = Duration::from_secs(1);
/// Most tenants that wait for their turn or have just had it.
const MOST_TENANTS: usize = 1000;
/// Most connections of one tenant, and of all tenants, that are tried in one walk. The next has the others.
const MOST_OF_A_TENANT: usize = 1000;
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
    /// What is left of its turn.
    rest: Option<Turn>,
}

type Starters = BTreeSet<CallerName>;

/// A tenant's turn, or what is left of one.
#[derive(Debug, Default, PartialEq, Eq)]
struct Turn {
    /// The callers that wait for their proof.
    starters: Starters,
    /// The last connection that was looked at; `None` at the beginning.
    after: Option<ConnectionName>,
    /// True if a blocked connection was found: no other proof is needed.
    had_blocked: bool,
}

/// Due tenants.
type Turns = BTreeMap<String, Turn>;

impl Report {
    fn has_had_its_turn(&self, now: Duration) -> bool {
        self.tried_at.is_some_and(|at| now.saturating_sub(at) < TENANT_AGAIN)
    }

    fn is_due(&self) -> bool {
        self.waits || self.rest.is_some()
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
        self.tenants.retain(|_, report| report.is_due() || report.has_had_its_turn(now));
        let one = (app.clone(), tenant.to_owned());
        if self.tenants.len() >= MOST_TENANTS && !self.tenants.contains_key(&one) {
            // A waiting tenant is worth more than the knowledge that another was tried.
            let tried = self.tenants.iter().find(|(_, report)| !report.is_due()).map(|(one, _)| one.clone());
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
            let mut turn = report.rest.take();
            if turn.is_none() && report.waits && !report.has_had_its_turn(now) {
                let starters = std::mem::take(&mut report.starters);
                *report = Report { tried_at: Some(now), ..Report::default() };
                turn = Some(Turn { starters, ..Turn::default() });
            }
            if let Some(turn) = turn {
                turns.entry(app.clone()).or_default().insert(tenant.clone(), turn);
            }
        }
        self.is_seen_to = !turns.is_empty() || self.tenants.values().any(Report::is_due);
        self.is_seen_to.then_some(turns)
    }

    /// Keeps what is left of a turn for the next walk.
    fn go_on(&mut self, app: &AppName, tenant: &str, rest: Turn) {
        self.tenants.entry((app.clone(), tenant.to_owned())).or_default().rest = Some(rest);
    }

    /// Another replica tried the tenant so long ago: this turn is when its minute is over.
    fn had_its_turn(&mut self, app: &AppName, tenant: &str, starters: Starters, tried_at: Duration) {
        let report = self.tenants.entry((app.clone(), tenant.to_owned())).or_default();
        report.tried_at = Some(tried_at);
        report.waits = true;
        report.starters.extend(starters);
    }
}

impl Broker {
    /// A connection of this tenant works that was blocked: the others are tried now, too. The tenant is empty
    /// where the authority has none.
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
        let tenant = unverified_tenant.to_ascii_lowercase();
        // Entra names a tenant by its id, as it does in accounts. No other name would find one.
        let is_id = tenant.len() == 36 && tenant.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        if is_id {
            self.note_tenant(app, tenant, CallerName::parse(starter).ok());
        }
    }

    fn note_tenant(self: &Arc<Self>, app: &AppName, tenant: String, starter: Option<CallerName>) {
        if !self.reports.book().note(app, &tenant, starter, self.deps.clock.monotonic()) {
            return;
        }
        let broker = Arc::clone(self);
        let see_to_it = async move { broker.see_to_reports().await };
        self.deps.tasks.spawn("try the blocked connections of tenants", Box::pin(see_to_it));
    }

    async fn see_to_reports(&self) {
        loop {
            let Some(turns) = self.reports.book().turns(self.deps.clock.monotonic()) else { return };
            for (app, mut tenants) in turns {
                self.leave_to_others(&app, &mut tenants).await;
                self.try_blocked_of(&app, tenants).await;
            }
            if self.stopping.load(Ordering::Acquire) {
                return;
            }
            self.deps.clock.sleep(LOOK).await;
        }
    }

    /// Takes those tenants out whose turn another replica had within the minute: they wait for the next.
    async fn leave_to_others(&self, app: &AppName, tenants: &mut Turns) {
        if !self.deps.repository.is_shared() {
            return;
        }
        let begun = tenants.iter().filter(|(_, turn)| turn.after.is_none());
        let begun: Vec<String> = begun.map(|(tenant, _)| tenant.clone()).collect();
        for name in begun {
            // If the store cannot say it, no connection can be read from it either.
            let Ok(Some(ago)) = self.take_turn(app, &name).await else { continue };
            let Some(turn) = tenants.remove(&name) else { continue };
            let tried_at = self.deps.clock.monotonic().saturating_sub(ago);
            self.reports.book().had_its_turn(app, &name, turn.starters, tried_at);
        }
    }

    /// Takes the tenant's turn of this minute. If another replica had it, returns how long ago.
    async fn take_turn(&self, app: &AppName, tenant: &str) -> Result<Option<Duration>, RepositoryError> {
        let (repository, id) = (&self.deps.repository, FiledUnder::app_in_tenant(app, tenant));
        loop {
            let now = self.deps.clock.now();
            let before = repository.pending::<Timestamp>(Kind::ConsentTried, &id).await?;
            // (If a clock was set back, the record says nothing.)
            if let Some(at) = before.as_ref().map(|before| before.value)
                && now.since(at) < TENANT_AGAIN
                && at.since(now) < TENANT_AGAIN
            {
                return Ok(Some(now.since(at)));
            }
            let kind = Kind::ConsentTried;
            if repository.swap_pending(kind, &id, before.as_ref(), &now, now, TENANT_AGAIN).await? {
                return Ok(None);
            }
        }
    }

    /// Tries the blocked connections of these tenants now instead of at their time. If a tenant has none, one
    /// working connection is tried for each waiting caller that may see it: its token call is the proof.
    async fn try_blocked_of(&self, app: &AppName, tenants: Turns) {
        let mut walk = Walk::default();
        for (tenant, turn) in tenants {
            let unproven = turn.starters.iter().filter_map(|starter| self.deps.policies.policy_of(starter));
            let unproven = unproven.collect();
            walk.tenants.insert(tenant, Search { unproven, turn, ..Search::default() });
        }
        let mut after = walk.begins_after();
        loop {
            let page = match self.deps.repository.list(app, "", after.as_ref(), PAGE).await {
                Ok(page) => page,
                Err(error) => {
                    // (What is damaged stays so: the rest is not tried again every second.)
                    match error.is_outage() {
                        true => walk.stops_after(after.as_ref()),
                        false => {
                            tracing::warn!(%app, %error, "blocked connections are not all tried at once")
                        }
                    }
                    break;
                }
            };
            for (connection, profile) in page.profiles {
                walk.take(ConnectionKey { app: app.clone(), connection }, &profile);
            }
            after = page.next;
            if after.is_none() || self.stopping.load(Ordering::Acquire) {
                break;
            }
            if walk.is_full() {
                walk.stops_after(after.as_ref());
                break;
            }
        }
        let (mut queues, rests) = walk.over();
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
        let mut book = self.reports.book();
        rests.into_iter().for_each(|(tenant, rest)| book.go_on(app, &tenant, rest));
    }
}

/// One walk over an app's connections, in the order of their names.
#[derive(Default)]
struct Walk {
    tenants: BTreeMap<String, Search>,
    found: usize,
}

/// What a walk has found of a tenant.
#[derive(Default)]
struct Search {
    turn: Turn,
    blocked: VecDeque<ConnectionKey>,
    /// Working connections, and the callers that may see none of them.
    proofs: VecDeque<ConnectionKey>,
    unproven: Vec<CallerPolicy>,
    /// True if there is no place for the connections behind this one.
    is_stopped: bool,
    last: Option<ConnectionName>,
}

impl Walk {
    /// The last connection that no tenant has to look at.
    fn begins_after(&self) -> Option<ConnectionName> {
        self.tenants.values().map(|search| search.turn.after.clone()).min().flatten()
    }

    fn take(&mut self, key: ConnectionKey, profile: &Profile) {
        // An authority without tenants is one.
        let tenant = profile.account().tid.as_deref().unwrap_or_default().to_ascii_lowercase();
        let Some(search) = self.tenants.get_mut(&tenant) else { return };
        let had_before = search.turn.after.as_ref().is_some_and(|after| *after >= key.connection);
        if search.is_stopped || had_before {
            return;
        }
        match profile.status() {
            Status::Active => search.prove(key, &tenant),
            Status::Blocked(_) => {
                if search.blocked.len() + 1 == MOST_OF_A_TENANT {
                    search.stops_after(Some(&key.connection));
                }
                search.blocked.push_back(key);
                self.found += 1;
            }
            Status::NeedsReauthorization(_) | Status::Paused => {}
        }
    }

    /// Whether nothing more has a place.
    fn is_full(&self) -> bool {
        self.found >= MOST_OF_A_WALK || self.tenants.values().all(|search| search.is_stopped)
    }

    /// It ends at this connection, before it is over.
    fn stops_after(&mut self, last: Option<&ConnectionName>) {
        self.tenants
            .values_mut()
            .filter(|search| !search.is_stopped)
            .for_each(|search| search.stops_after(last));
    }

    /// What is to be tried, by tenant, and what is left for the next walk.
    fn over(self) -> (VecDeque<VecDeque<ConnectionKey>>, Turns) {
        let (mut queues, mut rests) = (VecDeque::new(), Turns::new());
        for (tenant, Search { turn, blocked, proofs, is_stopped, last, .. }) in self.tenants {
            let had_blocked = turn.had_blocked || !blocked.is_empty();
            if is_stopped {
                rests.insert(tenant, Turn { after: last, had_blocked, ..turn });
            }
            queues.push_back(if had_blocked { blocked } else { proofs });
        }
        (queues, rests)
    }
}

impl Search {
    fn stops_after(&mut self, last: Option<&ConnectionName>) {
        self.is_stopped = true;
        // (A walk may end before this tenant's own place.)
        self.last = last.cloned().max(self.turn.after.clone());
    }

    fn prove(&mut self, key: ConnectionKey, tenant: &str) {
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
    use crate::domain::account::Account;
    use crate::domain::connection::Attempt;
    use crate::domain::verdict::{AuthorityError, BlockReason, Disposition};

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn app() -> AppName {
        AppName::parse("outlook").expect("a name")
    }

    fn key(number: usize) -> ConnectionKey {
        let connection = ConnectionName::parse(&format!("user-{number:05}")).expect("a name");
        ConnectionKey { app: app(), connection }
    }

    fn of_tenant(tid: Option<&str>, is_blocked: bool) -> Profile {
        let (iss, sub, tid) = ("i".into(), "s".into(), tid.map(str::to_owned));
        let account = Account { iss, sub, tid, oid: None, username: None };
        let profile = Profile::connected(account, vec![], vec![], "cli".into(), Timestamp::default(), None);
        if !is_blocked {
            return profile;
        }
        let attempt = Attempt {
            at: Timestamp::default(),
            action: "refresh".into(),
            outcome: "blocked".into(),
            conclusion: "no".into(),
            answer: AuthorityError::default(),
        };
        let verdict = Disposition::Blocked(BlockReason::PolicyBlocked);
        profile.judged(verdict, attempt, None, Timestamp::default())
    }

    /// Walks over these connections, by pages, until every turn is over; returns what was tried by walks.
    fn walked(book: &mut Book, connections: &[(ConnectionKey, Profile)]) -> Vec<BTreeSet<ConnectionKey>> {
        let mut tried = Vec::new();
        while let Some(mut turns) = book.turns(at(0)).filter(|turns| !turns.is_empty()) {
            let turns = turns.remove(&app()).expect("of the app");
            let searches = turns.into_iter().map(|(name, turn)| (name, Search { turn, ..Search::default() }));
            let mut walk = Walk { tenants: searches.collect(), found: 0 };
            let after = walk.begins_after();
            let left =
                connections.iter().filter(|(key, _)| after.as_ref().is_none_or(|at| key.connection > *at));
            for (number, (key, profile)) in left.enumerate() {
                walk.take(key.clone(), profile);
                if (number + 1).is_multiple_of(PAGE) && walk.is_full() {
                    walk.stops_after(Some(&key.connection));
                    break;
                }
            }
            let (queues, rests) = walk.over();
            let all: Vec<ConnectionKey> = queues.into_iter().flatten().collect();
            let once: BTreeSet<ConnectionKey> = all.iter().cloned().collect();
            assert_eq!(once.len(), all.len(), "each once");
            tried.push(once);
            rests.into_iter().for_each(|(tenant, rest)| book.go_on(&app(), &tenant, rest));
        }
        tried
    }

    #[test]
    fn every_blocked_connection_of_a_tenant_is_tried_however_many_there_are() {
        const MANY: usize = MOST_OF_A_TENANT * 2 + 50;
        // Every seventh is another tenant's, and every third works.
        let tenant = |number: usize| if number.is_multiple_of(7) { "u" } else { "T" };
        let connections: Vec<_> = (0..MANY * 2)
            .map(|number| (key(number), of_tenant(Some(tenant(number)), number % 3 > 0)))
            .collect();
        let mut book = Book::default();
        book.note(&app(), "t", None, at(0));
        book.note(&app(), "u", None, at(0));
        let tried = walked(&mut book, &connections);
        assert_eq!(tried.len(), 3, "by walks that keep a bounded number");
        assert!(tried.iter().all(|walk| walk.len() <= 2 * MOST_OF_A_TENANT));
        let all: BTreeSet<ConnectionKey> = tried.iter().flatten().cloned().collect();
        let blocked = (0..MANY * 2).filter(|number| number % 3 > 0).map(key);
        assert_eq!(all, blocked.collect());
        let small: BTreeSet<ConnectionKey> =
            (0..MANY * 2).filter(|number| number % 3 > 0 && number.is_multiple_of(7)).map(key).collect();
        assert!(small.is_subset(&tried[0]), "the small tenant waits for no large one");
    }

    /// Such an authority's connections have one tenant, without a name.
    #[test]
    fn an_authority_without_tenants_has_one() {
        let connections: Vec<_> = (0..5).map(|number| (key(number), of_tenant(None, number < 3))).collect();
        let mut book = Book::default();
        book.note(&app(), "", None, at(0));
        assert_eq!(walked(&mut book, &connections), [(0..3).map(key).collect()]);
    }

    #[test]
    fn what_another_replica_tried_waits_for_its_minute() {
        let mut book = Book::default();
        let caller = CallerName::parse("mail-sync").expect("a name");
        book.note(&app(), "a", Some(caller.clone()), at(100));
        let turn = book.turns(at(100)).and_then(|mut turns| turns.remove(&app())?.remove("a")).expect("due");
        book.had_its_turn(&app(), "a", turn.starters, at(70));
        assert_eq!(turns(&mut book, 129), Some(vec![]));
        let turn = book.turns(at(130)).and_then(|mut turns| turns.remove(&app())?.remove("a")).expect("due");
        assert_eq!(turn.starters, Starters::from([caller]));
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
