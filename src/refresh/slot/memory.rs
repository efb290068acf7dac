//! Knowledge of this process about one connection: a pure value without clock, store or lock. The drivers
//! (`look`, `durable`, …) tell it what happened, and do what its transitions return.
//!
//! | part | values | what it is for |
//! |---|---|---|
//! | cached | nothing, checked, unchecked | what callers are served |
//! | answer | none, in memory, in the journal | the authority's answer that the store has not acknowledged |
//! | recent | a state, for two minutes | written again if a failover takes it from the store |
//! | deleted | sign-ins, for two minutes each | deleted again if a failover brings them back |
//!
//! The four parts vary independently, so they are no single enum: an old token is served while the store
//! takes the new answer, and a name is connected anew while its delete is remembered.
//! (`testkit/baseline/combinations.txt` counts which combinations occur.) What binds them:
//!
//! - The answer is cached only once the journal or the store has it.
//! - `recent` and `deleted` are used only if other processes write to the store.
//! - A read that began before a write of ours changes nothing, since each write raises the epoch.

use std::sync::Arc;
use std::time::Duration;

use super::held::Held;
use super::remembered::{Recent, Remembered, Repair};
use crate::domain::connection::{SignIn, Status};
use crate::domain::secret::RefreshToken;
use crate::domain::time::Timestamp;
use crate::refresh::failure::Failure;
use crate::repository::{Connection, Loaded, Unstored};
use crate::store::{Revision, StoredConnection};

/// A cached connection is compared with a shared store after this long: a delete on one replica takes effect
/// on every other within it.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Counts the writes to a connection in this process. A read notes it before it asks the store, so that it is
/// dropped if a write came in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::refresh) struct Epoch(u64);

impl Epoch {
    fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

/// The cached connection.
#[derive(Default)]
enum Cached {
    /// None: the store is read first.
    #[default]
    Nothing,
    /// The state that the store or the journal had at the last check.
    Checked(Arc<Held>),
    /// The same; the last read of the store failed.
    Unchecked(Arc<Held>, Unchecked),
}

/// A read of the store that failed.
struct Unchecked {
    /// Monotonic.
    asked_at: Duration,
    failure: Arc<Failure>,
    /// The store answers for other connections. Only this one cannot be read.
    is_this_one_alone: bool,
}

/// The unstored answer.
#[derive(Default)]
enum Answer {
    #[default]
    None,
    /// Lost if this process dies, so none of its tokens is served.
    InMemory(Box<Unstored>),
    /// Safe on this machine, so its tokens may be served.
    InJournal(Box<Unstored>),
}

impl Answer {
    fn get(&self) -> Option<&Unstored> {
        match self {
            Answer::None => None,
            Answer::InMemory(unstored) | Answer::InJournal(unstored) => Some(unstored),
        }
    }

    fn in_journal(&self) -> Option<&Unstored> {
        match self {
            Answer::InJournal(unstored) => Some(unstored),
            Answer::None | Answer::InMemory(_) => None,
        }
    }

    fn is(&self, revision: Revision) -> bool {
        self.get().is_some_and(|unstored| unstored.sealed.revision == revision)
    }
}

/// What to do for the cached connection.
pub(in crate::refresh) enum Look {
    /// Serve it.
    Serve(Arc<Held>),
    /// Serve it, and read the store beside.
    ServeAndRead(Arc<Held>),
    /// The store failed a moment ago, and the cached connection is too old to be served.
    Fail(Arc<Failure>),
    /// Read the store first. `briefly`: the last read failed, and the cached connection may be served if this
    /// one does, too.
    Read { briefly: bool },
}

/// The source of a state of the connection.
#[derive(Clone, Copy)]
pub(in crate::refresh) enum Source<'a> {
    /// A read of the store showed it.
    Read(&'a StoredConnection),
    /// This process wrote it into the store.
    Committed(&'a StoredConnection),
    /// The journal has it; the store does not.
    Journaled,
}

/// A new state of the connection.
pub(in crate::refresh) struct Known<'a> {
    pub(in crate::refresh) held: Held,
    /// It is the journaled answer, in place of the stored state that it succeeds.
    pub(in crate::refresh) is_answer: bool,
    pub(in crate::refresh) source: Source<'a>,
    /// The epoch from before the read or the write.
    pub(in crate::refresh) epoch: Epoch,
    /// Monotonic time at which the read or the write began.
    pub(in crate::refresh) begun: Duration,
}

/// Result of caching a state.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub(in crate::refresh) enum Caching {
    /// A newer state is known: this one is dropped.
    Dropped,
    /// It is cached. With `replaces_sign_in`, troubles of the earlier sign-in are over.
    Done { replaces_sign_in: bool },
}

