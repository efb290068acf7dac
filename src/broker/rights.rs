//! The right to connect, judged when it is used and not when a session was started: by the current rules, by
//! operators' revocations, and by their pauses.
//!
//! Every use case that begins, completes, confirms or deletes for a caller demands a [`Right`], which only
//! this file makes. A new use case that forgets the check does not compile, and one that drops the right gets
//! a warning, which is an error in `make check`.

use super::session::{ConnectSession, ConsentSession};
use super::sign_in::CannotBegin;
use super::{Broker, FailureReason, Refusal, SessionState};
use crate::domain::account::{Account, AccountId};
use crate::domain::connection::{Profile, Status};
use crate::domain::grant::Grant;
use crate::domain::id::{CallerName, ConnectionKey};
use crate::domain::token::HeldToken;
use crate::policy::{CallerPolicy, ConnectPermit, Denial};
use crate::repository::RepositoryError;
use crate::store::{Committed, Revision};

/// Proof that a caller may connect, renew or delete a connection now, and that no operator forbids it.
#[must_use = "a right is for the act that demands it"]
pub struct Right {
    permit: ConnectPermit,
}

/// Reason why there is no right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Barred {
    /// The caller that started the session is gone, or its rules do not allow it.
    Denied(Denial),
    /// An operator paused the connection.
    Paused,
    /// An operator has since revoked what the session was started for.
    Revoked,
    /// It cannot be determined now.
    Unavailable(Refusal),
}

impl Right {
    /// Returns the connection it is for.
    pub(super) fn key(&self) -> &ConnectionKey {
        self.permit.key()
    }

    /// Returns the connection it is for, and gives up the right.
    pub(super) fn into_key(self) -> ConnectionKey {
        self.permit.into_key()
    }

    /// Returns all rights of the caller that has it.
    pub(super) fn policy(&self) -> &CallerPolicy {
        self.permit.policy()
    }

    /// Returns the caller that has it.
    pub(super) fn caller(&self) -> &CallerName {
        self.permit.caller()
    }

    /// Returns true if it allows to give the connection to another account.
    pub(super) fn may_move(&self) -> bool {
        self.permit.covers_name()
    }

    /// Returns true if it allows this account to replace `before`. A right that does not come from the name
    /// only renews the present connection for its present account.
    fn may_put(&self, account: &AccountId, before: Option<&AccountId>) -> bool {
        self.permit.covers_name() || before == Some(account)
    }
}

impl Barred {
    /// Returns the failure reason of a session without the right.
    pub(super) fn reason(&self) -> FailureReason {
        match self {
            Barred::Denied(_) => FailureReason::CallerForbidden,
            Barred::Paused => FailureReason::ConnectionPaused,
            Barred::Revoked => FailureReason::Revoked,
            Barred::Unavailable(_) => FailureReason::Internal,
        }
    }
}

impl From<Denial> for Barred {
    fn from(denial: Denial) -> Self {
        Barred::Denied(denial)
    }
}

impl From<Refusal> for Barred {
    fn from(refusal: Refusal) -> Self {
        Barred::Unavailable(refusal)
    }
}

/// For a caller's own request.
impl From<Barred> for Refusal {
    fn from(barred: Barred) -> Self {
        match barred {
            Barred::Denied(denial) => denial.into(),
            Barred::Paused => Refusal::ConnectionPaused,
            Barred::Revoked => Refusal::ConfirmationRejected {
                problem: "an operator revoked it since the session was started; start a new one".to_owned(),
            },
            Barred::Unavailable(refusal) => refusal,
        }
    }
}

/// For a browser.
impl From<Barred> for CannotBegin {
    fn from(barred: Barred) -> Self {
        match barred {
            Barred::Revoked => CannotBegin::Over(SessionState::failed(FailureReason::Revoked)),
            Barred::Unavailable(refusal) => CannotBegin::Unavailable(refusal),
            Barred::Denied(_) | Barred::Paused => CannotBegin::Barred(barred.reason()),
        }
    }
}

impl Broker {
    /// Returns the caller's right to connect, renew or delete the connection.
    pub async fn may_connect(&self, caller: &CallerPolicy, key: &ConnectionKey) -> Result<Right, Refusal> {
        Ok(self.right_of(caller, key).await?)
    }

