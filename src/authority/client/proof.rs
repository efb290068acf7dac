//! The proof of credentials: each is presented with a call of the app's own before users depend on it.

use std::sync::Arc;

use super::OpenIdAuthority;
use super::app_token::Wanted;
use super::failure::ours;
use crate::authority::clouds::Provider;
use crate::authority::credential_set::Member;
use crate::domain::credential::InVain;
use crate::domain::verdict::{AuthorityFailure, Disposition};

impl OpenIdAuthority {
    /// Proves every credential whose proof is due. Returns true if the first credential became trusted.
    pub async fn prove_credentials(&self) -> bool {
        let now = self.parts.clock.now();
        let set = self.credentials();
        if let Some(left) = set.without_spent(now) {
            // (If another set has replaced this one meanwhile, its turn will come.)
            self.credentials.compare_and_swap(&set, Arc::new(left));
        }
        let had_trusted = set.has_trusted();
        if !self.answers_for_the_app() {
            return false;
        }
        let mut is_mended = false;
        for member in set.to_be_asked_about(now) {
            is_mended |= self.prove(&member).await && !had_trusted;
        }
        is_mended
    }

    /// Proves one credential, trusted or not. `Ok` if it was accepted.
    pub async fn prove_credential(&self, label: &str) -> Option<Result<(), AuthorityFailure>> {
        let set = self.credentials();
        let member = set.member(label)?;
        Some(self.ask_about(&member).await)
    }

    /// Returns true if a token for the app itself may be requested as a proof. Entra issues them. Another
    /// authority is only asked if its document offers that, and only after a request has needed the document.
    fn answers_for_the_app(&self) -> bool {
        self.provider() == Provider::Entra || self.documents.held().is_some()
    }

    async fn prove(&self, member: &Arc<Member>) -> bool {
        let was_trusted = member.is_trusted();
        match self.ask_about(member).await {
            Ok(()) => member.is_trusted() && !was_trusted,
            Err(failure) => {
                tracing::debug!(
                    credential = member.label(),
                    cause = failure.cause,
                    "a client credential is not proven"
                );
                false
            }
        }
    }

    async fn ask_about(&self, member: &Arc<Member>) -> Result<(), AuthorityFailure> {
        let doing = "proving a client credential";
        let Some((scopes, tenant)) = self.app.proof_request() else {
            member.ask_in_vain(InVain::ProvenByUse, self.parts.clock.now());
            let cause =
                "the app's own tenant is not known: set home_tenant, where the app is registered. Until \
                         then only a user's refresh proves a credential (`tokenward connections refresh`)"
                    .to_owned();
            return Err(ours(doing, Disposition::CallerFault, cause));
        };
        if self.provider() == Provider::OpenId
            && !self.documents.metadata(doing).await?.offers_client_credentials
        {
            member.ask_in_vain(InVain::ProvenByUse, self.parts.clock.now());
            let cause = "the authority offers apps no token of their own (client_credentials)".to_owned();
            return Err(ours(doing, Disposition::CallerFault, cause));
        }
        let wanted = Wanted { scopes, resource: None, tenant };
        let asked = self.client_token(wanted, vec![member.clone()], false).await;
        match asked {
            Ok(_) => Ok(()),
            Err(failure) => {
                let why = match failure.disposition {
                    // Recorded already when the answer came.
                    Disposition::NextCredential => return Err(failure),
                    Disposition::RetryAfter(after) => InVain::Unanswered(after),
                    Disposition::Unclear | Disposition::OutcomeUnknown => InVain::Unanswered(None),
                    _ if failure.answer.is_of_unconfirmed_host() => InVain::Unanswered(None),
                    _ => InVain::ProvenByUse,
                };
                member.ask_in_vain(why, self.parts.clock.now());
                Err(failure)
            }
        }
    }
}