/// Result of journaling an answer.
pub(in crate::refresh) enum Journaling {
    /// A newer answer or a delete came in between, so the entry is useless.
    Superseded,
    /// It may be served, unless another state was cached meanwhile. `checked_at` is when the store was last
    /// read.
    Done { is_replaced: bool, checked_at: Duration },
}

/// Knowledge of one process about one connection.
#[derive(Default)]
pub(in crate::refresh) struct Memory {
    cached: Cached,
    answer: Answer,
    remembered: Remembered,
    /// Monotonic time of the last read of the store.
    checked_at: Duration,
    /// Whether the stored state may have changed, by somebody's message.
    is_outdated: bool,
    epoch: Epoch,
    /// The sign-in that was cached last.
    sign_in: Option<SignIn>,
}

/// Questions.
impl Memory {
    /// The cached connection.
    pub(in crate::refresh) fn cached(&self) -> Option<&Arc<Held>> {
        match &self.cached {
            Cached::Nothing => None,
            Cached::Checked(held) | Cached::Unchecked(held, _) => Some(held),
        }
    }

    /// The revision of the cached connection.
    pub(in crate::refresh) fn cached_revision(&self) -> Option<Revision> {
        self.cached().map(|held| held.connection.revision)
    }

    /// The sign-in that was cached last, even if nothing is cached now.
    pub(in crate::refresh) fn sign_in(&self) -> Option<SignIn> {
        self.sign_in
    }

    /// Whether the cached connection was not checked, or the store lacks its newest state.
    pub(in crate::refresh) fn is_degraded(&self) -> bool {
        matches!(self.cached, Cached::Unchecked(..)) || self.answer.get().is_some()
    }

    /// The epoch, for a read or a write that begins.
    pub(in crate::refresh) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The unstored answer.
    pub(in crate::refresh) fn answer(&self) -> Option<&Unstored> {
        self.answer.get()
    }

    /// Whether the answer of this revision is unstored.
    pub(in crate::refresh) fn is_unstored(&self, revision: Revision) -> bool {
        self.answer.is(revision)
    }

    /// Whether the journal has the answer.
    pub(in crate::refresh) fn is_journaled(&self) -> bool {
        self.answer.in_journal().is_some()
    }

    /// What to do for the cached connection at `now`. `serve_for`: how long it is served without the store.
    /// `answered_since`: whether the store answered anybody since then (both monotonic).
    pub(in crate::refresh) fn look(
        &self,
        now: Duration,
        is_shared: bool,
        serve_for: impl FnOnce() -> Duration,
        answered_since: impl Fn(Duration) -> bool,
    ) -> Look {
        let is_due = is_shared && (self.is_outdated || now.saturating_sub(self.checked_at) >= CHECK_EVERY);
        match &self.cached {
            Cached::Checked(held) | Cached::Unchecked(held, _) if !is_due => Look::Serve(held.clone()),
            // The store is known to fail. Nobody waits for it while the cached connection may be served.
            Cached::Unchecked(held, Unchecked { asked_at, failure, is_this_one_alone })
                if *is_this_one_alone || !answered_since(*asked_at) =>
            {
                let is_tried_lately = now.saturating_sub(*asked_at) < CHECK_EVERY;
                let is_too_old = now.saturating_sub(self.checked_at) > serve_for();
                match (is_too_old, is_tried_lately) {
                    (true, true) => Look::Fail(failure.clone()),
                    (false, true) => Look::Serve(held.clone()),
                    (false, false) if !answered_since(*asked_at) => Look::ServeAndRead(held.clone()),
                    (true | false, false) => Look::Read { briefly: true },
                }
            }
            Cached::Nothing | Cached::Checked(_) | Cached::Unchecked(..) => Look::Read { briefly: false },
        }
    }

    /// The cached connection, if it may still be served at `now` without the store.
    pub(in crate::refresh) fn outlasting(&self, now: Duration, serve_for: Duration) -> Option<&Arc<Held>> {
        self.cached().filter(|_| now.saturating_sub(self.checked_at) <= serve_for)
    }

