//! A fake authority that is only asked to refresh.

use std::sync::Arc;

use crate::authority::{
    AdminConsentRequest, Authority, AuthorizeRequest, AuthorizeUrl, RedeemFailure, RedeemRequest,
    RefreshRequest, Refreshed, TokenAnswer,
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
}

/// An authority that answers refreshes as it is told, and has no page for a browser.
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
        Box::pin(async { Err(no_browser()) })
    }

    fn redeem<'a>(
        &'a self,
        _request: RedeemRequest<'a>,
    ) -> BoxFuture<'a, Result<TokenAnswer, RedeemFailure>> {
        Box::pin(async { Err(no_browser().into()) })
    }

    fn refresh<'a>(
        &'a self,
        request: RefreshRequest<'a>,
    ) -> BoxFuture<'a, Result<Refreshed, AuthorityFailure>> {
        self.answers.refresh(request)
    }

    fn admin_consent_url<'a>(
        &'a self,
        _request: &'a AdminConsentRequest,
    ) -> BoxFuture<'a, Result<Option<String>, AuthorityFailure>> {
        Box::pin(async { Ok(None) })
    }
}

fn no_browser() -> AuthorityFailure {
    AuthorityFailure {
        doing: "answering a browser",
        cause: "there is no browser".into(),
        disposition: Disposition::Bug,
        answer: AuthorityError::default(),
        claims: None,
    }
}
