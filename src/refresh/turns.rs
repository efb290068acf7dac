//! Deals out a scarce supply in turn, as a pure function.

use std::collections::BTreeMap;

/// Why a shard gets no more in this round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dry {
    /// Its own supply is used up.
    Its,
    /// The shared supply is used up.
    Everybodys,
}

/// Deals out the supply of `take`: one to each shard that `wants` some (shard, how many) in turn, from
/// `first` on, until all have enough or the shared supply is used up. Returns each shard's share, and the
/// shard that is first the next time: the one for which the shared supply did not suffice. So no shard gets a
/// second one before each waiting shard has had one.
pub(super) fn deal<T>(
    wants: &BTreeMap<u8, usize>,
    first: u8,
    mut take: impl FnMut(u8) -> Result<T, Dry>,
) -> (BTreeMap<u8, Vec<T>>, u8) {
    let mut dealt: BTreeMap<u8, Vec<T>> = BTreeMap::new();
    let mut waiting: Vec<(u8, usize)> =
        wants.range(first..).chain(wants.range(..first)).map(|(shard, wants)| (*shard, *wants)).collect();
    while !waiting.is_empty() {
        let mut still = Vec::new();
        for (shard, wants) in waiting {
            if wants == 0 {
                continue;
            }
            match take(shard) {
                Ok(one) => {
                    dealt.entry(shard).or_default().push(one);
                    still.push((shard, wants - 1));
                }
                Err(Dry::Its) => {}
                Err(Dry::Everybodys) => return (dealt, shard),
            }
        }
        waiting = still;
    }
    (dealt, first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARDS: u8 = 16;

    /// How many each gets over so many rounds, of which one gives `of_round(round)`.
    fn after(
        rounds: usize,
        wants: &BTreeMap<u8, usize>,
        of_round: impl Fn(usize) -> usize,
    ) -> BTreeMap<u8, usize> {
        let mut had: BTreeMap<u8, usize> = wants.keys().map(|shard| (*shard, 0)).collect();
        let mut first = 5;
        for round in 0..rounds {
            let mut left = of_round(round);
            let (dealt, next) = deal(wants, first, |_| {
                left = left.checked_sub(1).ok_or(Dry::Everybodys)?;
                Ok(())
            });
            first = next;
            for (shard, dealt) in dealt {
                *had.entry(shard).or_default() += dealt.len();
            }
        }
        had
    }

    /// Whatever a round gives, one in several rounds or many in one: nobody is ahead by more than one.
    #[test]
    fn every_shard_gets_its_turn_however_little_there_is() {
        for every in 1..=20 {
            for gives in 1..=40 {
                let wants: BTreeMap<u8, usize> = (0..SHARDS).map(|shard| (shard, 64)).collect();
                for rounds in [1, 7, 40] {
                    let had = after(rounds, &wants, |round| if round % every == 0 { gives } else { 0 });
                    let (least, most) = (had.values().min(), had.values().max());
                    assert!(
                        most.zip(least).is_some_and(|(most, least)| most - least <= 1),
                        "{every} {gives}: {had:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn who_wants_less_or_has_none_of_its_own_takes_nothing_from_the_others() {
        let wants = BTreeMap::from([(0, 1), (3, 9), (7, 9), (9, 0)]);
        let mut left = 10;
        let (dealt, first) = deal(&wants, 4, |shard| match shard {
            7 => Err(Dry::Its),
            _ => {
                left -= 1;
                if left < 3 { Err(Dry::Everybodys) } else { Ok(left) }
            }
        });
        let got: Vec<(u8, usize)> = dealt.iter().map(|(shard, dealt)| (*shard, dealt.len())).collect();
        assert_eq!((got, first), (vec![(0, 1), (3, 6)], 3));
    }
}
