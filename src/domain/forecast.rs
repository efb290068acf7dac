//! Who will have to sign in again, as far as can be known: what is known of one connection, at a time, makes
//! what is foreseen of it. Pure; [`crate::broker`]'s walks (`forecast.rs`) bring the knowledge.
//!
//! A connection that must already be signed in again is no forecast, and has no row.

mod announced;
mod frequency;
mod rows;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::announced::{ANNOUNCED, Announced};
pub use self::frequency::{Frequencies, Frequency, SeenEnd};
pub use self::rows::{Row, Rows, Summary};
use super::connection::{Profile, StatedEnd, Status};
use super::time::Timestamp;

/// Why somebody will have to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The grant ends because it is not used: it is paused or blocked, or its renewals fail.
    GrantIdle,
    /// The authority said when the refresh token ends, and a renewal does not move that.
    GrantEnds,
    /// The tenant was seen to end grants at a certain age of their sign-in.
    SignInFrequency,
    /// A policy of the authority that is announced takes a scope away, or changes what it allows.
    ScopePolicy,
    /// The app's last client credential ends.
    CredentialEnds,
}

/// How sure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// Somebody who decides it said so.
    Certain,
    /// It was seen several times, or is documented.
    Likely,
    /// There is a sign of it.
    Possible,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 5] = [
        Reason::GrantIdle,
        Reason::GrantEnds,
        Reason::SignInFrequency,
        Reason::ScopePolicy,
        Reason::CredentialEnds,
    ];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::GrantIdle => "grant_idle",
            Reason::GrantEnds => "grant_ends",
            Reason::SignInFrequency => "sign_in_frequency",
            Reason::ScopePolicy => "scope_policy",
            Reason::CredentialEnds => "credential_ends",
        }
    }

    /// Who can do something about it: `user` (sign in again), `administrator` of the tenant, or `operator`.
    pub fn acts(self) -> &'static str {
        match self {
            Reason::GrantIdle | Reason::GrantEnds | Reason::SignInFrequency => "user",
            Reason::ScopePolicy => "administrator",
            Reason::CredentialEnds => "operator",
        }
    }
}

impl Certainty {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Certainty::Certain => "certain",
            Certainty::Likely => "likely",
            Certainty::Possible => "possible",
        }
    }
}

/// From now to the end of the forecast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Now.
    pub now: Timestamp,
    /// What begins later is not foreseen.
    pub until: Timestamp,
}

/// How long a grant lives without being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleLife {
    /// So long.
    pub lasts: Duration,
    /// How sure that is.
    pub certainty: Certainty,
}

/// What the daemon itself does against an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewals {
    /// A connection whose grant worked within this time is in use, and renewed with its tokens.
    pub in_use_within: Duration,
    /// An idle one is renewed at the latest so long after its grant last worked; `None`: the background
    /// renews nothing.
    pub idle_after: Option<Duration>,
    /// A grant that has not worked for so long beyond that is not being renewed, whatever was planned.
    pub overdue_by: Duration,
}

/// What is known of a connection's tenant and of its authority.
#[derive(Debug, Clone, Copy)]
pub struct Known<'k> {
    /// How long grants live without use; `None` where nobody says.
    pub idle_life: Option<IdleLife>,
    /// What the daemon does.
    pub renewals: Renewals,
    /// At which age of a sign-in grants were seen to end.
    pub frequency: Option<&'k Frequency>,
    /// Announced changes of the authority's policies.
    pub announced: &'k [Announced],
}

/// What is foreseen of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foreseen {
    /// Why.
    pub reason: Reason,
    /// How sure.
    pub certainty: Certainty,
    /// At the earliest; possibly past, if it has happened and nobody has asked the authority.
    pub from: Timestamp,
    /// At the latest.
    pub to: Timestamp,
    /// Which scope, for a policy.
    pub detail: Option<&'static str>,
}

