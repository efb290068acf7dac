//! The way to the keys: over one link, or over the link of the node that has them. Every operation goes this
//! way, within its time, and again if its connection died.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ::redis::RedisResult;
use tokio_util::sync::CancellationToken;

use super::RedisStore;
use super::access::Access;
use super::cluster::Cluster;
use super::commands::Commands;
use super::config::RedisConfig;
use super::connection::Link;
use super::failure::{TRIES, Verdict, failure, within};
use super::live::Live;
use crate::domain::time::Clock;
use crate::store::StoreError;

/// How often the files are checked.
const LOOK: Duration = Duration::from_secs(1);

/// The way to it.
#[derive(Clone)]
pub(super) enum Way {
    /// To one primary.
    One(Link),
    /// To the primaries of a Cluster.
    Cluster(Cluster),
}

impl Way {
    pub(super) fn config(&self) -> &RedisConfig {
        match self {
            Way::One(link) => link.config(),
            Way::Cluster(cluster) => &cluster.0.config,
        }
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        match self {
            Way::One(link) => link.clock(),
            Way::Cluster(cluster) => &*cluster.0.clock,
        }
    }

    pub(super) fn renew(&self) {
        match self {
            Way::One(link) => link.renew(),
            Way::Cluster(cluster) => cluster.renew(),
        }
    }

    pub(super) async fn keep_up(&self) {
        match self {
            Way::One(link) => link.keep_up().await,
            Way::Cluster(cluster) => cluster.keep_up().await,
        }
    }

    pub(super) fn close(&self) {
        match self {
            Way::One(link) => link.close(),
            Way::Cluster(cluster) => cluster.close(),
        }
    }
}

/// Checks the files until it is told to stop, and has open connections follow them.
pub(super) async fn keep_up(way: Way, access: Arc<Access>, clock: Arc<dyn Clock>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = clock.sleep(LOOK) => {}
            () = stop.cancelled() => return,
        }
        access.look();
        tokio::select! {
            () = way.keep_up() => {}
            () = stop.cancelled() => return,
        }
        access.settle();
    }
}

impl RedisStore {
    /// Runs an operation on keys of one slot within its time, again if its connection died. Also says whether
    /// the answer to an earlier try was lost.
    pub(super) async fn run<T, F>(
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
    pub(super) async fn write<T, F>(
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

    pub(super) async fn run_on<T, F>(
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

    /// Whether this still is the same store. Only then does an absence count.
    pub(super) async fn believe_absence(&self, doing: &'static str, slot: u16) -> Result<(), StoreError> {
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

    /// Runs a script that gives the same answer when it is repeated.
    pub(super) async fn script<T: ::redis::FromRedisValue + Send>(
        &self,
        doing: &'static str,
        slot: u16,
        script: &::redis::ScriptInvocation<'_>,
    ) -> Result<(T, bool), StoreError> {
        self.run(doing, slot, |mut commands| async move { script.invoke_async::<T>(&mut commands).await })
            .await
    }
}

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
        // An error that is not the connection's fault is worth one more try.
        let most = if verdict == Verdict::Lost { TRIES } else { 2 };
        if tries >= most || !discarded || verdict == Verdict::TooFewReplicas {
            return Err(failure);
        }
        lost |= verdict == Verdict::Lost;
    }
}
