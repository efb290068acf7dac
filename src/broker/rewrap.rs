//! Replacement of a sealing key: counting the records that each key sealed, and rewrapping those not sealed
//! with the primary key.
//!
//! No state is kept. A walk covers all records, and does not depend on where an earlier one ended or which
//! replica made it. One replica at a time rewraps, and only while all replicas agree on the primary key:
//! otherwise two would undo each other's work, or one could not open another's records.

use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Notify;

use super::connect::READABLE_AFTER_END;
use super::replicas::Replica;
use super::{Broker, Refusal};
use crate::domain::bucket::{Rate, TokenBucket};
use crate::domain::random::random_bytes;
use crate::domain::time::{Clock, Timestamp};
use crate::keyring::KeyId;
use crate::keyring::tally::{Counted, Needed, Walked};
use crate::repository::{ByKey, Repository, RepositoryError, Rewrapped};
use crate::store::{LeaseAnswer, LeaseNonce, LeaseOf, RecordOf};

/// How often all records are counted by sealing key while a key other than the primary may be in use.
pub const COUNT: Duration = Duration::from_secs(30);
/// How often they are counted otherwise: once a day finds records whose key is missing.
const COUNT_RARELY: Duration = Duration::from_secs(86_400);
/// How long counts go on after an operator asked: long enough for two of them, far enough apart.
const COUNTS_GO_ON: Duration = Duration::from_secs(300);
/// Pause between two pages of a count, so that its cost in a second does not grow with the number of records.
const PAUSE: Duration = Duration::from_millis(20);
/// Length of the lease: another replica takes over after this time if the rewrapping one dies.
const LEASE: Duration = Duration::from_secs(6);
/// The lease is prolonged when this much has passed, so that two attempts may fail.
const PROLONG_AFTER: Duration = Duration::from_secs(2);
/// Records rewrapped at the same time, so that a distant store does not slow it below its rate.
const LANES: usize = 8;
/// Most unopenable records that one pass names in the log.
const MOST_NAMED: u64 = 10;

/// Progress of this process.
#[derive(Default)]
pub(super) struct State {
    progress: Mutex<Progress>,
    counts: AtomicU64,
    woken: Notify,
    /// The keyring changed since the last count.
    is_asked: AtomicBool,
    /// Monotonic time until which counts are wanted.
    wanted_until: Mutex<Duration>,
}

/// Progress of the last pass over all records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// True while this process is rewrapping.
    pub is_running: bool,
    /// Why a needed pass has not begun.
    pub waits_for: Option<String>,
    /// Records rewrapped.
    pub resealed: u64,
    /// Records that did not open and were left unchanged.
    pub refused: u64,
}

/// Outcome of a pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pass {
    /// All records were covered.
    Done(Progress),
    /// Another replica is rewrapping.
    Elsewhere,
    /// The replicas do not agree, for this reason.
    Waits(String),
}

/// A key as it is shown.
#[derive(Debug, Clone)]
pub struct ShownKey {
    /// Its name.
    pub id: KeyId,
    /// When it was made; `None` for a key that records need and the ring lacks.
    pub created_at: Option<Timestamp>,
    /// When it was last promoted.
    pub promoted_at: Option<Timestamp>,
    /// True for the primary.
    pub is_primary: bool,
    /// Its count.
    pub counted: Option<Counted>,
    /// True if it was counted zero twice and no API key needs it.
    pub may_go: bool,
}

/// Reasons against retiring a sealing key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Against {
    /// One line each; empty if it may be retired.
    pub reasons: Vec<String>,
    /// If only time is needed: when the last record will have expired.
    pub gone_by: Option<Timestamp>,
}

/// The keyring as it is shown.
#[derive(Debug, Clone)]
pub struct ShownKeyring {
    /// By name.
    pub keys: Vec<ShownKey>,
    /// The replicas.
    pub replicas: Vec<Replica>,
    /// The last pass of this process.
    pub progress: Progress,
    /// Number of counts made by this process.
    pub counts: u64,
}

