//! Operators' decisions about an app's client credentials, and the check that allows them. Pure: the views of
//! all replicas are arguments.
//!
//! The one hard problem: the last credential that works must not be retired, and the replica that an operator
//! asks knows only what it has seen itself. Therefore every replica reports its view, and the decision
//! considers all views.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::credential::Fingerprint;
use super::time::Timestamp;

/// A credential counts as working if the authority accepted it, from any replica, within this time.
pub const LATELY: Duration = Duration::from_secs(3600);
/// Most retired credentials that are remembered: more than any app has at a time.
const MOST_RETIRED: usize = 64;

/// An operator's decision about a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Try this credential first, as long as the authority accepts it.
    Promote,
    /// Use this credential no more, on any replica.
    Retire,
}

/// Operators' decisions about an app's credentials. Credentials are identified by content, so the replacement
/// of a retired one is a new credential.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choices {
    /// The promoted credential, and since when.
    pub promoted: Option<(Fingerprint, Timestamp)>,
    /// Retired credentials, the latest last.
    pub retired: Vec<Fingerprint>,
    /// Number of decisions so far. Of two records, the one with more decisions is the later.
    #[serde(default)]
    pub decisions: u64,
}

/// One replica's view of one credential of an app. Every member has a default, because replicas of another
/// version may not send it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Fingerprint of the credential.
    #[serde(default)]
    pub fingerprint: Fingerprint,
    /// Name of its state.
    #[serde(default)]
    pub state: String,
    /// True if it is tried first.
    #[serde(default)]
    pub in_use: bool,
    /// True if the authority has not rejected it and it has not expired. ([`Choices`] says whether it is
    /// retired.)
    #[serde(default)]
    pub usable: bool,
    /// True if it is configured, and not a fallback that will be dropped.
    #[serde(default)]
    pub stays: bool,
    /// When the authority last accepted it.
    #[serde(default)]
    pub accepted_at: Option<Timestamp>,
    /// When a token was last obtained with it.
    #[serde(default)]
    pub used_at: Option<Timestamp>,
}

/// Reason why a choice is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Against {
    /// The authority has not accepted the credential, or has rejected it since.
    NotTaken,
    /// A replica would have no working credential left. Holds that replica's index in the list of views.
    NoneLeft(usize),
}

impl Choices {
    /// Applies an operator's decision about `one`, or returns why it is refused. `replicas` holds the view of
    /// every serving replica; the replica that the operator asked is first. Call this inside a change of the
    /// stored choices: it then checks the stored state, so that of two operators who retire the last two
    /// credentials only one succeeds.
    pub fn decide(
        &mut self,
        choice: Choice,
        one: Fingerprint,
        replicas: &[Vec<View>],
        now: Timestamp,
    ) -> Result<(), Against> {
        match choice {
            Choice::Promote => {
                let mut asked = replicas.first().into_iter().flatten();
                if !asked.any(|view| view.fingerprint == one && view.usable && view.accepted_at.is_some()) {
                    return Err(Against::NotTaken);
                }
                self.retired.retain(|other| *other != one);
                self.promoted = Some((one, now));
            }
            Choice::Retire => {
                let has_it = |replica: &[View]| replica.iter().any(|view| view.fingerprint == one);
                let cannot =
                    |replica: &Vec<View>| has_it(replica) && !self.does_without(replica, one, replicas, now);
                if let Some(at) = replicas.iter().position(cannot) {
                    return Err(Against::NoneLeft(at));
                }
                self.promoted = self.promoted.filter(|(promoted, _)| *promoted != one);
                self.retired.retain(|other| *other != one);
                self.retired.push(one);
                let extra = self.retired.len().saturating_sub(MOST_RETIRED);
                self.retired.drain(..extra);
            }
        }
        self.decisions = self.decisions.saturating_add(1);
        Ok(())
    }

    /// Merges two copies of the decisions after a store lost writes. The copy with more decisions wins, the
    /// other's retirements are kept, and the latest promotion counts.
    #[must_use]
    pub fn merged(&self, other: &Choices) -> Choices {
        let (more, less) = if self.decisions < other.decisions { (other, self) } else { (self, other) };
        let mut merged = more.clone();
        merged.promoted = more.promoted.into_iter().chain(less.promoted).max_by_key(|(_, at)| *at);
        let lost = less.retired.iter().filter(|one| !more.retired.contains(one));
        merged.retired.extend(lost);
        merged.retired.retain(|one| merged.promoted.is_none_or(|(promoted, _)| promoted != *one));
        if merged.promoted != more.promoted || merged.retired != more.retired {
            merged.decisions = merged.decisions.saturating_add(1);
        }
        merged
    }