    /// When the cached connection was last known to be current (monotonic), if one is cached.
    pub(in crate::refresh) fn current_at(&self) -> Option<Duration> {
        self.cached().map(|_| self.checked_at)
    }

    /// The cached connection with its sealed record, if the store had both a moment before `now`.
    pub(in crate::refresh) fn at_hand(&self, now: Duration) -> Option<Loaded> {
        let Cached::Checked(held) = &self.cached else { return None };
        let is_recent = !self.is_outdated && now.saturating_sub(self.checked_at) < CHECK_EVERY;
        let connection = &held.connection;
        let is_stored = self.answer.get().is_none() && self.remembered.has(connection.revision, now);
        let sealed = self.recent().filter(|_| is_recent && is_stored)?.sealed.as_ref().clone();
        Some(Loaded { connection: connection.clone(), sealed })
    }

    /// The repair that a read of `stored` needs first.
    pub(in crate::refresh) fn repair(&self, stored: &Connection, now: Duration) -> Repair {
        self.remembered.repair(stored, self.answer.get().is_some(), now)
    }

    /// The journaled answer to serve in place of `stored`, if it was made from the grant in `stored`. A later
    /// state of another writer (an operator's pause) counts instead. After a pause that was resumed, the
    /// grant is the answer's predecessor again.
    pub(in crate::refresh) fn answer_on_top_of(&self, stored: &Connection) -> Option<&Unstored> {
        self.answer.in_journal().filter(|unstored| {
            let is_as_before = stored.profile.status() == Status::Active
                && stored.grant_place() == unstored.connection.grant_place().before();
            unstored.expected == stored.revision || is_as_before
        })
    }

    /// The refresh token that the cached answer used, if `stored` is another answer to a use of the same
    /// grant. If `stored` still has this token, that answer brought no new one, and ours goes on top.
    pub(in crate::refresh) fn used_beside(&self, stored: &Connection) -> Option<&RefreshToken> {
        let unstored = self.answer.in_journal()?;
        let is_rotated = unstored.grant.current != unstored.used;
        let is_beside = unstored.expected != stored.revision
            && unstored.connection.grant_place() == stored.grant_place()
            && stored.profile.status() == Status::Active;
        let is_cached = self.cached_revision() == Some(unstored.sealed.revision);
        (is_rotated && is_beside && is_cached).then_some(&unstored.used)
    }

    /// Whether the cached state is newer than `stored` and stays, because it can be written again or the
    /// journal has it.
    fn is_ahead_of(&self, stored: &Connection, now: Duration) -> bool {
        let Some(held) = self.cached().map(|held| &held.connection) else { return false };
        let is_remembered = self.remembered.has(held.revision, now);
        let is_on_its_way = self.answer_on_top_of(stored).is_some()
            || self.answer.in_journal().is_some_and(|unstored| {
                // The store has lost the answer's predecessor, too; or a verdict came between, which the
                // answer proves wrong.
                let used = unstored.connection.grant_place().before();
                let is_judged =
                    matches!(stored.profile.status(), Status::NeedsReauthorization(_) | Status::Blocked(_));
                let place = stored.grant_place();
                place.is_before(&used) || (place == used && is_judged)
            });
        stored.is_before(held) && (is_remembered || is_on_its_way)
    }

    /// Whether the slot must stay: it remembers a delete, or an answer waits to be stored.
    pub(super) fn is_needed(&self) -> bool {
        self.answer.get().is_some() || self.remembered.has_deletes()
    }

    /// Whether nothing is known.
    pub(super) fn is_empty(&self) -> bool {
        self.cached().is_none() && self.recent().is_none() && !self.is_needed()
    }

    /// The remembered state of the store.
    pub(super) fn recent(&self) -> Option<&Recent> {
        self.remembered.state()
    }
}

/// For the simulation ([`Combination`](crate::refresh::Combination)).
#[cfg(test)]
impl Memory {
    pub(in crate::refresh) fn recent_revision(&self, now: Duration) -> Option<Revision> {
        self.remembered.revision(now)
    }

    pub(in crate::refresh) fn has_deleted(&self, now: Duration) -> bool {
        self.remembered.has_live_deletes(now)
    }

    pub(in crate::refresh) fn is_unchecked(&self) -> bool {
        matches!(self.cached, Cached::Unchecked(..))
    }
}

