//! Serves tokens: looks at what is held, asks `plan`, does it, looks again.

use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::breaker::Breakers;
use super::budget::{Budget, Whose};
use super::forced::Force;
use super::permit::CallPermit;
use super::plan::{self, Refusal, Step, Want};
use super::slots::{Failure, Flight, Held, Slot, Slots, Trouble, Unchecked, Work};
use super::sweep::Sweep;
use super::way::Way;
use super::{Lookup, Observer, due, renew};
use crate::authority::Authority;
use crate::domain::cause::Cause;
use crate::domain::connection::{Attempt, Profile, SignIn};
use crate::domain::id::{AppName, CallerName, ConnectionKey};
use crate::domain::random::{Random, random_bytes};
use crate::domain::revocation::{self, Revocation};
use crate::domain::task::Tasks;
use crate::domain::time::{Clock, Timestamp};
use crate::domain::token::HeldToken;
use crate::domain::verdict::{AuthorityError, BlockReason, Disposition, ReauthReason};
use crate::repository::{
    ByKey, Connection, Loaded, Repository, RepositoryError, Unstored, count_keys, keys_of,
};
use crate::store::{Change, LeaseNonce, StoredConnection};

/// What is held of a store that others write to is looked at again after this long: a delete on one replica is felt
/// on every other within it.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// How long a caller waits for a renewal when there is a live token it could have instead.
const PATIENCE_WITH_FALLBACK: Duration = Duration::from_secs(3);
/// How long a caller waits for a look at a store that answered others, and did not answer for this connection before.
const PATIENCE_WITH_STORE: Duration = Duration::from_millis(100);
/// Looks at one request's plan before giving up; each look follows work that ended, so two or three are normal.
const MOST_LOOKS: usize = 8;

/// Renewals one request waits for: its own, and others' (for another resource, for a challenge) that were under way
/// before it. More would let an authority whose tokens are dead on arrival be called in a loop.
const MOST_RENEWALS: u32 = 3;

/// What somebody is told to wait whose rejected token the authority gives again: some make another one a second later.
const SAME_TOKEN_AGAIN: Duration = Duration::from_secs(2);

/// Looks that are made together after a failover of the store.
const LOOKS_AT_ONCE: usize = 64;

/// What the engine is told by its owner.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a caller waits at the most.
    pub caller_wait: Duration,
    /// How long what is held is served while the store cannot be reached.
    pub serve_cached_for: Duration,
    /// How long a lease of a connection lasts when it is not prolonged.
    pub lease: Duration,
    /// How long one call to an authority may take; less than a lease.
    pub authority_timeout: Duration,
    /// Refreshes a second that are begun for nobody in particular, by all replicas together.
    pub sweep_rate: f64,
    /// About so many bytes of connections are held in memory at the most: those that were used least go first, and are read again when they are asked for.
    pub most_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            caller_wait: Duration::from_secs(15),
            serve_cached_for: Duration::from_secs(300),
            lease: Duration::from_secs(30),
            authority_timeout: Duration::from_secs(10),
            sweep_rate: 50.0,
            most_bytes: 128 * 1024 * 1024,
        }
    }
}

/// One app, as the engine needs it.
#[derive(Clone)]
pub struct EngineApp {
    /// Its authority.
    pub authority: Arc<dyn Authority>,
}

/// The apps there are, and those that there were: what is under way for one of them is finished.
#[derive(Clone, Default)]
struct Apps {
    known: BTreeMap<AppName, EngineApp>,
    gone: BTreeMap<AppName, EngineApp>,
}

/// What the engine stands on.
pub struct Deps {
    /// Connections.
    pub repository: Arc<Repository>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness, for jitter.
    pub random: Arc<dyn Random>,
    /// Tasks.
    pub tasks: Arc<dyn Tasks>,
    /// Told of what happens.
    pub observer: Arc<dyn Observer>,
}

/// The refresh engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    apps: ArcSwap<Apps>,
    pub(super) deps: Deps,
    settings: ArcSwap<Settings>,
    pub(super) slots: Slots,
    pub(super) breakers: Breakers,
    pub(super) sweep: Sweep,
    budget: Budget,
    /// Monotonic milliseconds at which the store was last known to answer, whatever it was asked.
    answered_at: AtomicU64,
    /// What an operator revoked; replaced whole.
    revocations: RwLock<Option<Vec<Revocation>>>,
    /// How long idle grants were seen to last, by app and tenant, where that was less than it should be.
    pub(super) idle_limits: Mutex<BTreeMap<(AppName, String), Option<Duration>>>,
}

/// A token to hand out.
pub struct Served {
    /// The token.
    pub token: HeldToken,
    /// The connection it is of, as it was held then.
    pub held: Arc<Held>,
    /// The store does not answer for it: it may have been changed or deleted since, and what is newest of it may be safe on
    /// this machine only.
    pub degraded: bool,
}

