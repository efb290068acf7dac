//! The store of several processes: Redis 6.2 or later, one master, known by its address or by Sentinel, or a Cluster.
//!
//! What is stored where, and why the index cannot be wrong for long: [`super::keyspace`]. What must happen in one step
//! is a script on one key. Every operation is bounded by [`RedisConfig::operation_timeout`], connecting included, and
//! is tried again, twice at most, when the connection died under it. That is safe because each one says the same when repeated:
//!
//! - a commit and a swap find their own bytes stored and say so;
//! - a delete whose first answer was lost says true: whether there was anything is not known any more, and it is gone;
//! - a take whose first answer was lost and that finds nothing the second time is an error, not "nothing there": the
//!   record may just have been taken, by us, and the answer with it is lost.
//!
//! **Durability** is Redis's own: with `appendfsync always` an acknowledged commit survives a crash of the server, with
//! `everysec` (the usual) the last second may go. Replication is asynchronous, so a failover may lose what the replica
//! had not seen; `min-replicas-to-write 1` bounds that, and a Redis that lacks replicas then refuses writes, which is
//! reported as unavailable. With [`RedisConfig::wait_replicas`] a commit and a delete are acknowledged only once so many
//! replicas have them; what is written and not there yet is reported as unavailable, and repeating it waits again. If all
//! replicas must have it, no failover loses it. If some must, the death of the primary loses nothing as long as Sentinel
//! can reach one of those that have it, for it promotes the one that is farthest; but while a failover is made with the
//! old primary alive, that one and a replica which still follows it go on acknowledging, until [`Store::ping`] hears of
//! the new one. A generation that comes back after such a loss has another nonce. Eviction must be off
//! (`maxmemory-policy noeviction`): an evicted connection is a lost one.
//!
//! **Access.** [`REDIS_COMMANDS`] is everything this store ever sends:
//!
//! ```text
//! user tokenward on >PASSWORD ~tokenward:* resetchannels &tokenward:* -@all +select +client|setname +role +get
//!   +getrange +set +getdel +del +exists +pttl +zadd +zrem +zscore +zrangebylex +zrangebyscore +evalsha +script|load
//!   +wait +publish +subscribe +scan +info
//! ```
//!
//! and at the nodes of a Cluster [`REDIS_CLUSTER_COMMANDS`] too: `+cluster|info +cluster|slots +asking`.

mod access;
#[cfg(test)]
mod access_tests;
mod changes;
mod cluster;
mod cluster_identity;
#[cfg(test)]
mod cluster_tests;
mod connection;
mod identity;
mod meter;
mod prerequisites;
#[cfg(test)]
mod prerequisites_tests;
#[cfg(any(test, feature = "testkit"))]
pub mod properties;
mod renewal;
mod replication;
mod scan;
mod scripts;
mod sentinel;
#[cfg(test)]
mod sentinel_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::redis::{RedisError, RedisResult};
use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use self::access::Access;
use self::changes::Changes;
use self::cluster::{Cluster, together};
use self::connection::{Commands, Link, Live, Verdict, check_master, code_of, describe};
use self::identity::Identity;
pub use self::sentinel::Sentinels;
use super::observed::{Risk, StoreObserver};
use super::record::Beginning;
use super::{
    Change, Committed, ConnectionPage, Counted, Deadline, Deleted, Due, FLOOR_KEPT, Floor, Full,
    LOWEST_FLOOR, LeaseAnswer, LeaseNonce, LeaseOf, Leases, MAX_PAGE, MOST_COUNTED, Most, Pending, Records,
    Reseal, Revision, Schedule, SealedPage, Store, StoreError, StoredConnection, StoredProfile, Writer,
    keyspace, record,
};
use crate::domain::connection::SignIn;
use crate::domain::id::{AppName, ConnectionKey, ConnectionName};
use crate::domain::random::Random;
use crate::domain::task::{BoxFuture, Tasks};
use crate::domain::time::{Clock, Timestamp};

/// Every command this store sends, in the spelling of Redis's ACLs; but for AUTH, which every user may say.
pub const REDIS_COMMANDS: &[&str] = &[
    "select",
    "client|setname",
    "role",
    "get",
    "getrange",
    "set",
    "getdel",
    "del",
    "exists",
    "pttl",
    "zadd",
    "zrem",
    "zscore",
    "zrangebylex",
    "zrangebyscore",
    "evalsha",
    "script|load",
    "wait",
    "publish",
    "subscribe",
    "scan",
    "info",
];

/// What it sends to the nodes of a Cluster beside that.
pub const REDIS_CLUSTER_COMMANDS: &[&str] = &["cluster|info", "cluster|slots", "asking"];

/// How many records are asked for in one go while listing: bounds how long others wait behind them on the connection.
const LIST_CHUNK: usize = 100;
/// How many of them in one pipeline, and how many bytes they may have in all: what one command may be answered is bounded
/// ([`meter`]), so these bound what a server that lies can have us hold for one list.
const READ_AT_ONCE: usize = 16;
const LARGEST_CHUNK: usize = 16 * 1024 * 1024;
/// How much of a record is read for its profile at first: most profiles have two or three KiB. One that has more is
/// read again, and so is one that has grown meanwhile, so often.
const PROFILE_REACH: usize = record::reach_of(4096);
const PROFILE_ROUNDS: usize = 4;

/// Where a secret comes from: asked anew every second and with every connection, so that a changed file counts without a
/// restart. It may read a small file. The error says why there is none, without the secret.
pub type PasswordSource = Arc<dyn Fn() -> Result<Zeroizing<String>, String> + Send + Sync>;

