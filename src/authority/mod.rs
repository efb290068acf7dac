//! The authority: an app's OpenID provider, as the core needs it.
//!
//! May know: `domain`, `jwt`, `outbound`, HTTP, TLS. It knows no store, caller or policy.
//!
//! Invariants:
//! 1. Every authorize request has PKCE S256, `state` and `nonce`; nothing is retried without them.
//! 2. An identity leaves this room only after its `id_token` was fully validated.
//! 3. Every failure leaves with a [`Disposition`](crate::domain::verdict::Disposition). For a refusal of
//!    the authority only the table in `classify` decides it. Where there is no answer, or one that breaks a
//!    rule of ours, the client decides it, and never as a verdict on the grant.
//! 4. No redirect is followed, no answer is read beyond its cap, and every call ends by its timeout.
//!
//! The one hard problem: telling the authority's verdict on a grant from all the ways a call can go wrong.

mod body;
mod cache;
mod classify;
mod client;
mod client_auth;
mod client_credentials;
mod clouds;
mod collector;
mod credential_set;
mod discovery;
#[cfg(test)]
mod exchange_tests;
mod http;
mod id_token;
mod issuer_keys;
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
mod token_hosts;
mod url;
#[cfg(test)]
mod way_out_tests;
mod wire;

use std::time::Duration;

pub use classify::{AppFault, Asked, Conclusion, EXPIRED_SECRET};
pub use client::{
    AuthorityConfig, AuthorityConfigError, AuthorityParts, LookedAt, OpenIdAuthority, RedirectSeen,
    Registered, RegistrationSeen, ResponseMode, Way,
};
pub use client_auth::{
    AssertionAudience, AssertionFile, AssertionSource, CertificateFault, ClientCredential, SecretMethod,
};
pub use client_credentials::ClientCredentials;
pub use clouds::{Provider, is_tenant_name};
pub use collector::{CollectorAnswer, CollectorConfig, CollectorError, TraceCollector};
pub use credential_set::{CredentialReport, CredentialSet, Member};
pub use id_token::{Delegate, IdTokenFault, Subject, UserTokenKind};
pub use issuer_keys::{IssuerKeys, IssuerKeysConfig, IssuerKeysError};
pub use observer::{AuthorityEvent, AuthorityObserver, Endpoint, Unobserved};
pub use redirect::{RedirectError, RedirectRefusal};
pub use token_hosts::{AppHosts, KnownTokenHosts};
pub use url::UrlFault;

pub use crate::outbound::{Outbound, Roots, RootsFault};

use crate::domain::account::Account;
use crate::domain::app_only::AppResource;
use crate::domain::remarks::Remarks;
use crate::domain::scope::{ScopeNaming, ScopeSet};
use crate::domain::secret::{AccessToken, AuthorizationCode, CodeVerifier, RefreshToken};
use crate::domain::task::BoxFuture;
use crate::domain::time::Timestamp;
use crate::domain::verdict::AuthorityFailure;

/// An app's authority, with the app's own credentials. One value for each app.
pub trait Authority: Send + Sync {
    /// Returns how this authority names scopes.
    fn scope_naming(&self) -> &ScopeNaming;

    /// Returns true if a used refresh token may be sent again to repair a lost answer.
    fn may_replay_refresh_tokens(&self) -> bool;

