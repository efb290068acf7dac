//! To whom a connection's tokens were handed out. It stands beside what a hand-out looks at anyway, so it
//! costs a comparison of names; it is no record, and goes when the slot goes.

use std::time::Duration;

use crate::domain::id::CallerName;

/// Most callers that are remembered of one connection.
const MOST: usize = 8;

/// The last hand-out to each of a connection's latest callers.
#[derive(Default)]
pub(in crate::refresh) struct HandOuts(Vec<(CallerName, Duration)>);

impl HandOuts {
    /// A token is handed out to this caller at `now` (monotonic).
    pub(in crate::refresh) fn note(&mut self, caller: &CallerName, now: Duration) {
        match self.0.iter_mut().find(|(known, _)| known == caller) {
            Some((_, last)) => *last = now,
            None => self.add(caller.clone(), now),
        }
    }

    /// Adds a caller, in place of the one that was longest without a token if there are too many.
    fn add(&mut self, caller: CallerName, now: Duration) {
        if self.0.len() >= MOST
            && let Some(oldest) = (0..self.0.len()).min_by_key(|at| self.0[*at].1)
        {
            self.0.swap_remove(oldest);
        }
        // (Mostly there is one, and many connections are in memory.)
        self.0.reserve_exact(1);
        self.0.push((caller, now));
    }

    /// The callers, and when each got a token last (monotonic).
    pub(in crate::refresh) fn all(&self) -> &[(CallerName, Duration)] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_caller_has_its_last_hand_out_and_the_longest_without_one_is_forgotten() {
        let caller = |number: usize| CallerName::parse(&format!("caller-{number}")).expect("a name");
        let at = |seconds: usize| Duration::from_secs(seconds as u64);
        let mut hand_outs = HandOuts::default();
        (0..MOST).for_each(|number| hand_outs.note(&caller(number), at(number)));
        hand_outs.note(&caller(0), at(100));
        assert_eq!(hand_outs.all().len(), MOST);
        hand_outs.note(&caller(MOST), at(101));
        let mut known = hand_outs.all().to_vec();
        known.sort_by_key(|(_, last)| *last);
        let mut expected: Vec<_> = (2..MOST).map(|number| (caller(number), at(number))).collect();
        expected.extend([(caller(0), at(100)), (caller(MOST), at(101))]);
        assert_eq!(known, expected, "the second caller was longest without one");
    }
}
