//! A connection's life: its status, what may change it, and what a person is told of it.

mod attempts;
mod glimpse;
pub mod outlook;
mod standing;
mod stored;

use std::time::Duration;

pub use glimpse::Glimpse;
use serde::{Deserialize, Serialize};

use self::attempts::Attempts;
use self::outlook::Outlook;
use self::standing::{NextTry, Standing, Verdict, Word};
use self::stored::Stored;
use super::account::Account;
use super::remarks::Remarks;
use super::time::Timestamp;
use super::verdict::{AuthorityError, BlockReason, Disposition, ReauthReason};

/// Whether a connection can serve, and who must act if not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", content = "reason", rename_all = "snake_case")]
pub enum Status {
    /// Works, as far as we know.
    Active,
    /// The user must sign in again.
    NeedsReauthorization(ReauthReason),
    /// An administrator must act.
    Blocked(BlockReason),
    /// An operator stopped it.
    Paused,
}

impl Status {
    /// The word in the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Active => "active",
            Status::NeedsReauthorization(_) => "needs_reauthorization",
            Status::Blocked(_) => "blocked",
            Status::Paused => "paused",
        }
    }

    /// The reason's word in the contract, where there is one.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Status::NeedsReauthorization(reason) => Some(reason.as_str()),
            Status::Blocked(reason) => Some(reason.as_str()),
            Status::Active | Status::Paused => None,
        }
    }
}

/// One try at the authority, for `explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When.
    pub at: Timestamp,
    /// `connect`, `import` or `refresh`.
    pub action: String,
    /// `ok`, or the disposition's word.
    pub outcome: String,
    /// What we concluded, in words.
    pub conclusion: String,
    /// What the authority answered.
    #[serde(default)]
    pub answer: AuthorityError,
}

/// The outcome of a try that ended before the authority was asked: the stored grant cannot be used.
pub const DAMAGED: &str = "record_damaged";

/// How many attempts a connection remembers.
pub const ATTEMPTS_KEPT: usize = 10;

/// A sign-in of a connection, from which grants and revisions descend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct SignIn {
    /// Rises from one sign-in of a connection to the next, also across a delete. It is the generation with
    /// which the sign-in was stored.
    pub number: u64,
    /// Random, so that two sign-ins differ even if the store lost the first and gave its number again.
    pub nonce: [u8; 8],
}

/// The end of a refresh token, as the authority stated it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatedEnd {
    /// When it ends.
    pub at: Timestamp,
    /// Whether a renewal moved it; `None` before the first one that stated it again.
    #[serde(default)]
    pub moves: Option<bool>,
}

/// Two stated ends that differ by less are the same one: an answer counts in seconds from its own time.
const SAME_END: Duration = Duration::from_secs(300);

/// Everything about a connection but its secrets. It is changed only by the transitions below.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct Profile {
    account: Account,
    scopes_requested: Vec<String>,
    scopes_granted: Vec<String>,
    standing: Standing,
    /// A claims challenge that the authority's last verdict brought, until the grant works again. A pause and
    /// its end leave it.
    pending_claims: Option<String>,
    connected_by: String,
    created_at: Timestamp,
    connected_at: Timestamp,
    /// Start of the session in which the user signed in. Records of earlier builds may have none.
    session_started_at: Option<Timestamp>,
    last_refreshed_at: Timestamp,
    attempts: Attempts,
    sign_in: SignIn,
    /// Words of the company's own.
    labels: Vec<String>,
    /// Unlike a generation, which every change counts up, it says which of two grants came first.
    renewals: u64,
    /// The end of its refresh token, if the authority states one.
    stated_end: Option<StatedEnd>,
    /// The last instant whose handles are over, since an operator paused it then.
    handles_over: Option<Timestamp>,
}

impl Profile {
    /// A connection as it comes from its user's sign-in. `before` is the connection it renews in place.
    #[must_use]
    pub fn connected(
        account: Account,
        scopes_requested: Vec<String>,
        scopes_granted: Vec<String>,
        connected_by: String,
        now: Timestamp,
        before: Option<&Profile>,
    ) -> Self {
        let words = "the user signed in and granted access";
        let profile = Profile::began(account, (scopes_requested, scopes_granted), connected_by, now, before);
        profile.remembering([Attempt::established("connect", words, now)])
    }

