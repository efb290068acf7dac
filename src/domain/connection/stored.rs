//! A profile as a record has it. Its members are those of earlier builds, which read and write the same
//! records during a rolling upgrade: a member may come, none may go or change.

use serde::{Deserialize, Serialize};

use super::standing::{NextTry, Reason, Standing, Verdict};
use super::{Attempt, Profile, SignIn, StatedEnd, Status};
use crate::domain::account::Account;
use crate::domain::time::Timestamp;
use crate::domain::verdict::ReauthReason;

/// A profile in a record: flat, with members that count under some statuses only.
#[derive(Serialize, Deserialize)]
pub(super) struct Stored {
    account: Account,
    scopes_requested: Vec<String>,
    scopes_granted: Vec<String>,
    status: Status,
    connected_by: String,
    created_at: Timestamp,
    connected_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session_started_at: Option<Timestamp>,
    last_refreshed_at: Timestamp,
    #[serde(default)]
    last_error: Option<Attempt>,
    #[serde(default)]
    attempts: Vec<Attempt>,
    #[serde(default)]
    retry_at: Option<Timestamp>,
    #[serde(default)]
    refusals: u32,
    #[serde(default)]
    grant_destroyed: bool,
    #[serde(default)]
    pending_claims: Option<String>,
    #[serde(default)]
    sign_in: SignIn,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    labels: Vec<String>,
    #[serde(default)]
    renewals: u64,
    /// The verdict that a pause keeps. `status` alone does not say it, and earlier builds, which pass over
    /// this member, guess it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    paused_under: Option<Status>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stated_end: Option<StatedEnd>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    handles_over: Option<Timestamp>,
}

impl From<Stored> for Profile {
    fn from(stored: Stored) -> Self {
        let kept = match stored.status {
            Status::Paused => stored.paused_under.and_then(Reason::of),
            status => Reason::of(status),
        };
        // Earlier builds did not keep the reason of a pause. A dead grant needs one; any other is asked for
        // anew when it is resumed.
        let guessed = stored.grant_destroyed.then_some(Reason::User(ReauthReason::GrantRevoked));
        let verdict = |reason| Verdict {
            reason,
            next_try: match (stored.grant_destroyed, stored.retry_at) {
                (true, _) => NextTry::Never,
                (false, Some(at)) => NextTry::At(at),
                (false, None) => NextTry::AtOnce,
            },
            refusals: stored.refusals,
            error: stored.last_error.map(Box::new),
        };
        let standing = match stored.status {
            Status::Paused => Standing::Paused(kept.or(guessed).map(verdict)),
            Status::Active | Status::NeedsReauthorization(_) | Status::Blocked(_) => {
                kept.map(verdict).map_or(Standing::Active, Standing::Refused)
            }
        };
        Profile {
            account: stored.account,
            scopes_requested: stored.scopes_requested,
            scopes_granted: stored.scopes_granted,
            standing,
            pending_claims: stored.pending_claims,
            connected_by: stored.connected_by,
            created_at: stored.created_at,
            connected_at: stored.connected_at,
            session_started_at: stored.session_started_at,
            last_refreshed_at: stored.last_refreshed_at,
            attempts: stored.attempts.into(),
            sign_in: stored.sign_in,
            labels: stored.labels,
            renewals: stored.renewals,
            stated_end: stored.stated_end,
            handles_over: stored.handles_over,
        }
    }
}

impl From<Profile> for Stored {
    fn from(profile: Profile) -> Self {
        let status = profile.status();
        let verdict = profile.standing.verdict();
        Stored {
            status,
            last_error: profile.last_error().cloned(),
            retry_at: profile.retry_at(),
            refusals: verdict.map_or(0, |verdict| verdict.refusals),
            grant_destroyed: profile.grant_destroyed(),
            pending_claims: profile.pending_claims,
            paused_under: verdict.filter(|_| status == Status::Paused).map(|verdict| verdict.reason.status()),
            account: profile.account,
            scopes_requested: profile.scopes_requested,
            scopes_granted: profile.scopes_granted,
            connected_by: profile.connected_by,
            created_at: profile.created_at,
            connected_at: profile.connected_at,
            session_started_at: profile.session_started_at,
            last_refreshed_at: profile.last_refreshed_at,
            attempts: profile.attempts.to_vec(),
            sign_in: profile.sign_in,
            labels: profile.labels,
            renewals: profile.renewals,
            stated_end: profile.stated_end,
            handles_over: profile.handles_over,
        }
    }
}