/// Why there is no token. `E` is the owner's own refusal.
#[derive(Debug, Clone)]
pub enum Refused<E> {
    /// The owner's policy.
    Policy(E),
    /// No such connection.
    NotFound,
    /// An operator paused it.
    Paused,
    /// These wanted scopes were never granted.
    ScopeNotGranted(Vec<String>),
    /// The user must sign in again.
    NeedsReauthorization(ReauthReason, AuthorityError),
    /// An administrator must act.
    Blocked(BlockReason, AuthorityError),
    /// The authority, or the app's standing with it; nobody's verdict.
    Authority {
        /// What it came to.
        disposition: Disposition,
        /// What the authority answered.
        answer: AuthorityError,
        /// When to come back.
        retry_after: Duration,
    },
    /// The authority answers a refresh with the very token that was reported as rejected.
    SameTokenAgain {
        /// When to come back.
        retry_after: Duration,
    },
    /// Reports and challenges come faster than they may be answered.
    TooManyForced(Duration),
    /// What is stored of it is there and cannot be used.
    Damaged,
    /// The store.
    Store {
        /// When to come back.
        retry_after: Duration,
    },
}

impl Engine {
    /// An engine for these apps.
    pub fn new(apps: BTreeMap<AppName, EngineApp>, deps: Deps, settings: Settings) -> Self {
        let slots = Slots::new(settings.most_bytes);
        let sweep = Sweep::new(LeaseNonce(random_bytes(deps.random.as_ref())), deps.clock.monotonic());
        let inner = Inner {
            apps: ArcSwap::from_pointee(Apps { known: apps, gone: BTreeMap::new() }),
            deps,
            settings: ArcSwap::from_pointee(settings),
            slots,
            breakers: Breakers::default(),
            sweep,
            budget: Budget::default(),
            answered_at: AtomicU64::new(0),
            revocations: RwLock::new(Some(Vec::new())),
            idle_limits: Mutex::default(),
        };
        Engine { inner: Arc::new(inner) }
    }

    /// From now on these are the apps, and this is what the owner says. What is under way ends as it was begun.
    pub fn reconfigure(&self, apps: BTreeMap<AppName, EngineApp>, settings: Settings) {
        let mut gone = self.inner.apps.load_full().as_ref().clone();
        gone.gone.append(&mut gone.known);
        gone.gone.retain(|name, _| !apps.contains_key(name));
        self.inner.apps.store(Arc::new(Apps { known: apps, gone: gone.gone }));
        self.inner.slots.keep_at_most(settings.most_bytes);
        self.inner.settings.store(Arc::new(settings));
    }

    /// Somebody mended what made an authority refuse the app: it is asked at once, whatever it said before.
    pub fn app_is_mended(&self, app: &AppName) {
        self.inner.breakers.forgive_app(app, self.inner.deps.clock.monotonic());
        // (What said nothing may have been about just that.)
        for slot in self.inner.slots.all() {
            slot.state().trouble.retain(|_, trouble| !trouble.may_be_the_apps());
        }
    }

