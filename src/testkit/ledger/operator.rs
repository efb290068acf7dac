//! Checks that what an operator stops stays stopped, on every replica that reaches the store; that a
//! throttled tenant is left alone; and that connections which nobody asks for are renewed, within bounds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Books, FELT_WITHIN, Ledger, SLOWEST_LOOK};
use crate::domain::id::ConnectionKey;
use crate::store::Revision;
use crate::testkit::authority::{Call, Family};
use crate::testkit::tasks::Pid;

/// Time in which every replica must obey the kill switch.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);
/// Longest time between the last check of a permission and the use: taking a lease, and waiting for a permit
/// and a slow store.
const UNDER_WAY: Duration = Duration::from_secs(10);
/// Time in which every replica knows that an authority throttles.
const HOLD_KNOWN: Duration = Duration::from_secs(2);
/// A throttle within this time after callers forced renewals may concern only their connection, not its
/// tenant. (The forced renewals may be delayed.)
const FORCED_LATELY: Duration = Duration::from_secs(60 + 15);
/// Most uses in a minute, by all replicas, of a grant that nobody asks for: one for half of the shortest life
/// of a token, one for a resumed connection, and one more for each failure.
const MOST_SWEPT_A_MINUTE: usize = 6;
/// As in `refresh/slot/remembered.rs`.
const REMEMBERED: Duration = Duration::from_secs(120);
/// How long a throttle is remembered: longer than any that is asked for.
const FORGOTTEN: Duration = Duration::from_secs(120);
/// Time in which an act takes effect whose answer was lost, or never.
const LATE_ACT: Duration = Duration::from_secs(30);

/// An operator ends all connections of some kind.
pub(crate) struct Revoking {
    pub(super) begun: Duration,
    pub(super) acknowledged: Option<Duration>,
    pub(super) pid: Pid,
    /// The connections, with their accounts, that it covers.
    pub(super) covers: BTreeSet<(ConnectionKey, u32)>,
}

struct Pausing {
    paused: bool,
    begun: Duration,
    acknowledged: Option<Duration>,
    pid: Pid,
}

struct Hold {
    tenant: Option<String>,
    /// Set if the throttle may concern only this grant: callers had just reported tokens of its connection.
    only: Option<Family>,
    pid: Pid,
    replica: usize,
    since: Duration,
    until: Duration,
}

/// The ledger's knowledge about operators and background work.
#[derive(Default)]
pub(super) struct Book {
    revoked: Vec<Revoking>,
    pauses: BTreeMap<ConnectionKey, Vec<Pausing>>,
    holds: Vec<Hold>,
    /// When callers last told a process that a token of a connection was refused.
    reports: BTreeMap<(Pid, ConnectionKey), Duration>,
    /// The grant of each stored record.
    records: BTreeMap<[u8; 16], Family>,
    /// The connection that no caller asks for, and when its grant was used.
    idle: Option<ConnectionKey>,
    idle_uses: Vec<Duration>,
    /// Replicas without a process.
    away: BTreeSet<usize>,
    hindrances: BTreeMap<usize, Duration>,
    emptied: Vec<Duration>,
}

impl Ledger {
    /// Marks the connection that nobody asks for.
    pub(crate) fn is_idle(&self, key: &ConnectionKey) {
        self.books().operator.idle = Some(key.clone());
    }

    /// The store starts empty.
    pub(crate) fn emptied(&self) {
        let now = self.world.now();
        self.books().operator.emptied.push(now);
    }

    /// A replica stops or starts running.
    pub(crate) fn away(&self, replica: usize, away: bool) {
        let mut books = self.books();
        if away {
            books.operator.away.insert(replica);
        } else {
            books.operator.away.remove(&replica);
        }
        drop(books);
        self.hindered(replica);
    }

    /// A fault kept a replica from storing.
    pub(super) fn hindered(&self, replica: usize) {
        let now = self.world.now();
        self.books().operator.hindrances.insert(replica, now);
    }

    pub(crate) fn revoking(&self, pid: Pid, covers: BTreeSet<(ConnectionKey, u32)>) -> usize {
        let begun = self.world.now();
        let mut books = self.books();
        books.operator.revoked.push(Revoking { begun, acknowledged: None, pid, covers });
        books.operator.revoked.len() - 1
    }

