//! The authority: the OpenID provider of an app, as the core needs it.
//!
//! May know: `domain`, HTTP, TLS, JWTs. Knows nothing of stores, callers or policies.
//!
//! Invariants:
//! 1. PKCE S256, `state` and `nonce` on every authorize request; nothing is retried without them.
//! 2. An identity leaves this room only after its `id_token` was validated whole.
//! 3. Every failure leaves with a [`Disposition`](crate::domain::verdict::Disposition); only the table in `classify` decides it.
//! 4. No redirect is followed, no answer is read beyond its cap, no call outlives its time-out.
//!
//! The one hard problem: telling the authority's verdict on a grant from all the ways a call can go wrong.

mod address;
mod body;
mod cache;
mod classify;
mod client;
mod client_auth;
mod clouds;
mod credential_set;
mod discovery;
#[cfg(test)]
mod exchange_tests;
mod http;
mod id_token;
mod jwks;
#[cfg(test)]
mod linear_tests;
mod observer;
#[cfg(any(test, feature = "testkit"))]
pub mod properties;
mod redirect;
#[cfg(test)]
mod testing;
mod text;
mod token_answer;
mod token_call;
mod token_hosts;
mod url;
mod way_out;
#[cfg(test)]
mod way_out_tests;
mod wire;

use std::time::Duration;

pub use classify::{Asked, Conclusion};
pub use client::{
    AuthorityConfig, AuthorityConfigError, AuthorityParts, ClientToken, OpenIdAuthority, ResponseMode,
};
pub use client_auth::{
    AssertionAudience, AssertionFile, AssertionSource, CertificateFault, ClientCredential, SecretMethod,
};
pub use clouds::Provider;
pub use credential_set::{CredentialReport, CredentialSet, Member};
pub use http::{Roots, RootsFault};
pub use id_token::IdTokenFault;
pub use observer::{AuthorityEvent, AuthorityObserver, Endpoint, Unobserved};
pub use redirect::{RedirectError, RedirectRefusal};
pub use token_hosts::{AppHosts, HOST_NOT_CONFIRMED, KnownTokenHosts};
pub use url::UrlFault;
pub use way_out::Outbound;

use crate::domain::account::Account;
use crate::domain::remarks::Remarks;
use crate::domain::scope::{ScopeNaming, ScopeSet};
use crate::domain::secret::{AccessToken, AuthorizationCode, CodeVerifier, RefreshToken};
use crate::domain::task::BoxFuture;
use crate::domain::time::Timestamp;
use crate::domain::verdict::AuthorityFailure;

/// An app's authority, with the app's own credentials behind it. One value per app.
pub trait Authority: Send + Sync {
    /// How this authority names scopes.
    fn scope_naming(&self) -> &ScopeNaming;

    /// Whether a used refresh token may be sent again to repair a lost answer.
    fn may_replay_refresh_tokens(&self) -> bool;

    /// Where to send a browser that shall grant access. Needs discovery, so it may fail.
    fn authorize_url<'a>(
        &'a self,
        request: &'a AuthorizeRequest,
    ) -> BoxFuture<'a, Result<AuthorizeUrl, AuthorityFailure>>;

    /// What a refusal means that a browser brought back in place of a code.
    fn judge_redirect(&self, error: &RedirectError) -> RedirectRefusal {
        error.judge(Provider::OpenId, false)
    }

    /// Redeems an authorization code, once.
    fn redeem<'a>(&'a self, request: RedeemRequest<'a>) -> BoxFuture<'a, Result<TokenAnswer, RedeemFailure>>;

    /// Uses a refresh token, once.
    fn refresh<'a>(
        &'a self,
        request: RefreshRequest<'a>,
    ) -> BoxFuture<'a, Result<Refreshed, AuthorityFailure>>;

    /// Where to send an administrator who shall approve the app; `None` where the authority has no such page.
    fn admin_consent_url<'a>(
        &'a self,
        request: &'a AdminConsentRequest,
    ) -> BoxFuture<'a, Result<Option<String>, AuthorityFailure>>;
}

/// What an authorize request carries besides the app's own settings.
#[derive(Clone)]
pub struct AuthorizeRequest {
    /// Byte-identical to the one sent at redemption.
    pub redirect_uri: String,
    /// Every scope to consent to; may span resources.
    pub scopes: ScopeSet,
    /// Ours, unguessable, single use.
    pub state: String,
    /// Expected back in the `id_token`.
    pub nonce: String,
    /// Of which the S256 challenge is sent.
    pub verifier: CodeVerifier,
    /// `login_hint`, when the caller knows who should sign in.
    pub login_hint: Option<String>,
    /// `domain_hint`.
    pub domain_hint: Option<String>,
    /// `prompt`, of OpenID's values.
    pub prompt: Option<String>,
    /// A claims challenge to pass on, as JSON text.
    pub claims: Option<String>,
}