    /// A token for `key`. `want` says, given the connection, what the caller may have; it is asked again whenever the
    /// connection has changed.
    pub async fn serve<E>(
        &self,
        key: &ConnectionKey,
        want: impl Fn(&Held) -> Result<Want, E>,
    ) -> Result<Served, Refused<E>> {
        let inner = &self.inner;
        let clock = &inner.deps.clock;
        let begun = clock.monotonic();
        if !self.knows_revocations() {
            return Err(Refused::Store { retry_after: Duration::from_secs(1) });
        }
        let slot = inner.slots.slot(key, begun);
        let mut last_failure: Option<Arc<Failure>> = None;
        let mut looked_up = false;
        // The token that was held when this request began to wait for a renewal, and since when.
        let mut before_renewal: Option<Option<(String, Timestamp)>> = None;
        let mut renewals = 0;
        // A renewal took too long, or failed: from here on a live token is served without waiting for another.
        let mut impatient = false;
        // Its challenge may not be passed on now, and nobody has a token: it gets what everybody would.
        let mut plainly = false;
        for _ in 0..MOST_LOOKS {
            let held = match inner.look(key, &slot, begun).await {
                Ok(held) => held,
                Err(failure) => {
                    inner.slots.give_back(key, slot);
                    return Err(refused(&failure));
                }
            };
            if inner.is_revoked(key, &held.connection.profile) {
                return Err(Refused::NotFound);
            }
            let mut want = want(&held).map_err(Refused::Policy)?;
            if plainly {
                want.claims = None;
            }
            let (trouble, failing) = {
                let mut state = slot.state();
                state.last_used = begun;
                let known = state.trouble.get(&want.resource);
                let recent = known.filter(|trouble| trouble.until > clock.monotonic());
                let held_back = state.held_back(clock.monotonic());
                // A doubt is about the grant, whichever resource it came from.
                let in_doubt =
                    || state.trouble.values().find(|trouble| inner.must_not_repeat(key, &held, trouble));
                let trouble = recent.or_else(in_doubt).cloned().or(held_back);
                (trouble, known.is_some() || impatient)
            };
            let step = plan::next(
                &held.connection.profile,
                &held.granted,
                &held.connection.tokens,
                &want,
                clock.now(),
                trouble.is_some(),
                failing,
            );
            if !looked_up {
                looked_up = true;
                inner.deps.observer.cache_lookup(match step {
                    Step::Serve { renew: false, .. } => Lookup::Hit,
                    Step::Serve { renew: true, .. } => Lookup::Stale,
                    Step::Renew { .. } | Step::Refuse(_) => Lookup::Miss,
                });
            }
            match step {
                Step::Serve { token, renew } => {
                    if renew {
                        inner.renewal(key, &slot, &want, None);
                    }
                    return Ok(inner.served(key, &slot, token, &held, begun));
                }
                Step::Refuse(refusal) => {
                    let failure = last_failure.or(trouble.map(|trouble| trouble.failure));
                    return Err(say_why(refusal, &held, &want, failure));
                }
                // Fresh from the authority it is served with its true life, however slow the authority was.
                Step::Renew { fallback: Some(token) }
                    if before_renewal.as_ref().is_some_and(|before| {
                        before.as_ref().map(|before| &before.0) != Some(&token.digest)
                    }) =>
                {
                    return Ok(inner.served(key, &slot, token, &held, begun));
                }
                Step::Renew { fallback } => {
                    let tokens = &held.connection.tokens;
                    let current = plan::pick(tokens, &want, clock.now());
                    // The authority gave the very token again that a resource refused: another call would bring it again.
                    if let (Some(Some((digest, since))), Some(token)) = (&before_renewal, current)
                        && *digest == token.digest
                        && *since < token.issued_at
                        && want.rejected.as_ref() == Some(digest)
                    {
                        return Err(Refused::SameTokenAgain { retry_after: SAME_TOKEN_AGAIN });
                    }
                    before_renewal = Some(current.map(|token| (token.digest.clone(), token.issued_at)));
                    if renewals >= MOST_RENEWALS {
                        return Err(last_failure.map_or_else(too_slow, |failure| refused(&failure)));
                    }
                    let waited = clock.monotonic().saturating_sub(begun);
                    let patience = if fallback.is_some() {
                        PATIENCE_WITH_FALLBACK.min(inner.settings().caller_wait)
                    } else {
                        inner.settings().caller_wait
                    };
                    let patience = patience.saturating_sub(waited);
                    let force = plan::force(tokens, &want, clock.now());
                    let way = match inner.way(&slot, want.by.as_ref(), force) {
                        Ok(way) => way,
                        Err(_) if plan::has_none(tokens, &want, clock.now()) => {
                            plainly = true;
                            want.claims = None;
                            Way::Begin(None)
                        }
                        // What lives is served where the calls are others'.
                        Err(_)
                            if force == Some(Force::MoreLife)
                                && let Some(token) = fallback =>
                        {
                            return Ok(inner.served(key, &slot, token, &held, begun));
                        }
                        Err(wait) => return Err(Refused::TooManyForced(wait)),
                    };
                    renewals += 1;
                    let flight = inner.go(key, &slot, &want, way);
                    let outcome = inner.wait(flight, patience).await;
                    match (outcome, fallback) {
                        (Some(Ok(())), _) => {}
                        // Nobody else is told of a challenge that could not be met, so it is not tried twice.
                        (Some(Err(failure)), None) if want.claims.is_some() => return Err(refused(&failure)),
                        (Some(Err(failure)), None) => last_failure = Some(failure),
                        // Look again: the token may have been taken away while we waited.
                        (Some(Err(_)) | None, Some(_)) => impatient = true,
                        (None, None) => return Err(too_slow()),
                    }
                }
            }
        }
        Err(last_failure.map_or_else(too_slow, |failure| refused(&failure)))
    }

    /// The connection as it stands, without its secrets.
    pub async fn inspect(&self, key: &ConnectionKey) -> Result<Arc<Held>, Arc<Failure>> {
        let begun = self.inner.deps.clock.monotonic();
        let slot = self.inner.slots.slot(key, begun);
        let looked = self.inner.look(key, &slot, begun).await;
        if looked.is_err() {
            self.inner.slots.give_back(key, slot);
        }
        let held = looked?;
        if self.inner.is_revoked(key, &held.connection.profile) {
            return Err(Arc::new(Failure::NotFound));
        }
        Ok(held)
    }

    /// These are revoked too: nothing that they cover is handed out or refreshed. What is known already stays in force, whatever
    /// order acts come back in. (They were read just now, so the store answers.)
    pub fn learn_revocations(&self, list: Vec<Revocation>) {
        self.inner.note_answer();
        let mut known = self.inner.revocations.write();
        let known = known.get_or_insert_default();
        for revocation in list {
            if !known.contains(&revocation) {
                known.push(revocation);
            }
        }
        revocation::keep_newest(known);
    }

    /// What is revoked, as far as is known.
    pub fn revocations(&self) -> Vec<Revocation> {
        let list = self.inner.revocations.read();
        list.clone().unwrap_or_default()
    }

    /// Whether it is known what is revoked.
    pub fn knows_revocations(&self) -> bool {
        self.inner.revocations.read().is_some()
    }

    /// Nothing is handed out or refreshed before it is known what is revoked.
    pub fn await_revocations(&self) {
        *self.inner.revocations.write() = None;
    }

