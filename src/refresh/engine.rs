//! The engine: what the rest of tokenward calls. Each method names the driver that does it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::app_token::{self, AppTokenKey, AppTokens, NoAppToken, ServedAppToken};
use super::breaker::OpenBreaker;
use super::census::Changes;
use super::failure::Failure;
use super::fly::wait;
use super::look::{look, start_read};
use super::observer::Swept;
use super::permit::CallPermit;
use super::plan::Want;
use super::ports::{Deps, EngineApp, Ports, Settings};
use super::renewals::start_try_now;
use super::schedule::schedule;
use super::serve::{Refused, Served, serve, serve_now};
use super::slot::{At, Flight, Held, Slot, Slots};
use super::sweep::{self, Sweep};
use super::tenant_watch::Untold;
use super::watch::Watched;
use super::{due, durable, schedule as schedules};
use crate::domain::cause::Cause;
use crate::domain::connection::{Attempt, Profile, SignIn, Status};
use crate::domain::forecast::Renewals;
use crate::domain::id::{AppName, CallerName, ConnectionKey, ConnectionName};
use crate::domain::random::random_bytes;
use crate::domain::revocation::Revocation;
use crate::domain::tenant_block::Part;
use crate::domain::time::{Moment, Timestamp};
use crate::domain::token::HeldToken;
use crate::domain::verdict::BlockReason;
use crate::repository::{ByKey, Repository, RepositoryError, count_keys, keys_of};
use crate::store::{Change, LeaseNonce, Revision, StoreError};

/// How many connections are read together after a failover of the store.
const READS_AT_ONCE: usize = 64;

/// The refresh engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(super) ports: Arc<Ports>,
    pub(super) slots: Arc<Slots>,
    app_tokens: Arc<AppTokens>,
    sweep: Arc<Sweep>,
}

/// Tokens.
impl Engine {
    /// An engine for these apps. It serves nothing before it has learnt the revocations
    /// ([`Engine::learn_revocations`]).
    pub fn new(apps: BTreeMap<AppName, EngineApp>, deps: Deps, settings: Settings) -> Self {
        let slots = Arc::new(Slots::new(settings.most_bytes));
        let nonce = LeaseNonce(random_bytes(deps.random.as_ref()));
        let sweep = Arc::new(Sweep::new(nonce, deps.clock.monotonic()));
        let app_tokens = Arc::default();
        Engine { ports: Arc::new(Ports::new(apps, deps, settings)), slots, app_tokens, sweep }
    }

    /// Replaces the apps and the settings. Work under way ends as it began.
    pub fn reconfigure(&self, apps: BTreeMap<AppName, EngineApp>, settings: Settings) {
        self.slots.keep_at_most(settings.most_bytes);
        self.ports.reconfigure(apps, settings);
        self.app_tokens.keep_only(|app| self.ports.knows_app(app));
    }

    /// A token for `key`. `want` says what the caller may have of the connection; it is called again whenever
    /// the connection has changed.
    pub async fn serve<E>(
        &self,
        key: &ConnectionKey,
        want: impl Fn(&Held) -> Result<Want, E>,
    ) -> Result<Served, Refused<E>> {
        if !self.knows_revocations() {
            return Err(Refused::Store);
        }
        let begun = self.ports.monotonic();
        let slot = self.slots.slot(key, begun);
        let served = serve(&self.ports, self.at(key, &slot), begun, want).await;
        if served.is_err() {
            self.slots.give_back(key, slot);
        }
        served
    }

    /// A token for `key` that waits for nothing: held, checked lately, and living long enough. `admit` is
    /// asked last. `None`, which has had no effect, in every other case: [`Engine::serve`] decides then.
    pub fn serve_now(
        &self,
        key: &ConnectionKey,
        begun: Moment,
        want: impl FnOnce(&Held) -> Option<Want>,
        admit: impl FnOnce() -> bool,
    ) -> Option<Served> {
        if !self.knows_revocations() {
            return None;
        }
        let slot = self.slots.existing(key)?;
        serve_now(&self.ports, self.at(key, &slot), begun, want, admit)
    }

