//! A success answer to a token request, and what leaves this room of it.

use super::config::AuthorityConfig;
use super::failure::{LATER, ours};
use crate::authority::TokenAnswer;
use crate::authority::token_answer::{TokenSuccess, Unusable};
use crate::domain::account::Account;
use crate::domain::remarks::Remarks;
use crate::domain::scope::ScopeSet;
use crate::domain::time::Timestamp;
use crate::domain::verdict::{AuthorityError, AuthorityFailure};

/// A success answer to a token request.
pub(super) struct Answered {
    pub(super) read: Result<TokenSuccess, Unusable>,
    pub(super) requested_at: Timestamp,
    /// The authority's ids of the answer.
    pub(super) ids: AuthorityError,
}

impl Answered {
    /// Returns the tokens; an unusable access token is a failure.
    pub(super) fn usable(self, doing: &'static str) -> Result<Tokens, AuthorityFailure> {
        let Answered { read, requested_at, ids } = self;
        match read {
            Ok(success) => Ok(Tokens { success, requested_at, ids }),
            Err(unusable) => {
                let cause = refused_by(unusable.rule, &unusable.why);
                Err(AuthorityFailure { answer: ids, ..ours(doing, LATER, cause) })
            }
        }
    }
}

/// Returns the cause of a refused answer.
pub(super) fn refused_by(rule: &str, why: &str) -> String {
    format!("the answer is refused by the rule {rule}: {why}")
}

/// A success with a usable access token.
pub(super) struct Tokens {
    pub(super) success: TokenSuccess,
    pub(super) requested_at: Timestamp,
    pub(super) ids: AuthorityError,
}

impl Tokens {
    /// Makes the answer that leaves this room.
    pub(super) fn answer(
        self,
        account: Option<Account>,
        odd: Vec<String>,
        asked: &ScopeSet,
        config: &AuthorityConfig,
        cae: bool,
    ) -> TokenAnswer {
        let Tokens { success, requested_at, ids } = self;
        let rules = success.remarks.into_iter().map(str::to_owned).chain(odd).collect();
        TokenAnswer {
            access_token: success.access_token,
            requested_at,
            expires_in: success.expires_in,
            refresh_in: if config.refresh_ends_tokens {
                Some(success.expires_in)
            } else {
                success.refresh_in
            },
            refresh_token: success.refresh_token,
            refresh_token_ends_at: success.refresh_token_expires_in.map(|life| requested_at.plus(life)),
            scopes: success.scopes.unwrap_or_else(|| asked.to_words()),
            account,
            remarks: Remarks { rules, answer: ids },
            cae,
        }
    }
}

/// Returns the remark about an unreadable optional claim.
pub(super) fn claim_remark(claim: &str) -> String {
    format!("claim_{claim}_ignored")
}
