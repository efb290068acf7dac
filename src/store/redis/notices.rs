//! Notices in Redis: each lies beside the record that changed, in the record's slot, until the holder of the
//! lease has put it into the one order.
//!
//! - **Beside the record** ([`keyspace::redis_outbox`]): a script changes a record and adds the notice. In a
//!   Cluster each slot has such a place, elsewhere there is one for all.
//! - **The one order** ([`keyspace::redis_notices`]) is in one slot: notices by place, places by id, and the
//!   last place. A script adds what has no place yet, for who has the lease. Only then is it taken from
//!   beside the record, so whoever dies in between loses nothing and repeats nothing.
//! - **Where to look in a Cluster:** whoever changes a record says so beside the change, in a set of slots.
//!   That is a hint, and may be lost. So the holder of the lease also walks over all slots, a few each time:
//!   some five minutes for all, however many connections there are.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use async_trait::async_trait;
use futures_util::future::join_all;
use parking_lot::Mutex;

use super::RedisStore;
use super::scripts::{self, millis};
use super::way::Way;
use crate::domain::id::ConnectionKey;
use crate::domain::notice::Notice;
use crate::store::keyspace::SLOTS;
use crate::store::telling::Label;
use crate::store::{
    Deadline, Gathered, LeaseNonce, LeaseOf, MAX_PAGE, MOST_NOTICES, NoticePage, Notices, StoreError,
    keyspace, telling,
};

/// Notices that are put into the order in one step.
const STEP: usize = 100;
/// Slots with notices that one round looks at.
const MOST_SLOTS: usize = 500;
/// How long a slot without notices stays in the set: longer than the step may take whose hint it is.
const HINT_KEPT_MILLIS: i64 = 10_000;
/// Slots that each round looks at anyway.
const WALK: u16 = 64;

/// What this process remembers; losing it costs time.
#[derive(Default)]
pub(super) struct Outboxes {
    /// Slots whose hint was not taken.
    unsaid: Mutex<BTreeSet<u16>>,
    /// Where the walk goes on.
    walk: AtomicU16,
    /// Where to go on among the slots that were named: those of a dead node stay, and may be many.
    named: AtomicUsize,
}

#[async_trait]
impl Notices for RedisStore {
    async fn swap_telling(
        &self,
        id: &str,
        expected: Option<&[u8]>,
        sealed: &[u8],
        deadline: Deadline,
        notices: &[Notice],
    ) -> Result<bool, StoreError> {
        const DOING: &str = "replacing a pending record";
        let key = keyspace::redis_pending(id);
        let slot = keyspace::slot(&key);
        let (outbox, count) = self.outbox_of(slot);
        let mut script = scripts::SWAP.prepare_invoke();
        script.key(key).key(outbox).key(count);
        script.arg(expected.unwrap_or_default()).arg(sealed).arg(millis(deadline.ttl()));
        notices.iter().for_each(|notice| {
            script.arg(telling::encode(notice));
        });
        let written = self.write(DOING, slot, |mut commands| {
            let script = &script;
            async move { script.invoke_async::<i64>(&mut commands).await }
        });
        let (answer, _) = if notices.is_empty() {
            written.await?
        } else {
            super::records::beside(written, self.hint(slot)).await?
        };
        match answer {
            0 => self.believe_absence(DOING, slot).await?,
            scripts::UNTOLD => self.say_untold(DOING),
            _ => {}
        }
        Ok(answer != 0)
    }

    async fn gather(&self, nonce: LeaseNonce) -> Result<Gathered, StoreError> {
        self.say_hints().await;
        let mut gathered = Gathered::default();
        let ended = match &self.link {
            Way::One(_) => self.gather_from(0, nonce, &mut gathered).await.map(|_| ()),
            Way::Cluster(_) => self.gather_all(nonce, &mut gathered).await,
        };
        // (Also while a node of a Cluster is down.)
        gathered.forgotten = self.forget(nonce).await?;
        gathered.more |= gathered.forgotten == STEP;
        ended.map(|()| gathered)
    }

    async fn notices(&self, after: u64, limit: usize) -> Result<NoticePage, StoreError> {
        const DOING: &str = "reading notices";
        let (rows, last) = self.rows(DOING, after, limit).await?;
        let Some(last) = last else {
            self.believe_absence(DOING, keyspace::slot(&keyspace::redis_notices().last)).await?;
            return Ok(NoticePage::default());
        };
        let read = |(bytes, place): (Vec<u8>, f64)| Some((whole(place), telling::read(DOING, &bytes)?));
        Ok(NoticePage { notices: rows.into_iter().filter_map(read).collect(), last })
    }

    async fn place_of(&self, id: &str) -> Result<Option<u64>, StoreError> {
        let keys = keyspace::redis_notices();
        let mut score = ::redis::cmd("ZSCORE");
        score.arg(&keys.places).arg(id);
        let (place, _) = self
            .run("looking up a notice", keyspace::slot(&keys.places), |mut commands| {
                let score = &score;
                async move { score.query_async::<Option<f64>>(&mut commands).await }
            })
            .await?;
        Ok(place.map(whole))
    }
}

