//! Which of a connection's tokens are kept.

use std::collections::BTreeMap;

use crate::domain::token::HeldToken;

/// Shared tokens kept for one connection: one per resource and kind (under continuous access evaluation or
/// not), and no caller uses more resources than this.
const MOST_TOKENS: usize = 8;
/// Beside these, tokens that callers got for their challenges: one a caller and resource.
const MOST_OWN: usize = 8;

/// Whether a connection keeps only one of these two tokens.
pub(super) fn is_in_place_of(one: &HeldToken, other: &HeldToken) -> bool {
    one.resource == other.resource && one.got_for == other.got_for && one.cae == other.cae
}

/// Keeps so many shared tokens and so many that callers got for their challenges; these never push out a
/// shared one. Of the shared ones the oldest (the first) are dropped. Of the others, the oldest of the caller
/// with the most is dropped, so a caller that asks for many pushes out its own.
pub(super) fn drop_oldest(tokens: &mut Vec<HeldToken>) {
    while tokens.iter().filter(|token| token.got_for.is_none()).count() > MOST_TOKENS {
        remove_first(tokens, |token| token.got_for.is_none());
    }
    loop {
        let mut of_callers = BTreeMap::<_, usize>::new();
        tokens
            .iter()
            .filter_map(|token| token.got_for.clone())
            .for_each(|owner| *of_callers.entry(owner).or_default() += 1);
        if of_callers.values().sum::<usize>() <= MOST_OWN {
            return;
        }
        let Some(most) = of_callers.values().max().copied() else { return };
        remove_first(tokens, |token| {
            token.got_for.as_ref().is_some_and(|owner| of_callers.get(owner) == Some(&most))
        });
    }
}

fn remove_first(tokens: &mut Vec<HeldToken>, is_meant: impl Fn(&HeldToken) -> bool) {
    if let Some(at) = tokens.iter().position(is_meant) {
        tokens.remove(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::CallerName;
    use crate::domain::secret::AccessToken;
    use crate::domain::time::Timestamp;

    /// Tokens in the order they came in, each of a caller or (`-`) everybody's; and the numbers of those that
    /// are kept.
    fn kept(owners: &str) -> Vec<usize> {
        let mut tokens = Vec::new();
        for (number, owner) in owners.split_whitespace().enumerate() {
            tokens.push(HeldToken {
                access_token: AccessToken::new("t"),
                digest: number.to_string(),
                uti: None,
                issued_at: Timestamp::from_unix_seconds(0),
                expires_at: Timestamp::from_unix_seconds(3600),
                refresh_at: None,
                scopes: Vec::new(),
                resource: Some(number.to_string()),
                answers_claims: None,
                got_for: (owner != "-").then(|| CallerName::parse(owner).expect("a name")),
                cae: false,
            });
            drop_oldest(&mut tokens);
        }
        tokens.iter().map(|token| token.digest.parse().expect("a number")).collect()
    }

    #[test]
    fn a_caller_that_asks_for_many_pushes_out_its_own_and_nobody_elses() {
        assert_eq!(kept("- - - - - - - - - -"), (2..10).collect::<Vec<_>>(), "the latest of everybody's");
        assert_eq!(kept("- a a a a a a a a a"), [0, 2, 3, 4, 5, 6, 7, 8, 9], "everybody's stays");
        assert_eq!(kept("b a a a a a a a a a"), [0, 3, 4, 5, 6, 7, 8, 9], "another's stays");
        assert_eq!(kept("b b c a a a a a a a"), [0, 1, 2, 5, 6, 7, 8, 9], "two others' stay");
        assert_eq!(
            kept("a b c d e f g h i"),
            (1..9).collect::<Vec<_>>(),
            "where all have as many the oldest goes"
        );
    }
}
