//! The attempts that a connection remembers. Nearly all of them are renewals that worked, so those take 16
//! bytes: many connections are kept in memory.

use super::{ATTEMPTS_KEPT, Attempt};
use crate::domain::time::Timestamp;
use crate::domain::verdict::AuthorityError;

/// What a renewal that worked is called.
const REFRESH: &str = "refresh";
const OK: &str = "ok";
const WORKS: &str = "the grant works";

/// The latest attempts, newest last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Attempts(Vec<Kept>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kept {
    /// A renewal that worked, of which there is nothing else to say.
    Worked(Timestamp),
    Other(Box<Attempt>),
}

impl Attempt {
    /// What made the connection: it worked.
    pub(super) fn established(action: &str, conclusion: &str, at: Timestamp) -> Self {
        Attempt {
            at,
            action: action.into(),
            outcome: OK.into(),
            conclusion: conclusion.into(),
            answer: AuthorityError::default(),
        }
    }

    /// A renewal that worked.
    pub(super) fn worked(at: Timestamp) -> Self {
        Attempt {
            at,
            action: REFRESH.into(),
            outcome: OK.into(),
            conclusion: WORKS.into(),
            answer: AuthorityError::default(),
        }
    }
}

impl Attempts {
    /// Adds one, and forgets the oldest beyond [`ATTEMPTS_KEPT`].
    pub(super) fn push(&mut self, attempt: Attempt) {
        let extra = (self.0.len() + 1).saturating_sub(ATTEMPTS_KEPT);
        self.0.drain(..extra);
        self.0.reserve_exact(1);
        self.0.push(attempt.into());
    }

    /// All of them, newest last.
    pub(super) fn to_vec(&self) -> Vec<Attempt> {
        self.0.iter().cloned().map(Attempt::from).collect()
    }

    /// Those that are more than a renewal that worked.
    pub(super) fn notable(&self) -> impl Iterator<Item = &Attempt> {
        self.0.iter().filter_map(|kept| match kept {
            Kept::Worked(_) => None,
            Kept::Other(attempt) => Some(&**attempt),
        })
    }
}

impl From<Attempt> for Kept {
    fn from(attempt: Attempt) -> Self {
        if attempt == Attempt::worked(attempt.at) {
            Kept::Worked(attempt.at)
        } else {
            Kept::Other(Box::new(attempt))
        }
    }
}

impl From<Kept> for Attempt {
    fn from(kept: Kept) -> Self {
        match kept {
            Kept::Worked(at) => Attempt::worked(at),
            Kept::Other(attempt) => *attempt,
        }
    }
}

impl From<Vec<Attempt>> for Attempts {
    fn from(attempts: Vec<Attempt>) -> Self {
        Attempts(attempts.into_iter().map(Kept::from).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_come_back_as_they_went_in_and_the_usual_one_is_small() {
        let at = Timestamp::from_unix_seconds;
        let odd = Attempt { outcome: "unclear".into(), ..Attempt::worked(at(2)) };
        let all = vec![Attempt::worked(at(1)), odd.clone(), Attempt::worked(at(3))];
        let kept = Attempts::from(all.clone());
        assert_eq!(kept.to_vec(), all);
        assert_eq!(kept.notable().collect::<Vec<_>>(), [&odd]);
        assert!(size_of::<Kept>() <= 16, "{}", size_of::<Kept>());
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let at = |number: usize| Timestamp::from_unix_seconds(i64::try_from(number).expect("small"));
        let mut kept = Attempts::default();
        (0..ATTEMPTS_KEPT + 3).for_each(|number| kept.push(Attempt::worked(at(number))));
        let times: Vec<Timestamp> = kept.to_vec().iter().map(|attempt| attempt.at).collect();
        assert_eq!(times, (3..ATTEMPTS_KEPT + 3).map(at).collect::<Vec<_>>());
    }
}
