//! The refresh engine: a live access token for a connection, with as few calls to the authority as there can
//! be.
//!
//! May know: `domain`, the repository, the `Authority` port. Knows nothing of HTTP, callers or policies: what
//! a caller may have comes in as a function of the connection ([`Engine::serve`]).
//!
//! Invariants:
//! 1. At most one call to the authority is under way for a connection, however many wait for it, in whichever
//!    of the
//!    replicas that share the store (I4).
//! 2. A refresh runs in a task of its own: no waiter's end ends it.
//! 3. A new refresh token is stored before any token of its answer is served (I6). If it cannot be stored it
//!    is held,
//!    and stored before anything else is done for that connection.
//! 4. Only a verdict on the *current* grant, said by the authority or worked out by `unclear`, changes a
//!    connection, and
//!    only by a commit that expects the revision the verdict was about, under the lease (I5, I9).
//! 5. A token that still lives is served when its refresh fails.
//! 6. What one caller brings (a challenge, reports, a throttle that these provoke) changes nothing that
//!    others are served, and
//!    takes nothing of what is theirs (`claims`, `forced`, `budget`).
//!
//! The one hard problem: an answer that is lost, late or unwanted. `plan` is pure and says what to do;
//! `engine` does it, and asks `plan` again after every await.
//!
//! Between replicas the right to use a grant is a `lease`; its nonce goes along with the commit, so that
//! whoever lost it loses. Replicas that wait for another's refresh are told when it is done.

mod answer;
mod backoff;
mod breaker;
mod budget;
mod cache;
mod call;
mod claims;
#[cfg(test)]
mod combination;
pub mod due;
mod durable;
mod engine;
mod failure;
mod fly;
mod forced;
mod grant;
mod idle_limits;
mod kept;
mod lease;
mod look;
mod observer;
mod permit;
pub mod plan;
mod ports;
mod renewals;
mod revoked;
mod schedule;
mod serve;
mod slot;
mod sweep;
mod tenant;
#[cfg(test)]
mod tests;
mod turn;
mod turns;
mod unclear;
mod way;

pub(crate) use answer::held_token;
pub use claims::{Claims, ClaimsProblem};
#[cfg(test)]
pub(crate) use combination::Combination;
pub use engine::Engine;
pub use failure::Failure;
pub(crate) use grant::warn_of_remarks;
pub use observer::{LeaseOutcome, Lookup, Observer, Swept};
pub use permit::CallPermit;
pub use plan::Want;
pub use ports::{Deps, EngineApp, Settings};
pub use serve::{Refused, Served};
pub use slot::Held;

pub(crate) use crate::repository::sha256_hex;
