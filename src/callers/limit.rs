//! How many requests a caller may make, in all and for one connection: token buckets, bounded in number.

use std::collections::HashMap;
use std::hash::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Caller;
use crate::domain::id::{CallerName, ConnectionKey};

/// How long to wait until the next request may succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RetryAfter(pub Duration);

impl RetryAfter {
    /// For the `Retry-After` header: whole seconds, rounded up, at least one.
    pub fn seconds(self) -> u64 {
        self.0.as_secs().saturating_add(u64::from(self.0.subsec_nanos() > 0)).max(1)
    }
}

/// A token bucket: `rate` requests a second, bursts of twice that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBucket {
    rate: u32,
    /// In billionths of a token, so that no fraction is ever lost; 2 * u32::MAX * 10^9 fits.
    credit: u64,
    updated_at: Duration,
}

/// One request, in billionths of a token.
const ONE: u64 = 1_000_000_000;
/// What a rate of nothing tells to wait.
const RATE_ZERO_RETRY: Duration = Duration::from_secs(60);

impl TokenBucket {
    /// A full bucket. `monotonic` is the clock's monotonic time, here and below.
    pub fn new(rate: u32, monotonic: Duration) -> Self {
        TokenBucket { rate, credit: burst(rate), updated_at: monotonic }
    }

    /// Takes one token.
    ///
    /// # Errors
    /// [`RetryAfter`] says when there will be one.
    pub fn try_take(&mut self, monotonic: Duration) -> Result<(), RetryAfter> {
        self.refill(monotonic);
        match self.credit.checked_sub(ONE) {
            Some(credit) => {
                self.credit = credit;
                Ok(())
            }
            None if self.rate == 0 => Err(RetryAfter(RATE_ZERO_RETRY)),
            None => {
                let missing = ONE - self.credit;
                Err(RetryAfter(Duration::from_nanos(missing.div_ceil(u64::from(self.rate)))))
            }
        }
    }

    /// Puts back what was taken for a request that was then refused elsewhere.
    pub fn give_back(&mut self) {
        self.credit = self.credit.saturating_add(ONE).min(burst(self.rate));
    }

    /// Whether it is as good as new.
    pub fn is_full(&mut self, monotonic: Duration) -> bool {
        self.refill(monotonic);
        self.credit == burst(self.rate)
    }

    /// From now on another rate; what is in the bucket stays, as far as it fits.
    pub fn set_rate(&mut self, rate: u32, monotonic: Duration) {
        self.refill(monotonic);
        self.rate = rate;
        self.credit = self.credit.min(burst(rate));
    }

    fn refill(&mut self, monotonic: Duration) {
        let passed = monotonic.saturating_sub(self.updated_at);
        let earned = passed.as_nanos().saturating_mul(u128::from(self.rate));
        let credit = u128::from(self.credit).saturating_add(earned);
        self.credit = u64::try_from(credit).unwrap_or(u64::MAX).min(burst(self.rate));
        self.updated_at = self.updated_at.max(monotonic);
    }
}

fn burst(rate: u32) -> u64 {
    2 * u64::from(rate) * ONE
}

/// Enough that two requests seldom meet; each is only a mutex and a map.
const SHARDS: usize = 16;
/// A bucket is full again after two idle seconds, so this is some 30,000 limited connections a second.
const DEFAULT_MOST_BUCKETS: usize = 65_536;
/// How often at most a shard that is at its cap is swept.
const SWEEP_EVERY: Duration = Duration::from_millis(100);

/// The buckets of all callers and of their connections. Their number is capped: a full bucket is as good as none and
/// is forgotten first. When even so a shard is at its cap, a connection that is new to it is not limited by itself,
/// only by its caller's own limit.
pub struct Limiter {
    shards: [Mutex<Shard>; SHARDS],
    most_per_shard: usize,
}

#[derive(Default)]
struct Shard {
    buckets: HashMap<BucketKey, TokenBucket>,
    swept_at: Option<Duration>,
}

#[derive(PartialEq, Eq, Hash)]
struct BucketKey {
    caller: CallerName,
    /// None is the caller's own bucket.
    connection: Option<ConnectionKey>,
}

