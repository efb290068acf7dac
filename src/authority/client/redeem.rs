//! The redemption of a code: its answer is used only with a verified `id_token`.

use std::time::Duration;

use super::OpenIdAuthority;
use super::answered::claim_remark;
use super::failure::ours;
use super::token_call::{TokenCall, plain};
use crate::authority::classify::Asked;
use crate::authority::id_token::{IdTokenFault, UnverifiedToken};
use crate::authority::{RedeemFailure, RedeemRequest, TokenAnswer};
use crate::domain::verdict::{AuthorityError, AuthorityFailure, Disposition};
use crate::jwt::keys::Algorithm;

impl OpenIdAuthority {
    pub(super) async fn redeem_code(&self, request: RedeemRequest<'_>) -> Result<TokenAnswer, RedeemFailure> {
        let doing = "redeeming an authorization code";
        let metadata = self.documents.metadata(doing).await?;
        // A code of one authority must not reach another (RFC 9207 §1: mix-up), and this app's authority may
        // have changed since the browser was sent off.
        if request.sent_to_issuer != metadata.issuer {
            let cause = "the browser was sent to another authority than the app's of now".to_owned();
            return Err(ours(doing, Disposition::Restart, cause).into());
        }
        // Done before the code is sent, since without keys its answer would be useless.
        let keys = self.documents.keys(doing, &metadata).await?;
        let scopes = self.app.with_sign_in(request.scopes);
        let mut fields = vec![
            ("grant_type", plain("authorization_code")),
            ("code", plain(request.code.expose())),
            ("redirect_uri", plain(request.redirect_uri)),
            ("code_verifier", plain(request.verifier.expose())),
            ("scope", plain(scopes.wire())),
        ];
        let cae = self.app.is_cae(true);
        if let Some(claims) = self.app.claims(doing, None, cae)? {
            fields.push(("claims", plain(claims)));
        }
        let endpoint = metadata.token_endpoint.clone();
        let candidates = self.credentials().candidates(self.parts.clock.now());
        let asked = Asked::Redeem;
        let call = TokenCall {
            doing,
            asked,
            endpoint,
            fields,
            candidates,
            is_use: true,
            tenant: None,
            account: None,
        };
        let mut tokens = self.token_call(&metadata, call).await?.usable(doing)?;

        let ids = tokens.ids.clone();
        let refuse = |fault, words: &str| id_token_refused(doing, fault, words, &ids);
        let missing = || refuse(IdTokenFault::Missing, IdTokenFault::Missing.as_str());
        let id_token = tokens.success.id_token.take().ok_or_else(missing)?;
        let token = UnverifiedToken::parse(&id_token).map_err(|fault| refuse(fault, fault.as_str()))?;
        let rules = self.app.rules(
            &metadata,
            Some(request.nonce),
            Some(tokens.success.access_token.expose()),
            self.parts.clock.now(),
        );
        let keys = self.documents.keys_for(&metadata, keys, &token).await;
        let verified = token.verify(Some(&keys), &rules);
        let account = verified.map_err(|fault| {
            let failure = refuse(fault, &token.words(fault));
            match fault {
                IdTokenFault::TenantNotAllowed => RedeemFailure::TenantNotAllowed(failure),
                _ => RedeemFailure::Authority(failure),
            }
        })?;
        // The grant belongs to the host that issued it. (If that differs from the issuer's earlier host, its
        // first use will say so.)
        let _known =
            self.admit(doing, self.grants_of(&account), &metadata.token_endpoint, Duration::ZERO).await;
        let odd = token.odd_claims().map(claim_remark).collect();
        Ok(tokens.answer(Some(account), odd, request.scopes, &self.app.config, cae))
    }
}

/// Makes the failure for a sign-in's refused `id_token`, with the rule's name.
fn id_token_refused(
    doing: &'static str,
    fault: IdTokenFault,
    words: &str,
    ids: &AuthorityError,
) -> AuthorityFailure {
    let mut cause = format!("the id_token is refused by the rule {words}");
    if fault == IdTokenFault::Algorithm {
        let known: Vec<&str> = Algorithm::ALL.into_iter().map(Algorithm::as_str).collect();
        let known = known.join(", ");
        cause.push_str(&format!(
            "; have the provider sign this app's tokens with one that it publishes, of {known}"
        ));
    }
    AuthorityFailure { answer: ids.clone(), ..ours(doing, Disposition::Restart, cause) }
}
