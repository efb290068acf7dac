//! A connection's life: its status, the transitions that change it, and the words about it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::account::Account;
use super::remarks::Remarks;
use super::time::Timestamp;
use super::verdict::{AuthorityError, BlockReason, Disposition, GrantFate, ReauthReason};

/// Whether a connection can serve, and who must act if not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", content = "reason", rename_all = "snake_case")]
pub enum Status {
    /// It works, as far as we know.
    Active,
    /// The user must sign in again.
    NeedsReauthorization(ReauthReason),
    /// An administrator must act.
    Blocked(BlockReason),
    /// An operator paused it.
    Paused,
}

impl Status {
    /// Returns its name in the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Active => "active",
            Status::NeedsReauthorization(_) => "needs_reauthorization",
            Status::Blocked(_) => "blocked",
            Status::Paused => "paused",
        }
    }

    /// Returns the reason's name in the contract, if there is a reason.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Status::NeedsReauthorization(reason) => Some(reason.as_str()),
            Status::Blocked(reason) => Some(reason.as_str()),
            Status::Active | Status::Paused => None,
        }
    }
}

/// One attempt at the authority, for `explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it was made.
    pub at: Timestamp,
    /// `connect` or `refresh`.
    pub action: String,
    /// `ok`, or the disposition's name.
    pub outcome: String,
    /// Our conclusion, in words.
    pub conclusion: String,
    /// The authority's answer.
    #[serde(default)]
    pub answer: AuthorityError,
}

/// Outcome of an attempt that ended before the authority was asked: the stored grant cannot be used.
pub const DAMAGED: &str = "record_damaged";

/// Attempts that a connection keeps.
pub const ATTEMPTS_KEPT: usize = 10;

/// First wait before a grant under a verdict is tried again.
const FIRST_RETRY: Duration = Duration::from_secs(60);
/// Longest wait between two tries of a blocked grant: an administrator's repair shows within the hour.
const SLOWEST_RETRY_BLOCKED: Duration = Duration::from_secs(3600);
/// Longest wait between two tries of a grant that needs its user.
const SLOWEST_RETRY_REAUTH: Duration = Duration::from_secs(86_400);

/// The sign-in that something descends from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct SignIn {
    /// Rises with each sign-in of a connection, also across a delete: the generation with which it was
    /// stored.
    pub number: u64,
    /// Random, so that two sign-ins with the same number (the store had lost the first) still differ.
    pub nonce: [u8; 8],
}

/// Everything about a connection but its secrets. Only the transitions below change it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// The account that signed in.
    pub(crate) account: Account,
    /// Scopes requested when it was connected.
    pub(crate) scopes_requested: Vec<String>,
    /// Scopes the authority granted, of all resources.
    pub(crate) scopes_granted: Vec<String>,
    /// Whether it can serve.
    pub(crate) status: Status,
    /// The caller that connected it.
    pub(crate) connected_by: String,
    /// When it was first connected.
    pub(crate) created_at: Timestamp,
    /// When its user last signed in for it.
    pub(crate) connected_at: Timestamp,
    /// When its sign-in's session was started. Records of builds that did not store it have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) session_started_at: Option<Timestamp>,
    /// When its grant last worked.
    pub(crate) last_refreshed_at: Timestamp,
    /// The last failure that changed it.
    #[serde(default)]
    pub(crate) last_error: Option<Attempt>,
    /// The latest attempts, newest last.
    #[serde(default)]
    pub(crate) attempts: Vec<Attempt>,
    /// Under a verdict: when the grant may be tried again.
    #[serde(default)]
    pub(crate) retry_at: Option<Timestamp>,
    /// How often in a row the verdict was confirmed.
    #[serde(default)]
    pub(crate) refusals: u32,
    /// The authority said the grant itself is dead; nothing is left to try.
    #[serde(default)]
    pub(crate) grant_destroyed: bool,
    /// A claims challenge for the next sign-in.
    #[serde(default)]
    pub(crate) pending_claims: Option<String>,
    /// The sign-in that it descends from.
    #[serde(default)]
    pub(crate) sign_in: SignIn,
    /// How often its grant has worked since that sign-in. It says which of two grants came first, which a
    /// generation does not, since every change raises that.
    #[serde(default)]
    pub(crate) renewals: u64,
}

