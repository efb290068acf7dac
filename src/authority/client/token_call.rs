//! One token request, sent with the app's client credentials in turn, and the conclusions from its answers.
//!
//! All of an app's users share its credentials, so one answer may only say so much about them. A credential
//! is rejected by an answer that certainly concerns it; by any refusal, if another credential got a token for
//! the very same request; or by an answer that may concern one tenant, once a second tenant got it too and
//! nothing was accepted since.

use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderMap;
use zeroize::Zeroizing;

use super::OpenIdAuthority;
use super::answered::Answered;
use super::failure::ours;
use crate::authority::classify::{Asked, Question, is_surely_the_credential};
use crate::authority::client_auth::{AssertionAudience, Proving, SecretMethod};
use crate::authority::clouds::Provider;
use crate::authority::credential_set::Member;
use crate::authority::discovery::Metadata;
use crate::authority::http::authorization;
use crate::authority::observer::AuthorityEvent;
use crate::authority::token_answer::Unusable;
use crate::authority::url::CheckedUrl;
use crate::domain::credential::Witness;
use crate::domain::token_hosts::Confined;
use crate::domain::verdict::{AuthorityFailure, Disposition};

/// Tenants that must be refused before an answer that may concern each of them counts against the credential.
const TENANTS_TO_REJECT: usize = 2;

/// Accounts that must be refused without a reason before the operator is told to check a credential that has
/// never worked.
const ACCOUNTS_TO_SUSPECT: usize = 3;

/// A token request without its credential.
pub(super) struct TokenCall {
    pub(super) doing: &'static str,
    pub(super) asked: Asked,
    pub(super) endpoint: CheckedUrl,
    pub(super) fields: Vec<(&'static str, Zeroizing<String>)>,
    pub(super) candidates: Vec<Arc<Member>>,
    /// True if the token is wanted for use, and not only as a proof.
    pub(super) is_use: bool,
    /// The tenant it concerns, if known.
    pub(super) tenant: Option<String>,
    /// The account it concerns, if known.
    pub(super) account: Option<String>,
}

/// Makes a form field's value, wiped when dropped.
pub(super) fn plain(text: impl Into<String>) -> Zeroizing<String> {
    Zeroizing::new(text.into())
}

/// Reason why a credential got no token.
enum NoToken {
    /// It could not be presented: nothing was sent.
    Unusable(String),
    /// It belongs to another host than the token endpoint's: nothing was sent.
    Stays(AuthorityFailure),
    /// The call failed.
    Failed(AuthorityFailure),
}

impl OpenIdAuthority {
    /// Sends a token request with each candidate in turn until one is not rejected.
    pub(super) async fn token_call(
        &self,
        metadata: &Metadata,
        call: TokenCall,
    ) -> Result<Answered, AuthorityFailure> {
        let doing = call.doing;
        let deadline = self.parts.clock.monotonic().saturating_add(self.app.config.timeout);
        let mut last =
            ours(doing, Disposition::NextCredential, "the app has no client credential".to_owned());
        // Refused with an error that need not concern them.
        let mut suspects: Vec<(&Arc<Member>, AuthorityFailure)> = Vec::new();
        for (at, member) in call.candidates.iter().enumerate() {
            let others = &call.candidates[at + 1..];
            match self.call_with(metadata, &call, member, deadline).await {
                Ok(answered) => {
                    if is_a_grant_of_tokens(&answered) {
                        let is_news = member.accept(call.is_use, self.parts.clock.now());
                        self.transport
                            .observe(AuthorityEvent::CredentialAccepted { id: member.label(), is_news });
                        // The same request succeeded with another credential, so this credential was the
                        // cause.
                        for (suspect, failure) in &suspects {
                            // An Entra refusal concerns the credential; an Entra outage says nothing, and has
                            // passed by now.
                            if failure.answer.is_refusal() || self.provider() == Provider::OpenId {
                                self.reject(suspect, failure);
                            }
                        }
                    }
                    return Ok(answered);
                }
                Err(NoToken::Unusable(cause)) => {
                    let is_news = member.reject(&[], &cause, self.parts.clock.now());
                    let id = member.label();
                    self.transport.observe(AuthorityEvent::CredentialUnusable { id, cause: &cause, is_news });
                    let cause = format!("the credential {id} cannot be used: {cause}");
                    last = ours(doing, Disposition::NextCredential, cause);
                }
                Err(NoToken::Stays(failure)) => last = failure,
                Err(NoToken::Failed(failure)) if failure.disposition == Disposition::NextCredential => {
                    if is_surely_the_credential(&failure.answer.error_codes, self.question_of(&call)) {
                        self.reject(member, &failure);
                    } else {
                        suspects.push((member, failure.clone()));
                    }
                    last = failure;
                }
                Err(NoToken::Failed(failure)) if may_be_the_credential(&call, member, others, &failure) => {
                    suspects.push((member, failure.clone()));
                    last = failure;
                }
                Err(NoToken::Failed(failure)) => {
                    // It is the only credential and has never worked.
                    if failure.disposition == Disposition::Unclear
                        && !member.is_trusted()
                        && let Some(account) = &call.account
                        && member.suspect(Witness::Account, account, ACCOUNTS_TO_SUSPECT)
                            == Some(ACCOUNTS_TO_SUSPECT)
                    {
                        self.transport.observe(AuthorityEvent::CredentialSuspected { id: member.label() });
                    }
                    return Err(failure);
                }
            }
        }
        for (member, failure) in suspects {
            let is_rejected = failure.disposition == Disposition::NextCredential;
            let Some(tenant) = call.tenant.as_deref().filter(|_| is_rejected) else { continue };
            match member.suspect(Witness::Tenant, tenant, TENANTS_TO_REJECT) {
                Some(TENANTS_TO_REJECT) => self.reject(member, &failure),
                // There may be no second tenant to confirm it.
                Some(_) => self.transport.observe(AuthorityEvent::CredentialSuspected { id: member.label() }),
                None => {}
            }
        }
        Err(last)
    }