/// Transitions.
impl Memory {
    /// A read of the store begins. A message that comes from now on may be about a newer state than the read
    /// shows.
    pub(in crate::refresh) fn begin_read(&mut self) -> (Epoch, Option<Revision>) {
        self.is_outdated = false;
        (self.epoch, self.cached_revision())
    }

    /// A read that began at `begun` showed that the cached revision is the stored one.
    pub(in crate::refresh) fn read_confirmed(&mut self, begun: Duration) {
        self.checked_at = self.checked_at.max(begun);
        self.store_answered();
    }

    /// A read showed a state that the cached answer goes on top of. Ignored if something was written since
    /// `epoch`.
    pub(in crate::refresh) fn read_predecessor(&mut self, epoch: Epoch, begun: Duration) {
        if self.epoch == epoch {
            self.read_confirmed(begun);
        }
    }

    /// A read showed the connection in a state that could not be repaired.
    pub(in crate::refresh) fn read_unrepaired(&mut self, epoch: Epoch, begun: Duration) {
        if self.epoch == epoch {
            self.checked_at = self.checked_at.max(begun);
        }
    }

    /// A read showed that the connection does not exist. Earlier work does not bring it back.
    pub(in crate::refresh) fn read_absent(&mut self, epoch: Epoch, begun: Duration) {
        if self.epoch == epoch && begun >= self.checked_at {
            self.epoch = self.epoch.next();
            self.remembered.forget_state(|_| true);
            self.cached = Cached::Nothing;
            self.checked_at = begun;
        }
    }

    /// A read at `now` failed. `answered_since`: whether the store answered anybody since then.
    pub(in crate::refresh) fn read_failed(
        &mut self,
        failure: Arc<Failure>,
        now: Duration,
        answered_since: impl Fn(Duration) -> bool,
    ) {
        self.cached = match std::mem::take(&mut self.cached) {
            Cached::Nothing => Cached::Nothing,
            Cached::Checked(held) => {
                Cached::Unchecked(held, Unchecked { asked_at: now, failure, is_this_one_alone: false })
            }
            Cached::Unchecked(held, before) => {
                let is_this_one_alone = answered_since(before.asked_at);
                Cached::Unchecked(held, Unchecked { asked_at: now, failure, is_this_one_alone })
            }
        };
    }

    /// A new state became known at `now`. It is cached unless a newer one is known. `is_shared`: other
    /// processes write to the store.
    pub(in crate::refresh) fn cache(&mut self, known: Known<'_>, now: Duration, is_shared: bool) -> Caching {
        let Known { held, is_answer, source, epoch, begun } = known;
        let revision = held.connection.revision;
        let is_read = matches!(source, Source::Read(_));
        // Of two concurrent reads the one that began later counts, whichever ends last.
        if self.epoch != epoch || (is_read && begun < self.checked_at) {
            return Caching::Dropped;
        }
        if !is_read {
            self.epoch = self.epoch.next();
        }
        self.checked_at = begun;
        self.store_answered();
        // Settled in the same step as the caching. Between two steps an older read could be cached.
        if matches!(source, Source::Committed(_)) && self.answer.is(revision) {
            self.answer = Answer::None;
        }
        if self.is_ahead_of(&held.connection, now) {
            return Caching::Dropped;
        }
        let sign_in = held.connection.profile.sign_in();
        let replaces_sign_in = self.sign_in.is_some_and(|before| before != sign_in);
        self.sign_in = Some(sign_in);
        let held = Arc::new(held);
        if let Source::Read(sealed) | Source::Committed(sealed) = source {
            // Only a state that the store has is remembered. The journal's answer is stored on top of it.
            let is_stored = !is_answer && !self.answer.is(revision);
            // A known state that is read again is no recent write, and a failover loses only recent ones.
            let is_news = !is_read || self.cached_revision() != Some(revision);
            if is_shared && is_stored && is_news {
                self.remembered.note(&held, sealed, now);
            }
        }
        self.cached = Cached::Checked(held);
        Caching::Done { replaces_sign_in }
    }

    /// The authority answered. The answer is about to be offered to the store.
    pub(in crate::refresh) fn answered(&mut self, answer: Unstored) {
        self.answer = Answer::InMemory(Box::new(answer));
    }

