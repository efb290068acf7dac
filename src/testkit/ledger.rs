//! The checker of a run. It learns of everything that the fakes and the callers see, and compares that with
//! the invariants. It asks neither the engine nor a fake whether something was right.

pub(crate) mod journal;
mod operator;

use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::time::Duration;

use self::journal::{Journaled, Opener, at_once};

use super::authority::{self, Call, Family, SimIssuer, Stamp};
use super::clock::BEGINNING;
use super::store::{self, Effect};
use super::tasks::{Pid, World};
use crate::domain::connection::Status;
use crate::domain::id::ConnectionKey;
use crate::domain::notice::{About, Outlook};
use crate::domain::time::Timestamp;
use crate::refresh::{Combination, Settings};
use crate::repository::{Connection, Repository};
use crate::store::{MAX_PAGE, Revision, Writer};

/// Most uses of one grant by one process within a minute. The engine waits a second after the first of
/// several failures, up to five later, and asks once more after a personal account's verdict; several
/// resources and reports of refused tokens add to that.
const MOST_CALLS_A_MINUTE: usize = 30;
/// How long a deleted or replaced connection may be served elsewhere while the store answers.
const FELT_WITHIN: Duration = Duration::from_secs(1);

/// Longest check of a changed connection: it makes two calls of the store, and until they return, a process
/// that was cut off may not know that the connection is gone.
const SLOWEST_LOOK: Duration = Duration::from_secs(4);

/// A token with less life counts as dead; and a refresh is decided a moment before the authority hears of it.
const SHORTEST_LIFE: Duration = Duration::from_secs(1);
/// Time in which a journal's entry reaches the store, if nothing is wrong.
const STORED_WITHIN: Duration = Duration::from_secs(15);

/// A violated invariant.
#[derive(Debug, Clone)]
pub(crate) struct Violation {
    pub(crate) at: Duration,
    pub(crate) invariant: &'static str,
    pub(crate) what: String,
}

/// The content of a connection's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) revision: Revision,
    pub(crate) status: Status,
    /// `None` if a verdict destroyed it.
    pub(crate) grant: Option<(Family, u64)>,
    /// End of the last of its tokens' lives, as stored.
    pub(crate) lives_until: Duration,
    /// Serials of its tokens.
    pub(crate) serials: Vec<u64>,
}

/// A user's or operator's act on a connection, which ends every earlier grant.
#[derive(Debug, Clone, Copy)]
struct Act {
    begun: Duration,
    acknowledged: Duration,
    pid: Pid,
}

struct SignIn {
    key: ConnectionKey,
    user: u32,
    begun: Duration,
    acknowledged: Option<Duration>,
}

#[derive(Default)]
struct Books {
    violations: Vec<Violation>,
    /// By replica: the times of faults between it and the store.
    troubles: Vec<Vec<Duration>>,
    /// By process: when it was stopped and resumed.
    stops: BTreeMap<Pid, Vec<(Duration, Option<Duration>)>>,
    killed: BTreeSet<Pid>,
    losses: Vec<(Duration, BTreeSet<ConnectionKey>)>,
    sign_ins: BTreeMap<Family, SignIn>,
    acts: BTreeMap<ConnectionKey, Vec<Act>>,
    /// Times of deletes, whatever their outcome.
    deletes: BTreeMap<ConnectionKey, Vec<(Duration, Option<Duration>)>>,
    /// The newest serial that a process handed out.
    newest: BTreeMap<(Pid, Family, Option<String>), (Duration, u64)>,
    /// The newest stored generation of each grant.
    stored: BTreeMap<Family, u64>,
    /// Serials of all tokens ever stored …
    kept: BTreeSet<u64>,
    /// … or acknowledged by a replica's journal.
    kept_in_journal: BTreeMap<(usize, u64), Duration>,
    /// When a connection was last committed.
    committed: BTreeMap<ConnectionKey, Duration>,
    uses: BTreeMap<(Pid, Family), Vec<Duration>>,
    /// Failed checks of the store, and the time of the first successful one after each.
    unanswered: BTreeMap<(Pid, ConnectionKey), Option<Duration>>,
    /// Answers that a journal acknowledged.
    journaled: Vec<Journaled>,
    operator: operator::Book,
    counts: Counts,
}