impl Broker {
    /// Counts the records that each key sealed, in the store, in this machine's journal and in memory, and
    /// stores the result in the keyring. It logs keys that are needed and missing.
    pub async fn count_sealed(&self) -> Result<Walked, RepositoryError> {
        let (repository, clock) = (&self.deps.repository, &self.deps.clock);
        let began = clock.monotonic();
        let mut sealing = self.sealing_now().await?;
        let mut records = repository.rewrap_journal().await?;
        for (key, count) in self.deps.engine.unstored_by_key() {
            *records.entry(key).or_default() += count;
        }
        let (mut passing, mut unreadable) = (ByKey::new(), 0_u64);
        let mut after: Option<String> = None;
        loop {
            let page = repository.sealed_by(after.as_deref()).await?;
            for (of, key) in page.records {
                let Some(key) = key else {
                    unreadable += 1;
                    continue;
                };
                if !Repository::lasts(&of) {
                    *passing.entry(key.clone()).or_default() += 1;
                }
                *records.entry(key).or_default() += 1;
            }
            after = page.next;
            if after.is_none() {
                break;
            }
            clock.sleep(PAUSE).await;
        }
        sealing.extend(self.sealing_now().await?);
        let (ended, at) = (clock.monotonic(), clock.now());
        let walked = Walked { records, passing, sealing, began, ended, at };
        let keyring = repository.keyring();
        keyring.note_walk(&walked);
        self.rewrap.counts.fetch_add(1, Ordering::AcqRel);
        for (key, records) in &walked.records {
            if keyring.key(key).is_none() {
                tracing::error!(
                    key,
                    records,
                    "records are sealed with a key that the keyring does not hold, and cannot be opened: \
                     restore that key's file from its backup"
                );
            }
        }
        if unreadable > 0 {
            tracing::error!(
                records = unreadable,
                "stored records name no sealing key: they are damaged, or of a newer version"
            );
        }
        Ok(walked)
    }

    /// Whether all records are to be counted now. A count reads something of every record, so nothing counts
    /// on and on while there is nothing to learn: while every replica seals with the primary, and every other
    /// key was counted zero twice.
    pub async fn is_count_due(&self) -> Result<bool, RepositoryError> {
        if self.rewrap.is_asked.swap(false, Ordering::AcqRel) {
            return Ok(true);
        }
        let (keyring, now) = (self.deps.repository.keyring(), self.deps.clock.monotonic());
        let primary = keyring.primary();
        let is_another_sealing = self.sealing_now().await?.into_iter().any(|id| id != primary.id);
        let wanted = is_another_sealing || now < *self.rewrap.wanted_until.lock();
        let ring = keyring.keys().iter().map(|key| key.id.clone()).collect();
        Ok(now >= keyring.tally().next_walk_at(&ring, &primary.id, wanted, (COUNT, COUNT_RARELY)))
    }

    /// An operator asks about the counts, or would retire a key: they are brought up to date.
    pub fn want_counts(&self) {
        let now = self.deps.clock.monotonic();
        let before =
            std::mem::replace(&mut *self.rewrap.wanted_until.lock(), now.saturating_add(COUNTS_GO_ON));
        if before <= now {
            self.rewrap.woken.notify_one();
        }
    }

    /// Returns the keys that a replica may seal with now: all keys, if the list of replicas cannot be read.
    async fn sealing_now(&self) -> Result<BTreeSet<KeyId>, RepositoryError> {
        match self.live_replicas().await {
            Ok(replicas) => Ok(replicas.into_iter().map(|replica| replica.report.sealing.primary).collect()),
            Err(error) if error.is_outage() => Err(error),
            Err(_) => {
                let ring = self.deps.repository.keyring().keys();
                Ok(ring.iter().map(|key| key.id.clone()).collect())
            }
        }
    }

    /// Returns every key of the ring or needed by records, the number of records, and whether it is the
    /// primary.
    pub fn sealing_keys(&self) -> Vec<(KeyId, u64, bool)> {
        let keyring = self.deps.repository.keyring();
        let (primary, tally) = (keyring.primary(), keyring.tally());
        tally.keys().map(|(id, counted)| (id.clone(), counted.records, *id == primary.id)).collect()
    }