/// Where what is needed for TLS comes from: asked anew as often.
pub type TlsSource = Arc<dyn Fn() -> Result<RedisTls, String> + Send + Sync>;

/// What is needed to speak TLS.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RedisTls {
    /// The authorities to trust, PEM; the system's when there are none.
    pub ca_pem: Option<Vec<u8>>,
    /// Who we are, where the server asks.
    pub identity: Option<TlsIdentity>,
}

impl RedisTls {
    /// Whether TLS can be spoken with these.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn look(&self) -> Result<(), String> {
        connection::client_config(self).map(drop)
    }
}

/// A certificate of ours and its key.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsIdentity {
    /// The certificate and what it was issued by, PEM.
    pub certificate_pem: Vec<u8>,
    /// Its private key, PEM.
    pub key_pem: Zeroizing<Vec<u8>>,
}

/// Where Redis is.
#[derive(Clone)]
pub enum Location {
    /// One server.
    Server {
        /// Its name or address.
        host: String,
        /// Its port.
        port: u16,
    },
    /// Where the sentinels say.
    Sentinels(Sentinels),
    /// Where these nodes of a Cluster say, and whomever else they name. It has no database but 0.
    Cluster(Vec<(String, u16)>),
}

/// How to reach Redis.
#[derive(Clone)]
pub struct RedisConfig {
    /// The server, or who knows it.
    pub location: Location,
    /// The database's number.
    pub database: u16,
    /// TLS, with what is needed for it; none is plain TCP. For the sentinels too.
    pub tls: Option<TlsSource>,
    /// The ACL user; Redis's `default` when there is none.
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<PasswordSource>,
    /// What `CLIENT LIST` shows; no blanks.
    pub client_name: String,
    /// Where it is remembered which store this is, beyond this process.
    pub identity_file: Option<PathBuf>,
    /// How long making a connection may take: name, TCP, TLS and the greeting.
    pub connect_timeout: Duration,
    /// How long one command may take before its connection counts as dead.
    pub response_timeout: Duration,
    /// How long one operation of the store may take in all, waiting for a connection and a second try included. (A
    /// list and a creation are a few of these.)
    pub operation_timeout: Duration,
    /// How many replicas must have a commit or a delete before it is acknowledged.
    pub wait_replicas: u32,
    /// How long they may take. Shorter than `response_timeout`, for the server answers only then.
    pub wait_timeout: Duration,
    /// Who is told whether what was replaced is in use.
    pub observer: Option<Arc<dyn StoreObserver>>,
}

impl RedisConfig {
    /// A plain connection without a password, with the usual limits.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self::at(Location::Server { host: host.into(), port })
    }

    /// The same for the primary that these sentinels name.
    pub fn through(sentinels: Sentinels) -> Self {
        Self::at(Location::Sentinels(sentinels))
    }

    /// The same for the Cluster of these nodes.
    pub fn cluster(nodes: Vec<(String, u16)>) -> Self {
        Self::at(Location::Cluster(nodes))
    }

    fn at(location: Location) -> Self {
        RedisConfig {
            location,
            database: 0,
            tls: None,
            username: None,
            password: None,
            client_name: "tokenward".to_owned(),
            identity_file: None,
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_millis(500),
            operation_timeout: Duration::from_secs(1),
            wait_replicas: 0,
            wait_timeout: Duration::from_millis(250),
            observer: None,
        }
    }
}

/// A store in Redis.
pub struct RedisStore {
    link: Way,
    changes: Changes,
    said: prerequisites::Said,
    stop: CancellationToken,
}

/// The way to it.
#[derive(Clone)]
enum Way {
    /// To one primary.
    One(Link),
    /// To those of a Cluster.
    Cluster(Cluster),
}

impl Way {
    fn config(&self) -> &RedisConfig {
        match self {
            Way::One(link) => link.config(),
            Way::Cluster(cluster) => &cluster.0.config,
        }
    }

    fn clock(&self) -> &dyn Clock {
        match self {
            Way::One(link) => link.clock(),
            Way::Cluster(cluster) => &*cluster.0.clock,
        }
    }

    fn renew(&self) {
        match self {
            Way::One(link) => link.renew(),
            Way::Cluster(cluster) => cluster.renew(),
        }
    }

    async fn keep_up(&self) {
        match self {
            Way::One(link) => link.keep_up().await,
            Way::Cluster(cluster) => cluster.keep_up().await,
        }
    }

    fn close(&self) {
        match self {
            Way::One(link) => link.close(),
            Way::Cluster(cluster) => cluster.close(),
        }
    }
}