impl RedisStore {
    /// The place for notices beside the records of a slot, and the count of them.
    pub(super) fn outbox_of(&self, slot: u16) -> (String, String) {
        keyspace::redis_outbox(match &self.link {
            Way::One(_) => 0,
            Way::Cluster(_) => slot,
        })
    }

    /// The same for a connection.
    pub(super) fn outbox_of_connection(&self, key: &ConnectionKey) -> (String, String) {
        self.outbox_of(keyspace::connection_slot(key))
    }

    /// Says that there is a notice in a slot. If nobody can be told now, this process says it later.
    pub(super) async fn hint(&self, slot: u16) {
        if matches!(self.link, Way::One(_)) {
            return;
        }
        // (Said later, too, if this is dropped.)
        self.outboxes.unsaid.lock().insert(slot);
        if self.say_hint(slot).await.is_ok() {
            self.outboxes.unsaid.lock().remove(&slot);
        }
    }

    /// Says that a change was made whose notice could not be written: nobody will be told of it.
    pub(super) fn say_untold(&self, doing: &'static str) {
        let fault = "an event could not be written beside it: something else is in its place";
        let error = StoreError::corrupt(doing, fault);
        tracing::error!(%error, "the change is made, and nobody is told of it");
        if let Some(observer) = self.observer() {
            observer.corrupt(&error);
        }
    }

    async fn say_hint(&self, slot: u16) -> Result<(), StoreError> {
        let key = keyspace::redis_notices().slots;
        let mut add = ::redis::cmd("ZADD");
        add.arg(&key).arg(self.link.clock().now().unix_millis()).arg(slot);
        self.run("saying where a notice is", keyspace::slot(&key), |mut commands| {
            let add = &add;
            async move { add.exec_async(&mut commands).await }
        })
        .await?;
        Ok(())
    }

    async fn say_hints(&self) {
        let unsaid: Vec<u16> = self.outboxes.unsaid.lock().iter().copied().take(MOST_SLOTS).collect();
        for slot in unsaid {
            if self.say_hint(slot).await.is_err() {
                return;
            }
            self.outboxes.unsaid.lock().remove(&slot);
        }
    }

    /// Looks at the slots that were named, and at the next ones of the walk: at those of all nodes at once,
    /// for one that is down must not hold up the others.
    async fn gather_all(&self, nonce: LeaseNonce, gathered: &mut Gathered) -> Result<(), StoreError> {
        const DOING: &str = "asking where notices are";
        let Way::Cluster(cluster) = &self.link else { return Ok(()) };
        let key = keyspace::redis_notices().slots;
        let from = self.outboxes.named.load(Ordering::Relaxed);
        let mut range = ::redis::cmd("ZRANGEBYSCORE");
        range.arg(&key).arg("-inf").arg("+inf").arg("WITHSCORES").arg("LIMIT").arg(from).arg(MOST_SLOTS);
        let (named, _) = self
            .run(DOING, keyspace::slot(&key), |mut commands| {
                let range = &range;
                async move { range.query_async::<Vec<(u16, f64)>>(&mut commands).await }
            })
            .await?;
        let next = if named.len() == MOST_SLOTS { from + MOST_SLOTS } else { 0 };
        self.outboxes.named.store(next, Ordering::Relaxed);
        let begin = self.outboxes.walk.fetch_add(WALK, Ordering::Relaxed);
        let walked = (0..WALK).map(|at| (begin.wrapping_add(at) % SLOTS, None));
        let visits: Vec<(u16, Option<f64>)> =
            named.into_iter().map(|(slot, said_at)| (slot, Some(said_at))).chain(walked).collect();
        let slots: Vec<u16> = visits.iter().map(|(slot, _)| *slot).collect();
        let groups = match cluster.groups(DOING, &slots).await {
            Ok(groups) => groups,
            // Nobody serves one of them.
            Err(_) => (0..slots.len()).map(|at| vec![at]).collect(),
        };
        let groups = groups.iter().map(|group| self.gather_group(group.iter().map(|at| visits[*at]), nonce));
        let mut failed = None;
        for (found, ended) in join_all(groups).await {
            gathered.placed += found.placed;
            gathered.more |= found.more;
            failed = failed.or(ended.err());
        }
        failed.map_or(Ok(()), Err)
    }

    /// Looks at slots of one node, up to the first failure, and forgets hints that have had their time.
    async fn gather_group(
        &self,
        visits: impl Iterator<Item = (u16, Option<f64>)>,
        nonce: LeaseNonce,
    ) -> (Gathered, Result<(), StoreError>) {
        const DOING: &str = "forgetting where notices were";
        let key = keyspace::redis_notices().slots;
        let now = self.link.clock().now().unix_millis();
        let mut gathered = Gathered::default();
        for (slot, said_at) in visits {
            let is_empty = match self.gather_from(slot, nonce, &mut gathered).await {
                Ok(is_empty) => is_empty,
                Err(error) => return (gathered, Err(error)),
            };
            let old = said_at.filter(|at| is_empty && *at as i64 + HINT_KEPT_MILLIS < now);
            let Some(said_at) = old else { continue };
            let mut script = scripts::UNSAY.prepare_invoke();
            script.key(&key).arg(slot).arg(format!("{said_at:.0}"));
            if let Err(error) = self.script::<i64>(DOING, keyspace::slot(&key), &script).await {
                return (gathered, Err(error));
            }
        }
        (gathered, Ok(()))
    }

