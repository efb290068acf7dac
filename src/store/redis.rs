//! The store of several processes: Redis 6.2 or later, one master, known by its address or by Sentinel, or a
//! Cluster.
//!
//! [`super::keyspace`] says what is stored where, and why the index cannot be wrong for long. A step that
//! must be atomic is a script on keys of one slot. Every operation is bounded by
//! [`RedisConfig::operation_timeout`], connecting included, and is tried again, twice at most, if its
//! connection died. That is safe because each gives the same answer when repeated:
//!
//! - a commit and a swap find their own bytes stored and say so;
//! - a delete whose first answer was lost says true: nobody knows any more whether there was a record, and it
//!   is gone;
//! - a take whose first answer was lost and that finds nothing the second time is an error, not "nothing
//!   there": we may just have taken the record and lost it with the answer.
//!
//! **Durability** is Redis' own. With `appendfsync always` an acknowledged commit survives a crash of the
//! server; with `everysec` (the usual) the last second may be lost. Replication is asynchronous, so a
//! failover may lose what the replica had not received. `min-replicas-to-write 1` bounds that: a Redis that
//! lacks replicas then refuses writes, which is reported as unavailable. With [`RedisConfig::wait_replicas`]
//! a commit and a delete are acknowledged only once so many replicas have them. A write that is not there yet
//! is reported as unavailable, and repeating it waits again. If all replicas must have it, no failover loses
//! it. If only some must, the death of the primary loses nothing as long as Sentinel can reach one of those
//! that have it, since it promotes the one that is farthest. But while a failover is made with the old
//! primary alive, that one and a replica that still follows it go on acknowledging, until [`Store::ping`]
//! learns of the new one. A generation that comes back after such a loss has another nonce. Eviction must be
//! off (`maxmemory-policy noeviction`): an evicted connection is a lost one.
//!
//! The rights that the user of Redis needs: [`REDIS_COMMANDS`].

mod access;
#[cfg(test)]
mod access_tests;
mod acl;
mod asking;
mod changes;
mod cluster;
mod cluster_identity;
#[cfg(test)]
mod cluster_tests;
mod commands;
mod config;
mod connection;
mod examine;
mod failure;
mod identity;
mod index;
mod leases;
mod live;
mod meter;
mod notices;
mod pending;
mod prerequisites;
#[cfg(test)]
mod prerequisites_tests;
#[cfg(any(test, feature = "testkit"))]
pub mod properties;
mod reads;
mod records;
mod renewal;
mod replication;
mod reseal;
mod scan;
mod schedule;
mod scripts;
mod sentinel;
#[cfg(test)]
mod sentinel_tests;
mod subscription;
#[cfg(test)]
mod tests;
mod tls;
mod way;
mod wire;

use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use self::access::Access;
pub use self::acl::{REDIS_CLUSTER_COMMANDS, REDIS_COMMANDS};
use self::changes::Changes;
use self::cluster::Cluster;
use self::commands::check_master;
pub use self::config::{Location, PasswordSource, RedisConfig, Sentinels, TlsSource};
use self::connection::Link;
pub use self::examine::{Found, ServerSeen, StoreName, examine};
use self::identity::Identity;
pub use self::tls::{RedisTls, TlsIdentity};
use self::way::Way;
use super::observed::{Risk, StoreObserver};
use super::{Change, Store, StoreError};
use crate::domain::random::Random;
use crate::domain::task::Tasks;
use crate::domain::time::Clock;

/// A store in Redis.
pub struct RedisStore {
    link: Way,
    changes: Changes,
    said: prerequisites::Said,
    outboxes: notices::Outboxes,
    stop: CancellationToken,
}