    /// Whether something that is revoked is meant.
    pub fn revokes(&self, is_meant: impl Fn(&Revocation) -> bool) -> bool {
        let list = self.inner.revocations.read();
        list.iter().flatten().any(is_meant)
    }

    /// Whether a connection is revoked.
    pub fn is_revoked(&self, key: &ConnectionKey, profile: &Profile) -> bool {
        self.inner.is_revoked(key, profile)
    }

    /// Failed tries that were not stored with the connection, newest last.
    pub fn recent_attempts(&self, key: &ConnectionKey) -> Vec<Attempt> {
        self.inner.slots.existing(key).map(|slot| slot.state().attempts.clone()).unwrap_or_default()
    }

    /// Has a connection's grant tried now, whatever its verdict's time: something outside may have lifted it. A try
    /// under way began before that, so another follows it.
    /// `permit` is for the call; none where it is an operator's wish.
    pub fn try_now(&self, key: &ConnectionKey, permit: Option<CallPermit>) {
        let inner = self.inner.clone();
        let slot = inner.slots.slot(key, inner.deps.clock.monotonic());
        let key = key.clone();
        let under_way = slot.state().renewal.clone();
        let again = async move {
            if let Some(flight) = under_way {
                let _ = flight.landed().await;
            }
            inner.fly(&key, &slot, Work::Renewal, |inner, key, slot| async move {
                renew::try_now(&inner, &key, &slot, permit).await
            });
        };
        self.inner.deps.tasks.spawn("try a connection again", Box::pin(again));
    }

    /// Takes one from the budget of calls to authorities for what nobody waits for who has no token; else says when to come back.
    /// `by` is the caller whose part of it that is. Whoever makes the call spends the permit; one that is dropped gives it back.
    pub fn take(&self, cause: Cause, by: Option<&CallerName>) -> Result<CallPermit, Duration> {
        self.inner.take(cause, by, false)
    }

    /// After a connection was connected with this sign-in: nothing held of it before counts any more, and work begun before
    /// brings nothing back. It is looked at once, so that it is known here should a failover of the store lose it.
    pub fn connected(&self, key: &ConnectionKey, sign_in: SignIn) {
        let inner = &self.inner;
        let slot = inner.slots.slot(key, inner.deps.clock.monotonic());
        self.forget(key, slot.clone(), |other| *other != sign_in && other.number <= sign_in.number);
        if inner.deps.repository.store().is_shared() {
            inner.lookup(key, &slot);
        }
        inner.slots.give_back(key, slot);
    }

    /// After a connection with this sign-in, or none, was deleted: nothing held of it counts any more. Should it be there
    /// again, because a failover of the store lost the delete, it is deleted again.
    pub fn deleted(&self, key: &ConnectionKey, meant: Option<SignIn>) {
        let Inner { slots, deps, .. } = &*self.inner;
        let Some(meant) = meant else {
            if let Some(slot) = slots.existing(key) {
                self.forget(key, slot, |_| true);
            }
            return;
        };
        let slot = slots.slot(key, deps.clock.monotonic());
        if deps.repository.store().is_shared() {
            slot.state().note_deleted(meant, deps.clock.now(), deps.clock.monotonic());
        }
        self.forget(key, slot, |other| *other == meant || other.number < meant.number);
    }

    /// Looks a connection up now, whatever is held of it. (What comes of it is for whoever asks for it.)
    pub async fn look_again(&self, key: &ConnectionKey) {
        let slot = self.inner.slots.slot(key, self.inner.deps.clock.monotonic());
        slot.state().outdated = true;
        let flight = self.inner.lookup(key, &slot);
        let _ = self.inner.wait(flight, self.inner.settings().caller_wait).await;
        self.inner.slots.give_back(key, slot);
    }

    /// Another store took this one's place, by an operator's word: what was in the one before is not given to it.
    pub fn start_over(&self) {
        for slot in self.inner.slots.all() {
            let mut state = slot.state();
            state.recent = None;
            state.deleted.clear();
        }
        self.distrust_all();
    }

    /// Forgets what is held of the sign-ins that are over. What is of another one stays: nobody ended that.
    fn forget(&self, key: &ConnectionKey, slot: Arc<Slot>, is_over: impl Fn(&SignIn) -> bool) {
        let dropped = {
            let mut state = slot.state();
            state.epoch += 1;
            state.outdated = true;
            let over = |connection: &Connection| is_over(&connection.profile.sign_in);
            if state.held.as_ref().is_some_and(|held| over(&held.connection)) {
                state.held = None;
                state.unchecked = None;
            }
            if state.held.is_none() {
                state.trouble.clear();
                state.held_back = None;
                state.attempts.clear();
            }
            state.recent.take_if(|recent| over(&recent.held.connection));
            state.unstored.take_if(|unstored| over(&unstored.connection))
        };
        if let Some(dropped) = dropped.filter(|dropped| dropped.journaled) {
            let repository = self.inner.deps.repository.clone();
            let unjournal = async move { repository.unjournal(&dropped.sealed.revision).await };
            self.inner.deps.tasks.spawn("drop an entry of the journal", Box::pin(unjournal));
        }
        self.inner.slots.give_back(key, slot);
    }

