//! A user's grant, stored with a connection.

use super::secret::RefreshToken;

/// A user's grant: the refresh token, and its predecessor until the new one has worked once.
#[derive(Clone)]
pub struct Grant {
    /// The newest refresh token.
    pub current: RefreshToken,
    /// The predecessor. It is dropped once `current` has worked, and then `current` itself is replaced.
    pub previous: Option<RefreshToken>,
    /// True if `current` came with an answer that was not believed and has not worked since: it may be
    /// another user's.
    pub is_doubtful: bool,
}

impl Grant {
    /// Makes the grant of a code redemption.
    pub fn new(refresh_token: RefreshToken) -> Self {
        Grant { current: refresh_token, previous: None, is_doubtful: false }
    }

    /// Returns the grant after `used` worked and the authority answered `answered`. An answer that has no
    /// refresh token, or repeats the one sent, means: keep the one you have (RFC 6749 §6).
    #[must_use]
    pub fn renewed(&self, used: &RefreshToken, answered: Option<RefreshToken>) -> Self {
        match answered {
            Some(next) if next != *used => {
                Grant { current: next, previous: Some(used.clone()), is_doubtful: false }
            }
            _ => Grant { current: used.clone(), previous: None, is_doubtful: false },
        }
    }

    /// Returns the grant after an answer to `used` of which only `next` is kept, because the rest was not
    /// believed. `next` goes first, since `used` may be spent. The token that last brought a believed answer
    /// stays beside it.
    #[must_use]
    pub fn replaced(&self, used: &RefreshToken, next: RefreshToken) -> Self {
        let believed = self.previous.as_ref().unwrap_or(used).clone();
        if believed == next {
            return Grant::new(next);
        }
        Grant { current: next, previous: Some(believed), is_doubtful: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> RefreshToken {
        RefreshToken::new(text)
    }

    #[test]
    fn at_most_two_generations_are_ever_kept() {
        let first = Grant::new(token("1"));
        let second = first.renewed(&first.current, Some(token("2")));
        assert!(second.current == token("2") && second.previous == Some(token("1")));
        let third = second.renewed(&second.current, Some(token("3")));
        assert!(third.current == token("3") && third.previous == Some(token("2")));
        assert!(!first.is_doubtful && !second.is_doubtful && !third.is_doubtful);
    }

    #[test]
    fn a_refresh_token_of_an_answer_that_is_not_believed_stands_before_the_last_one_that_was() {
        let grant = Grant::new(token("1"));
        let second = grant.replaced(&grant.current, token("2"));
        assert!(second.current == token("2") && second.previous == Some(token("1")));
        // The good one stays, however often this happens.
        let third = second.replaced(&second.current, token("3"));
        assert!(third.current == token("3") && third.previous == Some(token("1")));
        // The predecessor was tried and brought a new one.
        let fourth = third.replaced(&token("1"), token("4"));
        assert!(fourth.current == token("4") && fourth.previous == Some(token("1")));
        // An earlier token comes back.
        let back = second.replaced(&second.current, token("1"));
        assert!(back.current == token("1") && back.previous.is_none());
        assert!(second.is_doubtful && third.is_doubtful && fourth.is_doubtful && !back.is_doubtful);
        // The first believed answer ends the doubt.
        let healed = third.renewed(&third.current, Some(token("5")));
        assert!(healed.current == token("5") && healed.previous == Some(token("3")) && !healed.is_doubtful);
    }

    #[test]
    fn an_answer_without_a_refresh_token_keeps_the_one_that_worked() {
        let grant = Grant { current: token("2"), previous: Some(token("1")), is_doubtful: false };
        let kept = grant.renewed(&grant.current, None);
        assert!(kept.current == token("2") && kept.previous.is_none());
        let repaired = grant.renewed(&token("1"), Some(token("3")));
        assert!(repaired.current == token("3") && repaired.previous == Some(token("1")));
    }
}
