//! Stored records: connect sessions, and the state of an authorize request.

use serde::{Deserialize, Serialize};

use crate::authority::RedirectRefusal;
use crate::domain::account::{Account, AccountId};
use crate::domain::id::{AppName, ConnectionKey, ConnectionName, SessionId};
use crate::domain::revocation::Revocation;
use crate::domain::time::Timestamp;
use crate::domain::verdict::{AuthorityError, BlockReason, Disposition, ReauthReason};
use crate::repository::SecretHash;

/// Reason why a session failed, as the product reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    /// The user refused, or the confirmation was refused.
    AccessDenied,
    /// Another account signed in than the session was made for.
    AccountMismatch,
    /// The tenant's administrator must approve the app first.
    AdminConsentRequired,
    /// A scope that tokenward needs (offline access) is missing, so there is nothing to store.
    ScopeMissing,
    /// The account's tenant is not allowed for this app.
    TenantNotAllowed,
    /// It took too long.
    Expired,
    /// The authority did not complete the sign-in.
    AuthorityError,
    /// The caller that started it may no longer connect this.
    CallerForbidden,
    /// An operator paused the connection.
    ConnectionPaused,
    /// An operator revoked what the session was started for.
    Revoked,
    /// A failure of tokenward.
    Internal,
}

impl FailureReason {
    /// Its name in the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            FailureReason::AccessDenied => "access_denied",
            FailureReason::AccountMismatch => "account_mismatch",
            FailureReason::AdminConsentRequired => "admin_consent_required",
            FailureReason::ScopeMissing => "scope_missing",
            FailureReason::TenantNotAllowed => "tenant_not_allowed",
            FailureReason::Expired => "expired",
            FailureReason::AuthorityError => "authority_error",
            FailureReason::CallerForbidden => "caller_forbidden",
            FailureReason::ConnectionPaused => "connection_paused",
            FailureReason::Revoked => "revoked",
            FailureReason::Internal => "internal",
        }
    }
}

/// Who can correct the cause of a failed sign-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mender {
    /// The user, by trying in another way.
    #[default]
    User,
    /// An administrator of the user's organisation.
    Administrator,
    /// The people who run the app: its registration or its configuration.
    Operator,
    /// Nobody needs to: it passes.
    Time,
    /// The authority's answer does not tell.
    Unknown,
}

/// A failed sign-in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionFailure {
    /// Reason, in our words.
    pub reason: FailureReason,
    /// Who can correct it.
    #[serde(default)]
    pub mender: Mender,
    /// The authority's answer: checked words and numbers, and none of its free text.
    #[serde(default)]
    pub answer: AuthorityError,
    /// True if a browser reported it, so that its user may have forged it. Otherwise the authority told us.
    #[serde(default)]
    pub by_browser: bool,
    /// The request in which it failed. The log, the audit and the page have its id.
    #[serde(default)]
    pub noted: Option<Noted>,
    /// Username of the account that came back and was not connected. It is shown to the browser that brought
    /// it, and to nobody else.
    #[serde(default)]
    pub came_back: Option<String>,
}

/// The request in which a sign-in failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// Its id.
    pub request_id: String,
    /// When it was.
    pub at: Timestamp,
}

impl SessionFailure {
    /// Makes the failure of a session from the authority's refusal of its code.
    pub(super) fn of_disposition(disposition: Disposition, answer: AuthorityError) -> Self {
        let (reason, mender) = match disposition {
            Disposition::Blocked(BlockReason::AdminConsentRequired)
            | Disposition::Reauthorize(ReauthReason::ConsentRequired, _) => {
                (FailureReason::AdminConsentRequired, Mender::Administrator)
            }
            Disposition::Blocked(_) => (FailureReason::AccessDenied, Mender::Administrator),
            Disposition::Reauthorize(..) => (FailureReason::AccessDenied, Mender::User),
            Disposition::Restart => (FailureReason::AuthorityError, Mender::User),
            Disposition::RetryAfter(_) | Disposition::OutcomeUnknown => {
                (FailureReason::AuthorityError, Mender::Time)
            }
            Disposition::Unclear => (FailureReason::AuthorityError, Mender::Unknown),
            Disposition::NextCredential
            | Disposition::Misconfigured
            | Disposition::CallerFault
            | Disposition::Bug => (FailureReason::AuthorityError, Mender::Operator),
        };
        SessionFailure { mender, answer, ..reason.into() }
    }

    /// Makes the failure of a session from a refusal that the browser brought back.
    pub(super) fn of_redirect(refusal: RedirectRefusal, answer: AuthorityError) -> Self {
        let failure = match refusal {
            RedirectRefusal::Declined => SessionFailure { answer, ..FailureReason::AccessDenied.into() },
            RedirectRefusal::WrongAccount => {
                SessionFailure { answer, ..FailureReason::TenantNotAllowed.into() }
            }
            // A sign-in that was to happen without the user, and could not.
            RedirectRefusal::As(Disposition::Restart) => {
                SessionFailure { answer, ..FailureReason::AccessDenied.into() }
            }
            RedirectRefusal::As(disposition) => SessionFailure::of_disposition(disposition, answer),
        };
        SessionFailure { by_browser: true, ..failure }
    }

