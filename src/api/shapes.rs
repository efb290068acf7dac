//! The JSON shapes of the contract, shared by the local and the admin API.

use serde::{Deserialize, Serialize};

use crate::broker::inspect::{Shown, ShownPage};
use crate::broker::session_list::ShownSession;
use crate::broker::{FailureReason, Mender, SessionFailure, SessionState};
use crate::domain::account::{Account, AccountId};
use crate::domain::connection::{Attempt, DAMAGED};
use crate::domain::id::CallerName;
use crate::domain::tenant_block::Block;
use crate::domain::time::Timestamp;

/// An account as it is shown.
#[derive(Serialize)]
pub struct AccountShape {
    #[serde(skip_serializing_if = "Option::is_none")]
    tid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
}

impl From<&Account> for AccountShape {
    fn from(account: &Account) -> Self {
        let entra = account.tid.is_some() && account.oid.is_some();
        AccountShape {
            tid: account.tid.clone(),
            oid: account.oid.clone(),
            iss: (!entra).then(|| account.iss.clone()),
            sub: (!entra).then(|| account.sub.clone()),
            username: account.username.clone(),
        }
    }
}

/// An account as a caller names it: `{tid, oid}` or `{iss, sub}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedAccount {
    tid: Option<String>,
    oid: Option<String>,
    iss: Option<String>,
    sub: Option<String>,
    /// Taken, so that what was shown can be sent back as it is; never compared.
    #[serde(default)]
    #[expect(dead_code, reason = "accepted and ignored")]
    username: Option<serde::de::IgnoredAny>,
}

impl NamedAccount {
    /// What it names; none when it names nothing whole.
    pub fn id(self) -> Option<AccountId> {
        account_id(self.tid, self.oid, self.iss, self.sub)
    }
}

/// The account that these members name; none when they name nothing whole.
pub(super) fn account_id(
    tid: Option<String>,
    oid: Option<String>,
    iss: Option<String>,
    sub: Option<String>,
) -> Option<AccountId> {
    match (tid, oid, iss, sub) {
        (Some(tid), Some(oid), _, _) => Some(AccountId::entra(&tid, &oid)),
        (None, None, Some(iss), Some(sub)) => Some(AccountId::OpenId { iss, sub }),
        _ => None,
    }
}

/// A connection as it is shown.
#[derive(Serialize)]
pub struct ConnectionShape {
    app: String,
    connection: String,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    account: AccountShape,
    scopes_requested: Vec<String>,
    scopes_granted: Vec<String>,
    scopes_missing: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    labels: Vec<String>,
    established_by: String,
    created_at: String,
    connected_at: String,
    last_refreshed_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_refresh_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<AttemptShape>,
}

impl From<&Shown> for ConnectionShape {
    fn from(shown: &Shown) -> Self {
        let profile = &shown.profile;
        ConnectionShape {
            app: shown.key.app.to_string(),
            connection: shown.key.connection.to_string(),
            status: profile.status().as_str(),
            reason: profile.status().reason(),
            account: profile.account().into(),
            scopes_requested: profile.scopes_requested().to_vec(),
            scopes_granted: profile.scopes_granted().to_vec(),
            scopes_missing: shown.scopes_missing.clone(),
            labels: profile.labels().to_vec(),
            established_by: profile.connected_by().to_owned(),
            created_at: profile.created_at().rfc3339(),
            connected_at: profile.connected_at().rfc3339(),
            last_refreshed_at: profile.last_refreshed_at().rfc3339(),
            next_refresh_at: shown.next_refresh_at.map(|at| at.rfc3339()),
            last_error: profile.last_error().map(Into::into),
        }
    }
}

/// One try at the authority as it is shown.
#[derive(Serialize)]
pub struct AttemptShape {
    at: String,
    action: String,
    outcome: String,
    conclusion: String,
    #[serde(flatten)]
    answer: crate::domain::verdict::AuthorityError,
}

impl From<&Attempt> for AttemptShape {
    fn from(attempt: &Attempt) -> Self {
        AttemptShape {
            at: attempt.at.rfc3339(),
            action: attempt.action.clone(),
            outcome: attempt.outcome.clone(),
            conclusion: attempt.conclusion.clone(),
            answer: attempt.answer.clone(),
        }
    }
}