    /// Returns the URL at which a browser grants access. It needs discovery, so it may fail.
    fn authorize_url<'a>(
        &'a self,
        request: &'a AuthorizeRequest,
    ) -> BoxFuture<'a, Result<AuthorizeUrl, AuthorityFailure>>;

    /// Judges a refusal that a browser brought back in place of a code.
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

    /// Uses a refresh token of a grant whose account is not known yet, once: its answer must name it.
    fn adopt<'a>(&'a self, request: AdoptRequest<'a>) -> BoxFuture<'a, Result<Adopted, AuthorityFailure>>;

    /// Returns the app's id at the authority, which a grant is for.
    fn client_id(&self) -> &str;

    /// Requests a token for the app itself (RFC 6749 §4.4).
    fn app_token<'a>(
        &'a self,
        request: AppTokenRequest<'a>,
    ) -> BoxFuture<'a, Result<TokenAnswer, AuthorityFailure>>;

    /// Returns a text that names the registration: a token of one is no token of another.
    fn registration(&self) -> String;

    /// Returns the URL at which an administrator approves the app; `None` if the authority has no such page.
    fn admin_consent_url<'a>(
        &'a self,
        request: &'a AdminConsentRequest,
    ) -> BoxFuture<'a, Result<Option<String>, AuthorityFailure>>;

    /// Returns true if a user's token says that it is for this app. Nothing of it is believed yet.
    fn is_audience_of(&self, token: &UserToken<'_>) -> bool;

    /// Verifies a user's token by this authority's keys, as a sign-in's `id_token` is verified.
    fn verify_user_token<'a>(
        &'a self,
        token: &'a UserToken<'a>,
        kind: UserTokenKind,
    ) -> BoxFuture<'a, Result<Subject, SubjectRefusal>>;
}

/// A user's token that a caller presents. Nothing of it is believed yet.
pub struct UserToken<'a>(id_token::UnverifiedToken<'a>);

impl<'a> UserToken<'a> {
    /// Reads a token in the form of a JWT.
    ///
    /// # Errors
    /// The broken rule.
    pub fn parse(text: &'a str) -> Result<Self, SubjectRefusal> {
        let token = id_token::UnverifiedToken::parse(text);
        token.map(UserToken).map_err(|fault| SubjectRefusal::Token(fault.to_string()))
    }

    /// Tells an access token from an `id_token` by the token's own words.
    pub fn kind(&self) -> UserTokenKind {
        self.0.claimed_kind()
    }
}

/// Why a user's token is not believed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SubjectRefusal {
    /// It breaks this rule.
    #[error("the token breaks the rule {0}")]
    Token(String),
    /// The authority's documents could not be had.
    #[error(transparent)]
    Authority(#[from] AuthorityFailure),
}

/// An authorize request, besides the app's own settings.
#[derive(Clone)]
pub struct AuthorizeRequest {
    /// Byte-identical to the one sent with the redemption.
    pub redirect_uri: String,
    /// All scopes to consent to; they may span resources.
    pub scopes: ScopeSet,
    /// Made by us: unguessable, used once.
    pub state: String,
    /// Expected in the `id_token`.
    pub nonce: String,
    /// Its S256 challenge is sent.
    pub verifier: CodeVerifier,
    /// `login_hint`, if the caller knows who should sign in.
    pub login_hint: Option<String>,
    /// `domain_hint`.
    pub domain_hint: Option<String>,
    /// `prompt`, of OpenID's values.
    pub prompt: Option<String>,
    /// A claims challenge to pass on, as JSON text.
    pub claims: Option<String>,
}

/// An authorize URL, and the expectations for its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizeUrl {
    /// The URL for the browser.
    pub url: String,
    /// The issuer that the callback's `iss` must equal (RFC 9207 §2.4). Entra's may be a template, which is
    /// compared after its tenant is filled in.
    pub issuer: String,
    /// True if the callback must have `iss` (`authorization_response_iss_parameter_supported`).
    pub iss_required: bool,
}

/// A code redemption.
pub struct RedeemRequest<'a> {
    /// The code, sent unchanged.
    pub code: &'a AuthorizationCode,
    /// The PKCE verifier of the same flow.
    pub verifier: &'a CodeVerifier,
    /// The redirect URI of the same flow.
    pub redirect_uri: &'a str,
    /// The nonce of the same flow.
    pub nonce: &'a str,
    /// [`AuthorizeUrl::issuer`] as stored with the state: the code goes nowhere else.
    pub sent_to_issuer: &'a str,
    /// The scopes of the first token: those of one resource.
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
    /// The scopes: those of one resource, with the sign-in's own.
    pub scopes: &'a ScopeSet,
    /// The grant's owner: an answer whose `id_token` names another account is not used.
    pub account: &'a Account,
    /// A resource's claims challenge, as JSON text.
    pub claims: Option<&'a str>,
    /// Whether the token may be under continuous access evaluation, if the app declares that.
    pub cae: bool,
}