    /// Makes the failure of a sign-in with an account that may not be connected.
    pub(super) fn of_account(reason: FailureReason, account: &Account) -> Self {
        SessionFailure { came_back: account.username.clone(), ..reason.into() }
    }

    /// Adds the request in which it failed.
    pub(super) fn noted(self, request_id: &str, at: Timestamp) -> Self {
        SessionFailure { noted: Some(Noted { request_id: request_id.to_owned(), at }), ..self }
    }
}

impl From<FailureReason> for SessionFailure {
    fn from(reason: FailureReason) -> Self {
        let mender = match reason {
            FailureReason::AdminConsentRequired => Mender::Administrator,
            FailureReason::AuthorityError => Mender::Unknown,
            FailureReason::Internal => Mender::Time,
            FailureReason::CallerForbidden | FailureReason::ConnectionPaused => Mender::Operator,
            FailureReason::AccessDenied
            | FailureReason::AccountMismatch
            | FailureReason::ScopeMissing
            | FailureReason::TenantNotAllowed
            | FailureReason::Revoked
            | FailureReason::Expired => Mender::User,
        };
        SessionFailure {
            reason,
            mender,
            answer: AuthorityError::default(),
            by_browser: false,
            noted: None,
            came_back: None,
        }
    }
}

/// State of a connect session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum SessionState {
    /// No browser has come back yet.
    Pending,
    /// A user signed in; the starter must confirm that it is the right one.
    AwaitingConfirmation {
        /// The account that signed in.
        account: Account,
        /// SHA-256 of the one-time code that the browser took back to the product.
        code_hash: SecretHash,
        /// Number of wrong codes.
        wrong_codes: u8,
        /// End of the wait.
        until: Timestamp,
    },
    /// The connection exists.
    Connected {
        /// Its account.
        account: Account,
        /// Hash of the code that confirmed it, so that a repeated confirmation gets the same answer.
        code_hash: Option<SecretHash>,
    },
    /// The sign-in failed.
    Failed(SessionFailure),
    /// It took too long.
    Expired,
}

impl SessionState {
    /// Its name in the contract.
    pub fn as_str(&self) -> &'static str {
        match self {
            SessionState::Pending => "pending",
            SessionState::AwaitingConfirmation { .. } => "awaiting_confirmation",
            SessionState::Connected { .. } => "connected",
            SessionState::Failed(_) => "failed",
            SessionState::Expired => "expired",
        }
    }

    /// Makes the failed state with this reason.
    pub(super) fn failed(reason: FailureReason) -> Self {
        SessionState::Failed(reason.into())
    }

    /// Adds the request in which it failed, if it failed.
    pub(super) fn noted(self, request_id: &str, at: Timestamp) -> Self {
        match self {
            SessionState::Failed(failure) => SessionState::Failed(failure.noted(request_id, at)),
            state => state,
        }
    }

    /// Returns true if it failed for this reason.
    pub fn is_failed_for(&self, reason: FailureReason) -> bool {
        matches!(self, SessionState::Failed(failure) if failure.reason == reason)
    }
}

/// A connect session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ConnectSession {
    pub(super) app: AppName,
    pub(super) connection: ConnectionName,
    pub(super) scopes: Vec<String>,
    pub(super) created_by: String,
    /// The earliest instant for a session of a build that did not record it.
    #[serde(default)]
    pub(super) started_at: Timestamp,
    pub(super) expires_at: Timestamp,
    /// Only this account may sign in, and then no confirmation is needed.
    pub(super) pinned: Option<AccountId>,
    /// The connection may change to another account …
    pub(super) change_account: bool,
    /// … from the one that it had when the session was started.
    #[serde(default)]
    pub(super) seen: Option<AccountId>,
    pub(super) login_hint: Option<String>,
    pub(super) domain_hint: Option<String>,
    pub(super) prompt: Option<String>,
    pub(super) return_url: Option<String>,
    /// SHA-256 of the binding of the browser that began the flow.
    pub(super) browser: Option<String>,
    /// Number of presses of its button.
    #[serde(default)]
    pub(super) presses: u32,
    /// Authorize requests of the last few presses, oldest first.
    #[serde(default)]
    pub(super) states: Vec<SecretHash>,
    pub(super) state: SessionState,
    /// Labels for the connection; `None` leaves those that it has.
    #[serde(default)]
    pub(super) labels: Option<Vec<String>>,
}

impl ConnectSession {
    pub(super) fn key(&self) -> ConnectionKey {
        ConnectionKey { app: self.app.clone(), connection: self.connection.clone() }
    }