impl Default for Limiter {
    fn default() -> Self {
        Limiter::new(DEFAULT_MOST_BUCKETS)
    }
}

impl Limiter {
    /// A limiter that remembers `most_buckets` at the most (at least one a shard).
    pub fn new(most_buckets: usize) -> Self {
        Limiter { shards: Default::default(), most_per_shard: (most_buckets / SHARDS).max(1) }
    }

    /// Counts one request of `caller` for `connection`. Without a limit it costs nothing. A refused request is not
    /// counted, neither here nor there.
    ///
    /// # Errors
    /// [`RetryAfter`] says when the next one may succeed.
    pub fn try_take(
        &self,
        caller: &Caller,
        connection: &ConnectionKey,
        monotonic: Duration,
    ) -> Result<(), RetryAfter> {
        let by_connection = caller.limits.connection_rate_limit.map(|rate| {
            (BucketKey { caller: caller.name.clone(), connection: Some(connection.clone()) }, rate)
        });
        if let Some((key, rate)) = &by_connection {
            self.take(key, *rate, monotonic)?;
        }
        let Err(refused) = self.try_take_caller(caller, monotonic) else { return Ok(()) };
        if let Some((key, _)) = by_connection
            && let Some(bucket) = self.shard(&key).buckets.get_mut(&key)
        {
            bucket.give_back();
        }
        Err(refused)
    }

    /// Counts one request of `caller` that is for no connection.
    ///
    /// # Errors
    /// [`RetryAfter`] says when the next one may succeed.
    pub fn try_take_caller(&self, caller: &Caller, monotonic: Duration) -> Result<(), RetryAfter> {
        let Some(rate) = caller.limits.rate_limit else { return Ok(()) };
        self.take(&BucketKey { caller: caller.name.clone(), connection: None }, rate, monotonic)
    }

