//! Waiting until replicas have what was written.
//!
//! `WAIT` answers for everything that was executed on its connection before, reads and repeated writes that
//! found nothing to do included: so a commit that finds itself stored is waited for like the one that stored
//! it, over whatever connection. It answers with a count, never with an error, and the count has to be looked
//! at (F3).
//!
//! Redis holds up everything that follows a `WAIT` on its connection, and everyone shares ours. So at most
//! one is under way, answering for all who wrote before it was sent; and while replicas are missing it asks
//! for moments, with as long a pause after each, in which the others have their turn.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::redis::RedisResult;
use ::redis::aio::MultiplexedConnection;

use crate::domain::backoff::Backoff;
use crate::domain::time::Clock;

/// The first moment: more than a replica in the same region takes. The following ones double, for those
/// farther away.
const FIRST_MOMENT: Duration = Duration::from_millis(5);

/// Who has written over a connection, and up to whom the replicas have it.
#[derive(Default)]
pub(super) struct Replication {
    written: AtomicU64,
    /// Held by the one who asks.
    replicated: tokio::sync::Mutex<u64>,
}

impl Replication {
    /// Waits until so many replicas have what the caller wrote over this connection; false when they have not
    /// in time. To be called once the write was answered.
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

/// Whether so many replicas have, within `timeout`, what was written over this connection before.
async fn wait_for_replicas(
    commands: &mut MultiplexedConnection,
    replicas: u32,
    timeout: Duration,
) -> RedisResult<bool> {
    // 0 would be for ever.
    let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1);
    let mut wait = ::redis::cmd("WAIT");
    wait.arg(replicas).arg(millis);
    Ok(wait.query_async::<u32>(commands).await? >= replicas)
}
