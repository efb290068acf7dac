//! Breakers and bulkheads, per app and per tenant of an app: when an authority is not called, and how many
//! calls one tenant may have under way.
//!
//! Every tenant has a breaker and a bulkhead of its own. No lock is held beyond a few instructions and no
//! tenant waits for another's calls, so a tenant whose authority hangs costs nobody else anything.
//!
//! An open breaker refuses until its time is over. Then one call goes through as a probe, and the rest are
//! refused until the probe ends. So one connection asks about an outage, and a repair admits everybody at
//! once. The end of a probe wakes those who wait for it and nobody else, so a waiter of another tenant costs
//! it nothing.
//!
//! Results of one tenant's calls concern that tenant. Only a rejected app concerns every tenant; that takes
//! the same answer for two tenants, with no success in between.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use super::failure::Failure;
use crate::domain::backoff::Backoff;
use crate::domain::id::{AppName, ConnectionName};
use crate::domain::not_now::NotNow;
use crate::domain::verdict::Disposition;

/// How many failures in a row open a tenant's breaker. Fewer happen by chance.
const FAILURES_TO_OPEN: u32 = 5;
/// How long an opened breaker refuses before it lets a probe through. A repair shows within the longest time.
const OPEN: Backoff = Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(4) };
/// While the authority rejects the app, every connection concerned waits this long for one of them to try.
const APP_REJECTED: Duration = Duration::from_secs(2);
/// A tenant is throttled for at most this long while only one of its connections was told to wait. If a
/// second connection is told the same and none worked in between, the whole asked time counts.
const LONGEST_FOR_ONE: Duration = Duration::from_secs(60);
/// The wait of a call that comes while a probe is under way.
const WHILE_PROBED: Duration = Duration::from_secs(1);
/// A probe that takes longer is not waited for: its task is gone.
const LONGEST_PROBE: Duration = Duration::from_secs(60);
/// Calls of one tenant under way at one time, in this process. A healthy authority answers some hundred a
/// second through these; a hung one holds no more than these.
const MOST_CALLS: usize = 64;
/// Tenants remembered. If there are more, tenants without trouble are forgotten.
const MOST_TENANTS: usize = 10_000;

/// An app, and one of its tenants or none for all of them.
type Part = (AppName, Option<String>);

/// The permits for the calls of one tenant.
#[derive(Clone)]
pub(super) struct Lanes {
    /// One for each call under way.
    pub(super) calls: Arc<Semaphore>,
    /// Half as many. Each call that the budget paid for takes one of these too.
    pub(super) spare: Arc<Semaphore>,
}

impl Lanes {
    fn new() -> Self {
        let [calls, spare] = [MOST_CALLS, MOST_CALLS / 2].map(|most| Arc::new(Semaphore::new(most)));
        Lanes { calls, spare }
    }

    /// Whether no permit is taken or waited for.
    fn is_at_rest(&self) -> bool {
        [&self.calls, &self.spare].iter().all(|lane| Arc::strong_count(lane) == 1)
    }
}

#[derive(Default)]
struct Breaker {
    /// In a row.
    failures: u32,
    open: Option<Open>,
    calls: Option<Lanes>,
    /// Of the whole app: the tenant for which it was rejected since the last success.
    rejected_for: Option<String>,
    /// Of a tenant: the connection that was throttled since the last success; `Some(None)` for the app
    /// itself.
    throttled_for: Option<Option<ConnectionName>>,
    /// When a grant last worked, as monotonic time.
    worked_at: Option<Duration>,
    /// Of the whole app: when the cause of a rejection was corrected, as monotonic time.
    mended_at: Option<Duration>,
}

struct Open {
    until: Duration,
    why: Arc<Failure>,
    probed: Option<Probe>,
}

/// A probe under way. Its end drops it, and that wakes its waiters.
struct Probe {
    /// Monotonic.
    since: Duration,
    ended: watch::Sender<()>,
}

impl Open {
    fn is_probed(&self, now: Duration) -> bool {
        self.probed.as_ref().is_some_and(|probe| now.saturating_sub(probe.since) < LONGEST_PROBE)
    }
}

/// Whether a call may be made now.
pub(super) enum Admission {
    Go,
    /// Not for so long, for this reason.
    Wait(Duration, Arc<Failure>),
}