/// What is foreseen of a connection within the window: each reason for which its user must act at most once,
/// and every policy that concerns it.
pub fn of_connection(profile: &Profile, known: &Known<'_>, window: Window) -> Vec<Foreseen> {
    if matches!(profile.status(), Status::NeedsReauthorization(_)) || profile.grant_destroyed() {
        return Vec::new();
    }
    let ends = [stated_end(profile, known, window.now), idle_end(profile, known, window.now)];
    let of_age = frequent_end(profile, known.frequency, window.now);
    let all = ends.into_iter().chain([of_age]).flatten();
    let mut foreseen: Vec<Foreseen> = all.filter(|one| one.from < window.until).collect();
    // A stated end that moves with each use is an idle end, too: the one that comes first counts.
    foreseen.sort_by_key(|one| (one.reason, one.from));
    foreseen.dedup_by_key(|one| one.reason);
    foreseen.extend(policies(profile, known.announced, window));
    foreseen
}

/// The end that the authority stated for the refresh token.
fn stated_end(profile: &Profile, known: &Known<'_>, now: Timestamp) -> Option<Foreseen> {
    let StatedEnd { at, moves } = profile.stated_end()?;
    let says = |reason, certainty| Foreseen { reason, certainty, from: at, to: at, detail: None };
    match moves {
        Some(false) => Some(says(Reason::GrantEnds, Certainty::Certain)),
        // The first renewal shows whether it moves.
        None => Some(says(Reason::GrantEnds, Certainty::Possible)),
        Some(true) => {
            let goes_on = is_used_before(profile, at, known.renewals, now);
            (!goes_on).then(|| says(Reason::GrantIdle, Certainty::Likely))
        }
    }
}

/// The end of a grant that is not used.
fn idle_end(profile: &Profile, known: &Known<'_>, now: Timestamp) -> Option<Foreseen> {
    let IdleLife { lasts, certainty } = known.idle_life?;
    let at = profile.last_refreshed_at().plus(lasts);
    let goes_on = is_used_before(profile, at, known.renewals, now);
    let idle = Foreseen { reason: Reason::GrantIdle, certainty, from: at, to: at, detail: None };
    (!goes_on).then_some(idle)
}

/// Whether the grant is used again before `end`, as far as that is planned.
fn is_used_before(profile: &Profile, end: Timestamp, renewals: Renewals, now: Timestamp) -> bool {
    if profile.status() != Status::Active {
        // A paused one is left alone. A blocked one is tried, in vain.
        return false;
    }
    let worked_at = profile.last_refreshed_at();
    let idle_for = now.since(worked_at);
    idle_for <= renewals.in_use_within
        || renewals.idle_after.is_some_and(|after| {
            worked_at.plus(after) < end && idle_for <= after.saturating_add(renewals.overdue_by)
        })
}

/// The end at an age of the sign-in that the tenant was seen to ask for.
fn frequent_end(profile: &Profile, frequency: Option<&Frequency>, now: Timestamp) -> Option<Foreseen> {
    let frequency = frequency?.as_of(now)?;
    let (signed_in_at, worked_at) = (profile.connected_at(), profile.last_refreshed_at());
    let to = signed_in_at.plus(frequency.at_most());
    // A grant that outlived the age is not meant by the policy.
    if worked_at >= to {
        return None;
    }
    let from = signed_in_at.plus(frequency.more_than()).max(worked_at);
    let certainty = frequency.certainty();
    Some(Foreseen { reason: Reason::SignInFrequency, certainty, from, to, detail: None })
}

fn policies(profile: &Profile, announced: &[Announced], window: Window) -> Vec<Foreseen> {
    let comes = |policy: &&Announced| window.now <= policy.at && policy.at < window.until;
    let concerns = |policy: &&Announced| profile.scopes_granted().iter().any(|scope| policy.names(scope));
    let foreseen = |policy: &Announced| Foreseen {
        reason: Reason::ScopePolicy,
        certainty: policy.certainty,
        from: policy.at,
        to: policy.at,
        detail: Some(policy.what),
    };
    announced.iter().filter(comes).filter(concerns).map(foreseen).collect()
}

#[cfg(test)]
mod tests;