    pub(crate) fn revoked(&self, number: usize) {
        let now = self.world.now();
        self.books().operator.revoked[number].acknowledged = Some(now);
    }

    pub(crate) fn pausing(&self, pid: Pid, key: &ConnectionKey, paused: bool) -> usize {
        let begun = self.world.now();
        let mut books = self.books();
        let pauses = books.operator.pauses.entry(key.clone()).or_default();
        pauses.push(Pausing { paused, begun, acknowledged: None, pid });
        pauses.len() - 1
    }

    pub(crate) fn paused(&self, key: &ConnectionKey, number: usize) {
        let now = self.world.now();
        if let Some(pauses) = self.books().operator.pauses.get_mut(key) {
            pauses[number].acknowledged = Some(now);
        }
    }

    pub(super) fn stored_as(&self, revision: Revision, family: Family) {
        self.books().operator.records.insert(revision.nonce, family);
    }

    /// Records that a record was destroyed: somebody must have asked for that since its user began to sign
    /// in.
    pub(super) fn destroyed_by(&self, pid: Pid, key: &ConnectionKey, was: Revision) {
        let books = self.books();
        let Some(family) = books.operator.records.get(&was.nonce) else { return };
        let Some(sign_in) = books.sign_ins.get(family) else { return };
        let begun = sign_in.begun;
        let meant = books.may_be_deleted(key, begun);
        let family = family.0;
        drop(books);
        self.world.note(format_args!("{pid:?} destroys {} grant {family}", key.connection));
        if !meant && !self.jumps {
            self.violated("I7", format!("{key}: grant {family} is destroyed, and nobody asked for that"));
        }
    }

    /// Returns what is wrong with a hand-out as far as operators are concerned.
    pub(super) fn against_operators(
        &self,
        books: &Books,
        (pid, replica): (Pid, usize),
        key: &ConnectionKey,
        family: Family,
        asked_at: Duration,
    ) -> Option<String> {
        let now = self.world.now();
        if let Some((since, late)) = self.revoked_for(books, (pid, replica), key, family)
            && late > Duration::ZERO
        {
            return Some(format!("{key}: grant {} on replica {replica}, revoked at {since:?}", family.0));
        }
        let pause = self.paused_by(books, key, family)?;
        let since = pause.acknowledged?;
        let bound = self.felt_within(books, (pid, pause.pid), key, asked_at);
        (now.saturating_sub(since) > bound)
            .then(|| format!("{key}: grant {} on replica {replica}, paused since {since:?}", family.0))
    }

    /// Returns what is wrong with a use of a grant as far as operators, throttles and the sweep are
    /// concerned.
    pub(super) fn against_use(&self, books: &mut Books, call: &Call) -> Option<(&'static str, String)> {
        let now = self.world.now();
        let key = books.sign_ins.get(&call.family).map(|sign_in| sign_in.key.clone())?;
        let who = (call.pid, call.replica);
        if books.operator.idle.as_ref() == Some(&key) {
            let uses = &mut books.operator.idle_uses;
            uses.push(now);
            uses.retain(|at| now.saturating_sub(*at) < Duration::from_secs(60));
            let count = uses.len();
            books.counts.swept += 1;
            if count > MOST_SWEPT_A_MINUTE && !self.jumps {
                return Some(("I14", format!("{key}: used {count} times in a minute, for nobody")));
            }
        }
        if let Some((since, late)) = self.revoked_for(books, who, &key, call.family)
            && late > UNDER_WAY
        {
            return Some(("I7", format!("{key}: grant {} is used, revoked at {since:?}", call.family.0)));
        }
        if let Some(since) = self.paused_by(books, &key, call.family).and_then(|pause| pause.acknowledged)
            && now.saturating_sub(since) > UNDER_WAY
            && !books.was_stopped(call.pid, since)
        {
            return Some(("I7", format!("{key}: grant {} is used, paused since {since:?}", call.family.0)));
        }
        let of_tenant = || books.operator.holds.iter().filter(|hold| hold.tenant == call.tenant);
        let is_meant =
            |hold: &&Hold| hold.only.is_none_or(|only| only == call.family && hold.pid == call.pid);
        let ignored = of_tenant().filter(is_meant).find(|hold| {
            let known = hold.since + HOLD_KNOWN;
            // A later answer counts, even if it names a shorter time, and even if it may concern only one
            // connection.
            of_tenant().all(|later| later.since < hold.since || later.until > now)
                && now > known
                && now < hold.until
                && !self.jumps
                && !books.was_stopped(call.pid, hold.since)
                && !books.was_stopped(hold.pid, hold.since)
                && !books.killed.contains(&hold.pid)
                && !books.troubled(hold.replica, hold.since, known)
                && !books.troubled(call.replica, hold.since, now)
                && !books.losses.iter().any(|(at, _)| *at >= hold.since)
        });
        ignored.map(|hold| {
            let what = format!(
                "{key}: {:?} is used, and {:?} was asked at {:?} to leave it alone until {:?}",
                call.tenant, hold.pid, hold.since, hold.until
            );
            ("I22", what)
        })
    }