    /// Returns the number of counted records that must be rewrapped.
    pub fn left_to_rewrap(&self) -> u64 {
        let keyring = self.deps.repository.keyring();
        let (primary, tally) = (keyring.primary(), keyring.tally());
        let others = tally.keys().filter(|(id, _)| **id != primary.id && keyring.key(id).is_some());
        others.map(|(_, counted)| counted.records.saturating_sub(counted.passing)).sum()
    }

    /// Rewraps all records sealed with other keys, at most `rate` a second, unless another replica is doing
    /// so.
    pub async fn rewrap(&self, rate: f64) -> Result<Pass, RepositoryError> {
        if let Some(why) = self.disagreement().await? {
            self.progress().waits_for = Some(why.clone());
            return Ok(Pass::Waits(why));
        }
        let repository = &self.deps.repository;
        let nonce = LeaseNonce(random_bytes(self.deps.random.as_ref()));
        if let LeaseAnswer::Theirs { .. } = repository.take_lease(LeaseOf::Rewrap, nonce, LEASE).await? {
            self.progress().waits_for = None;
            return Ok(Pass::Elsewhere);
        }
        *self.progress() = Progress { is_running: true, ..Progress::default() };
        let ended = tokio::select! {
            biased;
            ended = self.rewrap_all(rate) => ended,
            // The replica that has the lease now does the rest.
            () = self.lease_is_lost(nonce) => Ok(Pass::Elsewhere),
        };
        self.progress().is_running = false;
        if let Err(error) = repository.release_lease(LeaseOf::Rewrap, nonce, true).await {
            tracing::debug!(%error, "the lease for rewrapping could not be released; it expires");
        }
        ended
    }

    async fn rewrap_all(&self, rate: f64) -> Result<Pass, RepositoryError> {
        let pace = Pace::new(rate, self.deps.clock.monotonic());
        let repository = &self.deps.repository;
        let mut after: Option<String> = None;
        loop {
            let page = repository.sealed_by(after.as_deref()).await?;
            let primary = repository.keyring().primary();
            let needs = |(of, key): (RecordOf, Option<KeyId>)| {
                let key = key.filter(|key| *key != primary.id)?;
                (Repository::lasts(&of) && repository.keyring().key(&key).is_some()).then_some(of)
            };
            let todo: Vec<RecordOf> = page.records.into_iter().filter_map(needs).collect();
            if !todo.is_empty() {
                if let Some(why) = self.disagreement().await? {
                    self.progress().waits_for = Some(why.clone());
                    return Ok(Pass::Waits(why));
                }
                self.rewrap_some(&todo, &pace).await?;
            }
            after = page.next;
            if after.is_none() {
                return Ok(Pass::Done(self.progress().clone()));
            }
        }
    }

    async fn rewrap_some(&self, todo: &[RecordOf], pace: &Pace) -> Result<(), RepositoryError> {
        let lanes = join_all((0..LANES).map(|first| self.rewrap_lane(todo, first, pace))).await;
        lanes.into_iter().collect()
    }

    /// Rewraps every n-th record.
    async fn rewrap_lane(&self, todo: &[RecordOf], first: usize, pace: &Pace) -> Result<(), RepositoryError> {
        for of in todo.iter().skip(first).step_by(LANES) {
            pace.turn(self.deps.clock.as_ref()).await;
            match self.deps.repository.rewrap(of).await {
                Ok(Rewrapped::Done) => self.progress().resealed += 1,
                Ok(Rewrapped::NotNeeded | Rewrapped::Overtaken) => {}
                Err(error) if error.is_outage() => return Err(error),
                Err(error) => {
                    let refused = {
                        let mut progress = self.progress();
                        progress.refused += 1;
                        progress.refused
                    };
                    if refused <= MOST_NAMED {
                        tracing::error!(
                            %error,
                            "a record does not open and is left unchanged; its key cannot be retired while \
                             the record exists"
                        );
                    }
                }
            }
        }
        Ok(())
    }