impl RedisStore {
    /// Prepares a store; [`Store::ping`] says whether it can be reached. What is needed for TLS is read once to see
    /// that it is usable.
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
        let identity = Identity::new(config.identity_file.clone())
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
            let keep_up = access::keep_up(link.clone(), access, clock, stop.clone());
            tasks.spawn("keeping up with the store's secrets", Box::pin(keep_up));
        }
        Ok(RedisStore { link, changes, said: prerequisites::Said::default(), stop })
    }

    /// Makes the next operation connect anew, with the secrets as they are then. Nothing under way is disturbed.
    pub fn reconnect(&self) {
        self.link.renew();
    }

    /// Refuses every further operation and ends the connection, once what is under way is done: a task of ours would
    /// otherwise outlive a stop.
    pub fn close(&self) {
        self.stop.cancel();
        self.link.close();
    }

    fn observer(&self) -> Option<&dyn StoreObserver> {
        self.link.config().observer.as_deref()
    }

    /// Runs an operation on keys of one slot within its time, again if its connection died. Also says whether the answer to an
    /// earlier try was lost.
    async fn run<T, F>(
        &self,
        doing: &'static str,
        slot: u16,
        operation: impl Fn(Commands) -> F,
    ) -> Result<(T, bool), StoreError>
    where
        F: Future<Output = RedisResult<T>> + Send,
    {
        self.run_on(doing, slot, |_, commands| operation(commands)).await
    }

    /// The same for a write that counts only once the replicas have it.
    async fn write<T, F>(
        &self,
        doing: &'static str,
        slot: u16,
        operation: impl Fn(Commands) -> F,
    ) -> Result<(T, bool), StoreError>
    where
        F: Future<Output = RedisResult<T>> + Send,
        T: Send,
    {
        let RedisConfig { wait_replicas: replicas, wait_timeout, .. } = *self.link.config();
        let ((answer, replicated), lost) = self
            .run_on(doing, slot, |live, commands| {
                let (written, live) = (operation(commands), Arc::clone(live));
                async move {
                    let answer = written.await?;
                    let waited = live.replication.wait(
                        live.connection.clone(),
                        replicas,
                        wait_timeout,
                        self.link.clock(),
                    );
                    Ok((answer, waited.await?))
                }
            })
            .await?;
        if !replicated {
            let cause = format!("written but not on {replicas} replicas yet");
            return Err(StoreError::Unavailable { doing, cause });
        }
        Ok((answer, lost))
    }

    async fn run_on<T, F>(
        &self,
        doing: &'static str,
        slot: u16,
        operation: impl Fn(&Arc<Live>, Commands) -> F,
    ) -> Result<(T, bool), StoreError>
    where
        F: Future<Output = RedisResult<T>> + Send,
    {
        match &self.link {
            Way::One(link) => {
                let limit = link.config().operation_timeout;
                within(limit, link.clock(), doing, try_again(link, doing, operation)).await
            }
            Way::Cluster(cluster) => cluster.run(doing, slot, operation).await,
        }
    }

    /// Whether this still is the store that it was: only then may it say that something is not there.
    async fn believe_absence(&self, doing: &'static str, slot: u16) -> Result<(), StoreError> {
        let link = match &self.link {
            Way::One(link) => link,
            Way::Cluster(cluster) => return cluster.believe_absence(doing, slot).await,
        };
        let (same, _) = self
            .run(doing, slot, |mut commands| async move { link.check_identity(&mut commands).await })
            .await?;
        same.map_err(|cause| {
            link.renew();
            StoreError::Unavailable { doing, cause }
        })
    }

    /// Runs [`scripts::RESEAL`], and waits for the replicas as a commit does: what was counted as sealed anew must not be as
    /// it was before after a failover.
    async fn run_reseal(
        &self,
        doing: &'static str,
        key: String,
        before: &[u8],
        after: &[u8],
    ) -> Result<bool, StoreError> {
        let slot = keyspace::slot(&key);
        let mut script = scripts::RESEAL.prepare_invoke();
        script.key(key).arg(before).arg(after);
        let (resealed, _) = self
            .write(doing, slot, |mut commands| {
                let script = &script;
                async move { script.invoke_async::<bool>(&mut commands).await }
            })
            .await?;
        Ok(resealed)
    }

    /// Runs a script that says the same when it is repeated.
    async fn script<T: ::redis::FromRedisValue + Send>(
        &self,
        doing: &'static str,
        slot: u16,
        script: &::redis::ScriptInvocation<'_>,
    ) -> Result<(T, bool), StoreError> {
        self.run(doing, slot, |mut commands| async move { script.invoke_async::<T>(&mut commands).await })
            .await
    }

    async fn index(&self, doing: &'static str, key: &ConnectionKey) -> Result<(), StoreError> {
        let index = keyspace::redis_index(&key.app);
        let slot = keyspace::slot(&index);
        let mut add = ::redis::cmd("ZADD");
        add.arg(index).arg(0).arg(key.connection.as_str());
        self.run(doing, slot, |mut commands| {
            let add = &add;
            async move { add.exec_async(&mut commands).await }
        })
        .await?;
        Ok(())
    }

    /// Takes a name out of its app's index, and puts it back if its record is there after all: see [`keyspace`].
    async fn unindex(&self, doing: &'static str, key: &ConnectionKey) -> Result<(), StoreError> {
        let index = keyspace::redis_index(&key.app);
        let slot = keyspace::slot(&index);
        let mut remove = ::redis::cmd("ZREM");
        remove.arg(index).arg(key.connection.as_str());
        self.run(doing, slot, |mut commands| {
            let remove = &remove;
            async move { remove.exec_async(&mut commands).await }
        })
        .await?;
        let record = keyspace::redis_record(key);
        let (there, _) = self
            .run(doing, keyspace::slot(&record), |mut commands| {
                let record = &record;
                async move { ::redis::cmd("EXISTS").arg(record).query_async::<bool>(&mut commands).await }
            })
            .await?;
        if there { self.index(doing, key).await } else { Ok(()) }
    }

    /// One chunk of a list: names from the index, and their profiles.
    async fn list_chunk(
        &self,
        doing: &'static str,
        app: &AppName,
        (start, end): &(Vec<u8>, Vec<u8>),
        count: usize,
    ) -> Result<Vec<(ConnectionKey, Option<StoredProfile>)>, StoreError> {
        let index = keyspace::redis_index(app);
        let slot = keyspace::slot(&index);
        let mut range = ::redis::cmd("ZRANGEBYLEX");
        range.arg(index).arg(start).arg(end).arg("LIMIT").arg(0).arg(count);
        let (names, _) = self
            .run(doing, slot, |mut commands| {
                let range = &range;
                async move { range.query_async::<Vec<Vec<u8>>>(&mut commands).await }
            })
            .await?;
        let mut keys = Vec::with_capacity(names.len());
        for name in names {
            let name = String::from_utf8(name).ok().and_then(|name| ConnectionName::stored(&name).ok());
            let name = name.ok_or_else(|| StoreError::corrupt(doing, "the index holds what is no name"))?;
            keys.push(ConnectionKey { app: app.clone(), connection: name });
        }
        let profiles = self.read_profiles(doing, &keys).await?;
        Ok(keys.into_iter().zip(profiles).collect())
    }

    /// The profiles of some connections, at most [`LIST_CHUNK`]: of each record as much as most profiles take, and
    /// where one goes on, as much as that one takes.
    async fn read_profiles(
        &self,
        doing: &'static str,
        keys: &[ConnectionKey],
    ) -> Result<Vec<Option<StoredProfile>>, StoreError> {
        let mut profiles: Vec<Option<StoredProfile>> = vec![None; keys.len()];
        let mut wanted: Vec<(usize, usize)> = (0..keys.len()).map(|at| (at, PROFILE_REACH)).collect();
        let mut rounds = 0;
        while !wanted.is_empty() {
            if rounds == PROFILE_ROUNDS {
                return Err(StoreError::unavailable(doing, "a record grows with every look at it"));
            }
            rounds += 1;
            let read = |(at, reach): &(usize, usize)| {
                let record = keyspace::redis_record(&keys[*at]);
                let slot = keyspace::slot(&record);
                let mut read = ::redis::cmd("GETRANGE");
                read.arg(record).arg(0).arg(reach - 1);
                (slot, read)
            };
            let reads: Vec<(u16, ::redis::Cmd)> = wanted.iter().map(read).collect();
            let records = self.read_many(doing, &reads).await?;
            let mut longer = Vec::new();
            for ((at, reach), record) in wanted.into_iter().zip(records) {
                // Redis has no empty strings but those that are not there.
                let Some(record) = record.filter(|record| !record.is_empty()) else { continue };
                match record::profile(doing, &record, reach)? {
                    Beginning::Whole(profile) => profiles[at] = Some(profile),
                    Beginning::Cut(reach) => longer.push((at, reach)),
                }
            }
            wanted = longer;
        }
        Ok(profiles)
    }

    /// What many commands read, each from a key of its slot: one pipeline for each node that has some of them.
    async fn read_many(
        &self,
        doing: &'static str,
        reads: &[(u16, ::redis::Cmd)],
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let slots: Vec<u16> = reads.iter().map(|(slot, _)| *slot).collect();
        let groups = match &self.link {
            Way::One(_) if reads.is_empty() => Vec::new(),
            Way::One(_) => vec![(0..reads.len()).collect()],
            Way::Cluster(cluster) => cluster.groups(doing, &slots).await?,
        };
        // Not MGET: the records live in different slots.
        let together = together(groups.iter().map(|group| self.group(doing, reads, group)).collect());
        let mut records: Vec<Option<Vec<u8>>> = vec![None; reads.len()];
        for (group, found) in groups.iter().zip(together.await) {
            for (at, record) in group.iter().zip(found?) {
                records[*at] = record;
            }
        }
        Ok(records)
    }

    fn group<'a>(
        &'a self,
        doing: &'static str,
        reads: &'a [(u16, ::redis::Cmd)],
        group: &'a [usize],
    ) -> BoxFuture<'a, Result<Vec<Option<Vec<u8>>>, StoreError>> {
        Box::pin(async move {
            let get = async |group: &[usize]| {
                let mut records: Vec<Option<Vec<u8>>> = Vec::with_capacity(group.len());
                for some in group.chunks(READ_AT_ONCE) {
                    let mut gets = ::redis::pipe();
                    for at in some {
                        gets.add_command(reads[*at].1.clone());
                    }
                    let found = self.run(doing, reads[some[0]].0, |mut commands| {
                        let gets = &gets;
                        async move { gets.query_async::<Vec<Option<Vec<u8>>>>(&mut commands).await }
                    });
                    records.extend(found.await?.0);
                    let bytes: usize = records.iter().flatten().map(Vec::len).sum();
                    if bytes > LARGEST_CHUNK {
                        return Err(StoreError::corrupt(doing, "records are larger than any of ours"));
                    }
                }
                Ok::<_, StoreError>(records)
            };
            match get(group).await {
                Err(_) if matches!(self.link, Way::Cluster(_)) && group.len() > 1 => {}
                done => return done,
            }
            // Perhaps some were moved to another node since.
            let mut records = Vec::with_capacity(group.len());
            for at in group {
                records.extend(get(&[*at]).await?);
            }
            Ok(records)
        })
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.close();
    }
}

