//! Whether a secret may go to the token endpoint's host.

use std::time::Duration;

use super::OpenIdAuthority;
use super::failure::ours;
use crate::authority::clouds::Provider;
use crate::authority::credential_set::Member;
use crate::authority::observer::AuthorityEvent;
use crate::authority::text::one_line;
use crate::authority::token_hosts::{AppHosts, Stays, token_host};
use crate::authority::url::CheckedUrl;
use crate::domain::account::Account;
use crate::domain::token_hosts::Confined;
use crate::domain::verdict::{AuthorityError, AuthorityFailure, Disposition};

impl OpenIdAuthority {
    /// Returns whether a secret may be sent to this endpoint's host.
    pub(super) async fn admit(
        &self,
        doing: &'static str,
        secret: Confined<'_>,
        endpoint: &CheckedUrl,
        limit: Duration,
    ) -> Result<(), AuthorityFailure> {
        let host = token_host(endpoint);
        let hosts = &self.parts.token_hosts;
        let (before, is_news) = match hosts.admit(secret, &host, &*self.parts.clock, limit).await {
            Ok(()) => return Ok(()),
            Err(Stays::For(before, is_news)) => (before, is_news),
            Err(Stays::Unread) => {
                let cause = "the record of token hosts has not been read from the store yet".to_owned();
                return Err(ours(doing, Disposition::RetryAfter(None), cause));
            }
        };
        let before = match before.is_empty() {
            true => "another authority".to_owned(),
            false => before.into_iter().collect::<Vec<_>>().join(", "),
        };
        let what = match secret {
            Confined::Credential(_) => "the client credential",
            Confined::Grants { .. } => "the grant",
        };
        let cause = format!(
            "the token endpoint is on {host}, and {what} is for {before}: it is not sent. If the change is \
             right: tokenward credentials confirm {} {host}",
            hosts.app
        );
        if is_news {
            self.transport.observe(AuthorityEvent::HeldBack { cause: &cause });
        }
        let mut failure = ours(doing, Disposition::Misconfigured, cause);
        failure.answer = AuthorityError::of_unconfirmed_host();
        Err(failure)
    }

    /// Returns the grants that this account's belongs to.
    pub(super) fn grants_of<'a>(&self, account: &'a Account) -> Confined<'a> {
        let issuer = account.iss.as_str();
        let is_of_authority = self.app.expected.is_issuer(issuer);
        match self.provider() {
            Provider::Entra => Confined::Grants { issuer: origin_of(issuer), is_of_authority },
            Provider::OpenId => Confined::Grants { issuer, is_of_authority },
        }
    }

    /// Returns the grants of the authority itself: those of an account that is not known yet belong to them.
    pub(super) fn grants_of_issuer<'a>(&self, issuer: &'a str) -> Confined<'a> {
        match self.provider() {
            Provider::Entra => Confined::Grants { issuer: origin_of(issuer), is_of_authority: true },
            Provider::OpenId => Confined::Grants { issuer, is_of_authority: true },
        }
    }

    /// Returns the host of this app's token endpoint, as far as it is known here, if one of the app's
    /// credentials belongs to another. Only at Entra is that host known before the document is read.
    pub fn unconfirmed_host(&self) -> Option<String> {
        let host = match (self.documents.held(), self.provider()) {
            (Some(metadata), _) => token_host(&metadata.token_endpoint),
            (None, Provider::Entra) => token_host(&self.app.expected.authority),
            (None, Provider::OpenId) => return None,
        };
        let AppHosts { app, known } = &self.parts.token_hosts;
        let known = known.hosts.lock();
        let stays = |member: &Member| {
            let credential = member.credential();
            let secret = Confined::Credential(&credential.fingerprint());
            credential.is_bearer(&self.app.config.assertion_audience) && known.holds_back(app, secret, &host)
        };
        let credentials = self.credentials();
        credentials.configured().any(|member| stays(member)).then_some(host)
    }

    /// Checks, for an operator's confirmation, that `host` is the host of this app's token endpoint. `Err`
    /// says what is wrong.
    pub async fn is_token_host(&self, host: &str) -> Result<(), String> {
        let metadata = self.documents.metadata("confirming the token host").await.map_err(|failure| {
            format!(
                "the discovery document, which names the token host, cannot be fetched: \
                {}",
                failure.cause
            )
        })?;
        let is = token_host(&metadata.token_endpoint);
        if host == is {
            return Ok(());
        }
        Err(format!("the app's token endpoint is on {is}, and not on {}", one_line(host)))
    }
}

/// Returns the `{scheme}://{host}[:{port}]` of a URL.
fn origin_of(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find('/').map_or(url.len(), |at| host + at);
    &url[..end]
}