impl Profile {
    /// Makes the connection of its user's sign-in. `before` is the connection that it renews in place.
    #[must_use]
    pub fn connected(
        account: Account,
        scopes_requested: Vec<String>,
        scopes_granted: Vec<String>,
        connected_by: String,
        now: Timestamp,
        before: Option<&Profile>,
    ) -> Self {
        let mut profile = Profile {
            account,
            scopes_requested,
            scopes_granted,
            status: Status::Active,
            connected_by,
            created_at: before.map_or(now, |before| before.created_at),
            connected_at: now,
            session_started_at: None,
            last_refreshed_at: now,
            last_error: None,
            attempts: before.map(|before| before.attempts.clone()).unwrap_or_default(),
            retry_at: None,
            refusals: 0,
            grant_destroyed: false,
            pending_claims: None,
            sign_in: SignIn::default(),
            renewals: 0,
        };
        profile.remember(Attempt {
            at: now,
            action: "connect".into(),
            outcome: "ok".into(),
            conclusion: "the user signed in and granted access".into(),
            answer: AuthorityError::default(),
        });
        profile
    }

    /// Returns the account that signed in.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Returns the scopes requested when it was connected.
    pub fn scopes_requested(&self) -> &[String] {
        &self.scopes_requested
    }

    /// Returns the scopes the authority granted, of all resources.
    pub fn scopes_granted(&self) -> &[String] {
        &self.scopes_granted
    }

    /// Returns whether it can serve.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Returns the caller that connected it.
    pub fn connected_by(&self) -> &str {
        &self.connected_by
    }

    /// Returns when it was first connected.
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// Returns when its user last signed in for it.
    pub fn connected_at(&self) -> Timestamp {
        self.connected_at
    }

    /// Returns when its grant last worked.
    pub fn last_refreshed_at(&self) -> Timestamp {
        self.last_refreshed_at
    }

    /// Returns the failure that its verdict came from.
    pub fn last_error(&self) -> Option<&Attempt> {
        self.last_error.as_ref()
    }

    /// Returns the latest attempts, newest last.
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// Returns when the grant may be tried again, under a verdict.
    pub fn retry_at(&self) -> Option<Timestamp> {
        self.retry_at
    }

    /// Returns true if the authority said that the grant itself is dead; nothing is left to try.
    pub fn grant_destroyed(&self) -> bool {
        self.grant_destroyed
    }

    /// Returns the claims challenge for the next sign-in.
    pub fn pending_claims(&self) -> Option<&str> {
        self.pending_claims.as_deref()
    }

    /// Returns the sign-in that it descends from.
    pub fn sign_in(&self) -> SignIn {
        self.sign_in
    }

    /// Returns how often its grant has worked since that sign-in.
    pub fn renewals(&self) -> u64 {
        self.renewals
    }

    /// Sets the start of the session that it comes from.
    #[must_use]
    pub fn of_session(mut self, started_at: Timestamp) -> Self {
        self.session_started_at = Some(started_at);
        self
    }

    /// Sets the time of its sign-in, which has waited for its confirmation: the connection is no younger than
    /// that.
    #[must_use]
    pub fn signed_in_at(mut self, at: Timestamp) -> Self {
        self.connected_at = at;
        self.created_at = self.created_at.min(at);
        self
    }

    /// Sets the sign-in that it descends from, as counted by the store.
    #[must_use]
    pub fn of_sign_in(mut self, sign_in: SignIn) -> Self {
        self.sign_in = sign_in;
        self
    }

