//! Waits until replicas have a write.
//!
//! `WAIT` answers for everything that its connection executed before, also for reads and for repeated writes
//! that changed nothing. So a commit that finds itself stored is waited for like the one that stored it, over
//! whichever connection. It answers with a count, never with an error, so the count must be checked (F3).
//!
//! Redis delays everything that follows a `WAIT` on its connection, and everyone shares ours. So at most one
//! is under way, and it answers for every write before it. While replicas are missing it waits only for
//! moments, with as long a pause after each, in which the others have their turn.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::redis::RedisResult;
use ::redis::aio::MultiplexedConnection;

use crate::domain::backoff::Backoff;
use crate::domain::time::Clock;

/// The first moment: more than a replica in the same region needs. The following ones double, for those
/// farther away.
const FIRST_MOMENT: Duration = Duration::from_millis(5);

/// Number of the last write over a connection, and of the last one that the replicas have.
#[derive(Default)]
pub(super) struct Replication {
    written: AtomicU64,
    /// Locked by the caller that sends `WAIT`.
    replicated: tokio::sync::Mutex<u64>,
}

impl Replication {
    /// Waits until so many replicas have the caller's write over this connection; false if they do not in
    /// time. To be called once the write was answered.
    pub(super) async fn wait(
        &self,
        mut commands: MultiplexedConnection,
        replicas: u32,
        timeout: Duration,
        clock: &dyn Clock,
    ) -> RedisResult<bool> {
        if replicas == 0 {
            return Ok(true);
        }
        let until = clock.monotonic().saturating_add(timeout);
        let mine = self.written.fetch_add(1, Ordering::SeqCst) + 1;
        let waiting = async {
            let mut replicated = self.replicated.lock().await;
            let moments = Backoff { first: FIRST_MOMENT, longest: timeout };
            let mut missed = 0;
            while *replicated < mine {
                let left = until.saturating_sub(clock.monotonic());
                if left.is_zero() {
                    return Ok(false);
                }
                let moment = moments.after(missed + 1);
                let written = self.written.load(Ordering::SeqCst);
                if wait_for_replicas(&mut commands, replicas, moment.min(left)).await? {
                    *replicated = written;
                } else {
                    clock.sleep(moment).await;
                    missed += 1;
                }
            }
            Ok(true)
        };
        tokio::select! {
            biased;
            done = waiting => done,
            () = clock.sleep(timeout) => Ok(false),
        }
    }
}

/// Whether so many replicas have, within `timeout`, every earlier write over this connection.
async fn wait_for_replicas(
    commands: &mut MultiplexedConnection,
    replicas: u32,
    timeout: Duration,
) -> RedisResult<bool> {
    // 0 would wait for ever.
    let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1);
    let mut wait = ::redis::cmd("WAIT");
    wait.arg(replicas).arg(millis);
    Ok(wait.query_async::<u32>(commands).await? >= replicas)
}
