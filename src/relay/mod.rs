//! The relay's rules and texts: what a request is in its one canonical form, which rule covers it, which of
//! its fields pass, and which links of an answer lead back. Pure: text in, text or verdict out.
//!
//! May know: std and small data crates. It knows no room, no HTTP client and no token.
//!
//! Invariants:
//! 1. What was judged is what is sent: path and query go upstream as they are written anew from what was read
//!    ([`Asked::target`]), never as they came.
//! 2. A path or a query that can be read in two ways is refused, never repaired.
//! 3. Only what a rule covers is covered ([`RelayRule::covers`]). No rule takes anything away.
//! 4. What a query reaches beyond its path (`$expand`) is judged like a request of its own.
//! 5. No field of a caller reaches the resource that says who asks, by which way, or as which method.
//!
//! The one hard problem: the resource decides by its own reading of a URL, and it is not ours to see. So the
//! forms that readers disagree about are not interpreted; they are refused, and the rest is written in the
//! one form about which nobody disagrees.

mod asked;
mod base;
mod batch;
mod challenge;
mod expand;
mod fields;
mod links;
mod mailbox;
mod option;
mod path;
#[cfg(any(test, feature = "testkit"))]
pub mod properties;
mod query;
#[cfg(test)]
mod reference_tests;
mod rule;
mod shape;
mod throttled;

pub use asked::{Asked, Beyond, Method, Miswritten, Odd};
pub use base::Base;
pub use batch::{Batch, BatchFault, Injector, Plan};
pub use challenge::claims;
pub use fields::{for_caller, for_resource};
pub use links::{Links, Rewriter};
pub use mailbox::{Owner, mailbox};
pub use option::QueryFault;
pub use path::{CanonicalPath, PathFault};
pub use query::Query;
pub use rule::{RelayRule, RuleFault};
pub use shape::shape;
pub use throttled::{Later, Throttled};