    /// Returns true if a replica has another good credential. Any replica may have seen the authority accept
    /// it: a replica that has not asked for a token yet has seen nothing.
    fn does_without(
        &self,
        replica: &[View],
        one: Fingerprint,
        replicas: &[Vec<View>],
        now: Timestamp,
    ) -> bool {
        let taken_lately = |another: Fingerprint| {
            replicas.iter().flatten().any(|view| {
                view.fingerprint == another
                    && view.usable
                    && view.accepted_at.is_some_and(|at| at.plus(LATELY) > now)
            })
        };
        replica.iter().any(|view| {
            let is_another = view.fingerprint != one && !self.retired.contains(&view.fingerprint);
            is_another && view.usable && view.stays && taken_lately(view.fingerprint)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);
    const A: Fingerprint = [1; 32];
    const B: Fingerprint = [2; 32];

    /// A configured credential that the authority accepted a moment ago.
    fn good(fingerprint: Fingerprint) -> View {
        View { fingerprint, usable: true, stays: true, accepted_at: Some(NOW), ..View::default() }
    }

    fn retire(replicas: &[Vec<View>]) -> Result<(), Against> {
        Choices::default().decide(Choice::Retire, A, replicas, NOW)
    }

    #[test]
    fn one_is_retired_when_every_replica_has_another_that_is_good() {
        assert_eq!(retire(&[vec![good(A), good(B)]]), Ok(()));
        assert_eq!(retire(&[vec![good(A)]]), Err(Against::NoneLeft(0)));
        assert_eq!(retire(&[vec![good(A), View { usable: false, ..good(B) }]]), Err(Against::NoneLeft(0)));
        assert_eq!(
            retire(&[vec![good(A), View { stays: false, ..good(B) }]]),
            Err(Against::NoneLeft(0)),
            "it will go"
        );
        assert_eq!(retire(&[vec![good(A), good(B)], vec![good(A)]]), Err(Against::NoneLeft(1)));
    }

    #[test]
    fn what_was_taken_long_ago_is_no_reason_and_what_another_replica_saw_is() {
        let at = |seconds| View { accepted_at: Some(NOW.minus(Duration::from_secs(seconds))), ..good(B) };
        assert_eq!(retire(&[vec![good(A), at(3599)]]), Ok(()));
        assert_eq!(retire(&[vec![good(A), at(3600)]]), Err(Against::NoneLeft(0)));
        let quiet = View { accepted_at: None, ..good(B) };
        assert_eq!(retire(&[vec![good(A), good(B)], vec![good(A), quiet.clone()]]), Ok(()));
        assert_eq!(retire(&[vec![good(A), quiet]]), Err(Against::NoneLeft(0)));
    }

    #[test]
    fn of_the_last_two_only_one_goes_and_it_can_come_back() {
        let both = [vec![good(A), good(B)]];
        let mut choices = Choices::default();
        assert_eq!(choices.decide(Choice::Retire, A, &both, NOW), Ok(()));
        assert_eq!(choices.decide(Choice::Retire, B, &both, NOW), Err(Against::NoneLeft(0)));
        assert_eq!(choices.decisions, 1, "what is refused changes nothing");
        assert_eq!(choices.decide(Choice::Promote, A, &both, NOW), Ok(()));
        assert_eq!(choices, Choices { promoted: Some((A, NOW)), retired: vec![], decisions: 2 });
    }

    #[test]
    fn a_replica_that_does_not_have_it_has_no_say() {
        let other = View { accepted_at: None, ..good([3; 32]) };
        assert_eq!(retire(&[vec![good(A), good(B)], vec![other], vec![]]), Ok(()));
    }

    #[test]
    fn of_decisions_that_a_store_lost_and_those_made_since_both_hold() {
        let later = NOW.plus(Duration::from_secs(1));
        let known = Choices { promoted: Some((B, NOW)), retired: vec![A], decisions: 5 };
        let same = known.merged(&known);
        assert_eq!(same, known, "nothing was lost");
        assert_eq!(known.merged(&Choices::default()), known);
        let since = Choices { promoted: None, retired: vec![[3; 32]], decisions: 1 };
        let both = Choices { promoted: Some((B, NOW)), retired: vec![A, [3; 32]], decisions: 6 };
        assert_eq!((known.merged(&since), since.merged(&known)), (both.clone(), both));
        // A credential that a later decision promoted again stays in service.
        let back = Choices { promoted: Some((A, later)), retired: vec![], decisions: 1 };
        assert_eq!(
            known.merged(&back),
            Choices { promoted: Some((A, later)), retired: vec![], decisions: 6 }
        );
        // A different fifth decision, made after this one was lost.
        let fifth = Choices { promoted: None, retired: vec![[4; 32]], decisions: 5 };
        assert_eq!(known.merged(&fifth).retired, [A, [4; 32]]);
        assert_eq!(known.merged(&fifth).decisions, 6);
    }

    #[test]
    fn only_what_the_authority_takes_is_promoted() {
        for other in [View { usable: false, ..good(B) }, View { accepted_at: None, ..good(B) }] {
            let replicas = [vec![good(A), other], vec![good(B)]];
            let refused = Choices::default().decide(Choice::Promote, B, &replicas, NOW);
            assert_eq!(refused, Err(Against::NotTaken));
        }
    }

    #[test]
    fn as_many_retired_ones_are_remembered_as_anybody_has() {
        let mut choices = Choices::default();
        for number in 10..=100 {
            let one = [number; 32];
            choices.decide(Choice::Retire, one, &[vec![good(A), good(one)]], NOW).expect("another is good");
        }
        assert_eq!((choices.retired.len(), choices.retired[63]), (64, [100; 32]));
    }
}
