//! Redemption: a code becomes a grant, and the grant a connection, or one that waits for its confirmation.

use std::time::Duration;

use crate::authority::{RedeemFailure, RedeemRequest, TokenAnswer};
use crate::broker::connect::SWAP_TRIES;
use crate::broker::rights::{Barred, Right};
use crate::broker::session::{ConnectSession, ConnectState};
use crate::broker::sign_in_permits::SignInPermit;
use crate::broker::{App, Broker, FailureReason, SessionFailure, SessionState};
use crate::domain::account::Account;
use crate::domain::connection::Profile;
use crate::domain::id::{AppName, SessionId};
use crate::domain::random::random_bytes;
use crate::domain::scope::ScopeSet;
use crate::domain::secret::{AuthorizationCode, CodeVerifier, ConfirmationCode};
use crate::refresh::{held_token, warn_of_remarks};
use crate::repository::{Redeemed, SecretHash};
use crate::store::Floor;

/// How long storing a code's result is retried …
const KEEP_TRYING: Duration = Duration::from_secs(10);
/// … with this pause in between.
const KEEP_AGAIN: Duration = Duration::from_millis(250);

impl Broker {
    /// Redeems the code, and checks the account and the scopes of the answer. `permit` is for the call.
    pub(super) async fn redeem(
        &self,
        right: &Right,
        app: &App,
        session: &ConnectSession,
        (state, code): (&ConnectState, &AuthorizationCode),
        permit: Option<SignInPermit>,
    ) -> Result<Redeemed, SessionFailure> {
        // Read before the grant exists, so that a later delete covers it too.
        let floor = self.deps.repository.floor(right.key()).await.map_err(|error| {
            tracing::error!(
                app = %session.app, connection = %session.connection, %error,
                "a code is not redeemed: the connection's deletes cannot be read"
            );
            SessionFailure::from(FailureReason::Internal)
        })?;
        // (The same of what was there: nothing is read between the answer and its keeping.)
        let before = self.deps.repository.load(right.key()).await.ok().flatten();
        let naming = app.naming();
        let requested = naming.scopes_lossy(session.scopes.iter().map(String::as_str));
        // A code is redeemed for one resource; the refresh token gets the others' tokens when they are
        // needed.
        let resource = naming.primary_resource(&requested);
        let scopes = requested.of_resource(resource.as_deref());
        let verifier = CodeVerifier::new(state.verifier.clone());
        if let Some(permit) = &permit {
            permit.spend();
        }
        let answer = app
            .authority
            .redeem(RedeemRequest {
                code,
                verifier: &verifier,
                redirect_uri: &state.redirect_uri,
                nonce: &state.nonce,
                sent_to_issuer: &state.issuer,
                scopes: &scopes,
            })
            .await
            .map_err(|refused| {
                let (failure, error) = match &refused {
                    RedeemFailure::TenantNotAllowed(failure) => {
                        (failure, Some(FailureReason::TenantNotAllowed.as_str()))
                    }
                    RedeemFailure::Authority(failure) => (failure, failure.answer.error.as_deref()),
                };
                tracing::warn!(
                    app = %session.app, connection = %session.connection, %failure,
                    error, error_codes = ?failure.answer.error_codes,
                    trace_id = failure.answer.trace_id, correlation_id = failure.answer.correlation_id,
                    "a code could not be redeemed"
                );
                match refused {
                    RedeemFailure::TenantNotAllowed(_) => FailureReason::TenantNotAllowed.into(),
                    RedeemFailure::Authority(failure) => {
                        SessionFailure::of_disposition(failure.disposition, failure.answer)
                    }
                }
            })?;
        let nonce = random_bytes(self.deps.random.as_ref());
        let redeemed = redeemed(app, session, &requested, resource, answer, (floor, nonce))?;
        let before = before.map(|loaded| loaded.connection.profile);
        self.tenant_let_sign_in(&right.key().app, &redeemed.account, before.as_ref());
        Ok(redeemed)
    }

    /// Tells that the tenant of this account let a grant work. That shows now, and not when the connection is
    /// made: a confirmation may come minutes later.
    fn tenant_let_sign_in(&self, app: &AppName, account: &Account, before: Option<&Profile>) {
        let same_account = before.filter(|before| before.account().id() == account.id());
        let status = same_account.map(|before| before.status());
        self.deps.engine.signed_in(app, account.tid.as_deref(), status);
    }