    /// Watches a connection: says when what callers get of it may have changed.
    pub fn watch(&self, key: &ConnectionKey) -> Watched {
        let slot = self.slots.slot(key, self.ports.monotonic());
        Watched::new(key.clone(), slot, self.slots.clone())
    }

    /// Rules or revocations changed: those who watch a connection look again.
    pub fn rights_changed(&self) {
        self.slots.all().iter().for_each(|slot| slot.stir());
    }

    /// A token of the app itself, for the caller `by`.
    pub async fn serve_app_token(
        &self,
        key: &AppTokenKey,
        by: &CallerName,
        min_ttl: Duration,
    ) -> Result<ServedAppToken, NoAppToken> {
        app_token::serve(&self.ports, &self.app_tokens, key, by, min_ttl).await
    }

    /// Renews tokens of apps themselves ahead of those who ask. For a timer.
    pub fn renew_app_tokens_ahead(&self) {
        app_token::renew_ahead(&self.ports, &self.app_tokens);
    }

    /// The connection as it stands, without its secrets.
    pub async fn inspect(&self, key: &ConnectionKey) -> Result<Arc<Held>, Arc<Failure>> {
        let begun = self.ports.monotonic();
        let slot = self.slots.slot(key, begun);
        let looked = look(&self.ports, self.at(key, &slot), begun).await;
        if looked.is_err() {
            self.slots.give_back(key, slot);
        }
        let held = looked?;
        if self.is_revoked(key, &held.connection.profile) {
            return Err(Arc::new(Failure::NotFound));
        }
        Ok(held)
    }

    /// Failed attempts that were not stored with the connection, newest last.
    pub fn recent_attempts(&self, key: &ConnectionKey) -> Vec<Attempt> {
        self.slots.existing(key).map(|slot| slot.state().troubles.attempts().to_vec()).unwrap_or_default()
    }

    /// The callers to which this replica handed the connection's tokens out, and when each got one last, as
    /// far as it has that in memory.
    pub fn hand_outs(&self, key: &ConnectionKey) -> Vec<(CallerName, Timestamp)> {
        let Some(slot) = self.slots.existing(key) else { return Vec::new() };
        let (monotonic, now) = (self.ports.monotonic(), self.ports.now());
        let at = |last: Duration| now.minus(monotonic.saturating_sub(last));
        slot.state().hand_outs.all().iter().map(|(caller, last)| (caller.clone(), at(*last))).collect()
    }

    /// Until when the cached connection is served if a shared store stays away. `None` with a store that this
    /// process alone writes to: a cached token is then served while it lives.
    pub fn cached_until(&self, key: &ConnectionKey) -> Option<Timestamp> {
        let slot = self.slots.existing(key).filter(|_| self.repository().is_shared())?;
        let current_at = slot.state().memory.current_at()?;
        let age = self.ports.monotonic().saturating_sub(current_at);
        Some(self.ports.now().minus(age).plus(self.serve_cached_for()))
    }

    /// The tenants for which an authority is not called now, by this replica.
    pub fn open_breakers(&self) -> Vec<OpenBreaker> {
        self.ports.breakers.open_ones()
    }

    /// Tries a connection's grant now, whatever its verdict's time, because a cause outside may be gone.
    /// `permit` is for the call; `None` for an operator's request.
    pub fn try_now(&self, key: &ConnectionKey, permit: Option<CallPermit>) {
        let slot = self.slots.slot(key, self.ports.monotonic());
        start_try_now(&self.ports, self.at(key, &slot), permit);
    }

    /// Takes a permit from the budget of calls that no request without a token waits for, or returns the time
    /// to wait. `by`: the caller whose part of the budget it is. A permit that is dropped unspent is given
    /// back.
    pub fn take(&self, cause: Cause, by: Option<&CallerName>) -> Result<CallPermit, Duration> {
        self.ports.take(cause, by, false)
    }