/// Bounds an operation.
async fn within<T>(
    limit: Duration,
    clock: &dyn Clock,
    doing: &'static str,
    operation: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    tokio::select! {
        biased;
        answer = operation => answer,
        () = clock.sleep(limit) => {
            Err(StoreError::Unavailable { doing, cause: format!("Redis gave no answer within {limit:?}") })
        }
    }
}

/// Tries of one operation whose connections die: Redis ends all of them at once when it reads its ACL file anew (until 7.2), and
/// whoever rotates a password does that twice.
const TRIES: u32 = 3;

async fn try_again<T, F>(
    link: &Link,
    doing: &'static str,
    operation: impl Fn(&Arc<Live>, Commands) -> F,
) -> Result<(T, bool), StoreError>
where
    F: Future<Output = RedisResult<T>> + Send,
{
    let mut lost = false;
    let mut tries = 0;
    loop {
        tries += 1;
        let live = link.acquire().await.map_err(|cause| StoreError::Unavailable { doing, cause })?;
        let error = match operation(&live, live.commands()).await {
            Ok(answer) => return Ok((answer, lost)),
            Err(error) => error,
        };
        let verdict = Verdict::of(&error);
        let failure = failure(link.config(), doing, &error);
        let discarded = verdict != Verdict::Fine && link.discard(&live, verdict, &failure.to_string());
        // Of what is not the connection's fault one more try is enough.
        let most = if verdict == Verdict::Lost { TRIES } else { 2 };
        if tries >= most || !discarded || verdict == Verdict::TooFewReplicas {
            return Err(failure);
        }
        lost |= verdict == Verdict::Lost;
    }
}