    /// What is held of a connection may not be what is stored any more: look again. An answer that the store has not
    /// taken yet is kept, for nobody knows whether anything was written over what it succeeds.
    pub fn distrust(&self, key: &ConnectionKey) {
        let Some(slot) = self.inner.slots.existing(key) else { return };
        {
            let mut state = slot.state();
            state.epoch += 1;
            state.held = None;
        }
        self.inner.slots.give_back(key, slot);
    }

    /// Anything that is held may not be what is stored any more: all of it is looked at again before it is served.
    pub fn distrust_all(&self) {
        self.inner.slots.all().iter().for_each(|slot| slot.tell());
    }

    /// Hears of what other replicas do, for as long as this is polled; it never completes.
    pub async fn follow_changes(&self) {
        let inner = &self.inner;
        loop {
            match inner.deps.repository.store().next_change().await {
                Change::Connection(key) => {
                    if let Some(slot) = inner.slots.existing(&key) {
                        slot.tell();
                    }
                }
                Change::Missed => {
                    self.distrust_all();
                    // The store may have failed over and lost what it had just taken.
                    let remembering = inner.slots.remembering(inner.deps.clock.monotonic());
                    for some in remembering.chunks(LOOKS_AT_ONCE) {
                        let looks: Vec<Flight> =
                            some.iter().map(|(key, slot)| inner.lookup(key, slot)).collect();
                        for look in looks {
                            let _ = look.landed().await;
                        }
                    }
                }
            }
        }
    }

    /// Puts a connection into the schedule that is about to be made or renewed by its user's sign-in; one that is not made
    /// after all is taken out again when it is due.
    pub async fn expect(&self, key: &ConnectionKey, profile: &Profile, tokens: &[HeldToken]) {
        renew::expect(&self.inner, key, profile, tokens).await;
    }

    /// Has a connection looked after at once, or not any more.
    pub async fn reschedule(&self, key: &ConnectionKey, at_once: bool) {
        let now = self.inner.deps.clock.now();
        renew::schedule(&self.inner, key, at_once.then_some(now)).await;
        if at_once {
            self.nudge_sweep();
        }
    }

    /// Puts a connection back into the schedule that fell out of it. For a slow walk over all of them.
    pub async fn mend_schedule(&self, key: &ConnectionKey, profile: &Profile) {
        let now = self.inner.deps.clock.now();
        if due::is_overdue(profile, now) {
            tracing::warn!(app = %key.app, connection = %key.connection, "a connection was not in the schedule; it is put back");
            renew::schedule(&self.inner, key, Some(now)).await;
        }
    }

    /// Takes up what the journal holds from before this process: it is offered to the store before anything else is done
    /// for those connections. Says how much that is. To be called before anything is served.
    pub async fn recover(&self) -> Result<usize, RepositoryError> {
        let inner = &self.inner;
        let entries = inner.deps.repository.journaled().await?;
        let found = entries.len();
        for (key, unstored) in entries {
            let slot = inner.slots.slot(&key, inner.deps.clock.monotonic());
            let passed_over = {
                let mut state = slot.state();
                let older = |kept: &Unstored| kept.connection.is_before(&unstored.connection);
                if state.unstored.as_ref().is_none_or(older) {
                    state.unstored.replace(unstored)
                } else {
                    Some(unstored)
                }
            };
            if let Some(passed_over) = passed_over {
                let repository = inner.deps.repository.clone();
                let drop = async move { repository.unjournal(&passed_over.sealed.revision).await };
                inner.deps.tasks.spawn("drop an older entry of the journal", Box::pin(drop));
            }
        }
        Ok(found)
    }

    /// Tries once more to store every answer that the store did not take. For a timer, and for a stop.
    pub async fn store_unstored(&self) -> usize {
        let mut left = 0;
        self.inner.slots.forget_old(self.inner.deps.clock.monotonic());
        for (key, slot) in self.inner.slots.unstored() {
            if renew::store_unstored(&self.inner, &key, &slot).await.is_err() {
                left += 1;
            }
        }
        left
    }

    /// How many answers that the store has not taken need each sealing key.
    pub fn unstored_by_key(&self) -> ByKey {
        let mut counts = ByKey::new();
        for slot in self.inner.slots.all() {
            if let Some(unstored) = &slot.state().unstored {
                count_keys(&mut counts, keys_of(&unstored.sealed));
            }
        }
        counts
    }
}

impl Inner {
    /// What the owner says now.
    pub(super) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Whether it is one of the apps of now.
    pub(super) fn knows_app(&self, app: &AppName) -> bool {
        self.apps.load().known.contains_key(app)
    }

    /// An app's authority, for as long as anything of it may be under way.
    pub(super) fn authority(&self, app: &AppName) -> Option<Arc<dyn Authority>> {
        let apps = self.apps.load();
        apps.known.get(app).or_else(|| apps.gone.get(app)).map(|app| app.authority.clone())
    }

