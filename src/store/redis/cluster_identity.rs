//! Which store this is, if it is spread over the nodes of a Cluster ([`super::identity`] says why that
//! matters).
//!
//! One node can lose everything while the others do not. And the node of a key changes, by failovers, by
//! moving slots, and by `redis-cli --cluster fix`, which gives the slots of a lost node to others, empty. So
//! a name for each node would not do: what matters is whether the *slot* still is the same. Hence the store's
//! one name stands once in every slot, under a key that is hashed to it. Wherever a slot is moved, its name
//! comes along; if a slot was emptied, by whatever means, the name is gone. No absence of a key is believed
//! before the name in its slot was checked. (16,384 small keys: two or three megabytes over the whole
//! Cluster, written once.)
//!
//! - **The name** is in `tokenward:identity`, as in a single Redis, and in the memory of each replica. A new
//!   store gets that key first, by `SET NX` (of several replicas that start at once one gives the name). Then
//!   it gets the name in every slot, and in the slot of `tokenward:identity` last. So the last one shows that
//!   all were written, and if a replica died in the middle, another does the rest. A store without
//!   `tokenward:identity` is new only if no slot has a name.
//! - **A check** compares the slot's name with the remembered one. If they differ, `tokenward:identity` may
//!   say that it replaces ours: then an operator adopted it, and we follow.
//! - **Adopting** writes the store's name into every slot, whatever it contains. If that is the name that
//!   replicas remember (one node was lost, the others were not), they need to learn nothing.
//!
//! One loss goes unnoticed: single keys of a slot that kept its name (a failover that lost the last writes).
//! `wait_replicas` is the remedy.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::join_all;

use super::cluster::{Cluster, Shared, outcome};
use super::identity::{FOREIGN, MOST_REPLACED, REPLACES, fresh_name, name, replaced};
use crate::flight::Flight;
use crate::store::StoreError;
use crate::store::keyspace::{self, REDIS_IDENTITY, SLOTS};

/// How many slots are named, or checked, in one go: well within the time of one command, even on a slow
/// machine.
const CHUNK: usize = 512;

impl Cluster {
    /// Learns the store's name, or gives it one if it has none.
    pub(super) async fn named(&self, doing: &'static str) -> Result<(), StoreError> {
        let shared = &self.0;
        if shared.identity.known().is_some() {
            return Ok(());
        }
        let attempt = Flight::join(&mut shared.naming.attempt.lock(), |landing| {
            let found = Arc::clone(shared);
            // Takes longer, perhaps, than the operation that needs it first.
            let find = async move {
                let outcome = found.find_name("asking which store this is").await;
                *found.naming.attempt.lock() = None;
                landing.land(outcome.map_err(cause));
            };
            shared.tasks.spawn("asking which store this is", Box::pin(find));
        });
        outcome(attempt).await.map_err(|cause| StoreError::Unavailable { doing, cause })
    }

    /// The remembered name.
    pub(super) fn known_name(&self) -> Option<String> {
        self.0.identity.known()
    }

