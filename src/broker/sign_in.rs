//! The browser's part of a connect session: a button that sends it to the authority, and the callback with
//! which it comes back.
//!
//! Against capture: if another user opens a link made for one user, the other's account waits for a
//! confirmation, which the product gives only to the signed-in user that it made the link for.

mod callback;
mod outcome;
mod press;
mod redeem;

pub(super) use outcome::return_to;

use super::{FailureReason, Refusal, SessionFailure, SessionState};
use crate::authority::RedirectError;
use crate::domain::id::{AppName, ConnectionKey, SessionId};
use crate::domain::secret::AuthorizationCode;
use crate::domain::task::BoxFuture;

/// The URL for the browser, and its binding.
pub struct Begun {
    /// URL of the authority's page.
    pub url: String,
    /// The binding to set as a cookie; `None` if the browser sent it.
    pub binding: Option<String>,
}

/// Reason why a browser cannot begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CannotBegin {
    /// The session does not exist, or no longer.
    Gone,
    /// The session is over: connected, failed, waiting or expired.
    Over(SessionState),
    /// Another browser has begun it.
    AnotherBrowser,
    /// Its button was pressed too often.
    TooOften,
    /// The starter may not connect this now. The session stays as it is, for that may change.
    Barred(FailureReason),
    /// The authority or the store is unavailable.
    Unavailable(Refusal),
}

/// Records how a callback ended, and returns its argument.
pub type Tell = dyn Fn(Finished) -> BoxFuture<'static, Finished> + Send + Sync;

/// A callback's parameters, strictly parsed.
pub struct Callback<'a> {
    /// The app from the path.
    pub app: &'a AppName,
    /// Id of the request that brought it.
    pub request_id: &'a str,
    /// `state`.
    pub state: String,
    /// `code` or `error`.
    pub outcome: CallbackOutcome,
    /// `iss` (RFC 9207).
    pub iss: Option<String>,
    /// True if it came too late for a first callback: it may only repeat an earlier one.
    pub only_repeats: bool,
    /// Returns the browser's binding for a session, from its cookie.
    pub binding: &'a (dyn Fn(&str) -> Option<String> + Send + Sync),
}

/// The authority's answer in the redirect.
pub enum CallbackOutcome {
    /// A code to redeem.
    Code(AuthorizationCode),
    /// A refusal.
    Error(RedirectError),
    /// An administrator's answer.
    AdminConsent {
        /// The named tenant; it proves nothing.
        tenant: Option<String>,
    },
}

/// Outcome of a callback.
#[derive(Debug, Clone)]
pub enum Finished {
    /// Nothing was done: the state is unknown, used or expired, or belongs to another browser or app.
    Refused(CallbackProblem),
    /// The session has a new state.
    Session(Box<FinishedSession>),
    /// An administrator answered.
    AdminConsent {
        /// URL for the browser.
        return_to: Option<String>,
        /// The app.
        app: AppName,
        /// The session.
        session: SessionId,
        /// Why the administrator did not approve; `None` if the redirect says that it was approved.
        refused: Option<Box<SessionFailure>>,
        /// True if the callback repeats one that has ended.
        repeated: bool,
    },
}

/// Reason why a callback was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallbackProblem {
    /// Unknown, used or expired.
    UnknownState,
    /// Begun in another browser.
    AnotherBrowser,
    /// It is not for this app, or not from the issuer that was asked.
    MixedUp,
    /// It repeats a callback that is still being processed.
    UnderWay,
    /// The caller's sign-ins come back faster than codes are redeemed; this code was not sent.
    Crowded,
    /// The store is unavailable.
    Unavailable,
}

/// A connect session after its callback.
#[derive(Debug, Clone)]
pub struct FinishedSession {
    /// Its id.
    pub id: SessionId,
    /// Its connection.
    pub key: ConnectionKey,
    /// The caller that started it.
    pub started_by: String,
    /// Its present state.
    pub state: SessionState,
    /// True if the callback repeats one that has ended.
    pub repeated: bool,
    /// True if the new connection has been deleted since.
    pub gone_since: bool,
    /// The return URL with its parameters; `None` if a page is shown.
    pub return_to: Option<String>,
}