/// Counts of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    pub(crate) handed_out: u64,
    pub(crate) refused: BTreeMap<&'static str, u64>,
    pub(crate) faults: u64,
    pub(crate) store_calls: u64,
    pub(crate) authority_calls: u64,
    pub(crate) commits: u64,
    /// Grants that ended because a refresh token was used twice, by explanation.
    pub(crate) explained: BTreeMap<&'static str, u64>,
    /// Dead tokens handed out after a wall clock had jumped.
    pub(crate) dead_after_jump: u64,
    pub(crate) most_calls_a_minute: usize,
    /// Writes of journals.
    pub(crate) journaled: u64,
    /// Commits that the store refused while it was up.
    pub(crate) refused_commits: u64,
    /// Answers of the authority that asked us to wait.
    pub(crate) holds: u64,
    /// Uses of a grant without a request.
    pub(crate) swept: u64,
    /// What was known of a connection after a task of its replica had run.
    pub(crate) combinations: BTreeMap<Combination, u64>,
}

impl Counts {
    /// Adds the counts of another run.
    pub(crate) fn add(&mut self, other: &Counts) {
        self.requests += other.requests;
        self.handed_out += other.handed_out;
        self.faults += other.faults;
        self.store_calls += other.store_calls;
        self.authority_calls += other.authority_calls;
        self.commits += other.commits;
        self.dead_after_jump += other.dead_after_jump;
        self.journaled += other.journaled;
        self.refused_commits += other.refused_commits;
        self.holds += other.holds;
        self.swept += other.swept;
        self.most_calls_a_minute = self.most_calls_a_minute.max(other.most_calls_a_minute);
        for (combination, count) in &other.combinations {
            *self.combinations.entry(*combination).or_default() += count;
        }
        for (mine, others) in [(&mut self.refused, &other.refused), (&mut self.explained, &other.explained)] {
            for (word, count) in others {
                *mine.entry(word).or_default() += count;
            }
        }
    }
}

/// The checker.
pub(crate) struct Ledger {
    world: World,
    settings: Settings,
    /// True if the store acknowledges only what a failover cannot lose.
    wait: bool,
    /// True if a replica's wall clock jumps in this run: lives are counted by it.
    jumps: bool,
    insight: OnceLock<(Repository, SimIssuer)>,
    opener: OnceLock<Opener>,
    books: Mutex<Books>,
}

impl Ledger {
    pub(crate) fn new(world: World, settings: Settings, replicas: usize, wait: bool, jumps: bool) -> Self {
        let books = Books { troubles: vec![Vec::new(); replicas], ..Books::default() };
        let (insight, opener) = (OnceLock::new(), OnceLock::new());
        Ledger { world, settings, wait, jumps, insight, opener, books: Mutex::new(books) }
    }

    /// Gives the checker access to the truth.
    pub(crate) fn look_into(&self, repository: Repository, issuer: SimIssuer) {
        assert!(self.insight.set((repository, issuer)).is_ok(), "once");
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock()
    }

    fn insight(&self) -> &(Repository, SimIssuer) {
        self.insight.get().expect("set before anything happens")
    }

    pub(crate) fn violated(&self, invariant: &'static str, what: String) {
        self.world.note(format_args!("VIOLATION of {invariant}: {what}"));
        self.books().violations.push(Violation { at: self.world.now(), invariant, what });
    }

    pub(crate) fn results(&self) -> (Vec<Violation>, Counts) {
        let books = self.books();
        (books.violations.clone(), books.counts.clone())
    }