    /// Takes one from the budget of calls to authorities for what nobody waits for who has no token.
    pub(super) fn take(
        &self,
        cause: Cause,
        by: Option<&CallerName>,
        is_first_report: bool,
    ) -> Result<CallPermit, Duration> {
        let whose = match cause {
            Cause::Sweep => Whose::Sweep,
            Cause::Consent => Whose::Consent,
            Cause::Report | Cause::Challenge | Cause::MinTtl => Whose::Caller(by.cloned()),
            Cause::SignIn => Whose::SignIns(by.cloned()),
        };
        let now = self.deps.clock.monotonic();
        let observer = self.deps.observer.clone();
        let spend = move || observer.budgeted(cause, true);
        let taken = self.budget.take(&whose, is_first_report, self.settings().sweep_rate, now, spend);
        taken.inspect_err(|_| self.deps.observer.budgeted(cause, false))
    }

    pub(super) fn is_revoked(&self, key: &ConnectionKey, profile: &Profile) -> bool {
        let list = self.revocations.read();
        list.iter().flatten().any(|revocation| revocation.covers(&key.app, profile))
    }

    /// What is held of the connection, looked up if nothing is, and checked again if that was too long ago.
    async fn look(
        self: &Arc<Self>,
        key: &ConnectionKey,
        slot: &Arc<Slot>,
        begun: Duration,
    ) -> Result<Arc<Held>, Arc<Failure>> {
        let shared = self.deps.repository.store().is_shared();
        for _ in 0..MOST_LOOKS {
            let now = self.deps.clock.monotonic();
            let (held, unchecked) = {
                let state = slot.state();
                let due = shared && (state.outdated || now.saturating_sub(state.checked_at) >= CHECK_EVERY);
                match &state.held {
                    Some(held) if !due => return Ok(held.clone()),
                    held => (held.clone(), state.unchecked.clone()),
                }
            };
            // The store is known not to answer: what is held is served without waiting, for its time.
            let unchecked = unchecked
                .filter(|unchecked| unchecked.persists || !self.has_answered_since(unchecked.asked_at));
            if let (Some(held), Some(Unchecked { asked_at, failure, .. })) = (&held, &unchecked) {
                if now.saturating_sub(slot.state().checked_at) > self.settings().serve_cached_for {
                    if now.saturating_sub(*asked_at) < CHECK_EVERY {
                        return Err(failure.clone());
                    }
                } else if now.saturating_sub(*asked_at) < CHECK_EVERY {
                    return Ok(held.clone());
                } else if !self.has_answered_since(*asked_at) {
                    self.lookup(key, slot);
                    return Ok(held.clone());
                }
            }
            let flight = self.lookup(key, slot);
            let left = self.settings().caller_wait.saturating_sub(now.saturating_sub(begun));
            // It answers others: it is asked for this one too, and while there is something to serve not waited long for.
            let left =
                if held.is_some() && unchecked.is_some() { left.min(PATIENCE_WITH_STORE) } else { left };
            let failure = match self.wait(flight, left).await {
                Some(Ok(())) => continue,
                Some(Err(failure)) => failure,
                None => Arc::new(Failure::Repository(slow_store())),
            };
            // What was held before the wait may have been deleted or connected anew meanwhile.
            let state = slot.state();
            let outlived = self.deps.clock.monotonic().saturating_sub(state.checked_at)
                > self.settings().serve_cached_for;
            return match &state.held {
                Some(held) if !outlived && matches!(*failure, Failure::Repository(_)) => Ok(held.clone()),
                _ => Err(failure),
            };
        }
        Err(Arc::new(Failure::Repository(slow_store())))
    }