/// A page of connections.
#[derive(Serialize)]
pub struct PageShape {
    connections: Vec<ConnectionShape>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

impl PageShape {
    /// A page, and where the next one starts.
    pub fn new(page: &ShownPage, next_cursor: Option<String>) -> Self {
        PageShape { connections: page.connections.iter().map(Into::into).collect(), next_cursor }
    }
}

/// A connection with its last tries and what to do.
#[derive(Serialize)]
pub struct ExplainShape {
    #[serde(flatten)]
    connection: ConnectionShape,
    #[serde(skip_serializing_if = "Option::is_none")]
    served_until: Option<String>,
    /// For operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    cached_until: Option<String>,
    attempts: Vec<AttemptShape>,
    /// For operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    hand_outs: Option<Vec<HandOutShape>>,
    advice: String,
}

/// A caller's last hand-out.
#[derive(Serialize)]
pub struct HandOutShape {
    caller: String,
    last_at: String,
}

/// To whom something is explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// A caller, which starts connect sessions.
    Caller,
    /// An operator, who makes a link for the user.
    Operator,
}

impl ExplainShape {
    /// What is known of a connection, and what to do now.
    pub fn new(shown: &Shown, attempts: &[Attempt], reader: Reader) -> Self {
        let (sign_in, send) = match reader {
            Reader::Caller => (
                "start a connect session",
                "Start a connect session for this connection and send the user its connect_url.",
            ),
            Reader::Operator => ("make a reconnect link", "Make a reconnect link and send it to the user."),
        };
        let advice = match (shown.profile.status().as_str(), shown.profile.status().reason()) {
            ("active", _) => match attempts.last() {
                Some(last) if last.outcome == "unclear" => "The connection is active; the authority refuses \
                 its grant and does not say why. If other connections of the app work, it is this grant: it \
                 will count as ended by itself once that is certain, and the user may sign in again now. If \
                 none works, the operator must look at the app's registration and its client credential."
                    .to_owned(),
                Some(last) if last.outcome == DAMAGED => format!(
                    "The stored grant cannot be used: it is damaged, was tampered with, or its sealing key \
                     is missing (the attempt says which). The token that is held is served to its end. The \
                     operator must find out why (`deploy/RUNBOOK.md`, TokenwardRecordDamaged) and restore \
                     the key or the record; where neither can be had, the user signs in again: {sign_in}."
                ),
                Some(last) if last.outcome != "ok" => format!(
                    "The connection is active; the last try failed for a reason that is not the user's ({}). \
                     Nothing to do for the user; tokenward tries again by itself.",
                    last.outcome
                ),
                _ => "The connection works. Nothing to do.".to_owned(),
            },
            ("needs_reauthorization", reason) => format!(
                "The user must sign in again ({}). {send}{}",
                reason.unwrap_or("no reason given"),
                if shown.profile.grant_destroyed() {
                    " The stored grant is dead and will not be tried again."
                } else {
                    " The stored grant is kept and tried again by itself."
                }
            ),
            ("blocked", reason) => format!(
                "An administrator of the user's organisation must act ({}). The stored grant is kept and \
                 tried again by itself.",
                reason.unwrap_or("no reason given")
            ),
            _ => "An operator paused the connection and can resume it.".to_owned(),
        };
        ExplainShape {
            connection: shown.into(),
            served_until: shown.served_until.map(Timestamp::rfc3339),
            cached_until: None,
            attempts: attempts.iter().map(Into::into).collect(),
            hand_outs: None,
            advice,
        }
    }

    /// Adds until when this replica serves it if the store stays away.
    #[must_use]
    pub fn with_cached_until(mut self, until: Option<Timestamp>) -> Self {
        self.cached_until = until.map(Timestamp::rfc3339);
        self
    }

    /// Adds to whom its tokens were handed out, and when last. No caller learns of another one.
    #[must_use]
    pub fn with_hand_outs(mut self, hand_outs: &[(CallerName, Timestamp)]) -> Self {
        let shape = |(caller, at): &(CallerName, Timestamp)| HandOutShape {
            caller: caller.to_string(),
            last_at: at.rfc3339(),
        };
        self.hand_outs = Some(hand_outs.iter().map(shape).collect());
        self
    }

    /// Says that the connection is blocked together with its tenant's others. No caller learns of those.
    #[must_use]
    pub fn with_tenant_block(mut self, block: Option<&Block>) -> Self {
        if let Some(Block { since, connections, .. }) = block {
            self.advice.push_str(&format!(
                " The whole tenant blocks the app, since {} and for {connections} connections at least: \
                 one of them tries for all, and all are tried at once when it works.",
                since.rfc3339()
            ));
        }
        self
    }

    /// What to do now, in words.
    pub fn into_advice(self) -> String {
        self.advice
    }
}

/// A connect session as it is shown.
#[derive(Serialize)]
pub struct SessionShape {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<AccountShape>,
    #[serde(flatten)]
    failure: Option<FailureShape>,
}