    /// Completes when another replica may have the lease.
    async fn lease_is_lost(&self, nonce: LeaseNonce) {
        let (repository, clock) = (&self.deps.repository, &self.deps.clock);
        let mut until = clock.monotonic() + LEASE;
        loop {
            clock.sleep(PROLONG_AFTER).await;
            let asked = clock.monotonic();
            match repository.extend_lease(LeaseOf::Rewrap, nonce, LEASE).await {
                Ok(true) => until = asked + LEASE,
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(%error, "the lease for rewrapping could not be prolonged");
                    if clock.monotonic() >= until {
                        return;
                    }
                }
            }
        }
    }

    /// Returns the reason against rewrapping now, if there is one.
    async fn disagreement(&self) -> Result<Option<String>, RepositoryError> {
        Ok(disagreement(&self.live_replicas().await?))
    }

    /// The keyring changed: counts, and rewraps, without waiting for the next walk.
    pub fn ask_for_rewrap(&self) {
        self.want_counts();
        self.rewrap.is_asked.store(true, Ordering::Release);
        self.rewrap.woken.notify_one();
    }

    /// Completes when [`Broker::ask_for_rewrap`] was called.
    pub async fn rewrap_asked_for(&self) {
        self.rewrap.woken.notified().await;
    }

    fn progress(&self) -> parking_lot::MutexGuard<'_, Progress> {
        self.rewrap.progress.lock()
    }

    /// Returns the keyring for an operator.
    pub async fn show_keyring(&self) -> Result<ShownKeyring, Refusal> {
        self.want_counts();
        let replicas = self.replicas().await?;
        let keyring = self.deps.repository.keyring();
        let (primary, tally) = (keyring.primary(), keyring.tally());
        let ring = keyring.keys();
        let mut ids: BTreeSet<KeyId> = ring.iter().map(|key| key.id.clone()).collect();
        ids.extend(tally.keys().filter(|(_, counted)| counted.records > 0).map(|(id, _)| id.clone()));
        let shown = |id: KeyId| {
            let key = ring.iter().find(|key| key.id == id);
            ShownKey {
                created_at: key.map(|key| key.created_at),
                promoted_at: key.and_then(|key| key.promoted_at),
                is_primary: id == primary.id,
                counted: tally.of(&id).copied(),
                may_go: id != primary.id && keyring.may_go(&id).is_ok(),
                id,
            }
        };
        let keys = ids.into_iter().map(shown).collect();
        let counts = self.rewrap.counts.load(Ordering::Acquire);
        Ok(ShownKeyring { keys, replicas, progress: self.progress().clone(), counts })
    }

    /// Returns the reasons against promoting a key now; empty if there are none.
    pub async fn against_promoting(&self, id: &str) -> Result<Vec<String>, Refusal> {
        Ok(against_promoting(id, &self.replicas().await?))
    }

    /// Returns the reasons against retiring a key now.
    pub async fn against_retiring(&self, id: &str) -> Result<Against, Refusal> {
        self.want_counts();
        let replicas = self.replicas().await?;
        let limits = self.settings();
        // Longest life of a short-lived record after its last write: a session that is confirmed late.
        let longest = (limits.connect_session_ttl + limits.confirmation_ttl).max(limits.state_ttl);
        let longest = longest + READABLE_AFTER_END;
        let repository = &self.deps.repository;
        let counted = repository.keyring().may_go(id);
        let handles_until = match &counted {
            Err(_) => repository.handles_of(&id.to_owned()).await?,
            Ok(()) => None,
        };
        Ok(against_retiring(id, counted, (longest, handles_until), &replicas))
    }
}

/// Returns the reason against rewrapping: a replica cannot open another's records.
fn disagreement(replicas: &[Replica]) -> Option<String> {
    let me = replicas.iter().find(|replica| replica.is_me)?;
    let primary = &me.report.sealing.primary;
    replicas.iter().find_map(|replica| {
        let sealing = &replica.report.sealing;
        if !sealing.keys.contains_key(primary) {
            return Some(format!("{} cannot open the key {primary}", replica.name()));
        }
        (sealing.primary != *primary).then(|| {
            format!("{} seals with the key {} and not with {primary}", replica.name(), sealing.primary)
        })
    })
}