    /// How many buckets are remembered.
    pub fn buckets(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).buckets.len())
            .sum()
    }

    fn take(&self, key: &BucketKey, rate: u32, monotonic: Duration) -> Result<(), RetryAfter> {
        let mut shard = self.shard(key);
        if let Some(bucket) = shard.buckets.get_mut(key) {
            if bucket.rate != rate {
                bucket.set_rate(rate, monotonic);
            }
            return bucket.try_take(monotonic);
        }
        let mut bucket = TokenBucket::new(rate, monotonic);
        let taken = bucket.try_take(monotonic);
        // A caller's own bucket is always kept: there are no more of them than callers in the configuration.
        if key.connection.is_none() || shard.has_room(self.most_per_shard, monotonic) {
            let key = BucketKey { caller: key.caller.clone(), connection: key.connection.clone() };
            shard.buckets.insert(key, bucket);
        }
        taken
    }

    fn shard(&self, key: &BucketKey) -> std::sync::MutexGuard<'_, Shard> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let at = (hasher.finish() % SHARDS as u64) as usize;
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn has_room(&mut self, most: usize, monotonic: Duration) -> bool {
        let rested = self.swept_at.is_none_or(|at| monotonic.saturating_sub(at) >= SWEEP_EVERY);
        if self.buckets.len() >= most && rested {
            self.buckets.retain(|_, bucket| !bucket.is_full(monotonic));
            self.swept_at = Some(monotonic);
        }
        self.buckets.len() < most
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::callers::Limits;
    use crate::domain::id::{AppName, ConnectionName};
    use crate::policy::CallerPolicy;

    fn caller(rate_limit: Option<u32>, connection_rate_limit: Option<u32>) -> Caller {
        let name = CallerName::parse("mail-sync").expect("a caller name");
        Caller {
            policy: CallerPolicy::new(name.clone(), vec![]),
            name,
            limits: Limits { rate_limit, connection_rate_limit },
        }
    }

    fn key(name: &str) -> ConnectionKey {
        ConnectionKey {
            app: AppName::parse("outlook").expect("an app name"),
            connection: ConnectionName::parse(name).expect("a name"),
        }
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_bucket_gives_a_burst_and_then_its_rate() {
        let mut bucket = TokenBucket::new(10, millis(0));
        for _ in 0..20 {
            assert_eq!(bucket.try_take(millis(0)), Ok(()));
        }
        assert_eq!(bucket.try_take(millis(0)), Err(RetryAfter(millis(100))));
        assert_eq!(bucket.try_take(millis(40)), Err(RetryAfter(millis(60))), "a refusal costs nothing");
        assert_eq!(bucket.try_take(millis(100)), Ok(()));
        assert!(bucket.try_take(millis(100)).is_err() && bucket.try_take(millis(50)).is_err());
        assert!(!bucket.is_full(millis(2099)) && bucket.is_full(millis(2100)));
        let served = (0..10_000).filter(|at| bucket.try_take(millis(10_000 + at)).is_ok()).count();
        assert_eq!(served, 20 + 99, "ten seconds at ten a second and one burst");
    }

    #[test]
    fn odd_rates_lose_no_fraction_and_the_wait_is_enough() {
        for rate in [1, 3, 7, 999, u32::MAX] {
            let mut bucket = TokenBucket::new(rate, Duration::ZERO);
            bucket.credit = 0;
            let Err(RetryAfter(wait)) = bucket.try_take(Duration::ZERO) else { panic!("{rate}") };
            assert!(bucket.clone().try_take(wait - Duration::from_nanos(1)).is_err(), "{rate}");
            assert_eq!(bucket.try_take(wait), Ok(()), "{rate}");
        }
        let mut none = TokenBucket::new(0, Duration::ZERO);
        assert_eq!(none.try_take(Duration::MAX), Err(RetryAfter(RATE_ZERO_RETRY)));
        assert!(TokenBucket::new(u32::MAX, Duration::ZERO).try_take(Duration::MAX).is_ok());
        let seconds = [0, 1, 1000, 1001].map(|wait| RetryAfter(millis(wait)).seconds());
        assert_eq!(seconds, [1, 1, 1, 2]);
    }

    #[test]
    fn one_hot_connection_does_not_use_up_its_caller_s_limit() {
        let (limiter, caller) = (Limiter::default(), caller(Some(5), Some(1)));
        let served = |name: &str, many: usize| {
            (0..many).filter(|_| limiter.try_take(&caller, &key(name), millis(0)).is_ok()).count()
        };
        assert_eq!(served("hot", 1000), 2);
        assert_eq!((served("a", 1000), served("b", 1000), served("c", 1000)), (2, 2, 2));
        assert_eq!(served("d", 1000), 2, "ten in all");
        assert_eq!(served("e", 1000), 0);
        // The caller's refusal was not counted against the connection.
        let later = (0..9).filter(|_| limiter.try_take(&caller, &key("e"), millis(400)).is_ok()).count();
        assert_eq!(later, 2);
    }

    #[test]
    fn without_a_limit_nothing_is_remembered() {
        let limiter = Limiter::default();
        assert!((0..1000).all(|_| limiter.try_take(&caller(None, None), &key("a"), millis(0)).is_ok()));
        assert_eq!(limiter.buckets(), 0);
    }

    #[test]
    fn a_reload_s_new_limit_holds_at_once() {
        let limiter = Limiter::default();
        assert!((0..100).all(|_| limiter.try_take_caller(&caller(Some(50), None), millis(0)).is_ok()));
        assert!(limiter.try_take_caller(&caller(Some(50), None), millis(0)).is_err());
        assert!(limiter.try_take_caller(&caller(Some(1), None), millis(10)).is_err());
        let served = |rate, at| {
            (0..1000)
                .filter(|_| limiter.try_take_caller(&caller(Some(rate), None), millis(at)).is_ok())
                .count()
        };
        assert_eq!((served(1, 60_000), served(100, 120_000), served(100, 180_000)), (2, 2, 200));
    }

    #[test]
    fn the_number_of_buckets_is_bounded_and_idle_ones_make_room() {
        let (limiter, caller) = (Limiter::new(160), caller(None, Some(1)));
        for at in 0..10_000 {
            assert!(limiter.try_take(&caller, &key(&format!("user-{at}")), millis(0)).is_ok());
        }
        assert!(limiter.buckets() <= 160, "{}", limiter.buckets());
        let full = limiter.buckets();
        for at in 0..1000 {
            let _ = limiter.try_take(&caller, &key(&format!("new-{at}")), millis(5000));
        }
        assert_eq!(limiter.buckets(), full, "the idle ones went, others came");
    }
}