/// What the end of a call says about the authority, beyond the one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// It gave a token, or judged the grant: it works, and so does the app's credential.
    Answered,
    /// It refused this one request: it works, and nothing more is known.
    Refused,
    /// It did not answer, or reported an outage: anybody may meet that.
    Failed,
    /// It asked not to be called for so long.
    Throttled(Duration),
    /// It rejects the app itself.
    AppRejected,
    /// Nothing: the call was not made, or its own content caused the failure.
    Nothing,
}

/// A part of an app's users for whom its authority is not called now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenBreaker {
    /// The app.
    pub app: AppName,
    /// The tenant; empty if it is not known, `None` for all of them.
    pub tenant: Option<String>,
    /// Why, in words.
    pub why: String,
}

/// Most open breakers that are shown.
const MOST_SHOWN: usize = 100;

/// All breakers and bulkheads.
#[derive(Default)]
pub(super) struct Breakers {
    parts: Mutex<Parts>,
}

/// The known parts.
struct Parts {
    known: BTreeMap<Part, Breaker>,
    /// At this number a newcomer causes tenants at rest to be forgotten.
    full_at: usize,
    /// How many parts were examined for that so far.
    #[cfg(test)]
    looked_at: usize,
}

impl Default for Parts {
    fn default() -> Self {
        Parts {
            known: BTreeMap::new(),
            full_at: MOST_TENANTS,
            #[cfg(test)]
            looked_at: 0,
        }
    }
}

impl Parts {
    fn get(&self, part: &Part) -> Option<&Breaker> {
        self.known.get(part)
    }

    fn get_mut(&mut self, part: &Part) -> Option<&mut Breaker> {
        self.known.get_mut(part)
    }

    /// The part, made if it is not known.
    fn of(&mut self, part: Part) -> &mut Breaker {
        if self.known.len() >= self.full_at && !self.known.contains_key(&part) {
            self.make_room();
        }
        self.known.entry(part).or_default()
    }

    /// Forgets tenants at rest. That examines all of them, so it happens again only after a quarter as many
    /// new ones.
    fn make_room(&mut self) {
        #[cfg(test)]
        {
            self.looked_at += self.known.len();
        }
        let at_rest = |breaker: &Breaker| {
            breaker.open.is_none()
                && breaker.rejected_for.is_none()
                && breaker.throttled_for.is_none()
                && breaker.calls.as_ref().is_none_or(Lanes::is_at_rest)
        };
        self.known.retain(|_, breaker| !at_rest(breaker));
        self.full_at = MOST_TENANTS.max(self.known.len() + self.known.len() / 4);
    }
}

impl Breakers {
    /// The tenants whose breakers are open, and whole apps; some of them, where they are many.
    pub(super) fn open_ones(&self) -> Vec<OpenBreaker> {
        let parts = self.parts();
        let open = |(part, breaker): (&Part, &Breaker)| {
            let (app, tenant) = part.clone();
            Some(OpenBreaker { app, tenant, why: breaker.open.as_ref()?.why.to_string() })
        };
        parts.known.iter().filter_map(open).take(MOST_SHOWN).collect()
    }

    /// If no call for this tenant may be made at `now` (monotonic): for how long, and why. This begins no
    /// probe.
    pub(super) fn refuses(
        &self,
        app: &AppName,
        tenant: Option<&str>,
        now: Duration,
    ) -> Option<(Duration, Arc<Failure>)> {
        refusal(&self.parts(), &both(app, tenant), now)
    }

    /// Whether a call for this tenant may be made at `now` (monotonic). A caller that is let through reports
    /// how its call ended.
    pub(super) fn admit(&self, app: &AppName, tenant: Option<&str>, now: Duration) -> Admission {
        let mut parts = self.parts();
        let both = both(app, tenant);
        // Both parts are checked before a probe begins: a call that the other part refuses is no probe.
        if let Some((left, why)) = refusal(&parts, &both, now) {
            return Admission::Wait(left, why);
        }
        for part in &both {
            if let Some(open) = parts.get_mut(part).and_then(|breaker| breaker.open.as_mut()) {
                open.probed = Some(Probe { since: now, ended: watch::Sender::new(()) });
            }
        }
        Admission::Go
    }