fn against_promoting(id: &str, replicas: &[Replica]) -> Vec<String> {
    let lacks = replicas.iter().filter(|replica| !replica.report.sealing.keys.contains_key(id));
    lacks
        .map(|replica| format!("{} cannot open it: its keyring lacks that key's file", replica.name()))
        .collect()
}

/// `longest` is the longest life of a short-lived record, and `handles_until` the time until which handles
/// live that the key sealed.
fn against_retiring(
    id: &str,
    counted: Result<(), Needed>,
    (longest, handles_until): (Duration, Option<Timestamp>),
    replicas: &[Replica],
) -> Against {
    let mut gone_by = None;
    let mut reasons = Vec::new();
    let mut is_primary_somewhere = false;
    for replica in replicas {
        let Replica { report, is_me } = replica;
        if report.sealing.primary == id {
            is_primary_somewhere = true;
            reasons.push(format!("{} seals with it: promote another key there first", replica.name()));
        } else if !is_me && report.sealing.keys.get(id) == Some(&false) {
            reasons.push(format!("{} has not counted it zero twice yet", replica.name()));
        }
    }
    if let Err(why) = counted
        && !is_primary_somewhere
    {
        if let Needed::Records { records, passing, unused_since } = &why
            && records == passing
        {
            gone_by = unused_since.map(|since| since.plus(longest)).max(handles_until);
        }
        let handles = match handles_until {
            Some(_) => ", and handles that it sealed live",
            None => "",
        };
        let by = gone_by.map(|at| format!(", by {} at the latest", at.rfc3339())).unwrap_or_default();
        reasons.insert(0, format!("{why}{handles}{by}"));
    }
    Against { reasons, gone_by }
}

/// Limits a rate evenly.
struct Pace {
    rate: Rate,
    bucket: Mutex<TokenBucket>,
}

impl Pace {
    fn new(rate: f64, now: Duration) -> Self {
        let rate = Rate::new(rate.max(0.001), 1.0);
        Pace { rate, bucket: Mutex::new(TokenBucket::full(rate, now)) }
    }

    /// Reserves the next turn and returns the time until it. Unused turns are lost.
    fn reserve(&self, now: Duration) -> Duration {
        self.bucket.lock().reserve(self.rate, now)
    }

