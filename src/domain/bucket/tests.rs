//! What a bucket gives, and when.

use super::*;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn a_bucket_gives_a_burst_and_then_its_rate() {
    let rate = Rate::whole(10);
    let mut bucket = TokenBucket::full(rate, millis(0));
    for _ in 0..20 {
        assert_eq!(bucket.try_take(rate, millis(0)), Ok(()));
    }
    assert_eq!(bucket.try_take(rate, millis(0)), Err(millis(100)));
    assert_eq!(bucket.try_take(rate, millis(40)), Err(millis(60)), "a refusal costs nothing");
    assert_eq!(bucket.try_take(rate, millis(100)), Ok(()));
    assert!(bucket.try_take(rate, millis(100)).is_err() && bucket.try_take(rate, millis(50)).is_err());
    bucket.fill(rate, millis(2099));
    assert!(bucket.missing(rate) > 0);
    bucket.fill(rate, millis(2100));
    assert_eq!(bucket.missing(rate), 0);
    let served = (0..10_000).filter(|at| bucket.try_take(rate, millis(10_000 + at)).is_ok()).count();
    assert_eq!(served, 20 + 99, "ten seconds at ten a second and one burst");
}

#[test]
fn odd_rates_lose_no_fraction_and_the_wait_is_enough() {
    for a_second in [1, 3, 7, 999, u32::MAX] {
        let (rate, mut bucket) = (Rate::whole(a_second), TokenBucket::empty(Duration::ZERO));
        let wait = bucket.try_take(rate, Duration::ZERO).expect_err("it is empty");
        let early = wait - Duration::from_nanos(1);
        assert!(bucket.clone().try_take(rate, early).is_err(), "{a_second}");
        assert_eq!(bucket.try_take(rate, wait), Ok(()), "{a_second}");
    }
    let (none, most) = (Rate::whole(0), Rate::whole(u32::MAX));
    assert_eq!(TokenBucket::full(none, Duration::ZERO).try_take(none, Duration::MAX), Err(Duration::MAX));
    assert!(TokenBucket::full(most, Duration::ZERO).try_take(most, Duration::MAX).is_ok());
}

#[test]
fn an_empty_one_fills_at_its_rate_and_a_pause_is_no_burst() {
    let (rate, mut bucket) = (Rate::new(10.0, 10.0), TokenBucket::empty(Duration::ZERO));
    let mut taken =
        |from: u64, until: u64| (from..until).filter(|at| bucket.try_take(rate, millis(*at)).is_ok()).count();
    assert_eq!(taken(0, 1), 0);
    assert_eq!(taken(1, 1001), 10);
    assert_eq!(taken(1001, 3001), 20);
    assert_eq!(taken(1_000_000, 1_000_050), 10);
}

#[test]
fn reserved_tokens_come_evenly_and_a_pause_is_not_made_up_for() {
    let (rate, now) = (Rate::new(4.0, 1.0), Duration::from_secs(7));
    let mut bucket = TokenBucket::full(rate, now);
    let waits = [(); 4].map(|()| bucket.reserve(rate, now));
    assert_eq!(waits, [0, 250, 500, 750].map(millis));
    assert_eq!(bucket.reserve(rate, now + millis(750)), millis(250));
    let later = now + Duration::from_secs(60);
    assert_eq!([(); 2].map(|()| bucket.reserve(rate, later)), [0, 250].map(millis));
}

#[test]
fn a_part_is_what_is_above_the_floor_and_what_comes_back_is_no_more_than_it_holds() {
    let (rate, now) = (Rate::new(1.0, 2.5), Duration::ZERO);
    let mut bucket = TokenBucket::full(rate, now);
    let parts = [(); 4].map(|()| bucket.take_part(billionths(0.5)));
    assert_eq!(parts, [ONE, ONE, 0, 0]);
    assert_eq!((bucket.take_part(0), bucket.left()), (ONE / 2, 0));
    for _ in 0..9 {
        bucket.give_back(ONE);
    }
    bucket.fill(rate, now);
    assert_eq!((bucket.left(), bucket.missing(rate)), (billionths(2.5), 0));
}
