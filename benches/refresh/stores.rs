//! The limits of the stores: Redis by a bare client, and the disk by bare syncs.

use std::io::Write as _;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use redis::AsyncCommands as _;
use tokenward::store::keyspace;

use crate::daemon::Daemon;
use crate::seed;
use crate::support::Failure;

/// How often a second bare clients read and write a record, over one connection that they share as the
/// daemon's operations share theirs.
pub async fn pairs(daemon: &Daemon, at_once: usize, during: Duration) -> Result<f64, Failure> {
    let connection = daemon.redis()?.get_multiplexed_async_connection().await?;
    let (begun, size) = (Instant::now(), daemon.record_bytes());
    let tasks: Vec<_> = (0..at_once)
        .map(|number| {
            let mut connection = connection.clone();
            tokio::spawn(async move {
                let mut count = 0u64;
                let (record, value) = (format!("bench:{number}"), vec![7u8; size]);
                while begun.elapsed() < during {
                    connection.set::<_, _, ()>(&record, &value).await?;
                    connection.get::<_, Vec<u8>>(&record).await?;
                    count += 1;
                }
                Ok::<_, redis::RedisError>(count)
            })
        })
        .collect();
    let mut count = 0;
    for task in tasks {
        count += task.await??;
    }
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}

/// The p99 of bare GETs of these connections' records, one after the other, in milliseconds.
pub async fn gets(daemon: &Daemon, numbers: Range<usize>) -> Result<f64, Failure> {
    let mut connection = daemon.redis()?.get_multiplexed_async_connection().await?;
    let mut latencies = Vec::new();
    for number in numbers {
        let record = keyspace::redis_record(&seed::key(number)?);
        let begun = Instant::now();
        connection.get::<_, Vec<u8>>(&record).await?;
        latencies.push(begun.elapsed());
    }
    latencies.sort_unstable();
    Ok(latencies[latencies.len() * 99 / 100].as_secs_f64() * 1000.0)
}

/// How often a second the disk syncs a file to which a record was appended.
pub fn syncs(folder: &Path, record_bytes: usize, during: Duration) -> Result<f64, Failure> {
    let (mut file, value) = (tempfile::tempfile_in(folder)?, vec![7u8; record_bytes]);
    let (begun, mut count) = (Instant::now(), 0u64);
    while begun.elapsed() < during {
        file.write_all(&value)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}