    /// Whether every slot has a name. The remembered name may come from a single Redis, whose records were
    /// moved here since: then no slot has one yet. It is enough to see the names once.
    pub(super) async fn name_the_rest(&self, doing: &'static str) -> Result<(), StoreError> {
        self.named(doing).await?;
        let shared = &self.0;
        if shared.naming.is_whole.load(Ordering::SeqCst) {
            return Ok(());
        }
        let known = shared.identity.known();
        let root = shared.root(doing).await?;
        if let Some(root) = root.filter(|root| known.as_deref() == Some(name(root))) {
            shared.name_where_none_is(doing, name(&root)).await?;
        }
        shared.naming.is_whole.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Whether a slot still is the same. Only then does an absence in it count.
    pub(super) async fn believe_absence(&self, doing: &'static str, slot: u16) -> Result<(), StoreError> {
        self.named(doing).await?;
        self.0.believe_absence(doing, slot).await
    }

    /// The same for one slot of each primary.
    pub(super) async fn believe_some(&self, doing: &'static str) -> Result<(), StoreError> {
        let slots = self.sample().await.map_err(|cause| StoreError::Unavailable { doing, cause })?;
        join_all(slots.iter().map(|slot| self.0.believe_absence(doing, *slot))).await.into_iter().collect()
    }

    /// Returns what the Cluster says of its name, and, if a primary's part of it was lost, why it is not the
    /// store of that name.
    pub(super) async fn found_name(
        &self,
        doing: &'static str,
    ) -> Result<(Option<String>, Option<String>), StoreError> {
        let shared = &self.0;
        let Some(found) = shared.root(doing).await? else {
            // One node lost all it had, and the others did not.
            let left = shared.any_name(doing).await?;
            return Ok((None, left.map(|_| FOREIGN.to_owned())));
        };
        let last = keyspace::slot(REDIS_IDENTITY);
        if shared.get(doing, last, &keyspace::redis_slot_identity(last)).await?.is_none() {
            // A start was interrupted, and the next one finishes the naming.
            return Ok((Some(found), None));
        }
        let slots = self.sample().await.map_err(|cause| StoreError::Unavailable { doing, cause })?;
        for slot in slots {
            let of_slot = shared.get(doing, slot, &keyspace::redis_slot_identity(slot)).await?;
            if of_slot.as_deref() != Some(name(&found)) {
                let cause = format!("slot {slot} of the Cluster: {FOREIGN}");
                return Ok((Some(found), Some(cause)));
            }
        }
        Ok((Some(found), None))
    }

    /// Accepts the present contents as the store.
    pub(super) async fn adopt(&self, doing: &'static str) -> Result<(), StoreError> {
        let shared = &self.0;
        let known = shared.identity.known();
        let found = match (shared.root(doing).await?, &known) {
            (Some(found), _) => found,
            // A store that has a name keeps it, so that replicas that know it go on.
            (None, Some(known)) => shared.begin(doing, known).await?,
            (None, None) => {
                let left = shared.any_name(doing).await?;
                let name = left.unwrap_or_else(|| fresh_name(&*shared.random));
                shared.begin(doing, &name).await?
            }
        };
        let name = name(&found);
        if let Some(known) =
            known.filter(|known| known != name && !replaced(&found).any(|name| name == *known))
        {
            let replaces = std::iter::once(known.as_str()).chain(replaced(&found).take(MOST_REPLACED));
            let value = format!("{name}{REPLACES}{}", replaces.collect::<Vec<_>>().join(","));
            let mut set = ::redis::pipe();
            set.cmd("SET").arg(REDIS_IDENTITY).arg(value).ignore();
            shared.put(doing, keyspace::slot(REDIS_IDENTITY), &set).await?;
        }
        shared.name_slots(doing, name, true).await?;
        shared.identity.remember(name);
        Ok(())
    }
}

impl Shared {
    async fn find_name(self: &Arc<Self>, doing: &'static str) -> Result<(), StoreError> {
        let found = match self.root(doing).await? {
            Some(found) if self.identity.only_reads => {
                self.identity.remember(name(&found));
                return Ok(());
            }
            None if self.identity.only_reads => {
                return Err(StoreError::unavailable(doing, "it has no name yet"));
            }
            Some(found) => found,
            None => {
                let left = self.any_name(doing).await?;
                match (left, self.root(doing).await?) {
                    // Another replica gave the name meanwhile.
                    (_, Some(found)) => found,
                    (Some(_), None) => return Err(foreign(doing, keyspace::slot(REDIS_IDENTITY))),
                    (None, None) => self.begin(doing, &fresh_name(&*self.random)).await?,
                }
            }
        };
        let name = name(&found);
        self.name_where_none_is(doing, name).await?;
        self.identity.remember(name);
        Ok(())
    }

    /// Finishes the naming of slots, if it was not finished.
    async fn name_where_none_is(self: &Arc<Self>, doing: &'static str, name: &str) -> Result<(), StoreError> {
        let last = keyspace::slot(REDIS_IDENTITY);
        match self.get(doing, last, &keyspace::redis_slot_identity(last)).await? {
            Some(_) => Ok(()),
            None => self.name_slots(doing, name, false).await,
        }
    }

    async fn believe_absence(self: &Arc<Self>, doing: &'static str, slot: u16) -> Result<(), StoreError> {
        let known = self.identity.known();
        let found = self.get(doing, slot, &keyspace::redis_slot_identity(slot)).await?;
        match (found, known) {
            (Some(found), Some(known)) if found == known => Ok(()),
            (Some(found), Some(known)) => match self.root(doing).await? {
                Some(root) if name(&root) == found && replaced(&root).any(|name| name == known) => {
                    self.identity.remember(&found);
                    Ok(())
                }
                _ => Err(foreign(doing, slot)),
            },
            _ => Err(foreign(doing, slot)),
        }
    }