fn failure(config: &RedisConfig, doing: &'static str, error: &RedisError) -> StoreError {
    if matches!(code_of(error), Some(("WRONGTYPE", _))) {
        return StoreError::corrupt(doing, "what is stored is of another type");
    }
    if matches!(config.location, Location::Cluster(_)) && matches!(error.code(), Some("MOVED" | "ASK")) {
        return StoreError::unavailable(doing, "the nodes of the Cluster send us to one another in circles");
    }
    let user = config.username.as_deref().unwrap_or("default");
    StoreError::Unavailable { doing, cause: describe(error, user) }
}

/// Waits for the first one; the second one gets as far as it does meanwhile.
async fn beside<T>(first: impl Future<Output = T>, second: impl Future) -> T {
    let (mut first, mut second) = (std::pin::pin!(first), std::pin::pin!(second));
    let mut done = false;
    std::future::poll_fn(|context| {
        let answer = first.as_mut().poll(context);
        done = done || second.as_mut().poll(context).is_ready();
        answer
    })
    .await
}

/// No lease has this nonce: a commit that names it is refused whoever holds one.
const NOBODY: LeaseNonce = LeaseNonce([0; 16]);

/// A time to live in Redis's milliseconds; none is not allowed, and one is over at once too.
fn millis(ttl: Duration) -> u64 {
    // Redis refuses what does not fit a signed 64-bit instant.
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).clamp(1, 1 << 52)
}

#[async_trait]
impl Store for RedisStore {
    fn is_shared(&self) -> bool {
        true
    }

    /// Asks for the role: a demoted master answers a PING like any other. One that was cut off does not know that it is
    /// demoted, so the sentinels are asked too. And runs a script, for every write is one.
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

#[async_trait]
impl Records for RedisStore {
    async fn load(&self, key: &ConnectionKey) -> Result<Option<StoredConnection>, StoreError> {
        const DOING: &str = "loading a connection";
        let slot = keyspace::connection_slot(key);
        let mut get = ::redis::cmd("GET");
        get.arg(keyspace::redis_record(key));
        let (found, _) = self
            .run(DOING, slot, |mut commands| {
                let get = &get;
                async move { get.query_async::<Option<Vec<u8>>>(&mut commands).await }
            })
            .await?;
        match found {
            Some(found) => record::decode(DOING, &found).map(Some),
            None => self.believe_absence(DOING, slot).await.map(|()| None),
        }
    }

    async fn revision(&self, key: &ConnectionKey) -> Result<Option<Revision>, StoreError> {
        const DOING: &str = "looking a revision up";
        let slot = keyspace::connection_slot(key);
        let mut get = ::redis::cmd("GETRANGE");
        get.arg(keyspace::redis_record(key)).arg(0).arg(record::REVISION_END - 1);
        let (found, _) = self
            .run(DOING, slot, |mut commands| {
                let get = &get;
                async move { get.query_async::<Vec<u8>>(&mut commands).await }
            })
            .await?;
        // Redis has no empty strings but those that are not there.
        if found.is_empty() {
            return self.believe_absence(DOING, slot).await.map(|()| None);
        }
        record::decode_revision(DOING, &found).map(Some)
    }

    async fn commit(
        &self,
        key: &ConnectionKey,
        expected: Option<Revision>,
        connection: &StoredConnection,
        writer: Writer,
    ) -> Result<Committed, StoreError> {
        const DOING: &str = "committing a connection";
        let encoded = record::encode(DOING, connection)?;
        let expects = expected.map(|revision| record::revision_bytes(&revision).to_vec());
        let (lease, intent) = keyspace::redis_lease(LeaseOf::Connection(key));
        let nonce = writer.lease().unwrap_or(NOBODY);
        let fence = if writer.is_fenced() { &nonce.0[..] } else { &[] };
        let mut script = scripts::COMMIT.prepare_invoke();
        script
            .key(keyspace::redis_record(key))
            .key(lease)
            .key(intent)
            .key(keyspace::redis_floor(key))
            .arg(expects.unwrap_or_default())
            .arg(&record::revision_bytes(&connection.revision)[..])
            .arg(&encoded[..record::REVISION_START])
            .arg(&encoded)
            .arg(fence)
            .arg(u8::from(writer.replaces_grant()))
            .arg(connection.revision.sign_in.number)
            .arg(keyspace::REDIS_CHANGES)
            .arg(self.changes.message(key));
        let slot = keyspace::connection_slot(key);
        let creates = expected.is_none();
        if creates {
            self.believe_absence(DOING, slot).await?;
            self.index(DOING, key).await?;
        }
        let written = self.write(DOING, slot, |mut commands| {
            let script = &script;
            async move { script.invoke_async::<i64>(&mut commands).await }
        });
        let (answer, _) = if creates {
            written.await?
        } else {
            // Both leave together. What becomes of the name does not matter to the record.
            beside(written, self.index(DOING, key)).await?
        };
        match answer {
            1 => {
                if creates && let Err(error) = self.index(DOING, key).await {
                    tracing::warn!(%error, "a new connection may be missing in lists until its next refresh");
                }
                Ok(Committed::Done)
            }
            0 => Ok(Committed::Conflict),
            2 => Ok(Committed::Fenced),
            _ => Err(StoreError::corrupt(DOING, "what is stored is no record, or one of another format")),
        }
    }