impl RedisStore {
    /// Prepares a store; [`Store::ping`] says whether it can be reached. The files of TLS are read once to
    /// check that they are usable.
    pub fn new(
        config: RedisConfig,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        tasks: Arc<dyn Tasks>,
    ) -> Result<Self, StoreError> {
        let access = Access::new(&config, &clock)
            .map_err(|cause| StoreError::unavailable("preparing TLS to Redis", cause))?;
        let access = Arc::new(access);
        let changes = Changes::new(random.as_ref());
        let identity = Identity::new(config.identity_file.clone(), config.only_reads)
            .map_err(|error| StoreError::unavailable("reading which store this is", error))?;
        let link = {
            let (access, clock, tasks) = (Arc::clone(&access), Arc::clone(&clock), Arc::clone(&tasks));
            match &config.location {
                Location::Cluster(_) => {
                    Way::Cluster(Cluster::new(config, access, clock, random, tasks, identity))
                }
                _ => Way::One(Link::new(config, access, clock, random, tasks, Some(identity))),
            }
        };
        let stop = CancellationToken::new();
        if access.is_needed() {
            let keep_up = way::keep_up(link.clone(), access, clock, stop.clone());
            tasks.spawn("keeping up with the store's secrets", Box::pin(keep_up));
        }
        let (said, outboxes) = (prerequisites::Said::default(), notices::Outboxes::default());
        Ok(RedisStore { link, changes, said, outboxes, stop })
    }

    /// Makes the next operation connect anew, with the secrets as they are then. Nothing under way is
    /// disturbed.
    pub fn reconnect(&self) {
        self.link.renew();
    }

    /// Refuses every further operation and ends the connection, once running operations are done. Otherwise a
    /// task of ours would outlive a stop.
    pub fn close(&self) {
        self.stop.cancel();
        self.link.close();
    }

    fn observer(&self) -> Option<&dyn StoreObserver> {
        self.link.config().observer.as_deref()
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.close();
    }
}

#[async_trait]
impl Store for RedisStore {
    fn is_shared(&self) -> bool {
        true
    }

    fn id(&self) -> Option<String> {
        match &self.link {
            Way::One(link) => link.identity()?.known(),
            Way::Cluster(cluster) => cluster.known_name(),
        }
    }

    /// Asks for the role: a demoted master answers a PING like any other. One that was cut off does not know
    /// that it is demoted, so the sentinels are asked too. Then it runs a script, since every write is one.
    async fn ping(&self) -> Result<(), StoreError> {
        const DOING: &str = "asking the store whether it serves";
        let link = match &self.link {
            Way::One(link) => link,
            Way::Cluster(cluster) => {
                cluster.ping(DOING).await?;
                self.said.settle(cluster.look_at_risks().await.into_iter(), self.observer());
                return Ok(());
            }
        };
        let ask = || self.run(DOING, 0, |mut commands| async move { check_master(&mut commands).await });
        let (role, moved) = tokio::join!(ask(), link.follow());
        let (role, _) = if moved { ask().await? } else { role? };
        role.map_err(|cause| {
            link.renew();
            StoreError::Unavailable { doing: DOING, cause }
        })?;
        let runs_scripts = self.run_on(DOING, 0, |live, _| {
            let live = Arc::clone(live);
            async move { live.look_at_scripts(link.user()).await }
        });
        runs_scripts.await?.0.map_err(|cause| StoreError::Unavailable { doing: DOING, cause })?;
        self.believe_absence(DOING, 0).await?;
        link.look_at_risks().await;
        self.said.settle(std::iter::once(link.risks()), self.observer());
        Ok(())
    }

    fn has_room(&self) -> bool {
        !self.said.holds(Risk::Full)
    }

    async fn adopt(&self) -> Result<(), StoreError> {
        match &self.link {
            Way::One(link) => {
                let identity = link.identity().expect("a store that is in one place has its name there");
                identity.adopt();
                link.retry();
                let adopted = self.ping().await;
                identity.adopted_or_not();
                adopted
            }
            Way::Cluster(cluster) => {
                cluster.retry();
                cluster.adopt("adopting the store").await?;
                self.ping().await
            }
        }
    }

    async fn next_change(&self) -> Change {
        self.changes.next(&self.link).await
    }
}