    /// The store answered: whoever waited for it in vain before may ask again.
    pub(super) fn note_answer(&self) {
        let now = u64::try_from(self.deps.clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        self.answered_at.fetch_max(now, Ordering::AcqRel);
    }

    pub(super) fn has_answered_since(&self, asked_at: Duration) -> bool {
        u128::from(self.answered_at.load(Ordering::Acquire)) > asked_at.as_millis()
    }

    /// The look at the store under way for the connection, started if there is none.
    fn lookup(self: &Arc<Self>, key: &ConnectionKey, slot: &Arc<Slot>) -> Flight {
        self.fly(key, slot, Work::Lookup, |inner, key, slot| async move {
            renew::look_up(&inner, &key, &slot).await
        })
    }

    /// The renewal under way for the connection, started if there is none; with the permit that it needs where it is forced.
    pub(super) fn renewal(
        self: &Arc<Self>,
        key: &ConnectionKey,
        slot: &Arc<Slot>,
        want: &Want,
        permit: Option<CallPermit>,
    ) -> Flight {
        self.note_use(key, slot, self.deps.clock.monotonic());
        if permit.is_none() {
            slot.hurry();
        }
        let want = want.clone();
        self.fly(key, slot, Work::Renewal, |inner, key, slot| async move {
            renew::renew(&inner, &key, &slot, &want, permit).await
        })
    }

    /// Joins the work of this kind under way for the connection, or starts it in a task of its own.
    pub(super) fn fly<F>(
        self: &Arc<Self>,
        key: &ConnectionKey,
        slot: &Arc<Slot>,
        kind: Work,
        work: impl FnOnce(Arc<Inner>, ConnectionKey, Arc<Slot>) -> F,
    ) -> Flight
    where
        F: Future<Output = Result<(), Arc<Failure>>> + Send + 'static,
    {
        let mut state = slot.state();
        if let Some(flight) = state.flight(kind) {
            let flight = flight.clone();
            drop(state); // what the work holds is given back, to this slot too
            drop(work);
            return flight;
        }
        let (flight, landing) = Flight::start();
        *state.flight(kind) = Some(flight.clone());
        drop(state);
        let work = work(self.clone(), key.clone(), slot.clone());
        let (inner, key, slot) = (self.clone(), key.clone(), slot.clone());
        let task = async move {
            let ending = EndOfFlight { inner, key, slot: Some(slot), kind };
            let outcome = work.await;
            drop(ending);
            let _ = landing.send(Some(outcome));
        };
        let name = match kind {
            Work::Lookup => "look up a connection",
            Work::Renewal => "refresh a connection",
        };
        self.deps.tasks.spawn(name, Box::pin(task));
        flight
    }

    /// A token as it goes out, with one look at its slot.
    fn served(
        self: &Arc<Self>,
        key: &ConnectionKey,
        slot: &Slot,
        token: &HeldToken,
        held: &Arc<Held>,
        now: Duration,
    ) -> Served {
        let (degraded, noted) = {
            let state = slot.state();
            let noted = state.noted_at.is_some_and(|at| now.saturating_sub(at) < due::NOTED_EVERY);
            (state.unchecked.is_some() || state.unstored.is_some(), noted)
        };
        if !noted {
            self.note_use(key, slot, now);
        }
        Served { token: token.clone(), held: held.clone(), degraded }
    }

    /// Notes in the store, once in a while, that callers use the connection: it is kept warm for them.
    pub(super) fn note_use(self: &Arc<Self>, key: &ConnectionKey, slot: &Slot, now: Duration) {
        {
            let mut state = slot.state();
            if state.noted_at.is_some_and(|at| now.saturating_sub(at) < due::NOTED_EVERY) {
                return;
            }
            state.noted_at = Some(now);
        }
        let (inner, key) = (self.clone(), key.clone());
        let note = async move {
            if let Err(error) = inner.deps.repository.store().mark_used(&key, inner.deps.clock.now()).await {
                tracing::debug!(%error, "that a connection is used could not be noted; it is with its next refresh");
            }
        };
        self.deps.tasks.spawn("note that a connection is used", Box::pin(note));
    }

    /// Waits at most so long. `None` when that was not enough.
    async fn wait(&self, flight: Flight, at_most: Duration) -> Option<Result<(), Arc<Failure>>> {
        tokio::select! {
            biased;
            outcome = flight.landed() => Some(outcome),
            () = self.deps.clock.sleep(at_most) => None,
        }
    }

    /// Whether the last try may have used the refresh token up, at an authority where it must not be used again.
    fn must_not_repeat(&self, key: &ConnectionKey, held: &Held, trouble: &Trouble) -> bool {
        let in_doubt = matches!(
            trouble.failure.as_ref(),
            Failure::Authority(failure) if failure.disposition == Disposition::OutcomeUnknown
        );
        let of_this = trouble.about.is_none_or(|about| about == held.connection.profile.last_refreshed_at);
        in_doubt && of_this && renew::must_not_replay(self, key, &held.connection)
    }

    /// Holds what a look at the store found at `looked_at`, unless something was written since, or the store shows less than is
    /// held.
    pub(super) fn publish(
        &self,
        key: &ConnectionKey,
        slot: &Slot,
        epoch: u64,
        loaded: &Loaded,
        looked_at: Duration,
    ) {
        if self.is_succeeded_by_ours(key, slot, loaded) {
            let mut state = slot.state();
            if state.epoch == epoch {
                state.checked_at = state.checked_at.max(looked_at);
                state.unchecked = None;
            }
            return;
        }
        self.hold(key, slot, epoch, (&loaded.connection, Some(&loaded.sealed)), looked_at, 0);
    }

    /// Whether the answer that is held, safe in the journal, goes on top of what the store shows, although that is an answer too:
    /// another replica's, which brought no new refresh token, so that the one that ours has used is still there.
    fn is_succeeded_by_ours(&self, key: &ConnectionKey, slot: &Slot, loaded: &Loaded) -> bool {
        let used = {
            let state = slot.state();
            let Some(unstored) = state.answer_beside(&loaded.connection) else { return false };
            unstored.used.clone()
        };
        let grant = self.deps.repository.open_grant(key, loaded).ok().flatten();
        grant.is_some_and(|grant| grant.current == used)
    }

    /// Holds what was just written by a commit that began at `begun`, and outdates every look begun before. (Since then it
    /// may have been deleted: the answer may have been slow, and this process stopped.) Sealed, if it is in the store.
    pub(super) fn publish_written(
        &self,
        key: &ConnectionKey,
        slot: &Slot,
        epoch: u64,
        written: (&Connection, Option<&StoredConnection>),
        begun: Duration,
    ) {
        self.hold(key, slot, epoch, written, begun, 1);
    }

    fn hold(
        &self,
        key: &ConnectionKey,
        slot: &Slot,
        epoch: u64,
        (connection, sealed): (&Connection, Option<&StoredConnection>),
        looked_at: Duration,
        outdates: u64,
    ) {
        let Some(authority) = self.authority(&key.app) else { return };
        let on_top = slot.state().on_top_of(connection).map(|answer| answer.connection.clone());
        let connection = on_top.as_ref().unwrap_or(connection);
        let words = connection.profile.scopes_granted.iter().map(String::as_str);
        let granted = authority.scope_naming().scopes_lossy(words);
        let now = self.deps.clock.monotonic();
        let mut state = slot.state();
        // Of two looks under way at once the one that began later counts, whichever comes back last.
        if state.epoch != epoch || (outdates == 0 && looked_at < state.checked_at) {
            return;
        }
        state.epoch += outdates;
        state.checked_at = looked_at;
        state.unchecked = None;
        // In one step with holding it: in between a look from before could be held in its place.
        if outdates > 0 && sealed.is_some() {
            state.unstored.take_if(|unstored| unstored.sealed.revision == connection.revision);
        }
        if state.is_ahead_of(connection, now) {
            return;
        }
        if state.sign_in != Some(connection.profile.sign_in) {
            if state.sign_in.is_some() {
                state.trouble.clear();
                state.held_back = None;
            }
            state.sign_in = Some(connection.profile.sign_in);
        }
        let held = Arc::new(Held { connection: connection.clone(), granted });
        if let Some(sealed) = sealed
            && self.deps.repository.store().is_shared()
            // What is only in the journal is stored on top of what is there, and never again in its place.
            && on_top.is_none()
            && !state.is_unstored(connection.revision)
            // Seen again it is no newer: what a failover drops is what had just been written.
            && (outdates > 0 || state.held_revision() != Some(connection.revision))
        {
            state.note_recent(&held, sealed, now);
        }
        state.held = Some(held);
        drop(state);
        self.slots.weigh(key, slot, now);
    }
}

/// Clears the slot's work however its task ends, a panic included, and drops a slot that holds nothing.
struct EndOfFlight {
    inner: Arc<Inner>,
    key: ConnectionKey,
    slot: Option<Arc<Slot>>,
    kind: Work,
}

impl Drop for EndOfFlight {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            slot.state().landed(self.kind);
            self.inner.slots.give_back(&self.key, slot);
        }
    }
}