    async fn floor(&self, key: &ConnectionKey) -> Result<Floor, StoreError> {
        const DOING: &str = "asking what was deleted of a connection";
        let slot = keyspace::connection_slot(key);
        let mut get = ::redis::cmd("GET");
        get.arg(keyspace::redis_floor(key));
        let (floor, _) = self
            .run(DOING, slot, |mut commands| {
                let get = &get;
                async move { get.query_async::<Option<String>>(&mut commands).await }
            })
            .await?;
        let Some(floor) = floor else {
            return self.believe_absence(DOING, slot).await.map(|()| LOWEST_FLOOR);
        };
        let numbers = floor.split_once(' ').map(|(number, cut)| (number.parse(), cut.parse()));
        match numbers {
            Some((Ok(number), Ok(cut))) => Ok(Floor { number, cut }),
            _ => Err(StoreError::corrupt(DOING, "a floor is two numbers")),
        }
    }

    async fn delete(
        &self,
        key: &ConnectionKey,
        meant: SignIn,
        cuts_off: bool,
    ) -> Result<Deleted, StoreError> {
        const DOING: &str = "deleting a connection";
        let (lease, intent) = keyspace::redis_lease(LeaseOf::Connection(key));
        let mut script = scripts::DELETE.prepare_invoke();
        script.key(keyspace::redis_record(key)).key(lease).key(intent).key(keyspace::redis_floor(key));
        script.arg(&record::sign_in_bytes(&meant)[..]).arg(&record::HEAD[..]).arg(millis(FLOOR_KEPT));
        script.arg(u8::from(cuts_off));
        script.arg(keyspace::REDIS_CHANGES).arg(self.changes.message(key));
        let slot = keyspace::connection_slot(key);
        let (found, lost) = self
            .write(DOING, slot, |mut commands| {
                let script = &script;
                async move { script.invoke_async::<u8>(&mut commands).await }
            })
            .await?;
        if found == 2 {
            return Ok(Deleted::Another);
        }
        let removed = found == 1;
        if !removed {
            self.believe_absence(DOING, slot).await?;
        }
        if let Err(error) = self.unindex(DOING, key).await {
            tracing::debug!(%error, "the name of a deleted connection stays in the index until it is listed");
        }
        if let Err(error) = self.schedule(key, None).await {
            tracing::debug!(%error, "a deleted connection stays in the schedule until it is due");
        }
        Ok(if removed || lost { Deleted::Gone } else { Deleted::Absent })
    }

    async fn profiles(&self, keys: &[ConnectionKey]) -> Result<Vec<Option<StoredProfile>>, StoreError> {
        const DOING: &str = "reading profiles";
        let mut profiles = Vec::with_capacity(keys.len());
        for some in keys.chunks(LIST_CHUNK) {
            let found = self.read_profiles(DOING, some).await?;
            let absent = some.iter().zip(&found).filter(|(_, found)| found.is_none());
            let slots: BTreeSet<u16> = absent.map(|(key, _)| keyspace::connection_slot(key)).collect();
            for slot in slots {
                self.believe_absence(DOING, slot).await?;
                // All of them are of one server.
                if matches!(self.link, Way::One(_)) {
                    break;
                }
            }
            profiles.extend(found);
        }
        Ok(profiles)
    }

    async fn list(
        &self,
        app: &AppName,
        prefix: &str,
        after: Option<&ConnectionName>,
        limit: usize,
    ) -> Result<ConnectionPage, StoreError> {
        const DOING: &str = "listing connections";
        let limit = limit.min(MAX_PAGE);

        let mut page = ConnectionPage::default();
        let mut after = after.cloned();
        // One more than fits says whether there is a next page.
        while limit > 0 && page.connections.len() <= limit {
            let range = keyspace::redis_range(prefix, after.as_ref().map(ConnectionName::as_str));
            let count = (limit + 1 - page.connections.len()).min(LIST_CHUNK);
            let chunk = self.list_chunk(DOING, app, &range, count).await?;
            let last = chunk.len() < count;
            for (key, found) in chunk {
                after = Some(key.connection.clone());
                match found {
                    Some(found) => page.connections.push((key.connection, found)),
                    None => {
                        // In a Cluster its node may have lost it, and the index be on another.
                        self.believe_absence(DOING, keyspace::connection_slot(&key)).await?;
                        self.unindex(DOING, &key).await?;
                    }
                }
            }
            if last {
                break;
            }
        }
        if page.connections.len() > limit {
            page.connections.truncate(limit);
            page.next = page.connections.last().map(|(name, _)| name.clone());
        }
        // That there are no more is an absence too; and where the index was lost, those that were used since are in it.
        self.believe_absence(DOING, keyspace::slot(&keyspace::redis_index(app))).await?;
        Ok(page)
    }
}

#[async_trait]
impl Leases for RedisStore {
    async fn take_lease(
        &self,
        of: LeaseOf<'_>,
        nonce: LeaseNonce,
        ttl: Duration,
    ) -> Result<LeaseAnswer, StoreError> {
        let (lease, intent) = keyspace::redis_lease(of);
        let slot = keyspace::slot(&lease);
        let mut script = scripts::TAKE.prepare_invoke();
        script.key(lease).key(intent).arg(&nonce.0[..]).arg(millis(ttl));
        if let LeaseOf::Connection(key) = of {
            script.key(keyspace::redis_record(key));
        }
        // One that a failover takes away is two calls to the authority.
        let ((mine, rest), _) = self
            .write("taking a lease", slot, |mut commands| {
                let script = &script;
                async move { script.invoke_async::<(bool, i64)>(&mut commands).await }
            })
            .await?;
        Ok(if mine {
            LeaseAnswer::Mine { unsettled: rest == 1 }
        } else {
            LeaseAnswer::Theirs { left: Duration::from_millis(u64::try_from(rest).unwrap_or(0)) }
        })
    }