    /// The end of the probe under way for which a call would be refused now; none if there is no such probe.
    pub(super) fn probe(
        &self,
        app: &AppName,
        tenant: Option<&str>,
        now: Duration,
    ) -> Option<impl Future<Output = ()> + use<>> {
        let parts = self.parts();
        let open = |part| parts.get(part).and_then(|breaker: &Breaker| breaker.open.as_ref());
        let both = both(app, tenant);
        let mut refusing =
            both.iter().filter_map(open).filter(|open| now < open.until || open.is_probed(now));
        let open = refusing.next().filter(|open| now >= open.until)?;
        let mut ended = open.probed.as_ref()?.ended.subscribe();
        Some(async move {
            // Nothing is ever sent: it ends with the sender.
            let _ = ended.changed().await;
        })
    }

    /// An operator corrected what made an authority reject this app, at `now` (monotonic): the next call may
    /// be made.
    pub(super) fn forgive_app(&self, app: &AppName, now: Duration) {
        let mut parts = self.parts();
        parts.of((app.clone(), None)).mended_at = Some(now);
        let is_rejected = |breaker: &Breaker| {
            let open = breaker.open.as_ref();
            open.is_some_and(|open| open.why.disposition() == Some(Disposition::NextCredential))
        };
        let of_app = parts.known.iter().filter(|(part, breaker)| part.0 == *app && is_rejected(breaker));
        let mut mended: Vec<Part> = of_app.map(|(part, _)| part.clone()).collect();
        mended.push((app.clone(), None));
        close(&mut parts, &mended);
    }

    /// Notes how an admitted call ended.
    pub(super) fn ended(
        &self,
        app: &AppName,
        tenant: Option<&str>,
        now: Duration,
        ended: Ended,
        why: &Arc<Failure>,
    ) {
        let mut parts = self.parts();
        let whole = (app.clone(), None);
        let part = (app.clone(), Some(tenant.unwrap_or_default().to_owned()));
        let open = |until| Some(Open { until, why: why.clone(), probed: None });
        match ended {
            Ended::Answered => close(&mut parts, &[whole, part]),
            Ended::AppRejected => {
                parts.of(part).open = open(now + APP_REJECTED);
                let breaker = parts.of(whole);
                let tenant = tenant.unwrap_or_default();
                let of_another = breaker.rejected_for.as_ref().is_some_and(|other| other != tenant);
                if of_another || breaker.open.is_some() {
                    breaker.open = open(now + APP_REJECTED);
                }
                breaker.rejected_for.get_or_insert_with(|| tenant.to_owned());
            }
            // The authority rejects an app before it reads the request, but not always in the same words. So
            // the whole app's breaker stays as it is.
            Ended::Refused => {
                close(&mut parts, &[part]);
                unprobe(&mut parts, &whole);
            }
            Ended::Throttled(asked) => {
                parts.of(part).open = open(now + asked);
                close(&mut parts, &[whole]);
            }
            Ended::Failed => {
                let breaker = parts.of(part);
                breaker.failures = breaker.failures.saturating_add(1);
                let beyond = breaker.failures.saturating_sub(FAILURES_TO_OPEN - 1);
                if breaker.failures >= FAILURES_TO_OPEN {
                    breaker.open = open(now + OPEN.after(beyond));
                } else if let Some(open) = &mut breaker.open {
                    open.probed = None;
                }
                unprobe(&mut parts, &whole);
            }
            Ended::Nothing => {
                unprobe(&mut parts, &whole);
                unprobe(&mut parts, &part);
            }
        }
    }

    /// How long a tenant is throttled after a connection, or the app itself (`None`), was told to wait for
    /// `asked`. One connection's answer may be about its user alone.
    pub(super) fn throttled_for_one(
        &self,
        app: &AppName,
        tenant: Option<&str>,
        connection: Option<&ConnectionName>,
        asked: Duration,
    ) -> Duration {
        let mut parts = self.parts();
        let part = (app.clone(), Some(tenant.unwrap_or_default().to_owned()));
        let told = parts.of(part).throttled_for.get_or_insert_with(|| connection.cloned());
        if told.as_ref() == connection { asked.min(LONGEST_FOR_ONE) } else { asked }
    }

