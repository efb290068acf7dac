//! A fake authority that is only asked for tokens.

use std::sync::Arc;

use crate::authority::{
    AdminConsentRequest, AdoptRequest, Adopted, AppTokenRequest, Authority, AuthorizeRequest, AuthorizeUrl,
    RedeemFailure, RedeemRequest, RefreshRequest, Refreshed, Subject, SubjectRefusal, TokenAnswer, UserToken,
    UserTokenKind,
};
use crate::domain::scope::ScopeNaming;
use crate::domain::task::BoxFuture;
use crate::domain::verdict::{AuthorityError, AuthorityFailure, Disposition};

/// How a fake authority answers refreshes.
pub(crate) trait Refreshes: Send + Sync {
    fn refresh<'a>(
        &'a self,
        request: RefreshRequest<'a>,
    ) -> BoxFuture<'a, Result<Refreshed, AuthorityFailure>>;

    /// Answers a request for a token of the app itself.
    fn app_token<'a>(
        &'a self,
        _request: AppTokenRequest<'a>,
    ) -> BoxFuture<'a, Result<TokenAnswer, AuthorityFailure>> {
        Box::pin(async { Err(not_asked("getting a token of the app's own")) })
    }
}

/// An authority that answers as it is told, and has no page for a browser.
pub(crate) struct OnlyRefreshes<T> {
    pub(crate) naming: ScopeNaming,
    pub(crate) may_replay: bool,
    pub(crate) answers: Arc<T>,
}

impl<T: Refreshes> Authority for OnlyRefreshes<T> {
    fn scope_naming(&self) -> &ScopeNaming {
        &self.naming
    }

    fn may_replay_refresh_tokens(&self) -> bool {
        self.may_replay
    }

    fn authorize_url<'a>(
        &'a self,
        _request: &'a AuthorizeRequest,
    ) -> BoxFuture<'a, Result<AuthorizeUrl, AuthorityFailure>> {
        Box::pin(async { Err(not_asked("answering a browser")) })
    }

    fn redeem<'a>(
        &'a self,
        _request: RedeemRequest<'a>,
    ) -> BoxFuture<'a, Result<TokenAnswer, RedeemFailure>> {
        Box::pin(async { Err(not_asked("answering a browser").into()) })
    }

    fn refresh<'a>(
        &'a self,
        request: RefreshRequest<'a>,
    ) -> BoxFuture<'a, Result<Refreshed, AuthorityFailure>> {
        self.answers.refresh(request)
    }

    fn adopt<'a>(&'a self, _request: AdoptRequest<'a>) -> BoxFuture<'a, Result<Adopted, AuthorityFailure>> {
        Box::pin(async { Err(not_asked("proving a grant that is imported")) })
    }

    fn client_id(&self) -> &str {
        "the only one"
    }

    fn app_token<'a>(
        &'a self,
        request: AppTokenRequest<'a>,
    ) -> BoxFuture<'a, Result<TokenAnswer, AuthorityFailure>> {
        self.answers.app_token(request)
    }

    fn registration(&self) -> String {
        "the only one".to_owned()
    }

    fn admin_consent_url<'a>(
        &'a self,
        _request: &'a AdminConsentRequest,
    ) -> BoxFuture<'a, Result<Option<String>, AuthorityFailure>> {
        Box::pin(async { Ok(None) })
    }

    fn is_audience_of(&self, _token: &UserToken<'_>) -> bool {
        false
    }

    fn verify_user_token<'a>(
        &'a self,
        _token: &'a UserToken<'a>,
        _kind: UserTokenKind,
    ) -> BoxFuture<'a, Result<Subject, SubjectRefusal>> {
        Box::pin(async { Err(not_asked("checking a user's token").into()) })
    }
}

fn not_asked(doing: &'static str) -> AuthorityFailure {
    AuthorityFailure {
        doing,
        cause: "this authority is not asked for that".into(),
        disposition: Disposition::Bug,
        answer: AuthorityError::default(),
        claims: None,
    }
}