    pub(crate) fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.books().counts);
    }

    /// Returns the stored record.
    pub(crate) fn stored(&self, key: &ConnectionKey) -> Option<Stored> {
        let repository = &self.insight().0;
        let loaded = at_once(repository.load(key)).expect("what is stored opens")?;
        let grant = repository.open_grant(key, &loaded).expect("what is stored opens");
        let grant = grant.map(|grant| Stamp::of_refresh(grant.current.expose()));
        let lives_until = loaded.connection.tokens.iter().map(|token| token.expires_at).max();
        Some(Stored {
            revision: loaded.connection.revision,
            status: loaded.connection.profile.status(),
            grant,
            lives_until: lives_until.map(since_beginning).unwrap_or_default(),
            serials: serials(&loaded.connection),
        })
    }

    /// Checks that who was told everything of a connection knows what is stored.
    pub(crate) fn judge_notices(&self, key: &ConnectionKey) {
        let repository = &self.insight().0;
        let page = at_once(repository.notices(0, MAX_PAGE)).expect("it has no weather");
        assert!(page.notices.len() < MAX_PAGE, "a run is short");
        let mut of_key = page.notices.iter().map(|(_, notice)| notice).filter(|notice| {
            matches!(&notice.about, About::Connection { connection, .. } if *connection == key.connection)
                && notice.app == key.app
        });
        let told = of_key.next_back().map(|notice| match notice.kind.as_ref() {
            "connection.connected" | "connection.recovered" => Some(Outlook::Good),
            "connection.needs_reauthorization" => Some(Outlook::User),
            "connection.blocked" => Some(Outlook::Administrator),
            _ => None,
        });
        let loaded = at_once(repository.load(key)).expect("what is stored opens");
        let stored = loaded.map(|loaded| loaded.connection.profile.outlook());
        if told.flatten() != stored {
            self.violated("I27", format!("{key}: {told:?} was told last, and {stored:?} is stored"));
        }
    }

    // Events of processes.

    pub(crate) fn stopped(&self, pid: Pid) {
        let now = self.world.now();
        self.books().stops.entry(pid).or_default().push((now, None));
    }

    pub(crate) fn resumed(&self, pid: Pid) {
        let now = self.world.now();
        if let Some((_, until)) = self.books().stops.entry(pid).or_default().last_mut() {
            *until = Some(now);
        }
    }

    pub(crate) fn killed(&self, pid: Pid) {
        self.books().killed.insert(pid);
    }

    // Acts of users and operators.

    /// Records that a grant was given to a sign-in whose session was started at `begun`: later revocations
    /// cover it.
    pub(crate) fn signing_in(&self, key: &ConnectionKey, family: Family, user: u32, begun: Duration) {
        let sign_in = SignIn { key: key.clone(), user, begun, acknowledged: None };
        self.books().sign_ins.insert(family, sign_in);
    }

    pub(crate) fn signed_in(&self, family: Family, begun: Duration, pid: Pid) {
        let now = self.world.now();
        let mut books = self.books();
        let Some(sign_in) = books.sign_ins.get_mut(&family) else { return };
        sign_in.acknowledged = Some(now);
        let key = sign_in.key.clone();
        books.acts.entry(key).or_default().push(Act { begun, acknowledged: now, pid });
    }

    pub(crate) fn deleting(&self, key: &ConnectionKey) -> usize {
        let now = self.world.now();
        let mut books = self.books();
        let deletes = books.deletes.entry(key.clone()).or_default();
        deletes.push((now, None));
        deletes.len() - 1
    }

    /// The delete has ended, with any outcome.
    pub(crate) fn delete_ended(&self, key: &ConnectionKey, number: usize) {
        let now = self.world.now();
        if let Some(deletes) = self.books().deletes.get_mut(key) {
            deletes[number].1 = Some(now);
        }
    }

    /// Records that a connection does not exist at the end: a delete must have begun after its last sign-in
    /// began.
    pub(crate) fn not_there(&self, key: &ConnectionKey) {
        let books = self.books();
        let of_key = books.sign_ins.values().filter(|sign_in| sign_in.key == *key);
        let last = of_key.filter(|sign_in| sign_in.acknowledged.is_some()).map(|sign_in| sign_in.begun).max();
        let explained = last.is_none_or(|begun| books.may_be_deleted(key, begun));
        drop(books);
        if !explained {
            self.violated("I18", format!("{key} is gone, and nobody deleted it since its user signed in"));
        }
    }

    pub(crate) fn deleted(&self, key: &ConnectionKey, begun: Duration, pid: Pid) {
        let now = self.world.now();
        self.books().acts.entry(key.clone()).or_default().push(Act { begun, acknowledged: now, pid });
    }

    // Answers to callers.

    /// Records that a token was handed out to a caller of `pid`.
    pub(crate) fn handed_out(
        &self,
        (pid, replica): (Pid, usize),
        key: &ConnectionKey,
        resource: Option<&str>,
        stamp: Stamp,
        (expires_at, port_now): (Timestamp, Timestamp),
        asked_at: Duration,
    ) {
        let now = self.world.now();
        self.world.note(format_args!(
            "{replica} hands out {} grant {} generation {} serial {}",
            key.connection, stamp.family.0, stamp.generation, stamp.serial
        ));
        let mut books = self.books();
        books.counts.handed_out += 1;
        let mut wrong: Vec<(&'static str, String)> = Vec::new();
        let whose = books.sign_ins.get(&stamp.family);
        if !whose.is_some_and(|sign_in| sign_in.key == *key && sign_in.user == stamp.user) {
            wrong.push((
                "I1",
                format!("{key} got a token of user {} from grant {}", stamp.user, stamp.family.0),
            ));
        }
        if let Some(act) = books.act_after(key, stamp.family) {
            let bound = self.felt_within(&books, (pid, act.pid), key, asked_at);
            let late = now.saturating_sub(act.acknowledged);
            let undone = (!self.wait && books.lost(key, act.begun)) || books.is_numbered_anew(act.begun);
            if late > bound && !undone {
                wrong.push((
                    "I7",
                    format!("{key}: grant {} on replica {replica} {late:?} after its end", stamp.family.0),
                ));
            }
        }
        let stopped = self.against_operators(&books, (pid, replica), key, stamp.family, asked_at);
        wrong.extend(stopped.map(|what| ("I7", what)));
        let slot = (pid, stamp.family, resource.map(str::to_owned));
        match books.newest.get(&slot).copied() {
            Some((since, newest)) if stamp.serial < newest => {
                // If refresh tokens stay valid, two replicas may have refreshed, and one's journaled answer
                // was overtaken. So it is by the verdict on a grant that has ended.
                let issuer = &self.insight().1;
                let journaled_at = books.kept_in_journal.get(&(replica, newest));
                let overtaken = (!issuer.punishes_reuse() || issuer.judged(stamp.family))
                    && !books.kept.contains(&newest)
                    && journaled_at
                        .is_some_and(|since| books.committed.get(key).is_some_and(|at| at > since));
                // Answers of one grant are merged by the ends of their lives, which are wall-clock times.
                let merged = self.jumps && !self.insight().1.punishes_reuse();
                if !overtaken
                    && !merged
                    && !books.lost(key, since.saturating_sub(self.settings.serve_cached_for))
                {
                    wrong.push((
                        "I3",
                        format!("{key}: serial {} on replica {replica} after {newest}", stamp.serial),
                    ));
                }
            }
            _ => {
                books.newest.insert(slot, (now, stamp.serial));
            }
        }
        if self.jumps {
            books.counts.dead_after_jump += u64::from(stamp.dead_at <= now);
            if expires_at <= port_now {
                wrong.push(("I8", format!("{key}: a token that is dead by the replica's own clock")));
            }
        } else if stamp.dead_at <= now {
            wrong.push((
                "I8",
                format!("{key}: a token that is dead since {:?}", now.saturating_sub(stamp.dead_at)),
            ));
        }
        let durable = books.kept.contains(&stamp.serial)
            || books.kept_in_journal.contains_key(&(replica, stamp.serial));
        if !durable {
            let (generation, serial) = (stamp.generation, stamp.serial);
            wrong.push((
                "I6",
                format!("{key}: generation {generation} serial {serial} is served, and kept nowhere"),
            ));
        }
        drop(books);
        for (invariant, what) in wrong {
            self.violated(invariant, what);
        }
    }

    /// Records that a caller was told that its user, or an administrator, must act.
    pub(crate) fn refused_by_verdict(&self, replica: usize, key: &ConnectionKey) {
        let issuer = &self.insight().1;
        let now = self.world.now();
        let books = self.books();
        let judged = books.sign_ins.iter().any(|(family, sign_in)| {
            let over = || {
                books.act_after(key, *family).is_some_and(|act| {
                    let bound = self.settings.serve_cached_for + FELT_WITHIN * 2;
                    now.saturating_sub(act.acknowledged) > bound && !books.lost(key, act.begun)
                })
            };
            sign_in.key == *key && issuer.judged(*family) && !over()
        });
        drop(books);
        if !judged {
            self.violated(
                "I9",
                format!("{key} on replica {replica} is refused as judged, and nobody judged it"),
            );
        }
    }
}

