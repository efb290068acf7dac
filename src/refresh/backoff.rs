//! How long to leave an authority alone after a failure, per connection and per (app, tenant).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::slots::Failure;
use crate::domain::id::AppName;
use crate::domain::random::{Random, random_bytes};

/// A failed try is not repeated sooner than this, so that a crowd of callers is not a crowd of calls …
const FIRST: Duration = Duration::from_secs(1);
/// … nor later than this, so that recovery shows within seconds.
const LONGEST: Duration = Duration::from_secs(5);
/// While the authority rejects the app itself every connection waits this long for one of them to try.
pub(super) const APP_REJECTED: Duration = Duration::from_secs(2);
/// What an authority may ask for at the most (`Retry-After`).
const LONGEST_ASKED: Duration = Duration::from_secs(3600);
/// Buckets kept; far more than the tenants that are throttled at one time.
const MOST_BUCKETS: usize = 10_000;

/// How long to wait after `failures` failures in a row, with jitter, unless the authority asked for a time.
pub(super) fn wait(failures: u32, asked: Option<Duration>, random: &dyn Random) -> Duration {
    let base = match asked {
        Some(asked) => asked.clamp(FIRST, LONGEST_ASKED),
        None => FIRST.saturating_mul(1u32 << failures.saturating_sub(1).min(8)).min(LONGEST),
    };
    let [jitter] = random_bytes::<1>(random);
    base + base.mul_f64(f64::from(jitter) / 255.0 * 0.2)
}

type Bucket = (AppName, Option<String>);

/// Times before which the authority shall not be called for an app (in one tenant, or at all).
#[derive(Default)]
pub(super) struct Buckets {
    until: Mutex<BTreeMap<Bucket, (Duration, Arc<Failure>)>>,
}

impl Buckets {
    /// Closes a bucket until `until` (monotonic).
    pub(super) fn close(&self, app: &AppName, tenant: Option<&str>, until: Duration, failure: Arc<Failure>) {
        let mut buckets = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MOST_BUCKETS {
            buckets.pop_first();
        }
        buckets.insert((app.clone(), tenant.map(str::to_owned)), (until, failure));
    }

    /// The failure that closed the bucket, while it is closed, and for how long still.
    pub(super) fn closed(
        &self,
        app: &AppName,
        tenant: Option<&str>,
        now: Duration,
    ) -> Option<(Duration, Arc<Failure>)> {
        let mut buckets = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let mut find = |tenant: Option<&str>| {
            let bucket = (app.clone(), tenant.map(str::to_owned));
            match buckets.get(&bucket) {
                Some((until, failure)) if *until > now => Some((*until - now, failure.clone())),
                Some(_) => {
                    buckets.remove(&bucket);
                    None
                }
                None => None,
            }
        };
        find(None).or_else(|| tenant.and_then(|tenant| find(Some(tenant))))
    }

    /// Opens an app's own bucket: its credential works again.
    pub(super) fn open(&self, app: &AppName) {
        self.until.lock().unwrap_or_else(PoisonError::into_inner).remove(&(app.clone(), None));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::SeededRandom;

    #[test]
    fn waits_grow_to_a_bound_and_an_asked_time_is_kept() {
        let random = SeededRandom::new(1);
        let seconds = |failures, asked| wait(failures, asked, &random).as_secs_f64();
        assert!((1.0..=1.2).contains(&seconds(1, None)));
        assert!((4.0..=4.8).contains(&seconds(3, None)));
        assert!((5.0..=6.0).contains(&seconds(30, None)));
        assert!((30.0..=36.0).contains(&seconds(1, Some(Duration::from_secs(30)))));
        assert!(seconds(1, Some(Duration::from_secs(999_999))) <= 4320.0);
    }

    #[test]
    fn a_closed_bucket_opens_when_its_time_has_come() {
        let buckets = Buckets::default();
        let app = AppName::parse("outlook").expect("name");
        let failure = Arc::new(Failure::NotFound);
        buckets.close(&app, Some("t1"), Duration::from_secs(10), failure.clone());
        assert!(buckets.closed(&app, Some("t1"), Duration::from_secs(9)).is_some());
        assert!(buckets.closed(&app, Some("t2"), Duration::from_secs(9)).is_none());
        assert!(buckets.closed(&app, Some("t1"), Duration::from_secs(10)).is_none());
        buckets.close(&app, None, Duration::from_secs(20), failure);
        assert!(buckets.closed(&app, Some("t2"), Duration::from_secs(11)).is_some());
        buckets.open(&app);
        assert!(buckets.closed(&app, Some("t2"), Duration::from_secs(11)).is_none());
    }
}