    /// Returns the state at `now`: an expired or revoked session is over, even if nothing recorded that.
    pub(super) fn state_at(&self, now: Timestamp, is_revoked: impl Fn() -> bool) -> SessionState {
        let is_over = match &self.state {
            SessionState::Pending => now >= self.expires_at,
            SessionState::AwaitingConfirmation { until, .. } => now >= *until,
            state => return state.clone(),
        };
        match is_over {
            true => SessionState::Expired,
            false if is_revoked() => SessionState::failed(FailureReason::Revoked),
            false => self.state.clone(),
        }
    }

    /// Returns the tenants it concerns, as far as known: those of the signed-in account, of the pinned one,
    /// and of the connection's earlier one.
    pub(super) fn tenants(&self) -> impl Iterator<Item = &str> {
        let came_back = match &self.state {
            SessionState::AwaitingConfirmation { account, .. } | SessionState::Connected { account, .. } => {
                account.tid.as_deref()
            }
            SessionState::Pending | SessionState::Failed(_) | SessionState::Expired => None,
        };
        let named = [&self.pinned, &self.seen].into_iter().flatten().filter_map(|account| match account {
            AccountId::Entra { tid, .. } => Some(tid.as_str()),
            AccountId::OpenId { .. } => None,
        });
        came_back.into_iter().chain(named)
    }

    /// Returns true if a revocation covers it. `account` is the signed-in account, if the session does not
    /// have it yet.
    pub(super) fn is_meant_by(&self, revocation: &Revocation, account: Option<&Account>) -> bool {
        let tenants = self.tenants().chain(account.and_then(|account| account.tid.as_deref()));
        tenants
            .map(Some)
            .chain([None])
            .any(|tenant| revocation.covers_what_began(&self.app, tenant, &self.created_by, self.started_at))
    }
}

/// An authorize request under way, stored under the hash of its `state`.
#[derive(Serialize, Deserialize)]
pub(super) struct AuthorizeState {
    pub(super) app: AppName,
    pub(super) purpose: Purpose,
}

/// The purpose of its callback.
#[derive(Serialize, Deserialize)]
pub(super) enum Purpose {
    /// A sign-in whose callback has not come.
    Connect(ConnectState),
    /// A sign-in whose callback came: its browser may repeat it, which does nothing more.
    Answered(Answered),
    AdminConsent {
        #[serde(serialize_with = "SessionId::serialize_to_be_sealed")]
        session: SessionId,
    },
}

/// What is stored about a callback, so that its browser may repeat it (reload, Back) and gets the same
/// outcome.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Answered {
    #[serde(serialize_with = "SessionId::serialize_to_be_sealed")]
    pub(super) session: SessionId,
    pub(super) browser: String,
    /// SHA-256 of the authorization code. A client that knows the `state` and has the cookie, but not this
    /// code, was not there when the user came back, and does not get the confirmation code.
    pub(super) brought: Option<String>,
    /// The code that the browser takes back to the product, if there is one.
    pub(super) confirmation_code: String,
}

/// What a sign-in's callback is checked against.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct ConnectState {
    #[serde(serialize_with = "SessionId::serialize_to_be_sealed")]
    pub(super) session: SessionId,
    pub(super) browser: String,
    pub(super) verifier: String,
    pub(super) nonce: String,
    pub(super) issuer: String,
    pub(super) iss_required: bool,
    pub(super) redirect_uri: String,
}

/// An admin consent session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ConsentSession {
    pub(super) app: AppName,
    pub(super) tenant: Option<String>,
    pub(super) scopes: Vec<String>,
    pub(super) created_by: String,
    /// As in [`ConnectSession`].
    #[serde(default)]
    pub(super) started_at: Timestamp,
    pub(super) expires_at: Timestamp,
    pub(super) return_url: Option<String>,
    pub(super) state: ConsentState,
}

impl ConsentSession {
    /// Returns true if a revocation covers it.
    pub(super) fn is_meant_by(&self, revocation: &Revocation) -> bool {
        [self.tenant.as_deref(), None]
            .into_iter()
            .any(|tenant| revocation.covers_what_began(&self.app, tenant, &self.created_by, self.started_at))
    }
}

/// State of an admin consent session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ConsentState {
    /// No redirect has come back yet.
    Pending,
    /// The redirect came back. It can be forged, so it proves nothing.
    Reported {
        /// The tenant it named.
        tenant: Option<String>,
        /// When it came.
        at: Timestamp,
    },
    /// A user's token call in that tenant has shown the scopes.
    Consented {
        /// The tenant.
        tenant: String,
    },
    /// The administrator refused, or could not approve.
    Failed(SessionFailure),
    /// It took too long.
    Expired,
}

impl ConsentState {
    /// Its name in the contract.
    pub fn as_str(&self) -> &'static str {
        match self {
            ConsentState::Pending => "pending",
            ConsentState::Reported { .. } => "reported",
            ConsentState::Consented { .. } => "consented",
            ConsentState::Failed(_) => "failed",
            ConsentState::Expired => "expired",
        }
    }
}
