//! The first use of a grant that another system held: its answer is used only with a verified `id_token`,
//! and its refresh token is handed on in any case.

use std::time::Duration;

use super::OpenIdAuthority;
use super::answered::{Answered, Tokens, claim_remark, refused_by};
use super::failure::{LATER, ours};
use super::refresh::used_all_the_same;
use super::token_call::{TokenCall, plain};
use crate::authority::classify::Asked;
use crate::authority::id_token::{IdTokenFault, UnverifiedToken};
use crate::authority::token_answer::Unusable;
use crate::authority::{AdoptRequest, Adopted, NoAdoption, RefusedAdoption};
use crate::domain::secret::RefreshToken;
use crate::domain::verdict::{AuthorityError, AuthorityFailure};

impl OpenIdAuthority {
    pub(super) async fn adopt_grant(&self, request: AdoptRequest<'_>) -> Result<Adopted, AuthorityFailure> {
        let doing = "proving a grant that is imported";
        let metadata = self.documents.metadata(doing).await?;
        // Done before the refresh token is sent, since without keys its answer would be useless.
        let keys = self.documents.keys(doing, &metadata).await?;
        let scopes = self.app.with_sign_in(request.scopes);
        let mut fields = vec![
            ("grant_type", plain("refresh_token")),
            ("refresh_token", plain(request.refresh_token.expose())),
            ("scope", plain(scopes.wire())),
        ];
        let cae = self.app.is_cae(true);
        if let Some(claims) = self.app.claims(doing, None, cae)? {
            fields.push(("claims", plain(claims)));
        }
        let endpoint = metadata.token_endpoint.clone();
        // The grant is for this authority alone: it goes nowhere else.
        let grants = self.grants_of_issuer(&metadata.issuer);
        self.admit(doing, grants, &endpoint, self.app.config.timeout).await?;
        let candidates = self.credentials().candidates(self.parts.clock.now());
        let (asked, tenant) = (Asked::Refresh, request.tenant.map(str::to_owned));
        let call =
            TokenCall { doing, asked, endpoint, fields, candidates, is_use: true, tenant, account: None };
        let answered = self.token_call(&metadata, call).await.map_err(used_all_the_same)?;
        let Answered { read, requested_at, ids } = answered;
        let refused = |why, rule: &str, words: &str, refresh_token: Option<RefreshToken>| {
            Ok(RefusedAdoption::new(doing, (why, rule, words), refresh_token, ids.clone()).into())
        };
        let mut success = match read {
            Ok(success) => success,
            Err(Unusable { rule, why, refresh_token, .. }) => {
                return refused(NoAdoption::NotBelieved, rule, &why, refresh_token);
            }
        };
        let Some(id_token) = success.id_token.take() else {
            let fault = IdTokenFault::Missing;
            let words = "no id_token says whose grant it is";
            return refused(NoAdoption::NoAccount, fault.as_str(), words, success.refresh_token);
        };
        let not_believed = "the id_token is not to be believed";
        let token = match UnverifiedToken::parse(&id_token) {
            Ok(token) => token,
            Err(fault) => {
                let why = NoAdoption::NotBelieved;
                return refused(why, fault.as_str(), not_believed, success.refresh_token);
            }
        };
        let access_token = Some(success.access_token.expose());
        let rules = self.app.rules(&metadata, None, access_token, self.parts.clock.now());
        let keys = self.documents.keys_for(&metadata, keys, &token).await;
        let account = match token.verify(Some(&keys), &rules) {
            Ok(account) => account,
            Err(fault) => {
                let why = match fault {
                    IdTokenFault::TenantNotAllowed => NoAdoption::TenantNotAllowed,
                    _ => NoAdoption::NotBelieved,
                };
                let words = token.words(fault);
                return refused(why, &words, not_believed, success.refresh_token);
            }
        };
        // As for a sign-in's: the grant belongs to the host that took it.
        let _known =
            self.admit(doing, self.grants_of(&account), &metadata.token_endpoint, Duration::ZERO).await;
        let odd = token.odd_claims().map(claim_remark).collect();
        let tokens = Tokens { success, requested_at, ids };
        let answer = tokens.answer(None, odd, request.scopes, &self.app.config, cae);
        Ok(Adopted::Tokens { account: Box::new(account), answer: Box::new(answer) })
    }
}

impl RefusedAdoption {
    fn new(
        doing: &'static str,
        (why, rule, words): (NoAdoption, &str, &str),
        refresh_token: Option<RefreshToken>,
        ids: AuthorityError,
    ) -> Self {
        let failure = AuthorityFailure { answer: ids, ..ours(doing, LATER, refused_by(rule, words)) };
        RefusedAdoption { why, refresh_token, failure }
    }
}

impl From<RefusedAdoption> for Adopted {
    fn from(refused: RefusedAdoption) -> Self {
        Adopted::Refused(Box::new(refused))
    }
}