    /// Returns the question that a refusal of this call answers.
    fn question_of(&self, call: &TokenCall) -> Question {
        let one_tenant = match call.asked {
            // In the app's own tenant no other tenant's state affects the answer.
            Asked::ClientCredentials => self.app.is_its_own(call.tenant.as_deref()),
            Asked::Redeem | Asked::Refresh => self.app.one_tenant,
        };
        Question { asked: call.asked, provider: self.provider(), one_tenant }
    }

    fn reject(&self, member: &Member, failure: &AuthorityFailure) {
        let codes = &failure.answer.error_codes;
        let is_news = member.reject(codes, &failure.cause, self.parts.clock.now());
        let (id, cause) = (member.label(), failure.cause.as_str());
        self.transport.observe(AuthorityEvent::CredentialRejected { id, codes, cause, is_news });
    }

    /// Sends the request with this credential. If the method for a secret was only guessed and may be the
    /// cause of a refusal, it tries the other method. (A client is authenticated before its code or refresh
    /// token is checked, RFC 6749 §3.2.1, so a refused authentication uses neither up.)
    async fn call_with(
        &self,
        metadata: &Metadata,
        call: &TokenCall,
        member: &Member,
        deadline: Duration,
    ) -> Result<Answered, NoToken> {
        if member.credential().is_bearer(&self.app.config.assertion_audience) {
            let left = deadline.saturating_sub(self.parts.clock.monotonic());
            let secret = Confined::Credential(&member.credential().fingerprint());
            self.admit(call.doing, secret, &call.endpoint, left).await.map_err(NoToken::Stays)?;
        }
        let configured = self.app.config.token_endpoint_auth_method;
        let seen = self.seen_method();
        let guess = || SecretMethod::guess(self.provider(), metadata);
        let method = configured.or(seen).unwrap_or_else(guess);
        let result = self.send(metadata, call, member, method, deadline).await;
        if self.provider() == Provider::Entra || !member.credential().is_secret() {
            return result;
        }
        let mut failure = match result {
            Err(NoToken::Failed(failure)) => failure,
            Ok(answered) => {
                if is_a_grant_of_tokens(&answered) {
                    self.set_seen_method(Some(method));
                }
                return Ok(answered);
            }
            Err(other) => return Err(other),
        };
        // Once a method has worked for the app, it is suspected only after an error about the client, and
        // only for a secret that worked with it.
        let may_be_the_method = match seen {
            None => is_about_the_client(&failure) || failure.disposition == Disposition::Unclear,
            Some(_) => member.is_trusted() && is_about_the_client(&failure),
        };
        if configured.is_some()
            || !may_be_the_method
            || !failure.answer.is_refusal()
            || !member.may_send_otherwise(self.parts.clock.now())
        {
            if is_about_the_client(&failure) {
                let who = if configured.is_some() { ", as token_endpoint_auth_method says" } else { "" };
                failure.cause.push_str(&format!(" (it was sent as {}{who})", method.as_str()));
            }
            return Err(NoToken::Failed(failure));
        }
        let other = method.other();
        match self.send(metadata, call, member, other, deadline).await {
            Ok(answered) => {
                if is_a_grant_of_tokens(&answered) {
                    self.set_seen_method(Some(other));
                    self.transport.observe(AuthorityEvent::SecretMethodSeen { method: other });
                }
                Ok(answered)
            }
            // The client was refused again: the first error counts.
            Err(NoToken::Failed(again))
                if again.answer.is_refusal()
                    && (is_about_the_client(&again) || again.disposition == Disposition::Unclear) =>
            {
                failure.cause.push_str(&format!(
                    " (it was sent as {}, then as {}; where the app is registered for one of them, set \
                     token_endpoint_auth_method)",
                    method.as_str(),
                    other.as_str()
                ));
                Err(NoToken::Failed(failure))
            }
            Err(failed) => Err(failed),
        }
    }