/// A connect session as an operator lists it; never its link.
#[derive(Serialize)]
pub struct ListedSessionShape {
    session: String,
    app: String,
    connection: String,
    caller: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<String>,
    expires_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(flatten)]
    state: SessionShape,
}

impl From<&ShownSession> for ListedSessionShape {
    fn from(shown: &ShownSession) -> Self {
        let started_at = Some(shown.started_at).filter(|at| *at != Timestamp::default());
        ListedSessionShape {
            session: shown.mark.clone(),
            app: shown.key.app.to_string(),
            connection: shown.key.connection.to_string(),
            caller: shown.caller.clone(),
            started_at: started_at.map(Timestamp::rfc3339),
            expires_at: shown.expires_at.rfc3339(),
            request_id: shown.failed_in().map(str::to_owned),
            state: (&shown.state).into(),
        }
    }
}

/// A page of connect sessions.
#[derive(Serialize)]
pub struct SessionPageShape {
    /// The sessions.
    pub sessions: Vec<ListedSessionShape>,
    /// Where the next page starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// What more there is to say of a session that failed: whose it is to mend, and what the authority said.
#[derive(Serialize)]
pub struct FailureShape {
    hint: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    error_codes: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reported_by: Option<&'static str>,
}

impl From<&SessionFailure> for FailureShape {
    fn from(failure: &SessionFailure) -> Self {
        let answer = failure.answer.clone();
        FailureShape {
            hint: hint(failure),
            error: answer.error,
            error_codes: answer.error_codes,
            trace_id: answer.trace_id,
            correlation_id: answer.correlation_id,
            reported_by: failure.by_browser.then_some("browser"),
        }
    }
}

fn hint(failure: &SessionFailure) -> &'static str {
    match (failure.reason, failure.mender) {
        (FailureReason::AdminConsentRequired, _) => {
            "an administrator of the user's tenant must approve the app: POST /v1/admin-consent-sessions \
             makes the link for it"
        }
        (FailureReason::AccountMismatch, _) => {
            "have the user sign in with the account that the session is for"
        }
        (FailureReason::ScopeMissing, _) => {
            "have the user sign in again and grant everything that is asked for"
        }
        (FailureReason::TenantNotAllowed, _) => {
            "have the user choose an account that this app takes; the operator says which, at the app and in \
             `tenants`"
        }
        (FailureReason::Internal, _) => {
            "read the connection to see whether it is there; start a new session if it is not"
        }
        (FailureReason::CallerForbidden, _) => {
            "the operator must let this caller connect it: its rules, the connection's name and the \
             account's tenant count as they are now"
        }
        (FailureReason::ConnectionPaused, _) => {
            "ask the operator to resume the connection, and start a new session then"
        }
        (FailureReason::Revoked | FailureReason::Expired, _) => "start a new session",
        (FailureReason::AccessDenied | FailureReason::AuthorityError, Mender::User) => {
            "start a new session when the user wants to; nobody else has to do anything"
        }
        (FailureReason::AccessDenied | FailureReason::AuthorityError, Mender::Administrator) => {
            "an administrator of the user's organisation must allow it; error_codes say what stands in the \
             way"
        }
        (FailureReason::AccessDenied | FailureReason::AuthorityError, Mender::Operator)
            if failure.by_browser =>
        {
            "the user's browser brought this back, and nobody else said it: start a new session; if it fails \
             again, tell the operator error and error_codes"
        }
        (FailureReason::AccessDenied | FailureReason::AuthorityError, Mender::Operator) => {
            "the operator must mend the app's registration or its configuration; trying again changes nothing"
        }
        (FailureReason::AccessDenied | FailureReason::AuthorityError, Mender::Unknown) => {
            "start a new session; if it fails again, tell the operator error and error_codes"
        }
        (FailureReason::AccessDenied | FailureReason::AuthorityError, Mender::Time) => {
            "start a new session in a few minutes; if it fails again, tell the operator error and error_codes"
        }
    }
}

impl From<&SessionState> for SessionShape {
    fn from(state: &SessionState) -> Self {
        let failure = match state {
            SessionState::Failed(failure) => Some(FailureShape::from(failure)),
            _ => None,
        };
        let (reason, account) = match state {
            SessionState::Pending => (None, None),
            SessionState::AwaitingConfirmation { account, .. } | SessionState::Connected { account, .. } => {
                (None, Some(account.into()))
            }
            SessionState::Failed(failure) => (Some(failure.reason.as_str()), None),
            SessionState::Expired => (Some("expired"), None),
        };
        SessionShape { state: state.as_str(), reason, account, failure }
    }
}
