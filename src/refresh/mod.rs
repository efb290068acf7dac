//! The refresh engine: a live access token for a connection, or for the app itself, with as few calls to the
//! authority as possible.
//!
//! It knows `domain`, the repository and the `Authority` port. It knows nothing of HTTP, callers or policies:
//! what a caller may have comes in as a function of the connection ([`Engine::serve`]).
//!
//! | file | job |
//! |---|---|
//! | `engine` | what others call; names the driver of each method |
//! | `serve`, `plan`, `way` | the loop of a request; its decision (pure); how it comes to a renewal |
//! | `look`, `cache` | comes by the cached connection; caches a state that became known |
//! | `renewals`, `turn`, `lease`, `tenant` | the occasions for a renewal; tenant's turn, lease; a tenant |
//! | `grant`, `call`, `answer` | one use of a grant; the call itself; what an answer makes of it (pure) |
//! | `durable` | makes an answer durable before it is served |
//! | `watch` | tells who watches a connection that it may have changed |
//! | `tenant_watch` | what was seen of tenants that block the app, or end grants by their age (pure) |
//! | `app_token` | tokens of the app itself: kept in memory, one call at a time for each |
//! | `schedule`, `due`, `sweep` | when a connection is due; renews due connections |
//! | `slot/` | the memory of a connection and its troubles (pure), flights, and all slots |
//!
//! Invariants:
//! 1. At most one call to the authority is under way for a connection, however many wait for it, on whichever
//!    of the replicas that share the store (I4).
//! 2. A renewal runs in a task of its own: no waiter's end ends it.
//! 3. A new refresh token is stored before any token of its answer is served (I6). If it cannot be stored it
//!    stays in memory, and is stored before anything else is done for that connection.
//! 4. Only a verdict on the *current* grant changes a connection's status. The authority said it, or
//!    `unclear` worked it out; it is committed under the lease, and expects the revision that it was about
//!    (I5, I9).
//! 5. A live token is served when its renewal fails.
//! 6. What one caller brings (a challenge, reports, a throttle that these provoke) changes nothing that other
//!    callers are served, and takes nothing of their part (`claims`, `forced`, `budget`).
//!
//! The hard problem: an answer that is lost, late or unwanted. `plan` says what to do, `serve` does it, and
//! asks `plan` again after every await.
//!
//! Between replicas the right to use a grant is a `lease`. Its nonce goes along with the commit, so that a
//! replica that lost the lease cannot overwrite. Replicas that wait for another's renewal are told when it is
//! done.

mod answer;
mod app_token;
mod backoff;
mod breaker;
mod budget;
mod cache;
mod call;
mod census;
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
mod granted;
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
mod tenant_watch;
#[cfg(test)]
mod tests;
mod turn;
mod turns;
mod unclear;
mod uti;
mod watch;
mod way;

pub(crate) use answer::held_token;
pub use app_token::{AppTokenKey, NoAppToken, ServedAppToken};
pub use breaker::OpenBreaker;
pub use census::Changes;
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
pub use serve::{Refused, Served, TokenSource};
pub use slot::Held;
pub use tenant_watch::Untold;
pub use watch::Watched;
