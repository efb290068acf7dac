//! May it still? A right to connect is judged when it is used, not when a session was started: by the rules of now, by
//! what operators have revoked since, and by what they have paused.
//!
//! Whatever begins, completes, confirms or deletes for a caller demands a [`Right`], which only this file makes. So a new
//! door that forgets to ask does not compile.

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

/// The proof that a caller may connect, renew or delete a connection now, and that no operator says otherwise.
pub(super) struct Right {
    permit: ConnectPermit,
}

/// Why there is no right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Barred {
    /// The caller that started the session is gone, or its rules do not give it.
    Denied(Denial),
    /// An operator paused the connection.
    Paused,
    /// An operator revoked what the session was started for, since.
    Revoked,
    /// Nobody can tell now.
    Unavailable(Refusal),
}

impl Right {
    /// The connection it is for.
    pub(super) fn key(&self) -> &ConnectionKey {
        self.permit.key()
    }

    /// The caller that has it.
    pub(super) fn caller(&self) -> &CallerName {
        self.permit.caller()
    }

    /// Whether it may give the connection to another account.
    pub(super) fn may_move(&self) -> bool {
        self.permit.covers_name()
    }

    /// Whether it may put this account in the place of what is there: a right that does not rest on the name renews
    /// what is there, for the account it has.
    fn may_put(&self, account: &AccountId, before: Option<&AccountId>) -> bool {
        self.permit.covers_name() || before == Some(account)
    }
}

impl Barred {
    /// What it makes of a session.
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

/// For a caller that asks itself.
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
    /// The right of a caller that asks itself. Its rules come first: who may not know of a connection is not told that
    /// it is paused.
    pub(super) async fn right_of(&self, caller: &CallerPolicy, key: &ConnectionKey) -> Result<Right, Barred> {
        let tenant = if caller.needs_tenant(key) { self.tenant_of(key).await? } else { None };
        let permit = caller.can_connect(key, tenant.as_deref())?;
        if self.is_paused(key).await? {
            return Err(Barred::Paused);
        }
        Ok(Right { permit })
    }

    /// What is left of the right with which a session was started. `account` is who came back, once that is known.
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

    /// Where a session stands now: what has outlived its time or was revoked is over, whoever noted it or not.
    pub(super) fn stands(&self, session: &ConnectSession) -> SessionState {
        let is_revoked = || self.deps.engine.revokes(|revocation| session.is_meant_by(revocation, None));
        session.state_at(self.deps.clock.now(), is_revoked)
    }

    /// Why an administrator's answer counts for nothing, if it does: whoever started the session may not connect accounts to the
    /// app any more, or it was revoked.
    pub(super) fn bars_consent(&self, session: &ConsentSession) -> Option<FailureReason> {
        if self.deps.engine.revokes(|revocation| session.is_meant_by(revocation)) {
            return Some(FailureReason::Revoked);
        }
        let starter = CallerName::parse(&session.created_by).ok();
        let policy = starter.and_then(|starter| self.deps.policies.policy_of(&starter));
        let may = policy.is_some_and(|policy| policy.connects_to(&session.app));
        (!may).then_some(FailureReason::CallerForbidden)
    }

    /// Whether an operator paused the name, or the connection before names were noted.
    async fn is_paused(&self, key: &ConnectionKey) -> Result<bool, Refusal> {
        if self.is_held(key).await? {
            return Ok(true);
        }
        match self.deps.engine.inspect(key).await {
            Ok(held) => Ok(held.connection.profile.status == Status::Paused),
            Err(failure) => match Refusal::of_failure(&failure) {
                Refusal::ConnectionNotFound => Ok(false),
                refusal => Err(refusal),
            },
        }
    }

    /// Stores what a sign-in brought, on a right that was judged after `before` was read.
    pub(super) async fn put(
        &self,
        right: &Right,
        before: Option<(Revision, &Profile)>,
        (floor, nonce): (u64, [u8; 8]),
        profile: Profile,
        tokens: &[HeldToken],
        grant: &Grant,
    ) -> Result<Put, RepositoryError> {
        let account = before.map(|(_, before)| before.account.id());
        if !right.may_put(&profile.account.id(), account.as_ref()) {
            return Ok(Put::Barred(FailureReason::CallerForbidden));
        }
        if before.is_some_and(|(_, before)| before.status == Status::Paused) {
            return Ok(Put::Barred(FailureReason::ConnectionPaused));
        }
        let base = (before.map(|(revision, _)| revision), floor);
        let stored = self.deps.repository.connect(right.key(), base, nonce, profile, tokens, grant).await?;
        Ok(match stored {
            (Committed::Done, revision) => Put::Done(revision),
            (Committed::Conflict | Committed::Fenced, _) => Put::Conflict,
        })
    }
}

/// What became of a sign-in that was to be stored.
pub(super) enum Put {
    /// It is there.
    Done(Revision),
    /// Something else has come between: look again.
    Conflict,
    /// It may not be.
    Barred(FailureReason),
}