/// Returns the serials of a connection's tokens.
fn serials(connection: &Connection) -> Vec<u64> {
    let tokens = connection.tokens.iter();
    tokens.map(|token| Stamp::of_access(token.access_token.expose()).serial).collect()
}

/// Converts a correct wall clock's time to time since the beginning.
fn since_beginning(at: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(at.unix_millis() - BEGINNING).unwrap_or(0))
}

impl Books {
    /// Returns the last act on the connection that began after the grant's own sign-in was acknowledged.
    fn act_after(&self, key: &ConnectionKey, family: Family) -> Option<Act> {
        let since = self.sign_ins.get(&family)?.acknowledged?;
        let acts = self.acts.get(key)?;
        acts.iter().filter(|act| act.begun > since).min_by_key(|act| act.acknowledged).copied()
    }

    fn troubled(&self, replica: usize, from: Duration, until: Duration) -> bool {
        let troubles = &self.troubles[replica];
        let first = troubles.partition_point(|at| *at < from);
        troubles.get(first).is_some_and(|at| *at <= until)
    }

    fn was_stopped(&self, pid: Pid, from: Duration) -> bool {
        let stops = self.stops.get(&pid);
        stops.is_some_and(|stops| stops.iter().any(|(_, until)| until.is_none_or(|until| until >= from)))
    }