    /// Adds attempts that were not stored when they were made.
    #[must_use]
    pub fn remembering(mut self, attempts: impl IntoIterator<Item = Attempt>) -> Self {
        attempts.into_iter().for_each(|attempt| self.remember(attempt));
        self
    }

    /// Returns its beginning, as revocations see it: the start of its user's session.
    pub fn began_at(&self) -> Timestamp {
        self.session_started_at.unwrap_or(self.connected_at)
    }

    /// Returns it after the grant worked. A paused connection stays paused; every verdict is lifted.
    #[must_use]
    pub fn refreshed(
        mut self,
        scopes_granted: Option<Vec<String>>,
        remarks: &Remarks,
        now: Timestamp,
    ) -> Self {
        if let Some(granted) = scopes_granted {
            self.scopes_granted = granted;
        }
        if self.status != Status::Paused {
            self.status = Status::Active;
        }
        self.renewals += 1;
        self.last_refreshed_at = now;
        self.last_error = None;
        self.retry_at = None;
        self.refusals = 0;
        self.pending_claims = None;
        self.remember(Attempt {
            at: now,
            action: "refresh".into(),
            outcome: "ok".into(),
            conclusion: match remarks.words() {
                None => "the grant works".into(),
                Some(words) => {
                    format!("the grant works; what was odd in the answer was cut or ignored: {words}")
                }
            },
            answer: remarks.words().map(|_| remarks.answer.clone()).unwrap_or_default(),
        });
        self
    }

    /// Returns it after an answer of which only a new refresh token is believed: the grant is a later one,
    /// and nothing more is known about it than before.
    #[must_use]
    pub fn grant_replaced(mut self, attempts: Vec<Attempt>) -> Self {
        self.renewals += 1;
        self.remembering(attempts)
    }

    /// Returns it after a verdict on the current grant. Any other disposition leaves it unchanged: a fault of
    /// the app or of the authority is never the user's.
    #[must_use]
    pub fn judged(
        mut self,
        disposition: Disposition,
        attempt: Attempt,
        claims: Option<String>,
        now: Timestamp,
    ) -> Self {
        let (status, slowest) = match disposition {
            Disposition::Reauthorize(reason, fate) => {
                self.grant_destroyed = fate == GrantFate::Dead;
                (Status::NeedsReauthorization(reason), SLOWEST_RETRY_REAUTH)
            }
            Disposition::Blocked(reason) => (Status::Blocked(reason), SLOWEST_RETRY_BLOCKED),
            Disposition::RetryAfter(_)
            | Disposition::NextCredential
            | Disposition::Misconfigured
            | Disposition::Restart
            | Disposition::CallerFault
            | Disposition::Unclear
            | Disposition::OutcomeUnknown
            | Disposition::Bug => return self,
        };
        if self.status != Status::Paused {
            self.status = status;
        }
        let wait = FIRST_RETRY.saturating_mul(1u32 << self.refusals.min(20)).min(slowest);
        self.retry_at = (!self.grant_destroyed).then(|| now.plus(wait));
        self.refusals = self.refusals.saturating_add(1);
        self.pending_claims = claims;
        self.remember(attempt.clone());
        self.last_error = Some(attempt);
        self
    }

    /// Returns it after an operator paused it: no token is handed out or refreshed until it is resumed.
    #[must_use]
    pub fn paused(mut self) -> Self {
        self.status = Status::Paused;
        self
    }

    /// Returns it after an operator resumed it. The authority's present verdict on its grant is asked for,
    /// unless the grant is known to be dead.
    #[must_use]
    pub fn resumed(mut self) -> Self {
        if self.status == Status::Paused {
            self.status = if self.grant_destroyed {
                Status::NeedsReauthorization(ReauthReason::GrantRevoked)
            } else {
                Status::Active
            };
            self.retry_at = None;
            self.refusals = 0;
        }
        self
    }

