//! The client of one app's authority. It implements the port with the files below it.

mod adopt;
mod answered;
mod app_token;
mod config;
mod documents;
mod examine;
mod failure;
mod hosts;
mod proof;
mod redeem;
mod refresh;
mod registration;
mod subject;
mod token_call;
mod transport;
mod urls;

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

pub use self::config::{AuthorityConfig, AuthorityConfigError, AuthorityParts, ResponseMode};
use self::documents::Documents;
pub use self::examine::{LookedAt, RedirectSeen, Registered, RegistrationSeen, Way};
use self::registration::Registration;
use self::transport::Transport;
use self::urls::{Authorize, admin_consent_url};
use super::client_auth::{ClientCredential, SecretMethod};
use super::clouds::Provider;
use super::credential_set::CredentialSet;
use super::http::HttpClient;
use super::{
    AdminConsentRequest, AdoptRequest, Adopted, AppTokenRequest, Authority, AuthorizeRequest, AuthorizeUrl,
    RedeemFailure, RedeemRequest, RedirectError, RedirectRefusal, RefreshRequest, Refreshed, Subject,
    SubjectRefusal, TokenAnswer, UserToken, UserTokenKind,
};
use crate::domain::scope::ScopeNaming;
use crate::domain::task::BoxFuture;
use crate::domain::verdict::AuthorityFailure;

/// An OpenID authority, Entra or another, with one app's credentials. One for each app.
pub struct OpenIdAuthority {
    app: Arc<Registration>,
    transport: Arc<Transport>,
    documents: Documents,
    credentials: ArcSwap<CredentialSet>,
    /// The method by which the authority accepted a secret, if none is configured.
    seen_method: Mutex<Option<SecretMethod>>,
    parts: AuthorityParts,
}

impl OpenIdAuthority {
    /// Checks the configuration and makes the client. Nothing is sent yet.
    pub fn new(
        config: AuthorityConfig,
        credentials: Vec<ClientCredential>,
        parts: AuthorityParts,
    ) -> Result<Self, AuthorityConfigError> {
        let app = Arc::new(Registration::new(config)?);
        let http = HttpClient::new(
            app.expected.authority.host(),
            &app.config.roots,
            &app.config.outbound,
            app.may_replay,
            Arc::clone(&parts.clock),
        );
        let transport = Arc::new(Transport::new(http.map_err(AuthorityConfigError::Roots)?, &parts));
        Ok(OpenIdAuthority {
            documents: Documents::new(Arc::clone(&app), Arc::clone(&transport), &parts.clock),
            credentials: ArcSwap::from_pointee(CredentialSet::new(credentials, parts.clock.now())),
            seen_method: Mutex::default(),
            app,
            transport,
            parts,
        })
    }

    /// Returns the kind of authority.
    pub fn provider(&self) -> Provider {
        self.app.provider()
    }

    /// Returns the tenant in which the app is registered, by its id or domain, if it is known.
    pub fn home_tenant(&self) -> Option<&str> {
        self.app.home_tenant()
    }

    /// Returns the present credentials.
    pub fn credentials(&self) -> Arc<CredentialSet> {
        self.credentials.load_full()
    }

    /// Takes these credentials into service. Knowledge about them is taken over from the previous authority
    /// if the registration is the same, and its documents if they would be the same: an authority that is
    /// down at the moment then stops no refresh.
    pub fn succeed(&self, before: Option<&OpenIdAuthority>, credentials: Vec<ClientCredential>) {
        let same = |before: &&OpenIdAuthority| {
            before.app.config.client_id == self.app.config.client_id
                && before.app.config.authority == self.app.config.authority
        };
        if let Some(before) = before {
            self.documents.take_over(&before.documents);
        }
        let now = self.parts.clock.now();
        let set = match before.filter(same) {
            Some(before) => {
                let set = before.credentials().succeeded_by(credentials, now);
                if !std::ptr::eq(before, self) {
                    set.ask_anew();
                    self.set_seen_method(before.seen_method());
                }
                set
            }
            None => {
                let set = CredentialSet::new(credentials, now);
                // Operators' choices go by content, so they also hold at another address of the authority.
                if let Some(before) = before {
                    set.choose(&before.credentials().choices());
                }
                set
            }
        };
        self.credentials.store(Arc::new(set));
    }

    /// Fetches the discovery document and the keys again, whatever their age, if they are here at all: for an
    /// operator who knows that a key must no longer be believed. A document that cannot be fetched stays.
    pub async fn renew_documents(&self) -> Result<(), AuthorityFailure> {
        self.documents.renew().await
    }

    /// Fetches the discovery document if it is not here yet, to check the configuration against the
    /// authority.
    pub async fn probe(&self) -> Result<(), AuthorityFailure> {
        let metadata = self.documents.metadata("reaching the authority").await?;
        self.documents.keys("reaching the authority", &metadata).await.map(|_| ())
    }
}

impl Authority for OpenIdAuthority {
    fn scope_naming(&self) -> &ScopeNaming {
        &self.app.naming
    }

    fn may_replay_refresh_tokens(&self) -> bool {
        self.app.may_replay
    }

    fn authorize_url<'a>(
        &'a self,
        request: &'a AuthorizeRequest,
    ) -> BoxFuture<'a, Result<AuthorizeUrl, AuthorityFailure>> {
        Box::pin(async move {
            let authorize = Authorize::new(&self.app, request)?;
            let metadata = self.documents.metadata(Authorize::DOING).await?;
            Ok(authorize.url(&self.app, &metadata))
        })
    }

    fn judge_redirect(&self, error: &RedirectError) -> RedirectRefusal {
        error.judge(self.provider(), self.app.one_tenant)
    }

    fn redeem<'a>(&'a self, request: RedeemRequest<'a>) -> BoxFuture<'a, Result<TokenAnswer, RedeemFailure>> {
        Box::pin(self.redeem_code(request))
    }

    fn refresh<'a>(
        &'a self,
        request: RefreshRequest<'a>,
    ) -> BoxFuture<'a, Result<Refreshed, AuthorityFailure>> {
        Box::pin(self.use_refresh_token(request))
    }

    fn adopt<'a>(&'a self, request: AdoptRequest<'a>) -> BoxFuture<'a, Result<Adopted, AuthorityFailure>> {
        Box::pin(self.adopt_grant(request))
    }

    fn client_id(&self) -> &str {
        &self.app.config.client_id
    }

    fn app_token<'a>(
        &'a self,
        request: AppTokenRequest<'a>,
    ) -> BoxFuture<'a, Result<TokenAnswer, AuthorityFailure>> {
        Box::pin(self.get_app_token(request))
    }

    fn registration(&self) -> String {
        format!("{} {}", self.app.config.client_id, self.app.config.authority)
    }

    fn admin_consent_url<'a>(
        &'a self,
        request: &'a AdminConsentRequest,
    ) -> BoxFuture<'a, Result<Option<String>, AuthorityFailure>> {
        Box::pin(std::future::ready(admin_consent_url(&self.app, request)))
    }

    fn is_audience_of(&self, token: &UserToken<'_>) -> bool {
        token.0.names_audience(&self.app.config.client_id)
    }

    fn verify_user_token<'a>(
        &'a self,
        token: &'a UserToken<'a>,
        kind: UserTokenKind,
    ) -> BoxFuture<'a, Result<Subject, SubjectRefusal>> {
        Box::pin(self.check_user_token(token, kind))
    }
}