    /// Returns true if a change of the connection was lost since then.
    fn lost(&self, key: &ConnectionKey, since: Duration) -> bool {
        self.losses.iter().any(|(at, keys)| *at >= since && keys.contains(key))
    }
}

impl store::Watch for Ledger {
    fn committed(&self, commit: &Effect<'_>) {
        let key = commit.key;
        let stored = self.stored(key);
        self.world.note(format_args!(
            "stored {} {:?} as {:?}",
            key.connection,
            commit.writer,
            stored
                .as_ref()
                .and_then(|stored| stored.grant)
                .map(|(family, generation)| (family.0, generation))
        ));
        if commit.before != commit.expected {
            let what =
                format!("{key}: {:?} was replaced where {:?} was expected", commit.before, commit.expected);
            self.violated("I5", what);
        }
        if let (Writer::Lease(nonce), Some(holder)) = (commit.writer, commit.holder)
            && nonce != holder
        {
            self.violated("I5", format!("{key}: a commit of {nonce:?} while {holder:?} holds the lease"));
        }
        let Some(stored) = stored.filter(|stored| stored.revision == commit.after) else { return };
        {
            let now = self.world.now();
            let mut books = self.books();
            books.kept.extend(&stored.serials);
            books.committed.insert(key.clone(), now);
        }
        if let Some((family, generation)) = stored.grant {
            self.stored_as(commit.after, family);
            let mut books = self.books();
            books.counts.commits += 1;
            let newest = books.stored.entry(family).or_default();
            *newest = generation.max(*newest);
        }
        let (_, issuer) = self.insight();
        let judged = |family| issuer.judged(family);
        match (stored.status, stored.grant) {
            (Status::NeedsReauthorization(_) | Status::Blocked(_), Some((family, _))) if !judged(family) => {
                self.violated("I9", format!("{key}: {:?} is stored, and nobody judged it", stored.status));
            }
            (_, None) => {
                let books = self.books();
                let any = books.sign_ins.iter().any(|(family, of)| of.key == *key && judged(*family));
                drop(books);
                if !any {
                    self.violated("I9", format!("{key}: its grant is destroyed, and nobody judged it"));
                }
            }
            _ => {}
        }
    }

    fn lost(&self, keys: &[ConnectionKey]) {
        let now = self.world.now();
        self.world.note(format_args!("the store loses {} changes", keys.len()));
        self.books().losses.push((now, keys.iter().cloned().collect()));
    }

    fn checked(&self, pid: Pid, key: &ConnectionKey, answered: bool) {
        let now = self.world.now();
        let mut books = self.books();
        match (answered, books.unanswered.get_mut(&(pid, key.clone()))) {
            (true, Some(healed_at)) => *healed_at = healed_at.or(Some(now)),
            (true, None) => {}
            (false, _) => {
                books.unanswered.insert((pid, key.clone()), None);
            }
        }
    }

    fn refused(&self, replica: usize) {
        self.world.note(format_args!("{replica} and the store: a commit is refused"));
        self.books().counts.refused_commits += 1;
        self.hindered(replica);
    }

    fn destroyed(&self, pid: Pid, key: &ConnectionKey, was: Revision) {
        self.destroyed_by(pid, key, was);
    }

    fn trouble(&self, replica: usize, what: &str) {
        let now = self.world.now();
        self.world.note(format_args!("{replica} and the store: {what}"));
        let mut books = self.books();
        if books.troubles[replica].last() != Some(&now) {
            books.troubles[replica].push(now);
        }
    }
}