    /// Whether the app was corrected since then: then an earlier call says nothing about it.
    pub(super) fn is_mended_since(&self, app: &AppName, began: Duration) -> bool {
        let parts = self.parts();
        parts.get(&(app.clone(), None)).and_then(|breaker| breaker.mended_at).is_some_and(|at| at >= began)
    }

    /// A grant of this tenant worked: so do the tenant and the app.
    pub(super) fn worked(&self, app: &AppName, tenant: Option<&str>, now: Duration) {
        let mut parts = self.parts();
        let part = (app.clone(), Some(tenant.unwrap_or_default().to_owned()));
        parts.of(part.clone()).worked_at = Some(now);
        close(&mut parts, &[(app.clone(), None), part]);
    }

    /// The app got a token of its own in this tenant: both work. (No grant did.)
    pub(super) fn answered(&self, app: &AppName, tenant: Option<&str>) {
        let part = (app.clone(), Some(tenant.unwrap_or_default().to_owned()));
        close(&mut self.parts(), &[(app.clone(), None), part]);
    }

    /// When a grant of this tenant last worked, as monotonic time.
    pub(super) fn worked_at(&self, app: &AppName, tenant: Option<&str>) -> Option<Duration> {
        let part = (app.clone(), Some(tenant.unwrap_or_default().to_owned()));
        self.parts().get(&part).and_then(|breaker| breaker.worked_at)
    }

    /// An admitted call was not made after all.
    pub(super) fn not_called(&self, app: &AppName, tenant: Option<&str>) {
        let mut parts = self.parts();
        unprobe(&mut parts, &(app.clone(), None));
        unprobe(&mut parts, &(app.clone(), Some(tenant.unwrap_or_default().to_owned())));
    }

    /// Another replica says that the authority throttles the tenant.
    pub(super) fn throttle(&self, app: &AppName, tenant: Option<&str>, until: Duration, why: Arc<Failure>) {
        let mut parts = self.parts();
        let part = (app.clone(), Some(tenant.unwrap_or_default().to_owned()));
        parts.of(part).open = Some(Open { until, why, probed: None });
    }

    /// Whether the authority itself throttles the tenant at `now` (monotonic). A probe under way does not
    /// count: it may be the caller's own.
    pub(super) fn is_throttled(&self, app: &AppName, tenant: Option<&str>, now: Duration) -> bool {
        let asked = |why: &Failure| {
            let is_told = matches!(why, Failure::NotNow(NotNow::AskedToWait(_)));
            is_told || matches!(why.disposition(), Some(Disposition::RetryAfter(Some(_))))
        };
        let part = (app.clone(), Some(tenant.unwrap_or_default().to_owned()));
        let parts = self.parts();
        let open = parts.get(&part).and_then(|breaker| breaker.open.as_ref());
        open.is_some_and(|open| now < open.until && asked(&open.why))
    }

    /// The tenant's own permits for calls.
    pub(super) fn lanes(&self, app: &AppName, tenant: Option<&str>) -> Lanes {
        let mut parts = self.parts();
        let part = (app.clone(), Some(tenant.unwrap_or_default().to_owned()));
        let breaker = parts.of(part);
        breaker.calls.get_or_insert_with(Lanes::new).clone()
    }

    /// Whether half of the tenant's permits are taken: then renewals ahead of time get none.
    pub(super) fn is_busy(&self, app: &AppName, tenant: Option<&str>) -> bool {
        self.lanes(app, tenant).calls.available_permits() < MOST_CALLS / 2
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock()
    }
}

fn both(app: &AppName, tenant: Option<&str>) -> [Part; 2] {
    [(app.clone(), None), (app.clone(), Some(tenant.unwrap_or_default().to_owned()))]
}

fn refusal(parts: &Parts, both: &[Part; 2], now: Duration) -> Option<(Duration, Arc<Failure>)> {
    let open = |part| parts.get(part).and_then(|breaker: &Breaker| breaker.open.as_ref());
    both.iter().filter_map(open).find_map(|open| {
        if now < open.until {
            return Some((open.until - now, open.why.clone()));
        }
        open.is_probed(now).then(|| (WHILE_PROBED, open.why.clone()))
    })
}