    /// An operator corrected what made an authority refuse the app: the authority is called at once, whatever
    /// it answered before.
    pub fn app_is_mended(&self, app: &AppName) {
        self.ports.breakers.forgive_app(app, self.ports.monotonic());
        self.app_tokens.app_is_mended(app);
        // (The same cause may be behind an unclear refusal.)
        for slot in self.slots.all() {
            slot.state().troubles.app_is_mended();
        }
    }

    fn at<'a>(&'a self, key: &'a ConnectionKey, slot: &'a Arc<Slot>) -> At<'a> {
        At { key, slot, slots: &self.slots }
    }

    fn repository(&self) -> &Repository {
        self.ports.repository()
    }
}

/// Revocations. Before they are known nothing is handed out or refreshed.
impl Engine {
    /// Adds revocations. Nothing that they cover is handed out or refreshed. (They were read just now, so the
    /// store answers.)
    pub fn learn_revocations(&self, list: Vec<Revocation>) {
        self.ports.store_answered();
        let new = self.ports.revoked.learn(list, self.ports.monotonic());
        new.iter().for_each(|revocation| self.app_tokens.revoke(revocation));
        if !new.is_empty() {
            self.rights_changed();
        }
    }

    /// The known revocations.
    pub fn revocations(&self) -> Vec<Revocation> {
        self.ports.revoked.list()
    }

    /// Whether the revocations are known.
    pub fn knows_revocations(&self) -> bool {
        self.ports.revoked.is_known()
    }

    /// Whether the revocations were read within `serve_cached_for`. A replica that has not reached the store
    /// for longer hands out no token of an app itself.
    pub fn knows_revocations_of_late(&self) -> bool {
        let within = self.ports.settings().serve_cached_for;
        self.ports.revoked.is_known_since(self.ports.monotonic(), within)
    }

    /// How long what is known counts while the store does not answer.
    pub fn serve_cached_for(&self) -> Duration {
        self.ports.settings().serve_cached_for
    }

    /// Whether there is a revocation that fits.
    pub fn revokes(&self, is_meant: impl Fn(&Revocation) -> bool) -> bool {
        self.ports.revoked.any(is_meant)
    }

    /// Whether a connection is revoked.
    pub fn is_revoked(&self, key: &ConnectionKey, profile: &Profile) -> bool {
        self.ports.revoked.covers(key, profile)
    }
}

/// What others did to connections.
impl Engine {
    /// A connection was connected with this sign-in. Its earlier state does not count any more, and earlier
    /// work brings nothing back. It is read at once, so that it is known here if a failover of the store
    /// loses it.
    pub fn connected(&self, key: &ConnectionKey, sign_in: SignIn) {
        let slot = self.slots.slot(key, self.ports.monotonic());
        self.forget(key, slot.clone(), |other| *other != sign_in && other.number <= sign_in.number);
        if self.repository().is_shared() {
            start_read(&self.ports, self.at(key, &slot));
        }
        self.slots.give_back(key, slot);
    }

    /// A connection with this sign-in, or with none, was deleted. Its state does not count any more. If a
    /// failover of the store loses the delete, it is deleted again.
    pub fn deleted(&self, key: &ConnectionKey, meant: Option<SignIn>) {
        let Some(meant) = meant else {
            if let Some(slot) = self.slots.existing(key) {
                self.forget(key, slot, |_| true);
            }
            return;
        };
        let slot = self.slots.slot(key, self.ports.monotonic());
        if self.repository().is_shared() {
            let (at, now) = (self.ports.now(), self.ports.monotonic());
            slot.state().memory.remember_delete(meant, at, now);
        }
        self.forget(key, slot, |other| *other == meant || other.number < meant.number);
    }

    /// Forgets the sign-ins that are over.
    fn forget(&self, key: &ConnectionKey, slot: Arc<Slot>, is_over: impl Fn(&SignIn) -> bool) {
        let journaled = {
            let mut state = slot.state();
            let journaled = state.memory.forget(is_over);
            if state.memory.cached().is_none() {
                state.troubles.grant_is_replaced();
                state.troubles.take_attempts();
            }
            journaled
        };
        slot.stir();
        if let Some(revision) = journaled {
            self.unjournal("drop an entry of the journal", revision);
        }
        self.slots.give_back(key, slot);
    }