impl authority::Watch for Ledger {
    fn called(&self, call: &Call, under_way: &[Call]) {
        let now = self.world.now();
        self.world.note(format_args!(
            "{} uses grant {} generation {}",
            call.replica, call.family.0, call.generation
        ));
        let mut books = self.books();
        let uses = books.uses.entry((call.pid, call.family)).or_default();
        uses.push(now);
        uses.retain(|at| now.saturating_sub(*at) < Duration::from_secs(60));
        let count = uses.len();
        books.counts.most_calls_a_minute = books.counts.most_calls_a_minute.max(count);
        let mut wrong = Vec::new();
        for other in under_way {
            let since = other.begun.saturating_sub(self.settings.lease);
            let lost = books.losses.iter().any(|(at, _)| *at >= since);
            // A process stopped between its last reading of the clock and the call cannot know.
            let just_resumed = books.was_stopped(call.pid, now.saturating_sub(Duration::from_millis(10)));
            let excused = lost || just_resumed || books.was_stopped(other.pid, since);
            if other.pid == call.pid || !excused {
                wrong.push(format!(
                    "grant {} is used by {:?} beside {:?}",
                    call.family.0, call.pid, other.pid
                ));
            }
        }
        let unasked = self.against_use(&mut books, call);
        drop(books);
        if let Some((invariant, what)) = unasked {
            self.violated(invariant, what);
        }
        if count > MOST_CALLS_A_MINUTE {
            self.violated(
                "I14",
                format!("{:?} used grant {} {count} times in a minute", call.pid, call.family.0),
            );
        }
        for what in wrong {
            self.violated("I4", what);
        }
    }

    fn asked_to_wait(&self, call: &Call, until: Duration) {
        self.asked_to_leave_alone(call, until);
    }

    fn reused(&self, call: &Call, rotated: &[Call]) {
        let key = self.books().sign_ins.get(&call.family).map(|sign_in| sign_in.key.clone());
        let Some(key) = key else { return };
        let stored = self.stored(&key);
        let mut books = self.books();
        let newest_stored = books.stored.get(&call.family).copied().unwrap_or(0);
        let explained = rotated.first().and_then(|before| {
            let began = before.begun.saturating_sub(self.settings.lease);
            let generation = before.rotated_to.unwrap_or(0);
            let failed_over = books.losses.iter().any(|(at, keys)| *at >= began && keys.contains(&key));
            if call.ended.is_some() {
                return Some("a request came after its caller had given it up");
            } else if self.insight().1.came_after_a_later_one(before) {
                return Some("a request came after its caller had given it up, and after one that worked");
            } else if failed_over {
                return Some("the store lost it");
            } else if books.was_stopped(before.pid, began) || books.was_stopped(call.pid, began) {
                return Some("a process was stopped in the middle of it");
            } else if generation <= newest_stored {
                return None;
            }
            // It is known to be unsettled, so it is used only when there is nothing left to serve.
            let lived = stored.is_some_and(|stored| {
                stored.grant.is_some_and(|(family, _)| family == call.family)
                    && stored.lives_until > call.begun + SHORTEST_LIFE
            });
            if lived && !self.jumps {
                return None;
            }
            if let Some(journaled) = books.journaled(call.family, generation) {
                let since = journaled.at.max(call.begun.saturating_sub(STORED_WITHIN));
                let hindered =
                    call.begun < journaled.at + STORED_WITHIN || books.was_hindered(journaled.replica, since);
                return hindered.then_some("the answer was in a journal that could not be stored");
            }
            if !before.reached {
                Some("the answer was lost")
            } else if books.killed.contains(&before.pid) {
                Some("the process ended before it could store the answer")
            } else if books.was_hindered(before.replica, before.ended.unwrap_or(before.begun)) {
                Some("the holder of the answer could not store it")
            } else {
                None
            }
        });
        self.world.note(format_args!(
            "grant {} ends: generation {} is used again ({})",
            call.family.0,
            call.generation,
            explained.unwrap_or("unexplained")
        ));
        match explained {
            Some(why) => *books.counts.explained.entry(why).or_default() += 1,
            None => {
                drop(books);
                let what = format!(
                    "{key}: generation {} was used again: {call:?} after {rotated:?}",
                    call.generation
                );
                self.violated("I6", what);
            }
        }
    }
}