fn close(parts: &mut Parts, which: &[Part]) {
    for part in which {
        if let Some(breaker) = parts.get_mut(part) {
            breaker.failures = 0;
            breaker.open = None;
            breaker.rejected_for = None;
            breaker.throttled_for = None;
        }
    }
}

fn unprobe(parts: &mut Parts, part: &Part) {
    if let Some(open) = parts.get_mut(part).and_then(|breaker| breaker.open.as_mut()) {
        open.probed = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake, Waker};

    use super::*;

    use crate::domain::verdict::{AuthorityError, AuthorityFailure};

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn app() -> AppName {
        AppName::parse("outlook").expect("name")
    }

    struct Scene {
        breakers: Breakers,
        why: Arc<Failure>,
    }

    impl Scene {
        fn new() -> Self {
            Scene { breakers: Breakers::default(), why: Arc::new(Failure::NotFound) }
        }

        fn goes(&self, tenant: &str, now: u64) -> bool {
            matches!(self.breakers.admit(&app(), Some(tenant), at(now)), Admission::Go)
        }

        fn ended(&self, tenant: &str, now: u64, ended: Ended) {
            self.breakers.ended(&app(), Some(tenant), at(now), ended, &self.why);
        }
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_probe_at_a_time_asks() {
        let scene = Scene::new();
        for _ in 0..FAILURES_TO_OPEN - 1 {
            assert!(scene.goes("t", 0));
            scene.ended("t", 0, Ended::Failed);
        }
        scene.ended("t", 0, Ended::Answered);
        for _ in 0..FAILURES_TO_OPEN {
            assert!(scene.goes("t", 1), "an answer in between begins the count anew");
            scene.ended("t", 1, Ended::Failed);
        }
        assert!(!scene.goes("t", 1));
        assert!(scene.goes("other", 1), "another tenant's is another breaker");
        let open = OpenBreaker { app: app(), tenant: Some("t".to_owned()), why: scene.why.to_string() };
        assert_eq!(scene.breakers.open_ones(), [open]);
        assert!(scene.goes("t", 2), "a probe");
        assert!(!scene.goes("t", 2), "one at a time");
        scene.ended("t", 2, Ended::Failed);
        assert!(!scene.goes("t", 2) && scene.goes("t", 3));
        scene.ended("t", 3, Ended::Answered);
        assert!(scene.goes("t", 3) && scene.goes("t", 3), "everybody at once");
    }

    #[test]
    fn it_never_waits_longer_than_a_repair_may_take_to_show() {
        let scene = Scene::new();
        for now in 0..100 {
            if scene.goes("t", now * 10) {
                scene.ended("t", now * 10, Ended::Failed);
            }
        }
        assert!(scene.goes("t", 1000 + OPEN.longest.as_secs()));
    }

    #[test]
    fn a_throttled_tenant_is_left_alone_and_a_rejected_app_is_asked_by_one() {
        let scene = Scene::new();
        scene.ended("t", 0, Ended::Throttled(at(30)));
        assert!(!scene.goes("t", 29) && scene.goes("other", 29) && scene.goes("t", 30));
        let scene = Scene::new();
        scene.ended("t", 0, Ended::AppRejected);
        assert!(!scene.goes("t", 1) && scene.goes("other", 1), "one tenant's word is that tenant's");
        scene.ended("other", 1, Ended::AppRejected);
        assert!(!scene.goes("t", 2) && !scene.goes("third", 2), "two tenants' is everybody's");
        assert!(scene.goes("third", 3) && !scene.goes("t", 3));
        scene.ended("third", 3, Ended::Answered);
        assert!(scene.goes("t", 3));
    }

    #[test]
    fn one_throttled_connection_throttles_its_tenant_for_a_minute_and_two_for_as_long_as_was_asked() {
        let scene = Scene::new();
        let name = |text| ConnectionName::parse(text).expect("a name");
        let held = |connection, asked| {
            scene.breakers.throttled_for_one(&app(), Some("t"), Some(&name(connection)), at(asked)).as_secs()
        };
        assert_eq!((held("one", 30), held("one", 3600), held("one", 3600)), (30, 60, 60));
        scene.ended("t", 0, Ended::Answered);
        assert_eq!((held("two", 3600), held("one", 3600), held("two", 3600)), (60, 3600, 60));
        assert_eq!(
            scene.breakers.throttled_for_one(&app(), Some("other"), Some(&name("one")), at(3600)),
            at(60)
        );
    }

    /// What each end of a call may close, and for whom: only what is said here.
    #[test]
    fn what_one_tenants_calls_come_to_is_that_tenants() {
        let rows = [
            (Ended::Answered, "all"),
            (Ended::Refused, "all"),
            (Ended::Nothing, "all"),
            (Ended::Failed, "others"),
            (Ended::Throttled(at(30)), "others"),
            (Ended::AppRejected, "others"),
        ];
        for (ended, go_on) in rows {
            let scene = Scene::new();
            for _ in 0..100 {
                scene.ended("t", 0, ended);
            }
            let goes = (scene.goes("t", 0), scene.goes("other", 0), scene.goes("third", 0));
            assert_eq!(goes, (go_on == "all", true, true), "{ended:?}");
        }
        let scene = Scene::new();
        for (now, tenant) in ["t", "other", "t", "other"].into_iter().enumerate() {
            scene.ended(tenant, now as u64 * 10, Ended::AppRejected);
            scene.ended("third", now as u64 * 10, Ended::Answered);
            assert!(scene.goes("third", now as u64 * 10), "it works for somebody, so it is not the app");
        }
    }

    #[test]
    fn what_was_mended_is_asked_at_once_whichever_tenants_it_was_rejected_for() {
        let scene = Scene::new();
        let why = |disposition| {
            let failure = AuthorityFailure {
                doing: "",
                cause: String::new(),
                disposition,
                answer: AuthorityError::default(),
                claims: None,
            };
            Arc::new(Failure::Authority(failure))
        };
        let rejected = why(Disposition::NextCredential);
        for tenant in ["t", "other"] {
            scene.breakers.ended(&app(), Some(tenant), at(0), Ended::AppRejected, &rejected);
        }
        let throttled = why(Disposition::RetryAfter(Some(at(60))));
        scene.breakers.ended(&app(), Some("held"), at(0), Ended::Throttled(at(60)), &throttled);
        scene.breakers.forgive_app(&app(), at(5));
        assert!(
            scene.breakers.is_mended_since(&app(), at(4)) && !scene.breakers.is_mended_since(&app(), at(6))
        );
        assert!(scene.goes("t", 0) && scene.goes("other", 0) && scene.goes("third", 0));
        assert!(!scene.goes("held", 0), "who asked to be left alone is");
    }

    #[test]
    fn a_probe_that_never_ends_or_is_not_made_holds_nobody_up() {
        let scene = Scene::new();
        scene.ended("other", 0, Ended::AppRejected);
        scene.ended("t", 0, Ended::AppRejected);
        assert!(scene.goes("t", 2));
        assert!(!scene.goes("t", 3));
        scene.ended("t", 3, Ended::Nothing);
        assert!(scene.goes("t", 3));
        assert!(!scene.goes("t", 3 + LONGEST_PROBE.as_secs() - 1));
        assert!(scene.goes("t", 3 + LONGEST_PROBE.as_secs()));
    }

    #[test]
    fn only_a_probe_is_waited_for() {
        let scene = Scene::new();
        let waits = |tenant, now| scene.breakers.probe(&app(), Some(tenant), at(now)).is_some();
        assert!(!waits("t", 0), "nothing is open");
        scene.ended("t", 0, Ended::Throttled(at(30)));
        assert!(!waits("t", 29), "its time has not come");
        assert!(!waits("t", 30), "it would be let through");
        assert!(scene.goes("t", 30) && waits("t", 30) && !waits("other", 30));
        scene.ended("t", 31, Ended::Answered);
        assert!(!waits("t", 31));
    }

    /// What waits for a probe is woken by that one's end, whichever it is, and by nothing else.
    #[test]
    fn a_probes_end_wakes_those_who_wait_for_it_and_nobody_else() {
        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::AcqRel);
            }
        }
        let ends =
            [Ended::Answered, Ended::Refused, Ended::Failed, Ended::Throttled(at(9)), Ended::AppRejected];
        for end in ends.into_iter().map(Some).chain([Some(Ended::Nothing), None]) {
            let scene = Scene::new();
            let tenants: Vec<String> = (0..50).map(|number| format!("t{number}")).collect();
            let mut waiters = Vec::new();
            for tenant in &tenants {
                scene.ended(tenant, 0, Ended::Throttled(at(1)));
                assert!(scene.goes(tenant, 1));
                let mut ended = Box::pin(scene.breakers.probe(&app(), Some(tenant), at(1)).expect("a probe"));
                let woken = Arc::new(Count(AtomicUsize::new(0)));
                let waker = Waker::from(woken.clone());
                assert!(ended.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
                waiters.push((ended, woken, waker));
            }
            match end {
                Some(end) => scene.ended("t7", 1, end),
                None => scene.breakers.not_called(&app(), Some("t7")),
            }
            for (number, (ended, woken, waker)) in waiters.iter_mut().enumerate() {
                let is_its = usize::from(number == 7);
                assert_eq!(woken.0.load(Ordering::Acquire), is_its, "{number}: {end:?}");
                let polled = ended.as_mut().poll(&mut Context::from_waker(waker));
                assert_eq!(polled.is_ready(), number == 7);
            }
        }
    }

    /// By construction: a tenant with all its permits taken and its breaker open shares nothing with the
    /// others.
    #[test]
    fn one_tenants_permits_are_nobody_elses() {
        let scene = Scene::new();
        let hung = scene.breakers.lanes(&app(), Some("hung")).calls;
        let taken = hung.clone().try_acquire_many_owned(u32::try_from(MOST_CALLS).expect("few"));
        assert!(taken.is_ok());
        assert!(scene.breakers.lanes(&app(), Some("hung")).calls.try_acquire().is_err());
        assert_eq!(scene.breakers.lanes(&app(), Some("other")).calls.available_permits(), MOST_CALLS);
    }

    /// What the budget paid for may wait in any number: half of the permits are never its.
    #[test]
    fn half_of_a_tenants_permits_are_of_calls_for_who_has_no_token() {
        let lanes = Scene::new().breakers.lanes(&app(), Some("one"));
        let both = || {
            Some((
                lanes.spare.clone().try_acquire_owned().ok()?,
                lanes.calls.clone().try_acquire_owned().ok()?,
            ))
        };
        let budgeted: Vec<_> = std::iter::from_fn(both).take(MOST_CALLS).collect();
        assert_eq!(budgeted.len(), MOST_CALLS / 2);
        assert_eq!(lanes.calls.available_permits(), MOST_CALLS / 2);
        assert!(!lanes.is_at_rest());
    }

    #[test]
    fn tenants_are_bounded_and_those_in_trouble_stay() {
        let scene = Scene::new();
        scene.ended("held", 0, Ended::Throttled(at(999)));
        for number in 0..MOST_TENANTS * 2 {
            scene.breakers.lanes(&app(), Some(&format!("t{number}")));
        }
        assert!(scene.breakers.parts().known.len() <= MOST_TENANTS);
        assert!(!scene.goes("held", 1));
    }
    /// The lock is kept for a few steps on average, for a known tenant or a new one, however many are in
    /// trouble.
    #[test]
    fn a_newcomer_costs_a_few_looks_however_many_are_known() {
        for in_trouble in [0, MOST_TENANTS / 2, MOST_TENANTS - 1, MOST_TENANTS * 2] {
            let scene = Scene::new();
            for number in 0..in_trouble {
                scene.ended(&format!("held{number}"), 0, Ended::Throttled(at(999)));
            }
            let before = scene.breakers.parts().looked_at;
            let calls = MOST_TENANTS * 2;
            for number in 0..calls {
                scene.breakers.lanes(&app(), Some(&format!("t{number}")));
                scene.breakers.lanes(&app(), Some(&format!("held{}", number % in_trouble.max(1))));
            }
            let looked_at = scene.breakers.parts().looked_at - before;
            assert!(looked_at <= 10 * calls, "{in_trouble} in trouble: {looked_at} looks for {calls}");
            assert!(scene.breakers.parts().known.len() <= MOST_TENANTS.max(in_trouble + in_trouble / 4) + 1);
        }
    }
}
