//! How many requests a caller may make, in all and for one connection: token buckets, bounded in number.

use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::hash::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use super::Caller;
use crate::domain::bucket::{self, Rate, TokenBucket};
use crate::domain::id::{CallerName, ConnectionKey};

/// Time until the next request may succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RetryAfter(pub Duration);

impl RetryAfter {
    /// For the `Retry-After` header: whole seconds, rounded up, at least one.
    pub fn seconds(self) -> u64 {
        self.0.as_secs().saturating_add(u64::from(self.0.subsec_nanos() > 0)).max(1)
    }
}

/// The wait at a rate of 0.
const RATE_ZERO_RETRY: Duration = Duration::from_secs(60);

/// `rate` requests a second, and bursts of twice that.
#[derive(Debug)]
struct Allowance {
    rate: u32,
    bucket: TokenBucket,
}

impl Allowance {
    /// A full one. `monotonic` is the clock's monotonic time, here and below.
    fn new(rate: u32, monotonic: Duration) -> Self {
        Allowance { rate, bucket: TokenBucket::full(Rate::whole(rate), monotonic) }
    }

    /// Counts one request at the present rate. If the rate has changed, the rest stays as far as it fits.
    fn take_at(&mut self, rate: u32, monotonic: Duration) -> Result<(), RetryAfter> {
        self.fill(monotonic);
        self.rate = rate;
        let taken = self.bucket.try_take(Rate::whole(rate), monotonic);
        taken.map_err(|wait| RetryAfter(wait.min(RATE_ZERO_RETRY)))
    }

    /// Counts so many requests, of which some may not have their time yet.
    fn reserve(&mut self, requests: u32, monotonic: Duration) {
        for _ in 0..requests {
            self.bucket.reserve(Rate::whole(self.rate), monotonic);
        }
    }

    /// Uncounts a request that was then refused elsewhere.
    fn give_back(&mut self) {
        self.bucket.give_back(bucket::ONE);
    }

    fn fill(&mut self, monotonic: Duration) {
        self.bucket.fill(Rate::whole(self.rate), monotonic);
    }

    /// How far it was from full when it was last filled.
    fn missing(&self) -> i64 {
        self.bucket.missing(Rate::whole(self.rate))
    }

    /// Returns true if it is like a new one.
    fn is_full(&mut self, monotonic: Duration) -> bool {
        self.fill(monotonic);
        self.missing() == 0
    }
}

/// Enough that two requests seldom meet; each is only a mutex and a map.
const SHARDS: usize = 16;
/// Buckets for one caller's connections, some 3 MB. A bucket is full again after two idle seconds, so this
/// allows some 8,000 connections a second; beyond that the fullest are forgotten.
const DEFAULT_MOST_BUCKETS: usize = 16_384;

/// Token buckets of all callers and of their connections. Each caller has a limited number, so that no caller
/// can push out another's. Full buckets are forgotten first, since they are like new ones, and then the
/// fullest: nobody frees a connection from its limit by naming many others.
pub struct Limiter {
    shards: [Mutex<Shard>; SHARDS],
    most_per_shard: usize,
}

/// Only callers with a limit have an entry, so there are at most as many as in the configuration.
type Shard = HashMap<CallerName, Buckets>;

#[derive(Default)]
struct Buckets {
    own: Option<Allowance>,
    of_connections: HashMap<ConnectionKey, Allowance>,
}

impl Default for Limiter {
    fn default() -> Self {
        Limiter::new(DEFAULT_MOST_BUCKETS)
    }
}

/// A caller whose request was counted. The API's work for callers requires one, so that no route forgets to
/// count.
pub struct Admitted<'l> {
    limiter: &'l Limiter,
    caller: Arc<Caller>,
}