/// An authorize URL and what its answer must be checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizeUrl {
    /// The URL for the browser.
    pub url: String,
    /// The issuer whose `iss` the callback may carry (RFC 9207 §2.4); Entra's may be a template, which no
    /// callback `iss` can equal, so it then is compared after substituting the tenant.
    pub issuer: String,
    /// Whether the callback must carry `iss` (`authorization_response_iss_parameter_supported`).
    pub iss_required: bool,
}

/// A code redemption.
pub struct RedeemRequest<'a> {
    /// The code, sent byte-exact.
    pub code: &'a AuthorizationCode,
    /// The PKCE verifier of the same flow.
    pub verifier: &'a CodeVerifier,
    /// The redirect URI of the same flow.
    pub redirect_uri: &'a str,
    /// The nonce of the same flow.
    pub nonce: &'a str,
    /// [`AuthorizeUrl::issuer`] as stored with the state: the code is sent nowhere else.
    pub sent_to_issuer: &'a str,
    /// The scopes of the token wanted first: one resource's.
    pub scopes: &'a ScopeSet,
}

/// Why a code brought no tokens that are used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RedeemFailure {
    /// The account that came back is of a tenant whose users may not be connected. The authority said nothing
    /// wrong: the refusal is ours.
    #[error(transparent)]
    TenantNotAllowed(AuthorityFailure),
    /// The authority's refusal, or its silence.
    #[error(transparent)]
    Authority(#[from] AuthorityFailure),
}

/// A refresh.
pub struct RefreshRequest<'a> {
    /// The refresh token to use.
    pub refresh_token: &'a RefreshToken,
    /// The scopes wanted: one resource's, with the sign-in's own.
    pub scopes: &'a ScopeSet,
    /// Whose grant it is: of an answer whose `id_token` names another account nothing is used.
    pub account: &'a Account,
    /// A claims challenge of a resource, as JSON text.
    pub claims: Option<&'a str>,
}

/// What an administrator is asked to approve.
#[derive(Debug, Clone)]
pub struct AdminConsentRequest {
    /// Tenant id or domain; `organizations` when unknown.
    pub tenant: Option<String>,
    /// The scopes to approve.
    pub scopes: ScopeSet,
    /// Registered redirect URI.
    pub redirect_uri: String,
    /// Ours, unguessable.
    pub state: String,
}

/// What a refresh was answered with, where that was a success.
pub enum Refreshed {
    /// Tokens to be used.
    Tokens(Box<TokenAnswer>),
    /// Something whose access token must not be used.
    Refused(Box<RefusedAnswer>),
}

/// A success of which no access token is used.
pub struct RefusedAnswer {
    /// The rule that it broke, for a log.
    pub rule: String,
    /// What it makes of the grant.
    pub fate: Fate,
    /// The same as a failure, with the authority's ids of the answer.
    pub failure: AuthorityFailure,
}

/// What an answer that is refused makes of the grant that it was asked for.
pub enum Fate {
    /// Its refresh token takes the place of the one that was sent, which may be spent.
    Replaced(RefreshToken),
    /// It brought none, so the one that was sent stays in force (RFC 6749 §6).
    AsBefore,
    /// Nobody knows.
    Unknown,
    /// Nobody knows, and the answer is somebody else's: nothing of it is kept.
    Anothers,
}

/// A successful token answer, checked whole (RFC 6749 §5.1; OpenID Connect Core §3.1.3.7).
pub struct TokenAnswer {
    /// The access token; opaque.
    pub access_token: AccessToken,
    /// When the request began: lives are counted from here.
    pub requested_at: Timestamp,
    /// Life of the access token.
    pub expires_in: Duration,
    /// When to renew it, if the authority said so.
    pub refresh_in: Option<Duration>,
    /// A new refresh token, if one came.
    pub refresh_token: Option<RefreshToken>,
    /// The scopes the token carries, in the authority's spelling; what was asked when it said nothing.
    pub scopes: Vec<String>,
    /// Who it is, from a validated `id_token`. Always there after a redemption.
    pub account: Option<Account>,
    /// What was odd about it and was cut or ignored.
    pub remarks: Remarks,
}
