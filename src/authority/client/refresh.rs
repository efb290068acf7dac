//! The use of a refresh token, and what its answer means for the grant.

use super::OpenIdAuthority;
use super::answered::{Answered, Tokens, claim_remark, refused_by};
use super::failure::{LATER, ours};
use super::token_call::{TokenCall, plain};
use crate::authority::classify::Asked;
use crate::authority::discovery::Metadata;
use crate::authority::id_token::{Renewal, UnverifiedToken};
use crate::authority::token_answer::{TokenSuccess, Unusable};
use crate::authority::{Fate, RefreshRequest, Refreshed, RefusedAnswer};
use crate::domain::account::Account;
use crate::domain::verdict::{AuthorityError, AuthorityFailure, Disposition};

impl OpenIdAuthority {
    pub(super) async fn use_refresh_token(
        &self,
        request: RefreshRequest<'_>,
    ) -> Result<Refreshed, AuthorityFailure> {
        let doing = "refreshing a grant";
        let cae = self.app.is_cae(request.cae);
        let claims = self.app.claims(doing, request.claims, cae)?;
        let metadata = self.documents.metadata(doing).await?;
        let mut fields = vec![
            ("grant_type", plain("refresh_token")),
            ("refresh_token", plain(request.refresh_token.expose())),
            ("scope", plain(request.scopes.wire())),
        ];
        if let Some(claims) = claims {
            fields.push(("claims", plain(claims)));
        }
        let endpoint = metadata.token_endpoint.clone();
        self.admit(doing, self.grants_of(request.account), &endpoint, self.app.config.timeout).await?;
        let candidates = self.credentials().candidates(self.parts.clock.now());
        let (asked, tenant) = (Asked::Refresh, request.account.tid.clone());
        let account = Some(request.account.sub.clone());
        let call = TokenCall { doing, asked, endpoint, fields, candidates, is_use: true, tenant, account };
        let answered = self.token_call(&metadata, call).await.map_err(used_all_the_same)?;
        // Whatever part is not believed: it was a success, so the refresh token was used.
        let Answered { read, requested_at, ids } = answered;
        let mut success = match read {
            Ok(success) => success,
            Err(Unusable { rule, why, refresh_token, id_tokens, is_whole }) => {
                if id_tokens.iter().any(|token| self.is_anothers(token, &metadata, request.account)) {
                    return Ok(another_account(doing, ids).into());
                }
                let fate = match refresh_token {
                    Some(refresh_token) => Fate::Replaced(refresh_token),
                    None if is_whole => Fate::AsBefore,
                    None => Fate::Unknown,
                };
                return Ok(RefusedAnswer::new(doing, rule.to_owned(), why, fate, ids).into());
            }
        };
        let (account, odd) = match success.id_token.take() {
            None => (None, Vec::new()),
            Some(id_token) => {
                match self.renewal(doing, &id_token, &metadata, &success, request.account).await {
                    Ok(believed) => believed,
                    Err(None) => return Ok(another_account(doing, ids).into()),
                    Err(Some(rule)) => {
                        let why =
                            "the id_token is not to be believed, so the access token is not used".to_owned();
                        let fate = success.refresh_token.map_or(Fate::AsBefore, Fate::Replaced);
                        return Ok(RefusedAnswer::new(doing, rule, why, fate, ids).into());
                    }
                }
            }
        };
        let tokens = Tokens { success, requested_at, ids };
        Ok(Refreshed::Tokens(Box::new(tokens.answer(account, odd, request.scopes, &self.app.config, cae))))
    }

    /// Returns true if the `id_token` of a refresh names another account. It decides nothing in the owner's
    /// favour, so its signature is not checked.
    fn is_anothers(&self, id_token: &str, metadata: &Metadata, owner: &Account) -> bool {
        let Ok(token) = UnverifiedToken::parse(id_token) else { return false };
        let rules = self.app.rules(metadata, None, None, self.parts.clock.now());
        matches!(token.judge_renewal(token.verify(None, &rules), &rules, owner), Renewal::Another)
    }

    /// Returns the account that a refresh's `id_token` certainly names, and its oddities. `Err` has the rule
    /// that forbids the answer, or `None` if it belongs to another account.
    async fn renewal(
        &self,
        doing: &'static str,
        id_token: &str,
        metadata: &Metadata,
        success: &TokenSuccess,
        owner: &Account,
    ) -> Result<(Option<Account>, Vec<String>), Option<String>> {
        let rule = |words: &str| format!("id_token {words}");
        let token = UnverifiedToken::parse(id_token).map_err(|fault| Some(rule(fault.as_str())))?;
        let access_token = Some(success.access_token.expose());
        let rules = self.app.rules(metadata, None, access_token, self.parts.clock.now());
        let verified = match self.documents.keys(doing, metadata).await {
            Ok(keys) => token.verify(Some(&*self.documents.keys_for(metadata, keys, &token).await), &rules),
            Err(_) => token.verify(None, &rules),
        };
        let mut odd: Vec<String> = token.odd_claims().map(claim_remark).collect();
        match token.judge_renewal(verified, &rules, owner) {
            Renewal::Verified(account) => Ok((Some(account), odd)),
            // No identity is taken from it.
            Renewal::Unverified(fault) => {
                odd.push(rule(&token.words(fault)));
                Ok((None, odd))
            }
            Renewal::Unjudged(fault) => Err(Some(rule(&token.words(fault)))),
            Renewal::Another => Err(None),
        }
    }
}

impl RefusedAnswer {
    fn new(doing: &'static str, rule: String, why: String, fate: Fate, ids: AuthorityError) -> Self {
        // The grant's state is known, so the next try continues from it.
        let disposition = match fate {
            Fate::Replaced(_) | Fate::AsBefore => LATER,
            Fate::Unknown | Fate::Anothers => Disposition::OutcomeUnknown,
        };
        let failure = AuthorityFailure { answer: ids, ..ours(doing, disposition, refused_by(&rule, &why)) };
        RefusedAnswer { rule, fate, failure }
    }
}

/// Makes the refusal of an answer that belongs to another account.
fn another_account(doing: &'static str, ids: AuthorityError) -> RefusedAnswer {
    let why = "the authority answered with another account's tokens; none of them is used".to_owned();
    RefusedAnswer::new(doing, "another_account".to_owned(), why, Fate::Anothers, ids)
}

impl From<RefusedAnswer> for Refreshed {
    fn from(refused: RefusedAnswer) -> Self {
        Refreshed::Refused(Box::new(refused))
    }
}

/// Marks a refresh whose answer a gateway says it lost: the authority may have used the refresh token up.
pub(super) fn used_all_the_same(failure: AuthorityFailure) -> AuthorityFailure {
    match (failure.disposition, failure.answer.status) {
        (Disposition::RetryAfter(_), Some(502 | 504)) => {
            AuthorityFailure { disposition: Disposition::OutcomeUnknown, ..failure }
        }
        _ => failure,
    }
}