    async fn root(self: &Arc<Self>, doing: &'static str) -> Result<Option<String>, StoreError> {
        self.get(doing, keyspace::slot(REDIS_IDENTITY), REDIS_IDENTITY).await
    }

    /// Gives the store a name if it has none, and returns its name.
    async fn begin(self: &Arc<Self>, doing: &'static str, name: &str) -> Result<String, StoreError> {
        let mut set = ::redis::pipe();
        set.cmd("SET").arg(REDIS_IDENTITY).arg(name).arg("NX").ignore();
        self.put(doing, keyspace::slot(REDIS_IDENTITY), &set).await?;
        let found = self.root(doing).await?;
        found.ok_or_else(|| StoreError::unavailable(doing, "the store's name was not kept"))
    }

    /// The name of some slot, if one has one.
    async fn any_name(self: &Arc<Self>, doing: &'static str) -> Result<Option<String>, StoreError> {
        let slots: Vec<u16> = (0..SLOTS).collect();
        for chunk in slots.chunks(CHUNK) {
            for group in self.groups(doing, chunk).await? {
                let group: Vec<u16> = group.iter().map(|at| chunk[*at]).collect();
                let mut gets = ::redis::pipe();
                for slot in &group {
                    gets.cmd("GET").arg(keyspace::redis_slot_identity(*slot));
                }
                let looked = self.try_nodes(doing, group[0], |_, mut commands| {
                    let gets = &gets;
                    async move { gets.query_async::<Vec<Option<String>>>(&mut commands).await }
                });
                if let Some(name) = looked.await?.0.into_iter().flatten().next() {
                    return Ok(Some(name));
                }
            }
        }
        Ok(None)
    }

    /// Writes a name into every slot, and into the last one last. Without `over`, slots that have a name are
    /// skipped.
    async fn name_slots(
        self: &Arc<Self>,
        doing: &'static str,
        name: &str,
        over: bool,
    ) -> Result<(), StoreError> {
        let last = keyspace::slot(REDIS_IDENTITY);
        let slots: Vec<u16> = (0..SLOTS).filter(|slot| *slot != last).collect();
        for chunk in slots.chunks(CHUNK).chain(std::iter::once(&[last][..])) {
            for group in self.groups(doing, chunk).await? {
                let group: Vec<u16> = group.iter().map(|at| chunk[*at]).collect();
                if self.put(doing, group[0], &naming(&group, name, over)).await.is_err() {
                    // Perhaps some were moved to another node since.
                    for slot in group {
                        self.put(doing, slot, &naming(&[slot], name, over)).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn get(
        self: &Arc<Self>,
        doing: &'static str,
        slot: u16,
        key: &str,
    ) -> Result<Option<String>, StoreError> {
        let mut get = ::redis::cmd("GET");
        get.arg(key);
        let found = self.try_nodes(doing, slot, |_, mut commands| {
            let get = &get;
            async move { get.query_async::<Option<String>>(&mut commands).await }
        });
        Ok(found.await?.0)
    }

    /// Runs writes at a slot's owner, and waits until as many replicas have them as a commit waits for.
    async fn put(
        self: &Arc<Self>,
        doing: &'static str,
        slot: u16,
        writes: &::redis::Pipeline,
    ) -> Result<(), StoreError> {
        let (replicas, timeout) = (self.config.wait_replicas, self.config.wait_timeout);
        let written = self.try_nodes(doing, slot, |live, mut commands| {
            let live = Arc::clone(live);
            async move {
                writes.exec_async(&mut commands).await?;
                live.replication.wait(live.connection.clone(), replicas, timeout, &*self.clock).await
            }
        });
        if written.await?.0 {
            return Ok(());
        }
        Err(StoreError::unavailable(doing, format!("written but not on {replicas} replicas yet")))
    }
}

fn naming(slots: &[u16], name: &str, over: bool) -> ::redis::Pipeline {
    let mut sets = ::redis::pipe();
    for slot in slots {
        let set = sets.cmd("SET").arg(keyspace::redis_slot_identity(*slot)).arg(name);
        if !over {
            set.arg("NX");
        }
        set.ignore();
    }
    sets
}

fn foreign(doing: &'static str, slot: u16) -> StoreError {
    StoreError::unavailable(doing, format!("slot {slot} of the Cluster: {FOREIGN}"))
}

fn cause(error: StoreError) -> String {
    match error {
        StoreError::Unavailable { cause, .. }
        | StoreError::Full { cause, .. }
        | StoreError::Corrupt { cause, .. } => cause,
    }
}