/// The first use of a grant that another system held.
pub struct AdoptRequest<'a> {
    /// The refresh token to use.
    pub refresh_token: &'a RefreshToken,
    /// The scopes: those of one resource.
    pub scopes: &'a ScopeSet,
    /// At Entra the tenant of its account, if that is known.
    pub tenant: Option<&'a str>,
}

/// A success answer to the first use of a grant.
pub enum Adopted {
    /// Usable tokens.
    Tokens {
        /// From a validated `id_token`. (The answer does not name it again.)
        account: Box<Account>,
        /// The tokens.
        answer: Box<TokenAnswer>,
    },
    /// An answer of which nothing is used but its refresh token.
    Refused(Box<RefusedAdoption>),
}

/// Why an answer does not make a connection.
pub struct RefusedAdoption {
    /// What is wrong with it.
    pub why: NoAdoption,
    /// Its refresh token: the one that was sent may be spent.
    pub refresh_token: Option<RefreshToken>,
    /// The same as a failure, with the authority's ids of the answer.
    pub failure: AuthorityFailure,
}

/// What is wrong with a success answer to the first use of a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAdoption {
    /// It has no `id_token`, so nobody knows whose grant it is.
    NoAccount,
    /// It is of a tenant whose users may not be connected.
    TenantNotAllowed,
    /// It breaks a rule.
    NotBelieved,
}

/// A request for a token of the app itself.
#[derive(Debug, Clone, Copy)]
pub struct AppTokenRequest<'a> {
    /// At Entra the tenant, by its id or domain.
    pub tenant: Option<&'a str>,
    /// The resource. Entra wants one; to other authorities it is sent as RFC 8707's `resource`.
    pub resource: Option<&'a AppResource>,
}

/// A request for an administrator's approval.
#[derive(Debug, Clone)]
pub struct AdminConsentRequest {
    /// Tenant id or domain; `organizations` if unknown.
    pub tenant: Option<String>,
    /// The scopes to approve.
    pub scopes: ScopeSet,
    /// Registered redirect URI.
    pub redirect_uri: String,
    /// Made by us, unguessable.
    pub state: String,
}

/// A success answer to a refresh.
pub enum Refreshed {
    /// Usable tokens.
    Tokens(Box<TokenAnswer>),
    /// An answer whose access token must not be used.
    Refused(Box<RefusedAnswer>),
}

/// A success answer whose access token is not used.
pub struct RefusedAnswer {
    /// The broken rule, for logs.
    pub rule: String,
    /// What happens to the grant.
    pub fate: Fate,
    /// The same as a failure, with the authority's ids of the answer.
    pub failure: AuthorityFailure,
}

/// What a refused answer means for its grant.
pub enum Fate {
    /// Its refresh token replaces the one that was sent, which may be spent.
    Replaced(RefreshToken),
    /// It has none, so the one that was sent stays valid (RFC 6749 §6).
    AsBefore,
    /// Unknown.
    Unknown,
    /// Unknown, and the answer belongs to another account: nothing of it is kept.
    Anothers,
}

/// A success answer, fully checked (RFC 6749 §5.1; OpenID Connect Core §3.1.3.7).
pub struct TokenAnswer {
    /// The access token, which is opaque.
    pub access_token: AccessToken,
    /// When the request began: lives count from here.
    pub requested_at: Timestamp,
    /// Life of the access token.
    pub expires_in: Duration,
    /// When to renew it, if the authority says so.
    pub refresh_in: Option<Duration>,
    /// A new refresh token, if there is one.
    pub refresh_token: Option<RefreshToken>,
    /// When the refresh token ends, if the authority states it.
    pub refresh_token_ends_at: Option<Timestamp>,
    /// The token's scopes, in the authority's spelling; the requested ones if it named none.
    pub scopes: Vec<String>,
    /// The account, from a validated `id_token`. Always present after a redemption, never for the app itself
    /// and beside [`Adopted::Tokens`].
    pub account: Option<Account>,
    /// Odd parts that were cut or ignored.
    pub remarks: Remarks,
    /// It was asked for under continuous access evaluation.
    pub cae: bool,
}