    /// Reads a connection now, whatever is cached. (Callers see the result in their own requests.)
    pub async fn look_again(&self, key: &ConnectionKey) {
        let slot = self.slots.slot(key, self.ports.monotonic());
        slot.state().memory.outdated();
        let flight = start_read(&self.ports, self.at(key, &slot));
        let _ = wait(&self.ports, flight, self.ports.settings().caller_wait).await;
        self.slots.give_back(key, slot);
    }

    /// The cached connection may not be the stored one any more: it is read again.
    pub fn distrust(&self, key: &ConnectionKey) {
        let Some(slot) = self.slots.existing(key) else { return };
        slot.state().memory.distrust();
        self.slots.give_back(key, slot);
    }

    /// Any cached connection may differ from the stored one: each is checked before it is served.
    pub fn distrust_all(&self) {
        self.slots.all().iter().for_each(|slot| slot.tell());
    }

    /// An operator accepted another store in the place of this one: nothing from the old one is written to
    /// it.
    pub fn start_over(&self) {
        for slot in self.slots.all() {
            slot.state().memory.start_over();
        }
        self.distrust_all();
    }

    /// Follows other replicas' changes, for as long as this is polled; it never completes.
    pub async fn follow_changes(&self) {
        loop {
            match self.repository().next_change().await {
                Change::Connection(key) => {
                    if let Some(slot) = self.slots.existing(&key) {
                        slot.tell();
                    }
                }
                Change::Missed => {
                    self.distrust_all();
                    // The store may have failed over and lost its last writes.
                    let remembering = self.slots.remembering(self.ports.monotonic());
                    for some in remembering.chunks(READS_AT_ONCE) {
                        let start = |(key, slot)| start_read(&self.ports, self.at(key, slot));
                        let reads: Vec<Flight> = some.iter().map(|(key, slot)| start((key, slot))).collect();
                        for read in reads {
                            let _ = read.landed().await;
                        }
                    }
                }
            }
        }
    }
}

/// The schedule.
impl Engine {
    /// Schedules a connection that a user's sign-in is about to make or renew. If it is not made after all,
    /// it is taken out again when it is due.
    pub async fn expect(&self, key: &ConnectionKey, profile: &Profile, tokens: &[HeldToken]) {
        schedules::expect(&self.ports, key, profile, tokens).await;
    }

    /// Makes a connection due at once, or not at all any more.
    pub async fn reschedule(&self, key: &ConnectionKey, at_once: bool) {
        let now = self.ports.now();
        schedule(&self.ports, key, at_once.then_some(now)).await;
        if at_once {
            self.nudge_sweep();
        }
    }

    /// Schedules a connection again that fell out of the schedule. For a slow walk over all of them.
    pub async fn mend_schedule(&self, key: &ConnectionKey, profile: &Profile) {
        let now = self.ports.now();
        if due::is_overdue(profile, now) {
            tracing::warn!(
                app = %key.app, connection = %key.connection,
                "a connection was not in the schedule; it is put back"
            );
            schedule(&self.ports, key, Some(now)).await;
        }
    }

    /// Sweeps again and again, for as long as this is polled; it never completes.
    pub async fn sweep(&self) {
        sweep::run(&self.ports, &self.slots, &self.sweep).await;
    }

    /// One round of the sweep.
    pub async fn sweep_once(&self) -> Result<Swept, StoreError> {
        sweep::once(&self.ports, &self.slots, &self.sweep).await
    }

    /// Starts the next round of the sweep at once, because something became due.
    pub fn nudge_sweep(&self) {
        self.sweep.nudge();
    }
}

/// How many connections have which status: what this process changes of it.
impl Engine {
    /// An act changed a connection's status; `None` is a connection that is not there. (Renewals are noted
    /// by themselves.)
    pub fn status_changed(&self, key: &ConnectionKey, from: Option<Status>, to: Option<Status>) {
        self.ports.census.lock().changed(key, from, to);
    }