impl Admitted<'_> {
    /// Returns the caller.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Counts more requests of the caller, for work that is worth as many. Nothing is refused now; the
    /// caller's next requests wait.
    pub fn charge(&self, requests: u32, monotonic: Duration) {
        let Some(rate) = self.caller.limits.rate_limit else { return };
        let mut shard = self.limiter.shard(&self.caller.name, None);
        let own = shard.get_mut(&self.caller.name).and_then(|buckets| buckets.own.as_mut());
        if let Some(own) = own {
            for _ in 0..requests {
                if own.take_at(rate, monotonic).is_err() {
                    break;
                }
            }
        }
    }

    /// Counts more requests of the caller for one connection, for one that has several in it. Nothing is
    /// refused now; what is beyond a rate has to come before the next request may.
    pub fn charge_for(&self, connection: &ConnectionKey, requests: u32, monotonic: Duration) {
        let limits = &self.caller.limits;
        if limits.rate_limit.is_some() {
            let mut shard = self.limiter.shard(&self.caller.name, None);
            let own = shard.get_mut(&self.caller.name).and_then(|buckets| buckets.own.as_mut());
            own.into_iter().for_each(|own| own.reserve(requests, monotonic));
        }
        if limits.connection_rate_limit.is_some() {
            let mut shard = self.limiter.shard(&self.caller.name, Some(connection));
            let buckets = shard.get_mut(&self.caller.name);
            let bucket = buckets.and_then(|buckets| buckets.of_connections.get_mut(connection));
            bucket.into_iter().for_each(|bucket| bucket.reserve(requests, monotonic));
        }
    }

    /// Counts the request against the limit of one connection too. If it is refused here, the caller's own
    /// count is restored: one hot connection does not use up what the others need.
    ///
    /// # Errors
    /// [`RetryAfter`] says when the next request may succeed.
    pub fn take_for(&self, connection: &ConnectionKey, monotonic: Duration) -> Result<(), RetryAfter> {
        let Some(rate) = self.caller.limits.connection_rate_limit else { return Ok(()) };
        let limiter = self.limiter;
        let taken = {
            let mut shard = limiter.shard(&self.caller.name, Some(connection));
            let buckets = &mut shard.entry(self.caller.name.clone()).or_default().of_connections;
            if !buckets.contains_key(connection) {
                make_room(buckets, limiter.most_per_shard, monotonic);
            }
            let bucket = buckets.entry(connection.clone()).or_insert_with(|| Allowance::new(rate, monotonic));
            bucket.take_at(rate, monotonic)
        };
        if taken.is_err() {
            self.give_back();
        }
        taken
    }

    /// Restores the caller's own count: the request was not the caller's doing, or is refused for another
    /// limit.
    pub fn give_back(&self) {
        let mut shard = self.limiter.shard(&self.caller.name, None);
        if let Some(own) = shard.get_mut(&self.caller.name).and_then(|buckets| buckets.own.as_mut()) {
            own.give_back();
        }
    }
}

impl Limiter {
    /// Makes a limiter that remembers this many connections of each caller at most (at least one in each
    /// shard).
    pub fn new(most_buckets: usize) -> Self {
        Limiter { shards: Default::default(), most_per_shard: (most_buckets / SHARDS).max(1) }
    }

    /// Counts one request of a caller, for any purpose. It costs nothing without a limit. A refused request
    /// is not counted.
    ///
    /// # Errors
    /// [`RetryAfter`] says when the next request may succeed.
    pub fn admit(&self, caller: Arc<Caller>, monotonic: Duration) -> Result<Admitted<'_>, RetryAfter> {
        if let Some(rate) = caller.limits.rate_limit {
            let mut shard = self.shard(&caller.name, None);
            let own = &mut shard.entry(caller.name.clone()).or_default().own;
            own.get_or_insert_with(|| Allowance::new(rate, monotonic)).take_at(rate, monotonic)?;
        }
        Ok(Admitted { limiter: self, caller })
    }

    /// Returns the number of remembered buckets.
    pub fn buckets(&self) -> usize {
        let all = self.shards.iter().map(|shard| shard.lock());
        all.map(|shard| {
            let many = |buckets: &Buckets| usize::from(buckets.own.is_some()) + buckets.of_connections.len();
            shard.values().map(many).sum::<usize>()
        })
        .sum()
    }

    fn shard(&self, caller: &CallerName, connection: Option<&ConnectionKey>) -> MutexGuard<'_, Shard> {
        let mut hasher = DefaultHasher::new();
        (caller, connection).hash(&mut hasher);
        let at = (hasher.finish() % SHARDS as u64) as usize;
        self.shards[at].lock()
    }
}