    async fn extend_lease(
        &self,
        of: LeaseOf<'_>,
        nonce: LeaseNonce,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        let mut script = scripts::EXTEND.prepare_invoke();
        let (lease, _) = keyspace::redis_lease(of);
        let slot = keyspace::slot(&lease);
        script.key(lease).arg(&nonce.0[..]).arg(millis(ttl));
        Ok(self.script("prolonging a lease", slot, &script).await?.0)
    }

    async fn release_lease(
        &self,
        of: LeaseOf<'_>,
        nonce: LeaseNonce,
        settled: bool,
    ) -> Result<(), StoreError> {
        let (lease, intent) = keyspace::redis_lease(of);
        let told = match of {
            LeaseOf::Connection(key) => self.changes.message(key),
            LeaseOf::Sweep(_) | LeaseOf::Rewrap => String::new(),
        };
        let slot = keyspace::slot(&lease);
        let mut script = scripts::RELEASE.prepare_invoke();
        script.key(lease).key(intent).arg(&nonce.0[..]).arg(u8::from(settled));
        script.arg(keyspace::REDIS_CHANGES).arg(told);
        self.script::<i64>("giving a lease back", slot, &script).await?;
        Ok(())
    }
}

#[async_trait]
impl Schedule for RedisStore {
    async fn schedule(&self, key: &ConnectionKey, due_at: Option<Timestamp>) -> Result<(), StoreError> {
        let (due, used) = keyspace::redis_due(keyspace::shard(key));
        let slot = keyspace::slot(&due);
        let name = key.to_string();
        let mut commands = ::redis::pipe();
        match due_at {
            Some(at) => {
                commands.cmd("ZADD").arg(due).arg(at.unix_millis()).arg(name).ignore();
            }
            None => {
                commands.cmd("ZREM").arg(due).arg(&name).ignore();
                commands.cmd("ZREM").arg(used).arg(&name).ignore();
            }
        }
        self.run("scheduling a connection", slot, |mut connection| {
            let commands = &commands;
            async move { commands.exec_async(&mut connection).await }
        })
        .await?;
        Ok(())
    }

    async fn due(&self, shard: u8, until: Timestamp, limit: usize) -> Result<Vec<Due>, StoreError> {
        const DOING: &str = "asking what is due";
        let (due, used) = keyspace::redis_due(shard);
        let slot = keyspace::slot(&due);
        let mut script = scripts::DUE.prepare_invoke();
        script.key(due).key(used).arg(until.unix_millis()).arg(limit.min(MAX_PAGE));
        let (rows, _) = self.script::<Vec<String>>(DOING, slot, &script).await?;
        rows.chunks_exact(3)
            .filter_map(|row| {
                let key = keyspace::parse_key(&row[0]);
                let instant = |text: &str| text.parse::<f64>().ok().map(|millis| millis as i64);
                match (key, instant(&row[1])) {
                    (Some(key), Some(at)) => Some(Ok(Due {
                        key,
                        due_at: Timestamp::from_unix_millis(at),
                        used_at: instant(&row[2]).map(Timestamp::from_unix_millis),
                    })),
                    _ => {
                        tracing::error!(shard, "the schedule holds what is no connection; it is passed over");
                        None
                    }
                }
            })
            .collect()
    }

    async fn mark_used(&self, key: &ConnectionKey, at: Timestamp) -> Result<(), StoreError> {
        let (_, used) = keyspace::redis_due(keyspace::shard(key));
        let slot = keyspace::slot(&used);
        let mut add = ::redis::cmd("ZADD");
        add.arg(used).arg("GT").arg(at.unix_millis()).arg(key.to_string());
        self.run("noting that a connection is used", slot, |mut commands| {
            let add = &add;
            async move { add.exec_async(&mut commands).await }
        })
        .await?;
        Ok(())
    }
}

#[async_trait]
impl Pending for RedisStore {
    async fn put_pending(&self, id: &str, sealed: &[u8], deadline: Deadline) -> Result<(), StoreError> {
        let slot = keyspace::slot(&keyspace::redis_pending(id));
        let mut set = ::redis::cmd("SET");
        set.arg(keyspace::redis_pending(id)).arg(sealed).arg("PX").arg(millis(deadline.ttl()));
        self.write("keeping a pending record", slot, |mut commands| {
            let set = &set;
            async move { set.exec_async(&mut commands).await }
        })
        .await?;
        Ok(())
    }