    pub(super) fn asked_to_leave_alone(&self, call: &Call, until: Duration) {
        let since = self.world.now();
        self.world.note(format_args!("{} is to leave {:?} alone until {until:?}", call.replica, call.tenant));
        let (tenant, pid, replica) = (call.tenant.clone(), call.pid, call.replica);
        let mut books = self.books();
        books.counts.holds += 1;
        books.operator.holds.retain(|hold| hold.until + FORGOTTEN > since);
        let key = books.sign_ins.get(&call.family).map(|sign_in| sign_in.key.clone());
        let is_forced = |key: &ConnectionKey| {
            let reported = books.operator.reports.get(&(pid, key.clone()));
            reported.is_some_and(|at| since.saturating_sub(*at) < FORCED_LATELY)
        };
        let only = key.as_ref().is_some_and(is_forced).then_some(call.family);
        books.operator.holds.push(Hold { tenant, only, pid, replica, since, until });
    }

    /// Records a caller's report that a resource refused the token of a connection.
    pub(crate) fn reported(&self, pid: Pid, key: &ConnectionKey) {
        let now = self.world.now();
        self.books().operator.reports.insert((pid, key.clone()), now);
    }

    /// Returns when the grant was revoked, and how much longer than allowed a process has not known it.
    fn revoked_for(
        &self,
        books: &Books,
        (pid, replica): (Pid, usize),
        key: &ConnectionKey,
        family: Family,
    ) -> Option<(Duration, Duration)> {
        let now = self.world.now();
        let sign_in = books.sign_ins.get(&family)?;
        let signed_in = sign_in.acknowledged?;
        let meant = |one: &&Revoking| {
            one.acknowledged.is_some()
                && one.begun > signed_in
                && one.covers.contains(&(key.clone(), sign_in.user))
        };
        let one = books.operator.revoked.iter().find(meant)?;
        let since = one.acknowledged?;
        if self.jumps || books.losses.iter().any(|(at, _)| *at >= one.begun) {
            return None;
        }
        if one.pid == pid {
            return Some((since, now.saturating_sub(since)));
        }
        // A process that reaches the store knows it within seconds; one that was stopped or cut off, within
        // seconds of its return.
        let reached = since.max(books.last_trouble(replica)).max(books.last_stop(pid));
        Some((since, now.saturating_sub(reached + REVOKED_WITHIN)))
    }