fn slow_store() -> crate::repository::RepositoryError {
    crate::store::StoreError::Unavailable {
        doing: "looking up a connection",
        cause: "it did not answer within the caller's wait".into(),
    }
    .into()
}

fn too_slow<E>() -> Refused<E> {
    Refused::Authority {
        disposition: Disposition::RetryAfter(None),
        answer: AuthorityError::default(),
        retry_after: Duration::from_secs(2),
    }
}

/// A failure in the words of a refusal.
fn refused<E>(failure: &Failure) -> Refused<E> {
    match failure {
        Failure::NotFound => Refused::NotFound,
        Failure::Repository(error) if error.is_damage() => Refused::Damaged,
        Failure::Repository(_) => Refused::Store { retry_after: Duration::from_secs(1) },
        Failure::Authority(failure) => match failure.disposition {
            Disposition::Reauthorize(reason, _) => {
                Refused::NeedsReauthorization(reason, failure.answer.clone())
            }
            Disposition::Blocked(reason) => Refused::Blocked(reason, failure.answer.clone()),
            Disposition::RetryAfter(asked) => Refused::Authority {
                disposition: failure.disposition,
                answer: failure.answer.clone(),
                retry_after: asked.unwrap_or(Duration::from_secs(2)),
            },
            Disposition::NextCredential
            | Disposition::Misconfigured
            | Disposition::Restart
            | Disposition::CallerFault
            | Disposition::Unclear
            | Disposition::OutcomeUnknown
            | Disposition::Bug => Refused::Authority {
                disposition: failure.disposition,
                answer: failure.answer.clone(),
                retry_after: Duration::from_secs(5),
            },
        },
    }
}

fn say_why<E>(refusal: Refusal, held: &Held, want: &Want, failure: Option<Arc<Failure>>) -> Refused<E> {
    let profile = &held.connection.profile;
    let answer = || profile.last_error.as_ref().map(|attempt| attempt.answer.clone()).unwrap_or_default();
    match refusal {
        Refusal::Paused => Refused::Paused,
        Refusal::ScopeNotGranted => {
            Refused::ScopeNotGranted(want.scopes.missing_from(&held.granted).to_words())
        }
        Refusal::NeedsReauthorization(reason) => Refused::NeedsReauthorization(reason, answer()),
        Refusal::Blocked(reason) => Refused::Blocked(reason, answer()),
        Refusal::Trouble => failure.map_or_else(too_slow, |failure| refused(&failure)),
    }
}