    /// Returns true if the grant may be tried at `now`.
    pub fn may_try(&self, now: Timestamp) -> bool {
        match self.status {
            Status::Active => true,
            Status::Paused => false,
            Status::NeedsReauthorization(_) | Status::Blocked(_) => {
                !self.grant_destroyed && self.retry_at.is_none_or(|at| at <= now)
            }
        }
    }

    fn remember(&mut self, attempt: Attempt) {
        self.attempts.push(attempt);
        let extra = self.attempts.len().saturating_sub(ATTEMPTS_KEPT);
        self.attempts.drain(..extra);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        let account = Account { iss: "i".into(), sub: "s".into(), tid: None, oid: None, username: None };
        Profile::connected(account, vec![], vec![], "cli".into(), at(0), None)
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds)
    }

    fn attempt() -> Attempt {
        Attempt {
            at: at(0),
            action: "refresh".into(),
            outcome: "x".into(),
            conclusion: "y".into(),
            answer: AuthorityError::default(),
        }
    }

    #[test]
    fn only_a_verdict_changes_a_connection() {
        for disposition in [
            Disposition::RetryAfter(None),
            Disposition::NextCredential,
            Disposition::Misconfigured,
            Disposition::Restart,
            Disposition::CallerFault,
            Disposition::Unclear,
            Disposition::OutcomeUnknown,
            Disposition::Bug,
        ] {
            assert!(!disposition.is_verdict());
            assert_eq!(profile().judged(disposition, attempt(), None, at(1)), profile(), "{disposition:?}");
        }
    }

    #[test]
    fn a_verdict_is_tried_again_ever_more_slowly_and_heals() {
        let blocked = Disposition::Blocked(BlockReason::PolicyBlocked);
        let mut judged = profile();
        let mut waits = Vec::new();
        for _ in 0..9 {
            judged = judged.judged(blocked, attempt(), None, at(0));
            waits.push(judged.retry_at.expect("kept grants are tried again").unix_seconds());
        }
        assert_eq!(waits, [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
        assert!(!judged.may_try(at(3599)) && judged.may_try(at(3600)));
        let healed = judged.refreshed(None, &Remarks::default(), at(4000));
        assert_eq!((healed.status, healed.refusals, healed.retry_at), (Status::Active, 0, None));
    }

    #[test]
    fn a_user_who_must_act_is_tried_at_most_daily_and_a_dead_grant_never() {
        let mut judged = profile();
        for _ in 0..30 {
            let verdict = Disposition::Reauthorize(ReauthReason::InteractionRequired, GrantFate::Keep);
            judged = judged.judged(verdict, attempt(), None, at(0));
        }
        assert_eq!(judged.retry_at, Some(at(86_400)));
        assert_eq!(judged.attempts.len(), ATTEMPTS_KEPT);
        let verdict = Disposition::Reauthorize(ReauthReason::GrantExpired, GrantFate::Dead);
        let dead = judged.judged(verdict, attempt(), None, at(0));
        assert!(dead.grant_destroyed && !dead.may_try(at(i64::MAX / 2000)));
    }

    #[test]
    fn a_resumed_connection_is_as_good_as_its_grant() {
        assert_eq!(profile().paused().resumed().status, Status::Active);
        let mut dead = profile();
        dead.grant_destroyed = true;
        let needs = Status::NeedsReauthorization(ReauthReason::GrantRevoked);
        assert_eq!(dead.paused().resumed().status, needs);
        let blocked = Status::Blocked(BlockReason::PolicyBlocked);
        let mut judged = profile();
        judged.status = blocked;
        assert_eq!(judged.resumed().status, blocked, "what was not paused is left as it is");
    }

    #[test]
    fn a_pause_survives_refreshes_and_verdicts() {
        let mut paused = profile();
        paused.status = Status::Paused;
        assert_eq!(paused.clone().refreshed(None, &Remarks::default(), at(1)).status, Status::Paused);
        let verdict = Disposition::Blocked(BlockReason::PolicyBlocked);
        assert_eq!(paused.judged(verdict, attempt(), None, at(1)).status, Status::Paused);
    }
}