    /// Returns the pause in force, unless it may have been lifted.
    fn paused_by<'a>(&self, books: &'a Books, key: &ConnectionKey, family: Family) -> Option<&'a Pausing> {
        let pauses = books.operator.pauses.get(key)?;
        let pause = pauses.iter().rev().find(|pause| pause.paused && pause.acknowledged.is_some())?;
        let over = |acknowledged: Option<Duration>, begun: Duration| match acknowledged {
            Some(at) => at >= pause.begun,
            None => begun + LATE_ACT >= pause.begun,
        };
        let resumed = pauses.iter().any(|other| !other.paused && over(other.acknowledged, other.begun));
        let mut sign_ins = books.sign_ins.values().filter(|sign_in| sign_in.key == *key);
        let signed_in = sign_ins.any(|sign_in| over(sign_in.acknowledged, sign_in.begun));
        let lost = books.losses.iter().any(|(at, _)| *at >= pause.begun);
        let known = books.sign_ins.get(&family)?.acknowledged.is_some_and(|at| at < pause.begun);
        (known && !resumed && !signed_in && !lost).then_some(pause)
    }

    /// Returns the time in which a process must obey another's act.
    pub(super) fn felt_within(
        &self,
        books: &Books,
        (pid, by): (Pid, Pid),
        key: &ConnectionKey,
        asked_at: Duration,
    ) -> Duration {
        let now = self.world.now();
        let unanswered = books.unanswered.get(&(pid, key.clone()));
        let recently = |at: Duration| now.saturating_sub(at.max(books.last_stop(pid))) <= SLOWEST_LOOK;
        let cut_off = unanswered.is_some_and(|healed_at| healed_at.is_none_or(recently));
        // A process whose patience ended (it was stopped) does not wait for another check.
        let cut_off = cut_off || now >= asked_at + self.settings.caller_wait;
        match (by == pid, cut_off) {
            (true, _) => Duration::ZERO,
            (false, false) => FELT_WITHIN,
            (false, true) => self.settings.serve_cached_for + FELT_WITHIN,
        }
    }

    /// Checks that the idle connection has a live token while its grant lives: it is renewed without a
    /// request.
    pub(crate) fn judge_idle(&self, key: &ConnectionKey) {
        let now = self.world.now();
        let Some(stored) = self.stored(key) else { return };
        let issuer = &self.insight().1;
        let lives = stored.grant.is_some_and(|(family, _)| issuer.lives(family));
        // If a refresh token may be used only once, one whose answer was lost is left alone while a token
        // lives.
        let in_doubt = issuer.punishes_reuse()
            && stored.grant.is_some_and(|(family, generation)| issuer.is_in_doubt(family, generation));
        if lives && !in_doubt && stored.lives_until <= now {
            let what =
                format!("{key}: nobody asks for it, and its token is dead since {:?}", stored.lives_until);
            self.violated("I21", what);
        }
    }
}

impl Books {
    /// Returns true if the kill switch may have covered a connection since then.
    pub(super) fn was_revoked(&self, key: &ConnectionKey, since: Duration) -> bool {
        let means = |one: &Revoking| one.begun >= since && one.covers.iter().any(|(of, _)| of == key);
        self.operator.revoked.iter().any(means)
    }

    /// Returns true if somebody may have deleted a connection whose user began to sign in at `begun`.
    pub(super) fn may_be_deleted(&self, key: &ConnectionKey, begun: Duration) -> bool {
        let overlaps = |(from, until): &(Duration, Option<Duration>)| {
            *from >= begun || until.unwrap_or(*from + LATE_ACT) >= begun
        };
        let deleted = self.deletes.get(key).is_some_and(|deletes| deletes.iter().any(overlaps));
        deleted || self.is_numbered_anew(begun) || self.lost(key, begun) || self.was_revoked(key, begun)
    }

    /// Returns true if a sign-in that began then may have got a number that was given before, because the
    /// store has started empty. A replica that remembers the earlier one takes it for the later. (A real
    /// store that starts empty is refused until an operator adopts it.)
    pub(super) fn is_numbered_anew(&self, begun: Duration) -> bool {
        self.operator.emptied.iter().any(|at| *at >= begun.saturating_sub(REMEMBERED))
    }

    fn last_trouble(&self, replica: usize) -> Duration {
        self.troubles[replica].last().copied().unwrap_or_default()
    }

    fn last_stop(&self, pid: Pid) -> Duration {
        let stops = self.stops.get(&pid).and_then(|stops| stops.last());
        stops.map(|(from, until)| until.unwrap_or(*from)).unwrap_or_default()
    }

    /// Returns true if a replica could store nothing since then, or not for long.
    pub(super) fn was_hindered(&self, replica: usize, since: Duration) -> bool {
        let last = self.operator.hindrances.get(&replica).copied().unwrap_or_default();
        self.operator.away.contains(&replica) || last.max(self.last_trouble(replica)) >= since
    }
}