    /// The journal took the answer.
    pub(in crate::refresh) fn journaled(&mut self, answer: &Unstored) -> Journaling {
        if !self.answer.is(answer.sealed.revision) {
            return Journaling::Superseded;
        }
        if let Answer::InMemory(unstored) = std::mem::take(&mut self.answer) {
            self.answer = Answer::InJournal(unstored);
        }
        let is_replaced = self.cached_revision().is_some_and(|cached| cached != answer.expected);
        Journaling::Done { is_replaced, checked_at: self.checked_at }
    }

    /// The store has the answer, or a newer one, so it is settled. Returns false if another answer replaced
    /// it.
    pub(in crate::refresh) fn settled(&mut self, revision: Revision) -> bool {
        let is_it = self.answer.is(revision);
        if is_it {
            self.answer = Answer::None;
        }
        is_it
    }

    /// The answer of revision `before` was sealed again, to go on top of another writer's state. This is one
    /// step: in between nobody would know of the answer, and would use the refresh token again. Returns false
    /// if another answer replaced it.
    pub(in crate::refresh) fn rebased(&mut self, before: Revision, again: Unstored) -> bool {
        let is_it = self.answer.is(before);
        let again = Box::new(again);
        if is_it {
            self.answer = match self.answer {
                Answer::InJournal(_) => Answer::InJournal(again),
                Answer::None | Answer::InMemory(_) => Answer::InMemory(again),
            };
        }
        is_it
    }

    /// The journal had this answer when the process started. Returns the older of two answers, whose entry is
    /// useless.
    pub(in crate::refresh) fn recovered(&mut self, answer: Unstored) -> Option<Unstored> {
        match std::mem::take(&mut self.answer) {
            Answer::None => {
                self.answer = Answer::InJournal(Box::new(answer));
                None
            }
            Answer::InMemory(kept) | Answer::InJournal(kept) => {
                let is_newer = kept.connection.is_before(&answer.connection);
                let (newer, older) = if is_newer { (answer, *kept) } else { (*kept, answer) };
                self.answer = Answer::InJournal(Box::new(newer));
                Some(older)
            }
        }
    }

    /// Remembers a delete of this sign-in.
    pub(in crate::refresh) fn remember_delete(&mut self, sign_in: SignIn, at: Timestamp, now: Duration) {
        self.remembered.note_delete(sign_in, at, now);
    }

    /// A delete or a new sign-in ended sign-ins: forgets their state, and drops earlier reads. Other sign-ins
    /// stay. Returns the revision of a dropped answer that the journal has.
    pub(in crate::refresh) fn forget(&mut self, is_over: impl Fn(&SignIn) -> bool) -> Option<Revision> {
        self.epoch = self.epoch.next();
        self.is_outdated = true;
        let over = |connection: &Connection| is_over(&connection.profile.sign_in());
        if self.cached().is_some_and(|held| over(&held.connection)) {
            self.cached = Cached::Nothing;
        }
        self.remembered.forget_state(over);
        if !self.answer.get().is_some_and(|unstored| over(&unstored.connection)) {
            return None;
        }
        match std::mem::take(&mut self.answer) {
            Answer::InJournal(dropped) => Some(dropped.sealed.revision),
            Answer::None | Answer::InMemory(_) => None,
        }
    }

    /// The cached state may differ from the stored one: it is read again. The answer stays, since its
    /// predecessor may still be stored.
    pub(in crate::refresh) fn distrust(&mut self) {
        self.epoch = self.epoch.next();
        self.cached = Cached::Nothing;
    }

    /// The stored state may have changed: the store is read before the cached state is served again.
    pub(in crate::refresh) fn outdated(&mut self) {
        self.is_outdated = true;
    }

    /// An operator accepted another store: nothing from the old one is written to it.
    pub(in crate::refresh) fn start_over(&mut self) {
        self.remembered = Remembered::default();
    }

    /// Forgets writes that are too old for a failover to take back. Returns whether any is left.
    pub(super) fn remembers(&mut self, now: Duration) -> bool {
        self.remembered.prune(now)
    }

    fn store_answered(&mut self) {
        self.cached = match std::mem::take(&mut self.cached) {
            Cached::Unchecked(held, _) => Cached::Checked(held),
            as_before @ (Cached::Nothing | Cached::Checked(_)) => as_before,
        };
    }
}

#[cfg(test)]
mod tests;