    /// A connection as it comes from a grant that another system held and that has worked here once. `before`
    /// is the connection it renews in place.
    #[must_use]
    pub fn imported(
        account: Account,
        (scopes_requested, scopes_granted): (Vec<String>, Vec<String>),
        connected_by: String,
        now: Timestamp,
        before: Option<&Profile>,
    ) -> Self {
        let words = "an operator imported a grant of another system, and it works";
        let profile = Profile::began(account, (scopes_requested, scopes_granted), connected_by, now, before);
        profile.remembering([Attempt::established("import", words, now)])
    }

    fn began(
        account: Account,
        (scopes_requested, scopes_granted): (Vec<String>, Vec<String>),
        connected_by: String,
        now: Timestamp,
        before: Option<&Profile>,
    ) -> Self {
        Profile {
            account,
            scopes_requested,
            scopes_granted,
            standing: Standing::Active,
            pending_claims: None,
            connected_by,
            created_at: before.map_or(now, |before| before.created_at),
            connected_at: now,
            session_started_at: None,
            last_refreshed_at: now,
            attempts: before.map(|before| before.attempts.clone()).unwrap_or_default(),
            sign_in: SignIn::default(),
            labels: before.map(|before| before.labels.clone()).unwrap_or_default(),
            renewals: 0,
            stated_end: None,
            handles_over: before.and_then(|before| before.handles_over),
        }
    }

    /// The account that signed in.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Scopes requested when it was connected.
    pub fn scopes_requested(&self) -> &[String] {
        &self.scopes_requested
    }

    /// Scopes that the authority granted, for all resources.
    pub fn scopes_granted(&self) -> &[String] {
        &self.scopes_granted
    }

    /// Whether it can serve.
    pub fn status(&self) -> Status {
        self.standing.status()
    }

    /// Who must act for it, whether or not an operator stopped it.
    pub fn outlook(&self) -> Outlook {
        match self.standing.verdict().map(|verdict| verdict.reason.status()) {
            Some(Status::NeedsReauthorization(_)) => Outlook::User,
            Some(Status::Blocked(_)) => Outlook::Administrator,
            Some(Status::Active | Status::Paused) | None => Outlook::Good,
        }
    }

    /// The caller whose session connected it.
    pub fn connected_by(&self) -> &str {
        &self.connected_by
    }

    /// When it was first connected.
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// When its user last signed in for it.
    pub fn connected_at(&self) -> Timestamp {
        self.connected_at
    }

    /// When its grant last worked.
    pub fn last_refreshed_at(&self) -> Timestamp {
        self.last_refreshed_at
    }

    /// The failed attempt that caused its verdict.
    pub fn last_error(&self) -> Option<&Attempt> {
        self.standing.verdict()?.error.as_deref()
    }

