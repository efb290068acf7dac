//! Counts how much memory the slots take, so that it can be bounded in bytes: a connection with tokens for
//! twelve resources takes fifty times as much as one without any.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::held::Held;
use crate::domain::connection::Attempt;
use crate::domain::token::HeldToken;
use crate::store::StoredConnection;

/// A slot, its place in the map, and what is known of troubles.
const OF_A_SLOT: usize = 1536;
/// A token without its text: its digest, times, and what the allocator adds.
const OF_A_TOKEN: usize = 256;
/// What is prepared of a token: the text around it in an answer, and in its records for one caller.
const OF_WHAT_IS_PREPARED: usize = 2176;
/// An attempt, with the codes and ids of an answer.
const OF_AN_ATTEMPT: usize = 512;
/// A scope, held once in words and once read.
const OF_A_SCOPE: usize = 160;

/// The bytes of all slots.
pub(in crate::refresh) type Total = Arc<AtomicUsize>;

/// One slot's part of the total, which goes with it.
#[derive(Default)]
pub(in crate::refresh) struct Weight {
    total: Total,
    bytes: AtomicUsize,
}

impl Weight {
    /// Of a slot that holds nothing yet.
    pub(in crate::refresh) fn new(total: &Total) -> Self {
        let weight = Weight { total: total.clone(), bytes: AtomicUsize::new(0) };
        weight.set(OF_A_SLOT);
        weight
    }

    #[cfg(test)]
    pub(in crate::refresh) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }

    /// From now on it is so much.
    pub(in crate::refresh) fn set(&self, bytes: usize) {
        // (What is added first is never seen to be below nothing.)
        self.total.fetch_add(bytes, Ordering::AcqRel);
        let before = self.bytes.swap(bytes, Ordering::AcqRel);
        self.total.fetch_sub(before, Ordering::AcqRel);
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.total.fetch_sub(*self.bytes.get_mut(), Ordering::AcqRel);
    }
}

/// About what a slot takes that holds this, and remembers this of the store.
pub(in crate::refresh) fn of(held: Option<&Held>, remembered: Option<(&Held, &StoredConnection)>) -> usize {
    let is_same = |held: &Held| remembered.is_some_and(|(remembered, _)| std::ptr::eq(remembered, held));
    let held = held.filter(|held| !is_same(held)).map_or(0, of_held);
    let remembered = remembered.map_or(0, |(held, sealed)| {
        of_held(held) + sealed.profile.len() + sealed.tokens.len() + sealed.grant.len()
    });
    OF_A_SLOT + held + remembered
}

fn of_held(held: &Held) -> usize {
    let profile = &held.connection.profile;
    let account = profile.account();
    let words = |scopes: &[String]| scopes.iter().map(|scope| scope.len() + OF_A_SCOPE / 2).sum::<usize>();
    let names = account.username.as_ref().map_or(0, String::len) + account.iss.len() + account.sub.len();
    let attempts: usize = profile.notable_attempts().map(of_attempt).sum();
    let tokens: usize = held.connection.tokens.iter().map(of_token).sum();
    size_of::<Held>()
        + 2 * words(profile.scopes_granted())
        + words(profile.scopes_requested())
        + words(profile.labels())
        + names
        + attempts
        + profile.pending_claims().map_or(0, str::len)
        + tokens
}

fn of_token(token: &HeldToken) -> usize {
    let scopes: usize = token.scopes.iter().map(|scope| scope.len() + OF_A_SCOPE / 2).sum();
    size_of::<HeldToken>() + OF_A_TOKEN + OF_WHAT_IS_PREPARED + token.access_token.expose().len() + scopes
}

fn of_attempt(attempt: &Attempt) -> usize {
    OF_AN_ATTEMPT + attempt.conclusion.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_the_sum_of_those_that_are_there() {
        let total = Total::default();
        let (one, other) = (Weight::new(&total), Weight::new(&total));
        assert_eq!(total.load(Ordering::Acquire), 2 * OF_A_SLOT);
        one.set(5000);
        one.set(7000);
        other.set(0);
        assert_eq!(total.load(Ordering::Acquire), 7000);
        drop(one);
        assert_eq!(total.load(Ordering::Acquire), 0);
    }
}