    /// Turns a redemption into its session's outcome: connected, waiting for a confirmation, or failed.
    pub(super) async fn settle(
        &self,
        app: &App,
        session: &ConnectSession,
        redeemed: Result<Redeemed, SessionFailure>,
        code: ConfirmationCode,
    ) -> (SessionState, Option<ConfirmationCode>) {
        let failed = |reason| (SessionState::failed(reason), None);
        let redeemed = match redeemed {
            Ok(redeemed) => redeemed,
            Err(failure) => return (SessionState::Failed(failure), None),
        };
        let account = redeemed.account.clone();
        let refused = |reason| (SessionState::Failed(SessionFailure::of_account(reason, &account)), None);
        if !app.tenants.allow(&account) {
            return refused(FailureReason::TenantNotAllowed);
        }
        let begun = self.deps.clock.monotonic();
        if let Some(pinned) = &session.pinned {
            if account.id() != *pinned {
                return refused(FailureReason::AccountMismatch);
            }
            loop {
                match self.keep_connection(session, &redeemed, None).await {
                    Ok(()) => return (SessionState::Connected { account, code_hash: None }, None),
                    Err(FailureReason::Internal) if self.may_keep_again(begun).await => {}
                    Err(reason) => return failed(reason),
                }
            }
        }
        let now = self.deps.clock.now();
        let ttl = self.settings().confirmation_ttl;
        let code_hash = SecretHash::of(code.expose());
        // Keyed by the code and not by the session, so that two sign-ins keep their own.
        while let Err(error) = self.deps.repository.put_redeemed(&code_hash, &redeemed, now, ttl).await {
            tracing::error!(%error, "a grant that waits for its confirmation could not be kept");
            if !self.may_keep_again(begun).await {
                return failed(FailureReason::Internal);
            }
        }
        // The account is known now. The grant is stored first: if the right cannot be judged now, no grant is
        // lost, for the confirmation judges it again.
        match self.right_of_session(session, Some(&account)).await {
            Ok(_) | Err(Barred::Unavailable(_)) => {}
            Err(barred) => {
                if let Err(error) = self.deps.repository.discard_redeemed(&code_hash).await {
                    tracing::warn!(
                        %error,
                        "a grant that may not be stored could not be destroyed; it expires"
                    );
                }
                return failed(barred.reason());
            }
        }
        let waiting =
            SessionState::AwaitingConfirmation { account, code_hash, wrong_codes: 0, until: now.plus(ttl) };
        (waiting, Some(code))
    }

    /// Waits before storing a code's result is retried: the result is nowhere else, and the code is used up.
    /// Returns false once that has been tried for long enough.
    async fn may_keep_again(&self, begun: Duration) -> bool {
        if self.deps.clock.monotonic().saturating_sub(begun) >= KEEP_TRYING {
            return false;
        }
        self.deps.clock.sleep(KEEP_AGAIN).await;
        true
    }

    /// Moves a pending session to its outcome. If the session has another state by now, returns that.
    pub(super) async fn conclude(&self, id: &SessionId, outcome: SessionState) -> SessionState {
        for _ in 0..SWAP_TRIES {
            let Ok(taken) = self.session(id).await else { break };
            if taken.value.state != SessionState::Pending {
                return taken.value.state;
            }
            let mut after = taken.value.clone();
            after.state = outcome.clone();
            match self.swap_session(id, &taken, &after).await {
                Ok(true) => return outcome,
                Ok(false) => {}
                Err(_) => break,
            }
        }
        tracing::error!("a connect session's outcome could not be stored");
        SessionState::failed(FailureReason::Internal)
    }
}

/// Checks an account's answer, and returns what to store or why nothing is stored.
fn redeemed(
    app: &App,
    session: &ConnectSession,
    requested: &ScopeSet,
    resource: Option<String>,
    answer: TokenAnswer,
    (floor, nonce): (Floor, [u8; 8]),
) -> Result<Redeemed, FailureReason> {
    let naming = app.naming();
    let account = answer.account.clone().ok_or(FailureReason::AuthorityError)?;
    let Some(refresh_token) = answer.refresh_token.clone() else {
        tracing::warn!(
            app = %session.app, connection = %session.connection,
            "the authority gave no refresh token; is offline_access among the app's scopes and granted?"
        );
        return Err(FailureReason::ScopeMissing);
    };
    warn_of_remarks(&session.key(), &answer.remarks);
    let answered = naming.scopes_lossy(answer.scopes.iter().map(String::as_str));
    // The answer covers one resource. Consent for the others shows when their tokens are fetched.
    let others = requested.iter().filter(|scope| {
        scope.resource().is_some() && scope.resource() != resource.as_deref() && !answered.contains(scope)
    });
    let granted: ScopeSet = answered.iter().chain(others).cloned().collect();
    Ok(Redeemed {
        account,
        scopes_granted: granted.to_words(),
        refresh_token,
        token: held_token(answer, resource),
        floor,
        nonce,
    })
}