    /// Returns the method by which the authority accepted a secret.
    pub(super) fn seen_method(&self) -> Option<SecretMethod> {
        *self.seen_method.lock()
    }

    pub(super) fn set_seen_method(&self, method: Option<SecretMethod>) {
        *self.seen_method.lock() = method;
    }

    /// Sends the request with this credential, and a secret by this method.
    async fn send(
        &self,
        metadata: &Metadata,
        call: &TokenCall,
        member: &Member,
        secret_method: SecretMethod,
        deadline: Duration,
    ) -> Result<Answered, NoToken> {
        let proving = Proving {
            client_id: &self.app.config.client_id,
            provider: self.provider(),
            metadata,
            audience: match &self.app.config.assertion_audience {
                AssertionAudience::TokenEndpoint => call.endpoint.as_str(),
                AssertionAudience::Issuer => &metadata.issuer,
                AssertionAudience::Url(url) => url,
            },
            secret_method,
            clock: &*self.parts.clock,
            random: &*self.parts.random,
        };
        let left = deadline.saturating_sub(self.parts.clock.monotonic());
        let proof = tokio::select! {
            biased;
            proof = member.credential().prove(&proving) => proof,
            // The file is on a mount that hangs.
            () = self.parts.clock.sleep(left) => Err("what it is made from could not be read in \
                time".to_owned()),
        };
        let proof = proof.map_err(NoToken::Unusable)?;
        let client_id = proof.client_id_in_form.then_some(("client_id", self.app.config.client_id.as_str()));
        let form = form(call.fields.iter().map(field).chain(client_id).chain(proof.fields.iter().map(field)));
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = proof.authorization.as_deref().and_then(|value| authorization(value)) {
            headers.insert(name, value);
        }
        let left = deadline.saturating_sub(self.parts.clock.monotonic());
        let asked = (call.doing, self.question_of(call));
        self.transport.exchange(asked, &call.endpoint, headers, form, left).await.map_err(NoToken::Failed)
    }
}

/// Returns true if a 200 proves anything: a page that only calls itself a success does not.
fn is_a_grant_of_tokens(answered: &Answered) -> bool {
    !matches!(&answered.read, Err(Unusable { refresh_token: None, .. }))
}

/// Returns true if a refusal says that the client could not prove itself, or not by this method.
fn is_about_the_client(failure: &AuthorityFailure) -> bool {
    let error = failure.answer.error.as_deref();
    failure.disposition == Disposition::NextCredential
        || matches!(error, Some("invalid_client" | "unauthorized_client"))
        || (matches!(failure.answer.status, Some(401 | 403)) && failure.disposition == Disposition::Unclear)
}

/// Returns true if the cause of a refusal may be the credential, whatever its error: it has never worked, and
/// one that has worked can be tried with the same request. Providers have been seen to answer with an empty
/// 400, `invalid_request` and a 500.
fn may_be_the_credential(
    call: &TokenCall,
    member: &Member,
    others: &[Arc<Member>],
    failure: &AuthorityFailure,
) -> bool {
    let is_answer = failure.answer.is_refusal() || failure.answer.status == Some(500);
    // A refused code is not sent again: an authority that sees it twice may revoke its tokens.
    let is_the_codes = call.asked == Asked::Redeem && failure.disposition == Disposition::Restart;
    // A verdict obtained with another untried credential is worth no more than this one.
    let is_better = |other: &Arc<Member>| !failure.disposition.is_verdict() || other.is_trusted();
    !member.is_trusted() && is_answer && !is_the_codes && others.iter().any(is_better)
}

/// Borrows a form field.
fn field<'a>((name, value): &'a (&'static str, Zeroizing<String>)) -> (&'a str, &'a str) {
    (name, value)
}

/// Makes an `application/x-www-form-urlencoded` body, wiped when dropped. It has room for all of it from the
/// start, so that no outgrown buffer stays behind with a secret.
fn form<'a>(fields: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Zeroizing<String> {
    // A byte becomes three at most; `&` and `=` stand around each field.
    let room = fields.clone().map(|(name, value)| name.len() + 3 * value.len() + 2).sum();
    let mut form = Zeroizing::new(String::with_capacity(room));
    for (name, value) in fields {
        if !form.is_empty() {
            form.push('&');
        }
        form.push_str(name);
        form.push('=');
        for piece in form_urlencoded::byte_serialize(value.as_bytes()) {
            form.push_str(piece);
        }
    }
    debug_assert!(form.len() <= room, "the form has outgrown its room");
    form
}