/// Makes room for one more: full buckets go first, then if needed the fuller half.
fn make_room(buckets: &mut HashMap<ConnectionKey, Allowance>, most: usize, monotonic: Duration) {
    if buckets.len() < most {
        return;
    }
    buckets.retain(|_, bucket| !bucket.is_full(monotonic));
    if buckets.len() < most {
        return;
    }
    let mut missing: Vec<i64> = buckets.values().map(Allowance::missing).collect();
    let middle = missing.len() / 2;
    let (_, middle, _) = missing.select_nth_unstable(middle);
    let (middle, mut left) = (*middle, buckets.len() / 2);
    // Of the buckets equal to the median, only as many go as needed.
    buckets.retain(|_, bucket| {
        let stays = bucket.missing() > middle || (bucket.missing() == middle && left > 0);
        left = left.saturating_sub(usize::from(stays));
        stays
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::callers::Limits;
    use crate::domain::id::{AppName, ConnectionName};
    use crate::policy::CallerPolicy;

    fn caller(rate_limit: Option<u32>, connection_rate_limit: Option<u32>) -> Arc<Caller> {
        named("mail-sync", rate_limit, connection_rate_limit)
    }

    fn named(name: &str, rate_limit: Option<u32>, connection_rate_limit: Option<u32>) -> Arc<Caller> {
        let name = CallerName::parse(name).expect("a caller name");
        Arc::new(Caller {
            policy: CallerPolicy::new(name.clone(), vec![]),
            name,
            limits: Limits { rate_limit, connection_rate_limit },
        })
    }

    fn try_take(
        limiter: &Limiter,
        caller: &Arc<Caller>,
        key: &ConnectionKey,
        monotonic: Duration,
    ) -> Result<(), RetryAfter> {
        limiter.admit(Arc::clone(caller), monotonic)?.take_for(key, monotonic)
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
    fn a_rate_of_0_and_a_part_of_a_second_say_when_to_come_back() {
        assert_eq!(Allowance::new(0, millis(0)).take_at(0, Duration::MAX), Err(RetryAfter(RATE_ZERO_RETRY)));
        let seconds = [0, 1, 1000, 1001].map(|wait| RetryAfter(millis(wait)).seconds());
        assert_eq!(seconds, [1, 1, 1, 2]);
    }

    #[test]
    fn one_hot_connection_does_not_use_up_its_caller_s_limit() {
        let (limiter, caller) = (Limiter::default(), caller(Some(5), Some(1)));
        let served = |name: &str, many: usize| {
            (0..many).filter(|_| try_take(&limiter, &caller, &key(name), millis(0)).is_ok()).count()
        };
        assert_eq!(served("hot", 1000), 2);
        assert_eq!((served("a", 1000), served("b", 1000), served("c", 1000)), (2, 2, 2));
        assert_eq!(served("d", 1000), 2, "ten in all");
        assert_eq!(served("e", 1000), 0);
        // The caller's refusal was not counted against the connection.
        let later = (0..9).filter(|_| try_take(&limiter, &caller, &key("e"), millis(400)).is_ok()).count();
        assert_eq!(later, 2);
    }

    #[test]
    fn what_was_more_work_than_one_request_is_taken_afterwards() {
        let (limiter, caller) = (Limiter::default(), caller(Some(5), None));
        let admitted = limiter.admit(caller.clone(), millis(0)).expect("the first");
        admitted.charge(6, millis(0));
        let left = (0..20).filter(|_| limiter.admit(caller.clone(), millis(0)).is_ok()).count();
        assert_eq!(left, 3, "of a burst of ten");
        admitted.charge(100, millis(0));
        let wait = limiter.admit(caller.clone(), millis(0)).map(|_| ()).expect_err("nothing is left");
        assert_eq!(wait, RetryAfter(millis(200)), "nobody is in debt");
    }

    #[test]
    fn a_request_with_several_in_it_counts_as_so_many() {
        let of = |rate, connection_rate| {
            let (limiter, caller) = (Limiter::default(), caller(rate, connection_rate));
            let admitted = limiter.admit(caller.clone(), millis(0)).expect("the first");
            admitted.take_for(&key("a"), millis(0)).expect("the first");
            admitted.charge_for(&key("a"), 19, millis(0));
            let next = |name: &str| {
                (0..).step_by(100).find(|at| try_take(&limiter, &caller, &key(name), millis(*at)).is_ok())
            };
            (next("a"), next("b"))
        };
        // Twenty at five a second, of which a burst of ten was there: the next but one is due at 2.2 s.
        assert_eq!(of(Some(5), None), (Some(2200), Some(2400)));
        // Another connection's rate is its own.
        assert_eq!(of(None, Some(5)), (Some(2200), Some(0)));
        assert_eq!(of(None, None), (Some(0), Some(0)));
    }

    #[test]
    fn without_a_limit_nothing_is_remembered() {
        let limiter = Limiter::default();
        assert!((0..1000).all(|_| try_take(&limiter, &caller(None, None), &key("a"), millis(0)).is_ok()));
        assert_eq!(limiter.buckets(), 0);
    }

    #[test]
    fn a_reload_s_new_limit_holds_at_once() {
        let limiter = Limiter::default();
        assert!((0..100).all(|_| limiter.admit(caller(Some(50), None), millis(0)).is_ok()));
        assert!(limiter.admit(caller(Some(50), None), millis(0)).is_err());
        assert!(limiter.admit(caller(Some(1), None), millis(10)).is_err());
        let served = |rate, at| {
            (0..1000).filter(|_| limiter.admit(caller(Some(rate), None), millis(at)).is_ok()).count()
        };
        assert_eq!((served(1, 60_000), served(100, 120_000), served(100, 180_000)), (2, 2, 200));
    }

    #[test]
    fn the_number_of_buckets_is_bounded_and_idle_ones_make_room() {
        let (limiter, caller) = (Limiter::new(160), caller(None, Some(1)));
        for at in 0..10_000 {
            assert!(try_take(&limiter, &caller, &key(&format!("user-{at}")), millis(0)).is_ok());
        }
        assert!(limiter.buckets() <= 160, "{}", limiter.buckets());
        for at in 0..1000 {
            assert!(try_take(&limiter, &caller, &key(&format!("new-{at}")), millis(5000)).is_ok());
        }
        assert!((16..=160).contains(&limiter.buckets()), "{}", limiter.buckets());
    }

    #[test]
    fn naming_many_connections_lifts_nobody_s_limit() {
        let (limiter, flooder) = (Limiter::new(160), named("flooder", None, Some(1)));
        let other = caller(None, Some(1));
        for caller in [&flooder, &other] {
            while try_take(&limiter, caller, &key("hot"), millis(0)).is_ok() {}
        }
        for at in 0..10_000 {
            assert!(try_take(&limiter, &flooder, &key(&format!("user-{at}")), millis(0)).is_ok());
        }
        assert!(try_take(&limiter, &other, &key("hot"), millis(0)).is_err(), "another caller's is kept");
        assert!(try_take(&limiter, &flooder, &key("hot"), millis(0)).is_err(), "the emptiest are kept");
        assert!(limiter.buckets() <= 2 * 160, "{}", limiter.buckets());
    }
}