    async fn turn(&self, clock: &dyn Clock) {
        let wait = self.reserve(clock.monotonic());
        if !wait.is_zero() {
            clock.sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::replicas::{Report, Sealing};

    /// Makes replicas; the first one is this process. A key with a `!` may not be retired yet.
    fn replicas(rows: &[(&str, &str)]) -> Vec<Replica> {
        let replica = |(at, (primary, keys)): (usize, &(&str, &str))| {
            let key = |word: &str| (word.trim_end_matches('!').to_owned(), !word.ends_with('!'));
            let keys = keys.split(' ').map(key).collect();
            let sealing = Sealing { primary: (*primary).to_owned(), keys };
            let report = Report { id: format!("r{at}"), host: "host".into(), sealing, ..Report::default() };
            Replica { report, is_me: at == 0 }
        };
        rows.iter().enumerate().map(replica).collect()
    }

    #[test]
    fn nothing_is_sealed_anew_while_one_replica_seals_with_another_key_or_cannot_open_ours() {
        for (rows, expected) in [
            (&[("b", "a b")][..], None),
            (&[("b", "a b"), ("b", "b c")], None),
            (&[("b", "a b"), ("a", "a b")], Some("host (r1) seals with the key a and not with b")),
            (&[("b", "a b"), ("b", "a b"), ("a", "a")], Some("host (r2) cannot open the key b")),
        ] {
            assert_eq!(disagreement(&replicas(rows)).as_deref(), expected, "{rows:?}");
        }
    }

    #[test]
    fn a_key_is_promoted_when_every_replica_can_open_it() {
        for (rows, lack) in [
            (&[("a", "a b")][..], &[][..]),
            (&[("a", "a b"), ("a", "b a")], &[]),
            (&[("a", "a"), ("a", "a b"), ("a", "a")], &["r0", "r2"]),
        ] {
            let reasons = against_promoting("b", &replicas(rows));
            let names = |reason: &String| lack.iter().any(|id| reason.contains(id));
            assert!(reasons.len() == lack.len() && reasons.iter().all(names), "{reasons:?}");
        }
    }

    #[test]
    fn a_key_is_retired_when_nobody_needs_it() {
        let since = Timestamp::from_unix_seconds(0);
        let left = |records, passing| Err(Needed::Records { records, passing, unused_since: Some(since) });
        for (counted, rows, expected) in [
            (Ok(()), &[("b", "a b"), ("b", "a b")][..], &[][..]),
            // A replica without such a key has nothing against it.
            (Ok(()), &[("b", "a b"), ("b", "b")], &[]),
            (left(2, 0), &[("b", "a! b")], &["2 records are still sealed with it"]),
            (left(1, 0), &[("b", "a! b")], &["1 record is still sealed with it"]),
            (left(3, 1), &[("b", "a! b")], &["3 records are still sealed with it, 1 of them short-lived"]),
            (
                left(2, 2),
                &[("b", "a! b")],
                &["2 short-lived records are still sealed with it and go by themselves, by \
                     1970-01-01T02:00:00Z"],
            ),
            (
                left(1, 1),
                &[("b", "a! b")],
                &["1 short-lived record is still sealed with it and goes by itself, by"],
            ),
            (Ok(()), &[("b", "a b"), ("b", "a! b")], &["r1) has not counted"]),
            (Ok(()), &[("b", "a b"), ("a", "a! b")], &["r1) seals with it"]),
            (Err(Needed::NotCounted), &[("a", "a! b")], &["r0) seals with it"]),
            (
                Err(Needed::NotCounted),
                &[("b", "a! b"), ("b", "a! b")],
                &["was not counted", "r1) has not counted"],
            ),
        ] {
            let only_time =
                matches!(&counted, Err(Needed::Records { records, passing, .. }) if records == passing);
            let longest = Duration::from_secs(7200);
            let lives = (longest, None);
            let Against { reasons, gone_by } = against_retiring("a", counted, lives, &replicas(rows));
            assert_eq!(gone_by, only_time.then(|| since.plus(longest)), "{reasons:?}");
            assert_eq!(reasons.len(), expected.len(), "{reasons:?}");
            for (reason, part) in reasons.iter().zip(expected) {
                assert!(reason.contains(part), "{reasons:?}");
            }
        }
    }

    #[test]
    fn a_key_is_kept_for_the_handles_that_it_sealed() {
        let (since, until) = (Timestamp::from_unix_seconds(0), Timestamp::from_unix_seconds(86_400));
        let counted = Err(Needed::Records { records: 1, passing: 1, unused_since: Some(since) });
        let lives = (Duration::from_secs(7200), Some(until));
        let Against { reasons, gone_by } = against_retiring("a", counted, lives, &replicas(&[("b", "a! b")]));
        assert_eq!(gone_by, Some(until));
        let [reason] = &reasons[..] else { panic!("{reasons:?}") };
        assert!(reason.contains("handles that it sealed live, by 1970-01-02T00:00:00Z"), "{reason}");
    }

    #[test]
    fn a_pace_is_kept_by_all_lanes_together_and_makes_up_for_nothing() {
        let pace = Pace::new(500.0, Duration::from_secs(1));
        let at = |millis| Duration::from_millis(millis);
        let waits: Vec<Duration> = (0..4).map(|_| pace.reserve(at(1000))).collect();
        assert_eq!(waits, [at(0), at(2), at(4), at(6)]);
        assert_eq!((pace.reserve(at(5000)), pace.reserve(at(5001))), (at(0), at(1)));
    }
}