    async fn pending(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        const DOING: &str = "looking a pending record up";
        let slot = keyspace::slot(&keyspace::redis_pending(id));
        let mut get = ::redis::cmd("GET");
        get.arg(keyspace::redis_pending(id));
        let (found, _) = self
            .run(DOING, slot, |mut commands| {
                let get = &get;
                async move { get.query_async::<Option<Vec<u8>>>(&mut commands).await }
            })
            .await?;
        if found.is_none() {
            self.believe_absence(DOING, slot).await?;
        }
        Ok(found)
    }

    async fn take_pending(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        const DOING: &str = "taking a pending record";
        let slot = keyspace::slot(&keyspace::redis_pending(id));
        let mut take = ::redis::cmd("GETDEL");
        take.arg(keyspace::redis_pending(id));
        // What was taken once must not be there again after a failover.
        let (taken, lost) = self
            .write(DOING, slot, |mut commands| {
                let take = &take;
                async move { take.query_async::<Option<Vec<u8>>>(&mut commands).await }
            })
            .await?;
        if taken.is_none() && lost {
            return Err(StoreError::unavailable(DOING, "the answer was lost with its connection"));
        }
        if taken.is_none() {
            self.believe_absence(DOING, slot).await?;
        }
        Ok(taken)
    }

    async fn swap_pending(
        &self,
        id: &str,
        expected: Option<&[u8]>,
        sealed: &[u8],
        deadline: Deadline,
    ) -> Result<bool, StoreError> {
        const DOING: &str = "replacing a pending record";
        let slot = keyspace::slot(&keyspace::redis_pending(id));
        let mut script = scripts::SWAP.prepare_invoke();
        script
            .key(keyspace::redis_pending(id))
            .arg(expected.unwrap_or_default())
            .arg(sealed)
            .arg(millis(deadline.ttl()));
        let (swapped, _) = self
            .write(DOING, slot, |mut commands| {
                let script = &script;
                async move { script.invoke_async::<bool>(&mut commands).await }
            })
            .await?;
        if !swapped {
            self.believe_absence(DOING, slot).await?;
        }
        Ok(swapped)
    }

    async fn count_in(
        &self,
        owner: &str,
        entry: &str,
        until: Timestamp,
        most: Most<'_>,
    ) -> Result<Counted, StoreError> {
        let key = keyspace::redis_counted(owner);
        let slot = keyspace::slot(&key);
        let mut script = scripts::COUNT_IN.prepare_invoke();
        script.key(key).arg(entry).arg(until.unix_millis()).arg(self.link.clock().now().unix_millis());
        script.arg(most.of_owner.min(MOST_COUNTED));
        let group = most.of_group.map_or(("", 0), |group| (group.prefix, group.most));
        script.arg(group.0).arg(group.1);
        // Not waited for on replicas: a failover that loses it lets one more in.
        let (full, _) = self.script::<Vec<i64>>("counting what is open", slot, &script).await?;
        Ok(match full.as_slice() {
            [] => Counted::In,
            [which, first, ..] => Counted::Full {
                which: if *which == 0 { Full::Owner } else { Full::Group },
                until: Timestamp::from_unix_millis(*first),
            },
            [_] => return Err(StoreError::corrupt("counting what is open", "half an answer")),
        })
    }

    async fn count_out(&self, owner: &str, entry: &str) -> Result<(), StoreError> {
        let key = keyspace::redis_counted(owner);
        let slot = keyspace::slot(&key);
        let mut remove = ::redis::cmd("ZREM");
        remove.arg(key).arg(entry);
        self.run("counting what is closed", slot, |mut commands| {
            let remove = &remove;
            async move { remove.exec_async(&mut commands).await }
        })
        .await?;
        Ok(())
    }

    async fn counted(&self, owner: &str) -> Result<Vec<String>, StoreError> {
        let key = keyspace::redis_counted(owner);
        let slot = keyspace::slot(&key);
        let now = self.link.clock().now().unix_millis();
        let mut range = ::redis::cmd("ZRANGEBYSCORE");
        range.arg(key).arg(format!("({now}")).arg("+inf").arg("LIMIT").arg(0).arg(MOST_COUNTED);
        let (entries, _) = self
            .run("looking up what is open", slot, |mut commands| {
                let range = &range;
                async move { range.query_async::<Vec<String>>(&mut commands).await }
            })
            .await?;
        Ok(entries)
    }
}

#[async_trait]
impl Reseal for RedisStore {
    async fn sealed(&self, after: Option<&str>, limit: usize) -> Result<SealedPage, StoreError> {
        self.scan(after, limit.clamp(1, MAX_PAGE)).await
    }

    async fn reseal(
        &self,
        key: &ConnectionKey,
        before: &StoredConnection,
        after: &StoredConnection,
    ) -> Result<bool, StoreError> {
        const DOING: &str = "sealing a connection anew";
        if before.revision != after.revision {
            return Ok(false);
        }
        let (before, after) = (record::encode(DOING, before)?, record::encode(DOING, after)?);
        self.run_reseal(DOING, keyspace::redis_record(key), &before, &after).await
    }

    async fn reseal_pending(&self, id: &str, before: &[u8], after: &[u8]) -> Result<bool, StoreError> {
        const DOING: &str = "sealing a pending record anew";
        self.run_reseal(DOING, keyspace::redis_pending(id), before, after).await
    }
}