    /// The latest attempts, newest last.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.attempts.to_vec()
    }

    /// Those of the latest attempts that are more than a renewal that worked.
    pub fn notable_attempts(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.notable()
    }

    /// Under a verdict: when the grant may be tried again.
    pub fn retry_at(&self) -> Option<Timestamp> {
        match self.standing.verdict()?.next_try {
            NextTry::At(at) => Some(at),
            NextTry::AtOnce | NextTry::Never => None,
        }
    }

    /// Whether the authority said that the grant itself is dead; nothing is left to try.
    pub fn grant_destroyed(&self) -> bool {
        self.standing.verdict().is_some_and(Verdict::is_of_a_dead_grant)
    }

    /// A claims challenge to pass at the next sign-in.
    pub fn pending_claims(&self) -> Option<&str> {
        self.pending_claims.as_deref()
    }

    /// The sign-in that it descends from.
    pub fn sign_in(&self) -> SignIn {
        self.sign_in
    }

    /// How often its grant has worked since that sign-in.
    pub fn renewals(&self) -> u64 {
        self.renewals
    }

    /// The end of its refresh token, if the authority states one.
    pub fn stated_end(&self) -> Option<StatedEnd> {
        self.stated_end
    }

    /// Takes up the end that the last answer states for the refresh token. An answer without one leaves the
    /// end that was stated before.
    #[must_use]
    pub fn stating(mut self, end: Option<Timestamp>) -> Self {
        if let Some(at) = end {
            let moves = self.stated_end.map(|before| at.since(before.at) >= SAME_END);
            self.stated_end = Some(StatedEnd { at, moves });
        }
        self
    }

    /// Replaces its labels, if there are new ones.
    #[must_use]
    pub fn labelled(mut self, labels: Option<Vec<String>>) -> Self {
        self.labels = labels.unwrap_or(self.labels);
        self
    }

    /// Its labels: words of the company's own, checked by [`crate::domain::label`].
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Sets the start of its session.
    #[must_use]
    pub fn of_session(mut self, started_at: Timestamp) -> Self {
        self.session_started_at = Some(started_at);
        self
    }

    /// Makes it no younger than this instant, since when its sign-in waited for the confirmation.
    #[must_use]
    pub fn signed_in_at(mut self, at: Timestamp) -> Self {
        self.connected_at = at;
        self.created_at = self.created_at.min(at);
        self
    }

    /// Sets the sign-in, which the store numbers.
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

    /// When it began, as revocations count: at the start of its session.
    pub fn began_at(&self) -> Timestamp {
        self.session_started_at.unwrap_or(self.connected_at)
    }

    /// The state after the grant worked. A paused connection stays paused; every verdict is lifted.
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
        self.standing = self.standing.worked();
        self.pending_claims = None;
        self.renewals += 1;
        self.last_refreshed_at = now;
        let mut attempt = Attempt::worked(now);
        if let Some(words) = remarks.words() {
            let odd = format!("; what was odd in the answer was cut or ignored: {words}");
            attempt.conclusion.push_str(&odd);
            attempt.answer = remarks.answer.clone();
        }
        self.remember(attempt);
        self
    }

    /// The same, with a grant that has worked more often than so many times.
    #[must_use]
    pub fn worked_after(mut self, renewals: u64) -> Self {
        self.renewals = self.renewals.max(renewals.saturating_add(1));
        self
    }

    /// The state after an answer of which only the refresh token is believed. The grant is a later one, and
    /// nothing more is known of it.
    #[must_use]
    pub fn grant_replaced(mut self, attempts: Vec<Attempt>) -> Self {
        self.renewals += 1;
        self.remembering(attempts)
    }

    /// The state after a verdict of the authority on the current grant. Any other disposition changes
    /// nothing: a fault of the app or of the authority is never the user's.
    #[must_use]
    pub fn judged(
        mut self,
        disposition: Disposition,
        attempt: Attempt,
        claims: Option<String>,
        now: Timestamp,
    ) -> Self {
        let Some(word) = Word::of(disposition) else { return self };
        self.standing = self.standing.judged(word, attempt.clone(), now);
        self.pending_claims = claims;
        self.remember(attempt);
        self
    }

    /// The state after an operator paused it: nothing is handed out or refreshed until it is resumed.
    #[must_use]
    pub fn paused(mut self) -> Self {
        self.standing = self.standing.paused();
        self
    }

    /// The last instant whose handles are over.
    pub fn handles_over(&self) -> Option<Timestamp> {
        self.handles_over
    }

    /// Ends the handles that were made by an instant; those that were over stay so.
    #[must_use]
    pub fn ending_handles(mut self, by: Option<Timestamp>) -> Self {
        self.handles_over = self.handles_over.max(by);
        self
    }

    /// The state after an operator resumed it. The grant is tried next, unless it is known to be dead.
    #[must_use]
    pub fn resumed(mut self) -> Self {
        self.standing = self.standing.resumed();
        self
    }

    /// Whether the grant may be tried at `now`.
    pub fn may_try(&self, now: Timestamp) -> bool {
        self.standing.may_try(now)
    }

    fn remember(&mut self, attempt: Attempt) {
        self.attempts.push(attempt);
    }
}

#[cfg(test)]
mod tests;
