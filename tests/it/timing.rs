//! A connection that is not there and one that is none of the caller's business take equally long to refuse:
//! a two-sample Kolmogorov-Smirnov test of 10,000 answers each, at every door (`make timing`).

use std::time::Instant;

use crate::policy_doors::{Line, for_a_token};
use crate::world::{ALICE, Kept, Plan};

/// Answers of each kind at each door.
const SAMPLES: usize = 10_000;

/// The p-value of two samples of equal size under the hypothesis that they come from one distribution
/// (Kolmogorov-Smirnov, asymptotic form: Numerical Recipes §14.3).
fn p_value(one: &mut [u64], other: &mut [u64]) -> f64 {
    one.sort_unstable();
    other.sort_unstable();
    let (mut at, mut of_other, mut distance) = (0, 0, 0.0_f64);
    let size = one.len() as f64;
    while at < one.len() && of_other < other.len() {
        let value = one[at].min(other[of_other]);
        at += one[at..].iter().take_while(|sample| **sample <= value).count();
        of_other += other[of_other..].iter().take_while(|sample| **sample <= value).count();
        distance = distance.max((at as f64 - of_other as f64).abs() / size);
    }
    let root = (size / 2.0).sqrt();
    let lambda = (root + 0.12 + 0.11 / root) * distance;
    let term = |k: i32| {
        let sign = if k % 2 == 1 { 1.0 } else { -1.0 };
        sign * (-2.0 * f64::from(k * k) * lambda * lambda).exp()
    };
    if lambda < 0.2 { 1.0 } else { (2.0 * (1..=100).map(term).sum::<f64>()).clamp(0.0, 1.0) }
}

#[test]
fn the_test_tells_equal_from_unequal() {
    // Two halves of one series, and one of them moved by a tenth of its range.
    let series = |offset: u64| (0..2000_u64).map(|at| at * 7919 % 2003 + offset).collect::<Vec<_>>();
    assert!(p_value(&mut series(0), &mut series(0)) > 0.99);
    assert!(p_value(&mut series(0), &mut series(200)) < 0.01);
}

#[tokio::test]
#[ignore = "a statistic that wants the machine for itself: make timing"]
async fn missing_and_forbidden_take_equally_long_to_refuse() {
    let world = Plan::default().kept(Kept::Redis).start().await;
    world.connect("other/there", ALICE).await;
    let mut line = Line::open(&world.daemon.local).await;
    let mut worst = 1.0_f64;
    let [of_another, of_nobody] =
        ["other/there", "other/gone1"].map(|name| for_a_token(&world.reader_key, name));
    for asked in of_another.iter().zip(&of_nobody).map(<[_; 2]>::from) {
        let mut taken = [Vec::new(), Vec::new()];
        let name = asked[0].door;
        // The order of each pair alternates, so that neither is always the one that comes second.
        for number in 0..SAMPLES + 200 {
            for kind in if number % 2 == 0 { [0, 1] } else { [1, 0] } {
                let begun = Instant::now();
                let answer = line.ask(&world.daemon.local, asked[kind]).await;
                let time = u64::try_from(begun.elapsed().as_nanos()).expect("short");
                assert!(!answer.status.is_success(), "{name}: {}", answer.text());
                // The first ones warm up caches on both sides.
                if number >= 200 {
                    taken[kind].push(time);
                }
            }
        }
        let [there, absent] = &mut taken;
        let p = p_value(there, absent);
        let middle = |sorted: &[u64]| sorted[sorted.len() / 2] / 1000;
        eprintln!("{name}: p = {p:.3}; medians {} and {} µs", middle(there), middle(absent));
        worst = worst.min(p);
    }
    // With so many doors one of them is below 0.01 by chance more often than that (Bonferroni).
    let all = worst * of_nobody.len() as f64;
    assert!(all > 0.01, "p = {all}");
}