    /// What changed since the last call.
    pub fn take_status_changes(&self) -> Changes {
        self.ports.census.lock().take()
    }

    /// Puts changes back that could not be told to the store.
    pub fn give_back_status_changes(&self, changes: Changes) {
        self.ports.census.lock().give_back(changes);
    }

    /// A walk over all connections begins.
    pub fn status_walk_begins(&self) {
        self.ports.census.lock().walk_begins();
    }

    /// The walk read this app's connections up to this name; `None`: all of them.
    pub fn status_walk_passed(&self, app: &AppName, last: Option<&ConnectionName>) {
        self.ports.census.lock().walk_passed(app, last);
    }

    /// The walk is over: what changed behind it.
    pub fn status_walk_ends(&self) -> Changes {
        self.ports.census.lock().walk_ends()
    }
}

/// Tenants: what this process saw of them.
impl Engine {
    /// What was seen since the last call.
    pub fn take_seen_of_tenants(&self) -> Untold {
        self.ports.tenants.lock().take()
    }

    /// Puts back what could not be told to the store.
    pub fn give_back_seen_of_tenants(&self, untold: Untold) {
        self.ports.tenants.lock().give_back(untold);
    }

    /// A user of this tenant signed in, for a connection of that account in this state, or for a new one.
    pub fn signed_in(&self, app: &AppName, tenant: Option<&str>, before: Option<Status>) {
        self.ports.tenants.lock().worked(app, tenant, before);
    }

    /// The store said which tenants refuse connections, and which of them block the app.
    pub fn learn_refusing_tenants(&self, refusing: impl Iterator<Item = (Part, Option<BlockReason>)>) {
        self.ports.tenants.lock().learn(refusing);
    }

    /// How long idle grants of a tenant were seen to last, if that was too short, as far as this process
    /// knows.
    pub fn seen_idle_limit(&self, app: &AppName, tenant: &str) -> Option<Duration> {
        self.ports.idle_limits.of(app, tenant.to_owned())
    }

    /// What the background does for idle grants that live for so long without use, if that is known.
    pub fn renewals(&self, idle_limit: Option<Duration>) -> Renewals {
        let renews = self.ports.settings().sweep_rate > 0.0;
        due::renewals(idle_limit, renews)
    }
}

/// Unstored answers.
impl Engine {
    /// Takes up the journal's answers from before this process. Each is offered to the store before anything
    /// else is done for its connection. Returns how many there are. To be called before anything is served.
    pub async fn recover(&self) -> Result<usize, RepositoryError> {
        let entries = self.repository().journaled().await?;
        let found = entries.len();
        for (key, answer) in entries {
            let slot = self.slots.slot(&key, self.ports.monotonic());
            let older = slot.state().memory.recovered(answer);
            if let Some(older) = older {
                self.unjournal("drop an older entry of the journal", older.sealed.revision);
            }
        }
        Ok(found)
    }

    /// Offers every unstored answer to the store once more. For a timer, and for a stop. Returns how many are
    /// left.
    pub async fn store_unstored(&self) -> usize {
        let mut left = 0;
        self.slots.forget_old(self.ports.monotonic());
        for (key, slot) in self.slots.unstored() {
            if durable::offer(&self.ports, self.at(&key, &slot)).await.is_err() {
                left += 1;
            }
        }
        left
    }

    /// How many unstored answers need each sealing key.
    pub fn unstored_by_key(&self) -> ByKey {
        let mut counts = ByKey::new();
        for slot in self.slots.all() {
            if let Some(answer) = slot.state().memory.answer() {
                count_keys(&mut counts, keys_of(&answer.sealed));
            }
        }
        counts
    }

    fn unjournal(&self, name: &'static str, revision: Revision) {
        let repository = self.ports.deps.repository.clone();
        self.ports.spawn(name, async move { repository.unjournal(&revision).await });
    }
}
