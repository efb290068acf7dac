//! Notices on their way out: in streams of callers, and to webhooks. (To the outside a notice is an event.)
//!
//! May know: `domain`, `repository`, `outbound`, and the values of `policy` that a stream is judged by. It
//! decides nothing about connections, and nothing waits for it.
//!
//! Invariants:
//! 1. A notice that a change wrote is delivered at least once, in order for one subject, or counted as
//!    undelivered when its time is over.
//! 2. How far a webhook is delivered is in the store, and only who has the lease goes on from there. What a
//!    process forgets is delivered once more, never left out.
//! 3. Memory is bounded by the number of webhooks and streams, whatever happens at their other ends.
//!
//! The one hard problem: an endpoint that fails says not why. So each failure makes the endpoint wait, and a
//! notice that failed often is set aside, so that it cannot hold up those of other subjects (`plan.rs`).

mod deliver;
mod endpoint;
mod feed;
mod plan;
mod signature;
mod standing;
mod wire;

pub use deliver::{Backlog, Deliveries, DeliveryObserver, Ports};
pub use endpoint::{Endpoint, EndpointFault, Outcome, Probed, Target, Wants, Webhook};
pub use feed::{Begun, Feed, Listening, Mark, Placed, Seen};
pub use signature::{BadSecret, Secrets};
pub use standing::{Standing, State};
pub use wire::body;