    /// Judges the right of a caller's own request. Its rules come first: a caller that may not know of a
    /// connection does not learn that it is paused.
    async fn right_of(&self, caller: &CallerPolicy, key: &ConnectionKey) -> Result<Right, Barred> {
        let tenant = if caller.needs_tenant(key) { self.tenant_of(key).await? } else { None };
        let permit = caller.can_connect(key, tenant.as_deref())?;
        if self.is_paused(key).await? {
            return Err(Barred::Paused);
        }
        Ok(Right { permit })
    }

    /// Judges what remains of the right with which a session was started. `account` is the signed-in account,
    /// once it is known.
    pub(super) async fn right_of_session(
        &self,
        session: &ConnectSession,
        account: Option<&Account>,
    ) -> Result<Right, Barred> {
        if !self.deps.engine.knows_revocations() {
            return Err(Refusal::StoreUnavailable.into());
        }
        if self.deps.engine.revokes(|revocation| session.is_meant_by(revocation, account)) {
            return Err(Barred::Revoked);
        }
        let starter = CallerName::parse(&session.created_by).ok();
        let policy = starter.and_then(|starter| self.deps.policies.policy_of(&starter));
        self.right_of(&policy.ok_or(Denial::AppNotFound)?, &session.key()).await
    }

    /// Returns a session's present state: one that has expired or was revoked is over, even if nothing
    /// recorded that.
    pub(super) fn stands(&self, session: &ConnectSession) -> SessionState {
        let is_revoked = || self.deps.engine.revokes(|revocation| session.is_meant_by(revocation, None));
        session.state_at(self.deps.clock.now(), is_revoked)
    }

    /// Returns the reason why an administrator's answer does not count, if there is one: the starter may no
    /// longer connect accounts to the app, or the session was revoked.
    pub(super) fn bars_consent(&self, session: &ConsentSession) -> Option<FailureReason> {
        if self.deps.engine.revokes(|revocation| session.is_meant_by(revocation)) {
            return Some(FailureReason::Revoked);
        }
        let starter = CallerName::parse(&session.created_by).ok();
        let policy = starter.and_then(|starter| self.deps.policies.policy_of(&starter));
        let may = policy.is_some_and(|policy| policy.can_connect_to(&session.app).is_ok());
        (!may).then_some(FailureReason::CallerForbidden)
    }

    /// Returns true if an operator paused the name, or paused the connection before pauses were kept by name.
    async fn is_paused(&self, key: &ConnectionKey) -> Result<bool, Refusal> {
        if self.is_name_paused(key).await? {
            return Ok(true);
        }
        match self.deps.engine.inspect(key).await {
            Ok(held) => Ok(held.connection.profile.status() == Status::Paused),
            Err(failure) => match Refusal::of_failure(&failure) {
                Refusal::ConnectionNotFound => Ok(false),
                refusal => Err(refusal),
            },
        }
    }

    /// Stores the result of a sign-in, with a right that was judged after `before` was read.
    pub(super) async fn put(
        &self,
        right: &Right,
        before: Option<(Revision, &Profile)>,
        (floor, nonce): (u64, [u8; 8]),
        profile: Profile,
        tokens: &[HeldToken],
        grant: &Grant,
    ) -> Result<Put, RepositoryError> {
        let account = before.map(|(_, before)| before.account().id());
        if !right.may_put(&profile.account().id(), account.as_ref()) {
            return Ok(Put::Barred(FailureReason::CallerForbidden));
        }
        if before.is_some_and(|(_, before)| before.status() == Status::Paused) {
            return Ok(Put::Barred(FailureReason::ConnectionPaused));
        }
        let base = (before.map(|(revision, _)| revision), floor);
        let of_sign_in = (nonce, self.deps.clock.now());
        let repository = &self.deps.repository;
        let stored = repository.connect(right.key(), base, of_sign_in, profile, tokens, grant).await?;
        Ok(match stored {
            (Committed::Done, revision) => Put::Done(revision),
            (Committed::Conflict | Committed::Fenced, _) => Put::Conflict,
        })
    }
}

/// Outcome of storing a sign-in.
pub(super) enum Put {
    /// It is stored.
    Done(Revision),
    /// The record has changed meanwhile: read it again.
    Conflict,
    /// It is not allowed.
    Barred(FailureReason),
}
