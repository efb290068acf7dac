//! The refresh engine: a live access token for a connection, with as few calls to the authority as there can be.
//!
//! May know: `domain`, the repository, the `Authority` port. Knows nothing of HTTP, callers or policies: what a caller
//! may have comes in as a function of the connection ([`Engine::serve`]).
//!
//! Invariants:
//! 1. At most one call to the authority is under way for a connection, however many wait for it, in whichever of the
//!    replicas that share the store (I4).
//! 2. A refresh runs in a task of its own: no waiter's end ends it.
//! 3. A new refresh token is stored before any token of its answer is served (I6). If it cannot be stored it is held,
//!    and stored before anything else is done for that connection.
//! 4. Only a verdict on the *current* grant, said by the authority or worked out by `unclear`, changes a connection, and
//!    only by a commit that expects the revision the verdict was about, under the lease (I5, I9).
//! 5. A token that still lives is served when its refresh fails.
//! 6. What one caller brings (a challenge, reports, a throttle that these provoke) changes nothing that others are served, and
//!    takes nothing of what is theirs (`claims`, `forced`, `budget`).
//!
//! The one hard problem: an answer that is lost, late or unwanted. `plan` is pure and says what to do; `engine` does
//! it, and asks `plan` again after every await.
//!
//! Between replicas the right to use a grant is a `lease`; its nonce goes along with the commit, so that whoever lost it
//! loses. Replicas that wait for another's refresh are told when it is done.

mod backoff;
mod breaker;
mod budget;
mod claims;
#[cfg(test)]
mod combination;
pub mod due;
mod engine;
mod forced;
mod kept;
mod lease;
mod permit;
pub mod plan;
mod renew;
mod slots;
mod sweep;
mod turns;
mod unclear;
mod way;
mod weight;

pub use claims::{Claims, ClaimsProblem};
#[cfg(test)]
pub(crate) use combination::Combination;
pub use engine::{Deps, Engine, EngineApp, Refused, Served, Settings};
pub use permit::CallPermit;
pub use plan::Want;
pub(crate) use renew::{held_token, warn_of_remarks};

pub(crate) use crate::repository::sha256_hex;
pub use slots::{Failure, Held};
pub use sweep::Swept;

use std::time::Duration;

use crate::domain::cause::Cause;
use crate::domain::connection::Status;
use crate::domain::id::AppName;

/// What a look for a token in memory found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// A token with enough life left.
    Hit,
    /// A token that is served while it is renewed.
    Stale,
    /// No token to serve.
    Miss,
}

/// What became of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// This replica has it.
    Acquired,
    /// Another replica has it.
    Held,
    /// The store did not answer.
    Unreachable,
    /// It passed to another replica while this one used it.
    Lost,
}

/// Told of what the engine does; telemetry listens.
pub trait Observer: Send + Sync {
    /// A token was looked for in memory.
    fn cache_lookup(&self, result: Lookup);
    /// A call to the authority for a connection ended; `outcome` is `ok` or a disposition's word.
    fn refreshed(&self, app: &AppName, outcome: &'static str, elapsed: Duration);
    /// A verdict of the authority changed a connection.
    fn judged(&self, app: &AppName, tenant: Option<&str>, status: Status);
    /// A round of the sweep was made.
    fn swept(&self, swept: Swept);
    /// A call that nobody waits for who has no token was begun, or had to wait because the budget was used up.
    fn budgeted(&self, cause: Cause, is_begun: bool);
    /// A lease was tried for, or lost while it was used.
    fn lease(&self, outcome: LeaseOutcome);
}