    /// Moves what lies in one slot. Returns whether nothing is left there.
    async fn gather_from(
        &self,
        slot: u16,
        nonce: LeaseNonce,
        gathered: &mut Gathered,
    ) -> Result<bool, StoreError> {
        const DOING: &str = "putting notices into their order";
        let (outbox, _) = self.outbox_of(slot);
        let of_outbox = keyspace::slot(&outbox);
        let mut range = ::redis::cmd("ZRANGEBYSCORE");
        range.arg(&outbox).arg("-inf").arg("+inf").arg("LIMIT").arg(0).arg(STEP);
        let (found, _) = self
            .run(DOING, of_outbox, |mut commands| {
                let range = &range;
                async move { range.query_async::<Vec<Vec<u8>>>(&mut commands).await }
            })
            .await?;
        if found.is_empty() {
            return Ok(true);
        }
        let keys = keyspace::redis_notices();
        let mut script = scripts::PLACE.prepare_invoke();
        script.key(&keys.by_place).key(&keys.places).key(&keys.last);
        script.key(keyspace::redis_lease(LeaseOf::Notices).0).arg(&nonce.0[..]);
        for bytes in &found {
            match telling::label(DOING, bytes) {
                Ok(label) => {
                    script.arg(label.id).arg(bytes);
                }
                // It goes: without an id nobody can be told it.
                Err(error) => tracing::error!(%error, "something among the notices is none; it is dropped"),
            }
        }
        let (placed, _) = self
            .write(DOING, keyspace::slot(&keys.last), |mut commands| {
                let script = &script;
                async move { script.invoke_async::<i64>(&mut commands).await }
            })
            .await?;
        // (Another replica has the lease, and does it.)
        let Ok(placed) = usize::try_from(placed) else { return Ok(false) };
        let mut remove = ::redis::cmd("ZREM");
        remove.arg(&outbox).arg(&found);
        self.run(DOING, of_outbox, |mut commands| {
            let remove = &remove;
            async move { remove.exec_async(&mut commands).await }
        })
        .await?;
        gathered.placed += placed;
        gathered.more |= found.len() == STEP;
        Ok(found.len() < STEP)
    }

    /// What is stored behind a place, with its places; and the last place that was given.
    async fn rows(
        &self,
        doing: &'static str,
        after: u64,
        limit: usize,
    ) -> Result<(Vec<(Vec<u8>, f64)>, Option<u64>), StoreError> {
        let keys = keyspace::redis_notices();
        let mut commands = ::redis::pipe();
        commands.cmd("ZRANGEBYSCORE").arg(&keys.by_place).arg(format!("({after}")).arg("+inf");
        commands.arg("WITHSCORES").arg("LIMIT").arg(0).arg(limit.min(MAX_PAGE));
        commands.cmd("GET").arg(&keys.last);
        let (answer, _) = self
            .run(doing, keyspace::slot(&keys.by_place), |mut connection| {
                let commands = &commands;
                async move { commands.query_async(&mut connection).await }
            })
            .await?;
        Ok(answer)
    }

    /// Forgets notices that are over or too many, oldest first.
    async fn forget(&self, nonce: LeaseNonce) -> Result<usize, StoreError> {
        const DOING: &str = "forgetting notices of the past";
        let now = self.link.clock().now();
        // One without an id or a time is of no use to anybody.
        let goes = |last: u64, place: u64, label: Option<&Label>| {
            last.saturating_sub(place) >= MOST_NOTICES || label.is_none_or(|label| label.may_go(now))
        };
        let (first, last) = self.rows(DOING, 0, 1).await?;
        let Some(last) = last else { return Ok(0) };
        let is_due = |(bytes, place): &(Vec<u8>, f64)| {
            goes(last, whole(*place), telling::label(DOING, bytes).ok().as_ref())
        };
        if !first.iter().any(is_due) {
            return Ok(0);
        }
        let (rows, _) = self.rows(DOING, 0, STEP).await?;
        let keys = keyspace::redis_notices();
        let mut script = scripts::FORGET.prepare_invoke();
        script.key(&keys.by_place).key(&keys.places);
        script.key(keyspace::redis_lease(LeaseOf::Notices).0).arg(&nonce.0[..]);
        let mut forgotten = 0;
        for (bytes, place) in rows.iter().take_while(|row| is_due(row)) {
            let label = telling::label(DOING, bytes).ok();
            script.arg(whole(*place)).arg(label.map_or(String::new(), |label| label.id));
            forgotten += 1;
        }
        self.script::<i64>(DOING, keyspace::slot(&keys.by_place), &script).await?;
        Ok(forgotten)
    }
}

/// A place, as a sorted set has it.
fn whole(score: f64) -> u64 {
    // (A double has whole numbers up to 2^53.)
    score.clamp(0.0, 9_007_199_254_740_991.0) as u64
}
